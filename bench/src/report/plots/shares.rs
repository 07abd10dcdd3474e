//! What each approach adds, on a logarithmic axis: a dot for the median, a line to the best round, a ring where it is only bounded.

use plotters::style::RGBColor;

use super::pen::{Anchor, INK, RULE};
use super::rows::{Area, Mark, rows};
use super::scale::Scale;
use super::{FONT, Panel};
use crate::report::figure::time;

/// What one adds.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    /// Who.
    pub(crate) name: String,
    /// Its colour.
    pub(crate) colour: RGBColor,
    /// Nanoseconds.
    pub(crate) median: f64,
    /// Nanoseconds; none when `median` is but a bound.
    pub(crate) best: Option<f64>,
    /// What is written beside it.
    pub(crate) label: String,
    /// It is one of ours.
    pub(crate) strong: bool,
}

impl Mark for Share {
    fn name(&self) -> &str {
        &self.name
    }

    fn strong(&self) -> bool {
        self.strong
    }
}

/// Panels of shares, all of one scale and with the same names in the same order.
pub(crate) fn shares(label: &str, panels: &[Panel<Share>]) -> String {
    let figures =
        || panels.iter().flat_map(|p| &p.marks).flat_map(|m| [Some(m.median), m.best.filter(|b| *b > 0.0)]);
    let low = figures().flatten().filter(|f| *f > 0.0).fold(f64::INFINITY, f64::min);
    let high = figures().flatten().fold(0.0, f64::max);
    let scale = if low.is_finite() { Scale::log(low, high) } else { Scale::log(1e3, 1e6) };
    rows(label, panels, 42.0, |pen, panel, names, area| {
        let Area { x, length, top, bottom } = area;
        for row in 0..names.len() {
            pen.line((x, area.middle(row)), (x + length, area.middle(row)), RULE, 1.0);
        }
        for tick in scale.ticks() {
            let at = x + scale.at(tick) * length;
            pen.line((at, top), (at, bottom), RULE, 1.0);
            pen.text((at, bottom + 14.0), Anchor::Middle, FONT * 0.8, INK, &short_time(tick));
        }
        for mark in &panel.marks {
            let Some(row) = names.iter().position(|n| *n == mark.name) else { continue };
            let middle = area.middle(row);
            let at = x + scale.at(mark.median) * length;
            if let Some(best) = mark.best {
                pen.line((x + scale.at(best) * length, middle), (at, middle), mark.colour, 3.0);
            }
            pen.dot((at, middle), 6.5, mark.colour, mark.best.is_some());
            pen.text((at + 13.0, middle), Anchor::Left, FONT * 0.9, INK, &mark.label);
        }
        pen.line((x, top - 4.0), (x, bottom), INK, 1.5);
    })
}

/// A time beside an axis: round, so without decimals.
fn short_time(ns: f64) -> String {
    time(ns).replace(".00", "").replace(".0 ", " ")
}
