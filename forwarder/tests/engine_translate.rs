//! Flows whose two sides are of different IP families (RFC 7915): packet in, packet out. What must come out is put together
//! here from the RFC, with checksums computed in full by etherparse.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::packet::{
    ACK, Body, Packet, SYN, addr, extend, fix_ip4, fix_transport, host_mac, internet_checksum, read, tcp,
};
use common::{Conn, LAN, Rig, SMALL, TAG, WAN, flow};
use forwarder::api::{FlowSpec, MssClamp, Proto, Request};
use forwarder::engine::DropReason;

/// IPv4 on the LAN to IPv6 on the WAN, and the reverse; and towards the port with an MTU of 1280.
fn rig() -> Rig {
    let mut rig = Rig::new("");
    for (n, proto) in [Proto::Udp, Proto::Tcp].into_iter().enumerate() {
        let name = |what: &str| format!("{what}{n}");
        rig.add(flow(&name("four-six"), proto, "10.0.0.1:5000", "[fd00:1::2]:6000", "10.0.0.0/24"));
        rig.add(flow(&name("six-four"), proto, "[fd00:0::1]:5001", "10.1.0.2:6001", "fd00:0::/64"));
        rig.add(flow(&name("four-six-small"), proto, "10.0.0.1:5002", "[fd00:3::2]:6002", "10.0.0.0/24"));
        rig.add(flow(&name("six-four-small"), proto, "[fd00:0::1]:5003", "10.3.0.2:6003", "fd00:0::/64"));
    }
    rig
}

/// The packet that a translator makes: new addresses, hop limit less one, DSCP and ECN kept, no flow label (RFC 7915 section 4.1).
fn leaving(p: &Packet, port: u8, src: &str, dst: &str) -> Packet {
    let (src, dst) = (addr(src), addr(dst));
    p.leaving_to(port, src, dst, dst.ip())
}

fn source(frame: &[u8]) -> std::net::SocketAddr {
    read(frame).src
}

/// Opens a connection with `body`, and returns it.
fn open(rig: &mut Rig, proto: Proto, client: &str, listen: &str, out: u8, target: &str) -> Conn {
    let body = if proto == Proto::Tcp { tcp(SYN) } else { Body::Udp { checksum: true } };
    let first = Packet::arriving(LAN, addr(client), addr(listen), body, b"");
    let sent = rig.pass(LAN, &first.build(), out);
    let got = read(&sent);
    assert_eq!((got.dst, got.ttl), (addr(target), 60));
    assert_eq!(&sent[..6], &host_mac(addr(target).ip()), "the target's own MAC address");
    Conn {
        proto,
        client: addr(client),
        listen: addr(listen),
        source: got.src,
        target: addr(target),
        port: LAN,
        out,
    }
}

#[test]
fn datagrams_and_segments_are_translated_both_ways() {
    let mut rig = rig();
    for (client, listen, target) in [
        ("10.0.0.2:4000", "10.0.0.1:5000", "[fd00:1::2]:6000"),
        ("[fd00:0::2]:4000", "[fd00:0::1]:5001", "10.1.0.2:6001"),
    ] {
        for proto in [Proto::Udp, Proto::Tcp] {
            let conn = open(&mut rig, proto, client, listen, WAN, target);
            let body = if proto == Proto::Tcp { tcp(ACK) } else { Body::Udp { checksum: true } };
            for payload in [&b""[..], b"x", b"some bytes of data", &[0xa5; 1200]] {
                let there = conn.by_client(body.clone(), payload);
                let got = read(&rig.pass(LAN, &there.build(), WAN));
                assert_eq!(
                    (got.src, got.dst, got.ttl, got.payload),
                    (conn.source, conn.target, 60, payload.to_vec())
                );
                let back = conn.by_target(body.clone(), payload);
                let got = read(&rig.pass(WAN, &back.build(), LAN));
                assert_eq!(
                    (got.src, got.dst, got.ttl, got.payload),
                    (conn.listen, conn.client, 60, payload.to_vec())
                );
            }
        }
    }
    let counts = |c: forwarder::api::Count| c.packets;
    let flow = rig.flow("four-six1");
    assert_eq!((flow.connections, counts(flow.to_target), counts(flow.to_client)), (1, 5, 4));
    rig.balance();
}

