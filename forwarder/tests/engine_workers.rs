//! Several workers and their service: return traffic that arrives at the wrong one, one ledger over all, changes while traffic
//! flows, and everything an operator can ask.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use common::packet::{ACK, Body, Packet, RST, SYN, arp, gw_mac, read, tcp};
use common::{
    Conn, FakeClock, HASH_KEY, LAN, Made, PEER, PORTS, Rig, StdClock, TAG, WAN, assert_same, flow, make,
    neighbors,
};
use forwarder::api::{ErrorCode, FlowSpec, FlowState, Proto, Reply, Request};
use forwarder::engine::{DropReason, HANDOVER};
use forwarder::flow::steering::{Blocks, How};
use forwarder::flow::{Steering, Tuple};
use forwarder::io::memory::MemoryIo;
use forwarder::service::Handler;

const CLIENT: &str = "10.0.0.2:4000";
const LISTEN: &str = "10.0.0.1:5000";
const TARGET: &str = "10.1.0.2:6000";
const FROM: &str = "10.0.0.0/24";

fn udp() -> Body {
    Body::Udp { checksum: true }
}

fn rig(workers: usize) -> Rig {
    rig_of(workers, &Steering::hand_over(&HASH_KEY, workers as u16))
}

/// All three ways by which packets come to their workers.
fn ways(workers: u16) -> [Steering; 3] {
    [
        Steering::hand_over(&HASH_KEY, workers),
        Steering::rss(&HASH_KEY, workers, 128),
        Steering::rules(&HASH_KEY, Blocks::new(&(32_768..=65_535), workers)),
    ]
}

fn rig_of(workers: usize, steering: &Steering) -> Rig {
    let text = format!("[timers]\nudp = 10\n{PORTS}\n{}", neighbors());
    let mut rig = Rig::steered(&text, workers, 4096, steering);
    rig.add(flow("udp", Proto::Udp, LISTEN, TARGET, FROM));
    rig.add(flow("tcp", Proto::Tcp, LISTEN, TARGET, FROM));
    rig
}

/// The `n`-th client at 10.0.0.2 whose packets belong to `worker`.
fn client_of(rig: &Rig, worker: usize, proto: Proto, n: usize) -> SocketAddr {
    let clients = (4000..32_000).map(|port| SocketAddr::from(([10, 0, 0, 2], port)));
    clients.filter(|c| rig.home(LAN, proto, *c, LISTEN.parse().unwrap()) == worker).nth(n).unwrap()
}

/// The `n`-th connection that belongs to `worker`.
fn open_at(rig: &mut Rig, worker: usize, proto: Proto, n: usize) -> Conn {
    let body = if proto == Proto::Tcp { tcp(SYN) } else { udp() };
    let (client, listen) = (client_of(rig, worker, proto, n), LISTEN.parse().unwrap());
    let first = Packet::arriving(LAN, client, listen, body, b"");
    rig.inject_at(worker, LAN, &first.build());
    rig.turn();
    let sent = rig.ios[worker].take_all(WAN);
    let source = read(&sent[0]).src;
    let target = TARGET.parse().unwrap();
    let conn = Conn { proto, client, listen, source, target, port: LAN, out: WAN };
    assert_same(&sent[0], &conn.forward(&first).build());
    conn
}

fn numbers(frames: &[Vec<u8>]) -> Vec<u32> {
    frames.iter().map(|f| u32::from_be_bytes(read(f).payload.try_into().unwrap())).collect()
}

/// Whichever way: a source port is chosen whose return traffic belongs to the worker that chose it, and what the device puts
/// elsewhere is handed over.
#[test]
fn return_traffic_comes_home() {
    for (workers, steering) in [2, 3].into_iter().flat_map(|w| ways(w).map(|s| (usize::from(w), s))) {
        let mut rig = rig_of(workers, &steering);
        for n in 0..30 {
            let owner = n % workers;
            let conn = open_at(&mut rig, owner, Proto::Udp, n);
            assert_eq!(rig.home(WAN, Proto::Udp, conn.target, conn.source), owner);
            let wrong = (owner + 1) % workers;
            for i in 0..40u32 {
                let frame = conn.by_target(udp(), &i.to_be_bytes()).build();
                rig.inject_at(wrong, WAN, &frame);
            }
            rig.turn();
            assert!(rig.ios[wrong].take_all(LAN).is_empty());
            let sent = rig.ios[owner].take_all(LAN);
            assert_eq!(numbers(&sent), (0..40).collect::<Vec<_>>());
            assert_same(&sent[7], &conn.back(&conn.by_target(udp(), &7u32.to_be_bytes())).build());
        }
        let stats = rig.stats();
        let (over, taken): (u64, u64) =
            stats.workers.iter().fold((0, 0), |(o, t), w| (o + w.handed_over, t + w.taken_over));
        assert_eq!((over, taken, stats.held), (1200, 1200, 0));
        for c in rig.connections() {
            assert_eq!(c.worker, rig.home(LAN, Proto::Udp, c.client, c.listen));
        }
        let Ok(Reply::Ports { ports }) = rig.ask(Request::PortList) else { panic!() };
        let (lan, wan) = (&ports[usize::from(LAN)], &ports[usize::from(WAN)]);
        assert_eq!((lan.handed_over, wan.handed_over, wan.rx.packets), (0, 1200, 1200));
        assert_eq!(wan.steering, steering.how().to_string());
        rig.balance();
    }
}

