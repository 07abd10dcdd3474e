//! Makes a connection's rewrite: the checksum deltas between the header the gateway receives and the one it sends.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use bytemuck::{Pod, Zeroable};

use crate::flow::table::Endpoints;
use crate::wire::Delta;

/// Checksum deltas of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Zeroable, Pod)]
#[repr(C)]
pub struct Deltas {
    /// For the transport checksum: addresses of the pseudo header, and ports. The pseudo headers of IPv4 and IPv6 differ in
    /// nothing else (RFC 7915 section 4.5).
    pub l4: Delta,
    /// For the IPv4 header checksum: addresses, and the TTL, which becomes one less. Of no use where a packet
    /// leaves as IPv6, which has no such checksum, or came as it.
    pub ip: Delta,
}

/// The deltas of a connection towards the target, where client becomes source and listen becomes target, and towards the client.
pub fn deltas(e: &Endpoints) -> [Deltas; 2] {
    let there = [(e.client, e.source), (e.listen, e.target)];
    let back = there.map(|(old, new)| (new, old));
    [there, back].map(|changes| {
        let ip = changes.iter().fold(Delta::NONE, |delta, (old, new)| replace_address(delta, *old, *new));
        let l4 = changes.iter().fold(ip, |delta, (old, new)| {
            delta.replace(&old.port().to_be_bytes(), &new.port().to_be_bytes())
        });
        Deltas { l4, ip: ip.and(Delta::TTL_DECREMENT) }
    })
}

fn replace_address(delta: Delta, old: SocketAddr, new: SocketAddr) -> Delta {
    match (old.ip(), new.ip()) {
        (IpAddr::V4(old), IpAddr::V4(new)) => delta.replace(&old.octets(), &new.octets()),
        (IpAddr::V6(old), IpAddr::V6(new)) => delta.replace(&old.octets(), &new.octets()),
        (IpAddr::V4(old), IpAddr::V6(new)) => delta.replace(&old.octets(), &new.octets()),
        (IpAddr::V6(old), IpAddr::V4(new)) => delta.replace(&old.octets(), &new.octets()),
    }
}
