//! Runs of one or several series, grouped by what they share and put together over their rounds.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::figure::{Figure, spread};
use super::goals::{self, Ahead, Judged};
use crate::result::{Distribution, Label, Omitted, PathFacts, Run, Series, Start};
use crate::stream::Carrier;

/// The approach that everybody's own share is measured from.
pub(super) const DIRECT: &str = "direct";

/// Whether an approach is this project's relay.
#[must_use]
pub fn is_ours(approach: &str) -> bool {
    approach.starts_with("s2ds")
}

/// What runs have in common when they are set side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// The path; none when the files do not tell.
    pub path: Option<PathFacts>,
    /// What carried the streams.
    pub carrier: Carrier,
    /// Name of the profile.
    pub profile: String,
    /// Its parameters.
    pub parameters: BTreeMap<String, serde_json::Value>,
    /// Connections at a time.
    pub connections: u32,
    /// Whether the source sends by a schedule, rather than as fast as it can.
    pub paced: bool,
}

impl Setting {
    pub(super) fn of(start: &Start) -> Setting {
        Setting {
            path: start.path.clone(),
            carrier: start.carrier,
            profile: start.profile.clone(),
            parameters: start.parameters.clone(),
            connections: start.connections,
            paced: is_paced(start),
        }
    }

    /// The path in words: its preset, or its round-trip time.
    #[must_use]
    pub fn path_name(&self) -> String {
        let Some(path) = &self.path else { return "unknown path".to_owned() };
        match &path.preset {
            Some(preset) => preset.clone(),
            None if path.rtt_ms > 0.0 => format!("{} ms", path.rtt_ms),
            None => "no WAN".to_owned(),
        }
    }

    /// Orders settings: by distance, then by name.
    fn order(&self) -> (u64, String, Carrier, String, u32, String) {
        let rtt = self.path.as_ref().map_or(0.0, |p| p.rtt_ms.max(0.0));
        let rest = serde_json::to_string(&(&self.path, &self.parameters)).unwrap_or_default();
        ((rtt * 1000.0) as u64, self.path_name(), self.carrier, self.profile.clone(), self.connections, rest)
    }
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (s, n) = (if self.connections == 1 { "" } else { "s" }, self.connections);
        write!(f, "{}, {}, {}, {n} connection{s}", self.path_name(), self.carrier, self.profile)
    }
}

/// Whether a profile has a schedule: `rate = "max"` is what has none.
fn is_paced(start: &Start) -> bool {
    start.parameters.get("rate").and_then(|rate| rate.as_str()) != Some("max")
}

/// Which messages' delay variation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jitter {
    /// All of them.
    All,
    /// Those that met no hiccup of the machine ([`crate::result::Quiet`]).
    Quiet,
}

impl Jitter {
    /// Both, as they are told.
    pub const BOTH: [Jitter; 2] = [Jitter::All, Jitter::Quiet];

    /// What a relay adds to it, in words.
    #[must_use]
    pub const fn measure(self) -> &'static str {
        match self {
            Jitter::All => "relay-added p99.9 jitter",
            Jitter::Quiet => "relay-added p99.9 jitter without hiccups",
        }
    }

    /// Packet delay variation of a run; none where nothing came, or nobody watched for hiccups.
    #[must_use]
    pub fn variation(self, run: &Run) -> Option<&Distribution> {
        let variation = match self {
            Jitter::All => &run.end.variation,
            Jitter::Quiet => &run.end.quiet.as_ref()?.variation,
        };
        (variation.count > 0).then_some(variation)
    }

    fn p999(self, run: &Run) -> Option<f64> {
        self.variation(run).map(|v| v.p999 as f64)
    }
}

/// What a relay adds to the 99.9th percentile of the delay variation, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Added {
    /// Over rounds, each less the direct path's of the same round.
    Resolved(Figure),
    /// It cannot be told from what the direct path itself varies between rounds; it is below this.
    Below(f64),
}

