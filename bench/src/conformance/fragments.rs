//! Fragments and IPv6 extension headers: RFC 4787 REQ-13 and REQ-14, RFC 6864, RFC 8200.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use super::oracle::{Conn, LAN, Lab, Link, SLIM, WAN, host};
use super::packet::{self, DEST_OPTIONS, Packet, reassemble};
use super::setup::{Setup, TCP, UDP};

suite! { "fragments":
    Pieces {
        fragments_in_order_pass,
        fragments_out_of_order_pass,
        a_fragmented_first_packet_opens_a_connection,
        fragments_of_strangers_are_dropped,
        fragments_get_ids_of_their_own,
        overlapping_fragments_are_dropped,
        tiny_first_fragments_are_dropped,
        fragments_without_a_first_one_go_nowhere,
        a_flood_of_fragments_costs_only_itself,
        without_df_what_is_too_big_is_fragmented,
        fragments_that_are_too_big_are_fragmented_again,
        atomic_fragments_pass,
        extension_headers_pass,
        endless_extension_headers_are_dropped,
        routing_headers_are_dropped,
    }
}

const FAMILIES: [bool; 2] = [true, false];

/// Sends pieces and takes as many, of one packet, as they come.
fn carry(lab: &mut Lab, from: Link, to: Link, pieces: &[Packet], seen: &Packet) -> Result<Vec<Packet>> {
    for p in pieces {
        lab.send(from, p)?;
    }
    let came = lab.expect_all(to, "a fragment", seen.dst, pieces.len())?;
    let whole = reassemble(&came)?;
    let same = Packet { id: seen.id, df: seen.df, ..whole };
    ensure!(same == *seen, "the fragments make {same:?}, not {seen:?}");
    Ok(came)
}

fn data(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 251) as u8).collect()
}

/// A packet in both directions, in fragments that `order` puts in the order of sending.
fn both_ways(lab: &mut Lab, conn: &Conn, order: impl Fn(&mut Vec<Packet>)) -> Result<Vec<Vec<Packet>>> {
    let data = data(2500);
    let mut all = Vec::new();
    for (from, to, sent, seen) in [
        (conn.near, conn.far, conn.up(&data), conn.up_seen(&data)),
        (conn.far, conn.near, conn.down(&data), conn.down_seen(&data)),
    ] {
        let mut pieces = sent.fragments(800, lab.fragment_id())?;
        order(&mut pieces);
        all.push(carry(lab, from, to, &pieces, &seen)?);
    }
    Ok(all)
}

fn fragments_in_order_pass(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let conn = lab.open(&Setup::Pieces.flow(proto, v4, 5000), 40)?;
            for came in both_ways(lab, &conn, |_| ())? {
                let offsets: Vec<_> = came.iter().map(|p| p.piece().map(|x| x.1)).collect::<Result<_>>()?;
                ensure!(offsets.is_sorted(), "fragments came in another order: {offsets:?}");
            }
            lab.pass(&conn)?;
        }
    }
    Ok(())
}

fn fragments_out_of_order_pass(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let conn = lab.open(&Setup::Pieces.flow(proto, v4, 5000), 40)?;
            both_ways(lab, &conn, |pieces| pieces.reverse())?;
            both_ways(lab, &conn, |pieces| pieces.swap(0, 1))?;
            both_ways(lab, &conn, |pieces| pieces.rotate_left(1))?;
            lab.silent(LAN, "after the fragments")?;
            lab.pass(&conn)?;
        }
    }
    Ok(())
}

fn a_fragmented_first_packet_opens_a_connection(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        for reversed in [false, true] {
            let f = Setup::Pieces.flow(UDP, v4, 5000);
            let client = lab.client(LAN, 40, v4);
            let data = data(2000);
            let mut pieces = packet::udp(client, f.listen, &data).fragments(800, lab.fragment_id())?;
            if reversed {
                pieces.reverse();
            }
            for p in &pieces {
                lab.send(LAN, p)?;
            }
            let whole = reassemble(&lab.expect_all(WAN, "a fragment", f.target.ip(), pieces.len())?)?;
            ensure!(whole.udp()?.1 == data, "the datagram arrived as another");
            let source = whole.ends().context("no ports")?.0;
            let conn =
                Conn { proto: UDP, near: LAN, far: WAN, client, listen: f.listen, source, target: f.target };
            lab.pass(&conn)?;
        }
    }
    Ok(())
}

fn fragments_of_strangers_are_dropped(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let f = Setup::Pieces.flow(UDP, v4, 5000);
        let conn = lab.open(&f, 40)?;
        let stranger = SocketAddr::new(host(LAN, 200, v4), 9996);
        let outside = SocketAddr::new(host(WAN, 66, v4), f.target.port());
        for (link, p) in [
            (LAN, packet::udp(stranger, f.listen, &data(2000))),
            (WAN, packet::udp(outside, conn.source, &data(2000))),
        ] {
            for reversed in [false, true] {
                let mut pieces = p.fragments(800, lab.fragment_id())?;
                if reversed {
                    pieces.reverse();
                }
                for piece in pieces {
                    lab.send(link, &piece)?;
                }
            }
            lab.silent(link, "fragments of a stranger")?;
        }
    }
    Ok(())
}

