//! A study to measure the search on: `trainer bench search` and `shared/tests/search_figures.rs`.

use std::sync::Arc;

use indexmap::IndexMap;

use super::{Outcome, Search, SearchConfig, SearchError, Step, Study, StudyMetadata};
use crate::gradients::{GradientProfile, ModuleNorm, Signal};
use crate::layout::Layout;
use crate::performance::ModelKind;
use crate::schedule::{Budget, Counting};

/// Rank of the uniform schedule that sets the budget.
const BASE_RANK: u32 = 16;

/// A search with `trials` complete trials of random schedules on a smooth made-up response with `benchmarks` scores; the
/// performance model `kind` proposes the next. It holds fewer trials where the space of schedules is too small.
///
/// # Errors
/// No benchmarks, and so no scores.
pub fn made_up_study(
    layout: &Arc<Layout>,
    trials: usize,
    benchmarks: usize,
    kind: ModelKind,
) -> Result<Search, SearchError> {
    let modules = (0..layout.len())
        .map(|module| ModuleNorm { mean: made_up_number(module as u64, 1), standard_error: 0.0, steps: 1 })
        .collect();
    let names: Vec<String> = (0..benchmarks).map(|benchmark| format!("benchmark-{benchmark}")).collect();
    let metadata = StudyMetadata {
        name: "bench".to_owned(),
        budget: Budget::uniform(layout, BASE_RANK, Counting::Parameters),
        layout: Arc::clone(layout),
        rank_cap: None,
        base_rank: BASE_RANK,
        benchmarks: names.clone(),
        profile: Some(GradientProfile { signal: Signal::L2, modules, ..GradientProfile::default() }),
    };
    // The starts fill the study; the trial after the last of them is proposed by the model.
    let config = SearchConfig {
        starts: trials,
        trials: trials + 1,
        patience: usize::MAX,
        model: kind,
        ..SearchConfig::default()
    };
    let mut search = Search::new(config, Study::new(metadata), Vec::new())?;
    for _ in 0..trials {
        let Step::Run(proposal) = search.ask()? else { break };
        let score = |benchmark: usize| {
            let gains = proposal.trial.ranks.as_slice().iter().enumerate().map(|(module, rank)| {
                made_up_number(module as u64, 10 + benchmark as u64) * f64::from(*rank).max(1.0).log2()
            });
            gains.sum::<f64>() / layout.len() as f64
        };
        let scores: IndexMap<String, f64> =
            names.iter().enumerate().map(|(index, name)| (name.clone(), score(index))).collect();
        search.tell(proposal.trial.number, Outcome::Complete { scores, wall_seconds: None })?;
    }
    Ok(search)
}

/// A number from 0.1 to 1.1 that looks random.
pub fn made_up_number(index: u64, salt: u64) -> f64 {
    let mixed = (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt.wrapping_mul(0xD1B5_4A32_D192_ED03);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    0.1 + (mixed >> 11) as f64 / (1_u64 << 53) as f64
}
