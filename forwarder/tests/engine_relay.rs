//! What a connection's packets become: every one that comes out equals, byte for byte, one that was built for the purpose by
//! somebody else's code, and packets of one connection keep their order whatever is in their way.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::packet::{ACK, Body, FIN, PSH, Packet, SYN, host_mac, internet_checksum, read, tcp};
use common::{Conn, LAN, Rig, SMALL, TAG, WAN, assert_same, flow};
use forwarder::api::Proto;
use forwarder::wire::arp::{self, Arp};
use forwarder::wire::{Mac, Tags, eth};

struct Path {
    name: &'static str,
    port: u8,
    client: &'static str,
    listen: &'static str,
    out: u8,
    target: &'static str,
    from: &'static str,
}

const fn path(
    name: &'static str,
    (port, client, listen): (u8, &'static str, &'static str),
    (out, target): (u8, &'static str),
    from: &'static str,
) -> Path {
    Path { name, port, client, listen, out, target, from }
}

const PATHS: &[Path] = &[
    path("v4", (LAN, "10.0.0.2:4000", "10.0.0.1:5000"), (WAN, "10.1.0.2:6000"), "10.0.0.0/24"),
    path("v4-back", (WAN, "10.1.0.2:4000", "10.1.0.1:5001"), (LAN, "10.0.0.2:6000"), "10.1.0.0/24"),
    path("v4-routed", (LAN, "10.0.0.2:4001", "10.0.0.1:5002"), (WAN, "192.168.7.9:6000"), "10.0.0.2/32"),
    path(
        "v4-from-afar",
        (WAN, "192.168.7.9:4002", "10.1.0.1:5003"),
        (LAN, "10.0.0.3:6000"),
        "192.168.0.0/16",
    ),
    path("v4-grows", (LAN, "10.0.0.2:4003", "10.0.0.1:5004"), (TAG, "10.2.0.2:6000"), "0.0.0.0/0"),
    path("v4-shrinks", (TAG, "10.2.0.2:4004", "10.2.0.1:5005"), (LAN, "10.0.0.3:6000"), "10.2.0.2/32"),
    path("v4-retagged", (TAG, "10.2.0.2:4005", "10.2.0.1:5006"), (SMALL, "10.3.0.2:6000"), "10.2.0.2/32"),
    path("v4-same-port", (LAN, "10.0.0.2:4006", "10.0.0.1:5007"), (LAN, "10.0.0.3:6000"), "10.0.0.2/32"),
    path("v6", (LAN, "[fd00:0::2]:4000", "[fd00:0::1]:5000"), (WAN, "[fd00:1::2]:6000"), "fd00::/64"),
    path(
        "v6-grows",
        (WAN, "[fd00:1::3]:4001", "[fd00:1::1]:5001"),
        (SMALL, "[fd00:3::2]:6000"),
        "fd00:1::/64",
    ),
    path("v6-shrinks", (SMALL, "[fd00:3::2]:4002", "[fd00:3::1]:5002"), (WAN, "[fd00:1::2]:6001"), "::/0"),
    path(
        "v6-retagged",
        (TAG, "[fd00:2::2]:4003", "[fd00:2::1]:5003"),
        (SMALL, "[fd00:3::3]:6000"),
        "fd00:2::2/128",
    ),
    path(
        "v6-same-port",
        (TAG, "[fd00:2::2]:4004", "[fd00:2::1]:5004"),
        (TAG, "[fd00:2::3]:6000"),
        "fd00:2::/64",
    ),
];

/// Odd and even, none, and as much as fits through the smallest MTU.
const SIZES: &[usize] = &[0, 1, 2, 3, 17, 18, 64, 999, 1000, 1199, 1200];

fn rig() -> Rig {
    let mut rig = Rig::new("");
    for p in PATHS {
        for proto in [Proto::Tcp, Proto::Udp] {
            rig.add(flow(&format!("{}-{proto}", p.name), proto, p.listen, p.target, p.from));
        }
    }
    rig
}

fn payload(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + n) as u8).collect()
}

