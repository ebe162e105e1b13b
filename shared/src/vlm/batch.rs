//! From conversations to batches: the template, the splice positions of pictures, and the loss on answer tokens alone.

use super::tokenizer::{Tokenizer, TokenizerError};

/// A tokenized sequence with pictures in it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Encoded {
    /// Its parts in their order.
    pub parts: Vec<Segment>,
}

/// A part of a sequence.
#[derive(Debug, Clone, PartialEq)]
pub enum Segment {
    /// Tokens that are given.
    Text(Vec<i32>),
    /// Which picture stands here.
    Picture(usize),
    /// Tokens that are to be predicted, the end of sentence included.
    Answer(Vec<i32>),
}

/// Stands for a picture among token ids (MobileVLM's `IMAGE_TOKEN_INDEX`).
pub const IMAGE_TOKEN: i64 = -200;
/// Label of a token that is not to be predicted (PyTorch's `ignore_index`).
pub const IGNORED: i64 = -100;

impl Encoded {
    /// Tokenizes `USER: <image>\nquestion ASSISTANT: answer</s>USER: question ASSISTANT: answer</s>…`, MobileVLM's
    /// template `v1` without its system prompt (which would be longer than everything else that the tiny model reads).
    ///
    /// # Errors
    /// Text that the tokenizer cannot encode.
    pub fn conversation(tokenizer: &Tokenizer, picture: usize, turns: &[(&str, &str)]) -> Result<Self, TokenizerError> {
        let mut encoded = Self::start(tokenizer, picture)?;
        for (index, (question, answer)) in turns.iter().enumerate() {
            encoded.ask(tokenizer, question, index == 0)?;
            let mut answer = tokenizer.encode(&format!(" {answer}"))?;
            answer.push(tokenizer.eos());
            encoded.parts.push(Segment::Answer(answer));
        }
        Ok(encoded)
    }

    /// Tokenizes one question whose answer is to be generated.
    ///
    /// # Errors
    /// Text that the tokenizer cannot encode.
    pub fn prompt(tokenizer: &Tokenizer, picture: usize, question: &str) -> Result<Self, TokenizerError> {
        let mut encoded = Self::start(tokenizer, picture)?;
        encoded.ask(tokenizer, question, true)?;
        Ok(encoded)
    }

    /// A sequence from ids and labels as PyTorch programs hold them: [`IMAGE_TOKEN`] marks a picture (numbered from
    /// `first_picture`), [`IGNORED`] labels what is given.
    pub fn from_ids(ids: &[i64], labels: &[i64], first_picture: usize) -> Self {
        let mut encoded = Self::default();
        let mut picture = first_picture;
        for (id, label) in ids.iter().zip(labels) {
            if *id == IMAGE_TOKEN {
                encoded.parts.push(Segment::Picture(picture));
                picture += 1;
                continue;
            }
            let token = i32::try_from(*id).unwrap_or(0);
            match (encoded.parts.last_mut(), *label != IGNORED) {
                (Some(Segment::Answer(tokens)), true) | (Some(Segment::Text(tokens)), false) => tokens.push(token),
                (_, true) => encoded.parts.push(Segment::Answer(vec![token])),
                (_, false) => encoded.parts.push(Segment::Text(vec![token])),
            }
        }
        encoded
    }

    fn start(tokenizer: &Tokenizer, picture: usize) -> Result<Self, TokenizerError> {
        let mut before = vec![tokenizer.bos()];
        before.extend(tokenizer.encode("USER: ")?);
        Ok(Self { parts: vec![Segment::Text(before), Segment::Picture(picture)] })
    }

    fn ask(&mut self, tokenizer: &Tokenizer, question: &str, first: bool) -> Result<(), TokenizerError> {
        let role = if first { "\n" } else { "USER: " };
        self.parts.push(Segment::Text(tokenizer.encode(&format!("{role}{question} ASSISTANT:"))?));
        Ok(())
    }

    /// Positions that the sequence takes when a picture takes `picture_tokens`.
    pub fn length(&self, picture_tokens: usize) -> usize {
        let length = |part: &Segment| match part {
            Segment::Text(tokens) | Segment::Answer(tokens) => tokens.len(),
            Segment::Picture(_) => picture_tokens,
        };
        self.parts.iter().map(length).sum()
    }

    /// Its pictures, in their order.
    pub fn pictures(&self) -> impl Iterator<Item = usize> {
        self.parts.iter().filter_map(|part| match part {
            Segment::Picture(picture) => Some(*picture),
            Segment::Text(_) | Segment::Answer(_) => None,
        })
    }
}

/// Right-padded sequences, ready for the device.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Sequences.
    pub rows: usize,
    /// Positions of the longest one.
    pub length: usize,
    /// Positions of each sequence, its padding left out.
    pub lengths: Vec<usize>,
    /// Text tokens of all sequences, one after the other.
    pub text_ids: Vec<i32>,
    /// For each position of each sequence, the row of [text embeddings; image features] that stands there. Padding
    /// points at row 0: no token looks at it.
    pub source: Vec<i32>,
    /// Positions (row · length + column) that predict an answer token.
    pub answer_positions: Vec<i32>,
    /// The token that each of them should predict.
    pub answer_ids: Vec<i32>,
    /// The pictures, in the order in which they stand.
    pub pictures: Vec<usize>,
}

impl Batch {
    /// Batches sequences for training: every answer token is predicted from the position before it.
    pub fn for_training(examples: &[&Encoded], picture_tokens: usize) -> Self {
        Self::new(examples, picture_tokens, false)
    }

    /// Batches sequences for generation: only the token after the last one is predicted.
    pub fn for_generation(examples: &[&Encoded], picture_tokens: usize) -> Self {
        Self::new(examples, picture_tokens, true)
    }

    fn new(examples: &[&Encoded], picture_tokens: usize, last_only: bool) -> Self {
        let length = examples.iter().map(|example| example.length(picture_tokens)).max().unwrap_or(0);
        let texts: usize = examples.iter().map(|example| example.length(0)).sum();
        let mut batch = Self { rows: examples.len(), length, ..Self::default() };
        for (row, example) in examples.iter().enumerate() {
            let start = row * length;
            for part in &example.parts {
                match part {
                    Segment::Text(tokens) => batch.push_text(tokens),
                    Segment::Picture(picture) => {
                        let first = texts + batch.pictures.len() * picture_tokens;
                        batch.source.extend((first..first + picture_tokens).map(|index| index as i32));
                        batch.pictures.push(*picture);
                    }
                    Segment::Answer(tokens) => {
                        let first = batch.source.len();
                        batch.push_text(tokens);
                        if !last_only {
                            // Nothing stands before a row's first token that could predict it.
                            let skipped = usize::from(first == start);
                            let predicting = first + skipped..first + tokens.len();
                            batch.answer_positions.extend(predicting.map(|position| position as i32 - 1));
                            batch.answer_ids.extend(tokens.iter().skip(skipped));
                        }
                    }
                }
            }
            if last_only {
                batch.answer_positions.push(batch.source.len() as i32 - 1);
            }
            batch.lengths.push(batch.source.len() - start);
            batch.source.resize(start + length, 0);
        }
        batch
    }

    fn push_text(&mut self, tokens: &[i32]) {
        let first = self.text_ids.len();
        self.source.extend((first..first + tokens.len()).map(|index| index as i32));
        self.text_ids.extend(tokens);
    }
}
