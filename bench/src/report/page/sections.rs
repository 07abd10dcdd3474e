//! The page's sections, top to bottom.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::{badge, plot, table};
use crate::report::arithmetic::Arithmetic;
use crate::report::figure::{NOTHING, cell, count, rate, short};
use crate::report::figures;
use crate::report::goals::{Judged, Verdict};
use crate::report::grid::Grid;
use crate::report::input::Input;
use crate::report::summary::{Group, Setting, Summary, approach};
use crate::report::text;
use crate::result::{Label, Run};

/// Where the figures of some groups come from.
pub(super) fn label(groups: &[&Group]) -> Label {
    if groups.iter().any(|g| g.quick) { Label::Quick } else { Label::Measured }
}

fn all(input: &Input) -> impl Iterator<Item = &Run> {
    input.series.iter().flat_map(|s| &s.runs)
}

pub(super) fn subtitle(input: &Input) -> String {
    let runs = all(input).count();
    let parts = all(input).next().map(|run| {
        let host = &run.start.host;
        format!(
            ", {} on {} cores of {}, {}, DPDK {}, commit {}",
            host.date, host.cores, host.cpu, host.kernel, host.dpdk, host.commit
        )
    });
    format!("{runs} run{}{}", if runs == 1 { "" } else { "s" }, parts.unwrap_or_default())
}

pub(super) fn goals(summary: &Summary) -> Markup {
    html! {
        @if !summary.goals.is_empty() {
            section {
                h2 { "Goals" }
                @for measure in ["relay-added p99.9 jitter", "goodput"] {
                    (goal_table(measure, &summary.goals.iter().filter(|g| g.measure == measure).collect::<Vec<_>>()))
                }
                h3 { "Where a peer is ahead" }
                @if summary.ahead.is_empty() {
                    p { "Nowhere, in goodput, jitter added, delay and processor time; the direct route is no peer." }
                } @else {
                    ul { @for one in &summary.ahead { li { (one) } } }
                }
            }
        }
    }
}

/// Ratios of one measure: a line for each of ours in each setting, a column a peer. The best of ours is judged.
fn goal_table(measure: &str, goals: &[&Judged]) -> Markup {
    let mut peers: Vec<&str> = Vec::new();
    let mut lines: Vec<(&Setting, Vec<&str>)> = Vec::new();
    for goal in goals {
        if !peers.contains(&goal.peer.as_str()) {
            peers.push(&goal.peer);
        }
        if !lines.iter().any(|(setting, _)| **setting == goal.setting) {
            lines.push((&goal.setting, Vec::new()));
        }
        for (_, ours) in lines.iter_mut().filter(|(setting, _)| **setting == goal.setting) {
            ours.extend(
                goal.all
                    .iter()
                    .map(|(name, _)| name.as_str())
                    .filter(|n| !ours.contains(n))
                    .collect::<Vec<_>>(),
            );
        }
    }
    let of = |setting: &Setting, peer: &str| goals.iter().find(|g| g.setting == *setting && g.peer == peer);
    html! {
        @if let Some(first) = goals.first() {
            h3 { "Ours over each peer's " (measure) ": goal " (first.goal) }
            div.wide { table {
                thead { tr {
                    th { "setting" } th { "ours, best first" }
                    @for peer in &peers { th.n { (peer) } th { "verdict" } }
                } }
                tbody { @for (setting, ours) in &lines {
                    @for (n, name) in ours.iter().map(Some).chain(ours.is_empty().then_some(None)).enumerate() {
                        tr.follows[n > 0] {
                            td { @if n == 0 { (setting) } }
                            td.name { (name.copied().unwrap_or(NOTHING)) }
                            @for goal in peers.iter().map(|peer| of(setting, peer)) {
                                (ratio(goal.copied(), name.copied(), n == 0))
                            }
                        }
                    }
                } }
            } }
        }
    }
}

/// Two cells: the ratio of one of ours and, on the first line, the verdict.
fn ratio(goal: Option<&Judged>, ours: Option<&str>, first: bool) -> Markup {
    let figure = goal.and_then(|g| g.all.iter().find(|(name, _)| Some(name.as_str()) == ours));
    let class = |v: &Verdict| match v {
        Verdict::Met => "good",
        Verdict::Missed { .. } => "bad",
        _ => "open",
    };
    html! {
        td.n { @match (goal, figure) {
            (Some(goal), Some(_)) if first && goal.ratio.is_some() => (goal.ratio_text()),
            (_, figure) => (cell(figure.map(|(_, ratio)| *ratio), short)),
        } }
        @match goal.filter(|_| first) {
            Some(goal) => td class=(class(&goal.verdict)) { (goal.verdict) },
            None => td {},
        }
    }
}

