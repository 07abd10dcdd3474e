//! Devices while the forwarder runs: who looks after them, and what the operator is told.
//!
//! One thread, the keeper, hears what drivers tell, asks those that tell nothing, and takes a device that has gone out of use:
//!
//! 1. it has every worker put the device's queue away, which a worker does between two bursts, and waits until all have;
//! 2. then nobody polls the device any more: it is stopped, closed and detached;
//! 3. by the port's policy it is opened again, and every worker is given a queue of it.
//!
//! Meanwhile workers receive nothing there, and what would leave by it is dropped as `port_failed`. No worker waits for another, for
//! the keeper or for the device.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::life::Life;
use crate::api::{Descriptors, DeviceDetail, GuestDetail, LinkDetail};
use crate::config::Retry;
use crate::dpdk::{self, Eal, Event, Events, Facts, Identity, Mempool, Port, PortSettings, QueueDesk};
use crate::gateway::{Device, DeviceStatus, Gateway};
use crate::io::PortIndex;
use crate::sync::StopFlag;

/// How long the keeper waits for events before it looks at interfaces and at what is due.
const TURN: Duration = Duration::from_millis(100);
/// How often a device that does not tell of its link is asked.
const ASK: Duration = Duration::from_secs(1);

/// A device, whether it is in use or not. Several ports may share it.
pub(super) struct Slot {
    settings: PortSettings,
    identity: Identity,
    /// What it receives into.
    pool: Arc<Mempool>,
    state: Mutex<State>,
}

struct State {
    life: Life,
    /// None while it is out of use. Nobody else keeps a handle of it, but queues.
    port: Option<Arc<Port>>,
    /// Of the port now, or of the last one.
    facts: Facts,
    /// The kernel's number of the interface it depends on.
    interface: Option<i32>,
    /// Workers that have not put its queue away.
    closing: usize,
    /// When the link was last asked for.
    asked: Instant,
}

impl Slot {
    pub(super) fn new(port: &Arc<Port>, retry: Retry) -> Self {
        let settings = port.settings().clone();
        let mut life = Life::new(&settings.name, retry);
        _ = life.link(Instant::now(), port.link());
        let state = State {
            life,
            port: Some(Arc::clone(port)),
            facts: port.facts().clone(),
            interface: interface(&settings),
            closing: 0,
            asked: Instant::now(),
        };
        let pool = Arc::clone(port.pool());
        Self { identity: port.identity().clone(), settings, pool, state: Mutex::new(state) }
    }

