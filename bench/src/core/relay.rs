//! The relay between two net_ring ports, fed with packets that stay hot.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use arrayvec::ArrayVec;
use forwarder::config::{Config, Device, Idle};
use forwarder::dpdk::{self, DpdkIo, Eal, EalOptions, Mbuf, Mempool, Port, PortSettings, RingPair};
use forwarder::engine::engines;
use forwarder::gateway::Gateway;
use forwarder::io::{BURST, Burst, PacketBuf};
use forwarder::net::Network;
use forwarder::server::Tsc;
use forwarder::sync::StopFlag;
use forwarder::wire::{Mac, checksum, eth, ipv4, ipv6, tcp};
use forwarder::worker::Worker;

const MBUFS: u32 = 8191;
const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 1, 2]);
const LISTEN_PORT: u16 = 5000;

/// One way of using the relay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) name: &'static str,
    v6: bool,
    tcp: bool,
    /// Bytes of the frame, without FCS.
    size: usize,
    connections: u16,
    /// False for packets that no flow admits.
    admitted: bool,
}

/// The cases, in the order of the table.
pub(super) fn cases() -> Vec<Case> {
    let hot = Case {
        name: "relay, 1 connection, UDP/IPv4, 64 B",
        v6: false,
        tcp: false,
        size: 60,
        connections: 1,
        admitted: true,
    };
    vec![
        hot,
        Case { name: "relay, 1,000 connections", connections: 1000, ..hot },
        Case { name: "relay, TCP", tcp: true, ..hot },
        Case { name: "relay, IPv6", v6: true, size: 66, ..hot },
        Case { name: "relay, 1500 B", size: 1514, ..hot },
        Case { name: "drop by default deny", admitted: false, ..hot },
    ]
}

/// EAL, two ports over rings and a worker between them.
pub(super) struct Bed {
    // Dropped in this order: what holds packets before what holds the pool.
    worker: Worker<DpdkIo, Tsc>,
    near: RingPair,
    far: RingPair,
    batch: Burst<Mbuf>,
    _gateway: Gateway,
    port_mac: Mac,
    pool: Arc<Mempool>,
    eal: Arc<Eal>,
    huge: bool,
}

const CONFIG: &str = r#"
[[port]]
name = "client"
device = "vdev:rings"
addresses = ["10.1.0.1/24", "fd01::1/64"]
gateway = ["10.1.0.2", "fd01::2"]
[[port]]
name = "wan"
device = "vdev:rings2"
addresses = ["10.2.0.1/24", "fd02::1/64"]
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
"#;

/// A flow a protocol and family; all take clients from one prefix.
fn config() -> Result<Config> {
    let mut text = CONFIG.to_owned();
    for proto in ["udp", "tcp"] {
        for (name, listen, target, from) in
            [("4", "10.1.0.1", "10.2.0.2", "172.16.0.0/16"), ("6", "[fd01::1]", "[fd02::2]", "fd10::/32")]
        {
            text += &format!(
                "[[flow]]\nname = \"{proto}{name}\"\nproto = \"{proto}\"\nlisten = \"{listen}:{LISTEN_PORT}\"\n\
                 target = \"{target}:{LISTEN_PORT}\"\nfrom = [\"{from}\"]\n"
            );
        }
    }
    Ok(Config::parse(&text, "s2bench core")?)
}

impl Bed {
    /// Starts EAL on the calling thread. As EAL's main thread it has a mempool cache, as a worker must.
    pub(super) fn new(core: usize) -> Result<Self> {
        let room = dpdk::data_room_for(1500);
        let eal_options = |huge| EalOptions {
            huge,
            memory_mb: Mempool::memory_mb(MBUFS, room, huge) + 64,
            main_core: core,
            ..EalOptions::default()
        };
        // Hugepages when the machine has them; the first refusal comes before EAL is touched.
        let (eal, huge) = match Eal::init(&eal_options(true)) {
            Ok(eal) => (eal, true),
            Err(_) => (Eal::init(&eal_options(false))?, false),
        };
        let pool = Mempool::new(&eal, "packets", MBUFS, 256, room, None)?;
        let config = Arc::new(config()?);
        let mut ports = Vec::new();
        let mut queues = Vec::new();
        let mut ends = Vec::new();
        for (index, p) in (0..).zip(&config.ports) {
            let settings = PortSettings {
                index,
                name: p.name.clone(),
                device: Device::Vdev("net_ring".to_owned()),
                queues: 1,
                mtu: p.mtu,
                rx_descriptors: 256,
                tx_descriptors: 256,
                multicast: Vec::new(),
                vlan: None,
                one_pool: true,
                steer: None,
            };
            let (port, queue, pair) = Port::from_rings(settings, 256, &pool)?;
            ports.push(port);
            queues.extend(queue);
            ends.extend(pair);
        }
        let macs: Vec<Mac> = ports.iter().map(|p| Mac(p.mac())).collect();
        let net = Arc::new(Network::new(Arc::clone(&config), &macs));
        let (publisher, mut parts) = engines(&config, &net, 1)?;
        let engine = parts.pop().context("no engine was made")?;
        let io = DpdkIo::new(queues, Arc::clone(&pool));
        let (mut worker, handle) =
            Worker::new(engine, io, Tsc::new(&eal), StopFlag::default(), Idle::Poll, (0, Some(core)));
        let gateway = Gateway::new(config, net, publisher, vec![handle], Vec::new())?;
        worker.turn();
        let (Some(far), Some(near)) = (ends.pop(), ends.pop()) else { bail!("the ports have no rings") };
        let port_mac = macs.first().copied().context("there is no port")?;
        Ok(Self { worker, near, far, batch: Burst::new(), _gateway: gateway, port_mac, pool, eal, huge })
    }

