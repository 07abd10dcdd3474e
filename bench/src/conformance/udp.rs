//! UDP: RFC 4787, and what holds for either transport and is tried with UDP.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forwarder::api::{Proto, Request};

use super::oracle::{Flow, LAN, Lab, SLIM, WAN, host, own};
use super::packet::{self, Packet, checksum};
use super::setup::{self, Setup, TCP, UDP};

suite! { "udp":
    Main {
        two_clients_reach_one_target_by_one_listen_address,
        replies_come_from_the_listen_address,
        source_port_is_one_connections_own,
        a_client_keeps_its_source_address,
        no_two_connections_share_source_and_target,
        a_listen_address_belongs_to_one_flow,
        well_known_listen_ports_stay,
        source_ports_are_of_the_configured_range,
        source_ports_are_not_predictable,
        parity_is_not_kept,
        strangers_do_not_reach_a_client,
        clients_that_are_not_allowed_are_not_heard,
        hairpin_is_silent_by_default,
        payloads_are_not_touched,
        mappings_do_not_change_under_load,
        a_full_flow_is_silent,
        checksums_are_updated,
        a_wrong_checksum_stays_wrong,
        no_checksum_stays_none,
        a_computed_zero_goes_out_as_ones,
        header_fields_pass,
        ids_of_whole_packets_stay,
        an_unsolicited_packet_creates_nothing,
    }
    Policy { hairpin_by_policy }
    Alone { overlapping_networks_are_refused, the_default_timer_is_five_minutes }
}

fn flow(v4: bool, number: u16) -> Flow {
    Setup::Main.flow(UDP, v4, number)
}

const FAMILIES: [bool; 2] = [true, false];

fn two_clients_reach_one_target_by_one_listen_address(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let flow = flow(v4, 5000);
        let conns = [lab.open(&flow, 40)?, lab.open(&flow, 41)?, lab.open(&flow, 41)?];
        for conn in &conns {
            lab.pass(conn)?;
        }
    }
    lab.silent(LAN, "after both directions passed")
}

fn replies_come_from_the_listen_address(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        // The target's mapping is one, whoever asks for it: each client sees the same external endpoint.
        for number in [5000, 5001, 5002] {
            let flow = flow(v4, number);
            for n in [42, 43] {
                let conn = lab.open(&flow, n)?;
                lab.send(WAN, &conn.down(b"from"))?;
                let came = lab.expect(LAN, "the reply", |p| p.dst == conn.client.ip())?;
                ensure!(
                    came.ends() == Some((flow.listen, conn.client)),
                    "the reply came from elsewhere: {came:?}"
                );
            }
        }
    }
    Ok(())
}

fn source_port_is_one_connections_own(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let client = lab.client(LAN, 44, v4);
        let a = lab.open_from(&flow(v4, 5000), client)?;
        let b = lab.open_from(&flow(v4, 5001), client)?;
        let c = lab.open_from(&flow(v4, 5002), client)?;
        for conn in [&a, &b, &c] {
            lab.pass(conn)?;
        }
        // The source of one connection leads nowhere for the target of another, even if their numbers should be the same.
        let all = lab.connections(None)?;
        for (from, to) in [(b.target, a.source), (c.target, a.source), (a.target, c.source)] {
            if !all.iter().any(|c| (c.source, c.target) == (to, from)) {
                lab.send(WAN, &packet::udp(from, to, b"not for you"))?;
            }
        }
        lab.silent(WAN, "packets to another connection's source")?;
    }
    Ok(())
}

fn a_client_keeps_its_source_address(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let mut used = BTreeSet::new();
        for n in 45..61 {
            let mut sources = BTreeSet::new();
            for number in [5000, 5001, 5002, 5000] {
                sources.insert(lab.open(&flow(v4, number), n)?.source.ip());
            }
            sources.insert(lab.open(&Setup::Main.flow(TCP, v4, 5000), n)?.source.ip());
            ensure!(sources.len() == 1, "one client got the source addresses {sources:?}");
            used.extend(sources);
        }
        ensure!(used.len() == 2, "of two source addresses only {used:?} are used");
    }
    Ok(())
}

fn no_two_connections_share_source_and_target(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        let mut sources = BTreeSet::new();
        for n in 0..100 {
            let conn = lab.open(&Setup::Main.flow(proto, true, 5000), 40 + n % 10)?;
            ensure!(sources.insert(conn.source), "two connections share the source {}", conn.source);
        }
    }
    Ok(())
}

