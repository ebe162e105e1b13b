//! The tokenizer beside a checkpoint: `tokenizer.model` or `tokenizer.json`, and what says which tokens begin and end a
//! sequence.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use hydra_shared::vlm::tokenizer::{Piece, PieceKind, SentencePiece, SpecialTokens, Tokenizer};
use serde_json::Value;

use crate::error::{Kind, ResultExt, failure};
use crate::input;

/// File of the tokenizer in a base folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// SentencePiece's file.
const SENTENCEPIECE_FILE: &str = "tokenizer.model";
/// Transformers' settings of a tokenizer.
const SETTINGS_FILE: &str = "tokenizer_config.json";
/// Files that go with a model wherever it is written.
const COMPANIONS: [&str; 8] = [
    "config.json",
    "vision_config.json",
    "generation_config.json",
    TOKENIZER_FILE,
    SENTENCEPIECE_FILE,
    SETTINGS_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
];

/// Opens the tokenizer of a folder. SentencePiece's own file is preferred, since MobileVLM trains with it.
///
/// # Errors
/// No tokenizer, a damaged one, special tokens that it does not have.
pub fn open(folder: &Path) -> Result<Tokenizer> {
    let settings = settings(folder)?;
    let flag = |key: &str| settings.get(key).and_then(Value::as_bool);
    let model = folder.join(SENTENCEPIECE_FILE);
    if model.is_file() {
        let place = || model.display().to_string();
        input::refuse_other_kinds(&model, &[])?;
        let bytes = std::fs::read(&model).or_fail(Kind::Data, place)?;
        let mut model = SentencePiece::from_bytes(&bytes).or_fail(Kind::Data, place)?;
        let mut special = model.special_tokens().or_fail(Kind::Data, place)?;
        add_tokens(&mut model, folder, &settings)?;
        // Fine-tunes for chat end their answers with a token of their own.
        special.eos = token(&settings, "eos_token").unwrap_or(special.eos);
        if flag("add_bos_token") == Some(false) {
            special.bos = None;
        }
        return Tokenizer::from_json(&model.to_json(), special).or_fail(Kind::Data, place);
    }
    let path = folder.join(TOKENIZER_FILE);
    let place = || path.display().to_string();
    if !path.is_file() {
        let problem = format!("there is no tokenizer; expected {TOKENIZER_FILE} or {SENTENCEPIECE_FILE}");
        return Err(failure(Kind::Data, format!("{}: {problem}", folder.display())));
    }
    let text = input::text(&path)?;
    let defaults = SpecialTokens::default();
    let eos = token(&settings, "eos_token").unwrap_or(defaults.eos);
    let bos = match token(&settings, "bos_token") {
        Some(bos) => Some(bos).filter(|bos| flag("add_bos_token").unwrap_or_else(|| puts_in_front(&text, bos))),
        // No settings at all: the tokenizer of this program's own models.
        None if settings.is_null() => defaults.bos,
        None => None,
    };
    Tokenizer::from_json(&text, SpecialTokens { bos, eos }).or_fail(Kind::Data, place)
}

/// The files of a folder that go with its model, as they are.
///
/// # Errors
/// A file that cannot be read.
pub fn beside(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let here = COMPANIONS.into_iter().filter(|name| folder.join(name).is_file());
    here.map(|name| {
        let path = folder.join(name);
        Ok((name.to_owned(), std::fs::read(&path).or_fail(Kind::Data, || path.display().to_string())?))
    })
    .collect()
}

