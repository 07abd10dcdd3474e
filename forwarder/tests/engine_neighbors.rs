//! Next hops: who is answered, who is asked, what waits and for how long, and what a new MAC address does.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::packet::{Body, Packet, arp, gw_mac, host_mac, nd, read};
use common::{LAN, PORTS, Rig, TAG, WAN, assert_same, flow, neighbors, since};
use forwarder::api::{Proto, Reply, Request};
use forwarder::engine::DropReason;

const ALL: [u8; 6] = [0xff; 6];
const NOBODY: [u8; 6] = [0; 6];
const PEER: [u8; 6] = [2, 9, 9, 9, 9, 1];
const OTHER: [u8; 6] = [2, 9, 9, 9, 9, 2];
const PEER4: [u8; 4] = [10, 0, 0, 50];
const FROM: &str = "10.0.0.0/24";

fn mac4(address: [u8; 4]) -> [u8; 6] {
    host_mac(address.into())
}

fn arp_entry(rig: &mut Rig, address: &str) -> Option<(Option<String>, String)> {
    let Ok(Reply::Ports { ports }) = rig.ask(Request::PortList) else { panic!() };
    let all = ports.into_iter().flat_map(|p| p.neighbors);
    all.into_iter()
        .find(|n| n.address == address.parse::<std::net::IpAddr>().unwrap())
        .map(|n| (n.mac, n.state))
}

fn text(mac: [u8; 6]) -> String {
    forwarder::wire::Mac(mac).to_string()
}

#[test]
fn arp_is_answered_for_the_ports_own_addresses() {
    let mut rig = Rig::new("");
    for (port, own, peer) in [(LAN, [10, 0, 0, 1], PEER4), (TAG, [10, 2, 0, 1], [10, 2, 0, 50])] {
        let asked = arp(port, ALL, 1, (PEER, peer), (NOBODY, own));
        let answer = arp(port, PEER, 2, (gw_mac(port), own), (PEER, peer));
        assert_same(&rig.pass(port, &asked, port), &answer);
        // Asked directly, as by somebody who makes sure that we are still there.
        let asked = arp(port, gw_mac(port), 1, (PEER, peer), (NOBODY, own));
        assert_same(&rig.pass(port, &asked, port), &answer);
        // RFC 5227: to somebody without an address who wants ours.
        let probe = arp(port, ALL, 1, (PEER, [0; 4]), (NOBODY, own));
        assert_same(&rig.pass(port, &probe, port), &arp(port, PEER, 2, (gw_mac(port), own), (PEER, [0; 4])));
    }
    // A frame without padding is answered as well.
    let mut asked = arp(LAN, ALL, 1, (PEER, PEER4), (NOBODY, [10, 0, 0, 1]));
    asked.truncate(42);
    assert_same(&rig.pass(LAN, &asked, LAN), &arp(LAN, PEER, 2, (gw_mac(LAN), [10, 0, 0, 1]), (PEER, PEER4)));
    rig.balance();
    let stats = rig.stats();
    assert_eq!((stats.received, stats.sent, stats.originated), (7, 7, 0));
}

#[test]
fn arp_that_is_not_answered() {
    use DropReason::*;
    let own = [10, 0, 0, 1];
    let with = |change: fn(&mut Vec<u8>)| {
        let mut f = arp(LAN, ALL, 1, (PEER, PEER4), (NOBODY, own));
        change(&mut f);
        f
    };
    let cases = [
        ("for another host", arp(LAN, ALL, 1, (PEER, PEER4), (NOBODY, [10, 0, 0, 77])), LocalArp),
        ("for another port's address", arp(LAN, ALL, 1, (PEER, PEER4), (NOBODY, [10, 1, 0, 1])), LocalArp),
        (
            "for another host, from afar",
            arp(LAN, ALL, 1, (PEER, [10, 9, 0, 1]), (NOBODY, [10, 0, 0, 77])),
            ArpIgnored,
        ),
        ("announcement", arp(LAN, ALL, 1, (PEER, PEER4), (NOBODY, PEER4)), LocalArp),
        ("reply", arp(LAN, gw_mac(LAN), 2, (PEER, PEER4), (gw_mac(LAN), own)), LocalArp),
        ("probe for another", arp(LAN, ALL, 1, (PEER, [0; 4]), (NOBODY, [10, 0, 0, 77])), ArpIgnored),
        ("our address is claimed", arp(LAN, ALL, 1, (PEER, own), (NOBODY, own)), AddressConflict),
        ("our address is claimed in a reply", arp(LAN, ALL, 2, (PEER, own), (ALL, own)), AddressConflict),
        ("our own words", arp(LAN, ALL, 1, (gw_mac(LAN), own), (NOBODY, [10, 0, 0, 9])), ArpIgnored),
        ("sent by a group", arp(LAN, ALL, 1, ([3, 0, 0, 0, 0, 1], PEER4), (NOBODY, own)), ArpIgnored),
        ("sent by nobody", arp(LAN, ALL, 1, (NOBODY, PEER4), (NOBODY, own)), ArpIgnored),
        ("to another station", arp(LAN, OTHER, 1, (PEER, PEER4), (NOBODY, own)), NotForUs),
        ("other hardware", with(|f| f[15] = 6), ArpMalformed),
        ("other protocol", with(|f| f[16] = 9), ArpMalformed),
        ("hardware size", with(|f| f[18] = 8), ArpMalformed),
        ("protocol size", with(|f| f[19] = 16), ArpMalformed),
        ("operation 0", with(|f| f[21] = 0), ArpMalformed),
        ("operation 3, reverse arp", with(|f| f[21] = 3), ArpMalformed),
        ("operation 0x0101", with(|f| f[20] = 1), ArpMalformed),
    ];
    let mut rig = Rig::new("");
    for (name, frame, reason) in &cases {
        rig.drops_as(name, LAN, frame, *reason);
    }
    let whole = with(|_| ());
    for n in 14..42 {
        rig.drops_as(&format!("{n} bytes"), LAN, &whole[..n], ArpMalformed);
    }
    assert_eq!(arp_entry(&mut rig, "10.0.0.50"), None, "who does not ask for us is not remembered");
    rig.balance();
}