fn a_listen_address_belongs_to_one_flow(lab: &mut Lab) -> Result<()> {
    let mut spec = lab.relay()?.flow(&setup::name(UDP, 5000, true))?.spec;
    let before = spec.listen;
    spec.name = "second".into();
    spec.target.set_port(7000);
    let refused = lab.relay()?.call(Request::FlowAdd { spec });
    let said = refused.err().context("a second flow got the same listen address")?.to_string();
    ensure!(said.contains(&setup::name(UDP, 5000, true)), "the refusal does not name the flow: {said}");
    // The first one is as it was.
    let conn = lab.open(&flow(true, 5000), 40)?;
    ensure!(conn.listen == before, "the flow moved");
    lab.pass(&conn)
}

fn well_known_listen_ports_stay(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let conn = lab.open(&Setup::Main.flow(proto, v4, 80), 40)?;
            ensure!(conn.listen.port() == 80, "the listen port is {}", conn.listen.port());
            lab.pass(&conn)?;
        }
    }
    Ok(())
}

fn source_ports_are_of_the_configured_range(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        for port in [500, 1023, 1024, 40_000] {
            let client = SocketAddr::new(host(LAN, 61, v4), port);
            let conn = lab.open_from(&flow(v4, 5000), client)?;
            ensure!(conn.source.port() >= 32_768, "a client's port {port} became {}", conn.source.port());
            lab.pass(&conn)?;
        }
    }
    Ok(())
}

fn source_ports_are_not_predictable(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let mut ports = Vec::new();
            for n in 0..32 {
                ports.push(lab.open(&Setup::Main.flow(proto, v4, 5001), 40 + n % 4)?.source.port());
            }
            let steps: BTreeSet<_> = ports.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect();
            let low = ports.iter().filter(|p| **p < 49_152).count();
            ensure!(steps.len() > 24, "source ports follow each other in even steps: {ports:?}");
            ensure!((1..32).contains(&low), "source ports are of one half of their range: {ports:?}");
        }
    }
    Ok(())
}

fn parity_is_not_kept(lab: &mut Lab) -> Result<()> {
    let mut kept = 0;
    for _ in 0..32 {
        let conn = lab.open(&flow(true, 5002), 40)?;
        lab.pass(&conn)?;
        kept += usize::from(conn.source.port() % 2 == conn.client.port() % 2);
    }
    ensure!((1..32).contains(&kept), "{kept} of 32 connections kept their port's parity");
    Ok(())
}

fn strangers_do_not_reach_a_client(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&flow(v4, 5000), 40)?;
        let other_host = SocketAddr::new(host(WAN, 66, v4), conn.target.port());
        // A port that is no flow's target: another connection to that one might have the same source.
        let other_port = SocketAddr::new(conn.target.ip(), 9);
        for stranger in [other_host, other_port] {
            lab.send(WAN, &packet::udp(stranger, conn.source, b"hello"))?;
        }
        let on_other_link = SocketAddr::new(host(SLIM, 66, v4), conn.target.port());
        lab.send(SLIM, &packet::udp(on_other_link, conn.source, b"hello"))?;
        lab.settle(SLIM)?;
        lab.silent(WAN, "packets of strangers to a connection's source")?;
        lab.pass(&conn)?;
    }
    Ok(())
}

fn clients_that_are_not_allowed_are_not_heard(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let f = Setup::Main.flow(proto, v4, 5000);
            let stranger = SocketAddr::new(host(LAN, 200, v4), 9999);
            lab.dropped_by(LAN, "source_denied", "a client that no flow allows", |lab| {
                lab.send(LAN, &first(proto, stranger, f.listen))
            })?;
            let nowhere = SocketAddr::new(f.listen.ip(), 4999);
            let client = lab.client(LAN, 40, v4);
            lab.dropped_by(LAN, "no_flow", "a port where no flow listens", |lab| {
                lab.send(LAN, &first(proto, client, nowhere))
            })?;
        }
    }
    Ok(())
}

pub(super) fn first(proto: Proto, src: SocketAddr, dst: SocketAddr) -> Packet {
    match proto {
        Proto::Udp => packet::udp(src, dst, b"first"),
        Proto::Tcp => packet::tcp(src, dst, super::oracle::segment("S"), b""),
    }
}

fn hairpin_is_silent_by_default(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            // A host of the targets' network, which the flow allows, towards the listen address of the other network.
            let client = lab.client(WAN, 50, v4);
            let listen = Setup::Main.flow(proto, v4, 5013).listen;
            lab.dropped_by(WAN, "not_our_address", "a packet that would hairpin", |lab| {
                lab.send(WAN, &first(proto, client, listen))
            })?;
        }
    }
    Ok(())
}

