//! The performance model, live: a study, what the models make of it, and the schedule that is tried next.

use std::time::Duration;

use hydra_playground::charts::{Chart, heatmap, search};
use hydra_playground::messages::performance::{
    Begin, Choices, MOST_TRIALS, Next, Progress, Reply, Request, StudySource, Synthetic,
};
use hydra_playground::session::{Pinned, Source};
use hydra_shared::performance::ModelKind;
use hydra_shared::search::{Acquisition, Study, StudyMetadata, SyntheticConfig};
use leptos::prelude::*;

use crate::browser::Later;
use crate::page::Page;
use crate::parts::{Choice, Figure, NumberBox, Slider};
use crate::settings::View;
use crate::worker::WorkerHandle;

/// How long a study waits for the choices to rest before it begins anew.
const REST: Duration = Duration::from_millis(400);
/// Largest seed that survives as a JavaScript number.
const MOST_SEED: u64 = (1 << 53) - 1;
/// Pauses between two steps, in milliseconds, and what the page calls them.
const SPEEDS: [(&str, &str); 3] =
    [("0", "as fast as it goes"), ("500", "half a second a step"), ("2000", "two seconds a step")];

/// The study of a journal that was dropped; a context that the page provides.
#[derive(Clone, Copy)]
pub struct DroppedStudy(pub RwSignal<Option<Study>>);

/// What the view holds. The page provides it, so that a study outlives a look at another view.
#[derive(Clone, Copy)]
pub struct SearchState {
    page: Page,
    dropped: RwSignal<Option<Study>>,
    /// Whether the dropped study is shown, where there is one.
    of_journal: RwSignal<bool>,
    choices: RwSignal<Choices>,
    response: RwSignal<SyntheticConfig>,
    pause: RwSignal<u32>,
    /// The study that is wanted, or why there is none.
    wanted: Memo<Result<(StudySource, Choices), String>>,
    /// The study that was begun.
    begun: RwSignal<Option<(StudySource, Choices)>>,
    id: StoredValue<u32>,
    progress: RwSignal<Option<Progress>>,
    /// Whether an answer is on its way.
    busy: RwSignal<bool>,
    running: RwSignal<bool>,
    failed: RwSignal<Option<String>>,
    worker: StoredValue<Option<WorkerHandle>, LocalStorage>,
}

impl SearchState {
    /// Provides it, after [`Page`] and [`DroppedStudy`]. Nothing is computed before the view is opened.
    pub fn provide() {
        provide_context(Self::new());
    }

    fn new() -> Self {
        let page = Page::get();
        let dropped = use_context::<DroppedStudy>().map_or_else(|| RwSignal::new(None), |dropped| dropped.0);
        let of_journal = RwSignal::new(true);
        let choices = RwSignal::new(Choices::default());
        let response = RwSignal::new(SyntheticConfig::default());
        // A study that is dropped is shown, with the seed that its trials were proposed with.
        Effect::new(move |_| {
            let last =
                dropped.with(|study| study.as_ref().map(|study| study.trials.last().map_or(0, |trial| trial.seed)));
            if let Some(seed) = last {
                of_journal.set(true);
                choices.update(|choices| choices.seed = seed);
            }
        });
        let wanted = Memo::new(move |_| {
            let choices = choices.get();
            let study = if of_journal.get() { dropped.get() } else { None };
            let source = match study {
                Some(study) => StudySource::Journal(study),
                None => {
                    let synthetic = page.session.with(|session| Synthetic::of_session(session, response.get()));
                    StudySource::Synthetic(synthetic.map_err(|error| error.to_string())?)
                }
            };
            Ok((source, choices))
        });
        Self {
            page,
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
            worker: StoredValue::new_local(None),
        }
    }

    /// Begins the study that is wanted. A worker that is still computing for another one is ended.
    fn begin(self) {
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
        self.running.set(false);
        self.send(&Request::Begin(Box::new(Begin { id: self.id.get_value(), source, choices })));
    }

