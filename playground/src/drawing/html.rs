//! Drawings inside a document that follows its reader's theme without a script: their colours are CSS variables.

use std::collections::BTreeMap;

use super::{Drawing, Paint, Theme, escape, short};

impl Drawing {
    /// The picture as an element of an HTML document in which [`variables`] are declared. `id` is the picture's own in the
    /// document.
    pub fn to_html(&self, id: &str) -> String {
        let (id, width, height) = (escape(id), short(self.width), short(self.height));
        let (title, summary) = (escape(&self.title), escape(&self.summary));
        let mut html = format!(
            "<svg class=\"picture\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"{id}-title {id}-desc\">\n\
             <title id=\"{id}-title\">{title}</title>\n<desc id=\"{id}-desc\">{summary}</desc>\n"
        );
        self.write_with(&mut html, |mark| {
            let mut attributes = mark.geometry();
            attributes.extend(mark.painted(color));
            attributes
        });
        html.push_str("</svg>\n");
        html
    }
}

/// Declarations of a theme's colours for drawings that [`Drawing::to_html`] wrote: `--text:#1a1d21;…`. Colours that are
/// not those of stages are always among them, for the rest of the document.
pub fn variables<'a>(theme: Theme, drawings: impl IntoIterator<Item = &'a Drawing>) -> String {
    let always =
        [Paint::Text, Paint::Soft, Paint::Grid, Paint::Page, Paint::Accent, Paint::Alarm, Paint::First, Paint::Second];
    let used = drawings.into_iter().flat_map(|drawing| &drawing.marks).flat_map(|mark| [mark.fill, mark.stroke]);
    let named = always.into_iter().chain(used).filter_map(|paint| Some((variable(paint)?, theme.color(paint))));
    let named: BTreeMap<String, String> = named.collect();
    named.into_iter().map(|(name, color)| format!("--{name}:{color};")).collect()
}

fn color(paint: Paint) -> String {
    // What has no variable is the same in both themes.
    variable(paint).map_or_else(|| Theme::Light.color(paint), |name| format!("var(--{name})"))
}

/// Name of the variable of a colour that the theme decides.
fn variable(paint: Paint) -> Option<String> {
    let name = match paint {
        Paint::Text => "text",
        Paint::Soft => "soft",
        Paint::Grid => "grid",
        Paint::Page => "page",
        Paint::Accent => "accent",
        Paint::Alarm => "alarm",
        Paint::First => "first",
        Paint::Second => "second",
        Paint::Stage(index, count) => return Some(format!("stage-{index}-of-{count}")),
        Paint::None | Paint::Heat(_) | Paint::OnHeat(_) | Paint::Difference(_) | Paint::OnDifference(_) => return None,
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::{Anchor, Mark};

    fn drawing(paint: Paint) -> Drawing {
        let marks = vec![Mark::rect(0.0, 0.0, 1.0, 1.0, paint).outlined(Paint::Page, 1.0)];
        Drawing { width: 1.0, height: 1.0, marks, ..Drawing::default() }
    }

    #[test]
    fn every_colour_is_a_declared_variable_or_the_same_in_both_themes() {
        let paints = [
            Paint::None,
            Paint::Text,
            Paint::Soft,
            Paint::Grid,
            Paint::Page,
            Paint::Accent,
            Paint::Alarm,
            Paint::First,
            Paint::Second,
            Paint::Stage(1, 3),
            Paint::Heat(0.3),
            Paint::OnHeat(0.3),
            Paint::Difference(-0.2),
            Paint::OnDifference(-0.2),
        ];
        for paint in paints {
            let drawing = drawing(paint);
            let html = drawing.to_html("x");
            let fill = html.split("fill=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
            match fill.strip_prefix("var(").and_then(|name| name.strip_suffix(')')) {
                None => {
                    assert!([Theme::Light, Theme::Dark].iter().all(|theme| theme.color(paint) == fill), "{paint:?}");
                }
                Some(name) => {
                    for theme in [Theme::Light, Theme::Dark] {
                        let declared = variables(theme, [&drawing]);
                        assert!(declared.contains(&format!("{name}:{};", theme.color(paint))), "{paint:?}: {declared}");
                    }
                }
            }
        }
    }

    #[test]
    fn hostile_names_stay_text_inside_a_document() {
        let hostile = "</text><script>alert(1)</script>&\"";
        let drawing = Drawing {
            width: 10.0,
            height: 10.0,
            title: hostile.to_owned(),
            summary: hostile.to_owned(),
            marks: vec![Mark::text(0.0, 0.0, Anchor::Start, 10.0, Paint::Text, hostile).with_tip(hostile)],
        };
        let html = drawing.to_html(hostile);
        assert!(!html.contains("<script"), "{html}");
        // Title, summary, tip and text, and four times in an identifier.
        assert_eq!(html.matches("&lt;script&gt;alert(1)&lt;/script&gt;").count(), 8);
    }
}
