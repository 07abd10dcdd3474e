//! Targets for what the relay makes of packets, and for what it does with several in a row: errors translated and made, headers of
//! the other family, clamped segments, fragments in any order, the claim to our addresses.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use forwarder::api::Proto;
use forwarder::config::AddressCheck;
use forwarder::flow::fragments::{HELD_FRIENDS, HELD_STRANGERS, REMEMBER};
use forwarder::flow::{Arrived, FragmentKey, Fragments, Piece, Tuple};
use forwarder::io::memory::MemoryIo;
use forwarder::nat::error::{OwnError, own_error};
use forwarder::nat::icmp::{Onward, quoted, translate};
use forwarder::nat::translate as headers;
use forwarder::neighbor::claim::{Claim, ClaimPort};
use forwarder::wire::ipv4::Ipv4;
use forwarder::wire::ipv6::Ipv6;
use forwarder::wire::tcp::clamp_mss;

use super::parsers::links;
use super::templates::{behind_ethernet, frames, transports};
use crate::common::packet::internet_checksum;

const GATEWAY4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const SENDER4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 7);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1);
const SENDER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 7);

/// What a whole packet's upper layer is, and where it begins; none of what is malformed.
struct Upper {
    protocol: u8,
    at: usize,
    total: usize,
    fragment: bool,
    src: IpAddr,
    dst: IpAddr,
    hops: u8,
}

/// Of a packet of which all may be there, or the beginning.
fn upper(packet: &[u8], whole: bool) -> Option<Upper> {
    if packet.first()? >> 4 == 4 {
        let parsed = if whole { Ipv4::parse(packet, packet.len()) } else { Ipv4::parse_quoted(packet) };
        let ip = parsed.ok()?;
        return Some(Upper {
            protocol: ip.protocol(),
            at: ip.header_len(),
            total: ip.total_len(),
            fragment: ip.is_fragment(),
            src: ip.src().into(),
            dst: ip.dst().into(),
            hops: ip.ttl(),
        });
    }
    let parsed = if whole { Ipv6::parse(packet, packet.len()) } else { Ipv6::parse_quoted(packet) };
    let ip = parsed.ok()?;
    let upper = ip.upper().ok()?;
    Some(Upper {
        protocol: upper.protocol,
        at: upper.offset,
        total: ip.total_len(),
        fragment: upper.fragment.is_some(),
        src: ip.src().into(),
        dst: ip.dst().into(),
        hops: ip.hop_limit(),
    })
}

/// The sum over an upper layer and its pseudo header: 0 when right.
fn sum_of(packet: &[u8], u: &Upper) -> u16 {
    let bytes = &packet[u.at..u.total];
    let addresses = match (u.src, u.dst) {
        (IpAddr::V4(_), _) if u.protocol == 1 => return internet_checksum(&[bytes]),
        (IpAddr::V4(s), IpAddr::V4(d)) => [s.octets(), d.octets()].concat(),
        (IpAddr::V6(s), IpAddr::V6(d)) => [s.octets(), d.octets()].concat(),
        _ => unreachable!("one family"),
    };
    internet_checksum(&[&addresses, &(bytes.len() as u32).to_be_bytes(), &[0, 0, 0, u.protocol], bytes])
}

/// Is the checksum of a quoted TCP or UDP packet right? None when not all is there, or it has none.
fn transport_right(packet: &[u8]) -> Option<bool> {
    let u = upper(packet, false).filter(|u| !u.fragment && packet.len() >= u.total && u.at + 8 <= u.total)?;
    let udp = &packet[u.at..u.total];
    let unlike = u.protocol == 17
        && (udp[6..8] == [0, 0] || usize::from(u16::from_be_bytes([udp[4], udp[5]])) != udp.len());
    (!unlike && (u.protocol == 17 || udp.len() >= 20)).then(|| sum_of(packet, &u) == 0)
}

