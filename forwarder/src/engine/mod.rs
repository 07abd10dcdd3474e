//! The packet engine: a burst goes through its phases and every packet ends in a TX batch, in a queue, or in a named drop.
//!
//! The phases are: parse all ([`fast`]), hash all and ask for their table lines, find all and ask for their connections, then
//! packet by packet in order of arrival verify, rewrite and put in the batch of the port it leaves by. A packet that the fast
//! path cannot finish is finished by the slow path ([`slow`]) at its place in that order, so packets of one connection never
//! overtake each other.
//!
//! One engine belongs to one worker. It allocates nothing after [`Engine::new`], takes no lock, and learns the time from its
//! caller.
#![forbid(unsafe_code)]

pub mod admit;
mod fast;
mod output;
mod peers;
mod slow;
mod start;
mod sweep;
mod verdict;

use std::sync::Arc;

pub use output::{Edge, Output};
pub use peers::{HANDOVER, Peers, peers};
pub use start::engines;
pub use sweep::{ConnRow, Timeouts};
pub use verdict::DropReason;

use crate::api::FlowState;
use crate::counters::WorkerCounters;
use crate::flow::key::Addrs;
use crate::flow::table::seen;
use crate::flow::{ConnTable, Direction, FlowSet, Found, HashKey, Key, Millis, SourcePorts, Steering};
use crate::io::{BURST, Burst, PacketBuf, PacketIo, PortIndex};
use crate::nat::apply;
use crate::neighbor::{AdjIndex, NeighborTable, PortL2};
use crate::net::Network;
use crate::sync::Reader;
use crate::wire::tcp;
use fast::{Class, Expect, Lane};

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
    packet: B,
}

/// One worker's engine.
pub struct Engine<B> {
    net: Arc<Network>,
    flows: Reader<FlowSet>,
    /// The low half of the flow set's epoch, as connections remember it.
    epoch: u32,
    counters: Arc<WorkerCounters>,
    table: ConnTable,
    neighbors: NeighborTable,
    ports_l2: Vec<PortL2>,
    ports: SourcePorts,
    timeouts: Timeouts,
    peers: Peers<B>,
    steering: Arc<[Steering]>,
    now: Millis,
    expect: Vec<Expect>,
    lanes: [Lane; BURST],
    pending: Vec<Pending<B>>,
    dropped: Burst<B>,
    /// Next record the sweep looks at, and the time it has come to.
    sweep_next: u32,
    swept: Millis,
    neighbors_ticked: Millis,
    /// Echo replies that may still be sent, and when that was last topped up.
    echo_tokens: u32,
    echo_refilled: Millis,
}

impl<B: PacketBuf> Engine<B> {
    /// Allocates everything the engine will ever use.
    pub fn new(parts: Parts<B>) -> Self {
        let expect = (0..).zip(&parts.net.ports).map(|(i, p)| Expect::new(i, p.mac, p.vlan)).collect();
        let ports_l2 = parts.net.ports_l2();
        Self {
            epoch: parts.flows.epoch() as u32,
            table: ConnTable::new(parts.connections, parts.hash),
            net: parts.net,
            flows: parts.flows,
            counters: parts.counters,
            neighbors: parts.neighbors,
            ports_l2,
            ports: parts.ports,
            timeouts: parts.timeouts,
            peers: parts.peers,
            steering: parts.steering,
            now: 0,
            expect,
            lanes: [Lane::SLOW; BURST],
            pending: Vec::with_capacity(PENDING),
            dropped: Burst::new(),
            sweep_next: 0,
            swept: 0,
            neighbors_ticked: 0,
            echo_tokens: 0,
            echo_refilled: 0,
        }
    }

