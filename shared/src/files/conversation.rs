//! A study and its file as a conversation: which trial to run, how it went. What is said is on the disk before it is acted on,
//! so that whoever stops can be followed by somebody else.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde_json::Value;

use super::atomic::write_file;
use super::error::{Kind, ResultExt, failure};
use super::journal_file::JournalFile;
use super::lock::RunLock;
use super::voice::Voice;
use crate::gradients::GradientProfile;
use crate::layout::Layout;
use crate::names::first_names;
use crate::search::{
    Journal, JournalStudy, JournalTrial, Mended, Outcome, Pick, Search, SearchConfig, Start, Step, Study,
    StudyMetadata, Timestamp, Trial, mended,
};

/// Name of the study in its journal.
pub const STUDY: &str = "hydra";
/// How long the file of a study is waited for, which another process writes into: it may be choosing a schedule.
const PATIENCE: Duration = Duration::from_secs(30);

/// The file of a study, held against other writers.
#[derive(Debug)]
pub struct StudyFile {
    path: PathBuf,
    file: JournalFile,
    journal: Journal,
    _lock: RunLock,
}

impl StudyFile {
    /// Opens or creates it, and mends what a writer left that died.
    ///
    /// # Errors
    /// [`Kind::TryAgain`] where another process holds it for long, a file that is damaged or cannot be written.
    pub fn open(path: &Path, output: &dyn Voice) -> Result<Self> {
        let lock = RunLock::take_beside(path, PATIENCE)?;
        mend(path, output)?;
        let opened = JournalFile::open(path)?;
        let journal = Journal::parse(opened.text.as_bytes()).or_fail(Kind::Data, || path.display().to_string())?;
        Ok(Self { path: path.to_owned(), file: opened.journal, journal, _lock: lock })
    }

    /// Its study, with the trials that are none of the search named; none where it was never begun.
    ///
    /// # Errors
    /// A study of another program, or one whose attributes were changed.
    pub fn study(&self, output: &dyn Voice) -> Result<Option<Study>> {
        let Some(found) = self.journal.study(STUDY).filter(|found| found.is_hydra()) else { return Ok(None) };
        let study = found.to_study().or_fail(Kind::Data, || self.path.display().to_string())?;
        name_ignored(&study, output);
        Ok(Some(study))
    }

    /// The study as its file has it.
    pub fn record(&self) -> Option<&JournalStudy> {
        self.journal.study(STUDY)
    }

    /// Begins the study, with attributes of the caller's.
    ///
    /// # Errors
    /// A study that was begun already, a disk that cannot be written.
    pub fn begin(&mut self, metadata: StudyMetadata, attributes: &[(&str, Value)]) -> Result<Study> {
        let lines = self.journal.begin_study_with(&metadata, attributes)?;
        self.append(&lines)?;
        Ok(Study::new(metadata))
    }

    fn append(&mut self, lines: &str) -> Result<()> {
        let lines: Vec<&str> = lines.lines().collect();
        self.file.append(&lines)
    }
}

/// Reads the study of a file, which others may be writing into; none where it was never begun.
///
/// # Errors
/// A file that cannot be read or is damaged, a study of another program.
pub fn read_study(path: &Path) -> Result<Option<(JournalStudy, Study)>> {
    let place = || path.display().to_string();
    let bytes = std::fs::read(path).or_fail(Kind::Data, place)?;
    let journal = Journal::parse(&bytes).or_fail(Kind::Data, place)?;
    let Some(found) = journal.study(STUDY).filter(|found| found.is_hydra()) else { return Ok(None) };
    Ok(Some((found.clone(), found.to_study().or_fail(Kind::Data, place)?)))
}

/// A study that is asked and told.
#[derive(Debug)]
pub struct Conversation {
    file: StudyFile,
    search: Search,
}

impl Conversation {
    /// Begins, or goes on where the study holds trials.
    ///
    /// # Errors
    /// As [`Search::new`].
    pub fn new(file: StudyFile, study: Study, config: SearchConfig, starts: Vec<Start>) -> Result<Self> {
        let search = Search::new(config, study, starts)?;
        Ok(Self { file, search })
    }

    /// The study so far.
    pub fn study(&self) -> &Study {
        self.search.study()
    }

    /// The schedule to use so far; see [`Search::pick`].
    pub fn pick(&self) -> Option<Pick> {
        self.search.pick()
    }

    /// How it is searched.
    pub fn config(&self) -> &SearchConfig {
        self.search.config()
    }

    /// A new trial beside those that are running, begun in the file.
    ///
    /// # Errors
    /// As [`Search::ask_many`], and a disk that cannot be written.
    pub fn ask(&mut self) -> Result<Step<Trial>> {
        let trial = match self.search.ask_many(1)? {
            Step::Done(reason) => return Ok(Step::Done(reason)),
            Step::Run(trials) => trials.into_iter().next(),
        };
        // One was asked for and the search is not over.
        let trial = trial.ok_or_else(|| failure(Kind::Failure, "the search gave no trial"))?;
        let lines = self.file.journal.begin_trial(&self.search.study().metadata, &trial, now())?;
        self.file.append(&lines)?;
        Ok(Step::Run(trial))
    }

