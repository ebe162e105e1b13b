//! Profiles of small logs: warm-up, fit with the model, signals, NaN.

use super::*;
use std::sync::Arc;

use crate::layout::{Catalog, Layout, ModuleId, ModuleShape, Projection};
use crate::vlm::spec::ModelSpec;

fn tiny() -> Arc<Layout> {
    ModelSpec::preset("tiny-mobilevlm").unwrap().layout().unwrap()
}

fn modules(layers: usize) -> Vec<LoggedModule> {
    let ids = (0..layers).flat_map(|layer| Projection::ALL.map(|projection| ModuleId { layer, projection }));
    ids.map(|id| LoggedModule { id, path: format!("model.layers.{}.{}", id.layer, id.projection.path()) }).collect()
}

/// A log of the tiny model whose every module has the gradient that `of` gives for a step.
fn log(steps: impl IntoIterator<Item = u64>, of: impl Fn(u64) -> ModuleGradient) -> GradientLog {
    let modules = modules(6);
    let steps = steps
        .into_iter()
        .map(|step| LogStep { step, loss: None, gradients: vec![of(step); modules.len()], place: Place::default() })
        .collect();
    GradientLog { modules, steps, ..GradientLog::default() }
}

fn keep(log: &GradientLog, warm_up_share: f64) -> (u64, u64, usize) {
    let config = ProfileConfig { warm_up_share, ..ProfileConfig::default() };
    let steps = profile(log, &tiny(), &config).unwrap().steps;
    (steps.first, steps.last, steps.kept)
}

fn fresh(first: u64) -> impl Fn(u64) -> ModuleGradient {
    move |step| ModuleGradient::lora(if step == first { 0.0 } else { 3.0 }, 4.0)
}

#[test]
fn warm_up_drops_the_same_part_of_the_run_however_often_it_was_logged() {
    assert_eq!(keep(&log(1..=30, fresh(1)), 0.1), (4, 30, 27));
    assert_eq!(keep(&log((5..=30).step_by(5), fresh(1)), 0.1), (5, 30, 6));
    assert_eq!(keep(&log((5..=30).step_by(5), fresh(1)), 0.2), (10, 30, 5));
    assert_eq!(keep(&log(1..=30, fresh(1)), 0.2), (7, 30, 24));
}

#[test]
fn warm_up_counts_from_where_training_began() {
    // Counted from 0, and going on from the counter of an earlier run: three of thirty steps.
    assert_eq!(keep(&log(0..30, fresh(0)), 0.1), (3, 29, 27));
    assert_eq!(keep(&log(1001..=1030, fresh(1001)), 0.1), (1004, 1030, 27));
    // A log of a later part of a run, whose warm-up is over.
    assert_eq!(keep(&log(1001..=1030, |_| ModuleGradient::lora(3.0, 4.0)), 0.1), (1001, 1030, 30));
    assert_eq!(keep(&log(1001..=1030, |_| ModuleGradient::lora(3.0, 4.0)), 0.98), (1010, 1030, 21));
}

#[test]
fn the_share_is_exact_where_floating_point_is_not_and_the_last_step_always_stays() {
    assert_eq!(keep(&log(1..=100, fresh(1)), 0.29), (30, 100, 71));
    assert_eq!(keep(&log(1..=100, fresh(1)), 0.0), (1, 100, 100));
    assert_eq!(keep(&log(1..=3, fresh(1)), 0.999_999_999_999), (3, 3, 1));
    assert_eq!(keep(&log(0..=0, fresh(7)), 0.5), (0, 0, 1));
    for share in [1.0, -0.1, f64::NAN, 2.0] {
        let config = ProfileConfig { warm_up_share: share, ..ProfileConfig::default() };
        let error = profile(&log(1..=3, fresh(1)), &tiny(), &config).unwrap_err();
        assert!(matches!(error, ProfileError::WarmUpShare(_)));
    }
    let error = profile(&log([], fresh(1)), &tiny(), &ProfileConfig::default()).unwrap_err();
    assert_eq!(error, ProfileError::NoSteps);
}

#[test]
fn a_module_has_the_mean_and_standard_error_of_the_joint_norm() {
    let log = log(1..=2, |step| ModuleGradient::lora(3.0 * step as f64, 4.0 * step as f64));
    let profile = profile(&log, &tiny(), &ProfileConfig { warm_up_share: 0.0, ..ProfileConfig::default() }).unwrap();
    assert_eq!(profile.modules.len(), 42);
    assert!(profile.fits(&tiny()));
    // 5 and 10: mean 7.5, deviation 5/√2, error of the mean 2.5.
    for module in &profile.modules {
        assert_eq!((module.mean, module.steps), (7.5, 2));
        assert!((module.standard_error - 2.5).abs() < 1e-12);
    }
}