/// An error that is passed on, within its family and to the other. The first byte is where its ICMP message begins; 0 where its
/// header says.
pub fn icmp_error(data: &[u8]) {
    let Some((l4, ip)) = data.split_first() else { return };
    let told = upper(ip, true).filter(|u| matches!(u.protocol, 1 | 58) && *l4 == 0);
    let l4 = told.as_ref().map_or(usize::from(*l4), |u| u.at);
    let before = quoted(ip, l4);
    let socket = |ip: IpAddr, port| SocketAddr::new(ip, port);
    for v6 in [false, true] {
        let (src, dst): (IpAddr, IpAddr) =
            if v6 { (GATEWAY6.into(), SENDER6.into()) } else { (GATEWAY4.into(), SENDER4.into()) };
        let (quoted_src, quoted_dst) = (socket(dst, 4001), socket(src, 5001));
        let onward = Onward { src, dst, quoted_src, quoted_dst, mtu: 1500 };
        let mut out = vec![0; ip.len().max(1280)];
        let Ok(len) = translate(ip, l4, &onward, &mut out) else { continue };
        let before = before.expect("what is translated quotes something");
        let Some(told) = &told else { continue };
        let sent = &out[..len];
        let now = upper(sent, true).expect("what is sent is a packet");
        let other = told.src.is_ipv6() != v6;
        assert_eq!((now.src, now.dst, now.hops), (src, dst, told.hops - 1));
        assert_eq!(now.total, len);
        assert!(!other || len <= if v6 { 1280 } else { 576 }, "{len} bytes");
        assert!(other || len == told.total);
        if !v6 {
            let was_right = other || Ipv4::parse(ip, ip.len()).unwrap().checksum_ok();
            assert_eq!(Ipv4::parse(sent, len).unwrap().checksum_ok(), was_right);
        }
        if other {
            assert_eq!((now.protocol, now.fragment), (if v6 { 58 } else { 1 }, false));
        }
        // Of an ICMP message in an IP version that it is not of, the pseudo header is nobody's business.
        if now.protocol == if v6 { 58 } else { 1 } {
            assert_eq!(sum_of(sent, &now), 0, "ICMP checksum");
        }
        let after = quoted(sent, now.at).expect("what is sent quotes something");
        assert_eq!((after.proto, after.src, after.dst), (before.proto, quoted_src, quoted_dst));
        let quotes = [(&ip[..told.total], told.at), (sent, now.at)];
        if let [Some(true), Some(right)] = quotes.map(|(packet, at)| transport_right(&packet[at + 8..])) {
            assert!(right, "checksum of the quoted packet");
        }
        // Less room is no more than an error.
        assert!(translate(ip, l4, &onward, &mut out[..len - 1]).is_err());
    }
}

/// An error of our own about any packet; the first byte says which.
pub fn own_errors(data: &[u8]) {
    let Some((how, packet)) = data.split_first() else { return };
    let mtu = [1500, 1280, 576, 68][usize::from(how >> 1 & 3)];
    let kind = if how & 1 == 0 { OwnError::TimeExceeded } else { OwnError::TooBig { mtu } };
    for from in [IpAddr::from(GATEWAY4), GATEWAY6.into()] {
        let mut out = [0; 1280];
        let Some(len) = own_error(kind, from, packet, &mut out) else { continue };
        let about = upper(packet, false).unwrap();
        let sent = &out[..len];
        let now = upper(sent, true).unwrap();
        assert_eq!((now.src, now.dst, now.total), (from, about.src, len));
        assert!(len <= if from.is_ipv4() { 576 } else { 1280 });
        let v6 = from.is_ipv6();
        assert_eq!((now.protocol, sum_of(sent, &now)), (if v6 { 58 } else { 1 }, 0));
        assert!(v6 || Ipv4::parse(sent, len).unwrap().checksum_ok());
        let quote = &sent[now.at + 8..];
        assert!(packet[..packet.len().min(about.total)].starts_with(quote));
        let of_error = match (about.protocol, packet.get(about.at)) {
            (1, Some(kind)) if !v6 => matches!(kind, 3 | 4 | 5 | 11 | 12),
            (58, Some(kind)) if v6 => *kind < 128,
            _ => false,
        };
        assert!(!of_error && !about.dst.is_multicast() && !about.src.is_multicast(), "it must not be sent");
        assert!(own_error(kind, from, packet, &mut out[..len - 1]).is_none());
    }
}

