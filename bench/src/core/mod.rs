//! `s2bench core`: what the relay costs, without a NIC, beside DPDK's own programs, and whether that is what it should be.
//!
//! Every [row](ROWS) is measured in a process of its own, because EAL starts only once a process and because nothing that one
//! row did to memory may help or hinder the next. The rows run in turn, several rounds; each figure is kept, goals are judged
//! by the best, and the median is told beside it. `docs/benchmarking.md` tells what the figures mean.

mod admissions;
mod changes;
mod devices;
mod facts;
mod frames;
mod goals;
mod l3fwd;
mod peer;
mod projection;
mod relay;
mod replay;
mod report;
mod rings;
mod row;
mod rows;
mod testpmd;
mod workers;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::topology::{Process, Workdir};
pub use facts::Facts;
pub use goals::{Bound, GOALS, Goal, Judged, Verdict};
pub use projection::{DRIVER_CYCLES, Projected};
pub use report::{Report, Series};
pub(crate) use rings::pin;
pub use row::{Figure, Need, Program, Row, Settings, Unit};
pub use rows::ROWS;

/// What `s2bench core` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Rounds; in each, every row runs once.
    pub rounds: usize,
    /// Packets of one run of a row that counts packets.
    pub packets: u64,
    /// Small sizes and short runs that show that it works and measure nothing.
    pub quick: bool,
    /// Core to measure on.
    pub core: usize,
    /// Programs to run beside ours.
    pub against: Vec<Program>,
    /// Where to write the result as JSON.
    pub json: Option<PathBuf>,
}

/// What the process of a row says at its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The figure.
    Figure(Figure),
    /// Why there is none.
    Failed(String),
}

/// Measures one row in this process.
pub fn run_row(name: &str, settings: &Settings) -> Outcome {
    let Some(row) = ROWS.iter().find(|r| r.name == name) else {
        let names: Vec<_> = ROWS.iter().map(|r| r.name).collect();
        return Outcome::Failed(format!("there is no row {name}; there are {}", names.join(", ")));
    };
    match (row.run)(settings) {
        Ok(figure) => Outcome::Figure(figure),
        Err(e) => Outcome::Failed(format!("{e:#}")),
    }
}

/// Runs everything.
///
/// # Errors
/// The program cannot start itself again, or the result cannot be written. A row that fails does not fail the others.
pub fn run(options: &Options) -> Result<Report> {
    let settings = Settings {
        core: options.core,
        packets: options.packets,
        quick: options.quick,
        huge: facts::hugepages(),
    };
    let mut start = Facts::gather(options, &settings);
    let mut rows: Vec<Series> = ROWS.iter().map(|row| begin(row, &options.against)).collect();
    let dir = Workdir::new()?;
    for round in 1..=options.rounds {
        for (row, series) in ROWS.iter().zip(&mut rows) {
            if series.not_run.is_some() {
                continue;
            }
            progress(&format!("round {round} of {}: {}", options.rounds, row.title));
            match in_process(row, &settings, &dir)? {
                Outcome::Figure(figure) => series.add(figure),
                Outcome::Failed(reason) => series.failed.push(reason),
            }
        }
    }
    progress("");
    start.tsc_hz = rows.iter().find_map(|s| s.parts.get("tsc_hz")?.first()).map(|hz| *hz as u64);
    let report = Report {
        goals: GOALS.iter().map(|goal| goal.judge(&rows)).collect(),
        projection: projection::project(&rows, start.tsc_hz),
        start,
        rows,
    };
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(report)
}

fn begin(row: &Row, against: &[Program]) -> Series {
    let peers = row.needs.iter().find_map(|need| match need {
        Need::Peer(peer) if !against.contains(peer) => Some(format!("add --against {}", peer.name())),
        need => need.missing(),
    });
    Series {
        name: row.name,
        title: row.title,
        unit: row.unit,
        figures: Vec::new(),
        parts: Default::default(),
        failed: Vec::new(),
        not_run: peers,
    }
}

impl Series {
    fn add(&mut self, figure: Figure) {
        self.figures.push(figure.value);
        for (part, value) in figure.parts {
            self.parts.entry(part).or_default().push(value);
        }
    }
}

/// Starts this program again for one row, and waits.
fn in_process(row: &Row, settings: &Settings, dir: &Workdir) -> Result<Outcome> {
    let limit = Duration::from_secs(if settings.quick { 120 } else { 600 });
    let program = std::env::current_exe().context("the running program cannot be found")?;
    let mut command = Command::new(program);
    command.args(["core", "--row", row.name]);
    command.args(["--core", &settings.core.to_string(), "--packets", &settings.packets.to_string()]);
    command.args(settings.quick.then_some("--quick")).args(settings.huge.then_some("--huge"));
    let mut process = Process::start(row.name.to_owned(), command, dir.path().join("row"))?;
    let status = match process.wait(limit) {
        Ok(status) => status,
        Err(late) => return Ok(Outcome::Failed(late.to_string())),
    };
    let said = process.output()?.stdout;
    let last = said.lines().last().unwrap_or_default();
    Ok(serde_json::from_str(last)
        .unwrap_or_else(|_| Outcome::Failed(format!("it ended with {status}: {}", process.said()))))
}

/// One line on a terminal that the next one replaces.
fn progress(line: &str) {
    let mut err = std::io::stderr();
    if !err.is_terminal() {
        return;
    }
    // Nobody is left to tell.
    let _ = write!(err, "\r\x1b[K{line}").and_then(|()| err.flush());
}
