//! The relay between two net_ring ports, fed with packets that stay hot.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use forwarder::config::{Config, Device, Idle};
use forwarder::dpdk::{self, DpdkIo, Eal, EalOptions, Mbuf, Mempool, Port, PortSettings, RingPair};
use forwarder::engine::engines;
use forwarder::gateway::Gateway;
use forwarder::io::{BURST, Burst, PacketBuf, PortIndex};
use forwarder::net::Network;
use forwarder::pools;
use forwarder::server::Tsc;
use forwarder::sync::StopFlag;
use forwarder::wire::Mac;
use forwarder::worker::Worker;

use super::frames::{self, CLIENTS, FIRST_PORT, Fate, Frames, LISTEN, Shape, Visits};
use super::row::{Figure, Settings};

const MBUFS: u32 = 8191;
/// Connections of a quick run, at most.
const QUICK: u32 = 4096;
/// What s2ds has room for when its configuration does not say.
const TABLE: u32 = 65_536;

/// One way of using the relay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) shape: Shape,
    pub(super) connections: u32,
    /// Have the flows a rate? It is one that nothing here exceeds.
    pub(super) policed: bool,
}

/// One UDP connection over IPv4, the smallest frames.
pub(super) const HOT: Case = Case {
    shape: Shape { v6: false, tcp: false, vlan: None, size: 60, fate: Fate::Relayed },
    connections: 1,
    policed: false,
};

impl Case {
    pub(super) const fn connections(self, connections: u32) -> Self {
        Self { connections, ..self }
    }

    pub(super) const fn policed(self) -> Self {
        Self { policed: true, ..self }
    }

    pub(super) const fn tcp(mut self) -> Self {
        self.shape.tcp = true;
        self
    }

    /// The smallest frame that holds a UDP header is two bytes longer than Ethernet's smallest.
    pub(super) const fn v6(mut self) -> Self {
        self.shape.v6 = true;
        self.shape.size = 62;
        self
    }

    pub(super) const fn vlan(mut self) -> Self {
        self.shape.vlan = Some(100);
        self.shape.size += 4;
        self
    }

    /// With IP packets of `mtu` bytes.
    pub(super) const fn mtu(mut self, mtu: usize) -> Self {
        self.shape.size = 14 + mtu;
        self
    }

    pub(super) const fn fate(mut self, fate: Fate) -> Self {
        self.shape.fate = fate;
        self
    }
}

/// Cycles a packet of a worker's turns that found packets.
pub(super) fn hot(settings: &Settings, case: Case) -> Result<Figure> {
    let connections = if settings.quick { case.connections.min(QUICK) } else { case.connections };
    let case = Case { connections, ..case };
    let mut bed = Bed::new(settings, &case)?;
    let opened = bed.open(&case)?;
    let preempted = status("nonvoluntary_ctxt_switches:")?;
    let cycles = bed.run(&case, settings.packets)?;
    let preempted = status("nonvoluntary_ctxt_switches:")? - preempted;
    let mut figure = Figure::of(cycles)
        .with("tsc_hz", dpdk::tsc_hz(&bed.eal) as f64)
        .with("hugepages", f64::from(u8::from(settings.huge)))
        .with("connections", f64::from(connections))
        .with("preempted", preempted as f64);
    if connections > 1 {
        // What is allocated and not touched, such as room for IPv6 addresses, is in the table's own figure only; what lies
        // beside the table, in the other.
        let table = bed.worker.engine().table().bytes_per_connection() as f64;
        let resident = resident()?.saturating_sub(bed.resident) as f64 / f64::from(connections);
        figure = figure
            .with("opened_per_second", f64::from(connections) / opened)
            .with("table_bytes_per_connection", table)
            .with("resident_bytes_per_connection", resident)
            .with("bytes_per_connection", table.max(resident));
    }
    Ok(figure)
}

/// EAL, two ports over rings and a worker between them.
struct Bed {
    // Dropped in this order: what holds packets before what holds the pool.
    worker: Worker<DpdkIo, Tsc>,
    near: RingPair,
    far: RingPair,
    batch: Burst<Mbuf>,
    _gateway: Gateway,
    frames: Frames,
    pool: Arc<Mempool>,
    eal: Arc<Eal>,
    /// Bytes of memory in use before there were tables.
    resident: u64,
}