#[test]
fn udp_is_relayed_exactly_both_ways() {
    let mut rig = rig();
    for p in PATHS {
        let conn = rig.open(Proto::Udp, p.port, p.client, p.listen, p.out, p.target);
        for &n in SIZES {
            for from_client in [true, false] {
                rig.relays_both(&conn, from_client, Body::Udp { checksum: true }, &payload(n));
            }
        }
    }
    rig.balance();
}

#[test]
fn tcp_is_relayed_exactly_from_handshake_to_farewell() {
    let mut rig = rig();
    let options = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 7];
    for p in PATHS {
        let conn = rig.open(Proto::Tcp, p.port, p.client, p.listen, p.out, p.target);
        let with_options = |flags| Body::Tcp { flags, seq: 0xffff_fffe, ack: 1, options: options.to_vec() };
        rig.relays_both(&conn, false, with_options(SYN | ACK), b"");
        rig.relays_both(&conn, true, tcp(ACK), b"");
        for &n in SIZES {
            // 40 bytes of IPv6, 40 of TCP: the largest sizes stay below the smallest MTU.
            rig.relays_both(&conn, true, with_options(PSH | ACK), &payload(n));
            rig.relays_both(&conn, false, with_options(ACK), &payload(n));
        }
        for from_client in [true, false] {
            rig.relays_both(&conn, from_client, tcp(FIN | ACK), b"bye");
            rig.relays_both(&conn, !from_client, tcp(ACK), b"");
        }
    }
    rig.balance();
}

#[test]
fn the_whole_of_a_large_packet_passes() {
    let mut rig = rig();
    for (p, overhead) in [(&PATHS[0], 28), (&PATHS[8], 48)] {
        let conn = rig.open(Proto::Udp, p.port, p.client, p.listen, p.out, p.target);
        rig.relays_both(&conn, true, Body::Udp { checksum: true }, &payload(1500 - overhead));
    }
    rig.balance();
}

/// RFC 768: zero says that there is no checksum, so it stays; and a sum that comes to zero is sent as all ones.
#[test]
fn udp_checksums_of_zero() {
    let mut rig = rig();
    let v4 = &PATHS[0];
    let conn = rig.open(Proto::Udp, v4.port, v4.client, v4.listen, v4.out, v4.target);
    for from_client in [true, false] {
        rig.relays_both(&conn, from_client, Body::Udp { checksum: false }, b"unsummed");
    }
    for p in [&PATHS[0], &PATHS[4], &PATHS[8], &PATHS[9]] {
        let conn = rig.open(Proto::Udp, p.port, p.client, p.listen, p.out, p.target);
        for from_client in [true, false] {
            let make = |payload: &[u8]| {
                let body = Body::Udp { checksum: true };
                if from_client { conn.by_client(body, payload) } else { conn.by_target(body, payload) }
            };
            let rewritten = |p: &Packet| if from_client { conn.forward(p) } else { conn.back(p) };
            // The two bytes of payload that bring the sum of the packet after the rewrite to zero are its checksum without.
            let probe = rewritten(&make(&[0, 0]));
            let frame = probe.build();
            let payload = &frame[probe.l4() + 6..][..2];
            let packet = make(payload);
            let expected = rewritten(&packet).build();
            assert_eq!(expected[probe.l4() + 6..][..2], [0xff, 0xff], "the packet is what it should be");
            let (port, out) = if from_client { (conn.port, conn.out) } else { (conn.out, conn.port) };
            let sent = rig.pass(port, &packet.build(), out);
            assert_same(&sent, &expected);
        }
    }
}

/// A checksum that arrives as all ones (the other zero) leaves as a right one, whatever it then is.
#[test]
fn udp_checksums_of_all_ones() {
    let mut rig = rig();
    let p = &PATHS[0];
    let conn = rig.open(Proto::Udp, p.port, p.client, p.listen, p.out, p.target);
    let body = || Body::Udp { checksum: true };
    let probe = conn.by_client(body(), &[0, 0]);
    let frame = probe.build();
    let packet = conn.by_client(body(), &frame[probe.l4() + 6..][..2]);
    assert_eq!(packet.build()[probe.l4() + 6..][..2], [0xff, 0xff]);
    rig.relays(conn.port, &packet, conn.out, &conn.forward(&packet));
}

