//! The configuration: TOML text in, a [`Config`] that holds together out.
//!
//! [`Config::parse`] reads everything it can and reports every problem it meets, each with file, line, key and mend. What
//! it returns has been validated: names are resolved to [`PortIndex`], addresses belong where they say, and everything
//! later may rely on it. Flows that arrive on the control socket pass the same [`validate_flow`].
#![forbid(unsafe_code)]

use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::api::{self, FlowSpec};
use crate::io::PortIndex;
use crate::wire::Tags;

mod build;
mod describe;
mod device;
mod network;
mod read;

pub use device::{Device, DeviceError, VhostSocket};
pub(crate) use network::is_edge;
pub use network::{FlowError, MAX_LEASE, Network, NextHop, validate_flow};

/// Longest configuration read, in bytes; more is a mistake.
const MAX_FILE: u64 = 16 << 20;

/// Everything the forwarder is told at start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// `[eal]`.
    pub eal: EalConfig,
    /// `[service]`.
    pub service: ServiceConfig,
    /// `[[port]]`, in the file's order; a [`PortIndex`] points here.
    pub ports: Vec<PortConfig>,
    /// `[[route]]`, in the file's order.
    pub routes: Vec<RouteConfig>,
    /// `[[neighbor]]`: next hops that are not asked for.
    pub neighbors: Vec<NeighborConfig>,
    /// `[addresses]`.
    pub addresses: AddressesConfig,
    /// `[workers]`.
    pub workers: WorkersConfig,
    /// `[[flow]]`, installed at start.
    pub flows: Vec<FlowSpec>,
    /// `[timers]`.
    pub timers: Timers,
    /// `[limits]`.
    pub limits: Limits,
    /// `[privileges]`.
    pub privileges: PrivilegesConfig,
    /// Sentences about settings that are allowed but unwise; for the log and `--check`.
    pub notices: Vec<String>,
}

/// How DPDK's environment abstraction layer starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EalConfig {
    /// Take packet memory from hugepages. False works without them, slower.
    pub huge: bool,
    /// Further EAL options, each its own string.
    pub args: Vec<String>,
}

/// Where the control socket is and who may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// Group that owns the socket; its members may use it.
    pub group: Option<String>,
    /// Permission bits of the socket. In TOML an octal string, `"0660"`.
    pub mode: u32,
}

/// An Ethernet port that the forwarder owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    /// Unique name, 1 to 32 characters of `A-Za-z0-9._-`.
    pub name: String,
    /// The device behind it. Ports of different tags may share one.
    pub device: Device,
    /// The forwarder's own addresses with their prefix lengths; at least one.
    pub addresses: Vec<IpNet>,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// 802.1Q VLAN id of every frame of this port; none means without such a tag.
    pub vlan: Option<u16>,
    /// VLAN id of the 802.1ad service tag of every frame of this port, outside of the other.
    pub outer_vlan: Option<u16>,
    /// Queues the device offers; none takes one a worker.
    pub queues: Option<u16>,
    /// Receive descriptors of each of the device's queues; none takes 1024. The driver may adjust the number.
    pub rx_descriptors: Option<u16>,
    /// Send descriptors, the same.
    pub tx_descriptors: Option<u16>,
    /// What is done when the device has gone or stopped working; none takes the default.
    pub retry: Option<Retry>,
    /// Default next hops, at most one a family, on-link.
    pub gateway: Vec<IpAddr>,
}

/// What is done about a device that has gone or stopped working while the forwarder runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Opening it is tried again and again, so long apart.
    Every(Duration),
    /// Nothing; it stays out of use until the forwarder is started again.
    Off,
}

impl Default for Retry {
    fn default() -> Self {
        Retry::Every(Duration::from_secs(5))
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Retry::Every(pause) => humantime::format_duration(*pause).fmt(f),
            Retry::Off => f.write_str("off"),
        }
    }
}

impl FromStr for Retry {
    type Err = String;

    /// `off`, or a duration from a second to an hour.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Retry::Off);
        }
        let range = Duration::from_secs(1)..=Duration::from_secs(3600);
        humantime::parse_duration(text)
            .ok()
            .filter(|pause| range.contains(pause))
            .map(Retry::Every)
            .ok_or_else(|| {
                format!(
                    "{text:?} is no time between two tries; write it like \"10s\", from 1s to 1h, or \"off\""
                )
            })
    }
}

impl PortConfig {
    /// The VLANs of its frames.
    pub fn tags(&self) -> Tags {
        Tags { outer: self.outer_vlan, inner: self.vlan }
    }
}

/// A route to a network behind a next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConfig {
    /// Destinations; host bits are zero.
    pub prefix: IpNet,
    /// Next hop, on-link of `port`.
    pub via: IpAddr,
    /// Port it is reached by.
    pub port: PortIndex,
}

/// A next hop whose MAC address is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighborConfig {
    /// Port it is reached by.
    pub port: PortIndex,
    /// Its address, on-link of `port`.
    pub address: IpAddr,
    /// Its MAC address, unicast.
    pub mac: [u8; 6],
}

/// How the forwarder makes sure of its own addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressesConfig {
    /// How it finds out whether somebody has them, before it begins.
    pub check: AddressCheck,
}

