//! A gateway as the page has it: from counters to rates.

use std::collections::VecDeque;

use forwarder::api::{Count, FlowInfo, FlowState, PortInfo, Stats};
use serde::Serialize;

use super::state::{Health, asked, health, push};

/// Flows that the page lists; more are counted.
const FLOWS: usize = 24;

/// What a gateway told at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Program and release.
    pub server: String,
    /// Counters.
    pub stats: Stats,
    /// Flows.
    pub flows: Vec<FlowInfo>,
    /// Ports.
    pub ports: Vec<PortInfo>,
}

/// A gateway as the page has it. Rates are over the time between two answers; none before the second one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gateway {
    /// As it was given.
    pub name: String,
    /// Whether it answers.
    pub health: Health,
    /// Program and release.
    pub server: String,
    /// Seconds since it started.
    pub uptime: u64,
    /// Connections.
    pub connections: u64,
    /// Packets a second, received.
    pub packets_per_second: Option<f64>,
    /// Bits a second, whole frames, received on all ports.
    pub bits_per_second: Option<f64>,
    /// The same, a figure a second, the last one last.
    pub history: VecDeque<f64>,
    /// Packets dropped by reason: all, and a second; most first. Only reasons that have any.
    pub drops: Vec<Drop>,
    /// p50, p99, p99.9 and greatest residence time of the slowest worker, in nanoseconds; none without samples.
    pub residence: Option<[u64; 4]>,
    /// Ports.
    pub ports: Vec<Port>,
    /// Flows, the busiest first.
    pub flows: Vec<Flow>,
    /// Flows that are not listed.
    pub more_flows: usize,
    #[serde(skip)]
    before: Option<(f64, Sample)>,
}

/// Packets dropped for a reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Drop {
    pub reason: String,
    pub count: u64,
    pub per_second: Option<f64>,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Port {
    pub name: String,
    pub driver: String,
    pub link: String,
    pub rx_bits_per_second: Option<f64>,
    pub tx_bits_per_second: Option<f64>,
    pub missed: u64,
}

/// A flow.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Flow {
    pub name: String,
    /// Of s2cs, by the flow's name; none of an operator's.
    pub session: Option<String>,
    pub proto: String,
    pub listen: String,
    pub target: String,
    pub draining: bool,
    pub connections: u32,
    pub refused: u64,
    pub bits_per_second: Option<f64>,
}

impl Gateway {
    /// One that was not asked yet.
    pub(super) fn new(name: String) -> Gateway {
        Gateway {
            name,
            health: asked(true),
            server: String::new(),
            uptime: 0,
            connections: 0,
            packets_per_second: None,
            bits_per_second: None,
            history: VecDeque::new(),
            drops: Vec::new(),
            residence: None,
            ports: Vec::new(),
            flows: Vec::new(),
            more_flows: 0,
            before: None,
        }
    }

    /// Seconds since the page began when it last answered.
    pub(super) fn answered(&self) -> f64 {
        self.before.as_ref().map_or(0.0, |(at, _)| *at)
    }

    /// It did not answer.
    pub(super) fn gone(&mut self, why: String) {
        self.health = health("failed", why);
        (self.bits_per_second, self.packets_per_second, self.before) = (None, None, None);
        push(&mut self.history, 0.0);
    }

    /// It answered.
    pub(super) fn sample(&mut self, sample: Sample, now: f64) {
        // Counters that run backwards are those of a gateway that restarted.
        let before = self.before.take().filter(|(at, old)| {
            now > *at
                && sample.stats.uptime >= old.stats.uptime
                && sample.stats.received >= old.stats.received
        });
        let rate = |new: u64, old: Option<u64>| -> Option<f64> {
            let (at, _) = before.as_ref()?;
            Some(new.checked_sub(old?)? as f64 / (now - at))
        };
        let old = before.as_ref().map(|(_, old)| old);
        let bits = |new: Count, old: Option<Count>| rate(new.bytes, old.map(|c| c.bytes)).map(|b| b * 8.0);
        let port = |name: &str| old.and_then(|o| o.ports.iter().find(|p| p.name == name));
        let flow = |name: &str| old.and_then(|o| o.flows.iter().find(|f| f.spec.name == name));
        self.health = health("live", "");
        self.server.clone_from(&sample.server);
        (self.uptime, self.connections) = (sample.stats.uptime, sample.stats.connections);
        self.packets_per_second = rate(sample.stats.received, old.map(|o| o.stats.received));
        self.ports = sample
            .ports
            .iter()
            .map(|p| Port {
                name: p.name.clone(),
                driver: p.driver.clone(),
                link: p.link.clone(),
                rx_bits_per_second: bits(p.rx, port(&p.name).map(|o| o.rx)),
                tx_bits_per_second: bits(p.tx, port(&p.name).map(|o| o.tx)),
                missed: p.rx_missed.saturating_add(p.tx_errors),
            })
            .collect();
        self.bits_per_second = self.ports.iter().map(|p| p.rx_bits_per_second).sum();
        if old.is_none() {
            self.bits_per_second = None;
        }
        push(&mut self.history, self.bits_per_second.unwrap_or(0.0));
        let dropped = sample.stats.drops.iter().filter(|(_, n)| **n > 0);
        self.drops = dropped
            .map(|(reason, n)| Drop {
                reason: reason.clone(),
                count: *n,
                per_second: rate(*n, old.map(|o| o.stats.drops.get(reason).copied().unwrap_or(0))),
            })
            .collect();
        self.drops.sort_by_key(|d| std::cmp::Reverse(d.count));
        let slowest = sample.stats.workers.iter().filter(|w| w.residence.samples > 0);
        let slowest = slowest.max_by_key(|w| w.residence.p99_ns).map(|w| &w.residence);
        self.residence = slowest.map(|r| [r.p50_ns, r.p99_ns, r.p999_ns, r.max_ns]);
        let mut flows: Vec<Flow> = sample
            .flows
            .iter()
            .map(|f| {
                let old = flow(&f.spec.name);
                let both = |f: &FlowInfo| Count {
                    bytes: f.to_target.bytes.saturating_add(f.to_client.bytes),
                    packets: 0,
                };
                Flow {
                    name: f.spec.name.clone(),
                    session: session(&f.spec.name),
                    proto: f.spec.proto.to_string(),
                    listen: f.spec.listen.to_string(),
                    target: f.spec.target.to_string(),
                    draining: f.state == FlowState::Draining,
                    connections: f.connections,
                    refused: f.refused,
                    bits_per_second: bits(both(f), old.map(both)),
                }
            })
            .collect();
        let busy = |f: &Flow| (f.bits_per_second.unwrap_or(0.0), f.connections);
        flows.sort_by(|a, b| busy(b).0.total_cmp(&busy(a).0).then(busy(b).1.cmp(&busy(a).1)));
        self.more_flows = flows.len().saturating_sub(FLOWS);
        flows.truncate(FLOWS);
        self.flows = flows;
        self.before = Some((now, sample));
    }
}

/// The session that a flow belongs to: s2cs names its flows `s2cs:ID:LISTENER`.
fn session(flow: &str) -> Option<String> {
    let (owner, rest) = flow.split_once(':')?;
    let (id, listener) = rest.rsplit_once(':')?;
    listener.parse::<u32>().ok()?;
    Some(format!("{owner}:{id}"))
}

impl PartialEq for Sample {
    fn eq(&self, other: &Self) -> bool {
        self.stats == other.stats && self.flows == other.flows && self.ports == other.ports
    }
}
