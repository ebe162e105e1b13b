//! From a question file to prompts, made-up answers and scores.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::question::{LETTER, SHORT_ANSWER};
use super::*;

const GQA: &str = r#"{"10": {"question": "Is it overcast?", "imageId": "n1", "answer": "no"},
    "9": {"question": "What is it?", "imageId": "2", "answer": "cat"}}"#;
const SQA: &str = r#"{"5": {"question": "Which?", "choices": ["x", "y"], "answer": 1, "hint": "Look.\n", "image": "image.png",
    "split": "test"}, "6": {"question": "Why?", "choices": ["x", "y", "z"], "answer": 0, "hint": "", "image": "image.png",
    "split": "test"}, "7": {"question": "Text?", "choices": ["x"], "answer": 0, "hint": "", "image": null, "split": "test"},
    "8": {"question": "Train?", "choices": ["x"], "answer": 0, "hint": "", "image": "image.png", "split": "train"}}"#;
const TEXTVQA: &str = r#"{"data": [{"question_id": 34602, "image_id": "p1", "question": "What brand?",
    "answers": ["dakota", "dakota", "dakota", "dakota"]}]}"#;
const POPE: &str = "{\"question_id\": 1, \"image\": \"a.jpg\", \"text\": \"Is there a cup?\", \"label\": \"yes\"}\n";
const REFCOCO: &str = r#"{"question_id": "r1", "image": "a.jpg", "expression": "the left cup", "bbox": [0, 0, 50, 50], "width": 100, "height": 100}"#;
const MMBENCH: &str = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\tl2-category\tsplit\timage\n\
    7\tWhich?\t\tx\ty\t\t\tB\tcolour\tperception\tdev\taGk=\n1000007\tWhich?\t\ty\tx\t\t\tA\tcolour\tperception\tdev\taGk=\n";

/// What can be done with the question file of a benchmark.
fn question_file(name: &str) -> &'static QuestionFile {
    match &by_name(name).unwrap().form {
        Form::QuestionFile(file) => file,
        Form::TaskFolders => panic!("{name} has no question file"),
    }
}

fn questions(benchmark: &str, text: &str) -> Result<Vec<BenchmarkQuestion>, BenchmarkError> {
    question_file(benchmark).questions(text)
}

/// The scores of one answer to every question, in their order.
fn scored(benchmark: &str, text: &str, answers: &[&str]) -> Value {
    let asked = questions(benchmark, text).unwrap();
    assert_eq!(asked.len(), answers.len());
    let lines = asked.iter().zip(answers).map(|(question, answer)| {
        json!({"question_id": question.id, "prompt": question.prompt, "text": answer}).to_string() + "\n"
    });
    let predictions = Predictions::from_text(&lines.collect::<String>()).unwrap();
    serde_json::to_value(question_file(benchmark).score(text, &predictions).unwrap()).unwrap()
}

#[test]
fn a_benchmark_is_found_by_each_of_its_names_and_no_name_stands_for_two() {
    let names = |benchmark: &'static Benchmark| benchmark.same.iter().copied().chain([benchmark.name]);
    for benchmark in ALL {
        for name in names(benchmark) {
            assert_eq!(by_name(name).unwrap().name, benchmark.name);
        }
    }
    let all: Vec<&str> = ALL.into_iter().flat_map(names).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
    assert!(by_name("").is_none() && by_name("GQA").is_none());
}

fn file(path: &str) -> BenchmarkPicture {
    BenchmarkPicture::File(path.to_owned())
}

#[test]
fn answers_written_under_the_questions_ids_are_scored_in_every_benchmark() {
    assert_eq!(scored("gqa", GQA, &["No.", "dog"])["accuracy"], 50.0);
    assert_eq!(scored("sqa", SQA, &["B", "B"])["image-accuracy"], 50.0);
    assert_eq!(scored("textvqa", TEXTVQA, &["Dakota"])["accuracy"], 100.0);
    assert_eq!(scored("pope", POPE, &["Yes"])["f1"], 100.0);
    assert_eq!(scored("refcoco", REFCOCO, &["[0.00, 0.00, 0.50, 0.50]"])["accuracy"], 100.0);
    let scores = scored("mmbench", MMBENCH, &["B", "B"]);
    assert_eq!((&scores["accuracy"], &scores["circular-accuracy"]), (&100.0.into(), &0.0.into()));
}

