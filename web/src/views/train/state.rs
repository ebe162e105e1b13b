//! The run and what is known of it.

use hydra_playground::analysis::Analysis;
use hydra_playground::messages::training::{
    Answers, Arm, DeviceInfo, KEPT_EVERY, NamedRun, Pace, Parity, Ready, Scored, StepReport, TrainingReply,
    TrainingRequest, TrainingSetup, WORKER,
};
use hydra_playground::samples::Sample;
use hydra_playground::session::Session;
use leptos::prelude::*;
use web_sys::File;

use crate::browser::{save_bytes, save_text};
use crate::history::History;
use crate::intake::Intake;
use crate::page::Page;
use crate::settings::{TrainingChoices, View};
use crate::worker::WorkerHandle;

/// The model that is trained.
pub(super) const MODEL: &str = "tiny-mobilevlm";

/// What is said until the worker answers.
const LOADING: &str = "loading the program";

/// The run and what is known of it. The page keeps it, so that a run goes on while another view is open.
#[derive(Clone, Copy)]
pub struct TrainState {
    pub(super) page: Page,
    /// Where a log is read as a dropped one is.
    intake: Option<Intake>,
    /// What the person chose; the ranks come from the session.
    pub(super) choices: RwSignal<TrainingChoices>,
    /// Milliseconds between two steps.
    pub(super) pause: RwSignal<u32>,
    /// The run that is wanted, and whether its ranks are the session's.
    pub(super) wanted: Memo<Result<(TrainingSetup, bool), String>>,
    /// The run that was asked for.
    pub(super) begun: RwSignal<Option<TrainingSetup>>,
    /// What the worker is busy with.
    pub(super) busy: RwSignal<Option<String>>,
    pub(super) device: RwSignal<Option<DeviceInfo>>,
    pub(super) ready: RwSignal<Option<Ready>>,
    pub(super) playing: RwSignal<bool>,
    pub(super) history: RwSignal<Vec<StepReport>>,
    /// Steps after which this browser keeps the run.
    pub(super) kept: RwSignal<usize>,
    /// The run, and what it is kept under.
    run: StoredValue<Option<NamedRun>>,
    /// How long a step takes, measured before the first.
    pub(super) pace: RwSignal<Option<Pace>>,
    pub(super) parity: RwSignal<Option<Parity>>,
    pub(super) answers: RwSignal<Option<Answers>>,
    pub(super) scored: RwSignal<Option<Scored>>,
    /// What happened to the device.
    pub(super) events: RwSignal<Vec<String>>,
    pub(super) failed: RwSignal<Option<String>>,
    /// Since when the step that is being computed is, in milliseconds since 1970.
    pub(super) since: RwSignal<Option<f64>>,
    /// Whether the log that was asked for goes to the analysis.
    to_analysis: StoredValue<bool>,
    worker: StoredValue<Option<WorkerHandle>, LocalStorage>,
}

impl TrainState {
    /// Nothing is loaded before the view is opened.
    pub(super) fn new(page: Page) -> Self {
        let choices = page.training;
        let state = Self {
            page,
            intake: use_context(),
            choices,
            pause: RwSignal::new(0),
            wanted: Memo::new(move |_| wanted(page, choices.get())),
            begun: RwSignal::new(None),
            busy: RwSignal::new(None),
            device: RwSignal::new(None),
            ready: RwSignal::new(None),
            playing: RwSignal::new(false),
            history: RwSignal::new(Vec::new()),
            kept: RwSignal::new(0),
            run: StoredValue::new(None),
            pace: RwSignal::new(None),
            parity: RwSignal::new(None),
            answers: RwSignal::new(None),
            scored: RwSignal::new(None),
            events: RwSignal::new(Vec::new()),
            failed: RwSignal::new(None),
            since: RwSignal::new(None),
            to_analysis: StoredValue::new(false),
            worker: StoredValue::new_local(None),
        };
        // What is taken again in seconds is not worth a question. The page asks even while another view is open.
        Effect::new(move |_| {
            page.trained.set_value(state.history.with(Vec::len) > state.kept.get() + KEPT_EVERY);
        });
        state
    }

    /// Prepares the run that is wanted, from its beginning.
    pub(super) fn begin(self) {
        match self.wanted.get_untracked() {
            Ok((setup, _)) => self.prepare(setup, None),
            Err(error) => self.fail(error),
        }
    }

    /// Prepares the run that is wanted; where this tab had one of the same ranks before it was loaded again, that one, from where
    /// it was kept.
    pub(super) fn begin_or_go_on(self) {
        let wanted = self.wanted.get_untracked();
        let is_same = |own: &TrainingSetup, wanted: &TrainingSetup| {
            (&own.ranks, own.base_rank, own.scale) == (&wanted.ranks, wanted.base_rank, wanted.scale)
        };
        match (read_own(), wanted) {
            (Some(own), Ok((wanted, _))) if is_same(&own.setup, &wanted) => {
                let TrainingSetup { steps, batch_size, learning_rate, seed, device, .. } = own.setup;
                let choices = TrainingChoices { steps, batch_size, learning_rate, seed, device };
                match use_context::<History>() {
                    Some(history) => history.take_training(self.page, choices),
                    None => self.choices.set(choices),
                }
                self.prepare(own.setup, Some(own.name));
            }
            _ => self.begin(),
        }
    }

