//! What paths allow, and what became of the packets on them.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::sections::all;
use super::{badge, table};
use crate::report::arithmetic::Arithmetic;
use crate::report::figure::{NOTHING, cell, count, rate, short};
use crate::report::grid::Grid;
use crate::report::input::Input;
use crate::report::summary::{Summary, approach};
use crate::result::{Label, Run};

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
