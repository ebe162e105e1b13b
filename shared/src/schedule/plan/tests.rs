#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::gradients::{ModuleNorm, Signal};
use crate::layout::ModuleId;
use crate::vlm::spec::ModelSpec;

pub(super) fn profile(modules: &[f64]) -> GradientProfile {
    let modules = modules.iter().map(|&mean| ModuleNorm { mean, standard_error: 0.0, steps: 1 }).collect();
    GradientProfile { signal: Signal::L2, modules, ..GradientProfile::default() }
}

/// A profile whose projections all have their layer's norm.
fn flat(layers: &[f64]) -> GradientProfile {
    profile(&layers.iter().flat_map(|&norm| [norm; 7]).collect::<Vec<_>>())
}

fn model(name: &str) -> Arc<Layout> {
    ModelSpec::preset(name).unwrap().layout().unwrap()
}

/// 24 layers that K-means splits 12/6/6.
fn twelve_six_six() -> Vec<f64> {
    (0..24)
        .map(|layer| {
            if layer < 12 {
                0.5
            } else if layer < 18 {
                1.5
            } else {
                4.0
            }
        })
        .collect()
}

fn q_k_up(delta: u32) -> PlanConfig {
    use Sign::{Keep, Lower, Raise};
    PlanConfig { delta, signs: Some([Lower, Lower, Keep, Keep, Keep, Raise, Keep]), ..PlanConfig::default() }
}

fn rank(plan: &Plan, layer: usize, projection: Projection) -> u32 {
    plan.ranks.as_slice()[ModuleId { layer, projection }.index()]
}

#[test]
fn stages_of_12_6_6_layers_get_64_128_256_and_meet_the_budget_to_the_unit() {
    for stage_ranks in [StageRanks::Ratio(2.0), StageRanks::ByHand(vec![64, 128, 256])] {
        let config = PlanConfig { stage_ranks, delta: 0, ..PlanConfig::default() };
        let plan = plan(&model("mobilevlm-1.7b"), &flat(&twelve_six_six()), &config).unwrap();
        assert_eq!(
            plan.stages.iter().map(|s| (s.layers.len(), s.rank)).collect::<Vec<_>>(),
            [(12, 64), (6, 128), (6, 256)]
        );
        assert_eq!((plan.budget.allowed, plan.used), (121_110_528, 121_110_528));
        for layer in 0..24 {
            let expected = if layer < 12 {
                64
            } else if layer < 18 {
                128
            } else {
                256
            };
            assert!(Projection::ALL.into_iter().all(|p| rank(&plan, layer, p) == expected));
        }
    }
}

#[test]
fn lowering_q_and_k_and_raising_up_frees_the_published_parameters_before_the_fill_up() {
    for (name, freed) in [("mobilevlm-1.7b", 12_288), ("mobilevlm-3b", 24_576)] {
        let model = model(name);
        for delta in [0_u32, 1, 2, 4] {
            let layers = vec![1.0; model.blocks().len()];
            let plan = plan(&model, &flat(&layers), &q_k_up(delta)).unwrap();
            let before: f64 = model.modules().iter().zip(&plan.fine).map(|(m, r)| r * m.rank_unit_cost() as f64).sum();
            assert_eq!(plan.budget.allowed as f64 - before, f64::from(freed * delta), "{name} Δ = {delta}");
        }
    }
}

#[test]
fn delta_two_frees_the_published_share_of_the_budget() {
    for (name, share) in [("mobilevlm-1.7b", "0.0203"), ("mobilevlm-3b", "0.0245")] {
        let model = model(name);
        let plan = plan(&model, &flat(&vec![1.0; model.blocks().len()]), &q_k_up(2)).unwrap();
        let before: f64 = model.modules().iter().zip(&plan.fine).map(|(m, r)| r * m.rank_unit_cost() as f64).sum();
        let freed = 100.0 * (plan.budget.allowed as f64 - before) / plan.budget.allowed as f64;
        assert_eq!(format!("{freed:.4}"), share);
    }
}

