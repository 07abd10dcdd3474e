//! Fuzz targets: functions of bytes that panic when something does not hold. `forwarder/fuzz` runs them under libFuzzer,
//! `tests/hostile_targets.rs` over their seeds. A new parser gets a line in [`TARGETS`].
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod engine;
pub mod nat;
pub mod oracle;
pub mod parsers;
pub mod templates;

/// A target: its name, what it does with an input, and inputs to begin with.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: &[Target] = &[
    Target { name: "eth", run: parsers::eth, seeds: templates::frames },
    Target { name: "arp", run: parsers::arp, seeds: || templates::behind_ethernet(&[0x0806]) },
    Target { name: "ipv4", run: parsers::ipv4, seeds: || templates::behind_ethernet(&[0x0800]) },
    Target { name: "ipv6", run: parsers::ipv6, seeds: || templates::behind_ethernet(&[0x86dd]) },
    Target { name: "icmp", run: parsers::icmp, seeds: || templates::transports(4, 1) },
    Target { name: "icmpv6", run: parsers::icmpv6, seeds: || templates::transports(6, 58) },
    Target { name: "neighbor", run: parsers::neighbor, seeds: templates::frames },
    Target { name: "tcp", run: parsers::tcp, seeds: || templates::transports(4, 6) },
    Target { name: "udp", run: parsers::udp, seeds: || templates::transports(4, 17) },
    Target { name: "checksum", run: parsers::checksum, seeds: || templates::behind_ethernet(&[0x0800]) },
    Target { name: "config", run: parsers::config, seeds: templates::configs },
    Target { name: "api", run: parsers::api, seeds: templates::calls },
    Target { name: "pcap", run: parsers::pcap, seeds: templates::recordings },
    Target { name: "icmp_error", run: nat::icmp_error, seeds: nat::packets },
    Target { name: "own_error", run: nat::own_errors, seeds: nat::packets },
    Target { name: "family", run: nat::family, seeds: nat::packets },
    Target { name: "mss", run: nat::mss, seeds: nat::segments },
    Target { name: "fragments", run: nat::fragments, seeds: nat::arrivals },
    Target { name: "claim", run: nat::claim, seeds: nat::claimed },
    Target { name: "engine", run: engine::run, seeds: engine::seeds },
];
