//! EAL, the devices and the two threads, and trials as they run on them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use forwarder::dpdk::{self, Eal, Mbuf, Mempool, Port};
use forwarder::io::PacketBuf;
use forwarder::neighbor::Solicit;
use forwarder::pools;
use forwarder::sync::StopFlag;
use forwarder::topology::Machine;
use forwarder::wire::Mac;

use super::headers::Head;
use super::judge::{Findings, Judge};
use super::outcome::Interval;
use super::rate::WIRE;
use super::setup::{Setup, cores, eal, l2, on_core, port_settings, wait_for_link};
use super::sizes::Mix;
use super::stamp::LEARNING;
use super::template::{Template, fill};
use super::threads::{End, Order, Place, Progress, RxThread, Sent, TxThread, Watch};

/// Buffers to send from, and to receive into for each device.
const SEND_MBUFS: u32 = 8191;
const RECEIVE_MBUFS: u32 = 8191;
const CACHE: u32 = 256;
/// How long an answer to an address question is waited for, and how often is asked.
const ANSWER: Duration = Duration::from_millis(700);
const QUESTIONS: usize = 4;
/// How long the first packets of flows may be under way, and how often they are sent.
const LEARN: Duration = Duration::from_millis(700);
const LESSONS: usize = 4;
/// First packets a second.
const LEARN_RATE: f64 = 20_000.0;
const SECOND: Duration = Duration::from_secs(1);

/// One direction of a trial.
#[derive(Debug, Clone)]
pub struct Way {
    /// Device that sends: 0, or 1 for the way back.
    pub from: Place,
    /// Device that receives; none: nobody does.
    pub to: Option<Place>,
    /// Headers of its flows.
    pub heads: Vec<Head>,
}

/// What a trial brought, by direction.
#[derive(Debug, Clone)]
pub struct Brought {
    /// What was sent.
    pub sent: Sent,
    /// What came of it; none when nobody received.
    pub found: Option<Findings>,
    /// Frames that the receiving device itself lost, as far as its driver tells.
    pub missed: u64,
}

/// Devices in use. Dropping it stops the threads and lets the devices go.
pub struct Session {
    // Dropped in this order: orders end the threads, the threads hold the queues, the queues the ports.
    send: Option<Sender<Order>>,
    watch: Option<Sender<Watch>>,
    threads: Vec<JoinHandle<Option<()>>>,
    sent: Receiver<Vec<Sent>>,
    watched: Receiver<Watch>,
    heard: Receiver<(Place, IpAddr, Mac)>,
    errands: Sender<(Place, Mbuf)>,
    ports: Vec<Arc<Port>>,
    /// For questions: the buffers to send from hold the payload's pattern, which these would spoil.
    pool: Arc<Mempool>,
    eal: Arc<Eal>,
    setup: Setup,
    progress: Arc<Progress>,
    trial: u16,
}

impl Session {
    /// Starts EAL on the calling thread, opens the devices and starts the threads.
    ///
    /// # Errors
    /// A device or core cannot be had, there is too little memory, or a link stays down.
    pub fn open(setup: Setup, interrupted: &StopFlag) -> Result<Session> {
        let node = Machine::here().ok().and_then(|machine| machine.hardware(&setup.tx)?.node);
        let (main, tx_core, rx_core) = cores(setup.cores, node);
        let places = if setup.rx.is_none() || setup.rx.as_ref() == Some(&setup.tx) { 1 } else { 2 };
        let receive = RECEIVE_MBUFS * places as u32;
        let eal = eal(&setup, main, SEND_MBUFS + receive)?;
        let room = pools::data_room_for(setup.mtu);
        let pool = Mempool::new(&eal, "send", SEND_MBUFS, CACHE, room, node)?;
        prepare(&pool);
        let receive = Mempool::new(&eal, "receive", receive, CACHE, room, node)?;
        let (mut ports, mut receiving, mut sending, mut l2s) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for place in 0..places {
            let (port, queues) = Port::open(&eal, port_settings(&setup, place), &receive)?;
            for (rx, tx) in queues.into_iter().map(dpdk::Queue::split) {
                receiving.push(rx);
                sending.push(tx);
            }
            l2s.push(l2(&setup, place, Mac(port.mac())));
            ports.push(port);
        }
        for port in &ports {
            wait_for_link(port, interrupted)?;
        }
        let progress = Arc::new(Progress::default());
        let (send, orders) = mpsc::channel();
        let (reports, sent) = mpsc::channel();
        let (errands, errand) = mpsc::channel();
        let sender = TxThread {
            queues: sending,
            pool,
            orders,
            reports,
            errands: errand,
            hz: dpdk::tsc_hz(&eal),
            catch_up: setup.catch_up.as_secs_f64(),
            interrupted: interrupted.clone(),
            progress: Arc::clone(&progress),
        };
        let (watch, orders) = mpsc::channel();
        let (reports, watched) = mpsc::channel();
        let (hear, heard) = mpsc::channel();
        let receiver = RxThread {
            queues: receiving,
            l2: l2s,
            orders,
            reports,
            errands: errands.clone(),
            heard: hear,
            verify: setup.verify,
            progress: Arc::clone(&progress),
        };
        let threads = vec![
            on_core(&eal, ("pktgen-tx", tx_core), || sender.run())?,
            on_core(&eal, ("pktgen-rx", rx_core), || receiver.run())?,
        ];
        let (send, watch) = (Some(send), Some(watch));
        Ok(Session {
            send,
            watch,
            threads,
            sent,
            watched,
            heard,
            errands,
            ports,
            pool: receive,
            eal,
            setup,
            progress,
            trial: LEARNING,
        })
    }

