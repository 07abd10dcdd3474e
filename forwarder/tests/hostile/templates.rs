//! Packets to begin with: what a client, a target, a router or a station on the link sends, right in itself, and the usual ways
//! in which such packets are made to lie.

use std::net::{IpAddr, SocketAddr};

use forwarder::api::{Call, Proto, Request};

use crate::common::packet::{
    ACK, Body, FIN, PSH, Packet, RST, SYN, arp, fix_ip4, gw_mac, host_mac, internet_checksum, nd, tcp,
};
use crate::common::{LAN, PORTS, SMALL, TAG, WAN, neighbors};

/// One end of a connection, as it sends: at which port, from where, to where.
#[derive(Debug, Clone, Copy)]
pub struct End {
    pub port: u8,
    pub proto: Proto,
    pub src: SocketAddr,
    pub dst: SocketAddr,
}

/// A port with two tags, and one beside it on the same device, behind those of [`PORTS`].
pub const QINQ: u8 = 4;
pub const BESIDE: u8 = 5;
/// The first port of every port's device, and its tags: kind and id, the outer one first.
pub const LINKS: [(u8, &[(u16, u16)]); 6] = [
    (LAN, &[]),
    (WAN, &[]),
    (TAG, &[(0x8100, 30)]),
    (SMALL, &[(0x8100, 40)]),
    (QINQ, &[(0x88a8, 100), (0x8100, 50)]),
    (QINQ, &[(0x8100, 60)]),
];

/// A frame for a port; `make` makes it for the first port of its device, without the tags of a port that [`PORTS`] does not have.
pub fn tagged(port: u8, make: impl FnOnce(u8) -> Vec<u8>) -> Vec<u8> {
    let (device, tags) = LINKS[usize::from(port)];
    let mut frame = make(device);
    if port >= QINQ {
        let tags = tags.iter().flat_map(|(kind, id)| [kind.to_be_bytes(), id.to_be_bytes()].concat());
        frame.splice(12..12, tags);
    }
    frame
}

/// How many templates there are.
pub const COUNT: u8 = 40;

fn be16(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 2).map_or(0, |b| usize::from(b[0]) << 8 | usize::from(b[1]))
}

