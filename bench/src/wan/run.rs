//! The WAN on this machine: EAL, a pool, a port for each end, a worker thread for each core.

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use forwarder::config::Device;
use forwarder::dpdk::{
    self, DpdkIo, Eal, EalOptions, Mbuf, Mempool, Port, PortSettings, Queue, WorkerThread,
};
use forwarder::io::{PortIndex, TX_BATCH};
use forwarder::pools;
use forwarder::server::Tsc;
use forwarder::sync::StopFlag;

use super::config::Config;
use super::direction::Direction;
use super::element::{Element, Glance, Lane, Live};
use super::report::{DirectionReport, LinkReport, Report};
use crate::topology::cores;

/// Descriptors of a port's queues.
const DESCRIPTORS: u16 = 1024;
/// Mbufs a worker keeps to itself.
const CACHE: u32 = 256;
/// MTU of a port whose device does not tell one and whose link does not ask for one.
const MTU: u16 = 1500;

/// A running WAN. [`Running::stop`] ends it.
#[derive(Debug)]
pub struct Running {
    config: Config,
    stop: StopFlag,
    workers: Vec<JoinHandle<Done>>,
    ports: Vec<Arc<Port>>,
    began: Instant,
    cores: Vec<usize>,
    /// Of every direction, by its number.
    live: Vec<Arc<Live>>,
}

/// A worker's lanes, each with the number of its direction, when it has ended.
type Done = Vec<(usize, DirectionReport)>;

impl Running {
    /// Opens the devices and carries. On an error nothing is left behind.
    ///
    /// # Errors
    /// A device cannot be had, or the memory; one sentence with the mend.
    pub fn start(config: Config) -> Result<Running> {
        let allowed = cores();
        let chosen = if config.cores.is_empty() {
            allowed.last().copied().into_iter().collect()
        } else {
            config.cores.clone()
        };
        if let Some(core) = chosen.iter().find(|c| !allowed.contains(c)) {
            bail!("core {core} is not available to this process; available are {allowed:?}");
        }
        let main = allowed.iter().find(|c| !chosen.contains(c)).or(allowed.first()).copied().unwrap_or(0);
        let mtus = config.links.iter().map(|link| {
            let wanted = link.directions.iter().filter_map(|d| d.mtu).max();
            let [a, b] = link.ends.clone().map(|end| port_mtu(&end, wanted));
            Ok([a?, b?])
        });
        let mtus: Vec<[u16; 2]> = mtus.collect::<Result<_>>()?;
        let largest = mtus.iter().flatten().max().copied().unwrap_or(MTU);
        let data_room = pools::data_room_for(largest);
        let count = mbufs(&config, &mtus)?;
        let memory_mb = pools::memory_mb(count, data_room, config.huge);
        ensure!(
            memory_mb as u64 <= config.memory >> 20,
            "the links hold up to {count} packets, which take {memory_mb} MiB, and the limit is {} MiB; raise it with \
             --memory (memory in the file), or lower rate, delay or queue, or say with --packets how many packets a direction \
             is to hold at most",
            config.memory >> 20
        );
        let eal = Eal::init(&EalOptions {
            huge: config.huge,
            memory_mb,
            main_core: main,
            pci: EalOptions::pci_of(config.links.iter().flat_map(|l| &l.ends)),
            args: quiet(),
            ..EalOptions::default()
        })?;
        let pool = Mempool::new(&eal, "packets", count, CACHE, data_room, None)?;

        let (mut ports, mut queues) = (Vec::new(), Vec::new());
        for (device, mtu) in config.links.iter().flat_map(|l| &l.ends).zip(mtus.iter().flatten()) {
            let (port, queue) =
                Port::open(&eal, port_settings(ports.len() as PortIndex, device, *mtu), &pool)?;
            port.promiscuous()?;
            ports.push(port);
            queues.extend(queue);
        }
        let mut running = Running {
            stop: StopFlag::default(),
            workers: Vec::new(),
            ports,
            began: Instant::now(),
            cores: chosen,
            live: vec![Arc::default(); 2 * config.links.len()],
            config,
        };
        running.spawn(&eal, &pool, queues, &mtus)?;
        running.began = Instant::now();
        Ok(running)
    }

