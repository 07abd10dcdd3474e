//! What is done by the clock: connections expire, next hops are probed, waiting packets are given up.
//!
//! There are no timers. A hand goes round the connection table, a few records a millisecond, and removes what has been silent
//! too long or whose flow is gone; a packet only stores the time it was seen.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;

use super::{Edge, Engine};
use crate::engine::DropReason;
use crate::flow::table::{Endpoints, seen};
use crate::flow::{Direction, Found, Key, Millis};
use crate::io::{PacketBuf, PacketIo, PortIndex};
use crate::neighbor::{Announcement, Contested, Solicit, Wanted};

/// The hand goes round a full table of any size in about this many milliseconds.
const ROUND: u32 = 2048;
/// Most records looked at in one call, so that a long sleep is not followed by a long stall.
const AT_ONCE: u32 = 16_384;
/// How many records before its removal what that touches is asked for: a full table lies in no cache.
const AHEAD: u32 = 8;
/// Milliseconds between looks at the next hops.
const NEIGHBOR_TICK: Millis = 100;

/// Milliseconds of silence after which connections expire.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// UDP (RFC 4787 REQ-5).
    pub udp: Millis,
    /// Established TCP (RFC 5382 REQ-5).
    pub tcp_established: Millis,
    /// TCP that opens or closes (RFC 5382 REQ-5).
    pub tcp_transitory: Millis,
}

/// A connection as listings show it.
#[derive(Debug, Clone)]
pub struct ConnRow {
    /// Id of its flow.
    pub flow_id: u64,
    /// Its four endpoints.
    pub endpoints: Endpoints,
    /// `opening`, `established` or `closing`.
    pub state: &'static str,
    /// Milliseconds since admission.
    pub age: Millis,
    /// Milliseconds since the last packet.
    pub idle: Millis,
    /// Packets and bytes to the target, and to the client.
    pub counts: [(u64, u64); 2],
}

impl<B: PacketBuf> Engine<B> {
    /// Does what is due. Called at burst boundaries; cheap when nothing is. Returns how many packets other workers handed over.
    #[inline]
    pub fn tick<IO: PacketIo<Buf = B>>(&mut self, edge: &mut Edge<'_, IO>) -> usize {
        let taken = if self.peers.waiting() { self.hear_peers(edge) } else { 0 };
        if self.now != self.swept {
            self.sweep();
        }
        if self.now.wrapping_sub(self.neighbors_ticked) >= NEIGHBOR_TICK {
            self.neighbors_ticked = self.now;
            self.tick_neighbors(edge);
        }
        self.free_dropped(edge);
        taken
    }

    /// Moves the hand on by the time that passed.
    #[cold]
    fn sweep(&mut self) {
        let passed = self.now.wrapping_sub(self.swept).min(ROUND);
        self.swept = self.now;
        let end = self.table.sweep_end();
        let each = (self.table.capacity() as u32).div_ceil(ROUND);
        for _ in 0..each.saturating_mul(passed).min(end).min(AT_ONCE) {
            if self.sweep_next >= end {
                self.sweep_next = 0;
            }
            let n = self.sweep_next;
            self.sweep_next += 1;
            if self.table.in_use(n) && (self.expire(n) || !self.still_allowed(n)) {
                // Connections that came together lie together and go together.
                if self.table.in_use(n + AHEAD) {
                    self.table.prefetch_removal(n + AHEAD);
                }
                self.remove(n);
            }
        }
        self.counters.connections.set(self.table.len() as u64);
    }

    /// Has a connection been silent too long?
    fn expire(&mut self, n: u32) -> bool {
        let idle = self.table.idle(n, self.now);
        self.table.cold_mut(n).outlive_reset(self.now, idle);
        let timeout = match (self.table.is_tcp(n), self.table.cold(n).established()) {
            (false, _) => self.timeouts.udp,
            (true, true) => self.timeouts.tcp_established,
            (true, false) => self.timeouts.tcp_transitory,
        };
        idle >= timeout
    }

    /// Checks a connection against the flows of today: is its flow there still, and its client still allowed?
    pub(super) fn still_allowed(&mut self, n: u32) -> bool {
        let (slot, version) = self.table.flow(n);
        if self.flows.is_current(slot, version) {
            return true;
        }
        let Some(flow) = self.flows.slot(slot) else { return false };
        let ends = self.table.endpoints(n);
        let allowed = flow.id == self.table.cold(n).flow_id
            && flow.allows(ends.client.ip())
            && (flow.spec.hairpin || self.net.owns(ends.arrives[0], ends.listen.ip()));
        if allowed {
            for direction in Direction::BOTH {
                self.table.half_mut(Found::of(n, direction)).version = flow.version;
            }
        }
        allowed
    }