fn set16(bytes: &mut [u8], at: usize, value: usize) {
    bytes[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
}

impl End {
    fn packet(&self, payload: &[u8]) -> Packet {
        let body = if self.proto == Proto::Tcp { tcp(PSH | ACK) } else { Body::Udp { checksum: true } };
        Packet::arriving(self.port, self.src, self.dst, body, payload)
    }

    fn segment(&self, flags: u8, options: &[u8]) -> Packet {
        let mut packet = self.packet(b"");
        if self.proto == Proto::Tcp {
            packet.body = Body::Tcp { flags, seq: 7, ack: 9, options: options.to_vec() };
        }
        packet
    }

    /// The packet of template `kind` (modulo their number), varied by `how`. `last` is a frame that the relay sent to this end.
    pub fn frame(&self, kind: u8, how: u8, last: Option<&[u8]>) -> Vec<u8> {
        tagged(self.port, |port| End { port, ..*self }.template(kind, how, last))
    }

    fn template(&self, kind: u8, how: u8, last: Option<&[u8]>) -> Vec<u8> {
        let v4 = self.src.is_ipv4();
        let mut data = self.packet(&[how; 16]);
        let l3 = data.l3();
        match kind % COUNT {
            0 => data.build(),
            1 => self.segment(SYN, &[2, 4, 5, 0xb4, 1, 3, 3, 7]).build(),
            2 => self.segment(SYN | ACK, &[2, 4, 0xff, 0xff]).build(),
            3 => self.segment(FIN | ACK, &[]).build(),
            4 => self.segment(RST, &[]).build(),
            5 => self.segment(ACK, &[5, 10, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0]).build(),
            6 => {
                data.ttl = how % 3;
                data.build()
            }
            7 => {
                data.ip_options = if v4 { vec![7, 7, 4, 0, 0, 0, 0, how] } else { Vec::new() };
                data.build()
            }
            8 => {
                data.ip_options = if v4 { vec![how, 3, 4, 1, how, 2, 0, 0] } else { Vec::new() };
                data.build()
            }
            9 => {
                data.body = if self.proto == Proto::Udp { Body::Udp { checksum: false } } else { data.body };
                data.build()
            }
            // Sizes around the MTUs, with and without DF.
            10 | 11 => {
                data.payload = vec![how; if how & 1 == 0 { 1200 + usize::from(how / 2) } else { 1420 }];
                let mut frame = data.build();
                if v4 && kind % COUNT == 11 {
                    frame[l3 + 6] = 0;
                    fix_ip4(&mut frame, l3);
                }
                frame
            }
            // Fragments: pieces of one datagram, whose number and offsets `how` chooses.
            12..=18 => {
                data.payload = vec![0xa5; 600];
                data.id = u16::from(how >> 4);
                let (first, rest) = (usize::from(how & 15) * 8 + 8, 256);
                let (from, len, more) = match kind % COUNT {
                    12 => (0, first.max(256), true),
                    13 => (256, 256, true),
                    14 => (512, 600, false),
                    // Tiny, overlapping, without a first one, beyond the largest packet.
                    15 => (0, first.min(16), true),
                    16 => (first, rest, how & 1 == 0),
                    17 => (8 * usize::from(how), 64, true),
                    _ => (65528 - 8 * usize::from(how & 3), 64, false),
                };
                fragment(&data.build(), l3, from, len, more, u32::from(how >> 4))
            }
            // One fragment that is all (RFC 6946).
            19 => fragment(&data.build(), l3, 0, 4096, false, u32::from(how)),
            // Chains of extension headers: their kinds by the bits of `how`.
            20 | 21 => {
                let mut frame = data.build();
                if !v4 {
                    let kinds = [60u8, 0, 43, 44, 60, 51, 135, 60];
                    let count = if kind % COUNT == 21 { 1 + usize::from(how) % 40 } else { 8 };
                    for i in 0..count {
                        if kind % COUNT == 21 || how >> i & 1 == 1 {
                            extend(&mut frame, l3, kinds[(i + usize::from(how & 3)) % 8]);
                        }
                    }
                }
                frame
            }
            // ICMP errors about what the relay sent to this end, by this end and by a router on the way.
            22..=28 => {
                let router = kind % COUNT >= 26;
                icmp_error(self, router, kind % COUNT - 22, how, last)
            }
            29 => self.echo(how),
            // ARP and ND.
            30 => {
                let (IpAddr::V4(src), IpAddr::V4(dst)) = (self.src.ip(), self.dst.ip()) else {
                    return self.solicit(how);
                };
                let mac = host_mac(self.src.ip());
                let to = if how & 1 == 0 { [0xff; 6] } else { gw_mac(self.port) };
                arp(self.port, to, 1 + (how >> 1 & 1), (mac, src.octets()), ([0; 6], dst.octets()))
            }
            // Tags: another VLAN, a priority, two tags, 802.1ad outside, one too few.
            31 => retag(&data.build(), l3, &[0x81, 0, how & 0xf0, how]),
            32 => retag(&data.build(), l3, &[0x88, 0xa8, 0, how, 0x81, 0, 0, 30]),
            33 => retag(&data.build(), l3, &[0x81, 0, 0, how, 0x81, 0, 0, 30]),
            34 => retag(&data.build(), l3, &[0x88, 0xa8, how & 0xe0, 100]),
            35 => retag(&data.build(), l3, &[]),
            // Another priority in the right tag.
            36 => {
                let mut frame = data.build();
                if l3 == 18 {
                    frame[14] |= how & 0xf0;
                }
                frame
            }
            // Land, and the source of somebody else.
            37 => {
                data.src = data.dst;
                data.build()
            }
            38 => {
                let last = if how < 8 { how } else { 99 };
                data.src.set_ip(match data.src.ip() {
                    IpAddr::V4(a) => IpAddr::from([a.octets()[0], a.octets()[1], a.octets()[2], last]),
                    IpAddr::V6(a) => {
                        let mut o = a.octets();
                        o[15] = last;
                        o.into()
                    }
                });
                data.build()
            }
            // A datagram shorter than its packet (RFC 9868), and padding behind it.
            _ => {
                let mut frame = data.build();
                if self.proto == Proto::Udp {
                    let at = data.l4() + 4;
                    let len = be16(&frame, at).saturating_sub(usize::from(how % 16));
                    set16(&mut frame, at, len);
                    put_right(&mut frame, true);
                }
                frame.resize(frame.len() + usize::from(how % 32), how);
                frame
            }
        }
    }

    fn echo(&self, how: u8) -> Vec<u8> {
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(_), IpAddr::V4(_)) => self.icmp(&[8, 0, 0, 0, 1, 2, how, 3, b'p', b'i', b'n', b'g']),
            _ => self.icmp(&[128, 0, 0, 0, 1, 2, how, 3, b'p', b'i', b'n', b'g']),
        }
    }

    fn solicit(&self, how: u8) -> Vec<u8> {
        let (src, dst) = (self.src.ip().to_string(), self.dst.ip().to_string());
        let mac = host_mac(self.src.ip());
        let src = if how & 2 == 0 { src.as_str() } else { "::" };
        let option = (how & 1 == 0).then_some(mac);
        if how & 4 == 0 {
            nd(self.port, (mac, src), (gw_mac(self.port), &dst), (135, 0), &dst, option)
        } else {
            nd(self.port, (mac, src), (gw_mac(self.port), &dst), (136, how & 0xe0), src, option)
        }
    }

    /// An ICMP or ICMPv6 message whose checksum is made right.
    fn icmp(&self, message: &[u8]) -> Vec<u8> {
        let udp = Packet::arriving(self.port, self.src, self.dst, Body::Udp { checksum: true }, b"");
        let (mut frame, l3) = (udp.build(), udp.l3());
        let mut message = message.to_vec();
        message[2..4].fill(0);
        if self.src.is_ipv4() {
            frame.truncate(l3 + 20);
            let sum = internet_checksum(&[&message]);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            frame[l3 + 9] = 1;
            set16(&mut frame, l3 + 2, 20 + message.len());
            fix_ip4(&mut frame, l3);
        } else {
            frame.truncate(l3 + 40);
            let len = (message.len() as u32).to_be_bytes();
            let sum = internet_checksum(&[&frame[l3 + 8..l3 + 40], &len, &[0, 0, 0, 58], &message]);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            frame[l3 + 6] = 58;
            set16(&mut frame, l3 + 4, message.len());
        }
        frame.extend(message);
        frame
    }
}

