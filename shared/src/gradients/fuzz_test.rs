//! Readers never panic, and a log that was cut anywhere gives its whole steps.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::samples_test::{sample, unpacked};
use super::*;

/// The steps of `cut` are the first steps of `whole`.
fn is_start(cut: &GradientLog, whole: &GradientLog) {
    assert!(cut.steps.len() <= whole.steps.len());
    for (a, b) in cut.steps.iter().zip(&whole.steps) {
        assert_eq!((a.step, a.loss), (b.step, b.loss));
        assert_eq!(a.gradients, b.gradients);
    }
}

fn cut_anywhere(bytes: &[u8], share: f64) {
    let whole = read("whole", bytes).unwrap();
    let end = (bytes.len() as f64 * share) as usize;
    match read("cut", &bytes[..end]) {
        Ok(cut) => is_start(&cut, &whole),
        Err(error) => assert!(
            matches!(
                error.problem,
                LogProblem::Empty
                    | LogProblem::Unrecognised { .. }
                    | LogProblem::NoGradients { .. }
                    | LogProblem::NoModules { .. }
            ),
            "cut at {end}: {error}"
        ),
    }
}

/// The first lines of a sample.
fn lines(name: &str, count: usize) -> Vec<u8> {
    let text = unpacked(name);
    let end = text.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(count - 1).unwrap().0;
    text[..=end].to_vec()
}

static JSON_LINES: LazyLock<Vec<u8>> = LazyLock::new(|| lines("grad-norms.jsonl.gz", 4));
static WANDB: LazyLock<Vec<u8>> = LazyLock::new(|| lines("wandb-history.jsonl.gz", 2));
static CSV: LazyLock<Vec<u8>> = LazyLock::new(|| lines("lightning-metrics.csv.gz", 6));
static HYDRA: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut text = Vec::new();
    write_log(&read("log", JSON_LINES.as_slice()).unwrap(), &mut text).unwrap();
    text
});

