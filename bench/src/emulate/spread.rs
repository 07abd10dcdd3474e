//! Delays with nanosecond resolution around their usual value, whatever that is.
//!
//! A histogram is precise relative to its values: to a thousandth. At 60 ms of one-way delay that is 60 us, more than the
//! variation that matters. So delays are counted as their distance from one of the first, in two histograms, above and
//! below, and only turned into delays, or into their variation, once the least is known. It also does with clocks that differ.

use hdrhistogram::Histogram;

use crate::result::{MOST, histogram};

/// Delays that are looked at before the one to count from is chosen: the least of them.
const FIRST: usize = 256;

/// Delays, in nanoseconds; negative where clocks differ.
#[derive(Debug, Default, Clone)]
pub struct Spread {
    first: Vec<i64>,
    around: Option<Around>,
    least: Option<i64>,
}

#[derive(Debug, Clone)]
struct Around {
    reference: i64,
    above: Histogram<u64>,
    below: Option<Histogram<u64>>,
}

impl Spread {
    /// Counts one.
    pub fn record(&mut self, delay: i64) {
        self.least = Some(self.least.map_or(delay, |least| least.min(delay)));
        match &mut self.around {
            Some(around) => around.record(delay),
            None => {
                self.first.push(delay);
                if self.first.len() >= FIRST {
                    self.around = self.settle();
                    self.first = Vec::new();
                }
            }
        }
    }

    /// The least; none without any.
    #[must_use]
    pub fn least(&self) -> Option<i64> {
        self.least
    }

    /// Adds all of them, less `base`, to a histogram. `base` is not above the least.
    pub fn add_to(&self, histogram: &mut Histogram<u64>, base: i64) {
        let settled;
        let around = match &self.around {
            Some(around) => around,
            None => match self.settle() {
                Some(around) => {
                    settled = around;
                    &settled
                }
                None => return,
            },
        };
        let mut add = |delay: i64, count: u64| {
            let value = u64::try_from(delay.saturating_sub(base)).unwrap_or(0);
            histogram.saturating_record_n(value.min(MOST), count);
        };
        // The least is known exactly; a histogram would round it.
        let least = self.least.unwrap_or(around.reference);
        for step in around.above.iter_recorded() {
            let value = around.above.median_equivalent(step.value_iterated_to());
            add(around.reference.saturating_add_unsigned(value).max(least), step.count_at_value());
        }
        for step in around.below.iter().flat_map(Histogram::iter_recorded) {
            let value = around.above.median_equivalent(step.value_iterated_to());
            add(around.reference.saturating_sub_unsigned(value).max(least), step.count_at_value());
        }
    }

    fn settle(&self) -> Option<Around> {
        let reference = *self.first.iter().min()?;
        let mut around = Around { reference, above: histogram(), below: None };
        for delay in &self.first {
            around.record(*delay);
        }
        Some(around)
    }
}

impl Around {
    fn record(&mut self, delay: i64) {
        let distance = delay.abs_diff(self.reference).min(MOST);
        if delay >= self.reference {
            self.above.saturating_record(distance);
        } else {
            self.below.get_or_insert_with(histogram).saturating_record(distance);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantiles(spread: &Spread, base: i64) -> [u64; 3] {
        let mut h = histogram();
        spread.add_to(&mut h, base);
        [h.min(), h.value_at_quantile(0.5), h.max()]
    }

    #[test]
    fn microseconds_of_variation_survive_a_long_delay() {
        let mut s = Spread::default();
        // Beyond the first ones, and one that undercuts them all.
        let base = 59_500_000;
        for n in 0..1000 {
            s.record(base + 700 + n % 3 * 100);
        }
        s.record(base);
        assert_eq!(s.least(), Some(base));
        assert_eq!(quantiles(&s, base), [0, 800, 900]);
        let mut h = histogram();
        s.add_to(&mut h, base);
        assert_eq!((h.count_at(700), h.count_at(800), h.count_at(900), h.len()), (334, 333, 333, 1001));
    }

    #[test]
    fn clocks_may_differ_either_way() {
        for offset in [-3_600_000_000_000, 0, 86_400_000_000_000] {
            let mut few = Spread::default();
            for n in [500, 100, 300] {
                few.record(offset + n);
            }
            assert_eq!(few.least(), Some(offset + 100));
            assert_eq!(quantiles(&few, offset + 100), [0, 200, 400], "{offset}");
        }
        let mut h = histogram();
        Spread::default().add_to(&mut h, 0);
        assert!(h.is_empty());
    }
}
