//! `s2bench live`: a page for the monitor beside a running stream.
//!
//! [`State`] is what is known: the sink's lines, each gateway's counters, the control server's metrics, put in with the time at
//! which they came. [`web`] serves what it looks like now, once a second; [`lines`], [`gateways`] and [`metrics`] are where it
//! comes from. Each source may be missing, late or gone: the page says which, and goes on.

mod gateways;
mod lines;
mod metrics;
mod state;
mod web;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};

pub use state::{Event, Gateway, Sample, State};

/// What the page is to show.
#[derive(Debug, Clone)]
pub struct Options {
    /// Lines of `s2bench sink --json-stream`: a file that grows, a FIFO, or `-` for stdin; none shows gateways alone.
    pub stream: Option<PathBuf>,
    /// Names and control sockets of gateways, from the producer's to the consumer's.
    pub gateways: Vec<(String, PathBuf)>,
    /// URL of s2cs' metrics.
    pub s2cs: Option<String>,
    /// Where the page is served.
    pub listen: SocketAddr,
}

/// The state that all tasks share, and the time it counts from.
#[derive(Debug, Clone)]
struct Shared {
    state: Arc<Mutex<State>>,
    began: Instant,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked with it left whole values behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds since the page began.
    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}

/// A page that is served.
#[derive(Debug)]
pub struct Live {
    listener: tokio::net::TcpListener,
    shared: Shared,
}

impl Live {
    /// Takes the address and begins to watch all sources.
    ///
    /// # Errors
    /// The address cannot be had, or a thread cannot be started. A source that is not there is none: the page tells.
    pub async fn start(options: &Options) -> Result<Live> {
        let listener = tokio::net::TcpListener::bind(options.listen).await.with_context(|| {
            format!("cannot listen on {}; give a free address with --listen", options.listen)
        })?;
        let names = options.gateways.iter().map(|(name, _)| name.clone());
        let state = State::new(options.stream.is_some(), names, options.s2cs.is_some());
        let shared = Shared { state: Arc::new(Mutex::new(state)), began: Instant::now() };
        if let Some(stream) = &options.stream {
            lines::watch(stream.clone(), shared.clone())?;
        }
        for (n, (_, socket)) in options.gateways.iter().enumerate() {
            gateways::watch(n, socket.clone(), shared.clone())?;
        }
        if let Some(url) = &options.s2cs {
            metrics::watch(url.clone(), shared.clone())?;
        }
        Ok(Live { listener, shared })
    }

    /// Where the page is.
    ///
    /// # Errors
    /// The listener has no address; none is known that has not.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().context("the listener has no address")
    }

    /// Serves until it fails or is dropped.
    ///
    /// # Errors
    /// The listener fails.
    pub async fn serve(self) -> Result<()> {
        axum::serve(self.listener, web::router(self.shared)).await.context("the page is not served any more")
    }
}
