//! The pools of packets, made as [`crate::pools`] says, and which device and worker uses which.

use std::sync::Arc;

use crate::dpdk::{DpdkError, Eal, Mempool, PoolSettings};
use crate::pools::{CACHE, Plan};

/// The pools, each with its NUMA node; one at least.
pub(super) struct Pools(Vec<(Option<i32>, Arc<Mempool>)>);

impl Pools {
    /// Makes them.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub(super) fn new(eal: &Arc<Eal>, plan: &Plan) -> Result<Self, DpdkError> {
        let settings = plan.pools.iter().map(|pool| PoolSettings {
            name: match pool.node {
                Some(node) if plan.pools.len() > 1 => format!("packets-{node}"),
                _ => "packets".to_owned(),
            },
            count: pool.mbufs,
            numa_node: pool.node,
        });
        let pools = Mempool::together(eal, &settings.collect::<Vec<_>>(), CACHE, plan.data_room)?;
        Ok(Self(plan.pools.iter().map(|pool| pool.node).zip(pools).collect()))
    }

    /// The node's pool, or the first.
    pub(super) fn on(&self, node: Option<i32>) -> &Arc<Mempool> {
        let found = self.0.iter().find(|(n, _)| *n == node);
        &found.unwrap_or(&self.0[0]).1
    }

    /// Whether all packets come from one pool.
    pub(super) fn is_one(&self) -> bool {
        self.0.len() == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dpdk::EalOptions;
    use crate::pools::{Pool, data_room_for};

    #[test]
    fn each_node_has_its_own_and_others_use_the_first() {
        let main_core = crate::topology::Machine::here().unwrap().available().iter().next().unwrap();
        let options = EalOptions { huge: false, memory_mb: 64, main_core, ..EalOptions::default() };
        let eal = Eal::init(&options).unwrap();
        let plan = |nodes: &[i32]| {
            let pools = nodes.iter().map(|node| Pool { node: Some(*node), mbufs: 1023 }).collect();
            Plan { pools, data_room: data_room_for(1500), huge: false }
        };
        let pools = Pools::new(&eal, &plan(&[1, 0])).unwrap();
        let same = |a: Option<i32>, b: Option<i32>| Arc::ptr_eq(pools.on(a), pools.on(b));
        assert!(!pools.is_one() && !same(Some(0), Some(1)));
        assert!(same(None, Some(1)) && same(Some(7), Some(1)));
        drop(pools);
        assert!(Pools::new(&eal, &plan(&[1])).unwrap().is_one());
    }
}
