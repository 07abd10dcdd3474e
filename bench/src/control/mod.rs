//! `s2bench control`: how quick the control server is and what it needs, beside its goals.
//!
//! | measure | from | until |
//! |---|---|---|
//! | hello to listener ready | `hello` is sent | `update` is answered: its flow is in s2ds. In between the client takes the answer of `req` |
//! | restart | s2cs is started in place of one that was killed | it says that s2ds has just the flows of its sessions |
//!
//! Client, s2cs and s2ds share one machine. A figure is the machine's, too: the same without load stands beside it.

mod bed;

use std::fmt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use forwarder::api::table::Table;
use serde::Serialize;
use tokio::task::JoinSet;

use bed::{Bed, User};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Small numbers that show that everything works and measure nothing.
    pub quick: bool,
}

/// Connections that pending requests come by.
const CONNECTIONS: usize = 20;
/// Sessions that are opened at a time.
const ABREAST: usize = 64;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measure {
    /// In words.
    pub measure: String,
    /// The figure.
    pub figure: f64,
    /// Its unit.
    pub unit: &'static str,
    /// At most so much; none: only to compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<f64>,
    /// Whether it is no more; none: there is no goal, or a quick run, which judges nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
}

/// Every figure.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether it was a quick run.
    pub quick: bool,
    /// In the order measured.
    pub measures: Vec<Measure>,
}

impl Report {
    fn add(&mut self, measure: impl Into<String>, figure: f64, unit: &'static str, goal: Option<f64>) {
        let met = goal.filter(|_| !self.quick).map(|goal| figure <= goal);
        self.measures.push(Measure { measure: measure.into(), figure, unit, goal, met });
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        std::fs::write(path, json + "\n").with_context(|| format!("{} cannot be written", path.display()))
    }
}

/// Measures everything.
///
/// # Errors
/// Something did not work. A goal that is missed is no error.
pub fn run(options: &Options) -> Result<Report> {
    let (samples, pending, sessions) = if options.quick { (50, 100, 200) } else { (1000, 1000, 10_000) };
    let mut report = Report { quick: options.quick, measures: Vec::new() };
    let mut bed = Bed::start()?;
    for (pending, goal) in [(0, None), (pending, Some(5.0))] {
        let times =
            bed.run(move |access, store| async move { ready(&access, &store, samples, pending).await })?;
        let what = format!("hello to listener ready, {pending} sessions pending");
        report.add(format!("{what}, p50"), percentile(&times, 50), "ms", None);
        report.add(format!("{what}, p99"), percentile(&times, 99), "ms", goal);
    }
    ensure!(bed.flows()? == 0, "released sessions have left flows in s2ds");

    report.add("memory of s2cs without sessions", bed.resident()?, "MB", None);
    let seconds = bed.run(move |access, store| async move { open(&access, &store, sessions).await })?;
    let rate = sessions as f64 / seconds;
    report.add(format!("sessions opened a second, {ABREAST} at a time"), rate, "1/s", None);
    let held = |bed: &Bed| {
        let flows = bed.flows()?;
        ensure!(flows == sessions, "s2ds has {flows} flows of {sessions} sessions");
        anyhow::Ok(())
    };
    held(&bed)?;
    report.add(format!("memory of s2cs, {sessions} sessions"), bed.resident()?, "MB", Some(200.0));
    for (what, both) in [("their flows in s2ds", false), ("s2ds restarted, too", true)] {
        report.add(format!("restart with {sessions} sessions, {what}"), bed.restart(both)?, "s", Some(2.0));
        held(&bed)?;
    }
    report.add(format!("memory of s2cs after that, {sessions} sessions"), bed.resident()?, "MB", Some(200.0));
    Ok(report)
}

/// Milliseconds from hello until the listener relays, in order of length, while others are pending.
async fn ready(
    access: &control::uc::connect::Access,
    store: &control::uc::store::Store,
    samples: usize,
    pending: usize,
) -> Result<Vec<f64>> {
    let mut waiting = Vec::new();
    for n in 0..CONNECTIONS.min(pending) {
        let user = User::connect(access, store).await?;
        for _ in 0..pending / CONNECTIONS + usize::from(n < pending % CONNECTIONS) {
            waiting.push((user.clone(), user.pend().await?));
        }
    }
    let user = User::connect(access, store).await?;
    let mut times = Vec::with_capacity(samples);
    for _ in 0..samples {
        let (uid, req) = user.pend().await?;
        let began = Instant::now();
        user.hello(uid.clone()).await?;
        let answer = req.await??;
        user.update(uid.clone(), answer.prod_listeners).await?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
        user.release(uid).await?;
    }
    for (user, (uid, req)) in waiting {
        ensure!(!req.is_finished(), "{uid} did not wait for hello");
        user.release(uid).await?;
        ensure!(req.await?.is_err(), "a released session was granted");
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Opens sessions; gives the seconds it took.
async fn open(
    access: &control::uc::connect::Access,
    store: &control::uc::store::Store,
    sessions: usize,
) -> Result<f64> {
    let user = User::connect(access, store).await?;
    let began = Instant::now();
    let mut opening = JoinSet::new();
    for _ in 0..sessions {
        if opening.len() >= ABREAST {
            opening.join_next().await.context("nothing was being opened")???;
        }
        let user = user.clone();
        opening.spawn(async move { user.open().await });
    }
    while let Some(opened) = opening.join_next().await {
        opened??;
    }
    Ok(began.elapsed().as_secs_f64())
}

/// Of times in order: no more than so many in a hundred took longer than the rest.
fn percentile(times: &[f64], percent: usize) -> f64 {
    let rank = (times.len() * percent).div_ceil(100);
    times.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.quick {
            writeln!(f, "a quick run shows that everything works; its figures mean nothing\n")?;
        }
        let mut table = Table::new(&["MEASURE", ">FIGURE", "UNIT", ">GOAL", "VERDICT"]);
        for m in &self.measures {
            let verdict = match (m.met, m.goal) {
                (Some(true), _) => "met".to_owned(),
                (Some(false), Some(goal)) => format!("missed by {:.2} x", m.figure / goal),
                _ => "-".to_owned(),
            };
            table.row([
                m.measure.clone(),
                format!("{:.2}", m.figure),
                m.unit.to_owned(),
                m.goal.map_or_else(|| "-".to_owned(), |goal| format!("<= {goal}")),
                verdict,
            ]);
        }
        write!(f, "{table}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!((percentile(&times, 50), percentile(&times, 99)), (100.0, 198.0));
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert!(percentile(&[], 99).is_nan());
    }

    #[test]
    fn a_quick_run_judges_nothing() {
        for (quick, verdict) in [(true, None), (false, Some(false))] {
            let mut report = Report { quick, measures: Vec::new() };
            report.add("this", 6.0, "ms", Some(5.0));
            assert_eq!(report.measures[0].met, verdict);
        }
    }
}
