//! The whole forwarder on real devices: what `s2ds` starts and stops.
//!
//! Start: control socket (so that a second instance fails at once), EAL, pools, ports, a check that our addresses are free,
//! engines, worker threads, flows, service; privileges are given up before EAL and before workers. Stop is the reverse, and
//! ownership enforces most of it: workers give their queues back, then ports close, then the pools go, then EAL.
#![forbid(unsafe_code)]

mod life;
mod pools;
mod ports;

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::config::{AddressCheck, Config, Device as DeviceName, PortConfig, Retry};
use crate::dpdk::{self, DpdkIo, Eal, EalOptions, Events, Port, PortSettings, Queue, Steer, WorkerThread};
use crate::engine::{DropReason, engines};
use crate::flow::steering::How;
use crate::gateway::{Device, Gateway};
use crate::neighbor::claim::{Claim, ClaimPort};
use crate::net::Network;
use crate::notify::Watchdog;
use crate::pools::{Plan, descriptors, device_mtu};
use crate::privilege::{Limits, Privileges};
use crate::service::{Running, Service};
use crate::sync::StopFlag;
use crate::topology::Placement;
use crate::wire::{Mac, icmpv6};
use crate::worker::{Clock, Worker, WorkerHandle};
use pools::Pools;
use ports::{Keeper, PortDevice, Slot};

/// How often leases and drained flows are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Between looks at what came in reply to address probes.
const CLAIM_TURN: Duration = Duration::from_millis(1);
/// How long links of NICs may take to come up before addresses are probed all the same.
const LINK_PATIENCE: Duration = Duration::from_secs(5);

/// The processor's time stamp counter.
#[derive(Debug, Clone, Copy)]
pub struct Tsc {
    per_ms: u64,
}

impl Tsc {
    /// Its rate is EAL's to tell.
    pub fn new(eal: &Eal) -> Self {
        Self { per_ms: dpdk::tsc_hz(eal) / 1000 }
    }
}

impl Clock for Tsc {
    #[inline(always)]
    fn ticks(&self) -> u64 {
        dpdk::rdtsc()
    }

    fn ticks_per_ms(&self) -> u64 {
        self.per_ms
    }
}

/// A running forwarder. [`Server::stop`] ends it; so does dropping it, without a report.
pub struct Server {
    stop: StopFlag,
    workers: Vec<JoinHandle<Option<DpdkIo>>>,
    ticker: Option<JoinHandle<()>>,
    keeper: Option<JoinHandle<()>>,
    service: Option<Running>,
    _watchdog: Option<Watchdog>,
    gateway: Arc<Gateway>,
    cores: Vec<usize>,
}

