//! A worker: the loop that polls one queue of every device, and the mailbox by which the service asks it things.
//!
//! A turn of the loop takes what is there, sends it, and only then looks at the clock's work and the mailbox. It never waits
//! to fill a burst. In the mailbox all memory belongs to the service: the worker fills what it was given and gives it back.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;

use crate::config::Idle;
use crate::counters::WorkerCounters;
use crate::engine::{ConnRow, DropReason, Edge, Engine, Output};
use crate::flow::{Direction, Key, Millis};
use crate::io::{Burst, NAP, PacketIo, PortIndex};
use crate::neighbor::{Contested, Neighbor};
use crate::residence::Sampler;
use crate::sync::StopFlag;

/// A counter that goes up steadily: the TSC.
pub trait Clock {
    /// Its value.
    fn ticks(&self) -> u64;
    /// How far it goes in a millisecond.
    fn ticks_per_ms(&self) -> u64;
}

/// What the service asks of a worker. Every command comes back, filled in.
#[derive(Debug)]
// One is under way at a time, and a worker must not allocate the box that would make it smaller.
#[allow(clippy::large_enum_variant)]
pub enum Command {
    /// Connections from record `from` on, as many as `rows` has room for and one call may scan.
    List {
        /// First record.
        from: u32,
        /// Only of the flow with this id.
        flow: Option<u64>,
        /// Filled up to its capacity.
        rows: Vec<ConnRow>,
        /// Where to go on; none at the end.
        next: Option<u32>,
    },
    /// The connection a packet with this key belongs to.
    Probe {
        /// The packet's key.
        key: Key,
        /// What was found.
        found: Option<(ConnRow, Direction)>,
    },
    /// Next hops, and own addresses that others claimed.
    Neighbors {
        /// Filled up to its capacity.
        rows: Vec<Neighbor>,
        /// The same.
        contested: Vec<Contested>,
    },
    /// The link of the device with this first port has come up: announce its ports' addresses, if this worker does.
    LinkUp(PortIndex),
}

/// Records looked at for one `List`, so that listing never holds up packets for long.
const SCAN: u32 = 512;

struct Mailbox {
    commands: ArrayQueue<(u64, Command)>,
    replies: ArrayQueue<(u64, Command)>,
}

/// The service's side of a worker.
pub struct WorkerHandle {
    /// Its index.
    pub index: usize,
    /// Core it is pinned to.
    pub core: Option<usize>,
    /// Its counters.
    pub counters: Arc<WorkerCounters>,
    /// What a tick of [`WorkerCounters::residence`] is.
    pub ticks_per_ms: u64,
    mailbox: Arc<Mailbox>,
    /// Number of the last command; held while waiting for its reply, so that one command is under way at a time.
    asking: Mutex<u64>,
}

impl WorkerHandle {
    /// Asks, and waits for the answer. None when the worker does not answer within a second: it has ended or is stuck.
    pub fn ask(&self, command: Command) -> Option<Command> {
        let mut number = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        *number += 1;
        self.mailbox.commands.push((*number, command)).ok()?;
        let until = Instant::now() + Duration::from_secs(1);
        loop {
            match self.mailbox.replies.pop() {
                Some((n, reply)) if n == *number => return Some(reply),
                // The late reply of a command that was given up.
                Some(_) => {}
                None if Instant::now() > until => return None,
                None => std::thread::sleep(Duration::from_micros(50)),
            }
        }
    }
}

/// A worker, before and while it runs. It lies on cache lines of its own.
#[repr(align(128))]
pub struct Worker<IO: PacketIo, C> {
    engine: Engine<IO::Buf>,
    counters: Arc<WorkerCounters>,
    io: IO,
    out: Output<IO::Buf>,
    burst: Burst<IO::Buf>,
    /// The first port of every device.
    polled: Vec<PortIndex>,
    mailbox: Arc<Mailbox>,
    clock: C,
    stop: StopFlag,
    idle: Idle,
    /// Clock value at which the millisecond count goes up, and that count.
    next_ms: u64,
    now: Millis,
    sampler: Sampler,
}

impl<IO: PacketIo, C: Clock> Worker<IO, C> {
    /// A worker and the service's handle to it.
    pub fn new(
        engine: Engine<IO::Buf>,
        io: IO,
        clock: C,
        stop: StopFlag,
        idle: Idle,
        (index, core): (usize, Option<usize>),
    ) -> (Self, WorkerHandle) {
        let mailbox = Arc::new(Mailbox { commands: ArrayQueue::new(4), replies: ArrayQueue::new(4) });
        let counters = Arc::clone(engine.counters());
        let handle = WorkerHandle {
            index,
            core,
            counters: Arc::clone(&counters),
            ticks_per_ms: clock.ticks_per_ms(),
            mailbox: Arc::clone(&mailbox),
            asking: Mutex::new(0),
        };
        let net = engine.net();
        let ports = net.ports.len();
        let polled = (0..).zip(&net.ports).filter(|(i, p)| p.device == *i).map(|(i, _)| i).collect();
        let worker = Self {
            engine,
            counters,
            io,
            out: Output::new(ports),
            burst: Burst::new(),
            polled,
            mailbox,
            next_ms: clock.ticks() + clock.ticks_per_ms(),
            now: 0,
            sampler: Sampler::new(),
            clock,
            stop,
            idle,
        };
        (worker, handle)
    }

