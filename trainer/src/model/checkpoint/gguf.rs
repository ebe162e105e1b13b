//! LLaMA decoders in GGUF, llama.cpp's format, in any quantization that candle can read; weights become single precision.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Result;
use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, Value};
use hydra_shared::vlm::spec::{DecoderSpec, ModelConfig, ModelSpec, NotRunnable};
use hydra_shared::vlm::tokenizer::{
    Piece, PieceKind, SentencePiece, SpecialTokens, Tokenizer, begins_with_bos, byte_level_json,
};
use hydra_shared::vlm::{Storage, Weight, WeightError, WeightSource};

use crate::error::{Kind, ResultExt, failure};

/// A GGUF file: its header is in memory, its tensors are read when they are taken.
pub struct Gguf {
    path: PathBuf,
    file: BufReader<File>,
    content: Content,
    spec: ModelSpec,
    /// Checkpoint name → name in the file.
    names: BTreeMap<String, String>,
}

impl Gguf {
    /// Opens a file.
    ///
    /// # Errors
    /// A file that is no GGUF or damaged, or holds another architecture than LLaMA's.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, content) = header(path)?;
        if holds_adapter(&content) {
            let problem = "this is a LoRA adapter, not a model; give the model that it was made for, and the adapter to --adapter";
            return Err(failure(Kind::Data, format!("{}: {problem} (a folder of PEFT's)", path.display())));
        }
        check_shapes(&content, path)?;
        let spec = spec(&content).or_fail(Kind::Data, || path.display().to_string())?;
        let names = content.tensor_infos.keys().map(|name| (checkpoint_name(name), name.clone())).collect();
        Ok(Self { path: path.to_owned(), file, content, spec, names })
    }

    /// The precision of the matrices; half where they are coarser.
    pub fn precision(&self) -> Storage {
        match self.content.tensor_infos.get("blk.0.attn_q.weight").map(|info| info.ggml_dtype) {
            Some(GgmlDType::F32) => Storage::F32,
            Some(GgmlDType::BF16) => Storage::Bf16,
            _ => Storage::F16,
        }
    }

    /// Shapes.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The tokenizer that the file holds.
    ///
    /// # Errors
    /// A kind of tokenizer that is not known here.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        self.read_tokenizer().or_fail(Kind::Data, || self.path.display().to_string())
    }

    fn read_tokenizer(&self) -> Result<Tokenizer> {
        let meta = Metadata(&self.content);
        let tokens = meta.texts("tokenizer.ggml.tokens")?;
        let kinds = meta.list("tokenizer.ggml.token_type").unwrap_or_default();
        let scores = meta.list("tokenizer.ggml.scores").unwrap_or_default();
        let pieces = tokens
            .into_iter()
            .enumerate()
            .map(|(id, text)| {
                let kind = kinds.get(id).and_then(integer).unwrap_or(1);
                let score = scores.get(id).and_then(|score| score.to_f32().ok()).unwrap_or(0.0);
                Ok(Piece { text, score, kind: PieceKind::from_number(kind)? })
            })
            .collect::<Result<Vec<_>>>()?;
        let special =
            |key: &str| meta.integer(&format!("tokenizer.ggml.{key}")).and_then(|id| usize::try_from(id).ok());
        let eos = special("eos_token_id").unwrap_or(2);
        match meta.text("tokenizer.ggml.model").unwrap_or_default() {
            "llama" => {
                let prefix = meta.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
                let bos = meta.flag("tokenizer.ggml.add_bos_token").unwrap_or(true);
                let bos = special("bos_token_id").or(Some(1)).filter(|_| bos);
                let model = SentencePiece { pieces, prefix, bos, eos };
                Ok(Tokenizer::from_json(&model.to_json(), model.special_tokens()?)?)
            }
            "gpt2" => {
                let text = |id: usize| {
                    let piece = pieces.get(id).map(|piece| piece.text.clone());
                    piece.ok_or_else(|| anyhow::anyhow!("the special token {id} is outside the vocabulary"))
                };
                let pre = meta.text("tokenizer.ggml.pre").unwrap_or("default");
                let bos = meta.flag("tokenizer.ggml.add_bos_token").unwrap_or_else(|| begins_with_bos(pre));
                let bos = special("bos_token_id").filter(|_| bos).map(text).transpose()?;
                let merges = meta.texts("tokenizer.ggml.merges")?;
                let special = SpecialTokens { bos, eos: text(eos)? };
                Ok(Tokenizer::from_json(&byte_level_json(&pieces, &merges, pre)?, special)?)
            }
            other => anyhow::bail!(
                "the tokenizer {other:?} is not known here (llama and gpt2 are); put the model's own tokenizer.json \
                 beside the file"
            ),
        }
    }

    fn read(&mut self, stored: &str, name: &str) -> Result<Weight, WeightError> {
        let failed = |error: String| WeightError::File(format!("{}: {stored}: {error}", self.path.display()));
        let tensor = self.content.tensor(&mut self.file, stored, &Device::Cpu);
        let tensor = tensor.and_then(|tensor| tensor.dequantize(&Device::Cpu)).map_err(|e| failed(e.to_string()))?;
        let shape = tensor.dims().to_vec();
        let values = tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).map_err(|e| failed(e.to_string()))?;
        let weight = Weight { shape, values }.checked(name)?;
        let decoder = &self.spec.decoder;
        Ok(if stored.ends_with("attn_q.weight") || stored.ends_with("attn_q.bias") {
            halves(weight, decoder.heads)
        } else if stored.ends_with("attn_k.weight") || stored.ends_with("attn_k.bias") {
            halves(weight, decoder.kv_heads)
        } else {
            weight
        })
    }
}