impl Server {
    /// Starts everything. On an error nothing is left behind.
    ///
    /// # Errors
    /// One sentence: what could not be had, and the mend.
    pub fn start(config: Config, placement: &Placement, eal_args: Vec<String>) -> Result<Self> {
        let service = Service::bind(&config.service)?;
        let privileges = Privileges::enter(&config, &eal_args)?;
        let config = Arc::new(config);
        let devices: Vec<Vec<&PortConfig>> = config.devices().collect();
        let plan = Plan::new(&config, placement);
        let eal = Eal::init(&EalOptions {
            huge: config.eal.huge,
            memory_mb: plan.pools.iter().map(|pool| plan.memory_mb(*pool)).sum(),
            node_mb: plan.pools.iter().filter_map(|pool| Some((pool.node?, plan.memory_mb(*pool)))).collect(),
            main_core: placement.main,
            pci: EalOptions::pci_of(devices.iter().filter_map(|ports| Some(&ports.first()?.device))),
            args: config.eal.args.iter().cloned().chain(eal_args).collect(),
        })?;
        let pools = Pools::new(&eal, &plan)?;

        let (events, deaf) = Events::listen(&eal);
        deaf.iter().for_each(|what| eprintln!("s2ds: {what}"));
        let (cores, (opened, queues)) = open_for(&eal, &config, placement, &pools)?;
        // The device of every port.
        let ports = config.ports.iter().map(|p| {
            let device = config.first_of_device(p);
            opened.iter().find(|o| o.index() == device).map(Arc::clone)
        });
        let ports: Vec<Arc<Port>> =
            ports.collect::<Option<_>>().ok_or_else(|| anyhow!("a port has no device"))?;
        let macs: Vec<Mac> = ports.iter().map(|p| Mac(p.mac())).collect();
        let steering = ports.iter().map(|p| p.steering().clone());
        let net = Arc::new(Network::new(Arc::clone(&config), &macs).steered(steering));

        let ios = queues.into_iter().zip(&placement.workers);
        let mut ios: Vec<DpdkIo> =
            ios.map(|(q, w)| DpdkIo::shared(q, Arc::clone(pools.on(w.pool)), &net.devices())).collect();
        check_addresses(&config, &net, &ports, &mut ios)?;
        let limits = privileges.settle(&eal.runtime_dir())?;

        let desks = ios.iter().map(DpdkIo::desk).collect();
        let (publisher, engines) = engines(&config, &net, cores.len())?;
        let stop = StopFlag::default();
        let (ready, readiness) = mpsc::channel();
        let mut server = Starting { stop: stop.clone(), threads: Vec::new() };
        let mut handles: Vec<WorkerHandle> = Vec::new();
        for (index, ((engine, io), core)) in engines.into_iter().zip(ios).zip(&cores).enumerate() {
            let (worker, handle) = Worker::new(
                engine,
                io,
                Tsc::new(&eal),
                stop.clone(),
                config.workers.idle,
                (index, Some(*core)),
            );
            handles.push(handle);
            let (eal, core, ready) = (Arc::clone(&eal), *core, ready.clone());
            let limits = limits.clone();
            let run = move || run_worker(worker, &eal, core, &limits, ready);
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(run);
            server.threads.push(thread.map_err(|e| anyhow!("a worker thread cannot be started: {e}"))?);
        }
        drop(ready);
        // A worker that cannot work would leave its queues unread: without all of them there is no start.
        for _ in &cores {
            readiness.recv().map_err(|_| anyhow!("a worker ended before it began"))??;
        }
        let slots: Vec<Arc<Slot>> =
            opened.iter().map(|port| Arc::new(Slot::new(port, retry(&config, port)))).collect();
        let device = |index| slots.iter().find(|slot| slot.index() == index).map(Arc::clone);
        let devices = net.devices().into_iter().filter_map(device);
        let devices = devices.map(|slot| Box::new(PortDevice(slot)) as Box<dyn Device>).collect();
        // The slots alone hold them from here on, so that a device that goes can be closed.
        drop((ports, opened));
        let gateway = Arc::new(Gateway::new(config, net, publisher, handles, devices)?);
        telemetry(&eal, &gateway);
        let service = limits.without_capabilities(|| service.run(Arc::clone(&gateway)))??;
        let watchdog = limits.without_capabilities(|| Watchdog::start(&gateway))??;
        let ticker = {
            let (gateway, stop) = (Arc::clone(&gateway), stop.clone());
            let run = move || {
                while !stop.stopped() {
                    std::thread::sleep(TICK);
                    gateway.tick();
                }
            };
            limits.without_capabilities(|| std::thread::Builder::new().name("leases".into()).spawn(run))??
        };
        // It opens ports again, and so keeps what that takes.
        let keeper = {
            let stop = stop.clone();
            let (eal, gateway) = (Arc::clone(&eal), Arc::clone(&gateway));
            let keeper = Keeper { eal, slots, desks, events, gateway };
            std::thread::Builder::new().name("ports".into()).spawn(move || keeper.run(&stop))?
        };
        Ok(Self {
            stop,
            keeper: Some(keeper),
            workers: std::mem::take(&mut server.threads),
            ticker: Some(ticker),
            service: Some(service),
            _watchdog: watchdog,
            gateway,
            cores,
        })
    }

    /// Cores of the workers.
    pub fn cores(&self) -> &[usize] {
        &self.cores
    }

