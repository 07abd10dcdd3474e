//! The forwarder as the control server sees it: one connection to its control socket, made again whenever it breaks.
//!
//! A thread of its own has the connection, so that nothing else ever waits for a socket. Every connection has a number; who keeps
//! something in step with the forwarder does so anew whenever that number changes.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use forwarder::api::{ApiError, PortInfo, Reply, Request};
use tokio::sync::{oneshot, watch};

use crate::client::{Client, ClientError};

/// Between attempts to connect.
const AGAIN: Duration = Duration::from_millis(200);
/// A connection without calls for so long is asked whether it still holds.
const QUIET: Duration = Duration::from_secs(1);

/// Why a call has no reply.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The forwarder's own answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// There is no forwarder. What was asked for may have happened or not.
    #[error("the forwarder does not answer ({0})")]
    Away(String),
}

/// A connection that holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Connected {
    /// Counts connections.
    pub number: u64,
    /// The forwarder's word for its run.
    pub instance: Option<String>,
    /// Its ports, as they were lately.
    pub ports: Vec<PortInfo>,
}

type Job = (Request, oneshot::Sender<Result<Reply, LinkError>>);

/// Asks the forwarder. Calls are answered in order.
#[derive(Debug)]
pub struct Link {
    jobs: mpsc::Sender<Job>,
    state: watch::Receiver<Option<Arc<Connected>>>,
}

impl Link {
    /// Begins to connect to the control socket at `path`.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(path: &Path) -> std::io::Result<Link> {
        let (jobs, queue) = mpsc::channel();
        let (tell, state) = watch::channel(None);
        let path = path.to_owned();
        std::thread::Builder::new()
            .name("forwarder".to_owned())
            .spawn(move || serve(&path, &queue, &tell))?;
        Ok(Link { jobs, state })
    }

    /// The connection, as it changes.
    pub fn state(&self) -> watch::Receiver<Option<Arc<Connected>>> {
        self.state.clone()
    }

    /// The connection now.
    pub fn now(&self) -> Option<Arc<Connected>> {
        self.state.borrow().clone()
    }

    /// Asks.
    ///
    /// # Errors
    /// The forwarder's own, or there is none.
    pub async fn call(&self, request: Request) -> Result<Reply, LinkError> {
        let gone = || LinkError::Away("the thread that talks to it has ended".to_owned());
        let (done, reply) = oneshot::channel();
        self.jobs.send((request, done)).map_err(|_| gone())?;
        reply.await.map_err(|_| gone())?
    }
}

fn serve(path: &PathBuf, queue: &mpsc::Receiver<Job>, tell: &watch::Sender<Option<Arc<Connected>>>) {
    let mut number = 0;
    let mut said = None;
    loop {
        let error = match Client::connect(path) {
            Ok(client) => {
                number += 1;
                said = None;
                let forwarder = client.server().to_owned();
                tracing::info!(socket = %path.display(), forwarder, "connected to the forwarder");
                match converse(client, number, queue, tell) {
                    Some(error) => error,
                    None => return,
                }
            }
            Err(error) => error,
        };
        tell.send_if_modified(|state| state.take().is_some());
        let why = error.to_string();
        if said.as_ref() != Some(&why) {
            tracing::warn!("{why}");
            said = Some(why.clone());
        }
        // Whoever asks meanwhile is told at once.
        let again = std::time::Instant::now() + AGAIN;
        loop {
            let left = again.saturating_duration_since(std::time::Instant::now());
            match queue.recv_timeout(left) {
                Ok((_, done)) => _ = done.send(Err(LinkError::Away(why.clone()))),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

/// Answers calls until the connection breaks, and tells why; none when nobody can ask any more.
fn converse(
    mut client: Client,
    number: u64,
    queue: &mpsc::Receiver<Job>,
    tell: &watch::Sender<Option<Arc<Connected>>>,
) -> Option<ClientError> {
    let instance = client.instance().map(str::to_owned);
    loop {
        match client.call(Request::PortList) {
            Ok(Reply::Ports { ports }) => {
                let connected = Connected { number, instance: instance.clone(), ports };
                // Counters of ports change always; only who waits for a new connection is woken.
                tell.send_if_modified(|state| {
                    let new = state.as_ref().is_none_or(|s| s.number != number);
                    *state = Some(Arc::new(connected));
                    new
                });
            }
            Ok(_) | Err(ClientError::Api(_)) => {}
            Err(error) => return Some(error),
        }
        let asked = std::time::Instant::now();
        while asked.elapsed() < QUIET {
            match queue.recv_timeout(QUIET.saturating_sub(asked.elapsed())) {
                Ok((request, done)) => match client.call(request) {
                    Ok(reply) => _ = done.send(Ok(reply)),
                    Err(ClientError::Api(error)) => _ = done.send(Err(error.into())),
                    Err(error) => {
                        _ = done.send(Err(LinkError::Away(error.to_string())));
                        return Some(error);
                    }
                },
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }
}
