//! SentencePiece models (Kudo and Richardson, arXiv 1808.06226) of the BPE kind: LLaMA's `tokenizer.model`, and the
//! vocabularies with scores in GGUF and llama2.c files.
//!
//! SentencePiece merges the adjacent pair whose piece has the highest score; a list of merges in the order of the scores of
//! what they make does the same. It becomes a `tokenizer.json` as transformers' converter for LLaMA makes it in its legacy
//! form, which is the form that MobileVLM trains with: a space is put in front of every stretch of text between special
//! tokens.

use std::collections::HashMap;

use prost::Message;
use serde_json::{Value, json};

use super::{SpecialTokens, TokenizerError};

/// An entry of the vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Its text, with `▁` for a space.
    pub text: String,
    /// The higher, the earlier it is merged.
    pub score: f32,
    /// What it stands for.
    pub kind: PieceKind,
}

/// What an entry stands for, with SentencePiece's and GGUF's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceKind {
    /// Text: 1.
    Normal,
    /// What nothing else can express: 2.
    Unknown,
    /// Begin, end and the like, which never stand for text: 3.
    Control,
    /// Text that is never split: 4.
    UserDefined,
    /// Nothing: 5.
    Unused,
    /// A byte, written `<0x0A>`: 6.
    Byte,
}

impl PieceKind {
    /// From its number.
    ///
    /// # Errors
    /// A number that is none of theirs.
    pub fn from_number(number: i64) -> Result<Self, TokenizerError> {
        Ok(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return Err(TokenizerError(format!("{number} is no type of a vocabulary's entry"))),
        })
    }
}

/// A SentencePiece model.
#[derive(Debug, Clone, PartialEq)]
pub struct SentencePiece {
    /// The vocabulary, in the order of its ids.
    pub pieces: Vec<Piece>,
    /// Whether a space is put in front of text.
    pub prefix: bool,
    /// Id of the begin-of-sequence token.
    pub bos: Option<usize>,
    /// Id of the end-of-sequence token.
    pub eos: usize,
}

impl SentencePiece {
    /// Reads a `tokenizer.model`.
    ///
    /// # Errors
    /// Bytes that are no SentencePiece model, or one of another kind than BPE.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let model = proto::ModelProto::decode(bytes)
            .map_err(|error| TokenizerError(format!("this is no SentencePiece model: {error}")))?;
        let trainer = model.trainer_spec.unwrap_or_default();
        if model.pieces.is_empty() {
            return Err(TokenizerError("this is no SentencePiece model: it has no vocabulary".to_owned()));
        }
        if trainer.model_type() != proto::BPE {
            return Err(TokenizerError(
                "this SentencePiece model is not of the BPE kind, as those of LLaMA's family are; convert it to a \
                 tokenizer.json with transformers"
                    .to_owned(),
            ));
        }
        let pieces = model
            .pieces
            .into_iter()
            .map(|piece| {
                let kind = PieceKind::from_number(i64::from(piece.kind()))?;
                Ok(Piece { text: piece.piece.unwrap_or_default(), score: piece.score.unwrap_or_default(), kind })
            })
            .collect::<Result<Vec<_>, TokenizerError>>()?;
        let special = |id: i32| usize::try_from(id).ok().filter(|id| *id < pieces.len());
        let Some(eos) = special(trainer.eos_id()) else {
            return Err(TokenizerError("this SentencePiece model has no end-of-sentence token".to_owned()));
        };
        let prefix = model.normalizer_spec.unwrap_or_default().add_dummy_prefix();
        Ok(Self { bos: special(trainer.bos_id()), eos, prefix, pieces })
    }

    /// The tokens that begin and end a sequence.
    ///
    /// # Errors
    /// Ids outside the vocabulary.
    pub fn special_tokens(&self) -> Result<SpecialTokens, TokenizerError> {
        let text = |id: usize| {
            let piece = self.pieces.get(id).map(|piece| piece.text.clone());
            piece.ok_or_else(|| TokenizerError(format!("the special token {id} is outside the vocabulary")))
        };
        Ok(SpecialTokens { bos: self.bos.map(text).transpose()?, eos: text(self.eos)? })
    }

    /// The model as a `tokenizer.json`.
    pub fn to_json(&self) -> String {
        let vocab: serde_json::Map<String, Value> =
            self.pieces.iter().enumerate().map(|(id, piece)| (piece.text.clone(), json!(id))).collect();
        let unknown = self.pieces.iter().find(|piece| piece.kind == PieceKind::Unknown).map(|piece| &piece.text);
        let bytes = self.pieces.iter().any(|piece| piece.kind == PieceKind::Byte);
        let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if self.prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let special =
            |kind: PieceKind| matches!(kind, PieceKind::Control | PieceKind::Unknown | PieceKind::UserDefined);
        json!({
            "version": "1.0",
            "added_tokens": added_tokens(&self.pieces, special),
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE", "vocab": vocab, "merges": self.merges(), "unk_token": unknown, "fuse_unk": true,
                "byte_fallback": bytes,
            },
        })
        .to_string()
    }

    /// Every pair of pieces that together are a piece, the pairs of the highest scores first.
    fn merges(&self) -> Vec<(&str, &str)> {
        let ids: HashMap<&str, usize> =
            self.pieces.iter().enumerate().map(|(id, piece)| (piece.text.as_str(), id)).collect();
        let mut merges = Vec::new();
        for (id, piece) in self.pieces.iter().enumerate().filter(|(_, piece)| piece.kind == PieceKind::Normal) {
            for (at, _) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(at);
                if let (Some(left_id), Some(right_id)) = (ids.get(left), ids.get(right)) {
                    merges.push((piece.score, id, *left_id, *right_id, left, right));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
        merges.into_iter().map(|(.., left, right)| (left, right)).collect()
    }
}

/// The entries of a `tokenizer.json` for tokens that text is searched for before anything else.
pub(super) fn added_tokens(pieces: &[Piece], whole: impl Fn(PieceKind) -> bool) -> Vec<Value> {
    let added = pieces.iter().enumerate().filter(|(_, piece)| whole(piece.kind));
    added
        .map(|(id, piece)| {
            json!({
                "id": id, "content": piece.text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": piece.kind != PieceKind::UserDefined,
            })
        })
        .collect()
}

/// The part of `sentencepiece_model.proto` that is used.
mod proto {
    /// `TrainerSpec.ModelType.BPE`.
    pub const BPE: i32 = 2;

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ModelProto {
        #[prost(message, repeated, tag = "1")]
        pub pieces: Vec<SentencePiece>,
        #[prost(message, optional, tag = "2")]
        pub trainer_spec: Option<TrainerSpec>,
        #[prost(message, optional, tag = "3")]
        pub normalizer_spec: Option<NormalizerSpec>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct SentencePiece {
        #[prost(string, optional, tag = "1")]
        pub piece: Option<String>,
        #[prost(float, optional, tag = "2")]
        pub score: Option<f32>,
        #[prost(int32, optional, tag = "3", default = "1")]
        pub kind: Option<i32>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct TrainerSpec {
        #[prost(int32, optional, tag = "3", default = "1")]
        pub model_type: Option<i32>,
        #[prost(int32, optional, tag = "41", default = "1")]
        pub bos_id: Option<i32>,
        #[prost(int32, optional, tag = "42", default = "2")]
        pub eos_id: Option<i32>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct NormalizerSpec {
        #[prost(bool, optional, tag = "3", default = "true")]
        pub add_dummy_prefix: Option<bool>,
    }
}