fn hairpin_by_policy(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let mut f = Setup::Policy.flow(proto, v4, 5010);
            // The target and a client of the same network, by the listen address of another one.
            f.near = WAN;
            let conn = lab.open(&f, 50)?;
            lab.pass(&conn)?;
            ensure!(conn.source != conn.client, "the target saw the client's own address {}", conn.source);
            ensure!(
                [own(WAN, v4), host(WAN, 2, v4)].contains(&conn.source.ip()),
                "the target saw {}, which is not the relay's",
                conn.source
            );
            // The same flow is open from its own side, too.
            f.near = LAN;
            let conn = lab.open(&f, 50)?;
            lab.pass(&conn)?;
            // Another flow of that relay is not.
            let other = Setup::Policy.flow(proto, v4, 5000).listen;
            let client = lab.client(WAN, 50, v4);
            lab.send(WAN, &first(proto, client, other))?;
            lab.silent(WAN, "a packet that would hairpin by a flow without that policy")?;
        }
    }
    Ok(())
}

fn payloads_are_not_touched(lab: &mut Lab) -> Result<()> {
    for (proto, number) in [(UDP, 5000), (TCP, 5000)] {
        let conn = lab.open(&Setup::Main.flow(proto, true, number), 40)?;
        let (ip, comma) = (conn.client.ip().to_string(), conn.client.ip().to_string().replace('.', ","));
        for data in [
            format!("REGISTER sip:{0} SIP/2.0\r\nVia: SIP/2.0/UDP {0}:5060\r\nc=IN IP4 {0}\r\n", ip)
                .into_bytes(),
            format!("PORT {comma},19,136\r\n").into_bytes(),
            [conn.listen.ip(), conn.client.ip()]
                .iter()
                .flat_map(|a| match a {
                    IpAddr::V4(a) => a.octets().to_vec(),
                    IpAddr::V6(a) => a.octets().to_vec(),
                })
                .collect(),
        ] {
            lab.pass_up(&conn, &data)?;
            lab.pass_down(&conn, &data)?;
        }
    }
    Ok(())
}

fn mappings_do_not_change_under_load(lab: &mut Lab) -> Result<()> {
    let f = flow(true, 5000);
    let first = lab.open(&f, 40)?;
    let mut others = Vec::new();
    for n in 0..300 {
        others.push(lab.open(&f, 41 + (n % 40) as u8)?);
    }
    // Each time the same translation, compared byte by byte.
    for conn in others.iter().step_by(29).chain([&first]) {
        lab.pass(conn)?;
        lab.pass(conn)?;
    }
    // Whoever is not allowed is not allowed now either.
    let stranger = SocketAddr::new(host(WAN, 66, true), first.target.port());
    lab.send(WAN, &packet::udp(stranger, first.source, b"now?"))?;
    lab.silent(WAN, "a stranger's packet under load")
}

fn a_full_flow_is_silent(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let f = Setup::Main.flow(proto, v4, 5005);
            let conn = lab.open(&f, 40)?;
            let late = lab.client(LAN, 41, v4);
            lab.dropped_by(LAN, "flow_full", "a client that the flow has no room for", |lab| {
                lab.send(LAN, &first(proto, late, f.listen))
            })?;
            lab.pass(&conn)?;
        }
    }
    Ok(())
}

fn checksums_are_updated(lab: &mut Lab) -> Result<()> {
    // Sums that carry, and ones that are all zeros or all ones, in both families; whole packets are compared.
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let conn = lab.open(&Setup::Main.flow(proto, v4, 5000), 40)?;
            for data in [&[][..], &[0], &[0xff; 9], &[0xff, 0xfe, 1], &[0; 64], &[0x55; 1400]] {
                lab.pass_up(&conn, data)?;
                lab.pass_down(&conn, data)?;
            }
        }
    }
    Ok(())
}

fn a_wrong_checksum_stays_wrong(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let conn = lab.open(&Setup::Main.flow(proto, v4, 5000), 40)?;
            let mut spoiled = conn.up(b"spoiled on the way");
            let last = spoiled.payload.len() - 1;
            spoiled.payload[last] ^= 0x10;
            lab.send(LAN, &spoiled)?;
            let came = lab.expect(WAN, "the spoiled packet", |p| conn.is_up(p))?;
            let off = |p: &Packet| checksum(p.src, p.dst, p.proto, &p.payload);
            ensure!(off(&came) != 0, "the relay made a wrong checksum right: {came:?}");
            ensure!(off(&came) == off(&spoiled), "the error shows differently: {came:?}");
        }
    }
    Ok(())
}

fn no_checksum_stays_none(lab: &mut Lab) -> Result<()> {
    let conn = lab.open(&flow(true, 5000), 40)?;
    let without = |mut p: Packet| {
        p.payload[6..8].fill(0);
        p
    };
    lab.send(LAN, &without(conn.up(b"unchecked")))?;
    lab.expect_exactly(WAN, &without(conn.up_seen(b"unchecked")))?;
    lab.send(WAN, &without(conn.down(b"unchecked")))?;
    lab.expect_exactly(LAN, &without(conn.down_seen(b"unchecked")))?;
    // Over IPv6 there has to be one (RFC 8200 section 8.1).
    let conn = lab.open(&flow(false, 5000), 40)?;
    lab.dropped_by(LAN, "udp_no_checksum", "a datagram over IPv6 without a checksum", |lab| {
        lab.send(LAN, &without(conn.up(b"unchecked")))
    })
}

