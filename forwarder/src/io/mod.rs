//! Where packets come from and go to.
//!
//! The engine knows devices only through [`PacketIo`] and packets only through [`PacketBuf`]. Two families implement
//! them: [`crate::dpdk`] (mbufs and queues) and [`memory`] (heap buffers), so that everything above runs in user-space tests.
//!
//! Ownership is the accounting: a buffer is owned by exactly one place - a burst, a TX batch, a pending queue - and goes
//! back to its pool when dropped.
#![forbid(unsafe_code)]

use std::time::Duration;

use arrayvec::ArrayVec;

pub mod memory;
pub mod pcap;

/// Most packets taken from a queue at once.
pub const BURST: usize = 32;

/// Most packets that wait for one output port: a burst from each of a few ports, and the tail the device did not take.
pub const TX_BATCH: usize = 256;

/// A received burst, in order of arrival.
pub type Burst<B> = ArrayVec<B, BURST>;

/// Packets for one output port, in order of departure. What the device did not take stays at the front.
pub type TxBatch<B> = ArrayVec<B, TX_BATCH>;

/// Index of a port in the configuration's order (not DPDK's port id). At most [`MAX_PORTS`] exist.
pub type PortIndex = u8;

/// Most ports one forwarder has: tags on a device make several of it.
pub const MAX_PORTS: usize = 64;

/// Most devices one forwarder owns.
pub const MAX_DEVICES: usize = 16;

/// How long an adaptive worker sleeps at a time where nothing wakes it.
pub const NAP: Duration = Duration::from_micros(20);

/// A frame, beginning with its Ethernet header, without FCS.
pub trait PacketBuf: Sized {
    /// The bytes of the first segment; all headers lie here.
    fn head(&self) -> &[u8];
    /// The same, to rewrite in place.
    fn head_mut(&mut self) -> &mut [u8];
    /// Copies bytes from `at` on, wherever they lie. False when the frame ends before `to` is full.
    #[must_use]
    fn read(&self, at: usize, to: &mut [u8]) -> bool {
        let from = at.checked_add(to.len()).and_then(|end| self.head().get(at..end));
        from.map(|from| to.copy_from_slice(from)).is_some()
    }
    /// Length of the whole frame in bytes, over all segments.
    fn frame_len(&self) -> usize;
    /// Drops `n` bytes from the front. False (and nothing done) when the first segment is shorter.
    #[must_use]
    fn pull(&mut self, n: usize) -> bool;
    /// Grows the front by `n` bytes of headroom, their content undefined. False when there is no room.
    #[must_use]
    fn push(&mut self, n: usize) -> bool;
    /// Sets the length of a single-segment frame, cutting its tail or growing into tailroom (content undefined).
    /// False when there is no room or the frame has several segments.
    #[must_use]
    fn resize(&mut self, n: usize) -> bool;
    /// Hints the processor to load the frame's first header bytes.
    fn prefetch(&self) {}
}

/// One worker's queue pair on every device, by ports: those of one device share its pair.
pub trait PacketIo {
    /// The frames it deals in.
    type Buf: PacketBuf;
    /// Appends up to `burst`'s free capacity of frames that the device of `port` received. Never waits. Asked for only one port
    /// of each device.
    fn rx(&mut self, port: PortIndex, burst: &mut Burst<Self::Buf>) -> usize;
    /// Sends from the front of `batch`, removing what the device took; the rest stays, in order. Returns how many it took.
    fn tx(&mut self, port: PortIndex, batch: &mut TxBatch<Self::Buf>) -> usize;
    /// A fresh, empty (length 0) frame for the forwarder's own packets; none when the pool is exhausted.
    fn alloc(&mut self) -> Option<Self::Buf>;
    /// Does what others asked of its queues. Called once a turn of the worker, between two bursts.
    fn attend(&mut self) {}
    /// Is the device of `port` out of use? Then it receives nothing, and takes nothing to send.
    fn is_failed(&self, _port: PortIndex) -> bool {
        false
    }
    /// Do all devices in use wake a worker that waits?
    fn wakes(&self) -> bool {
        false
    }
    /// Lets others use the core until a device has received something, at most so long; where devices do not wake workers, for
    /// [`NAP`].
    fn wait(&mut self, _at_most: Duration) {
        std::thread::sleep(NAP);
    }
    /// Gives dropped frames back in bulk; `burst` is empty afterwards.
    fn free(&mut self, burst: &mut Burst<Self::Buf>) {
        burst.clear();
    }
}
