//! What a stream looks like: the profiles' file, its defaults, and what it refuses.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use toml::Spanned;

pub use super::amount::{Bits, Bytes, Rate, Time};
use super::message;
use super::schedule::{Scan, Schedule};
use crate::stream::udp::BODY;

/// The profiles that come with the program.
const SHIPPED: &str = include_str!("../../profiles.toml");
const SHIPPED_NAME: &str = "profiles.toml";

/// Largest message, in bytes.
const LARGEST: u64 = 256 << 20;
/// Longest time that a profile may name.
const LONGEST: Duration = Duration::from_secs(86_400);
/// Most connections.
const MOST_CONNECTIONS: u32 = 1024;

/// What a stream looks like. Written as in bench/profiles.toml, which says what each key means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What it stands for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Of each message with its header.
    pub message: Bytes,
    /// How fast, evenly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// How fast, in steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Time>,
    /// Messages due at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// Bytes due at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<Bytes>,
    /// Messages of a scan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<u64>,
    /// After each scan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Time>,
    /// What comes later is late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
    /// Longer silence is a stall.
    #[serde(default = "second")]
    pub stall: Time,
    /// Connections at a time.
    #[serde(default = "one")]
    pub connections: u32,
    /// Of the schedule.
    #[serde(default = "ten_seconds")]
    pub duration: Time,
    /// UDP: most bytes of a message in one datagram.
    #[serde(default = "datagram")]
    pub datagram: u16,
    /// UDP: fastest that a connection's datagrams leave, in bits of messages a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<Bits>,
}

fn second() -> Time {
    Time(Duration::from_secs(1))
}

fn one() -> u32 {
    1
}

fn ten_seconds() -> Time {
    Time(Duration::from_secs(10))
}

fn datagram() -> u16 {
    1400
}

/// What takes the place of a profile's own values.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Changes {
    pub message: Option<Bytes>,
    pub rate: Option<Rate>,
    pub deadline: Option<Time>,
    pub stall: Option<Time>,
    pub connections: Option<u32>,
    pub duration: Option<Time>,
    pub datagram: Option<u16>,
}

impl Profile {
    /// The profile with some values changed. A rate takes the place of steps, bursts, scans and the datagrams' pace.
    #[must_use]
    pub fn changed(mut self, changes: &Changes) -> Profile {
        if changes.rate.is_some() {
            self.rate = changes.rate;
            (self.every, self.burst, self.dump, self.scan) = (None, None, None, None);
            (self.pause, self.pace) = (None, None);
        }
        self.message = changes.message.unwrap_or(self.message);
        self.deadline = changes.deadline.or(self.deadline);
        self.stall = changes.stall.unwrap_or(self.stall);
        self.connections = changes.connections.unwrap_or(self.connections);
        self.duration = changes.duration.unwrap_or(self.duration);
        self.datagram = changes.datagram.unwrap_or(self.datagram);
        self
    }

