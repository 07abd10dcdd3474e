//! One target a parser: whatever the bytes are, it does not panic, what it accepts lies within them, and what it says agrees
//! with a second opinion where there is one.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use forwarder::api::Call;
use forwarder::config::Config;
use forwarder::io::memory::MemoryIo;
use forwarder::io::pcap::Pcap;
use forwarder::neighbor::{Outcome, PortL2, answer_arp, answer_nd};
use forwarder::net::Network;
use forwarder::wire::arp::Arp;
use forwarder::wire::icmp::{self, Icmp};
use forwarder::wire::icmpv6::{self, Advertisement, Icmpv6, Solicitation};
use forwarder::wire::ipv4::{Ipv4, Ipv4Mut};
use forwarder::wire::ipv6::{Ipv6, Ipv6Mut};
use forwarder::wire::tcp::{self, Tcp, TcpMut};
use forwarder::wire::udp::{Udp, UdpMut};
use forwarder::wire::{Delta, Frame, Mac, WireError, checksum as sums, eth as ether};

use crate::common::packet::{gw_mac, internet_checksum};
use crate::common::{PORTS, neighbors};

/// The first byte of an input says how many bytes of the frame lie in further segments.
fn segmented(data: &[u8]) -> Option<(&[u8], usize)> {
    let (more, bytes) = data.split_first()?;
    Some((bytes, bytes.len() + usize::from(*more)))
}

pub fn eth(data: &[u8]) {
    if let Ok(frame) = Frame::parse(data) {
        assert!(frame.l3 <= data.len());
        assert_eq!(
            (frame.dst.0, frame.src.0),
            (data[..6].try_into().unwrap(), data[6..12].try_into().unwrap())
        );
        assert_eq!(frame.ethertype.to_be_bytes(), data[frame.l3 - 2..frame.l3]);
    }
    let text = String::from_utf8_lossy(data);
    if let Ok(mac) = text.parse::<Mac>() {
        assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
    }
}

pub fn arp(data: &[u8]) {
    if let Ok(packet) = Arp::parse(data) {
        assert_eq!(packet.to_bytes(), data[..28]);
    }
}

pub fn ipv4(data: &[u8]) {
    let Some((bytes, len)) = segmented(data) else { return };
    let quoted = Ipv4::parse_quoted(bytes);
    let Ok(ip) = Ipv4::parse(bytes, len) else { return };
    assert!(quoted.is_ok());
    assert!((20..=60).contains(&ip.header_len()) && ip.header_len() <= bytes.len());
    assert!(ip.header_len() <= ip.total_len() && ip.total_len() <= len);
    assert_eq!(ip.payload_len(), ip.total_len() - ip.header_len());
    assert!(ip.payload().len() <= ip.payload_len());
    assert_eq!(ip.checksum_ok(), internet_checksum(&[&bytes[..ip.header_len()]]) == 0);
    let other = etherparse::Ipv4HeaderSlice::from_slice(bytes).unwrap();
    assert_eq!((ip.src(), ip.dst()), (other.source_addr(), other.destination_addr()));
    assert_eq!((ip.ttl(), ip.protocol(), ip.id()), (other.ttl(), other.protocol().0, other.identification()));
    assert_eq!(ip.fragment_offset(), usize::from(other.fragments_offset().value()) * 8);
    assert_eq!(
        (ip.is_fragment(), ip.dont_fragment()),
        (other.is_fragmenting_payload(), other.dont_fragment())
    );

    let mut copy = bytes.to_vec();
    let mut writer = Ipv4Mut::new(&mut copy).unwrap();
    writer.set_src(ip.src());
    writer.set_dst(ip.dst());
    writer.set_ttl(ip.ttl());
    writer.set_total_len(ip.total_len() as u16);
    writer.set_checksum(ip.checksum());
    assert_eq!(copy, bytes);
    Ipv4Mut::new(&mut copy).unwrap().fill_checksum();
    assert!(Ipv4::parse(&copy, len).unwrap().checksum_ok());
}