#[test]
fn rms_and_fisher_divide_by_the_adapters_elements() {
    let mut log = log(1..=2, |step| ModuleGradient::lora(3.0 * step as f64, 4.0 * step as f64));
    let of = |log: &GradientLog, signal| {
        profile(log, &tiny(), &ProfileConfig { signal, warm_up_share: 0.0, ..ProfileConfig::default() })
    };
    for (signal, name) in [(Signal::Rms, "rms"), (Signal::Fisher, "fisher")] {
        let error = of(&log, signal).unwrap_err();
        assert_eq!(error, ProfileError::UnknownRank { signal: name });
        assert!(error.to_string().contains("\"lora\":{\"r\":…}"), "{error}");
    }
    log.meta.lora = Some(LoraMeta { r: 4, alpha: None });
    // q: 4·(64 + 64) elements, down: 4·(128 + 64).
    let rms = of(&log, Signal::Rms).unwrap();
    assert!((rms.modules[0].mean - 7.5 / 512_f64.sqrt()).abs() < 1e-15);
    assert!((rms.modules[6].mean - 7.5 / 768_f64.sqrt()).abs() < 1e-15);
    let fisher = of(&log, Signal::Fisher).unwrap();
    assert!((fisher.modules[0].mean - (25.0 + 100.0) / 2.0 / 512.0).abs() < 1e-15);
}

#[test]
fn full_weight_gradients_need_no_rank() {
    let log = log(1..=2, |_| ModuleGradient::full(8.0));
    let config = ProfileConfig { signal: Signal::Rms, warm_up_share: 0.0, ..ProfileConfig::default() };
    let profile = profile(&log, &tiny(), &config).unwrap();
    assert_eq!(profile.modules[0].mean, 8.0 / 64.0);
}

fn fit_tiny(log: &GradientLog) -> Result<Fit, ProfileError> {
    fit(log, &tiny().into(), |_| Wish::None)
}

/// The log without modules that are not kept.
fn only(mut log: GradientLog, keep: impl Fn(ModuleId) -> bool) -> GradientLog {
    let kept: Vec<bool> = log.modules.iter().map(|module| keep(module.id)).collect();
    log.modules.retain(|module| keep(module.id));
    for step in &mut log.steps {
        let mut kept = kept.iter();
        step.gradients.retain(|_| *kept.next().unwrap());
    }
    log
}

/// The log with a module outside the decoder.
fn and(mut log: GradientLog, path: &str, reason: SkipReason, norms: ModuleGradient) -> GradientLog {
    log.others.push(OtherModule { path: path.to_owned(), reason });
    for step in &mut log.steps {
        step.gradients.push(norms);
    }
    log
}

#[test]
fn the_log_decides_which_modules_are_planned() {
    let queries_and_values = only(log(1..=2, fresh(1)), |id| matches!(id.projection, Projection::Q | Projection::V));
    let fit = fit_tiny(&queries_and_values).unwrap();
    assert_eq!((fit.layout.len(), fit.untrained), (12, 30));
    assert_eq!(fit.layout.kinds(), [Projection::Q.into(), Projection::V.into()]);
    let profile = profile(&queries_and_values, &fit.layout, &ProfileConfig::default()).unwrap();
    assert!(profile.fits(&fit.layout));

    // Layers 2 and 5 alone, under their own numbers.
    let two_layers = fit_tiny(&only(log(1..=2, fresh(1)), |id| [2, 5].contains(&id.layer))).unwrap();
    let layers: Vec<Option<usize>> = two_layers.layout.blocks().iter().map(|block| block.layer).collect();
    assert_eq!((layers, two_layers.layout.is_plain_stack()), (vec![Some(2), Some(5)], false));
    // One projection of some layers.
    let uneven = fit_tiny(&only(log(1..=2, fresh(1)), |id| id.projection != Projection::K || id.layer > 3)).unwrap();
    assert_eq!(uneven.layout.len(), 38);
}

#[test]
fn a_log_of_fewer_or_more_layers_than_the_model_is_refused_with_the_list() {
    let first_four = only(log(1..=2, fresh(1)), |id| id.layer < 4);
    assert_eq!(
        fit_tiny(&first_four).unwrap_err().to_string(),
        "the log does not fit the model tiny-mobilevlm: it lacks layers 4–5 (if only those before were trained, exclude these \
         by name); give the configuration of the model that was trained"
    );
    let without = |name: &str| if name.contains(".4.") || name.contains(".5.") { Wish::Exclude } else { Wish::None };
    assert_eq!(fit(&first_four, &tiny().into(), without).unwrap().layout.len(), 28);

    let mut more = log(1..=2, fresh(1));
    more.modules = modules(9);
    more.steps.iter_mut().for_each(|s| s.gradients.resize(63, ModuleGradient::lora(1.0, 1.0)));
    let error = fit_tiny(&more).unwrap_err().to_string();
    assert!(error.contains("it has layers 6–8 which the model, of 6 layers, has not"), "{error}");
}

