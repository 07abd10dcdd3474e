//! What the relay knows of TCP (RFC 5382, RFC 7857, RFC 5961), and what it changes of it: the segment size that a SYN announces,
//! when its flow says so, and nothing else. Packet in, packet out, with a clock that the test turns.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::packet::{ACK, Body, FIN, PSH, Packet, RST, SYN, addr, read, tcp};
use common::{Conn, LAN, Rig, SMALL, WAN, flow};
use forwarder::api::{FlowSpec, MssClamp, Proto};
use forwarder::engine::DropReason;

const LISTEN: &str = "10.0.0.1:5000";
const TARGET: &str = "10.1.0.2:6000";
const CLIENT: &str = "10.0.0.2:4000";
const FROM: &str = "10.0.0.0/24";
const MINUTE: u64 = 60_000;

fn rig() -> Rig {
    let mut rig = Rig::new("");
    rig.add(flow("tcp", Proto::Tcp, LISTEN, TARGET, FROM));
    rig
}

/// The rest of the clock's work is done in rounds of about two seconds.
fn pass(rig: &mut Rig, ms: u64) {
    for _ in 0..ms / 1000 {
        rig.advance(1000);
    }
    rig.advance(ms % 1000);
}

fn state(rig: &mut Rig) -> String {
    match &rig.connections()[..] {
        [one] => one.state.clone(),
        other => panic!("{other:?}"),
    }
}

fn established(rig: &mut Rig) -> Conn {
    let conn = rig.establish(LAN, CLIENT, LISTEN, WAN, TARGET);
    assert_eq!(state(rig), "established");
    conn
}

/// RFC 5382 REQ-5: two hours and four minutes.
#[test]
fn an_established_connection_lives_for_two_hours_and_four_minutes_of_silence() {
    let mut rig = rig();
    let conn = established(&mut rig);
    pass(&mut rig, 123 * MINUTE);
    rig.relays_both(&conn, false, tcp(ACK), b"keepalive");
    pass(&mut rig, 125 * MINUTE);
    assert!(rig.connections().is_empty());
    rig.balance();
}

/// RFC 5382 REQ-5, REQ-2 and RFC 7857 section 2.1: four minutes, whatever is missing of the handshake or comes after the farewell.
#[test]
fn a_connection_that_opens_or_closes_lives_for_four_minutes() {
    for (name, exchange) in [
        ("opening", &[][..]),
        (
            "closing",
            &[
                (false, SYN | ACK),
                (true, ACK),
                (true, FIN | ACK),
                (false, ACK),
                (false, FIN | ACK),
                (true, ACK),
            ],
        ),
        ("closing", &[(false, SYN | ACK), (true, ACK), (false, RST | ACK)]),
    ] {
        let mut rig = rig();
        let conn = rig.open(Proto::Tcp, LAN, CLIENT, LISTEN, WAN, TARGET);
        for (from_client, flags) in exchange {
            rig.relays_both(&conn, *from_client, tcp(*flags), b"");
        }
        assert_eq!(state(&mut rig), name);
        pass(&mut rig, 4 * MINUTE - 3000);
        assert_eq!(state(&mut rig), name, "{exchange:?}");
        pass(&mut rig, 6000);
        assert!(rig.connections().is_empty(), "{exchange:?}");
    }
}

/// One side has said farewell; the other may go on for as long as it likes.
#[test]
fn half_closed_is_established() {
    let mut rig = rig();
    let conn = established(&mut rig);
    rig.relays_both(&conn, true, tcp(FIN | ACK), b"");
    pass(&mut rig, 60 * MINUTE);
    assert_eq!(state(&mut rig), "established");
    rig.relays_both(&conn, false, tcp(PSH | ACK), b"data after the client's farewell");
    rig.balance();
}

