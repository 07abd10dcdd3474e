//! What source and sink tell each other besides messages: the order, its answer, and the closing. All are JSON.
//!
//! Over TCP and QUIC the order goes up behind its magic and its length, the answer comes down the same way, and then come
//! messages, the last of them ([`super::message::Kind::End`]) with the closing. [`super::datagram`] has the form over UDP.
//! A source answers once every connection of a run has ordered: then all start from the same schedule.

use serde::{Deserialize, Serialize};

use super::profile::Profile;
use super::schedule::Share;
use crate::result::Distribution;

/// First bytes of an order, in network byte order; [`crate::stream::Order`] has another one.
pub const MAGIC: u32 = 0x5332_0002;
/// Most bytes of an order or an answer.
pub const MOST: u32 = 64 * 1024;
/// Of this protocol. A source refuses another.
pub const VERSION: u32 = 1;

/// What a sink asks of a source for one connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// [`VERSION`].
    pub version: u32,
    /// The same for all connections of a run.
    pub run: u64,
    /// Number of the connection, from 0 on.
    pub connection: u32,
    /// The stream. Its `connections` is how many of them there are.
    pub profile: Profile,
    /// The sink's machine, when it can be told.
    pub boot_id: Option<String>,
    /// Bytes of the socket buffers; none: the system's choice.
    pub socket_buffer: Option<u64>,
}

impl Order {
    /// What the connection has to send.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn share(&self) -> Result<Share, String> {
        if self.version != VERSION {
            return Err(format!(
                "the sink speaks version {} of the emulator's protocol, the source {VERSION}; use one release",
                self.version
            ));
        }
        let schedule = self.profile.schedule()?;
        let connections = self.profile.connections;
        if self.connection >= connections {
            return Err(format!("connection {} of {connections} does not exist", self.connection));
        }
        Ok(Share { schedule, connection: self.connection, connections })
    }
}

/// What the source says to an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It begins.
    Start(Begin),
    /// It does not, and why.
    Refused(String),
}

/// How a stream begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// The schedule's zero, by the source's clock, in nanoseconds.
    pub at: u64,
    /// From when the answer was made until then, in nanoseconds.
    pub lead: u64,
    /// The sink reads the same clock.
    pub same_clock: bool,
}

/// What the source has to tell about a connection once it has sent everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Closing {
    /// Messages sent.
    pub messages: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Messages that were due, but that the path would not take in time.
    pub unsent: u64,
    /// From the schedule's zero to the last message, in seconds.
    pub seconds: f64,
    /// By how much messages were sent later than they were due.
    pub lag: Distribution,
    /// Messages sent more than a millisecond late although the path was free.
    pub own_late: u64,
    /// Share of a processor that the sending thread took, from 0 to 1.
    pub busy: f64,
    /// Share of the time that it was ready to run and waited for a processor, from 0 to 1.
    pub waited: f64,
    /// Processor seconds of the source's process since the run began.
    pub cpu: f64,
    /// Nanoseconds by which the source's time of day stepped.
    pub clock_step: Option<i64>,
}