#[test]
fn the_ipv6_header_is_the_one_of_rfc_7915_section_4_1() {
    let mut rig = rig();
    let conn = open(&mut rig, Proto::Udp, "10.0.0.2:4000", "10.0.0.1:5000", WAN, "[fd00:1::2]:6000");
    let mut frame = conn.by_client(Body::Udp { checksum: true }, b"12345").build();
    frame[15] = 0xb9;
    fix_ip4(&mut frame, 14);
    // Ethernet padding is no payload.
    frame.resize(60, 0);
    let sent = rig.pass(LAN, &frame, WAN);
    // Version, DSCP and ECN, no flow label, length, next header, hop limit.
    assert_eq!(sent[14..22], [0x6b, 0x90, 0, 0, 0, 13, 17, 60]);
    assert_eq!(sent.len(), 14 + 40 + 13);
    rig.balance();
}

#[test]
fn the_ipv4_header_is_the_one_of_rfc_7915_section_5_1() {
    let mut rig = rig();
    let conn = open(&mut rig, Proto::Udp, "[fd00:0::2]:4000", "[fd00:0::1]:5001", WAN, "10.1.0.2:6001");
    let mut ids = Vec::new();
    // Up to 1260 bytes routers may fragment; longer ones came from a sender that does path MTU discovery.
    for (len, df) in [(5, false), (1260 - 28, false), (1260 - 27, true), (1400, true)] {
        let mut frame = conn.by_client(Body::Udp { checksum: true }, &vec![7; len]).build();
        frame[14] = 0x6b;
        frame[15] = 0x90 | frame[15] & 15;
        let sent = rig.pass(LAN, &frame, WAN);
        let total = (28 + len) as u16;
        assert_eq!((sent[14], sent[15], &sent[16..18]), (0x45, 0xb9, &total.to_be_bytes()[..]));
        assert_eq!(sent[20..22], [if df { 0x40 } else { 0 }, 0], "{len}");
        assert_eq!((sent[22], sent[23]), (60, 17));
        ids.push(u16::from_be_bytes([sent[18], sent[19]]));
        assert_eq!(read(&sent).payload.len(), len);
    }
    assert_ne!(ids[0], ids[1], "identifications of packets that may be fragmented differ (RFC 6864)");
    rig.balance();
}

#[test]
fn a_datagram_without_checksum_gets_one_over_ipv6() {
    let mut rig = rig();
    let conn = open(&mut rig, Proto::Udp, "10.0.0.2:4000", "10.0.0.1:5000", WAN, "[fd00:1::2]:6000");
    for payload in [&b"odd"[..], b"even", b""] {
        let none = conn.by_client(Body::Udp { checksum: false }, payload);
        // `read` recomputes the checksum in full.
        assert_eq!(read(&rig.pass(LAN, &none.build(), WAN)).payload, payload);
    }
    // Of a fragment nobody can compute it (RFC 7915 section 4.5).
    let mut first = conn.by_client(Body::Udp { checksum: false }, &[1; 24]).build();
    first[20] = 0x20;
    fix_ip4(&mut first, 14);
    rig.drops_as("a first fragment without checksum", LAN, &first, DropReason::UdpNoChecksum);
    rig.balance();
}

#[test]
fn a_checksum_that_was_wrong_stays_wrong() {
    let mut rig = rig();
    let conn = open(&mut rig, Proto::Tcp, "10.0.0.2:4000", "10.0.0.1:5000", WAN, "[fd00:1::2]:6000");
    let mut frame = conn.by_client(tcp(ACK), b"data").build();
    let at = 14 + 20 + 16;
    frame[at] ^= 0x11;
    let sent = rig.pass(LAN, &frame, WAN);
    let mut right = sent.clone();
    fix_transport(&mut right, 14);
    assert_ne!(sent, right);
    rig.balance();
}