    /// The operator's view.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Stops: sends what is in hand, closes ports, frees all. Returns false when a worker had failed.
    pub fn stop(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        drop(self.service.take());
        self.stop.stop();
        for thread in [self.ticker.take(), self.keeper.take()].into_iter().flatten() {
            // They only sleep and look after things.
            _ = thread.join();
        }
        // All are joined, also behind one that failed.
        let ends: Vec<_> = self.workers.drain(..).map(JoinHandle::join).collect();
        ends.iter().all(|end| matches!(end, Ok(Some(_))))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// A port for each device, and of each worker its queues.
type Opened = (Vec<Arc<Port>>, Vec<Vec<Queue>>);

/// Opens the ports for the workers placed. Where these were not listed they are one when a device does not bring packets to
/// several by itself: handing over takes more than it gives.
fn open_for(
    eal: &Arc<Eal>,
    config: &Config,
    placement: &Placement,
    pools: &Pools,
) -> Result<(Vec<usize>, Opened)> {
    let cores = placement.cores();
    if placement.chosen && cores.len() > 1 {
        let why = match open(eal, config, placement, cores.len(), pools) {
            Ok((ports, queues)) => match ports.iter().find(|p| p.steering().how() == How::HandOver) {
                None => return Ok((cores, (ports, queues))),
                Some(port) => {
                    format!("port {}: driver {} does not steer packets", port.settings().name, port.driver())
                }
            },
            Err(e) => e.to_string(),
        };
        eprintln!(
            "s2ds: one worker instead of {} ({why}); list cores in workers.cores to have more",
            cores.len()
        );
    }
    let cores = if placement.chosen { cores.into_iter().take(1).collect() } else { cores };
    let opened = open(eal, config, placement, cores.len(), pools)?;
    Ok((cores, opened))
}

fn open(
    eal: &Arc<Eal>,
    config: &Config,
    placement: &Placement,
    workers: usize,
    pools: &Pools,
) -> Result<Opened> {
    let mut ports = Vec::new();
    let mut queues: Vec<Vec<Queue>> = (0..workers).map(|_| Vec::new()).collect();
    for shared in config.devices() {
        let Some(first) = shared.first() else { continue };
        let addresses: Vec<ipnet::IpNet> = shared.iter().flat_map(|p| &p.addresses).copied().collect();
        let (rx_descriptors, tx_descriptors) = descriptors(&shared);
        let settings = PortSettings {
            index: config.first_of_device(first),
            name: first.name.clone(),
            device: first.device.clone(),
            queues: workers as u16,
            mtu: device_mtu(&shared),
            rx_descriptors,
            tx_descriptors,
            multicast: multicast(&addresses),
            tags: shared.iter().map(|p| p.tags()).collect(),
            one_pool: pools.is_one(),
            steer: Some(Steer {
                source_ports: config.limits.source_ports.clone(),
                v4: addresses.iter().any(|a| a.addr().is_ipv4()),
                v6: addresses.iter().any(|a| a.addr().is_ipv6()),
            }),
        };
        let place = placement.ports.get(usize::from(settings.index)).copied().unwrap_or_default();
        let (port, opened) = Port::open(eal, settings, pools.on(place.pool))?;
        for (worker, queue) in queues.iter_mut().zip(opened) {
            worker.push(queue);
        }
        ports.push(port);
    }
    Ok((ports, queues))
}

/// Makes sure that nobody else has our addresses, as far as can be heard. A recording has no neighbors to ask.
fn check_addresses(config: &Config, net: &Network, ports: &[Arc<Port>], ios: &mut [DpdkIo]) -> Result<()> {
    let mut random = ChaCha8Rng::try_from_os_rng()
        .map_err(|e| anyhow!("the system gives no random numbers ({e}), which the address check waits by"))?;
    let recorded = |port: u8| matches!(config.ports[usize::from(port)].device, DeviceName::Pcap(_));
    let ports_l2 = (0..).zip(net.devices()).zip(net.ports_l2());
    let live = ports_l2.map(|((port, device), l2)| ClaimPort { port, device, l2 });
    let live = live.filter(|p| !recorded(p.port)).collect();
    let mut claim = Claim::new(live, config.addresses.check, &mut |n| random.next_u32() % n);
    if config.addresses.check != AddressCheck::Off {
        await_links(config, ports);
    }
    let began = Instant::now();
    while !claim.turn(ios, began.elapsed().as_millis() as u32) {
        std::thread::sleep(CLAIM_TURN);
    }
    if claim.conflicts().is_empty() {
        return Ok(());
    }
    let taken = claim.conflicts().iter().map(|c| {
        let port = &net.ports[usize::from(c.port)].name;
        format!("{} of port {port:?} by {}", c.rival.address, c.rival.mac)
    });
    Err(anyhow!(
        "other stations have addresses of ours: {}; give the ports free ones or take them from those stations \
         (a link-local address follows from the MAC address: two stations have the same); \
         [addresses] check = \"off\" starts without asking",
        taken.collect::<Vec<_>>().join(", ")
    ))
}

/// Gives NICs, whose links are agreed on anew when they start, some time for it: nobody is heard before.
fn await_links(config: &Config, ports: &[Arc<Port>]) {
    let began = Instant::now();
    for (port, _) in ports.iter().zip(&config.ports).filter(|(_, p)| p.device.is_nic()) {
        while port.link().is_some_and(|l| !l.up) {
            if began.elapsed() > LINK_PATIENCE {
                eprintln!(
                    "s2ds: port {}: its link is down; nobody there is asked about addresses",
                    port.settings().name
                );
                break;
            }
            std::thread::sleep(CLAIM_TURN);
        }
    }
}

/// Worker threads of a start that may still fail: then they end with it.
struct Starting {
    stop: StopFlag,
    threads: Vec<JoinHandle<Option<DpdkIo>>>,
}

impl Drop for Starting {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.stop.stop();
            self.threads.drain(..).for_each(|t| drop(t.join()));
        }
    }
}

