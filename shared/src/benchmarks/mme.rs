//! MME (Fu et al. 2023): two questions a picture, one with answer yes and one with no; `calculation.py` of MME's tools.

use std::collections::BTreeMap;

use serde::Serialize;

use super::benchmark::{Benchmark, Form};
use super::error::BenchmarkError;
use super::numbers::percent;
use super::question::{BenchmarkPicture, BenchmarkQuestion, SHORT_ANSWER, with_instruction};
use crate::names::first_names;

/// MME as a benchmark among others.
pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "mme",
    same: &[],
    about: "Accuracy and accuracy+; --predictions is a folder of result files, one per task",
    max_tokens: 128,
    pads_pictures: true,
    form: Form::TaskFolders,
};

/// MME's perception tasks.
const PERCEPTION: [&str; 10] =
    ["existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"];

/// MME's cognition tasks.
const COGNITION: [&str; 4] = ["commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"];

/// Scores on MME.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MmeScores {
    /// Sum over the perception tasks that are there, 200 each.
    pub perception: f64,
    /// Sum over the cognition tasks that are there, 200 each.
    pub cognition: f64,
    /// Each task alone.
    pub tasks: BTreeMap<String, MmeTaskScores>,
    /// MME's tasks that are not there: the sums are less than MME's without them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<&'static str>,
    /// Files whose names are no task of MME's; they are not read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
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

/// MME's name of a task, whatever its case.
pub fn task_name(name: &str) -> Option<&'static str> {
    PERCEPTION.into_iter().chain(COGNITION).find(|task| task.eq_ignore_ascii_case(name))
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
/// tabs. The two questions of a picture follow each other. Files of no [task of MME's](task_name) are named and left out; one
/// without a line, as a run leaves it that was ended, is missing.
///
/// # Errors
/// Lines in another form, a picture that has not two questions, no file of a task.
pub fn score<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<MmeScores, BenchmarkError> {
    let (mut tasks, mut unknown) = (BTreeMap::new(), Vec::new());
    for (name, text) in files {
        match task_name(name) {
            Some(_) if text.trim().is_empty() => {}
            Some(task) => {
                tasks.insert(task.to_owned(), task_scores(task, text)?);
            }
            None => unknown.push(name.to_owned()),
        }
    }
    if tasks.is_empty() {
        let problem = match unknown.as_slice() {
            [] => "there are none".to_owned(),
            names => format!("{} is no task of MME's", first_names(names)),
        };
        let problem =
            format!("{problem}; MME's are {}", PERCEPTION.into_iter().chain(COGNITION).collect::<Vec<_>>().join(", "));
        return Err(BenchmarkError::predictions("files of tasks", problem));
    }
    // Not `sum`, which is -0.0 of nothing.
    let sum = |of: &[&str]| of.iter().filter_map(|task| tasks.get(*task)).fold(0.0, |sum, scores| sum + scores.score);
    let missing = PERCEPTION.into_iter().chain(COGNITION).filter(|task| !tasks.contains_key(*task)).collect();
    Ok(MmeScores { perception: sum(&PERCEPTION), cognition: sum(&COGNITION), missing, unknown, tasks })
}

fn task_scores(task: &str, text: &str) -> Result<MmeTaskScores, BenchmarkError> {
    let mut answers = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split('\t').collect();
        let &[picture, question, label, given] = fields.as_slice() else {
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
        answers.push(((picture, question.trim()), is_right(given, label)));
    }
    let mut pictures = Vec::new();
    let mut asked = BTreeMap::new();
    for (number, pair) in answers.chunks(2).enumerate() {
        let [((first, question), a), ((second, other), b)] = pair else {
            return Err(BenchmarkError::predictions(task, "an odd number of questions; each picture has two"));
        };
        if first != second {
            let problem = format!("{first} is followed by {second}; the two questions of a picture belong together");
            return Err(BenchmarkError::predictions(format!("{task}, picture {}", number + 1), problem));
        }
        if let Some(before) = asked.insert((first, question, other), number + 1) {
            let problem = format!("the questions of picture {before} again; keep one answer of each question");
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
    fn a_file_of_no_task_of_mmes_is_named_and_not_counted() {
        let right = "a.jpg\tIs it?\tYes\tYes\na.jpg\tIs it?\tNo\tNo\n";
        let scores: MmeScores = score([("existence", right), ("eval_log", "12:00 started")]).unwrap();
        assert_eq!((scores.perception, scores.unknown.as_slice()), (200.0, ["eval_log".to_owned()].as_slice()));
        assert_eq!(scores.tasks.len(), 1);
        assert_eq!((scores.missing.len(), scores.missing[0]), (13, "count"));
        let ended: MmeScores = score([("existence", right), ("count", "\n")]).unwrap();
        assert_eq!((ended.tasks.len(), ended.missing[0]), (1, "count"), "a run was ended before its first answer");
        assert_eq!(score([("ocr", right)]).unwrap().tasks.keys().collect::<Vec<_>>(), ["OCR"]);
        let error = score([("eval_log", "")]).unwrap_err().to_string();
        assert!(
            error.starts_with("predictions, files of tasks: eval_log is no task of MME's; MME's are existence,"),
            "{error}"
        );
    }

    #[test]
    fn a_sum_over_no_task_is_zero_without_a_sign() {
        let right = "a.jpg\tIs it?\tYes\tYes\na.jpg\tIs it?\tNo\tNo\n";
        let scores = score([("existence", right)]).unwrap();
        assert_eq!(serde_json::to_value(&scores).unwrap()["cognition"].to_string(), "0.0");
    }

    #[test]
    fn lines_in_another_form_are_named_by_task_and_line() {
        let error = |text: &str| score([("count", text)]).unwrap_err().to_string();
        assert!(error("a\tb\n").starts_with("predictions, count, line 1: 2 fields"));
        assert!(error("a\tq\tYes\tyes\n").contains("an odd number"));
        assert!(error("a\tq\tYes\tyes\nb\tq\tNo\tno\n").contains("a is followed by b"));
        assert!(error("a\tq\tMaybe\tyes\n").contains("expected yes or no"));
        let again = error(&"a\tq\tYes\tyes\na\tr\tNo\tno\n".repeat(2));
        assert!(again.contains("picture 2: the questions of picture 1 again"), "{again}");
    }
}
