//! New connections a second on one worker: each is admitted by its first packet, relays a second one, falls silent, and is
//! removed by the sweep.
//!
//! The count begins in a steady state, when as many connections expire as are admitted. It contains all that the worker does;
//! the feeder is told apart.

use std::time::{Duration, Instant};

use super::rings::{self, Bed, Fed};
use super::row::{self, Figure};
use anyhow::{Context, Result, ensure};
use forwarder::dpdk;
use forwarder::io::BURST;

const FLOWS: u32 = 256;
/// New connections in a burst; the rest are second packets.
const NEW: u32 = BURST as u32 / 2;

/// New connections a second, by the cycles the worker spends on them.
pub(super) fn admissions(s: &row::Settings) -> Result<Figure> {
    let f = run(&Settings {
        // The sweep removes them in waves: the count goes on for longer than one.
        connections: s.packets.max(1_000_000),
        warm_up: Duration::from_secs(if s.quick { 3 } else { 6 }),
        table: 4 << 20,
        apart: 64,
        core: s.core,
        huge: s.huge,
    })?;
    Ok(Figure::of(f.per_second)
        .with("per_second_fed", f.per_second_fed)
        .with("cycles", f.cycles)
        .with("admitted", f.admitted as f64)
        .with("expired", f.expired as f64)
        .with("live", f.live))
}

/// How to measure.
#[derive(Debug, Clone)]
struct Settings {
    /// Connections counted, each admitted, used and expired.
    connections: u64,
    /// How long connections come and go before the count begins. The steady state is reached in 5 s: 1 s of silence, and two
    /// rounds of the sweep.
    warm_up: Duration,
    /// Size of the connection table. It must hold what is admitted in about 3 s.
    table: usize,
    /// New connections between a connection's first packet and its second, in bursts.
    apart: u32,
    /// Core of the worker.
    core: usize,
    /// Packet memory from hugepages.
    huge: bool,
}

/// What was found.
#[derive(Debug, Clone)]
struct Figures {
    /// Connections admitted while counting.
    admitted: u64,
    /// Connections removed meanwhile.
    expired: u64,
    /// Connections that exist at a time, mean of begin and end.
    live: f64,
    /// Cycles of the worker for a connection: two packets and its end.
    cycles: f64,
    /// Connections a second of a worker that is fed at no cost: the clock's rate over `cycles`.
    per_second: f64,
    /// Connections a second of worker and feeder in one thread, by the wall clock.
    per_second_fed: f64,
}

/// Measures. Starts EAL, so a process can do it once.
///
/// # Errors
/// There is not enough memory, the table is too small for the rate, or a packet did not pass.
fn run(settings: &Settings) -> Result<Figures> {
    let more = format!(
        "[timers]\nudp = 1\n[limits]\nconnections = {}\nflows = {FLOWS}\nsource_ports = \"1024-65535\"\n",
        settings.table
    );
    let mut bed = Bed::new(rings::config(FLOWS as u16, &more)?, settings.core, settings.huge, 1)?;
    let (mac, hz) = (bed.mac, dpdk::tsc_hz(&bed.eal));
    // The calling thread is EAL's main one, on the core asked for: it works.
    let fed = bed.fed.first_mut().context("there is no worker")?;
    let mut next = 0;
    let began = Instant::now();
    while began.elapsed() < settings.warm_up {
        for _ in 0..64 {
            burst(fed, mac, &mut next, settings.apart)?;
        }
    }
    let live = |fed: &Fed| fed.worker.engine().table().len() as u64;
    let (first, live_before, cycles, began) = (next, live(fed), fed.cycles(), Instant::now());
    while u64::from(next - first) < settings.connections {
        burst(fed, mac, &mut next, settings.apart)?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let (admitted, live_after) = (u64::from(next - first), live(fed));
    let cycles = (fed.cycles() - cycles) as f64 / admitted as f64;
    Ok(Figures {
        admitted,
        expired: live_before + admitted - live_after,
        live: (live_before + live_after) as f64 / 2.0,
        cycles,
        per_second: hz as f64 / cycles,
        per_second_fed: admitted as f64 / seconds,
    })
}

/// Half a burst of new connections, half a burst of second packets.
fn burst(fed: &mut Fed, mac: forwarder::wire::Mac, next: &mut u32, apart: u32) -> Result<()> {
    let headers: [_; BURST] = std::array::from_fn(|i| {
        let i = i as u32;
        // The first bursts' second packets open connections, too; they are part of the warm-up.
        let n = if i < NEW { *next + i } else { (*next + i - NEW).saturating_sub(NEW * apart) };
        rings::headers(mac, (n % FLOWS) as u16, n / FLOWS)
    });
    *next += NEW;
    let mut all = headers.iter();
    let out = fed.turn(|| all.next().unwrap_or(&headers[0]))?.len();
    if out < BURST {
        let counters = fed.worker.engine().counters();
        let why: Vec<_> = forwarder::engine::DropReason::ALL
            .iter()
            .filter(|r| counters.queues[0].dropped(**r) > 0)
            .map(|r| r.name())
            .collect();
        ensure!(
            out == BURST,
            "packets of new connections were dropped ({}); with conn_table_full make the table larger",
            why.join(", ")
        );
    }
    Ok(())
}