/// Pins and registers the calling thread, gives up what its loop does not take, tells that on `ready`, and works. None when it could not.
fn run_worker(
    worker: Worker<DpdkIo, Tsc>,
    eal: &Arc<Eal>,
    core: usize,
    limits: &Limits,
    ready: Sender<Result<()>>,
) -> Option<DpdkIo> {
    let registered = if core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        WorkerThread::register(eal).map_err(Into::into)
    } else {
        Err(anyhow!("a worker cannot be pinned to core {core}; choose another in workers.cores"))
    };
    // Naps of an idle worker end when they should: the default slack alone is longer than they are.
    if let Err(e) = nix::sys::prctl::set_timerslack(1) {
        eprintln!("s2ds: timer slack of the worker on core {core} stays at its default ({e})");
    }
    let (told, _registered) = match registered {
        Ok(registered) => (limits.worker().map_err(Into::into), Some(registered)),
        Err(e) => (Err(e), None),
    };
    let works = told.is_ok();
    // The receiver waits until each of us has spoken or gone.
    _ = ready.send(told);
    drop(ready);
    works.then(|| worker.run())
}

/// `/scistream/stats`, `/scistream/drops`, `/scistream/flows` and `/scistream/residence` on DPDK's telemetry socket.
fn telemetry(eal: &Eal, gateway: &Arc<Gateway>) {
    let register = |path, help, read: fn(&Gateway) -> Vec<(String, u64)>| {
        // A weak handle: telemetry commands live as long as the process.
        let gateway = Arc::downgrade(gateway);
        let read = move || gateway.upgrade().map(|g| read(&g)).unwrap_or_default();
        if let Err(e) = dpdk::telemetry::register(eal, path, help, read) {
            eprintln!("s2ds: {e}");
        }
    };
    register("/scistream/stats", "Counters of the forwarder. No parameters.", |g| {
        let s = g.stats();
        let named = [
            ("uptime", s.uptime),
            ("epoch", s.epoch),
            ("received", s.received),
            ("sent", s.sent),
            ("held", s.held),
            ("originated", s.originated),
            ("dropped", s.drops.values().sum()),
            ("connections", s.connections),
        ];
        named.map(|(name, value)| (name.to_owned(), value)).to_vec()
    });
    register("/scistream/drops", "Drops by reason. No parameters.", |g| {
        let drops = g.stats().drops;
        DropReason::ALL
            .iter()
            .map(|r| (r.name().to_owned(), drops.get(r.name()).copied().unwrap_or(0)))
            .collect()
    });
    register("/scistream/flows", "Connections, packets and bytes of every flow. No parameters.", |g| {
        let figures = |f: crate::api::FlowInfo| {
            [
                ("connections", u64::from(f.connections)),
                ("to_target_packets", f.to_target.packets),
                ("to_target_bytes", f.to_target.bytes),
                ("to_client_packets", f.to_client.packets),
                ("to_client_bytes", f.to_client.bytes),
            ]
            .map(|(name, value)| (format!("{}_{name}", f.spec.name), value))
        };
        g.flows().into_iter().flat_map(figures).collect()
    });
    register("/scistream/residence", "Time from RX to TX by worker and flow, sampled. No parameters.", |g| {
        let stats = g.stats();
        let workers = stats.workers.into_iter().flat_map(|w| {
            let waits = (format!("worker_{}_waits", w.worker), w.waits);
            [(format!("worker_{}", w.worker), w.residence), waits]
        });
        let flows = stats.flows.into_iter().map(|f| (format!("flow_{}", f.flow), f.residence));
        let figures = |(name, r): (String, crate::api::Residence)| {
            [
                ("samples", r.samples),
                ("p50_ns", r.p50_ns),
                ("p90_ns", r.p90_ns),
                ("p99_ns", r.p99_ns),
                ("p999_ns", r.p999_ns),
                ("max_ns", r.max_ns),
            ]
            .map(|(figure, value)| (format!("{name}_{figure}"), value))
        };
        workers.chain(flows).flat_map(figures).collect()
    });
}

