//! What the relay has to do with a frame, written plainly: one check after the other, checksums computed in full, no regard
//! for speed. It shares no code with the relay.
//!
//! Of fragments it knows what came of each datagram. Connections, datagrams and what waits are as few here as the relay has room
//! for; what it does when it has none left is not said here.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use forwarder::api::{FlowSpec, Proto};
use forwarder::engine::DropReason::{self, *};

use super::packet::{VLANS, gw_mac, host_mac, internet_checksum};
use super::{Conn, next_hop};

/// MTU of every port of [`super::PORTS`].
pub const MTUS: [usize; 4] = [1500, 1500, 1500, 1280];

/// What has to become of a frame.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Nothing comes out. Of several defects the outermost header's counts, then the order of [`parse`].
    Drop(DropReason),
    /// The same, but its sender is told by this frame, unless it was told too much of late.
    Told(DropReason, Vec<u8>),
    /// ARP, neighbor discovery and echo requests, well-formed: at most an answer comes out, by the port it came in.
    Local,
    /// The first packet of a connection of this flow. It leaves by this port.
    Opens(usize, u8),
    /// Exactly this comes out; see [`Rewritten::equals`] for what "exactly" means of a checksum that was wrong.
    Relay(u8, Rewritten),
    /// This comes out in pieces that the way out takes: [`Rewritten::cut`].
    Cut(u8, Rewritten),
    /// An ICMP error about a packet of a connection: this goes on to who sent that. Not a packet of the connection itself.
    Error(u8, Rewritten),
    /// A fragment of a connection that is in order by itself, or one that has no ports: [`Model::arrive`] says the rest. A first
    /// one may open a connection of this flow, whose packets leave by this port.
    Piece(Option<(usize, u8)>),
}

