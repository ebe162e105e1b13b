//! scratch
#![allow(missing_docs, clippy::all, dead_code)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
mod error;
mod evaluate;
mod pretrain;
mod train_loop;
use burn::tensor::*;
use hydra_shared::model_spec::ModelSpec;
use hydra_shared::tasks::*;
use hydra_shared::vlm::batch::*;
use hydra_shared::vlm::tokenizer::Tokenizer;
use hydra_shared::vlm::*;
use std::time::Instant;
use train_loop::*;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let get = |k: &str, d: f64| {
        args.iter().find_map(|a| a.strip_prefix(&format!("{k}=")).map(|v| v.parse().unwrap())).unwrap_or(d)
    };
    let mut spec = ModelSpec::preset("tiny-mobilevlm")?;
    spec.decoder.layers = get("layers", 6.0) as usize;
    let device = Device::flex();
    let weights = init::random_weights(&spec, 1);
    let mut config = pretrain::PretrainConfig::default();
    config.steps = get("steps", 300.0) as usize;
    config.pictures_per_step = get("pics", 24.0) as usize;
    config.optimizer.learning_rate = get("lr", 2e-3);
    config.tasks.samples_per_picture.existence = get("exist", 2.0) as usize;
    config.tasks.samples_per_picture.open = get("open", 2.0) as usize;
    config.tasks.scene.min_objects = get("min", 2.0) as u32;
    let tj = pretrain::learn_vocabulary(&config, spec.decoder.vocab)?;
    std::fs::write("/tmp/tok.json", &tj)?;
    let tok = Tokenizer::from_json(&tj)?;
    println!("vocab {}", tok.vocab());
    let mut tc = TaskConfig::default();
    tc.samples_per_picture.caption = 1;
    tc.samples_per_picture.boxed_caption = 1;
    let s = generate(&tc, Split::Train, 1, 4)?;
    for q in &s.samples {
        println!(
            "{:?} | {} | {} | {}",
            q.kind,
            q.question,
            q.answer,
            tok.encode(&format!("{} ASSISTANT: {}", q.question, q.answer))?.len()
        );
    }
    let model = MobileVlm::load(&spec, weights, &device)?;
    let state = TrainingState::new(model, Trainable::Everything, &config.optimizer);
    let t = Instant::now();
    let mut avg = 0.0;
    let every = get("every", 25.0) as usize;
    let (state, _) = pretrain::pretrain(state, &tok, &config, |r, _| {
        avg += r.loss;
        if r.step % every == 0 {
            println!(
                "step {} loss {:.4} gn {:.3} {:.1} s",
                r.step,
                avg / every as f64,
                r.global_norm,
                t.elapsed().as_secs_f64()
            );
            avg = 0.0;
        }
        Ok(Flow::Continue)
    })?;
    let m = state.model.frozen();
    let w = pollster::block_on(m.names().read(&m, |_| true))?;
    std::fs::write("/tmp/base.safetensors", w.to_safetensors(Precision::F32)?)?;
    // evaluate: pretraining kinds on held out
    let mut ev = config.tasks.clone();
    ev.samples_per_picture.referring = 2;
    ev.samples_per_picture.referring_plus = 2;
    ev.samples_per_picture.perception = 2;
    ev.samples_per_picture.open = 2;
    ev.samples_per_picture.existence = 2;
    let set = generate(&ev, Split::Validation, 3, 100)?;
    let enc: Vec<Encoded> =
        set.samples.iter().map(|q| Encoded::prompt(&tok, q.picture, &q.question).unwrap()).collect();
    let pics = set.pictures();
    let rgb: Vec<&[u8]> = pics.iter().map(|p| p.rgb.as_slice()).collect();
    let f = m.vision_tower.forward(patchify(spec.vision.as_ref().unwrap(), &rgb, &device));
    let t = Instant::now();
    let ans = evaluate::answer_all(&m, &tok, &Examples { encoded: &enc, features: &f }, 40, 2)?;
    println!("eval {:.1} s", t.elapsed().as_secs_f64());
    for (q, a) in set.samples.iter().zip(&ans).take(24) {
        println!("{:?} | {} | {} | {}", q.kind, q.question, q.answer, a);
    }
    let sc = scoring::score(&set.samples, &ans, 64, 64)?;
    println!("{:?}", sc.headlines);
    let exact = |k: Kind| {
        let v: Vec<_> = set.samples.iter().zip(&ans).filter(|(s, _)| s.kind == k).collect();
        (v.iter().filter(|(s, a)| &s.answer == *a).count(), v.len())
    };
    println!(
        "caption exact {:?} boxed {:?} open {:?} exist {:?}",
        exact(Kind::Caption),
        exact(Kind::BoxedCaption),
        exact(Kind::Open),
        exact(Kind::Existence)
    );
    Ok(())
}
