//! From tokenized sequences to batches: the splice positions of pictures, padding, and the positions whose next token is
//! predicted.

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
            encoded.push(i32::try_from(*id).unwrap_or(0), *label != IGNORED);
        }
        encoded
    }

    /// Adds a token, to be predicted or given.
    pub(super) fn push(&mut self, token: i32, predicted: bool) {
        match (self.parts.last_mut(), predicted) {
            (Some(Segment::Answer(tokens)), true) | (Some(Segment::Text(tokens)), false) => tokens.push(token),
            (_, true) => self.parts.push(Segment::Answer(vec![token])),
            (_, false) => self.parts.push(Segment::Text(vec![token])),
        }
    }

    /// The first `most` tokens, a picture counted as one, as MobileVLM cuts sequences at its `model_max_length`.
    #[must_use]
    pub fn truncated(mut self, most: usize) -> Self {
        let mut left = most;
        for part in &mut self.parts {
            match part {
                Segment::Text(tokens) | Segment::Answer(tokens) => {
                    tokens.truncate(left);
                    left -= tokens.len();
                }
                Segment::Picture(_) => left = left.saturating_sub(1),
            }
        }
        let mut room = most;
        self.parts.retain(|part| match part {
            Segment::Text(tokens) | Segment::Answer(tokens) => {
                room -= tokens.len();
                !tokens.is_empty()
            }
            Segment::Picture(_) => {
                let fits = room > 0;
                room = room.saturating_sub(1);
                fits
            }
        });
        self
    }

    /// Tokens that are to be predicted.
    pub fn answer_tokens(&self) -> usize {
        let answer = |part: &Segment| match part {
            Segment::Answer(tokens) => tokens.len(),
            Segment::Text(_) | Segment::Picture(_) => 0,
        };
        self.parts.iter().map(answer).sum()
    }

    /// Whether it has anything to be predicted.
    pub fn has_answer(&self) -> bool {
        self.answer_tokens() > 0
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

/// Padded sequences, ready for the device: to the right for training, to the left for generation, so that the next token
/// of every sequence comes at the same position.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Sequences.
    pub rows: usize,
    /// Positions of the longest one.
    pub length: usize,
    /// Positions of each sequence, its padding left out.
    pub lengths: Vec<usize>,
    /// Positions of padding in front of each sequence.
    pub padding: Vec<usize>,
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
            let own = example.length(picture_tokens);
            let padding = if last_only { length - own } else { 0 };
            let start = row * length + padding;
            batch.source.resize(start, 0);
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
            batch.lengths.push(own);
            batch.padding.push(padding);
            batch.source.resize((row + 1) * length, 0);
        }
        batch
    }

    fn push_text(&mut self, tokens: &[i32]) {
        let first = self.text_ids.len();
        self.source.extend((first..first + tokens.len()).map(|index| index as i32));
        self.text_ids.extend(tokens);
    }
}