#[test]
fn fragments_are_translated_and_reassemble() {
    let mut rig = rig();
    for (client, listen, target) in [
        ("10.0.0.2:4000", "10.0.0.1:5000", "[fd00:1::2]:6000"),
        ("[fd00:0::2]:4000", "[fd00:0::1]:5001", "10.1.0.2:6001"),
    ] {
        let conn = open(&mut rig, Proto::Udp, client, listen, WAN, target);
        let payload: Vec<u8> = (0..3000u32).map(|i| (i * 7) as u8).collect();
        let whole = conn.by_client(Body::Udp { checksum: true }, &payload).build();
        let pieces = fragments(&whole, &[1208, 1208, 592]);
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let pieces: Vec<Vec<u8>> =
                order.iter().map(|i| with_id(&pieces[*i], 77 + order[0] as u16)).collect();
            rig.send(LAN, &pieces);
            let sent = rig.take(WAN);
            assert_eq!(sent.len(), 3, "{:?}", rig.drops());
            let got = read(&reassembled(&sent));
            assert_eq!((got.src, got.dst, got.payload), (conn.source, conn.target, payload.clone()));
        }
    }
    rig.balance();
}

/// RFC 7915 section 5.1.1: offsets count the extension headers behind a fragment header, which IPv4 does not have.
#[test]
fn fragments_of_extension_headers_have_no_translation() {
    let mut rig = rig();
    let conn = open(&mut rig, Proto::Udp, "[fd00:0::2]:4000", "[fd00:0::1]:5001", WAN, "10.1.0.2:6001");
    let whole = conn.by_client(Body::Udp { checksum: true }, &[7; 100]).build();
    // Destination options, eight bytes of padding.
    let options = [0, 0, 1, 4, 0, 0, 0, 0];
    for (n, order) in (1..).zip([[0, 1], [1, 0]]) {
        let pieces = common::packet::fragments(&extend(&whole, 60, &options), &[48], n);
        rig.send(LAN, &order.map(|i: usize| pieces[i].clone()));
        assert_eq!(rig.take_any(), []);
        assert_eq!(
            rig.drops().into_iter().collect::<Vec<_>>(),
            [("ipv6_extension".into(), u64::from(2 * n))]
        );
    }
    // Of those before it nothing is left, and a whole packet may have them anywhere.
    let behind = common::packet::fragments(&whole, &[48], 7);
    let behind: Vec<_> = behind.iter().map(|f| extend(f, 60, &options)).collect();
    rig.send(LAN, &behind);
    assert_eq!(read(&reassembled(&rig.take(WAN))).payload, [7; 100]);
    assert_eq!(read(&rig.pass(LAN, &extend(&whole, 60, &options), WAN)).payload, [7; 100]);
    rig.balance();
}

/// RFC 7915 section 4: a fragment has a fragment header as well.
#[test]
fn the_sender_of_a_first_fragment_is_told_28_bytes_less() {
    let mut rig = rig();
    let there = open(&mut rig, Proto::Udp, "10.0.0.2:4000", "10.0.0.1:5002", SMALL, "[fd00:3::2]:6002");
    let whole = there.by_client(Body::Udp { checksum: true }, &[1; 1400]).build();
    let mut first = fragments(&whole, &[1240, 168])[0].clone();
    first[20] |= 0x40;
    fix_ip4(&mut first, 14);
    rig.send(LAN, &[first]);
    let told = rig.take(LAN).pop().unwrap();
    assert_eq!((told[23], &told[34..36], &told[40..42]), (1, &[3, 4][..], &1252u16.to_be_bytes()[..]));
    rig.balance();
}

#[test]
fn what_may_be_fragmented_is_cut_to_1280_towards_ipv6() {
    let mut rig = rig();
    for (out, listen, target) in
        [(WAN, "10.0.0.1:5000", "[fd00:1::2]:6000"), (SMALL, "10.0.0.1:5002", "[fd00:3::2]:6002")]
    {
        let conn = open(&mut rig, Proto::Udp, "10.0.0.2:4000", listen, out, target);
        let payload: Vec<u8> = (0..1400u32).map(|i| (i * 3) as u8).collect();
        let mut frame = conn.by_client(Body::Udp { checksum: true }, &payload).build();
        frame[20] = 0;
        fix_ip4(&mut frame, 14);
        rig.send(LAN, &[frame]);
        let sent = rig.take(out);
        assert_eq!(sent.len(), 2, "{:?}", rig.drops());
        let l3 = if out == SMALL { 18 } else { 14 };
        assert!(sent.iter().all(|f| f.len() - l3 <= 1280));
        let untagged: Vec<Vec<u8>> = sent.iter().map(|f| untag(f)).collect();
        assert_eq!(read(&reassembled(&untagged)).payload, payload);
    }
    rig.balance();
}