    pub(super) fn huge(&self) -> bool {
        self.huge
    }

    pub(super) fn tsc_hz(&self) -> u64 {
        dpdk::tsc_hz(&self.eal)
    }

    pub(super) fn bytes_per_connection(&self) -> usize {
        self.worker.engine().table().bytes_per_connection()
    }

    /// Sends `packets` packets of a case through the relay; returns cycles a packet.
    pub(super) fn run(&mut self, case: &Case, packets: u64) -> Result<f64> {
        let templates: Vec<Vec<u8>> = (0..case.connections).map(|n| frame(case, n, self.port_mac)).collect();
        if case.admitted {
            self.open(case, &templates)?;
        }
        ensure!(self.batch.is_empty(), "packets were left over");
        self.pool.alloc_bulk(&mut self.batch);
        ensure!(self.batch.len() == BURST, "the pool is exhausted");
        let counters = Arc::clone(self.worker.engine().counters());
        let (mut cycles, mut next) = (0, 0);
        let warm_up = 2000;
        let turns = warm_up + packets / BURST as u64;
        for turn in 0..turns {
            if turn == warm_up {
                cycles = counters.busy_cycles.get();
            }
            for packet in &mut self.batch {
                ensure!(packet.resize(case.size), "a frame of {} bytes does not fit", case.size);
                let template = &templates[next % templates.len()];
                next += 1;
                // Headers only: the payload stays where it is, as the relay leaves it.
                let header = template.len().min(80);
                packet.head_mut()[..header].copy_from_slice(&template[..header]);
            }
            self.near.send(&mut self.batch);
            self.worker.turn();
            self.far.recv(&mut self.batch);
            if !case.admitted {
                self.pool.alloc_bulk(&mut self.batch);
            }
            ensure!(
                self.batch.len() == BURST,
                "{} of {BURST} packets came back in case {:?}",
                self.batch.len(),
                case.name
            );
        }
        let cycles = counters.busy_cycles.get() - cycles;
        self.batch.clear();
        Ok(cycles as f64 / (turns - warm_up) as f64 / BURST as f64)
    }

    /// Opens the case's connections: their first packets; of TCP, a SYN.
    fn open(&mut self, case: &Case, templates: &[Vec<u8>]) -> Result<()> {
        for template in templates {
            let mut one = ArrayVec::<Mbuf, 1>::new();
            let mut packet = self.pool.alloc().context("the pool is exhausted")?;
            ensure!(packet.resize(template.len()), "a frame does not fit");
            packet.head_mut().copy_from_slice(template);
            if case.tcp {
                let l4 = eth::HEADER + if case.v6 { ipv6::HEADER } else { ipv4::HEADER };
                packet.head_mut()[l4 + 13] = tcp::SYN;
            }
            one.push(packet);
            self.near.send(&mut one);
            self.worker.turn();
            let mut out = ArrayVec::<Mbuf, 8>::new();
            ensure!(self.far.recv(&mut out) == 1, "the first packet of a connection did not pass");
        }
        Ok(())
    }
}

/// A frame of the case's n-th connection.
fn frame(case: &Case, n: u16, gateway: Mac) -> Vec<u8> {
    let l3 = if case.v6 { ipv6::HEADER } else { ipv4::HEADER };
    let l4_len = (case.size - eth::HEADER - l3) as u16;
    let source_port = 20_000 + n;
    let mut l4 = if case.tcp {
        let mut h = vec![0; tcp::HEADER];
        h[12] = 5 << 4;
        h[13] = tcp::ACK;
        h
    } else {
        let mut h = vec![0; 8];
        h[4..6].copy_from_slice(&l4_len.to_be_bytes());
        h
    };
    l4[..2].copy_from_slice(&source_port.to_be_bytes());
    l4[2..4].copy_from_slice(&LISTEN_PORT.to_be_bytes());
    l4.resize(usize::from(l4_len), 0x5a);
    let (proto, at) = if case.tcp { (6, tcp::CHECKSUM) } else { (17, 6) };
    let (ethertype, ip, pseudo) = if case.v6 {
        let (src, dst): (Ipv6Addr, Ipv6Addr) =
            ([0xfd10, 0, 0, 0, 0, 0, 0, 9].into(), [0xfd01, 0, 0, 0, 0, 0, 0, 1].into());
        let header = ipv6::header(src, dst, proto, 64, l4_len).to_vec();
        (eth::ETHERTYPE_IPV6, header, checksum::pseudo_v6(src, dst, proto, l4_len.into()))
    } else {
        // Clients that no flow admits differ in the source alone.
        let second = if case.admitted { 16 } else { 99 };
        let (src, dst) = (Ipv4Addr::new(172, second, 0, 9), Ipv4Addr::new(10, 1, 0, 1));
        let header = ipv4::header(src, dst, proto, 64, l4_len).to_vec();
        (eth::ETHERTYPE_IPV4, header, checksum::pseudo_v4(src, dst, proto, l4_len))
    };
    let sum = pseudo.plus(&l4).finish_udp();
    l4[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
    [&eth::header(gateway, CLIENT_MAC, None, ethertype)[..], &ip, &l4].concat()
}
