//! Rates of flows: what passes in the long run, at once after silence, by which path, and who shares it with whom. Every frame of
//! these tests counts its length as it came in, without FCS.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::net::SocketAddr;

use common::packet::{ACK, Body, FIN, PSH, Packet, addr, fragments, icmp, read, swapped, tcp};
use common::{Conn, HASH_KEY, LAN, PORTS, Rig, TAG, WAN, flow, neighbors, since};
use forwarder::api::{FlowSpec, Proto, Request};
use forwarder::engine::DropReason::RateExceeded;
use forwarder::flow::Steering;
use forwarder::flow::police::BURST_BYTES;

/// Mbit/s: 1000 bytes, one frame of [`SIZE`], a millisecond.
const RATE: u64 = 8;
const SIZE: usize = 1000;
/// Frames of [`SIZE`] that pass at once.
const BURST: u64 = BURST_BYTES as u64 / SIZE as u64;

/// A frame that arrives at a worker and a port.
type Arrival = (usize, u8, Vec<u8>);

fn udp() -> Body {
    Body::Udp { checksum: true }
}

fn body(proto: Proto) -> Body {
    if proto == Proto::Tcp { tcp(PSH | ACK) } else { udp() }
}

/// A frame of [`SIZE`] bytes.
fn sized(packet: Packet) -> Vec<u8> {
    let bare = packet.build().len();
    let frame = Packet { payload: vec![0x5a; SIZE - bare], ..packet }.build();
    assert_eq!(frame.len(), SIZE);
    frame
}

fn by_client(conn: &Conn) -> Arrival {
    (0, conn.port, sized(conn.by_client(body(conn.proto), b"")))
}

fn by_target(conn: &Conn) -> Arrival {
    (0, conn.out, sized(conn.by_target(body(conn.proto), b"")))
}

/// Each of `frames`, by worker and port, arrives so many times in each millisecond; returns how many frames left by each port.
fn offer(rig: &mut Rig, frames: &[(&Arrival, u64)], ms: u64) -> [u64; 4] {
    let mut left = [0; 4];
    for _ in 0..ms {
        rig.clock.advance(1);
        for ((worker, port, frame), times) in frames {
            (0..*times).for_each(|_| rig.inject_at(*worker, *port, frame));
        }
        rig.turn();
        for (port, left) in (0..).zip(&mut left) {
            *left += rig.take(port).len() as u64;
        }
    }
    left
}

/// Frames arrive at one moment; returns how many left.
fn at_once(rig: &mut Rig, (worker, port, frame): &Arrival, frames: u64) -> u64 {
    (0..frames).for_each(|_| rig.inject_at(*worker, *port, frame));
    rig.turn();
    rig.take_any().len() as u64
}

/// Takes what a bucket has, from the first packets of connections on.
fn exhaust(rig: &mut Rig, frame: &Arrival) {
    assert!(at_once(rig, frame, 2 * BURST) <= BURST);
}

#[track_caller]
fn near(passed: u64, wanted: u64) {
    assert!((wanted.saturating_sub(3)..=wanted).contains(&passed), "{passed} where {wanted} should pass");
}

fn limited(name: &str, proto: Proto, listen: &str, target: &str, from: &str) -> FlowSpec {
    FlowSpec { rate: Some(RATE), ..flow(name, proto, listen, target, from) }
}

fn open(rig: &mut Rig, proto: Proto, port: u8, client: &str, listen: &str, out: u8, target: &str) -> Conn {
    let first = Packet::arriving(port, addr(client), addr(listen), body(proto), b"");
    let first = if proto == Proto::Tcp { Packet { body: tcp(common::packet::SYN), ..first } } else { first };
    let source = read(&rig.pass(port, &first.build(), out)).src;
    Conn { proto, client: addr(client), listen: addr(listen), source, target: addr(target), port, out }
}

fn usual(rig: &mut Rig) -> Conn {
    rig.add(limited("usual", Proto::Udp, "10.0.0.1:5000", "10.1.0.2:6000", "10.0.0.0/24"));
    open(rig, Proto::Udp, LAN, "10.0.0.2:4000", "10.0.0.1:5000", WAN, "10.1.0.2:6000")
}

