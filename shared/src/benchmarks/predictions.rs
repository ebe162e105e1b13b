//! Files of answers, as LLaVA's evaluation scripts and VLMEvalKit write them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::error::BenchmarkError;
use super::question::{LETTER, SHORT_ANSWER};
use super::records::Id;
use crate::json;

/// Answers by question id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Predictions {
    /// In the order of the file.
    answers: Vec<Answer>,
    /// Positions of the answers under each id.
    by_id: BTreeMap<String, Vec<usize>>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// Line of the file.
    pub line: usize,
    /// What the model was asked, where the file says so.
    pub prompt: Option<String>,
    pub text: String,
}

impl Answer {
    /// Whether it can be an answer to that question: its prompt holds it, or there is no prompt.
    pub fn may_answer(&self, question: &str) -> bool {
        self.prompt.as_deref().is_none_or(|prompt| holds(prompt, question))
    }
}

/// One question, as answers are looked up for it.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub id: String,
    /// What is asked, without instructions; none where the question file does not say.
    pub question: Option<String>,
}

/// One answer in a file: LLaVA's `question_id`, `prompt` and `text`, or GQA's `questionId` and `prediction`.
#[derive(Deserialize)]
struct Record {
    #[serde(alias = "questionId", alias = "index")]
    question_id: Id,
    #[serde(default)]
    prompt: Option<String>,
    /// The question without instructions, in VLMEvalKit's tables.
    #[serde(default)]
    question: Option<String>,
    #[serde(alias = "prediction", alias = "answer")]
    text: String,
}

impl Predictions {
    /// Reads JSON lines, or one JSON list, of `{"question_id": …, "text": …}` (or `questionId` and `prediction`); or a table
    /// with the columns `index` and `prediction`, between tabs or commas, as VLMEvalKit saves one.
    ///
    /// # Errors
    /// A record in another form, with its line.
    pub fn from_text(text: &str) -> Result<Self, BenchmarkError> {
        let text = json::without_mark(text);
        let records = match text.trim_start().chars().next() {
            Some('[' | '{') | None => {
                json::records(text).map_err(|error| BenchmarkError::json("predictions", error))?
            }
            Some(_) => table(text)?,
        };
        let mut predictions = Self::default();
        for (line, Record { question_id: Id(id), prompt, question, text }) in records {
            predictions.by_id.entry(id).or_default().push(predictions.answers.len());
            predictions.answers.push(Answer { line, prompt: prompt.or(question), text });
        }
        Ok(predictions)
    }

    /// The answers to the given questions, in their order.
    ///
    /// # Errors
    /// Questions without an answer, with several, or with one that was given to another question; an id that stands for two
    /// questions.
    pub(super) fn of<'a>(&'a self, wanted: &[Wanted]) -> Result<Vec<&'a str>, BenchmarkError> {
        if wanted.is_empty() {
            return Err(BenchmarkError::Empty);
        }
        let mut ids = BTreeSet::new();
        if let Some(twice) = wanted.iter().find(|wanted| !ids.insert(wanted.id.as_str())) {
            return Err(BenchmarkError::questions(format!("question {}", twice.id), "the id stands for two questions"));
        }
        let missing: Vec<String> = wanted
            .iter()
            .filter(|wanted| !self.by_id.contains_key(&wanted.id))
            .map(|wanted| wanted.id.clone())
            .collect();
        if !missing.is_empty() {
            return Err(BenchmarkError::Unanswered { missing, asked: wanted.len() });
        }
        wanted.iter().map(|wanted| self.only(wanted)).collect()
    }

    /// The one answer to a question.
    fn only(&self, wanted: &Wanted) -> Result<&str, BenchmarkError> {
        let answers: Vec<&Answer> = self.all(&wanted.id).collect();
        let [answer] = answers.as_slice() else {
            let lines = crate::names::first_names(answers.iter().map(|answer| answer.line));
            return Err(BenchmarkError::predictions(
                format!("question {}", wanted.id),
                format!("{} answers (lines {lines}); keep one of each question", answers.len()),
            ));
        };
        match (&wanted.question, &answer.prompt) {
            (Some(question), Some(prompt)) if !holds(prompt, question) => Err(BenchmarkError::OtherQuestion {
                id: wanted.id.clone(),
                asked: shortened(question),
                line: answer.line,
                prompt: shortened(prompt),
            }),
            _ => Ok(&answer.text),
        }
    }

    /// All answers under one id, in the order of the file.
    pub(super) fn all(&self, id: &str) -> impl Iterator<Item = &Answer> {
        let positions = self.by_id.get(id).map(Vec::as_slice).unwrap_or_default();
        positions.iter().filter_map(|position| self.answers.get(*position))
    }

    /// Whether a question has two answers that are not the same.
    pub(super) fn contradict(&self) -> bool {
        self.by_id.keys().any(|id| {
            let mut texts = BTreeMap::new();
            self.all(id).any(|answer| *texts.entry(&answer.prompt).or_insert(answer.text.trim()) != answer.text.trim())
        })
    }

    /// All answers, in the order of the file.
    pub(super) fn in_order(&self) -> &[Answer] {
        &self.answers
    }
}

