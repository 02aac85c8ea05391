//! The parts that pictures share: frames with their axes, headings and legends.

use super::scale::Scale;
use super::svg::{Svg, colour, text_width};

/// Around every picture.
pub(crate) const MARGIN: f64 = 16.0;
/// Between the lines of a legend.
const LEGEND_LINE: f64 = 18.0;
/// A frame's line is simplified to so many pixels.
const PIXELS_APART: f64 = 0.4;

/// Where values are drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

impl Frame {
    /// The right end.
    pub(crate) fn right(&self) -> f64 {
        self.left + self.width
    }

    /// The lower end.
    pub(crate) fn bottom(&self) -> f64 {
        self.top + self.height
    }

    /// Where a value lies from left to right.
    pub(crate) fn x(&self, scale: Scale, value: f64) -> f64 {
        self.left + scale.place(value) * self.width
    }

    /// Where a value lies upwards.
    pub(crate) fn y(&self, scale: Scale, value: f64) -> f64 {
        self.bottom() - scale.place(value) * self.height
    }

    /// Lines across for an axis on the left, with labels and what they are.
    pub(crate) fn left_axis(
        &self,
        svg: &mut Svg,
        scale: Scale,
        name: &str,
        label: impl Fn(f64) -> String,
    ) {
        for tick in scale.ticks(label) {
            let y = self.bottom() - tick.place * self.height;
            let class = if tick.label.is_some() { "grid" } else { "faint" };
            svg.line([self.left, y], [self.right(), y], class);
            if let Some(label) = tick.label {
                svg.text([self.left - 8.0, y + 4.0], "end", &label);
            }
        }
        svg.upright([MARGIN + 8.0, self.top + self.height / 2.0], "middle", name);
    }

    /// The same for an axis below.
    pub(crate) fn lower_axis(
        &self,
        svg: &mut Svg,
        scale: Scale,
        name: &str,
        label: impl Fn(f64) -> String,
    ) {
        for tick in scale.ticks(label) {
            let x = self.left + tick.place * self.width;
            let class = if tick.label.is_some() { "grid" } else { "faint" };
            svg.line([x, self.top], [x, self.bottom()], class);
            if let Some(label) = tick.label {
                svg.text([x, self.bottom() + 17.0], "middle", &label);
            }
        }
        svg.line([self.left, self.bottom()], [self.right(), self.bottom()], "axis");
        if !name.is_empty() {
            svg.text([self.left + self.width / 2.0, self.bottom() + 36.0], "middle", name);
        }
    }
}

/// The title, and under it what one has to know.
pub(crate) fn heading(svg: &mut Svg, subtitle: &str) {
    let title = svg.title().to_owned();
    svg.text([MARGIN, MARGIN + 14.0], "title", &title);
    svg.text([MARGIN, MARGIN + 33.0], "subtitle", subtitle);
}

/// Names of series with their colours, from left to right, in as many lines as they need.
#[derive(Debug)]
pub(crate) struct Legend {
    /// Each name, its colour, and its place.
    entries: Vec<(String, usize, [f64; 2])>,
    /// How high all lines are together.
    pub(crate) height: f64,
}

impl Legend {
    /// Of series 0, 1, 2 by name, within so many pixels. A single series needs none.
    pub(crate) fn new(names: &[String], width: f64) -> Legend {
        let (mut x, mut line) = (0.0, 0.0);
        let mut entries = Vec::new();
        for (series, name) in names.iter().enumerate() {
            let needs = 24.0 + text_width(name) + 18.0;
            if x > 0.0 && x + needs > width {
                (x, line) = (0.0, line + 1.0);
            }
            entries.push((name.clone(), series, [x, line * LEGEND_LINE]));
            x += needs;
        }
        let height = if entries.is_empty() { 0.0 } else { (line + 1.0) * LEGEND_LINE + 6.0 };
        Legend { entries, height }
    }

    /// Draws it from this point on downwards.
    pub(crate) fn draw(&self, svg: &mut Svg, [left, top]: [f64; 2]) {
        for (name, series, [x, y]) in &self.entries {
            let class = format!("{} fill", colour(*series));
            svg.rect([left + x, top + y + 2.0], [16.0, 10.0], &class, "");
            svg.text([left + x + 22.0, top + y + 11.5], "", name);
        }
    }
}

/// A line without the points that nobody could tell from their neighbours.
pub(crate) fn thinned(points: impl IntoIterator<Item = [f64; 2]>) -> Vec<[f64; 2]> {
    let mut kept: Vec<[f64; 2]> = Vec::new();
    let mut last = None;
    for point in points {
        let near = |other: &[f64; 2]| {
            (other[0] - point[0]).abs() < PIXELS_APART && (other[1] - point[1]).abs() < PIXELS_APART
        };
        last = if kept.last().is_some_and(near) {
            Some(point)
        } else {
            kept.push(point);
            None
        };
    }
    kept.extend(last);
    kept
}