#[test]
fn prompts_and_pictures_are_those_of_mobilevlms_evaluation() {
    let first = |benchmark, text| questions(benchmark, text).unwrap().swap_remove(0);
    let BenchmarkQuestion { id, picture, prompt, .. } = first("gqa", GQA);
    assert_eq!((id.as_str(), picture), ("10", file("n1.jpg")));
    assert_eq!(prompt, "Is it overcast?\nAnswer the question using a single word or phrase.");
    let BenchmarkQuestion { picture, prompt, .. } = first("textvqa", TEXTVQA);
    assert_eq!(picture, file("p1.jpg"));
    assert_eq!(prompt, "What brand?\nAnswer the question using a single word or phrase.");
    let BenchmarkQuestion { picture, prompt, .. } = first("pope", POPE);
    assert_eq!(picture, file("a.jpg"));
    assert_eq!(prompt, "Is there a cup?\nAnswer the question using a single word or phrase.");
    let BenchmarkQuestion { picture, prompt, .. } = first("refcoco", REFCOCO);
    assert_eq!(picture, file("a.jpg"));
    assert!(prompt.ends_with("the region this sentence describes: the left cup"), "{prompt}");
    let BenchmarkQuestion { picture, prompt, category, .. } = first("mmbench", MMBENCH);
    assert_eq!((picture, category.as_deref()), (BenchmarkPicture::Base64("aGk=".to_owned()), Some("colour")));
    assert_eq!(prompt, "Which?\nA. x\nB. y\nAnswer with the option's letter from the given choices directly.");
}

#[test]
fn of_scienceqa_the_test_splits_questions_with_a_picture_are_asked_after_their_hint() {
    let asked = questions("sqa", SQA).unwrap();
    assert_eq!(asked.iter().map(|question| question.id.as_str()).collect::<Vec<_>>(), ["5", "6"]);
    assert_eq!(asked[0].picture, file("5/image.png"));
    assert_eq!(asked[0].prompt, format!("Context: Look.\nWhich?\nA. x\nB. y\n{LETTER}"));
    assert_eq!(asked[1].prompt, format!("Why?\nA. x\nB. y\nC. z\n{LETTER}"));
}

#[test]
fn llavas_lines_are_asked_as_they_are() {
    let line = "{\"question_id\": 3, \"image\": \"a.jpg\", \"text\": \"Is it?\\nSay it.\", \"category\": \"random\"}\n";
    for benchmark in ["gqa", "sqa", "textvqa", "pope", "refcoco", "mmbench"] {
        let (id, prompt, category) = ("3".to_owned(), "Is it?\nSay it.".to_owned(), Some("random".to_owned()));
        let expected = BenchmarkQuestion { id, picture: file("a.jpg"), prompt, category };
        assert_eq!(questions(benchmark, line), Ok(vec![expected]));
    }
    let without = questions("sqa", "{\"question_id\": 3, \"text\": \"Is it?\"}").unwrap();
    assert_eq!(without[0].picture, BenchmarkPicture::None);
}

#[test]
fn llavas_lines_for_textvqa_are_found_again_by_picture_and_prompt() {
    let lines = "{\"question_id\": \"p1\", \"image\": \"p1.jpg\", \"text\": \"what brand?\\nBriefly.\"}\n\
        {\"question_id\": \"p1\", \"image\": \"p1.jpg\", \"text\": \"what colour?\\nBriefly.\"}\n";
    let asked = questions("textvqa", lines).unwrap();
    let answers = asked.iter().zip(["red", "dakota"].iter().rev()).map(|(question, answer)| {
        json!({"question_id": question.id, "prompt": question.prompt, "text": answer}).to_string() + "\n"
    });
    let predictions = Predictions::from_text(&answers.collect::<String>()).unwrap();
    let scores = serde_json::to_value(question_file("textvqa").score(TEXTVQA, &predictions).unwrap()).unwrap();
    assert_eq!(scores["accuracy"], 100.0);
}

