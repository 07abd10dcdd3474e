//! Who may open a connection: the checks in their order, shared by the worker that decides and by `s2ctl explain`.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::sync::Arc;

use super::DropReason;
use crate::api::FlowState;
use crate::flow::{Flow, FlowSet, Tuple};
use crate::io::PortIndex;
use crate::net::Network;

/// A connection that may be opened, as far as flows and routes decide; limits and tables come after.
#[derive(Debug)]
pub struct Admission<'a> {
    /// The flow it belongs to.
    pub flow: &'a Arc<Flow>,
    /// Port towards the target.
    pub out_port: PortIndex,
    /// Next hop towards the target.
    pub to_target: IpAddr,
    /// Next hop back to the client, on the port the packet came by.
    pub to_client: IpAddr,
}

/// A refusal, and the flow that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: DropReason,
    /// Slot of the flow that listens there, when one does.
    pub flow: Option<u32>,
}

/// Are these addresses that a packet to this gateway may have? With `hairpin` the destination may be an address of another port.
pub fn check_addresses(
    net: &Network,
    port: PortIndex,
    src: IpAddr,
    dst: IpAddr,
    hairpin: bool,
) -> Result<(), DropReason> {
    if src == dst {
        return Err(DropReason::Land);
    }
    let group = |address| match address {
        IpAddr::V4(a) => a.is_multicast() || a.is_broadcast() || net.is_subnet_broadcast(port, a),
        IpAddr::V6(a) => a.is_multicast(),
    };
    if group(src) {
        return Err(DropReason::MulticastSource);
    }
    let martian = match src {
        IpAddr::V4(a) => a.octets()[0] == 0 || a.octets()[0] >= 240 || a.is_loopback() || a.is_link_local(),
        IpAddr::V6(a) => a.is_loopback() || a.is_unspecified() || a.to_ipv4_mapped().is_some(),
    };
    if martian {
        return Err(DropReason::MartianSource);
    }
    if net.owner(src).is_some() {
        return Err(DropReason::Looped);
    }
    if group(dst) {
        return Err(DropReason::MulticastDestination);
    }
    if !(net.owns(port, dst) || hairpin && net.owner(dst).is_some()) {
        return Err(DropReason::NotOurAddress);
    }
    Ok(())
}

/// Is this a tuple that a connection may have?
pub fn check_tuple(tuple: &Tuple) -> Result<(), DropReason> {
    if tuple.src.port() == 0 || tuple.dst.port() == 0 {
        return Err(DropReason::PortZero);
    }
    // A link-local source has no meaning on the other side (RFC 4291 section 2.5.6).
    match tuple.src.ip() {
        IpAddr::V6(a) if a.is_unicast_link_local() => Err(DropReason::MartianSource),
        _ => Ok(()),
    }
}

/// Whether a packet with this tuple may open a connection. `opens` is false for a TCP segment that is not a first SYN.
pub fn check<'a>(
    net: &Network,
    flows: &'a FlowSet,
    tuple: &Tuple,
    opens: bool,
) -> Result<Admission<'a>, Refusal> {
    let refuse = |reason, flow| Err(Refusal { reason, flow });
    let elsewhere = !net.owns(tuple.port, tuple.dst.ip());
    let Some(flow) = flows.listening(tuple.proto, tuple.dst).filter(|f| f.spec.hairpin || !elsewhere) else {
        return refuse(if elsewhere { DropReason::NotOurAddress } else { DropReason::NoFlow }, None);
    };
    let slot = Some(flow.slot);
    if !flow.allows(tuple.src.ip()) {
        return refuse(DropReason::SourceDenied, slot);
    }
    // Mid-stream segments admit nothing: the connection they belong to has no mapping here.
    if !opens {
        return refuse(DropReason::TcpNoConnection, None);
    }
    if flow.state == FlowState::Draining {
        return refuse(DropReason::FlowDraining, slot);
    }
    let Some((out_port, to_target)) = net.route(flow.spec.target.ip()) else {
        return refuse(DropReason::NoRoute, slot);
    };
    match net.route(tuple.src.ip()) {
        Some((port, to_client)) if port == tuple.port => {
            Ok(Admission { flow, out_port, to_target, to_client })
        }
        Some(_) => refuse(DropReason::ReversePath, slot),
        None => refuse(DropReason::NoRoute, slot),
    }
}
