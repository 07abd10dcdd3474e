//! The sink's side: a thread for each connection that reads and counts, and one that puts their seconds together.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use anyhow::{Context, anyhow};

use self::collect::Collector;
use super::clock::{Clock, boot_id, process_cpu, thread_cpu, thread_waited};
use super::hiccup::{Hiccups, Quiet, Watch};
use super::order::{Begin, Closing, MAGIC, MOST, Order, VERSION};
use super::profile::Profile;
use super::tally::{Found, Piece, Rules, Tally};
use crate::host::Host;
use crate::result::{Interval, Label, Run, Start};
use crate::stream::Carrier;

mod collect;
mod quic;
mod tcp;
mod udp;

/// How long a connection and its answer may take. The source waits for a run's other connections before it answers.
const ANSWER: Duration = Duration::from_secs(20);
/// After so long without anything that is due, nothing more will come.
const SILENCE: Duration = Duration::from_secs(15);
/// How often a waiting thread looks up.
const LOOK: Duration = Duration::from_millis(100);

/// What a sink does.
#[derive(Debug, Clone)]
pub struct Sink {
    /// The source, or the gateway before it.
    pub to: SocketAddr,
    /// What carries the stream.
    pub carrier: Carrier,
    /// Local address; none lets the system choose.
    pub local: Option<IpAddr>,
    /// Name of the profile.
    pub name: String,
    /// The profile.
    pub profile: Profile,
    /// Seconds that the stream runs before its sums begin, beside the profile's duration.
    pub omit: u32,
    /// Bytes of the socket buffers; none: the system's choice.
    pub socket_buffer: Option<u64>,
    /// Takes the clocks of source and sink for different ones even where both seem to run on one machine.
    pub own_clock: bool,
    /// Watches this machine's cores for hiccups ([`super::hiccup`]); not where the profile has no pace.
    pub hiccups: bool,
}

