//! Keeping in step: with a forwarder that comes, with time, and with operators who remove what is ours.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use forwarder::api::{FlowInfo, FlowSpec, FlowState, Reply, Request};
use tokio::task::JoinSet;

use super::{Keeper, Step, StepError, apply, is_not_found};
use crate::link::{Connected, LinkError};
use crate::session::{Key, Session, State, unix};

/// How often sessions are looked at for those whose time is over.
const TICK: Duration = Duration::from_millis(500);
/// How often the forwarder's flows are looked at.
const INSPECT: Duration = Duration::from_secs(10);
/// Most flows that one call changes. Where their line is longer than the control socket takes, parts of them go.
const CHUNK: usize = 200;
/// Most sessions that are ended at once.
const ENDS: usize = 64;
/// Between attempts to get in step.
const AGAIN: Duration = Duration::from_millis(500);

/// What is to be done for everything to be in step.
#[derive(Debug, Default)]
struct Plan {
    add: Vec<FlowSpec>,
    replace: Vec<FlowSpec>,
    delete: Vec<String>,
    drain: Vec<Session>,
    /// Sessions that are over, and why.
    over: Vec<(Session, &'static str)>,
}

impl Keeper {
    /// Gets in step with each forwarder that comes.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut state = self.link.state();
        loop {
            let connected = state.borrow_and_update().clone();
            let outcome = match connected {
                Some(connected) if connected.number != *self.in_step.borrow() => {
                    self.reconcile(&connected).await
                }
                Some(connected) => self.inspect(&connected).await,
                None => Ok(()),
            };
            let wait = match outcome {
                Ok(()) => INSPECT,
                Err(error) => {
                    tracing::warn!(%error, "not in step with the forwarder");
                    AGAIN
                }
            };
            if let Ok(Err(_)) = tokio::time::timeout(wait, state.changed()).await {
                return;
            }
        }
    }

    /// All flows of the forwarder. What others listen on is remembered.
    pub(super) async fn flows(&self) -> Step<Vec<FlowInfo>> {
        let Reply::Flows { flows } = self.link.call(Request::FlowList).await? else {
            return Err(strange());
        };
        let others = flows.iter().filter(|f| !self.owns(&f.spec.name));
        let foreign = others.map(|f| (f.spec.proto, f.spec.listen)).collect();
        self.with(|inner| inner.foreign = foreign);
        Ok(flows)
    }

    fn owns(&self, name: &str) -> bool {
        name.strip_prefix(&self.settings.owner).is_some_and(|rest| rest.starts_with(':'))
    }

    /// Puts the forwarder in step with the book, whatever has happened to either.
    async fn reconcile(&self, connected: &Connected) -> Step<()> {
        let _gate = self.gate.write().await;
        self.know_capacity(connected);
        let known = self.instance.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Only in the run that had all our flows does a missing one tell of an operator's will.
        let same_run = connected.instance.is_some() && known == connected.instance;
        let there = self.flows().await?;
        self.still(connected.number)?;
        let sessions: Vec<Session> = self.look(|book| book.iter().cloned().collect());
        let plan = self.plan(&sessions, &there, same_run, unix(SystemTime::now()));
        let (add, replace, delete) = (plan.add.len(), plan.replace.len(), plan.delete.len());
        for names in plan.delete.chunks(CHUNK) {
            self.delete_flows(names).await?;
        }
        let failed = self.install(plan.add, plan.replace).await?;
        for session in &plan.drain {
            self.drain_flows(session).await?;
        }
        let lost = sessions
            .iter()
            .filter(|s| failed.contains(&s.id))
            .map(|s| (s.clone(), "the forwarder does not take its flows any more"));
        for (session, why) in plan.over.into_iter().chain(lost) {
            self.finish(&session, why).await?;
        }
        if let Some(instance) = connected.instance.as_ref().filter(|_| !same_run) {
            self.store.set_instance(instance).await?;
            *self.instance.lock().unwrap_or_else(PoisonError::into_inner) = Some(instance.clone());
        }
        self.in_step.send_replace(connected.number);
        tracing::info!(sessions = sessions.len(), add, replace, delete, "in step with the forwarder");
        Ok(())
    }

