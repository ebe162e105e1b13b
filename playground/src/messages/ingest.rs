//! Reading dropped files.

use std::sync::Arc;

use hydra_shared::gradients::{GradientProfile, IngestReport, ProfileConfig};
use hydra_shared::layout::{Layout, in_arc};
use hydra_shared::search::Study;
use serde::{Deserialize, Serialize};

use crate::documents::Document;

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
    /// The files were read.
    Opened(Box<Opened>),
    /// Another profile.
    Profiled(Result<GradientProfile, String>),
}

/// What was in the files.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Opened {
    /// What each file was, by name; logs are told of in `log`.
    pub documents: Vec<(String, Document)>,
    /// Files that could not be used, and why.
    pub problems: Vec<(String, String)>,
    /// The gradient log, where there is one.
    pub log: Option<OpenedLog>,
    /// Studies of a journal.
    pub studies: Vec<Study>,
}

/// A gradient log that was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenedLog {
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
