//! Answers of other models, as their scripts leave them: scored by the official rules, or named for what they are.

use std::fs;

use crate::support::{Run, case, trainer_in};

/// Scores a file of answers of a case.
fn scored(name: &str, benchmark: &str, questions: &str, predictions: &str) -> Run {
    let arguments =
        ["eval", "--benchmark", benchmark, "--questions", questions, "--predictions", predictions, "--json"];
    trainer_in(&case(name), &arguments, &[])
}

#[test]
fn popes_answers_that_llava_numbered_through_all_settings_are_those_of_the_setting() {
    let of = |setting: &str| {
        let questions = format!("coco_pope_{setting}.json");
        let run = scored("pope-ids-of-llava", "pope", &questions, "answers.jsonl");
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.json()
    };
    let random = of("random");
    assert_eq!((&random["all"]["accuracy"], &random["f1"]), (&100.0.into(), &100.0.into()));
    assert_eq!(random["answers-taken"], "lines 9 to 12");
    for setting in ["adversarial", "popular"] {
        let scores = of(setting);
        assert_eq!(scores["all"]["accuracy"], 50.0, "{setting}");
        assert_eq!(scores["all"]["yes-ratio"], 100.0, "{setting}");
    }
}

#[test]
fn answers_to_other_questions_stop_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let question = "{\"question_id\": 1, \"image\": \"a.jpg\", \"text\": \"Is there a cup?\", \"label\": \"no\"}\n";
    let answer = "{\"question_id\": 1, \"prompt\": \"Is there a dog?\", \"text\": \"No\"}\n";
    fs::write(folder.path().join("q.jsonl"), question).unwrap();
    fs::write(folder.path().join("a.jsonl"), answer).unwrap();
    let arguments = ["eval", "--benchmark=pope", "--questions=q.jsonl", "--predictions=a.jsonl", "--json"];
    trainer_in(folder.path(), &arguments, &[]).fails(
        3,
        "data",
        &["question 1 is \"Is there a cup?\"", "line 1 of the predictions", "\"Is there a dog?\""],
    );
}

#[test]
fn problems_of_science_qa_that_do_not_count_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let problem = |split: &str, image: &str| {
        format!(r#"{{"question": "Q?", "choices": ["a", "b"], "answer": 0, "split": "{split}", "image": {image}}}"#)
    };
    let (picture, none) = ("\"image.png\"", "null");
    let problems = [problem("test", picture), problem("test", none), problem("train", picture)];
    let numbered: Vec<String> =
        problems.iter().enumerate().map(|(at, problem)| format!("\"{}\": {problem}", at + 1)).collect();
    fs::write(folder.path().join("problems.json"), format!("{{{}}}", numbered.join(","))).unwrap();
    let score = |answers: &str| {
        fs::write(folder.path().join("a.jsonl"), answers).unwrap();
        let arguments = ["eval", "--benchmark=sqa", "--questions=problems.json", "--predictions=a.jsonl", "--json"];
        let run = trainer_in(folder.path(), &arguments, &[]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        run
    };
    let one = score("{\"question_id\": \"1\", \"text\": \"A\"}\n");
    assert_eq!(one.json()["samples"], 1);
    for part in ["of 3 problems only the 2 of the test split count", "1 problems without a picture are not scored"] {
        assert!(one.stderr.contains(part), "{part:?} is missing in {}", one.stderr);
    }
    let both = score("{\"question_id\": \"1\", \"text\": \"A\"}\n{\"question_id\": \"2\", \"text\": \"A\"}\n");
    assert_eq!(both.json()["samples"], 2);
    assert!(!both.stderr.contains("without a picture"), "{}", both.stderr);
}

#[test]
fn boxes_in_another_notation_are_named_and_not_scored() {
    for (answers, notation) in [("pixels", "in pixels"), ("xyxy_text", "<box>"), ("json", "bbox_2d")] {
        scored("refcoco-coordinates", "refcoco", "questions.jsonl", &format!("answers-{answers}.jsonl")).fails(
            3,
            "data",
            &["no box is in the notation of this benchmark", notation, "shares from 0 to 1"],
        );
    }
}

#[test]
fn a_file_of_no_task_in_mmes_folder_is_named_and_not_counted() {
    let run = trainer_in(&case("mme-folder"), &["eval", "--benchmark=mme", "--predictions=.", "--json"], &[]);
    let scores = run.json();
    assert_eq!((&scores["perception"], &scores["unknown"]), (&200.0.into(), &serde_json::json!(["eval_log"])));
    assert_eq!(scores["cognition"].to_string(), "0.0");
    assert_eq!(scores["tasks"].as_object().unwrap().keys().collect::<Vec<_>>(), ["existence"]);
    assert!(run.stderr.contains("no task of MME's, not counted: eval_log"), "{}", run.stderr);
    assert!(run.stderr.contains("are missing, the sums are without them: count,"), "{}", run.stderr);
}

#[test]
fn mmbenchs_tables_are_read_as_vlmevalkit_and_pandas_leave_them() {
    for (table, answers) in [("gap-in-choices.tsv", "gap-answers.jsonl"), ("float-index.tsv", "answers.jsonl")] {
        let run = scored("mmbench-tables", "mmbench", table, answers);
        assert_eq!(run.json()["accuracy"], 100.0, "{table}: {}", run.stderr);
    }
}

#[test]
fn excel_files_and_pages_in_the_place_of_answers_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let questions = case("mmbench-tables").join("float-index.tsv");
    let score = |bytes: &[u8], parts: &[&str]| {
        fs::write(folder.path().join("answers.xlsx"), bytes).unwrap();
        let questions = format!("--questions={}", questions.display());
        let arguments = ["eval", "--benchmark=mmbench", &questions, "--predictions=answers.xlsx", "--json"];
        trainer_in(folder.path(), &arguments, &[]).fails(3, "data", parts);
    };
    score(
        b"PK\x03\x04\x14\0\0\0\x08\0[Content_Types].xml",
        &["answers.xlsx: this is an Excel file; save it as", ".tsv"],
    );
    score(b"<!DOCTYPE html><html></html>", &["answers.xlsx: this is an HTML page"]);
    let wide: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    score(&wide, &["answers.xlsx: this is text in UTF-16; save it as UTF-8"]);
}