/// RFC 5961, RFC 7857 section 2.2: a reset that its receiver did not believe ends nothing. It is passed on, four minutes begin, and
/// what follows a second later brings the two hours back.
#[test]
fn a_connection_outlives_a_forged_reset() {
    for from_client in [true, false] {
        let mut rig = rig();
        let conn = established(&mut rig);
        pass(&mut rig, 10 * MINUTE);
        rig.relays_both(&conn, from_client, tcp(RST), b"");
        assert_eq!(state(&mut rig), "closing");
        // What was under way when the reset came says nothing.
        rig.relays_both(&conn, !from_client, tcp(ACK), b"under way");
        pass(&mut rig, 5000);
        assert_eq!(state(&mut rig), "closing");
        rig.relays_both(&conn, !from_client, tcp(ACK), b"I live");
        pass(&mut rig, 5000);
        assert_eq!(state(&mut rig), "established");
        pass(&mut rig, 100 * MINUTE);
        rig.relays_both(&conn, true, tcp(ACK), b"still");
        // And once more.
        rig.relays_both(&conn, from_client, tcp(RST), b"");
        pass(&mut rig, 4 * MINUTE + 3000);
        assert!(rig.connections().is_empty());
        rig.balance();
    }
}

/// The same with a forged SYN behind the forged reset: the ends did not believe either. One that is right opens a connection anew.
#[test]
fn a_connection_outlives_a_forged_reset_and_a_forged_syn() {
    let mut rig = rig();
    let conn = established(&mut rig);
    rig.relays_both(&conn, true, tcp(RST), b"");
    rig.relays_both(&conn, true, tcp(SYN), b"");
    assert_ne!(state(&mut rig), "established");
    pass(&mut rig, 5000);
    rig.relays_both(&conn, false, tcp(ACK), b"I live");
    pass(&mut rig, 5000);
    assert_eq!(state(&mut rig), "established");
    for (from_client, flags) in [(true, RST), (true, SYN), (false, SYN | ACK), (true, ACK)] {
        rig.relays_both(&conn, from_client, tcp(flags), b"");
    }
    assert_eq!(state(&mut rig), "established");
    pass(&mut rig, 60 * MINUTE);
    assert_eq!(state(&mut rig), "established");
    rig.balance();
}

/// RFC 5382 REQ-2: SYNs that cross.
#[test]
fn both_may_open_at_once() {
    let mut rig = rig();
    let conn = rig.open(Proto::Tcp, LAN, CLIENT, LISTEN, WAN, TARGET);
    rig.relays_both(&conn, false, tcp(SYN), b"");
    rig.relays_both(&conn, true, tcp(SYN | ACK), b"");
    rig.relays_both(&conn, false, tcp(SYN | ACK), b"");
    rig.relays_both(&conn, true, tcp(ACK), b"data");
    assert_eq!(state(&mut rig), "established");
    rig.balance();
}

/// RFC 1122 section 4.2.2.13, RFC 6191: a client that uses its port again while the target is in TIME-WAIT is heard by it under the
/// same tuple, with its own sequence number, so the target can tell by that.
#[test]
fn a_tuple_in_time_wait_is_used_again() {
    let mut rig = rig();
    let conn = established(&mut rig);
    for (from_client, flags) in [(true, FIN | ACK), (false, FIN | ACK), (true, ACK)] {
        rig.relays_both(&conn, from_client, tcp(flags), b"");
    }
    assert_eq!(state(&mut rig), "closing");
    pass(&mut rig, 30_000);
    let again = Body::Tcp { flags: SYN, seq: 0x7000_0000, ack: 0, options: Vec::new() };
    rig.relays_both(&conn, true, again, b"");
    assert_eq!(state(&mut rig), "opening");
    rig.relays_both(&conn, false, tcp(SYN | ACK), b"");
    rig.relays_both(&conn, true, tcp(ACK), b"");
    assert_eq!(state(&mut rig), "established");
    pass(&mut rig, 60 * MINUTE);
    assert_eq!(state(&mut rig), "established");
    rig.balance();
}

/// RFC 5382 REQ-4: silence, by policy.
#[test]
fn a_syn_from_outside_is_met_with_silence() {
    let mut rig = rig();
    established(&mut rig);
    for (name, port, src, dst, reason) in [
        ("to a source port", WAN, "10.1.0.3:999", "10.1.0.1:40000", DropReason::NoFlow),
        ("by a stranger", WAN, "10.1.0.3:999", "10.1.0.1:5000", DropReason::NoFlow),
    ] {
        rig.drops_as(name, port, &Packet::tcp(port, src, dst, SYN, b"").build(), reason);
        rig.advance(6000);
        assert!(rig.take_any().is_empty());
    }
    rig.balance();
}

