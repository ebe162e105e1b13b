//! `trainer verify`: will an adapter do what it is meant to do, and where?

use std::path::PathBuf;

use anyhow::Result;
use hydra_shared::files::verify::{Verification, verify};
use hydra_shared::names::first_sentences;

use super::common::Context;
use crate::error::Reported;
use crate::model::spec;
use crate::output::{table, thousands};

const AFTER_HELP: &str = "\
Examples:
  trainer verify my-adapter --model mobilevlm-1.7b
  trainer verify my-adapter --model path/to/config.json --base-rank 16 --json
  trainer verify my-adapter --model path/to/model.safetensors.index.json

Checks, by PEFT's own rules, that every module of the decoder which adapter_config.json targets has a lora_A [r, d_in] and a
lora_B [d_out, r] of its rank, with finite values, and that no other one has; that every key of rank_pattern and alpha_pattern
matches a module, and that PEFT's sorting of the keys changes nothing; that the adapter was trained at all and its alpha is not
0; that it means the decoder and not the vision tower as well; that magnitudes and biases are there where the configuration says
so, and nowhere else; and that the parameters stay within the budget: those of uniform LoRA at --base-rank on the modules that it
adapts (in mixed ranks on all modules of their kinds, since a plan may have dropped some). Outside the decoder (vision tower,
projector, output head, embeddings, modules_to_save) it checks that what is targeted has its tensors, in their ranks and in those
widths that the model's configuration tells. The exit code is 1 if a check fails.

Then it shows by which factor each program that serves LoRA would scale the updates, and what it does not read. vLLM before
0.32, llama.cpp's converter and Ollama read no patterns: an adapter that is wrong there can be written again with
`trainer export --format uniform` or `gguf`.";

/// Check an adapter: tensors, patterns, budget, and its scale in PEFT, vLLM, llama.cpp, Ollama and mlx-lm
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Folder with adapter_config.json and adapter_model.safetensors
    adapter: PathBuf,
    /// Model that it is for: a preset, a Hugging Face config.json, a checkpoint (model.safetensors or its index, of which only
    /// headers are read), or the folder of either
    #[arg(long, value_name = "PRESET|FILE")]
    model: String,
    /// Rank of the uniform LoRA whose parameters are the budget
    #[arg(long, value_name = "RANK")]
    base_rank: Option<u32>,
}

/// Runs the command.
///
/// # Errors
/// An adapter that cannot be read; after the result is printed, any check that failed.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let model = spec::load_catalog(&args.model)?;
    let document = verify(&args.adapter, &model, args.base_rank)?;
    model.notes.iter().for_each(|note| context.output.note(format_args!("note: {note}")));
    document.notes.iter().for_each(|note| context.output.warn(note));
    context.output.result(&document, || text(&document))?;
    if document.passed { Ok(()) } else { Err(Reported { message: first_sentences(&document.problems) }.into()) }
}

fn text(document: &Verification) -> String {
    let [adapted, all] = document.modules;
    let budget = document.budget.map_or(String::new(), |budget| format!(" of {}", thousands(budget)));
    let rows = document.consumers.iter().map(|consumer| {
        let factor = match (consumer.right, consumer.least, consumer.most) {
            (true, ..) => "1".to_owned(),
            (_, Some(least), Some(most)) => format!("{least:.3} to {most:.3}"),
            _ => "-".to_owned(),
        };
        let verdict = if consumer.right { "right" } else { "WRONG" };
        let reason = consumer.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        vec![consumer.name.to_owned(), factor, verdict.to_owned() + &reason]
    });
    let state = if document.passed { "; tensors, ranks and values are in order" } else { "" };
    let vllm = document
        .vllm_max_lora_rank
        .map_or_else(|| "above what vLLM can, 512".to_owned(), |rank| format!("in vLLM --max-lora-rank {rank}"));
    format!(
        "{adapted} of {all} modules adapted, ranks up to {} ({vllm}), {}{budget} trainable parameters{state}\n\n{}",
        document.largest_rank,
        thousands(document.trainable_parameters),
        table(&["program", "scale, times PEFT's", ""], &[1], rows)
    )
}
