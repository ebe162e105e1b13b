//! From conversations to batches: the template, the splice positions of pictures, and the loss on answer tokens alone.

use super::tokenizer::{Tokenizer, TokenizerError};

/// One question about one picture, tokenized.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// Which picture stands at the image token.
    pub picture: usize,
    /// Tokens before the picture.
    pub before: Vec<i32>,
    /// Tokens after it, up to the answer.
    pub after: Vec<i32>,
    /// Answer tokens, the end of sentence included; empty where the answer is to be generated.
    pub answer: Vec<i32>,
}

impl Encoded {
    /// Tokenizes `USER: <image>\nquestion ASSISTANT: answer</s>`, MobileVLM's template `v1` without its system prompt
    /// (which would be longer than everything else that the tiny model reads).
    ///
    /// # Errors
    /// Text that the tokenizer cannot encode.
    pub fn new(
        tokenizer: &Tokenizer,
        picture: usize,
        question: &str,
        answer: Option<&str>,
    ) -> Result<Self, TokenizerError> {
        let mut before = vec![tokenizer.bos()];
        before.extend(tokenizer.encode("USER: ")?);
        let after = tokenizer.encode(&format!("\n{question} ASSISTANT:"))?;
        let answer = match answer {
            Some(answer) => {
                let mut tokens = tokenizer.encode(&format!(" {answer}"))?;
                tokens.push(tokenizer.eos());
                tokens
            }
            None => Vec::new(),
        };
        Ok(Self { picture, before, after, answer })
    }

    /// Positions that the sequence takes when a picture takes `picture_tokens`.
    pub fn length(&self, picture_tokens: usize) -> usize {
        self.before.len() + picture_tokens + self.after.len() + self.answer.len()
    }
}

/// Right-padded sequences, ready for the device.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Sequences.
    pub rows: usize,
    /// Positions of the longest one.
    pub length: usize,
    /// Text tokens of all sequences, one after the other.
    pub text_ids: Vec<i32>,
    /// For each position of each sequence, the row of [text embeddings; image features] that stands there. Padding
    /// points at row 0: no token looks at it.
    pub source: Vec<i32>,
    /// Positions (row · length + column) that predict an answer token.
    pub answer_positions: Vec<i32>,
    /// The token that each of them should predict.
    pub answer_ids: Vec<i32>,
    /// Picture of each sequence.
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
        let texts: usize = examples.iter().map(|e| e.before.len() + e.after.len() + e.answer.len()).sum();
        let mut batch = Self { rows: examples.len(), length, ..Self::default() };
        for (row, example) in examples.iter().enumerate() {
            let start = batch.source.len();
            push_text(&mut batch, &example.before);
            let first_feature = texts + row * picture_tokens;
            batch.source.extend((first_feature..first_feature + picture_tokens).map(|index| index as i32));
            push_text(&mut batch, &example.after);
            let question_end = batch.source.len() - start;
            push_text(&mut batch, &example.answer);
            let end = batch.source.len() - start;
            if last_only {
                batch.answer_positions.push((row * length + end - 1) as i32);
            } else {
                let base = row * length + question_end - 1;
                batch.answer_positions.extend((0..example.answer.len()).map(|i| (base + i) as i32));
                batch.answer_ids.extend(&example.answer);
            }
            batch.source.resize(start + length, 0);
            batch.pictures.push(example.picture);
        }
        batch
    }
}

fn push_text(batch: &mut Batch, tokens: &[i32]) {
    let first = batch.text_ids.len();
    batch.source.extend((first..first + tokens.len()).map(|index| index as i32));
    batch.text_ids.extend(tokens);
}
