//! Byte-level BPE as the tiny model's `tokenizer.json` has it, and nothing else.
//!
//! The crate that reads every kind of tokenizer brings three engines for regular expressions and Unicode's tables: a fifth of
//! what the browser would load to train the tiny model. Natively it is used, and a test holds this against it.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::TokenizerError;

/// A byte-level BPE that splits text as GPT-2 does.
#[derive(Debug, Clone)]
pub(super) struct BytePairs {
    /// Text of every id; bytes are written as characters.
    tokens: HashMap<u32, String>,
    ids: HashMap<String, u32>,
    /// Rank and result of merging two tokens.
    merges: HashMap<(u32, u32), (usize, u32)>,
    /// Tokens that are found in text before it is split, the longest first.
    added: Vec<(String, u32)>,
    /// Token of every byte.
    bytes: Vec<u32>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: ByteLevel,
    post_processor: Option<Value>,
    decoder: ByteLevel,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

#[derive(Deserialize)]
struct ByteLevel {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    add_prefix_space: bool,
    #[serde(default)]
    use_regex: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: String,
    vocab: HashMap<String, u32>,
    merges: Vec<(String, String)>,
    #[serde(default)]
    ignore_merges: bool,
}

impl BytePairs {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// One of another kind.
    pub(super) fn from_json(text: &str) -> Result<Self, TokenizerError> {
        let file: File = serde_json::from_str(text).map_err(|error| TokenizerError(error.to_string()))?;
        let byte_level = |part: &ByteLevel| part.kind == "ByteLevel" && !part.add_prefix_space && part.use_regex;
        let plain = |added: &Added| !(added.single_word || added.lstrip || added.rstrip);
        let known = file.normalizer.is_none()
            && file.post_processor.is_none()
            && byte_level(&file.pre_tokenizer)
            && byte_level(&file.decoder)
            && file.model.kind == "BPE"
            && !file.model.ignore_merges
            && file.added_tokens.iter().all(plain);
        if !known {
            return Err(TokenizerError("only byte-level BPE as GPT-2 splits text can be read here".to_owned()));
        }
        let mut ids = file.model.vocab;
        let missing = |what: &str| TokenizerError(format!("the vocabulary has no token {what}"));
        let mut merges = HashMap::with_capacity(file.model.merges.len());
        for (rank, (left, right)) in file.model.merges.iter().enumerate() {
            let of = |token: &str| ids.get(token).copied().ok_or_else(|| missing(token));
            let merged = of(&format!("{left}{right}"))?;
            merges.entry((of(left)?, of(right)?)).or_insert((rank, merged));
        }
        let bytes = (0..=u8::MAX)
            .map(|byte| {
                let token = character(byte).to_string();
                ids.get(&token).copied().ok_or_else(|| missing(&token))
            })
            .collect::<Result<_, _>>()?;
        let mut added: Vec<(String, u32)> =
            file.added_tokens.into_iter().map(|added| (added.content, added.id)).collect();
        ids.extend(added.iter().cloned());
        added.sort_by_key(|(content, _)| std::cmp::Reverse(content.len()));
        added.retain(|(content, _)| !content.is_empty());
        let tokens = ids.iter().map(|(token, id)| (*id, token.clone())).collect();
        Ok(Self { tokens, ids, merges, added, bytes })
    }

    /// Tokens in the vocabulary.
    pub(super) fn vocab(&self) -> usize {
        self.ids.len()
    }

