//! Connections: TLS, whose files are read again when they change, and bounds on what a client may hold without saying anything.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::certificate::{self, Certificate};
use crate::file::{FileError, Watched};

/// For the TLS handshake, and again for HTTP/2's preface after it. From there on the server asks whether the client lives.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of the preface (RFC 9113 section 3.4).
const PREFACE: usize = 24;
/// The part of all connections that one address may have.
const SHARE: usize = 4;

/// Reads certificate, key and the CAs of clients, and will look whether they change.
///
/// # Errors
/// They cannot be used.
pub fn watch(
    certificate: &Path,
    key: &Path,
    clients: &[PathBuf],
) -> Result<Watched<ServerConfig>, FileError> {
    let paths = [certificate, key].into_iter().map(Path::to_owned).chain(clients.iter().cloned()).collect();
    let (certificate, key, clients) = (certificate.to_owned(), key.to_owned(), clients.to_vec());
    Watched::open(paths, move || read(&certificate, &key, &clients))
}

fn read(certificate: &Path, key: &Path, clients: &[PathBuf]) -> Result<ServerConfig, FileError> {
    let shown = Certificate::load(certificate, key)?;
    let builder = ServerConfig::builder();
    let builder = match clients {
        [] => builder.with_no_client_auth(),
        [first, ..] => {
            let wrong = |path: &Path, why: String| FileError::whole(&path.display().to_string(), why);
            let mut roots = RootCertStore::empty();
            for file in clients {
                for root in certificate::read(file)? {
                    roots
                        .add(root)
                        .map_err(|e| wrong(file, format!("holds a certificate that is no CA's ({e})")))?;
                }
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build();
            builder.with_client_cert_verifier(verifier.map_err(|e| wrong(first, e.to_string()))?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(shown.certified)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Its certificate, verified up to the configured CA, DER.
    pub certificate: Option<Arc<[u8]>>,
}

/// A client's connection after the handshake.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// Until when the preface has to come, and how many bytes of it are missing; none once it has.
    silence: Option<(Pin<Box<Sleep>>, usize)>,
    _place: Place,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match pin!(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => match self.silence.as_mut().map(|(silence, _)| silence.as_mut().poll(cx)) {
                Some(Poll::Ready(())) => {
                    Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client says nothing")))
                }
                _ => Poll::Pending,
            },
            ready => {
                let heard = buf.filled().len() - before;
                self.silence = self.silence.take().and_then(|(silence, missing)| {
                    Some((silence, missing.checked_sub(heard).filter(|missing| *missing > 0)?))
                });
                ready
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        pin!(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_shutdown(cx)
    }
}

/// Counts connections by address.
#[derive(Debug)]
struct Doors {
    all: Arc<Semaphore>,
    by_address: Mutex<HashMap<IpAddr, usize>>,
    share: usize,
}

/// One connection's place among all.
#[derive(Debug)]
struct Place {
    doors: Arc<Doors>,
    address: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Doors {
    fn enter(self: &Arc<Self>, address: IpAddr, permit: OwnedSemaphorePermit) -> Option<Place> {
        let mut counts = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= self.share {
            return None;
        }
        *count += 1;
        Some(Place { doors: Arc::clone(self), address, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.doors.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// Accepts clients until the receiver is dropped: at most `most` at once, of one address a quarter of them.
pub fn accept(
    listener: TcpListener,
    tls: Arc<Watched<ServerConfig>>,
    most: usize,
) -> mpsc::Receiver<io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(16);
    let doors = Arc::new(Doors {
        all: Arc::new(Semaphore::new(most)),
        by_address: Mutex::default(),
        share: (most / SHARE).max(1),
    });
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = ready.closed() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: some will be closed.
                    tracing::warn!(%error, "a client cannot be accepted");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let permit = Arc::clone(&doors.all).try_acquire_owned().ok();
            let Some(place) = permit.and_then(|permit| doors.enter(host(address.ip()), permit)) else {
                tracing::warn!(%address, "a client is turned away: there are too many connections");
                continue;
            };
            let (ready, tls) = (ready.clone(), Arc::clone(&tls));
            tokio::spawn(async move {
                match timeout(PATIENCE, greet(stream, address, tls.get(), place)).await {
                    Ok(Ok(connection)) => _ = ready.send(Ok(connection)).await,
                    Ok(Err(error)) => tracing::debug!(%address, %error, "a TLS handshake failed"),
                    Err(_) => tracing::debug!(%address, "a TLS handshake was not finished"),
                }
            });
        }
    });
    connections
}

/// Whom connections from an address count for: an IPv6 host has the whole of its /64.
fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

async fn greet(
    stream: TcpStream,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    place: Place,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let certificate = shown.map(|certificate| Arc::from(certificate.as_ref()));
    let peer = Peer { address, certificate };
    Ok(Connection { stream, peer, silence: Some((Box::pin(sleep(PATIENCE)), PREFACE)), _place: place })
}
