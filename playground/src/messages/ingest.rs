//! Reading dropped files.

use std::collections::VecDeque;
use std::sync::Arc;

use hydra_shared::gradients::{
    GradientLog, GradientProfile, IngestReport, ProfileConfig, ProfileError, Summing, WishError, fit, fit_notes,
    outside_parts, outside_text, profile,
};
use hydra_shared::layout::{Catalog, Layout, in_arc};
use serde::{Deserialize, Serialize};

use crate::documents::{
    AdapterShapes, Document, GivenRanks, Header, Known, layout_of_schedule, model_of_layout, model_of_log,
};
use crate::files::given;
use crate::link::layout_of_link;
use crate::messages::packed;
use crate::messages::performance::Measured;
use crate::session::LogChoice;

/// What the page asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum IngestRequest {
    /// Read the files that come with the message. A log of as many layers is read for the layout that is shown.
    Open {
        /// How a log is read.
        reading: Reading,
        /// The path of each file: its name, or its place in the folder that was dropped, from that folder's own name on.
        paths: Vec<String>,
    },
    /// Make another profile of the log that was read last.
    Profile(Reading),
}

/// How a log is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// What gets the ranks.
    #[serde(with = "in_arc")]
    pub layout: Arc<Layout>,
    /// How a profile is made.
    pub profiling: ProfileConfig,
    /// Its run, and which of its modules are planned.
    pub of_log: LogChoice,
    /// Rank of the adapters of which the log does not say it.
    pub base_rank: u32,
    /// Whether only a sample is shown.
    pub is_sample: bool,
}

/// What the worker answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum IngestReply {
    /// How far it is.
    Progress {
        /// The file that is being read.
        file: String,
        /// Bytes of all files that were read.
        read: f64,
        /// Bytes of all files.
        size: f64,
    },
    /// Among the files are binary logs: the worker that reads those has to be asked.
    NeedsBinaryLogs,
    /// The profile of the files that come next: each is unpacked by itself, which lets the page answer in between.
    Made(Box<Profiled>),
    /// The files were read. The profile of their log has come before.
    Read(Box<ReadFiles>),
    /// Another profile.
    Profiled(Result<Profiled, String>),
}

