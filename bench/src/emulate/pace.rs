//! Sends a connection's messages by its schedule, over any carrier, from a thread of its own.

use std::io;

use hdrhistogram::Histogram;

use super::clock::{Clock, thread_cpu};
use super::message::{HEADER, Header, Kind, Payloads};
use super::order::Closing;
use super::schedule::Share;
use crate::result::{Distribution, MOST, histogram};

/// After the schedule's end, what was due is sent for so long, in nanoseconds.
const DRAIN: u64 = 2_000_000_000;
/// Later than this is late, in nanoseconds.
const LATE: u64 = 1_000_000;
/// Most messages and bytes handed to the carrier at once. A message larger than that goes alone.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
/// A thread that sleeps longer would not notice that its sink has gone.
const NAP: u64 = 200_000_000;

/// A message about to be sent.
#[derive(Debug)]
pub(super) struct Outgoing<'p> {
    pub(super) seq: u64,
    pub(super) header: [u8; HEADER],
    pub(super) payload: &'p [u8],
}

/// A carrier's sending side.
pub(super) trait Outlet {
    /// Hands all of `batch` to the carrier and tells whether that had to wait because the path was full.
    fn send(&mut self, batch: &[Outgoing<'_>]) -> io::Result<bool>;

    /// Looks whether the sink is still there, while nothing is due.
    fn alive(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What one connection sends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work<'p> {
    pub(super) share: Share,
    pub(super) payloads: &'p Payloads,
    /// Of each message with its header.
    pub(super) message: u32,
    /// The schedule's zero, by `clock`.
    pub(super) start: u64,
    /// Nanoseconds.
    pub(super) duration: u64,
    pub(super) clock: Clock,
}

/// Sends it all.
pub(super) fn run(work: &Work<'_>, outlet: &mut impl Outlet) -> io::Result<Closing> {
    let Work { share, clock, start, .. } = *work;
    let end = start + work.duration;
    let count = share.count(work.duration);
    let due_at = |seq: u64| share.due(seq).map(|due| start.saturating_add(due));
    let (mut lag, mut own_late): (Histogram<u64>, u64) = (histogram(), 0);
    let (mut seq, mut full) = (0, false);
    let mut batch = Vec::with_capacity(BATCH);
    sleep(&clock, start, outlet)?;
    let cpu = thread_cpu();
    let mut now = clock.now();
    loop {
        batch.clear();
        let most = (BATCH_BYTES / work.message as usize).clamp(1, BATCH);
        match count {
            None if now >= end => break,
            None => {
                for n in seq..seq + most as u64 {
                    batch.push(work.message(n, now, now));
                }
            }
            Some(count) => {
                if seq >= count || now >= end + DRAIN {
                    break;
                }
                while let Some(due) = due_at(seq + batch.len() as u64)
                    .filter(|due| *due <= now && batch.len() < most && seq + (batch.len() as u64) < count)
                {
                    let late = now - due;
                    lag.saturating_record(late.min(MOST));
                    own_late += u64::from(late > LATE && !full);
                    batch.push(work.message(seq + batch.len() as u64, due, now));
                }
                if batch.is_empty() {
                    sleep(&clock, due_at(seq).unwrap_or(now), outlet)?;
                    full = false;
                    now = clock.now();
                    continue;
                }
            }
        }
        full |= outlet.send(&batch)?;
        seq += batch.len() as u64;
        now = clock.now();
    }
    let seconds = now.saturating_sub(start) as f64 * 1e-9;
    Ok(Closing {
        messages: seq,
        bytes: seq * u64::from(work.message),
        unsent: count.map_or(0, |count| count - seq),
        seconds,
        lag: Distribution::of(&lag, 0),
        own_late,
        busy: (thread_cpu() - cpu) as f64 * 1e-9 / seconds.max(1e-9),
        cpu: 0.0,
        clock_step: clock.step(),
    })
}

/// Until `reading`, but noticing a sink that goes.
fn sleep(clock: &Clock, reading: u64, outlet: &mut impl Outlet) -> io::Result<()> {
    loop {
        let now = clock.now();
        if now >= reading {
            return Ok(());
        }
        if reading - now > NAP {
            outlet.alive()?;
        }
        clock.sleep_until(reading.min(now + NAP));
    }
}

impl<'p> Work<'p> {
    fn message(&self, seq: u64, due: u64, sent: u64) -> Outgoing<'p> {
        let (payload, sum) = self.payloads.of(seq);
        let header = Header {
            kind: Kind::Data,
            length: self.message,
            seq,
            due,
            sent,
            connection: self.share.connection,
        };
        Outgoing { seq, header: header.encode(sum), payload }
    }
}