    /// Starts the workers and waits until each of them carries.
    fn spawn(
        &mut self,
        eal: &Arc<Eal>,
        pool: &Arc<Mempool>,
        queues: Vec<Queue>,
        mtus: &[[u16; 2]],
    ) -> Result<()> {
        let workers = self.cores.len().min(self.config.links.len());
        let total = queues.len();
        let mut own: Vec<Vec<Queue>> = (0..workers).map(|_| Vec::new()).collect();
        for (place, queue) in queues.into_iter().enumerate() {
            own[place / 2 % workers].push(queue);
        }
        let (ready, readiness) = mpsc::channel();
        for ((worker, queues), core) in own.into_iter().enumerate().zip(self.cores.clone()) {
            let mut lanes = Vec::new();
            for (number, link) in self.config.links.iter().enumerate().skip(worker).step_by(workers) {
                let ends = [2 * number, 2 * number + 1];
                let [from_a, from_b] = link.directions.clone();
                let carried = mtus[number][0].min(mtus[number][1]);
                for (way, (shape, [from, to])) in
                    [(from_a, ends), (from_b, [ends[1], ends[0]])].into_iter().enumerate()
                {
                    let mtu = shape.mtu.unwrap_or(carried).min(carried);
                    let path = 2 * number + way;
                    let direction = Direction::new(shape, self.config.seed, path as u64, mtu);
                    let lane = Lane::new(direction, from as PortIndex, to as PortIndex);
                    self.live[path] = lane.live();
                    lanes.push((path, lane));
                }
            }
            // Ports of other workers stand for one of ours: nobody asks for them.
            let first = queues.first().map_or(0, |q| q.port().index());
            let devices: Vec<PortIndex> = (0..total as PortIndex)
                .map(|p| if queues.iter().any(|q| q.port().index() == p) { p } else { first })
                .collect();
            let io = DpdkIo::shared(queues, Arc::clone(pool), &devices);
            let job = Job {
                io,
                lanes,
                eal: Arc::clone(eal),
                core,
                idle: self.config.idle,
                stop: self.stop.clone(),
                ports: self.ports.clone(),
            };
            let ready = ready.clone();
            let thread =
                std::thread::Builder::new().name(format!("wan-{worker}")).spawn(move || job.run(ready));
            self.workers.push(thread.context("a worker thread cannot be started")?);
        }
        drop(ready);
        for _ in 0..workers {
            readiness.recv().map_err(|_| anyhow!("a worker ended before it began"))??;
        }
        Ok(())
    }

    /// Cores of the workers.
    #[must_use]
    pub fn cores(&self) -> &[usize] {
        &self.cores[..self.workers.len()]
    }

    /// A look at every direction, in the order of the links: from a to b, then from b to a.
    #[must_use]
    pub fn glance(&self) -> Vec<Glance> {
        self.live.iter().map(|live| live.glance()).collect()
    }

    /// What it does.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Ends it and tells what became of the packets.
    ///
    /// # Errors
    /// A worker failed.
    pub fn stop(mut self) -> Result<Report> {
        let seconds = self.began.elapsed().as_secs_f64();
        self.stop.stop();
        let mut directions = vec![DirectionReport::default(); 2 * self.config.links.len()];
        for worker in self.workers.drain(..) {
            let done = worker.join().map_err(|_| anyhow!("a worker failed"))?;
            for (path, report) in done {
                directions[path] = report;
            }
        }
        let mut directions = directions.into_iter();
        let links = self.config.links.iter().map(|link| LinkReport {
            name: link.name.clone(),
            a: link.ends[0].to_string(),
            b: link.ends[1].to_string(),
            preset: link.preset,
            a_to_b: directions.next().unwrap_or_default(),
            b_to_a: directions.next().unwrap_or_default(),
        });
        let links = links.collect();
        Ok(Report { version: env!("CARGO_PKG_VERSION").to_owned(), seed: self.config.seed, seconds, links })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        for worker in self.workers.drain(..) {
            // It has failed before or fails now; the devices go with it all the same.
            let _ = worker.join();
        }
    }
}

