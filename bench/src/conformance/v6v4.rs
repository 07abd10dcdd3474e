//! Flows between the families: RFC 7915.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use etherparse::TcpHeader;
use forwarder::api::Proto;

use super::icmp::error;
use super::oracle::{Conn, LAN, Lab, SLIM, WAN, host, segment};
use super::packet::{self, Message, Packet, V6_FRAGMENT, reassemble, tcp};
use super::setup::{Setup, TCP, UDP};

suite! { "v6v4":
    Families {
        clients_of_either_family_reach_targets_of_the_other,
        header_fields_are_translated,
        udp_without_a_checksum_gets_one,
        tcp_options_pass,
        fragments_are_translated,
        without_df_what_is_too_big_is_fragmented,
        with_df_what_is_too_big_is_told,
        errors_are_translated,
        mtus_are_translated,
        time_exceeded_comes_from_the_relay,
        errors_about_nothing_are_dropped,
        options_are_left_behind,
    }
}

const FAMILIES: [bool; 2] = [true, false];

fn data(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 253) as u8).collect()
}

/// Opens a connection of a client of the family `v4` towards the other one.
fn open(lab: &mut Lab, proto: Proto, v4: bool, number: u16) -> Result<Conn> {
    let f = Setup::Families.flow(proto, v4, number);
    let client = lab.client(LAN, 40, v4);
    let mut conn = lab.first_packet(&f, client)?;
    ensure!(conn.source.is_ipv4() != v4, "the source {} is of the client's family", conn.source);
    conn.proto = proto;
    let down = match proto {
        Proto::Udp => packet::udp(conn.target, conn.source, b"reply"),
        Proto::Tcp => tcp(conn.target, conn.source, segment("SA"), b""),
    };
    lab.send(conn.far, &down)?;
    let came = lab.expect(LAN, "the reply", |p| conn.is_down(p))?;
    match proto {
        Proto::Udp => ensure!(came.udp()?.1 == b"reply", "the reply is {came:?}"),
        Proto::Tcp => ensure!(came.tcp()?.0.syn && came.tcp()?.0.ack, "the reply is {came:?}"),
    }
    Ok(conn)
}

/// Compares everything but what translation makes anew.
fn carried(lab: &mut Lab, conn: &Conn, up: bool, sent: &Packet) -> Result<Packet> {
    let (from, to) = if up { (conn.near, conn.far) } else { (conn.far, conn.near) };
    lab.send(from, sent)?;
    let came = lab.expect(to, "a translated packet", |p| if up { conn.is_up(p) } else { conn.is_down(p) })?;
    let ends = if up { (conn.source, conn.target) } else { (conn.listen, conn.client) };
    let wanted = match conn.proto {
        Proto::Udp => packet::udp(ends.0, ends.1, sent.udp()?.1),
        Proto::Tcp => {
            let (header, data): (TcpHeader, &[u8]) = sent.tcp()?;
            tcp(ends.0, ends.1, header, data)
        }
    };
    ensure!(
        came.payload == wanted.payload,
        "the transport part is {:02x?}, not {:02x?}",
        came.payload,
        wanted.payload
    );
    ensure!(came.proto == wanted.proto, "the protocol became {}", came.proto);
    ensure!(came.ttl + 1 == sent.ttl, "the TTL went from {} to {}", sent.ttl, came.ttl);
    ensure!(came.tos == sent.tos, "the traffic class went from {} to {}", sent.tos, came.tos);
    Ok(came)
}

fn clients_of_either_family_reach_targets_of_the_other(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let conn = open(lab, proto, v4, 5020)?;
            for data in [&[][..], b"odd", &[0xff; 1200]] {
                carried(lab, &conn, true, &conn.up(data))?;
                carried(lab, &conn, false, &conn.down(data))?;
            }
        }
    }
    lab.silent(LAN, "after both directions passed")
}

