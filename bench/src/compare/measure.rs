//! One run: a fresh topology, a connection that shows that it carries, the stream, and what it cost.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use forwarder::api::Stats;
use nix::sys::signal::Signal;

use super::approach::Approach;
use super::bed::{Bed, Ground};
use super::path::Path;
use super::stop::Stop;
use crate::result::{self, Label, Ledger, Run, Series};
use crate::stream::Carrier;
use crate::topology::Process;

/// What the warm-up may take.
const WARM_UP: Duration = Duration::from_secs(10);
/// What a run may take beyond its own time.
const GRACE: Duration = Duration::from_secs(20);
/// How long a sink that is asked to end may take to write what it has.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often a running stream is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long the last packets may take to leave s2ds.
const SETTLE: Duration = Duration::from_secs(1);

/// What streams are sent.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// How long each is measured.
    pub duration: Duration,
    /// Seconds that each runs before.
    pub omit: u32,
    /// Connections at a time; none: the profile's number.
    pub connections: Option<u16>,
    /// A file with further profiles.
    pub profiles: Option<PathBuf>,
    /// What the figures are.
    pub label: Label,
}

/// What is compared: one stream over one path.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// The path.
    pub path: Path,
    /// What carries the stream.
    pub carrier: Carrier,
    /// Name of the profile.
    pub profile: String,
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} over {}, path {}", self.profile, self.carrier, self.path.name())
    }
}

/// Measures an approach once.
///
/// # Errors
/// It could not be set up or carries nothing; the message has what its programs said. A run that broke later is no error: it
/// is partial and says why.
pub fn measure(
    ground: &Ground,
    traffic: &Traffic,
    cell: &Cell,
    approach: Approach,
    round: u32,
    stop: &Stop,
) -> Result<Run> {
    let mut bed = Bed::build(ground, approach, cell.carrier, &cell.path)?;
    let mut source = bed.source()?;
    warm_up(&bed)?;

    let (before, cpu, cpu_source) = (bed.stats(Duration::ZERO)?, bed.cpu(), super::cpu::of(source.pid()));
    let file = bed.dir().join("run.json");
    let (duration, json) =
        (format!("{}ms", traffic.duration.as_millis()), file.to_string_lossy().into_owned());
    let omit = traffic.omit.to_string();
    let mut args =
        vec!["--profile", &cell.profile, "--duration", &duration, "--omit", &omit, "--json", &json];
    // Without a priority a watch would take waiting for what it measures for hiccups.
    args.extend((ground.priority > 0).then_some("--hiccups"));
    let parallel = traffic.connections.map(|n| n.to_string());
    let profiles = traffic.profiles.as_ref().map(|file| file.to_string_lossy().into_owned());
    for (flag, value) in [("--parallel", &parallel), ("--profiles", &profiles)] {
        args.extend(value.iter().flat_map(|value| [flag, value]));
    }
    let mut sink = bed.sink(&args)?;
    let limit = Duration::from_secs(traffic.omit.into()) + traffic.duration + GRACE;
    let cut = watch(&mut bed, &mut source, &mut sink, limit, stop)?;
    let failed = !sink.ended()?.is_some_and(|status| status.success());
    // What a sink notices of a gateway's death is only that its connection ended.
    let cause = match stop.asked() {
        // Whatever ended: a terminal's Ctrl-C reaches everybody.
        true => Some("interrupted".to_owned()),
        false => cut.or_else(|| bed.broken()),
    };
    let why = cause.clone().or_else(|| failed.then(|| format!("the sink failed: {}", sink.said())));

    let Ok(series) = Series::read(&file) else {
        bail!(why.unwrap_or_else(|| "the sink wrote no result".to_owned()));
    };
    let mut run = series.runs.into_iter().next().ok_or_else(|| anyhow!("the sink's result has no run"))?;
    run.start.label = traffic.label;
    run.start.round = Some(round);
    run.start.path = Some(cell.path.facts().clone());
    run.start.approach = Some(result::Approach {
        name: approach.name(),
        version: approach.version(),
        settings: ground.settings(approach, cell.carrier, &cell.path),
    });
    run.end.cpu.relay = bed.cpu().zip(cpu).map(|(after, before)| after - before);
    run.end.cpu.source.get_or_insert_with(|| super::cpu::of(source.pid()) - cpu_source);
    match bed.stats(SETTLE) {
        Ok(after) => run.end.gateways = ledgers(&before, &after),
        Err(e) => run.end.warnings.push(format!("what the gateways counted is not known: {e:#}")),
    }
    if approach.is_kernel() {
        run.end
            .warnings
            .push("the kernel forwards: its time is softirq time and not in cpu.relay".to_owned());
    }
    if let Some(why) = why {
        run.end.partial = true;
        run.end.error = cause.or(run.end.error).or(Some(why));
    }
    Ok(run)
}

