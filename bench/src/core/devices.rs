//! s2ds beside testpmd io on the kernel's devices: the same veth pairs, the same arguments, one direction.
//!
//! ```text
//! generator g0 ==veth== f0 forwarder f1 ==veth== s0 sink
//! ```
//!
//! testpmd txonly on one core sends valid packets of one flow as fast as it can; the forwarder has the other core. What counts
//! is what arrives at the far veth end. s2ds does its whole work meanwhile, testpmd none but receiving and sending.
//!
//! Sending on one core costs the kernel nearly as much as forwarding on the other. Where all that is offered arrives, the
//! generator was the limit, the rates cannot differ by much, and `cycles` tells the forwarders apart.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::row::{self, Figure};
use crate::topology::{Driver, Gateway, Netns, Process, Workdir};
use anyhow::{Context, Result, ensure};

/// Packets a second that s2ds passes, and testpmd on the same device.
pub(super) fn beside_testpmd(s: &row::Settings, driver: Driver) -> Result<Figure> {
    let settings = Settings {
        driver,
        windows: if s.quick { 1 } else { 10 },
        window: Duration::from_millis(250),
        size: 64,
        generator: s.other_core(),
        core: s.core,
    };
    let ran = |ours, name| once(&settings, ours).with_context(|| format!("{name} over {}", driver.name()));
    let (s2ds, testpmd) = (ran(true, "s2ds")?, ran(false, "testpmd")?);
    Ok(Figure::of(s2ds.passed)
        .with("testpmd", testpmd.passed)
        .with("offered", s2ds.offered)
        .with("offered_testpmd", testpmd.offered)
        .with("cycles", s2ds.cycles)
        .with("cycles_testpmd", testpmd.cycles))
}

/// How to measure.
#[derive(Debug, Clone)]
struct Settings {
    /// Devices of the forwarder.
    driver: Driver,
    /// Windows of a run; the best one counts.
    windows: usize,
    /// How long packets are counted in a window.
    window: Duration,
    /// Bytes of a frame, without FCS.
    size: u16,
    /// Core of the generator, and of what is not packets.
    generator: usize,
    /// Core of the forwarder.
    core: usize,
}

const BURST: u16 = 32;
/// s2ds's own: descriptors a queue, and mbufs and cache for two ports and one worker.
const DESCRIPTORS: u16 = 1024;
const MBUFS: u32 = 7168;
const CACHE: u16 = 256;
const MTU: u16 = 1500;
const IN_MAC: &str = "02:00:00:00:81:01";
/// Packets run in before they are counted.
const WARM_UP: Duration = Duration::from_millis(500);
const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(15);

/// One run: packets a second, and cycles a packet.
struct Ran {
    offered: f64,
    passed: f64,
    cycles: f64,
}

/// The device as testpmd is told of it: what s2ds makes of `af_packet:f0` and its like.
fn device(settings: &Settings, n: usize) -> String {
    match settings.driver {
        Driver::AfPacket => {
            format!("net_af_packet{n},iface=f{n},qpairs=1,blocksz=4096,framesz=2048,framecnt=2048")
        }
        Driver::AfXdp => format!("net_af_xdp{n},iface=f{n},start_queue=0,queue_count=1"),
        Driver::Pcap => format!("net_pcap{n},rx_iface_in=f{n},tx_iface=f{n}"),
    }
}

