//! What one connection of a sink finds out, message by message. Time is passed in: nanoseconds of the sink's clock.

use hdrhistogram::Histogram;

use super::clock::Clock;
use super::hiccup::Quiet;
use super::message::Header;
use super::schedule::Share;
use super::sequence::{Place, Sequence};
use super::spread::Spread;
use crate::result::{MOST, Stall, Sums, histogram};

/// Length of an interval, in nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// Stalls that are kept, the longest.
pub(super) const STALLS: usize = 100;

/// What a connection is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// When its messages are due.
    pub share: Share,
    /// Length of the schedule, in nanoseconds.
    pub duration: u64,
    /// Whole intervals at its beginning that the sums leave out: TCP's slow start, caches that are cold.
    pub omit: usize,
    /// What comes later after it was due is late, in nanoseconds.
    pub deadline: Option<u64>,
    /// Silence for longer than this with a message due is a stall, in nanoseconds.
    pub stall: u64,
    /// Source and sink read the same clock. Otherwise lateness counts from the least delay so far.
    pub same_clock: bool,
}

/// What is counted over a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes of messages that came, each counted once.
    pub bytes: u64,
    /// Messages that came, each counted once.
    pub messages: u64,
    /// After a later one.
    pub out_of_order: u64,
    /// Once more.
    pub duplicates: u64,
    /// With a wrong checksum; they do not count as come, nor as lost.
    pub corrupt: u64,
    /// After the deadline.
    pub late: u64,
}

/// One interval of one connection.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Number of the interval, from 0 on.
    pub index: usize,
    /// What it brought.
    pub sums: Sums,
    /// Its delays.
    pub delays: Spread,
}

/// Stalls of one connection or of all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stalls {
    /// The longest.
    pub longest: Vec<Stall>,
    /// All.
    pub count: u64,
    /// In all.
    pub seconds: f64,
}

/// The state of one connection.
#[derive(Debug)]
pub struct Tally {
    rules: Rules,
    /// Messages that are due in all; none without a schedule.
    count: Option<u64>,
    /// The schedule's zero by the sink's clock.
    zero: u64,
    sequence: Sequence,
    /// Delays of the whole run.
    delays: Spread,
    /// Those of messages that met no hiccup, where there is a watch, and the clock that readings are of.
    quiet: Option<(Quiet, Clock)>,
    /// Differences of delays of messages that follow each other.
    jitter: Histogram<u64>,
    /// As of RFC 3550, in nanoseconds.
    smoothed: f64,
    before: Option<(u64, i64)>,
    total: Counts,
    stalls: Stalls,
    /// When a message came last, or silence began to count.
    heard: u64,
    interval: Open,
    closed: Vec<Piece>,
    /// Missing when the sums began.
    missing: u64,
}

/// The interval that is open.
#[derive(Debug, Default)]
struct Open {
    index: usize,
    counts: Counts,
    delays: Spread,
    missing: u64,
}

impl Tally {
    /// `zero`: when the schedule begins, by the sink's clock.
    #[must_use]
    pub fn new(rules: Rules, zero: u64) -> Tally {
        Tally {
            rules,
            count: rules.share.count(rules.duration),
            zero,
            sequence: Sequence::default(),
            delays: Spread::default(),
            quiet: None,
            jitter: histogram(),
            smoothed: 0.0,
            before: None,
            total: Counts::default(),
            stalls: Stalls::default(),
            heard: zero,
            interval: Open::default(),
            closed: Vec::new(),
            missing: 0,
        }
    }

    /// Counts messages that met no hiccup apart, too. `clock` is the one that readings are of.
    #[must_use]
    pub fn watched(mut self, quiet: Quiet, clock: Clock) -> Tally {
        self.quiet = Some((quiet, clock));
        self
    }

