//! The WAN on its devices: a loop that takes what came, and sends what is due.

use std::sync::Arc;

use arrayvec::ArrayVec;
use forwarder::config::Idle;
use forwarder::io::{Burst, PacketBuf, PacketIo, PortIndex, TX_BATCH, TxBatch};
use forwarder::sync::{Counter, StopFlag};
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
        ((u128::from(self.clock.ticks().saturating_sub(self.began)) * self.scale) >> 32) as u64
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
    live: Arc<Live>,
}

/// A lane's figures for those who look on while it carries; written by its worker, at most a turn old.
#[derive(Debug, Default)]
pub struct Live {
    received_bytes: Counter,
    sent_bytes: Counter,
    held: Counter,
    dropped: Counter,
}

/// What [`Live`] said at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Glance {
    /// Bytes that came, from the Ethernet header on.
    pub received_bytes: u64,
    /// Bytes that left.
    pub sent_bytes: u64,
    /// Packets under way.
    pub held: u64,
    /// Packets dropped.
    pub dropped: u64,
}

impl Live {
    /// A look at it.
    #[must_use]
    pub fn glance(&self) -> Glance {
        Glance {
            received_bytes: self.received_bytes.get(),
            sent_bytes: self.sent_bytes.get(),
            held: self.held.get(),
            dropped: self.dropped.get(),
        }
    }
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
        Lane { direction, from, to, out: TxBatch::new(), notes: ArrayVec::new(), sent, live: Arc::default() }
    }

    /// Packets in it, those included that wait for the device.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.direction.held() + self.out.len() as u64
    }

    /// Its figures for others.
    #[must_use]
    pub fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live)
    }

    fn show(&self) {
        let counts = self.direction.counts();
        self.live.received_bytes.set(counts.received_bytes);
        self.live.sent_bytes.set(self.sent.bytes);
        self.live.held.set(self.held());
        self.live.dropped.set(counts.dropped.iter().sum());
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
            let went = lane.send(io, clock);
            if came + went > 0 {
                lane.show();
            }
            moved += came + went;
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use forwarder::io::memory::MemoryIo;

    use super::*;
    use crate::wan::report::DirectionReport;
    use crate::wan::shape::Asked;

    /// A clock that stands until it is moved: a tick is a nanosecond.
    #[derive(Debug, Clone, Default)]
    struct Hand(Rc<Cell<u64>>);

    impl Clock for Hand {
        fn ticks(&self) -> u64 {
            self.0.get()
        }
        fn ticks_per_ms(&self) -> u64 {
            1_000_000
        }
    }

    /// A link with the same in both directions, the far ends of its devices, and its clock.
    fn link(asked: &str, buffers: usize) -> (Element<MemoryIo, Hand>, MemoryIo, Hand) {
        let asked: Asked = toml::from_str(asked).unwrap();
        let (io, clock) = (MemoryIo::new(2, buffers), Hand::default());
        let lanes = [(0, 1), (1, 0)].map(|(from, to)| {
            Lane::new(Direction::new(asked.shape(None).unwrap(), 1, from.into(), 1500), from, to)
        });
        (Element::new(lanes.into(), io.clone(), clock.clone(), Idle::Poll), io, clock)
    }

    fn reports(element: &Element<MemoryIo, Hand>) -> [DirectionReport; 2] {
        let report = |lane| DirectionReport::of(lane, Default::default());
        let [there, back] = [0, 1].map(|i| report(&element.lanes()[i]));
        assert_eq!((there.unaccounted(), back.unaccounted()), (0, 0), "{there:?} {back:?}");
        [there, back]
    }

    #[test]
    fn frames_pass_both_ways_unchanged_when_their_time_has_come() {
        let (mut element, far, clock) = link("delay = '1ms'", 10);
        let frames = [[1u8; 60], [2u8; 60]];
        assert!(far.inject(0, &frames[0]) && far.inject(1, &frames[1]));
        element.turn();
        clock.0.set(999_999);
        assert_eq!(element.turn(), 0);
        assert!(far.take(0).is_none() && far.take(1).is_none());
        clock.0.set(1_000_000);
        assert_eq!(element.turn(), 2);
        assert_eq!((far.take_all(1), far.take_all(0)), (vec![frames[0].to_vec()], vec![frames[1].to_vec()]));
        let [there, back] = reports(&element);
        assert_eq!((there.sent, there.sent_bytes, back.sent, back.held), (1, 60, 1, 0));
        let seen = element.lanes()[0].live().glance();
        assert_eq!(seen, Glance { received_bytes: 60, sent_bytes: 60, held: 0, dropped: 0 });
    }

    #[test]
    fn lateness_counts_until_the_device_takes_the_packet() {
        let (mut element, far, clock) = link("delay = '1ms'", 300);
        far.set_tx_room(1, 3);
        for n in 0..5 {
            assert!(far.inject(0, &[n; 60]));
        }
        element.turn();
        clock.0.set(1_000_000);
        element.turn();
        let [there, _] = reports(&element);
        assert_eq!((there.sent, there.held, there.lag.max), (3, 2, 0));
        far.set_tx_room(1, usize::MAX);
        clock.0.set(1_500_000);
        element.turn();
        let [there, _] = reports(&element);
        assert_eq!((there.sent, there.held), (5, 0));
        // Three significant digits.
        assert!((499_000..501_000).contains(&there.lag.max), "{}", there.lag.max);
        assert_eq!(far.take_all(1).iter().map(|f| f[0]).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_device_that_takes_nothing_holds_packets_and_loses_none() {
        let (mut element, far, _) = link("packets = 100", 1000);
        far.set_tx_room(1, 0);
        for _ in 0..1000 {
            assert!(far.inject(0, &[7; 60]));
        }
        for _ in 0..100 {
            element.turn();
        }
        // The batch for the device and the line before it are full; the rest is a named drop.
        let [there, _] = reports(&element);
        assert_eq!(
            (there.held, there.dropped["memory"]),
            (TX_BATCH as u64 + 100, 1000 - TX_BATCH as u64 - 100)
        );
        let stop = StopFlag::default();
        stop.stop();
        far.set_tx_room(1, usize::MAX);
        element.run(&stop);
        assert_eq!(far.take_all(1).len(), TX_BATCH, "what was due and in hand goes out at the end");
    }

    #[test]
    fn copies_come_from_the_pool_and_are_missed_by_name() {
        let (mut element, far, _) = link("duplicate = '100%'", 3);
        for _ in 0..2 {
            assert!(far.inject(0, &[9; 100]));
        }
        element.turn();
        let sent = far.take_all(1);
        assert!(sent.len() == 3 && sent.iter().all(|f| f[..] == [9; 100]), "{sent:?}");
        let [there, _] = reports(&element);
        assert_eq!((there.duplicated, there.sent, there.dropped["memory"]), (2, 3, 1));
        drop(element);
        assert_eq!(far.available(), 3, "every buffer is back");
    }

    #[test]
    fn a_clock_of_odd_ticks_keeps_time() {
        struct Odd;
        impl Clock for Odd {
            fn ticks(&self) -> u64 {
                2_599_999 * 86_400_000
            }
            fn ticks_per_ms(&self) -> u64 {
                2_599_999
            }
        }
        let nanos = Nanos { began: 0, ..Nanos::new(Odd) };
        // After a day, within a tenth of a millisecond: 1 in 10^9.
        assert!(nanos.now().abs_diff(86_400_000_000_000) < 100_000, "{}", nanos.now());
    }
}