/// Ethernet pads short frames; what is behind the IP packet is no part of it.
#[test]
fn padding_does_no_harm() {
    let mut rig = rig();
    for p in PATHS {
        let conn = rig.open(Proto::Udp, p.port, p.client, p.listen, p.out, p.target);
        let packet = conn.by_client(Body::Udp { checksum: true }, b"x");
        let mut frame = packet.build();
        frame.resize(frame.len().max(46) + 14, 0xee);
        let sent = rig.pass(p.port, &frame, p.out);
        let expected = conn.forward(&packet).build();
        assert_same(&sent[..expected.len()], &expected);
        assert_eq!(read(&sent).payload, b"x", "{}", p.name);
    }
}

/// IEEE 802.1Q section 6.9: a priority tag (VLAN id 0) does not make a frame tagged; it is not passed on either.
#[test]
fn a_priority_tag_is_taken_off() {
    let mut rig = rig();
    let p = &PATHS[0];
    let conn = rig.open(Proto::Udp, p.port, p.client, p.listen, p.out, p.target);
    let packet = conn.by_client(Body::Udp { checksum: true }, b"urgent");
    let mut frame = packet.build();
    frame.splice(12..12, [0x81, 0x00, 0xa0, 0x00]);
    assert_same(&rig.pass(p.port, &frame, p.out), &conn.forward(&packet).build());
}

/// Priority bits lie beside the VLAN id, which alone decides.
#[test]
fn priority_bits_do_not_hide_the_vlan() {
    let mut rig = rig();
    let p = &PATHS[5];
    let conn = rig.open(Proto::Udp, p.port, p.client, p.listen, p.out, p.target);
    let packet = conn.by_client(Body::Udp { checksum: true }, b"urgent");
    let mut frame = packet.build();
    frame[14] |= 0xf0;
    assert_same(&rig.pass(p.port, &frame, p.out), &conn.forward(&packet).build());
}

#[test]
fn ipv4_options_stay_in_place() {
    let mut rig = rig();
    for p in &PATHS[..8] {
        for proto in [Proto::Udp, Proto::Tcp] {
            let conn = rig.open(proto, p.port, p.client, p.listen, p.out, p.target);
            let body = || if proto == Proto::Tcp { tcp(PSH | ACK) } else { Body::Udp { checksum: true } };
            // Router alert; record route; no operations, then the end.
            for options in [&[148, 4, 0, 0][..], &[7, 7, 4, 0, 0, 0, 0, 0], &[1, 1, 1, 0], &[1; 40]] {
                let mut packet = conn.by_client(body(), b"with options");
                packet.ip_options = options.to_vec();
                rig.relays(p.port, &packet, p.out, &conn.forward(&packet));
                let mut packet = conn.by_target(body(), b"with options");
                packet.ip_options = options.to_vec();
                rig.relays(p.out, &packet, p.port, &conn.back(&packet));
            }
        }
    }
}

/// Two clients with the same address and port on their two ports, and one client of two flows, are told apart.
#[test]
fn many_connections_do_not_mix() {
    let mut rig = rig();
    let mut conns: Vec<Conn> = Vec::new();
    for n in 0..200u16 {
        for p in PATHS {
            let client = format!("{}:{}", &p.client[..p.client.rfind(':').unwrap()], 10_000 + n);
            conns.push(rig.open(Proto::Udp, p.port, &client, p.listen, p.out, p.target));
        }
    }
    for conn in &conns {
        for from_client in [false, true] {
            rig.relays_both(
                conn,
                from_client,
                Body::Udp { checksum: true },
                &conn.client.port().to_be_bytes(),
            );
        }
    }
    let listed = rig.connections();
    assert_eq!(listed.len(), conns.len());
    for conn in &conns {
        let found = listed.iter().find(|l| l.client == conn.client && l.listen == conn.listen).unwrap();
        assert_eq!((found.source, found.target, found.proto), (conn.source, conn.target, Proto::Udp));
        assert_eq!((found.to_target.packets, found.to_client.packets), (2, 1));
    }
    rig.balance();
}

