//! Fragments: those that come, in any order, follow the first of their datagram; those that are no part of one are dropped by name; and
//! packets that are too long for the way out leave in pieces. What the far end makes of them is the datagram that was sent.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::cmp::Ordering;

use common::packet::{ACK, Body, PSH, Packet, SYN, addr, extend, fix_ip4, fragments, read, tcp};
use common::{Conn, LAN, PORTS, Rig, SMALL, TAG, WAN, assert_same, flow, neighbors, since};
use forwarder::api::Proto;
use forwarder::engine::DropReason::{self, *};

/// Milliseconds that fragments wait for the first one.
const WAIT: u64 = 2000;

/// Protocol, the client's port and whether over IPv6, the target's port.
const SIDES: [(Proto, u8, bool, u8); 6] = [
    (Proto::Udp, LAN, false, WAN),
    (Proto::Tcp, LAN, false, WAN),
    (Proto::Udp, LAN, true, WAN),
    (Proto::Tcp, LAN, true, WAN),
    (Proto::Udp, TAG, false, LAN),
    (Proto::Tcp, TAG, true, LAN),
];

fn ends(port: u8, v6: bool, out: u8) -> [String; 3] {
    if v6 {
        [format!("[fd00:{port}::2]:4000"), format!("[fd00:{port}::1]:5000"), format!("[fd00:{out}::2]:6000")]
    } else {
        [format!("10.{port}.0.2:4000"), format!("10.{port}.0.1:5000"), format!("10.{out}.0.2:6000")]
    }
}

fn add_flows(rig: &mut Rig) {
    for (n, (proto, port, v6, out)) in SIDES.into_iter().enumerate() {
        let [_, listen, target] = ends(port, v6, out);
        let from = if v6 { format!("fd00:{port}::/64") } else { format!("10.{port}.0.0/24") };
        rig.add(flow(&format!("flow{n}"), proto, &listen, &target, &from));
    }
    rig.add(flow("small", Proto::Udp, "10.0.0.1:5001", "10.3.0.2:6000", "10.0.0.0/24"));
    rig.add(flow("small-tcp", Proto::Tcp, "10.2.0.1:5001", "10.3.0.2:6000", "10.2.0.0/24"));
}

/// One connection of each of [`SIDES`], in order.
fn warm() -> (Rig, Vec<Conn>) {
    warm_with(1)
}

fn warm_with(workers: usize) -> (Rig, Vec<Conn>) {
    let mut rig = Rig::with(&format!("{PORTS}\n{}", neighbors()), workers, 4096);
    add_flows(&mut rig);
    rig.advance(1000);
    let conns = SIDES.map(|(proto, port, v6, out)| {
        let [client, listen, target] = ends(port, v6, out);
        match proto {
            Proto::Udp => rig.open(proto, port, &client, &listen, out, &target),
            Proto::Tcp => rig.establish(port, &client, &listen, out, &target),
        }
    });
    (rig, conns.to_vec())
}

fn body(proto: Proto) -> Body {
    if proto == Proto::Tcp { tcp(PSH | ACK) } else { Body::Udp { checksum: true } }
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 256) as u8).collect()
}

/// A datagram of a connection as it comes and as it must leave: ports, and frames before they are cut.
struct Datagram {
    port: u8,
    frame: Vec<u8>,
    out: u8,
    leaves: Vec<u8>,
}

fn datagram(conn: &Conn, from_client: bool, len: usize) -> Datagram {
    if from_client {
        let p = conn.by_client(body(conn.proto), &data(len));
        Datagram { port: conn.port, frame: p.build(), out: conn.out, leaves: conn.forward(&p).build() }
    } else {
        let p = conn.by_target(body(conn.proto), &data(len));
        Datagram { port: conn.out, frame: p.build(), out: conn.port, leaves: conn.back(&p).build() }
    }
}

fn l3(frame: &[u8]) -> usize {
    if frame[12..14] == [0x81, 0] { 18 } else { 14 }
}

fn be(f: &[u8], at: usize) -> usize {
    usize::from(f[at]) << 8 | usize::from(f[at + 1])
}

/// The identification of a fragment without extension headers before its fragment header.
fn id_of(frame: &[u8]) -> u32 {
    let ip = &frame[l3(frame)..];
    (if ip[0] >> 4 == 6 { be(ip, 44) << 16 | be(ip, 46) } else { be(ip, 4) }) as u32
}