fn header_fields_are_translated(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = open(lab, UDP, v4, 5020)?;
        for (tos, ttl) in [(0xb8, 2), (3, 255), (0, 64)] {
            for up in [true, false] {
                let sent = Packet { tos, ttl, ..if up { conn.up(b"marked") } else { conn.down(b"marked") } };
                let came = carried(lab, &conn, up, &sent)?;
                if came.src.is_ipv4() {
                    // Small packets may be fragmented on their way and therefore need an id (section 5.1).
                    ensure!(!came.df && !came.mf && came.offset == 0, "flags of a small packet: {came:?}");
                } else {
                    ensure!(came.label == 0, "a flow label from nowhere: {came:?}");
                }
            }
        }
        // What cannot be fragmented towards IPv6 keeps that meaning towards IPv4: over 1260 bytes DF is set.
        for up in [true, false] {
            let sent = if up { conn.up(&data(1300)) } else { conn.down(&data(1300)) };
            let came = carried(lab, &conn, up, &sent)?;
            ensure!(!came.src.is_ipv4() || came.df, "a packet of over 1260 bytes without DF: {came:?}");
        }
    }
    Ok(())
}

fn udp_without_a_checksum_gets_one(lab: &mut Lab) -> Result<()> {
    let blank = |mut p: Packet| {
        p.payload[6..8].fill(0);
        p
    };
    let up = open(lab, UDP, true, 5020)?;
    let down = open(lab, UDP, false, 5020)?;
    // It may also be dropped (section 4.5), but never pass as it is.
    for (conn, from, to, sent) in
        [(up, LAN, WAN, blank(up.up(b"bare"))), (down, WAN, LAN, blank(down.down(b"bare")))]
    {
        lab.send(from, &sent)?;
        lab.settle(from)?;
        for a in std::mem::take(&mut lab.inbox) {
            ensure!(a.link == to && a.packet.udp()?.1 == b"bare", "it became {a:?}");
        }
        lab.send(from, &if from == LAN { conn.up(b"whole") } else { conn.down(b"whole") })?;
        lab.expect(to, "a datagram with a checksum", |p| p.udp().is_ok_and(|u| u.1 == b"whole"))?;
    }
    Ok(())
}

fn tcp_options_pass(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = open(lab, TCP, v4, 5020)?;
        let mut header = segment("PA");
        header
            .set_options_raw(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 253, 4, 9, 9])
            .ok()
            .context("options")?;
        carried(lab, &conn, true, &tcp(conn.client, conn.listen, header.clone(), b"data"))?;
        carried(lab, &conn, false, &tcp(conn.target, conn.source, header, b"data"))?;
    }
    Ok(())
}

fn fragments_are_translated(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        for reversed in [false, true] {
            let conn = open(lab, UDP, v4, 5020)?;
            for up in [true, false] {
                let sent = if up { conn.up(&data(2400)) } else { conn.down(&data(2400)) };
                let (from, to) = if up { (LAN, WAN) } else { (WAN, LAN) };
                let mut pieces = sent.fragments(800, lab.fragment_id())?;
                if reversed {
                    pieces.reverse();
                }
                for p in &pieces {
                    lab.send(from, p)?;
                }
                let dst = if up { conn.target.ip() } else { conn.client.ip() };
                let whole = reassemble(&lab.expect_all(to, "a translated fragment", dst, pieces.len())?)?;
                ensure!(whole.udp()?.1 == data(2400), "the fragments make {whole:?}");
            }
        }
    }
    Ok(())
}

fn without_df_what_is_too_big_is_fragmented(lab: &mut Lab) -> Result<()> {
    // 1400 bytes of IPv4 towards IPv6 with an MTU of 1280.
    let conn = open(lab, UDP, true, 5021)?;
    lab.send(LAN, &Packet { df: false, ..conn.up(&data(1372)) })?;
    let came = lab.expect_all(SLIM, "a fragment", conn.target.ip(), 2)?;
    for p in &came {
        ensure!(
            p.proto == V6_FRAGMENT && p.bytes()?.len() <= 1280,
            "no fragment of at most 1280 bytes: {p:?}"
        );
    }
    ensure!(reassemble(&came)?.udp()?.1 == data(1372), "the fragments make another datagram");
    Ok(())
}

