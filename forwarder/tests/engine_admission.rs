//! Who gets a connection, how long it lives, and what ends it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::packet::{ACK, Body, FIN, PSH, Packet, RST, SYN, addr, read, tcp};
use common::{Conn, LAN, Rig, TAG, WAN, flow, since};
use forwarder::api::{ErrorCode, FlowSpec, FlowState, Proto, Reply, Request};
use forwarder::engine::DropReason;

const CLIENT: &str = "10.0.0.2:4000";
const LISTEN: &str = "10.0.0.1:5000";
const TARGET: &str = "10.1.0.2:6000";
const FROM: &str = "10.0.0.0/24";

fn udp() -> Body {
    Body::Udp { checksum: true }
}

/// A TCP and a UDP flow from LAN to WAN.
fn rig_with(text: &str) -> Rig {
    let mut rig = Rig::new(text);
    rig.add(flow("tcp", Proto::Tcp, LISTEN, TARGET, FROM));
    rig.add(flow("udp", Proto::Udp, LISTEN, TARGET, FROM));
    rig
}

fn rig() -> Rig {
    rig_with("")
}

fn open(rig: &mut Rig, proto: Proto, client: &str) -> Conn {
    rig.open(proto, LAN, client, LISTEN, WAN, TARGET)
}

fn syn(client: &str) -> Vec<u8> {
    Packet::tcp(LAN, client, LISTEN, SYN, b"").build()
}

#[test]
fn what_opens_a_connection_and_what_does_not() {
    use DropReason::*;
    let tcp = |flags| Packet::tcp(LAN, CLIENT, LISTEN, flags, b"").build();
    let cases: &[(&str, Vec<u8>, Option<DropReason>)] = &[
        ("syn", tcp(SYN), None),
        ("syn with data", Packet::tcp(LAN, CLIENT, LISTEN, SYN, b"fast open").build(), None),
        ("syn with push", tcp(SYN | PSH), None),
        ("datagram", Packet::udp(LAN, CLIENT, LISTEN, b"x").build(), None),
        ("empty datagram", Packet::udp(LAN, CLIENT, LISTEN, b"").build(), None),
        ("ack", tcp(ACK), Some(TcpNoConnection)),
        ("syn+ack", tcp(SYN | ACK), Some(TcpNoConnection)),
        ("rst", tcp(RST), Some(TcpNoConnection)),
        ("rst+ack", tcp(RST | ACK), Some(TcpNoConnection)),
        ("fin", tcp(FIN), Some(TcpNoConnection)),
        ("fin+ack", tcp(FIN | ACK), Some(TcpNoConnection)),
        ("data", Packet::tcp(LAN, CLIENT, LISTEN, PSH | ACK, b"data").build(), Some(TcpNoConnection)),
        ("no flags", tcp(0), Some(TcpNoConnection)),
        ("syn+fin", tcp(SYN | FIN), Some(TcpMalformed)),
        ("syn+rst", tcp(SYN | RST), Some(TcpMalformed)),
        ("other port", Packet::udp(LAN, CLIENT, "10.0.0.1:5001", b"x").build(), Some(NoFlow)),
        ("other port, syn", Packet::tcp(LAN, CLIENT, "10.0.0.1:5001", SYN, b"").build(), Some(NoFlow)),
        ("other port, ack", Packet::tcp(LAN, CLIENT, "10.0.0.1:5001", ACK, b"").build(), Some(NoFlow)),
        (
            "address of another port",
            Packet::udp(LAN, CLIENT, "10.1.0.1:5000", b"x").build(),
            Some(NotOurAddress),
        ),
        (
            "listen address at another port",
            Packet::udp(WAN, "10.1.0.2:4000", LISTEN, b"x").build(),
            Some(NotOurAddress),
        ),
        ("nobody's address", Packet::udp(LAN, CLIENT, "10.0.0.77:5000", b"x").build(), Some(NotOurAddress)),
        ("source not allowed", Packet::udp(LAN, "10.0.9.2:4000", LISTEN, b"x").build(), Some(SourceDenied)),
        (
            "source not allowed, syn",
            Packet::tcp(LAN, "10.9.0.2:4000", LISTEN, SYN, b"").build(),
            Some(SourceDenied),
        ),
        (
            "source not allowed, ack",
            Packet::tcp(LAN, "10.9.0.2:4000", LISTEN, ACK, b"").build(),
            Some(SourceDenied),
        ),
    ];
    for (name, frame, reason) in cases {
        let mut rig = rig();
        match reason {
            Some(reason) => {
                rig.drops_as(name, LAN + u8::from(*name == "listen address at another port"), frame, *reason);
                assert!(rig.connections().is_empty(), "{name}");
            }
            None => {
                let sent = rig.pass(LAN, frame, WAN);
                assert_eq!(read(&sent).dst, addr(TARGET), "{name}");
                assert_eq!(rig.connections().len(), 1, "{name}");
            }
        }
        rig.balance();
    }
}

