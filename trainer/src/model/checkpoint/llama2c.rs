//! LLaMA decoders in the layout of Karpathy's llama2.c (its version 0): seven counts, then the weights.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use hydra_shared::vlm::spec::{ModelConfig, ModelSpec};
use hydra_shared::vlm::tokenizer::{Piece, PieceKind, SentencePiece, Tokenizer};
use hydra_shared::vlm::{Weight, WeightError, WeightSource};
use memmap2::Mmap;

use super::gguf::halves;
use crate::error::{Kind, ResultExt, failure};
use hydra_shared::files::checkpoint::map;

/// A `.bin` of llama2.c, mapped into memory.
pub struct Llama2c {
    map: Mmap,
    spec: ModelSpec,
    /// Checkpoint name → first float and shape.
    places: BTreeMap<String, (usize, Vec<usize>)>,
}

/// Bytes of the header.
const HEADER: usize = 28;

impl Llama2c {
    /// Opens a file.
    ///
    /// # Errors
    /// A file that is none, or whose size is not what its header says.
    pub fn open(path: &Path) -> Result<Self> {
        let map = map(path)?;
        let wrong = |problem: &str| {
            failure(Kind::Data, format!("{}: {problem}; expected a model in llama2.c's layout", path.display()))
        };
        let header = map.get(..HEADER).ok_or_else(|| wrong("the file is shorter than its header"))?;
        let counts: Vec<i32> = header.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect();
        let [hidden, intermediate, layers, heads, kv_heads, vocab, positions] = counts[..] else {
            return Err(wrong("no header"));
        };
        if counts.iter().enumerate().any(|(at, count)| (at != 5 && *count <= 0) || *count == 0) {
            return Err(wrong("its header holds counts that are not positive"));
        }
        let json = serde_json::json!({
            "model_type": "llama", "_name_or_path": path.file_stem().map(|name| name.to_string_lossy()),
            "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab.unsigned_abs(),
            "max_position_embeddings": positions, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
            // A negative vocabulary says that there is a head of its own.
            "tie_word_embeddings": vocab > 0,
        });
        let place = || path.display().to_string();
        let described = ModelConfig::from_json(&json.to_string()).or_fail(Kind::Data, place)?;
        let spec = described.runnable().or_fail(Kind::Data, place)?;
        let (places, floats) = places(&spec);
        if map.len() != HEADER + 4 * floats {
            return Err(wrong(&format!("{} bytes, where its header means {}", map.len(), HEADER + 4 * floats)));
        }
        Ok(Self { map, spec, places })
    }

    /// Shapes.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }
}

impl WeightSource for Llama2c {
    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn take(&mut self, name: &str) -> Result<Option<Weight>, WeightError> {
        let Some((first, shape)) = self.places.remove(name) else { return Ok(None) };
        let start = HEADER + 4 * first;
        let bytes = self.map.get(start..start + 4 * shape.iter().product::<usize>()).unwrap_or_default();
        let values = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let weight = Weight { shape, values }.checked(name)?;
        Ok(Some(match name.rsplit_once("self_attn.") {
            Some((_, "q_proj.weight")) => halves(weight, self.spec.decoder.heads),
            Some((_, "k_proj.weight")) => halves(weight, self.spec.decoder.kv_heads),
            _ => weight,
        }))
    }

    fn discard(&mut self, prefix: &str) {
        self.places.retain(|name, _| !name.starts_with(prefix));
    }
}

