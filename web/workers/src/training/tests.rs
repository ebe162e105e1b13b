//! The whole of a run on the CPU, as the browser does it without a GPU.

use burn::tensor::Device;
use hydra_playground::messages::training::{Arm, TrainingSetup};
use hydra_shared::gradients::{ProfileConfig, profile, read};
use hydra_shared::schedule::ScalePolicy;
use hydra_shared::vlm::Weights;
use hydra_shared::vlm::spec::ModelSpec;
use pollster::block_on;

use super::TrainingError;
use super::base::{Base, ModelFiles};
use super::data::Data;
use super::kept::KeptRun;
use super::trainer::{Measured, Trainer, answers, gradient_log, right};

fn files() -> ModelFiles {
    ModelFiles {
        config: include_str!("../../../../static/tiny-mobilevlm/config.json").to_owned(),
        vision_config: include_str!("../../../../static/tiny-mobilevlm/vision_config.json").to_owned(),
        tokenizer: include_str!("../../../../static/tiny-mobilevlm/tokenizer.json").to_owned(),
        weights: include_bytes!("../../../../static/tiny-mobilevlm/model.safetensors").to_vec(),
    }
}

fn bench() -> (Base, Data) {
    let base = Base::read(&files()).unwrap();
    let data = Data::new(&base).unwrap();
    (base, data)
}

/// More rank in later layers.
fn setup(base: &Base) -> TrainingSetup {
    let ranks = base.spec.modules().map(|module| 1 + module.layer as u32).collect();
    TrainingSetup { steps: 24, ..TrainingSetup::new(ranks, 4, ScalePolicy::default()) }
}

fn run(trainer: &mut Trainer, base: &Base, data: &mut Data, until: usize) -> Vec<Measured> {
    let mut measured = Vec::new();
    while trainer.taken() < until {
        measured.push(block_on(trainer.step(base, data)).unwrap());
    }
    measured
}

#[test]
fn the_files_are_the_preset() {
    let base = Base::read(&files()).unwrap();
    let preset = ModelSpec::preset("tiny-mobilevlm").unwrap();
    assert_eq!(base.spec.decoder, preset.decoder);
    assert_eq!(base.spec.name, preset.name);
    let damaged = ModelFiles { weights: files().weights[..5000].to_vec(), ..files() };
    assert!(matches!(Base::read(&damaged), Err(TrainingError::Model(_))));
    let other = ModelFiles { config: "{}".to_owned(), ..files() };
    assert!(Base::read(&other).err().unwrap().to_string().starts_with("config.json: "));
}

#[test]
fn both_losses_fall_and_every_module_has_a_gradient() {
    let (base, mut data) = bench();
    let setup = setup(&base);
    let mut trainer = Trainer::new(&base, &data, &setup, &Device::flex()).unwrap();
    let measured = run(&mut trainer, &base, &mut data, setup.steps);
    assert!(trainer.is_done());
    // Before the first update the arms are the same model: B is 0.
    assert_eq!(measured[0].losses[0], measured[0].losses[1]);
    for arm in Arm::BOTH {
        let mean = |steps: &[Measured]| steps.iter().map(|m| m.losses[arm.index()]).sum::<f64>() / steps.len() as f64;
        let (first, last) = (mean(&measured[..4]), mean(&measured[20..]));
        assert!(last < 0.8 * first, "{arm:?}: {first} to {last}");
        for step in &measured[2..] {
            assert_eq!(step.gradients[arm.index()].len(), 42);
            assert!(step.gradients[arm.index()].iter().all(|(_, gradient)| gradient.norm().unwrap() > 0.0));
        }
    }
}

#[test]
fn both_arms_are_scored_on_pictures_of_their_own_a_few_at_a_time_as_all_at_once() {
    let (base, mut data) = bench();
    assert!(data.scored().len() == 24 && data.scored().iter().all(|asked| asked.len() == 5));
    assert!(data.scored().iter().flatten().all(|(question, _)| question.picture >= data.samples().len()));
    let untouched = block_on(right(&base.cpu, &base, &mut data, &Device::flex(), 0..6)).unwrap();
    assert!(untouched.len() == 6 && untouched.iter().all(|right| *right <= 5), "{untouched:?}");
    // B is 0 before the first step: both arms are the untouched model.
    let trainer = Trainer::new(&base, &data, &setup(&base), &Device::flex()).unwrap();
    let parts = [0..4, 4..6].map(|part| block_on(trainer.right(&base, &mut data, part)).unwrap());
    for arm in Arm::BOTH {
        assert_eq!(parts.each_ref().map(|part| part[arm.index()].clone()).concat(), untouched);
    }
    assert_eq!(block_on(trainer.right(&base, &mut data, 24..28)).unwrap(), [vec![0; 0], Vec::new()]);
}

