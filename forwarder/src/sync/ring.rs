//! A bounded queue between one sender and one receiver, who never wait and publish in batches.
//!
//! Both sides count up for ever; a count's low bits are its place. The sender writes places from the receiver's published
//! count plus capacity downwards, then publishes its own count; the receiver reads places below the sender's published count,
//! then publishes its own. So a place is never written and read at once, and the release store of a count hands over the
//! places before it. Each side reads the other's count only when what it knew of it is used up, so that the line of a count
//! moves between cores once a batch. `tests/loom_ring.rs` explores the interleavings.

use std::mem::MaybeUninit;

#[cfg(loom)]
use loom::{
    cell::UnsafeCell,
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
};
#[cfg(not(loom))]
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

#[cfg(not(loom))]
struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// A count on a cache line of its own.
#[repr(align(64))]
struct Count(AtomicUsize);

struct Shared<T> {
    places: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// Written by the sender, read by the receiver.
    sent: Count,
    /// Written by the receiver, read by the sender.
    received: Count,
}

// SAFETY: values move from the sender's thread to the receiver's, which needs `T: Send`; that both never touch a place at
// once is by the counts (see above) and by there being one sender and one receiver, whose methods take `&mut self`.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Shared<T> {
    #[inline(always)]
    fn place(&self, count: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.places[count & (self.places.len() - 1)]
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let (mut at, end) = (self.received.0.load(Ordering::Acquire), self.sent.0.load(Ordering::Acquire));
        while at != end {
            // SAFETY: sender and receiver are gone and have published their counts; places between them hold values.
            self.place(at).with_mut(|p| unsafe { (*p).assume_init_drop() });
            at = at.wrapping_add(1);
        }
    }
}

/// The sending side.
pub struct RingSender<T> {
    shared: Arc<Shared<T>>,
    /// Places written.
    count: usize,
    /// The receiver's count as last read.
    received: usize,
}

/// The receiving side.
pub struct RingReceiver<T> {
    shared: Arc<Shared<T>>,
    /// Places read.
    count: usize,
    /// The sender's count as last read.
    sent: usize,
}

/// A queue of at least `capacity` values.
#[must_use]
pub fn ring<T>(capacity: usize) -> (RingSender<T>, RingReceiver<T>) {
    let places = (0..capacity.next_power_of_two()).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
    let count = || Count(AtomicUsize::new(0));
    let shared = Arc::new(Shared { places, sent: count(), received: count() });
    (
        RingSender { shared: Arc::clone(&shared), count: 0, received: 0 },
        RingReceiver { shared, count: 0, sent: 0 },
    )
}

impl<T> RingSender<T> {
    /// Puts a value behind the others, or gives it back when there is no room. The receiver sees it after [`Self::publish`].
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), T> {
        let capacity = self.shared.places.len();
        if self.count.wrapping_sub(self.received) == capacity {
            self.received = self.shared.received.0.load(Ordering::Acquire);
            if self.count.wrapping_sub(self.received) == capacity {
                return Err(value);
            }
        }
        // SAFETY: the receiver has left this place (its count was acquired) and comes back to it only after `publish`.
        self.shared.place(self.count).with_mut(|p| unsafe { (*p).write(value) });
        self.count = self.count.wrapping_add(1);
        Ok(())
    }

    /// Shows the receiver what was pushed.
    #[inline]
    pub fn publish(&mut self) {
        self.shared.sent.0.store(self.count, Ordering::Release);
    }
}

impl<T> Drop for RingSender<T> {
    fn drop(&mut self) {
        self.publish();
    }
}

impl<T> RingReceiver<T> {
    /// Is something there? One load.
    #[inline]
    pub fn waiting(&self) -> bool {
        self.count != self.shared.sent.0.load(Ordering::Relaxed)
    }

    /// The first value, of those published when this last found none. Its place is free after [`Self::release`].
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.count == self.sent {
            self.sent = self.shared.sent.0.load(Ordering::Acquire);
            if self.count == self.sent {
                return None;
            }
        }
        // SAFETY: the sender has written this place (its count was acquired) and comes back to it only after `release`.
        let value = self.shared.place(self.count).with_mut(|p| unsafe { (*p).assume_init_read() });
        self.count = self.count.wrapping_add(1);
        Some(value)
    }

    /// Gives the sender back the places of what was popped.
    #[inline]
    pub fn release(&mut self) {
        self.shared.received.0.store(self.count, Ordering::Release);
    }
}

impl<T> Drop for RingReceiver<T> {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn values_pass_in_order_and_the_rest_is_dropped() {
        let (mut to, mut from) = ring(5);
        let value = Arc::new(());
        for round in 0..100usize {
            for i in 0..8 {
                assert!(to.push((round + i, Arc::clone(&value))).is_ok(), "eight places of five wanted");
            }
            assert!(to.push((0, Arc::clone(&value))).is_err(), "full");
            assert!(!from.waiting() && from.pop().is_none(), "not published yet");
            to.publish();
            assert!(from.waiting());
            for i in 0..8 {
                assert_eq!(from.pop().map(|v| v.0), Some(round + i));
            }
            assert!(to.push((0, Arc::clone(&value))).is_err(), "not released yet");
            from.release();
        }
        for _ in 0..3 {
            assert!(to.push((1, Arc::clone(&value))).is_ok());
        }
        to.publish();
        assert_eq!(from.pop().map(|v| v.0), Some(1));
        assert!(to.push((1, Arc::clone(&value))).is_ok());
        drop(from);
        drop(to);
        assert_eq!(Arc::strong_count(&value), 1, "each value was dropped once");
    }

    #[test]
    fn two_threads_lose_nothing() {
        const N: u64 = 300_000;
        let (mut to, mut from) = ring::<u64>(64);
        let sending = std::thread::spawn(move || {
            let mut next = 0;
            while next < N {
                while next < N && to.push(next).is_ok() {
                    next += 1;
                }
                to.publish();
                std::thread::yield_now();
            }
        });
        let mut expected = 0;
        while expected < N {
            while let Some(n) = from.pop() {
                assert_eq!(n, expected);
                expected += 1;
            }
            from.release();
            std::thread::yield_now();
        }
        sending.join().unwrap();
        assert!(from.pop().is_none());
    }
}