/// What the receiver makes of fragments without options, as the packet that it was: no hole, nothing twice, one end. Identification and
/// flags are those of [`Packet::build`], which IPv4 has no more.
#[track_caller]
fn reassemble(frames: &[Vec<u8>]) -> Vec<u8> {
    let id = id_of(&frames[0]);
    assert!(id != 0 && frames.iter().all(|f| id_of(f) == id), "one identification");
    let mut parts: Vec<(usize, bool, &[u8], &[u8])> = frames
        .iter()
        .map(|f| {
            let ip = &f[l3(f)..];
            if ip[0] >> 4 == 6 {
                assert_eq!((ip[6], ip.len()), (44, 40 + be(ip, 4)));
                (be(ip, 42) & 0xfff8, ip[43] & 1 == 1, &f[..l3(f) + 48], &ip[48..])
            } else {
                let header = usize::from(ip[0] & 15) * 4;
                assert_eq!(ip.len(), be(ip, 2));
                ((be(ip, 6) & 0x1fff) * 8, ip[6] & 0x20 != 0, &f[..l3(f) + header], &ip[header..])
            }
        })
        .collect();
    parts.sort_unstable();
    let mut payload = Vec::<u8>::new();
    for (n, (offset, more, _, bytes)) in parts.iter().enumerate() {
        assert_eq!((*offset, *more), (payload.len(), n + 1 < parts.len()));
        payload.extend(*bytes);
    }
    let mut frame = parts[0].2.to_vec();
    let l3 = l3(&frame);
    if frame[l3] >> 4 == 6 {
        frame[l3 + 6] = frame[l3 + 40];
        frame.truncate(l3 + 40);
        frame[l3 + 4..l3 + 6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    } else {
        let total = (frame.len() - l3 + payload.len()) as u16;
        frame[l3 + 2..l3 + 4].copy_from_slice(&total.to_be_bytes());
        frame[l3 + 4..l3 + 8].copy_from_slice(&[0x12, 0x34, 0x40, 0]);
        fix_ip4(&mut frame, l3);
    }
    frame.extend(payload);
    frame
}

/// Nothing comes out, and there is one drop, for `reason`; none when it waits.
#[track_caller]
fn stays(rig: &mut Rig, port: u8, frame: &[u8], reason: Option<DropReason>) {
    let before = rig.drops();
    rig.send(port, &[frame.to_vec()]);
    let now: Vec<(String, u64)> = since(&before, &rig.drops()).into_iter().collect();
    let expected: Vec<(String, u64)> = reason.iter().map(|r| (r.name().to_owned(), 1)).collect();
    assert_eq!(now, expected);
    assert_eq!(rig.take_any(), []);
}

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// In every order, of every kind, both ways: what came before the first waits for it and follows it in the order of arrival, byte for
/// byte what was sent but for addresses, hops and the identification; and the checksum of the whole is right.
#[test]
fn fragments_in_any_order_are_one_datagram_at_the_far_end() {
    let (mut rig, conns) = warm();
    let mut ids = Vec::new();
    for conn in &conns {
        for from_client in [true, false] {
            for order in ORDERS {
                for together in [false, true] {
                    let d = datagram(conn, from_client, 100);
                    let cuts = [40, 80];
                    // Always the same, as a sender may that numbers for each destination.
                    let pieces = fragments(&d.frame, &cuts, 77);
                    let mut sent = Vec::new();
                    if together {
                        rig.send(d.port, &order.map(|n| pieces[n].clone()));
                        sent = rig.take(d.out);
                    } else {
                        let first = order.iter().position(|n| *n == 0).unwrap();
                        for (i, n) in order.iter().enumerate() {
                            rig.send(d.port, &[pieces[*n].clone()]);
                            let now = rig.take(d.out);
                            let expected = match i.cmp(&first) {
                                Ordering::Less => 0,
                                Ordering::Equal => i + 1,
                                Ordering::Greater => 1,
                            };
                            assert_eq!(now.len(), expected, "{order:?}");
                            sent.extend(now);
                        }
                    }
                    let id = id_of(&sent[0]);
                    let right = fragments(&d.leaves, &cuts, id);
                    let waited = order.iter().take_while(|n| **n != 0);
                    let after = order.iter().skip_while(|n| **n != 0).skip(1);
                    let left: Vec<_> = [&0].into_iter().chain(waited).chain(after).collect();
                    assert_eq!(sent.len(), 3);
                    for (sent, n) in sent.iter().zip(left) {
                        assert_same(sent, &right[*n]);
                    }
                    let whole = reassemble(&sent);
                    assert_eq!(read(&whole).payload, data(100));
                    assert_same(&whole, &d.leaves);
                    ids.push((d.frame[l3(&d.frame)] >> 4, id));
                    // Until the next datagram may have this identification.
                    rig.advance(WAIT);
                }
            }
        }
    }
    assert_eq!(rig.drops().len(), 0);
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "an identification was used twice");
    rig.balance();
}

