//! Properties of the packet formats: no bytes make a parser panic, what is written parses back, and an incremental checksum
//! update equals a full recompute.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, Ipv6Addr};

use forwarder::neighbor::{PortL2, Solicit, answer_arp, answer_nd};
use forwarder::wire::arp::{self, Arp};
use forwarder::wire::checksum::{Delta, pseudo_v4, pseudo_v6, sum};
use forwarder::wire::icmp::{self, Icmp};
use forwarder::wire::icmpv6::{self, Advertisement, Icmpv6, Solicitation};
use forwarder::wire::ipv4::{self, Ipv4, Ipv4Mut};
use forwarder::wire::ipv6::{self, Ipv6, Ipv6Mut};
use forwarder::wire::tcp::{self, Tcp, TcpMut};
use forwarder::wire::udp::{self, Udp, UdpMut};
use forwarder::wire::{Frame, Mac, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, Tags, WireError, eth};
use proptest::prelude::*;

fn port(mac: Mac, tags: Tags) -> PortL2 {
    let (ipv4, ipv6) = (vec![Ipv4Addr::new(10, 0, 0, 1)], vec![Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)]);
    PortL2 { mac, tags, mtu: 1500, ipv4, ipv6 }
}

/// Runs everything that reads a packet over `bytes`, and every accessor of what parses.
fn read_all(bytes: &[u8], len: usize) {
    let ours = port(Mac([2, 0, 0, 0, 0, 1]), Tags::NONE);
    if let Ok(frame) = Frame::parse(bytes) {
        assert!(frame.l3 <= bytes.len());
        let _ = answer_arp(bytes, &frame, &ours);
        if let Ok(ip) = Ipv6::parse(&bytes[frame.l3..], len) {
            let _ = answer_nd(&ip, &frame, &ours);
        }
    }
    for quoted in [false, true] {
        let ip = if quoted { Ipv4::parse_quoted(bytes) } else { Ipv4::parse(bytes, len) };
        if let Ok(ip) = ip {
            let _ = (
                ip.src(),
                ip.dst(),
                ip.tos(),
                ip.id(),
                ip.ttl(),
                ip.protocol(),
                ip.checksum(),
                ip.checksum_ok(),
            );
            let _ = (ip.dont_fragment(), ip.is_fragment(), ip.fragment_offset(), ip.pseudo());
            assert!(ip.payload().len() <= ip.payload_len());
        }
        let ip = if quoted { Ipv6::parse_quoted(bytes) } else { Ipv6::parse(bytes, len) };
        if let Ok(ip) = ip {
            let _ = (ip.src(), ip.dst(), ip.traffic_class(), ip.hop_limit(), ip.next_header(), ip.pseudo());
            let _ = (Solicitation::parse(&ip), Advertisement::parse(&ip));
            assert!(ip.payload().len() <= ip.payload_len());
            if let Ok(upper) = ip.upper() {
                assert!(upper.offset <= ip.total_len());
            }
        }
    }
    if let Ok(d) = Udp::parse(bytes, len) {
        let _ = (d.src_port(), d.dst_port(), d.checksum(), d.checksum_ok(sum(&[])));
        assert!(d.len() <= len && d.payload().len() <= d.len() - udp::HEADER);
    }
    if let Ok(s) = Tcp::parse(bytes, len) {
        let _ =
            (s.src_port(), s.dst_port(), s.seq(), s.ack(), s.flags(), s.checksum(), s.checksum_ok(sum(&[])));
        assert!(s.header_len() <= len);
    }
    if let Ok(m) = Icmp::parse(bytes) {
        let _ = (m.kind(), m.code(), m.checksum(), m.checksum_ok(), m.is_error(), m.body());
    }
    if let Ok(m) = Icmpv6::parse(bytes) {
        let _ = (m.kind(), m.code(), m.checksum(), m.checksum_ok(sum(&[])), m.is_error(), m.body());
    }
    let _ = (Arp::parse(bytes), tcp::ports(bytes));
}