pub fn ipv6(data: &[u8]) {
    let Some((bytes, len)) = segmented(data) else { return };
    if let Ok(quoted) = Ipv6::parse_quoted(bytes) {
        // A quote may be cut anywhere; the walk must not leave what is there.
        if let Ok(upper) = quoted.upper() {
            assert!(upper.offset <= quoted.total_len());
        }
    }
    let Ok(ip) = Ipv6::parse(bytes, len) else { return };
    assert!(ip.total_len() <= len && ip.payload().len() <= ip.payload_len());
    let other = etherparse::Ipv6HeaderSlice::from_slice(bytes).unwrap();
    assert_eq!((ip.src(), ip.dst()), (other.source_addr(), other.destination_addr()));
    assert_eq!((ip.hop_limit(), ip.next_header()), (other.hop_limit(), other.next_header().0));
    assert_eq!(ip.payload_len(), usize::from(other.payload_length()));
    if let Ok(upper) = ip.upper() {
        assert!((40..=ip.total_len().max(40)).contains(&upper.offset));
    }
    let mut copy = bytes.to_vec();
    let mut writer = Ipv6Mut::new(&mut copy).unwrap();
    writer.set_src(ip.src());
    writer.set_dst(ip.dst());
    writer.set_hop_limit(ip.hop_limit());
    writer.set_payload_len(ip.payload_len() as u16);
    assert_eq!(copy, bytes);
}

pub fn icmp(data: &[u8]) {
    let Ok(message) = Icmp::parse(data) else { return };
    assert_eq!(message.body().len(), data.len() - 8);
    assert_eq!(message.checksum_ok(), internet_checksum(&[data]) == 0);
    if message.is_error() {
        let _ = Ipv4::parse_quoted(message.body());
    }
    let mut copy = data.to_vec();
    match icmp::echo_reply(&mut copy) {
        Ok(()) => {
            assert_eq!((copy[0], &copy[4..]), (0, &data[4..]));
            assert_eq!(Icmp::parse(&copy).unwrap().checksum_ok(), message.checksum_ok());
        }
        Err(_) => assert_eq!(copy, data),
    }
}

/// An IPv6 packet whose upper layer is ICMPv6; the first byte says whether its checksum is made right.
pub fn icmpv6(data: &[u8]) {
    let Some((fix, message)) = data.split_first() else { return };
    let mut header = [0u8; 40];
    header[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, 58, if fix & 2 == 0 { 255 } else { 64 }]);
    header[4..6].copy_from_slice(&(message.len().min(65535) as u16).to_be_bytes());
    header[8..24].copy_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    header[24..].copy_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let mut packet = [&header[..], message].concat();
    if fix & 1 != 0 && message.len() >= 4 {
        packet[42..44].fill(0);
        let len = (message.len() as u32).to_be_bytes();
        let sum = internet_checksum(&[&header[8..], &len, &[0, 0, 0, 58], &packet[40..]]);
        packet[42..44].copy_from_slice(&sum.to_be_bytes());
    }
    let Ok(ip) = Ipv6::parse(&packet, packet.len()) else { return };
    let asked = Solicitation::parse(&ip);
    let told = Advertisement::parse(&ip);
    let Ok(message) = Icmpv6::parse(ip.payload()) else {
        assert!(asked.is_err() && told.is_err());
        return;
    };
    let valid = message.checksum_ok(ip.pseudo());
    assert!(asked.is_err() || message.kind() == icmpv6::SOLICITATION && valid);
    assert!(told.is_err() || message.kind() == icmpv6::ADVERTISEMENT && valid);
    for target in [asked.map(|a| a.target), told.map(|a| a.target)].into_iter().flatten() {
        assert!(!target.is_multicast() && ip.hop_limit() == 255);
    }
    if message.is_error() {
        let _ = Ipv6::parse_quoted(message.body()).map(|quoted| quoted.upper());
    }
    let mut copy = ip.payload().to_vec();
    if icmpv6::echo_reply(&mut copy).is_ok() {
        assert_eq!(Icmpv6::parse(&copy).unwrap().checksum_ok(ip.pseudo()), valid);
    }
}

