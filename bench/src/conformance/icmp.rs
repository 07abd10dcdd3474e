//! ICMP and ICMPv6: RFC 5508, RFC 4443, RFC 4884, and path MTU discovery.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::oracle::{Conn, LAN, Lab, Link, WAN, host, own};
use super::packet::{self, Message, Packet, checksum};
use super::setup::{self, Setup, TCP, UDP};
use super::udp::first;

suite! { "icmp":
    Main {
        errors_from_the_targets_side_are_translated,
        errors_from_the_clients_side_are_translated,
        errors_come_from_any_router,
        every_code_is_kept,
        errors_about_nothing_are_dropped,
        a_bad_icmp_checksum_is_dropped,
        a_bad_inner_header_checksum_is_dropped,
        inner_options_are_skipped,
        the_inner_transport_checksum_is_not_verified,
        short_and_long_quotes,
        extensions_are_kept,
        errors_do_not_end_connections,
        path_mtu_messages_are_translated,
        errors_about_icmp_are_dropped,
        a_refused_client_is_not_answered,
        queries_are_not_relayed,
        the_relay_answers_echo_requests,
        unwanted_messages_are_dropped,
        time_exceeded_comes_from_the_relay,
        too_big_comes_from_the_relay,
        own_errors_are_about_connections_only,
        own_errors_are_limited,
        no_errors_about_errors,
    }
    Policy { hairpinned_errors_are_translated }
}

const FAMILIES: [bool; 2] = [true, false];
/// A router of a link that is neither client nor target.
const ROUTER: u8 = 77;

fn unreachable(v4: bool) -> (u8, u8) {
    if v4 { (3, 3) } else { (1, 4) }
}

/// An error about what `quote` begins with.
pub(super) fn error((kind, code): (u8, u8), rest: [u8; 4], quote: &[u8]) -> Message {
    Message { kind, code, rest, body: quote.to_vec() }
}

/// Sends an error by a router of the targets' link about what went up, and returns what the client gets.
fn error_down(lab: &mut Lab, conn: &Conn, what: &Message) -> Result<Packet> {
    let router = host(conn.far, ROUTER, conn.target.is_ipv4());
    lab.send(conn.far, &what.packet(router, conn.source.ip()))?;
    let client = conn.client.ip();
    lab.expect(conn.near, "the error", |p| p.dst == client && p.ends().is_none())
}

/// The same about what went down, from the clients' link to the target.
fn error_up(lab: &mut Lab, conn: &Conn, what: &Message) -> Result<Packet> {
    let router = host(conn.near, ROUTER, conn.client.is_ipv4());
    lab.send(conn.near, &what.packet(router, conn.listen.ip()))?;
    let target = conn.target.ip();
    lab.expect(conn.far, "the error", |p| p.dst == target && p.ends().is_none())
}

/// What an error has to quote: the packet as it was sent, but for the TTL.
fn is_original(quoted: &Packet, original: &Packet) -> Result<()> {
    let same = Packet { ttl: original.ttl, ..quoted.clone() };
    ensure!(
        same == Packet {
            payload: original.payload[..quoted.payload.len().min(original.payload.len())].to_vec(),
            ..original.clone()
        },
        "the quoted packet is {quoted:?} and not {original:?}"
    );
    ensure!(quoted.payload.len() >= 8, "only {} bytes of transport header are quoted", quoted.payload.len());
    Ok(())
}

fn errors_from_the_targets_side_are_translated(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let conn = lab.open(&Setup::Main.flow(proto, v4, 5000), 40)?;
            let sent = conn.up(b"into the void");
            let quote = conn.up_seen(b"into the void").bytes()?;
            let came = error_down(lab, &conn, &error(unreachable(v4), [0; 4], &quote))?;
            ensure!(
                came.src == conn.listen.ip(),
                "the error's source is {}, not the listen address",
                came.src
            );
            let m = came.icmp()?;
            ensure!((m.kind, m.code) == unreachable(v4), "type and code became {} and {}", m.kind, m.code);
            is_original(&m.quote(conn.client.ip())?, &sent)?;
            ensure!(
                m.body.len() == quote.len(),
                "the quote's length changed from {} to {}",
                quote.len(),
                m.body.len()
            );
        }
    }
    lab.silent(WAN, "after the errors")
}

