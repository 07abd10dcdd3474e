//! The thread that sends and the one that receives.
//!
//! Each polls its half of every device's queue pair for as long as the session lives, so that questions for our addresses are
//! answered between trials, too. The receiver has nothing to send with: it hands answers over.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::Duration;

use arrayvec::ArrayVec;
use forwarder::dpdk::{Mbuf, Mempool, RxQueue, TxQueue, rdtsc};
use forwarder::io::{BURST, PacketBuf};
use forwarder::neighbor::{Heard, PortL2, Reply, answer_arp, answer_nd};
use forwarder::sync::{Counter, StopFlag};
use forwarder::wire::icmpv6::Icmpv6;
use forwarder::wire::ipv6::Ipv6;

use super::frame::{Kind, read};
use super::judge::Judge;
use super::pacer::Pacer;
use super::rate::{FCS, wire_bits};
use super::stamp::LEARNING;
use super::template::Template;

/// Frames allocated at once.
const STOCK: usize = 64;
/// A thread without a trial looks for work so often.
const NAP: Duration = Duration::from_micros(50);
/// How long, in seconds, a device may keep the last frames waiting.
const GRACE: f64 = 0.1;
/// A device that takes nothing for so many seconds will not.
const STUCK: u64 = 10;
/// Turns without a packet after which the receiver offers its core to others.
const EMPTY: u32 = 64;

/// Place of a device in the session: 0 is the one that sends.
pub(super) type Place = usize;

/// When a trial ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum End {
    /// After this time.
    After(Duration),
    /// After so many packets in each direction.
    Count(u64),
}

/// A trial, for the sender.
pub(super) struct Order {
    /// What to send, and by which device.
    pub(super) lanes: Vec<(Place, Arc<Template>)>,
    /// Bits on the wire a second, of each direction; none: as fast as the device takes frames.
    pub(super) wire_bits: Option<f64>,
    pub(super) end: End,
}

/// What was sent in one direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sent {
    /// Packets that the device took.
    pub packets: u64,
    /// Bytes of their frames, FCS included.
    pub bytes: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Bits on the wire that were due and not sent in time.
    pub forfeited: f64,
    /// Cycles of the sender in turns that sent something.
    pub cycles: u64,
}

/// What both threads did since the session began, for whoever looks on. Each has one that writes it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Packets that devices took.
    pub(super) sent: Counter,
    /// Packets of trials that arrived, duplicates too.
    pub(super) received: Counter,
}

/// The sending thread.
pub(super) struct TxThread {
    pub(super) queues: Vec<TxQueue>,
    /// Frames whose payload has the pattern.
    pub(super) pool: Arc<Mempool>,
    pub(super) orders: Receiver<Order>,
    pub(super) reports: Sender<Vec<Sent>>,
    /// Frames of others to send, by device.
    pub(super) errands: Receiver<(Place, Mbuf)>,
    pub(super) hz: u64,
    /// How much a late sender catches up, in seconds.
    pub(super) catch_up: f64,
    pub(super) interrupted: StopFlag,
    pub(super) progress: Arc<Progress>,
}

/// One direction of a trial that is under way.
struct Lane {
    place: Place,
    template: Arc<Template>,
    pacer: Pacer,
    batch: ArrayVec<Mbuf, BURST>,
    /// Packets that the device took.
    packets: u64,
    bytes: u64,
    last: u64,
    cycles: u64,
}

impl TxThread {
    /// Works until nobody gives orders any more.
    pub(super) fn run(mut self) {
        loop {
            match self.orders.try_recv() {
                Ok(order) => {
                    let sent = self.trial(&order);
                    // Nobody wants to know: the session is ending.
                    let _ = self.reports.send(sent);
                }
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {
                    self.errands();
                    std::thread::sleep(NAP);
                }
            }
        }
    }

    fn errands(&mut self) {
        while let Ok((place, frame)) = self.errands.try_recv() {
            let mut one = ArrayVec::from([frame]);
            // What the device does not take is lost, as on any link.
            self.queues[place].tx(&mut one);
        }
    }

