//! The control server as clients see it: both services over TLS, health and reflection beside them.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};
use tonic_health::ServingStatus;

use crate::audit::{Audit, Decision, Entry};
use crate::book::{BookError, Limits};
use crate::config::Config;
use crate::file::Watched;
use crate::identity::{Authenticator, Credentials, Principal, Refused};
use crate::keeper::{Keeper, Settings, Step, StepError};
use crate::link::Link;
use crate::manager;
use crate::policy::Policy;
use crate::proto::DESCRIPTORS;
use crate::proto::gateway::gateway_server::GatewayServer;
use crate::proto::scistream::control_server::ControlServer;
use crate::session::Session;
use crate::store::Store;
use http::{Decisions, Outcome};
use tls::Peer;

mod gateway;
mod http;
mod scistream;
pub mod tls;

/// Longest request, in bytes: a thousand targets fit.
const LONGEST: usize = 256 * 1024;
/// Calls of one connection at once. Each `req` that waits for hello is one.
const CALLS: u32 = 16_384;
/// A connection that is silent for so long is asked whether it still lives, and given so long to answer.
const SILENT: Duration = Duration::from_secs(30);
/// Files are looked at, and the insecure warning is repeated, so often.
const REFRESH: Duration = Duration::from_secs(2);
const REMIND: Duration = Duration::from_secs(600);
/// At the end, calls under way have so long.
const LAST: Duration = Duration::from_secs(2);

/// Serves until `stop` is ready. `ready` is told the address once clients can connect.
///
/// # Errors
/// Something that the configuration names cannot be used.
pub async fn run(
    config: Config,
    stop: impl Future<Output = ()>,
    ready: impl FnOnce(SocketAddr),
) -> anyhow::Result<()> {
    let authenticator = match config.insecure_no_authentication {
        true => Authenticator::insecure(),
        false => Authenticator::new(&config.identity, &config.directory)?,
    };
    let policy = Arc::new(Policy::watch(config.policy.file.clone())?);
    let tls = tls::watch(&config.server.certificate, &config.server.key, &authenticator.client_ca_files())?;
    let tls = Arc::new(tls);
    let audit = Audit::open(config.audit.file.as_deref())?;
    let (store, kept) = Store::open(&config.state.file)?;
    let link = Link::start(&config.forwarder.socket)?;
    let keeper = Keeper::start(settings(&config), Arc::clone(&policy), link, store, kept);
    let desk =
        Arc::new(Desk { keeper: Arc::clone(&keeper), authenticator, audit, decisions: Decisions::default() });
    if let Some(address) = config.metrics.listen {
        let bound = http::serve(address, Arc::clone(&desk)).await;
        let bound = bound.map_err(|e| anyhow::anyhow!("metrics.listen {address} cannot be had: {e}"))?;
        tracing::info!(address = %bound, "serving /metrics and /healthz");
    }
    let insecure = desk.authenticator.is_insecure();
    let hangups = signal(SignalKind::hangup())?;
    tokio::spawn(refresh(Arc::clone(&policy), Arc::clone(&tls), insecure, hangups));

    let address = config.server.listen;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|e| {
        anyhow::anyhow!("server.listen {address} cannot be had: {e}; choose another, or stop who has it")
    })?;
    let bound = listener.local_addr()?;
    let connections = tls::accept(listener, tls, config.server.connections as usize);
    let (health, health_service) = tonic_health::server::health_reporter();
    tokio::spawn(tell_health(Arc::clone(&keeper), health));
    tokio::spawn(manager::report(move || status(&keeper, bound)));
    let control =
        ControlServer::new(scistream::Service(Arc::clone(&desk))).max_decoding_message_size(LONGEST);
    let gateway = GatewayServer::new(gateway::Service(desk)).max_decoding_message_size(LONGEST);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let router = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(SILENT))
        .http2_keepalive_timeout(Some(SILENT))
        .max_concurrent_streams(Some(CALLS))
        .layer(tower::util::MapResponseLayer::new(too_long))
        .add_service(control)
        .add_service(gateway)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    ready(bound);
    manager::ready();
    let (stopped, last) = tokio::sync::oneshot::channel::<()>();
    let serving = router.serve_with_incoming_shutdown(ReceiverStream::new(connections), async {
        stop.await;
        manager::stopping();
        // Streams and calls that wait would keep the server for minutes.
        _ = stopped.send(());
    });
    tokio::select! {
        served = serving => served?,
        () = async { _ = last.await; tokio::time::sleep(LAST).await } => {}
    }
    Ok(())
}

