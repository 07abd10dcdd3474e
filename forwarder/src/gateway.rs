//! The forwarder as its operator sees it: answers the control socket, publishes flows, ends leases, gathers counters.
//!
//! Everything here runs on service threads. It changes what workers do only by publishing a new [`FlowSet`], and asks them
//! things only through their mailboxes.
#![forbid(unsafe_code)]

mod ports;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::api::{
    ApiError, ConnectionInfo, Count, DeviceDetail, ErrorCode, Explanation, FlowInfo, FlowSpec, FlowState,
    FlowStats, LeaseRenewal, PortFailure, Proto, QueueStats, Reply, Request, Snapshot, Stats, WorkerStats,
};
use crate::config::{Config, validate_flow};
use crate::engine::admit::{self, Admission, Refusal};
use crate::engine::{ConnRow, DropReason};
use crate::flow::police::Police;
use crate::flow::set::{CountPair, FlowCounters, POLICED};
use crate::flow::{Direction, Flow, FlowSet, Tuple};
use crate::io::PortIndex;
use crate::neighbor::{Contested, Neighbor};
use crate::net::Network;
use crate::residence::{Counts, Histogram};
use crate::service::{Handler, Peer};
use crate::sync::Publisher;
use crate::worker::{Command, WorkerHandle};

/// Connections listed when the client names no limit.
const LIST_LIMIT: usize = 10_000;
/// Most connections listed at once, whatever the client asks: an answer is one line, made in memory.
const LIST_MOST: usize = 100_000;
/// Connections asked of a worker at once.
const LIST_CHUNK: usize = 256;
/// How long a change may take to reach every worker.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a change gives way to other threads before it sleeps while workers take it.
const YIELDS: u32 = 100;

/// What a device tells about itself.
#[derive(Debug, Clone, Default)]
pub struct DeviceStatus {
    /// Driver's name.
    pub driver: String,
    /// NUMA node, when known.
    pub numa_node: Option<i32>,
    /// `up`, `down` or `unknown`.
    pub link: String,
    /// Mbit/s, when known.
    pub speed: Option<u32>,
    /// Queues in use.
    pub queues: u16,
    /// Frames lost before a worker saw them.
    pub rx_missed: u64,
    /// Frames lost after a worker gave them.
    pub tx_errors: u64,
    /// Why it is out of use, when it is; `link` is then `failed`.
    pub failure: Option<PortFailure>,
}

/// The device behind a port.
pub trait Device: Send + Sync {
    /// Its state now.
    fn status(&self) -> DeviceStatus;
    /// All that is known of it, with the driver's own counters.
    fn detail(&self) -> DeviceDetail {
        DeviceDetail::default()
    }
}

/// Figures of a flow slot, summed over workers.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    to_target: Count,
    to_client: Count,
    admitted: u64,
    refused: u64,
    policed: u64,
}

/// What is to become of the flows, in one step.
#[derive(Default)]
struct Change {
    delete: Vec<String>,
    replace: Vec<FlowSpec>,
    add: Vec<FlowSpec>,
    renew: Vec<LeaseRenewal>,
    /// The flows to add are those of the configuration file.
    configured: bool,
}

/// What a change has done so far, so that it can be undone.
#[derive(Default)]
struct Staged {
    /// What had a name before it was touched, in the order touched.
    before: Vec<(String, Option<Entry>)>,
    /// Slots for new flows.
    taken: Vec<u32>,
    /// Slots that go with the next epoch.
    given_up: Vec<u32>,
}

impl Staged {
    fn put(&mut self, state: &mut State, name: String, entry: Option<Entry>) {
        let before = state.put(name.clone(), entry);
        self.before.push((name, before));
    }
}

#[derive(Clone)]
struct Entry {
    flow: Arc<Flow>,
    configured: bool,
    /// When the lease ends.
    until: Option<Instant>,
    /// What the slot's counters stood at when this flow took it.
    baseline: Totals,
    residence_baseline: Arc<Counts>,
}

