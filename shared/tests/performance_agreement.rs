//! The performance models propose and predict the same natively and in the browser, to the bit: this file runs as both, against
//! one table.
//!
//! In the browser's target, on Node: `CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=wasm-bindgen-test-runner cargo test
//! --target wasm32-unknown-unknown -p hydra-shared --no-default-features --features performance --test
//! performance_agreement`.

#![cfg(feature = "performance")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test may fail loudly, as tests may")]

#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use hydra_shared::gradients::{GradientProfile, ModuleNorm};
use hydra_shared::layout::{Layout, Ranks};
use hydra_shared::performance::ModelKind;
use hydra_shared::schedule::{Budget, Counting, InputFile};
use hydra_shared::search::{
    Acquisition, Origin, Outcome, Search, SearchConfig, Start, Step, Study, StudyMetadata, SyntheticConfig,
    SyntheticSurface,
};
use hydra_shared::vlm::spec::ModelSpec;

/// Largest difference of a predicted score from those that were predicted before, in percent points of scores between 40 and
/// 80: those of the Transformer by Burn, those of the others by other factors of matrices.
const TOLERANCE: f64 = 1e-3;

/// What one search came to.
#[derive(Debug)]
struct Found {
    /// SHA-256 of every trial's ranks.
    ranks: String,
    /// Predicted mean and standard deviation of every proposal.
    predicted: Vec<[f64; 2]>,
    /// Leave-one-out error of every proposal's fit.
    held_out: Vec<f64>,
}

/// A profile of exact operations alone: a rise with depth and noise from a linear congruential generator.
fn profile(layout: &Layout) -> GradientProfile {
    let mut state = 42_u64;
    let modules = layout.modules().iter().map(|module| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = (state >> 11) as f64 / (1_u64 << 53) as f64;
        ModuleNorm {
            mean: 0.005 + 0.002 * module.layer.unwrap() as f64 + 0.03 * random,
            standard_error: 0.0,
            steps: 27,
        }
    });
    GradientProfile { modules: modules.collect(), ..GradientProfile::default() }
}

/// Eight starts and three proposals on a made-up response of a model with 24 layers.
fn search(model: ModelKind, acquisition: Acquisition) -> Found {
    let layout = ModelSpec::preset("mobilevlm-1.7b").unwrap().layout().unwrap();
    let profile = profile(&layout);
    let config = SyntheticConfig { seed: 5, ..Default::default() };
    let response = SyntheticSurface::new(&layout, 128, Some(&profile), config);
    let starts = vec![Start { name: "uniform".to_owned(), ranks: Ranks::uniform(&layout, 128) }];
    let study = Study::new(StudyMetadata {
        name: "agreement".to_owned(),
        budget: Budget::uniform(&layout, 128, Counting::Parameters),
        layout,
        rank_cap: None,
        base_rank: 128,
        benchmarks: SyntheticSurface::BENCHMARKS.map(str::to_owned).to_vec(),
        profile: Some(profile),
    });
    let config =
        SearchConfig { trials: 11, model, acquisition: acquisition.into(), seed: 3, ..SearchConfig::default() };
    let mut search = Search::new(config, study, starts).unwrap();
    while let Step::Run(proposal) = search.ask().unwrap() {
        let scores = response.measure(&proposal.trial.ranks);
        search.tell(proposal.trial.number, Outcome::Complete { scores, wall_seconds: None }).unwrap();
    }
    let trials = &search.study().trials;
    let proposals = trials.iter().filter_map(|trial| match &trial.origin {
        Origin::Proposed { predicted, held_out, .. } => Some(([predicted.mean, predicted.std], held_out.rmse)),
        _ => None,
    });
    let (predicted, held_out) = proposals.unzip();
    let ranks: Vec<&[u32]> = trials.iter().map(|trial| trial.ranks.as_slice()).collect();
    Found { ranks: InputFile::new("", format!("{ranks:?}").as_bytes()).sha256, predicted, held_out }
}

/// `digests` are those of the trials' ranks and of every predicted number's bits.
fn check(model: ModelKind, acquisition: Acquisition, digests: [&str; 2], predicted: [[f64; 2]; 3], held_out: [f64; 3]) {
    let found = search(model, acquisition);
    let values: Vec<f64> = found.predicted.iter().flatten().chain(&found.held_out).copied().collect();
    for (value, expected) in values.iter().zip(predicted.iter().flatten().chain(&held_out)) {
        assert!((value - expected).abs() < TOLERANCE, "computed on {}: {found:?}", std::env::consts::ARCH);
    }
    let bits: Vec<String> = values.iter().map(|value| format!("{:016x}", value.to_bits())).collect();
    let bits = InputFile::new("", bits.join(" ").as_bytes()).sha256;
    assert_eq!([&*found.ranks, &*bits], digests, "computed on {}: {found:?}", std::env::consts::ARCH);
}

// The figures were computed on x86-64. Change them only together with a model, the sampling or the response.

#[test]
fn the_transformer_proposes_and_predicts_the_same_everywhere() {
    check(
        ModelKind::Transformer,
        Acquisition::PredictedMean,
        [
            "5ebd4be56fb05e9cb42396596b49ee4ab3e6d136b6960b3f28518b7f70f33975",
            "a1c95109bd4a0a01d6726061f9a75ca6a61a7fefec8dde60300993c5bc181ee6",
        ],
        [[63.6831094, 1.2148069], [62.0293439, 0.2684885], [61.7623591, 0.1078988]],
        [2.4999309, 2.8817985, 2.2895157],
    );
}

#[test]
fn ridge_proposes_and_predicts_the_same_everywhere() {
    check(
        ModelKind::Ridge,
        Acquisition::PredictedMean,
        [
            "c9ef196009a65ff63263960d407b3bac9e56c4fec22918b2156690880cea3bcf",
            "9a7aacf5a870511ef90c146133a72bcdcfa2568663e3cdf7667233ce64e94efe",
        ],
        [[63.0640071, 1.5013505], [62.2745955, 0.7158980], [62.3508528, 0.9812367]],
        [1.2219662, 1.5265055, 1.4461802],
    );
}

#[test]
fn the_gaussian_process_proposes_and_predicts_the_same_everywhere() {
    check(
        ModelKind::GaussianProcess,
        Acquisition::ExpectedImprovement,
        [
            "57a463d5be6d4dc38a833c586ec632c604c17c34b159fc8de201a618d9571c6a",
            "f99c4d1bf50237b00138943cb71da79b7f68b24625154d21c64a9a95aa3ffeff",
        ],
        [[61.6861320, 1.3085365], [61.3508407, 1.2081294], [61.6337370, 0.6752854]],
        [1.5917511, 1.4992447, 1.4559094],
    );
}
