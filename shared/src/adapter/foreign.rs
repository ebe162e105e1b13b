//! Adapters of programs that have names of their own for what PEFT calls `lora_A` and `lora_B`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// A program whose adapters PEFT does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// mlx-lm: `….lora_a` and `….lora_b`, transposed, and a configuration with `lora_parameters`.
    Mlx,
    /// kohya's sd-scripts: `….lora_down.weight`, `….lora_up.weight` and `….alpha`, often with `_` for the dots of a path.
    Kohya,
    /// torchtune's own checkpoints: `….lora_a.weight` and `….lora_b.weight`.
    Torchtune,
}

impl Foreign {
    /// Whose tensors have these names; none where one of them is PEFT's.
    #[cfg(feature = "weights")]
    pub(super) fn of_tensors<'a, I: Iterator<Item = &'a str>>(names: impl Fn() -> I) -> Option<Self> {
        let any = |is: &dyn Fn(&str) -> bool| names().any(is);
        if any(&|name| [".lora_A", ".lora_B", ".lora_embedding_"].iter().any(|part| name.contains(part))) {
            None
        } else if any(&|name| [".lora_down.", ".lora_up."].iter().any(|part| name.contains(part))) {
            Some(Self::Kohya)
        } else if any(&|name| name.ends_with(".lora_a") || name.ends_with(".lora_b")) {
            Some(Self::Mlx)
        } else if any(&|name| name.ends_with(".lora_a.weight") || name.ends_with(".lora_b.weight")) {
            Some(Self::Torchtune)
        } else {
            None
        }
    }

    /// Whose configuration has these keys; none where it says which kind of PEFT's it is.
    pub(super) fn of_config(entries: &BTreeMap<String, Value>) -> Option<Self> {
        let has = |key: &str| entries.contains_key(key);
        (!has("peft_type") && (has("lora_parameters") || has("fine_tune_type"))).then_some(Self::Mlx)
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mlx => {
                "this is an adapter of mlx-lm's, which PEFT does not read; fold it into its model with mlx_lm.fuse, or give the \
                 folder that PEFT saved"
            }
            Self::Kohya => {
                "this is an adapter in the names of kohya's sd-scripts (lora_down, lora_up, alpha), of which PEFT finds none; \
                 write lora_down as lora_A and lora_up as lora_B under base_model.model. and the module's path, and alpha as \
                 lora_alpha or into alpha_pattern, or give the folder that PEFT saved"
            }
            Self::Torchtune => {
                "this is an adapter in torchtune's own names (lora_a.weight, lora_b.weight), of which PEFT finds none; let \
                 torchtune's checkpointer write it for PEFT, or give the folder that PEFT saved"
            }
        })
    }
}