/// Two hosts that use the same identification towards the same target: there they have one address, and must not be mixed up.
#[test]
fn datagrams_of_two_clients_do_not_mix() {
    let (mut rig, conns) = warm();
    let other = rig.open(Proto::Udp, LAN, "10.0.0.3:4000", "10.0.0.1:5000", WAN, "10.1.0.2:6000");
    let [a, b] = [&conns[0], &other].map(|conn| datagram(conn, true, 100));
    let [pa, pb] = [&a, &b].map(|d| fragments(&d.frame, &[56], 9));
    rig.send(LAN, &[pa[0].clone(), pb[0].clone(), pb[1].clone(), pa[1].clone()]);
    let sent = rig.take(WAN);
    assert_same(&reassemble(&[sent[0].clone(), sent[3].clone()]), &a.leaves);
    assert_same(&reassemble(&[sent[1].clone(), sent[2].clone()]), &b.leaves);
    assert_ne!(id_of(&sent[0]), id_of(&sent[1]));
    rig.balance();
}

#[test]
fn a_datagram_of_as_many_bytes_as_there_can_be_passes() {
    let (mut rig, conns) = warm();
    for (n, conn) in conns[..4].iter().enumerate() {
        let header = if conn.proto == Proto::Udp { 8 } else { 20 };
        // Of IPv4, 20 bytes less are left for it.
        let longest = if conn.client.is_ipv4() { 65_515 } else { 65_535 };
        let short = datagram(conn, true, 8);
        // Longer than etherparse builds: the payload is put behind by hand.
        let l4 = short.frame.len() - 8 - header;
        let grow = |frame: &[u8]| {
            let mut f = frame[..frame.len() - 8].to_vec();
            f.extend(data(longest - header));
            if conn.proto == Proto::Udp {
                f[l4 + 4..l4 + 6].copy_from_slice(&(longest as u16).to_be_bytes());
            }
            let (at, number) = if conn.proto == Proto::Udp { (l4 + 6, 17) } else { (l4 + 16, 6) };
            f[at..at + 2].fill(0);
            let addresses = if conn.client.is_ipv4() { &f[l4 - 8..l4] } else { &f[l4 - 32..l4] };
            let len = (longest as u32).to_be_bytes();
            let sum = common::packet::internet_checksum(&[addresses, &[0, 0, 0, number], &len, &f[l4..]]);
            f[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            f
        };
        let (frame, leaves) = (grow(&short.frame), grow(&short.leaves));
        let cuts: Vec<usize> = (1..).map(|n| n * 1400).take_while(|n| *n < longest).collect();
        let pieces = fragments(&frame, &cuts, n as u32);
        let mut sent = Vec::new();
        for piece in &pieces {
            rig.send(conn.port, std::slice::from_ref(piece));
            sent.extend(rig.take(conn.out));
        }
        let right = fragments(&leaves, &cuts, id_of(&sent[0]));
        assert!(sent == right, "{} {} fragments", conn.client, sent.len());
    }
    assert_eq!(rig.drops().len(), 0);
    rig.balance();
}

/// What comes twice is dropped, and does its datagram no harm.
#[test]
fn a_fragment_passes_once() {
    let (mut rig, conns) = warm();
    for conn in &conns {
        for order in ORDERS {
            let d = datagram(conn, true, 100);
            let pieces = fragments(&d.frame, &[40, 80], 1);
            for n in order {
                rig.send(d.port, &[pieces[n].clone()]);
                stays_but(&mut rig, d.port, &pieces[n], d.out);
            }
            rig.send(d.port, &pieces);
            assert_eq!(rig.take(d.out), [] as [Vec<u8>; 0]);
            rig.advance(WAIT);
        }
    }
    assert_eq!(rig.drops()["fragment_overlap"], 6 * 6 * 6);
    assert_eq!(rig.drops().len(), 1);
    rig.balance();

    fn stays_but(rig: &mut Rig, port: u8, frame: &[u8], out: u8) {
        rig.take(out);
        stays(rig, port, frame, Some(FragmentOverlap));
    }
}

/// A fragment at `offset` with `len` bytes of a later one's.
fn piece(frame: &[u8], id: u32, offset: usize, len: usize, more: bool) -> Vec<u8> {
    let l3 = l3(frame);
    let header = if frame[l3] >> 4 == 6 { 40 } else { 20 };
    let mut long = frame.to_vec();
    long.resize(l3 + header + offset + len + 8, 0xee);
    let end = offset + len;
    let cuts: Vec<usize> = [offset, end].into_iter().filter(|n| *n > 0).collect();
    let mut f = fragments(&long, &cuts, id)[usize::from(offset > 0)].clone();
    if !more {
        let at = l3 + if header == 40 { 43 } else { 6 };
        f[at] &= if header == 40 { 0xfe } else { 0xdf };
        if header == 20 {
            fix_ip4(&mut f, l3);
        }
    }
    f
}

/// RFC 5722: fragments that overlap say two things about the same bytes. Nothing more of such a datagram passes, whichever way they
/// overlap, and what waited is given up; other datagrams are not concerned.
#[test]
fn overlapping_fragments_end_their_datagram() {
    let (mut rig, conns) = warm();
    let mut id = 100;
    for conn in &conns {
        let d = datagram(conn, true, 192);
        // Of 0..40 and 80..120 came; offset, length.
        for (offset, len) in [(32, 16), (72, 16), (112, 16), (32, 56), (72, 56), (0, 48), (0, 128), (24, 104)]
        {
            for first_too in [true, false] {
                if !first_too && offset < 40 && offset + len <= 80 {
                    continue;
                }
                id += 1;
                if first_too {
                    rig.send(d.port, &[piece(&d.frame, id, 0, 40, true)]);
                    assert_eq!(rig.take(d.out).len(), 1);
                    rig.send(d.port, &[piece(&d.frame, id, 80, 40, true)]);
                    assert_eq!(rig.take(d.out).len(), 1);
                } else {
                    stays(&mut rig, d.port, &piece(&d.frame, id, 80, 40, true), None);
                }
                let name = format!("{offset} {len} {first_too}");
                rig.drops_as(&name, d.port, &piece(&d.frame, id, offset, len, true), FragmentOverlap);
                for (offset, len, more) in [(40, 40, true), (120, 40, false), (0, 40, true)] {
                    rig.drops_as(&name, d.port, &piece(&d.frame, id, offset, len, more), FragmentOverlap);
                }
                let before = rig.drops();
                rig.advance(100);
                let given_up = since(&before, &rig.drops());
                assert_eq!(given_up.get("fragment_timeout"), (!first_too).then_some(&1), "{name}");
                rig.send(d.port, &fragments(&d.frame, &[40, 80], id + 10_000));
                assert_same(&reassemble(&rig.take(d.out)), &d.leaves);
            }
        }
        rig.advance(20_000);
    }
    rig.balance();
}

/// Where a datagram ends is said once, and nothing lies behind.
#[test]
fn a_datagram_has_one_end() {
    let (mut rig, conns) = warm();
    for conn in &conns {
        let d = datagram(conn, true, 192);
        rig.send(d.port, &[piece(&d.frame, 1, 0, 40, true), piece(&d.frame, 1, 80, 21, false)]);
        assert_eq!(rig.take(d.out).len(), 2);
        for (offset, len, more) in [(104, 8, true), (104, 8, false), (104, 9, false), (40, 8, false)] {
            let frame = piece(&d.frame, 1, offset, len, more);
            rig.drops_as(&format!("{offset} {len} {more}"), d.port, &frame, FragmentMalformed);
        }
        rig.send(d.port, &[piece(&d.frame, 2, 0, 40, true), piece(&d.frame, 2, 80, 40, true)]);
        assert_eq!(rig.take(d.out).len(), 2);
        rig.drops_as("an end before others", d.port, &piece(&d.frame, 2, 40, 40, false), FragmentMalformed);
        rig.advance(20_000);
    }
    rig.balance();
}

/// RFC 1858 and RFC 3128: a later fragment cannot change the ports or flags that the first one was let through with.
#[test]
fn no_fragment_reaches_into_the_transport_header() {
    let (mut rig, conns) = warm();
    for (n, conn) in conns.iter().enumerate() {
        let (d, id) = (datagram(conn, true, 64), n as u32);
        let header = if conn.proto == Proto::Tcp { 20 } else { 8 };
        for len in (8..header).step_by(8) {
            let first = piece(&d.frame, id, 0, len, true);
            rig.drops_as(&format!("first of {len}"), d.port, &first, FragmentTiny);
            let within = piece(&d.frame, id, len, 40, true);
            rig.drops_as(&format!("at {len}"), d.port, &within, FragmentTiny);
        }
        rig.send(d.port, &[piece(&d.frame, id, 0, 24, true)]);
        assert_eq!(rig.take(d.out).len(), 1);
        let again = piece(&d.frame, id, 0, 24, true);
        rig.drops_as("the first again", d.port, &again, FragmentOverlap);
        let longer = piece(&d.frame, id, 0, 32, true);
        rig.drops_as("a longer first", d.port, &longer, FragmentOverlap);
    }
    rig.balance();
}

#[test]
fn what_waits_in_vain_is_given_up_after_two_seconds() {
    for conn in &warm().1 {
        let (mut rig, _) = warm();
        let d = datagram(conn, true, 100);
        let pieces = fragments(&d.frame, &[40, 80], 3);
        rig.send(d.port, &pieces[1..]);
        rig.advance(WAIT - 1);
        assert_eq!((rig.stats().held, rig.drops().len(), rig.take_any().len()), (2, 0, 0));
        rig.advance(101);
        assert_eq!((rig.stats().held, rig.drops()["fragment_timeout"]), (0, 2));
        assert_eq!(rig.take_any(), []);
        rig.balance();
    }
}

#[test]
fn a_connection_is_opened_by_a_datagram_in_fragments() {
    for order in ORDERS {
        let mut rig = Rig::new("");
        add_flows(&mut rig);
        for (n, (proto, port, v6, out)) in SIDES.into_iter().enumerate() {
            let [client, listen, target] = ends(port, v6, out);
            let body = if proto == Proto::Tcp { tcp(SYN) } else { body(proto) };
            let packet = Packet::arriving(port, addr(&client), addr(&listen), body, &data(100));
            let pieces = fragments(&packet.build(), &[40, 80], n as u32);
            rig.send(port, &order.map(|n| pieces[n].clone()));
            let whole = reassemble(&rig.take(out));
            let source = read(&whole).src;
            let (client, listen, target) = (addr(&client), addr(&listen), addr(&target));
            let conn = Conn { proto, client, listen, source, target, port, out };
            assert_same(&whole, &conn.forward(&packet).build());
            rig.relays_both(
                &conn,
                false,
                if proto == Proto::Tcp { tcp(SYN | ACK) } else { packet.body },
                b"",
            );
        }
        assert_eq!(rig.connections().len(), SIDES.len());
        rig.balance();
    }
}

/// A first fragment that is none of its datagram's opens nothing: it came before, or it overlaps what did.
#[test]
fn a_fragment_that_is_refused_opens_no_connection() {
    let mut rig = Rig::new("");
    add_flows(&mut rig);
    rig.advance(1000);
    let first = |client: u16| {
        let whole = Packet::udp(LAN, &format!("10.0.0.2:{client}"), "10.0.0.1:5000", &data(184)).build();
        move |len, more| piece(&whole, 1, 0, len, more)
    };
    rig.send(LAN, &[first(4000)(64, true)]);
    assert_eq!(rig.take(WAN).len(), 1);
    // Of the same addresses and identification, with other ports.
    rig.drops_as("some of the bytes", LAN, &first(4001)(32, true), FragmentOverlap);
    rig.drops_as("the same bytes", LAN, &first(4002)(64, true), FragmentOverlap);
    rig.drops_as("more bytes", LAN, &first(4003)(72, true), FragmentOverlap);
    rig.drops_as("of a doomed datagram", LAN, &first(4004)(64, true), FragmentOverlap);
    assert_eq!(rig.connections().len(), 1);
    rig.balance();
}

/// Fragments open nothing that a whole packet would not.
#[test]
fn who_may_not_open_a_connection_may_not_in_fragments() {
    let mut rig = Rig::new("");
    add_flows(&mut rig);
    for (packet, reason) in [
        (Packet::udp(LAN, "10.0.0.2:4000", "10.0.0.1:9999", &data(100)), NoFlow),
        (Packet::udp(LAN, "192.168.0.2:4000", "10.0.0.1:5000", &data(100)), SourceDenied),
        (Packet::tcp(LAN, "10.0.0.2:4000", "10.0.0.1:5000", ACK, &data(100)), TcpNoConnection),
    ] {
        let pieces = fragments(&packet.build(), &[40, 80], 4);
        rig.drops_as("first", LAN, &pieces[0], reason);
        stays(&mut rig, LAN, &pieces[1], None);
        stays(&mut rig, LAN, &pieces[2], None);
    }
    assert_eq!(rig.connections().len(), 0);
    rig.advance(WAIT + 100);
    assert_eq!(rig.drops()["fragment_timeout"], 6);
    rig.balance();
}

#[test]
fn nothing_passes_once_the_connection_is_gone() {
    let (mut rig, conns) = warm();
    for (n, conn) in conns.iter().enumerate() {
        let waits = fragments(&datagram(conn, true, 100).frame, &[40, 80], 5);
        let goes = fragments(&datagram(conn, true, 100).frame, &[40, 80], 6);
        stays(&mut rig, conn.port, &waits[1], None);
        rig.send(conn.port, &goes[..2]);
        assert_eq!(rig.take(conn.out).len(), 2);
        rig.delete(&format!("flow{n}"));
        rig.drops_as("first of a datagram that waits", conn.port, &waits[0], NoFlow);
        rig.drops_as("last of one that went", conn.port, &goes[2], FragmentTimeout);
        let before = rig.drops();
        rig.advance(WAIT + 100);
        assert_eq!(since(&before, &rig.drops())["fragment_timeout"], 1);
    }
    rig.balance();
}

#[test]
fn the_end_gives_back_what_waits() {
    let (mut rig, conns) = warm();
    let pieces = fragments(&datagram(&conns[0], true, 100).frame, &[40, 80], 5);
    rig.send(LAN, &pieces[1..]);
    assert_eq!(rig.stats().held, 2);
    rig.stop.stop();
    rig.workers.pop().unwrap().run();
    assert_eq!(rig.drops()["stopped"], 2);
    assert_eq!((rig.stats().held, rig.ios[0].available()), (0, rig.buffers));
}

/// Strangers' fragments, whose first ones never come, have but a few buffers, and give way: whoever has a connection can have its
/// fragments in any order all the while, at whatever worker they meet.
#[test]
fn strangers_cannot_hinder_who_has_a_connection() {
    for workers in [1, 3] {
        let (mut rig, conns) = warm_with(workers);
        let mut random = 7u32;
        let mut next = move || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random >> 8
        };
        let mut flood = |rig: &mut Rig| {
            for burst in 0..200 * workers {
                let frames: Vec<_> = (0..32)
                    .map(|_| {
                        let (host, id) = (next() % 65_000 + 300, next());
                        let v6 = burst % 2 == 1;
                        let (src, dst) = if v6 {
                            (format!("[fd00::1:{host:x}]:4000"), "[fd00::1]:5000")
                        } else {
                            (format!("10.0.{}.{}:4000", host / 256, host % 256), "10.0.0.1:5000")
                        };
                        let whole = Packet::udp(LAN, &src, dst, &data(100)).build();
                        fragments(&whole, &[40, 80], id)[1].clone()
                    })
                    .collect();
                rig.send(LAN, &frames);
            }
        };
        flood(&mut rig);
        for (n, conn) in conns.iter().enumerate() {
            let d = datagram(conn, true, 100);
            let pieces = fragments(&d.frame, &[40, 80], n as u32);
            rig.send(d.port, &[pieces[2].clone(), pieces[1].clone()]);
            flood(&mut rig);
            // One in a thousand is taken for a friend.
            assert!(rig.stats().held < (workers * (64 + 200)) as u64);
            rig.send(d.port, &[pieces[0].clone()]);
            assert_same(&reassemble(&rig.take(d.out)), &d.leaves);
            rig.advance(10);
        }
        assert!(rig.drops()["fragment_table_full"] > 10_000);
        rig.advance(WAIT + 100);
        assert_eq!(rig.stats().held, 0);
        rig.balance();
    }
}

