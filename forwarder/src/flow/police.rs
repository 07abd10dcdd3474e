//! Policing: what of a flow's packets is within its rate.
//!
//! The generic cell rate algorithm in its virtual scheduling form (ITU-T I.371 annex A; for packets of any length it is the token
//! bucket of RFC 2697 with one colour less): each direction has the moment at which all that passed so far would have been sent at
//! the rate. A packet passes while that moment, with the packet's own time added, lies no further ahead than the burst allows.
//! That moment is all the state there is, so that workers share a bucket by moving one word.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::Direction;
use crate::sync::Meter;

/// What may pass at once after silence: what the rate carries in this time ...
pub const BURST_MS: u64 = 10;
/// ... and at least so many bytes, so that slow rates let the bursts through that TCP sends: two of segmentation offload, or a
/// first window of jumbo frames.
pub const BURST_BYTES: u32 = 128 * 1024;

/// Bits of a tick: moments are in units of 1/256 tick. A 64-bit count of them lasts 320 days at 2.6 GHz and then begins anew.
const FRACTION: u32 = 8;
/// Further bits of the time that a byte takes.
const PRECISION: u32 = 16;
/// A moment further ahead than a worker's clock can be behind another's is one of long ago, before the count began anew.
const SKEW_MS: u64 = 60_000;

/// The rate of a flow and both its buckets.
#[derive(Debug, Clone)]
pub struct Police {
    /// Units of time times 2^[`PRECISION`] that a byte takes.
    per_byte: u64,
    /// Units that the moment may be ahead.
    burst: u64,
    /// Units from which on it is not ahead but long past.
    past: u64,
    /// By [`Direction`].
    meters: Arc<[Meter; 2]>,
}

impl Police {
    /// Full buckets for `mbits` Mbit/s by a clock of so many ticks a millisecond.
    pub fn new(mbits: u64, ticks_per_ms: u64) -> Self {
        let ms = ticks_per_ms.max(1) << FRACTION;
        // 125 bytes a millisecond are one Mbit/s. Rounded up, as the price of each frame is: never above the rate.
        let per_byte = (ms << PRECISION).div_ceil(mbits.max(1) * 125);
        let burst = (ms * BURST_MS).max(cost(per_byte, BURST_BYTES));
        Self { per_byte, burst, past: burst + ms * SKEW_MS, meters: Arc::default() }
    }

    /// How many of `frames`, in their order, may pass at `ticks`; those are charged. `frames` are lengths in bytes.
    #[inline]
    pub fn admit(
        &self,
        direction: Direction,
        ticks: u64,
        frames: impl Iterator<Item = u32> + Clone,
    ) -> usize {
        let now = ticks << FRACTION;
        let mut passed = 0;
        self.meters[direction as usize].advance(|moment| {
            let ahead = Some(moment.wrapping_sub(now)).filter(|ahead| *ahead <= self.past).unwrap_or(0);
            let after = frames.clone().scan(ahead, |ahead, bytes| {
                *ahead += cost(self.per_byte, bytes);
                (*ahead <= self.burst).then_some(*ahead)
            });
            let last;
            (passed, last) = after.fold((0, ahead), |(n, _), ahead| (n + 1, ahead));
            (passed > 0).then(|| now.wrapping_add(last))
        });
        passed
    }
}

/// The time that a frame takes, rounded up.
#[inline(always)]
fn cost(per_byte: u64, bytes: u32) -> u64 {
    (u64::from(bytes) * per_byte).div_ceil(1 << PRECISION)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Ticks a millisecond of a 2.6 GHz TSC.
    const TSC: u64 = 2_600_000;
    const D: Direction = Direction::ToTarget;

    fn one(police: &Police, ticks: u64, bytes: u32) -> bool {
        police.admit(D, ticks, std::iter::once(bytes)) == 1
    }

    #[test]
    fn every_rate_is_held_to_a_fraction_of_a_percent() {
        for mbits in [1, 7, 100, 1000, 10_000, 100_000, 1_000_000] {
            for bytes in [60, 1514, 9018] {
                let police = Police::new(mbits, TSC);
                // Offered is twice the rate, for so long that the first burst is a thousandth of it.
                let (mut passed, mut ticks) = (0u64, 12_345u64);
                while one(&police, ticks, bytes) {}
                let began = ticks;
                let gap = police.per_byte * u64::from(bytes) / 2;
                for n in 1..=100_000u64 {
                    ticks = began + ((u128::from(gap) * u128::from(n)) >> (FRACTION + PRECISION)) as u64;
                    passed += u64::from(one(&police, ticks, bytes)) * u64::from(bytes);
                }
                let allowed = mbits as f64 * 125_000.0 * ((ticks - began) as f64 / (TSC * 1000) as f64);
                let share = passed as f64 / allowed;
                assert!((0.99..=1.0001).contains(&share), "{mbits} Mbit/s, {bytes} bytes: {share}");
            }
        }
    }

    #[test]
    fn a_burst_after_any_silence_is_one_bucket() {
        let police = Police::new(10_000, TSC);
        let bucket = u64::from(BURST_BYTES).max(10_000 * 125 * BURST_MS);
        // Silence of nothing, of a day, of half a year, and until the count has begun anew.
        for ticks in [0, TSC * 86_400_000, u64::MAX >> FRACTION, u64::MAX >> (FRACTION + 1), u64::MAX - 5] {
            let frames = std::iter::repeat_n(1000, 20_000);
            let passed = police.admit(D, ticks, frames) as u64 * 1000;
            assert!((bucket - 1000..=bucket).contains(&passed), "{passed} of {bucket} at {ticks}");
            assert!(!one(&police, ticks, 1000));
        }
    }

    #[test]
    fn a_train_passes_up_to_the_first_that_is_too_much() {
        let police = Police::new(1, TSC);
        let frames = [100_000, 31_000, 72, 1].iter().copied();
        assert_eq!(police.admit(D, 7, frames.clone()), 3);
        assert_eq!(police.admit(D, 7, frames), 0);
        // The other direction has its own bucket, and a clone of the police the same.
        assert_eq!(police.clone().admit(D, 7, std::iter::once(100)), 0);
        assert_eq!(police.admit(Direction::ToClient, 7, std::iter::once(100)), 1);
    }

    #[test]
    fn a_worker_whose_clock_is_behind_takes_nothing_that_was_taken() {
        let police = Police::new(1000, TSC);
        while one(&police, TSC * 1000, 1000) {}
        assert!(!one(&police, TSC * 500, 60));
        assert!(!one(&police, TSC * 1000, 60_000));
        assert!(one(&police, TSC * 1001, 60_000));
    }
}