/// The header of the other family and what follows it are a packet that says the same. The first byte: how many bytes are not there.
pub fn family(data: &[u8]) {
    let Some((more, bytes)) = data.split_first() else { return };
    let len = bytes.len() + usize::from(*more);
    if let Ok(ip) = Ipv4::parse(bytes, len) {
        let header = headers::to_v6(&ip, GATEWAY6, SENDER6, 0x1234_5678);
        let made = [&header[..], ip.payload()].concat();
        let rest = ip.payload_len() - ip.payload().len();
        let now = Ipv6::parse(&made, made.len() + rest).expect("an IPv6 packet");
        assert_eq!((now.src(), now.dst(), now.hop_limit()), (GATEWAY6, SENDER6, ip.ttl().saturating_sub(1)));
        assert_eq!((now.traffic_class(), now.total_len()), (ip.tos(), header.len() + ip.payload_len()));
        // A protocol that IPv6 has an extension header for makes the walk go on.
        if !matches!(ip.protocol(), 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 | 253 | 254) {
            let upper = now.upper().unwrap();
            assert_eq!((upper.protocol, upper.offset), (ip.protocol(), header.len()));
            let place = upper.fragment.map(|f| (f.id, f.offset, f.more));
            let was = (0x1234_5678, ip.fragment_offset() as u16, ip.more_fragments());
            assert_eq!(place, ip.is_fragment().then_some(was));
        }
    }
    let Ok(ip) = Ipv6::parse(bytes, len) else { return };
    let Ok(upper) = ip.upper() else { return };
    let header = headers::to_v4(&ip, &upper, GATEWAY4, SENDER4, 77);
    let payload = ip.total_len().saturating_sub(upper.offset);
    let now = Ipv4::parse(&header, 20 + payload).expect("an IPv4 header");
    assert!(now.checksum_ok());
    assert_eq!((now.src(), now.dst(), now.ttl()), (GATEWAY4, SENDER4, ip.hop_limit().saturating_sub(1)));
    assert_eq!((now.tos(), now.protocol(), now.id()), (ip.traffic_class(), upper.protocol, 77));
    assert_eq!(now.total_len(), (20 + payload).min(65535));
    let (offset, more) = upper.fragment.map_or((0, false), |f| (usize::from(f.offset), f.more));
    assert_eq!((now.fragment_offset(), now.more_fragments()), (offset, more));
    assert_eq!(now.dont_fragment(), upper.fragment.is_none() && 20 + payload > 1260);
}

/// A segment whose checksum is made right: only announced sizes above the limit, the first two bytes, and the checksum change.
pub fn mss(data: &[u8]) {
    let Some(([m0, m1], segment)) = data.split_first_chunk::<2>() else { return };
    let most = u16::from_be_bytes([*m0, *m1]);
    let mut before = segment.to_vec();
    let right = |segment: &mut [u8]| {
        if segment.len() >= 18 {
            segment[16..18].fill(0);
            let sum = internet_checksum(&[segment]).to_be_bytes();
            segment[16..18].copy_from_slice(&sum);
        }
    };
    right(&mut before);
    let mut after = before.clone();
    let changed = clamp_mss(&mut after, most);
    assert_eq!(changed, after != before);
    let mut expected = before.clone();
    if before.len() >= 20 && before[13] & 2 != 0 {
        let end = usize::from(before[12] >> 4) * 4;
        let (mut at, mut sizes, mut good) = (20, Vec::new(), end >= 20 && end <= before.len());
        while good && at < end && before[at] != 0 {
            let len = match before[at] {
                1 => 1,
                _ if at + 1 < end => usize::from(before[at + 1]),
                _ => 0,
            };
            let is_size = before[at] == 2;
            good = (before[at] == 1 || len >= 2) && at + len <= end && (!is_size || len == 4);
            if good && is_size {
                sizes.push(at + 2);
            }
            at += len;
        }
        for at in sizes.into_iter().filter(|_| good) {
            if u16::from_be_bytes([expected[at], expected[at + 1]]) > most {
                expected[at..at + 2].copy_from_slice(&[*m0, *m1]);
            }
        }
        right(&mut expected);
    }
    assert_eq!(after, expected);
}

