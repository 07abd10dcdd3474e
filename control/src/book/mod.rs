//! All sessions, and what they hold: names, listeners, rates, places in queues. Whatever a session holds is free again at the very
//! step that ends it.
//!
//! The book is pure: it knows no clock, no socket and no file. Each step either happens whole or changes nothing.
//!
//! ```text
//!   reserve --> reserving --hello--> listening --begin--> updating --settle--> active --drain--> draining
//!   open    ----------------------------------------------^  ^                   |                  |
//!                                                            +------begin--------+                  |
//!   every state but ended --release--> releasing --end--> ended <-----------------------------------+
//! ```
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use forwarder::api::Proto;

use crate::policy::Grant;
use crate::session::{Key, Name, Session, State, Uid, random};
use ports::Ports;

mod ports;

/// What all sessions together may hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Port numbers of listeners.
    pub ports: RangeInclusive<u16>,
    /// Sessions that are reserving, in all.
    pub pending: usize,
    /// The same of one owner.
    pub pending_per_user: usize,
}

/// Why a step cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// The owner has a session of that name.
    #[error("you have a session {0} already; release it, or choose another uid")]
    Exists(Uid),
    /// There is none, or none that the caller may know of.
    #[error("there is no session {0}")]
    NotFound(Uid),
    /// An administrator's name for a session is not unique.
    #[error("{0} users have a session {1}; say whose is meant")]
    Ambiguous(usize, Uid),
    /// Something has run out, in a sentence.
    #[error("{0}")]
    Exhausted(String),
    /// The session is in a state that does not allow it.
    #[error("session {uid} is {state}; {hint}")]
    State {
        /// Which.
        uid: Uid,
        /// Its state.
        state: State,
        /// What would help.
        hint: &'static str,
    },
}

/// A new session.
#[derive(Debug, Clone)]
pub struct New {
    /// As it will be recorded; `id`, `listeners`, `charged` and `state` are the book's to fill in.
    pub session: Session,
    /// What policy grants.
    pub sessions: u32,
    /// Address that it listens on.
    pub address: IpAddr,
    /// How many listeners.
    pub listeners: usize,
    /// The forwarder's ports that its rate is reserved at.
    pub charged: Vec<String>,
}

/// A change of state, as logs and watchers are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The session after it.
    pub session: Session,
    /// The state before; none for a session that is new.
    pub before: Option<State>,
    /// Why.
    pub reason: String,
}

/// Sessions by key.
#[derive(Debug)]
pub struct Book {
    limits: Limits,
    sessions: HashMap<Key, Session>,
    /// How many each owner has: all, and those that are reserving.
    owners: HashMap<String, (usize, usize)>,
    pending: usize,
    ports: Ports,
    /// Mbit/s by the forwarder's port: what it has, when known, and what is reserved.
    capacity: BTreeMap<String, u64>,
    reserved: BTreeMap<String, u64>,
    changes: Vec<Change>,
}

impl Book {
    /// An empty book.
    pub fn new(limits: Limits) -> Self {
        Self {
            ports: Ports::new(limits.ports.clone()),
            limits,
            sessions: HashMap::new(),
            owners: HashMap::new(),
            pending: 0,
            capacity: BTreeMap::new(),
            reserved: BTreeMap::new(),
            changes: Vec::new(),
        }
    }

    /// Takes sessions over that were kept from before.
    pub fn restore(&mut self, kept: impl IntoIterator<Item = Session>) {
        for session in kept {
            self.charge(&session.charged, session.rate);
            let counts = self.owners.entry(session.owner.clone()).or_default();
            counts.0 += 1;
            self.sessions.insert(session.key(), session);
        }
        let listeners = self.sessions.values().flat_map(|s| s.listeners.iter().map(|l| (s.proto, *l)));
        self.ports.claim(listeners);
    }

    /// What a port of the forwarder can carry in either direction, in Mbit/s.
    pub fn set_capacity(&mut self, path: &str, mbps: u64) {
        self.capacity.insert(path.to_owned(), mbps);
    }

    /// What a port of the forwarder can carry, when that is known, and what is reserved of it, in Mbit/s.
    pub fn rates(&self, path: &str) -> (Option<u64>, u64) {
        (self.capacity.get(path).copied(), self.reserved.get(path).copied().unwrap_or(0))
    }