#[test]
fn an_instruction_that_is_there_is_not_repeated() {
    let line =
        format!("{{\"question_id\": 1, \"image\": \"a\", \"text\": \"Is it?\\n{SHORT_ANSWER}\", \"label\": \"no\"}}");
    assert_eq!(questions("pope", &line).unwrap()[0].prompt, format!("Is it?\n{SHORT_ANSWER}"));
}

#[test]
fn refcocos_text_is_the_whole_prompt() {
    let line = "{\"question_id\": 1, \"image\": \"a\", \"text\": \"Where is it?\", \"bbox\": [0, 0, 1, 1]}\n";
    assert_eq!(questions("refcoco", line).unwrap()[0].prompt, "Where is it?");
    let error = questions("refcoco", "{\"question_id\": 1, \"image\": \"a\", \"bbox\": [0, 0, 1, 1]}").unwrap_err();
    assert_eq!(error.to_string(), "questions, line 1: neither text nor expression");
}

#[test]
fn mmes_files_give_two_questions_whose_lines_are_scored() {
    let text = "Is it red? Please answer yes or no.\tYes\nIs it blue? Please answer yes or no.\tNo\n\n";
    let asked = mme::questions("color", "0001.jpg", text).unwrap();
    let (first, expected) = &asked[0];
    assert_eq!((first.id.as_str(), expected.as_str()), ("color/0001.jpg#1", "Yes"));
    assert_eq!((&first.picture, first.category.as_deref()), (&file("color/0001.jpg"), Some("color")));
    assert_eq!(first.prompt, format!("Is it red?\n{SHORT_ANSWER}"));
    assert_eq!(asked[1].0.id, "color/0001.jpg#2");
    let answers = ["Yes,\nit\tis", "Yes"];
    let lines = asked
        .iter()
        .zip(answers)
        .map(|((question, expected), answer)| mme::result_line("0001.jpg", &question.prompt, expected, answer) + "\n");
    let lines: String = lines.collect();
    assert_eq!(lines.lines().next(), Some(format!("0001.jpg\tIs it red? {SHORT_ANSWER}\tYes\tYes, it is").as_str()));
    let scores = mme::score([("color", lines.as_str())]).unwrap();
    assert_eq!((scores.tasks["color"].accuracy, scores.tasks["color"].accuracy_plus), (50.0, 0.0));
}

#[test]
fn mmes_files_in_another_form_are_named_by_line() {
    let error = |text: &str| mme::questions("color", "1.jpg", text).unwrap_err().to_string();
    assert_eq!(error("Is it?"), "questions, color/1.jpg, line 1: no tab between question and answer");
    assert!(error("Is it?\tperhaps").ends_with("line 1: the answer is \"perhaps\", expected yes or no"));
    assert_eq!(error("Is it?\tYes"), "questions, color/1.jpg: 1 questions, expected two a picture");
}

#[test]
fn files_without_questions_with_repeated_ids_or_in_another_format_are_refused() {
    let error = |benchmark, text: &str| questions(benchmark, text).unwrap_err().to_string();
    assert_eq!(error("pope", "\n"), "there are no questions");
    assert_eq!(error("pope", &POPE.repeat(2)), "questions, question 1: the id stands for two questions");
    assert!(error("gqa", "[1]").starts_with("questions, an object by id:"));
    assert!(error("sqa", r#"{"1": {"choices": ["x"], "answer": 0, "image": "i.png"}}"#).ends_with("no question"));
    let mixed = "{\"question_id\": 1, \"text\": \"Is it?\"}\n{\"question_id\": 2}\n";
    assert!(error("pope", mixed).starts_with("questions, line 2: missing field `text`"));
}