fn errors_from_the_clients_side_are_translated(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let conn = lab.open(&Setup::Main.flow(proto, v4, 5000), 40)?;
            let sent = conn.down(b"nobody there");
            let quote = conn.down_seen(b"nobody there").bytes()?;
            let came = error_up(lab, &conn, &error(unreachable(v4), [0; 4], &quote))?;
            ensure!(
                came.src == conn.source.ip(),
                "the error's source is {}, not the source address",
                came.src
            );
            let m = came.icmp()?;
            ensure!((m.kind, m.code) == unreachable(v4), "type and code became {} and {}", m.kind, m.code);
            is_original(&m.quote(conn.target.ip())?, &sent)?;
        }
    }
    lab.silent(LAN, "after the errors")
}

fn errors_come_from_any_router(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&Setup::Main.flow(UDP, v4, 5000), 40)?;
        let quote = conn.up_seen(b"hop").bytes()?;
        // The target itself, a neighbor, and a router that no prefix of the relay holds.
        let far: IpAddr = if v4 { "198.51.100.9".parse()? } else { "2001:db8::9".parse()? };
        for router in [conn.target.ip(), host(WAN, 99, v4), far] {
            lab.send(WAN, &error(unreachable(v4), [0; 4], &quote).packet(router, conn.source.ip()))?;
            let client = conn.client.ip();
            let came = lab
                .expect(LAN, "the error", |p| p.dst == client && p.ends().is_none())
                .with_context(|| format!("an error from {router}"))?;
            is_original(&came.icmp()?.quote(client)?, &conn.up(b"hop"))?;
        }
    }
    Ok(())
}

fn every_code_is_kept(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&Setup::Main.flow(UDP, v4, 5000), 40)?;
        let quote = conn.up_seen(b"code").bytes()?;
        let kinds: Vec<(u8, u8)> = if v4 {
            (0..16).map(|c| (3, c)).chain([(11, 0), (11, 1), (12, 0)]).collect()
        } else {
            (0..7).map(|c| (1, c)).chain([(2, 0), (3, 0), (3, 1), (4, 0), (4, 1)]).collect()
        };
        for kind in kinds {
            let rest = match kind {
                (3, 4) if v4 => [0, 0, 5, 0x14],
                (2, 0) => [0, 0, 5, 0x14],
                (4 | 12, _) => [0; 4],
                _ => [0; 4],
            };
            let m = error_down(lab, &conn, &error(kind, rest, &quote))
                .with_context(|| format!("{kind:?}"))?
                .icmp()?;
            ensure!((m.kind, m.code) == kind, "{kind:?} became ({}, {})", m.kind, m.code);
        }
    }
    Ok(())
}

fn errors_about_nothing_are_dropped(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&Setup::Main.flow(UDP, v4, 5000), 40)?;
        let before = lab.connections(Some(&setup::name(UDP, 5000, v4)))?.len();
        let nobody = SocketAddr::new(conn.target.ip(), 9);
        let strange = [
            // Quotes a packet of no connection, one in the wrong direction, and one to a flow that was never opened.
            Conn { source: lab.free_source(conn.source.ip())?, ..conn }.up_seen(b"x"),
            Conn { target: nobody, ..conn }.up_seen(b"x"),
            conn.down(b"x"),
            packet::udp(conn.client, conn.listen, b"x"),
        ];
        let dst = conn.source.ip();
        for quoted in strange {
            let m = error(unreachable(v4), [0; 4], &quoted.bytes()?);
            lab.send(WAN, &m.packet(host(WAN, ROUTER, v4), dst))?;
            lab.silent(WAN, "an error about no connection")?;
        }
        let client = lab.client(LAN, 40, v4);
        let m = error(unreachable(v4), [0; 4], &packet::udp(conn.listen, client, b"x").bytes()?);
        lab.send(LAN, &m.packet(client.ip(), conn.listen.ip()))?;
        lab.silent(LAN, "an error about no connection")?;
        ensure!(
            lab.connections(Some(&setup::name(UDP, 5000, v4)))?.len() == before,
            "an error changed the connections"
        );
    }
    Ok(())
}