    /// When its messages are due.
    ///
    /// # Errors
    /// What cannot be, and the mend.
    pub fn schedule(&self) -> Result<Schedule, String> {
        let message = self.message.0;
        let least = message::HEADER as u64;
        if !(least..=LARGEST).contains(&message) {
            return Err(format!(
                "message = {message} bytes is out of range: its header takes {least}; give {least} to {LARGEST}"
            ));
        }
        for (key, time) in [
            ("every", self.every),
            ("pause", self.pause),
            ("deadline", self.deadline),
            ("stall", Some(self.stall)),
            ("duration", Some(self.duration)),
        ] {
            if time.is_some_and(|t| t.0.is_zero() || t.0 > LONGEST) {
                return Err(format!("{key} must be more than 0 and at most a day; write it like \"100ms\""));
            }
        }
        if !(1..=MOST_CONNECTIONS).contains(&self.connections) {
            return Err(format!("connections must be from 1 to {MOST_CONNECTIONS}"));
        }
        if !BODY.contains(&self.datagram) {
            return Err(format!("datagram must be from {} to {} bytes", BODY.start(), BODY.end()));
        }
        if self.pace.is_some_and(|pace| pace.0 == 0) {
            return Err("pace = 0 sends nothing; write it like \"2G\"".into());
        }
        let burst = self.burst()?;
        let (num, den) = match (self.rate, self.every) {
            (Some(Rate::Max), None) if (self.burst, self.scan, self.pause) == (None, None, None) => {
                return Ok(Schedule::Max);
            }
            (Some(Rate::Max), None) => {
                return Err(
                    "rate = \"max\" has no schedule: leave out burst, scan and pause, or give a rate".into(),
                );
            }
            (Some(rate), None) => rate.period(message, burst)?,
            (None, Some(every)) => (every.nanoseconds(), 1),
            (Some(_), Some(_)) => return Err("rate and every both say how fast; leave one out".into()),
            (None, None) => {
                return Err(
                    "nothing says how fast: give rate = \"1000/s\", \"2G\" or \"max\", or every = \"100ms\""
                        .into(),
                );
            }
        };
        let scan = match (self.scan, self.pause) {
            (None, None) => None,
            (Some(messages), Some(pause)) if messages > 0 && messages % burst == 0 => {
                Some(Scan { bursts: messages / burst, pause: pause.nanoseconds() })
            }
            (Some(messages), Some(_)) => {
                return Err(format!("scan = {messages} is no whole number of bursts of {burst} messages"));
            }
            _ => return Err("scan and pause need each other; give both or none".into()),
        };
        let schedule = Schedule::Steps { burst, num, den, scan };
        let needed = schedule.per_second().unwrap_or(0.0) * message as f64 * 8.0;
        match self.pace {
            Some(Bits(pace)) if (pace as f64) * f64::from(self.connections) < needed => Err(format!(
                "pace = {pace} is less than the {:.0} bits a second that each connection has to send",
                needed / f64::from(self.connections)
            )),
            _ => Ok(schedule),
        }
    }

    fn burst(&self) -> Result<u64, String> {
        let message = self.message.0;
        match (self.burst, self.dump) {
            (None, None) => Ok(1),
            (Some(n), None) if (1..=1 << 32).contains(&n) => Ok(n),
            (Some(_), None) => Err("burst must be at least 1 and at most 4 billion messages".into()),
            (Some(_), Some(_)) => Err("burst and dump both say what a step brings; leave one out".into()),
            (None, Some(_)) if self.every.is_none() => {
                Err("dump needs every: the time from one step to the next".into())
            }
            (None, Some(Bytes(dump))) if dump > 0 && dump % message == 0 => Ok(dump / message),
            (None, Some(Bytes(dump))) => {
                Err(format!("dump = {dump} bytes is no whole number of messages of {message} bytes"))
            }
        }
    }

    /// Goodput that it asks for while it lasts, in bits a second; none: as fast as possible.
    ///
    /// # Errors
    /// See [`Profile::schedule`].
    pub fn bits_per_second(&self) -> Result<Option<f64>, String> {
        let schedule = self.schedule()?;
        Ok(schedule.per_second().map(|messages| messages * self.message.0 as f64 * 8.0))
    }
}

/// Reads profiles: those shipped, and those of `file` before them.
///
/// # Errors
/// The file cannot be read or holds what cannot be: file, line, what is wrong and the mend.
pub fn all(file: Option<&Path>) -> anyhow::Result<BTreeMap<String, Profile>> {
    let mut profiles = parse(SHIPPED, SHIPPED_NAME)?;
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the profiles {}", path.display()))?;
        profiles.extend(parse(&text, &path.display().to_string())?);
    }
    Ok(profiles)
}

/// One of [`all`].
///
/// # Errors
/// Those of [`all`], and there is none of that name.
pub fn named(name: &str, file: Option<&Path>) -> anyhow::Result<Profile> {
    let mut profiles = all(file)?;
    match profiles.remove(name) {
        Some(profile) => Ok(profile),
        None => bail!(
            "there is no profile {name:?}; known are {}; --profiles FILE adds others",
            profiles.keys().cloned().collect::<Vec<_>>().join(", ")
        ),
    }
}

fn parse(text: &str, name: &str) -> anyhow::Result<BTreeMap<String, Profile>> {
    let tables: BTreeMap<String, Spanned<Profile>> = ::control::file::from_toml(text, name)?;
    let mut profiles = BTreeMap::new();
    for (key, profile) in tables {
        let line = text[..profile.span().start.min(text.len())].matches('\n').count() + 1;
        let profile = profile.into_inner();
        if let Err(why) = profile.schedule() {
            bail!("{name}:{line}: profile {key}: {why}");
        }
        profiles.insert(key, profile);
    }
    Ok(profiles)
}

#[cfg(test)]
mod tests;