    fn plan(&self, sessions: &[Session], there: &[FlowInfo], same_run: bool, now: u64) -> Plan {
        let prefix = &self.settings.owner;
        let mut ours: HashMap<&str, &FlowInfo> =
            there.iter().filter(|f| self.owns(&f.spec.name)).map(|f| (f.spec.name.as_str(), f)).collect();
        let mut plan = Plan::default();
        for session in sessions {
            let names = session.flow_names(prefix);
            let missing = names.iter().filter(|name| !ours.contains_key(name.as_str())).count();
            match session.state {
                // They have no flows.
                State::Reserving | State::Listening | State::Updating | State::Ended => continue,
                State::Releasing => {
                    plan.over.push((session.clone(), "released"));
                    continue;
                }
                State::Draining if missing == names.len() => {
                    plan.over.push((session.clone(), "its last connection has ended"));
                    continue;
                }
                State::Active if same_run && missing > 0 => {
                    plan.over.push((session.clone(), "an operator removed its flow"));
                    continue;
                }
                State::Active | State::Draining if session.expires <= now => {
                    plan.over.push((session.clone(), "its lease has ended"));
                    continue;
                }
                State::Draining => {
                    let active =
                        |name: &String| ours.get(name.as_str()).is_some_and(|f| f.state == FlowState::Active);
                    if names.iter().any(active) {
                        plan.drain.push(session.clone());
                    }
                }
                State::Active => {
                    for flow in session.flows(prefix, now) {
                        match ours.get(flow.name.as_str()) {
                            None => plan.add.push(flow),
                            Some(there) if !same(there, &flow) => plan.replace.push(flow),
                            Some(_) => {}
                        }
                    }
                }
            }
            for name in &names {
                ours.remove(name.as_str());
            }
        }
        // Flows of those that are over go with them.
        let with_session: HashSet<String> =
            plan.over.iter().flat_map(|(s, _)| s.flow_names(prefix)).collect();
        plan.delete =
            ours.into_keys().filter(|name| !with_session.contains(*name)).map(str::to_owned).collect();
        plan
    }

    /// Installs flows, many at a time. Ids of the sessions that have flows which the forwarder does not take.
    async fn install(&self, add: Vec<FlowSpec>, replace: Vec<FlowSpec>) -> Step<HashSet<u64>> {
        let mut failed = HashSet::new();
        let flows = add
            .into_iter()
            .map(|f| (f, false))
            .chain(replace.into_iter().map(|f| (f, true)))
            .collect::<Vec<_>>();
        let request = |flows: &[(FlowSpec, bool)]| {
            let of = |kind| flows.iter().filter(|(_, k)| *k == kind).map(|(f, _)| f.clone()).collect();
            apply(of(false), of(true), Vec::new())
        };
        let mut parts: Vec<&[(FlowSpec, bool)]> = flows.chunks(CHUNK).collect();
        while let Some(part) = parts.pop() {
            match (self.link.call(request(part)).await, part) {
                (Ok(_), _) => {}
                (Err(LinkError::Api(error)), [(flow, _)]) => {
                    tracing::error!(flow = flow.name, %error, "the forwarder does not take a flow");
                    failed.extend(self.session_of(&flow.name));
                }
                // One of them spoils all: halves show which.
                (Err(LinkError::Api(_)), _) => parts.extend(<[_; 2]>::from(part.split_at(part.len() / 2))),
                (Err(error), _) => return Err(error.into()),
            }
        }
        Ok(failed)
    }

    fn know_capacity(&self, connected: &Connected) {
        self.with(|inner| {
            for port in connected.ports.iter().filter(|p| !self.settings.capacity.contains_key(&p.name)) {
                if let Some(mbps) = port.speed {
                    inner.book.set_capacity(&port.name, mbps.into());
                }
            }
        });
    }

    /// Whether the forwarder still is the one of that connection. The next one may be another run, which has none of our flows
    /// yet; that tells of nobody's will.
    fn still(&self, number: u64) -> Step<()> {
        match self.link.now().is_some_and(|c| c.number == number) {
            true => Ok(()),
            false => Err(StepError::Unavailable("the forwarder has been connected to anew".to_owned())),
        }
    }

