//! Puts what the connections of a run found together.

use std::collections::BTreeMap;

use super::super::hiccup::Hiccups;
use super::super::order::Closing;
use super::super::spread::Spread;
use super::super::tally::{Piece, Stalls, per_second, percent};
use super::{Ended, Event, Progress};
use crate::result::{self, Cpu, Distribution, End, Interval, Run, Start, Sums, histogram};

/// Share of a processor from which on a thread counts as saturated.
const SATURATED: f64 = 0.9;
/// Share of the time that a thread may wait for a processor.
const WAITED: f64 = 0.01;
/// Percent of the messages that may be sent late by the source's own fault.
const OWN_LATE: f64 = 1.0;

/// What came until now.
pub(super) struct Collector {
    start: Start,
    begun: bool,
    /// Pieces of intervals that not all connections have ended yet.
    open: BTreeMap<usize, Vec<Piece>>,
    /// The interval that each connection is in; none: it has ended.
    at: Vec<Option<usize>>,
    intervals: Vec<Interval>,
    ended: BTreeMap<u32, Ended>,
}

impl Collector {
    pub(super) fn new(start: Start) -> Collector {
        let at = vec![Some(0); start.connections as usize];
        Collector {
            start,
            begun: false,
            open: BTreeMap::new(),
            at,
            intervals: Vec::new(),
            ended: BTreeMap::new(),
        }
    }

