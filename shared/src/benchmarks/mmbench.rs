//! MMBench (Liu et al. 2023): the letter of the right choice, asked once and, for CircularEval, in every order of the choices.
//!
//! Letters are read from answers by rule alone, much as in VLMEvalKit's exact matching; no language model guesses what was
//! meant. Beyond VLMEvalKit's rules a letter counts that opens a long answer, an article does not, and of choices that hold
//! each other (1 and 10) the one counts that the answer equals.

use std::collections::BTreeMap;

use csv::StringRecord;
use serde::Serialize;

use super::benchmark::{Benchmark, Form, QuestionFile, any_scores};
use super::error::BenchmarkError;
use super::numbers::percent;
use super::predictions::{Predictions, Wanted, holds, whole_index};
use super::question::{BenchmarkPicture, BenchmarkQuestion, LETTER, with_instruction, with_lettered};
use crate::json;

/// MMBench as a benchmark among others.
pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "mmbench",
    same: &[],
    about: "The letter of the choice, once and in every order of the choices; questions as in mmbench_dev_20230712.tsv",
    max_tokens: 1024,
    pads_pictures: true,
    form: Form::QuestionFile(QuestionFile {
        read: questions,
        score: |questions, predictions| any_scores(score(questions, predictions)),
        left_out: |_, _| None,
        llava_repeats_ids: false,
    }),
};

/// The same question with its choices in another order has an index that is higher by a multiple of this.
const PASS: u64 = 1_000_000;

/// A picture's text of up to this many characters is the index of the row that holds the picture, as in VLMEvalKit's files.
const REFERENCE_LENGTH: usize = 64;

/// Scores on MMBench.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MmBenchScores {
    /// Questions with their first pass right, in percent (VanillaEval).
    pub accuracy: f64,
    /// Questions with all passes right, in percent (CircularEval); nothing where the file has one pass a question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circular_accuracy: Option<f64>,
    /// Number of questions.
    pub samples: usize,
    /// Number of answers: the passes of all questions.
    pub passes: usize,
    /// Answers that name no choice, or several; they count as wrong.
    pub unreadable: usize,
    /// Each `l2-category` alone: the six abilities that papers report.
    pub abilities: BTreeMap<String, MmBenchCategoryScores>,
    /// Each `category` alone.
    pub categories: BTreeMap<String, MmBenchCategoryScores>,
}

/// Scores of one part of MMBench.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MmBenchCategoryScores {
    /// Number of questions.
    pub samples: usize,
    /// Questions with their first pass right, in percent.
    pub accuracy: f64,
    /// Questions with all passes right, in percent; nothing where the file has one pass a question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circular_accuracy: Option<f64>,
}

/// One row of the table.
#[derive(Default)]
struct Row {
    /// Line of the file on which it begins.
    line: u64,
    index: u64,
    question: String,
    hint: Option<String>,
    /// The choices that are there, with the letters of their columns: a column may be empty between two others.
    choices: Vec<(char, String)>,
    answer: String,
    category: Option<String>,
    ability: Option<String>,
    image: Option<String>,
}

impl Row {
    fn place(&self) -> String {
        format!("line {} (index {})", self.line, self.index)
    }

    fn choices(&self) -> Vec<(char, &str)> {
        self.choices.iter().map(|(letter, choice)| (*letter, choice.as_str())).collect()
    }

    /// The letter of the right choice.
    fn right_choice(&self) -> Result<char, BenchmarkError> {
        let letters = self.choices.iter().map(|(letter, _)| *letter);
        letters.clone().find(|letter| self.answer == letter.to_string()).ok_or_else(|| {
            let letters: Vec<String> = letters.map(String::from).collect();
            let problem =
                format!("answer is {:?}, expected the letter of a choice: {}", self.answer, letters.join(", "));
            BenchmarkError::questions(self.place(), problem)
        })
    }

    /// Whether an answer's prompt, where it lists choices by their letters, lists those of this row: the passes of one question
    /// differ in their order alone.
    fn lists_its_choices(&self, prompt: &str) -> bool {
        let lines = |text: &str| text.lines().map(str::trim).any(|line| line.starts_with("A. "));
        let listed = |(letter, choice): &(char, String)| holds(prompt, &format!("{letter}. {choice}"));
        !lines(prompt) || self.choices.iter().all(listed)
    }
}

/// What a cell holds; pandas writes "nan" into empty ones.
fn filled(cell: Option<&str>) -> Option<&str> {
    cell.filter(|text| !text.trim().is_empty() && !text.eq_ignore_ascii_case("nan"))
}

