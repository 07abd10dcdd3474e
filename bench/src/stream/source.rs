//! The producer's application: serves every order that comes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::{TcpListener, UdpSocket};

use super::{Carrier, Meter, Order, StreamError, exchange, quic, udp};

/// What a source has done so far.
#[derive(Debug, Default)]
pub struct Served {
    /// Bytes of all streams.
    pub meter: Arc<Meter>,
    streams: AtomicU64,
    failed: AtomicU64,
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

    fn note(&self, peer: SocketAddr, result: Result<Order, StreamError>) {
        match result {
            Ok(_) => self.streams.fetch_add(1, Ordering::Relaxed),
            Err(e) => {
                eprintln!("stream of {peer}: {e}");
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
                    let (r, w) = stream.into_split();
                    let result = exchange::source(r, w, &served.meter, peer).await;
                    served.note(peer, result);
                });
            },
            Listener::Udp(socket) => {
                let why = udp::serve(socket, &served.meter, |peer, result| served.note(peer, result)).await;
                Err(StreamError::Bind { address: self.address, carrier: Carrier::Udp, why: why.to_string() })
            }
            Listener::Quic(endpoint) => {
                while let Some(incoming) = endpoint.accept().await {
                    let served = served.clone();
                    tokio::spawn(async move {
                        let peer = incoming.remote_address();
                        let result = match incoming.await {
                            Ok(connection) => quic::serve(connection, &served.meter).await,
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