    /// Begins a session in `session.state`: reserving, or updating for one that is opened whole. `foreign` tells listeners that
    /// somebody else has at the forwarder.
    ///
    /// # Errors
    /// Its name is taken, or something has run out.
    pub fn reserve(
        &mut self,
        new: New,
        foreign: impl Fn(Proto, SocketAddr) -> bool,
    ) -> Result<Session, BookError> {
        let New { mut session, sessions, address, listeners, charged } = new;
        let key = session.key();
        if self.sessions.contains_key(&key) {
            return Err(BookError::Exists(session.uid));
        }
        let exhausted = |why: String| Err(BookError::Exhausted(why));
        let (held, pending) = self.owners.get(&session.owner).copied().unwrap_or_default();
        if held >= sessions as usize {
            return exhausted(format!("you have {held} sessions, as many as you may; release one"));
        }
        if session.state == State::Reserving {
            if pending >= self.limits.pending_per_user {
                return exhausted(format!(
                    "{pending} of your sessions wait for hello; say it, or release one"
                ));
            }
            if self.pending >= self.limits.pending {
                return exhausted("too many sessions wait for hello; try again later".to_owned());
            }
        }
        self.has_rate(&charged, session.rate)?;
        let skip = |listener| foreign(session.proto, listener);
        let Some(taken) = self.ports.take(session.proto, address, listeners, skip) else {
            let free = self.ports.free(session.proto, address);
            return exhausted(format!(
                "{listeners} listeners are asked for on {address} and {free} of its range are free; ask for fewer, or try again later"
            ));
        };
        session.id = random();
        session.listeners = taken;
        self.charge(&charged, session.rate);
        session.charged = charged;
        let counts = self.owners.entry(session.owner.clone()).or_default();
        counts.0 += 1;
        if session.state == State::Reserving {
            counts.1 += 1;
            self.pending += 1;
        }
        self.changes.push(Change { session: session.clone(), before: None, reason: "asked for".to_owned() });
        self.sessions.insert(key, session.clone());
        Ok(session)
    }

    /// Finds the session that a caller means: his own, and for an administrator anybody's.
    ///
    /// # Errors
    /// There is none that he may know of.
    pub fn find(&self, caller: &str, administrator: bool, name: &Name) -> Result<&Session, BookError> {
        let Name { uid, owner } = name;
        let nobodys = || BookError::NotFound(uid.clone());
        let whose = owner.as_deref().unwrap_or(caller);
        if whose != caller && !administrator {
            return Err(nobodys());
        }
        let key = Key { owner: whose.to_owned(), uid: uid.clone() };
        match self.sessions.get(&key) {
            Some(session) => return Ok(session),
            None if owner.is_some() => return Err(nobodys()),
            None => {}
        }
        let mut others = self.sessions.values().filter(|s| administrator && &s.uid == uid);
        match (others.next(), others.count()) {
            (Some(session), 0) => Ok(session),
            (Some(_), more) => Err(BookError::Ambiguous(more + 1, uid.clone())),
            (None, _) => Err(nobodys()),
        }
    }

    /// A session, if it is still the one with that id.
    pub fn get(&self, key: &Key, id: u64) -> Option<&Session> {
        self.sessions.get(key).filter(|s| s.id == id)
    }

    /// All sessions.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }

    /// Listeners of a protocol that are free on an address.
    pub fn listeners_free(&self, proto: Proto, address: IpAddr) -> usize {
        self.ports.free(proto, address)
    }

    /// Reserving becomes listening.
    ///
    /// # Errors
    /// It was said already.
    pub fn hello(&mut self, key: &Key, expires: u64) -> Result<(), BookError> {
        let session = self.at(key)?;
        if session.state != State::Reserving {
            return Err(wrong(session, "hello is said once, while req waits for it"));
        }
        session.expires = expires;
        self.go(key, State::Listening, "hello came");
        Ok(())
    }

    /// Listening or active becomes updating, with new targets and what policy grants for them. The session as it was, to go back to,
    /// and as it shall be.
    ///
    /// # Errors
    /// Its state, or the rate is not free on the ports that it needs now.
    pub fn begin(
        &mut self,
        key: &Key,
        targets: Vec<SocketAddr>,
        grant: &Grant,
        charged: Vec<String>,
    ) -> Result<(Session, Session), BookError> {
        let before = self.at(key)?.clone();
        match before.state {
            State::Listening | State::Active => {}
            State::Reserving => return Err(wrong(&before, "update comes after hello")),
            _ => return Err(wrong(&before, "open another one")),
        }
        // Another rule may be the one for these targets.
        let (held, _) = self.owners.get(&key.owner).copied().unwrap_or_default();
        if held > grant.sessions as usize {
            let most = grant.sessions;
            return Err(BookError::Exhausted(format!(
                "you have {held} sessions, and may have {most} with one to these targets; release others"
            )));
        }
        self.charge_back(&before.charged, before.rate);
        if let Err(error) = self.has_rate(&charged, before.rate) {
            self.charge(&before.charged, before.rate);
            return Err(error);
        }
        self.charge(&charged, before.rate);
        let session = self.at(key)?;
        session.targets = targets;
        session.charged = charged;
        session.sources.clone_from(&grant.sources);
        session.connections = grant.connections;
        session.rule.clone_from(&grant.rule);
        session.limit = grant.limit;
        session.lease = grant.lease.as_secs().max(1);
        let after = session.clone();
        self.go(key, State::Updating, "targets came");
        Ok((before, after))
    }

