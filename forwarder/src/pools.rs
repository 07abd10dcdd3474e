//! The packets' memory: a pool on each NUMA node that has devices, so that what a device receives lies beside it. What is needed is
//! known before any of it is asked for.
//!
//! A port receives into its node's pool and sends what any port received. So a device may be promised that all it sends comes from
//! one pool (`RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE`) only where there is one.
#![forbid(unsafe_code)]

use crate::config::{Config, Device, PortConfig};
use crate::engine::HANDOVER;
use crate::flow::fragments;
use crate::io::TX_BATCH;
use crate::topology::Placement;
use crate::wire::eth::TAG;

/// Descriptors of a receive or send queue, where the configuration does not say.
const DESCRIPTORS: u16 = 1024;
/// Buffers that DPDK's AF_XDP driver puts into the kernel's hands for each queue (its own number, whatever is asked), and does not get
/// back when the interface goes.
pub const AF_XDP_KEEPS: u32 = 2048;
/// How often an AF_XDP interface may come back before packet buffers run out.
const AF_XDP_RETURNS: usize = 5;
/// Mbufs a worker keeps to itself.
pub const CACHE: u32 = 256;
/// Bytes of an mbuf's own fields, `sizeof(struct rte_mbuf)`; with DPDK compiled in, checked against it.
pub const MBUF: usize = 128;
/// Bytes between those and its data, `RTE_PKTMBUF_HEADROOM`; checked alike.
pub const HEADROOM: usize = 128;

/// One of the pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// NUMA node where it lies; none is any, as is every one without hugepages.
    pub node: Option<i32>,
    /// Packet buffers.
    pub mbufs: u32,
}

/// The pools that a configuration needs on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// One for each node of the devices, in the order of ports; one at least.
    pub pools: Vec<Pool>,
    /// Bytes of data that a buffer holds.
    pub data_room: u16,
    /// Whether in hugepages.
    pub huge: bool,
}

impl Plan {
    /// Each pool has buffers for everything that can hold some of its own at once: the receive descriptors of its devices, and the send
    /// descriptors, batches and caches of all, and packets that wait.
    #[must_use]
    pub fn new(config: &Config, placement: &Placement) -> Self {
        let mut nodes = placement.pools();
        if nodes.is_empty() {
            nodes.push(None);
        }
        let workers = placement.workers.len();
        // Of each device its node, the buffers that a worker's queue receives into, and those it has given to be sent.
        let devices: Vec<(Option<i32>, usize, usize)> = config
            .devices()
            .filter_map(|ports| {
                let first = ports.first()?;
                let node =
                    placement.ports.get(usize::from(config.first_of_device(first))).and_then(|p| p.pool);
                let (rx, tx) = descriptors(&ports);
                let is_af_xdp = matches!(first.device, Device::AfXdp(_));
                let kept = if is_af_xdp { AF_XDP_RETURNS * AF_XDP_KEEPS as usize } else { 0 };
                Some((node, usize::from(rx) + kept, usize::from(tx)))
            })
            .collect();
        let all = devices.iter().map(|(.., tx)| tx).sum::<usize>() + config.ports.len() * TX_BATCH;
        let on_their_way = workers * workers.saturating_sub(1) * HANDOVER;
        let held = 2 * CACHE as usize + 2048 + fragments::HELD_FRIENDS + fragments::HELD_STRANGERS;
        let pool = |node: Option<i32>| {
            let own: usize = devices.iter().filter(|(n, ..)| *n == node).map(|(_, rx, _)| rx).sum();
            Pool { node, mbufs: (workers * (own + all + held) + on_their_way) as u32 }
        };
        let mtu = config.devices().map(|ports| device_mtu(&ports)).max().unwrap_or(1500);
        Self {
            pools: nodes.into_iter().map(pool).collect(),
            data_room: data_room_for(mtu),
            huge: config.eal.huge,
        }
    }

    /// MiB of one of the pools and of the devices beside it.
    #[must_use]
    pub fn memory_mb(&self, pool: Pool) -> usize {
        memory_mb(pool.mbufs, self.data_room, self.huge)
    }
}

/// Bytes an mbuf must hold to receive any frame of this MTU (bytes, layer 3) in one segment, on every kind of device: Ethernet
/// header, two VLAN tags, and what the kernel puts before the frame in a ring (struct tpacket2_hdr, struct sockaddr_ll and
/// alignment, 66 bytes).
#[must_use]
pub fn data_room_for(mtu: u16) -> u16 {
    const BESIDES: u16 = 14 + 8 + 66;
    mtu.saturating_add(BESIDES).max(2048).checked_next_multiple_of(1024).unwrap_or(63 * 1024)
}