/// Shows that the approach carries, with bytes that both ends compare.
fn warm_up(bed: &Bed) -> Result<()> {
    let timeout = format!("{}s", WARM_UP.as_secs());
    // Over UDP the first ones may be lost while an approach learns of the connection.
    let args = ["--bytes", "64K", "--duplex", "--verify", "--max-loss", "50", "--timeout", &timeout];
    let sink = bed.sink(&args)?;
    match sink.finished(WARM_UP + GRACE) {
        Ok(_) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("it carries nothing{}", bed.said())),
    }
}

/// Waits for the sink's end. Cuts the run short when something else ends, or the user asks, and tells why.
fn watch(
    bed: &mut Bed,
    source: &mut Process,
    sink: &mut Process,
    limit: Duration,
    stop: &Stop,
) -> Result<Option<String>> {
    let end = Instant::now() + limit;
    let why = loop {
        if sink.ended()?.is_some() {
            return Ok(None);
        }
        if stop.asked() {
            // A terminal's Ctrl-C reaches the sink, too, and a second one might end it before it has written.
            ended_within(sink, Duration::from_secs(1))?;
            break "interrupted".to_owned();
        }
        if let Some(broken) = bed.broken() {
            break broken;
        }
        if let Some(status) = source.ended()? {
            break format!("the source ended ({status}): {}", source.said());
        }
        if Instant::now() >= end {
            break format!("the sink did not end within {limit:?}");
        }
        std::thread::sleep(LOOK);
    };
    if sink.ended()?.is_none() {
        sink.signal(Signal::SIGINT)?;
        ended_within(sink, LAST_WORDS)?;
    }
    sink.kill();
    Ok(Some(why))
}

fn ended_within(process: &mut Process, limit: Duration) -> Result<()> {
    let end = Instant::now() + limit;
    while process.ended()?.is_none() && Instant::now() < end {
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// What the gateways counted between two looks.
fn ledgers(before: &[(&str, Stats)], after: &[(&str, Stats)]) -> Vec<Ledger> {
    before.iter().zip(after).map(|((name, before), (_, after))| ledger(name, before, after)).collect()
}

fn ledger(name: &str, before: &Stats, after: &Stats) -> Ledger {
    let since = |count: fn(&Stats) -> u64| count(after).saturating_sub(count(before));
    let cycles = since(|s| s.workers.iter().map(|w| w.busy_cycles).sum());
    let received = since(|s| s.received);
    let drop = |(reason, n): (&String, &u64)| {
        let n = n.saturating_sub(before.drops.get(reason).copied().unwrap_or(0));
        (n > 0).then(|| (reason.clone(), n))
    };
    Ledger {
        gateway: name.to_owned(),
        received,
        sent: since(|s| s.sent),
        held: after.held,
        drops: after.drops.iter().filter_map(drop).collect(),
        cycles_per_packet: (received > 0).then(|| cycles as f64 / received as f64),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use forwarder::api::WorkerStats;

    use super::*;

    #[test]
    fn a_ledger_is_what_came_between() {
        let stats = |n: u64| Stats {
            received: 100 * n,
            sent: 90 * n,
            held: n,
            drops: BTreeMap::from([("a".to_owned(), 10 * n), ("b".to_owned(), 7)]),
            workers: vec![WorkerStats { busy_cycles: 3000 * n, ..WorkerStats::default() }],
            ..Stats::default()
        };
        let ledger = ledger("near", &stats(1), &stats(3));
        assert_eq!((ledger.received, ledger.sent, ledger.held), (200, 180, 3));
        assert_eq!(ledger.drops, BTreeMap::from([("a".to_owned(), 20)]));
        assert_eq!(ledger.cycles_per_packet, Some(30.0));
    }
}
