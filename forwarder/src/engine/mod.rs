//! The packet engine: a burst goes through its phases and every packet ends in a TX batch, in a queue, or in a named drop.
//!
//! The phases are: parse and hash all ([`fast`]) and ask for their table lines, find all and ask for their connections, then
//! in order of arrival verify, rewrite and put in the batch of the port they leave by. A packet that the fast
//! path cannot finish is finished by the slow path ([`slow`]) at its place in that order, so packets of one connection never
//! overtake each other.
//!
//! One engine belongs to one worker. It allocates nothing after [`Engine::new`], takes no lock, and learns the time from its
//! caller.
#![forbid(unsafe_code)]

pub mod admit;
mod errors;
mod fast;
mod output;
mod peers;
mod pieces;
mod refused;
mod relay;
mod shared;
mod slow;
mod start;
mod sweep;
mod verdict;

use std::io;
use std::ops::Range;
use std::sync::Arc;

pub use output::{Edge, Output};
pub use peers::{HANDOVER, Peers, peers};
pub use start::engines;
pub use sweep::{ConnRow, Timeouts};
pub use verdict::DropReason;

use crate::counters::WorkerCounters;
use crate::flow::fragments::{Fragments, Pairs};
use crate::flow::key::Addrs;
use crate::flow::set::POLICED;
use crate::flow::table::Half;
use crate::flow::{ConnTable, FlowSet, Found, HashKey, Key, Millis, SourcePorts, Steering};
use crate::io::{BURST, Burst, PacketBuf, PacketIo, PortIndex};
use crate::neighbor::{AdjIndex, Announcer, NeighborTable, PortL2};
use crate::net::Network;
use crate::sync::Reader;
use crate::wire::eth::{self, Frame};
use errors::Allowance;
use fast::{Expect, Lane, STACKED, TAGGED, UNTAGGED, Unsent};
use refused::Refused;
use relay::Plain;
use shared::Shared;

/// Most packets that wait for next hops to answer, and for any one of them.
const PENDING: usize = 512;
const PENDING_EACH: usize = 64;

/// What an engine is made of.
pub struct Parts<B> {
    /// Ports and routes.
    pub net: Arc<Network>,
    /// The published flows.
    pub flows: Reader<FlowSet>,
    /// This worker's counters.
    pub counters: Arc<WorkerCounters>,
    /// Next hops, with the static ones already known.
    pub neighbors: NeighborTable,
    /// Own addresses, to be announced and defended.
    pub own: Announcer,
    /// This worker's source ports.
    pub ports: SourcePorts,
    /// Most connections.
    pub connections: usize,
    /// Secret of the table's hash.
    pub hash: HashKey,
    /// When connections expire.
    pub timeouts: Timeouts,
    /// The other workers.
    pub peers: Peers<B>,
    /// Whose the packets of each port are.
    pub steering: Arc<[Steering]>,
    /// This worker's fragments.
    pub fragments: Fragments<B>,
    /// Who has connections, at any worker.
    pub pairs: Arc<Pairs>,
}

/// A packet, rewritten but for its Ethernet header, that waits for its next hop's MAC address.
struct Pending<B> {
    /// The connection it belongs to: goes with it.
    conn: u32,
    next_hop: AdjIndex,
    /// Offset of its IP header.
    l3: u8,
    /// Where it came in.
    port: PortIndex,
    /// When it was rewritten.
    since: Millis,
    /// Longest IP packet it may leave as, in bytes; 0 when it is none too long.
    split: u16,
    packet: B,
}

