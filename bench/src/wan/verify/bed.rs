//! Packets sent through a WAN between two threads, over rings, and what came of them.

use std::sync::{Arc, mpsc};
use std::thread;

use anyhow::{Context, Result, anyhow};
use arrayvec::ArrayVec;
use forwarder::config::{Device, Idle};
use forwarder::dpdk::{DpdkIo, Eal, EalOptions, Mbuf, Mempool, Port, RingPair, WorkerThread};
use forwarder::io::{BURST, PacketBuf};
use forwarder::pools::{self, data_room_for};
use forwarder::server::Tsc;
use forwarder::sync::StopFlag;
use hdrhistogram::Histogram;

use crate::result::histogram;
use crate::topology::cores;
use crate::wan::direction::Direction;
use crate::wan::element::{Element, Lane, Nanos};
use crate::wan::report::DirectionReport;
use crate::wan::run::{port_settings, quiet};
use crate::wan::shape::{Asked, Shape};

/// Packet buffers; what they cannot hold waits at the sender.
const MBUFS: u32 = 32_767;
/// Frames that a ring holds.
const RING: u32 = 1024;
/// How much longer than it should a load may take, in nanoseconds, before it is given up.
const STUCK: u64 = 60_000_000_000;
/// Bytes of a frame.
pub(super) const SIZE: usize = 1000;
/// Two ports over rings, and who stands at their far ends.
pub(super) struct Bed {
    // Dropped in this order.
    io: Option<DpdkIo>,
    near: RingPair,
    far: RingPair,
    pool: Arc<Mempool>,
    eal: Arc<Eal>,
    core: usize,
    idle: Idle,
    seed: u64,
    /// Packets that it received in all, and those of which it is not known what became.
    pub(super) offered: u64,
    pub(super) unaccounted: i64,
}

/// What came of a load.
pub(super) struct Outcome {
    /// Delay of each packet that came, in nanoseconds.
    pub(super) delays: Histogram<u64>,
    /// The shortest one, to the nanosecond.
    pub(super) least: u64,
    /// Sum of delays and of their squares, in seconds.
    pub(super) moments: (f64, f64),
    /// When the first and when the last came.
    pub(super) span: (u64, u64),
    /// How often each packet came.
    pub(super) came: Vec<u8>,
    /// Packets whose body was changed.
    pub(super) changed: u64,
    pub(super) report: DirectionReport,
}

impl Outcome {
    pub(super) fn arrived(&self) -> u64 {
        self.came.iter().map(|n| u64::from(*n)).sum()
    }
}

impl Bed {
    pub(super) fn new(idle: Idle, seed: u64, core: usize) -> Result<Bed> {
        let allowed = cores();
        let main = allowed.iter().find(|c| **c != core).copied().unwrap_or(core);
        let room = data_room_for(1500);
        let eal = Eal::init(&EalOptions {
            huge: false,
            memory_mb: pools::memory_mb(MBUFS, room, false),
            main_core: main,
            args: quiet(),
            ..EalOptions::default()
        })?;
        let pool = Mempool::new(&eal, "packets", MBUFS, 256, room, None)?;
        let (mut queues, mut ends) = (Vec::new(), Vec::new());
        for index in 0..2 {
            let settings = port_settings(index, &Device::Vdev("net_ring".to_owned()), 1500);
            let (_, queue, end) = Port::from_rings(settings, RING, &pool)?;
            queues.extend(queue);
            ends.extend(end);
        }
        let io = Some(DpdkIo::new(queues, Arc::clone(&pool)));
        let (Some(far), Some(near)) = (ends.pop(), ends.pop()) else {
            anyhow::bail!("the ports have no rings")
        };
        Ok(Bed { io, near, far, pool, eal, core, idle, seed, offered: 0, unaccounted: 0 })
    }

