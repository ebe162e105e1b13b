//! Files that come in: dropped, picked or pasted, read by the ingest worker, put into the session.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use hydra_playground::documents::{Document, layout_of_schedule};
use hydra_playground::link::from_link;
use hydra_playground::messages::ingest::{IngestReply, IngestRequest, Opened, OpenedLog};
use hydra_playground::profile_text::rounded;
use hydra_playground::samples::{Sample, made_up};
use hydra_playground::session::{Session, Source, unknown_profile};
use hydra_shared::gradients::{IngestReport, ProfileConfig};
use hydra_shared::layout::{Layout, Ranks};
use hydra_shared::schedule::PlanConfig;
use hydra_shared::search::Study;
use hydra_shared::vlm::spec::preset_layout;
use js_sys::Array;
use leptos::prelude::*;
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{Blob, File, Response};

use crate::lazy;
use crate::page::Page;
use crate::settings::View;
use crate::worker::{WorkerHandle, text_of};

/// Name of the worker.
const WORKER: &str = "ingest-worker";

/// What comes in; a context that every component finds.
#[derive(Clone, Copy)]
pub struct Intake {
    page: Page,
    worker: StoredValue<Rc<RefCell<Option<WorkerHandle>>>, LocalStorage>,
    /// How often reading was stopped.
    stops: StoredValue<u32>,
    /// Which log the worker holds: the source of the session that it was read for.
    held: RwSignal<Option<Source>>,
    /// How far the worker is; none while it reads nothing.
    pub progress: RwSignal<Option<Progress>>,
    /// What the last files were.
    pub report: RwSignal<Option<Report>>,
    /// A study that was dropped.
    pub study: RwSignal<Option<Study>>,
}

/// How far the reading is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// The file that is being read.
    pub file: String,
    /// From 0 to 1.
    pub share: f64,
}

/// What the last files were.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// What each file that is no log was.
    pub documents: Vec<(String, String)>,
    /// Files that could not be used, and why.
    pub problems: Vec<(String, String)>,
    /// What was recognised in logs, what was left out, and why.
    pub log: Option<IngestReport>,
}

impl Intake {
    /// A fresh one.
    pub fn new(page: Page) -> Self {
        Self {
            page,
            worker: StoredValue::new_local(Rc::new(RefCell::new(None))),
            stops: StoredValue::new(0),
            held: RwSignal::new(None),
            progress: RwSignal::new(None),
            report: RwSignal::new(None),
            study: RwSignal::new(None),
        }
    }

    /// From inside a component.
    pub fn get() -> Self {
        expect_context()
    }

    /// Reads files.
    pub fn open(self, files: Vec<File>) {
        let Some(first) = files.first() else { return };
        self.progress.set(Some(Progress { file: first.name(), share: 0.0 }));
        let (model, profiling) = self.page.session.with_untracked(|s| (Arc::clone(&s.layout), s.profiling));
        self.send(IngestRequest::Open { layout: model, profiling }, files);
    }

    /// Reads pasted text as a file.
    pub fn open_text(self, text: &str) {
        if let Ok(file) = File::new_with_str_sequence(&Array::of1(&text.into()), "pasted text") {
            self.open(vec![file]);
        }
    }

    /// Stops reading. What was there stays.
    pub fn cancel(self) {
        self.stops.update_value(|stops| *stops += 1);
        self.worker.with_value(|worker| drop(worker.borrow_mut().take()));
        self.held.set(None);
        self.progress.set(None);
        self.page.tell("Reading was stopped.");
    }

    /// Shows a sample.
    pub fn open_sample(self, sample: Sample) {
        self.report.set(None);
        self.page.selected.set(None);
        self.page.session.set(Session::of_sample(sample));
    }

    /// Makes the profile again, another way.
    pub fn profile_again(self, profiling: ProfileConfig) {
        let (source, model) = self.page.session.with_untracked(|s| (s.source.clone(), Arc::clone(&s.layout)));
        match &source {
            Source::Sample(sample) => match sample.log_file() {
                None => self.page.update(|session| {
                    session.profile = made_up(&session.layout, profiling.signal);
                    session.profiling = profiling;
                }),
                Some(_) if self.held.get_untracked().as_ref() == Some(&source) => self.ask_profile(model, profiling),
                Some(file) => self.fetch_then_profile(file, profiling),
            },
            Source::Log(_) if self.held.get_untracked().as_ref() == Some(&source) => self.ask_profile(model, profiling),
            Source::Log(files) => self.page.warn(format!(
                "The link holds the profile and not the log: drop {} again to measure it another way.",
                files.join(", ")
            )),
            Source::Unknown => self.page.warn("There is no gradient log: drop one first."),
        }
    }

    /// Takes another preset as the model.
    pub fn choose_model(self, name: &str) {
        let Some(layout) = preset_layout(name) else { return };
        self.set_model(layout);
    }

