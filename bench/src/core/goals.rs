//! What the figures are to be, all in one place, and whether they are.

use serde::Serialize;

use super::report::Series;

/// A goal's bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// Smaller is better; the best figure is the smallest.
    AtMost(f64),
    /// Larger is better; the best figure is the largest.
    AtLeast(f64),
    /// Every round counts: not one may be above.
    Never(f64),
}

/// A measure and its goal.
#[derive(Debug, Clone, Copy)]
pub struct Goal {
    /// What is measured, in words.
    pub measure: &'static str,
    /// Row, or `row/part`.
    pub ours: &'static str,
    /// What it is divided by; none takes it as it is.
    pub base: Option<&'static str>,
    /// The goal.
    pub bound: Bound,
}

const fn ratio(measure: &'static str, ours: &'static str, base: &'static str, bound: Bound) -> Goal {
    Goal { measure, ours, base: Some(base), bound }
}

const fn alone(measure: &'static str, ours: &'static str, bound: Bound) -> Goal {
    Goal { measure, ours, base: None, bound }
}

use Bound::{AtLeast, AtMost, Never};

/// All goals, in the order of the table.
#[rustfmt::skip]
pub static GOALS: &[Goal] = &[
    ratio("relay / testpmd 5tswap, net_ring, cycles", "hot", "testpmd-5tswap", AtMost(1.5)),
    ratio("relay / l3fwd exact match, net_ring, cycles", "hot", "l3fwd", AtMost(0.55)),
    ratio("relay / l3fwd exact match, net_pcap, 1,000 flows of 64 B, Mpps", "replay", "replay-l3fwd", AtLeast(1.1)),
    ratio("64 Ki connections / 1, cycles", "64k", "hot", AtMost(1.4)),
    ratio("1 Mi connections / 1, cycles", "1m", "hot", AtMost(2.5)),
    ratio("9000 B / 64 B, cycles", "mtu-9000", "hot", AtMost(1.1)),
    ratio("IPv6 / IPv4, cycles", "ipv6", "hot", AtMost(1.2)),
    ratio("TCP / UDP, cycles", "tcp", "hot", AtMost(1.1)),
    ratio("VLAN / untagged, cycles", "vlan", "hot", AtMost(1.1)),
    ratio("default-deny drop / forward, cycles", "denied", "hot", AtMost(0.6)),
    ratio("2 workers / 1 worker, packets a second", "workers/two", "workers/one", AtLeast(1.9)),
    alone("new connections a second on one worker (admit, use, expire)", "admissions", AtLeast(1e6)),
    alone("memory a connection, both directions, at 1 Mi, bytes", "1m/bytes_per_connection", AtMost(256.0)),
    alone("dip while 10,000 flow changes a second are published, %", "changes", AtMost(5.0)),
    alone("packets lost meanwhile", "changes/lost", Never(0.0)),
    alone("packets that the ledger misses of 10^8 while flows change", "ledger", Never(0.0)),
    ratio("AF_XDP / testpmd io, packets a second", "af-xdp", "af-xdp/testpmd", AtLeast(0.95)),
    ratio("AF_PACKET / testpmd io, packets a second", "af-packet", "af-packet/testpmd", AtLeast(0.95)),
];

