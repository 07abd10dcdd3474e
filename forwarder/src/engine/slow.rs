//! The slow path: every packet the fast path did not finish. It finds out what the packet is and does what is right: answers
//! ARP, ND and echo, admits a connection, has a fragment or an ICMP error follow one, relays a packet with options or extension
//! headers, or drops it under the reason's own name.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use super::admit::{self, Admission};
use super::peers::News;
use super::pieces::{self, Part, Place};
use super::relay::Plain;
use super::{DropReason, Edge, Engine, IP4_HEADER, PENDING, PENDING_EACH, Pending};
use crate::api::Proto;
use crate::flow::table::{Endpoints, seen};
use crate::flow::{Direction, Found, Tuple};
use crate::io::{PacketBuf, PacketIo, PortIndex};
use crate::nat::error::OwnError;
use crate::nat::icmp::is_error;
use crate::neighbor::{self, AdjIndex, Announcement, Heard, PortL2, Solicit, Wanted};
use crate::wire::eth::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame};
use crate::wire::icmpv6::{self, Icmpv6};
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::{Ipv6, is_extension};
use crate::wire::tcp::{self, Tcp};
use crate::wire::udp::Udp;
use crate::wire::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, WireError, icmp};

/// Addresses searched for a port for one connection at most, so that many full ones hold up no other packet for long. The next
/// connection goes on where this one ended.
const SEARCHES: usize = 4;
/// TTL and hop limit of our own packets.
pub(super) const TTL: u8 = 64;

/// What a packet turned out to be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Arp,
    NeighborDiscovery,
    /// An echo request to one of our addresses; the IP header's length.
    Echo4(usize),
    Echo6,
    /// An error to one of our addresses that may be passed on; where its message begins in the IP packet.
    Error(usize),
    /// A fragment of TCP or UDP to one of our addresses.
    Part(Part),
    /// TCP or UDP to one of our addresses.
    Transport(Transport),
    /// The same at the end of its way.
    Expired(Transport),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Transport {
    pub(super) tuple: Tuple,
    /// Where the transport header begins in the IP packet.
    pub(super) l4: usize,
    pub(super) flags: u8,
}

impl Transport {
    /// A UDP datagram, or a TCP segment that is a first SYN.
    pub(super) fn opens(&self) -> bool {
        let first = tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN;
        self.tuple.proto == Proto::Udp || self.flags & first == tcp::SYN
    }
}

