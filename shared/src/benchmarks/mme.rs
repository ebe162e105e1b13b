//! MME (Fu et al. 2023): two questions a picture, one with answer yes and one with no; `calculation.py` of MME's tools.

use std::collections::BTreeMap;

use serde::Serialize;

use super::benchmark::{Benchmark, Form};
use super::error::BenchmarkError;
use super::numbers::percent;
use super::question::{BenchmarkPicture, BenchmarkQuestion, SHORT_ANSWER, with_instruction};

/// MME as a benchmark among others.
pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "mme",
    same: &[],
    about: "Accuracy and accuracy+; --predictions is a folder of result files, one per task",
    max_tokens: 128,
    pads_pictures: true,
    form: Form::TaskFolders,
};

/// MME's perception tasks; the others are cognition.
const PERCEPTION: [&str; 10] =
    ["existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"];

/// Scores on MME.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MmeScores {
    /// Sum over the perception tasks, 200 each.
    pub perception: f64,
    /// Sum over the other tasks.
    pub cognition: f64,
    /// Each task alone.
    pub tasks: BTreeMap<String, MmeTaskScores>,
}

/// Scores of one task.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MmeTaskScores {
    /// Pictures.
    pub pictures: usize,
    /// Right answers in percent of the questions.
    pub accuracy: f64,
    /// Pictures with both answers right, in percent.
    pub accuracy_plus: f64,
    /// Sum of the two.
    pub score: f64,
    /// Answers that are neither yes nor no; they count as wrong.
    pub other: usize,
}

/// Whether an answer is right, `label` being true where "yes" is; `None` where it says neither yes nor no.
pub fn is_right(answer: &str, label: bool) -> Option<bool> {
    parse_answer(answer).map(|yes| yes == label)
}

/// What an answer says: `Some(true)` where the first four letters hold "yes", else `Some(false)` where they hold "no",
/// else `None`. Case does not matter.
fn parse_answer(answer: &str) -> Option<bool> {
    let prefix: String = answer.trim().to_lowercase().chars().take(4).collect();
    if prefix.contains("yes") {
        Some(true)
    } else if prefix.contains("no") {
        Some(false)
    } else {
        None
    }
}

/// The scores of one task: for each picture, whether the answers to its two questions [are right](is_right).
pub fn tally(pictures: &[[Option<bool>; 2]]) -> MmeTaskScores {
    let answers = || pictures.iter().flatten();
    let right = answers().filter(|answer| **answer == Some(true)).count();
    let both = pictures.iter().filter(|answers| **answers == [Some(true); 2]).count();
    let (accuracy, accuracy_plus) = (percent(right, 2 * pictures.len()), percent(both, pictures.len()));
    MmeTaskScores {
        pictures: pictures.len(),
        accuracy,
        accuracy_plus,
        score: accuracy + accuracy_plus,
        other: answers().filter(|answer| answer.is_none()).count(),
    }
}

/// How MME ends its questions; LLaVA and MobileVLM put their own instruction in its place.
const YES_OR_NO: &str = "Please answer yes or no.";

/// The two questions of one of MME's text files, each with its right answer, "Yes" or "No" as the file has it. `picture` is
/// the picture's path in the task's folder (`0001.png`, or `images/0001.jpg` where pictures have their own); the questions'
/// ids are `task/picture#1` and `task/picture#2`.
///
/// # Errors
/// A line that is not a question, a tab, and yes or no; another number of questions than two.
pub fn questions(task: &str, picture: &str, text: &str) -> Result<Vec<(BenchmarkQuestion, String)>, BenchmarkError> {
    let path = format!("{task}/{picture}");
    let mut asked = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("{path}, line {}", index + 1);
        let Some((question, answer)) = line.rsplit_once('\t') else {
            return Err(BenchmarkError::questions(place(), "no tab between question and answer"));
        };
        let answer = answer.trim();
        if !["yes", "no"].contains(&answer.to_lowercase().as_str()) {
            return Err(BenchmarkError::questions(place(), format!("the answer is {answer:?}, expected yes or no")));
        }
        let question = BenchmarkQuestion {
            id: format!("{path}#{}", asked.len() + 1),
            picture: BenchmarkPicture::File(path.clone()),
            prompt: with_instruction(question.replace(YES_OR_NO, "").trim(), SHORT_ANSWER),
            category: Some(task.to_owned()),
        };
        asked.push((question, answer.to_owned()));
    }
    if asked.len() != 2 {
        return Err(BenchmarkError::questions(path, format!("{} questions, expected two a picture", asked.len())));
    }
    Ok(asked)
}