/// A profile with the modules that it is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profiled {
    /// What gets the ranks.
    #[serde(with = "in_arc")]
    pub layout: Arc<Layout>,
    /// The profile.
    #[serde(with = "packed")]
    pub profile: GradientProfile,
    /// What was chosen of the log.
    pub of_log: LogChoice,
    /// What the log holds outside the decoder and no rank is planned for, in a sentence.
    pub outside: Option<String>,
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum NotProfiled {
    /// An expression is none, or has no effect.
    #[error(transparent)]
    Wish(#[from] WishError),
    /// The log is not of the model, or makes no profile.
    #[error(transparent)]
    Profile(#[from] ProfileError),
}

impl NotProfiled {
    /// Takes out of a choice what it fails for; says whether there was such.
    fn take_out_of(&self, of_log: &mut LogChoice) -> bool {
        let blamed = match self {
            Self::Wish(WishError { flag: "--include", .. })
            | Self::Profile(ProfileError::Experts { .. } | ProfileError::UnknownShape { .. }) => &mut of_log.include,
            Self::Wish(_) | Self::Profile(ProfileError::NoModules { .. }) => &mut of_log.exclude,
            Self::Profile(_) => return false,
        };
        !std::mem::take(blamed).is_empty()
    }
}

impl Profiled {
    /// The profile of a log for the modules of a model that it holds.
    ///
    /// # Errors
    /// A log that is not of this model, or makes no profile; expressions that are none or have no effect.
    pub fn new(log: &GradientLog, model: &Catalog, reading: &Reading) -> Result<Self, NotProfiled> {
        Self::with_notes(log, model, reading).map(|(made, _)| made)
    }

    /// The same, and what has to be known of its modules.
    fn with_notes(log: &GradientLog, model: &Catalog, reading: &Reading) -> Result<(Self, Vec<String>), NotProfiled> {
        let wishes = reading.of_log.wishes()?;
        let fit = fit(log, model, |name| wishes.of(name))?;
        wishes.check()?;
        let notes = fit_notes(&fit, model);
        let rank = log.meta.lora.map_or(reading.base_rank, |lora| lora.r);
        let outside = outside_text(&outside_parts(&fit.outside, rank)).map(|outside| {
            format!("{outside}. Include plans such modules, too; Exclude leaves them out without this note.")
        });
        let profile = profile(log, &fit.layout, &reading.profiling)?;
        Ok((Self { layout: fit.layout, profile, of_log: reading.of_log.clone(), outside }, notes))
    }
}

/// A file that gives modules ranks.
#[derive(Debug, Clone, PartialEq)]
pub struct RankFile {
    /// How many documents come before it.
    pub place: usize,
    /// Its name.
    pub name: String,
    /// What was read of it.
    pub holds: RanksIn,
}

/// What was read of a file that gives modules ranks.
#[derive(Debug, Clone, PartialEq)]
pub enum RanksIn {
    /// PEFT's configuration, or the page's own table.
    Text(String),
    /// The header of an adapter's weights.
    Weights(Header),
}

impl RankFile {
    /// The header, where it is one of weights.
    pub fn weights(&self) -> Option<&Header> {
        match &self.holds {
            RanksIn::Weights(header) => Some(header),
            RanksIn::Text(_) => None,
        }
    }
}

/// What was in the files.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ReadFiles {
    /// What each file was, by name; logs are told of in `log`.
    pub documents: Vec<(String, Document)>,
    /// Files that could not be used, and why.
    pub problems: Vec<(String, String)>,
    /// The gradient log, where there is one.
    pub log: Option<ReadLog>,
    /// Studies of a journal.
    pub studies: Vec<Measured>,
    /// The runs of a log that was not read because it holds several, of which one has to be chosen.
    pub runs: Vec<String>,
    /// The number of this reading; the page counts, whoever reads does not know it.
    #[serde(skip)]
    pub reading: u32,
}

impl ReadFiles {
    /// Reads files of ranks. Their keys mean modules of what [`Session::take`](crate::session::Session::take) comes to them
    /// with, where `shown` is shown before it and `given` is a model that was read; the shapes of weights beside them say
    /// which model that is, where it is another one.
    pub fn read_ranks(&mut self, files: Vec<RankFile>, shown: &Arc<Layout>, is_sample: bool, given: Option<&Catalog>) {
        let brought = self.layout_of_models_and_log();
        let is_sample = is_sample && brought.is_none();
        let shown = brought.unwrap_or_else(|| Arc::clone(shown));
        let is_config = |file: &&RankFile| matches!(&file.holds, RanksIn::Text(text) if !GivenRanks::is_table(text));
        let configs = files.iter().filter(is_config).count();
        // The first configuration is that of the first weights, and they are read together.
        let mut beside: VecDeque<Header> = files.iter().filter_map(RankFile::weights).take(configs).cloned().collect();
        let (mut together, mut inserted) = (beside.len(), 0);
        for RankFile { place, name, holds } in files {
            let place = (place + inserted).min(self.documents.len());
            let before = self.documents.iter().take(place).map(|(_, document)| document);
            let shown = layout_after(before, Arc::clone(&shown));
            let whole = Arc::clone(model_of_layout(&shown, given).decoder());
            let mut known = Known { shown: [shown, whole], is_sample };
            let read = match holds {
                RanksIn::Text(text) => {
                    let header = if GivenRanks::is_table(&text) { None } else { beside.pop_front() };
                    if let Some(header) = header {
                        match AdapterShapes::of(&header, &known) {
                            Ok(shapes) => {
                                known = shapes.known();
                                self.documents.insert(place, (header.file, Document::Weights));
                                inserted += 1;
                            }
                            Err(problem) => self.problems.push((header.file, problem)),
                        }
                    }
                    GivenRanks::read(&text, &known)
                }
                RanksIn::Weights(_) if together > 0 => {
                    together -= 1;
                    continue;
                }
                RanksIn::Weights(header) => AdapterShapes::of(&header, &known).and_then(AdapterShapes::into_ranks),
            };
            match read {
                Ok(ranks) => {
                    self.documents.insert(place, (name, Document::Ranks(Box::new(ranks))));
                    inserted += 1;
                }
                Err(problem) => self.problems.push((name, problem)),
            }
        }
    }

    /// Tells why a log of these files and folders was not read. `file` is the one to blame, or what all are called together.
    pub fn refuse_log(&mut self, names: Vec<String>, file: String, why: String) {
        let to_blame = given(std::slice::from_ref(&file));
        self.problems.push((file, why));
        let others = names.into_iter().filter(|name| !to_blame.contains(name));
        self.problems.extend(others.map(|name| (name, "it was to be read as part of the same log".to_owned())));
    }

    /// What a session shows after it took models and log, which come first.
    fn layout_of_models_and_log(&self) -> Option<Arc<Layout>> {
        if let Some(ReadLog { made: Some(Ok(made)), .. }) = &self.log {
            return Some(Arc::clone(&made.layout));
        }
        self.documents.iter().rev().find_map(|(_, document)| match document {
            Document::Model(layout, _) => Some(Arc::new(layout.as_ref().clone())),
            _ => None,
        })
    }
}

/// What a session shows after it took these documents, too.
fn layout_after<'a>(documents: impl Iterator<Item = &'a Document>, shown: Arc<Layout>) -> Arc<Layout> {
    documents.fold(shown, |shown, document| match document {
        Document::Schedule(schedule) => layout_of_schedule(schedule, &shown),
        Document::Session(link) => layout_of_link(link),
        Document::Model(..) | Document::Ranks(_) | Document::Scores(_) | Document::Weights => shown,
    })
}

