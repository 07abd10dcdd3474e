//! Packets, described by what they say and built by etherparse: the packet that goes in, and the one that must come out.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, SlicedPacket, TcpHeader, VlanId,
};

/// VLAN of every port of [`super::PORTS`], and none of one more device, for rigs that tag its frames themselves.
pub const VLANS: [Option<u16>; 5] = [None, None, Some(30), Some(40), None];

/// MAC address of the gateway's port.
pub fn gw_mac(port: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, port + 1]
}

/// MAC address of the host that has `address`.
pub fn host_mac(address: IpAddr) -> [u8; 6] {
    match address {
        IpAddr::V4(a) => {
            let [a, b, c, d] = a.octets();
            [2, 4 ^ a, b, c, d, 4]
        }
        IpAddr::V6(a) => {
            let o = a.octets();
            [2, 6, o[0] ^ o[1], o[3], o[14], o[15]]
        }
    }
}

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Udp { checksum: bool },
    Tcp { flags: u8, seq: u32, ack: u32, options: Vec<u8> },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Packet {
    pub mac: ([u8; 6], [u8; 6]),
    pub vlan: Option<u16>,
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub ttl: u8,
    pub id: u16,
    pub ip_options: Vec<u8>,
    pub body: Body,
    pub payload: Vec<u8>,
}

pub fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl Packet {
    /// A packet as a host on the link of `port` sends it to the gateway.
    pub fn arriving(port: u8, src: SocketAddr, dst: SocketAddr, body: Body, payload: &[u8]) -> Packet {
        Packet {
            mac: (gw_mac(port), host_mac(src.ip())),
            vlan: VLANS[usize::from(port)],
            src,
            dst,
            ttl: 61,
            id: 0x1234,
            ip_options: Vec::new(),
            body,
            payload: payload.to_vec(),
        }
    }

    pub fn udp(port: u8, src: &str, dst: &str, payload: &[u8]) -> Packet {
        Packet::arriving(port, addr(src), addr(dst), Body::Udp { checksum: true }, payload)
    }

    pub fn tcp(port: u8, src: &str, dst: &str, flags: u8, payload: &[u8]) -> Packet {
        Packet::arriving(port, addr(src), addr(dst), tcp(flags), payload)
    }

    /// The same as the gateway must send it by `port`: new addresses, one hop older, towards `next_hop`.
    pub fn leaving_to(&self, port: u8, src: SocketAddr, dst: SocketAddr, next_hop: IpAddr) -> Packet {
        Packet {
            mac: (host_mac(next_hop), gw_mac(port)),
            vlan: VLANS[usize::from(port)],
            src,
            dst,
            ttl: self.ttl - 1,
            ..self.clone()
        }
    }

    /// The same towards the destination itself.
    pub fn leaving(&self, port: u8, src: SocketAddr, dst: SocketAddr) -> Packet {
        self.leaving_to(port, src, dst, dst.ip())
    }

    /// Where the IP header begins.
    pub fn l3(&self) -> usize {
        if self.vlan.is_some() { 18 } else { 14 }
    }

    /// Where the transport header begins.
    pub fn l4(&self) -> usize {
        self.l3() + if self.src.is_ipv4() { 20 + self.ip_options.len() } else { 40 }
    }

    fn ip(&self) -> IpHeaders {
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                let mut h = Ipv4Header::new(0, self.ttl, IpNumber::UDP, s.octets(), d.octets()).unwrap();
                h.identification = self.id;
                h.dont_fragment = true;
                h.fragment_offset = IpFragOffset::ZERO;
                h.options = self.ip_options.as_slice().try_into().unwrap();
                IpHeaders::Ipv4(h, Default::default())
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                let h = Ipv6Header {
                    traffic_class: 7,
                    flow_label: u32::from(self.id).try_into().unwrap(),
                    hop_limit: self.ttl,
                    source: s.octets(),
                    destination: d.octets(),
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(h, Default::default())
            }
            _ => unreachable!("one family"),
        }
    }

    /// The frame's bytes.
    pub fn build(&self) -> Vec<u8> {
        let eth = PacketBuilder::ethernet2(self.mac.1, self.mac.0);
        let ip = match self.vlan {
            Some(id) => eth.single_vlan(VlanId::try_new(id).unwrap()).ip(self.ip()),
            None => eth.ip(self.ip()),
        };
        let mut frame = Vec::new();
        match &self.body {
            Body::Udp { checksum } => {
                ip.udp(self.src.port(), self.dst.port()).write(&mut frame, &self.payload).unwrap();
                if !checksum {
                    frame[self.l4() + 6..][..2].fill(0);
                }
            }
            Body::Tcp { flags, seq, ack, options } => {
                let mut h = TcpHeader::new(self.src.port(), self.dst.port(), *seq, 0x2345);
                h.acknowledgment_number = *ack;
                (h.fin, h.syn, h.rst) = (flags & FIN != 0, flags & SYN != 0, flags & RST != 0);
                (h.psh, h.ack) = (flags & PSH != 0, flags & ACK != 0);
                h.set_options_raw(options).unwrap();
                ip.tcp_header(h).write(&mut frame, &self.payload).unwrap();
            }
        }
        frame
    }
}