/// A table with a column of ids and one of answers.
fn table(text: &str) -> Result<Vec<(usize, Record)>, BenchmarkError> {
    let header = text.lines().next().unwrap_or_default();
    let delimiter = if header.contains('\t') { b'\t' } else { b',' };
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text.as_bytes());
    let columns = reader.headers().map_err(|error| BenchmarkError::predictions("table", error.to_string()))?.clone();
    // A column `answer` holds the right answers there.
    let column =
        |names: [&str; 2]| names.iter().find_map(|name| columns.iter().position(|column| column.trim() == *name));
    let (Some(id), Some(answer)) = (column(["index", "question_id"]), column(["prediction", "text"])) else {
        let problem =
            "neither JSON lines {\"question_id\": …, \"text\": …} nor a table with the columns index and prediction";
        return Err(BenchmarkError::predictions("line 1", problem));
    };
    let question = columns.iter().position(|column| column.trim() == "question");
    let mut records = Vec::new();
    for row in reader.records() {
        let row = row.map_err(|error| BenchmarkError::predictions("table", error.to_string()))?;
        let line = row.position().map_or(0, |position| usize::try_from(position.line()).unwrap_or(usize::MAX));
        let cell = |column: usize| row.get(column).unwrap_or_default();
        let id = whole_index(cell(id)).map_or_else(|| cell(id).trim().to_owned(), |index| index.to_string());
        let question = question.map(cell).filter(|question| !question.trim().is_empty()).map(str::to_owned);
        records.push((line, Record { question_id: Id(id), prompt: None, question, text: cell(answer).to_owned() }));
    }
    Ok(records)
}

/// A row's number, as 241 or, after pandas, as 241.0.
pub(super) fn whole_index(cell: &str) -> Option<u64> {
    let cell = cell.trim();
    cell.parse().ok().or_else(|| {
        let (whole, rest) = cell.split_once('.')?;
        rest.bytes().all(|byte| byte == b'0').then(|| whole.parse().ok())?
    })
}

