//! Fine-tuning the tiny MobileVLM in the page: the schedule at hand against uniform LoRA of the same budget.

use std::sync::Arc;

use hydra_playground::analysis::Analysis;
use hydra_playground::charts::{answers, gradients_live, loss};
use hydra_playground::messages::training::{
    Answers, Arm, DeviceChoice, DeviceInfo, PARITY_STEPS, PARITY_TOLERANCE, Parity, Ready, StepReport, TrainingReply,
    TrainingRequest, TrainingSetup, WORKER,
};
use hydra_playground::samples::Sample;
use hydra_playground::session::Session;
use hydra_playground::text::thousands;
use hydra_shared::model_spec::ModelSpec;
use leptos::html;
use leptos::prelude::*;
use wasm_bindgen::{Clamped, JsCast};
use web_sys::{CanvasRenderingContext2d, Element, File, ImageData, KeyboardEvent};

use crate::browser::{save_bytes, save_text};
use crate::intake::Intake;
use crate::page::Page;
use crate::parts::{Choice, Figure, NumberBox, Picture};
use crate::settings::View;
use crate::worker::WorkerHandle;

/// The model that is trained.
const MODEL: &str = "tiny-mobilevlm";
/// Pauses between two steps, in milliseconds, and what the page calls them.
const SPEEDS: [(&str, &str); 3] =
    [("0", "as fast as it goes"), ("500", "half a second a step"), ("2000", "two seconds a step")];
/// Most steps of a run, and of conversations in a step.
const MOST_STEPS: usize = 1000;
const MOST_CONVERSATIONS: usize = 32;

/// The run and what is known of it; a context that the page provides, so that a run goes on while another view is open.
#[derive(Clone, Copy)]
pub struct TrainState {
    page: Page,
    /// Where a log is read as a dropped one is.
    intake: Option<Intake>,
    /// What the person chose; the ranks come from the session.
    choices: RwSignal<Choices>,
    /// Milliseconds between two steps.
    pause: RwSignal<u32>,
    /// The run that is wanted, and whether its ranks are the session's.
    wanted: Memo<Result<(TrainingSetup, bool), String>>,
    /// The run that was asked for.
    begun: RwSignal<Option<TrainingSetup>>,
    /// What the worker is busy with.
    busy: RwSignal<Option<String>>,
    device: RwSignal<Option<DeviceInfo>>,
    ready: RwSignal<Option<Ready>>,
    playing: RwSignal<bool>,
    history: RwSignal<Vec<StepReport>>,
    parity: RwSignal<Option<Parity>>,
    answers: RwSignal<Option<Answers>>,
    /// What happened to the device.
    events: RwSignal<Vec<String>>,
    failed: RwSignal<Option<String>>,
    /// Whether the log that was asked for goes to the analysis.
    to_analysis: StoredValue<bool>,
    worker: StoredValue<Option<WorkerHandle>, LocalStorage>,
}

/// What a person chooses of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Choices {
    steps: usize,
    batch_size: usize,
    learning_rate: f64,
    seed: u32,
    device: DeviceChoice,
}

impl TrainState {
    /// Nothing is loaded before the view is opened.
    pub fn new(page: Page) -> Self {
        let example = TrainingSetup::new(Vec::new(), 1, Default::default());
        let choices = RwSignal::new(Choices {
            steps: example.steps,
            batch_size: example.batch_size,
            learning_rate: example.learning_rate,
            seed: example.seed,
            device: example.device,
        });
        Self {
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
            parity: RwSignal::new(None),
            answers: RwSignal::new(None),
            events: RwSignal::new(Vec::new()),
            failed: RwSignal::new(None),
            to_analysis: StoredValue::new(false),
            worker: StoredValue::new_local(None),
        }
    }

    /// Prepares the run that is wanted, from its beginning.
    fn begin(self) {
        let setup = match self.wanted.get_untracked() {
            Ok((setup, _)) => setup,
            Err(error) => return self.fail(error),
        };
        self.forget();
        self.begun.set(Some(setup.clone()));
        self.send(&TrainingRequest::Wait(self.pause.get_untracked()));
        self.send(&TrainingRequest::Start(setup));
        if self.failed.get_untracked().is_none() {
            self.busy.set(Some("loading the program".to_owned()));
        }
    }