/// One line, without its end, of a result file as [`score`] reads it. Tabs and line ends inside the texts
/// become spaces.
pub fn result_line(picture: &str, question: &str, expected: &str, answer: &str) -> String {
    [picture, question, expected, answer].map(|field| field.replace(['\t', '\n', '\r'], " ")).join("\t")
}

/// Scores result files, one per task, given with its name: lines of picture, question, right answer and given answer, between
/// tabs. The two questions of a picture follow each other.
///
/// # Errors
/// Lines in another form, a picture that has not two questions.
pub fn score<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<MmeScores, BenchmarkError> {
    let mut tasks = BTreeMap::new();
    for (task, text) in files {
        tasks.insert(task.to_owned(), task_scores(task, text)?);
    }
    if tasks.is_empty() {
        return Err(BenchmarkError::Empty);
    }
    let sum = |perception: bool| {
        tasks
            .iter()
            .filter(|(task, _)| PERCEPTION.contains(&task.as_str()) == perception)
            .map(|(_, scores): (_, &MmeTaskScores)| scores.score)
            .sum()
    };
    Ok(MmeScores { perception: sum(true), cognition: sum(false), tasks })
}

fn task_scores(task: &str, text: &str) -> Result<MmeTaskScores, BenchmarkError> {
    let mut answers = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split('\t').collect();
        let &[picture, _, label, given] = fields.as_slice() else {
            return Err(BenchmarkError::predictions(
                format!("{task}, line {}", index + 1),
                format!("{} fields between tabs, expected picture, question, right answer, given answer", fields.len()),
            ));
        };
        let label = match label.trim().to_lowercase().as_str() {
            "yes" => true,
            "no" => false,
            other => {
                let problem = format!("the right answer is {other:?}, expected yes or no");
                return Err(BenchmarkError::predictions(format!("{task}, line {}", index + 1), problem));
            }
        };
        answers.push((picture, is_right(given, label)));
    }
    let mut pictures = Vec::new();
    for (number, pair) in answers.chunks(2).enumerate() {
        let [(first, a), (second, b)] = pair else {
            return Err(BenchmarkError::predictions(task, "an odd number of questions; each picture has two"));
        };
        if first != second {
            let problem = format!("{first} is followed by {second}; the two questions of a picture belong together");
            return Err(BenchmarkError::predictions(format!("{task}, picture {}", number + 1), problem));
        }
        pictures.push([*a, *b]);
    }
    Ok(tally(&pictures))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yes_wins_over_no_and_only_the_first_four_letters_count() {
        for (text, expected) in [
            ("yes", Some(true)),
            (" Yes, it is", Some(true)),
            ("NO", Some(false)),
            ("not at all", Some(false)),
            ("I no", Some(false)),
            ("maybe no", None),
            ("red", None),
            ("", None),
            ("é", None),
        ] {
            assert_eq!(parse_answer(text), expected, "{text}");
        }
    }

    #[test]
    fn accuracy_counts_questions_and_accuracy_plus_counts_pictures() {
        let count = "a.jpg\tIs it?\tYes\tyes\na.jpg\tIs it?\tNo\tNo, it is not\nb.jpg\tIs it?\tYes\tYes\nb.jpg\tIs it?\tNo\tperhaps\n";
        let code = "c.jpg\tIs it?\tYes\tno\nc.jpg\tIs it?\tNo\tno\n";
        let scores = score([("count", count), ("code_reasoning", code)]).unwrap();
        assert_eq!(
            scores.tasks["count"],
            MmeTaskScores { pictures: 2, accuracy: 75.0, accuracy_plus: 50.0, score: 125.0, other: 1 }
        );
        assert_eq!((scores.perception, scores.cognition), (125.0, 50.0));
    }

    #[test]
    fn lines_in_another_form_are_named_by_task_and_line() {
        let error = |text: &str| score([("count", text)]).unwrap_err().to_string();
        assert!(error("a\tb\n").starts_with("predictions, count, line 1: 2 fields"));
        assert!(error("a\tq\tYes\tyes\n").contains("an odd number"));
        assert!(error("a\tq\tYes\tyes\nb\tq\tNo\tno\n").contains("a is followed by b"));
        assert!(error("a\tq\tMaybe\tyes\n").contains("expected yes or no"));
    }
}
