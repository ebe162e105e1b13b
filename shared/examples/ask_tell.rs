//! A search with a trainer of your own: ask for schedules, train with each, tell the scores. Needs no performance model:
//!
//! ```text
//! cargo run -p hydra-shared --example ask_tell --no-default-features
//! ```
//!
//! With the feature `performance` leave `acquisition` out, and the paper's Transformer proposes.

#![allow(clippy::print_stdout, reason = "the best schedule is what this program is for")]

use hydra_shared::layout::Ranks;
use hydra_shared::schedule::{Budget, Counting};
use hydra_shared::search::{Outcome, Rule, Search, SearchConfig, Step, Study, StudyMetadata};
use hydra_shared::vlm::spec::preset_layout;

/// Stands for your fine-tune and its evaluation: here, what a module gains from rank grows with its depth.
fn train_and_evaluate(ranks: &Ranks) -> f64 {
    ranks.iter().map(|(module, rank)| (1 + module.layer.unwrap_or(0)) as f64 * f64::from(rank).sqrt()).sum()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let layout = preset_layout("smollm2-135m").ok_or("no preset of that name")?;
    let study = Study::new(StudyMetadata {
        name: "mine".to_owned(),
        budget: Budget::uniform(&layout, 16, Counting::Parameters),
        layout,
        rank_cap: None,
        base_rank: 16,
        benchmarks: vec!["score".to_owned()],
        profile: None,
    });
    let config = SearchConfig { acquisition: Rule::RANDOM, trials: 24, patience: 24, ..SearchConfig::default() };
    let mut search = Search::new(config, study, Vec::new())?;
    // Four at a time: they may run side by side, and be told in any order.
    while let Step::Run(trials) = search.ask_many(4)? {
        for trial in trials {
            let scores = [("score".to_owned(), train_and_evaluate(&trial.ranks))].into();
            search.tell(trial.number, Outcome::Complete { scores, wall_seconds: None })?;
        }
    }
    if let Some(best) = search.study().best() {
        println!("trial {} scores {:?} with ranks {:?}", best.number, best.scores, best.ranks.as_slice());
    }
    Ok(())
}
