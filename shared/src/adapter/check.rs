//! Whether an adapter's tensors are what its configuration makes PEFT expect.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::names::{OLD_NESTED, lora_names, module_of};
use super::{ADAPTER_FILE, CONFIG_FILE, LoraConfig, PatternError, Patterns, Targets};
use crate::layout::{Catalog, Layout, Module, Projection, Ranks, is_sparse};
use crate::names::first_names;
use crate::weights::{Weight, Weights};

/// Where transformers keeps the decoder of a vision-language model since 4.52.
const NESTED: &str = "model.language_model.layers";
/// The same path in a decoder that stands alone, and in MobileVLM.
const ALONE: &str = "model.layers";
/// Parts of a path that no decoder's list of layers lies under.
const BESIDE: [&str; 7] = ["vision", "visual", "tower", "image", "audio", "projector", "encoder"];
/// Ends of tensors that belong to a module of the decoder without being its A or B.
const COMPANIONS: [&str; 4] = [".lora_magnitude_vector", ".lora_magnitude_vector.weight", ".lora_B.bias", ".bias"];

/// What an adapter is found to be for a layout.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// Rank of every module; 0 where it has no whole pair of tensors.
    pub ranks: Ranks,
    /// Factor of every module's update in PEFT, in the layout's order; 0 where there is no adapter.
    pub scales: Vec<f64>,
    /// What PEFT would refuse, drop, or leave at its beginning. Empty where the adapter is whole.
    pub problems: Vec<String>,
    /// Why the adapter changes nothing although it is whole: a scale of 0, or a B that was never trained.
    pub idle: Vec<String>,
    /// What is to be known beside that.
    pub notes: Vec<String>,
    /// Modules outside the layout, by name, that the file holds tensors for: they are not checked.
    pub outside: Vec<String>,
}

/// The names under which an adapter has a layout's modules.
#[derive(Debug)]
pub(super) struct Naming {
    /// Path that the layout has and the adapter's trainer had another for.
    replaced: Option<(&'static str, &'static str)>,
}

impl Naming {
    /// Recognizes the path that vision-language models had before transformers 4.52.
    pub(super) fn of(weights: &Weights, model: &Catalog) -> Self {
        let nested = model.decoder().modules().iter().any(|module| in_path(&module.name, NESTED));
        let holds = |path: &str| weights.tensors.keys().any(|name| in_path(name, path));
        // Qwen2-VL and 2.5-VL had their decoder where one that stands alone has it.
        let visual = model.towers().iter().flatten().any(|name| in_path(name, "visual"));
        let old = if holds(OLD_NESTED) {
            Some(OLD_NESTED)
        } else {
            (visual && holds(ALONE) && !holds(NESTED)).then_some(ALONE)
        };
        Self { replaced: old.filter(|_| nested).map(|old| (NESTED, old)) }
    }

    /// A module's name for the adapter's configuration and tensors.
    pub(super) fn own(&self, module: &str) -> String {
        match self.replaced {
            Some((new, old)) if in_path(module, new) => module.replacen(new, old, 1),
            _ => module.to_owned(),
        }
    }

    /// The layout's name of a module or tensor.
    pub(super) fn of_layout(&self, name: &str) -> String {
        let Some((new, old)) = self.replaced else { return name.to_owned() };
        if in_path(name, old) {
            return name.replacen(old, new, 1);
        }
        let head = "language_model.lm_head";
        if name == head || in_path(name, head) {
            return name.replacen(head, "lm_head", 1);
        }
        let beside = ["vision_tower.", "multi_modal_projector.", "visual."].iter().any(|part| name.starts_with(part));
        if beside { format!("model.{name}") } else { name.to_owned() }
    }

    /// The path that it has instead of today's.
    pub(super) fn old(&self) -> Option<&'static str> {
        self.replaced.map(|(_, old)| old)
    }
}

/// Whether a name lies in the list of layers of that path.
fn in_path(name: &str, path: &str) -> bool {
    name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'))
}