fn a_bad_icmp_checksum_is_dropped(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&Setup::Main.flow(UDP, v4, 5000), 40)?;
        let quote = conn.up_seen(b"spoiled").bytes()?;
        let mut p = error(unreachable(v4), [0; 4], &quote).packet(host(WAN, ROUTER, v4), conn.source.ip());
        p.payload[2] ^= 1;
        lab.dropped_by(WAN, "icmp_malformed", "an error with a wrong checksum", |lab| lab.send(WAN, &p))?;
        // With the right one it passes.
        error_down(lab, &conn, &error(unreachable(v4), [0; 4], &quote))?;
        lab.pass(&conn)?;
    }
    Ok(())
}

fn a_bad_inner_header_checksum_is_dropped(lab: &mut Lab) -> Result<()> {
    let conn = lab.open(&Setup::Main.flow(UDP, true, 5000), 40)?;
    let mut quote = conn.up_seen(b"spoiled").bytes()?;
    quote[10] ^= 1;
    lab.send(WAN, &error((3, 3), [0; 4], &quote).packet(host(WAN, ROUTER, true), conn.source.ip()))?;
    lab.silent(WAN, "an error whose quoted header is spoiled")?;
    quote[10] ^= 1;
    error_down(lab, &conn, &error((3, 3), [0; 4], &quote))?;
    lab.pass(&conn)
}

fn inner_options_are_skipped(lab: &mut Lab) -> Result<()> {
    let conn = lab.open(&Setup::Main.flow(UDP, true, 5000), 40)?;
    // Router alert and no-operations.
    let options = vec![148, 4, 0, 0, 1, 1, 1, 0];
    let quote = Packet { options: options.clone(), ..conn.up_seen(b"optional") }.bytes()?;
    let m = error_down(lab, &conn, &error((3, 3), [0; 4], &quote))?.icmp()?;
    is_original(&m.quote(conn.client.ip())?, &Packet { options, ..conn.up(b"optional") })
}

fn the_inner_transport_checksum_is_not_verified(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let conn = lab.open(&Setup::Main.flow(proto, v4, 5000), 40)?;
            let mut seen = conn.up_seen(b"half of it");
            let spoil = |p: &mut Packet| {
                let last = p.payload.len() - 1;
                p.payload[last] ^= 0x40;
            };
            spoil(&mut seen);
            let m = error_down(lab, &conn, &error(unreachable(v4), [0; 4], &seen.bytes()?))?.icmp()?;
            let mut sent = conn.up(b"half of it");
            spoil(&mut sent);
            is_original(&m.quote(conn.client.ip())?, &sent)?;
        }
    }
    Ok(())
}

fn short_and_long_quotes(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let conn = lab.open(&Setup::Main.flow(proto, v4, 5000), 40)?;
            let data = [0x3c; 1300];
            let whole = conn.up_seen(&data).bytes()?;
            let header = if v4 { 20 } else { 40 };
            // Eight bytes of transport (RFC 792), what a packet of 576 or 1280 bytes holds, and a cut in the middle.
            for length in [header + 8, header + 12, header + 20, header + 101, if v4 { 548 } else { 1232 }] {
                let m = error_down(lab, &conn, &error(unreachable(v4), [0; 4], &whole[..length]))
                    .with_context(|| format!("a quote of {length} bytes"))?
                    .icmp()?;
                ensure!(m.body.len() == length, "a quote of {length} bytes became one of {}", m.body.len());
                is_original(&m.quote(conn.client.ip())?, &conn.up(&data))?;
            }
            // Less than the ports can belong to nothing.
            lab.send(
                WAN,
                &error(unreachable(v4), [0; 4], &whole[..header + 3])
                    .packet(host(WAN, ROUTER, v4), conn.source.ip()),
            )?;
            lab.silent(WAN, "an error that quotes too little")?;
        }
    }
    Ok(())
}

