//! A second opinion: packets that etherparse builds read the same here, and carry the checksums that are computed here.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice, VlanId};
use forwarder::neighbor::Solicit;
use forwarder::wire::arp::{self, Arp};
use forwarder::wire::checksum::{pseudo_v4, pseudo_v6};
use forwarder::wire::icmp::{self, Icmp};
use forwarder::wire::icmpv6::{self, Icmpv6};
use forwarder::wire::ipv4::Ipv4;
use forwarder::wire::ipv6::Ipv6;
use forwarder::wire::tcp::{self, Tcp};
use forwarder::wire::udp::Udp;
use forwarder::wire::{Frame, Mac, PROTO_TCP, PROTO_UDP, Sum, Tags, eth};
use proptest::prelude::*;

const DST: Mac = Mac([2, 0, 0, 0, 0, 1]);
const SRC: Mac = Mac([2, 0, 0, 0, 0, 2]);

#[derive(Debug, Clone)]
struct Case {
    tags: Tags,
    src: IpAddr,
    dst: IpAddr,
    ports: [u16; 2],
    data: Vec<u8>,
}

fn case() -> impl Strategy<Value = Case> {
    let addresses = prop_oneof![
        any::<[Ipv4Addr; 2]>().prop_map(|a| a.map(IpAddr::from)),
        any::<[Ipv6Addr; 2]>().prop_map(|a| a.map(IpAddr::from)),
    ];
    let data = prop::collection::vec(any::<u8>(), 0..200);
    let tags = (prop::option::of(1u16..4095), prop::option::of(1u16..4095)).prop_map(|(outer, inner)| {
        // etherparse builds no service tag alone.
        Tags { outer: outer.filter(|_| inner.is_some()), inner }
    });
    (tags, addresses, any::<[u16; 2]>(), data).prop_map(|(tags, [src, dst], ports, data)| Case {
        tags,
        src,
        dst,
        ports,
        data,
    })
}

impl Case {
    fn builder(&self) -> PacketBuilderStep<etherparse::IpHeaders> {
        let ethernet = PacketBuilder::ethernet2(SRC.0, DST.0);
        let id = |id| VlanId::try_new(id).unwrap();
        match (self.tags, self.src, self.dst) {
            (Tags { inner: None, .. }, IpAddr::V4(s), IpAddr::V4(d)) => {
                ethernet.ipv4(s.octets(), d.octets(), 61)
            }
            (Tags { inner: None, .. }, IpAddr::V6(s), IpAddr::V6(d)) => {
                ethernet.ipv6(s.octets(), d.octets(), 61)
            }
            (Tags { outer: None, inner: Some(c) }, IpAddr::V4(s), IpAddr::V4(d)) => {
                ethernet.single_vlan(id(c)).ipv4(s.octets(), d.octets(), 61)
            }
            (Tags { outer: None, inner: Some(c) }, IpAddr::V6(s), IpAddr::V6(d)) => {
                ethernet.single_vlan(id(c)).ipv6(s.octets(), d.octets(), 61)
            }
            (Tags { outer: Some(o), inner: Some(c) }, IpAddr::V4(s), IpAddr::V4(d)) => {
                ethernet.double_vlan(id(o), id(c)).ipv4(s.octets(), d.octets(), 61)
            }
            (Tags { outer: Some(o), inner: Some(c) }, IpAddr::V6(s), IpAddr::V6(d)) => {
                ethernet.double_vlan(id(o), id(c)).ipv6(s.octets(), d.octets(), 61)
            }
            _ => unreachable!("both addresses are of one family"),
        }
    }

    /// Checks the frame and its IP header; returns the transport's protocol, bytes and pseudo header.
    fn read<'a>(&self, bytes: &'a [u8]) -> (u8, &'a [u8], Sum) {
        let frame = Frame::parse(bytes).unwrap();
        assert_eq!((frame.dst, frame.src, frame.tags), (DST, SRC, self.tags));
        let l3 = &bytes[frame.l3..];
        match frame.ethertype {
            eth::ETHERTYPE_IPV4 => {
                let ip = Ipv4::parse(l3, l3.len()).unwrap();
                assert!(ip.checksum_ok());
                assert_eq!(
                    (IpAddr::from(ip.src()), IpAddr::from(ip.dst()), ip.ttl()),
                    (self.src, self.dst, 61)
                );
                (
                    ip.protocol(),
                    ip.payload(),
                    pseudo_v4(ip.src(), ip.dst(), ip.protocol(), ip.payload_len() as u16),
                )
            }
            _ => {
                let ip = Ipv6::parse(l3, l3.len()).unwrap();
                assert_eq!(
                    (IpAddr::from(ip.src()), IpAddr::from(ip.dst()), ip.hop_limit()),
                    (self.src, self.dst, 61)
                );
                let pseudo = pseudo_v6(ip.src(), ip.dst(), ip.next_header(), ip.payload_len() as u32);
                (ip.next_header(), ip.payload(), pseudo)
            }
        }
    }
}

