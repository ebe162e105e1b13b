//! Pictures as data: a list of marks that the page patches into its document and that is written out as SVG.
//!
//! Colours are roles ([`Paint`]) until a [`Theme`] resolves them, so that one drawing serves the light page, the dark page
//! and the exported file.

mod colours;
mod html;

use std::fmt::Write;

pub use colours::{Paint, Theme};
pub use html::variables;

/// A picture.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Drawing {
    /// Width in user units; the page scales the picture to the room there is.
    pub width: f64,
    /// Height in user units.
    pub height: f64,
    /// What it shows, in a few words: its accessible name and its title in a file.
    pub title: String,
    /// What a reader sees in it, in a sentence or two.
    pub summary: String,
    /// The marks, from back to front.
    pub marks: Vec<Mark>,
}

/// One mark.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    /// Its shape.
    pub shape: Shape,
    /// Colour of its area or of its text.
    pub fill: Paint,
    /// Colour of its line.
    pub stroke: Paint,
    /// Width of its line.
    pub stroke_width: f64,
    /// Opacity from 0 to 1.
    pub opacity: f64,
    /// What it stands for: hovering it marks the same thing in every view.
    pub subject: Subject,
    /// What hovering it says; without it, what the page knows of its subject.
    pub tip: Option<String>,
}

/// What a mark stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Subject {
    /// Nothing in particular.
    #[default]
    None,
    /// A decoder layer.
    Layer(usize),
    /// A module, by its position in layer-major order.
    Module {
        /// Its position in the layout.
        position: usize,
        /// The layer that it lies in, by position.
        layer: usize,
    },
    /// A trial of the study.
    Trial(usize),
}

/// The shape of a mark.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// A rectangle.
    Rect {
        /// Left.
        x: f64,
        /// Top.
        y: f64,
        /// Width.
        width: f64,
        /// Height.
        height: f64,
        /// Radius of its corners.
        radius: f64,
    },
    /// A straight line.
    Line {
        /// Start.
        x1: f64,
        /// Start.
        y1: f64,
        /// End.
        x2: f64,
        /// End.
        y2: f64,
        /// Whether it is dashed.
        dashed: bool,
    },
    /// A circle.
    Circle {
        /// Centre.
        cx: f64,
        /// Centre.
        cy: f64,
        /// Radius.
        r: f64,
    },
    /// A path in SVG's notation.
    Path(String),
    /// A line of text.
    Text {
        /// Where it is anchored.
        x: f64,
        /// Its baseline.
        y: f64,
        /// Which end is at `x`.
        anchor: Anchor,
        /// Size of its letters.
        size: f64,
        /// Whether it is bold.
        bold: bool,
        /// Whether it runs upwards.
        upwards: bool,
        /// The text.
        text: String,
    },
}

/// Which part of a text is at its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// Its start.
    Start,
    /// Its middle.
    Middle,
    /// Its end.
    End,
}

impl Mark {
    fn new(shape: Shape) -> Self {
        Self {
            shape,
            fill: Paint::None,
            stroke: Paint::None,
            stroke_width: 1.0,
            opacity: 1.0,
            subject: Subject::None,
            tip: None,
        }
    }

    /// A filled rectangle.
    pub fn rect(x: f64, y: f64, width: f64, height: f64, fill: Paint) -> Self {
        Self { fill, ..Self::new(Shape::Rect { x, y, width: width.max(0.0), height: height.max(0.0), radius: 0.0 }) }
    }

    /// A line.
    pub fn line(x1: f64, y1: f64, x2: f64, y2: f64, stroke: Paint) -> Self {
        Self { stroke, ..Self::new(Shape::Line { x1, y1, x2, y2, dashed: false }) }
    }

    /// A dashed line.
    pub fn dashed(x1: f64, y1: f64, x2: f64, y2: f64, stroke: Paint) -> Self {
        Self { stroke, ..Self::new(Shape::Line { x1, y1, x2, y2, dashed: true }) }
    }

    /// A filled circle.
    pub fn circle(cx: f64, cy: f64, r: f64, fill: Paint) -> Self {
        Self { fill, ..Self::new(Shape::Circle { cx, cy, r }) }
    }