/// Some of the owner's own and some handed over, in turn: each connection keeps its order.
#[test]
fn handed_over_packets_keep_their_order() {
    let mut rig = rig(2);
    let conns: Vec<Conn> = (0..4).map(|n| open_at(&mut rig, 0, Proto::Tcp, n)).collect();
    for i in 0..200u32 {
        for conn in &conns {
            let mut packet = conn.by_target(tcp(ACK), &i.to_be_bytes());
            if i % 5 == 0 {
                packet.ip_options = vec![1, 1, 1, 0];
            }
            rig.inject_at(1, WAN, &packet.build());
            rig.inject_at(0, LAN, &conn.by_client(tcp(ACK), &i.to_be_bytes()).build());
        }
        // One worker may be far ahead of the other.
        if i % 20 == 19 {
            rig.workers[1].turn();
        }
        if i % 30 == 29 {
            rig.workers[0].turn();
        }
    }
    rig.turn();
    for (port, frames) in [(LAN, rig.take(LAN)), (WAN, rig.take(WAN))] {
        for conn in &conns {
            let to = if port == LAN { conn.client } else { conn.target };
            let from = if port == LAN { conn.listen } else { conn.source };
            let mine: Vec<_> =
                frames.iter().filter(|f| (read(f).src, read(f).dst) == (from, to)).cloned().collect();
            assert_eq!(numbers(&mine), (0..200).collect::<Vec<_>>());
        }
    }
    rig.balance();
}

/// Connections come and go over few source ports while workers turn as they like and the device puts every direction of a
/// connection into a queue of its choosing. Packets of a direction keep their order, from a connection's first to its last and
/// on into the next one over the same ports, and nobody gets another's.
#[test]
fn order_holds_while_connections_expire_and_ports_are_reused() {
    for steering in ways(3) {
        let text =
            format!("[limits]\nsource_ports = \"40000-40023\"\n[timers]\nudp = 1\n{PORTS}\n{}", neighbors());
        let steering = match steering.how() {
            How::Rules => Steering::rules(&HASH_KEY, Blocks::new(&(40_000..=40_023), 3)),
            _ => steering,
        };
        let mut rig = Rig::steered(&text, 3, 8192, &steering);
        rig.add(flow("udp", Proto::Udp, LISTEN, TARGET, FROM));
        let mut random = 2024u32;
        let mut next = move |below: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 16) % below
        };
        // What came out last: per client and source on the way there, per client on the way back.
        let mut there = HashMap::new();
        let mut back = HashMap::new();
        let mut sources = HashMap::<u16, BTreeSet<SocketAddr>>::new();
        let (mut number, mut relayed) = (0u32, 0);
        for _ in 0..400 {
            // Few at a time, others than before, so that source ports change hands.
            let clients: Vec<u16> = (0..4).map(|_| 4000 + next(40) as u16).collect();
            for _ in 0..next(6) + 1 {
                for client in &clients {
                    number += 1;
                    let payload = [number.to_be_bytes(), u32::from(*client).to_be_bytes()].concat();
                    let packet = Packet::udp(LAN, &format!("10.0.0.2:{client}"), LISTEN, &payload);
                    rig.inject_at(usize::from(client % 3), LAN, &packet.build());
                }
                for worker in 0..3 {
                    if next(3) > 0 {
                        rig.workers[worker].turn();
                    }
                }
                for frame in rig.take(WAN) {
                    let r = read(&frame);
                    let (n, client) = r.payload.split_at(4);
                    let n = u32::from_be_bytes(n.try_into().unwrap());
                    let client = u32::from_be_bytes(client.try_into().unwrap());
                    assert!(there.insert(client, n).is_none_or(|last| last < n), "{client}: {n} is late");
                    sources.entry(client as u16).or_default().insert(r.src);
                    let answer = Packet::arriving(WAN, r.dst, r.src, udp(), &r.payload);
                    rig.inject_at(usize::from(r.src.port() % 3), WAN, &answer.build());
                    relayed += 1;
                }
                for frame in rig.take(LAN) {
                    let r = read(&frame);
                    let n = u32::from_be_bytes(r.payload[..4].try_into().unwrap());
                    let client = u32::from_be_bytes(r.payload[4..].try_into().unwrap());
                    assert_eq!(u32::from(r.dst.port()), client, "another's packet");
                    assert!(back.insert(client, n).is_none_or(|last| last < n), "{client}: {n} is late");
                }
            }
            if next(3) == 0 {
                // Everything that is on its way arrives, then all expires.
                rig.turn();
                for frame in rig.take(WAN) {
                    let r = read(&frame);
                    there.insert(u32::from_be_bytes(r.payload[4..].try_into().unwrap()), number);
                }
                rig.take_any();
                rig.advance(1100);
            }
        }
        let reused: usize = sources.values().map(|s| s.len() - 1).sum();
        assert!(relayed > 2000 && reused > 100, "{relayed} relayed, {reused} changes of source");
        let handed: u64 = rig.stats().workers.iter().map(|w| w.handed_over).sum();
        assert!(handed > 500, "{handed}");
        rig.turn();
        rig.take_any();
        assert_eq!(rig.drops().keys().filter(|r| *r != "no_source_port").count(), 0, "{:?}", rig.drops());
        rig.balance();
    }
}

