//! What every view of the page shares.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hydra_playground::analysis::{Analysis, AnalysisError, Grouping};
use hydra_playground::charts::Chart;
use hydra_playground::drawing::Theme;
use hydra_playground::link::{MARK, to_link, to_whole_link};
use hydra_playground::messages::ingest::Profiled;
use hydra_playground::session::Session;
use hydra_shared::search::{SearchConfig, SyntheticConfig};
use hydra_shared::stages::{StageError, Stages};
use leptos::prelude::*;

use crate::browser;
use crate::settings::{ThemeChoice, TrainingChoices, View};

/// Turns in which the pictures show a log that was just read: the last one's number.
const LAST_TURN: usize = 5;
/// Time from one turn to the next: long enough for a frame.
const TURN: Duration = Duration::from_millis(16);

/// The page's state; a context that every component finds.
#[derive(Clone, Copy)]
pub struct Page {
    /// Everything that decides what is shown.
    pub session: RwSignal<Session>,
    /// Stages that were computed before the session that they are of is shown.
    pub ahead: StoredValue<Option<Grouped>>,
    /// Up to which turn the pictures show the session: see [`Page::in_turns`].
    pub turn: RwSignal<usize>,
    /// What follows from it.
    pub analysis: Memo<Result<Analysis, AnalysisError>>,
    /// What is chosen of a search.
    pub search: RwSignal<SearchConfig>,
    /// How the scores of a search are made up.
    pub response: RwSignal<SyntheticConfig>,
    /// What is chosen of a training.
    pub training: RwSignal<TrainingChoices>,
    /// Which view is open.
    pub view: RwSignal<View>,
    /// The theme that was chosen.
    pub theme_choice: RwSignal<ThemeChoice>,
    /// Light or dark, as it is seen.
    pub theme: Signal<Theme>,
    /// The link that the address bar holds, without `#`, and whether it holds the profile.
    pub link: RwSignal<(String, bool)>,
    /// The module whose arithmetic is shown.
    pub selected: RwSignal<Option<usize>>,
    /// What the page has to tell: the newest last.
    pub notices: RwSignal<Vec<Notice>>,
    /// Whether it is as narrow as a telephone's.
    pub narrow: RwSignal<bool>,
    /// The step of the tour that is shown, counted from 1; 0 for none.
    pub tour: RwSignal<usize>,
    /// What the link hides: names with a space between.
    pub hidden: StoredValue<String>,
    /// When the log was read, in milliseconds since 1970: what tells it from another one of the same name.
    pub read_at: StoredValue<f64>,
    /// Whether a model has been trained here that a page which is loaded again would not find.
    pub trained: StoredValue<bool>,
}

/// Stages, and what they are of.
pub type Grouped = (Grouping, Result<Stages, StageError>);

/// What makes a chart of a session that has a schedule.
type Drawn = dyn Fn(&Session, &Analysis) -> Chart + Send + Sync;

/// What `index.html` begins with, until it is shown; a context.
#[derive(Clone, Copy)]
pub struct StartCard(pub StoredValue<Option<web_sys::Element>, LocalStorage>);

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What it says.
    pub text: String,
    /// Whether something went wrong.
    pub wrong: bool,
    /// What it is about.
    pub about: About,
}

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The page.
    Page,
    /// The files that were read last: it goes with them.
    Files,
    /// Files that could not be read, which can be tried again.
    Unread,
}

impl Page {
    /// The page's state, from inside a component.
    pub fn get() -> Self {
        expect_context()
    }

    /// The link to what is seen, without `#`, and whether it holds the profile.
    pub fn link_now(self) -> (String, bool) {
        self.session.with_untracked(|session| to_link(session, &self.keys()))
    }

    /// The same with the profile, however long.
    pub fn whole_link(self) -> String {
        self.session.with_untracked(|session| to_whole_link(session, &self.keys()))
    }

    /// What the page adds to a session's keys.
    fn keys(self) -> BTreeMap<String, String> {
        let (view, theme) = (self.view.get_untracked(), self.theme_choice.get_untracked());
        let mut page = BTreeMap::new();
        if view != View::default() {
            page.insert("view".to_owned(), view.name().to_owned());
        }
        if theme != ThemeChoice::default() {
            page.insert("theme".to_owned(), theme.name().to_owned());
        }
        if let step @ 1.. = self.tour.get_untracked() {
            page.insert("tour".to_owned(), step.to_string());
        }
        let hidden = self.hidden.get_value();
        if !hidden.is_empty() {
            page.insert("hide".to_owned(), hidden);
        }
        page
    }

