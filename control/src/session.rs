//! A session: a user's stream as the control server keeps it, and the flows that it is in the forwarder.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use forwarder::api::{FlowSpec, Proto};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::policy::Role;

/// A session's name, chosen by its owner. Two users may have sessions of one name: neither learns of the other's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uid(String);

/// Why a text is no uid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("uid has to be 1 to {} bytes without control characters", Uid::MAX)]
pub struct BadUid;

impl Uid {
    /// Longest, in bytes.
    pub const MAX: usize = 128;

    /// The uid of a text. It is a name only: never part of a path, a flow's name or a command.
    ///
    /// # Errors
    /// It is empty, too long, or has control characters.
    pub fn new(text: &str) -> Result<Self, BadUid> {
        match text.is_empty() || text.len() > Self::MAX || text.chars().any(char::is_control) {
            true => Err(BadUid),
            false => Ok(Self(text.to_owned())),
        }
    }

    /// One that nobody else has chosen.
    pub fn random() -> Self {
        Self(format!("{:016x}{:016x}", random(), random()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What identifies a session.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Subject of the principal who opened it.
    pub owner: String,
    /// Its name among the owner's.
    pub uid: Uid,
}

/// A session as a caller names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Its name among its owner's.
    pub uid: Uid,
    /// Whose it is; none means the caller's own, or for an administrator the only one of that uid.
    pub owner: Option<String>,
}

impl From<Uid> for Name {
    fn from(uid: Uid) -> Self {
        Self { uid, owner: None }
    }
}

/// Life of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Listeners are reserved; hello is waited for.
    Reserving,
    /// Hello came; targets are waited for.
    Listening,
    /// The forwarder is being told.
    Updating,
    /// Listeners relay.
    Active,
    /// Connections go on, new ones are refused.
    Draining,
    /// Connections are being cut.
    Releasing,
    /// Over, and forgotten.
    Ended,
}

impl State {
    /// All, in order.
    pub const ALL: [State; 7] = [
        State::Reserving,
        State::Listening,
        State::Updating,
        State::Active,
        State::Draining,
        State::Releasing,
        State::Ended,
    ];

    /// Its name, as logs and metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            State::Reserving => "reserving",
            State::Listening => "listening",
            State::Updating => "updating",
            State::Active => "active",
            State::Draining => "draining",
            State::Releasing => "releasing",
            State::Ended => "ended",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A session. This is also the record of the state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Random, never used again: tells two sessions of one key apart, and names the flows.
    pub id: u64,
    /// Subject of the principal who opened it.
    pub owner: String,
    /// Its name among the owner's.
    pub uid: Uid,
    /// Side of this gateway.
    pub role: Role,
    /// Transport.
    pub proto: Proto,
    /// Where it stands.
    pub state: State,
    /// Rule of the policy that granted it.
    pub rule: String,
    /// The forwarder's port that it listens on.
    pub path: String,
    /// Where clients connect to.
    pub listeners: Vec<SocketAddr>,
    /// Listener `i` relays to target `i` modulo their number; none while they are not known.
    pub targets: Vec<SocketAddr>,
    /// Who may connect.
    pub sources: Vec<IpNet>,
    /// Connections at once through each listener; none means no limit.
    pub connections: Option<u32>,
    /// Mbit/s reserved in either direction, on every port of `charged`.
    pub rate: Option<u64>,
    /// Mbit/s in either direction that the forwarder holds it to; none means it is not held.
    pub limit: Option<u64>,
    /// The forwarder's ports that the rate is reserved at.
    pub charged: Vec<String>,
    /// Seconds that it was granted for.
    pub lease: u64,
    /// Seconds since 1970.
    pub created: u64,
    /// Seconds since 1970.
    pub expires: u64,
    /// The owner's own notes.
    pub labels: BTreeMap<String, String>,
}

/// How much longer than the session its flows live in the forwarder, in seconds. The control server ends them; their
/// lease only sees that nothing stays open when no control server comes back.
pub const LEASE_MARGIN: u64 = 60;

impl Session {
    /// What identifies it.
    pub fn key(&self) -> Key {
        Key { owner: self.owner.clone(), uid: self.uid.clone() }
    }

    /// Target of a listener.
    pub fn target(&self, listener: usize) -> Option<SocketAddr> {
        self.targets.get(listener.checked_rem(self.targets.len())?).copied()
    }

    /// Name of a listener's flow, of `A-Za-z0-9:` whatever the uid is.
    pub fn flow_name(&self, prefix: &str, listener: usize) -> String {
        format!("{prefix}:{:016x}:{listener}", self.id)
    }

    /// Names of all its flows.
    pub fn flow_names(&self, prefix: &str) -> Vec<String> {
        (0..self.listeners.len()).map(|i| self.flow_name(prefix, i)).collect()
    }

    /// Its flows, one a listener. The limit is shared out among them: together they do not exceed it, but that 1 Mbit/s is the least
    /// that the forwarder can hold each to.
    pub fn flows(&self, prefix: &str, now: u64) -> Vec<FlowSpec> {
        let share = self.limit.map(|mbps| (mbps / self.listeners.len().max(1) as u64).max(1));
        // Nobody of the other family can reach a listener.
        let from = |listen: &SocketAddr| {
            self.sources.iter().filter(|s| s.addr().is_ipv4() == listen.is_ipv4()).copied().collect()
        };
        let flow = |(i, listen): (usize, &SocketAddr)| {
            Some(FlowSpec {
                name: self.flow_name(prefix, i),
                proto: self.proto,
                listen: *listen,
                target: self.target(i)?,
                from: from(listen),
                max_conns: self.connections,
                mss_clamp: None,
                hairpin: false,
                rate: share,
                lease: Some(self.flow_lease(now)),
            })
        };
        self.listeners.iter().enumerate().filter_map(flow).collect()
    }

    /// Seconds that its flows have to live from now on.
    pub fn flow_lease(&self, now: u64) -> u64 {
        self.expires.saturating_sub(now) + LEASE_MARGIN
    }
}

/// 64 bits of the system's randomness. It cannot fail once the process has begun, where the library's own start would have.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    let filled = rand::fill(&mut bytes);
    debug_assert!(filled.is_ok());
    u64::from_ne_bytes(bytes)
}

/// Seconds since 1970.
pub fn unix(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn uids_are_texts_of_a_line() {
        for good in ["4f8583bc-a4d3-11ee-9fd6-034d1fcbd7c3", "../../etc/passwd", "ü", &"x".repeat(128)] {
            assert_eq!(Uid::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a\nb", "\0", "\u{85}", &"x".repeat(129)] {
            assert_eq!(Uid::new(bad), Err(BadUid), "{bad:?}");
        }
    }
}