    /// Updating becomes active.
    pub fn settle(&mut self, key: &Key, id: u64, lease_from: Option<u64>) -> Option<Session> {
        let session = self.sessions.get_mut(key).filter(|s| s.id == id && s.state == State::Updating)?;
        if let Some(now) = lease_from {
            session.expires = now + session.lease;
        }
        self.go(key, State::Active, "its listeners relay");
        self.get(key, id).cloned()
    }

    /// Updating becomes what it was before.
    pub fn go_back(&mut self, before: Session, reason: &str) {
        let key = before.key();
        let Some(session) = self.sessions.get(&key).filter(|s| s.id == before.id) else { return };
        let charged = session.charged.clone();
        self.charge_back(&charged, before.rate);
        self.charge(&before.charged, before.rate);
        let state = before.state;
        self.sessions.insert(key.clone(), Session { state: State::Updating, ..before });
        self.go(&key, state, reason);
    }

    /// Sets a lease, in seconds, and when it ends.
    ///
    /// # Errors
    /// Its state.
    pub fn renew(&mut self, key: &Key, lease: u64, expires: u64) -> Result<Session, BookError> {
        let session = self.at(key)?;
        if !matches!(session.state, State::Active | State::Draining) {
            return Err(wrong(session, "only what relays has a lease to renew"));
        }
        session.lease = lease;
        session.expires = expires;
        Ok(session.clone())
    }

    /// Active becomes draining.
    ///
    /// # Errors
    /// Its state.
    pub fn drain(&mut self, key: &Key, reason: &str) -> Result<Session, BookError> {
        let session = self.at(key)?;
        match session.state {
            State::Active => {}
            State::Draining => return Ok(session.clone()),
            _ => return Err(wrong(session, "only what relays can drain; release it")),
        }
        self.go(key, State::Draining, reason);
        self.at(key).cloned()
    }

    /// Whatever it is becomes releasing.
    pub fn release(&mut self, key: &Key, id: u64, reason: &str) -> Option<Session> {
        let state = self.get(key, id)?.state;
        if state != State::Releasing {
            self.go(key, State::Releasing, reason);
        }
        self.get(key, id).cloned()
    }

    /// Forgets a session; whatever it held is free.
    pub fn end(&mut self, key: &Key, id: u64, reason: &str) {
        if self.get(key, id).is_none() {
            return;
        }
        self.go(key, State::Ended, reason);
        let Some(session) = self.sessions.remove(key) else { return };
        self.ports.give(session.proto, &session.listeners);
        self.charge_back(&session.charged, session.rate);
        if let Some(counts) = self.owners.get_mut(&session.owner) {
            counts.0 -= 1;
            if counts.0 == 0 {
                self.owners.remove(&session.owner);
            }
        }
    }

    /// Changes since this was asked last.
    pub fn changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    fn at(&mut self, key: &Key) -> Result<&mut Session, BookError> {
        self.sessions.get_mut(key).ok_or_else(|| BookError::NotFound(key.uid.clone()))
    }

    /// The one place where a state changes.
    fn go(&mut self, key: &Key, state: State, reason: &str) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let before = std::mem::replace(&mut session.state, state);
        if before == State::Reserving {
            self.pending -= 1;
            if let Some(counts) = self.owners.get_mut(&session.owner) {
                counts.1 -= 1;
            }
        }
        let session = session.clone();
        self.changes.push(Change { session, before: Some(before), reason: reason.to_owned() });
    }

    fn has_rate(&self, paths: &[String], rate: Option<u64>) -> Result<(), BookError> {
        let Some(rate) = rate else { return Ok(()) };
        for path in paths {
            let (Some(capacity), reserved) = self.rates(path) else { continue };
            let free = capacity.saturating_sub(reserved);
            if rate > free {
                return Err(BookError::Exhausted(format!(
                    "{rate} Mbit/s are asked for and {free} of {capacity} are free on port {path}; ask for less, or try again later"
                )));
            }
        }
        Ok(())
    }

    fn charge(&mut self, paths: &[String], rate: Option<u64>) {
        for path in paths {
            *self.reserved.entry(path.clone()).or_default() += rate.unwrap_or(0);
        }
    }

    fn charge_back(&mut self, paths: &[String], rate: Option<u64>) {
        for path in paths {
            if let Some(reserved) = self.reserved.get_mut(path) {
                *reserved = reserved.saturating_sub(rate.unwrap_or(0));
            }
        }
    }
}

fn wrong(session: &Session, hint: &'static str) -> BookError {
    BookError::State { uid: session.uid.clone(), state: session.state, hint }
}

#[cfg(test)]
mod tests;