impl Added {
    /// From the approach's figures and the direct path's, a pair a round; none without a round.
    #[must_use]
    pub fn of(pairs: &[(f64, f64)]) -> Option<Added> {
        let differences: Vec<f64> = pairs.iter().map(|(ours, direct)| ours - direct).collect();
        let direct: Vec<f64> = pairs.iter().map(|(_, direct)| *direct).collect();
        let (figure, noise) = (Figure::smallest(&differences)?, spread(&direct));
        Some(match figure.median > noise {
            // The least difference comes from the round in which the direct path was disturbed most: it may be negative.
            true => Added::Resolved(Figure { best: figure.best.max(0.0), ..figure }),
            false => Added::Below(noise.max(figure.median.abs())),
        })
    }

    /// The median, or what it is below.
    #[must_use]
    pub fn at_most(self) -> f64 {
        match self {
            Added::Resolved(figure) => figure.median,
            Added::Below(bound) => bound,
        }
    }
}

/// An approach in one setting, over its rounds. Figures are of the runs that ran their time, of others only when there are no
/// such.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub approach: String,
    /// Runs that ran their time.
    pub rounds: usize,
    /// Runs that did not.
    pub partial: usize,
    /// Bits a second.
    pub goodput: Option<Figure>,
    /// One-way delay, median of a run, in nanoseconds; none where source and sink have different clocks.
    pub delay_p50: Option<Figure>,
    /// Its 99th percentile.
    pub delay_p99: Option<Figure>,
    /// Its 99.9th percentile.
    pub delay_p999: Option<Figure>,
    /// Packet delay variation (RFC 5481, section 4.2), 99.9th percentile, in nanoseconds.
    pub variation_p999: Option<Figure>,
    /// Inter-packet delay variation (RFC 5481, section 4.1), 99.9th percentile, in nanoseconds.
    pub jitter_p999: Option<Figure>,
    /// The approach's own share of the variation; none of the direct path, and where that did not run.
    pub added: Option<Added>,
    /// [`Row::variation_p999`] of messages that met no hiccup; none where nobody watched.
    pub quiet_p999: Option<Figure>,
    /// [`Row::added`] to those.
    pub added_quiet: Option<Added>,
    /// Messages that met a hiccup, in percent of those that came; none where nobody watched.
    pub met_percent: Option<f64>,
    /// Messages that never came, in percent of all that were due in all runs.
    pub lost_percent: f64,
    /// Messages that never came.
    pub lost: u64,
    /// Messages after their deadline.
    pub late: u64,
    /// Messages after a later one.
    pub out_of_order: u64,
    /// Messages whose checksum was wrong.
    pub corrupt: u64,
    /// Stalls of all runs.
    pub stalls: u64,
    /// Seconds in them.
    pub stall_seconds: f64,
    /// Processor seconds of everything between the ends, for 10^9 bytes.
    pub cpu_per_gb: Option<Figure>,
    /// The gateways' cycles a packet, mean of those that tell.
    pub cycles: Option<Figure>,
    /// What, beside the path, limited runs.
    pub limited_by: BTreeSet<String>,
    /// What a reader has to know besides: warnings, and why runs ended early.
    pub notes: BTreeSet<String>,
}

impl Row {
    /// The approach's own share of a variation.
    #[must_use]
    pub fn added_to(&self, jitter: Jitter) -> Option<Added> {
        match jitter {
            Jitter::All => self.added,
            Jitter::Quiet => self.added_quiet,
        }
    }
}

/// All approaches in one setting.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// What they share.
    pub setting: Setting,
    /// Some run was too short to be judged.
    pub quick: bool,
    /// In the order they first ran.
    pub rows: Vec<Row>,
}

impl Group {
    /// The row of an approach.
    #[must_use]
    pub fn row(&self, approach: &str) -> Option<&Row> {
        self.rows.iter().find(|r| r.approach == approach)
    }
}

/// What series say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Nearest path first.
    pub groups: Vec<Group>,
    /// Goals and verdicts.
    pub goals: Vec<Judged>,
    /// Where a peer is ahead of ours.
    pub ahead: Vec<Ahead>,
    /// What did not run, and why.
    pub omitted: Vec<Omitted>,
    /// What a reader has to know of all of it: series that were interrupted, runs that do not fit together.
    pub warnings: Vec<String>,
}

