//! Packets a second of one worker and of two that share flows, routes and device, each on a core of its own.
//!
//! There is no third core to feed them: each thread feeds its own worker. A figure therefore contains, for every packet, the
//! writing of its headers and four ring operations beside the relay itself, the same for one worker and for two.

use std::sync::{Arc, Barrier};
use std::time::Instant;

use super::rings::{self, Bed, Fed, Headers};
use super::row::{self, Figure};
use anyhow::{Context, Result, anyhow, ensure};
use forwarder::dpdk::WorkerThread;
use forwarder::io::BURST;

const FLOWS: u32 = 16;

/// Packets a second of one worker and of two.
pub(super) fn scaling(s: &row::Settings) -> Result<Figure> {
    // Short ones: both cores are seldom undisturbed for long at the same time.
    let f = run(&Settings {
        rounds: if s.quick { 1 } else { 20 },
        packets: s.packets / 4,
        connections: 1000,
        cores: [s.other_core(), s.core],
        huge: s.huge,
    })?;
    let best = |f: &[f64]| f.iter().copied().fold(0.0, f64::max);
    let least = |f: &[f64]| f.iter().copied().fold(f64::INFINITY, f64::min);
    Ok(Figure::of(f.ratio)
        .with("one", best(&f.one.concat()))
        .with("two", best(&f.two))
        .with("by_processor_time", f.processor)
        .with("cycles_one", least(&f.cycles_one.concat()))
        .with("cycles_two", least(&f.cycles_two)))
}

/// How to measure.
#[derive(Debug, Clone)]
struct Settings {
    /// Rounds; in each, one worker runs on either core, then both run.
    rounds: usize,
    /// Packets of each worker in each run.
    packets: u64,
    /// Connections of each worker.
    connections: u16,
    /// Cores of the two workers.
    cores: [usize; 2],
    /// Packet memory from hugepages.
    huge: bool,
}

/// Millions of packets a second, a figure a round.
#[derive(Debug, Clone, Default)]
struct Figures {
    /// One worker, on the first core and on the second.
    one: [Vec<f64>; 2],
    /// Both together.
    two: Vec<f64>,
    /// Cycles a packet of each worker alone, without its feeder.
    cycles_one: [Vec<f64>; 2],
    /// Cycles a packet of both workers together (mean of the two), without their feeders.
    cycles_two: Vec<f64>,
    /// Two workers' best over one worker's best on the faster core.
    ratio: f64,
    /// The same by packets a second of processor time, which leaves out the time that others had a core.
    processor: f64,
}

/// One run of one worker.
struct Ran {
    packets: u64,
    seconds: f64,
    /// Seconds of processor time of the worker's thread.
    processor: f64,
    cycles: u64,
}

impl Ran {
    fn cycles(&self) -> f64 {
        self.cycles as f64 / self.packets as f64
    }

    /// Packets a second of processor time.
    fn of_processor(&self) -> f64 {
        self.packets as f64 / self.processor
    }
}

