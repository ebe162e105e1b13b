//! Tokenizers in Hugging Face's `tokenizer.json` form, those of LLaMA's and llama.cpp's files, which are brought into that
//! form, and the one that the tiny model uses.

mod byte_level;
mod sentencepiece;

use std::str::FromStr;

use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizerWrapper, PostProcessorWrapper, TokenizerImpl};

/// Why text could not be encoded or a tokenizer not be read.
#[derive(Debug, thiserror::Error)]
#[error("tokenizer: {0}")]
pub struct TokenizerError(String);

pub use byte_level::{begins_with_bos, byte_level_json};
pub use sentencepiece::{Piece, PieceKind, SentencePiece};

impl From<tokenizers::Error> for TokenizerError {
    fn from(error: tokenizers::Error) -> Self {
        Self(error.to_string())
    }
}

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
    inner: tokenizers::Tokenizer,
    bos: Option<i32>,
    eos: i32,
    special: SpecialTokens,
    pad: Option<i32>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// Text that is not one, or one without the special tokens.
    pub fn from_json(text: &str, special: SpecialTokens) -> Result<Self, TokenizerError> {
        let inner = tokenizers::Tokenizer::from_str(text)?;
        let id = |token: &str| inner.token_to_id(token).and_then(|id| i32::try_from(id).ok());
        let needed =
            |token: &str| id(token).ok_or_else(|| TokenizerError(format!("the vocabulary has no token {token}")));
        let bos = special.bos.as_deref().map(needed).transpose()?;
        let eos = needed(&special.eos)?;
        let pad = id(PAD);
        Ok(Self { inner, bos, eos, special, pad })
    }

    /// Learns a byte-level BPE vocabulary of at most `vocab` tokens from `lines`, and returns it as `tokenizer.json`.
    ///
    /// All 256 bytes are tokens, so that any text can be encoded. Each of `whole` (location tokens, say) is a token of
    /// its own.
    ///
    /// # Errors
    /// A vocabulary too small for the bytes.
    pub fn train<'a>(
        lines: impl Iterator<Item = &'a str> + Send,
        whole: Vec<String>,
        vocab: usize,
    ) -> Result<String, TokenizerError> {
        let specials = [PAD, BOS, EOS].into_iter().map(str::to_owned).chain(whole);
        let specials: Vec<AddedToken> = specials.map(|text| AddedToken::from(text, true)).collect();
        let mut trainer = BpeTrainerBuilder::new()
            .vocab_size(vocab)
            .min_frequency(2)
            .show_progress(false)
            .special_tokens(specials)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let mut tokenizer: TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, ByteLevel> =
            TokenizerImpl::new(BPE::default());
        let byte_level = ByteLevel::new(false, true, true);
        tokenizer.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level));
        tokenizer.train(&mut trainer, lines)?;
        Ok(tokenizer.to_string(true)?)
    }

    /// The tokenizer as `tokenizer.json`.
    ///
    /// # Errors
    /// Never in practice; a tokenizer that was read can be written.
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        Ok(self.inner.to_string(true)?)
    }

    /// Token ids of `text`; nothing is put in front or behind.
    ///
    /// # Errors
    /// Text that the vocabulary cannot express.
    pub fn encode(&self, text: &str) -> Result<Vec<i32>, TokenizerError> {
        let encoding = self.inner.encode(text, false)?;
        Ok(encoding.get_ids().iter().filter_map(|id| i32::try_from(*id).ok()).collect())
    }

    /// Token ids of `text`, each with the byte of `text` at which it starts; nothing is put in front or behind.
    ///
    /// # Errors
    /// Text that the vocabulary cannot express.
    pub fn encode_with_starts(&self, text: &str) -> Result<Vec<(i32, usize)>, TokenizerError> {
        let encoding = self.inner.encode(text, false)?;
        let starts = encoding.get_offsets().iter().map(|(start, _)| *start);
        Ok(encoding.get_ids().iter().filter_map(|id| i32::try_from(*id).ok()).zip(starts).collect())
    }

    /// Text of token ids: location tokens are kept, begin, end and padding dropped, outer spaces trimmed.
    ///
    /// # Errors
    /// Ids outside the vocabulary.
    pub fn decode(&self, ids: &[i32]) -> Result<String, TokenizerError> {
        let plain = |id: &&i32| **id != self.eos && Some(**id) != self.bos && Some(**id) != self.pad;
        let ids: Vec<u32> = ids.iter().filter(plain).filter_map(|id| u32::try_from(*id).ok()).collect();
        Ok(self.inner.decode(&ids, false)?.trim().to_owned())
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
        self.inner.get_vocab_size(true)
    }
}
