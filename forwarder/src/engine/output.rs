//! The way out: one batch of packets a port, sent at the end of every burst, never held to be filled.
#![forbid(unsafe_code)]

use super::DropReason;
use crate::counters::WorkerCounters;
use crate::io::{PacketBuf, PacketIo, PortIndex, TxBatch};

/// TX batches of one worker, one a port.
#[derive(Debug)]
pub struct Output<B> {
    batches: Vec<Batch<B>>,
}

/// What waits for one port.
#[derive(Debug)]
pub(super) struct Batch<B> {
    pub(super) packets: TxBatch<B>,
    /// Bytes of `packets`.
    pub(super) bytes: u64,
}

impl<B: PacketBuf> Output<B> {
    /// For a number of ports.
    pub fn new(ports: usize) -> Self {
        Self { batches: (0..ports).map(|_| Batch { packets: TxBatch::new(), bytes: 0 }).collect() }
    }

    /// Packets held: what devices did not take.
    pub fn held(&self) -> usize {
        self.batches.iter().map(|b| b.packets.len()).sum()
    }

    /// Packets held for one port.
    pub fn held_by(&self, port: PortIndex) -> usize {
        self.batches[usize::from(port)].packets.len()
    }

    /// Takes back everything held, to be dropped.
    pub fn clear(&mut self, mut dropped: impl FnMut(PortIndex, B)) {
        for (port, batch) in (0..).zip(&mut self.batches) {
            batch.bytes = 0;
            batch.packets.drain(..).for_each(|packet| dropped(port, packet));
        }
    }
}

/// Where a burst comes from and goes to: the devices, and the batches in front of them.
pub struct Edge<'a, IO: PacketIo> {
    /// The devices.
    pub io: &'a mut IO,
    /// The batches.
    pub out: &'a mut Output<IO::Buf>,
}

impl<IO: PacketIo> Edge<'_, IO> {
    /// Puts a packet of a known length behind the others of a port. When the batch is full and the device takes nothing, gives it
    /// back.
    #[inline(always)]
    pub(super) fn send(
        &mut self,
        counters: &WorkerCounters,
        port: PortIndex,
        bytes: u64,
        packet: IO::Buf,
    ) -> Result<(), IO::Buf> {
        let Some(batch) = self.batch(counters, port, 1) else { return Err(packet) };
        batch.packets.try_push(packet).map_err(|full| full.element())?;
        batch.bytes += bytes;
        Ok(())
    }

    /// A port's batch. When it has room for fewer than `room` packets, it is offered to the device first.
    #[inline(always)]
    pub(super) fn batch(
        &mut self,
        counters: &WorkerCounters,
        port: PortIndex,
        room: usize,
    ) -> Option<&mut Batch<IO::Buf>> {
        let index = usize::from(port);
        if self.out.batches.get(index)?.packets.remaining_capacity() < room {
            self.flush_port(counters, port);
        }
        self.out.batches.get_mut(index)
    }

    /// Offers every batch to its device.
    #[inline]
    pub fn flush(&mut self, counters: &WorkerCounters) {
        for port in 0..self.out.batches.len() {
            if !self.out.batches[port].packets.is_empty() {
                self.flush_port(counters, port as PortIndex);
            }
        }
    }

    #[inline(never)]
    fn flush_port(&mut self, counters: &WorkerCounters, port: PortIndex) {
        let batch = &mut self.out.batches[usize::from(port)];
        let sent = self.io.tx(port, &mut batch.packets);
        let left: u64 = batch.packets.iter().map(|p| p.frame_len() as u64).sum();
        counters.queues[usize::from(port)].tx.add(sent as u64, batch.bytes - left);
        batch.bytes = left;
        if !batch.packets.is_empty() && self.io.is_failed(port) {
            // Packets that wait for a device which is gone would be old news when it comes back.
            batch.bytes = 0;
            batch.packets.drain(..).for_each(|_| counters.count_drop(port, DropReason::PortFailed));
        }
    }
}