    /// Looks for sessions whose flows an operator has removed, and for flows that a step left behind.
    async fn inspect(&self, connected: &Connected) -> Step<()> {
        let active: Vec<(Key, u64, usize)> = self.look(|book| {
            let active = book.iter().filter(|s| s.state == State::Active);
            active.map(|s| (s.key(), s.id, s.listeners.len())).collect()
        });
        let mut there: HashMap<u64, usize> = HashMap::new();
        for id in self.flows().await?.iter().filter_map(|f| self.session_of(&f.spec.name)) {
            *there.entry(id).or_default() += 1;
        }
        for (key, id, flows) in active {
            if there.remove(&id).unwrap_or(0) == flows {
                continue;
            }
            // It may have been in the middle of a change when the flows were listed.
            let Some((session, _turn)) = self.turn_of(&key, id).await else { continue };
            if session.state == State::Active && !self.has_all_flows(&session).await? {
                self.still(connected.number)?;
                self.finish(&session, "an operator removed its flow").await?;
            }
        }
        let known = self.look(|book| book.iter().map(|s| s.id).collect::<HashSet<_>>());
        match there.keys().all(|id| known.contains(id)) {
            true => Ok(()),
            false => self.reconcile(connected).await,
        }
    }

    /// The session that a flow's name tells of; none for flows of others.
    fn session_of(&self, name: &str) -> Option<u64> {
        let (id, _) = name.strip_prefix(&self.settings.owner)?.strip_prefix(':')?.split_once(':')?;
        u64::from_str_radix(id, 16).ok()
    }

    async fn has_all_flows(&self, session: &Session) -> Step<bool> {
        for name in session.flow_names(&self.settings.owner) {
            if self.flow_state(name).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Ends what has no time left, and drained sessions with their last connection. What the forwarder or the state file failed
    /// to do is done now.
    pub(super) async fn age(self: Arc<Self>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let now = unix(SystemTime::now());
            let in_step = self.in_step();
            let due = |s: &&Session| match s.state {
                State::Listening | State::Active => s.expires <= now,
                State::Draining => true,
                // While the forwarder is away, it waits for that.
                State::Releasing => in_step,
                // `req` itself waits for hello; steps end by themselves.
                _ => false,
            };
            let due: Vec<(Key, u64)> =
                self.look(|book| book.iter().filter(due).map(|s| (s.key(), s.id)).collect());
            // Many at once, so that the state file takes many in one commit.
            for some in due.chunks(ENDS) {
                let ends = some.iter().cloned().map(|(key, id)| {
                    let keeper = Arc::clone(&self);
                    async move { keeper.end_if_due(&key, id, now).await }
                });
                for outcome in ends.collect::<JoinSet<_>>().join_all().await {
                    if let Err(error) = outcome {
                        tracing::debug!(%error, "a session that is over cannot be ended yet");
                    }
                }
            }
        }
    }

    async fn end_if_due(&self, key: &Key, id: u64, now: u64) -> Step<()> {
        let Some((session, _turn)) = self.turn_of(key, id).await else { return Ok(()) };
        let why = match session.state {
            State::Listening if session.expires <= now => "update did not come",
            State::Active | State::Draining if session.expires <= now => "its lease has ended",
            State::Draining => {
                let mut left = Vec::new();
                for name in session.flow_names(&self.settings.owner) {
                    left.extend(self.flow_state(name).await?);
                }
                if left.contains(&FlowState::Active) {
                    self.drain_flows(&session).await?;
                }
                if !left.is_empty() {
                    return Ok(());
                }
                "its last connection has ended"
            }
            State::Releasing => "released",
            _ => return Ok(()),
        };
        self.finish(&session, why).await.map(|_| ())
    }

    /// None when the forwarder has no such flow.
    async fn flow_state(&self, name: String) -> Step<Option<FlowState>> {
        match self.link.call(Request::FlowShow { name }).await {
            Ok(Reply::Flow { flow }) => Ok(Some(flow.state)),
            Ok(_) => Err(strange()),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn strange() -> StepError {
    StepError::Unavailable("the forwarder answered something else than was asked".to_owned())
}

/// Whether the forwarder has a flow as it should be. Its lease is renewed when the session's is.
fn same(there: &FlowInfo, wanted: &FlowSpec) -> bool {
    FlowSpec { lease: wanted.lease, ..there.spec.clone() } == *wanted
}
