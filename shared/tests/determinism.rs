//! The same input gives the same bytes natively and in the browser: this file runs as both, against one table of digests.
//!
//! In the browser's target, on Node: `CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=wasm-bindgen-test-runner cargo test
//! --target wasm32-unknown-unknown -p hydra-shared --no-default-features --test determinism`.

#![allow(clippy::unwrap_used, reason = "helpers of a test may fail loudly, as tests may")]

#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use hydra_shared::adapter::{LoraConfig, PeftOptions, python_snippet};
use hydra_shared::gradients::{GradientProfile, LayerNorm, ModuleNorm, Signal};
use hydra_shared::layout::{Layout, ModuleShape};
use hydra_shared::schedule::{
    Baseline, BudgetUse, Counting, InputFile, PlanConfig, Provenance, RankSchedule, ScalePolicy, StageChoice,
    StageRanks, plan,
};
use hydra_shared::stages::{StageConfig, cluster_layers, stage_quality};
use hydra_shared::vlm::spec::ModelSpec;
use indexmap::IndexMap;
use serde::Serialize;

/// A profile whose norms are computed with exact operations alone: a rise with depth, a factor per projection, and noise
/// from a linear congruential generator.
fn profile(layout: &Layout, rise: f64, noise: f64) -> GradientProfile {
    const FACTORS: [f64; 7] = [0.63, 0.64, 1.21, 0.9, 1.05, 1.67, 1.1];
    let mut state = 42_u64;
    let modules = layout.modules().iter().map(|module| {
        let (layer, projection) = (module.layer.unwrap(), module.kind.projection().unwrap());
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = (state >> 11) as f64 / (1_u64 << 53) as f64;
        let mean = (0.005 + rise * layer as f64) * FACTORS[projection.index()] * (1.0 + noise * random);
        ModuleNorm { mean, standard_error: 0.0, steps: 27 }
    });
    GradientProfile { signal: Signal::L2, modules: modules.collect(), ..GradientProfile::default() }
}

/// A schedule's file as version 1 wrote it.
#[derive(Serialize)]
struct Version1<'a> {
    hydra_schedule: u32,
    model: ModelOfVersion1<'a>,
    base_rank: u32,
    scale: ScalePolicy,
    budget: BudgetUse,
    ranks: IndexMap<&'a str, u32>,
    provenance: &'a Provenance,
}

#[derive(Serialize)]
struct ModelOfVersion1<'a> {
    name: &'a str,
    layers_path: &'a str,
    layers: usize,
    shapes: IndexMap<&'a str, ModuleShape>,
}

fn version_1(schedule: &RankSchedule) -> String {
    let layout = schedule.layout();
    let first = layout.modules().iter().filter(|module| module.layer == Some(0));
    let text = Version1 {
        hydra_schedule: 1,
        model: ModelOfVersion1 {
            name: layout.model(),
            layers_path: layout.layers_path().unwrap(),
            layers: layout.blocks().len(),
            shapes: first.map(|module| (module.kind.name(), module.shape())).collect(),
        },
        base_rank: schedule.base_rank,
        scale: schedule.scale,
        budget: schedule.budget,
        ranks: schedule.ranks.iter().map(|(module, rank)| (module.name.as_str(), rank)).collect(),
        provenance: &schedule.provenance,
    };
    serde_json::to_string_pretty(&text).unwrap() + "\n"
}

