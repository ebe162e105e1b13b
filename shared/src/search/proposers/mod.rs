//! What chooses the next schedules.
//!
//! A new proposer is a file in this folder with its names ([`random::NAMED`]) and how it is made ([`random::new`]), and its
//! line here. A configuration finds it by its name, reports and the page call it by its title.

/// Lists the proposers' names apart from what makes them, so that the page, which only names them, loads none of their code.
macro_rules! proposers {
    ($($proposer:ident),* $(,)?) => {
        const ALL: &[NamedProposer] = &[$($proposer::NAMED),*];

        fn build<'a>(name: &str, config: &'a SearchConfig, space: &'a SearchSpace) -> Option<Box<dyn Proposer + 'a>> {
            $(if name == $proposer::NAMED.name {
                return Some($proposer::new(config, space));
            })*
            None
        }
    };
}

#[cfg(feature = "performance")]
mod by_model;
pub(super) mod random;

// The proposers besides the performance models.
proposers![random];

#[cfg(feature = "performance")]
use std::sync::Arc;

use super::ask_tell::SearchError;
use super::config::SearchConfig;
use super::rule::Rule;
use super::sampling::SearchSpace;
use super::study::{Origin, Study, Trial};
use crate::layout::Ranks;
#[cfg(feature = "performance")]
use crate::performance::FittedModel;

/// Chooses the schedules to try next.
pub(super) trait Proposer {
    /// Up to `count` schedules and why, each feasible and different from the others and from those of all trials of the
    /// study; fewer where there are no more. `pending` are the trials of the study that are still running.
    ///
    /// A function of its arguments alone, so that a search that is taken up from its study goes on as if it had never
    /// stopped. Asking for several at once gives what asking for one after the other gives, where none is told in between:
    /// the n-th is made with [`following_seed`](super::seed::following_seed)`(seed, n)`.
    ///
    /// # Errors
    /// A performance model that cannot predict; the budget repair's.
    fn propose(&self, study: &Study, pending: &[&Trial], count: usize, seed: u64) -> Result<Vec<Choice>, SearchError>;
}

/// A schedule that was chosen, and why.
pub(super) struct Choice {
    pub ranks: Ranks,
    pub origin: Origin,
    /// The fit on measured scores alone that it was chosen by, where it was.
    #[cfg(feature = "performance")]
    pub fit: Option<Arc<dyn FittedModel>>,
}

impl Choice {
    /// A schedule that no model chose.
    pub fn new(ranks: Ranks, origin: Origin) -> Self {
        Self {
            ranks,
            origin,
            #[cfg(feature = "performance")]
            fit: None,
        }
    }
}

/// A proposer other than the performance models, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedProposer {
    /// Name for reports and files.
    pub name: &'static str,
    /// Name for people.
    pub title: &'static str,
    /// What it does, in the words of a list to choose from.
    pub about: &'static str,
}

impl NamedProposer {
    /// Every proposer.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.iter().copied()
    }
}

/// The proposer that a configuration names; `None` for one that this build lacks.
pub(super) fn named<'a>(config: &'a SearchConfig, space: &'a SearchSpace) -> Option<Box<dyn Proposer + 'a>> {
    match config.acquisition {
        #[cfg(feature = "performance")]
        Rule::Model(acquisition) => Some(by_model::new(config, acquisition, space)),
        #[cfg(not(feature = "performance"))]
        Rule::Model(_) => None,
        Rule::Proposer(proposer) => build(proposer.name, config, space),
    }
}
