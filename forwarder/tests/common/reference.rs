//! What the relay has to do with a frame, written plainly: one check after the other, checksums computed in full, no regard
//! for speed. It shares no code with the relay.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use forwarder::api::{FlowSpec, Proto};
use forwarder::engine::DropReason::{self, *};

use super::packet::{VLANS, gw_mac, host_mac, internet_checksum};
use super::{Conn, next_hop};

/// MTU of every port of [`super::PORTS`].
const MTUS: [usize; 4] = [1500, 1500, 1500, 1280];

/// What has to become of a frame.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Nothing comes out. Of several defects the outermost header's counts, then the order of [`parse`].
    Drop(DropReason),
    /// ARP, neighbor discovery and echo requests, well-formed: at most an answer comes out, by the port it came in.
    Local,
    /// The first packet of a connection of this flow. It leaves by this port.
    Opens(usize, u8),
    /// Exactly this comes out; see [`Rewritten::equals`] for what "exactly" means of a checksum that was wrong.
    Relay(u8, Rewritten),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Rewritten {
    pub frame: Vec<u8>,
    /// Where the transport checksum is, when it was wrong before: it must then be wrong by as much.
    pub wrong_checksum: Option<usize>,
}

impl Rewritten {
    pub fn equals(&self, sent: &[u8]) -> bool {
        let Some(at) = self.wrong_checksum else { return sent == self.frame };
        let word = |f: &[u8]| u32::from(f[at]) << 8 | u32::from(f[at + 1]);
        sent.len() == self.frame.len()
            && sent[..at] == self.frame[..at]
            && sent[at + 2..] == self.frame[at + 2..]
            && word(sent) % 0xffff == word(&self.frame) % 0xffff
    }
}

/// Flows and connections as they have to be.
#[derive(Debug, Default)]
pub struct Model {
    pub flows: Vec<FlowSpec>,
    conns: Vec<Conn>,
    /// Connections by what a packet says: is it TCP, port of arrival, source and destination; true from the client.
    by_tuple: HashMap<Tuple, (usize, bool)>,
    /// From the client, of connections whose sources nobody has seen: their first packets were too big for the way out.
    unseen: HashSet<Tuple>,
}

type Tuple = (bool, u8, SocketAddr, SocketAddr);

/// A TCP or UDP packet that is in order.
struct Parsed {
    l3: usize,
    l4: usize,
    /// Length of the transport header and its data.
    l4_len: usize,
    proto: Proto,
    src: SocketAddr,
    dst: SocketAddr,
    flags: u8,
}

fn own(port: u8) -> [IpAddr; 3] {
    let m = gw_mac(port);
    [
        Ipv4Addr::new(10, port, 0, 1).into(),
        Ipv6Addr::new(0xfd00, port.into(), 0, 0, 0, 0, 0, 1).into(),
        // RFC 4291 appendix A.
        IpAddr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]]),
    ]
}

fn be(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])
}

fn check(ok: bool, otherwise: DropReason) -> Result<(), Verdict> {
    if ok { Ok(()) } else { Err(Verdict::Drop(otherwise)) }
}

