//! Tokenizers in Hugging Face's `tokenizer.json` form, and the one that the tiny model uses.

use std::str::FromStr;

use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizerWrapper, PostProcessorWrapper, TokenizerImpl};

/// Why text could not be encoded or a tokenizer not be read.
#[derive(Debug, thiserror::Error)]
#[error("tokenizer: {0}")]
pub struct TokenizerError(String);

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

/// Text to token ids and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: i32,
    eos: i32,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// Text that is not one, or one without `<s>` and `</s>`.
    pub fn from_json(text: &str) -> Result<Self, TokenizerError> {
        let inner = tokenizers::Tokenizer::from_str(text)?;
        let special = |token: &str| {
            let id = inner.token_to_id(token).and_then(|id| i32::try_from(id).ok());
            id.ok_or_else(|| TokenizerError(format!("the vocabulary has no token {token}")))
        };
        let (bos, eos) = (special(BOS)?, special(EOS)?);
        Ok(Self { inner, bos, eos })
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

    /// Text of token ids: location tokens are kept, `<s>`, `</s>` and `<pad>` dropped, outer spaces trimmed.
    ///
    /// # Errors
    /// Ids outside the vocabulary.
    pub fn decode(&self, ids: &[i32]) -> Result<String, TokenizerError> {
        let ids: Vec<u32> = ids.iter().filter(|id| **id > self.eos).filter_map(|id| u32::try_from(*id).ok()).collect();
        Ok(self.inner.decode(&ids, false)?.trim().to_owned())
    }

    /// Id of the begin-of-sequence token.
    pub fn bos(&self) -> i32 {
        self.bos
    }

    /// Id of the end-of-sequence token.
    pub fn eos(&self) -> i32 {
        self.eos
    }

    /// Tokens in the vocabulary.
    pub fn vocab(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}
