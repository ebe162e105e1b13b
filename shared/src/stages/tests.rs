#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;

/// Norms of 24 layers that grow from 0.5 to 4.5 until layer `last` (counted from 1) and stay there, in equal steps or
/// equal factors.
fn published_end_points(last: usize, geometric: bool) -> Vec<f64> {
    (0..24)
        .map(|layer: usize| {
            let part = layer.min(last - 1) as f64 / (last - 1) as f64;
            if geometric { 0.5 * libm::pow(9.0, part) } else { 0.5 + 4.0 * part }
        })
        .collect()
}

fn sizes(norms: &[f64], count: usize) -> Vec<usize> {
    cluster_layers(norms, &StageConfig { count, ..StageConfig::default() }).unwrap().sizes()
}

#[test]
fn a_linear_profile_splits_into_equal_stages() {
    let norms = published_end_points(24, false);
    assert_eq!(sizes(&norms, 3), [8, 8, 8]);
    assert_eq!(sizes(&norms, 4), [6, 6, 6, 6]);
}

#[test]
fn a_profile_linear_to_layer_21_and_then_flat_splits_as_computed_by_hand() {
    let norms = published_end_points(21, false);
    assert_eq!(sizes(&norms, 3), [7, 8, 9]);
    assert_eq!(sizes(&norms, 4), [5, 6, 6, 7]);
}

#[test]
fn a_profile_geometric_to_layer_21_and_then_flat_splits_12_6_6() {
    let norms = published_end_points(21, true);
    assert_eq!(sizes(&norms, 3), [12, 6, 6]);
    assert_eq!(sizes(&norms, 4), [9, 6, 4, 5]);
    assert_eq!(sizes(&norms, 7), [6, 4, 3, 3, 2, 2, 4]);
}

#[test]
fn k_means_finds_the_exact_partition_of_the_published_profiles_for_up_to_seven_stages() {
    for norms in [published_end_points(24, false), published_end_points(21, false), published_end_points(21, true)] {
        for count in 1..=7 {
            let squares = |contiguous| {
                let config = StageConfig { count, contiguous, ..StageConfig::default() };
                let stages = cluster_layers(&norms, &config).unwrap();
                stages
                    .stages
                    .iter()
                    .flat_map(|s| s.layers.iter().map(|&l| (norms[l] - s.norm).powi(2)).collect::<Vec<_>>())
                    .sum::<f64>()
            };
            // These profiles never fall, so the contiguous optimum is the K-means optimum.
            assert!(squares(false) <= squares(true) * (1.0 + 1e-9) + 1e-12, "{count} stages");
        }
    }
}

#[test]
fn stages_stand_in_ascending_order_of_norm_and_know_their_layers() {
    let norms = [0.9, 0.1, 0.5, 0.11, 0.52, 0.95];
    let stages = cluster_layers(&norms, &StageConfig::default()).unwrap();
    let layers: Vec<_> = stages.stages.iter().map(|s| s.layers.clone()).collect();
    assert_eq!(layers, [vec![1, 3], vec![2, 4], vec![0, 5]]);
    assert_eq!(stages.by_layer(), [2, 0, 1, 0, 1, 2]);
    assert_eq!(stages.stage_of(4), Some(1));
    assert_eq!(stages.stage_of(6), None);
    assert!((stages.stages[2].norm - 0.925).abs() < 1e-15);
    assert_eq!(stages.shortfall(), None);
}

#[test]
fn fewer_different_norms_than_stages_give_fewer_stages_and_say_so() {
    let stages = cluster_layers(&[2.0, 1.0, 2.0, 1.0], &StageConfig::default()).unwrap();
    assert_eq!(stages.sizes(), [2, 2]);
    assert_eq!((stages.len(), stages.requested), (2, 3));
    assert!(stages.shortfall().unwrap().contains("only 2 different"));
}

#[test]
fn equal_norms_one_layer_and_one_stage_each_give_one_stage() {
    for (norms, count) in [(vec![0.1; 7], 3), (vec![0.7], 3), (vec![0.3, 0.2, 0.9], 1), (vec![0.0; 4], 2)] {
        let stages = cluster_layers(&norms, &StageConfig { count, ..StageConfig::default() }).unwrap();
        assert_eq!(stages.sizes(), [norms.len()]);
        let contiguous = StageConfig { count, contiguous: true, ..StageConfig::default() };
        assert_eq!(cluster_layers(&norms, &contiguous).unwrap().stages, stages.stages);
    }
}

