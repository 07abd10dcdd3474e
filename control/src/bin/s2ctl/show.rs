//! Replies as tables for people.

use std::fmt::{Display, Write};
use std::time::Duration;

use forwarder::api::table::Table;
use forwarder::api::{
    ConnectionInfo, Count, Explanation, FlowInfo, FlowState, PortInfo, Reply, Residence, Stats, rate,
};

/// Any reply, ended by a newline.
pub(crate) fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Done { epoch } => format!("done (epoch {epoch})\n"),
        Reply::Flow { flow } => one_flow(flow),
        Reply::Flows { flows } => all_flows(flows),
        Reply::Connections { connections, truncated } => all_connections(connections, *truncated),
        Reply::Ports { ports } => all_ports(ports),
        Reply::Port { port } => crate::port::one_port(port),
        Reply::Stats { stats } => self::stats(stats, None),
        Reply::Explained { explanation } => explained(explanation),
        Reply::Snapshot { snapshot } => [
            titled("Ports", &all_ports(&snapshot.ports)),
            titled("Flows", &all_flows(&snapshot.flows)),
            titled("Connections", &all_connections(&snapshot.connections, snapshot.connections_truncated)),
            titled("Stats", &stats(&snapshot.stats, None)),
        ]
        .join("\n"),
    }
}

fn titled(title: &str, body: &str) -> String {
    format!("{title}\n{body}")
}

pub(crate) fn or_dash<T: Display>(value: &Option<T>) -> String {
    value.as_ref().map_or_else(|| "-".to_owned(), T::to_string)
}

pub(crate) fn list<T: Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "-".to_owned();
    }
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

pub(crate) fn seconds(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// Bytes with three digits and a decimal prefix.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 999.5 {
            let digits = if unit == "B" || value >= 99.95 { 0 } else { 1 };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} PB")
}

/// Nanoseconds with three digits and a unit.
fn duration(ns: u64) -> String {
    let mut value = ns as f64;
    for unit in ["ns", "us", "ms"] {
        if value < 999.5 {
            let digits = if unit == "ns" || value >= 99.95 { 0 } else { 1 };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} s")
}

pub(crate) fn count(count: Count) -> String {
    format!("{} ({})", count.packets, bytes(count.bytes))
}

fn state(flow: &FlowInfo) -> &'static str {
    match flow.state {
        FlowState::Active => "active",
        FlowState::Draining => "draining",
    }
}

pub(crate) fn fields(rows: Vec<(&str, String)>) -> String {
    let mut table = Table::new(&["FIELD", "VALUE"]);
    for (name, value) in rows {
        table.row([name.to_owned(), value]);
    }
    table.to_string()
}

fn one_flow(flow: &FlowInfo) -> String {
    let spec = &flow.spec;
    fields(vec![
        ("name", spec.name.clone()),
        ("protocol", spec.proto.to_string()),
        ("listen", spec.listen.to_string()),
        ("target", spec.target.to_string()),
        ("from", list(&spec.from)),
        ("state", state(flow).to_owned()),
        ("origin", if flow.configured { "configuration" } else { "control socket" }.to_owned()),
        ("connections", flow.connections.to_string()),
        ("most connections", or_dash(&spec.max_conns)),
        ("segment size at most", or_dash(&spec.mss_clamp)),
        ("hairpin", if spec.hairpin { "yes" } else { "no" }.to_owned()),
        ("rate", or_dash(&spec.rate.map(rate::show))),
        ("admitted", flow.admitted.to_string()),
        ("refused", flow.refused.to_string()),
        ("above the rate", flow.policed.to_string()),
        ("to target", count(flow.to_target)),
        ("to client", count(flow.to_client)),
        ("lease", or_dash(&spec.lease.map(seconds))),
        ("lease remaining", or_dash(&flow.lease_remaining.map(seconds))),
    ])
}

fn all_flows(flows: &[FlowInfo]) -> String {
    let mut table = Table::new(&[
        "NAME",
        "PROTO",
        "LISTEN",
        "TARGET",
        "STATE",
        ">RATE",
        ">CONNS",
        ">ADMITTED",
        ">REFUSED",
        ">TO TARGET",
        ">TO CLIENT",
        ">LEASE",
    ]);
    for flow in flows {
        table.row([
            flow.spec.name.clone(),
            flow.spec.proto.to_string(),
            flow.spec.listen.to_string(),
            flow.spec.target.to_string(),
            state(flow).to_owned(),
            or_dash(&flow.spec.rate.map(rate::show)),
            flow.connections.to_string(),
            flow.admitted.to_string(),
            flow.refused.to_string(),
            bytes(flow.to_target.bytes),
            bytes(flow.to_client.bytes),
            or_dash(&flow.lease_remaining.map(seconds)),
        ]);
    }
    table.to_string()
}