    /// A whole message with a right checksum came, its last byte read at `now`.
    pub fn arrived(&mut self, header: &Header, now: u64) {
        self.tick(now);
        self.hear(now);
        let place = self.sequence.take(header.seq);
        if place == Place::Again {
            self.note(|c| c.duplicates += 1);
            return;
        }
        let delay = i64::try_from(i128::from(now) - i128::from(header.due)).unwrap_or(i64::MAX);
        self.delays.record(delay);
        self.interval.delays.record(delay);
        if let Some((seq, before)) = self.before {
            let difference = delay.abs_diff(before);
            // RFC 3550, section 6.4.1: over arrivals in their order, with a gain of 1/16.
            self.smoothed += (difference as f64 - self.smoothed) / 16.0;
            // RFC 5481, section 4.1: of messages that follow each other, not across a loss.
            if header.seq == seq + 1 {
                self.jitter.saturating_record(difference.min(MOST));
            }
        }
        self.before = Some((header.seq, delay));
        let took = if self.rules.same_clock { delay } else { delay - self.delays.least().unwrap_or(delay) };
        if let Some((quiet, clock)) = &mut self.quiet {
            quiet.arrived(clock.monotonic(now), u64::try_from(took).unwrap_or(0), delay);
        }
        let late = self.rules.deadline.is_some_and(|d| i128::from(took) > i128::from(d));
        self.note(|c| {
            c.bytes += u64::from(header.length);
            c.messages += 1;
            c.out_of_order += u64::from(place == Place::Before);
            c.late += u64::from(late);
        });
    }

    /// A message with a wrong checksum came. Its number may be wrong too.
    pub fn corrupt(&mut self, seq: u64, now: u64) {
        self.tick(now);
        self.hear(now);
        self.note(|c| c.corrupt += 1);
        if self.sequence.plausible(seq) {
            self.sequence.take(seq);
        }
    }

    /// Time passes: closes intervals that are over.
    pub fn tick(&mut self, now: u64) {
        // What comes after the schedule's end belongs to its last interval.
        while let Some(end) = self.end_of_interval().filter(|end| *end <= now) {
            self.close(end);
        }
    }

    fn end_of_interval(&self) -> Option<u64> {
        let end = (self.interval.index as u64 + 1) * SECOND;
        (end < self.rules.duration).then_some(self.zero + end)
    }

    fn note(&mut self, change: impl Fn(&mut Counts)) {
        change(&mut self.total);
        change(&mut self.interval.counts);
    }

    fn close(&mut self, end: u64) {
        let start = self.interval.index as u64 * SECOND;
        let end = end.saturating_sub(self.zero).max(start);
        let open = std::mem::take(&mut self.interval);
        let missing = self.sequence.missing();
        let mut sums = self.sums(&open.counts, start, end, missing.saturating_sub(open.missing));
        let mut h = histogram();
        // Without a common clock the least may be negative: then quantiles count from there.
        let base = open.delays.least().unwrap_or(0).min(0);
        open.delays.add_to(&mut h, base);
        if !h.is_empty() {
            let at = |q: f64| i64::try_from(h.value_at_quantile(q)).unwrap_or(i64::MAX).saturating_add(base);
            (sums.delay_p50, sums.delay_p99) = (Some(at(0.5)), Some(at(0.99)));
        }
        sums.omitted = open.index < self.rules.omit;
        self.closed.push(Piece { index: open.index, sums, delays: open.delays });
        self.interval = Open { index: open.index + 1, missing, ..Open::default() };
        if self.interval.index == self.rules.omit {
            self.begin_sums(missing);
        }
    }

    /// What came until now is left out of the sums. Numbers and silence are followed on.
    fn begin_sums(&mut self, missing: u64) {
        (self.total, self.stalls) = (Counts::default(), Stalls::default());
        (self.delays, self.jitter) = (Spread::default(), histogram());
        self.quiet.iter_mut().for_each(|(quiet, _)| quiet.begin());
        self.missing = missing;
    }

    fn sums(&self, counts: &Counts, start: u64, end: u64, lost: u64) -> Sums {
        let [start, end] = [start, end].map(|t| t as f64 * 1e-9);
        let seconds = end - start;
        Sums {
            socket: Some(self.rules.share.connection),
            start,
            end,
            seconds,
            bytes: counts.bytes,
            bits_per_second: per_second(counts.bytes, seconds),
            jitter_ms: self.smoothed * 1e-6,
            packets: counts.messages,
            lost_packets: lost,
            lost_percent: percent(lost, counts.messages + counts.corrupt + lost),
            out_of_order: counts.out_of_order,
            duplicates: counts.duplicates,
            corrupt: counts.corrupt,
            late: counts.late,
            omitted: false,
            delay_p50: None,
            delay_p99: None,
        }
    }