    /// Passes a burst that arrived at `port` through the engine; `burst` is empty afterwards.
    #[inline]
    pub fn process<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        burst: &mut Burst<B>,
    ) {
        let bytes = burst.iter().map(|packet| packet.frame_len() as u64).sum();
        self.counters.queues[usize::from(port)].rx.add(burst.len() as u64, bytes);
        self.relay_burst(edge, port, burst);
    }

    /// The same for packets that were counted where they came in.
    #[inline]
    fn relay_burst<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        burst: &mut Burst<B>,
    ) {
        let n = burst.len();
        let expect = self.expect[usize::from(port)];
        for packet in burst.iter() {
            packet.prefetch();
        }
        for (lane, packet) in self.lanes.iter_mut().zip(burst.iter()) {
            *lane = fast::parse(&expect, packet.head(), packet.frame_len());
            lane.hash = match lane.class {
                Class::V4 => self.table.hash4(lane.addrs, lane.rest),
                Class::V6 => {
                    let (src, dst) = fast::addrs6(packet.head(), usize::from(lane.l3));
                    self.table.hash6(src, dst, lane.rest)
                }
                Class::Slow => continue,
            };
            self.table.prefetch_bucket(lane.hash);
        }
        for lane in &mut self.lanes[..n] {
            lane.found = match lane.class {
                Class::V4 => self.table.candidate(lane.hash),
                Class::V6 => self.table.candidate(lane.hash).inspect(|found| self.table.prefetch6(*found)),
                Class::Slow => None,
            };
        }
        for (i, packet) in burst.take().into_iter().enumerate() {
            let lane = self.lanes[i];
            let verified = lane.found.filter(|found| match lane.class {
                Class::V4 => self.table.conn(found.conn()).matches4(found.direction(), lane.addrs, lane.rest),
                Class::V6 => {
                    let (src, dst) = fast::addrs6(packet.head(), usize::from(lane.l3));
                    self.table.matches6(*found, src, dst, lane.rest)
                }
                Class::Slow => false,
            });
            let verified = verified.or_else(|| self.find_elsewhere(&lane, &packet));
            match verified {
                Some(found) if self.table.conn(found.conn()).epoch == self.epoch => {
                    self.relay(edge, port, &lane, IP4_HEADER, found, packet);
                }
                None => self.unknown(edge, port, &lane, packet),
                Some(_) => self.slow(edge, port, packet),
            }
        }
        self.peers.publish();
        self.free_dropped(edge);
    }

    /// Finds a connection that is not the first candidate of its home bucket: one signature in 65,536, and those that had to
    /// move to their alternate bucket.
    #[cold]
    fn find_elsewhere(&self, lane: &Lane, packet: &B) -> Option<Found> {
        self.table.find_hashed(lane.hash, &Self::key_of(lane, packet)?)
    }

    /// The key of a packet that the parser let through.
    fn key_of(lane: &Lane, packet: &B) -> Option<Key> {
        let addrs = match lane.class {
            Class::V4 => Addrs::V4(lane.addrs),
            Class::V6 => {
                let (src, dst) = fast::addrs6(packet.head(), usize::from(lane.l3));
                Addrs::V6(src, dst)
            }
            Class::Slow => return None,
        };
        Some(Key { addrs, rest: lane.rest })
    }

    /// Sends a packet of a connection on its way: checks, rewrite, counters, Ethernet header, batch.
    ///
    /// `header_len` is the IPv4 header's; the fast path passes a constant.
    #[inline(always)]
    fn relay<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        lane: &Lane,
        header_len: usize,
        found: Found,
        mut packet: B,
    ) {
        let direction = found.direction();
        if lane.flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0
            && let Err(reason) = self.note_flags(found, lane.flags)
        {
            return self.drop(edge, port, packet, reason);
        }
        let conn = self.table.conn(found.conn());
        let (next_hop, flow, deltas) = (conn.next_hop[direction as usize], conn.flow, conn.deltas);
        let adjacency = self.neighbors.adjacency(next_hop);
        let frame_len = packet.frame_len() as u32;
        let l3 = usize::from(lane.l3);
        // The frame counts, not what the IP header says: what lies behind the packet is sent along with it.
        if frame_len > u32::from(lane.l3) + u32::from(adjacency.mtu) {
            return self.drop(edge, port, packet, DropReason::TooBig);
        }
        let head = packet.head_mut();
        // The Ethernet header first: for most packets it takes exactly the old one's place.
        let l2_len = usize::from(adjacency.l2_len);
        let in_place = adjacency.valid && l2_len == l3;
        if in_place {
            if l3 == 14 {
                if let (Some(to), Some(from)) =
                    (head.first_chunk_mut::<14>(), adjacency.l2.first_chunk::<14>())
                {
                    *to = *from;
                }
            } else if let Some(to) = head.first_chunk_mut::<18>() {
                *to = adjacency.l2;
            }
        }
        let out_port = adjacency.port;
        let Some(ip) = head.get_mut(l3..) else {
            return self.drop(edge, port, packet, DropReason::IpTruncated);
        };
        let rewritten = if lane.class == Class::V6 {
            apply::ipv6(ip, direction, self.table.rewrite6(found), conn.rewrite_ports(direction), deltas)
        } else {
            let new = conn.rewrite4(direction);
            if header_len == IP4_HEADER {
                apply::ipv4(ip, direction, new, deltas)
            } else {
                apply::ipv4_with_options(ip, header_len, direction, new, deltas)
            }
        };
        if !rewritten {
            return self.drop(edge, port, packet, DropReason::L4Truncated);
        }
        self.table.conn_mut(found.conn()).last_seen = self.now;
        self.table.count(found, frame_len);
        let counters = &self.counters.flows[flow as usize];
        match direction {
            Direction::ToTarget => counters.to_target.add(1, frame_len.into()),
            Direction::ToClient => counters.to_client.add(1, frame_len.into()),
        }
        if !in_place {
            return self.send_cold(edge, Pending { conn: found.conn(), next_hop, l3: lane.l3, port, packet });
        }
        if let Err(packet) = edge.send(&self.counters, out_port, packet) {
            self.drop(edge, port, packet, DropReason::TxFull);
        }
    }

    /// A SYN, FIN or RST of a connection. Refuses combinations that no sender makes, they probe firewalls, and the reuse of
    /// a mapping by a new connection when its flow is draining.
    #[cold]
    fn note_flags(&mut self, found: Found, flags: u8) -> Result<(), DropReason> {
        if flags & tcp::SYN != 0 && flags & (tcp::FIN | tcp::RST) != 0 {
            return Err(DropReason::TcpMalformed);
        }
        let from_client = found.direction() == Direction::ToTarget;
        let conn = self.table.conn_mut(found.conn());
        let first = flags & tcp::SYN != 0 && from_client && flags & tcp::ACK == 0;
        if first && !conn.established() && conn.seen != seen::CLIENT_SYN {
            // The client uses its port again: a new connection over the same mapping.
            if let Some(flow) = self.flows.slot(conn.flow).filter(|f| f.state == FlowState::Draining) {
                self.counters.flows[flow.slot as usize].refused.add(1);
                return Err(DropReason::FlowDraining);
            }
            conn.seen = seen::CLIENT_SYN;
            return Ok(());
        }
        let [syn, fin] = if from_client {
            [seen::CLIENT_SYN, seen::CLIENT_FIN]
        } else {
            [seen::TARGET_SYN, seen::TARGET_FIN]
        };
        for (flag, bit) in [(tcp::SYN, syn), (tcp::FIN, fin), (tcp::RST, seen::RST)] {
            if flags & flag != 0 {
                conn.seen |= bit;
            }
        }
        Ok(())
    }

    /// Gives a packet its Ethernet header when that differs in length from the old one, or queues it until the next hop answers.
    #[cold]
    fn send_cold<IO: PacketIo<Buf = B>>(&mut self, edge: &mut Edge<'_, IO>, mut pending: Pending<B>) {
        let adjacency = *self.neighbors.adjacency(pending.next_hop);
        if !adjacency.valid {
            return self.await_neighbor(edge, pending);
        }
        let (l2_len, l3) = (usize::from(adjacency.l2_len), usize::from(pending.l3));
        let fits =
            if l2_len <= l3 { pending.packet.pull(l3 - l2_len) } else { pending.packet.push(l2_len - l3) };
        let header = adjacency.l2.get(..l2_len);
        match (fits, pending.packet.head_mut().get_mut(..l2_len), header) {
            (true, Some(to), Some(from)) => to.copy_from_slice(from),
            _ => return self.drop(edge, pending.port, pending.packet, DropReason::NoHeadroom),
        }
        if let Err(packet) = edge.send(&self.counters, adjacency.port, pending.packet) {
            self.drop(edge, pending.port, packet, DropReason::TxFull);
        }
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

    /// Takes the newest flows when there are any. Connections notice one by one, when they next see a packet or the sweep.
    #[inline]
    pub fn refresh_flows(&mut self) {
        if self.flows.refresh() {
            self.epoch = self.flows.epoch() as u32;
        }
    }

    /// Counters of this engine's worker.
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.counters
    }

    /// Packets that wait for next hops.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Drops what waits for next hops, when the worker ends.
    pub fn clear_pending(&mut self) {
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