/// Checks an adapter of LoRA for a model, by PEFT's own rules.
///
/// # Errors
/// A pattern that is no regular expression, or takes too long.
pub fn check(config: &LoraConfig, weights: &Weights, model: &Catalog) -> Result<Check, PatternError> {
    let layout = model.decoder();
    let naming = Naming::of(weights, model);
    let mut checker = Checker {
        config,
        weights,
        layout,
        patterns: config.patterns()?,
        targets: config.targets()?,
        naming,
        found: Found::default(),
    };
    let (mut ranks, mut scales) = (Vec::with_capacity(layout.len()), Vec::with_capacity(layout.len()));
    for module in layout.modules() {
        let (rank, scale) = checker.module(module)?;
        ranks.push(rank);
        scales.push(scale);
    }
    let mut given = ranks.into_iter();
    let ranks = Ranks::from_fn(layout, |_| given.next().unwrap_or(0));
    checker.rest()?;
    checker.keys()?;
    checker.tower(model.towers())?;
    let any = ranks.largest() > 0;
    let idle = checker.idle(&ranks, &scales);
    let Found { problems, notes, outside, .. } = checker.told(any);
    Ok(Check { ranks, scales, problems, idle, notes, outside })
}

/// What was found so far. Lists of modules are told together.
#[derive(Debug, Default)]
struct Found {
    problems: Vec<String>,
    notes: Vec<String>,
    outside: Vec<String>,
    missing: Vec<String>,
    without_a: Vec<String>,
    without_b: Vec<String>,
    dropped: Vec<String>,
    empty: Vec<String>,
    unknown: Vec<String>,
    elsewhere: BTreeSet<String>,
}

struct Checker<'a> {
    config: &'a LoraConfig,
    weights: &'a Weights,
    layout: &'a Arc<Layout>,
    patterns: Patterns<'a>,
    targets: Targets,
    naming: Naming,
    found: Found,
}

