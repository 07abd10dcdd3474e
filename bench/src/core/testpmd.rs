//! DPDK's testpmd as a peer.

use anyhow::{Context, Result};

use super::peer::Peer;
use super::replay;
use super::row::{Figure, Settings};
use crate::topology::{Workdir, find_tool};

/// What all runs have in common. One lcore forwards; the main one only waits, and may share its core.
const COMMON: [&str; 4] = ["--nb-cores=1", "--burst=32", "--total-num-mbufs=8192", "--port-topology=loop"];

fn start(settings: &Settings, mode: &str, device: String, more: &[&str], dir: Workdir) -> Result<Peer> {
    let program = find_tool("dpdk-testpmd")
        .context("dpdk-testpmd cannot be started; it comes with Debian's package dpdk: run `make deps`")?;
    let lcores = format!("0@{},1@{}", settings.other_core(), settings.core);
    let mode = format!("--forward-mode={mode}");
    let arguments = [&COMMON[..], &[&mode], more].concat();
    Peer::start("testpmd", &program, settings, &lcores, &[device], &arguments, dir)
}

/// Cycles a packet, as testpmd counts them, of 32 packets that circulate over one net_ring port.
pub(super) fn hot(settings: &Settings, mode: &str) -> Result<Figure> {
    let more = ["--tx-first", "--record-core-cycles"];
    let mut peer = start(settings, mode, "net_ring0".to_owned(), &more, Workdir::new()?)?;
    peer.flowing(0)?;
    std::thread::sleep(settings.window());
    let said = peer.stop()?.stdout;
    Ok(Figure::of(
        cycles(&said).with_context(|| format!("testpmd did not tell its cycles; it wrote: {said}"))?,
    ))
}

fn cycles(said: &str) -> Option<f64> {
    said.split("CPU cycles/packet=").nth(1)?.split_whitespace().next()?.parse().ok()
}

/// Million packets a second of processor time, of the file's packets.
pub(super) fn replay(settings: &Settings, mode: &str) -> Result<Figure> {
    let dir = Workdir::new()?;
    let device = replay::device(&replay::write(dir.path())?);
    let mut peer = start(settings, mode, device, &[], dir)?;
    let rate = peer.rate(0, 0, settings)?;
    Ok(Figure::of(rate.per_second / 1e6).with("sent", rate.sent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_cycles_is_found_in_what_testpmd_says() {
        let said = "  CPU cycles/packet=20.55 (total cycles=1 / total 5tswap packets=2) at 2600 MHz Clock\n";
        assert_eq!(cycles(said), Some(20.55));
        assert_eq!(cycles("  RX-packets: 0\n"), None);
    }
}