/// Runs one forwarder between a generator and a sink of its own.
fn once(settings: &Settings, ours: bool) -> Result<Ran> {
    let dir = Arc::new(Workdir::new()?);
    let generator = Netns::new("generator", Arc::clone(&dir))?;
    let forwarder = Netns::new("forwarder", Arc::clone(&dir))?;
    let sink = Netns::new("sink", dir)?;
    generator.join("g0", &forwarder, "f0", MTU)?;
    forwarder.join("f1", &sink, "s0", MTU)?;
    forwarder.ip(&format!("link set f0 address {IN_MAC}"))?;
    for (netns, device) in [(&generator, "g0"), (&forwarder, "f0"), (&forwarder, "f1"), (&sink, "s0")] {
        netns.silence(device)?;
    }
    // Held until packets are counted.
    let (mut gateway, mut testpmd) = (None, None);
    if ours {
        gateway = Some(Gateway::start(forwarder, &config(settings))?);
    } else {
        testpmd =
            Some((start(&forwarder, settings.core, &vdevs(settings), &["--forward-mode=io"])?, forwarder));
    }
    let length = format!("--txpkts={}", settings.size);
    let peer = format!("--eth-peer=0,{IN_MAC}");
    let how = ["--forward-mode=txonly", &length, &peer, "--tx-ip=10.81.0.2,10.81.0.1", "--tx-udp=4000,5000"];
    // The faster of the kernel's devices: what is to be measured should be the limit, not this.
    let out = "net_af_xdp0,iface=g0,start_queue=0,queue_count=1";
    let mut txonly = start(&generator, settings.generator, &["--vdev", out], &how)?;
    std::thread::sleep(WARM_UP);
    let look =
        || Ok::<_, anyhow::Error>((Instant::now(), packets(&generator, "g0")?.1, packets(&sink, "s0")?.0));
    let mut best = (0.0, 0.0);
    let mut before = look()?;
    for _ in 0..settings.windows {
        std::thread::sleep(settings.window);
        let now = look()?;
        let rate = |from: u64, to: u64| (to - from) as f64 / (now.0 - before.0).as_secs_f64();
        let (offered, passed) = (rate(before.1, now.1), rate(before.2, now.2));
        if passed > best.1 {
            best = (offered, passed);
        }
        before = now;
    }
    txonly.stop(STOP)?;
    let mut cycles = None;
    let mut said = String::new();
    if let Some(gateway) = &mut gateway {
        let stats = gateway.stats()?;
        let busy: u64 = stats.workers.iter().map(|w| w.busy_cycles).sum();
        cycles = Some(busy as f64 / stats.received as f64);
        said = format!("{:?}", stats.drops.iter().filter(|(_, n)| **n > 0).collect::<Vec<_>>());
        gateway.stop()?;
    }
    if let Some((testpmd, _)) = &mut testpmd {
        testpmd.stop(STOP)?;
        said = testpmd.output()?.stdout;
        let after = said.split("CPU cycles/packet=").nth(1);
        cycles = after.and_then(|t| t.split_whitespace().next()?.parse().ok());
    }
    let (offered, passed) = best;
    ensure!(passed > 0.0, "no packet passed; {said}");
    let cycles = cycles.with_context(|| format!("it did not tell its cycles; it wrote: {said}"))?;
    Ok(Ran { offered, passed, cycles })
}

fn vdevs(settings: &Settings) -> Vec<String> {
    (0..2).flat_map(|n| ["--vdev".to_owned(), device(settings, n)]).collect()
}

/// Starts testpmd with one forwarding core, and waits until it forwards.
fn start<S: AsRef<str>>(netns: &Netns, core: usize, devices: &[S], mode: &[&str]) -> Result<Process> {
    let lcores = format!("0@0,1@{core}");
    let mut args =
        vec!["--no-huge", "--no-shconf", "-m", "256", "--no-pci", "--no-telemetry", "--lcores", &lcores];
    args.extend(devices.iter().map(AsRef::as_ref));
    let numbers = [
        format!("--burst={BURST}"),
        format!("--rxd={DESCRIPTORS}"),
        format!("--txd={DESCRIPTORS}"),
        format!("--total-num-mbufs={MBUFS}"),
        format!("--mbcache={CACHE}"),
    ];
    // With a period to tell statistics in, testpmd does not end at the end of its input.
    args.extend(["--", "--nb-cores=1", "--auto-start", "--stats-period=3600", "--record-core-cycles"]);
    args.extend(numbers.iter().map(String::as_str));
    args.extend(mode);
    let mut process = netns.spawn(Path::new("dpdk-testpmd"), &args)?;
    process.wait_for("packet forwarding", START)?;
    Ok(process)
}

fn config(settings: &Settings) -> String {
    let (driver, core) = (settings.driver.name(), settings.core);
    format!(
        r#"
[eal]
huge = false
[[port]]
name = "in"
device = "{driver}:f0"
addresses = ["10.81.0.1/24"]
[[port]]
name = "out"
device = "{driver}:f1"
addresses = ["10.82.0.1/24"]
[[neighbor]]
port = "in"
address = "10.81.0.2"
mac = "02:00:00:00:81:02"
[[neighbor]]
port = "out"
address = "10.82.0.2"
mac = "02:00:00:00:82:02"
[workers]
cores = [{core}]
idle = "poll"
[[flow]]
name = "measured"
proto = "udp"
listen = "10.81.0.1:5000"
target = "10.82.0.2:5000"
from = ["10.81.0.2/32"]
"#
    )
}

/// Packets that a device has received and sent.
fn packets(netns: &Netns, device: &'static str) -> Result<(u64, u64)> {
    let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
    let counts = text.lines().find_map(|l| l.trim().strip_prefix(device)?.strip_prefix(':'));
    let counts: Vec<u64> = counts.unwrap_or("").split_whitespace().filter_map(|n| n.parse().ok()).collect();
    // Received bytes, packets and six more; then the same of what was sent.
    match counts[..] {
        [_, received, _, _, _, _, _, _, _, sent, ..] => Ok((received, sent)),
        _ => anyhow::bail!("the kernel tells no counters of {device}"),
    }
}