const LINK_LOCAL: &str = "fe80::ff:fe00:1";

#[test]
fn solicitations_are_answered_for_the_ports_own_addresses() {
    let mut rig = Rig::new("");
    let group = [0x33, 0x33, 0xff, 0, 0, 1];
    for (port, own, peer, source) in [
        (LAN, "fd00:0::1", "fd00:0::50", gw_mac(LAN)),
        (TAG, "fd00:2::1", "fd00:2::50", gw_mac(TAG)),
        (LAN, LINK_LOCAL, "fe80::50", gw_mac(LAN)),
    ] {
        let asked = nd(port, (PEER, peer), (group, "ff02::1:ff00:1"), (135, 0), own, Some(PEER));
        // Solicited and overriding, with our MAC address.
        let answer = nd(port, (source, own), (PEER, peer), (136, 0x60), own, Some(source));
        assert_same(&rig.pass(port, &asked, port), &answer);
        let alone = nd(port, (PEER, peer), (source, own), (135, 0), own, None);
        assert_same(&rig.pass(port, &alone, port), &answer);
    }
    // RFC 4862 section 5.4.3: somebody wants our address; all nodes are told.
    let probe = nd(LAN, (PEER, "::"), (group, "ff02::1:ff00:1"), (135, 0), "fd00::1", None);
    let answer = nd(
        LAN,
        (gw_mac(LAN), "fd00::1"),
        ([0x33, 0x33, 0, 0, 0, 1], "ff02::1"),
        (136, 0x20),
        "fd00::1",
        Some(gw_mac(LAN)),
    );
    assert_same(&rig.pass(LAN, &probe, LAN), &answer);
    rig.balance();
}

#[test]
fn discovery_that_is_not_answered() {
    use DropReason::*;
    let group = ([0x33, 0x33, 0xff, 0, 0, 1], "ff02::1:ff00:1");
    let peer = (PEER, "fd00::50");
    let us = (gw_mac(LAN), "fd00::1");
    let ask = |target| nd(LAN, peer, group, (135, 0), target, Some(PEER));
    let with = |change: fn(&mut Vec<u8>)| {
        let mut f = ask("fd00::1");
        change(&mut f);
        f
    };
    let cases = [
        ("for another", ask("fd00::77"), NdIgnored),
        ("for another port's address", ask("fd00:1::1"), NdIgnored),
        (
            "our address is claimed",
            nd(LAN, (PEER, "fd00::1"), group, (135, 0), "fd00::1", Some(PEER)),
            AddressConflict,
        ),
        ("our address is advertised", nd(LAN, peer, us, (136, 0x60), "fd00::1", Some(PEER)), AddressConflict),
        ("for a group", ask("ff02::1"), NdMalformed),
        ("hop limit 254", with(|f| f[21] = 254), NdMalformed),
        ("wrong checksum", with(|f| f[56] ^= 1), NdMalformed),
        ("code 1", with(|f| f[55] = 1), NdMalformed),
        ("option of length 0", with(|f| f[79] = 0), NdMalformed),
        ("to another station", nd(LAN, peer, (OTHER, "fd00::1"), (135, 0), "fd00::1", None), NotForUs),
        ("our own words", nd(LAN, us, group, (135, 0), "fd00::1", None), NdIgnored),
    ];
    let mut rig = Rig::new("");
    for (name, frame, reason) in &cases {
        let reason = if *name == "our own words" { AddressConflict } else { *reason };
        let reason = if frame[6..12] == gw_mac(LAN) { NdIgnored } else { reason };
        rig.drops_as(name, LAN, frame, reason);
    }
    let whole = ask("fd00::1");
    for n in 14..whole.len() {
        rig.drops_as(&format!("{n} bytes"), LAN, &whole[..n], IpTruncated);
    }
    assert_eq!(arp_entry(&mut rig, "fd00::50"), None);
    rig.balance();
}

fn numbered(port: u8, client: &str, listen: &str, n: u16) -> Vec<u8> {
    Packet::udp(port, client, listen, &n.to_be_bytes()).build()
}

fn numbers(frames: &[Vec<u8>]) -> Vec<u16> {
    frames.iter().map(|f| u16::from_be_bytes(read(f).payload.try_into().unwrap())).collect()
}

/// So few that every one is looked at ten times a second; of more, a part each time.
const FEW: &str = "[limits]\nneighbors = 64\n";