/// The piece of a whole frame's IP payload from byte `from` on, a multiple of eight; beyond its end come zeros, or nothing.
pub fn fragment(frame: &[u8], l3: usize, from: usize, len: usize, more: bool, id: u32) -> Vec<u8> {
    let v4 = frame[l3] >> 4 == 4;
    let header = if v4 { usize::from(frame[l3] & 15) * 4 } else { 40 };
    let payload = &frame[l3 + header..];
    let piece = match payload.get(from..) {
        Some(rest) => rest[..len.min(rest.len())].to_vec(),
        None => vec![0; len.min(64)],
    };
    let mut out = frame[..l3 + header].to_vec();
    if v4 {
        set16(&mut out, l3 + 2, header + piece.len());
        set16(&mut out, l3 + 6, ((from / 8) & 0x1fff) | if more { 0x2000 } else { 0 });
        fix_ip4(&mut out, l3);
    } else {
        set16(&mut out, l3 + 4, 8 + piece.len());
        let [o, p] = ((from & 0xfff8) as u16 | u16::from(more)).to_be_bytes();
        out.extend([out[l3 + 6], 0, o, p]);
        out[l3 + 6] = 44;
        out.extend(id.to_be_bytes());
    }
    out.extend(piece);
    out
}

/// Puts an extension header of eight bytes in front of what follows the IPv6 header.
fn extend(frame: &mut Vec<u8>, l3: usize, kind: u8) {
    let next = frame[l3 + 6];
    // Padding where options are expected, no segments left, offset and flags zero.
    let header = if kind == 44 { [next, 0, 0, 0, 0, 0, 0, 9] } else { [next, 0, 1, 4, 0, 0, 0, 0] };
    frame.splice(l3 + 40..l3 + 40, header);
    frame[l3 + 6] = kind;
    let len = be16(frame, l3 + 4) + 8;
    set16(frame, l3 + 4, len);
}