/// Digests of everything that is computed from one profile under one configuration, with the schedule's file in version 1,
/// and of its file in version 2.
fn digest(preset: &str, rise: f64, noise: f64, config: &PlanConfig) -> [String; 2] {
    let model = ModelSpec::preset(preset).unwrap().layout().unwrap();
    let profile = profile(&model, rise, noise);
    let mut bytes = serde_json::to_string(&profile).unwrap();

    let norms = profile.layer_norms(&model, config.layer_norm);
    bytes += &serde_json::to_string(&cluster_layers(&norms, &StageConfig::default()).unwrap()).unwrap();
    bytes += &serde_json::to_string(&stage_quality(&norms, 9, 5).unwrap()).unwrap();

    let plan = plan(&model, &profile, config).unwrap();
    bytes += &serde_json::to_string(&plan).unwrap();
    let provenance = Provenance {
        command: "trainer plan".to_owned(),
        inputs: vec![InputFile::new("log.jsonl", bytes.as_bytes())],
        seed: Some(1),
    };
    let schedule =
        RankSchedule::new(plan.ranks.clone(), config.base_rank, config.scale, plan.budget, provenance).unwrap();
    let old = version_1(&schedule);
    let read = RankSchedule::from_json(&old).unwrap();
    assert_eq!((&read.ranks, &read.provenance), (&schedule.ranks, &schedule.provenance));
    bytes += &old;
    bytes += &LoraConfig::new(&schedule, &PeftOptions::default()).to_json().unwrap();
    bytes += &python_snippet(&schedule, &PeftOptions::default());
    for baseline in Baseline::ALL {
        let ranks = baseline.ranks(&model, &profile, config.base_rank, config.bounds(), 11).unwrap();
        bytes += &serde_json::to_string(&ranks).unwrap();
    }
    let hash = |text: &str| InputFile::new("", text.as_bytes()).sha256;
    [hash(&bytes), hash(&schedule.to_json().unwrap())]
}

fn clustered(count: usize, contiguous: bool) -> StageChoice {
    StageChoice::Clustered(StageConfig { count, contiguous, seed: 3, ..StageConfig::default() })
}

#[test]
fn stages_plans_schedules_and_adapter_configurations_have_the_committed_bytes() {
    let default = PlanConfig::default();
    let cases = [
        ("mobilevlm-1.7b", 0.0018, 0.0, default.clone()),
        ("mobilevlm-1.7b", 0.0018, 0.5, PlanConfig { stages: clustered(5, true), delta: 4, ..default.clone() }),
        (
            "mobilevlm-3b",
            0.0011,
            0.9,
            PlanConfig {
                stages: clustered(7, false),
                stage_ranks: StageRanks::Ratio(1.3),
                layer_norm: LayerNorm::RootSumSquares,
                scale: ScalePolicy::RsLora { alpha: 256.0 },
                ..default.clone()
            },
        ),
        (
            "smollm2-135m",
            0.0,
            3.0,
            PlanConfig { base_rank: 16, budget: Some(3_333_333), cap: Some(40), ..default.clone() },
        ),
        ("tiny-mobilevlm", 0.003, 0.2, PlanConfig { base_rank: 8, counting: Counting::RankUnits, delta: 1, ..default }),
    ];
    let digests = cases.map(|(preset, rise, noise, config)| digest(preset, rise, noise, &config));
    assert_eq!(digests, COMMITTED, "computed on {}", std::env::consts::ARCH);
}

/// Change these only together with a change of the method or of a file format.
const COMMITTED: [[&str; 2]; 5] = [
    [
        "efe4daf65af32a77313e9a7b778b96f78c68944b20b0c73623ff8888b9204120",
        "3ab80dfd5a9716c98b8949be8f173da7ca0a5dc095d78450f06b403eefc46318",
    ],
    [
        "8c405bbc018b1b6b82e644c90a3d836427c7c63bb1328bb8522fdc4a8d175b13",
        "1c7d7fc41f386fd7b3644f67433284a2b11c02a55b36f038a4b0fdb065182b40",
    ],
    [
        "7922d60d70251fad4c597ead1c6e442bc02d496a32fcb36ea946836945cfd9e4",
        "97d90117cc7c7492229b0728115ba64c8e7da0302d28d11e151b24dede1bcf77",
    ],
    [
        "87a7df2a79737cca251a2cb2b0262291b9bfd150d2fe521dd92ba172c5881cd1",
        "01ff500dfaebd55c33e048aafe99f054e7b4ce3ca525139556829f6bdb9abcef",
    ],
    [
        "2f8d684c8dc3f91a3c22df065e5d9465a6c832a3d96cf55dd68f041e1dcd29f6",
        "cd1649074db1c910912a14046d425ca05b5b4bc23c849caec7e6ba5f5f1a684b",
    ],
];
