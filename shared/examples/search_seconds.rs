//! What the search costs between two trials, as `trainer bench search` measures it, in a program that is built in a fraction of
//! the time: for `bench/search --program`.
//!
//! ```text
//! cargo run --release -p hydra-shared --example search_seconds --no-default-features --features performance \
//!   -- --trials 16 --layers 24 --performance-model transformer --runs 3
//! ```

#![allow(clippy::print_stdout, reason = "it prints what it measured")]

use std::time::Instant;

use hydra_shared::performance::ModelKind;
use hydra_shared::search::{made_up_number, made_up_study};
use hydra_shared::stages::{StageConfig, cluster_layers};
use hydra_shared::vlm::spec::ModelSpec;

/// The value of `--NAME`, or else this one.
fn argument(name: &str, default: &str) -> String {
    let given: Vec<String> = std::env::args().collect();
    let at = given.iter().position(|argument| argument.strip_prefix("--") == Some(name));
    at.and_then(|at| given.get(at + 1)).map_or(default.to_owned(), String::clone)
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or_default()
}

/// Seconds of processor time that this process has taken, in all threads, where the system tells.
fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which may hold anything: user and system time are the 12th and 13th field, in hundredths.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let hundredths = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((hundredths(11)? + hundredths(12)?) / 100.0)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (trials, layers) = (argument("trials", "16").parse()?, argument("layers", "24").parse()?);
    let (benchmarks, runs) = (argument("benchmarks", "4").parse()?, argument("runs", "3").parse::<usize>()?);
    let name = argument("performance-model", "transformer");
    let model = ModelKind::from_name(&name).ok_or_else(|| format!("--performance-model {name} is not known"))?;
    let mut spec = ModelSpec::preset("mobilevlm-1.7b")?;
    spec.decoder.layers = layers;
    let search = made_up_study(&spec.layout()?, trials, benchmarks, model)?;
    let (mut all, mut processor) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        // A fresh copy each time: a proposal becomes part of the study.
        let mut search = search.clone();
        let (started, before) = (Instant::now(), processor_seconds());
        search.ask()?;
        all.push(started.elapsed().as_secs_f64());
        processor.extend(before.and_then(|before| Some(processor_seconds()? - before)));
    }
    let norms: Vec<f64> = (0..layers).map(|layer| made_up_number(layer as u64, 3)).collect();
    let config = StageConfig { count: StageConfig::default().count.min(layers), ..StageConfig::default() };
    let started = Instant::now();
    cluster_layers(&norms, &config)?;
    let document = serde_json::json!({
        "trials": trials,
        "layers": layers,
        "performance_model": name,
        "stages_seconds": started.elapsed().as_secs_f64(),
        "propose_seconds": median(all.clone()),
        "all_propose_seconds": all,
        "processor_seconds": median(processor),
    });
    println!("{document}");
    Ok(())
}