/// The protocols' port numbers are apart: a TCP flow does not listen for UDP.
#[test]
fn a_flow_listens_for_its_own_protocol() {
    let mut rig = Rig::new("");
    rig.add(flow("tcp", Proto::Tcp, LISTEN, TARGET, FROM));
    rig.drops_as("udp", LAN, &Packet::udp(LAN, CLIENT, LISTEN, b"x").build(), DropReason::NoFlow);
    rig.add(flow("udp", Proto::Udp, LISTEN, "10.1.0.3:7000", FROM));
    open(&mut rig, Proto::Tcp, CLIENT);
    rig.open(Proto::Udp, LAN, CLIENT, LISTEN, WAN, "10.1.0.3:7000");
}

/// RFC 3704: a source is believed only at the port that leads back to it.
#[test]
fn sources_are_believed_at_their_own_port_only() {
    let mut rig = Rig::new("");
    rig.add(flow("open", Proto::Udp, LISTEN, TARGET, "0.0.0.0/0"));
    let cases = [
        ("of another port's link", "10.2.0.2:4000", DropReason::ReversePath),
        ("of the wan's link", "10.1.0.3:4000", DropReason::ReversePath),
        ("routed by another port", "192.168.1.1:4000", DropReason::ReversePath),
        ("of nowhere", "203.0.113.5:4000", DropReason::NoRoute),
    ];
    for (name, src, reason) in cases {
        rig.drops_as(name, LAN, &Packet::udp(LAN, src, LISTEN, b"x").build(), reason);
    }
    assert!(rig.connections().is_empty());
    assert_eq!(rig.flow("open").refused, 4);
    rig.balance();
}

#[test]
fn refusals_are_counted_by_their_flow() {
    let mut rig = rig();
    rig.drops_as(
        "denied",
        LAN,
        &Packet::udp(LAN, "10.7.0.2:1", LISTEN, b"").build(),
        DropReason::SourceDenied,
    );
    rig.drops_as(
        "ack",
        LAN,
        &Packet::tcp(LAN, CLIENT, LISTEN, ACK, b"").build(),
        DropReason::TcpNoConnection,
    );
    open(&mut rig, Proto::Udp, CLIENT);
    let (tcp, udp) = (rig.flow("tcp"), rig.flow("udp"));
    assert_eq!((udp.admitted, udp.refused, udp.connections), (1, 1, 1));
    // A stray segment is nobody's attempt to connect.
    assert_eq!((tcp.admitted, tcp.refused, tcp.connections), (0, 0, 0));
}

/// What a target sends to a source that is no connection's yet is refused, and no longer once it is one's: its first answer has flags,
/// or options, that the fast path leaves to the way on which refusals are remembered.
#[test]
fn targets_refused_before_their_connection_are_heard_in_it() {
    let range = "[limits]\nsource_ports = \"40000-40000\"";
    let six = |rig: &mut Rig, name, proto| {
        rig.add(flow(name, proto, "[fd00::1]:5000", "[fd00:1::2]:6000", "fd00::/64"));
    };
    for proto in [Proto::Tcp, Proto::Udp] {
        let mut rig = rig_with(range);
        six(&mut rig, "six", proto);
        let (body, answer) = match proto {
            Proto::Tcp => (tcp(SYN), tcp(SYN | ACK)),
            Proto::Udp => (udp(), udp()),
        };
        for (client, listen, source, target) in [
            (CLIENT, LISTEN, "10.1.0.1:40000", TARGET),
            ("[fd00::2]:4000", "[fd00::1]:5000", "[fd00:1::1]:40000", "[fd00:1::2]:6000"),
        ] {
            let mut stray = Packet::arriving(WAN, addr(target), addr(source), answer.clone(), b"late");
            for n in 0..3 {
                rig.drops_as(&format!("{target} {n}"), WAN, &stray.build(), DropReason::NoFlow);
            }
            let conn = rig.open(proto, LAN, client, listen, WAN, target);
            assert_eq!(conn.source, addr(source), "the only one there is");
            rig.relays_both(&conn, false, answer.clone(), b"");
            rig.relays_both(&conn, true, body.clone(), b"again");
            // Of a kind that is unusual over UDP, too.
            if conn.client.is_ipv4() {
                stray.ip_options = vec![7, 7, 4, 0, 0, 0, 0, 0];
            }
            rig.relays(WAN, &stray, LAN, &conn.back(&stray));
        }
        rig.balance();
    }
}