impl Verdict {
    /// What it counts as when nothing of it comes out.
    pub fn reason(&self) -> Option<DropReason> {
        match self {
            Verdict::Drop(reason) | Verdict::Told(reason, _) => Some(*reason),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Rewritten {
    pub frame: Vec<u8>,
    /// Where a checksum is that was wrong before, or is of what is not all there: it must differ by as much as what it covers.
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

    /// Takes the IPv4 packet's pieces from the front of what was sent (RFC 791 section 3.2): as few as can be, in order, none
    /// longer than `mtu`, the header of each that of the packet. Returns their identification.
    pub fn cut(&self, sent: &mut VecDeque<Vec<u8>>, mtu: usize) -> Result<u32, String> {
        let l3 = if self.frame[12..14] == [0x81, 0] { 18 } else { 14 };
        let whole = &self.frame[l3..];
        let header = usize::from(whole[0] & 15) * 4;
        let (payload, place) = (be(whole, 2) - header, be(whole, 6));
        let fragment = place & 0x3fff != 0;
        let mut id = fragment.then(|| be(whole, 4));
        let (mut data, mut n) = (Vec::new(), 0);
        while data.len() < payload {
            let piece = sent.pop_front().ok_or("a piece is missing")?;
            let fault = |what: &str| Err(format!("piece {n} {piece:02x?}: {what}"));
            if piece.len() < l3 + 20 || piece[..l3] != self.frame[..l3] || piece[l3] >> 4 != 4 {
                return fault("not one of this packet");
            }
            let ip = &piece[l3..];
            let own_header = ip.len().min(usize::from(ip[0] & 15) * 4);
            let mut expected = whole[..20].to_vec();
            expected.extend(if n == 0 { whole[20..header].to_vec() } else { copied(&whole[20..header]) });
            let len = ((mtu - header) / 8 * 8).min(payload - data.len());
            let more = data.len() + len < payload || place & 0x2000 != 0;
            let id = *id.get_or_insert(be(ip, 4));
            let total = expected.len() + len;
            let place = (place & 0x1fff) + data.len() / 8 + if more { 0x2000 } else { 0 };
            expected[0] = 0x40 | (expected.len() / 4) as u8;
            expected[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            expected[4..6].copy_from_slice(&(id as u16).to_be_bytes());
            expected[6..8].copy_from_slice(&(place as u16).to_be_bytes());
            expected[10..12].fill(0);
            let sum = internet_checksum(&[&expected]);
            expected[10..12].copy_from_slice(&sum.to_be_bytes());
            if id == 0 || ip.len() != total || ip[..own_header] != expected {
                return fault(&format!("expected {total} bytes and the header {expected:02x?}"));
            }
            data.extend(&ip[own_header..]);
            n += 1;
        }
        let again = [&self.frame[..l3 + header], &data].concat();
        let all = Rewritten { frame: self.frame[..l3 + header + payload].to_vec(), ..*self };
        if !all.equals(&again) {
            return Err(format!("pieces make {again:02x?}, not {all:02x?}"));
        }
        Ok(id.unwrap_or(0) as u32)
    }
}

/// The options that every fragment has (RFC 791 section 3.1), in whole words.
fn copied(mut options: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let [kind @ 1..=255, rest @ ..] = options {
        let len = if *kind == 1 { 1 } else { usize::from(rest[0]) };
        if kind & 0x80 != 0 {
            all.extend(&options[..len]);
        }
        options = &options[len..];
    }
    all.resize(all.len().div_ceil(4) * 4, 0);
    all
}

/// Flows and connections as they have to be.
#[derive(Debug, Default)]
pub struct Model {
    pub flows: Vec<FlowSpec>,
    conns: Vec<Conn>,
    /// Connections by what a packet says: is it TCP, port of arrival, source and destination; true from the client.
    by_tuple: HashMap<Tuple, (usize, bool)>,
    datagrams: HashMap<DatagramKey, Datagram>,
    /// Identifications of IPv4 or IPv6 that pieces left with.
    ids: HashSet<(bool, u32)>,
    /// Fragments since the datagrams were last forgotten, and of them those that wait or waited in vain.
    pub fragments: usize,
    pub waiting: usize,
}

/// Port of arrival, protocol (0: IPv6, which does not count it), source, destination, identification.
type DatagramKey = (u8, u8, IpAddr, IpAddr, u32);

/// What came of a datagram.
#[derive(Debug, Default)]
struct Datagram {
    /// Which of its bytes.
    came: Vec<bool>,
    /// Its length, when its last fragment came.
    end: Option<usize>,
    /// Some of it came twice, and some not: nothing of it is to be trusted (RFC 5722).
    doomed: bool,
    way: Option<Way>,
    /// The identification that all leave with, when one did.
    id: Option<u32>,
    held: Vec<Vec<u8>>,
}

/// Where the fragments of a datagram go, and the addresses that they get.
#[derive(Debug, Clone, Copy)]
struct Way {
    out: u8,
    src: IpAddr,
    dst: IpAddr,
}

/// What becomes of a fragment now.
#[derive(Debug)]
pub enum Arrived {
    Refused(DropReason),
    /// The first one has not come.
    Waits,
    /// These go on, in this order: it, and what waited for it.
    Passes(Vec<Vec<u8>>),
}

type Tuple = (bool, u8, SocketAddr, SocketAddr);

/// What a frame is whose fate depends on connections.
enum Parsed {
    Transport(Packet),
    /// An ICMP error: where its IP packet and its message begin, and where both end.
    Error(usize, usize, usize),
}

/// A TCP or UDP packet that is in order, as far as it goes.
struct Packet {
    l3: usize,
    l4: usize,
    /// Length of the transport header and its data.
    l4_len: usize,
    proto: Proto,
    src: SocketAddr,
    dst: SocketAddr,
    flags: u8,
    /// Its TTL or hop limit ends here. Nothing but the transport header was looked at.
    expired: bool,
    piece: Option<Piece>,
}

/// What makes a packet a fragment.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// As in [`DatagramKey`].
    protocol: u8,
    offset: usize,
    len: usize,
    more: bool,
    id: u32,
    /// Where the identification is in the frame.
    id_at: usize,
}

impl Packet {
    /// Ports and checksum are there.
    fn has_header(&self) -> bool {
        self.piece.is_none_or(|p| p.offset == 0)
    }

    fn key(&self, port: u8) -> Option<DatagramKey> {
        self.piece.map(|p| (port, p.protocol, self.src.ip(), self.dst.ip(), p.id))
    }
}

/// The extension headers of an IPv6 packet (RFC 8200 section 4).
struct Chain {
    /// What follows them, and after how many bytes.
    protocol: u8,
    len: usize,
    /// Of the fragment header: where it is, and its offset, more-fragments flag and identification.
    fragment: Option<(usize, usize, bool, u32)>,
    /// A routing header has somewhere else to go first.
    routed: bool,
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
    // IEEE 802.1Q: an id of 0 is a priority and no VLAN. At most one service tag, then at most one other.
    let mut vlans = [0, 0];
    for (n, kind) in [0x88a8, 0x8100].into_iter().enumerate() {
        if be(f, l3 - 2) == kind {
            check(f.len() >= l3 + 4, EthTruncated)?;
            vlans[n] = be(f, l3) as u16 & 0xfff;
            l3 += 4;
        }
    }
    let ethertype = be(f, l3 - 2);
    check(ethertype != 0x8100 && ethertype != 0x88a8, VlanMismatch)?;
    check(vlans == [0, VLANS[usize::from(port)].unwrap_or(0)], VlanMismatch)?;
    let to_group = f[0] & 1 == 1;
    check(f[..6] == gw_mac(port) || to_group, NotForUs)?;
    let from_station = f[6] & 1 == 0 && f[6..12] != [0; 6];
    let ip = &f[l3..];
    let (l4, l4_len, proto, src, dst): (usize, usize, u8, IpAddr, IpAddr);
    let mut piece = None;
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
            let mut options = &ip[20..header];
            while !options.is_empty() && options[0] != 0 {
                let len = if options[0] == 1 { 1 } else { usize::from(*options.get(1).unwrap_or(&0)) };
                check(options[0] == 1 || len >= 2 && len <= options.len(), IpOptions)?;
                // RFC 7126: source routes.
                check(options[0] != 131 && options[0] != 137, IpOptions)?;
                options = &options[len..];
            }
            (l4, l4_len, proto) = (l3 + header, be(ip, 2) - header, ip[9]);
            let (offset, more) = ((be(ip, 6) & 0x1fff) * 8, ip[6] & 0x20 != 0);
            if offset > 0 || more {
                let id = be(ip, 4) as u32;
                piece = Some(Piece { protocol: proto, offset, len: l4_len, more, id, id_at: l3 + 4 });
            }
            if proto == 1 {
                check(piece.is_none(), IcmpOther)?;
                icmp(&f[l4..l4 + l4_len], &[], (8, &[3, 11, 12]), from_station)?;
                return Ok(Parsed::Error(l3, l4, l4 + l4_len));
            }
        }
        0x86dd => {
            // RFC 8200.
            check(ip.len() >= 40, IpTruncated)?;
            check(ip[0] >> 4 == 6, IpBadVersion)?;
            check(be(ip, 4) + 40 <= ip.len(), IpTruncated)?;
            let payload = &ip[40..40 + be(ip, 4)];
            let pseudo = [&ip[8..40], &[0, 0, ip[4], ip[5], 0, 0, 0, 58]].concat();
            if ip[6] == 58 && matches!(payload.first(), Some(135 | 136)) {
                return Err(neighbor_discovery(payload, &pseudo, ip[7], f[6..12] == gw_mac(port)));
            }
            let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
            (src, dst) = (address(8).into(), address(24).into());
            check_addresses(port, src, dst)?;
            check(!to_group, MulticastDestination)?;
            let chain =
                extensions(ip[6], payload).filter(|c| !c.routed).ok_or(Verdict::Drop(Ipv6Extension))?;
            (l4, l4_len, proto) = (l3 + 40 + chain.len, payload.len() - chain.len, chain.protocol);
            // With offset 0 and nothing to follow it is a whole packet (RFC 6946).
            if let Some((at, offset, more, id)) = chain.fragment.filter(|f| f.1 > 0 || f.2) {
                let (len, id_at) = (payload.len() - at - 8, l3 + 40 + at + 4);
                piece = Some(Piece { protocol: 0, offset, len, more, id, id_at });
            }
            if proto == 58 {
                check(piece.is_none(), IcmpOther)?;
                check(chain.len == 0, Ipv6Extension)?;
                icmp(payload, &pseudo, (128, &[1, 2, 3, 4]), from_station)?;
                return Ok(Parsed::Error(l3, l4, l4 + l4_len));
            }
        }
        _ => return Err(Verdict::Drop(EthertypeUnknown)),
    }
    // RFC 8200 section 4.5: a later fragment says only what the fragmentable part begins with, which may be more extension headers.
    let later = piece.is_some_and(|p| p.offset > 0) && src.is_ipv6();
    check(matches!(proto, 6 | 17) || later && matches!(proto, 0 | 43 | 44 | 60), ProtocolUnsupported)?;
    let t = &f[l4..l4 + l4_len];
    let v6 = src.is_ipv6();
    let expired = ip[if v6 { 7 } else { 8 }] <= 1;
    let sort = if proto == 6 { Proto::Tcp } else { Proto::Udp };
    let packet = |ports: (u16, u16), flags| {
        let (src, dst) = (SocketAddr::new(src, ports.0), SocketAddr::new(dst, ports.1));
        Packet { l3, l4, l4_len, proto: sort, src, dst, flags, expired, piece }
    };
    // RFC 1858, RFC 3128: no fragment begins within the transport header.
    let least = if proto == 17 { 8 } else { 20 };
    let offset = piece.map_or(0, |p| p.offset);
    check(offset == 0 || offset >= least, FragmentTiny)?;
    if offset > 0 {
        check(!expired, TtlExpired)?;
        check(piece.is_some_and(|p| p.is_possible(v6)), FragmentMalformed)?;
        return Ok(Parsed::Transport(packet((0, 0), 0)));
    }
    // The first one has it all.
    let short = if piece.is_some() { FragmentTiny } else { L4Truncated };
    check(t.len() >= least, short)?;
    let flags = if proto == 6 {
        // RFC 9293.
        let header = usize::from(t[12] >> 4) * 4;
        check(header >= 20, TcpMalformed)?;
        check(header <= t.len(), short)?;
        check(t[13] & 2 == 0 || t[13] & 5 == 0, TcpMalformed)?;
        t[13]
    } else {
        // RFC 768; a datagram shorter than its packet is one (RFC 9868). A fragment's is the whole datagram's length.
        check(piece.is_some() || be(t, 4) >= 8 && be(t, 4) <= t.len(), UdpBadLength)?;
        0
    };
    let packet = packet((be(t, 0) as u16, be(t, 2) as u16), flags);
    if expired {
        return Ok(Parsed::Transport(packet));
    }
    check(be(t, 0) != 0 && be(t, 2) != 0, PortZero)?;
    // RFC 4291 section 2.5.6: it means nothing on the other side.
    check(!matches!(src, IpAddr::V6(a) if a.is_unicast_link_local()), MartianSource)?;
    // RFC 8200 section 8.1.
    check(!v6 || proto == 6 || be(t, 6) != 0, UdpNoChecksum)?;
    check(piece.is_none_or(|p| p.is_possible(v6)), FragmentMalformed)?;
    Ok(Parsed::Transport(packet))
}

impl Piece {
    /// Something, of a datagram that there can be (RFC 791 section 3.2, RFC 8200 section 4.5).
    fn is_possible(&self, v6: bool) -> bool {
        let longest = if v6 { 65_535 } else { 65_535 - 20 };
        let cut = !self.more || self.len.is_multiple_of(8);
        self.len > 0 && cut && self.offset + self.len <= longest
    }
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

/// Follows extension headers, at most eight; none when they are malformed.
fn extensions(mut next: u8, payload: &[u8]) -> Option<Chain> {
    let (mut at, mut fragment, mut routed) = (0, None, false);
    for n in 0.. {
        if !matches!(next, 0 | 43 | 44 | 60) {
            break;
        }
        let header = payload.get(at..)?.get(..8).filter(|_| n < 8)?;
        let mut len = 8 + 8 * usize::from(header[1]);
        if next == 44 {
            if fragment.is_some() {
                return None;
            }
            len = 8;
            let id = (be(header, 4) << 16 | be(header, 6)) as u32;
            fragment = Some((at, be(header, 2) & 0xfff8, header[3] & 1 == 1, id));
        }
        routed |= next == 43 && header[3] > 0;
        (next, at) = (header[0], at + len);
        if at > payload.len() {
            return None;
        }
        // Behind it lies no header but the middle of something.
        if fragment.is_some_and(|f| f.1 > 0) {
            break;
        }
    }
    Some(Chain { protocol: next, len: at, fragment, routed })
}

/// RFC 792 and RFC 4443: echo requests are answered, errors about packets are passed on. Ok: it is one of these.
fn icmp(
    message: &[u8],
    pseudo: &[u8],
    (echo, errors): (u8, &[u8]),
    from_station: bool,
) -> Result<(), Verdict> {
    check(message.len() >= 8 && internet_checksum(&[pseudo, message]) == 0, IcmpMalformed)?;
    if errors.contains(&message[0]) {
        return Ok(());
    }
    check(message[..2] == [echo, 0], IcmpOther)?;
    check(from_station, MulticastSource)?;
    Err(Verdict::Local)
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

impl Packet {
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
            Ok(Parsed::Transport(p)) => self.transport(port, frame, &p).unwrap_or_else(|refused| refused),
            Ok(Parsed::Error(l3, l4, end)) => {
                self.error(port, frame, (l3, l4, end)).unwrap_or_else(|refused| refused)
            }
            Err(verdict) => verdict,
        }
    }

