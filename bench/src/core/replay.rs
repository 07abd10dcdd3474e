//! The same packets out of the same file for ever, for the relay and for its peers: one net_pcap device with `infinite_rx=1`
//! that copies each packet of the file into a buffer, and drops what is sent to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use forwarder::config::Config;
use forwarder::dpdk::{DpdkIo, Port};
use forwarder::wire::Mac;

use super::frames::{Frames, Visits};
use super::relay::{self, HOT};
use super::row::{self, Figure, Settings};
use crate::topology::Workdir;

/// Connections in the file, a packet each.
pub(super) const CONNECTIONS: u32 = 1000;
/// The address net_pcap gives its first device.
const PCAP_MAC: Mac = Mac([2, 0x70, 0x63, 0x61, 0x70, 0]);
/// Turns between looks at the clock.
const TURNS: u32 = 256;

/// A capture file (libpcap's classic format, microseconds, Ethernet) of `count` packets taken in turn from connections
/// `0..connections`, in the order of [`Visits`].
pub(super) fn capture(connections: u32, count: u32) -> Vec<u8> {
    let frames = Frames::new(&HOT.shape, PCAP_MAC);
    let mut visits = Visits::new(connections);
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1u32] {
        file.extend(word.to_ne_bytes());
    }
    for _ in 0..count {
        let frame = frames.frame(visits.next());
        let len = frame.len() as u32;
        for word in [0, 0, len, len] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(frame);
    }
    file
}

/// Writes the file of all rows into `dir`.
pub(super) fn write(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("packets.pcap");
    std::fs::write(&path, capture(CONNECTIONS, CONNECTIONS))
        .with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(path)
}

/// DPDK's text for the device that reads `file`.
pub(super) fn device(file: &Path) -> String {
    format!("net_pcap0,rx_pcap={},infinite_rx=1", file.display())
}

/// One port, out of which packets leave again, as they do in the peers.
fn config() -> Result<Config> {
    let text = format!(
        r#"
[addresses]
check = "off"
[[port]]
name = "pcap"
device = "vdev:net_pcap0"
addresses = ["10.1.0.1/24", "fd01::1/64"]
gateway = ["10.1.0.2", "fd01::2"]
[[neighbor]]
port = "pcap"
address = "10.1.0.2"
mac = "02:00:00:00:01:02"
[[neighbor]]
port = "pcap"
address = "10.1.0.3"
mac = "02:00:00:00:02:02"
{}"#,
        relay::flows(CONNECTIONS, ["10.1.0.3", "[fd01::3]"], "")
    );
    Ok(Config::parse(&text, "s2bench core")?)
}

/// Million packets a second of processor time: what a core does that nobody else uses.
pub(super) fn relay(settings: &Settings) -> Result<Figure> {
    let dir = Workdir::new()?;
    let file = write(dir.path())?;
    let config = Arc::new(config()?);
    let (eal, pool) = relay::start(settings.core, settings.huge, 1500)?;
    let (port, queues) = Port::open(&eal, relay::port_settings(&config, 0, &device(&file), 1024), &pool)?;
    ensure!(
        port.mac() == PCAP_MAC.0,
        "net_pcap has the address {:x?}, which its packets are not for",
        port.mac()
    );
    let io = DpdkIo::new(queues, Arc::clone(&pool));
    let (mut worker, _gateway) = relay::worker(config, &[port], io, &eal, settings.core)?;
    let counters = Arc::clone(worker.engine().counters());
    // The first time round every packet opens its connection.
    while counters.received() < 100 * u64::from(CONNECTIONS) {
        worker.turn();
    }
    let (received, sent, cpu, began) =
        (counters.received(), counters.sent(), row::thread_time()?, Instant::now());
    while began.elapsed() < settings.window() {
        for _ in 0..TURNS {
            worker.turn();
        }
    }
    let seconds = row::thread_time()? - cpu;
    let (received, sent) = (counters.received() - received, counters.sent() - sent);
    ensure!(received == sent, "of {received} packets {sent} were relayed");
    let hz = forwarder::dpdk::tsc_hz(&eal) as f64;
    Ok(Figure::of(received as f64 / seconds / 1e6).with("cycles", hz * seconds / received as f64))
}
