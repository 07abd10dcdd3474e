//! ICMP errors: those about packets of connections reach who sent the packet, quoting what that one sent; those that the gateway sends
//! itself say why a packet went no further. Every expected frame is built in full, checksums and all, from what it says.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::net::{IpAddr, SocketAddr};

use common::packet::{
    ACK, Body, PSH, Packet, SYN, VLANS, addr, extend, fix_ip4, fragments, gw_mac, host_mac, icmp, icmp_frame,
    read, tcp,
};
use common::{Conn, LAN, PORTS, Rig, SMALL, TAG, WAN, assert_same, flow, neighbors, next_hop};
use forwarder::api::{FlowSpec, Proto};
use forwarder::engine::DropReason::{self, *};

/// Protocol, client, listen address, target, and the two ports.
const SIDES: [(Proto, u8, &str, &str, u8, &str); 8] = [
    (Proto::Udp, LAN, "10.0.0.2:4000", "10.0.0.1:5000", WAN, "10.1.0.2:6000"),
    (Proto::Tcp, LAN, "10.0.0.2:4000", "10.0.0.1:5000", WAN, "10.1.0.2:6000"),
    (Proto::Udp, LAN, "[fd00:0::2]:4000", "[fd00:0::1]:5000", WAN, "[fd00:1::2]:6000"),
    (Proto::Tcp, LAN, "[fd00:0::2]:4000", "[fd00:0::1]:5000", WAN, "[fd00:1::2]:6000"),
    (Proto::Udp, TAG, "10.2.0.2:4000", "10.2.0.1:5000", LAN, "10.0.0.2:6000"),
    (Proto::Tcp, TAG, "[fd00:2::2]:4000", "[fd00:2::1]:5000", SMALL, "[fd00:3::2]:6000"),
    // Behind a router.
    (Proto::Udp, WAN, "192.168.7.2:4000", "10.1.0.1:5000", LAN, "10.0.0.2:6001"),
    (Proto::Tcp, LAN, "10.0.0.2:4000", "10.0.0.1:5001", SMALL, "10.3.0.2:6000"),
];

fn flows() -> Vec<FlowSpec> {
    let spec = |(n, side): (usize, &(Proto, u8, &str, &str, u8, &str))| {
        let (proto, _, client, listen, _, target) = side;
        let from = match addr(client).ip() {
            IpAddr::V4(a) => format!("{a}/31"),
            IpAddr::V6(a) => format!("{a}/127"),
        };
        flow(&format!("flow{n}"), *proto, listen, target, &from)
    };
    SIDES.iter().enumerate().map(spec).collect()
}

fn add_flows(rig: &mut Rig) {
    for spec in flows() {
        rig.add(spec);
    }
    rig.advance(1000);
}

/// One connection of each of [`SIDES`], in order.
fn warm_with(text: &str) -> (Rig, Vec<Conn>) {
    let mut rig = Rig::new(text);
    add_flows(&mut rig);
    let conns = SIDES.map(|(proto, port, client, listen, out, target)| match proto {
        Proto::Udp => rig.open(proto, port, client, listen, out, target),
        Proto::Tcp => rig.establish(port, client, listen, out, target),
    });
    (rig, conns.to_vec())
}

fn warm() -> (Rig, Vec<Conn>) {
    warm_with("")
}

fn body(proto: Proto) -> Body {
    if proto == Proto::Tcp { tcp(PSH | ACK) } else { Body::Udp { checksum: true } }
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 256) as u8).collect()
}

/// Types, codes and the rest of the header, as they are to be passed on.
const HEADS4: [[u8; 6]; 12] = [
    [3, 0, 0, 0, 0, 0],
    [3, 1, 0, 0, 0, 0],
    [3, 3, 0, 0, 0, 0],
    [3, 4, 0, 0, 0x05, 0x14],
    [3, 10, 0, 0, 0, 0],
    [3, 13, 0, 0, 0, 0],
    [3, 15, 1, 2, 3, 4],
    [11, 0, 0, 0, 0, 0],
    [11, 1, 0, 0, 0, 0],
    [12, 0, 20, 0, 0, 0],
    [12, 1, 0, 0, 0, 0],
    [12, 2, 2, 0, 0, 0],
];
const HEADS6: [[u8; 6]; 10] = [
    [1, 0, 0, 0, 0, 0],
    [1, 1, 0, 0, 0, 0],
    [1, 3, 0, 0, 0, 0],
    [1, 4, 0, 0, 0, 0],
    [2, 0, 0, 0, 0x05, 0x14],
    [3, 0, 0, 0, 0, 0],
    [3, 1, 0, 0, 0, 0],
    [4, 0, 0, 0, 0, 6],
    [4, 1, 0, 0, 0, 40],
    [4, 2, 1, 2, 3, 4],
];