/// What happens while a stream runs.
#[derive(Debug)]
pub enum Progress<'r> {
    /// It begins.
    Start(&'r Start),
    /// A second is over.
    Interval(&'r Interval),
}

/// What a connection tells while it runs.
enum Event {
    Begun { same_clock: bool },
    Closed(u32, Vec<Piece>),
    Ended(u32, Box<Ended>),
}

/// What is left of a connection.
#[derive(Default)]
struct Ended {
    /// When its sums began, by CLOCK_MONOTONIC.
    counted_from: u64,
    found: Option<Found>,
    closing: Option<Closing>,
    error: Option<String>,
    /// Share of a processor that the thread took, and of the time that it waited for one.
    busy: f64,
    waited: f64,
    clock_step: Option<i64>,
    /// UDP: datagrams that found the socket's buffer full.
    overflowed: u64,
    /// Bytes of the receive buffer, when the kernel gave less than was asked for.
    granted: Option<usize>,
}

/// A connection's own part.
struct Connection {
    sink: Arc<Sink>,
    number: u32,
    rules: Rules,
    message: u32,
    order: Order,
    stop: Arc<AtomicBool>,
    events: Sender<Event>,
    hiccups: Option<Arc<Hiccups>>,
}

impl Sink {
    /// Runs the stream until its end, or until `stop` is set, and tells what it found: always, partial when it broke.
    ///
    /// # Errors
    /// The profile cannot be.
    pub fn run(self, stop: &Arc<AtomicBool>, mut progress: impl FnMut(Progress<'_>)) -> anyhow::Result<Run> {
        let sink = Arc::new(self);
        let cpu = process_cpu();
        let (events, happened) = mpsc::channel();
        // As fast as it goes, delays are what queues are long, and the watch would cost goodput.
        let paced =
            sink.profile.bits_per_second().map_err(|why| anyhow!("profile {}: {why}", sink.name))?.is_some();
        let watch = (sink.hiccups && paced).then(Watch::start).transpose()?;
        let watched = watch.as_ref().map(|watch| Arc::clone(watch.hiccups()));
        let connections = Connection::all(&sink, stop, &events, watched.as_ref())?;
        drop(events);
        let mut collector = Collector::new(sink.start()?);
        let threads = connections
            .into_iter()
            .map(|c| std::thread::Builder::new().name(format!("sink-{}", c.number)).spawn(move || c.run()))
            .collect::<Result<Vec<_>, _>>()
            .context("cannot start a thread for each connection");
        if threads.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        // Until the last connection has ended.
        for event in happened {
            collector.take(event, &mut progress);
        }
        for thread in threads? {
            thread.join().map_err(|_| anyhow!("a connection's thread failed"))?;
        }
        drop(watch);
        Ok(collector.finish((process_cpu() - cpu) as f64 * 1e-9, watched.as_deref()))
    }

    fn start(&self) -> anyhow::Result<Start> {
        let parameters = match serde_json::to_value(&self.profile)? {
            serde_json::Value::Object(map) => map.into_iter().collect(),
            _ => BTreeMap::new(),
        };
        Ok(Start {
            version: concat!("s2bench ", env!("CARGO_PKG_VERSION")).to_owned(),
            label: Label::Measured,
            host: Host::gather(0),
            carrier: self.carrier,
            profile: self.name.clone(),
            parameters,
            omit: self.omit,
            connections: self.profile.connections,
            connecting_to: self.to.to_string(),
            approach: None,
            path: None,
            round: None,
            same_clock: false,
            socket_buffer: self.socket_buffer,
        })
    }
}

impl Connection {
    fn all(
        sink: &Arc<Sink>,
        stop: &Arc<AtomicBool>,
        events: &Sender<Event>,
        hiccups: Option<&Arc<Hiccups>>,
    ) -> anyhow::Result<Vec<Connection>> {
        let run = rand::random();
        let boot_id = boot_id().filter(|_| !sink.own_clock);
        (0..sink.profile.connections)
            .map(|number| {
                let mut profile = sink.profile.clone();
                // Not the source's business, and an order over UDP has to fit a datagram.
                profile.description.clear();
                profile.duration.0 += Duration::from_secs(sink.omit.into());
                let order = Order {
                    version: VERSION,
                    run,
                    connection: number,
                    profile,
                    boot_id: boot_id.clone(),
                    socket_buffer: sink.socket_buffer,
                };
                let rules = Rules {
                    share: order.share().map_err(|why| anyhow!("profile {}: {why}", sink.name))?,
                    duration: order.profile.duration.nanoseconds(),
                    omit: sink.omit as usize,
                    deadline: sink.profile.deadline.map(|d| d.nanoseconds()),
                    stall: sink.profile.stall.nanoseconds(),
                    same_clock: false,
                };
                Ok(Connection {
                    sink: Arc::clone(sink),
                    number,
                    rules,
                    message: u32::try_from(sink.profile.message.0)?,
                    order,
                    stop: Arc::clone(stop),
                    events: events.clone(),
                    hiccups: hiccups.map(Arc::clone),
                })
            })
            .collect()
    }

    /// The whole life of a connection.
    fn run(self) {
        let mut ended = Ended::default();
        let result = match self.sink.carrier {
            Carrier::Tcp => tcp::fetch(&self, &mut ended),
            Carrier::Udp => udp::fetch(&self, &mut ended),
            Carrier::Quic => quic::fetch(&self, &mut ended),
        };
        if let Err(e) = result {
            ended.error = Some(format!("connection {}: {e:#}", self.number));
            if ended.found.is_none() {
                // The source waits for all connections: without this one the others would wait for nothing.
                self.stop.store(true, Ordering::Relaxed);
            }
        }
        // Nobody listens when the sink is being taken down.
        let _ = self.events.send(Event::Ended(self.number, Box::new(ended)));
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Counts from a source's answer on.
    fn begin(&self, begin: &Begin) -> Counting<'_> {
        let clock = Clock::new(begin.same_clock);
        let now = clock.now();
        let zero = if begin.same_clock { begin.at } else { now + begin.lead };
        let rules = Rules { same_clock: begin.same_clock, ..self.rules };
        let _ = self.events.send(Event::Begun { same_clock: begin.same_clock });
        let (cpu, waited) = (thread_cpu(), thread_waited());
        let mut tally = Tally::new(rules, zero);
        if let Some(hiccups) = &self.hiccups {
            tally = tally.watched(Quiet::new(Arc::clone(hiccups)), clock);
        }
        Counting { connection: self, clock, tally, began: now, cpu, waited }
    }
}

/// A connection that messages may come on.
struct Counting<'c> {
    connection: &'c Connection,
    clock: Clock,
    tally: Tally,
    began: u64,
    cpu: u64,
    waited: u64,
}

impl Counting<'_> {
    /// Hands on intervals that are over, and gives up on a source that is silent.
    fn look(&mut self, now: u64) -> anyhow::Result<()> {
        self.tally.tick(now);
        let closed = self.tally.take_closed();
        if !closed.is_empty() {
            let _ = self.connection.events.send(Event::Closed(self.connection.number, closed));
        }
        anyhow::ensure!(
            u128::from(self.tally.overdue(now)) < SILENCE.as_nanos(),
            "nothing came for {SILENCE:?} although something was due; has the source died, or is the path cut?"
        );
        Ok(())
    }

    /// What has been found. `closing`: what the source told, when it came to that.
    fn finish(self, closing: Option<Closing>, ended: &mut Ended) {
        let now = self.clock.now();
        ended.counted_from = self.clock.monotonic(self.tally.counted_from());
        let elapsed = now.saturating_sub(self.began).max(1);
        ended.busy = (thread_cpu() - self.cpu) as f64 / elapsed as f64;
        ended.waited = thread_waited().saturating_sub(self.waited) as f64 / elapsed as f64;
        ended.clock_step = self.clock.step();
        if let Some(hiccups) = &self.connection.hiccups {
            hiccups.settle(self.clock.monotonic(now));
        }
        ended.found = Some(self.tally.finish(closing.as_ref().map(|c| c.messages), now));
        ended.closing = closing;
    }
}

/// An order as it goes over TCP and QUIC.
fn framed(order: &Order) -> anyhow::Result<Vec<u8>> {
    let text = serde_json::to_vec(order)?;
    let length = u32::try_from(text.len())?;
    Ok([&MAGIC.to_be_bytes()[..], &length.to_be_bytes(), &text].concat())
}

/// How long an answer is, from what comes before it.
fn parse_answer(head: &[u8], from: SocketAddr) -> anyhow::Result<usize> {
    let length = head.iter().skip(4).fold(0, |n, b| n << 8 | u32::from(*b));
    anyhow::ensure!(
        head.starts_with(&MAGIC.to_be_bytes()) && length <= MOST,
        "what answers at {from} is no s2bench source of this release; is another program there?"
    );
    Ok(length as usize)
}
