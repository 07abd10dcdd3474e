//! Bytes that are a function of seed and offset.

/// A stream of bytes without repetition that can be entered anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    seed: u64,
}

impl Pattern {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Pattern {
        Pattern { seed }
    }

    /// The eight bytes at `8 * index`: SplitMix64's output function over a counter.
    fn word(self, index: u64) -> [u8; 8] {
        let mut z = self.seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }

    /// Writes the bytes from `offset` on.
    pub fn fill(self, offset: u64, out: &mut [u8]) {
        let (mut index, skip) = (offset / 8, (offset % 8) as usize);
        let head = out.len().min((8 - skip) % 8);
        let (first, rest) = out.split_at_mut(head);
        if head > 0 {
            first.copy_from_slice(&self.word(index)[skip..skip + head]);
            index += 1;
        }
        let mut words = rest.chunks_exact_mut(8);
        for chunk in &mut words {
            chunk.copy_from_slice(&self.word(index));
            index += 1;
        }
        let tail = words.into_remainder();
        tail.copy_from_slice(&self.word(index)[..tail.len()]);
    }

    /// Compares `bytes` with those from `offset` on and returns the offset of the first that differs.
    #[must_use]
    pub fn first_difference(self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let mut expected = [0; 4096];
        let mut at = offset;
        for chunk in bytes.chunks(expected.len()) {
            let expected = &mut expected[..chunk.len()];
            self.fill(at, expected);
            if chunk != expected {
                let same = chunk.iter().zip(&*expected).take_while(|(a, b)| a == b).count();
                return Some(at + same as u64);
            }
            at += chunk.len() as u64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_equals_the_same_part_of_the_whole() {
        let pattern = Pattern::new(42);
        let mut whole = vec![0; 300];
        pattern.fill(0, &mut whole);
        for start in 0..40 {
            for len in 0..40 {
                let mut part = vec![0; len];
                pattern.fill(start as u64, &mut part);
                assert_eq!(part, whole[start..start + len], "from {start}, {len} bytes");
            }
        }
    }

    #[test]
    fn a_difference_is_found_where_it_is() {
        let pattern = Pattern::new(1);
        let mut bytes = vec![0; 20_000];
        pattern.fill(5, &mut bytes);
        assert_eq!(pattern.first_difference(5, &bytes), None);
        assert!(pattern.first_difference(6, &bytes).is_some());
        assert!(Pattern::new(2).first_difference(5, &bytes).is_some());
        for wrong in [0, 4095, 4096, 19_999] {
            bytes[wrong] ^= 1;
            assert_eq!(pattern.first_difference(5, &bytes), Some(5 + wrong as u64));
            bytes[wrong] ^= 1;
        }
    }
}
