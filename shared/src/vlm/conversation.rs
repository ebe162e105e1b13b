//! Conversations as text and as tokens: MobileVLM's templates, where pictures stand, and which tokens are to be predicted.
//!
//! Source: MobileVLM's `conversation.py`, `preprocess_v1`, `preprocess_plain` and `tokenizer_image_token`. Its label mask
//! counts tokens; here the tokenizer says at which byte each token starts, which gives the same mask and cannot slip.

use std::collections::BTreeMap;
use std::ops::Range;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::batch::{Encoded, Segment};
use super::tokenizer::{Tokenizer, TokenizerError};

/// Stands for a picture in text.
pub const IMAGE: &str = "<image>";

/// What template `v1` begins with (Vicuna's system prompt).
const SYSTEM: &str = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, \
                      detailed, and polite answers to the user's questions.";

/// How a conversation is written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Template {
    /// MobileVLM's `v1`: `SYSTEM USER: <image>\nquestion ASSISTANT: answer</s>USER: …`.
    V1,
    /// `v1` without its system prompt, which is longer than everything else that a tiny model reads.
    V1Brief,
    /// MobileVLM's `plain`, of its first stage: the picture and its caption, the question left out.
    Plain,
}

/// A question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// What is asked, with [`IMAGE`] where a picture stands.
    pub question: String,
    /// The expected answer; none where it is to be generated.
    pub answer: Option<String>,
}

/// Questions and answers about one picture, which stands in front of the first question.
pub fn turns_about_picture(questions: &[(&str, &str)]) -> Vec<Turn> {
    let turn = |(index, (question, answer)): (usize, &(&str, &str))| {
        let question = if index == 0 { format!("{IMAGE}\n{question}") } else { (*question).to_owned() };
        Turn { question, answer: Some((*answer).to_owned()) }
    };
    questions.iter().enumerate().map(turn).collect()
}

/// Why a conversation could not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConversationError {
    /// Nothing to learn or to answer.
    #[error("the conversation is empty")]
    Empty,
    /// Placeholders and pictures that do not match.
    #[error("the text has {places} places for pictures ({IMAGE}), and there are {pictures} pictures")]
    Pictures {
        /// Placeholders.
        places: usize,
        /// Pictures.
        pictures: usize,
    },
    /// Text that cannot be tokenized.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

impl Template {
    /// Tokenizes a conversation about `pictures`, which stand at the [`IMAGE`]s in their order.
    ///
    /// Answers with their end-of-sequence token (with [`Template::Plain`], the caption and its line break) are to be
    /// predicted, nothing else is. A question with one picture has it moved to its front, as MobileVLM does; several
    /// stay where they are.
    ///
    /// # Errors
    /// A conversation without turns, another number of pictures than places, text that cannot be tokenized.
    pub fn encode(
        self,
        tokenizer: &Tokenizer,
        turns: &[Turn],
        pictures: &[usize],
    ) -> Result<Encoded, ConversationError> {
        if turns.is_empty() {
            return Err(ConversationError::Empty);
        }
        let (text, answers) = self.write(turns, tokenizer.eos_text());
        let places = text.matches(IMAGE).count();
        if places != pictures.len() {
            return Err(ConversationError::Pictures { places, pictures: pictures.len() });
        }
        let mut encoded = Encoded::default();
        encoded.parts.extend(tokenizer.bos().map(|bos| Segment::Text(vec![bos])));
        let mut chunk_start = 0;
        // Tokens come in the order of the text, and so do answers.
        let mut answers = answers.into_iter().peekable();
        for (index, chunk) in text.split(IMAGE).enumerate() {
            if let Some(picture) = index.checked_sub(1).and_then(|index| pictures.get(index)) {
                encoded.parts.push(Segment::Picture(*picture));
            }
            for (token, start) in tokenizer.encode_with_starts(chunk)? {
                let position = chunk_start + start;
                while answers.next_if(|answer| answer.end <= position).is_some() {}
                encoded.push(token, answers.peek().is_some_and(|answer| answer.contains(&position)));
            }
            chunk_start += chunk.len() + IMAGE.len();
        }
        Ok(encoded)
    }

