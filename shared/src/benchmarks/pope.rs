//! POPE (Li et al. 2023): is there such an object? "Yes" is the positive class.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::benchmark::{Benchmark, Form, QuestionFile, any_scores};
use super::error::BenchmarkError;
use super::numbers::{mean, percent};
use super::predictions::{Answer, Predictions, Wanted};
use super::question::{BenchmarkPicture, BenchmarkQuestion, SHORT_ANSWER, with_instruction};
use super::records::{Id, json_lines};

/// POPE as a benchmark among others.
pub(super) const BENCHMARK: Benchmark = Benchmark {
    name: "pope",
    same: &[],
    about: "Accuracy, precision, recall, F1, yes-ratio; questions as in coco_pope_random.json",
    max_tokens: 128,
    pads_pictures: true,
    form: Form::QuestionFile(QuestionFile {
        read: questions,
        score: |questions, predictions| any_scores(score(questions, predictions)),
        left_out: |_, _| None,
        llava_repeats_ids: false,
    }),
};

/// Scores on POPE.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PopeScores<Category: Ord = String> {
    /// F1 in percent, the mean over the categories: what papers report.
    pub f1: f64,
    /// Each category (random, popular, adversarial) alone.
    pub categories: BTreeMap<Category, YesNoScores>,
    /// All questions as one.
    pub all: YesNoScores,
    /// Lines of the answers that were taken, where they were found by their prompts and not by their ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers_taken: Option<String>,
    /// Answers without any word for yes or no, or with a `NO` or `No</s>` that the official script does not know. They count as
    /// "yes", as there.
    #[serde(skip_serializing_if = "is_none_of_them")]
    pub unclear: usize,
}

fn is_none_of_them(count: &usize) -> bool {
    *count == 0
}

/// Scores of yes/no answers, "yes" being the positive class; all in percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct YesNoScores {
    /// Number of questions.
    pub samples: usize,
    /// Right answers.
    pub accuracy: f64,
    /// Right ones among the answers "yes"; 0 where there are none.
    pub precision: f64,
    /// Answers "yes" among the questions whose answer is yes; 0 where there are none.
    pub recall: f64,
    /// Harmonic mean of precision and recall; 0 where both are.
    pub f1: f64,
    /// Answers "yes".
    pub yes_ratio: f64,
}

/// Whether an answer is a yes: its first sentence is "no" if one of its words is "No", "no" or "not", and else "yes".
///
/// This is the rule of LLaVA's `eval_pope.py`, which MobileVLM uses too.
pub fn says_yes(answer: &str) -> bool {
    let sentence = answer.trim().split('.').next().unwrap_or_default().replace(',', "");
    !sentence.split_whitespace().any(|word| ["No", "no", "not"].contains(&word))
}

/// Whether an answer has no word for yes or no, whatever its case; or begins with a no that counts as yes.
fn is_unclear(answer: &str) -> bool {
    let words = || answer.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let is_no = words().next().is_some_and(|word| word.eq_ignore_ascii_case("no"));
    (is_no && says_yes(answer))
        || !words().any(|word| ["yes", "no", "not", "there"].iter().any(|known| word.eq_ignore_ascii_case(known)))
}

/// The scores of answers, each with its category and its label, true being "yes".
pub fn tally<'a, Category: Ord>(answers: impl IntoIterator<Item = (Category, bool, &'a str)>) -> PopeScores<Category> {
    let mut categories: BTreeMap<Category, Vec<(bool, bool)>> = BTreeMap::new();
    let mut all = Vec::new();
    let mut unclear = 0;
    for (category, label, answer) in answers {
        unclear += usize::from(is_unclear(answer));
        let pair = (label, says_yes(answer));
        categories.entry(category).or_default().push(pair);
        all.push(pair);
    }
    let categories: BTreeMap<Category, YesNoScores> =
        categories.into_iter().map(|(category, pairs)| (category, yes_no_scores(&pairs))).collect();
    PopeScores {
        f1: mean(categories.values().map(|scores| scores.f1)),
        categories,
        all: yes_no_scores(&all),
        answers_taken: None,
        unclear,
    }
}