struct State {
    flows: BTreeMap<String, Entry>,
    /// Names of the flows, by what they listen on.
    listening: HashMap<(Proto, SocketAddr), String>,
    publisher: Publisher<FlowSet>,
    /// Never reused.
    next_id: u64,
    /// Version given last.
    last_version: u32,
    /// Slots nobody uses.
    free: Vec<u32>,
    /// Slots given up at an epoch that not every worker has reached: their counters may still move.
    leaving: Vec<(u64, u32)>,
}

/// The running forwarder, without its workers' threads.
pub struct Gateway {
    config: Arc<Config>,
    net: Arc<Network>,
    workers: Vec<WorkerHandle>,
    devices: Vec<Box<dyn Device>>,
    state: Mutex<State>,
    started: Instant,
}

fn error(code: ErrorCode, message: impl Into<String>) -> ApiError {
    ApiError { code, message: message.into() }
}

impl Gateway {
    /// Takes over the publisher that the workers read, and installs the configuration's flows.
    pub fn new(
        config: Arc<Config>,
        net: Arc<Network>,
        publisher: Publisher<FlowSet>,
        workers: Vec<WorkerHandle>,
        devices: Vec<Box<dyn Device>>,
    ) -> Result<Self, ApiError> {
        let free = (0..config.limits.flows as u32).rev().collect();
        let state = State {
            flows: BTreeMap::new(),
            listening: HashMap::new(),
            publisher,
            next_id: 1,
            last_version: 0,
            free,
            leaving: Vec::new(),
        };
        let gateway =
            Self { net, workers, devices, state: Mutex::new(state), started: Instant::now(), config };
        {
            let mut state = gateway.state();
            let add = gateway.config.flows.clone();
            gateway.apply(&mut state, Change { add, configured: true, ..Change::default() })?;
            state.publish();
        }
        Ok(gateway)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note that the link of a device is new, so that neighbors hear again who has its ports' addresses.
    pub fn link_up(&self, device: PortIndex) {
        for worker in &self.workers {
            // One that is stuck says nothing anyway.
            _ = worker.ask(Command::LinkUp(device));
        }
    }

    /// How often each worker's loop has turned.
    pub fn turns(&self) -> Vec<u64> {
        self.workers.iter().map(|w| w.counters.loops.get()).collect()
    }

    /// Ends leases and drained flows. Called several times a second.
    pub fn tick(&self) {
        let now = Instant::now();
        let mut state = self.state();
        let over = |e: &Entry| {
            let drained = e.flow.state == FlowState::Draining && e.flow.shared.connections.in_use() == 0;
            drained || e.until.is_some_and(|until| until <= now)
        };
        let gone: Vec<String> =
            state.flows.iter().filter(|(_, e)| over(e)).map(|(name, _)| name.clone()).collect();
        if gone.is_empty() {
            state.publisher.reclaim();
            return;
        }
        for name in gone {
            if let Some(entry) = state.put(name, None) {
                let epoch = state.publisher.epoch() + 1;
                state.leaving.push((epoch, entry.flow.slot));
            }
        }
        state.publish();
    }

    /// Changes the flows as one step. What cannot be done leaves them as they were.
    fn apply(&self, state: &mut State, change: Change) -> Result<(), ApiError> {
        let mut staged = Staged::default();
        let done = self.stage(state, change, &mut staged);
        match done {
            Ok(()) => {
                let epoch = state.publisher.epoch() + 1;
                state.leaving.extend(staged.given_up.into_iter().map(|slot| (epoch, slot)));
            }
            Err(_) => {
                for (name, entry) in staged.before.into_iter().rev() {
                    state.put(name, entry);
                }
                state.free.extend(staged.taken);
            }
        }
        done
    }

    fn stage(&self, state: &mut State, change: Change, staged: &mut Staged) -> Result<(), ApiError> {
        for name in change.delete {
            let entry = state.entry(&name)?;
            staged.given_up.push(entry.flow.slot);
            staged.put(state, name, None);
        }
        for spec in change.replace {
            self.replace(state, spec, staged)?;
        }
        for spec in change.add {
            self.validate(&spec)?;
            if state.flows.contains_key(&spec.name) {
                return Err(error(
                    ErrorCode::Conflict,
                    format!("flow {:?} exists already; use flow replace, or delete it first", spec.name),
                ));
            }
            self.install(state, spec, change.configured, staged)?;
        }
        for LeaseRenewal { name, lease } in change.renew {
            let entry = state.entry(&name)?;
            let mut spec = entry.flow.spec.clone();
            spec.lease = lease.or(spec.lease);
            self.validate(&spec)?;
            let until = deadline(spec.lease);
            let flow = Arc::new(Flow { spec, ..(*entry.flow).clone() });
            let renewed = Entry { flow, until, ..entry.clone() };
            staged.put(state, name, Some(renewed));
        }
        Ok(())
    }

    /// Holds a flow to its rate. All workers' clocks are the same.
    fn police(&self, spec: &FlowSpec) -> Option<Police> {
        let ticks_per_ms = self.workers.first().map_or(1, |w| w.ticks_per_ms);
        spec.rate.map(|mbits| Police::new(mbits, ticks_per_ms))
    }

    /// Gives a flow a slot and an id of its own.
    fn install(
        &self,
        state: &mut State,
        spec: FlowSpec,
        configured: bool,
        staged: &mut Staged,
    ) -> Result<(), ApiError> {
        state.check_listen(&spec)?;
        let slot = state.take_slot().ok_or_else(|| {
            let (name, most) = (&spec.name, self.config.limits.flows);
            error(
                ErrorCode::Full,
                format!(
                    "flow {name:?}: all {most} flow slots are in use; delete flows or raise limits.flows"
                ),
            )
        })?;
        staged.taken.push(slot);
        let flow = Flow {
            id: state.next_id,
            slot,
            version: state.version(),
            state: FlowState::Active,
            police: self.police(&spec),
            spec,
            shared: Arc::default(),
        };
        state.next_id += 1;
        let entry = Entry {
            until: deadline(flow.spec.lease),
            configured,
            baseline: self.totals(slot),
            residence_baseline: Arc::new(self.residence(slot)),
            flow: Arc::new(flow),
        };
        staged.put(state, entry.flow.spec.name.clone(), Some(entry));
        Ok(())
    }

    fn validate(&self, spec: &FlowSpec) -> Result<(), ApiError> {
        validate_flow(&self.config.network(), spec)
            .map_err(|e| error(ErrorCode::BadRequest, format!("flow {:?}: {}: {e}", spec.name, e.field())))
    }

    fn replace(&self, state: &mut State, spec: FlowSpec, staged: &mut Staged) -> Result<(), ApiError> {
        self.validate(&spec)?;
        let entry = state.entry(&spec.name)?.clone();
        let (old, new) = (&entry.flow.spec, &spec);
        if (old.proto, old.listen, old.target) != (new.proto, new.listen, new.target) {
            // Another way through the gateway: its connections end with the old flow, and the new one has a slot of its own.
            self.install(state, spec, false, staged)?;
            staged.given_up.push(entry.flow.slot);
            return Ok(());
        }
        let until = deadline(spec.lease);
        let version = state.version();
        let name = spec.name.clone();
        // At the same rate the buckets are what they were; another rate has its own.
        let police = match &entry.flow.police {
            Some(police) if entry.flow.spec.rate == spec.rate => Some(police.clone()),
            _ => self.police(&spec),
        };
        let flow =
            Arc::new(Flow { version, spec, police, state: FlowState::Active, ..(*entry.flow).clone() });
        staged.put(state, name, Some(Entry { flow, until, configured: false, ..entry }));
        Ok(())
    }

    /// Changes the flows, publishes, and waits until every worker goes by the change.
    fn change(&self, f: impl FnOnce(&mut State) -> Result<(), ApiError>) -> Result<Reply, ApiError> {
        let epoch = {
            let mut state = self.state();
            f(&mut state)?;
            state.publish()
        };
        let until = Instant::now() + PATIENCE;
        // A busy worker goes by the change within microseconds, one that sleeps within a millisecond.
        let mut tries = 0;
        while self.state().publisher.acknowledged() < epoch {
            if Instant::now() > until {
                return Err(error(
                    ErrorCode::Internal,
                    format!(
                        "the change is published as epoch {epoch}, but a worker has not taken it in 2 s; see stats"
                    ),
                ));
            }
            tries += 1;
            if tries < YIELDS {
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        Ok(Reply::Done { epoch })
    }

    fn totals(&self, slot: u32) -> Totals {
        let add = |to: &mut Count, from: &CountPair| {
            to.packets += from.packets.get();
            to.bytes += from.bytes.get();
        };
        let flows = self.workers.iter().filter_map(|w| w.counters.flows.get(slot as usize));
        flows.fold(Totals::default(), |mut t, f: &FlowCounters| {
            add(&mut t.to_target, &f.directions[0]);
            add(&mut t.to_client, &f.directions[1]);
            t.admitted += f.admitted.get();
            t.refused += f.refused.get();
            t.policed += f.policed.get();
            t
        })
    }

    /// Residence times of a flow slot, summed over workers.
    fn residence(&self, slot: u32) -> Counts {
        let mut counts = Counts::default();
        self.workers
            .iter()
            .filter_map(|w| w.counters.flow_residence.get(slot as usize))
            .for_each(|h| counts.add(h));
        counts
    }

    /// Residence times of the flows that have any. All workers' clocks are the same.
    fn flow_stats(&self) -> Vec<FlowStats> {
        let ticks_per_ms = self.workers.first().map_or(1, |w| w.ticks_per_ms);
        let stats = |(name, entry): (&String, &Entry)| {
            let mut counts = self.residence(entry.flow.slot);
            counts.subtract(&entry.residence_baseline);
            FlowStats { flow: name.clone(), residence: counts.summary(ticks_per_ms) }
        };
        self.state().flows.iter().map(stats).filter(|f| f.residence.samples > 0).collect()
    }

    fn flow_info(&self, entry: &Entry) -> FlowInfo {
        let since = |now: Count, then: Count| Count {
            packets: now.packets.saturating_sub(then.packets),
            bytes: now.bytes.saturating_sub(then.bytes),
        };
        let (now, then) = (self.totals(entry.flow.slot), entry.baseline);
        FlowInfo {
            spec: entry.flow.spec.clone(),
            state: entry.flow.state,
            configured: entry.configured,
            lease_remaining: entry
                .until
                .map(|until| until.saturating_duration_since(Instant::now()).as_secs()),
            connections: entry.flow.shared.connections.in_use(),
            admitted: now.admitted.saturating_sub(then.admitted),
            refused: now.refused.saturating_sub(then.refused),
            policed: now.policed.saturating_sub(then.policed),
            to_target: since(now.to_target, then.to_target),
            to_client: since(now.to_client, then.to_client),
        }
    }

    /// Every flow, by name.
    pub fn flows(&self) -> Vec<FlowInfo> {
        self.state().flows.values().map(|e| self.flow_info(e)).collect()
    }

    fn connections(&self, flow: Option<&str>, limit: usize) -> Result<(Vec<ConnectionInfo>, bool), ApiError> {
        let (names, only) = {
            let mut state = self.state();
            let only = flow.map(|name| state.entry(name).map(|e| e.flow.id)).transpose()?;
            let names: BTreeMap<u64, String> =
                state.flows.iter().map(|(name, e)| (e.flow.id, name.clone())).collect();
            (names, only)
        };
        let mut list = Vec::new();
        for worker in &self.workers {
            let mut from = Some(0);
            while let Some(start) = from {
                let rows = Vec::with_capacity(LIST_CHUNK);
                let Some(Command::List { rows, next, .. }) =
                    worker.ask(Command::List { from: start, flow: only, rows, next: None })
                else {
                    return Err(silent(worker.index));
                };
                // A connection whose flow is gone is dead, the sweep has only not come by yet.
                let live = rows.iter().filter_map(|row| Some((row, names.get(&row.flow_id)?)));
                list.extend(live.map(|(row, name)| connection_info(row, name, worker.index)));
                if list.len() > limit {
                    list.truncate(limit);
                    return Ok((list, true));
                }
                from = next;
            }
        }
        Ok((list, false))
    }

    /// Next hops, and own addresses that others claimed.
    fn neighbors(&self) -> Result<(Vec<Neighbor>, Vec<Contested>), ApiError> {
        let mut all: Vec<Neighbor> = Vec::new();
        let mut claims: Vec<Contested> = Vec::new();
        let own: usize = self.net.ports_l2().iter().map(|p| p.addresses().count()).sum();
        for worker in &self.workers {
            let ask = Command::Neighbors {
                rows: Vec::with_capacity(self.config.limits.neighbors),
                contested: Vec::with_capacity(own),
            };
            let Some(Command::Neighbors { rows, contested }) = worker.ask(ask) else {
                return Err(silent(worker.index));
            };
            for claim in contested {
                match claims.iter_mut().find(|c| c.port == claim.port && c.address == claim.address) {
                    Some(known) => {
                        let times = known.times + claim.times;
                        let last = if claim.ago < known.ago { claim } else { *known };
                        *known = Contested { times, ..last };
                    }
                    None => claims.push(claim),
                }
            }
            for row in rows {
                // Workers may know different next hops, and one may not have heard yet: the resolved one counts.
                match all.iter_mut().find(|r| r.port == row.port && r.address == row.address) {
                    Some(known) if known.mac.is_none() => *known = row,
                    Some(_) => {}
                    None => all.push(row),
                }
            }
        }
        all.sort_by_key(|r| (r.port, r.address));
        claims.sort_by_key(|c| (c.port, c.address));
        Ok((all, claims))
    }

    /// The counters.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            uptime: self.started.elapsed().as_secs(),
            epoch: self.state().publisher.epoch(),
            drops: DropReason::ALL.iter().map(|r| (r.name().to_owned(), 0)).collect(),
            ..Stats::default()
        };
        stats.flows = self.flow_stats();
        let (mut handed_over, mut taken_over) = (0, 0);
        let summary = |histogram: &Histogram, per_ms| {
            let mut counts = Counts::default();
            counts.add(histogram);
            counts.summary(per_ms)
        };
        for worker in &self.workers {
            let c = &worker.counters;
            let queue = |(i, q): (usize, &crate::counters::QueueCounters)| QueueStats {
                port: self.net.ports[i].name.clone(),
                rx: Count { packets: q.rx.packets.get(), bytes: q.rx.bytes.get() },
                tx: Count { packets: q.tx.packets.get(), bytes: q.tx.bytes.get() },
                drops: DropReason::ALL
                    .iter()
                    .map(|r| (r.name().to_owned(), q.dropped(*r)))
                    .filter(|(_, n)| *n > 0)
                    .collect(),
            };
            let w = WorkerStats {
                worker: worker.index,
                core: worker.core,
                received: c.received(),
                sent: c.sent(),
                held: c.held.get(),
                handed_over: c.handed_over(),
                taken_over: c.taken_over.get(),
                loops: c.loops.get(),
                busy_loops: c.busy_loops.get(),
                busy_cycles: c.busy_cycles.get(),
                connections: c.connections.get(),
                queues: c.queues.iter().enumerate().map(queue).collect(),
                residence: summary(&c.residence, worker.ticks_per_ms),
                waits: summary(&c.waits, 1),
            };
            stats.received += w.received;
            stats.sent += w.sent;
            stats.held += w.held;
            handed_over += w.handed_over;
            taken_over += w.taken_over;
            stats.originated += c.originated.get();
            stats.connections += w.connections;
            for (reason, n) in w.queues.iter().flat_map(|q| &q.drops) {
                *stats.drops.entry(reason.clone()).or_default() += n;
            }
            stats.workers.push(w);
        }
        // On its way from one worker to another a frame is held, too. Workers go on while they are read.
        stats.held += u64::saturating_sub(handed_over, taken_over);
        stats
    }

    fn explain(&self, port: &str, tuple: Tuple) -> Result<Explanation, ApiError> {
        let mut e = Explanation::default();
        let (neighbors, _) = self.neighbors()?;
        e.steps.push(format!(
            "{:?} packet from {} to {} arrives at port {port}",
            tuple.proto, tuple.src, tuple.dst
        ));
        let Some(key) = tuple.key() else {
            return Err(error(
                ErrorCode::BadRequest,
                "source and destination are of different address families",
            ));
        };
        let hairpin = self.state().flows.values().any(|entry| entry.flow.spec.hairpin);
        let checked = admit::check_addresses(&self.net, tuple.port, tuple.src.ip(), tuple.dst.ip(), hairpin);
        if let Err(reason) = checked.and_then(|()| admit::check_tuple(&tuple)) {
            return Ok(refused(e, reason));
        }
        let owner = self.net.owner(tuple.dst.ip()).and_then(|i| self.net.ports.get(usize::from(i)));
        let owner = owner.map_or(port, |p| &p.name);
        e.steps.push(format!("{} is an address of port {owner}, and the source may be one", tuple.dst.ip()));
        for worker in &self.workers {
            let Some(Command::Probe { found, .. }) = worker.ask(Command::Probe { key, found: None }) else {
                return Err(silent(worker.index));
            };
            if let Some((row, direction)) = found {
                return Ok(self.explain_existing(e, &row, direction, worker.index, &neighbors));
            }
        }
        e.steps.push("no worker has a connection with this 5-tuple".into());
        let state = self.state();
        let set = FlowSet::new(state.flows.values().map(|entry| Arc::clone(&entry.flow)));
        match admit::check(&self.net, &set, &tuple, true) {
            Err(Refusal { reason, flow }) => {
                e.flow = flow.and_then(|slot| set.slot(slot)).map(|f| f.spec.name.clone());
                e.steps.extend(e.flow.iter().map(|f| format!("flow {f} listens there")).collect::<Vec<_>>());
                Ok(refused(e, reason))
            }
            Ok(Admission { flow, out_port, to_target, .. }) => {
                e.flow = Some(flow.spec.name.clone());
                e.steps.push(format!("flow {} listens there and allows the source", flow.spec.name));
                let most = flow.spec.max_conns.unwrap_or(u32::MAX);
                if flow.shared.connections.in_use() >= most {
                    e.steps.push(format!("the flow has its {most} connections"));
                    return Ok(refused(e, DropReason::FlowFull));
                }
                if tuple.proto == Proto::Tcp {
                    e.steps.push(
                        "a SYN opens a connection; any other segment is dropped as tcp_no_connection".into(),
                    );
                } else {
                    e.steps.push("the datagram opens a connection".into());
                }
                let source = self.net.sources(out_port, to_target).next();
                e.rewritten_src = source.map(|address| std::net::SocketAddr::new(address, 0));
                e.rewritten_dst = Some(flow.spec.target);
                // Where nobody told how packets are steered, the workers have a secret of their own.
                let steering = self.net.ports[usize::from(tuple.port)].steering.as_ref();
                e.worker = match &self.workers[..] {
                    [only] => Some(only.index),
                    _ => steering.map(|steering| steering.home(&key)),
                };
                if e.worker.is_none() {
                    e.steps.push(
                        "a hash of its addresses and ports tells which worker will own the connection".into(),
                    );
                }
                self.explain_next_hop(&mut e, out_port, to_target, &neighbors);
                Ok(e)
            }
        }
    }

    fn explain_existing(
        &self,
        mut e: Explanation,
        row: &ConnRow,
        direction: Direction,
        worker: usize,
        neighbors: &[Neighbor],
    ) -> Explanation {
        e.existing = true;
        e.worker = Some(worker);
        e.flow =
            self.state().flows.values().find(|f| f.flow.id == row.flow_id).map(|f| f.flow.spec.name.clone());
        let Some(flow) = e.flow.clone() else {
            e.steps.push(format!("worker {worker} has the connection, but its flow is gone"));
            return refused(e, DropReason::NoFlow);
        };
        e.steps.push(format!("worker {worker} has a connection of flow {flow}, {}", row.state));
        let points = &row.endpoints;
        let (src, dst, out) = match direction {
            Direction::ToTarget => (points.source, points.target, points.arrives[1]),
            Direction::ToClient => (points.listen, points.client, points.arrives[0]),
        };
        (e.rewritten_src, e.rewritten_dst) = (Some(src), Some(dst));
        match self.net.route(dst.ip()) {
            Some((_, next_hop)) => self.explain_next_hop(&mut e, out, next_hop, neighbors),
            None => return refused(e, DropReason::NoRoute),
        }
        e
    }

    fn explain_next_hop(
        &self,
        e: &mut Explanation,
        port: crate::io::PortIndex,
        next_hop: std::net::IpAddr,
        neighbors: &[Neighbor],
    ) {
        let name = self.net.ports[usize::from(port)].name.clone();
        let row = neighbors.iter().find(|r| r.port == port && r.address == next_hop);
        let known = row.and_then(|r| r.mac);
        if let (Some(src), Some(dst)) = (e.rewritten_src, e.rewritten_dst) {
            let src = if src.port() == 0 {
                format!("{} and a source port chosen then", src.ip())
            } else {
                src.to_string()
            };
            e.steps.push(format!("it is rewritten to come from {src} and go to {dst}"));
        }
        e.steps.push(match known {
            Some(mac) => format!("it leaves by port {name} to next hop {next_hop} at {mac}"),
            None => format!(
                "it leaves by port {name} to next hop {next_hop}, whose MAC address is asked for first"
            ),
        });
        e.verdict = "forward".into();
        e.out_port = Some(name);
        e.next_hop = Some(next_hop);
        e.next_hop_mac = known.map(|m| m.to_string());
    }

    fn port_index(&self, name: &str) -> Result<crate::io::PortIndex, ApiError> {
        (0..).zip(&self.net.ports).find(|(_, p)| p.name == name).map(|(i, _)| i).ok_or_else(|| {
            let names: Vec<_> = self.net.ports.iter().map(|p| p.name.as_str()).collect();
            error(ErrorCode::NotFound, format!("there is no port {name:?}; there are {}", names.join(", ")))
        })
    }
}

impl State {
    fn publish(&mut self) -> u64 {
        let set = FlowSet::new(self.flows.values().map(|e| Arc::clone(&e.flow)));
        self.publisher.publish(set)
    }