/// One worker's engine.
pub struct Engine<B> {
    net: Arc<Network>,
    flows: Reader<FlowSet>,
    counters: Arc<WorkerCounters>,
    table: ConnTable,
    neighbors: NeighborTable,
    own: Announcer,
    ports_l2: Vec<PortL2>,
    ports: SourcePorts,
    timeouts: Timeouts,
    peers: Peers<B>,
    steering: Arc<[Steering]>,
    now: Millis,
    /// The clock at the beginning of this turn.
    ticks: u64,
    expect: Vec<Expect>,
    shared: Shared,
    lanes: [Lane; BURST],
    refused: Refused,
    pending: Vec<Pending<B>>,
    dropped: Burst<B>,
    /// Next record the sweep looks at, and the time it has come to.
    sweep_next: u32,
    swept: Millis,
    neighbors_ticked: Millis,
    /// Fragments on their way in, and who has connections.
    fragments: Fragments<B>,
    pairs: Arc<Pairs>,
    /// Is the packet in hand one that another worker handed over?
    taken_over: bool,
    echoes: Allowance,
    own_errors: Allowance,
    /// Where errors are translated.
    scratch: Box<[u8]>,
}

impl<B: PacketBuf> Engine<B> {
    /// Allocates everything the engine will ever use.
    ///
    /// # Errors
    /// The system does not give the memory.
    pub fn new(parts: Parts<B>) -> io::Result<Self> {
        let shared = Shared::new(&parts.net);
        let expect = (0..)
            .zip(&parts.net.ports)
            .map(|(i, p)| Expect::new(i, p.mac, p.tags, shared.is_shared(i)))
            .collect();
        let ports_l2 = parts.net.ports_l2();
        Ok(Self {
            table: ConnTable::new(parts.connections, parts.hash)?,
            net: parts.net,
            flows: parts.flows,
            counters: parts.counters,
            neighbors: parts.neighbors,
            own: parts.own,
            ports_l2,
            ports: parts.ports,
            timeouts: parts.timeouts,
            peers: parts.peers,
            steering: parts.steering,
            now: 0,
            ticks: 0,
            expect,
            shared,
            lanes: [Lane::SLOW; BURST],
            refused: Refused::new(),
            pending: Vec::with_capacity(PENDING),
            dropped: Burst::new(),
            sweep_next: 0,
            swept: 0,
            neighbors_ticked: 0,
            fragments: parts.fragments,
            pairs: parts.pairs,
            taken_over: false,
            echoes: Allowance::new(),
            own_errors: Allowance::new(),
            scratch: vec![0; errors::SCRATCH].into(),
        })
    }

    /// Takes all memory from the system, near the processor that calls: the worker's, before its first packet.
    pub fn populate(&self) {
        self.table.populate();
    }