/// An extension structure with one object (RFC 4884 section 7), its checksum right.
fn extension() -> Vec<u8> {
    let mut out = vec![0x20, 0, 0, 0, 0, 8, 1, 1, 0x12, 0x34, 0x51, 0x40];
    let sum = checksum(IpAddr::from([0, 0, 0, 0]), IpAddr::from([0, 0, 0, 0]), packet::ICMP, &out);
    out[2..4].copy_from_slice(&sum.to_be_bytes());
    out
}

fn extensions_are_kept(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let conn = lab.open(&Setup::Main.flow(proto, v4, 5000), 40)?;
            // The quote is padded to 128 bytes; its length is told in words of 4 bytes for ICMP, of 8 for ICMPv6.
            let (sent, mut quote) = (conn.up(&[5; 20]), conn.up_seen(&[5; 20]).bytes()?);
            let length = quote.len();
            quote.resize(128, 0);
            quote.extend(extension());
            let (rest, kinds): ([u8; 4], &[(u8, u8)]) =
                if v4 { ([0, 32, 0, 0], &[(3, 3), (11, 0)]) } else { ([16, 0, 0, 0], &[(1, 4), (3, 0)]) };
            for kind in kinds {
                let m = error_down(lab, &conn, &error(*kind, rest, &quote))?.icmp()?;
                ensure!(m.rest == rest, "the length field became {:?}", m.rest);
                ensure!(m.body.len() == quote.len(), "{} bytes became {}", quote.len(), m.body.len());
                ensure!(m.body[128..] == extension(), "the extension became {:02x?}", &m.body[128..]);
                ensure!(m.body[length..128].iter().all(|b| *b == 0), "the padding was changed");
                is_original(&m.quote(conn.client.ip())?, &sent)?;
            }
        }
    }
    Ok(())
}

/// Errors of every kind about a connection, from both sides.
pub(super) fn all_errors(lab: &mut Lab, conn: &Conn) -> Result<()> {
    let v4 = conn.client.is_ipv4();
    let kinds: &[(u8, u8)] = if v4 {
        &[(3, 0), (3, 1), (3, 2), (3, 3), (3, 13), (11, 0), (11, 1), (12, 0), (4, 0), (5, 1)]
    } else {
        &[(1, 0), (1, 1), (1, 3), (1, 4), (3, 0), (3, 1), (4, 0), (4, 1)]
    };
    for kind in kinds {
        let (up, down) = (conn.up_seen(b"gone").bytes()?, conn.down_seen(b"gone").bytes()?);
        lab.send(conn.far, &error(*kind, [0; 4], &up).packet(conn.target.ip(), conn.source.ip()))?;
        lab.send(conn.near, &error(*kind, [0; 4], &down).packet(conn.client.ip(), conn.listen.ip()))?;
    }
    lab.settle(conn.far)?;
    lab.settle(conn.near)?;
    for dst in [conn.client.ip(), conn.target.ip()] {
        let passed = lab.inbox.iter().any(|a| a.packet.dst == dst && a.packet.ends().is_none());
        ensure!(passed, "no error reached {dst}");
    }
    lab.inbox.retain(|a| a.packet.ends().is_some());
    Ok(())
}

fn errors_do_not_end_connections(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let conn = lab.open(&Setup::Main.flow(proto, v4, 5000), 40)?;
            all_errors(lab, &conn)?;
            lab.pass(&conn)?;
            // Nor one that still opens.
            let client = lab.client(LAN, 40, v4);
            let conn = lab.first_packet(&Setup::Main.flow(proto, v4, 5000), client)?;
            all_errors(lab, &conn)?;
            if proto == TCP { lab.flags_down(&conn, "SA")? } else { lab.pass(&conn)? }
        }
    }
    Ok(())
}

