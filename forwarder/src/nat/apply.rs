//! Rewrites a packet in place: addresses, ports, TTL or hop limit, and both checksums by their deltas (RFC 1624).
//!
//! The payload is neither read nor written. The parser has checked every length; the functions here still cannot panic:
//! they return false when a header is not all there.
#![forbid(unsafe_code)]

use super::plan::Deltas;
use crate::flow::Direction;
use crate::flow::table::NewHeader4;
use crate::wire::{Delta, PROTO_TCP, PROTO_UDP, ipv4, ipv6, tcp, udp};

/// Updates the transport checksum at offset `at` of `h`.
#[inline(always)]
fn transport(h: &mut [u8], at: usize, delta: Delta, is_udp: bool) {
    let old = u16::from_ne_bytes([h[at], h[at + 1]]);
    let new = if is_udp { delta.apply_udp(old) } else { delta.apply(old) };
    h[at..at + 2].copy_from_slice(&new.to_ne_bytes());
}

/// Rewrites an IPv4 packet without options. `packet` begins with its IP header.
#[inline(always)]
pub fn ipv4(packet: &mut [u8], direction: Direction, new: NewHeader4, deltas: Deltas) -> bool {
    let Some(h) = packet.first_chunk_mut::<{ ipv4::HEADER + udp::HEADER }>() else { return false };
    let back = direction == Direction::ToClient;
    let checksum = deltas.ip.inverse_if(back).apply_and_ttl(u16::from_ne_bytes([h[10], h[11]]));
    h[8] = h[8].wrapping_sub(1);
    h[10..12].copy_from_slice(&checksum.to_ne_bytes());
    h[12..20].copy_from_slice(&new.addrs.to_ne_bytes());
    h[20..24].copy_from_slice(&new.ports.to_ne_bytes());
    let l4 = deltas.l4.inverse_if(back);
    if h[9] == PROTO_TCP {
        let Some(h) = packet.first_chunk_mut::<{ ipv4::HEADER + tcp::HEADER }>() else { return false };
        transport(h, ipv4::HEADER + tcp::CHECKSUM, l4, false);
    } else {
        transport(h, ipv4::HEADER + udp::CHECKSUM, l4, true);
    }
    true
}

/// Rewrites an IPv4 packet whose header is `header_len` bytes long: the slow path's, where there may be options.
pub fn ipv4_with_options(
    packet: &mut [u8],
    header_len: usize,
    direction: Direction,
    new: NewHeader4,
    deltas: Deltas,
) -> bool {
    let is_udp = packet.get(9) == Some(&PROTO_UDP);
    let at = header_len + if is_udp { udp::CHECKSUM } else { tcp::CHECKSUM };
    if header_len < ipv4::HEADER || packet.len() < at + 2 {
        return false;
    }
    let back = direction == Direction::ToClient;
    let checksum = deltas.ip.inverse_if(back).apply_and_ttl(u16::from_ne_bytes([packet[10], packet[11]]));
    packet[8] = packet[8].wrapping_sub(1);
    packet[10..12].copy_from_slice(&checksum.to_ne_bytes());
    packet[12..20].copy_from_slice(&new.addrs.to_ne_bytes());
    packet[header_len..header_len + 4].copy_from_slice(&new.ports.to_ne_bytes());
    transport(packet, at, deltas.l4.inverse_if(back), is_udp);
    true
}

/// Rewrites an IPv6 packet without extension headers. `packet` begins with its IP header.
#[inline(always)]
pub fn ipv6(
    packet: &mut [u8],
    direction: Direction,
    (src, dst): (u128, u128),
    ports: u32,
    deltas: Deltas,
) -> bool {
    let Some(h) = packet.first_chunk_mut::<{ ipv6::HEADER + udp::HEADER }>() else { return false };
    h[7] = h[7].wrapping_sub(1);
    h[8..24].copy_from_slice(&src.to_ne_bytes());
    h[24..40].copy_from_slice(&dst.to_ne_bytes());
    h[40..44].copy_from_slice(&ports.to_ne_bytes());
    let l4 = deltas.l4.inverse_if(direction == Direction::ToClient);
    if h[6] == PROTO_TCP {
        let Some(h) = packet.first_chunk_mut::<{ ipv6::HEADER + tcp::HEADER }>() else { return false };
        transport(h, ipv6::HEADER + tcp::CHECKSUM, l4, false);
    } else {
        transport(h, ipv6::HEADER + udp::CHECKSUM, l4, true);
    }
    true
}
