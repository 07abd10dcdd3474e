//! A stream's two sessions, one at each gateway, as one thing.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use prost_types::Duration;
use serde::Serialize;
use tonic::Code;

use super::connect::{PROMPT, Server, gateway};
use super::uri::{HostPort, SessionUri};
use super::{Failure, interrupted, view};
use crate::proto::gateway::{
    CloseRequest, DrainRequest, GatewayInfo, GetGatewayRequest, GetRequest, OpenRequest, Path, Protocol,
    RenewRequest, Role, Session,
};

/// What stream to open.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Same at both gateways.
    pub uid: String,
    /// TCP, or UDP, which carries QUIC.
    pub protocol: Protocol,
    /// The producer's own addresses.
    pub targets: Vec<SocketAddr>,
    /// Where the consumer connects from; none: what the consumer's site names.
    pub from: Vec<IpNet>,
    /// Where the consumer's gateway connects from; none: the addresses it tells.
    pub gateway_from: Vec<IpNet>,
    /// Connections at once to each target.
    pub connections: Option<u32>,
    /// Mbit/s to reserve.
    pub rate_mbps: Option<u64>,
    /// Seconds.
    pub lease: Option<u64>,
    /// The user's own.
    pub labels: HashMap<String, String>,
    /// Port of the producer's gateway that faces the other; none: its first for producers.
    pub producer_path: Option<String>,
    /// Port of the consumer's gateway that the consumer connects to; none: its first for consumers.
    pub consumer_path: Option<String>,
}

/// Opening failed.
#[derive(Debug)]
pub struct Unopened {
    /// Why.
    pub failure: Failure,
    /// Gateways that may still have a session, and why it could not be closed.
    pub left: Vec<(HostPort, Failure)>,
}

impl From<Failure> for Unopened {
    fn from(failure: Failure) -> Unopened {
        Unopened { failure, left: Vec::new() }
    }
}

/// Opens a stream: at the producer's gateway for the consumer's gateway alone, then at the consumer's. When that
/// fails half way, or the user interrupts, what was opened is closed again.
///
/// # Errors
/// Why it failed, and what could not be closed.
pub async fn open(producer: &Server, consumer: &Server, ask: &Ask) -> Result<Pair, Unopened> {
    // Gateways where a session of ours may be.
    let mut begun = Vec::new();
    let outcome = tokio::select! {
        outcome = steps(producer, consumer, ask, &mut begun) => outcome,
        _ = interrupted() => Err(Failure::Interrupted),
    };
    match outcome {
        Ok((at_producer, at_consumer)) => Ok(Pair::new(
            &SessionUri {
                producer: producer.at().clone(),
                consumer: consumer.at().clone(),
                uid: ask.uid.clone(),
            },
            (producer.at(), Ok(Outcome::Session(at_producer.into()))),
            (consumer.at(), Ok(Outcome::Session(at_consumer.into()))),
        )),
        Err(failure) => {
            let mut left = Vec::new();
            // The last first: no listener is left without its target.
            for server in begun.into_iter().rev() {
                if let Err(failure) = act(server, &ask.uid, None, Verb::Close).await {
                    left.push((server.at().clone(), failure));
                }
            }
            Err(Unopened { failure, left })
        }
    }
}

async fn steps<'a>(
    producer: &'a Server,
    consumer: &'a Server,
    ask: &Ask,
    begun: &mut Vec<&'a Server>,
) -> Result<(Session, Session), Failure> {
    let (at_producer, at_consumer) = tokio::try_join!(info(producer), info(consumer))?;
    let sources = match &ask.gateway_from[..] {
        [] => gateway_sources(producer, &at_producer, consumer, &at_consumer, ask)?,
        given => given.iter().map(ToString::to_string).collect(),
    };
    let common = OpenRequest {
        uid: ask.uid.clone(),
        protocol: ask.protocol.into(),
        connections: ask.connections.unwrap_or_default(),
        rate_mbps: ask.rate_mbps.unwrap_or_default(),
        lease: ask.lease.map(duration),
        labels: ask.labels.clone(),
        ..OpenRequest::default()
    };
    let request = OpenRequest {
        role: Role::Producer.into(),
        targets: ask.targets.iter().map(ToString::to_string).collect(),
        sources,
        path: ask.producer_path.clone().unwrap_or_default(),
        ..common.clone()
    };
    let at_producer = open_one(producer, request, begun).await?;
    let request = OpenRequest {
        role: Role::Consumer.into(),
        targets: at_producer.listeners.iter().map(|listener| listener.address.clone()).collect(),
        sources: ask.from.iter().map(ToString::to_string).collect(),
        path: ask.consumer_path.clone().unwrap_or_default(),
        ..common
    };
    let at_consumer = open_one(consumer, request, begun).await?;
    Ok((at_producer, at_consumer))
}

async fn open_one<'a>(
    server: &'a Server,
    request: OpenRequest,
    begun: &mut Vec<&'a Server>,
) -> Result<Session, Failure> {
    begun.push(server);
    let opened = server.call(PROMPT, request, async |c, r| gateway(c).open(r).await).await;
    if opened.as_ref().is_err_and(|failure| failure.code().is_some()) {
        // The server itself said no. A session of that uid, if there is one, is not of our making.
        begun.pop();
    }
    opened
}

/// What a gateway tells of itself.
///
/// # Errors
/// The call failed, for want of an identity perhaps.
pub async fn info(server: &Server) -> Result<GatewayInfo, Failure> {
    server.call(PROMPT, GetGatewayRequest {}, async |c, r| gateway(c).get_gateway(r).await).await
}