fn rows(text: &str) -> Result<Vec<Row>, BenchmarkError> {
    let text = json::without_mark(text);
    if text.trim_start().starts_with(['[', '{']) {
        let problem = "this is JSON, and a table with tabs is expected: pandas' to_csv(OUT, sep=\"\\t\", index=False)";
        return Err(BenchmarkError::questions("line 1", problem));
    }
    let mut reader = csv::ReaderBuilder::new().delimiter(b'\t').from_reader(text.as_bytes());
    let broken = |error: csv::Error| BenchmarkError::questions("table", error.to_string());
    let columns = reader.headers().map_err(broken)?.clone();
    if let Some(missing) = ["index", "question", "A", "B"].iter().find(|name| column(&columns, name).is_none()) {
        let problem = format!(
            "there is no column {missing:?}; expected a table with tabs between index, question, A, B, … answer"
        );
        return Err(BenchmarkError::questions("line 1", problem));
    }
    reader.records().map(|record| row(&columns, &record.map_err(broken)?)).collect()
}

fn column(columns: &StringRecord, name: &str) -> Option<usize> {
    columns.iter().position(|column| column.trim() == name)
}

fn row(columns: &StringRecord, record: &StringRecord) -> Result<Row, BenchmarkError> {
    let cell = |name: &str| column(columns, name).and_then(|column| filled(record.get(column)));
    let owned = |name: &str| cell(name).map(str::to_owned);
    let line = record.position().map_or(0, csv::Position::line);
    let index = cell("index").unwrap_or_default();
    let index = whole_index(index).ok_or_else(|| {
        BenchmarkError::questions(format!("line {line}"), format!("the index {index:?} is no whole number"))
    })?;
    let choices = ('A'..='Z').filter_map(|letter| Some((letter, owned(letter.encode_utf8(&mut [0; 4]))?)));
    Ok(Row {
        line,
        index,
        question: owned("question").unwrap_or_default(),
        hint: owned("hint"),
        choices: choices.collect(),
        answer: cell("answer").unwrap_or_default().trim().to_owned(),
        category: owned("category"),
        ability: owned("l2-category"),
        image: owned("image"),
    })
}

/// Every row, each pass of CircularEval a question of its own.
pub(super) fn questions(text: &str) -> Result<Vec<BenchmarkQuestion>, BenchmarkError> {
    let rows = rows(text)?;
    let pictures: BTreeMap<u64, &str> =
        rows.iter().filter_map(|row| Some((row.index, filled(row.image.as_deref())?))).collect();
    let asked = rows.iter().map(|row| {
        let place = || row.place();
        let Some(mut picture) = pictures.get(&row.index).copied() else {
            return Err(BenchmarkError::questions(place(), "no image"));
        };
        if picture.len() <= REFERENCE_LENGTH
            && let Some(index) = whole_index(picture)
        {
            picture = pictures.get(&index).copied().ok_or_else(|| {
                BenchmarkError::questions(place(), format!("its image is that of index {index}, which is not there"))
            })?;
        }
        // "none" is no hint to LLaVA and MobileVLM either.
        let hint = filled(row.hint.as_deref()).filter(|hint| !hint.eq_ignore_ascii_case("none"));
        let question = hint.map_or_else(|| row.question.clone(), |hint| format!("{hint}\n{}", row.question));
        Ok(BenchmarkQuestion {
            id: row.index.to_string(),
            picture: BenchmarkPicture::Base64(picture.to_owned()),
            prompt: with_instruction(&with_lettered(&question, &row.choices()), LETTER),
            category: row.category.clone(),
        })
    });
    asked.collect()
}

/// How one question was answered.
struct Outcome<'a> {
    first: bool,
    all: bool,
    row: &'a Row,
}

