//! The conformance suite: what RFCs ask of a NAT, tried on a running relay from outside, and the page that tells.
//!
//! [`rows`] is the table: every requirement with the tests that show it, and the reason of each exception. [`oracle`] plays
//! the hosts around a relay on raw sockets, [`packet`] writes and reads what they send, [`setup`] has the relays'
//! configurations, and the other modules are the tests. A row without a test, a test without a row and a name that is none
//! are errors of the suite; a test that fails makes its rows `FAIL`, whatever they are signed as.
#![forbid(unsafe_code)]

/// Lists a module's tests by what they run on.
macro_rules! suite {
    ($area:literal: $($setup:ident { $($name:ident),+ $(,)? })+) => {
        pub(super) const TESTS: &[super::Test] = &[$($(super::Test {
            name: concat!($area, "::", stringify!($name)),
            setup: super::Setup::$setup,
            run: $name,
        },)+)+];
    };
}

mod fragments;
mod icmp;
mod link;
pub(crate) mod oracle;
pub(crate) mod packet;
mod page;
mod rows;
mod setup;
mod tcp;
mod timers;
mod udp;
mod v6v4;
mod vlan;

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, ensure};
use serde::Serialize;

use oracle::Lab;
use setup::Setup;

/// One test.
struct Test {
    /// `module::function`.
    name: &'static str,
    setup: Setup,
    run: fn(&mut Lab) -> Result<()>,
}

fn all_tests() -> impl Iterator<Item = &'static Test> {
    [
        udp::TESTS,
        tcp::TESTS,
        icmp::TESTS,
        fragments::TESTS,
        link::TESTS,
        vlan::TESTS,
        v6v4::TESTS,
        timers::TESTS,
    ]
    .into_iter()
    .flatten()
}

/// What became of one test.
#[derive(Debug, Clone, Serialize)]
pub struct Tried {
    /// `module::function`.
    pub name: &'static str,
    /// Why it failed; none when it did not.
    pub failed: Option<String>,
}

/// What a run found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Every test that ran.
    pub tests: Vec<Tried>,
    /// What went wrong outside of tests: a relay that did not start or stop, packets not accounted for.
    pub faults: Vec<String>,
}

impl Report {
    /// Whether nothing failed.
    #[must_use]
    pub fn held(&self) -> bool {
        self.faults.is_empty() && self.tests.iter().all(|t| t.failed.is_none())
    }

    /// The page `docs/nat-conformance.md` for this run.
    #[must_use]
    pub fn page(&self) -> String {
        page::page(&self.tests.iter().map(|t| (t.name, t.failed.is_none())).collect::<BTreeMap<_, _>>())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.faults.iter().try_for_each(|fault| writeln!(f, "FAULT {fault}"))?;
        let failed = self.tests.iter().filter(|t| t.failed.is_some()).count();
        write!(f, "{} tests, {failed} failed", self.tests.len())
    }
}

/// Runs the tests whose name contains `only`. An error means that the suite itself is at fault or could not start.
pub fn run(only: &str) -> Result<Report> {
    page::check(rows::GROUPS, &all_tests().map(|t| t.name).collect::<Vec<_>>())?;
    ensure!(all_tests().any(|t| t.name.contains(only)), "no test has {only:?} in its name");
    let group = |setup: Setup| all_tests().filter(move |t| t.setup == setup && t.name.contains(only));
    // Those that wait for timers do it while the others run.
    let (mut report, waited) = std::thread::scope(|scope| {
        let timers = scope.spawn(|| run_group(Setup::Timers, group(Setup::Timers)));
        let mut report = Report { tests: Vec::new(), faults: Vec::new() };
        for setup in Setup::ALL.into_iter().filter(|s| *s != Setup::Timers) {
            report.add(run_group(setup, group(setup)));
        }
        (report, timers.join())
    });
    match waited {
        Ok(waited) => report.add(waited),
        Err(_) => report.faults.push("the thread of the timer tests panicked".into()),
    }
    Ok(report)
}

impl Report {
    fn add(&mut self, other: Report) {
        self.tests.extend(other.tests);
        self.faults.extend(other.faults);
    }
}

/// Runs the tests of one setup on one relay, a new one where the last did not survive.
fn run_group(setup: Setup, tests: impl Iterator<Item = &'static Test>) -> Report {
    let mut report = Report { tests: Vec::new(), faults: Vec::new() };
    let mut lab: Option<Lab> = None;
    let mut no_relay: Option<String> = None;
    for test in tests {
        if setup == Setup::Alone || lab.as_mut().is_none_or(Lab::has_ended) {
            // What did not start once is not tried for every test.
            lab = match no_relay.is_some() {
                true => None,
                false => setup.start().map_err(|e| no_relay = Some(format!("{e:#}"))).ok(),
            };
        }
        let outcome = match &mut lab {
            Some(lab) => lab.reset().and_then(|()| (test.run)(lab)),
            // The first test tells why.
            None => Err(anyhow::anyhow!(
                "{}",
                no_relay.replace("its relay did not start".into()).unwrap_or_default()
            )),
        };
        let failed = outcome.err().map(|e| format!("{e:#}"));
        match &failed {
            None => eprintln!("ok   {}", test.name),
            Some(why) => eprintln!("FAIL {}: {why}", test.name),
        }
        report.tests.push(Tried { name: test.name, failed });
    }
    if let Some(lab) = lab.filter(|_| setup != Setup::Alone)
        && let Err(e) = lab.finish()
    {
        eprintln!("FAULT {setup:?}: {e:#}");
        report.faults.push(format!("the relay of {setup:?}: {e:#}"));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_test_and_every_test_a_row() {
        page::check(rows::GROUPS, &all_tests().map(|t| t.name).collect::<Vec<_>>()).unwrap();
    }

    #[test]
    fn a_failed_test_fails_its_rows_and_the_run() {
        let tests = all_tests().map(|t| Tried { name: t.name, failed: Some("why".into()) }).collect();
        let report = Report { tests, faults: Vec::new() };
        assert!(!report.held());
        let page = report.page();
        assert!(page.contains("FAIL") && !page.contains("| pass |") && !page.contains("| exception |"));
    }
}
