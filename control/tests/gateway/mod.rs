//! A control server that keeps sessions in memory and forwards nothing: over TLS, with scripted failures, and every
//! call noted.
#![allow(clippy::unwrap_used, clippy::panic, dead_code)]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use control::proto::gateway::gateway_server::{Gateway, GatewayServer};
use control::proto::gateway::{State as SessionState, *};
use control::proto::scistream;
use control::proto::scistream::control_server::{Control, ControlServer};
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};

/// A call that came.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) authorization: Option<String>,
    /// Whether the client showed a certificate.
    pub(crate) certificate: bool,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Script {
    Fail(Code, &'static str),
    Hang,
}

#[derive(Default)]
struct State {
    /// First number of the gateway's addresses on the WAN, and on the LAN.
    wan: String,
    lan: String,
    calls: Mutex<Vec<Call>>,
    scripts: Mutex<HashMap<&'static str, VecDeque<Script>>>,
    waiting: Mutex<HashMap<String, oneshot::Sender<Vec<String>>>>,
    sessions: Mutex<BTreeMap<String, Session>>,
}

/// What the server shows as its certificate.
pub(crate) enum Shown {
    /// Signed by a CA, for these names.
    Signed(&'static [&'static str]),
    /// Its own, which says that it is a CA.
    SelfMade,
}

pub(crate) struct Fake {
    state: Arc<State>,
    port: u16,
    directory: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

/// A refused call leaves this behind, so that a test can wait for it.
struct Cancelled(Arc<State>, bool);

impl Drop for Cancelled {
    fn drop(&mut self) {
        if self.1 {
            let call =
                Call { method: "cancelled", authorization: None, certificate: false, bytes: Vec::new() };
            self.0.calls.lock().unwrap().push(call);
        }
    }
}

impl Fake {
    /// A gateway with the addresses `192.0.2.SITE` and `2001:db8::SITE` on its WAN port and `10.SITE.0.1` on its LAN port.
    pub(crate) fn start(site: u8) -> Fake {
        Fake::showing(site, Shown::Signed(&["localhost", "127.0.0.1"]))
    }

