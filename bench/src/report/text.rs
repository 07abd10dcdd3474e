//! The summary as tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::figure::{NOTHING, cell, count, rate, short, time};
use super::goals::{Ahead, Judged, Verdict};
use super::grid::Grid;
use super::summary::{Added, Group, Row, Summary};

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Met => f.write_str("met"),
            Verdict::Missed { by } => write!(f, "missed by {} x", short(*by)),
            Verdict::Unresolved { reason } => write!(f, "not resolved: {reason}"),
            Verdict::NotMeasured { reason } => write!(f, "not measured: {reason}"),
            Verdict::Quick => f.write_str("quick, judges nothing"),
        }
    }
}

impl fmt::Display for Added {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Added::Resolved(figure) => f.write_str(&time(figure.median)),
            Added::Below(bound) => write!(f, "< {}", time(*bound)),
        }
    }
}

impl fmt::Display for Ahead {
    /// A sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |figure: f64| match self.measure {
            "goodput" => rate(figure),
            "processor time a GB" => format!("{} s", short(figure)),
            _ => time(figure),
        };
        write!(f, "{}: {} is ahead of {} in {}", self.setting, self.peer, self.ours, self.measure)?;
        write!(f, ", {} against {}", show(self.theirs), show(self.figure))?;
        self.factor.map_or(Ok(()), |factor| write!(f, ", {} x", short(factor)))
    }
}

impl Judged {
    /// The ratio as it is written: `<` where it is only a bound.
    #[must_use]
    pub fn ratio_text(&self) -> String {
        cell(self.ratio, |r| format!("{}{}", if self.at_most { "< " } else { "" }, short(r)))
    }
}

/// Goals, their verdicts, and each of ours.
#[must_use]
pub fn goals(summary: &Summary) -> Grid {
    let mut grid = Grid::new(&[
        "setting",
        "measure",
        "beside",
        ">goal",
        ">ratio",
        "best of ours",
        "verdict",
        "all of ours",
    ]);
    for goal in &summary.goals {
        let all: Vec<String> =
            goal.all.iter().map(|(name, ratio)| format!("{name} {}", short(*ratio))).collect();
        grid.row([
            goal.setting.to_string(),
            goal.measure.to_owned(),
            goal.peer.clone(),
            goal.goal.clone(),
            goal.ratio_text(),
            goal.ours.clone().unwrap_or_else(|| NOTHING.to_owned()),
            goal.verdict.to_string(),
            all.join(", "),
        ]);
    }
    grid
}

/// All approaches of a group. Times are medians over rounds.
#[must_use]
pub fn approaches(group: &Group) -> Grid {
    let mut grid = Grid::new(&[
        "approach",
        ">rounds",
        ">goodput best",
        ">median",
        ">delay p50",
        ">p99",
        ">p99.9",
        ">PDV p99.9",
        ">IPDV p99.9",
        ">added PDV p99.9",
        ">best",
        ">met %",
        ">quiet PDV p99.9",
        ">added",
        ">lost %",
        ">late",
        ">stalls",
        ">CPU s/GB",
        ">cycles/packet",
    ]);
    for row in &group.rows {
        let median = |figure: Option<super::Figure>| cell(figure.map(|f| f.median), time);
        grid.row([
            row.approach.clone(),
            rounds(row),
            cell(row.goodput.map(|f| f.best), rate),
            cell(row.goodput.map(|f| f.median), rate),
            median(row.delay_p50),
            median(row.delay_p99),
            median(row.delay_p999),
            median(row.variation_p999),
            median(row.jitter_p999),
            row.added.map_or_else(|| NOTHING.to_owned(), |a| a.to_string()),
            match row.added {
                Some(Added::Resolved(figure)) => time(figure.best),
                _ => NOTHING.to_owned(),
            },
            cell(row.met_percent, short),
            median(row.quiet_p999),
            row.added_quiet.map_or_else(|| NOTHING.to_owned(), |a| a.to_string()),
            short(row.lost_percent),
            count(row.late),
            stalls(row),
            cell(row.cpu_per_gb.map(|f| f.median), short),
            cell(row.cycles.map(|f| f.median), short),
        ]);
    }
    grid
}