#[test]
fn a_flow_has_its_most_connections() {
    let mut rig = Rig::new("[timers]\nudp = 10");
    let spec = FlowSpec { max_conns: Some(3), ..flow("few", Proto::Udp, LISTEN, TARGET, FROM) };
    rig.add(spec);
    let conns: Vec<Conn> =
        (0..3).map(|n| open(&mut rig, Proto::Udp, &format!("10.0.0.2:{}", 4000 + n))).collect();
    let fourth = Packet::udp(LAN, "10.0.0.2:4003", LISTEN, b"").build();
    rig.drops_as("fourth", LAN, &fourth, DropReason::FlowFull);
    for conn in &conns {
        rig.relays_both(conn, false, udp(), b"unharmed");
    }
    let f = rig.flow("few");
    assert_eq!((f.connections, f.admitted, f.refused), (3, 3, 1));
    // Two stay, one falls silent: its place is free again.
    for _ in 0..3 {
        rig.advance(5000);
        for conn in &conns[..2] {
            rig.relays_both(conn, true, udp(), b"still here");
        }
    }
    assert_eq!(rig.flow("few").connections, 2);
    open(&mut rig, Proto::Udp, "10.0.0.2:4003");
    rig.balance();
}

#[test]
fn a_draining_flow_finishes_what_it_has() {
    let mut rig = rig_with("[timers]\nudp = 10\ntcp_transitory = 10");
    let (t, u) = (rig.establish(LAN, CLIENT, LISTEN, WAN, TARGET), open(&mut rig, Proto::Udp, CLIENT));
    for name in ["tcp", "udp"] {
        rig.done(Request::FlowDrain { name: name.into() });
    }
    rig.drops_as("syn", LAN, &syn("10.0.0.2:4001"), DropReason::FlowDraining);
    rig.drops_as(
        "datagram",
        LAN,
        &Packet::udp(LAN, "10.0.0.3:1", LISTEN, b"").build(),
        DropReason::FlowDraining,
    );
    rig.relays_both(&u, true, udp(), b"goes on");
    rig.relays_both(&t, true, tcp(PSH | ACK), b"goes on");
    rig.relays_both(&t, false, tcp(FIN | ACK), b"");
    rig.relays_both(&t, true, tcp(FIN | ACK), b"");
    assert_eq!((rig.flow("tcp").state, rig.flow("tcp").connections), (FlowState::Draining, 1));
    rig.gateway.tick();
    assert_eq!(rig.flow("tcp").refused, 1, "it is still there: it has a connection");
    rig.drops_as("the same port again", LAN, &syn(CLIENT), DropReason::FlowDraining);
    assert_eq!(rig.flow("tcp").refused, 2);
    rig.advance(10_001);
    rig.gateway.tick();
    match rig.ask(Request::FlowList) {
        Ok(Reply::Flows { flows }) => assert!(flows.is_empty(), "{flows:?}"),
        other => panic!("{other:?}"),
    }
    rig.drops_as("later", LAN, &syn(CLIENT), DropReason::NoFlow);
    rig.balance();
}

/// A lease ends by the wall clock; that it has ended is waited for, however long the machine takes.
#[test]
fn a_flow_goes_with_its_lease() {
    let mut rig = Rig::new("");
    rig.add(FlowSpec { lease: Some(1), ..flow("short", Proto::Udp, LISTEN, TARGET, FROM) });
    rig.add(FlowSpec { lease: Some(3600), ..flow("long", Proto::Udp, "10.0.0.1:5001", TARGET, FROM) });
    rig.add(FlowSpec { lease: Some(1), ..flow("renewed", Proto::Udp, "10.0.0.1:5002", TARGET, FROM) });
    rig.done(Request::LeaseRenew { name: "renewed".into(), lease: Some(3600) });
    let conn = open(&mut rig, Proto::Udp, CLIENT);
    let other = rig.open(Proto::Udp, LAN, CLIENT, "10.0.0.1:5001", WAN, TARGET);
    let third = rig.open(Proto::Udp, LAN, CLIENT, "10.0.0.1:5002", WAN, TARGET);
    let started = Instant::now();
    while matches!(rig.ask(Request::FlowShow { name: "short".into() }), Ok(Reply::Flow { .. })) {
        assert!(started.elapsed() < Duration::from_secs(60), "the lease of one second does not end");
        rig.gateway.tick();
        std::thread::sleep(Duration::from_millis(20));
    }
    rig.drops_as("client", LAN, &conn.by_client(udp(), b"late").build(), DropReason::NoFlow);
    rig.drops_as("target", WAN, &conn.by_target(udp(), b"late").build(), DropReason::NoFlow);
    rig.relays_both(&other, true, udp(), b"unharmed");
    rig.relays_both(&third, false, udp(), b"unharmed");
    let remaining = rig.flow("renewed").lease_remaining.unwrap();
    assert!((3000..=3600).contains(&remaining), "{remaining}");
    rig.balance();
}