/// Pieces of a few datagrams, in any order and at any time; what goes on, under which identification.
#[derive(Default)]
struct Passed {
    /// By identification and family: the datagram, and its bytes.
    datagrams: BTreeMap<(u32, bool), u8>,
    bytes: HashSet<(u32, bool, u16)>,
    count: usize,
}

impl Passed {
    fn pass(&mut self, id: u32, v6: bool, datagram: u8, piece: Piece) {
        self.count += 1;
        assert!(id != 0 && (v6 || id <= 0xffff));
        let first = *self.datagrams.entry((id, v6)).or_insert(datagram);
        assert_eq!(first, datagram, "an identification is one datagram's");
        for at in piece.offset..piece.offset + piece.len {
            assert!(self.bytes.insert((id, v6, at)), "byte {at} of {datagram} passes twice");
        }
    }
}

/// Four bytes an arrival: datagram (4 bits), friend, more, later and last ones of IPv6; offset; length; time before it.
pub fn fragments(data: &[u8]) {
    let mut table: Fragments<(u8, Piece)> = Fragments::new([7; 32], 0, 1);
    let (mut passed, mut arrived, mut lost, mut now) = (Passed::default(), 0, 0, 0u32);
    for step in data.chunks_exact(4) {
        let (datagram, friend, more, v6) =
            (step[0] & 15, step[0] & 16 != 0, step[0] & 32 != 0, step[0] & 64 != 0);
        let len = if step[2] & 0x80 == 0 { u16::from(step[2]) * 8 } else { u16::from(step[2] & 0x7f) };
        // The last ones lie at the end of the largest datagram.
        let offset = u16::from(step[1]) * 8 + if step[0] & 128 == 0 { 0 } else { 65535 - 2047 };
        let piece = Piece { offset, len, more };
        if step[3] != 0 {
            now += 1 << (step[3] & 15);
            table.expire(now, &mut |_, _| lost += 1);
        }
        let ends = if v6 { ("[fd00::2]:4000", "[fd00::1]:5000") } else { ("10.0.0.2:4000", "10.0.0.1:5000") };
        let mut src: SocketAddr = ends.0.parse().unwrap();
        src.set_port(4000 + u16::from(datagram));
        let key = Tuple { port: 0, proto: Proto::Udp, src, dst: ends.1.parse().unwrap() }.key().unwrap();
        let k =
            FragmentKey { port: 0, protocol: if v6 { 0 } else { 17 }, addrs: key.addrs, id: datagram.into() };
        arrived += 1;
        let arrival = if offset == 0 {
            table.first(&k, piece, key, friend, now)
        } else {
            table.later(&k, piece, friend, now)
        };
        let datagram = datagram | u8::from(v6) << 7;
        match arrival {
            Arrived::Pass { key: of, id } => {
                assert_eq!(of, key, "the first one's key");
                passed.pass(id, v6, datagram, piece);
                while offset == 0
                    && let Some((port, (of, piece))) = table.release(&k)
                {
                    assert_eq!((port, of), (0, datagram));
                    passed.pass(id, v6, datagram, piece);
                }
            }
            Arrived::Wait => {
                assert_ne!(offset, 0, "a first one waits for none");
                lost += usize::from(table.hold(&k, (datagram, piece), friend).is_err());
            }
            Arrived::Refused(_) => lost += 1,
        }
        assert!(table.held() <= HELD_FRIENDS + HELD_STRANGERS);
        assert_eq!(passed.count + lost + table.held(), arrived, "each is somewhere, once");
    }
    table.expire(now + REMEMBER, &mut |_, _| lost += 1);
    assert_eq!((table.held(), passed.count + lost), (0, arrived));
}

