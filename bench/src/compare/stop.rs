//! Ctrl-C and its like, noticed between two looks instead of ending the program with things half done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Whether the user wants an end.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// One that is asked by SIGINT, SIGTERM or SIGHUP. A second signal ends the program at once; the kernel then ends
    /// what it had started.
    ///
    /// # Errors
    /// The signals cannot be caught.
    pub fn by_signals() -> Result<Stop> {
        let stop = Stop::default();
        let asked = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the async runtime")?;
        let mut signals = {
            let _inside = runtime.enter();
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
                .map(signal)
                .into_iter()
                .collect::<std::io::Result<Vec<_>>>()
                .context("cannot catch signals")?
        };
        let watch = move || {
            runtime.block_on(async {
                let [int, term, hup] = &mut signals[..] else { return };
                loop {
                    tokio::select! { _ = int.recv() => (), _ = term.recv() => (), _ = hup.recv() => () }
                    if asked.0.swap(true, Ordering::Relaxed) {
                        std::process::exit(130);
                    }
                }
            });
        };
        std::thread::Builder::new().name("signals".into()).spawn(watch).context("cannot start a thread")?;
        Ok(stop)
    }

    /// Whether it was asked for.
    #[must_use]
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