/// RFC 4787 REQ-2: a client keeps its external address, whatever its ports and targets; when that has no port left, it gets
/// another; when none has, the refusal is counted and nobody is harmed.
#[test]
fn a_client_keeps_its_source_address() {
    let addresses: Vec<String> = (1..=40).map(|n| format!("\"10.1.1.{n}/16\"")).collect();
    let text =
        format!("[limits]\nsource_ports = \"40000-40099\"\nconnections = 4096\n{PORTS}\n{}", neighbors())
            .replace("\"10.1.0.1/24\"", &addresses.join(", "));
    let mut rig = Rig::with(&text, 2, 4096);
    rig.add(flow("one", Proto::Udp, LISTEN, TARGET, FROM));
    rig.add(flow("two", Proto::Udp, "10.0.0.1:5001", "10.1.0.3:6001", FROM));
    let ask = |rig: &mut Rig, client: &str, port: u16, listen: &str| {
        let packet = Packet::udp(LAN, &format!("{client}:{port}"), listen, b"");
        rig.inject_at(0, LAN, &packet.build());
        rig.turn();
        rig.take(WAN).first().map(|frame| read(frame).src)
    };
    let mut used = BTreeSet::new();
    for host in 2..200 {
        let client = format!("10.0.0.{host}");
        let first = ask(&mut rig, &client, 4000, LISTEN).unwrap();
        let second = ask(&mut rig, &client, 4001, "10.0.0.1:5001").unwrap();
        assert_eq!(first.ip(), second.ip(), "{client}");
        assert!(used.insert(first));
    }
    let addresses: BTreeSet<_> = used.iter().map(SocketAddr::ip).collect();
    assert!(addresses.len() > 30, "{} of 40 addresses are in use", addresses.len());
    // One client takes all ports of all addresses that others left, and asks for more.
    let all = 40 * 100;
    let got: Vec<_> = (0..5500).map(|n| ask(&mut rig, "10.0.0.250", 5000 + n, LISTEN)).collect();
    let first: BTreeSet<_> = got[..30].iter().flatten().map(SocketAddr::ip).collect();
    assert_eq!(first.len(), 1, "an address is used up before the next is begun");
    used.extend(got.iter().flatten());
    assert_eq!(used.len(), all, "every port of every address is used, each once");
    let refused = got.iter().filter(|source| source.is_none()).count();
    assert_eq!(rig.drops(), [("no_source_port".to_owned(), refused as u64)].into());
    rig.balance();
}

/// A worker that does not keep up loses what is beyond its inbox; what is in it counts as held.
#[test]
fn an_inbox_has_an_end() {
    let mut rig = rig(2);
    let conn = open_at(&mut rig, 0, Proto::Udp, 0);
    for i in 0..HANDOVER as u32 + 88 {
        rig.inject_at(1, WAN, &conn.by_target(udp(), &i.to_be_bytes()).build());
    }
    while rig.workers[1].turn() > 0 {}
    let stats = rig.stats();
    assert_eq!((stats.held, stats.drops["handover_full"]), (HANDOVER as u64, 88));
    assert_eq!(stats.received, stats.sent + stats.held + 88);
    rig.turn();
    assert_eq!(numbers(&rig.take(LAN)), (0..HANDOVER as u32).collect::<Vec<_>>());
    rig.balance();
}

/// What belongs to nobody is dropped once, by the worker that would own it.
#[test]
fn strays_are_dropped_once() {
    let mut rig = rig(2);
    for port in [32_768, 32_769, 40_000, 40_001] {
        for worker in 0..2 {
            let stray = Packet::udp(WAN, "10.1.0.2:6000", &format!("10.1.0.1:{port}"), b"stray");
            rig.inject_at(worker, WAN, &stray.build());
        }
    }
    rig.turn();
    assert_eq!(rig.drops(), [("no_flow".to_owned(), 8)].into());
    assert_eq!(rig.stats().workers.iter().map(|w| w.handed_over).sum::<u64>(), 4);
    rig.balance();
}

