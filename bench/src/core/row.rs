//! What a row of the benchmark is: a name, what it needs, and a function that yields a figure in a process of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::ClockId;
use serde::{Deserialize, Serialize};

/// How a row is measured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Core to measure on.
    pub core: usize,
    /// Packets of a run that counts packets.
    pub packets: u64,
    /// Small sizes and short runs that show that it works and measure nothing.
    pub quick: bool,
    /// Packet memory from hugepages.
    pub huge: bool,
}

impl Settings {
    /// How long to count in a run that counts time.
    pub fn window(&self) -> Duration {
        Duration::from_millis(if self.quick { 200 } else { 1500 })
    }

    /// A core besides the one that is measured; the same one when there is no other.
    pub fn other_core(&self) -> usize {
        usize::from(self.core == 0 && cores() > 1)
    }
}

/// Cores this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Seconds of processor time this thread has had.
pub(super) fn thread_time() -> Result<f64> {
    let time = ClockId::CLOCK_THREAD_CPUTIME_ID.now().context("the thread's clock cannot be read")?;
    Ok(Duration::from(time).as_secs_f64())
}

/// What one run of a row yields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// In the row's unit.
    pub value: f64,
    /// Further figures by name, in units of their own. Goals find them as `row/part`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, f64>,
}

impl Figure {
    /// A figure alone.
    pub fn of(value: f64) -> Self {
        Self { value, parts: BTreeMap::new() }
    }

    /// The figure with a part.
    #[must_use]
    pub fn with(mut self, part: &str, value: f64) -> Self {
        self.parts.insert(part.to_owned(), value);
        self
    }
}

/// What figures are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// TSC cycles a packet; less is better.
    Cycles,
    /// Million packets a second of processor time; more is better.
    Mpps,
    /// Events a second; more is better.
    PerSecond,
    /// One figure over another; more is better.
    Ratio,
    /// A loss in percent; less is better.
    Percent,
    /// Packets, of which there should be none.
    Packets,
}

impl Unit {
    /// Whether the best figure is the smallest.
    pub fn less_is_better(self) -> bool {
        matches!(self, Unit::Cycles | Unit::Percent | Unit::Packets)
    }

    /// For tables.
    pub fn text(self) -> &'static str {
        match self {
            Unit::Cycles => "cycles",
            Unit::Mpps => "Mpps",
            Unit::PerSecond => "1/s",
            Unit::Ratio => "ratio",
            Unit::Percent => "%",
            Unit::Packets => "packets",
        }
    }
}

/// A program to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Program {
    /// DPDK's testpmd.
    Testpmd,
    /// DPDK's example l3fwd with exact match.
    L3fwd,
}

impl Program {
    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Program::Testpmd => "testpmd",
            Program::L3fwd => "l3fwd",
        }
    }
}

/// What a row cannot run without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A peer that was asked for.
    Peer(Program),
    /// So many cores.
    Cores(usize),
    /// The rights of root.
    Root,
}

impl Need {
    /// Why it is not there; none when it is.
    pub fn missing(self) -> Option<String> {
        match self {
            Need::Cores(wanted) if cores() < wanted => {
                Some(format!("needs {wanted} cores and has {}", cores()))
            }
            Need::Root if !crate::topology::is_root() => Some("needs root".to_owned()),
            _ => None,
        }
    }
}

/// A row.
#[derive(Debug)]
pub struct Row {
    /// Short name: in result files, in goals, and for `--row`.
    pub name: &'static str,
    /// What runs, for tables.
    pub title: &'static str,
    /// Unit of its figure.
    pub unit: Unit,
    /// What it needs.
    pub needs: &'static [Need],
    /// Measures once. It has the process for itself, so it may start EAL.
    pub run: fn(&Settings) -> Result<Figure>,
}
