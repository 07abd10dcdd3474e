//! From runs and figures to plots.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::figure::{Figure, rate, short, time};
use super::input::{Core, Input};
use super::plots::{self, Bar, Panel, Share, Strip, Tail, colour};
use super::summary::{Added, DIRECT, Group, Jitter, Row, Setting, approach, is_ours};
use crate::result::{Distribution, Run, histogram};

/// Groups that differ only in their path, nearest first: what one plot shows side by side.
pub(super) fn by_stream(groups: &[Group]) -> Vec<(String, Vec<&Group>)> {
    let mut all: BTreeMap<(bool, String, u32, String), Vec<&Group>> = BTreeMap::new();
    for group in groups {
        let s = &group.setting;
        let rest = serde_json::to_string(&s.parameters).unwrap_or_default();
        let key = (s.paced, format!("{}, {}", s.profile, s.carrier), s.connections, rest);
        all.entry(key).or_default().push(group);
    }
    let title =
        |(name, n): (&String, &u32)| format!("{name}, {n} connection{}", if *n == 1 { "" } else { "s" });
    all.iter().map(|((_, name, n, _), groups)| (title((name, n)), groups.clone())).collect()
}

/// The path of a setting, for a panel: its name, and what it is.
fn place(setting: &Setting) -> (String, String) {
    let Some(path) = setting.path.as_ref().filter(|p| p.preset.is_some()) else {
        return (setting.path_name(), String::new());
    };
    let rate = path.bits_per_second.map_or_else(String::new, |b| format!(", {}", rate(b as f64)));
    let loss =
        if path.loss_percent > 0.0 { format!(", {} % loss", path.loss_percent) } else { String::new() };
    (setting.path_name(), format!("{} ms{rate}{loss}", path.rtt_ms))
}

/// A panel for each group that has something to show.
fn panels<T>(groups: &[&Group], of: impl Fn(&Row) -> Option<T>) -> Vec<Panel<T>> {
    let panel = |g: &&Group| {
        let (title, note) = place(&g.setting);
        Panel { title, note, marks: g.rows.iter().filter_map(&of).collect() }
    };
    groups.iter().map(panel).filter(|p| !p.marks.is_empty()).collect()
}

fn bar(row: &Row, figure: Figure, label: String) -> Bar {
    Bar {
        name: row.approach.clone(),
        colour: colour(&row.approach),
        best: figure.best,
        median: figure.median,
        label: if row.rounds == 0 { format!("{label} partial") } else { label },
        strong: is_ours(&row.approach),
    }
}

/// Goodput by approach and path; none when nothing came through.
pub(super) fn throughput(title: &str, groups: &[&Group]) -> Option<String> {
    let panels = panels(groups, |row| {
        let goodput = row.goodput?;
        Some(bar(row, goodput, rate(goodput.best)))
    });
    (!panels.is_empty()).then(|| plots::bars(&format!("goodput by approach and path, {title}"), &panels))
}

/// Processor time a GB by approach and path; none when nobody tells.
pub(super) fn processor(title: &str, groups: &[&Group]) -> Option<String> {
    let panels = panels(groups, |row| {
        let cpu = row.cpu_per_gb?;
        Some(bar(row, cpu, format!("{} s", short(cpu.best))))
    });
    (!panels.is_empty()).then(|| plots::bars(&format!("processor seconds for 10^9 bytes, {title}"), &panels))
}

/// Cycles a packet of the gateways that tell; none when none does.
pub(super) fn cycles(title: &str, groups: &[&Group]) -> Option<String> {
    let panels = panels(groups, |row| {
        let cycles = row.cycles?;
        Some(bar(row, cycles, short(cycles.best)))
    });
    (!panels.is_empty()).then(|| plots::bars(&format!("cycles a packet, {title}"), &panels))
}

/// Cycles a packet of the rows of `s2bench core`; none when it has none.
pub(super) fn core(core: &Core) -> Option<String> {
    let marks: Vec<Bar> = core
        .rows
        .iter()
        .filter(|row| row.unit == "cycles")
        .filter_map(|row| {
            let figure = Figure::smallest(&row.figures)?;
            let peer = row.name.starts_with("testpmd") || row.name.starts_with("l3fwd");
            Some(Bar {
                name: row.name.clone(),
                colour: colour(if peer { "nftables" } else { "s2ds-af_xdp-adaptive" }),
                best: figure.best,
                median: figure.median,
                label: short(figure.best),
                strong: !peer,
            })
        })
        .collect();
    let title = "cycles a packet on one core, no NIC".to_owned();
    (!marks.is_empty()).then(|| {
        plots::bars(
            "cycles a packet",
            &[Panel { title, note: "DPDK's own programs are grey".to_owned(), marks }],
        )
    })
}

/// What each approach adds to the 99.9th percentile; none without the direct route.
pub(super) fn added(title: &str, groups: &[&Group], jitter: Jitter) -> Option<String> {
    let mark = |row: &Row| {
        let added = row.added_to(jitter)?;
        let (median, best) = match added {
            Added::Resolved(figure) => (figure.median, Some(figure.best)),
            Added::Below(bound) => (bound, None),
        };
        Some(Share {
            name: row.approach.clone(),
            colour: colour(&row.approach),
            median,
            best,
            label: added.to_string(),
            strong: is_ours(&row.approach),
        })
    };
    let panels = panels(groups, mark);
    (!panels.is_empty()).then(|| plots::shares(&format!("{}, {title}", jitter.measure()), &panels))
}

