//! Are our addresses free? What is asked before the forwarder begins, when, and what counts as an answer.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::net::IpAddr;
use std::sync::Arc;

use common::packet::{Packet, arp, gw_mac, nd};
use common::{LAN, PORTS, TAG, WAN};
use forwarder::config::{AddressCheck, Config};
use forwarder::io::memory::MemoryIo;
use forwarder::neighbor::PortL2;
use forwarder::neighbor::claim::{Claim, ClaimPort};
use forwarder::net::Network;
use forwarder::wire::{Mac, Tags};

const ALL: [u8; 6] = [0xff; 6];
const NOBODY: [u8; 6] = [0; 6];
const OTHER: [u8; 6] = [2, 9, 9, 9, 9, 1];
const OUR4: [u8; 4] = [10, 0, 0, 1];
const GROUP: ([u8; 6], &str) = ([0x33, 0x33, 0xff, 0, 0, 1], "ff02::1:ff00:1");
const EVERYBODY: ([u8; 6], &str) = ([0x33, 0x33, 0, 0, 0, 1], "ff02::1");
/// All of a port, and what two workers' queues have.
const BUFFERS: usize = 4096;

fn ports() -> Vec<ClaimPort> {
    let config = Arc::new(Config::parse(PORTS, "test.toml").unwrap());
    let macs: Vec<Mac> = (0..4).map(|p| Mac(gw_mac(p))).collect();
    let ports = (0..).zip(Network::new(config, &macs).ports_l2());
    ports.map(|(port, l2)| ClaimPort { port, device: port, l2 }).collect()
}

/// A claim to the addresses of [`PORTS`], with the queues of two workers.
struct Test {
    claim: Claim<forwarder::io::memory::HeapBuf>,
    ios: Vec<MemoryIo>,
    now: u32,
}

impl Test {
    fn new(check: AddressCheck, random: fn(u32) -> u32) -> Test {
        let claim = Claim::new(ports(), check, &mut |n| random(n));
        Test { claim, ios: (0..2).map(|_| MemoryIo::new(4, BUFFERS)).collect(), now: 0 }
    }

    fn quick() -> Test {
        Test::new(AddressCheck::Quick, |_| 0)
    }

    /// A millisecond passes. False when the claim is over.
    fn turn(&mut self) -> bool {
        let over = self.claim.turn(&mut self.ios, self.now);
        self.now += 1;
        !over
    }

    /// Goes on to the end; returns what was sent by `port`, with the millisecond of each.
    fn run(&mut self, port: u8) -> Vec<(u32, Vec<u8>)> {
        let mut sent = Vec::new();
        loop {
            let goes_on = self.turn();
            sent.extend(self.ios[0].take_all(port).into_iter().map(|frame| (self.now - 1, frame)));
            if !goes_on {
                return sent;
            }
        }
    }

    fn hear(&mut self, worker: usize, port: u8, frame: &[u8]) {
        assert!(self.ios[worker].inject(port, frame));
    }

    /// Port, address and the other's MAC address of each conflict.
    fn conflicts(&self) -> Vec<(u8, IpAddr, [u8; 6])> {
        self.claim.conflicts().iter().map(|c| (c.port, c.rival.address, c.rival.mac.0)).collect()
    }

    /// Every buffer has come back, those sent taken.
    fn all_free(self) -> bool {
        let Test { claim, ios, .. } = self;
        drop(claim);
        (0..4).for_each(|port| drop(ios[0].take_all(port)));
        ios.iter().all(|io| io.available() == BUFFERS)
    }
}

/// The three questions about a port's addresses.
fn probes(port: u8, own4: [u8; 4], own6: &str) -> Vec<Vec<u8>> {
    let us = gw_mac(port);
    let ask6 = |target| nd(port, (us, "::"), GROUP, (135, 0), target, None);
    let [.., last] = us;
    let local = ([0x33, 0x33, 0xff, 0, 0, last], format!("ff02::1:ff00:{last:x}"));
    let link_local = forwarder::net::link_local(Mac(us)).to_string();
    vec![
        arp(port, ALL, 1, (us, [0; 4]), (NOBODY, own4)),
        nd(port, (us, "::"), (local.0, &local.1), (135, 0), &link_local, None),
        ask6(own6),
    ]
}

