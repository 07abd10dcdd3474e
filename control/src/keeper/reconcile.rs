//! Keeping in step: with a forwarder that comes, with time, and with operators who remove what is ours.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use forwarder::api::{ApiError, ErrorCode, FlowInfo, FlowSpec, FlowState, Reply, Request};

use super::{Keeper, Step, StepError, apply};
use crate::link::{Connected, LinkError};
use crate::session::{Session, State, unix};

/// How often sessions are looked at for those whose time is over.
const TICK: Duration = Duration::from_millis(500);
/// How often the forwarder's flows are looked at.
const INSPECT: Duration = Duration::from_secs(10);
/// Most flows that one call changes. Where their line is longer than the control socket takes, parts of them go.
const CHUNK: usize = 200;
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
                Some(connected) => self.inspect(connected.number).await,
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
            return Err(StepError::Unavailable(
                "the forwarder answered something else than was asked".to_owned(),
            ));
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
                    let id = flow.name.split(':').nth_back(1);
                    failed.extend(id.and_then(|hex| u64::from_str_radix(hex, 16).ok()));
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

    /// Looks for sessions whose flows an operator has removed, and for those whose end failed on its way.
    async fn inspect(self: &Arc<Self>, number: u64) -> Step<()> {
        let watched = |s: &&Session| matches!(s.state, State::Active | State::Releasing);
        let sessions: Vec<Session> = self.look(|book| book.iter().filter(watched).cloned().collect());
        let there: HashSet<String> = self.flows().await?.into_iter().map(|f| f.spec.name).collect();
        for session in sessions {
            let missing =
                session.flow_names(&self.settings.owner).into_iter().find(|name| !there.contains(name));
            if session.state == State::Active && missing.is_none() {
                continue;
            }
            self.in_turn(&session, async |session| {
                let why = match (session.state, missing) {
                    (State::Releasing, _) => "released",
                    // It may have been in the middle of a change when the flows were listed.
                    (State::Active, Some(name)) if !self.has_flow(name.clone()).await? => {
                        self.still(number)?;
                        "an operator removed its flow"
                    }
                    _ => return Ok(()),
                };
                self.finish(&session, why).await.map(|_| ())
            })
            .await?;
        }
        Ok(())
    }

    /// Ends what has no time left, and drained sessions with their last connection.
    pub(super) async fn age(self: Arc<Self>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let now = unix(SystemTime::now());
            let due = |s: &&Session| match s.state {
                State::Listening | State::Active => s.expires <= now,
                State::Draining => true,
                // `req` itself waits for hello; steps end by themselves; the end of what is releasing is tried again when the
                // forwarder's flows are looked at.
                _ => false,
            };
            let due: Vec<Session> = self.look(|book| book.iter().filter(due).cloned().collect());
            for session in due {
                let outcome =
                    self.in_turn(&session, async |session| self.end_if_due(session, now).await).await;
                if let Err(error) = outcome {
                    tracing::debug!(uid = session.uid.as_str(), %error, "a session that is over cannot be ended yet");
                }
            }
        }
    }

    async fn end_if_due(&self, session: Session, now: u64) -> Step<()> {
        let why = match session.state {
            State::Listening if session.expires <= now => "update did not come",
            State::Active | State::Draining if session.expires <= now => "its lease has ended",
            State::Draining => {
                for name in session.flow_names(&self.settings.owner) {
                    if self.has_flow(name).await? {
                        return Ok(());
                    }
                }
                "its last connection has ended"
            }
            _ => return Ok(()),
        };
        self.finish(&session, why).await.map(|_| ())
    }

    async fn has_flow(&self, name: String) -> Step<bool> {
        match self.link.call(Request::FlowShow { name }).await {
            Ok(_) => Ok(true),
            Err(LinkError::Api(ApiError { code: ErrorCode::NotFound, .. })) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Does something with a session, if it is still there, while nobody else changes it.
    async fn in_turn(&self, session: &Session, step: impl AsyncFnOnce(Session) -> Step<()>) -> Step<()> {
        match self.turn_of(&session.key(), session.id).await {
            Some((session, _turn)) => step(session).await,
            None => Ok(()),
        }
    }
}

/// Whether the forwarder has a flow as it should be. Its lease is renewed when the session's is.
fn same(there: &FlowInfo, wanted: &FlowSpec) -> bool {
    FlowSpec { lease: wanted.lease, ..there.spec.clone() } == *wanted
}