impl<B: PacketBuf> Engine<B> {
    /// Deals with one packet that came in at `port`.
    #[cold]
    pub(super) fn slow<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        packet: B,
    ) {
        let (frame, kind) = match self.classify(port, packet.head(), packet.frame_len()) {
            Ok(it) => it,
            Err(reason) => return self.drop(edge, port, packet, reason),
        };
        match kind {
            Kind::Arp | Kind::NeighborDiscovery => self.neighbor_packet(edge, port, &frame, kind, packet),
            Kind::Echo4(_) | Kind::Echo6 => self.echo(edge, port, &frame, kind, packet),
            Kind::Error(l4) => self.icmp_error(edge, port, (frame.l3, l4), packet),
            Kind::Part(part) => self.fragment(edge, port, frame.l3, &part, packet),
            Kind::Transport(transport) => self.transport(edge, port, &frame, &transport, packet),
            Kind::Expired(transport) => self.expired(edge, port, &transport, packet),
        }
    }

    /// What is it, and may it be here?
    fn classify(&self, port: PortIndex, head: &[u8], frame_len: usize) -> Result<(Frame, Kind), DropReason> {
        let frame = Frame::parse(head).map_err(|e| match e {
            WireError::StackedVlan => DropReason::VlanMismatch,
            _ => DropReason::EthTruncated,
        })?;
        let at = &self.net.ports[usize::from(port)];
        if frame.tags.vlans() != at.tags {
            return Err(DropReason::VlanMismatch);
        }
        if frame.dst != at.mac && !frame.dst.is_multicast() {
            return Err(DropReason::NotForUs);
        }
        let packet = head.get(frame.l3..).unwrap_or_default();
        let room = frame_len - frame.l3.min(frame_len);
        let kind = match frame.ethertype {
            ETHERTYPE_ARP => Kind::Arp,
            ETHERTYPE_IPV4 => self.classify4(port, &frame, packet, room)?,
            ETHERTYPE_IPV6 => self.classify6(port, &frame, packet, room)?,
            _ => return Err(DropReason::EthertypeUnknown),
        };
        Ok((frame, kind))
    }

    fn classify4(
        &self,
        port: PortIndex,
        frame: &Frame,
        packet: &[u8],
        room: usize,
    ) -> Result<Kind, DropReason> {
        let ip = Ipv4::parse(packet, room).map_err(ip_reason)?;
        if !ip.checksum_ok() {
            return Err(DropReason::IpBadChecksum);
        }
        let (src, dst) = (ip.src(), ip.dst());
        admit::check_addresses(&self.net, port, src.into(), dst.into(), self.flows.hairpin())?;
        if frame.dst.is_multicast() {
            return Err(DropReason::MulticastDestination);
        }
        check_options(packet.get(IP4_HEADER..ip.header_len()).unwrap_or_default())?;
        match ip.protocol() {
            PROTO_ICMP => {
                if ip.is_fragment() {
                    return Err(DropReason::IcmpOther);
                }
                let message = icmp::Icmp::parse(ip.payload()).map_err(|_| DropReason::IcmpMalformed)?;
                if ip.payload().len() < ip.payload_len() || !message.checksum_ok() {
                    return Err(DropReason::IcmpMalformed);
                }
                match (message.kind(), message.code()) {
                    (icmp::ECHO_REQUEST, 0) if self.net.owns(port, dst.into()) => {
                        Ok(Kind::Echo4(ip.header_len()))
                    }
                    (icmp::ECHO_REQUEST, 0) => Err(DropReason::NotOurAddress),
                    (kind, _) if is_error(false, kind) => Ok(Kind::Error(ip.header_len())),
                    _ => Err(DropReason::IcmpOther),
                }
            }
            PROTO_TCP | PROTO_UDP => {
                let upper = Upper {
                    protocol: ip.protocol(),
                    l4: ip.header_len(),
                    fragment: ip.is_fragment().then(|| ip.fragment_offset()),
                };
                let room = (ip.payload(), ip.payload_len());
                classify_transport(port, packet, &upper, room, ip.ttl(), (src.into(), dst.into()))
            }
            _ => Err(DropReason::ProtocolUnsupported),
        }
    }

    fn classify6(
        &self,
        port: PortIndex,
        frame: &Frame,
        packet: &[u8],
        room: usize,
    ) -> Result<Kind, DropReason> {
        let ip = Ipv6::parse(packet, room).map_err(ip_reason)?;
        let (src, dst) = (ip.src(), ip.dst());
        let discovery = ip.next_header() == PROTO_ICMPV6
            && matches!(ip.payload().first(), Some(&(icmpv6::SOLICITATION | icmpv6::ADVERTISEMENT)));
        if discovery {
            return Ok(Kind::NeighborDiscovery);
        }
        admit::check_addresses(&self.net, port, src.into(), dst.into(), self.flows.hairpin())?;
        if frame.dst.is_multicast() {
            return Err(DropReason::MulticastDestination);
        }
        let upper = ip.upper().map_err(|_| DropReason::Ipv6Extension)?;
        if upper.source_routed {
            return Err(DropReason::Ipv6Extension);
        }
        let fragment = upper.fragment.filter(|f| !f.is_atomic());
        // Of a later fragment more extension headers, cut apart, may be the protocol; the first one has told what follows them.
        let later = fragment.is_some_and(|f| f.offset > 0);
        match upper.protocol {
            PROTO_ICMPV6 => {
                if fragment.is_some() {
                    return Err(DropReason::IcmpOther);
                }
                if upper.offset != crate::wire::ipv6::HEADER {
                    return Err(DropReason::Ipv6Extension);
                }
                let message = Icmpv6::parse(ip.payload()).map_err(|_| DropReason::IcmpMalformed)?;
                if ip.payload().len() < ip.payload_len() || !message.checksum_ok(ip.pseudo()) {
                    return Err(DropReason::IcmpMalformed);
                }
                match (message.kind(), message.code()) {
                    (icmpv6::ECHO_REQUEST, 0) if self.net.owns(port, dst.into()) => Ok(Kind::Echo6),
                    (icmpv6::ECHO_REQUEST, 0) => Err(DropReason::NotOurAddress),
                    (kind, _) if is_error(true, kind) => Ok(Kind::Error(upper.offset)),
                    _ => Err(DropReason::IcmpOther),
                }
            }
            protocol if matches!(protocol, PROTO_TCP | PROTO_UDP) || later && is_extension(protocol) => {
                let before = upper.offset - crate::wire::ipv6::HEADER;
                let room =
                    (ip.payload().get(before..).unwrap_or_default(), ip.payload_len().saturating_sub(before));
                let upper = Upper {
                    protocol: upper.protocol,
                    l4: upper.offset,
                    fragment: fragment.map(|f| f.offset.into()),
                };
                classify_transport(port, packet, &upper, room, ip.hop_limit(), (src.into(), dst.into()))
            }
            _ => Err(DropReason::ProtocolUnsupported),
        }
    }

    /// A packet of a connection that the fast path would not take, of one that another worker owns, or of a new one.
    fn transport<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        frame: &Frame,
        t: &Transport,
        packet: B,
    ) {
        match self.connection(port, t) {
            Ok(Place::Here(found)) => {
                let plain = Plain { found, l3: frame.l3 as u8, l4: t.l4 as u16, flags: t.flags, piece: None };
                self.relay(edge, port, &plain, packet);
            }
            Ok(Place::Worker(other)) => self.hand_over(edge, other, port, packet),
            Err(reason) => self.drop(edge, port, packet, reason),
        }
    }

    /// A packet that may go no further. Who may use its flow is told (RFC 1812 section 5.3.1, RFC 4443 section 3.3); strangers hear
    /// nothing.
    fn expired<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        t: &Transport,
        packet: B,
    ) {
        let key = t.tuple.key();
        let known =
            key.as_ref().and_then(|key| self.table.find(key)).is_some_and(|f| self.still_allowed(f.conn()));
        if !known && let Some(other) = key.and_then(|key| self.other_home(port, &key)) {
            return self.hand_over(edge, other, port, packet);
        }
        if known || admit::check(&self.net, &self.flows, &t.tuple, t.opens()).is_ok() {
            self.tell_sender(edge, port, &packet, OwnError::TimeExceeded);
        }
        self.drop(edge, port, packet, DropReason::TtlExpired);
    }

    /// Opens a connection for its first packet.
    pub(super) fn admit(&mut self, t: &Transport) -> Result<Found, DropReason> {
        let key = t.tuple.key().ok_or(DropReason::NoFlow)?;
        let (plan, flow) = match admit::check(&self.net, &self.flows, &t.tuple, t.opens()) {
            Ok(Admission { flow, out_port, to_target, to_client }) => {
                ((out_port, to_target, to_client), flow.clone())
            }
            Err(refusal) => {
                let (hash, words) = self.table.hash(&key);
                self.refused.add(hash, words, self.flows.epoch(), refusal.reason, refusal.flow);
                if let Some(slot) = refusal.flow {
                    self.counters.flows[slot as usize].refused.add(1);
                }
                return Err(refusal.reason);
            }
        };
        let opened = self.open(t, plan, &flow);
        let counters = &self.counters.flows[flow.slot as usize];
        match opened {
            Ok(_) => counters.admitted.add(1),
            Err(_) => counters.refused.add(1),
        }
        opened.map(|n| Found::of(n, Direction::ToTarget))
    }

    fn open(
        &mut self,
        t: &Transport,
        (out_port, to_target, to_client): (PortIndex, IpAddr, IpAddr),
        flow: &crate::flow::Flow,
    ) -> Result<u32, DropReason> {
        let source = self.pick_source(&t.tuple, out_port, to_target, flow.spec.target)?;
        if !flow.shared.connections.take(flow.spec.max_conns.unwrap_or(u32::MAX)) {
            return Err(DropReason::FlowFull);
        }
        let opened = self.insert(t, out_port, to_target, to_client, source, flow);
        if opened.is_err() {
            flow.shared.connections.give();
        }
        opened
    }

    fn insert(
        &mut self,
        t: &Transport,
        out_port: PortIndex,
        to_target: IpAddr,
        to_client: IpAddr,
        source: SocketAddr,
        flow: &crate::flow::Flow,
    ) -> Result<u32, DropReason> {
        let hop_target =
            self.neighbors.acquire(out_port, to_target, self.now).ok_or(DropReason::NeighborTableFull)?;
        let Some(hop_client) = self.neighbors.acquire(t.tuple.port, to_client, self.now) else {
            self.neighbors.release(hop_target);
            return Err(DropReason::NeighborTableFull);
        };
        let endpoints = Endpoints {
            proto: t.tuple.proto,
            client: t.tuple.src,
            listen: t.tuple.dst,
            source,
            target: flow.spec.target,
            arrives: [t.tuple.port, out_port],
            retagged: self.ports_l2[usize::from(t.tuple.port)].tags.header_len()
                != self.ports_l2[usize::from(out_port)].tags.header_len(),
        };
        let Ok(n) = self.table.insert(&endpoints, flow, [hop_target, hop_client], self.now) else {
            self.neighbors.release(hop_target);
            self.neighbors.release(hop_client);
            return Err(DropReason::ConnTableFull);
        };
        if t.tuple.proto == Proto::Tcp {
            self.table.cold_mut(n).seen = seen::CLIENT_SYN;
        }
        let keys = self.table.keys(n);
        for key in &keys {
            self.pairs.add(self.peers.number(), key.port, &key.addrs);
        }
        // The target may have been refused at this source before it was the connection's; the client was admitted.
        let [_, by_target] = keys;
        let (hash, words) = self.table.hash(&by_target);
        self.refused.forget(hash, words);
        Ok(n)
    }

    /// An own address and an unused, unpredictable port towards a target. A client keeps its address as long as that has
    /// ports (RFC 4787 REQ-2, paired pooling); then it goes where all go whose address is full, until that is full as well.
    fn pick_source(
        &mut self,
        client: &Tuple,
        out_port: PortIndex,
        next_hop: IpAddr,
        target: SocketAddr,
    ) -> Result<SocketAddr, DropReason> {
        let Tuple { proto, src, .. } = *client;
        let steering = &self.steering[usize::from(out_port)];
        let addresses = || self.net.sources(out_port, next_hop);
        let count = addresses().count();
        if count == 0 {
            return Err(DropReason::NoRoute);
        }
        // The client's address alone chooses where to begin: not its port, and not the target. The hash is linear, which shows
        // in its remainders; a product hides it (Fibonacci hashing).
        let hash = steering.homes(SocketAddr::new(src.ip(), 0), src.ip()).label().wrapping_mul(0x9e37_79b1);
        let mut at = ((u64::from(hash) * count as u64) >> 32) as usize;
        let mut searches = SEARCHES;
        for n in 0..=count {
            if n > 0 {
                at = self.ports.spill % count;
            }
            let Some(address) = addresses().nth(at) else { break };
            let home = steering.homes(target, address);
            if !self.ports.known_full(&home, proto as u8, self.now) {
                let Some(left) = searches.checked_sub(1) else { break };
                searches = left;
                let (table, flows) = (&self.table, &self.flows);
                let free = |port: u16| {
                    let source = SocketAddr::new(address, port);
                    let back = Tuple { port: out_port, proto, src: target, dst: source };
                    back.key().is_some_and(|key| table.find(&key).is_none())
                        && flows.listening(proto, source).is_none()
                };
                if let Some(port) = self.ports.pick(&home, proto as u8, self.now, free) {
                    return Ok(SocketAddr::new(address, port));
                }
            }
            if n > 0 {
                self.ports.spill = at + 1;
            }
        }
        Err(DropReason::NoSourcePort)
    }

    /// Queues a packet until its next hop answers, and asks when nobody has.
    pub(super) fn await_neighbor<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        pending: Pending<B>,
    ) {
        match self.neighbors.wanted(pending.next_hop, self.now) {
            Wanted::Failed => {
                return self.drop(edge, pending.port, pending.packet, DropReason::NeighborFailed);
            }
            Wanted::Ready => return self.send_out(edge, pending),
            Wanted::Solicit(solicit) => self.solicit(edge, &solicit),
            Wanted::Wait => {}
        }
        let same = self.pending.iter().filter(|p| p.next_hop == pending.next_hop).count();
        if self.pending.len() >= PENDING || same >= PENDING_EACH {
            return self.drop(edge, pending.port, pending.packet, DropReason::NeighborQueueFull);
        }
        self.pending.push(pending);
    }

    /// Sends what waited for a next hop, in order.
    fn send_pending<IO: PacketIo<Buf = B>>(&mut self, edge: &mut Edge<'_, IO>, next_hop: AdjIndex) {
        let mut i = 0;
        while i < self.pending.len() {
            let Pending { conn, next_hop: to, .. } = self.pending[i];
            if to != next_hop {
                i += 1;
            } else if self.still_allowed(conn) {
                let pending = self.pending.remove(i);
                self.counters.waits.record(self.now.wrapping_sub(pending.since).into());
                self.send_out(edge, pending);
            } else {
                // Its flow went while it waited; it goes with its connection.
                self.remove(conn);
            }
        }
    }

    /// Asks for a next hop's MAC address: an ARP request or a neighbor solicitation of our own.
    pub(super) fn solicit<IO: PacketIo<Buf = B>>(&mut self, edge: &mut Edge<'_, IO>, solicit: &Solicit) {
        let at = &self.net.ports[usize::from(solicit.port)];
        let link_local = matches!(solicit.target, IpAddr::V6(a) if a.is_unicast_link_local());
        let source = match self.net.sources(solicit.port, solicit.target).next().filter(|_| !link_local) {
            Some(source) => source,
            None if solicit.target.is_ipv6() => IpAddr::V6(at.link_local),
            None => return,
        };
        self.originate(edge, solicit.port, Solicit::FRAME_MAX, |buf, l2| solicit.write(buf, l2, source));
    }

    /// Tells everybody on a link that we have an address: a gratuitous ARP or an unsolicited advertisement of our own.
    pub(super) fn announce<IO: PacketIo<Buf = B>>(&mut self, edge: &mut Edge<'_, IO>, own: &Announcement) {
        self.originate(edge, own.port, Announcement::FRAME_MAX, |buf, l2| own.write(buf, l2));
    }

    /// Sends a frame of our own, of at most `most` bytes, by `port`; `write` fills it and returns its length. What cannot be
    /// sent is left out.
    pub(super) fn originate<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        most: usize,
        write: impl FnOnce(&mut [u8], &PortL2) -> Result<usize, WireError>,
    ) {
        let Some(mut packet) = edge.io.alloc() else { return };
        if !packet.resize(most) {
            return;
        }
        let Ok(len) = write(packet.head_mut(), &self.ports_l2[usize::from(port)]) else { return };
        if packet.resize(len) && edge.send(&self.counters, port, len as u64, packet).is_ok() {
            self.counters.originated.add(1);
        }
    }

    /// ARP and neighbor discovery: answer for our own addresses, learn from the others.
    fn neighbor_packet<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        frame: &Frame,
        kind: Kind,
        mut packet: B,
    ) {
        let l2 = &self.ports_l2[usize::from(port)];
        let [local, ignored, malformed] = match kind {
            Kind::Arp => [DropReason::LocalArp, DropReason::ArpIgnored, DropReason::ArpMalformed],
            _ => [DropReason::LocalNd, DropReason::NdIgnored, DropReason::NdMalformed],
        };
        let outcome = match kind {
            Kind::Arp => neighbor::answer_arp(packet.head(), frame, l2),
            _ => {
                let ip = packet.head().get(frame.l3..).unwrap_or_default();
                Ipv6::parse(ip, packet.frame_len() - frame.l3)
                    .and_then(|ip| neighbor::answer_nd(&ip, frame, l2))
            }
        };
        let Ok(outcome) = outcome else { return self.drop(edge, port, packet, malformed) };
        let mut reason = if outcome.conflict.is_some() { DropReason::AddressConflict } else { ignored };
        if let Some(rival) = outcome.conflict
            && let Some(own) = self.own.contested(port, &rival, outcome.reply.is_some(), self.now)
        {
            self.announce(edge, &own);
        }
        // What is not on this port's link has no next hop here, whatever it says.
        if let Some(heard) = outcome.heard.filter(|h| self.net.on_link(port, h.address)) {
            reason = local;
            self.peers.tell(News { port, heard });
            self.learn(edge, port, &heard);
        }
        let reply = outcome.reply.as_deref();
        let sent = match (reply, reply.is_some_and(|r| packet.resize(r.len()))) {
            (Some(reply), true) => {
                packet.head_mut().get_mut(..reply.len()).map(|to| to.copy_from_slice(reply))
            }
            _ => None,
        };
        if sent.is_none() {
            return self.drop(edge, port, packet, reason);
        }
        self.send_by(edge, (port, port), packet);
    }

    /// Takes in a MAC address, and sends what waited for it.
    pub(super) fn learn<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        port: PortIndex,
        heard: &Heard,
    ) {
        let learned =
            self.neighbors.learn(port, heard.address, heard.mac, self.now, heard.source, heard.create);
        if let Some(learned) = learned.filter(|l| l.resolved_now) {
            self.send_pending(edge, learned.adj);
        }
    }
}