/// Fragments arrive at whatever worker and leave by the one that owns the connection, in the order in which they came.
#[test]
fn fragments_meet_whichever_worker_they_come_to() {
    for workers in [2, 3] {
        let mut rig = Rig::with(&format!("{PORTS}\n{}", neighbors()), workers, 2048);
        add_flows(&mut rig);
        rig.advance(1000);
        let mut handed = 0;
        for (n, (proto, port, v6, out)) in SIDES.into_iter().cycle().take(24).enumerate() {
            let [client, listen, target] = ends(port, v6, out);
            let client = client.replace(":4000", &format!(":{}", 4000 + n));
            let first = if proto == Proto::Tcp { tcp(SYN) } else { body(proto) };
            let first = Packet::arriving(port, addr(&client), addr(&listen), first, b"");
            let owner = rig.home(port, proto, addr(&client), addr(&listen));
            rig.inject_at(owner, port, &first.build());
            rig.turn();
            let source = read(&rig.take(out)[0]).src;
            let (client, listen, target) = (addr(&client), addr(&listen), addr(&target));
            let conn = Conn { proto, client, listen, source, target, port, out };
            for from_client in [true, false] {
                for (i, order) in ORDERS.into_iter().enumerate() {
                    let d = datagram(&conn, from_client, 100);
                    let pieces =
                        fragments(&d.frame, &[40, 80], (n * 12 + i * 2) as u32 + u32::from(from_client));
                    for (i, piece) in order.into_iter().enumerate() {
                        rig.inject_at((n + i * i) % workers, d.port, &pieces[piece]);
                        rig.turn();
                    }
                    let sent = rig.ios[owner].take_all(d.out);
                    assert_same(&reassemble(&sent), &d.leaves);
                    let right = fragments(&d.leaves, &[40, 80], id_of(&sent[0]));
                    let waited: Vec<usize> = order.into_iter().take_while(|n| *n != 0).collect();
                    let rest: Vec<usize> = order.into_iter().filter(|n| *n != 0).collect();
                    assert_same(&sent[0], &right[0]);
                    assert_same(&sent[1], &right[rest[0]]);
                    assert_same(&sent[2], &right[rest[1]]);
                    handed += waited.len();
                }
            }
        }
        assert!(handed > 0 && rig.stats().workers.iter().all(|w| w.handed_over > 0 && w.taken_over > 0));
        assert_eq!(rig.drops().len(), 0);
        rig.balance();
    }
}