/// A flow may listen on a port out of the range of source ports: one worker admits a client, wherever its packets arrive.
#[test]
fn a_flow_may_listen_on_another_workers_source_port() {
    for steering in ways(2) {
        let mut rig = rig_of(2, &steering);
        for port in [40_000, 40_001, 50_000] {
            let listen = format!("10.0.0.1:{port}");
            rig.add(flow(&listen, Proto::Udp, &listen, TARGET, FROM));
            for client in 0..10 {
                let packet = |n: u32| {
                    Packet::udp(LAN, &format!("10.0.0.2:{}", 4000 + client), &listen, &n.to_be_bytes())
                };
                for n in 0..4 {
                    rig.inject_at(n as usize % 2, LAN, &packet(n).build());
                    rig.turn();
                }
                assert_eq!(numbers(&rig.take(WAN)), [0, 1, 2, 3]);
            }
            assert_eq!(rig.flow(&listen).admitted, 10);
        }
        rig.balance();
    }
}

#[test]
fn next_hops_are_learned_by_all() {
    let mut rig = rig(2);
    rig.add(flow("asked", Proto::Udp, "10.0.0.1:5001", "10.1.0.9:6000", FROM));
    let listen: SocketAddr = "10.0.0.1:5001".parse().unwrap();
    let mut clients = (4000..5000).map(|port| SocketAddr::from(([10, 0, 0, 2], port)));
    let client = clients.find(|c| rig.home(LAN, Proto::Udp, *c, listen) == 0).unwrap();
    for i in 0..10u32 {
        let packet = Packet::arriving(LAN, client, listen, udp(), &i.to_be_bytes());
        rig.inject_at(0, LAN, &packet.build());
    }
    rig.turn();
    assert_eq!((rig.ios[0].take_all(WAN).len(), rig.stats().held), (1, 10));
    // The answer comes by the other worker's queue.
    let mac = [2, 9, 9, 9, 9, 9];
    rig.inject_at(1, WAN, &arp(WAN, gw_mac(WAN), 2, (mac, [10, 1, 0, 9]), (gw_mac(WAN), [10, 1, 0, 1])));
    rig.turn();
    rig.turn();
    let sent = rig.ios[0].take_all(WAN);
    assert_eq!(numbers(&sent), (0..10).collect::<Vec<_>>());
    assert!(sent.iter().all(|f| f[..6] == mac));
    rig.balance();
}

/// A flow's limit is one for all workers.
#[test]
fn limits_are_shared() {
    let mut rig = rig(2);
    rig.add(FlowSpec { max_conns: Some(5), ..flow("few", Proto::Udp, "10.0.0.1:5001", TARGET, FROM) });
    for n in 0..10 {
        let frame = Packet::udp(LAN, &format!("10.0.0.2:{}", 4000 + n), "10.0.0.1:5001", b"").build();
        rig.inject_at(n % 2, LAN, &frame);
        rig.turn();
    }
    assert_eq!(rig.take(WAN).len(), 5);
    let few = rig.flow("few");
    assert_eq!((few.connections, few.admitted, few.refused), (5, 5, 5));
    assert_eq!(rig.drops(), [("flow_full".to_owned(), 5)].into());
    rig.advance(10_001);
    assert_eq!((rig.flow("few").connections, rig.stats().connections), (0, 0));
    rig.balance();
}

/// Everything at once, on both workers: what came in is what went out, is held, or was dropped by name.
#[test]
fn one_ledger_over_all_workers() {
    let mut rig = rig(2);
    let conns: Vec<Conn> = (0..8).map(|n| open_at(&mut rig, n % 2, Proto::Udp, n)).collect();
    let mut random = 12345u32;
    for round in 0..50 {
        for _ in 0..60 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (pick, worker) = (random >> 16, (random >> 8) as usize % 2);
            let conn = &conns[pick as usize % 8];
            let (port, mut frame) = match pick % 4 {
                0 | 1 => (WAN, conn.by_target(udp(), b"back").build()),
                _ => (LAN, conn.by_client(udp(), b"forth").build()),
            };
            if pick % 11 == 0 {
                frame[20] ^= 0x80;
            }
            rig.inject_at(worker, port, &frame);
        }
        rig.ios[round % 2].set_tx_room(LAN, round * 3);
        for w in 0..2 {
            rig.workers[w].turn();
        }
        let stats = rig.stats();
        let dropped: u64 = stats.drops.values().sum();
        assert_eq!(stats.received, stats.sent + stats.held + dropped, "{stats:#?}");
    }
    for io in &rig.ios {
        io.set_tx_room(LAN, usize::MAX);
    }
    rig.turn();
    rig.take_any();
    rig.balance();
    assert!(rig.stats().held == 0 && rig.drops()["ip_bad_checksum"] > 0, "{:?}", rig.drops());
}

/// A client and a target at one worker's ports: numbered datagrams go there and back, each expected in its turn.
struct Pump {
    io: MemoryIo,
    conn: Conn,
    sent: u32,
    there: u32,
    back: u32,
}

impl Pump {
    /// The first datagram, and what it tells of the connection.
    fn new(io: MemoryIo, client: String) -> Self {
        let any = TARGET.parse().unwrap();
        let conn = Conn {
            proto: Proto::Udp,
            client: client.parse().unwrap(),
            listen: LISTEN.parse().unwrap(),
            source: any,
            target: any,
            port: LAN,
            out: WAN,
        };
        Pump { io, conn, sent: 0, there: 0, back: 0 }
    }

