//! Made-up runs: plain ones with known figures, and a whole comparison that looks like a real one.

use std::collections::BTreeMap;

use bench::host::Host;
use bench::result::{
    Approach, Cpu, Distribution, End, Interval, Label, Ledger, Omitted, PathFacts, Run, Series, Stall, Start,
    Sums, histogram,
};
use bench::stream::Carrier;
use rand::{Rng, RngExt as _, SeedableRng};
use rand_distr::{Distribution as _, LogNormal};
use rand_pcg::Pcg64;

/// What a made-up run is like.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    /// Goodput in bits a second.
    pub(crate) rate: f64,
    /// What the approach adds to each delay, as median, in nanoseconds.
    pub(crate) delay: f64,
    /// How wide its distribution is: the deviation of the logarithm.
    pub(crate) width: f64,
    /// Processor seconds a GB; none for the kernel's own.
    pub(crate) cpu: Option<f64>,
}

pub(crate) fn host() -> Host {
    Host {
        date: "2026-11-26T09:30:00Z".into(),
        machine: "PowerEdge R7515".into(),
        cores: 2,
        memory_gib: 23,
        cpu: "AMD EPYC 7313P 16-Core Processor".into(),
        kernel: "Linux 6.18.44".into(),
        governor: "performance".into(),
        load: Some(0.04),
        numa_nodes: 1,
        dpdk: "22.11.11".into(),
        version: "0.1.0".into(),
        commit: "2a7e17a00000".into(),
    }
}

pub(crate) fn path(preset: &str, rtt_ms: f64, loss_percent: f64) -> PathFacts {
    PathFacts {
        preset: Some(preset.into()),
        rtt_ms,
        bits_per_second: Some(10_000_000_000),
        loss_percent,
        mtu: 9000,
        by: "s2bench wan".into(),
    }
}

pub(crate) fn start(approach: &str, profile: &str, path: &PathFacts, round: u32) -> Start {
    let parameters = match profile {
        "bulk" => BTreeMap::from([("message".to_owned(), 131_072.into()), ("rate".to_owned(), "max".into())]),
        _ => BTreeMap::from([
            ("message".to_owned(), 1_048_576.into()),
            ("rate".to_owned(), "100/s".into()),
            ("deadline".to_owned(), "100ms".into()),
        ]),
    };
    Start {
        version: "s2bench 0.1.0".into(),
        label: Label::Measured,
        host: host(),
        carrier: Carrier::Tcp,
        profile: profile.into(),
        parameters,
        omit: 0,
        connections: 4,
        connecting_to: "10.1.0.1:5000".into(),
        approach: Some(Approach {
            name: approach.into(),
            version: format!("{approach} 1.2.3"),
            settings: vec![format!("{approach} --config /run/{approach}.conf"), "threads 1".into()],
        }),
        path: Some(path.clone()),
        round: Some(round),
        same_clock: true,
        socket_buffer: Some(64 << 20),
    }
}

/// A run without a single message.
pub(crate) fn empty(approach: &str, profile: &str, path: &PathFacts, round: u32) -> Run {
    Run { start: start(approach, profile, path, round), intervals: Vec::new(), end: End::default() }
}

/// A distribution whose percentiles are all this one value, in nanoseconds.
pub(crate) fn flat(ns: u64) -> Distribution {
    let mut h = histogram();
    h.record_n(ns, 20_000).unwrap();
    Distribution::of(&h, 0)
}

/// A run of which the goodput, the p99.9 of the variation and the processor time are known.
pub(crate) fn known(approach: &str, profile: &str, round: u32, rate: f64, variation: u64) -> Run {
    let mut run = empty(approach, profile, &path("metro", 5.0, 0.0), round);
    let sum = Sums {
        seconds: 10.0,
        end: 10.0,
        bytes: (rate * 10.0 / 8.0) as u64,
        bits_per_second: rate,
        packets: 1000,
        ..Sums::default()
    };
    run.end.sum_received = sum.clone();
    run.end.sum_sent = sum;
    run.end.delay = flat(variation + 2_500_000);
    run.end.variation = flat(variation);
    run.end.jitter = flat(variation / 2);
    run
}

pub(crate) fn series(runs: Vec<Run>) -> Series {
    Series { title: "s2bench compare".into(), runs, omitted: Vec::new(), partial: false, error: None }
}

/// Approach, share of the link it reaches, delay added (ns), width of its logarithm, processor seconds a GB.
const KINDS: [(&str, f64, f64, f64, Option<f64>); 11] = [
    ("direct", 0.94, 1.0, 0.2, None),
    ("nftables", 0.91, 4_000.0, 0.35, None),
    ("haproxy", 0.62, 70_000.0, 0.8, Some(0.62)),
    ("nginx", 0.57, 85_000.0, 0.85, Some(0.7)),
    ("stunnel", 0.28, 190_000.0, 0.9, Some(1.9)),
    ("socat", 0.41, 120_000.0, 1.0, Some(1.1)),
    ("naive", 0.22, 900_000.0, 0.9, Some(2.6)),
    ("s2ds-af_packet-poll", 0.71, 9_000.0, 0.4, Some(1.3)),
    ("s2ds-af_packet-adaptive", 0.7, 11_000.0, 0.55, Some(0.9)),
    ("s2ds-af_xdp-poll", 0.86, 4_500.0, 0.3, Some(1.1)),
    ("s2ds-af_xdp-adaptive", 0.85, 5_500.0, 0.4, Some(0.7)),
];

