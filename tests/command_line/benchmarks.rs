//! `trainer eval --benchmark`: answers that another model gave.

use std::fs;

use crate::support::trainer_in;

#[test]
fn a_file_of_answers_is_scored_by_the_benchmarks_own_rules() {
    let folder = tempfile::tempdir().unwrap();
    let questions = "{\"question_id\": 1, \"label\": \"yes\"}\n{\"question_id\": 2, \"label\": \"no\"}\n";
    let answers = "{\"question_id\": 1, \"text\": \"Yes\"}\n{\"question_id\": 2, \"text\": \"yes\"}\n";
    fs::write(folder.path().join("q.json"), questions).unwrap();
    fs::write(folder.path().join("a.jsonl"), answers).unwrap();
    let arguments = ["eval", "--benchmark", "pope", "--questions", "q.json", "--predictions", "a.jsonl", "--json"];
    let scores = trainer_in(folder.path(), &arguments, &[]).json();
    assert_eq!((&scores["all"]["accuracy"], &scores["all"]["yes-ratio"]), (&50.0.into(), &100.0.into()));

    fs::create_dir(folder.path().join("mme")).unwrap();
    fs::write(folder.path().join("mme/count.txt"), "a.jpg\tIs it?\tYes\tyes\na.jpg\tIs it?\tNo\tno\n").unwrap();
    let scores =
        trainer_in(folder.path(), &["eval", "--benchmark", "mme", "--predictions", "mme", "--json"], &[]).json();
    assert_eq!(scores["perception"], 200.0);
}

#[test]
fn missing_answers_and_missing_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("q.json"), r#"{"7": {"answer": "yes"}}"#).unwrap();
    fs::write(folder.path().join("a.jsonl"), "{\"question_id\": 1, \"text\": \"Yes\"}\n").unwrap();
    let run = |arguments: &[&str]| trainer_in(folder.path(), arguments, &[]);
    run(&["eval", "--benchmark", "gqa", "--questions", "q.json", "--predictions", "a.jsonl", "--json"]).fails(
        3,
        "data",
        &["1 of 1 questions have no answer: 7", "q.json"],
    );
    run(&["eval", "--benchmark", "gqa", "--questions", "none.json", "--predictions", "a.jsonl", "--json"]).fails(
        3,
        "data",
        &["none.json: cannot be read"],
    );
    run(&["eval", "--benchmark", "gqa", "--predictions", "a.jsonl", "--json"]).fails(2, "usage", &["--questions"]);
}
