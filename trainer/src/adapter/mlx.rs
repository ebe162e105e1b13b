//! Adapters for mlx-lm: `adapters.safetensors` and an `adapter_config.json` of its own.
//!
//! mlx-lm adapts the same modules in every layer, with one rank and one scale for all, and adds `scale · x·lora_a·lora_b`. So
//! every module has the largest rank here, padded with zeros, and scales are folded into B.

use anyhow::Result;
use hydra_shared::adapter::{Adapter, in_one_rank, lora_names};
use hydra_shared::layout::Module;
use hydra_shared::vlm::{Precision, Weight, Weights};
use serde_json::json;

use crate::error::{Kind, ResultExt, failure};

/// File of the tensors.
const TENSORS: &str = "adapters.safetensors";
/// Configuration.
const CONFIG: &str = "adapter_config.json";
/// Where mlx-lm keeps a language model's layers.
const LAYERS: &str = "model.layers";

/// The files of the folder that mlx-lm loads with `--adapter-path`.
///
/// # Errors
/// A decoder inside a vision-language model, which mlx-lm does not run; a weight whose shape disagrees with its values.
pub fn to_mlx(adapter: &Adapter) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let layout = adapter.ranks.layout();
    if layout.layers_path() != Some(LAYERS) {
        return Err(failure(
            Kind::Usage,
            format!(
                "{}: mlx-lm runs language models, whose layers lie under {LAYERS}, not {}",
                layout.model(),
                layout.layers_path().unwrap_or("several paths")
            ),
        ));
    }
    let one = in_one_rank(adapter).or_fail(Kind::Data, || "the adapter's patterns".to_owned())?;
    let rank = one.rank as usize;
    // In the order of the first layer that has them.
    let mut keys: Vec<&str> = Vec::new();
    for module in layout.modules().iter().filter(|module| adapter.module(&module.name).is_some()) {
        let key = inside(module);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let mut tensors = Weights::default();
    for module in layout.modules().iter().filter(|module| keys.contains(&inside(module))) {
        let name = &module.name;
        let [a, b] = lora_names(name).map(|name| one.weights.tensors.get(&name));
        // A module without an adapter beside others of its kind: mlx-lm would draw its A, and B is 0.
        let zeros = |shape: [usize; 2]| Weight { shape: shape.to_vec(), values: vec![0.0; shape[0] * shape[1]] };
        let a = a.map_or_else(|| zeros([module.d_in, rank]), transposed);
        let b = b.map_or_else(|| zeros([rank, module.d_out]), transposed);
        tensors.tensors.insert(format!("{name}.lora_a"), a);
        tensors.tensors.insert(format!("{name}.lora_b"), b);
    }
    let layers = layout.blocks().iter().filter_map(|block| block.layer).max().map_or(0, |last| last + 1);
    let config = json!({
        "fine_tune_type": "lora",
        "lora_parameters": {"dropout": 0.0, "keys": keys, "rank": rank, "scale": one.scale},
        "num_layers": layers,
    });
    Ok(vec![
        (CONFIG, (serde_json::to_string_pretty(&config)? + "\n").into_bytes()),
        (TENSORS, tensors.to_safetensors(Precision::F32)?),
    ])
}

/// A module's path inside its layer.
fn inside(module: &Module) -> &str {
    let place = module.stack().zip(module.layer).map_or(0, |(stack, layer)| format!("{stack}.{layer}.").len());
    module.name.get(place..).unwrap_or_default()
}

/// A matrix with rows and columns exchanged; any other weight as it is.
fn transposed(weight: &Weight) -> Weight {
    let [rows, columns] = weight.shape[..] else { return weight.clone() };
    let values = (0..columns).flat_map(|column| weight.values.iter().skip(column).step_by(columns.max(1)).copied());
    Weight { shape: vec![columns, rows], values: values.collect() }
}

#[cfg(test)]
mod tests {
    use hydra_shared::adapter::LoraConfig;
    use hydra_shared::vlm::spec::ModelSpec;

    use super::*;

