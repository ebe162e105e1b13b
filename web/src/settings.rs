//! Choices that are the page's own: the open view, the theme, and those of a training.

use hydra_playground::link::Opened;
use hydra_playground::messages::training::{DeviceChoice, TrainingSetup};

/// Pauses between two steps, in milliseconds, and what the page calls them.
pub const SPEEDS: [(&str, &str); 3] =
    [("0", "as fast as it goes"), ("500", "half a second a step"), ("2000", "two seconds a step")];

/// What the page shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum View {
    /// Log, stages, schedule.
    #[default]
    Analyse,
    /// The performance model and its search.
    Search,
    /// Fine-tuning the tiny model.
    Train,
}

impl View {
    /// Every view, in the order of the tabs.
    pub const ALL: [Self; 3] = [Self::Analyse, Self::Search, Self::Train];

    /// Name in a link.
    pub fn name(self) -> &'static str {
        match self {
            Self::Analyse => "analyse",
            Self::Search => "search",
            Self::Train => "train",
        }
    }

    /// What its tab says.
    pub fn title(self) -> &'static str {
        match self {
            Self::Analyse => "Analyse",
            Self::Search => "Search",
            Self::Train => "Train",
        }
    }

    /// The view of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|view| view.name() == name)
    }

    /// The view that a link opens.
    pub fn of(opened: &Opened) -> Self {
        opened.page.get("view").and_then(|name| Self::from_name(name)).unwrap_or_default()
    }
}

/// What a person chooses of a training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainingChoices {
    /// Optimizer steps.
    pub steps: usize,
    /// Conversations in a step.
    pub batch_size: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Seed of adapters and data.
    pub seed: u32,
    /// Where it runs.
    pub device: DeviceChoice,
}

impl Default for TrainingChoices {
    fn default() -> Self {
        let TrainingSetup { steps, batch_size, learning_rate, seed, device, .. } =
            TrainingSetup::new(Vec::new(), 1, Default::default());
        Self { steps, batch_size, learning_rate, seed, device }
    }
}

/// The theme that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ThemeChoice {
    /// As the system is.
    #[default]
    System,
    /// Light.
    Light,
    /// Dark.
    Dark,
}

impl ThemeChoice {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::System, Self::Light, Self::Dark];

    /// Name in a link.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }

    /// The choice of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.name() == name)
    }

    /// The choice that a link holds.
    pub fn of(opened: &Opened) -> Self {
        opened.page.get("theme").and_then(|name| Self::from_name(name)).unwrap_or_default()
    }
}