    /// Its first port.
    pub(super) fn index(&self) -> PortIndex {
        self.settings.index
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn interface(settings: &PortSettings) -> Option<i32> {
    dpdk::device_interface(&settings.device).and_then(dpdk::interface_index)
}

/// The device of one port.
pub(super) struct PortDevice(pub(super) Arc<Slot>);

impl Device for PortDevice {
    fn status(&self) -> DeviceStatus {
        let state = self.0.state();
        let status = DeviceStatus {
            driver: state.facts.driver.clone(),
            numa_node: state.facts.numa_node,
            link: "failed".to_owned(),
            queues: self.0.settings.queues,
            failure: state.life.failure(Instant::now()),
            ..DeviceStatus::default()
        };
        let Some(port) = state.port.as_ref().filter(|_| status.failure.is_none()) else { return status };
        let (stats, link) = (port.stats(), port.link());
        DeviceStatus {
            link: link.map_or("unknown", |l| if l.up { "up" } else { "down" }).to_owned(),
            speed: link.and_then(|l| l.speed),
            rx_missed: stats.missed + stats.rx_errors + stats.no_buffer,
            tx_errors: stats.tx_errors,
            ..status
        }
    }

    fn detail(&self) -> DeviceDetail {
        let state = self.0.state();
        let (facts, can) = (&state.facts, &state.facts.capabilities);
        let port = state.port.as_ref().filter(|_| !state.life.has_failed());
        let link = port.and_then(|port| port.link()).filter(|link| link.up);
        let (changes, changed_ago) = state.life.changes(Instant::now());
        DeviceDetail {
            bus: facts.bus.to_owned(),
            place: facts.place.clone(),
            interface: facts.interface.clone(),
            firmware: facts.firmware.clone(),
            link: LinkDetail {
                full_duplex: link.map(|l| l.full_duplex),
                autoneg: link.map(|l| l.autoneg),
                interrupt: can.link_interrupt,
                changes,
                changed_ago,
            },
            max_mtu: can.max_mtu,
            max_queues: can.max_queues,
            rx_descriptors: Descriptors { used: facts.rx_descriptors, most: can.max_rx_descriptors },
            tx_descriptors: Descriptors { used: facts.tx_descriptors, most: can.max_tx_descriptors },
            steering_why: facts.steering_why.clone(),
            offloads: facts.offloads.clone(),
            guest: port.and_then(|port| port.guest()).map(|guest| GuestDetail {
                features: guest.feature_names().map(str::to_owned).collect(),
                queue_pairs: guest.queue_pairs,
                mtu: guest.mtu,
            }),
            xstats: port.map(|port| port.xstats().into_iter().collect()).unwrap_or_default(),
        }
    }
}

/// Looks after the devices.
pub(super) struct Keeper {
    pub(super) eal: Arc<Eal>,
    pub(super) slots: Vec<Arc<Slot>>,
    /// One a worker.
    pub(super) desks: Vec<QueueDesk>,
    pub(super) events: Events,
    pub(super) gateway: Arc<Gateway>,
}

impl Keeper {
    /// Until stopped.
    pub(super) fn run(self, stop: &StopFlag) {
        while !stop.stopped() {
            if let Some(event) = self.events.wait(TURN) {
                self.slots.iter().for_each(|slot| self.hear(slot, &event));
            }
            self.collect();
            self.slots.iter().for_each(|slot| self.look(slot));
        }
    }

    fn hear(&self, slot: &Slot, event: &Event) {
        let mut state = slot.state();
        let Some(port) = state.port.as_ref().filter(|port| port.concerns(event)).cloned() else { return };
        match event {
            Event::Link(_) => self.note_link(slot, state, &port),
            Event::Broken(_, why) => self.fail(slot, &mut state, (*why).to_owned()),
            Event::Removed(place) => {
                self.fail(slot, &mut state, format!("device {place} is removed from the machine"));
            }
        }
    }

    /// What nobody tells: interfaces that go, links of drivers without interrupts; and what is due.
    fn look(&self, slot: &Slot) {
        let mut state = slot.state();
        let now = Instant::now();
        if state.life.has_failed() {
            let may = state.port.is_none() && state.life.is_due(now);
            // Opening takes its time, too, and nobody but this thread changes the state.
            drop(state);
            if may {
                self.reopen(slot, now);
            }
            return;
        }
        let Some(port) = state.port.clone() else { return };
        if state.interface.is_some() && interface(&slot.settings) != state.interface {
            let name = dpdk::device_interface(&slot.settings.device).unwrap_or_default();
            self.fail(slot, &mut state, format!("interface {name} is gone, or was made anew"));
        } else if !state.facts.capabilities.link_interrupt && state.asked + ASK <= now {
            state.asked = now;
            self.note_link(slot, state, &port);
        }
    }

    fn note_link(&self, slot: &Slot, mut state: MutexGuard<'_, State>, port: &Port) {
        let link = port.link();
        let Some(line) = state.life.link(Instant::now(), link) else { return };
        // Whoever asks for the port's state does not wait for workers.
        drop(state);
        eprintln!("s2ds: {line}");
        if link.is_some_and(|link| link.up) {
            self.gateway.link_up(slot.index());
        }
    }

    /// Takes the device out of use; workers put its queues away as they come to it.
    fn fail(&self, slot: &Slot, state: &mut State, why: String) {
        if state.life.has_failed() {
            return;
        }
        eprintln!("s2ds: {}", state.life.fail(Instant::now(), why));
        state.closing = self.desks.len();
        self.desks.iter().for_each(|desk| desk.order(slot.index(), None));
    }

    /// Takes what workers have put away. With the last queue the device is closed.
    fn collect(&self) {
        for (device, queue) in self.desks.iter().flat_map(|desk| std::iter::from_fn(|| desk.collect())) {
            let Some(slot) = self.slots.iter().find(|slot| slot.index() == device) else { continue };
            // What was put in place of none needs no more.
            let Some(queue) = queue else { continue };
            drop(queue);
            let mut state = slot.state();
            state.closing = state.closing.saturating_sub(1);
            let port = if state.closing == 0 { state.port.take() } else { None };
            drop(state);
            // Closing takes its time: whoever asks for the port's state does not wait for it.
            drop(port);
        }
    }

    fn reopen(&self, slot: &Slot, now: Instant) {
        let reopened = Port::reopen(&self.eal, slot.settings.clone(), &slot.pool, &slot.identity);
        let mut state = slot.state();
        match reopened {
            Ok((port, queues)) => {
                state.facts = port.facts().clone();
                state.interface = interface(&slot.settings);
                eprintln!("s2ds: {}", state.life.reopened(now));
                let link = port.link();
                _ = state.life.link(now, link);
                state.port = Some(port);
                drop(state);
                for (desk, queue) in self.desks.iter().zip(queues) {
                    desk.order(slot.index(), Some(queue));
                }
                // Where the driver does not tell of a link, there is one.
                if link.is_none_or(|link| link.up) {
                    self.gateway.link_up(slot.index());
                }
            }
            Err(e) => {
                if let Some(line) = state.life.refused(now, e.to_string()) {
                    eprintln!("s2ds: {line}");
                }
            }
        }
    }
}
