//! What ours is to reach beside the peers, whether it does, and where a peer is ahead.

use serde::Serialize;

use super::summary::{Added, Group, Jitter, Row, Setting, is_ours};

/// Peers whose share of the jitter ours has to be a tenth of.
const JITTER_PEERS: [&str; 2] = ["haproxy", "naive"];
/// User-space proxies that ours has to carry as much as.
const GOODPUT_PEERS: [&str; 5] = ["haproxy", "nginx", "stunnel", "socat", "naive"];
/// Most of a peer's relay-added p99.9 jitter.
const JITTER_GOAL: f64 = 0.1;
/// Least of a peer's goodput.
const GOODPUT_GOAL: f64 = 1.0;

/// Whether a goal is met.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// It is.
    Met,
    /// It is missed by this factor, always above 1.
    Missed {
        /// Ratio over goal, or goal over ratio.
        by: f64,
    },
    /// What was measured cannot tell.
    Unresolved {
        /// Why.
        reason: String,
    },
    /// There is no figure.
    NotMeasured {
        /// Why.
        reason: String,
    },
    /// The run was too short to judge.
    Quick,
}

/// A goal beside what was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// Where.
    pub setting: Setting,
    /// What was measured, in words.
    pub measure: &'static str,
    /// Such as `<= 0.1`.
    pub goal: String,
    /// The peer.
    pub peer: String,
    /// The best of ours.
    pub ours: Option<String>,
    /// Ours over the peer's.
    pub ratio: Option<f64>,
    /// The ratio is not above `ratio`, and may be less: ours could not be told from nothing.
    pub at_most: bool,
    /// The same of each of ours, the best one first.
    pub all: Vec<(String, f64)>,
    /// Of the best one.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Something in which a peer does better than the best of ours.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ahead {
    /// Where.
    pub setting: Setting,
    /// In what.
    pub measure: &'static str,
    /// The peer.
    pub peer: String,
    /// Its figure, in the measure's unit.
    pub theirs: f64,
    /// The best of ours.
    pub ours: String,
    /// Its figure.
    pub figure: f64,
    /// How much better the peer's is, always above 1; none when ours or the peer's is 0.
    pub factor: Option<f64>,
}

/// A peer is ahead when it is better by more than this factor: less is a tie.
const TIE: f64 = 1.01;

/// Every goal that a group can say something about.
pub(super) fn judge(group: &Group) -> Vec<Judged> {
    if !group.rows.iter().any(|r| is_ours(&r.approach)) || group.rows.len() < 2 {
        return Vec::new();
    }
    match group.setting.paced {
        true => {
            let watched = group.rows.iter().any(|row| row.quiet_p999.is_some());
            let kinds = Jitter::BOTH.into_iter().filter(|kind| watched || *kind == Jitter::All);
            kinds.flat_map(|kind| JITTER_PEERS.iter().map(move |peer| jitter(group, kind, peer))).collect()
        }
        false => GOODPUT_PEERS.iter().map(|peer| goodput(group, peer)).collect(),
    }
}

fn judged(group: &Group, measure: &'static str, goal: String, peer: &str) -> Judged {
    Judged {
        setting: group.setting.clone(),
        measure,
        goal,
        peer: peer.to_owned(),
        ours: None,
        ratio: None,
        at_most: false,
        all: Vec::new(),
        verdict: Verdict::NotMeasured { reason: String::new() },
    }
}

/// Runs that ended early judge nothing.
fn whole<'a>(group: &'a Group, name: &str) -> Result<&'a Row, String> {
    match group.row(name) {
        None => Err(format!("{name} did not run here")),
        Some(row) if row.rounds == 0 => Err(format!("no run of {name} ran its time")),
        Some(row) => Ok(row),
    }
}

fn ours(group: &Group) -> impl Iterator<Item = &Row> {
    group.rows.iter().filter(|r| is_ours(&r.approach) && r.rounds > 0)
}

fn jitter(group: &Group, kind: Jitter, peer: &str) -> Judged {
    let goal = format!("<= {JITTER_GOAL}");
    let mut judged = judged(group, kind.measure(), goal, peer);
    let without = |reason: String| Verdict::NotMeasured { reason };
    let theirs = match whole(group, peer).map(|row| row.added_to(kind)) {
        Err(reason) => {
            judged.verdict = without(reason);
            return judged;
        }
        Ok(None) => {
            judged.verdict = without("needs the direct route in the same round".to_owned());
            return judged;
        }
        Ok(Some(Added::Below(_))) => {
            let reason = format!("what {peer} adds cannot be told from what the direct route varies");
            judged.verdict = Verdict::Unresolved { reason };
            return judged;
        }
        Ok(Some(Added::Resolved(figure))) => figure.median,
    };
    let mut all: Vec<(&Row, Added)> = ours(group).filter_map(|r| Some((r, r.added_to(kind)?))).collect();
    all.sort_by(|a, b| a.1.at_most().total_cmp(&b.1.at_most()));
    judged.all = all.iter().map(|(r, a)| (r.approach.clone(), a.at_most() / theirs)).collect();
    let Some((best, added)) = all.first() else {
        judged.verdict = without("no run of ours ran its time beside the direct route".to_owned());
        return judged;
    };
    let ratio = added.at_most() / theirs;
    judged.at_most = matches!(added, Added::Below(_));
    judged.ours = Some(best.approach.clone());
    judged.ratio = Some(ratio);
    judged.verdict = match ratio <= JITTER_GOAL {
        _ if group.quick => Verdict::Quick,
        true => Verdict::Met,
        false if judged.at_most => Verdict::Unresolved {
            reason: "what ours adds cannot be told from what the direct route varies".to_owned(),
        },
        false => Verdict::Missed { by: ratio / JITTER_GOAL },
    };
    judged
}