fn heads(conn: &Conn) -> &'static [[u8; 6]] {
    if conn.client.is_ipv4() { &HEADS4 } else { &HEADS6 }
}

/// An error as it comes and as it must leave.
struct Case {
    port: u8,
    /// Who it comes from: the peer itself, if nothing else is said.
    router: IpAddr,
    ours: IpAddr,
    quote: Vec<u8>,
    out: u8,
    src: IpAddr,
    dst: IpAddr,
    quote_out: Vec<u8>,
}

impl Case {
    fn frame(&self, head: [u8; 6]) -> Vec<u8> {
        icmp(self.port, self.router, self.ours, head, &self.quote)
    }

    fn expected(&self, head: [u8; 6]) -> Vec<u8> {
        let macs = (host_mac(next_hop(self.dst)), gw_mac(self.out));
        icmp_frame(macs, self.out, self.src, self.dst, (60, 0), head, &self.quote_out)
    }

    fn each(mut self, change: impl Fn(&mut Vec<u8>)) -> Case {
        change(&mut self.quote);
        change(&mut self.quote_out);
        self
    }

    #[track_caller]
    fn passes(&self, rig: &mut Rig, head: [u8; 6]) {
        let sent = rig.pass(self.port, &self.frame(head), self.out);
        assert_same(&sent, &self.expected(head));
    }

    #[track_caller]
    fn drops(&self, rig: &mut Rig, name: &str, reason: DropReason) {
        let head = if self.ours.is_ipv4() { [3, 1, 0, 0, 0, 0] } else { [1, 0, 0, 0, 0, 0] };
        rig.drops_as(name, self.port, &self.frame(head), reason);
    }
}

/// An error about a packet that the gateway sent, for the client or for the target, when `change` was done to what came in.
fn about(conn: &Conn, by_client: bool, len: usize, change: impl Fn(&mut Packet)) -> Case {
    let mut packet = match by_client {
        true => conn.by_client(body(conn.proto), &data(len)),
        false => conn.by_target(body(conn.proto), &data(len)),
    };
    change(&mut packet);
    let sent = if by_client { conn.forward(&packet) } else { conn.back(&packet) };
    // What of it the relay does not change back: the hop.
    packet.ttl = sent.ttl;
    let quote = sent.build()[sent.l3()..].to_vec();
    let quote_out = packet.build()[packet.l3()..].to_vec();
    let (port, out) = if by_client { (conn.out, conn.port) } else { (conn.port, conn.out) };
    let (router, ours) = (sent.dst.ip(), sent.src.ip());
    Case { port, router, ours, quote, out, src: packet.dst.ip(), dst: packet.src.ip(), quote_out }
}

fn plain(conn: &Conn, by_client: bool) -> Case {
    about(conn, by_client, 40, |_| ())
}

fn l4(conn: &Conn) -> usize {
    if conn.client.is_ipv4() { 20 } else { 40 }
}

/// RFC 5508 REQ-4 and REQ-5, RFC 4443: of each type, both ways, however much is quoted.
#[test]
fn errors_reach_the_sender_of_the_packet_and_quote_what_it_sent() {
    let (mut rig, conns) = warm();
    for conn in &conns {
        for by_client in [true, false] {
            for head in heads(conn) {
                // Not 17: half a checksum cannot be changed.
                for quoted in [8, 9, 16, 18, 19, 20, 28, 60, 1000] {
                    let case = plain(conn, by_client).each(|q| q.truncate(l4(conn) + quoted));
                    case.passes(&mut rig, *head);
                }
            }
        }
    }
    assert_eq!(rig.drops().len(), 0);
    rig.balance();
}

