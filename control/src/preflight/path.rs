//! What a path needs of the ends of a TCP connection, and what it allows one: `--rtt 20ms --rate 100G`.
//!
//! s2ds ends no TCP: windows and buffers are those of the end hosts, and the settings judged here count on them.

use serde::Serialize;

use super::Scene;
use super::finding::{Finding, Mend, Subject, Write};
use crate::tcp;

/// The path that is asked about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Path {
    /// Round-trip time in seconds, more than zero.
    pub rtt: f64,
    /// Bits a second, more than zero.
    pub rate: f64,
}

/// What the path needs and allows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PathFacts {
    /// Round-trip time in milliseconds.
    pub rtt_ms: f64,
    /// Bits a second.
    pub bits_per_second: f64,
    /// Bytes on the way.
    pub bandwidth_delay: f64,
    /// Bytes of buffer that each end of a connection needs to fill the path: twice what is on the way, because the kernel counts
    /// its own structures in, and keeps what was lost until it came again.
    pub buffer: f64,
    /// Most bits a second of one connection that ends on this host, by `tcp_rmem` and `tcp_wmem`; none when they cannot be read.
    pub here: Option<f64>,
    /// Most bits a second of one connection with TCP's largest window.
    pub largest: f64,
    /// Connections that fill the path with TCP's largest window.
    pub connections: u64,
    /// What depends on the size of packets.
    pub by_mtu: Vec<ByMtu>,
}

/// What the path allows one connection with packets of a size. Loss is a share of packets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ByMtu {
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// TCP payload of a packet over IPv4 with timestamps.
    pub mss: u16,
    /// The same over IPv6.
    pub mss_v6: u16,
    /// Packets on the way.
    pub packets: f64,
    /// Loss at which Reno just fills the path (Mathis et al. 1997).
    pub reno_loss: f64,
    /// Loss at which CUBIC does (RFC 9438).
    pub cubic_loss: f64,
    /// Seconds until Reno is as fast again after one loss.
    pub reno_recovery: f64,
    /// Seconds until CUBIC is.
    pub cubic_recovery: f64,
}

/// Largest value of `tcp_rmem` and `tcp_wmem`.
const MOST_BUFFER: f64 = 2_147_483_647.0;

pub(super) fn check(scene: &Scene<'_>, path: Path, out: &mut Vec<Finding>) -> PathFacts {
    let (rtt, rate) = (path.rtt, path.rate);
    let on_the_way = tcp::bandwidth_delay(rate, rtt);
    let buffers = ["rmem", "wmem"].map(|n| scene.root.numbers(&format!("/proc/sys/net/ipv4/tcp_{n}")));
    let most = |b: &Option<Vec<u64>>| b.as_ref().and_then(|b| b.last().copied());
    let least = most(&buffers[0]).zip(most(&buffers[1])).map(|(r, w)| r.min(w) as f64);
    let mut mtus = vec![1500, 9000];
    mtus.extend(scene.devices.iter().map(|d| d.mtu).filter(|m| *m > 576));
    mtus.sort_unstable();
    mtus.dedup();
    let largest = tcp::window_rate(tcp::LARGEST_WINDOW, rtt);
    let facts = PathFacts {
        rtt_ms: rtt * 1e3,
        bits_per_second: rate,
        bandwidth_delay: on_the_way,
        buffer: 2.0 * on_the_way,
        here: least.map(|bytes| tcp::window_rate(bytes / 2.0, rtt)),
        largest,
        connections: (rate / largest).ceil().max(1.0) as u64,
        by_mtu: mtus.into_iter().map(|mtu| by_mtu(mtu, path)).collect(),
    };
    out.push(buffers_here(&facts, &buffers));
    out.extend(asked_buffers(scene, &facts));
    for name in ["tcp_window_scaling", "tcp_sack", "tcp_timestamps"] {
        out.push(option(scene, name));
    }
    out.push(congestion_control(scene));
    out.extend(queue(scene));
    out.extend(after_idle(scene));
    out.extend(probing(scene));
    links(scene, rate, out);
    facts
}

