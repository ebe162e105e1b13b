//! Files that come in: dropped, picked or pasted, read by the ingest worker, put into the session.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use hydra_playground::intake::{Findings, Taken};
use hydra_playground::messages::ingest::{IngestReply, IngestRequest, Profiled, ReadFiles, Reading};
use hydra_playground::messages::performance::Measured;
use hydra_playground::samples::{Sample, made_up};
use hydra_playground::session::{LogChoice, Session, Source};
use hydra_playground::trial_result::Scores;
use hydra_shared::gradients::ProfileConfig;
use hydra_shared::layout::Layout;
use hydra_shared::vlm::spec::preset_layout;
use js_sys::Array;
use leptos::prelude::*;
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{Blob, File, Response};

use crate::lazy;
use crate::page::{About, Page};
use crate::settings::View;
use crate::worker::{WorkerHandle, text_of};

/// Name of the worker.
const WORKER: &str = "ingest-worker";
/// Name of the one that reads binary logs (SQLite, Parquet, TensorBoard's events, trackers' offline files), too. It is larger, and started when such
/// a file is dropped.
const BINARY_LOGS_WORKER: &str = "binary-logs-worker";

/// What comes in; a context that every component finds.
#[derive(Clone, Copy)]
pub struct Intake {
    page: Page,
    worker: StoredValue<Rc<RefCell<Option<WorkerHandle>>>, LocalStorage>,
    /// Whether a binary log was dropped: from then on its worker reads everything.
    binary_logs: StoredValue<bool>,
    /// The files that were read last, and how.
    files: StoredValue<Vec<Named>, LocalStorage>,
    reading: StoredValue<Option<Reading>>,
    /// The profile of the files that come next from the worker.
    made: StoredValue<Option<Profiled>>,
    /// How often a worker was ended.
    stops: StoredValue<u32>,
    /// Which log the worker holds: the source of the session that it was read for, and the number of that reading.
    held: StoredValue<Option<(Source, u32)>>,
    /// How many times files were opened.
    opened: StoredValue<u32>,
    /// How far the worker is; none while it reads nothing.
    pub progress: RwSignal<Option<Progress>>,
    /// What was in the last files.
    pub findings: RwSignal<Option<Findings>>,
    /// A study that was dropped, or begun here.
    pub study: RwSignal<Option<Measured>>,
    /// What a dropped file says that the trial scored which the study asks for, until that is told.
    pub scores: RwSignal<Option<Scores>>,
    /// Whether the study has scores which were not saved as a file.
    pub unsaved: RwSignal<bool>,
    /// The rank that stands for one that no file says, until somebody says it.
    pub assumed_rank: RwSignal<Option<u32>>,
    /// The model that a profile was last asked for.
    asked: StoredValue<Option<Arc<Layout>>>,
    /// The runs of the last log, where it holds several.
    pub runs: RwSignal<Vec<String>>,
    /// Why modules could not be chosen as was asked last.
    pub refused: RwSignal<Option<String>>,
    /// Id of the box in which modules were chosen last.
    pub chosen_in: StoredValue<&'static str>,
    /// Whether what is read is a study that the browser kept.
    is_kept: StoredValue<bool>,
}