fn settings(config: &Config) -> Settings {
    let Config { listeners, sessions, .. } = config;
    Settings {
        owner: config.forwarder.owner.clone(),
        producer: listeners.producer.clone(),
        consumer: listeners.consumer.clone(),
        addresses: Some(listeners.addresses.clone()).filter(|addresses| !addresses.is_empty()),
        limits: Limits {
            ports: listeners.ports.first..=listeners.ports.last,
            pending: sessions.pending as usize,
            pending_per_user: sessions.pending_per_user as usize,
        },
        hello: sessions.hello,
        update: sessions.update,
        capacity: config.capacity.clone(),
    }
}

/// One line for the operator. It looks at the book, so that it stalls when sessions do.
fn status(keeper: &Keeper, address: SocketAddr) -> String {
    let sessions = keeper.look(|book| book.iter().count());
    let forwarder = match (keeper.forwarder(), keeper.in_step()) {
        (_, true) => "in step with the forwarder",
        (Some(_), false) => "not in step with the forwarder yet",
        (None, false) => "the forwarder does not answer",
    };
    format!("serving on {address}; sessions: {sessions}; {forwarder}")
}

/// Looks whether files changed, now and then, and when a SIGHUP asks for it.
async fn refresh(
    policy: Arc<Watched<Policy>>,
    tls: Arc<Watched<rustls::ServerConfig>>,
    insecure: bool,
    mut hangups: Signal,
) {
    let mut reminded = tokio::time::Instant::now();
    let warn =
        || tracing::warn!("serving callers who prove no identity, as --insecure-no-authentication asks for");
    if insecure {
        warn();
    }
    loop {
        let asked = matches!(tokio::time::timeout(REFRESH, hangups.recv()).await, Ok(Some(())));
        if asked {
            manager::reloading();
            tracing::info!("told to look at policy and certificates; s2cs.toml itself is read at start only");
        }
        match policy.refresh() {
            Some(Ok(_)) => tracing::info!("the policy was read again"),
            Some(Err(error)) => tracing::error!(%error, "the new policy is not used; the old one holds"),
            None => {}
        }
        match tls.refresh() {
            Some(Ok(_)) => tracing::info!("the certificates were read again"),
            Some(Err(error)) => {
                tracing::error!(%error, "the new certificates are not used; the old ones hold")
            }
            None => {}
        }
        if asked {
            manager::ready();
        }
        if insecure && reminded.elapsed() >= REMIND {
            warn();
            reminded = tokio::time::Instant::now();
        }
    }
}