fn by_mtu(mtu: u16, path: Path) -> ByMtu {
    let (rtt, rate) = (path.rtt, path.rate);
    let mss = mtu - tcp::HEADERS;
    ByMtu {
        mtu,
        mss,
        mss_v6: mtu - tcp::HEADERS_V6,
        packets: tcp::segments(mss, rtt, rate),
        reno_loss: tcp::reno_loss(mss, rtt, rate).min(1.0),
        cubic_loss: tcp::cubic_loss(mss, rtt, rate).min(1.0),
        reno_recovery: tcp::reno_recovery(mss, rtt, rate),
        cubic_recovery: tcp::cubic_recovery(mss, rtt, rate),
    }
}

fn gbits(rate: f64) -> String {
    if rate >= 1e9 { format!("{:.1} Gbit/s", rate / 1e9) } else { format!("{:.1} Mbit/s", rate / 1e6) }
}

fn buffers_here(facts: &PathFacts, buffers: &[Option<Vec<u64>>; 2]) -> Finding {
    const WHAT: &str = "one connection, by tcp_rmem and tcp_wmem";
    let (Some(here), [Some(read), Some(write)]) = (facts.here, buffers) else {
        let why = "/proc/sys/net/ipv4/tcp_rmem and tcp_wmem cannot be read";
        return Finding::unknown(Subject::Path, WHAT, why, "sysctl net.ipv4.tcp_rmem net.ipv4.tcp_wmem");
    };
    let finding = Finding::ok(Subject::Path, WHAT, format!("{} at most", gbits(here))).likely();
    let goal = facts.bits_per_second.min(facts.largest);
    let want = facts.buffer.min(MOST_BUFFER).ceil() as u64;
    let should = format!("{}: buffers of {want} bytes", gbits(goal));
    // Half of the largest buffer is a window of 1 GiB less a half byte.
    if here >= goal * 0.99 {
        return finding.should(should);
    }
    let settings = [("tcp_rmem", read), ("tcp_wmem", write)].map(|(name, now)| {
        let (first, second) = (now.first().copied().unwrap_or(4096), now.get(1).copied().unwrap_or(131_072));
        let most = now.last().copied().unwrap_or(0).max(want);
        (name, format!("{first} {second} {most}"))
    });
    let commands = settings
        .iter()
        .map(|(n, t)| format!("sysctl -w net.ipv4.{n}=\"{t}\""))
        .collect::<Vec<_>>()
        .join(" && ");
    let lines = settings.iter().map(|(n, t)| format!("net.ipv4.{n} = {t}\\n")).collect::<String>();
    let writes =
        settings.iter().map(|(n, t)| Write { file: format!("/proc/sys/net/ipv4/{n}"), text: t.clone() });
    let mend = Mend::write(commands, writes.collect())
        .lasting(format!("printf '{lines}' >> /etc/sysctl.d/90-scistream.conf"));
    let why = "a window passes each round trip, and half of a buffer is the kernel's; it counts on the hosts where TCP ends, \
               not on a gateway";
    finding.warning(should, why).likely().mend(mend)
}

/// Programs that ask for buffers themselves are held to these.
fn asked_buffers(scene: &Scene<'_>, facts: &PathFacts) -> Option<Finding> {
    const WHAT: &str = "buffers that programs may ask for";
    let read = |n: &str| scene.root.number::<u64>(&format!("/proc/sys/net/core/{n}"));
    let (r, w) = (read("rmem_max")?, read("wmem_max")?);
    let want = facts.buffer.min(MOST_BUFFER / 2.0).ceil() as u64;
    let finding = Finding::ok(Subject::Path, WHAT, format!("rmem_max {r}, wmem_max {w}"));
    if r.min(w) >= want {
        return Some(finding.should(format!("{want} bytes or more")));
    }
    let writes = ["rmem_max", "wmem_max"].map(|n| Write {
        file: format!("/proc/sys/net/core/{n}"),
        text: read(n).unwrap_or(0).max(want).to_string(),
    });
    let commands: Vec<_> =
        ["rmem_max", "wmem_max"].iter().map(|n| format!("sysctl -w net.core.{n}={want}")).collect();
    let why = "programs that set SO_RCVBUF and SO_SNDBUF (iperf3 -w, GridFTP) get no more; others are not bound by it";
    Some(
        finding
            .warning(format!("{want} bytes or more"), why)
            .likely()
            .mend(Mend::write(commands.join(" && "), writes.into())),
    )
}