fn path_mtu_messages_are_translated(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let conn = lab.open(&Setup::Main.flow(proto, v4, 5000), 40)?;
            let data = [1; 1400];
            let kind = if v4 { (3, 4) } else { (2, 0) };
            let mtu: u16 = if v4 { 1006 } else { 1300 };
            let [a, b] = mtu.to_be_bytes();
            let limit = if v4 { 548 } else { 1232 };
            let up = conn.up_seen(&data).bytes()?;
            let m = error_down(lab, &conn, &error(kind, [0, 0, a, b], &up[..limit]))?.icmp()?;
            ensure!(
                ((m.kind, m.code), m.rest) == (kind, [0, 0, a, b]),
                "type, code or MTU were changed: {m:?}"
            );
            is_original(&m.quote(conn.client.ip())?, &conn.up(&data))?;
            let down = conn.down_seen(&data).bytes()?;
            let m = error_up(lab, &conn, &error(kind, [0, 0, a, b], &down[..limit]))?.icmp()?;
            ensure!(
                ((m.kind, m.code), m.rest) == (kind, [0, 0, a, b]),
                "type, code or MTU were changed: {m:?}"
            );
            is_original(&m.quote(conn.target.ip())?, &conn.down(&data))?;
        }
    }
    Ok(())
}

fn errors_about_icmp_are_dropped(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let (request, _) = echo(v4);
        let quoted = request.packet(own(WAN, v4), host(WAN, ROUTER, v4)).bytes()?;
        let m = error(unreachable(v4), [0; 4], &quoted);
        lab.send(WAN, &m.packet(host(WAN, ROUTER, v4), own(WAN, v4)))?;
        lab.silent(WAN, "an error about an echo request that nobody sent")?;
    }
    Ok(())
}

fn a_refused_client_is_not_answered(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let f = Setup::Main.flow(proto, v4, 5000);
            // Neither who is not allowed, nor who asks for what does not exist, nor for an address that is not ours.
            let stranger = SocketAddr::new(host(LAN, 200, v4), 9998);
            let client = lab.client(LAN, 40, v4);
            lab.send(LAN, &first(proto, stranger, f.listen))?;
            lab.send(LAN, &first(proto, client, SocketAddr::new(f.listen.ip(), 4998)))?;
            lab.send(LAN, &first(proto, client, f.target))?;
            lab.silent(LAN, "packets that cannot be admitted")?;
        }
    }
    Ok(())
}

/// An echo request and its reply.
fn echo(v4: bool) -> (Message, Message) {
    let (request, reply) = if v4 { (8, 0) } else { (128, 129) };
    let of = |kind| Message { kind, code: 0, rest: [1, 2, 3, 4], body: b"how are you there?".to_vec() };
    (of(request), of(reply))
}

fn queries_are_not_relayed(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&Setup::Main.flow(UDP, v4, 5000), 40)?;
        let (request, reply) = echo(v4);
        // Towards the target itself, which is not an address of the relay, and back to a client.
        lab.send(LAN, &request.packet(conn.client.ip(), conn.target.ip()))?;
        lab.send(WAN, &reply.packet(conn.target.ip(), conn.source.ip()))?;
        lab.settle(WAN)?;
        lab.silent(LAN, "queries that would have to be relayed")?;
    }
    Ok(())
}

fn the_relay_answers_echo_requests(lab: &mut Lab) -> Result<()> {
    for (link, n) in [(LAN, 40), (WAN, 40)] {
        for v4 in FAMILIES {
            let (request, reply) = echo(v4);
            lab.send(link, &request.packet(host(link, n, v4), own(link, v4)))?;
            let came = lab.expect(link, "the echo reply", |p| p.dst == host(link, n, v4))?;
            ensure!(came.src == own(link, v4), "the reply is from {}", came.src);
            ensure!(came.icmp()? == reply, "the reply is {came:?}");
        }
    }
    Ok(())
}

