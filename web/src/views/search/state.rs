//! The study and what is known of it.

use hydra_playground::charts::search::Brush;
use hydra_playground::messages::performance::{
    Adapters, Begin, Measured, Next, Progress, Reply, Request, StudySource, Synthetic, Written,
};
use hydra_playground::samples::Sample;
use hydra_playground::session::{Pinned, Session, Source, unknown_profile};
use hydra_shared::layout::Ranks;
use hydra_shared::schedule::Budget;
use hydra_shared::search::{SearchConfig, StudyMetadata, SyntheticConfig};
use leptos::prelude::*;

use crate::history::History;
use crate::intake::Intake;
use crate::page::Page;
use crate::recent;
use crate::settings::View;
use crate::worker::WorkerHandle;

/// What the view holds. The page keeps it, so that a study outlives a look at another view.
#[derive(Clone, Copy)]
pub struct SearchState {
    pub(super) page: Page,
    intake: Intake,
    pub(super) dropped: RwSignal<Option<Measured>>,
    /// Whether the dropped study is shown, where there is one.
    pub(super) of_journal: RwSignal<bool>,
    pub(super) choices: RwSignal<SearchConfig>,
    pub(super) response: RwSignal<SyntheticConfig>,
    pub(super) pause: RwSignal<u32>,
    /// The study that is wanted, or why there is none.
    pub(super) wanted: Memo<Result<(StudySource, SearchConfig), String>>,
    /// The study that was begun.
    pub(super) begun: RwSignal<Option<(StudySource, SearchConfig)>>,
    id: StoredValue<u32>,
    pub(super) progress: RwSignal<Option<Progress>>,
    /// Whether an answer is on its way.
    pub(super) busy: RwSignal<bool>,
    pub(super) running: RwSignal<bool>,
    pub(super) failed: RwSignal<Option<String>>,
    /// What is marked of the trials.
    pub(super) brush: RwSignal<Brush>,
    /// Whether the study has changed since it was saved.
    pub(super) unsaved: RwSignal<bool>,
    worker: StoredValue<Option<WorkerHandle>, LocalStorage>,
}

impl SearchState {
    pub(super) fn new() -> Self {
        let page = Page::get();
        let intake = Intake::get();
        let dropped = intake.study;
        let of_journal = RwSignal::new(true);
        let (choices, response) = (page.search, page.response);
        let history = expect_context::<History>();
        // A study that is dropped is shown, with the seed that its trials were proposed with.
        Effect::new(move |_| {
            let last = dropped.with(|study| {
                let study = study.as_ref().filter(|study| study.begun.is_none())?;
                Some(study.seed)
            });
            if let Some(seed) = last {
                of_journal.set(true);
                if let Some(seed) = seed.filter(|seed| choices.with_untracked(|choices| choices.seed != *seed)) {
                    history.take_seed(page, seed);
                }
            }
        });
        let wanted = Memo::new(move |_| {
            let choices = choices.get();
            let study = if of_journal.get() { dropped.get() } else { None };
            let source = match study {
                Some(study) => StudySource::Journal(Box::new(study)),
                None => {
                    let synthetic = page.session.with(|session| Synthetic::of_session(session, response.get()));
                    StudySource::Synthetic(synthetic.map_err(|error| error.to_string())?)
                }
            };
            Ok((source, choices))
        });
        Self {
            page,
            intake,
            dropped,
            of_journal,
            choices,
            response,
            pause: RwSignal::new(500),
            wanted,
            begun: RwSignal::new(None),
            id: StoredValue::new(0),
            progress: RwSignal::new(None),
            busy: RwSignal::new(false),
            running: RwSignal::new(false),
            failed: RwSignal::new(None),
            brush: RwSignal::new(Brush::default()),
            unsaved: intake.unsaved,
            worker: StoredValue::new_local(None),
        }
    }

    /// Begins a study of the session's modules whose trials a person fine-tunes.
    pub(super) fn begin_own(self) {
        match self.page.session.with_untracked(Measured::of_session) {
            Ok(study) => {
                if !self.intake.may_replace_study("Begin another one") {
                    return;
                }
                self.dropped.set(Some(study));
                self.of_journal.set(true);
            }
            Err(error) => self.fail(error.to_string()),
        }
    }

