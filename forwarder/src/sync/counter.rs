//! Counters with one writer, a shared limit, and a stop flag.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// A count that one worker writes and anyone reads. Adding is a plain load, add and store: no locked instruction.
/// With two writers counts would be lost, so every counter lives in a block that belongs to one worker.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. For the owning worker only.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Sets a gauge. For the owning worker only.
    #[inline(always)]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The value, at most one burst old.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number of things in use, shared by all workers and bounded. Touched when a connection comes or goes, never by a packet
/// of one that exists.
#[derive(Debug, Default)]
pub struct Limit(AtomicU32);

impl Limit {
    /// Takes one unless `most` are in use.
    pub fn take(&self, most: u32) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |n| (n < most).then_some(n + 1)).is_ok()
    }

    /// Gives one back.
    pub fn give(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// How many are in use.
    pub fn in_use(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

/// Asks loops to end. Cloned to every thread that has one.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Asks.
    pub fn stop(&self) {
        self.0.store(true, Relaxed);
    }

    /// Has it been asked?
    #[inline]
    pub fn stopped(&self) -> bool {
        self.0.load(Relaxed)
    }
}
