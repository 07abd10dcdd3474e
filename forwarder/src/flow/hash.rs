//! The hash of the connection table: keyed folded multiplication.
//!
//! A 64 x 64 -> 128 bit product folded to 64 bits costs a few cycles, mixes every input bit, runs on any processor and -
//! unlike CRC32C, which is linear - gives somebody who does not know the key no way to make tuples collide.
#![forbid(unsafe_code)]

/// Secret words, drawn once a process.
#[derive(Debug, Clone, Copy)]
pub struct HashKey([u64; 4]);

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

impl HashKey {
    /// From 32 random bytes.
    pub fn new(seed: [u8; 32]) -> Self {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(seed.chunks_exact(8)) {
            // Odd, so that no word is zero.
            *word = bytes.iter().fold(0, |w, b| w << 8 | u64::from(*b)) | 1;
        }
        Self(words)
    }

    /// Of a 128-bit key: addresses in `a`, the rest in `b`.
    #[inline(always)]
    pub fn hash2(&self, a: u64, b: u64) -> u64 {
        fold(a ^ self.0[0], b ^ self.0[1])
    }

    /// Of a 320-bit key: two 128-bit addresses and the rest.
    #[inline(always)]
    pub fn hash5(&self, src: u128, dst: u128, b: u64) -> u64 {
        let s = fold(src as u64 ^ self.0[0], (src >> 64) as u64 ^ self.0[1]);
        let d = fold(dst as u64 ^ self.0[2], (dst >> 64) as u64 ^ self.0[3]);
        fold(s ^ d.rotate_left(32) ^ self.0[2], b ^ self.0[1])
    }
}
