//! How far a series has come: a bar on a terminal, else a line for each run.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::result::Run;

/// Shows it on standard error.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    done: u64,
}

impl Progress {
    /// Of `total` runs.
    pub(super) fn new(total: u64) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total);
            if let Ok(style) =
                ProgressStyle::with_template("{wide_bar:.cyan} {pos}/{len}, {eta} to go\n{wide_msg}")
            {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Progress { bar, total, done: 0 }
    }

    /// A run begins.
    pub(super) fn begins(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
        }
    }

    /// It has ended.
    pub(super) fn ended(&mut self, what: &str, outcome: &anyhow::Result<Run>) {
        self.done += 1;
        let line = match outcome {
            Ok(run) => format!("{what}: {}", figures(run)),
            Err(e) => format!("{what}: FAILED: {e}"),
        };
        match &self.bar {
            Some(bar) => {
                bar.inc(1);
                if outcome.as_ref().map_or(true, |run| run.end.partial) {
                    bar.println(line);
                }
            }
            None => eprintln!("{:>3}/{} {line}", self.done, self.total),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A run in a few words.
fn figures(run: &Run) -> String {
    let sum = &run.end.sum_received;
    let mut text = format!("{:.3} Gbit/s", sum.bits_per_second / 1e9);
    if run.end.variation.count > 0 {
        text += &format!(", delay varies by {:.3} ms at p99.9", run.end.variation.p999 as f64 / 1e6);
    }
    if sum.lost_packets > 0 {
        text += &format!(", {:.3} % lost", sum.lost_percent);
    }
    if run.end.partial {
        text += &format!(", PARTIAL: {}", run.end.error.as_deref().unwrap_or("it ended before its time"));
    }
    text
}
