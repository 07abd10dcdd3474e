//! Packets under way, in the order in which they are due.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

/// A packet under way.
#[derive(Debug)]
pub struct Held<B> {
    /// When it is due, in nanoseconds.
    pub due: u64,
    /// How many were put in before it.
    pub number: u64,
    /// The packet.
    pub packet: B,
}

impl<B> Held<B> {
    fn key(&self) -> (u64, u64) {
        (self.due, self.number)
    }
}

impl<B> PartialEq for Held<B> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl<B> Eq for Held<B> {}
impl<B> PartialOrd for Held<B> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<B> Ord for Held<B> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// A bounded number of packets. They come out in order of time, and at equal times in the order they went in.
///
/// Nearly all are due after those before them and stand in a queue; only the others pay for a heap. Memory is set aside at the
/// start.
#[derive(Debug)]
pub struct Line<B> {
    queue: VecDeque<Held<B>>,
    heap: BinaryHeap<Reverse<Held<B>>>,
    room: usize,
    number: u64,
}

impl<B> Line<B> {
    /// Room for so many packets. `ordered` says that each will be due after those before it, so that no heap is needed.
    #[must_use]
    pub fn new(room: usize, ordered: bool) -> Line<B> {
        Line {
            queue: VecDeque::with_capacity(room),
            heap: BinaryHeap::with_capacity(if ordered { 0 } else { room }),
            room,
            number: 0,
        }
    }

    /// Packets in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len() + self.heap.len()
    }

    /// Nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts a packet in. `aside` says that those after it need not wait for it: standing in the queue it would send them all to
    /// the heap.
    ///
    /// # Errors
    /// The packet, for which there is no room.
    pub fn put(&mut self, packet: B, due: u64, aside: bool) -> Result<(), B> {
        if self.len() >= self.room {
            return Err(packet);
        }
        let held = Held { due, number: self.number, packet };
        self.number += 1;
        if !aside && self.queue.back().is_none_or(|last| last.due <= due) {
            self.queue.push_back(held);
        } else {
            self.heap.push(Reverse(held));
        }
        Ok(())
    }

    /// When the next packet is due.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        let (queued, heaped) = (self.queue.front().map(|h| h.due), self.heap.peek().map(|h| h.0.due));
        queued.into_iter().chain(heaped).min()
    }

    /// Takes the next packet that is due by `now`.
    pub fn take(&mut self, now: u64) -> Option<Held<B>> {
        let heap_first = match (self.queue.front(), self.heap.peek()) {
            (Some(queued), Some(Reverse(heaped))) => heaped < queued,
            (queued, _) => queued.is_none(),
        };
        if heap_first {
            self.heap.peek().filter(|h| h.0.due <= now)?;
            self.heap.pop().map(|h| h.0)
        } else {
            self.queue.pop_front_if(|h| h.due <= now)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_line_gives_back_what_it_cannot_hold() {
        let mut line = Line::new(2, false);
        assert_eq!(
            [line.put('a', 5, false), line.put('b', 1, false), line.put('c', 9, true)],
            [Ok(()), Ok(()), Err('c')]
        );
        assert_eq!((line.next(), line.take(0).map(|h| h.packet)), (Some(1), None));
        assert_eq!(line.take(5).map(|h| h.packet), Some('b'));
        assert_eq!(line.take(5).map(|h| h.packet), Some('a'));
        assert!(line.is_empty() && line.next().is_none());
    }

    proptest! {
        #[test]
        fn packets_come_out_as_a_stable_sort_has_them(dues in proptest::collection::vec((0u64..50, any::<bool>()), 0..200)) {
            let mut line = Line::new(200, false);
            for (number, (due, aside)) in dues.iter().enumerate() {
                prop_assert!(line.put(number, *due, *aside).is_ok());
            }
            let mut sorted: Vec<(u64, usize)> = dues.iter().map(|(due, _)| *due).zip(0..).collect();
            sorted.sort();
            let mut out = Vec::new();
            for now in 0..50 {
                while let Some(held) = line.take(now) {
                    prop_assert_eq!(held.due, now);
                    out.push((held.due, held.packet));
                }
            }
            prop_assert_eq!(out, sorted);
            prop_assert!(line.is_empty());
        }
    }
}