/// Questions as a table with tabs between its columns: index, question, hint, A, B, C, D, answer, category, l2-category,
/// split, image.
pub(super) fn score(questions: &str, predictions: &Predictions) -> Result<MmBenchScores, BenchmarkError> {
    let mut rows = rows(questions)?;
    rows.sort_by_key(|row| row.index);
    let wanted = |row: &Row| Wanted { id: row.index.to_string(), question: Some(row.question.clone()) };
    let wanted: Vec<Wanted> = rows.iter().map(wanted).collect();
    let mut outcomes: BTreeMap<u64, Outcome<'_>> = BTreeMap::new();
    let mut unreadable = 0;
    for (row, answer) in rows.iter().zip(predictions.of(&wanted)?) {
        let id = row.index.to_string();
        let another = predictions
            .all(&id)
            .find(|answer| answer.prompt.as_deref().is_some_and(|prompt| !row.lists_its_choices(prompt)));
        if let Some(another) = another {
            let problem = format!(
                "the prompt of the answer to index {id} lists other choices, or in another order, than {}; give the table \
                 that the model was asked",
                row.place()
            );
            return Err(BenchmarkError::predictions(format!("line {}", another.line), problem));
        }
        let choice = choice(answer, &row.choices());
        let right = choice == Some(row.right_choice()?);
        unreadable += usize::from(choice.is_none());
        let outcome = outcomes.entry(row.index % PASS).or_insert(Outcome { first: right, all: true, row });
        outcome.all &= right;
    }
    let circular = rows.iter().any(|row| row.index >= PASS);
    let all = part(outcomes.values(), circular);
    let parts = |name: fn(&Row) -> Option<&String>| {
        let mut parts: BTreeMap<String, Vec<&Outcome<'_>>> = BTreeMap::new();
        for outcome in outcomes.values() {
            if let Some(name) = name(outcome.row) {
                parts.entry(name.clone()).or_default().push(outcome);
            }
        }
        parts.into_iter().map(|(name, outcomes)| (name, part(outcomes, circular))).collect()
    };
    Ok(MmBenchScores {
        accuracy: all.accuracy,
        circular_accuracy: all.circular_accuracy,
        samples: all.samples,
        passes: rows.len(),
        unreadable,
        abilities: parts(|row| row.ability.as_ref()),
        categories: parts(|row| row.category.as_ref()),
    })
}

fn part<'a>(outcomes: impl IntoIterator<Item = &'a Outcome<'a>>, circular: bool) -> MmBenchCategoryScores {
    let (mut samples, mut first, mut all) = (0, 0, 0);
    for outcome in outcomes {
        samples += 1;
        first += usize::from(outcome.first);
        all += usize::from(outcome.all);
    }
    MmBenchCategoryScores {
        samples,
        accuracy: percent(first, samples),
        circular_accuracy: circular.then(|| percent(all, samples)),
    }
}

/// The letter of the choice that an answer names, by its letter or else by its text.
fn choice(answer: &str, choices: &[(char, &str)]) -> Option<char> {
    by_letter(answer.trim(), choices).or_else(|| by_text(answer, choices))
}

/// The one choice whose letter is a word of the answer. It is the first word and a mark follows (`(A)`, `A: the moon`), or it
/// is among the last four, where an "A" that a space parts from another word is taken for an article.
fn by_letter(answer: &str, choices: &[(char, &str)]) -> Option<char> {
    let mark = |c: char| ".()[],:;!*#{}".contains(c);
    let parts = |c: char| c.is_whitespace() || mark(c);
    let pieces = answer.split_inclusive(parts).map(|piece| (piece.trim_end_matches(parts), piece.chars().next_back()));
    let words: Vec<(&str, Option<char>)> = pieces.filter(|(word, _)| !word.is_empty()).collect();
    let at = |letter: char| words.iter().position(|(word, _)| *word == letter.to_string());
    let mut named = choices.iter().filter_map(|(letter, _)| Some((*letter, at(*letter)?)));
    let (Some((letter, position)), None) = (named.next(), named.next()) else { return None };
    let next = words.get(position).and_then(|(_, next)| *next);
    let set_apart = position == 0 && next.is_some_and(mark);
    let article = letter == 'A' && next.is_some_and(char::is_whitespace) && position + 1 < words.len();
    (set_apart || (position + 4 >= words.len() && !article)).then_some(letter)
}

/// The choice that the answer equals, or else the one choice whose text it holds, where it is not much longer than the
/// choices: then it may speak of anything.
fn by_text(answer: &str, choices: &[(char, &str)]) -> Option<char> {
    let answer = answer.trim().to_lowercase();
    let choices: Vec<(char, String)> =
        choices.iter().map(|(letter, choice)| (*letter, choice.trim().to_lowercase())).collect();
    let only = |fits: &dyn Fn(&String) -> bool| {
        let mut fitting = choices.iter().filter(|(_, text)| fits(text)).map(|(letter, _)| *letter);
        fitting.next().filter(|_| fitting.next().is_none())
    };
    let length: usize = choices.iter().map(|(_, choice)| choice.chars().count()).sum();
    only(&|text| *text == answer)
        .or_else(|| only(&|text| answer.contains(text)).filter(|_| answer.chars().count() <= 2 * length))
}

#[cfg(test)]
mod tests;