/// From a router on the way, which has an address of its own: it is the gateway that the error comes from then.
#[test]
fn errors_of_routers_on_the_way_pass() {
    let (mut rig, conns) = warm();
    for conn in &conns {
        for by_client in [true, false] {
            let mut case = plain(conn, by_client);
            for router in ["198.51.100.7", "203.0.113.1", "2001:db8::7"] {
                case.router = router.parse().unwrap();
                if case.router.is_ipv4() == case.ours.is_ipv4() {
                    case.passes(&mut rig, heads(conn)[0]);
                }
            }
        }
    }
    rig.balance();
}

/// RFC 4884: what follows the quote stays what it is.
#[test]
fn extensions_are_kept() {
    let (mut rig, conns) = warm();
    // An MPLS label stack (RFC 4950), checksum and all.
    let extension = [0x20, 0, 0xdc, 0xfd, 0, 8, 1, 1, 0, 1, 0x01, 0xff];
    for conn in &conns {
        for by_client in [true, false] {
            for len in [40, 300] {
                let case = about(conn, by_client, len, |_| ()).each(|q| {
                    q.resize(128, 0);
                    q.extend(extension);
                });
                if conn.client.is_ipv4() {
                    for kind in [3, 11, 12] {
                        case.passes(&mut rig, [kind, 0, 0, 128 / 4, 0, 0]);
                    }
                } else {
                    for kind in [1, 3] {
                        case.passes(&mut rig, [kind, 0, 128 / 8, 0, 0, 0]);
                    }
                }
            }
        }
    }
    // The packet is found by its quote alone: what looks like one in an extension is none.
    for conn in &conns[..1] {
        let case = plain(conn, true).each(|q| {
            let right = q.clone();
            q[12..20].fill(9);
            fix_ip4(q, 0);
            q.resize(128, 0);
            q.extend(right);
        });
        rig.drops_as("quote", case.port, &case.frame([3, 1, 0, 32, 0, 0]), IcmpUnmatched);
    }
    rig.balance();
}

#[test]
fn quoted_options_and_extension_headers_are_passed_over() {
    let (mut rig, conns) = warm();
    for conn in &conns {
        for by_client in [true, false] {
            if conn.client.is_ipv4() {
                for options in [vec![1, 1, 1, 0], vec![7, 7, 4, 1, 2, 3, 4, 0], [148, 4, 0, 0].repeat(10)] {
                    let case = about(conn, by_client, 40, |p| p.ip_options = options.clone());
                    case.passes(&mut rig, HEADS4[2]);
                }
                continue;
            }
            for headers in [
                vec![(60, [0, 0, 1, 4, 0, 0, 0, 0])],
                vec![(0, [0, 0, 5, 2, 0, 0, 1, 0])],
                vec![(60, [0, 0, 1, 4, 0, 0, 0, 0]); 8],
                vec![(44, [0, 0, 0, 0, 1, 2, 3, 4])],
                vec![(44, [0, 0, 0, 1, 1, 2, 3, 4])],
            ] {
                let case = plain(conn, by_client).each(|q| {
                    let frame = [&[0; 12][..], &[0x86, 0xdd], q].concat();
                    *q = headers.iter().fold(frame, |f, (kind, header)| extend(&f, *kind, header))[14..]
                        .to_vec();
                });
                case.passes(&mut rig, HEADS6[3]);
            }
        }
    }
    rig.balance();
}

/// Options of the error itself, and what lies behind it in the frame.
#[test]
fn options_of_the_error_are_kept_and_padding_is_not() {
    let (mut rig, conns) = warm();
    for conn in &conns {
        let case = plain(conn, true).each(|q| q.truncate(l4(conn) + 8));
        let head = heads(conn)[0];
        let mut padded = case.frame(head);
        padded.extend([0xee; 30]);
        assert_same(&rig.pass(case.port, &padded, case.out), &case.expected(head));
        if conn.client.is_ipv4() {
            let with = |mut frame: Vec<u8>, port: u8| {
                let l3 = if VLANS[usize::from(port)].is_some() { 18 } else { 14 };
                frame.splice(l3 + 20..l3 + 20, [148, 4, 0, 0]);
                frame[l3] = 0x46;
                frame[l3 + 3] += 4;
                fix_ip4(&mut frame, l3);
                frame
            };
            let sent = rig.pass(case.port, &with(case.frame(head), case.port), case.out);
            assert_same(&sent, &with(case.expected(head), case.out));
        }
    }
    rig.balance();
}

