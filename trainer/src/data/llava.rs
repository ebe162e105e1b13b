//! LLaVA's conversation format: a JSON list (or JSON lines) of `{"id", "image", "conversations": [{"from", "value"}, …]}`
//! and a folder of pictures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use hydra_shared::json;
use hydra_shared::tasks::Split;
use hydra_shared::vlm::conversation::{IMAGE, Turn};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde_json::Value as Json;

use super::config::{DataConfig, no_pretraining};
use super::pictures::{Damaged, PictureFile};
use super::prepared::warn_of_unusable;
use super::questions::{Dialogue, QuestionSet};
use crate::error::{Kind, ResultExt, failure};
use crate::input;

#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    id: Json,
    #[serde(default)]
    image: Option<OneOrMany>,
    /// What other programs call `image`.
    #[serde(default)]
    images: Option<Json>,
    #[serde(default)]
    video: Option<Json>,
    #[serde(default)]
    videos: Option<Json>,
    #[serde(default)]
    audio: Option<Json>,
    #[serde(default)]
    audios: Option<Json>,
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
    say_what_is_left_out(config, split, all, records.len());
    let chosen = records.len();
    // Pictures are counted and problems told in the order of the file, whatever the seed made of it.
    let mut records: Vec<(usize, (Position, Record))> = records.into_iter().enumerate().collect();
    records.sort_by_key(|(_, (position, _))| position.number);
    let mut pictures: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let mut paths = Vec::new();
    let mut dialogues = Vec::new();
    let mut unusable = Vec::new();
    for (at, (Position { number, line }, mut record)) in records {
        let place = format!("{}:{line}: record {number} (id {})", path.display(), record.id);
        let usable = pictures_of(&mut record).and_then(|names| Ok((names, turns(record.conversations)?)));
        let (names, turns) = match usable {
            Ok(usable) => usable,
            Err(problem) if config.damaged == Damaged::Skip => {
                unusable.push((number, format!("{place}: {problem}")));
                continue;
            }
            Err(problem) => {
                return Err(failure(
                    Kind::Data,
                    format!("{place}: {problem}; repair it, or set data.damaged=skip to go on without it"),
                ));
            }
        };
        let own = names.into_iter().map(|name| {
            *pictures.entry(folder.join(name)).or_insert_with_key(|path| {
                paths.push(PictureFile::Path(path.clone()));
                paths.len() - 1
            })
        });
        dialogues.push((at, Dialogue { record: number, place, pictures: own.collect(), turns }));
    }
    warn_of_unusable(unusable, chosen, &path.display().to_string());
    dialogues.sort_by_key(|(at, _)| *at);
    let dialogues = dialogues.into_iter().map(|(_, dialogue)| dialogue).collect();
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

/// The pictures of a record, or what it holds that no model here can see.
fn pictures_of(record: &mut Record) -> Result<Vec<String>, String> {
    let says =
        |tag: &str| -> usize { record.conversations.iter().map(|sentence| sentence.value.matches(tag).count()).sum() };
    for (what, key, value) in [
        ("a video", "video", &record.video),
        ("a video", "videos", &record.videos),
        ("a sound", "audio", &record.audio),
        ("a sound", "audios", &record.audios),
    ] {
        if value.as_ref().is_some_and(|value| !is_nothing(value)) {
            return Err(format!("it is about {what} (its \"{key}\"), and models here see pictures alone"));
        }
    }
    if says("<video>") > 0 {
        return Err("it is about a video (its <video>), and models here see pictures alone".to_owned());
    }
    let own = match record.image.take() {
        None => Vec::new(),
        Some(OneOrMany::One(name)) => vec![name],
        Some(OneOrMany::Many(names)) => names,
    };
    let Some(images) = record.images.take().filter(|images| !is_nothing(images)) else { return Ok(own) };
    let listed = match images {
        Json::String(name) => Some(vec![name]),
        Json::Array(names) => names.iter().map(|name| name.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    let places = says(IMAGE);
    match listed {
        Some(listed) if own.is_empty() && listed.len() == places => Ok(listed),
        Some(_) if !own.is_empty() => Err("it has \"image\" and \"images\"; leave one of them".to_owned()),
        Some(listed) => Err(format!("its \"images\" names {}, and its text has {places} {IMAGE}", listed.len())),
        None => Err("its \"images\" is no file name or list of file names".to_owned()),
    }
}

/// Whether a value says nothing: tables that were written as JSON give every record every key.
fn is_nothing(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::String(text) => text.is_empty(),
        Json::Array(values) => values.iter().all(is_nothing),
        _ => false,
    }
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

    fn record(keys: &str, question: &str) -> Record {
        let text = format!(
            r#"{{{keys} "conversations": [{{"from": "human", "value": "{question}"}}, {{"from": "gpt", "value": "b"}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn what_no_model_here_can_see_or_hear_is_named_by_its_key() {
        for (keys, question, problem) in [
            (r#""video": "a.mp4","#, "a?", "about a video (its \"video\")"),
            (r#""videos": ["a.mp4"],"#, "<image>a?", "about a video (its \"videos\")"),
            (r#""videos": "a.mp4","#, "a?", "about a video (its \"videos\")"),
            ("", "<video>a?", "about a video (its <video>)"),
            (r#""audio": "a.wav","#, "a?", "about a sound (its \"audio\")"),
            (r#""audios": [{"path": "a.wav"}],"#, "a?", "about a sound (its \"audios\")"),
            (r#""images": ["a.png"],"#, "a?", "its \"images\" names 1, and its text has 0 <image>"),
            (r#""images": "a.png","#, "a?", "its \"images\" names 1, and its text has 0 <image>"),
            (r#""images": ["a.png", "b.png"],"#, "<image>a?", "its \"images\" names 2, and its text has 1 <image>"),
            (r#""images": [{"path": "a.png"}],"#, "<image>a?", "no file name or list of file names"),
            (r#""image": "a.png", "images": ["a.png"],"#, "<image>a?", "leave one of them"),
        ] {
            let found = pictures_of(&mut record(keys, question)).unwrap_err();
            assert!(found.contains(problem), "{keys}: {found}");
        }
    }

    #[test]
    fn images_are_pictures_where_the_text_has_a_place_for_each_and_empty_keys_say_nothing() {
        for (keys, question, pictures) in [
            (r#""images": ["a.png"],"#, "<image>a?", &["a.png"][..]),
            (r#""images": "a.png","#, "a? <image>", &["a.png"]),
            (r#""images": ["a.png", "b.png"],"#, "<image><image>a?", &["a.png", "b.png"]),
            (r#""image": "a.png", "images": [], "videos": null, "audios": [""],"#, "<image>a?", &["a.png"]),
            (r#""image": null, "images": null, "video": "","#, "a?", &[]),
        ] {
            assert_eq!(pictures_of(&mut record(keys, question)).unwrap(), pictures, "{keys}");
        }
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
