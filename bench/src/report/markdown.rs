//! The summary as Markdown, for issues and notes.

use super::figure::{count, rate};
use super::grid::plain;
use super::summary::Summary;
use super::text;

/// The whole summary.
#[must_use]
pub fn markdown(summary: &Summary) -> String {
    let mut out = String::from("# Streams through each approach\n");
    let list = |items: &mut dyn Iterator<Item = String>| {
        items.map(|i| format!("- {}\n", plain(&i))).collect::<String>()
    };
    if !summary.warnings.is_empty() {
        out += "\n";
        out += &list(&mut summary.warnings.iter().cloned());
    }
    if !summary.goals.is_empty() {
        out += &format!("\n## Goals\n\n{}", text::goals(summary).markdown());
    }
    if !summary.ahead.is_empty() {
        out += "\n## Where a peer is ahead\n\n";
        out += &list(&mut summary.ahead.iter().map(ToString::to_string));
    }
    for group in &summary.groups {
        out += &format!("\n## {}\n\n", plain(&group.setting.to_string()));
        if group.quick {
            out += "A quick run: it shows that it works, and judges nothing.\n\n";
        }
        if let Some(path) = &group.setting.path {
            let limit = path.bits_per_second.map_or("no limit of rate".to_owned(), |b| rate(b as f64));
            out += &format!(
                "RTT {} ms, {limit}, loss {} %, MTU {}, by {}. Measured.\n\n",
                path.rtt_ms,
                path.loss_percent,
                count(path.mtu.into()),
                plain(&path.by)
            );
        }
        out += &text::approaches(group).markdown();
        let notes: Vec<String> = group
            .rows
            .iter()
            .flat_map(|r| text::notes(r).into_iter().map(|n| format!("{}: {n}", r.approach)))
            .collect();
        if !notes.is_empty() {
            out += "\n";
            out += &list(&mut notes.into_iter());
        }
    }
    if !summary.omitted.is_empty() {
        out += &format!("\n## Not run\n\n{}", text::omitted(summary).markdown());
    }
    if !summary.groups.is_empty() {
        out += "\n";
        out += &list(&mut text::LEGEND.iter().map(|l| (*l).to_owned()));
    }
    out
}
