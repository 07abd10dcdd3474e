//! Which messages of a connection have come: exact at any length of the stream, small as long as few are missing.

use std::collections::BTreeMap;

/// Gaps that are remembered; beyond, the oldest count as lost for good.
const MOST: usize = 1 << 20;

/// What an arrival is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Beyond all that came.
    Next,
    /// After a later one: reordered (RFC 4737, section 3.3).
    Before,
    /// It had come already.
    Again,
}

/// The numbers that came, by those that did not.
#[derive(Debug, Default)]
pub struct Sequence {
    next: u64,
    /// First missing number to the one after the last.
    gaps: BTreeMap<u64, u64>,
    missing: u64,
}

impl Sequence {
    /// Notes an arrival.
    pub fn take(&mut self, seq: u64) -> Place {
        if seq >= self.next {
            if seq > self.next {
                self.gaps.insert(self.next, seq);
                self.missing += seq - self.next;
                if self.gaps.len() > MOST {
                    self.gaps.pop_first();
                }
            }
            self.next = seq + 1;
            return Place::Next;
        }
        let Some((&first, &end)) = self.gaps.range(..=seq).next_back().filter(|(_, end)| seq < **end) else {
            return Place::Again;
        };
        self.gaps.remove(&first);
        if first < seq {
            self.gaps.insert(first, seq);
        }
        if seq + 1 < end {
            self.gaps.insert(seq + 1, end);
        }
        self.missing -= 1;
        Place::Before
    }

    /// One above the highest number that came.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// How many below it have not come.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Has it not come, and may it be the one that a damaged header names?
    #[must_use]
    pub fn plausible(&self, seq: u64) -> bool {
        const AHEAD: u64 = 1024;
        let gap = || self.gaps.range(..=seq).next_back().is_some_and(|(_, end)| seq < *end);
        if seq >= self.next { seq - self.next < AHEAD } else { gap() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arrival_finds_its_place() {
        let mut s = Sequence::default();
        let arrivals = [0, 1, 5, 3, 3, 2, 4, 4, 0, 9, 7];
        use Place::{Again, Before, Next};
        let places = [Next, Next, Next, Before, Again, Before, Before, Again, Again, Next, Before];
        assert_eq!(arrivals.map(|n| s.take(n)), places);
        // 6 and 8 are out.
        assert_eq!((s.next(), s.missing()), (10, 2));
        assert!(s.plausible(6) && s.plausible(8) && s.plausible(10));
        assert!(!s.plausible(7) && !s.plausible(1 << 40));
    }

    #[test]
    fn the_first_may_be_missing_and_gaps_are_bounded() {
        let mut s = Sequence::default();
        assert_eq!(s.take(3), Place::Next);
        assert_eq!(s.missing(), 3);
        for n in 0..2 * MOST as u64 {
            s.take(5 + 2 * n);
        }
        assert!(s.gaps.len() <= MOST);
        assert_eq!(s.missing(), 3 + 2 * MOST as u64);
        // Forgotten ones cannot be told from those that came.
        assert_eq!(s.take(0), Place::Again);
    }
}
