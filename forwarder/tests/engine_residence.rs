//! Residence times: a lone packet leaves in the turn it came in, and what stays longer is told, by worker and by flow.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::packet::{Body, Packet, arp, gw_mac};
use common::{Conn, LAN, Rig, SMALL, TAG, WAN, flow};
use forwarder::api::{Proto, Residence};
use forwarder::residence::EVERY;

const CLIENT: &str = "10.0.0.2:4000";
const LISTEN: &str = "10.0.0.1:5000";
const TARGET: &str = "10.1.0.2:6000";
const FROM: &str = "10.0.0.0/24";

fn udp() -> Body {
    Body::Udp { checksum: true }
}

fn rig() -> (Rig, Conn) {
    let mut rig = Rig::new("[limits]\nflows = 1\n");
    rig.add(flow("one", Proto::Udp, LISTEN, TARGET, FROM));
    let conn = rig.open(Proto::Udp, LAN, CLIENT, LISTEN, WAN, TARGET);
    (rig, conn)
}

fn worker(rig: &Rig) -> Residence {
    rig.stats().workers[0].residence.clone()
}

/// Of flow `one`; none when it is not listed.
fn of_flow(rig: &Rig) -> Option<Residence> {
    let stats = rig.stats();
    assert!(stats.flows.len() <= 1 && stats.flows.iter().all(|f| f.flow == "one"), "{:?}", stats.flows);
    stats.flows.first().map(|f| f.residence.clone())
}

/// One packet in, one turn, one packet out: whatever it is, and whichever port comes first.
#[test]
fn a_lone_packet_leaves_in_the_turn_it_came_in() {
    let mut rig = Rig::new("");
    for (port, out) in [(LAN, WAN), (WAN, LAN), (LAN, TAG), (TAG, SMALL)] {
        let name = format!("{port}-{out}");
        let listen = format!("10.{port}.0.1:5{out}00");
        let target = format!("10.{out}.0.2:6000");
        rig.add(flow(&name, Proto::Udp, &listen, &target, &format!("10.{port}.0.0/24")));
        let conn = rig.open(Proto::Udp, port, &format!("10.{port}.0.2:4000"), &listen, out, &target);
        let with_options = Packet { ip_options: vec![1; 4], ..conn.by_client(udp(), b"options") };
        for (way_in, packet, way_out, expected) in [
            (port, conn.by_client(udp(), b"there"), out, conn.forward(&conn.by_client(udp(), b"there"))),
            (out, conn.by_target(udp(), b"back"), port, conn.back(&conn.by_target(udp(), b"back"))),
            (port, with_options.clone(), out, conn.forward(&with_options)),
        ] {
            rig.inject_at(0, way_in, &packet.build());
            assert_eq!(rig.workers[0].turn(), 1);
            assert_eq!(rig.take_any(), [(way_out, expected.build())], "{name}");
        }
    }
    rig.balance();
}

#[test]
fn one_burst_in_many_is_timed_and_the_first_of_a_millisecond() {
    let (mut rig, conn) = rig();
    // The first burst of all. Its connection was not known before it, so the flow has no part in it.
    assert_eq!((worker(&rig).samples, of_flow(&rig)), (1, None));
    let send = |rig: &mut Rig, bursts: u32| {
        for n in 0..bursts {
            // Both ways count, and a burst counts once however many packets it has.
            let frame =
                if n % 2 == 0 { conn.by_client(udp(), b"") } else { conn.by_target(udp(), b"") }.build();
            rig.inject_at(0, if n % 2 == 0 { LAN } else { WAN }, &frame);
            rig.inject_at(0, if n % 2 == 0 { LAN } else { WAN }, &frame);
            rig.workers[0].turn();
            assert_eq!(rig.take_any().len(), 2);
        }
        worker(rig).samples
    };
    assert_eq!(send(&mut rig, EVERY - 1), 1);
    assert_eq!(send(&mut rig, 1), 2);
    assert_eq!(send(&mut rig, 10 * EVERY), 12);
    assert_eq!(send(&mut rig, 5), 12);
    for n in 0..20 {
        rig.clock.advance(1);
        assert_eq!(send(&mut rig, 3), 13 + n);
    }
    let flow = of_flow(&rig).unwrap();
    assert_eq!(flow.samples, 31);
    // The clock of this test stands still within a turn.
    assert_eq!((flow.max_ns, flow.buckets), (0, vec![(0, 31)]));
    rig.balance();
}