/// Makes the checksums of a spoiled frame right again, as far as its lengths make sense: IPv4's, and that of TCP, UDP, ICMP or
/// ICMPv6, behind extension headers as well. `upper` false leaves the latter.
pub fn put_right(frame: &mut [u8], upper: bool) {
    let mut l3 = 14;
    while l3 + 4 <= frame.len() && matches!(be16(frame, l3 - 2), 0x8100 | 0x88a8) {
        l3 += 4;
    }
    let (protocol, l4, end, addresses) = match frame.get(l3).map(|b| b >> 4) {
        Some(4) if frame.len() >= l3 + 20 => {
            let header = usize::from(frame[l3] & 15) * 4;
            if header < 20 || frame.len() < l3 + header {
                return;
            }
            fix_ip4(frame, l3);
            // A piece of a datagram has no checksum of its own, but what is in the first one.
            if be16(frame, l3 + 6) & 0x1fff != 0 {
                return;
            }
            (frame[l3 + 9], l3 + header, l3 + be16(frame, l3 + 2), l3 + 12..l3 + 20)
        }
        Some(6) if frame.len() >= l3 + 40 => {
            let (mut next, mut at) = (frame[l3 + 6], l3 + 40);
            while matches!(next, 0 | 43 | 44 | 60) && at + 8 <= frame.len() {
                let len = if next == 44 { 8 } else { 8 * (1 + usize::from(frame[at + 1])) };
                (next, at) = (frame[at], at + len);
            }
            (next, at, l3 + 40 + be16(frame, l3 + 4), l3 + 8..l3 + 40)
        }
        _ => return,
    };
    let place = match protocol {
        1 | 58 => 2,
        6 => 16,
        17 => 6,
        _ => return,
    };
    if !upper || end > frame.len() || l4 + place + 2 > end {
        return;
    }
    let end = if protocol == 17 { end.min(l4 + be16(frame, l4 + 4)).max(l4 + 8) } else { end };
    frame[l4 + place..l4 + place + 2].fill(0);
    let len = ((end - l4) as u32).to_be_bytes();
    let pseudo =
        if protocol == 1 { Vec::new() } else { [&frame[addresses], &len, &[0, 0, 0, protocol]].concat() };
    let sum = match internet_checksum(&[&pseudo, &frame[l4..end]]) {
        0 if protocol == 17 => 0xffff,
        sum => sum,
    };
    set16(frame, l4 + place, sum.into());
}

fn retag(frame: &[u8], l3: usize, tags: &[u8]) -> Vec<u8> {
    [&frame[..12], tags, &frame[l3 - 2..]].concat()
}

const ERRORS4: [(u8, u8); 7] = [(3, 4), (3, 3), (11, 0), (4, 0), (3, 1), (12, 0), (5, 1)];
const ERRORS6: [(u8, u8); 7] = [(2, 0), (1, 4), (3, 0), (4, 1), (1, 0), (3, 1), (137, 0)];

fn icmp_error(end: &End, router: bool, which: u8, how: u8, last: Option<&[u8]>) -> Vec<u8> {
    let v4 = end.src.is_ipv4();
    let (kind, code) = if v4 { ERRORS4 } else { ERRORS6 }[usize::from(which % 7)];
    // What is quoted: the packet last sent to this end, or one that never was.
    let answer =
        Packet::arriving(end.port, end.dst, end.src, Body::Udp { checksum: true }, &[how; 40]).build();
    let quoted = last.unwrap_or(&answer);
    let mut at = 12;
    while matches!(be16(quoted, at), 0x8100 | 0x88a8) {
        at += 4;
    }
    let quoted = quoted.get(at + 2..).unwrap_or(&[]);
    let most = match how >> 5 {
        0 => 8,
        1 => 20,
        2 => 28,
        3 => 48,
        4 => 60,
        5 => 128,
        _ => 548,
    };
    let mut quote = quoted[..quoted.len().min(most)].to_vec();
    // An MTU that makes sense, one that does not, and one that is absent.
    let mtu: u32 = [1400, 1280, 1279, 576, 68, 67, 0, 0xffff][usize::from(how & 7)];
    let mut rest =
        if matches!((v4, kind, code), (true, 3, 4) | (false, 2, 0)) { mtu } else { 0 }.to_be_bytes();
    if how & 0x18 == 0x18 {
        // An extension structure behind a padded quote (RFC 4884 section 7), one object.
        quote.resize(128, 0);
        rest[if v4 { 1 } else { 0 }] = if v4 { 32 } else { 16 };
        let mut extension = vec![0x20, 0, 0, 0, 0, 8, 1, 1, 1, 2, 3, how];
        let sum = internet_checksum(&[&extension]);
        extension[2..4].copy_from_slice(&sum.to_be_bytes());
        quote.extend(extension);
    }
    let mut from = *end;
    if router {
        from.src.set_ip(match end.src.ip() {
            IpAddr::V4(_) => IpAddr::from([198, 51, 100, how]),
            IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
        });
    }
    from.icmp(&[&[kind, code, 0, 0][..], &rest, &quote].concat())
}