    /// Prepares a run under a name of its own, from its beginning or from where one of another name was kept: a tab that was
    /// duplicated has the name of the first.
    fn prepare(self, setup: TrainingSetup, from: Option<u32>) {
        self.forget();
        self.begun.set(Some(setup.clone()));
        let run = NamedRun { name: (js_sys::Math::random() * f64::from(u32::MAX)) as u32, setup };
        self.send(&TrainingRequest::Wait(self.pause.get_untracked()));
        match from {
            // Until it is kept under its own name it is under the other.
            Some(from) => self.send(&TrainingRequest::GoOn(run.clone(), from)),
            None => {
                keep_own(&run);
                self.send(&TrainingRequest::Start(run.clone()));
            }
        }
        self.run.set_value(Some(run));
        if self.failed.get_untracked().is_none() {
            self.busy.set(Some(LOADING.to_owned()));
        }
    }

    fn forget(self) {
        self.ready.set(None);
        self.playing.set(false);
        self.history.set(Vec::new());
        self.kept.set(0);
        self.pace.set(None);
        self.parity.set(None);
        self.answers.set(None);
        self.scored.set(None);
        self.events.set(Vec::new());
        self.failed.set(None);
        self.since.set(None);
    }

    pub(super) fn send(self, request: &TrainingRequest) {
        if self.worker.with_value(Option::is_none) {
            let loading = move |share| self.busy.set(Some(format!("{LOADING}: {share}")));
            match WorkerHandle::start(WORKER, loading, move |reply| self.take(reply)) {
                Ok(worker) => self.worker.set_value(Some(worker)),
                Err(error) => return self.fail(error),
            }
        }
        if let Some(Err(error)) = self.worker.with_value(|worker| worker.as_ref().map(|w| w.send(request, &[]))) {
            self.fail(error);
        }
    }

    fn take(self, reply: Result<TrainingReply, String>) {
        match reply {
            Ok(reply) => self.take_reply(reply),
            Err(error) => {
                // What went wrong inside may have left it unable to answer: the next run gets another worker.
                self.worker.set_value(None);
                self.begun.set(None);
                self.ready.set(None);
                self.fail(format!("The part of the page that trains has stopped: {error}."));
            }
        }
    }

    fn take_reply(self, reply: TrainingReply) {
        match reply {
            TrainingReply::Progress(what) => self.busy.set(Some(what)),
            TrainingReply::Device(device) => self.device.set(Some(device)),
            TrainingReply::Ready(ready) => {
                self.busy.set(None);
                // What was measured or came meanwhile is of the run before.
                self.forget();
                self.ready.set(Some(*ready));
            }
            TrainingReply::Playing(playing) => {
                // Between two steps that are asked for one by one nothing is on its way.
                if playing != self.playing.get_untracked() {
                    self.since.set(playing.then(js_sys::Date::now));
                }
                self.playing.set(playing);
            }
            TrainingReply::Stepped(step) => {
                self.history.update(|history| history.push(step));
                let goes_on = self.playing.get_untracked() && self.history.with_untracked(Vec::len) < self.steps();
                self.since.set(goes_on.then(js_sys::Date::now));
            }
            TrainingReply::Pace(pace) => {
                self.busy.set(None);
                self.pace.set(Some(pace));
            }
            TrainingReply::Parity(parity) => self.parity.set(Some(parity)),
            TrainingReply::Lost { reason, attempt, kept } => {
                let then = match attempt {
                    0 => "it goes on on the CPU".to_owned(),
                    attempt => format!("attempt {attempt} to get another"),
                };
                self.tell(format!("The device was lost ({reason}); step {kept} is kept, {then}."));
            }
            TrainingReply::Resumed(step) => {
                self.history.update(|history| history.retain(|report| report.step <= step));
                self.tell(format!("The run goes on from step {step}."));
            }
            TrainingReply::WentOn(history) => {
                self.tell(format!("The run goes on from step {}, which this browser kept.", history.len()));
                self.history.set(history);
            }
            TrainingReply::Kept(step) => {
                self.run.with_value(|run| run.iter().for_each(keep_own));
                self.kept.set(step);
            }
            TrainingReply::DeviceError(error) => self.tell(format!("The device reports an error: {error}")),
            TrainingReply::Answers(answers) => {
                self.busy.set(None);
                self.answers.set(Some(answers));
            }
            TrainingReply::Scored(scored) => self.scored.set(Some(scored)),
            TrainingReply::Log { arm, text } => self.take_log(arm, &text),
            TrainingReply::Adapter { arm, files } => {
                let prefix = if arm == Arm::Schedule { "" } else { "uniform-" };
                for (name, bytes) in files {
                    save_bytes(&format!("{prefix}{name}"), "application/octet-stream", &bytes);
                }
            }
            TrainingReply::Failed(error) => {
                self.scored.set(None);
                self.fail(error);
            }
        }
    }

