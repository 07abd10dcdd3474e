use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arrayvec::ArrayVec;

use super::device::{Attached, Fault};
use super::error::{errno_text, last_errno};
use super::mbuf::{self, Mbuf};
use super::mempool::Mempool;
use super::port::PortSettings;

/// A queue of mbufs between one sender and one receiver. What is in it when it is dropped goes back to its pool.
#[derive(Debug)]
pub(super) struct Ring {
    raw: NonNull<dpdk_sys::rte_ring>,
    _pool: Arc<Mempool>,
}

// SAFETY: the ring synchronises its one sender with its one receiver; that there is one of each is by `port`, which gives
// one end to a Queue and the other to a RingPair, neither of which can be shared or cloned.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    fn new(size: u32, pool: &Arc<Mempool>) -> Result<Arc<Self>, Fault> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name =
            CString::new(format!("s2ring{}", COUNTER.fetch_add(1, Ordering::Relaxed))).unwrap_or_default();
        // SAFETY: EAL runs (the pool holds it); the name is copied.
        let raw = unsafe {
            let flags = dpdk_sys::S2_RING_SP_SC as u32;
            dpdk_sys::rte_ring_create(name.as_ptr(), size, dpdk_sys::S2_SOCKET_ANY, flags)
        };
        NonNull::new(raw).map(|raw| Arc::new(Self { raw, _pool: Arc::clone(pool) })).ok_or_else(|| {
            Fault::new(
                format!("a ring of {size} frames cannot be made ({})", errno_text(last_errno())),
                "use a power of two, or give EAL more memory",
            )
        })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut rest = ArrayVec::<Mbuf, 32>::new();
        // SAFETY: both ends are gone: the ring is ours alone.
        while unsafe { dequeue(self.raw, &mut rest) } != 0 {
            rest.clear();
        }
        // SAFETY: as above.
        unsafe { dpdk_sys::rte_ring_free(self.raw.as_ptr()) };
    }
}

/// # Safety
/// The caller is the ring's only receiver.
unsafe fn dequeue<const N: usize>(
    ring: NonNull<dpdk_sys::rte_ring>,
    frames: &mut ArrayVec<Mbuf, N>,
) -> usize {
    // SAFETY: the ring holds owned mbufs, which go over to `frames`.
    unsafe {
        mbuf::append(frames, |slots, room| {
            dpdk_sys::s2_ring_dequeue(ring.as_ptr(), slots, u32::try_from(room).unwrap_or(u32::MAX)) as usize
        })
    }
}

/// The far end of one queue of a [`Port::from_rings`](super::Port::from_rings).
#[derive(Debug)]
pub struct RingPair {
    to_port: Arc<Ring>,
    from_port: Arc<Ring>,
}

impl RingPair {
    /// Puts frames from the front of `batch` where the queue receives them; the rest stays, in order. Returns how many.
    #[inline]
    pub fn send<const N: usize>(&mut self, batch: &mut ArrayVec<Mbuf, N>) -> usize {
        // SAFETY: we are the ring's only sender, and it owns what it takes.
        unsafe {
            mbuf::take_front(batch, |first, n| {
                let n = u32::try_from(n).unwrap_or(u32::MAX);
                dpdk_sys::s2_ring_enqueue(self.to_port.raw.as_ptr(), first, n) as usize
            })
        }
    }

    /// Appends what the queue has sent, up to the free capacity of `burst`. Returns how many.
    #[inline]
    pub fn recv<const N: usize>(&mut self, burst: &mut ArrayVec<Mbuf, N>) -> usize {
        // SAFETY: we are the ring's only receiver.
        unsafe { dequeue(self.from_port.raw, burst) }
    }
}

/// A device over rings, the rings it must keep alive, and their far ends.
type RingDevice = (Attached, Vec<Arc<Ring>>, Vec<RingPair>);

/// Makes rings, and a net_ring device over their near ends.
pub(super) fn port(settings: &PortSettings, size: u32, pool: &Arc<Mempool>) -> Result<RingDevice, Fault> {
    let mut far_ends = Vec::new();
    for _ in 0..settings.queues {
        far_ends.push(RingPair { to_port: Ring::new(size, pool)?, from_port: Ring::new(size, pool)? });
    }
    let rx: Vec<_> = far_ends.iter().map(|pair| pair.to_port.raw.as_ptr()).collect();
    let tx: Vec<_> = far_ends.iter().map(|pair| pair.from_port.raw.as_ptr()).collect();
    let short = CString::new(format!("s2p{}", settings.index)).unwrap_or_default();
    let queues = u32::from(settings.queues);
    // SAFETY: EAL runs; the driver copies the name and the vectors, and the port keeps the rings alive.
    let id =
        unsafe { dpdk_sys::rte_eth_from_rings(short.as_ptr(), rx.as_ptr(), queues, tx.as_ptr(), queues, 0) };
    let Ok(id) = u16::try_from(id) else {
        return Err(Fault::new(
            format!("its rings cannot be made a port ({})", errno_text(last_errno())),
            "give the port an index of its own and at most 16 queues",
        ));
    };
    // The driver's own naming, which detaching needs.
    let name = CString::new(format!("net_ring_s2p{}", settings.index)).unwrap_or_default();
    let device = Attached::from_rings(pool.eal(), name, id);
    let rings =
        far_ends.iter().flat_map(|pair| [Arc::clone(&pair.to_port), Arc::clone(&pair.from_port)]).collect();
    Ok((device, rings, far_ends))
}
