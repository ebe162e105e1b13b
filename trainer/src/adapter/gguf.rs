//! Adapters in GGUF, as llama.cpp and Ollama load them.
//!
//! llama.cpp scales a module's update by alpha over its own rank, with one alpha for all modules, or not at all where alpha
//! is 0. So alpha is 0 here, and each module's scale is folded into its B: right for any mixture of ranks.

use std::io::Cursor;

use anyhow::Result;
use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use hydra_shared::adapter::{Adapter, lora_names};
use hydra_shared::layout::Projection;
use hydra_shared::vlm::Weight;
use hydra_shared::vlm::spec::ModelConfig;

use crate::error::{Kind, failure};
use crate::model::checkpoint::pairs;

/// llama.cpp's name of a projection's weight.
fn tensor_name(projection: Projection) -> &'static str {
    match projection {
        Projection::Q => "attn_q",
        Projection::K => "attn_k",
        Projection::V => "attn_v",
        Projection::O => "attn_output",
        Projection::Gate => "ffn_gate",
        Projection::Up => "ffn_up",
        Projection::Down => "ffn_down",
    }
}

/// llama.cpp's name of a decoder's architecture, which adapter and base have to share, and whether the rows of q and k stand
/// there in another order than in a checkpoint.
fn architecture(model: &ModelConfig) -> Result<(&'static str, bool)> {
    let spec = model.shapes();
    let biased = spec.decoder.attention_bias && !spec.decoder.output_bias;
    let Some(name) = model.model_type() else { return Ok(if biased { ("qwen2", false) } else { ("llama", true) }) };
    let found = match name {
        "qwen2" | "llava_qwen" | "llava_qwen2" => ("qwen2", false),
        "qwen2_vl" | "qwen2_vl_text" | "qwen2_5_vl" | "qwen2_5_vl_text" => ("qwen2vl", false),
        "qwen3" => ("qwen3", false),
        "qwen3_vl_text" => ("qwen3vl", false),
        "gemma" => ("gemma", false),
        "gemma2" => ("gemma2", false),
        "gemma3_text" => ("gemma3", false),
        "granite" => ("granite", true),
        "smollm3" => ("smollm3", true),
        "mistral" | "llava_mistral" | "mobilevlm" | "llava" | "smollm" | "smollm2" | "yi" | "vicuna" => ("llama", true),
        name if name.contains("llama") => ("llama", true),
        name => {
            return Err(failure(
                Kind::Usage,
                format!(
                    "{}: it is not known which architecture llama.cpp has for the model type \"{name}\"; use llama.cpp's \
                     convert_lora_to_gguf.py on `--format uniform`",
                    spec.name
                ),
            ));
        }
    };
    if biased && found.0 == "llama" {
        return Err(failure(
            Kind::Usage,
            format!(
                "{}: llama.cpp's architecture llama has no decoders with biases on q, k and v alone; use llama.cpp's \
                 convert_lora_to_gguf.py on `--format uniform`",
                spec.name
            ),
        ));
    }
    Ok(found)
}

/// The adapter as a GGUF file. What it changes outside the decoder's projections is not in it.
///
/// # Errors
/// A decoder that llama.cpp is not known to have; a weight whose shape disagrees with its values.
pub fn to_gguf(model: &ModelConfig, adapter: &Adapter) -> Result<Vec<u8>> {
    let (architecture, rotates_in_pairs) = architecture(model)?;
    let spec = model.shapes();
    let mut tensors = Vec::new();
    for module in spec.modules() {
        let name = spec.module_name(module);
        let Some((_, scale)) = adapter.module(&name) else { continue };
        let [a, b] = lora_names(&name).map(|name| adapter.weights.tensors.get(&name));
        let (Some(a), Some(b)) = (a, b) else { continue };
        let scaled = b.values.iter().map(|value| value * scale as f32).collect();
        let b = Weight { shape: b.shape.clone(), values: scaled };
        // The rows of q and k stand as llama.cpp rotates them.
        let b = match module.projection {
            _ if !rotates_in_pairs => b,
            Projection::Q => pairs(b, spec.decoder.heads),
            Projection::K => pairs(b, spec.decoder.kv_heads),
            _ => b,
        };
        let name = format!("blk.{}.{}.weight", module.layer, tensor_name(module.projection));
        tensors.push((format!("{name}.lora_a"), tensor(a)?));
        tensors.push((format!("{name}.lora_b"), tensor(&b)?));
    }
    let text = |text: &str| Value::String(text.to_owned());
    let metadata = [
        ("general.type", text("adapter")),
        ("general.architecture", text(architecture)),
        ("general.name", text(&spec.name)),
        ("adapter.type", text("lora")),
        ("adapter.lora.alpha", Value::F32(0.0)),
    ];
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut file = Cursor::new(Vec::new());
    write(&mut file, &metadata, &tensors)?;
    Ok(file.into_inner())
}

