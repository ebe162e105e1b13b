//! What an adapter holds, or should hold, outside the layout: a vision tower, a projector, the output head, embeddings.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::naming::{ALONE, in_path};
use super::{Checker, misshapen};
use crate::adapter::names::{embedding_names, is_beside, lora_names, module_of};
use crate::adapter::{ADAPTER_FILE, PatternError};
use crate::layout::{Module, Projection, is_sparse};
use crate::names::first_names;
use crate::weights::Weight;

/// Ends of tensors that belong to a module of the decoder without being its A or B.
const COMPANIONS: [&str; 5] =
    [".lora_magnitude_vector", ".lora_magnitude_vector.weight", ".lora_B.bias", ".base_layer.bias", ".bias"];
/// The output head.
const HEAD: &str = "lm_head";
/// The embedding of tokens.
const EMBEDDING: &str = "embed_tokens";
/// What PEFT lists in `modules_to_save` for every classifier, whichever of the two its model has.
const CLASSIFIERS: [&str; 2] = ["classifier", "score"];

impl Checker<'_> {
    /// The tensors that are no pair of the layout's.
    pub(super) fn rest(&mut self) -> Result<(), PatternError> {
        let stacks: BTreeSet<&str> = self.layout.modules().iter().filter_map(Module::stack).collect();
        let mut outside = BTreeSet::new();
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
            } else if name.contains(".lora_") && self.is_beyond_a_tower(&of_layout) {
                self.found.unknown.push(name.clone());
            } else {
                outside.insert(module.to_owned());
                self.whole(name, &of_layout, weight);
            }
        }
        for module in outside {
            for (names, is_embedding) in [(lora_names(&module), false), (embedding_names(&module), true)] {
                let [a, b] = [&names[0], &names[1]].map(|name| self.weights.tensors.get(name));
                match (a, b) {
                    (None, None) => {}
                    (Some(_), None) => self.found.without_b.push(module.clone()),
                    (None, Some(_)) => self.found.without_a.push(module.clone()),
                    (Some(a), Some(b)) if a.values.is_empty() || b.values.is_empty() => {
                        self.found.empty.push(module.clone());
                    }
                    // All experts of a layer are one tensor, of their ranks together.
                    (Some(_), Some(_)) if is_sparse(&module) => {}
                    (Some(a), Some(b)) => self.outside_pair(&module, &names, [a, b], is_embedding)?,
                }
            }
            self.found.outside.push(module);
        }
        Ok(())
    }

    /// Whether a module lies in a layer that a known tower, whose other layers it is named like, does not have.
    fn is_beyond_a_tower(&self, module: &str) -> bool {
        let Some((path, layer, _)) = in_layer(module) else { return false };
        let known = self.model.towers().iter().flatten().filter_map(|name| in_layer(name));
        let mut layers = known.filter(|(own, ..)| *own == path).map(|(_, layer, _)| layer).peekable();
        layers.peek().is_some() && layers.all(|own| own < layer)
    }

    /// A weight that was saved whole: of the head and the embedding it is known how large it is.
    fn whole(&mut self, name: &str, module: &str, weight: &Weight) {
        let is_weight = !name.contains(".lora_") && name.ends_with(".weight");
        let is_head = ends_in(module, HEAD);
        let Some(shape) = self.model.other(module).filter(|_| is_weight) else { return };
        if !is_head && !ends_in(module, EMBEDDING) {
            // Another release may build a projector otherwise.
            if weight.shape.len() == 2 && weight.shape != [shape.d_out, shape.d_in] {
                let said = format!("{module} is {} → {} there, and {:?} here", shape.d_in, shape.d_out, weight.shape);
                self.found.doubtful.push(said);
            }
            return;
        }
        // A row for every token in both.
        let wanted = if is_head { [shape.d_out, shape.d_in] } else { [shape.d_in, shape.d_out] };
        if weight.shape != wanted {
            let remedy = if weight.shape.get(1) == wanted.get(1) {
                "; if tokens were added, give the config.json of the model that has them"
            } else {
                ""
            };
            self.found.shapes.push(misshapen(name, weight, &wanted) + remedy);
        }
    }

    /// A pair outside the layout. Where its widths are not known, ranks can be compared all the same.
    fn outside_pair(
        &mut self,
        module: &str,
        names: &[String; 2],
        pair: [&Weight; 2],
        is_embedding: bool,
    ) -> Result<(), PatternError> {
        let targeted = match self.config.target_modules {
            Some(_) if is_embedding && self.targets.are_all_linear() => false,
            Some(_) => self.targets.adapts(module)? || self.is_parameter(module),
            None => true,
        };
        if !targeted {
            self.found.dropped.push(module.to_owned());
            return Ok(());
        }
        let rank = self.patterns.rank(module)?;
        let [a, b] = pair;
        if self.rank_is_right(module, rank, a)? {
            let of_layout = self.naming.of_layout(module);
            let known = self.model.other(&of_layout);
            if let Some(shape) = known.filter(|_| ends_in(&of_layout, HEAD) || ends_in(&of_layout, EMBEDDING)) {
                self.widths(names, pair, shape, rank);
            } else if b.shape.get(1) != Some(&(rank as usize)) {
                let [_, name] = names;
                let reason = format!("{name} is {:?}, and its second width has to be the rank {rank}", b.shape);
                self.found.shapes.push(reason);
            } else if let Some(shape) = known {
                // Another release may build a tower otherwise.
                let found = [a.shape.get(1), b.shape.first()];
                if found != [Some(&shape.d_in), Some(&shape.d_out)] {
                    let (a, b) = (&a.shape, &b.shape);
                    let said = format!("{module} is {} → {} there, and {a:?} and {b:?} here", shape.d_in, shape.d_out);
                    self.found.doubtful.push(said);
                }
            }
        }
        self.found.beside.push((rank, self.patterns.scale(module)?));
        Ok(())
    }

    /// Modules of the vision tower that the configuration means, too.
    pub(super) fn tower(&mut self) -> Result<(), PatternError> {
        if self.config.target_modules.is_none() {
            return Ok(());
        }
        // In the names that the file has, or else in those that the configuration means most of.
        let (mut names, mut best) = (Vec::new(), (0, 0));
        for tower in self.model.towers() {
            let mut hit: Vec<String> = Vec::new();
            for name in tower.iter().map(|name| self.naming.own(name)) {
                if self.targets.adapts(&name)? {
                    hit.push(name);
                }
            }
            let stored = hit.iter().filter(|name| self.holds_any(name)).count();
            let found = (stored, hit.len());
            if found > best {
                (names, best) = (hit, found);
            }
        }
        let (stored, meant) = best;
        if stored == 0 {
            self.uneven()?;
        }
        let Some(first) = names.first() else { return Ok(()) };
        let is_of_tower = |name: &String| is_beside(name) && !name.contains("projector") && self.holds_any(name);
        let trained = self.found.outside.iter().any(is_of_tower);
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        let keys: Vec<String> = self
            .patterns
            .matched(&all)?
            .into_iter()
            .filter(|(_, matched)| *matched > 0)
            .map(|(key, matched)| format!("the pattern key {key:?} also matches {matched} modules of the vision tower"))
            .collect();
        if trained {
            self.found.notes.extend(keys);
            if stored > 0 {
                self.lacking(&names);
            }
            return Ok(());
        }
        let keys = keys.iter().map(|key| format!("; {key}")).collect::<String>();
        let told = format!(
            "target_modules also adapts {meant} modules of the vision tower, such as {first}, which {ADAPTER_FILE} has no tensors \
             for{keys}; name the decoder's modules by their full path, or exclude the tower with exclude_modules"
        );
        // Where the decoder's path does not show it, the adapter may well be of the decoder alone.
        let alone = self.layout.modules().iter().find_map(Module::stack) == Some(ALONE);
        let kept = if alone { &mut self.found.notes } else { &mut self.found.problems };
        kept.push(told);
        Ok(())
    }

    /// Targeted modules of a tower that the file has no tensors for: an error where other layers have them.
    fn lacking(&mut self, targeted: &[String]) {
        let inside = |name: &str| in_layer(name).map(|(_, _, inside)| inside.to_owned());
        let (found, lacking): (Vec<&String>, Vec<&String>) = targeted.iter().partition(|name| self.holds_any(name));
        let kinds: BTreeSet<Option<String>> = found.into_iter().map(|name| inside(name)).collect();
        let (missing, absent): (Vec<&String>, Vec<&String>) =
            lacking.into_iter().partition(|name| kinds.contains(&inside(name)));
        self.found.missing.extend(missing.into_iter().cloned());
        if !absent.is_empty() {
            let names = first_names(absent);
            let note =
                format!("target_modules also means modules without tensors, which PEFT leaves untrained: {names}");
            self.found.notes.push(note);
        }
    }

    /// Layers of a tower, whose modules are not known, that lack what others of them have.
    fn uneven(&mut self) -> Result<(), PatternError> {
        let mut towers: BTreeMap<&str, (BTreeSet<u64>, BTreeSet<&str>)> = BTreeMap::new();
        for module in self.found.outside.iter().filter(|module| !is_sparse(module)) {
            if let Some((path, layer, inside)) = in_layer(module) {
                let (layers, modules) = towers.entry(path).or_default();
                layers.insert(layer);
                modules.insert(inside);
            }
        }
        let mut missing = Vec::new();
        for (path, (layers, modules)) in towers {
            for (layer, module) in layers.iter().flat_map(|layer| modules.iter().map(move |module| (layer, module))) {
                let name = format!("{path}.{layer}.{module}");
                if !self.found.outside.contains(&name) && self.targets.adapts(&name)? {
                    missing.push(name);
                }
            }
        }
        if !missing.is_empty() {
            self.found.notes.push(format!(
                "target_modules also means modules that other layers beside them have tensors for; if the model has them, PEFT \
                 leaves them untrained: {}",
                first_names(missing)
            ));
        }
        Ok(())
    }

    /// The output head, the embedding and the projector: those that are targeted need their pairs.
    pub(super) fn head_and_projector(&mut self) -> Result<(), PatternError> {
        if self.config.target_modules.is_none() {
            return Ok(());
        }
        let mut expected: Vec<String> = self.model.projector().to_vec();
        if self.model.other(HEAD).is_some() {
            expected.push(HEAD.to_owned());
        }
        let stack = self.layout.modules().iter().find_map(Module::stack);
        let parent = stack.and_then(|stack| stack.rsplit_once('.')).map(|(parent, _)| parent);
        // All linear layers are no embeddings.
        if let Some(parent) = parent.filter(|_| self.model.other(EMBEDDING).is_some() && !self.targets.are_all_linear())
        {
            expected.push(format!("{parent}.{EMBEDDING}"));
        }
        for name in expected.iter().map(|name| self.naming.own(name)) {
            if !self.targets.adapts(&name)? {
                continue;
            }
            if !self.holds_any(&name) {
                self.found.missing.push(name);
            } else if ends_in(&name, EMBEDDING)
                && !embedding_names(&name).iter().any(|own| self.weights.tensors.contains_key(own))
            {
                let [a, b] = embedding_names(&name);
                let problem = format!(
                    "{name} is an embedding, whose matrices PEFT reads as {a} and {b}: under the names of a linear layer's it \
                     leaves them out"
                );
                self.found.problems.push(problem);
            }
        }
        Ok(())
    }

    /// Whether the file has an A or a B of a module or an embedding.
    fn holds_any(&self, module: &str) -> bool {
        lora_names(module).iter().chain(&embedding_names(module)).any(|name| self.weights.tensors.contains_key(name))
    }

    /// Modules that are saved whole: PEFT stops where one that the model has is not there.
    pub(super) fn saved(&mut self) {
        let saved = || self.config.modules_to_save.iter().flatten().map(String::as_str);
        let whole = |entry: &str| {
            let is_of = |name: &String| {
                let (module, _) = module_of(name);
                !name.contains(".lora_") && format!(".{module}.").contains(&format!(".{entry}."))
            };
            self.weights.tensors.keys().any(is_of)
        };
        let is_tied = self.config.other.get("ensure_weight_tying").and_then(Value::as_bool) == Some(true);
        let either = [HEAD, EMBEDDING].iter().any(|entry| whole(entry));
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for entry in saved().filter(|entry| !CLASSIFIERS.contains(entry) && !whole(entry)) {
            let ends_so = |name: &str| format!(".{name}.").contains(&format!(".{entry}."));
            let layout = self.layout.modules().iter().map(|module| module.name.as_str());
            let beside = self.model.towers().iter().flatten().chain(self.model.projector()).map(String::as_str);
            if is_tied && either && [HEAD, EMBEDDING].contains(&entry) {
                continue;
            }
            let is_known = [HEAD, EMBEDDING].contains(&entry) || layout.chain(beside).any(ends_so);
            if is_known { known.push(entry) } else { unknown.push(entry) }
        }
        if !known.is_empty() {
            let names = first_names(&known);
            let problem = format!("modules_to_save names what there are no tensors of, and PEFT stops there: {names}");
            self.found.problems.push(problem);
        }
        if !unknown.is_empty() {
            let names = first_names(&unknown);
            let note = format!(
                "modules_to_save names what there are no tensors of; if the model has it, PEFT stops there: {names}"
            );
            self.found.notes.push(note);
        }
    }

    /// Tokens that are trained by themselves: PEFT stops where their tensor is not there.
    pub(super) fn tokens(&mut self) {
        // A list is for the embedding, whatever its name.
        let embedding = if self.model.other(EMBEDDING).is_some() { EMBEDDING } else { "" };
        let wanted: Vec<(&str, &Value)> = match self.config.other.get("trainable_token_indices") {
            Some(tokens @ Value::Array(_)) => vec![(embedding, tokens)],
            Some(Value::Object(entries)) => entries.iter().map(|(name, tokens)| (name.as_str(), tokens)).collect(),
            _ => Vec::new(),
        };
        if wanted.is_empty() {
            let deltas = self.weights.tensors.keys().filter(|name| name.ends_with(".trainable_tokens_delta"));
            let deltas: Vec<&str> = deltas.map(String::as_str).collect();
            if !deltas.is_empty() {
                let names = first_names(deltas);
                let problem = format!(
                    "trainable_token_indices names no tokens, and PEFT drops what was trained of them: {names}"
                );
                self.found.problems.push(problem);
            }
        }
        for (embedding, tokens) in wanted {
            let vocabulary = self.model.other(embedding).map(|shape| shape.d_in as u64);
            let beyond = tokens
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_u64)
                .find(|token| vocabulary.is_some_and(|vocabulary| *token >= vocabulary));
            if let (Some(token), Some(vocabulary)) = (beyond, vocabulary) {
                let problem = format!(
                    "trainable_token_indices names token {token}, and the model has {vocabulary}: PEFT stops there"
                );
                self.found.problems.push(problem);
            }
            let end = format!("{embedding}.token_adapter.trainable_tokens_delta");
            let is_of = |name: &String| format!(".{name}").ends_with(&format!(".{}", end.trim_start_matches('.')));
            let Some((name, weight)) = self.weights.tensors.iter().find(|(name, _)| is_of(name)) else {
                let end = end.trim_start_matches('.');
                let problem =
                    format!("trainable_token_indices names tokens, and there is no {end} for them: PEFT stops there");
                self.found.problems.push(problem);
                continue;
            };
            let count = tokens.as_array().map_or(0, Vec::len);
            if let Some(shape) = self.model.other(embedding).filter(|shape| weight.shape != [count, shape.d_out]) {
                self.found.shapes.push(misshapen(name, weight, &[count, shape.d_out]));
            }
        }
    }
}

/// Whether a module's path ends in a name.
fn ends_in(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Path of the list of layers that a module lies in, where it is one of a decoder's projections.
fn decoder_path(module: &str) -> Option<&str> {
    let layer = Projection::ALL.iter().find_map(|own| module.strip_suffix(own.path())?.strip_suffix('.'))?;
    let (path, number) = layer.rsplit_once('.')?;
    (!is_beside(path) && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(path)
}

/// A module's list of layers, its layer, and its path inside that; none outside any list.
fn in_layer(module: &str) -> Option<(&str, u64, &str)> {
    let mut start = 0;
    for part in module.split('.') {
        if let (Ok(layer), true) = (part.parse(), part.bytes().all(|byte| byte.is_ascii_digit())) {
            let before = module.get(..start)?.strip_suffix('.')?;
            return Some((before, layer, module.get(start + part.len() + 1..)?));
        }
        start += part.len() + 1;
    }
    None
}