    /// A line through points.
    pub fn polyline(points: impl IntoIterator<Item = (f64, f64)>, stroke: Paint) -> Self {
        let mut path = String::new();
        for (index, (x, y)) in points.into_iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(path, "{}{} {}", if index == 0 { 'M' } else { 'L' }, short(x), short(y));
        }
        Self { stroke, stroke_width: 1.5, ..Self::new(Shape::Path(path)) }
    }

    /// A filled shape along a path in SVG's notation.
    pub fn path(path: String, fill: Paint) -> Self {
        Self { fill, ..Self::new(Shape::Path(path)) }
    }

    /// A line of text.
    pub fn text(x: f64, y: f64, anchor: Anchor, size: f64, fill: Paint, text: impl Into<String>) -> Self {
        let shape = Shape::Text { x, y, anchor, size, bold: false, upwards: false, text: text.into() };
        Self { fill, ..Self::new(shape) }
    }

    /// The same text in bold.
    #[must_use]
    pub fn bold(mut self) -> Self {
        if let Shape::Text { bold, .. } = &mut self.shape {
            *bold = true;
        }
        self
    }

    /// The same text running upwards.
    #[must_use]
    pub fn upwards(mut self) -> Self {
        if let Shape::Text { upwards, .. } = &mut self.shape {
            *upwards = true;
        }
        self
    }

    /// The same rectangle with round corners.
    #[must_use]
    pub fn rounded(mut self, by: f64) -> Self {
        if let Shape::Rect { radius, .. } = &mut self.shape {
            *radius = by;
        }
        self
    }

    /// The same mark with an outline.
    #[must_use]
    pub fn outlined(self, stroke: Paint, stroke_width: f64) -> Self {
        Self { stroke, stroke_width, ..self }
    }

    /// The same mark, partly transparent.
    #[must_use]
    pub fn faded(self, opacity: f64) -> Self {
        Self { opacity, ..self }
    }

    /// The same mark, standing for something.
    #[must_use]
    pub fn about(self, subject: Subject) -> Self {
        Self { subject, ..self }
    }

    /// The same mark with what hovering it says.
    #[must_use]
    pub fn with_tip(self, tip: impl Into<String>) -> Self {
        Self { tip: Some(tip.into()), ..self }
    }

    /// Name of its SVG element.
    pub fn tag(&self) -> &'static str {
        match self.shape {
            Shape::Rect { .. } => "rect",
            Shape::Line { .. } => "line",
            Shape::Circle { .. } => "circle",
            Shape::Path(_) => "path",
            Shape::Text { .. } => "text",
        }
    }

    /// The text that it shows; empty for other shapes.
    pub fn content(&self) -> &str {
        match &self.shape {
            Shape::Text { text, .. } => text,
            _ => "",
        }
    }

    /// Attributes of its SVG element, in a fixed order. An attribute that does not apply is absent.
    pub fn attributes(&self, theme: Theme) -> Vec<(&'static str, String)> {
        let mut list = self.geometry();
        list.extend(self.painting(theme));
        list
    }

    /// Attributes that its shape decides.
    pub fn geometry(&self) -> Vec<(&'static str, String)> {
        let mut list = Vec::with_capacity(10);
        match &self.shape {
            Shape::Rect { x, y, width, height, radius } => {
                list.extend([("x", short(*x)), ("y", short(*y)), ("width", short(*width)), ("height", short(*height))]);
                if *radius > 0.0 {
                    list.push(("rx", short(*radius)));
                }
            }
            Shape::Line { x1, y1, x2, y2, dashed } => {
                list.extend([("x1", short(*x1)), ("y1", short(*y1)), ("x2", short(*x2)), ("y2", short(*y2))]);
                if *dashed {
                    list.push(("stroke-dasharray", "4 3".to_owned()));
                }
            }
            Shape::Circle { cx, cy, r } => list.extend([("cx", short(*cx)), ("cy", short(*cy)), ("r", short(*r))]),
            Shape::Path(path) => list.push(("d", path.clone())),
            Shape::Text { x, y, anchor, size, bold, upwards, .. } => {
                let anchor = match anchor {
                    Anchor::Start => "start",
                    Anchor::Middle => "middle",
                    Anchor::End => "end",
                };
                list.extend([("x", short(*x)), ("y", short(*y)), ("font-size", short(*size))]);
                list.push(("text-anchor", anchor.to_owned()));
                if *bold {
                    list.push(("font-weight", "600".to_owned()));
                }
                if *upwards {
                    list.push(("transform", format!("rotate(-90 {} {})", short(*x), short(*y))));
                }
            }
        }
        list
    }

    /// Whether it is `other` with another fill at the most.
    pub fn differs_in_fill_alone(&self, other: &Self) -> bool {
        self.shape == other.shape
            && self.stroke == other.stroke
            && self.stroke_width == other.stroke_width
            && self.opacity == other.opacity
            && self.subject == other.subject
            && self.tip == other.tip
    }

    /// All other attributes.
    pub fn painting(&self, theme: Theme) -> Vec<(&'static str, String)> {
        self.painted(|paint| theme.color(paint))
    }

    fn painted(&self, color: impl Fn(Paint) -> String) -> Vec<(&'static str, String)> {
        let mut list = Vec::with_capacity(4);
        list.push(("fill", color(self.fill)));
        if self.stroke != Paint::None {
            list.extend([("stroke", color(self.stroke)), ("stroke-width", short(self.stroke_width))]);
        }
        if self.opacity < 1.0 {
            list.push(("opacity", short(self.opacity)));
        }
        match self.subject {
            Subject::None => {}
            Subject::Layer(layer) => list.push(("data-layer", layer.to_string())),
            Subject::Module { position, layer } => {
                list.extend([("data-layer", layer.to_string()), ("data-module", position.to_string())]);
            }
            Subject::Trial(trial) => list.push(("data-trial", trial.to_string())),
        }
        list
    }
}

