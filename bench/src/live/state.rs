//! What is known of the stream, the gateways and the control server, and what the page shows of it.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::gateway::{Gateway, Sample};
use crate::result::{End, Interval, Start, Sums};

/// Seconds of history that the page has.
const HISTORY: usize = 120;
/// Seconds without an answer or a line after which a source counts as silent.
const SILENT: f64 = 3.5;

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

pub(super) fn health(state: &'static str, why: impl Into<String>) -> Health {
    Health { state, why: why.into() }
}

pub(super) fn asked(whether: bool) -> Health {
    health(if whether { "waiting" } else { "not asked" }, "")
}

impl State {
    /// Nothing known yet.
    pub fn new(stream: bool, gateways: impl Iterator<Item = String>, s2cs: bool) -> State {
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
            gateways: gateways.map(Gateway::new).collect(),
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
            Err(why) => gateway.gone(why),
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
            let last = gateway.answered();
            quiet(&mut gateway.health, last);
        }
        view
    }
}

pub(super) fn push<T>(history: &mut VecDeque<T>, item: T) {
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
                end.quiet = None;
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
