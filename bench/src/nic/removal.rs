//! A device that goes while the forwarder runs, and comes back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use forwarder::api::PortInfo;

use super::frames::{Frames, passes};
use super::report::Found;

/// How long the guest may take to let go of a device.
const GONE: Duration = Duration::from_secs(30);
/// How long a port may take to show what became of its device.
const SHOWN: Duration = Duration::from_secs(20);

/// Unplugs `nic`, which is the device of the port `spare`, and plugs it in again.
pub(super) fn removal(f: &mut Frames, nic: usize) -> Result<Found> {
    passes(f)?;
    f.relay.guest.unplug(nic)?;
    let gone = f.relay.guest.unplugged(nic, GONE)?;
    f.relay.alive()?;
    ensure!(gone, "s2ds holds the device {GONE:?} after it was to go; it wrote: {}", f.relay.said());
    let failed = shown(f, "that it has failed", |p| p.link == "failed")?;
    let failure = failed.failure.context("the port's link is `failed` and nothing tells why")?;
    passes(f).context("the other ports do not go on")?;
    let said = f.relay.said();
    ensure!(said.contains("port spare failed: "), "s2ds wrote nothing of the port's end: {said}");

    f.relay.guest.plug(nic)?;
    let end = Instant::now() + SHOWN;
    // The guest's kernel shows it in several places, one after the other.
    while let Err(e) = f.relay.guest.give_to_programs([nic]) {
        ensure!(Instant::now() < end, "the guest does not take a NIC that was plugged in: {e:#}");
        std::thread::sleep(Duration::from_millis(200));
    }
    shown(f, "that it is back", |p| p.link != "failed" && p.failure.is_none())?;
    passes(f)?;
    f.relay.alive()?;
    Ok(Found::Holds(format!(
        "the port says `{}`, the others go on; plugged in again it is back in use",
        failure.why
    )))
}

/// Waits until the port shows what is wanted.
fn shown(f: &mut Frames, what: &str, wanted: impl Fn(&PortInfo) -> bool) -> Result<PortInfo> {
    let end = Instant::now() + SHOWN;
    loop {
        let port = f.relay.port("spare")?;
        if wanted(&port) {
            return Ok(port);
        }
        let failure = &port.failure;
        ensure!(
            Instant::now() < end,
            "port list does not show {what}: {} {failure:?}; s2ds wrote: {}",
            port.link,
            f.relay.said()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}