#[test]
fn as_many_stages_as_layers_put_each_layer_into_its_own() {
    let stages = cluster_layers(&[0.3, 0.1, 0.2], &StageConfig::default()).unwrap();
    assert_eq!(stages.by_layer(), [2, 0, 1]);
}

#[test]
fn norms_that_are_no_norms_are_refused_with_their_layer() {
    for bad in [f64::NAN, f64::INFINITY, -0.1] {
        let error = cluster_layers(&[0.1, bad, 0.2], &StageConfig::default()).unwrap_err();
        assert!(error.to_string().starts_with("layer 1 has the gradient norm"), "{error}");
    }
    assert_eq!(cluster_layers(&[], &StageConfig::default()), Err(StageError::NoLayers));
    let none = StageConfig { count: 0, ..StageConfig::default() };
    assert_eq!(cluster_layers(&[1.0], &none), Err(StageError::NoStages));
    let no_runs = StageConfig { restarts: 0, ..StageConfig::default() };
    assert_eq!(cluster_layers(&[1.0], &no_runs), Err(StageError::NoRestarts));
}

#[test]
fn stages_do_not_depend_on_the_unit_of_the_norms() {
    let norms = published_end_points(21, true);
    for unit in [1e-300, 1e-8, 1e300] {
        let scaled: Vec<f64> = norms.iter().map(|n| n * unit).collect();
        assert_eq!(sizes(&scaled, 3), [12, 6, 6]);
    }
}

#[test]
fn contiguous_stages_are_runs_of_layers_where_k_means_would_mix_depths() {
    // Both ends high, as in the measured profile of SmolLM2.
    let norms = [0.12, 0.11, 0.06, 0.05, 0.05, 0.04, 0.09, 0.10];
    let mixed = cluster_layers(&norms, &StageConfig { count: 2, ..StageConfig::default() }).unwrap();
    assert_eq!(mixed.stages[1].layers, [0, 1, 6, 7]);
    let runs = cluster_layers(&norms, &StageConfig { count: 3, contiguous: true, ..StageConfig::default() }).unwrap();
    let layers: Vec<_> = runs.stages.iter().map(|s| s.layers.clone()).collect();
    assert_eq!(layers, [vec![2, 3, 4, 5], vec![6, 7], vec![0, 1]]);
}

#[test]
fn contiguous_stages_have_the_least_squares_of_all_contiguous_partitions() {
    let norms = [0.31, 0.92, 0.11, 0.45, 0.45, 0.80, 0.05, 0.77, 0.60];
    let squares = |part: &[f64]| {
        let mean = part.iter().sum::<f64>() / part.len() as f64;
        part.iter().map(|n| (n - mean).powi(2)).sum::<f64>()
    };
    let mut least = f64::INFINITY;
    for a in 1..norms.len() - 1 {
        for b in a + 1..norms.len() {
            least = least.min(squares(&norms[..a]) + squares(&norms[a..b]) + squares(&norms[b..]));
        }
    }
    let stages = cluster_layers(&norms, &StageConfig { contiguous: true, ..StageConfig::default() }).unwrap();
    let found: f64 =
        stages.stages.iter().map(|s| squares(&s.layers.iter().map(|&l| norms[l]).collect::<Vec<_>>())).sum();
    assert!((found - least).abs() < 1e-12);
    assert!(stages.stages.iter().all(|s| s.layers.windows(2).all(|w| w[1] == w[0] + 1)));
}

#[test]
fn stages_given_by_hand_are_kept_in_the_order_given() {
    let stages = Stages::by_hand(&[vec![2, 0], vec![1]], &[0.9, 0.1, 0.7]).unwrap();
    assert_eq!(stages.stages[0].layers, [0, 2]);
    assert_eq!(stages.by_layer(), [0, 1, 0]);
}

