use std::sync::Arc;

use super::mbuf::{self, Mbuf};
use super::mempool::Mempool;
use super::queue::Queue;
use crate::io::{Burst, PacketIo, PortIndex, TxBatch};

/// A worker's queues, one of each port in the ports' order, and the pool of its own packets.
#[derive(Debug)]
pub struct DpdkIo {
    queues: Vec<Queue>,
    pool: Arc<Mempool>,
}

impl DpdkIo {
    /// The queues may come in any order; they are put into that of their ports' indices.
    #[must_use]
    pub fn new(mut queues: Vec<Queue>, pool: Arc<Mempool>) -> Self {
        queues.sort_by_key(|q| q.port().index());
        debug_assert!(queues.iter().enumerate().all(|(i, q)| usize::from(q.port().index()) == i));
        Self { queues, pool }
    }

    /// The queues, in the order of their ports.
    #[must_use]
    pub fn queues(&self) -> &[Queue] {
        &self.queues
    }
}

impl PacketIo for DpdkIo {
    type Buf = Mbuf;

    #[inline]
    fn rx(&mut self, port: PortIndex, burst: &mut Burst<Mbuf>) -> usize {
        self.queues.get_mut(usize::from(port)).map_or(0, |q| q.rx(burst))
    }

    #[inline]
    fn tx(&mut self, port: PortIndex, batch: &mut TxBatch<Mbuf>) -> usize {
        self.queues.get_mut(usize::from(port)).map_or(0, |q| q.tx(batch))
    }

    #[inline]
    fn alloc(&mut self) -> Option<Mbuf> {
        self.pool.alloc()
    }

    #[inline]
    fn free(&mut self, burst: &mut Burst<Mbuf>) {
        mbuf::free_all(burst);
    }
}