/// A flow to a host that has to be asked for.
fn unknown_target() -> Rig {
    let mut rig = Rig::new(FEW);
    rig.add(flow("arp", Proto::Udp, "10.0.0.1:5000", "10.1.0.9:6000", FROM));
    rig.add(flow("nd", Proto::Udp, "[fd00::1]:5000", "[fd00:2::9]:6000", "fd00::/64"));
    rig
}

fn asked_for(target: [u8; 4]) -> Vec<u8> {
    arp(WAN, ALL, 1, (gw_mac(WAN), [10, 1, 0, 1]), (NOBODY, target))
}

fn answer(mac: [u8; 6], address: [u8; 4]) -> Vec<u8> {
    arp(WAN, gw_mac(WAN), 2, (mac, address), (gw_mac(WAN), [10, 1, 0, 1]))
}

#[test]
fn packets_wait_for_arp_and_leave_in_order() {
    let mut rig = unknown_target();
    for n in 0..10 {
        rig.send(LAN, &[numbered(LAN, "10.0.0.2:4000", "10.0.0.1:5000", n)]);
    }
    assert_eq!(rig.take(WAN), [asked_for([10, 1, 0, 9])], "one question, from our address to everybody");
    assert_eq!((rig.stats().held, rig.stats().originated, rig.stats().sent), (10, 1, 0));
    assert_eq!(arp_entry(&mut rig, "10.1.0.9"), Some((None, "resolving".into())));
    // Not the one that was asked for: nothing happens.
    rig.drops_as("somebody else", WAN, &answer(OTHER, [10, 1, 0, 8]), DropReason::LocalArp);
    rig.send(WAN, &[answer(PEER, [10, 1, 0, 9])]);
    let sent = rig.take(WAN);
    assert_eq!(numbers(&sent), (0..10).collect::<Vec<_>>());
    assert!(sent.iter().all(|f| f[..6] == PEER && f[6..12] == gw_mac(WAN)));
    assert_eq!(rig.stats().held, 0);
    assert_eq!(arp_entry(&mut rig, "10.1.0.9"), Some((Some(text(PEER)), "reachable".into())));
    assert_eq!(numbers(&[rig.pass(LAN, &numbered(LAN, "10.0.0.2:4000", "10.0.0.1:5000", 10), WAN)]), [10]);
    rig.balance();
}

#[test]
fn packets_wait_for_neighbor_discovery_and_leave_in_order() {
    let mut rig = unknown_target();
    for n in 0..10 {
        rig.send(LAN, &[numbered(LAN, "[fd00::2]:4000", "[fd00::1]:5000", n)]);
    }
    let group = ([0x33, 0x33, 0xff, 0, 0, 9], "ff02::1:ff00:9");
    let us = (gw_mac(TAG), "fd00:2::1");
    assert_eq!(rig.take(TAG), [nd(TAG, us, group, (135, 0), "fd00:2::9", Some(gw_mac(TAG)))]);
    assert_eq!(rig.stats().held, 10);
    rig.send(TAG, &[nd(TAG, (PEER, "fd00:2::9"), us, (136, 0x60), "fd00:2::9", Some(PEER))]);
    let sent = rig.take(TAG);
    assert_eq!(numbers(&sent), (0..10).collect::<Vec<_>>());
    assert!(sent.iter().all(|f| f[..6] == PEER && f[12..16] == [0x81, 0, 0, 30]));
    rig.balance();
}

/// The way back waits as well: a client that has gone from everybody's memory is asked for.
#[test]
fn packets_wait_for_the_client() {
    let mut rig = Rig::new("");
    rig.add(flow("back", Proto::Udp, "10.0.0.1:5000", "10.1.0.2:6000", FROM));
    let first = Packet::udp(LAN, "10.0.0.50:4000", "10.0.0.1:5000", b"x");
    let source = read(&rig.pass(LAN, &first.build(), WAN)).src;
    let back = Packet::arriving(
        WAN,
        "10.1.0.2:6000".parse().unwrap(),
        source,
        Body::Udp { checksum: true },
        &[0, 7],
    );
    rig.send(WAN, &[back.build()]);
    assert_eq!(rig.take(LAN), [arp(LAN, ALL, 1, (gw_mac(LAN), [10, 0, 0, 1]), (NOBODY, PEER4))]);
    // The client asks for us in turn: that says enough.
    let asks = arp(LAN, ALL, 1, (PEER, PEER4), (NOBODY, [10, 0, 0, 1]));
    rig.send(LAN, &[asks]);
    let sent = rig.take(LAN);
    assert_eq!(sent.len(), 2);
    let (waited, answered) = sent.split_at(1);
    assert_eq!((numbers(waited), &waited[0][..6]), (vec![7], &PEER[..]));
    assert_eq!(answered, [arp(LAN, PEER, 2, (gw_mac(LAN), [10, 0, 0, 1]), (PEER, PEER4))]);
    rig.balance();
}

