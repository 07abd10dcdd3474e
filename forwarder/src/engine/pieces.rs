//! Fragments on their way in: each follows the first of its datagram, which has the ports ([`crate::flow::fragments`]).
//!
//! The fragments of a datagram meet at the worker that their addresses name, because most of them have nothing else. There the
//! first is found its connection; when another worker owns that, it gets the first and then all others, in the order in which
//! they became known here. What a worker was handed it does not hand back: it keeps a table of its own for what is its.
#![forbid(unsafe_code)]

use super::relay::{Piece, Plain};
use super::slow::Transport;
use super::{DropReason, Edge, Engine, admit};
use crate::flow::fragments::{Arrived, FragmentKey, Refusal};
use crate::flow::key::Addrs;
use crate::flow::{Found, Key, fragments};
use crate::io::{PacketBuf, PacketIo, PortIndex};
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::Ipv6;
use crate::wire::{Frame, PROTO_UDP};

/// A fragment of TCP or UDP.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) key: FragmentKey,
    pub(super) piece: fragments::Piece,
    /// Offset of the transport header or data in the IP packet, and of the IPv6 fragment header.
    pub(super) l4: u16,
    pub(super) header: u16,
    /// Of the first fragment.
    pub(super) transport: Option<Transport>,
}

impl<B: PacketBuf> Engine<B> {
    /// Deals with a fragment.
    pub(super) fn fragment<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        l3: usize,
        part: &Part,
        packet: B,
    ) {
        if let Some(other) = self.other_meeting_place(port, &part.key.addrs) {
            return self.hand_over(edge, other, port, packet);
        }
        let friend = self.pairs.contains(port, &part.key.addrs);
        let arrived = match &part.transport {
            None => self.fragments.later(&part.key, part.piece, friend, self.now),
            Some(t) => {
                let Some(key) = t.tuple.key() else {
                    return self.drop(edge, port, packet, DropReason::NoFlow);
                };
                // What the table refuses opens nothing.
                let known = self.table.find(&key).is_some_and(|f| self.still_allowed(f.conn()));
                let opens = !known && admit::check(&self.net, &self.flows, &t.tuple, t.opens()).is_ok();
                if opens && let Some(refusal) = self.fragments.refuses(&part.key, part.piece, self.now) {
                    return self.drop(edge, port, packet, reason(refusal));
                }
                match self.connection(port, t) {
                    Err(reason) => return self.drop(edge, port, packet, reason),
                    // What has a connection here has both ends' word for it.
                    Ok(place) => {
                        let friend = friend || matches!(place, Place::Here(_));
                        self.fragments.first(&part.key, part.piece, key, friend, self.now)
                    }
                }
            }
        };
        match arrived {
            Arrived::Pass { key, id } => {
                self.send_part(edge, port, l3, part, (key, id), packet);
                if part.transport.is_some() {
                    while let Some((port, packet)) = self.fragments.release(&part.key) {
                        self.follow(edge, port, (key, id), packet);
                    }
                }
            }
            Arrived::Wait => {
                if let Err(packet) = self.fragments.hold(&part.key, packet, friend) {
                    self.drop(edge, port, packet, DropReason::FragmentTableFull);
                }
            }
            Arrived::Refused(refusal) => self.drop(edge, port, packet, reason(refusal)),
        }
    }

    /// A fragment that waited goes on; it was parsed when it came.
    fn follow<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        way: (Key, u32),
        packet: B,
    ) {
        let parsed = Frame::parse(packet.head()).ok().and_then(|frame| {
            let ip = packet.head().get(frame.l3..)?;
            Some((frame.l3, part(port, ip, None)?))
        });
        match parsed {
            Some((l3, part)) => self.send_part(edge, port, l3, &part, way, packet),
            None => self.drop(edge, port, packet, DropReason::IpTruncated),
        }
    }

    fn send_part<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        l3: usize,
        part: &Part,
        (key, id): (Key, u32),
        packet: B,
    ) {
        let Some(found) = self.table.find(&key).filter(|f| self.still_allowed(f.conn())) else {
            return match self.other_home(port, &key) {
                Some(other) => self.hand_over(edge, other, port, packet),
                None => self.drop(edge, port, packet, DropReason::FragmentTimeout),
            };
        };
        let piece = Piece { id, first: part.transport.is_some(), header: part.header };
        let flags = part.transport.map_or(0, |t| t.flags);
        let plain = Plain { found, l3: l3 as u8, l4: part.l4, flags, piece: Some(piece) };
        self.relay(edge, port, &plain, packet);
    }

    /// The connection of a packet, opened if it may be, or the worker that will know.
    pub(super) fn connection(&mut self, port: PortIndex, t: &Transport) -> Result<Place, DropReason> {
        let key = t.tuple.key();
        if let Some(found) = key.as_ref().and_then(|key| self.table.find(key)) {
            if self.still_allowed(found.conn()) {
                return Ok(Place::Here(found));
            }
            self.remove(found.conn());
        }
        if let Some(other) = key.and_then(|key| self.other_home(port, &key)) {
            return Ok(Place::Worker(other));
        }
        self.admit(t).map(Place::Here)
    }
}

/// Where a packet's connection is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Here(Found),
    Worker(usize),
}

/// What a fragment is, `ip` being its packet without faults; none when it is no fragment, or one of no datagram. `transport` is
/// the first one's.
pub(super) fn part(port: PortIndex, ip: &[u8], transport: Option<Transport>) -> Option<Part> {
    let part = |addrs, protocol, id, piece, l4: usize, header: usize| Part {
        key: FragmentKey { port, protocol, addrs, id },
        piece,
        l4: l4 as u16,
        header: header as u16,
        transport,
    };
    let possible = |part: &Part| part.key.end_of(part.piece).is_some();
    if ip.first()? >> 4 == 4 {
        let ip = Ipv4::parse_quoted(ip).ok().filter(Ipv4::is_fragment)?;
        let piece = fragments::Piece {
            offset: ip.fragment_offset() as u16,
            len: ip.payload_len() as u16,
            more: ip.more_fragments(),
        };
        let addrs = Addrs::of(ip.src().into(), ip.dst().into())?;
        return Some(part(addrs, ip.protocol(), ip.id().into(), piece, ip.header_len(), 0)).filter(possible);
    }
    let ip = Ipv6::parse_quoted(ip).ok()?;
    let upper = ip.upper().ok()?;
    let header = upper.fragment?;
    let begin = header.at + crate::wire::ipv6::FRAGMENT_HEADER;
    let len = ip.total_len().saturating_sub(begin);
    let piece = fragments::Piece { offset: header.offset, len: len as u16, more: header.more };
    let addrs = Addrs::of(ip.src().into(), ip.dst().into())?;
    Some(part(addrs, 0, header.id, piece, upper.offset, header.at)).filter(possible)
}

fn reason(refusal: Refusal) -> DropReason {
    match refusal {
        Refusal::Overlap => DropReason::FragmentOverlap,
        Refusal::Malformed => DropReason::FragmentMalformed,
        Refusal::TableFull => DropReason::FragmentTableFull,
    }
}

/// Does a fragment that begins at `offset` leave the transport header whole (RFC 1858 section 3.2, RFC 3128)? The first one
/// has it, and none begins within.
pub(super) fn spares_header(protocol: u8, offset: usize) -> bool {
    let header = if protocol == PROTO_UDP { crate::wire::udp::HEADER } else { crate::wire::tcp::HEADER };
    offset == 0 || offset >= header
}
