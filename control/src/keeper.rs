//! Keeps sessions: what users ask for becomes flows in the forwarder and records in the state file, and stays so.
//!
//! Each session is changed by one step at a time (its own lock), and no step is under way while everything is put in step with the
//! forwarder (the gate). A step that has begun has to go to its end: who serves callers sees to that when one hangs up. Only
//! `reserve` may be dropped at any time. The book's lock is never held across a wait.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use forwarder::api::{
    ApiError, ErrorCode, FlowInfo, FlowSpec, LeaseRenewal, PortInfo, Proto, Reply, Request,
};
use ipnet::IpNet;
use tokio::sync::{OwnedMutexGuard, RwLock, RwLockReadGuard, broadcast, oneshot, watch};

use crate::book::{Book, BookError, Change, Limits, New};
use crate::file::Watched;
use crate::identity::Principal;
use crate::link::{Connected, Link, LinkError};
use crate::policy::{Ask, Policy, Refusal, Role};
use crate::session::{Key, Name, Session, State, Uid, unix};
use crate::store::{Kept, Store, StoreError};

mod reconcile;

/// Changes that a watcher may be behind before it loses some.
const WATCH_BEHIND: usize = 4096;
/// How often other listeners are tried when an operator's flow turns out to have one.
const TRIES: usize = 4;
/// How long a step waits for a forwarder that has just come.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the keeper is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// First part of the names of its flows, before `:`.
    pub owner: String,
    /// The forwarder's ports that sessions listen on, first choice first.
    pub producer: Vec<String>,
    /// The same for the consumer's side.
    pub consumer: Vec<String>,
    /// Only these of the ports' addresses; none means all.
    pub addresses: Option<Vec<IpAddr>>,
    /// What all sessions together may hold.
    pub limits: Limits,
    /// How long `req` waits for hello.
    pub hello: Duration,
    /// How long update may come after hello.
    pub update: Duration,
    /// Mbit/s of the forwarder's ports, where not the link's speed.
    pub capacity: BTreeMap<String, u64>,
}

impl Settings {
    /// Ports that sessions of a role listen on.
    pub fn paths(&self, role: Role) -> &[String] {
        match role {
            Role::Producer => &self.producer,
            Role::Consumer => &self.consumer,
        }
    }
}

/// Why a step was not made. Each has its gRPC code in [`crate::server`].
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Not in this state, or something has run out.
    #[error(transparent)]
    Book(#[from] BookError),
    /// Policy.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The request itself.
    #[error("{0}")]
    Invalid(String),
    /// Hello did not come.
    #[error("hello did not come within {}; ask again", humantime::format_duration(*.0))]
    Late(Duration),
    /// The session ended while it was waited for.
    #[error("{0}")]
    Aborted(String),
    /// The forwarder or the state file.
    #[error("{0}; try again later")]
    Unavailable(String),
}

impl From<StoreError> for StepError {
    fn from(_: StoreError) -> Self {
        // Why is in the log, for the operator.
        StepError::Unavailable("the gateway cannot write its state down".to_owned())
    }
}

impl From<LinkError> for StepError {
    fn from(error: LinkError) -> Self {
        match error {
            // Why is in the log: the socket's place is the operator's business.
            LinkError::Away(_) => StepError::Unavailable("the forwarder does not answer".to_owned()),
            LinkError::Api(ApiError { code, message }) => match code {
                ErrorCode::BadRequest => StepError::Invalid(message),
                ErrorCode::Full => StepError::Book(BookError::Exhausted(message)),
                ErrorCode::Conflict => StepError::Aborted(format!(
                    "an operator's flow has taken a listener of the session ({message}); release it and ask again"
                )),
                ErrorCode::NotFound => StepError::Aborted(format!(
                    "the forwarder does not have the session's flow any more ({message}); release it and ask again"
                )),
                ErrorCode::Version | ErrorCode::Denied | ErrorCode::Internal => {
                    StepError::Unavailable(message)
                }
            },
        }
    }
}

/// A step's outcome.
pub type Step<T> = Result<T, StepError>;

