//! Bars by approach, a panel for each path: best as the bar, median as a tick in it.

use plotters::style::RGBColor;

use super::pen::{Anchor, INK, RULE};
use super::rows::{Area, Mark, ROW, rows};
use super::scale::Scale;
use super::{FONT, Panel};

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

impl Mark for Bar {
    fn name(&self) -> &str {
        &self.name
    }

    fn strong(&self) -> bool {
        self.strong
    }
}

/// Panels of bars, all of one scale and with the same names in the same order.
pub(crate) fn bars(label: &str, panels: &[Panel<Bar>]) -> String {
    let longest = panels.iter().flat_map(|p| &p.marks).fold(0.0, |m, b| b.best.max(b.median).max(m));
    let scale = Scale::from_zero(longest);
    rows(label, panels, 18.0, |pen, panel, names, area| {
        let Area { x, length, top, bottom } = area;
        for tick in scale.ticks() {
            let at = x + scale.at(tick) * length;
            pen.line((at, top), (at, bottom), RULE, 1.0);
        }
        for (row, name) in names.iter().enumerate() {
            let middle = area.middle(row);
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
    })
}