    /// Polls until stopped; then sends what is in hand and returns the queues, so that they end with the caller.
    pub fn run(mut self) -> IO {
        self.engine.populate();
        let mut empty = 0u32;
        while !self.stop.stopped() {
            if self.turn() > 0 {
                empty = 0;
                continue;
            }
            empty = empty.saturating_add(1);
            if self.idle == Idle::Adaptive {
                self.rest(empty);
            }
        }
        self.finish()
    }

    /// [`rest`], and in place of naps, where devices wake workers, a wait for them.
    fn rest(&mut self, empty: u32) {
        /// Turns that find nothing before a wait: to be woken costs about as much.
        const PATIENCE: u32 = 64;
        /// Until the clock has work to do.
        const TICK: Duration = Duration::from_millis(1);
        if empty < PATIENCE || !self.io.wakes() {
            return rest(empty);
        }
        // No device tells when it takes what it did not, nor of what other workers hand over.
        let all_tell = self.out.held() == 0 && self.engine.is_alone();
        self.io.wait(if all_tell { TICK } else { NAP });
    }

    /// One turn of the loop. Returns how many packets it found, in queues and handed over.
    #[inline]
    pub fn turn(&mut self) -> usize {
        let began = self.clock.ticks();
        self.keep_time(began);
        self.engine.set_ticks(began);
        self.engine.refresh_flows();
        self.io.attend();
        let mut received = 0;
        let counters = &*self.counters;
        let mut edge = Edge { io: &mut self.io, out: &mut self.out };
        for &port in &self.polled {
            let n = edge.io.rx(port, &mut self.burst);
            if n > 0 {
                received += n;
                let timed = self.sampler.due();
                if timed {
                    self.sampler.begin(self.clock.ticks(), counters, edge.out);
                }
                self.engine.process(&mut edge, port, &mut self.burst);
                edge.flush(counters);
                if timed {
                    self.sampler.end(self.clock.ticks(), self.engine.last_flow(n), counters, edge.out);
                }
            }
        }
        // What others handed over is traffic, too: a worker that has some does not rest.
        received += self.engine.tick(&mut edge);
        edge.flush(counters);
        if self.sampler.leaving() {
            self.sampler.settle(self.clock.ticks(), counters);
        }
        counters.held.set((self.out.held() + self.engine.pending()) as u64);
        counters.loops.add(1);
        if received > 0 {
            counters.busy_loops.add(1);
            counters.busy_cycles.add(self.clock.ticks().wrapping_sub(began));
        }
        if !self.mailbox.commands.is_empty() {
            self.answer();
        }
        received
    }

    /// Counts milliseconds by adding, so that no turn divides.
    #[inline]
    fn keep_time(&mut self, ticks: u64) {
        if ticks >= self.next_ms {
            let per_ms = self.clock.ticks_per_ms().max(1);
            let passed = (ticks - self.next_ms) / per_ms + 1;
            self.now = self.now.wrapping_add(passed as u32);
            self.next_ms += passed * per_ms;
            self.engine.set_time(self.now);
            self.sampler.hurry();
        }
    }

    #[cold]
    fn answer(&mut self) {
        let Some((number, mut command)) = self.mailbox.commands.pop() else { return };
        match &mut command {
            Command::List { from, flow, rows, next } => *next = self.engine.list(*from, *flow, SCAN, rows),
            Command::Probe { key, found } => *found = self.engine.probe(key),
            Command::Neighbors { rows, contested } => {
                let room = rows.capacity();
                rows.extend(self.engine.neighbors().iter().take(room));
                let room = contested.capacity();
                contested.extend(self.engine.contested().take(room));
            }
            Command::LinkUp(device) => self.engine.announce_again(*device),
        }
        // There is room: the service asks one thing at a time.
        let _ = self.mailbox.replies.push((number, command));
    }

    /// Sends what is in hand, for at most 100 ms, and drops the rest by name.
    fn finish(mut self) -> IO {
        let counters = &*self.counters;
        let mut edge = Edge { io: &mut self.io, out: &mut self.out };
        while self.engine.tick(&mut edge) > 0 {
            edge.flush(counters);
        }
        let patience = self.clock.ticks() + 100 * self.clock.ticks_per_ms();
        while self.out.held() > 0 && self.clock.ticks() < patience {
            Edge { io: &mut self.io, out: &mut self.out }.flush(counters);
        }
        self.out.clear(|port, _| counters.count_drop(port, DropReason::Stopped));
        self.engine.clear_pending();
        counters.held.set(0);
        self.io
    }

    /// The engine, for tests.
    pub fn engine(&self) -> &Engine<IO::Buf> {
        &self.engine
    }

    /// The devices, for tests and benchmarks.
    pub fn io_mut(&mut self) -> &mut IO {
        &mut self.io
    }
}

/// Lets others use the core after `empty` turns that found nothing: for a short pause between packets hardly, and in naps
/// ([`NAP`]) when nothing comes for longer.
pub fn rest(empty: u32) {
    const SPINS: u32 = 32;
    const YIELDS: u32 = 256;
    match empty {
        0..SPINS => std::hint::spin_loop(),
        SPINS..YIELDS => std::thread::yield_now(),
        _ => std::thread::sleep(NAP),
    }
}
