//! From figures to lengths, and where an axis has its ticks.

/// An axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// From, to.
    Linear(f64, f64),
    /// From, to; both above 0.
    Log(f64, f64),
}

impl Scale {
    /// From 0 to at least `most`, ending at a tick.
    pub(super) fn from_zero(most: f64) -> Scale {
        let most = if most.is_finite() && most > 0.0 { most } else { 1.0 };
        let step = step(most / 4.0);
        Scale::Linear(0.0, (most / step).ceil() * step)
    }

    /// Over all of these figures: logarithmic when they differ much.
    pub(super) fn over(figures: impl IntoIterator<Item = f64>) -> Scale {
        let (mut low, mut high) = (f64::INFINITY, 0.0f64);
        for figure in figures.into_iter().filter(|f| f.is_finite() && *f > 0.0) {
            (low, high) = (low.min(figure), high.max(figure));
        }
        if low > high {
            return Scale::Linear(0.0, 1.0);
        }
        if high < low * 4.0 {
            let step = step((high - low).max(high * 1e-3) / 4.0);
            return Scale::Linear((low / step).floor() * step, (high / step).ceil() * step);
        }
        Scale::log(low, high)
    }

    /// Logarithmic over both, ending at ticks.
    pub(super) fn log(low: f64, high: f64) -> Scale {
        let low = low.max(1e-9);
        let high = high.max(low * 1.01);
        let ticks = |power: i32| [1.0, 2.0, 5.0].map(|n| n * 10f64.powi(power));
        let around = |f: f64| (f.log10().floor() as i32 - 1..=f.log10().floor() as i32 + 1).flat_map(ticks);
        let below = around(low).filter(|t| *t <= low * 1.0001).fold(low * 0.1, f64::max);
        let above = around(high).filter(|t| *t >= high * 0.9999).fold(high * 10.0, f64::min);
        Scale::Log(below, above)
    }

    /// How far along the axis a figure is, 0 to 1; what is beyond it stands at its end.
    pub(super) fn at(self, figure: f64) -> f64 {
        let share = match self {
            Scale::Linear(low, high) => (figure - low) / (high - low),
            Scale::Log(low, high) => (figure.max(low * 0.5) / low).ln() / (high / low).ln(),
        };
        if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 }
    }

    /// Figures to write beside the axis, at most about seven.
    pub(super) fn ticks(self) -> Vec<f64> {
        match self {
            Scale::Linear(low, high) => {
                let step = step((high - low) / 4.0);
                (0..12).map(|n| low + f64::from(n) * step).filter(|t| *t <= high + step * 1e-6).collect()
            }
            Scale::Log(low, high) => {
                let decades = (high / low).log10();
                let of: &[f64] = if decades <= 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let every = (decades / 7.0).ceil().max(1.0) as i32;
                let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
                let powers = powers.filter(|p| p.rem_euclid(every) == 0);
                let all = powers.flat_map(|p| of.iter().map(move |n| n * 10f64.powi(p)));
                all.filter(|t| *t >= low * 0.999 && *t <= high * 1.001).collect()
            }
        }
    }
}

/// The round figure (1, 2 or 5 times a power of ten) that is not below this one.
fn step(least: f64) -> f64 {
    let least = if least.is_finite() && least > 0.0 { least } else { 1.0 };
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].map(|n| n * power).into_iter().find(|s| *s >= least * 0.9999).unwrap_or(power * 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_figures() {
        assert_eq!(Scale::from_zero(8.7e9), Scale::Linear(0.0, 10e9));
        assert_eq!(Scale::from_zero(8.7e9).ticks(), [0.0, 5e9, 10e9]);
        assert_eq!(Scale::from_zero(0.0), Scale::from_zero(f64::NAN));
        assert!(
            matches!(Scale::log(3_000.0, 700_000.0), Scale::Log(a, b) if (a, b) == (2_000.0, 1_000_000.0))
        );
        assert_eq!(Scale::log(3_000.0, 2e6).ticks(), [1e4, 1e5, 1e6]);
        assert!(
            matches!(Scale::over([59.5, 61.0]), Scale::Linear(a, b) if a <= 59.5 && (61.0..63.0).contains(&b))
        );
        assert_eq!(Scale::over([]), Scale::Linear(0.0, 1.0));
        assert_eq!(Scale::Log(1.0, 100.0).at(10.0), 0.5);
        assert_eq!((Scale::Log(1.0, 100.0).at(0.0), Scale::Linear(0.0, 0.0).at(1.0)), (0.0, 0.0));
    }
}