pub fn links() -> &'static [PortL2] {
    static LINKS: OnceLock<Vec<PortL2>> = OnceLock::new();
    LINKS.get_or_init(|| {
        let config = Arc::new(Config::parse(PORTS, "ports").unwrap());
        let macs: Vec<Mac> = (0..config.ports.len() as u8).map(|p| Mac(gw_mac(p))).collect();
        Network::new(config, &macs).ports_l2()
    })
}

/// A frame that a port takes for ARP and, when it is IPv6, for neighbor discovery. An answer is a frame of our own to whoever
/// asked, and claims none but our own addresses.
pub fn neighbor(data: &[u8]) {
    let Ok(frame) = Frame::parse(data) else { return };
    for link in links() {
        if let Ok(outcome) = answer_arp(data, &frame, link) {
            answered(link, &outcome);
        }
        let mut copy = data.to_vec();
        for right in [false, true] {
            if right {
                make_right(&mut copy[frame.l3..]);
            }
            let bytes = &copy[frame.l3..];
            let Ok(ip) = Ipv6::parse(bytes, bytes.len()) else { continue };
            if let Ok(outcome) = answer_nd(&ip, &frame, link) {
                answered(link, &outcome);
            }
        }
    }
}

/// The hop limit and the checksum of a neighbor discovery message, without which nobody reads on.
fn make_right(packet: &mut [u8]) {
    if packet.len() < 48 {
        return;
    }
    let len = (packet.len() - 40).min(65535) as u16;
    packet[4..6].copy_from_slice(&len.to_be_bytes());
    (packet[0], packet[6], packet[7]) = (0x60, 58, 255);
    packet[42..44].fill(0);
    let end = 40 + usize::from(len);
    let sum =
        internet_checksum(&[&packet[8..40], &[0, 0], &len.to_be_bytes(), &[0, 0, 0, 58], &packet[40..end]]);
    packet[42..44].copy_from_slice(&sum.to_be_bytes());
}

fn answered(link: &PortL2, outcome: &Outcome) {
    if let Some(heard) = &outcome.heard {
        assert!(!link.owns(heard.address), "we do not learn ourselves: {heard:?}");
    }
    let Some(reply) = &outcome.reply else { return };
    let frame = Frame::parse(reply).unwrap();
    assert_eq!(frame.src, link.mac);
    let claimed: IpAddr = match frame.ethertype {
        ether::ETHERTYPE_ARP => Arp::parse(&reply[frame.l3..]).unwrap().spa.into(),
        ether::ETHERTYPE_IPV6 => {
            let ip = Ipv6::parse(&reply[frame.l3..], reply.len() - frame.l3).unwrap();
            let told = Advertisement::parse(&ip).unwrap();
            assert_eq!(told.mac, Some(link.mac));
            told.target.into()
        }
        other => panic!("an answer of ethertype {other:#x}"),
    };
    assert!(link.owns(claimed), "claimed {claimed}");
}

pub fn tcp(data: &[u8]) {
    let Some((bytes, len)) = segmented(data) else { return };
    let Ok(segment) = Tcp::parse(bytes, len) else { return };
    assert!((20..=60).contains(&segment.header_len()) && segment.header_len() <= bytes.len());
    let other = etherparse::TcpHeaderSlice::from_slice(bytes).unwrap();
    assert_eq!((segment.src_port(), segment.dst_port()), (other.source_port(), other.destination_port()));
    assert_eq!((segment.seq(), segment.ack()), (other.sequence_number(), other.acknowledgment_number()));
    assert_eq!(tcp::ports(bytes), Ok((segment.src_port(), segment.dst_port())));
    let _ = (tcp::contradictory(segment.flags()), segment.checksum_ok(Default::default()));
    let mut copy = bytes.to_vec();
    let mut writer = TcpMut::new(&mut copy).unwrap();
    writer.set_src_port(segment.src_port());
    writer.set_dst_port(segment.dst_port());
    writer.set_checksum(segment.checksum());
    assert_eq!(copy, bytes);
}