/// What a worker thread is given.
struct Job {
    // Dropped in this order: packets before the queues, these before EAL.
    lanes: Vec<(usize, Lane<Mbuf>)>,
    io: DpdkIo,
    ports: Vec<Arc<Port>>,
    eal: Arc<Eal>,
    core: usize,
    idle: forwarder::config::Idle,
    stop: StopFlag,
}

impl Job {
    /// Pins and registers the thread, tells that on `ready`, and carries until stopped.
    fn run(self, ready: Sender<Result<()>>) -> Done {
        let registered = match crate::core::pin(self.core) {
            Ok(()) => WorkerThread::register(&self.eal).map_err(Into::into),
            Err(e) => Err(e),
        };
        // A sleep ends when it should: the default slack alone is longer than that.
        if let Err(e) = nix::sys::prctl::set_timerslack(1) {
            eprintln!(
                "s2bench wan: timer slack of the worker on core {} stays at its default ({e})",
                self.core
            );
        }
        let _registered = match registered {
            Ok(registered) => registered,
            Err(e) => {
                // The receiver waits until each of us has spoken or gone.
                let _ = ready.send(Err(e));
                return Vec::new();
            }
        };
        let (paths, lanes): (Vec<usize>, Vec<Lane<Mbuf>>) = self.lanes.into_iter().unzip();
        let mut element = Element::new(lanes, self.io, Tsc::new(&self.eal), self.idle);
        let _ = ready.send(Ok(()));
        drop(ready);
        element.run(&self.stop);
        let report = |lane: &Lane<Mbuf>| {
            let port = self.ports.get(usize::from(lane.from)).map(|p| p.stats()).unwrap_or_default();
            DirectionReport::of(lane, port)
        };
        paths.into_iter().zip(element.lanes().iter().map(report)).collect()
    }
}

/// EAL without its telemetry socket, so that no file comes to be; nobody would ask there.
pub(super) fn quiet() -> Vec<String> {
    vec!["--no-telemetry".to_owned()]
}

/// The MTU that a port is opened with: a kernel interface's own, and of others what the link wants.
fn port_mtu(device: &Device, wanted: Option<u16>) -> Result<u16> {
    let (Device::AfPacket(interface) | Device::AfXdp(interface)) = device else {
        return Ok(wanted.unwrap_or(MTU).max(MTU));
    };
    let mtu = dpdk::interface_mtu(interface).ok_or_else(|| {
        anyhow!("there is no interface {interface} in this network namespace; create it, or correct the name")
    })?;
    // Loopback has 65536; no frame of Ethernet is so long.
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX).min(9600))
}

/// A wire listens to nobody in particular: what is sent to others must come in, too.
pub(super) fn port_settings(index: PortIndex, device: &Device, mtu: u16) -> PortSettings {
    PortSettings {
        index,
        name: device.to_string(),
        device: device.clone(),
        queues: 1,
        mtu,
        rx_descriptors: DESCRIPTORS,
        tx_descriptors: DESCRIPTORS,
        multicast: Vec::new(),
        tags: Vec::new(),
        one_pool: true,
        steer: None,
    }
}

/// Packet buffers for everything that can hold one.
fn mbufs(config: &Config, mtus: &[[u16; 2]]) -> Result<u32> {
    let port = 2 * u64::from(DESCRIPTORS) + TX_BATCH as u64 + 2 * u64::from(CACHE);
    let links = config.links.iter().zip(mtus).map(|(link, mtus)| {
        let mtu = mtus[0].min(mtus[1]);
        link.directions.iter().map(|d| u64::from(d.room(mtu)) + port).sum::<u64>()
    });
    let count: u64 = links.sum();
    u32::try_from(count).map_err(|_| {
        anyhow!("the links would hold {count} packets; lower rate, delay or queue, or say with --packets how many a direction holds")
    })
}