/// Addresses that the consumer's gateway connects to the producer's from: its own on the ports that do not face
/// consumers, or on all when every port does, of the IP versions that the producer's listeners may have.
fn gateway_sources(
    producer: &Server,
    at_producer: &GatewayInfo,
    consumer: &Server,
    at_consumer: &GatewayInfo,
    ask: &Ask,
) -> Result<Vec<String>, Failure> {
    let addresses =
        |path: &Path| path.addresses.iter().filter_map(|a| a.parse().ok()).collect::<Vec<IpAddr>>();
    let serves = |path: &Path, role: Role| path.roles.contains(&role.into());
    let listens = at_producer.paths.iter().find(|path| match &ask.producer_path {
        Some(name) => path.name == *name,
        None => serves(path, Role::Producer),
    });
    let listens = listens.map(addresses).unwrap_or_default();
    let (lan, wan): (Vec<_>, Vec<_>) =
        at_consumer.paths.iter().partition(|path| serves(path, Role::Consumer));
    let facing = if wan.is_empty() { lan } else { wan };
    let sources: Vec<_> = facing
        .into_iter()
        .flat_map(addresses)
        // An unknown path is the gateway's to refuse.
        .filter(|own| listens.is_empty() || listens.iter().any(|address| address.is_ipv4() == own.is_ipv4()))
        .map(|own| IpNet::from(own).to_string())
        .collect();
    if sources.is_empty() {
        return Err(Failure::Usage(format!(
            "{} tells no address that its connections to {} would come from; give their prefix with --gateway-from",
            consumer.at(),
            producer.at()
        )));
    }
    Ok(sources)
}

/// What is done with a session that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Look at it.
    Status,
    /// Begin its lease anew, of so many seconds or as long as before.
    Renew(Option<u64>),
    /// Let no new connection in.
    Drain,
    /// End it.
    Close,
}

/// What became of a session.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It is this now.
    Session(Box<view::Session>),
    /// It was ended.
    Closed,
    /// It was to be ended, and had already.
    Gone,
}

impl From<Session> for Box<view::Session> {
    fn from(session: Session) -> Self {
        Box::new(session.into())
    }
}

/// Does it at one gateway. `owner` says whose session is meant, for administrators.
///
/// # Errors
/// The call failed. To close what is not there is no failure.
pub async fn act(server: &Server, uid: &str, owner: Option<&str>, verb: Verb) -> Result<Outcome, Failure> {
    let (uid, owner) = (uid.to_owned(), owner.unwrap_or_default().to_owned());
    let session = match verb {
        Verb::Status => {
            server.call(PROMPT, GetRequest { uid, owner }, async |c, r| gateway(c).get(r).await).await?
        }
        Verb::Renew(lease) => {
            let request = RenewRequest { uid, lease: lease.map(duration), owner };
            server.call(PROMPT, request, async |c, r| gateway(c).renew(r).await).await?
        }
        Verb::Drain => {
            server.call(PROMPT, DrainRequest { uid, owner }, async |c, r| gateway(c).drain(r).await).await?
        }
        Verb::Close => {
            let closed = server
                .call(PROMPT, CloseRequest { uid, owner }, async |c, r| gateway(c).close(r).await)
                .await;
            return match closed {
                Ok(_) => Ok(Outcome::Closed),
                Err(failure) if failure.code() == Some(Code::NotFound) => Ok(Outcome::Gone),
                Err(failure) => Err(failure),
            };
        }
    };
    Ok(Outcome::Session(session.into()))
}

/// A stream as `s2uc` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Pair {
    /// The stream's name.
    pub uri: String,
    /// Same at both gateways.
    pub uid: String,
    /// Where the consumer connects to.
    pub connect: Vec<String>,
    /// When the first of both leases ends, RFC 3339.
    pub expires: Option<String>,
    /// The producer's side.
    pub producer: Side,
    /// The consumer's side.
    pub consumer: Side,
}

/// One side of a stream.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    /// `HOST:PORT`.
    pub gateway: String,
    /// The session's state, or `closed`, or `gone` when it was not there to be closed; none after a failure.
    pub state: Option<String>,
    /// The session, if it is there.
    pub session: Option<Box<view::Session>>,
    /// Why nothing is known.
    pub error: Option<view::Error>,
    /// The same.
    #[serde(skip)]
    pub failure: Option<Failure>,
}

impl Side {
    fn new(gateway: &HostPort, outcome: Result<Outcome, Failure>) -> Side {
        let gateway = gateway.to_string();
        let (state, session, failure) = match outcome {
            Ok(Outcome::Session(session)) => (Some(session.state.clone()), Some(session), None),
            Ok(Outcome::Closed) => (Some("closed".to_owned()), None, None),
            Ok(Outcome::Gone) => (Some("gone".to_owned()), None, None),
            Err(failure) => (None, None, Some(failure)),
        };
        Side { gateway, state, session, error: failure.as_ref().map(view::Error::from), failure }
    }
}

impl Pair {
    /// Of what became of both sides.
    pub fn new(
        uri: &SessionUri,
        producer: (&HostPort, Result<Outcome, Failure>),
        consumer: (&HostPort, Result<Outcome, Failure>),
    ) -> Pair {
        let producer = Side::new(producer.0, producer.1);
        let consumer = Side::new(consumer.0, consumer.1);
        let connect = consumer.session.iter().flat_map(|s| &s.listeners).map(|l| l.address.clone()).collect();
        // Texts of RFC 3339 in UTC sort as times do.
        let expires =
            [&producer, &consumer].into_iter().filter_map(|s| s.session.as_ref()?.expires.clone()).min();
        Pair { uri: uri.to_string(), uid: uri.uid.clone(), connect, expires, producer, consumer }
    }
}

fn duration(seconds: u64) -> Duration {
    Duration { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), nanos: 0 }
}
