//! Every matrix that is known of a model: those that get ranks unless somebody chooses otherwise, and all others.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Layout, ModuleShape};

/// Parts of a path that one and the same module has in some places and lacks in others: transformers moved a
/// vision-language model's decoder from `language_model.model` to `model.language_model`, and its checkpoints still have the
/// old names.
const MOVABLE: [&str; 2] = ["model", "language_model"];
/// What the layers of GPT-2 and GPT-NeoX stand under where a head stands on them. Checkpoints and logs of the model without its
/// head lack it.
const UNDER_A_HEAD: [&str; 2] = ["transformer", "gpt_neox"];
/// Modules that choose a token's experts.
const ROUTERS: [&str; 3] = ["gate", "router", "shared_expert_gate"];

/// The matrices of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalog {
    decoder: Arc<Layout>,
    /// By short name; none where modules of one short name differ.
    others: HashMap<String, Option<ModuleShape>>,
    towers: Vec<Vec<String>>,
    projector: Vec<String>,
}

impl Catalog {
    /// The decoder's modules, and the full names and shapes of matrices outside: of towers and projectors, the output head,
    /// embeddings.
    pub fn new(decoder: Arc<Layout>, others: impl IntoIterator<Item = (String, ModuleShape)>) -> Self {
        let mut known: HashMap<String, Option<ModuleShape>> = HashMap::new();
        for (name, shape) in others {
            let entry = known.entry(short_name(&name)).or_insert(Some(shape));
            if *entry != Some(shape) {
                *entry = None;
            }
        }
        Self { decoder, others: known, towers: Vec::new(), projector: Vec::new() }
    }

    /// The same with the names that the linear modules of its vision tower may have: a list for each way to name them.
    #[must_use]
    pub fn with_towers(mut self, towers: impl IntoIterator<Item = Vec<String>>) -> Self {
        self.towers.extend(towers.into_iter().filter(|names| !names.is_empty()));
        self
    }

    /// Names of the linear modules of its vision tower, a list for each way to name them; none where there is no tower, or
    /// its modules are not known.
    pub fn towers(&self) -> &[Vec<String>] {
        &self.towers
    }

    /// The same with the full names of the linear modules between its vision tower and its decoder.
    #[must_use]
    pub fn with_projector(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.projector.extend(names);
        self
    }

    /// Full names of the linear modules between its vision tower and its decoder; none where they are not known.
    pub fn projector(&self) -> &[String] {
        &self.projector
    }

    /// The same around another decoder.
    #[must_use]
    pub fn with_decoder(self, decoder: Arc<Layout>) -> Self {
        Self { decoder, ..self }
    }

    /// The modules that get ranks unless somebody chooses otherwise.
    pub fn decoder(&self) -> &Arc<Layout> {
        &self.decoder
    }

    /// Widths of a matrix outside the decoder, wherever its path begins.
    pub fn other(&self, path: &str) -> Option<ModuleShape> {
        *self.others.get(&short_name(path))?
    }
}

impl From<Arc<Layout>> for Catalog {
    fn from(decoder: Arc<Layout>) -> Self {
        Self::new(decoder, [])
    }
}

/// Whether a module is an expert of a mixture, or chooses among them: no part of its dense rest.
pub fn is_sparse(path: &str) -> bool {
    let mut parts = path.rsplit('.');
    let leaf = parts.next().unwrap_or_default();
    ROUTERS.contains(&leaf) || parts.chain([leaf]).any(|part| matches!(part, "experts" | "expert"))
}

/// A module's path without the parts that move between releases: the same for its name in memory, in a checkpoint and in an
/// adapter.
pub fn short_name(path: &str) -> String {
    // Under a tower of that name another level came and went.
    let in_tower = path.split('.').any(|part| part == "vision_tower");
    let moves = |part: &str| MOVABLE.contains(&part) || (in_tower && part == "vision_model");
    let mut parts: Vec<&str> = path.split('.').filter(|part| !moves(part)).collect();
    // A tower's `transformer` stands further back.
    if parts.len() > 1 && parts.first().is_some_and(|first| UNDER_A_HEAD.contains(first)) {
        parts.remove(0);
    }
    parts.join(".")
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn a_module_is_the_same_in_memory_and_on_disk() {
        for (memory, disk) in [
            ("model.language_model.layers.0.self_attn.q_proj", "language_model.model.layers.0.self_attn.q_proj"),
            ("lm_head", "language_model.lm_head"),
            ("model.vision_tower.encoder.layers.0.mlp.fc1", "vision_tower.vision_model.encoder.layers.0.mlp.fc1"),
            ("model.visual.blocks.0.attn.qkv", "visual.blocks.0.attn.qkv"),
            ("transformer.h.0.attn.c_attn", "h.0.attn.c_attn"),
            ("gpt_neox.layers.0.attention.dense", "layers.0.attention.dense"),
        ] {
            assert_eq!(short_name(memory), short_name(disk));
        }
        assert_ne!(short_name("model.layers.0.mlp.fc1"), short_name("model.vision_tower.layers.0.mlp.fc1"));
        assert_ne!(short_name("vision_tower.transformer.layers.0.fc"), short_name("vision_tower.layers.0.fc"));
    }

    #[test]
    fn experts_and_what_chooses_among_them_are_sparse_and_shared_ones_are_not() {
        for (inside, sparse) in [
            ("mlp.experts.3.up_proj", true),
            ("mlp.experts", true),
            ("mlp.gate", true),
            ("mlp.shared_expert_gate", true),
            ("mlp.shared_expert.up_proj", false),
            ("mlp.gate_proj", false),
        ] {
            assert_eq!(is_sparse(&format!("model.layers.0.{inside}")), sparse, "{inside}");
        }
    }

    #[test]
    fn a_short_name_of_two_shapes_tells_none() {
        let shape = |d_out| ModuleShape { d_in: 4, d_out };
        let layout = Arc::new(Layout::decoder("m", "model.layers", 1, |_| shape(4)).unwrap());
        let name = |name: &str, d_out| (name.to_owned(), shape(d_out));
        let catalog = Catalog::new(layout, [name("head", 2), name("model.head", 3), name("model.lm_head", 5)]);
        assert_eq!(catalog.other("head"), None);
        assert_eq!(catalog.other("language_model.lm_head"), Some(shape(5)));
    }
}
