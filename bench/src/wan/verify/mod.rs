//! The WAN held against what it claims, on this machine and without a device: over rings between two threads.
//!
//! What is left to chance must lie within five standard deviations of its mean. What is a matter of time depends on the machine:
//! no packet may come before its time, and how much later they come is what the table is for.

mod bed;

use std::fmt;

use anyhow::{Result, anyhow};
use forwarder::config::Idle;
use serde::{Deserialize, Serialize};

use self::bed::{Bed, SIZE};
use super::shape::{Asked, Spread};
use super::units::{BurstLoss, Queue, Rate, Share, Time};
use crate::host::Host;
use crate::result::Distribution;
use crate::topology::cores;

/// Packets of a claim about chance.
const TRIES: u64 = 100_000;

/// A claim and what was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// What it is about.
    pub name: String,
    /// What is claimed.
    pub claim: String,
    /// What was measured.
    pub measured: String,
    /// By how much that differs.
    pub error: String,
    /// Whether the claim held.
    pub held: bool,
    /// It depends on how quick and how quiet the machine is.
    pub timing: bool,
}

/// All claims.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// The machine.
    pub host: Host,
    /// The claims.
    pub claims: Vec<Claim>,
}

impl Verified {
    /// Whether all held.
    #[must_use]
    pub fn held(&self) -> bool {
        self.claims.iter().all(|c| c.held)
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |c: [&str; 5]| format!("{:<12} {:<32} {:<42} {:<52} {}", c[0], c[1], c[2], c[3], c[4]);
        write!(f, "{}", row(["", "CLAIM", "MEASURED", "ERROR", ""]))?;
        for c in &self.claims {
            let verdict = if c.held { "held" } else { "MISSED" };
            write!(f, "\n{}", row([&c.name, &c.claim, &c.measured, &c.error, verdict]))?;
        }
        match self.host.load {
            Some(load) if self.claims.iter().any(|c| c.timing && !c.held) => write!(
                f,
                "\nLoad {load}. Times depend on the machine: run it where nothing else wants the cores, and with --idle poll"
            ),
            _ => Ok(()),
        }
    }
}

/// Measures each of the things that are asked for by itself; where none is, each there is with a figure of its own.
///
/// # Errors
/// EAL or a thread cannot be had.
pub fn run(asked: &Asked, idle: Idle, seed: u64, chosen: Option<usize>) -> Result<Verified> {
    let core = chosen.or(cores().last().copied()).unwrap_or(0);
    // Before it makes a load of its own.
    let host = Host::gather(core);
    let mut bed = Bed::new(idle, seed, core)?;
    let all = *asked == Asked::default();
    let want = |asked: bool| all || asked;
    let mut claims = Vec::new();
    let delay = asked.delay.unwrap_or(Time(10_000_000));
    if want(asked.delay.is_some()) {
        claims.extend(bed.delay(delay)?);
    }
    if want(asked.jitter.is_some()) {
        let jitter = asked.jitter.unwrap_or(Time(1_000_000));
        claims.push(bed.jitter(delay, jitter, asked.distribution.unwrap_or_default())?);
    }
    if want(asked.rate.is_some()) {
        claims.push(bed.rate(asked.rate.unwrap_or(Rate(100_000_000)))?);
    }
    let percent = Share(0.01);
    if want(asked.loss.is_some()) {
        claims.push(bed.share("loss", asked.loss.unwrap_or(percent))?);
    }
    if want(asked.burst_loss.is_some()) {
        claims.extend(bed.bursts(match asked.burst_loss {
            Some(bursts) => bursts,
            None => "1% 25%".parse().map_err(|e: String| anyhow!(e))?,
        })?);
    }
    for (name, share) in
        [("duplicate", asked.duplicate), ("corrupt", asked.corrupt), ("reorder", asked.reorder)]
    {
        if want(share.is_some()) {
            claims.push(bed.share(name, share.unwrap_or(percent))?);
        }
    }
    claims.push(Claim {
        name: "ledger".to_owned(),
        claim: "every packet known".to_owned(),
        measured: format!("{} packets", bed.offered),
        error: format!("{} unaccounted", bed.unaccounted),
        held: bed.unaccounted == 0,
        timing: false,
    });
    Ok(Verified { host, claims })
}