fn fragments_get_ids_of_their_own(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        // Many clients use the same number at the same time; towards their target they have one source address.
        let mut conns = Vec::new();
        for n in 0..16 {
            conns.push(lab.open(&Setup::Pieces.flow(UDP, v4, 5000), 40 + n)?);
        }
        let (mut seen, id) = (BTreeSet::new(), lab.fragment_id());
        for conn in &conns {
            let pieces = conn.up(&data(2000)).fragments(800, id)?;
            let came = carry(lab, LAN, WAN, &pieces, &conn.up_seen(&data(2000)))?;
            let id = came[0].piece()?.0;
            ensure!(seen.insert((conn.source.ip(), id)), "two packets left as fragments with the id {id:#x}");
        }
    }
    Ok(())
}

fn overlapping_fragments_are_dropped(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&Setup::Pieces.flow(UDP, v4, 5000), 40)?;
        for shift in [8usize, 400, 792] {
            let id = lab.fragment_id();
            let pieces = conn.up(&data(2000)).fragments(800, id)?;
            let liar = conn.up(&vec![0xee; 2000]).fragments(800, id)?;
            // The second one of another packet with the same number, put where it covers the end of the first.
            let mut over = liar[1].clone();
            if v4 {
                over.offset -= shift as u16;
            } else {
                let at = ((800 - shift) as u16 & !7) | 1;
                over.payload[2..4].copy_from_slice(&at.to_be_bytes());
            }
            lab.send(LAN, &pieces[0])?;
            lab.settle(LAN)?;
            lab.inbox.clear();
            lab.dropped_by(LAN, "fragment_overlap", "a fragment that covers another", |lab| {
                lab.send(LAN, &over)
            })?;
        }
        lab.pass(&conn)?;
    }
    Ok(())
}

fn tiny_first_fragments_are_dropped(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&Setup::Pieces.flow(TCP, v4, 5000), 40)?;
        // Ports without flags (RFC 1858), and less than the ports.
        let pieces = conn.up(&data(100)).fragments(8, lab.fragment_id())?;
        lab.dropped_by(LAN, "fragment_tiny", "a first fragment without TCP's flags", |lab| {
            lab.send(LAN, &pieces[0])
        })?;
        for p in &pieces[1..] {
            lab.send(LAN, p)?;
        }
        lab.silent(LAN, "what follows a tiny fragment")?;
        lab.pass(&conn)?;
    }
    Ok(())
}

fn fragments_without_a_first_one_go_nowhere(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&Setup::Pieces.flow(UDP, v4, 5000), 40)?;
        for p in &conn.up(&data(2000)).fragments(800, lab.fragment_id())?[1..] {
            lab.send(LAN, p)?;
        }
        lab.silent(LAN, "fragments whose first one never came")?;
        // A later packet with that number has fragments of its own: these here do not get into it.
        lab.pass(&conn)?;
    }
    Ok(())
}

fn a_flood_of_fragments_costs_only_itself(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&Setup::Pieces.flow(UDP, v4, 5000), 40)?;
        let attacker = lab.client(LAN, 41, v4);
        let flood = packet::udp(attacker, conn.listen, &data(2000));
        for id in 0..20_000 {
            lab.send(LAN, &flood.fragments(800, 0x10_0000 + id)?[1])?;
            if id % 64 == 0 {
                lab.pump(std::time::Duration::ZERO)?;
            }
            if id % 4000 == 3999 {
                lab.settle(LAN)?;
                lab.pass(&conn)?;
            }
        }
        lab.settle(LAN)?;
        let pieces = conn.up(&data(2000)).fragments(800, lab.fragment_id())?;
        carry(lab, LAN, WAN, &pieces, &conn.up_seen(&data(2000)))
            .context("fragments in order, amid a flood")?;
        lab.pass(&conn).context("whole packets, amid a flood")?;
    }
    Ok(())
}

fn without_df_what_is_too_big_is_fragmented(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        let conn = lab.open(&Setup::Pieces.flow(proto, true, 5003), 40)?;
        for length in [1261, 1400, 1452] {
            let free = |p: Packet, id| Packet { df: false, id, ..p };
            let seen = free(conn.up_seen(&data(length)), 0);
            lab.send(LAN, &free(conn.up(&data(length)), 0x1235))?;
            let mut came = lab.expect_all(SLIM, "a fragment", seen.dst, 2)?;
            for p in &came {
                ensure!(
                    p.bytes()?.len() <= 1280,
                    "a fragment of {} bytes on a link of 1280",
                    p.bytes()?.len()
                );
            }
            ensure!(came[0].offset == 0 && came[1].offset > 0, "the fragments are out of order: {came:?}");
            came.iter_mut().for_each(|p| p.df = false);
            let whole = free(reassemble(&came)?, 0);
            ensure!(whole == seen, "the fragments make {whole:?}, not {seen:?}");
        }
        lab.silent(LAN, "after what was fragmented")?;
    }
    Ok(())
}

