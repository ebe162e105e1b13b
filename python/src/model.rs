//! A model as Python gives it: a path or preset, a configuration, a module's parameters.

use anyhow::Result;
use hydra_shared::files::error::{Kind, ResultExt as _, failure};
use hydra_shared::files::spec::{Described, load_catalog_for, of_config, of_parameters};
use hydra_shared::vlm::spec::ModelConfig;
use pyo3::prelude::*;
use serde::Deserialize;

/// What the package makes of the argument `model`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// A preset, or what lies on a disk.
    Path(String),
    /// The text of a `config.json`.
    Config(String),
    /// A module in memory.
    Parameters {
        /// Its class.
        name: String,
        /// Names and shapes.
        parameters: Vec<(String, Vec<usize>)>,
        /// The text of its configuration, where it has one.
        config: Option<String>,
    },
}

impl Model {
    /// Reads the argument.
    ///
    /// # Errors
    /// JSON of another form.
    pub fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|error| failure(Kind::Usage, format!("model: {error}")))
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        match self {
            Self::Path(path) => path,
            Self::Config(_) => "the configuration",
            Self::Parameters { name, .. } => name,
        }
    }

    /// Its matrices.
    ///
    /// # Errors
    /// Files that cannot be read, a configuration of no known kind, parameters without language layers.
    pub fn read(&self) -> Result<Described> {
        match self {
            Self::Path(path) => load_catalog_for("model", path),
            Self::Config(text) => of_config(ModelConfig::from_json(text).or_fail(Kind::Data, || {
                "model: its configuration is of no kind that is known here; give the module, whose parameters have the shapes"
            })?),
            // A configuration of no known kind: the parameters say enough.
            Self::Parameters { name, parameters, config } => {
                let config = config.as_deref().and_then(|text| ModelConfig::from_json(text).ok());
                of_parameters(name, parameters, config)
            }
        }
    }
}

/// Whether a configuration is of a kind that is known here.
#[pyfunction]
pub fn is_known(config: &str) -> bool {
    ModelConfig::from_json(config).is_ok()
}