    fn step(&mut self, more: bool) {
        while more && self.sent < self.back + 64 {
            let packet = self.conn.by_client(udp(), &self.sent.to_be_bytes());
            assert!(self.io.inject(LAN, &packet.build()));
            self.sent += 1;
        }
        for frame in self.io.take_all(WAN) {
            let r = read(&frame);
            self.conn.source = r.src;
            assert_eq!((numbers(&[frame])[0], r.dst), (self.there, self.conn.target));
            let answer = self.conn.by_target(udp(), &self.there.to_be_bytes());
            assert!(self.io.inject(WAN, &answer.build()));
            self.there += 1;
        }
        for frame in self.io.take_all(LAN) {
            assert_eq!(
                (numbers(std::slice::from_ref(&frame))[0], read(&frame).dst),
                (self.back, self.conn.client)
            );
            self.back += 1;
        }
    }
}

/// Flows come and go a thousand times; the traffic of another flow does not notice.
#[test]
fn a_thousand_changes_lose_no_packet() {
    let text = format!("[limits]\nflows = 4\n{PORTS}\n{}", neighbors());
    let Made { gateway, workers, ios, stop } = make(&text, 2, 2048, StdClock(Instant::now()));
    let threads: Vec<_> = workers.into_iter().map(|w| std::thread::spawn(move || w.run())).collect();
    let ask = |request| gateway.handle(request, &PEER).unwrap();
    let spec = |n: usize, target: &str| {
        flow("other", Proto::Udp, &format!("10.0.0.1:{}", 6000 + n % 3), target, FROM)
    };
    ask(Request::FlowAdd { spec: flow("steady", Proto::Udp, LISTEN, TARGET, FROM) });
    let over = Arc::new(AtomicBool::new(false));
    // Each worker's client is one of its own.
    let steering = Steering::hand_over(&HASH_KEY, 2);
    let clients: Vec<u16> = (0..2)
        .map(|worker| {
            let home = |port: u16| {
                let src = SocketAddr::from(([10, 0, 0, 2], port));
                let tuple = Tuple { port: LAN, proto: Proto::Udp, src, dst: LISTEN.parse().unwrap() };
                steering.home(&tuple.key().unwrap())
            };
            (4000..5000).find(|port| home(*port) == worker).unwrap()
        })
        .collect();
    let pumping = std::thread::spawn({
        let (over, ios) = (Arc::clone(&over), ios.clone());
        move || {
            let mut pumps: Vec<Pump> = ios
                .into_iter()
                .zip(clients)
                .map(|(io, port)| Pump::new(io, format!("10.0.0.2:{port}")))
                .collect();
            let done = |p: &Pump| p.back == p.sent;
            while !over.load(Ordering::Relaxed) || !pumps.iter().all(done) {
                let more = !over.load(Ordering::Relaxed);
                pumps.iter_mut().for_each(|p| p.step(more));
                std::thread::yield_now();
            }
            pumps.iter().map(|p| u64::from(p.sent)).collect::<Vec<_>>()
        }
    });
    let mut last = 0;
    for n in 0..1000 {
        let Reply::Done { epoch } = ask(Request::FlowAdd { spec: spec(n, TARGET) }) else { panic!() };
        assert!(epoch > last);
        last = epoch;
        if n % 4 == 0 {
            ask(Request::FlowReplace { spec: spec(n, if n % 8 == 0 { TARGET } else { "10.1.0.3:1" }) });
        }
        if n % 10 == 0 {
            ask(Request::FlowReplace { spec: flow("steady", Proto::Udp, LISTEN, TARGET, FROM) });
        }
        assert!(!pumping.is_finished(), "the traffic has stopped");
        ask(Request::FlowDelete { name: "other".into() });
    }
    over.store(true, Ordering::Relaxed);
    let sent = pumping.join().unwrap();
    let Reply::Flow { flow } = ask(Request::FlowShow { name: "steady".into() }) else { panic!() };
    assert_eq!((flow.connections, flow.admitted), (2, 2));
    let all: u64 = sent.iter().sum();
    assert_eq!((flow.to_target.packets, flow.to_client.packets), (all, all));
    let stats = gateway.stats();
    assert_eq!((stats.received, stats.sent, stats.held), (2 * all, 2 * all, 0));
    assert_eq!(stats.drops.values().sum::<u64>(), 0);
    stop.stop();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(ios.iter().all(|io| io.available() == 2048), "no buffer is lost");
}