impl Summary {
    /// Puts series together.
    #[must_use]
    pub fn of(all: &[Series]) -> Summary {
        let mut by_setting: BTreeMap<_, Vec<&Run>> = BTreeMap::new();
        for run in all.iter().flat_map(|s| &s.runs) {
            by_setting.entry(Setting::of(&run.start).order()).or_default().push(run);
        }
        let groups: Vec<Group> = by_setting.values().filter_map(|runs| group(runs)).collect();
        let mut omitted: Vec<Omitted> = Vec::new();
        for one in all.iter().flat_map(|s| &s.omitted) {
            if !omitted.contains(one) {
                omitted.push(one.clone());
            }
        }
        Summary {
            goals: groups.iter().flat_map(goals::judge).collect(),
            ahead: groups.iter().flat_map(goals::ahead).collect(),
            warnings: warnings(all),
            groups,
            omitted,
        }
    }
}

/// Name of the approach of a run.
pub(super) fn approach(run: &Run) -> &str {
    run.start.approach.as_ref().map_or("unnamed", |a| a.name.as_str())
}

fn group(runs: &[&Run]) -> Option<Group> {
    let mut names: Vec<&str> = Vec::new();
    for run in runs {
        if !names.contains(&approach(run)) {
            names.push(approach(run));
        }
    }
    let direct: Vec<&Run> =
        runs.iter().copied().filter(|r| approach(r) == DIRECT && !r.end.partial).collect();
    Some(Group {
        setting: Setting::of(&runs.first()?.start),
        quick: runs.iter().any(|r| r.start.label == Label::Quick),
        rows: names
            .into_iter()
            .map(|name| {
                let own: Vec<&Run> = runs.iter().copied().filter(|r| approach(r) == name).collect();
                row(name, &own, &direct)
            })
            .collect(),
    })
}

/// `direct`: the runs of the direct path, one a round.
fn row(name: &str, all: &[&Run], direct: &[&Run]) -> Row {
    let (partial, whole): (Vec<&Run>, Vec<&Run>) = all.iter().copied().partition(|r| r.end.partial);
    let runs = if whole.is_empty() { &partial } else { &whole };
    let figures = |of: &dyn Fn(&Run) -> Option<f64>| -> Vec<f64> {
        runs.iter().filter_map(|run| of(run)).filter(|f| f.is_finite()).collect()
    };
    let smallest = |of: &dyn Fn(&Run) -> Option<f64>| Figure::smallest(&figures(of));
    let delay = |of: fn(&Run) -> i64| {
        smallest(&|r| (r.start.same_clock && r.end.delay.count > 0).then(|| of(r) as f64))
    };
    let sum = |of: fn(&Run) -> u64| runs.iter().map(|r| of(r)).fold(0, u64::saturating_add);
    let added = |jitter: Jitter| {
        let beside = |run: &&Run| {
            let direct = direct.iter().find(|d| d.start.round == run.start.round)?;
            Some((jitter.p999(run)?, jitter.p999(direct)?))
        };
        let pairs: Vec<(f64, f64)> = whole.iter().filter_map(beside).collect();
        if name == DIRECT { None } else { Added::of(&pairs) }
    };
    let met = runs.iter().filter_map(|r| r.end.quiet.as_ref()).map(|q| (q.met, q.met + q.delay.count));
    let met = met.reduce(|a, b| (a.0 + b.0, a.1 + b.1)).filter(|(_, all)| *all > 0);
    let (lost, came) = (sum(|r| r.end.sum_received.lost_packets), sum(|r| r.end.sum_received.packets));
    let due = lost.saturating_add(came);
    let texts = |of: fn(&Run) -> Vec<String>| all.iter().flat_map(|r| of(r)).collect::<BTreeSet<_>>();
    Row {
        approach: name.to_owned(),
        rounds: whole.len(),
        partial: partial.len(),
        goodput: Figure::largest(&figures(&|r| Some(r.end.sum_received.bits_per_second))),
        delay_p50: delay(|r| r.end.delay.p50),
        delay_p99: delay(|r| r.end.delay.p99),
        delay_p999: delay(|r| r.end.delay.p999),
        variation_p999: smallest(&|r| Jitter::All.p999(r)),
        jitter_p999: smallest(&|r| (r.end.jitter.count > 0).then_some(r.end.jitter.p999 as f64)),
        added: added(Jitter::All),
        quiet_p999: smallest(&|r| Jitter::Quiet.p999(r)),
        added_quiet: added(Jitter::Quiet),
        met_percent: met.map(|(met, all)| met as f64 * 100.0 / all as f64),
        lost_percent: if due == 0 { 0.0 } else { lost as f64 * 100.0 / due as f64 },
        lost,
        late: sum(|r| r.end.sum_received.late),
        out_of_order: sum(|r| r.end.sum_received.out_of_order),
        corrupt: sum(|r| r.end.sum_received.corrupt),
        stalls: sum(|r| r.end.stall_count),
        stall_seconds: runs.iter().map(|r| r.end.stall_seconds).sum(),
        cpu_per_gb: smallest(&|r| {
            let bytes = r.end.sum_received.bytes;
            (bytes > 0).then_some(())?;
            Some(r.end.cpu.relay? / (bytes as f64 / 1e9))
        }),
        cycles: smallest(&cycles),
        limited_by: texts(|r| r.end.limited_by.clone()),
        notes: texts(|r| r.end.warnings.iter().chain(&r.end.error).cloned().collect()),
    }
}

