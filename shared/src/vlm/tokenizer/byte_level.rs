//! Byte-level BPE (GPT-2's kind) from the vocabulary and merges that a GGUF file holds.

use serde_json::{Value, json};

use super::TokenizerError;
use super::sentencepiece::{Piece, PieceKind, added_tokens};

/// How llama.cpp splits text before the merges are applied, by the name in `tokenizer.ggml.pre`.
fn pre_tokenizer(name: &str) -> Option<Value> {
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let split = |digits: &str| {
        let pattern = format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        );
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
    };
    let sequence = |first: Value, bytes: Value| json!({"type": "Sequence", "pretokenizers": [first, bytes]});
    Some(match name {
        "gpt-2" | "default" => bytes(true),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => {
            sequence(json!({"type": "Digits", "individual_digits": true}), bytes(true))
        }
        "llama-bpe" | "llama3" | "llama-v3" => sequence(split("{1,3}"), bytes(false)),
        "qwen2" => sequence(split(""), bytes(false)),
        _ => return None,
    })
}

/// Whether models whose text is split by that rule begin with BOS where their file does not say: LLaMA 3's do.
pub fn begins_with_bos(pre: &str) -> bool {
    ["llama-bpe", "llama3", "llama-v3"].contains(&pre)
}

/// A `tokenizer.json` from a vocabulary in the order of its ids, the merges (two tokens with a space between them, the most
/// frequent first), and the name of the rule that splits text.
///
/// # Errors
/// A rule that is not known, a merge that is no pair.
pub fn byte_level_json(pieces: &[Piece], merges: &[String], pre: &str) -> Result<String, TokenizerError> {
    let Some(pre_tokenizer) = pre_tokenizer(pre) else {
        return Err(TokenizerError(format!(
            "the rule {pre:?} that splits text is not known here; put the model's own tokenizer.json beside the file"
        )));
    };
    let pairs = merges
        .iter()
        .map(|merge| merge.split_once(' ').ok_or_else(|| TokenizerError(format!("the merge {merge:?} is no pair"))))
        .collect::<Result<Vec<_>, _>>()?;
    let vocab: serde_json::Map<String, Value> =
        pieces.iter().enumerate().map(|(id, piece)| (piece.text.clone(), json!(id))).collect();
    let special = |kind: PieceKind| matches!(kind, PieceKind::Control | PieceKind::UserDefined | PieceKind::Unknown);
    // Words that are in LLaMA 3's vocabulary are taken whole, whether its merges reach them or not.
    let ignore_merges = begins_with_bos(pre);
    let document = json!({
        "version": "1.0",
        "added_tokens": added_tokens(pieces, special),
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": pairs, "byte_fallback": false, "fuse_unk": false,
            "ignore_merges": ignore_merges},
    });
    Ok(document.to_string())
}
