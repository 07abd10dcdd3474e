//! The table and its states.

use std::fmt;
use std::net::IpAddr;

use super::{AdjIndex, Adjacency, Learn, Learned, PortL2, Solicit, Wanted};
use crate::io::PortIndex;
use crate::wire::Mac;
use crate::wire::eth::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6};

/// Milliseconds between questions (RFC 4861 section 10, RETRANS_TIMER).
const RETRY: u32 = 1_000;
/// Questions before giving up (MAX_UNICAST_SOLICIT, MAX_MULTICAST_SOLICIT).
const TRIES: u8 = 3;
/// Milliseconds before a neighbor that did not answer is asked again.
const HOLD_DOWN: u32 = 3_000;
/// Most entries looked at in a tick.
const SCAN: usize = 256;

/// State of a neighbor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Asked for, no answer yet.
    Resolving,
    /// Known.
    Reachable,
    /// Known and old: asked whether it is still there, meanwhile used.
    Probing,
    /// Did not answer.
    Failed,
    /// Set by the configuration; never changes.
    Static,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Resolving => "resolving",
            State::Reachable => "reachable",
            State::Probing => "probing",
            State::Failed => "failed",
            State::Static => "static",
        })
    }
}

/// A neighbor, for lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbor {
    /// Its place.
    pub adj: AdjIndex,
    /// Port it is at.
    pub port: PortIndex,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address, when resolved.
    pub mac: Option<Mac>,
    /// Its state.
    pub state: State,
    /// How often it is held.
    pub refs: u32,
}

#[derive(Debug, Clone)]
struct Entry {
    port: PortIndex,
    address: IpAddr,
    /// The last one known, also when it no longer counts.
    mac: Mac,
    state: State,
    refs: u32,
    /// When it was confirmed (reachable) or given up (failed).
    since: u32,
    /// When the last question went out.
    asked: u32,
    /// Questions since it became resolving or probing.
    tries: u8,
}

impl Entry {
    fn question(&mut self, now: u32) -> Solicit {
        self.tries += 1;
        self.asked = now;
        let unicast = (self.state == State::Probing).then_some(self.mac);
        Solicit { port: self.port, target: self.address, unicast }
    }

    /// Begins to ask, with nothing asked yet.
    fn ask(&mut self, state: State) {
        self.state = state;
        self.tries = 0;
    }

    fn question_due(&self, now: u32) -> bool {
        self.tries == 0 || now.wrapping_sub(self.asked) >= RETRY
    }
}

/// The neighbors of all ports, as one worker knows them.
#[derive(Debug)]
pub struct NeighborTable {
    ports: Vec<PortL2>,
    reachable_ms: u32,
    /// What the fast path reads; `entries` holds the rest of the same neighbors.
    adjacencies: Vec<Adjacency>,
    entries: Vec<Option<Entry>>,
    free: Vec<AdjIndex>,
    /// The entries in use, sorted by port and address.
    index: Vec<AdjIndex>,
    /// Where the next tick goes on.
    cursor: usize,
}

impl NeighborTable {
    /// An empty table for `capacity` neighbors (at most 65,535) of `ports`, in the order of [`PortIndex`]. A neighbor in use
    /// is asked whether it is still there `reachable_ms` milliseconds after it last answered.
    pub fn new(capacity: usize, ports: &[PortL2], reachable_ms: u32) -> NeighborTable {
        let capacity = capacity.min(usize::from(AdjIndex::MAX)) as AdjIndex;
        let size = usize::from(capacity);
        NeighborTable {
            ports: ports.to_vec(),
            reachable_ms,
            adjacencies: vec![Adjacency::NONE; size],
            entries: vec![None; size],
            free: (0..capacity).rev().collect(),
            index: Vec::with_capacity(size),
            cursor: 0,
        }
    }

    /// The header towards a neighbor; one that is never valid for an index that nobody gave out.
    #[inline]
    pub fn adjacency(&self, adj: AdjIndex) -> &Adjacency {
        self.adjacencies.get(usize::from(adj)).unwrap_or(&Adjacency::NONE)
    }