fn option(scene: &Scene<'_>, name: &str) -> Finding {
    let Some(on) = scene.root.number::<u8>(&format!("/proc/sys/net/ipv4/{name}")) else {
        let why = format!("/proc/sys/net/ipv4/{name} cannot be read");
        return Finding::unknown(Subject::Path, name, why, format!("sysctl net.ipv4.{name}"));
    };
    let finding = Finding::ok(Subject::Path, name, if on == 0 { "off" } else { "on" });
    let why = match name {
        "tcp_window_scaling" => "without it a window has 64 KiB at most (RFC 7323)",
        "tcp_sack" => "without it one of several losses in a window is repaired each round trip (RFC 2018)",
        _ => {
            "without them sequence numbers that wrap within a round trip or two are not told apart (RFC 7323)"
        }
    };
    match on {
        0 => finding.warning("on", why).mend(Mend::sysctl(&format!("net.ipv4.{name}"), 1)),
        _ => finding,
    }
}

fn congestion_control(scene: &Scene<'_>) -> Finding {
    const WHAT: &str = "congestion control";
    const FILE: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
    let Some(now) = scene.root.text(FILE) else {
        return Finding::unknown(
            Subject::Path,
            WHAT,
            format!("{FILE} cannot be read"),
            "sysctl net.ipv4.tcp_congestion_control",
        );
    };
    let finding = Finding::ok(Subject::Path, WHAT, now.as_str());
    if now != "reno" {
        return finding.should("cubic, bbr or htcp");
    }
    let why = "Reno bears the least loss of all, see below";
    finding.warning("cubic, bbr or htcp", why).mend(Mend::sysctl("net.ipv4.tcp_congestion_control", "cubic"))
}

fn queue(scene: &Scene<'_>) -> Option<Finding> {
    let now = scene.root.text("/proc/sys/net/core/default_qdisc")?;
    let finding = Finding::ok(Subject::Path, "queue of new interfaces (default_qdisc)", now.as_str());
    if now == "fq" {
        return Some(finding.rule_of_thumb());
    }
    let why =
        "fq sends at the pace TCP asks for; bursts at the line's rate are lost where the path is slower";
    Some(finding.warning("fq", why).rule_of_thumb().mend(Mend::sysctl("net.core.default_qdisc", "fq")))
}

fn after_idle(scene: &Scene<'_>) -> Option<Finding> {
    let on: u8 = scene.root.number("/proc/sys/net/ipv4/tcp_slow_start_after_idle")?;
    let finding = Finding::ok(Subject::Path, "slow start after a pause", if on == 0 { "off" } else { "on" });
    let why = "an instrument that pauses for a few round trips begins anew with ten packets (RFC 2861)";
    Some(match on {
        0 => finding,
        _ => finding
            .warning("off", why)
            .rule_of_thumb()
            .mend(Mend::sysctl("net.ipv4.tcp_slow_start_after_idle", 0)),
    })
}

fn probing(scene: &Scene<'_>) -> Option<Finding> {
    let on: u8 = scene.root.number("/proc/sys/net/ipv4/tcp_mtu_probing")?;
    let finding = Finding::ok(Subject::Path, "search for the path's MTU", if on == 0 { "off" } else { "on" });
    let why = "where ICMP is filtered and a switch takes no jumbo frames, a connection opens and then stands still (RFC 4821)";
    Some(match on {
        0 => finding.warning("on: 1", why).rule_of_thumb().mend(Mend::sysctl("net.ipv4.tcp_mtu_probing", 1)),
        _ => finding,
    })
}

/// Ports slower than the rate that is asked for.
fn links(scene: &Scene<'_>, rate: f64, out: &mut Vec<Finding>) {
    for seen in scene.devices.iter() {
        let Some(speed) = seen.gbits.map(|g| g * 1e9) else { continue };
        let finding = Finding::ok(Subject::Path, format!("rate of {}", seen.title()), gbits(speed));
        out.push(match speed < rate {
            true => {
                finding.warning(format!("{} or more", gbits(rate)), "the link bounds all streams together")
            }
            false => finding.should(format!("{} or more", gbits(rate))),
        });
    }
}
