//! What is known of the stream, the gateways and the control server, and what the page shows of it.

use std::collections::{BTreeMap, VecDeque};

use forwarder::api::{Count, FlowInfo, FlowState, PortInfo, Stats};
use serde::{Deserialize, Serialize};

use crate::result::{End, Interval, Start, Sums};

/// Seconds of history that the page has.
const HISTORY: usize = 120;
/// Seconds without an answer or a line after which a source counts as silent.
const SILENT: f64 = 3.5;
/// Flows that the page lists; more are counted.
const FLOWS: usize = 24;

/// A line of `s2bench sink --json-stream`, in the shape of iperf3's.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", content = "data", rename_all = "lowercase")]
pub enum Event {
    /// What runs where.
    Start(Box<Start>),
    /// What the last second brought.
    Interval(Interval),
    /// The sums.
    End(Box<End>),
}

/// How a source of data is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Health {
    /// `not asked`, `waiting`, `live`, `silent`, `ended`, `failed`.
    pub state: &'static str,
    /// In a sentence, where there is something to say.
    pub why: String,
}

/// A second of the stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Second {
    /// Seconds since the run began.
    pub at: f64,
    /// Bits a second.
    pub bits_per_second: f64,
    /// Nanoseconds; none without a message.
    pub delay_p50: Option<i64>,
    /// Nanoseconds; none without a message.
    pub delay_p99: Option<i64>,
    /// Milliseconds (RFC 3550).
    pub jitter_ms: f64,
}

/// The stream as the page has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stream {
    /// Whether lines come.
    pub health: Health,
    /// Lines that could not be read, and the last reason.
    pub bad_lines: u64,
    /// See `bad_lines`.
    pub bad: String,
    /// What runs where; none before it begins.
    pub start: Option<Box<Start>>,
    /// The last second, of all connections.
    pub sum: Option<Sums>,
    /// The last second, of each.
    pub connections: Vec<Sums>,
    /// Messages and bytes since the run began.
    pub totals: Sums,
    /// Seconds, the last one last.
    pub history: VecDeque<Second>,
    /// The sums, without histograms; none before the run ends.
    pub end: Option<Box<End>>,
    #[serde(skip)]
    last: f64,
}

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

/// The control server as the page has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Control {
    /// Whether its metrics come.
    pub health: Health,
    /// Metrics by name with labels, as it writes them.
    pub metrics: BTreeMap<String, f64>,
    #[serde(skip)]
    last: f64,
}

/// All that is known.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct State {
    /// The stream.
    pub stream: Stream,
    /// From the producer's to the consumer's.
    pub gateways: Vec<Gateway>,
    /// The control server.
    pub s2cs: Control,
}

fn health(state: &'static str, why: impl Into<String>) -> Health {
    Health { state, why: why.into() }
}

fn asked(whether: bool) -> Health {
    health(if whether { "waiting" } else { "not asked" }, "")
}

impl State {
    /// Nothing known yet.
    pub fn new(stream: bool, gateways: impl Iterator<Item = String>, s2cs: bool) -> State {
        let gateway = |name| Gateway {
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
        };
        State {
            stream: Stream {
                health: asked(stream),
                bad_lines: 0,
                bad: String::new(),
                start: None,
                sum: None,
                connections: Vec::new(),
                totals: Sums::default(),
                history: VecDeque::new(),
                end: None,
                last: 0.0,
            },
            gateways: gateways.map(gateway).collect(),
            s2cs: Control { health: asked(s2cs), metrics: BTreeMap::new(), last: 0.0 },
        }
    }

    /// A line of the stream came; times are seconds since the page began.
    pub fn line(&mut self, line: &str, now: f64) {
        match serde_json::from_str::<Event>(line) {
            Ok(event) => self.stream.event(event, now),
            Err(e) => self.bad_line(&format!("{e} in {:?}", line.chars().take(60).collect::<String>())),
        }
    }

    /// A line came that is none.
    pub fn bad_line(&mut self, why: &str) {
        self.stream.bad_lines += 1;
        self.stream.bad = why.to_owned();
    }

