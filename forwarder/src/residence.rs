//! How long packets stay in the forwarder: from the moment RX returned them until the device took the last of their burst.
//!
//! One busy burst in [`EVERY`] is timed, and the first one of every millisecond, so that slow streams show too. The rest pay
//! for counting down. What the device does not take at once stays timed until it does, so a sample tells the whole stay; no
//! other burst is timed meanwhile. A burst of which nothing is sent on, because all was dropped, handed over or has to wait for
//! a next hop, gives no sample. Waiting for next hops has a histogram of its own, in which every packet counts
//! ([`WorkerCounters::waits`]); packets handed over are counted, and their time between workers is not measured.
//!
//! Histograms are log-linear: four buckets to each power of two. What they tell is a bucket's upper edge, at most a quarter
//! too much and never too little.
#![forbid(unsafe_code)]

use crate::api::Residence;
use crate::counters::WorkerCounters;
use crate::engine::Output;
use crate::io::{MAX_PORTS, PacketBuf, PortIndex};
use crate::sync::Counter;

/// Of so many busy bursts one is timed. A prime, so as not to keep step with senders that count in powers of two.
pub const EVERY: u32 = 251;

/// Four for values below 4, then four to each power of two up to 2^33: 3 s of a 2.6 GHz TSC. The last one takes all above.
const BUCKETS: usize = 128;

