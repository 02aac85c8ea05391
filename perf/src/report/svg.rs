//! A minimal SVG writer: shapes, texts and paths with CSS classes. It escapes texts, and is
//! independent of what the charts show.

use std::fmt::Write as _;

/// Style sheet of all charts, for light and dark backgrounds. The CSS classes `c0` to `c7` select
/// the colour of a data series; `line`, `fill` and `band` select how a shape uses the colour.
pub(crate) const STYLE: &str = include_str!("picture.css");

/// Number of different colours for data series. Series beyond this number reuse the colours.
const COLOURS: usize = 8;

/// A chart that is being drawn: its title, its size, and the text of its SVG elements so far.
#[derive(Debug)]
pub(crate) struct Svg {
    width: f64,
    height: f64,
    title: String,
    body: String,
}

/// Returns the CSS class for the colour of data series number `series`, from `c0` to `c7`.
pub(crate) fn colour(series: usize) -> String {
    format!("c{}", series % COLOURS)
}

/// Escapes text for XML and HTML elements and quoted attributes. Control characters become spaces,
/// and other characters that XML does not allow are dropped.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{FFFE}' | '\u{FFFF}' => (),
            char if char.is_control() => escaped.push(' '),
            char => escaped.push(char),
        }
    }
    escaped
}

/// Estimates the width in pixels of a text in the 12-pixel font of the charts.
pub(crate) fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * 6.5
}

impl Svg {
    /// Creates an empty chart; `width` and `height` are in pixels.
    pub(crate) fn new(title: &str, width: f64, height: f64) -> Svg {
        Svg { width, height, title: title.to_owned(), body: String::new() }
    }

    /// Returns the chart's title, which is also its description for screen readers.
    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    fn add(&mut self, part: std::fmt::Arguments<'_>) {
        self.body.write_fmt(part).expect("writing to a String cannot fail");
        // One element per line, which keeps diffs of changed charts short.
        if self.body.ends_with('>') {
            self.body.push('\n');
        }
    }

    /// Draws a text at the point (`x`, `y`). `class` may contain `start`, `middle` or `end` to
    /// specify which part of the text is at `x`.
    pub(crate) fn text(&mut self, [x, y]: [f64; 2], class: &str, text: &str) {
        let text = escape(text);
        self.add(format_args!(r#"<text x="{x:.1}" y="{y:.1}" class="{class}">{text}</text>"#));
    }

    /// Draws a text at the point (`x`, `y`), rotated by 90 degrees. `class` may contain `start`,
    /// `middle` or `end` to specify which part of the text is at this point.
    pub(crate) fn rotated_text(&mut self, [x, y]: [f64; 2], class: &str, text: &str) {
        let text = escape(text);
        self.add(format_args!(
            r#"<text transform="translate({x:.1} {y:.1}) rotate(-90)" class="{class}">"#
        ));
        self.add(format_args!("{text}</text>"));
    }

    /// Draws a straight line from (`x1`, `y1`) to (`x2`, `y2`) with the CSS class `class`.
    pub(crate) fn line(&mut self, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2], class: &str) {
        self.add(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="{class}"/>"#
        ));
    }

    /// Draws a rectangle with its upper left corner at (`x`, `y`), the width `w` and the height
    /// `h`. `hint` is its tooltip.
    pub(crate) fn rect(&mut self, [x, y]: [f64; 2], [w, h]: [f64; 2], class: &str, hint: &str) {
        let hint = hint_element(hint);
        self.add(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{w:.1}" height="{h:.1}" class="{class}">"#
        ));
        self.add(format_args!("{hint}</rect>"));
    }

    /// Draws a translucent rectangle with an `opacity` from 0 (invisible) to 1 (opaque). `hint` is
    /// its tooltip.
    pub(crate) fn shade(
        &mut self,
        [x, y]: [f64; 2],
        [w, h]: [f64; 2],
        class: &str,
        opacity: f64,
        hint: &str,
    ) {
        let hint = hint_element(hint);
        self.add(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{w:.1}" height="{h:.1}" class="{class}""#
        ));
        self.add(format_args!(r#" fill-opacity="{opacity:.2}">{hint}</rect>"#));
    }

    /// Draws a dot of the given radius in pixels. `hint` is its tooltip.
    pub(crate) fn dot(&mut self, [x, y]: [f64; 2], radius: f64, class: &str, hint: &str) {
        let hint = hint_element(hint);
        self.add(format_args!(
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius:.1}" class="{class}">{hint}</circle>"#
        ));
    }

    /// Draws a line that connects all points in order. `hint` is its tooltip.
    pub(crate) fn polyline(&mut self, points: &[[f64; 2]], class: &str, hint: &str) {
        let path = path(points);
        let hint = hint_element(hint);
        self.add(format_args!(r#"<path d="{path}" class="{class}">{hint}</path>"#));
    }

    /// Draws a polygon with the given corners.
    pub(crate) fn polygon(&mut self, points: &[[f64; 2]], class: &str) {
        let path = path(points);
        self.add(format_args!(r#"<path d="{path}Z" class="{class}"/>"#));
    }

    /// Begins a group of SVG elements with the name `name`; [`Svg::end_group`] ends it. Tests and
    /// tools find the elements of a chart by these names.
    pub(crate) fn begin_group(&mut self, class: &str, name: &str) {
        let name = escape(name);
        self.add(format_args!(r#"<g class="{class}" data-name="{name}">"#));
    }

    /// Ends the innermost group of SVG elements that is still open.
    pub(crate) fn end_group(&mut self) {
        self.add(format_args!("</g>"));
    }

    /// Returns the chart as an SVG element for an HTML page that includes [`STYLE`].
    pub(crate) fn inline(&self) -> String {
        self.element("", "")
    }

    /// Returns the chart as the text of a stand-alone SVG file, including [`STYLE`].
    pub(crate) fn file(&self) -> String {
        self.element(
            &format!(
                r#" xmlns="http://www.w3.org/2000/svg" width="{:.0}" height="{:.0}""#,
                self.width, self.height
            ),
            &format!("<style>\n{STYLE}</style>\n"),
        )
    }

    fn element(&self, attributes: &str, head: &str) -> String {
        let (width, height, title) = (self.width, self.height, escape(&self.title));
        format!(
            r#"<svg{attributes} viewBox="0 0 {width:.0} {height:.0}" class="picture" role="img">
<title>{title}</title>
{head}<rect width="{width:.0}" height="{height:.0}" class="paper"/>
{body}</svg>
"#,
            body = self.body
        )
    }
}

fn hint_element(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("<title>{}</title>", escape(hint)) }
}

fn path(points: &[[f64; 2]]) -> String {
    let mut path = String::new();
    for (number, [x, y]) in points.iter().enumerate() {
        let command = if number == 0 { 'M' } else { 'L' };
        write!(path, "{command}{x:.1} {y:.1}").expect("writing to a String cannot fail");
    }
    path
}