#[test]
fn a_bounded_number_waits() {
    let mut rig = unknown_target();
    let frames: Vec<_> = (0..100).map(|n| numbered(LAN, "10.0.0.2:4000", "10.0.0.1:5000", n)).collect();
    rig.send(LAN, &frames);
    assert_eq!((rig.stats().held, rig.drops()["neighbor_queue_full"]), (64, 36));
    // All next hops together: 512 packets.
    for host in 10..20 {
        rig.add(flow(
            &format!("f{host}"),
            Proto::Udp,
            &format!("10.0.0.1:{host}"),
            &format!("10.1.0.{host}:1"),
            FROM,
        ));
        let frames: Vec<_> =
            (0..60).map(|n| numbered(LAN, "10.0.0.2:4000", &format!("10.0.0.1:{host}"), n)).collect();
        rig.send(LAN, &frames);
    }
    assert_eq!((rig.stats().held, rig.drops()["neighbor_queue_full"]), (512, 36 + 600 - (512 - 64)));
    rig.take_any();
    rig.send(WAN, &[answer(PEER, [10, 1, 0, 9]), answer(OTHER, [10, 1, 0, 11])]);
    let sent = rig.take(WAN);
    assert_eq!(numbers(&sent[..64]), (0..64).collect::<Vec<_>>());
    assert_eq!(numbers(&sent[64..]), (0..60).collect::<Vec<_>>());
    assert!(sent[..64].iter().all(|f| f[..6] == PEER) && sent[64..].iter().all(|f| f[..6] == OTHER));
    assert_eq!(rig.stats().held, 512 - 124);
    rig.balance();
}

/// Three questions, a second apart; then what waits is given up, and for three seconds what comes as well.
#[test]
fn nobody_answers() {
    let mut rig = unknown_target();
    let frame = |n| numbered(LAN, "10.0.0.2:4000", "10.0.0.1:5000", n);
    rig.send(LAN, &[frame(0), frame(1)]);
    let mut asked = rig.take(WAN).len();
    for _ in 0..29 {
        rig.advance(100);
        let now = rig.take(WAN);
        assert!(now.iter().all(|f| *f == asked_for([10, 1, 0, 9])));
        asked += now.len();
    }
    assert_eq!((asked, rig.stats().held), (3, 2));
    for _ in 0..3 {
        rig.advance(100);
    }
    assert_eq!((rig.stats().held, rig.drops()["neighbor_failed"]), (0, 2));
    assert_eq!(arp_entry(&mut rig, "10.1.0.9"), Some((None, "failed".into())));
    rig.drops_as("held down", LAN, &frame(2), DropReason::NeighborFailed);
    assert!(rig.take(WAN).is_empty());
    rig.advance(3100);
    rig.send(LAN, &[frame(3)]);
    assert_eq!(rig.take(WAN), [asked_for([10, 1, 0, 9])], "asked again");
    rig.send(WAN, &[answer(PEER, [10, 1, 0, 9])]);
    assert_eq!(numbers(&rig.take(WAN)), [3]);
    rig.balance();
}

/// Who was given up and then is heard of is used at once.
#[test]
fn the_dead_may_rise() {
    let mut rig = unknown_target();
    rig.send(LAN, &[numbered(LAN, "10.0.0.2:4000", "10.0.0.1:5000", 0)]);
    for _ in 0..35 {
        rig.advance(100);
    }
    assert_eq!(rig.drops()["neighbor_failed"], 1);
    rig.take_any();
    rig.send(WAN, &[arp(WAN, ALL, 1, (PEER, [10, 1, 0, 9]), (NOBODY, [10, 1, 0, 9]))]);
    assert_eq!(rig.pass(LAN, &numbered(LAN, "10.0.0.2:4000", "10.0.0.1:5000", 1), WAN)[..6], PEER);
}

fn router() -> Rig {
    // The router of the WAN is not among those known.
    let known = neighbors().replace("address = \"10.1.0.254\"", "address = \"10.1.0.200\"");
    let mut rig = Rig::with(&format!("{FEW}[timers]\nneighbor = 60\nudp = 1000\n{PORTS}\n{known}"), 1, 4096);
    rig.add(flow("far", Proto::Udp, "10.0.0.1:5000", "192.168.3.4:6000", FROM));
    rig.send(LAN, &[numbered(LAN, "10.0.0.2:4000", "10.0.0.1:5000", 0)]);
    assert_eq!(rig.take(WAN), [asked_for([10, 1, 0, 254])]);
    rig.send(WAN, &[answer(PEER, [10, 1, 0, 254])]);
    assert_eq!(rig.take(WAN)[0][..6], PEER);
    rig
}

fn next(rig: &mut Rig) -> Vec<u8> {
    rig.pass(LAN, &numbered(LAN, "10.0.0.2:4000", "10.0.0.1:5000", 0), WAN)[..6].to_vec()
}

/// A standby router takes over and says so to everybody; it is believed at once and asked soon.
#[test]
fn a_router_changes_by_gratuitous_arp() {
    for op in [1, 2] {
        let mut rig = router();
        rig.advance(5000);
        assert!(rig.take(WAN).is_empty(), "a fresh answer is good for a minute");
        rig.send(WAN, &[arp(WAN, ALL, op, (OTHER, [10, 1, 0, 254]), (ALL, [10, 1, 0, 254]))]);
        assert_eq!(next(&mut rig), OTHER);
        rig.advance(200);
        let probe = arp(WAN, OTHER, 1, (gw_mac(WAN), [10, 1, 0, 1]), (NOBODY, [10, 1, 0, 254]));
        assert_eq!(rig.take(WAN), [probe]);
        rig.send(WAN, &[answer(OTHER, [10, 1, 0, 254])]);
        rig.advance(5000);
        assert!(rig.take(WAN).is_empty(), "it answered");
        assert_eq!(next(&mut rig), OTHER);
        rig.balance();
    }
}

