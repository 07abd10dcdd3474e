//! The forwarder's place in its networks, and whether a flow fits it.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{PortConfig, RouteConfig};
use crate::api::{FlowSpec, Proto, rate};
use crate::io::PortIndex;

/// Longest lease in seconds, ten years: times stay far from overflow.
pub const MAX_LEASE: u64 = 315_360_000;

/// Ports and routes: what decides where an address is.
#[derive(Debug, Clone, Copy)]
pub struct Network<'a> {
    /// Ports; a [`PortIndex`] points here.
    pub ports: &'a [PortConfig],
    /// Routes.
    pub routes: &'a [RouteConfig],
}

/// Where a packet goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// Port it leaves by.
    pub port: PortIndex,
    /// Neighbor it goes to; the destination itself when that is on-link.
    pub address: IpAddr,
}

impl Network<'_> {
    fn indexed(&self) -> impl Iterator<Item = (PortIndex, &PortConfig)> {
        (0..).zip(self.ports)
    }

    /// Port that has this address as its own.
    pub fn owner(&self, address: IpAddr) -> Option<PortIndex> {
        self.indexed().find(|(_, p)| p.addresses.iter().any(|own| own.addr() == address)).map(|(i, _)| i)
    }

    /// Next hop to a destination by the longest prefix; of equal ones a connected prefix comes before a route and a route
    /// before a gateway, and the first in the file wins. None when nothing leads there.
    pub fn next_hop(&self, destination: IpAddr) -> Option<NextHop> {
        // Loops over references: every new connection asks twice, and iterators that carry addresses cost it a quarter.
        let mut best: Option<(u8, PortIndex, &IpAddr)> = None;
        let mut offer = |length, port, address| {
            if best.is_none_or(|(longest, ..)| length > longest) {
                best = Some((length, port, address));
            }
        };
        for (port, p) in self.indexed() {
            for own in p.addresses.iter().filter(|own| own.contains(&destination)) {
                offer(own.prefix_len(), port, &destination);
            }
        }
        for r in self.routes.iter().filter(|r| r.prefix.contains(&destination)) {
            offer(r.prefix.prefix_len(), r.port, &r.via);
        }
        for (port, p) in self.indexed() {
            for gateway in p.gateway.iter().filter(|g| g.is_ipv4() == destination.is_ipv4()) {
                offer(0, port, gateway);
            }
        }
        best.map(|(_, port, address)| NextHop { port, address: *address })
    }

    /// Is `address` a neighbor on the link of `port`? IPv6 link-local ones are wherever IPv6 is.
    pub fn on_link(&self, port: PortIndex, address: IpAddr) -> bool {
        let link_local = matches!(address, IpAddr::V6(a) if a.is_unicast_link_local());
        self.ports.get(usize::from(port)).is_some_and(|p| {
            p.addresses.iter().any(|own| own.contains(&address) || (link_local && own.addr().is_ipv6()))
        })
    }

    /// The connected prefix of which `address` is the network or broadcast address.
    fn edge_of(&self, address: IpAddr) -> Option<IpNet> {
        self.ports.iter().flat_map(|p| &p.addresses).copied().find(|net| is_edge(*net, address))
    }
}

/// Is `address` the network address of `net`, or its broadcast address? Prefixes of one or two addresses have neither
/// (RFC 3021, RFC 6164); an IPv6 prefix has no broadcast, and its first address is the routers' anycast (RFC 4291 2.6.1).
pub(crate) fn is_edge(net: IpNet, address: IpAddr) -> bool {
    match net {
        IpNet::V4(net) => net.prefix_len() < 31 && (address == net.network() || address == net.broadcast()),
        IpNet::V6(net) => net.prefix_len() < 127 && address == net.network(),
    }
}

/// What keeps an address from naming one host on a network; none when nothing does.
pub(super) fn not_a_host(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("is the unspecified address");
    }
    if address.is_loopback() {
        return Some("is a loopback address");
    }
    if address.is_multicast() {
        return Some("is a multicast address");
    }
    match address {
        IpAddr::V4(a) if a.is_broadcast() => Some("is the broadcast address"),
        IpAddr::V4(a) if a.octets()[0] == 0 || a.octets()[0] >= 240 => Some("is a reserved address"),
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => {
            Some("is an IPv4 address in IPv6 form; write it as IPv4")
        }
        _ => None,
    }
}