    #[test]
    fn what_mlx_lm_adds_is_what_peft_adds_in_mixed_ranks_and_scales() {
        let spec = ModelSpec::preset("tiny-mobilevlm").unwrap();
        let layout = spec.layout().unwrap();
        let config = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "layers.1.mlp.up_proj"],
            "rank_pattern": {"layers.0.self_attn.q_proj": 3}, "alpha_pattern": {"layers.0.self_attn.q_proj": 3}}"#;
        let config = LoraConfig::from_json(config).unwrap();
        let (targets, patterns) = (config.targets().unwrap(), config.patterns().unwrap());
        let counted = |shape: [usize; 2]| Weight {
            shape: shape.to_vec(),
            values: (0..shape[0] * shape[1]).map(|value| (value % 7) as f32 - 2.0).collect(),
        };
        let mut weights = Weights::default();
        for module in layout.modules().iter().filter(|module| targets.adapts(&module.name).unwrap()) {
            let rank = patterns.rank(&module.name).unwrap() as usize;
            let [a, b] = lora_names(&module.name);
            weights.tensors.insert(a, counted([rank, module.d_in]));
            weights.tensors.insert(b, counted([module.d_out, rank]));
        }
        let adapter = Adapter::new(config.clone(), weights.clone(), &layout).unwrap();
        let files = to_mlx(&adapter).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&files[0].1).unwrap();
        assert_eq!((files[0].0, files[1].0), ("adapter_config.json", "adapters.safetensors"));
        assert_eq!(
            written,
            json!({"fine_tune_type": "lora", "num_layers": 6, "lora_parameters": {"dropout": 0.0, "rank": 3, "scale": 1.0,
                "keys": ["self_attn.q_proj", "mlp.up_proj"]}})
        );
        let stored = Weights::from_safetensors(&files[1].1).unwrap();
        // q in six layers, up in six.
        assert_eq!(stored.tensors.len(), 24);
        for module in
            layout.modules().iter().filter(|module| stored.tensors.contains_key(&format!("{}.lora_a", module.name)))
        {
            let name = &module.name;
            let (lora_a, lora_b) =
                (&stored.tensors[&format!("{name}.lora_a")], &stored.tensors[&format!("{name}.lora_b")]);
            assert_eq!((&lora_a.shape[..], &lora_b.shape[..]), (&[module.d_in, 3][..], &[3, module.d_out][..]));
            let [a, b] = lora_names(name).map(|name| weights.tensors.get(&name));
            for (input, output) in [(0, 0), (1, 5), (63, 2)] {
                let found: f32 =
                    (0..3).map(|k| lora_a.values[input * 3 + k] * lora_b.values[k * module.d_out + output]).sum();
                let expected = a.zip(b).map_or(0.0, |(a, b)| {
                    let rank = a.shape[0];
                    let sum: f32 =
                        (0..rank).map(|k| b.values[output * rank + k] * a.values[k * module.d_in + input]).sum();
                    sum * patterns.scale(name).unwrap() as f32
                });
                assert!((found - expected).abs() < 1e-4, "{name}: {found} and {expected}");
            }
        }
    }

    #[test]
    fn a_decoder_inside_a_vision_language_model_is_refused() {
        let mut spec = ModelSpec::preset("tiny-mobilevlm").unwrap();
        spec.layers_path = "model.language_model.layers".to_owned();
        let layout = spec.layout().unwrap();
        let config = LoraConfig::from_json(r#"{"peft_type": "LORA", "r": 1, "target_modules": []}"#).unwrap();
        let [a, b] = lora_names("lm_head");
        let one = |shape: [usize; 2]| Weight { shape: shape.to_vec(), values: vec![1.0; 2] };
        let weights = Weights { tensors: [(a, one([1, 2])), (b, one([2, 1]))].into() };
        // Nothing of the decoder is adapted: the adapter itself is refused first.
        assert!(Adapter::new(config.clone(), weights, &layout).is_err());
        let module = &layout.modules()[0];
        let [a, b] = lora_names(&module.name);
        let zeros = |shape: [usize; 2]| Weight { shape: shape.to_vec(), values: vec![0.0; shape[0] * shape[1]] };
        let weights = Weights { tensors: [(a, zeros([1, module.d_in])), (b, zeros([module.d_out, 1]))].into() };
        let mut config = config;
        config.target_modules = Some(hydra_shared::adapter::Modules::List(vec![module.name.clone()]));
        let adapter = Adapter::new(config, weights, &layout).unwrap();
        assert!(to_mlx(&adapter).unwrap_err().to_string().contains("mlx-lm runs language models"));
    }
}