fn unwanted_messages_are_dropped(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        // Timestamp, information, mask and router messages; for ICMPv6 node information and what is unassigned. Redirects and
        // source quench, too, which quote a packet of a living connection.
        let conn = lab.open(&Setup::Main.flow(UDP, v4, 5000), 40)?;
        let kinds: &[u8] = if v4 { &[13, 15, 17, 10, 30, 255] } else { &[139, 100, 200, 255] };
        for kind in kinds {
            lab.dropped_by(LAN, "icmp_other", "an unwanted message", |lab| {
                let m = Message { kind: *kind, code: 0, rest: [0; 4], body: vec![0; 20] };
                lab.send(LAN, &m.packet(conn.client.ip(), conn.listen.ip()))
            })
            .with_context(|| format!("type {kind}"))?;
        }
        if v4 {
            let quote = conn.up_seen(b"slower").bytes()?;
            for kind in [(4, 0), (5, 1)] {
                lab.send(
                    WAN,
                    &error(kind, [10, 72, 0, 78], &quote).packet(host(WAN, ROUTER, v4), conn.source.ip()),
                )?;
                lab.silent(WAN, "a source quench or redirect").with_context(|| format!("{kind:?}"))?;
            }
        }
        lab.pass(&conn)?;
    }
    Ok(())
}

/// An error of the relay itself about `about`: who it is from and to, what it quotes and how long it is.
fn own_error(lab: &mut Lab, link: Link, about: &Packet, kind: (u8, u8)) -> Result<Message> {
    let came =
        lab.expect(link, &format!("the error {kind:?}"), |p| p.dst == about.src && p.ends().is_none())?;
    ensure!(
        came.src == about.dst,
        "the error comes from {}, not from the address that was sent to",
        came.src
    );
    let m = came.icmp()?;
    ensure!((m.kind, m.code) == kind, "the error is ({}, {}), not {kind:?}", m.kind, m.code);
    let (length, most) = (came.bytes()?.len(), if about.src.is_ipv4() { 576 } else { 1280 });
    ensure!(length <= most, "the error has {length} bytes");
    let quoted = m.quote(about.src)?;
    is_original(&quoted, about)?;
    ensure!(quoted.ttl == about.ttl, "the quoted TTL is {}", quoted.ttl);
    let (all, room) = (about.bytes()?.len(), most - (length - m.body.len()));
    ensure!(m.body.len() == all.min(room), "{} of {all} bytes are quoted where {room} fit", m.body.len());
    Ok(m)
}

fn time_exceeded_comes_from_the_relay(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let conn = lab.open(&Setup::Main.flow(proto, v4, 5000), 40)?;
            let kind = if v4 { (11, 0) } else { (3, 0) };
            for data in [&b"short"[..], &[9; 1300]] {
                let up = Packet { ttl: 1, ..conn.up(data) };
                lab.send(LAN, &up)?;
                own_error(lab, LAN, &up, kind)?;
                let down = Packet { ttl: 1, ..conn.down(data) };
                lab.send(WAN, &down)?;
                own_error(lab, WAN, &down, kind)?;
            }
            lab.silent(LAN, "packets whose TTL ran out")?;
            lab.pass(&conn)?;
        }
    }
    Ok(())
}

fn too_big_comes_from_the_relay(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let conn = lab.open(&Setup::Main.flow(proto, v4, 5003), 40)?;
            let up = conn.up(&[8; 1400]);
            lab.send(LAN, &up)?;
            let m = own_error(lab, LAN, &up, if v4 { (3, 4) } else { (2, 0) })?;
            ensure!(m.rest == [0, 0, 5, 0], "the MTU told is {:?}, not 1280", m.rest);
            lab.silent(LAN, "a packet that is too big")?;
            // What fits exactly passes.
            let headers = conn.up(&[]).bytes()?.len();
            lab.pass_up(&conn, &vec![7; 1280 - headers])?;
            lab.pass(&conn)?;
        }
    }
    Ok(())
}

