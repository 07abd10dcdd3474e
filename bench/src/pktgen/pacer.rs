//! When the next frame may go.
//!
//! What is due is computed from the time since the start, so nothing drifts. Each frame costs the bits it takes on the wire:
//! frames of different sizes are spaced as the line would space them. Who comes late catches up by a bounded burst only; what
//! is beyond that is forfeited and counted, because a burst at full speed would try another thing than the rate asked for.

/// Meters out frames at a rate, or as fast as they can be had.
#[derive(Debug, Clone)]
pub struct Pacer {
    start: u64,
    /// Bits on the wire that a tick brings; none: no limit.
    per_tick: Option<f64>,
    /// Bits of all frames that were due until now.
    due: f64,
    /// Bits of frames that went, and those that were forfeited.
    spent: f64,
    /// Bits that may be caught up at most.
    slack: f64,
    forfeited: f64,
}

impl Pacer {
    /// Begins at `start`, in ticks of which a second has `hz`. `bits_per_second` are bits on the wire; none sets no limit. Who
    /// is late catches up what was due in the last `catch_up` seconds at most, or `burst` bits when these are more.
    #[must_use]
    pub fn new(start: u64, hz: u64, bits_per_second: Option<f64>, catch_up: f64, burst: f64) -> Pacer {
        let slack = bits_per_second.map_or(0.0, |rate| (rate * catch_up).max(burst));
        let per_tick = bits_per_second.map(|rate| rate / hz as f64);
        Pacer { start, per_tick, due: 0.0, spent: 0.0, slack, forfeited: 0.0 }
    }

    /// It is `now`.
    #[inline]
    pub fn advance(&mut self, now: u64) {
        let Some(per_tick) = self.per_tick else { return };
        self.due = now.saturating_sub(self.start) as f64 * per_tick;
        let over = self.due - self.spent - self.slack;
        if over > 0.0 {
            self.spent += over;
            self.forfeited += over;
        }
    }

    /// Is a frame that takes `bits` on the wire due? Then it is taken for sent.
    #[inline]
    pub fn take(&mut self, bits: u64) -> bool {
        let due = self.per_tick.is_none() || self.is_behind();
        if due {
            self.spent += bits as f64;
        }
        due
    }

    /// Is there a rate, and a frame due by it?
    #[inline]
    #[must_use]
    pub fn is_behind(&self) -> bool {
        // A frame is due when those before it have left the line. The half bit is for the sums' rounding.
        self.per_tick.is_some() && (self.spent < self.due - 0.5 || self.spent == 0.0)
    }

    /// Bits on the wire that were due and not sent until now.
    #[must_use]
    pub fn forfeited(&self) -> f64 {
        self.forfeited + (self.due - self.spent).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u64 = 2_600_000_000;
    const BITS: u64 = 84 * 8;
    const MS: f64 = 0.001;

    /// Frames taken when looked at every `step` ticks for `seconds`, and the largest burst.
    fn frames(pacer: &mut Pacer, step: u64, seconds: u64) -> (u64, u64) {
        let (mut sent, mut most, mut now) = (0, 0, 0);
        while now < seconds * HZ {
            pacer.advance(now);
            let before = sent;
            while pacer.take(BITS) {
                sent += 1;
            }
            most = most.max(sent - before);
            now += step;
        }
        (sent, most)
    }

    #[test]
    fn a_rate_is_kept_exactly_however_often_it_is_looked_at() {
        for step in [1_000, 33_333, 1_000_003] {
            let mut pacer = Pacer::new(0, HZ, Some((1_000_000 * BITS) as f64), MS, 64.0 * BITS as f64);
            let (sent, most) = frames(&mut pacer, step, 10);
            // The last look is up to one step before the end.
            let missing = 10_000_000 - sent;
            assert!(missing <= step * 1_000_000 / HZ + 1, "{missing} at {step}");
            assert!(most <= step * 1_000_000 / HZ + 1, "{most} at {step}");
            assert_eq!(pacer.forfeited(), 0.0);
        }
    }

    #[test]
    fn a_long_run_does_not_drift() {
        // Ten minutes at a rate that is no whole number of ticks.
        let mut pacer = Pacer::new(5, HZ, Some(300_007.0 * BITS as f64), MS, 64.0 * BITS as f64);
        let (mut sent, mut now) = (0u64, 5);
        for _ in 0..600 * 1000 {
            now += HZ / 1000;
            pacer.advance(now);
            while pacer.take(BITS) {
                sent += 1;
            }
        }
        assert!(sent.abs_diff(300_007 * 600) <= 1, "{sent}");
    }

    #[test]
    fn a_pause_is_caught_up_by_a_bounded_burst_and_told() {
        let rate = 1_000_000u64;
        let mut pacer = Pacer::new(0, HZ, Some((rate * BITS) as f64), MS, 64.0 * BITS as f64);
        pacer.advance(HZ / 10);
        let mut burst = 0;
        while pacer.take(BITS) {
            burst += 1;
        }
        // A millisecond's worth of the 100 that passed.
        assert_eq!(burst, 1000);
        assert_eq!((pacer.forfeited() / BITS as f64).round(), 99_000.0);
        assert!(!pacer.is_behind());
        // What is not taken at the end is not sent either.
        pacer.advance(HZ / 10 + HZ / 2000);
        assert!(pacer.is_behind());
        assert_eq!((pacer.forfeited() / BITS as f64).round(), 99_500.0);
    }

    #[test]
    fn frames_of_different_sizes_share_the_line() {
        let line = 1e9;
        let mut pacer = Pacer::new(0, HZ, Some(line), MS, 1e6);
        let (mut bits, mut n) = (0u64, 0u64);
        for now in (0..=HZ).step_by(10_000) {
            pacer.advance(now);
            loop {
                let size = if n.is_multiple_of(3) { 1538 * 8 } else { 84 * 8 };
                if !pacer.take(size) {
                    break;
                }
                (bits, n) = (bits + size, n + 1);
            }
        }
        assert!((bits as f64 - line).abs() < 20_000.0, "{bits}");
    }

    #[test]
    fn without_a_rate_all_may_go() {
        let mut pacer = Pacer::new(9, HZ, None, MS, 0.0);
        pacer.advance(9);
        assert!((0..1000).all(|_| pacer.take(BITS)));
        assert_eq!(pacer.forfeited(), 0.0);
    }
}
