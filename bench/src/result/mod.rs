//! Result files: what a run of a stream found, in the shape of iperf3's JSON.
//!
//! One run is one document with `start` (what ran where), `intervals` (what each second brought) and `end` (the sums), the
//! fields that iperf3 has under iperf3's names and in its units: seconds, bytes, `bits_per_second`, `jitter_ms`,
//! `lost_percent`. What iperf3 has not stands beside them: whole distributions ([`Distribution`]), stalls, late messages,
//! the ledger of the gateways. `s2bench compare` writes many runs as one [`Series`].
//!
//! A stream is a connection; what iperf3 calls packets are the messages of the profile. Times are nanoseconds unless a name
//! says otherwise. Reader and writer are the same types, so a report needs no guess.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

pub use distribution::{DIGITS, Distribution, MOST, histogram};

use crate::host::Host;
use crate::stream::Carrier;

mod distribution;

/// Where a figure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    /// By this run.
    Measured,
    /// Measured by a run too short to say more than that it works.
    Quick,
    /// Computed from what was measured.
    Projected,
    /// By others.
    Published,
}

/// What a run had between producer and consumer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Approach {
    /// Short name: `direct`, `haproxy`, `s2ds-af_packet-poll`.
    pub name: String,
    /// Its version, as its package or itself tells.
    pub version: String,
    /// Every setting that was chosen, as its command line or file says it.
    pub settings: Vec<String>,
}

/// The path that was emulated, or is known, between the gateways.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PathFacts {
    /// Name of the preset, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// Round-trip time that the WAN adds, in milliseconds.
    pub rtt_ms: f64,
    /// Rate of the WAN, in bits a second; none: not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_second: Option<u64>,
    /// Packets the WAN loses by design, in percent.
    #[serde(default)]
    pub loss_percent: f64,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// How it was made: `none`, `s2bench wan`, `netem`, `real`.
    pub by: String,
}

/// What ran where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// `s2bench` and its version.
    pub version: String,
    /// Where the figures come from.
    pub label: Label,
    /// The consumer's machine.
    pub host: Host,
    /// What carried the stream.
    pub carrier: Carrier,
    /// Name of the profile.
    pub profile: String,
    /// Every parameter of the profile, defaults too.
    pub parameters: BTreeMap<String, serde_json::Value>,
    /// Seconds at the beginning that the sums leave out. The stream ran for so much longer than its duration.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omit: u32,
    /// Connections at a time.
    pub connections: u32,
    /// Where the sink connected to.
    pub connecting_to: String,
    /// What was between; none when only the ends are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approach: Option<Approach>,
    /// The path; none when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathFacts>,
    /// Which of several rounds, from 1 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<u32>,
    /// Whether source and sink read the same clock. Where they do not, one-way delays have the clocks' offset in them and
    /// only their variation counts.
    pub same_clock: bool,
    /// Bytes that the kernel's send and receive buffers were asked to have; none: the system's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_buffer: Option<u64>,
}

// serde's signature.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Sums over a time, of one connection or of all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Number of the connection, from 0 on; none: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<u32>,
    /// Seconds since the run began.
    pub start: f64,
    /// Seconds since the run began.
    pub end: f64,
    /// Seconds between.
    pub seconds: f64,
    /// Bytes of messages; what is sent around them is not counted.
    pub bytes: u64,
    /// The same a second, in bits: goodput.
    pub bits_per_second: f64,
    /// Inter-arrival jitter at the end of the time (RFC 3550, section 6.4.1), in milliseconds.
    pub jitter_ms: f64,
    /// Messages.
    pub packets: u64,
    /// Messages that never came.
    pub lost_packets: u64,
    /// The same, in percent of those that were due.
    pub lost_percent: f64,
    /// Messages that came after a later one (RFC 4737's reordered).
    pub out_of_order: u64,
    /// Messages that came once more.
    pub duplicates: u64,
    /// Messages whose checksum was wrong.
    pub corrupt: u64,
    /// Messages that came after the profile's deadline.
    pub late: u64,
    /// Left out of the run's sums, as iperf3 marks it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub omitted: bool,
    /// Median and 99th percentile of the one-way delay within this time, in nanoseconds; none without a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_p50: Option<i64>,
    /// See [`Sums::delay_p50`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_p99: Option<i64>,
}

/// What a second brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Of each connection.
    pub streams: Vec<Sums>,
    /// Of all.
    pub sum: Sums,
}

/// A time without a message although some were due.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    /// The connection.
    pub socket: u32,
    /// Seconds since the run began.
    pub start: f64,
    /// How long.
    pub seconds: f64,
}

/// What became of the packets in one gateway during the run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// Its name.
    pub gateway: String,
    /// Packets received.
    pub received: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets still held at the end.
    pub held: u64,
    /// Packets dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Cycles of the worker a packet, in turns that found packets; none for those that do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cycles_per_packet: Option<f64>,
}