#[test]
fn a_layout_that_the_log_does_not_fill_makes_no_profile() {
    let log = only(log(1..=2, fresh(1)), |id| id.projection != Projection::K || [2, 4, 5].contains(&id.layer));
    let error = profile(&log, &tiny(), &ProfileConfig::default()).unwrap_err().to_string();
    assert!(error.contains("it lacks k_proj in layers 0–1, 3;"), "{error}");
}

#[test]
fn what_a_log_holds_outside_the_decoder_is_told_and_planned_on_request() {
    const TOWER: &str = "model.vision_tower.encoder.layers.1.self_attn.q_proj";
    let lora = ModuleGradient::lora(1.0, 2.0);
    let log = and(log(1..=2, fresh(1)), TOWER, SkipReason::VisionTower, lora);
    let log = and(log, "lm_head", SkipReason::OutputHead, ModuleGradient::full(9.0));
    let shape = |d_in, d_out| ModuleShape { d_in, d_out };
    let catalog = Catalog::new(tiny(), [("vision_tower.encoder.layers.1.self_attn.q_proj".to_owned(), shape(8, 6))]);
    let plain = fit(&log, &catalog, |_| Wish::None).unwrap();
    assert_eq!(plain.layout.len(), 42);
    let outside = |name: &str, reason, shape, whole| Outside { name: name.to_owned(), reason, shape, whole };
    assert_eq!(
        plain.outside,
        [
            outside(TOWER, SkipReason::VisionTower, Some(shape(8, 6)), false),
            outside("lm_head", SkipReason::OutputHead, None, true)
        ]
    );
    let include =
        |wanted: &'static str| move |name: &str| if name.contains(wanted) { Wish::Include } else { Wish::None };
    let more = fit(&log, &catalog, include("vision_tower")).unwrap();
    assert_eq!((more.layout.len(), more.outside.len()), (43, 1));
    let (_, module) = more.layout.find(TOWER).unwrap();
    assert_eq!((module.shape(), module.kind.name(), module.layer), (shape(8, 6), "q_proj", Some(1)));
    let profile = profile(&log, &more.layout, &ProfileConfig::default()).unwrap();
    assert_eq!(profile.modules.last().unwrap().mean, 5_f64.sqrt());
    let error = fit(&log, &catalog, include("lm_head")).unwrap_err().to_string();
    assert!(error.contains("the widths of lm_head are not known; give the model's checkpoint"), "{error}");
    let gone = fit(&log, &catalog, |name| if name == TOWER { Wish::Exclude } else { Wish::None }).unwrap();
    assert_eq!(gone.outside.len(), 1);
}

#[test]
fn experts_are_refused_with_the_reason_and_a_tower_alone_makes_no_plan() {
    let lora = ModuleGradient::lora(1.0, 2.0);
    let with_expert = and(log(1..=2, fresh(1)), "model.layers.0.mlp.experts.1.up_proj", SkipReason::Experts, lora);
    let include = |name: &str| if name.contains("experts") { Wish::Include } else { Wish::None };
    let error = fit(&with_expert, &tiny().into(), include).unwrap_err().to_string();
    assert!(error.contains("is an expert of a mixture") && error.contains("doubles rank and alpha"), "{error}");
    let tower = and(only(log(1..=2, fresh(1)), |_| false), "visual.blocks.0.attn.qkv", SkipReason::VisionTower, lora);
    let error = fit_tiny(&tower).unwrap_err().to_string();
    assert!(error.contains("it holds visual.blocks.0.attn.qkv and the like"), "{error}");
}

#[test]
fn nan_outside_the_planned_modules_does_no_harm() {
    let log = and(log(1..=3, fresh(1)), "lm_head", SkipReason::OutputHead, ModuleGradient::full(f64::NAN));
    assert!(profile(&log, &tiny(), &ProfileConfig::default()).is_ok());
}

#[test]
fn a_log_of_one_lora_matrix_alone_is_refused_with_the_remedy() {
    let half = log(1..=2, |_| ModuleGradient { b: Some(1.0), ..ModuleGradient::default() });
    let error = profile(&half, &tiny(), &ProfileConfig::default()).unwrap_err().to_string();
    assert!(
        error.starts_with("the log never holds lora_A beside lora_B for layers 0–5; log the gradients of both"),
        "{error}"
    );
    let mut gone = log(1..=2, fresh(1));
    gone.steps.iter_mut().for_each(|s| s.gradients[8] = ModuleGradient::default());
    let error = profile(&gone, &tiny(), &ProfileConfig::default()).unwrap_err().to_string();
    assert!(error.contains("after warm-up it lacks k_proj in layer 1"), "{error}");
}

