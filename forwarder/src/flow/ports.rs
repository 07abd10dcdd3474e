//! Source ports of connections: unpredictable (RFC 6056, algorithm 2: a random port, tried until free), from a range that is
//! divided among the workers so that a port number tells which worker owns its connection.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Ports tried at random before giving up on an address. In a table whose ports are half used a try fails with
/// probability 1/2, so 64 failures in a row mean that it is, in effect, full.
const RANDOM_TRIES: u32 = 64;

/// One worker's share of the source ports.
#[derive(Debug)]
pub struct SourcePorts {
    first: u16,
    last: u16,
    worker: u16,
    workers: u16,
    random: ChaCha8Rng,
}

impl SourcePorts {
    /// Worker `worker` of `workers` uses the ports of `range` whose distance from its start is congruent to `worker`.
    pub fn new(range: &RangeInclusive<u16>, worker: usize, workers: usize, seed: [u8; 32]) -> Self {
        Self {
            first: *range.start(),
            last: *range.end(),
            worker: worker as u16,
            workers: workers.max(1) as u16,
            random: ChaCha8Rng::from_seed(seed),
        }
    }

    /// The worker that owns connections whose source port is `port`; none outside the range.
    pub fn owner(&self, port: u16) -> Option<usize> {
        (self.first..=self.last).contains(&port).then(|| usize::from((port - self.first) % self.workers))
    }

    /// How many ports this worker has.
    fn share(&self) -> u32 {
        let all = u32::from(self.last - self.first) + 1;
        (all + u32::from(self.workers) - 1 - u32::from(self.worker)) / u32::from(self.workers)
    }

    /// A port for which `free` holds: some at random, then one after the other, at most `RANDOM_TRIES` of each.
    pub fn pick(&mut self, mut free: impl FnMut(u16) -> bool) -> Option<u16> {
        let share = self.share();
        if share == 0 {
            return None;
        }
        let port = |n: u32| self.first + (n * u32::from(self.workers)) as u16 + self.worker;
        let mut n = 0;
        for _ in 0..RANDOM_TRIES {
            // Multiply-shift maps 32 random bits to the share without the bias and cost of a division.
            n = ((u64::from(self.random.next_u32()) * u64::from(share)) >> 32) as u32;
            if free(port(n)) {
                return Some(port(n));
            }
        }
        (1..=RANDOM_TRIES.min(share)).map(|i| port((n + i) % share)).find(|p| free(*p))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_divide_the_range_and_own_what_they_pick() {
        for workers in 1..=7 {
            let mut seen = std::collections::BTreeMap::new();
            for worker in 0..workers {
                let mut ports = SourcePorts::new(&(40_000..=40_060), worker, workers, [worker as u8; 32]);
                // Take every port of the share, which is small enough to be looked through whole: all differ, all are owned by
                // this worker.
                while let Some(port) = ports.pick(|p| !seen.contains_key(&p)) {
                    assert_eq!(ports.owner(port), Some(worker));
                    assert!(seen.insert(port, worker).is_none());
                }
            }
            assert_eq!(seen.len(), 61, "{workers} workers use the whole range");
            assert_eq!(seen.keys().next(), Some(&40_000));
            assert_eq!(seen.keys().last(), Some(&40_060));
        }
    }

    #[test]
    fn picks_cannot_be_told_from_the_last_one() {
        let mut ports = SourcePorts::new(&(32_768..=65_535), 0, 1, [7; 32]);
        let picked: Vec<u16> = (0..1000).filter_map(|_| ports.pick(|_| true)).collect();
        let near = picked.windows(2).filter(|w| w[0].abs_diff(w[1]) < 16).count();
        assert!(near < 20, "{near} of 999 picks lie next to the one before");
    }
}