/// What is to be done when a port's device fails.
fn retry(config: &Config, port: &Port) -> Retry {
    let first = usize::from(port.index());
    let shared = config.ports.iter().filter(|p| p.device == config.ports[first].device);
    shared.filter_map(|p| p.retry).next().unwrap_or_default()
}

/// The groups in which neighbors look for our IPv6 addresses (RFC 4861 section 7.2.1), the link-local one's being added by the
/// port, which knows its MAC; and all nodes.
fn multicast(addresses: &[ipnet::IpNet]) -> Vec<[u8; 6]> {
    let group = |a: &ipnet::IpNet| match a {
        ipnet::IpNet::V6(a) => Some(Mac::ipv6_multicast(icmpv6::solicited_node(a.addr())).0),
        ipnet::IpNet::V4(_) => None,
    };
    let mut groups: Vec<[u8; 6]> = addresses.iter().filter_map(group).collect();
    if !groups.is_empty() {
        groups.push([0x33, 0x33, 0, 0, 0, 1]);
    }
    groups.sort_unstable();
    groups.dedup();
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_room_for_the_packets_and_tags_of_all_its_ports() {
        let mtu = |ports: &[(u16, &str)]| {
            let port = |(n, (mtu, tags)): (usize, &(u16, &str))| {
                format!(
                    "[[port]]\nname = \"p{n}\"\ndevice = \"tap:t\"\naddresses = [\"10.{n}.0.1/24\"]\nmtu = {mtu}\n{tags}\n"
                )
            };
            let text: String = ports.iter().enumerate().map(port).collect();
            let config = Config::parse(&text, "test.toml").unwrap();
            let devices: Vec<_> = config.devices().collect();
            assert_eq!(devices.len(), 1);
            device_mtu(&devices[0])
        };
        assert_eq!(mtu(&[(1500, "")]), 1500);
        assert_eq!(mtu(&[(1500, "vlan = 1")]), 1500);
        assert_eq!(mtu(&[(1500, "outer_vlan = 1")]), 1504);
        assert_eq!(mtu(&[(1500, "outer_vlan = 1\nvlan = 1")]), 1508);
        assert_eq!(mtu(&[(1500, ""), (9000, "vlan = 1"), (1400, "outer_vlan = 1\nvlan = 1")]), 9000);
        assert_eq!(mtu(&[(9600, "outer_vlan = 1\nvlan = 1"), (1500, "")]), 9608);
    }
}
