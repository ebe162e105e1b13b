//! Promises about the five real logs of `static/samples`.

use super::*;
use std::sync::Arc;

use crate::layout::{Layout, Projection};
use crate::vlm::spec::ModelSpec;
use std::io::Read;
use std::path::PathBuf;

pub(super) fn sample(name: &str) -> Vec<u8> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "static", "samples", name].iter().collect();
    std::fs::read(path).unwrap()
}

pub(super) fn unpacked(name: &str) -> Vec<u8> {
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(sample(name).as_slice()).read_to_end(&mut text).unwrap();
    text
}

const EVENT_FILES: [&str; 2] =
    ["tensorboard/events.out.tfevents.1795493630.vm.14019.0", "tensorboard/events.out.tfevents.1795494162.vm.18060.0"];

fn log(name: &str) -> GradientLog {
    read(name, sample(name).as_slice()).unwrap()
}

#[cfg(feature = "binary-logs")]
fn event_folder() -> GradientLog {
    let files = EVENT_FILES.map(|name| (name.to_owned(), std::io::BufReader::new(std::io::Cursor::new(sample(name)))));
    read_many(files, &Limits::default()).unwrap()
}

fn smollm2() -> Arc<Layout> {
    ModelSpec::preset("smollm2-135m").unwrap().layout().unwrap()
}

fn profile_of(log: &GradientLog) -> GradientProfile {
    profile(log, &smollm2(), &ProfileConfig::default()).unwrap()
}

/// The log's steps that are multiples of five, which the sparse formats hold.
fn every_fifth(log: &GradientLog) -> GradientLog {
    let mut log = log.clone();
    log.steps.retain(|s| s.step % 5 == 0);
    log
}

#[test]
fn every_sample_is_recognised_by_content() {
    for (name, format) in [
        ("grad-norms.jsonl.gz", Format::JsonLines),
        ("lightning-metrics.csv.gz", Format::Csv),
        ("wandb-history.jsonl.gz", Format::WandbHistory),
    ] {
        assert!(is_gzip(&sample(name)));
        assert_eq!(sniff(&unpacked(name)[..SNIFF_BYTES]), Some(format), "{name}");
        let log = log(name);
        assert_eq!(log.report.files[0].format, Some(format));
        assert!(log.report.files[0].gzipped);
        assert_eq!(log.layers_path().as_deref(), Some("model.layers"));
        assert_eq!(log.modules.len(), 210);
    }
    for name in EVENT_FILES {
        assert!(is_binary_log(&sample(name)));
        assert_eq!(sniff(&sample(name)), cfg!(feature = "binary-logs").then_some(Format::TensorBoard));
    }
    assert_eq!(sniff(&sample("trainer_state.json")), Some(Format::TrainerState));
    assert_eq!(sniff(&sample("smollm2-config.json")), None);
}

#[test]
fn the_report_counts_what_was_recognised_and_skipped() {
    let report = log("lightning-metrics.csv.gz").report;
    let file = &report.files[0];
    assert_eq!(file.rows, 30);
    assert_eq!(file.recognised.len(), 14);
    assert!(file.recognised.iter().all(|group| group.count == 30));
    assert_eq!(file.recognised[0].what, "q lora_A");
    assert_eq!(file.skipped.len(), 1);
    assert_eq!(file.skipped[0].what, "global-norm");
    assert_eq!(file.skipped[0].examples, ["grad_2.0_norm_total"]);
    assert_eq!(file.other_keys, 1, "epoch");
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<IngestReport>(&text).unwrap(), report);
}

