//! `trainer verify`: will an adapter do what it is meant to do, and where?

use std::path::PathBuf;

use anyhow::Result;
use hydra_shared::adapter::{Consumer, LoraConfig};
use hydra_shared::layout::Layout;
use serde::Serialize;

use super::common::Context;
use crate::adapter::peft;
use crate::error::Reported;
use crate::model::spec;
use crate::output::{table, thousands};

const AFTER_HELP: &str = "\
Examples:
  trainer verify my-adapter --model mobilevlm-1.7b
  trainer verify my-adapter --model path/to/config.json --base-rank 16 --json

Checks that every key of rank_pattern and alpha_pattern matches exactly one module, that the tensors have the declared ranks
and finite values, and that the parameters stay within the budget of uniform LoRA at --base-rank; and shows by which factor
each program that serves LoRA would scale the updates. The exit code is 1 if a check fails. vLLM and llama.cpp read no
patterns: an adapter that is wrong there can be written again with `trainer export --format uniform`.";

/// Check an adapter: patterns, shapes, budget, and its scale in PEFT, vLLM and llama.cpp
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Folder with adapter_config.json and adapter_model.safetensors
    adapter: PathBuf,
    /// Model that it is for: a preset or a Hugging Face config.json
    #[arg(long, value_name = "PRESET|FILE")]
    model: String,
    /// Rank of the uniform LoRA whose parameters are the budget
    #[arg(long, value_name = "RANK")]
    base_rank: Option<u32>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document {
    passed: bool,
    /// Adapted modules, and modules of the model.
    modules: [usize; 2],
    /// What vLLM's --max-lora-rank must not be below.
    largest_rank: u32,
    trainable_parameters: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<u64>,
    /// Pattern keys that match no module or several, with how many.
    loose_keys: Vec<(String, usize)>,
    consumers: Vec<Consumer>,
    problems: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// An adapter that cannot be read or is for another model; after the result is printed, any check that failed.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let config = spec::load(&args.model)?;
    let layout = config.layout()?;
    let adapter = peft::open(&args.adapter, &layout)?;
    let ranks = &adapter.ranks;
    let trainable_parameters = ranks.parameters();
    let budget = args.base_rank.map(|rank| layout.lora_parameters(rank));
    let loose_keys = loose_keys(&adapter.config, &layout)?;
    let mut problems: Vec<String> =
        loose_keys.iter().map(|(key, matched)| format!("the pattern key {key:?} matches {matched} modules")).collect();
    if let Some(budget) = budget.filter(|budget| trainable_parameters > *budget) {
        problems.push(format!(
            "{} trainable parameters are more than the budget of {}",
            thousands(trainable_parameters),
            thousands(budget)
        ));
    }
    let modules = [ranks.iter().filter(|(_, rank)| *rank > 0).count(), layout.len()];
    let largest_rank = ranks.largest();
    let passed = problems.is_empty();
    let consumers = adapter.consumers();
    let document =
        Document { passed, modules, largest_rank, trainable_parameters, budget, loose_keys, consumers, problems };
    context.output.result(&document, || text(&document))?;
    if passed { Ok(()) } else { Err(Reported { message: document.problems.join("; ") }.into()) }
}

/// Keys of `rank_pattern` and `alpha_pattern` that match no module or several, with how many.
fn loose_keys(config: &LoraConfig, layout: &Layout) -> Result<Vec<(String, usize)>> {
    let modules: Vec<&str> = layout.modules().iter().map(|module| module.name.as_str()).collect();
    let matched = config.patterns()?.matched(&modules)?;
    Ok(matched.into_iter().filter(|(_, modules)| *modules != 1).collect())
}

fn text(document: &Document) -> String {
    let [adapted, all] = document.modules;
    let budget = document.budget.map_or(String::new(), |budget| format!(" of {}", thousands(budget)));
    let rows = document.consumers.iter().map(|consumer| {
        let factor =
            if consumer.right { "1".to_owned() } else { format!("{:.3} to {:.3}", consumer.least, consumer.most) };
        vec![consumer.name.to_owned(), factor, if consumer.right { "right" } else { "WRONG" }.to_owned()]
    });
    format!(
        "{adapted} of {all} modules adapted, ranks up to {}, {}{budget} trainable parameters; shapes, ranks and values are \
         in order\n\n{}",
        document.largest_rank,
        thousands(document.trainable_parameters),
        table(&["program", "scale, times PEFT's", ""], &[1], rows)
    )
}

#[cfg(test)]
mod tests {
    use hydra_shared::vlm::spec::preset_layout;

    use super::*;

    #[test]
    fn pattern_keys_that_match_nothing_or_several_modules_are_counted() {
        let config = r#"{"peft_type": "LORA", "r": 3, "alpha_pattern": {"nothing": 2},
            "rank_pattern": {"model.layers.0.self_attn.q_proj": 3, "up_proj": 3, "nothing": 4}}"#;
        let config = LoraConfig::from_json(config).unwrap();
        let found = loose_keys(&config, &preset_layout("tiny-mobilevlm").unwrap()).unwrap();
        assert_eq!(found, [("up_proj".to_owned(), 6), ("nothing".to_owned(), 0)]);
    }
}