fn syn(options: &[u8], flags: u8) -> Body {
    Body::Tcp { flags, seq: 1, ack: 0, options: options.to_vec() }
}

/// The options of a frame that leaves untagged by IPv4.
fn options(frame: &[u8]) -> Vec<u8> {
    let header = usize::from(frame[46] >> 4) * 4;
    frame[54..34 + header].to_vec()
}

#[test]
fn the_segment_size_of_syns_is_lowered_and_nothing_else() {
    let mut rig = Rig::new("");
    let spec = flow("tcp", Proto::Tcp, LISTEN, TARGET, FROM);
    rig.add(FlowSpec { mss_clamp: Some(MssClamp::Bytes(1000)), ..spec });
    // Window scale, SACK permitted and timestamps stand around it, padded so that it begins at an odd place, too.
    for (client, before, after) in [
        (1, vec![2, 4, 0x05, 0xb4], vec![2, 4, 0x03, 0xe8]),
        (2, vec![1, 2, 4, 0x05, 0xb4, 3, 3, 7], vec![1, 2, 4, 0x03, 0xe8, 3, 3, 7]),
        (3, vec![3, 3, 7, 2, 4, 0xff, 0xff, 4, 2, 1, 1, 0], vec![3, 3, 7, 2, 4, 0x03, 0xe8, 4, 2, 1, 1, 0]),
        (4, vec![2, 4, 0x01, 0x00], vec![2, 4, 0x01, 0x00]),
        (5, vec![4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0], vec![4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0]),
        // TCP-AO (RFC 5925) and MPTCP (RFC 8684) as they came.
        (
            6,
            vec![29, 4, 1, 1, 30, 4, 0, 0x81, 2, 4, 0x05, 0xb4],
            vec![29, 4, 1, 1, 30, 4, 0, 0x81, 2, 4, 0x03, 0xe8],
        ),
        // What has a fault is nobody's to mend.
        (7, vec![2, 4, 0x05, 0xb4, 8, 0, 0, 0], vec![2, 4, 0x05, 0xb4, 8, 0, 0, 0]),
        (8, vec![], vec![]),
    ] {
        let p = Packet::arriving(
            LAN,
            addr(&format!("10.0.0.2:{}", 4000 + client)),
            addr(LISTEN),
            syn(&before, SYN),
            b"",
        );
        let sent = rig.pass(LAN, &p.build(), WAN);
        let source = read(&sent).src;
        assert_eq!(options(&sent), after, "{before:?}");
        let reply = Packet::arriving(WAN, addr(TARGET), source, syn(&before, SYN | ACK), b"");
        let sent = rig.pass(WAN, &reply.build(), LAN);
        read(&sent);
        assert_eq!(options(&sent), after, "{before:?} in the answer");
        // Only SYNs announce.
        let data = Packet::arriving(WAN, addr(TARGET), source, syn(&before, ACK), b"data");
        assert_eq!(options(&rig.pass(WAN, &data.build(), LAN)), before);
    }
    rig.balance();
}

#[test]
fn auto_is_what_fits_the_smaller_link() {
    let mut rig = Rig::new("");
    for (name, listen, target, from) in [
        ("v4", "10.0.0.1:5000", "10.3.0.2:6000", FROM),
        ("v6", "[fd00:0::1]:5000", "[fd00:3::2]:6000", "fd00:0::/64"),
    ] {
        rig.add(FlowSpec { mss_clamp: Some(MssClamp::Auto), ..flow(name, Proto::Tcp, listen, target, from) });
    }
    for (client, listen, at, most) in [
        ("10.0.0.2:4000", "10.0.0.1:5000", 18 + 20, 1240u16),
        ("[fd00:0::2]:4000", "[fd00:0::1]:5000", 18 + 40, 1220),
    ] {
        let p = Packet::arriving(LAN, addr(client), addr(listen), syn(&[2, 4, 0x22, 0x68], SYN), b"");
        let sent = rig.pass(LAN, &p.build(), SMALL);
        read(&sent);
        assert_eq!(sent[at + 20..at + 24], [&[2, 4][..], &most.to_be_bytes()].concat());
    }
    rig.balance();
}