    /// All headers, by [`AdjIndex`].
    #[inline(always)]
    pub fn adjacencies(&self) -> &[Adjacency] {
        &self.adjacencies
    }

    fn search(&self, port: PortIndex, address: IpAddr) -> Result<usize, usize> {
        self.index.binary_search_by(|adj| match &self.entries[usize::from(*adj)] {
            Some(e) => (e.port, e.address).cmp(&(port, address)),
            None => std::cmp::Ordering::Less,
        })
    }

    /// A neighbor that is known or asked for.
    pub fn lookup(&self, port: PortIndex, address: IpAddr) -> Option<AdjIndex> {
        self.search(port, address).ok().and_then(|at| self.index.get(at).copied())
    }

    /// A neighbor's details.
    pub fn get(&self, adj: AdjIndex) -> Option<Neighbor> {
        let e = self.entry(adj)?;
        let mac = self.adjacency(adj).valid.then_some(e.mac);
        Some(Neighbor { adj, port: e.port, address: e.address, mac, state: e.state, refs: e.refs })
    }

    /// All neighbors, by port and address.
    pub fn iter(&self) -> impl Iterator<Item = Neighbor> {
        self.index.iter().filter_map(|adj| self.get(*adj))
    }

    fn entry(&self, adj: AdjIndex) -> Option<&Entry> {
        self.entries.get(usize::from(adj))?.as_ref()
    }

    fn entry_mut(&mut self, adj: AdjIndex) -> Option<&mut Entry> {
        self.entries.get_mut(usize::from(adj))?.as_mut()
    }

    /// Finds or creates a neighbor and holds it; [`NeighborTable::release`] lets go. None when the table is full of
    /// neighbors that are held, or the address is one that no neighbor can have. A new one is asked for in the next tick,
    /// or at once when [`NeighborTable::wanted`].
    pub fn acquire(&mut self, port: PortIndex, address: IpAddr, now: u32) -> Option<AdjIndex> {
        let adj = match self.lookup(port, address) {
            Some(adj) => adj,
            None => {
                if self.free.is_empty() {
                    self.forget_one();
                }
                self.create(port, address, now)?
            }
        };
        let entry = self.entry_mut(adj)?;
        entry.refs = entry.refs.saturating_add(1);
        Some(adj)
    }

    /// Lets go of what [`NeighborTable::acquire`] held.
    pub fn release(&mut self, adj: AdjIndex) {
        if let Some(e) = self.entry_mut(adj) {
            e.refs = e.refs.saturating_sub(1);
        }
    }

    fn create(&mut self, port: PortIndex, address: IpAddr, now: u32) -> Option<AdjIndex> {
        let l2 = self.ports.get(usize::from(port))?;
        if l2.owns(address) || !can_be_neighbor(address) {
            return None;
        }
        let at = self.search(port, address).err()?;
        let adj = self.free.pop()?;
        let entry = Entry {
            port,
            address,
            mac: Mac::default(),
            state: State::Resolving,
            refs: 0,
            since: now,
            asked: now,
            tries: 0,
        };
        self.entries[usize::from(adj)] = Some(entry);
        self.adjacencies[usize::from(adj)] = Adjacency { port, mtu: l2.mtu, ..Adjacency::NONE };
        self.index.insert(at, adj);
        Some(adj)
    }

    fn forget(&mut self, adj: AdjIndex) {
        let Some(e) = self.entry(adj) else { return };
        if let Ok(at) = self.search(e.port, e.address) {
            self.index.remove(at);
        }
        self.entries[usize::from(adj)] = None;
        self.adjacencies[usize::from(adj)] = Adjacency::NONE;
        self.free.push(adj);
    }

    /// Makes room: what was learned in passing must not keep out what is needed.
    fn forget_one(&mut self) {
        let unheld = |e: &Entry| e.refs == 0 && e.state != State::Static;
        let found = self.index.iter().copied().find(|adj| self.entry(*adj).is_some_and(unheld));
        if let Some(adj) = found {
            self.forget(adj);
        }
    }