/// A comparison of eleven approaches over three paths, `rounds` rounds, a paced profile and one as fast as it goes.
pub(crate) fn comparison(rounds: u32) -> Series {
    let mut rng = Pcg64::seed_from_u64(6);
    let paths =
        [path("metro", 5.0, 0.0), path("starlight-dallas", 20.0, 0.0), path("transatlantic", 119.0, 0.001)];
    let mut runs = Vec::new();
    for path in &paths {
        for profile in ["light-source", "bulk"] {
            for round in 1..=rounds {
                for (name, share, delay, width, cpu) in KINDS {
                    let fall =
                        1.0 / (1.0 + path.rtt_ms / if name.starts_with("s2ds") { 400.0 } else { 150.0 });
                    let rate = if profile == "light-source" { 838_860_800.0 } else { 10e9 * share * fall };
                    let rate = rate.min(10e9 * share * fall) * rng.random_range(0.97..1.0);
                    runs.push(run(
                        name,
                        profile,
                        path,
                        round,
                        &Figures { rate, delay, width, cpu },
                        &mut rng,
                    ));
                }
            }
        }
    }
    let omitted = ["haproxy", "stunnel", "naive"].map(|approach| Omitted {
        approach: approach.into(),
        profile: "light-source".into(),
        carrier: Carrier::Udp,
        why: format!("cannot carry udp: {approach} relays TCP and no datagrams"),
    });
    Series { title: format!("s2bench compare --rounds {rounds}"), omitted: omitted.into(), ..series(runs) }
}

/// A run with distributions, seconds, stalls and a ledger.
pub(crate) fn run(
    name: &str,
    profile: &str,
    path: &PathFacts,
    round: u32,
    figures: &Figures,
    rng: &mut impl Rng,
) -> Run {
    let mut run = empty(name, profile, path, round);
    let base = path.rtt_ms / 2.0 * 1e6;
    let (noise, own) =
        (LogNormal::new(8.5f64, 0.6).unwrap(), LogNormal::new(figures.delay.ln(), figures.width).unwrap());
    let (mut delay, mut variation, mut jitter) = (histogram(), histogram(), histogram());
    let mut before = None;
    let queue = if profile == "bulk" { 4.0 } else { 1.0 };
    for _ in 0..20_000 {
        let extra = (noise.sample(rng) + own.sample(rng)) * queue;
        delay.record((base + extra) as u64).unwrap();
        variation.record(extra as u64).unwrap();
        if let Some(before) = before.replace(extra) {
            jitter.record((extra - before).abs() as u64).unwrap();
        }
    }
    let stalls = if name == "naive" || name == "socat" { 2 } else { 0 };
    run.end.stalls = (0..stalls)
        .map(|n| Stall { socket: n, start: 3.2 + f64::from(n) * 4.1, seconds: 0.4 + f64::from(n) * 0.5 })
        .collect();
    for second in 0..15u32 {
        let stalled =
            run.end.stalls.iter().find(|s| s.start as u32 == second).map_or(0.0, |s| s.seconds.min(0.9));
        let rise = (f64::from(second + 1) / (1.0 + path.rtt_ms / 40.0)).min(1.0);
        let rate = figures.rate * (1.0 - stalled) * rise * rng.random_range(0.96..1.0);
        let sums = |socket: Option<u32>, rate: f64| Sums {
            socket,
            start: f64::from(second),
            end: f64::from(second + 1),
            seconds: 1.0,
            bytes: (rate / 8.0) as u64,
            bits_per_second: rate,
            jitter_ms: figures.delay / 1e6,
            packets: 25,
            delay_p50: Some((base + figures.delay) as i64),
            delay_p99: Some((base + figures.delay * 3.0) as i64),
            ..Sums::default()
        };
        let streams = (0..4).map(|n| sums(Some(n), rate / 4.0)).collect();
        run.intervals.push(Interval { streams, sum: sums(None, rate) });
    }
    let bytes = run.intervals.iter().map(|i| i.sum.bytes).sum::<u64>();
    let lost = if name == "socat" { 3 } else { 0 };
    run.end.sum_received = Sums {
        end: 15.0,
        seconds: 15.0,
        bytes,
        bits_per_second: bytes as f64 * 8.0 / 15.0,
        jitter_ms: figures.delay / 1e6,
        packets: 20_000,
        lost_packets: lost,
        lost_percent: lost as f64 * 100.0 / 20_003.0,
        late: if figures.delay > 100_000.0 { 12 } else { 0 },
        ..Sums::default()
    };
    run.end.sum_sent = run.end.sum_received.clone();
    run.end.streams =
        (0..4).map(|n| Sums { socket: Some(n), bytes: bytes / 4, ..run.end.sum_received.clone() }).collect();
    (run.end.delay, run.end.variation, run.end.jitter) =
        (Distribution::of(&delay, 0), Distribution::of(&variation, 0), Distribution::of(&jitter, 0));
    run.end.stall_count = run.end.stalls.len() as u64;
    run.end.stall_seconds = run.end.stalls.iter().map(|s| s.seconds).sum();
    run.end.cpu =
        Cpu { source: Some(4.0), sink: Some(5.0), relay: figures.cpu.map(|c| c * bytes as f64 / 1e9) };
    if name.starts_with("s2ds") {
        run.end.gateways = ["consumer-gateway", "producer-gateway"]
            .map(|gateway| Ledger {
                gateway: gateway.into(),
                received: 2_000_000,
                sent: 1_999_000 - u64::from(round),
                held: 0,
                drops: BTreeMap::from([
                    ("not_for_us".to_owned(), 600),
                    ("tx_full".to_owned(), 400 + u64::from(round)),
                    ("no_flow".to_owned(), 0),
                ]),
                cycles_per_packet: Some(figures.delay / 10.0 + 900.0),
            })
            .into();
    }
    if name == "direct" && profile == "bulk" {
        run.end.limited_by = vec!["the sink's processor was busy all the time".into()];
    }
    run
}