fn a_computed_zero_goes_out_as_ones(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&flow(v4, 5000), 40)?;
        // Two bytes that bring the sum of what leaves to all ones, whose complement is zero.
        for (up, seen) in [(true, conn.up_seen(&[0, 0])), (false, conn.down_seen(&[0, 0]))] {
            let mut blank = seen.payload.clone();
            blank[6..8].fill(0);
            let data = checksum(seen.src, seen.dst, seen.proto, &blank).to_be_bytes();
            let (from, to, sent) = if up { (LAN, WAN, conn.up(&data)) } else { (WAN, LAN, conn.down(&data)) };
            let wanted = if up { conn.up_seen(&data) } else { conn.down_seen(&data) };
            ensure!(wanted.payload[6..8] == [0xff, 0xff], "the test's sum is not zero: {wanted:?}");
            lab.send(from, &sent)?;
            lab.expect_exactly(to, &wanted)?;
        }
    }
    Ok(())
}

fn header_fields_pass(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&flow(v4, 5000), 40)?;
        for (tos, label, df, ttl) in
            [(0xb8, 0x12345, true, 2), (0x03, 0, false, 255), (0x01, 0xfffff, true, 64)]
        {
            let with =
                |p: Packet, ttl| Packet { tos, ttl, label: if v4 { 0 } else { label }, df: v4 && df, ..p };
            lab.send(LAN, &with(conn.up(b"marked"), ttl))?;
            lab.expect_exactly(WAN, &with(conn.up_seen(b"marked"), ttl - 1))?;
            lab.send(WAN, &with(conn.down(b"marked"), ttl))?;
            lab.expect_exactly(LAN, &with(conn.down_seen(b"marked"), ttl - 1))?;
        }
    }
    Ok(())
}

fn ids_of_whole_packets_stay(lab: &mut Lab) -> Result<()> {
    let conn = lab.open(&flow(true, 5000), 40)?;
    for (id, df) in [(0, true), (1, true), (0xffff, true), (0xabcd, false)] {
        let with = |p: Packet| Packet { id, df, ..p };
        lab.send(LAN, &with(conn.up(b"numbered")))?;
        lab.expect_exactly(WAN, &with(conn.up_seen(b"numbered")))?;
        lab.send(WAN, &with(conn.down(b"numbered")))?;
        lab.expect_exactly(LAN, &with(conn.down_seen(b"numbered")))?;
    }
    Ok(())
}

fn an_unsolicited_packet_creates_nothing(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let f = Setup::Main.flow(proto, v4, 5000);
            let source = lab.free_source(own(WAN, v4))?;
            let before = lab.connections(Some(&setup::name(proto, 5000, v4)))?.len();
            lab.send(WAN, &first(proto, f.target, source))?;
            lab.silent(WAN, "a packet from a target to nobody")?;
            let after = lab.connections(Some(&setup::name(proto, 5000, v4)))?.len();
            ensure!(after == before, "a packet from outside opened a connection");
        }
    }
    Ok(())
}

/// What `s2ds --check` says of a configuration, and whether it takes it.
pub(super) fn check_config(lab: &Lab, text: &str) -> Result<(bool, String)> {
    let netns = lab.vacant.as_ref().context("a relay runs here")?;
    let file = lab.dir.path().join("checked.toml");
    std::fs::write(&file, text)?;
    let mut process = netns
        .spawn(crate::topology::find_binary("s2ds")?, &["--config", &file.to_string_lossy(), "--check"])?;
    let status = process.wait(Duration::from_secs(20))?;
    let output = process.output()?;
    Ok((status.success(), output.stdout + &output.stderr))
}

fn overlapping_networks_are_refused(lab: &mut Lab) -> Result<()> {
    let good = Setup::Alone.config();
    ensure!(check_config(lab, &good)?.0, "the configuration without overlap is refused");
    let overlapping = good.replace("10.72.0.1/24", "10.71.0.129/25");
    let (taken, said) = check_config(lab, &overlapping)?;
    ensure!(!taken && said.contains("overlaps"), "two ports with one network were not refused: {said}");
    Ok(())
}

fn the_default_timer_is_five_minutes(lab: &mut Lab) -> Result<()> {
    let (_, said) = check_config(lab, &Setup::Alone.config())?;
    ensure!(said.contains("udp 300,"), "the UDP timer is another: {said}");
    Ok(())
}