fn write_all(bytes: &mut [u8]) {
    if let Ok(mut m) = Ipv4Mut::new(bytes) {
        m.set_src(Ipv4Addr::LOCALHOST);
        m.set_total_len(20);
        m.fill_checksum();
    }
    if let Ok(mut m) = Ipv6Mut::new(bytes) {
        m.set_dst(Ipv6Addr::LOCALHOST);
    }
    if let Ok(mut m) = UdpMut::new(bytes) {
        m.set_checksum(1);
    }
    if let Ok(mut m) = TcpMut::new(bytes) {
        m.set_checksum(1);
    }
    let _ = (icmp::echo_reply(bytes), icmpv6::echo_reply(bytes));
}

/// Bytes that get past the first checks more often than chance would have it.
fn packetish() -> impl Strategy<Value = Vec<u8>> {
    let header = prop_oneof![
        Just(vec![]),
        Just(vec![0x45, 0, 0, 40]),
        Just(vec![0x4f, 0, 0, 80]),
        Just(vec![0x60, 0, 0, 0, 0, 32, 0, 255]),
        Just(vec![0x60, 0, 0, 0, 0, 32, 58, 255]),
        Just(vec![0x60, 0, 0, 0, 0, 16, 44, 64]),
        Just(eth::header(Mac::BROADCAST, Mac([2; 6]), Tags::NONE, eth::ETHERTYPE_ARP).to_vec()),
        Just(
            eth::header(
                Mac::BROADCAST,
                Mac([2; 6]),
                Tags { outer: Some(8), inner: Some(9) },
                eth::ETHERTYPE_IPV6
            )
            .to_vec()
        ),
    ];
    (header, prop::collection::vec(any::<u8>(), 0..120)).prop_map(|(a, b)| [a, b].concat())
}

fn mac() -> impl Strategy<Value = Mac> {
    any::<[u8; 6]>().prop_map(|mut m| {
        m[0] = m[0] & 0xfe | 2;
        Mac(m)
    })
}

fn tags() -> impl Strategy<Value = Tags> {
    (prop::option::of(any::<u16>()), prop::option::of(any::<u16>()))
        .prop_map(|(outer, inner)| Tags { outer, inner })
}