#[test]
fn the_profile_of_the_shakespeare_run_has_the_measured_norms_by_layer_and_projection() {
    let profile = profile_of(&log("grad-norms.jsonl.gz"));
    assert_eq!(
        profile.steps,
        ProfiledSteps { first: 4, last: 30, kept: 27, warm_up: 3, non_finite: 0 },
        "a warm-up share of 0.1 of 30 steps drops steps 1 to 3"
    );
    let layers = profile.layer_norms(&smollm2(), LayerNorm::Mean);
    for (layer, expected) in [
        (0, 0.119),
        (1, 0.114),
        (2, 0.110),
        (5, 0.063),
        (10, 0.060),
        (11, 0.085),
        (15, 0.053),
        (20, 0.049),
        (25, 0.036),
        (27, 0.050),
        (28, 0.055),
        (29, 0.098),
    ] {
        assert!((layers[layer] - expected).abs() < 0.000_500_1, "layer {layer}: {}", layers[layer]);
    }
    let norms = profile.norms();
    for (projection, expected) in Projection::ALL.into_iter().zip([0.038, 0.034, 0.121, 0.065, 0.056, 0.069, 0.065]) {
        let mean = norms.iter().skip(projection.index()).step_by(7).sum::<f64>() / 30.0;
        assert!((mean - expected).abs() < 0.000_500_1, "{projection}: {mean}");
    }
    assert!(profile.modules.iter().all(|m| m.steps == 27 && m.standard_error > 0.0));
    assert!(!profile.estimated);
    let text = serde_json::to_string(&profile).unwrap();
    assert!(serde_json::from_str::<GradientProfile>(&text).unwrap() == profile);
}

#[test]
fn the_lightning_csv_gives_the_json_lines_profile_up_to_its_six_decimals() {
    let (exact, csv) = (log("grad-norms.jsonl.gz"), log("lightning-metrics.csv.gz"));
    assert_eq!(exact.modules, csv.modules);
    for (a, b) in exact.steps.iter().zip(&csv.steps) {
        assert_eq!((a.step, a.loss), (b.step, b.loss));
        for (a, b) in a.gradients.iter().zip(&b.gradients) {
            for (a, b) in a.values().into_iter().zip(b.values()) {
                // What Lightning's logger rounds is all that differs.
                assert_eq!(a.map(|v| format!("{v:.6}").parse::<f64>().unwrap()), b);
            }
        }
    }
    let (a, b) = (profile_of(&exact), profile_of(&csv));
    assert_eq!(a.steps, b.steps);
    for (a, b) in a.modules.iter().zip(&b.modules) {
        assert!((a.mean - b.mean).abs() < 1e-6);
    }
}

#[test]
fn a_csv_and_json_lines_of_the_same_numbers_give_the_same_profile_bit_by_bit() {
    let csv = log("lightning-metrics.csv.gz");
    let mut lines = String::new();
    let path = |i: usize| format!("base_model.model.{}", csv.modules[i].path);
    for step in &csv.steps {
        let mut norms = serde_json::Map::new();
        for (i, g) in step.gradients.iter().enumerate() {
            norms.insert(format!("{}.lora_A.default.weight", path(i)), g.a.into());
            norms.insert(format!("{}.lora_B.default.weight", path(i)), g.b.into());
        }
        lines += &serde_json::json!({"step": step.step, "loss": step.loss, "grad_norms": norms}).to_string();
        lines.push('\n');
    }
    let json = read("rounded.jsonl", lines.as_bytes()).unwrap();
    assert!(profile_of(&json) == profile_of(&csv));
}

#[test]
#[cfg(feature = "binary-logs")]
fn tensorboard_holds_the_json_lines_norms_of_every_fifth_step_as_single_precision() {
    let (exact, events) = (every_fifth(&log("grad-norms.jsonl.gz")), event_folder());
    assert_eq!(exact.modules, events.modules);
    assert_eq!(events.steps.iter().map(|s| s.step).collect::<Vec<_>>(), [5, 10, 15, 20, 25, 30]);
    for (a, b) in exact.steps.iter().zip(&events.steps) {
        for (a, b) in a.gradients.iter().zip(&b.gradients) {
            for (a, b) in a.values().into_iter().zip(b.values()) {
                assert_eq!(a.map(|v| v as f32), b.map(|v| v as f32));
                assert_eq!(b.map(|v| f64::from(v as f32)), b);
            }
        }
        assert_eq!(a.loss.map(|v| v as f32), b.loss.map(|v| v as f32));
    }
    let profile = profile_of(&events);
    assert_eq!(profile.steps, ProfiledSteps { first: 5, last: 30, kept: 6, warm_up: 0, non_finite: 0 });
}