impl Checker<'_> {
    /// Rank and scale of a module of the layout; 0 without a whole pair.
    fn module(&mut self, module: &Module) -> Result<(u32, f64), PatternError> {
        let own = self.naming.own(&module.name);
        let [a, b] = lora_names(&own).map(|name| self.weights.tensors.get(&name));
        // PEFT chooses by the model's type where the configuration does not say.
        let targeted = match self.config.target_modules {
            Some(_) => self.targets.adapts(&own)? || self.is_parameter(&own),
            None => a.or(b).is_some(),
        };
        match (a, b) {
            (None, None) if targeted => self.found.missing.push(own),
            (None, None) => {}
            (Some(_), Some(_)) if !targeted => self.found.dropped.push(own),
            (Some(a), Some(b)) => return self.pair(module, &own, a, b),
            (Some(_), None) => self.found.without_b.push(own),
            (None, Some(_)) => self.found.without_a.push(own),
        }
        Ok((0, 0.0))
    }

    /// Whether `target_parameters` means a module's weight.
    fn is_parameter(&self, own: &str) -> bool {
        let weight = format!("{own}.weight");
        let mut names = self.config.target_parameters.iter().flatten();
        names.any(|name| weight.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
    }

    fn pair(&mut self, module: &Module, own: &str, a: &Weight, b: &Weight) -> Result<(u32, f64), PatternError> {
        if a.values.is_empty() || b.values.is_empty() {
            self.found.empty.push(own.to_owned());
            return Ok((0, 0.0));
        }
        let rank = self.patterns.rank(own)?;
        if self.rank_is_right(own, rank, a)? {
            let wanted = [[rank as usize, module.d_in], [module.d_out, rank as usize]];
            let names = lora_names(own);
            for ((name, weight), shape) in names.iter().zip([a, b]).zip(wanted) {
                if weight.shape != shape {
                    let reason = format!("{name} is {:?}, and {shape:?} belongs there", weight.shape);
                    self.found.problems.push(reason);
                }
            }
        }
        Ok((rank, self.patterns.scale(own)?))
    }

    /// Whether A has as many rows as the configuration says; otherwise it is said why it may not.
    fn rank_is_right(&mut self, own: &str, rank: u32, a: &Weight) -> Result<bool, PatternError> {
        let stored = a.shape.first().copied().unwrap_or(0);
        if rank > 0 && stored == rank as usize {
            return Ok(true);
        }
        let mut reason = format!("{CONFIG_FILE} gives {own} rank {rank}, and its tensor has {stored}");
        let others = self.patterns.rank_keys(own)?;
        if let Some((key, _)) = others.iter().skip(1).find(|(_, rank)| *rank as usize == stored) {
            reason.push_str(&format!(
                ": it has the rank of the key {key:?}, which came first in training; PEFT sorts the keys when it saves, and \
                 the first that matches counts"
            ));
        }
        self.found.problems.push(reason);
        Ok(false)
    }

    /// The tensors that are no pair of the layout's.
    fn rest(&mut self) -> Result<(), PatternError> {
        let stacks: BTreeSet<&str> = self.layout.modules().iter().filter_map(Module::stack).collect();
        let mut outside: BTreeMap<String, [bool; 2]> = BTreeMap::new();
        for (name, weight) in &self.weights.tensors {
            let (module, part) = module_of(name);
            let known = |module: &str| self.layout.find(&self.naming.of_layout(module)).is_some();
            if part.is_some() && known(module) {
                continue;
            }
            if COMPANIONS.iter().find_map(|end| name.strip_suffix(end)).is_some_and(known) {
                continue;
            }
            let of_layout = self.naming.of_layout(module);
            let in_stack = stacks.iter().any(|stack| in_path(&of_layout, stack));
            if in_stack && name.contains(".lora_") && !is_sparse(module) {
                self.found.unknown.push(name.clone());
            } else if let Some(path) = decoder_path(module).filter(|_| name.contains(".lora_")) {
                self.found.elsewhere.insert(path.to_owned());
            } else {
                let pair = outside.entry(module.to_owned()).or_default();
                if let Some(slot) = part.and_then(|part| pair.get_mut(part)) {
                    *slot = true;
                    if weight.values.is_empty() {
                        self.found.empty.push(module.to_owned());
                    }
                }
            }
        }
        for (module, pair) in outside {
            match pair {
                [true, false] => self.found.without_b.push(module.clone()),
                [false, true] => self.found.without_a.push(module.clone()),
                // All experts of a layer are one tensor, of their ranks together.
                [true, true] if is_sparse(&module) => {}
                [true, true] => self.outside_pair(&module)?,
                [false, false] => {}
            }
            self.found.outside.push(module);
        }
        Ok(())
    }

    /// A pair outside the layout, whose widths are not known: ranks can be compared all the same.
    fn outside_pair(&mut self, module: &str) -> Result<(), PatternError> {
        let [a, b] = lora_names(module).map(|name| self.weights.tensors.get(&name));
        let (Some(a), Some(b)) = (a, b) else { return Ok(()) };
        let rank = self.patterns.rank(module)?;
        if self.rank_is_right(module, rank, a)? && b.shape.get(1) != Some(&(rank as usize)) {
            let [_, name] = lora_names(module);
            let shape = &b.shape;
            self.found.problems.push(format!("{name} is {shape:?}, and its second width has to be the rank {rank}"));
        }
        Ok(())
    }

    /// Keys that match nothing, and those whose order PEFT's saving changes.
    fn keys(&mut self) -> Result<(), PatternError> {
        let modules = self.layout.modules().iter().map(|module| self.naming.own(&module.name));
        let parameters = self.config.target_parameters.iter().flatten();
        let parameters = parameters
            .flat_map(|parameter| self.found.outside.iter().map(move |module| format!("{module}.{parameter}")));
        let names: Vec<String> = modules.chain(self.found.outside.iter().cloned()).chain(parameters).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        for (key, matched) in self.patterns.matched(&all)? {
            if matched == 0 {
                self.found.problems.push(format!("the pattern key {key:?} matches 0 modules: PEFT ignores it"));
            }
        }
        let mut reordered = BTreeMap::new();
        let mut overlapping = BTreeMap::new();
        for name in names.iter().filter(|name| self.weights.tensors.contains_key(&lora_names(name)[0])) {
            for overlap in self.patterns.overlaps(name)? {
                let kept = if overlap.reordered { &mut reordered } else { &mut overlapping };
                kept.entry((overlap.first, overlap.other)).or_insert_with(|| name.clone());
            }
        }
        for ((first, other), module) in reordered {
            self.found.problems.push(format!(
                "the pattern keys {first:?} and {other:?} both match {module} with different values: PEFT takes the first, and \
                 sorts the keys when it saves, so that the other one counts in the saved adapter; write one key per module"
            ));
        }
        if let Some(((first, other), module)) = overlapping.into_iter().next() {
            self.found.notes.push(format!(
                "the pattern keys {first:?} and {other:?} both match {module} with different values, and the first counts; \
                 PEFT sorted them when it saved: if {other:?} came first in training, the scale was another one"
            ));
        }
        Ok(())
    }

    /// Modules of the vision tower that the configuration means, too.
    fn tower(&mut self, towers: &[Vec<String>]) -> Result<(), PatternError> {
        let mut hit: Vec<&String> = Vec::new();
        for tower in towers {
            let mut own = Vec::new();
            for name in tower {
                if self.config.target_modules.is_some() && self.targets.adapts(name)? {
                    own.push(name);
                }
            }
            if own.len() > hit.len() {
                hit = own;
            }
        }
        let Some(first) = hit.first() else { return Ok(()) };
        let trained = self.found.outside.iter().any(|name| BESIDE.iter().any(|word| name.contains(word)));
        let names: Vec<&str> = hit.iter().map(|name| name.as_str()).collect();
        let keys: Vec<String> = self
            .patterns
            .matched(&names)?
            .into_iter()
            .filter(|(_, n)| *n > 0)
            .map(|key| {
                let (key, matched) = key;
                format!("the pattern key {key:?} also matches {matched} modules of the vision tower")
            })
            .collect();
        if trained {
            self.found.notes.extend(keys);
            return Ok(());
        }
        let keys = keys.iter().map(|key| format!("; {key}")).collect::<String>();
        let told = format!(
            "target_modules also adapts {} modules of the vision tower, such as {first}, which {ADAPTER_FILE} has no tensors \
             for{keys}; name the decoder's modules by their full path, or exclude the tower with exclude_modules",
            hit.len()
        );
        // Where the decoder's path does not show it, the adapter may well be of the decoder alone.
        let alone = self.layout.modules().iter().find_map(Module::stack) == Some(ALONE);
        let kept = if alone { &mut self.found.notes } else { &mut self.found.problems };
        kept.push(told);
        Ok(())
    }

    /// Why a whole adapter changes nothing.
    fn idle(&self, ranks: &Ranks, scales: &[f64]) -> Vec<String> {
        let adapted = || ranks.iter().zip(scales).filter(|((_, rank), _)| *rank > 0);
        let mut idle = Vec::new();
        if let Some(old) = self.naming.old().filter(|old| *old == ALONE) {
            idle.push(format!(
                "the modules are named {old}.…, as transformers had it before 4.52: with a newer one PEFT finds none of them \
                 and leaves the model as it is; `trainer export --format peft` writes {NESTED}.…"
            ));
        }
        let still: Vec<&str> =
            adapted().filter(|(_, scale)| **scale == 0.0).map(|((module, _), _)| module.name.as_str()).collect();
        if !still.is_empty() {
            idle.push(format!("alpha is 0 in {}: PEFT applies nothing there", first_names(&still)));
        }
        let holds = |module: &Module, part: usize| {
            let names = lora_names(&self.naming.own(&module.name));
            let tensor = names.get(part).and_then(|name| self.weights.tensors.get(name));
            tensor.is_some_and(|tensor| tensor.values.iter().any(|value| *value != 0.0))
        };
        let any = |part: usize| adapted().any(|((module, _), _)| holds(module, part));
        if ranks.largest() > 0 && !any(1) {
            idle.push("lora_B is 0 in every module: this adapter was never trained and changes nothing".to_owned());
        } else if ranks.largest() > 0 && !any(0) {
            idle.push("lora_A is 0 in every module: this adapter changes nothing".to_owned());
        }
        idle
    }

    /// What was found, in words.
    fn told(mut self, any: bool) -> Found {
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
            let is_elsewhere = !found.elsewhere.is_empty();
            if any && !is_elsewhere {
                tell(
                    &mut first,
                    &found.missing,
                    "the configuration targets modules without tensors, which stay untrained:",
                );
            } else if first.is_empty() && !self.weights.tensors.keys().any(|name| name.contains(".lora_")) {
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
        }
        found.problems.splice(0..0, first);
        if !found.outside.is_empty() {
            let (sparse, beside): (Vec<&String>, Vec<&String>) = found.outside.iter().partition(|name| is_sparse(name));
            if !beside.is_empty() {
                let names = first_names(&beside);
                found.notes.push(format!("not checked, since they lie outside the decoder: {names}"));
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

/// Path of the list of layers that a module lies in, where it is one of a decoder's projections.
fn decoder_path(module: &str) -> Option<&str> {
    let layer = Projection::ALL.iter().find_map(|own| module.strip_suffix(own.path())?.strip_suffix('.'))?;
    let (path, number) = layer.rsplit_once('.')?;
    let beside = BESIDE.iter().any(|word| path.contains(word));
    (!beside && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(path)
}

/// What is wrong with the tensors of a decoder that lies elsewhere than the layout's.
fn elsewhere(path: &str, layout: &Layout) -> String {
    let expected = layout.modules().iter().find_map(Module::stack).unwrap_or_default();
    let model = layout.model();
    let why = if expected.len() > path.len() {
        "it was trained on the language model alone"
    } else {
        "it was trained on a vision-language model around it"
    };
    format!(
        "the adapter's modules lie under {path}, and those of {model} under {expected}: {why}, and PEFT would leave {model} \
         as it is; rename its tensors and keys to {expected}"
    )
}
