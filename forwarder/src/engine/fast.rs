//! The fast path's parser: what lets a packet of a connection through without a second look.
//!
//! A packet passes when its headers are whole, plain (no IPv4 options, no IPv6 extension headers, no fragment) and right,
//! and its TTL survives. Anything else is `Slow`, where [`super::slow`] finds out what it is and why it is dropped; so the
//! parser never has to tell reasons apart, only to be right about what it lets through. Source address checks are not
//! needed here: the address must equal a connection's, and that was checked at admission.
#![forbid(unsafe_code)]

use crate::flow::Found;
use crate::flow::key::{self, KIND_V6};
use crate::io::PortIndex;
use crate::wire::eth::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, Mac};
use crate::wire::{PROTO_TCP, PROTO_UDP};

/// What the parser made of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// IPv4 with TCP or UDP.
    V4,
    /// IPv6 with TCP or UDP.
    V6,
    /// Anything else.
    Slow,
}

/// One packet of a burst on its way through the phases.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lane {
    pub(super) class: Class,
    /// TCP flags; 0 for UDP.
    pub(super) flags: u8,
    /// Offset of the IP header.
    pub(super) l3: u8,
    /// IPv4 source and destination, [`key::Addrs::V4`].
    pub(super) addrs: u64,
    /// [`key::Key::rest`].
    pub(super) rest: u64,
    pub(super) hash: u64,
    pub(super) found: Option<Found>,
}

impl Lane {
    pub(super) const SLOW: Self =
        Self { class: Class::Slow, flags: 0, l3: 0, addrs: 0, rest: 0, hash: 0, found: None };
}

/// What a frame's first 14 or 18 bytes must say to be ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expect {
    port: PortIndex,
    /// Destination MAC, in the low 48 bits as it lies in the frame.
    mac: u64,
    /// VLAN id, when the port is tagged.
    vlan: Option<u16>,
    /// Offset of the IP header: 14 or 18.
    l3: u8,
}

const MAC_BITS: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);

impl Expect {
    pub(super) fn new(port: PortIndex, mac: Mac, vlan: Option<u16>) -> Self {
        let m = mac.0;
        let mac = u64::from_ne_bytes([m[0], m[1], m[2], m[3], m[4], m[5], 0, 0]);
        Self { port, mac, vlan, l3: if vlan.is_some() { 18 } else { 14 } }
    }
}

#[inline(always)]
fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

/// Ones' complement sum of a 20-byte header is 0xffff when its checksum is right (RFC 1071).
#[inline(always)]
fn header_sum_ok(h: &[u8; 28]) -> bool {
    let w = |at: usize| u64::from(u32::from_ne_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]));
    let sum = w(0) + w(4) + w(8) + w(12) + w(16);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

/// Parses a frame. `head` is its first segment, `frame_len` its length over all segments.
#[inline(always)]
pub(super) fn parse(expect: &Expect, head: &[u8], frame_len: usize) -> Lane {
    parse_ip(expect, head, frame_len).unwrap_or(Lane::SLOW)
}

#[inline(always)]
fn parse_ip(expect: &Expect, head: &[u8], frame_len: usize) -> Option<Lane> {
    let eth = head.first_chunk::<18>()?;
    let dst = u64::from_ne_bytes([eth[0], eth[1], eth[2], eth[3], eth[4], eth[5], eth[6], eth[7]]) & MAC_BITS;
    if dst != expect.mac {
        return None;
    }
    let ethertype = match expect.vlan {
        None => be16(eth, 12),
        Some(vlan) if be16(eth, 12) == ETHERTYPE_VLAN && be16(eth, 14) & 0xfff == vlan => be16(eth, 16),
        Some(_) => return None,
    };
    let l3 = usize::from(expect.l3);
    let packet = head.get(l3..)?;
    let room = frame_len.checked_sub(l3)?;
    match ethertype {
        ETHERTYPE_IPV4 => parse4(expect, packet, room),
        ETHERTYPE_IPV6 => parse6(expect, packet, room),
        _ => None,
    }
}

#[inline(always)]
fn parse4(expect: &Expect, packet: &[u8], room: usize) -> Option<Lane> {
    let h = packet.first_chunk::<28>()?;
    let total = be16(h, 2);
    let plain = h[0] == 0x45 && be16(h, 6) & 0x3fff == 0 && h[8] > 1;
    if !plain || usize::from(total) > room || !header_sum_ok(h) {
        return None;
    }
    let proto = h[9];
    let flags = transport(packet, h, 20, proto, total.checked_sub(20)?)?;
    let addrs = u64::from_ne_bytes([h[12], h[13], h[14], h[15], h[16], h[17], h[18], h[19]]);
    let ports = u32::from_ne_bytes([h[20], h[21], h[22], h[23]]);
    let rest = key::rest(ports, proto, expect.port);
    Some(Lane { class: Class::V4, flags, l3: expect.l3, addrs, rest, hash: 0, found: None })
}

#[inline(always)]
fn parse6(expect: &Expect, packet: &[u8], room: usize) -> Option<Lane> {
    let h = packet.first_chunk::<48>()?;
    let payload = be16(h, 4);
    if h[0] >> 4 != 6 || h[7] <= 1 || usize::from(payload) + 40 > room {
        return None;
    }
    let proto = h[6];
    let flags = transport(packet, h, 40, proto, payload)?;
    // Over IPv6 a datagram has a checksum (RFC 8200 section 8.1).
    if proto == PROTO_UDP && be16(h, 46) == 0 {
        return None;
    }
    let ports = u32::from_ne_bytes([h[40], h[41], h[42], h[43]]);
    let rest = key::rest(ports, proto | KIND_V6, expect.port);
    Some(Lane { class: Class::V6, flags, l3: expect.l3, addrs: 0, rest, hash: 0, found: None })
}

/// Checks a transport header of `len` bytes in all at offset `at`; `h` is the packet's start, with at least eight bytes of it.
/// Returns TCP's flags, or 0.
#[inline(always)]
fn transport(packet: &[u8], h: &[u8], at: usize, proto: u8, len: u16) -> Option<u8> {
    match proto {
        PROTO_UDP => {
            let udp_len = be16(h, at + 4);
            (udp_len >= 8 && udp_len <= len).then_some(0)
        }
        PROTO_TCP => {
            let offset = u16::from(*packet.get(at + 12)? >> 4) * 4;
            // The whole fixed header must lie in the first segment: it is rewritten there.
            let header = packet.get(at..at + 20)?;
            (offset >= 20 && offset <= len).then_some(header[13])
        }
        _ => None,
    }
}

/// The IPv6 addresses of a frame that `parse` let through.
#[inline(always)]
pub(super) fn addrs6(head: &[u8], l3: usize) -> (u128, u128) {
    let Some(h) = head.get(l3..).and_then(|p| p.first_chunk::<40>()) else { return (0, 0) };
    let at = |from: usize| {
        let mut a = [0; 16];
        a.copy_from_slice(&h[from..from + 16]);
        u128::from_ne_bytes(a)
    };
    (at(8), at(24))
}
