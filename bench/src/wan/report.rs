//! What a WAN did, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;

use forwarder::dpdk::PortStats;
use forwarder::io::PacketBuf;
use serde::{Deserialize, Serialize};

use super::direction::Reason;
use super::element::Lane;
use super::preset::Preset;
use super::shape::Shape;
use crate::result::Distribution;

/// What became of the packets of all links.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Of s2bench.
    pub version: String,
    /// What chose the fate of packets.
    pub seed: u64,
    /// Seconds that it carried.
    pub seconds: f64,
    /// The links, in the order of the configuration.
    pub links: Vec<LinkReport>,
}

/// What became of the packets of a link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkReport {
    /// Its name.
    pub name: String,
    /// Its ends.
    pub a: String,
    /// See [`LinkReport::a`].
    pub b: String,
    /// The path it stood for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// From a to b.
    pub a_to_b: DirectionReport,
    /// From b to a.
    pub b_to_a: DirectionReport,
}

/// What became of the packets of a direction: received + duplicated = sent + held + dropped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DirectionReport {
    /// What it did to them.
    pub shape: Option<Shape>,
    /// Packets that came.
    pub received: u64,
    /// Their bytes, from the Ethernet header on.
    pub received_bytes: u64,
    /// Packets that left.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Packets under way when it ended.
    pub held: u64,
    /// Packets dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Copies that chance asked for.
    pub duplicated: u64,
    /// Packets with a flipped bit.
    pub corrupted: u64,
    /// Packets moved out of their place.
    pub displaced: u64,
    /// Packets that left after one that came later.
    pub reordered: u64,
    /// Packets that the device in front lost before we had them, as far as its driver tells; net_af_packet's does not.
    pub missed: u64,
    /// Bits of frames a second, from the first that left to the last.
    pub bits_per_second: f64,
    /// By how much later than intended packets left, in nanoseconds.
    pub lag: Distribution,
}

impl DirectionReport {
    /// What a lane counted; `port` is where it receives.
    #[must_use]
    pub fn of<B: PacketBuf>(lane: &Lane<B>, port: PortStats) -> DirectionReport {
        let (counts, sent) = (lane.direction.counts(), &lane.sent);
        let seconds = sent.span.map_or(0.0, |(first, last)| (last - first) as f64 / 1e9);
        DirectionReport {
            shape: Some(lane.direction.shape().clone()),
            received: counts.received,
            received_bytes: counts.received_bytes,
            sent: sent.packets,
            sent_bytes: sent.bytes,
            held: lane.held(),
            dropped: Reason::ALL.iter().map(|r| (r.name().to_owned(), counts.dropped[*r as usize])).collect(),
            duplicated: counts.duplicated,
            corrupted: counts.corrupted,
            displaced: counts.displaced,
            reordered: counts.reordered,
            missed: port.missed + port.no_buffer,
            bits_per_second: if seconds > 0.0 { sent.bytes as f64 * 8.0 / seconds } else { 0.0 },
            lag: Distribution::of(&sent.lag, 0),
        }
    }

    /// Packets of which it is not known what became; 0.
    #[must_use]
    pub fn unaccounted(&self) -> i64 {
        let known = self.sent + self.held + self.dropped.values().sum::<u64>();
        (self.received + self.duplicated).wrapping_sub(known).cast_signed()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for link in &self.links {
            for (from, to, d) in [(&link.a, &link.b, &link.a_to_b), (&link.b, &link.a, &link.b_to_a)] {
                writeln!(f, "{}: {from} to {to}", link.name)?;
                writeln!(f, "{d}")?;
            }
        }
        write!(f, "{:.1} s, seed {}", self.seconds, self.seed)
    }
}

impl fmt::Display for DirectionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dropped: Vec<String> =
            self.dropped.iter().filter(|(_, n)| **n > 0).map(|(reason, n)| format!("{n} {reason}")).collect();
        let dropped = if dropped.is_empty() { "0".to_owned() } else { dropped.join(", ") };
        writeln!(
            f,
            "  received {} = sent {} + held {} + dropped {dropped} - duplicated {}",
            self.received, self.sent, self.held, self.duplicated
        )?;
        writeln!(
            f,
            "  corrupted {}, displaced {}, reordered {}, missed by the device {}",
            self.corrupted, self.displaced, self.reordered, self.missed
        )?;
        let us = |ns: i64| ns as f64 / 1e3;
        write!(
            f,
            "  {:.3} Mbit/s; left later than intended by p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us, at most {:.1} us",
            self.bits_per_second / 1e6,
            us(self.lag.p50),
            us(self.lag.p99),
            us(self.lag.p999),
            us(self.lag.max)
        )
    }
}