    /// Begins a trial that the study holds already and nobody runs: one that another program put into Optuna's queue is taken
    /// out of it.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn take_up(&mut self, trial: &Trial, output: &dyn Voice) -> Result<()> {
        let about = &self.search.study().metadata;
        if !self.file.journal.is_waiting(about, trial.number) {
            return Ok(());
        }
        output.note(format_args!("trial {} was put into the queue by another program", trial.number));
        let lines = self.file.journal.take_waiting(about, trial, now())?;
        self.file.append(&lines)
    }

    /// Whether a trial stands in Optuna's queue.
    pub fn is_waiting(&self, number: usize) -> bool {
        self.file.journal.is_waiting(&self.search.study().metadata, number)
    }

    /// Seconds since a trial was last handed out; none where its file does not say.
    pub fn seconds_since_asked(&self, number: usize) -> Option<f64> {
        seconds_since_asked(self.file.record()?.trials.get(number)?)
    }

    /// Writes down that a running trial is handed out again: now, or so long ago that it has expired.
    ///
    /// # Errors
    /// A trial that does not run, a disk that cannot be written.
    pub fn ask_again(&mut self, number: usize, long_ago: bool) -> Result<()> {
        let at = if long_ago { Timestamp::from_unix_micros(0) } else { now() };
        let lines = self.file.journal.ask_again(&self.search.study().metadata, number, at)?;
        self.file.append(&lines)
    }

    /// Writes down how a trial went, and with it what it tells about the study.
    ///
    /// # Errors
    /// As [`Search::tell`], and a disk that cannot be written.
    pub fn tell(&mut self, number: usize, outcome: Outcome) -> Result<&Trial> {
        let trial = self.search.tell(number, outcome)?.clone();
        let about = &self.search.study().metadata;
        let news = self.file.journal.describe(about)?;
        let end = self.file.journal.end_trial(about, &trial, now())?;
        self.file.append(&(news + &end))?;
        let told = self.search.study().trials.iter().find(|told| told.number == number);
        told.ok_or_else(|| failure(Kind::Failure, format!("trial {number} is not in the study")))
    }

    /// [`Self::tell`] of the first trial of a study that had no profile until it ran, and from now on these starts.
    ///
    /// # Errors
    /// As [`Self::tell`] and [`Search::new`].
    pub fn tell_with_profile(
        &mut self,
        number: usize,
        outcome: Outcome,
        profile: GradientProfile,
        starts: Vec<Start>,
    ) -> Result<&Trial> {
        let mut study = self.search.study().clone();
        study.metadata.profile = Some(profile);
        self.search = Search::new(*self.search.config(), study, starts)?;
        self.tell(number, outcome)
    }
}

/// Seconds since a trial was last handed out; none where its file does not say.
pub fn seconds_since_asked(entry: &JournalTrial) -> Option<f64> {
    Some((now().unix_micros() - entry.asked()?.unix_micros()) as f64 / 1e6)
}

/// Refuses to go on with a study of another model, or within another budget.
///
/// # Errors
/// [`Kind::Data`], with what differs.
pub fn check_same(path: &Path, study: &Study, wanted: &StudyMetadata) -> Result<()> {
    let found = &study.metadata;
    let differs = if let Some(what) = other_modules(&found.layout, &wanted.layout) {
        what
    } else if found.budget != wanted.budget || found.rank_cap != wanted.rank_cap {
        let [was, is] = [found, wanted].map(|about| (about.budget.allowed, about.rank_cap));
        format!("its budget and largest rank are {was:?}, here they are {is:?}")
    } else if found.benchmarks != wanted.benchmarks {
        format!("its scores are {}, here they are {}", found.benchmarks.join(", "), wanted.benchmarks.join(", "))
    } else {
        return Ok(());
    };
    let message =
        format!("the study is about something else: {differs}; begin a new search, or restore what it began with");
    Err(failure(Kind::Data, format!("{}: {message}", path.display())))
}

/// The first module in which two layouts differ, in words.
pub fn other_modules(study: &Layout, model: &Layout) -> Option<String> {
    let lacks = |of: &Layout, other: &Layout| {
        of.modules().iter().find(|module| other.find(&module.name).is_none()).map(|module| module.name.clone())
    };
    if let Some(name) = lacks(study, model) {
        return Some(format!("it gives a rank to {name}, which {} has not", model.model()));
    }
    if let Some(name) = lacks(model, study) {
        return Some(format!("it gives no rank to {name} of {}", model.model()));
    }
    let [module, other] = study.modules().iter().find_map(|module| {
        model.find(&module.name).filter(|(_, other)| other.shape() != module.shape()).map(|(_, other)| [module, other])
    })?;
    let [was, is] = [module, other].map(|module| format!("{}×{}", module.d_in, module.d_out));
    Some(format!("its {} is {was}, here it is {is}", module.name))
}

/// Puts every record of a study's file on a line of its own, where a writer died and another one went on after it.
fn mend(path: &Path, output: &dyn Voice) -> Result<()> {
    let Ok(bytes) = std::fs::read(path) else { return Ok(()) };
    let Some(Mended { text, parted, lost_bytes }) = mended(&bytes) else { return Ok(()) };
    write_file(path, text.as_bytes())?;
    if !parted.is_empty() {
        let lines = first_names(&parted);
        output.warn(format_args!("the study's file held several records on one line (line {lines}); they were parted"));
    }
    if lost_bytes > 0 {
        output.warn(format_args!("a line of the study's file was torn; {lost_bytes} bytes were cut off"));
    }
    Ok(())
}

/// Says which trials of the journal are none of this search.
fn name_ignored(study: &Study, output: &dyn Voice) {
    let named = study.ignored.iter().map(|trial| format!("trial {} ({})", trial.number, trial.reason));
    if !study.ignored.is_empty() {
        output.warn(format_args!("trials of another program that do not count: {}", first_names(named)));
    }
}

fn now() -> Timestamp {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_micros());
    Timestamp::from_unix_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}
