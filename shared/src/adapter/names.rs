//! Names of an adapter's files and tensors.

/// PEFT's configuration.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Adapter tensors.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";
/// The projector, which MobileVLM trains beside the adapters and saves apart.
pub const PROJECTOR_FILE: &str = "non_lora_trainables.safetensors";

/// PEFT's prefix of every adapter tensor.
pub const PEFT_PREFIX: &str = "base_model.model.";

/// Where transformers kept the decoder of a vision-language model before 4.52.
#[cfg(feature = "weights")]
pub(super) const OLD_NESTED: &str = "language_model.model.layers";
/// What DistributedDataParallel puts in front of names.
const IN_FRONT: &str = "module.";
/// What `torch.compile`, FSDP and activation checkpointing put into names, in front or inside.
const WRAPPERS: [&str; 3] = ["._orig_mod.", "._fsdp_wrapped_module.", "._checkpoint_wrapped_module."];
/// Where PEFT keeps its copy of a module that it trains and saves whole.
const WHOLE: &str = ".modules_to_save.";
/// What was trained of single tokens.
const TOKENS: &str = ".trainable_tokens_delta";
/// How the two tensors of a module end.
const PARTS: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];
/// How those of an embedding do.
const EMBEDDING_PARTS: [&str; 2] = [".lora_embedding_A", ".lora_embedding_B"];

/// Parts of a path that no decoder's list of layers lies under.
const BESIDE: [&str; 7] = ["vision", "visual", "tower", "image", "audio", "projector", "encoder"];

/// Whether a module lies beside the decoder: in a tower, or between it and the decoder.
pub(super) fn is_beside(module: &str) -> bool {
    BESIDE.iter().any(|word| module.contains(word))
}

/// Whether a tensor of that name, with PEFT's prefix or without, is part of an adapter and not of the base.
pub fn is_lora(name: &str) -> bool {
    name.contains(".lora_")
}

/// A tensor's name as the base model has it: without PEFT's prefix.
pub fn plain_name(name: &str) -> &str {
    name.strip_prefix(PEFT_PREFIX).unwrap_or(name)
}

/// A tensor's name in an adapter's file as PEFT saves it, without PEFT's prefix: names as in memory
/// (`lora_A.default.weight`, `lm_head.modules_to_save.default.weight`, `_orig_mod.`, `module.`) become those.
pub fn saved_name(name: &str) -> String {
    // The model may have been wrapped before PEFT's adapters were put into it, or after.
    let inner = without_wrappers(name);
    let plain = without_front(plain_name(&inner));
    match in_memory(plain) {
        Some((before, _, "")) => before.to_owned(),
        Some((before, _, "weight")) if before.ends_with(".lora_magnitude_vector") => before.to_owned(),
        Some((before, _, after)) => format!("{before}.{after}"),
        // It may stand there without an adapter's name.
        None => plain.replace(WHOLE, "."),
    }
}

/// A tensor's name as in memory, parted: what stands before the adapter's name, that name, what follows. None for a name as
/// PEFT saves it.
fn in_memory(name: &str) -> Option<(&str, &str, &str)> {
    let parted = |part: &str| {
        let end = name.find(part)? + part.len();
        Some((name.get(..end)?, name.get(end..)?.strip_prefix('.')?))
    };
    if let Some((before, rest)) = [".lora_A", ".lora_B", ".lora_magnitude_vector"].into_iter().find_map(parted) {
        let (adapter, after) = rest.split_once('.')?;
        return (!adapter.is_empty()).then_some((before, adapter, after));
    }
    if let Some((before, rest)) = name.split_once(WHOLE) {
        let (adapter, after) = rest.split_once('.')?;
        return Some((before, adapter, after));
    }
    let (before, adapter) = [".lora_embedding_A", ".lora_embedding_B", TOKENS].into_iter().find_map(parted)?;
    (!adapter.is_empty()).then_some((before, adapter, ""))
}

fn without_wrappers(name: &str) -> String {
    let mut inner = format!(".{name}");
    for wrapper in WRAPPERS {
        while inner.contains(wrapper) {
            inner = inner.replace(wrapper, ".");
        }
    }
    without_front(inner.get(1..).unwrap_or_default()).to_owned()
}

fn without_front(name: &str) -> &str {
    let mut inner = name;
    while let Some(rest) = inner.strip_prefix(IN_FRONT) {
        inner = rest;
    }
    inner
}

/// Whether PEFT finds a tensor of that name in an adapter's file: it begins with PEFT's prefix, and then with the model's own
/// names; and where it holds the adapter's name, as in memory, that is PEFT's `default`. What is saved whole and what was trained
/// of tokens it looks for under their saved names alone (`set_peft_model_state_dict` of 0.21).
#[cfg(feature = "weights")]
pub(super) fn is_found(name: &str) -> bool {
    let of_default = adapter_of(name).is_none_or(|adapter| adapter == "default" && name.contains(".lora_"));
    of_default
        && !name.contains(WHOLE)
        && name.strip_prefix(PEFT_PREFIX).is_some_and(|rest| without_wrappers(rest) == rest)
}