impl Drawing {
    /// The picture as an SVG document of its own. `note`, where given, becomes its metadata.
    pub fn to_svg(&self, theme: Theme, note: Option<&str>) -> String {
        let (width, height) = (short(self.width), short(self.height));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" font-family=\"system-ui, sans-serif\" role=\"img\">\n<title>{}</title>\n<desc>{}</desc>\n",
            escape(&self.title),
            escape(&self.summary)
        );
        if let Some(note) = note {
            let _ = writeln!(svg, "<metadata>{}</metadata>", escape(note));
        }
        let _ = writeln!(svg, "<rect width=\"100%\" height=\"100%\" fill=\"{}\"/>", theme.color(Paint::Page));
        self.write_marks(&mut svg, theme);
        svg.push_str("</svg>\n");
        svg
    }

    /// The marks alone, one element a line.
    pub fn write_marks(&self, svg: &mut String, theme: Theme) {
        self.write_with(svg, |mark| mark.attributes(theme));
    }

    fn write_with(&self, svg: &mut String, attributes: impl Fn(&Mark) -> Vec<(&'static str, String)>) {
        for mark in &self.marks {
            let _ = write!(svg, "<{}", mark.tag());
            for (name, value) in attributes(mark) {
                let _ = write!(svg, " {name}=\"{}\"", escape(&value));
            }
            let title = mark.tip.as_ref().map(|tip| format!("<title>{}</title>", escape(tip))).unwrap_or_default();
            match (mark.content(), title.as_str()) {
                ("", "") => svg.push_str("/>\n"),
                (text, title) => {
                    let _ = writeln!(svg, ">{title}{}</{}>", escape(text), mark.tag());
                }
            }
        }
    }
}

/// Text as it stands in an XML document. Characters that XML 1.0 does not allow become U+FFFD.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' | '\r' => escaped.push(c),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A coordinate with two decimals at most: a hundredth of a unit is less than anyone sees.
pub fn short(value: f64) -> String {
    let rounded = (value * 100.0).round() / 100.0;
    // Not "-0".
    if rounded == 0.0 { "0".to_owned() } else { rounded.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_text_in_an_exported_picture() {
        let hostile = "</text><script>alert(1)</script>&\"\u{0}";
        let drawing = Drawing {
            width: 10.0,
            height: 10.0,
            title: hostile.to_owned(),
            summary: hostile.to_owned(),
            marks: vec![Mark::text(0.0, 0.0, Anchor::Start, 10.0, Paint::Text, hostile).with_tip(hostile)],
        };
        let svg = drawing.to_svg(Theme::Light, Some(hostile));
        assert!(!svg.contains("<script"), "{svg}");
        assert!(!svg.contains('\0'));
        assert_eq!(svg.matches("&lt;script&gt;alert(1)&lt;/script&gt;").count(), 5);
    }

    #[test]
    fn numbers_are_short_and_never_minus_zero() {
        assert_eq!([short(1.0), short(0.126), short(-0.001), short(-2.5)], ["1", "0.13", "0", "-2.5"]);
    }
}
