//! The result file of the packet generator: `start`, `steps`, `end`, with iperf3's names where iperf3 has one.
//!
//! Every trial is a step, whatever it was for. Rates of bits are given twice: `bits_per_second` counts what frames take on the
//! wire (layer 1: preamble, frame, FCS, gap), `l2_bits_per_second` the frames with FCS alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::burst::BackToBack;
use super::judge::Findings;
use super::search::Verdict;
use crate::host::Host;
use crate::result::{Distribution, Label};

/// A device that was used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// As it was asked for.
    pub device: String,
    /// Its driver.
    pub driver: String,
    /// Its MAC address.
    pub mac: String,
    /// NUMA node, when it has one.
    pub numa_node: Option<i32>,
    /// What its driver says of the link, in Mbit/s. Virtual devices say a constant.
    pub link_mbps: Option<u32>,
}

/// What ran where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// `s2bench` and its version.
    pub version: String,
    /// Where the figures come from.
    pub label: Label,
    /// The machine.
    pub host: Host,
    /// `run`, `throughput`, `loss` or `back-to-back`.
    pub command: String,
    /// Every setting, defaults too.
    pub settings: BTreeMap<String, serde_json::Value>,
    /// The device that sends.
    pub tx: DeviceFacts,
    /// The one that receives; none: nobody does.
    pub rx: Option<DeviceFacts>,
    /// The line rate that was gone by; none: as fast as the device takes frames.
    pub line_bits_per_second: Option<u64>,
}

/// What was sent in one direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SumSent {
    /// Packets.
    pub packets: u64,
    /// Bytes of their frames, FCS included.
    pub bytes: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Packets a second.
    pub packets_per_second: f64,
    /// Bits a second on the wire.
    pub bits_per_second: f64,
    /// Bits a second of frames.
    pub l2_bits_per_second: f64,
    /// Packets that were due and not sent.
    pub unsent_packets: u64,
    /// Cycles of the sending thread a packet: headers, stamp, checksum and the driver.
    pub cycles_per_packet: f64,
}

/// One direction of a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Direction {
    /// `forward` or `back`.
    pub direction: String,
    /// What was sent.
    pub sum_sent: SumSent,
    /// What came of it; none when nobody received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum_received: Option<Findings>,
    /// Frames that the receiving device itself lost, as far as its driver tells: not the fault of what was tried.
    pub rx_missed: u64,
}

/// What a second of a trial brought, in all directions. Packets that were under way at its end arrive in the next one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Seconds since the trial began.
    pub start: f64,
    /// Seconds since the trial began.
    pub end: f64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets that arrived, duplicates too.
    pub received_packets: u64,
}

/// What a trial was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// It was asked for.
    Run,
    /// RFC 2544, section 26.1.
    Throughput,
    /// RFC 2544, section 26.2.
    Latency,
    /// RFC 2544, section 26.3.
    Loss,
    /// RFC 9004.
    BackToBack,
}

/// A trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What it was for.
    pub purpose: Purpose,
    /// Frame size or mix as it was asked for.
    pub frame_size: String,
    /// Mean size of its frames, in bytes with FCS.
    pub mean_frame_bytes: f64,
    /// Seconds since the measurement began.
    pub start: f64,
    /// Packets a second offered in each direction; none: as fast as the device takes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_packets_per_second: Option<f64>,
    /// The same in bits on the wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_bits_per_second: Option<f64>,
    /// What came of it.
    pub verdict: Verdict,
    /// It was interrupted.
    #[serde(default)]
    pub partial: bool,
    /// Each direction.
    pub directions: Vec<Direction>,
    /// Each whole second.
    #[serde(default)]
    pub intervals: Vec<Interval>,
}

impl Step {
    /// Packets a second really sent in each direction, the least of them.
    #[must_use]
    pub fn sent(&self) -> f64 {
        self.directions.iter().map(|d| d.sum_sent.packets_per_second).fold(f64::INFINITY, f64::min)
    }

    /// Packets lost in all directions.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.directions.iter().filter_map(|d| d.sum_received.as_ref()).map(|f| f.lost_packets).sum()
    }
}

/// The zero-loss rate for a frame size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// Frame size or mix as it was asked for.
    pub frame_size: String,
    /// Packets a second that were sent in each direction without loss; none when every trial lost some.
    pub packets_per_second: Option<f64>,
    /// The same in bits on the wire.
    pub bits_per_second: Option<f64>,
    /// The same in bits of frames.
    pub l2_bits_per_second: Option<f64>,
    /// The same in percent of the line rate, where there is one.
    pub percent_of_line: Option<f64>,
    /// The generator could not send more: what was tried may be faster.
    pub limited_by_generator: bool,
    /// Trials.
    pub trials: usize,
    /// One-way delay at this rate (RFC 2544, section 26.2); each direction of each trial.
    #[serde(default)]
    pub delay: Vec<Distribution>,
}

/// The loss at an offered load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Frame size or mix as it was asked for.
    pub frame_size: String,
    /// Percent of the highest rate.
    pub offered_percent: f64,
    /// Packets a second really sent.
    pub packets_per_second: f64,
    /// Percent of what was sent.
    pub lost_percent: f64,
}

/// The findings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Zero-loss rates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throughput: Vec<Throughput>,
    /// Loss by load.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loss: Vec<Loss>,
    /// Back-to-back frames.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub back_to_back: Vec<BackToBack>,
    /// What a reader has to know besides.
    pub warnings: Vec<String>,
    /// It was interrupted; what had ended by then is here.
    pub partial: bool,
    /// Why it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A result file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What ran where.
    pub start: Start,
    /// Every trial.
    pub steps: Vec<Step>,
    /// The findings.
    pub end: End,
}
