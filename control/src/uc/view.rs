//! What `s2uc --json` prints: stable shapes. docs/control-api.md describes them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::SystemTime;

use prost_types::Timestamp;
use serde::Serialize;

use super::Failure;
use super::failure::Kind;
use crate::proto::gateway as proto;

/// A failure.
#[derive(Debug, Clone, Serialize)]
pub struct Error {
    /// Class, as the exit code tells it.
    pub kind: Kind,
    /// A sentence.
    pub message: String,
}

impl From<&Failure> for Error {
    fn from(failure: &Failure) -> Error {
        Error { kind: failure.kind(), message: failure.to_string() }
    }
}

/// A session at one gateway.
#[derive(Debug, Clone, Serialize)]
pub struct Session {
    /// Its uid.
    pub uid: String,
    /// `producer` or `consumer`.
    pub role: String,
    /// `active`, `draining` and so on.
    pub state: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Whose it is.
    pub owner: String,
    /// Where it listens.
    pub listeners: Vec<Listener>,
    /// Who may connect.
    pub sources: Vec<String>,
    /// Connections at once through each listener; none: no limit.
    pub connections: Option<u32>,
    /// Mbit/s reserved; none: nothing is.
    pub rate_mbps: Option<u64>,
    /// Mbit/s that the forwarder holds it to; none: it is not held.
    pub limit_mbps: Option<u64>,
    /// RFC 3339, UTC.
    pub created: Option<String>,
    /// RFC 3339, UTC.
    pub expires: Option<String>,
    /// The user's own.
    pub labels: BTreeMap<String, String>,
    /// Port of the forwarder that it listens on.
    pub path: String,
}

/// A listener.
#[derive(Debug, Clone, Serialize)]
pub struct Listener {
    /// Where to connect to.
    pub address: String,
    /// Where that goes; none while it is not known.
    pub target: Option<String>,
    /// Name of the flow in the forwarder.
    pub flow: String,
    /// What it carried; only `status` asks.
    pub traffic: Option<Traffic>,
}

/// What a listener carried.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Traffic {
    /// Connections at this moment.
    pub connections: u32,
    /// Connections let through so far.
    pub admitted: u64,
    /// Connections refused so far.
    pub refused: u64,
    /// Packets to the target.
    pub packets_to_target: u64,
    /// Bytes to the target.
    pub bytes_to_target: u64,
    /// Packets to the client.
    pub packets_to_client: u64,
    /// Bytes to the client.
    pub bytes_to_client: u64,
}

/// A gateway, as `check-auth` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Gateway {
    /// Program and release.
    pub program: String,
    /// Whether the forwarder answers.
    pub forwarding: bool,
    /// Ports that sessions listen on.
    pub paths: Vec<Path>,
    /// Listeners that can still be reserved.
    pub listeners_free: u32,
}

/// A port of the forwarder.
#[derive(Debug, Clone, Serialize)]
pub struct Path {
    /// Its name.
    pub name: String,
    /// Roles whose sessions listen there.
    pub roles: Vec<String>,
    /// Own addresses.
    pub addresses: Vec<String>,
    /// In bytes.
    pub mtu: u32,
    /// `up`, `down` or `unknown`.
    pub link: String,
    /// Mbit/s; none: unknown.
    pub capacity_mbps: Option<u64>,
    /// Mbit/s.
    pub reserved_mbps: u64,
}

/// A change of a session's state.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// RFC 3339, UTC.
    pub at: Option<String>,
    /// Whose word it is, `HOST:PORT`.
    pub gateway: String,
    /// State before; none: told as it is.
    pub before: Option<String>,
    /// Why.
    pub reason: String,
    /// The session as it is now.
    pub session: Session,
}

/// The enumeration's name without its type, in lower case: `STATE_ACTIVE` is `active`.
fn short(name: &str) -> String {
    name.split_once('_').map_or(name, |(_, rest)| rest).to_ascii_lowercase()
}

fn role(role: i32) -> String {
    proto::Role::try_from(role).map_or_else(|_| role.to_string(), |role| short(role.as_str_name()))
}

fn state(state: i32) -> String {
    proto::State::try_from(state).map_or_else(|_| state.to_string(), |state| short(state.as_str_name()))
}

fn time(time: Option<Timestamp>) -> Option<String> {
    let time = SystemTime::try_from(time?).ok()?;
    // Formatting panics on a time before 1970 and after 9999.
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    (since.as_secs() < 253_402_300_800).then(|| humantime::format_rfc3339_seconds(time).to_string())
}

impl From<proto::Session> for Session {
    fn from(session: proto::Session) -> Session {
        let protocol = match session.protocol() {
            proto::Protocol::Udp => "udp",
            _ => "tcp",
        };
        Session {
            role: role(session.role),
            state: state(session.state),
            protocol: protocol.to_owned(),
            uid: session.uid,
            owner: session.owner,
            listeners: session.listeners.into_iter().map(Listener::from).collect(),
            sources: session.sources,
            connections: Some(session.connections).filter(|n| *n != 0),
            rate_mbps: Some(session.rate_mbps).filter(|rate| *rate != 0),
            limit_mbps: Some(session.limit_mbps).filter(|rate| *rate != 0),
            created: time(session.created),
            expires: time(session.expires),
            labels: session.labels.into_iter().collect(),
            path: session.path,
        }
    }
}

impl From<proto::Listener> for Listener {
    fn from(listener: proto::Listener) -> Listener {
        let proto::Listener { address, target, flow, traffic } = listener;
        Listener {
            address,
            target: Some(target).filter(|target| !target.is_empty()),
            flow,
            traffic: traffic.map(Traffic::from),
        }
    }
}

impl From<proto::Traffic> for Traffic {
    fn from(traffic: proto::Traffic) -> Traffic {
        let proto::Traffic {
            connections,
            admitted,
            refused,
            packets_to_target,
            bytes_to_target,
            packets_to_client,
            bytes_to_client,
        } = traffic;
        Traffic {
            connections,
            admitted,
            refused,
            packets_to_target,
            bytes_to_target,
            packets_to_client,
            bytes_to_client,
        }
    }
}

impl From<proto::GatewayInfo> for Gateway {
    fn from(info: proto::GatewayInfo) -> Gateway {
        let proto::GatewayInfo { program, forwarding, paths, listeners_free } = info;
        Gateway { program, forwarding, paths: paths.into_iter().map(Path::from).collect(), listeners_free }
    }
}

impl From<proto::Path> for Path {
    fn from(path: proto::Path) -> Path {
        let proto::Path { name, roles, addresses, mtu, link, capacity_mbps, reserved_mbps } = path;
        Path {
            name,
            roles: roles.into_iter().map(role).collect(),
            addresses,
            mtu,
            link,
            capacity_mbps: Some(capacity_mbps).filter(|capacity| *capacity != 0),
            reserved_mbps,
        }
    }
}

impl Event {
    /// Of an event that `gateway` sent; none when it has no session.
    pub fn new(gateway: String, event: proto::Event) -> Option<Event> {
        let before = Some(event.before).filter(|before| *before != 0).map(state);
        let proto::Event { session, reason, at, .. } = event;
        Some(Event { at: time(at), gateway, before, reason, session: session?.into() })
    }
}
