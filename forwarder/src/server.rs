//! The whole forwarder on real devices: what `s2ds` starts and stops.
//!
//! Start: control socket (so that a second instance fails at once), EAL, one pool, ports, a check that our addresses are free,
//! engines, worker threads, flows, service. Stop is the reverse, and ownership enforces most of it: workers give their queues
//! back, then ports close, then the pool goes, then EAL.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::api::{Descriptors, DeviceDetail, GuestDetail, LinkDetail};
use crate::config::{AddressCheck, Config, Device as DeviceName, PortConfig};
use crate::dpdk::{self, DpdkIo, Eal, EalOptions, Mempool, Port, PortSettings, Queue, Steer, WorkerThread};
use crate::engine::{DropReason, HANDOVER, engines};
use crate::flow::fragments;
use crate::flow::steering::How;
use crate::gateway::{Device, DeviceStatus, Gateway};
use crate::io::TX_BATCH;
use crate::neighbor::claim::{Claim, ClaimPort};
use crate::net::Network;
use crate::service::{Running, Service};
use crate::sync::StopFlag;
use crate::topology::Placement;
use crate::wire::eth::TAG;
use crate::wire::{Mac, icmpv6};
use crate::worker::{Clock, Worker, WorkerHandle};

/// Descriptors of every receive and send queue.
const DESCRIPTORS: u16 = 1024;
/// Mbufs a worker keeps to itself.
const CACHE: u32 = 256;
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

struct DpdkDevice(Arc<Port>);

impl Device for DpdkDevice {
    fn status(&self) -> DeviceStatus {
        let stats = self.0.stats();
        let link = self.0.link();
        DeviceStatus {
            driver: self.0.driver().to_owned(),
            numa_node: self.0.numa_node(),
            link: link.map_or("unknown", |l| if l.up { "up" } else { "down" }).to_owned(),
            speed: link.and_then(|l| l.speed),
            queues: self.0.settings().queues,
            rx_missed: stats.missed + stats.rx_errors + stats.no_buffer,
            tx_errors: stats.tx_errors,
            failure: None,
        }
    }

    fn detail(&self) -> DeviceDetail {
        let (facts, can) = (self.0.facts(), &self.0.facts().capabilities);
        let link = self.0.link().filter(|link| link.up);
        DeviceDetail {
            bus: facts.bus.to_owned(),
            place: facts.place.clone(),
            interface: facts.interface.clone(),
            firmware: facts.firmware.clone(),
            link: LinkDetail {
                full_duplex: link.map(|l| l.full_duplex),
                autoneg: link.map(|l| l.autoneg),
                interrupt: can.link_interrupt,
                ..LinkDetail::default()
            },
            max_mtu: can.max_mtu,
            max_queues: can.max_queues,
            rx_descriptors: Descriptors { used: facts.rx_descriptors, most: can.max_rx_descriptors },
            tx_descriptors: Descriptors { used: facts.tx_descriptors, most: can.max_tx_descriptors },
            steering_why: facts.steering_why.clone(),
            offloads: facts.offloads.clone(),
            guest: self.0.guest().map(|guest| GuestDetail {
                features: guest.feature_names().map(str::to_owned).collect(),
                queue_pairs: guest.queue_pairs,
                mtu: guest.mtu,
            }),
            xstats: self.0.xstats().into_iter().collect(),
        }
    }
}

/// A running forwarder. [`Server::stop`] ends it; so does dropping it, without a report.
pub struct Server {
    stop: StopFlag,
    workers: Vec<JoinHandle<Option<DpdkIo>>>,
    ticker: Option<JoinHandle<()>>,
    service: Option<Running>,
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
        let config = Arc::new(config);
        let workers = placement.workers.len();
        let devices: Vec<Vec<&PortConfig>> = config.devices().collect();
        let mtu = devices.iter().map(|ports| device_mtu(ports)).max().unwrap_or(1500);
        let count = mbufs(devices.len(), config.ports.len(), workers);
        let data_room = dpdk::data_room_for(mtu);
        let eal = Eal::init(&EalOptions {
            huge: config.eal.huge,
            memory_mb: Mempool::memory_mb(count, data_room, config.eal.huge),
            main_core: placement.main,
            pci: devices.iter().filter_map(|ports| pci(&ports.first()?.device)).collect(),
            args: config.eal.args.iter().cloned().chain(eal_args).collect(),
        })?;
        let node = placement.port_nodes.iter().flatten().next().copied();
        let pool = Mempool::new(&eal, "packets", count, CACHE, data_room, node)?;

        let (cores, (opened, queues)) = open_for(&eal, &config, placement, &pool)?;
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