fn tensor(weight: &Weight) -> Result<QTensor> {
    let tensor = Tensor::from_slice(&weight.values, weight.shape.as_slice(), &Device::Cpu)?;
    Ok(QTensor::quantize(&tensor, GgmlDType::F32)?)
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::gguf_file::Content;
    use hydra_shared::adapter::LoraConfig;
    use hydra_shared::vlm::spec::ModelSpec;
    use hydra_shared::vlm::{AdapterShape, Weights, initial_adapters};

    use super::*;
    use crate::model::checkpoint::halves;

    /// A decoder with grouped-query attention.
    fn small_spec() -> ModelSpec {
        let config = ModelConfig::from_json(
            r#"{"model_type": "llama", "_name_or_path": "small", "hidden_size": 64, "intermediate_size": 96,
                "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300,
                "rms_norm_eps": 1e-5, "rope_theta": 50000.0, "tie_word_embeddings": true}"#,
        );
        config.unwrap().runnable().unwrap()
    }

    /// llama.cpp's name of a module.
    fn stored_name(name: &str) -> String {
        let replacements = [
            ("model.layers.", "blk."),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
        ];
        replacements.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
    }

    /// An adapter of these shapes, its configuration included.
    fn adapter(spec: &ModelSpec, shapes: &[AdapterShape], weights: Weights) -> Adapter {
        let mut config = LoraConfig::from_json(r#"{"peft_type": "LORA", "r": 1}"#).unwrap();
        for (module, shape) in spec.modules().zip(shapes).filter(|(_, shape)| shape.rank > 0) {
            let name = spec.module_name(module);
            let alpha = serde_json::Number::from_f64(shape.scale * f64::from(shape.rank)).unwrap();
            config.rank_pattern.insert(name.clone(), shape.rank);
            config.alpha_pattern.insert(name, alpha);
        }
        Adapter::new(config, weights, &spec.layout().unwrap()).unwrap()
    }

    #[test]
    fn an_adapter_in_gguf_adds_in_llama_cpps_layout_what_it_adds_here() {
        let spec = small_spec();
        // Mixed ranks, one module without an adapter.
        let shape = |index: usize| AdapterShape { rank: [3, 1, 0, 5][index % 4], scale: 2.0 + index as f64 / 7.0 };
        let shapes: Vec<AdapterShape> = (0..spec.modules().count()).map(shape).collect();
        let mut weights = initial_adapters(&spec, &shapes, 5);
        for (name, weight) in &mut weights.tensors {
            if name.contains("lora_B") {
                weight
                    .values
                    .iter_mut()
                    .enumerate()
                    .for_each(|(index, value)| *value = (index % 11) as f32 / 10.0 - 0.4);
            }
        }
        let adapter = adapter(&spec, &shapes, weights.clone());
        let bytes = to_gguf(&spec.clone().into(), &adapter).unwrap();
        let mut reader = Cursor::new(bytes);
        let content = Content::read(&mut reader).unwrap();
        assert_eq!(content.metadata["general.type"].to_string().unwrap(), "adapter");
        assert_eq!(content.metadata["adapter.lora.alpha"].to_f32().unwrap(), 0.0);
        assert_eq!(content.tensor_infos.len(), 2 * shapes.iter().filter(|shape| shape.rank > 0).count());
        let product = |b: &Weight, a: &Weight, scale: f32| {
            let (rank, width) = (a.shape[0], a.shape[1]);
            let value = |row: usize, column: usize| {
                (0..rank).map(|k| b.values[row * rank + k] * a.values[k * width + column]).sum::<f32>() * scale
            };
            let values = (0..b.shape[0]).flat_map(|row| (0..width).map(move |column| (row, column)));
            Weight { shape: vec![b.shape[0], width], values: values.map(|(row, column)| value(row, column)).collect() }
        };
        for (module, shape) in spec.modules().zip(&shapes).filter(|(_, shape)| shape.rank > 0) {
            let names = lora_names(&spec.module_name(module));
            let stored = stored_name(&spec.module_name(module));
            let mut read = |part: &str| {
                let tensor = content.tensor(&mut reader, &format!("{stored}.weight.{part}"), &Device::Cpu).unwrap();
                let tensor = tensor.dequantize(&Device::Cpu).unwrap();
                Weight { shape: tensor.dims().to_vec(), values: tensor.flatten_all().unwrap().to_vec1().unwrap() }
            };
            // Alpha is 0: llama.cpp adds B·A as it is.
            let added = product(&read("lora_b"), &read("lora_a"), 1.0);
            let added = match module.projection.name() {
                "q" => halves(added, spec.decoder.heads),
                "k" => halves(added, spec.decoder.kv_heads),
                _ => added,
            };
            let expected = product(&weights.tensors[&names[1]], &weights.tensors[&names[0]], shape.scale as f32);
            assert_eq!(added.shape, expected.shape);
            for (a, b) in added.values.iter().zip(&expected.values) {
                assert!((a - b).abs() < 1e-5, "{stored}: {a} and {b}");
            }
        }
    }

    #[test]
    fn the_architecture_is_that_of_the_model_type_and_what_llama_cpp_does_not_have_is_refused() {
        let config = |model_type: &str| {
            ModelConfig::from_json(&format!(
                r#"{{"model_type": "{model_type}", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300}}"#
            ))
            .unwrap()
        };
        for (model_type, expected) in [
            ("llama", ("llama", true)),
            ("mistral", ("llama", true)),
            ("qwen2", ("qwen2", false)),
            ("qwen3", ("qwen3", false)),
            ("gemma3_text", ("gemma3", false)),
        ] {
            assert_eq!(architecture(&config(model_type)).unwrap(), expected);
        }
        assert!(architecture(&config("ministral")).unwrap_err().to_string().contains("--format uniform"));
    }
}
