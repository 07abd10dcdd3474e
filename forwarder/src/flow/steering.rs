//! Which worker a packet belongs to.
//!
//! Every packet has a home, the worker that owns or would own its connection, and the home follows from the packet's addresses
//! and ports alone. It never changes while the forwarder runs, so all packets of a connection meet at one worker, and so do
//! those of the connections that use its ports later.
//!
//! The home is what receive side scaling makes of a packet: a Toeplitz hash and a table of queues. The three ways differ in
//! who computes it. A device with RSS does it with our key and table ([`How::Rss`]). Where the driver has flow rules instead,
//! packets to source ports go by rules to queues, and their home is read from the port number ([`How::Rules`]). Where the
//! device has neither, the worker that finds no connection for a packet computes the home and hands the packet over
//! ([`How::HandOver`]); it does so in the other two cases as well when a packet turns up elsewhere.
//!
//! Whoever admits a connection chooses a source port such that the return traffic's home is this worker: [`Home::port`].
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::key::Key;
use super::toeplitz::{self, Toeplitz};

/// Entries of the table where the device brings none.
const TABLE: usize = 512;

/// How a port's packets come to their home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// There is one worker.
    OneWorker,
    /// The device hashes with our key and our table.
    Rss,
    /// Flow rules put ranges of destination ports into queues.
    Rules,
    /// The workers do it.
    HandOver,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            How::OneWorker => "one worker",
            How::Rss => "rss",
            How::Rules => "rules",
            How::HandOver => "hand over",
        })
    }
}

/// Source ports in blocks of a power of two, dealt out to the workers in turn: what a flow rule can match by a mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocks {
    range: RangeInclusive<u16>,
    shift: u32,
    workers: u16,
}

/// The destination ports whose bits under `mask` equal `port` go to `queue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// First port.
    pub port: u16,
    /// Ones from the top.
    pub mask: u16,
    /// Queue, and worker.
    pub queue: u16,
}

impl Blocks {
    /// About four blocks a worker, so that they get nearly the same when their number is no power of two.
    #[must_use]
    pub fn new(range: &RangeInclusive<u16>, workers: u16) -> Self {
        let ports = u32::from(range.end() - range.start()) + 1;
        let shift = (ports / (4 * u32::from(workers.max(1)))).max(1).ilog2();
        Self { range: range.clone(), shift, workers: workers.max(1) }
    }

    /// Every block of the range, those at its ends perhaps reaching beyond.
    pub fn iter(&self) -> impl Iterator<Item = Block> + '_ {
        let numbers = self.range.start() >> self.shift..=self.range.end() >> self.shift;
        numbers.map(|n| Block {
            port: n << self.shift,
            mask: u16::MAX << self.shift,
            queue: n % self.workers,
        })
    }

    /// The worker of a port, when it is in one of the blocks.
    fn worker(&self, port: u16) -> Option<usize> {
        let n = port >> self.shift;
        let known = self.range.start() >> self.shift <= n && n <= self.range.end() >> self.shift;
        known.then(|| usize::from(n % self.workers))
    }
}

/// How packets that arrive at one port come to their home, and where that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steering {
    how: How,
    hash: Arc<Toeplitz>,
    /// Worker by the hash's low bits; its length is a power of two.
    table: Arc<[u16]>,
    blocks: Option<Blocks>,
}

impl Steering {
    fn new(how: How, key: &[u8; toeplitz::KEY], workers: u16, entries: usize) -> Self {
        let how = if workers <= 1 { How::OneWorker } else { how };
        Self {
            how,
            hash: Arc::new(Toeplitz::new(key)),
            table: deal(workers, entries).collect(),
            blocks: None,
        }
    }

    /// The workers do it, by a hash with this key.
    #[must_use]
    pub fn hand_over(key: &[u8; toeplitz::KEY], workers: u16) -> Self {
        Self::new(How::HandOver, key, workers, TABLE)
    }

    /// The device does it with this key and the table that [`deal`] makes of `entries`, a power of two.
    #[must_use]
    pub fn rss(key: &[u8; toeplitz::KEY], workers: u16, entries: usize) -> Self {
        Self::new(How::Rss, key, workers, entries.next_power_of_two())
    }

    /// The device puts blocks of source ports where they belong; what goes to other ports, the workers hand over by a hash.
    #[must_use]
    pub fn rules(key: &[u8; toeplitz::KEY], blocks: Blocks) -> Self {
        let workers = blocks.workers;
        Self { blocks: Some(blocks), ..Self::new(How::Rules, key, workers, TABLE) }
    }

    /// Which way it is.
    #[must_use]
    pub fn how(&self) -> How {
        self.how
    }