    fn trial(&mut self, order: &Order) -> Vec<Sent> {
        let mut stock = ArrayVec::<Mbuf, STOCK>::new();
        let start = rdtsc();
        let (end, count) = match order.end {
            End::After(time) => {
                (start.saturating_add((time.as_secs_f64() * self.hz as f64) as u64), u64::MAX)
            }
            End::Count(count) => (u64::MAX, count),
        };
        let lane = |(place, template): &(Place, Arc<Template>)| {
            let burst = (BURST as u64 * 2 * wire_bits(template.len(0) + FCS)) as f64;
            Lane {
                place: *place,
                template: Arc::clone(template),
                pacer: Pacer::new(start, self.hz, order.wire_bits, self.catch_up, burst),
                batch: ArrayVec::new(),
                packets: 0,
                bytes: 0,
                last: start,
                cycles: 0,
            }
        };
        let mut lanes: Vec<Lane> = order.lanes.iter().map(lane).collect();
        let mut stopped = None;
        let grace = ((GRACE + self.catch_up) * self.hz as f64) as u64;
        loop {
            let now = rdtsc();
            self.errands();
            if stopped.is_none() && self.interrupted.stopped() {
                stopped = Some(now);
            }
            let end = stopped.unwrap_or(end);
            let mut working = false;
            for lane in &mut lanes {
                lane.pacer.advance(now.min(end));
                // Without a rate, time alone ends the trial.
                let over = now >= end && order.wire_bits.is_none();
                let began = rdtsc();
                lane.fill(&self.pool, &mut stock, if over { 0 } else { count });
                let taken = lane.send(began, &mut self.queues[lane.place]);
                self.progress.sent.add(taken);
                let more = lane.packets + (lane.batch.len() as u64) < count;
                let stuck = !lane.batch.is_empty() && now > lane.last.saturating_add(STUCK * self.hz);
                working |=
                    !stuck && (!lane.batch.is_empty() || more && (now < end || lane.pacer.is_behind()));
            }
            if !working || now > end.saturating_add(grace) {
                break;
            }
        }
        let ended = stopped.unwrap_or(end);
        lanes.iter().map(|lane| lane.sent(start, ended, order, self.hz)).collect()
    }
}

impl Lane {
    /// Puts frames that are due into the batch.
    #[inline]
    fn fill(&mut self, pool: &Mempool, stock: &mut ArrayVec<Mbuf, STOCK>, count: u64) {
        while !self.batch.is_full() {
            let n = self.packets + self.batch.len() as u64;
            if stock.is_empty() && pool.alloc_bulk(stock) == 0 || n >= count {
                return;
            }
            let len = self.template.len(n);
            if !self.pacer.take(wire_bits(len + FCS)) {
                return;
            }
            let Some(mut frame) = stock.pop() else { return };
            // The pool's buffers are as large as the largest frame.
            if !frame.resize(len) {
                return;
            }
            self.batch.push(frame);
        }
    }

    /// Writes and sends the batch. What the device does not take stays, and has its time written anew when it is tried again:
    /// a packet's time is that of leaving. Returns how many the device took; the work began at `began`.
    #[inline]
    fn send(&mut self, began: u64, queue: &mut TxQueue) -> u64 {
        if self.batch.is_empty() {
            return 0;
        }
        let now = rdtsc();
        for (frame, n) in self.batch.iter_mut().zip(self.packets..) {
            self.template.write(n, now, frame.head_mut());
        }
        let taken = queue.tx(&mut self.batch) as u64;
        if taken > 0 {
            self.bytes += (self.packets..self.packets + taken)
                .map(|n| (self.template.len(n) + FCS) as u64)
                .sum::<u64>();
            self.packets += taken;
            self.last = rdtsc();
            self.cycles += self.last - began;
        }
        taken
    }

    fn sent(&self, start: u64, end: u64, order: &Order, hz: u64) -> Sent {
        let seconds = |ticks: u64| ticks as f64 / hz as f64;
        let took = seconds(self.last - start);
        // Without a rate nothing is due.
        let paced = self.batch.iter().filter(|_| order.wire_bits.is_some());
        let waiting = paced.map(|frame| wire_bits(frame.frame_len() + FCS) as f64).sum::<f64>();
        let seconds = match (order.end, order.wire_bits) {
            // The time during which packets were due; longer when the last ones came late.
            (End::After(_), _) => took.max(seconds(end - start)),
            // The last packet, too, has its slot.
            (End::Count(_), Some(rate)) => took.max((self.bytes + self.packets * 20) as f64 * 8.0 / rate),
            (End::Count(_), None) => took,
        };
        Sent {
            packets: self.packets,
            bytes: self.bytes,
            seconds,
            forfeited: self.pacer.forfeited() + waiting,
            cycles: self.cycles,
        }
    }
}

/// What the receiver is to do with packets.
pub(super) enum Watch {
    /// Nothing.
    Nothing,
    /// Keep the headers of each flow's first packet, by device and flow.
    Learn(Vec<Vec<Option<Vec<u8>>>>),
    /// Judge them, by device; none: nothing is expected there.
    Judge(Vec<Option<Judge>>),
}