    /// A version that no flow has; 0 is none.
    fn version(&mut self) -> u32 {
        self.last_version = ((self.last_version + 1) & !POLICED).max(1);
        self.last_version
    }

    fn entry(&mut self, name: &str) -> Result<&mut Entry, ApiError> {
        self.flows.get_mut(name).ok_or_else(|| no_flow(name))
    }

    /// Gives a name to a flow or to none; returns what had it.
    fn put(&mut self, name: String, entry: Option<Entry>) -> Option<Entry> {
        let listen = |entry: &Entry| (entry.flow.spec.proto, entry.flow.spec.listen);
        if let Some(old) = self.flows.get(&name) {
            self.listening.remove(&listen(old));
        }
        match entry {
            Some(entry) => {
                self.listening.insert(listen(&entry), name.clone());
                self.flows.insert(name, entry)
            }
            None => self.flows.remove(&name),
        }
    }

    fn check_listen(&self, spec: &FlowSpec) -> Result<(), ApiError> {
        match self.listening.get(&(spec.proto, spec.listen)).filter(|taken| **taken != spec.name) {
            Some(taken) => Err(error(
                ErrorCode::Conflict,
                format!(
                    "flow {:?}: listen: {} is taken by flow {taken:?}; choose another port or delete that flow",
                    spec.name, spec.listen
                ),
            )),
            None => Ok(()),
        }
    }

