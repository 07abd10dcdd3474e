//! Connections to control servers.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Response, Status};

use super::Failure;
use super::store::{Store, Token};
use super::trust::Pinned;
use super::uri::HostPort;
use crate::proto::gateway::gateway_client::GatewayClient;

/// Longest time that connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Longest time for an answer that waits for nobody.
pub const PROMPT: Duration = Duration::from_secs(30);

/// Longest answer: a list of some ten thousands of sessions.
const LARGEST_ANSWER: usize = 64 << 20;

/// What to connect with.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// File with the only certificates to trust, PEM; none: those stored at login, or else the system's.
    pub server_cert: Option<PathBuf>,
    /// What to show; none: the token stored at login.
    pub token: Option<Token>,
    /// Name that the login is stored under; none: the server's `HOST:PORT`.
    pub scope: Option<String>,
    /// Files of the client's own certificate and its key, PEM.
    pub client_cert: Option<(PathBuf, PathBuf)>,
}

/// A control server that was reached over TLS.
#[derive(Debug, Clone)]
pub struct Server {
    at: HostPort,
    channel: Channel,
    authorization: MetadataValue<Ascii>,
}

impl Access {
    /// Name that the login for a server is stored under.
    pub fn login_name(&self, server: &HostPort) -> String {
        self.scope.clone().unwrap_or_else(|| server.to_string())
    }

    /// Connects to a server.
    ///
    /// # Errors
    /// It cannot be reached or trusted, or a file that is needed cannot be read.
    pub async fn connect(&self, at: &HostPort, store: &Store) -> Result<Server, Failure> {
        let name = self.login_name(at);
        let login = store.load(&name)?;
        let pinned = match (&self.server_cert, &login) {
            (Some(path), _) => Some(Pinned::new(&read(path)?, path)?),
            (None, Some(login)) => match &login.certificate {
                Some(pem) => Some(Pinned::new(pem.as_bytes(), Path::new(&name))?),
                None => None,
            },
            (None, None) => None,
        };
        let token = self.token.clone().or(login.map(|login| login.token)).unwrap_or_else(Token::none);
        let authorization = token.header()?;

        let local = |error: tonic::transport::Error| {
            let cause =
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            let mend = match self.client_cert {
                Some(_) => "check the PEM files of --client-cert and --client-key, and give",
                None => "give",
            };
            Failure::Local(format!(
                "TLS cannot be used ({cause}); {mend} the server's or its CA's certificate, PEM, with --server-cert"
            ))
        };
        let mut tls = ClientTlsConfig::new().domain_name(at.host()).timeout(CONNECT);
        if let Some((certificate, key)) = &self.client_cert {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        let endpoint = Endpoint::from_shared(format!("https://{at}"))
            .map_err(local)?
            .user_agent(concat!("s2uc/", env!("CARGO_PKG_VERSION")))
            .map_err(local)?
            .connect_timeout(CONNECT)
            // Long calls notice that the other end is gone. HTTP/2 pings would do the same but SciStream's own server
            // hangs up on whoever sends them often.
            .tcp_keepalive(Some(Duration::from_secs(15)))
            .tcp_keepalive_interval(Some(Duration::from_secs(5)))
            .tcp_keepalive_retries(Some(3));
        let endpoint = match pinned {
            Some(pinned) => endpoint.tls_config_with_verifier(tls, Arc::new(pinned)),
            None => endpoint.tls_config(tls.with_native_roots()),
        };
        let channel =
            endpoint.map_err(local)?.connect().await.map_err(|error| Failure::connecting(at, &error))?;
        Ok(Server { at: at.clone(), channel, authorization })
    }
}

impl Server {
    /// Where it is.
    pub fn at(&self) -> &HostPort {
        &self.at
    }

    /// Why a call, or a stream that it gave, ended.
    pub fn failure(&self, status: &Status) -> Failure {
        Failure::calling(&self.at, status)
    }

    /// Makes a call with the user's token, and gives it up after `deadline`.
    ///
    /// # Errors
    /// The server says no, the connection fails or no answer comes in time.
    pub async fn call<M, A>(
        &self,
        deadline: Duration,
        message: M,
        call: impl AsyncFnOnce(Channel, Request<M>) -> Result<Response<A>, Status>,
    ) -> Result<A, Failure> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.authorization.clone());
        match tokio::time::timeout(deadline, call(self.channel.clone(), request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.failure(&status)),
            Err(_) => Err(Failure::Late { server: self.at.clone(), seconds: deadline.as_secs() }),
        }
    }
}

/// The client of our own service, for [`Server::call`].
pub fn gateway(channel: Channel) -> GatewayClient<Channel> {
    GatewayClient::new(channel).max_decoding_message_size(LARGEST_ANSWER)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure::Local(format!("{} cannot be read: {error}", path.display())))
}