pub(super) fn throughput(summary: &Summary) -> Markup {
    // Paced streams get what they ask for or do not keep up: either is in their tables.
    let mut streams = figures::by_stream(&summary.groups);
    if streams.iter().any(|(_, groups)| groups.iter().any(|g| !g.setting.paced)) {
        streams.retain(|(_, groups)| groups.iter().any(|g| !g.setting.paced));
    }
    let plots: Vec<(Label, String, String)> = streams
        .iter()
        .filter_map(|(title, groups)| {
            Some((label(groups), title.clone(), figures::throughput(title, groups)?))
        })
        .collect();
    html! {
        @if !plots.is_empty() {
            section {
                h2 { "Throughput by approach and path" }
                @for (label, title, svg) in &plots {
                    (plot(*label, &format!("Goodput, {title}: bar best round, tick median"), svg))
                }
            }
        }
    }
}

pub(super) fn jitter(input: &Input, summary: &Summary) -> Markup {
    let added: Vec<(Label, String, String)> = figures::by_stream(&summary.groups)
        .iter()
        .filter(|(_, groups)| groups.iter().all(|g| g.setting.paced))
        .filter_map(|(title, groups)| Some((label(groups), title.clone(), figures::added(title, groups)?)))
        .collect();
    let paced = summary.groups.iter().any(|g| g.setting.paced);
    let tails: Vec<(&Group, String)> = summary
        .groups
        .iter()
        .filter(|g| g.setting.paced || !paced)
        .filter_map(|g| Some((g, figures::tails(g, input)?)))
        .collect();
    html! {
        @if !added.is_empty() || !tails.is_empty() {
            section {
                h2 { "Delay and jitter" }
                @for (label, title, svg) in &added {
                    (plot(*label, &format!(
                        "Relay-added p99.9 jitter, {title}: delay variation less the direct route's of the same round; dot \
                         median, line to the best round, ring where it cannot be told from the direct route's own"
                    ), svg))
                }
                @for (group, svg) in &tails {
                    (plot(label(&[*group]), &format!("Distributions over all rounds, {}", group.setting), svg))
                }
            }
        }
    }
}

pub(super) fn over_time(input: &Input, summary: &Summary) -> Markup {
    let plots: Vec<(&Group, String)> =
        summary.groups.iter().filter_map(|g| Some((g, figures::over_time(g, input)?))).collect();
    html! {
        @if !plots.is_empty() {
            section {
                h2 { "Over time" }
                @for (group, svg) in &plots {
                    (plot(label(&[*group]), &format!("Goodput each second, a line a round, stalls red; {}", group.setting), svg))
                }
            }
        }
    }
}

pub(super) fn cost(input: &Input, summary: &Summary) -> Markup {
    let streams = figures::by_stream(&summary.groups);
    let of = |what: fn(&str, &[&Group]) -> Option<String>| -> Vec<(Label, String, String)> {
        let each = streams.iter().filter_map(|(title, g)| Some((label(g), title.clone(), what(title, g)?)));
        each.collect()
    };
    let (processor, cycles) = (of(figures::processor), of(figures::cycles));
    let cores: Vec<(Label, String, String)> = input
        .cores
        .iter()
        .filter_map(|core| {
            let label = if core.start.label == "quick" { Label::Quick } else { Label::Measured };
            let s = &core.start;
            Some((
                label,
                format!("{}, {}, DPDK {}, commit {}", s.date, s.cpu, s.dpdk, s.commit),
                figures::core(core)?,
            ))
        })
        .collect();
    html! {
        @if !(processor.is_empty() && cycles.is_empty() && cores.is_empty()) {
            section {
                h2 { "Cost" }
                @for (label, title, svg) in &processor {
                    (plot(*label, &format!("Processor seconds of everything between the ends for 10^9 bytes, {title}"), svg))
                }
                @for (label, title, svg) in &cycles {
                    (plot(*label, &format!(
                        "Cycles a packet of our gateways' workers in turns that found packets, {title}; over AF_PACKET and \
                         AF_XDP nearly all of it is the kernel's work on the device"
                    ), svg))
                }
                @for (label, title, svg) in &cores {
                    (plot(*label, &format!("Cycles a packet of s2bench core: {title}"), svg))
                }
            }
        }
    }
}

