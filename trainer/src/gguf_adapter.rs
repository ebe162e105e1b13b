//! Adapters in GGUF, as llama.cpp and Ollama load them.
//!
//! llama.cpp scales a module's update by alpha over its own rank, with one alpha for all modules, or not at all where alpha
//! is 0. So alpha is 0 here, and each module's scale is folded into its B: right for any mixture of ranks.

use std::io::Cursor;

use anyhow::Result;
use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use hydra_shared::model_spec::{ModelSpec, Projection};
use hydra_shared::vlm::{Weight, adapter_names};

use crate::checkpoint::pairs;
use crate::error::{Kind, failure};
use crate::peft_folder::PeftAdapter;

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

/// The adapter as a GGUF file.
///
/// # Errors
/// A decoder that llama.cpp does not count as LLaMA's; a weight whose shape disagrees with its values.
pub fn to_gguf(spec: &ModelSpec, adapter: &PeftAdapter) -> Result<Vec<u8>> {
    if spec.decoder.attention_bias && !spec.decoder.output_bias {
        return Err(failure(
            Kind::Usage,
            format!(
                "{}: llama.cpp has another architecture for decoders with biases on q, k and v alone, whose adapters \
                     are not written here; use llama.cpp's convert_lora_to_gguf.py on `--format uniform`",
                spec.name
            ),
        ));
    }
    let mut tensors = Vec::new();
    for (module, shape) in spec.modules().zip(&adapter.shapes).filter(|(_, shape)| shape.rank > 0) {
        let names = adapter_names(spec, module);
        let [a, b] = names.map(|name| adapter.weights.tensors.get(&name));
        let (Some(a), Some(b)) = (a, b) else { continue };
        let scaled = b.values.iter().map(|value| value * shape.scale as f32).collect();
        let b = Weight { shape: b.shape.clone(), values: scaled };
        // The rows of q and k stand as llama.cpp rotates them.
        let b = match module.projection {
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
        ("general.architecture", text("llama")),
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