/// What hello said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// As they came.
    pub targets: Vec<String>,
    /// Whether it said role `PROD`.
    pub producer: bool,
}

/// What `open` asks for.
#[derive(Debug, Clone)]
pub struct Open {
    /// Its name; none leaves it to the gateway.
    pub uid: Option<Uid>,
    /// What policy decides on.
    pub ask: Ask,
    /// The forwarder's port to listen on.
    pub path: Option<String>,
    /// The owner's notes.
    pub labels: BTreeMap<String, String>,
}

struct Inner {
    book: Book,
    /// Of sessions that are reserving, by id.
    waiters: HashMap<u64, oneshot::Sender<Word>>,
    /// Of all sessions, by id.
    locks: HashMap<u64, Arc<tokio::sync::Mutex<()>>>,
    /// Listeners that others have at the forwarder.
    foreign: HashSet<(Proto, SocketAddr)>,
}

/// Keeps sessions.
pub struct Keeper {
    settings: Settings,
    policy: Arc<Watched<Policy>>,
    link: Link,
    store: Store,
    inner: Mutex<Inner>,
    gate: RwLock<()>,
    changes: broadcast::Sender<Change>,
    /// Number of the connection to the forwarder that everything is in step with.
    in_step: watch::Sender<u64>,
    /// The forwarder's run that the state file tells of.
    instance: Mutex<Option<String>>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Takes up what was kept, and begins to keep it.
    pub fn start(
        settings: Settings,
        policy: Arc<Watched<Policy>>,
        link: Link,
        store: Store,
        kept: Kept,
    ) -> Arc<Keeper> {
        let mut book = Book::new(settings.limits.clone());
        for (path, mbps) in &settings.capacity {
            book.set_capacity(path, *mbps);
        }
        let Kept { sessions, instance } = kept;
        if !sessions.is_empty() {
            tracing::info!(sessions = sessions.len(), "sessions kept from before");
        }
        let locks = sessions.iter().map(|s| (s.id, Arc::default())).collect();
        book.restore(sessions);
        let inner = Inner { book, waiters: HashMap::new(), locks, foreign: HashSet::new() };
        let keeper = Arc::new(Keeper {
            settings,
            policy,
            link,
            store,
            inner: Mutex::new(inner),
            gate: RwLock::new(()),
            changes: broadcast::channel(WATCH_BEHIND).0,
            in_step: watch::channel(0).0,
            instance: Mutex::new(instance),
        });
        tokio::spawn(Arc::clone(&keeper).follow());
        tokio::spawn(Arc::clone(&keeper).age());
        keeper
    }

    /// What it was told.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The policy.
    pub fn policy(&self) -> &Watched<Policy> {
        &self.policy
    }

    /// The connection to the forwarder, when there is one.
    pub fn forwarder(&self) -> Option<Arc<Connected>> {
        self.link.now()
    }

    /// Whether everything is in step with the forwarder that answers now.
    pub fn in_step(&self) -> bool {
        self.link.now().is_some_and(|c| c.number == *self.in_step.borrow())
    }

    /// Every change of state from now on.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Looks at the book.
    pub fn look<T>(&self, at: impl FnOnce(&Book) -> T) -> T {
        at(&self.inner.lock().unwrap_or_else(PoisonError::into_inner).book)
    }

