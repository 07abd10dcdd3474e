//! Bars by approach, a panel for each path: best as the bar, median as a tick in it.

use plotters::style::RGBColor;

use super::pen::{Anchor, INK, Pen, RULE, picture};
use super::scale::Scale;
use super::{FONT, NAME, Panel, WIDTH, fit};

/// A bar.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    /// Whose.
    pub(crate) name: String,
    /// Its colour.
    pub(crate) colour: RGBColor,
    /// Its length.
    pub(crate) best: f64,
    /// Where its tick is.
    pub(crate) median: f64,
    /// What is written at its end.
    pub(crate) label: String,
    /// It stands for itself or is the measure of others; ours are written bold.
    pub(crate) strong: bool,
}

const ROW: f64 = 25.0;
const LEFT: f64 = 242.0;
const LABEL: f64 = 84.0;
const TOP: f64 = 50.0;
/// Panels beside each other.
const ACROSS: usize = 3;

/// Panels of bars, all of one scale and with the same names in the same order.
pub(crate) fn bars(label: &str, panels: &[Panel<Bar>]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for bar in panels.iter().flat_map(|p| &p.marks) {
        if !names.contains(&bar.name.as_str()) {
            names.push(&bar.name);
        }
    }
    let across = panels.len().clamp(1, ACROSS);
    let high = names.len() as f64 * ROW + 68.0;
    let lines = panels.len().div_ceil(across);
    let scale =
        Scale::from_zero(panels.iter().flat_map(|p| &p.marks).fold(0.0, |m, b| b.best.max(b.median).max(m)));
    picture(WIDTH, high * lines as f64, label, |pen| {
        for (n, panel) in panels.iter().enumerate() {
            let width = (WIDTH - LEFT) / across as f64;
            let (x, y) = (LEFT + (n % across) as f64 * width, (n / across) as f64 * high);
            if n % across == 0 {
                for (row, name) in names.iter().enumerate() {
                    let bar = panels.iter().flat_map(|p| &p.marks).find(|b| b.name == *name);
                    let at = (LEFT - 10.0, y + TOP + (row as f64 + 0.5) * ROW);
                    match bar.is_some_and(|b| b.strong) {
                        true => pen.bold(at, Anchor::Right, FONT, INK, &fit(name, NAME - 3)),
                        false => pen.text(at, Anchor::Right, FONT, INK, &fit(name, NAME)),
                    }
                }
            }
            one(pen, panel, &names, scale, (x, y, width - 14.0));
        }
    })
}

fn one(pen: &Pen<'_>, panel: &Panel<Bar>, names: &[&str], scale: Scale, (x, y, width): (f64, f64, f64)) {
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
    for tick in scale.ticks() {
        let at = x + scale.at(tick) * length;
        pen.line((at, top), (at, bottom), RULE, 1.0);
    }
    for (row, name) in names.iter().enumerate() {
        let middle = top + (row as f64 + 0.5) * ROW;
        let Some(bar) = panel.marks.iter().find(|b| b.name == *name) else {
            pen.text((x + 6.0, middle), Anchor::Left, FONT * 0.85, INK, "did not run");
            continue;
        };
        let end = x + scale.at(bar.best) * length;
        pen.area((x, middle - ROW * 0.36), (end.max(x + 1.0), middle + ROW * 0.36), bar.colour, 1.0);
        let median = x + scale.at(bar.median) * length;
        pen.line((median, middle - ROW * 0.46), (median, middle + ROW * 0.46), INK, 1.5);
        pen.text((end.max(median) + 6.0, middle), Anchor::Left, FONT * 0.9, INK, &bar.label);
    }
    pen.line((x, top - 4.0), (x, bottom + 4.0), INK, 1.5);
}