/// RFC 5508 REQ-3: the checksum of the quoted IP header has to be right, that of the message as well; that of the quoted packet
/// need not be, and stays wrong by as much.
#[test]
fn checksums_that_count_and_one_that_does_not() {
    let (mut rig, conns) = warm();
    for conn in &conns {
        for by_client in [true, false] {
            let head = heads(conn)[0];
            let case = plain(conn, by_client);
            let mut frame = case.frame(head);
            *frame.last_mut().unwrap() ^= 1;
            rig.drops_as("message", case.port, &frame, IcmpMalformed);
            if conn.client.is_ipv4() {
                for bit in 0..16 {
                    let case = plain(conn, by_client).each(|q| q[10 + bit / 8] ^= 1 << (bit % 8));
                    case.drops(&mut rig, "quoted header", IcmpMalformed);
                }
            }
            let at = l4(conn) + if conn.proto == Proto::Tcp { 16 } else { 6 };
            for wrong in [1, 0x1234, 0xfff0] {
                let case = plain(conn, by_client).each(|q| {
                    let right = u32::from(q[at]) << 8 | u32::from(q[at + 1]);
                    q[at..at + 2].copy_from_slice(&(((right + wrong) % 0xffff) as u16).to_be_bytes());
                });
                case.passes(&mut rig, head);
            }
        }
    }
    // UDP over IPv4 may have none.
    let none = |p: &mut Packet| p.body = Body::Udp { checksum: false };
    for by_client in [true, false] {
        about(&conns[0], by_client, 40, none).passes(&mut rig, HEADS4[2]);
    }
    rig.balance();
}

/// RFC 5508 REQ-4: an error about what nobody here sent goes nowhere.
#[test]
fn errors_about_packets_of_no_connection_are_dropped() {
    let (mut rig, conns) = warm();
    for conn in &conns {
        let v4 = conn.client.is_ipv4();
        let fix = |q: &mut Vec<u8>| {
            if v4 {
                fix_ip4(q, 0);
            }
        };
        for by_client in [true, false] {
            let t = l4(conn);
            let (src, dst) = if v4 { (15, 19) } else { (23, 39) };
            for (name, at, bit) in
                [("source port", t + 1, 0x40), ("destination port", t + 3, 0x40), ("destination", dst, 0x40)]
            {
                let case = plain(conn, by_client).each(|q| {
                    q[at] ^= bit;
                    fix(q);
                });
                case.drops(&mut rig, name, IcmpUnmatched);
            }
            // It came to another address than the one that sent.
            let case = plain(conn, by_client).each(|q| {
                q[src] ^= 4;
                fix(q);
            });
            case.drops(&mut rig, "source", IcmpUnmatched);
            let other = plain(conn, by_client).each(|q| {
                let at = if v4 { 9 } else { 6 };
                q[at] = 6 + 17 - q[at];
                q[t + 1] ^= 0x40;
                fix(q);
            });
            other.drops(&mut rig, "protocol", IcmpUnmatched);
            // The right packet, as the other side would have seen it: the gateway did not send it there.
            let mut back = plain(conn, by_client);
            back.quote.clone_from(&back.quote_out);
            back.drops(&mut rig, "the other side's", IcmpUnmatched);
        }
    }
    // From behind another port than the target's.
    let mut case = plain(&conns[0], true);
    case.port = LAN;
    case.router = "10.0.0.2".parse().unwrap();
    case.drops(&mut rig, "another port", NotOurAddress);
    case.ours = "10.0.0.1".parse().unwrap();
    case.drops(&mut rig, "another port's address", IcmpUnmatched);
    rig.balance();
}

#[test]
fn quotes_that_name_no_packet_are_dropped() {
    let (mut rig, conns) = warm();
    for conn in &conns {
        let (v4, t) = (conn.client.is_ipv4(), l4(conn));
        for by_client in [true, false] {
            for len in [0, 1, t - 1, t, t + 7] {
                let case = plain(conn, by_client).each(|q| q.truncate(len));
                case.drops(&mut rig, &format!("{len} bytes"), IcmpMalformed);
            }
            let set = |at: usize, bytes: &[u8]| {
                plain(conn, by_client).each(|q| {
                    q[at..at + bytes.len()].copy_from_slice(bytes);
                    if v4 && q[0] & 15 >= 5 {
                        fix_ip4(q, 0);
                    }
                })
            };
            set(0, &[if v4 { 0x65 } else { 0x45 }]).drops(&mut rig, "version", IcmpMalformed);
            if v4 {
                set(0, &[0x44]).drops(&mut rig, "header length", IcmpMalformed);
                set(2, &[0, 27]).drops(&mut rig, "total length", IcmpMalformed);
                set(6, &[0, 1]).drops(&mut rig, "a later fragment", IcmpUnmatched);
                set(9, &[1]).drops(&mut rig, "an echo", IcmpUnmatched);
            } else {
                set(4, &[0, 7]).drops(&mut rig, "payload length", IcmpMalformed);
                set(6, &[44]).drops(&mut rig, "a later fragment", IcmpUnmatched);
                set(6, &[58]).drops(&mut rig, "an echo", IcmpUnmatched);
            }
        }
    }
    rig.balance();
}