fn with_df_what_is_too_big_is_told(lab: &mut Lab) -> Result<()> {
    for (v4, kind, mtu, fits) in [(true, (3, 4), 1260u16, 1260), (false, (2, 0), 1300, 1300)] {
        let conn = open(lab, UDP, v4, 5021)?;
        let header = conn.up(&[]).bytes()?.len();
        // What is as long as is told passes, one byte more does not.
        carried(lab, &conn, true, &conn.up(&data(fits - header)))?;
        let sent = conn.up(&data(fits + 1 - header));
        lab.send(LAN, &sent)?;
        let came = lab.expect(LAN, "the error", |p| p.dst == conn.client.ip() && p.ends().is_none())?;
        let m = came.icmp()?;
        let told = u16::from_be_bytes([m.rest[2], m.rest[3]]);
        ensure!((m.kind, m.code) == kind && came.src == conn.listen.ip(), "{came:?}");
        ensure!(told == mtu, "the MTU told is {told}, not {mtu}");
        ensure!(m.quote(sent.src)?.ends() == sent.ends(), "it is about another packet: {m:?}");
    }
    Ok(())
}

/// Sends an error of the target's family about what went up, and returns what the client gets.
fn error_down(lab: &mut Lab, conn: &Conn, kind: (u8, u8), rest: [u8; 4]) -> Result<Message> {
    let body = about(conn).bytes()?;
    let router = host(WAN, 77, conn.target.is_ipv4());
    lab.send(conn.far, &error(kind, rest, &body).packet(router, conn.source.ip()))?;
    let came =
        lab.expect(LAN, "the translated error", |p| p.dst == conn.client.ip() && p.ends().is_none())?;
    ensure!(came.src == conn.listen.ip(), "the error comes from {}", came.src);
    let m = came.icmp()?;
    let quoted = m.quote(conn.client.ip())?;
    ensure!(quoted.ends() == Some((conn.client, conn.listen)), "it is about another packet: {quoted:?}");
    ensure!(quoted.payload == conn.up(b"about").payload, "the quoted datagram is {quoted:?}");
    Ok(m)
}

/// What the target's side got of a datagram.
fn about(conn: &Conn) -> Packet {
    packet::udp(conn.source, conn.target, b"about")
}

fn errors_are_translated(lab: &mut Lab) -> Result<()> {
    // RFC 7915 sections 4.2 and 5.2: what is sent, and what arrives in the other family; none for what is dropped.
    type Case = ((u8, u8), Option<(u8, u8)>);
    let from_v4: &[Case] = &[
        ((3, 0), Some((1, 0))),
        ((3, 1), Some((1, 0))),
        ((3, 3), Some((1, 4))),
        ((3, 5), Some((1, 0))),
        ((3, 9), Some((1, 1))),
        ((3, 10), Some((1, 1))),
        ((3, 13), Some((1, 1))),
        ((3, 14), None),
        ((3, 15), Some((1, 1))),
        ((11, 0), Some((3, 0))),
        ((11, 1), Some((3, 1))),
        ((4, 0), None),
    ];
    let from_v6: &[Case] = &[
        ((1, 0), Some((3, 1))),
        ((1, 1), Some((3, 10))),
        ((1, 2), Some((3, 1))),
        ((1, 3), Some((3, 1))),
        ((1, 4), Some((3, 3))),
        ((3, 0), Some((11, 0))),
        ((3, 1), Some((11, 1))),
        ((4, 2), None),
    ];
    for (v4, cases) in [(false, from_v4), (true, from_v6)] {
        let conn = open(lab, UDP, v4, 5020)?;
        for (sent, wanted) in cases {
            if let Some(wanted) = wanted {
                let m = error_down(lab, &conn, *sent, [0; 4]).with_context(|| format!("{sent:?}"))?;
                ensure!(
                    (m.kind, m.code) == *wanted,
                    "{sent:?} became ({}, {}), not {wanted:?}",
                    m.kind,
                    m.code
                );
            } else {
                let router = host(WAN, 77, conn.target.is_ipv4());
                lab.send(
                    WAN,
                    &error(*sent, [0; 4], &about(&conn).bytes()?).packet(router, conn.source.ip()),
                )?;
                lab.silent(WAN, "an error that has no like in the other family")
                    .with_context(|| format!("{sent:?}"))?;
            }
        }
        // From the client's side as well.
        let (kind, wanted) = if v4 { ((3, 3), (1, 4)) } else { ((1, 4), (3, 3)) };
        let body = packet::udp(conn.listen, conn.client, b"about").bytes()?;
        lab.send(LAN, &error(kind, [0; 4], &body).packet(conn.client.ip(), conn.listen.ip()))?;
        let came =
            lab.expect(WAN, "the translated error", |p| p.dst == conn.target.ip() && p.ends().is_none())?;
        let m = came.icmp()?;
        ensure!((m.kind, m.code) == wanted && came.src == conn.source.ip(), "{came:?}");
        ensure!(m.quote(conn.target.ip())?.ends() == Some((conn.target, conn.source)), "{m:?}");
    }
    Ok(())
}