    /// Id of a token.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// Ids of the tokens of `text`, each with the byte at which it starts.
    ///
    /// # Errors
    /// Never: all bytes are tokens.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<(u32, usize)>, TokenizerError> {
        let mut found = Vec::new();
        let mut start = 0;
        let mut at = 0;
        while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
            if let Some((content, id)) = self.added.iter().find(|(content, _)| rest.starts_with(content.as_str())) {
                self.encode_plain(text, start..at, &mut found);
                found.push((*id, at));
                at += content.len();
                start = at;
            } else {
                at += rest.chars().next().map_or(1, char::len_utf8);
            }
        }
        self.encode_plain(text, start..text.len(), &mut found);
        Ok(found)
    }

    /// Text without added tokens.
    fn encode_plain(&self, text: &str, range: std::ops::Range<usize>, found: &mut Vec<(u32, usize)>) {
        let (mut at, end) = (range.start, range.end);
        while let Some(rest) = text.get(at..end).filter(|rest| !rest.is_empty()) {
            let length = first_piece(rest).max(1);
            let piece = rest.as_bytes().get(..length).unwrap_or(rest.as_bytes());
            let mut tokens: Vec<(u32, usize)> = piece
                .iter()
                .enumerate()
                .filter_map(|(i, byte)| Some((*self.bytes.get(usize::from(*byte))?, at + i)))
                .collect();
            self.merge(&mut tokens);
            found.append(&mut tokens);
            at += length;
        }
    }

    /// Merges the pair of the lowest rank, the first of several, until no pair can be merged.
    fn merge(&self, tokens: &mut Vec<(u32, usize)>) {
        loop {
            let pairs = tokens.windows(2).enumerate();
            let mergeable = pairs.filter_map(|(i, pair)| Some((*self.merges.get(&(pair[0].0, pair[1].0))?, i)));
            let Some(((_, merged), at)) = mergeable.min_by_key(|((rank, _), i)| (*rank, *i)) else { return };
            if let Some(token) = tokens.get_mut(at) {
                token.0 = merged;
            }
            tokens.remove(at + 1);
        }
    }

    /// Text of tokens.
    ///
    /// # Errors
    /// Never: bytes that are no text are replaced.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let mut bytes = Vec::new();
        for token in ids.iter().filter_map(|id| self.tokens.get(id)) {
            match token.chars().map(byte).collect::<Option<Vec<u8>>>() {
                Some(plain) => bytes.extend(plain),
                None => bytes.extend(token.as_bytes()),
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The character that stands for a byte: itself where it can be seen, else one from U+0100 on.
fn character(byte: u8) -> char {
    let seen = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    if seen(byte) {
        return char::from(byte);
    }
    let unseen = (0..byte).filter(|byte| !seen(*byte)).count() as u32;
    char::from_u32(256 + unseen).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that a character stands for.
fn byte(c: char) -> Option<u8> {
    (0..=u8::MAX).find(|byte| character(*byte) == c)
}

/// Bytes of the first piece of a text, by GPT-2's rule:
/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
fn first_piece(text: &str) -> usize {
    for contraction in ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"] {
        if text.starts_with(contraction) {
            return contraction.len();
        }
    }
    let space = usize::from(text.starts_with(' '));
    let word = text.get(space..).unwrap_or_default();
    if let Some(class) = word.chars().next().map(Class::of).filter(|class| *class != Class::Space) {
        let run: usize = word.chars().take_while(|c| Class::of(*c) == class).map(char::len_utf8).sum();
        return space + run;
    }
    let blanks: Vec<usize> = text.chars().take_while(|c| Class::of(*c) == Class::Space).map(char::len_utf8).collect();
    let run: usize = blanks.iter().sum();
    // The last blank before a word belongs to the word, or stands alone.
    match blanks.as_slice() {
        [.., last] if run < text.len() && blanks.len() > 1 => run - last,
        _ => run,
    }
}

/// Unicode's classes, as far as the rule tells them apart. `char::is_alphabetic` takes some marks for letters, which the rule
/// does not; no text that the tiny model reads has any.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

impl Class {
    fn of(c: char) -> Self {
        match c {
            c if c.is_whitespace() => Self::Space,
            c if c.is_numeric() => Self::Number,
            c if c.is_alphabetic() => Self::Letter,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests {
    use super::*;
    use crate::tasks::{Split, TaskConfig, generate};

    const TINY: &str = include_str!("../../../../static/tiny-mobilevlm/tokenizer.json");

    #[test]
    fn what_is_encoded_is_decoded() {
        let tokenizer = BytePairs::from_json(TINY).unwrap();
        for text in ["", "Ünïcode – 12 ½ 猫\n\t  x", "<loc03><loc10> a<loc</s>b", "it's  we'll   be 'd"] {
            let ids: Vec<u32> = tokenizer.encode(text).unwrap().into_iter().map(|(id, _)| id).collect();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
    }

    #[test]
    fn tokenizers_of_other_kinds_are_refused() {
        for (from, to) in [
            (r#""normalizer": null"#, r#""normalizer": {"type": "NFC"}"#),
            (r#""use_regex": true"#, r#""use_regex": false"#),
            (r#""ignore_merges": false"#, r#""ignore_merges": true"#),
            (r#""lstrip": false"#, r#""lstrip": true"#),
        ] {
            assert!(TINY.contains(from));
            let error = BytePairs::from_json(&TINY.replace(from, to)).unwrap_err();
            assert!(error.to_string().contains("only byte-level BPE"), "{error}");
        }
        assert!(BytePairs::from_json("{}").is_err());
    }

    #[cfg(feature = "any-tokenizer")]
    mod against_the_general_reader {
        use std::str::FromStr;

        use proptest::prelude::*;

        use super::*;

        fn both() -> (BytePairs, tokenizers::Tokenizer) {
            (BytePairs::from_json(TINY).unwrap(), tokenizers::Tokenizer::from_str(TINY).unwrap())
        }

        fn general(tokenizer: &tokenizers::Tokenizer, text: &str) -> Vec<(u32, usize)> {
            let encoding = tokenizer.encode(text, false).unwrap();
            encoding.get_ids().iter().copied().zip(encoding.get_offsets().iter().map(|(start, _)| *start)).collect()
        }

        #[test]
        fn every_question_and_answer_has_the_same_tokens() {
            let (small, full) = both();
            for split in Split::ALL {
                for sample in generate(&TaskConfig::fine_tuning(), split, 3, 60).unwrap().samples {
                    let text = format!("USER: \n{} ASSISTANT: {}</s>", sample.question, sample.answer);
                    assert_eq!(small.encode(&text).unwrap(), general(&full, &text), "{text}");
                }
            }
            assert_eq!(small.vocab(), full.get_vocab_size(true));
            assert_eq!(small.id("<loc03>"), full.token_to_id("<loc03>"));
        }

        proptest! {
            #[test]
            fn any_ascii_text_has_the_same_tokens(text in "([ -~\n\t]|<loc0[0-9]>|</s>|<s>| {1,3}|'(s|ll|re)){0,40}") {
                let (small, full) = both();
                let ours = small.encode(&text).unwrap();
                prop_assert_eq!(&ours, &general(&full, &text));
                let ids: Vec<u32> = ours.into_iter().map(|(id, _)| id).collect();
                prop_assert_eq!(small.decode(&ids).unwrap(), full.decode(&ids, false).unwrap());
            }
        }
    }
}
