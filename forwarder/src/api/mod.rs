//! Request and reply types of the control socket, and its version handshake.
//!
//! The socket is a Unix stream that carries JSON, one document a line. The client's first line is a [`Hello`]; the server
//! answers with its own [`Hello`] or with an error and hangs up. After that every line is a [`Call`] and is answered by
//! exactly one [`Answer`] with the same `id`, in order. `control::client` speaks this; so can `socat` and a person.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod port;
pub mod table;

pub use port::{Descriptors, DeviceDetail, LinkDetail, Offload, OffloadBy, PortDetail, PortQueue};

/// Version of the protocol spoken on the control socket. A server refuses a client whose version differs.
pub const VERSION: u32 = 1;

/// Longest line either side accepts from the client, in bytes, without the newline.
pub const MAX_LINE: usize = 256 * 1024;

/// Default place of the control socket.
pub const DEFAULT_SOCKET: &str = "/run/scistream/s2ds.sock";

/// Name of the protocol, in every [`Hello`].
pub const SERVICE: &str = "scistream-s2ds";

/// First line in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Always [`SERVICE`].
    pub service: String,
    /// [`VERSION`] of the speaker.
    pub version: u32,
    /// Program and release of the speaker, for the log: `s2ctl 0.1.0`.
    pub program: String,
    /// Random name of this run of the forwarder, 32 hexadecimal digits: one that differs tells of a restart. Clients send none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

impl Hello {
    /// The hello of a program of this release.
    pub fn of(program: &str) -> Self {
        let program = format!("{program} {}", env!("CARGO_PKG_VERSION"));
        Self { service: SERVICE.to_owned(), version: VERSION, program, instance: None }
    }
}

/// Transport protocol of a flow. QUIC is UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP, RFC 9293.
    Tcp,
    /// UDP, RFC 768; carries QUIC.
    Udp,
}

impl std::fmt::Display for Proto {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        })
    }
}

/// What an operator or S2CS installs: the fields of `flow add` and of a `[[flow]]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowSpec {
    /// Unique name, 1 to 64 characters of `A-Za-z0-9._:@-`.
    pub name: String,
    /// TCP or UDP.
    pub proto: Proto,
    /// Address and port clients open; the address belongs to one of the forwarder's ports.
    pub listen: SocketAddr,
    /// Where the stream goes.
    pub target: SocketAddr,
    /// Source prefixes allowed to open connections. Required and not empty: the default is to deny.
    pub from: Vec<IpNet>,
    /// Most connections at once; none means only the table's size limits them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_conns: Option<u32>,
    /// Largest segment that either end of a TCP connection may announce; none leaves their announcements alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mss_clamp: Option<MssClamp>,
    /// Whether clients may open the listen address from behind another port than the one that has it (hairpinning, RFC 4787
    /// section 6).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hairpin: bool,
    /// Mbit/s that pass in each direction, all connections together; none means no limit. Whole frames count, as received and
    /// without FCS, as in [`Count::bytes`]. In TOML and on the command line also `500M`, `10G`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "rate")]
    pub rate: Option<u64>,
    /// Seconds the flow lives without renewal; none means for ever. In TOML and on the command line `1h`, `90s`.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "lease")]
    pub lease: Option<u64>,
}

/// What a TCP connection's maximum segment size is lowered to (RFC 9293 section 3.7.1, RFC 6691). On the wire and in TOML a
/// number of bytes or `"auto"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MssClamp {
    /// What fits the smaller MTU of the two ports.
    Auto,
    /// This many bytes of TCP payload.
    Bytes(u16),
}

impl MssClamp {
    /// The bytes that may be asked for: below the least that every host takes nothing is gained (RFC 879).
    pub const RANGE: std::ops::RangeInclusive<u16> = 88..=65_495;
}

impl std::fmt::Display for MssClamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MssClamp::Auto => f.write_str("auto"),
            MssClamp::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

impl std::str::FromStr for MssClamp {
    type Err = String;

    /// `auto`, or bytes within [`MssClamp::RANGE`].
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(MssClamp::Auto);
        }
        text.parse().ok().filter(|n| Self::RANGE.contains(n)).map(MssClamp::Bytes).ok_or_else(|| {
            let (least, most) = (Self::RANGE.start(), Self::RANGE.end());
            format!("{text:?} is no segment size; give bytes from {least} to {most}, or \"auto\"")
        })
    }
}