fn mtus_are_translated(lab: &mut Lab) -> Result<()> {
    // 20 bytes more or less, at least 1280 towards IPv6 and never more than the links of the relay.
    for (v4, kind, cases) in [
        (true, (2, 0), &[(1400u16, 1380u16), (1280, 1260), (9000, 1480)][..]),
        (false, (3, 4), &[(1400, 1420), (1000, 1280), (1300, 1320), (9000, 1500)]),
    ] {
        let conn = open(lab, UDP, v4, 5020)?;
        for (sent, wanted) in cases {
            let [a, b] = sent.to_be_bytes();
            let m = error_down(lab, &conn, kind, [0, 0, a, b])?;
            let told = u16::from_be_bytes([m.rest[2], m.rest[3]]);
            ensure!((m.kind, m.code) == if v4 { (3, 4) } else { (2, 0) }, "{m:?}");
            ensure!(told == *wanted, "an MTU of {sent} became {told}, not {wanted}");
        }
    }
    Ok(())
}

fn time_exceeded_comes_from_the_relay(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = open(lab, UDP, v4, 5020)?;
        for up in [true, false] {
            let (link, sent) = if up { (LAN, conn.up(b"dying")) } else { (WAN, conn.down(b"dying")) };
            let sent = Packet { ttl: 1, ..sent };
            lab.send(link, &sent)?;
            let came = lab.expect(link, "the error", |p| p.dst == sent.src && p.ends().is_none())?;
            let m = came.icmp()?;
            let kind = if sent.src.is_ipv4() { (11, 0) } else { (3, 0) };
            ensure!((m.kind, m.code) == kind && came.src == sent.dst, "{came:?}");
            ensure!(m.quote(sent.src)? == sent, "it is about another packet: {m:?}");
        }
    }
    Ok(())
}

fn errors_about_nothing_are_dropped(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = open(lab, UDP, v4, 5020)?;
        let other = lab.free_source(conn.source.ip())?;
        let body = packet::udp(other, conn.target, b"about").bytes()?;
        let router: IpAddr = host(WAN, 77, !v4);
        let kind = if v4 { (1, 4) } else { (3, 3) };
        lab.send(WAN, &error(kind, [0; 4], &body).packet(router, conn.source.ip()))?;
        lab.silent(WAN, "an error about no connection")?;
    }
    Ok(())
}

fn options_are_left_behind(lab: &mut Lab) -> Result<()> {
    // Options of IPv4 are ignored, but a source route that is not at its end is refused (section 4.1).
    let conn = open(lab, UDP, true, 5020)?;
    let options = vec![148, 4, 0, 0, 1, 1, 1, 0];
    carried(lab, &conn, true, &Packet { options, ..conn.up(b"optional") })?;
    let route = vec![131, 7, 4, 10, 72, 0, 99, 0];
    lab.send(LAN, &Packet { options: route, ..conn.up(b"by another way") })?;
    lab.silent(LAN, "a packet with a source route")
}
