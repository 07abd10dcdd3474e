//! Publication of immutable values to workers that never wait.
//!
//! The service builds a whole value, swaps the pointer, then bumps the epoch. A worker compares the epoch at a burst
//! boundary; when it moved, it takes the pointer and acknowledges the epoch. A value that was replaced at epoch `e` is
//! freed, by the service, once every reader has acknowledged `e` or gone.
//!
//! Why that is enough: the pointer is swapped before the epoch is bumped, so a reader that saw epoch `e` loads the value
//! of `e` or a later one; it can then no longer hold, nor ever load again, a value replaced at `e` or before.
//! `tests/loom_publish.rs` explores the interleavings.

#[cfg(loom)]
use loom::sync::{
    Arc, Mutex,
    atomic::{AtomicPtr, AtomicU64, Ordering},
};
#[cfg(not(loom))]
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicPtr, AtomicU64, Ordering},
};

/// An acknowledged epoch on a cache line of its own: written by its reader, read by the publisher.
#[repr(align(64))]
struct Ack(AtomicU64);

struct Shared<T> {
    /// Written by the publisher, read by readers.
    current: AtomicPtr<T>,
    /// Written by the publisher after `current`, read by readers before it.
    epoch: AtomicU64,
    /// One a reader; `u64::MAX` once it is gone.
    acks: Box<[Ack]>,
    /// Values replaced, with the epoch that replaced them. Locked by the publisher and by `drop`, never by a reader.
    retired: Mutex<Vec<(u64, Retired<T>)>>,
}

/// A value no longer current; readers may still look at it.
struct Retired<T>(*mut T);

// SAFETY: the pointer is the sole owner of a `T` made by `Box::into_raw`; it is freed on whichever thread drops it.
unsafe impl<T: Send> Send for Retired<T> {}

impl<T> Drop for Retired<T> {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw` in `Publisher`, owned by this value alone, and dropped only when no reader
        // can hold it (see `reclaim` and `Shared::drop`).
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // The last of publisher and readers is gone, so nobody looks at `current` any more.
        drop(Retired(self.current.load(Ordering::Acquire)));
    }
}

/// The writing side; one exists.
pub struct Publisher<T> {
    shared: Arc<Shared<T>>,
    epoch: u64,
}

/// A worker's side.
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    index: usize,
    seen: u64,
    current: *const T,
}

// SAFETY: a reader is moved to its worker once; it hands out `&T` on that thread, and frees a `T` at most when it is the
// last owner. Both need `T: Send + Sync`.
unsafe impl<T: Send + Sync> Send for Reader<T> {}

impl<T: Send + Sync> Publisher<T> {
    /// Publishes `first` as epoch 1 to `readers` readers.
    pub fn new(first: T, readers: usize) -> (Self, Vec<Reader<T>>) {
        let current = Box::into_raw(Box::new(first));
        let shared = Arc::new(Shared {
            current: AtomicPtr::new(current),
            epoch: AtomicU64::new(1),
            acks: (0..readers).map(|_| Ack(AtomicU64::new(1))).collect(),
            retired: Mutex::new(Vec::new()),
        });
        let readers = (0..readers)
            .map(|index| Reader {
                shared: Arc::clone(&shared),
                index,
                seen: 1,
                current: current.cast_const(),
            })
            .collect();
        (Self { shared, epoch: 1 }, readers)
    }

    /// Replaces the value; returns the new epoch. Frees what no reader can hold any more.
    pub fn publish(&mut self, value: T) -> u64 {
        let old = self.shared.current.swap(Box::into_raw(Box::new(value)), Ordering::AcqRel);
        self.epoch += 1;
        self.shared.epoch.store(self.epoch, Ordering::Release);
        self.retired().push((self.epoch, Retired(old)));
        self.reclaim();
        self.epoch
    }

    /// Epoch of the current value.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The lowest epoch that every reader acknowledged; `u64::MAX` when all are gone.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acks.iter().map(|a| a.0.load(Ordering::Acquire)).min().unwrap_or(u64::MAX)
    }

    /// Frees values that were replaced at or before the acknowledged epoch. Returns how many wait still.
    pub fn reclaim(&mut self) -> usize {
        let acknowledged = self.acknowledged();
        let mut retired = self.retired();
        retired.retain(|(replaced_at, _)| *replaced_at > acknowledged);
        retired.len()
    }

    #[cfg(not(loom))]
    fn retired(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Retired<T>)>> {
        self.shared.retired.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    #[cfg(loom)]
    #[allow(clippy::unwrap_used)]
    fn retired(&self) -> loom::sync::MutexGuard<'_, Vec<(u64, Retired<T>)>> {
        self.shared.retired.lock().unwrap()
    }
}

impl<T> Reader<T> {
    /// Takes the newest value when there is one. Two loads when there is none.
    #[inline]
    pub fn refresh(&mut self) -> bool {
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        if epoch == self.seen {
            return false;
        }
        self.current = self.shared.current.load(Ordering::Acquire).cast_const();
        self.seen = epoch;
        self.shared.acks[self.index].0.store(epoch, Ordering::Release);
        true
    }

    /// Epoch last taken; the value may be newer.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.seen
    }
}

impl<T> std::ops::Deref for Reader<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: `current` was published at or after the epoch this reader acknowledged, so the publisher does not free
        // it before the next `refresh`, which needs `&mut self` and so ends this borrow.
        unsafe { &*self.current }
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        self.shared.acks[self.index].0.store(u64::MAX, Ordering::Release);
    }
}
