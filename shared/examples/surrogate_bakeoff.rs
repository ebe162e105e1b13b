//! Which performance model finds the best schedule in 16 trials?
//!
//! Runs the whole search (8 starts, then proposals) on synthetic response surfaces of a 12-layer model and prints, for
//! every model and rule, how much of the way from the starting schedules to the best known schedule is still missing
//! at the end. Evidence about synthetic surfaces, not about any benchmark.
//!
//! ```text
//! cargo run --release -p hydra-shared --example surrogate_bakeoff --no-default-features --features performance [seeds]
//! ```

#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use hydra_shared::gradients::{GradientProfile, ModuleNorm, Signal};
use hydra_shared::layout::{Layout, Ranks};
use hydra_shared::performance::{FeatureSpace, ModelKind, Observations};
use hydra_shared::schedule::{Budget, Counting};
use hydra_shared::search::{
    Acquisition, Origin, Outcome, Rule, Search, SearchConfig, SearchError, Start, Step, Study, StudyMetadata,
};
use hydra_shared::vlm::spec::ModelSpec;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const BASE_RANK: u32 = 16;

/// A response to schedules: what a module's rank is worth, with diminishing returns, and how far each projection's
/// mean rank should be from the base rank.
struct Surface {
    weights: Vec<f64>,
    wanted: Vec<f64>,
    /// Share of the second term.
    balance: f64,
    noise: f64,
}

impl Surface {
    fn new(modules: usize, balance: f64, noise: f64, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut bell = || (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
        let slope = bell();
        let projections: Vec<f64> = (0..7).map(|_| 0.8 * bell()).collect();
        let layers = modules / 7;
        let mut weights: Vec<f64> = (0..modules)
            .map(|i| {
                let depth = 2.0 * (i / 7) as f64 / (layers - 1) as f64 - 1.0;
                (slope * depth + projections.get(i % 7).unwrap_or(&0.0) + 0.4 * bell()).exp()
            })
            .collect();
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= sum);
        let wanted = (0..7).map(|_| 0.7 * bell()).collect();
        Self { weights, wanted, balance, noise }
    }

    /// The score without noise.
    fn score(&self, ranks: &[u32]) -> f64 {
        let x: Vec<f64> = ranks.iter().map(|&r| (f64::from(r) / f64::from(BASE_RANK)).log2()).collect();
        let gains: f64 = x.iter().zip(&self.weights).map(|(x, w)| w * (1.0 - (-0.7 * (x + 2.0)).exp2())).sum();
        let layers = (x.len() / 7) as f64;
        let misses = self.wanted.iter().enumerate().map(|(p, wanted)| {
            let mean = x.iter().skip(p).step_by(7).sum::<f64>() / layers;
            (mean - wanted).powi(2)
        });
        gains - self.balance * misses.sum::<f64>() / 7.0
    }

    /// A gradient profile that knows the weights roughly, as a real one would.
    fn profile(&self, seed: u64) -> GradientProfile {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let modules = self.weights.iter().map(|w| {
            let mean = w.sqrt() * (rng.random_range(-0.5..0.5_f64)).exp();
            ModuleNorm { mean, standard_error: 0.0, steps: 1 }
        });
        GradientProfile { signal: Signal::L2, modules: modules.collect(), ..GradientProfile::default() }
    }
}

/// What a search found: noiseless scores of the best trial by its measured score, and of the best start.
struct Found {
    best: f64,
    start: f64,
    skill: f64,
}

fn search(
    surface: &Surface,
    about: &StudyMetadata,
    starts: &[Start],
    config: SearchConfig,
) -> Result<Found, SearchError> {
    let mut noise = ChaCha8Rng::seed_from_u64(config.seed ^ 0xabcd);
    let mut search = Search::new(config, Study::new(about.clone()), starts.to_vec())?;
    while let Step::Run(proposal) = search.ask()? {
        let measured = surface.score(proposal.trial.ranks.as_slice()) + surface.noise * noise.random_range(-1.7..1.7);
        let number = proposal.trial.number;
        search
            .tell(number, Outcome::Complete { scores: [("score".to_owned(), measured)].into(), wall_seconds: None })?;
    }
    let study = search.study();
    let best = study.best().map_or(f64::NAN, |t| surface.score(t.ranks.as_slice()));
    let starts = study.trials.iter().filter(|t| t.origin.is_start());
    let start = starts.map(|t| surface.score(t.ranks.as_slice())).fold(f64::NEG_INFINITY, f64::max);
    let skill = study.trials.iter().rev().find_map(|t| match &t.origin {
        Origin::Proposed { held_out, .. } => Some(held_out.skill()),
        _ => None,
    });
    Ok(Found { best, start, skill: skill.unwrap_or(f64::NAN) })
}

/// Prints how long a fit of 16 trials of MobileVLM-1.7B's 24 layers and its leave-one-out errors take.
fn fit_times() -> Result<(), SearchError> {
    let layout = layout("mobilevlm-1.7b", 24);
    let space = FeatureSpace::new(&layout, 128, None);
    let surface = Surface::new(layout.len(), 0.3, 0.0, 1);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut data = Observations::default();
    for _ in 0..16 {
        let ranks = Ranks::from_fn(&layout, |_| rng.random_range(32..256));
        data.scores.push(vec![surface.score(ranks.as_slice())]);
        data.schedules.push(ranks);
    }
    println!("fit of 16 trials, 24 layers, with leave-one-out errors; prediction of 256 schedules:");
    for kind in ModelKind::ALL {
        let begun = Instant::now();
        let fit = kind.build().fit(&space, &data, 1).map_err(|e| SearchError::Propose(e.to_string()))?;
        let fitted = begun.elapsed().as_secs_f64();
        let schedules: Vec<Ranks> = data.schedules.iter().cycle().take(256).cloned().collect();
        fit.predict(&schedules).map_err(|e| SearchError::Propose(e.to_string()))?;
        println!("{:<20} {fitted:>8.3} s {:>8.3} s", kind.name(), begun.elapsed().as_secs_f64() - fitted);
    }
    Ok(())
}

