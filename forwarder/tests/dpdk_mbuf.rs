//! An mbuf behaves as its heap twin does. EAL starts once a process: run with `cargo nextest`.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod dpdk_common;

use dpdk_common::{eal, pool};
use forwarder::io::PacketBuf;
use forwarder::io::memory::{CAPACITY, HeapBuf};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

#[derive(Debug, Clone)]
enum Op {
    Pull(usize),
    Push(usize),
    Resize(usize),
    Write(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let length = prop_oneof![0..200usize, 1500..2400usize, Just(65_535), Just(65_536), Just(usize::MAX)];
    prop_oneof![
        length.clone().prop_map(Op::Pull),
        length.clone().prop_map(Op::Push),
        length.prop_map(Op::Resize),
        any::<u8>().prop_map(Op::Write),
    ]
}

#[test]
fn every_operation_agrees_with_the_heap_twin() {
    let eal = eal();
    let pool = pool(&eal, 63);
    assert_eq!(usize::from(pool.data_room()), CAPACITY, "the twins differ in size");
    let strategy = prop::collection::vec(op(), 1..40);
    TestRunner::deterministic()
        .run(&strategy, |ops| {
            let mut mbuf = pool.alloc().expect("an mbuf leaked");
            let mut heap = HeapBuf::new(CAPACITY);
            for op in ops {
                let grew = heap.frame_len();
                let (a, b) = match op {
                    Op::Pull(n) => (mbuf.pull(n), heap.pull(n)),
                    Op::Push(n) => (mbuf.push(n), heap.push(n)),
                    Op::Resize(n) => (mbuf.resize(n), heap.resize(n)),
                    Op::Write(byte) => {
                        mbuf.head_mut().fill(byte);
                        heap.head_mut().fill(byte);
                        (true, true)
                    }
                };
                prop_assert_eq!(a, b);
                prop_assert_eq!(mbuf.frame_len(), heap.frame_len());
                prop_assert_eq!(mbuf.head().len(), heap.head().len());
                if heap.frame_len() > grew {
                    // Bytes grown into are undefined: make them alike.
                    mbuf.head_mut().fill(0x5a);
                    heap.head_mut().fill(0x5a);
                }
                prop_assert_eq!(mbuf.head(), heap.head());
                mbuf.prefetch();
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(pool.available(), pool.count());
}
