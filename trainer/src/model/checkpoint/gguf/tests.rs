use std::fs::File;

use candle_core::quantized::gguf_file::write;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device as CandleDevice, Tensor};
use hydra_shared::vlm::Weights;
use hydra_shared::vlm::init::random_weights;
use tempfile::TempDir;

use super::*;
use crate::error::message_of;

/// A decoder with grouped-query attention, wide enough for blocks of 32 values.
fn small_spec() -> ModelSpec {
    let config = ModelConfig::from_json(
        r#"{"model_type": "llama", "_name_or_path": "small", "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300,
            "rms_norm_eps": 1e-5, "rope_theta": 50000.0, "tie_word_embeddings": true}"#,
    );
    config.unwrap().runnable().unwrap()
}

/// llama.cpp's name of a checkpoint's tensor.
fn stored_name(name: &str) -> String {
    let replacements = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("model.layers.", "blk."),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ];
    replacements.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// Byte-level vocabulary of 300: the bytes' letters, a few merges, two special tokens.
fn vocabulary() -> (Vec<Value>, Vec<Value>, Vec<Value>) {
    let text = |text: &str| Value::String(text.to_owned());
    let mut tokens = vec![text("<|start|>"), text("<|end|>")];
    tokens.extend((33..=126_u8).map(|byte| text(&char::from(byte).to_string())));
    tokens.extend(["Ġ", "he", "ll", "hell", "hello", "Ġh"].map(text));
    while tokens.len() < 300 {
        tokens.push(text(&format!("<unused{}>", tokens.len())));
    }
    let kinds = (0..300).map(|id| Value::I32(if id < 2 { 3 } else { 1 })).collect();
    let merges = ["h e", "l l", "he ll", "hell o"].map(text).to_vec();
    (tokens, kinds, merges)
}

fn write_gguf(path: &Path, weights: &Weights, matrices: GgmlDType, extra: &[(&str, Value)]) {
    let spec = small_spec();
    let tensors: Vec<(String, QTensor)> = weights
        .tensors
        .iter()
        .map(|(name, weight)| {
            let stored = stored_name(name);
            let weight = match stored.rsplit('.').nth(1) {
                Some("attn_q") => pairs(weight.clone(), spec.decoder.heads),
                Some("attn_k") => pairs(weight.clone(), spec.decoder.kv_heads),
                _ => weight.clone(),
            };
            let tensor = Tensor::from_slice(&weight.values, weight.shape.as_slice(), &CandleDevice::Cpu).unwrap();
            let kind = if weight.shape.len() == 2 { matrices } else { GgmlDType::F32 };
            (stored, QTensor::quantize(&tensor, kind).unwrap())
        })
        .collect();
    let (tokens, kinds, merges) = vocabulary();
    let text = |text: &str| Value::String(text.to_owned());
    let mut metadata = vec![
        ("general.architecture", text("llama")),
        ("general.name", text("small")),
        ("llama.embedding_length", Value::U32(64)),
        ("llama.feed_forward_length", Value::U32(96)),
        ("llama.block_count", Value::U32(2)),
        ("llama.attention.head_count", Value::U32(4)),
        ("llama.attention.head_count_kv", Value::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(50_000.0)),
        ("llama.context_length", Value::U32(2048)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("gpt-2")),
        ("tokenizer.ggml.tokens", Value::Array(tokens)),
        ("tokenizer.ggml.token_type", Value::Array(kinds)),
        ("tokenizer.ggml.merges", Value::Array(merges)),
        ("tokenizer.ggml.bos_token_id", Value::U32(0)),
        ("tokenizer.ggml.eos_token_id", Value::U32(1)),
    ];
    for (key, value) in extra {
        metadata.retain(|(other, _)| other != key);
        metadata.push((key, value.clone()));
    }
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

#[test]
fn rows_go_from_pairs_to_halves_and_back() {
    let stored = Weight { shape: vec![8, 1], values: vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0] };
    let halved = halves(stored.clone(), 2);
    assert_eq!(halved.values, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    assert_eq!(pairs(halved, 2), stored);
}

#[test]
fn tensors_get_their_names_in_a_checkpoint_and_unknown_ones_keep_theirs() {
    assert_eq!(checkpoint_name("blk.12.attn_output.weight"), "model.layers.12.self_attn.o_proj.weight");
    assert_eq!(checkpoint_name("output_norm.weight"), "model.norm.weight");
    assert_eq!(checkpoint_name("rope_freqs.weight"), "rope_freqs.weight");
    assert_eq!(checkpoint_name("blk.0.attn_q_norm.weight"), "blk.0.attn_q_norm.weight");
}

#[test]
fn weights_come_back_from_every_type_to_its_precision() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("m.gguf");
    let weights = random_weights(&small_spec(), 3);
    // Largest error, of a matrix's largest value: none, 11 bits, 8 bits, and 4 bits of a block's range.
    for (kind, tolerance) in
        [(GgmlDType::F32, 0.0), (GgmlDType::F16, 5e-4), (GgmlDType::Q8_0, 5e-3), (GgmlDType::Q4_1, 7e-2)]
    {
        write_gguf(&path, &weights, kind, &[]);
        let mut gguf = Gguf::open(&path).unwrap();
        assert_eq!(gguf.spec(), &small_spec());
        assert_eq!(gguf.names().len(), weights.tensors.len());
        for (name, expected) in &weights.tensors {
            let found = gguf.take(name).unwrap().unwrap();
            assert_eq!(found.shape, expected.shape, "{name}");
            let largest = expected.values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let error = found.values.iter().zip(&expected.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(error <= tolerance * largest, "{kind:?}, {name}: {error} of {largest}");
        }
        assert!(gguf.names().is_empty());
    }
}

#[test]
fn the_tokenizer_in_the_file_merges_as_its_list_says() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("m.gguf");
    write_gguf(&path, &random_weights(&small_spec(), 3), GgmlDType::F32, &[]);
    let tokenizer = Gguf::open(&path).unwrap().tokenizer().unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (None, 1));
    let ids = tokenizer.encode("hello hell<|end|>").unwrap();
    assert_eq!(ids.len(), 4, "{ids:?}");
    assert_eq!(ids[3], 1);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "hello hell");
}

