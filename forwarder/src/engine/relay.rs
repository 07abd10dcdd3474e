//! The relay by steps: what the fast path does for a plain packet, for any packet of a connection. TCP flags are noted, segment
//! sizes clamped, fragments and extension headers passed, families translated, packets too big for the way out fragmented or
//! answered.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::{DropReason, Edge, Engine, Pending};
use crate::api::{FlowState, MssClamp};
use crate::flow::table::{Half, seen};
use crate::flow::{Direction, Found};
use crate::io::{PacketBuf, PacketIo, PortIndex};
use crate::nat::error::OwnError;
use crate::nat::{apply, translate};
use crate::wire::ipv4::{self, Ipv4, Ipv4Mut};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::{checksum, tcp, udp};

/// Smallest MTU of an IPv6 link (RFC 8200 section 5), and the largest packet that a translator may make of an IPv4 packet
/// without DF (RFC 7915 section 4).
const IPV6_MTU: u32 = 1280;
/// Most pieces of one packet: 9000 bytes over 576.
const PIECES: usize = 24;

/// What is known of a packet whose connection was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain {
    pub(super) found: Found,
    /// Offset of its IP header in the frame.
    pub(super) l3: u8,
    /// Offset of its transport header, or of a fragment's data, in the IP packet.
    pub(super) l4: u16,
    /// TCP flags; 0 for UDP.
    pub(super) flags: u8,
    pub(super) piece: Option<Piece>,
}

/// What a fragment is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// Identification it leaves with.
    pub(super) id: u32,
    /// Does it have the transport header?
    pub(super) first: bool,
    /// Offset of the IPv6 fragment header in the IP packet.
    pub(super) header: u16,
}

/// Whether a packet fits the way out.
enum Fit {
    Yes,
    /// In pieces of at most so many bytes.
    Split(u16),
    /// It does not; what its sender is told.
    No(OwnError),
    /// What lies behind the packet does not: nobody can be told.
    Trailer,
}