/// Without a clamp every option, flag and reserved bit of any segment passes as it came: SACK, ECN, timestamps, what is not known.
#[test]
fn all_else_of_tcp_passes_as_it_came() {
    let mut rig = rig();
    let conn = established(&mut rig);
    for options in [
        vec![1, 1, 5, 10, 1, 2, 3, 4, 5, 6, 7, 8],
        vec![1, 1, 8, 10, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1],
        vec![29, 16, 1, 2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9],
        vec![254, 4, 0xbe, 0xef],
        vec![0, 1, 2, 3],
    ] {
        for from_client in [true, false] {
            rig.relays_both(
                &conn,
                from_client,
                Body::Tcp { flags: ACK, seq: 9, ack: 8, options: options.clone() },
                b"x",
            );
        }
    }
    let mut frame = conn.by_client(tcp(ACK), b"ecn").build();
    // ECE, CWR, AE and the reserved bits; CE in the IP header.
    frame[14 + 1] |= 3;
    frame[14 + 20 + 12] |= 0x0f;
    frame[14 + 20 + 13] |= 0xc0;
    common::packet::fix_ip4(&mut frame, 14);
    common::packet::fix_transport(&mut frame, 14);
    let sent = rig.pass(LAN, &frame, WAN);
    assert_eq!((sent[15], &sent[46..48]), (frame[15], &frame[46..48]));
    common::packet::internet_checksum(&[&sent[14..34]]);
    rig.balance();
}

/// RFC 4787 REQ-9: hosts on the other side may open a flow's address when the flow says so, and only then.
#[test]
fn flows_may_be_opened_from_behind_other_ports() {
    let mut rig = Rig::new("");
    let spec = flow("hairpin", Proto::Tcp, "10.0.0.1:5000", "10.1.0.2:6000", "10.0.0.0/24,10.1.0.0/24");
    let syn = Packet::tcp(WAN, "10.1.0.3:4000", "10.0.0.1:5000", SYN, b"");
    rig.add(spec.clone());
    rig.drops_as("without policy", WAN, &syn.build(), DropReason::NotOurAddress);
    let explained = rig.explain("wan", Proto::Tcp, "10.1.0.3:4000", "10.0.0.1:5000");
    assert_eq!(explained.verdict, "not_our_address");
    rig.done(forwarder::api::Request::FlowReplace { spec: FlowSpec { hairpin: true, ..spec.clone() } });
    rig.add(flow("plain", Proto::Udp, "10.0.0.1:5001", "10.1.0.2:6001", "10.1.0.0/24"));
    assert_eq!(rig.explain("wan", Proto::Tcp, "10.1.0.3:4000", "10.0.0.1:5000").verdict, "forward");

    let sent = rig.pass(WAN, &syn.build(), WAN);
    let got = read(&sent);
    assert_eq!(
        (got.src.ip(), got.dst),
        (addr("10.1.0.1:0").ip(), addr("10.1.0.2:6000")),
        "from an address of the target's link"
    );
    let conn = Conn {
        proto: Proto::Tcp,
        client: addr("10.1.0.3:4000"),
        listen: addr("10.0.0.1:5000"),
        source: got.src,
        target: addr("10.1.0.2:6000"),
        port: WAN,
        out: WAN,
    };
    rig.relays_both(&conn, false, tcp(SYN | ACK), b"");
    rig.relays_both(&conn, true, tcp(ACK), b"around the corner");
    // Clients of the usual side, too; and other flows of this gateway are as they were.
    rig.open(Proto::Tcp, LAN, CLIENT, LISTEN, WAN, TARGET);
    let other = Packet::udp(WAN, "10.1.0.3:4000", "10.0.0.1:5001", b"");
    rig.drops_as("a flow without the policy", WAN, &other.build(), DropReason::NotOurAddress);
    let nobody = Packet::udp(WAN, "10.1.0.3:4000", "10.0.0.1:9999", b"");
    rig.drops_as("no flow", WAN, &nobody.build(), DropReason::NotOurAddress);
    // The policy goes: so do the connections it let in, and no others.
    rig.done(forwarder::api::Request::FlowReplace { spec });
    rig.drops_as(
        "the policy is gone",
        WAN,
        &conn.by_client(tcp(ACK), b"").build(),
        DropReason::NotOurAddress,
    );
    rig.advance(5000);
    let left = rig.connections();
    assert_eq!(left.iter().map(|c| c.client).collect::<Vec<_>>(), [addr(CLIENT)]);
    rig.balance();
}