/// Many datagrams at once at one worker, in order, with whole packets in between: each direction leaves in the order in which it came.
#[test]
fn fragments_and_whole_packets_keep_their_order() {
    for workers in [1, 2, 3] {
        let mut rig = Rig::with(&format!("{PORTS}\n{}", neighbors()), workers, 2048);
        add_flows(&mut rig);
        rig.advance(1000);
        for client in 4000..4012 {
            let owner = rig.home(LAN, Proto::Udp, addr(&format!("10.0.0.2:{client}")), addr("10.0.0.1:5000"));
            let packet = |n: usize| {
                let payload = [&(n as u32).to_be_bytes()[..], &data(60)].concat();
                Packet::udp(LAN, &format!("10.0.0.2:{client}"), "10.0.0.1:5000", &payload).build()
            };
            rig.inject_at(owner, LAN, &packet(1000));
            rig.turn();
            rig.take(WAN);
            let at = client as usize % workers;
            for n in 0..20 {
                for piece in fragments(&packet(n), &[40], client * 100 + n as u32) {
                    rig.inject_at(at, LAN, &piece);
                }
            }
            rig.turn();
            let sent = rig.take(WAN);
            assert_eq!(sent.len(), 40);
            for (n, pair) in sent.chunks(2).enumerate() {
                assert_eq!(read(&reassemble(pair)).payload[..4], (n as u32).to_be_bytes());
            }
        }
        rig.balance();
    }
}