impl Bed {
    fn delay(&mut self, delay: Time) -> Result<Vec<Claim>> {
        let asked = Asked { delay: Some(delay), ..Asked::default() };
        let o = self.load(&asked, 10_000, 100_000)?;
        let late = |ns: u64| (ns as f64 - delay.0 as f64) / 1e3;
        let (least, p50) = (o.least, o.delays.value_at_quantile(0.5));
        let (p99, most) = (o.delays.value_at_quantile(0.99), o.delays.max());
        // The histogram keeps three digits.
        let grain = delay.0 as f64 / 1e3 / 500.0;
        Ok(vec![
            Claim {
                name: "delay".to_owned(),
                claim: format!("{delay}"),
                measured: format!("p50 {:.3} ms, p99 {:.3} ms", p50 as f64 / 1e6, p99 as f64 / 1e6),
                error: format!(
                    "p50 {:+.1} us, p99 {:+.1} us, max {:+.1} us",
                    late(p50),
                    late(p99),
                    late(most)
                ),
                held: o.arrived() == 10_000 && late(p99) <= f64::max(100.0, grain * 5.0),
                timing: true,
            },
            Claim {
                name: "release".to_owned(),
                claim: "when due".to_owned(),
                measured: "by the clock of the WAN itself".to_owned(),
                error: lag(&o.report.lag),
                held: o.report.lag.p99 <= 100_000,
                timing: true,
            },
            Claim {
                name: "never early".to_owned(),
                claim: format!("at least {delay}"),
                measured: format!("at least {:.3} ms", least as f64 / 1e6),
                error: format!("{:+.1} us", late(least)),
                // Two clocks are read, each cut to whole nanoseconds, on two cores.
                held: least + 100 >= delay.0,
                timing: false,
            },
            Claim {
                name: "order".to_owned(),
                claim: "kept".to_owned(),
                measured: format!("{} of {} reordered", o.report.reordered, o.arrived()),
                error: String::new(),
                held: o.report.reordered == 0,
                timing: false,
            },
        ])
    }

    fn jitter(&mut self, delay: Time, jitter: Time, spread: Spread) -> Result<Claim> {
        let asked = Asked {
            delay: Some(delay.max(jitter)),
            jitter: Some(jitter),
            distribution: Some(spread),
            jitter_reorders: Some(true),
            ..Asked::default()
        };
        let o = self.load(&asked, 20_000, 50_000)?;
        let sd = jitter.0 as f64 / if spread == Spread::Uniform { 3f64.sqrt() } else { 1.0 } / 1e3;
        let n = o.arrived().max(1) as f64;
        let mean = o.moments.0 / n;
        let found = (o.moments.1 / n - mean * mean).max(0.0).sqrt() * 1e6;
        Ok(Claim {
            name: "jitter".to_owned(),
            claim: format!("{jitter} {spread:?}, deviation {sd:.0} us").to_lowercase(),
            measured: format!("deviation {found:.1} us, mean {:.3} ms", mean * 1e3),
            error: format!("{:+.2} %", (found / sd - 1.0) * 100.0),
            held: (found / sd - 1.0).abs() < if spread == Spread::Pareto { 0.5 } else { 0.05 },
            timing: true,
        })
    }