/// What limits the goals that were missed, and what was tried: by row and base.
#[rustfmt::skip]
static LIMITS: &[(&str, &str, &str)] = &[
    ("hot", "l3fwd", "with packet memory on hugepages l3fwd gains more than we do, whose tables lie on large pages anyway; without, the goal is met. \
        Tried: a word compare for MAC, ethertype and version, one multiplication for the header sum, one line a direction, trains"),
    ("replay", "replay-l3fwd", "net_pcap copies every packet, which both pay alike; the 1,000 connections come singly, so trains do not help"),
    ("64k", "hot", "one connection comes in trains that share a look-up; 64 Ki come singly (compare row 1k, which does too), and their \
        index and records lie in the last-level cache. Tried: one line a direction, large pages"),
    ("1m", "hot", "as for 64 Ki, with the bucket and the record of every packet in memory: two misses that three prefetched passes over \
        32 packets hide in part. Tried: large pages, fewer lines a packet (one of each)"),
    ("ipv6", "hot", "24 more bytes of addresses to hash with two more multiplications, to compare in a second line, and to write"),
    ("vlan", "hot", "the tag is compared and written. Tried: its eight bytes as one word"),
    ("denied", "hot", "a dropped packet is received, parsed, hashed, looked up among connections and among refusals, and its buffer freed by \
        itself; a train is sent on for less. Tried: refusals remembered (187 cycles without), and dropping inside the sending loop, \
        which cost that loop more than it gave"),
    ("af-packet", "af-packet/testpmd", "the kernel's work on veth is nearly all of it, and the generator on the only other core is the limit: \
        see the parts offered and offered_testpmd"),
    ("af-xdp", "af-xdp/testpmd", "as for AF_PACKET"),
];

/// Whether a goal is met.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// It is.
    Met,
    /// It is missed by this factor, always above 1; without one when the goal is 0.
    Missed {
        /// Figure over goal, or goal over figure.
        by: Option<f64>,
    },
    /// There is no figure.
    NotMeasured {
        /// Why.
        reason: String,
    },
}

/// A goal beside what was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Judged {
    /// What was measured.
    pub measure: &'static str,
    /// Such as `<= 1.5`.
    pub goal: String,
    /// Best of ours over best of the base.
    pub best: Option<f64>,
    /// The same of the medians.
    pub median: Option<f64>,
    /// By the best.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Of a goal missed: what limits it, and what was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<&'static str>,
}

impl Bound {
    fn best(self, figures: &[f64]) -> Option<f64> {
        let better = match self {
            AtMost(_) => f64::min,
            AtLeast(_) | Never(_) => f64::max,
        };
        figures.iter().copied().reduce(better)
    }

    fn verdict(self, figure: f64) -> Verdict {
        let (met, by) = match self {
            AtMost(goal) | Never(goal) => (figure <= goal, figure / goal),
            AtLeast(goal) => (figure >= goal, goal / figure),
        };
        if met { Verdict::Met } else { Verdict::Missed { by: Some(by).filter(|by| by.is_finite()) } }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AtMost(goal) => write!(f, "<= {goal}"),
            AtLeast(goal) => write!(f, ">= {goal}"),
            Never(goal) => write!(f, "{goal}"),
        }
    }
}

/// The middle figure; the mean of the two in the middle when their number is even.
pub(super) fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[sorted.len() / 2 - 1], upper) })
}

impl Goal {
    /// Holds the goal against what was measured.
    pub fn judge(&self, all: &[Series]) -> Judged {
        let pair = figures(all, self.ours)
            .and_then(|ours| Ok((ours, self.base.map(|base| figures(all, base)).transpose()?)));
        let over = |pick: &dyn Fn(&[f64]) -> Option<f64>| {
            let (ours, base) = pair.as_ref().ok()?;
            Some(pick(ours)? / base.as_ref().map_or(Some(1.0), |base| pick(base))?)
        };
        let (best, median) = (over(&|f| self.bound.best(f)), over(&median));
        let verdict = match (best, &pair) {
            (Some(best), _) => self.bound.verdict(best),
            (None, Err(reason)) => Verdict::NotMeasured { reason: reason.clone() },
            (None, Ok(_)) => Verdict::NotMeasured { reason: "no round yielded a figure".to_owned() },
        };
        let limit = self.limit().filter(|_| matches!(verdict, Verdict::Missed { .. }));
        Judged { measure: self.measure, goal: self.bound.to_string(), best, median, verdict, limit }
    }

    fn limit(&self) -> Option<&'static str> {
        let known = LIMITS.iter().find(|(ours, base, _)| *ours == self.ours && Some(*base) == self.base);
        known.map(|(_, _, limit)| *limit)
    }
}

