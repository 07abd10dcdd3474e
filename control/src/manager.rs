//! What the service manager (systemd) is told when it started us as `Type=notify`: sd_notify(3). Without one nothing is sent.
#![forbid(unsafe_code)]

use std::time::Duration;

use sd_notify::NotifyState;

/// The manager's line about us is brought up to date so often.
const STATUS: Duration = Duration::from_secs(1);

/// Clients can connect.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// We are about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Files are being read again. [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// Shows what `look` finds as the service's status, and feeds the manager's watchdog, if it has one, for as long as
/// `look` comes back: whoever stalls it is taken for dead, and started again.
pub async fn report(look: impl Fn() -> String) {
    let watchdog = sd_notify::watchdog_enabled();
    // sd_watchdog_enabled(3): at half the time it gives us.
    let every = watchdog.map_or(STATUS, |patience| STATUS.min(patience / 2));
    keep_telling(every, watchdog.is_some(), look, tell).await;
}

async fn keep_telling(
    every: Duration,
    watchdog: bool,
    look: impl Fn() -> String,
    tell: impl Fn(&[NotifyState]),
) {
    let mut shown = String::new();
    let mut ticks = tokio::time::interval(every.max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        let found = look();
        if watchdog {
            tell(&[NotifyState::Watchdog]);
        }
        if found != shown {
            tell(&[NotifyState::Status(&found)]);
            shown = found;
        }
    }
}

fn tell(what: &[NotifyState]) {
    // A manager that does not listen is no reason to serve nobody.
    if let Err(error) = sd_notify::notify(what) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex, mpsc};
    use std::time::Instant;

    use super::*;

    #[test]
    fn who_stalls_the_look_is_not_reported_alive() {
        let book = Arc::new(Mutex::new(()));
        let beats = Arc::new(AtomicUsize::new(0));
        let (looks, looking) = mpsc::channel();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        let look = {
            let book = Arc::clone(&book);
            move || {
                _ = looks.send(());
                drop(book.lock().unwrap());
                String::new()
            }
        };
        let count = {
            let beats = Arc::clone(&beats);
            move |what: &[NotifyState]| {
                assert!(matches!(what, [NotifyState::Watchdog]), "the status has not changed");
                beats.fetch_add(1, Ordering::SeqCst);
            }
        };
        runtime.spawn(keep_telling(Duration::from_millis(1), true, look, count));
        for _ in 0..3 {
            looking.recv().unwrap();
        }
        assert!(beats.load(Ordering::SeqCst) >= 2);

        let held = book.lock().unwrap();
        // Looks come each millisecond: silence means that one waits for the lock.
        let end = Instant::now() + Duration::from_secs(60);
        while looking.recv_timeout(Duration::from_millis(500)).is_ok() {
            assert!(Instant::now() < end, "nothing stalls");
        }
        let before = beats.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(beats.load(Ordering::SeqCst), before);
        drop(held);
        looking.recv().unwrap();
        runtime.shutdown_background();
    }
}
