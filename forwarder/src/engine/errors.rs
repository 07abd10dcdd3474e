//! ICMP and ICMPv6: errors about packets of connections, passed on to who sent the packet (RFC 5508, RFC 7915); the gateway's own
//! errors; echo.
//!
//! An error is found its connection by the packet it quotes. It never opens, refreshes or ends one.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv6Addr};

use super::slow::{Kind, TTL};
use super::{DropReason, Edge, Engine, Pending};
use crate::flow::{Direction, Found, Millis, Tuple};
use crate::io::{PacketBuf, PacketIo, PortIndex};
use crate::nat::error::{self, OwnError};
use crate::nat::icmp::{self as nat_icmp, Onward, QuoteError};
use crate::wire::ipv4::{Ipv4, Ipv4Mut};
use crate::wire::ipv6::{Ipv6, Ipv6Mut};
use crate::wire::{Frame, WireError, icmp, icmpv6};

/// Longest frame of an error that is passed on, in bytes: what the largest MTU of a port and its headers come to.
pub(super) const SCRATCH: usize = 9800;
/// Longest packet of an own error (RFC 4443 section 2.4), in bytes.
const OWN: usize = 1280;

/// How much of something a worker sends: a token bucket (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f)).
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    refilled: Millis,
}

impl Allowance {
    /// In a second, and in one go.
    const RATE: u32 = 1000;
    const BURST: u32 = 200;

    pub(super) fn new() -> Self {
        Self { left: Self::BURST, refilled: 0 }
    }

    /// May one more be sent now?
    fn take(&mut self, now: Millis) -> bool {
        let passed = now.wrapping_sub(self.refilled);
        if passed > 0 {
            let earned = u64::from(passed) * u64::from(Self::RATE) / 1000;
            self.left = (u64::from(self.left) + earned).min(Self::BURST.into()) as u32;
            self.refilled = now;
        }
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

impl<B: PacketBuf> Engine<B> {
    /// Passes on an error about a packet of a connection; its ICMP message begins `l4` bytes into the IP packet.
    pub(super) fn icmp_error<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        (l3, l4): (usize, usize),
        mut packet: B,
    ) {
        let Some((ip, ttl, dst)) = packet.head().get(l3..).and_then(whole) else {
            return self.drop(edge, port, packet, DropReason::IcmpMalformed);
        };
        let quoted = match nat_icmp::quoted(ip, l4) {
            // It came to who sent the packet, or somebody made it up.
            Ok(quoted) if quoted.src.ip() == dst => quoted,
            Ok(_) => return self.drop(edge, port, packet, DropReason::IcmpUnmatched),
            Err(e) => return self.drop(edge, port, packet, quote_reason(e)),
        };
        // What we sent to `quoted.dst` has its answers come from there.
        let back = Tuple { port, proto: quoted.proto, src: quoted.dst, dst: quoted.src };
        let Some(key) = back.key() else { return self.drop(edge, port, packet, DropReason::IcmpUnmatched) };
        let Some(found) = self.table.find(&key).filter(|f| self.still_allowed(f.conn())) else {
            return match self.other_home(port, &key).filter(|_| !self.taken_over) {
                Some(other) => self.hand_over(edge, other, port, packet),
                None => self.drop(edge, port, packet, DropReason::IcmpUnmatched),
            };
        };
        if ttl <= 1 {
            return self.drop(edge, port, packet, DropReason::TtlExpired);
        }
        if !self.within_rate(found, packet.frame_len()) {
            return self.drop(edge, port, packet, DropReason::RateExceeded);
        }
        let ends = self.table.endpoints(found.conn());
        let (from, quoted_src, quoted_dst) = match found.direction() {
            Direction::ToTarget => (ends.source, ends.target, ends.source),
            Direction::ToClient => (ends.listen, ends.client, ends.listen),
        };
        let [to_target, to_client] =
            Direction::BOTH.map(|d| self.table.half(Found::of(found.conn(), d)).next_hop);
        let (next_hop, back) = match found.direction() {
            Direction::ToTarget => (to_target, to_client),
            Direction::ToClient => (to_client, to_target),
        };
        let (out, came_by) = (self.neighbors.adjacency(next_hop).mtu, self.neighbors.adjacency(back).mtu);
        // A packet of IPv6 is 20 bytes longer than the same of IPv4.
        let came_by =
            if quoted_src.is_ipv6() { came_by.saturating_add(20) } else { came_by.saturating_sub(20) };
        let mtu = out.min(came_by);
        let onward = Onward { src: from.ip(), dst: quoted_src.ip(), quoted_src, quoted_dst, mtu };
        let len = match nat_icmp::translate(ip, l4, &onward, &mut self.scratch) {
            Ok(len) => len,
            Err(e) => return self.drop(edge, port, packet, quote_reason(e)),
        };
        if len > usize::from(out) {
            return self.drop(edge, port, packet, DropReason::TooBig);
        }
        let placed = packet.resize(l3 + len)
            && packet.head_mut().get_mut(l3..).zip(self.scratch.get(..len)).is_some_and(|(to, from)| {
                to.copy_from_slice(from);
                true
            });
        if !placed {
            return self.drop(edge, port, packet, DropReason::NoHeadroom);
        }
        let (conn, since) = (found.conn(), self.now);
        self.send_out(edge, Pending { conn, next_hop, l3: l3 as u8, port, since, split: 0, packet });
    }

    /// Tells who sent a packet why it goes no further, in a frame of our own to the station that the packet came from. The packet is
    /// as it came.
    #[cold]
    pub(super) fn tell_sender<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        packet: &B,
        error: OwnError,
    ) {
        let Ok(frame) = Frame::parse(packet.head()) else { return };
        let Some(ip) = packet.head().get(frame.l3..) else { return };
        let Some((_, _, from)) = whole(ip).filter(|_| frame.src.is_unicast()) else { return };
        let mut message = [0; OWN];
        let Some(len) = error::own_error(error, from, ip, &mut message) else { return };
        if !self.own_errors.take(self.now) {
            return;
        }
        self.originate(edge, port, frame.l3 + len, |reply, at| {
            let (header, body) = reply.split_at_mut_checked(frame.l3).ok_or(WireError::NoRoom)?;
            // Tags and ethertype are those of the packet.
            header.copy_from_slice(&packet.head()[..frame.l3]);
            header[..6].copy_from_slice(&frame.src.0);
            header[6..12].copy_from_slice(&at.mac.0);
            body.copy_from_slice(&message[..len]);
            Ok(frame.l3 + len)
        });
    }