    /// Passes a burst that arrived at the device of `port`, its first one, through the engine; `burst` is empty afterwards.
    #[inline]
    pub fn process<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        burst: &mut Burst<B>,
    ) {
        if self.expect[usize::from(port)].shared {
            self.process_shared(edge, port, burst);
        } else {
            self.process_one(edge, port, burst);
        }
    }

    /// The same for frames of one port.
    #[inline]
    fn process_one<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        burst: &mut Burst<B>,
    ) {
        let received = burst.len();
        let bytes = self.relay_burst(edge, port, burst);
        self.counters.queues[usize::from(port)].rx.add(received as u64, bytes);
    }

    /// The same for packets that may have been counted where they came in. Returns their bytes.
    #[inline]
    fn relay_burst<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        burst: &mut Burst<B>,
    ) -> u64 {
        match self.flows.polices() {
            false => self.relay_by::<false, IO>(edge, port, burst),
            true => self.relay_by::<true, IO>(edge, port, burst),
        }
    }

    /// The same, while no flow has a rate, or while any has: where none has, nothing is spent on it.
    #[inline]
    fn relay_by<const POLICE: bool, IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        burst: &mut Burst<B>,
    ) -> u64 {
        match usize::from(self.expect[usize::from(port)].l3) {
            UNTAGGED => self.relay_at::<UNTAGGED, POLICE, IO>(edge, port, burst),
            TAGGED => self.relay_at::<TAGGED, POLICE, IO>(edge, port, burst),
            _ => self.relay_at::<STACKED, POLICE, IO>(edge, port, burst),
        }
    }

    #[inline]
    fn relay_at<const L3: usize, const POLICE: bool, IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        burst: &mut Burst<B>,
    ) -> u64 {
        for packet in burst.iter() {
            packet.prefetch();
        }
        let expect = self.expect[usize::from(port)];
        let table = self.table.hot();
        let mut bytes = 0;
        for (lane, packet) in self.lanes.iter_mut().zip(burst.iter()) {
            let frame_len = packet.frame_len() as u32;
            bytes += u64::from(frame_len);
            fast::parse::<L3>(lane, &expect, &table.hash, packet.head(), frame_len);
            table.prefetch_bucket(lane.hash);
        }
        let (mut hash, mut found) = (0, Found::NONE);
        for lane in &mut self.lanes[..burst.len()] {
            if lane.hash != hash {
                (hash, found) = (lane.hash, table.candidate(lane.hash));
                if lane.is_v6() {
                    table.prefetch6(found);
                }
            }
            lane.found = found;
        }
        let received = burst.len();
        let mut packets = burst.drain(..);
        let mut next = 0;
        loop {
            let mut relay = fast::Relay {
                table: self.table.hot(),
                versions: self.flows.versions(),
                adjacencies: self.neighbors.adjacencies(),
                counters: &self.counters,
                now: self.now,
            };
            let mut unsent = None;
            while let [lane, rest @ ..] = &self.lanes[next..received] {
                let followed = rest.first().is_some_and(|l| l.found == lane.found);
                if followed && lane.found != Found::NONE {
                    let same = rest.iter().take_while(|l| l.found == lane.found).count();
                    let train = &self.lanes[next..=next + same];
                    let taken;
                    (taken, unsent) = relay.send_train::<L3, 0, _>(edge, train, &mut packets);
                    next += taken;
                } else if let Some(packet) = packets.next() {
                    next += 1;
                    unsent = relay.send::<L3, _>(edge, lane, packet).err();
                }
                if unsent.is_some() {
                    break;
                }
            }
            match unsent {
                None => break,
                Some(Unsent::Unusual(packet)) if POLICE && self.is_policed(self.lanes[next - 1].found) => {
                    let rest = next - 1..received;
                    (next, packets) = self.relay_policed::<L3, _, _>(edge, port, rest, packet, packets);
                }
                Some(Unsent::Unusual(packet)) => {
                    match self.refused.find(&self.lanes[next - 1], self.flows.epoch()) {
                        Some((reason, flow)) => self.refuse(edge, port, packet, reason, flow),
                        None => self.unusual::<L3, _>(edge, port, next - 1, packet),
                    }
                }
                Some(Unsent::TxFull(packet)) => self.drop(edge, port, packet, DropReason::TxFull),
            }
        }
        drop(packets);
        self.peers.publish();
        self.free_dropped(edge);
        bytes
    }

    /// Has the flow of a half a rate, and is the half checked against it?
    #[inline(always)]
    fn is_policed(&self, found: Found) -> bool {
        let version =
            |half: &Half| self.flows.versions().get(half.flow as usize) == Some(&(half.version | POLICED));
        // Most packets that nothing is known of are dropped, and are not to wait for the table to say so.
        found != Found::NONE && self.table.get(found).is_some_and(version)
    }

    /// Sends packets whose flows have rates, those at the beginning of `burst`, until one is of another kind; `first` comes before
    /// `packets`. Returns the place in the burst that comes next, and what is left of `packets`: apart from the way of all others,
    /// and by value, so that those need no more instructions.
    #[inline(never)]
    fn relay_policed<const L3: usize, IO: PacketIo<Buf = B>, I: Iterator<Item = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        burst: Range<usize>,
        first: B,
        mut packets: I,
    ) -> (usize, I) {
        let mut all = std::iter::once(first).chain(&mut packets);
        let Range { start: mut next, end } = burst;
        while next < end && self.is_policed(self.lanes[next].found) {
            let rest = &self.lanes[next..end];
            let same = rest.iter().take_while(|l| l.found == rest[0].found).count();
            let mut relay = fast::Relay {
                table: self.table.hot(),
                versions: self.flows.versions(),
                adjacencies: self.neighbors.adjacencies(),
                counters: &self.counters,
                now: self.now,
            };
            let train = &rest[..same];
            let unsent = match relay.admit_policed(edge, (&self.flows, self.ticks), train) {
                Some(0) => {
                    next += 1;
                    if let Some(packet) = all.next() {
                        self.drop(edge, port, packet, DropReason::RateExceeded);
                    }
                    continue;
                }
                Some(passed) => {
                    let (taken, unsent) =
                        relay.send_train::<L3, POLICED, _>(edge, &train[..passed], &mut all);
                    next += taken;
                    unsent
                }
                None => {
                    next += 1;
                    all.next().map(Unsent::Unusual)
                }
            };
            match unsent {
                None => {}
                Some(Unsent::Unusual(packet)) => self.unusual::<L3, _>(edge, port, next - 1, packet),
                Some(Unsent::TxFull(packet)) => self.drop(edge, port, packet, DropReason::TxFull),
            }
        }
        drop(all);
        (next, packets)
    }

    /// A packet that could not be sent on without more ado, at its place in the burst.
    #[cold]
    fn unusual<const L3: usize, IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        lane: usize,
        packet: B,
    ) {
        let lane = self.lanes[lane];
        if !lane.is_plain() {
            return self.slow(edge, port, packet);
        }
        let addrs = if lane.is_v6() {
            let (src, dst) = fast::frame_addrs6::<L3>(packet.head());
            Addrs::V6(src, dst)
        } else {
            Addrs::V4(lane.key[0])
        };
        let key = Key { addrs, ports: lane.key[1] as u32, tag: lane.tag(), port };
        match self.table.find_hashed(lane.hash, &key) {
            Some(found) if self.still_allowed(found.conn()) => {
                let l4 = if lane.is_v6() { crate::wire::ipv6::HEADER } else { IP4_HEADER } as u16;
                let plain = Plain { found, l3: L3 as u8, l4, flags: lane.flags, piece: None };
                self.relay(edge, port, &plain, packet);
            }
            Some(_) => self.slow(edge, port, packet),
            // Of another worker's connection, or a new one.
            None => match self.other_home(port, &key) {
                Some(other) => self.hand_over(edge, other, port, packet),
                None => self.slow(edge, port, packet),
            },
        }
    }

    /// Gives a packet its Ethernet header and puts it in the batch of its port, or queues it until the next hop answers.
    fn send_out<IO: PacketIo<Buf = B>>(&mut self, edge: &mut Edge<'_, IO>, mut pending: Pending<B>) {
        let adjacency = *self.neighbors.adjacency(pending.next_hop);
        if !adjacency.valid {
            return self.await_neighbor(edge, pending);
        }
        let (l2_len, l3) = (usize::from(adjacency.l2_len), usize::from(pending.l3));
        // The header it came with still lies before the packet.
        let came = Frame::parse(pending.packet.head()).ok().filter(|frame| frame.l3 == l3);
        let fits =
            if l2_len <= l3 { pending.packet.pull(l3 - l2_len) } else { pending.packet.push(l2_len - l3) };
        let header = adjacency.l2.get(..l2_len);
        match (fits, pending.packet.head_mut().get_mut(..l2_len), header) {
            (true, Some(to), Some(from)) => {
                to.copy_from_slice(from);
                if let Some(came) = came.filter(|_| l2_len > UNTAGGED) {
                    eth::keep_priority(to, came.tags);
                }
            }
            _ => return self.drop(edge, pending.port, pending.packet, DropReason::NoHeadroom),
        }
        if pending.split > 0 {
            let ports = (pending.port, adjacency.port);
            return self.send_pieces(edge, ports, (l2_len, pending.split), pending.packet);
        }
        self.send_by(edge, (pending.port, adjacency.port), pending.packet);
    }

    /// Puts a packet, its frame complete, in the batch of the port it leaves by, or drops it at the one it came in at.
    fn send_by<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        (from, to): (PortIndex, PortIndex),
        packet: B,
    ) {
        let bytes = packet.frame_len() as u64;
        if let Err(packet) = edge.send(&self.counters, to, bytes, packet) {
            self.drop(edge, from, packet, DropReason::TxFull);
        }
    }

    /// Drops a packet that no flow admits; `flow` is the one that listens there.
    #[inline]
    fn refuse<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        packet: B,
        reason: DropReason,
        flow: Option<u32>,
    ) {
        if let Some(flow) = flow.and_then(|slot| self.counters.flows.get(slot as usize)) {
            flow.refused.add(1);
        }
        self.drop(edge, port, packet, reason);
    }

    /// Counts a drop of a packet that came in at `port`; its buffer is freed with the burst's others.
    #[inline]
    fn drop<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        packet: B,
        reason: DropReason,
    ) {
        self.counters.count_drop(port, reason);
        self.put_back(edge, packet);
    }

    /// Has a buffer freed with the burst's others.
    #[inline]
    fn put_back<IO: PacketIo<Buf = B>>(&mut self, edge: &mut Edge<'_, IO>, packet: B) {
        if self.dropped.is_full() {
            edge.io.free(&mut self.dropped);
        }
        self.dropped.push(packet);
    }

    /// Gives the buffers of dropped packets back.
    #[inline]
    fn free_dropped<IO: PacketIo<Buf = B>>(&mut self, edge: &mut Edge<'_, IO>) {
        if !self.dropped.is_empty() {
            edge.io.free(&mut self.dropped);
        }
    }

    /// Sets the time of all that follows.
    #[inline]
    pub fn set_time(&mut self, now: Millis) {
        self.now = now;
    }

    /// Sets the time by which rates are held, in ticks of the worker's clock.
    #[inline]
    pub fn set_ticks(&mut self, ticks: u64) {
        self.ticks = ticks;
    }

    /// Takes the newest flows when there are any. Connections of flows that changed notice one by one, when they next see a packet
    /// or the sweep.
    #[inline]
    pub fn refresh_flows(&mut self) {
        self.flows.refresh();
    }

    /// Slot of a flow that had packets among the `n` of the last burst: the first one whose connection is still known.
    pub(crate) fn last_flow(&self, n: usize) -> Option<u32> {
        self.lanes.get(..n)?.iter().find_map(|lane| {
            let half = self.table.get(lane.found)?;
            (half.key == lane.key).then_some(half.flow)
        })
    }

    /// Counters of this engine's worker.
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.counters
    }

    /// Is there no other worker that may hand something over?
    pub fn is_alone(&self) -> bool {
        self.peers.is_alone()
    }

    /// Packets that wait: for next hops, and for first fragments.
    pub fn pending(&self) -> usize {
        self.pending.len() + self.fragments.held()
    }

    /// Drops what waits, when the worker ends.
    pub fn clear_pending(&mut self) {
        self.fragments.clear(&mut |port, _| self.counters.count_drop(port, DropReason::Stopped));
        for p in self.pending.drain(..) {
            self.counters.count_drop(p.port, DropReason::Stopped);
        }
    }

    /// The connection table, for listings and tests.
    pub fn table(&self) -> &ConnTable {
        &self.table
    }

    /// The next hops, for listings and tests.
    pub fn neighbors(&self) -> &NeighborTable {
        &self.neighbors
    }

    /// Ports and routes.
    pub fn net(&self) -> &Arc<Network> {
        &self.net
    }
}

const IP4_HEADER: usize = crate::wire::ipv4::HEADER;
