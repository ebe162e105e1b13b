//! Colours: their roles in a picture, and what light and dark make of these.

/// A colour's role.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Paint {
    /// Nothing is painted.
    #[default]
    None,
    /// Text and other figures.
    Text,
    /// Secondary text.
    Soft,
    /// Grid lines and borders.
    Grid,
    /// The page behind the picture.
    Page,
    /// What is selected or proposed.
    Accent,
    /// What is wrong or over budget.
    Alarm,
    /// The first of two things that are compared.
    First,
    /// The second of two things that are compared.
    Second,
    /// The stage of this index of so many.
    Stage(usize, usize),
    /// A value from 0 to 1 on the sequential scale.
    Heat(f64),
    /// Text upon [`Paint::Heat`] of the same value.
    OnHeat(f64),
    /// A value from −1 to 1 on the diverging scale; 0 is neutral.
    Difference(f64),
    /// Text upon [`Paint::Difference`] of the same value.
    OnDifference(f64),
}

/// Light or dark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Theme {
    /// Dark on white.
    #[default]
    Light,
    /// Light on dark.
    Dark,
}

impl Theme {
    /// The colour as `#rrggbb`, or `none`.
    pub fn color(self, paint: Paint) -> String {
        let pick = |light: &str, dark: &str| if self == Self::Light { light } else { dark }.to_owned();
        match paint {
            Paint::None => "none".to_owned(),
            Paint::Text => pick("#1a1d21", "#e6e9ed"),
            Paint::Soft => pick("#5b636d", "#a0a9b4"),
            Paint::Grid => pick("#d8dde3", "#363d46"),
            Paint::Page => pick("#ffffff", "#14171b"),
            Paint::Accent => pick("#b3460f", "#ff9d5c"),
            Paint::Alarm => pick("#b3261e", "#ff8a80"),
            Paint::First => pick("#1f5fa8", "#7db4f0"),
            Paint::Second => pick("#b3460f", "#ff9d5c"),
            Paint::Stage(index, count) => {
                // The part of the scale that stands out from the page; later stages stand out more.
                let share = if count > 1 { index.min(count - 1) as f64 / (count - 1) as f64 } else { 0.5 };
                let at = if self == Self::Light { 0.62 - 0.58 * share } else { 0.42 + 0.54 * share };
                rgb(colorous::VIRIDIS.eval_continuous(at))
            }
            Paint::Heat(value) => rgb(heat(value)),
            Paint::OnHeat(value) => on(heat(value)),
            Paint::Difference(value) => rgb(difference(value)),
            Paint::OnDifference(value) => on(difference(value)),
        }
    }
}

/// Cividis: even in lightness, and the same to every kind of colour vision.
fn heat(value: f64) -> colorous::Color {
    colorous::CIVIDIS.eval_continuous(value.clamp(0.0, 1.0))
}

/// Purple to orange: the two ends differ to every kind of colour vision.
fn difference(value: f64) -> colorous::Color {
    colorous::PURPLE_ORANGE.eval_continuous(0.5 - 0.5 * value.clamp(-1.0, 1.0))
}

fn rgb(color: colorous::Color) -> String {
    format!("#{color:x}")
}

/// Black or white, whichever has the higher contrast upon the colour (WCAG 2.2's relative luminance).
fn on(color: colorous::Color) -> String {
    let channel = |value: u8| {
        let value = f64::from(value) / 255.0;
        if value <= 0.04045 { value / 12.92 } else { libm::pow((value + 0.055) / 1.055, 2.4) }
    };
    let luminance = 0.2126 * channel(color.r) + 0.7152 * channel(color.g) + 0.0722 * channel(color.b);
    // Where (L + 0.05)/0.05 = 1.05/(L + 0.05).
    if luminance > 0.179 { "#000000" } else { "#ffffff" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_upon_any_heat_or_difference_has_the_contrast_of_wcag_aa() {
        let luminance = |hex: &str| {
            let channel = |at: usize| {
                let value = f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()) / 255.0;
                if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
            };
            0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
        };
        for step in 0..=100 {
            let value = f64::from(step) / 100.0;
            let pairs = [
                (Paint::Heat(value), Paint::OnHeat(value)),
                (Paint::Difference(2.0 * value - 1.0), Paint::OnDifference(2.0 * value - 1.0)),
            ];
            for (ground, text) in pairs {
                let [a, b] = [ground, text].map(|paint| luminance(&Theme::Light.color(paint)));
                let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
                assert!(contrast >= 4.5, "{ground:?}: {contrast}");
            }
        }
    }

    #[test]
    fn the_heat_scale_rises_evenly_in_greyscale() {
        let grey = |value: f64| {
            let c = heat(value);
            0.2126 * f64::from(c.r) + 0.7152 * f64::from(c.g) + 0.0722 * f64::from(c.b)
        };
        let greys: Vec<f64> = (0..=20).map(|step| grey(f64::from(step) / 20.0)).collect();
        assert!(greys.windows(2).all(|pair| pair[1] > pair[0] + 2.0), "{greys:?}");
    }
}
