//! What was found, in words.

use super::naming::{ALONE, NESTED};
use super::{Checker, Found};
use crate::adapter::ADAPTER_FILE;
use crate::adapter::names::{embedding_names, lora_names};
use crate::layout::{Layout, Module, Ranks, is_sparse};
use crate::names::{first_names, first_sentences};

impl Checker<'_> {
    /// Why today's PEFT and transformers find none of the modules.
    pub(super) fn outdated(&self) -> Option<String> {
        let old = self.naming.old().filter(|old| *old == ALONE)?;
        Some(format!(
            "the modules are named {old}.…, as transformers had it before 4.52: with a newer one PEFT finds none of them \
             and leaves the model as it is; `trainer export --format peft` writes {NESTED}.…"
        ))
    }

    /// Why a whole adapter changes nothing.
    pub(super) fn idle(&mut self, ranks: &Ranks, scales: &[f64]) -> Vec<String> {
        let adapted =
            || ranks.iter().zip(scales).filter(|((_, rank), _)| *rank > 0).map(|((module, _), scale)| (module, *scale));
        let mut idle = Vec::new();
        let still: Vec<&str> =
            adapted().filter(|(_, scale)| *scale == 0.0).map(|(module, _)| module.name.as_str()).collect();
        if !still.is_empty() {
            idle.push(format!("alpha is 0 in {}: PEFT applies nothing there", first_names(still)));
        }
        let tensors = &self.weights.tensors;
        let counts =
            |name: &String| tensors.get(name).is_some_and(|tensor| tensor.values.iter().any(|value| *value != 0.0));
        let pairs: Vec<[String; 2]> = adapted().map(|(module, _)| lora_names(&self.naming.own(&module.name))).collect();
        let any = |part: usize| pairs.iter().filter_map(|pair| pair.get(part)).any(counts);
        let is_whole = |name: &&String| !name.contains(".lora_") && !name.contains(".base_layer.");
        let changes_outside = self
            .found
            .outside
            .iter()
            .any(|module| [lora_names(module), embedding_names(module)].iter().any(|pair| pair.iter().all(counts)))
            || tensors.keys().filter(is_whole).any(counts);
        if pairs.iter().any(|pair| pair.iter().all(counts))
            || (pairs.is_empty() && (changes_outside || self.found.beside.is_empty()))
        {
            return idle;
        }
        let (matrix, reason) = match (any(0), any(1)) {
            (_, false) => ("lora_B is", "this adapter was never trained and changes nothing"),
            (false, true) => ("lora_A is", "this adapter changes nothing"),
            (true, true) => ("lora_A or lora_B is", "this adapter changes nothing"),
        };
        if changes_outside {
            let note = format!("{matrix} 0 in every module of the decoder: what this adapter changes lies outside it");
            self.found.notes.push(note);
        } else {
            idle.push(format!("{matrix} 0 in every module: {reason}"));
        }
        idle
    }

    /// What was found, in words. `any`: whether a module of the layout has its pair.
    pub(super) fn told(mut self, any: bool) -> Found {
        let model = self.layout.model();
        let found = &mut self.found;
        let mut first = Vec::new();
        if self.weights.tensors.is_empty() {
            first.push(format!("{ADAPTER_FILE} holds no tensors: PEFT would leave every module untrained"));
        } else {
            for path in &found.elsewhere {
                first.push(elsewhere(path, self.layout));
            }
            tell(&mut first, &found.unknown, &format!("this adapter is for another model: {model} has no module for"));
            tell(&mut first, &found.without_b, "lora_B is missing for");
            tell(&mut first, &found.without_a, "lora_A is missing for");
            tell(
                &mut first,
                &found.empty,
                "tensors without values, as DeepSpeed's ZeRO-3 leaves them where they were not gathered before saving, for",
            );
            tell(
                &mut first,
                &found.dropped,
                "the configuration does not target what there are tensors for, and PEFT drops them:",
            );
            let is_any = any || !found.beside.is_empty();
            let is_lora = self.weights.tensors.keys().any(|name| name.contains(".lora_"));
            for (said, modules) in found.companions.iter().filter(|_| is_lora) {
                tell(&mut first, modules, said);
            }
            if is_any && found.elsewhere.is_empty() {
                tell(
                    &mut first,
                    &found.missing,
                    "the configuration targets modules without tensors, which stay untrained:",
                );
            } else if first.is_empty() && !is_lora {
                first.push(format!(
                    "{ADAPTER_FILE} holds the weights of a model ({}) and no adapter: give the folder that PEFT saved",
                    first_names(&found.outside)
                ));
            } else if first.is_empty() && !found.outside.is_empty() {
                first.push(format!(
                    "no module of {model}'s decoder is adapted; it holds tensors for {}",
                    first_names(&found.outside)
                ));
            }
            if !any && is_any {
                found
                    .notes
                    .push(format!("no module of {model}'s decoder is adapted: this adapter is for what lies outside"));
            }
        }
        if !found.shapes.is_empty() {
            first.push(first_sentences(&found.shapes));
        }
        if !found.doubtful.is_empty() {
            let said = first_sentences(&found.doubtful);
            found.notes.push(format!("the model's configuration tells other widths than the tensors have: {said}"));
        }
        if found.ignored.len() > 1 {
            found.ignored = vec![first_sentences(&found.ignored)];
        }
        found.problems.splice(0..0, first);
        if !found.outside.is_empty() {
            let (sparse, beside): (Vec<&String>, Vec<&String>) = found.outside.iter().partition(|name| is_sparse(name));
            if !beside.is_empty() {
                let names = first_names(&beside);
                found.notes.push(format!("not checked in full, since they lie outside the decoder: {names}"));
            }
            if !sparse.is_empty() {
                let names = first_names(&sparse);
                found.notes.push(format!("not checked, since they are experts or choose among them: {names}"));
            }
        }
        if let Some(old) = self.naming.old().filter(|old| *old != ALONE) {
            found.notes.push(format!(
                "the modules are named {old}.…, as transformers had it before 4.52; `trainer export --format peft` \
                 writes {NESTED}.…"
            ));
        }
        if self.config.target_modules.is_none() {
            let note = "target_modules is not given, and PEFT chooses by the model's type: only the modules that have \
                        tensors were checked";
            found.notes.push(note.to_owned());
        }
        self.found
    }
}

/// Tells names together, if there are any.
fn tell(told: &mut Vec<String>, names: &[String], what: &str) {
    if !names.is_empty() {
        told.push(format!("{what} {}", first_names(names)));
    }
}

/// What is wrong with the tensors of a decoder that lies elsewhere than the layout's.
fn elsewhere(path: &str, layout: &Layout) -> String {
    let expected = layout.modules().iter().find_map(Module::stack).unwrap_or_default();
    let model = layout.model();
    let why = if path.starts_with("base_model.model.") {
        "PEFT's prefix stands there twice, as where a model that PEFT had wrapped was wrapped again"
    } else if expected.len() > path.len() {
        "it was trained on the language model alone"
    } else {
        "it was trained on a vision-language model around it"
    };
    format!(
        "the adapter's modules lie under {path}, and those of {model} under {expected}: {why}, and PEFT would leave {model} \
         as it is; rename its tensors and keys to {expected}"
    )
}