fn ip_reason(e: WireError) -> DropReason {
    match e {
        WireError::BadVersion => DropReason::IpBadVersion,
        WireError::BadHeaderLength => DropReason::IpBadHeaderLength,
        WireError::BadTotalLength => DropReason::IpBadLength,
        WireError::BadChecksum => DropReason::IpBadChecksum,
        _ => DropReason::IpTruncated,
    }
}

fn proto(number: u8) -> Proto {
    if number == PROTO_TCP { Proto::Tcp } else { Proto::Udp }
}

/// What follows an IP header and its extensions.
struct Upper {
    protocol: u8,
    /// Where it begins in the IP packet.
    l4: usize,
    /// Of a fragment, where its data belong in the datagram, in bytes.
    fragment: Option<usize>,
}

/// TCP or UDP: `packet` is the IP packet, `room` its payload behind `upper.l4`, as far as it lies here, and how long that is.
fn classify_transport(
    port: PortIndex,
    packet: &[u8],
    upper: &Upper,
    (payload, len): (&[u8], usize),
    ttl: u8,
    (src, dst): (IpAddr, IpAddr),
) -> Result<Kind, DropReason> {
    let whole = |t| pieces::part(port, packet, t).map(Kind::Part).ok_or(DropReason::FragmentMalformed);
    match upper.fragment {
        Some(offset) if !pieces::spares_header(upper.protocol, offset) => {
            return Err(DropReason::FragmentTiny);
        }
        Some(1..) if ttl <= 1 => return Err(DropReason::TtlExpired),
        Some(1..) => return whole(None),
        _ => {}
    }
    let (src_port, dst_port, flags) = match upper.fragment {
        // Its length is the whole datagram's.
        Some(_) => first_ports(upper.protocol, payload)?,
        None => ports_and_flags(upper.protocol, payload, len)?,
    };
    let (src, dst) = (SocketAddr::new(src, src_port), SocketAddr::new(dst, dst_port));
    let tuple = Tuple { port, proto: proto(upper.protocol), src, dst };
    let t = Transport { tuple, l4: upper.l4, flags };
    if ttl <= 1 {
        return Ok(Kind::Expired(t));
    }
    admit::check_tuple(&tuple)?;
    if src.is_ipv6() && upper.protocol == PROTO_UDP && payload.get(6..8) == Some(&[0, 0]) {
        return Err(DropReason::UdpNoChecksum);
    }
    if upper.fragment.is_some() { whole(Some(t)) } else { Ok(Kind::Transport(t)) }
}