#[test]
fn small_packets_are_cut_towards_a_small_ipv4_link_and_large_ones_told() {
    let text = format!(
        "{}\n{}",
        common::PORTS.replace(
            "mtu = 1280\naddresses = [\"10.3.0.1/24\", \"fd00:3::1/64\"]",
            "mtu = 600\naddresses = [\"10.3.0.1/24\"]"
        ),
        ""
    );
    let mut rig = Rig::with(&text, 1, 4096);
    rig.add(flow("udp", Proto::Udp, "[fd00:0::1]:5003", "10.3.0.2:6003", "fd00:0::/64"));
    let first = Packet::udp(LAN, "[fd00:0::2]:4000", "[fd00:0::1]:5003", b"").build();
    rig.send(LAN, &[first]);
    rig.take_any();
    // The next hops answer.
    let arp = common::packet::arp(
        SMALL,
        common::packet::gw_mac(SMALL),
        2,
        (host_mac(addr("10.3.0.2:1").ip()), [10, 3, 0, 2]),
        (common::packet::gw_mac(SMALL), [10, 3, 0, 1]),
    );
    rig.send(SMALL, &[arp]);
    assert_eq!(rig.take(SMALL).len(), 1);
    let payload: Vec<u8> = (0..1200u32).map(|i| (i * 5) as u8).collect();
    rig.send(LAN, &[Packet::udp(LAN, "[fd00:0::2]:4000", "[fd00:0::1]:5003", &payload).build()]);
    let sent: Vec<Vec<u8>> = rig.take(SMALL).iter().map(|f| untag(f)).collect();
    assert_eq!(sent.len(), 3, "{:?}", rig.drops());
    assert!(sent.iter().all(|f| f.len() - 14 <= 600));
    assert_eq!(read(&reassembled(&sent)).payload, payload);
    // RFC 8200 section 5: no IPv6 sender is asked for less than 1280.
    rig.send(LAN, &[Packet::udp(LAN, "[fd00:0::2]:4000", "[fd00:0::1]:5003", &[1; 1300]).build()]);
    let told = rig.take(LAN).pop().unwrap();
    assert_eq!((told[14 + 6], told[54], &told[58..62]), (58, 2, &[0, 0, 5, 0][..]));
    assert_eq!(rig.drops().get("too_big"), Some(&1));
    rig.balance();
}

#[test]
fn senders_are_told_the_mtu_of_their_own_family() {
    let mut rig = rig();
    let there = open(&mut rig, Proto::Udp, "10.0.0.2:4000", "10.0.0.1:5002", SMALL, "[fd00:3::2]:6002");
    rig.send(LAN, &[there.by_client(Body::Udp { checksum: true }, &[1; 1280]).build()]);
    let told = rig.take(LAN).pop().unwrap();
    // Fragmentation needed and DF set; an IPv4 packet gets 20 bytes longer as IPv6.
    assert_eq!((told[23], &told[34..36], &told[40..42]), (1, &[3, 4][..], &1260u16.to_be_bytes()[..]));
    let there = open(&mut rig, Proto::Udp, "[fd00:0::2]:4000", "[fd00:0::1]:5003", SMALL, "10.3.0.2:6003");
    rig.send(LAN, &[there.by_client(Body::Udp { checksum: true }, &[1; 1300]).build()]);
    let told = rig.take(LAN).pop().unwrap();
    assert_eq!((told[20], told[54], &told[58..62]), (58, 2, &1300u32.to_be_bytes()[..]));
    // What fits in the family it leaves in passes: 1300 bytes of IPv6 are 1280 of IPv4.
    rig.pass(LAN, &there.by_client(Body::Udp { checksum: true }, &[1; 1300 - 48]).build(), SMALL);
    assert_eq!(rig.drops().get("too_big"), Some(&2));
    rig.balance();
}

