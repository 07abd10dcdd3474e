//! Distributions up to the 99.99th percentile: quantiles along the axis by their nines, figures upwards.

use plotters::style::RGBColor;

use super::pen::{Anchor, INK, Pen, RULE, picture};
use super::scale::Scale;
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
const HIGH: f64 = 360.0;
const AXIS: f64 = 68.0;
const ACROSS: usize = 3;
/// The legend: height of a line, width of a character of a name.
const LINE: f64 = 24.0;
const LETTER: f64 = FONT * 0.62;

/// Panels of distributions, three beside each other, each with a scale of its own; one legend for all.
pub(crate) fn tails(label: &str, panels: &[Panel<Tail>]) -> String {
    let across = panels.len().clamp(1, ACROSS);
    let (width, lines) = (WIDTH / across as f64, panels.len().div_ceil(across));
    let legend = legend(panels);
    let below = HIGH * lines as f64;
    let high = below + legend.last().map_or(0.0, |(_, _, y)| y + LINE);
    picture(WIDTH, high, label, |pen| {
        for (n, panel) in panels.iter().enumerate() {
            one(pen, panel, ((n % across) as f64 * width, (n / across) as f64 * HIGH, width));
        }
        for (mark, x, y) in &legend {
            let y = below + y + LINE / 2.0;
            pen.line((*x, y), (x + 24.0, y), mark.colour, if mark.strong { 5.0 } else { 3.0 });
            match mark.strong {
                true => pen.bold((x + 31.0, y), Anchor::Left, FONT, INK, &fit(&mark.name, NAME)),
                false => pen.text((x + 31.0, y), Anchor::Left, FONT, INK, &fit(&mark.name, NAME)),
            }
        }
    })
}

/// Who is shown, and where in the legend.
fn legend(panels: &[Panel<Tail>]) -> Vec<(&Tail, f64, f64)> {
    let mut places: Vec<(&Tail, f64, f64)> = Vec::new();
    let (mut x, mut y) = (AXIS, 0.0);
    for mark in panels.iter().flat_map(|p| &p.marks) {
        if places.iter().any(|(seen, ..)| seen.name == mark.name) {
            continue;
        }
        let letters = fit(&mark.name, NAME).chars().count() as f64;
        let width = 58.0 + letters * LETTER * if mark.strong { 1.12 } else { 1.0 };
        if x + width > WIDTH && x > AXIS {
            (x, y) = (AXIS, y + LINE);
        }
        places.push((mark, x, y));
        x += width;
    }
    places
}

fn one(pen: &Pen<'_>, panel: &Panel<Tail>, (x, y, width): (f64, f64, f64)) {
    let (left, right) = (x + AXIS, x + width - 24.0);
    let (top, bottom) = (y + 38.0, y + HIGH - 58.0);
    // The least differences say little, and on a logarithmic axis they would take most of it.
    let shown = panel.marks.iter().flat_map(|m| &m.points).filter(|(nines, _)| *nines >= 0.3);
    let scale = Scale::over(shown.map(|(_, ns)| ns.max(1.0)));
    let (across, up) = (
        |nines: f64| left + (nines / MOST).clamp(0.0, 1.0) * (right - left),
        |ns: f64| bottom - scale.at(ns) * (bottom - top),
    );
    pen.bold((left, y + 16.0), Anchor::Left, FONT, INK, &panel.title);
    for tick in scale.ticks() {
        pen.line((left, up(tick)), (right, up(tick)), RULE, 1.0);
        pen.text((left - 8.0, up(tick)), Anchor::Right, FONT * 0.82, INK, &time(tick));
    }
    for (nines, name) in NINES {
        pen.line((across(nines), top), (across(nines), bottom), RULE, 1.0);
        pen.text((across(nines), bottom + 15.0), Anchor::Middle, FONT * 0.82, INK, name);
    }
    pen.text(((left + right) / 2.0, bottom + 36.0), Anchor::Middle, FONT * 0.85, INK, "percentile");
    // Ours last, so that they lie on top.
    for strong in [false, true] {
        for mark in panel.marks.iter().filter(|m| m.strong == strong) {
            let points: Vec<_> = mark.points.iter().map(|(n, ns)| (across(*n), up(*ns))).collect();
            pen.path(&points, mark.colour, if strong { 3.0 } else { 2.0 });
        }
    }
    pen.path(&[(left, top), (left, bottom), (right, bottom)], INK, 1.5);
}
