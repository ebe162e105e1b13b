//! Any feasible schedule that has not been tried.

use std::collections::BTreeSet;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{Choice, NamedProposer, Proposer};
use crate::layout::Ranks;
use crate::schedule::BudgetError;
use crate::search::ask_tell::SearchError;
use crate::search::config::SearchConfig;
use crate::search::sampling::SearchSpace;
use crate::search::seed::following_seed;
use crate::search::study::{Origin, Study, Trial};

/// What it is called.
pub const NAMED: NamedProposer = NamedProposer { name: "random", title: "Random", about: "At random, without a model" };

/// The proposer of a search.
pub fn new<'a>(_config: &SearchConfig, space: &'a SearchSpace) -> Box<dyn Proposer + 'a> {
    Box::new(Random { space })
}

/// Draws from the feasible schedules.
pub struct Random<'a> {
    pub space: &'a SearchSpace,
}

impl Proposer for Random<'_> {
    fn propose(&self, study: &Study, _pending: &[&Trial], count: usize, seed: u64) -> Result<Vec<Choice>, SearchError> {
        let mut choices: Vec<Choice> = Vec::new();
        for nth in 0..count {
            let mut tried = study.schedules();
            tried.extend(choices.iter().map(|choice| choice.ranks.as_slice()));
            let Some(ranks) = draw(self.space, &tried, following_seed(seed, nth))? else { break };
            choices.push(Choice::new(ranks, Origin::Random { reason: None }));
        }
        Ok(choices)
    }
}

/// A feasible schedule that has not been tried; `None` where there is none.
pub fn draw(space: &SearchSpace, tried: &BTreeSet<&[u32]>, seed: u64) -> Result<Option<Ranks>, BudgetError> {
    Ok(space.draw(&mut ChaCha8Rng::seed_from_u64(seed), 1, &[], tried)?.pop())
}
