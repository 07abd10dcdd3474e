//! Hiccups: times in which the machine let nobody run, whatever the programs on it do.
//!
//! A virtual machine's host takes its cores away or is late to wake them, firmware takes all of a machine. What is in flight then
//! is late for no fault of its path, and where it happens for a thousandth of the time, it is the whole 99.9th percentile. So a
//! thread on each core sleeps for a short while, over and over, and sees how late it wakes, as cyclictest and jHiccup do; messages
//! that met no hiccup are counted apart as well ([`Quiet`]). A wake-up also waits for what the kernel cannot be interrupted in, and
//! for threads of the same or a higher priority: the watch says something about the machine only when it runs with a real-time
//! priority, and where nothing else keeps a core for [`LATE`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use forwarder::topology::Machine;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::clock::{Clock, wake_precisely};
use super::spread::Spread;

/// How long a watching thread sleeps, in nanoseconds.
const PERIOD: u64 = 250_000;
/// How late it has to wake for a hiccup, in nanoseconds.
pub const LATE: u64 = 250_000;
/// How long the end of a run waits for the watch to have looked at all of it.
const SETTLE: Duration = Duration::from_millis(200);

/// A time in which a core ran nobody, in nanoseconds of CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hiccup {
    from: u64,
    to: u64,
}

/// What a watch has seen so far.
#[derive(Debug)]
pub struct Hiccups {
    /// Until when each core has been looked at.
    looked: Vec<AtomicU64>,
    /// In the order of their ends.
    found: Mutex<Vec<Hiccup>>,
}

/// Hiccups over a time, all cores together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub count: u64,
    /// How long in all, in nanoseconds.
    pub total: u64,
    /// The longest, in nanoseconds.
    pub longest: u64,
}

impl Hiccups {
    /// Of so many cores, nothing seen before `now`.
    #[must_use]
    pub fn new(cores: usize, now: u64) -> Hiccups {
        Hiccups { looked: (0..cores).map(|_| AtomicU64::new(now)).collect(), found: Mutex::new(Vec::new()) }
    }

    fn found(&self) -> MutexGuard<'_, Vec<Hiccup>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread of a core should have woken at `due` and did at `now`.
    pub fn woke(&self, core: usize, due: u64, now: u64) {
        if now.saturating_sub(due) > LATE {
            let mut found = self.found();
            let at = found.iter().rposition(|h| h.to <= now).map_or(0, |i| i + 1);
            found.insert(at, Hiccup { from: due, to: now });
        }
        if let Some(looked) = self.looked.get(core) {
            looked.store(now, Ordering::Release);
        }
    }

    /// Until when all that happened is known.
    #[must_use]
    pub fn known(&self) -> u64 {
        self.looked.iter().map(|at| at.load(Ordering::Acquire)).min().unwrap_or(u64::MAX)
    }

    /// Waits until everything before `now` is known; not for ever.
    pub fn settle(&self, now: u64) {
        let end = Instant::now() + SETTLE;
        while self.known() < now && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether there was one on any core between two times.
    #[must_use]
    pub fn between(&self, from: u64, to: u64) -> bool {
        self.found().iter().rev().take_while(|h| h.to > from).any(|h| h.from < to)
    }

    /// Those that ended after a time.
    #[must_use]
    pub fn since(&self, from: u64) -> Sum {
        let mut sum = Sum::default();
        for hiccup in self.found().iter().filter(|h| h.to > from) {
            let length = hiccup.to - hiccup.from;
            sum.count += 1;
            sum.total += length;
            sum.longest = sum.longest.max(length);
        }
        sum
    }
}

/// Threads that watch all cores this process may use.
#[derive(Debug)]
pub struct Watch {
    hiccups: Arc<Hiccups>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Begins. The threads have the priority of the one that calls.
    ///
    /// # Errors
    /// The machine's cores are not known, or a thread cannot be started.
    pub fn start() -> Result<Watch> {
        let cores: Vec<usize> = Machine::here().context("watch for hiccups")?.available().iter().collect();
        let clock = Clock::new(true);
        let hiccups = Arc::new(Hiccups::new(cores.len(), clock.now()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut watch = Watch { hiccups: Arc::clone(&hiccups), stop: Arc::clone(&stop), threads: Vec::new() };
        for (number, core) in cores.into_iter().enumerate() {
            let (hiccups, stop) = (Arc::clone(&hiccups), Arc::clone(&stop));
            let run = move || {
                let mut here = CpuSet::new();
                // Where it cannot be pinned, some core is watched twice.
                let _ = here.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &here));
                wake_precisely();
                while !stop.load(Ordering::Relaxed) {
                    let due = clock.now() + PERIOD;
                    clock.sleep_until(due);
                    hiccups.woke(number, due, clock.now());
                }
            };
            let thread = std::thread::Builder::new().name(format!("hiccups-{core}")).spawn(run);
            watch.threads.push(thread.context("watch for hiccups")?);
        }
        Ok(watch)
    }