/// Clients of both families and protocols, for the targets that know no connection.
fn ends() -> Vec<End> {
    let end = |port, proto, src: &str, dst: &str| End {
        port,
        proto,
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
    };
    vec![
        end(LAN, Proto::Udp, "10.0.0.2:4000", "10.0.0.1:5000"),
        end(LAN, Proto::Tcp, "10.0.0.2:4000", "10.0.0.1:5000"),
        end(LAN, Proto::Udp, "[fd00::2]:4000", "[fd00::1]:5000"),
        end(TAG, Proto::Tcp, "[fd00:2::2]:4000", "[fd00:2::1]:5000"),
    ]
}

/// Every template from each of them.
pub fn frames() -> Vec<Vec<u8>> {
    let all = ends().into_iter().flat_map(|end| (0..COUNT).map(move |kind| end.frame(kind, 0x64, None)));
    all.filter(|frame| frame.len() < 400).collect()
}

/// What follows the Ethernet header of such frames, behind a zero byte where a target reads how much is not in it.
pub fn behind_ethernet(ethertypes: &[u16]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for frame in frames() {
        let at = if be16(&frame, 12) == 0x8100 { 16 } else { 12 };
        if ethertypes.iter().any(|e| usize::from(*e) == be16(&frame, at)) {
            let lead: &[u8] = if be16(&frame, at) == 0x0806 { &[] } else { &[0] };
            found.push([lead, &frame[at + 2..]].concat());
        }
    }
    found
}

/// What follows the IP header of such frames, of one version and protocol; behind a byte that the target reads.
pub fn transports(version: u8, protocol: u8) -> Vec<Vec<u8>> {
    let (length, at) = if version == 4 { (20, 9) } else { (40, 6) };
    let lead: &[u8] = if protocol == 1 { &[] } else { &[1] };
    let packets = behind_ethernet(&[0x0800, 0x86dd]);
    let packets = packets.iter().map(|p| &p[1..]);
    let right = |p: &&[u8]| p[0] >> 4 == version && p.len() > length && p[at] == protocol;
    packets.filter(right).map(|p| [lead, &p[length..]].concat()).collect()
}

pub fn configs() -> Vec<Vec<u8>> {
    let example = include_str!("../../../docs/s2ds.example.toml");
    let sections = example.split("\n\n").map(|s| s.as_bytes().to_vec());
    let whole = [PORTS.to_owned() + &neighbors(), example.to_owned()].map(String::into_bytes);
    sections.chain(whole).collect()
}

pub fn calls() -> Vec<Vec<u8>> {
    let spec = crate::common::flow("f", Proto::Udp, "10.0.0.1:5", "10.1.0.2:6", "10.0.0.0/24");
    let requests = [
        Request::FlowAdd { spec },
        Request::FlowDelete { name: "f".into() },
        Request::FlowList,
        Request::LeaseRenew { name: "f".into(), lease: Some(60) },
        Request::ConnectionList { flow: Some("f".into()), limit: Some(3) },
    ];
    let lines = (1..).zip(requests).map(|(id, request)| serde_json::to_vec(&Call { id, request }).unwrap());
    lines
        .chain([br#"{"id":1,"op":"explain","port":"lan","proto":"tcp","src":"[::1]:2","dst":"1.2.3.4:5"}"#
            .to_vec()])
        .collect()
}

pub fn recordings() -> Vec<Vec<u8>> {
    let file = |word: fn(u32) -> [u8; 4], magic: u32| {
        let header = [magic, 0x0002_0004, 0, 0, 65535, 1].map(word).concat();
        let records = frames().into_iter().take(3).map(|f| {
            let len = f.len() as u32;
            [[1, 2, len, len].map(word).concat(), f].concat()
        });
        [vec![header], records.collect()].concat().concat()
    };
    vec![file(u32::to_be_bytes, 0xa1b2_c3d4), file(u32::to_le_bytes, 0xa1b2_3c4d)]
}
