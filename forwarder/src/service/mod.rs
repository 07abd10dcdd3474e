//! The control socket: who may connect, how lines become calls, and that no client can hurt another.
//!
//! One thread accepts, one thread serves each client; the forwarder behind them is a [`Handler`]. Every wait has the stop
//! pipe in it beside the client, and every wait has a deadline:
//!
//! | waiting for | at most |
//! |---|---|
//! | the client's hello | [`Patience::hello`] |
//! | the next call to begin | [`Patience::idle`], so that clients who left something open keep nobody out |
//! | the rest of a line that has begun | [`Patience::line`] |
//! | the client to take an answer | [`Patience::write`] |
#![forbid(unsafe_code)]

use std::io::{self, PipeReader, PipeWriter};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Gid, Uid, User};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::api::{self, Answer, ApiError, Call, ErrorCode, Hello, Outcome, Reply, Request};
use crate::config::ServiceConfig;
use lines::{Line, Lines, Ready, wait_readable};
use socket::SocketFile;

mod lines;
mod socket;

pub use socket::ServiceError;

/// Most clients at once; further ones are told so and closed.
pub const MAX_CLIENTS: usize = 64;

/// Answers calls. Called from several threads at once.
pub trait Handler: Send + Sync + 'static {
    /// Does what `request` asks.
    ///
    /// # Errors
    /// What the client is told.
    fn handle(&self, request: Request, peer: &Peer) -> Result<Reply, ApiError>;
}

/// The process at the other end, by the kernel's word at the time it connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Process id; 0 when it is in a PID namespace that cannot be seen from here.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// How long a client is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From connecting to the end of the hello.
    pub hello: Duration,
    /// From one answer to the beginning of the next call.
    pub idle: Duration,
    /// From the first byte of a line to its end.
    pub line: Duration,
    /// For an answer to be taken whole.
    pub write: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { hello: seconds(5), idle: seconds(600), line: seconds(30), write: seconds(30) }
    }
}

/// A control socket that exists; clients queue until [`Service::run`].
#[derive(Debug)]
pub struct Service {
    listener: UnixListener,
    file: SocketFile,
    group: Option<Gid>,
    patience: Patience,
}

/// A control socket that is served. Dropping it ends the service: running calls finish, threads end, the socket goes.
#[derive(Debug)]
pub struct Running {
    /// Its end is the signal: closing it wakes every wait.
    stop: Option<PipeWriter>,
    acceptor: Option<JoinHandle<()>>,
    file: SocketFile,
}

impl Service {
    /// Makes the socket with its mode and group, in place of a stale one; makes its directory when that is missing.
    ///
    /// # Errors
    /// Another process answers there, the group is unknown, or the file system refuses.
    pub fn bind(config: &ServiceConfig) -> Result<Service, ServiceError> {
        let (listener, file, group) = socket::bind(config)?;
        Ok(Service { listener, file, group, patience: Patience::default() })
    }

    /// Waits longer or shorter for clients.
    #[must_use]
    pub fn patience(self, patience: Patience) -> Service {
        Service { patience, ..self }
    }

    /// Serves until the returned handle is stopped or dropped.
    ///
    /// # Errors
    /// No thread or no pipe can be had.
    pub fn run<H: Handler>(self, handler: Arc<H>) -> Result<Running, ServiceError> {
        let Service { listener, file, group, patience } = self;
        let failed = |source| ServiceError::Start { source };
        let mut random =
            ChaCha8Rng::try_from_os_rng().map_err(|e| failed(io::Error::other(e.to_string())))?;
        let (high, low) = (random.next_u64(), random.next_u64());
        let hello = Hello { instance: Some(format!("{high:016x}{low:016x}")), ..Hello::of("s2ds") };
        let (stopped, stop) = io::pipe().map_err(failed)?;
        let server = Arc::new(Server { handler, hello, owner: Uid::effective(), group, patience, stopped });
        let acceptor = std::thread::Builder::new()
            .name("service".to_owned())
            .spawn(move || accept(&listener, &server))
            .map_err(failed)?;
        Ok(Running { stop: Some(stop), acceptor: Some(acceptor), file })
    }
}

impl Running {
    /// Ends the service; the same as dropping it.
    pub fn stop(self) {}
}

impl Drop for Running {
    fn drop(&mut self) {
        // First the name, so that nobody comes to a service that ends.
        self.file.remove();
        drop(self.stop.take());
        if let Some(acceptor) = self.acceptor.take() {
            // A panic there was reported on its own thread already.
            _ = acceptor.join();
        }
    }
}

/// What all client threads share.
struct Server<H> {
    handler: Arc<H>,
    /// What every client is greeted with.
    hello: Hello,
    owner: Uid,
    group: Option<Gid>,
    patience: Patience,
    stopped: PipeReader,
}