#[test]
fn deleting_a_flow_cuts_at_the_next_packet() {
    let mut rig = rig();
    rig.add(flow("other", Proto::Tcp, "10.0.0.1:5001", TARGET, FROM));
    let a = rig.establish(LAN, CLIENT, LISTEN, WAN, TARGET);
    let b = rig.establish(LAN, "10.0.0.3:4000", LISTEN, WAN, TARGET);
    let other = rig.establish(LAN, CLIENT, "10.0.0.1:5001", WAN, TARGET);
    rig.delete("tcp");
    rig.drops_as("client", LAN, &a.by_client(tcp(ACK), b"more").build(), DropReason::NoFlow);
    rig.drops_as("target", WAN, &b.by_target(tcp(ACK), b"more").build(), DropReason::NoFlow);
    rig.relays_both(&other, true, tcp(ACK), b"unharmed");
    // The same flow anew is another flow: what it admits, it admits anew.
    rig.add(flow("tcp", Proto::Tcp, LISTEN, TARGET, FROM));
    rig.drops_as("old connection", LAN, &b.by_client(tcp(ACK), b"").build(), DropReason::TcpNoConnection);
    let f = rig.flow("tcp");
    assert_eq!((f.connections, f.admitted, f.to_target.packets), (0, 0, 0));
    rig.establish(LAN, CLIENT, LISTEN, WAN, TARGET);
    assert_eq!(rig.flow("tcp").connections, 1);
    rig.advance(3000);
    assert_eq!(rig.stats().connections, 2);
    rig.balance();
}

#[test]
fn deleted_flows_connections_are_swept_without_packets() {
    let mut rig = rig();
    for n in 0..100 {
        open(&mut rig, Proto::Udp, &format!("10.0.0.2:{}", 4000 + n));
    }
    rig.delete("udp");
    rig.advance(3000);
    assert_eq!(rig.stats().connections, 0);
    assert!(rig.connections().is_empty());
}

#[test]
fn replacing_a_flow_keeps_its_connections() {
    let mut rig = rig();
    let (a, b) = (open(&mut rig, Proto::Udp, "10.0.0.2:1"), open(&mut rig, Proto::Udp, "10.0.0.3:1"));
    let replace = |rig: &mut Rig, spec: FlowSpec| rig.done(Request::FlowReplace { spec });
    replace(
        &mut rig,
        FlowSpec { max_conns: Some(2), ..flow("udp", Proto::Udp, LISTEN, TARGET, "10.0.0.0/16") },
    );
    for conn in [&a, &b] {
        rig.relays_both(conn, true, udp(), b"goes on");
        rig.relays_both(conn, false, udp(), b"goes on");
    }
    let f = rig.flow("udp");
    assert_eq!((f.connections, f.admitted, f.to_target.packets, f.to_client.packets), (2, 2, 4, 2));
    let third = Packet::udp(LAN, "10.0.0.2:3", LISTEN, b"").build();
    rig.drops_as("third", LAN, &third, DropReason::FlowFull);
    // Whose source is no longer allowed is cut, in either direction.
    replace(&mut rig, flow("udp", Proto::Udp, LISTEN, TARGET, "10.0.0.3/32"));
    rig.relays_both(&b, false, udp(), b"goes on");
    rig.drops_as("target", WAN, &a.by_target(udp(), b"").build(), DropReason::NoFlow);
    rig.drops_as("client", LAN, &a.by_client(udp(), b"").build(), DropReason::SourceDenied);
    assert_eq!(rig.flow("udp").connections, 1);
    // Another target: nothing stays.
    replace(&mut rig, flow("udp", Proto::Udp, LISTEN, "10.1.0.3:6000", FROM));
    rig.drops_as("target", WAN, &b.by_target(udp(), b"").build(), DropReason::NoFlow);
    let anew = rig.open(Proto::Udp, LAN, "10.0.0.3:1", LISTEN, WAN, "10.1.0.3:6000");
    assert_eq!((rig.flow("udp").connections, rig.flow("udp").admitted), (1, 1));
    rig.relays_both(&anew, false, udp(), b"");
    rig.balance();
}