#[test]
fn what_the_fine_step_frees_is_given_back_in_single_units() {
    let model = model("mobilevlm-1.7b");
    let plan = plan(&model, &flat(&twelve_six_six()), &q_k_up(2)).unwrap();
    let attention = model.modules()[0].rank_unit_cost();
    assert!(plan.budget.allowed - plan.used < attention);
    // 24,576 parameters are six attention units: no module moves by more than one.
    let moved: u32 = plan
        .ranks
        .as_slice()
        .iter()
        .zip(&plan.fine)
        .map(|(&rank, &fine)| {
            let given = rank - fine as u32;
            assert!(given <= 1);
            given
        })
        .sum();
    assert!((3..=6).contains(&moved), "{moved}");
}

#[test]
fn the_fine_step_follows_each_layers_own_norms() {
    let model = model("tiny-mobilevlm");
    // q, k, v, o, gate, up, down; the second layer the other way round.
    let high_up = [0.63, 0.64, 1.0, 1.0, 1.0, 1.67, 1.06];
    let mut modules = Vec::new();
    for layer in 0..6 {
        let mut norms = high_up;
        if layer == 1 {
            norms.reverse();
        }
        modules.extend(norms);
    }
    let plan = plan(&model, &profile(&modules), &PlanConfig { base_rank: 8, ..PlanConfig::default() }).unwrap();
    use Sign::{Keep, Lower, Raise};
    assert_eq!(plan.signs[..7], [Lower, Lower, Keep, Keep, Keep, Raise, Raise]);
    assert_eq!(plan.signs[7..14], [Raise, Raise, Keep, Keep, Keep, Lower, Lower]);
    assert_eq!(plan.fine[0], plan.coarse[0] - 2.0);
    assert_eq!(plan.fine[5], plan.coarse[0] + 2.0);
}

#[test]
fn without_increment_the_fine_step_changes_nothing() {
    let model = model("mobilevlm-1.7b");
    let config = PlanConfig::default();
    let coarse = plan(&model, &flat(&twelve_six_six()), &config.coarse_only()).unwrap();
    assert_eq!(coarse.fine, per_module(&model, &coarse.coarse));
}

#[test]
fn hand_given_ranks_that_miss_the_budget_keep_their_ratios() {
    let config = PlanConfig { stage_ranks: StageRanks::ByHand(vec![8, 16, 32]), delta: 0, ..PlanConfig::default() };
    let plan = plan(&model("mobilevlm-1.7b"), &flat(&twelve_six_six()), &config).unwrap();
    assert_eq!(plan.stages.iter().map(|s| s.rank).collect::<Vec<_>>(), [64, 128, 256]);
}

#[test]
fn a_budget_in_parameters_replaces_that_of_the_base_rank() {
    let model = model("mobilevlm-1.7b");
    let config = PlanConfig { budget: Some(1_000_000), delta: 0, ..PlanConfig::default() };
    let plan = plan(&model, &flat(&twelve_six_six()), &config).unwrap();
    assert_eq!(plan.budget.allowed, 1_000_000);
    assert!(plan.used <= 1_000_000 && plan.used > 1_000_000 - 4_096);
}

#[test]
fn a_budget_beyond_all_caps_brings_every_module_and_stage_to_its_cap() {
    let model = model("mobilevlm-1.7b");
    let config = PlanConfig { budget: Some(u64::MAX), cap: Some(300), ..PlanConfig::default() };
    let plan = plan(&model, &flat(&twelve_six_six()), &config).unwrap();
    assert_eq!(plan.ranks, Ranks::uniform(&model, 300));
    assert!(plan.stages.iter().all(|stage| stage.rank == 300));
}

#[test]
fn counting_rank_units_holds_their_sum() {
    let model = model("mobilevlm-1.7b");
    let mut modules = Vec::new();
    for layer in 0..24 {
        modules.extend([1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0].map(|n| n * f64::from(layer + 1)));
    }
    let config = PlanConfig { counting: Counting::RankUnits, ..PlanConfig::default() };
    let plan = plan(&model, &profile(&modules), &config).unwrap();
    assert_eq!(plan.ranks.units(), 128 * 168);
    assert_eq!(plan.used, 128 * 168);
    assert!(plan.trainable_parameters > model.lora_parameters(128), "more rank in the MLP costs more parameters");
}

