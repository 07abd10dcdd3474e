//! Rewrites a packet in place: addresses, ports, TTL or hop limit, and both checksums by their deltas (RFC 1624).
//!
//! The payload is neither read nor written. The parser has checked every length; the functions here still cannot panic:
//! they return false when a header is not all there.
#![forbid(unsafe_code)]

use super::plan::Deltas;
use crate::wire::{Delta, ipv4, ipv6, tcp, udp};

/// Updates a transport checksum.
#[inline(always)]
fn transport(sum: &mut [u8; 2], delta: Delta, is_udp: bool) {
    let old = u16::from_ne_bytes(*sum);
    let new = if is_udp { delta.apply_udp(old) } else { delta.apply(old) };
    *sum = new.to_ne_bytes();
}

/// Rewrites the IPv4 packet without options that begins at `L3` of a frame; `new` are addresses and ports as
/// [`crate::flow::table::Half`] has them.
#[inline(always)]
pub fn ipv4<const L3: usize>(frame: &mut [u8], new: (u64, u32), is_tcp: bool, deltas: Deltas) -> bool {
    let at = L3 + ipv4::HEADER + if is_tcp { tcp::CHECKSUM } else { udp::CHECKSUM };
    // All that is rewritten lies before the end of the transport checksum.
    let Some(frame) = frame.get_mut(..at + 2) else { return false };
    let Some((head, sum)) = frame.split_last_chunk_mut::<2>() else { return false };
    let Some(h) = head.get_mut(L3..).and_then(|h| h.first_chunk_mut::<24>()) else { return false };
    transport(sum, deltas.l4, !is_tcp);
    let checksum = deltas.ip.apply(u16::from_ne_bytes([h[10], h[11]]));
    h[8] = h[8].wrapping_sub(1);
    h[10..12].copy_from_slice(&checksum.to_ne_bytes());
    h[12..20].copy_from_slice(&new.0.to_ne_bytes());
    h[20..24].copy_from_slice(&new.1.to_ne_bytes());
    true
}

/// Rewrites an IPv4 header by itself: TTL, addresses, checksum, and the identification when one is given. The slow path's, where
/// there may be options or no transport header behind.
pub fn ipv4_header(packet: &mut [u8], addrs: u64, delta: Delta, id: Option<u16>) -> bool {
    let Some(h) = packet.first_chunk_mut::<{ ipv4::HEADER }>() else { return false };
    let mut delta = delta;
    if let Some(id) = id {
        delta = delta.replace(&h[4..6], &id.to_be_bytes());
        h[4..6].copy_from_slice(&id.to_be_bytes());
    }
    let checksum = delta.apply(u16::from_ne_bytes([h[10], h[11]]));
    h[8] = h[8].wrapping_sub(1);
    h[10..12].copy_from_slice(&checksum.to_ne_bytes());
    h[12..20].copy_from_slice(&addrs.to_ne_bytes());
    true
}

/// Rewrites an IPv6 header by itself: hop limit and addresses.
pub fn ipv6_header(packet: &mut [u8], (src, dst): (u128, u128)) -> bool {
    let Some(h) = packet.first_chunk_mut::<{ ipv6::HEADER }>() else { return false };
    h[7] = h[7].wrapping_sub(1);
    h[8..24].copy_from_slice(&src.to_ne_bytes());
    h[24..40].copy_from_slice(&dst.to_ne_bytes());
    true
}

/// Rewrites a transport header by itself: ports, as [`crate::flow::table::Half`] has them, and checksum.
pub fn transport_header(segment: &mut [u8], ports: u32, is_udp: bool, delta: Delta) -> bool {
    let at = if is_udp { udp::CHECKSUM } else { tcp::CHECKSUM };
    let Some((head, sum)) = segment.get_mut(..at + 2).and_then(|s| s.split_last_chunk_mut::<2>()) else {
        return false;
    };
    transport(sum, delta, is_udp);
    if let Some(place) = head.first_chunk_mut() {
        *place = ports.to_ne_bytes();
    }
    true
}

/// Rewrites the IPv6 packet without extension headers that begins at `L3` of a frame.
#[inline(always)]
pub fn ipv6<const L3: usize>(
    frame: &mut [u8],
    ((src, dst), ports): ((u128, u128), u32),
    is_tcp: bool,
    deltas: Deltas,
) -> bool {
    let at = L3 + ipv6::HEADER + if is_tcp { tcp::CHECKSUM } else { udp::CHECKSUM };
    let Some(frame) = frame.get_mut(..at + 2) else { return false };
    let Some((head, sum)) = frame.split_last_chunk_mut::<2>() else { return false };
    let Some(h) = head.get_mut(L3..).and_then(|h| h.first_chunk_mut::<44>()) else { return false };
    transport(sum, deltas.l4, !is_tcp);
    h[7] = h[7].wrapping_sub(1);
    h[8..24].copy_from_slice(&src.to_ne_bytes());
    h[24..40].copy_from_slice(&dst.to_ne_bytes());
    h[40..44].copy_from_slice(&ports.to_ne_bytes());
    true
}