    /// The devices: the one that sends, and the other if there is one.
    #[must_use]
    pub fn ports(&self) -> &[Arc<Port>] {
        &self.ports
    }

    /// The device that receives; none: nobody does.
    #[must_use]
    pub fn receiver(&self) -> Option<Place> {
        self.setup.rx.as_ref().map(|_| self.ports.len() - 1)
    }

    /// Ticks of the time stamp counter in a second.
    #[must_use]
    pub fn hz(&self) -> u64 {
        dpdk::tsc_hz(&self.eal)
    }

    /// The MAC address of a neighbor of the sending device, by ARP (RFC 826) or neighbor discovery (RFC 4861).
    ///
    /// # Errors
    /// Nobody answers.
    pub fn resolve(&self, target: IpAddr, source: IpAddr, interrupted: &StopFlag) -> Result<Mac> {
        let port = &self.ports[0];
        let l2 = l2(&self.setup, 0, Mac(port.mac()));
        let question = Solicit { port: 0, target, unicast: None };
        for _ in 0..QUESTIONS {
            let mut frame = self.pool.alloc().context("the pool of packet buffers is exhausted")?;
            ensure!(frame.resize(Solicit::FRAME_MAX), "a question does not fit into a packet buffer");
            let len = question.write(frame.head_mut(), &l2, source)?;
            ensure!(frame.resize(len), "a question does not fit into a packet buffer");
            self.errands.send((0, frame)).map_err(|_| anyhow!("the sender has ended"))?;
            let until = Instant::now() + ANSWER;
            while let Ok((place, address, mac)) =
                self.heard.recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                if (place, address) == (0, target) {
                    return Ok(mac);
                }
            }
            ensure!(!interrupted.stopped(), "interrupted");
        }
        let asked = if target.is_ipv4() { "ARP" } else { "neighbor discovery" };
        let vlan = self.setup.vlans.0.map(|id| format!(" in VLAN {id}")).unwrap_or_default();
        bail!(
            "no answer to {asked} for {target} on {}{vlan}, asked from {source}; check the cable, the VLAN, and that both \
             addresses are of one network, or name a next hop with --gateway or its MAC address with --dst-mac",
            port.settings().device
        )
    }

    /// Has the sender do something; `each` is told what every second of it brought.
    fn order(&self, order: Order, each: &mut dyn FnMut(Interval)) -> Result<Vec<Sent>> {
        let gone = || anyhow!("the sender has ended");
        let now = || (self.progress.sent.get(), self.progress.received.get());
        let began = Instant::now();
        let (mut before, mut seconds) = (now(), 0u32);
        self.send.as_ref().ok_or_else(gone)?.send(order).map_err(|_| gone())?;
        loop {
            let next = began + SECOND * (seconds + 1);
            match self.sent.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(sent) => return Ok(sent),
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
                Err(RecvTimeoutError::Timeout) => {
                    let (sent, received) = now();
                    each(Interval {
                        start: f64::from(seconds),
                        end: f64::from(seconds + 1),
                        sent_packets: sent - before.0,
                        received_packets: received - before.1,
                    });
                    (before, seconds) = ((sent, received), seconds + 1);
                }
            }
        }
    }

    fn watch(&self, watch: Watch) -> Result<Watch> {
        let gone = || anyhow!("the receiver has ended");
        self.watch.as_ref().ok_or_else(gone)?.send(watch).map_err(|_| gone())?;
        self.watched.recv().map_err(|_| gone())
    }

    /// Sends the first packet of every flow until all have arrived, or four times, and returns those that did, by flow: the
    /// learning frames of RFC 2544, section 23, which open connections in whatever is between.
    ///
    /// # Errors
    /// A thread has ended.
    pub fn learn(
        &mut self,
        way: &Way,
        smallest: &Mix,
        interrupted: &StopFlag,
    ) -> Result<Vec<Option<Vec<u8>>>> {
        let flows = way.heads.len();
        let mut learned = vec![None; flows];
        let Some(to) = way.to else { return Ok(learned) };
        let template = Arc::new(Template::new(way.heads.clone(), smallest, LEARNING)?);
        let wire_bits = Some(LEARN_RATE * (smallest.mean() + WIRE as f64) * 8.0);
        let fresh = || {
            let mut places = vec![Vec::new(); self.ports.len()];
            places[to] = vec![None; flows];
            Watch::Learn(places)
        };
        self.watch(fresh())?;
        'lessons: for _ in 0..LESSONS {
            let lanes = vec![(way.from, Arc::clone(&template))];
            self.order(Order { lanes, wire_bits, end: End::Count(flows as u64) }, &mut |_| ())?;
            let until = Instant::now() + LEARN;
            while Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
                let Watch::Learn(mut places) = self.watch(fresh())? else {
                    bail!("the receiver lost its notes")
                };
                for (known, new) in learned.iter_mut().zip(places.swap_remove(to)) {
                    *known = known.take().or(new);
                }
                if learned.iter().all(Option::is_some) || interrupted.stopped() {
                    break 'lessons;
                }
            }
        }
        self.watch(Watch::Nothing)?;
        Ok(learned)
    }

    /// Runs a trial at `frames` frames a second in each direction (none: as fast as the device takes them), and waits `settle`
    /// for what is still under way (RFC 2544, section 23, waits 2 s). `each` is told what every second brought.
    ///
    /// # Errors
    /// A thread has ended.
    pub fn trial(
        &mut self,
        ways: &[Way],
        mix: &Mix,
        frames: Option<f64>,
        end: End,
        settle: Duration,
        each: &mut dyn FnMut(Interval),
    ) -> Result<Vec<Brought>> {
        self.trial = self.trial.checked_add(1).unwrap_or(LEARNING + 1);
        let hz = self.hz();
        let mut judges: Vec<Option<Judge>> = self.ports.iter().map(|_| None).collect();
        let mut lanes = Vec::new();
        for way in ways {
            lanes.push((way.from, Arc::new(Template::new(way.heads.clone(), mix, self.trial)?)));
            if let Some(to) = way.to {
                judges[to] = Some(Judge::new(self.trial, way.heads.len(), hz));
            }
        }
        let missed = |ports: &[Arc<Port>]| -> Vec<u64> {
            ports.iter().map(|p| p.stats()).map(|s| s.missed + s.rx_errors + s.no_buffer).collect()
        };
        let before = missed(&self.ports);
        self.watch(Watch::Judge(judges))?;
        let wire_bits = frames.map(|f| f * (mix.mean() + WIRE as f64) * 8.0);
        let sent = self.order(Order { lanes, wire_bits, end }, each)?;
        std::thread::sleep(settle);
        let Watch::Judge(mut judges) = self.watch(Watch::Nothing)? else {
            bail!("the receiver lost its notes")
        };
        let after = missed(&self.ports);
        let brought = ways.iter().zip(sent).map(|(way, sent)| Brought {
            sent,
            found: way.to.and_then(|to| judges[to].take()).map(|judge| judge.end(sent.packets)),
            missed: way.to.map_or(0, |to| after[to].saturating_sub(before[to])),
        });
        Ok(brought.collect())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        (self.send, self.watch) = (None, None);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Writes the payload's pattern into every buffer of the pool.
fn prepare(pool: &Mempool) {
    let mut all: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
    for frame in &mut all {
        if frame.resize(usize::from(pool.data_room())) {
            fill(frame.head_mut());
        }
    }
}