/// A frame of IPv4 as its sender may send it to be cut: without DF.
fn may_be_cut(mut frame: Vec<u8>) -> Vec<u8> {
    let l3 = l3(&frame);
    frame[l3 + 6] = 0;
    fix_ip4(&mut frame, l3);
    frame
}

/// The connections over IPv4 whose way out takes 1280 bytes.
fn narrow(rig: &mut Rig) -> [Conn; 2] {
    [
        rig.open(Proto::Udp, LAN, "10.0.0.2:4000", "10.0.0.1:5001", SMALL, "10.3.0.2:6000"),
        rig.establish(TAG, "10.2.0.2:4000", "10.2.0.1:5001", SMALL, "10.3.0.2:6000"),
    ]
}

/// RFC 791 section 3.2, RFC 1812 section 4.2.2.7.
#[test]
fn a_packet_too_long_for_the_way_out_leaves_in_pieces() {
    let (mut rig, _) = warm();
    let mut ids = Vec::new();
    for conn in narrow(&mut rig) {
        let header = if conn.proto == Proto::Udp { 28 } else { 40 };
        for len in [1281, 1282, 1288, 1400, 1499, 1500] {
            let d = datagram(&conn, true, len - header);
            rig.send(d.port, &[may_be_cut(d.frame)]);
            let sent = rig.take(SMALL);
            // 1280 - 20 is no multiple of 8.
            let right = fragments(&d.leaves, &[1256], id_of(&sent[0]));
            assert_eq!(sent, right);
            assert_same(&reassemble(&sent), &d.leaves);
            read(&reassemble(&sent));
            ids.push(id_of(&sent[0]));
        }
        // In line with others.
        let frames: Vec<_> =
            [100, 1300, 101, 1301, 102].map(|len| may_be_cut(datagram(&conn, true, len).frame)).to_vec();
        rig.send(conn.port, &frames);
        let sent = rig.take(SMALL);
        let lens: Vec<usize> = sent.iter().map(|f| f.len() - 18 - header).collect();
        let rest = 1300 + header - 20 - 1256 + 20 - header;
        assert_eq!(lens, [100, 1276 - header, rest, 101, 1276 - header, rest + 1, 102]);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 12, "an identification was used twice");
    assert_eq!(rig.drops().len(), 0);
    rig.balance();
}

