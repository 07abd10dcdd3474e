//! The figures that are read first. Each is the worst over the settings, so that none promises what another table takes back.

use maud::{Markup, html};

use super::badge;
use super::sections::label;
use crate::report::figure::{Figure, count, rate, short, time};
use crate::report::figures::{headline_time, least_added};
use crate::report::goals::{Judged, Verdict};
use crate::report::input::Input;
use crate::report::summary::{Group, Jitter, Summary, is_ours};
use crate::result::Label;

struct Card {
    label: Label,
    title: String,
    figure: String,
    detail: String,
}

pub(super) fn headlines(input: &Input, summary: &Summary) -> Markup {
    let cards: Vec<Card> =
        [jitter(summary, "haproxy"), jitter(summary, "naive"), goodput(summary), processor(summary)]
            .into_iter()
            .chain([cycles(input), projected(input)])
            .flatten()
            .collect();
    html! {
        @if !cards.is_empty() {
            section.cards {
                @for card in &cards {
                    div.card {
                        div.title { (card.title) }
                        div.figure { (card.figure) }
                        div.detail { (card.detail) }
                        div { (badge(card.label)) }
                    }
                }
            }
        }
    }
}

fn judged_label(goal: &Judged) -> Label {
    if goal.verdict == Verdict::Quick { Label::Quick } else { Label::Measured }
}

fn jitter(summary: &Summary, peer: &str) -> Option<Card> {
    // Where hiccups were watched for, without them: they are the machine's, and most of the rest.
    let goals = |kind: Jitter| {
        summary
            .goals
            .iter()
            .filter(move |g| g.measure == kind.measure() && g.peer == peer && g.ratio.is_some())
    };
    let kind = if goals(Jitter::Quiet).next().is_some() { Jitter::Quiet } else { Jitter::All };
    let goals = goals(kind);
    let worst = goals.max_by(|a, b| a.ratio.unwrap_or(0.0).total_cmp(&b.ratio.unwrap_or(0.0)))?;
    let group = summary.groups.iter().find(|g| g.setting == worst.setting)?;
    let (ours, our_share) = least_added(group, kind, is_ours)?;
    let (_, theirs) = least_added(group, kind, |name| name == peer)?;
    Some(Card {
        label: judged_label(worst),
        title: format!("Jitter added, beside {peer}"),
        figure: share(worst.ratio.unwrap_or(0.0), worst.at_most),
        detail: format!(
            "p99.9{}: {} by {}, {} by {peer}; worst of all settings, {}. Goal {}: {}",
            if kind == Jitter::Quiet { " without the machine's hiccups" } else { "" },
            headline_time(our_share),
            ours.approach,
            headline_time(theirs),
            group.setting,
            worst.goal,
            worst.verdict
        ),
    })
}

/// `1/136`: what is less than one of many is read as a part of it. `<` where it is only a bound.
fn share(ratio: f64, at_most: bool) -> String {
    let bound = if at_most { "< " } else { "" };
    match ratio {
        r if r > 0.0 && r < 0.5 => format!("{bound}1/{}", count((1.0 / r).floor() as u64)),
        r => format!("{bound}{} \u{d7}", short(r)),
    }
}

fn goodput(summary: &Summary) -> Option<Card> {
    let best = |g: &Group, ours: bool| {
        let rows = g.rows.iter().filter(|r| is_ours(&r.approach) == ours && r.rounds > 0);
        let all = rows.filter_map(|r| Some((r.approach.clone(), r.goodput?.best)));
        all.max_by(|a, b| a.1.total_cmp(&b.1))
    };
    let fast = summary.groups.iter().filter(|g| !g.setting.paced);
    let (group, (name, most)) =
        fast.filter_map(|g| Some((g, best(g, true)?))).max_by(|a, b| a.1.1.total_cmp(&b.1.1))?;
    let goals = summary.goals.iter().filter(|g| g.measure == "goodput" && g.ratio.is_some());
    let worst = goals.min_by(|a, b| a.ratio.unwrap_or(0.0).total_cmp(&b.ratio.unwrap_or(0.0)));
    let beside = worst.map_or(String::new(), |w| {
        format!(
            ". Least beside a user-space proxy: {} x {} ({}): {}",
            w.ratio_text(),
            w.peer,
            w.setting,
            w.verdict
        )
    });
    Some(Card {
        label: label(&[group]),
        title: "Goodput as fast as it goes".to_owned(),
        figure: rate(most),
        detail: format!("{name}, {}{beside}", group.setting),
    })
}

fn processor(summary: &Summary) -> Option<Card> {
    let least = |g: &Group, ours: bool| {
        let rows = g.rows.iter().filter(|r| is_ours(&r.approach) == ours && r.rounds > 0);
        let all = rows.filter_map(|r| Some((r.approach.clone(), r.cpu_per_gb?.best)));
        all.min_by(|a, b| a.1.total_cmp(&b.1))
    };
    let fast = summary.groups.iter().filter(|g| !g.setting.paced);
    let all = fast.filter_map(|g| Some((g, least(g, true)?, least(g, false))));
    let (group, ours, theirs) = all.max_by(|a, b| a.1.1.total_cmp(&b.1.1))?;
    let beside = theirs.map_or(String::new(), |(name, cpu)| format!("; {name} {} s", short(cpu)));
    Some(Card {
        label: label(&[group]),
        title: "Processor time a GB".to_owned(),
        figure: format!("{} s", short(ours.1)),
        detail: format!("{}{beside}; worst path, {}", ours.0, group.setting),
    })
}

fn cycles(input: &Input) -> Option<Card> {
    let core = input.cores.first()?;
    let row = core.rows.iter().find(|r| r.name == "mtu-1500" && r.unit == "cycles")?;
    let figure = Figure::smallest(&row.figures)?;
    Some(Card {
        label: if core.start.label == "quick" { Label::Quick } else { Label::Measured },
        title: "The relay's own cost".to_owned(),
        figure: format!("{} cycles", short(figure.best)),
        detail: format!("a packet of 1500 B, no NIC, median {}; {}", short(figure.median), core.start.cpu),
    })
}

fn projected(input: &Input) -> Option<Card> {
    let core = input.cores.first()?;
    let line = core.projection.iter().find(|p| p.gbits == 200 && p.mtu == 9000)?;
    Some(Card {
        label: Label::Projected,
        title: "200 Gbit/s at 9000 B".to_owned(),
        figure: format!("{} cores", short(line.cores)),
        detail: format!(
            "of this clock, one direction; at most {} with the driver's published cost. {} for each packet there",
            short(line.cores_most),
            time(1e3 / line.mpps)
        ),
    })
}