    /// Takes another model: a log that the worker holds is read for it; without one, a profile that does not fit goes.
    fn set_model(self, layout: Arc<Layout>) {
        let (source, profiling) = self.page.session.with_untracked(|s| (s.source.clone(), s.profiling));
        let fits = self.page.session.with_untracked(|s| s.profile.fits(&layout));
        let held = self.held.get_untracked().is_some_and(|held| held == source);
        self.page.selected.set(None);
        self.page.update(|session| {
            session.by_hand.clear();
            session.pinned = None;
            if !fits {
                let preset = Sample::ALL.into_iter().find(|sample| sample.layout() == layout);
                *session = match preset.filter(|_| !held) {
                    Some(sample) => Session::of_sample(sample),
                    None => Session {
                        profile: unknown_profile(&layout),
                        layout: Arc::clone(&layout),
                        source: Source::Unknown,
                        plan: fitting(session.plan.clone(), &layout),
                        ..session.clone()
                    },
                };
            } else {
                session.plan = fitting(session.plan.clone(), &layout);
                session.layout = Arc::clone(&layout);
                if matches!(session.source, Source::Sample(_)) {
                    session.source = Source::Log(vec![session.source.name()]);
                }
            }
        });
        if held {
            self.page.update(|session| session.source = source);
            self.ask_profile(layout, profiling);
        }
    }

    fn ask_profile(self, layout: Arc<Layout>, profiling: ProfileConfig) {
        self.page.update(|session| session.profiling = profiling);
        self.send(IngestRequest::Profile { layout, profiling }, Vec::new());
    }

    /// The log of a sample, from beside the page.
    fn fetch_then_profile(self, file: &'static str, profiling: ProfileConfig) {
        spawn_local(async move {
            match fetch_file(file).await {
                Ok(log) => {
                    self.page.update(|session| session.profiling = profiling);
                    let model = self.page.session.with_untracked(|s| Arc::clone(&s.layout));
                    self.send(IngestRequest::Open { layout: model, profiling }, vec![log]);
                }
                Err(error) => self.page.warn(format!("{file} cannot be loaded: {error}")),
            }
        });
    }

    fn send(self, request: IngestRequest, files: Vec<File>) {
        let stops = self.stops.get_value();
        spawn_local(async move {
            match lazy::files().await {
                // Stopped before its code was there.
                Ok(_) if self.stops.get_value() != stops => {}
                Ok(send) => send(self, &request, &files),
                Err(_) => self.fail(lazy::NOT_LOADED),
            }
        });
    }

    fn fail(self, error: &str) {
        // A worker that has panicked is of no more use; the next file starts another.
        self.worker.with_value(|worker| drop(worker.borrow_mut().take()));
        self.held.set(None);
        self.progress.set(None);
        self.page.warn(format!("The files could not be read: {error}"));
    }

    fn take(self, reply: Result<IngestReply, String>) {
        match reply {
            Ok(IngestReply::Progress { file, read, size }) => {
                self.progress.set(Some(Progress { file, share: if size > 0.0 { read / size } else { 0.0 } }));
            }
            Ok(IngestReply::Opened(opened)) => {
                self.progress.set(None);
                self.put(*opened);
            }
            Ok(IngestReply::Profiled(Ok(profile))) => self.page.update(|session| {
                if profile.fits(&session.layout) {
                    session.profile = rounded(profile);
                }
            }),
            Ok(IngestReply::Profiled(Err(error))) => self.page.warn(error),
            // Dropping the worker inside its own message handler would free the handler that runs.
            Err(error) => set_timeout(move || self.fail(&error), std::time::Duration::ZERO),
        }
    }

    /// Puts what was read into the session: first the model, then the log, then ranks.
    fn put(self, opened: Opened) {
        let Opened { documents, problems, log, studies } = opened;
        // A sample's own log, fetched to be measured another way, keeps its session.
        let sample = self.page.session.with_untracked(|session| match (&session.source, &log) {
            (Source::Sample(sample), Some(log)) if log.files.iter().all(|f| sample.log_file() == Some(f.as_str())) => {
                Some(*sample)
            }
            _ => None,
        });
        let mut report = Report { problems, log: log.as_ref().map(|log| log.report.clone()), ..Report::default() };
        for (file, document) in &documents {
            if let Document::Model(model) = document {
                report.documents.push((file.clone(), format!("model configuration: {} layers", model.blocks().len())));
                self.set_model(Arc::new(model.as_ref().clone()));
            }
        }
        if let Some(log) = log {
            self.put_log(log, sample);
        }
        for (file, document) in documents {
            let what = match document {
                Document::Model(_) => continue,
                Document::Session(link) => {
                    let opened = from_link(&link);
                    self.page.session.set(opened.session);
                    opened.notices.into_iter().for_each(|notice| self.page.warn(notice));
                    "a file that this page wrote: its session was restored".to_owned()
                }
                Document::Schedule(schedule) => {
                    let model = self.page.session.with_untracked(|s| layout_of_schedule(&schedule, &s.layout));
                    let text = format!("schedule: {} modules of {}", model.len(), model.model());
                    self.put_ranks(model, &schedule.ranks, |session| {
                        session.plan.base_rank = schedule.base_rank;
                        session.plan.scale = schedule.scale;
                        session.plan.counting = schedule.budget.counting;
                        session.plan.budget = Some(schedule.budget.allowed);
                    });
                    text
                }
                Document::Adapter(adapter) => {
                    let model = self.page.session.with_untracked(|s| Arc::clone(&s.layout));
                    match adapter.ranks(&model) {
                        Ok((ranks, notices)) => {
                            notices.into_iter().for_each(|notice| self.page.warn(format!("{file}: {notice}")));
                            self.put_ranks(model, &ranks, |_| {});
                            "PEFT configuration: its ranks are shown as set by hand".to_owned()
                        }
                        Err(error) => {
                            report.problems.push((file, error));
                            continue;
                        }
                    }
                }
            };
            report.documents.push((file, what));
        }
        if let Some(study) = studies.into_iter().next() {
            let text = format!("study journal: {} trials of \"{}\"", study.trials.len(), study.metadata.name);
            report.documents.push(("journal".to_owned(), text));
            self.study.set(Some(study));
            self.page.view.set(View::Search);
        }
        if sample.is_none() {
            self.report.set(Some(report));
        }
    }