pub fn udp(data: &[u8]) {
    let Some((bytes, len)) = segmented(data) else { return };
    let Ok(datagram) = Udp::parse(bytes, len) else {
        assert!(bytes.len() >= 8 || Udp::parse(bytes, len).err() == Some(WireError::Truncated));
        return;
    };
    assert!((8..=len).contains(&datagram.len()) && datagram.payload().len() <= datagram.len() - 8);
    let other = etherparse::UdpHeaderSlice::from_slice(bytes).unwrap();
    assert_eq!((datagram.src_port(), datagram.dst_port()), (other.source_port(), other.destination_port()));
    let _ = datagram.checksum_ok(Default::default());
    let mut copy = bytes.to_vec();
    let mut writer = UdpMut::new(&mut copy).unwrap();
    writer.set_src_port(datagram.src_port());
    writer.set_dst_port(datagram.dst_port());
    writer.set_checksum(datagram.checksum());
    assert_eq!(copy, bytes);
}

/// A checksum changed by deltas is the one computed in full. Input: where a field of which length begins, its new content, and
/// what the checksum covers.
pub fn checksum(data: &[u8]) {
    let Some(([at, words, new @ ..], covered)) = data.split_first_chunk::<18>() else { return };
    let len = 2 * (1 + usize::from(words % 8));
    let at = 2 * usize::from(*at);
    if covered.len() < at + len {
        return;
    }
    let mut after = covered.to_vec();
    after[at..at + len].copy_from_slice(&new[..len]);
    for bytes in [covered, &after] {
        assert_eq!(sums::sum(bytes).finish().to_be(), internet_checksum(&[bytes]), "{bytes:02x?}");
    }
    // The checksum of nothing but zeros has two forms; no packet is so.
    if covered.iter().all(|b| *b == 0) || after.iter().all(|b| *b == 0) {
        return;
    }
    let (before, wanted) = (sums::sum(covered), sums::sum(&after));
    let delta = Delta::NONE.replace(&covered[at..at + len], &new[..len]);
    assert_eq!(delta.apply(before.finish()), wanted.finish());
    assert_eq!(delta.apply_udp(before.finish_udp()), wanted.finish_udp());
    assert_eq!(delta.inverse().apply(wanted.finish()), before.finish());
    assert_eq!(delta.apply_udp(0), 0);
    let by_words = covered[at..at + len].chunks(2).zip(new.chunks(2)).fold(Delta::NONE, |d, (old, new)| {
        d.replace_word(u16::from_ne_bytes([old[0], old[1]]), u16::from_ne_bytes([new[0], new[1]]))
    });
    assert_eq!(by_words.apply(before.finish()), wanted.finish());
}

pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for text in [text.to_owned(), format!("{PORTS}\n{}\n{text}", neighbors())] {
        match Config::parse(&text, "fuzz.toml") {
            Ok(config) => assert!(!format!("{config:?}").is_empty()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

pub fn api(data: &[u8]) {
    let Ok(call) = serde_json::from_slice::<Call>(data) else { return };
    let line = serde_json::to_string(&call).unwrap();
    assert!(!line.contains('\n'), "one line a call");
    assert_eq!(serde_json::from_str::<Call>(&line).unwrap(), call);
}

pub fn pcap(data: &[u8]) {
    let Ok(recording) = Pcap::from_bytes(data.to_vec()) else { return };
    let (mut frames, mut bytes) = (0, 24);
    for record in recording.records() {
        let Ok(record) = record else { break };
        frames += 1;
        bytes += 16 + record.frame.len();
    }
    assert!(bytes <= data.len());
    let io = MemoryIo::new(1, 8);
    if let Ok(arrived) = recording.replay(&io, 0, 0) {
        assert!(arrived <= frames && io.available() == 8 - arrived);
    }
}
