//! `s2bench core`: what the relay costs in cycles a packet, without a NIC, beside DPDK's own testpmd.
//!
//! The whole relay runs - receive, parse, look up, twice-NAT, checksums, TTL, counters, send - between two net_ring ports in this
//! process. The packets are hot in the cache, as testpmd's are when its packets circulate over one net_ring port. What feeds and
//! empties the rings is not part of the count: the time stamp counter is read at both ends of a worker's turn, as testpmd reads
//! it around its forwarding function.
//!
//! Ours and the peers run in turn on the same core, several rounds; the best and the median of each are told, and the ratios.

pub mod admissions;
pub mod changes;
pub mod devices;
mod peer;
mod relay;
mod rings;
pub mod workers;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use forwarder::api::table::Table;
use serde::Serialize;

pub use peer::Peer;

/// What `s2bench core` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Rounds; in each, every case and every peer runs once.
    pub rounds: usize,
    /// Packets of one run of one case.
    pub packets: u64,
    /// Core to measure on.
    pub core: usize,
    /// Programs to run beside ours.
    pub against: Vec<Peer>,
    /// Where to write the result as JSON.
    pub out: Option<PathBuf>,
}

/// Cycles a packet of one case or peer, a figure a round.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What ran.
    pub name: String,
    /// Cycles a packet of each round, in order.
    pub cycles: Vec<f64>,
}

impl Row {
    /// The least disturbed round.
    pub fn best(&self) -> f64 {
        self.cycles.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The middle round.
    pub fn median(&self) -> f64 {
        let mut sorted = self.cycles.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// A whole result, as it is written to a file.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What ran where.
    pub start: Facts,
    /// Ours, then the peers.
    pub rows: Vec<Row>,
    /// Bytes a connection takes, both directions and the index.
    pub bytes_per_connection: usize,
}

/// The machine and the settings.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Facts {
    pub label: &'static str,
    pub cpu: String,
    pub kernel: String,
    pub dpdk: String,
    pub tsc_hz: u64,
    pub hugepages: bool,
    pub core: usize,
    pub burst: usize,
    pub rounds: usize,
    pub packets: u64,
}

/// Runs everything and returns the table's data.
pub fn run(options: &Options) -> Result<Report> {
    let mut bed = relay::Bed::new(options.core)?;
    let cases = relay::cases();
    let row = |name: &str| Row { name: name.to_owned(), cycles: Vec::new() };
    let mut ours: Vec<Row> = cases.iter().map(|c| row(c.name)).collect();
    let mut peers: Vec<Row> = options.against.iter().map(|p| row(p.name())).collect();
    for round in 0..options.rounds {
        eprint!("\rround {} of {} ", round + 1, options.rounds);
        for (case, row) in cases.iter().zip(&mut ours) {
            row.cycles.push(bed.run(case, options.packets)?);
        }
        for (peer, row) in options.against.iter().zip(&mut peers) {
            row.cycles.push(peer.run(options.core, bed.huge())?);
        }
    }
    eprintln!();
    let start = Facts {
        label: "measured",
        cpu: cpu(),
        kernel: text_of("uname", &["-sr"]),
        dpdk: text_of("pkg-config", &["--modversion", "libdpdk"]),
        tsc_hz: bed.tsc_hz(),
        hugepages: bed.huge(),
        core: options.core,
        burst: forwarder::io::BURST,
        rounds: options.rounds,
        packets: options.packets,
    };
    let report =
        Report { start, bytes_per_connection: bed.bytes_per_connection(), rows: [ours, peers].concat() };
    if let Some(out) = &options.out {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(out, json + "\n").with_context(|| format!("{} cannot be written", out.display()))?;
    }
    Ok(report)
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let peers: Vec<&Row> = self.rows.iter().filter(|r| r.name.starts_with("testpmd")).collect();
        let mut head = vec!["CYCLES A PACKET".to_owned(), ">BEST".to_owned(), ">MEDIAN".to_owned()];
        head.extend(peers.iter().map(|p| format!(">/ {}", p.name)));
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        let mut table = Table::new(&head);
        for row in &self.rows {
            let ratios = peers.iter().map(|p| format!("{:.2}", row.best() / p.best()));
            table.row(
                [row.name.clone(), format!("{:.1}", row.best()), format!("{:.1}", row.median())]
                    .into_iter()
                    .chain(ratios),
            );
        }
        let s = &self.start;
        let mut text = String::new();
        writeln!(
            text,
            "{}, {}, DPDK {}, TSC {} MHz, {}",
            s.cpu,
            s.kernel,
            s.dpdk,
            s.tsc_hz / 1_000_000,
            pages(s.hugepages)
        )?;
        writeln!(
            text,
            "net_ring, hot packets, bursts of {}, core {}, {} rounds, ratios of the best",
            s.burst, s.core, s.rounds
        )?;
        write!(text, "\n{table}\nmemory a connection, both directions: {} bytes", self.bytes_per_connection)?;
        f.write_str(&text)
    }
}

fn pages(huge: bool) -> &'static str {
    if huge { "hugepages" } else { "4 KiB pages" }
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    model.map_or("unknown processor", |(_, name)| name.trim()).to_owned()
}

fn text_of(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}
