//! Plots, as SVG that stands in a page.
//!
//! A plot knows nothing of result files: it gets names, colours and figures. Its unit is a twelve-hundredth of the page's width.

mod bars;
mod palette;
mod pen;
mod rows;
mod scale;
mod shares;
mod strips;
mod tails;

pub(super) use bars::{Bar, bars};
pub(super) use palette::{colour, hex};
pub(super) use shares::{Share, shares};
pub(super) use strips::{Strip, strips};
pub(super) use tails::{Tail, tails};

/// Width of every plot.
const WIDTH: f64 = 1200.0;
/// Size of text.
const FONT: f64 = 15.0;
/// Characters of a name beside a plot; tables have all of it.
const NAME: usize = 26;

/// A name that is not too long for a plot.
fn fit(name: &str, most: usize) -> String {
    match name.chars().count() {
        n if n <= most => name.to_owned(),
        _ => name.chars().take(most.saturating_sub(1)).chain(['\u{2026}']).collect(),
    }
}

/// One group of marks: what stands side by side with others of the same scale.
#[derive(Debug, Clone)]
pub(super) struct Panel<T> {
    /// What it shows.
    pub(super) title: String,
    /// What has to be known of it besides.
    pub(super) note: String,
    /// Its marks.
    pub(super) marks: Vec<T>,
}