/// A worker that is stopped sends what it can, drops the rest by name, and keeps no buffer.
#[test]
fn stopping_leaves_nothing() {
    let Made { gateway, mut workers, ios, stop } =
        make(&format!("{PORTS}\n{}", neighbors()), 1, 256, StdClock(Instant::now()));
    let mut worker = workers.remove(0);
    let adding = {
        let gateway = Arc::clone(&gateway);
        std::thread::spawn(move || {
            let add = |spec| gateway.handle(Request::FlowAdd { spec }, &PEER);
            add(flow("known", Proto::Udp, LISTEN, TARGET, FROM))
                .and_then(|_| add(flow("asked", Proto::Udp, "10.0.0.1:5001", "10.1.0.9:1", FROM)))
        })
    };
    while !adding.is_finished() {
        worker.turn();
    }
    adding.join().unwrap().unwrap();
    ios[0].set_tx_room(WAN, 5);
    for n in 0..20 {
        assert!(ios[0].inject(LAN, &Packet::udp(LAN, CLIENT, LISTEN, &[n]).build()));
    }
    for n in 0..7 {
        assert!(ios[0].inject(LAN, &Packet::udp(LAN, CLIENT, "10.0.0.1:5001", &[n]).build()));
    }
    while worker.turn() > 0 {}
    // 15 packets and the question for the unknown next hop in the batch, seven that wait for it.
    assert_eq!(gateway.stats().held, 23);
    stop.stop();
    drop(worker.run());
    let stats = gateway.stats();
    assert_eq!((stats.held, stats.drops["stopped"]), (0, 23));
    assert_eq!(stats.received, stats.sent + 23);
    assert_eq!(ios[0].take_all(WAN).len(), 5);
    assert_eq!(ios[0].available(), 256);
}

#[test]
fn explanations_say_what_would_happen() {
    let mut rig = rig(2);
    rig.add(flow("draining", Proto::Udp, "10.0.0.1:5001", TARGET, FROM));
    rig.done(Request::FlowDrain { name: "draining".into() });
    rig.add(FlowSpec { max_conns: Some(1), ..flow("full", Proto::Udp, "10.0.0.1:5002", TARGET, FROM) });
    rig.add(flow("open", Proto::Tcp, "10.0.0.1:5003", "192.168.5.5:80", "0.0.0.0/0"));
    rig.add(flow("unknown", Proto::Udp, "10.0.0.1:5004", "10.1.0.9:6000", FROM));
    let conn = open_at(&mut rig, 1, Proto::Udp, 0);
    let client = conn.client.to_string();
    rig.inject_at(0, LAN, &Packet::udp(LAN, CLIENT, "10.0.0.1:5002", b"").build());
    rig.turn();
    rig.take_any();

    use DropReason::*;
    let drops = [
        ("lan", Proto::Udp, CLIENT, "10.1.0.1:5000", NotOurAddress, None),
        ("wan", Proto::Udp, "10.1.0.2:1", LISTEN, NotOurAddress, None),
        ("lan", Proto::Udp, CLIENT, "10.0.0.1:9", NoFlow, None),
        ("lan", Proto::Tcp, CLIENT, "10.0.0.1:5001", NoFlow, None),
        ("lan", Proto::Udp, "10.0.1.2:4000", LISTEN, SourceDenied, Some("udp")),
        ("lan", Proto::Udp, CLIENT, "10.0.0.1:5001", FlowDraining, Some("draining")),
        ("lan", Proto::Udp, "10.0.0.3:1", "10.0.0.1:5002", FlowFull, Some("full")),
        ("lan", Proto::Tcp, "10.2.0.2:1", "10.0.0.1:5003", ReversePath, Some("open")),
        ("lan", Proto::Tcp, "203.0.113.1:1", "10.0.0.1:5003", NoRoute, Some("open")),
        ("wan", Proto::Udp, "10.1.0.3:6000", &conn.source.to_string(), NoFlow, None),
    ];
    for (port, proto, src, dst, reason, flow) in drops {
        let e = rig.explain(port, proto, src, dst);
        assert_eq!(
            (e.verdict.as_str(), e.flow.as_deref(), e.existing),
            (reason.name(), flow, false),
            "{e:#?}"
        );
        assert!(e.steps.last().unwrap().contains(reason.name()), "{e:#?}");
        assert_eq!((e.out_port, e.worker), (None, None));
        // And so it is.
        let at = if port == "lan" { LAN } else { WAN };
        let body = if proto == Proto::Tcp { tcp(SYN) } else { udp() };
        let packet = Packet::arriving(at, src.parse().unwrap(), dst.parse().unwrap(), body, b"");
        rig.drops_as("as explained", at, &packet.build(), reason);
    }

    let e = rig.explain("lan", Proto::Udp, "10.0.0.3:7", LISTEN);
    assert_eq!(
        (e.verdict.as_str(), e.existing, e.flow.as_deref(), e.worker),
        (
            "forward",
            false,
            Some("udp"),
            Some(rig.home(LAN, Proto::Udp, "10.0.0.3:7".parse().unwrap(), conn.listen))
        )
    );
    assert_eq!((e.rewritten_src, e.rewritten_dst), (Some("10.1.0.1:0".parse().unwrap()), Some(conn.target)));
    let mac = Some(forwarder::wire::Mac(common::packet::host_mac(conn.target.ip())).to_string());
    assert_eq!(
        (e.out_port.as_deref(), e.next_hop, e.next_hop_mac),
        (Some("wan"), Some(conn.target.ip()), mac.clone())
    );

    let e = rig.explain("lan", Proto::Tcp, "10.0.0.3:7", "10.0.0.1:5003");
    assert_eq!(
        (e.next_hop, e.rewritten_dst),
        (Some([10, 1, 0, 254].into()), Some("192.168.5.5:80".parse().unwrap()))
    );
    let e = rig.explain("lan", Proto::Udp, "10.0.0.3:7", "10.0.0.1:5004");
    assert_eq!(
        (e.verdict.as_str(), e.next_hop, e.next_hop_mac),
        ("forward", Some([10, 1, 0, 9].into()), None)
    );

    let e = rig.explain("lan", Proto::Udp, &client, LISTEN);
    assert_eq!(
        (e.verdict.as_str(), e.existing, e.flow.as_deref(), e.worker),
        ("forward", true, Some("udp"), Some(1))
    );
    assert_eq!(
        (e.rewritten_src, e.rewritten_dst, e.next_hop_mac),
        (Some(conn.source), Some(conn.target), mac)
    );
    let e = rig.explain("wan", Proto::Udp, TARGET, &conn.source.to_string());
    assert_eq!((e.existing, e.worker, e.out_port.as_deref()), (true, Some(1), Some("lan")));
    assert_eq!((e.rewritten_src, e.rewritten_dst), (Some(conn.listen), Some(conn.client)));

    let explain = |port: &str, src: &str, dst: &str| Request::Explain {
        port: port.into(),
        proto: Proto::Udp,
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
    };
    let wrong = [
        (explain("lam", CLIENT, LISTEN), ErrorCode::NotFound, "lan, wan, tag, small"),
        (explain("lan", CLIENT, "[fd00::1]:5000"), ErrorCode::BadRequest, "different address families"),
    ];
    for (request, code, words) in wrong {
        let error = rig.ask(request).unwrap_err();
        assert!(error.code == code && error.message.contains(words), "{error:?}");
    }
    rig.balance();
}