#[test]
fn other_architectures_tokenizers_and_truncated_files_are_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("m.gguf");
    let weights = random_weights(&small_spec(), 3);
    let text = |text: &str| Value::String(text.to_owned());
    write_gguf(&path, &weights, GgmlDType::F32, &[("general.alignment", Value::U32(0))]);
    assert!(message_of(&Gguf::open(&path).map(|_| ()).unwrap_err()).contains("not a whole GGUF file"));
    let refusal = |extra: &[(&str, Value)]| {
        write_gguf(&path, &weights, GgmlDType::F32, extra);
        let error = Gguf::open(&path).and_then(|gguf| gguf.tokenizer().map(|_| ())).unwrap_err();
        message_of(&error)
    };
    assert!(refusal(&[("general.architecture", text("gemma3"))]).contains("\"gemma3\" is not LLaMA's"));
    let scaled = [("llama.rope.scaling.type", text("linear"))];
    let error = refusal(&scaled);
    assert!(error.contains("scaled rotary embeddings") && error.contains("can be planned for, but not run"), "{error}");
    assert!(refusal(&[("tokenizer.ggml.model", text("t5"))]).contains("\"t5\" is not known here"));
    assert!(refusal(&[("tokenizer.ggml.pre", text("tekken"))]).contains("tokenizer.json beside the file"));
    write_gguf(&path, &weights, GgmlDType::F32, &[]);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 4096]).unwrap();
    let mut gguf = Gguf::open(&path).unwrap();
    let names = gguf.names();
    let failed = names.iter().filter_map(|name| gguf.take(name).err()).next().unwrap();
    assert!(failed.to_string().contains("m.gguf"), "{failed}");
    std::fs::write(&path, &bytes[..100]).unwrap();
    let error = Gguf::open(&path).map(|_| ()).unwrap_err();
    assert!(message_of(&error).contains("not a whole GGUF file"), "{error:#}");
}