/// The figures of a row, or of `row/part`; or why there are none.
fn figures(all: &[Series], what: &str) -> Result<Vec<f64>, String> {
    let (row, part) = what.split_once('/').map_or((what, None), |(row, part)| (row, Some(part)));
    let series = all.iter().find(|s| s.name == row).ok_or_else(|| format!("row {row} does not exist"))?;
    let figures = match part {
        None => series.figures.clone(),
        Some(part) => series.parts.get(part).cloned().unwrap_or_default(),
    };
    match (&series.not_run, series.failed.first()) {
        _ if !figures.is_empty() => Ok(figures),
        (Some(reason), _) | (None, Some(reason)) => Err(format!("{row}: {reason}")),
        (None, None) => Err(format!("{what} has no figures")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::row::Unit;
    use super::super::rows::ROWS;
    use super::*;

    fn series(name: &'static str, figures: &[f64]) -> Series {
        Series {
            name,
            title: name,
            unit: Unit::Cycles,
            figures: figures.to_vec(),
            parts: BTreeMap::from([("part".to_owned(), figures.iter().map(|f| f * 10.0).collect())]),
            failed: Vec::new(),
            not_run: None,
        }
    }

    #[test]
    fn what_limits_a_goal_is_told_when_it_is_missed() {
        for (ours, base, _) in LIMITS {
            let goal = GOALS.iter().find(|g| g.ours == *ours && g.base == Some(*base));
            assert!(goal.is_some(), "{ours} / {base} is no goal");
        }
        let judge = |ipv6: f64| {
            let goal = GOALS.iter().find(|g| g.ours == "ipv6").unwrap();
            goal.judge(&[series("hot", &[10.0]), series("ipv6", &[ipv6])]).limit.is_some()
        };
        assert!(judge(20.0) && !judge(11.0));
    }

    #[test]
    fn ratios_are_of_the_best_and_of_the_medians() {
        let all = [series("a", &[30.0, 20.0, 25.0]), series("b", &[16.0, 10.0, 40.0])];
        let cycles = ratio("a / b", "a", "b", AtMost(1.5)).judge(&all);
        assert_eq!((cycles.best, cycles.median), (Some(2.0), Some(25.0 / 16.0)));
        assert_eq!(cycles.verdict, Verdict::Missed { by: Some(2.0 / 1.5) });
        assert_eq!(ratio("a / b", "a", "b", AtMost(2.0)).judge(&all).verdict, Verdict::Met);
        let rate = ratio("a / b", "a", "b", AtLeast(1.5)).judge(&all);
        assert_eq!((rate.best, rate.verdict), (Some(0.75), Verdict::Missed { by: Some(2.0) }));
        let part = alone("a's part", "a/part", AtLeast(300.0)).judge(&all);
        assert_eq!((part.best, part.verdict), (Some(300.0), Verdict::Met));
    }

    #[test]
    fn what_must_never_happen_may_not_happen_in_one_round() {
        let lost = |figures: &[f64]| alone("lost", "a", Never(0.0)).judge(&[series("a", figures)]).verdict;
        assert_eq!(lost(&[0.0, 0.0]), Verdict::Met);
        assert_eq!(lost(&[0.0, 3.0, 0.0]), Verdict::Missed { by: None });
    }

    #[test]
    fn what_is_missing_is_told_with_its_reason() {
        let mut failed = series("b", &[]);
        failed.failed.push("no such program".to_owned());
        let mut not_run = series("c", &[]);
        not_run.not_run = Some("add --against l3fwd".to_owned());
        let all = [series("a", &[1.0]), failed, not_run, series("d", &[])];
        let reason = |base| match ratio("", "a", base, AtMost(1.0)).judge(&all).verdict {
            Verdict::NotMeasured { reason } => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(reason("b"), "b: no such program");
        assert_eq!(reason("c"), "c: add --against l3fwd");
        assert_eq!(reason("d"), "d has no figures");
        assert_eq!(reason("e"), "row e does not exist");
        assert_eq!(reason("a/nothing"), "a/nothing has no figures");
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn rows_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> = ROWS.iter().map(|r| r.name).collect();
        assert_eq!(names.len(), ROWS.len());
    }
}