impl Serialize for MssClamp {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            MssClamp::Auto => s.serialize_str("auto"),
            MssClamp::Bytes(bytes) => s.serialize_u16(*bytes),
        }
    }
}

impl<'de> Deserialize<'de> for MssClamp {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Bytes(u64),
            Text(String),
        }
        let text = match Raw::deserialize(d)? {
            Raw::Bytes(bytes) => bytes.to_string(),
            Raw::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Reads a lease as seconds or as a humantime string, writes seconds.
pub mod lease {
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Raw {
        Seconds(u64),
        Text(String),
    }

    /// Seconds of a text such as `1h 30m`, `90s` or `3600`; at least one, parts of a second are cut off.
    ///
    /// # Errors
    /// A sentence that shows how a lease is written.
    pub fn parse(text: &str) -> Result<u64, String> {
        let seconds = text.parse().or_else(|_| humantime::parse_duration(text).map(|d| d.as_secs()));
        match seconds {
            Err(_) => Err(format!("lease {text:?} is not a duration; write it like \"1h\" or \"90s\"")),
            Ok(0) => Err("a lease is at least one second; leave it out for no lease".to_owned()),
            Ok(seconds) => Ok(seconds),
        }
    }

    /// Seconds, as an integer.
    pub fn serialize<S: Serializer>(v: &Option<u64>, s: S) -> Result<S::Ok, S::Error> {
        match v {
            Some(v) => s.serialize_u64(*v),
            None => s.serialize_none(),
        }
    }

    /// An integer number of seconds or a text that [`parse`] takes.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
        let text = match Option::<Raw>::deserialize(d)? {
            None => return Ok(None),
            Some(Raw::Seconds(s)) => s.to_string(),
            Some(Raw::Text(t)) => t,
        };
        parse(&text).map(Some).map_err(serde::de::Error::custom)
    }
}

/// Reads a rate as Mbit/s or as a text such as `10G`, writes Mbit/s.
pub mod rate {
    use serde::{Deserialize, Deserializer};

    pub use super::lease::serialize;

    /// The Mbit/s that may be asked for.
    pub const RANGE: std::ops::RangeInclusive<u64> = 1..=1_000_000;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Raw {
        Mbits(u64),
        Text(String),
    }

    /// Mbit/s of a text such as `500M`, `10G`, `1T` or `500`, within [`RANGE`].
    ///
    /// # Errors
    /// A sentence that shows how a rate is written.
    pub fn parse(text: &str) -> Result<u64, String> {
        let units = [("M", 1), ("G", 1000), ("T", 1_000_000)];
        let unit = units.iter().find_map(|(unit, mbits)| Some((text.strip_suffix(unit)?, *mbits)));
        let (digits, mbits) = unit.unwrap_or((text, 1));
        let rate = digits.parse().ok().and_then(|n: u64| n.checked_mul(mbits));
        rate.filter(|rate| RANGE.contains(rate)).ok_or_else(|| {
            format!("{text:?} is no rate; write it like \"500M\" or \"10G\", bits a second from 1M to 1T")
        })
    }

    /// The shortest text of a rate that [`parse`] takes: `10G` for 10,000.
    pub fn show(mbits: u64) -> String {
        match mbits {
            n if n % 1_000_000 == 0 => format!("{}T", n / 1_000_000),
            n if n % 1000 == 0 => format!("{}G", n / 1000),
            n => format!("{n}M"),
        }
    }

    /// An integer number of Mbit/s or a text that [`parse`] takes.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
        let text = match Option::<Raw>::deserialize(d)? {
            None => return Ok(None),
            Some(Raw::Mbits(n)) => n.to_string(),
            Some(Raw::Text(t)) => t,
        };
        parse(&text).map(Some).map_err(serde::de::Error::custom)
    }
}

/// A line from the client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the client, repeated in the answer.
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub request: Request,
}