/// Ports and TCP flags of a first fragment, which has to have the whole transport header.
fn first_ports(protocol: u8, payload: &[u8]) -> Result<(u16, u16, u8), DropReason> {
    if protocol == PROTO_TCP {
        return ports_and_flags(protocol, payload, payload.len()).map_err(|reason| match reason {
            DropReason::L4Truncated => DropReason::FragmentTiny,
            other => other,
        });
    }
    match payload {
        [a, b, c, d, _, _, _, _, ..] => Ok((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]), 0)),
        _ => Err(DropReason::FragmentTiny),
    }
}

/// Checks a transport header; returns source port, destination port and TCP flags (0 for UDP).
fn ports_and_flags(protocol: u8, payload: &[u8], len: usize) -> Result<(u16, u16, u8), DropReason> {
    if protocol == PROTO_TCP {
        let t = Tcp::parse(payload, len).map_err(|e| match e {
            WireError::Truncated => DropReason::L4Truncated,
            _ => DropReason::TcpMalformed,
        })?;
        let flags = t.flags();
        if tcp::contradictory(flags) {
            return Err(DropReason::TcpMalformed);
        }
        return Ok((t.src_port(), t.dst_port(), flags));
    }
    let u = Udp::parse(payload, len).map_err(|e| match e {
        WireError::Truncated if payload.len() < crate::wire::udp::HEADER => DropReason::L4Truncated,
        _ => DropReason::UdpBadLength,
    })?;
    Ok((u.src_port(), u.dst_port(), 0))
}

/// Walks IPv4 options: malformed ones and source routes are not passed (RFC 7126 sections 4.3 and 4.4).
fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const LSRR: u8 = 131;
    const SSRR: u8 = 137;
    while let [kind, rest @ ..] = options {
        options = match (*kind, rest) {
            (END, _) => return Ok(()),
            (NOP, _) => rest,
            (LSRR | SSRR, _) | (_, []) => return Err(DropReason::IpOptions),
            (_, [len, ..]) if *len < 2 || usize::from(*len) > options.len() => {
                return Err(DropReason::IpOptions);
            }
            (_, [len, ..]) => &options[usize::from(*len)..],
        };
    }
    Ok(())
}