    /// Changes the book, and tells everybody.
    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = change(&mut inner);
        for change in inner.book.changes() {
            let Change { session, before, reason } = &change;
            tracing::info!(
                uid = session.uid.as_str(),
                owner = session.owner,
                id = format!("{:016x}", session.id),
                before = before.map_or("none", State::name),
                state = session.state.name(),
                reason,
                "session"
            );
            match (before, session.state) {
                (None, _) => _ = inner.locks.insert(session.id, Arc::default()),
                (_, State::Releasing) => _ = inner.waiters.remove(&session.id),
                (_, State::Ended) => {
                    inner.waiters.remove(&session.id);
                    inner.locks.remove(&session.id);
                }
                _ => {}
            }
            // Nobody may be watching.
            _ = self.changes.send(change);
        }
        outcome
    }

    /// `req`: reserves listeners, and waits for hello. Who does not wait to the end has nothing reserved.
    ///
    /// # Errors
    /// Policy, what has run out, or hello did not come.
    pub async fn reserve(
        self: &Arc<Self>,
        who: &Principal,
        uid: Uid,
        role: Role,
        listeners: u32,
        rate: Option<u64>,
    ) -> Step<(Session, Word)> {
        let ask = Ask {
            role,
            proto: Proto::Tcp,
            targets: Vec::new(),
            sources: None,
            listeners,
            connections: None,
            rate,
            lease: None,
        };
        let wait = self.settings.hello;
        let open = Open { uid: Some(uid), ask, path: None, labels: BTreeMap::new() };
        let new = self.new_session(who, &open, State::Reserving, wait.as_secs())?;
        let (tell, mut told) = oneshot::channel();
        let session = self.with(|inner| {
            let Inner { book, foreign, waiters, .. } = inner;
            let session = book.reserve(new, |proto, l| foreign.contains(&(proto, l)))?;
            waiters.insert(session.id, tell);
            Ok::<_, BookError>(session)
        })?;
        let (key, id) = (session.key(), session.id);
        let _abandoned = Abandoned { keeper: self, key: &key, id };
        let word = match tokio::time::timeout(wait, &mut told).await {
            Ok(word) => word,
            // Hello may have come at the last moment.
            Err(_) if self.give_up(&key, id, "hello did not come") => return Err(StepError::Late(wait)),
            Err(_) => told.await,
        };
        let word = word.map_err(|_| StepError::Aborted(format!("session {} was released", key.uid)))?;
        Ok((session, word))
    }

    /// Ends a session that is still reserving.
    fn give_up(&self, key: &Key, id: u64, why: &str) -> bool {
        self.with(|inner| {
            let reserving = inner.book.get(key, id).is_some_and(|s| s.state == State::Reserving);
            if reserving {
                inner.book.end(key, id, why);
            }
            reserving
        })
    }

    /// `hello`: lets `req` answer.
    ///
    /// # Errors
    /// There is no such session, or hello was said.
    pub fn hello(&self, who: &Principal, name: &Name, word: Word) -> Step<Session> {
        let administrator = self.policy.get().administrator(who);
        let expires = unix(SystemTime::now()) + self.settings.update.as_secs();
        self.with(|inner| {
            let session = inner.book.find(&who.subject, administrator, name)?;
            if word.producer && session.role == Role::Producer && session.state == State::Reserving {
                parse_targets(&word.targets)?;
            }
            let (key, id) = (session.key(), session.id);
            inner.book.hello(&key, expires)?;
            if inner.waiters.remove(&id).is_none_or(|waiter| waiter.send(word).is_err()) {
                inner.book.end(&key, id, "the caller of req has gone");
                return Err(BookError::NotFound(key.uid).into());
            }
            inner.book.get(&key, id).cloned().ok_or_else(|| BookError::NotFound(key.uid).into())
        })
    }

    /// `update`: connects the listeners with targets.
    ///
    /// # Errors
    /// There is no such session, its state, policy, or the forwarder.
    pub async fn update(
        &self,
        who: Principal,
        name: Name,
        role: Role,
        targets: Vec<SocketAddr>,
    ) -> Step<Session> {
        self.wait_in_step().await?;
        let (session, _turn) = self.turn(&who, &name).await?;
        if session.role != role {
            let role = spell(session.role);
            return Err(StepError::Invalid(format!(
                "session {} has role {role}; give that to update, too",
                session.uid
            )));
        }
        let again = session.state == State::Active;
        let ask = Ask {
            role,
            proto: session.proto,
            targets: targets.clone(),
            // What was granted is asked for again; a session that was only reserved gets what its site has for such.
            sources: again.then(|| session.sources.clone()),
            listeners: session.listeners.len() as u32,
            connections: session.connections.filter(|_| again),
            rate: session.rate,
            lease: again.then(|| Duration::from_secs(session.lease)),
        };
        let grant = self.policy.get().decide(&who, &ask)?;
        let charged = self.charged(&session.path, &targets);
        let (before, after) =
            self.with(|inner| inner.book.begin(&session.key(), targets, &grant, charged))?;
        let now = unix(SystemTime::now());
        let lease_from = (!again).then_some(now);
        let planned = Session { expires: lease_from.map_or(after.expires, |now| now + after.lease), ..after };
        let flows = planned.flows(&self.settings.owner, now);
        let owner = &self.settings.owner;
        let (request, undo) = match again {
            true => (apply(vec![], flows, vec![]), apply(vec![], before.flows(owner, now), vec![])),
            false => (apply(flows, vec![], vec![]), apply(vec![], vec![], planned.flow_names(owner))),
        };
        match self.settle(&planned, request, undo, lease_from).await {
            Ok(session) => Ok(session),
            Err(error) => {
                self.with(|inner| inner.book.go_back(before, &error.to_string()));
                Err(error)
            }
        }
    }

    /// `Open`: reserves and connects in one step.
    ///
    /// # Errors
    /// Policy, what has run out, or the forwarder.
    pub async fn open(&self, who: Principal, open: Open) -> Step<Session> {
        self.wait_in_step().await?;
        let mut tries = 1;
        loop {
            let begun = self.open_once(&who, &open)?;
            let turn = self.turn_of(&begun.key(), begun.id).await;
            let Some((session, _turn)) = turn.filter(|(s, _)| s.state == State::Updating) else {
                return Err(StepError::Aborted(format!("session {} was released", begun.uid)));
            };
            let now = unix(SystemTime::now());
            let owner = &self.settings.owner;
            let request = apply(session.flows(owner, now), vec![], vec![]);
            let undo = apply(vec![], vec![], session.flow_names(owner));
            let error = match self.settle(&session, request, undo, None).await {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            self.with(|inner| inner.book.end(&session.key(), session.id, &error.to_string()));
            // An operator may just have made a flow with a listener that was free when it was last looked at.
            if !matches!(error, StepError::Aborted(_)) || tries == TRIES {
                return Err(error);
            }
            tries += 1;
            self.flows().await?;
        }
    }

    fn open_once(&self, who: &Principal, open: &Open) -> Step<Session> {
        let new = self.new_session(who, open, State::Updating, 0)?;
        self.with(|inner| {
            let Inner { book, foreign, .. } = inner;
            Ok(book.reserve(new, |proto, l| foreign.contains(&(proto, l)))?)
        })
    }

    /// Tells the forwarder, then the state file; neither knows of the session when it fails, as far as that can be had.
    async fn settle(
        &self,
        planned: &Session,
        request: Request,
        undo: Request,
        lease_from: Option<u64>,
    ) -> Step<Session> {
        self.link.call(request).await?;
        let relaying = Session { state: State::Active, ..planned.clone() };
        if let Err(error) = self.store.put(&relaying).await {
            self.link.call(undo).await?;
            return Err(error.into());
        }
        let gone = || StepError::Aborted(format!("session {} has ended", planned.uid));
        self.with(|inner| inner.book.settle(&planned.key(), planned.id, lease_from)).ok_or_else(gone)
    }

    /// A session as policy grants it, not yet in the book. `wait` is how many seconds it lives before it relays.
    fn new_session(&self, who: &Principal, open: &Open, state: State, wait: u64) -> Step<New> {
        let Open { uid, ask, path, labels } = open;
        let grant = self.policy.get().decide(who, ask)?;
        let uid = uid.clone().unwrap_or_else(Uid::random);
        let (path, address) = self.place(ask.role, path.as_deref(), &grant.sources)?;
        let now = unix(SystemTime::now());
        let lease = grant.lease.as_secs().max(1);
        let charged = self.charged(&path, &ask.targets);
        let session = Session {
            id: 0,
            owner: who.subject.clone(),
            uid,
            role: ask.role,
            proto: ask.proto,
            state,
            rule: grant.rule,
            path,
            listeners: Vec::new(),
            targets: ask.targets.clone(),
            sources: grant.sources,
            connections: grant.connections,
            rate: grant.rate,
            limit: grant.limit,
            charged: Vec::new(),
            lease,
            created: now,
            expires: now + if state == State::Reserving { wait } else { lease },
            labels: labels.clone(),
        };
        Ok(New { session, sessions: grant.sessions, address, listeners: ask.listeners as usize, charged })
    }

    /// The forwarder's port and its address that a session listens on: of the family of those who may connect.
    fn place(&self, role: Role, path: Option<&str>, sources: &[IpNet]) -> Step<(String, IpAddr)> {
        let paths = self.settings.paths(role);
        let paths = match path {
            None => paths,
            Some(wanted) => match paths.iter().position(|p| p == wanted) {
                Some(at) => &paths[at..=at],
                None => {
                    let (role, paths) = (spell(role), paths.join(", "));
                    let why = format!(
                        "{wanted:?} is no path for role {role}; choose one of {paths}, or leave it out"
                    );
                    return Err(StepError::Invalid(why));
                }
            },
        };
        let Some(connected) = self.link.now() else {
            return Err(StepError::Unavailable("the forwarder does not answer".to_owned()));
        };
        let ports: Vec<_> =
            paths.iter().filter_map(|path| connected.ports.iter().find(|p| &p.name == path)).collect();
        // The first source tells the family, as far as there are such addresses.
        for source in sources {
            for port in &ports {
                let mut of_family = self.addresses(port).filter(|a| a.is_ipv4() == source.addr().is_ipv4());
                if let Some(address) = of_family.next() {
                    return Ok((port.name.clone(), address));
                }
            }
        }
        let paths = paths.join(", ");
        Err(StepError::Invalid(format!(
            "the gateway has no address on {paths} of the sources' IP version; ask for sources of the other"
        )))
    }

    /// Addresses of one of the forwarder's ports that sessions may listen on.
    pub fn addresses<'a>(&'a self, port: &'a PortInfo) -> impl Iterator<Item = IpAddr> + 'a {
        let allowed = |a: &IpAddr| self.settings.addresses.as_ref().is_none_or(|only| only.contains(a));
        port.addresses.iter().map(IpNet::addr).filter(allowed)
    }

    /// The forwarder's ports that a session's traffic crosses: the one that it listens on, and those its targets are behind.
    fn charged(&self, path: &str, targets: &[SocketAddr]) -> Vec<String> {
        let mut charged = vec![path.to_owned()];
        let connected = self.link.now();
        for target in targets {
            let behind = connected.as_ref().and_then(|c| behind(&c.ports, target.ip()));
            charged.extend(behind.filter(|name| !charged.contains(name)));
        }
        charged
    }

    /// Waits a moment for a forwarder that has just come to be put in step: until then it may not have the flows that it should.
    async fn wait_in_step(&self) -> Step<()> {
        let (mut link, mut in_step) = (self.link.state(), self.in_step.subscribe());
        let wait = async {
            while !self.in_step() {
                let changed = tokio::select! {
                    changed = link.changed() => changed,
                    changed = in_step.changed() => changed,
                };
                if changed.is_err() {
                    return;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(()) => Ok(()),
            Err(_) => Err(StepError::Unavailable("the forwarder does not answer".to_owned())),
        }
    }

    /// Waits for a turn with the session that a caller means.
    async fn turn(&self, who: &Principal, name: &Name) -> Step<(Session, Turn<'_>)> {
        let administrator = self.policy.get().administrator(who);
        loop {
            let (key, id) = self.look(|book| {
                let session = book.find(&who.subject, administrator, name)?;
                Ok::<_, BookError>((session.key(), session.id))
            })?;
            // It may have ended, and begun anew, meanwhile.
            if let Some(turn) = self.turn_of(&key, id).await {
                return Ok(turn);
            }
        }
    }

    /// Waits until nobody else changes a session: it as it is then; none when it has ended.
    async fn turn_of(&self, key: &Key, id: u64) -> Option<(Session, Turn<'_>)> {
        let lock = self.with(|inner| inner.locks.get(&id).cloned())?;
        let turn = Turn { _lock: lock.lock_owned().await, _gate: self.gate.read().await };
        let session = self.look(|book| book.get(key, id).cloned())?;
        Some((session, turn))
    }

    /// One session, as the caller may see it.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, who: &Principal, name: &Name) -> Step<Session> {
        let administrator = self.policy.get().administrator(who);
        Ok(self.look(|book| book.find(&who.subject, administrator, name).cloned())?)
    }

    /// What its listeners carried, in their order; none for those without a flow.
    pub async fn traffic(&self, session: &Session) -> Vec<Option<FlowInfo>> {
        let mut traffic = Vec::new();
        for name in session.flow_names(&self.settings.owner) {
            traffic.push(match self.link.call(Request::FlowShow { name }).await {
                Ok(Reply::Flow { flow }) => Some(flow),
                _ => None,
            });
        }
        traffic
    }

    /// Sets a session's lease anew, from now.
    ///
    /// # Errors
    /// There is no such session, its state, policy, or the forwarder.
    pub async fn renew(&self, who: Principal, name: Name, lease: Option<Duration>) -> Step<Session> {
        self.wait_in_step().await?;
        let (session, _turn) = self.turn(&who, &name).await?;
        let ask = Ask {
            role: session.role,
            proto: session.proto,
            targets: session.targets.clone(),
            sources: Some(session.sources.clone()),
            listeners: session.listeners.len() as u32,
            connections: session.connections,
            rate: session.rate,
            lease: Some(lease.unwrap_or(Duration::from_secs(session.lease))),
        };
        let grant = self.policy.get().decide(&who, &ask)?;
        let now = unix(SystemTime::now());
        let lease = grant.lease.as_secs().max(1);
        let renewed = self.with(|inner| inner.book.renew(&session.key(), lease, now + lease))?;
        if let Err(error) = self.tell_lease(&renewed, now).await {
            self.with(|inner| inner.book.renew(&session.key(), session.lease, session.expires))?;
            return Err(error);
        }
        Ok(renewed)
    }

    async fn tell_lease(&self, session: &Session, now: u64) -> Step<()> {
        let lease = Some(session.flow_lease(now));
        let names = session.flow_names(&self.settings.owner).into_iter();
        if session.state == State::Draining {
            // Some of its flows may have gone with their last connections.
            for name in names {
                if let Err(error) = self.link.call(Request::LeaseRenew { name, lease }).await
                    && !is_not_found(&error)
                {
                    return Err(error.into());
                }
            }
        } else {
            let renew = names.map(|name| LeaseRenewal { name, lease }).collect();
            self.link
                .call(Request::FlowApply { add: vec![], replace: vec![], delete: vec![], renew })
                .await?;
        }
        Ok(self.store.put(session).await?)
    }

    /// Admits no new connection; the session ends with its last one.
    ///
    /// # Errors
    /// There is no such session, its state, or the forwarder does not answer: then it is told as soon as it does.
    pub async fn drain(&self, who: Principal, name: Name) -> Step<Session> {
        let (session, _turn) = self.turn(&who, &name).await?;
        let session = self.with(|inner| inner.book.drain(&session.key(), "drained by its user"))?;
        let kept = self.store.put(&session).await;
        self.drain_flows(&session).await?;
        kept?;
        Ok(session)
    }

    async fn drain_flows(&self, session: &Session) -> Step<()> {
        for name in session.flow_names(&self.settings.owner) {
            match self.link.call(Request::FlowDrain { name }).await {
                // It had no connections, and has gone.
                Err(error) if !is_not_found(&error) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends a session, its connections with it.
    ///
    /// # Errors
    /// There is no such session, or the forwarder does not answer: then its flows go as soon as it does.
    pub async fn release(&self, who: Principal, name: Name) -> Step<Session> {
        // A session that waits for hello has no step to wait for.
        let (session, _turn) = self.turn(&who, &name).await?;
        let why = match who.subject == session.owner {
            true => "released by its user".to_owned(),
            false => format!("released by {}", who.subject),
        };
        self.finish(&session, &why).await
    }

    /// The end of a session. The caller has its turn, or the whole gate.
    async fn finish(&self, session: &Session, why: &str) -> Step<Session> {
        let key = session.key();
        let had = session.state;
        let gone = || BookError::NotFound(key.uid.clone());
        let releasing = self.with(|inner| inner.book.release(&key, session.id, why)).ok_or_else(gone)?;
        if matches!(had, State::Active | State::Draining | State::Releasing) {
            let forgotten = self.store.remove(session.id).await;
            // Its traffic stops even when the state file cannot be written.
            self.delete_flows(&session.flow_names(&self.settings.owner)).await?;
            forgotten?;
        }
        self.with(|inner| inner.book.end(&key, session.id, why));
        Ok(Session { state: State::Ended, ..releasing })
    }

    /// Removes flows; those that are not there are no error.
    async fn delete_flows(&self, names: &[String]) -> Step<()> {
        match self.link.call(apply(vec![], vec![], names.to_vec())).await {
            Err(error) if is_not_found(&error) => {}
            outcome => return outcome.map(|_| ()).map_err(StepError::from),
        }
        for name in names {
            match self.link.call(Request::FlowDelete { name: name.clone() }).await {
                Err(error) if !is_not_found(&error) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A step's turn: nobody else changes the session, and nothing is put in step with the forwarder meanwhile.
struct Turn<'a> {
    _lock: OwnedMutexGuard<()>,
    _gate: RwLockReadGuard<'a, ()>,
}

/// Gives up what a caller of `req` reserved who does not wait any more.
struct Abandoned<'a> {
    keeper: &'a Keeper,
    key: &'a Key,
    id: u64,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        self.keeper.give_up(self.key, self.id, "its caller has gone");
    }
}

fn is_not_found(error: &LinkError) -> bool {
    matches!(error, LinkError::Api(ApiError { code: ErrorCode::NotFound, .. }))
}

fn apply(add: Vec<FlowSpec>, replace: Vec<FlowSpec>, delete: Vec<String>) -> Request {
    Request::FlowApply { add, replace, delete, renew: Vec::new() }
}

/// The forwarder's port that an address is behind: on-link, or by a default next hop.
fn behind(ports: &[PortInfo], address: IpAddr) -> Option<String> {
    let on_link = |p: &&PortInfo| p.addresses.iter().any(|net| net.contains(&address));
    let by_default = |p: &&PortInfo| p.gateway.iter().any(|hop| hop.is_ipv4() == address.is_ipv4());
    let port = ports.iter().find(on_link).or_else(|| ports.iter().find(by_default))?;
    Some(port.name.clone())
}

/// Targets of texts.
///
/// # Errors
/// The first that is none.
pub fn parse_targets(texts: &[String]) -> Step<Vec<SocketAddr>> {
    let parse = |text: &String| {
        text.parse().ok().filter(|a: &SocketAddr| a.port() != 0).ok_or_else(|| {
            let shown: String = text.chars().take(64).collect();
            StepError::Invalid(format!(
                "{shown:?} is no target; write an address and a port, like \"192.0.2.1:5074\" or \"[2001:db8::1]:5074\""
            ))
        })
    };
    match texts {
        [] => Err(StepError::Invalid("there is no target; give at least one".to_owned())),
        texts if texts.len() > MAX_TARGETS => Err(StepError::Invalid(format!(
            "{} targets are too many; give at most {MAX_TARGETS}",
            texts.len()
        ))),
        texts => texts.iter().map(parse).collect(),
    }
}

/// Most targets of a session.
pub const MAX_TARGETS: usize = 1024;

/// A role as SciStream's clients spell it.
pub fn spell(role: Role) -> &'static str {
    match role {
        Role::Producer => "PROD",
        Role::Consumer => "CONS",
    }
}
