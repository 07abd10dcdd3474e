//! The producer's application: serves every order that comes.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::{Carrier, Direction, Meter, StreamError, broken, exchange, quic, udp};
use crate::emulate::order::MAGIC;
use crate::emulate::source::{Runs, read_order, tcp, udp::Listener as Emulator};

/// What a source has done so far.
#[derive(Debug, Default)]
pub struct Served {
    /// Bytes of all streams.
    pub meter: Arc<Meter>,
    streams: AtomicU64,
    failed: AtomicU64,
    runs: Arc<Runs>,
}

impl Served {
    /// Streams carried to their end.
    pub fn streams(&self) -> u64 {
        self.streams.load(Ordering::Relaxed)
    }

    /// Streams that broke or came wrong.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn note<T>(&self, peer: SocketAddr, result: Result<T, StreamError>) {
        match result {
            Ok(_) => self.streams.fetch_add(1, Ordering::Relaxed),
            Err(e) => {
                // Counted even when nobody reads on standard error any more.
                let _ = writeln!(std::io::stderr(), "stream of {peer}: {e}");
                self.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
    Quic(quinn::Endpoint),
}

/// A source that listens.
pub struct Source {
    address: SocketAddr,
    listener: Listener,
}

impl Source {
    /// Listens on `address`; port 0 takes a free one. Call it inside a Tokio runtime.
    pub async fn bind(address: SocketAddr, carrier: Carrier) -> Result<Source, StreamError> {
        let failed = |e: std::io::Error| StreamError::Bind { address, carrier, why: e.to_string() };
        let (listener, local) = match carrier {
            Carrier::Tcp => {
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                let local = listener.local_addr();
                (Listener::Tcp(listener), local)
            }
            Carrier::Udp => {
                let socket = UdpSocket::bind(address).await.map_err(failed)?;
                let local = socket.local_addr();
                (Listener::Udp(socket), local)
            }
            Carrier::Quic => {
                let endpoint = quic::listen(address)?;
                let local = endpoint.local_addr();
                (Listener::Quic(endpoint), local)
            }
        };
        Ok(Source { address: local.map_err(failed)?, listener })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the listening socket fails or the future is dropped.
    pub async fn serve(self, served: Arc<Served>) -> Result<(), StreamError> {
        match self.listener {
            Listener::Tcp(listener) => loop {
                let (stream, peer) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    // The connection's failure or a moment's shortage of descriptors, not the listener's end.
                    Err(e) => {
                        eprintln!("a connection could not be accepted: {e}");
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                        continue;
                    }
                };
                let served = served.clone();
                tokio::spawn(async move {
                    let result = one(stream, peer, &served).await;
                    served.note(peer, result);
                });
            },
            Listener::Udp(socket) => {
                let failed = |why: std::io::Error| StreamError::Bind {
                    address: self.address,
                    carrier: Carrier::Udp,
                    why: why.to_string(),
                };
                let emulator = emulator(&socket, &served).map_err(failed)?;
                let done = |peer, result| served.note(peer, result);
                let other = |bytes: &[u8], from| emulator.take(bytes, from);
                Err(failed(udp::serve(socket, &served.meter, done, other).await))
            }
            Listener::Quic(endpoint) => {
                while let Some(incoming) = endpoint.accept().await {
                    let served = served.clone();
                    tokio::spawn(async move {
                        let peer = incoming.remote_address();
                        let result = match incoming.await {
                            Ok(connection) => quic::serve(connection, &served.meter, &served.runs).await,
                            Err(_) => Err(StreamError::Protocol(peer)),
                        };
                        served.note(peer, result);
                    });
                }
                Ok(())
            }
        }
    }
}

/// Serves one TCP connection, whichever protocol its first bytes tell.
async fn one(mut stream: TcpStream, peer: SocketAddr, served: &Arc<Served>) -> Result<(), StreamError> {
    let mut magic = [0; 4];
    stream.read_exact(&mut magic).await.map_err(broken(Direction::Up, 0))?;
    if magic != MAGIC.to_be_bytes() {
        let (r, w) = stream.into_split();
        return exchange::source(magic.chain(r), w, &served.meter, peer).await.map(drop);
    }
    let order = read_order(&mut stream).await.map_err(broken(Direction::Up, 0))?;
    let stream = stream.into_std().map_err(broken(Direction::Up, 0))?;
    let runs = Arc::clone(&served.runs);
    let bytes = on_thread(move || tcp::serve(stream, &order, &runs)).await?;
    served.meter.add(Direction::Down, usize::try_from(bytes).unwrap_or(usize::MAX));
    Ok(())
}

/// Does what blocks on a thread of its own: the runtime's are too few for many connections that wait for each other.
pub(crate) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, StreamError> {
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("source".to_owned())
        .spawn(move || done.send(work()))
        .map_err(broken(Direction::Down, 0))?;
    let result = result.await.map_err(|e| StreamError::Internal(e.to_string()))?;
    result.map_err(broken(Direction::Down, 0))
}

/// What serves the emulator's orders on a source's UDP socket.
fn emulator(socket: &UdpSocket, served: &Arc<Served>) -> std::io::Result<Emulator> {
    let same = std::net::UdpSocket::from(socket.as_fd().try_clone_to_owned()?);
    let noting = Arc::clone(served);
    let note = move |peer, result: std::io::Result<u64>| {
        if let Ok(bytes) = result {
            noting.meter.add(Direction::Down, usize::try_from(bytes).unwrap_or(usize::MAX));
        }
        noting.note(peer, result.map_err(broken(Direction::Down, 0)));
    };
    Ok(Emulator::new(same, Arc::clone(&served.runs), Arc::new(note)))
}