#[test]
fn too_small_a_budget_names_the_least_possible_one() {
    let config = PlanConfig { budget: Some(946_175), ..PlanConfig::default() };
    let error = plan(&model("mobilevlm-1.7b"), &flat(&[1.0; 24]), &config).unwrap_err();
    assert!(error.to_string().contains("at least 946176"), "{error}");
}

#[test]
fn another_models_profile_is_refused() {
    let error = plan(&model("mobilevlm-3b"), &flat(&[1.0; 24]), &PlanConfig::default()).unwrap_err();
    assert!(error.to_string().starts_with("the gradient profile holds 168 modules, but mobilevlm-3b has 224"));
}

#[test]
fn broken_norms_are_named_by_module() {
    let mut modules = vec![1.0; 42];
    modules[9] = f64::NAN;
    let error = plan(&model("tiny-mobilevlm"), &profile(&modules), &PlanConfig::default()).unwrap_err();
    assert!(error.to_string().starts_with("the gradient norm of model.layers.1.self_attn.v_proj is NaN"));
}

#[test]
fn fewer_stages_than_hand_given_ranks_say_why() {
    let config = PlanConfig { stage_ranks: StageRanks::ByHand(vec![64, 128, 256]), ..PlanConfig::default() };
    let error = plan(&model("mobilevlm-1.7b"), &flat(&[1.0; 24]), &config).unwrap_err();
    assert!(error.to_string().contains("3 stage ranks were given for 1 stage(s)"), "{error}");
    assert!(error.to_string().contains("only 1 different"), "{error}");
}

#[test]
fn base_rank_zero_is_refused() {
    let config = PlanConfig { base_rank: 0, ..PlanConfig::default() };
    assert_eq!(plan(&model("mobilevlm-1.7b"), &flat(&[1.0; 24]), &config), Err(PlanError::BaseRank));
}

#[test]
fn all_zero_norms_give_uniform_lora() {
    let model = model("mobilevlm-1.7b");
    let plan = plan(&model, &flat(&[0.0; 24]), &PlanConfig::default()).unwrap();
    assert_eq!(plan.ranks, Ranks::uniform(&model, 128));
}

#[test]
fn grouped_query_attention_caps_k_and_v_and_the_rest_takes_what_they_leave() {
    let model = model("smollm2-135m");
    let norms: Vec<f64> = (0..30).map(|layer| f64::from(1 + layer % 7)).collect();
    let config = PlanConfig { base_rank: 180, delta: 0, ..PlanConfig::default() };
    let plan = plan(&model, &flat(&norms), &config).unwrap();
    assert!(plan.ranks.fit_their_modules(None));
    let cost = |projection: Projection| model.modules()[projection.index()].rank_unit_cost();
    assert!(plan.budget.allowed - plan.used < cost(Projection::Up).max(cost(Projection::K)));
}

#[cfg(not(target_family = "wasm"))]
mod properties {
    use proptest::prelude::*;

    use super::*;
    use crate::vlm::spec::DecoderSpec;

    fn any_model() -> impl Strategy<Value = Arc<Layout>> {
        (1_usize..12, 1_usize..5, 0_usize..3, 1_usize..9, 1_usize..80).prop_map(
            |(layers, kv_heads, groups, head_dim, intermediate)| {
                let tiny = ModelSpec::preset("tiny-mobilevlm").unwrap();
                let heads = kv_heads << groups;
                let decoder =
                    DecoderSpec { layers, heads, kv_heads, head_dim, hidden: heads * 4, intermediate, ..tiny.decoder };
                ModelSpec { decoder, ..tiny }.layout().unwrap()
            },
        )
    }

