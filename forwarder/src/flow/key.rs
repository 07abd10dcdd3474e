//! The key of a connection's direction, as the fast path reads it out of a packet.
//!
//! All words are as they lie in the packet (network order, read with `from_ne_bytes`): they are compared, hashed and stored,
//! never counted with.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::api::Proto;
use crate::io::PortIndex;

/// Bits of a [`Key`]'s tag.
pub mod tag {
    /// IPv6.
    pub const V6: u8 = 0x80;
    /// TCP; UDP without it.
    pub const TCP: u8 = 0x40;
    /// Set in every tag, so that 0 is none.
    pub const KEY: u8 = 0x20;
}

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
    /// Source port (low half) and destination port: the first four bytes of the transport header.
    pub ports: u32,
    /// Family and protocol, [`tag`].
    pub tag: u8,
    /// Port of arrival.
    pub port: PortIndex,
}

impl Addrs {
    /// The words of two addresses; none when the families differ.
    pub fn of(src: IpAddr, dst: IpAddr) -> Option<Self> {
        match (src, dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                Some(Addrs::V4(u64::from(word4(s)) | u64::from(word4(d)) << 32))
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => Some(Addrs::V6(word16(s), word16(d))),
            _ => None,
        }
    }

    /// Source and destination.
    pub fn ends(&self) -> (IpAddr, IpAddr) {
        match *self {
            Addrs::V4(words) => (addr4(words as u32), addr4((words >> 32) as u32)),
            Addrs::V6(src, dst) => (addr16(src), addr16(dst)),
        }
    }
}

impl Key {
    /// What the hash takes beside the addresses.
    #[inline(always)]
    pub fn rest(&self) -> u64 {
        rest(self.ports, self.tag, self.port)
    }

    /// Is it IPv6?
    pub fn is_v6(&self) -> bool {
        self.tag & tag::V6 != 0
    }
}

/// [`Key::rest`] of its parts.
#[inline(always)]
pub fn rest(ports: u32, tag: u8, port: PortIndex) -> u64 {
    u64::from(ports) | u64::from(tag) << 32 | u64::from(port) << 40
}

/// The tag in a word that [`rest`] made.
#[inline(always)]
pub fn tag_of(rest: u64) -> u8 {
    (rest >> 32) as u8
}

/// The port of arrival in a word that [`rest`] made.
#[inline(always)]
pub fn port_of(rest: u64) -> PortIndex {
    (rest >> 40) as u8
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
        let addrs = Addrs::of(self.src.ip(), self.dst.ip())?;
        let family = if self.src.is_ipv6() { tag::V6 } else { 0 };
        let protocol = match self.proto {
            Proto::Tcp => tag::TCP,
            Proto::Udp => 0,
        };
        let ports = u32::from(word2(self.src.port())) | u32::from(word2(self.dst.port())) << 16;
        Some(Key { addrs, ports, tag: tag::KEY | family | protocol, port: self.port })
    }
}