#[test]
#[cfg(feature = "binary-logs")]
fn an_event_file_without_gradients_is_noted_beside_another_and_refused_alone() {
    let report = event_folder().report;
    assert_eq!(report.files.len(), 2);
    assert_eq!(report.files[0].format, Some(Format::TensorBoard));
    assert_eq!(report.files[0].notes, ["it holds no gradients"]);
    let error = read("events", sample(EVENT_FILES[0]).as_slice()).unwrap_err();
    assert!(matches!(error.problem, LogProblem::NoGradients { .. }), "{error}");
    assert!(error.to_string().contains("hydra_grad_logger.py"), "{error}");
}

#[test]
fn wandb_estimates_lie_close_to_the_logged_norms_of_the_same_steps() {
    let (exact, wandb) = (every_fifth(&log("grad-norms.jsonl.gz")), log("wandb-history.jsonl.gz"));
    assert!(wandb.estimated);
    assert_eq!(exact.steps.len(), wandb.steps.len());
    let (exact, estimated) = (profile_of(&exact), profile_of(&wandb));
    assert!(estimated.estimated);
    let errors: Vec<f64> = exact.modules.iter().zip(&estimated.modules).map(|(a, b)| b.mean / a.mean - 1.0).collect();
    let worst = errors.iter().fold(0.0_f64, |m, e| m.max(e.abs()));
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    // Measured: 8.55 % in the worst of 210 modules, 1.08 % too large on average.
    assert!(worst < 0.09, "worst relative error {worst}");
    assert!(mean > 0.0 && mean < 0.012, "mean relative error {mean}");
}

#[test]
fn trainer_state_json_is_refused_with_what_to_log_instead() {
    let error = read("trainer_state.json", sample("trainer_state.json").as_slice()).unwrap_err();
    assert!(matches!(error.problem, LogProblem::GlobalNormOnly));
    assert_eq!(
        error.to_string(),
        "trainer_state.json: the log holds only a global gradient norm, nothing per parameter; log the gradient norm of \
         every parameter: add the callback of scripts/hydra_grad_logger.py to your trainer, Lightning's \
         grad_norm(module, norm_type=2), or wandb.watch(model)"
    );
}

#[test]
fn a_log_written_in_the_projects_format_reads_back_bit_by_bit() {
    for name in ["grad-norms.jsonl.gz", "wandb-history.jsonl.gz"] {
        let mut original = log(name);
        original.meta = LogMeta {
            model: Some("smollm2 \"135m\"".to_owned()),
            clip: Some(Clip::Pre),
            unit: Some(LogUnit::OptimizerStep),
            lora: Some(LoraMeta { r: 16, alpha: Some(32.0) }),
        };
        let mut text = Vec::new();
        write_log(&original, &mut text).unwrap();
        assert_eq!(sniff(&text[..SNIFF_BYTES]), Some(Format::HydraLog));
        let back = read("log.jsonl", text.as_slice()).unwrap();
        assert_eq!(back.meta, original.meta);
        assert_eq!(back.estimated, original.estimated);
        assert_eq!(back.modules, original.modules);
        for (a, b) in original.steps.iter().zip(&back.steps) {
            assert_eq!((a.step, a.loss, &a.gradients), (b.step, b.loss, &b.gradients));
        }
        assert!(profile_of(&back) == profile_of(&original));
        let mut again = Vec::new();
        write_log(&back, &mut again).unwrap();
        assert_eq!(again, text);
    }
}
