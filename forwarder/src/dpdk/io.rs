use std::sync::Arc;
use std::time::Duration;

use crossbeam::queue::ArrayQueue;

use super::mbuf::{self, Mbuf};
use super::mempool::Mempool;
use super::queue::Queue;
use super::sockets;
use crate::io::{Burst, MAX_DEVICES, NAP, PacketIo, PortIndex, TxBatch};

/// A worker's queues, one of each device in the order of the devices' first ports, and the pool of its own packets.
#[derive(Debug)]
pub struct DpdkIo {
    slots: Vec<Slot>,
    /// Of every port, the place of its device's queue.
    places: Vec<u8>,
    pool: Arc<Mempool>,
    exchange: Arc<Exchange>,
}

/// The place of a device's queue.
#[derive(Debug)]
struct Slot {
    device: PortIndex,
    /// None while the device is out of use.
    queue: Option<Queue>,
}

/// How a queue leaves a worker that polls it, and another takes its place: the worker does both, between two bursts. At
/// most two orders are under way for a device: a queue is handed out, and put away again.
#[derive(Debug)]
struct Exchange {
    /// What a device's queue is to be from now on.
    orders: ArrayQueue<Slot>,
    /// What it was.
    replies: ArrayQueue<Slot>,
}

/// The other side of a [`DpdkIo`], where a worker's queues are exchanged while it runs.
#[derive(Debug, Clone)]
pub struct QueueDesk(Arc<Exchange>);

impl QueueDesk {
    /// Has the worker use this queue of a device, or none. What it used comes back by [`QueueDesk::collect`]. Of more than two
    /// orders for each device that wait to be carried out the last may find no room, and its queue is dropped.
    pub fn order(&self, device: PortIndex, queue: Option<Queue>) {
        _ = self.0.orders.push(Slot { device, queue });
    }

    /// A device whose order was carried out, with the queue it had. The worker touches that no more.
    #[must_use]
    pub fn collect(&self) -> Option<(PortIndex, Option<Queue>)> {
        self.0.replies.pop().map(|slot| (slot.device, slot.queue))
    }
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
        let slots = queues.into_iter().map(|q| Slot { device: q.port().index(), queue: Some(q) }).collect();
        let room = 2 * MAX_DEVICES;
        let exchange = Exchange { orders: ArrayQueue::new(room), replies: ArrayQueue::new(room) };
        Self { slots, places, pool, exchange: Arc::new(exchange) }
    }

    #[inline(always)]
    fn queue(&mut self, port: PortIndex) -> Option<&mut Queue> {
        self.slots.get_mut(usize::from(*self.places.get(usize::from(port))?))?.queue.as_mut()
    }

    /// Those of devices in use.
    fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.slots.iter().filter_map(|slot| slot.queue.as_ref())
    }

    /// Where the queues are exchanged.
    #[must_use]
    pub fn desk(&self) -> QueueDesk {
        QueueDesk(Arc::clone(&self.exchange))
    }

    #[cold]
    fn exchange(&mut self) {
        while let Some(mut order) = self.exchange.orders.pop() {
            if let Some(slot) = self.slots.iter_mut().find(|slot| slot.device == order.device) {
                std::mem::swap(&mut slot.queue, &mut order.queue);
            }
            // There is as much room as for orders.
            _ = self.exchange.replies.push(order);
        }
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

    #[inline]
    fn attend(&mut self) {
        if !self.exchange.orders.is_empty() {
            self.exchange();
        }
    }

    fn wakes(&self) -> bool {
        self.queues().all(|q| q.socket().is_some())
    }

    fn wait(&mut self, at_most: Duration) {
        if !sockets::wait(self.queues().filter_map(Queue::socket), at_most) {
            std::thread::sleep(NAP);
        }
    }

    fn is_failed(&self, port: PortIndex) -> bool {
        let place = self.places.get(usize::from(port));
        place.and_then(|place| self.slots.get(usize::from(*place))).is_none_or(|slot| slot.queue.is_none())
    }
}