#[test]
fn counters_tell_what_was_relayed() {
    let mut rig = rig();
    let p = &PATHS[4];
    let conn = rig.open(Proto::Udp, p.port, p.client, p.listen, p.out, p.target);
    let body = || Body::Udp { checksum: true };
    for n in 0..10 {
        rig.relays_both(&conn, true, body(), &payload(100 + n));
        rig.relays_both(&conn, false, body(), &payload(10));
    }
    let bytes = |from_client: bool, n: usize| {
        let p = payload(n);
        let packet = if from_client { conn.by_client(body(), &p) } else { conn.by_target(body(), &p) };
        packet.build().len() as u64
    };
    let to_target = bytes(true, 0) + (0..10).map(|n| bytes(true, 100 + n)).sum::<u64>();
    let to_client = bytes(false, 10) * 10;
    let flow = rig.flow("v4-grows-udp");
    assert_eq!((flow.connections, flow.admitted, flow.refused), (1, 1, 0));
    assert_eq!((flow.to_target.packets, flow.to_target.bytes), (11, to_target));
    assert_eq!((flow.to_client.packets, flow.to_client.bytes), (10, to_client));
    let stats = rig.stats();
    assert_eq!((stats.received, stats.sent, stats.held, stats.originated), (21, 21, 0, 0));
    // Towards the tagged port every frame grows by four bytes, and shrinks on the way back.
    let [lan, _, tag, _] = &stats.workers[0].queues[..] else { panic!() };
    assert_eq!((lan.rx.bytes, tag.tx.bytes), (to_target, to_target + 4 * 11));
    assert_eq!((tag.rx.bytes, lan.tx.bytes), (to_client, to_client - 4 * 10));
}

fn numbered(conn: &Conn, n: u16, options: bool) -> Packet {
    let mut packet = conn.by_client(Body::Udp { checksum: true }, &n.to_be_bytes());
    if options {
        packet.ip_options = vec![1, 1, 1, 0];
    }
    packet
}

fn numbers(frames: &[Vec<u8>]) -> Vec<u16> {
    frames.iter().map(|f| u16::from_be_bytes(read(f).payload.try_into().unwrap())).collect()
}

/// More than a burst at once, with packets among them that take the slow path.
#[test]
fn order_is_kept_over_bursts_and_paths() {
    let mut rig = rig();
    let p = &PATHS[0];
    let conn = rig.open(Proto::Udp, p.port, p.client, p.listen, p.out, p.target);
    let frames: Vec<_> = (0..500).map(|n| numbered(&conn, n, n % 3 == 1 || n % 7 == 2).build()).collect();
    rig.send(p.port, &frames);
    assert_eq!(numbers(&rig.take(p.out)), (0..500).collect::<Vec<_>>());
    rig.balance();
}

/// The first packets of a connection arrive in the burst that opens it.
#[test]
fn order_is_kept_from_the_first_packet() {
    let mut rig = rig();
    let p = &PATHS[0];
    let any = "10.1.0.1:1".parse().unwrap();
    let conn = Conn {
        proto: Proto::Udp,
        client: p.client.parse().unwrap(),
        listen: p.listen.parse().unwrap(),
        source: any,
        target: any,
        port: p.port,
        out: p.out,
    };
    let frames: Vec<_> = (0..70).map(|n| numbered(&conn, n, n % 5 == 0).build()).collect();
    rig.send(p.port, &frames);
    assert_eq!(numbers(&rig.take(p.out)), (0..70).collect::<Vec<_>>());
    assert_eq!(rig.connections().len(), 1);
}

#[test]
fn order_is_kept_when_the_device_takes_a_few_at_a_time() {
    let mut rig = rig();
    let p = &PATHS[4];
    let conn = rig.open(Proto::Udp, p.port, p.client, p.listen, p.out, p.target);
    let mut sent = Vec::new();
    let mut next = 0;
    for round in 0..40 {
        rig.ios[0].set_tx_room(p.out, round % 8);
        let frames: Vec<_> = (next..next + 5).map(|n| numbered(&conn, n, n % 4 == 0).build()).collect();
        next += 5;
        rig.send(p.port, &frames);
        let now = rig.take(p.out);
        assert!(now.len() <= round % 8);
        sent.extend(now);
    }
    assert!(sent.len() < usize::from(next), "the device was slower than the traffic");
    assert_eq!(rig.stats().held as usize, usize::from(next) - sent.len());
    rig.ios[0].set_tx_room(p.out, usize::MAX);
    rig.turn();
    sent.extend(rig.take(p.out));
    assert_eq!(numbers(&sent), (0..next).collect::<Vec<_>>());
    rig.balance();
}

