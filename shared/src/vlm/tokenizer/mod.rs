//! Tokenizers in Hugging Face's `tokenizer.json` form, those of LLaMA's and llama.cpp's files, which are brought into that
//! form, and the one that the tiny model uses. Without the feature `any-tokenizer` the last is the only one that can be read.

mod byte_level;
#[cfg(any(test, not(feature = "any-tokenizer")))]
mod byte_pairs;
#[cfg(feature = "any-tokenizer")]
mod general;
mod sentencepiece;

#[cfg(not(feature = "any-tokenizer"))]
use byte_pairs::BytePairs as Inner;
#[cfg(feature = "any-tokenizer")]
use general::General as Inner;

/// Why text could not be encoded or a tokenizer not be read.
#[derive(Debug, thiserror::Error)]
#[error("tokenizer: {0}")]
pub struct TokenizerError(String);

pub use byte_level::{begins_with_bos, byte_level_json};
pub use sentencepiece::{Piece, PieceKind, SentencePiece};

/// Padding token of the tiny model.
pub const PAD: &str = "<pad>";
/// Begin of sequence.
pub const BOS: &str = "<s>";
/// End of sequence.
pub const EOS: &str = "</s>";

/// The tokens that begin and end a sequence, by their text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Put in front of every sequence; some models have none.
    pub bos: Option<String>,
    /// Ends every answer.
    pub eos: String,
}

impl Default for SpecialTokens {
    /// LLaMA's `<s>` and `</s>`.
    fn default() -> Self {
        Self { bos: Some(BOS.to_owned()), eos: EOS.to_owned() }
    }
}

/// Text to token ids and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Inner,
    bos: Option<i32>,
    eos: i32,
    special: SpecialTokens,
    pad: Option<i32>,
    /// Rows of the model's embedding, where they are known.
    rows: Option<usize>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// Text that is not one, or one without the special tokens.
    pub fn from_json(text: &str, special: SpecialTokens) -> Result<Self, TokenizerError> {
        let inner = Inner::from_json(text)?;
        let id = |token: &str| inner.id(token).and_then(|id| i32::try_from(id).ok());
        let needed =
            |token: &str| id(token).ok_or_else(|| TokenizerError(format!("the vocabulary has no token {token}")));
        let bos = special.bos.as_deref().map(needed).transpose()?;
        let eos = needed(&special.eos)?;
        let pad = id(PAD);
        Ok(Self { inner, bos, eos, special, pad, rows: None })
    }

    /// The tokenizer of a model whose embedding has so many rows: text that holds a token beyond them is refused.
    #[must_use]
    pub fn with_rows(self, rows: usize) -> Self {
        Self { rows: Some(rows), ..self }
    }

    /// The tokenizer as `tokenizer.json`.
    ///
    /// # Errors
    /// Never in practice; a tokenizer that was read can be written.
    #[cfg(feature = "any-tokenizer")]
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        self.inner.to_json()
    }

    /// Token ids of `text`; nothing is put in front or behind.
    ///
    /// # Errors
    /// Text that the vocabulary cannot express.
    pub fn encode(&self, text: &str) -> Result<Vec<i32>, TokenizerError> {
        Ok(self.encode_with_starts(text)?.into_iter().map(|(id, _)| id).collect())
    }

    /// Token ids of `text`, each with the byte of `text` at which it starts; nothing is put in front or behind.
    ///
    /// # Errors
    /// Text that the vocabulary cannot express.
    pub fn encode_with_starts(&self, text: &str) -> Result<Vec<(i32, usize)>, TokenizerError> {
        let tokens = self.inner.encode(text)?;
        let beyond = |(id, _): &&(u32, usize)| self.rows.is_some_and(|rows| *id as usize >= rows);
        if let Some((id, start)) = tokens.iter().find(beyond) {
            let rest: String = text.get(*start..).unwrap_or_default().chars().take(20).collect();
            let rows = self.rows.unwrap_or_default();
            return Err(TokenizerError(format!(
                "the token {id} at {rest:?} is beyond the {rows} rows of the model's embedding; leave it out of the text, or give \
                 the tokenizer that the model was trained with"
            )));
        }
        let tokens = tokens.into_iter();
        Ok(tokens.filter_map(|(id, start)| Some((i32::try_from(id).ok()?, start))).collect())
    }

    /// Text of token ids: location tokens are kept, begin, end and padding dropped, outer spaces trimmed.
    ///
    /// # Errors
    /// Ids outside the vocabulary.
    pub fn decode(&self, ids: &[i32]) -> Result<String, TokenizerError> {
        let plain = |id: &&i32| **id != self.eos && Some(**id) != self.bos && Some(**id) != self.pad;
        let ids: Vec<u32> = ids.iter().filter(plain).filter_map(|id| u32::try_from(*id).ok()).collect();
        Ok(self.inner.decode(&ids)?.trim().to_owned())
    }

    /// Id of the begin-of-sequence token; none for models that were trained without one.
    pub fn bos(&self) -> Option<i32> {
        self.bos
    }

    /// Id of the end-of-sequence token.
    pub fn eos(&self) -> i32 {
        self.eos
    }

    /// Text of the end-of-sequence token.
    pub fn eos_text(&self) -> &str {
        &self.special.eos
    }

    /// Text of the begin-of-sequence token.
    pub fn bos_text(&self) -> Option<&str> {
        self.special.bos.as_deref()
    }

    /// Tokens in the vocabulary.
    pub fn vocab(&self) -> usize {
        self.inner.vocab()
    }
}