fn fragments_that_are_too_big_are_fragmented_again(lab: &mut Lab) -> Result<()> {
    let conn = lab.open(&Setup::Pieces.flow(UDP, true, 5003), 40)?;
    let (sent, seen) = (conn.up(&data(2792)), conn.up_seen(&data(2792)));
    for p in sent.fragments(1400, lab.fragment_id())? {
        lab.send(LAN, &p)?;
    }
    let came = lab.expect_all(SLIM, "a fragment", seen.dst, 4)?;
    ensure!(came.iter().all(|p| p.payload.len() + 20 <= 1280), "a fragment does not fit its link: {came:?}");
    let whole = Packet { id: seen.id, df: seen.df, ..reassemble(&came)? };
    ensure!(whole == seen, "the fragments make {whole:?}");
    Ok(())
}

fn atomic_fragments_pass(lab: &mut Lab) -> Result<()> {
    let conn = lab.open(&Setup::Pieces.flow(UDP, false, 5000), 40)?;
    // One fragment that is the whole packet (RFC 6946): whether its header stays is the relay's choice.
    let sent = conn.up(&data(100)).fragments(800, lab.fragment_id())?;
    ensure!(sent.len() == 1, "the test made several fragments");
    lab.send(LAN, &sent[0])?;
    let came = lab.expect(WAN, "the atomic fragment", |p| p.dst == conn.target.ip())?;
    let whole = if came.proto == packet::V6_FRAGMENT { reassemble(&[came])? } else { came };
    ensure!(whole == conn.up_seen(&data(100)), "the atomic fragment became {whole:?}");
    Ok(())
}

/// Puts extension headers, each of `words` further 8-byte words, before a packet's transport header.
fn extended(p: &Packet, kinds: &[u8], words: u8) -> Packet {
    let mut out = p.clone();
    for kind in kinds.iter().rev() {
        let length = 8 * (usize::from(words) + 1);
        // A PadN option fills it.
        let mut header = vec![out.proto, words, 1, u8::try_from(length - 4).unwrap_or(0)];
        header.resize(length, 0);
        out.payload = [header, out.payload].concat();
        out.proto = *kind;
    }
    out
}

fn extension_headers_pass(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        let conn = lab.open(&Setup::Pieces.flow(proto, false, 5000), 40)?;
        for (kinds, words) in
            [(&[DEST_OPTIONS][..], 0), (&[DEST_OPTIONS], 7), (&[0], 0), (&[0, DEST_OPTIONS], 1)]
        {
            let with = |p: Packet| extended(&p, kinds, words);
            lab.send(LAN, &with(conn.up(b"extended")))?;
            lab.expect_exactly(WAN, &with(conn.up_seen(b"extended")))
                .with_context(|| format!("{kinds:?}"))?;
            lab.send(WAN, &with(conn.down(b"extended")))?;
            lab.expect_exactly(LAN, &with(conn.down_seen(b"extended")))?;
        }
    }
    Ok(())
}

fn endless_extension_headers_are_dropped(lab: &mut Lab) -> Result<()> {
    let conn = lab.open(&Setup::Pieces.flow(UDP, false, 5000), 40)?;
    for (count, words) in [(100, 0), (60, 1)] {
        let p = extended(&conn.up(b"where is it?"), &vec![DEST_OPTIONS; count], words);
        lab.dropped_by(LAN, "ipv6_extension", "a chain of many extension headers", |lab| lab.send(LAN, &p))?;
    }
    // One that is longer than its packet.
    let mut p = extended(&conn.up(b"x"), &[DEST_OPTIONS], 0);
    p.payload[1] = 200;
    lab.send(LAN, &p)?;
    lab.silent(LAN, "an extension header longer than its packet")?;
    lab.pass(&conn)
}

fn routing_headers_are_dropped(lab: &mut Lab) -> Result<()> {
    let conn = lab.open(&Setup::Pieces.flow(UDP, false, 5000), 40)?;
    // Type 0 with one segment left (RFC 5095).
    let mut p = conn.up(b"by another way");
    let mut header = vec![p.proto, 2, 0, 1, 0, 0, 0, 0];
    header.extend([0xfd; 16]);
    p.payload = [header, p.payload].concat();
    p.proto = 43;
    lab.send(LAN, &p)?;
    lab.silent(LAN, "a packet with a routing header")?;
    lab.pass(&conn)
}