impl WeightSource for Gguf {
    fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn take(&mut self, name: &str) -> Result<Option<Weight>, WeightError> {
        self.names.remove(name).map(|stored| self.read(&stored, name)).transpose()
    }

    fn discard(&mut self, prefix: &str) {
        self.names.retain(|name, _| !name.starts_with(prefix));
    }
}

/// Brings the rows of a query or key projection from pairs of neighbours (x₀, x₁), (x₂, x₃), …, which llama.cpp and llama2.c
/// rotate, into the halves (x₀, x₂, …), (x₁, x₃, …) of each head that Hugging Face checkpoints have.
pub fn halves(weight: Weight, heads: usize) -> Weight {
    rearranged(weight, heads, |row, half| 2 * (row % half) + row / half)
}

/// The inverse of `halves`.
pub fn pairs(weight: Weight, heads: usize) -> Weight {
    rearranged(weight, heads, |row, half| row % 2 * half + row / 2)
}

/// Puts other rows into each head's place; `from` gives the old row of a new one and is told half the head's width.
fn rearranged(weight: Weight, heads: usize, from: fn(usize, usize) -> usize) -> Weight {
    let rows = weight.shape.first().copied().unwrap_or(0);
    let head = rows / heads.max(1);
    let elements: usize = weight.shape.iter().product();
    if head == 0 || elements != weight.values.len() || !rows.is_multiple_of(heads) || !head.is_multiple_of(2) {
        // No rotary embedding has such a shape: it does not fit the model, which is said where it is put in.
        return weight;
    }
    let width = weight.values.len() / rows;
    let mut values = Vec::with_capacity(weight.values.len());
    for row in 0..rows {
        let old = (row / head * head + from(row % head, head / 2)) * width;
        values.extend_from_slice(&weight.values[old..old + width]);
    }
    Weight { shape: weight.shape, values }
}

/// The name in a Hugging Face checkpoint of a tensor of llama.cpp's; a tensor that is not known keeps its name, and is then
/// reported as no part of the model.
fn checkpoint_name(name: &str) -> String {
    let whole = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    let block = || {
        let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        let (tensor, kind) = rest.rsplit_once('.')?;
        let path = match tensor {
            "attn_q" => "self_attn.q_proj",
            "attn_k" => "self_attn.k_proj",
            "attn_v" => "self_attn.v_proj",
            "attn_output" => "self_attn.o_proj",
            "ffn_gate" => "mlp.gate_proj",
            "ffn_up" => "mlp.up_proj",
            "ffn_down" => "mlp.down_proj",
            "attn_norm" => "input_layernorm",
            "ffn_norm" => "post_attention_layernorm",
            _ => return None,
        };
        Some(format!("model.layers.{layer}.{path}.{kind}"))
    };
    whole.map(str::to_owned).or_else(block).unwrap_or_else(|| name.to_owned())
}

/// A file's header, and the file behind it.
fn header(path: &Path) -> Result<(BufReader<File>, Content)> {
    let place = || path.display().to_string();
    let mut file = BufReader::new(File::open(path).or_fail(Kind::Data, place)?);
    let whole = || format!("{}: not a whole GGUF file; download it again", place());
    // A damaged header can make the reader divide by an alignment of 0.
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Content::read(&mut file)));
    let content = read.map_err(|_| failure(Kind::Data, whole()))?.or_fail(Kind::Data, whole)?;
    Ok((file, content))
}

/// A file of adapters has no model's shapes.
fn holds_adapter(content: &Content) -> bool {
    let kind = content.metadata.get("general.type").and_then(|kind| kind.to_string().ok());
    kind.is_some_and(|kind| kind == "adapter")
}

/// Shapes that no file of this size can hold are refused before anything is multiplied by them.
fn check_shapes(content: &Content, path: &Path) -> Result<()> {
    let bytes = std::fs::metadata(path).or_fail(Kind::Data, || path.display().to_string())?.len();
    // The coarsest types take a little over a bit an element.
    let most = usize::try_from(bytes.saturating_mul(8)).unwrap_or(usize::MAX);
    let product = |dims: &[usize]| dims.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
    let mut names: Vec<&String> = content.tensor_infos.keys().collect();
    names.sort();
    for name in names {
        let dims = content.tensor_infos[name].shape.dims();
        if product(dims).is_none_or(|elements| elements > most) {
            let message = format!("{}: {name} has shape {dims:?}, more than the file can hold", path.display());
            return Err(failure(Kind::Data, message));
        }
    }
    Ok(())
}