    /// The page's address with the link to what is seen.
    pub fn address(self) -> String {
        format!("{}#{}", browser::address(), self.link_now().0)
    }

    /// What saved files carry so that they lead back to what is seen.
    pub fn mark(self) -> String {
        format!("{MARK}{}", self.address())
    }

    /// Changes the session.
    pub fn update(self, change: impl FnOnce(&mut Session)) {
        self.session.update(change);
    }

    /// Computes the stages of a log that is to be shown next, so that showing it takes less at a time.
    pub fn group_ahead(self, made: &Profiled) {
        let grouping = self.session.with_untracked(|session| Grouping::ahead(made, &session.plan));
        let stages = grouping.stages();
        self.ahead.set_value(Some((grouping, stages)));
    }

    /// Lets the pictures show the next session one after another: together they would hold the page up.
    pub fn in_turns(self) {
        self.turn.set(0);
        next_turn(self.turn);
    }

    /// A chart that follows from the session, from this turn on; before, and while the session has no schedule, what was shown last
    /// stays.
    pub fn chart(self, turn: usize, of: impl Fn(&Session, &Analysis) -> Chart + Send + Sync + 'static) -> Memo<Chart> {
        self.chart_of(turn, Arc::new(of))
    }

    /// Whether pictures are still to turn to the session.
    pub fn is_turning(self) -> bool {
        self.turn.get_untracked() < LAST_TURN
    }

    /// Whether that turn is still to come.
    pub fn waits(self, turn: usize) -> Memo<bool> {
        Memo::new(move |_| self.turn.get() < turn)
    }

    fn chart_of(self, turn: usize, of: Arc<Drawn>) -> Memo<Chart> {
        let waits = self.waits(turn);
        Memo::new(move |last: Option<&Chart>| match last {
            Some(last) if waits.get() => last.clone(),
            _ => self.session.with(|session| {
                self.analysis.with(|analysis| match analysis {
                    Ok(analysis) => of(session, analysis),
                    Err(_) => last.cloned().unwrap_or_default(),
                })
            }),
        })
    }

    /// Tells something.
    pub fn tell(self, text: impl Into<String>) {
        self.add(Notice { text: text.into(), wrong: false, about: About::Page });
    }

    /// Tells of something that went wrong.
    pub fn warn(self, text: impl Into<String>) {
        self.warn_of(text, About::Page);
    }

    /// Tells of something that went wrong with files.
    pub fn warn_of(self, text: impl Into<String>, about: About) {
        self.add(Notice { text: text.into(), wrong: true, about });
    }

    /// Takes back what was told of files.
    pub fn forget_files(self) {
        if self.notices.with_untracked(|notices| notices.iter().any(|notice| notice.about != About::Page)) {
            self.notices.update(|notices| notices.retain(|notice| notice.about == About::Page));
        }
    }

    /// What has just been told is not told again.
    fn add(self, notice: Notice) {
        if self.notices.with_untracked(|notices| notices.last() != Some(&notice)) {
            self.notices.update(|notices| notices.push(notice));
        }
    }
}

fn next_turn(turn: RwSignal<usize>) {
    set_timeout(
        move || {
            turn.update(|turn| *turn += 1);
            if turn.get_untracked() < LAST_TURN {
                next_turn(turn);
            }
        },
        TURN,
    );
}

/// What a view holds while another one is open; a context that the page provides and the view fills when it is first
/// opened.
#[derive(Clone)]
pub struct Kept<T: 'static> {
    held: StoredValue<Option<T>>,
    owner: Option<Owner>,
}

impl<T: Copy + Send + Sync + 'static> Kept<T> {
    /// Nothing yet. What is made later belongs to the component that is being made now.
    pub fn new() -> Self {
        Self { held: StoredValue::new(None), owner: Owner::current() }
    }

    /// What is held, made on first use. Without a page around it, it is made anew.
    pub fn of(make: impl FnOnce() -> T) -> T {
        let Some(Self { held, owner: Some(owner) }) = use_context() else { return make() };
        held.get_value().unwrap_or_else(|| {
            let made = owner.with(make);
            held.set_value(Some(made));
            made
        })
    }
}
