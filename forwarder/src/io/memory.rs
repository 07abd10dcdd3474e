//! Ports in memory: a test puts frames in at the far end of a port and takes out what was sent there.
//!
//! [`HeapBuf`] is the heap twin of an mbuf and behaves as one: headroom, tailroom, a pool it goes back to when dropped.
//! All memory is set aside at the start, so that what a test counts as allocated is the worker's doing.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Burst, PacketBuf, PacketIo, PortIndex, TxBatch};

/// Bytes in front of a fresh frame.
pub const HEADROOM: usize = 128;

/// Bytes of a frame that a buffer holds by default, behind its headroom.
pub const CAPACITY: usize = 2048;

/// A frame on the heap.
#[derive(Debug)]
pub struct HeapBuf {
    storage: Box<[u8]>,
    start: usize,
    len: usize,
    pool: Option<Pool>,
}

impl HeapBuf {
    /// An empty frame of no pool that can grow to `capacity` bytes behind its headroom.
    pub fn new(capacity: usize) -> HeapBuf {
        HeapBuf::over(vec![0; HEADROOM + capacity].into(), None)
    }

    /// A frame of no pool with these bytes, and tailroom up to [`CAPACITY`].
    pub fn from_frame(bytes: &[u8]) -> HeapBuf {
        let mut buf = HeapBuf::new(CAPACITY.max(bytes.len()));
        buf.fill(bytes);
        buf
    }

    fn over(storage: Box<[u8]>, pool: Option<Pool>) -> HeapBuf {
        HeapBuf { storage, start: HEADROOM, len: 0, pool }
    }

    fn fill(&mut self, bytes: &[u8]) -> bool {
        let fits = self.resize(bytes.len());
        if fits {
            self.head_mut().copy_from_slice(bytes);
        }
        fits
    }
}

impl Drop for HeapBuf {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            lock(&pool).push(std::mem::take(&mut self.storage));
        }
    }
}

impl PacketBuf for HeapBuf {
    #[inline]
    fn head(&self) -> &[u8] {
        self.storage.get(self.start..self.start + self.len).unwrap_or(&[])
    }

    #[inline]
    fn head_mut(&mut self) -> &mut [u8] {
        self.storage.get_mut(self.start..self.start + self.len).unwrap_or(&mut [])
    }

    #[inline]
    fn frame_len(&self) -> usize {
        self.len
    }

    fn pull(&mut self, n: usize) -> bool {
        let fits = n <= self.len;
        if fits {
            self.start += n;
            self.len -= n;
        }
        fits
    }

    fn push(&mut self, n: usize) -> bool {
        let fits = n <= self.start;
        if fits {
            self.start -= n;
            self.len += n;
        }
        fits
    }

    fn resize(&mut self, n: usize) -> bool {
        let fits = n <= self.storage.len() - self.start;
        if fits {
            self.len = n;
        }
        fits
    }
}

type Pool = Arc<Mutex<Vec<Box<[u8]>>>>;

/// A test that failed while it held a lock is reported by itself; the data behind is whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Line {
    to_worker: VecDeque<HeapBuf>,
    sent: VecDeque<HeapBuf>,
    tx_room: usize,
}

/// A queue pair on every port, both its ends. Clones share it: the worker owns one, the test keeps another.
#[derive(Debug, Clone)]
pub struct MemoryIo {
    /// One a device, where its first port stands.
    lines: Arc<[Mutex<Line>]>,
    /// Of every port, the first one of its device.
    devices: Arc<[PortIndex]>,
    pool: Pool,
}

impl MemoryIo {
    /// `ports` ports that share a pool of `buffers` frames of up to [`CAPACITY`] bytes.
    pub fn new(ports: usize, buffers: usize) -> MemoryIo {
        MemoryIo::with_capacity(ports, buffers, CAPACITY)
    }

    /// The same for frames of up to `capacity` bytes.
    pub fn with_capacity(ports: usize, buffers: usize, capacity: usize) -> MemoryIo {
        let line = || Line {
            to_worker: VecDeque::with_capacity(buffers),
            sent: VecDeque::with_capacity(buffers),
            tx_room: usize::MAX,
        };
        MemoryIo {
            lines: (0..ports).map(|_| Mutex::new(line())).collect(),
            devices: (0..ports as PortIndex).collect(),
            pool: Arc::new(Mutex::new((0..buffers).map(|_| vec![0; HEADROOM + capacity].into()).collect())),
        }
    }

    /// Lets ports share devices: `devices` names for every port the first one of its device. For the start.
    #[must_use]
    pub fn sharing(self, devices: &[PortIndex]) -> MemoryIo {
        MemoryIo { devices: devices.into(), ..self }
    }