/// A router goes without a word and another takes its address: the old one is probed, then everybody is asked.
#[test]
fn a_router_changes_by_probe() {
    let mut rig = router();
    let probe = arp(WAN, PEER, 1, (gw_mac(WAN), [10, 1, 0, 1]), (NOBODY, [10, 1, 0, 254]));
    rig.advance(59_000);
    assert!(rig.take(WAN).is_empty());
    let mut probes = 0;
    for _ in 0..36 {
        rig.advance(100);
        for asked in rig.take(WAN) {
            assert_eq!(asked, probe);
            probes += 1;
        }
        // Meanwhile the old address serves.
        assert_eq!(next(&mut rig), PEER);
    }
    assert_eq!(probes, 3);
    for _ in 0..10 {
        rig.advance(100);
    }
    assert_eq!(rig.take(WAN), [asked_for([10, 1, 0, 254])]);
    rig.send(LAN, &[numbered(LAN, "10.0.0.2:4000", "10.0.0.1:5000", 8)]);
    assert_eq!((rig.take(WAN).len(), rig.stats().held), (0, 1));
    rig.send(WAN, &[answer(OTHER, [10, 1, 0, 254])]);
    let sent = rig.take(WAN);
    assert_eq!((numbers(&sent), &sent[0][..6]), (vec![8], &OTHER[..]));
    assert_eq!(next(&mut rig), OTHER);
    rig.balance();
}

/// A probe that is answered, by whatever MAC address, ends the probing.
#[test]
fn a_probe_is_answered() {
    for mac in [PEER, OTHER] {
        let mut rig = router();
        rig.advance(60_100);
        assert_eq!(rig.take(WAN).len(), 1);
        rig.send(WAN, &[answer(mac, [10, 1, 0, 254])]);
        assert_eq!(next(&mut rig), mac);
        rig.advance(30_000);
        assert!(rig.take(WAN).is_empty());
    }
}

#[test]
fn a_static_neighbor_is_neither_asked_nor_heard() {
    let mut rig = Rig::new("[timers]\nneighbor = 1");
    rig.add(flow("known", Proto::Udp, "10.0.0.1:5000", "10.1.0.2:6000", FROM));
    let mine = mac4([10, 1, 0, 2]);
    assert_eq!(next(&mut rig), mine);
    rig.send(WAN, &[arp(WAN, ALL, 1, (OTHER, [10, 1, 0, 2]), (NOBODY, [10, 1, 0, 2]))]);
    rig.send(WAN, &[answer(OTHER, [10, 1, 0, 2])]);
    assert_eq!(next(&mut rig), mine);
    for _ in 0..20 {
        rig.advance(1000);
    }
    assert_eq!(next(&mut rig), mine);
    assert_eq!(rig.stats().originated, 0);
    assert_eq!(arp_entry(&mut rig, "10.1.0.2"), Some((Some(text(mine)), "static".into())));
    assert_eq!(since(&Default::default(), &rig.drops()), [("local_arp".to_owned(), 2)].into());
    rig.balance();
}

/// Twenty are known and there is room for one more.
fn crowded() -> Rig {
    let mut rig = Rig::new("[limits]\nneighbors = 21");
    for host in 9..12 {
        rig.add(flow(
            &format!("f{host}"),
            Proto::Udp,
            &format!("10.0.0.1:{host}"),
            &format!("10.1.0.{host}:1"),
            FROM,
        ));
    }
    rig
}

#[test]
fn what_waits_goes_with_its_flow() {
    let mut rig = Rig::new("");
    for port in [1, 2] {
        let (listen, target) = (format!("10.0.0.1:{port}"), format!("10.1.0.9:{port}"));
        rig.add(flow(&format!("f{port}"), Proto::Udp, &listen, &target, FROM));
        rig.send(LAN, &[numbered(LAN, "10.0.0.2:1", &listen, port)]);
    }
    assert_eq!(rig.stats().held, 2);
    rig.delete("f1");
    rig.take_any();
    rig.send(WAN, &[answer(PEER, [10, 1, 0, 9])]);
    assert_eq!(numbers(&rig.take(WAN)), [2]);
    assert_eq!(rig.stats().held, 0);
    rig.balance();
}

#[test]
fn a_full_neighbor_table_harms_nobody() {
    let mut rig = crowded();
    rig.send(LAN, &[numbered(LAN, "10.0.0.2:1", "10.0.0.1:9", 0)]);
    rig.send(WAN, &[answer(PEER, [10, 1, 0, 9])]);
    assert_eq!(rig.take(WAN).len(), 2);
    let frame = numbered(LAN, "10.0.0.2:1", "10.0.0.1:10", 0);
    rig.drops_as("no room", LAN, &frame, DropReason::NeighborTableFull);
    assert_eq!((rig.flow("f10").connections, rig.flow("f10").refused), (0, 1));
    // Nor is there room for who merely asks; but an answer needs none.
    rig.pass(LAN, &arp(LAN, ALL, 1, (OTHER, PEER4), (NOBODY, [10, 0, 0, 1])), LAN);
    assert_eq!(arp_entry(&mut rig, "10.0.0.50"), None);
    assert_eq!(rig.pass(LAN, &numbered(LAN, "10.0.0.2:1", "10.0.0.1:9", 1), WAN)[..6], PEER);
    // When the first is not needed any more, the next has its place.
    rig.delete("f9");
    rig.advance(3000);
    rig.send(LAN, &[frame]);
    rig.send(WAN, &[answer(OTHER, [10, 1, 0, 10])]);
    let sent = rig.take(WAN);
    assert_eq!((sent[0].clone(), &sent[1][..6]), (asked_for([10, 1, 0, 10]), &OTHER[..]));
    rig.balance();
}

