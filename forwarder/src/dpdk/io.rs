use std::sync::Arc;

use super::mbuf::{self, Mbuf};
use super::mempool::Mempool;
use super::queue::Queue;
use crate::io::{Burst, PacketIo, PortIndex, TxBatch};

/// A worker's queues, one of each device in the order of the devices' first ports, and the pool of its own packets.
#[derive(Debug)]
pub struct DpdkIo {
    queues: Vec<Queue>,
    /// Of every port, the place of its device's queue.
    places: Vec<u8>,
    pool: Arc<Mempool>,
}

impl DpdkIo {
    /// One port a device. The queues may come in any order; they are put into that of their ports' indices.
    #[must_use]
    pub fn new(queues: Vec<Queue>, pool: Arc<Mempool>) -> Self {
        let devices: Vec<PortIndex> = (0..queues.len() as PortIndex).collect();
        Self::shared(queues, pool, &devices)
    }

    /// The same for ports that share devices: `devices` names for every port the first one of its device, whose index the
    /// queue's [`super::Port`] has.
    #[must_use]
    pub fn shared(mut queues: Vec<Queue>, pool: Arc<Mempool>, devices: &[PortIndex]) -> Self {
        queues.sort_by_key(|q| q.port().index());
        let place = |device: &PortIndex| queues.partition_point(|q| q.port().index() < *device) as u8;
        let places: Vec<u8> = devices.iter().map(place).collect();
        debug_assert!(
            places
                .iter()
                .zip(devices)
                .all(|(p, d)| queues.get(usize::from(*p)).is_some_and(|q| q.port().index() == *d))
        );
        Self { queues, places, pool }
    }

    #[inline(always)]
    fn queue(&mut self, port: PortIndex) -> Option<&mut Queue> {
        self.queues.get_mut(usize::from(*self.places.get(usize::from(port))?))
    }

    /// The queues, in the order of their devices.
    #[must_use]
    pub fn queues(&self) -> &[Queue] {
        &self.queues
    }
}

impl PacketIo for DpdkIo {
    type Buf = Mbuf;

    #[inline]
    fn rx(&mut self, port: PortIndex, burst: &mut Burst<Mbuf>) -> usize {
        self.queue(port).map_or(0, |q| q.rx(burst))
    }

    #[inline]
    fn tx(&mut self, port: PortIndex, batch: &mut TxBatch<Mbuf>) -> usize {
        self.queue(port).map_or(0, |q| q.tx(batch))
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