/// A gradient log that was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadLog {
    /// Names of its files and folders.
    pub files: Vec<String>,
    /// What was recognised, what was left out, and why.
    pub report: IngestReport,
    /// Layers that it names.
    pub layers: usize,
    /// Rank of the adapters that were trained, where the log says so.
    pub rank: Option<u32>,
    /// The profile, or why there is none; none where no model fits.
    pub made: Option<Result<Profiled, String>>,
    /// Expressions of the session that mean nothing for this log, each with the reason: it was read without them.
    pub left_out: Vec<String>,
}

/// Most files of a log that are told of one by one.
const MOST_TOLD: usize = 100;

impl ReadLog {
    /// The log of these files, read for the model that is shown, for one whose configuration was given, or for a preset that
    /// fits it better; which one that is stands beside it.
    ///
    /// # Errors
    /// A log whose norms were summed up for another profile: what it has to be read again for.
    pub fn new(
        files: Vec<String>,
        log: &GradientLog,
        shown: &Catalog,
        given: Option<&Catalog>,
        mut reading: Reading,
    ) -> Result<(Self, Option<Catalog>), Box<Summing>> {
        let model = model_of_log(log, [Some(shown), given].into_iter().flatten(), &reading.of_log);
        let (mut report, mut left_out) = (log.report.clone(), Vec::new());
        let made = model.as_ref().map(|model| {
            let made = loop {
                match Profiled::with_notes(log, model, &reading) {
                    Err(NotProfiled::Profile(ProfileError::Again(summing))) => return Err(summing),
                    Err(error) if error.take_out_of(&mut reading.of_log) => {
                        left_out.push(format!("{error}. It is left out."));
                    }
                    made => break made,
                }
            };
            Ok(made.map_err(|error| error.to_string()).map(|(made, notes)| {
                report.notes.extend(notes);
                report.notes.extend(made.outside.clone());
                made
            }))
        });
        let made = made.transpose()?;
        let untold = report.files.len().saturating_sub(MOST_TOLD);
        if untold > 0 {
            report.files.sort_by_key(|file| file.format.is_none());
            let unread = report.files.iter().skip(MOST_TOLD).filter(|file| file.format.is_none()).count();
            report.files.truncate(MOST_TOLD);
            report.notes.push(format!("{untold} more files are not listed here; {unread} of them were not read"));
        }
        let (layers, rank) = (log.layers(), log.meta.lora.map(|lora| lora.r));
        Ok((Self { files, report, layers, rank, made, left_out }, model))
    }
}