/// The receiving thread.
pub(super) struct RxThread {
    pub(super) queues: Vec<RxQueue>,
    /// Addresses to answer for, by device.
    pub(super) l2: Vec<PortL2>,
    /// What to do from now on; the answer is what was done until then.
    pub(super) orders: Receiver<Watch>,
    pub(super) reports: Sender<Watch>,
    /// Answers to send.
    pub(super) errands: Sender<(Place, Mbuf)>,
    /// Neighbors, as they tell of themselves.
    pub(super) heard: Sender<(Place, IpAddr, forwarder::wire::Mac)>,
    /// Look at every payload's checksum.
    pub(super) verify: bool,
    pub(super) progress: Arc<Progress>,
}

impl RxThread {
    /// Works until nobody gives orders any more.
    pub(super) fn run(mut self) {
        let mut burst = ArrayVec::<Mbuf, BURST>::new();
        let mut watch = Watch::Nothing;
        let mut empty = 0;
        loop {
            let mut came = 0;
            for place in 0..self.queues.len() {
                let n = self.queues[place].rx(&mut burst);
                came += n;
                if n > 0 {
                    let now = rdtsc();
                    burst.drain(..).for_each(|frame| self.frame(place, frame, now, &mut watch));
                }
            }
            match self.orders.try_recv() {
                Ok(next) => {
                    let done = std::mem::replace(&mut watch, next);
                    // Nobody wants to know: the session is ending.
                    let _ = self.reports.send(done);
                }
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {}
            }
            empty = if came > 0 { 0 } else { empty + 1 };
            if empty >= EMPTY {
                empty = 0;
                match watch {
                    Watch::Nothing => std::thread::sleep(NAP),
                    _ => std::thread::yield_now(),
                }
            }
        }
    }

    #[inline]
    fn frame(&mut self, place: Place, frame: Mbuf, now: u64, watch: &mut Watch) {
        let len = frame.frame_len();
        let kind = read(frame.head(), len, self.verify);
        match (kind, watch) {
            (Kind::Arp(_) | Kind::Icmpv6(_), _) => self.neighbor(place, frame, kind),
            (Kind::Stamped { stamp, .. }, Watch::Judge(judges)) => {
                if let Some(judge) = &mut judges[place] {
                    // Those before the trial prove nothing about it.
                    if stamp.trial != LEARNING {
                        self.progress.received.add(1);
                        judge.packet(&stamp, now, len + FCS);
                    }
                }
            }
            (Kind::Stamped { stamp, .. }, Watch::Learn(flows)) if stamp.trial == LEARNING => {
                if let Some(seen) = flows[place].get_mut(usize::from(stamp.flow)) {
                    let head = frame.head();
                    seen.get_or_insert_with(|| head[..head.len().min(128)].to_vec());
                }
            }
            (Kind::Corrupt, Watch::Judge(judges)) => {
                judges[place].iter_mut().for_each(|judge| judge.corrupt += 1);
            }
            (Kind::Foreign, Watch::Judge(judges)) => {
                judges[place].iter_mut().for_each(|judge| judge.foreign += 1);
            }
            _ => {}
        }
    }

    #[cold]
    fn neighbor(&mut self, place: Place, mut frame: Mbuf, kind: Kind) {
        let (reply, heard) = answer(frame.head(), kind, &mut self.l2[place]);
        if let Some(heard) = heard {
            // Whoever asked has the answer, or has given up.
            let _ = self.heard.send((place, heard.address, heard.mac));
        }
        let Some(reply) = reply else { return };
        if frame.resize(reply.len()) {
            frame.head_mut().copy_from_slice(&reply);
            let _ = self.errands.send((place, frame));
        }
    }
}

/// The answer to a question for one of our addresses, in the VLAN that it was asked in, and who the sender is.
pub(super) fn answer(bytes: &[u8], kind: Kind, l2: &mut PortL2) -> (Option<Reply>, Option<Heard>) {
    let outcome = match kind {
        Kind::Arp(eth) => {
            l2.tags = eth.tags.vlans();
            answer_arp(bytes, &eth, l2)
        }
        Kind::Icmpv6(eth) => {
            l2.tags = eth.tags.vlans();
            let rest = &bytes[eth.l3..];
            Ipv6::parse(rest, rest.len()).and_then(|ip| match Icmpv6::parse(ip.payload()) {
                Ok(message) if message.checksum_ok(ip.pseudo()) => answer_nd(&ip, &eth, l2),
                _ => Ok(forwarder::neighbor::Outcome::default()),
            })
        }
        _ => return (None, None),
    };
    outcome.map_or((None, None), |outcome| (outcome.reply, outcome.heard))
}