#[test]
fn errors_are_translated_back() {
    let mut rig = rig();
    // A port unreachable from the target, IPv6 to IPv4.
    let conn = open(&mut rig, Proto::Udp, "10.0.0.2:4000", "10.0.0.1:5000", WAN, "[fd00:1::2]:6000");
    let there = conn.by_client(Body::Udp { checksum: true }, b"hello");
    let sent = rig.pass(LAN, &there.build(), WAN);
    let mut message = vec![1, 4, 0, 0, 0, 0, 0, 0];
    message.extend(&sent[14..]);
    let (target, source): (std::net::IpAddr, std::net::IpAddr) = (conn.target.ip(), conn.source.ip());
    let error = icmp6(host_mac(target), target, source, &message);
    let back = rig.pass(WAN, &error, LAN);
    assert_eq!((back[14] >> 4, back[23], back[34], back[35]), (4, 1, 3, 3), "port unreachable");
    assert_eq!(back[26..34], [10, 0, 0, 1, 10, 0, 0, 2], "from our address to the client");
    assert_eq!(internet_checksum(&[&back[14..34]]), 0);
    let total = usize::from(u16::from_be_bytes([back[16], back[17]]));
    assert_eq!(internet_checksum(&[&back[34..14 + total]]), 0);
    let quote = &back[42..14 + total];
    assert_eq!(quote[12..24], there.build()[26..38], "the client finds its own addresses and ports");
    // Packet too big: never more than both links of the gateway take (RFC 7915 section 5.2).
    for (mtu, told) in [(1400u32, 1380u16), (9000, 1480)] {
        let mut message = vec![2, 0, 0, 0];
        message.extend(mtu.to_be_bytes());
        message.extend(&sent[14..]);
        let back = rig.pass(WAN, &icmp6(host_mac(target), target, source, &message), LAN);
        assert_eq!((back[34], back[35], &back[40..42]), (3, 4, &told.to_be_bytes()[..]));
    }
    // The error neither counts as traffic nor ends anything.
    assert_eq!(rig.flow("four-six0").to_client.packets, 0);
    rig.pass(LAN, &there.build(), WAN);

    // Fragmentation needed from a router of the IPv4 side: 1000 becomes 1020, and no less than 1280 (RFC 7915 section 4.2).
    let conn = open(&mut rig, Proto::Udp, "[fd00:0::2]:4000", "[fd00:0::1]:5001", WAN, "10.1.0.2:6001");
    let there = conn.by_client(Body::Udp { checksum: true }, &[3; 1400]);
    let sent = rig.pass(LAN, &there.build(), WAN);
    for (mtu, told) in [(1400u16, 1420u32), (1000, 1280), (9000, 1500)] {
        let mut message = vec![3, 4, 0, 0, 0, 0];
        message.extend(mtu.to_be_bytes());
        message.extend(&sent[14..14 + 28]);
        let error = icmp4([2, 0, 0, 0, 0, 99], [10, 1, 0, 99], [10, 1, 0, 1], &message);
        let back = rig.pass(WAN, &error, LAN);
        assert_eq!((back[14] >> 4, back[20], back[54], back[55]), (6, 58, 2, 0), "packet too big");
        assert_eq!(back[58..62], told.to_be_bytes());
        assert_eq!(
            back[62 + 8..62 + 44],
            there.build()[22..58],
            "addresses and ports of the client's packet"
        );
    }
    rig.balance();
}

