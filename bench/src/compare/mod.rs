//! Approaches side by side: the same streams over the same links through everything that could stand between producer and
//! consumer, in turn, several rounds.
//!
//! A series is a list of [cells](Cell) - a profile, a carrier, a path - and of [approaches](Approach). A round runs every
//! approach once in every cell, what is compared close together; then comes the next round. Each run has a [bed::Bed] of its own,
//! so nothing that one run left helps or hinders the next, and a run that fails fails alone.
//!
//! Everything is started by [`crate::topology::Netns`], so however this ends, nothing is left behind; the result is written
//! after each round, marked partial until the last.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

pub use approach::Approach;
pub use bed::Ground;
pub use measure::{Cell, Traffic};
pub use path::Path;
pub use stop::Stop;

use crate::report::Summary;
use crate::result::{self, Omitted, Series};
use crate::topology::{find_binary, find_tool};
use progress::Progress;

pub mod approach;
pub mod bed;
pub mod cpu;
pub mod measure;
pub mod naive;
mod node;
pub mod path;
pub mod plan;
mod progress;
pub mod setup;
pub mod stop;

/// What `s2bench compare` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the result is called: the command.
    pub title: String,
    /// What is compared.
    pub cells: Vec<Cell>,
    /// Who is compared, in the order of a round.
    pub approaches: Vec<Approach>,
    /// Rounds.
    pub rounds: u32,
    /// What is the same for all.
    pub ground: Ground,
    /// What is sent.
    pub traffic: Traffic,
    /// Where the result is kept from the beginning on.
    pub file: Option<PathBuf>,
}

/// Runs the series. What could not be run is in [`Series::omitted`]; whatever went wrong marks the series partial, with the
/// reason, and the rest goes on; a result that cannot be written any more ends it, and the file is as the last write left it.
///
/// # Errors
/// The result cannot be written from the beginning.
pub fn run(options: &Options, stop: &Stop) -> Result<Series> {
    let mut series = Series {
        title: options.title.clone(),
        runs: Vec::new(),
        omitted: Vec::new(),
        partial: true,
        error: Some("it has not ended".to_owned()),
    };
    let keep = |series: &Series| options.file.as_ref().map_or(Ok(()), |file| result::write(file, series));
    // Now rather than after an hour.
    keep(&series)?;
    let jobs = jobs(options, &mut series.omitted);
    let mut progress = Progress::new(jobs.len() as u64 * u64::from(options.rounds));
    let mut wrong: Vec<String> = Vec::new();
    'series: for round in 1..=options.rounds {
        for (cell, approach) in &jobs {
            if stop.asked() {
                break 'series;
            }
            let what = format!("round {round} of {}: {cell}, {approach}", options.rounds);
            progress.begins(&what);
            let outcome = measure::measure(&options.ground, &options.traffic, cell, *approach, round, stop)
                .map_err(|e| one_line(&e));
            progress.ended(&what, &outcome);
            match outcome {
                Ok(run) => {
                    let partial = run.end.partial && !stop.asked();
                    wrong.extend(
                        partial.then(|| format!("{what}: {}", run.end.error.as_deref().unwrap_or("partial"))),
                    );
                    series.runs.push(run);
                }
                // What stops is not to blame for what it stopped.
                Err(_) if stop.asked() => (),
                Err(e) => {
                    wrong.push(format!("{what}: {e}"));
                    omit(&mut series.omitted, cell, *approach, e.to_string());
                }
            }
        }
        if let Err(e) = keep(&series) {
            // What was found is still shown.
            wrong.insert(0, format!("{e:#}"));
            break;
        }
    }
    series.error = match &wrong[..] {
        _ if stop.asked() => Some("interrupted".to_owned()),
        [] => None,
        [one] => Some(one.clone()),
        [first, others @ ..] => Some(format!("{first}; and {} more runs went wrong", others.len())),
    };
    series.partial = series.error.is_some();
    if let Err(e) = keep(&series) {
        (series.partial, series.error) = (true, Some(format!("{e:#}")));
    }
    Ok(series)
}

/// The tools that every approach needs and that `make deps` installs.
///
/// # Errors
/// The first that is missing.
pub fn check_tools() -> Result<()> {
    for tool in ["ip", "ethtool", "setpriv", "taskset", "chrt", "unshare"] {
        find_tool(tool)?;
    }
    find_binary("s2bench")?;
    Ok(())
}

/// `wanted`, or 0 where the kernel does not let this user have a priority under SCHED_FIFO.
#[must_use]
pub fn permitted_priority(wanted: u8) -> u8 {
    let tried =
        || Some(Command::new(find_tool("chrt").ok()?).args(["-f", &wanted.to_string(), "true"]).output());
    match tried() {
        Some(Ok(output)) if output.status.success() => wanted,
        _ => 0,
    }
}

/// How each approach is set up, for people.
#[must_use]
pub fn settings(options: &Options) -> String {
    let mut text = String::new();
    for cell in &options.cells {
        for approach in options.approaches.iter().filter(|a| a.cannot_carry(cell.carrier).is_none()) {
            let _ = writeln!(text, "# {approach}, {}, path {}", cell.carrier, cell.path.name());
            for line in options.ground.settings(*approach, cell.carrier, &cell.path) {
                let _ = writeln!(text, "{line}");
            }
        }
    }
    text
}

/// The result as people read it.
#[must_use]
pub fn table(series: &Series) -> String {
    Summary::of(std::slice::from_ref(series)).to_string()
}

/// What a round runs; what cannot run is noted.
fn jobs<'a>(options: &'a Options, omitted: &mut Vec<Omitted>) -> Vec<(&'a Cell, Approach)> {
    let mut jobs = Vec::new();
    for cell in &options.cells {
        for approach in &options.approaches {
            match approach.cannot_carry(cell.carrier).or_else(|| approach.missing()) {
                None => jobs.push((cell, *approach)),
                Some(why) => omit(omitted, cell, *approach, why),
            }
        }
    }
    jobs
}

/// An error and its causes in one line, for tables and lists: programs say more.
fn one_line(error: &anyhow::Error) -> anyhow::Error {
    let text = format!("{error:#}");
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    anyhow::Error::msg(lines.join(" | "))
}

/// Notes once that an approach did not run.
fn omit(omitted: &mut Vec<Omitted>, cell: &Cell, approach: Approach, why: String) {
    let new =
        Omitted { approach: approach.name(), profile: cell.profile.clone(), carrier: cell.carrier, why };
    if !omitted.contains(&new) {
        omitted.push(new);
    }
}
