//! Devices that bring packets to their workers. EAL starts once a process: run with `cargo nextest`.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod dpdk_common;
#[path = "common/packet.rs"]
#[allow(dead_code, unreachable_pub)]
mod packet;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arrayvec::ArrayVec;
use dpdk_common::{eal, frame, pool, settings};
use forwarder::config::{Config, Device, Idle};
use forwarder::dpdk::{DpdkIo, Mbuf, Port, PortSettings, RingPair, Steer, soft_rss};
use forwarder::engine::engines;
use forwarder::flow::Tuple;
use forwarder::flow::steering::{Block, Blocks, How, Steering};
use forwarder::flow::toeplitz::Toeplitz;
use forwarder::gateway::Gateway;
use forwarder::io::PacketBuf;
use forwarder::net::Network;
use forwarder::sync::StopFlag;
use forwarder::wire::Mac;
use forwarder::worker::{Clock, Worker};
use packet::{Body, Packet, gw_mac, host_mac, read};
use proptest::prelude::*;

fn steered(device: &str, queues: u16) -> PortSettings {
    let steer = Steer { source_ports: 32_768..=65_535, v4: true, v6: true };
    PortSettings { queues, steer: Some(steer), ..settings(Device::Vdev(device.to_owned())) }
}

/// net_null takes a key and a table and gives them back; it has no packets to hash.
#[test]
fn a_device_with_a_hash_gets_our_key_and_table() {
    let eal = eal();
    let pool = pool(&eal, 2047);
    for (queues, how) in [(1, How::OneWorker), (2, How::Rss), (3, How::Rss), (8, How::Rss)] {
        let (port, opened) = Port::open(&eal, steered("net_null0,size=64", queues), &pool).unwrap();
        assert_eq!((port.steering().how(), opened.len()), (how, queues.into()));
    }
    // Nobody asked.
    let unsteered = PortSettings { steer: None, ..steered("net_null0", 2) };
    assert_eq!(Port::open(&eal, unsteered, &pool).unwrap().0.steering().how(), How::HandOver);
    // Another port, another key.
    let home = |index: u8| {
        let wanted = PortSettings { index, ..steered(&format!("net_null{index}"), 8) };
        let (port, _queues) = Port::open(&eal, wanted, &pool).unwrap();
        let homes = port.steering().homes("10.1.0.2:1".parse().unwrap(), [10, 1, 0, 1].into());
        (0..64).map(|p| homes.port(p)).collect::<Vec<_>>()
    };
    assert_ne!(home(0), home(1));
}

/// net_ring has neither a hash nor rules.
#[test]
fn a_device_with_nothing_leaves_it_to_the_workers() {
    let eal = eal();
    let pool = pool(&eal, 511);
    for (queues, how) in [(1, How::OneWorker), (2, How::HandOver)] {
        let (port, _queues, _far) = Port::from_rings(steered("rings", queues), 64, &pool).unwrap();
        assert_eq!(port.steering().how(), how);
    }
}

/// The words that DPDK hashes of a packet, in the host's order.
fn words(src: SocketAddr, dst: SocketAddr) -> Vec<u32> {
    let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let address = |a: IpAddr| match a {
        IpAddr::V4(a) => vec![word(&a.octets())],
        IpAddr::V6(a) => a.octets().chunks(4).map(word).collect(),
    };
    let ports = u32::from(src.port()) << 16 | u32::from(dst.port());
    [address(src.ip()), address(dst.ip()), vec![ports]].concat()
}

fn endpoints() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>(), any::<u16>(), any::<u16>())
        .prop_map(|(a, b, p, q)| (SocketAddr::from((a, p)), SocketAddr::from((b, q))));
    let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<u16>(), any::<u16>())
        .prop_map(|(a, b, p, q)| (SocketAddr::from((a, p)), SocketAddr::from((b, q))));
    prop_oneof![v4, v6]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn our_hash_is_that_of_dpdk((src, dst) in endpoints(), key in proptest::array::uniform32(any::<u8>()), end: u64) {
        let key: [u8; 40] = [&key[..], &end.to_be_bytes()].concat().try_into().unwrap();
        let hash = Toeplitz::new(&key);
        let tuple = Tuple { port: 0, proto: forwarder::api::Proto::Tcp, src, dst }.key().unwrap();
        let expected = soft_rss(&words(src, dst), &key);
        prop_assert_eq!(hash.of(&tuple), expected);
        prop_assert_eq!(hash.to_any_port(src, dst.ip()) ^ hash.port(dst.is_ipv6(), dst.port()), expected);
    }
}

struct Still;

impl Clock for Still {
    fn ticks(&self) -> u64 {
        0
    }
    fn ticks_per_ms(&self) -> u64 {
        1
    }
}

const CONFIG: &str = r#"
[[port]]
name = "lan"
device = "vdev:rings0"
addresses = ["10.0.0.1/24", "fd00:0::1/64"]
[[port]]
name = "wan"
device = "vdev:rings1"
addresses = ["10.1.0.1/24", "fd00:1::1/64"]
[[flow]]
name = "udp4"
proto = "udp"
listen = "10.0.0.1:5000"
target = "10.1.0.2:6000"
from = ["10.0.0.0/24"]
[[flow]]
name = "udp6"
proto = "udp"
listen = "[fd00:0::1]:5000"
target = "[fd00:1::2]:6000"
from = ["fd00:0::/64"]
"#;

/// What a NIC of our own making did with 600 connections.
struct Outcome {
    /// First packets at each worker's queue.
    firsts: [usize; WORKERS as usize],
    /// Packets handed over that came in at each port.
    handed: [u64; 2],
}

const WORKERS: u16 = 3;