    /// The stream's source has something to say: it cannot be opened, or its writer has gone.
    pub fn stream_is(&mut self, state: &'static str, why: impl Into<String>) {
        // A run that ended stays so when its writer goes.
        if self.stream.end.is_none() || state == "failed" {
            self.stream.health = health(state, why);
        }
    }

    /// A gateway answered, or did not.
    pub fn gateway(&mut self, n: usize, answer: Result<Sample, String>, now: f64) {
        let Some(gateway) = self.gateways.get_mut(n) else { return };
        match answer {
            Ok(sample) => gateway.sample(sample, now),
            Err(why) => {
                gateway.health = health("failed", why);
                (gateway.bits_per_second, gateway.packets_per_second, gateway.before) = (None, None, None);
                push(&mut gateway.history, 0.0);
            }
        }
    }

    /// The control server's metrics came, or did not.
    pub fn control(&mut self, answer: Result<BTreeMap<String, f64>, String>, now: f64) {
        match answer {
            Ok(metrics) => {
                (self.s2cs.metrics, self.s2cs.last) = (metrics, now);
                self.s2cs.health = health("live", "");
            }
            Err(why) => self.s2cs.health = health("failed", why),
        }
    }

    /// What it looks like at a moment: sources that said nothing for long are silent.
    #[must_use]
    pub fn at(&self, now: f64) -> State {
        let mut view = self.clone();
        let quiet = |health: &mut Health, last: f64| {
            if health.state == "live" && now - last > SILENT {
                *health = self::health("silent", format!("nothing came for {:.0} s", now - last));
            }
        };
        quiet(&mut view.stream.health, view.stream.last);
        quiet(&mut view.s2cs.health, view.s2cs.last);
        for gateway in &mut view.gateways {
            let last = gateway.before.as_ref().map_or(0.0, |(at, _)| *at);
            quiet(&mut gateway.health, last);
        }
        view
    }
}

fn push<T>(history: &mut VecDeque<T>, item: T) {
    if history.len() == HISTORY {
        history.pop_front();
    }
    history.push_back(item);
}

impl Stream {
    fn event(&mut self, event: Event, now: f64) {
        self.last = now;
        match event {
            // A new run: nothing of the one before it counts.
            Event::Start(start) => {
                (self.start, self.end, self.sum) = (Some(start), None, None);
                (self.connections, self.history, self.totals) =
                    (Vec::new(), VecDeque::new(), Sums::default());
                self.health = health("live", "");
            }
            Event::Interval(Interval { mut streams, sum }) => {
                streams.sort_by_key(|s| s.socket);
                push(
                    &mut self.history,
                    Second {
                        at: sum.end,
                        bits_per_second: sum.bits_per_second,
                        delay_p50: sum.delay_p50,
                        delay_p99: sum.delay_p99,
                        jitter_ms: sum.jitter_ms,
                    },
                );
                self.totals.add(&sum);
                (self.connections, self.sum) = (streams, Some(sum));
                if self.end.is_none() {
                    self.health = health("live", "");
                }
            }
            Event::End(mut end) => {
                // The page has no use for whole histograms.
                for distribution in [&mut end.delay, &mut end.variation, &mut end.jitter, &mut end.send_lag] {
                    distribution.hdr = String::new();
                }
                self.health = match (&end.error, end.partial) {
                    (Some(why), _) => health("ended", format!("early: {why}")),
                    (None, true) => health("ended", "early"),
                    (None, false) => health("ended", ""),
                };
                self.end = Some(end);
            }
        }
    }
}

impl Sums {
    /// Adds what a later time brought.
    fn add(&mut self, later: &Sums) {
        self.end = later.end;
        self.seconds += later.seconds;
        self.jitter_ms = later.jitter_ms;
        for (sum, n) in [
            (&mut self.bytes, later.bytes),
            (&mut self.packets, later.packets),
            (&mut self.lost_packets, later.lost_packets),
            (&mut self.out_of_order, later.out_of_order),
            (&mut self.duplicates, later.duplicates),
            (&mut self.corrupt, later.corrupt),
            (&mut self.late, later.late),
        ] {
            *sum = sum.saturating_add(n);
        }
    }
}

impl Gateway {
    fn sample(&mut self, sample: Sample, now: f64) {
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
        self.drops.sort_by(|a, b| b.count.cmp(&a.count));
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