/// How own addresses are probed at start (RFC 5227 section 2.1, RFC 4862 section 5.4). One that another station has ends
/// the start; those that are free are announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressCheck {
    /// Three probes, 0.55 seconds in all.
    #[default]
    Quick,
    /// With the random waits of RFC 5227 section 1.1, 4 to 7 seconds in all.
    Rfc5227,
    /// Not at all. Nor are they announced or defended, which would take them from whoever has them.
    Off,
}

/// Which cores forward and what they do without traffic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkersConfig {
    /// One worker a core.
    pub cores: Cores,
    /// Where `cores` stands, as `file:line`, for errors that only the machine can tell.
    pub cores_at: String,
    /// What a worker does when no packet is there.
    pub idle: Idle,
}

/// Choice of cores.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Cores {
    /// The forwarder chooses, near the devices.
    #[default]
    Auto,
    /// These, each once; not empty.
    List(Vec<usize>),
}

/// What a worker does when no packet is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Idle {
    /// Polls on; the core is taken whole.
    #[default]
    Poll,
    /// Yields the core, so that several programs share a small machine.
    Adaptive,
}

/// Lifetimes in seconds, each at least 1 and at most 1,000,000.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timers {
    /// A UDP connection without packets. RFC 4787 section 4.3: not below 120, better 300.
    pub udp: u32,
    /// An established TCP connection without packets. RFC 5382 section 5: not below 7440.
    pub tcp_established: u32,
    /// A TCP connection that opens or closes. RFC 5382 section 5: not below 240.
    pub tcp_transitory: u32,
    /// A resolved next hop before it is probed again.
    pub neighbor: u32,
}

/// Sizes of tables, fixed at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections of one worker.
    pub connections: usize,
    /// Flows.
    pub flows: usize,
    /// Next hops, over all ports.
    pub neighbors: usize,
    /// Source ports that connections to targets take. In TOML `"32768-65535"`.
    pub source_ports: RangeInclusive<u16>,
}

/// What the forwarder gives up once it has started, and what it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PrivilegesConfig {
    /// The user to become; none stays the one that started it.
    pub user: Option<String>,
    /// Whether what is not needed is refused.
    pub sandbox: Sandbox,
    /// Capabilities to keep beside those that the devices need, such as `CAP_SYS_RAWIO`.
    pub capabilities: Vec<String>,
    /// Files and folders to use beside those that the devices need.
    pub files: Vec<PathBuf>,
}

/// What becomes of calls and files that the forwarder does not need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sandbox {
    /// They are refused.
    #[default]
    On,
    /// Calls are let through, and the kernel logs them; files are not confined. To find out what a list lacks.
    Log,
    /// They are let through. Only the user is changed, when one is named.
    Off,
}

impl FromStr for Sandbox {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "on" => Ok(Sandbox::On),
            "log" => Ok(Sandbox::Log),
            "off" => Ok(Sandbox::Off),
            _ => Err(format!("must be \"on\", \"log\" or \"off\", not {word:?}")),
        }
    }
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sandbox::On => "on",
            Sandbox::Log => "log",
            Sandbox::Off => "off",
        })
    }
}

impl Default for EalConfig {
    fn default() -> Self {
        Self { huge: true, args: Vec::new() }
    }
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self { socket: PathBuf::from(api::DEFAULT_SOCKET), group: None, mode: 0o660 }
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self { udp: 300, tcp_established: 7440, tcp_transitory: 240, neighbor: 60 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 65_536, flows: 16_384, neighbors: 1024, source_ports: 32_768..=65_535 }
    }
}

/// One thing wrong in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Name of the text, usually its path.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Path of the key, such as `port[0].mtu`.
    pub key: String,
    /// What is wrong and the mend.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.key, self.message)
    }
}

/// Why there is no [`Config`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {} cannot be read ({source}); give a readable TOML file with --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It reads, but does not hold together; one problem a line.
    #[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Problem>),
}

impl Config {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// The file cannot be read, or every problem in it.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let read = || {
            let mut text = String::new();
            std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
            if text.len() as u64 > MAX_FILE {
                return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "it has more than 16 MiB"));
            }
            Ok(text)
        };
        let text = read().map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Config::parse(&text, &path.display().to_string())
    }

    /// Validates a text; `name` stands for the file in problems.
    ///
    /// # Errors
    /// Every problem in it.
    pub fn parse(text: &str, name: &str) -> Result<Config, ConfigError> {
        build::config(text, name)
    }

    /// The first port that has this port's device.
    pub fn first_of_device(&self, port: &PortConfig) -> PortIndex {
        (0..).zip(&self.ports).find(|(_, p)| p.device == port.device).map_or(0, |(index, _)| index)
    }

    /// The ports by device, devices in the order of their first ports.
    pub fn devices(&self) -> impl Iterator<Item = Vec<&PortConfig>> {
        let first = |(i, p): &(PortIndex, &PortConfig)| self.first_of_device(p) == *i;
        (0..)
            .zip(&self.ports)
            .filter(first)
            .map(|(_, first)| self.ports.iter().filter(|p| p.device == first.device).collect())
    }

    /// Ports and routes, for questions about addresses.
    pub fn network(&self) -> Network<'_> {
        Network { ports: &self.ports, routes: &self.routes }
    }
}
