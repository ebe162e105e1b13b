//! From conversations to batches: the template, the splice positions of pictures, and the loss on answer tokens alone.

use super::tokenizer::{Tokenizer, TokenizerError};

/// A conversation about one picture, tokenized.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// Which picture stands at the image token.
    pub picture: usize,
    /// Tokens before the picture.
    pub before: Vec<i32>,
    /// What follows it.
    pub turns: Vec<Turn>,
}

/// A question and its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// Tokens up to the answer.
    pub question: Vec<i32>,
    /// Answer tokens, the end of sentence included; empty where the answer is to be generated.
    pub answer: Vec<i32>,
}

impl Encoded {
    /// Tokenizes `USER: <image>\nquestion ASSISTANT: answer</s>USER: question ASSISTANT: answer</s>…`, MobileVLM's
    /// template `v1` without its system prompt (which would be longer than everything else that the tiny model reads).
    ///
    /// # Errors
    /// Text that the tokenizer cannot encode.
    pub fn conversation(tokenizer: &Tokenizer, picture: usize, turns: &[(&str, &str)]) -> Result<Self, TokenizerError> {
        let mut encoded = Self::start(tokenizer, picture)?;
        for (question, answer) in turns {
            let mut answer = tokenizer.encode(&format!(" {answer}"))?;
            answer.push(tokenizer.eos());
            encoded.ask(tokenizer, question, answer)?;
        }
        Ok(encoded)
    }

    /// Tokenizes one question whose answer is to be generated.
    ///
    /// # Errors
    /// Text that the tokenizer cannot encode.
    pub fn prompt(tokenizer: &Tokenizer, picture: usize, question: &str) -> Result<Self, TokenizerError> {
        let mut encoded = Self::start(tokenizer, picture)?;
        encoded.ask(tokenizer, question, Vec::new())?;
        Ok(encoded)
    }

    fn start(tokenizer: &Tokenizer, picture: usize) -> Result<Self, TokenizerError> {
        let mut before = vec![tokenizer.bos()];
        before.extend(tokenizer.encode("USER: ")?);
        Ok(Self { picture, before, turns: Vec::new() })
    }

    fn ask(&mut self, tokenizer: &Tokenizer, question: &str, answer: Vec<i32>) -> Result<(), TokenizerError> {
        let role = if self.turns.is_empty() { "\n" } else { "USER: " };
        let question = tokenizer.encode(&format!("{role}{question} ASSISTANT:"))?;
        self.turns.push(Turn { question, answer });
        Ok(())
    }

    /// Positions that the sequence takes when a picture takes `picture_tokens`.
    pub fn length(&self, picture_tokens: usize) -> usize {
        picture_tokens + self.text_length()
    }

    fn text_length(&self) -> usize {
        self.before.len() + self.turns.iter().map(|turn| turn.question.len() + turn.answer.len()).sum::<usize>()
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
        let texts: usize = examples.iter().map(|example| example.text_length()).sum();
        let mut batch = Self { rows: examples.len(), length, ..Self::default() };
        for (row, example) in examples.iter().enumerate() {
            let start = row * length;
            push_text(&mut batch, &example.before);
            let first_feature = texts + row * picture_tokens;
            batch.source.extend((first_feature..first_feature + picture_tokens).map(|index| index as i32));
            for turn in &example.turns {
                push_text(&mut batch, &turn.question);
                let answer_start = batch.source.len();
                push_text(&mut batch, &turn.answer);
                if !last_only {
                    let predicting = answer_start - 1..answer_start - 1 + turn.answer.len();
                    batch.answer_positions.extend(predicting.map(|position| position as i32));
                    batch.answer_ids.extend(&turn.answer);
                }
            }
            if last_only {
                batch.answer_positions.push(batch.source.len() as i32 - 1);
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