/// The adapter's name in a tensor's name as in memory; none in one as PEFT saves it.
pub(super) fn adapter_of(name: &str) -> Option<&str> {
    in_memory(name).map(|(_, adapter, _)| adapter)
}

/// Whether a tensor is the A or B of a module or an embedding, under the name that PEFT saves.
pub(super) fn is_part(name: &str) -> bool {
    PARTS.iter().chain(&EMBEDDING_PARTS).any(|part| name.ends_with(part))
}

/// Names of a module's A, `[r, d_in]`, and B, `[d_out, r]`, without PEFT's prefix.
pub fn lora_names(module: &str) -> [String; 2] {
    PARTS.map(|part| format!("{module}{part}"))
}

/// The same of an embedding: `[r, rows]` and `[width, r]`.
#[cfg(feature = "weights")]
pub fn embedding_names(module: &str) -> [String; 2] {
    EMBEDDING_PARTS.map(|part| format!("{module}{part}"))
}

/// Module of a tensor, and which of its pair it is: 0 for A, 1 for B, none for another tensor, whose module is all but the
/// last part of its name.
#[cfg(any(feature = "weights", test))]
pub(super) fn module_of(tensor: &str) -> (&str, Option<usize>) {
    for (number, part) in PARTS.into_iter().enumerate() {
        if let Some(module) = tensor.strip_suffix(part) {
            return (module, Some(number));
        }
    }
    let module = tensor.split_once(".lora_").map(|(module, _)| module);
    let module = module.or_else(|| tensor.rsplit_once('.').map(|(module, _)| module)).unwrap_or(tensor);
    // Where PEFT adapts an embedding or a head, it saves the base's weight, too.
    (module.strip_suffix(".base_layer").unwrap_or(module), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapter_tensors_are_told_from_those_of_the_base_with_and_without_the_prefix() {
        for name in lora_names("model.layers.0.mlp.up_proj") {
            assert!(is_lora(&name) && is_lora(&format!("{PEFT_PREFIX}{name}")));
            assert_eq!(plain_name(&format!("{PEFT_PREFIX}{name}")), name);
            assert_eq!(plain_name(&name), name);
        }
        assert!(is_lora("model.layers.0.mlp.up_proj.lora_magnitude_vector"));
        assert!(!is_lora("model.layers.0.mlp.up_proj.weight"));
    }

    #[test]
    fn names_as_in_memory_become_those_of_the_file() {
        for (stored, saved) in [
            (
                "base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight",
                "model.layers.0.mlp.up_proj.lora_A.weight",
            ),
            ("_orig_mod.base_model.model.lm_head.lora_B.mine.weight", "lm_head.lora_B.weight"),
            ("base_model.model._orig_mod.lm_head.lora_A.weight", "lm_head.lora_A.weight"),
            ("module._orig_mod.base_model.model.lm_head.lora_B.bias", "lm_head.lora_B.bias"),
            ("base_model.model.lm_head.lora_A.weight", "lm_head.lora_A.weight"),
            ("lm_head.weight", "lm_head.weight"),
            ("base_model.model.q.lora_magnitude_vector.default.weight", "q.lora_magnitude_vector"),
            ("base_model.model.q.lora_magnitude_vector.weight", "q.lora_magnitude_vector.weight"),
            ("base_model.model.model.embed_tokens.lora_embedding_A.default", "model.embed_tokens.lora_embedding_A"),
            ("base_model.model.model.embed_tokens.lora_embedding_B", "model.embed_tokens.lora_embedding_B"),
            ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head.weight"),
            ("base_model.model.score.modules_to_save.mine.out_proj.bias", "score.out_proj.bias"),
            ("base_model.model.lm_head.modules_to_save.weight", "lm_head.weight"),
            (
                "base_model.model.e.token_adapter.trainable_tokens_delta.default",
                "e.token_adapter.trainable_tokens_delta",
            ),
            (
                "_fsdp_wrapped_module.base_model.model.model.layers.0._fsdp_wrapped_module.mlp.up_proj.lora_A.default.weight",
                "model.layers.0.mlp.up_proj.lora_A.weight",
            ),
            ("base_model.model.layers.0._checkpoint_wrapped_module.q.lora_B.weight", "layers.0.q.lora_B.weight"),
        ] {
            assert_eq!(saved_name(stored), saved);
        }
    }

    #[test]
    fn a_tensor_tells_its_module_and_which_of_the_pair_it_is() {
        assert_eq!(module_of("lm_head.lora_A.weight"), ("lm_head", Some(0)));
        assert_eq!(module_of("lm_head.lora_B.weight"), ("lm_head", Some(1)));
        assert_eq!(module_of("lm_head.lora_magnitude_vector"), ("lm_head", None));
        assert_eq!(module_of("lm_head.weight"), ("lm_head", None));
        assert_eq!(module_of("lm_head.base_layer.weight"), ("lm_head", None));
    }
}
