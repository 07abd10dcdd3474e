//! What `--check` prints: what would run.

use std::fmt::{Display, Write};

use super::{AddressCheck, Config, Cores, Idle};
use crate::api::rate;
use crate::api::table::Table;

impl Config {
    /// The configuration with every default filled in, as tables for people.
    pub fn describe(&self) -> String {
        let port =
            |index: u8| self.ports.get(usize::from(index)).map_or_else(String::new, |p| p.name.clone());
        let mut out = String::new();
        let mut section = |title: &str, table: &dyn Display| _ = writeln!(out, "{title}\n{table}");

        let mut ports = Table::new(&[
            "NAME",
            "DEVICE",
            "ADDRESSES",
            ">MTU",
            ">OUTER VLAN",
            ">VLAN",
            ">QUEUES",
            ">RETRY",
            "GATEWAY",
        ]);
        for p in &self.ports {
            ports.row([
                p.name.clone(),
                p.device.to_string(),
                join(&p.addresses),
                p.mtu.to_string(),
                p.outer_vlan.map_or_else(|| "-".to_owned(), |v| v.to_string()),
                p.vlan.map_or_else(|| "-".to_owned(), |v| v.to_string()),
                p.queues.map_or_else(|| "one a worker".to_owned(), |q| q.to_string()),
                p.retry.unwrap_or_default().to_string(),
                join(&p.gateway),
            ]);
        }
        section("Ports", &ports);

        if !self.routes.is_empty() {
            let mut routes = Table::new(&["PREFIX", "VIA", "PORT"]);
            for r in &self.routes {
                routes.row([r.prefix.to_string(), r.via.to_string(), port(r.port)]);
            }
            section("Routes", &routes);
        }
        if !self.neighbors.is_empty() {
            let mut neighbors = Table::new(&["ADDRESS", "MAC", "PORT"]);
            for n in &self.neighbors {
                let mac: Vec<_> = n.mac.iter().map(|b| format!("{b:02x}")).collect();
                neighbors.row([n.address.to_string(), mac.join(":"), port(n.port)]);
            }
            section("Neighbors", &neighbors);
        }

        let mut flows = Table::new(&[
            "NAME",
            "PROTO",
            "LISTEN",
            "TARGET",
            "NEXT HOP",
            "FROM",
            ">MAX CONNS",
            ">MSS CLAMP",
            "HAIRPIN",
            ">RATE",
            ">LEASE",
        ]);
        for f in &self.flows {
            let hop = self.network().next_hop(f.target.ip());
            flows.row([
                f.name.clone(),
                f.proto.to_string(),
                f.listen.to_string(),
                f.target.to_string(),
                hop.map_or_else(|| "-".to_owned(), |h| format!("{} on {}", h.address, port(h.port))),
                join(&f.from),
                f.max_conns.map_or_else(|| "-".to_owned(), |n| n.to_string()),
                f.mss_clamp.map_or_else(|| "-".to_owned(), |n| n.to_string()),
                if f.hairpin { "yes" } else { "no" }.to_owned(),
                f.rate.map_or_else(|| "-".to_owned(), rate::show),
                f.lease.map_or_else(|| "-".to_owned(), |s| format!("{s} s")),
            ]);
        }
        section("Flows", &flows);

        let mut settings = Table::new(&["SETTING", "VALUE"]);
        let mut set = |name: &str, value: &dyn Display| settings.row([name.to_owned(), value.to_string()]);
        set("memory", if self.eal.huge { &"hugepages" } else { &"ordinary pages" });
        set("EAL options", &join_or(&self.eal.args, " ", "-"));
        match &self.workers.cores {
            Cores::Auto => set("workers", &"chosen near the devices"),
            Cores::List(cores) => set("workers", &format!("{} on cores {}", cores.len(), join(cores))),
        }
        match self.workers.idle {
            Idle::Poll => set("idle", &"poll"),
            Idle::Adaptive => set("idle", &"adaptive"),
        }
        match self.addresses.check {
            AddressCheck::Quick => set("address check", &"quick"),
            AddressCheck::Rfc5227 => set("address check", &"rfc5227"),
            AddressCheck::Off => set("address check", &"off"),
        }
        let (service, timers, limits) = (&self.service, &self.timers, &self.limits);
        set("control socket", &service.socket.display());
        set("its group, mode", &format!("{}, {:04o}", service.group.as_deref().unwrap_or("-"), service.mode));
        set(
            "timers, s",
            &format!(
                "udp {}, tcp established {}, tcp transitory {}, neighbor {}",
                timers.udp, timers.tcp_established, timers.tcp_transitory, timers.neighbor
            ),
        );
        set(
            "limits",
            &format!(
                "{} connections a worker, {} flows, {} neighbors, source ports {}-{}",
                limits.connections,
                limits.flows,
                limits.neighbors,
                limits.source_ports.start(),
                limits.source_ports.end()
            ),
        );
        section("Settings", &settings);

        for notice in &self.notices {
            _ = writeln!(out, "notice: {notice}");
        }
        out
    }
}

fn join<T: Display>(items: &[T]) -> String {
    join_or(items, ", ", "-")
}

fn join_or<T: Display>(items: &[T], between: &str, empty: &str) -> String {
    if items.is_empty() {
        return empty.to_owned();
    }
    items.iter().map(T::to_string).collect::<Vec<_>>().join(between)
}
