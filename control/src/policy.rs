//! What a principal may ask for.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::time::Duration;

use forwarder::api::Proto;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The side that a session's gateway is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// `PROD`: targets are the producer's own; consumers' gateways connect to the listeners.
    Producer,
    /// `CONS`: targets are listeners of the producer's gateway; the consumer connects to the listeners.
    Consumer,
}

/// What a principal asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Side.
    pub role: Role,
    /// Transport.
    pub proto: Proto,
    /// Where the stream goes; empty while that is not known yet (`req` comes before `update`).
    pub targets: Vec<SocketAddr>,
    /// Who may connect; none asks for what the site names for the role.
    pub sources: Option<Vec<IpNet>>,
    /// Listeners.
    pub listeners: u32,
    /// Connections at once through each listener; none asks for the most.
    pub connections: Option<u32>,
    /// Mbit/s in either direction; none reserves nothing.
    pub rate: Option<u64>,
    /// Life of the session; none asks for the longest.
    pub lease: Option<Duration>,
}

/// What is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Name of the rule that allows it.
    pub rule: String,
    /// Who may connect.
    pub sources: Vec<IpNet>,
    /// Connections at once through each listener; none means no limit.
    pub connections: Option<u32>,
    /// Mbit/s reserved in either direction.
    pub rate: Option<u64>,
    /// Whether the forwarder holds the session to its rate.
    pub police: bool,
    /// Life of the session.
    pub lease: Duration,
    /// Sessions that the principal may have at once.
    pub sessions: u32,
}

/// Why something is not allowed, in a sentence for the caller. It names no rule: what others may do is not told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);