fn accept<H: Handler>(listener: &UnixListener, server: &Arc<Server<H>>) {
    let mut clients: Vec<JoinHandle<()>> = Vec::new();
    while wait_readable(listener, &server.stopped, None) == Ready::Yes {
        clients.retain(|c| !c.is_finished());
        let full = clients.len() >= MAX_CLIENTS;
        let started = listener.accept().and_then(|(stream, _)| {
            stream.set_nonblocking(true)?;
            let server = Arc::clone(server);
            let serve = move |stream| server.client(stream);
            if full {
                turn_away(stream);
                return Ok(None);
            }
            std::thread::Builder::new().name("client".to_owned()).spawn(move || serve(stream)).map(Some)
        });
        match started {
            Ok(client) => clients.extend(client),
            // Out of descriptors or threads: the client waits in the queue; looking again at once would only spin.
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    for client in clients {
        _ = client.join();
    }
}

/// Tells a client that there are too many. What its socket does not take at once is lost: nobody waits for it.
fn turn_away(stream: UnixStream) {
    use io::Write;
    let message = format!("{MAX_CLIENTS} clients are connected already; close some and try again");
    _ = (&stream).write_all(&encode(&refusal(None, ErrorCode::Full, message)));
}

impl<H: Handler> Server<H> {
    fn client(&self, stream: UnixStream) {
        let Ok(credentials) = getsockopt(&stream, sockopt::PeerCredentials) else { return };
        let peer = Peer { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() };
        let mut lines = Lines::new(stream, &self.stopped);
        // How it ended - the client left, gave up or was given up - is of no consequence here.
        _ = self.converse(&mut lines, &peer);
    }

    /// None as soon as the client cannot be talked to any more.
    fn converse(&self, lines: &mut Lines<'_>, peer: &Peer) -> Option<()> {
        let patience = &self.patience;
        let send = |lines: &mut Lines<'_>, line: &[u8]| lines.send(line, patience.write);
        if !self.may(peer) {
            let message =
                format!("user {} may not use the control socket; become root or join its group", peer.uid);
            return send(lines, &encode(&refusal(None, ErrorCode::Denied, message)));
        }
        match lines.next(patience.hello, patience.hello)? {
            Line::Whole(line) => match greet(&line) {
                Ok(()) => send(lines, &encode(&self.hello))?,
                Err(refused) => return send(lines, &encode(&refused)),
            },
            Line::TooLong => return send(lines, &encode(&too_long())),
            Line::Late => {
                let message = "no hello came; the first line must be the client's hello".to_owned();
                return send(lines, &encode(&refusal(None, ErrorCode::BadRequest, message)));
            }
        }
        loop {
            match lines.next(patience.idle, patience.line)? {
                Line::Whole(line) => send(lines, &encode(&self.answer(&line, peer)))?,
                Line::TooLong => return send(lines, &encode(&too_long())),
                Line::Late => {
                    let message =
                        "no call came in time, or it did not end; connect again, and send each call whole, ended by a newline"
                            .to_owned();
                    return send(lines, &encode(&refusal(None, ErrorCode::BadRequest, message)));
                }
            }
        }
    }

    /// Root, the forwarder's own user, and members of the socket's group. A name service may be asked, so this runs on
    /// the client's thread.
    fn may(&self, peer: &Peer) -> bool {
        if peer.uid == 0 || Uid::from_raw(peer.uid) == self.owner {
            return true;
        }
        let Some(group) = self.group else { return false };
        let primary = Gid::from_raw(peer.gid);
        let listed = || {
            let user = User::from_uid(Uid::from_raw(peer.uid)).ok().flatten()?;
            let name = std::ffi::CString::new(user.name).ok()?;
            nix::unistd::getgrouplist(&name, primary).ok()
        };
        primary == group || listed().is_some_and(|groups| groups.contains(&group))
    }

    fn answer(&self, line: &[u8], peer: &Peer) -> Answer {
        match serde_json::from_slice::<Call>(line) {
            Ok(call) => {
                let outcome = match self.handler.handle(call.request, peer) {
                    Ok(reply) => Outcome::Ok(Box::new(reply)),
                    Err(error) => Outcome::Error(error),
                };
                Answer { id: Some(call.id), outcome }
            }
            Err(error) => {
                let id = serde_json::from_slice::<serde_json::Value>(line)
                    .ok()
                    .and_then(|v| v.get("id")?.as_u64());
                let message =
                    format!("the line is no call ({error}); write it like {{\"id\":1,\"op\":\"flow_list\"}}");
                refusal(id, ErrorCode::BadRequest, message)
            }
        }
    }
}

/// Whether a client's first line is the hello of one that can be served; else what it is told.
fn greet(line: &[u8]) -> Result<(), Answer> {
    let hello = serde_json::from_slice::<Hello>(line).ok().filter(|h| h.service == api::SERVICE);
    match hello {
        None => {
            let own = encode(&Hello::of("s2ds"));
            let message =
                format!("the first line is no hello; write it like {}", String::from_utf8_lossy(&own).trim());
            Err(refusal(None, ErrorCode::BadRequest, message))
        }
        Some(hello) if hello.version != api::VERSION => {
            let (theirs, ours, program) = (hello.version, api::VERSION, hello.program);
            let message = format!(
                "{program:?} speaks version {theirs}, s2ds speaks {ours}; use programs of one release"
            );
            Err(refusal(None, ErrorCode::Version, message))
        }
        Some(_) => Ok(()),
    }
}

fn too_long() -> Answer {
    let message = format!("the line is longer than {} bytes; send less in one call", api::MAX_LINE);
    refusal(None, ErrorCode::BadRequest, message)
}

fn refusal(id: Option<u64>, code: ErrorCode, message: String) -> Answer {
    Answer { id, outcome: Outcome::Error(ApiError { code, message }) }
}

/// A line, newline included. The types on the wire have no keys but texts, so that writing them cannot fail.
fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}
