//! Files that come in: dropped, picked or pasted, read by the ingest worker, put into the session.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use hydra_playground::intake::{Findings, Taken};
use hydra_playground::messages::ingest::{IngestReply, IngestRequest, ReadFiles};
use hydra_playground::samples::{Sample, made_up};
use hydra_playground::session::{Session, Source};
use hydra_shared::gradients::ProfileConfig;
use hydra_shared::layout::Layout;
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
/// Name of the one that reads binary tables (SQLite, Parquet), too. It is larger, and started when such a file is dropped.
const TABLES_WORKER: &str = "tables-worker";

/// What comes in; a context that every component finds.
#[derive(Clone, Copy)]
pub struct Intake {
    page: Page,
    worker: StoredValue<Rc<RefCell<Option<WorkerHandle>>>, LocalStorage>,
    /// Whether a binary table was dropped: from then on its worker reads everything.
    tables: StoredValue<bool>,
    /// The files that were asked to be read last.
    asked: StoredValue<Option<(IngestRequest, Vec<File>)>, LocalStorage>,
    /// How often reading was stopped.
    stops: StoredValue<u32>,
    /// Which log the worker holds: the source of the session that it was read for.
    held: RwSignal<Option<Source>>,
    /// How far the worker is; none while it reads nothing.
    pub progress: RwSignal<Option<Progress>>,
    /// What was in the last files.
    pub findings: RwSignal<Option<Findings>>,
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

impl Intake {
    /// A fresh one.
    pub fn new(page: Page) -> Self {
        Self {
            page,
            worker: StoredValue::new_local(Rc::new(RefCell::new(None))),
            tables: StoredValue::new(false),
            asked: StoredValue::new_local(None),
            stops: StoredValue::new(0),
            held: RwSignal::new(None),
            progress: RwSignal::new(None),
            findings: RwSignal::new(None),
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
        self.asked.set_value(None);
        self.progress.set(None);
        self.page.tell("Reading was stopped.");
    }

    /// Shows a sample.
    pub fn open_sample(self, sample: Sample) {
        self.findings.set(None);
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
        let held = self.held.get_untracked();
        let mut request = None;
        self.page.selected.set(None);
        self.page.update(|session| request = session.take_layout(layout, held.as_ref()));
        if let Some(request) = request {
            self.send(request, Vec::new());
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
            // Here, too, the handler must end first.
            Ok(IngestReply::NeedsTables) => set_timeout(move || self.open_tables(), std::time::Duration::ZERO),
            Ok(IngestReply::Read(files)) => {
                self.progress.set(None);
                self.put(*files);
            }
            Ok(IngestReply::Profiled(Ok(made))) => self.page.update(|session| session.take_profile(made)),
            Ok(IngestReply::Profiled(Err(error))) => self.page.warn(error),
            // Dropping the worker inside its own message handler would free the handler that runs.
            Err(error) => set_timeout(move || self.fail(&error), std::time::Duration::ZERO),
        }
    }

    /// Asks the worker for binary tables what the other one could not read.
    fn open_tables(self) {
        let mut asked = None;
        self.asked.update_value(|last| asked = last.take());
        let Some((request, files)) = asked else { return };
        self.worker.with_value(|worker| drop(worker.borrow_mut().take()));
        self.held.set(None);
        self.tables.set_value(true);
        self.send(request, files);
    }

    /// Puts what was read into the session, and does what that asks of the page.
    fn put(self, files: ReadFiles) {
        let held = self.held.get_untracked();
        let mut taken = Taken::default();
        self.page.session.maybe_update(|session| {
            taken = session.take(files, held.as_ref());
            taken.changed
        });
        if taken.deselect {
            self.page.selected.set(None);
        }
        if taken.held.is_some() {
            self.held.set(taken.held);
        }
        taken.warnings.into_iter().for_each(|warning| self.page.warn(warning));
        taken.requests.into_iter().for_each(|request| self.send(request, Vec::new()));
        if taken.study.is_some() {
            self.study.set(taken.study);
            self.page.view.set(View::Search);
        }
        if taken.findings.is_some() {
            self.findings.set(taken.findings);
        }
    }
}

/// Sends a request with the files that it is about to the worker, which is started on first use.
pub fn send(intake: Intake, request: &IngestRequest, files: &[File]) {
    let tables = intake.tables.get_value();
    if !tables && !files.is_empty() {
        intake.asked.set_value(Some((request.clone(), files.to_vec())));
    }
    let result = intake.worker.with_value(|worker| {
        let mut worker = worker.borrow_mut();
        if worker.is_none() {
            let name = if tables { TABLES_WORKER } else { WORKER };
            *worker = Some(WorkerHandle::start(name, move |reply| intake.take(reply))?);
        }
        worker.as_ref().map_or(Ok(()), |worker| worker.send(request, files))
    });
    if let Err(error) = result {
        intake.fail(&error);
    }
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
