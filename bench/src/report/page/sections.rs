//! The page's sections, top to bottom.

use maud::{Markup, html};

use super::{badge, plot, table};
use crate::report::figure::{cell, short};
use crate::report::figures;
use crate::report::grid::Grid;
use crate::report::input::Input;
use crate::report::summary::{Group, Jitter, Summary};
use crate::report::text;
use crate::result::{Label, Run};

/// Where the figures of some groups come from.
pub(super) fn label(groups: &[&Group]) -> Label {
    if groups.iter().any(|g| g.quick) { Label::Quick } else { Label::Measured }
}

pub(super) fn all(input: &Input) -> impl Iterator<Item = &Run> {
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
        .flat_map(|(title, groups)| {
            Jitter::BOTH.into_iter().filter_map(move |jitter| {
                let what = match jitter {
                    Jitter::All => title.clone(),
                    Jitter::Quiet => format!("{title}, of messages that met no hiccup of the machine"),
                };
                Some((label(groups), what, figures::added(title, groups, jitter)?))
            })
        })
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
                (badge(Label::Published)) " SciStream's own evaluation on FABRIC, 2022, one ZeroMQ stream, best message size, in Gbit/s at a \
                round-trip time of 0.25, 24 and 143 ms: direct 15.4, 13.1, 6.9; buffer-and-forward S2DS 11.4, 10.8, 7.3; \
                sockmap S2DS 13.5, 12.8, 6.9. On other machines than these: no figure of this page can be divided by it."
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