    /// A question about pictures that stand in front of it, its answer left open.
    ///
    /// # Errors
    /// Text that cannot be tokenized.
    pub fn encode_prompt(
        self,
        tokenizer: &Tokenizer,
        question: &str,
        pictures: &[usize],
    ) -> Result<Encoded, ConversationError> {
        let question = if pictures.is_empty() {
            question.to_owned()
        } else {
            format!("{}\n{question}", IMAGE.repeat(pictures.len()))
        };
        self.encode(tokenizer, &[Turn { question, answer: None }], pictures)
    }

    /// Single questions (picture, question, answer) as conversations about one picture, of at most `turns` questions, in
    /// the order of the pictures.
    ///
    /// # Errors
    /// Text that cannot be tokenized.
    pub fn encode_by_picture<'a>(
        self,
        tokenizer: &Tokenizer,
        questions: impl IntoIterator<Item = (usize, &'a str, &'a str)>,
        turns: usize,
    ) -> Result<Vec<Encoded>, ConversationError> {
        let mut by_picture: BTreeMap<usize, Vec<(&str, &str)>> = BTreeMap::new();
        for (picture, question, answer) in questions {
            by_picture.entry(picture).or_default().push((question, answer));
        }
        let mut conversations = Vec::new();
        for (picture, questions) in &mut by_picture {
            // The questions of a kind stand together: mixed, a conversation holds several kinds.
            questions.shuffle(&mut ChaCha8Rng::seed_from_u64(*picture as u64));
            for part in questions.chunks(turns.max(1)) {
                conversations.push(self.encode(tokenizer, &turns_about_picture(part), &[*picture])?);
            }
        }
        Ok(conversations)
    }

    /// The text, and where in it the answers stand, in bytes.
    fn write(self, turns: &[Turn], eos: &str) -> (String, Vec<Range<usize>>) {
        let mut text = String::new();
        let mut answers = Vec::new();
        if self == Self::Plain {
            let places = turns.first().map_or(0, |turn| turn.question.matches(IMAGE).count());
            text.push_str(&IMAGE.repeat(places));
            let start = text.len();
            if let Some(answer) = turns.first().and_then(|turn| turn.answer.as_deref()) {
                text.push_str(answer);
                text.push('\n');
            }
            answers.push(start..text.len());
            return (text, answers);
        }
        if self == Self::V1 {
            text.push_str(SYSTEM);
            text.push(' ');
        }
        for turn in turns {
            text.push_str("USER: ");
            text.push_str(&picture_first(&turn.question));
            text.push_str(" ASSISTANT:");
            if let Some(answer) = &turn.answer {
                let start = text.len();
                text.push(' ');
                text.push_str(answer);
                text.push_str(eos);
                answers.push(start..text.len());
            }
        }
        (text, answers)
    }
}