/// Processor time, in seconds, by what it was for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Of the source's process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<f64>,
    /// Of the sink's process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<f64>,
    /// Of everything between: gateways or proxies, not the WAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<f64>,
}

/// What the sink's machine itself held up: times in which it let nobody run, and what came without.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Quiet {
    /// Such times, over all cores.
    pub hiccups: u64,
    /// Seconds in them, over all cores.
    pub seconds: f64,
    /// The longest, in seconds.
    pub longest: f64,
    /// Messages that were on their way in one; `delay` and `variation` leave them out.
    pub met: u64,
    /// As [`End::delay`].
    pub delay: Distribution,
    /// As [`End::variation`], less the same least.
    pub variation: Distribution,
}

/// The sums.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Of each connection, as received.
    pub streams: Vec<Sums>,
    /// What the source sent.
    pub sum_sent: Sums,
    /// What the sink received.
    pub sum_received: Sums,
    /// One-way delay, from when a message was due to when its last byte was read.
    pub delay: Distribution,
    /// Packet delay variation (RFC 5481, section 4.2): each delay less the least of its connection.
    pub variation: Distribution,
    /// What the machine held up, and delays without it; none where nobody watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet: Option<Quiet>,
    /// Inter-arrival jitter (RFC 5481's inter-packet delay variation): by how much the delays of two messages that follow each
    /// other differ, without sign.
    pub jitter: Distribution,
    /// By how much the source sent later than it was due.
    pub send_lag: Distribution,
    /// Messages that were due but that the source did not get rid of before the end: the path took less.
    #[serde(default)]
    pub unsent: u64,
    /// The longest ones, at most 100.
    pub stalls: Vec<Stall>,
    /// All of them.
    pub stall_count: u64,
    /// Seconds in all of them.
    pub stall_seconds: f64,
    /// What became of packets in the gateways.
    #[serde(default)]
    pub gateways: Vec<Ledger>,
    /// Processor time.
    #[serde(default)]
    pub cpu: Cpu,
    /// What says that an end of the measurement, not the path, was the limit: empty when nothing does.
    #[serde(default)]
    pub limited_by: Vec<String>,
    /// What a reader has to know besides.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The run ended before its time; what it had found until then is here.
    #[serde(default)]
    pub partial: bool,
    /// Why it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What ran where.
    pub start: Start,
    /// What each second brought.
    pub intervals: Vec<Interval>,
    /// The sums.
    pub end: End,
}

/// An approach that a series left out for a profile, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Omitted {
    /// The approach.
    pub approach: String,
    /// The profile.
    pub profile: String,
    /// What carried it.
    pub carrier: Carrier,
    /// Why: a peer is not installed, or it cannot carry the protocol.
    pub why: String,
}

/// Many runs by one command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// The command and what it was told.
    pub title: String,
    /// Runs, in the order they ran.
    pub runs: Vec<Run>,
    /// What did not run.
    #[serde(default)]
    pub omitted: Vec<Omitted>,
    /// It was interrupted; what had ended by then is here.
    #[serde(default)]
    pub partial: bool,
    /// Why it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Series {
    /// Reads a result file: a series, or one run as a series of one.
    ///
    /// # Errors
    /// The file cannot be read or is neither; the message names it and the place in it.
    pub fn read(path: &Path) -> Result<Series> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let value: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
        let wrong = || {
            format!("{} is not a result of `s2bench sink --json` or `s2bench compare --json`", path.display())
        };
        if value.get("runs").is_some() {
            return serde_json::from_str(&text).with_context(wrong);
        }
        let run: Run = serde_json::from_str(&text).with_context(wrong)?;
        let title = format!("{} over {}", run.start.profile, run.start.carrier);
        let (partial, error) = (run.end.partial, run.end.error.clone());
        Ok(Series { title, runs: vec![run], omitted: Vec::new(), partial, error })
    }
}

/// Writes a result so that a full disk or a kill leaves the file as it was: into a file beside it, then renamed.
///
/// # Errors
/// It cannot be written; the message names the file.
pub fn write(path: &Path, result: &impl Serialize) -> Result<()> {
    write_text(path, &(serde_json::to_string_pretty(result)? + "\n"))
}

/// Writes a text as [`write`] does. What stands there and is no plain file, such as /dev/null or a FIFO, is written to, not replaced.
///
/// # Errors
/// It cannot be written; the message names the file.
pub fn write_text(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let what = || format!("cannot write the result {}; is the disk full?", path.display());
    // A device or a pipe is written to; renaming a file over it would take it away.
    if path.metadata().is_ok_and(|m| !m.is_file()) {
        return std::fs::write(path, text).with_context(what);
    }
    let beside = path.with_extension(format!("tmp-{}", std::process::id()));
    let written = std::fs::File::create(&beside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    });
    if written.is_err() {
        // What stands at `path` stays; the half-written one is of no use.
        let _ = std::fs::remove_file(&beside);
    }
    written.with_context(what)
}