pub fn tcp(flags: u8) -> Body {
    Body::Tcp { flags, seq: 0x0102_0304, ack: 0x0506_0708, options: Vec::new() }
}

/// Source, destination, TTL, transport payload and whether all checksums are right, read by etherparse.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub ttl: u8,
    pub tcp: bool,
    pub payload: Vec<u8>,
}

/// Reads a TCP or UDP frame with etherparse; every checksum in it is recomputed in full and must be right.
#[track_caller]
pub fn read(frame: &[u8]) -> Read {
    use etherparse::{NetSlice, TransportSlice};
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let transport = sliced.transport.unwrap();
    let (ports, payload, tcp) = match &transport {
        TransportSlice::Tcp(t) => ((t.source_port(), t.destination_port()), t.payload(), true),
        TransportSlice::Udp(u) => ((u.source_port(), u.destination_port()), u.payload(), false),
        other => panic!("neither TCP nor UDP: {other:?}"),
    };
    let (src, dst, ttl): (IpAddr, IpAddr, u8) = match sliced.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            let h = ip.header().to_header();
            assert_eq!(h.header_checksum, h.calc_header_checksum(), "IPv4 header checksum");
            match &transport {
                TransportSlice::Tcp(t) => {
                    assert_eq!(
                        t.checksum(),
                        t.to_header().calc_checksum_ipv4(&h, payload).unwrap(),
                        "TCP checksum"
                    );
                }
                TransportSlice::Udp(u) if u.checksum() != 0 => {
                    assert_eq!(
                        u.checksum(),
                        u.to_header().calc_checksum_ipv4(&h, payload).unwrap(),
                        "UDP checksum"
                    );
                }
                _ => {}
            }
            (h.source.into(), h.destination.into(), h.time_to_live)
        }
        NetSlice::Ipv6(ip) => {
            let h = ip.header().to_header();
            match &transport {
                TransportSlice::Tcp(t) => {
                    assert_eq!(
                        t.checksum(),
                        t.to_header().calc_checksum_ipv6(&h, payload).unwrap(),
                        "TCP checksum"
                    );
                }
                TransportSlice::Udp(u) => {
                    assert_eq!(
                        u.checksum(),
                        u.to_header().calc_checksum_ipv6(&h, payload).unwrap(),
                        "UDP checksum"
                    );
                }
                _ => {}
            }
            (h.source.into(), h.destination.into(), h.hop_limit)
        }
        other => panic!("neither IPv4 nor IPv6: {other:?}"),
    };
    let payload = payload.to_vec();
    Read { src: SocketAddr::new(src, ports.0), dst: SocketAddr::new(dst, ports.1), ttl, tcp, payload }
}

/// Recomputes the IPv4 header checksum of a frame whose bytes a test has changed.
pub fn fix_ip4(frame: &mut [u8], l3: usize) {
    let len = usize::from(frame[l3] & 0xf) * 4;
    frame[l3 + 10..l3 + 12].fill(0);
    let checksum = internet_checksum(&[&frame[l3..l3 + len]]);
    frame[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_be_bytes());
}