#[test]
fn every_address_is_probed_three_times_in_550_ms() {
    for (port, own4, own6) in [(LAN, [10, 0, 0, 1], "fd00:0::1"), (TAG, [10, 2, 0, 1], "fd00:2::1")] {
        let mut test = Test::quick();
        let sent = test.run(port);
        let expected: Vec<_> = [0, 150, 300]
            .into_iter()
            .flat_map(|at| probes(port, own4, own6).into_iter().map(move |frame| (at, frame)))
            .collect();
        assert_eq!(sent, expected);
        assert_eq!((test.now - 1, test.conflicts()), (550, vec![]));
        assert!(test.all_free());
    }
}

#[test]
fn the_rfcs_own_schedule_takes_its_time() {
    // Every random choice the smallest, and the largest (RFC 5227 section 1.1).
    for (random, times, end) in
        [((|_| 0) as fn(u32) -> u32, [0, 1000, 2000], 4000), (|n| n - 1, [1000, 3000, 5000], 7000)]
    {
        let mut test = Test::new(AddressCheck::Rfc5227, random);
        let mut at: Vec<u32> = test.run(WAN).into_iter().map(|(at, _)| at).collect();
        at.dedup();
        assert_eq!((at.as_slice(), test.now - 1), (&times[..], end));
    }
}

#[test]
fn without_a_check_nothing_is_asked_or_heard() {
    let mut test = Test::new(AddressCheck::Off, |n| n - 1);
    assert_eq!(test.run(LAN), []);
    assert_eq!(test.now, 1, "over at once");
}

#[test]
fn who_has_or_wants_our_address_is_named() {
    let us = (gw_mac(LAN), "fd00::1");
    let cases = [
        ("answers", LAN, arp(LAN, gw_mac(LAN), 2, (OTHER, OUR4), (gw_mac(LAN), [0; 4])), "10.0.0.1"),
        ("answers all", LAN, arp(LAN, ALL, 2, (OTHER, OUR4), (gw_mac(LAN), [0; 4])), "10.0.0.1"),
        ("announces", LAN, arp(LAN, ALL, 1, (OTHER, OUR4), (NOBODY, OUR4)), "10.0.0.1"),
        ("uses it", LAN, arp(LAN, ALL, 1, (OTHER, OUR4), (NOBODY, [10, 0, 0, 7])), "10.0.0.1"),
        ("probes it, too", LAN, arp(LAN, ALL, 1, (OTHER, [0; 4]), (NOBODY, OUR4)), "10.0.0.1"),
        ("on a tag", TAG, arp(TAG, ALL, 1, (OTHER, [10, 2, 0, 1]), (NOBODY, [10, 2, 0, 1])), "10.2.0.1"),
        (
            "advertises",
            LAN,
            nd(LAN, (OTHER, "fd00::1"), EVERYBODY, (136, 0x20), "fd00::1", Some(OTHER)),
            "fd00::1",
        ),
        (
            "advertises as a proxy",
            LAN,
            nd(LAN, (OTHER, "fd00::9"), EVERYBODY, (136, 0), "fd00::1", Some(OTHER)),
            "fd00::1",
        ),
        (
            "advertises without its MAC",
            LAN,
            nd(LAN, (OTHER, "fd00::1"), us, (136, 0x40), "fd00::1", None),
            "fd00::1",
        ),
        ("detects duplicates, too", LAN, nd(LAN, (OTHER, "::"), GROUP, (135, 0), "fd00::1", None), "fd00::1"),
        (
            "solicits with it",
            LAN,
            nd(LAN, (OTHER, "fd00::1"), GROUP, (135, 0), "fd00::7", Some(OTHER)),
            "fd00::1",
        ),
        (
            "has the link-local one",
            LAN,
            nd(LAN, (OTHER, "fe80::9"), EVERYBODY, (136, 0x20), "fe80::ff:fe00:1", Some(OTHER)),
            "fe80::ff:fe00:1",
        ),
    ];
    for (name, port, frame, address) in &cases {
        // Whichever queue it comes to, at the start and in the last millisecond; said twice, told once.
        for (worker, at) in [(0, 0), (1, 300), (1, 550)] {
            let mut test = Test::quick();
            while test.now < at {
                assert!(test.turn());
            }
            test.hear(worker, *port, frame);
            test.hear(worker, *port, frame);
            test.run(LAN);
            assert_eq!(test.conflicts(), [(*port, address.parse().unwrap(), OTHER)], "{name}, at {at}");
            assert!(test.all_free());
        }
    }
}