/// The header's values.
struct Metadata<'a>(&'a Content);

impl Metadata<'_> {
    fn value(&self, key: &str) -> Option<&Value> {
        self.0.metadata.get(key)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.value(key)?.to_string().ok().map(String::as_str)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.value(key)?.to_bool().ok()
    }

    fn integer(&self, key: &str) -> Option<i64> {
        integer(self.value(key)?)
    }

    fn list(&self, key: &str) -> Option<&[Value]> {
        self.value(key)?.to_vec().ok().map(Vec::as_slice)
    }

    fn texts(&self, key: &str) -> Result<Vec<String>> {
        let list = self.list(key).ok_or_else(|| anyhow::anyhow!("{key} is missing"))?;
        list.iter().map(|text| Ok(text.to_string()?.clone())).collect()
    }

    /// A size of the model.
    fn size(&self, key: &str) -> Result<usize> {
        let value = self.integer(key).and_then(|value| usize::try_from(value).ok());
        value.ok_or_else(|| anyhow::anyhow!("{key} is missing or no count"))
    }
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::U64(value) => i64::try_from(*value).ok(),
        Value::I64(value) => Some(*value),
        Value::I32(value) => Some(i64::from(*value)),
        Value::I16(value) => Some(i64::from(*value)),
        Value::I8(value) => Some(i64::from(*value)),
        other => other.to_u64().ok().and_then(|value| i64::try_from(value).ok()),
    }
}

/// Shapes, from the header and the tensors' shapes.
fn spec(content: &Content) -> Result<ModelSpec> {
    let meta = Metadata(content);
    let architecture = meta.text("general.architecture").unwrap_or_default();
    if architecture != "llama" {
        return Err(failure(
            Kind::Data,
            format!("the architecture {architecture:?} is not LLaMA's; its Hugging Face checkpoint may be readable"),
        ));
    }
    let shape = |name: &str| content.tensor_infos.get(name).map(|info| info.shape.dims().to_vec());
    let hidden = meta.size("llama.embedding_length")?;
    let heads = meta.size("llama.attention.head_count")?;
    let kv_heads = meta.size("llama.attention.head_count_kv").unwrap_or(heads);
    let float = |key: &str| meta.value(key).and_then(|value| value.to_f32().ok());
    let embedding = shape("token_embd.weight").unwrap_or_default();
    let has_bias = |tensor: &str| content.tensor_infos.contains_key(&format!("blk.0.{tensor}.bias"));
    let json = serde_json::json!({
        "model_type": "llama",
        "_name_or_path": meta.text("general.name").unwrap_or("llama"),
        "hidden_size": hidden,
        "intermediate_size": meta.size("llama.feed_forward_length")?,
        "num_hidden_layers": meta.size("llama.block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": meta.size("llama.attention.key_length").unwrap_or(hidden / heads.max(1)),
        "vocab_size": embedding.first().copied().unwrap_or(0),
        "tie_word_embeddings": !content.tensor_infos.contains_key("output.weight"),
        "rms_norm_eps": short(float("llama.attention.layer_norm_rms_epsilon").unwrap_or(1e-5)),
        "rope_theta": short(float("llama.rope.freq_base").unwrap_or(10_000.0)),
        "max_position_embeddings": meta.size("llama.context_length").unwrap_or(2048),
    });
    let scaled = meta.text("llama.rope.scaling.type").is_some_and(|kind| kind != "none");
    let rotated = meta.size("llama.rope.dimension_count").ok();
    // The same checks as for a config.json.
    let spec = ModelConfig::from_json(&json.to_string())?.runnable()?;
    let differs = if scaled {
        Some("llama.rope.scaling.type asks for scaled rotary embeddings, for which there is no code here")
    } else if rotated.is_some_and(|width| width != spec.decoder.head_dim) {
        Some("llama.rope.dimension_count rotates a part of each head alone, for which there is no code here")
    } else {
        None
    };
    if let Some(differs) = differs {
        return Err(NotRunnable { model: spec.name, reason: differs.to_owned() }.into());
    }
    let decoder = DecoderSpec {
        attention_bias: has_bias("attn_q"),
        output_bias: has_bias("attn_output"),
        mlp_bias: has_bias("ffn_up"),
        ..spec.decoder
    };
    Ok(ModelSpec { decoder, ..spec })
}

/// The decimal number that a single-precision value was written for: 1e-5, not 9.99999974e-6.
fn short(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| f64::from(value))
}

#[cfg(test)]
mod tests;
