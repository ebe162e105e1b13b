//! What the page asks, one thing after the other; between two steps of a run the browser gets its turn.

use std::cell::RefCell;
use std::collections::VecDeque;

use burn::tensor::Device;
use hydra_playground::messages::training::{
    Answers, DeviceChoice, DeviceInfo, KEPT_EVERY, MODEL_FOLDER, NamedRun, PARITY_STEPS, Pace, Parity, Ready, Scored,
    StepReport, TrainingReply, TrainingRequest, TrainingSetup,
};
use hydra_shared::gradients::ModuleGradient;
use js_sys::{Function, Promise, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::Response;

use super::TrainingError;
use super::base::{Base, ModelFiles};
use super::data::Data;
use super::gpu::{self, Gpu};
use super::kept::{self, KeptRun};
use super::trainer::{Measured, Snapshot, Trainer, answers, gradient_log, right};
use crate::{reply, scope};

/// Pictures that are asked about before the browser gets its turn.
const SCORED_AT_ONCE: usize = 4;
/// Attempts to get another device after one was lost.
const ATTEMPTS: u32 = 3;

thread_local! {
    static INBOX: Inbox = const { Inbox { events: RefCell::new(VecDeque::new()), wake: RefCell::new(None) } };
}

/// What happens from outside.
enum Event {
    Request(TrainingRequest),
    Lost { generation: u32, reason: String },
    DeviceError(String),
}

/// Events in their order, and who waits for the next.
struct Inbox {
    events: RefCell<VecDeque<Event>>,
    wake: RefCell<Option<Function>>,
}

impl Inbox {
    fn push(&self, event: Event) {
        self.events.borrow_mut().push_back(event);
        if let Some(wake) = self.wake.borrow_mut().take() {
            // Resolving a promise does not fail.
            let _ = wake.call0(&JsValue::NULL);
        }
    }
}

fn push(event: Event) {
    INBOX.with(|inbox| inbox.push(event));
}

/// Waits for the next event, or for so many milliseconds. Even 0 gives the browser its turn: a promise that is resolved
/// at once would not, and no message would ever arrive.
async fn wait(milliseconds: Option<u32>) {
    let promise = Promise::new(&mut |resolve, _| {
        if let Some(milliseconds) = milliseconds {
            let milliseconds = i32::try_from(milliseconds).unwrap_or(i32::MAX);
            // A worker always has timers.
            let _ = scope().set_timeout_with_callback_and_timeout_and_arguments_0(&resolve, milliseconds);
        }
        INBOX.with(|inbox| *inbox.wake.borrow_mut() = Some(resolve));
    });
    if INBOX.with(|inbox| inbox.events.borrow().is_empty()) {
        // It is never rejected.
        let _ = JsFuture::from(promise).await;
    }
}

/// Errors that the GPU backend only writes into a log: a kernel that does not compile is skipped, and computing goes on.
struct ErrorLog;

impl log::Log for ErrorLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() == log::Level::Error
    }

    fn log(&self, record: &log::Record<'_>) {
        // The loss of a device is heard of from the device itself.
        if self.enabled(record.metadata()) && !record.target().ends_with("device_poison") {
            push(Event::DeviceError(record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// Does what the page asks from now on.
pub fn start() {
    if log::set_logger(&ErrorLog).is_ok() {
        log::set_max_level(log::LevelFilter::Error);
    }
    crate::listen(|request: TrainingRequest, _| push(Event::Request(request)));
    spawn_local(async {
        let mut worker = Worker::default();
        loop {
            while let Some(event) = INBOX.with(|inbox| inbox.events.borrow_mut().pop_front()) {
                worker.handle(event).await;
            }
            if worker.run.as_ref().is_some_and(|run| run.playing) {
                worker.step().await;
                wait(Some(worker.pause)).await;
            } else if worker.is_scoring() {
                worker.score().await;
                wait(Some(0)).await;
            } else {
                wait(None).await;
            }
        }
    });
}

/// Model and pictures, and what the untouched model answers.
struct Bench {
    base: Base,
    data: Data,
    before: Vec<String>,
    /// How many questions about each picture that is scored it answers right, as far as it was asked.
    right: Vec<usize>,
}

impl Bench {
    /// Milliseconds of a step of both arms. The run that takes it is thrown away, and before it another, which computes the
    /// pictures' features and compiles kernels, as only a run's first steps do.
    async fn time_a_step(&mut self, setup: &TrainingSetup, device: &Device) -> Result<f64, TrainingError> {
        let Self { base, data, .. } = self;
        let mut trainer = Trainer::new(base, data, setup, device)?;
        trainer.step(base, data).await?;
        let mut again = Trainer::new(base, data, setup, device)?;
        let started = now();
        again.step(base, data).await?;
        Ok(now() - started)
    }
}

/// How long a step took, and of which run.
struct Paced {
    setup: TrainingSetup,
    webgpu: bool,
    pace: Pace,
}

impl Paced {
    /// Whether a step of another run takes as long: one of the same adapters and as many conversations.
    fn is_of(&self, other: &TrainingSetup) -> bool {
        let part = |setup: &TrainingSetup| (setup.ranks.clone(), setup.base_rank, setup.batch_size);
        part(&self.setup) == part(other) && self.setup.device == other.device
    }
}

/// Whether a later run was asked for.
fn is_superseded() -> bool {
    let is_start =
        |event: &Event| matches!(event, Event::Request(TrainingRequest::Start(_) | TrainingRequest::GoOn(..)));
    INBOX.with(|inbox| inbox.events.borrow().iter().any(is_start))
}

#[derive(Default)]
struct Worker {
    paced: Option<Paced>,
    bench: Option<Bench>,
    gpu: Option<Gpu>,
    generation: u32,
    run: Option<Run>,
    /// Milliseconds between two steps.
    pause: u32,
}

struct Run {
    /// What the browser keeps it under.
    name: u32,
    trainer: Trainer,
    webgpu: bool,
    playing: bool,
    /// Whether a step failed, which may have left the trainer between two states.
    is_broken: bool,
    measured: Vec<Measured>,
    snapshot: Snapshot,
    /// Attempts to get another device since the last snapshot.
    attempts: u32,
    /// The same run on the CPU, and its losses; none where the run itself is there.
    twin: Option<(Trainer, Vec<[f64; 2]>)>,
    /// What both arms score, once the last step was taken.
    scored: Option<Scored>,
}

impl Worker {
    async fn handle(&mut self, event: Event) {
        match event {
            Event::Request(request) => {
                if let Err(error) = self.answer(&request).await {
                    if self.is_lost(&error) {
                        self.recover(self.reason(&error)).await;
                        push(Event::Request(request));
                    } else {
                        self.fail(&error);
                    }
                }
            }
            Event::Lost { generation, reason } => {
                let current = self.gpu.as_ref().is_some_and(|gpu| gpu.generation == generation);
                match &self.run {
                    Some(run) if current && run.webgpu => self.recover(reason).await,
                    // Nothing runs on it: the next run opens another.
                    _ if current => self.gpu = None,
                    _ => {}
                }
            }
            Event::DeviceError(message) => reply(&TrainingReply::DeviceError(message)),
        }
    }

    async fn answer(&mut self, request: &TrainingRequest) -> Result<(), TrainingError> {
        match request {
            TrainingRequest::Start(run) => return self.begin(run, None).await,
            TrainingRequest::GoOn(run, from) => return self.begin(run, Some(*from)).await,
            TrainingRequest::Wait(milliseconds) => self.pause = *milliseconds,
            TrainingRequest::Step => {
                self.play(false);
                self.step().await;
                return self.keep().await;
            }
            TrainingRequest::Play => self.play(true),
            TrainingRequest::Pause => {
                // Whoever reads that it has paused finds it kept.
                if let Some(run) = &mut self.run {
                    run.playing = false;
                }
                let kept = self.keep().await;
                self.play(false);
                return kept;
            }
            TrainingRequest::LoseDevice => match &self.gpu {
                Some(gpu) => gpu.destroy(),
                None => return Err(TrainingError::Unusable("there is no GPU device to lose".to_owned())),
            },
            TrainingRequest::Answer => return self.answer_questions().await,
            TrainingRequest::Log(arm) => {
                let (Some(run), Some(bench)) = (&self.run, &self.bench) else { return Err(no_run()) };
                let text = gradient_log(&run.trainer, &bench.base.spec, &run.measured, *arm);
                reply(&TrainingReply::Log { arm: *arm, text });
            }
            TrainingRequest::Adapter(arm) => {
                let (Some(run), Some(bench)) = (&self.run, &self.bench) else { return Err(no_run()) };
                let files = run.trainer.adapter(&bench.base, *arm).await?;
                let files = files.into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
                reply(&TrainingReply::Adapter { arm: *arm, files });
            }
        }
        Ok(())
    }

    fn play(&mut self, playing: bool) {
        let Some(run) = &mut self.run else { return };
        run.playing = playing && !run.trainer.is_done();
        reply(&TrainingReply::Playing(run.playing));
    }

    async fn begin(&mut self, NamedRun { name, setup }: &NamedRun, from: Option<u32>) -> Result<(), TrainingError> {
        self.run = None;
        if self.bench.is_none() {
            progress("reading the model and painting the pictures");
            let base = Base::read(&files().await?)?;
            let mut data = Data::new(&base)?;
            let before = answers(&base.cpu, &base, &mut data, &Device::flex()).await?;
            self.bench = Some(Bench { base, data, before, right: Vec::new() });
        }
        progress("opening the device");
        let (device, info) = self.device(setup.device).await;
        let (webgpu, software) = (info.webgpu, info.software);
        reply(&TrainingReply::Device(info));
        progress("putting the model onto the device");
        let Some(bench) = &self.bench else { return Err(no_run()) };
        let Bench { base, data, before, .. } = bench;
        let trainer = Trainer::new(base, data, setup, &device)?;
        let twin = webgpu.then(|| Trainer::new(base, data, setup, &Device::flex())).transpose()?;
        // On the CPU: nothing was trained yet, and a device that fails must not fail here.
        let snapshot = match &twin {
            Some(twin) => twin.snapshot().await?,
            None => trainer.snapshot().await?,
        };
        let ready = Ready {
            setup: setup.clone(),
            parameters: trainer.parameters().map(|parameters| parameters as f64),
            pictures: data.pictures(),
            conversations: data.conversations(),
            side: data.side(),
            samples: data.samples().into_iter().map(Into::into).collect(),
            questions: data.questions().to_vec(),
            before: before.clone(),
        };
        self.run = Some(Run {
            name: *name,
            trainer,
            webgpu,
            playing: false,
            is_broken: false,
            measured: Vec::new(),
            snapshot,
            attempts: 0,
            twin: twin.map(|twin| (twin, Vec::new())),
            scored: None,
        });
        reply(&TrainingReply::Ready(Box::new(ready)));
        if let Some(name) = from {
            self.go_on(&NamedRun { name, setup: setup.clone() }).await;
        }
        self.measure(setup, &device, software).await?;
        // What they have learned is nowhere kept in words.
        let is_done = self.run.as_ref().is_some_and(|run| run.trainer.is_done());
        if is_done && !is_superseded() { self.end().await } else { Ok(()) }
    }

    /// Goes on from where the browser kept the run that was prepared, if it did.
    async fn go_on(&mut self, from: &NamedRun) {
        let Some(run) = &mut self.run else { return };
        let Some(KeptRun { measured, snapshot, .. }) = kept::find(from, &run.snapshot).await else { return };
        if is_superseded() {
            return;
        }
        run.trainer.restore(&snapshot);
        reply(&TrainingReply::WentOn(measured.iter().map(report).collect()));
        (run.measured, run.snapshot) = (measured, snapshot);
        let kept = KeptRun::new(&from.setup, run.measured.clone(), run.snapshot.clone());
        if kept::keep(run.name, &kept).await {
            reply(&TrainingReply::Kept(run.snapshot.step));
        }
    }

    /// Takes the state to the host, and has the browser keep it.
    async fn keep(&mut self) -> Result<(), TrainingError> {
        let Some(run) = &mut self.run else { return Ok(()) };
        if run.is_broken || run.snapshot.step == run.trainer.taken() {
            return Ok(());
        }
        run.snapshot = run.trainer.snapshot().await?;
        run.attempts = 0;
        let kept = KeptRun::new(run.trainer.setup(), run.measured.clone(), run.snapshot.clone());
        if kept::keep(run.name, &kept).await {
            reply(&TrainingReply::Kept(run.snapshot.step));
        }
        Ok(())
    }

    /// Measures a step on each device, and goes on on the CPU where that is faster and nobody chose the other, or where the GPU
    /// fails at once.
    async fn measure(&mut self, setup: &TrainingSetup, device: &Device, software: bool) -> Result<(), TrainingError> {
        // Another run may be wanted by now.
        wait(Some(0)).await;
        if is_superseded() {
            return Ok(());
        }
        let webgpu = self.run.as_ref().is_some_and(|run| run.webgpu);
        let alike = |of: &Paced| of.webgpu == webgpu && of.is_of(setup);
        let mut failed = None;
        let pace = match &self.paced {
            Some(paced) if alike(paced) => paced.pace,
            _ => {
                let Some(bench) = &mut self.bench else { return Err(no_run()) };
                progress("measuring how long a step takes");
                let cpu = bench.time_a_step(setup, &Device::flex()).await?;
                let on_gpu = if webgpu && !software { Some(bench.time_a_step(setup, device).await) } else { None };
                let gpu = match on_gpu {
                    // The CPU has taken the same step: whatever went wrong is the GPU's.
                    Some(Err(error)) => {
                        failed = Some(format!("the GPU failed in its first step: {}", self.reason(&error)));
                        None
                    }
                    Some(Ok(gpu)) => Some(gpu),
                    None => None,
                };
                let no_gpu = !webgpu && setup.device != DeviceChoice::Cpu;
                let pace = Pace { cpu, gpu, no_gpu };
                self.paced = failed.is_none().then(|| Paced { setup: setup.clone(), webgpu, pace });
                pace
            }
        };
        let is_slower = setup.device == DeviceChoice::Auto && pace.gpu.is_some_and(|gpu| gpu > pace.cpu);
        let reason = failed.or(is_slower.then(|| "a step takes longer on WebGPU".to_owned()));
        let Some(run) = &mut self.run else { return Err(no_run()) };
        if let Some(reason) = reason
            && let Some((mut twin, _)) = run.twin.take()
        {
            twin.restore(&run.snapshot);
            run.trainer = twin;
            run.webgpu = false;
            reply(&TrainingReply::Device(cpu(Some(reason)).1));
        }
        reply(&TrainingReply::Pace(pace));
        Ok(())
    }

    /// The device of a choice; the CPU, with the reason, where there is no other.
    async fn device(&mut self, choice: DeviceChoice) -> (Device, DeviceInfo) {
        if choice == DeviceChoice::Cpu {
            return cpu(None);
        }
        if choice == DeviceChoice::Auto
            && let Ok(info) = gpu::describe().await
            && info.software
        {
            // SwiftShader took 26 to 33 s for a step that takes the CPU half a second (2 cores, Chromium 156).
            return cpu(Some(format!(
                "the only WebGPU adapter is software ({}), which is slower than the CPU; choose WebGPU under Device to see it",
                info.name
            )));
        }
        if self.gpu.as_ref().is_none_or(|gpu| gpu.lost().is_some()) {
            match self.open().await {
                Ok(()) => {}
                Err(reason) => return cpu(Some(reason)),
            }
        }
        match &self.gpu {
            Some(gpu) => (gpu.device.clone(), gpu.info.clone()),
            None => cpu(None),
        }
    }

    async fn open(&mut self) -> Result<(), String> {
        self.gpu = None;
        self.generation += 1;
        let lost = |generation, reason| push(Event::Lost { generation, reason });
        let error = |_, message| push(Event::DeviceError(message));
        self.gpu = Some(gpu::open(self.generation, lost, error).await?);
        Ok(())
    }

    /// Takes one step, and what belongs to it.
    async fn step(&mut self) {
        if let Err(error) = self.try_step().await {
            if let Some(run) = &mut self.run {
                run.is_broken = true;
            }
            if self.is_lost(&error) {
                self.recover(self.reason(&error)).await;
            } else {
                self.fail(&error);
            }
        }
    }

    async fn try_step(&mut self) -> Result<(), TrainingError> {
        let (Some(run), Some(bench)) = (&mut self.run, &mut self.bench) else { return Err(no_run()) };
        if run.trainer.is_done() {
            return Ok(());
        }
        let started = now();
        let mut measured = run.trainer.step(&bench.base, &mut bench.data).await?;
        measured.milliseconds = now() - started;
        reply(&TrainingReply::Stepped(report(&measured)));
        let step = measured.step;
        run.measured.push(measured);
        // Those that another page took are compared with the first that this one takes.
        let compared = step.min(PARITY_STEPS);
        if let Some((twin, losses)) = &mut run.twin
            && losses.len() < compared
        {
            while losses.len() < compared {
                losses.push(twin.step(&bench.base, &mut bench.data).await?.losses);
            }
            let difference = run.measured.iter().zip(losses.iter()).map(|(a, b)| difference(&a.losses, b));
            let difference = difference.fold(0.0, f64::max);
            reply(&TrainingReply::Parity(Parity { steps: compared, difference }));
        }
        let is_done = run.trainer.is_done();
        if is_done || step.is_multiple_of(KEPT_EVERY) {
            self.keep().await?;
        }
        if is_done {
            self.play(false);
            self.end().await?;
        }
        Ok(())
    }

    /// What follows the last step: the sample questions, and then, a few pictures at a time, the score.
    async fn end(&mut self) -> Result<(), TrainingError> {
        if let (Some(run), Some(bench)) = (&mut self.run, &self.bench) {
            let pictures = bench.data.scored().len();
            run.scored =
                Some(Scored { pictures, asked: Vec::new(), right: [Vec::new(), Vec::new()], before: Vec::new() });
        }
        self.answer_questions().await
    }

    fn is_scoring(&self) -> bool {
        let scored = self.run.as_ref().filter(|run| run.trainer.is_done()).and_then(|run| run.scored.as_ref());
        scored.is_some_and(|scored| scored.asked.len() < scored.pictures)
    }

    /// Asks about a few more pictures.
    async fn score(&mut self) {
        if let Err(error) = self.try_score().await {
            if self.is_lost(&error) {
                self.recover(self.reason(&error)).await;
            } else {
                self.run.iter_mut().for_each(|run| run.scored = None);
                self.fail(&error);
            }
        }
    }

    async fn try_score(&mut self) -> Result<(), TrainingError> {
        let (Some(run), Some(Bench { base, data, right: before, .. })) = (&mut self.run, &mut self.bench) else {
            return Err(no_run());
        };
        let Some(scored) = &mut run.scored else { return Ok(()) };
        let from = scored.asked.len();
        let to = (from + SCORED_AT_ONCE).min(scored.pictures);
        if before.len() < to {
            before.extend(right(&base.cpu, base, data, &Device::flex(), before.len()..to).await?);
        }
        for (all, more) in scored.right.iter_mut().zip(run.trainer.right(base, data, from..to).await?) {
            all.extend(more);
        }
        scored.before.extend_from_slice(before.get(from..to).unwrap_or_default());
        scored.asked.extend(data.scored().get(from..to).unwrap_or_default().iter().map(Vec::len));
        reply(&TrainingReply::Scored(scored.clone()));
        Ok(())
    }

    async fn answer_questions(&mut self) -> Result<(), TrainingError> {
        let (Some(run), Some(bench)) = (&self.run, &mut self.bench) else { return Err(no_run()) };
        let texts = run.trainer.answers(&bench.base, &mut bench.data).await?;
        reply(&TrainingReply::Answers(Answers { step: run.trainer.taken(), texts }));
        Ok(())
    }

    /// Whether the error comes from a device that another could replace.
    fn is_lost(&self, error: &TrainingError) -> bool {
        let webgpu = self.run.as_ref().is_some_and(|run| run.webgpu);
        webgpu && (error.is_the_devices() || self.gpu.as_ref().is_none_or(|gpu| gpu.lost().is_some()))
    }

    /// What a person reads of an error of the device: why it was lost, where it says so.
    fn reason(&self, error: &TrainingError) -> String {
        let lost = self.gpu.as_ref().and_then(Gpu::lost);
        lost.map_or_else(|| error.to_string().lines().next().unwrap_or_default().to_owned(), str::to_owned)
    }

    /// Goes on from the last snapshot on another device, or on the CPU.
    async fn recover(&mut self, mut reason: String) {
        let Some(run) = &self.run else { return };
        let (snapshot, setup, mut attempts) = (run.snapshot.clone(), run.trainer.setup().clone(), run.attempts);
        loop {
            attempts += 1;
            let again = attempts <= ATTEMPTS;
            let attempt = if again { attempts } else { 0 };
            reply(&TrainingReply::Lost { reason: reason.clone(), attempt, kept: snapshot.step });
            let (device, info) = if again {
                match self.open().await {
                    Ok(()) => self.device(DeviceChoice::Gpu).await,
                    Err(error) => {
                        reason = error;
                        continue;
                    }
                }
            } else {
                self.gpu = None;
                cpu(Some(format!(
                    "{ATTEMPTS} attempts to go on on another GPU device failed, the last because: {reason}"
                )))
            };
            let (Some(run), Some(bench)) = (&mut self.run, &self.bench) else { return };
            let mut trainer = match Trainer::new(&bench.base, &bench.data, &setup, &device) {
                Ok(trainer) => trainer,
                Err(error) if again => {
                    reason = error.to_string();
                    continue;
                }
                Err(error) => return self.fail(&error),
            };
            trainer.restore(&snapshot);
            run.webgpu = info.webgpu;
            if !run.webgpu {
                run.twin = None;
            }
            run.attempts = attempts;
            run.trainer = trainer;
            run.is_broken = false;
            run.measured.retain(|measured| measured.step <= snapshot.step);
            reply(&TrainingReply::Device(info));
            reply(&TrainingReply::Resumed(snapshot.step));
            return;
        }
    }

    fn fail(&mut self, error: &TrainingError) {
        reply(&TrainingReply::Failed(error.to_string()));
        self.play(false);
    }
}

fn cpu(reason: Option<String>) -> (Device, DeviceInfo) {
    let name = "the CPU, in one thread of WebAssembly".to_owned();
    (Device::flex(), DeviceInfo { webgpu: false, name, software: false, reason })
}

/// What the page hears of a step.
fn report(measured: &Measured) -> StepReport {
    let norms = |gradients: &Vec<(String, ModuleGradient)>| {
        gradients.iter().map(|(_, gradient)| gradient.norm().unwrap_or(f64::NAN)).collect()
    };
    let Measured { step, losses, learning_rate, milliseconds, tokens, .. } = *measured;
    StepReport { step, losses, norms: measured.gradients.each_ref().map(norms), learning_rate, milliseconds, tokens }
}

fn no_run() -> TrainingError {
    TrainingError::Unusable("no run was started".to_owned())
}

/// Largest relative difference of two pairs of losses; infinite where one is not a number.
fn difference(found: &[f64; 2], expected: &[f64; 2]) -> f64 {
    let one = |(a, b): (&f64, &f64)| {
        let difference = (a - b).abs() / b.abs().max(f64::MIN_POSITIVE);
        if difference.is_finite() { difference } else { f64::INFINITY }
    };
    found.iter().zip(expected).map(one).fold(0.0, f64::max)
}

fn progress(what: &str) {
    reply(&TrainingReply::Progress(what.to_owned()));
}

/// Milliseconds since the worker began.
fn now() -> f64 {
    scope().performance().map_or(0.0, |performance| performance.now())
}

/// The model's files, which lie beside the page.
async fn files() -> Result<ModelFiles, TrainingError> {
    Ok(ModelFiles {
        config: text(&fetch("config.json").await?),
        vision_config: text(&fetch("vision_config.json").await?),
        tokenizer: text(&fetch("tokenizer.json").await?),
        weights: fetch("model.safetensors").await?,
    })
}

fn text(bytes: &[u8]) -> String {
    // What is damaged is told of by the reader.
    String::from_utf8_lossy(bytes).into_owned()
}

async fn fetch(file: &str) -> Result<Vec<u8>, TrainingError> {
    let path = format!("./{MODEL_FOLDER}/{file}");
    let failed = |what: String| TrainingError::Unusable(format!("{path} cannot be loaded: {what}"));
    let script = |error: JsValue| failed(format!("{error:?}"));
    let response = JsFuture::from(scope().fetch_with_str(&path)).await.map_err(script)?;
    let response: Response = response.dyn_into().map_err(script)?;
    if !response.ok() {
        return Err(failed(format!("the server answers {}", response.status())));
    }
    let buffer = JsFuture::from(response.array_buffer().map_err(script)?).await.map_err(script)?;
    Ok(Uint8Array::new(&buffer).to_vec())
}
