//! The key of a connection's direction, as the fast path reads it out of a packet.
//!
//! All words are as they lie in the packet (network order, read with `from_ne_bytes`): they are compared, hashed and stored,
//! never counted with.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::api::Proto;
use crate::io::PortIndex;
use crate::wire::{PROTO_TCP, PROTO_UDP};

/// Marks IPv6 in a [`Key`]'s kind.
pub const KIND_V6: u8 = 0x80;

/// Addresses, as they lie in the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addrs {
    /// IPv4 source in the low half, destination in the high half.
    V4(u64),
    /// IPv6 source and destination.
    V6(u128, u128),
}

/// What a table entry is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Source and destination address.
    pub addrs: Addrs,
    /// Source port (bits 0-15), destination port (16-31), kind (32-39: protocol, `KIND_V6`), port of arrival (40-47).
    pub rest: u64,
}

/// Builds [`Key::rest`] from the first four bytes of the transport header.
#[inline(always)]
pub fn rest(ports: u32, kind: u8, port: PortIndex) -> u64 {
    u64::from(ports) | u64::from(kind) << 32 | u64::from(port) << 40
}

/// A packet's 5-tuple and its port of arrival, in the standard library's types. For the slow path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Port it arrived at.
    pub port: PortIndex,
    /// TCP or UDP.
    pub proto: Proto,
    /// Source.
    pub src: SocketAddr,
    /// Destination; of the source's family.
    pub dst: SocketAddr,
}

/// The protocol number in IP headers.
pub fn number(proto: Proto) -> u8 {
    match proto {
        Proto::Tcp => PROTO_TCP,
        Proto::Udp => PROTO_UDP,
    }
}

/// An IPv4 address as a packet's word.
pub fn word4(a: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(a.octets())
}

/// An IPv6 address as a packet's word.
pub fn word16(a: Ipv6Addr) -> u128 {
    u128::from_ne_bytes(a.octets())
}

/// The reverse of [`word4`].
pub fn addr4(w: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(w.to_ne_bytes()))
}

/// The reverse of [`word16`].
pub fn addr16(w: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(w.to_ne_bytes()))
}

/// A port number as a packet's word.
pub fn word2(port: u16) -> u16 {
    port.to_be()
}

impl Tuple {
    /// The key the fast path would read; none when the families differ.
    pub fn key(&self) -> Option<Key> {
        let (addrs, family) = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => (Addrs::V4(u64::from(word4(s)) | u64::from(word4(d)) << 32), 0),
            (IpAddr::V6(s), IpAddr::V6(d)) => (Addrs::V6(word16(s), word16(d)), KIND_V6),
            _ => return None,
        };
        let ports = u32::from(word2(self.src.port())) | u32::from(word2(self.dst.port())) << 16;
        Some(Key { addrs, rest: rest(ports, number(self.proto) | family, self.port) })
    }
}
