//! `trainer verify`: will an adapter do what it is meant to do, and where?

use std::path::PathBuf;

use anyhow::Result;
use hydra_shared::adapter::{AdapterFolder, Consumer, PEFT_PREFIX, StrangeNames, check, judge, none_right, vllm_rank};
use hydra_shared::layout::{Kind as ModuleKind, Ranks};
use hydra_shared::names::{first_names, first_sentences};
use serde::Serialize;

use super::common::Context;
use crate::adapter::peft;
use crate::error::{Kind, Reported, ResultExt, failure};
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

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document {
    passed: bool,
    /// Adapted modules, and modules of the model.
    modules: [usize; 2],
    largest_rank: u32,
    /// The value for vLLM's --max-lora-rank; null where it has none that is large enough.
    vllm_max_lora_rank: Option<u32>,
    trainable_parameters: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<u64>,
    consumers: Vec<Consumer>,
    problems: Vec<String>,
    notes: Vec<String>,
    /// Modules outside the decoder that the adapter holds tensors for; of them only pairs, ranks and known widths were checked.
    not_checked: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// An adapter that cannot be read; after the result is printed, any check that failed.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let model = spec::load_catalog(&args.model)?;
    let place = || args.adapter.display().to_string();
    let AdapterFolder { config, weights, names, .. } = peft::read(&args.adapter)?;
    if !config.is_lora() {
        let message = format!("{}: peft_type is {:?}, and only LORA can be checked", place(), config.peft_type);
        return Err(failure(Kind::Data, message));
    }
    let found = check(&config, &weights, &model.catalog).or_fail(Kind::Data, place)?;
    let ranks = &found.ranks;
    let trainable_parameters = ranks.parameters();
    let budget = args.base_rank.map(|rank| uniform_parameters(ranks, rank));
    let named: Vec<&str> = weights.tensors.keys().chain(&names.live).map(String::as_str).collect();
    let modules: Vec<(u32, f64)> = ranks.as_slice().iter().copied().zip(found.scales).chain(found.beside).collect();
    let mut consumers = judge(&config, &modules, named);
    let mut problems = [found.problems, name_problems(&names), found.outdated.into_iter().collect()].concat();
    if !problems.is_empty() {
        consumers = none_right(consumers);
    }
    problems.extend(found.ignored.into_iter().chain(found.idle));
    if let Some(budget) = budget.filter(|budget| trainable_parameters > *budget) {
        problems.push(format!(
            "{} trainable parameters are more than the budget of {}",
            thousands(trainable_parameters),
            thousands(budget)
        ));
    }
    let mut notes = found.notes;
    notes.extend(config.beyond_plain_lora().map(|what| format!("this is more than plain LoRA: {what}")));
    model.notes.iter().for_each(|note| context.output.note(format_args!("note: {note}")));
    notes.iter().for_each(|note| context.output.warn(note));
    let document = Document {
        passed: problems.is_empty(),
        modules: [ranks.iter().filter(|(_, rank)| *rank > 0).count(), ranks.layout().len()],
        largest_rank: ranks.largest(),
        vllm_max_lora_rank: vllm_rank(&config),
        trainable_parameters,
        budget,
        consumers,
        problems,
        notes,
        not_checked: found.outside,
    };
    context.output.result(&document, || text(&document))?;
    if document.passed { Ok(()) } else { Err(Reported { message: first_sentences(&document.problems) }.into()) }
}

/// Parameters of uniform LoRA on the modules that an adapter has; in mixed ranks, which a plan may have made that dropped some,
/// on all modules of their kinds.
fn uniform_parameters(ranks: &Ranks, rank: u32) -> u64 {
    let adapted = || ranks.iter().filter(|(_, rank)| *rank > 0);
    let kinds: Vec<&ModuleKind> = adapted().map(|(module, _)| &module.kind).collect();
    let mut own = adapted().map(|(_, rank)| rank);
    let first = own.next();
    let is_mixed = own.any(|rank| Some(rank) != first);
    Ranks::from_fn(ranks.layout(), |module| {
        let counts = if is_mixed { kinds.contains(&&module.kind) } else { ranks.get(&module.name) > Some(0) };
        if counts { rank } else { 0 }
    })
    .parameters()
}

/// What is wrong with the names of the tensors.
fn name_problems(names: &StrangeNames) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(first) = names.lost.first() {
        problems.push(format!(
            "{} tensors have names that do not begin with {PEFT_PREFIX} and a module's path, or hold another adapter's name \
             than default, such as {first}: PEFT finds none of them and leaves their modules as they are; \
             `trainer export --format peft` writes its names",
            names.lost.len()
        ));
    }
    if !names.twice.is_empty() {
        problems.push(format!(
            "two tensors of different values are there for one name, as PEFT saves it and as in memory, and PEFT takes one of \
             them: {}",
            first_names(&names.twice)
        ));
    }
    problems
}

fn text(document: &Document) -> String {
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

#[cfg(test)]
mod tests {
    use hydra_shared::layout::Module;
    use hydra_shared::vlm::spec::preset_layout;

    use super::*;

    #[test]
    fn uniform_lora_is_counted_on_the_modules_that_are_adapted_and_on_those_that_a_plan_dropped() {
        let layout = preset_layout("tiny-mobilevlm").unwrap();
        let is_q_or_v = |module: &Module| module.name.ends_with("q_proj") || module.name.ends_with("v_proj");
        let own = |counts: &dyn Fn(&Module) -> bool| -> u64 {
            layout.modules().iter().filter(|module| counts(module)).map(Module::rank_unit_cost).sum()
        };
        let uniform = Ranks::from_fn(&layout, |module| if is_q_or_v(module) { 4 } else { 0 });
        assert_eq!(uniform_parameters(&uniform, 8), 8 * own(&is_q_or_v));
        let first = |module: &Module| is_q_or_v(module) && module.layer == Some(0);
        let one_layer = Ranks::from_fn(&layout, |module| if first(module) { 4 } else { 0 });
        assert_eq!(uniform_parameters(&one_layer, 8), 8 * own(&first));
        let mixed = Ranks::from_fn(&layout, |module| match (first(module), module.name.ends_with("q_proj")) {
            (true, true) => 6,
            (true, false) => 2,
            _ => 0,
        });
        assert_eq!(uniform_parameters(&mixed, 8), 8 * own(&is_q_or_v));
        assert_eq!(uniform_parameters(&Ranks::uniform(&layout, 0), 8), 0);
    }
}