fn own_errors_are_about_connections_only(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let f = Setup::Main.flow(UDP, v4, 5000);
        let stranger = SocketAddr::new(host(LAN, 200, v4), 9997);
        let client = lab.client(LAN, 40, v4);
        let narrow = Setup::Main.flow(UDP, v4, 5003);
        for p in [
            Packet { ttl: 1, ..first(UDP, stranger, f.listen) },
            Packet { ttl: 1, ..first(UDP, client, SocketAddr::new(f.listen.ip(), 4997)) },
            Packet { ttl: 0, ..first(UDP, stranger, f.listen) },
            packet::udp(stranger, narrow.listen, &[0; 1400]),
        ] {
            lab.send(LAN, &p)?;
        }
        let outside = SocketAddr::new(host(WAN, 66, v4), 9997);
        lab.send(WAN, &Packet { ttl: 1, ..first(UDP, outside, lab.free_source(own(WAN, v4))?) })?;
        lab.settle(WAN)?;
        lab.silent(LAN, "what strangers sent")?;
    }
    Ok(())
}

fn own_errors_are_limited(lab: &mut Lab) -> Result<()> {
    const SENT: usize = 6000;
    for v4 in FAMILIES {
        let conn = lab.open(&Setup::Main.flow(UDP, v4, 5000), 40)?;
        let dying = Packet { ttl: 1, ..conn.up(b"again") };
        for n in 0..SENT {
            lab.send(LAN, &dying)?;
            if n % 100 == 0 {
                lab.pump(Duration::ZERO)?;
            }
        }
        lab.settle(LAN)?;
        let errors = lab.inbox.iter().filter(|a| a.packet.ends().is_none()).count();
        lab.inbox.clear();
        ensure!(errors > 0, "no error came at all");
        ensure!(errors < SENT / 2, "{errors} errors about {SENT} packets");
        lab.pass(&conn)?;
    }
    // Until the limit is as it was for whoever comes next.
    let conn = lab.open(&Setup::Main.flow(UDP, true, 5000), 40)?;
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(100));
        let dying = Packet { ttl: 1, ..conn.up(b"now?") };
        lab.send(LAN, &dying)?;
        lab.settle(LAN)?;
        if !lab.inbox.is_empty() {
            return Ok(());
        }
    }
    anyhow::bail!("no error comes any more, long after the flood")
}

fn no_errors_about_errors(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&Setup::Main.flow(UDP, v4, 5000), 40)?;
        // An error that cannot be passed on: its TTL runs out (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
        let quote = conn.up_seen(b"x").bytes()?;
        let p = error(unreachable(v4), [0; 4], &quote).packet(host(WAN, ROUTER, v4), conn.source.ip());
        lab.send(WAN, &Packet { ttl: 1, ..p })?;
        lab.silent(WAN, "an error whose TTL ran out")?;
        // What is no error is answered.
        let data = Packet { ttl: 1, ..conn.down(b"x") };
        lab.send(WAN, &data)?;
        own_error(lab, WAN, &data, if v4 { (11, 0) } else { (3, 0) })?;
    }
    Ok(())
}

fn hairpinned_errors_are_translated(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let mut f = Setup::Policy.flow(UDP, v4, 5010);
        f.near = WAN;
        let conn = lab.open(&f, 50)?;
        let quote = conn.up_seen(b"round the pin").bytes()?;
        let came = error_down(lab, &conn, &error(unreachable(v4), [0; 4], &quote))?;
        ensure!(came.src == conn.listen.ip(), "the error's source is {}", came.src);
        is_original(&came.icmp()?.quote(conn.client.ip())?, &conn.up(b"round the pin"))?;
        let quote = conn.down_seen(b"and back").bytes()?;
        let came = error_up(lab, &conn, &error(unreachable(v4), [0; 4], &quote))?;
        ensure!(came.src == conn.source.ip(), "the error's source is {}", came.src);
        is_original(&came.icmp()?.quote(conn.target.ip())?, &conn.down(b"and back"))?;
        lab.pass(&conn)?;
    }
    Ok(())
}