/// RFC 791 section 3.1: an option with the copied flag is in all pieces, any other in the first alone.
#[test]
fn pieces_have_the_options_that_are_to_be_copied() {
    let (mut rig, _) = warm();
    let [conn, _] = narrow(&mut rig);
    let router_alert = [148, 4, 0, 0];
    let timestamp = [68, 8, 5, 0, 0, 0, 0, 0];
    let odd = [0x82, 3, 9];
    for (options, copied) in [
        ([&timestamp[..], &router_alert].concat(), router_alert.to_vec()),
        ([&router_alert[..], &timestamp].concat(), router_alert.to_vec()),
        ([&[1][..], &odd, &timestamp].concat(), [&odd[..], &[0]].concat()),
        (timestamp.to_vec(), vec![]),
        ([&odd[..], &[0]].concat(), [&odd[..], &[0]].concat()),
    ] {
        let mut packet = conn.by_client(body(Proto::Udp), &data(1400));
        packet.ip_options = options.clone();
        rig.send(LAN, &[may_be_cut(packet.build())]);
        let sent = rig.take(SMALL);
        assert_eq!(sent.len(), 2);
        let header = 20 + options.len();
        let most = (1280 - header) / 8 * 8;
        let leaves = conn.forward(&packet).build();
        let right = fragments(&leaves, &[most], id_of(&sent[0]));
        assert_same(&sent[0], &right[0]);
        let mut second = right[1].clone();
        second.splice(38..18 + header, copied.clone());
        second[18] = 0x45 + copied.len() as u8 / 4;
        let total = (second.len() - 18) as u16;
        second[20..22].copy_from_slice(&total.to_be_bytes());
        fix_ip4(&mut second, 18);
        assert_same(&sent[1], &second);
    }
    rig.balance();
}