/// Frames that come while we ask for our addresses: the port, the length and the bytes of each.
pub fn claim(data: &[u8]) {
    let ports = (0..).zip(links()).map(|(port, l2)| ClaimPort { port, device: port, l2: l2.clone() });
    let mut claim = Claim::new(ports.collect(), AddressCheck::Quick, &mut |_| 0);
    const BUFFERS: usize = 256;
    let mut ios = [MemoryIo::new(links().len(), BUFFERS)];
    let (mut rest, mut now, mut probes) = (data, 0, 0);
    loop {
        if let Some(([port, len], bytes)) = rest.split_first_chunk() {
            let (frame, behind) = bytes.split_at(bytes.len().min((*len).into()));
            let _ = ios[0].inject(port % links().len() as u8, frame);
            rest = behind;
        }
        let over = claim.turn(&mut ios, now);
        for (port, l2) in (0..).zip(links()) {
            for frame in ios[0].take_all(port) {
                probes += 1;
                assert_eq!(frame[6..12], l2.mac.0, "a probe of ours");
            }
        }
        if over {
            break;
        }
        now += 10;
        assert!(now < 1000, "it never ends");
    }
    let addresses: usize = links().iter().map(|l2| l2.addresses().count()).sum();
    assert_eq!(probes, 3 * addresses, "nothing but probes, and all of them");
    let found = claim.conflicts();
    for (i, conflict) in found.iter().enumerate() {
        assert!(links()[usize::from(conflict.port)].owns(conflict.rival.address), "{conflict:?}");
        assert!(links().iter().all(|l2| l2.mac != conflict.rival.mac), "ourselves");
        assert!(!found[..i].contains(conflict), "twice");
    }
    drop(claim);
    // What still lies in the device is its own.
    let mut left = forwarder::io::Burst::new();
    for port in 0..links().len() as u8 {
        while forwarder::io::PacketIo::rx(&mut ios[0], port, &mut left) > 0 {
            left.clear();
        }
    }
    assert_eq!(ios[0].available(), BUFFERS, "every buffer comes back");
}

pub fn packets() -> Vec<Vec<u8>> {
    behind_ethernet(&[0x0800, 0x86dd])
}

pub fn segments() -> Vec<Vec<u8>> {
    let behind = |version| transports(version, 6).into_iter().map(|s| [&[3, 0xe8], &s[1..]].concat());
    behind(4).chain(behind(6)).collect()
}

/// In order, backwards, interleaved, with one that comes twice, one that overlaps, and the last one alone.
pub fn arrivals() -> Vec<Vec<u8>> {
    let pieces: [[u8; 4]; 4] = [[0x20, 0, 16, 0], [0x20, 16, 16, 0], [0x20, 32, 16, 0], [0, 48, 5, 0]];
    let mut backwards = pieces;
    backwards.reverse();
    let other = |bits: u8| pieces.map(|[a, b, c, d]| [a | bits, b, c, d]);
    let twice = [pieces[0], pieces[1], pieces[1], [0x20, 24, 16, 0], pieces[3]];
    vec![
        pieces.concat(),
        backwards.concat(),
        [other(0x41), other(0x12)].concat().concat(),
        [backwards, other(0x53)].concat().concat(),
        twice.concat(),
        [[0x80, 255, 7, 0], [0x90, 1, 9, 13], pieces[0]].concat(),
    ]
}

pub fn claimed() -> Vec<Vec<u8>> {
    let short = |frame: &Vec<u8>| frame.len() < 256;
    let at = |frame: Vec<u8>, port: u8| [&[port, frame.len() as u8], &frame[..]].concat();
    frames().into_iter().filter(short).flat_map(|frame| [at(frame.clone(), 0), at(frame, 2)]).collect()
}