/// Err: not a packet to relay.
fn parse(port: u8, f: &[u8]) -> Result<Parsed, Verdict> {
    check(f.len() >= 14, EthTruncated)?;
    let mut l3 = 14;
    let mut vlan = None;
    let mut ethertype = be(f, 12);
    check(ethertype != 0x88a8, VlanMismatch)?;
    if ethertype == 0x8100 {
        check(f.len() >= 18, EthTruncated)?;
        l3 = 18;
        // IEEE 802.1Q: an id of 0 is a priority and no VLAN.
        vlan = Some(be(f, 14) as u16 & 0xfff).filter(|id| *id != 0);
        ethertype = be(f, 16);
        check(ethertype != 0x8100 && ethertype != 0x88a8, VlanMismatch)?;
    }
    check(vlan == VLANS[usize::from(port)], VlanMismatch)?;
    let to_group = f[0] & 1 == 1;
    check(f[..6] == gw_mac(port) || to_group, NotForUs)?;
    let from_station = f[6] & 1 == 0 && f[6..12] != [0; 6];
    let ip = &f[l3..];
    let (l4, l4_len, proto, src, dst): (usize, usize, u8, IpAddr, IpAddr);
    match ethertype {
        0x0806 => {
            let whole = ip.len() >= 28 && ip[..6] == [0, 1, 8, 0, 6, 4] && matches!(be(ip, 6), 1 | 2);
            check(whole, ArpMalformed)?;
            return Err(Verdict::Local);
        }
        0x0800 => {
            // RFC 791.
            check(ip.len() >= 20, IpTruncated)?;
            check(ip[0] >> 4 == 4, IpBadVersion)?;
            let header = usize::from(ip[0] & 15) * 4;
            check(header >= 20, IpBadHeaderLength)?;
            check(header <= ip.len(), IpTruncated)?;
            check(be(ip, 2) >= header, IpBadLength)?;
            check(be(ip, 2) <= ip.len(), IpTruncated)?;
            check(internet_checksum(&[&ip[..header]]) == 0, IpBadChecksum)?;
            let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
            (src, dst) = (address(12).into(), address(16).into());
            check_addresses(port, src, dst)?;
            check(!to_group, MulticastDestination)?;
            check(be(ip, 6) & 0x3fff == 0, Fragment)?;
            let mut options = &ip[20..header];
            while !options.is_empty() && options[0] != 0 {
                let len = if options[0] == 1 { 1 } else { usize::from(*options.get(1).unwrap_or(&0)) };
                check(options[0] == 1 || len >= 2 && len <= options.len(), IpOptions)?;
                // RFC 7126: source routes.
                check(options[0] != 131 && options[0] != 137, IpOptions)?;
                options = &options[len..];
            }
            (l4, l4_len, proto) = (l3 + header, be(ip, 2) - header, ip[9]);
            if proto == 1 {
                return Err(icmp(&f[l4..l4 + l4_len], &[], 8, from_station));
            }
        }
        0x86dd => {
            // RFC 8200.
            check(ip.len() >= 40, IpTruncated)?;
            check(ip[0] >> 4 == 6, IpBadVersion)?;
            check(be(ip, 4) + 40 <= ip.len(), IpTruncated)?;
            (l4, l4_len, proto) = (l3 + 40, be(ip, 4), ip[6]);
            let payload = &f[l4..l4 + l4_len];
            let pseudo = [&ip[8..40], &[0, 0, ip[4], ip[5], 0, 0, 0, 58]].concat();
            if proto == 58 && matches!(payload.first(), Some(135 | 136)) {
                return Err(neighbor_discovery(payload, &pseudo, ip[7], f[6..12] == gw_mac(port)));
            }
            let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
            (src, dst) = (address(8).into(), address(24).into());
            check_addresses(port, src, dst)?;
            check(!to_group, MulticastDestination)?;
            check_extensions(proto, payload)?;
            if proto == 58 {
                return Err(icmp(payload, &pseudo, 128, from_station));
            }
        }
        _ => return Err(Verdict::Drop(EthertypeUnknown)),
    }
    let t = &f[l4..l4 + l4_len];
    let flags = match proto {
        6 => {
            // RFC 9293.
            check(t.len() >= 20, L4Truncated)?;
            let header = usize::from(t[12] >> 4) * 4;
            check(header >= 20, TcpMalformed)?;
            check(header <= t.len(), L4Truncated)?;
            check(t[13] & 2 == 0 || t[13] & 5 == 0, TcpMalformed)?;
            t[13]
        }
        17 => {
            // RFC 768; a datagram shorter than its packet is one (RFC 9868).
            check(t.len() >= 8, L4Truncated)?;
            check(be(t, 4) >= 8 && be(t, 4) <= t.len(), UdpBadLength)?;
            0
        }
        _ => return Err(Verdict::Drop(ProtocolUnsupported)),
    };
    let v6 = src.is_ipv6();
    check(ip[if v6 { 7 } else { 8 }] > 1, TtlExpired)?;
    check(be(t, 0) != 0 && be(t, 2) != 0, PortZero)?;
    // RFC 4291 section 2.5.6: it means nothing on the other side.
    check(!matches!(src, IpAddr::V6(a) if a.is_unicast_link_local()), MartianSource)?;
    // RFC 8200 section 8.1.
    check(!v6 || proto == 6 || be(t, 6) != 0, UdpNoChecksum)?;
    let (src, dst) = (SocketAddr::new(src, be(t, 0) as u16), SocketAddr::new(dst, be(t, 2) as u16));
    let proto = if proto == 6 { Proto::Tcp } else { Proto::Udp };
    Ok(Parsed { l3, l4, l4_len, proto, src, dst, flags })
}

