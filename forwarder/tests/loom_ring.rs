//! Explores the interleavings of a hand-over: a sender and a receiver of a ring. Run by `make test` with `--cfg loom`.
#![cfg(loom)]
#![allow(missing_docs)]

use forwarder::sync::ring;
use loom::sync::Arc;

/// More values than places, so that places are used again while the other side is at work; loom tells when a place is
/// written and read at once, and when a value leaks.
#[test]
fn values_arrive_once_and_in_order() {
    loom::model(|| {
        let (mut to, mut from) = ring(2);
        let sender = loom::thread::spawn(move || {
            let mut sent = 0;
            for _ in 0..2 {
                while sent < 3 && to.push(Arc::new(sent)).is_ok() {
                    sent += 1;
                }
                to.publish();
                loom::thread::yield_now();
            }
            sent
        });
        let mut got = 0;
        for _ in 0..2 {
            let waited = from.waiting();
            let mut some = false;
            while let Some(value) = from.pop() {
                assert_eq!(*value, got);
                got += 1;
                some = true;
            }
            assert!(some || !waited, "what waits can be taken");
            from.release();
            loom::thread::yield_now();
        }
        let sent = sender.join().unwrap();
        while let Some(value) = from.pop() {
            assert_eq!(*value, got);
            got += 1;
        }
        assert_eq!(got, sent, "nothing is lost");
    });
}

/// Whichever side goes first, what is in between is dropped, and once.
#[test]
fn what_is_left_is_dropped_with_the_last_side() {
    loom::model(|| {
        let (mut to, mut from) = ring(2);
        let value = Arc::new(());
        let copy = Arc::clone(&value);
        let sender = loom::thread::spawn(move || {
            assert!(to.push(Arc::clone(&copy)).is_ok());
            to.publish();
            assert!(to.push(copy).is_ok());
        });
        drop(from.pop());
        drop(from);
        sender.join().unwrap();
        assert_eq!(Arc::strong_count(&value), 1);
    });
}
