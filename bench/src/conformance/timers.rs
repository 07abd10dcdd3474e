//! What waits: timers of connections and neighbors, tried with a configuration of seconds.
//!
//! Nothing here depends on a second more or less. One connection that rests shows that time has passed: those that must
//! outlive it are looked at when it is gone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::icmp::all_errors;
use super::oracle::{Conn, Flow, LAN, Lab, Neighborly, WAN, own, segment};
use super::packet::tcp;
use super::setup::{Setup, TCP, UDP, name};
use super::udp::first;

suite! { "timers":
    Timers {
        udp_is_refreshed_by_either_side,
        errors_do_not_refresh,
        tcp_has_two_timers,
        a_close_leaves_the_transitory_timer,
        a_reset_leaves_the_transitory_timer,
        a_forged_reset_does_not_end_a_connection,
        an_unsolicited_syn_is_never_answered,
        a_silent_next_hop_is_given_up,
        a_next_hop_in_use_is_probed,
    }
}

const FAMILIES: [bool; 2] = [true, false];
/// Longest wait for any timer of the configuration; reached only when one does not run.
const LIMIT: Duration = Duration::from_secs(40);

fn flow(proto: forwarder::api::Proto, v4: bool) -> Flow {
    Setup::Timers.flow(proto, v4, 5000)
}

fn alive(lab: &Lab, conn: &Conn) -> Result<bool> {
    let all = lab.connections(Some(&name(conn.proto, 5000, conn.client.is_ipv4())))?;
    Ok(all.iter().any(|c| c.client == conn.client))
}

/// Waits until `conn` is gone, doing `meanwhile` about twice a second.
fn outlive(lab: &mut Lab, conn: &Conn, mut meanwhile: impl FnMut(&mut Lab) -> Result<()>) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while alive(lab, conn)? {
        ensure!(Instant::now() < end, "{conn:?} does not end");
        meanwhile(lab)?;
        let again = Instant::now() + Duration::from_millis(500);
        while Instant::now() < again {
            lab.pump(Duration::from_millis(50))?;
        }
    }
    Ok(())
}

/// The connection is gone: what its target sends reaches nobody.
fn is_gone(lab: &mut Lab, conn: &Conn) -> Result<()> {
    ensure!(!alive(lab, conn)?, "{conn:?} is still there");
    lab.inbox.clear();
    lab.send(conn.far, &conn.down(b"anybody?"))?;
    lab.silent(conn.far, "a packet for a connection that ended")
}

fn udp_is_refreshed_by_either_side(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let rests = lab.open(&flow(UDP, v4), 40)?;
        let up = lab.open(&flow(UDP, v4), 41)?;
        let down = lab.open(&flow(UDP, v4), 42)?;
        ensure!(alive(lab, &rests)?, "a connection ended at once");
        outlive(lab, &rests, |lab| {
            lab.pass_up(&up, b"from the client")?;
            lab.pass_down(&down, b"from the target")
        })?;
        is_gone(lab, &rests)?;
        // The same connections as before, whole packets compared.
        lab.pass(&up)?;
        lab.pass(&down)?;
    }
    Ok(())
}

fn errors_do_not_refresh(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        // Errors about a connection all the time, and nothing else: it ends as one that rests does.
        let conn = lab.open(&flow(UDP, v4), 40)?;
        outlive(lab, &conn, |lab| all_errors(lab, &conn))?;
        is_gone(lab, &conn)?;
    }
    Ok(())
}

fn tcp_has_two_timers(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let established = lab.open(&flow(TCP, v4), 40)?;
        let client = lab.client(LAN, 41, v4);
        let opening = lab.first_packet(&flow(TCP, v4), client)?;
        outlive(lab, &opening, |_| Ok(()))?;
        is_gone(lab, &opening)?;
        // It rested as long, and goes on.
        lab.pass(&established)?;
        outlive(lab, &established, |_| Ok(()))?;
        is_gone(lab, &established)?;
    }
    Ok(())
}

fn a_close_leaves_the_transitory_timer(lab: &mut Lab) -> Result<()> {
    let [established, closed] = [lab.open(&flow(TCP, true), 40)?, lab.open(&flow(TCP, true), 41)?];
    for flags in ["FA", "A"] {
        lab.flags_up(&closed, flags)?;
        lab.flags_down(&closed, flags)?;
    }
    // Not at once: a FIN that was lost comes again.
    lab.flags_up(&closed, "FA")?;
    lab.flags_down(&closed, "A")?;
    outlive(lab, &closed, |_| Ok(()))?;
    is_gone(lab, &closed)?;
    lab.pass(&established)
}