/// Whether a prompt asks a question: it holds its words, whatever white space, placeholders and instructions stand around.
pub(super) fn holds(prompt: &str, question: &str) -> bool {
    let (prompt, question) = (plain(prompt), plain(question));
    let alphanumeric = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let mut begin = 0;
    while let Some(at) = prompt.get(begin..).and_then(|rest| rest.find(&question)) {
        let (start, end) = (begin + at, begin + at + question.len());
        let before = prompt.get(..start).and_then(|before| before.chars().next_back());
        let after = prompt.get(end..).and_then(|after| after.chars().next());
        let cut = alphanumeric(before) && alphanumeric(question.chars().next())
            || alphanumeric(after) && alphanumeric(question.chars().next_back());
        if !cut {
            return true;
        }
        begin = start + prompt.get(start..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
    }
    false
}

/// A text in lower case with single spaces, without placeholders of pictures and the instructions of MobileVLM's prompts.
fn plain(text: &str) -> String {
    let mut text = text.replace("<image>", " ");
    for instruction in [SHORT_ANSWER, LETTER] {
        text = text.replace(instruction, " ");
    }
    text.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

/// The beginning of a text, for a message.
fn shortened(text: &str) -> String {
    const LETTERS: usize = 100;
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match flat.char_indices().nth(LETTERS) {
        Some((end, _)) => format!("{}…", flat.get(..end).unwrap_or_default()),
        None => flat,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(id: &str, question: Option<&str>) -> Wanted {
        Wanted { id: id.to_owned(), question: question.map(str::to_owned) }
    }

    #[test]
    fn json_lines_and_lists_in_llavas_and_gqas_words_are_read() {
        let lines = "{\"question_id\": 1, \"text\": \"yes\"}\n\n{\"question_id\": \"b\", \"text\": \"no\", \"model_id\": \"x\"}\n";
        let list =
            "[{\"questionId\": \"1\", \"prediction\": \"yes\"},\n\n{\"questionId\": \"b\", \"prediction\": \"no\"}]";
        assert_eq!(Predictions::from_text(lines), Predictions::from_text(list));
    }

    #[test]
    fn a_table_of_vlmevalkit_is_read_and_another_one_is_named() {
        let table = "index\tquestion\tanswer\tprediction\n241.0\tq\tx\t\"B\"\n7\t\"two\nlines\"\ty\tA\n";
        let read = Predictions::from_text(table).unwrap();
        assert_eq!(read.of(&[wanted("241", None), wanted("7", None)]).unwrap(), ["B", "A"]);
        let error = Predictions::from_text("a,b\n1,2\n").unwrap_err().to_string();
        assert!(error.starts_with("predictions, line 1: neither JSON lines"), "{error}");
    }

    #[test]
    fn a_broken_line_a_missing_text_and_a_second_answer_are_named() {
        let error = |text: &str| Predictions::from_text(text).unwrap_err().to_string();
        assert!(error("{\"question_id\": 1, \"text\": \"a\"}\n{").starts_with("predictions, line 2:"));
        assert!(error("{\"question_id\": 1}").contains("missing field `text`"));
        let twice = "[{\"question_id\": 1, \"text\": \"a\"},\n{\"question_id\": \"1\", \"text\": \"b\"}]";
        let error = Predictions::from_text(twice).unwrap().of(&[wanted("1", None)]).unwrap_err();
        assert_eq!(error.to_string(), "predictions, question 1: 2 answers (lines 1, 2); keep one of each question");
    }

    #[test]
    fn questions_without_an_answer_are_listed() {
        let predictions = Predictions::from_text("{\"question_id\": 1, \"text\": \"a\"}").unwrap();
        let error = predictions.of(&[wanted("1", None), wanted("2", None)]).unwrap_err().to_string();
        assert_eq!(error, "1 of 2 questions have no answer: 2; answer them, or leave them out of the question file");
        assert_eq!(predictions.of(&[]), Err(BenchmarkError::Empty));
    }

    #[test]
    fn a_question_beside_an_answer_counts_as_its_prompt_does() {
        for text in [
            "{\"question_id\": 1, \"question\": \"Is there a zebra?\", \"text\": \"a\"}",
            "index\tquestion\tprediction\n1\tIs there a zebra?\ta\n",
        ] {
            let predictions = Predictions::from_text(text).unwrap();
            assert_eq!(predictions.of(&[wanted("1", Some("Is there a zebra?"))]).unwrap(), ["a"]);
            let error = predictions.of(&[wanted("1", Some("Is there a dog?"))]).unwrap_err();
            assert!(matches!(error, BenchmarkError::OtherQuestion { line, .. } if line > 0), "{error}");
        }
    }

    #[test]
    fn an_answer_to_another_question_is_no_answer() {
        let line =
            "{\"question_id\": 1, \"prompt\": \"<image>\\nIs there a  DOG?\\nAnswer shortly.\", \"text\": \"a\"}";
        let predictions = Predictions::from_text(line).unwrap();
        assert_eq!(predictions.of(&[wanted("1", Some("Is there a dog?"))]).unwrap(), ["a"]);
        let error = predictions.of(&[wanted("1", Some("Is there a zebra?"))]).unwrap_err().to_string();
        assert!(error.starts_with("question 1 is \"Is there a zebra?\", but its answer (line 1 of the predictions)"));
        assert!(error.contains("was given to \"<image> Is there a DOG? Answer shortly.\""), "{error}");
    }

    #[test]
    fn a_word_of_a_prompt_is_not_its_part() {
        assert!(holds("this sentence describes: man", "man"));
        assert!(!holds("this sentence describes: woman", "man"));
        assert!(holds("woman, man", "man"));
    }

    #[test]
    fn an_id_that_stands_for_two_questions_is_named() {
        let predictions = Predictions::from_text("{\"question_id\": 1, \"text\": \"a\"}").unwrap();
        let error = predictions.of(&[wanted("1", None), wanted("1", None)]).unwrap_err().to_string();
        assert_eq!(error, "questions, question 1: the id stands for two questions");
    }
}