#[test]
fn segment_sizes_are_clamped_to_what_fits_both_sides() {
    let mut rig = Rig::new("");
    let spec = flow("tcp", Proto::Tcp, "10.0.0.1:5002", "[fd00:3::2]:6002", "10.0.0.0/24");
    rig.add(FlowSpec { mss_clamp: Some(MssClamp::Auto), ..spec });
    let syn = Body::Tcp { flags: SYN, seq: 1, ack: 0, options: vec![2, 4, 0x05, 0xb4] };
    let sent = rig.pass(
        LAN,
        &Packet::arriving(LAN, addr("10.0.0.2:4000"), addr("10.0.0.1:5002"), syn, b"").build(),
        SMALL,
    );
    read(&sent);
    let l4 = 18 + 40;
    assert_eq!(sent[l4 + 20..l4 + 24], [2, 4, 0x04, 0xc4], "1280 less 60");
    // The gateway's replies to the target say what fits, too.
    let target = source(&sent);
    let reply = Body::Tcp { flags: SYN | ACK, seq: 1, ack: 2, options: vec![2, 4, 0xff, 0xff] };
    let back =
        rig.pass(SMALL, &Packet::arriving(SMALL, addr("[fd00:3::2]:6002"), target, reply, b"").build(), LAN);
    read(&back);
    assert_eq!(back[14 + 20 + 20..][..4], [2, 4, 0x04, 0xc4]);
    rig.balance();
}

#[test]
fn a_flow_that_changes_keeps_its_translated_connections() {
    let mut rig = rig();
    let conn = open(&mut rig, Proto::Tcp, "10.0.0.2:4000", "10.0.0.1:5000", WAN, "[fd00:1::2]:6000");
    let listed = rig.connections();
    let it = listed.iter().find(|c| c.client == conn.client).unwrap();
    assert_eq!((it.listen, it.source, it.target), (conn.listen, conn.source, conn.target));
    let spec = flow("four-six1", Proto::Tcp, "10.0.0.1:5000", "[fd00:1::2]:6000", "10.0.0.2/32");
    rig.done(Request::FlowReplace { spec });
    rig.pass(LAN, &conn.by_client(tcp(ACK), b"on").build(), WAN);
    rig.delete("four-six1");
    let reason = DropReason::NoFlow;
    rig.drops_as("after the flow is gone", LAN, &conn.by_client(tcp(ACK), b"").build(), reason);
    assert!(!rig.connections().iter().any(|c| c.client == conn.client));
    let e = rig.explain("lan", Proto::Tcp, "[fd00:0::2]:9", "[fd00:0::1]:5001");
    assert_eq!((e.verdict.as_str(), e.rewritten_dst), ("forward", Some(addr("10.1.0.2:6001"))));
    rig.balance();
}

#[test]
fn a_tagged_link_and_a_translation_go_together() {
    let mut rig = Rig::new("");
    rig.add(flow("udp", Proto::Udp, "10.2.0.1:5000", "[fd00:1::2]:6000", "10.2.0.0/24"));
    let first = Packet::udp(TAG, "10.2.0.2:4000", "10.2.0.1:5000", b"hello");
    let sent = rig.pass(TAG, &first.build(), WAN);
    assert_eq!(read(&sent).payload, b"hello");
    let back =
        Packet::arriving(WAN, addr("[fd00:1::2]:6000"), source(&sent), Body::Udp { checksum: true }, b"back");
    let sent = rig.pass(WAN, &back.build(), TAG);
    let expected = leaving(&back, TAG, "10.2.0.1:5000", "10.2.0.2:4000");
    assert_eq!((read(&sent).payload, &sent[..18]), (b"back".to_vec(), &expected.build()[..18]));
    rig.balance();
}

/// A frame without its VLAN tag.
fn untag(frame: &[u8]) -> Vec<u8> {
    if frame[12..14] == [0x81, 0] { [&frame[..12], &frame[16..]].concat() } else { frame.to_vec() }
}

/// An untagged frame of UDP cut into fragments whose data have these lengths.
fn fragments(frame: &[u8], lengths: &[usize]) -> Vec<Vec<u8>> {
    let v6 = frame[14] >> 4 == 6;
    let l4 = if v6 { 54 } else { 34 };
    let (mut at, mut pieces) = (0, Vec::new());
    for len in lengths {
        let data = &frame[l4 + at..l4 + at + len];
        let more = l4 + at + len < frame.len();
        let mut f = frame[..l4].to_vec();
        if v6 {
            f[20] = 44;
            f[18..20].copy_from_slice(&((8 + len) as u16).to_be_bytes());
            f.extend([17, 0]);
            f.extend(((at as u16) | u16::from(more)).to_be_bytes());
            f.extend([0, 0, 0x12, 0x34]);
        } else {
            f[16..18].copy_from_slice(&((20 + len) as u16).to_be_bytes());
            f[20..22].copy_from_slice(&((at as u16 / 8) | u16::from(more) << 13).to_be_bytes());
            fix_ip4(&mut f, 14);
        }
        f.extend(data);
        pieces.push(f);
        at += len;
    }
    assert_eq!(l4 + at, frame.len());
    pieces
}