    /// Begins the study that is wanted. A worker that is still computing for another one is ended.
    pub(super) fn begin(self) {
        let (source, choices) = match self.wanted.get_untracked() {
            Ok(wanted) => wanted,
            Err(error) => return self.fail(error),
        };
        if self.busy.get_untracked() || self.running.get_untracked() {
            self.worker.set_value(None);
        }
        self.id.update_value(|id| *id += 1);
        self.begun.set(Some((source.clone(), choices)));
        self.progress.set(None);
        self.brush.set(Brush::default());
        self.running.set(false);
        self.send(&Request::Begin(Box::new(Begin { id: self.id.get_value(), source, config: choices })));
    }

    pub(super) fn send(self, request: &Request) {
        if self.worker.with_value(Option::is_none) {
            match WorkerHandle::start("performance-worker", |_| {}, move |reply| self.take(reply)) {
                Ok(worker) => self.worker.set_value(Some(worker)),
                Err(error) => return self.fail(error),
            }
        }
        let sent = self.worker.with_value(|worker| worker.as_ref().map(|worker| worker.send(request, &[])));
        match sent {
            Some(Err(error)) => self.fail(error),
            _ => {
                self.failed.set(None);
                self.busy.set(!matches!(request, Request::Stop));
            }
        }
    }

    fn take(self, reply: Result<Reply, String>) {
        match reply {
            Ok(Reply::Progress(progress)) if progress.id == self.id.get_value() => {
                if !matches!(progress.next, Next::Try(_)) {
                    self.running.set(false);
                }
                self.busy.set(self.running.get_untracked());
                self.failed.set(None);
                if let Some(written) = &progress.written {
                    self.keep(written);
                }
                self.progress.set(Some(*progress));
            }
            Ok(Reply::Failed { id, message }) if id == self.id.get_value() => self.fail(message),
            // About an earlier study.
            Ok(_) => {}
            Err(error) => {
                // What went wrong inside may have left it unable to answer.
                self.worker.set_value(None);
                self.fail(error);
            }
        }
    }

    /// Keeps the study as its file has it now: it is the one that was begun, and none to begin anew.
    fn keep(self, written: &Written) {
        let Some(mut kept) = self.dropped.get_untracked() else { return };
        // Another one may have been dropped since it was asked.
        let is_begun = |(source, _): &(StudySource, SearchConfig)| matches!(source, StudySource::Journal(begun) if **begun == kept);
        if !self.begun.with_untracked(|begun| begun.as_ref().is_some_and(is_begun)) {
            self.page.warn("A score came after another study was opened: it stands in no file.");
            return;
        }
        let Written { text, benchmarks, trials, ended, .. } = written.clone();
        if ended != kept.ended {
            self.unsaved.set(true);
            recent::keep_study(&text, &kept.text);
        }
        (kept.text, kept.trials, kept.ended, kept.begun) = (text, trials, ended, None);
        kept.about.benchmarks = benchmarks;
        self.begun.update(|begun| {
            if let Some((source, _)) = begun {
                *source = StudySource::Journal(Box::new(kept.clone()));
            }
        });
        self.dropped.set(Some(kept));
    }

    fn fail(self, error: String) {
        self.busy.set(false);
        self.running.set(false);
        self.failed.set(Some(error));
    }

    pub(super) fn about(self) -> Option<StudyMetadata> {
        self.begun.with_untracked(|begun| match begun {
            Some((StudySource::Journal(measured), _)) => Some(measured.about.clone()),
            Some((StudySource::Synthetic(synthetic), _)) => Some(synthetic.about.clone()),
            None => None,
        })
    }

    pub(super) fn is_made_up(self) -> bool {
        self.begun.with(|begun| matches!(begun, Some((StudySource::Synthetic(_), _))))
    }

    /// Whether a person measures its trials.
    pub(super) fn is_measured(self) -> bool {
        self.begun.with(|begun| matches!(begun, Some((StudySource::Journal(_), _))))
    }