    /// Sends `packets` packets, one every `gap` nanoseconds, by a direction that does what is asked, until nothing comes any more.
    pub(super) fn load(&mut self, asked: &Asked, packets: u64, gap: u64) -> Result<Outcome> {
        let shape = asked.shape(None).map_err(anyhow::Error::msg)?;
        // After the last packet nothing comes later than this, unless the machine stands still.
        let patience = 2 * shape.delay.0 + 4 * shape.jitter.size.0 + 300_000_000;
        let direction = Direction::new(Shape { packets: Some(MBUFS), ..shape }, self.seed, 0, 1500);
        let io = self.io.take().context("the devices are gone")?;
        let clock = Nanos::new(Tsc::new(&self.eal));
        let stop = StopFlag::default();
        let (ready, readiness) = mpsc::channel();
        let worker = {
            let (eal, core, idle, stop) = (Arc::clone(&self.eal), self.core, self.idle, stop.clone());
            thread::Builder::new().name("wan".to_owned()).spawn(move || -> Result<_> {
                crate::core::pin(core)?;
                let _registered = WorkerThread::register(&eal)?;
                // Sleeps are longer without; the table tells.
                let _ = nix::sys::prctl::set_timerslack(1);
                let mut element = Element::new(vec![Lane::new(direction, 0, 1)], io, Tsc::new(&eal), idle);
                // The other end waits for this, or for the channel to close.
                let _ = ready.send(());
                element.run(&stop);
                let (io, lanes) = element.end();
                let report = lanes.first().map(|lane| DirectionReport::of(lane, Default::default()));
                Ok((io, report.unwrap_or_default()))
            })?
        };
        // Nothing is timed before the worker polls. One that could not says so when it is joined.
        let mut outcome = readiness.recv().ok().map(|()| self.exchange(&clock, packets, gap, patience));
        stop.stop();
        let (io, report) = worker.join().map_err(|_| anyhow!("the worker failed"))??;
        self.io = Some(io);
        self.offered += report.received;
        self.unaccounted += report.unaccounted();
        let mut outcome = outcome.take().context("the worker ended before it began")?;
        outcome.report = report;
        Ok(outcome)
    }

    fn exchange(&mut self, clock: &Nanos<Tsc>, packets: u64, gap: u64, patience: u64) -> Outcome {
        let mut outcome = Outcome {
            delays: histogram(),
            least: u64::MAX,
            moments: (0.0, 0.0),
            span: (0, 0),
            came: vec![0; packets as usize],
            changed: 0,
            report: DirectionReport::default(),
        };
        let mut sent: Vec<u64> = Vec::with_capacity(packets as usize);
        let (mut out, mut back) = (ArrayVec::<Mbuf, BURST>::new(), ArrayVec::<Mbuf, BURST>::new());
        let began = clock.now();
        let mut quiet = began;
        loop {
            let now = clock.now();
            while (sent.len() as u64) < packets && !out.is_full() && began + sent.len() as u64 * gap <= now {
                let Some(frame) = self.pool.alloc().and_then(|f| fill(f, sent.len() as u32)) else { break };
                out.push(frame);
                sent.push(clock.now());
            }
            self.near.send(&mut out);
            self.far.recv(&mut back);
            if !back.is_empty() {
                let now = clock.now();
                quiet = now;
                for frame in back.drain(..) {
                    outcome.note(&frame, &sent, now);
                }
            }
            let last = sent.last().copied().unwrap_or(began).max(quiet);
            let all = sent.len() as u64 == packets && out.is_empty();
            if (all && now > last + patience) || now > began + packets * gap + patience + STUCK {
                return outcome;
            }
            std::hint::spin_loop();
        }
    }
}

/// Writes a frame: its number where no harm comes to it, and nothing behind.
fn fill(mut frame: Mbuf, number: u32) -> Option<Mbuf> {
    if !frame.resize(SIZE) {
        return None;
    }
    let head = frame.head_mut();
    head.fill(0);
    head.get_mut(..4)?.copy_from_slice(&number.to_be_bytes());
    Some(frame)
}

impl Outcome {
    fn note(&mut self, frame: &Mbuf, sent: &[u64], now: u64) {
        let Some((number, body)) = frame.head().split_first_chunk() else { return };
        let number = u32::from_be_bytes(*number) as usize;
        let (Some(since), Some(came)) = (sent.get(number), self.came.get_mut(number)) else { return };
        *came = came.saturating_add(1);
        self.changed += u64::from(body.iter().any(|b| *b != 0));
        let delay = now.saturating_sub(*since);
        self.delays.saturating_record(delay);
        self.least = self.least.min(delay);
        self.moments.0 += delay as f64 / 1e9;
        self.moments.1 += (delay as f64 / 1e9).powi(2);
        let first = if self.span.0 == 0 { now } else { self.span.0 };
        self.span = (first, now);
    }
}