    fn put_log(self, log: OpenedLog, sample: Option<Sample>) {
        let Some(layout) = log.layout.map(Arc::new) else {
            self.page.warn(format!(
                "The log has {} layers, and no model of so many is known here: drop its config.json beside it.",
                log.layers
            ));
            return;
        };
        let profile = match log.profile {
            Ok(profile) => rounded(profile),
            Err(error) => {
                self.page.warn(error);
                return;
            }
        };
        let source = sample.map_or_else(|| Source::Log(log.files.clone()), Source::Sample);
        let same = self.page.session.with_untracked(|session| session.layout == layout);
        self.held.set(Some(source.clone()));
        self.page.selected.set(None);
        self.page.update(|session| {
            if sample.is_none() {
                // Another run: ranks by hand belonged to the last one.
                session.by_hand.clear();
                session.rebalance = false;
                session.preset = None;
            }
            if !same {
                session.pinned = None;
                if let Some(rank) = log.rank {
                    session.plan.base_rank = rank.max(1);
                }
                session.plan = fitting(session.plan.clone(), &layout);
            }
            session.layout = layout;
            session.profile = profile;
            session.source = source;
        });
    }

    /// Shows given ranks as set by hand, every one.
    fn put_ranks(self, layout: Arc<Layout>, ranks: &Ranks, change: impl FnOnce(&mut Session)) {
        self.page.selected.set(None);
        self.page.update(|session| {
            if !session.profile.fits(&layout) {
                session.profile = unknown_profile(&layout);
                session.source = Source::Unknown;
                session.pinned = None;
            }
            session.plan = fitting(session.plan.clone(), &layout);
            session.layout = layout;
            session.preset = None;
            session.rebalance = false;
            session.by_hand = ranks.as_slice().iter().copied().enumerate().collect();
            change(session);
        });
    }
}

/// Sends a request with the files that it is about to the worker, which is started on first use.
pub fn send(intake: Intake, request: &IngestRequest, files: &[File]) {
    let result = intake.worker.with_value(|worker| {
        let mut worker = worker.borrow_mut();
        if worker.is_none() {
            *worker = Some(WorkerHandle::start(WORKER, move |reply| intake.take(reply))?);
        }
        worker.as_ref().map_or(Ok(()), |worker| worker.send(request, files))
    });
    if let Err(error) = result {
        intake.fail(&error);
    }
}

/// The same choices for a model that may be smaller: a base rank that its matrices can hold, no stages by hand.
fn fitting(mut plan: PlanConfig, layout: &Layout) -> PlanConfig {
    let full = layout.modules().iter().map(|module| module.highest_rank(None)).min().unwrap_or(1);
    plan.base_rank = plan.base_rank.min((full / 2).max(1));
    if matches!(plan.stages, hydra_shared::schedule::StageChoice::ByHand(_)) {
        plan.stages = PlanConfig::default().stages;
        plan.stage_ranks = PlanConfig::default().stage_ranks;
    }
    // A budget in parameters belongs to one model.
    plan.budget = None;
    plan
}

/// A file from beside the page.
async fn fetch_file(path: &str) -> Result<File, String> {
    let response = JsFuture::from(window().fetch_with_str(&format!("./{path}"))).await.map_err(|e| text_of(&e))?;
    let response: Response = response.dyn_into().map_err(|e| text_of(&e))?;
    if !response.ok() {
        return Err(format!("the server answers {}", response.status()));
    }
    let blob = JsFuture::from(response.blob().map_err(|e| text_of(&e))?).await.map_err(|e| text_of(&e))?;
    let blob: Blob = blob.dyn_into().map_err(|e| text_of(&e))?;
    File::new_with_blob_sequence(&Array::of1(&blob), path).map_err(|e| text_of(&e))
}