/// A change that is refused changes nothing.
#[test]
fn a_refused_replacement_leaves_the_flow() {
    let mut rig = Rig::new("[limits]\nflows = 1");
    rig.add(flow("only", Proto::Udp, LISTEN, TARGET, FROM));
    let conn = open(&mut rig, Proto::Udp, CLIENT);
    // Another target needs a slot of its own while the old one is given up, and there is none.
    let spec = flow("only", Proto::Udp, LISTEN, "10.1.0.3:6000", FROM);
    assert_eq!(rig.ask(Request::FlowReplace { spec }).unwrap_err().code, ErrorCode::Full);
    assert_eq!(rig.flow("only").spec.target, addr(TARGET));
    rig.relays_both(&conn, true, udp(), b"unharmed");
    rig.delete("only");
    rig.drops_as("deleted", LAN, &conn.by_client(udp(), b"").build(), DropReason::NoFlow);
    rig.add(flow("next", Proto::Udp, LISTEN, TARGET, FROM));
    open(&mut rig, Proto::Udp, CLIENT);
}

#[test]
fn a_full_connection_table_harms_nobody() {
    let mut rig = rig_with("[limits]\nconnections = 50\n[timers]\nudp = 10");
    let conns: Vec<Conn> =
        (0..50).map(|n| open(&mut rig, Proto::Udp, &format!("10.0.0.2:{}", 4000 + n))).collect();
    for n in 0..20 {
        let more = Packet::udp(LAN, &format!("10.0.0.3:{}", 4000 + n), LISTEN, b"").build();
        rig.drops_as("one more", LAN, &more, DropReason::ConnTableFull);
    }
    for conn in &conns {
        rig.relays_both(conn, true, udp(), b"unharmed");
        rig.relays_both(conn, false, udp(), b"unharmed");
    }
    let f = rig.flow("udp");
    assert_eq!((f.connections, f.admitted, f.refused), (50, 50, 20));
    rig.advance(10_001);
    assert_eq!(rig.flow("udp").connections, 0);
    for n in 0..50 {
        open(&mut rig, Proto::Udp, &format!("10.0.0.3:{}", 5000 + n));
    }
    assert_eq!(rig.flow("udp").connections, 50);
    rig.balance();
}

#[test]
fn exhausted_source_ports_harm_nobody() {
    let mut rig = rig_with("[limits]\nsource_ports = \"40000-40019\"\n[timers]\nudp = 10");
    let conns: Vec<Conn> =
        (0..20).map(|n| open(&mut rig, Proto::Udp, &format!("10.0.0.2:{}", 4000 + n))).collect();
    let ports: BTreeSet<u16> = conns.iter().map(|c| c.source.port()).collect();
    assert_eq!(ports, (40_000..=40_019).collect(), "every port of the range is used, each once");
    let more = Packet::udp(LAN, "10.0.0.3:4000", LISTEN, b"").build();
    rig.drops_as("one more", LAN, &more, DropReason::NoSourcePort);
    for conn in &conns {
        rig.relays_both(conn, false, udp(), b"unharmed");
    }
    // Ports are scarce towards one target only.
    rig.add(flow("elsewhere", Proto::Udp, "10.0.0.1:5001", "10.1.0.2:6001", FROM));
    rig.open(Proto::Udp, LAN, CLIENT, "10.0.0.1:5001", WAN, "10.1.0.2:6001");
    open(&mut rig, Proto::Tcp, CLIENT);
    rig.advance(10_001);
    open(&mut rig, Proto::Udp, "10.0.0.3:4000");
    rig.balance();
}

