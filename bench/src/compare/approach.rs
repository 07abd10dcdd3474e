//! What is set side by side: its name, what it carries, what it needs.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use crate::host::{package, text_of};
use crate::stream::Carrier;
use crate::topology::{Driver, find_binary, find_tool, is_real_root};

/// What stands between producer and consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "lowercase")]
pub enum Approach {
    /// Both gateways are routers; the consumer connects to the producer.
    Direct,
    /// The kernel of both gateways translates, destination and source.
    Nftables,
    /// HAProxy in TCP mode on both gateways.
    Haproxy,
    /// nginx' stream module on both gateways.
    Nginx,
    /// TLS between the gateways: stunnel's client at the consumer's, its server at the producer's.
    Stunnel,
    /// socat on both gateways.
    Socat,
    /// The naive data server on both gateways ([`super::naive`]).
    Naive,
    /// s2ds over AF_PACKET, which polls.
    #[value(name = "s2ds-af_packet-poll")]
    AfPacketPoll,
    /// s2ds over AF_PACKET, which yields the core when there is no traffic.
    #[value(name = "s2ds-af_packet-adaptive")]
    AfPacketAdaptive,
    /// s2ds over AF_XDP, which polls.
    #[value(name = "s2ds-af_xdp-poll")]
    AfXdpPoll,
    /// s2ds over AF_XDP, which yields the core when there is no traffic.
    #[value(name = "s2ds-af_xdp-adaptive")]
    AfXdpAdaptive,
}

impl Approach {
    /// Every one, in the order of a round.
    #[must_use]
    pub fn all() -> &'static [Approach] {
        Approach::value_variants()
    }

    /// Its name: in results and on the command line.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
    }

    /// The device and what to do without traffic, when it is s2ds.
    #[must_use]
    pub fn s2ds(self) -> Option<(Driver, &'static str)> {
        match self {
            Approach::AfPacketPoll => Some((Driver::AfPacket, "poll")),
            Approach::AfPacketAdaptive => Some((Driver::AfPacket, "adaptive")),
            Approach::AfXdpPoll => Some((Driver::AfXdp, "poll")),
            Approach::AfXdpAdaptive => Some((Driver::AfXdp, "adaptive")),
            _ => None,
        }
    }

    /// Whether its threads take so much of their core without traffic that they cannot have a priority under SCHED_FIFO: they
    /// would starve the kernel's threads, and the kernel would stop them for 50 ms of each second.
    #[must_use]
    pub fn never_rests(self) -> bool {
        self == Approach::Naive || self.s2ds().is_some_and(|(_, idle)| idle == "poll")
    }

    /// Whether the kernel does it all, so that no process has its processor time.
    #[must_use]
    pub fn is_kernel(self) -> bool {
        matches!(self, Approach::Direct | Approach::Nftables)
    }

    /// Why it cannot carry a protocol; none when it can.
    #[must_use]
    pub fn cannot_carry(self, carrier: Carrier) -> Option<String> {
        let why = match (self, carrier) {
            (_, Carrier::Tcp) => return None,
            (Approach::Haproxy, _) => "HAProxy relays TCP and no datagrams",
            (Approach::Stunnel, _) => "stunnel carries TCP within TLS and no datagrams",
            (Approach::Naive, _) => "the naive data server relays TCP and no datagrams",
            _ => return None,
        };
        Some(format!("cannot carry {carrier}: {why}"))
    }

    /// The program that a peer needs.
    fn tool(self) -> Option<&'static str> {
        match self {
            Approach::Nftables => Some("nft"),
            Approach::Haproxy => Some("haproxy"),
            Approach::Nginx => Some("nginx"),
            Approach::Stunnel => Some("stunnel"),
            Approach::Socat => Some("socat"),
            _ => None,
        }
    }

    /// What it needs and this machine or user has not; none when nothing is missing.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        if let Some(tool) = self.tool().filter(|tool| find_tool(tool).is_err()) {
            return Some(format!("{tool} is not installed; `make deps-bench` installs it"));
        }
        match self {
            Approach::Nginx if stream_module().is_none() => {
                Some("nginx has no stream module here; `make deps-bench` installs it".to_owned())
            }
            Approach::AfXdpPoll | Approach::AfXdpAdaptive if !is_real_root() => {
                Some("AF_XDP needs root; run as root".to_owned())
            }
            _ if self.s2ds().is_some() => find_binary("s2ds").err().map(|e| e.to_string()),
            _ => None,
        }
    }

    /// Its version, as its package or itself tells.
    #[must_use]
    pub fn version(self) -> String {
        let kernel = || text_of("uname", &["-sr"]);
        match self {
            Approach::Direct => kernel(),
            Approach::Nftables => format!("{}, {}", of_package("nftables", "nft", "-v"), kernel()),
            Approach::Haproxy => of_package("haproxy", "haproxy", "-v"),
            Approach::Nginx => of_package("nginx", "nginx", "-v"),
            Approach::Stunnel => of_package("stunnel4", "stunnel", "-version"),
            Approach::Socat => of_package("socat", "socat", "-V"),
            Approach::Naive => format!("s2bench {}", env!("CARGO_PKG_VERSION")),
            _ => find_binary("s2ds").map_or_else(|e| e.to_string(), |s2ds| first_line(&s2ds, "--version")),
        }
    }
}

impl std::fmt::Display for Approach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

/// The version of a Debian package; what the program says of itself where it is none.
fn of_package(name: &str, tool: &str, flag: &str) -> String {
    match (package(name), find_tool(tool)) {
        (version, _) if !version.is_empty() => format!("{name} {version}"),
        (_, Ok(program)) => first_line(&program, flag),
        (_, Err(e)) => e.to_string(),
    }
}

/// The first line with a figure in it that a program prints.
fn first_line(program: &Path, flag: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else { return "unknown".to_owned() };
    let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
    let line = text.lines().find(|line| line.contains(|c: char| c.is_ascii_digit()));
    line.unwrap_or("unknown").trim().to_owned()
}

/// How nginx gets its stream module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamModule {
    /// It is compiled in.
    BuiltIn,
    /// From this file.
    File(PathBuf),
}

/// Finds it; none when nginx is here without.
#[must_use]
pub fn stream_module() -> Option<StreamModule> {
    let places = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules"];
    let files = places.map(|dir| Path::new(dir).join("ngx_stream_module.so"));
    if let Some(file) = files.into_iter().find(|f| f.is_file()) {
        return Some(StreamModule::File(file));
    }
    let nginx = find_tool("nginx").ok()?;
    let said = Command::new(nginx).arg("-V").output().ok()?.stderr;
    let said = String::from_utf8_lossy(&said).into_owned();
    said.split_whitespace().any(|word| word == "--with-stream").then_some(StreamModule::BuiltIn)
}
