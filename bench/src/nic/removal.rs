//! A device that goes while the forwarder runs.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::frames::{Frames, passes};
use super::report::Found;

/// How long the guest may take to let go of a device.
const GONE: Duration = Duration::from_secs(30);

/// Unplugs `nic`, which is the device of the port `spare`.
pub(super) fn removal(f: &mut Frames, nic: usize) -> Result<Found> {
    passes(f)?;
    f.relay.guest.unplug(nic)?;
    let gone = f.relay.guest.unplugged(nic, GONE)?;
    f.relay.alive()?;
    passes(f)?;
    let (said, ports) = (f.relay.said(), f.relay.ports()?);
    let about: Vec<&str> = said.lines().filter(|line| line.contains("spare")).collect();
    let shown = ports.iter().find(|p| p.name == "spare").map(|p| p.link.clone()).unwrap_or_default();
    ensure!(
        gone,
        "the guest has not let go of the device after {GONE:?}: s2ds holds it; port list shows {shown:?}; s2ds wrote: {said}"
    );
    ensure!(!about.is_empty(), "s2ds wrote nothing of the port's end: {said}");
    Ok(Found::Holds(format!("s2ds says `{}`; the other ports go on", about.join("; "))))
}
