//! Two instructions of the processor that Rust has no safe name for. No atomics here, but `unsafe`.

/// Asks for the cache line that `value` begins in. A hint: it changes no state a program can see.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, and the pointer comes from a live reference anyway.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch(core::ptr::from_ref(value).cast::<i8>(), _MM_HINT_T0);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Bit i of the result is set where the i-th 16-bit word of `words`, counted from the low end of `words[0]`, equals `word`.
#[inline(always)]
pub fn equal_words(words: &[u64; 2], word: u16) -> u32 {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    // SAFETY: the processor has SSE2, which this is compiled for; the intrinsics work on values only.
    unsafe {
        use core::arch::x86_64::{
            _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_set_epi64x, _mm_set1_epi16,
            _mm_setzero_si128,
        };
        let all = _mm_set_epi64x(words[1] as i64, words[0] as i64);
        let equal = _mm_cmpeq_epi16(all, _mm_set1_epi16(word as i16));
        _mm_movemask_epi8(_mm_packs_epi16(equal, _mm_setzero_si128())) as u32
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
    equal_words_portable(words, word)
}

/// [`equal_words`] without vector instructions.
#[cfg_attr(all(target_arch = "x86_64", not(test)), allow(dead_code))]
fn equal_words_portable(words: &[u64; 2], word: u16) -> u32 {
    (0..8).fold(0, |mask, i| mask | u32::from((words[i >> 2] >> (16 * (i & 3))) as u16 == word) << i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_and_portable_compare_agree() {
        let words = [0x0007_8000_0000_0007, 0x0007_0000_7fff_ffff];
        for word in 0..=u16::MAX {
            assert_eq!(equal_words(&words, word), equal_words_portable(&words, word), "{word:#x}");
        }
        assert_eq!(equal_words(&words, 7), 0b1000_1001);
    }
}