/// Starts EAL on the calling thread. As EAL's main thread it has a mempool cache, as a worker must.
pub(super) fn start(core: usize, huge: bool, mtu: u16) -> Result<(Arc<Eal>, Arc<Mempool>)> {
    let room = pools::data_room_for(mtu);
    let eal = Eal::init(&EalOptions {
        huge,
        memory_mb: pools::memory_mb(MBUFS, room, huge) + 64,
        main_core: core,
        ..EalOptions::default()
    })?;
    let pool = Mempool::new(&eal, "packets", MBUFS, 256, room, None)?;
    Ok((eal, pool))
}

/// What a port is opened with; `descriptors` of a ring are the ring's own.
pub(super) fn port_settings(
    config: &Config,
    index: PortIndex,
    device: &str,
    descriptors: u16,
) -> PortSettings {
    let port = &config.ports[usize::from(index)];
    PortSettings {
        index,
        name: port.name.clone(),
        device: Device::Vdev(device.to_owned()),
        queues: 1,
        mtu: port.mtu,
        rx_descriptors: descriptors,
        tx_descriptors: descriptors,
        multicast: Vec::new(),
        tags: vec![port.tags()],
        one_pool: true,
        steer: None,
    }
}

/// A worker with the gateway that gives it the configuration's flows.
pub(super) fn worker(
    config: Arc<Config>,
    ports: &[Arc<Port>],
    io: DpdkIo,
    eal: &Eal,
    core: usize,
) -> Result<(Worker<DpdkIo, Tsc>, Gateway)> {
    let macs: Vec<Mac> = ports.iter().map(|p| Mac(p.mac())).collect();
    let net = Arc::new(Network::new(Arc::clone(&config), &macs));
    let (publisher, mut parts) = engines(&config, &net, 1)?;
    let engine = parts.pop().context("no engine was made")?;
    let (mut worker, handle) =
        Worker::new(engine, io, Tsc::new(eal), StopFlag::default(), Idle::Poll, (0, Some(core)));
    let gateway = Gateway::new(config, net, publisher, vec![handle], Vec::new())?;
    worker.turn();
    Ok((worker, gateway))
}

/// Flows of both protocols and families, as many as the connections need, each with a target of its own: source ports are
/// unique towards a target. `more` is said of each.
pub(super) fn flows(connections: u32, targets: [&str; 2], more: &str) -> String {
    let mut text = String::new();
    for n in 0..frames::flows(connections) {
        let port = FIRST_PORT + n;
        for proto in ["udp", "tcp"] {
            for (family, listen) in [LISTEN.0.to_string(), format!("[{}]", LISTEN.1)].iter().enumerate() {
                let (target, from) = (targets[family], CLIENTS[family]);
                text += &format!(
                    "[[flow]]\nname = \"{proto}{family}-{n}\"\nproto = \"{proto}\"\nlisten = \"{listen}:{port}\"\n\
                     target = \"{target}:{port}\"\nfrom = [\"{from}\"]\n{more}\n"
                );
            }
        }
    }
    text
}

fn config(case: &Case) -> Result<Config> {
    let mtu = (case.shape.size - 14).max(1500);
    let vlan = case.shape.vlan.map(|id| format!("vlan = {id}\n")).unwrap_or_default();
    let text = format!(
        r#"
[addresses]
check = "off"
[limits]
connections = {}
[[port]]
name = "client"
device = "vdev:rings"
addresses = ["10.1.0.1/24", "fd01::1/64"]
gateway = ["10.1.0.2", "fd01::2"]
mtu = {mtu}
{vlan}
[[port]]
name = "wan"
device = "vdev:rings2"
addresses = ["10.2.0.1/24", "fd02::1/64"]
mtu = {mtu}
{vlan}
[[neighbor]]
port = "client"
address = "10.1.0.2"
mac = "02:00:00:00:01:02"
[[neighbor]]
port = "client"
address = "fd01::2"
mac = "02:00:00:00:01:02"
[[neighbor]]
port = "wan"
address = "10.2.0.2"
mac = "02:00:00:00:02:02"
[[neighbor]]
port = "wan"
address = "fd02::2"
mac = "02:00:00:00:02:02"
{}"#,
        case.connections.max(TABLE),
        flows(case.connections, ["10.2.0.2", "[fd02::2]"], if case.policed { "rate = \"1T\"" } else { "" }),
    );
    Ok(Config::parse(&text, "s2bench core")?)
}

