//! What draws: plotters' SVG, in the plots' unit, into a string.

use plotters::backend::SVGBackend;
use plotters::prelude::{Circle, IntoDrawingArea, PathElement, Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, FontFamily, FontStyle, IntoFont as _, RGBColor, ShapeStyle};

/// SVG units of ours: plotters rounds coordinates to whole ones.
const FINE: f64 = 4.0;
/// Sizes of text are given in those of plotters' fonts, which it divides by this.
const EM: f64 = 1.24;

/// Of text and axes.
pub(super) const INK: RGBColor = RGBColor(0x33, 0x3a, 0x44);
/// Of lines that guide the eye.
pub(super) const RULE: RGBColor = RGBColor(0xdd, 0xe1, 0xe6);
/// Of what went wrong.
pub(super) const ALARM: RGBColor = RGBColor(0xc8, 0x10, 0x2e);

type Area<'a> = plotters::prelude::DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Where a text stands to its point.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Left,
    Middle,
    Right,
}

/// Draws. Writing into memory does not fail, so nothing here does.
pub(super) struct Pen<'a>(Area<'a>);

/// A picture as wide as all and so high; `label` says what it shows to those who do not see it.
pub(super) fn picture(width: f64, height: f64, label: &str, draw: impl FnOnce(&Pen<'_>)) -> String {
    let mut svg = String::new();
    {
        let size = (fine(width) as u32, fine(height) as u32);
        let pen = Pen(SVGBackend::with_string(&mut svg, size).into_drawing_area());
        draw(&pen);
        let _ = pen.0.present();
    }
    // The page scales it and says what it is, so its own first tag goes.
    let body = svg.split_once('>').map_or("", |(_, body)| body);
    let view = format!("0 0 {} {}", fine(width), fine(height));
    maud::html! {
        svg viewBox=(view) role="img" aria-label=(label) preserveAspectRatio="xMinYMin meet" {
            (maud::PreEscaped(body.trim_end().trim_end_matches("</svg>")))
        }
    }
    .into_string()
}

/// A whole number of SVG units; far beyond a picture there is nothing to see.
fn fine(length: f64) -> i32 {
    (length * FINE).clamp(-1e6, 1e6).round() as i32
}

fn point((x, y): (f64, f64)) -> (i32, i32) {
    (fine(x), fine(y))
}

fn stroke(colour: RGBColor, width: f64) -> ShapeStyle {
    colour.stroke_width((width * FINE).round().max(1.0) as u32)
}

impl Pen<'_> {
    pub(super) fn path(&self, points: &[(f64, f64)], colour: RGBColor, width: f64) {
        let points: Vec<_> = points.iter().copied().map(point).collect();
        let _ = self.0.draw(&PathElement::new(points, stroke(colour, width)));
    }

    pub(super) fn line(&self, from: (f64, f64), to: (f64, f64), colour: RGBColor, width: f64) {
        self.path(&[from, to], colour, width);
    }

    /// A filled rectangle, of which less than all may show.
    pub(super) fn area(&self, from: (f64, f64), to: (f64, f64), colour: RGBColor, opacity: f64) {
        let _ = self.0.draw(&Rectangle::new([point(from), point(to)], colour.mix(opacity).filled()));
    }

    pub(super) fn dot(&self, at: (f64, f64), radius: f64, colour: RGBColor, filled: bool) {
        let style = if filled { colour.filled() } else { stroke(colour, 1.5) };
        let _ = self.0.draw(&Circle::new(point(at), fine(radius), style));
    }

    /// A line of text, its middle at the height of the point.
    pub(super) fn text(&self, at: (f64, f64), anchor: Anchor, size: f64, colour: RGBColor, text: &str) {
        self.write(at, anchor, size, colour, FontStyle::Normal, text);
    }

    pub(super) fn bold(&self, at: (f64, f64), anchor: Anchor, size: f64, colour: RGBColor, text: &str) {
        self.write(at, anchor, size, colour, FontStyle::Bold, text);
    }

    fn write(
        &self,
        at: (f64, f64),
        anchor: Anchor,
        size: f64,
        colour: RGBColor,
        font: FontStyle,
        text: &str,
    ) {
        let h = match anchor {
            Anchor::Left => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::Right => HPos::Right,
        };
        let style = (FontFamily::SansSerif, size * FINE * EM, font).into_font().color(&colour);
        // The SVG backend sets text in the middle by half an x-height.
        let _ = self.0.draw(&Text::new(text.to_owned(), point(at), style.pos(Pos::new(h, VPos::Center))));
    }
}