/// Recomputes the TCP or UDP checksum of a frame whose bytes a test has changed, as far as its lengths make sense.
pub fn fix_transport(frame: &mut [u8], l3: usize) {
    let be = |at: usize| usize::from(frame[at]) << 8 | usize::from(frame[at + 1]);
    let (l4, end, protocol, addresses) = match frame.get(l3).map(|b| b >> 4) {
        Some(4) if frame.len() >= l3 + 20 => {
            let header = usize::from(frame[l3] & 15) * 4;
            (l3 + header, l3 + be(l3 + 2), frame[l3 + 9], l3 + 12..l3 + 20)
        }
        Some(6) if frame.len() >= l3 + 40 => (l3 + 40, l3 + 40 + be(l3 + 4), frame[l3 + 6], l3 + 8..l3 + 40),
        _ => return,
    };
    if end > frame.len() || end < l4 + 8 {
        return;
    }
    let (at, len) = match protocol {
        17 => (l4 + 6, be(l4 + 4)),
        _ => (l4 + 16, end - l4),
    };
    if at + 2 > l4 + len || l4 + len > end {
        return;
    }
    frame[at..at + 2].fill(0);
    let pseudo = [&frame[addresses], &[0, protocol], &(len as u16).to_be_bytes()].concat();
    let sum = match internet_checksum(&[&pseudo, &frame[l4..l4 + len]]) {
        0 if protocol == 17 => 0xffff,
        sum => sum,
    };
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// RFC 1071, as plainly as it can be written: 16-bit words in network order, carries added back one at a time.
pub fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum = 0u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    !(sum as u16)
}

fn l3_of(frame: &[u8]) -> usize {
    if frame[12..14] == [0x81, 0] { 18 } else { 14 }
}

/// Cuts a frame's IP packet into fragments where its payload is at `cuts`, multiples of 8 (RFC 791 section 3.2, RFC 8200 section
/// 4.5). Extension headers are part of what is cut. Each IPv4 fragment has all options.
pub fn fragments(frame: &[u8], cuts: &[usize], id: u32) -> Vec<Vec<u8>> {
    let l3 = l3_of(frame);
    let v6 = frame[l3] >> 4 == 6;
    let header = if v6 { 40 } else { usize::from(frame[l3] & 15) * 4 };
    let payload = &frame[l3 + header..];
    let starts = [&[0], cuts].concat();
    let ends = [cuts, &[payload.len()]].concat();
    let piece = |(start, end): (&usize, &usize)| {
        let more = *end < payload.len();
        let mut f = frame[..l3 + header].to_vec();
        if v6 {
            let place = (*start as u16 | u16::from(more)).to_be_bytes();
            f.extend([&[f[l3 + 6], 0], &place[..], &id.to_be_bytes()].concat());
            f[l3 + 6] = 44;
            f[l3 + 4..l3 + 6].copy_from_slice(&((8 + end - start) as u16).to_be_bytes());
        } else {
            let place = ((*start / 8) as u16 | u16::from(more) << 13).to_be_bytes();
            f[l3 + 2..l3 + 4].copy_from_slice(&((header + end - start) as u16).to_be_bytes());
            f[l3 + 4..l3 + 8].copy_from_slice(&[&(id as u16).to_be_bytes()[..], &place].concat());
            fix_ip4(&mut f, l3);
        }
        f.extend(&payload[*start..*end]);
        f
    };
    starts.iter().zip(&ends).map(piece).collect()
}

/// Puts an extension header in front of what follows the IPv6 header; the first byte of `header` is filled in.
pub fn extend(frame: &[u8], kind: u8, header: &[u8]) -> Vec<u8> {
    let l3 = l3_of(frame);
    let mut f = frame.to_vec();
    f.splice(l3 + 40..l3 + 40, header.iter().copied());
    (f[l3 + 40], f[l3 + 6]) = (frame[l3 + 6], kind);
    let len = usize::from(f[l3 + 4]) << 8 | usize::from(f[l3 + 5]);
    f[l3 + 4..l3 + 6].copy_from_slice(&((len + header.len()) as u16).to_be_bytes());
    f
}

/// The IP packet of a TCP or UDP frame with its ends swapped: its checksums stay right.
pub fn swapped(frame: &[u8]) -> Vec<u8> {
    let mut ip = frame[l3_of(frame)..].to_vec();
    let (addresses, n, l4) = if ip[0] >> 4 == 6 { (8, 16, 40) } else { (12, 4, usize::from(ip[0] & 15) * 4) };
    let swap = |ip: &mut [u8], at: usize, n: usize| ip[at..at + 2 * n].rotate_left(n);
    swap(&mut ip, addresses, n);
    swap(&mut ip, l4, 2);
    ip
}