/// Where every weight lies, in floats behind the header, and how many floats there are. A kind of weight of all layers lies
/// together.
fn places(spec: &ModelSpec) -> (BTreeMap<String, (usize, Vec<usize>)>, usize) {
    let d = &spec.decoder;
    let (q, kv) = (d.heads * d.head_dim, d.kv_heads * d.head_dim);
    let layered: [(&str, Vec<usize>); 9] = [
        ("input_layernorm", vec![d.hidden]),
        ("self_attn.q_proj", vec![q, d.hidden]),
        ("self_attn.k_proj", vec![kv, d.hidden]),
        ("self_attn.v_proj", vec![kv, d.hidden]),
        ("self_attn.o_proj", vec![d.hidden, q]),
        ("post_attention_layernorm", vec![d.hidden]),
        ("mlp.gate_proj", vec![d.intermediate, d.hidden]),
        ("mlp.down_proj", vec![d.hidden, d.intermediate]),
        ("mlp.up_proj", vec![d.intermediate, d.hidden]),
    ];
    let mut places = BTreeMap::new();
    let mut next = 0;
    let mut place = |name: String, shape: Vec<usize>| {
        let length: usize = shape.iter().product();
        places.insert(name, (next, shape));
        next += length;
    };
    place("model.embed_tokens.weight".to_owned(), vec![d.vocab, d.hidden]);
    for (path, shape) in layered {
        for layer in 0..d.layers {
            place(format!("model.layers.{layer}.{path}.weight"), shape.clone());
        }
    }
    place("model.norm.weight".to_owned(), vec![d.hidden]);
    // Two tables of the rotary embedding, which are computed here.
    next += d.max_positions * d.head_dim;
    if !d.tied_embeddings {
        places.insert("lm_head.weight".to_owned(), (next, vec![d.vocab, d.hidden]));
        next += d.vocab * d.hidden;
    }
    (places, next)
}

/// The vocabulary that lies beside a model: `tok512.bin` or `tokenizer.bin`.
///
/// # Errors
/// No such file, or one that ends too early.
pub fn tokenizer(model: &Path, vocab: usize) -> Result<Tokenizer> {
    let folder = model.parent().unwrap_or(Path::new(""));
    let candidates = [folder.join(format!("tok{vocab}.bin")), folder.join("tokenizer.bin")];
    let Some(path) = candidates.iter().find(|path| path.is_file()) else {
        let names: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
        return Err(failure(Kind::Data, format!("the vocabulary is missing: expected {}", names.join(" or "))));
    };
    read_vocabulary(path, vocab)
}

fn read_vocabulary(path: &Path, vocab: usize) -> Result<Tokenizer> {
    let place = || path.display().to_string();
    let bytes = std::fs::read(path).or_fail(Kind::Data, place)?;
    let mut rest = bytes.as_slice();
    let mut take = |length: usize| {
        let (head, tail) = rest.split_at_checked(length).ok_or_else(|| {
            failure(Kind::Data, format!("{}: ends before its {vocab} tokens do; it is another model's", place()))
        })?;
        rest = tail;
        Ok::<_, anyhow::Error>(head)
    };
    // Length of the longest token.
    take(4)?;
    let mut pieces = Vec::with_capacity(vocab);
    for id in 0..vocab {
        let score = f32::from_le_bytes(<[u8; 4]>::try_from(take(4)?)?);
        let length = u32::from_le_bytes(<[u8; 4]>::try_from(take(4)?)?) as usize;
        let text = String::from_utf8(take(length)?.to_vec()).or_fail(Kind::Data, place)?;
        // llama2.c writes spaces plainly, and line breaks around the control tokens.
        let (text, kind) = match id {
            0 => ("<unk>".to_owned(), PieceKind::Unknown),
            1 => ("<s>".to_owned(), PieceKind::Control),
            2 => ("</s>".to_owned(), PieceKind::Control),
            _ if text.len() == 6 && text.starts_with("<0x") && text.ends_with('>') => (text, PieceKind::Byte),
            _ => (text.replace(' ', "▁"), PieceKind::Normal),
        };
        pieces.push(Piece { text, score, kind });
    }
    let model = SentencePiece { pieces, prefix: true, bos: Some(1), eos: 2 };
    let special = model.special_tokens().or_fail(Kind::Data, place)?;
    Tokenizer::from_json(&model.to_json(), special).or_fail(Kind::Data, place)
}