    fn take_log(self, arm: Arm, text: &str) {
        let name = match arm {
            Arm::Schedule => "tiny-mobilevlm-schedule.jsonl",
            Arm::Uniform => "tiny-mobilevlm-uniform.jsonl",
        };
        if !self.to_analysis.get_value() {
            return save_text(name, "application/jsonl", text);
        }
        // A log is read for the model that is shown.
        if self.page.session.with_untracked(|session| session.layout.model() != MODEL) {
            self.page.session.set(Session::of_sample(Sample::TinyMobileVlm));
        }
        let parts = js_sys::Array::of1(&text.into());
        match (self.intake, File::new_with_str_sequence(&parts, name)) {
            (Some(intake), Ok(file)) => {
                intake.open(vec![(file.name(), file)]);
                self.page.view.set(View::Analyse);
            }
            _ => self.page.warn("The log could not be handed over; save it and drop it onto the page."),
        }
    }

    pub(super) fn ask_log(self, arm: Arm, to_analysis: bool) {
        self.to_analysis.set_value(to_analysis);
        self.send(&TrainingRequest::Log(arm));
    }

    fn tell(self, event: String) {
        self.events.update(|events| events.push(event));
    }

    fn fail(self, error: String) {
        self.busy.set(None);
        self.playing.set(false);
        self.since.set(None);
        self.failed.set(Some(error));
    }

    /// Whether there is a step to take.
    pub(super) fn can_step(self) -> bool {
        let taken = self.history.with(Vec::len);
        self.busy.with(Option::is_none) && self.ready.with(|r| r.as_ref().is_some_and(|r| taken < r.setup.steps))
    }

    /// Takes one step.
    pub(super) fn step(self) {
        self.since.set(Some(js_sys::Date::now()));
        self.send(&TrainingRequest::Step);
    }

    /// Whether what is chosen is not what is prepared.
    pub(super) fn is_changed(self) -> bool {
        let wanted = self.wanted.with(|wanted| wanted.as_ref().ok().map(|(setup, _)| setup.clone()));
        wanted.is_some() && self.begun.with(|begun| begun.is_some() && *begun != wanted)
    }

    pub(super) fn play_or_pause(self) {
        if self.playing.get_untracked() {
            self.send(&TrainingRequest::Pause);
        } else if self.can_step() {
            self.failed.set(None);
            self.send(&TrainingRequest::Play);
        }
    }

    pub(super) fn steps(self) -> usize {
        self.ready.with(|ready| ready.as_ref().map_or(0, |ready| ready.setup.steps))
    }
}

/// Where a tab keeps which run is its own; the browser keeps the run itself.
const OWN: &str = "hydra-training";

fn keep_own(run: &NamedRun) {
    let text = serde_wasm_bindgen::to_value(run).ok().and_then(|value| js_sys::JSON::stringify(&value).ok());
    if let (Some(storage), Some(text)) = (window().session_storage().ok().flatten(), text) {
        // A browser that keeps nothing is none the worse.
        let _ = storage.set_item(OWN, &String::from(text));
    }
}

fn read_own() -> Option<NamedRun> {
    let text = window().session_storage().ok().flatten()?.get_item(OWN).ok().flatten()?;
    serde_wasm_bindgen::from_value(js_sys::JSON::parse(&text).ok()?).ok()
}

/// The run of the session's schedule, or, where the session is about another model, of the tiny sample's.
fn wanted(page: Page, choices: TrainingChoices) -> Result<(TrainingSetup, bool), String> {
    let own = page.session.with(|session| session.layout.model() == MODEL);
    let (ranks, plan) = if own {
        let ranks = page.analysis.with(|analysis| match analysis {
            Ok(analysis) => Ok(analysis.ranks.clone()),
            Err(error) => Err(error.to_string()),
        })?;
        (ranks, page.session.with(|session| session.plan.clone()))
    } else {
        let session = Session::of_sample(Sample::TinyMobileVlm);
        (Analysis::new(&session).map_err(|error| error.to_string())?.ranks, session.plan)
    };
    let TrainingChoices { steps, batch_size, learning_rate, seed, device } = choices;
    let setup = TrainingSetup {
        steps,
        batch_size,
        learning_rate,
        seed,
        device,
        ..TrainingSetup::new(ranks.as_slice().to_vec(), plan.base_rank, plan.scale)
    };
    Ok((setup, own))
}