#[test]
fn lists_are_whole_and_end_where_asked() {
    let mut rig = rig(2);
    for n in 0..700u16 {
        let frame = Packet::udp(LAN, &format!("10.0.0.2:{}", 4000 + n), LISTEN, b"").build();
        rig.inject_at(usize::from(n % 2), LAN, &frame);
    }
    for n in 0..3 {
        rig.inject_at(n % 2, LAN, &Packet::tcp(LAN, &format!("10.0.0.3:{n}1"), LISTEN, SYN, b"").build());
    }
    rig.turn();
    rig.take_any();
    let mut list = |flow: Option<&str>, limit| match rig
        .ask(Request::ConnectionList { flow: flow.map(str::to_owned), limit })
    {
        Ok(Reply::Connections { connections, truncated }) => (connections, truncated),
        other => panic!("{other:?}"),
    };
    let (all, truncated) = list(None, None);
    assert_eq!((all.len(), truncated), (703, false));
    let mut clients: Vec<_> = all.iter().map(|c| (c.proto, c.client)).collect();
    clients.sort();
    clients.dedup();
    assert_eq!(clients.len(), 703, "each once");
    assert!(all.iter().all(|c| c.flow == c.proto.to_string()));
    for (flow, limit, n, truncated) in [
        (Some("tcp"), None, 3, false),
        (Some("udp"), Some(700), 700, false),
        (Some("udp"), Some(699), 699, true),
        (None, Some(0), 0, true),
        (None, Some(300), 300, true),
        (None, Some(351), 351, true),
        (Some("tcp"), Some(1), 1, true),
    ] {
        let (some, cut) = list(flow, limit);
        assert_eq!((some.len(), cut), (n, truncated), "{flow:?} {limit:?}");
    }
    let tcp = &list(Some("tcp"), None).0[0];
    assert_eq!((tcp.state.as_str(), tcp.to_target.packets, tcp.to_client.packets), ("opening", 1, 0));
    assert_eq!((tcp.age, tcp.idle), (0, 0));
}

