//! A whole distribution of times, as a histogram and as the figures people read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

/// Significant digits that a histogram keeps.
pub const DIGITS: u8 = 3;
/// What it can hold: an hour, in nanoseconds.
pub const MOST: u64 = 3_600_000_000_000;

/// Times in nanoseconds. The figures are for people, `hdr` is for programs; all are 0 when nothing was counted.
///
/// One-way delays between machines may be negative when clocks differ: all times are then counted from `offset`, which is
/// what has to be added to a histogram's value; the figures have it already.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// How many.
    pub count: u64,
    /// What has to be added to the histogram's values.
    #[serde(default)]
    pub offset: i64,
    /// The least.
    pub min: i64,
    /// The mean.
    pub mean: f64,
    /// Median.
    pub p50: i64,
    /// 90th percentile.
    pub p90: i64,
    /// 99th percentile.
    pub p99: i64,
    /// 99.9th percentile.
    pub p999: i64,
    /// 99.99th percentile.
    pub p9999: i64,
    /// The greatest.
    pub max: i64,
    /// The histogram: HdrHistogram's compressed V2 form in base64, as its other tools read it. Empty when nothing was counted.
    #[serde(default)]
    pub hdr: String,
}

/// An empty histogram for [`Distribution::of`].
///
/// # Panics
/// Never: the bounds are constants that the library allows.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MOST, DIGITS).unwrap_or_else(|e| unreachable!("constant bounds: {e}"))
}

impl Distribution {
    /// The distribution that a histogram holds, whose values are nanoseconds less `offset`.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>, offset: i64) -> Distribution {
        if histogram.is_empty() {
            return Distribution::default();
        }
        let real = |value: u64| i64::try_from(value).unwrap_or(i64::MAX).saturating_add(offset);
        let at = |quantile: f64| real(histogram.value_at_quantile(quantile).min(histogram.max()));
        let mut bytes = Vec::new();
        // Writing into memory does not fail; without it the figures remain.
        let written = V2DeflateSerializer::new().serialize(histogram, &mut bytes).is_ok();
        Distribution {
            count: histogram.len(),
            offset,
            min: real(histogram.min()),
            mean: histogram.mean() + offset as f64,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: real(histogram.max()),
            hdr: if written { BASE64.encode(&bytes) } else { String::new() },
        }
    }

    /// The histogram; none when nothing was counted or `hdr` is damaged.
    #[must_use]
    pub fn histogram(&self) -> Option<Histogram<u64>> {
        let bytes = BASE64.decode(&self.hdr).ok().filter(|b| !b.is_empty())?;
        Deserializer::new().deserialize(&mut &bytes[..]).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_have_known_percentiles() {
        let mut h = histogram();
        for n in 1..=10_000 {
            h.record(n * 1000).unwrap();
        }
        let d = Distribution::of(&h, 0);
        assert_eq!((d.count, d.min / 1000), (10_000, 1));
        // Three digits: within a thousandth.
        for (found, wanted) in
            [(d.p50, 5000), (d.p90, 9000), (d.p99, 9900), (d.p999, 9990), (d.p9999, 9999), (d.max, 10_000)]
        {
            let (found, wanted) = (found as f64, f64::from(wanted) * 1000.0);
            assert!((found / wanted - 1.0).abs() < 2e-3, "{found} instead of {wanted}");
        }
    }

    #[test]
    fn a_distribution_survives_its_file_and_adds_up() {
        let mut h = histogram();
        h.record_n(250, 3).unwrap();
        h.record(1_000_000).unwrap();
        let d = Distribution::of(&h, -300);
        assert_eq!((d.min, d.p50), (-50, -50));
        let text = serde_json::to_string(&d).unwrap();
        let back: Distribution = serde_json::from_str(&text).unwrap();
        assert_eq!(back, d);
        let mut again = back.histogram().unwrap();
        assert_eq!(again.len(), 4);
        again.add(&h).unwrap();
        assert_eq!(again.count_at(250), 6);
        assert_eq!(Distribution::default().histogram(), None);
    }
}
