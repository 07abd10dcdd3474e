use std::ffi::CString;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::device::ring_frame;
use super::eal::Eal;
use super::error::{DpdkError, errno_text, last_errno};
use super::mbuf::{self, Mbuf};

/// A pool of equal mbufs.
///
/// It is freed when dropped, unless mbufs are still out: then it stays in memory, and EAL with it.
#[derive(Debug)]
pub struct Mempool {
    raw: NonNull<dpdk_sys::rte_mempool>,
    count: u32,
    data_room: u16,
    eal: ManuallyDrop<Arc<Eal>>,
}

// SAFETY: a mempool is made for many threads: its common ring is multi-producer and multi-consumer, and a cache is used
// only by the registered thread it belongs to.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

/// Bytes an mbuf must hold to receive any frame of this MTU (bytes, layer 3) in one segment, on every kind of device.
#[must_use]
pub fn data_room_for(mtu: u16) -> u16 {
    ring_frame(mtu)
}

impl Mempool {
    /// MiB of memory that EAL needs for a pool of this size and for the devices beside it.
    ///
    /// Without hugepages an mbuf of up to 4096 bytes never crosses a page, and so may take up a whole one.
    #[must_use]
    pub fn memory_mb(count: u32, data_room: u16, huge: bool) -> usize {
        const PAGE: usize = 4096;
        /// Room for queues and the devices' own structures.
        const DEVICES: usize = 16 << 20;
        /// The pool's header and trailer of an object, its alignment, and its slot in the pool's ring.
        const BESIDES: usize = 256;
        let mbuf = dpdk_sys::S2_SIZEOF_MBUF as usize
            + dpdk_sys::S2_HEADROOM as usize
            + usize::from(data_room)
            + BESIDES;
        let each = if !huge && mbuf <= PAGE { PAGE / (PAGE / mbuf) + 16 } else { mbuf };
        (count as usize * each + DEVICES).div_ceil(1 << 20)
    }

    /// Makes a pool of `count` mbufs, each with room for `data_room` bytes (see [`data_room_for`]) behind its headroom, on
    /// NUMA node `numa_node` or on any. A registered thread keeps up to `cache` mbufs (at most 512) for itself.
    ///
    /// # Errors
    /// The name is taken, or the memory cannot be had.
    pub fn new(
        eal: &Arc<Eal>,
        name: &str,
        count: u32,
        cache: u32,
        data_room: u16,
        numa_node: Option<i32>,
    ) -> Result<Arc<Self>, DpdkError> {
        let error = |problem: String, mend: &str| DpdkError::Pool {
            pool: name.to_owned(),
            problem,
            mend: mend.to_owned(),
        };
        let room =
            u16::try_from(dpdk_sys::S2_HEADROOM).ok().and_then(|headroom| headroom.checked_add(data_room));
        let (Ok(c_name), Some(room)) = (CString::new(name), room) else {
            return Err(error("its name or its data room is not valid".to_owned(), "choose a shorter one"));
        };
        // DPDK wants a cache of at most two thirds of the pool.
        let cache = cache.min(dpdk_sys::S2_MEMPOOL_CACHE_MAX as u32).min(count / 3 * 2);
        let node = numa_node.unwrap_or(dpdk_sys::S2_SOCKET_ANY);
        // Hardware needs no mbuf to cross a page; net_af_xdp needs them without gaps.
        let packed = !eal.hardware();
        // SAFETY: EAL runs, and the name is a C string that is copied.
        let raw = unsafe { dpdk_sys::s2_pool_create(c_name.as_ptr(), count, cache, room, node, packed) };
        let Some(raw) = NonNull::new(raw) else {
            let errno = last_errno();
            return Err(match errno {
                libc::ENOMEM => error(
                    format!("{count} buffers of {room} bytes do not fit into the memory there is"),
                    "give EAL more memory (hugepages, or -m with huge = false), or use fewer buffers",
                ),
                libc::EEXIST => error("another pool has this name".to_owned(), "choose another name"),
                _ => error(format!("`{}`", errno_text(errno)), "use another name, count or cache size"),
            });
        };
        Ok(Arc::new(Self { raw, count, data_room, eal: ManuallyDrop::new(Arc::clone(eal)) }))
    }

    /// Mbufs in the pool and in the threads' caches. Counts through all caches: not for workers.
    #[must_use]
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives as long as self.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.raw.as_ptr()) }
    }

    /// Mbufs the pool was made with.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of data an mbuf holds behind its headroom.
    #[must_use]
    pub fn data_room(&self) -> u16 {
        self.data_room
    }

    /// One empty frame; none when the pool is exhausted.
    #[must_use]
    pub fn alloc(&self) -> Option<Mbuf> {
        let mut one = ArrayVec::<Mbuf, 1>::new();
        self.alloc_bulk(&mut one);
        one.pop()
    }

    /// Fills `frames` up with empty frames. Adds none when the pool has fewer than are wanted; returns how many it added.
    pub fn alloc_bulk<const N: usize>(&self, frames: &mut ArrayVec<Mbuf, N>) -> usize {
        // SAFETY: s2_alloc_bulk writes `room` owned mbufs or none.
        unsafe {
            mbuf::append(frames, |slots, room| {
                let count = u32::try_from(room).unwrap_or(0);
                if dpdk_sys::s2_alloc_bulk(self.raw.as_ptr(), slots, count) == 0 { count as usize } else { 0 }
            })
        }
    }

    pub(super) fn raw(&self) -> *mut dpdk_sys::rte_mempool {
        self.raw.as_ptr()
    }

    pub(super) fn eal(&self) -> &Arc<Eal> {
        &self.eal
    }
}

impl Drop for Mempool {
    fn drop(&mut self) {
        if self.available() != self.count {
            return;
        }
        // SAFETY: no mbuf is out, and ports and rings that would take new ones hold the pool alive. The handle of EAL is
        // dropped once, after the pool.
        unsafe {
            dpdk_sys::rte_mempool_free(self.raw.as_ptr());
            ManuallyDrop::drop(&mut self.eal);
        }
    }
}