#[test]
fn a_run_that_goes_on_from_a_snapshot_ends_as_one_that_was_never_interrupted() {
    let (base, mut data) = bench();
    let setup = setup(&base);
    let mut whole = Trainer::new(&base, &data, &setup, &Device::flex()).unwrap();
    let measured = run(&mut whole, &base, &mut data, 3);
    let snapshot = block_on(whole.snapshot()).unwrap();
    let rest = run(&mut whole, &base, &mut data, 6);

    let mut resumed = Trainer::new(&base, &data, &setup, &Device::flex()).unwrap();
    let fresh = block_on(resumed.snapshot()).unwrap();
    // By way of what a browser keeps.
    let bytes = KeptRun::new(&setup, measured, snapshot).to_bytes().unwrap();
    let kept = KeptRun::from_bytes(&bytes, &setup, &fresh).unwrap();
    resumed.restore(&kept.snapshot);
    assert_eq!(run(&mut resumed, &base, &mut data, 6), rest);
    assert_eq!(block_on(resumed.snapshot()).unwrap(), block_on(whole.snapshot()).unwrap());

    for length in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        assert_eq!(KeptRun::from_bytes(&bytes[..length], &setup, &fresh), None);
    }
    assert_eq!(KeptRun::from_bytes(&bytes, &TrainingSetup { seed: 2, ..setup.clone() }, &fresh), None);
    let mut ranks = setup.ranks.clone();
    ranks.swap(0, 7);
    assert_eq!(KeptRun::from_bytes(&bytes, &TrainingSetup { ranks, ..setup.clone() }, &fresh), None);
    let ranks = setup.ranks.iter().map(|rank| rank + 1).collect();
    let larger = Trainer::new(&base, &data, &TrainingSetup { ranks, ..setup.clone() }, &Device::flex()).unwrap();
    assert_eq!(KeptRun::from_bytes(&bytes, &setup, &block_on(larger.snapshot()).unwrap()), None);
}

#[test]
fn the_log_of_a_run_gives_a_profile() {
    let (base, mut data) = bench();
    let setup = setup(&base);
    let mut trainer = Trainer::new(&base, &data, &setup, &Device::flex()).unwrap();
    let measured = run(&mut trainer, &base, &mut data, 4);
    for (arm, rank) in [(Arm::Uniform, Some(4)), (Arm::Schedule, None)] {
        let text = gradient_log(&trainer, &base.spec, &measured, arm);
        let log = read("run.jsonl", text.as_bytes()).unwrap();
        assert_eq!(log.meta.lora.map(|lora| lora.r), rank);
        assert_eq!(log.steps.len(), 4);
        let profile = profile(&log, &base.layout, &ProfileConfig::default()).unwrap();
        assert!(profile.norms().iter().all(|norm| *norm > 0.0));
    }
}

#[test]
fn the_adapter_is_a_whole_peft_folder() {
    let (base, mut data) = bench();
    let setup = setup(&base);
    let mut trainer = Trainer::new(&base, &data, &setup, &Device::flex()).unwrap();
    run(&mut trainer, &base, &mut data, 2);
    let files = block_on(trainer.adapter(&base, Arm::Schedule)).unwrap();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors", "non_lora_trainables.safetensors"]);
    let config: serde_json::Value = serde_json::from_slice(&files[0].1).unwrap();
    assert_eq!(config["r"], 6);
    assert_eq!(config["rank_pattern"]["model.layers.0.self_attn.q_proj"], 1);
    let weights = Weights::from_safetensors(&files[1].1).unwrap();
    let b = &weights.tensors["base_model.model.model.layers.2.mlp.down_proj.lora_B.weight"];
    assert_eq!(b.shape, [64, 3]);
    assert!(b.values.iter().any(|value| *value != 0.0));
    assert_eq!(trainer.parameters()[0], weights.parameters());
    assert_eq!(trainer.ranks(Arm::Schedule).as_slice(), setup.ranks);
}

#[test]
fn questions_about_sample_pictures_are_answered() {
    let (base, mut data) = bench();
    assert_eq!(data.questions().len(), 8);
    assert_eq!(data.samples().len(), 4);
    let before = block_on(answers(&base.cpu, &base, &mut data, &Device::flex())).unwrap();
    assert_eq!(before.len(), 8);
    let trainer = Trainer::new(&base, &data, &setup(&base), &Device::flex()).unwrap();
    // An adapter that was not trained changes nothing.
    assert_eq!(block_on(trainer.answers(&base, &mut data)).unwrap(), [before.clone(), before]);
}

#[test]
fn setups_that_do_not_fit_are_refused() {
    let (base, data) = bench();
    let good = setup(&base);
    let wrong = [
        TrainingSetup { ranks: vec![1; 3], ..good.clone() },
        TrainingSetup { base_rank: 0, ..good.clone() },
        TrainingSetup { base_rank: 1000, ..good.clone() },
        TrainingSetup { steps: 0, ..good.clone() },
        TrainingSetup { batch_size: 1_000_000, ..good.clone() },
        TrainingSetup { learning_rate: f64::NAN, ..good.clone() },
    ];
    for setup in wrong {
        let refused = Trainer::new(&base, &data, &setup, &Device::flex()).err().unwrap();
        assert!(matches!(refused, TrainingError::Unusable(_)), "{setup:?}");
    }
}