    fn rate(&mut self, rate: Rate) -> Result<Claim> {
        let asked = Asked {
            rate: Some(rate),
            queue: Some(Queue::Packets(100)),
            overhead: Some(0),
            ..Asked::default()
        };
        // Half as much again as passes, for a second or until buffers could run short.
        let each = SIZE as f64 * 8.0 / rate.0 as f64 * 1e9;
        let packets = (1.5e9 / each).clamp(100.0, 1e6) as u64;
        let o = self.load(&asked, packets, (each / 1.5) as u64)?;
        let seconds = (o.span.1 - o.span.0) as f64 / 1e9;
        let found = (o.arrived().saturating_sub(1)) as f64 * SIZE as f64 * 8.0 / seconds.max(1e-9);
        let error = (found / rate.0 as f64 - 1.0) * 100.0;
        Ok(Claim {
            name: "rate".to_owned(),
            claim: format!("{rate}bit/s"),
            measured: format!(
                "{:.4} Mbit/s while {:.1} were offered",
                found / 1e6,
                rate.0 as f64 * 1.5 / 1e6
            ),
            error: format!("{error:+.3} %"),
            held: error.abs() <= 1.0,
            timing: true,
        })
    }

    fn share(&mut self, name: &str, share: Share) -> Result<Claim> {
        let asked = Asked { delay: Some(Time(1_000_000)), ..Asked::default() };
        let asked = match name {
            "loss" => Asked { loss: Some(share), ..asked },
            "duplicate" => Asked { duplicate: Some(share), ..asked },
            "corrupt" => Asked { corrupt: Some(share), ..asked },
            _ => Asked { reorder: Some(share), reorder_back: Some(Time(100_000)), ..asked },
        };
        let o = self.load(&asked, TRIES, 4_000)?;
        let found = match name {
            "loss" => o.came.iter().filter(|n| **n == 0).count() as u64,
            "duplicate" => o.came.iter().filter(|n| **n == 2).count() as u64,
            "corrupt" => o.changed,
            _ => o.report.displaced,
        };
        let mean = TRIES as f64 * share.0;
        let sd = (mean * (1.0 - share.0)).sqrt();
        Ok(chance(name, &share.to_string(), found, mean, sd))
    }

    fn bursts(&mut self, bursts: BurstLoss) -> Result<Vec<Claim>> {
        let asked = Asked { burst_loss: Some(bursts), ..Asked::default() };
        let o = self.load(&asked, TRIES, 4_000)?;
        let lost = o.came.iter().filter(|n| **n == 0).count() as u64;
        let (p, r, mean) = (bursts.p.0, bursts.r.0, bursts.mean());
        // A chain's losses vary more than a coin's, where it stays in its states.
        let stays = ((2.0 - p - r) / (p + r)).max(1.0);
        let sd = (TRIES as f64 * mean * (1.0 - mean) * stays).sqrt();
        let mut claims = vec![chance("burst loss", &bursts.to_string(), lost, TRIES as f64 * mean, sd)];
        if bursts.lost_in_bad.0 == 1.0 && bursts.lost_in_good.0 == 0.0 {
            let begins = o.came.windows(2).filter(|w| w[0] > 0 && w[1] == 0).count().max(1) as f64;
            let (length, sd) = (lost as f64 / begins, (1.0 - r).sqrt() / r / begins.sqrt());
            claims.push(Claim {
                name: "burst length".to_owned(),
                claim: format!("{:.2} packets", bursts.burst()),
                measured: format!("{length:.3} packets in {begins} bursts"),
                error: format!("{:+.1} deviations", (length - bursts.burst()) / sd.max(1e-9)),
                held: (length - bursts.burst()).abs() <= 5.0 * sd.max(1e-9),
                timing: false,
            });
        }
        Ok(claims)
    }
}

fn lag(lag: &Distribution) -> String {
    let us = |ns: i64| ns as f64 / 1e3;
    format!("p50 {:+.1} us, p99 {:+.1} us, max {:+.1} us", us(lag.p50), us(lag.p99), us(lag.max))
}

/// A claim about how many of [`TRIES`] packets met something.
fn chance(name: &str, claim: &str, found: u64, mean: f64, sd: f64) -> Claim {
    let off = (found as f64 - mean) / sd.max(1e-9);
    Claim {
        name: name.to_owned(),
        claim: claim.to_owned(),
        measured: format!("{found} of {TRIES} packets"),
        error: format!("{off:+.1} deviations of {sd:.1}"),
        held: found as f64 == mean || off.abs() <= 5.0,
        timing: false,
    }
}
