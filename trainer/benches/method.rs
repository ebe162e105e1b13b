//! What the method costs between a log and a schedule, on SmolLM2-135M's shapes (30 layers, 210 modules) and its sample log.
//! `cargo bench` runs it.

#![allow(clippy::unwrap_used, reason = "a measurement fails loudly")]

use std::sync::Arc;

use divan::Bencher;
use hydra_shared::gradients::{GradientLog, GradientProfile, ProfileConfig, profile, read};
use hydra_shared::layout::Layout;
use hydra_shared::performance::{FeatureSpace, ModelKind, Observations};
use hydra_shared::schedule::{Budget, Counting, PlanConfig, RepairModule, plan, repair};
use hydra_shared::vlm::spec::ModelSpec;

const LOG: &[u8] = include_bytes!("../../static/samples/grad-norms.jsonl.gz");
const BASE_RANK: u32 = 16;

fn main() {
    divan::main();
}

fn layout() -> Arc<Layout> {
    ModelSpec::preset("smollm2-135m").unwrap().layout().unwrap()
}

fn log() -> GradientLog {
    read("grad-norms.jsonl.gz", LOG).unwrap()
}

fn profiled(layout: &Layout) -> GradientProfile {
    profile(&log(), layout, &ProfileConfig::default()).unwrap()
}

/// The gzipped log of a fine-tune, from bytes to norms.
#[divan::bench]
fn read_log(bencher: Bencher) {
    bencher.counter(divan::counter::BytesCount::of_slice(LOG)).bench(log);
}

/// Real-valued targets to whole ranks that meet the budget, for models of so many layers.
#[divan::bench(args = [24, 100, 1000])]
fn repair_budget(bencher: Bencher, layers: usize) {
    let costs = [4096, 4096, 4096, 4096, 7680, 7680, 7680];
    let modules: Vec<RepairModule> = (0..layers)
        .flat_map(|layer| {
            costs.iter().enumerate().map(move |(kind, &cost)| {
                let norm = 1.0 + ((31 * layer + 17 * kind) % 101) as f64 / 101.0;
                RepairModule { cost, floor: 1, cap: 2048, target: f64::from(BASE_RANK) * norm, norm }
            })
        })
        .collect();
    let allowed = modules.iter().map(|module| module.cost * u64::from(BASE_RANK)).sum();
    bencher.bench(|| repair(&modules, allowed).unwrap());
}

/// A profile to a schedule: stages, their ranks, the fine step, the budget.
#[divan::bench]
fn plan_schedule(bencher: Bencher) {
    let layout = layout();
    let profile = profiled(&layout);
    let config = PlanConfig::default();
    bencher.bench(|| plan(&layout, &profile, &config).unwrap());
}

/// One fit of a performance model on 16 trials with three scores, its leave-one-out error included.
#[divan::bench(args = ["transformer", "ridge", "gaussian-process"], sample_count = 10)]
fn fit_performance_model(bencher: Bencher, name: &str) {
    let layout = layout();
    let profile = profiled(&layout);
    let space = FeatureSpace::new(&layout, BASE_RANK, Some(&profile));
    let budget = Budget::uniform(&layout, BASE_RANK, Counting::Parameters);
    let norms = profile.norms();
    let mut trials = Observations::default();
    for trial in 0..16_u32 {
        let weight = |module: usize| f64::from((37 * module as u32 + 11 * trial) % 29 + 1);
        let weights: Vec<f64> = (0..layout.len()).map(weight).collect();
        let ranks = budget.ranks_in_proportion(&layout, &weights, &norms, None.into()).unwrap();
        let score = ranks.iter().map(|(_, rank)| f64::from(rank).ln()).sum::<f64>() / layout.len() as f64;
        trials.scores.push(vec![score, score * 0.5, 1.0 - score]);
        trials.schedules.push(ranks);
    }
    let model = ModelKind::from_name(name).unwrap().build();
    bencher.bench_local(|| model.fit(&space, &trials, 0).unwrap());
}
