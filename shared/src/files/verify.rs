//! Will an adapter do what it is meant to do, and where: what `trainer verify` finds.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::error::{Kind, ResultExt, failure};
use super::peft;
use super::spec::Described;
use crate::adapter::{AdapterFolder, Consumer, PEFT_PREFIX, StrangeNames, check, judge, none_right, vllm_rank};
use crate::layout::{Kind as ModuleKind, Ranks};
use crate::names::{first_names, thousands};

/// What is found: what `trainer verify --json` prints.
#[derive(Debug, Serialize)]
pub struct Verification {
    /// Whether nothing is wrong.
    pub passed: bool,
    /// Adapted modules, and modules of the model.
    pub modules: [usize; 2],
    /// The largest rank.
    pub largest_rank: u32,
    /// The value for vLLM's --max-lora-rank; null where it has none that is large enough.
    pub vllm_max_lora_rank: Option<u32>,
    /// Parameters of its matrices.
    pub trainable_parameters: u64,
    /// Those of uniform LoRA at the base rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
    /// What each program makes of it.
    pub consumers: Vec<Consumer>,
    /// What is wrong.
    pub problems: Vec<String>,
    /// What has to be known.
    pub notes: Vec<String>,
    /// Modules outside the decoder that the adapter holds tensors for; of them only pairs, ranks and known widths were checked.
    pub not_checked: Vec<String>,
}

/// Checks the adapter in a folder against a model.
///
/// # Errors
/// An adapter that cannot be read, or is none of LoRA.
pub fn verify(adapter: &Path, model: &Described, base_rank: Option<u32>) -> Result<Verification> {
    let place = || adapter.display().to_string();
    let AdapterFolder { config, weights, names, .. } = peft::read(adapter)?;
    if !config.is_lora() {
        let message = format!("{}: peft_type is {:?}, and only LORA can be checked", place(), config.peft_type);
        return Err(failure(Kind::Data, message));
    }
    let found = check(&config, &weights, &model.catalog).or_fail(Kind::Data, place)?;
    let ranks = &found.ranks;
    let trainable_parameters = ranks.parameters();
    let budget = base_rank.map(|rank| uniform_parameters(ranks, rank));
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
    Ok(Verification {
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
    })
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
             than default, or modules_to_save as in memory, such as {first}: PEFT finds none of them, and leaves their modules as \
             they are or stops; `trainer export --format peft` writes its names",
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

#[cfg(test)]
mod tests {
    use crate::layout::Module;
    use crate::vlm::spec::preset_layout;

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