/// What a client can ask. On the wire `{"id":1,"op":"flow_add","spec":{...}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Installs a new flow.
    FlowAdd {
        /// The flow.
        spec: FlowSpec,
    },
    /// Replaces the flow of the same name. Its connections go on where listen, target and protocol stay the same.
    FlowReplace {
        /// The flow.
        spec: FlowSpec,
    },
    /// Removes a flow and its connections at once.
    FlowDelete {
        /// The flow's name.
        name: String,
    },
    /// Admits nothing new; the flow goes when its last connection does.
    FlowDrain {
        /// The flow's name.
        name: String,
    },
    /// Changes many flows in one step: all of it or, when anything in it fails, nothing. Deletes come first, then replacements,
    /// additions and renewals, each list in its order; what one of them frees the next may take. The error names the flow.
    FlowApply {
        /// Flows to install.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        add: Vec<FlowSpec>,
        /// Flows to put in place of those of the same names, as [`Request::FlowReplace`] does.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        replace: Vec<FlowSpec>,
        /// Names of flows to remove.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        delete: Vec<String>,
        /// Leases to set anew.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        renew: Vec<LeaseRenewal>,
    },
    /// Every flow.
    FlowList,
    /// One flow.
    FlowShow {
        /// The flow's name.
        name: String,
    },
    /// Sets a flow's lease anew, from now.
    LeaseRenew {
        /// The flow's name.
        name: String,
        /// New lease in seconds; none repeats the one it has.
        #[serde(default, with = "lease", skip_serializing_if = "Option::is_none")]
        lease: Option<u64>,
    },
    /// Connections, of one flow or of all.
    ConnectionList {
        /// Only this flow's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        flow: Option<String>,
        /// Most to return; none means 10,000.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    },
    /// Every port with its state and counters.
    PortList,
    /// One port in full: its device, what the device does and what it does not, its queues.
    PortShow {
        /// The port's name.
        name: String,
        /// Also those of the driver's counters that are zero.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        all: bool,
    },
    /// Counters of workers, ports and drops.
    Stats,
    /// What would become of a packet.
    Explain {
        /// Name of the port it arrives at.
        port: String,
        /// Its protocol.
        proto: Proto,
        /// Its source.
        src: SocketAddr,
        /// Its destination.
        dst: SocketAddr,
    },
    /// The whole state: everything the other lists return, at one moment.
    Snapshot,
}

/// A lease to be set anew, from now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRenewal {
    /// The flow's name.
    pub name: String,
    /// New lease in seconds; none repeats the one it has.
    #[serde(default, with = "lease", skip_serializing_if = "Option::is_none")]
    pub lease: Option<u64>,
}

/// A line from the server: `{"id":1,"ok":...}` or `{"id":1,"error":{...}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The call's id; none when the line could not be read that far.
    pub id: Option<u64>,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Success or failure of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The reply.
    Ok(Box<Reply>),
    /// Why not.
    Error(ApiError),
}

/// Kinds of failure; each has its exit code in `s2ctl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The line is not a call, or a field is wrong.
    BadRequest,
    /// Speaker's version differs.
    Version,
    /// No such flow or port.
    NotFound,
    /// The name or the listen address is taken.
    Conflict,
    /// The forwarder's tables are full, or too many clients.
    Full,
    /// The peer may not.
    Denied,
    /// The forwarder failed; its log tells more.
    Internal,
}

/// A failure in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Its kind.
    pub code: ErrorCode,
    /// What was wrong, where, and what to do.
    pub message: String,
}

/// Replies, tagged by kind: `{"ok":{"kind":"flows","flows":[...]}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Reply {
    /// Done; `epoch` is the snapshot that every worker now uses.
    Done { epoch: u64 },
    /// One flow.
    Flow { flow: FlowInfo },
    /// Flows by name.
    Flows { flows: Vec<FlowInfo> },
    /// Connections; `truncated` when there were more.
    Connections { connections: Vec<ConnectionInfo>, truncated: bool },
    /// Ports in configuration order.
    Ports { ports: Vec<PortInfo> },
    /// One port in full.
    Port { port: Box<PortDetail> },
    /// Counters.
    Stats { stats: Stats },
    /// An explanation.
    Explained { explanation: Explanation },
    /// Everything.
    Snapshot { snapshot: Box<Snapshot> },
}

/// Life of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowState {
    /// Admits connections.
    Active,
    /// Admits nothing new.
    Draining,
}

/// Packets and bytes (whole frames) of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Frames.
    pub packets: u64,
    /// Bytes of those frames, without FCS.
    pub bytes: u64,
}