fn a_reset_leaves_the_transitory_timer(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let established = lab.open(&flow(TCP, v4), 40)?;
        let mut reset = Vec::new();
        for from_client in [true, false] {
            let conn = lab.open(&flow(TCP, v4), 41)?;
            if from_client {
                lab.flags_up(&conn, "R")?
            } else {
                lab.flags_down(&conn, "RA")?
            }
            ensure!(alive(lab, &conn)?, "a reset ended a connection at once");
            reset.push(conn);
        }
        for conn in &reset {
            outlive(lab, conn, |_| Ok(()))?;
            is_gone(lab, conn)?;
        }
        lab.pass(&established)?;
    }
    Ok(())
}

fn a_forged_reset_does_not_end_a_connection(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        // Two get a reset at the same time. What one carries afterwards, later than a second, makes it established again.
        let [ended, forged] = [lab.open(&flow(TCP, v4), 40)?, lab.open(&flow(TCP, v4), 41)?];
        lab.flags_down(&ended, "R")?;
        lab.flags_down(&forged, "R")?;
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1500) {
            lab.pump(Duration::from_millis(50))?;
        }
        lab.pass(&forged)?;
        let client = lab.client(LAN, 42, v4);
        let opening = lab.first_packet(&flow(TCP, v4), client)?;
        outlive(lab, &ended, |_| Ok(()))?;
        // A connection that was opened later and is in its transitory state has ended meanwhile: this one is not in it.
        outlive(lab, &opening, |_| Ok(()))?;
        lab.pass(&forged).context("after a reset that was not meant")?;
    }
    Ok(())
}

fn an_unsolicited_syn_is_never_answered(lab: &mut Lab) -> Result<()> {
    let sent = Instant::now();
    for v4 in FAMILIES {
        let f = flow(TCP, v4);
        let client = lab.client(LAN, 40, v4);
        let nowhere = std::net::SocketAddr::new(f.listen.ip(), 4996);
        lab.send(LAN, &first(TCP, client, nowhere))?;
        let source = lab.free_source(own(WAN, v4))?;
        lab.send(WAN, &tcp(f.target, source, segment("S"), b""))?;
    }
    while sent.elapsed() < Duration::from_millis(7500) {
        lab.pump(Duration::from_millis(100))?;
    }
    lab.settle(WAN)?;
    lab.silent(LAN, "unsolicited SYNs, for more than 6 seconds")
}

fn a_silent_next_hop_is_given_up(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let f = Setup::Timers.flow(UDP, v4, 5004);
        let target = f.target.ip();
        lab.mute.insert(target);
        let before = lab.dropped("neighbor_failed")? + lab.dropped("neighbor_queue_full")?;
        let client = lab.client(LAN, 40, v4);
        const SENT: u64 = 500;
        for _ in 0..SENT {
            lab.send(LAN, &first(UDP, client, f.listen))?;
        }
        // Every one of them is dropped and counted in the end; none is kept.
        let end = Instant::now() + LIMIT;
        loop {
            let counted = lab.dropped("neighbor_failed")? + lab.dropped("neighbor_queue_full")? - before;
            if counted == SENT {
                break;
            }
            ensure!(Instant::now() < end, "{counted} of {SENT} packets to a silent next hop were counted");
            lab.pump(Duration::from_millis(100))?;
        }
        ensure!(lab.inbox.is_empty(), "something came although the next hop is silent: {:?}", lab.inbox);
        // When it is there again, it is found again.
        lab.mute.clear();
        let end = Instant::now() + LIMIT;
        loop {
            lab.send(LAN, &first(UDP, client, f.listen))?;
            lab.pump(Duration::from_millis(200))?;
            if lab.inbox.iter().any(|a| a.packet.dst == target) {
                break;
            }
            ensure!(Instant::now() < end, "a next hop that came back is not found");
        }
        lab.settle(LAN)?;
        lab.inbox.clear();
    }
    Ok(())
}

fn a_next_hop_in_use_is_probed(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&flow(UDP, v4), 40)?;
        let (target, mac) = (conn.target.ip(), lab.mac(WAN, conn.target.ip()));
        lab.asked.clear();
        let end = Instant::now() + LIMIT;
        let asked = loop {
            lab.pass(&conn)?;
            let found = lab.asked.iter().find(|a| match a.what {
                Neighborly::Arp { op: 1, target: t, .. } | Neighborly::Solicit { target: t, .. } => {
                    t == target
                }
                _ => false,
            });
            if let Some(asked) = found {
                break asked.clone();
            }
            if Instant::now() >= end {
                bail!("a next hop in use is never asked again");
            }
            lab.pump(Duration::from_millis(200))?;
        };
        ensure!(asked.frame.dst == mac, "the probe is not for the next hop alone: {asked:?}");
        // Packets go on while it is asked.
        lab.pass(&conn)?;
    }
    Ok(())
}