/// Mean of what the gateways tell.
pub(super) fn cycles(run: &Run) -> Option<f64> {
    let told: Vec<f64> = run.end.gateways.iter().filter_map(|g| g.cycles_per_packet).collect();
    (!told.is_empty()).then(|| told.iter().sum::<f64>() / told.len() as f64)
}

fn warnings(all: &[Series]) -> Vec<String> {
    let mut warnings = Vec::new();
    for series in all.iter().filter(|s| s.partial) {
        let why = series.error.as_deref().unwrap_or("it was interrupted");
        warnings.push(format!("\"{}\" is partial: {why}", series.title));
    }
    let runs = || all.iter().flat_map(|s| &s.runs);
    if runs().next().is_none() {
        warnings.push("there are no runs".to_owned());
    }
    let mut differ = |what: &str, so: &str, of: fn(&Run) -> String| {
        let kinds: BTreeSet<String> = runs().map(of).collect();
        if kinds.len() > 1 {
            let kinds: Vec<String> = kinds.into_iter().collect();
            warnings.push(format!("the runs are of {} {what}, {so}: {}", kinds.len(), kinds.join("; ")));
        }
    };
    let apart = "and figures can be compared only within one of them";
    differ("machines", apart, |r| format!("{}, {}", r.start.host.machine, r.start.host.cpu));
    differ("kernels", apart, |r| r.start.host.kernel.clone());
    differ("commits", "so ours may not be the same program throughout", |r| r.start.host.commit.clone());
    let mut profiles: BTreeMap<&str, Vec<&BTreeMap<String, serde_json::Value>>> = BTreeMap::new();
    for run in runs() {
        let seen = profiles.entry(run.start.profile.as_str()).or_default();
        if !seen.contains(&&run.start.parameters) {
            seen.push(&run.start.parameters);
        }
    }
    for (profile, kinds) in profiles.iter().filter(|(_, kinds)| kinds.len() > 1) {
        warnings.push(format!(
            "profile {profile} has {} different sets of parameters; each has a table of its own",
            kinds.len()
        ));
    }
    // Later runs find the load of those before them.
    for first in all.iter().filter_map(|s| s.runs.first()) {
        if let Some(load) = first.start.host.load.filter(|load| *load > 0.5) {
            warnings.push(format!("the machine was not quiet: its load, a mean over the minute before, was {load} when the runs began"));
        }
    }
    warnings
}
