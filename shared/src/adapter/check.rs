//! Whether an adapter's tensors are what its configuration makes PEFT expect.

mod naming;
mod outside;
#[cfg(test)]
mod tests;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

pub(super) use naming::Naming;

use super::meaning::is_set;
use super::names::lora_names;
use super::replicate::replicated;
use super::{CONFIG_FILE, LoraConfig, PatternError, Patterns, Targets};
use crate::layout::{Catalog, Layout, Module, ModuleShape, Ranks};
use crate::weights::{Weight, Weights};

/// What an adapter is found to be for a layout.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// Rank of every module; 0 where it has no whole pair of tensors. The layout is the model's decoder, or what
    /// `layer_replication` makes of it.
    pub ranks: Ranks,
    /// Factor of every module's update in PEFT, in the layout's order; 0 where there is no adapter.
    pub scales: Vec<f64>,
    /// Rank and factor of every pair outside the layout.
    pub beside: Vec<(u32, f64)>,
    /// What PEFT would refuse, drop, or leave at its beginning. Empty where the adapter is whole.
    pub problems: Vec<String>,
    /// Keys of the patterns that match nothing: PEFT ignores them, and so does every program that reads patterns.
    pub ignored: Vec<String>,
    /// Why PEFT finds none of the modules with today's transformers, where they have names of before.
    pub outdated: Option<String>,
    /// Why the adapter changes nothing although it is whole: a scale of 0, or a B that was never trained.
    pub idle: Vec<String>,
    /// What is to be known beside that.
    pub notes: Vec<String>,
    /// Modules outside the layout, by name, that the file holds tensors for.
    pub outside: Vec<String>,
}

/// Checks an adapter of LoRA for a model, by PEFT's own rules.
///
/// # Errors
/// A pattern that is no regular expression, or takes too long.
pub fn check(config: &LoraConfig, weights: &Weights, model: &Catalog) -> Result<Check, PatternError> {
    let mut refused = config.refused();
    let repeated = replicated(config, model).unwrap_or_else(|reason| {
        refused.push(reason);
        None
    });
    let model = repeated.as_ref().unwrap_or(model);
    let layout = model.decoder();
    let mut checker = Checker {
        config,
        weights,
        model,
        layout,
        patterns: config.patterns()?,
        targets: config.targets()?,
        naming: Naming::of(weights, model),
        found: Found { problems: refused, ..Found::default() },
    };
    let (mut ranks, mut scales) = (Vec::with_capacity(layout.len()), Vec::with_capacity(layout.len()));
    for module in layout.modules() {
        let (rank, scale) = checker.module(module)?;
        ranks.push(rank);
        scales.push(scale);
    }
    let mut given = ranks.into_iter();
    let ranks = Ranks::from_fn(layout, |_| given.next().unwrap_or(0));
    checker.biases();
    checker.lists()?;
    checker.rest()?;
    checker.keys()?;
    checker.tower()?;
    checker.head_and_projector()?;
    checker.saved();
    checker.tokens();
    let any = ranks.largest() > 0;
    let outdated = checker.outdated();
    let idle = checker.idle(&ranks, &scales);
    let Found { problems, ignored, notes, outside, beside, .. } = checker.told(any);
    Ok(Check { ranks, scales, beside, problems, ignored, outdated, idle, notes, outside })
}

/// What was found so far. Lists of modules are told together.
#[derive(Debug, Default)]
struct Found {
    problems: Vec<String>,
    ignored: Vec<String>,
    notes: Vec<String>,
    /// Modules outside the layout.
    outside: Vec<String>,
    /// Rank and scale of the pairs outside the layout.
    beside: Vec<(u32, f64)>,
    missing: Vec<String>,
    without_a: Vec<String>,
    without_b: Vec<String>,
    dropped: Vec<String>,
    empty: Vec<String>,
    unknown: Vec<String>,
    /// Ranks and shapes that disagree, in words.
    shapes: Vec<String>,
    /// Modules outside the layout whose tensors have other widths than the configuration tells, with these.
    doubtful: Vec<String>,
    /// What is beside A and B and should not be, and what is not and should: by what is said of it.
    companions: BTreeMap<String, Vec<String>>,
    elsewhere: BTreeSet<String>,
}

/// A tensor that PEFT makes beside A and B where the configuration says so.
struct Companion {
    /// How its name ends, in one release or another.
    ends: &'static [&'static str],
    is_wanted: bool,
    /// Whether each adapted module has one where it is wanted.
    is_everywhere: bool,
    /// What is said where it is there and not wanted.
    surplus: &'static str,
    /// What is said where it is wanted and not there.
    lacking: &'static str,
}

impl Companion {
    fn all(config: &LoraConfig) -> [Self; 3] {
        let lora_bias = config.other.get("lora_bias").is_some_and(is_set);
        let bias = config.other.get("bias").and_then(Value::as_str).unwrap_or("none");
        [
            Self {
                ends: &[".lora_magnitude_vector", ".lora_magnitude_vector.weight"],
                is_wanted: config.use_dora,
                is_everywhere: true,
                surplus: "use_dora is off, so that PEFT leaves out the lora_magnitude_vector of",
                lacking: "use_dora is on, and lora_magnitude_vector, which PEFT leaves at its beginning, is missing for",
            },
            Self {
                ends: &[".lora_B.bias"],
                is_wanted: lora_bias,
                is_everywhere: true,
                surplus: "lora_bias is off, so that PEFT leaves out the lora_B.bias of",
                lacking: "lora_bias is on, and lora_B.bias, which PEFT leaves at its beginning, is missing for",
            },
            Self {
                ends: &[".bias", ".base_layer.bias"],
                is_wanted: bias != "none",
                // The base may have none.
                is_everywhere: false,
                surplus: "bias is \"none\", by which no bias of the base was trained, and there is one for",
                lacking: "",
            },
        ]
    }
}

