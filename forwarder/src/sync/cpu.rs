//! Two instructions of the processor that Rust has no safe name for. No atomics here, but `unsafe`.

/// Asks for the cache line that an element of `slice` begins in. A hint: it changes no state a program can see, and an index
/// beyond the end is as good as any.
#[inline(always)]
pub fn prefetch<T>(slice: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, whatever the address.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch(slice.as_ptr().wrapping_add(index).cast::<i8>(), _MM_HINT_T0);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slice, index);
}

/// Bits 2i and 2i + 1 of the result are set where `words[i]` equals `word`.
#[inline(always)]
pub fn equal_words(words: &[u16; 8], word: u16) -> u32 {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2", not(feature = "portable")))]
    // SAFETY: the processor has SSE2, which this is compiled for; the load is of the array's own 16 bytes.
    unsafe {
        use core::arch::x86_64::{_mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi16};
        let equal = _mm_cmpeq_epi16(_mm_loadu_si128(words.as_ptr().cast()), _mm_set1_epi16(word as i16));
        _mm_movemask_epi8(equal) as u32
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2", not(feature = "portable"))))]
    equal_words_portable(words, word)
}

/// [`equal_words`] without vector instructions.
#[cfg_attr(all(target_arch = "x86_64", not(test), not(feature = "portable")), allow(dead_code))]
fn equal_words_portable(words: &[u16; 8], word: u16) -> u32 {
    (0..8).fold(0, |mask, i| mask | (3 * u32::from(words[i] == word)) << (2 * i))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_and_portable_compare_agree() {
        let words = [7, 0, 0x8000, 7, 0xffff, 0x7fff, 0, 7];
        for word in 0..=u16::MAX {
            assert_eq!(equal_words(&words, word), equal_words_portable(&words, word), "{word:#x}");
        }
        assert_eq!(equal_words(&words, 7), 0b11_00_00_00_11_00_00_11);
    }
}