fn all_connections(connections: &[ConnectionInfo], truncated: bool) -> String {
    let mut table = Table::new(&[
        "FLOW",
        "PROTO",
        "CLIENT",
        "LISTEN",
        "SOURCE",
        "TARGET",
        "STATE",
        ">WORKER",
        ">AGE",
        ">IDLE",
        ">TO TARGET",
        ">TO CLIENT",
    ]);
    for c in connections {
        table.row([
            c.flow.clone(),
            c.proto.to_string(),
            c.client.to_string(),
            c.listen.to_string(),
            c.source.to_string(),
            c.target.to_string(),
            c.state.clone(),
            c.worker.to_string(),
            seconds(c.age),
            seconds(c.idle),
            bytes(c.to_target.bytes),
            bytes(c.to_client.bytes),
        ]);
    }
    let more = if truncated { "... and more; raise --limit or choose a --flow\n" } else { "" };
    format!("{table}{more}")
}

/// A part of a whole, in percent.
pub(crate) fn share(part: u64, whole: u64) -> String {
    format!("{:.1} %", part as f64 * 100.0 / whole.max(1) as f64)
}

fn all_ports(ports: &[PortInfo]) -> String {
    let mut table = Table::new(&[
        "NAME",
        "DEVICE",
        "DRIVER",
        "MAC",
        "ADDRESSES",
        ">MTU",
        ">OUTER VLAN",
        ">VLAN",
        "LINK",
        ">QUEUES",
        "STEERING",
        ">HANDED OVER",
        ">NUMA",
        ">RX",
        ">TX",
        ">MISSED",
        ">ERRORS",
    ]);
    for p in ports {
        let link = match p.speed {
            Some(speed) => format!("{} {speed} Mbit/s", p.link),
            None => p.link.clone(),
        };
        table.row([
            p.name.clone(),
            p.device.clone(),
            p.driver.clone(),
            p.mac.clone(),
            list(&p.addresses),
            p.mtu.to_string(),
            or_dash(&p.outer_vlan),
            or_dash(&p.vlan),
            link,
            p.queues.to_string(),
            p.steering.clone(),
            share(p.handed_over, p.rx.packets),
            or_dash(&p.numa_node),
            p.rx.packets.to_string(),
            p.tx.packets.to_string(),
            p.rx_missed.to_string(),
            p.tx_errors.to_string(),
        ]);
    }
    [table.to_string()].into_iter().chain(neighbors(ports)).collect::<Vec<_>>().join("\n")
}

/// Next hops, and own addresses that others claimed; a table of each if there is any.
pub(crate) fn neighbors(ports: &[PortInfo]) -> Vec<String> {
    let mut neighbors = Table::new(&["PORT", "NEIGHBOR", "MAC", "STATE"]);
    let mut any = false;
    for p in ports {
        for n in &p.neighbors {
            any = true;
            neighbors.row([p.name.clone(), n.address.to_string(), or_dash(&n.mac), n.state.clone()]);
        }
    }
    let mut conflicts = Table::new(&["PORT", "OUR ADDRESS", "CLAIMED BY", ">TIMES", ">LAST"]);
    let mut contested = false;
    for p in ports {
        for c in &p.conflicts {
            contested = true;
            conflicts.row([
                p.name.clone(),
                c.address.to_string(),
                c.mac.clone(),
                c.times.to_string(),
                format!("{} s ago", c.ago),
            ]);
        }
    }
    let tables = [(any, neighbors), (contested, conflicts)];
    tables.into_iter().filter(|(shown, _)| *shown).map(|(_, table)| table.to_string()).collect()
}

fn explained(e: &Explanation) -> String {
    let mut steps = Table::new(&[">STEP", "CHECK"]);
    for (number, step) in (1..).zip(&e.steps) {
        steps.row([i32::to_string(&number), step.clone()]);
    }
    let connection = if e.existing { "exists" } else { "none yet" };
    let result = fields(vec![
        ("verdict", e.verdict.clone()),
        ("flow", or_dash(&e.flow)),
        ("connection", connection.to_owned()),
        ("source becomes", or_dash(&e.rewritten_src)),
        ("destination becomes", or_dash(&e.rewritten_dst)),
        ("leaves by", or_dash(&e.out_port)),
        ("next hop", or_dash(&e.next_hop)),
        ("next hop's MAC", or_dash(&e.next_hop_mac)),
        ("worker", or_dash(&e.worker)),
    ]);
    format!("{steps}\n{result}")
}