    pub(crate) fn showing(site: u8, shown: Shown) -> Fake {
        _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let (ca_pem, identity) = match shown {
            Shown::SelfMade => {
                let pem = ca.self_signed(&key).unwrap().pem();
                (pem.clone(), Identity::from_pem(pem, key.serialize_pem()))
            }
            Shown::Signed(names) => {
                let pem = ca.self_signed(&key).unwrap().pem();
                let issuer = Issuer::new(ca, key);
                let names: Vec<_> = names.iter().map(ToString::to_string).collect();
                let signed = |names| {
                    let key = KeyPair::generate().unwrap();
                    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
                    (leaf.pem(), key.serialize_pem())
                };
                let (leaf, key) = signed(vec!["alice".to_owned()]);
                std::fs::write(directory.path().join("client.pem"), leaf).unwrap();
                std::fs::write(directory.path().join("client.key"), key).unwrap();
                let (leaf, key) = signed(names);
                (pem, Identity::from_pem(leaf, key))
            }
        };
        std::fs::write(directory.path().join("ca.pem"), &ca_pem).unwrap();
        let tls = ServerTlsConfig::new()
            .identity(identity)
            .client_ca_root(Certificate::from_pem(ca_pem))
            .client_auth_optional(true);

        let state = Arc::new(State {
            wan: format!("192.0.2.{site}"),
            lan: format!("10.{site}.0.1"),
            ..State::default()
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let serving = Arc::clone(&state);
        runtime.spawn(async move {
            let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener).unwrap());
            Server::builder()
                .tls_config(tls)
                .unwrap()
                .add_service(ControlServer::from_arc(Arc::new(Service(Arc::clone(&serving)))))
                .add_service(GatewayServer::from_arc(Arc::new(Service(serving))))
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Fake { state, port, directory, _runtime: runtime }
    }

    pub(crate) fn at(&self) -> String {
        format!("localhost:{}", self.port)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// The file `ca.pem`; `client.pem` or `client.key` of a client that the CA knows.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The next so many calls of a method fail.
    pub(crate) fn fail(&self, method: &'static str, times: usize, code: Code, message: &'static str) {
        self.script(method, times, Script::Fail(code, message));
    }

    /// The next call of a method is not answered.
    pub(crate) fn hang(&self, method: &'static str) {
        self.script(method, 1, Script::Hang);
    }

    fn script(&self, method: &'static str, times: usize, script: Script) {
        let mut scripts = self.state.scripts.lock().unwrap();
        scripts.entry(method).or_default().extend(std::iter::repeat_n(script, times));
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state.calls.lock().unwrap().clone()
    }

    /// Names of the methods that were called, in order.
    pub(crate) fn methods(&self) -> Vec<&'static str> {
        self.calls().iter().map(|call| call.method).collect()
    }

    /// The messages that a method was called with.
    pub(crate) fn sent<M: Message + Default>(&self, method: &str) -> Vec<M> {
        let calls = self.calls();
        let bytes = calls.iter().filter(|call| call.method == method).map(|call| &call.bytes[..]);
        bytes.map(|bytes| M::decode(bytes).unwrap()).collect()
    }

    /// Waits until a method was called.
    pub(crate) fn wait_for(&self, method: &str) {
        let start = Instant::now();
        while !self.methods().contains(&method) {
            assert!(start.elapsed() < Duration::from_secs(60), "{method} did not come");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Uids of the sessions that are there.
    pub(crate) fn sessions(&self) -> Vec<String> {
        self.state.sessions.lock().unwrap().keys().cloned().collect()
    }

    /// Forgets all sessions.
    pub(crate) fn forget(&self) {
        self.state.sessions.lock().unwrap().clear();
    }
}

struct Service(Arc<State>);

impl Service {
    /// Notes a call, and does what the script says.
    async fn note<M: Message>(&self, method: &'static str, request: Request<M>) -> Result<M, Status> {
        let authorization =
            request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let certificate = request.peer_certs().is_some();
        let message = request.into_inner();
        let bytes = message.encode_to_vec();
        self.0.calls.lock().unwrap().push(Call { method, authorization, certificate, bytes });
        let script = self.0.scripts.lock().unwrap().get_mut(method).and_then(VecDeque::pop_front);
        match script {
            None => Ok(message),
            Some(Script::Fail(code, text)) => Err(Status::new(code, text)),
            Some(Script::Hang) => {
                let _cancelled = Cancelled(Arc::clone(&self.0), true);
                std::future::pending().await
            }
        }
    }

    fn session(&self, uid: &str) -> Result<Session, Status> {
        let sessions = self.0.sessions.lock().unwrap();
        sessions.get(uid).cloned().ok_or_else(|| Status::not_found("there is no such session"))
    }

    fn set(&self, uid: &str, change: impl FnOnce(&mut Session)) -> Result<Response<Session>, Status> {
        let mut session = self.session(uid)?;
        change(&mut session);
        self.0.sessions.lock().unwrap().insert(uid.to_owned(), session.clone());
        Ok(Response::new(session))
    }
}

fn later(seconds: u64) -> Option<prost_types::Timestamp> {
    Some((SystemTime::now() + Duration::from_secs(seconds)).into())
}

#[tonic::async_trait]
impl Control for Service {
    async fn req(
        &self,
        request: Request<scistream::Request>,
    ) -> Result<Response<scistream::Response>, Status> {
        let ask = self.note("req", request).await?;
        let (sender, hello) = oneshot::channel();
        self.0.waiting.lock().unwrap().insert(ask.uid, sender);
        let mut cancelled = Cancelled(Arc::clone(&self.0), true);
        let prod_listeners = hello.await.map_err(|_| Status::deadline_exceeded("no hello came"))?;
        cancelled.1 = false;
        let listeners = (0..ask.num_conn).map(|i| format!("127.0.0.1:{}", 5100 + i)).collect();
        Ok(Response::new(scistream::Response { listeners, prod_listeners }))
    }

    async fn update(
        &self,
        request: Request<scistream::UpdateTargets>,
    ) -> Result<Response<scistream::Response>, Status> {
        let update = self.note("update", request).await?;
        let listeners = vec!["127.0.0.1:5100".to_owned()];
        Ok(Response::new(scistream::Response { listeners, prod_listeners: update.remote_listeners }))
    }

    async fn release(
        &self,
        request: Request<scistream::Release>,
    ) -> Result<Response<scistream::Response>, Status> {
        self.note("release", request).await?;
        Ok(Response::new(scistream::Response::default()))
    }

    async fn hello(
        &self,
        request: Request<scistream::Hello>,
    ) -> Result<Response<scistream::AppResponse>, Status> {
        let hello = self.note("hello", request).await?;
        let waiting = self.0.waiting.lock().unwrap().remove(&hello.uid);
        let waiting = waiting.ok_or_else(|| Status::not_found("there is no such session"))?;
        waiting.send(hello.prod_listeners).unwrap();
        let message = "Sending Prod listeners...".to_owned();
        Ok(Response::new(scistream::AppResponse { message, listeners: Vec::new() }))
    }
}

#[tonic::async_trait]
impl Gateway for Service {
    async fn open(&self, request: Request<OpenRequest>) -> Result<Response<Session>, Status> {
        let ask = self.note("open", request).await?;
        let address = if ask.role() == Role::Producer { &self.0.wan } else { &self.0.lan };
        let listener = |(i, target): (usize, &String)| Listener {
            address: format!("{address}:{}", 5100 + i),
            target: target.clone(),
            flow: format!("s2cs:1:{i}"),
            traffic: None,
        };
        let session = Session {
            uid: ask.uid.clone(),
            role: ask.role,
            state: SessionState::Active.into(),
            protocol: ask.protocol,
            owner: "alice@site".to_owned(),
            listeners: ask.targets.iter().enumerate().map(listener).collect(),
            sources: ask.sources,
            connections: ask.connections,
            rate_mbps: ask.rate_mbps,
            limit_mbps: 10_000,
            created: later(0),
            expires: later(ask.lease.map_or(28_800, |lease| lease.seconds as u64)),
            labels: ask.labels,
            path: "wan".to_owned(),
        };
        self.0.sessions.lock().unwrap().insert(ask.uid, session.clone());
        Ok(Response::new(session))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Session>, Status> {
        let uid = self.note("get", request).await?.uid;
        let mut session = self.session(&uid)?;
        for listener in &mut session.listeners {
            let traffic = Traffic { connections: 2, bytes_to_target: 4096, ..Traffic::default() };
            listener.traffic = Some(traffic);
        }
        Ok(Response::new(session))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        self.note("list", request).await?;
        let sessions = self.0.sessions.lock().unwrap().values().cloned().collect();
        Ok(Response::new(ListResponse { sessions }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Session>, Status> {
        let RenewRequest { uid, lease, .. } = self.note("renew", request).await?;
        self.set(&uid, |session| {
            session.expires = later(lease.map_or(28_800, |lease| lease.seconds as u64));
        })
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<Session>, Status> {
        let uid = self.note("drain", request).await?.uid;
        self.set(&uid, |session| session.state = SessionState::Draining.into())
    }

    async fn close(&self, request: Request<CloseRequest>) -> Result<Response<CloseResponse>, Status> {
        let uid = self.note("close", request).await?.uid;
        self.session(&uid)?;
        self.0.sessions.lock().unwrap().remove(&uid);
        Ok(Response::new(CloseResponse {}))
    }

    type WatchStream = std::pin::Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;

    /// Tells a session as it is, then its end, and goes on.
    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let uid = self.note("watch", request).await?.uid;
        let session = self.session(&uid)?;
        let now = Event { session: Some(session.clone()), before: 0, reason: String::new(), at: later(0) };
        let end = Event {
            session: Some(Session { state: SessionState::Ended.into(), ..session }),
            before: SessionState::Active.into(),
            reason: "its lease ended".to_owned(),
            at: later(0),
        };
        let events = tokio_stream::iter([Ok(now), Ok(end)]);
        Ok(Response::new(Box::pin(tokio_stream::StreamExt::chain(events, tokio_stream::pending()))))
    }

    async fn get_gateway(
        &self,
        request: Request<GetGatewayRequest>,
    ) -> Result<Response<GatewayInfo>, Status> {
        self.note("get_gateway", request).await?;
        let path = |name: &str, role: Role, addresses: Vec<String>| Path {
            name: name.to_owned(),
            roles: vec![role.into()],
            addresses,
            mtu: 9000,
            link: "up".to_owned(),
            capacity_mbps: 100_000,
            reserved_mbps: 0,
        };
        let site = self.0.wan.rsplit('.').next().unwrap();
        // Producers' listeners of the first site have no IPv6.
        let wan = match site {
            "1" => vec![self.0.wan.clone()],
            _ => vec![self.0.wan.clone(), format!("2001:db8::{site}")],
        };
        Ok(Response::new(GatewayInfo {
            program: "s2cs 0.1.0".to_owned(),
            forwarding: true,
            paths: vec![
                path("wan", Role::Producer, wan),
                path("lan", Role::Consumer, vec![self.0.lan.clone()]),
            ],
            listeners_free: 101,
        }))
    }
}