    pub(super) fn take(&mut self, event: Event, progress: &mut impl FnMut(Progress<'_>)) {
        match event {
            Event::Begun { same_clock } => {
                if !std::mem::replace(&mut self.begun, true) {
                    self.start.same_clock = same_clock;
                    progress(Progress::Start(&self.start));
                }
            }
            Event::Closed(number, pieces) => self.pieces(number, pieces),
            Event::Ended(number, mut ended) => {
                if let Some(found) = &mut ended.found {
                    let pieces = std::mem::take(&mut found.pieces);
                    self.pieces(number, pieces);
                }
                self.at[number as usize] = None;
                self.ended.insert(number, *ended);
            }
        }
        // An interval is over when no connection is in it any more.
        while let Some(entry) = self.open.first_entry() {
            if self.at.iter().flatten().any(|at| *at <= *entry.key()) {
                break;
            }
            self.intervals.push(interval(entry.remove()));
            if let Some(interval) = self.intervals.last() {
                progress(Progress::Interval(interval));
            }
        }
    }

    fn pieces(&mut self, number: u32, pieces: Vec<Piece>) {
        for piece in pieces {
            self.at[number as usize] = Some(piece.index + 1);
            self.open.entry(piece.index).or_default().push(piece);
        }
    }

    /// The run. `cpu`: the sink's processor seconds; `hiccups`: what the watch saw, when there was one.
    pub(super) fn finish(self, cpu: f64, hiccups: Option<&Hiccups>) -> Run {
        let Collector { start, intervals, ended, .. } = self;
        let mut end = End::default();
        let (mut jitter, mut lag) = (histogram(), histogram());
        let (mut delays, mut stalls) = (Vec::new(), Stalls::default());
        for ended in ended.values() {
            if let Some(found) = &ended.found {
                end.streams.push(found.sums.clone());
                stalls.merge(&found.stalls);
                delays.push(&found.delays);
                // Same bounds: it fits.
                let _ = jitter.add(&found.jitter);
            }
            if let Some(other) = ended.closing.as_ref().and_then(|c| c.lag.histogram()) {
                let _ = lag.add(&other);
            }
        }
        (end.delay, end.variation) = distributions(&delays, start.same_clock);
        end.quiet = hiccups.map(|hiccups| quiet(hiccups, &ended, &delays, start.same_clock));
        end.jitter = Distribution::of(&jitter, 0);
        end.send_lag = Distribution::of(&lag, 0);
        (end.stalls, end.stall_count, end.stall_seconds) = (stalls.longest, stalls.count, stalls.seconds);
        end.sum_received = sum(&end.streams);
        if end.delay.count > 0 {
            (end.sum_received.delay_p50, end.sum_received.delay_p99) =
                (Some(end.delay.p50), Some(end.delay.p99));
        }
        let closings: Vec<_> = ended.values().filter_map(|e| e.closing.as_ref()).collect();
        end.sum_sent = sent(&closings);
        end.unsent = closings.iter().map(|c| c.unsent).sum();
        end.cpu =
            Cpu { source: closings.iter().map(|c| c.cpu).reduce(f64::max), sink: Some(cpu), relay: None };
        judge(&mut end, &start, &ended);
        end.error = ended.values().find_map(|e| e.error.clone());
        if end.error.is_none() && closings.len() < start.connections as usize {
            end.error = Some("stopped before the stream's end".to_owned());
        }
        end.partial = end.error.is_some();
        Run { start, intervals, end }
    }
}

/// One-way delay, and its variation: each connection's less its least.
fn distributions(delays: &[&Spread], same_clock: bool) -> (Distribution, Distribution) {
    part(&delays.iter().map(|d| (*d, d.least())).collect::<Vec<_>>(), same_clock)
}

/// The same of some of the delays of each connection; beside them the least of all of it.
fn part(delays: &[(&Spread, Option<i64>)], same_clock: bool) -> (Distribution, Distribution) {
    let least = delays.iter().filter_map(|d| d.1).min().unwrap_or(0);
    let offset = if same_clock { 0 } else { least };
    let (mut delay, mut variation) = (histogram(), histogram());
    for (spread, least) in delays {
        spread.add_to(&mut delay, offset);
        spread.add_to(&mut variation, least.unwrap_or(0));
    }
    (Distribution::of(&delay, offset), Distribution::of(&variation, 0))
}

/// What the machine did, and what came without it.
fn quiet(
    hiccups: &Hiccups,
    ended: &BTreeMap<u32, Ended>,
    all: &[&Spread],
    same_clock: bool,
) -> result::Quiet {
    let found: Vec<_> = ended.values().filter_map(|e| e.found.as_ref()?.quiet.as_ref()).collect();
    let counted = ended.values().filter(|e| e.found.is_some()).map(|e| e.counted_from).min();
    let sum = hiccups.since(counted.unwrap_or(u64::MAX));
    let delays: Vec<_> = found.iter().zip(all).map(|(quiet, all)| (&quiet.delays, all.least())).collect();
    let (delay, variation) = part(&delays, same_clock);
    result::Quiet {
        hiccups: sum.count,
        seconds: sum.total as f64 * 1e-9,
        longest: sum.longest as f64 * 1e-9,
        met: found.iter().map(|quiet| quiet.met).sum(),
        delay,
        variation,
    }
}

fn interval(mut pieces: Vec<Piece>) -> Interval {
    pieces.sort_by_key(|p| p.sums.socket);
    let streams: Vec<_> = pieces.iter().map(|p| p.sums.clone()).collect();
    let mut all = sum(&streams);
    let base = pieces.iter().filter_map(|p| p.delays.least()).min().unwrap_or(0).min(0);
    let mut h = histogram();
    for piece in &pieces {
        piece.delays.add_to(&mut h, base);
    }
    if !h.is_empty() {
        let at = |q: f64| i64::try_from(h.value_at_quantile(q)).unwrap_or(i64::MAX).saturating_add(base);
        (all.delay_p50, all.delay_p99) = (Some(at(0.5)), Some(at(0.99)));
    }
    Interval { streams, sum: all }
}

/// Of all connections. The jitter is their mean.
fn sum(streams: &[Sums]) -> Sums {
    let mut all = Sums {
        start: streams.iter().map(|s| s.start).reduce(f64::min).unwrap_or(0.0),
        end: streams.iter().map(|s| s.end).fold(0.0, f64::max),
        jitter_ms: streams.iter().map(|s| s.jitter_ms).sum::<f64>() / streams.len().max(1) as f64,
        omitted: streams.iter().any(|s| s.omitted),
        ..Sums::default()
    };
    all.seconds = all.end - all.start;
    for s in streams {
        all.bytes += s.bytes;
        all.packets += s.packets;
        all.lost_packets += s.lost_packets;
        all.out_of_order += s.out_of_order;
        all.duplicates += s.duplicates;
        all.corrupt += s.corrupt;
        all.late += s.late;
    }
    all.bits_per_second = per_second(all.bytes, all.seconds);
    all.lost_percent = percent(all.lost_packets, all.packets + all.corrupt + all.lost_packets);
    all
}

fn sent(closings: &[&Closing]) -> Sums {
    let seconds = closings.iter().map(|c| c.seconds).fold(0.0, f64::max);
    let bytes = closings.iter().map(|c| c.bytes).sum();
    Sums {
        end: seconds,
        seconds,
        bytes,
        bits_per_second: per_second(bytes, seconds),
        packets: closings.iter().map(|c| c.messages).sum(),
        ..Sums::default()
    }
}

/// What the reader has to know, and whether an end was the limit.
fn judge(end: &mut End, start: &Start, ended: &BTreeMap<u32, Ended>) {
    let closings = || ended.values().filter_map(|e| e.closing.as_ref());
    let most = |shares: &mut dyn Iterator<Item = f64>| shares.fold(0.0, f64::max);
    for (who, busy, waited) in [
        ("source", most(&mut closings().map(|c| c.busy)), most(&mut closings().map(|c| c.waited))),
        ("sink", most(&mut ended.values().map(|e| e.busy)), most(&mut ended.values().map(|e| e.waited))),
    ] {
        if busy > SATURATED {
            end.limited_by.push(format!("{who}: a thread took {:.0} % of a processor", busy * 100.0));
        }
        if waited > WAITED {
            end.limited_by.push(format!(
                "{who}: a thread waited for a processor {:.1} % of the time: too few, or others are busy on them",
                waited * 100.0
            ));
        }
    }
    let late = percent(closings().map(|c| c.own_late).sum(), end.sum_sent.packets);
    if late > OWN_LATE {
        end.limited_by.push(format!(
            "source: {late:.1} % of the messages were sent more than 1 ms late although the path was free; its processor is shared or too slow"
        ));
    }
    let overflowed: u64 = ended.values().map(|e| e.overflowed).sum();
    if overflowed > 0 {
        end.limited_by.push(format!(
            "sink: {overflowed} datagrams found its receive buffer full; give --socket-buffer, or fewer"
        ));
    }
    if let (Some(granted), Some(asked)) = (ended.values().find_map(|e| e.granted), start.socket_buffer) {
        end.warnings.push(format!(
            "the kernel gave {granted} of the {asked} bytes of --socket-buffer; raise net.core.rmem_max and wmem_max"
        ));
    }
    if end.unsent > 0 {
        end.warnings.push(format!(
            "{} messages were due but not sent: the path takes less than the profile asks for",
            end.unsent
        ));
    }
    if end.sum_received.packets > 0 && !start.same_clock {
        end.warnings.push(
            "source and sink read different clocks: one-way delays have their offset in them, variation and jitter have not"
                .to_owned(),
        );
    }
    let steps = [
        ("source", closings().find_map(|c| c.clock_step)),
        ("sink", ended.values().find_map(|e| e.clock_step)),
    ];
    for (who, step) in steps {
        if let Some(step) = step {
            end.warnings.push(format!(
                "the {who}'s time of day stepped by {:.3} s during the run; figures do not depend on it",
                step as f64 * 1e-9
            ));
        }
    }
}