/// A file and its path: its name, or its place in a folder that was dropped, from that folder's own name on.
pub type Named = (String, File);

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
            binary_logs: StoredValue::new(false),
            files: StoredValue::new_local(Vec::new()),
            reading: StoredValue::new(None),
            made: StoredValue::new(None),
            stops: StoredValue::new(0),
            held: StoredValue::new(None),
            opened: StoredValue::new(0),
            progress: RwSignal::new(None),
            findings: RwSignal::new(None),
            study: RwSignal::new(None),
            scores: RwSignal::new(None),
            unsaved: RwSignal::new(false),
            assumed_rank: RwSignal::new(None),
            asked: StoredValue::new(None),
            runs: RwSignal::new(Vec::new()),
            refused: RwSignal::new(None),
            chosen_in: StoredValue::new(""),
            is_kept: StoredValue::new(false),
        }
    }

    /// From inside a component.
    pub fn get() -> Self {
        expect_context()
    }

    /// Reads files.
    pub fn open(self, files: Vec<Named>) {
        self.runs.set(Vec::new());
        self.opened.update_value(|opened| *opened += 1);
        self.is_kept.set_value(false);
        self.refused.set(None);
        let paths: Vec<String> = files.iter().map(|(path, _)| path.clone()).collect();
        let reading = self.page.session.with_untracked(|session| session.reading_of(&paths));
        self.read(reading, files);
    }

    /// Reads the files that were read last once more, for another of their runs.
    pub fn choose_run(self, run: String) {
        let mut reading = self.page.session.with_untracked(Session::reading);
        reading.of_log.run = Some(run);
        self.read(reading, self.files.get_value());
    }

    fn read(self, reading: Reading, files: Vec<Named>) {
        let paths: Vec<String> = files.iter().map(|(path, _)| path.clone()).collect();
        let Some(first) = paths.first() else { return };
        self.page.forget_files();
        self.progress.set(Some(Progress { file: first.clone(), share: 0.0 }));
        self.files.set_value(files);
        self.reading.set_value(Some(reading.clone()));
        self.send(IngestRequest::Open { reading, paths });
    }

    /// Reads the files once more that could not be read.
    pub fn try_again(self) {
        if let Some(reading) = self.reading.get_value() {
            self.read(reading, self.files.get_value());
        }
    }

    /// Reads pasted text as a file.
    pub fn open_text(self, text: &str) {
        const NAME: &str = "pasted text";
        if let Ok(file) = File::new_with_str_sequence(&Array::of1(&text.into()), NAME) {
            self.open(vec![(NAME.to_owned(), file)]);
        }
    }

    /// Opens a study that the browser kept: no file holds it yet.
    pub fn open_kept(self, text: &str) {
        self.open_text(text);
        self.is_kept.set_value(true);
    }

    /// Reads a file that lies beside the page.
    pub fn open_beside(self, file: &'static str) {
        spawn_local(async move {
            match fetch_file(file).await {
                // In a folder it would be a part of a log.
                Ok(found) => self.open(vec![(file.rsplit('/').next().unwrap_or(file).to_owned(), found)]),
                Err(error) => self.page.warn(format!("{file} cannot be loaded: {error}")),
            }
        });
    }

    /// Stops reading. What was there stays.
    pub fn cancel(self) {
        self.end_worker();
        self.files.set_value(Vec::new());
        self.runs.set(Vec::new());
        self.progress.set(None);
        self.page.tell("Reading was stopped.");
    }

    /// Shows a sample.
    pub fn open_sample(self, sample: Sample) {
        self.forget();
        self.page.session.set(Session::of_sample(sample));
    }

    /// Leaves what is said and asked of the files so far: another session follows.
    pub fn forget(self) {
        self.findings.set(None);
        self.runs.set(Vec::new());
        self.assumed_rank.set(None);
        self.page.forget_files();
        self.page.selected.set(None);
    }

    /// Makes the profile again, another way.
    pub fn profile_again(self, profiling: ProfileConfig) {
        let reading = self.page.session.with_untracked(Session::reading);
        self.chosen_in.set_value("");
        self.read_again(Reading { profiling, ..reading });
    }

    /// Makes the profile again, of other modules of the log.
    pub fn choose_modules(self, id: &'static str, choose: impl FnOnce(&mut LogChoice)) {
        let mut reading = self.page.session.with_untracked(Session::reading);
        choose(&mut reading.of_log);
        self.chosen_in.set_value(id);
        self.refused.set(None);
        self.read_again(reading);
    }

    fn read_again(self, reading: Reading) {
        let source = self.page.session.with_untracked(|session| session.source.clone());
        match &source {
            Source::Sample(sample) => match sample.log_file() {
                None if reading.of_log.chooses_modules() => {
                    self.refuse("The profile shown is made up: open a log first.");
                }
                None => self.page.update(|session| {
                    session.profile = made_up(&session.layout, reading.profiling.signal);
                    session.profiling = reading.profiling;
                }),
                Some(_) if self.held().as_ref() == Some(&source) => self.ask_profile(reading),
                Some(file) => self.fetch_then_profile(*sample, file, reading),
            },
            Source::Log(_) if self.held().as_ref() == Some(&source) => self.ask_profile(reading),
            Source::Log(files) => self.refuse(&format!(
                "The link holds the profile and not the log: drop {} again to measure it another way.",
                files.join(", ")
            )),
            Source::Unknown => self.refuse("There is no gradient log: drop one first."),
        }
    }

    /// The source of the log that the worker holds, if the session is of it.
    fn held(self) -> Option<Source> {
        let reading = self.page.session.with_untracked(|session| session.reading);
        self.held.get_value().filter(|(_, of)| *of == reading).map(|(source, _)| source)
    }

    /// Says why a profile is not made.
    fn refuse(self, why: &str) {
        self.refused.set(Some(why.to_owned()));
        self.page.warn_of(why, About::Files);
    }

    /// Takes another preset as the model.
    pub fn choose_model(self, name: &str) {
        let Some(layout) = preset_layout(name) else { return };
        let held = self.held();
        let mut asked = Ok(None);
        self.page.forget_files();
        self.page.session.maybe_update(|session| {
            asked = session.take_layout(layout, held.as_ref());
            matches!(asked, Ok(None))
        });
        match asked {
            Ok(Some(request)) => self.send(request),
            Ok(None) => self.page.selected.set(None),
            Err(why) => self.page.warn_of(format!("{name}: {why}."), About::Files),
        }
    }

    fn ask_profile(self, reading: Reading) {
        self.page.update(|session| session.profiling = reading.profiling);
        if self.page.session.with_untracked(|session| session.of_log != reading.of_log) {
            // Expressions can take for ever, and then there is something to stop.
            self.progress.set(Some(Progress { file: "the log again".to_owned(), share: 0.0 }));
        }
        self.send(IngestRequest::Profile(reading));
    }

    /// The log of a sample, from beside the page.
    fn fetch_then_profile(self, sample: Sample, file: &'static str, reading: Reading) {
        spawn_local(async move {
            match fetch_file(file).await {
                Ok(log) => {
                    self.page.update(|session| session.profiling = reading.profiling);
                    self.read(reading, vec![(sample.title().to_owned(), log)]);
                }
                Err(error) => self.page.warn(format!("{file} cannot be loaded: {error}")),
            }
        });
    }

    fn send(self, request: IngestRequest) {
        if let IngestRequest::Profile(reading) = &request {
            self.asked.set_value(Some(Arc::clone(&reading.layout)));
        }
        let stops = self.stops.get_value();
        spawn_local(async move {
            match lazy::files().await {
                // Stopped before its code was there.
                Ok(_) if self.stops.get_value() != stops => {}
                Ok(send) => send(self, &request),
                Err(_) => self.fail(lazy::NOT_LOADED),
            }
        });
    }

    /// Whether the study may give way to another: asked where that would lose scores.
    pub fn may_replace_study(self, what: &str) -> bool {
        let question = format!("Scores of your study were not saved as a file. {what} without them?");
        let may = !self.unsaved.get_untracked() || window().confirm_with_message(&question).unwrap_or(false);
        if may {
            self.unsaved.set(false);
        }
        may
    }

    /// Ends the worker, and forgets what it held and has begun to say; the next file starts another.
    fn end_worker(self) {
        self.stops.update_value(|stops| *stops += 1);
        self.worker.with_value(|worker| drop(worker.borrow_mut().take()));
        self.held.set_value(None);
        self.made.set_value(None);
    }

    /// Says why files could not be read.
    pub fn fail(self, error: &str) {
        // One that has panicked is of no more use.
        self.end_worker();
        self.progress.set(None);
        self.page.warn_of(format!("The files could not be read: {error}."), About::Unread);
    }

    fn take(self, reply: Result<IngestReply, String>) {
        match reply {
            Ok(IngestReply::Progress { file, read, size }) => {
                self.progress.set(Some(Progress { file, share: if size > 0.0 { read / size } else { 0.0 } }));
            }
            // Here, too, the handler must end first.
            Ok(IngestReply::NeedsBinaryLogs) => set_timeout(move || self.open_binary_logs(), std::time::Duration::ZERO),
            Ok(IngestReply::Made(made)) => self.made.set_value(Some(*made)),
            // It took its time to be unpacked, and will take some to be grouped and to be shown: the page may answer in between.
            Ok(IngestReply::Read(mut files)) => {
                let made = self.made.try_update_value(Option::take).flatten();
                let stops = self.stops.get_value();
                let is_wanted = move || self.stops.get_value() == stops;
                let group = move || {
                    if !is_wanted() {
                        return;
                    }
                    if let (Some(made), Some(log)) = (made, &mut files.log) {
                        self.page.group_ahead(&made);
                        log.made = Some(Ok(made));
                    }
                    let put = move || {
                        if is_wanted() {
                            self.progress.set(None);
                            self.put(*files);
                        }
                    };
                    set_timeout(put, std::time::Duration::ZERO);
                };
                set_timeout(group, std::time::Duration::ZERO);
            }
            Ok(IngestReply::Profiled(Ok(mut made))) => {
                self.progress.set(None);
                self.refused.set(None);
                let outside = made.outside.take();
                let mut others = false;
                // Files may have come in meanwhile.
                let asked = self.asked.get_value();
                let held = self.held();
                self.page.session.maybe_update(|session| match asked {
                    Some(asked) if held.as_ref() == Some(&session.source) => {
                        others = session.take_profile(made, &asked);
                        true
                    }
                    _ => false,
                });
                if others {
                    self.page.selected.set(None);
                    outside.into_iter().for_each(|outside| self.page.warn_of(outside, About::Files));
                }
            }
            Ok(IngestReply::Profiled(Err(error))) => {
                self.progress.set(None);
                let asked = self.asked.get_value();
                let other =
                    asked.filter(|asked| self.page.session.with_untracked(|s| s.layout.model() != asked.model()));
                match other {
                    Some(asked) => self.page.warn_of(
                        format!("{} was not taken, and nothing was changed: {error}.", asked.model()),
                        About::Files,
                    ),
                    None => self.refuse(&error),
                }
            }
            // Dropping the worker inside its own message handler would free the handler that runs.
            Err(error) => set_timeout(move || self.fail(&error), std::time::Duration::ZERO),
        }
    }

    /// Asks the worker for binary logs what the other one could not read.
    fn open_binary_logs(self) {
        let Some(reading) = self.reading.get_value() else { return };
        self.end_worker();
        self.binary_logs.set_value(true);
        self.read(reading, self.files.get_value());
    }

    /// Puts what was read into the session, and does what that asks of the page.
    fn put(self, mut files: ReadFiles) {
        files.reading = self.opened.get_value();
        if !files.runs.is_empty() {
            self.runs.set(files.runs.clone());
        }
        let held = self.held();
        let mut taken = Taken::default();
        self.page.session.maybe_update(|session| {
            taken = session.take(files, held.as_ref());
            if taken.changed {
                self.page.in_turns();
            }
            taken.changed
        });
        if taken.deselect {
            self.page.selected.set(None);
        }
        if taken.held.is_some() {
            self.held.set_value(taken.held.map(|source| (source, self.opened.get_value())));
            self.page.read_at.set_value(js_sys::Date::now());
        }
        if taken.changed {
            let rank = self.page.session.with_untracked(|session| session.plan.base_rank);
            self.assumed_rank.set(taken.asks_rank.then_some(rank));
        }
        taken.warnings.into_iter().for_each(|warning| self.page.warn_of(warning, About::Files));
        taken.requests.into_iter().for_each(|request| self.send(request));
        if taken.study.is_some() {
            if self.may_replace_study("Open another one") {
                self.study.set(taken.study);
                self.unsaved.set(self.is_kept.get_value());
            } else {
                self.page.warn_of("The study was not opened: yours has scores that were not saved.", About::Files);
            }
            self.page.view.set(View::Search);
        }
        if let Some((file, scores)) = taken.scores {
            if self.study.with_untracked(Option::is_some) {
                self.scores.set(Some(scores));
                // Set once more, it would be shown anew.
                if self.page.view.get_untracked() != View::Search {
                    self.page.view.set(View::Search);
                }
            } else {
                let why = format!(
                    "{file} holds what a trial scored: begin a study of your own in Search, or drop its journal, first."
                );
                self.page.warn_of(why, About::Files);
            }
        }
        if taken.findings.is_some() {
            self.findings.set(taken.findings);
        }
    }
}

/// Sends a request, with the files that it is about, to the worker, which is started on first use.
pub fn send(intake: Intake, request: &IngestRequest) {
    let files = intake.files.with_value(|files| match request {
        IngestRequest::Open { .. } => files.iter().map(|(_, file)| file.clone()).collect(),
        IngestRequest::Profile(_) => Vec::new(),
    });
    let result = intake.worker.with_value(|worker| {
        let mut worker = worker.borrow_mut();
        if worker.is_none() {
            let name = if intake.binary_logs.get_value() { BINARY_LOGS_WORKER } else { WORKER };
            *worker = Some(WorkerHandle::start(name, |_| {}, move |reply| intake.take(reply))?);
        }
        worker.as_ref().map_or(Ok(()), |worker| worker.send(request, &files))
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
