//! Streams of known bytes: what stands for a producer's and a consumer's application.
//!
//! The sink (the consumer) opens connections and orders bytes; the source (the producer) serves every order. What an order
//! asks for travels in its first message, so a source needs no settings and serves sinks one after the other or at once.
//!
//! Over TCP and QUIC a connection is one [`exchange`]: the order, then bytes in one or both directions, then the source's
//! verdict on what it received. Over UDP the same goes in datagrams ([`udp`]), where losing some is no error by itself.
//! Every byte is a function of seed and offset ([`pattern`]), so that each end compares all it gets and neither stores any.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub mod exchange;
pub mod pattern;
pub mod quic;
pub mod sink;
pub mod source;
pub mod udp;

/// What carries a stream.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// A TCP connection.
    Tcp,
    /// Plain datagrams, paced, not repeated.
    Udp,
    /// A bidirectional stream of a QUIC connection.
    Quic,
}

impl std::fmt::Display for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Carrier::Tcp => "tcp",
            Carrier::Udp => "udp",
            Carrier::Quic => "quic",
        })
    }
}

/// What a sink asks of a source for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Chooses the bytes.
    pub seed: u64,
    /// Bytes from source to sink.
    pub down: u64,
    /// Bytes from sink to source.
    pub up: u64,
    /// Compare what arrives, or only count it.
    pub verify: bool,
}

impl Order {
    /// Bytes of its encoding.
    pub const LEN: usize = 32;
    const MAGIC: u32 = 0x5332_0001;

    /// As on the wire, in network byte order: magic, flags, seed, down, up.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0..4].copy_from_slice(&Self::MAGIC.to_be_bytes());
        out[4..8].copy_from_slice(&u32::from(self.verify).to_be_bytes());
        for (field, at) in [(self.seed, 8), (self.down, 16), (self.up, 24)] {
            out[at..at + 8].copy_from_slice(&field.to_be_bytes());
        }
        out
    }

    /// Reads what [`Order::encode`] wrote; none when it is something else.
    #[must_use]
    pub fn decode(bytes: &[u8; Self::LEN]) -> Option<Order> {
        let word = |at: usize| bytes[at..at + 4].iter().fold(0, |n, b| n << 8 | u32::from(*b));
        let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
        let order = Order { seed: long(8), down: long(16), up: long(24), verify: word(4) == 1 };
        (word(0) == Self::MAGIC && word(4) <= 1).then_some(order)
    }

    /// The seed of one direction; the two differ, so that a reflected stream is not taken for the real one.
    fn seed_of(&self, direction: Direction) -> u64 {
        match direction {
            Direction::Down => self.seed,
            Direction::Up => !self.seed,
        }
    }
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From source to sink.
    Down,
    /// From sink to source.
    Up,
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Direction::Down => "from source to sink",
            Direction::Up => "from sink to source",
        })
    }
}

/// Bytes moved so far; written by the connections, read by whoever watches.
#[derive(Debug, Default)]
pub struct Meter {
    down: AtomicU64,
    up: AtomicU64,
}

impl Meter {
    fn add(&self, direction: Direction, bytes: usize) {
        let counter = match direction {
            Direction::Down => &self.down,
            Direction::Up => &self.up,
        };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes from source to sink.
    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    /// Bytes from sink to source.
    pub fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }
}

/// How a stream can fail.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The local address cannot be used.
    #[error("cannot use the local address {address} for {carrier}: {why}; choose a free one of this host")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The carrier.
        carrier: Carrier,
        /// The system's reason.
        why: String,
    },
    /// No connection came about.
    #[error(
        "cannot connect to {to} over {carrier}: {why}; is `s2bench source --proto {carrier}` listening behind it?"
    )]
    Connect {
        /// Where to.
        to: SocketAddr,
        /// The carrier.
        carrier: Carrier,
        /// The reason.
        why: String,
    },
    /// A connection broke.
    #[error("the stream {direction} broke after {bytes} bytes: {why}")]
    Broken {
        /// Which direction noticed.
        direction: Direction,
        /// How far it had come.
        bytes: u64,
        /// The reason.
        why: io::Error,
    },
    /// What arrived is not what was sent.
    #[error(
        "byte {offset} of the stream {direction} is not what was sent; something on the path changes payload"
    )]
    Differs {
        /// The direction.
        direction: Direction,
        /// The first wrong byte.
        offset: u64,
    },
    /// The peer speaks something else.
    #[error(
        "the peer {0} does not speak s2bench's stream protocol; are source and sink of the same release?"
    )]
    Protocol(SocketAddr),
    /// The source reports another count than was sent.
    #[error("the source got {got} of {sent} bytes")]
    Short {
        /// What the source counted.
        got: u64,
        /// What was sent.
        sent: u64,
    },
    /// Too many datagrams were lost.
    #[error(
        "{lost:.2} % of the datagrams {direction} were lost, more than the {allowed} % allowed (--max-loss)"
    )]
    Lossy {
        /// The direction.
        direction: Direction,
        /// Percent.
        lost: f64,
        /// Percent.
        allowed: f64,
    },
    /// It took too long.
    #[error(
        "not finished within {limit:?}: {down} bytes came down and {up} went up; raise --timeout or look where packets are dropped"
    )]
    Late {
        /// The patience.
        limit: Duration,
        /// Bytes so far.
        down: u64,
        /// Bytes so far.
        up: u64,
    },
    /// A QUIC connection kept its address although it should have changed it.
    #[error(
        "the stream ended before {0} bytes had passed, so its address was not changed; order more --bytes"
    )]
    NotRebound(u64),
    /// TLS material could not be made.
    #[error("cannot prepare TLS: {0}")]
    Tls(String),
    /// A task of our own ended badly.
    #[error("internal: {0}")]
    Internal(String),
}

fn broken(direction: Direction, bytes: u64) -> impl FnOnce(io::Error) -> StreamError {
    move |why| StreamError::Broken { direction, bytes, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_the_wire() {
        let order = Order { seed: 7, down: u64::MAX, up: 1 << 40, verify: true };
        assert_eq!(Order::decode(&order.encode()), Some(order));
        let mut other = order.encode();
        other[0] ^= 1;
        assert_eq!(Order::decode(&other), None);
    }
}