/// RFC 6056 section 3.1: in the range, and not to be guessed from the ones before.
#[test]
fn source_ports_are_unpredictable_and_in_range() {
    let mut rig = rig_with("[limits]\nsource_ports = \"20000-29999\"");
    let ports: Vec<u16> = (0..500)
        .map(|n| open(&mut rig, Proto::Udp, &format!("10.0.0.2:{}", 4000 + n)).source.port())
        .collect();
    assert!(ports.iter().all(|p| (20_000..=29_999).contains(p)));
    assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 500, "one target, no port twice");
    // Of 499 steps at random over 10,000 ports about one is shorter than 16 either way; 40 would take a miracle.
    let near = ports.windows(2).filter(|w| w[0].abs_diff(w[1]) < 16).count();
    assert!(near < 40, "{near} of 499 ports lie close to the one before");
    let rising = ports.windows(2).filter(|w| w[0] < w[1]).count();
    assert!((150..350).contains(&rising), "{rising} of 499 steps go up");
    let mut again = rig_with("[limits]\nsource_ports = \"20000-29999\"");
    let others: Vec<u16> = (0..20)
        .map(|n| open(&mut again, Proto::Udp, &format!("10.0.0.2:{}", 4000 + n)).source.port())
        .collect();
    assert_ne!(ports[..20], others, "another run, other ports");
}

/// A source port on which a flow listens is not given away.
#[test]
fn source_ports_leave_out_listening_ones() {
    let mut rig = rig_with("[limits]\nsource_ports = \"40000-40003\"");
    rig.add(flow("back", Proto::Udp, "10.1.0.1:40001", "10.0.0.3:7000", "10.1.0.0/24"));
    let ports: BTreeSet<u16> =
        (0..3).map(|n| open(&mut rig, Proto::Udp, &format!("10.0.0.2:{}", 4000 + n)).source.port()).collect();
    assert_eq!(ports, BTreeSet::from([40_000, 40_002, 40_003]));
    let more = Packet::udp(LAN, "10.0.0.2:4009", LISTEN, b"").build();
    rig.drops_as("one more", LAN, &more, DropReason::NoSourcePort);
    rig.open(Proto::Udp, WAN, "10.1.0.2:6000", "10.1.0.1:40001", LAN, "10.0.0.3:7000");
}

#[test]
fn replies_come_from_the_target_alone() {
    let mut rig = rig();
    let u = open(&mut rig, Proto::Udp, CLIENT);
    let t = rig.establish(LAN, CLIENT, LISTEN, WAN, TARGET);
    let from = |src: &str, dst: std::net::SocketAddr, body| {
        Packet::arriving(WAN, addr(src), dst, body, b"spoofed").build()
    };
    let cases = [
        ("other address", from("10.1.0.3:6000", u.source, udp())),
        ("other port", from("10.1.0.2:6001", u.source, udp())),
        ("other address, tcp", from("10.1.0.3:6000", t.source, tcp(ACK))),
        ("other port, tcp", from("10.1.0.2:6001", t.source, tcp(ACK))),
        ("other protocol", from(TARGET, u.source, tcp(SYN))),
        ("from behind the router", from("192.168.0.2:6000", u.source, udp())),
    ];
    for (name, frame) in cases {
        rig.drops_as(name, WAN, &frame, DropReason::NoFlow);
    }
    // The client's own words at the other door.
    let frame = Packet::arriving(LAN, addr(TARGET), u.source, udp(), b"").build();
    rig.drops_as("other port of the forwarder", LAN, &frame, DropReason::NotOurAddress);
    rig.relays_both(&u, false, udp(), b"the target itself");
    rig.relays_both(&t, false, tcp(ACK), b"the target itself");
    rig.balance();
}

/// One row: what is said before the silence, which timer counts then, in seconds.
struct Silence {
    name: &'static str,
    proto: Proto,
    /// (from the client, flags)
    said: &'static [(bool, u8)],
    seconds: u64,
    state: &'static str,
}

const UDP_S: u64 = 20;
const TRANSITORY_S: u64 = 30;
const ESTABLISHED_S: u64 = 100;
const TIMERS: &str = "[timers]\nudp = 20\ntcp_transitory = 30\ntcp_established = 100";

const fn silence(
    name: &'static str,
    proto: Proto,
    said: &'static [(bool, u8)],
    seconds: u64,
    state: &'static str,
) -> Silence {
    Silence { name, proto, said, seconds, state }
}