    fn send(self, request: &Request) {
        if self.worker.with_value(Option::is_none) {
            match WorkerHandle::start("performance-worker", move |reply| self.take(reply)) {
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
                if matches!(progress.next, Next::Over(_)) {
                    self.running.set(false);
                }
                self.busy.set(self.running.get_untracked());
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

    fn fail(self, error: String) {
        self.busy.set(false);
        self.running.set(false);
        self.failed.set(Some(error));
    }

    fn about(self) -> Option<StudyMetadata> {
        self.begun.with_untracked(|begun| match begun {
            Some((StudySource::Journal(study), _)) => Some(study.metadata.clone()),
            Some((StudySource::Synthetic(synthetic), _)) => Some(synthetic.about.clone()),
            None => None,
        })
    }

    fn is_made_up(self) -> bool {
        self.begun.with(|begun| matches!(begun, Some((StudySource::Synthetic(_), _))))
    }

    /// Whether there is a schedule to measure.
    fn can_step(self) -> bool {
        self.is_made_up() && self.progress.with(|p| p.as_ref().is_some_and(|p| matches!(p.next, Next::Try(_))))
    }

    /// Puts ranks into the session as set by hand, with the model that they are for.
    fn take_into_analysis(self, ranks: &[u32]) {
        let Some(about) = self.about() else { return };
        let fits = self.page.session.with_untracked(|session| session.model == about.model);
        let profile = about.profile.filter(|profile| profile.fits(&about.model));
        if !fits && profile.is_none() {
            self.page.warn(
                "The study is about another model and holds no gradient profile. Open a log of that model in Analyse first.",
            );
            return;
        }
        self.page.update(|session| {
            if let (false, Some(profile)) = (fits, profile) {
                session.model = about.model;
                session.profile = profile;
                session.source = Source::Log(vec![about.name]);
                session.plan.base_rank = about.base_rank;
                session.plan.cap = about.rank_cap;
                session.plan.counting = about.budget.counting;
                session.plan.budget = Some(about.budget.allowed);
                session.pinned = None;
            }
            session.preset = None;
            session.rebalance = false;
            session.by_hand = ranks.iter().copied().enumerate().collect();
        });
        self.page.view.set(View::Analyse);
    }

    /// Keeps ranks to compare with.
    fn pin(self, name: String, ranks: Vec<u32>) {
        let fits = self.page.session.with_untracked(|session| session.model.module_count() == ranks.len());
        if fits {
            self.page.tell(format!("{name} is pinned as A: Analyse compares with it."));
            self.page.update(|session| session.pinned = Some(Pinned { name, ranks }));
        } else {
            self.page.warn("The study is about another model than the one in Analyse: the two cannot be compared.");
        }
    }
}

/// The view.
#[component]
pub fn SearchView() -> impl IntoView {
    let state = use_context::<SearchState>().unwrap_or_else(SearchState::new);
    // Begins when the view is opened, and anew when something else is wanted.
    let later = StoredValue::new_local(Later::default());
    Effect::new(move |_| {
        let open = state.page.view.get() == View::Search;
        let changed = state.wanted.with(|wanted| match wanted {
            Ok(wanted) => state.begun.with_untracked(|begun| begun.as_ref() != Some(wanted)),
            Err(_) => true,
        });
        if !changed {
            // What kept the study from beginning anew is undone.
            state.failed.set(None);
        } else if open {
            later.with_value(|later| later.run(REST, move || state.begin()));
        }
    });
    let shown = RwSignal::new(ModelKind::Transformer);
    let charted = move |chart: fn(&Progress, ModelKind) -> Chart| {
        // While a study begins anew, the last charts stay.
        Memo::new(move |last: Option<&Chart>| {
            state.progress.with(|progress| match progress {
                Some(progress) => chart(progress, shown.get()),
                None => last.cloned().unwrap_or_default(),
            })
        })
    };
    let history = charted(|progress, _| search::history(progress));
    let predictions = charted(search::predictions);
    let errors = charted(|progress, _| search::errors(progress));
    view! {
        <div class="columns">
            <SearchControls state />
            <div class="views" aria-busy=move || if state.busy.get() { "true" } else { "false" }>
                <Player state />
                <NextSchedule state shown />
                <Figure chart=history file="search-history" />
                <div class="pair">
                    <Figure chart=predictions file="predicted-measured">
                        <Choice
                            label="Model"
                            id="shown-model"
                            options=ModelKind::ALL.map(|model| (model.name(), model.title())).to_vec()
                            value=Signal::derive(move || shown.get().name().to_owned())
                            set=move |name: String| {
                                if let Some(model) = ModelKind::from_name(&name) {
                                    shown.set(model);
                                }
                            }
                            hint="Whose predictions are shown"
                        />
                    </Figure>
                    <Figure chart=errors file="leave-one-out" />
                </div>
            </div>
        </div>
    }
}

/// Every choice of the search.
#[component]
fn SearchControls(state: SearchState) -> impl IntoView {
    let choices = state.choices;
    let made_up = move || state.dropped.with(Option::is_none) || !state.of_journal.get();
    let dropped = move || {
        state.dropped.with(|study| {
            study.as_ref().map(|study| {
                let text = format!("Study {:?}, {} trials", study.metadata.name, study.trials.len());
                view! {
                    <fieldset>
                        <legend>"Study"</legend>
                        <div class="control tick">
                            <input
                                type="radio"
                                name="study"
                                id="study-dropped"
                                prop:checked=move || state.of_journal.get()
                                on:change=move |_| state.of_journal.set(true)
                            />
                            <label for="study-dropped">{text}</label>
                        </div>
                        <div class="control tick">
                            <input
                                type="radio"
                                name="study"
                                id="study-made-up"
                                prop:checked=move || !state.of_journal.get()
                                on:change=move |_| state.of_journal.set(false)
                            />
                            <label for="study-made-up">"Made up on the session's model"</label>
                        </div>
                    </fieldset>
                }
            })
        })
    };
    view! {
        <form class="controls card" aria-label="Search" on:submit=|event| event.prevent_default()>
            <h2>"Search"</h2>
            {dropped}
            <Choice
                label="Proposes"
                id="search-model"
                options=ModelKind::ALL.map(|model| (model.name(), model.title())).to_vec()
                value=Signal::derive(move || choices.get().model.name().to_owned())
                set=move |name: String| {
                    if let Some(model) = ModelKind::from_name(&name) {
                        choices.update(|choices| choices.model = model);
                    }
                }
                hint="The performance model that chooses the next schedule"
            />
            <Choice
                label="By"
                id="search-rule"
                options=Acquisition::ALL.map(|rule| (rule.name(), rule.title())).to_vec()
                value=Signal::derive(move || choices.get().rule.name().to_owned())
                set=move |name: String| {
                    if let Some(rule) = Acquisition::from_name(&name) {
                        choices.update(|choices| choices.rule = rule);
                    }
                }
                hint="The rule by which it chooses"
            />
            <NumberBox
                label="Seed"
                id="search-seed"
                bounds=(0, MOST_SEED)
                value=Signal::derive(move || Some(choices.get().seed))
                set=move |seed| choices.update(|choices| choices.seed = seed.unwrap_or(0))
                hint="Seed of the proposals: the same study and seed give the trainer's proposal"
            />
            <Show when=made_up>
                <MadeUpControls state />
            </Show>
        </form>
    }
}

/// The choices that a made-up study has besides.
#[component]
fn MadeUpControls(state: SearchState) -> impl IntoView {
    let (choices, response) = (state.choices, state.response);
    view! {
        <Slider
            label="Starts"
            id="search-starts"
            bounds=(1.0, 24.0)
            step=1.0
            value=Signal::derive(move || choices.get().starts as f64)
            set=move |starts| choices.update(|choices| {
                choices.starts = starts as usize;
                choices.trials = choices.trials.max(choices.starts);
            })
            hint="Trials before a model chooses: the trainer's starting schedules, then random ones"
        />
        <Slider
            label="Trials"
            id="search-trials"
            bounds=(4.0, MOST_TRIALS as f64)
            step=1.0
            value=Signal::derive(move || choices.get().trials as f64)
            set=move |trials| choices.update(|choices| {
                choices.trials = trials as usize;
                choices.starts = choices.starts.min(choices.trials);
            })
            hint="Trials in all"
        />
        <Slider
            label="Norms tell"
            id="search-agreement"
            bounds=(0.0, 1.0)
            step=0.05
            value=Signal::derive(move || response.get().agreement)
            set=move |agreement| response.update(|response| response.agreement = agreement)
            hint="How far the gradient norms tell what rank a module gains from: 0 not at all, 1 wholly"
        />
        <Slider
            label="Noise"
            id="search-noise"
            bounds=(0.0, 2.0)
            step=0.05
            value=Signal::derive(move || response.get().noise)
            set=move |noise| response.update(|response| response.noise = noise)
            hint="Standard deviation of a measured score, in percent points"
        />
        <NumberBox
            label="Response"
            id="search-response"
            bounds=(0, MOST_SEED)
            value=Signal::derive(move || Some(response.get().seed))
            set=move |seed| response.update(|response| response.seed = seed.unwrap_or(0))
            hint="Seed of the made-up response: what every module gains from rank, and the noise"
        />
        <p class="soft">
            "Made up: every module adds to the score with diminishing returns. What it adds is hidden from the search, \
             and the best schedule within the budget is known, so that the search can be judged."
        </p>
    }
}

/// Step, play, pause, begin anew.
#[component]
fn Player(state: SearchState) -> impl IntoView {
    let play = move |_| {
        if state.running.get_untracked() {
            state.running.set(false);
            state.send(&Request::Stop);
        } else {
            state.running.set(true);
            state.send(&Request::Run { pause: state.pause.get_untracked() });
        }
    };
    let status = move || {
        if let Some(error) = state.failed.get() {
            return error;
        }
        let before = state.progress.with(|progress| {
            progress.as_ref().map(|progress| {
                let count = progress.trials.len();
                format!("{count} trials; the last answer took {:.1} s.", progress.milliseconds / 1000.0)
            })
        });
        match (before, state.busy.get()) {
            (Some(before), false) => before,
            (Some(before), true) => format!("{before} Fitting the models…"),
            (None, true) => "Fitting the models to the first trials…".to_owned(),
            (None, false) => "No study has begun.".to_owned(),
        }
    };
    let stepping = move || state.can_step() && !state.busy.get();
    view! {
        <section class="card" aria-label="Run the search">
            <div class="player">
                <Show when=move || state.is_made_up()>
                    <button
                        type="button"
                        prop:disabled=move || !state.running.get() && !stepping()
                        on:click=play
                    >
                        {move || if state.running.get() { "Pause" } else { "Play" }}
                    </button>
                    <button
                        type="button"
                        prop:disabled=move || !stepping()
                        on:click=move |_| state.send(&Request::Step)
                    >
                        "Step"
                    </button>
                    <Choice
                        label="Speed"
                        id="search-speed"
                        options=SPEEDS.to_vec()
                        value=Signal::derive(move || state.pause.get().to_string())
                        set=move |pause: String| {
                            state.pause.set(pause.parse().unwrap_or(0));
                            if state.running.get_untracked() {
                                state.send(&Request::Run { pause: state.pause.get_untracked() });
                            }
                        }
                        hint="Pause between two trials"
                    />
                </Show>
                <button type="button" on:click=move |_| state.begin()>"Begin anew"</button>
            </div>
            <p class="caption" class:problem=move || state.failed.with(Option::is_some) role="status">
                {status}
            </p>
        </section>
    }
}

/// The schedule that is tried next, why, and how it differs from the best so far.
#[component]
fn NextSchedule(state: SearchState, shown: RwSignal<ModelKind>) -> impl IntoView {
    let next = move || {
        state.progress.with_untracked(|progress| match &progress.as_ref()?.next {
            Next::Try(proposed) => Some((proposed.number, proposed.ranks.clone())),
            Next::Over(_) => None,
        })
    };
    let best = move || {
        state.progress.with_untracked(|progress| {
            let trials = progress.as_ref()?.trials.iter().filter(|trial| trial.objective.is_some());
            let best = trials.fold(None, |best: Option<&hydra_shared::search::Trial>, trial| match best {
                Some(b) if trial.objective <= b.objective => Some(b),
                _ => Some(trial),
            })?;
            Some((best.number, best.ranks.clone()))
        })
    };
    let sentences = move || {
        state.progress.with(|progress| {
            let (Some(progress), Some(about)) = (progress, state.about()) else { return Vec::new() };
            search::reasons(progress, &about.model)
        })
    };
    let warnings = move || {
        state.progress.with(|progress| progress.as_ref().map(|progress| search::warnings(progress, shown.get())))
    };
    let list =
        |sentences: Vec<String>| sentences.into_iter().map(|sentence| view! { <li>{sentence}</li> }).collect_view();
    let difference = Memo::new(move |last: Option<&Chart>| {
        let (about, next, best) = (state.about(), state.progress.with(|_| next()), best());
        match (about, next, best) {
            (Some(about), Some(next), Some(best)) => {
                let names = (format!("trial {}", best.0), format!("trial {}", next.0));
                heatmap::difference(&about.model, &best.1, &next.1, (&names.0, &names.1))
            }
            _ => last.cloned().unwrap_or_default(),
        }
    });
    let has_next = move || state.progress.with(|_| next().is_some());
    let has_best = move || state.progress.with(|_| best().is_some());
    let not_measured = move || !state.is_made_up() && has_next();
    view! {
        <section class="card" aria-labelledby="next-schedule">
            <h2 id="next-schedule">"Next schedule"</h2>
            <ul class="reasons">{move || list(sentences())}</ul>
            <Show when=not_measured>
                <p class="soft">"A dropped study cannot be measured here: run this trial with the trainer."</p>
            </Show>
            <ul class="warnings">{move || list(warnings().unwrap_or_default())}</ul>
            <div class="row">
                <button
                    type="button"
                    prop:disabled=move || !has_next()
                    on:click=move |_| {
                        if let Some((_, ranks)) = next() {
                            state.take_into_analysis(&ranks);
                        }
                    }
                >
                    "Take it into Analyse"
                </button>
                <button
                    type="button"
                    prop:disabled=move || !has_next()
                    on:click=move |_| {
                        if let Some((number, ranks)) = next() {
                            state.pin(format!("trial {number}, proposed"), ranks);
                        }
                    }
                >
                    "Pin it as A"
                </button>
                <button
                    type="button"
                    prop:disabled=move || !has_best()
                    on:click=move |_| {
                        if let Some((number, ranks)) = best() {
                            state.pin(format!("trial {number}, best"), ranks);
                        }
                    }
                >
                    "Pin the best so far as A"
                </button>
            </div>
        </section>
        <Show when=move || has_next() && has_best()>
            <Figure chart=difference file="next-against-best" />
        </Show>
    }
}
