//! Workers between net_ring ports, each with a feeder in its own thread: the ground of the rows that need no peer.
//!
//! A feeder writes the headers of a burst, puts it where the worker receives, lets the worker take one turn, and takes back
//! what was sent. Its cost is the same for every worker, so it may stay in a figure that is compared with another.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use forwarder::api::{FlowSpec, Proto};
use forwarder::config::{Config, Idle};
use forwarder::dpdk::{DpdkIo, Eal, Mbuf, Mempool, Port, PortSettings, RingPair};
use forwarder::engine::engines;
use forwarder::flow::{Steering, Tuple, toeplitz};
use forwarder::gateway::Gateway;
use forwarder::io::{BURST, Burst, PacketBuf, PortIndex};
use forwarder::net::Network;
use forwarder::server::Tsc;
use forwarder::sync::StopFlag;
use forwarder::wire::{Mac, PROTO_UDP, Tags, checksum, eth, ipv4, udp};
use forwarder::worker::Worker;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::relay;

/// net_ring counts the packets of neighboring queues on one cache line, as no NIC does: workers use every eighth queue.
const APART: usize = 8;
const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 1, 2]);
/// Bytes of a frame, without FCS.
const SIZE: usize = eth::MIN_FRAME;
const HEADERS: usize = eth::HEADER + ipv4::HEADER + udp::HEADER;
const L4: usize = eth::HEADER + ipv4::HEADER;
/// Key and table of receive side scaling, which net_ring has not: the feeders put packets where they belong.
const HASH_KEY: [u8; toeplitz::KEY] = *b"Any forty bytes would do; these are none";
const TABLE: usize = 512;
/// Listen and target port of flow 0; those of the others follow.
const FIRST_PORT: u16 = 10_000;

const NETWORK: &str = r#"
[addresses]
check = "off"
[[port]]
name = "client"
device = "vdev:rings"
addresses = ["10.1.0.1/24"]
gateway = ["10.1.0.2"]
[[port]]
name = "wan"
device = "vdev:rings2"
addresses = ["10.2.0.1/24"]
[[neighbor]]
port = "client"
address = "10.1.0.2"
mac = "02:00:00:00:01:02"
[[neighbor]]
port = "wan"
address = "10.2.0.2"
mac = "02:00:00:00:02:02"
"#;

/// A configuration with UDP flows `0..flows`, and `more` TOML tables behind it.
pub(super) fn config(flows: u16, more: &str) -> Result<Config> {
    let mut config = Config::parse(&format!("{NETWORK}{more}"), "s2bench core")?;
    config.flows = (0..flows).map(flow).collect::<Result<_>>()?;
    Ok(config)
}

/// UDP flow `n`: any client in 172.16.0.0/12 may open it.
pub(super) fn flow(n: u16) -> Result<FlowSpec> {
    Ok(FlowSpec {
        name: format!("flow-{n}"),
        proto: Proto::Udp,
        listen: listen(n).into(),
        target: (Ipv4Addr::new(10, 2, 0, 2), FIRST_PORT + n).into(),
        from: vec!["172.16.0.0/12".parse()?],
        max_conns: None,
        mss_clamp: None,
        hairpin: false,
        rate: None,
        lease: None,
    })
}

/// Where flow `n` listens.
fn listen(n: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 1), FIRST_PORT + n)
}

/// Client number `client`: one of 2^15 ports of each of 2^17 addresses.
fn client(client: u32) -> SocketAddrV4 {
    let address = u32::from(Ipv4Addr::new(172, 16, 0, 1)) + (client >> 15) % (1 << 17);
    SocketAddrV4::new(address.into(), 1 << 15 | (client & 0x7fff) as u16)
}

/// The worker whose queue a NIC that steers like this puts flow `n`'s client number `c` into.
pub(super) fn home(steering: &Steering, n: u16, c: u32) -> Option<usize> {
    let tuple = Tuple { port: 0, proto: Proto::Udp, src: client(c).into(), dst: listen(n).into() };
    Some(steering.home(&tuple.key()?))
}

/// The headers of a client's packet.
pub(super) type Headers = [u8; HEADERS];

/// Headers of flow `n`'s client number `c`, a different 5-tuple for each.
pub(super) fn headers(gateway: Mac, n: u16, c: u32) -> Headers {
    const LEN: u16 = (SIZE - L4) as u16;
    let (from, to) = (client(c), listen(n));
    let mut udp = udp::header(from.port(), to.port(), LEN - udp::HEADER as u16);
    let sum = checksum::pseudo_v4(*from.ip(), *to.ip(), PROTO_UDP, LEN).plus(&udp).finish_udp();
    udp[udp::CHECKSUM..][..2].copy_from_slice(&sum.to_ne_bytes());
    let mut all = [0; HEADERS];
    all[..eth::HEADER].copy_from_slice(&eth::header(gateway, CLIENT_MAC, Tags::NONE, eth::ETHERTYPE_IPV4));
    all[eth::HEADER..L4].copy_from_slice(&ipv4::header(*from.ip(), *to.ip(), PROTO_UDP, 64, LEN));
    all[L4..].copy_from_slice(&udp);
    all
}

/// The flow a frame belongs to, before or after the relay: listen and target ports are the same.
pub(super) fn flow_of(frame: &Mbuf) -> Option<u16> {
    let port = frame.head().get(L4 + 2..L4 + 4)?;
    u16::from_be_bytes([port[0], port[1]]).checked_sub(FIRST_PORT)
}

