//! One port in full, for people.

use forwarder::api::table::Table;
use forwarder::api::{Descriptors, OffloadBy, PortDetail, PortInfo};
use std::collections::BTreeSet;

use crate::show::{count, fields, list, neighbors, or_dash, seconds, share};

pub(crate) fn one_port(detail: &PortDetail) -> String {
    let offloads = if detail.device.offloads.is_empty() { None } else { Some(offloads(detail)) };
    let own = std::slice::from_ref(&detail.port);
    let parts = [Some(facts(detail)), offloads, queues(detail), queue_counters(detail)].into_iter().flatten();
    parts.chain(neighbors(own)).chain(counters(detail)).collect::<Vec<_>>().join("\n")
}

fn facts(detail: &PortDetail) -> String {
    let (port, device) = (&detail.port, &detail.device);
    let known = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let mut rows =
        vec![("name", port.name.clone()), ("device", port.device.clone()), ("driver", known(&port.driver))];
    if let Some(failure) = &port.failure {
        rows.push(("failed", format!("{} ago: {}", seconds(failure.ago), failure.why)));
        rows.push(("tried since", failure.tries.to_string()));
        rows.extend(failure.refusal.clone().map(|why| ("last try", why)));
        rows.push((
            "next try",
            failure.retry_in.map_or_else(|| "never".to_owned(), |s| format!("in {}", seconds(s))),
        ));
    }
    rows.extend([
        ("place", known(format!("{} {}", device.bus, device.place).trim())),
        ("interface", or_dash(&device.interface)),
        ("firmware", or_dash(&device.firmware)),
        ("MAC", port.mac.clone()),
        ("NUMA node", or_dash(&port.numa_node)),
        ("link", link(detail)),
        ("link changes", changes(detail)),
        ("MTU", beside(port.mtu, device.max_mtu)),
        ("VLAN, outer VLAN", format!("{}, {}", or_dash(&port.vlan), or_dash(&port.outer_vlan))),
        ("addresses", list(&port.addresses)),
        ("link-local", detail.link_local.to_string()),
        ("gateway", list(&port.gateway)),
        ("queues", beside(port.queues, Some(device.max_queues).filter(|n| *n > 0))),
        ("RX descriptors", descriptors(device.rx_descriptors)),
        ("TX descriptors", descriptors(device.tx_descriptors)),
        ("steering", steering(port, &device.steering_why)),
    ]);
    if let Some(guest) = &device.guest {
        let pairs = match guest.queue_pairs {
            n if n < port.queues => format!("{n}: workers from {n} on cannot send to it"),
            n => n.to_string(),
        };
        rows.extend([
            ("guest's features", list(&guest.features)),
            ("guest's queue pairs", pairs),
            ("guest's host_mtu", or_dash(&guest.mtu)),
        ]);
    }
    rows.extend([
        ("handed over", share(port.handed_over, port.rx.packets)),
        ("received", count(port.rx)),
        ("sent", count(port.tx)),
        ("missed by the device", port.rx_missed.to_string()),
        ("not sent by the device", port.tx_errors.to_string()),
    ]);
    fields(rows)
}

/// What is in use, and the most that the device has.
fn beside(used: u16, most: Option<u16>) -> String {
    match most {
        Some(most) => format!("{used} of at most {most}"),
        None => used.to_string(),
    }
}

fn descriptors(d: Descriptors) -> String {
    if d.used == 0 { "-".to_owned() } else { beside(d.used, d.most) }
}

fn link(detail: &PortDetail) -> String {
    let (port, link) = (&detail.port, &detail.device.link);
    let words = [
        Some(port.link.clone()),
        port.speed.map(|speed| format!("{speed} Mbit/s")),
        link.full_duplex.map(|full| if full { "full duplex" } else { "half duplex" }.to_owned()),
        link.autoneg.map(|auto| if auto { "autonegotiated" } else { "fixed" }.to_owned()),
    ];
    list(&words.into_iter().flatten().collect::<Vec<_>>())
}

fn changes(detail: &PortDetail) -> String {
    let link = &detail.device.link;
    let told = if link.interrupt { "told by interrupt" } else { "asked once a second" };
    match link.changed_ago {
        Some(ago) => format!("{}, the last {} ago; {told}", link.changes, seconds(ago)),
        None => format!("{}; {told}", link.changes),
    }
}

fn steering(port: &PortInfo, why: &str) -> String {
    if why.is_empty() { port.steering.clone() } else { format!("{}: {why}", port.steering) }
}

fn offloads(detail: &PortDetail) -> String {
    let mut table = Table::new(&["WORK", "DONE", "WHY"]);
    for o in &detail.device.offloads {
        let by = match o.by {
            OffloadBy::Hardware => "in hardware",
            OffloadBy::Software => "in software",
            OffloadBy::Off => "not",
        };
        table.row([o.name.clone(), by.to_owned(), o.why.clone()]);
    }
    table.to_string()
}

/// The workers' counters of each queue.
fn queues(detail: &PortDetail) -> Option<String> {
    let mut table = Table::new(&[">QUEUE", ">RX", ">TX", ">DROPPED"]);
    for q in &detail.queues {
        table.row([q.queue.to_string(), count(q.rx), count(q.tx), q.dropped.to_string()]);
    }
    (!detail.queues.is_empty()).then(|| table.to_string())
}

/// The driver's own counters of each queue, a row for each that any queue has.
fn queue_counters(detail: &PortDetail) -> Option<String> {
    let names: BTreeSet<&String> = detail.queues.iter().flat_map(|q| q.device.keys()).collect();
    let titles: Vec<String> = detail.queues.iter().map(|q| format!(">QUEUE {}", q.queue)).collect();
    let heading: Vec<&str> =
        ["DRIVER'S COUNTER OF A QUEUE"].into_iter().chain(titles.iter().map(String::as_str)).collect();
    let mut table = Table::new(&heading);
    for name in &names {
        let values = detail.queues.iter().map(|q| or_dash(&q.device.get(*name)));
        table.row(std::iter::once((*name).clone()).chain(values));
    }
    (!names.is_empty()).then(|| table.to_string())
}

fn counters(detail: &PortDetail) -> Option<String> {
    let mut table = Table::new(&["DRIVER'S COUNTER", ">VALUE"]);
    for (name, value) in &detail.device.xstats {
        table.row([name.clone(), value.to_string()]);
    }
    (!detail.device.xstats.is_empty()).then(|| table.to_string())
}