        let mut ios: Vec<DpdkIo> =
            queues.into_iter().map(|q| DpdkIo::shared(q, Arc::clone(&pool), &net.devices())).collect();
        check_addresses(&config, &net, &ports, &mut ios)?;

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
            let run = move || run_worker(worker, &eal, core, ready);
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(run);
            server.threads.push(thread.map_err(|e| anyhow!("a worker thread cannot be started: {e}"))?);
        }
        drop(ready);
        // A worker that cannot work would leave its queues unread: without all of them there is no start.
        for _ in &cores {
            readiness.recv().map_err(|_| anyhow!("a worker ended before it began"))??;
        }
        let devices = ports.iter().map(|p| Box::new(DpdkDevice(Arc::clone(p))) as Box<dyn Device>).collect();
        let gateway = Arc::new(Gateway::new(config, net, publisher, handles, devices)?);
        telemetry(&eal, &gateway);
        let service = service.run(Arc::clone(&gateway))?;
        let ticker = {
            let (gateway, stop) = (Arc::clone(&gateway), stop.clone());
            std::thread::Builder::new().name("leases".into()).spawn(move || {
                while !stop.stopped() {
                    std::thread::sleep(TICK);
                    gateway.tick();
                }
            })?
        };
        Ok(Self {
            stop,
            workers: std::mem::take(&mut server.threads),
            ticker: Some(ticker),
            service: Some(service),
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
        if let Some(ticker) = self.ticker.take() {
            // It only sleeps and ticks.
            _ = ticker.join();
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
    pool: &Arc<Mempool>,
) -> Result<(Vec<usize>, Opened)> {
    let cores = placement.workers.clone();
    if placement.chosen && cores.len() > 1 {
        let why = match open(eal, config, cores.len(), pool) {
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
    let opened = open(eal, config, cores.len(), pool)?;
    Ok((cores, opened))
}

fn open(eal: &Arc<Eal>, config: &Config, workers: usize, pool: &Arc<Mempool>) -> Result<Opened> {
    let mut ports = Vec::new();
    let mut queues: Vec<Vec<Queue>> = (0..workers).map(|_| Vec::new()).collect();
    for shared in config.devices() {
        let Some(first) = shared.first() else { continue };
        let addresses: Vec<ipnet::IpNet> = shared.iter().flat_map(|p| &p.addresses).copied().collect();
        let settings = PortSettings {
            index: config.first_of_device(first),
            name: first.name.clone(),
            device: first.device.clone(),
            queues: workers as u16,
            mtu: device_mtu(&shared),
            rx_descriptors: DESCRIPTORS,
            tx_descriptors: DESCRIPTORS,
            multicast: multicast(&addresses),
            tags: shared.iter().map(|p| p.tags()).collect(),
            one_pool: true,
            steer: Some(Steer {
                source_ports: config.limits.source_ports.clone(),
                v4: addresses.iter().any(|a| a.addr().is_ipv4()),
                v6: addresses.iter().any(|a| a.addr().is_ipv6()),
            }),
        };
        let (port, opened) = Port::open(eal, settings, pool)?;
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
    for (port, _) in ports.iter().zip(&config.ports).filter(|(_, p)| pci(&p.device).is_some()) {
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

/// Pins and registers the calling thread, tells that on `ready`, and works. None when it could not.
fn run_worker(
    worker: Worker<DpdkIo, Tsc>,
    eal: &Arc<Eal>,
    core: usize,
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
        Ok(registered) => (Ok(()), Some(registered)),
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

/// Largest layer 3 packet of a device with these ports. Devices and kernels leave room for one 802.1Q tag beside it; what more
/// the frames of a port have counts as a part of the packet.
fn device_mtu(ports: &[&PortConfig]) -> u16 {
    let mtu = |p: &&PortConfig| match (p.outer_vlan, p.vlan) {
        (None, _) => p.mtu,
        (Some(_), None) => p.mtu + TAG as u16,
        (Some(_), Some(_)) => p.mtu + 2 * TAG as u16,
    };
    ports.iter().map(mtu).max().unwrap_or(1500)
}

/// Packet buffers for everything that can hold one at once: descriptors, batches, caches, and packets that wait.
fn mbufs(devices: usize, ports: usize, workers: usize) -> u32 {
    let queues = workers * (devices * 2 * usize::from(DESCRIPTORS) + ports * TX_BATCH);
    let on_their_way = workers * workers.saturating_sub(1) * HANDOVER;
    (queues
        + on_their_way
        + workers * (2 * CACHE as usize + 2048 + fragments::HELD_FRIENDS + fragments::HELD_STRANGERS))
        as u32
}

fn pci(device: &DeviceName) -> Option<String> {
    match device {
        DeviceName::Pci(address) => Some(address.clone()),
        _ => None,
    }
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