/// A worker, what feeds it, and the burst between them.
pub(super) struct Fed {
    // Dropped in this order: what holds packets before what holds the pool.
    pub(super) worker: Worker<DpdkIo, Tsc>,
    near: RingPair,
    far: RingPair,
    burst: Burst<Mbuf>,
    pool: Arc<Mempool>,
}

impl Fed {
    /// Sends a burst of frames with these headers by the worker; returns what comes out.
    pub(super) fn turn<'a>(&mut self, mut next: impl FnMut() -> &'a Headers) -> Result<&Burst<Mbuf>> {
        if !self.burst.is_full() {
            self.pool.alloc_bulk(&mut self.burst);
            ensure!(self.burst.is_full(), "the pool is exhausted");
        }
        for packet in &mut self.burst {
            // The payload stays where it is, as the relay leaves it.
            ensure!(packet.resize(SIZE), "a frame of {SIZE} bytes does not fit");
            packet.head_mut()[..HEADERS].copy_from_slice(next());
        }
        self.near.send(&mut self.burst);
        ensure!(self.burst.is_empty(), "the worker left frames in its queue");
        self.worker.turn();
        self.far.recv(&mut self.burst);
        Ok(&self.burst)
    }

    /// Sends each of `headers` by the worker, in whole bursts and at least once; all must come out.
    pub(super) fn open(&mut self, headers: &[Headers]) -> Result<()> {
        let mut all = headers.iter().cycle();
        for _ in 0..headers.len().div_ceil(BURST) {
            let out = self.turn(|| all.next().unwrap_or(&[0; HEADERS]))?.len();
            ensure!(out == BURST, "{} of {BURST} first packets of connections did not pass", BURST - out);
        }
        Ok(())
    }

    /// Cycles the worker spent in turns that found packets.
    pub(super) fn cycles(&self) -> u64 {
        self.worker.engine().counters().busy_cycles.get()
    }
}

/// EAL, ports over rings, workers on them, and the operator's view of it all.
pub(super) struct Bed {
    // Dropped in this order.
    pub(super) fed: Vec<Fed>,
    pub(super) gateway: Arc<Gateway>,
    /// MAC address of the client's port.
    pub(super) mac: Mac,
    /// Whose the packets of either port are.
    pub(super) steering: Steering,
    pub(super) eal: Arc<Eal>,
}

impl Bed {
    /// Starts EAL on the calling thread, which stays on `main`, with `workers` workers made as s2ds makes them; `huge` takes packet
    /// memory from hugepages.
    pub(super) fn new(config: Config, main: usize, huge: bool, workers: usize) -> Result<Self> {
        let (eal, pool) = relay::start(main, huge, 1500)?;
        let config = Arc::new(config);
        let (mut macs, mut queues, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..config.ports.len() as PortIndex {
            let settings = PortSettings {
                queues: ((workers - 1) * APART + 1) as u16,
                ..relay::port_settings(&config, index, "net_ring", 256)
            };
            let (port, queue, pairs) = Port::from_rings(settings, 256, &pool)?;
            macs.push(Mac(port.mac()));
            queues.push(queue.into_iter().step_by(APART));
            ends.push(pairs.into_iter().step_by(APART));
        }
        let steering = Steering::rss(&HASH_KEY, workers as u16, TABLE);
        let steered = config.ports.iter().map(|_| steering.clone());
        let net = Arc::new(Network::new(Arc::clone(&config), &macs).steered(steered));
        let (publisher, engines) = engines(&config, &net, workers)?;
        let (mut fed, mut handles) = (Vec::new(), Vec::new());
        for (index, engine) in engines.into_iter().enumerate() {
            let io = DpdkIo::new(queues.iter_mut().filter_map(Iterator::next).collect(), Arc::clone(&pool));
            let mut ends = ends.iter_mut().filter_map(Iterator::next);
            let (Some(near), Some(far)) = (ends.next(), ends.next()) else {
                anyhow::bail!("the ports have no rings")
            };
            let (worker, handle) =
                Worker::new(engine, io, Tsc::new(&eal), StopFlag::default(), Idle::Poll, (index, None));
            handles.push(handle);
            fed.push(Fed { worker, near, far, burst: Burst::new(), pool: Arc::clone(&pool) });
        }
        let gateway = Arc::new(Gateway::new(config, net, publisher, handles, Vec::new())?);
        for fed in &mut fed {
            fed.worker.turn();
        }
        let mac = macs.first().copied().context("there is no port")?;
        Ok(Self { fed, gateway, mac, steering, eal })
    }
}

/// Moves the calling thread to a core.
pub(crate) fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .with_context(|| format!("core {core} cannot be had; choose another with --core"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_differ_and_their_headers_are_those_of_their_tuple() {
        let of = |c| headers(Mac([2, 0, 0, 0, 0, 1]), 3, c);
        for c in [0, 1, 0x7fff, 0x8000, 0x2_0001] {
            let packet = of(c);
            assert_eq!(packet[26..30], client(c).ip().octets());
            assert_eq!(packet[30..34], listen(3).ip().octets());
            assert_eq!(packet[34..36], client(c).port().to_be_bytes());
            assert_eq!(packet[36..38], listen(3).port().to_be_bytes());
            assert_ne!(packet, of(c + 1));
        }
    }

    #[test]
    fn every_worker_is_the_home_of_its_share() {
        let steering = Steering::rss(&HASH_KEY, 2, TABLE);
        let mut share = [0; 2];
        for c in 0..10_000 {
            share[home(&steering, (c % 16) as u16, c).unwrap()] += 1;
        }
        assert!(share.iter().all(|n| (4500..=5500).contains(n)), "{share:?}");
    }
}