#[test]
fn a_module_that_some_steps_lack_is_averaged_over_the_others() {
    let mut sparse = log(1..=4, |_| ModuleGradient::lora(3.0, 4.0));
    sparse.steps[1].gradients[0] = ModuleGradient::default();
    let profile = profile(&sparse, &tiny(), &ProfileConfig { warm_up_share: 0.0, ..ProfileConfig::default() }).unwrap();
    assert_eq!((profile.modules[0].steps, profile.modules[0].mean), (3, 5.0));
    assert_eq!(profile.modules[1].steps, 4);
}

#[test]
fn a_step_with_nan_is_refused_by_place_or_left_out_on_request() {
    let text: String = (1..=10)
        .map(|step| {
            let norm = if step == 7 { "NaN" } else { "1.5" };
            let grads: Vec<String> =
                modules(6).iter().map(|m| format!("\"{}\":{{\"A\":2.0,\"B\":{norm}}}", m.path)).collect();
            format!("{{\"step\":{step},\"grads\":{{{}}}}}\n", grads.join(","))
        })
        .collect();
    let log = read("run.jsonl", text.as_bytes()).unwrap();
    assert_eq!(log.report.non_finite, 42);
    let error = profile(&log, &tiny(), &ProfileConfig::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "run.jsonl, line 7: step 7, model.layers.0.self_attn.q_proj: the gradient norm of lora_B is NaN; leave such steps \
         out with skip_non_finite, or cut the log before the run diverged"
    );
    let skip = ProfileConfig { skip_non_finite: true, ..ProfileConfig::default() };
    let profile_ = profile(&log, &tiny(), &skip).unwrap();
    assert_eq!(profile_.steps, ProfiledSteps { first: 2, last: 10, kept: 8, warm_up: 1, non_finite: 1 });
    assert!(profile_.modules.iter().all(|m| m.mean == 2.5 && m.steps == 8));

    let all = self::log(1..=3, |_| ModuleGradient::lora(f64::INFINITY, 1.0));
    assert_eq!(profile(&all, &tiny(), &skip), Err(ProfileError::AllNonFinite));
    let huge = self::log(1..=3, |_| ModuleGradient::lora(1e300, 1.0));
    assert!(matches!(profile(&huge, &tiny(), &skip), Err(ProfileError::Overflow { .. })));
}

#[test]
fn nan_during_warm_up_does_no_harm() {
    let log = log(1..=30, |step| ModuleGradient::lora(if step <= 3 { f64::NAN } else { 3.0 }, 4.0));
    let profile = profile(&log, &tiny(), &ProfileConfig::default()).unwrap();
    assert_eq!((profile.steps.kept, profile.steps.non_finite), (27, 0));
}

#[test]
fn norms_that_are_zero_everywhere_are_an_error_as_nan_everywhere_is() {
    let error =
        profile(&log(1..=10, |_| ModuleGradient::lora(0.0, 0.0)), &tiny(), &ProfileConfig::default()).unwrap_err();
    assert_eq!(error, ProfileError::AllZero);
    assert!(error.to_string().contains("the adapters got no gradient; check that they were active"), "{error}");
    // One of the two matrices may be frozen.
    assert!(profile(&log(1..=10, |_| ModuleGradient::lora(0.0, 1.0)), &tiny(), &ProfileConfig::default()).is_ok());
}

#[test]
fn modules_that_a_log_shortens_have_the_models_own_names_which_peft_finds() {
    let layout = tiny();
    for (prefix, own) in [("", ""), ("model.", ""), ("language_model.model.", ""), ("decoder.", "decoder.")] {
        let names = layout.modules().iter().map(|module| {
            let short = module.name.replace("self_attn.", "").replace("mlp.", "");
            format!("\"grad_norm/{prefix}{}.lora_A.weight\":0.5", short.trim_start_matches("model."))
        });
        let text = format!("{{\"step\":1,{}}}\n", names.collect::<Vec<_>>().join(","));
        let log = read("log.jsonl", text.as_bytes()).unwrap();
        let fitted = fit(&log, &Arc::clone(&layout).into(), |_| Wish::None).unwrap();
        for (module, fitted) in layout.modules().iter().zip(fitted.layout.modules()) {
            let name = if own.is_empty() { module.name.as_str() } else { module.name.trim_start_matches("model.") };
            assert_eq!(fitted.name, format!("{own}{name}"), "{prefix}");
        }
    }
}
