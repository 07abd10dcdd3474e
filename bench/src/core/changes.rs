//! A worker relays while flows come and go: what the changes cost the others ([`dip`]), and that no packet is lost count of
//! ([`ledger`]).
//!
//! Flows are added and deleted as s2ctl does it, by requests to the gateway, each acknowledged by the worker before the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use super::rings::{self, Bed, Fed, Headers};
use super::row::{self, Figure};
use anyhow::{Context, Result, anyhow, ensure};
use forwarder::api::Request;
use forwarder::dpdk::WorkerThread;
use forwarder::gateway::Gateway;
use forwarder::io::BURST;
use forwarder::service::{Handler, Peer};

const FLOWS: u16 = 100;
/// Flows that come and go, behind the others.
const PASSING: u16 = 100;

/// The dip in percent.
pub(super) fn dips(s: &row::Settings) -> Result<Figure> {
    let f = dip(&settings(s, 1000, s.packets))?;
    Ok(Figure::of(f.dip).with("lost", f.lost as f64).with("changes_a_second", f.rate))
}

/// Packets that the ledger does not account for.
pub(super) fn accounts(s: &row::Settings) -> Result<Figure> {
    let f = ledger(&settings(s, 1100, if s.quick { 1_000_000 } else { 100_000_000 }))?;
    Ok(Figure::of(f.unaccounted as f64)
        .with("packets", f.received as f64)
        .with("lost", f.lost as f64)
        .with("outlived", f.outlived as f64)
        .with("refused", f.refused as f64)
        .with("dropped", f.dropped as f64)
        .with("changes", f.changes as f64))
}

fn settings(s: &row::Settings, connections: u16, packets: u64) -> Settings {
    Settings { packets, connections, rate: 10_000, core: s.core, other: s.other_core(), huge: s.huge }
}

/// How to measure.
#[derive(Debug, Clone)]
struct Settings {
    /// Packets of each run.
    packets: u64,
    /// Connections, shared out over 100 flows.
    connections: u16,
    /// Flow changes a second that are asked for.
    rate: u32,
    /// Core of the worker.
    core: usize,
    /// Core of the thread that changes flows.
    other: usize,
    /// Packet memory from hugepages.
    huge: bool,
}

/// What [`dip`] found.
#[derive(Debug, Clone)]
struct Dip {
    /// Percent by which the rate of packets goes down while flows change, feeder included.
    dip: f64,
    /// Flow changes a second that were acknowledged meanwhile.
    rate: f64,
    /// Packets that did not come out, with changes and without.
    lost: u64,
}

/// What [`ledger`] counted. Nothing was lost count of when `unaccounted` is 0.
#[derive(Debug, Clone, Default)]
struct Ledger {
    /// Packets put where the worker receives.
    fed: u64,
    /// Packets that came out.
    came_out: u64,
    /// Packets of flows that stay that did not come out.
    lost: u64,
    /// Packets of a flow that came out although its deletion had been acknowledged.
    outlived: u64,
    /// Packets of a flow that did not come out although its addition had been acknowledged.
    refused: u64,
    /// The forwarder's own counts.
    received: u64,
    /// Sent on.
    sent: u64,
    /// Held.
    held: u64,
    /// Dropped as `no_flow`.
    no_flow: u64,
    /// Dropped for any reason.
    dropped: u64,
    /// `|received - sent - held - dropped| + |fed - received| + |came_out - sent|`
    unaccounted: u64,
    /// Flow changes acknowledged.
    changes: u64,
    /// Seconds it took.
    seconds: f64,
}

/// Adds and deletes flows `first..first + states.len()`, one change after the other.
struct Changer<'a> {
    gateway: &'a Gateway,
    first: u16,
    states: &'a [AtomicU8],
    stop: &'a AtomicBool,
    every: Duration,
}

// States of a flow that comes and goes; an odd one may change any time.
const GONE: u8 = 0;
const PRESENT: u8 = 2;

impl Changer<'_> {
    /// Changes flows until stopped; returns how many changes were acknowledged, and in how many seconds.
    fn run(&self) -> Result<(u64, f64)> {
        let peer = Peer { pid: 0, uid: 0, gid: 0 };
        let began = Instant::now();
        let (mut changes, mut due) = (0, began);
        for (n, state) in (self.first..).zip(self.states).cycle() {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            while Instant::now() < due {
                std::thread::yield_now();
            }
            due += self.every;
            // Acknowledged means that the worker goes by the change: what it was is over before, what it is has begun after.
            let was = state.load(Ordering::Relaxed);
            let spec = rings::flow(n)?;
            let request =
                if was == GONE { Request::FlowAdd { spec } } else { Request::FlowDelete { name: spec.name } };
            state.store(was | 1, Ordering::SeqCst);
            self.gateway.handle(request, &peer).map_err(|e| anyhow!(e.message))?;
            state.store(PRESENT - was, Ordering::SeqCst);
            changes += 1;
        }
        Ok((changes, began.elapsed().as_secs_f64()))
    }
}

