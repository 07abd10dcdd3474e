//! Panels beside each other with a row for each approach: the same names in the same order, written once a line of panels.

use super::pen::{Anchor, INK, Pen, picture};
use super::{FONT, NAME, Panel, WIDTH, fit};

/// Height of a row.
pub(super) const ROW: f64 = 25.0;
const LEFT: f64 = 242.0;
/// Room for what is written at a mark's end.
const LABEL: f64 = 84.0;
const TOP: f64 = 50.0;
/// Panels beside each other.
const ACROSS: usize = 3;

/// What stands in a row.
pub(super) trait Mark {
    /// Whose it is.
    fn name(&self) -> &str;
    /// It is one of ours or the measure of others: its name is written bold.
    fn strong(&self) -> bool;
}

/// Where the rows of a panel are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    pub(super) x: f64,
    /// Of what a scale spans.
    pub(super) length: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
}

impl Area {
    /// The middle of a row.
    pub(super) fn middle(&self, row: usize) -> f64 {
        self.top + (row as f64 + 0.5) * ROW
    }
}

/// Draws names, titles and notes, and has `one` draw what is in a panel; `below` is the room that it needs under the rows.
pub(super) fn rows<M: Mark>(
    label: &str,
    panels: &[Panel<M>],
    below: f64,
    one: impl Fn(&Pen<'_>, &Panel<M>, &[&str], Area),
) -> String {
    let marks = || panels.iter().flat_map(|p| &p.marks);
    let mut names: Vec<&str> = Vec::new();
    for mark in marks() {
        if !names.contains(&mark.name()) {
            names.push(mark.name());
        }
    }
    let across = panels.len().clamp(1, ACROSS);
    let high = TOP + names.len() as f64 * ROW + below;
    picture(WIDTH, high * panels.len().div_ceil(across) as f64, label, |pen| {
        for (n, panel) in panels.iter().enumerate() {
            let width = (WIDTH - LEFT) / across as f64;
            let (x, y) = (LEFT + (n % across) as f64 * width, (n / across) as f64 * high);
            let width = width - 14.0;
            let (top, length) = (y + TOP, width - LABEL);
            let area = Area { x, length, top, bottom: top + names.len() as f64 * ROW };
            if n % across == 0 {
                for (row, name) in names.iter().enumerate() {
                    let at = (LEFT - 10.0, area.middle(row));
                    match marks().any(|m| m.name() == *name && m.strong()) {
                        true => pen.bold(at, Anchor::Right, FONT, INK, &fit(name, NAME - 3)),
                        false => pen.text(at, Anchor::Right, FONT, INK, &fit(name, NAME)),
                    }
                }
            }
            let letters = |each: f64| (width / (FONT * each)) as usize;
            pen.bold((x, y + 14.0), Anchor::Left, FONT, INK, &fit(&panel.title, letters(0.66)));
            pen.text((x, y + 34.0), Anchor::Left, FONT * 0.85, INK, &fit(&panel.note, letters(0.56)));
            one(pen, panel, &names, area);
        }
    })
}
