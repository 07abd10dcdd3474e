//! The measurements: which trials run, and what is made of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use forwarder::sync::StopFlag;
use forwarder::wire::Mac;

use super::headers::Flows;
use super::outcome::{DeviceFacts, End as Ending, Interval, Outcome, Start, Step};
use super::procedure::Bench;
use super::rate::{FCS, Rate};
use super::session::Session;
use super::setup::Setup;
use super::sizes::Mix;
use super::threads::End;
use crate::host::Host;
use crate::result::Label;

/// What all measurements have in common.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Devices and their addresses. `mtu` and the receiver's addresses are filled in.
    pub setup: Setup,
    /// The flows.
    pub flows: Flows,
    /// Frame sizes to try in turn.
    pub sizes: Vec<Mix>,
    /// MAC address to send to; none: ask for that of the next hop.
    pub dst_mac: Option<Mac>,
    /// Next hop; none: the destination itself.
    pub gateway: Option<IpAddr>,
    /// Bits a second of the line; none: what a NIC says, and no limit for other devices.
    pub line: Option<u64>,
    /// Send in both directions.
    pub bidirectional: bool,
    /// How long a trial waits for what is still under way.
    pub settle: Duration,
    /// Rest after each trial.
    pub pause: Duration,
}

/// What to measure.
#[derive(Debug, Clone)]
pub enum Task {
    /// Send at a rate and tell what arrives.
    Run {
        /// How fast.
        rate: Rate,
        /// How long.
        end: End,
    },
    /// The zero-loss rate (RFC 2544, section 26.1) and the delay at it (section 26.2).
    Throughput {
        /// How to search.
        search: SearchSettings,
        /// Trials of the delay.
        latency_trials: u32,
    },
    /// The loss by offered load (RFC 2544, section 26.3).
    Loss {
        /// Length of a trial.
        trial: Duration,
        /// The highest load.
        most: Rate,
        /// Percent between loads.
        step: f64,
    },
    /// Back-to-back frames (RFC 9004).
    BackToBack {
        /// Searches for the longest burst.
        searches: u32,
        /// Time at line rate of the longest burst to try.
        longest: Duration,
        /// How exactly to find it, in frames.
        resolution: u64,
        /// The zero-loss rate, if it is known; none searches for it first.
        throughput: Option<Rate>,
        /// How.
        search: SearchSettings,
    },
}

/// What happens while it is measured.
#[derive(Debug, Clone, Copy)]
pub enum News<'a> {
    /// A second of a trial has passed.
    Second(&'a Interval),
    /// A trial has ended.
    Trial(&'a Step),
}

/// How the zero-loss rate is searched for.
#[derive(Debug, Clone)]
pub struct SearchSettings {
    /// Length of a trial.
    pub trial: Duration,
    /// The highest rate to try.
    pub most: Rate,
    /// Where to stop, in percent of it.
    pub resolution: f64,
    /// How often a trial with loss is repeated before it counts.
    pub again: u32,
}

impl Task {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Task::Run { .. } => "run",
            Task::Throughput { .. } => "throughput",
            Task::Loss { .. } => "loss",
            Task::BackToBack { .. } => "back-to-back",
        }
    }
}

/// Measures, and tells `watch` how it goes.
///
/// # Errors
/// What is asked for cannot be sent, a device cannot be had, the next hop does not answer, or none of the first packets arrives.
/// After the first trial neither an error nor an interruption is one: what there is until then is returned, marked partial.
pub fn measure(
    settings: &Settings,
    task: &Task,
    told: BTreeMap<String, serde_json::Value>,
    interrupted: &StopFlag,
    watch: &mut dyn FnMut(News<'_>),
) -> Result<Outcome> {
    for mix in &settings.sizes {
        settings.flows.check(mix)?;
    }
    let largest = settings.sizes.iter().map(|mix| mix.range().1).max().context("there are no frame sizes")?;
    let setup = Setup { mtu: (largest - FCS - settings.flows.l2()) as u16, ..settings.setup.clone() };
    ensure!(
        !settings.bidirectional || setup.rx.as_ref().is_some_and(|rx| *rx != setup.tx),
        "--bidirectional sends from --rx, too: name another device than --tx there"
    );
    let began = Instant::now();
    let core = setup.cores.map_or(0, |(tx, _)| tx);
    let host = Host::gather(core);
    let session = Session::open(setup, interrupted)?;
    let facts = |place: usize| {
        let port = &session.ports()[place];
        DeviceFacts {
            device: port.settings().device.to_string(),
            driver: port.driver().to_owned(),
            mac: Mac(port.mac()).to_string(),
            numa_node: port.numa_node(),
            link_mbps: port.link().and_then(|l| l.speed),
        }
    };
    // What virtual devices say of their speed is a constant.
    let nic = settings.setup.tx.is_nic();
    let tx = facts(0);
    let line = settings.line.or(tx.link_mbps.filter(|_| nic).map(|mbps| u64::from(mbps) * 1_000_000));
    let start = Start {
        version: format!("s2bench {}", env!("CARGO_PKG_VERSION")),
        label: Label::Measured,
        host,
        command: task.name().to_owned(),
        settings: told,
        rx: session.receiver().map(facts),
        tx,
        line_bits_per_second: line,
    };
    let outcome = Outcome { start, steps: Vec::new(), end: Ending::default() };
    let mut bench = Bench { settings, session, line, ways: Vec::new(), outcome, began, interrupted, watch };
    // Rates that cannot be had are refused before anything is sent.
    bench.check(task)?;
    bench.prepare()?;
    let ended = settings.sizes.iter().try_for_each(|mix| match task {
        _ if bench.stopped() => Ok(()),
        Task::Run { rate, end } => bench.run(mix, *rate, *end),
        Task::Throughput { search, latency_trials } => bench.throughput(mix, search, *latency_trials),
        Task::Loss { trial, most, step } => bench.loss(mix, *trial, *most, *step),
        Task::BackToBack { .. } => bench.back_to_back(mix, task),
    });
    let mut outcome = bench.outcome;
    outcome.end.error = match ended {
        // What there was until then is not lost.
        Err(e) if !outcome.steps.is_empty() => Some(format!("{e:#}")),
        Err(e) => return Err(e),
        Ok(()) => interrupted.stopped().then(|| "interrupted by a signal".to_owned()),
    };
    outcome.end.partial = outcome.end.error.is_some();
    Ok(outcome)
}