/// By the fast path and by those of other header lengths and of the other family: each direction for itself.
#[test]
fn each_direction_is_held_to_the_rate_on_every_path() {
    for (proto, port, client, listen, out, target, from) in [
        (Proto::Udp, LAN, "10.0.0.2:4000", "10.0.0.1:5000", WAN, "10.1.0.2:6000", "10.0.0.0/24"),
        (Proto::Tcp, LAN, "10.0.0.2:4000", "10.0.0.1:5000", WAN, "10.1.0.2:6000", "10.0.0.0/24"),
        (Proto::Tcp, LAN, "[fd00:0::2]:4000", "[fd00:0::1]:5000", WAN, "[fd00:1::2]:6000", "fd00:0::/64"),
        (Proto::Udp, TAG, "10.2.0.2:4000", "10.2.0.1:5000", LAN, "10.0.0.2:6000", "10.2.0.0/24"),
        (Proto::Udp, LAN, "10.0.0.2:4000", "10.0.0.1:5000", WAN, "[fd00:1::2]:6000", "10.0.0.0/24"),
        (Proto::Tcp, LAN, "[fd00:0::2]:4000", "[fd00:0::1]:5000", WAN, "10.1.0.2:6000", "fd00:0::/64"),
    ] {
        let mut rig = Rig::new("");
        rig.add(limited("limited", proto, listen, target, from));
        let conn = open(&mut rig, proto, port, client, listen, out, target);
        let (there, back) = (by_client(&conn), by_target(&conn));
        rig.advance(1000);
        // One direction has more than its rate, and the other half of what is left to it.
        let left = offer(&mut rig, &[(&there, 3), (&back, 1)], 2000);
        near(left[usize::from(out)], BURST + 2000);
        assert_eq!(left[usize::from(port)], 2000);
        // Now both, the one with its bucket empty.
        let left = offer(&mut rig, &[(&there, 2), (&back, 4)], 2000);
        near(left[usize::from(out)], 2000);
        near(left[usize::from(port)], BURST + 2000);

        let flow = rig.flow("limited");
        let policed = rig.drops()[RateExceeded.name()];
        assert_eq!((flow.policed, flow.spec.rate), (policed, Some(RATE)));
        assert_eq!(flow.to_target.packets + flow.to_client.packets + policed, 1 + 20_000);
        assert_eq!(rig.drops().len(), 1);
        rig.balance();
    }
}

#[test]
fn a_burst_after_silence_is_one_bucket_and_no_more() {
    let mut rig = Rig::new("");
    let conn = usual(&mut rig);
    let there = by_client(&conn);
    for silence in [100, 200_000] {
        rig.advance(silence);
        if silence == 100 {
            exhaust(&mut rig, &there);
        } else {
            near(at_once(&mut rig, &there, 3 * BURST), BURST);
        }
        assert_eq!(at_once(&mut rig, &there, 10), 0);
        rig.advance(20);
        near(at_once(&mut rig, &there, 100), 20);
    }
    rig.balance();
}

/// What a fast rate carries in 10 ms is more than the least burst.
#[test]
fn the_burst_of_a_fast_rate_grows_with_it() {
    let mut rig = Rig::new("");
    let conn = usual(&mut rig);
    let spec = FlowSpec { rate: Some(800), ..rig.flow("usual").spec };
    rig.done(Request::FlowReplace { spec });
    rig.advance(100);
    near(at_once(&mut rig, &by_client(&conn), 3000), 1000);
    rig.balance();
}

#[test]
fn workers_share_the_bucket_of_a_flow_and_flows_share_none() {
    let text = format!("{PORTS}\n{}", neighbors());
    let mut rig = Rig::steered(&text, 2, 4096, &Steering::hand_over(&HASH_KEY, 2));
    rig.add(limited("a", Proto::Udp, "10.0.0.1:5000", "10.1.0.2:6000", "10.0.0.0/24"));
    rig.add(limited("b", Proto::Udp, "10.0.0.1:5001", "10.1.0.2:6000", "10.0.0.0/24"));
    rig.add(flow("free", Proto::Udp, "10.0.0.1:5002", "10.1.0.2:6000", "10.0.0.0/24"));
    let client = |rig: &Rig, listen: &str, worker: usize| {
        let clients = (4000..9000).map(|port| SocketAddr::from(([10, 0, 0, 2], port)));
        let at = |c: &SocketAddr| rig.home(LAN, Proto::Udp, *c, addr(listen)) == worker;
        let client = clients.into_iter().find(at).unwrap();
        (worker, LAN, sized(Packet::arriving(LAN, client, addr(listen), udp(), b"")))
    };
    let at = |rig: &Rig, listen: &str| [0, 1].map(|worker| client(rig, listen, worker));
    let (a, b, free) = (at(&rig, "10.0.0.1:5000"), at(&rig, "10.0.0.1:5001"), at(&rig, "10.0.0.1:5002"));
    // Of each flow both workers have a connection and offer the rate: twice what may pass.
    let left = offer(&mut rig, &[(&a[0], 1), (&a[1], 1)], 2000);
    near(left[usize::from(WAN)], BURST + 2000);
    let all = [&a[0], &a[1], &b[0], &b[1], &free[0], &free[1]].map(|frame| (frame, 1));
    let left = offer(&mut rig, &all, 2000);
    near(left[usize::from(WAN)], 2000 + (BURST + 2000) + 4000);
    assert_eq!((rig.flow("free").policed, rig.flow("free").to_target.packets), (0, 4000));
    let connections = rig.connections();
    assert_eq!(connections.iter().filter(|c| c.flow == "a").count(), 2);
    rig.balance();
}