    fn entry(&self, hash: u32) -> usize {
        usize::from(self.table[hash as usize & (self.table.len() - 1)])
    }

    /// The worker that a packet with this key belongs to.
    #[inline]
    #[must_use]
    pub fn home(&self, key: &Key) -> usize {
        if let Some(blocks) = &self.blocks {
            let port = u16::from_be((key.ports >> 16) as u16);
            if let Some(worker) = blocks.worker(port) {
                return worker;
            }
        }
        self.entry(self.hash.of(key))
    }

    /// The worker at which the fragments of a datagram meet: only the first has ports, so its addresses alone decide, as they do for
    /// devices.
    #[must_use]
    pub fn home_of_pair(&self, src: IpAddr, dst: IpAddr) -> usize {
        self.entry(self.hash.to_any_port(SocketAddr::new(src, 0), dst))
    }

    /// The homes of what `target` sends to the address `source`, by port.
    #[must_use]
    pub fn homes(&self, target: SocketAddr, source: IpAddr) -> Home<'_> {
        Home { steering: self, v6: source.is_ipv6(), sum: self.hash.to_any_port(target, source) }
    }
}

/// Where return traffic comes to, as far as the source port decides.
#[derive(Debug, Clone, Copy)]
pub struct Home<'a> {
    steering: &'a Steering,
    v6: bool,
    sum: u32,
}

impl Home<'_> {
    /// The worker that gets what is sent to this source port.
    #[inline]
    #[must_use]
    pub fn port(&self, port: u16) -> usize {
        let by_hash = || self.steering.entry(self.sum ^ self.steering.hash.port(self.v6, port));
        self.steering.blocks.as_ref().and_then(|b| b.worker(port)).unwrap_or_else(by_hash)
    }

    /// Tells this target and this source address from others.
    #[must_use]
    pub fn label(&self) -> u32 {
        self.sum
    }
}

/// A table of `entries` queues, each worker's as often as any other's.
pub fn deal(workers: u16, entries: usize) -> impl Iterator<Item = u16> {
    (0..workers.max(1)).cycle().take(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Proto;
    use crate::flow::Tuple;

    const KEY: [u8; toeplitz::KEY] = {
        let mut key = [0; toeplitz::KEY];
        let (mut i, mut x) = (0, 0x2545_f491_u32);
        while i < key.len() {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            key[i] = (x >> 11) as u8;
            i += 1;
        }
        key
    };

    #[test]
    fn the_home_of_a_chosen_port_is_the_home_of_its_packets() {
        for workers in [1, 2, 3, 8] {
            let blocks = Blocks::new(&(32_768..=65_535), workers);
            for steering in [
                Steering::hand_over(&KEY, workers),
                Steering::rss(&KEY, workers, 128),
                Steering::rules(&KEY, blocks),
            ] {
                for (target, source) in [("10.1.0.2:6000", "10.1.0.1"), ("[fd00::2]:443", "fd00::1")] {
                    let (target, source): (SocketAddr, IpAddr) =
                        (target.parse().unwrap(), source.parse().unwrap());
                    let homes = steering.homes(target, source);
                    let mut share = vec![0u32; usize::from(workers)];
                    for port in 20_000..=65_535 {
                        let dst = SocketAddr::new(source, port);
                        let key = Tuple { port: 1, proto: Proto::Tcp, src: target, dst }.key().unwrap();
                        assert_eq!(homes.port(port), steering.home(&key), "{:?} {port}", steering.how());
                        share[homes.port(port)] += u32::from(port >= 32_768);
                    }
                    let fair = 32_768 / u32::from(workers);
                    assert!(share.iter().all(|n| n.abs_diff(fair) <= fair / 4), "{share:?}");
                }
            }
        }
    }

    #[test]
    fn blocks_cover_their_range_and_are_what_a_mask_matches() {
        for range in [32_768..=65_535u16, 40_000..=40_060, 1..=65_535, 65_535..=65_535, 1024..=1025] {
            for workers in 1..=9 {
                let blocks = Blocks::new(&range, workers);
                let all: Vec<Block> = blocks.iter().collect();
                assert!(all.len() <= 8 * usize::from(workers) + 1, "{range:?} {workers}: {}", all.len());
                for port in range.clone() {
                    let mut hits = all.iter().filter(|b| port & b.mask == b.port);
                    let (block, other) = (hits.next().unwrap(), hits.next());
                    assert_eq!((Some(usize::from(block.queue)), other), (blocks.worker(port), None));
                }
                let beyond = (0..=u16::MAX).filter(|p| all.iter().all(|b| p & b.mask != b.port));
                assert!(beyond.into_iter().all(|p| blocks.worker(p).is_none()));
            }
        }
    }
}