/// May a packet that arrives at `port` have these addresses?
fn check_addresses(port: u8, src: IpAddr, dst: IpAddr) -> Result<(), Verdict> {
    let group = |address| match address {
        IpAddr::V4(a) => {
            let [x, y, z, host] = a.octets();
            a.is_multicast() || a.is_broadcast() || [x, y, z] == [10, port, 0] && matches!(host, 0 | 255)
        }
        IpAddr::V6(a) => a.is_multicast(),
    };
    let no_host = match src {
        IpAddr::V4(a) => a.octets()[0] == 0 || a.octets()[0] >= 240 || a.is_loopback() || a.is_link_local(),
        IpAddr::V6(a) => a.is_loopback() || a.is_unspecified() || a.to_ipv4_mapped().is_some(),
    };
    check(src != dst, Land)?;
    check(!group(src), MulticastSource)?;
    check(!no_host, MartianSource)?;
    check(!(0..4).any(|p| own(p).contains(&src)), Looped)?;
    check(!group(dst), MulticastDestination)?;
    check(own(port).contains(&dst), NotOurAddress)
}

/// No extension header passes (RFC 8200 section 4); a fragment is called one when its headers are whole as far as they go.
fn check_extensions(mut next: u8, mut rest: &[u8]) -> Result<(), Verdict> {
    let (mut any, mut fragment) = (false, false);
    while matches!(next, 0 | 43 | 44 | 60) {
        check(rest.len() >= 8, Ipv6Extension)?;
        let len = if next == 44 { 8 } else { 8 + 8 * usize::from(rest[1]) };
        check(len <= rest.len(), Ipv6Extension)?;
        check(!(fragment && next == 44), Ipv6Extension)?;
        any = true;
        fragment |= next == 44;
        // Behind it lies no header but the middle of something.
        if fragment && be(rest, 2) & 0xfff8 != 0 {
            break;
        }
        next = rest[0];
        rest = &rest[len..];
    }
    check(!fragment, Fragment)?;
    check(!any, Ipv6Extension)
}

/// RFC 792 and RFC 4443: echo requests are answered. `echo` is their type.
fn icmp(message: &[u8], pseudo: &[u8], echo: u8, from_station: bool) -> Verdict {
    if message.len() < 8 || internet_checksum(&[pseudo, message]) != 0 {
        return Verdict::Drop(IcmpMalformed);
    }
    if message[..2] != [echo, 0] {
        return Verdict::Drop(IcmpOther);
    }
    if from_station { Verdict::Local } else { Verdict::Drop(MulticastSource) }
}

/// RFC 4861 section 7.1, as far as a packet of something else could pass for a message.
fn neighbor_discovery(message: &[u8], pseudo: &[u8], hop_limit: u8, from_us: bool) -> Verdict {
    if from_us {
        return Verdict::Drop(NdIgnored);
    }
    let right = message.len() >= 24
        && message[1] == 0
        && hop_limit == 255
        && internet_checksum(&[pseudo, message]) == 0
        && message[8] != 0xff;
    if right { Verdict::Local } else { Verdict::Drop(NdMalformed) }
}

