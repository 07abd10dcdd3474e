//! Several ports on one device, told apart by their VLAN tags: each is a port of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use common::packet::{ACK, Body, Packet, SYN, addr, gw_mac, host_mac, internet_checksum, read, tcp};
use common::{Rig, assert_same, since};
use forwarder::api::{PortInfo, Proto, Reply, Request};
use forwarder::engine::DropReason;
use forwarder::wire::Mac;

const C: u16 = 0x8100;
const S: u16 = 0x88a8;

/// Tags as they lie in a frame: kind, priority bits and id.
type Tags = Vec<(u16, u16)>;

type PortOf = (&'static str, &'static str, &'static [(u16, u16)]);

/// Name, device and tags: five ports on one device, two on another, one alone.
const PORTS: [PortOf; 8] = [
    ("plain", "trunk", &[]),
    ("c30", "trunk", &[(C, 30)]),
    ("c40", "trunk", &[(C, 40)]),
    ("s100", "trunk", &[(S, 100)]),
    ("s100c30", "trunk", &[(S, 100), (C, 30)]),
    ("s200c30", "wan", &[(S, 200), (C, 30)]),
    ("c30-wan", "wan", &[(C, 30)]),
    ("alone", "alone", &[(S, 30)]),
];

fn n_ports() -> u8 {
    PORTS.len() as u8
}

/// The first port of a port's device: where its frames come and go.
fn device(port: u8) -> u8 {
    PORTS.iter().position(|p| p.1 == PORTS[usize::from(port)].1).unwrap() as u8
}

fn host(port: u8, n: u8, v6: bool) -> IpAddr {
    if v6 {
        IpAddr::from([0xfd00, port.into(), 0, 0, 0, 0, 0, n.into()])
    } else {
        IpAddr::from([10, port, 0, n])
    }
}

/// Every port has a flow to every other: to port 5000 + n, both families and protocols.
fn config() -> String {
    let mut text = String::new();
    for (n, (name, device, tags)) in (0u8..).zip(PORTS) {
        let (own4, own6) = (host(n, 1, false), host(n, 1, true));
        text += &format!("[[port]]\nname = \"{name}\"\ndevice = \"vdev:{device}\"\n");
        text += &format!("addresses = [\"{own4}/24\", \"{own6}/64\"]\n");
        for (kind, id) in tags {
            text += &format!("{} = {id}\n", if *kind == C { "vlan" } else { "outer_vlan" });
        }
        for address in [host(n, 2, false), host(n, 2, true)] {
            let mac = Mac(host_mac(address));
            text += &format!("[[neighbor]]\nport = \"{name}\"\naddress = \"{address}\"\nmac = \"{mac}\"\n");
        }
        for out in (0..n_ports()).filter(|out| *out != n) {
            for (v6, proto) in [(false, "udp"), (false, "tcp"), (true, "udp"), (true, "tcp")] {
                let listen = SocketAddr::new(host(n, 1, v6), 5000 + u16::from(out));
                let target = SocketAddr::new(host(out, 2, v6), 6000);
                let from = if v6 { "::/0" } else { "0.0.0.0/0" };
                text += &format!("[[flow]]\nname = \"{name}-{out}-{proto}-{v6}\"\nproto = \"{proto}\"\n");
                text += &format!("listen = \"{listen}\"\ntarget = \"{target}\"\nfrom = [\"{from}\"]\n");
            }
        }
    }
    text
}

fn rig() -> Rig {
    Rig::with(&config(), 1, 1024)
}

/// A frame with these tags put into it.
fn tagged(mut frame: Vec<u8>, tags: &[(u16, u16)]) -> Vec<u8> {
    let bytes: Vec<u8> =
        tags.iter().flat_map(|(kind, tci)| [kind.to_be_bytes(), tci.to_be_bytes()].concat()).collect();
    frame.splice(12..12, bytes);
    frame
}

/// A frame's tags, and the frame without them.
fn untagged(frame: &[u8]) -> (Tags, Vec<u8>) {
    let mut rest = frame.to_vec();
    let mut tags = Tags::new();
    loop {
        let word = |at: usize| u16::from(rest[at]) << 8 | u16::from(rest[at + 1]);
        let (kind, tci) = (word(12), word(14));
        if kind != C && kind != S {
            return (tags, rest);
        }
        tags.push((kind, tci));
        rest.drain(12..16);
    }
}

/// The port's tags with priority bits, one value a tag.
fn with_priority(port: u8, bits: &[u16]) -> Tags {
    let tags = PORTS[usize::from(port)].2;
    tags.iter().enumerate().map(|(n, (kind, id))| (*kind, id | bits.get(n).unwrap_or(&0) << 12)).collect()
}

/// What the tags of a frame are behind the gateway, when it came by one port and leaves by another.
fn leaving_tags(out: u8, came: &[(u16, u16)]) -> Tags {
    let bits: Vec<u16> = came.iter().map(|(_, tci)| tci >> 12).collect();
    let outermost = *bits.first().unwrap_or(&0);
    let same = PORTS[usize::from(out)].2.len() == came.len();
    with_priority(out, &if same { bits } else { vec![outermost; 2] })
}

fn packet(port: u8, src: SocketAddr, dst: SocketAddr, body: Body, payload: &[u8]) -> Packet {
    Packet {
        mac: (gw_mac(device(port)), host_mac(src.ip())),
        vlan: None,
        src,
        dst,
        ttl: 61,
        id: 0x1234,
        ip_options: Vec::new(),
        body,
        payload: payload.to_vec(),
    }
}

fn leaving(p: &Packet, out: u8, src: SocketAddr, dst: SocketAddr) -> Packet {
    Packet { mac: (host_mac(dst.ip()), gw_mac(device(out))), src, dst, ttl: p.ttl - 1, ..p.clone() }
}

/// A connection between hosts of two ports.
struct Conn {
    port: u8,
    out: u8,
    client: SocketAddr,
    listen: SocketAddr,
    source: SocketAddr,
    target: SocketAddr,
    proto: Proto,
}

impl Conn {
    fn body(&self) -> Body {
        if self.proto == Proto::Tcp { tcp(ACK) } else { Body::Udp { checksum: true } }
    }

    fn open(rig: &mut Rig, proto: Proto, port: u8, out: u8, v6: bool, client_port: u16) -> Conn {
        let client = SocketAddr::new(host(port, 2, v6), client_port);
        let listen = SocketAddr::new(host(port, 1, v6), 5000 + u16::from(out));
        let target = SocketAddr::new(host(out, 2, v6), 6000);
        let mut conn = Conn { port, out, client, listen, source: listen, target, proto };
        let body = if proto == Proto::Tcp { tcp(SYN) } else { conn.body() };
        let first = packet(port, client, listen, body, b"");
        let sent = rig.pass(device(port), &tagged(first.build(), PORTS[usize::from(port)].2), device(out));
        conn.source = read(&untagged(&sent).1).src;
        conn
    }

    /// A packet of this direction with these tags, and the frame that must come of it.
    fn frames(&self, to_target: bool, tags: &[(u16, u16)], payload: &[u8], options: &[u8]) -> [Vec<u8>; 2] {
        let (from, to, src, dst, new_src, new_dst) = if to_target {
            (self.port, self.out, self.client, self.listen, self.source, self.target)
        } else {
            (self.out, self.port, self.target, self.source, self.listen, self.client)
        };
        let mut p = packet(from, src, dst, self.body(), payload);
        p.ip_options = options.to_vec();
        let expected = tagged(leaving(&p, to, new_src, new_dst).build(), &leaving_tags(to, tags));
        [tagged(p.build(), tags), expected]
    }

    #[track_caller]
    fn passes(&self, rig: &mut Rig, to_target: bool, tags: &[(u16, u16)], payload: &[u8], options: &[u8]) {
        let (from, to) = if to_target { (self.port, self.out) } else { (self.out, self.port) };
        let [frame, expected] = self.frames(to_target, tags, payload, options);
        assert_same(&rig.pass(device(from), &frame, device(to)), &expected);
    }
}

fn ports(rig: &mut Rig) -> Vec<PortInfo> {
    match rig.ask(Request::PortList) {
        Ok(Reply::Ports { ports }) => ports,
        other => panic!("{other:?}"),
    }
}

/// Between any two ports, whatever their tags and devices: the tags of the way out, the priority of the way in.
#[test]
fn every_pair_of_ports_relays_with_its_tags_and_keeps_the_priority() {
    let mut rig = rig();
    for port in 0..n_ports() {
        for out in (0..n_ports()).filter(|out| *out != port) {
            for (v6, proto) in
                [(false, Proto::Udp), (true, Proto::Udp), (false, Proto::Tcp), (true, Proto::Tcp)]
            {
                let conn = Conn::open(&mut rig, proto, port, out, v6, 1000);
                for bits in [[0u16, 0], [0xf, 0xf], [0xb, 0x4], [0x1, 0xe]] {
                    for (to_target, by) in [(true, port), (false, out)] {
                        let tags = with_priority(by, &bits);
                        conn.passes(&mut rig, to_target, &tags, b"fast", &[]);
                        if !v6 {
                            conn.passes(&mut rig, to_target, &tags, b"slow", &[148, 4, 0, 0]);
                        }
                    }
                }
            }
        }
    }
    rig.balance();
}

/// Each packet of a train has its own priority.
#[test]
fn packets_of_one_burst_keep_their_own_priorities() {
    let mut rig = rig();
    for (port, out) in [(1, 2), (3, 6), (4, 5), (5, 1), (1, 0), (0, 1)] {
        let conn = Conn::open(&mut rig, Proto::Udp, port, out, false, 1000);
        let pairs: Vec<_> = (0..16u16)
            .map(|n| conn.frames(true, &with_priority(port, &[n, 15 - n]), &n.to_be_bytes(), &[]))
            .collect();
        rig.send(device(port), &pairs.iter().map(|p| p[0].clone()).collect::<Vec<_>>());
        let sent = rig.take(device(out));
        assert_eq!(sent, pairs.into_iter().map(|p| p[1].clone()).collect::<Vec<_>>(), "{port} to {out}");
    }
    rig.balance();
}

/// IEEE 802.1Q section 6.9: an id of 0 is a priority and no VLAN.
#[test]
fn priority_tagged_frames_count_as_untagged_and_lend_their_bits() {
    let mut rig = rig();
    for out in 1..n_ports() {
        let conn = Conn::open(&mut rig, Proto::Udp, 0, out, false, 1000);
        conn.passes(&mut rig, true, &[(C, 0xa000)], b"x", &[]);
        conn.passes(&mut rig, true, &[(S, 0x5000)], b"x", &[]);
        conn.passes(&mut rig, true, &[(S, 0x5000), (C, 0xa000)], b"x", &[]);
        conn.passes(&mut rig, true, &[], b"x", &[]);
    }
    // A priority tag beside the port's own.
    let conn = Conn::open(&mut rig, Proto::Udp, 3, 4, false, 1000);
    conn.passes(&mut rig, true, &[(S, 0x3064), (C, 0x7000)], b"x", &[]);
    let conn = Conn::open(&mut rig, Proto::Udp, 1, 3, false, 1000);
    conn.passes(&mut rig, true, &[(S, 0xe000), (C, 0x701e)], b"x", &[]);
    rig.balance();
}

#[test]
fn frames_of_no_port_are_dropped_by_name_at_the_first_port_of_their_device() {
    let mut rig = rig();
    let conn = Conn::open(&mut rig, Proto::Udp, 1, 5, false, 1000);
    let plain = packet(1, conn.client, conn.listen, conn.body(), b"x").build();
    rig.take_any();
    let before = ports(&mut rig);
    let cases: [(u8, &[(u16, u16)]); 9] = [
        (0, &[(C, 31)]),
        (0, &[(S, 101)]),
        (0, &[(S, 30)]),
        (0, &[(C, 100)]),
        (0, &[(S, 100), (C, 40)]),
        (0, &[(S, 200), (C, 30)]),
        (5, &[]),
        (5, &[(S, 200)]),
        (7, &[(C, 30)]),
    ];
    for (port, tags) in cases {
        rig.drops_as(&format!("{tags:x?}"), port, &tagged(plain.clone(), tags), DropReason::VlanMismatch);
    }
    let after = ports(&mut rig);
    for (port, count) in [(0, 6), (1, 0), (2, 0), (3, 0), (4, 0), (5, 2), (6, 0), (7, 1)] {
        assert_eq!(after[port].rx.packets - before[port].rx.packets, count, "{}", PORTS[port].0);
    }
    // Too many, or in another order: at the port that the first ones name.
    for tags in [
        &[(C, 30), (C, 30)][..],
        &[(S, 100), (S, 100)],
        &[(C, 30), (S, 100)],
        &[(S, 100), (C, 30), (C, 30)],
        &[(C, 0), (C, 30)],
    ] {
        rig.drops_as(&format!("{tags:x?}"), 0, &tagged(plain.clone(), tags), DropReason::VlanMismatch);
    }
    for len in 12..18 {
        let cut = &tagged(plain.clone(), &[(S, 100), (C, 30)])[..len];
        rig.drops_as(&format!("{len} bytes"), 0, cut, DropReason::EthTruncated);
    }
    rig.balance();
}

/// A burst in which VLANs and untagged frames take turns, some of them slow: in order within each connection.
#[test]
fn connections_stay_in_order_when_vlans_interleave() {
    let mut rig = rig();
    let pairs = [(0u8, 6u8), (1, 6), (2, 5), (3, 7), (4, 5), (1, 2), (4, 3)];
    let conns: Vec<Conn> =
        pairs.iter().map(|(port, out)| Conn::open(&mut rig, Proto::Udp, *port, *out, false, 2000)).collect();
    let mut expected: BTreeMap<SocketAddr, Vec<Vec<u8>>> = BTreeMap::new();
    let mut frames = Vec::new();
    for n in 0..200usize {
        let conn = &conns[(n * 5 + n / 9) % conns.len()];
        let options: &[u8] = if n % 3 == 0 { &[148, 4, 0, 0] } else { &[] };
        let tags = with_priority(conn.port, &[(n % 16) as u16, 3]);
        let [frame, out] = conn.frames(true, &tags, &(n as u32).to_be_bytes(), options);
        frames.push(frame);
        expected.entry(conn.source).or_default().push(out);
    }
    rig.send(0, &frames);
    let mut sent: BTreeMap<SocketAddr, Vec<Vec<u8>>> = BTreeMap::new();
    for (_, frame) in rig.take_any() {
        sent.entry(read(&untagged(&frame).1).src).or_default().push(frame);
    }
    assert_eq!(sent, expected);
    rig.balance();
}

/// The same addresses and ports in another VLAN are another host's: never the connection's.
#[test]
fn a_connection_is_its_vlans_alone() {
    let mut rig = rig();
    for v6 in [false, true] {
        let conn = Conn::open(&mut rig, Proto::Udp, 1, 4, v6, 1000);
        for (to_target, own) in [(true, 1), (false, 4)] {
            let [frame, _] = conn.frames(to_target, &[], b"x", &[]);
            for other in (0..5u8).filter(|other| *other != own) {
                let frame = tagged(frame.clone(), PORTS[usize::from(other)].2);
                rig.drops_as(PORTS[usize::from(other)].0, 0, &frame, DropReason::NotOurAddress);
            }
            conn.passes(&mut rig, to_target, PORTS[usize::from(own)].2, b"x", &[]);
        }
    }
    rig.balance();
}

/// An ARP frame (RFC 826) without tags.
fn arp(dst: [u8; 6], op: u8, (sha, spa): ([u8; 6], IpAddr), (tha, tpa): ([u8; 6], IpAddr)) -> Vec<u8> {
    let octets = |a| match a {
        IpAddr::V4(a) => a.octets(),
        IpAddr::V6(_) => unreachable!("ARP is IPv4's"),
    };
    let mut f = [&dst[..], &sha, &[8, 6, 0, 1, 8, 0, 6, 4, 0, op]].concat();
    f.extend([&sha[..], &octets(spa), &tha, &octets(tpa)].concat());
    f.resize(60, 0);
    f
}

/// Each VLAN's own address is answered there, with its tags at priority 0, and no other's.
#[test]
fn arp_and_echo_are_answered_in_the_vlan_that_asks() {
    let mut rig = rig();
    // Time earns echo replies.
    rig.advance(1000);
    for port in 0..n_ports() {
        let (asker, mac) = (host(port, 2, false), host_mac(host(port, 2, false)));
        let gateway = gw_mac(device(port));
        for own in 0..n_ports() {
            let ask = arp([0xff; 6], 1, (mac, asker), ([0; 6], host(own, 1, false)));
            rig.send(device(port), &[tagged(ask, &with_priority(port, &[7, 7]))]);
            let sent = rig.take_any();
            if own != port {
                assert!(sent.is_empty(), "{port} {own}");
                continue;
            }
            let [(by, frame)] = &sent[..] else { panic!("{sent:02x?}") };
            let (tags, mut answer) = untagged(frame);
            answer.resize(60, 0);
            assert_eq!((*by, tags), (device(port), PORTS[usize::from(port)].2.to_vec()));
            assert_same(&answer, &arp(mac, 2, (gateway, host(own, 1, false)), (mac, asker)));
        }
        // An echo reply has the tags of its request, priority and all.
        let tags = with_priority(port, &[5, 9]);
        let mut request = packet(
            port,
            SocketAddr::new(asker, 1),
            SocketAddr::new(host(port, 1, false), 1),
            Body::Udp { checksum: true },
            &[0; 8],
        )
        .build();
        request[23] = 1;
        request[34..42].copy_from_slice(&[8, 0, 0, 0, 1, 2, 3, 4]);
        let sum = internet_checksum(&[&request[34..]]);
        request[36..38].copy_from_slice(&sum.to_be_bytes());
        common::packet::fix_ip4(&mut request, 14);
        let (replied, reply) = untagged(&rig.pass(device(port), &tagged(request, &tags), device(port)));
        assert_eq!((replied, reply[34]), (tags, 0));
    }
    rig.balance();
}

/// The same address may be asked for in several VLANs; an answer counts where it comes from.
#[test]
fn next_hops_are_asked_for_and_learned_by_vlan() {
    for (port, out) in [(0u8, 2u8), (0, 3), (1, 4), (5, 1), (2, 0), (4, 7)] {
        let client = host(port, 9, false);
        let flow = format!(
            "[[flow]]\nname = \"new\"\nproto = \"udp\"\nlisten = \"{}:7000\"\ntarget = \"{}:6000\"\nfrom = [\"0.0.0.0/0\"]\n",
            host(port, 1, false),
            host(out, 9, false)
        );
        let mut rig = Rig::with(&(config() + &flow), 1, 1024);
        let listen = SocketAddr::new(host(port, 1, false), 7000);
        let p = packet(port, SocketAddr::new(client, 1000), listen, Body::Udp { checksum: true }, b"x");
        let tags = with_priority(port, &[6, 2]);
        rig.send(device(port), &[tagged(p.build(), &tags)]);
        let sent = rig.take(device(out));
        let [question] = &sent[..] else { panic!("{sent:02x?}") };
        let (asked, mut ask) = untagged(question);
        ask.resize(60, 0);
        assert_eq!(asked, PORTS[usize::from(out)].2.to_vec(), "priority 0");
        let (gateway, target, mac) =
            (gw_mac(device(out)), host(out, 9, false), host_mac(host(out, 9, false)));
        assert_same(&ask, &arp([0xff; 6], 1, (gateway, host(out, 1, false)), ([0; 6], target)));
        rig.take_any();

        let answer = arp(gateway, 2, (mac, target), (gateway, host(out, 1, false)));
        for other in (0..n_ports()).filter(|o| *o != out && device(*o) == device(out)) {
            rig.send(device(out), &[tagged(answer.clone(), PORTS[usize::from(other)].2)]);
            assert!(rig.take_any().is_empty(), "an answer in {} is not one", PORTS[usize::from(other)].0);
        }
        rig.send(device(out), &[tagged(answer, PORTS[usize::from(out)].2)]);
        let sent = rig
            .take_any()
            .into_iter()
            .filter(|(_, f)| f.len() != 60 || f.ends_with(b"x"))
            .collect::<Vec<_>>();
        let [(by, frame)] = &sent[..] else { panic!("{sent:02x?}") };
        let source = read(&untagged(frame).1).src;
        let expected = leaving(&p, out, source, SocketAddr::new(target, 6000));
        assert_eq!(*by, device(out));
        assert_same(frame, &tagged(expected.build(), &leaving_tags(out, &tags)));
        rig.take_any();
        rig.balance();
    }
}

#[test]
fn frames_are_counted_at_their_port() {
    let mut rig = rig();
    let conn = Conn::open(&mut rig, Proto::Udp, 4, 2, false, 1000);
    let before = ports(&mut rig);
    let drops = rig.drops();
    let pairs: Vec<_> = (0..20u16)
        .map(|n| conn.frames(n % 4 != 0, PORTS[if n % 4 != 0 { 4 } else { 2 }].2, b"x", &[]))
        .collect();
    rig.send(0, &pairs.iter().map(|p| p[0].clone()).collect::<Vec<_>>());
    assert_eq!(rig.take(0).len(), 20);
    let after = ports(&mut rig);
    let moved: Vec<_> = before
        .iter()
        .zip(&after)
        .map(|(b, a)| {
            [
                a.rx.packets - b.rx.packets,
                a.rx.bytes - b.rx.bytes,
                a.tx.packets - b.tx.packets,
                a.tx.bytes - b.tx.bytes,
            ]
        })
        .collect();
    let (long, short) = (22 + 29, 18 + 29);
    assert_eq!(moved[4], [15, 15 * long, 5, 5 * long]);
    assert_eq!(moved[2], [5, 5 * short, 15, 15 * short]);
    assert!([0, 1, 3, 5, 6, 7].iter().all(|p| moved[*p] == [0; 4]), "{moved:?}");
    assert_eq!(since(&drops, &rig.drops()), BTreeMap::new());
    assert_eq!(
        (after[4].outer_vlan, after[4].vlan, after[3].outer_vlan, after[3].vlan),
        (Some(100), Some(30), Some(100), None)
    );
    assert_eq!(after[0].mac, after[4].mac);
    rig.balance();
}

/// Two ports of a device that takes nothing: each holds its own, and nothing is lost or out of order once it takes some.
#[test]
fn a_full_device_holds_the_frames_of_all_its_ports() {
    let mut rig = rig();
    let conns = [5u8, 6].map(|out| Conn::open(&mut rig, Proto::Udp, 1, out, false, 1000));
    rig.ios[0].set_tx_room(5, 0);
    let pairs: Vec<_> = (0..40u16)
        .map(|n| conns[usize::from(n % 2)].frames(true, &[(C, 30)], &n.to_be_bytes(), &[]))
        .collect();
    rig.send(1, &pairs.iter().map(|p| p[0].clone()).collect::<Vec<_>>());
    assert_eq!((rig.take(5).len(), rig.stats().held), (0, 40));
    rig.ios[0].set_tx_room(5, usize::MAX);
    rig.turn();
    let sent = rig.take(5);
    for conn in 0..2 {
        let of = |all: Vec<Vec<u8>>| {
            all.into_iter()
                .filter(|f| f[12..14] == if conn == 0 { [0x88, 0xa8] } else { [0x81, 0] })
                .collect::<Vec<_>>()
        };
        assert_eq!(of(sent.clone()), of(pairs.iter().map(|p| p[1].clone()).collect()));
    }
    rig.balance();
}

/// A packet that comes to another worker than its connection's keeps its port and tags.
#[test]
fn workers_hand_packets_over_by_port() {
    let mut rig = Rig::with(&config(), 3, 1024);
    for (port, out) in [(1u8, 4u8), (4, 5), (0, 3), (3, 1)] {
        for n in 0..8 {
            let conn = Conn::open(&mut rig, Proto::Udp, port, out, false, 1000 + n);
            let tags = with_priority(port, &[9, 2]);
            for worker in 0..3 {
                let [frame, expected] = conn.frames(true, &tags, b"x", &[]);
                rig.inject_at(worker, device(port), &frame);
                rig.turn();
                assert_eq!(rig.take_any(), [(device(out), expected)]);
            }
        }
    }
    assert!(rig.stats().workers.iter().map(|w| w.handed_over).sum::<u64>() > 0);
    rig.balance();
}

/// More ports than a device has ever had queues.
#[test]
fn sixty_four_ports_on_one_device() {
    let mut text = String::new();
    for n in 0..64 {
        text += &format!("[[port]]\nname = \"p{n}\"\ndevice = \"vdev:trunk\"\nvlan = {}\n", 100 + n);
        text += &format!("addresses = [\"10.{n}.0.1/24\"]\n");
        let mac = Mac(host_mac(IpAddr::from([10, n, 0, 2])));
        text += &format!("[[neighbor]]\nport = \"p{n}\"\naddress = \"10.{n}.0.2\"\nmac = \"{mac}\"\n");
        let next = (n + 1) % 64;
        text += &format!("[[flow]]\nname = \"f{n}\"\nproto = \"udp\"\nlisten = \"10.{n}.0.1:5000\"\n");
        text += &format!("target = \"10.{next}.0.2:6000\"\nfrom = [\"10.{n}.0.0/24\"]\n");
    }
    let mut rig = Rig::with(&text, 1, 1024);
    for round in 0..2 {
        let frame = |n: u8| {
            let (src, dst) = (addr(&format!("10.{n}.0.2:1000")), addr(&format!("10.{n}.0.1:5000")));
            tagged(
                packet(0, src, dst, Body::Udp { checksum: true }, &[n]).build(),
                &[(C, 100 + u16::from(n))],
            )
        };
        rig.send(0, &(0..64).map(frame).collect::<Vec<_>>());
        let sent: BTreeMap<u8, Vec<u8>> = rig.take(0).into_iter().map(|f| (*f.last().unwrap(), f)).collect();
        assert_eq!(sent.len(), 64, "round {round}");
        for (n, frame) in sent {
            let (next, (tags, plain)) = ((n + 1) % 64, untagged(&frame));
            assert_eq!(tags, [(C, 100 + u16::from(next))]);
            let r = read(&plain);
            assert_eq!(
                (r.src.ip(), r.dst),
                (IpAddr::from([10, next, 0, 1]), addr(&format!("10.{next}.0.2:6000")))
            );
        }
    }
    rig.balance();
}