/// Why a flow cannot be installed here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum FlowError {
    /// Empty, too long, or other characters.
    #[error("{name:?} is no flow name; use 1 to 64 characters of A-Za-z0-9._:@-")]
    Name { name: String },
    /// Nobody may use the flow.
    #[error("no source is allowed; list the prefixes that may open connections, such as \"10.1.0.0/16\"")]
    NoSource,
    /// Bits behind the prefix length.
    #[error("{prefix} has host bits set; write {} for the network or {} for the host",
            .prefix.trunc(), IpNet::from(.prefix.addr()))]
    HostBits { prefix: IpNet },
    /// IPv4 source on an IPv6 listen address, or the reverse.
    #[error(
        "{prefix} and the listen address {listen} are of different families; list prefixes of the listen address's"
    )]
    SourceFamily { prefix: IpNet, listen: SocketAddr },
    /// Zero connections.
    #[error("0 lets nobody connect; give at least 1, or leave it out for no limit")]
    NoConnections,
    /// Out of range.
    #[error("{seconds} s is no lease; give 1 s to 10 years, or leave it out for no lease")]
    Lease { seconds: u64 },
    /// Out of range.
    #[error("{mbits} Mbit/s is no rate; give 1 Mbit/s to 1 Tbit/s, or leave it out for no limit")]
    Rate { mbits: u64 },
    /// Port zero.
    #[error("{endpoint} has port 0; give the port, 1 to 65535")]
    PortZero { field: &'static str, endpoint: SocketAddr },
    /// Multicast, loopback and the like.
    #[error("{endpoint} {why}; give the address of one host")]
    NotAHost { field: &'static str, endpoint: SocketAddr, why: &'static str },
    /// The listen address is on no port.
    #[error("{listen} is not an address of this forwarder; use one of {owned}")]
    NotOurs { listen: SocketAddr, owned: String },
    /// A segment size for datagrams.
    #[error("segments are TCP's, and the flow is UDP; leave it out")]
    MssWithoutTcp,
    /// The relay would send to itself.
    #[error("{target} is an address of this forwarder itself; give the host that the stream goes to")]
    TargetOwn { target: SocketAddr },
    /// The target cannot be a host.
    #[error("{target} is the network or broadcast address of {prefix}; give the address of one host")]
    TargetEdge { target: SocketAddr, prefix: IpNet },
    /// Link-local targets are on no particular link.
    #[error("{target} is link-local and so on no particular port; give an address with wider scope")]
    TargetLinkLocal { target: SocketAddr },
    /// Neither connected prefix nor route nor gateway.
    #[error("nothing leads to {target}: no port's prefix, route or gateway; add a [[route]] or a gateway")]
    Unroutable { target: SocketAddr },
}

impl FlowError {
    /// Field of the flow that is wrong.
    pub fn field(&self) -> &'static str {
        match self {
            FlowError::Name { .. } => "name",
            FlowError::NoSource | FlowError::HostBits { .. } | FlowError::SourceFamily { .. } => "from",
            FlowError::NoConnections => "max_conns",
            FlowError::Lease { .. } => "lease",
            FlowError::Rate { .. } => "rate",
            FlowError::PortZero { field, .. } | FlowError::NotAHost { field, .. } => field,
            FlowError::NotOurs { .. } => "listen",
            FlowError::MssWithoutTcp => "mss_clamp",
            FlowError::TargetOwn { .. }
            | FlowError::TargetEdge { .. }
            | FlowError::TargetLinkLocal { .. }
            | FlowError::Unroutable { .. } => "target",
        }
    }
}

/// Can this flow be installed in this network? Whether another flow already has its name or listen address is not asked.
///
/// # Errors
/// The first defect found.
pub fn validate_flow(network: &Network<'_>, flow: &FlowSpec) -> Result<(), FlowError> {
    let mut first = None;
    check_fields(flow, &mut |e| _ = first.get_or_insert(e));
    check_network(network, flow, &mut |e| _ = first.get_or_insert(e));
    first.map_or(Ok(()), Err)
}

/// Names may stand in file names, metrics and log lines as they are.
pub(super) fn is_name(name: &str, most: usize, punctuation: &[u8]) -> bool {
    (1..=most).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || punctuation.contains(&b))
}

/// What can be said of a flow without the network.
pub(super) fn check_fields(flow: &FlowSpec, report: &mut dyn FnMut(FlowError)) {
    if !is_name(&flow.name, 64, b"._:@-") {
        report(FlowError::Name { name: flow.name.clone() });
    }
    if flow.from.is_empty() {
        report(FlowError::NoSource);
    }
    for &prefix in &flow.from {
        if prefix.addr() != prefix.network() {
            report(FlowError::HostBits { prefix });
        }
        if prefix.addr().is_ipv4() != flow.listen.is_ipv4() {
            report(FlowError::SourceFamily { prefix, listen: flow.listen });
        }
    }
    if flow.max_conns == Some(0) {
        report(FlowError::NoConnections);
    }
    if let Some(seconds) = flow.lease.filter(|s| !(1..=MAX_LEASE).contains(s)) {
        report(FlowError::Lease { seconds });
    }
    if let Some(mbits) = flow.rate.filter(|mbits| !rate::RANGE.contains(mbits)) {
        report(FlowError::Rate { mbits });
    }
    for (field, endpoint) in [("listen", flow.listen), ("target", flow.target)] {
        if endpoint.port() == 0 {
            report(FlowError::PortZero { field, endpoint });
        }
        if let Some(why) = not_a_host(endpoint.ip()) {
            report(FlowError::NotAHost { field, endpoint, why });
        }
    }
    if flow.mss_clamp.is_some() && flow.proto != Proto::Tcp {
        report(FlowError::MssWithoutTcp);
    }
}

/// What depends on ports and routes. Addresses that [`check_fields`] refuses are not looked at again.
pub(super) fn check_network(network: &Network<'_>, flow: &FlowSpec, report: &mut dyn FnMut(FlowError)) {
    let (listen, target) = (flow.listen, flow.target);
    if not_a_host(listen.ip()).is_none() && network.owner(listen.ip()).is_none() {
        let owned: Vec<_> =
            network.ports.iter().flat_map(|p| &p.addresses).map(|own| own.addr().to_string()).collect();
        report(FlowError::NotOurs { listen, owned: owned.join(", ") });
    }
    if not_a_host(target.ip()).is_some() {
        return;
    }
    if network.owner(target.ip()).is_some() {
        report(FlowError::TargetOwn { target });
    } else if let Some(prefix) = network.edge_of(target.ip()) {
        report(FlowError::TargetEdge { target, prefix: prefix.trunc() });
    } else if matches!(target.ip(), IpAddr::V6(a) if a.is_unicast_link_local()) {
        report(FlowError::TargetLinkLocal { target });
    } else if network.next_hop(target.ip()).is_none() {
        report(FlowError::Unroutable { target });
    }
}