/// RFC 4787 REQ-5, RFC 5382 REQ-5.
const SILENCES: &[Silence] = &[
    silence("udp", Proto::Udp, &[], UDP_S, "established"),
    silence("udp answered", Proto::Udp, &[(false, 0)], UDP_S, "established"),
    silence("syn", Proto::Tcp, &[], TRANSITORY_S, "opening"),
    silence("syn twice", Proto::Tcp, &[(true, SYN)], TRANSITORY_S, "opening"),
    silence("syn, ack", Proto::Tcp, &[(true, ACK)], TRANSITORY_S, "opening"),
    silence("syn, data back without syn", Proto::Tcp, &[(false, ACK)], TRANSITORY_S, "opening"),
    silence("refused", Proto::Tcp, &[(false, RST | ACK)], TRANSITORY_S, "closing"),
    silence("answered", Proto::Tcp, &[(false, SYN | ACK)], ESTABLISHED_S, "established"),
    silence("established", Proto::Tcp, &[(false, SYN | ACK), (true, ACK)], ESTABLISHED_S, "established"),
    silence(
        "half closed",
        Proto::Tcp,
        &[(false, SYN | ACK), (true, FIN | ACK), (false, ACK)],
        ESTABLISHED_S,
        "established",
    ),
    silence(
        "half closed by target",
        Proto::Tcp,
        &[(false, SYN | ACK), (false, FIN | ACK)],
        ESTABLISHED_S,
        "established",
    ),
    silence(
        "closed",
        Proto::Tcp,
        &[(false, SYN | ACK), (true, FIN | ACK), (false, FIN | ACK)],
        TRANSITORY_S,
        "closing",
    ),
    silence("reset", Proto::Tcp, &[(false, SYN | ACK), (true, ACK), (true, RST)], TRANSITORY_S, "closing"),
    silence(
        "opened again",
        Proto::Tcp,
        &[
            (false, SYN | ACK),
            (true, FIN | ACK),
            (false, FIN | ACK),
            (true, SYN),
            (false, SYN | ACK),
            (true, ACK),
        ],
        ESTABLISHED_S,
        "established",
    ),
];

#[test]
fn connections_end_with_silence() {
    for row in SILENCES {
        let mut rig = rig_with(TIMERS);
        let conn = open(&mut rig, row.proto, CLIENT);
        for (from_client, flags) in row.said {
            let body = if row.proto == Proto::Tcp { tcp(*flags) } else { udp() };
            rig.relays_both(&conn, *from_client, body, b"");
        }
        let listed = rig.connections();
        assert_eq!((listed.len(), listed[0].state.as_str()), (1, row.state), "{}", row.name);
        rig.advance(row.seconds * 1000 - 2);
        assert_eq!(rig.connections().len(), 1, "{}: it is still there", row.name);
        rig.advance(3);
        assert_eq!(rig.connections().len(), 0, "{}: it is gone", row.name);
        let name = if row.proto == Proto::Tcp { "tcp" } else { "udp" };
        assert_eq!((rig.flow(name).connections, rig.stats().connections), (0, 0), "{}", row.name);
        rig.balance();
    }
}

/// A packet of either side keeps a connection.
#[test]
fn talk_keeps_connections() {
    let mut rig = rig_with(TIMERS);
    let (u, t) = (open(&mut rig, Proto::Udp, CLIENT), rig.establish(LAN, CLIENT, LISTEN, WAN, TARGET));
    for n in 0..20 {
        rig.advance(UDP_S * 1000 - 1);
        rig.relays_both(&u, n % 2 == 0, udp(), b"");
        rig.relays_both(&t, n % 2 == 1, tcp(ACK), b"");
    }
    assert_eq!(rig.stats().connections, 2);
}

/// The worker's millisecond count wraps after 49 days; nobody notices.
#[test]
fn time_may_wrap() {
    let mut rig = rig_with(TIMERS);
    rig.clock.advance((1 << 32) - 10_000);
    rig.turn();
    let (u, t) = (open(&mut rig, Proto::Udp, CLIENT), rig.establish(LAN, CLIENT, LISTEN, WAN, TARGET));
    rig.advance(UDP_S * 1000 - 2);
    assert_eq!(rig.connections().len(), 2);
    assert_eq!(rig.connections()[0].idle, UDP_S - 1);
    rig.relays_both(&t, false, tcp(ACK), b"after the wrap");
    rig.advance(3);
    assert_eq!(rig.connections().len(), 1);
    rig.drops_as("gone", WAN, &u.by_target(udp(), b"").build(), DropReason::NoFlow);
    rig.advance(ESTABLISHED_S * 1000);
    assert_eq!((rig.connections().len(), rig.flow("tcp").connections), (0, 0));
    rig.balance();
}

