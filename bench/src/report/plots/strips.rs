//! Goodput over time, a strip for each approach: every round a line, stalls behind them.

use plotters::style::RGBColor;

use super::pen::{ALARM, Anchor, INK, Pen, RULE, picture};
use super::scale::Scale;
use super::{FONT, NAME, WIDTH, fit};
use crate::report::figure::rate;

/// One approach's runs.
#[derive(Debug, Clone)]
pub(crate) struct Strip {
    /// Whose.
    pub(crate) name: String,
    /// Its colour.
    pub(crate) colour: RGBColor,
    /// A line a run: seconds since the run began (the interval's middle), bits a second.
    pub(crate) lines: Vec<Vec<(f64, f64)>>,
    /// Of all runs: begin and length in seconds.
    pub(crate) stalls: Vec<(f64, f64)>,
    /// It is one of ours.
    pub(crate) strong: bool,
}

const ACROSS: usize = 4;
const HIGH: f64 = 108.0;
const AXIS: f64 = 74.0;

/// Strips of one scale, four beside each other.
pub(crate) fn strips(label: &str, strips: &[Strip]) -> String {
    let points = || strips.iter().flat_map(|s| &s.lines).flatten();
    let up = Scale::from_zero(points().fold(0.0, |m, (_, bits)| bits.max(m)));
    let end = points().fold(1.0, |m: f64, (t, _)| m.max(t + 0.5));
    let lines = strips.len().div_ceil(ACROSS).max(1);
    picture(WIDTH, HIGH * lines as f64 + 24.0, label, |pen| {
        for (n, strip) in strips.iter().enumerate() {
            let width = (WIDTH - AXIS) / ACROSS as f64;
            let (x, y) = (AXIS + (n % ACROSS) as f64 * width, (n / ACROSS) as f64 * HIGH);
            let last = n + ACROSS >= strips.len();
            one(pen, strip, up, end, (x, y, width - 18.0), n % ACROSS == 0, last);
        }
    })
}

fn one(
    pen: &Pen<'_>,
    strip: &Strip,
    scale: Scale,
    end: f64,
    (x, y, width): (f64, f64, f64),
    first: bool,
    last: bool,
) {
    let (top, bottom) = (y + 26.0, y + HIGH - 10.0);
    let across = |t: f64| x + (t / end).clamp(0.0, 1.0) * width;
    let up = |bits: f64| bottom - scale.at(bits) * (bottom - top);
    match strip.strong {
        true => pen.bold((x, y + 13.0), Anchor::Left, FONT * 0.9, INK, &fit(&strip.name, NAME)),
        false => pen.text((x, y + 13.0), Anchor::Left, FONT * 0.9, INK, &fit(&strip.name, NAME)),
    }
    if !strip.stalls.is_empty() {
        let s = if strip.stalls.len() == 1 { "" } else { "s" };
        let text = format!("{} stall{s}", strip.stalls.len());
        pen.text((x + width, y + 13.0), Anchor::Right, FONT * 0.8, ALARM, &text);
    }
    // Those of several rounds add up.
    let faint = (0.5 / strip.lines.len() as f64).clamp(0.08, 0.3);
    for (begin, seconds) in &strip.stalls {
        // One that is shorter than a line is wide is seen, too.
        let to = across(begin + seconds).max(across(*begin) + 2.0);
        pen.area((across(*begin), top), (to, bottom), ALARM, faint);
    }
    for tick in scale.ticks() {
        pen.line((x, up(tick)), (x + width, up(tick)), RULE, 1.0);
        if first {
            pen.text((x - 8.0, up(tick)), Anchor::Right, FONT * 0.75, INK, &short_rate(tick));
        }
    }
    for line in &strip.lines {
        let points: Vec<_> = line.iter().map(|(t, bits)| (across(*t), up(*bits))).collect();
        match points.as_slice() {
            [only] => pen.dot(*only, 3.0, strip.colour, true),
            all => pen.path(all, strip.colour, 1.8),
        }
    }
    pen.path(&[(x, top), (x, bottom), (x + width, bottom)], INK, 1.0);
    if last {
        pen.text((x, bottom + 14.0), Anchor::Left, FONT * 0.75, INK, "0 s");
        pen.text((x + width, bottom + 14.0), Anchor::Right, FONT * 0.75, INK, &format!("{end:.0} s"));
    }
}

/// A rate beside an axis: round, so without decimals.
fn short_rate(bits: f64) -> String {
    if bits == 0.0 {
        "0".to_owned()
    } else {
        rate(bits).replace(".00", "").replace(".0 ", " ").replace("bit/s", "b/s")
    }
}