#[test]
fn types_that_are_no_errors_are_dropped() {
    let (mut rig, conns) = warm();
    for conn in &conns {
        let case = plain(conn, true);
        let (passed, no): (&[u8], &[u8]) = if conn.client.is_ipv4() {
            (&[3, 11, 12], &[0, 4, 5, 6, 9, 10, 13, 14, 17, 40, 255])
        } else {
            (&[1, 2, 3, 4], &[0, 5, 100, 127, 129, 130, 133, 134, 137, 255])
        };
        for kind in no {
            let frame = case.frame([*kind, 0, 0, 0, 0, 0]);
            rig.drops_as(&format!("type {kind}"), case.port, &frame, IcmpOther);
        }
        for kind in passed {
            case.passes(&mut rig, [*kind, 0, 0, 0, 0, 0]);
        }
    }
    rig.balance();
}

/// Its hops end here as any packet's do; nobody is told (RFC 1122 section 3.2.2).
#[test]
fn an_error_whose_hops_end_here_is_dropped_in_silence() {
    let (mut rig, conns) = warm();
    for conn in &conns {
        let case = plain(conn, true);
        for ttl in [0, 1] {
            let macs = (gw_mac(case.port), host_mac(next_hop(case.router)));
            let head = heads(conn)[0];
            let frame = icmp_frame(macs, case.port, case.router, case.ours, (ttl, 0), head, &case.quote);
            rig.drops_as("hops", case.port, &frame, TtlExpired);
        }
    }
    rig.balance();
}

/// RFC 1812 section 4.3.2.7: no error about an error, even when it does not fit the way out.
#[test]
fn an_error_too_long_for_the_way_out_is_dropped_in_silence() {
    let (mut rig, conns) = warm();
    for (conn, header) in [(&conns[5], 48), (&conns[7], 28)] {
        let long = |len: usize| about(conn, false, 1400, |_| ()).each(|q| q.truncate(len - header));
        long(1280).passes(&mut rig, heads(conn)[0]);
        long(1281).drops(&mut rig, "one byte too many", TooBig);
    }
    rig.balance();
}

/// RFC 5508 REQ-6: an error neither ends a connection nor keeps it, and counts as none of its packets.
#[test]
fn an_error_changes_nothing_about_its_connection() {
    let (mut rig, conns) = warm_with("[timers]\nudp = 10\ntcp_established = 20\ntcp_transitory = 10\n");
    let errors = |rig: &mut Rig| {
        for conn in &conns {
            for by_client in [true, false] {
                for head in heads(conn) {
                    plain(conn, by_client).passes(rig, *head);
                }
            }
        }
    };
    let listed = |rig: &mut Rig| {
        let mut rows = rig.connections();
        rows.sort_by_key(|c| (c.client, c.listen, c.target));
        rows.into_iter().map(|c| (c.client, c.state, c.to_target, c.to_client)).collect::<Vec<_>>()
    };
    let before = listed(&mut rig);
    rig.advance(5000);
    errors(&mut rig);
    assert_eq!(listed(&mut rig), before);
    for conn in conns.iter().filter(|conn| conn.proto == Proto::Tcp) {
        rig.relays_both(conn, true, tcp(ACK), b"unharmed");
        rig.relays_both(conn, false, tcp(ACK), b"unharmed");
    }
    rig.advance(4500);
    errors(&mut rig);
    rig.advance(3000);
    // Those of UDP have been silent for more than ten seconds.
    assert!(rig.connections().iter().all(|c| c.proto == Proto::Tcp));
    for conn in &conns {
        if conn.proto == Proto::Udp {
            plain(conn, true).drops(&mut rig, "expired", IcmpUnmatched);
        }
    }
    assert_eq!(rig.connections().len(), 4);
    rig.balance();
}

