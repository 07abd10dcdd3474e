//! The packets' memory: a pool on each NUMA node that has devices, so that what a device receives lies beside it.
//!
//! A port receives into its node's pool and sends what any port received. So a device may be promised that all it sends comes from
//! one pool (`RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE`) only where there is one.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::config::{Config, Device, PortConfig};
use crate::dpdk::{AF_XDP_KEEPS, DpdkError, Eal, Mempool, PoolSettings};
use crate::engine::HANDOVER;
use crate::flow::fragments;
use crate::io::TX_BATCH;
use crate::topology::Placement;

/// Descriptors of a receive or send queue, where the configuration does not say.
const DESCRIPTORS: u16 = 1024;
/// How often an AF_XDP interface may come back before packet buffers run out.
const AF_XDP_RETURNS: usize = 5;
/// Mbufs a worker keeps to itself.
const CACHE: u32 = 256;

/// The pools, each with its NUMA node; one at least.
pub(crate) struct Pools(Vec<(Option<i32>, Arc<Mempool>)>);

impl Pools {
    /// Makes them.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub(crate) fn new(eal: &Arc<Eal>, settings: &[PoolSettings], data_room: u16) -> Result<Self, DpdkError> {
        let pools = Mempool::together(eal, settings, CACHE, data_room)?;
        Ok(Self(settings.iter().map(|s| s.numa_node).zip(pools).collect()))
    }

    /// The node's pool, or the first.
    pub(crate) fn on(&self, node: Option<i32>) -> &Arc<Mempool> {
        let found = self.0.iter().find(|(n, _)| *n == node);
        &found.unwrap_or(&self.0[0]).1
    }

    /// Whether all packets come from one pool.
    pub(crate) fn is_one(&self) -> bool {
        self.0.len() == 1
    }
}

/// Descriptors of a device with these ports: of a receive queue and of a send queue.
pub(crate) fn descriptors(ports: &[&PortConfig]) -> (u16, u16) {
    let of =
        |count: fn(&PortConfig) -> Option<u16>| ports.iter().find_map(|p| count(p)).unwrap_or(DESCRIPTORS);
    (of(|p| p.rx_descriptors), of(|p| p.tx_descriptors))
}

/// The pools that a placement needs, in the order of its ports.
///
/// Each has packet buffers for everything that can hold some of its own at once: the receive descriptors of its devices, and the send
/// descriptors, batches and caches of all, and packets that wait.
pub(crate) fn settings(config: &Config, placement: &Placement) -> Vec<PoolSettings> {
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
            let node = placement.ports.get(usize::from(config.first_of_device(first))).and_then(|p| p.pool);
            let (rx, tx) = descriptors(&ports);
            let is_af_xdp = matches!(first.device, Device::AfXdp(_));
            let kept = if is_af_xdp { AF_XDP_RETURNS * AF_XDP_KEEPS as usize } else { 0 };
            Some((node, usize::from(rx) + kept, usize::from(tx)))
        })
        .collect();
    let all = devices.iter().map(|(.., tx)| tx).sum::<usize>() + config.ports.len() * TX_BATCH;
    let on_their_way = workers * workers.saturating_sub(1) * HANDOVER;
    let held = 2 * CACHE as usize + 2048 + fragments::HELD_FRIENDS + fragments::HELD_STRANGERS;
    let pool = |node: &Option<i32>| {
        let own: usize = devices.iter().filter(|(n, ..)| n == node).map(|(_, rx, _)| rx).sum();
        PoolSettings {
            name: match node {
                Some(node) if nodes.len() > 1 => format!("packets-{node}"),
                _ => "packets".to_owned(),
            },
            count: (workers * (own + all + held) + on_their_way) as u32,
            numa_node: *node,
        }
    };
    nodes.iter().map(pool).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dpdk::EalOptions;
    use crate::topology::PortPlace;

    fn of(devices: &[&str], nodes: &[Option<i32>], workers: usize) -> Vec<PoolSettings> {
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
        settings(&config, &placement)
    }

    #[test]
    fn each_node_has_its_own_and_others_use_the_first() {
        let main_core = crate::topology::Machine::here().unwrap().available().iter().next().unwrap();
        let options = EalOptions { huge: false, memory_mb: 64, main_core, ..EalOptions::default() };
        let eal = Eal::init(&options).unwrap();
        let pool = |node: i32| PoolSettings { name: format!("n{node}"), count: 63, numa_node: Some(node) };
        let pools = Pools::new(&eal, &[pool(1), pool(0)], 2048).unwrap();
        let same = |a: Option<i32>, b: Option<i32>| Arc::ptr_eq(pools.on(a), pools.on(b));
        assert!(!pools.is_one() && !same(Some(0), Some(1)));
        assert!(same(None, Some(1)) && same(Some(7), Some(1)));
        drop(pools);
        assert!(Pools::new(&eal, &[pool(1)], 2048).unwrap().is_one());
    }

    #[test]
    fn there_is_a_pool_a_node_with_room_for_all_that_may_hold_its_packets() {
        let (zero, one) = (Some(0), Some(1));
        let names = |pools: &[PoolSettings]| -> Vec<_> {
            pools.iter().map(|p| (p.name.clone(), p.numa_node)).collect()
        };
        let single = of(&["tap:a", "tap:b"], &[None, None], 2);
        assert_eq!(names(&single), [("packets".to_owned(), None)]);
        let near = of(&["tap:a", "tap:b"], &[one, one], 2);
        assert_eq!((names(&near), near[0].count), (vec![("packets".to_owned(), one)], single[0].count));

        let both = of(&["tap:a", "tap:b", "tap:c"], &[one, zero, one], 2);
        assert_eq!(names(&both), [("packets-1".to_owned(), one), ("packets-0".to_owned(), zero)]);
        let queues = u32::from(DESCRIPTORS) * 2;
        assert_eq!(both[0].count - both[1].count, queues, "it has one device more to receive");
        let all = of(&["tap:a", "tap:b", "tap:c"], &[zero, zero, zero], 2);
        assert_eq!(all[0].count - both[0].count, queues, "all send all, and receive into their own");
        // Ports that share a device receive once.
        let shared = of(&["tap:a", "tap:a", "tap:c"], &[zero, zero, one], 1);
        assert_eq!(shared[0].count, shared[1].count);
    }
}