    /// Writes the header towards `mac`, from now on valid.
    fn resolve(&mut self, adj: AdjIndex, mac: Mac) {
        let Some(e) = self.entries.get_mut(usize::from(adj)).and_then(Option::as_mut) else { return };
        e.mac = mac;
        let Some(port) = self.ports.get(usize::from(e.port)) else { return };
        let ethertype = if e.address.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        let header = eth::header(mac, port.mac, port.tags, ethertype);
        let adjacency = &mut self.adjacencies[usize::from(adj)];
        for (to, from) in adjacency.l2.iter_mut().zip(&header) {
            *to = *from;
        }
        adjacency.l2_len = header.len() as u8;
        *adjacency = adjacency.with_valid(true);
    }

    fn invalidate(&mut self, adj: AdjIndex) {
        if let Some(adjacency) = self.adjacencies.get_mut(usize::from(adj)) {
            *adjacency = adjacency.with_valid(false);
        }
    }

    /// Takes in that `address` was heard at `port` with `mac`. None when it is not known and `create` is false, when it
    /// cannot be created, or when either address is one that no neighbor can have.
    pub fn learn(
        &mut self,
        port: PortIndex,
        address: IpAddr,
        mac: Mac,
        now: u32,
        source: Learn,
        create: bool,
    ) -> Option<Learned> {
        if !mac.is_unicast() {
            return None;
        }
        let adj = match self.lookup(port, address) {
            Some(adj) => adj,
            None if create => self.create(port, address, now)?,
            None => return None,
        };
        let was_valid = self.adjacency(adj).valid;
        let reachable_ms = self.reachable_ms;
        let e = self.entry_mut(adj)?;
        let unchanged = Learned { adj, resolved_now: false, changed: false };
        let same = e.mac == mac;
        if e.state == State::Static {
            return Some(unchanged);
        }
        if was_valid {
            let asked = e.state == State::Probing;
            match source {
                Learn::Tentative if !same => return Some(unchanged),
                Learn::Request | Learn::Unsolicited if same => return Some(unchanged),
                // A new MAC address that we did not ask for: used, but soon asked for.
                Learn::Request | Learn::Unsolicited => e.since = now.wrapping_sub(reachable_ms),
                Learn::Solicited if !same && !asked => e.since = now.wrapping_sub(reachable_ms),
                Learn::Solicited | Learn::Tentative => e.since = now,
            }
        } else {
            e.since = now;
        }
        e.state = State::Reachable;
        self.resolve(adj, mac);
        Some(Learned { adj, resolved_now: !was_valid, changed: was_valid && !same })
    }

    /// Sets a neighbor for good. None when the table is full, or the address is one that no neighbor can have.
    pub fn set_static(&mut self, port: PortIndex, address: IpAddr, mac: Mac) -> Option<AdjIndex> {
        if !mac.is_unicast() {
            return None;
        }
        let adj = match self.lookup(port, address) {
            Some(adj) => adj,
            None => self.create(port, address, 0)?,
        };
        self.entry_mut(adj)?.state = State::Static;
        self.resolve(adj, mac);
        Some(adj)
    }

    /// Takes back [`NeighborTable::set_static`]: a neighbor that is held is now asked for, another one forgotten.
    pub fn remove_static(&mut self, port: PortIndex, address: IpAddr) {
        let Some(adj) = self.lookup(port, address) else { return };
        let Some(e) = self.entry_mut(adj).filter(|e| e.state == State::Static) else { return };
        if e.refs == 0 {
            self.forget(adj);
        } else {
            e.ask(State::Resolving);
            self.invalidate(adj);
        }
    }

    /// What to do with a packet for a neighbor whose adjacency is not valid.
    pub fn wanted(&mut self, adj: AdjIndex, now: u32) -> Wanted {
        let Some(e) = self.entry_mut(adj) else { return Wanted::Failed };
        match e.state {
            State::Reachable | State::Probing | State::Static => Wanted::Ready,
            State::Resolving if e.tries == 0 => Wanted::Solicit(e.question(now)),
            State::Resolving => Wanted::Wait,
            State::Failed if now.wrapping_sub(e.since) >= HOLD_DOWN => {
                e.ask(State::Resolving);
                Wanted::Solicit(e.question(now))
            }
            State::Failed => Wanted::Failed,
        }
    }

