//! Source ports of connections: unpredictable (RFC 6056, algorithm 2: a random port, tried until free), and such that the
//! return traffic comes to the worker that chose them ([`super::steering`]).
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::Millis;
use super::steering::Home;

/// Ports of this worker tried at random before giving up on an address. In a table whose ports are half used a try fails with
/// probability 1/2, so 64 failures in a row mean that it is, in effect, full.
const TRIES: usize = 64;

/// Milliseconds for which an address that had no port counts as full: of many new connections only the first looks for one.
const FULL_FOR: Millis = 100;

/// Full addresses remembered; a later one takes an earlier one's place.
const FULL: usize = 1024;

/// One worker's choice of source ports.
#[derive(Debug)]
pub struct SourcePorts {
    first: u16,
    ports: u32,
    worker: usize,
    workers: usize,
    random: ChaCha8Rng,
    /// Which address comes next for connections whose own one is full.
    pub spill: usize,
    /// Of addresses that were full: which, and when.
    full: Box<[Option<(u32, Millis)>]>,
}

impl SourcePorts {
    /// Worker `worker` of `workers` chooses among the ports of `range`.
    #[must_use]
    pub fn new(range: &RangeInclusive<u16>, worker: usize, workers: usize, seed: [u8; 32]) -> Self {
        Self {
            first: *range.start(),
            ports: u32::from(range.end() - range.start()) + 1,
            worker,
            workers: workers.max(1),
            random: ChaCha8Rng::from_seed(seed),
            spill: 0,
            full: vec![None; FULL].into(),
        }
    }

    /// What is remembered of a full address: of this target, source address and protocol.
    fn label(home: &Home<'_>, proto: u8) -> (usize, u32) {
        let label = home.label() ^ u32::from(proto);
        (label as usize % FULL, label)
    }

    /// Was there no port a moment ago?
    #[must_use]
    pub fn known_full(&self, home: &Home<'_>, proto: u8, now: Millis) -> bool {
        let (slot, label) = Self::label(home, proto);
        self.full[slot].is_some_and(|(l, at)| l == label && now.wrapping_sub(at) < FULL_FOR)
    }

    /// A port whose home is this worker and for which `free` holds: some are tried at random, then as many one after the
    /// other. `proto` sets apart the ports of protocols in what is remembered of full addresses.
    pub fn pick(
        &mut self,
        home: &Home<'_>,
        proto: u8,
        now: Millis,
        mut free: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        let draws = TRIES * self.workers;
        let worker = self.worker;
        let mut good = |port: u16| (home.port(port) == worker && free(port)).then_some(port);
        let (first, ports) = (self.first, self.ports);
        let mut n = 0;
        for _ in 0..draws {
            // Multiply-shift maps 32 random bits to the range without the bias and cost of a division.
            n = ((u64::from(self.random.next_u32()) * u64::from(ports)) >> 32) as u32;
            if let Some(port) = good(first + n as u16) {
                return Some(port);
            }
        }
        let found = (1..=ports.min(draws as u32)).find_map(|i| good(first + ((n + i) % ports) as u16));
        if found.is_none() {
            let (slot, label) = Self::label(home, proto);
            self.full[slot] = Some((label, now));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::flow::steering::Steering;

    const KEY: [u8; 40] = [0x5a; 40];

    #[test]
    fn workers_divide_the_range_and_own_what_they_pick() {
        for workers in 1..=7 {
            let steering = Steering::rss(&std::array::from_fn(|i| (i * i * 7 + 3) as u8), workers, 128);
            let home = steering.homes("10.1.0.2:6000".parse().unwrap(), [10, 1, 0, 1].into());
            let mut seen = BTreeMap::new();
            for worker in 0..usize::from(workers) {
                let range = 40_000..=40_060;
                let mut ports = SourcePorts::new(&range, worker, workers.into(), [worker as u8; 32]);
                // The range is small enough to be looked through whole.
                while let Some(port) = ports.pick(&home, 17, 0, |p| !seen.contains_key(&p)) {
                    assert_eq!(home.port(port), worker);
                    assert!(seen.insert(port, worker).is_none());
                }
            }
            assert_eq!(seen.len(), 61, "{workers} workers use the whole range");
            assert_eq!((seen.keys().next(), seen.keys().last()), (Some(&40_000), Some(&40_060)));
        }
    }

    #[test]
    fn picks_cannot_be_told_from_the_last_one() {
        let steering = Steering::hand_over(&KEY, 1);
        let home = steering.homes("10.1.0.2:6000".parse().unwrap(), [10, 1, 0, 1].into());
        let mut ports = SourcePorts::new(&(32_768..=65_535), 0, 1, [7; 32]);
        let picked: Vec<u16> = (0..1000).filter_map(|_| ports.pick(&home, 17, 0, |_| true)).collect();
        let near = picked.windows(2).filter(|w| w[0].abs_diff(w[1]) < 16).count();
        assert!(near < 20, "{near} of 999 picks lie next to the one before");
    }

    #[test]
    fn a_full_address_is_remembered_for_a_while() {
        let steering = Steering::hand_over(&KEY, 1);
        let mut ports = SourcePorts::new(&(40_000..=40_009), 0, 1, [7; 32]);
        let home = |source: [u8; 4]| steering.homes("10.1.0.2:6000".parse().unwrap(), source.into());
        let (one, other) = (home([10, 1, 0, 1]), home([10, 1, 0, 3]));
        assert!(ports.pick(&one, 17, 5, |_| true).is_some() && !ports.known_full(&one, 17, 5));
        let mut tried = 0;
        let none = ports.pick(&one, 17, 5, |_| {
            tried += 1;
            false
        });
        assert_eq!((none, tried), (None, TRIES + 10));
        assert!(ports.known_full(&one, 17, 5) && ports.known_full(&one, 17, 5 + FULL_FOR - 1));
        assert!(!ports.known_full(&one, 17, 5 + FULL_FOR), "tried again");
        assert!(!ports.known_full(&one, 6, 5), "another protocol");
        assert!(!ports.known_full(&other, 17, 5), "another address");
    }
}
