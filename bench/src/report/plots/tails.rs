//! Distributions up to the 99.99th percentile: quantiles along the axis by their nines, figures upwards.

use plotters::style::RGBColor;

use super::pen::{Anchor, INK, Pen, RULE, picture};
use super::scale::{Scale, apart};
use super::{FONT, NAME, Panel, WIDTH, fit};
use crate::report::figure::time;

/// A distribution: points of nines (0 is the least, 2 the 99th percentile, 4 the 99.99th) and nanoseconds.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    /// Whose.
    pub(crate) name: String,
    /// Its colour.
    pub(crate) colour: RGBColor,
    /// From the first nine to as many as the count of messages supports.
    pub(crate) points: Vec<(f64, f64)>,
    /// It is one of ours.
    pub(crate) strong: bool,
}

/// Nines at the right end.
const MOST: f64 = 4.0;
const NINES: [(f64, &str); 5] = [(0.0, "0"), (1.0, "90"), (2.0, "99"), (3.0, "99.9"), (4.0, "99.99")];
const HIGH: f64 = 390.0;
const LABELS: f64 = 190.0;
const AXIS: f64 = 62.0;

/// Panels of distributions, two beside each other, each with a scale of its own.
pub(crate) fn tails(label: &str, panels: &[Panel<Tail>]) -> String {
    let across = panels.len().clamp(1, 2);
    let (width, lines) = (WIDTH / across as f64, panels.len().div_ceil(across));
    picture(WIDTH, HIGH * lines as f64, label, |pen| {
        for (n, panel) in panels.iter().enumerate() {
            one(pen, panel, ((n % across) as f64 * width, (n / across) as f64 * HIGH, width));
        }
    })
}

fn one(pen: &Pen<'_>, panel: &Panel<Tail>, (x, y, width): (f64, f64, f64)) {
    let (left, right) = (x + AXIS, x + width - LABELS);
    let (top, bottom) = (y + 38.0, y + HIGH - 52.0);
    let scale = Scale::over(panel.marks.iter().flat_map(|m| &m.points).map(|(_, ns)| ns.max(1.0)));
    let (across, up) = (
        |nines: f64| left + (nines / MOST).clamp(0.0, 1.0) * (right - left),
        |ns: f64| bottom - scale.at(ns) * (bottom - top),
    );
    pen.bold((left, y + 16.0), Anchor::Left, FONT, INK, &panel.title);
    for tick in scale.ticks() {
        pen.line((left, up(tick)), (right, up(tick)), RULE, 1.0);
        pen.text((left - 8.0, up(tick)), Anchor::Right, FONT * 0.8, INK, &time(tick));
    }
    for (nines, name) in NINES {
        pen.line((across(nines), top), (across(nines), bottom), RULE, 1.0);
        pen.text((across(nines), bottom + 15.0), Anchor::Middle, FONT * 0.8, INK, name);
    }
    pen.text(((left + right) / 2.0, bottom + 36.0), Anchor::Middle, FONT * 0.85, INK, "percentile");
    // Ours last, so that they lie on top.
    for strong in [false, true] {
        for mark in panel.marks.iter().filter(|m| m.strong == strong) {
            let points: Vec<_> = mark.points.iter().map(|(n, ns)| (across(*n), up(*ns))).collect();
            pen.path(&points, mark.colour, if strong { 3.0 } else { 2.0 });
        }
    }
    let ends: Vec<(f64, f64)> =
        panel.marks.iter().filter_map(|m| m.points.last()).map(|(n, ns)| (across(*n), up(*ns))).collect();
    let wanted: Vec<f64> = ends.iter().map(|(_, y)| *y).collect();
    let places = apart(&wanted, FONT * 1.12, top, bottom);
    let named = panel.marks.iter().filter(|m| !m.points.is_empty());
    for ((mark, end), place) in named.zip(&ends).zip(&places) {
        pen.path(&[*end, (right + 4.0, end.1), (right + 16.0, *place)], mark.colour, 1.0);
        let at = (right + 20.0, *place);
        match mark.strong {
            true => pen.bold(at, Anchor::Left, FONT * 0.86, mark.colour, &fit(&mark.name, NAME - 2)),
            false => pen.text(at, Anchor::Left, FONT * 0.86, mark.colour, &fit(&mark.name, NAME)),
        }
    }
    pen.path(&[(left, top), (left, bottom), (right, bottom)], INK, 1.5);
}
