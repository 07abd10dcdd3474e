//! `scistream.gateway.v1.Gateway`, our own service.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forwarder::api::{FlowInfo, Proto};
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::scistream::uid_of;
use super::{Asked, Caller, Desk};
use crate::book::Change;
use crate::file::parse_prefix;
use crate::keeper::{Open, Step, StepError, parse_targets};
use crate::policy::{Ask, Refusal, Role};
use crate::proto::gateway as wire;
use crate::proto::gateway::gateway_server::Gateway;
use crate::session::{Name, Session, State};

/// Most labels of a session, and most bytes of a name or value.
const MAX_LABELS: usize = 32;
const MAX_LABEL: usize = 256;
/// Most source prefixes of a session.
const MAX_SOURCES: usize = 256;
/// Events that a slow watcher's stream holds.
const EVENTS: usize = 64;

/// The service.
#[derive(Debug, Clone)]
pub(super) struct Service(pub(super) Arc<Desk>);

#[tonic::async_trait]
impl Gateway for Service {
    type WatchStream = ReceiverStream<Result<wire::Event, Status>>;

    async fn open(&self, request: Request<wire::OpenRequest>) -> Result<Response<wire::Session>, Status> {
        let (caller, request) = self.0.caller("open", request).await?;
        let uid = request.uid.clone();
        let what = json!({
            "role": request.role().as_str_name(),
            "protocol": request.protocol().as_str_name(),
            "targets": request.targets,
            "sources": request.sources,
            "listeners": request.listeners,
            "connections": request.connections,
            "rate_mbps": request.rate_mbps,
            "lease": request.lease.as_ref().map(|lease| lease.seconds),
            "path": request.path,
        });
        let (keeper, who) = (Arc::clone(&self.0.keeper), caller.who.clone());
        let step = async move { keeper.open(who, read_open(request)?).await };
        let session = self.0.perform(Asked { caller, uid, what }, step).await?;
        Ok(Response::new(self.0.show(&session, &[])))
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::Session>, Status> {
        let (caller, request) = self.0.caller("get", request).await?;
        let find = move || self.0.keeper.get(&caller.who, &name_of(&request.uid, request.owner)?);
        let session = find().map_err(Status::from)?;
        let traffic = match session.state {
            State::Active | State::Draining => self.0.keeper.traffic(&session).await,
            _ => Vec::new(),
        };
        Ok(Response::new(self.0.show(&session, &traffic)))
    }

    async fn list(
        &self,
        request: Request<wire::ListRequest>,
    ) -> Result<Response<wire::ListResponse>, Status> {
        let (caller, wire::ListRequest { all }) = self.0.caller("list", request).await?;
        let seen = self.seen(&caller, all)?;
        let mut sessions: Vec<Session> =
            self.0.keeper.look(|book| book.iter().filter(|s| seen.includes(s)).cloned().collect());
        sessions.sort_by(|a, b| (&a.owner, &a.uid).cmp(&(&b.owner, &b.uid)));
        let sessions = sessions.iter().map(|s| self.0.show(s, &[])).collect();
        Ok(Response::new(wire::ListResponse { sessions }))
    }

    async fn renew(&self, request: Request<wire::RenewRequest>) -> Result<Response<wire::Session>, Status> {
        let (caller, wire::RenewRequest { uid, lease, owner }) = self.0.caller("renew", request).await?;
        let what = json!({"lease": lease.as_ref().map(|lease| lease.seconds)});
        let (keeper, who, wanted) = (Arc::clone(&self.0.keeper), caller.who.clone(), name_of(&uid, owner));
        let step = async move { keeper.renew(who, wanted?, lease.map(read_lease).transpose()?).await };
        let session = self.0.perform(Asked { caller, uid, what }, step).await?;
        Ok(Response::new(self.0.show(&session, &[])))
    }

    async fn drain(&self, request: Request<wire::DrainRequest>) -> Result<Response<wire::Session>, Status> {
        let (caller, wire::DrainRequest { uid, owner }) = self.0.caller("drain", request).await?;
        let (keeper, who, wanted) = (Arc::clone(&self.0.keeper), caller.who.clone(), name_of(&uid, owner));
        let step = async move { keeper.drain(who, wanted?).await };
        let session = self.0.perform(Asked { caller, uid, what: Value::Null }, step).await?;
        Ok(Response::new(self.0.show(&session, &[])))
    }

    async fn close(
        &self,
        request: Request<wire::CloseRequest>,
    ) -> Result<Response<wire::CloseResponse>, Status> {
        let (caller, wire::CloseRequest { uid, owner }) = self.0.caller("close", request).await?;
        let (keeper, who, wanted) = (Arc::clone(&self.0.keeper), caller.who.clone(), name_of(&uid, owner));
        let step = async move { keeper.release(who, wanted?).await };
        self.0.perform(Asked { caller, uid, what: Value::Null }, step).await?;
        Ok(Response::new(wire::CloseResponse {}))
    }

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (caller, wire::WatchRequest { uid, all }) = self.0.caller("watch", request).await?;
        let mut seen = self.seen(&caller, all)?;
        // First the changes, so that none is missed between the look and them.
        let changes = self.0.keeper.changes();
        if !uid.is_empty() {
            let find = || self.0.keeper.get(&caller.who, &uid_of(&uid)?.into());
            let session = find().map_err(Status::from)?;
            seen = Seen::One(session.id);
        }
        let now: Vec<Session> =
            self.0.keeper.look(|book| book.iter().filter(|s| seen.includes(s)).cloned().collect());
        let (events, stream) = mpsc::channel(EVENTS);
        let prefix = self.0.keeper.settings().owner.clone();
        let told = tell(prefix, now, changes, seen, events.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = told => {}
                () = end_of_proof(caller.who.expires) => {
                    let why = "your token or certificate has expired; watch again with a new one";
                    // He may be behind, or have hung up.
                    _ = events.try_send(Err(Status::unauthenticated(why)));
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn get_gateway(
        &self,
        request: Request<wire::GetGatewayRequest>,
    ) -> Result<Response<wire::GatewayInfo>, Status> {
        self.0.caller("get_gateway", request).await?;
        let keeper = &self.0.keeper;
        let settings = keeper.settings();
        let mut paths: Vec<wire::Path> = Vec::new();
        let mut listeners_free = 0;
        let connected = keeper.forwarder();
        for port in connected.iter().flat_map(|connected| &connected.ports) {
            let mut roles = Vec::new();
            for role in [Role::Producer, Role::Consumer] {
                if settings.paths(role).contains(&port.name) {
                    roles.push(i32::from(write_role(role)));
                }
            }
            let (capacity, reserved) = keeper.look(|book| book.rates(&port.name));
            if !roles.is_empty() {
                let free = |address| keeper.look(|book| book.listeners_free(Proto::Tcp, address));
                listeners_free += keeper.addresses(port).map(free).sum::<usize>();
            }
            paths.push(wire::Path {
                addresses: port.addresses.iter().map(|net| net.addr().to_string()).collect(),
                name: port.name.clone(),
                roles,
                mtu: port.mtu.into(),
                link: port.link.clone(),
                capacity_mbps: capacity.unwrap_or(0),
                reserved_mbps: reserved,
            });
        }
        Ok(Response::new(wire::GatewayInfo {
            program: concat!("s2cs ", env!("CARGO_PKG_VERSION")).to_owned(),
            forwarding: keeper.in_step(),
            paths,
            listeners_free: listeners_free.try_into().unwrap_or(u32::MAX),
        }))
    }
}

/// Which sessions a caller sees.
#[derive(Debug)]
enum Seen {
    All,
    Of(String),
    /// By id.
    One(u64),
}

impl Seen {
    fn includes(&self, session: &Session) -> bool {
        match self {
            Seen::All => true,
            Seen::Of(owner) => &session.owner == owner,
            Seen::One(id) => session.id == *id,
        }
    }
}

impl Desk {
    fn show(&self, session: &Session, traffic: &[Option<FlowInfo>]) -> wire::Session {
        write_session(&self.keeper.settings().owner, session, traffic)
    }
}

impl Service {
    fn seen(&self, caller: &Caller, all: bool) -> Result<Seen, Status> {
        match all {
            false => Ok(Seen::Of(caller.who.subject.clone())),
            true if self.0.keeper.policy().get().administrator(&caller.who) => Ok(Seen::All),
            true => {
                let why = "only an administrator sees everybody's sessions; leave out `all`";
                Err(self.0.refuse(caller, None, &Value::Null, Refusal(why.to_owned()).into()))
            }
        }
    }
}

/// Waits until what has proved an identity ends: for ever, if it has no end.
async fn end_of_proof(expires: Option<SystemTime>) {
    match expires.map(|expires| expires.duration_since(SystemTime::now()).unwrap_or_default()) {
        Some(left) => tokio::time::sleep(left).await,
        None => std::future::pending().await,
    }
}

/// Tells a watcher, until he hangs up, falls behind, or the one session that he watches ends.
async fn tell(
    prefix: String,
    now: Vec<Session>,
    mut changes: broadcast::Receiver<Change>,
    seen: Seen,
    events: mpsc::Sender<Result<wire::Event, Status>>,
) {
    let event = |session: &Session, before: Option<State>, reason: &str| wire::Event {
        session: Some(write_session(&prefix, session, &[])),
        before: before.map_or(wire::State::Unspecified, write_state).into(),
        reason: reason.to_owned(),
        at: Some(SystemTime::now().into()),
    };
    for session in &now {
        if events.send(Ok(event(session, None, "as it is"))).await.is_err() {
            return;
        }
    }
    loop {
        let change = tokio::select! {
            () = events.closed() => return,
            change = changes.recv() => change,
        };
        let told = match change {
            Ok(Change { session, before, reason }) if seen.includes(&session) => {
                let over = session.state == State::Ended && matches!(seen, Seen::One(..));
                if events.send(Ok(event(&session, before, &reason))).await.is_err() || over {
                    return;
                }
                continue;
            }
            Ok(_) => continue,
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                Status::data_loss(format!("you have missed {missed} changes; watch again"))
            }
            Err(broadcast::error::RecvError::Closed) => {
                Status::unavailable("the control server ends; watch again")
            }
        };
        // He may have hung up.
        _ = events.send(Err(told)).await;
        return;
    }
}

/// A session as a request names it.
fn name_of(uid: &str, owner: String) -> Step<Name> {
    Ok(Name { uid: uid_of(uid)?, owner: Some(owner).filter(|owner| !owner.is_empty()) })
}

fn read_open(request: wire::OpenRequest) -> Step<Open> {
    let invalid = |why: &str| Err(StepError::Invalid(why.to_owned()));
    let role = match request.role() {
        wire::Role::Producer => Role::Producer,
        wire::Role::Consumer => Role::Consumer,
        wire::Role::Unspecified => return invalid("role is missing; give ROLE_PRODUCER or ROLE_CONSUMER"),
    };
    let proto = match request.protocol() {
        wire::Protocol::Udp => Proto::Udp,
        wire::Protocol::Tcp => Proto::Tcp,
        wire::Protocol::Unspecified if request.protocol == 0 => Proto::Tcp,
        wire::Protocol::Unspecified => {
            return invalid("protocol is unknown; give PROTOCOL_TCP or PROTOCOL_UDP");
        }
    };
    let wire::OpenRequest {
        uid,
        targets,
        sources,
        listeners,
        connections,
        rate_mbps,
        lease,
        labels,
        path,
        ..
    } = request;
    let uid = Some(uid).filter(|uid| !uid.is_empty()).map(|uid| uid_of(&uid)).transpose()?;
    let targets: Vec<SocketAddr> = parse_targets(&targets)?;
    if sources.len() > MAX_SOURCES {
        return Err(StepError::Invalid(format!(
            "{} sources are too many; give at most {MAX_SOURCES}",
            sources.len()
        )));
    }
    let sources = sources.iter().map(|text| parse_prefix(text)).collect::<Result<Vec<_>, _>>();
    let sources = Some(sources.map_err(StepError::Invalid)?).filter(|sources| !sources.is_empty());
    let ask = Ask {
        role,
        proto,
        listeners: if listeners == 0 { targets.len() as u32 } else { listeners },
        targets,
        sources,
        connections: Some(connections).filter(|n| *n > 0),
        rate: Some(rate_mbps).filter(|n| *n > 0),
        lease: lease.map(read_lease).transpose()?,
    };
    let path = Some(path).filter(|path| !path.is_empty());
    Ok(Open { uid, ask, path, labels: read_labels(labels)? })
}

fn read_labels(labels: HashMap<String, String>) -> Step<BTreeMap<String, String>> {
    let fits = |text: &String| text.len() <= MAX_LABEL && !text.chars().any(char::is_control);
    if labels.len() > MAX_LABELS || !labels.iter().all(|(name, value)| fits(name) && fits(value)) {
        return Err(StepError::Invalid(format!(
            "labels are at most {MAX_LABELS}, of {MAX_LABEL} bytes each and without control characters"
        )));
    }
    Ok(labels.into_iter().collect())
}

fn read_lease(lease: prost_types::Duration) -> Step<Duration> {
    let lease = Duration::try_from(lease).ok().filter(|lease| lease.as_secs() > 0);
    lease.ok_or_else(|| StepError::Invalid("lease is too short; give at least one second".to_owned()))
}

fn write_role(role: Role) -> wire::Role {
    match role {
        Role::Producer => wire::Role::Producer,
        Role::Consumer => wire::Role::Consumer,
    }
}

fn write_state(state: State) -> wire::State {
    match state {
        State::Reserving => wire::State::Reserving,
        State::Listening => wire::State::Listening,
        State::Updating => wire::State::Updating,
        State::Active => wire::State::Active,
        State::Draining => wire::State::Draining,
        State::Releasing => wire::State::Releasing,
        State::Ended => wire::State::Ended,
    }
}

fn write_session(prefix: &str, session: &Session, traffic: &[Option<FlowInfo>]) -> wire::Session {
    let time = |seconds| Some((UNIX_EPOCH + Duration::from_secs(seconds)).into());
    let listener = |(i, address): (usize, &SocketAddr)| wire::Listener {
        address: address.to_string(),
        target: session.target(i).map(|target| target.to_string()).unwrap_or_default(),
        flow: session.flow_name(prefix, i),
        traffic: traffic.get(i).and_then(Option::as_ref).map(|flow| wire::Traffic {
            connections: flow.connections,
            admitted: flow.admitted,
            refused: flow.refused,
            packets_to_target: flow.to_target.packets,
            bytes_to_target: flow.to_target.bytes,
            packets_to_client: flow.to_client.packets,
            bytes_to_client: flow.to_client.bytes,
        }),
    };
    wire::Session {
        uid: session.uid.to_string(),
        role: write_role(session.role).into(),
        state: write_state(session.state).into(),
        protocol: match session.proto {
            Proto::Tcp => wire::Protocol::Tcp,
            Proto::Udp => wire::Protocol::Udp,
        }
        .into(),
        owner: session.owner.clone(),
        listeners: session.listeners.iter().enumerate().map(listener).collect(),
        sources: session.sources.iter().map(ToString::to_string).collect(),
        connections: session.connections.unwrap_or(0),
        rate_mbps: session.rate.unwrap_or(0),
        limit_mbps: session.limit.unwrap_or(0),
        created: time(session.created),
        expires: time(session.expires),
        labels: session.labels.clone().into_iter().collect(),
        path: session.path.clone(),
    }
}
