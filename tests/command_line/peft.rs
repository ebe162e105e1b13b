//! Adapters to and from real PEFT, of an old version and of a current one (`scripts/peers` sets both up).

use std::path::Path;

use safetensors::SafeTensors;

use crate::support::{pythons, run_python, trainer, trainer_in};

/// Runs `tests/python/peft_case.py`.
fn peft_case(python: &Path, arguments: &[&str]) {
    run_python(python, "peft_case.py", arguments);
}

fn parity(case: &Path, compared: &[&str]) {
    let run = trainer(&["parity", case.to_str().unwrap(), "--device", "cpu", "--json", "--quiet"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    let document = run.json();
    let names: Vec<&str> =
        document["comparisons"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, compared);
}

fn tensor(case: &Path, name: &str) -> Vec<f32> {
    let bytes = std::fs::read(case.join("case.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensor(name).unwrap().data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn adapters_that_peft_wrote_give_its_logits_loss_and_gradients_here() {
    for python in pythons() {
        let folder = tempfile::tempdir().unwrap();
        let seeds = ["1", "2"];
        let cases = seeds.map(|seed| folder.path().join(seed));
        let [first, second] = cases.each_ref().map(|case| case.to_str().unwrap());
        peft_case(&python, &["write", first, seeds[0], second, seeds[1]]);
        for case in &cases {
            parity(case, &["lora_logits", "lora_loss", "lora_grad_norms"]);
        }
    }
}

#[test]
fn adapters_that_were_trained_here_give_our_logits_in_peft_in_mixed_ranks_in_one_rank_merged_and_of_the_ends() {
    let pythons = pythons();
    if pythons.is_empty() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/../static/tiny-mobilevlm");
    let run = |arguments: &[&str]| {
        let run = trainer_in(folder.path(), arguments, &[]);
        assert_eq!(run.code, 0, "{}", run.stderr);
    };
    // The planned schedule has mixed ranks.
    run(&[
        "search",
        "--name",
        "s",
        "--device",
        "cpu",
        "--quiet",
        "--set",
        "training.steps=3",
        "--set",
        "search.starts=2",
        "--set",
        "search.trials=2",
        "--set",
        "search.replicates=0",
        "--set",
        "data.train_pictures=20",
        "--set",
        "data.validation_pictures=8",
    ]);
    let train = |name: &str, more: [&str; 2]| {
        let common = ["--set=training.steps=6", "--set=data.train_pictures=20", "--set=data.validation_pictures=8"];
        run(&[&["train", "--name", name, "--device", "cpu", "--quiet"], &more[..], &common].concat());
    };
    train("t", ["--schedule", "runs/s/plan/schedule.json"]);
    train("e", ["--set", "targets=all-linear+embeddings+head"]);
    let trained = "runs/t/adapter";
    for format in ["peft", "uniform", "merged"] {
        run(&["export", "--adapter", trained, "--format", format, "--out", format, "--device", "cpu", "--quiet"]);
    }
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (number, python) in pythons.iter().enumerate() {
        let case = |format: &str| path(&format!("case-{format}-{number}"));
        let (mixed, uniform, merged, ends) = (case("peft"), case("uniform"), case("merged"), case("ends"));
        let loaded = [base, &path("peft"), &mixed, base, &path("uniform"), &uniform, &path("merged"), "-", &merged];
        let with_ends = [base, &path("runs/e/adapter"), &ends];
        peft_case(python, &[&["load"], &loaded[..], &with_ends[..]].concat());
        for case in [&mixed, &uniform, &ends] {
            parity(Path::new(case), &["lora_logits", "lora_loss", "lora_grad_norms"]);
        }
        parity(Path::new(&merged), &["logits", "loss"]);

        let mixed = tensor(Path::new(&mixed), "lora_logits");
        let largest = mixed.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        for other in [tensor(Path::new(&uniform), "lora_logits"), tensor(Path::new(&merged), "logits")] {
            let difference = mixed.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(difference <= 1e-4 * largest, "{difference} of {largest}");
        }
    }
    let ranks = |format: &str| {
        let run = trainer(&["verify", &path(format), "--model", "tiny-mobilevlm", "--json"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.json()
    };
    assert!(ranks("uniform")["trainable_parameters"].as_u64() > ranks("peft")["trainable_parameters"].as_u64());
}