static TRACKER_FILES: LazyLock<[Vec<u8>; 4]> = LazyLock::new(|| {
    ["flat.wandb.gz", "run.swanlab.gz", "trackio.db.gz", "long.parquet.gz"].map(|name| {
        let path = format!("{}/../tests/data/tracker-logs/{name}", env!("CARGO_MANIFEST_DIR"));
        trackers_test::unpack(&std::fs::read(path).unwrap())
    })
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn json_lines_cut_anywhere_give_their_whole_steps(share in 0.0..1.0_f64) {
        cut_anywhere(&JSON_LINES, share);
    }

    #[test]
    fn a_wandb_history_cut_anywhere_gives_its_whole_steps(share in 0.0..1.0_f64) {
        cut_anywhere(&WANDB, share);
    }

    #[test]
    fn the_projects_log_cut_anywhere_gives_its_whole_steps(share in 0.0..1.0_f64) {
        cut_anywhere(&HYDRA, share);
    }

    #[test]
    fn a_csv_cut_anywhere_gives_its_whole_steps(share in 0.0..1.0_f64) {
        cut_anywhere(&CSV, share);
    }

    #[test]
    fn cut_gzip_is_an_error_and_no_panic(share in 0.0..1.0_f64) {
        let bytes = sample("lightning-metrics.csv.gz");
        let end = (bytes.len() as f64 * share) as usize;
        prop_assert!(read("cut", &bytes[..end]).is_err());
    }

    #[test]
    fn an_event_file_cut_anywhere_gives_its_whole_records(share in 0.0..1.0_f64) {
        let bytes = sample("tensorboard/events.out.tfevents.1795494162.vm.18060.0");
        let whole = read("whole", bytes.as_slice()).unwrap();
        let end = (bytes.len() as f64 * share) as usize;
        if let Ok(cut) = read("cut", &bytes[..end]) {
            prop_assert!(cut.modules.iter().all(|m| whole.modules.contains(m)));
            for step in &cut.steps {
                let same = whole.steps.iter().find(|s| s.step == step.step).unwrap();
                for (module, gradient) in cut.modules.iter().zip(&step.gradients) {
                    let column = whole.modules.iter().position(|m| m.id == module.id).unwrap();
                    for (a, b) in gradient.values().into_iter().zip(same.gradients[column].values()) {
                        prop_assert!(a.is_none() || a == b);
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read("bytes", bytes.as_slice());
        for start in [
            &b"{\"step\":1,\"grads\":"[..],
            b"{\"hydra_grads\":",
            b"step,grad_norm/a\n",
            b"step;grad_norm/model.layers.0.mlp.up_proj\n{'values': ",
            b"[{\"step\":1,",
            b"\x1f\x8b\x08\0",
            b":W&B\xe1\xbe\x00",
            b":SWL\xd6\xe1\x02",
            b"SQLite format 3\0\x10\0\x01\x01\0",
            b"PAR1",
        ] {
            let _ = read("bytes", [start, &bytes].concat().as_slice());
        }
    }

    #[test]
    fn any_json_like_text_is_read_without_panic(text in "([{}\\[\\]:,]|\"(step|grads|A|values|bins|log_history|gradients/model\\.layers\\.0\\.mlp\\.up_proj)\"|-?[0-9.eE+-]{1,6}|NaN|-?Infinity|null|\n){0,40}") {
        let _ = read("text", format!("{{{text}").as_bytes());
    }

    #[test]
    fn any_name_is_parsed_without_panic(name in "(model|layers|h|block|[0-9]{1,3}|self_attn|q_proj|lora_A|weight|base_model|module|_orig_mod|\\.|/|é|vision){0,12}") {
        let parsed = ParameterName::parse(&name);
        prop_assert_eq!(parsed.module().is_ok(), parsed.skip.is_none() && parsed.layer.is_some() && parsed.projection.is_some());
        let _ = metric::parse_metric(&name);
    }

    #[test]
    fn damaged_event_files_are_read_without_panic(at in 0..232_usize, bit in 0..8_u8) {
        let mut bytes = sample("tensorboard/events.out.tfevents.1795493630.vm.14019.0");
        bytes[at] ^= 1 << bit;
        prop_assert!(read("damaged", bytes.as_slice()).is_err());
    }

    #[test]
    fn damaged_files_of_trackers_are_read_without_panic(
        which in 0..4_usize,
        flips in prop::collection::vec((0.0..1.0_f64, any::<u8>()), 1..6),
        share in 0.2..1.0_f64,
    ) {
        let mut bytes = TRACKER_FILES[which].clone();
        bytes.truncate((bytes.len() as f64 * share.sqrt()) as usize);
        // The first pages and the end hold what the rest is found by.
        for (place, value) in flips {
            let ends = bytes.len().min(6000);
            let at = (place * 2.0 * ends as f64) as usize;
            let at = if at < ends { at } else { bytes.len() + at - 2 * ends };
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let _ = read("damaged", bytes.as_slice());
    }

    #[test]
    fn every_norm_survives_writing_and_reading(
        a in prop::num::f64::POSITIVE | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO,
        b in prop::num::f64::POSITIVE,
        step in 0_u64..(1 << 53),
        loss in prop::option::of(prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL),
    ) {
        let a = a.abs();
        let mut text = Vec::new();
        let mut writer = LogWriter::new(&mut text, &LogMeta::default()).unwrap();
        writer.step(step, loss, [("model.layers.0.mlp.up_proj", ModuleGradient::lora(a, b))]).unwrap();
        let log = read("log", text.as_slice()).unwrap();
        prop_assert_eq!(log.steps.len(), 1);
        prop_assert_eq!((log.steps[0].step, log.steps[0].loss), (step, loss));
        prop_assert_eq!(log.steps[0].gradients[0], ModuleGradient::lora(a, b));
    }
}
