//! TCP: RFC 5382, RFC 5961, RFC 6691; what waits for timers is in `timers`.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use etherparse::TcpHeader;

use super::oracle::{Conn, Flow, LAN, Lab, SLIM, WAN, host, segment};
use super::packet::{Packet, tcp};
use super::setup::{Setup, TCP};
use super::udp::check_config;

suite! { "tcp":
    Main {
        two_clients_reach_one_target_by_one_listen_address,
        replies_come_from_the_listen_address,
        handshake_data_and_close,
        simultaneous_open,
        simultaneous_close,
        a_half_closed_connection_goes_on,
        a_syn_is_sent_again,
        strangers_do_not_reach_a_client,
        segments_of_no_connection_are_dropped,
        options_pass_as_they_came,
        a_reset_is_relayed_and_kills_nothing,
        a_challenge_ack_passes_after_a_reset,
        a_port_is_used_again_after_a_close,
    }
    Policy { mss_is_clamped_on_syn_only, mss_follows_the_mtu, without_a_clamp_mss_passes }
    Alone { the_default_timers_are_those_of_the_rfc }
}

const FAMILIES: [bool; 2] = [true, false];

fn flow(v4: bool, number: u16) -> Flow {
    Setup::Main.flow(TCP, v4, number)
}

/// A header with flags and numbers.
fn numbered(flags: &str, seq: u32, ack: u32) -> TcpHeader {
    TcpHeader { sequence_number: seq, acknowledgment_number: ack, ..segment(flags) }
}

fn two_clients_reach_one_target_by_one_listen_address(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let f = flow(v4, 5000);
        let conns = [lab.open(&f, 40)?, lab.open(&f, 41)?, lab.open(&f, 41)?];
        for conn in &conns {
            lab.pass(conn)?;
        }
    }
    lab.silent(LAN, "after both directions passed")
}

fn replies_come_from_the_listen_address(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        for number in [5000, 5001, 5002] {
            let f = flow(v4, number);
            for n in [42, 43] {
                let conn = lab.open(&f, n)?;
                lab.send(WAN, &conn.down(b"from"))?;
                let came = lab.expect(LAN, "the reply", |p| p.dst == conn.client.ip())?;
                ensure!(
                    came.ends() == Some((f.listen, conn.client)),
                    "the reply came from elsewhere: {came:?}"
                );
            }
        }
    }
    Ok(())
}

fn handshake_data_and_close(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&flow(v4, 5000), 40)?;
        lab.pass(&conn)?;
        lab.flags_up(&conn, "PA")?;
        lab.flags_down(&conn, "UAECF")?;
        lab.flags_up(&conn, "A")?;
        lab.flags_up(&conn, "FA")?;
        lab.flags_down(&conn, "A")?;
        // The last acknowledgment may be lost: the FIN and its answer come once more.
        lab.flags_up(&conn, "FA")?;
        lab.flags_down(&conn, "A")?;
    }
    lab.silent(LAN, "after the close")
}

fn simultaneous_open(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let client = lab.client(LAN, 40, v4);
        let conn = lab.first_packet(&flow(v4, 5000), client)?;
        // The target's own SYN crosses the client's; both then acknowledge (RFC 9293 figure 8).
        lab.flags_down(&conn, "S")?;
        lab.flags_up(&conn, "SA")?;
        lab.flags_down(&conn, "SA")?;
        lab.pass(&conn)?;
    }
    Ok(())
}

fn simultaneous_close(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&flow(v4, 5000), 40)?;
        lab.flags_up(&conn, "FA")?;
        lab.flags_down(&conn, "FA")?;
        lab.flags_up(&conn, "A")?;
        lab.flags_down(&conn, "A")?;
    }
    Ok(())
}

fn a_half_closed_connection_goes_on(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&flow(v4, 5000), 40)?;
        lab.flags_up(&conn, "FA")?;
        for _ in 0..3 {
            lab.pass_down(&conn, b"still sending")?;
            lab.flags_up(&conn, "A")?;
        }
        lab.flags_down(&conn, "FA")?;
        lab.flags_up(&conn, "A")?;
    }
    Ok(())
}

fn a_syn_is_sent_again(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let client = lab.client(LAN, 40, v4);
        let f = flow(v4, 5000);
        let conn = lab.first_packet(&f, client)?;
        // The same connection, so the same source.
        let again = lab.first_packet(&f, client)?;
        ensure!(again.source == conn.source, "a repeated SYN got another source: {again:?}");
        lab.flags_down(&conn, "SA")?;
        lab.flags_down(&conn, "SA")?;
        lab.flags_up(&conn, "A")?;
        lab.pass(&conn)?;
    }
    Ok(())
}