#[test]
fn a_byte_order_mark_and_pythons_nan_are_read_in_questions_and_answers() {
    for questions in ["pope-questions.jsonl", "pope-questions-bom.jsonl"] {
        for answers in ["pope-answers.jsonl", "pope-answers-bom.jsonl", "pope-answers-nan.jsonl"] {
            let run = scored("python-json-and-bom", "pope", questions, answers);
            assert_eq!(run.json()["all"]["accuracy"], 100.0, "{questions} {answers}: {}", run.stderr);
        }
    }
}

#[test]
fn a_byte_order_mark_is_read_in_a_configuration_and_in_conversations() {
    let folder = case("python-json-and-bom");
    let run = trainer_in(&folder, &["inspect", "--model=config-bom.json", "--base-rank=2", "--json"], &[]);
    let plain = trainer_in(&folder, &["inspect", "--model=config.json", "--base-rank=2", "--json"], &[]);
    assert_eq!((run.code, run.stdout), (0, plain.stdout), "{}", run.stderr);
    let arguments = [
        "train",
        "--dry-run",
        "--json",
        "--device=cpu",
        "--set=data.source=llava",
        "--set=data.questions=llava-bom.json",
        "--set=data.validation_pictures=1",
    ];
    let run = trainer_in(&folder, &arguments, &[]);
    assert_eq!(run.json()["conversations"], 3, "{}", run.stderr);
    // PEFT refuses it, and says why.
    let verify = ["verify", "adapter-bom", "--model=config.json", "--json"];
    trainer_in(&folder, &verify, &[]).fails(3, "data", &["begins with a byte order mark, which PEFT refuses"]);
}

#[test]
fn flags_that_do_nothing_beside_a_file_of_answers_are_refused() {
    let refused = |extra: &str, parts: &[&str]| {
        let mut arguments = vec!["eval", "--benchmark=pope", "--questions=coco_pope_random.json"];
        arguments.extend(["--predictions=answers.jsonl", "--json", extra]);
        trainer_in(&case("pope-ids-of-llava"), &arguments, &[]).fails(2, "usage", parts);
    };
    refused("--images=.", &["--images <FOLDER>", "cannot be used with"]);
    refused("--max-tokens=3", &["--max-tokens <N>", "cannot be used with"]);
    refused("--answers=x.jsonl", &["--answers has no effect here: no model is asked"]);
    refused("--base=x", &["--base has no effect here"]);
    let arguments = ["eval", "--benchmark=mme", "--predictions=.", "--questions=existence.txt", "--json"];
    trainer_in(&case("mme-folder"), &arguments, &[]).fails(2, "usage", &["--questions has no effect here"]);
}
