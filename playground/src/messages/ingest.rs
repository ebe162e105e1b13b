//! Reading dropped files.

use std::sync::Arc;

use hydra_shared::gradients::{Fit, GradientLog, GradientProfile, IngestReport, ProfileConfig, profile};
use hydra_shared::layout::{Layout, in_arc};
use hydra_shared::search::Study;
use serde::{Deserialize, Serialize};

use crate::documents::{AdapterRanks, Document, fit_to, layout_of_log, layout_of_schedule};
use crate::link::layout_of_link;

/// What the page asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum IngestRequest {
    /// Read the files that come with the message.
    Open {
        /// The layout that is shown: a log of as many layers is read for it.
        #[serde(with = "in_arc")]
        layout: Arc<Layout>,
        /// How a profile is made.
        profiling: ProfileConfig,
    },
    /// Make another profile of the log that was read last.
    Profile {
        /// What gets the ranks.
        #[serde(with = "in_arc")]
        layout: Arc<Layout>,
        /// How.
        profiling: ProfileConfig,
    },
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
    /// Among the files are binary tables: the worker that reads those has to be asked.
    NeedsTables,
    /// The files were read.
    Read(Box<ReadFiles>),
    /// Another profile.
    Profiled(Result<Profiled, String>),
}

/// A profile with the modules that it is of: those of the layout that was asked for which the log holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profiled {
    /// What gets the ranks.
    #[serde(with = "in_arc")]
    pub layout: Arc<Layout>,
    /// The profile.
    pub profile: GradientProfile,
}

impl Profiled {
    /// The profile of a log for the modules of a layout that it holds.
    ///
    /// # Errors
    /// A log that is not of this model, or makes no profile.
    pub fn new(log: &GradientLog, layout: &Arc<Layout>, profiling: &ProfileConfig) -> Result<Self, String> {
        let made = fit_to(log, layout).and_then(|Fit { layout, .. }| {
            let profile = profile(log, &layout, profiling)?;
            Ok(Self { layout, profile })
        });
        made.map_err(|error| error.to_string())
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
    pub studies: Vec<Study>,
}

impl ReadFiles {
    /// Reads adapters, given by their places among the documents, their names and their texts. Their keys mean modules of the
    /// layout that [`Session::take`](crate::session::Session::take) comes to them with, where `shown` is shown before it.
    pub fn read_adapters(&mut self, adapters: Vec<(usize, String, String)>, shown: &Arc<Layout>) {
        let shown = self.layout_of_models_and_log().unwrap_or_else(|| Arc::clone(shown));
        let mut inserted = 0;
        for (place, name, text) in adapters {
            let place = (place + inserted).min(self.documents.len());
            let before = self.documents.iter().take(place).map(|(_, document)| document);
            match AdapterRanks::from_json(&text, &layout_after(before, Arc::clone(&shown))) {
                Ok(adapter) => {
                    self.documents.insert(place, (name, Document::Adapter(adapter)));
                    inserted += 1;
                }
                Err(problem) => self.problems.push((name, problem)),
            }
        }
    }

    /// What a session shows after it took models and log, which come first.
    fn layout_of_models_and_log(&self) -> Option<Arc<Layout>> {
        if let Some(ReadLog { layout: Some(layout), profile: Ok(_), .. }) = &self.log {
            return Some(Arc::new(layout.clone()));
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
        Document::Model(..) | Document::Adapter(_) => shown,
    })
}

/// A gradient log that was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadLog {
    /// Names of its files.
    pub files: Vec<String>,
    /// What was recognised, what was left out, and why.
    pub report: IngestReport,
    /// Layers that it names.
    pub layers: usize,
    /// Rank of the adapters that were trained, where the log says so.
    pub rank: Option<u32>,
    /// The layout that it was read for; none where none fits.
    pub layout: Option<Layout>,
    /// The profile, or why there is none.
    pub profile: Result<GradientProfile, String>,
}

impl ReadLog {
    /// The log of these files, read for the layout that is shown or for one that fits it better.
    pub fn new(files: Vec<String>, log: &GradientLog, shown: &Arc<Layout>, profiling: &ProfileConfig) -> Self {
        let layout = layout_of_log(log, Some(shown));
        let made = match &layout {
            Some(layout) => Profiled::new(log, layout, profiling).map(|made| made.profile),
            None => Err("no model is known for it".to_owned()),
        };
        Self {
            files,
            report: log.report.clone(),
            layers: log.layers(),
            rank: log.meta.lora.map(|lora| lora.r),
            layout: layout.map(Arc::unwrap_or_clone),
            profile: made,
        }
    }
}