impl<B: PacketBuf> Engine<B> {
    /// Sends a packet of a connection on its way: checks, rewrite, counters, Ethernet header, batch.
    pub(super) fn relay<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        plain: &Plain,
        mut packet: B,
    ) {
        let found = plain.found;
        if !self.within_rate(found, packet.frame_len()) {
            return self.drop(edge, port, packet, DropReason::RateExceeded);
        }
        if plain.flags & tcp::OPENS_OR_CLOSES != 0
            && let Err(reason) = self.note_flags(found, plain.flags)
        {
            return self.drop(edge, port, packet, reason);
        }
        let frame_len = packet.frame_len() as u32;
        let half = *self.table.half(found);
        let split = match self.fit(&half, plain, &packet) {
            Fit::Yes => 0,
            Fit::Split(most) => most,
            Fit::Trailer => return self.drop(edge, port, packet, DropReason::TooBig),
            Fit::No(error) => {
                self.tell_sender(edge, port, &packet, error);
                return self.drop(edge, port, packet, DropReason::TooBig);
            }
        };
        let rewritten = if half.translates() {
            self.rewrite_translated(&half, plain, &mut packet)
        } else {
            self.rewrite_same(&half, plain, &mut packet)
        };
        if let Err(reason) = rewritten {
            return self.drop(edge, port, packet, reason);
        }
        self.table.half_mut(found).count(1, frame_len.into(), self.now);
        let counters = &self.counters.flows[half.flow as usize];
        counters.directions[found.direction() as usize].add(1, frame_len.into());
        let (conn, next_hop, since) = (found.conn(), half.next_hop, self.now);
        self.send_out(edge, Pending { conn, next_hop, l3: plain.l3, port, since, split, packet });
    }

    /// Is a frame within its flow's rate? One that is has been charged.
    pub(super) fn within_rate(&self, found: Found, frame_len: usize) -> bool {
        let slot = self.table.half(found).flow;
        let Some(police) = self.flows.police(slot) else { return true };
        let within = police.admit(found.direction(), self.ticks, std::iter::once(frame_len as u32)) > 0;
        if !within {
            self.counters.flows[slot as usize].policed.add(1);
        }
        within
    }

    /// A SYN, FIN or RST of a connection. Refuses combinations that no sender makes, they probe firewalls, and the reuse of
    /// a mapping by a new connection when its flow is draining.
    #[cold]
    fn note_flags(&mut self, found: Found, flags: u8) -> Result<(), DropReason> {
        if tcp::contradictory(flags) {
            return Err(DropReason::TcpMalformed);
        }
        let from_client = found.direction() == Direction::ToTarget;
        let (slot, _) = self.table.flow(found.conn());
        let now = self.now;
        let conn = self.table.cold_mut(found.conn());
        let first = flags & tcp::SYN != 0 && from_client && flags & tcp::ACK == 0;
        if first && !conn.established() && conn.seen != seen::CLIENT_SYN {
            // The client uses its port again: a new connection over the same mapping. Whether its sequence number is good enough
            // for a peer in TIME-WAIT is that peer's to say (RFC 6191).
            if let Some(flow) = self.flows.slot(slot).filter(|f| f.state == FlowState::Draining) {
                self.counters.flows[flow.slot as usize].refused.add(1);
                return Err(DropReason::FlowDraining);
            }
            // Reset and nothing else, both ends may be there still: a reset may be forged, and a SYN behind it (RFC 5961). The target's
            // answer or whatever follows later tells.
            if !conn.only_reset() {
                conn.seen = seen::CLIENT_SYN;
            }
            return Ok(());
        }
        let [syn, fin] = if from_client {
            [seen::CLIENT_SYN, seen::CLIENT_FIN]
        } else {
            [seen::TARGET_SYN, seen::TARGET_FIN]
        };
        if flags & tcp::SYN != 0 && !from_client {
            conn.seen &= !seen::RST;
        }
        for (flag, bit) in [(tcp::SYN, syn), (tcp::FIN, fin)] {
            if flags & flag != 0 {
                conn.seen |= bit;
            }
        }
        if flags & tcp::RST != 0 {
            conn.reset(now);
        }
        Ok(())
    }

    /// Does a packet fit the MTU of the way out, in the family it leaves in?
    fn fit(&self, half: &Half, plain: &Plain, packet: &B) -> Fit {
        let mtu = u32::from(self.neighbors.adjacency(half.next_hop).mtu);
        let l3 = usize::from(plain.l3);
        let frame = packet.frame_len().saturating_sub(l3) as u32;
        if frame <= mtu && !half.translates() {
            return Fit::Yes;
        }
        let ip = packet.head().get(l3..).unwrap_or_default();
        let (total, may_split) = if half.is_v6() {
            (Ipv6::parse_quoted(ip).map_or(0, |ip| ip.total_len()), plain.piece.is_some())
        } else {
            Ipv4::parse_quoted(ip).map_or((0, false), |ip| (ip.total_len(), !ip.dont_fragment()))
        };
        let total = total as u32;
        let v6_header =
            if plain.piece.is_some() { ipv6::HEADER + ipv6::FRAGMENT_HEADER } else { ipv6::HEADER };
        let size = match (half.translates(), half.is_v6()) {
            // The frame counts, not what the IP header says: what lies behind the packet is sent along with it.
            (false, _) if total <= mtu => return Fit::Trailer,
            (false, _) => frame,
            (true, true) => (total + ipv4::HEADER as u32).saturating_sub(plain.l4.into()),
            (true, false) => (total + v6_header as u32).saturating_sub(plain.l4.into()),
        };
        // RFC 7915 sections 4 and 5: towards IPv6 nobody on the way can fragment, so what may be fragmented is, to what passes
        // everywhere; towards IPv4 small packets may be, because IPv6 has no way to ask for even smaller ones.
        let (most, may_split, told) = match (half.translates(), half.is_v6()) {
            (false, true) => (mtu, false, mtu),
            (false, false) => (mtu, may_split, mtu),
            (true, false) if may_split => (mtu.min(IPV6_MTU), true, mtu),
            (true, false) => (mtu, false, mtu.saturating_sub((v6_header - ipv4::HEADER) as u32)),
            (true, true) => (mtu, may_split || size <= IPV6_MTU - 20, (mtu + 20).max(IPV6_MTU)),
        };
        match (size <= most, may_split) {
            (true, _) => Fit::Yes,
            (false, true) => Fit::Split(most as u16),
            (false, false) => Fit::No(OwnError::TooBig { mtu: told as u16 }),
        }
    }

    /// Rewrites a packet that leaves in the family it came in.
    fn rewrite_same(&self, half: &Half, plain: &Plain, packet: &mut B) -> Result<(), DropReason> {
        let head = packet.head_mut().get_mut(plain.l3.into()..).ok_or(DropReason::IpTruncated)?;
        let done = if half.is_v6() {
            if let Some(piece) = plain.piece {
                let at = usize::from(piece.header) + 4;
                let id = head.get_mut(at..at + 4).ok_or(DropReason::IpTruncated)?;
                id.copy_from_slice(&piece.id.to_be_bytes());
            }
            apply::ipv6_header(head, self.table.new_addrs6(plain.found))
        } else {
            apply::ipv4_header(head, half.new_addrs, half.deltas.ip, plain.piece.map(|piece| piece.id as u16))
        };
        if !done {
            return Err(DropReason::IpTruncated);
        }
        self.rewrite_transport(half, plain, head.get_mut(plain.l4.into()..).unwrap_or_default())
    }

    /// Rewrites the transport header, where there is one.
    fn rewrite_transport(&self, half: &Half, plain: &Plain, segment: &mut [u8]) -> Result<(), DropReason> {
        if plain.piece.is_some_and(|piece| !piece.first) {
            return Ok(());
        }
        if !apply::transport_header(segment, half.new_ports, !half.is_tcp(), half.deltas.l4) {
            return Err(DropReason::L4Truncated);
        }
        if plain.flags & tcp::SYN != 0
            && let Some(most) = self.segment_size(half, plain.found)
        {
            tcp::clamp_mss(segment, most);
        }
        Ok(())
    }

    /// The largest segment that a SYN may announce, when its flow says so.
    fn segment_size(&self, half: &Half, found: Found) -> Option<u16> {
        let flow = self.flows.slot(half.flow)?;
        match flow.spec.mss_clamp? {
            MssClamp::Bytes(bytes) => Some(bytes),
            MssClamp::Auto => Direction::BOTH
                .map(|d| self.table.half(Found::of(found.conn(), d)))
                .iter()
                .map(|h| {
                    let mtu = self.neighbors.adjacency(h.next_hop).mtu;
                    let headers = if h.is_v6() != h.translates() { ipv6::HEADER } else { ipv4::HEADER };
                    mtu.saturating_sub((headers + tcp::HEADER) as u16)
                })
                .min(),
        }
    }

    /// Rewrites a packet that leaves in the other family (RFC 7915): its IP header and all extension headers make room for a new
    /// header; the Ethernet header stays in front.
    fn rewrite_translated(&mut self, half: &Half, plain: &Plain, packet: &mut B) -> Result<(), DropReason> {
        let (l3, l4) = (usize::from(plain.l3), usize::from(plain.l4));
        let ends = self.table.endpoints(plain.found.conn());
        let (src, dst) = match plain.found.direction() {
            Direction::ToTarget => (ends.source.ip(), ends.target.ip()),
            Direction::ToClient => (ends.listen.ip(), ends.client.ip()),
        };
        let ip = packet.head().get(l3..).ok_or(DropReason::IpTruncated)?;
        let mut header = ArrayVec::<u8, { ipv6::HEADER + ipv6::FRAGMENT_HEADER }>::new();
        let total = match (src, dst) {
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let ip = Ipv4::parse_quoted(ip).map_err(|_| DropReason::IpTruncated)?;
                header.extend(translate::to_v6(&ip, src, dst, plain.piece.map_or(0, |piece| piece.id)));
                ip.total_len()
            }
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let ip = Ipv6::parse_quoted(ip).map_err(|_| DropReason::IpTruncated)?;
                let upper = ip.upper().map_err(|_| DropReason::Ipv6Extension)?;
                let id = match plain.piece {
                    // Offsets count what is behind the fragment header, and IPv4 has no extension headers there (section 5.1.1).
                    Some(piece)
                        if l4 != usize::from(piece.header) + ipv6::FRAGMENT_HEADER
                            || ipv6::is_extension(upper.protocol) =>
                    {
                        return Err(DropReason::Ipv6Extension);
                    }
                    Some(piece) => piece.id,
                    None => self.fragments.fresh_id(false),
                };
                header.extend(translate::to_v4(&ip, &upper, src, dst, id as u16));
                ip.total_len()
            }
            _ => return Err(DropReason::NoFlow),
        };
        // What lies behind the packet goes. Where it cannot, in a segment of its own, it would count on the way out.
        if packet.frame_len() != l3 + total && !packet.resize(l3 + total) {
            return Err(DropReason::TooBig);
        }
        self.sum_datagram(half, plain, packet, total)?;
        let (old, new) = (l4, header.len());
        if new > old {
            if !packet.push(new - old) {
                return Err(DropReason::NoHeadroom);
            }
            packet.head_mut().copy_within(new - old..new - old + l3, 0);
        } else {
            packet
                .head_mut()
                .get_mut(..l3 + old - new)
                .ok_or(DropReason::IpTruncated)?
                .copy_within(..l3, old - new);
            if !packet.pull(old - new) {
                return Err(DropReason::IpTruncated);
            }
        }
        let ip = packet.head_mut().get_mut(l3..).ok_or(DropReason::IpTruncated)?;
        let (place, segment) = ip.split_at_mut_checked(new).ok_or(DropReason::IpTruncated)?;
        place.copy_from_slice(&header);
        self.rewrite_transport(half, plain, segment)
    }

    /// Over IPv6 a datagram must have a checksum; one that came over IPv4 without gets it when it is whole (RFC 7915 section 4.5).
    fn sum_datagram(
        &self,
        half: &Half,
        plain: &Plain,
        packet: &mut B,
        total: usize,
    ) -> Result<(), DropReason> {
        if half.is_tcp() || half.is_v6() || plain.piece.is_some_and(|piece| !piece.first) {
            return Ok(());
        }
        let (l3, l4) = (usize::from(plain.l3), usize::from(plain.l4));
        let ip = packet.head_mut().get_mut(l3..).unwrap_or_default();
        let (header, datagram) = ip.split_at_mut_checked(l4).ok_or(DropReason::IpTruncated)?;
        let at = udp::CHECKSUM;
        match datagram.get(at..at + 2) {
            None => return Err(DropReason::L4Truncated),
            Some([0, 0]) => {}
            Some(_) => return Ok(()),
        }
        let len = udp::Udp::parse(datagram, total.saturating_sub(l4)).map_or(0, |u| u.len());
        let Some(whole) = datagram.get(..len).filter(|_| len > 0 && plain.piece.is_none()) else {
            return Err(DropReason::UdpNoChecksum);
        };
        let ip = Ipv4::parse_quoted(header).map_err(|_| DropReason::IpTruncated)?;
        let pseudo = checksum::pseudo_v4(ip.src(), ip.dst(), ip.protocol(), len as u16);
        let sum = pseudo.plus(whole).finish_udp().to_ne_bytes();
        if let Some(place) = datagram.get_mut(at..at + 2) {
            place.copy_from_slice(&sum);
        }
        Ok(())
    }

    /// Sends a packet that is too long for its way out in pieces (RFC 791 section 3.2, RFC 8200 section 4.5), in order. Its
    /// Ethernet header is written; its IP packet begins at `l3`.
    #[cold]
    pub(super) fn send_pieces<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        (from, to): (PortIndex, PortIndex),
        (l3, most): (usize, u16),
        packet: B,
    ) {
        let mut pieces = ArrayVec::<B, PIECES>::new();
        let id = self.fragments.fresh_id(packet.head().get(l3).is_some_and(|b| b >> 4 == 6));
        let made = cut(&packet, l3, most.into(), id, || edge.io.alloc(), &mut pieces);
        if let Err(reason) = made {
            return self.drop(edge, from, packet, reason);
        }
        let (count, mut sent) = (pieces.len() as u64, 0);
        for piece in pieces {
            let bytes = piece.frame_len() as u64;
            if edge.send(&self.counters, to, bytes, piece).is_err() {
                break;
            }
            sent += 1;
        }
        if sent < count {
            // What went is of no use to anybody, and ours.
            self.counters.originated.add(sent);
            return self.drop(edge, from, packet, DropReason::TxFull);
        }
        // One of them stands for the packet that came.
        self.counters.originated.add(count - 1);
        self.put_back(edge, packet);
    }
}