pub(super) fn projection(input: &Input) -> Markup {
    let mut grid =
        Grid::new(&[">Gbit/s", ">MTU", ">Mpps", ">relay's cycles (measured)", ">cores", ">cores at most"]);
    for p in input.cores.iter().flat_map(|c| &c.projection) {
        grid.row([
            p.gbits.to_string(),
            p.mtu.to_string(),
            short(p.mpps),
            short(p.relay_cycles),
            short(p.cores),
            short(p.cores_most),
        ]);
    }
    let (estimate, bound) = crate::core::DRIVER_CYCLES;
    html! {
        section {
            h2 { "Beyond this machine" }
            @if grid.rows.is_empty() {
                p.small { "No projection: give a result of " code { "s2bench core --json" } " beside these files for one." }
            } @else {
                p {
                    (badge(Label::Projected)) " Cores like the measured one for a line rate in one direction: the relay's \
                    cycles as measured plus those of a NIC's driver, " (estimate) " (our estimate) and " (bound) " (published \
                    upper bound, VPP with DPDK's mlx5 driver), over the clock rate. Headers from a NIC lie in the last-level \
                    cache at best; several workers share it, memory and PCIe: an order of magnitude, no promise."
                }
                (table(&grid))
            }
            p {
                (badge(Label::Published)) " Relays that SciStream uses today: 6 to 16 Gbit/s (SciStream: Architecture and Toolkit \
                for Data Streaming between Federated Science Instruments, HPDC 2022). On other machines than these: no figure of \
                this page can be divided by it."
            }
        }
    }
}

pub(super) fn arithmetic(input: &Input, summary: &Summary) -> Markup {
    let mut grid = Grid::new(&[
        "path",
        ">RTT",
        ">rate",
        ">loss %",
        ">MTU",
        "made by",
        ">bandwidth x delay",
        ">1 GiB window allows",
        ">buffers asked for allow",
        ">Reno at this loss",
        ">loss that Reno fills it at, %",
        ">best measured, a connection",
    ]);
    let mut seen = Vec::new();
    for path in summary.groups.iter().filter_map(|g| g.setting.path.as_ref()) {
        if seen.contains(&path) {
            continue;
        }
        seen.push(path);
        let on = || all(input).filter(|r| r.start.path.as_ref() == Some(path));
        let a = Arithmetic::of(path, on().find_map(|r| r.start.socket_buffer));
        let each = |r: &Run| r.end.sum_received.bits_per_second / f64::from(r.start.connections.max(1));
        grid.row([
            path.preset.clone().unwrap_or_else(|| format!("{} ms", path.rtt_ms)),
            format!("{} ms", path.rtt_ms),
            cell(path.bits_per_second.map(|b| b as f64), rate),
            path.loss_percent.to_string(),
            path.mtu.to_string(),
            path.by.clone(),
            cell(a.bandwidth_delay, bytes),
            cell(a.window_bound, rate),
            cell(a.buffer_bound, rate),
            cell(a.reno_bound, rate),
            cell(a.reno_loss_percent, short),
            cell(on().map(each).filter(|b| b.is_finite()).reduce(f64::max), rate),
        ]);
    }
    html! {
        @if !grid.rows.is_empty() {
            section {
                h2 { "What the paths allow" }
                p {
                    (badge(Label::Projected)) " One TCP connection can have a window on the way each round trip, at most 1 GiB \
                    (RFC 7323), or the socket buffers that were asked for. At random loss p, Reno keeps to MSS / RTT x 1.22 / \u{221a}p \
                    (Mathis, Semke, Mahdavi, Ott: The Macroscopic Behavior of the TCP Congestion Avoidance Algorithm, ACM CCR 27(3), \
                    1997), MSS being the MTU less 52 bytes; other congestion controls do better. A relay that ends TCP itself \
                    splits the path, and each part has a window and a loss of its own; ours does not."
                }
                (table(&grid))
            }
        }
    }
}

fn bytes(n: f64) -> String {
    match n {
        n if n >= 1e9 => format!("{} GB", short(n / 1e9)),
        n if n >= 1e6 => format!("{} MB", short(n / 1e6)),
        n => format!("{} kB", short(n / 1e3)),
    }
}

/// What became of packets: approach and gateway, then sums by reason.
#[derive(Default)]
struct Account {
    runs: usize,
    received: u64,
    sent: u64,
    held: u64,
    drops: BTreeMap<String, u64>,
}

pub(super) fn ledger(input: &Input) -> Markup {
    let mut accounts: BTreeMap<(String, String), Account> = BTreeMap::new();
    for run in all(input) {
        for gateway in &run.end.gateways {
            let account = accounts.entry((approach(run).to_owned(), gateway.gateway.clone())).or_default();
            account.runs += 1;
            account.received = account.received.saturating_add(gateway.received);
            account.sent = account.sent.saturating_add(gateway.sent);
            account.held = account.held.saturating_add(gateway.held);
            for (reason, n) in gateway.drops.iter().filter(|(_, n)| **n > 0) {
                let sum = account.drops.entry(reason.clone()).or_default();
                *sum = sum.saturating_add(*n);
            }
        }
    }
    let mut grid = Grid::new(&[
        "approach",
        "gateway",
        ">runs",
        ">received",
        ">sent",
        ">held",
        ">dropped",
        ">unaccounted",
        "drops by reason",
    ]);
    for ((approach, gateway), a) in &accounts {
        let dropped: u128 = a.drops.values().map(|n| u128::from(*n)).sum();
        let missing = i128::from(a.received) - i128::from(a.sent) - i128::from(a.held) - dropped as i128;
        let reasons: Vec<String> =
            a.drops.iter().map(|(reason, n)| format!("{reason} {}", count(*n))).collect();
        grid.row([
            approach.clone(),
            gateway.clone(),
            a.runs.to_string(),
            count(a.received),
            count(a.sent),
            count(a.held),
            dropped.to_string(),
            missing.to_string(),
            if reasons.is_empty() { NOTHING.to_owned() } else { reasons.join(", ") },
        ]);
    }
    html! {
        @if !grid.rows.is_empty() {
            section {
                h2 { "Drop ledger" }
                p { (badge(Label::Measured)) " Packets in our gateways, over all runs: received = sent + held + dropped + unaccounted. \
                    Other approaches keep none." }
                (table(&grid))
            }
        }
    }
}