#[test]
fn a_deleted_flow_has_no_errors() {
    let (mut rig, conns) = warm();
    for (n, conn) in conns.iter().enumerate() {
        rig.delete(&format!("flow{n}"));
        for by_client in [true, false] {
            plain(conn, by_client).drops(&mut rig, "deleted", IcmpUnmatched);
        }
    }
    rig.balance();
}

/// An error comes to whatever worker, for a device steers it by its own addresses if at all.
#[test]
fn errors_find_the_worker_of_their_connection() {
    for workers in [2, 3] {
        let mut rig = Rig::with(&format!("{PORTS}\n{}", neighbors()), workers, 2048);
        add_flows(&mut rig);
        let mut owners = vec![0; workers];
        for (n, (proto, port, client, listen, out, target)) in SIDES.into_iter().cycle().take(32).enumerate()
        {
            let client = SocketAddr::new(addr(client).ip(), 4000 + n as u16);
            let (listen, target) = (addr(listen), addr(target));
            let owner = rig.home(port, proto, client, listen);
            owners[owner] += 1;
            let first = if proto == Proto::Tcp { tcp(SYN) } else { body(proto) };
            rig.inject_at(owner, port, &Packet::arriving(port, client, listen, first, b"").build());
            rig.turn();
            let source = read(&rig.take(out)[0]).src;
            let conn = Conn { proto, client, listen, source, target, port, out };
            for at in 0..workers {
                for by_client in [true, false] {
                    let (case, head) = (plain(&conn, by_client), heads(&conn)[0]);
                    rig.inject_at(at, case.port, &case.frame(head));
                    rig.turn();
                    let sent = rig.ios[owner].take_all(case.out);
                    assert_eq!(sent, [case.expected(head)], "{conn:?} at {at}, owned by {owner}");
                    let stray = plain(&conn, by_client).each(|q| {
                        q[l4(&conn) + 3] ^= 0x55;
                    });
                    let before = rig.drops().get("icmp_unmatched").copied().unwrap_or(0);
                    rig.inject_at(at, stray.port, &stray.frame(head));
                    rig.turn();
                    assert_eq!((rig.drops()["icmp_unmatched"], rig.take_any().len()), (before + 1, 0));
                }
            }
        }
        assert!(owners.iter().all(|n| *n > 0));
        rig.balance();
    }
}

/// Both ends behind one port, the listen address another's.
#[test]
fn errors_take_the_hairpin() {
    let mut rig = Rig::new("");
    let mut spec = flow("pin", Proto::Udp, "10.0.0.1:5000", "10.1.0.2:6000", "10.1.0.0/24");
    spec.hairpin = true;
    rig.add(spec);
    rig.advance(1000);
    let conn = rig.open(Proto::Udp, WAN, "10.1.0.3:4000", "10.0.0.1:5000", WAN, "10.1.0.2:6000");
    for by_client in [true, false] {
        for head in HEADS4 {
            plain(&conn, by_client).passes(&mut rig, head);
        }
    }
    rig.balance();
}

/// Errors and packets of a connection leave in the order in which they came.
#[test]
fn errors_keep_their_place_among_packets() {
    let (mut rig, conns) = warm();
    for conn in &conns {
        let (case, head) = (plain(conn, true), heads(conn)[0]);
        let packet = conn.by_target(body(conn.proto), &data(9));
        let (p, e) = (packet.build(), case.frame(head));
        rig.send(conn.out, &[p.clone(), e.clone(), p.clone(), p, e]);
        let (p, e) = (conn.back(&packet).build(), case.expected(head));
        assert_eq!(rig.take_any(), [&p, &e, &p, &p, &e].map(|f| (conn.port, f.clone())));
    }
    rig.balance();
}

/// The gateway's own error about a packet, back to the station that it came from.
fn told(port: u8, packet: &Packet, head: [u8; 6], longest: usize) -> Vec<u8> {
    let (ip, header, tos) = match packet.src {
        SocketAddr::V4(_) => (packet.build()[packet.l3()..].to_vec(), 28, 0xc0),
        SocketAddr::V6(_) => (packet.build()[packet.l3()..].to_vec(), 48, 0),
    };
    let quote = &ip[..ip.len().min(longest - header)];
    let macs = (packet.mac.1, gw_mac(port));
    icmp_frame(macs, port, packet.dst.ip(), packet.src.ip(), (64, tos), head, quote)
}