/// RFC 5961: a reset by somebody who guesses must not cut. The connection goes on as long as it speaks.
#[test]
fn a_reset_does_not_cut_at_once() {
    let mut rig = rig_with(TIMERS);
    let t = rig.establish(LAN, CLIENT, LISTEN, WAN, TARGET);
    rig.relays_both(&t, false, tcp(RST), b"");
    for _ in 0..10 {
        rig.advance(TRANSITORY_S * 1000 - 1);
        rig.relays_both(&t, true, tcp(ACK), b"not dead");
        rig.relays_both(&t, false, tcp(ACK), b"nor me");
    }
}

/// Thousands of connections come and go, are cut and denied; nothing of them stays.
#[test]
fn nothing_is_left_of_many_connections() {
    let mut rig =
        rig_with("[limits]\nconnections = 2000\n[timers]\nudp = 10\ntcp_transitory = 10\nneighbor = 60");
    rig.add(flow("tagged", Proto::Udp, "10.0.0.1:5001", "10.2.0.2:1", FROM));
    for round in 0..5u16 {
        for n in 0..600 {
            let client = format!("10.0.0.{}:{}", 2 + n % 2, 4000 + n);
            open(&mut rig, Proto::Udp, &client);
            open(&mut rig, Proto::Tcp, &client);
            rig.open(Proto::Udp, LAN, &client, "10.0.0.1:5001", TAG, "10.2.0.2:1");
        }
        if round % 2 == 1 {
            rig.delete("tagged");
            rig.add(flow("tagged", Proto::Udp, "10.0.0.1:5001", "10.2.0.2:1", FROM));
        }
        rig.advance(1);
        assert!(rig.stats().connections > 0);
        rig.advance(10_001);
        assert_eq!(rig.stats().connections, 0);
        for name in ["tcp", "udp", "tagged"] {
            assert_eq!(rig.flow(name).connections, 0, "{name}");
        }
        let held: u32 = rig.workers[0].engine().neighbors().iter().map(|n| n.refs).sum();
        assert_eq!(held, 0, "next hops are let go");
    }
    assert_eq!(since(&Default::default(), &rig.drops()), Default::default());
    rig.balance();
}

/// Requests that cannot be carried out say so and change nothing.
#[test]
fn refused_requests_change_nothing() {
    let mut rig = rig();
    let before = rig.stats().epoch;
    let add = |spec| Request::FlowAdd { spec };
    let gone = || "gone".to_owned();
    let cases = [
        ("same name", add(flow("udp", Proto::Udp, "10.0.0.1:9", TARGET, FROM)), ErrorCode::Conflict),
        ("same listen address", add(flow("x", Proto::Udp, LISTEN, TARGET, FROM)), ErrorCode::Conflict),
        ("not our address", add(flow("x", Proto::Udp, "10.0.0.9:1", TARGET, FROM)), ErrorCode::BadRequest),
        (
            "unroutable",
            add(flow("x", Proto::Udp, "10.0.0.1:9", "203.0.113.1:1", FROM)),
            ErrorCode::BadRequest,
        ),
        (
            "replace what is not there",
            Request::FlowReplace { spec: flow("gone", Proto::Udp, "10.0.0.1:9", TARGET, FROM) },
            ErrorCode::NotFound,
        ),
        (
            "replace onto another",
            Request::FlowReplace { spec: flow("tcp", Proto::Udp, LISTEN, TARGET, FROM) },
            ErrorCode::Conflict,
        ),
        ("delete", Request::FlowDelete { name: gone() }, ErrorCode::NotFound),
        ("drain", Request::FlowDrain { name: gone() }, ErrorCode::NotFound),
        ("show", Request::FlowShow { name: gone() }, ErrorCode::NotFound),
        ("renew", Request::LeaseRenew { name: gone(), lease: Some(1) }, ErrorCode::NotFound),
        (
            "renew for no time",
            Request::LeaseRenew { name: "udp".into(), lease: Some(0) },
            ErrorCode::BadRequest,
        ),
        (
            "connections of nobody",
            Request::ConnectionList { flow: Some(gone()), limit: None },
            ErrorCode::NotFound,
        ),
    ];
    for (name, request, code) in cases {
        assert_eq!(rig.ask(request).unwrap_err().code, code, "{name}");
    }
    assert_eq!(rig.stats().epoch, before);
    let (t, u) = (open(&mut rig, Proto::Tcp, CLIENT), open(&mut rig, Proto::Udp, CLIENT));
    assert_eq!((t.proto, u.proto), (Proto::Tcp, Proto::Udp));
}
