//! Every kind of tokenizer that Hugging Face's crate reads, and the making of new ones.

use std::str::FromStr;

use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizerWrapper, PostProcessorWrapper, TokenizerImpl};

use super::{BOS, EOS, PAD, Tokenizer, TokenizerError};

/// A tokenizer of any kind.
#[derive(Debug, Clone)]
pub(super) struct General(tokenizers::Tokenizer);

impl From<tokenizers::Error> for TokenizerError {
    fn from(error: tokenizers::Error) -> Self {
        Self(error.to_string())
    }
}

impl General {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// Text that is not one.
    pub(super) fn from_json(text: &str) -> Result<Self, TokenizerError> {
        Ok(Self(tokenizers::Tokenizer::from_str(text)?))
    }

    /// The tokenizer as `tokenizer.json`.
    ///
    /// # Errors
    /// Never in practice.
    pub(super) fn to_json(&self) -> Result<String, TokenizerError> {
        Ok(self.0.to_string(true)?)
    }

    /// Tokens in the vocabulary.
    pub(super) fn vocab(&self) -> usize {
        self.0.get_vocab_size(true)
    }

    /// Id of a token.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }

    /// Ids of the tokens of `text`, each with the byte at which it starts.
    ///
    /// # Errors
    /// Text that the vocabulary cannot express.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<(u32, usize)>, TokenizerError> {
        let encoding = self.0.encode(text, false)?;
        let starts = encoding.get_offsets().iter().map(|(start, _)| *start);
        Ok(encoding.get_ids().iter().copied().zip(starts).collect())
    }

    /// Text of tokens.
    ///
    /// # Errors
    /// Tokens that cannot be put together.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        Ok(self.0.decode(ids, false)?)
    }
}

impl Tokenizer {
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
}