/// gRPC health: serving while in step with the forwarder.
async fn tell_health(keeper: Arc<Keeper>, health: tonic_health::server::HealthReporter) {
    loop {
        let status = match keeper.in_step() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        for service in ["", "scistream.Control", "scistream.gateway.v1.Gateway"] {
            health.set_service_status(service, status).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A message above [`LONGEST`] is told as gRPC has it: the library says OUT_OF_RANGE, which we never do.
fn too_long<B>(mut response: ::http::Response<B>) -> ::http::Response<B> {
    if let Some(code) = response.headers_mut().get_mut(Status::GRPC_STATUS)
        && code == "11"
    {
        *code = ::http::HeaderValue::from_static("8");
    }
    response
}

/// What both services stand on.
#[derive(Debug)]
pub(crate) struct Desk {
    keeper: Arc<Keeper>,
    authenticator: Authenticator,
    audit: Audit,
    decisions: Decisions,
}

/// Somebody known who calls.
#[derive(Debug)]
pub(crate) struct Caller {
    who: Principal,
    peer: Option<SocketAddr>,
    call: &'static str,
}

/// What the audit log says of a call beside its outcome.
#[derive(Debug)]
struct Asked {
    caller: Caller,
    uid: String,
    what: Value,
}

/// A call that waits. When its caller hangs up meanwhile, that is written down.
struct Waiting<'a> {
    desk: &'a Desk,
    asked: &'a Asked,
    over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.over {
            let gone = StepError::Aborted("its caller has gone".to_owned());
            let Asked { caller, uid, what } = self.asked;
            _ = self.desk.refuse(caller, Some(uid), what, gone);
        }
    }
}

impl Desk {
    /// Who calls, and with what.
    async fn caller<T>(&self, call: &'static str, request: Request<T>) -> Result<(Caller, T), Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let shown = Credentials {
            authorization: request.metadata().get("authorization").map(|v| v.to_str().unwrap_or("?")),
            certificate: peer.as_ref().and_then(|p| p.certificate.as_deref()),
        };
        let address = peer.as_ref().map(|p| p.address);
        match self.authenticator.authenticate(shown).await {
            Ok(who) => Ok((Caller { who, peer: address, call }, request.into_inner())),
            Err(refused) => {
                let why = refused.to_string();
                let status = match refused {
                    Refused::Unavailable { .. } => Status::unavailable(&why),
                    Refused::Nothing | Refused::Invalid(_) => Status::unauthenticated(&why),
                };
                self.count(call, &format!("{:?}", status.code()));
                self.audit.write(&Entry {
                    call,
                    who: None,
                    peer: address,
                    uid: None,
                    asked: &Value::Null,
                    decision: Decision::Refused,
                    why: &why,
                    session: None,
                });
                Err(status)
            }
        }
    }

    /// Makes a step and decides on its outcome, even when the caller hangs up meanwhile: what was done is written down.
    async fn perform(
        self: &Arc<Self>,
        asked: Asked,
        step: impl Future<Output = Step<Session>> + Send + 'static,
    ) -> Result<Session, Status> {
        let desk = Arc::clone(self);
        let decided = async move { desk.decide(&asked, step.await, |session| session) };
        match tokio::spawn(decided).await {
            Ok(decided) => decided,
            Err(error) => Err(Status::internal(format!("the control server failed ({error})"))),
        }
    }

    /// Writes a decision down, counts it, and makes an answer of it.
    fn decide<T>(
        &self,
        asked: &Asked,
        outcome: Step<T>,
        session: impl Fn(&T) -> &Session,
    ) -> Result<T, Status> {
        let Asked { caller, uid, what } = asked;
        let done = outcome.map_err(|error| self.refuse(caller, Some(uid), what, error))?;
        self.count(caller.call, "granted");
        self.audit.write(&Entry {
            call: caller.call,
            who: Some(&caller.who),
            peer: caller.peer,
            uid: Some(uid),
            asked: what,
            decision: Decision::Granted,
            why: "",
            session: Some(session(&done)),
        });
        Ok(done)
    }

    /// Writes down that something was not done, counts it, and makes an answer of it.
    fn refuse(&self, caller: &Caller, uid: Option<&str>, what: &Value, error: StepError) -> Status {
        let why = error.to_string();
        let decision = match error {
            StepError::Refused(_) | StepError::Book(BookError::NotFound(_)) => Decision::Refused,
            _ => Decision::Failed,
        };
        let status = Status::from(error);
        self.count(caller.call, &format!("{:?}", status.code()));
        self.audit.write(&Entry {
            call: caller.call,
            who: Some(&caller.who),
            peer: caller.peer,
            uid,
            asked: what,
            decision,
            why: &why,
            session: None,
        });
        status
    }

    fn count(&self, call: &'static str, outcome: &str) {
        self.decisions.get_or_create(&Outcome { call, outcome: outcome.to_owned() }).inc();
    }
}

impl From<StepError> for Status {
    fn from(error: StepError) -> Self {
        let code = match &error {
            StepError::Book(book) => match book {
                BookError::Exists(_) => Code::AlreadyExists,
                BookError::NotFound(_) => Code::NotFound,
                BookError::Exhausted(_) => Code::ResourceExhausted,
                BookError::State { .. } | BookError::Ambiguous(..) => Code::FailedPrecondition,
            },
            StepError::Refused(_) => Code::PermissionDenied,
            StepError::Invalid(_) => Code::InvalidArgument,
            StepError::Late(_) => Code::DeadlineExceeded,
            StepError::Aborted(_) => Code::Aborted,
            StepError::Unavailable(_) => Code::Unavailable,
        };
        Status::new(code, error.to_string())
    }
}