/// Adds the settings that say which tokens begin and end a sequence.
pub fn with_special_tokens(mut files: Vec<(String, Vec<u8>)>, tokenizer: &Tokenizer) -> Vec<(String, Vec<u8>)> {
    let settings = serde_json::json!({
        "bos_token": tokenizer.bos_text(), "eos_token": tokenizer.eos_text(), "add_bos_token": tokenizer.bos().is_some(),
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    files.push((SETTINGS_FILE.to_owned(), settings.to_string().into_bytes()));
    files
}

/// `tokenizer_config.json`; null where there is none.
fn settings(folder: &Path) -> Result<Value> {
    let path = folder.join(SETTINGS_FILE);
    if !path.is_file() {
        return Ok(Value::Null);
    }
    let settings: Value = input::document(&path)?;
    if settings.is_object() { Ok(settings) } else { Err(failure(Kind::Data, format!("{}: no object", path.display()))) }
}

/// Appends the tokens that `added_tokens.json`, or the settings, add to SentencePiece's.
fn add_tokens(model: &mut SentencePiece, folder: &Path, settings: &Value) -> Result<()> {
    let path = folder.join("added_tokens.json");
    let mut added: BTreeMap<u64, String> = BTreeMap::new();
    if path.is_file() {
        let tokens: BTreeMap<String, u64> = input::document(&path)?;
        added.extend(tokens.into_iter().map(|(text, id)| (id, text)));
    }
    for (id, entry) in settings.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
        if let (Ok(id), Some(text)) = (id.parse(), entry.get("content").and_then(Value::as_str)) {
            added.insert(id, text.to_owned());
        }
    }
    for (id, text) in added {
        match usize::try_from(id) {
            // One of SentencePiece's own, named again.
            Ok(id) if id < model.pieces.len() => {}
            Ok(id) if id == model.pieces.len() => {
                model.pieces.push(Piece { text, score: 0.0, kind: PieceKind::Control });
            }
            _ => {
                let message =
                    format!("{}: the added token {text:?} has the id {id}, with a gap before it", folder.display());
                return Err(failure(Kind::Data, message));
            }
        }
    }
    Ok(())
}

/// A special token, which is text or an object with `content`.
fn token(settings: &Value, key: &str) -> Option<String> {
    let token = settings.get(key)?;
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}

/// Whether the tokenizer itself puts a token in front of text.
fn puts_in_front(text: &str, token: &str) -> bool {
    let document: Value = serde_json::from_str(text).unwrap_or_default();
    // The template of the post-processor names the special tokens that it adds.
    document.get("post_processor").is_some_and(|processor| {
        let templates = processor.get("processors").and_then(Value::as_array).cloned();
        let templates = templates.unwrap_or_else(|| vec![processor.clone()]);
        templates.iter().any(|template| {
            let first = template.get("single").and_then(Value::as_array).and_then(|single| single.first());
            first.and_then(|piece| piece.get("SpecialToken")?.get("id")?.as_str()) == Some(token)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCABULARY: &str = include_str!("../../../static/tiny-mobilevlm/tokenizer.json");

    /// The tiny model's tokenizer, whose `<s>` its post-processor puts in front or not, with settings.
    fn folder(puts_in_front: bool, settings: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut document: Value = serde_json::from_str(VOCABULARY).unwrap();
        if puts_in_front {
            document["post_processor"] = serde_json::json!({
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
            });
        }
        std::fs::write(folder.path().join(TOKENIZER_FILE), document.to_string()).unwrap();
        std::fs::write(folder.path().join(SETTINGS_FILE), settings).unwrap();
        folder
    }

    #[test]
    fn a_sequence_begins_with_bos_where_the_tokenizer_puts_it_there_and_the_settings_win() {
        let bos = |puts_in_front: bool, settings: &str| open(folder(puts_in_front, settings).path()).unwrap().bos();
        let plain = r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}}"#;
        assert_eq!(bos(true, plain), Some(1));
        // As SmolLM2 and Qwen have it: a token that the tokenizer does not add.
        assert_eq!(bos(false, plain), None);
        assert_eq!(bos(false, r#"{"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true}"#), Some(1));
        assert_eq!(bos(true, r#"{"bos_token": null, "eos_token": "</s>"}"#), None);
    }

    #[test]
    fn added_tokens_follow_sentencepieces_and_the_settings_name_the_end_of_an_answer() {
        let piece = |text: &str, kind: PieceKind| Piece { text: text.to_owned(), score: 0.0, kind };
        let mut model = SentencePiece {
            pieces: vec![
                piece("<unk>", PieceKind::Unknown),
                piece("<s>", PieceKind::Control),
                piece("a", PieceKind::Normal),
            ],
            prefix: true,
            bos: Some(1),
            eos: 1,
        };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("added_tokens.json"), r#"{"<|im_end|>": 3, "<s>": 1}"#).unwrap();
        let settings = serde_json::json!({"added_tokens_decoder": {"4": {"content": "<|im_start|>"}}});
        add_tokens(&mut model, folder.path(), &settings).unwrap();
        let texts: Vec<&str> = model.pieces.iter().map(|piece| piece.text.as_str()).collect();
        assert_eq!(texts, ["<unk>", "<s>", "a", "<|im_end|>", "<|im_start|>"]);
        let gap = serde_json::json!({"added_tokens_decoder": {"9": {"content": "<far>"}}});
        let error = add_tokens(&mut model, folder.path(), &gap).unwrap_err();
        assert!(error.to_string().contains("id 9, with a gap"), "{error}");
    }

    #[test]
    fn a_folder_without_tokenizer_and_special_tokens_that_are_not_in_it_are_named() {
        let refusal = |folder: &Path| crate::error::message_of(&open(folder).unwrap_err());
        let empty = tempfile::tempdir().unwrap();
        assert!(refusal(empty.path()).contains("there is no tokenizer; expected tokenizer.json or tokenizer.model"));
        let other = folder(false, r#"{"bos_token": null, "eos_token": "<|im_end|>"}"#);
        assert!(refusal(other.path()).contains("no token <|im_end|>"));
        std::fs::write(other.path().join(SENTENCEPIECE_FILE), b"\xff\xff\xff").unwrap();
        assert!(refusal(other.path()).contains("this is no SentencePiece model"));
    }
}