/// A schedule close to the best: rank units one by one, each where it gains most for what it costs.
fn greedy(surface: &Surface, layout: &Layout, budget: Budget) -> f64 {
    let mut ranks = vec![1; layout.len()];
    let costs: Vec<u64> = layout.modules().iter().map(|module| budget.unit_cost(module)).collect();
    let mut left = budget.allowed - costs.iter().sum::<u64>();
    loop {
        let now = surface.score(&ranks);
        let mut best: Option<(f64, usize, u64)> = None;
        for (i, &cost) in costs.iter().enumerate().filter(|(_, cost)| **cost <= left) {
            let mut more = ranks.clone();
            more.iter_mut().skip(i).take(1).for_each(|r| *r += 1);
            let gain = (surface.score(&more) - now) / cost as f64;
            if best.is_none_or(|(most, ..)| gain > most) {
                best = Some((gain, i, cost));
            }
        }
        let Some((_, i, cost)) = best else { return now };
        ranks.iter_mut().skip(i).take(1).for_each(|r| *r += 1);
        left -= cost;
    }
}

/// The modules of a preset with so many layers.
fn layout(preset: &str, layers: usize) -> Arc<Layout> {
    let mut model = ModelSpec::preset(preset).unwrap_or_else(|e| unreachable!("{e}"));
    model.decoder.layers = layers;
    model.layout().unwrap_or_else(|e| unreachable!("{e}"))
}

fn main() -> Result<(), SearchError> {
    let seeds: u64 = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(20);
    let layout = layout("smollm2-135m", 12);
    let budget = Budget::uniform(&layout, BASE_RANK, Counting::Parameters);
    let starts = vec![Start { name: "uniform".to_owned(), ranks: Ranks::uniform(&layout, BASE_RANK) }];
    let contenders = [
        (ModelKind::Transformer, Acquisition::PredictedMean.into()),
        (ModelKind::Transformer, Acquisition::ExpectedImprovement.into()),
        (ModelKind::Ridge, Acquisition::PredictedMean.into()),
        (ModelKind::Ridge, Acquisition::ExpectedImprovement.into()),
        (ModelKind::GaussianProcess, Acquisition::PredictedMean.into()),
        (ModelKind::GaussianProcess, Acquisition::ExpectedImprovement.into()),
        (ModelKind::Ridge, Rule::RANDOM),
    ];
    fit_times()?;
    for (title, balance, noise) in [
        ("diminishing returns, no noise", 0.0, 0.0),
        ("diminishing returns and a balance, no noise", 0.3, 0.0),
        ("diminishing returns and a balance, noise", 0.3, 0.02),
    ] {
        let mut missing: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        let mut skills: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        let mut seconds: BTreeMap<usize, f64> = BTreeMap::new();
        for seed in 0..seeds {
            let surface = Surface::new(layout.len(), balance, noise, seed);
            let about = StudyMetadata {
                name: "bakeoff".to_owned(),
                layout: Arc::clone(&layout),
                budget,
                rank_cap: None,
                base_rank: BASE_RANK,
                benchmarks: vec!["score".to_owned()],
                profile: Some(surface.profile(seed)),
            };
            let mut known = greedy(&surface, &layout, budget);
            let mut found = Vec::new();
            for (i, (model, acquisition)) in contenders.into_iter().enumerate() {
                let config = SearchConfig { model, acquisition, seed, patience: 16, ..SearchConfig::default() };
                let begun = Instant::now();
                found.push(search(&surface, &about, &starts, config)?);
                *seconds.entry(i).or_default() += begun.elapsed().as_secs_f64() / seeds as f64;
            }
            known = found.iter().map(|f| f.best).fold(known, f64::max);
            for (i, f) in found.iter().enumerate() {
                missing.entry(i).or_default().push((known - f.best) / (known - f.start).max(1e-12));
                skills.entry(i).or_default().push(f.skill);
            }
        }
        println!("\n{title}: {seeds} surfaces");
        println!("{:<40} {:>16} {:>8} {:>10} {:>8}", "model, rule", "missing ± s.e.", "median", "LOO skill", "seconds");
        for (i, (model, acquisition)) in contenders.into_iter().enumerate() {
            let name = match acquisition {
                Rule::Proposer(proposer) => proposer.name.to_owned(),
                Rule::Model(acquisition) => format!("{}, {}", model.name(), acquisition.name()),
            };
            let values = missing.remove(&i).unwrap_or_default();
            let (mean, error) = mean_and_error(&values);
            let (skill, _) = mean_and_error(&skills.remove(&i).unwrap_or_default());
            let spread = format!("{mean:.3} ± {error:.3}");
            let seconds = seconds.get(&i).copied().unwrap_or_default();
            println!("{name:<40} {spread:>16} {:>8.3} {skill:>10.2} {seconds:>8.2}", median(values));
        }
    }
    Ok(())
}

fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    (mean, (squares / (n - 1.0) / n).sqrt())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