    /// Lets time pass; to be called about every 100 ms. Looks at a bounded number of entries and gives `emit` the questions
    /// to send. Entries that changed to failed drop their waiting packets by way of [`NeighborTable::wanted`].
    pub fn tick(&mut self, now: u32, emit: &mut dyn FnMut(Solicit)) {
        for _ in 0..SCAN.min(self.entries.len()) {
            let adj = self.cursor as AdjIndex;
            self.cursor = (self.cursor + 1) % self.entries.len();
            self.advance(adj, now, emit);
        }
    }

    fn advance(&mut self, adj: AdjIndex, now: u32, emit: &mut dyn FnMut(Solicit)) {
        let reachable_ms = self.reachable_ms;
        let Some(e) = self.entry_mut(adj) else { return };
        let age = now.wrapping_sub(e.since);
        match e.state {
            State::Static => {}
            State::Reachable if age < reachable_ms => {}
            State::Reachable if e.refs > 0 => {
                e.ask(State::Probing);
                emit(e.question(now));
            }
            State::Failed if age < HOLD_DOWN => {}
            State::Failed if e.refs > 0 => {}
            State::Reachable | State::Failed => self.forget(adj),
            State::Resolving | State::Probing if !e.question_due(now) => {}
            State::Resolving | State::Probing if e.tries < TRIES => emit(e.question(now)),
            State::Resolving => {
                e.state = State::Failed;
                e.since = now;
            }
            // RFC 4861 section 7.3.3: the old MAC address no longer answers, perhaps the neighbor has a new one.
            State::Probing => {
                e.ask(State::Resolving);
                emit(e.question(now));
                self.invalidate(adj);
            }
        }
    }
}