/// What waited for a next hop whose place is then another's must not be sent to that one.
#[test]
fn what_waits_goes_to_nobody_else() {
    let mut rig = crowded();
    rig.send(LAN, &[numbered(LAN, "10.0.0.2:1", "10.0.0.1:9", 1)]);
    rig.send(LAN, &[numbered(LAN, "10.0.0.2:1", "10.0.0.1:9", 2)]);
    assert_eq!(rig.stats().held, 2);
    rig.delete("f9");
    rig.take_any();
    rig.send(LAN, &[numbered(LAN, "10.0.0.2:1", "10.0.0.1:9", 3)]);
    assert_eq!(rig.drops(), [("neighbor_failed".to_owned(), 2), ("no_flow".to_owned(), 1)].into());
    assert_eq!(rig.stats().held, 0);
    rig.send(LAN, &[numbered(LAN, "10.0.0.2:1", "10.0.0.1:10", 4)]);
    rig.take_any();
    rig.send(WAN, &[answer(OTHER, [10, 1, 0, 10])]);
    assert_eq!(numbers(&rig.take(WAN)), [4]);
    rig.balance();
}

/// What a router of the next port's network says of itself, over IPv6.
fn router6() -> Rig {
    let mut rig = unknown_target();
    rig.send(LAN, &[numbered(LAN, "[fd00::2]:4000", "[fd00::1]:5000", 0)]);
    rig.take_any();
    rig.send(TAG, &[advertised(PEER, 0x60, US6)]);
    assert_eq!(rig.take(TAG)[0][..6], PEER);
    rig
}

const US6: ([u8; 6], &str) = ([2, 0, 0, 0, 0, TAG + 1], "fd00:2::1");
const ALL6: ([u8; 6], &str) = ([0x33, 0x33, 0, 0, 0, 1], "ff02::1");

fn advertised(mac: [u8; 6], flags: u8, to: ([u8; 6], &str)) -> Vec<u8> {
    nd(TAG, (mac, "fd00:2::9"), to, (136, flags), "fd00:2::9", Some(mac))
}

fn next6(rig: &mut Rig) -> Vec<u8> {
    rig.pass(LAN, &numbered(LAN, "[fd00::2]:4000", "[fd00::1]:5000", 0), TAG)[..6].to_vec()
}

/// RFC 4861 section 7.2.5: what overrides is believed at once and asked soon, what does not is not believed.
#[test]
fn a_next_hop_changes_by_unsolicited_advertisement() {
    let mut rig = router6();
    rig.send(TAG, &[advertised(OTHER, 0, ALL6)]);
    assert_eq!(next6(&mut rig), PEER, "without the override flag");
    rig.send(TAG, &[advertised(OTHER, 0x20, ALL6)]);
    assert_eq!(next6(&mut rig), OTHER);
    rig.advance(200);
    let probe = nd(TAG, US6, (OTHER, "fd00:2::9"), (135, 0), "fd00:2::9", Some(gw_mac(TAG)));
    assert_eq!(rig.take(TAG), [probe]);
    rig.send(TAG, &[advertised(OTHER, 0x60, US6)]);
    rig.advance(5000);
    assert!(rig.take(TAG).is_empty(), "it answered");
    rig.balance();
}

/// RFC 4861 section 7.3.3: nobody said a word, but the old MAC address answers no more.
#[test]
fn a_next_hop_changes_silently_over_ipv6() {
    let mut rig = router6();
    rig.advance(59_000);
    assert!(rig.take(TAG).is_empty());
    let probe = nd(TAG, US6, (PEER, "fd00:2::9"), (135, 0), "fd00:2::9", Some(gw_mac(TAG)));
    let group = ([0x33, 0x33, 0xff, 0, 0, 9], "ff02::1:ff00:9");
    let everybody = nd(TAG, US6, group, (135, 0), "fd00:2::9", Some(gw_mac(TAG)));
    let mut asked = Vec::new();
    for _ in 0..45 {
        rig.advance(100);
        asked.extend(rig.take(TAG));
    }
    assert_eq!(asked, [probe.clone(), probe.clone(), probe, everybody]);
    rig.send(LAN, &[numbered(LAN, "[fd00::2]:4000", "[fd00::1]:5000", 8)]);
    assert_eq!(rig.stats().held, 1);
    rig.send(TAG, &[advertised(OTHER, 0x60, US6)]);
    let sent = rig.take(TAG);
    assert_eq!((numbers(&sent), &sent[0][..6]), (vec![8], &OTHER[..]));
    assert_eq!(next6(&mut rig), OTHER);
    rig.balance();
}