    /// Removes a connection and gives back what it held.
    pub(super) fn remove(&mut self, n: u32) {
        let ((slot, _), id) = (self.table.flow(n), self.table.cold(n).flow_id);
        if let Some(flow) = self.flows.slot(slot).filter(|flow| flow.id == id) {
            flow.shared.connections.give();
        }
        for direction in Direction::BOTH {
            self.neighbors.release(self.table.half(Found::of(n, direction)).next_hop);
        }
        // What waits for a next hop goes with its connection: a deleted flow stops at once, and the next hop's place in the
        // table may be another's from now on.
        self.pending.retain(|p| {
            if p.conn == n {
                self.counters.count_drop(p.port, DropReason::NeighborFailed);
            }
            p.conn != n
        });
        for key in self.table.remove(n).iter().flatten() {
            self.pairs.remove(self.peers.number(), key.port, &key.addrs);
        }
    }

    /// Asks next hops that have to be asked, announces own addresses, and gives up what waits for next hops that do not answer.
    #[cold]
    fn tick_neighbors<IO: PacketIo<Buf = B>>(&mut self, edge: &mut Edge<'_, IO>) {
        let mut asks = ArrayVec::<Solicit, 64>::new();
        self.neighbors.tick(self.now, &mut |solicit| {
            // What does not fit is asked again by its own timer.
            let _ = asks.try_push(solicit);
        });
        for solicit in asks {
            self.solicit(edge, &solicit);
        }
        let (counters, dropped) = (&self.counters, &mut self.dropped);
        self.fragments.expire(self.now, &mut |port, packet| {
            counters.count_drop(port, DropReason::FragmentTimeout);
            if dropped.is_full() {
                edge.io.free(dropped);
            }
            dropped.push(packet);
        });
        let mut says = ArrayVec::<Announcement, 64>::new();
        self.own.tick(self.now, &mut |own| _ = says.try_push(own));
        for own in says {
            self.announce(edge, &own);
        }
        let mut i = 0;
        while i < self.pending.len() {
            if self.neighbors.wanted(self.pending[i].next_hop, self.now) == Wanted::Failed {
                let given_up = self.pending.remove(i);
                self.drop(edge, given_up.port, given_up.packet, DropReason::NeighborFailed);
            } else {
                i += 1;
            }
        }
    }

    /// Copies connections from record `from` on into `rows`, of one flow or of all, until `rows` is full or `scan` records were
    /// looked at. Returns where to go on, none at the end.
    pub fn list(&self, from: u32, flow: Option<u64>, scan: u32, rows: &mut Vec<ConnRow>) -> Option<u32> {
        let end = self.table.sweep_end();
        let stop = end.min(from.saturating_add(scan));
        for n in from..stop {
            if rows.len() == rows.capacity() {
                return Some(n);
            }
            if self.table.in_use(n) && flow.is_none_or(|id| self.table.cold(n).flow_id == id) {
                rows.push(self.row(n));
            }
        }
        (stop < end).then_some(stop)
    }

    /// Announces the own addresses of a device's ports anew, in the ticks that follow; the device is named by its first port.
    pub fn announce_again(&mut self, device: PortIndex) {
        let ports = &self.net.ports;
        self.own.again(self.now, |port| ports.get(usize::from(port)).is_some_and(|p| p.device == device));
    }

    /// Own addresses that other stations claimed.
    pub fn contested(&self) -> impl Iterator<Item = Contested> + '_ {
        self.own.claimed_by_others(self.now)
    }

    /// The connection a packet belongs to, and which way the packet goes.
    pub fn probe(&self, key: &Key) -> Option<(ConnRow, Direction)> {
        let found: Found = self.table.find(key)?;
        Some((self.row(found.conn()), found.direction()))
    }

    fn row(&self, n: u32) -> ConnRow {
        let cold = self.table.cold(n);
        let state = if !self.table.is_tcp(n) || cold.established() {
            "established"
        } else if cold.seen & !(seen::CLIENT_SYN | seen::TARGET_SYN) == 0 {
            "opening"
        } else {
            "closing"
        };
        ConnRow {
            flow_id: cold.flow_id,
            endpoints: self.table.endpoints(n),
            state,
            age: self.now.wrapping_sub(cold.created),
            idle: self.table.idle(n, self.now),
            counts: [self.table.counts(n, Direction::ToTarget), self.table.counts(n, Direction::ToClient)],
        }
    }
}