/// All that can be asked, once; what is told agrees with itself.
#[test]
fn the_whole_state_agrees_with_itself() {
    let mut rig = rig(2);
    rig.add(FlowSpec {
        lease: Some(100),
        max_conns: Some(7),
        ..flow("a", Proto::Udp, "10.0.0.1:5001", TARGET, FROM)
    });
    let conns: Vec<Conn> = (0..6).map(|n| open_at(&mut rig, n % 2, Proto::Udp, n)).collect();
    for conn in &conns {
        rig.inject_at(0, WAN, &conn.by_target(udp(), b"back").build());
    }
    rig.turn();
    assert_eq!(rig.take(LAN).len(), 6);
    rig.drops_as(
        "denied",
        LAN,
        &Packet::udp(LAN, "10.7.0.2:1", LISTEN, b"").build(),
        DropReason::SourceDenied,
    );
    rig.drops_as(
        "reset",
        LAN,
        &Packet::tcp(LAN, CLIENT, LISTEN, RST, b"").build(),
        DropReason::TcpNoConnection,
    );
    rig.advance(10);

    let Ok(Reply::Snapshot { snapshot }) = rig.ask(Request::Snapshot) else { panic!() };
    let stats = &snapshot.stats;
    let dropped: u64 = stats.drops.values().sum();
    assert_eq!((stats.received, stats.sent, stats.held, dropped), (14, 12, 0, 2));
    assert_eq!(stats.received, stats.sent + stats.held + dropped);
    assert_eq!(stats.drops.len(), DropReason::COUNT, "every reason is present");
    assert_eq!((stats.connections, stats.workers.len(), stats.originated), (6, 2, 0));
    let rx: u64 = snapshot.ports.iter().map(|p| p.rx.packets).sum();
    let tx: u64 = snapshot.ports.iter().map(|p| p.tx.packets).sum();
    assert_eq!((rx, tx), (14, 12));
    for w in &stats.workers {
        let (rx, tx): (u64, u64) =
            w.queues.iter().fold((0, 0), |(r, t), q| (r + q.rx.packets, t + q.tx.packets));
        let drops: u64 = w.queues.iter().flat_map(|q| q.drops.values()).sum();
        assert_eq!((w.received, w.sent), (rx, tx));
        assert_eq!(w.received + w.taken_over, w.sent + w.held + drops + w.handed_over);
        assert!(w.loops > w.busy_loops && w.busy_loops > 0);
    }
    let names: Vec<_> = snapshot.flows.iter().map(|f| f.spec.name.as_str()).collect();
    assert_eq!(names, ["a", "tcp", "udp"]);
    let (a, u) = (&snapshot.flows[0], &snapshot.flows[2]);
    assert_eq!((a.spec.max_conns, a.state, a.configured), (Some(7), FlowState::Active, false));
    assert!(a.lease_remaining.is_some_and(|s| s <= 100));
    assert_eq!((u.connections, u.admitted, u.refused), (6, 6, 1));
    assert_eq!((u.to_target.packets, u.to_client.packets, u.lease_remaining), (6, 6, None));
    assert_eq!(snapshot.connections.len(), 6);
    assert!(!snapshot.connections_truncated);
    for c in &snapshot.connections {
        assert_eq!((c.to_target.packets, c.to_client.packets, c.state.as_str()), (1, 1, "established"));
    }
    let Ok(Reply::Ports { ports }) = rig.ask(Request::PortList) else { panic!() };
    let tag = &ports[usize::from(TAG)];
    assert_eq!((tag.name.as_str(), tag.vlan, tag.mtu, tag.rx.packets), ("tag", Some(30), 1500, 0));
    assert_eq!((tag.neighbors.len(), tag.neighbors[0].state.as_str()), (5, "static"));
    assert_eq!(ports[3].mtu, 1280);
    let Ok(Reply::Flows { flows }) = rig.ask(Request::FlowList) else { panic!() };
    assert_eq!(flows.len(), 3);
    let Ok(Reply::Stats { stats: again }) = rig.ask(Request::Stats) else { panic!() };
    assert_eq!((again.received, again.epoch), (14, stats.epoch));
}

/// Flows of the configuration are there from the start, and are as good as others.
#[test]
fn configured_flows_are_installed() {
    let flows = r#"
[[flow]]
name = "configured"
proto = "udp"
listen = "10.0.0.1:5000"
target = "10.1.0.2:6000"
from = ["10.0.0.0/24"]
"#;
    let clock = FakeClock::default();
    let made = make(&format!("{PORTS}\n{}\n{flows}", neighbors()), 1, 256, clock.clone());
    let mut rig = Rig {
        gateway: made.gateway,
        workers: made.workers,
        ios: made.ios,
        clock,
        stop: made.stop,
        buffers: 256,
    };
    let conn = rig.open(Proto::Udp, LAN, CLIENT, LISTEN, WAN, TARGET);
    assert!(rig.flow("configured").configured);
    rig.done(Request::FlowReplace { spec: flow("configured", Proto::Udp, LISTEN, TARGET, FROM) });
    assert!(!rig.flow("configured").configured);
    rig.relays_both(&conn, false, udp(), b"goes on");
    rig.balance();
}

/// A worker that has ended does not hang whoever asks.
#[test]
fn a_silent_worker_is_told() {
    let Made { gateway, workers, stop, .. } = make(PORTS, 1, 16, StdClock(Instant::now()));
    stop.stop();
    let held: VecDeque<_> = workers.into_iter().map(|w| w.run()).collect();
    let error = gateway.handle(Request::ConnectionList { flow: None, limit: None }, &PEER).unwrap_err();
    assert!(error.code == ErrorCode::Internal && error.message.contains("worker 0"), "{error:?}");
    // Changes need nobody's consent any more.
    let spec = flow("late", Proto::Udp, LISTEN, TARGET, FROM);
    assert!(matches!(gateway.handle(Request::FlowAdd { spec }, &PEER), Ok(Reply::Done { .. })));
    drop(held);
}