/// What a device does not take stays timed until it does; the time is told whole.
#[test]
fn packets_held_back_are_timed_until_they_leave() {
    let (mut rig, conn) = rig();
    let there = |rig: &mut Rig, n: u8| {
        rig.inject_at(0, LAN, &conn.by_client(udp(), &[n]).build());
        rig.workers[0].turn();
    };
    rig.ios[0].set_tx_room(WAN, 0);
    // Two of them are in the batch before the one that is timed.
    there(&mut rig, 0);
    there(&mut rig, 1);
    rig.clock.advance(1);
    rig.workers[0].turn();
    there(&mut rig, 2);
    // Behind it come others, which are not timed meanwhile, at no millisecond.
    for n in 3..10 {
        rig.clock.advance(10);
        there(&mut rig, n);
    }
    assert_eq!((worker(&rig).samples, of_flow(&rig)), (1, None));
    rig.ios[0].set_tx_room(WAN, 2);
    rig.clock.advance(30);
    rig.workers[0].turn();
    assert_eq!((rig.take(WAN).len(), worker(&rig).samples), (2, 1), "the two before it have left");
    rig.ios[0].set_tx_room(WAN, 1);
    rig.workers[0].turn();
    assert_eq!(rig.take(WAN).len(), 1);
    // 100 ms, told at most a quarter too long.
    let whole = 100_000_000..=125_000_000;
    for residence in [worker(&rig), of_flow(&rig).unwrap()] {
        assert!(whole.contains(&residence.max_ns), "{residence:?}");
    }
    assert_eq!((worker(&rig).samples, worker(&rig).p50_ns), (2, 0));
    // Other ports go on, and are timed again.
    rig.clock.advance(1);
    rig.relays_both(&conn, false, udp(), b"back");
    assert_eq!(worker(&rig).samples, 3);
    rig.ios[0].set_tx_room(WAN, usize::MAX);
    rig.turn();
    assert_eq!(rig.take(WAN).len(), 7);
    rig.balance();
}

#[test]
fn packets_that_wait_for_a_next_hop_are_all_told() {
    let mut rig = Rig::new("");
    rig.add(flow("one", Proto::Udp, LISTEN, "10.1.0.9:6000", FROM));
    for n in 0..4 {
        rig.send(LAN, &[Packet::udp(LAN, CLIENT, LISTEN, &[n]).build()]);
        rig.advance(10);
    }
    // Nothing but our own question has been sent.
    assert_eq!((rig.stats().held, rig.take(WAN).len(), worker(&rig).samples), (4, 1, 0));
    assert_eq!(rig.stats().workers[0].waits, Residence::default());
    let (peer, us) = (([2, 9, 9, 9, 9, 9], [10, 1, 0, 9]), (gw_mac(WAN), [10, 1, 0, 1]));
    rig.send(WAN, &[arp(WAN, us.0, 2, peer, us)]);
    assert_eq!(rig.take(WAN).len(), 4);
    let waits = rig.stats().workers[0].waits.clone();
    assert_eq!(waits.samples, 4);
    // 10, 20, 30 and 40 ms.
    for (told, truth) in
        [(waits.p50_ns, 20), (waits.p90_ns, 40), (waits.max_ns, 40), (waits.buckets[0].0, 10)]
    {
        let truth = truth * 1_000_000;
        assert!((truth..=truth * 5 / 4).contains(&told), "{waits:?}");
    }
    rig.balance();
}

#[test]
fn what_is_dropped_has_no_residence_time() {
    let (mut rig, _) = rig();
    for n in 0..10 {
        rig.clock.advance(1);
        rig.send(LAN, &[Packet::udp(LAN, &format!("10.9.0.2:{}", 4000 + n), LISTEN, b"").build()]);
    }
    assert_eq!((rig.drops().values().sum::<u64>(), worker(&rig).samples), (10, 1));
    rig.balance();
}

/// A flow that takes another one's place begins anew.
#[test]
fn a_flow_has_its_own_times_only() {
    let (mut rig, conn) = rig();
    rig.clock.advance(1);
    rig.relays_both(&conn, true, udp(), b"");
    assert_eq!(of_flow(&rig).unwrap().samples, 1);
    rig.delete("one");
    assert_eq!(of_flow(&rig), None);
    rig.add(flow("one", Proto::Udp, LISTEN, TARGET, FROM));
    assert_eq!(of_flow(&rig), None);
    let conn = rig.open(Proto::Udp, LAN, CLIENT, LISTEN, WAN, TARGET);
    for n in 1..4 {
        rig.clock.advance(1);
        rig.relays_both(&conn, false, udp(), b"");
        assert_eq!(of_flow(&rig).unwrap().samples, n);
    }
    rig.balance();
}