    fn transport(&self, port: u8, frame: &[u8], p: &Packet) -> Result<Verdict, Verdict> {
        if !p.has_header() {
            return Ok(Verdict::Piece(None));
        }
        let conn = self.conn(port, p);
        if p.expired {
            // Who may use the flow is told (RFC 1812 section 5.3.1, RFC 4443 section 3.3).
            let may = conn.is_some() || self.admits(port, p).is_ok();
            return Err(if may { tell(port, frame, p, TtlExpired, None) } else { Verdict::Drop(TtlExpired) });
        }
        match conn {
            Some(_) if p.piece.is_some() => Ok(Verdict::Piece(None)),
            Some((out, src, dst)) => {
                check_size(port, frame, p, out)?;
                Ok(relay(p, frame, out, (src, dst), None))
            }
            None => {
                let (n, out) = self.admits(port, p)?;
                if p.piece.is_some() {
                    return Ok(Verdict::Piece(Some((n, out))));
                }
                // The connection is open all the same: `Model::newcomer`.
                check_size(port, frame, p, out)?;
                Ok(Verdict::Opens(n, out))
            }
        }
    }

    /// Where a packet of a connection goes, and its new source and destination.
    fn conn(&self, port: u8, p: &Packet) -> Option<(u8, SocketAddr, SocketAddr)> {
        let (n, from_client) = self.by_tuple.get(&tuple(port, p))?;
        let c = &self.conns[*n];
        Some(if *from_client { (c.out, c.source, c.target) } else { (c.port, c.listen, c.client) })
    }