#[test]
fn stages_given_by_hand_must_hold_every_layer_once() {
    let norms = [0.1, 0.2, 0.3];
    let error = |layers: &[Vec<usize>]| Stages::by_hand(layers, &norms).unwrap_err();
    assert_eq!(error(&[vec![0, 1], vec![1, 2]]), StageError::Twice { layer: 1 });
    assert_eq!(error(&[vec![0], vec![2]]), StageError::LeftOut { layers: vec![1] });
    assert_eq!(error(&[vec![0, 1, 2], vec![]]), StageError::EmptyStage { stage: 1 });
    assert_eq!(error(&[vec![0, 1, 3]]).to_string(), "stage 0 names layer 3, but the model's layers are 0 to 2");
}

#[test]
fn the_elbow_never_rises_and_the_silhouette_peaks_at_the_true_number_of_groups() {
    let mut norms = Vec::new();
    for centre in [1.0, 5.0, 9.0] {
        norms.extend([centre - 0.1, centre, centre + 0.12, centre + 0.2]);
    }
    let qualities = stage_quality(&norms, 6, 0).unwrap();
    assert_eq!(qualities.iter().map(|q| q.count).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert!(qualities.windows(2).all(|w| w[1].within_squares <= w[0].within_squares));
    assert_eq!(qualities[0].silhouette, None);
    let best = qualities.iter().max_by(|a, b| a.silhouette.partial_cmp(&b.silhouette).unwrap()).unwrap();
    assert_eq!(best.count, 3);
}

#[test]
fn quality_stops_at_the_number_of_different_norms_and_refuses_what_clustering_refuses() {
    assert_eq!(stage_quality(&[1.0, 1.0, 2.0], 5, 0).unwrap().len(), 2);
    assert_eq!(stage_quality(&[], 5, 0), Err(StageError::NoLayers));
    assert_eq!(stage_quality(&[1.0], 0, 0), Err(StageError::NoStages));
}

#[cfg(not(target_family = "wasm"))]
mod properties {
    use proptest::prelude::*;

    use super::*;

    fn norms_and_permutation() -> impl Strategy<Value = (Vec<f64>, Vec<usize>)> {
        // A coarse grid makes equal norms likely.
        proptest::collection::vec((0_u32..40).prop_map(|n| f64::from(n) / 40.0), 1..40).prop_flat_map(|norms| {
            let order: Vec<usize> = (0..norms.len()).collect();
            (Just(norms), Just(order).prop_shuffle())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn permuting_the_layers_permutes_the_stages((norms, order) in norms_and_permutation(), count in 1_usize..7) {
            let config = StageConfig { count, ..StageConfig::default() };
            let stages = cluster_layers(&norms, &config).unwrap();
            let permuted: Vec<f64> = order.iter().map(|&layer| norms[layer]).collect();
            let after = cluster_layers(&permuted, &config).unwrap();
            let by_layer = stages.by_layer();
            prop_assert_eq!(after.by_layer(), order.iter().map(|&layer| by_layer[layer]).collect::<Vec<_>>());
            let means = |s: &Stages| s.stages.iter().map(|s| s.norm.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(means(&after), means(&stages));
        }

        #[test]
        fn every_layer_is_in_one_stage_and_stages_never_overlap(
            (norms, _) in norms_and_permutation(), count in 1_usize..7, contiguous: bool,
        ) {
            let stages = cluster_layers(&norms, &StageConfig { count, contiguous, ..StageConfig::default() }).unwrap();
            let mut layers: Vec<usize> = stages.stages.iter().flat_map(|s| s.layers.clone()).collect();
            layers.sort_unstable();
            prop_assert_eq!(layers, (0..norms.len()).collect::<Vec<_>>());
            prop_assert!(stages.len() <= count);
            prop_assert!(stages.stages.windows(2).all(|w| w[0].norm <= w[1].norm));
            if !contiguous {
                let value = |layers: &[usize]| layers.iter().map(|&l| norms[l]).collect::<Vec<_>>();
                for pair in stages.stages.windows(2) {
                    let low = value(&pair[0].layers).into_iter().fold(0.0, f64::max);
                    let high = value(&pair[1].layers).into_iter().fold(f64::INFINITY, f64::min);
                    prop_assert!(low < high);
                }
            }
        }
    }
}