    fn take_slot(&mut self) -> Option<u32> {
        let acknowledged = self.publisher.acknowledged();
        let free = &mut self.free;
        self.leaving.retain(|(epoch, slot)| {
            let settled = *epoch <= acknowledged;
            if settled {
                free.push(*slot);
            }
            !settled
        });
        self.free.pop()
    }
}

impl Handler for Gateway {
    fn handle(&self, request: Request, _peer: &Peer) -> Result<Reply, ApiError> {
        let apply = |change| self.change(|state| self.apply(state, change));
        match request {
            Request::FlowAdd { spec } => apply(Change { add: vec![spec], ..Change::default() }),
            Request::FlowReplace { spec } => apply(Change { replace: vec![spec], ..Change::default() }),
            Request::FlowDelete { name } => apply(Change { delete: vec![name], ..Change::default() }),
            Request::FlowApply { add, replace, delete, renew } => {
                apply(Change { add, replace, delete, renew, configured: false })
            }
            Request::FlowDrain { name } => self.change(|state| {
                let entry = state.entry(&name)?;
                entry.flow = Arc::new(Flow { state: FlowState::Draining, ..(*entry.flow).clone() });
                Ok(())
            }),
            Request::LeaseRenew { name, lease } => {
                let mut state = self.state();
                let renew = vec![LeaseRenewal { name, lease }];
                self.apply(&mut state, Change { renew, ..Change::default() })?;
                // Workers do not read leases: nothing to publish.
                Ok(Reply::Done { epoch: state.publisher.epoch() })
            }
            Request::FlowList => Ok(Reply::Flows { flows: self.flows() }),
            Request::FlowShow { name } => {
                let mut state = self.state();
                let flow = self.flow_info(state.entry(&name)?);
                Ok(Reply::Flow { flow })
            }
            Request::ConnectionList { flow, limit } => {
                let (connections, truncated) =
                    self.connections(flow.as_deref(), limit.unwrap_or(LIST_LIMIT).min(LIST_MOST))?;
                Ok(Reply::Connections { connections, truncated })
            }
            Request::PortList => Ok(Reply::Ports { ports: self.ports()? }),
            Request::PortShow { name, all } => {
                Ok(Reply::Port { port: Box::new(self.port(self.port_index(&name)?, all)?) })
            }
            Request::Stats => Ok(Reply::Stats { stats: self.stats() }),
            Request::Explain { port, proto, src, dst } => {
                let tuple = Tuple { port: self.port_index(&port)?, proto, src, dst };
                Ok(Reply::Explained { explanation: self.explain(&port, tuple)? })
            }
            Request::Snapshot => {
                let (connections, connections_truncated) = self.connections(None, LIST_LIMIT)?;
                let (flows, ports, stats) = (self.flows(), self.ports()?, self.stats());
                let snapshot = Snapshot { flows, ports, connections, connections_truncated, stats };
                Ok(Reply::Snapshot { snapshot: Box::new(snapshot) })
            }
        }
    }
}

fn no_flow(name: &str) -> ApiError {
    error(ErrorCode::NotFound, format!("there is no flow {name:?}; see flow list"))
}

fn deadline(lease: Option<u64>) -> Option<Instant> {
    lease.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)))
}

fn silent(worker: usize) -> ApiError {
    error(ErrorCode::Internal, format!("worker {worker} does not answer; the forwarder is stopping or stuck"))
}

fn refused(mut e: Explanation, reason: DropReason) -> Explanation {
    e.verdict = reason.name().into();
    e.steps.push(format!("it is dropped as {}: {}", reason.name(), reason.meaning().trim()));
    e
}

fn connection_info(row: &ConnRow, flow: &str, worker: usize) -> ConnectionInfo {
    let points = &row.endpoints;
    let count = |(packets, bytes)| Count { packets, bytes };
    ConnectionInfo {
        flow: flow.to_owned(),
        proto: points.proto,
        client: points.client,
        listen: points.listen,
        source: points.source,
        target: points.target,
        state: row.state.to_owned(),
        worker,
        age: u64::from(row.age / 1000),
        idle: u64::from(row.idle / 1000),
        to_target: count(row.counts[0]),
        to_client: count(row.counts[1]),
    }
}