/// `5`, or `4 + 1 partial`.
#[must_use]
pub fn rounds(row: &Row) -> String {
    match (row.rounds, row.partial) {
        (whole, 0) => whole.to_string(),
        (0, partial) => format!("{partial} partial"),
        (whole, partial) => format!("{whole} + {partial} partial"),
    }
}

fn stalls(row: &Row) -> String {
    match row.stalls {
        0 => "0".to_owned(),
        n => format!("{} ({} s)", count(n), short(row.stall_seconds)),
    }
}

/// What has to be known beside a row's figures: what limited it, warnings, why runs ended early. Of what differs between rounds in
/// its numbers alone, the one with the greatest first number stands for all.
#[must_use]
pub fn notes(row: &Row) -> Vec<String> {
    let limits = greatest(&row.limited_by).into_iter().map(|what| format!("limited: {what}"));
    limits.chain(greatest(&row.notes).into_iter().cloned()).collect()
}

fn greatest(texts: &BTreeSet<String>) -> Vec<&String> {
    let numeric = |c: char| c.is_ascii_digit() || c == '.';
    let first = |text: &str| {
        let number = text.split(|c| !numeric(c)).find(|part| part.contains(|c: char| c.is_ascii_digit()));
        number.and_then(|n| n.trim_matches('.').parse::<f64>().ok()).unwrap_or(0.0)
    };
    let mut kinds: BTreeMap<String, &String> = BTreeMap::new();
    for text in texts {
        let kind = text.replace(numeric, "");
        let kept = kinds.entry(kind).or_insert(text);
        if first(text) > first(kept) {
            *kept = text;
        }
    }
    kinds.into_values().collect()
}

/// What did not run.
#[must_use]
pub fn omitted(summary: &Summary) -> Grid {
    let mut grid = Grid::new(&["not run", "carrier", "profile", "why"]);
    for one in &summary.omitted {
        grid.row([one.approach.clone(), one.carrier.to_string(), one.profile.clone(), one.why.clone()]);
    }
    grid
}

/// What the columns mean, a sentence each.
pub const LEGEND: &[&str] = &[
    "Times are medians over the rounds; goodput counts bytes of messages.",
    "PDV: delay less the least of its connection (RFC 5481, 4.2); IPDV: difference of the delays of two messages in a row \
     (RFC 5481, 4.1).",
    "Added: PDV p99.9 less the direct route's of the same round. `<`: it cannot be told from what the direct route itself \
     varies between rounds.",
    "Hiccups: times in which the machine let nobody run, whatever relays. Met: messages on their way in one; quiet: those that met \
     none.",
    "CPU: processor seconds of everything between the ends, for 10^9 bytes. Cycles: of the gateways' workers, in turns that \
     found packets.",
];

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for warning in &self.warnings {
            writeln!(f, "note: {warning}")?;
        }
        for group in &self.groups {
            let quick = if group.quick { "; quick: shows that it works, judges nothing" } else { "" };
            writeln!(f, "\n{}{quick}\n{}", group.setting, approaches(group).text().trim_end())?;
            for row in &group.rows {
                notes(row).iter().try_for_each(|note| writeln!(f, "  {}: {note}", row.approach))?;
            }
        }
        if !self.groups.is_empty() {
            writeln!(f)?;
            LEGEND.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        }
        if !self.omitted.is_empty() {
            write!(f, "\n{}", omitted(self).text())?;
        }
        if !self.goals.is_empty() {
            write!(f, "\n{}", goals(self).text())?;
        }
        if !self.ahead.is_empty() {
            writeln!(f, "\nwhere a peer is ahead:")?;
            self.ahead.iter().try_for_each(|one| writeln!(f, "  {one}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_texts_that_differ_in_numbers_the_greatest_stays() {
        let texts =
            ["sink: waited 9.5 % of the time", "sink: waited 10.1 % of the time", "source: took 95 %"];
        let texts: BTreeSet<String> = texts.into_iter().map(str::to_owned).collect();
        assert_eq!(greatest(&texts), ["sink: waited 10.1 % of the time", "source: took 95 %"]);
    }
}
