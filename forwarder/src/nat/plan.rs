//! Makes a connection's rewrite: the checksum deltas between the header the gateway receives and the one it sends.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use crate::flow::table::Endpoints;
use crate::wire::Delta;

/// Checksum deltas towards the target. Towards the client their inverses apply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deltas {
    /// For the transport checksum: addresses of the pseudo header, and ports.
    pub l4: Delta,
    /// For the IPv4 header checksum: addresses. None for IPv6, which has no such checksum.
    pub ip: Delta,
}

/// The deltas of a connection: client becomes source, listen becomes target.
pub fn deltas(e: &Endpoints) -> Deltas {
    let changes = [(e.client, e.source), (e.listen, e.target)];
    let ip = changes.iter().fold(Delta::NONE, |delta, (old, new)| replace_address(delta, *old, *new));
    let l4 = changes
        .iter()
        .fold(ip, |delta, (old, new)| delta.replace(&old.port().to_be_bytes(), &new.port().to_be_bytes()));
    Deltas { l4, ip: if e.client.is_ipv4() { ip } else { Delta::NONE } }
}

fn replace_address(delta: Delta, old: SocketAddr, new: SocketAddr) -> Delta {
    match (old.ip(), new.ip()) {
        (IpAddr::V4(old), IpAddr::V4(new)) => delta.replace(&old.octets(), &new.octets()),
        (IpAddr::V6(old), IpAddr::V6(new)) => delta.replace(&old.octets(), &new.octets()),
        // One connection, one family (`ConnTable::insert` refuses others).
        _ => delta,
    }
}
