//! A WAN allocates nothing and frees nothing once it carries: every call of the allocator on its thread is counted.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bench::wan::direction::Direction;
use bench::wan::element::{Element, Lane};
use bench::wan::shape::Asked;
use forwarder::config::Idle;
use forwarder::io::memory::MemoryIo;
use forwarder::worker::Clock;

struct Counting;

thread_local! {
    /// Calls on this thread since it was armed; none while it is not.
    static CALLS: Cell<Option<u64>> = const { Cell::new(None) };
}

fn count() {
    CALLS.with(|calls| calls.set(calls.get().map(|n| n + 1)));
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local cell without destructor.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// A clock that is moved by hand: a tick is a nanosecond.
struct Hand;

impl Clock for Hand {
    fn ticks(&self) -> u64 {
        NOW.get()
    }
    fn ticks_per_ms(&self) -> u64 {
        1_000_000
    }
}

#[test]
fn carrying_allocates_nothing() {
    let asked: Asked = toml::from_str(
        "delay = '1ms'\njitter = '500us'\njitter_reorders = true\ndistribution = 'pareto'\nrate = '1G'\n\
         queue = '50 packets'\nloss = '5%'\nburst_loss = '1% 25%'\nreorder = '5%'\nreorder_back = '1ms'\n\
         duplicate = '5%'\ncorrupt = '5%'\nmtu = 1000\ndown = ['1ms for 1ms every 5ms']\npackets = 150",
    )
    .unwrap();
    let far = MemoryIo::new(2, 1000);
    let direction = || Direction::new(asked.shape(None).unwrap(), 1, 0, 1000);
    let lanes = vec![Lane::new(direction(), 0, 1), Lane::new(direction(), 1, 0)];
    let mut element = Element::new(lanes, far.clone(), Hand, Idle::Poll);
    let mut calls = 0;
    for turn in 0..20_000u64 {
        for port in [0, 1] {
            for n in 0..3 {
                assert!(far.inject(port, &[7; 1100][..60 + (turn as usize * 37 + n * 500) % 1000]));
            }
        }
        NOW.set(turn * 5_000);
        CALLS.set(Some(0));
        element.turn();
        calls += CALLS.take().unwrap();
        for port in [0, 1] {
            while far.take(port).is_some() {}
        }
    }
    assert_eq!(calls, 0);
    // Everything that there is was met.
    for lane in element.lanes() {
        let counts = lane.direction.counts();
        assert!(counts.dropped.iter().all(|n| *n > 0), "{counts:?}");
        assert!(counts.corrupted > 0 && counts.reordered > 0 && counts.duplicated > 0, "{counts:?}");
    }
}