/// How PEFT before 0.7 saved the bias of an adapted module, and still saves that of another.
const PLAIN_BIAS: &str = ".bias";

struct Checker<'a> {
    config: &'a LoraConfig,
    weights: &'a Weights,
    model: &'a Catalog,
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
        self.companions(module, &own, targeted && a.is_some() && b.is_some());
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

    /// What lies beside a module's A and B.
    fn companions(&mut self, module: &Module, own: &str, is_adapted: bool) {
        for companion in Companion::all(self.config) {
            let mut names = companion.ends.iter().map(|end| format!("{own}{end}"));
            let found = names.find_map(|name| Some((self.weights.tensors.get(&name)?, name)));
            let said = match found {
                Some((_, name)) if companion.is_wanted && is_adapted && name == format!("{own}{PLAIN_BIAS}") => {
                    "PEFT keeps the bias of an adapted module as base_layer.bias, and drops the bias of"
                }
                Some((weight, name)) if companion.is_wanted => {
                    if weight.shape != [module.d_out] {
                        self.found.shapes.push(misshapen(&name, weight, &[module.d_out]));
                    }
                    continue;
                }
                Some(_) => companion.surplus,
                None if companion.is_wanted && companion.is_everywhere && is_adapted => companion.lacking,
                None => continue,
            };
            self.found.companions.entry(said.to_owned()).or_default().push(own.to_owned());
        }
    }

    /// Biases of the base that some layers have and others, adapted like them, have not.
    fn biases(&mut self) {
        let is_wanted = self.config.other.get("bias").and_then(Value::as_str).is_some_and(|bias| bias != "none");
        if !is_wanted {
            return;
        }
        let mut by_kind: BTreeMap<&str, [Vec<String>; 2]> = BTreeMap::new();
        for module in self.layout.modules() {
            let own = self.naming.own(&module.name);
            let holds = |end: &str| self.weights.tensors.contains_key(&format!("{own}{end}"));
            if lora_names(&own).iter().all(|name| self.weights.tensors.contains_key(name)) {
                let has = holds(".base_layer.bias") || holds(PLAIN_BIAS);
                by_kind.entry(module.kind.name()).or_default()[usize::from(has)].push(own);
            }
        }
        let without: Vec<String> =
            by_kind.into_values().filter(|[_, with]| !with.is_empty()).flat_map(|[without, _]| without).collect();
        if !without.is_empty() {
            let said = "other layers have a trained bias, and there is none, so that PEFT leaves the base's, for";
            self.found.companions.entry(said.to_owned()).or_default().extend(without);
        }
    }

    fn pair(&mut self, module: &Module, own: &str, a: &Weight, b: &Weight) -> Result<(u32, f64), PatternError> {
        if a.values.is_empty() || b.values.is_empty() {
            self.found.empty.push(own.to_owned());
            return Ok((0, 0.0));
        }
        let rank = self.patterns.rank(own)?;
        if self.rank_is_right(own, rank, a)? {
            self.widths(&lora_names(own), [a, b], module.shape(), rank);
        }
        Ok((rank, self.patterns.scale(own)?))
    }

    /// Compares the shapes of A and B with a matrix's widths.
    fn widths(&mut self, names: &[String; 2], pair: [&Weight; 2], shape: ModuleShape, rank: u32) {
        let rank = rank as usize;
        let wanted = [[rank, shape.d_in], [shape.d_out, rank]];
        for ((name, weight), wanted) in names.iter().zip(pair).zip(wanted) {
            if weight.shape != wanted {
                self.found.shapes.push(misshapen(name, weight, &wanted));
            }
        }
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
        self.found.shapes.push(reason);
        Ok(false)
    }

    /// Targets that are no linear modules but what such modules lie in: PEFT stops at them.
    fn lists(&mut self) -> Result<(), PatternError> {
        if self.config.target_modules.is_none() || self.targets.are_all_linear() {
            return Ok(());
        }
        let mut parents = BTreeSet::new();
        for module in self.layout.modules() {
            let own = self.naming.own(&module.name);
            parents.extend(own.match_indices('.').filter_map(|(dot, _)| Some(own.get(..dot)?.to_owned())));
        }
        for parent in parents {
            if self.targets.adapts(&parent)? {
                self.found.problems.push(format!(
                    "target_modules also means {parent}, which is no linear layer, and PEFT stops there; end what it names with \
                     the names of linear layers"
                ));
                break;
            }
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
                self.found.ignored.push(format!("the pattern key {key:?} matches 0 modules: PEFT ignores it"));
            }
        }
        let mut seen = BTreeSet::new();
        for name in names.iter().filter(|name| self.weights.tensors.contains_key(&lora_names(name)[0])) {
            for overlap in self.patterns.overlaps(name)? {
                let (first, other) = (overlap.first, overlap.other);
                if !seen.insert((first.clone(), other.clone())) {
                    continue;
                }
                let then = if overlap.reordered {
                    "PEFT takes the first, and sorts the keys when it saves, so that the other one counts in the saved adapter"
                        .to_owned()
                } else {
                    format!(
                        "the first counts, and PEFT sorts the keys when it saves: if {other:?} came first in training, it was \
                         trained with another scale"
                    )
                };
                self.found.problems.push(format!(
                    "the pattern keys {first:?} and {other:?} both match {name} with different values: {then}; write one key per \
                     module"
                ));
            }
        }
        Ok(())
    }
}

/// What is said of a tensor of another shape.
fn misshapen(name: &str, weight: &Weight, wanted: &[usize]) -> String {
    format!("{name} is {:?}, and {wanted:?} belongs there", weight.shape)
}