/// How often a duration fell into each bucket. Written by one worker, read by anyone; 1 KiB.
#[derive(Debug)]
#[repr(align(64))]
pub struct Histogram([Counter; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Histogram {
    /// Counts one duration, in the histogram's unit. For the owning worker.
    #[inline]
    pub fn record(&self, duration: u64) {
        self.0[bucket(duration)].add(1);
    }
}

fn bucket(duration: u64) -> usize {
    if duration < 4 {
        return duration as usize;
    }
    let power = duration.ilog2();
    let quarter = (duration >> (power - 2)) & 3;
    ((power as usize - 1) * 4 + quarter as usize).min(BUCKETS - 1)
}

/// The largest duration that falls into a bucket.
fn upper_edge(bucket: usize) -> u64 {
    let lower = |b: usize| if b < 4 { b as u64 } else { (4 + b as u64 % 4) << (b / 4 - 1) };
    lower(bucket + 1) - 1
}

/// Histograms as read: summed over workers, or less what stood there before.
#[derive(Debug, Clone)]
pub struct Counts([u64; BUCKETS]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Counts {
    /// Adds what a histogram holds now.
    pub fn add(&mut self, histogram: &Histogram) {
        for (sum, counter) in self.0.iter_mut().zip(&histogram.0) {
            *sum += counter.get();
        }
    }

    /// Takes away what was read earlier.
    pub fn subtract(&mut self, earlier: &Counts) {
        for (count, before) in self.0.iter_mut().zip(&earlier.0) {
            *count = count.saturating_sub(*before);
        }
    }

    /// In nanoseconds, when the histogram's unit goes `units_per_ms` times into a millisecond.
    pub fn summary(&self, units_per_ms: u64) -> Residence {
        let ns = |bucket: usize| {
            let ns = u128::from(upper_edge(bucket)) * 1_000_000 / u128::from(units_per_ms.max(1));
            u64::try_from(ns).unwrap_or(u64::MAX)
        };
        let samples: u64 = self.0.iter().sum();
        let at = |per_mille: u64| {
            let rank = (u128::from(samples) * u128::from(per_mille)).div_ceil(1000) as u64;
            let mut below = 0;
            let reached = self.0.iter().position(|n| {
                below += n;
                below >= rank && below > 0
            });
            reached.map_or(0, ns)
        };
        let used = self.0.iter().enumerate().filter(|(_, n)| **n > 0);
        Residence {
            samples,
            p50_ns: at(500),
            p90_ns: at(900),
            p99_ns: at(990),
            p999_ns: at(999),
            max_ns: at(1000),
            buckets: used.map(|(bucket, n)| (ns(bucket), *n)).collect(),
        }
    }
}

/// Chooses the bursts to time, and times one at a time. Belongs to a worker.
#[derive(Debug)]
pub(crate) struct Sampler {
    /// Bursts until the next one to be timed.
    countdown: u32,
    timed: Timed,
    /// The timed burst has left the engine, and the device has not taken all of it.
    leaving: bool,
}

#[derive(Debug)]
struct Timed {
    began: u64,
    flow: Option<u32>,
    /// Frames put in each port's batch since start: before the burst, and at its end where it added some.
    before: [u64; MAX_PORTS],
    until: [u64; MAX_PORTS],
    originated: u64,
}

impl Sampler {
    /// Times the first burst.
    pub(crate) fn new() -> Self {
        let none = [0; MAX_PORTS];
        let timed = Timed { began: 0, flow: None, before: none, until: none, originated: 0 };
        Self { countdown: 1, timed, leaving: false }
    }

    /// Counts a busy burst. Is it to be timed?
    #[inline(always)]
    pub(crate) fn due(&mut self) -> bool {
        self.countdown -= 1;
        if self.countdown > 0 {
            return false;
        }
        self.countdown = EVERY;
        !self.leaving
    }

    /// Makes the next burst due.
    pub(crate) fn hurry(&mut self) {
        self.countdown = 1;
    }

    /// Is a burst timed that the device has not taken whole?
    #[inline(always)]
    pub(crate) fn leaving(&self) -> bool {
        self.leaving
    }

    /// A burst was received at `ticks`.
    #[cold]
    pub(crate) fn begin<B: PacketBuf>(&mut self, ticks: u64, counters: &WorkerCounters, out: &Output<B>) {
        self.timed.began = ticks;
        self.timed.originated = counters.originated.get();
        for (port, before) in (0..counters.queues.len()).zip(&mut self.timed.before) {
            *before = put(counters, out, port);
        }
    }

    /// The burst has passed the engine, and the device has been offered what is to be sent, at `ticks`. `flow` is the slot
    /// of a flow that had packets in it.
    #[cold]
    pub(crate) fn end<B: PacketBuf>(
        &mut self,
        ticks: u64,
        flow: Option<u32>,
        counters: &WorkerCounters,
        out: &Output<B>,
    ) {
        let mut added = 0;
        for port in 0..counters.queues.len().min(MAX_PORTS) {
            let (before, now) = (self.timed.before[port], put(counters, out, port));
            added += now - before;
            self.timed.until[port] = if now > before { now } else { 0 };
        }
        self.timed.flow = flow;
        // The gateway's own questions are not the burst's packets.
        self.leaving = added > counters.originated.get() - self.timed.originated;
        if self.leaving {
            self.settle(ticks, counters);
        }
    }

    /// Records the timed burst when the device has taken all of it.
    #[cold]
    pub(crate) fn settle(&mut self, ticks: u64, counters: &WorkerCounters) {
        // Batches keep their order: the device has taken a frame when it has taken as many as were put there up to it.
        let taken =
            |(queue, until): (&crate::counters::QueueCounters, &u64)| queue.tx.packets.get() >= *until;
        if !counters.queues.iter().zip(&self.timed.until).all(taken) {
            return;
        }
        self.leaving = false;
        let duration = ticks.saturating_sub(self.timed.began);
        counters.residence.record(duration);
        if let Some(flow) = self.timed.flow.and_then(|slot| counters.flow_residence.get(slot as usize)) {
            flow.record(duration);
        }
    }
}

/// Frames put in a port's batch since start.
fn put<B: PacketBuf>(counters: &WorkerCounters, out: &Output<B>, port: usize) -> u64 {
    counters.queues[port].tx.packets.get() + out.held_by(port as PortIndex) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_are_a_quarter_wide() {
        let mut last = 0;
        for b in 0..BUCKETS {
            let upper = upper_edge(b);
            let lower = if b == 0 { 0 } else { upper_edge(b - 1) + 1 };
            assert_eq!((bucket(lower), bucket(upper), bucket(upper + 1)), (b, b, (b + 1).min(BUCKETS - 1)));
            assert!(upper - lower <= lower / 4, "{b}: {lower} to {upper}");
            last = upper;
        }
        assert_eq!((last, bucket(u64::MAX)), ((1 << 33) - 1, BUCKETS - 1));
    }

    #[test]
    fn summaries_never_tell_too_little() {
        let histogram = Histogram::default();
        // 1000 durations of 1 to 1000 units.
        (1..=1000).for_each(|n| histogram.record(n));
        let mut counts = Counts::default();
        counts.add(&histogram);
        let s = counts.summary(1_000_000);
        assert_eq!(s.samples, 1000);
        for (told, truth) in
            [(s.p50_ns, 500), (s.p90_ns, 900), (s.p99_ns, 990), (s.p999_ns, 999), (s.max_ns, 1000)]
        {
            assert!((truth..=truth * 5 / 4).contains(&told), "{told} for {truth}");
        }
        assert_eq!(s.buckets.iter().map(|b| b.1).sum::<u64>(), 1000);
        // Half as fast a clock: twice the time.
        assert_eq!(counts.summary(500_000).p50_ns, 2 * s.p50_ns);

        let before = counts.clone();
        histogram.record(7);
        let mut counts = Counts::default();
        counts.add(&histogram);
        counts.subtract(&before);
        let s = counts.summary(1_000_000);
        assert_eq!((s.samples, s.p50_ns, s.max_ns, &s.buckets[..]), (1, 7, 7, &[(7, 1)][..]));
        assert_eq!(Counts::default().summary(1), Residence::default());
    }
}
