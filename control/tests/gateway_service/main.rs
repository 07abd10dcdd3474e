//! The gateway's own service from outside: the real `s2cs` before a real flow table, and clients over TLS.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod connections;
mod files;
mod life;
mod opening;
mod recovery;
mod watching;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use control::proto::gateway::gateway_client::GatewayClient;
use control::proto::gateway::*;
use control::proto::scistream;
use control::proto::scistream::control_client::ControlClient;
use forwarder::api::{FlowInfo, FlowSpec, Proto};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use common::site::Site;

/// How long tests wait for what must come soon; they fail only after it, so it costs nothing when all is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// Shows a token as SciStream's clients do.
#[derive(Debug, Clone)]
struct Token(MetadataValue<Ascii>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

type Line = InterceptedService<Channel, Token>;

/// A user's connection to both services.
#[derive(Debug, Clone)]
struct User {
    gateway: GatewayClient<Line>,
    control: ControlClient<Line>,
}

impl User {
    async fn new(site: &Site, name: &str) -> User {
        User::on(site.channel().await, site.token(name))
    }

    fn on(channel: Channel, token: &str) -> User {
        let token = Token(token.parse().unwrap());
        let line = || InterceptedService::new(channel.clone(), token.clone());
        User { gateway: GatewayClient::new(line()), control: ControlClient::new(line()) }
    }

    async fn open(&mut self, request: OpenRequest) -> Result<Session, Status> {
        self.gateway.open(request).await.map(Response::into_inner)
    }

    async fn get(&mut self, uid: &str) -> Result<Session, Status> {
        self.gateway.get(GetRequest { uid: uid.into(), owner: String::new() }).await.map(Response::into_inner)
    }

    async fn list(&mut self) -> Vec<Session> {
        self.gateway.list(ListRequest { all: false }).await.unwrap().into_inner().sessions
    }

    async fn renew(&mut self, uid: &str, lease: Option<i64>) -> Result<Session, Status> {
        let lease = lease.map(seconds);
        self.gateway
            .renew(RenewRequest { uid: uid.into(), lease, owner: String::new() })
            .await
            .map(Response::into_inner)
    }

    async fn drain(&mut self, uid: &str) -> Result<Session, Status> {
        self.gateway
            .drain(DrainRequest { uid: uid.into(), owner: String::new() })
            .await
            .map(Response::into_inner)
    }

    async fn close(&mut self, uid: &str) -> Result<(), Status> {
        self.gateway.close(CloseRequest { uid: uid.into(), owner: String::new() }).await.map(|_| ())
    }

    async fn info(&mut self) -> GatewayInfo {
        self.gateway.get_gateway(GetGatewayRequest {}).await.unwrap().into_inner()
    }

    /// Waits until the gateway is in step with its forwarder, or is not.
    async fn forwarding(&mut self, is: bool) {
        until("the forwarder comes or goes", async || (self.info().await.forwarding == is).then_some(()))
            .await;
    }

    /// Waits until a session is over.
    async fn over(&mut self, uid: &str) {
        until("the session ends", async || match self.get(uid).await {
            Ok(_) => None,
            Err(status) => {
                assert_eq!(status.code(), Code::NotFound);
                Some(())
            }
        })
        .await;
    }

    async fn watch(&mut self, uid: &str) -> Result<Events, Status> {
        let request = WatchRequest { uid: uid.into(), all: false };
        self.gateway.watch(request).await.map(|stream| Events(stream.into_inner()))
    }

    async fn req(&mut self, uid: &str) -> Result<scistream::Response, Status> {
        let request = scistream::Request { uid: uid.into(), role: "PROD".into(), num_conn: 1, rate: 0 };
        self.control.req(request).await.map(Response::into_inner)
    }

    async fn hello(&mut self, uid: &str) -> Result<scistream::AppResponse, Status> {
        let hello = scistream::Hello {
            uid: uid.into(),
            role: "PROD".into(),
            prod_listeners: vec!["10.81.0.9:7000".into()],
        };
        self.control.hello(hello).await.map(Response::into_inner)
    }

    async fn update(&mut self, uid: &str) -> Result<scistream::Response, Status> {
        let update = scistream::UpdateTargets {
            uid: uid.into(),
            role: "PROD".into(),
            remote_listeners: vec!["10.81.0.9:7000".into()],
        };
        self.control.update(update).await.map(Response::into_inner)
    }

    async fn release(&mut self, uid: &str) -> Result<scistream::Response, Status> {
        self.control.release(scistream::Release { uid: uid.into() }).await.map(Response::into_inner)
    }
}

/// What a watcher is told.
struct Events(tonic::Streaming<Event>);

impl Events {
    /// The next: uid, state before, state, reason. None at the stream's end.
    async fn next(&mut self) -> Option<(String, State, State, String)> {
        let event = tokio::time::timeout(PATIENCE, self.0.message()).await.unwrap().unwrap()?;
        assert!(event.at.is_some());
        let session = event.session.clone().unwrap();
        Some((session.uid.clone(), event.before(), session.state(), event.reason))
    }

    /// The reason that a session of this uid ended for.
    async fn end(&mut self, uid: &str) -> String {
        loop {
            let (of, _, state, reason) = self.next().await.unwrap();
            if of == uid && state == State::Ended {
                return reason;
            }
        }
    }
}

/// Looks again and again until something is there.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

/// A producer's session with one target; everything else is left to the gateway.
fn ask(uid: &str) -> OpenRequest {
    OpenRequest {
        uid: uid.into(),
        role: Role::Producer.into(),
        targets: vec!["10.81.0.9:7000".into()],
        ..Default::default()
    }
}

/// An operator's flow on an address of the WAN.
fn operators(name: &str, listen: &str) -> FlowSpec {
    FlowSpec {
        name: name.into(),
        proto: Proto::Tcp,
        listen: listen.parse().unwrap(),
        target: "10.81.0.77:9".parse().unwrap(),
        from: vec!["10.82.0.0/16".parse().unwrap()],
        max_conns: None,
        mss_clamp: None,
        hairpin: false,
        rate: None,
        lease: None,
    }
}

/// Flows without what changes by itself.
fn specs(flows: BTreeMap<String, FlowInfo>) -> Vec<FlowSpec> {
    flows.into_values().map(|flow| FlowSpec { lease: None, ..flow.spec }).collect()
}

fn flow_of(site: &Site, session: &Session, listener: usize) -> FlowInfo {
    site.forwarder.flows().remove(&session.listeners[listener].flow).unwrap()
}

/// What every session has is there, and nothing else.
async fn agree(site: &Site, alice: &mut User, free: u32) {
    let sessions = alice.list().await;
    assert!(sessions.iter().all(|session| session.state() == State::Active), "{sessions:?}");
    let mut flows: Vec<_> = sessions.into_iter().flat_map(|s| s.listeners).map(|l| l.flow).collect();
    flows.sort_unstable();
    assert_eq!(flows, site.forwarder.flows().into_keys().collect::<Vec<_>>());
    assert_eq!(alice.info().await.listeners_free as usize, free as usize - flows.len());
}

fn port(session: &Session) -> u16 {
    session.listeners[0].address.parse::<std::net::SocketAddr>().unwrap().port()
}

/// The code of a refusal.
#[track_caller]
fn code<T: Debug>(outcome: Result<T, Status>) -> Code {
    outcome.unwrap_err().code()
}

/// `/metrics` or `/healthz`: status and text.
async fn page(site: &Site, path: &str) -> (u16, String) {
    let answer = reqwest::get(format!("http://{}{path}", site.metrics())).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}
