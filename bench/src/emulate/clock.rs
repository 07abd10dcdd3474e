//! Clocks of a stream, and precise waiting.

use std::fs;

use nix::sys::prctl::set_timerslack;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

/// What a slewed clock may gain or lose without having stepped, in parts per million (adjtimex(2) allows 500).
const SLEW: u64 = 500;
/// Below this a step cannot be told from the time that reading two clocks takes, in nanoseconds.
const GRAIN: u64 = 1_000_000;

/// A clock that never steps. It runs as CLOCK_MONOTONIC does; where source and sink do not share that, it starts at the
/// time of day, so that both ends' readings can be compared as far as their clocks agree.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    offset: i64,
    start: u64,
    shared: bool,
}

impl Clock {
    /// `shared`: the other end reads the same CLOCK_MONOTONIC.
    #[must_use]
    pub fn new(shared: bool) -> Clock {
        Clock { offset: if shared { 0 } else { time_of_day_offset() }, start: monotonic(), shared }
    }

    /// Nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        monotonic().saturating_add_signed(self.offset)
    }

    /// What CLOCK_MONOTONIC said at a reading of this clock.
    #[must_use]
    pub fn monotonic(&self, reading: u64) -> u64 {
        reading.saturating_add_signed(-self.offset)
    }

    /// Whether both ends read the same one.
    #[must_use]
    pub fn shared(&self) -> bool {
        self.shared
    }

    /// Sleeps until a reading of this clock.
    pub fn sleep_until(&self, reading: u64) {
        let at = self.monotonic(reading);
        let at = nix::sys::time::TimeSpec::new((at / 1_000_000_000) as i64, (at % 1_000_000_000) as i64);
        // A signal wakes early; the caller looks at the clock again.
        let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &at);
    }

    /// By how much the time of day stepped since the start, in nanoseconds; none when it did not, or does not matter.
    #[must_use]
    pub fn step(&self) -> Option<i64> {
        if self.shared {
            return None;
        }
        step(self.offset, time_of_day_offset(), monotonic().saturating_sub(self.start))
    }
}

/// The change of the time of day against the monotonic clock that slewing does not explain.
fn step(before: i64, after: i64, elapsed: u64) -> Option<i64> {
    let change = after.saturating_sub(before);
    (change.unsigned_abs() > GRAIN + elapsed / 1_000_000 * SLEW).then_some(change)
}

fn monotonic() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// Processor time of the calling thread, in nanoseconds.
#[must_use]
pub fn thread_cpu() -> u64 {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// Time that the calling thread was ready to run and waited for a processor, in nanoseconds; 0 where the kernel does not tell.
#[must_use]
pub fn thread_waited() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Processor time of the process, in nanoseconds.
#[must_use]
pub fn process_cpu() -> u64 {
    read(ClockId::CLOCK_PROCESS_CPUTIME_ID)
}

fn time_of_day_offset() -> i64 {
    let (before, real, after) = (monotonic(), read(ClockId::CLOCK_REALTIME), monotonic());
    let middle = before + (after - before) / 2;
    i64::try_from(real).unwrap_or(i64::MAX) - i64::try_from(middle).unwrap_or(i64::MAX)
}

fn read(clock: ClockId) -> u64 {
    // These clocks always are there; and a time before 1970 counts as 1970.
    let now = clock_gettime(clock).map_or((0, 0), |t| (t.tv_sec(), t.tv_nsec()));
    u64::try_from(now.0).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.1).unwrap_or(0)
}

/// Asks the kernel to wake this thread on time: by default it may be 50 us late to save wake-ups (prctl(2), PR_SET_TIMERSLACK).
pub fn wake_precisely() {
    // Without it the send lag is larger, and is told.
    let _ = set_timerslack(1);
}

/// What tells this boot of this machine from any other; none where the kernel does not tell.
#[must_use]
pub fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_from_slewing() {
        const HOUR: u64 = 3_600_000_000_000;
        assert_eq!(step(5, 900_000, 0), None);
        assert_eq!(step(0, 2_000_000, 0), Some(2_000_000));
        assert_eq!(step(0, -3_600_000_000_000, HOUR), Some(-3_600_000_000_000));
        // An hour at 500 ppm is 1.8 s.
        assert_eq!(step(0, 1_700_000_000, HOUR), None);
        assert_eq!(step(0, -1_900_000_000, HOUR), Some(-1_900_000_000));
    }

    #[test]
    fn both_clocks_run_alike_and_sleep_to_the_point() {
        for shared in [true, false] {
            let clock = Clock::new(shared);
            let goal = clock.now() + 3_000_000;
            clock.sleep_until(goal);
            assert!(clock.now() >= goal);
            assert_eq!(clock.step(), None);
        }
        assert!(Clock::new(false).now() > 1_000_000_000 * 1_000_000_000, "not the time of day");
    }
}