/// A flow and what it carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowInfo {
    /// As installed.
    #[serde(flatten)]
    pub spec: FlowSpec,
    /// Active or draining.
    pub state: FlowState,
    /// True for flows that came with the configuration file.
    pub configured: bool,
    /// Seconds until the lease ends.
    pub lease_remaining: Option<u64>,
    /// Connections now.
    pub connections: u32,
    /// Connections admitted since it was installed.
    pub admitted: u64,
    /// Attempts refused: source not allowed, too many connections, draining.
    pub refused: u64,
    /// Frames dropped because they were above the flow's rate, in both directions.
    #[serde(default)]
    pub policed: u64,
    /// Client to target, as received.
    pub to_target: Count,
    /// Target to client, as received.
    pub to_client: Count,
}

/// A connection, all four of its endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionInfo {
    /// Flow it was admitted under.
    pub flow: String,
    /// TCP or UDP.
    pub proto: Proto,
    /// Client.
    pub client: SocketAddr,
    /// Gateway, as the client sees it.
    pub listen: SocketAddr,
    /// Gateway, as the target sees it.
    pub source: SocketAddr,
    /// Target.
    pub target: SocketAddr,
    /// `opening`, `established`, `closing`.
    pub state: String,
    /// Worker that owns it.
    pub worker: usize,
    /// Seconds since it was admitted.
    pub age: u64,
    /// Seconds since its last packet.
    pub idle: u64,
    /// Client to target.
    pub to_target: Count,
    /// Target to client.
    pub to_client: Count,
}

/// A port, its device and its counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    /// Name from the configuration.
    pub name: String,
    /// `device` from the configuration.
    pub device: String,
    /// Driver's name, such as `net_af_packet`.
    pub driver: String,
    /// MAC address.
    pub mac: String,
    /// Addresses with prefix lengths.
    pub addresses: Vec<IpNet>,
    /// MTU in bytes (layer 3).
    pub mtu: u16,
    /// 802.1Q VLAN id, when tagged.
    pub vlan: Option<u16>,
    /// VLAN id of the 802.1ad service tag, when there is one.
    #[serde(default)]
    pub outer_vlan: Option<u16>,
    /// Default next hops.
    pub gateway: Vec<IpAddr>,
    /// Queues in use, one a worker.
    pub queues: u16,
    /// How frames come to the worker their connection belongs to: `rss` and `rules` by the device, `hand over` by the workers;
    /// `one worker` has nothing to steer.
    pub steering: String,
    /// Of the frames received, those that came to another worker and were handed over.
    pub handed_over: u64,
    /// NUMA node of the device, when known.
    pub numa_node: Option<i32>,
    /// `up`, `down`, `unknown`, or `failed` when the port has [`PortInfo::failure`].
    pub link: String,
    /// Mbit/s, when known.
    pub speed: Option<u32>,
    /// Why the port is out of use, when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<PortFailure>,
    /// Frames received by workers.
    pub rx: Count,
    /// Frames the device took from workers.
    pub tx: Count,
    /// Frames the device itself lost: no buffer, ring overrun, errors (DPDK imissed + ierrors + rx_nombuf).
    pub rx_missed: u64,
    /// Frames the device failed to send after taking them (DPDK oerrors).
    pub tx_errors: u64,
    /// Next hops known on the port.
    pub neighbors: Vec<NeighborInfo>,
    /// Own addresses that others claimed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<ConflictInfo>,
}

/// A port whose device went away or stopped working. Its queues rest; other ports go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortFailure {
    /// What happened, in a sentence.
    pub why: String,
    /// Seconds since it did.
    pub ago: u64,
    /// How often opening it was tried since.
    pub tries: u64,
    /// Seconds until the next try; none when it is not tried.
    pub retry_in: Option<u64>,
    /// What the last try ended with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

/// An own address that another station claimed while the forwarder ran (RFC 5227 section 2.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictInfo {
    /// The address.
    pub address: IpAddr,
    /// MAC address of the last one that claimed it.
    pub mac: String,
    /// How often it was claimed.
    pub times: u64,
    /// Seconds since it last was.
    pub ago: u32,
}

/// A next hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborInfo {
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address, when resolved.
    pub mac: Option<String>,
    /// `resolving`, `reachable`, `probing`, `failed`, `static`.
    pub state: String,
}