/// Two ports over rings, and before them `queue`, which puts each frame into a ring as a NIC would.
fn through_a_nic(steering: &Steering, queue: impl Fn(&[u8]) -> usize) -> Outcome {
    let eal = eal();
    let pool = pool(&eal, 4095);
    let mut text = format!("[addresses]\ncheck = \"off\"\n{CONFIG}");
    for (port, address) in
        [("lan", "10.0.0.2"), ("lan", "fd00:0::2"), ("wan", "10.1.0.2"), ("wan", "fd00:1::2")]
    {
        let mac = Mac(host_mac(address.parse().unwrap()));
        text += &format!("[[neighbor]]\nport = \"{port}\"\naddress = \"{address}\"\nmac = \"{mac}\"\n");
    }
    let config = Arc::new(Config::parse(&text, "test.toml").unwrap());
    let macs = [Mac(gw_mac(0)), Mac(gw_mac(1))];
    let net =
        Arc::new(Network::new(Arc::clone(&config), &macs).steered([steering.clone(), steering.clone()]));
    let (publisher, made) = engines(&config, &net, WORKERS.into()).unwrap();
    let mut far: Vec<Vec<RingPair>> = Vec::new();
    let mut ios: Vec<Vec<_>> = (0..WORKERS).map(|_| Vec::new()).collect();
    for index in 0..2 {
        let wanted = PortSettings { index, ..steered("rings", WORKERS) };
        let (_port, queues, ends) = Port::from_rings(wanted, 64, &pool).unwrap();
        ios.iter_mut().zip(queues).for_each(|(io, queue)| io.push(queue));
        far.push(ends);
    }
    let parts = made.into_iter().zip(ios).enumerate().map(|(index, (engine, queues))| {
        let io = DpdkIo::new(queues, Arc::clone(&pool));
        Worker::new(engine, io, Still, StopFlag::default(), Idle::Poll, (index, None))
    });
    let (mut workers, handles): (Vec<_>, Vec<_>) = parts.unzip();
    let gateway = Gateway::new(config, net, publisher, handles, Vec::new()).unwrap();

    let mut pass = |port: usize, bytes: &[u8]| {
        let mut one = ArrayVec::<Mbuf, 1>::from([frame(&pool, bytes)]);
        assert_eq!(far[port][queue(bytes)].send(&mut one), 1);
        while workers.iter_mut().map(|w| w.turn()).sum::<usize>() > 0 {}
        let mut sent = ArrayVec::<Mbuf, 4>::new();
        far[1 - port].iter_mut().for_each(|ring| {
            ring.recv(&mut sent);
        });
        assert_eq!(sent.len(), 1);
        sent[0].head().to_vec()
    };
    let body = || Body::Udp { checksum: true };
    let mut firsts = [0; WORKERS as usize];
    for n in 0..300u16 {
        for (client, listen) in [("10.0.0.2", "10.0.0.1:5000"), ("[fd00:0::2]", "[fd00:0::1]:5000")] {
            let client: SocketAddr = format!("{client}:{}", 10_000 + n).parse().unwrap();
            let first =
                Packet::arriving(0, client, listen.parse().unwrap(), body(), &n.to_be_bytes()).build();
            firsts[queue(&first)] += 1;
            let sent = read(&pass(0, &first));
            let reply = Packet::arriving(1, sent.dst, sent.src, body(), &n.to_be_bytes()).build();
            let back = read(&pass(1, &reply));
            assert_eq!((back.dst, back.payload), (client, n.to_be_bytes().to_vec()));
        }
    }
    let stats = gateway.stats();
    assert_eq!((stats.received, stats.sent, stats.held), (1200, 1200, 0));
    assert!(gateway.flows().iter().all(|f| f.admitted == 300));
    let counters = |port: usize| {
        workers.iter().map(|w| w.engine().counters().queues[port].handed_over.get()).sum::<u64>()
    };
    Outcome { firsts, handed: [counters(0), counters(1)] }
}

const KEY: [u8; 40] = *b"a key that any device could be given, 40";

/// A hash - DPDK's, not ours - and a table choose the queue: all traffic of a connection comes to one worker.
#[test]
fn with_a_hash_nothing_is_handed_over() {
    const ENTRIES: usize = 128;
    let outcome = through_a_nic(&Steering::rss(&KEY, WORKERS, ENTRIES), |frame| {
        let r = read(frame);
        let entry = soft_rss(&words(r.src, r.dst), &KEY) as usize % ENTRIES;
        entry % usize::from(WORKERS)
    });
    assert_eq!(outcome.handed, [0, 0]);
    assert!(outcome.firsts.iter().all(|n| *n > 150), "connections are spread: {:?}", outcome.firsts);
}

/// Rules choose the queue by the bits of the destination port; what they do not name comes to the first one. Return traffic
/// then comes to its worker, and first packets are handed over.
#[test]
fn with_rules_no_return_traffic_is_handed_over() {
    let blocks = Blocks::new(&(32_768..=65_535), WORKERS);
    let rules: Vec<Block> = blocks.iter().collect();
    let outcome = through_a_nic(&Steering::rules(&KEY, blocks), |frame| {
        let port = read(frame).dst.port();
        rules.iter().find(|r| port & r.mask == r.port).map_or(0, |r| r.queue.into())
    });
    assert_eq!(outcome.firsts, [600, 0, 0]);
    assert!((300..500).contains(&outcome.handed[0]), "two of three first packets: {}", outcome.handed[0]);
    assert_eq!(outcome.handed[1], 0);
}

/// The device puts everything into one queue.
#[test]
fn with_nothing_packets_are_handed_over() {
    let outcome = through_a_nic(&Steering::hand_over(&KEY, WORKERS), |_| 0);
    assert!(outcome.handed.iter().all(|n| (300..500).contains(n)), "{:?}", outcome.handed);
}