/// Scores pairs of label and answer, true being "yes".
fn yes_no_scores(pairs: &[(bool, bool)]) -> YesNoScores {
    let count = |label: bool, answer: bool| pairs.iter().filter(|pair| **pair == (label, answer)).count();
    let (hits, false_alarms, misses) = (count(true, true), count(false, true), count(true, false));
    YesNoScores {
        samples: pairs.len(),
        accuracy: percent(hits + count(false, false), pairs.len()),
        precision: percent(hits, hits + false_alarms),
        recall: percent(hits, hits + misses),
        // 2PR / (P + R) without its 0/0.
        f1: percent(2 * hits, 2 * hits + false_alarms + misses),
        yes_ratio: percent(hits + false_alarms, pairs.len()),
    }
}

#[derive(Deserialize)]
struct Question {
    question_id: Id,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    label: String,
    #[serde(default)]
    category: Option<String>,
}

#[derive(Deserialize)]
struct Asked {
    question_id: Id,
    image: String,
    text: String,
    #[serde(default)]
    category: Option<String>,
}

/// Questions as JSON lines: `{"question_id": 1, "image": "COCO_val2014_….jpg", "text": …, "label": "yes"}`.
pub(super) fn questions(text: &str) -> Result<Vec<BenchmarkQuestion>, BenchmarkError> {
    let asked = json_lines::<Asked>("questions", text)?.into_iter().map(|(_, asked)| BenchmarkQuestion {
        id: asked.question_id.0,
        picture: BenchmarkPicture::File(asked.image),
        prompt: with_instruction(&asked.text, SHORT_ANSWER),
        category: asked.category,
    });
    Ok(asked.collect())
}

/// Questions as JSON lines: `{"question_id": 1, "text": …, "label": "yes", "category": "random"}`. Without categories all
/// questions are one.
///
/// Answers are looked up by id. LLaVA numbers the questions of all three settings through, where the files of POPE's own each
/// begin at 1: then the official script takes a setting's answers in their order, and here they are the run of answers whose
/// prompts are the questions.
pub(super) fn score(questions: &str, predictions: &Predictions) -> Result<PopeScores, BenchmarkError> {
    let mut asked = Vec::new();
    for (place, question) in json_lines::<Question>("questions", questions)? {
        if !["yes", "no"].contains(&question.label.as_str()) {
            let problem = match question.label.as_str() {
                "" => {
                    "there is no label; score with POPE's own file (coco_pope_random.json), which has the right answers"
                        .to_owned()
                }
                label => format!("label is {label:?}, expected yes or no"),
            };
            return Err(BenchmarkError::questions(place, problem));
        }
        asked.push(question);
    }
    let wanted = |question: &Question| Wanted { id: question.question_id.0.clone(), question: question.text.clone() };
    let wanted: Vec<Wanted> = asked.iter().map(wanted).collect();
    let (answers, answers_taken) = match predictions.of(&wanted) {
        Ok(answers) => {
            all_settings_without_prompts(&wanted, predictions)?;
            (answers, None)
        }
        Err(error) => match run_of_answers(&wanted, predictions) {
            Some(run) => {
                let line = |answer: Option<&Answer>| answer.map_or(0, |answer| answer.line);
                let lines = format!("lines {} to {}", line(run.first()), line(run.last()));
                (run.iter().map(|answer| answer.text.as_str()).collect(), Some(lines))
            }
            None => return Err(error),
        },
    };
    let rated = asked.iter().zip(answers).map(|(question, answer)| {
        let category = question.category.clone().unwrap_or_else(|| "all".to_owned());
        (category, question.label == "yes", answer)
    });
    Ok(PopeScores { answers_taken, ..tally(rated) })
}

/// The one run of answers, in the order of the file, whose prompts are the questions. There may be several where two settings
/// ask the same: then none is taken, unless they say the same. Nor is one where an id has two answers to one question.
fn run_of_answers<'a>(wanted: &[Wanted], predictions: &'a Predictions) -> Option<&'a [Answer]> {
    let fits = |run: &&[Answer]| {
        run.iter().zip(wanted).all(|(answer, wanted)| match (&answer.prompt, &wanted.question) {
            (Some(_), Some(question)) => answer.may_answer(question),
            _ => false,
        })
    };
    if wanted.is_empty() || predictions.contradict() {
        return None;
    }
    let mut runs = predictions.in_order().windows(wanted.len()).filter(fits);
    let first = runs.next()?;
    let texts = |run: &'a [Answer]| run.iter().map(|answer| &answer.text);
    runs.all(|run| texts(run).eq(texts(first))).then_some(first)
}