    /// May a packet open a connection? The flow's number, and the port towards its target.
    fn admits(&self, port: u8, p: &Packet) -> Result<(usize, u8), Verdict> {
        let listens = |f: &FlowSpec| f.proto == p.proto && f.listen == p.dst;
        let n = self.flows.iter().position(listens).ok_or(Verdict::Drop(NoFlow))?;
        let flow = &self.flows[n];
        check(flow.from.iter().any(|prefix| prefix.contains(&p.src.ip())), SourceDenied)?;
        // Of SYN, ACK, RST and FIN the first alone opens a connection.
        check(p.proto == Proto::Udp || p.flags & 0x17 == 2, TcpNoConnection)?;
        let out = route(flow.target.ip()).unwrap();
        let back = route(p.src.ip()).ok_or(Verdict::Drop(NoRoute))?;
        check(back == port, ReversePath)?;
        Ok((n, out))
    }

    /// An ICMP error at `l3..end`, its message at `l4` (RFC 5508): it is about the packet that it quotes, and goes to who sent that,
    /// who has to see its own packet quoted.
    fn error(
        &self,
        port: u8,
        frame: &[u8],
        (l3, l4, end): (usize, usize, usize),
    ) -> Result<Verdict, Verdict> {
        let v6 = frame[l3] >> 4 == 6;
        let at = l4 + 8;
        // RFC 4884: the quote ends where the length says, when it is one, and extensions follow.
        let length = match (v6, frame[l4]) {
            (false, _) => usize::from(frame[l4 + 5]) * 4,
            (true, 1 | 3) => usize::from(frame[l4 + 4]) * 8,
            _ => 0,
        };
        let quote_end = if length >= 128 && at + length <= end { at + length } else { end };
        let q = quoted(v6, &frame[at..quote_end])?;
        let (ttl, addresses) = if v6 { (7, 8) } else { (8, 12) };
        let dst_at = l3 + if v6 { 24 } else { 16 };
        check(octets(q.src.ip()) == frame[dst_at..dst_at + if v6 { 16 } else { 4 }], IcmpUnmatched)?;
        let back = (q.tcp, port, q.dst, q.src);
        let (n, from_client) = self.by_tuple.get(&back).ok_or(Verdict::Drop(IcmpUnmatched))?;
        check(frame[l3 + ttl] > 1, TtlExpired)?;
        let c = &self.conns[*n];
        let (out, from, to) =
            if *from_client { (c.out, c.source, c.target) } else { (c.port, c.listen, c.client) };
        check(end - l3 <= MTUS[usize::from(out)], TooBig)?;

        let mut f = frame[..end].to_vec();
        let put = |f: &mut [u8], at: usize, src: IpAddr, dst: IpAddr| {
            let both = [octets(src), octets(dst)].concat();
            f[at..at + both.len()].copy_from_slice(&both);
        };
        let header_sum = |f: &mut [u8], at: usize| {
            let header = usize::from(f[at] & 15) * 4;
            f[at + 10..at + 12].fill(0);
            let sum = internet_checksum(&[&f[at..at + header]]);
            f[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
        };
        f[l3 + ttl] -= 1;
        put(&mut f, l3 + addresses, from.ip(), to.ip());
        put(&mut f, at + addresses, to.ip(), from.ip());
        if !v6 {
            header_sum(&mut f, l3);
            header_sum(&mut f, at);
        }
        let t = at + q.l4;
        f[t..t + 2].copy_from_slice(&to.port().to_be_bytes());
        f[t + 2..t + 4].copy_from_slice(&from.port().to_be_bytes());
        // As far as quoted.
        let mut wrong_checksum = None;
        let sum_at = t + if q.tcp { 16 } else { 6 };
        if sum_at + 2 <= at + q.len && (q.tcp || be(frame, sum_at) != 0) {
            let sum = moved_checksum(be(frame, sum_at) as u16, (q.src, q.dst), (to, from));
            f[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
            wrong_checksum = Some(sum_at);
        }
        f[l4 + 2..l4 + 4].fill(0);
        let len = ((end - l4) as u32).to_be_bytes();
        let pseudo = [octets(from.ip()), octets(to.ip()), len.to_vec(), vec![0, 0, 0, 58]].concat();
        let sum = internet_checksum(&[if v6 { &pseudo } else { &[] }, &f[l4..]]);
        f[l4 + 2..l4 + 4].copy_from_slice(&sum.to_be_bytes());
        Ok(Verdict::Error(out, link(frame, (&f[l3..], l3), out, to.ip(), wrong_checksum)))
    }

    /// Source and destination of a packet that opens a connection, though it was dropped on its way out.
    pub fn newcomer(&self, port: u8, frame: &[u8]) -> Option<(Proto, SocketAddr, SocketAddr)> {
        let Ok(Parsed::Transport(p)) = parse(port, frame) else { return None };
        let new = p.has_header() && self.conn(port, &p).is_none();
        new.then_some((p.proto, p.src, p.dst))
    }

    /// Takes in the connection that a frame opened, with the source that was chosen for it as `sent` says. Says no more than
    /// that there is such a source: [`Model::judge`] knows the frame now.
    pub fn opened(&mut self, n: usize, port: u8, frame: &[u8], out: u8, sent: &[u8]) -> Result<(), String> {
        let Ok(Parsed::Transport(p)) = parse(port, frame) else { return Err("it opens nothing".into()) };
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

    /// A fragment that [`Model::judge`] called one. `opens` is what it said.
    pub fn arrive(&mut self, port: u8, frame: &[u8], opens: Option<(usize, u8)>) -> Arrived {
        let Ok(Parsed::Transport(p)) = parse(port, frame) else { panic!("no fragment") };
        let (piece, key) = (p.piece.unwrap(), p.key(port).unwrap());
        let way = match (self.conn(port, &p), opens) {
            (Some((out, src, dst)), _) => Some(Way { out, src: src.ip(), dst: dst.ip() }),
            (None, Some((n, out))) => {
                let dst = self.flows[n].target.ip();
                Some(Way { out, src: own(out)[usize::from(dst.is_ipv6())], dst })
            }
            (None, None) => None,
        };
        self.fragments += 1;
        let d = self.datagrams.entry(key).or_default();
        if d.doomed {
            return Arrived::Refused(FragmentOverlap);
        }
        let (start, end) = (piece.offset, piece.offset + piece.len);
        let came = |at: usize| d.came.get(at) == Some(&true);
        let twice = (start..end).filter(|at| came(*at)).count();
        if twice > 0 {
            d.doomed = twice < piece.len;
            if d.doomed {
                // They are given up soon.
                d.held.clear();
            }
            return Arrived::Refused(FragmentOverlap);
        }
        let other_end = d.end.is_some() || (end..d.came.len()).any(came);
        if d.end.is_some_and(|known| end > known) || !piece.more && other_end {
            return Arrived::Refused(FragmentMalformed);
        }
        d.came.resize(d.came.len().max(end), false);
        d.came[start..end].fill(true);
        if !piece.more {
            d.end = Some(end);
        }
        d.way = d.way.or(way.filter(|_| start == 0));
        if d.way.is_none() {
            d.held.push(frame.to_vec());
            self.waiting += 1;
            return Arrived::Waits;
        }
        let held = std::mem::take(&mut d.held);
        self.waiting -= held.len();
        Arrived::Passes(std::iter::once(frame.to_vec()).chain(held).collect())
    }

    /// Where the datagram of a fragment goes.
    pub fn way_out(&self, port: u8, frame: &[u8]) -> u8 {
        let Ok(Parsed::Transport(p)) = parse(port, frame) else { panic!("no fragment") };
        self.datagrams[&p.key(port).unwrap()].way.unwrap().out
    }

    /// What becomes of a fragment whose datagram has a way. `sent` is what comes out next there: the first fragment to leave says the
    /// identification of all, which must be a new one.
    pub fn follow(&mut self, port: u8, frame: &[u8], sent: Option<&Vec<u8>>) -> Result<Verdict, String> {
        let Ok(Parsed::Transport(p)) = parse(port, frame) else { panic!("no fragment") };
        let d = &self.datagrams[&p.key(port).unwrap()];
        let Way { out, src, dst } = d.way.unwrap();
        if let Err(told) = check_size(port, frame, &p, out) {
            return Ok(told);
        }
        let ends = match self.conn(port, &p) {
            Some((_, src, dst)) if p.has_header() => (src, dst),
            _ => (SocketAddr::new(src, 0), SocketAddr::new(dst, 0)),
        };
        let (id_at, v6) = (p.piece.unwrap().id_at, src.is_ipv6());
        let id = match (d.id, sent) {
            (Some(id), _) => id,
            (None, None) => return Err("a fragment is missing".into()),
            (None, Some(sent)) => {
                let at = if VLANS[usize::from(out)].is_some() { 18 } else { 14 } + id_at - p.l3;
                let word = |at: usize| if at + 2 <= sent.len() { be(sent, at) as u32 } else { 0 };
                if v6 { word(at) << 16 | word(at + 2) } else { word(at) }
            }
        };
        let learned = d.id.is_none();
        if learned {
            self.drawn(v6, id)?;
        }
        self.datagrams.get_mut(&p.key(port).unwrap()).unwrap().id = Some(id);
        Ok(relay(&p, frame, out, ends, Some(id)))
    }

    /// Is a fragment too big for the way of its datagram?
    pub fn too_big(&self, port: u8, frame: &[u8]) -> bool {
        let Ok(Parsed::Transport(p)) = parse(port, frame) else { panic!("no fragment") };
        check_size(port, frame, &p, self.way_out(port, frame)).is_err()
    }

    /// A packet left in pieces with this identification; that of a fragment was learned before.
    pub fn cut(&mut self, port: u8, frame: &[u8], id: u32) -> Result<(), String> {
        match parse(port, frame) {
            Ok(Parsed::Transport(p)) if p.piece.is_none() => self.drawn(p.src.is_ipv6(), id),
            _ => Ok(()),
        }
    }

    /// Pieces left with this identification, which was not theirs before (RFC 6864).
    pub fn drawn(&mut self, v6: bool, id: u32) -> Result<(), String> {
        if id != 0 && self.ids.insert((v6, id)) {
            return Ok(());
        }
        Err(format!("identification {id} is not new"))
    }

    /// So much time passed that all datagrams were forgotten. Returns how many fragments waited in vain.
    pub fn forget_datagrams(&mut self) -> usize {
        self.datagrams.clear();
        self.ids.clear();
        self.fragments = 0;
        std::mem::take(&mut self.waiting)
    }
}

fn tuple(port: u8, p: &Packet) -> Tuple {
    (p.proto == Proto::Tcp, port, p.src, p.dst)
}

/// A packet that an ICMP error quotes, as far as it does.
struct Quoted {
    tcp: bool,
    src: SocketAddr,
    dst: SocketAddr,
    /// Where its transport header begins, and where what is quoted of it ends.
    l4: usize,
    len: usize,
}

/// Err: no connection can be found by the quote.
fn quoted(v6: bool, q: &[u8]) -> Result<Quoted, Verdict> {
    check(q.len() >= if v6 { 40 } else { 20 } && q[0] >> 4 == if v6 { 6 } else { 4 }, IcmpMalformed)?;
    let (l4, len, proto, addresses, first);
    if v6 {
        len = q.len().min(40 + be(q, 4));
        let chain = extensions(q[6], &q[40..len]).ok_or(Verdict::Drop(IcmpMalformed))?;
        (l4, proto, addresses) = (40 + chain.len, chain.protocol, 8);
        first = chain.fragment.is_none_or(|f| f.1 == 0);
    } else {
        let header = usize::from(q[0] & 15) * 4;
        let whole = header >= 20 && header <= q.len() && be(q, 2) >= header;
        check(whole && internet_checksum(&[&q[..header]]) == 0, IcmpMalformed)?;
        len = q.len().min(be(q, 2));
        (l4, proto, addresses) = (header, q[9], 12);
        first = be(q, 6) & 0x1fff == 0;
    }
    check(first && matches!(proto, 6 | 17), IcmpUnmatched)?;
    // RFC 792: eight bytes at least of what follows the header.
    check(len >= l4 + 8, IcmpMalformed)?;
    let address = |n: usize| -> IpAddr {
        if v6 {
            <[u8; 16]>::try_from(&q[addresses + 16 * n..][..16]).unwrap().into()
        } else {
            <[u8; 4]>::try_from(&q[addresses + 4 * n..][..4]).unwrap().into()
        }
    };
    let end = |n: usize| SocketAddr::new(address(n), be(q, l4 + 2 * n) as u16);
    Ok(Quoted { tcp: proto == 6, src: end(0), dst: end(1), l4, len })
}

/// What lies behind the packet is sent along with it, so the frame counts.
fn fits(p: &Packet, frame: &[u8], out: u8) -> bool {
    frame.len() - p.l3 <= MTUS[usize::from(out)]
}

/// The length that the IP header says.
fn total(p: &Packet) -> usize {
    p.l4 + p.l4_len - p.l3
}

/// Err: too big for the way out, and it may not be cut (RFC 1812 section 4.2.2.7, RFC 8200 section 4.5). Its sender is told what passes,
/// unless it is only what lies behind the packet that does not fit.
fn check_size(port: u8, frame: &[u8], p: &Packet, out: u8) -> Result<(), Verdict> {
    let mtu = MTUS[usize::from(out)];
    if fits(p, frame, out) {
        return Ok(());
    }
    check(total(p) > mtu, TooBig)?;
    let may_cut = p.src.is_ipv4() && frame[p.l3 + 6] & 0x40 == 0;
    if may_cut { Ok(()) } else { Err(tell(port, frame, p, TooBig, Some(mtu))) }
}

/// The sender of a packet is told why it goes no further: that it is longer than `mtu`, or has come too far.
fn tell(port: u8, frame: &[u8], p: &Packet, reason: DropReason, mtu: Option<usize>) -> Verdict {
    let v6 = p.src.is_ipv6();
    let from_station = frame[6] & 1 == 0 && frame[6..12] != [0; 6];
    // RFC 1122 section 3.2.2: nothing to a group, and nothing about a later fragment; path MTU discovery of IPv6 needs the latter.
    let later = p.piece.is_some_and(|p| p.offset > 0);
    if !from_station || later && !v6 {
        return Verdict::Drop(reason);
    }
    let (header, longest) = if v6 { (40, 1280) } else { (20, 576) };
    let end = frame.len().min(p.l3 + total(p)).min(p.l3 + longest - header - 8);
    let mut message = match (v6, mtu.is_some()) {
        (false, true) => vec![3, 4],
        (false, false) => vec![11, 0],
        (true, true) => vec![2, 0],
        (true, false) => vec![3, 0],
    };
    message.extend([0, 0]);
    message.extend((mtu.unwrap_or(0) as u32).to_be_bytes());
    message.extend(&frame[p.l3..end]);
    let (from, to) = (octets(p.dst.ip()), octets(p.src.ip()));
    let len = message.len();
    let pseudo = [&from[..], &to, &(len as u32).to_be_bytes(), &[0, 0, 0, 58]].concat();
    let sum = internet_checksum(&[if v6 { &pseudo } else { &[] }, &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut ip = if v6 {
        [&[0x60, 0, 0, 0][..], &(len as u16).to_be_bytes(), &[58, 64], &from, &to].concat()
    } else {
        let total = (len as u16 + 20).to_be_bytes();
        // Internetwork control (RFC 1812 section 4.3.2.5); an identification says nothing when DF is set (RFC 6864).
        [&[0x45, 0xc0][..], &total, &[0, 0, 0x40, 0, 64, 1, 0, 0], &from, &to].concat()
    };
    if !v6 {
        let sum = internet_checksum(&[&ip]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    // Back to the station that it came from, under the tag that it had.
    Verdict::Told(reason, [&frame[6..12], &gw_mac(port), &frame[12..p.l3], &ip, &message].concat())
}

/// A packet with the right size goes out, whole or in pieces.
fn relay(p: &Packet, frame: &[u8], out: u8, ends: (SocketAddr, SocketAddr), id: Option<u32>) -> Verdict {
    let rewritten = rewrite(p, frame, out, ends, id);
    if fits(p, frame, out) { Verdict::Relay(out, rewritten) } else { Verdict::Cut(out, rewritten) }
}

/// A checksum of something of which only these ends change: RFC 1071 sums are modulo 0xffff.
fn moved_checksum(sum: u16, old: (SocketAddr, SocketAddr), new: (SocketAddr, SocketAddr)) -> u16 {
    let of = |(src, dst): (SocketAddr, SocketAddr)| {
        let ports = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
        let bytes = [octets(src.ip()), octets(dst.ip()), ports].concat();
        u32::from(!internet_checksum(&[&bytes]))
    };
    ((u32::from(sum) + of(old) + 0xffff - of(new)) % 0xffff) as u16
}

fn rewrite(
    p: &Packet,
    frame: &[u8],
    out: u8,
    (src, dst): (SocketAddr, SocketAddr),
    id: Option<u32>,
) -> Rewritten {
    let mut f = frame.to_vec();
    let v4 = src.is_ipv4();
    let (ttl, addresses) = if v4 { (8, 12) } else { (7, 8) };
    f[p.l3 + ttl] -= 1;
    let (s, d) = (octets(src.ip()), octets(dst.ip()));
    f[p.l3 + addresses..][..s.len()].copy_from_slice(&s);
    f[p.l3 + addresses + s.len()..][..d.len()].copy_from_slice(&d);
    if let (Some(id), Some(piece)) = (id, p.piece) {
        let id = &id.to_be_bytes()[if v4 { 2 } else { 0 }..];
        f[piece.id_at..piece.id_at + id.len()].copy_from_slice(id);
    }
    let mut wrong_checksum = None;
    if p.has_header() {
        let checksum_at = p.l4 + if p.proto == Proto::Tcp { 16 } else { 6 };
        let before = be(frame, checksum_at) as u16;
        f[p.l4..][..2].copy_from_slice(&src.port().to_be_bytes());
        f[p.l4 + 2..][..2].copy_from_slice(&dst.port().to_be_bytes());
        let none = p.proto == Proto::Udp && before == 0;
        // Of a fragment nobody here knows.
        let right = p.piece.is_none() && before == p.transport_checksum(frame, p.src.ip(), p.dst.ip());
        let after = match (none, right) {
            (true, _) => 0,
            (_, true) => p.transport_checksum(&f, src.ip(), dst.ip()),
            // Wrong by as much as before.
            _ => moved_checksum(before, (p.src, p.dst), (src, dst)),
        };
        f[checksum_at..][..2].copy_from_slice(&after.to_be_bytes());
        wrong_checksum = (!none && !right).then_some(checksum_at);
    }
    if v4 {
        let header = usize::from(f[p.l3] & 15) * 4;
        f[p.l3 + 10..][..2].fill(0);
        let sum = internet_checksum(&[&f[p.l3..p.l3 + header]]);
        f[p.l3 + 10..][..2].copy_from_slice(&sum.to_be_bytes());
    }
    link(frame, (&f[p.l3..], p.l3), out, dst.ip(), wrong_checksum)
}

/// The IP packet, which began at `l3` of the frame that came, in a frame that leaves by `out`.
fn link(
    came: &[u8],
    (ip, l3): (&[u8], usize),
    out: u8,
    dst: IpAddr,
    wrong_checksum: Option<usize>,
) -> Rewritten {
    let mut frame = [host_mac(next_hop(dst)), gw_mac(out)].concat();
    if let Some(id) = VLANS[usize::from(out)] {
        // The priority of the outermost tag it came with.
        let priority = if l3 > 14 { be(came, 14) as u16 & 0xf000 } else { 0 };
        frame.extend([0x81, 0x00]);
        frame.extend((priority | id).to_be_bytes());
    }
    frame.extend(if dst.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
    let wrong_checksum = wrong_checksum.map(|at| at - l3 + frame.len());
    frame.extend(ip);
    Rewritten { frame, wrong_checksum }
}
