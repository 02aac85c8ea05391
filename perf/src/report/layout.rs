//! The layout that all charts share: frames with axes, headings and legends.

use super::scale::Scale;
use super::svg::{Svg, colour, text_width};

/// Width in pixels of the empty margin around every chart.
pub(crate) const MARGIN: f64 = 16.0;
/// Height in pixels of one line of a chart's legend.
const LEGEND_LINE: f64 = 18.0;
/// Minimum distance in pixels, horizontally or vertically, between consecutive points of a drawn
/// line. Points that are closer to the previous one are left out.
const MIN_DISTANCE: f64 = 0.4;

/// The rectangle, in pixels, in which a plot is drawn, without its axis labels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

impl Frame {
    /// Returns the horizontal position of the frame's right edge, in pixels from the left of the
    /// chart.
    pub(crate) fn right(&self) -> f64 {
        self.left + self.width
    }

    /// Returns the vertical position of the frame's lower edge, in pixels from the top of the
    /// chart.
    pub(crate) fn bottom(&self) -> f64 {
        self.top + self.height
    }

    /// Converts a value on the frame's lower axis, which has the scale `scale`, to a horizontal
    /// position in pixels from the left of the chart.
    pub(crate) fn x(&self, scale: Scale, value: f64) -> f64 {
        self.left + scale.place(value) * self.width
    }

    /// Converts a value on the frame's left axis, which has the scale `scale`, to a vertical
    /// position in pixels from the top of the chart.
    pub(crate) fn y(&self, scale: Scale, value: f64) -> f64 {
        self.bottom() - scale.place(value) * self.height
    }

    /// Draws the left axis of a plot: the grid lines with their labels, and the axis title `name`.
    /// `label` formats the label of a value.
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
        svg.rotated_text([MARGIN + 8.0, self.top + self.height / 2.0], "middle", name);
    }

    /// Draws the lower axis of a plot: the grid lines with their labels, and the axis title `name`.
    /// `label` formats the label of a value.
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

/// Draws the chart's title, and `subtitle` on the line below it.
pub(crate) fn heading(svg: &mut Svg, subtitle: &str) {
    let title = svg.title().to_owned();
    svg.text([MARGIN, MARGIN + 14.0], "title", &title);
    svg.text([MARGIN, MARGIN + 33.0], "subtitle", subtitle);
}

/// Legend of a chart: the names of the data series with their colours, from left to right on as
/// many lines as needed.
#[derive(Debug)]
pub(crate) struct Legend {
    /// Entries of the legend. Each has the name of its data series, the index of the series, which
    /// determines the colour, and the entry's position in pixels from the legend's upper left
    /// corner.
    entries: Vec<(String, usize, [f64; 2])>,
    /// Height of the whole legend in pixels.
    pub(crate) height: f64,
}

impl Legend {
    /// Lays out a legend that is at most `width` pixels wide, for the data series with these names.
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

    /// Draws the legend with its upper left corner at the given point.
    pub(crate) fn draw(&self, svg: &mut Svg, [left, top]: [f64; 2]) {
        for (name, series, [x, y]) in &self.entries {
            let class = format!("{} fill", colour(*series));
            svg.rect([left + x, top + y + 2.0], [16.0, 10.0], &class, "");
            svg.text([left + x + 22.0, top + y + 11.5], "", name);
        }
    }
}

/// Simplifies a line for drawing: drops each point that is closer than `MIN_DISTANCE` pixels to the
/// last point kept, but always keeps the line's last point.
pub(crate) fn simplified(points: impl IntoIterator<Item = [f64; 2]>) -> Vec<[f64; 2]> {
    let mut kept: Vec<[f64; 2]> = Vec::new();
    let mut last = None;
    for point in points {
        let near = |other: &[f64; 2]| {
            (other[0] - point[0]).abs() < MIN_DISTANCE && (other[1] - point[1]).abs() < MIN_DISTANCE
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
