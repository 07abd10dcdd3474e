//! A moment that several workers move forward.
#![forbid(unsafe_code)]

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A moment in units of its user's choice, on cache lines of its own and on a pair of them, which processors fetch together.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Meter(AtomicU64);

impl Meter {
    /// Moves it to where `next` says, from where it stands; not at all when that is nowhere. When another worker moves it
    /// meanwhile, `next` is asked again.
    #[inline]
    pub fn advance(&self, next: impl FnMut(u64) -> Option<u64>) {
        // Nowhere is an answer, too: the caller's closure knows it.
        _ = self.0.fetch_update(Relaxed, Relaxed, next);
    }
}
