//! What every view of the page shares.

use hydra_playground::analysis::{Analysis, AnalysisError};
use hydra_playground::drawing::Theme;
use hydra_playground::link::MARK;
use hydra_playground::session::Session;
use leptos::prelude::*;

use crate::browser;
use crate::settings::{ThemeChoice, View};

/// The page's state; a context that every component finds.
#[derive(Clone, Copy)]
pub struct Page {
    /// Everything that decides what is shown.
    pub session: RwSignal<Session>,
    /// What follows from it.
    pub analysis: Memo<Result<Analysis, AnalysisError>>,
    /// Which view is open.
    pub view: RwSignal<View>,
    /// The theme that was chosen.
    pub theme_choice: RwSignal<ThemeChoice>,
    /// Light or dark, as it is seen.
    pub theme: Signal<Theme>,
    /// The link to what is seen, without `#`, and whether it holds the profile.
    pub link: Memo<(String, bool)>,
    /// The module whose arithmetic is shown.
    pub selected: RwSignal<Option<usize>>,
    /// What the page has to tell: the newest last.
    pub notices: RwSignal<Vec<Notice>>,
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What it says.
    pub text: String,
    /// Whether something went wrong.
    pub wrong: bool,
}

impl Page {
    /// The page's state, from inside a component.
    pub fn get() -> Self {
        expect_context()
    }

    /// The page's address with the link to what is seen.
    pub fn address(self) -> String {
        format!("{}#{}", browser::address(), self.link.with_untracked(|link| link.0.clone()))
    }

    /// What saved files carry so that they lead back to what is seen.
    pub fn mark(self) -> String {
        format!("{MARK}{}", self.address())
    }

    /// Changes the session.
    pub fn update(self, change: impl FnOnce(&mut Session)) {
        self.session.update(change);
    }

    /// Tells something.
    pub fn tell(self, text: impl Into<String>) {
        self.notices.update(|notices| notices.push(Notice { text: text.into(), wrong: false }));
    }

    /// Tells of something that went wrong.
    pub fn warn(self, text: impl Into<String>) {
        self.notices.update(|notices| notices.push(Notice { text: text.into(), wrong: true }));
    }
}
