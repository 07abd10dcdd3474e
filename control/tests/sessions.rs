//! Any calls by anybody in any order, against a model of what sessions are: each call is answered as the model says, and
//! afterwards the forwarder has exactly the flows of the model's sessions.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::site::{Settings, Site};
use control::proto::gateway::gateway_client::GatewayClient;
use control::proto::gateway::{CloseRequest, GetGatewayRequest, GetRequest, OpenRequest, RenewRequest, Role};
use control::proto::scistream as old;
use control::proto::scistream::control_client::ControlClient;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

/// The last is the administrator: he may see and end what others have, and has no rule to open anything by.
const USERS: [&str; 3] = ["alice", "bob", "root"];
const ROOT: usize = 2;
const UIDS: [&str; 2] = ["one", "../two"];
/// Listeners of the range that the sites below have.
const PORTS: usize = 6;

#[derive(Debug, Clone)]
enum Call {
    Req { user: usize, uid: usize, listeners: usize },
    Hello { user: usize, uid: usize },
    Update { user: usize, uid: usize, target: u16 },
    Open { user: usize, uid: usize, listeners: usize, target: u16 },
    Renew { user: usize, uid: usize },
    Get { user: usize, uid: usize },
    Release { user: usize, uid: usize },
    Close { user: usize, uid: usize },
    ServerDies,
    ForwarderDies,
}

fn call() -> impl Strategy<Value = Call> {
    let who = (0..USERS.len(), 0..UIDS.len());
    let (listeners, target) = (1..=4usize, 7000..7003u16);
    prop_oneof![
        4 => (who.clone(), listeners.clone()).prop_map(|((user, uid), listeners)| Call::Req { user, uid, listeners }),
        4 => who.clone().prop_map(|(user, uid)| Call::Hello { user, uid }),
        4 => (who.clone(), target.clone()).prop_map(|((user, uid), target)| Call::Update { user, uid, target }),
        2 => (who.clone(), listeners, target)
            .prop_map(|((user, uid), listeners, target)| Call::Open { user, uid, listeners, target }),
        2 => who.clone().prop_map(|(user, uid)| Call::Renew { user, uid }),
        1 => who.clone().prop_map(|(user, uid)| Call::Get { user, uid }),
        2 => who.clone().prop_map(|(user, uid)| Call::Release { user, uid }),
        1 => who.prop_map(|(user, uid)| Call::Close { user, uid }),
        1 => Just(Call::ServerDies),
        1 => Just(Call::ForwarderDies),
    ]
}

/// What a session is to the model.
#[derive(Debug, Clone, PartialEq)]
enum State {
    Reserving,
    Listening,
    Active(u16),
}

#[derive(Debug, Clone)]
struct Session {
    state: State,
    listeners: usize,
}

/// Sessions by owner and uid.
#[derive(Debug, Default)]
struct Model(BTreeMap<(usize, usize), Session>);

impl Model {
    /// The session that a user means: his own; for the administrator anybody's, if it is only one's.
    fn find(&self, user: usize, uid: usize) -> Result<(usize, usize), Code> {
        if self.0.contains_key(&(user, uid)) {
            return Ok((user, uid));
        }
        let others: Vec<_> = self.0.keys().filter(|key| key.1 == uid && user == ROOT).collect();
        match others[..] {
            [] => Err(Code::NotFound),
            [key] => Ok(*key),
            _ => Err(Code::FailedPrecondition),
        }
    }

    fn room(&self, user: usize, uid: usize, listeners: usize) -> Result<(), Code> {
        let taken: usize = self.0.values().map(|s| s.listeners).sum();
        match () {
            () if user == ROOT => Err(Code::PermissionDenied),
            () if self.0.contains_key(&(user, uid)) => Err(Code::AlreadyExists),
            () if taken + listeners > PORTS => Err(Code::ResourceExhausted),
            () => Ok(()),
        }
    }

