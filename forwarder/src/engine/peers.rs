//! What workers tell each other: packets that belong to another one, and MAC addresses just learned.
//!
//! Packets travel in rings, one from each worker to each other, so that what one worker hands to another stays in order.
//! Everything is bounded; a full ring drops what it is offered. Nobody waits.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use super::{DropReason, Edge, Engine};
use crate::flow::Key;
use crate::flow::key::Addrs;
use crate::io::{BURST, Burst, PacketBuf, PacketIo, PortIndex};
use crate::neighbor::Heard;
use crate::sync::{RingReceiver, RingSender, ring};

/// Packets that may be on their way from one worker to another.
pub const HANDOVER: usize = 2048;
/// MAC addresses that may wait to be heard of.
const NEWS: usize = 256;

/// A MAC address that a worker learned.
#[derive(Debug, Clone, Copy)]
pub(super) struct News {
    pub(super) port: PortIndex,
    pub(super) heard: Heard,
}

/// A packet on its way, and the port it came in at.
type Handed<B> = (PortIndex, B);

/// One worker's view of all workers.
pub struct Peers<B> {
    me: usize,
    /// One a worker; none to itself.
    to: Vec<Option<RingSender<Handed<B>>>>,
    from: Vec<RingReceiver<Handed<B>>>,
    /// One a worker.
    news: Arc<[ArrayQueue<News>]>,
    /// Packets were pushed and not yet published.
    unpublished: bool,
}

/// Connects `workers` workers.
#[must_use]
pub fn peers<B>(workers: usize) -> Vec<Peers<B>> {
    let news: Arc<[_]> = (0..workers).map(|_| ArrayQueue::new(NEWS)).collect();
    let one =
        |me| Peers { me, to: Vec::new(), from: Vec::new(), news: Arc::clone(&news), unpublished: false };
    let mut all: Vec<Peers<B>> = (0..workers).map(one).collect();
    for from in 0..workers {
        for to in 0..workers {
            let sender = (from != to).then(|| {
                let (sender, receiver) = ring(HANDOVER);
                all[to].from.push(receiver);
                sender
            });
            all[from].to.push(sender);
        }
    }
    all
}

impl<B> Peers<B> {
    /// This worker's.
    pub(super) fn number(&self) -> usize {
        self.me
    }

    /// Is there no other worker?
    pub(super) fn is_alone(&self) -> bool {
        self.from.is_empty()
    }

    /// Pushes a packet that came in at `port` to another worker, or gives it back.
    fn push(&mut self, to: usize, port: PortIndex, packet: B) -> Result<(), B> {
        match self.to.get_mut(to) {
            Some(Some(ring)) => {
                self.unpublished = true;
                ring.push((port, packet)).map_err(|(_, packet)| packet)
            }
            _ => Err(packet),
        }
    }

    /// Lets the others see what was pushed. At the end of a burst.
    #[inline]
    pub(super) fn publish(&mut self) {
        if self.unpublished {
            self.unpublished = false;
            self.to.iter_mut().flatten().for_each(RingSender::publish);
        }
    }

    /// Tells every other worker. A worker whose queue is full learns it by asking itself.
    pub(super) fn tell(&self, news: News) {
        for (_, queue) in self.news.iter().enumerate().filter(|(i, _)| *i != self.me) {
            let _ = queue.push(news);
        }
    }

    /// Is there anything for this worker? Costs a few loads.
    #[inline]
    pub(super) fn waiting(&self) -> bool {
        self.from.iter().any(RingReceiver::waiting) || self.news.get(self.me).is_some_and(|n| !n.is_empty())
    }
}

impl<B: PacketBuf> Engine<B> {
    /// The other worker that a packet of no connection here belongs to.
    #[inline]
    pub(super) fn other_home(&self, port: PortIndex, key: &Key) -> Option<usize> {
        if self.peers.from.is_empty() {
            return None;
        }
        Some(self.steering[usize::from(port)].home(key)).filter(|home| *home != self.peers.me)
    }

    /// The other worker at which the fragments between two addresses meet, unless the one in hand comes from there.
    pub(super) fn other_meeting_place(&self, port: PortIndex, addrs: &Addrs) -> Option<usize> {
        if self.taken_over || self.peers.from.is_empty() {
            return None;
        }
        let (src, dst) = addrs.ends();
        Some(self.steering[usize::from(port)].home_of_pair(src, dst)).filter(|place| *place != self.peers.me)
    }

    /// Gives a packet to the worker it belongs to.
    pub(super) fn hand_over<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        to: usize,
        port: PortIndex,
        packet: B,
    ) {
        match self.peers.push(to, port, packet) {
            Ok(()) => self.counters.queues[usize::from(port)].handed_over.add(1),
            Err(packet) => self.drop(edge, port, packet, DropReason::HandoverFull),
        }
    }

    /// Takes over packets from other workers, and the MAC addresses they learned. Returns how many packets.
    #[cold]
    pub(super) fn hear_peers<IO: PacketIo<Buf = B>>(&mut self, edge: &mut Edge<'_, IO>) -> usize {
        for _ in 0..BURST {
            let Some(news) = self.peers.news.get(self.peers.me).and_then(ArrayQueue::pop) else { break };
            self.learn(edge, news.port, &news.heard);
        }
        // In one turn another worker hands over at most a burst of each port.
        let most = BURST * self.net.ports.len();
        (0..self.peers.from.len()).map(|from| self.take_over(edge, from, most)).sum()
    }

    /// Takes over at most `most` packets of one worker, in bursts of one port.
    fn take_over<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        from: usize,
        most: usize,
    ) -> usize {
        self.taken_over = true;
        let mut burst = Burst::new();
        let (mut taken, mut of) = (0, 0);
        while taken < most {
            let Some((port, packet)) = self.peers.from[from].pop() else { break };
            if burst.is_full() || (port != of && !burst.is_empty()) {
                self.relay_burst(edge, of, &mut burst);
            }
            of = port;
            burst.push(packet);
            taken += 1;
        }
        self.peers.from[from].release();
        self.relay_burst(edge, of, &mut burst);
        self.taken_over = false;
        self.counters.taken_over.add(taken as u64);
        taken
    }
}