proptest! {
    #[test]
    fn udp(case in case()) {
        let mut bytes = Vec::new();
        case.builder().udp(case.ports[0], case.ports[1]).write(&mut bytes, &case.data).unwrap();
        let (protocol, l4, pseudo) = case.read(&bytes);
        let d = Udp::parse(l4, l4.len()).unwrap();
        prop_assert_eq!((protocol, [d.src_port(), d.dst_port()], d.payload()), (PROTO_UDP, case.ports, &case.data[..]));
        let mut blank = l4.to_vec();
        blank[6..8].fill(0);
        prop_assert_eq!(pseudo.plus(&blank).finish_udp(), d.checksum());
        prop_assert!(d.checksum_ok(pseudo));
    }

    #[test]
    fn tcp(case in case(), seq in any::<u32>(), ack in any::<u32>()) {
        let mut bytes = Vec::new();
        case.builder().tcp(case.ports[0], case.ports[1], seq, 1024).syn().ack(ack).write(&mut bytes, &case.data).unwrap();
        let (protocol, l4, pseudo) = case.read(&bytes);
        let s = Tcp::parse(l4, l4.len()).unwrap();
        prop_assert_eq!((protocol, [s.src_port(), s.dst_port()]), (PROTO_TCP, case.ports));
        prop_assert_eq!((s.seq(), s.ack(), s.flags(), s.header_len()), (seq, ack, tcp::SYN | tcp::ACK, 20));
        prop_assert!(s.checksum_ok(pseudo));
    }

    #[test]
    fn echo(case in case(), id in any::<u16>(), seq in any::<u16>()) {
        let mut bytes = Vec::new();
        if case.src.is_ipv4() {
            case.builder().icmpv4_echo_request(id, seq).write(&mut bytes, &case.data).unwrap();
            let (_, l4, _) = case.read(&bytes);
            let m = Icmp::parse(l4).unwrap();
            prop_assert_eq!((m.kind(), m.code(), m.body(), m.checksum_ok()), (icmp::ECHO_REQUEST, 0, &case.data[..], true));
        } else {
            case.builder().icmpv6_echo_request(id, seq).write(&mut bytes, &case.data).unwrap();
            let (_, l4, pseudo) = case.read(&bytes);
            let m = Icmpv6::parse(l4).unwrap();
            prop_assert_eq!((m.kind(), m.code(), m.body()), (icmpv6::ECHO_REQUEST, 0, &case.data[..]));
            prop_assert!(m.checksum_ok(pseudo));
        }
    }
}

#[test]
fn arp_frames_read_the_same_there() {
    let packet = Arp {
        op: arp::REQUEST,
        sha: SRC,
        spa: Ipv4Addr::new(10, 0, 0, 1),
        tha: Mac::default(),
        tpa: Ipv4Addr::new(10, 0, 0, 2),
    };
    let mut buf = [0; arp::FRAME];
    arp::write(&mut buf, Mac::BROADCAST, Tags::one(Some(30)), &packet).unwrap();
    let sliced = SlicedPacket::from_ethernet(&buf).unwrap();
    let Some(etherparse::NetSlice::Arp(found)) = sliced.net else { panic!("not taken for ARP: {sliced:?}") };
    assert_eq!(found.operation().0, arp::REQUEST);
    assert_eq!(
        (found.sender_hw_addr(), found.sender_protocol_addr()),
        (&SRC.0[..], &packet.spa.octets()[..])
    );
    assert_eq!(found.target_protocol_addr(), packet.tpa.octets());
}

#[test]
fn solicitations_read_the_same_there() {
    let [src, target] = ["fd00::1", "fd00::abcd:1"].map(|a| a.parse::<Ipv6Addr>().unwrap());
    let mut buf = [0; Solicit::FRAME_MAX];
    let len = icmpv6::write_solicitation(&mut buf, SRC, Tags::one(Some(30)), src, target, None).unwrap();
    let sliced = SlicedPacket::from_ethernet(&buf[..len]).unwrap();
    let Some(TransportSlice::Icmpv6(message)) = sliced.transport else {
        panic!("not taken for ICMPv6: {sliced:?}")
    };
    assert_eq!(message.type_u8(), icmpv6::SOLICITATION);
    let group = icmpv6::solicited_node(target);
    assert!(message.is_checksum_valid(src.octets(), group.octets()));
}