/// Counters of the forwarder. At quiescence `received == sent + held + sum(drops)`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Seconds since start.
    pub uptime: u64,
    /// Epoch of the published snapshot.
    pub epoch: u64,
    /// Frames received.
    pub received: u64,
    /// Received frames sent on or answered.
    pub sent: u64,
    /// Received frames held: in TX batches and waiting for a next hop.
    pub held: u64,
    /// The forwarder's own frames (ARP requests, neighbor solicitations, announcements), not part of `sent`.
    pub originated: u64,
    /// Drops by reason; every reason is present. Includes `local_*`: frames that ended at the gateway itself.
    pub drops: std::collections::BTreeMap<String, u64>,
    /// Connections now.
    pub connections: u64,
    /// One entry a worker.
    pub workers: Vec<WorkerStats>,
    /// One entry a flow that has samples, by name.
    pub flows: Vec<FlowStats>,
}

/// Counters of one worker: one queue of every port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerStats {
    /// Index.
    pub worker: usize,
    /// Core it is pinned to.
    pub core: Option<usize>,
    /// Frames received.
    pub received: u64,
    /// Frames sent on or answered.
    pub sent: u64,
    /// Frames held.
    pub held: u64,
    /// Frames handed to the worker that owns their connection.
    pub handed_over: u64,
    /// Frames taken over from other workers.
    pub taken_over: u64,
    /// Loops over the ports.
    pub loops: u64,
    /// Loops that found packets.
    pub busy_loops: u64,
    /// TSC cycles spent in loops that found packets.
    pub busy_cycles: u64,
    /// Connections it owns.
    pub connections: u64,
    /// One entry a port: the queue's counters.
    pub queues: Vec<QueueStats>,
    /// Residence time of sampled bursts: from the moment they were received until the device took the last of them.
    pub residence: Residence,
    /// How long packets waited for a next hop that answered; every such packet counts.
    pub waits: Residence,
}

/// Residence time of one flow's packets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowStats {
    /// Flow's name.
    pub flow: String,
    /// Of sampled bursts with packets of the flow, on all workers, since it was installed.
    pub residence: Residence,
}

/// A distribution of times in nanoseconds, since the forwarder started. A time is told as the upper edge of its bucket: at most
/// a quarter too much, never too little.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Residence {
    /// How many were measured.
    pub samples: u64,
    /// Half of them took no longer.
    pub p50_ns: u64,
    /// Nine in ten took no longer.
    pub p90_ns: u64,
    /// 99 in a hundred took no longer.
    pub p99_ns: u64,
    /// 999 in a thousand took no longer.
    pub p999_ns: u64,
    /// None took longer.
    pub max_ns: u64,
    /// Upper edge and count of each bucket that has any, shortest first.
    pub buckets: Vec<(u64, u64)>,
}

/// Counters of one queue pair.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QueueStats {
    /// Port's name.
    pub port: String,
    /// Received.
    pub rx: Count,
    /// Sent.
    pub tx: Count,
    /// Drops of frames received here, by reason; only those not zero.
    pub drops: std::collections::BTreeMap<String, u64>,
}

/// What becomes of a packet, step by step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// `forward` or the drop reason's name.
    pub verdict: String,
    /// True when it belongs to a connection that exists; false when it would open one or be dropped.
    pub existing: bool,
    /// Flow.
    pub flow: Option<String>,
    /// Header after the rewrite; the source port of a connection not yet open is `0`: chosen at admission.
    pub rewritten_src: Option<SocketAddr>,
    /// Header after the rewrite.
    pub rewritten_dst: Option<SocketAddr>,
    /// Port it leaves by.
    pub out_port: Option<String>,
    /// Next hop's address.
    pub next_hop: Option<IpAddr>,
    /// Next hop's MAC address, when known.
    pub next_hop_mac: Option<String>,
    /// Worker that owns the connection or will own it, when that is known.
    pub worker: Option<usize>,
    /// The checks in order, in sentences, the deciding one last.
    pub steps: Vec<String>,
}

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Snapshot {
    pub flows: Vec<FlowInfo>,
    pub ports: Vec<PortInfo>,
    pub connections: Vec<ConnectionInfo>,
    pub connections_truncated: bool,
    pub stats: Stats,
}