/// False for multicast, broadcast, loopback and unspecified addresses.
fn can_be_neighbor(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(a) if a.is_broadcast());
    !(broadcast || address.is_multicast() || address.is_loopback() || address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Tags;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 0x20]);
    const AGE: u32 = 60_000;

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn ports() -> [PortL2; 2] {
        let port = |n: u8, tags| PortL2 {
            mac: Mac([2, 0, 0, 0, 0, n]),
            tags,
            mtu: 1500 + u16::from(n),
            ipv4: vec![[10, 0, 0, n].into()],
            ipv6: vec!["fe80::1".parse().unwrap()],
        };
        [port(1, Tags::NONE), port(2, Tags { outer: Some(7), inner: Some(30) })]
    }

    /// A table and a clock that begins shortly before it wraps.
    struct Test {
        table: NeighborTable,
        now: u32,
    }

    impl Test {
        fn new(capacity: usize) -> Test {
            Test { table: NeighborTable::new(capacity, &ports(), AGE), now: u32::MAX - 1_500 }
        }

        /// Lets `ms` pass in steps of 100 and returns when each question came.
        fn pass(&mut self, ms: u32) -> Vec<(u32, Option<Mac>)> {
            let mut asked = Vec::new();
            for step in 1..=ms / 100 {
                self.now = self.now.wrapping_add(100);
                self.table.tick(self.now, &mut |s| asked.push((step * 100, s.unicast)));
            }
            asked
        }

        fn learn(&mut self, mac: Mac, source: Learn) -> Option<Learned> {
            self.table.learn(0, v4(9), mac, self.now, source, false)
        }

        fn state(&self) -> Option<State> {
            self.table.lookup(0, v4(9)).and_then(|adj| self.table.get(adj)).map(|n| n.state)
        }

        fn mac(&self) -> Option<Mac> {
            self.table.lookup(0, v4(9)).and_then(|adj| self.table.get(adj)).and_then(|n| n.mac)
        }

        fn resolved() -> (Test, AdjIndex) {
            let mut t = Test::new(8);
            let adj = t.table.acquire(0, v4(9), t.now).unwrap();
            t.learn(MAC, Learn::Solicited).unwrap();
            (t, adj)
        }
    }

    #[test]
    fn asks_three_times_then_fails_then_asks_again_after_a_hold_down() {
        let mut t = Test::new(8);
        let adj = t.table.acquire(0, v4(9), t.now).unwrap();
        assert!(!t.table.adjacency(adj).valid);
        let question = Solicit { port: 0, target: v4(9), unicast: None };
        assert_eq!(t.table.wanted(adj, t.now), Wanted::Solicit(question));
        assert_eq!(t.table.wanted(adj, t.now), Wanted::Wait);
        assert_eq!(t.pass(3_000), [(1_000, None), (2_000, None)]);
        assert_eq!((t.state(), t.table.wanted(adj, t.now)), (Some(State::Failed), Wanted::Failed));
        assert_eq!(t.pass(HOLD_DOWN - 100), []);
        assert_eq!(t.table.wanted(adj, t.now), Wanted::Failed);
        assert_eq!(t.pass(100), [], "held but not wanted: nobody is asked");
        assert_eq!(t.table.wanted(adj, t.now), Wanted::Solicit(question));
        assert_eq!(t.state(), Some(State::Resolving));
    }

    #[test]
    fn a_tick_asks_what_nobody_wanted_yet() {
        let mut t = Test::new(8);
        t.table.acquire(0, v4(9), t.now).unwrap();
        assert_eq!(t.pass(1_000), [(100, None)]);
    }

    #[test]
    fn an_answer_resolves_and_fills_the_header() {
        let mut t = Test::new(8);
        for (port, address, len) in [(0, v4(9), 14), (1, "fe80::9".parse().unwrap(), 22)] {
            let adj = t.table.acquire(port, address, t.now).unwrap();
            let learned = t.table.learn(port, address, MAC, t.now, Learn::Solicited, false);
            assert_eq!(learned, Some(Learned { adj, resolved_now: true, changed: false }));
            let a = t.table.adjacency(adj);
            let l2 = &ports()[usize::from(port)];
            let ethertype = if address.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
            assert_eq!(a.l2[..len], eth::header(MAC, l2.mac, l2.tags, ethertype)[..]);
            assert_eq!((usize::from(a.l2_len), a.port, a.mtu, a.valid), (len, port, l2.mtu, true));
            assert_eq!(t.table.wanted(adj, t.now), Wanted::Ready);
        }
    }

    #[test]
    fn a_failed_neighbor_comes_back_when_heard() {
        let mut t = Test::new(8);
        t.table.acquire(0, v4(9), t.now).unwrap();
        t.pass(4_000);
        assert_eq!(t.state(), Some(State::Failed));
        assert!(t.learn(MAC, Learn::Unsolicited).unwrap().resolved_now);
        assert_eq!(t.state(), Some(State::Reachable));
    }

    #[test]
    fn an_old_neighbor_in_use_is_probed_and_used_meanwhile() {
        let (mut t, adj) = Test::resolved();
        assert_eq!(t.pass(AGE), [(AGE, Some(MAC))]);
        assert_eq!(t.state(), Some(State::Probing));
        assert!(t.table.adjacency(adj).valid);
        assert!(!t.learn(MAC, Learn::Solicited).unwrap().resolved_now);
        assert_eq!(t.state(), Some(State::Reachable));
        assert_eq!(t.pass(AGE - 100), [], "confirmed anew");
    }

    #[test]
    fn a_neighbor_that_stops_answering_is_asked_for_by_everybody_then_fails() {
        let (mut t, adj) = Test::resolved();
        t.pass(AGE);
        assert_eq!(t.pass(2_900), [(1_000, Some(MAC)), (2_000, Some(MAC))]);
        assert!(t.table.adjacency(adj).valid);
        assert_eq!(t.pass(100), [(100, None)]);
        assert!(!t.table.adjacency(adj).valid);
        assert_eq!((t.state(), t.table.wanted(adj, t.now)), (Some(State::Resolving), Wanted::Wait));
        assert_eq!(t.pass(3_000), [(1_000, None), (2_000, None)]);
        assert_eq!(t.state(), Some(State::Failed));
    }

    #[test]
    fn a_gateway_that_changes_its_mac_silently_is_found_again() {
        let (mut t, adj) = Test::resolved();
        t.pass(AGE + 3_000);
        assert_eq!(t.state(), Some(State::Resolving));
        assert_eq!(
            t.learn(OTHER, Learn::Solicited),
            Some(Learned { adj, resolved_now: true, changed: false })
        );
        assert_eq!(t.mac(), Some(OTHER));
    }

    #[test]
    fn a_gratuitous_change_is_used_at_once_and_then_verified() {
        for source in [Learn::Unsolicited, Learn::Request, Learn::Solicited] {
            let (mut t, adj) = Test::resolved();
            let learned = t.learn(OTHER, source);
            assert_eq!(learned, Some(Learned { adj, resolved_now: false, changed: true }), "{source:?}");
            assert_eq!(&t.table.adjacency(adj).l2[..6], &OTHER.0);
            assert_eq!(t.pass(100), [(100, Some(OTHER))], "{source:?}");
        }
    }

    #[test]
    fn only_answers_confirm() {
        for (source, confirms) in [
            (Learn::Request, false),
            (Learn::Unsolicited, false),
            (Learn::Solicited, true),
            (Learn::Tentative, true),
        ] {
            let (mut t, _) = Test::resolved();
            t.pass(AGE - 100);
            t.learn(MAC, source).unwrap();
            assert_eq!(t.pass(100).is_empty(), confirms, "{source:?}");
        }
    }

    #[test]
    fn a_tentative_answer_fills_in_but_never_replaces() {
        let (mut t, adj) = Test::resolved();
        let learned = t.learn(OTHER, Learn::Tentative);
        assert_eq!(learned, Some(Learned { adj, resolved_now: false, changed: false }));
        assert_eq!(t.mac(), Some(MAC));
        let mut t = Test::new(8);
        t.table.acquire(0, v4(9), t.now).unwrap();
        assert!(t.learn(OTHER, Learn::Tentative).unwrap().resolved_now);
    }

    #[test]
    fn strangers_are_learned_only_on_demand_and_forgotten() {
        let mut t = Test::new(8);
        assert_eq!(t.learn(MAC, Learn::Request), None);
        assert!(t.table.learn(0, v4(9), MAC, t.now, Learn::Request, true).is_some());
        assert_eq!(t.pass(AGE - 100), []);
        assert_eq!(t.mac(), Some(MAC));
        assert_eq!(t.pass(100), [], "nobody uses it: no question");
        assert_eq!(t.state(), None);
    }

    #[test]
    fn released_neighbors_are_forgotten_in_every_state() {
        let (mut t, adj) = Test::resolved();
        assert_eq!(t.table.acquire(0, v4(9), t.now), Some(adj));
        t.table.release(adj);
        t.pass(AGE);
        assert_eq!(t.state(), Some(State::Probing), "still held once");
        t.table.release(adj);
        t.pass(3_000 + 3_000 + HOLD_DOWN);
        assert_eq!(t.state(), None);
        t.table.release(adj);
        assert_eq!(t.table.wanted(adj, t.now), Wanted::Failed);
    }

    #[test]
    fn a_failed_neighbor_that_nobody_holds_is_remembered_for_the_hold_down() {
        let mut t = Test::new(8);
        let adj = t.table.acquire(0, v4(9), t.now).unwrap();
        t.table.release(adj);
        t.pass(3_100 + HOLD_DOWN - 100);
        assert_eq!((t.state(), t.table.wanted(adj, t.now)), (Some(State::Failed), Wanted::Failed));
        t.pass(100);
        assert_eq!(t.state(), None);
    }

    #[test]
    fn static_neighbors_never_change() {
        let mut t = Test::new(8);
        let adj = t.table.set_static(0, v4(9), MAC).unwrap();
        assert_eq!(
            t.learn(OTHER, Learn::Solicited),
            Some(Learned { adj, resolved_now: false, changed: false })
        );
        assert_eq!(t.pass(2 * AGE), []);
        assert_eq!((t.state(), t.mac()), (Some(State::Static), Some(MAC)));

        assert_eq!(t.table.acquire(0, v4(9), t.now), Some(adj));
        t.table.remove_static(0, v4(9));
        assert_eq!((t.state(), t.table.adjacency(adj).valid), (Some(State::Resolving), false));
        assert_eq!(t.pass(100), [(100, None)]);

        t.table.set_static(0, v4(9), OTHER).unwrap();
        t.table.release(adj);
        t.table.remove_static(0, v4(9));
        assert_eq!(t.state(), None);
    }

    #[test]
    fn a_full_table_makes_room_only_from_what_nobody_holds() {
        let mut t = Test::new(2);
        t.table.set_static(0, v4(7), MAC).unwrap();
        assert!(t.table.learn(0, v4(8), MAC, t.now, Learn::Request, true).is_some());
        assert_eq!(t.table.learn(0, v4(9), MAC, t.now, Learn::Request, true), None);
        assert_eq!(t.table.set_static(0, v4(9), MAC), None);
        let adj = t.table.acquire(0, v4(9), t.now).unwrap();
        assert_eq!(t.table.lookup(0, v4(8)), None);
        assert_eq!(t.table.acquire(0, v4(8), t.now), None);
        t.table.release(adj);
        assert!(t.table.acquire(0, v4(8), t.now).is_some());
    }

    #[test]
    fn addresses_that_no_neighbor_can_have() {
        let mut t = Test::new(8);
        for address in
            ["10.0.0.1", "224.0.0.1", "255.255.255.255", "127.0.0.1", "0.0.0.0", "::", "ff02::1", "fe80::1"]
        {
            assert_eq!(t.table.acquire(0, address.parse().unwrap(), t.now), None, "{address}");
        }
        assert_eq!(t.table.acquire(2, v4(9), t.now), None);
        for mac in [Mac::BROADCAST, Mac([0; 6]), Mac([1, 0, 0x5e, 0, 0, 1])] {
            assert_eq!(t.table.learn(0, v4(9), mac, t.now, Learn::Solicited, true), None);
            assert_eq!(t.table.set_static(0, v4(9), mac), None);
        }
        assert!(!t.table.adjacency(AdjIndex::MAX).valid);
        assert_eq!(t.table.wanted(AdjIndex::MAX, t.now), Wanted::Failed);
        assert_eq!(NeighborTable::new(0, &ports(), AGE).acquire(0, v4(9), 0), None);
    }

    #[test]
    fn lists_are_sorted_and_the_same_address_at_two_ports_is_two_neighbors() {
        let mut t = Test::new(8);
        let wanted: Vec<(PortIndex, IpAddr)> =
            vec![(0, v4(3)), (0, v4(9)), (0, "fe80::9".parse().unwrap()), (1, v4(3)), (1, v4(9))];
        for (port, address) in wanted.iter().rev() {
            t.table.acquire(*port, *address, t.now).unwrap();
        }
        assert_eq!(t.table.iter().map(|n| (n.port, n.address)).collect::<Vec<_>>(), wanted);
        t.table.learn(0, v4(9), MAC, t.now, Learn::Solicited, false).unwrap();
        assert_eq!(t.table.iter().filter(|n| n.mac.is_some()).count(), 1);
    }

    #[test]
    fn a_tick_looks_at_a_bounded_number_of_entries() {
        let mut table = NeighborTable::new(SCAN * 3, &ports(), AGE);
        for i in 0..SCAN * 3 {
            let [hi, lo] = (i as u16).to_be_bytes();
            table.acquire(0, IpAddr::from([10, 1, hi, lo]), 0).unwrap();
        }
        for _ in 0..3 {
            let mut asked = 0;
            table.tick(0, &mut |_| asked += 1);
            assert_eq!(asked, SCAN);
        }
        table.tick(0, &mut |s| panic!("asked twice: {s:?}"));
        NeighborTable::new(0, &ports(), AGE).tick(0, &mut |_| ());
    }
}
