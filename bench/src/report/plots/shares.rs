//! What each approach adds, on a logarithmic axis: a dot for the median, a line to the best round, a ring where it is only bounded.

use plotters::style::RGBColor;

use super::pen::{Anchor, INK, Pen, RULE, picture};
use super::scale::Scale;
use super::{FONT, NAME, Panel, WIDTH, fit};
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

const ROW: f64 = 25.0;
const LEFT: f64 = 242.0;
const LABEL: f64 = 84.0;
const TOP: f64 = 50.0;
const ACROSS: usize = 3;

/// Panels of shares, all of one scale and with the same names in the same order.
pub(crate) fn shares(label: &str, panels: &[Panel<Share>]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for mark in panels.iter().flat_map(|p| &p.marks) {
        if !names.contains(&mark.name.as_str()) {
            names.push(&mark.name);
        }
    }
    let figures =
        || panels.iter().flat_map(|p| &p.marks).flat_map(|m| [Some(m.median), m.best.filter(|b| *b > 0.0)]);
    let low = figures().flatten().filter(|f| *f > 0.0).fold(f64::INFINITY, f64::min);
    let high = figures().flatten().fold(0.0, f64::max);
    let scale = if low.is_finite() { Scale::log(low, high) } else { Scale::log(1e3, 1e6) };
    let across = panels.len().clamp(1, ACROSS);
    let high = names.len() as f64 * ROW + 92.0;
    picture(WIDTH, high * panels.len().div_ceil(across) as f64, label, |pen| {
        for (n, panel) in panels.iter().enumerate() {
            let width = (WIDTH - LEFT) / across as f64;
            let (x, y) = (LEFT + (n % across) as f64 * width, (n / across) as f64 * high);
            if n % across == 0 {
                for (row, name) in names.iter().enumerate() {
                    let strong = panels.iter().flat_map(|p| &p.marks).any(|m| m.name == *name && m.strong);
                    let at = (LEFT - 10.0, y + TOP + (row as f64 + 0.5) * ROW);
                    match strong {
                        true => pen.bold(at, Anchor::Right, FONT, INK, &fit(name, NAME - 3)),
                        false => pen.text(at, Anchor::Right, FONT, INK, &fit(name, NAME)),
                    }
                }
            }
            one(pen, panel, &names, scale, (x, y, width - 14.0));
        }
    })
}

fn one(pen: &Pen<'_>, panel: &Panel<Share>, names: &[&str], scale: Scale, (x, y, width): (f64, f64, f64)) {
    let (top, length) = (y + TOP, width - LABEL);
    let bottom = top + names.len() as f64 * ROW;
    pen.text(
        (x, y + 34.0),
        Anchor::Left,
        FONT * 0.85,
        INK,
        &fit(&panel.note, (width / (FONT * 0.56)) as usize),
    );
    pen.bold((x, y + 14.0), Anchor::Left, FONT, INK, &fit(&panel.title, (width / (FONT * 0.66)) as usize));
    for (row, _) in names.iter().enumerate() {
        let middle = top + (row as f64 + 0.5) * ROW;
        pen.line((x, middle), (x + length, middle), RULE, 1.0);
    }
    for tick in scale.ticks() {
        let at = x + scale.at(tick) * length;
        pen.line((at, top), (at, bottom), RULE, 1.0);
        pen.text((at, bottom + 14.0), Anchor::Middle, FONT * 0.8, INK, &short_time(tick));
    }
    for mark in &panel.marks {
        let Some(row) = names.iter().position(|n| *n == mark.name) else { continue };
        let middle = top + (row as f64 + 0.5) * ROW;
        let at = x + scale.at(mark.median) * length;
        if let Some(best) = mark.best {
            pen.line((x + scale.at(best) * length, middle), (at, middle), mark.colour, 3.0);
        }
        pen.dot((at, middle), 6.5, mark.colour, mark.best.is_some());
        pen.text((at + 13.0, middle), Anchor::Left, FONT * 0.9, INK, &mark.label);
    }
    pen.line((x, top - 4.0), (x, bottom), INK, 1.5);
}

/// A time beside an axis: round, so without decimals.
fn short_time(ns: f64) -> String {
    time(ns).replace(".00", "").replace(".0 ", " ")
}