pub(super) fn tables(summary: &Summary) -> Markup {
    html! {
        @if !summary.groups.is_empty() {
            section {
                h2 { "All approaches" }
                @for group in &summary.groups {
                    h3 { (group.setting) " " (badge(label(&[group]))) }
                    (table(&text::approaches(group)))
                    @let notes: Vec<String> = group.rows.iter()
                        .flat_map(|r| text::notes(r).into_iter().map(|n| format!("{}: {n}", r.approach))).collect();
                    @if !notes.is_empty() { ul.small { @for note in &notes { li { (note) } } } }
                }
                @if !summary.omitted.is_empty() {
                    h3 { "Not run" }
                    (table(&text::omitted(summary)))
                }
            }
        }
    }
}

pub(super) fn settings(input: &Input) -> Markup {
    let mut approaches: Vec<&crate::result::Approach> = Vec::new();
    let mut profiles = Vec::new();
    for start in all(input).map(|r| &r.start) {
        if let Some(one) = start.approach.as_ref().filter(|a| !approaches.contains(a)) {
            approaches.push(one);
        }
        let profile = (&start.profile, &start.parameters);
        if !profiles.contains(&profile) {
            profiles.push(profile);
        }
    }
    html! {
        @if !approaches.is_empty() || !profiles.is_empty() {
            section {
                h2 { "Settings and versions" }
                div.wide { table {
                    thead { tr { th { "approach" } th { "version" } th { "settings" } } }
                    tbody { @for one in &approaches {
                        tr {
                            td { span.key style={ "background:" (crate::report::plots::hex(&one.name)) } {} (one.name) }
                            td { (one.version) }
                            td.settings { @for line in &one.settings { code { (line) } } }
                        }
                    } }
                } }
                div.wide { table {
                    thead { tr { th { "profile" } th { "parameters" } } }
                    tbody { @for (name, parameters) in &profiles {
                        tr {
                            td { (name) }
                            td.settings { @for (key, value) in *parameters { code { (key) " = " (value) } } }
                        }
                    } }
                } }
            }
        }
    }
}

pub(super) fn hosts(input: &Input) -> Markup {
    let mut grid = Grid::new(&[
        "machine",
        "processor",
        ">cores",
        ">GiB",
        ">NUMA nodes",
        "governor",
        ">load at first",
        "kernel",
        "DPDK",
        "s2bench",
        "commit",
        ">runs",
    ]);
    let mut hosts: Vec<(crate::host::Host, usize)> = Vec::new();
    for run in all(input) {
        // The hour and the load are of a run, the rest of the machine.
        let same = |h: &crate::host::Host| {
            let other = crate::host::Host { date: h.date.clone(), load: h.load, ..run.start.host.clone() };
            *h == other
        };
        match hosts.iter_mut().find(|(h, _)| same(h)) {
            Some((_, runs)) => *runs += 1,
            None => hosts.push((run.start.host.clone(), 1)),
        }
    }
    for (h, runs) in &hosts {
        grid.row([
            h.machine.clone(),
            h.cpu.clone(),
            h.cores.to_string(),
            h.memory_gib.to_string(),
            h.numa_nodes.to_string(),
            h.governor.clone(),
            cell(h.load, short),
            h.kernel.clone(),
            h.dpdk.clone(),
            h.version.clone(),
            h.commit.clone(),
            runs.to_string(),
        ]);
    }
    html! {
        @if !hosts.is_empty() { section { h2 { "Hosts" } (table(&grid)) } }
    }
}

pub(super) fn legend() -> Markup {
    html! {
        section {
            h2 { "How to read this" }
            ul {
                @for line in text::LEGEND { li { (line) } }
                li { (badge(Label::Measured)) " by these runs; " (badge(Label::Quick)) " by runs too short to judge; "
                     (badge(Label::Projected)) " computed from what was measured or from the path; "
                     (badge(Label::Published)) " by others." }
            }
        }
    }
}
