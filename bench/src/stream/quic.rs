//! QUIC endpoints (RFC 9000) for streams.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, ServerConfig, TransportConfig, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

use tokio::io::AsyncReadExt;

use super::{Carrier, Direction, Meter, Order, StreamError, broken, exchange};
use crate::emulate::order::MAGIC;
use crate::emulate::source::{Runs, quic as emulate, read_order};

const ALPN: &[u8] = b"s2bench/1";
/// Wide enough that the path, not flow control, sets the pace: 100 ms at 1.3 Gbit/s.
const WINDOW: u32 = 16 << 20;

/// Where and when a connection changes its local address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebind {
    /// Once this many bytes have passed, both directions together.
    pub after: u64,
    /// To this address; port 0 takes a free one.
    pub to: SocketAddr,
}

/// A change of address that took place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Rebound {
    /// Bytes that had passed.
    pub after: u64,
    /// Old local address.
    pub from: SocketAddr,
    /// New local address.
    pub to: SocketAddr,
}

/// An endpoint that serves streams under a certificate made on the spot.
pub fn listen(address: SocketAddr) -> Result<Endpoint, StreamError> {
    let key = rcgen::generate_simple_self_signed(vec!["s2bench".to_owned()]).map_err(tls)?;
    let secret = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
    let mut crypto = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], secret.into())
        .map_err(tls)?;
    crypto.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(crypto).map_err(tls)?));
    config.transport_config(transport());
    Endpoint::server(config, address).map_err(|e| bind(address, e))
}

/// Serves one connection's stream, whichever protocol its first bytes tell.
pub(crate) async fn serve(
    connection: Connection,
    meter: &Meter,
    runs: &Arc<Runs>,
) -> Result<(), StreamError> {
    let peer = connection.remote_address();
    let (w, mut r) = connection.accept_bi().await.map_err(|e| broken(Direction::Up, 0)(e.into()))?;
    let mut magic = [0; 4];
    r.read_exact(&mut magic).await.map_err(|e| broken(Direction::Up, 0)(std::io::Error::other(e)))?;
    if magic == MAGIC.to_be_bytes() {
        let order = read_order(&mut r).await.map_err(broken(Direction::Up, 0))?;
        let bytes = emulate::serve(w, order, Arc::clone(runs)).await?;
        meter.add(Direction::Down, usize::try_from(bytes).unwrap_or(usize::MAX));
    } else {
        exchange::source(magic.chain(r), w, meter, peer).await?;
    }
    // The sink closes once it has everything; closing here could take it away from it.
    connection.closed().await;
    Ok(())
}

/// Opens a connection from `local` to `to`, carries one order and tells how its address changed.
pub async fn fetch(
    local: SocketAddr,
    to: SocketAddr,
    order: Order,
    rebind: Option<Rebind>,
    meter: &Meter,
) -> Result<Option<Rebound>, StreamError> {
    let connect = |why: String| StreamError::Connect { to, carrier: Carrier::Quic, why };
    let endpoint = Endpoint::client(local).map_err(|e| bind(local, e))?;
    let connection = endpoint
        .connect_with(client_config()?, to, "s2bench")
        .map_err(|e| connect(e.to_string()))?
        .await
        .map_err(|e| connect(e.to_string()))?;
    let (w, r) = connection.open_bi().await.map_err(|e| connect(e.to_string()))?;
    let (result, rebound) = {
        let own = Meter::default();
        let carry = exchange::sink(r, w, order, &own, to);
        tokio::pin!(carry);
        let mut rebound = None;
        let mut look = tokio::time::interval(Duration::from_millis(2));
        let result = loop {
            tokio::select! {
                result = &mut carry => break result,
                _ = look.tick(), if rebound.is_none() && rebind.is_some() => {
                    rebound = rebind.map_or(Ok(None), |r| rebind_when_due(&endpoint, r, own.down() + own.up()))?;
                }
            }
        };
        meter.add(Direction::Down, usize::try_from(own.down()).unwrap_or(usize::MAX));
        meter.add(Direction::Up, usize::try_from(own.up()).unwrap_or(usize::MAX));
        (result, rebound)
    };
    result?;
    connection.close(VarInt::from_u32(0), b"done");
    endpoint.wait_idle().await;
    match (rebind, rebound) {
        (Some(wanted), None) => Err(StreamError::NotRebound(wanted.after)),
        (_, rebound) => Ok(rebound),
    }
}

fn rebind_when_due(endpoint: &Endpoint, rebind: Rebind, passed: u64) -> Result<Option<Rebound>, StreamError> {
    if passed < rebind.after {
        return Ok(None);
    }
    let failed = |e| bind(rebind.to, e);
    let from = endpoint.local_addr().map_err(failed)?;
    let socket = UdpSocket::bind(rebind.to).map_err(failed)?;
    endpoint.rebind(socket).map_err(failed)?;
    let to = endpoint.local_addr().map_err(failed)?;
    Ok(Some(Rebound { after: passed, from, to }))
}

pub(crate) fn client_config() -> Result<ClientConfig, StreamError> {
    let provider = aws_lc_rs::default_provider();
    let verifier = Arc::new(AnyCertificate(provider.signature_verification_algorithms));
    let mut crypto = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    crypto.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto).map_err(tls)?));
    config.transport_config(transport());
    Ok(config)
}

fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config.stream_receive_window(WINDOW.into());
    config.receive_window(WINDOW.into());
    config.send_window(WINDOW.into());
    config.max_idle_timeout(Some(VarInt::from_u32(15_000).into()));
    Arc::new(config)
}

fn bind(address: SocketAddr, e: std::io::Error) -> StreamError {
    StreamError::Bind { address, carrier: Carrier::Quic, why: e.to_string() }
}

fn tls(e: impl std::fmt::Display) -> StreamError {
    StreamError::Tls(e.to_string())
}

/// Accepts whoever holds the key of the certificate shown: a bench measures paths and has no secrets to keep.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("QUIC has no TLS 1.2 (RFC 9001, section 4.2)".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