fn with_id(frame: &[u8], id: u16) -> Vec<u8> {
    let mut f = frame.to_vec();
    if f[14] >> 4 == 6 {
        f[60..62].copy_from_slice(&id.to_be_bytes());
    } else {
        f[18..20].copy_from_slice(&id.to_be_bytes());
        fix_ip4(&mut f, 14);
    }
    f
}

/// What the receiver of untagged fragments has: the datagram as one frame. They must share an identification.
fn reassembled(fragments: &[Vec<u8>]) -> Vec<u8> {
    let v6 = fragments[0][14] >> 4 == 6;
    let mut data = Vec::new();
    let mut pieces: Vec<(usize, bool, &[u8])> = Vec::new();
    let id = |f: &[u8]| if v6 { f[58..62].to_vec() } else { f[18..20].to_vec() };
    for f in fragments {
        assert_eq!(id(f), id(&fragments[0]));
        let word = |at: usize| u16::from_be_bytes([f[at], f[at + 1]]);
        if v6 {
            assert_eq!((f[20], f[54], usize::from(word(18)) + 54), (44, 17, f.len()));
            pieces.push((usize::from(word(56) & 0xfff8), word(56) & 1 == 1, &f[62..]));
        } else {
            assert_eq!((internet_checksum(&[&f[14..34]]), usize::from(word(16)) + 14), (0, f.len()));
            pieces.push((usize::from(word(20) & 0x1fff) * 8, word(20) & 0x2000 != 0, &f[34..]));
        }
    }
    pieces.sort_by_key(|p| p.0);
    for (i, (offset, more, bytes)) in pieces.iter().enumerate() {
        assert_eq!((*offset, *more), (data.len(), i + 1 < pieces.len()));
        data.extend(*bytes);
    }
    let mut f = fragments[0][..if v6 { 54 } else { 34 }].to_vec();
    f.extend(&data);
    if v6 {
        f[20] = 17;
        f[18..20].copy_from_slice(&(data.len() as u16).to_be_bytes());
    } else {
        f[16..18].copy_from_slice(&((20 + data.len()) as u16).to_be_bytes());
        f[20..22].fill(0);
        fix_ip4(&mut f, 14);
    }
    f
}

/// An ICMPv6 message, its checksum filled in, as it arrives at the WAN.
fn icmp6(mac: [u8; 6], src: std::net::IpAddr, dst: std::net::IpAddr, message: &[u8]) -> Vec<u8> {
    let (std::net::IpAddr::V6(src), std::net::IpAddr::V6(dst)) = (src, dst) else { panic!("IPv6") };
    let mut message = message.to_vec();
    let len = (message.len() as u16).to_be_bytes();
    let sum = internet_checksum(&[&src.octets(), &dst.octets(), &[0, 0], &len, &[0, 0, 0, 58], &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let ip = [&[0x60, 0, 0, 0][..], &len, &[58, 64], &src.octets(), &dst.octets()].concat();
    [&common::packet::gw_mac(WAN)[..], &mac, &[0x86, 0xdd], &ip, &message].concat()
}

/// An ICMP message, its checksum filled in, as it arrives at the WAN.
fn icmp4(mac: [u8; 6], src: [u8; 4], dst: [u8; 4], message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let sum = internet_checksum(&[&message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let len = ((20 + message.len()) as u16).to_be_bytes();
    let ip = [&[0x45, 0][..], &len, &[0, 1, 0, 0, 64, 1, 0, 0], &src, &dst].concat();
    let mut f = [&common::packet::gw_mac(WAN)[..], &mac, &[0x08, 0x00], &ip, &message].concat();
    fix_ip4(&mut f, 14);
    f
}
