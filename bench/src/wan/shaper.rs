//! A rate and the bounded queue before it, as arithmetic: nothing has to run when a packet's turn comes.

use std::collections::VecDeque;

use super::units::{Queue, Rate};

const NS: u64 = 1_000_000_000;

/// A link of a rate. Frames leave it one after the other; exact to the nanosecond, and without drift.
#[derive(Debug)]
pub struct Shaper {
    bits_per_second: u64,
    overhead: u64,
    queue: Queue,
    /// When all that was taken will have left, in nanoseconds, and the part of the next one in `1 / bits_per_second` ns.
    busy_until: u64,
    rest: u64,
    /// When the packets that wait begin to leave; kept where packets are counted.
    starts: VecDeque<u64>,
}

impl Shaper {
    /// An idle link. `overhead` is added to each frame, in bytes.
    #[must_use]
    pub fn new(rate: Rate, overhead: u16, queue: Queue) -> Shaper {
        let starts = match queue {
            Queue::Packets(n) => VecDeque::with_capacity(n as usize + 1),
            Queue::Bytes(_) | Queue::Time(_) => VecDeque::new(),
        };
        Shaper {
            bits_per_second: rate.0.max(1),
            overhead: overhead.into(),
            queue,
            busy_until: 0,
            rest: 0,
            starts,
        }
    }

    /// When a frame of `bytes` bytes that comes `now` has left; none when the queue has no room for it.
    pub fn pass(&mut self, bytes: usize, now: u64) -> Option<u64> {
        let bytes = bytes as u64 + self.overhead;
        let wait = self.busy_until.saturating_sub(now);
        let fits = match self.queue {
            Queue::Time(most) => wait <= most.0,
            Queue::Bytes(most) => {
                let queued = u128::from(wait) * u128::from(self.bits_per_second) / u128::from(8 * NS);
                wait == 0 || queued + u128::from(bytes) <= u128::from(most)
            }
            Queue::Packets(most) => {
                while self.starts.front().is_some_and(|start| *start <= now) {
                    self.starts.pop_front();
                }
                self.starts.len() < most as usize
            }
        };
        if !fits {
            return None;
        }
        let start = if wait == 0 {
            self.rest = 0;
            now
        } else {
            self.busy_until
        };
        if matches!(self.queue, Queue::Packets(_)) {
            self.starts.push_back(start);
        }
        let work = bytes * 8 * NS + self.rest;
        self.busy_until = start + work / self.bits_per_second;
        self.rest = work % self.bits_per_second;
        Some(self.busy_until)
    }
}

#[cfg(test)]
mod tests {
    use super::super::units::Time;
    use super::*;

    #[test]
    fn a_rate_is_exact_over_any_number_of_frames() {
        // 1000 bytes at 3 Mbit/s take 2666666.67 ns.
        let mut shaper = Shaper::new(Rate(3_000_000), 0, Queue::Time(Time::MOST));
        let times: Vec<u64> = (0..3000).map(|_| shaper.pass(1000, 0).unwrap()).collect();
        assert_eq!(times[..3], [2_666_666, 5_333_333, 8_000_000]);
        assert_eq!(times[2999], 8_000_000_000);
        // Idle again, it does not save up.
        assert_eq!(shaper.pass(1000, 9_000_000_000), Some(9_002_666_666));
    }

    #[test]
    fn overhead_counts() {
        let mut shaper = Shaper::new(Rate(8_000_000_000), 24, Queue::Bytes(1));
        assert_eq!(shaper.pass(1476, 10), Some(1510));
    }

    #[test]
    fn a_queue_of_packets_holds_so_many_beside_the_one_that_leaves() {
        // A frame a microsecond.
        let mut shaper = Shaper::new(Rate(8_000_000_000), 0, Queue::Packets(3));
        let taken = |s: &mut Shaper, now: u64| (0..10).filter(|_| s.pass(1000, now).is_some()).count();
        assert_eq!(taken(&mut shaper, 0), 4);
        assert_eq!(taken(&mut shaper, 999), 0);
        assert_eq!(taken(&mut shaper, 1000), 1);
        assert_eq!(taken(&mut shaper, 3500), 2);
        assert_eq!(taken(&mut shaper, 1_000_000), 4);
    }

    #[test]
    fn a_queue_of_bytes_holds_no_more() {
        let mut shaper = Shaper::new(Rate(8_000_000_000), 0, Queue::Bytes(2500));
        let taken =
            |s: &mut Shaper, bytes: usize, now: u64| (0..10).filter(|_| s.pass(bytes, now).is_some()).count();
        assert_eq!(taken(&mut shaper, 1000, 0), 2, "the first is on its way with 1000 bytes to go");
        assert_eq!(taken(&mut shaper, 500, 0), 1);
        assert_eq!(taken(&mut shaper, 1000, 999), 0);
        assert_eq!(taken(&mut shaper, 1000, 1000), 1);
        let mut small = Shaper::new(Rate(8_000_000_000), 0, Queue::Bytes(1));
        assert_eq!(taken(&mut small, 1000, 0), 1, "an idle link takes a frame, however small its queue");
    }

    #[test]
    fn a_queue_of_time_makes_nobody_wait_longer() {
        let mut shaper = Shaper::new(Rate(8_000_000_000), 0, Queue::Time(Time(5000)));
        let waits: Vec<u64> = (0..20).filter_map(|_| shaper.pass(1000, 0)).map(|t| t - 1000).collect();
        assert_eq!(waits, [0, 1000, 2000, 3000, 4000, 5000]);
    }
}