#[test]
fn another_rate_holds_at_once_for_connections_that_are_there() {
    let mut rig = Rig::new("");
    let conn = usual(&mut rig);
    let there = by_client(&conn);
    let spec = rig.flow("usual").spec;
    exhaust(&mut rig, &there);
    let replaced = |rig: &mut Rig, rate: Option<u64>, offered: u64| {
        rig.done(Request::FlowReplace { spec: FlowSpec { rate, ..spec.clone() } });
        offer(rig, &[(&there, offered)], 1000)[usize::from(WAN)]
    };
    // What else is replaced leaves the bucket as it is: there is no new burst in it.
    near(replaced(&mut rig, Some(RATE), 4), 1000);
    near(replaced(&mut rig, Some(2 * RATE), 4), BURST + 2000);
    assert_eq!(replaced(&mut rig, None, 4), 4000);
    near(replaced(&mut rig, Some(RATE), 4), BURST + 1000);
    // A lease that is renewed and a flow that drains leave it as well.
    rig.done(Request::LeaseRenew { name: "usual".into(), lease: Some(1000) });
    near(offer(&mut rig, &[(&there, 4)], 1000)[usize::from(WAN)], 1000);
    rig.done(Request::FlowDrain { name: "usual".into() });
    near(offer(&mut rig, &[(&there, 4)], 1000)[usize::from(WAN)], 1000);
    assert_eq!(rig.connections().len(), 1);
    rig.balance();
}

/// Each by itself would be a way around: first packets of connections, fragments, and ICMP errors.
#[test]
fn what_does_not_take_the_fast_path_is_held_to_the_same_rate() {
    let mut rig = Rig::new("");
    let conn = usual(&mut rig);
    let (there, back) = (by_client(&conn), by_target(&conn));
    exhaust(&mut rig, &there);
    exhaust(&mut rig, &back);
    rig.take_any();

    let mut passed = 0;
    for n in 0..1000u16 {
        let client = SocketAddr::from(([10, 0, 0, 3], 10_000 + n));
        let first = sized(Packet::arriving(LAN, client, conn.listen, udp(), b""));
        passed +=
            offer(&mut rig, &[(&(0, LAN, first.clone()), 1), (&(0, LAN, first), 1)], 1)[usize::from(WAN)];
    }
    near(passed, 1000);

    // Datagrams of 2000 bytes in three pieces; every piece counts with its headers.
    let datagram = conn.by_client(udp(), &[7; 2000]).build();
    let (mut passed, mut bytes) = (0, 0);
    for id in 0..500 {
        rig.clock.advance(2);
        for piece in fragments(&datagram, &[800, 1600], id + 1) {
            let sent = at_once(&mut rig, &(0, LAN, piece.clone()), 1);
            passed += sent;
            bytes += sent as usize * piece.len();
        }
    }
    assert!((980_000..=1_000_000 + 2 * SIZE).contains(&bytes), "{passed} pieces of {bytes} bytes");

    // The target tells of packets that it did not take.
    let quote = swapped(&by_target(&conn).2);
    let error = icmp(WAN, conn.target.ip(), conn.source.ip(), [3, 3, 0, 0, 0, 0], &quote[..500]);
    let (len, error) = (error.len() as u64, (0, WAN, error));
    exhaust(&mut rig, &back);
    let left = offer(&mut rig, &[(&error, 4)], 1000)[usize::from(LAN)];
    near(left, 1_000_000 / len);

    let drops = rig.drops();
    assert_eq!(drops.keys().collect::<Vec<_>>(), [RateExceeded.name()], "{drops:?}");
    assert_eq!(rig.flow("usual").policed, drops[RateExceeded.name()]);
    rig.balance();
}

