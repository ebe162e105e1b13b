//! What a study is of: the modules that get ranks, and what is known of their gradients.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use super::super::error::{Kind, failure};
use super::super::gradient_logs::{Profiling, configured_log_failure, outside_warning, profile_model};
use super::super::spec::Described;
use super::super::voice::Voice;
use crate::gradients::{GradientProfile, ProfileConfig, Wish, Wishes};
use crate::layout::{Catalog, Layout, Module};

/// What a [`Subject`] is read from, besides the model.
#[derive(Debug, Clone, Copy)]
pub struct SubjectConfig<'a> {
    /// The model, for messages.
    pub model: &'a str,
    /// Modules outside the decoder that get ranks, too, by expressions.
    pub include: &'a [String],
    /// Modules that get none.
    pub exclude: &'a [String],
    /// Gradient log that gives the profile; without one that of the first trial.
    pub gradients: &'a [PathBuf],
    /// The run to read, where the log holds several.
    pub gradients_run: Option<&'a str>,
    /// From gradient log to profile.
    pub profile: &'a ProfileConfig,
    /// Rank of the uniform LoRA that sets the budget.
    pub base_rank: u32,
}

/// What gets ranks, and what is known of its gradients.
pub struct Subject {
    pub(super) layout: Arc<Layout>,
    pub(super) profile: Option<GradientProfile>,
}

impl Subject {
    /// Reads the model, and the gradient log where there is one; it decides then which modules get ranks.
    ///
    /// # Errors
    /// As `trainer plan`.
    pub fn read(config: &SubjectConfig<'_>, model: Described, output: &dyn Voice) -> Result<Self> {
        let wishes = Wishes::new(config.include, config.exclude).map_err(|error| failure(Kind::Usage, error))?;
        let (subject, notes) = if config.gradients.is_empty() {
            let layout = wanted(&model.catalog, &wishes, config)?;
            (Self { layout, profile: None }, model.notes)
        } else {
            let from = Profiling {
                paths: config.gradients,
                run: config.gradients_run,
                failure: configured_log_failure,
                wishes: &wishes,
                config: config.profile,
                base_rank: config.base_rank,
            };
            let profiled = profile_model(&from, model)?;
            if let Some(warning) = outside_warning(&profiled.outside) {
                output.warn(format_args!("{warning}"));
            }
            (Self { layout: profiled.layout, profile: Some(profiled.profile) }, profiled.notes)
        };
        notes.iter().for_each(|note| output.note(format_args!("note: {note}")));
        Ok(subject)
    }

    /// The modules that get ranks.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Whether there is a profile already.
    pub fn is_profiled(&self) -> bool {
        self.profile.is_some()
    }
}

/// The modules of the decoder that nobody excluded.
fn wanted(catalog: &Catalog, wishes: &Wishes, config: &SubjectConfig<'_>) -> Result<Arc<Layout>> {
    let decoder = catalog.decoder();
    if let Some(expression) = config.include.first() {
        let message = "only a gradient log says which modules outside the decoder can get ranks; give --gradients LOG";
        return Err(failure(Kind::Usage, format!("--include {expression}: {message}")));
    }
    let kept = decoder.modules().iter().filter(|module| wishes.of(&module.name) != Wish::Exclude);
    let modules: Vec<Module> = kept.cloned().collect();
    wishes.check().map_err(|error| failure(Kind::Usage, error))?;
    if modules.is_empty() {
        return Err(failure(Kind::Usage, format!("--exclude leaves no module of {}", config.model)));
    }
    let layout = Layout::new(decoder.model(), modules)?;
    Ok(Arc::new(match decoder.decoder_parameters() {
        Some(parameters) => layout.with_decoder_parameters(parameters),
        None => layout,
    }))
}
