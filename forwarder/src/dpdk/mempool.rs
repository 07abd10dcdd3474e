use std::ffi::CString;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::eal::Eal;
use super::error::{DpdkError, errno_text, last_errno};
use super::mbuf::{self, Mbuf};
use crate::pools::{HEADROOM, MBUF};

const _: () =
    assert!(MBUF == dpdk_sys::S2_SIZEOF_MBUF as usize && HEADROOM == dpdk_sys::S2_HEADROOM as usize);

/// A pool of equal mbufs.
///
/// It is freed when dropped, and pools that were made together when the last of them is, because a port may still have any of
/// their mbufs to send. With mbufs still out, a pool stays in memory, and EAL with it.
#[derive(Debug)]
pub struct Mempool {
    raw: NonNull<dpdk_sys::rte_mempool>,
    count: u32,
    data_room: u16,
    memory: Arc<Memory>,
}

/// Pools that were made together, each with its number of mbufs.
#[derive(Debug)]
struct Memory {
    pools: Vec<(NonNull<dpdk_sys::rte_mempool>, u32)>,
    eal: ManuallyDrop<Arc<Eal>>,
}

/// One of several pools that are made together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// Its name, known to all of DPDK.
    pub name: String,
    /// Mbufs.
    pub count: u32,
    /// NUMA node where they lie; none is any, as is every one without hugepages.
    pub numa_node: Option<i32>,
}

// SAFETY: a mempool is made for many threads: its common ring is multi-producer and multi-consumer, and a cache is used
// only by the registered thread it belongs to.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}
// SAFETY: as above; it is only counted and freed by way of these pointers.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Mempool {
    /// Makes a pool of `count` mbufs, each with room for `data_room` bytes (see [`crate::pools::data_room_for`]) behind its headroom, on
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
        let settings = PoolSettings { name: name.to_owned(), count, numa_node };
        let mut pools = Self::together(eal, &[settings], cache, data_room)?;
        Ok(pools.swap_remove(0))
    }

    /// Makes several pools, whose mbufs the same ports may send; in the order of the settings.
    ///
    /// # Errors
    /// A name is taken, or the memory cannot be had.
    pub fn together(
        eal: &Arc<Eal>,
        settings: &[PoolSettings],
        cache: u32,
        data_room: u16,
    ) -> Result<Vec<Arc<Self>>, DpdkError> {
        let mut memory = Memory { pools: Vec::new(), eal: ManuallyDrop::new(Arc::clone(eal)) };
        for pool in settings {
            memory.pools.push((create(eal, pool, cache, data_room)?, pool.count));
        }
        let memory = Arc::new(memory);
        let pool = |(raw, count): &(NonNull<dpdk_sys::rte_mempool>, u32)| {
            Arc::new(Self { raw: *raw, count: *count, data_room, memory: Arc::clone(&memory) })
        };
        Ok(memory.pools.iter().map(pool).collect())
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
        &self.memory.eal
    }
}

/// A pool that nobody frees yet.
fn create(
    eal: &Arc<Eal>,
    settings: &PoolSettings,
    cache: u32,
    data_room: u16,
) -> Result<NonNull<dpdk_sys::rte_mempool>, DpdkError> {
    let count = settings.count;
    let error = |problem: String, mend: &str| DpdkError::Pool {
        pool: settings.name.clone(),
        problem,
        mend: mend.to_owned(),
    };
    let room = u16::try_from(dpdk_sys::S2_HEADROOM).ok().and_then(|headroom| headroom.checked_add(data_room));
    let (Ok(c_name), Some(room)) = (CString::new(settings.name.as_str()), room) else {
        return Err(error("its name or its data room is not valid".to_owned(), "choose a shorter one"));
    };
    // DPDK wants a cache of at most two thirds of the pool.
    let cache = cache.min(dpdk_sys::S2_MEMPOOL_CACHE_MAX as u32).min(count / 3 * 2);
    let node = settings.numa_node.filter(|_| eal.huge()).unwrap_or(dpdk_sys::S2_SOCKET_ANY);
    // Hardware needs no mbuf to cross a page; net_af_xdp needs them without gaps.
    let packed = !eal.hardware();
    // SAFETY: EAL runs, and the name is a C string that is copied.
    let raw = unsafe { dpdk_sys::s2_pool_create(c_name.as_ptr(), count, cache, room, node, packed) };
    NonNull::new(raw).ok_or_else(|| {
        let errno = last_errno();
        let place = settings.numa_node.map_or_else(String::new, |node| format!(" of NUMA node {node}"));
        match errno {
            libc::ENOMEM => error(
                format!("{count} buffers of {room} bytes do not fit into the memory there is{place}"),
                "give EAL more memory (hugepages, or -m with huge = false), or use fewer buffers",
            ),
            libc::EEXIST => error("another pool has this name".to_owned(), "choose another name"),
            _ => error(format!("`{}`", errno_text(errno)), "use another name, count or cache size"),
        }
    })
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut all_home = true;
        for (raw, count) in &self.pools {
            // SAFETY: the pool was made and not freed.
            if unsafe { dpdk_sys::rte_mempool_avail_count(raw.as_ptr()) } != *count {
                all_home = false;
                continue;
            }
            // SAFETY: no mbuf is out, and ports and rings that would take new ones hold the pool alive.
            unsafe { dpdk_sys::rte_mempool_free(raw.as_ptr()) };
        }
        if all_home {
            // SAFETY: the handle is dropped once, after the pools.
            unsafe { ManuallyDrop::drop(&mut self.eal) };
        }
    }
}