/// Each flow has a next hop of its own on the same port: what one of them does is nothing to the others.
#[test]
fn next_hops_of_one_port_do_not_wait_for_each_other() {
    let mut rig = Rig::new(FEW);
    let mac = |host: u8| [2, 9, 9, 9, 9, host];
    let frame = |host: u8, n| numbered(LAN, "10.0.0.2:4000", &format!("10.0.0.1:{host}"), n);
    for host in 10..14 {
        let (listen, target) = (format!("10.0.0.1:{host}"), format!("10.1.0.{host}:1"));
        rig.add(flow(&format!("f{host}"), Proto::Udp, &listen, &target, FROM));
        rig.send(LAN, &[frame(host, 0)]);
        assert_eq!(rig.take(WAN), [asked_for([10, 1, 0, host])]);
    }
    // The first never answers, and has a queue that is full.
    rig.send(LAN, &(0..100).map(|n| frame(10, n)).collect::<Vec<_>>());
    for host in 11..14 {
        rig.send(WAN, &[answer(mac(host), [10, 1, 0, host])]);
        let sent = rig.take(WAN);
        assert_eq!((sent.len(), &sent[0][..6]), (1, &mac(host)[..]));
    }
    for n in 0..50 {
        rig.advance(100);
        rig.take_any();
        for host in 11..14 {
            assert_eq!(rig.pass(LAN, &frame(host, n), WAN)[..6], mac(host));
        }
    }
    assert_eq!((rig.stats().held, rig.drops()["neighbor_failed"]), (0, 64));
    rig.balance();
}

/// A stream to a next hop that is gone for good: what waits is bounded, everything else a counted drop.
#[test]
fn a_dead_next_hop_is_counted_drops_and_no_growing_queue() {
    let mut rig = unknown_target();
    let (mut sent, mut most) = (0, 0);
    for _ in 0..300 {
        let burst: Vec<_> = (0..20).map(|n| numbered(LAN, "10.0.0.2:4000", "10.0.0.1:5000", n)).collect();
        sent += burst.len() as u64;
        rig.send(LAN, &burst);
        rig.advance(100);
        rig.take_any();
        most = most.max(rig.stats().held);
    }
    let drops = rig.drops();
    assert_eq!(most, 64);
    assert_eq!(drops.values().sum::<u64>() + rig.stats().held, sent);
    assert_eq!(drops.keys().collect::<Vec<_>>(), ["neighbor_failed", "neighbor_queue_full"]);
    // Asked three times in six seconds, whatever the rate.
    assert!((12..=18).contains(&rig.stats().originated), "{}", rig.stats().originated);
    rig.balance();
}

/// The forwarder answers for its own addresses on the port they belong to, and for nobody else: not for hosts behind it, not for
/// its other ports, not for the ends of its connections.
#[test]
fn nothing_is_answered_by_proxy() {
    let mut rig = Rig::new("");
    rig.add(flow("open", Proto::Udp, "10.0.0.1:5000", "10.1.0.2:6000", FROM));
    rig.add(flow("open6", Proto::Udp, "[fd00::1]:5000", "[fd00:1::2]:6000", "fd00::/64"));
    rig.open(Proto::Udp, LAN, "10.0.0.2:4000", "10.0.0.1:5000", WAN, "10.1.0.2:6000");
    rig.open(Proto::Udp, LAN, "[fd00::2]:4000", "[fd00::1]:5000", WAN, "[fd00:1::2]:6000");
    let before = rig.stats().sent;
    for port in [LAN, WAN] {
        for net in 0..4u8 {
            for host in [1, 2, 3, 9, 254] {
                if (net, host) == (port, 1) {
                    continue;
                }
                let (asker, asker6) = ([10, port, 0, 50], format!("fd00:{port}::50"));
                for spa in [asker, [0; 4]] {
                    rig.send(port, &[arp(port, ALL, 1, (PEER, spa), (NOBODY, [10, net, 0, host]))]);
                    rig.send(port, &[arp(port, gw_mac(port), 1, (PEER, spa), (NOBODY, [10, net, 0, host]))]);
                }
                let last = format!("{host:x}");
                let group = ([0x33, 0x33, 0xff, 0, 0, host], format!("ff02::1:ff00:{last}"));
                let target = format!("fd00:{net}::{last}");
                for (src, mac) in [(asker6.as_str(), Some(PEER)), ("::", None)] {
                    rig.send(port, &[nd(port, (PEER, src), (group.0, &group.1), (135, 0), &target, mac)]);
                }
            }
        }
    }
    assert_eq!(rig.take_any(), []);
    assert_eq!((rig.stats().sent, rig.stats().originated), (before, 0));
    rig.balance();
}

const SPEAKS: &str = "[addresses]\ncheck = \"quick\"";

/// What the forwarder says of its own addresses: gratuitous ARP, unsolicited advertisement that overrides.
fn announced4(port: u8) -> Vec<u8> {
    let own = [10, port, 0, 1];
    arp(port, ALL, 1, (gw_mac(port), own), (NOBODY, own))
}

fn announced6(port: u8, own: &str) -> Vec<u8> {
    nd(port, (gw_mac(port), own), ALL6, (136, 0x20), own, Some(gw_mac(port)))
}