/// A fragment that is itself too long is cut further; all pieces of the datagram have one identification.
#[test]
fn a_fragment_too_long_for_the_way_out_is_cut_further() {
    let (mut rig, _) = warm();
    for conn in narrow(&mut rig) {
        for order in ORDERS {
            let d = datagram(&conn, true, 4000);
            let cuts = [1480, 2960];
            let pieces = fragments(&d.frame, &cuts, 8);
            rig.send(d.port, &order.map(|n| pieces[n].clone()));
            let sent = rig.take(SMALL);
            assert!(sent.iter().all(|f| f.len() - 18 <= 1280));
            let first = |n: usize| n * 1480;
            let mut places: Vec<usize> = (0..2).flat_map(|n| [first(n), first(n) + 1256]).skip(1).collect();
            places.push(2960);
            let right = fragments(&d.leaves, &places, id_of(&sent[0]));
            assert_eq!(sent.len(), right.len());
            assert!(right.iter().all(|f| sent.contains(f)));
            assert_same(&reassemble(&sent), &d.leaves);
            rig.advance(WAIT);
        }
    }
    assert_eq!(rig.drops().len(), 0);
    rig.balance();
}

/// RFC 6946: a fragment header with offset 0 and nothing to follow makes no fragment.
#[test]
fn atomic_fragments_pass_as_whole_packets() {
    let (mut rig, conns) = warm();
    for conn in conns.iter().filter(|conn| conn.client.is_ipv6()) {
        for from_client in [true, false] {
            let d = datagram(conn, from_client, 50);
            let header = [0, 0, 0, 0, 1, 2, 3, 4];
            // The same identification again and again: nothing is remembered of it.
            for _ in 0..3 {
                let sent = rig.pass(d.port, &extend(&d.frame, 44, &header), d.out);
                assert_same(&sent, &extend(&d.leaves, 44, &header));
            }
        }
    }
    rig.balance();
}

/// RFC 8200 section 4: what is for nodes on the way or for the destination passes as it is.
#[test]
fn extension_headers_pass() {
    let (mut rig, conns) = warm();
    let headers: [(u8, &[u8]); 4] = [
        (0, &[0, 0, 5, 2, 0, 0, 1, 0]),
        (60, &[0, 1, 1, 4, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0, 1, 0]),
        (43, &[0, 0, 4, 0, 0, 0, 0, 0]),
        (60, &[0, 0, 1, 4, 0, 0, 0, 0]),
    ];
    for (n, conn) in conns.iter().enumerate().filter(|(_, conn)| conn.client.is_ipv6()) {
        for from_client in [true, false] {
            let d = datagram(conn, from_client, 50);
            for (kind, header) in headers {
                let sent = rig.pass(d.port, &extend(&d.frame, kind, header), d.out);
                assert_same(&sent, &extend(&d.leaves, kind, header));
            }
            let all = |frame: &[u8]| {
                let twice = headers.iter().rev().chain(headers.iter().rev());
                twice.fold(frame.to_vec(), |f, (kind, header)| extend(&f, *kind, header))
            };
            assert_same(&rig.pass(d.port, &all(&d.frame), d.out), &all(&d.leaves));
            // And before a fragment header.
            let pieces =
                fragments(&d.frame, &[24], n as u32).into_iter().map(|f| extend(&f, 60, headers[3].1));
            rig.send(d.port, &pieces.collect::<Vec<_>>());
            let sent = rig.take(d.out);
            let id = be(&sent[0], l3(&sent[0]) + 52) << 16 | be(&sent[0], l3(&sent[0]) + 54);
            let right = fragments(&d.leaves, &[24], id as u32).into_iter();
            assert_eq!(sent, right.map(|f| extend(&f, 60, headers[3].1)).collect::<Vec<_>>());
        }
    }
    rig.balance();
}

/// RFC 768: a datagram without a checksum has none behind the relay either.
#[test]
fn no_checksum_stays_none() {
    let (mut rig, conns) = warm();
    let conn = &conns[0];
    let packet = conn.by_client(Body::Udp { checksum: false }, &data(100));
    rig.send(LAN, &fragments(&packet.build(), &[40], 5));
    assert_same(&reassemble(&rig.take(WAN)), &conn.forward(&packet).build());
    rig.balance();
}
