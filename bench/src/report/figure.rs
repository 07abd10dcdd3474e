//! A figure over several rounds, and how figures are written for people.

use serde::Serialize;

/// What rounds yielded: the best one and the median.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    /// Of the least disturbed round.
    pub best: f64,
    /// The middle one.
    pub median: f64,
}

impl Figure {
    /// Of figures of which the smallest is the best; none of none.
    #[must_use]
    pub fn smallest(figures: &[f64]) -> Option<Figure> {
        let best = figures.iter().copied().reduce(f64::min)?;
        Some(Figure { best, median: median(figures)? })
    }

    /// Of figures of which the largest is the best; none of none.
    #[must_use]
    pub fn largest(figures: &[f64]) -> Option<Figure> {
        let best = figures.iter().copied().reduce(f64::max)?;
        Some(Figure { best, median: median(figures)? })
    }
}

/// The middle of some figures, of an even number the mean of the middle two; none of none.
#[must_use]
pub fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => sorted.get(middle).copied(),
        _ => Some((sorted.get(middle - 1)? + sorted.get(middle)?) / 2.0),
    }
}

/// How far figures typically stray from their median: the median of the distances (MAD). 0 of none.
#[must_use]
pub fn spread(figures: &[f64]) -> f64 {
    let Some(middle) = median(figures) else { return 0.0 };
    let distances: Vec<f64> = figures.iter().map(|f| (f - middle).abs()).collect();
    median(&distances).unwrap_or(0.0)
}

/// Three digits that say something, and no more.
#[must_use]
pub fn short(figure: f64) -> String {
    match figure.abs() {
        f if f >= 99.95 => format!("{figure:.0}"),
        f if f >= 9.995 => format!("{figure:.1}"),
        f if f >= 0.995 || f == 0.0 => format!("{figure:.2}"),
        f if f >= 0.000_995 => format!("{figure:.3}"),
        f if f >= 9.95e-6 => format!("{figure:.5}"),
        _ => format!("{figure:.1e}"),
    }
}

/// Nanoseconds, in the unit that suits them.
#[must_use]
pub fn time(ns: f64) -> String {
    match ns.abs() {
        0.0 => "0".to_owned(),
        n if n >= 0.9995e9 => format!("{} s", short(ns / 1e9)),
        n if n >= 0.9995e6 => format!("{} ms", short(ns / 1e6)),
        n if n >= 999.5 => format!("{} \u{b5}s", short(ns / 1e3)),
        _ => format!("{ns:.0} ns"),
    }
}

/// Bits a second, in the unit that suits them.
#[must_use]
pub fn rate(bits: f64) -> String {
    match bits {
        b if b >= 0.9995e9 => format!("{} Gbit/s", short(bits / 1e9)),
        b if b >= 0.9995e6 => format!("{} Mbit/s", short(bits / 1e6)),
        b if b >= 999.5 => format!("{} kbit/s", short(bits / 1e3)),
        _ => format!("{bits:.0} bit/s"),
    }
}

/// A count with its thousands apart.
#[must_use]
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// What stands where there is no figure.
pub const NOTHING: &str = "-";

/// A figure that may be missing.
#[must_use]
pub fn cell(figure: Option<f64>, show: impl Fn(f64) -> String) -> String {
    figure.map_or_else(|| NOTHING.to_owned(), show)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_median_and_spread_of_known_figures() {
        assert_eq!(Figure::smallest(&[]), None);
        assert_eq!(Figure::smallest(&[4.0, 1.0, 2.0, 3.0]), Some(Figure { best: 1.0, median: 2.5 }));
        assert_eq!(Figure::largest(&[4.0, 1.0, 2.0]), Some(Figure { best: 4.0, median: 2.0 }));
        // One outlier of five does not move it.
        assert_eq!(spread(&[10.0, 11.0, 9.0, 12.0, 1000.0]), 1.0);
        assert_eq!((spread(&[]), spread(&[7.0])), (0.0, 0.0));
    }

    #[test]
    fn figures_for_people() {
        let texts: Vec<_> =
            [0.0, 4e-7, 0.0004, 0.0123, 0.996, 9.996, 99.96, 1234.5].into_iter().map(short).collect();
        assert_eq!(texts, ["0.00", "4.0e-7", "0.00040", "0.012", "1.00", "10.0", "100", "1234"]);
        let texts: Vec<_> = [0.0, 999.4, 999.6, 1_500_000.0, 2.5e9, -3000.0].into_iter().map(time).collect();
        assert_eq!(texts, ["0", "999 ns", "1.00 \u{b5}s", "1.50 ms", "2.50 s", "-3.00 \u{b5}s"]);
        assert_eq!((rate(9.41e9), rate(12.0)), ("9.41 Gbit/s".to_owned(), "12 bit/s".to_owned()));
        assert_eq!((count(0), count(123), count(1_234_567)), ("0".into(), "123".into(), "1,234,567".into()));
    }
}