/// Runs of a group, by approach in the group's order: those that ran their time, others only where there are no such.
fn runs<'a>(group: &'a Group, input: &'a Input) -> Vec<(&'a Row, Vec<&'a Run>)> {
    let all: Vec<&Run> = input
        .series
        .iter()
        .flat_map(|s| &s.runs)
        .filter(|r| group.setting == Setting::of(&r.start))
        .collect();
    let of = |row: &Row| {
        let own = all.iter().copied().filter(|r| approach(r) == row.approach);
        own.filter(|r| row.rounds == 0 || !r.end.partial).collect()
    };
    group.rows.iter().map(|row| (row, of(row))).collect()
}

/// Delay, its variation and inter-arrival jitter to p99.99; none when no run has a distribution.
pub(super) fn tails(group: &Group, input: &Input) -> Option<String> {
    let runs = runs(group, input);
    let clocks = runs.iter().flat_map(|(_, runs)| runs).all(|r| r.start.same_clock);
    let panel = |title: &str, of: fn(&Run) -> Option<&Distribution>| Panel {
        title: title.to_owned(),
        note: String::new(),
        marks: runs
            .iter()
            .map(|(row, runs)| Tail {
                name: row.approach.clone(),
                colour: colour(&row.approach),
                points: points(runs.iter().filter_map(|r| of(r))),
                strong: is_ours(&row.approach),
            })
            .filter(|tail| tail.points.len() > 1)
            .collect(),
    };
    let delay = clocks.then(|| panel("one-way delay", |r| Some(&r.end.delay)));
    let panels: Vec<Panel<Tail>> = delay
        .into_iter()
        .chain([
            panel("delay variation (PDV)", |r| Jitter::All.variation(r)),
            panel("PDV without hiccups", |r| Jitter::Quiet.variation(r)),
            panel("inter-arrival jitter (IPDV)", |r| Some(&r.end.jitter)),
        ])
        .filter(|p| !p.marks.is_empty())
        .collect();
    (!panels.is_empty()).then(|| plots::tails(&format!("delay and jitter, {}", group.setting), &panels))
}

/// Steps within a nine.
const STEPS: u32 = 25;
/// Nines shown.
const NINES: u32 = 4;

/// Quantiles of distributions put together, by nines, as far as the count of values supports.
fn points<'a>(all: impl Iterator<Item = &'a Distribution>) -> Vec<(f64, f64)> {
    let mut together: Histogram<u64> = histogram();
    for (histogram, offset) in all.filter_map(|d| Some((d.histogram()?, d.offset))) {
        for step in histogram.iter_recorded() {
            let value = step.value_iterated_to().saturating_add_signed(offset);
            together.saturating_record_n(value.max(1), step.count_at_value());
        }
    }
    let most = (together.len() as f64).log10();
    let nines = (0..=STEPS * NINES).map(|n| f64::from(n) / f64::from(STEPS));
    let at = |nines: f64| together.value_at_quantile(1.0 - 10f64.powf(-nines)).min(together.max());
    nines.take_while(|n| *n <= most).map(|n| (n, at(n) as f64)).collect()
}

/// Goodput over time with stalls; none without intervals.
pub(super) fn over_time(group: &Group, input: &Input) -> Option<String> {
    let line = |run: &Run| {
        let each = run.intervals.iter().map(|i| ((i.sum.start + i.sum.end) / 2.0, i.sum.bits_per_second));
        each.filter(|(t, bits)| t.is_finite() && bits.is_finite()).collect::<Vec<_>>()
    };
    let strips: Vec<Strip> = runs(group, input)
        .into_iter()
        .map(|(row, runs)| Strip {
            name: row.approach.clone(),
            colour: colour(&row.approach),
            lines: runs.iter().map(|r| line(r)).filter(|l| !l.is_empty()).collect(),
            stalls: runs.iter().flat_map(|r| &r.end.stalls).map(|s| (s.start, s.seconds)).collect(),
            strong: is_ours(&row.approach),
        })
        .filter(|s| !s.lines.is_empty())
        .collect();
    (!strips.is_empty()).then(|| plots::strips(&format!("goodput over time, {}", group.setting), &strips))
}

/// The least relay-added jitter of a kind of approaches in a group, and whose it is.
pub(super) fn least_added(group: &Group, jitter: Jitter, of: impl Fn(&str) -> bool) -> Option<(&Row, Added)> {
    let rows = group.rows.iter().filter(|r| r.approach != DIRECT && of(&r.approach));
    let all = rows.filter_map(|r| Some((r, r.added_to(jitter)?)));
    all.min_by(|a, b| a.1.at_most().total_cmp(&b.1.at_most()))
}

/// A time for a headline.
pub(super) fn headline_time(added: Added) -> String {
    match added {
        Added::Resolved(figure) => time(figure.median),
        Added::Below(bound) => format!("< {}", time(bound)),
    }
}