    /// A message came: was the silence before it a stall?
    fn hear(&mut self, now: u64) {
        if let Some((start, length)) = self.silence(now).filter(|(_, length)| *length > self.rules.stall) {
            let stall = Stall {
                socket: self.rules.share.connection,
                start: start.saturating_sub(self.zero) as f64 * 1e-9,
                seconds: length as f64 * 1e-9,
            };
            self.stalls.merge(&Stalls { longest: vec![stall], count: 1, seconds: stall.seconds });
        }
        self.heard = self.heard.max(now);
    }

    /// Since when nothing has come although something was due, and for how long; none when nothing more is due.
    #[must_use]
    pub fn silence(&self, now: u64) -> Option<(u64, u64)> {
        let next = self.sequence.next();
        let due = match self.count {
            None => 0,
            Some(count) if next >= count => return None,
            Some(_) => self.rules.share.due(next)?,
        };
        let since = self.heard.max(self.zero.saturating_add(due));
        Some((since, now.saturating_sub(since)))
    }

    /// For how long nothing has come although a message, or after the last one the closing, was due.
    #[must_use]
    pub fn overdue(&self, now: u64) -> u64 {
        let closing = || now.saturating_sub(self.heard.max(self.zero + self.rules.duration));
        self.silence(now).map_or_else(closing, |(_, length)| length)
    }

    /// When the sums begin, by the sink's clock.
    #[must_use]
    pub fn counted_from(&self) -> u64 {
        self.zero + self.rules.omit as u64 * SECOND
    }

    /// Messages that came, also those that the sums leave out.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.sequence.next() - self.sequence.missing()
    }

    /// Intervals that have been closed since this was asked last.
    pub fn take_closed(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.closed)
    }

    /// The stream is over: `sent` messages had been sent, if the source told. The last interval then is in `pieces`.
    #[must_use]
    pub fn finish(mut self, sent: Option<u64>, now: u64) -> Found {
        self.tick(now);
        // Told by the source, it has sent everything, and what has not come is lost; silence is no stall then.
        if sent.is_none() {
            self.hear(now);
        }
        let planned = self.zero + self.rules.duration;
        let end = if sent.is_some() { self.heard.max(planned) } else { now.max(self.zero) };
        self.close(end);
        if self.interval.index < self.rules.omit {
            // Stopped before the sums began.
            self.begin_sums(self.sequence.missing());
        }
        let beyond = sent.map_or(0, |sent| sent.saturating_sub(self.sequence.next()));
        let lost = (self.sequence.missing() + beyond).saturating_sub(self.missing);
        let start = (self.rules.omit as u64 * SECOND).min(end - self.zero);
        let sums = self.sums(&self.total, start, end - self.zero, lost);
        let quiet = self.quiet.map(|(mut quiet, _)| {
            quiet.finish();
            quiet
        });
        Found {
            sums,
            delays: self.delays,
            quiet,
            jitter: self.jitter,
            stalls: self.stalls,
            pieces: self.closed,
        }
    }
}

/// Everything about one connection.
#[derive(Debug)]
pub struct Found {
    /// Over the whole run, less what it was to omit.
    pub sums: Sums,
    /// One-way delays.
    pub delays: Spread,
    /// Those of messages that met no hiccup, where there was a watch.
    pub quiet: Option<Quiet>,
    /// Their differences from one message to the next.
    pub jitter: Histogram<u64>,
    /// Stalls.
    pub stalls: Stalls,
    /// Intervals not taken yet.
    pub pieces: Vec<Piece>,
}

impl Stalls {
    /// Adds those of another connection.
    pub fn merge(&mut self, other: &Stalls) {
        self.count += other.count;
        self.seconds += other.seconds;
        self.longest.extend_from_slice(&other.longest);
        self.longest.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        self.longest.truncate(STALLS);
    }
}

pub(super) fn per_second(bytes: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { bytes as f64 * 8.0 / seconds } else { 0.0 }
}

pub(super) fn percent(part: u64, of: u64) -> f64 {
    100.0 * part as f64 / of.max(1) as f64
}

#[cfg(test)]
mod tests;