    fn any_case() -> impl Strategy<Value = (Arc<Layout>, Vec<f64>, PlanConfig)> {
        any_model().prop_flat_map(|model| {
            let modules = model.len();
            let norms = prop_oneof![
                proptest::collection::vec(0.0..3.0_f64, modules),
                proptest::collection::vec((0_u32..4).prop_map(f64::from), modules),
            ];
            let config = (
                1_u32..12,
                (1_usize..6, any::<bool>()),
                prop_oneof![Just(1.0), Just(2.0), Just(5.0), 1.0..4.0_f64],
                0_u32..6,
                any::<bool>(),
                proptest::option::of(1_u32..40),
            )
                .prop_map(|(base_rank, (count, contiguous), ratio, delta, units, cap)| PlanConfig {
                    base_rank,
                    stages: StageChoice::Clustered(StageConfig { count, contiguous, ..StageConfig::default() }),
                    stage_ranks: StageRanks::Ratio(ratio),
                    delta,
                    counting: if units { Counting::RankUnits } else { Counting::Parameters },
                    cap,
                    ..PlanConfig::default()
                });
            (Just(model), norms, config)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a_plan_keeps_its_budget_and_no_unit_more_would_fit((model, norms, config) in any_case()) {
            let plan = plan(&model, &profile(&norms), &config).unwrap();
            prop_assert_eq!(plan.used, plan.budget.used(&plan.ranks));
            prop_assert!(plan.used <= plan.budget.allowed);
            for (module, rank) in plan.ranks.iter() {
                let full = module.d_in.min(module.d_out) as u32;
                let cap = config.cap.map_or(full, |cap| cap.min(full));
                prop_assert!(rank >= 1 && rank <= cap);
                let unit = plan.budget.unit_cost(module);
                prop_assert!(rank == cap || plan.used + unit > plan.budget.allowed);
            }
        }

        #[test]
        fn a_higher_stage_never_gets_a_lower_coarse_rank((model, norms, config) in any_case()) {
            let plan = plan(&model, &profile(&norms), &config).unwrap();
            for pair in plan.stages.windows(2) {
                prop_assert!(pair[0].norm <= pair[1].norm);
                prop_assert!(pair[0].target <= pair[1].target && pair[0].rank <= pair[1].rank);
            }
        }

        #[test]
        fn without_the_fine_step_a_higher_stage_never_gets_a_lower_final_rank((model, norms, config) in any_case()) {
            let plan = plan(&model, &profile(&norms), &config.coarse_only()).unwrap();
            for pair in plan.stages.windows(2).filter(|pair| pair[0].target < pair[1].target) {
                for projection in Projection::ALL {
                    let low = pair[0].layers.iter().map(|&l| rank(&plan, l, projection)).max();
                    let high = pair[1].layers.iter().map(|&l| rank(&plan, l, projection)).min();
                    prop_assert!(low <= high);
                }
            }
        }

        #[test]
        fn permuting_the_layers_permutes_the_ranks(
            (model, norms, mut config) in any_case(),
            shuffle in any::<u64>(),
        ) {
            // Contiguous stages depend on depth by definition; equal norms are served in order of depth.
            if let StageChoice::Clustered(stages) = &mut config.stages {
                stages.contiguous = false;
            }
            let norms: Vec<f64> = norms.iter().enumerate().map(|(i, n)| n + i as f64 * 1e-6).collect();
            let mut order: Vec<usize> = (0..model.blocks().len()).collect();
            order.sort_by_key(|&layer| (layer as u64 + 1).wrapping_mul(shuffle | 1) >> 7);
            let permuted: Vec<f64> = order.iter().flat_map(|&l| norms[l * 7..l * 7 + 7].to_vec()).collect();
            let before = plan(&model, &profile(&norms), &config).unwrap();
            let after = plan(&model, &profile(&permuted), &config).unwrap();
            let expected: Vec<u32> = order.iter().flat_map(|&l| before.ranks.as_slice()[l * 7..l * 7 + 7].to_vec()).collect();
            prop_assert_eq!(after.ranks.as_slice(), expected);
        }

        #[test]
        fn the_same_input_gives_the_same_bytes((model, norms, config) in any_case()) {
            let bytes = || serde_json::to_string(&plan(&model, &profile(&norms), &config).unwrap()).unwrap();
            prop_assert_eq!(bytes(), bytes());
        }
    }
}