/// Measures. Starts EAL, so a process can do it once.
///
/// # Errors
/// There are not two cores or not enough memory, or a packet did not pass.
fn run(settings: &Settings) -> Result<Figures> {
    ensure!(settings.cores[0] != settings.cores[1], "two workers need two cores");
    let mut bed = Bed::new(rings::config(FLOWS as u16, "")?, settings.cores[0], settings.huge, 2)?;
    let (eal, mac, steering) = (Arc::clone(&bed.eal), bed.mac, bed.steering.clone());
    let mut figures = Figures::default();
    let (mut one, mut two) = (0.0f64, 0.0f64);
    std::thread::scope(|scope| {
        let workers: Vec<_> = bed
            .fed
            .drain(..)
            .zip(settings.cores)
            .enumerate()
            .map(|(worker, (mut fed, core))| {
                let (orders, inbox) = std::sync::mpsc::channel::<Arc<Barrier>>();
                let (outbox, results) = std::sync::mpsc::channel();
                let (eal, steering) = (Arc::clone(&eal), steering.clone());
                scope.spawn(move || {
                    let ready = rings::pin(core).and_then(|()| Ok(WorkerThread::register(&eal)?));
                    let _registered = match ready {
                        Ok(registered) => registered,
                        Err(e) => return drop(outbox.send(Err(e))),
                    };
                    let headers: Vec<_> = (0..)
                        .map(|c| ((c % FLOWS) as u16, c))
                        .filter(|(flow, c)| rings::home(&steering, *flow, *c) == Some(worker))
                        .map(|(flow, c)| rings::headers(mac, flow, c))
                        .take(settings.connections.into())
                        .collect();
                    // On this thread's stack it shares no cache line with another worker.
                    let fed = &mut fed;
                    let mut opened = fed.open(&headers);
                    for start in inbox {
                        start.wait();
                        let ran = std::mem::replace(&mut opened, Ok(()))
                            .and_then(|()| relay(fed, &headers, settings.packets));
                        if outbox.send(ran).is_err() {
                            break;
                        }
                    }
                });
                (orders, results)
            })
            .collect();
        let together = |which: &[usize]| -> Result<Vec<Ran>> {
            let start = Arc::new(Barrier::new(which.len()));
            for n in which {
                // A worker that failed has said so in its results.
                _ = workers[*n].0.send(Arc::clone(&start));
            }
            let result = |n: &usize| workers[*n].1.recv().context("a worker ended early")?;
            which.iter().map(result).collect()
        };
        // A pair of runs that counts for nothing warms up, and shows failures before anybody waits for them.
        together(&[0])?;
        together(&[1])?;
        for _ in 0..settings.rounds {
            for n in 0..2 {
                let ran = together(&[n])?.pop().ok_or_else(|| anyhow!("a worker told nothing"))?;
                one = one.max(ran.of_processor());
                figures.one[n].push(rate(std::slice::from_ref(&ran)));
                figures.cycles_one[n].push(ran.cycles());
            }
            let ran = together(&[0, 1])?;
            two = two.max(ran.iter().map(Ran::of_processor).sum());
            figures.two.push(rate(&ran));
            figures.cycles_two.push(ran.iter().map(Ran::cycles).sum::<f64>() / 2.0);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let best = |f: &[f64]| f.iter().copied().fold(0.0, f64::max);
    figures.ratio = best(&figures.two) / best(&figures.one.concat());
    figures.processor = two / one;
    Ok(figures)
}

/// Millions of packets a second, all packets over the time of the slowest.
fn rate(ran: &[Ran]) -> f64 {
    let packets: u64 = ran.iter().map(|r| r.packets).sum();
    packets as f64 / ran.iter().map(|r| r.seconds).fold(0.0, f64::max) / 1e6
}

fn relay(fed: &mut Fed, headers: &[Headers], packets: u64) -> Result<Ran> {
    let turns = packets.div_ceil(BURST as u64);
    let (cycles, used, began) = (fed.cycles(), row::thread_time()?, Instant::now());
    let mut at = 0;
    for _ in 0..turns {
        let out = fed.turn(|| {
            at = if at + 1 < headers.len() { at + 1 } else { 0 };
            &headers[at]
        })?;
        ensure!(out.len() == BURST, "{} of {BURST} packets were lost", BURST - out.len());
    }
    let seconds = began.elapsed().as_secs_f64();
    let processor = row::thread_time()? - used;
    Ok(Ran { packets: turns * BURST as u64, seconds, processor, cycles: fed.cycles() - cycles })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_worker_ends_the_time_of_all() {
        let ran = |packets, seconds| Ran { packets, seconds, processor: 0.25, cycles: 50 * packets };
        assert_eq!(rate(&[ran(1_000_000, 0.5)]), 2.0);
        assert_eq!(rate(&[ran(1_000_000, 0.5), ran(1_000_000, 1.0)]), 2.0);
        assert_eq!((ran(7, 1.0).cycles(), ran(7, 1.0).of_processor()), (50.0, 28.0));
    }
}
