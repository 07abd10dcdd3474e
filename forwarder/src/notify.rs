//! What the service manager is told (sd_notify(3)): ready, stopping, a line of status, and that workers turn.
//!
//! Without a manager that asks, every message goes nowhere. The watchdog is fed while every worker's loop goes on, and starves
//! when one stands still: then nothing is relayed on that core, and a restart is the mend.
#![forbid(unsafe_code)]

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Once};
use std::thread::JoinHandle;

use sd_notify::NotifyState;

use crate::gateway::Gateway;

/// Looks in the time that the manager waits for a sign.
const LOOKS: u32 = 4;

/// Everything runs.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// It was told to stop, and does.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// A line for `systemctl status`, such as why there is no start.
pub fn status(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

fn tell(state: &[NotifyState<'_>]) {
    static ONCE: Once = Once::new();
    if let Err(e) = sd_notify::notify(state) {
        ONCE.call_once(|| {
            eprintln!(
                "s2ds: the service manager cannot be told anything ({e}); NOTIFY_SOCKET names its socket"
            );
        });
    }
}

/// Feeds the service manager's watchdog, as long as it lives.
#[derive(Debug)]
pub struct Watchdog {
    /// Closing it ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts it where the service manager asks for one (`WatchdogSec=`).
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(gateway: &Arc<Gateway>) -> std::io::Result<Option<Self>> {
        let Some(patience) = sd_notify::watchdog_enabled() else { return Ok(None) };
        let gateway = Arc::clone(gateway);
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(move || {
            let mut turns = Turns::new(gateway.turns());
            let mut told = false;
            while stopped.recv_timeout(patience / LOOKS) == Err(RecvTimeoutError::Timeout) {
                let still = turns.still(gateway.turns());
                if still.is_empty() {
                    let mut state = vec![NotifyState::Watchdog];
                    state
                        .extend(std::mem::take(&mut told).then_some(NotifyState::Status("all workers turn")));
                    tell(&state);
                } else if !std::mem::replace(&mut told, true) {
                    let line = format!("workers that stand still: {}", still.join(", "));
                    eprintln!("s2ds: {line}; the service manager's watchdog is fed no more");
                    status(&line);
                }
            }
        })?;
        Ok(Some(Self { stop: Some(stop), thread: Some(thread) }))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to give back.
            _ = thread.join();
        }
    }
}

/// Turns of each worker's loop when last looked at.
struct Turns(Vec<u64>);

impl Turns {
    fn new(first: Vec<u64>) -> Self {
        Self(first)
    }

    /// Workers whose count is what it was.
    fn still(&mut self, now: Vec<u64>) -> Vec<String> {
        let before = std::mem::replace(&mut self.0, now);
        let same = (0..).zip(before.iter().zip(&self.0)).filter(|(_, (before, now))| before == now);
        same.map(|(worker, _): (usize, _)| worker.to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_that_stand_still_are_named() {
        let mut turns = Turns::new(vec![5, 7, 0]);
        assert_eq!(turns.still(vec![6, 7, 0]), ["1", "2"]);
        assert_eq!(turns.still(vec![6, 8, 1]), ["0"]);
        assert_eq!(turns.still(vec![7, 9, 2]), [""; 0]);
    }
}
