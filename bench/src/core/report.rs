//! A whole result: as it is written to a file, and as tables.

use std::collections::BTreeMap;
use std::fmt;

use forwarder::api::table::Table;
use serde::Serialize;

use super::facts::Facts;
use super::goals::{Judged, Verdict, median};
use super::projection::{DRIVER, DRIVER_MOST, Projected};
use super::row::Unit;

/// What a row yielded.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// The row's name.
    pub name: &'static str,
    /// What ran.
    pub title: &'static str,
    /// Unit of the figures.
    pub unit: Unit,
    /// A figure a round that yielded one, in order.
    pub figures: Vec<f64>,
    /// Further figures by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, Vec<f64>>,
    /// Why rounds yielded none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// Why it was not run at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_run: Option<String>,
}

impl Series {
    /// The least disturbed round.
    pub fn best(&self) -> Option<f64> {
        let better = if self.unit.less_is_better() { f64::min } else { f64::max };
        self.figures.iter().copied().reduce(better)
    }
}

/// A whole result.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What ran where.
    pub start: Facts,
    /// Goals and verdicts.
    pub goals: Vec<Judged>,
    /// Every row.
    pub rows: Vec<Series>,
    /// What it means for NICs that are not here.
    pub projection: Vec<Projected>,
}

/// Three digits that say something, and no more.
fn short(figure: f64) -> String {
    match figure.abs() {
        f if f >= 100.0 => format!("{figure:.0}"),
        f if f >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

fn cell(figure: Option<f64>) -> String {
    figure.map_or_else(|| "-".to_owned(), short)
}

/// The beginning of a reason, for a table; the result file has all of it.
fn brief(reason: &str) -> String {
    const MOST: usize = 160;
    let line = reason.lines().next().unwrap_or_default();
    if line.chars().count() <= MOST {
        return line.to_owned();
    }
    line.chars().take(MOST).chain("...".chars()).collect()
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Met => f.write_str("met"),
            Verdict::Missed { by: Some(by) } => write!(f, "missed by {by:.2} x"),
            Verdict::Missed { by: None } => f.write_str("missed"),
            Verdict::NotMeasured { reason } => write!(f, "not measured: {}", brief(reason)),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.start;
        let quick = s.label == "quick";
        writeln!(
            f,
            "{}, {} cores, {} GiB; {}; DPDK {}; TSC {} MHz; {}; commit {}",
            s.host.cpu,
            s.host.cores,
            s.host.memory_gib,
            s.host.kernel,
            s.host.dpdk,
            s.tsc_hz.unwrap_or(0) / 1_000_000,
            if s.hugepages { "hugepages" } else { "4 KiB pages" },
            s.host.commit
        )?;
        writeln!(
            f,
            "bursts of {}, core {}, {} rounds, load {} at the start",
            s.burst,
            s.core,
            s.rounds,
            s.host.load.map_or("unknown".to_owned(), |l| l.to_string())
        )?;
        if quick {
            writeln!(f, "a quick run shows that everything works; its figures mean nothing")?;
        }

        let mut goals = Table::new(&["MEASURE", ">GOAL", ">BEST", ">MEDIAN", "VERDICT"]);
        for goal in &self.goals {
            let verdict = match &goal.verdict {
                Verdict::Met | Verdict::Missed { .. } if quick => "quick".to_owned(),
                verdict => verdict.to_string(),
            };
            goals.row([
                goal.measure.to_owned(),
                goal.goal.clone(),
                cell(goal.best),
                cell(goal.median),
                verdict,
            ]);
        }
        write!(f, "\n{goals}")?;
        for goal in self.goals.iter().filter(|_| !quick) {
            if let Some(limit) = goal.limit {
                writeln!(f, "  {}: {limit}.", goal.measure)?;
            }
        }

        let mut rows = Table::new(&["ROW", "WHAT RAN", "UNIT", ">BEST", ">MEDIAN", "ROUNDS"]);
        for row in &self.rows {
            let rounds: Vec<String> = row.figures.iter().copied().map(short).collect();
            let why = row.not_run.iter().map(|r| format!("not run: {}", brief(r)));
            let why =
                why.chain(row.failed.first().map(|r| format!("failed {} times: {r}", row.failed.len())));
            let rounds: Vec<String> = rounds.into_iter().chain(why).collect();
            rows.row([
                row.name.to_owned(),
                row.title.to_owned(),
                row.unit.text().to_owned(),
                cell(row.best()),
                cell(median(&row.figures)),
                rounds.join(" "),
            ]);
        }
        write!(f, "\n{rows}")?;

        if quick || self.projection.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\nprojected, not measured: cores like this one for a line rate in one direction, with {DRIVER} (estimate) and \
             {DRIVER_MOST} (published bound) cycles for the NIC's driver"
        )?;
        let mut projection = Table::new(&[">GBIT/S", ">MTU", ">MPPS", ">RELAY", ">CORES", ">CORES AT MOST"]);
        for p in &self.projection {
            projection.row([
                p.gbits.to_string(),
                p.mtu.to_string(),
                short(p.mpps),
                short(p.relay_cycles),
                short(p.cores),
                short(p.cores_most),
            ]);
        }
        write!(f, "{projection}")
    }
}