/// Port towards an address in [`super::PORTS`].
fn route(to: IpAddr) -> Option<u8> {
    match to {
        IpAddr::V4(a) => match a.octets() {
            [10, port @ 0..4, 0, _] => Some(port),
            [192, 168, ..] => Some(1),
            _ => None,
        },
        IpAddr::V6(a) => match a.segments() {
            [0xfd00, port @ 0..4, 0, 0, ..] => Some(port as u8),
            _ => None,
        },
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

impl Parsed {
    /// The right transport checksum of a packet of this shape.
    fn transport_checksum(&self, f: &[u8], src: IpAddr, dst: IpAddr) -> u16 {
        let (number, at, len) = match self.proto {
            Proto::Tcp => (6, 16, self.l4_len),
            Proto::Udp => (17, 6, be(f, self.l4 + 4)),
        };
        let mut t = f[self.l4..self.l4 + len].to_vec();
        t[at..at + 2].fill(0);
        let pseudo =
            [octets(src), octets(dst), vec![0, number], (len as u16).to_be_bytes().to_vec()].concat();
        let sum = internet_checksum(&[&pseudo, &t]);
        if sum == 0 && self.proto == Proto::Udp { 0xffff } else { sum }
    }
}

impl Model {
    pub fn new(flows: Vec<FlowSpec>, conns: &[Conn]) -> Model {
        let mut model = Model { flows, ..Model::default() };
        conns.iter().for_each(|conn| model.add(conn.clone()));
        model
    }

    /// A connection was opened; its source was not taken.
    pub fn add(&mut self, c: Conn) {
        let tcp = c.proto == Proto::Tcp;
        let n = self.conns.len();
        let there = self.by_tuple.insert((tcp, c.port, c.client, c.listen), (n, true));
        let back = self.by_tuple.insert((tcp, c.out, c.target, c.source), (n, false));
        assert!(there.is_none() && back.is_none(), "{c:?} is not new");
        self.conns.push(c);
    }

    /// What has to become of a frame that arrives at `port`.
    pub fn judge(&self, port: u8, frame: &[u8]) -> Verdict {
        match parse(port, frame) {
            Ok(p) => self.transport(port, frame, &p).unwrap_or_else(|refused| refused),
            Err(verdict) => verdict,
        }
    }

    fn transport(&self, port: u8, frame: &[u8], p: &Parsed) -> Result<Verdict, Verdict> {
        let tuple = (p.proto == Proto::Tcp, port, p.src, p.dst);
        if let Some((n, from_client)) = self.by_tuple.get(&tuple) {
            let c = &self.conns[*n];
            let (out, src, dst) =
                if *from_client { (c.out, c.source, c.target) } else { (c.port, c.listen, c.client) };
            check(fits(p, frame, out), TooBig)?;
            return Ok(Verdict::Relay(out, rewrite(p, frame, out, src, dst)));
        }
        let listens = |f: &FlowSpec| f.proto == p.proto && f.listen == p.dst;
        let n = self.flows.iter().position(listens).ok_or(Verdict::Drop(NoFlow))?;
        let flow = &self.flows[n];
        check(flow.from.iter().any(|prefix| prefix.contains(&p.src.ip())), SourceDenied)?;
        // Of SYN, ACK, RST and FIN the first alone opens a connection.
        let opens = p.proto == Proto::Udp || p.flags & 0x17 == 2;
        check(opens || self.unseen.contains(&tuple), TcpNoConnection)?;
        let out = route(flow.target.ip()).unwrap();
        let back = route(p.src.ip()).ok_or(Verdict::Drop(NoRoute))?;
        check(back == port, ReversePath)?;
        // The connection is open all the same: `Model::too_big`.
        check(fits(p, frame, out), TooBig)?;
        Ok(Verdict::Opens(n, out))
    }

    /// A frame was dropped as too big. When it was a first packet, it has opened its connection.
    pub fn too_big(&mut self, port: u8, frame: &[u8]) {
        if let Ok(p) = parse(port, frame) {
            self.unseen.insert((p.proto == Proto::Tcp, port, p.src, p.dst));
        }
    }

    /// Takes in the connection that a frame opened, with the source that was chosen for it as `sent` says. Says no more than
    /// that there is such a source: [`Model::judge`] knows the frame now.
    pub fn opened(&mut self, n: usize, port: u8, frame: &[u8], out: u8, sent: &[u8]) -> Result<(), String> {
        let Ok(p) = parse(port, frame) else { return Err("it opens nothing".into()) };
        let flow = &self.flows[n];
        let l3 = if VLANS[usize::from(out)].is_some() { 18 } else { 14 };
        let l4 = l3 + p.l4 - p.l3;
        if sent.len() < l4 + 2 {
            return Err("what came of it is too short".into());
        }
        let address = own(out)[usize::from(flow.target.is_ipv6())];
        let source = SocketAddr::new(address, be(sent, l4) as u16);
        let taken = self.by_tuple.contains_key(&(p.proto == Proto::Tcp, out, flow.target, source));
        if taken || source.port() < 32_768 {
            return Err(format!("its source is {source}, which is taken or not for use"));
        }
        let (client, listen, target) = (p.src, p.dst, flow.target);
        self.add(Conn { proto: p.proto, client, listen, source, target, port, out });
        Ok(())
    }
}

/// What lies behind the packet is sent along with it, so the frame counts.
fn fits(p: &Parsed, frame: &[u8], out: u8) -> bool {
    frame.len() - p.l3 <= MTUS[usize::from(out)]
}

fn rewrite(p: &Parsed, frame: &[u8], out: u8, src: SocketAddr, dst: SocketAddr) -> Rewritten {
    let mut f = frame.to_vec();
    let v4 = src.is_ipv4();
    let (ttl, addresses) = if v4 { (8, 12) } else { (7, 8) };
    let checksum_at = p.l4 + if p.proto == Proto::Tcp { 16 } else { 6 };
    let before = be(frame, checksum_at) as u32;
    let right_before = u32::from(p.transport_checksum(frame, p.src.ip(), p.dst.ip()));

    f[p.l3 + ttl] -= 1;
    let (s, d) = (octets(src.ip()), octets(dst.ip()));
    f[p.l3 + addresses..][..s.len()].copy_from_slice(&s);
    f[p.l3 + addresses + s.len()..][..d.len()].copy_from_slice(&d);
    f[p.l4..][..2].copy_from_slice(&src.port().to_be_bytes());
    f[p.l4 + 2..][..2].copy_from_slice(&dst.port().to_be_bytes());
    let right_after = u32::from(p.transport_checksum(&f, src.ip(), dst.ip()));
    let none = p.proto == Proto::Udp && before == 0;
    let right = before == right_before;
    let after = match (none, right) {
        (true, _) => 0,
        (_, true) => right_after,
        // Wrong by as much as before.
        _ => (before + right_after + 0xffff - right_before) % 0xffff,
    };
    f[checksum_at..][..2].copy_from_slice(&(after as u16).to_be_bytes());
    if v4 {
        f[p.l3 + 10..][..2].fill(0);
        let sum = internet_checksum(&[&f[p.l3..p.l4]]);
        f[p.l3 + 10..][..2].copy_from_slice(&sum.to_be_bytes());
    }
    let mut out_frame = [host_mac(next_hop(dst.ip())), gw_mac(out)].concat();
    if let Some(id) = VLANS[usize::from(out)] {
        out_frame.extend([0x81, 0x00]);
        out_frame.extend(id.to_be_bytes());
    }
    out_frame.extend(if v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    let l3 = out_frame.len();
    out_frame.extend(&f[p.l3..]);
    let wrong_checksum = (!none && !right).then_some(l3 + checksum_at - p.l3);
    Rewritten { frame: out_frame, wrong_checksum }
}