/// The question with its only picture in front.
fn picture_first(question: &str) -> String {
    if question.matches(IMAGE).count() != 1 {
        return question.to_owned();
    }
    let rest = question.replace(IMAGE, "");
    format!("{IMAGE}\n{}", rest.trim()).trim().to_owned()
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests {
    use super::*;
    use crate::vlm::tokenizer::SpecialTokens;

    fn tokenizer() -> Tokenizer {
        let text = include_str!("../../../static/tiny-mobilevlm/tokenizer.json");
        Tokenizer::from_json(text, SpecialTokens::default()).unwrap()
    }

    fn turn(question: &str, answer: &str) -> Turn {
        Turn { question: question.to_owned(), answer: Some(answer.to_owned()) }
    }

    /// Text of the parts that are to be predicted, special tokens left out.
    fn predicted(tokenizer: &Tokenizer, encoded: &Encoded) -> Vec<String> {
        let answers = encoded.parts.iter().filter_map(|part| match part {
            Segment::Answer(tokens) => Some(tokenizer.decode(tokens).unwrap()),
            _ => None,
        });
        answers.collect()
    }

    #[test]
    fn template_v1_reads_as_mobilevlms() {
        let turns = [turn("<image>\nWhat is it?", "A cat."), turn("Sure?", "Yes.")];
        let (text, answers) = Template::V1.write(&turns, "</s>");
        assert_eq!(
            text,
            "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, \
             detailed, and polite answers to the user's questions. USER: <image>\nWhat is it? ASSISTANT: A \
             cat.</s>USER: Sure? ASSISTANT: Yes.</s>"
        );
        let spoken: Vec<&str> = answers.iter().map(|range| &text[range.clone()]).collect();
        assert_eq!(spoken, [" A cat.</s>", " Yes.</s>"]);
    }

    #[test]
    fn template_plain_keeps_the_picture_and_the_caption_alone() {
        let (text, answers) = Template::Plain.write(&[turn("Describe this.\n<image>", "a red bus")], "</s>");
        assert_eq!(text, "<image>a red bus\n");
        assert_eq!(&text[answers[0].clone()], "a red bus\n");
    }

    #[test]
    fn a_single_picture_moves_to_the_front_of_its_question_and_several_stay() {
        assert_eq!(picture_first("What is it?\n<image>"), "<image>\nWhat is it?");
        assert_eq!(picture_first("Compare <image> with <image>."), "Compare <image> with <image>.");
        assert_eq!(picture_first("<image>"), "<image>");
    }

    #[test]
    fn answers_and_their_end_tokens_are_predicted_and_nothing_else_is() {
        let tokenizer = tokenizer();
        let turns = [turn("<image>\nWhat color is it?", "red"), turn("How many?", "two circles")];
        for template in [Template::V1, Template::V1Brief] {
            let encoded = template.encode(&tokenizer, &turns, &[4]).unwrap();
            assert_eq!(predicted(&tokenizer, &encoded), ["red", "two circles"]);
            let ends = |part: &Segment| match part {
                Segment::Answer(tokens) => tokens.last() == Some(&tokenizer.eos()),
                _ => true,
            };
            assert!(encoded.parts.iter().all(ends));
            assert_eq!(encoded.pictures().collect::<Vec<_>>(), [4]);
        }
    }

    #[test]
    fn a_prompt_is_the_beginning_of_the_conversation_up_to_its_answer() {
        let tokenizer = tokenizer();
        let whole = Template::V1Brief.encode(&tokenizer, &[turn("<image>\nWhat shape?", "circle")], &[0]).unwrap();
        let open = Turn { question: "<image>\nWhat shape?".to_owned(), answer: None };
        let prompt = Template::V1Brief.encode(&tokenizer, &[open], &[0]).unwrap();
        assert_eq!(prompt.parts, whole.parts[..whole.parts.len() - 1]);
    }

    #[test]
    fn pictures_and_places_must_match() {
        let tokenizer = tokenizer();
        let error = Template::V1.encode(&tokenizer, &[turn("<image> or <image>?", "both")], &[0]).unwrap_err();
        assert!(error.to_string().contains("2 places for pictures"), "{error}");
        let error = Template::V1.encode(&tokenizer, &[turn("Who?", "you")], &[0]).unwrap_err();
        assert!(error.to_string().contains("0 places"), "{error}");
        assert!(matches!(Template::V1.encode(&tokenizer, &[], &[]), Err(ConversationError::Empty)));
        let two = Template::V1.encode(&tokenizer, &[turn("<image> or <image>?", "both")], &[3, 1]).unwrap();
        assert_eq!(two.pictures().collect::<Vec<_>>(), [3, 1]);
    }

    #[test]
    fn an_enormous_conversation_is_cut_off_and_a_picture_counts_as_one_token() {
        let tokenizer = tokenizer();
        let turns = [turn("<image>\nWhat?", &"red ".repeat(1000))];
        let encoded = Template::V1Brief.encode(&tokenizer, &turns, &[0]).unwrap().truncated(40);
        assert_eq!(encoded.length(1), 40);
        assert_eq!(encoded.length(16), 55);
    }
}