#[test]
fn every_conflict_is_named() {
    let mut test = Test::quick();
    let second = [2, 9, 9, 9, 9, 2];
    test.hear(0, LAN, &arp(LAN, ALL, 2, (OTHER, OUR4), (ALL, OUR4)));
    test.hear(0, LAN, &arp(LAN, ALL, 2, (second, OUR4), (ALL, OUR4)));
    test.hear(1, WAN, &nd(WAN, (OTHER, "::"), GROUP, (135, 0), "fd00:1::1", None));
    test.run(LAN);
    let (v4, v6) = (OUR4.into(), "fd00:1::1".parse().unwrap());
    assert_eq!(test.conflicts(), [(LAN, v4, OTHER), (LAN, v4, second), (WAN, v6, OTHER)]);
}

/// What a switch loops back, and what one port of ours hears of another on the same link.
#[test]
fn our_own_words_are_no_conflict() {
    let mut test = Test::quick();
    while test.turn() {
        for from in [LAN, WAN] {
            for frame in test.ios[0].take_all(from) {
                test.hear(0, LAN, &frame);
                test.hear(1, WAN, &frame);
            }
        }
    }
    // Not even if our port LAN spoke for the address of WAN.
    let mut test_both = Test::quick();
    test_both.hear(0, WAN, &arp(WAN, ALL, 1, (gw_mac(LAN), [10, 1, 0, 1]), (NOBODY, [10, 1, 0, 1])));
    test_both.hear(0, WAN, &nd(WAN, (gw_mac(LAN), "::"), GROUP, (135, 0), "fd00:1::1", None));
    test_both.run(LAN);
    for test in [test, test_both] {
        assert_eq!(test.conflicts(), []);
        assert!(test.all_free());
    }
}

#[test]
fn other_frames_are_freed_and_mean_nothing() {
    let mine = arp(LAN, ALL, 2, (OTHER, OUR4), (ALL, OUR4));
    let with = |change: fn(&mut Vec<u8>)| {
        let mut frame = mine.clone();
        change(&mut frame);
        frame
    };
    let mut wrong_sum = nd(LAN, (OTHER, "::"), GROUP, (135, 0), "fd00::1", None);
    wrong_sum[56] ^= 1;
    let frames = [
        ("asks for us", arp(LAN, ALL, 1, (OTHER, [10, 0, 0, 9]), (NOBODY, OUR4))),
        ("probes another", arp(LAN, ALL, 1, (OTHER, [0; 4]), (NOBODY, [10, 0, 0, 9]))),
        ("has another", arp(LAN, ALL, 2, (OTHER, [10, 0, 0, 9]), (ALL, OUR4))),
        ("another port's", arp(LAN, ALL, 2, (OTHER, [10, 1, 0, 1]), (ALL, OUR4))),
        ("to another station", with(|f| f[..6].copy_from_slice(&[2, 9, 9, 9, 9, 7]))),
        ("a group's", with(|f| f[22] |= 1)),
        ("another operation", with(|f| f[21] = 3)),
        ("cut", mine[..30].to_vec()),
        ("cut within Ethernet", mine[..10].to_vec()),
        ("on a tag", arp(TAG, ALL, 2, (OTHER, OUR4), (ALL, OUR4))),
        ("solicits us", nd(LAN, (OTHER, "fd00::9"), GROUP, (135, 0), "fd00::1", Some(OTHER))),
        ("advertises another", nd(LAN, (OTHER, "fd00::9"), EVERYBODY, (136, 0x20), "fd00::9", Some(OTHER))),
        ("wrong checksum", wrong_sum),
        ("traffic", Packet::udp(LAN, "10.0.0.2:4000", "10.0.0.1:5000", b"x").build()),
    ];
    let mut test = Test::quick();
    for (_, frame) in &frames {
        test.hear(0, LAN, frame);
        test.hear(1, LAN, frame);
    }
    test.run(LAN);
    assert_eq!(test.conflicts(), []);
    assert!(test.all_free());
}

