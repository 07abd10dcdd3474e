//! Frame sizes: one, or a mix that repeats.
//!
//! Sizes are bytes of a frame with its FCS (RFC 2544, section 9, recommends 64, 128, 256, 512, 1024, 1280 and 1518).

use std::fmt;
use std::str::FromStr;

/// Sizes recommended by RFC 2544, section 9.1, for Ethernet.
pub const RFC_2544: &str = "64,128,256,512,1024,1280,1518";
/// Largest frame that can be asked for: more than any device here carries.
const MOST: usize = 16_018;
/// Longest repeating sequence.
const LONGEST: usize = 4096;

/// The simple IMIX: seven frames of 64 bytes, four of 570, one of 1518 (Agilent, "The Journal of Internet Test Methodologies",
/// 2007, which RFC 6985 cites), the small ones spread so that no order of arrival favours a device.
const IMIX: [usize; 12] = [64, 570, 64, 64, 570, 64, 64, 570, 64, 570, 64, 1518];

/// A sequence of frame sizes that repeats. One size is a sequence of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mix {
    name: String,
    sizes: Vec<usize>,
}

/// A text that is no frame size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a frame size{why}; write bytes with FCS (64 to {MOST}), imix (7 x 64, 4 x 570, 1 x 1518), or a sequence in \
     the letters of RFC 6985 with counts, such as 7a4d1g (a 64, b 128, c 256, d 512, e 1024, f 1280, g 1518, h 2112, i 9000)"
)]
pub struct SizeError {
    text: String,
    why: String,
}

impl Mix {
    /// The sizes, in bytes with FCS, in their order.
    #[must_use]
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// Mean size in bytes.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.sizes.iter().sum::<usize>() as f64 / self.sizes.len() as f64
    }

    /// Smallest and largest size.
    #[must_use]
    pub fn range(&self) -> (usize, usize) {
        self.sizes.iter().fold((usize::MAX, 0), |(low, high), s| (low.min(*s), high.max(*s)))
    }
}

impl FromStr for Mix {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Mix, SizeError> {
        let error = |why: String| SizeError { text: text.to_owned(), why };
        let sizes = if text == "imix" {
            IMIX.to_vec()
        } else if let Ok(size) = text.parse::<usize>() {
            vec![size]
        } else {
            genome(text).map_err(error)?
        };
        match sizes.iter().find(|size| !(64..=MOST).contains(*size)) {
            Some(size) => Err(error(format!(" ({size} is not within 64 to {MOST})"))),
            None => Ok(Mix { name: text.to_owned(), sizes }),
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// RFC 6985, section 4: a letter for each frame of the sequence. Runs may be written as a count before the letter.
fn genome(text: &str) -> Result<Vec<usize>, String> {
    let mut sizes = Vec::new();
    let mut count = String::new();
    for c in text.chars() {
        if c.is_ascii_digit() {
            count.push(c);
            continue;
        }
        let size = match c {
            'a' => 64,
            'b' => 128,
            'c' => 256,
            'd' => 512,
            'e' => 1024,
            'f' => 1280,
            'g' => 1518,
            'h' => 2112,
            'i' => 9000,
            _ => return Err(format!(" ({c:?} is no letter of RFC 6985)")),
        };
        let times: usize = if count.is_empty() { 1 } else { count.parse().map_err(|_| String::new())? };
        if times == 0 || sizes.len() + times > LONGEST {
            return Err(format!(" (a sequence has 1 to {LONGEST} frames)"));
        }
        sizes.extend(std::iter::repeat_n(size, times));
        count.clear();
    }
    if sizes.is_empty() || !count.is_empty() { Err(String::new()) } else { Ok(sizes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_simple_imix_has_its_shares_and_mean() {
        let mix: Mix = "imix".parse().unwrap();
        let count = |size| mix.sizes().iter().filter(|s| **s == size).count();
        assert_eq!((count(64), count(570), count(1518), mix.sizes().len()), (7, 4, 1, 12));
        assert_eq!(mix.mean(), 4246.0 / 12.0);
        assert_eq!(mix.range(), (64, 1518));
    }

    #[test]
    fn genomes_are_sequences() {
        let sizes = |text: &str| text.parse::<Mix>().unwrap().sizes().to_vec();
        assert_eq!(sizes("aafa"), [64, 64, 1280, 64]);
        assert_eq!(sizes("3a2gi"), [64, 64, 64, 1518, 1518, 9000]);
        assert_eq!(sizes("512"), [512]);
        assert!(RFC_2544.split(',').all(|s| s.parse::<Mix>().is_ok()));
    }

    #[test]
    fn what_is_no_size_is_told_the_forms() {
        for wrong in ["", "63", "0", "99999", "ax", "3", "a3", "0a", "5000a", "-64", "64B", "z"] {
            let error = wrong.parse::<Mix>().map(|m| m.to_string()).expect_err(wrong).to_string();
            assert!(error.contains("RFC 6985"), "{error}");
        }
    }
}