    /// Answers an echo request in place (RFC 1122 section 3.2.2.6, RFC 4443 section 4.2), back to the station it came from.
    pub(super) fn echo<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        frame: &Frame,
        kind: Kind,
        mut packet: B,
    ) {
        // An answer to a group would be an amplifier.
        if !frame.src.is_unicast() {
            return self.drop(edge, port, packet, DropReason::MulticastSource);
        }
        if !self.echoes.take(self.now) {
            return self.drop(edge, port, packet, DropReason::IcmpRateLimited);
        }
        let mac = self.net.ports[usize::from(port)].mac;
        let head = packet.head_mut();
        if let Some(addresses) = head.first_chunk_mut::<12>() {
            addresses[..6].copy_from_slice(&frame.src.0);
            addresses[6..].copy_from_slice(&mac.0);
        }
        let ip = head.get_mut(frame.l3..).unwrap_or_default();
        let answered = match kind {
            Kind::Echo4(header_len) => echo4(ip, header_len),
            _ => echo6(ip),
        };
        if answered.is_none() {
            return self.drop(edge, port, packet, DropReason::IcmpMalformed);
        }
        self.send_by(edge, (port, port), packet);
    }
}

/// An IP packet without what lies behind it, its TTL and its destination.
fn whole(bytes: &[u8]) -> Option<(&[u8], u8, IpAddr)> {
    let (total, ttl, dst) = match bytes.first()? >> 4 {
        4 => {
            let ip = Ipv4::parse_quoted(bytes).ok()?;
            (ip.total_len(), ip.ttl(), IpAddr::V4(ip.dst()))
        }
        _ => {
            let ip = Ipv6::parse_quoted(bytes).ok()?;
            (ip.total_len(), ip.hop_limit(), IpAddr::V6(ip.dst()))
        }
    };
    Some((bytes.get(..total).unwrap_or(bytes), ttl, dst))
}

fn quote_reason(e: QuoteError) -> DropReason {
    match e {
        QuoteError::Untranslatable => DropReason::IcmpUntranslatable,
        QuoteError::Fragment | QuoteError::Protocol => DropReason::IcmpUnmatched,
        _ => DropReason::IcmpMalformed,
    }
}

fn echo4(ip: &mut [u8], header_len: usize) -> Option<()> {
    let (src, dst, total) = {
        let header = Ipv4::parse_quoted(ip).ok()?;
        (header.src(), header.dst(), header.total_len())
    };
    icmp::echo_reply(ip.get_mut(header_len..total)?).ok()?;
    let mut header = Ipv4Mut::new(ip).ok()?;
    header.set_src(dst);
    header.set_dst(src);
    header.set_ttl(TTL);
    header.fill_checksum();
    Some(())
}

fn echo6(ip: &mut [u8]) -> Option<()> {
    let (src, dst, total): (Ipv6Addr, Ipv6Addr, usize) = {
        let header = Ipv6::parse_quoted(ip).ok()?;
        (header.src(), header.dst(), header.total_len())
    };
    icmpv6::echo_reply(ip.get_mut(crate::wire::ipv6::HEADER..total)?).ok()?;
    let mut header = Ipv6Mut::new(ip).ok()?;
    header.set_src(dst);
    header.set_dst(src);
    header.set_hop_limit(TTL);
    Some(())
}