/// Payloads of even and odd length, many of them of words that bring sums to their zeros.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), Just(0), Just(0xff)];
    prop::collection::vec(byte, 0..70)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in packetish(), more in 0usize..3000) {
        read_all(&bytes, bytes.len());
        read_all(&bytes, bytes.len() + more);
        read_all(&bytes, bytes.len().saturating_sub(more));
    }

    #[test]
    fn no_bytes_make_a_writer_panic(mut bytes in packetish()) {
        let len = bytes.len();
        write_all(&mut bytes);
        prop_assert_eq!(bytes.len(), len);
    }

    #[test]
    fn mac_text_parses_back(mac in any::<[u8; 6]>().prop_map(Mac)) {
        prop_assert_eq!(mac.to_string().parse(), Ok(mac));
    }

    #[test]
    fn mac_text_never_panics(text in ".*") {
        let _ = text.parse::<Mac>();
    }

    #[test]
    fn arp_parses_back(dst in mac(), tags in tags(), reply in any::<bool>(), sha in mac(), tha in mac(),
                       spa in any::<Ipv4Addr>(), tpa in any::<Ipv4Addr>()) {
        let packet = Arp { op: if reply { arp::REPLY } else { arp::REQUEST }, sha, spa, tha, tpa };
        let mut buf = [0xee; arp::FRAME];
        prop_assert_eq!(arp::write(&mut buf, dst, tags, &packet), Ok(arp::FRAME));
        let frame = Frame::parse(&buf).unwrap();
        prop_assert_eq!((frame.dst, frame.src, frame.tags), (dst, sha, tags));
        prop_assert_eq!(Arp::parse(&buf[frame.l3..]), Ok(packet));
    }

    #[test]
    fn solicitations_parse_back(mac in mac(), to in prop::option::of(mac()), tags in tags(),
                                src in any::<Ipv6Addr>(), target in any::<Ipv6Addr>()) {
        prop_assume!(!src.is_unspecified());
        let mut buf = [0; Solicit::FRAME_MAX];
        let len = icmpv6::write_solicitation(&mut buf, mac, tags, src, target, to).unwrap();
        let l3 = Frame::parse(&buf).unwrap().l3;
        let ip = Ipv6::parse(&buf[l3..len], len - l3).unwrap();
        let expected = if target.is_multicast() {
            Err(WireError::BadAddress)
        } else {
            Ok(Solicitation { target, mac: Some(mac) })
        };
        prop_assert_eq!(Solicitation::parse(&ip), expected);
    }

    #[test]
    fn one_changed_bit_spoils_a_solicitation(at in 0usize..72 * 8) {
        let (src, target) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let mut buf = [0; Solicit::FRAME_MAX];
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let len = icmpv6::write_solicitation(&mut buf, mac, Tags::NONE, src, target, None).unwrap();
        let packet = &mut buf[14..len];
        packet[at / 8] ^= 1 << (at % 8);
        // Traffic class and flow label are covered by nothing.
        let free = (4..32).contains(&(at / 8 * 8 + 7 - at % 8));
        let parsed = Ipv6::parse(packet, packet.len()).and_then(|ip| Solicitation::parse(&ip));
        prop_assert_eq!(parsed.is_ok(), free, "{:?}", parsed);
    }

    #[test]
    fn sums_do_not_depend_on_how_bytes_are_split(bytes in payload(), at in 0usize..35) {
        let at = (2 * at).min(bytes.len() & !1);
        let (a, b) = bytes.split_at(at);
        prop_assert_eq!(sum(a).plus(b).fold(), sum(&bytes).fold());
    }

    #[test]
    fn sums_equal_the_definition(bytes in payload()) {
        let mut expected: u32 = 0;
        for pair in bytes.chunks(2) {
            expected += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            expected = (expected & 0xffff) + (expected >> 16);
        }
        prop_assert_eq!(sum(&bytes).fold().to_ne_bytes(), (expected as u16).to_be_bytes());
    }

    #[test]
    fn udp_over_ipv4_update_equals_recompute(
        (old, new) in (any::<[Ipv4Addr; 2]>(), any::<[Ipv4Addr; 2]>()),
        (old_ports, new_ports) in (any::<[u16; 2]>(), any::<[u16; 2]>()),
        data in payload(),
        unused in prop::bool::weighted(0.1),
    ) {
        let full = |addrs: [Ipv4Addr; 2], ports: [u16; 2]| {
            let h = udp::header(ports[0], ports[1], data.len() as u16);
            let len = (h.len() + data.len()) as u16;
            pseudo_v4(addrs[0], addrs[1], PROTO_UDP, len).plus(&h).plus(&data).finish_udp()
        };
        let delta = Delta::NONE
            .replace(&old[0].octets(), &new[0].octets())
            .replace(&old[1].octets(), &new[1].octets())
            .replace_word(u16::from_ne_bytes(old_ports[0].to_be_bytes()), u16::from_ne_bytes(new_ports[0].to_be_bytes()))
            .replace(&old_ports[1].to_be_bytes(), &new_ports[1].to_be_bytes());
        let (before, after) = if unused { (0, 0) } else { (full(old, old_ports), full(new, new_ports)) };
        prop_assert_eq!(delta.apply_udp(before), after);
        prop_assert_eq!(delta.inverse().apply_udp(after), before);
    }

    #[test]
    fn tcp_over_ipv6_update_equals_recompute(
        (old, new) in (any::<[Ipv6Addr; 2]>(), any::<[Ipv6Addr; 2]>()),
        (old_ports, new_ports) in (any::<[u16; 2]>(), any::<[u16; 2]>()),
        data in payload(),
    ) {
        let full = |addrs: [Ipv6Addr; 2], ports: [u16; 2]| {
            let mut h = [0; tcp::HEADER];
            h[12] = 0x50;
            let mut m = TcpMut::new(&mut h).unwrap();
            m.set_src_port(ports[0]);
            m.set_dst_port(ports[1]);
            let len = (h.len() + data.len()) as u32;
            pseudo_v6(addrs[0], addrs[1], PROTO_TCP, len).plus(&h).plus(&data).finish()
        };
        let [ports_before, ports_after] =
            [old_ports, new_ports].map(|p| [p[0].to_be_bytes(), p[1].to_be_bytes()].concat());
        let addresses = Delta::NONE
            .replace(&old[0].octets(), &new[0].octets())
            .replace(&old[1].octets(), &new[1].octets());
        let delta = addresses.and(Delta::NONE.replace(&ports_before, &ports_after));
        prop_assert_eq!(delta.apply(full(old, old_ports)), full(new, new_ports));
        prop_assert_eq!(delta.inverse().apply(full(new, new_ports)), full(old, old_ports));
    }

    /// The last word of the data is chosen so that the new checksum is computed as zero.
    #[test]
    fn udp_computed_zero_is_sent_as_all_ones(old in any::<[Ipv4Addr; 2]>(), new in any::<[Ipv4Addr; 2]>(), data in payload()) {
        let mut data = data;
        data.truncate(data.len() & !1);
        let len = (udp::HEADER + data.len() + 2) as u16;
        let before_fix = pseudo_v4(new[0], new[1], PROTO_UDP, len).plus(&udp::header(1, 2, len - 8)).plus(&data);
        data.extend(before_fix.finish().to_ne_bytes());
        let full = |a: [Ipv4Addr; 2]| pseudo_v4(a[0], a[1], PROTO_UDP, len).plus(&udp::header(1, 2, len - 8)).plus(&data);
        prop_assert_eq!(full(new).finish(), 0);
        let delta = Delta::NONE.replace(&old[0].octets(), &new[0].octets()).replace(&old[1].octets(), &new[1].octets());
        prop_assert_eq!(delta.apply_udp(full(old).finish_udp()), 0xffff);
    }

    #[test]
    fn ipv4_header_update_equals_recompute(old in any::<[Ipv4Addr; 2]>(), new in any::<[Ipv4Addr; 2]>(),
                                           ttl in 1u8.., protocol in any::<u8>(), len in 0u16..60000) {
        let before = ipv4::header(old[0], old[1], protocol, ttl, len);
        let after = ipv4::header(new[0], new[1], protocol, ttl - 1, len);
        let delta = Delta::TTL_DECREMENT
            .replace(&old[0].octets(), &new[0].octets())
            .replace(&old[1].octets(), &new[1].octets());
        let checksum = |h: &[u8]| Ipv4::parse_quoted(h).unwrap().checksum();
        prop_assert_eq!(delta.apply(checksum(&before)), checksum(&after));
    }

    #[test]
    fn echo_replies_have_a_right_checksum(data in payload(), src in any::<Ipv6Addr>(), dst in any::<Ipv6Addr>()) {
        let mut v4 = [&[icmp::ECHO_REQUEST, 0, 0, 0, 0, 1, 0, 2][..], &data].concat();
        let c = sum(&v4).finish().to_ne_bytes();
        v4[2..4].copy_from_slice(&c);
        icmp::echo_reply(&mut v4).unwrap();
        prop_assert!(Icmp::parse(&v4).unwrap().checksum_ok());

        let mut v6 = [&[icmpv6::ECHO_REQUEST, 0, 0, 0, 0, 1, 0, 2][..], &data].concat();
        let pseudo = pseudo_v6(src, dst, PROTO_ICMPV6, v6.len() as u32);
        let c = pseudo.plus(&v6).finish().to_ne_bytes();
        v6[2..4].copy_from_slice(&c);
        icmpv6::echo_reply(&mut v6).unwrap();
        prop_assert!(Icmpv6::parse(&v6).unwrap().checksum_ok(pseudo));
    }

    #[test]
    fn ip_headers_parse_back(a in any::<Ipv4Addr>(), b in any::<Ipv4Addr>(), c in any::<Ipv6Addr>(), d in any::<Ipv6Addr>(),
                             protocol in any::<u8>(), ttl in any::<u8>(), len in 0u16..65000) {
        let h = ipv4::header(a, b, protocol, ttl, len);
        let p = Ipv4::parse(&h, h.len() + usize::from(len)).unwrap();
        prop_assert_eq!((p.src(), p.dst(), p.protocol(), p.ttl(), p.payload_len()), (a, b, protocol, ttl, usize::from(len)));
        prop_assert!(p.checksum_ok());
        let h = ipv6::header(c, d, protocol, ttl, len);
        let p = Ipv6::parse(&h, h.len() + usize::from(len)).unwrap();
        prop_assert_eq!((p.src(), p.dst(), p.next_header(), p.hop_limit(), p.payload_len()), (c, d, protocol, ttl, usize::from(len)));
    }
}