fn strangers_do_not_reach_a_client(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&flow(v4, 5000), 40)?;
        let other_host = SocketAddr::new(host(WAN, 66, v4), conn.target.port());
        // A port that is no flow's target: another connection to that one might have the same source.
        let other_port = SocketAddr::new(conn.target.ip(), 9);
        for stranger in [other_host, other_port] {
            for flags in ["S", "SA", "A", "R", "FA"] {
                lab.send(WAN, &tcp(stranger, conn.source, segment(flags), b""))?;
            }
        }
        let on_other_link = SocketAddr::new(host(SLIM, 66, v4), conn.target.port());
        lab.send(SLIM, &tcp(on_other_link, conn.source, segment("S"), b""))?;
        lab.settle(SLIM)?;
        lab.silent(WAN, "segments of strangers to a connection's source")?;
        lab.pass(&conn)?;
    }
    Ok(())
}

fn segments_of_no_connection_are_dropped(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let listen = flow(v4, 5000).listen;
        for flags in ["SA", "A", "FA", "R", "RA", "PA"] {
            let client = lab.client(LAN, 40, v4);
            lab.dropped_by(LAN, "tcp_no_connection", "a segment of no connection", |lab| {
                lab.send(LAN, &tcp(client, listen, segment(flags), b""))
            })?;
        }
    }
    Ok(())
}

/// Options as stacks send them, and some that no relay knows.
fn option_sets() -> Vec<Vec<u8>> {
    vec![
        // MSS 8960, SACK permitted, timestamps, window scale.
        [&[2, 4, 0x23, 0, 4, 2, 8, 10][..], &[1, 2, 3, 4, 0, 0, 0, 0], &[1, 3, 3, 7]].concat(),
        // TCP-AO.
        [&[29, 16, 1, 2][..], &[0xaa; 12]].concat(),
        // MPTCP MP_CAPABLE with a key.
        [&[30, 12, 0, 0x81][..], &[0x5a; 8]].concat(),
        // SACK blocks and timestamps.
        [&[1, 1, 5, 10][..], &[9; 8], &[1, 1, 8, 10], &[7; 8]].concat(),
        // An experiment, padded by zeros.
        vec![253, 6, 1, 2, 3, 4, 0, 0],
    ]
}

fn with_options(flags: &str, options: &[u8]) -> Result<TcpHeader> {
    let mut header = segment(flags);
    header.set_options_raw(options).ok().context("options that do not fit")?;
    Ok(header)
}

fn options_pass_as_they_came(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        for options in option_sets() {
            let client = lab.client(LAN, 40, v4);
            let f = flow(v4, 5000);
            let header = with_options("S", &options)?;
            lab.send(LAN, &tcp(client, f.listen, header.clone(), b""))?;
            let came = lab.expect(WAN, "the SYN", |p| p.ends().is_some_and(|e| e.1 == f.target))?;
            let (source, _) = came.ends().context("no ports")?;
            ensure!(
                came == Packet { ttl: 63, ..tcp(source, f.target, header, b"") },
                "options were changed: {came:?}"
            );
            let conn =
                Conn { proto: TCP, near: LAN, far: WAN, client, listen: f.listen, source, target: f.target };
            lab.segment_down(&conn, with_options("SA", &options)?)?;
            lab.segment_up(&conn, with_options("A", &options)?)?;
            lab.segment_down(&conn, with_options("PA", &options)?)?;
        }
    }
    Ok(())
}

fn a_reset_is_relayed_and_kills_nothing(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        for from_client in [true, false] {
            let conn = lab.open(&flow(v4, 5000), 40)?;
            let reset = numbered("R", 99_999, 0);
            if from_client {
                lab.segment_up(&conn, reset)?
            } else {
                lab.segment_down(&conn, reset)?
            }
            // Whoever sent it with a wrong number is not believed by the ends, and what they send goes on.
            lab.pass(&conn)?;
        }
    }
    Ok(())
}

fn a_challenge_ack_passes_after_a_reset(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&flow(v4, 5000), 40)?;
        lab.segment_up(&conn, numbered("R", 2000, 0))?;
        // RFC 5961 section 3.2: the target answers what is in the window but not exact; the client then resets exactly.
        lab.segment_down(&conn, numbered("A", 5000, 1000))?;
        lab.segment_up(&conn, numbered("R", 1000, 0))?;
        // The same for a SYN within a connection (section 4.2).
        let conn = lab.open(&flow(v4, 5000), 40)?;
        lab.segment_up(&conn, numbered("S", 70_000, 0))?;
        lab.segment_down(&conn, numbered("A", 5000, 1000))?;
        lab.pass(&conn)?;
    }
    Ok(())
}