    /// What the call is answered, and what it changes.
    fn take(&mut self, call: &Call) -> Result<(), Code> {
        match *call {
            Call::Req { user, uid, listeners } => {
                self.room(user, uid, listeners)?;
                self.0.insert((user, uid), Session { state: State::Reserving, listeners });
            }
            Call::Open { user, uid, listeners, target } => {
                self.room(user, uid, listeners)?;
                self.0.insert((user, uid), Session { state: State::Active(target), listeners });
            }
            Call::Hello { user, uid } => {
                let session = self.0.get_mut(&self.find(user, uid)?).unwrap();
                match session.state {
                    State::Reserving => session.state = State::Listening,
                    _ => return Err(Code::FailedPrecondition),
                }
            }
            Call::Update { user, uid, target } => {
                let session = self.0.get_mut(&self.find(user, uid)?).unwrap();
                match session.state {
                    _ if user == ROOT => return Err(Code::PermissionDenied),
                    State::Reserving => return Err(Code::FailedPrecondition),
                    _ => session.state = State::Active(target),
                }
            }
            Call::Renew { user, uid } => match self.0[&self.find(user, uid)?].state {
                _ if user == ROOT => return Err(Code::PermissionDenied),
                State::Active(_) => {}
                _ => return Err(Code::FailedPrecondition),
            },
            Call::Get { user, uid } => _ = self.find(user, uid)?,
            Call::Release { user, uid } | Call::Close { user, uid } => {
                _ = self.0.remove(&self.find(user, uid)?)
            }
            Call::ServerDies => self.0.retain(|_, s| matches!(s.state, State::Active(_))),
            Call::ForwarderDies => {}
        }
        Ok(())
    }
}

type Pending = JoinHandle<Result<Response<old::Response>, Status>>;

/// The users' clients of one server.
struct Clients {
    channel: Channel,
    tokens: Vec<String>,
}

impl Clients {
    async fn new(site: &Site) -> Clients {
        Clients {
            channel: site.channel().await,
            tokens: USERS.map(|user| site.token(user).to_owned()).into(),
        }
    }

    fn say<T>(&self, user: usize, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.tokens[user].parse().unwrap());
        request
    }

    fn old(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone())
    }

    fn new_service(&self) -> GatewayClient<Channel> {
        GatewayClient::new(self.channel.clone())
    }
}

struct World {
    site: Site,
    clients: Clients,
    model: Model,
    /// Calls of `req` that wait for hello.
    pending: BTreeMap<(usize, usize), Pending>,
}

