//! Names of an adapter's files and tensors.

/// PEFT's configuration.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Adapter tensors.
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";
/// The projector, which MobileVLM trains beside the adapters and saves apart.
pub const PROJECTOR_FILE: &str = "non_lora_trainables.safetensors";

/// PEFT's prefix of every adapter tensor.
pub const PEFT_PREFIX: &str = "base_model.model.";

/// Whether a tensor of that name, with PEFT's prefix or without, is part of an adapter and not of the base.
pub fn is_lora(name: &str) -> bool {
    name.contains(".lora_")
}

/// A tensor's name as the base model has it: without PEFT's prefix.
pub fn plain_name(name: &str) -> &str {
    name.strip_prefix(PEFT_PREFIX).unwrap_or(name)
}

/// Names of a module's A, `[r, d_in]`, and B, `[d_out, r]`, without PEFT's prefix.
pub fn lora_names(module: &str) -> [String; 2] {
    [format!("{module}.lora_A.weight"), format!("{module}.lora_B.weight")]
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
}