/// Counters; with an earlier reading and its age, rates beside them.
pub(crate) fn stats(now: &Stats, before: Option<(&Stats, Duration)>) -> String {
    let rate = |pick: &dyn Fn(&Stats) -> u64| match before {
        // A forwarder that started anew counts from zero again.
        Some((then, age)) => {
            format!("{:.0}", pick(now).saturating_sub(pick(then)) as f64 / age.as_secs_f64().max(1e-9))
        }
        None => "-".to_owned(),
    };
    let dropped = |s: &Stats| s.drops.values().sum::<u64>();
    let mut out = String::new();
    let (uptime, epoch, connections) = (seconds(now.uptime), now.epoch, now.connections);
    _ = writeln!(out, "up {uptime}, epoch {epoch}, {connections} connections\n");

    let mut frames = Table::new(&["FRAMES", ">TOTAL", ">PER SECOND"]);
    let mut row = |name: &str, pick: &dyn Fn(&Stats) -> u64| {
        frames.row([name.to_owned(), pick(now).to_string(), rate(pick)]);
    };
    row("received", &|s| s.received);
    row("sent", &|s| s.sent);
    row("held", &|s| s.held);
    row("dropped", &dropped);
    row("originated", &|s| s.originated);
    for (reason, _) in now.drops.iter().filter(|(_, n)| **n > 0) {
        row(&format!("  drop {reason}"), &|s| s.drops.get(reason).copied().unwrap_or(0));
    }
    _ = writeln!(out, "{frames}");

    let mut workers = Table::new(&[
        ">WORKER",
        ">CORE",
        ">RECEIVED",
        ">SENT",
        ">HELD",
        ">HANDED OVER",
        ">TAKEN OVER",
        ">BUSY LOOPS",
        ">CONNS",
    ]);
    for w in &now.workers {
        workers.row([
            w.worker.to_string(),
            or_dash(&w.core),
            w.received.to_string(),
            w.sent.to_string(),
            w.held.to_string(),
            w.handed_over.to_string(),
            w.taken_over.to_string(),
            share(w.busy_loops, w.loops),
            w.connections.to_string(),
        ]);
    }
    _ = writeln!(out, "{workers}");

    let mut queues =
        Table::new(&[">WORKER", "PORT", ">RX", ">RX/S", ">TX", ">TX/S", ">RX BYTES", ">TX BYTES", "DROPS"]);
    for (w, worker) in now.workers.iter().enumerate() {
        for (q, queue) in worker.queues.iter().enumerate() {
            let same = |s: &Stats| {
                s.workers.get(w).and_then(|w| w.queues.get(q)).map(|q| (q.rx.packets, q.tx.packets))
            };
            let drops: Vec<_> = queue.drops.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
            queues.row([
                worker.worker.to_string(),
                queue.port.clone(),
                queue.rx.packets.to_string(),
                rate(&|s| same(s).map_or(0, |(rx, _)| rx)),
                queue.tx.packets.to_string(),
                rate(&|s| same(s).map_or(0, |(_, tx)| tx)),
                bytes(queue.rx.bytes),
                bytes(queue.tx.bytes),
                list(&drops),
            ]);
        }
    }
    _ = writeln!(out, "{queues}");

    let mut times = Table::new(&["RX TO TX (SAMPLED)", ">SAMPLES", ">P50", ">P90", ">P99", ">P99.9", ">MAX"]);
    let mut row = |name: String, r: &Residence| {
        let figures = [r.p50_ns, r.p90_ns, r.p99_ns, r.p999_ns, r.max_ns];
        let shown = figures.map(|ns| if r.samples == 0 { "-".to_owned() } else { duration(ns) });
        times.row([name, r.samples.to_string()].into_iter().chain(shown));
    };
    for w in &now.workers {
        row(format!("worker {}", w.worker), &w.residence);
        if w.waits.samples > 0 {
            row(format!("worker {}, waits for next hops", w.worker), &w.waits);
        }
    }
    for f in &now.flows {
        row(format!("flow {}", f.flow), &f.residence);
    }
    _ = write!(out, "{times}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (99_949, "99.9 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (200_000_000, "200 MB"),
            (u64::MAX, "18446.7 PB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn durations_have_three_digits() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.0 us"),
            (99_949, "99.9 us"),
            (999_499, "999 us"),
            (999_500, "1.0 ms"),
            (3_300_000_000, "3.3 s"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let then = Stats { received: 100, ..Stats::default() };
        let now = Stats { received: 1100, ..Stats::default() };
        let text = stats(&now, Some((&then, Duration::from_secs(2))));
        let row = text.lines().find(|l| l.starts_with("received")).unwrap();
        assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["received", "1100", "500"]);
    }
}