/// Cuts the IP packet at `l3` into pieces of at most `most` bytes.
fn cut<B: PacketBuf, const N: usize>(
    packet: &B,
    l3: usize,
    most: usize,
    id: u32,
    mut alloc: impl FnMut() -> Option<B>,
    pieces: &mut ArrayVec<B, N>,
) -> Result<(), DropReason> {
    let head = packet.head();
    let ip = head.get(l3..).ok_or(DropReason::IpTruncated)?;
    let v6 = ip.first().is_some_and(|b| b >> 4 == 6);
    // The header of the first piece, that of the others, where the data begin, how long they are, their place in the datagram,
    // and whether more follow them.
    let (mut first, mut rest) = (ArrayVec::<u8, 60>::new(), ArrayVec::<u8, 60>::new());
    let (begin, len, base, last_more);
    if v6 {
        let ip6 = Ipv6::parse_quoted(ip).map_err(|_| DropReason::IpTruncated)?;
        let upper = ip6.upper().map_err(|_| DropReason::Ipv6Extension)?;
        let (offset, more, id) = upper.fragment.map_or((0, false, id), |f| (f.offset, f.more, f.id));
        // Translation makes no other extension header.
        begin = upper.offset;
        (len, base, last_more) = (ip6.total_len().saturating_sub(begin), usize::from(offset), more);
        let mut header = ipv6::header(ip6.src(), ip6.dst(), ipv6::FRAGMENT, ip6.hop_limit(), 0);
        header[..4].copy_from_slice(ip.get(..4).ok_or(DropReason::IpTruncated)?);
        first.extend(header);
        first.extend([upper.protocol, 0, 0, 0]);
        first.extend(id.to_be_bytes());
        rest.extend(first.iter().copied());
    } else {
        let ip4 = Ipv4::parse_quoted(ip).map_err(|_| DropReason::IpTruncated)?;
        begin = ip4.header_len();
        (len, base, last_more) = (ip4.payload_len(), ip4.fragment_offset(), ip4.more_fragments());
        first.extend(ip.get(..begin).unwrap_or_default().iter().copied());
        rest.extend(ip.get(..ipv4::HEADER).unwrap_or_default().iter().copied());
        let options = ip.get(ipv4::HEADER..begin).unwrap_or_default();
        rest.extend(ipv4::copied_options(options));
        let words = rest.len() as u8 / 4;
        if let Some(version) = rest.first_mut() {
            *version = 0x40 | words;
        }
        if !ip4.is_fragment() {
            for header in [&mut first, &mut rest] {
                if let Some(place) = header.get_mut(4..6) {
                    place.copy_from_slice(&(id as u16).to_be_bytes());
                }
            }
        }
    }
    let room = most.saturating_sub(first.len().max(rest.len())) & !7;
    if room == 0 || len.div_ceil(room) > N {
        return Err(DropReason::TooBig);
    }
    let mut at = 0;
    while at < len {
        let take = room.min(len - at);
        let more = last_more || at + take < len;
        let header = if at == 0 { &first } else { &rest };
        let mut piece = alloc().ok_or(DropReason::NoBuffer)?;
        if !piece.resize(l3 + header.len() + take) {
            return Err(DropReason::NoBuffer);
        }
        let frame = piece.head_mut();
        let (l2, body) = frame.split_at_mut_checked(l3).ok_or(DropReason::NoBuffer)?;
        l2.copy_from_slice(head.get(..l3).ok_or(DropReason::IpTruncated)?);
        let (to, data) = body.split_at_mut_checked(header.len()).ok_or(DropReason::NoBuffer)?;
        to.copy_from_slice(header);
        if !packet.read(l3 + begin + at, data) {
            return Err(DropReason::IpTruncated);
        }
        let offset = ((base + at) / 8) as u16;
        if v6 {
            let payload = (header.len() - ipv6::HEADER + take) as u16;
            to[4..6].copy_from_slice(&payload.to_be_bytes());
            to[42..44].copy_from_slice(&(offset << 3 | u16::from(more)).to_be_bytes());
        } else {
            to[2..4].copy_from_slice(&((header.len() + take) as u16).to_be_bytes());
            to[6..8].copy_from_slice(&(offset | u16::from(more) << 13).to_be_bytes());
            if let Ok(mut ip) = Ipv4Mut::new(to) {
                ip.fill_checksum();
            }
        }
        if pieces.try_push(piece).is_err() {
            return Err(DropReason::TooBig);
        }
        at += take;
    }
    Ok(())
}