/// A packet above the rate was never here: it ends no connection.
#[test]
fn what_is_dropped_changes_no_connection() {
    let mut rig = Rig::new("");
    rig.add(limited("tcp", Proto::Tcp, "10.0.0.1:5000", "10.1.0.2:6000", "10.0.0.0/24"));
    let conn = rig.establish(LAN, "10.0.0.2:4000", "10.0.0.1:5000", WAN, "10.1.0.2:6000");
    let (there, back) = (by_client(&conn), by_target(&conn));
    exhaust(&mut rig, &there);
    exhaust(&mut rig, &back);
    let before = rig.drops();
    let small = vec![0; 950];
    let frames = [
        (LAN, conn.by_client(tcp(FIN | ACK), &small).build()),
        (WAN, conn.by_target(tcp(FIN | ACK), &small).build()),
        (LAN, conn.by_client(tcp(common::packet::RST), &small).build()),
    ];
    for (port, frame) in &frames {
        assert_eq!(at_once(&mut rig, &(0, *port, frame.clone()), 1), 0);
    }
    assert_eq!(since(&before, &rig.drops()).into_iter().collect::<Vec<_>>(), [("rate_exceeded".into(), 3)]);
    assert_eq!(rig.connections()[0].state, "established");
    rig.advance(10);
    for (port, frame) in &frames {
        assert_eq!(at_once(&mut rig, &(0, *port, frame.clone()), 1), 1);
    }
    assert_eq!(rig.connections()[0].state, "closing");
    rig.balance();
}

/// What the device does not take is charged once, as what it takes.
#[test]
fn a_full_batch_costs_no_packet_more_than_its_own_length() {
    let mut rig = Rig::new("");
    let conn = usual(&mut rig);
    let opened = conn.by_client(udp(), b"").build().len();
    let frame = (0, LAN, conn.by_client(udp(), &[0; 58]).build());
    assert_eq!(frame.2.len(), 100);
    rig.ios[0].set_tx_room(WAN, 0);
    assert_eq!(at_once(&mut rig, &frame, 300), 0);
    assert_eq!(rig.drops().into_iter().collect::<Vec<_>>(), [("tx_full".into(), 44)]);
    rig.ios[0].set_tx_room(WAN, usize::MAX);
    let left = at_once(&mut rig, &frame, 2000);
    assert_eq!(left - 256, (BURST_BYTES as u64 - opened as u64) / 100 - 300);
    rig.balance();
}

/// Connections with and without a rate in one burst, in trains and one by one: each is dealt with in its turn.
#[test]
fn a_burst_of_flows_with_and_without_a_rate_keeps_its_order() {
    let mut rig = Rig::new("");
    let slow = usual(&mut rig);
    rig.add(flow("free", Proto::Udp, "10.0.0.1:5001", "10.1.0.2:6001", "10.0.0.0/24"));
    let free = open(&mut rig, Proto::Udp, LAN, "10.0.0.2:4000", "10.0.0.1:5001", WAN, "10.1.0.2:6001");
    let numbered = |conn: &Conn, n: u32| conn.by_client(udp(), &[&n.to_be_bytes()[..], &[0; 954]].concat());
    let seen = |rig: &Rig| -> Vec<(u16, u32)> {
        let frames = rig.take(WAN);
        let read = frames.iter().map(|f| read(f));
        read.map(|r| (r.dst.port(), u32::from_be_bytes(*r.payload.first_chunk().unwrap()))).collect()
    };
    exhaust(&mut rig, &by_client(&slow));
    rig.advance(10);
    // Ten frames of the slow flow may pass; the others are not touched and nothing changes places.
    let order: Vec<(u16, u32)> = (0..60).map(|n| (if n % 7 < 4 { 6000 } else { 6001 }, n)).collect();
    for (port, n) in &order {
        let conn = if *port == 6000 { &slow } else { &free };
        rig.inject_at(0, LAN, &numbered(conn, *n).build());
    }
    rig.turn();
    let mut slow_left = 10;
    let mut wanted = order.clone();
    wanted.retain(|(port, _)| {
        let passes = *port == 6001 || slow_left > 0;
        slow_left -= i32::from(*port == 6000 && slow_left > 0);
        passes
    });
    assert_eq!(seen(&rig), wanted);
    rig.balance();
}
