//! Explores the interleavings of workers that charge one bucket. Run by `make test` with `--cfg loom`.
#![cfg(loom)]
#![allow(missing_docs)]

use forwarder::flow::Direction;
use forwarder::flow::police::{BURST_BYTES, Police};

/// Two workers offer more than a bucket between them: it is given out once.
#[test]
fn what_one_worker_took_no_other_gets() {
    loom::model(|| {
        let police = Police::new(1, 1000);
        let half = BURST_BYTES / 2 - 100;
        let take = move |police: &Police| police.admit(Direction::ToTarget, 9, [half, half].into_iter());
        let other = police.clone();
        let there = loom::thread::spawn(move || take(&other));
        let here = take(&police);
        let there = there.join().unwrap();
        assert_eq!(here + there, 2);
        assert_eq!(police.admit(Direction::ToTarget, 9, std::iter::once(400)), 0);
    });
}