/// Type, code and MTU of what says that a packet is too big, and the greatest length of the error.
fn too_big(conn: &Conn) -> ([u8; 6], usize) {
    if conn.client.is_ipv4() { ([3, 4, 0, 0, 5, 0], 576) } else { ([2, 0, 0, 0, 5, 0], 1280) }
}

fn time_exceeded(conn: &Conn) -> ([u8; 6], usize) {
    if conn.client.is_ipv4() { ([11, 0, 0, 0, 0, 0], 576) } else { ([3, 0, 0, 0, 0, 0], 1280) }
}

/// One drop for `reason`, and the answer, if any, out of the port it came by.
#[track_caller]
fn answers(rig: &mut Rig, port: u8, frame: &[u8], reason: DropReason, answer: Option<Vec<u8>>) {
    let before = rig.drops();
    rig.send(port, &[frame.to_vec()]);
    let now: Vec<_> = common::since(&before, &rig.drops()).into_iter().collect();
    assert_eq!(now, [(reason.name().to_owned(), 1)]);
    let answer: Vec<_> = answer.into_iter().map(|frame| (port, frame)).collect();
    assert_eq!(rig.take_any(), answer);
}

/// RFC 1191 and RFC 8201: who sends more than the way out takes is told how much that is, and what it then sends passes.
#[test]
fn the_sender_of_what_is_too_big_is_told_what_passes() {
    let (mut rig, conns) = warm();
    for conn in [&conns[5], &conns[7]] {
        let (head, longest) = too_big(conn);
        let headers = l4(conn) + 20;
        for len in [1281, 1400, 1500] {
            let packet = conn.by_client(body(conn.proto), &data(len - headers));
            answers(
                &mut rig,
                conn.port,
                &packet.build(),
                TooBig,
                Some(told(conn.port, &packet, head, longest)),
            );
        }
        rig.relays_both(conn, true, body(conn.proto), &data(1280 - headers));
    }
    // The very first one as well.
    for (port, client, listen, n) in
        [(LAN, "10.0.0.3:4001", "10.0.0.1:5001", 7), (TAG, "[fd00:2::3]:4001", "[fd00:2::1]:5000", 5)]
    {
        let (head, longest) = too_big(&conns[n]);
        let packet = Packet::arriving(port, addr(client), addr(listen), tcp(SYN), &data(1400));
        answers(&mut rig, port, &packet.build(), TooBig, Some(told(port, &packet, head, longest)));
    }
    rig.balance();
}

/// IPv6 fragments are not cut: their sender is told, of whichever.
#[test]
fn the_sender_of_ipv6_fragments_is_told() {
    let (mut rig, conns) = warm();
    let conn = &conns[5];
    let packet = conn.by_client(body(conn.proto), &data(2700));
    let pieces = fragments(&packet.build(), &[1352], 6);
    for piece in &pieces {
        let quote = &piece[18..][..1232];
        let macs = (packet.mac.1, gw_mac(TAG));
        let ends = (packet.dst.ip(), packet.src.ip());
        let answer = icmp_frame(macs, TAG, ends.0, ends.1, (64, 0), [2, 0, 0, 0, 5, 0], quote);
        answers(&mut rig, TAG, piece, TooBig, Some(answer));
    }
    rig.balance();
}

/// Nobody can be told about what lies behind the packet, and nothing is told to a group.
#[test]
fn some_senders_are_not_told() {
    let (mut rig, conns) = warm();
    for conn in [&conns[5], &conns[7]] {
        let mut trailer = conn.by_client(body(conn.proto), b"short").build();
        trailer.resize(1400, 0);
        answers(&mut rig, conn.port, &trailer, TooBig, None);
        let mut packet = conn.by_client(body(conn.proto), &data(1400));
        packet.mac.1 = [0x33, 0x33, 0, 0, 0, 1];
        answers(&mut rig, conn.port, &packet.build(), TooBig, None);
    }
    rig.balance();
}