fn goodput(group: &Group, peer: &str) -> Judged {
    let mut judged = judged(group, "goodput", format!(">= {GOODPUT_GOAL}"), peer);
    let theirs = match whole(group, peer).map(|row| row.goodput.map_or(0.0, |g| g.best)) {
        Err(reason) => {
            judged.verdict = Verdict::NotMeasured { reason };
            return judged;
        }
        Ok(none) if none <= 0.0 => {
            judged.verdict = Verdict::NotMeasured { reason: format!("nothing came through {peer}") };
            return judged;
        }
        Ok(best) => best,
    };
    let mut all: Vec<(String, f64)> =
        ours(group).filter_map(|r| Some((r.approach.clone(), r.goodput?.best / theirs))).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    let Some((best, ratio)) = all.first().cloned() else {
        judged.verdict = Verdict::NotMeasured { reason: "no run of ours ran its time".to_owned() };
        return judged;
    };
    judged.all = all;
    judged.ours = Some(best);
    judged.ratio = Some(ratio);
    judged.verdict = match ratio >= GOODPUT_GOAL {
        _ if group.quick => Verdict::Quick,
        true => Verdict::Met,
        false => Verdict::Missed { by: GOODPUT_GOAL / ratio },
    };
    judged
}

/// A measure by which peers are set beside ours.
struct Measure {
    name: &'static str,
    /// Of paced streams, of the others, or of both.
    paced: Option<bool>,
    more_is_better: bool,
    of: fn(&Row) -> Option<f64>,
}

const MEASURES: [Measure; 5] = [
    Measure { name: "goodput", paced: Some(false), more_is_better: true, of: |r| Some(r.goodput?.best) },
    Measure {
        name: Jitter::All.measure(),
        paced: Some(true),
        more_is_better: false,
        of: |r| r.added.map(Added::at_most),
    },
    Measure {
        name: Jitter::Quiet.measure(),
        paced: Some(true),
        more_is_better: false,
        of: |r| r.added_quiet.map(Added::at_most),
    },
    Measure {
        name: "p99 one-way delay",
        paced: Some(true),
        more_is_better: false,
        of: |r| Some(r.delay_p99?.median),
    },
    Measure {
        name: "processor time a GB",
        paced: None,
        more_is_better: false,
        of: |r| Some(r.cpu_per_gb?.best),
    },
];

/// Where a peer is ahead. The direct route is no peer: it has no relay.
pub(super) fn ahead(group: &Group) -> Vec<Ahead> {
    let mut found = Vec::new();
    if group.quick {
        return found;
    }
    for measure in MEASURES.iter().filter(|m| m.paced.is_none_or(|p| p == group.setting.paced)) {
        let better = |a: f64, b: f64| if measure.more_is_better { a > b } else { a < b };
        let mut best: Option<(&Row, f64)> = None;
        for row in ours(group) {
            let figure = (measure.of)(row);
            best = match (best, figure) {
                (Some((_, so_far)), Some(f)) if !better(f, so_far) => best,
                (_, Some(f)) => Some((row, f)),
                (best, None) => best,
            };
        }
        let Some((our_row, figure)) = best else { continue };
        let peers = group.rows.iter().filter(|r| !is_ours(&r.approach) && r.rounds > 0);
        for peer in peers.filter(|r| r.approach != super::summary::DIRECT) {
            // Two figures that are both within the noise say nothing about each other.
            let kind = Jitter::BOTH.into_iter().find(|kind| kind.measure() == measure.name);
            let noise = matches!(kind.and_then(|kind| our_row.added_to(kind)), Some(Added::Below(_)));
            let Some(theirs) = (measure.of)(peer).filter(|f| better(*f, figure) && !noise) else { continue };
            let (more, less) = if measure.more_is_better { (theirs, figure) } else { (figure, theirs) };
            if more <= less * TIE {
                continue;
            }
            found.push(Ahead {
                setting: group.setting.clone(),
                measure: measure.name,
                peer: peer.approach.clone(),
                theirs,
                ours: our_row.approach.clone(),
                figure,
                factor: (less > 0.0).then_some(more / less),
            });
        }
    }
    found
}