/// Answers without prompts to more questions than there are: they may be those of all settings, numbered through.
fn all_settings_without_prompts(wanted: &[Wanted], predictions: &Predictions) -> Result<(), BenchmarkError> {
    let answers = predictions.in_order();
    let blind = wanted
        .iter()
        .any(|wanted| wanted.question.is_none() || predictions.all(&wanted.id).any(|answer| answer.prompt.is_none()));
    if !blind || answers.len() <= wanted.len() {
        return Ok(());
    }
    let problem = format!(
        "{} answers without prompts to {} questions: LLaVA numbers the questions of all three settings through, so that ids \
         alone do not say which of them were asked; give the answers of one setting, or keep `prompt` in them",
        answers.len(),
        wanted.len()
    );
    Err(BenchmarkError::predictions("the whole file", problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_sentence_and_only_whole_words_make_a_no() {
        for text in ["no", "No", " no\n", "No, there is none", "There is not a circle.", "it is not. Yes"] {
            assert!(!says_yes(text), "{text}");
        }
        for text in ["yes", "", "Yes. There is no doubt", "none", "nothing here", "NO", "red"] {
            assert!(says_yes(text), "{text}");
        }
    }

    #[test]
    fn a_worked_example_gives_the_known_scores() {
        // Hits 3, false alarms 1, misses 1, correct rejections 3.
        let pairs = [
            (true, true),
            (true, true),
            (true, true),
            (true, false),
            (false, true),
            (false, false),
            (false, false),
            (false, false),
        ];
        let scores = yes_no_scores(&pairs);
        assert_eq!(scores.accuracy, 75.0);
        assert_eq!(scores.precision, 75.0);
        assert_eq!(scores.recall, 75.0);
        assert_eq!(scores.f1, 75.0);
        assert_eq!(scores.yes_ratio, 50.0);
    }

    #[test]
    fn answers_without_a_word_for_yes_or_no_are_counted_beside_the_scores() {
        let answers = [("all", true, ""), ("all", false, "Nein"), ("all", false, "No</s>"), ("all", true, "YES.")];
        let scores = tally(answers);
        assert_eq!((scores.unclear, scores.all.yes_ratio), (3, 100.0), "an end token is part of the word");
        let loud = tally([("all", false, "NO"), ("all", true, "Yes, NO doubt"), ("all", false, "NO, there is no dog")]);
        assert_eq!((loud.unclear, loud.all.accuracy), (1, 200.0 / 3.0));
        assert!(serde_json::to_string(&scores).unwrap().contains("\"unclear\":3"));
        assert!(!serde_json::to_string(&tally([("all", true, "Yes, there is")])).unwrap().contains("unclear"));
    }

    #[test]
    fn a_model_that_never_says_yes_scores_zero_without_dividing_by_zero() {
        let scores = yes_no_scores(&[(true, false), (false, false)]);
        assert_eq!((scores.precision, scores.recall, scores.f1, scores.yes_ratio), (0.0, 0.0, 0.0, 0.0));
        assert_eq!(scores.accuracy, 50.0);
    }

    #[test]
    fn accuracy_precision_recall_f1_and_yes_ratio_are_those_of_a_table_worked_out_by_hand() {
        // Hits 1, 2; miss 3; false alarm 4; right no 5.
        let questions = ["yes", "yes", "yes", "no", "no"]
            .iter()
            .enumerate()
            .map(|(id, label)| format!("{{\"question_id\": {id}, \"label\": \"{label}\"}}\n"))
            .collect::<String>();
        let predictions = ["Yes", "yes, there is", "No.", "Yes", "There is not"]
            .iter()
            .enumerate()
            .map(|(id, text)| format!("{{\"question_id\": {id}, \"text\": \"{text}\"}}\n"))
            .collect::<String>();
        let scores = score(&questions, &Predictions::from_text(&predictions).unwrap()).unwrap();
        let YesNoScores { samples, accuracy, precision, recall, f1, yes_ratio } = scores.all;
        assert_eq!((samples, accuracy, yes_ratio), (5, 60.0, 60.0));
        assert!([precision, recall, f1].iter().all(|value| (value - 200.0 / 3.0).abs() < 1e-9));
        assert_eq!(scores.categories["all"], scores.all);
    }

    /// As LLaVA and MobileVLM number the questions: through all three settings.
    const SETTINGS: [[(&str, &str); 2]; 3] =
        [[("dog", "yes"), ("cup", "no")], [("dog", "yes"), ("man", "no")], [("dog", "yes"), ("zebra", "no")]];

    fn setting(number: usize) -> String {
        let line = |(id, (what, label)): (usize, &(&str, &str))| {
            format!("{{\"question_id\": {}, \"text\": \"Is there a {what}?\", \"label\": \"{label}\"}}\n", id + 1)
        };
        SETTINGS[number].iter().enumerate().map(line).collect()
    }

    /// "Yes" to everything, but the last setting is right.
    fn numbered_through(with_prompts: bool) -> Predictions {
        let line = |(index, (what, _)): (usize, &(&str, &str))| {
            let text = if index == 5 { "No" } else { "Yes" };
            let mut line = serde_json::json!({"question_id": index + 1, "text": text});
            if with_prompts {
                line["prompt"] = format!("Is there a {what}?\n{SHORT_ANSWER}").into();
            }
            format!("{line}\n")
        };
        let lines: String = SETTINGS.iter().flatten().enumerate().map(line).collect();
        Predictions::from_text(&lines).unwrap()
    }

    #[test]
    fn answers_that_are_numbered_through_all_settings_are_found_by_their_prompts() {
        let of = |number: usize| score(&setting(number), &numbered_through(true)).unwrap();
        let (adversarial, popular, random) = (of(0), of(1), of(2));
        assert_eq!([adversarial.all.accuracy, popular.all.accuracy, random.all.accuracy], [50.0, 50.0, 100.0]);
        assert_eq!((random.f1, random.answers_taken.as_deref()), (100.0, Some("lines 5 to 6")));
        assert_eq!(popular.answers_taken.as_deref(), Some("lines 3 to 4"));
        assert_eq!(adversarial.answers_taken, None);
        let all = [setting(0), setting(1), setting(2)].concat();
        assert_eq!(score(&all, &numbered_through(true)).unwrap().all.samples, 6);
    }

    #[test]
    fn a_question_with_two_answers_that_are_not_the_same_stops_the_run() {
        let answer = |id: usize, what: &str, text: &str| {
            let prompt = format!("Is there a {what}?\n{SHORT_ANSWER}");
            format!("{}\n", serde_json::json!({"question_id": id, "prompt": prompt, "text": text}))
        };
        let answers = [answer(1, "dog", "No"), answer(1, "dog", "Yes"), answer(2, "zebra", "No")].concat();
        let error = score(&setting(2), &Predictions::from_text(&answers).unwrap()).unwrap_err().to_string();
        assert!(error.contains("2 answers (lines 1, 2)"), "{error}");
    }

    #[test]
    fn without_prompts_the_answers_of_all_settings_stop_the_run() {
        let error = score(&setting(2), &numbered_through(false)).unwrap_err().to_string();
        assert!(error.contains("6 answers without prompts to 2 questions"), "{error}");
        assert!(score(&setting(2).repeat(2), &numbered_through(false)).is_err(), "ids that repeat");
    }

    #[test]
    fn llavas_own_file_of_questions_holds_no_labels() {
        let error = score("{\"question_id\": 1, \"text\": \"Is it?\"}", &Predictions::default()).unwrap_err();
        assert!(error.to_string().contains("score with POPE's own file"), "{error}");
    }

    #[test]
    fn a_label_that_is_neither_yes_nor_no_is_named_by_line() {
        let error = score("{\"question_id\": 1, \"label\": \"maybe\"}", &Predictions::default()).unwrap_err();
        assert_eq!(error.to_string(), "questions, line 1: label is \"maybe\", expected yes or no");
    }
}