impl Bed {
    fn new(settings: &Settings, case: &Case) -> Result<Self> {
        let config = Arc::new(config(case)?);
        let mtu = config.ports.iter().map(|p| p.mtu).max().unwrap_or(1500);
        let (eal, pool) = start(settings.core, settings.huge, mtu)?;
        let (mut ports, mut queues, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..2 {
            let settings = port_settings(&config, index, "net_ring", 256);
            let (port, queue, pair) = Port::from_rings(settings, 256, &pool)?;
            ports.push(port);
            queues.extend(queue);
            ends.extend(pair);
        }
        let resident = resident()?;
        let io = DpdkIo::new(queues, Arc::clone(&pool));
        let (worker, gateway) = worker(config, &ports, io, &eal, settings.core)?;
        let (Some(far), Some(near)) = (ends.pop(), ends.pop()) else { bail!("the ports have no rings") };
        let frames = Frames::new(&case.shape, Mac(ports[0].mac()));
        Ok(Self { worker, near, far, batch: Burst::new(), _gateway: gateway, frames, pool, eal, resident })
    }

    /// Fills the batch up with packets of the case's size.
    fn fill(&mut self, case: &Case) -> Result<()> {
        if self.batch.is_full() {
            return Ok(());
        }
        let had = self.batch.len();
        self.pool.alloc_bulk(&mut self.batch);
        ensure!(self.batch.is_full(), "the pool of packet buffers is exhausted");
        let size = case.shape.size;
        for packet in &mut self.batch[had..] {
            ensure!(packet.resize(size), "a frame of {size} bytes does not fit into a packet buffer");
        }
        Ok(())
    }

    /// Opens the case's connections with their first packets; returns seconds.
    fn open(&mut self, case: &Case) -> Result<f64> {
        let began = Instant::now();
        if case.shape.fate != Fate::Relayed {
            return Ok(0.0);
        }
        let mut n = 0;
        while n < case.connections {
            self.fill(case)?;
            for packet in &mut self.batch {
                // The last burst repeats the last connection.
                self.frames.write(n.min(case.connections - 1), packet.head_mut());
                self.frames.open(packet.head_mut());
                n += 1;
            }
            self.near.send(&mut self.batch);
            self.worker.turn();
            self.far.recv(&mut self.batch);
            ensure!(
                self.batch.is_full(),
                "{} of {BURST} first packets passed when {n} connections were open",
                self.batch.len()
            );
        }
        Ok(began.elapsed().as_secs_f64())
    }

    /// Sends `packets` packets of a case through the relay; returns cycles a packet.
    fn run(&mut self, case: &Case, packets: u64) -> Result<f64> {
        let counters = Arc::clone(self.worker.engine().counters());
        let mut visits = Visits::new(case.connections);
        let comes_out = if case.shape.fate == Fate::Relayed { BURST } else { 0 };
        // A round of visits, so that every connection is as warm as it will be.
        let warm_up = 2000 + u64::from(case.connections) / BURST as u64;
        let turns = packets.div_ceil(BURST as u64);
        let mut cycles = 0;
        for turn in 0..warm_up + turns {
            if turn == warm_up {
                cycles = counters.busy_cycles.get();
            }
            self.fill(case)?;
            for packet in &mut self.batch {
                self.frames.write(visits.next(), packet.head_mut());
            }
            self.near.send(&mut self.batch);
            self.worker.turn();
            let out = self.far.recv(&mut self.batch);
            ensure!(out == comes_out, "{out} packets of a burst came out where {comes_out} should");
        }
        let cycles = counters.busy_cycles.get() - cycles;
        Ok(cycles as f64 / turns as f64 / BURST as f64)
    }
}

/// Bytes of memory that this process has in use, hugepages included.
fn resident() -> Result<u64> {
    Ok((status("VmRSS:")? + status("HugetlbPages:")?) * 1024)
}

/// A number the kernel tells of this thread and its process; sizes are in KiB.
fn status(key: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status").context("/proc cannot be read")?;
    let line = status.lines().find_map(|l| l.strip_prefix(key));
    Ok(line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0))
}