    /// Whether another study is wanted than the one that was begun.
    pub(super) fn is_changed(self) -> bool {
        self.wanted.with_untracked(|wanted| match wanted {
            Ok(wanted) => self.begun.with_untracked(|begun| begun.as_ref() != Some(wanted)),
            Err(_) => true,
        })
    }

    /// Begins the study that is wanted, if it is another one.
    pub(super) fn begin_changed(self) -> bool {
        // A score that was just told is in the study once the answer is there.
        let changed = self.is_changed() && !(self.is_measured() && self.busy.get_untracked());
        if changed {
            self.begin();
        }
        changed
    }

    /// Whether the study that is wanted can go on now; it is begun where it was not.
    fn goes_on(self) -> bool {
        if self.begin_changed() {
            return self.failed.get_untracked().is_none() && self.is_made_up();
        }
        self.can_step() && !self.busy.get_untracked()
    }

    /// Takes one step.
    pub(super) fn step(self) {
        if self.goes_on() {
            self.send(&Request::Step);
        }
    }

    /// Plays, or pauses after the step that is being made.
    pub(super) fn play_or_pause(self) {
        if self.running.get_untracked() {
            self.running.set(false);
            self.send(&Request::Stop);
        } else if self.goes_on() {
            self.running.set(true);
            self.send(&Request::Run { pause: self.pause.get_untracked() });
        }
    }

    /// Whether there is a schedule to measure.
    pub(super) fn can_step(self) -> bool {
        self.is_made_up() && self.progress.with(|p| p.as_ref().is_some_and(|p| matches!(p.next, Next::Try(_))))
    }

    /// Shows ranks as set by hand, with the model that they are for.
    pub(super) fn take_into_analysis(self, ranks: &[u32]) {
        if let Some(session) = self.session_of(ranks) {
            self.page.session.set(session);
            self.page.view.set(View::Analyse);
        }
    }

    /// The page's session with ranks of the study as set by hand, with the model that they are for.
    pub(super) fn session_of(self, ranks: &[u32]) -> Option<Session> {
        let about = self.about()?;
        let mut session = self.page.session.get_untracked();
        if !session.layout.same_modules(&about.layout) {
            // The study's own profile, or that of a sample of its model.
            let sample = Sample::ALL.into_iter().find(|sample| sample.layout().same_modules(&about.layout));
            let own = about.profile.filter(|profile| profile.fits(&about.layout));
            (session.profile, session.source) = match (own, sample) {
                (Some(profile), _) => (profile, Source::Log(vec![about.name])),
                (None, Some(sample)) => (sample.profile(&about.layout), Source::Log(vec![sample.title().to_owned()])),
                (None, None) => (unknown_profile(&about.layout), Source::Unknown),
            };
            session.layout = about.layout;
            session.of_log = Default::default();
            session.pinned = None;
        }
        session.plan.base_rank = about.base_rank;
        session.plan.cap = about.rank_cap;
        session.plan.counting = about.budget.counting;
        let uniform = Budget::uniform(&session.layout, about.base_rank, about.budget.counting);
        session.plan.budget = (uniform != about.budget).then_some(about.budget.allowed);
        if let Some(Adapters { scale, dropout }) = self.adapters() {
            session.plan.scale = scale;
            session.peft.dropout = dropout;
        }
        session.plan.schedule_kind = None;
        session.rebalance = false;
        session.by_hand = ranks.iter().copied().enumerate().collect();
        Some(session)
    }

    /// How the adapters of the study that is shown are made, where its file says it.
    fn adapters(self) -> Option<Adapters> {
        self.begun.with_untracked(|begun| match begun {
            Some((StudySource::Journal(study), _)) => study.adapters,
            _ => None,
        })
    }

    /// Keeps ranks to compare with.
    pub(super) fn pin(self, name: String, ranks: Vec<u32>) {
        let fitting = self.page.session.with_untracked(|session| Ranks::new(&session.layout, ranks).ok());
        if let Some(ranks) = fitting {
            self.page.tell(format!("{name} is pinned as A: Analyse compares with it."));
            self.page.update(|session| session.pinned = Some(Pinned { name, ranks }));
        } else {
            self.page.warn("The study is about another model than the one in Analyse: the two cannot be compared.");
        }
    }
}