    fn forget(self) {
        self.ready.set(None);
        self.playing.set(false);
        self.history.set(Vec::new());
        self.parity.set(None);
        self.answers.set(None);
        self.events.set(Vec::new());
        self.failed.set(None);
    }

    fn send(self, request: &TrainingRequest) {
        if self.worker.with_value(Option::is_none) {
            match WorkerHandle::start(WORKER, move |reply| self.take(reply)) {
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
                self.fail(format!("The worker has stopped: {error}. Start again to go on."));
            }
        }
    }

    fn take_reply(self, reply: TrainingReply) {
        match reply {
            TrainingReply::Progress(what) => self.busy.set(Some(what)),
            TrainingReply::Device(device) => self.device.set(Some(device)),
            TrainingReply::Ready(ready) => {
                self.busy.set(None);
                self.ready.set(Some(*ready));
            }
            TrainingReply::Playing(playing) => self.playing.set(playing),
            TrainingReply::Stepped(step) => self.history.update(|history| history.push(step)),
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
            TrainingReply::DeviceError(error) => self.tell(format!("The device reports an error: {error}")),
            TrainingReply::Answers(answers) => {
                self.busy.set(None);
                self.answers.set(Some(answers));
            }
            TrainingReply::Log { arm, text } => self.take_log(arm, &text),
            TrainingReply::Adapter { arm, files } => {
                let prefix = if arm == Arm::Schedule { "" } else { "uniform-" };
                for (name, bytes) in files {
                    save_bytes(&format!("{prefix}{name}"), "application/octet-stream", &bytes);
                }
            }
            TrainingReply::Failed(error) => self.fail(error),
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
        if self.page.session.with_untracked(|session| session.model.name != MODEL) {
            self.page.session.set(Session::of_sample(Sample::TinyMobileVlm));
        }
        let parts = js_sys::Array::of1(&text.into());
        match (self.intake, File::new_with_str_sequence(&parts, name)) {
            (Some(intake), Ok(file)) => {
                intake.open(&[file]);
                self.page.view.set(View::Analyse);
            }
            _ => self.page.warn("The log could not be handed over; save it and drop it onto the page."),
        }
    }

    fn ask_log(self, arm: Arm, to_analysis: bool) {
        self.to_analysis.set_value(to_analysis);
        self.send(&TrainingRequest::Log(arm));
    }

    fn tell(self, event: String) {
        self.events.update(|events| events.push(event));
    }

    fn fail(self, error: String) {
        self.busy.set(None);
        self.playing.set(false);
        self.failed.set(Some(error));
    }

    /// Whether there is a step to take.
    fn can_step(self) -> bool {
        let taken = self.history.with(Vec::len);
        self.busy.with(Option::is_none) && self.ready.with(|r| r.as_ref().is_some_and(|r| taken < r.setup.steps))
    }

    fn play_or_pause(self) {
        if self.playing.get_untracked() {
            self.send(&TrainingRequest::Pause);
        } else if self.can_step() {
            self.failed.set(None);
            self.send(&TrainingRequest::Play);
        }
    }

    fn steps(self) -> usize {
        self.ready.with(|ready| ready.as_ref().map_or(0, |ready| ready.setup.steps))
    }
}

/// The run of the session's schedule, or, where the session is about another model, of the tiny sample's.
fn wanted(page: Page, choices: Choices) -> Result<(TrainingSetup, bool), String> {
    let own = page.session.with(|session| session.model.name == MODEL);
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
    let Choices { steps, batch_size, learning_rate, seed, device } = choices;
    let setup = TrainingSetup {
        steps,
        batch_size,
        learning_rate,
        seed,
        device,
        ..TrainingSetup::new(ranks, plan.base_rank, plan.scale)
    };
    Ok((setup, own))
}

/// The view.
#[component]
pub fn TrainView() -> impl IntoView {
    let page = Page::get();
    let state = use_context::<TrainState>().unwrap_or_else(|| TrainState::new(page));
    if state.begun.get_untracked().is_none() {
        state.begin();
    }
    keys(state);
    let losses = Memo::new(move |_| state.history.with(|history| loss::chart(history, state.steps())));
    let arm = RwSignal::new(Arm::Uniform);
    let norms = Memo::new(move |_| {
        let model = ModelSpec::preset(MODEL).ok();
        state.history.with(|history| model.map(|m| gradients_live::chart(&m, history, arm.get())).unwrap_or_default())
    });
    view! {
        <div class="columns">
            <TrainControls state />
            <div class="views" aria-busy=move || if state.busy.with(Option::is_some) { "true" } else { "false" }>
                <Status state />
                <Figure chart=losses file="training-loss">
                    <p class="soft">
                        "Both arms take the same steps on the same conversations. Thin: every step. Thick: the mean of the \
                         last eight."
                    </p>
                </Figure>
                <Figure chart=norms file="live-gradient-norms">
                    <div class="row">
                        <Choice
                            label="Arm"
                            id="norms-arm"
                            options=vec![("uniform", "uniform LoRA"), ("schedule", "schedule")]
                            value=Signal::derive(move || {
                                if arm.get() == Arm::Uniform { "uniform" } else { "schedule" }.to_owned()
                            })
                            set=move |name: String| arm.set(if name == "uniform" { Arm::Uniform } else { Arm::Schedule })
                            hint="HyDRA plans from the norms of a run with the same rank everywhere"
                        />
                        <button
                            type="button"
                            id="log-to-analysis"
                            class="primary"
                            disabled=move || state.history.with(Vec::is_empty)
                            on:click=move |_| state.ask_log(arm.get_untracked(), true)
                        >
                            "Analyse this log"
                        </button>
                        <button
                            type="button"
                            disabled=move || state.history.with(Vec::is_empty)
                            on:click=move |_| state.ask_log(arm.get_untracked(), false)
                        >
                            "Save the log"
                        </button>
                    </div>
                </Figure>
                <SampleAnswers state />
            </div>
        </div>
    }
}

/// What is trained, on what, and the buttons.
#[component]
fn TrainControls(state: TrainState) -> impl IntoView {
    let choices = state.choices;
    let schedule = move || {
        state.wanted.with(|wanted| match wanted {
            Err(error) => view! { <p class="problem">{error.clone()}</p> }.into_any(),
            Ok((_, true)) => view! { <p>"The schedule of Analyse, against uniform LoRA at the base rank."</p> }.into_any(),
            Ok((_, false)) => {
                let use_sample = move |_| state.page.session.set(Session::of_sample(Sample::TinyMobileVlm));
                view! {
                    <p>
                        "Analyse is about another model, and only tiny-mobilevlm can be trained here. So long, it is HyDRA's \
                         plan for the tiny model's sample."
                    </p>
                    <button type="button" id="use-tiny-sample" on:click=use_sample>"Use the tiny model's sample in Analyse"</button>
                }
                    .into_any()
            }
        })
    };
    let changed = move || {
        let wanted = state.wanted.with(|wanted| wanted.as_ref().ok().map(|(setup, _)| setup.clone()));
        wanted.is_some() && state.begun.with(|begun| begun.is_some() && *begun != wanted)
    };
    let number = move |pick: fn(&Choices) -> u32| Signal::derive(move || Some(choices.with(pick)));
    view! {
        <section class="controls card" aria-label="Training">
            <h2>"Fine-tune the tiny MobileVLM"</h2>
            <p class="soft">
                "472,000 weights, in your browser: generated pictures, questions about them, LoRA on every module of its six \
                 decoder layers."
            </p>
            {schedule}
            <div class="player">
                <button
                    type="button"
                    id="train-play"
                    class="primary"
                    disabled=move || !state.can_step() && !state.playing.get()
                    on:click=move |_| state.play_or_pause()
                >
                    {move || if state.playing.get() { "Pause" } else { "Play" }}
                </button>
                <button
                    type="button"
                    id="train-step"
                    disabled=move || !state.can_step() || state.playing.get()
                    on:click=move |_| state.send(&TrainingRequest::Step)
                >
                    "Step"
                </button>
                <button type="button" id="train-start" on:click=move |_| state.begin()>
                    {move || if changed() { "Start again with these choices" } else { "Start again" }}
                </button>
            </div>
            <p class="soft">"Keys: space plays and pauses, . takes a step, r starts again."</p>
            <Choice
                label="Speed"
                id="train-speed"
                options=SPEEDS.to_vec()
                value=Signal::derive(move || state.pause.get().to_string())
                set=move |pause: String| {
                    let pause = pause.parse().unwrap_or(0);
                    state.pause.set(pause);
                    if state.begun.with_untracked(Option::is_some) {
                        state.send(&TrainingRequest::Wait(pause));
                    }
                }
                hint="How long the page waits between two steps"
            />
            <Choice
                label="Device"
                id="train-device"
                options=vec![("auto", "WebGPU if there is one"), ("cpu", "CPU")]
                value=Signal::derive(move || {
                    if choices.with(|c| c.device == DeviceChoice::Cpu) { "cpu" } else { "auto" }.to_owned()
                })
                set=move |device: String| choices.update(|choices| {
                    choices.device = if device == "cpu" { DeviceChoice::Cpu } else { DeviceChoice::Auto };
                })
                hint="Where tensors live; applies from the next start on"
            />
            <NumberBox
                label="Steps"
                id="train-steps"
                bounds=(1, MOST_STEPS as u32)
                value=number(|c| c.steps as u32)
                set=move |steps| choices.update(|c| c.steps = steps.unwrap_or(60) as usize)
                hint="Optimizer steps of a run"
            />
            <NumberBox
                label="Conversations a step"
                id="train-batch"
                bounds=(1, MOST_CONVERSATIONS as u32)
                value=number(|c| c.batch_size as u32)
                set=move |size| choices.update(|c| c.batch_size = size.unwrap_or(8) as usize)
                hint="Each has five questions about one picture"
            />
            <NumberBox
                label="Learning rate"
                id="train-learning-rate"
                bounds=(1e-6, 0.1)
                value=Signal::derive(move || Some(choices.with(|c| c.learning_rate)))
                set=move |rate| choices.update(|c| c.learning_rate = rate.unwrap_or(5e-3))
                hint="At its peak: it rises over the first steps and falls along a cosine"
            />
            <NumberBox
                label="Seed"
                id="train-seed"
                bounds=(0, u32::MAX)
                value=number(|c| c.seed)
                set=move |seed| choices.update(|c| c.seed = seed.unwrap_or(1))
                hint="Of initial adapters and of the order of the conversations, in both arms"
            />
            <h3>"Take away"</h3>
            <p class="soft">"adapter_config.json, adapter_model.safetensors, and the projector that was trained beside it."</p>
            <div class="row">
                {Arm::BOTH
                    .map(|arm| {
                        view! {
                            <button
                                type="button"
                                id=format!("adapter-{}", arm.index())
                                disabled=move || state.history.with(Vec::is_empty)
                                on:click=move |_| state.send(&TrainingRequest::Adapter(arm))
                            >
                                {format!("Adapter, {}", arm.name())}
                            </button>
                        }
                    })
                    .collect_view()}
            </div>
        </section>
    }
}

/// Device, parity, how far it is, and what happened.
#[component]
fn Status(state: TrainState) -> impl IntoView {
    let device = move || {
        state.device.get().map(|device| {
            let kind = match (device.webgpu, device.software) {
                (true, false) => "WebGPU",
                (true, true) => "WebGPU on a software adapter: no GPU, and slow",
                (false, _) => "No GPU",
            };
            let reason = device.reason.map(|reason| format!(" Why: {reason}."));
            view! {
                <p id="train-device-name">
                    <strong>{kind}</strong>
                    {format!(": {}.", device.name)}
                    {reason}
                </p>
            }
        })
    };
    let parity = move || {
        let on_gpu = state.device.with(|device| device.as_ref().is_some_and(|device| device.webgpu));
        let badge = match state.parity.get() {
            Some(parity) => {
                let (class, verdict) = if parity.passed() {
                    ("badge right", "agrees with the CPU")
                } else {
                    ("badge wrong", "differs from the CPU")
                };
                let text =
                    format!("{verdict}: {:.1e} after {} of {PARITY_STEPS} steps", parity.difference, parity.steps);
                view! { <span class=class id="parity">{text}</span> }.into_any()
            }
            None if on_gpu => {
                view! { <span class="badge" id="parity">"not compared with the CPU yet"</span> }.into_any()
            }
            None => return None,
        };
        let why = format!(
            "The first {PARITY_STEPS} steps are computed on the CPU as well. Both compute in single precision, in another \
             order; up to {PARITY_TOLERANCE} of relative difference in a loss is rounding, and what a broken kernel does lies \
             far above."
        );
        Some(view! { <p>"GPU " {badge} " " <span class="soft">{why}</span></p> })
    };
    let far = move || {
        let (Some(ready), taken) = (state.ready.get(), state.history.with(Vec::len)) else { return None };
        let [schedule, uniform] = ready.parameters;
        let pace = state.history.with(|history| {
            let last = &history[history.len().saturating_sub(10)..];
            let mean = last.iter().map(|step| step.milliseconds).sum::<f64>() / last.len().max(1) as f64;
            (!last.is_empty()).then(|| {
                let rate = 2000.0 * ready.setup.batch_size as f64 / mean.max(1e-3);
                format!("; {mean:.0} ms a step, {rate:.0} conversations a second in both arms together")
            })
        });
        Some(view! {
            <p>
                <progress max=ready.setup.steps value=taken aria-label="Steps taken"></progress>
                <span id="train-progress">
                    {format!("Step {taken} of {}{}", ready.setup.steps, pace.unwrap_or_default())}
                </span>
            </p>
            <p class="soft">
                {format!(
                    "Trainable parameters: {} under the schedule, {} under uniform LoRA; the projector is \
                     trained beside both. {} pictures, {} conversations.",
                    thousands(schedule as u64),
                    thousands(uniform as u64),
                    ready.pictures,
                    ready.conversations,
                )}
            </p>
        })
    };
    let events = move || {
        state.events.with(|events| events.iter().map(|event| view! { <li>{event.clone()}</li> }).collect_view())
    };
    let on_gpu = move || state.device.with(|device| device.as_ref().is_some_and(|device| device.webgpu));
    view! {
        <section class="card status" aria-label="The run">
            <div role="status" aria-live="polite">
                {device}
                {parity}
                {move || state.busy.get().map(|busy| view! { <p id="train-busy">{format!("{busy}…")}</p> })}
                {move || state.failed.get().map(|error| view! { <p class="problem" id="train-failed">{error}</p> })}
                <ul class="events" id="train-events">
                    {events}
                </ul>
            </div>
            {far}
            {move || {
                on_gpu()
                    .then(|| {
                        view! {
                            <button
                                type="button"
                                id="lose-device"
                                class="quiet"
                                title="Destroys the WebGPU device, as a driver that restarts does: the run goes on from its last snapshot"
                                on:click=move |_| state.send(&TrainingRequest::LoseDevice)
                            >
                                "Lose the device, to see the run recover"
                            </button>
                        }
                    })
            }}
        </section>
    }
}

/// The sample pictures, what is asked about them, and the answers before and after.
#[component]
fn SampleAnswers(state: TrainState) -> impl IntoView {
    let ask = move |_| {
        state.busy.set(Some("answering the sample questions".to_owned()));
        state.send(&TrainingRequest::Answer);
    };
    let save = move |_| {
        let table = state.ready.with_untracked(|ready| {
            let ready = ready.as_ref()?;
            Some(state.answers.with_untracked(|given| answers::table(ready, given.as_ref())))
        });
        if let Some(table) = table {
            save_text("sample-answers.csv", "text/csv", &table.to_csv());
        }
    };
    let cards = move || {
        let count = state.ready.with(|ready| ready.as_ref().map_or(0, |ready| ready.questions.len()));
        (0..count).map(|question| view! { <Sampled state question /> }).collect_view()
    };
    let when = move || {
        state.answers.with(|answers| match answers {
            Some(answers) => format!("After {} steps.", answers.step),
            None => "Before training. The answers after it come by themselves when the last step is taken.".to_owned(),
        })
    };
    view! {
        <section class="card" aria-label="Answers">
            <div class="row">
                <h2>"Answers about pictures of the validation part"</h2>
                <span class="saves">
                    <button type="button" class="quiet" on:click=save aria-label="Save the answers as CSV">"CSV"</button>
                </span>
            </div>
            <p>
                {when} " Boxes:" <span class="key target">"right"</span> " " <span class="key schedule">"schedule"</span> " "
                <span class="key uniform">"uniform LoRA"</span>
            </p>
            <button
                type="button"
                id="train-answer"
                disabled=move || state.busy.with(Option::is_some) || state.history.with(Vec::is_empty)
                on:click=ask
            >
                "Answer now"
            </button>
            <div class="samples">{cards}</div>
        </section>
    }
}

/// One question.
#[component]
fn Sampled(state: TrainState, question: usize) -> impl IntoView {
    let canvas = NodeRef::<html::Canvas>::new();
    let asked = state.ready.with_untracked(|r| r.as_ref().and_then(|r| r.questions.get(question).cloned()));
    let picture = state.ready.with_untracked(|ready| {
        let (ready, asked) = (ready.as_ref()?, asked.as_ref()?);
        Some((ready.side, ready.samples.get(asked.picture)?.clone()))
    });
    let side = picture.as_ref().map_or(0, |(side, _)| *side);
    Effect::new(move |_| {
        if let (Some(canvas), Some((side, rgb))) = (canvas.get(), &picture) {
            paint(&canvas, *side, rgb);
        }
    });
    let over = Memo::new(move |_| {
        state.ready.with(|ready| {
            let ready = ready.as_ref()?;
            state.answers.with(|given| answers::overlay(ready, question, given.as_ref()))
        })
    });
    let rows = move || {
        state.ready.with(|ready| {
            let ready = ready.as_ref()?;
            let asked = ready.questions.get(question)?;
            let given = state.answers.get();
            let mut rows = vec![("untouched".to_owned(), ready.before.get(question).cloned())];
            for arm in Arm::BOTH {
                let answer = given.as_ref().and_then(|given| given.texts[arm.index()].get(question).cloned());
                rows.push((arm.name().to_owned(), answer));
            }
            let row = |(name, answer): (String, Option<String>)| {
                let judged = answer.map(|answer| answers::judge(asked, &answer, ready.side));
                let (text, mark) = match judged {
                    Some(judged) => (judged.text, if judged.right { "✓ right" } else { "✗ wrong" }),
                    None => ("–".to_owned(), ""),
                };
                view! {
                    <tr>
                        <th scope="row">{name}</th>
                        <td>{text}</td>
                        <td>{mark}</td>
                    </tr>
                }
            };
            Some(rows.into_iter().map(row).collect_view())
        })
    };
    let overlay = Signal::derive(move || Arc::new(over.get().unwrap_or_default()));
    let page = state.page;
    asked.map(|asked| {
        let name = format!("Sample picture {}", asked.picture + 1);
        let expected = if asked.target.is_some() { "the dashed box".to_owned() } else { asked.answer };
        view! {
            <div class="sample">
                <div class="sample-picture">
                    <canvas node_ref=canvas width=side height=side role="img" aria-label=name></canvas>
                    {move || over.with(Option::is_some).then(|| view! { <Picture drawing=overlay theme=page.theme /> })}
                </div>
                <div class="sample-text">
                    <p>
                        <strong>{asked.text}</strong>
                    </p>
                    <p class="soft">{format!("{}; expected: {expected}", asked.kind.name())}</p>
                </div>
                <table>
                    <tbody>{rows}</tbody>
                </table>
            </div>
        }
    })
}

/// Puts a picture onto a canvas.
fn paint(canvas: &web_sys::HtmlCanvasElement, side: u32, rgb: &[u8]) {
    let rgba: Vec<u8> = rgb.as_chunks::<3>().0.iter().flat_map(|&[r, g, b]| [r, g, b, 255]).collect();
    let context = canvas.get_context("2d").ok().flatten();
    let context = context.and_then(|context| context.dyn_into::<CanvasRenderingContext2d>().ok());
    if let (Some(context), Ok(data)) =
        (context, ImageData::new_with_u8_clamped_array_and_sh(Clamped(&rgba), side, side))
    {
        // A picture that does not appear is no reason to stop.
        let _ = context.put_image_data(&data, 0.0, 0.0);
    }
}

/// Space, full stop and r, outside of anything that takes them itself.
fn keys(state: TrainState) {
    let handle = window_event_listener(leptos::ev::keydown, move |event: KeyboardEvent| {
        let target = event.target().and_then(|target| target.dyn_into::<Element>().ok());
        let taken = target.is_some_and(|target| {
            target.matches("input, textarea, select, button, summary, a, [tabindex]").unwrap_or(false)
        });
        if taken || event.ctrl_key() || event.alt_key() || event.meta_key() {
            return;
        }
        match event.key().as_str() {
            " " => {
                event.prevent_default();
                state.play_or_pause();
            }
            "." if state.can_step() => state.send(&TrainingRequest::Step),
            "r" => state.begin(),
            _ => {}
        }
    });
    on_cleanup(move || handle.remove());
}