/// RFC 1812 section 5.3.1, RFC 4443 section 3.3. Padding is not quoted.
#[test]
fn the_sender_is_told_that_its_hops_end_here() {
    let (mut rig, conns) = warm();
    for conn in &conns {
        let (head, longest) = time_exceeded(conn);
        for by_client in [true, false] {
            for (ttl, len) in [(0, 0), (1, 0), (1, 5), (1, 520), (1, 521), (1, 1200)] {
                let (port, mut packet) = match by_client {
                    true => (conn.port, conn.by_client(body(conn.proto), &data(len))),
                    false => (conn.out, conn.by_target(body(conn.proto), &data(len))),
                };
                packet.ttl = ttl;
                packet.mac.1 = [2, 9, 9, 9, 9, 9];
                let answer = told(port, &packet, head, longest);
                let mut frame = packet.build();
                answers(&mut rig, port, &frame, TtlExpired, Some(answer.clone()));
                frame.extend([0xee; 9]);
                answers(&mut rig, port, &frame, TtlExpired, Some(answer));
            }
        }
        // A packet that would open a connection, which it does not.
        let client = SocketAddr::new(conn.client.ip(), 4999);
        let first = if conn.proto == Proto::Tcp { tcp(SYN) } else { body(conn.proto) };
        let mut packet = Packet::arriving(conn.port, client, conn.listen, first, b"");
        packet.ttl = 1;
        let answer = told(conn.port, &packet, head, longest);
        answers(&mut rig, conn.port, &packet.build(), TtlExpired, Some(answer));
    }
    assert_eq!(rig.connections().len(), conns.len());
    rig.balance();
}

#[test]
fn strangers_hear_nothing() {
    let (mut rig, conns) = warm();
    for (conn, other) in [(&conns[0], "10.0.0.77:4000"), (&conns[2], "[fd00::77]:4000")] {
        for change in
            [|p: &mut Packet, other: &str| p.src = addr(other), |p: &mut Packet, _: &str| p.dst.set_port(9)]
        {
            let mut packet = conn.by_client(body(conn.proto), b"");
            change(&mut packet, other);
            packet.ttl = 1;
            answers(&mut rig, LAN, &packet.build(), TtlExpired, None);
        }
    }
    // What is of no connection and opens none.
    let mut packet = conns[1].by_client(tcp(ACK), b"");
    packet.src.set_port(4999);
    packet.ttl = 1;
    answers(&mut rig, LAN, &packet.build(), TtlExpired, None);
    rig.balance();
}

/// RFC 1122 section 3.2.2: about the first fragment alone.
#[test]
fn later_fragments_end_in_silence() {
    let (mut rig, conns) = warm();
    for conn in &conns {
        let mut packet = conn.by_client(body(conn.proto), &data(100));
        packet.ttl = 1;
        let pieces = fragments(&packet.build(), &[40], 7);
        let (head, _) = time_exceeded(conn);
        let tos = if conn.client.is_ipv4() { 0xc0 } else { 0 };
        let macs = (packet.mac.1, gw_mac(conn.port));
        let ends = (packet.dst.ip(), packet.src.ip());
        let quote = &pieces[0][packet.l3()..];
        let answer = icmp_frame(macs, conn.port, ends.0, ends.1, (64, tos), head, quote);
        answers(&mut rig, conn.port, &pieces[0], TtlExpired, Some(answer));
        answers(&mut rig, conn.port, &pieces[1], TtlExpired, None);
    }
    rig.balance();
}

/// RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f): 200 at once, then one a millisecond, of all kinds together.
#[test]
fn own_errors_have_a_limit() {
    let (mut rig, conns) = warm();
    let conn = &conns[7];
    let big = conn.by_client(tcp(ACK), &data(1400));
    let mut late = conn.by_client(tcp(ACK), b"");
    late.ttl = 1;
    let told = [too_big(conn), time_exceeded(conn)];
    let right =
        [(&big, told[0]), (&late, told[1])].map(|(p, (head, longest))| self::told(LAN, p, head, longest));
    let frames: Vec<_> = (0..150).flat_map(|_| [big.build(), late.build()]).collect();
    rig.advance(1000);
    for (wait, told) in [(0, 200), (1, 1), (50, 50), (1000, 200)] {
        rig.advance(wait);
        rig.send(LAN, &frames);
        let sent = rig.take(LAN);
        assert_eq!(sent.len(), told);
        for (sent, right) in sent.iter().zip(right.iter().cycle()) {
            assert_same(sent, right);
        }
    }
    assert_eq!((rig.drops()["too_big"], rig.drops()["ttl_expired"]), (600, 600));
    rig.balance();
}