/// RFC 5227 section 2.3, RFC 4861 section 7.2.6. By one worker, however many there are.
#[test]
fn own_addresses_are_announced_after_the_start() {
    for workers in [1, 2] {
        let text = format!("{SPEAKS}\n{PORTS}\n{}", neighbors());
        let mut rig = Rig::with(&text, workers, 4096);
        let mut said: Vec<(u32, u8, Vec<u8>)> = Vec::new();
        for tick in 1..=100 {
            rig.advance(100);
            said.extend(rig.take_any().into_iter().map(|(port, frame)| (tick * 100, port, frame)));
        }
        for port in [LAN, WAN, TAG] {
            let times = |frame: Vec<u8>| -> Vec<u32> {
                said.iter().filter(|(_, p, f)| (*p, f) == (port, &frame)).map(|(at, ..)| *at).collect()
            };
            assert_eq!(times(announced4(port)), [100, 2100]);
            assert_eq!(times(announced6(port, &format!("fd00:{port}::1"))), [100, 1100, 2100]);
            let local = forwarder::net::link_local(forwarder::wire::Mac(gw_mac(port))).to_string();
            assert_eq!(times(announced6(port, &local)), [100, 1100, 2100]);
        }
        let stats = rig.stats();
        assert_eq!((said.len(), stats.originated, stats.sent), (4 * 8, 4 * 8, 0));
        rig.balance();
    }
}

#[test]
fn without_the_check_nothing_is_announced_or_defended() {
    let mut rig = Rig::new("[addresses]\ncheck = \"off\"");
    let own = [10, 0, 0, 1];
    for _ in 0..50 {
        rig.advance(100);
        rig.send(LAN, &[arp(LAN, ALL, 1, (OTHER, own), (NOBODY, own))]);
    }
    assert_eq!((rig.take_any(), rig.stats().originated), (vec![], 0));
    assert_eq!(rig.drops()["address_conflict"], 50);
    rig.balance();
}

fn conflicts(rig: &mut Rig) -> Vec<(String, String, u64)> {
    let Ok(Reply::Ports { ports }) = rig.ask(Request::PortList) else { panic!() };
    let all = ports.into_iter().flat_map(|p| p.conflicts);
    all.map(|c| (c.address.to_string(), c.mac, c.times)).collect()
}

/// RFC 5227 section 2.4 (c): said once in ten seconds, so that two who both defend an address make no storm.
#[test]
fn an_address_that_another_claims_is_defended_now_and_then() {
    let own = [10, 0, 0, 1];
    let cases = [
        ("10.0.0.1", arp(LAN, ALL, 1, (OTHER, own), (NOBODY, own)), announced4(LAN)),
        ("10.0.0.1", arp(LAN, gw_mac(LAN), 2, (OTHER, own), (gw_mac(LAN), [10, 0, 0, 9])), announced4(LAN)),
        (
            "fd00::1",
            nd(LAN, (OTHER, "fd00::1"), ALL6, (136, 0x20), "fd00::1", Some(OTHER)),
            announced6(LAN, "fd00::1"),
        ),
    ];
    for (address, claim, defence) in cases {
        let mut rig = Rig::new(SPEAKS);
        for _ in 0..50 {
            rig.advance(100);
        }
        rig.take_any();
        let before = rig.stats().originated;
        let mut said = Vec::new();
        for n in 0..250 {
            rig.send(LAN, std::slice::from_ref(&claim));
            said.extend(rig.take_any().into_iter().map(|(port, frame)| (n * 100, port, frame)));
            rig.advance(100);
        }
        assert_eq!(said, [0, 10_000, 20_000].map(|at| (at, LAN, defence.clone())));
        assert_eq!((rig.stats().originated - before, rig.drops()["address_conflict"]), (3, 250));
        assert_eq!(conflicts(&mut rig), [(address.to_owned(), text(OTHER), 250)]);
        // It is still ours.
        let asked = arp(LAN, ALL, 1, (PEER, PEER4), (NOBODY, own));
        assert_same(&rig.pass(LAN, &asked, LAN), &arp(LAN, PEER, 2, (gw_mac(LAN), own), (PEER, PEER4)));
        rig.balance();
    }
}

/// Who asks before taking an address is answered, every time; that is defence enough.
#[test]
fn an_address_that_another_probes_is_only_answered() {
    let mut rig = Rig::new("[addresses]\ncheck = \"rfc5227\"");
    for _ in 0..50 {
        rig.advance(100);
    }
    rig.take_any();
    let own = [10, 0, 0, 1];
    let group = ([0x33, 0x33, 0xff, 0, 0, 1], "ff02::1:ff00:1");
    for _ in 0..3 {
        let probe = arp(LAN, ALL, 1, (OTHER, [0; 4]), (NOBODY, own));
        assert_same(&rig.pass(LAN, &probe, LAN), &arp(LAN, OTHER, 2, (gw_mac(LAN), own), (OTHER, [0; 4])));
        let probe = nd(LAN, (OTHER, "::"), group, (135, 0), "fd00::1", None);
        assert_same(&rig.pass(LAN, &probe, LAN), &announced6(LAN, "fd00::1"));
    }
    let expected = [("10.0.0.1".to_owned(), text(OTHER), 3), ("fd00::1".to_owned(), text(OTHER), 3)];
    assert_eq!(conflicts(&mut rig), expected);
    rig.balance();
}