/// MiB of memory that EAL needs for a pool of this size and for the devices beside it.
///
/// Without hugepages an mbuf of up to 4096 bytes never crosses a page, and so may take up a whole one.
#[must_use]
pub fn memory_mb(mbufs: u32, data_room: u16, huge: bool) -> usize {
    const PAGE: usize = 4096;
    /// Room for queues and the devices' own structures.
    const DEVICES: usize = 16 << 20;
    /// The pool's header and trailer of an object, its alignment, and its slot in the pool's ring.
    const BESIDES: usize = 256;
    let mbuf = MBUF + HEADROOM + usize::from(data_room) + BESIDES;
    let each = if !huge && mbuf <= PAGE { PAGE / (PAGE / mbuf) + 16 } else { mbuf };
    (mbufs as usize * each + DEVICES).div_ceil(1 << 20)
}

/// Descriptors of a device with these ports: of a receive queue and of a send queue.
#[must_use]
pub fn descriptors(ports: &[&PortConfig]) -> (u16, u16) {
    let of =
        |count: fn(&PortConfig) -> Option<u16>| ports.iter().find_map(|p| count(p)).unwrap_or(DESCRIPTORS);
    (of(|p| p.rx_descriptors), of(|p| p.tx_descriptors))
}

/// Largest layer 3 packet of a device with these ports. Devices and kernels leave room for one 802.1Q tag beside it; what more
/// the frames of a port have counts as a part of the packet.
#[must_use]
pub fn device_mtu(ports: &[&PortConfig]) -> u16 {
    let mtu = |p: &&PortConfig| match (p.outer_vlan, p.vlan) {
        (None, _) => p.mtu,
        (Some(_), None) => p.mtu + TAG as u16,
        (Some(_), Some(_)) => p.mtu + 2 * TAG as u16,
    };
    ports.iter().map(mtu).max().unwrap_or(1500)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::PortPlace;

    fn of(devices: &[&str], nodes: &[Option<i32>], workers: usize) -> Vec<Pool> {
        let port = |(n, device): (usize, &&str)| {
            format!(
                "[[port]]\nname = \"p{n}\"\ndevice = {device:?}\naddresses = [\"10.{n}.0.1/24\"]\nvlan = {}\n",
                n + 1
            )
        };
        let text: String = devices.iter().enumerate().map(port).collect();
        let config = Config::parse(&text, "test.toml").unwrap();
        let cores: Vec<usize> = (0..workers).collect();
        let mut placement = Placement::on_cores(9, &cores, devices.len());
        placement.ports = nodes.iter().map(|node| PortPlace { node: *node, pool: *node }).collect();
        Plan::new(&config, &placement).pools
    }

    #[test]
    fn there_is_a_pool_a_node_with_room_for_all_that_may_hold_its_packets() {
        let (zero, one) = (Some(0), Some(1));
        let nodes = |pools: &[Pool]| -> Vec<_> { pools.iter().map(|p| p.node).collect() };
        let single = of(&["tap:a", "tap:b"], &[None, None], 2);
        assert_eq!(nodes(&single), [None]);
        let near = of(&["tap:a", "tap:b"], &[one, one], 2);
        assert_eq!((nodes(&near), near[0].mbufs), (vec![one], single[0].mbufs));

        let both = of(&["tap:a", "tap:b", "tap:c"], &[one, zero, one], 2);
        assert_eq!(nodes(&both), [one, zero]);
        let queues = u32::from(DESCRIPTORS) * 2;
        assert_eq!(both[0].mbufs - both[1].mbufs, queues, "it has one device more to receive");
        let all = of(&["tap:a", "tap:b", "tap:c"], &[zero, zero, zero], 2);
        assert_eq!(all[0].mbufs - both[0].mbufs, queues, "all send all, and receive into their own");
        // Ports that share a device receive once.
        let shared = of(&["tap:a", "tap:a", "tap:c"], &[zero, zero, one], 1);
        assert_eq!(shared[0].mbufs, shared[1].mbufs);
    }

    #[test]
    fn what_the_configuration_asks_for_is_counted() {
        let plan = |extra: &str| {
            let text =
                format!("[[port]]\nname = \"a\"\ndevice = \"tap:a\"\naddresses = [\"10.1.0.1/24\"]\n{extra}");
            Plan::new(&Config::parse(&text, "test.toml").unwrap(), &Placement::on_cores(9, &[0, 1], 1))
        };
        let mbufs = |extra: &str| plan(extra).pools[0].mbufs;
        assert_eq!(mbufs("rx_descriptors = 4096\ntx_descriptors = 512\n"), mbufs("") + 2 * (3072 - 512));
        let jumbo = plan("mtu = 9000\n");
        assert_eq!((plan("").data_room, jumbo.data_room), (2048, 9216));
        let pool = jumbo.pools[0];
        assert!(jumbo.memory_mb(pool) > 2 * plan("").memory_mb(pool));
    }

    #[test]
    fn data_room_comes_in_kibibytes() {
        assert_eq!([576, 1500, 1960, 1961, 9000].map(data_room_for), [2048, 2048, 2048, 3072, 9216]);
        assert_eq!(data_room_for(u16::MAX) % 1024, 0);
    }
}
