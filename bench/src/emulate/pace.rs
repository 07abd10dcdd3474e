//! Sends a connection's messages by its schedule, over any carrier, from a thread of its own.

use std::io;

use hdrhistogram::Histogram;

use super::clock::{Clock, thread_cpu, thread_waited};
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
    let (cpu, waited) = (thread_cpu(), thread_waited());
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
        waited: (thread_waited() - waited) as f64 * 1e-9 / seconds.max(1e-9),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::schedule::Schedule;
    use super::*;

    /// A path that is full once, for a while.
    #[derive(Default)]
    struct Full {
        once: Option<Duration>,
        seen: Vec<(u64, u64, u64)>,
    }

    impl Outlet for Full {
        fn send(&mut self, batch: &[Outgoing<'_>]) -> io::Result<bool> {
            for message in batch {
                let (header, _) = Header::decode(&message.header).unwrap();
                assert_eq!(header.seq, message.seq);
                self.seen.push((header.seq, header.due, header.sent));
            }
            Ok(self.once.take().is_some_and(|wait| {
                std::thread::sleep(wait);
                true
            }))
        }
    }

    fn work(schedule: Schedule, payloads: &Payloads, duration: u64) -> Work<'_> {
        let share = Share { schedule, connection: 0, connections: 1 };
        let clock = Clock::new(true);
        Work { share, payloads, message: 100, start: clock.now() + 1_000_000, duration, clock }
    }

    #[test]
    fn what_a_full_path_holds_up_keeps_its_time() {
        const MS: u64 = 1_000_000;
        let payloads = Payloads::new(100);
        let schedule = Schedule::Steps { burst: 1, num: MS, den: 1, scan: None };
        let work = work(schedule, &payloads, 400 * MS);
        let mut path = Full { once: Some(Duration::from_millis(300)), ..Full::default() };
        let closing = run(&work, &mut path).unwrap();
        assert_eq!((closing.messages, closing.bytes, closing.unsent), (400, 40_000, 0));
        for (n, (seq, due, sent)) in path.seen.iter().enumerate() {
            assert_eq!((*seq, *due), (n as u64, work.start + n as u64 * MS));
            assert!(sent >= due);
        }
        // Every message that was due meanwhile counts as late as it was, not only the first.
        assert_eq!(closing.lag.count, 400);
        assert!(closing.lag.max >= 299_000_000 && closing.lag.p50 >= 90_000_000, "{:?}", closing.lag);
        let late = path.seen.iter().filter(|(_, due, sent)| sent - due > 1_000_000).count();
        assert!(late >= 298, "{late}");
    }

    #[test]
    fn a_path_that_stays_full_leaves_the_rest_unsent() {
        let payloads = Payloads::new(100);
        // All are due at once, and more than the batches that go out until the end and the drain after it.
        let schedule = Schedule::Steps { burst: 1 << 40, num: 1_000_000_000, den: 1, scan: None };
        let work = work(schedule, &payloads, 1_000_000);
        let mut path = Full { once: Some(Duration::from_nanos(DRAIN + 10_000_000)), ..Full::default() };
        let closing = run(&work, &mut path).unwrap();
        assert_eq!((closing.messages, closing.unsent), (BATCH as u64, (1 << 40) - BATCH as u64));
    }

    #[test]
    fn without_a_schedule_it_ends_in_time_and_nothing_is_late() {
        let payloads = Payloads::new(100);
        let work = work(Schedule::Max, &payloads, 5_000_000);
        let mut path = Full::default();
        let closing = run(&work, &mut path).unwrap();
        assert!(closing.messages > 0 && closing.messages.is_multiple_of(BATCH as u64));
        assert_eq!((closing.unsent, closing.lag.count, closing.own_late), (0, 0, 0));
        assert!(path.seen.iter().all(|(_, due, sent)| due == sent && *sent < work.start + work.duration));
    }
}