impl World {
    async fn take(&mut self, call: &Call) {
        // Who hello or release is about, while the model still knows.
        let meant = match *call {
            Call::Hello { user, uid } | Call::Release { user, uid } | Call::Close { user, uid } => {
                self.model.find(user, uid).ok()
            }
            _ => None,
        };
        let was = meant.and_then(|key| self.model.0.get(&key).cloned());
        let expected = self.model.take(call);
        let end = Instant::now() + Duration::from_secs(30);
        let told = loop {
            match self.make(call, expected.is_ok()).await.map_err(|status| status.code()) {
                // The server has not yet seen that the forwarder it knew is gone. Nothing was done.
                Err(Code::Unavailable) if Instant::now() < end => {}
                told => break told,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(told, expected, "{call:?}");
        if was.is_some_and(|session| session.state == State::Reserving) {
            let key = meant.unwrap();
            let waited = self.pending.remove(&key).unwrap().await.unwrap();
            match call {
                Call::Hello { .. } => {
                    assert_eq!(waited.unwrap().into_inner().listeners.len(), self.model.0[&key].listeners)
                }
                _ => assert_eq!(waited.unwrap_err().code(), Code::Aborted),
            }
        }
        self.agrees().await;
    }

    async fn make(&mut self, call: &Call, goes: bool) -> Result<(), Status> {
        let (mut old, mut new) = (self.clients.old(), self.clients.new_service());
        let text = |uid: usize| UIDS[uid].to_owned();
        let target_of = |target: u16| vec![format!("10.81.0.9:{target}")];
        match *call {
            Call::Req { user, uid, listeners } => {
                let message =
                    old::Request { uid: text(uid), role: "PROD".into(), num_conn: listeners as i32, rate: 0 };
                let request = self.clients.say(user, message);
                if !goes {
                    // At once: nothing waits.
                    return old.req(request).await.map(|_| ());
                }
                self.pending.insert((user, uid), tokio::spawn(async move { old.req(request).await }));
                // It does not answer, so that only the server itself can tell that it has begun.
                loop {
                    let message = GetRequest { uid: text(uid), owner: String::new() };
                    match new.get(self.clients.say(user, message)).await {
                        Ok(session) if session.get_ref().owner.starts_with(USERS[user]) => return Ok(()),
                        _ => assert!(
                            !self.pending[&(user, uid)].is_finished(),
                            "req was answered before hello"
                        ),
                    }
                }
            }
            Call::Hello { user, uid } => {
                let message =
                    old::Hello { uid: text(uid), prod_listeners: target_of(7000), role: "PROD".into() };
                old.hello(self.clients.say(user, message)).await.map(|_| ())
            }
            Call::Update { user, uid, target } => {
                let message = old::UpdateTargets {
                    uid: text(uid),
                    remote_listeners: target_of(target),
                    role: "PROD".into(),
                };
                old.update(self.clients.say(user, message)).await.map(|_| ())
            }
            Call::Open { user, uid, listeners, target } => {
                let message = OpenRequest {
                    uid: text(uid),
                    role: Role::Producer.into(),
                    targets: target_of(target),
                    listeners: listeners as u32,
                    ..OpenRequest::default()
                };
                new.open(self.clients.say(user, message)).await.map(|_| ())
            }
            Call::Renew { user, uid } => new
                .renew(
                    self.clients
                        .say(user, RenewRequest { uid: text(uid), lease: None, owner: String::new() }),
                )
                .await
                .map(|_| ()),
            Call::Get { user, uid } => new
                .get(self.clients.say(user, GetRequest { uid: text(uid), owner: String::new() }))
                .await
                .map(|_| ()),
            Call::Release { user, uid } => {
                old.release(self.clients.say(user, old::Release { uid: text(uid) })).await.map(|_| ())
            }
            Call::Close { user, uid } => new
                .close(self.clients.say(user, CloseRequest { uid: text(uid), owner: String::new() }))
                .await
                .map(|_| ()),
            Call::ServerDies => {
                self.site.kill_and_start();
                self.clients = Clients::new(&self.site).await;
                for (_, pending) in std::mem::take(&mut self.pending) {
                    assert!(pending.await.unwrap().is_err());
                }
                self.until_in_step().await;
                Ok(())
            }
            Call::ForwarderDies => {
                self.site.forwarder.restart();
                assert!(self.site.forwarder.flows().is_empty());
                self.until_flows_are_back().await;
                self.until_in_step().await;
                Ok(())
            }
        }
    }

    async fn until_in_step(&self) {
        let end = Instant::now() + Duration::from_secs(30);
        while !self.gateway().await.forwarding {
            assert!(Instant::now() < end, "not in step: {}", self.site.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn until_flows_are_back(&self) {
        let end = Instant::now() + Duration::from_secs(30);
        let wanted = self.flows_of_the_model();
        while self.site.forwarder.flows().len() != wanted {
            assert!(Instant::now() < end, "flows do not come back: {}", self.site.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn flows_of_the_model(&self) -> usize {
        self.model.0.values().filter(|s| matches!(s.state, State::Active(_))).map(|s| s.listeners).sum()
    }

    async fn gateway(&self) -> control::proto::gateway::GatewayInfo {
        let mut client = self.clients.new_service();
        client.get_gateway(self.clients.say(0, GetGatewayRequest {})).await.unwrap().into_inner()
    }

    /// The forwarder has exactly the flows of the model's sessions, and what nobody has is free.
    async fn agrees(&self) {
        let flows = self.site.forwarder.flows();
        let mut left: Vec<_> = flows.values().map(|f| (f.spec.listen, f.spec.target.port())).collect();
        for ((user, uid), session) in &self.model.0 {
            let message = GetRequest { uid: UIDS[*uid].to_owned(), owner: String::new() };
            let seen =
                self.clients.new_service().get(self.clients.say(*user, message)).await.unwrap().into_inner();
            assert_eq!(seen.owner, format!("{}@site", USERS[*user]));
            assert_eq!(seen.listeners.len(), session.listeners);
            if let State::Active(target) = session.state {
                for listener in &seen.listeners {
                    let at = left.iter().position(|f| *f == (listener.address.parse().unwrap(), target));
                    left.swap_remove(at.unwrap_or_else(|| panic!("{listener:?} has no flow in {flows:?}")));
                }
            }
        }
        assert!(left.is_empty(), "flows of no session: {left:?}");
        let taken: usize = self.model.0.values().map(|s| s.listeners).sum();
        // On each of the gateway's four addresses.
        assert_eq!(self.gateway().await.listeners_free as usize, 4 * PORTS - taken);
    }
}

#[test]
fn any_calls_in_any_order_are_answered_as_the_model_says() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let site = Site::new(&Settings { ports: "5100-5105", ..Settings::default() });
    let clients = runtime.block_on(Clients::new(&site));
    let world =
        std::cell::RefCell::new(World { site, clients, model: Model::default(), pending: BTreeMap::new() });
    // What fails leaves sessions behind: the calls that failed are shown as they were, not a shorter case of them.
    let config = Config { cases: 48, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&prop::collection::vec(call(), 1..40), |calls| {
        let mut world = world.borrow_mut();
        runtime.block_on(async {
            world.until_in_step().await;
            for call in &calls {
                world.take(call).await;
            }
            // The next case begins with nothing.
            let all: Vec<_> = world.model.0.keys().copied().collect();
            for (user, uid) in all {
                world.take(&Call::Release { user, uid }).await;
            }
            assert!(world.site.forwarder.flows().is_empty() && world.pending.is_empty());
        });
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}\n{}", world.borrow().site.log());
    }
}