/// Runs `worker` on its core and, when `changing`, changes flows on the other until it is done.
fn beside_changes<T: Send>(
    settings: &Settings,
    bed: &mut Bed,
    states: &[AtomicU8],
    changing: bool,
    worker: impl FnOnce(&mut Fed) -> Result<T> + Send,
) -> Result<(T, (u64, f64))> {
    let (stop, ended) = (AtomicBool::new(false), AtomicBool::new(!changing));
    let (eal, gateway) = (Arc::clone(&bed.eal), Arc::clone(&bed.gateway));
    let fed = bed.fed.first_mut().context("there is no worker")?;
    let changer = Changer {
        gateway: &gateway,
        first: FLOWS,
        states,
        stop: &stop,
        every: Duration::from_secs(1) / settings.rate.max(1),
    };
    std::thread::scope(|scope| {
        let changes: Option<ScopedJoinHandle<'_, _>> = changing.then(|| {
            scope.spawn(|| {
                let changed = rings::pin(settings.other).and_then(|()| changer.run());
                ended.store(true, Ordering::Relaxed);
                changed
            })
        });
        let work = scope.spawn(|| {
            let done = rings::pin(settings.core).and_then(|()| {
                let _registered = WorkerThread::register(&eal)?;
                worker(fed)
            });
            stop.store(true, Ordering::Relaxed);
            // The last change waits for a worker that goes on.
            while !ended.load(Ordering::Relaxed) {
                fed.worker.turn();
                std::thread::yield_now();
            }
            done
        });
        let gone = || anyhow!("a thread panicked");
        let done = work.join().map_err(|_| gone())?;
        let changes = changes.map_or(Ok((0, 0.0)), |c| c.join().map_err(|_| gone())?);
        Ok((done?, changes?))
    })
}

fn states() -> Vec<AtomicU8> {
    (0..PASSING).map(|_| AtomicU8::new(GONE)).collect()
}

/// Measures how far packets a second go down while flows that they do not belong to change. Starts EAL, so a process can do
/// it once.
///
/// # Errors
/// There is no memory or core, or a change was refused.
fn dip(settings: &Settings) -> Result<Dip> {
    let mut bed = Bed::new(rings::config(FLOWS, "")?, settings.core, settings.huge, 1)?;
    let headers: Vec<Headers> =
        (0..settings.connections.max(1)).map(|c| rings::headers(bed.mac, c % FLOWS, c.into())).collect();
    let states = states();
    let turns = settings.packets.div_ceil(BURST as u64);
    let relay = |fed: &mut Fed| {
        fed.open(&headers)?;
        let began = Instant::now();
        let (mut at, mut lost) = (0, 0);
        for _ in 0..turns {
            let out = fed.turn(|| {
                at = if at + 1 < headers.len() { at + 1 } else { 0 };
                &headers[at]
            })?;
            lost += (BURST - out.len()) as u64;
        }
        Ok((began.elapsed().as_secs_f64(), lost))
    };
    let mut run = |changing| beside_changes(settings, &mut bed, &states, changing, relay);
    let mut lost = 0;
    // The first pair only warms up.
    for changing in [false, true] {
        lost += run(changing)?.0.1;
    }
    let ((without, lost_without), _) = run(false)?;
    let ((with, lost_with), (changes, time)) = run(true)?;
    // Both relay as many packets, so the rates are as the times, the other way round.
    Ok(Dip {
        dip: 100.0 * (1.0 - without / with),
        rate: changes as f64 / time,
        lost: lost + lost_without + lost_with,
    })
}

/// Counts every packet of a long run in which some connections belong to flows that come and go. Starts EAL, so a process can
/// do it once.
///
/// # Errors
/// There is no memory or core, or a change was refused. A ledger that does not balance is no error: the caller looks.
fn ledger(settings: &Settings) -> Result<Ledger> {
    let mut bed = Bed::new(rings::config(FLOWS, "")?, settings.core, settings.huge, 1)?;
    // Every eleventh connection is one of a flow that passes.
    let of = |c: u16| if c % 11 == 10 { FLOWS + c / 11 % PASSING } else { c % FLOWS };
    let headers: Vec<(u16, Headers)> =
        (0..settings.connections.max(1)).map(|c| (of(c), rings::headers(bed.mac, of(c), c.into()))).collect();
    let states = states();
    let count = |fed: &mut Fed| {
        let mut ledger = Ledger::default();
        let (mut at, began) = (0, Instant::now());
        let look = || -> [u8; PASSING as usize] { std::array::from_fn(|n| states[n].load(Ordering::SeqCst)) };
        // Per flow, packets fed and not yet come out; the last place for all that stay.
        let mut open = [0u64; PASSING as usize + 1];
        let place = |flow: u16| usize::from(flow.wrapping_sub(FLOWS).min(PASSING));
        while ledger.fed < settings.packets {
            let before = look();
            let out = fed.turn(|| {
                at = if at + 1 < headers.len() { at + 1 } else { 0 };
                open[place(headers[at].0)] += 1;
                &headers[at].1
            })?;
            let after = look();
            ledger.fed += BURST as u64;
            ledger.came_out += out.len() as u64;
            for frame in out {
                let n = place(rings::flow_of(frame).context("a frame came out that nobody sent")?);
                open[n] = open[n].checked_sub(1).context("a frame came out twice")?;
                ledger.outlived += u64::from(n < before.len() && before[n] == GONE && after[n] == GONE);
            }
            ledger.lost += open[usize::from(PASSING)];
            for n in 0..before.len() {
                if before[n] == PRESENT && after[n] == PRESENT {
                    ledger.refused += open[n];
                }
            }
            open.fill(0);
        }
        ledger.seconds = began.elapsed().as_secs_f64();
        Ok(ledger)
    };
    let (mut ledger, (changes, _)) = beside_changes(settings, &mut bed, &states, true, count)?;
    let stats = bed.gateway.stats();
    ledger.changes = changes;
    (ledger.received, ledger.sent, ledger.held) = (stats.received, stats.sent, stats.held);
    ledger.dropped = stats.drops.values().sum();
    ledger.no_flow = stats.drops.get("no_flow").copied().unwrap_or(0);
    ensure!(ledger.changes > 0, "no flow changed meanwhile");
    ledger.unaccounted = ledger.received.abs_diff(ledger.sent + ledger.held + ledger.dropped)
        + ledger.fed.abs_diff(ledger.received)
        + ledger.came_out.abs_diff(ledger.sent);
    Ok(ledger)
}
