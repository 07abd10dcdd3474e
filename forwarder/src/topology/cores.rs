//! Sets of cores, as the kernel writes them.

use std::collections::BTreeSet;
use std::fmt;

/// Cores by number. Read and shown as a list of the kernel's: `0-3,8`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CoreSet(BTreeSet<usize>);

impl CoreSet {
    /// No kernel has more, so a longer range is nonsense.
    const MOST: usize = 1 << 16;

    /// Reads a list: numbers and ranges between commas, a range also as `0-31:2/8` (of each 8 the first 2). Nothing, and what some
    /// kernels write for nothing (`(null)`), is the empty set. None when it is no list.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() || text == "(null)" {
            return Some(Self::default());
        }
        let mut cores = BTreeSet::new();
        for part in text.split(',') {
            let (range, pattern) = part.split_once(':').map_or((part, None), |(r, p)| (r, Some(p)));
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (number(first)?, number(last)?);
            let (used, group) = match pattern {
                None => (1, 1),
                Some(pattern) => {
                    let (used, group) = pattern.split_once('/')?;
                    (number(used)?, number(group)?)
                }
            };
            if last >= Self::MOST || group == 0 {
                return None;
            }
            cores.extend((first..=last).filter(|core| (core - first) % group < used));
        }
        Some(Self(cores))
    }

    /// Is it among them?
    #[must_use]
    pub fn contains(&self, core: usize) -> bool {
        self.0.contains(&core)
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().copied()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None at all?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(&self.0 & &other.0)
    }

    /// Those in either.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self(&self.0 | &other.0)
    }

    /// Those that are not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(&self.0 - &other.0)
    }

    /// Are all of them in the other?
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }
}

fn number(text: &str) -> Option<usize> {
    text.trim().parse().ok()
}

impl FromIterator<usize> for CoreSet {
    fn from_iter<I: IntoIterator<Item = usize>>(cores: I) -> Self {
        Self(cores.into_iter().collect())
    }
}

impl fmt::Display for CoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cores = self.iter().peekable();
        let mut between = "";
        while let Some(first) = cores.next() {
            let mut last = first;
            while let Some(next) = cores.next_if_eq(&(last + 1)) {
                last = next;
            }
            match last == first {
                true => write!(f, "{between}{first}")?,
                false => write!(f, "{between}{first}-{last}")?,
            }
            between = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_shown_as_the_kernel_writes_them() {
        for (text, shown, count) in [
            ("0-3,8\n", "0-3,8", 5),
            ("\n", "", 0),
            ("(null)\n", "", 0),
            ("5", "5", 1),
            ("1,0", "0-1", 2),
            ("0-7:2/4", "0-1,4-5", 4),
            ("3-1", "", 0),
        ] {
            let cores = CoreSet::parse(text).unwrap();
            assert_eq!((cores.to_string().as_str(), cores.len()), (shown, count), "{text}");
        }
        for text in ["x", "1-", "-1", "1,,2", "0-7:2", "0-7:1/0", "0-9999999999", "all"] {
            assert_eq!(CoreSet::parse(text), None, "{text}");
        }
    }
}