fn a_port_is_used_again_after_a_close(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&flow(v4, 5000), 40)?;
        for flags in ["FA", "A"] {
            lab.flags_up(&conn, flags)?;
            lab.flags_down(&conn, flags)?;
        }
        // A client may open the same connection anew by a higher number (RFC 9293 section 3.6.1).
        lab.send(LAN, &tcp(conn.client, conn.listen, numbered("S", 900_000, 0), b""))?;
        let came =
            lab.expect(WAN, "a SYN after the close", |p| p.ends().is_some_and(|e| e.1 == conn.target))?;
        let again = Conn { source: came.ends().context("no ports")?.0, ..conn };
        lab.segment_down(&again, numbered("SA", 700_000, 900_001))?;
        lab.segment_up(&again, numbered("A", 900_001, 700_001))?;
        lab.pass(&again)?;
    }
    Ok(())
}

/// Sends a SYN with options through a flow and its answer back; returns the options that arrive, both ways.
fn through(lab: &mut Lab, f: &Flow, options: &[u8]) -> Result<(Conn, Vec<u8>, Vec<u8>)> {
    let client = lab.client(LAN, 40, f.listen.is_ipv4());
    lab.send(LAN, &tcp(client, f.listen, with_options("S", options)?, b""))?;
    let came = lab.expect(f.far, "the SYN", |p| p.ends().is_some_and(|e| e.1 == f.target))?;
    let source = came.ends().context("no ports")?.0;
    let up = came.tcp()?.0.options.as_slice().to_vec();
    let conn = Conn { proto: TCP, near: LAN, far: f.far, client, listen: f.listen, source, target: f.target };
    lab.send(f.far, &tcp(f.target, source, with_options("SA", options)?, b""))?;
    let came = lab.expect(LAN, "the answer", |p| conn.is_down(p))?;
    let down = came.tcp()?.0.options.as_slice().to_vec();
    Ok((conn, up, down))
}

fn mss(value: u16) -> Vec<u8> {
    let [a, b] = value.to_be_bytes();
    // In the middle, at an odd place, with padding at the end.
    vec![1, 3, 3, 7, 1, 2, 4, a, b, 4, 2, 0]
}

fn mss_is_clamped_on_syn_only(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let f = Setup::Policy.flow(TCP, v4, 5011);
        for (sent, wanted) in
            [(1460, 1400), (8960, 1400), (1401, 1400), (1400, 1400), (1200, 1200), (536, 536)]
        {
            let (conn, up, down) = through(lab, &f, &mss(sent))?;
            ensure!(up == mss(wanted), "an MSS of {sent} went up as {up:02x?}");
            ensure!(down == mss(wanted), "an MSS of {sent} came down as {down:02x?}");
            lab.segment_up(&conn, with_options("A", &mss(9000))?)?;
            lab.segment_down(&conn, with_options("A", &mss(9000))?)?;
        }
        // Where there is none, none is put in.
        let (_, up, down) = through(lab, &f, &[1, 3, 3, 7])?;
        ensure!(up == [1, 3, 3, 7] && down == up, "options without an MSS became {up:02x?} and {down:02x?}");
        let (_, up, down) = through(lab, &f, &[])?;
        ensure!(up.is_empty() && down.is_empty(), "no options became {up:02x?} and {down:02x?}");
    }
    Ok(())
}

fn mss_follows_the_mtu(lab: &mut Lab) -> Result<()> {
    for (v4, wanted) in [(true, 1240), (false, 1220)] {
        let f = Setup::Policy.flow(TCP, v4, 5012);
        let (_, up, down) = through(lab, &f, &mss(1460))?;
        ensure!(up == mss(wanted) && down == up, "an MSS of 1460 became {up:02x?} and {down:02x?}");
        let (_, up, _) = through(lab, &f, &mss(1000))?;
        ensure!(up == mss(1000), "an MSS of 1000 became {up:02x?}");
    }
    Ok(())
}

fn without_a_clamp_mss_passes(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let (_, up, down) = through(lab, &Setup::Policy.flow(TCP, v4, 5000), &mss(8960))?;
        ensure!(up == mss(8960) && down == up, "an MSS of 8960 became {up:02x?} and {down:02x?}");
    }
    Ok(())
}

fn the_default_timers_are_those_of_the_rfc(lab: &mut Lab) -> Result<()> {
    let (_, said) = check_config(lab, &Setup::Alone.config())?;
    ensure!(
        said.contains("tcp established 7440,") && said.contains("tcp transitory 240,"),
        "the TCP timers are others: {said}"
    );
    // They can be set, and what is less than the RFC allows is said.
    let (taken, said) = check_config(lab, &Setup::Timers.config())?;
    ensure!(taken && said.contains("below the 7440 s"), "shorter timers are not remarked: {said}");
    Ok(())
}
