//! LLaVA's conversation format: a JSON list (or JSON lines) of `{"id", "image", "conversations": [{"from", "value"}, …]}`
//! and a folder of pictures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use hydra_shared::json;
use hydra_shared::tasks::Split;
use hydra_shared::vlm::conversation::Turn;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::config::{DataConfig, no_pretraining};
use super::pictures::{Damaged, PictureFile};
use super::questions::{Dialogue, QuestionSet};
use crate::error::{Kind, ResultExt, failure};
use crate::input;

#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    id: serde_json::Value,
    #[serde(default)]
    image: Option<OneOrMany>,
    #[serde(default)]
    video: Option<IgnoredAny>,
    conversations: Vec<Sentence>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "image must be a file name or a list of file names")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Sentence {
    from: String,
    value: String,
}

/// Reads one part. Without a validation file, `validation_pictures` records of the training file are held out, chosen by the
/// seed.
pub(super) fn load(config: &DataConfig, split: Split) -> Result<QuestionSet> {
    let own_validation = config.validation_questions.is_some();
    let (key, path) = match split {
        Split::Pretraining => return Err(no_pretraining()),
        Split::Validation if own_validation => ("data.validation_questions", &config.validation_questions),
        Split::Train | Split::Validation => ("data.questions", &config.questions),
        Split::Test => ("data.test_questions", &config.test_questions),
    };
    let Some(path) = path else {
        return Err(failure(Kind::Usage, format!("{key} is not set: name a file in LLaVA's conversation format")));
    };
    let records = read(path)?;
    let all = records.len();
    let records = match split {
        Split::Test => limited(records, config.test_pictures),
        Split::Validation if own_validation => limited(records, config.validation_pictures),
        _ => {
            let held_out = if own_validation { 0 } else { config.validation_pictures };
            let mut order: Vec<usize> = (0..records.len()).collect();
            order.shuffle(&mut ChaCha8Rng::seed_from_u64(config.seed));
            let (validation, train) = order.split_at(held_out.min(records.len()));
            let chosen = if split == Split::Validation { validation } else { limit(train, config.train_pictures) };
            let mut records: Vec<Option<(Position, Record)>> = records.into_iter().map(Some).collect();
            chosen.iter().filter_map(|index| records[*index].take()).collect()
        }
    };
    let folder = config.folder.clone().unwrap_or_else(|| path.parent().unwrap_or(Path::new("")).to_owned());
    let mut pictures: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let mut paths = Vec::new();
    let mut dialogues = Vec::new();
    say_what_is_left_out(config, split, all, records.len());
    let chosen = records.len();
    for (Position { number, line }, record) in records {
        let place = format!("{}:{line}: record {number} (id {})", path.display(), record.id);
        let usable = unusable(&record).map_or_else(|| turns(record.conversations), Err);
        let turns = match usable {
            Ok(turns) => turns,
            Err(problem) if config.damaged == Damaged::Skip => {
                tracing::warn!("{place}: {problem}; it is left out");
                continue;
            }
            Err(problem) => {
                return Err(failure(
                    Kind::Data,
                    format!("{place}: {problem}; repair it, or set data.damaged=skip to go on without it"),
                ));
            }
        };
        let names = match record.image {
            None => Vec::new(),
            Some(OneOrMany::One(name)) => vec![name],
            Some(OneOrMany::Many(names)) => names,
        };
        let own = names.into_iter().map(|name| {
            *pictures.entry(folder.join(name)).or_insert_with_key(|path| {
                paths.push(PictureFile::Path(path.clone()));
                paths.len() - 1
            })
        });
        dialogues.push(Dialogue { place, pictures: own.collect(), turns });
    }
    if dialogues.len() < chosen {
        let left_out = chosen - dialogues.len();
        tracing::warn!("{}: {left_out} of {chosen} conversations are damaged and left out", path.display());
    }
    Ok(QuestionSet { pictures: paths, questions: Vec::new(), dialogues, rule: None })
}

/// Says how many conversations of the file a limit leaves out.
fn say_what_is_left_out(config: &DataConfig, split: Split, all: usize, used: usize) {
    let (key, own) = match split {
        Split::Test => ("data.test_pictures", true),
        Split::Validation if config.validation_questions.is_some() => ("data.validation_pictures", true),
        Split::Train => ("data.train_pictures", config.validation_questions.is_some()),
        _ => return,
    };
    let held_out = if own { 0 } else { config.validation_pictures.min(all) };
    let left_out = all.saturating_sub(held_out + used);
    if left_out > 0 {
        tracing::warn!(
            "{used} of {} conversations are used for {}, {left_out} are left out; {key} = 0 takes all",
            all - held_out,
            split.name()
        );
    }
    if held_out > 0 {
        tracing::info!("{held_out} conversations are held out for validation (data.validation_pictures)");
    }
}