    /// What it sees.
    #[must_use]
    pub fn hiccups(&self) -> &Arc<Hiccups> {
        &self.hiccups
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}

/// Delays of the messages that met no hiccup. Whether one did is known a little later than it comes.
#[derive(Debug)]
pub struct Quiet {
    hiccups: Arc<Hiccups>,
    /// When messages that are not judged yet came, and for how long they may have been held up.
    waiting: VecDeque<Waiting>,
    /// Of those that met none.
    pub delays: Spread,
    /// Messages that met one.
    pub met: u64,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    from: u64,
    to: u64,
    delay: i64,
}

impl Quiet {
    /// Judged by what a watch sees.
    #[must_use]
    pub fn new(hiccups: Arc<Hiccups>) -> Quiet {
        Quiet { hiccups, waiting: VecDeque::new(), delays: Spread::default(), met: 0 }
    }

    /// A message came at `now` of CLOCK_MONOTONIC, after `delay`; it was on its way here for the last `flight` nanoseconds.
    pub fn arrived(&mut self, now: u64, flight: u64, delay: i64) {
        self.waiting.push_back(Waiting { from: now.saturating_sub(flight), to: now, delay });
        let known = self.hiccups.known();
        while let Some(first) = self.waiting.front().copied().filter(|first| first.to < known) {
            self.waiting.pop_front();
            self.judge(first);
        }
    }

    fn judge(&mut self, message: Waiting) {
        if self.hiccups.between(message.from, message.to) {
            self.met += 1;
        } else {
            self.delays.record(message.delay);
        }
    }

    /// Forgets everything until now.
    pub fn begin(&mut self) {
        (self.delays, self.met) = (Spread::default(), 0);
        self.waiting.clear();
    }

    /// Nothing more comes.
    pub fn finish(&mut self) {
        while let Some(first) = self.waiting.pop_front() {
            self.judge(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn messages_that_met_a_hiccup_are_told_from_others() {
        let hiccups = Arc::new(Hiccups::new(2, 0));
        let mut quiet = Quiet::new(Arc::clone(&hiccups));
        // Core 1 wakes 3 ms late at 13 ms, core 0 on time; core 1's thread knows of it only then.
        hiccups.woke(0, 9 * MS, 9 * MS + LATE);
        hiccups.woke(1, 9 * MS, 9 * MS);
        for (came, flight) in [(8, 1), (10, 1), (11, 2), (12, 1), (14, 2), (15, 1)] {
            quiet.arrived(came * MS, flight * MS, (flight * MS) as i64);
        }
        assert_eq!(
            (quiet.delays.least(), quiet.waiting.len()),
            (Some(MS as i64), 5),
            "the first is known to be quiet"
        );
        hiccups.woke(1, 10 * MS, 13 * MS);
        hiccups.woke(0, 14 * MS, 14 * MS);
        quiet.arrived(15 * MS, MS, MS as i64);
        // From 10 to 13 ms: 9 to 10 is before it, 12 to 14 is not; 14 to 15 neither, but that far nobody has looked.
        assert_eq!((quiet.met, quiet.waiting.len()), (2, 3));
        hiccups.woke(1, 16 * MS, 16 * MS);
        hiccups.woke(0, 16 * MS, 16 * MS);
        quiet.finish();
        let mut h = crate::result::histogram();
        quiet.delays.add_to(&mut h, 0);
        assert_eq!((quiet.met, h.len()), (3, 4));
        assert_eq!(hiccups.since(0), Sum { count: 1, total: 3 * MS, longest: 3 * MS });
        assert_eq!(hiccups.since(13 * MS), Sum::default());
        quiet.begin();
        assert_eq!((quiet.met, quiet.delays.least()), (0, None));
    }

    #[test]
    fn hiccups_of_two_cores_are_kept_in_order() {
        let hiccups = Hiccups::new(2, 0);
        hiccups.woke(0, 5 * MS, 9 * MS);
        hiccups.woke(1, 2 * MS, 8 * MS);
        assert!(hiccups.between(2 * MS, 3 * MS) && hiccups.between(8 * MS, 9 * MS));
        assert!(!hiccups.between(0, 2 * MS) && !hiccups.between(9 * MS, 10 * MS));
        assert_eq!(hiccups.known(), 8 * MS);
    }

    #[test]
    fn a_watch_looks_at_all_cores_and_ends() {
        let watch = Watch::start().unwrap();
        let now = Clock::new(true).now();
        let seen = Arc::clone(watch.hiccups());
        // Load of other programs may hold it up, but not for ever.
        while seen.known() < now + 10 * PERIOD {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(watch);
        let (last, again) = (seen.known(), seen.known());
        assert_eq!(last, again);
    }
}