#[test]
fn a_busy_port_is_heard_to_its_end() {
    let mut test = Test::quick();
    let traffic = Packet::udp(LAN, "10.0.0.2:4000", "10.0.0.1:5000", b"x").build();
    for _ in 0..3000 {
        test.hear(1, LAN, &traffic);
    }
    test.hear(1, LAN, &arp(LAN, ALL, 2, (OTHER, OUR4), (ALL, OUR4)));
    test.run(LAN);
    assert_eq!(test.conflicts(), [(LAN, OUR4.into(), OTHER)]);
    assert!(test.all_free());
}

/// As while a link is down.
#[test]
fn a_device_that_takes_nothing_does_not_hold_up_the_start() {
    let mut test = Test::quick();
    for port in 0..4 {
        test.ios[0].set_tx_room(port, 0);
    }
    assert_eq!(test.run(LAN), []);
    assert_eq!(test.now - 1, 550);
    assert!(test.all_free());
}

#[test]
fn what_a_device_did_not_take_at_once_is_offered_again() {
    let mut test = Test::quick();
    test.ios[0].set_tx_room(LAN, 1);
    test.turn();
    assert_eq!(test.ios[0].take_all(LAN).len(), 1);
    test.ios[0].set_tx_room(LAN, usize::MAX);
    test.turn();
    assert_eq!(test.ios[0].take_all(LAN), probes(LAN, OUR4, "fd00:0::1")[1..]);
}

/// More addresses than a batch has room for.
#[test]
fn many_addresses_are_all_probed() {
    let mut l2 = ports().remove(0).l2;
    l2.ipv4 = (0..600u16).map(|n| [10, 0, (n >> 8) as u8, n as u8].into()).collect();
    let mut test = Test::quick();
    test.claim = Claim::new(vec![ClaimPort { port: LAN, device: LAN, l2 }], AddressCheck::Quick, &mut |_| 0);
    let sent = test.run(LAN);
    assert_eq!(sent.len(), 3 * 602);
    assert_eq!(sent.iter().map(|(_, frame)| frame).collect::<std::collections::HashSet<_>>().len(), 602);
}

#[test]
fn without_buffers_it_ends_as_well() {
    let mut test = Test::quick();
    test.ios = vec![MemoryIo::new(4, 0)];
    assert_eq!(test.run(LAN), []);
    assert_eq!(test.now - 1, 550);
}

/// Two VLANs on one device: each port asks with its own tag, and hears what has that tag.
#[test]
fn ports_that_share_a_device_are_told_apart_by_their_tags() {
    let mut ports = ports();
    ports.truncate(2);
    ports[1].device = LAN;
    ports[1].l2 = PortL2 { mac: ports[0].l2.mac, tags: Tags::one(Some(30)), ..ports[1].l2.clone() };
    let mut test = Test::quick();
    test.claim = Claim::new(ports, AddressCheck::Quick, &mut |_| 0);
    let tagged = |frame: &[u8], id: u16| [&frame[..12], &[0x81, 0], &id.to_be_bytes(), &frame[12..]].concat();
    let has = |address| arp(LAN, [0xff; 6], 2, (OTHER, address), ([0; 6], address));
    test.hear(0, LAN, &tagged(&has([10, 1, 0, 1]), 31));
    test.hear(0, LAN, &has([10, 1, 0, 1]));
    test.hear(1, LAN, &tagged(&has([10, 0, 0, 1]), 30));
    test.turn();
    assert_eq!(test.conflicts(), []);
    test.hear(1, LAN, &tagged(&has([10, 1, 0, 1]), 30));
    test.hear(0, LAN, &has(OUR4));
    test.turn();
    let mut conflicts = test.conflicts();
    conflicts.sort();
    assert_eq!(conflicts, [(LAN, OUR4.into(), OTHER), (WAN, [10, 1, 0, 1].into(), OTHER)]);
    let sent = test.run(WAN);
    assert!(sent.iter().all(|(_, frame)| frame[12..16] == [0x81, 0, 0, 30]) && !sent.is_empty());
}