/// What a record holds that no model here can see.
fn unusable(record: &Record) -> Option<String> {
    let says = |tag: &str| record.conversations.iter().any(|sentence| sentence.value.contains(tag));
    (record.video.is_some() || says("<video>"))
        .then(|| "it is about a video, and models here see pictures alone".to_owned())
}

/// Where a record stands, both counted from 1.
#[derive(Debug, Clone, Copy)]
struct Position {
    number: usize,
    line: usize,
}

/// The records, each with its place in the file.
fn read(path: &Path) -> Result<Vec<(Position, Record)>> {
    let place = || path.display().to_string();
    let records: Vec<(usize, Record)> = json::records(&input::text(path)?)
        .or_fail(Kind::Data, || format!("{}: not in LLaVA's conversation format", place()))?;
    if records.is_empty() {
        return Err(failure(Kind::Data, format!("{}: there are no records", place())));
    }
    let numbered = records.into_iter().enumerate();
    Ok(numbered.map(|(index, (line, record))| (Position { number: index + 1, line }, record)).collect())
}

fn limited<T>(mut records: Vec<T>, count: usize) -> Vec<T> {
    if count > 0 {
        records.truncate(count);
    }
    records
}

fn limit(records: &[usize], count: usize) -> &[usize] {
    if count == 0 { records } else { &records[..count.min(records.len())] }
}

/// Questions with their answers. As in MobileVLM, a conversation that does not begin with a person loses its first
/// sentence.
fn turns(sentences: Vec<Sentence>) -> Result<Vec<Turn>, String> {
    let mut turns: Vec<Turn> = Vec::new();
    for (index, Sentence { from, value }) in sentences.into_iter().enumerate() {
        match from.as_str() {
            "human" | "user" if turns.last().is_none_or(|turn| turn.answer.is_some()) => {
                turns.push(Turn { question: value, answer: None });
            }
            "gpt" | "assistant" if index == 0 => {}
            "gpt" | "assistant" if value.is_empty() => {
                return Err(format!("sentence {} is an empty answer", index + 1));
            }
            "gpt" | "assistant" => match turns.last_mut().map(|turn| &mut turn.answer) {
                Some(answer @ None) => *answer = Some(value),
                _ => return Err(format!("sentence {} is an answer without a question", index + 1)),
            },
            "human" | "user" => return Err(format!("sentence {} is a second question in a row", index + 1)),
            other => {
                return Err(format!("sentence {} is from {other:?}; expected human and gpt in turn", index + 1));
            }
        }
    }
    if turns.iter().all(|turn| turn.answer.is_none()) {
        return Err("there is no answer to learn from".to_owned());
    }
    Ok(turns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentences(list: &[(&str, &str)]) -> Vec<Sentence> {
        let one = |(from, value): &(&str, &str)| Sentence { from: (*from).to_owned(), value: (*value).to_owned() };
        list.iter().map(one).collect()
    }

    #[test]
    fn sentences_become_questions_with_answers() {
        let turns = turns(sentences(&[("human", "a?"), ("gpt", "b"), ("human", "c?"), ("gpt", "d")])).unwrap();
        assert_eq!(turns.len(), 2);
        assert_eq!((turns[1].question.as_str(), turns[1].answer.as_deref()), ("c?", Some("d")));
    }

    #[test]
    fn an_answer_at_the_beginning_is_dropped() {
        assert_eq!(turns(sentences(&[("gpt", "hello"), ("human", "a?"), ("gpt", "b")])).unwrap().len(), 1);
    }

    #[test]
    fn empty_conversations_and_wrong_orders_are_named() {
        let problem = |list: &[(&str, &str)]| turns(sentences(list)).unwrap_err();
        assert!(problem(&[]).contains("no answer"));
        assert!(problem(&[("human", "a?")]).contains("no answer"));
        assert!(problem(&[("human", "a?"), ("gpt", ""), ("human", "b?")]).contains("sentence 2 is an empty answer"));
        assert!(problem(&[("human", "a?"), ("human", "b?"), ("gpt", "c")]).contains("second question in a row"));
        assert!(problem(&[("human", "a?"), ("gpt", "b"), ("gpt", "c")]).contains("answer without a question"));
        assert!(problem(&[("system", "be kind")]).contains("from \"system\""));
    }
}
