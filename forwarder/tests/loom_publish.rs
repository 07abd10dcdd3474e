//! Explores the interleavings of snapshot publication. Run by `make test` with `--cfg loom`.
#![cfg(loom)]
#![allow(missing_docs)]

use forwarder::sync::Publisher;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};

/// A value that tells when it is freed; the flag outlives it, so that a reader can ask without touching freed memory.
struct Watched {
    value: u64,
    freed: &'static [std::sync::atomic::AtomicBool; 4],
    alive: Arc<AtomicUsize>,
}

impl Watched {
    fn new(value: u64, freed: &'static [std::sync::atomic::AtomicBool; 4], alive: &Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, Ordering::Relaxed);
        freed[value as usize].store(false, std::sync::atomic::Ordering::SeqCst);
        Self { value, freed, alive: Arc::clone(alive) }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.freed[self.value as usize].store(true, std::sync::atomic::Ordering::SeqCst);
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn a_reader_never_sees_a_freed_value_nor_an_older_one() {
    static FREED: [std::sync::atomic::AtomicBool; 4] =
        [const { std::sync::atomic::AtomicBool::new(false) }; 4];
    loom::model(|| {
        let alive = Arc::new(AtomicUsize::new(0));
        let (mut publisher, mut readers) = Publisher::new(Watched::new(1, &FREED, &alive), 1);
        let mut reader = readers.pop().unwrap();
        let worker = loom::thread::spawn(move || {
            let mut last = 0;
            for _ in 0..2 {
                reader.refresh();
                let value = reader.value;
                // A switch of threads, at which a wrong publisher would free what is still being read.
                loom::thread::yield_now();
                assert!(
                    !FREED[value as usize].load(std::sync::atomic::Ordering::SeqCst),
                    "freed under its reader"
                );
                assert!(value >= last, "went back from {last} to {value}");
                assert!(value >= reader.epoch(), "older than the epoch it acknowledged");
                last = value;
            }
        });
        publisher.publish(Watched::new(2, &FREED, &alive));
        publisher.publish(Watched::new(3, &FREED, &alive));
        worker.join().unwrap();
        assert_eq!(publisher.reclaim(), 0, "all readers are gone: nothing waits");
        drop(publisher);
        assert_eq!(alive.load(Ordering::Relaxed), 0, "every value was freed once");
    });
}
