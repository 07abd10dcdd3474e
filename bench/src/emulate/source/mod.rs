//! The source's side: takes orders, waits for a run's connections to be complete, and sends by the schedule.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt};

use super::clock::{Clock, boot_id, process_cpu, wake_precisely};
use super::message::Payloads;
use super::order::{Answer, Begin, Closing, MOST, Order};
use super::pace::{self, Outlet, Work};
use super::schedule::Share;

pub(crate) mod quic;
pub(crate) mod tcp;
pub(crate) mod udp;

/// How long a run's first connection waits for the others.
const GATHER: Duration = Duration::from_secs(15);
/// From the last connection's order to the schedule's zero, in nanoseconds: answers arrive before messages do.
const LEAD: u64 = 100_000_000;

/// The runs that a source serves now.
#[derive(Debug, Default)]
pub struct Runs(Mutex<HashMap<u64, Weak<Run>>>);

/// What the connections of a run share.
#[derive(Debug)]
struct Run {
    payloads: Payloads,
    gathered: Mutex<Gathered>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Gathered {
    here: BTreeSet<u32>,
    begun: Option<Begun>,
}

#[derive(Debug, Clone, Copy)]
struct Begun {
    clock: Clock,
    at: u64,
    cpu: u64,
}

/// One connection of a run that is complete.
#[derive(Debug)]
pub(crate) struct Session {
    run: Arc<Run>,
    begun: Begun,
    share: Share,
    message: u32,
    duration: u64,
}

impl Runs {
    /// Adds a connection to its run and waits until all of the run are there. Blocks.
    ///
    /// # Errors
    /// Why the order is refused.
    pub(crate) fn join(&self, order: &Order) -> Result<Session, String> {
        let share = order.share()?;
        let message = u32::try_from(order.profile.message.0).map_err(|e| e.to_string())?;
        let run = {
            let mut runs = lock(&self.0);
            runs.retain(|_, run| run.strong_count() > 0);
            match runs.get(&order.run).and_then(Weak::upgrade) {
                Some(run) => run,
                None => {
                    let run = Arc::new(Run {
                        payloads: Payloads::new(message),
                        gathered: Mutex::default(),
                        changed: Condvar::new(),
                    });
                    runs.insert(order.run, Arc::downgrade(&run));
                    run
                }
            }
        };
        let begun = run.gather(order)?;
        Ok(Session { run, begun, share, message, duration: order.profile.duration.nanoseconds() })
    }
}

impl Run {
    fn gather(&self, order: &Order) -> Result<Begun, String> {
        let give_up = Instant::now() + GATHER;
        let mut gathered = lock(&self.gathered);
        if !gathered.here.insert(order.connection) {
            return Err(format!("connection {} of this run is there already", order.connection));
        }
        if gathered.here.len() >= order.profile.connections as usize {
            let clock = Clock::new(order.boot_id.is_some() && order.boot_id == boot_id());
            gathered.begun = Some(Begun { clock, at: clock.now() + LEAD, cpu: process_cpu() });
            self.changed.notify_all();
        }
        loop {
            if let Some(begun) = gathered.begun {
                return Ok(begun);
            }
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (came, all) = (gathered.here.len(), order.profile.connections);
                gathered.here.remove(&order.connection);
                return Err(format!("only {came} of {all} connections of the run came within {GATHER:?}"));
            }
            gathered = self.changed.wait_timeout(gathered, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Session {
    /// What the sink is told.
    pub(crate) fn answer(&self) -> Answer {
        let Begun { clock, at, .. } = self.begun;
        Answer::Start(Begin { at, lead: at.saturating_sub(clock.now()), same_clock: clock.shared() })
    }

    /// Sends everything; blocks until then.
    pub(super) fn send(&self, outlet: &mut impl Outlet) -> io::Result<Closing> {
        wake_precisely();
        let work = Work {
            share: self.share,
            payloads: &self.run.payloads,
            message: self.message,
            start: self.begun.at,
            duration: self.duration,
            clock: self.begun.clock,
        };
        let closing = pace::run(&work, outlet)?;
        Ok(Closing { cpu: (process_cpu() - self.begun.cpu) as f64 * 1e-9, ..closing })
    }
}

/// Reads what follows the magic of an order.
pub(crate) async fn read_order(r: &mut (impl AsyncRead + Unpin)) -> io::Result<Order> {
    let length = r.read_u32().await?;
    if length > MOST {
        return Err(io::Error::other("the order is longer than any"));
    }
    let mut text = vec![0; length as usize];
    r.read_exact(&mut text).await?;
    serde_json::from_slice(&text).map_err(|e| io::Error::other(format!("the order cannot be read: {e}")))
}

/// An answer as it goes over TCP and QUIC.
pub(crate) fn frame(answer: &Answer) -> Vec<u8> {
    // Plain numbers and texts: writing them into memory does not fail.
    let text = serde_json::to_vec(answer).unwrap_or_default();
    let length = u32::try_from(text.len()).unwrap_or(0);
    [&super::order::MAGIC.to_be_bytes()[..], &length.to_be_bytes(), &text].concat()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one, and what they guard is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