    fn line(&self, port: PortIndex) -> Option<MutexGuard<'_, Line>> {
        self.lines.get(usize::from(*self.devices.get(usize::from(port))?)).map(lock)
    }

    fn fresh(&self) -> Option<HeapBuf> {
        let storage = lock(&self.pool).pop()?;
        Some(HeapBuf::over(storage, Some(self.pool.clone())))
    }

    /// A frame arrives at `port`. False, and the frame lost, when the pool is empty, the frame too long or the port unknown.
    #[must_use]
    pub fn inject(&self, port: PortIndex, frame: &[u8]) -> bool {
        let Some(mut buf) = self.fresh() else { return false };
        let Some(mut line) = self.line(port) else { return false };
        let fits = buf.fill(frame);
        if fits {
            line.to_worker.push_back(buf);
        }
        fits
    }

    /// The oldest frame that was sent at `port` and not yet taken.
    pub fn take(&self, port: PortIndex) -> Option<HeapBuf> {
        self.line(port)?.sent.pop_front()
    }

    /// All frames that were sent at `port` and not yet taken, oldest first, as bytes.
    pub fn take_all(&self, port: PortIndex) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.take(port)).map(|buf| buf.head().to_vec()).collect()
    }

    /// From now on `port` takes `frames` more frames to send and then none; `usize::MAX`, as at the start, for no limit.
    pub fn set_tx_room(&self, port: PortIndex, frames: usize) {
        if let Some(mut line) = self.line(port) {
            line.tx_room = frames;
        }
    }

    /// Buffers that are free. What is missing is in a queue or in somebody's hands.
    pub fn available(&self) -> usize {
        lock(&self.pool).len()
    }
}

impl PacketIo for MemoryIo {
    type Buf = HeapBuf;

    fn rx(&mut self, port: PortIndex, burst: &mut Burst<HeapBuf>) -> usize {
        let Some(mut line) = self.line(port) else { return 0 };
        let n = burst.remaining_capacity().min(line.to_worker.len());
        burst.extend(line.to_worker.drain(..n));
        n
    }

    fn tx(&mut self, port: PortIndex, batch: &mut TxBatch<HeapBuf>) -> usize {
        let Some(mut line) = self.line(port) else { return 0 };
        let n = batch.len().min(line.tx_room);
        if line.tx_room != usize::MAX {
            line.tx_room -= n;
        }
        line.sent.extend(batch.drain(..n));
        n
    }

    fn alloc(&mut self) -> Option<HeapBuf> {
        self.fresh()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_grows_and_shrinks_at_both_ends() {
        let mut buf = HeapBuf::from_frame(&[1, 2, 3, 4]);
        assert!(buf.pull(1) && buf.push(3));
        assert_eq!((buf.frame_len(), &buf.head()[3..]), (6, &[2, 3, 4][..]));
        assert!(!buf.pull(7) && buf.frame_len() == 6);
        assert!(!buf.push(HEADROOM - 1) && buf.push(HEADROOM - 2));
        assert!(buf.resize(HEADROOM + CAPACITY) && !buf.resize(HEADROOM + CAPACITY + 1));
        assert!(buf.resize(0) && buf.head().is_empty());
    }

    #[test]
    fn frames_pass_in_order_and_buffers_come_back() {
        let mut io = MemoryIo::new(2, 40);
        let far = io.clone();
        for i in 0..40u8 {
            assert!(far.inject(0, &[i; 60]));
        }
        assert!(!far.inject(0, &[0; 60]), "the pool is empty");
        assert!(io.alloc().is_none());
        let (mut burst, mut batch) = (Burst::new(), TxBatch::new());
        assert_eq!((io.rx(0, &mut burst), io.rx(0, &mut burst)), (32, 0));
        batch.extend(burst.drain(..));
        assert_eq!((io.tx(1, &mut batch), batch.len()), (32, 0));
        let sent = far.take_all(1);
        assert_eq!(sent.iter().map(|f| f[0]).collect::<Vec<_>>(), (0..32).collect::<Vec<_>>());
        assert_eq!(far.available(), 32);
        assert_eq!(io.rx(0, &mut burst), 8);
        io.free(&mut burst);
        assert_eq!(far.available(), 40);
    }

    #[test]
    fn an_unsent_tail_stays_owned_and_in_order() {
        let mut io = MemoryIo::new(1, 8);
        let mut batch = TxBatch::new();
        for i in 0..5u8 {
            let mut buf = io.alloc().unwrap();
            assert!(buf.fill(&[i]));
            batch.push(buf);
        }
        io.set_tx_room(0, 2);
        assert_eq!((io.tx(0, &mut batch), io.tx(0, &mut batch)), (2, 0));
        assert_eq!(batch.iter().map(|b| b.head()[0]).collect::<Vec<_>>(), [2, 3, 4]);
        io.set_tx_room(0, usize::MAX);
        assert_eq!(io.tx(0, &mut batch), 3);
        assert_eq!(io.take_all(0), [[0], [1], [2], [3], [4]]);
    }

    #[test]
    fn an_unknown_port_or_a_long_frame_loses_no_buffer() {
        let mut io = MemoryIo::new(1, 2);
        assert!(!io.inject(1, &[0; 60]) && !io.inject(0, &[0; CAPACITY + 1]));
        assert_eq!(io.rx(1, &mut Burst::new()), 0);
        assert_eq!(io.available(), 2);
    }
}