/// An ICMP or ICMPv6 message, checksums right, as the host `src` on the link of `port`, or a router there, sends it.
/// `head` is type, code and the four bytes behind the checksum.
pub fn icmp(port: u8, src: IpAddr, dst: IpAddr, head: [u8; 6], body: &[u8]) -> Vec<u8> {
    icmp_frame((gw_mac(port), host_mac(src)), port, src, dst, (61, 0), head, body)
}

/// The same with MAC addresses, TTL and identification of its own.
pub fn icmp_frame(
    (to, from): ([u8; 6], [u8; 6]),
    port: u8,
    src: IpAddr,
    dst: IpAddr,
    (ttl, tos): (u8, u8),
    head: [u8; 6],
    body: &[u8],
) -> Vec<u8> {
    let mut message = [&head[..2], &[0, 0], &head[2..], body].concat();
    let len = message.len() as u16;
    let (v6, src, dst) = match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => (false, s.octets().to_vec(), d.octets().to_vec()),
        (IpAddr::V6(s), IpAddr::V6(d)) => (true, s.octets().to_vec(), d.octets().to_vec()),
        _ => unreachable!("one family"),
    };
    let pseudo = [&src[..], &dst, &u32::from(len).to_be_bytes(), &[0, 0, 0, 58]].concat();
    let sum = internet_checksum(&[if v6 { &pseudo } else { &[] }, &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut f = ethernet(to, from, VLANS[usize::from(port)], if v6 { 0x86dd } else { 0x0800 });
    let l3 = f.len();
    if v6 {
        f.extend([&[0x60 | tos >> 4, tos << 4, 0, 0][..], &len.to_be_bytes(), &[58, ttl]].concat());
        f.extend([src, dst].concat());
    } else {
        f.extend([&[0x45, tos][..], &(20 + len).to_be_bytes(), &[0, 0, 0x40, 0, ttl, 1, 0, 0]].concat());
        f.extend([src, dst].concat());
        fix_ip4(&mut f, l3);
    }
    f.extend(message);
    f
}

fn ethernet(dst: [u8; 6], src: [u8; 6], vlan: Option<u16>, ethertype: u16) -> Vec<u8> {
    let mut f = [dst, src].concat();
    if let Some(id) = vlan {
        f.extend([0x81, 0x00]);
        f.extend(id.to_be_bytes());
    }
    f.extend(ethertype.to_be_bytes());
    f
}

/// An ARP frame (RFC 826) on the link of `port`, padded to the shortest frame. `op` 1 asks, 2 answers.
pub fn arp(
    port: u8,
    dst: [u8; 6],
    op: u8,
    (sha, spa): ([u8; 6], [u8; 4]),
    (tha, tpa): ([u8; 6], [u8; 4]),
) -> Vec<u8> {
    let mut f = ethernet(dst, sha, VLANS[usize::from(port)], 0x0806);
    f.extend([0, 1, 8, 0, 6, 4, 0, op]);
    f.extend([&sha[..], &spa, &tha, &tpa].concat());
    f.resize(60, 0);
    f
}

/// A neighbor solicitation (`kind` 135) or advertisement (136) with a link-layer address option when `option` is given
/// (RFC 4861 sections 4.3 and 4.4). Addresses are `(MAC, IPv6)`.
pub fn nd(
    port: u8,
    src: ([u8; 6], &str),
    dst: ([u8; 6], &str),
    (kind, flags): (u8, u8),
    target: &str,
    option: Option<[u8; 6]>,
) -> Vec<u8> {
    let [s, d, t]: [std::net::Ipv6Addr; 3] = [src.1, dst.1, target].map(|a| a.parse().unwrap());
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend(t.octets());
    if let Some(mac) = option {
        message.extend([kind - 134, 1]);
        message.extend(mac);
    }
    let len = message.len() as u8;
    let sum = internet_checksum(&[&s.octets(), &d.octets(), &[0, 0, 0, len, 0, 0, 0, 58], &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut f = ethernet(dst.0, src.0, VLANS[usize::from(port)], 0x86dd);
    f.extend([0x60, 0, 0, 0, 0, len, 58, 255]);
    f.extend([&s.octets()[..], &d.octets(), &message].concat());
    f
}
