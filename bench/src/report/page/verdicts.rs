//! Goals, their verdicts, and where a peer is ahead.

use maud::{Markup, html};

use crate::report::figure::{NOTHING, cell, short};
use crate::report::goals::{Judged, Verdict};
use crate::report::summary::{Jitter, Setting, Summary};

pub(super) fn goals(summary: &Summary) -> Markup {
    html! {
        @if !summary.goals.is_empty() {
            section {
                h2 { "Goals" }
                @for measure in [Jitter::All.measure(), Jitter::Quiet.measure(), "goodput"] {
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