/// What does not fit into the batch any more is lost and counted; what is in it leaves in order.
#[test]
fn a_device_that_takes_nothing_fills_the_batch() {
    let mut rig = rig();
    let p = &PATHS[0];
    let conn = rig.open(Proto::Udp, p.port, p.client, p.listen, p.out, p.target);
    rig.ios[0].set_tx_room(p.out, 0);
    let frames: Vec<_> = (0..300).map(|n| numbered(&conn, n, n % 4 == 0).build()).collect();
    rig.send(p.port, &frames);
    let stats = rig.stats();
    assert_eq!((stats.held, stats.drops["tx_full"]), (256, 44));
    assert!(rig.take(p.out).is_empty());
    // Other ports go on.
    rig.relays_both(&conn, false, Body::Udp { checksum: true }, b"back");
    rig.ios[0].set_tx_room(p.out, 100);
    rig.turn();
    let mut sent = rig.take(p.out);
    assert_eq!((sent.len(), rig.stats().held), (100, 156));
    rig.ios[0].set_tx_room(p.out, usize::MAX);
    rig.send(p.port, &[numbered(&conn, 300, false).build()]);
    sent.extend(rig.take(p.out));
    assert_eq!(numbers(&sent), (0..256).chain([300]).collect::<Vec<_>>());
    rig.balance();
}

/// Packets wait for the next hop's MAC address together with those that take the slow path, and leave before later ones.
#[test]
fn order_is_kept_while_a_next_hop_is_asked_for() {
    for (out, gateway, target) in [(WAN, [10, 1, 0, 1], [10, 1, 0, 9]), (TAG, [10, 2, 0, 1], [10, 2, 0, 9])] {
        let mut rig = rig();
        let to = std::net::SocketAddr::from((target, 6000)).to_string();
        rig.add(flow("unknown", Proto::Udp, "10.0.0.1:7000", &to, "10.0.0.0/24"));
        let any = "10.1.0.1:1".parse().unwrap();
        let conn = Conn {
            proto: Proto::Udp,
            client: "10.0.0.2:4000".parse().unwrap(),
            listen: "10.0.0.1:7000".parse().unwrap(),
            source: any,
            target: any,
            port: LAN,
            out,
        };
        let frames = |range: std::ops::Range<u16>| -> Vec<_> {
            range.map(|n| numbered(&conn, n, n % 3 == 0).build()).collect()
        };
        rig.send(LAN, &frames(0..40));
        assert_eq!(rig.stats().held, 40);
        let asked = rig.take(out);
        assert_eq!(asked.len(), 1, "one question is enough");
        // More packets and the answer are there at once; the port of the packets is polled first.
        let mac = Mac(host_mac(target.into()));
        let mut answer = [0; arp::FRAME];
        let packet = Arp {
            op: arp::REPLY,
            sha: mac,
            spa: target.into(),
            tha: Mac(common::packet::gw_mac(out)),
            tpa: gateway.into(),
        };
        let tags = Tags::one(common::packet::VLANS[usize::from(out)]);
        let n = arp::write(&mut answer, Mac(common::packet::gw_mac(out)), tags, &packet).unwrap();
        for frame in frames(40..50) {
            rig.inject_at(0, LAN, &frame);
        }
        rig.inject_at(0, out, &answer[..n]);
        rig.turn();
        rig.send(LAN, &frames(50..60));
        let sent = rig.take(out);
        assert_eq!(numbers(&sent), (0..60).collect::<Vec<_>>());
        for frame in &sent {
            let header = eth::Frame::parse(frame).unwrap();
            assert_eq!((header.dst, header.tags, header.ethertype), (mac, tags, eth::ETHERTYPE_IPV4));
        }
        rig.balance();
    }
}

/// The plain sum that these tests go by agrees with a published one (RFC 1071 section 3).
#[test]
fn the_yardstick_is_straight() {
    assert_eq!(internet_checksum(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
}
