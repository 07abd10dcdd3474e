//! The WAN on its devices: a loop that takes what came, and sends what is due.

use arrayvec::ArrayVec;
use forwarder::config::Idle;
use forwarder::io::{Burst, PacketBuf, PacketIo, PortIndex, TX_BATCH, TxBatch};
use forwarder::sync::StopFlag;
use forwarder::worker::{self, Clock};
use hdrhistogram::Histogram;

use super::direction::Direction;
use crate::result::histogram;

/// A clock in nanoseconds since it was made.
#[derive(Debug)]
pub struct Nanos<C> {
    clock: C,
    began: u64,
    /// Nanoseconds in a tick, in units of 2^-32.
    scale: u128,
}

impl<C: Clock> Nanos<C> {
    /// Begins now.
    pub fn new(clock: C) -> Nanos<C> {
        let scale = (1_000_000u128 << 32) / u128::from(clock.ticks_per_ms().max(1));
        Nanos { began: clock.ticks(), clock, scale }
    }

    /// The time.
    #[inline]
    pub fn now(&self) -> u64 {
        (u128::from(self.clock.ticks().saturating_sub(self.began)) * self.scale >> 32) as u64
    }
}

/// A direction between two ports.
#[derive(Debug)]
pub struct Lane<B> {
    /// What it does.
    pub direction: Direction<B>,
    /// Where packets come in.
    pub from: PortIndex,
    /// Where they go out.
    pub to: PortIndex,
    /// Packets that are due and not yet taken by the device; of each, since when, and its bytes.
    out: TxBatch<B>,
    notes: ArrayVec<(u64, u64), TX_BATCH>,
    /// What was sent, and between when.
    pub sent: Sent,
}

/// What a lane gave to its device.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Packets.
    pub packets: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
    /// By how much later than due each was sent, in nanoseconds.
    pub lag: Histogram<u64>,
    /// When the first and when the last was sent.
    pub span: Option<(u64, u64)>,
}

impl<B: PacketBuf> Lane<B> {
    /// A lane with nothing in it.
    #[must_use]
    pub fn new(direction: Direction<B>, from: PortIndex, to: PortIndex) -> Lane<B> {
        let sent = Sent { packets: 0, bytes: 0, lag: histogram(), span: None };
        Lane { direction, from, to, out: TxBatch::new(), notes: ArrayVec::new(), sent }
    }

    /// Packets in it, those included that wait for the device.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.direction.held() + self.out.len() as u64
    }

    /// Sends what is due. Returns how many packets left.
    fn send<IO: PacketIo<Buf = B>, C: Clock>(&mut self, io: &mut IO, clock: &Nanos<C>) -> usize {
        let now = clock.now();
        while !self.out.is_full() {
            let Some(held) = self.direction.take(now) else { break };
            self.notes.push((held.due, held.packet.frame_len() as u64));
            self.out.push(held.packet);
        }
        if self.out.is_empty() { 0 } else { self.flush(io, clock) }
    }

    /// Gives the device what waits for it.
    fn flush<IO: PacketIo<Buf = B>, C: Clock>(&mut self, io: &mut IO, clock: &Nanos<C>) -> usize {
        let n = io.tx(self.to, &mut self.out);
        let now = clock.now();
        for (due, bytes) in self.notes.drain(..n) {
            self.sent.bytes += bytes;
            self.sent.lag.saturating_record(now.saturating_sub(due));
        }
        if n > 0 {
            self.sent.packets += n as u64;
            let first = self.sent.span.map_or(now, |(first, _)| first);
            self.sent.span = Some((first, now));
        }
        n
    }
}

/// Links on the devices of one worker.
#[derive(Debug)]
pub struct Element<IO: PacketIo, C> {
    // Dropped in this order: packets before the queues, which hold the pool.
    lanes: Vec<Lane<IO::Buf>>,
    burst: Burst<IO::Buf>,
    io: IO,
    clock: Nanos<C>,
    idle: Idle,
}

/// So close to the next packet's time nobody sleeps: a core given away may come back late.
const NEAR: u64 = 50_000;
/// How long packets that are due may wait for a device when the WAN ends, in nanoseconds.
const PATIENCE: u64 = 100_000_000;

impl<IO: PacketIo, C: Clock> Element<IO, C> {
    /// The lanes on these devices; time begins now.
    pub fn new(lanes: Vec<Lane<IO::Buf>>, io: IO, clock: C, idle: Idle) -> Element<IO, C> {
        Element { lanes, burst: Burst::new(), io, clock: Nanos::new(clock), idle }
    }

    /// Carries until stopped. What is under way then is held for ever; what is due goes out.
    pub fn run(&mut self, stop: &StopFlag) {
        let mut empty = 0u32;
        while !stop.stopped() {
            if self.turn() > 0 {
                empty = 0;
                continue;
            }
            empty = empty.saturating_add(1);
            if self.idle == Idle::Adaptive {
                self.rest(empty);
            }
        }
        let until = self.clock.now() + PATIENCE;
        while self.lanes.iter().any(|lane| !lane.out.is_empty()) && self.clock.now() < until {
            for lane in &mut self.lanes {
                lane.flush(&mut self.io, &self.clock);
            }
        }
    }

    /// One turn of the loop. Returns how many packets came or went.
    pub fn turn(&mut self) -> usize {
        let mut moved = 0;
        let Element { lanes, burst, io, clock, .. } = self;
        for lane in lanes {
            let came = io.rx(lane.from, burst);
            if came > 0 {
                let now = clock.now();
                for packet in burst.drain(..) {
                    lane.direction.offer(packet, now, |packet| copy(io, packet));
                }
            }
            moved += came + lane.send(io, clock);
        }
        moved
    }

    /// Lets others use the core unless a packet's time is near.
    fn rest(&self, empty: u32) {
        let now = self.clock.now();
        let next = self.lanes.iter().filter_map(|lane| lane.direction.next_due()).min();
        let waits = self.lanes.iter().any(|lane| !lane.out.is_empty());
        if waits || next.is_some_and(|next| next.saturating_sub(now) < NEAR) {
            std::hint::spin_loop();
        } else {
            worker::rest(empty);
        }
    }

    /// The lanes.
    #[must_use]
    pub fn lanes(&self) -> &[Lane<IO::Buf>] {
        &self.lanes
    }

    /// Gives the devices back, and the lanes with all they counted; what was under way is gone.
    pub fn end(self) -> (IO, Vec<Lane<IO::Buf>>) {
        (self.io, self.lanes)
    }

    /// Nanoseconds since it was made.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.clock.now()
    }
}

/// A second one of a packet; none when the pool is empty or the packet lies in several pieces.
fn copy<IO: PacketIo>(io: &mut IO, packet: &IO::Buf) -> Option<IO::Buf> {
    let mut second = io.alloc()?;
    (second.resize(packet.frame_len()) && packet.read(0, second.head_mut())).then_some(second)
}
