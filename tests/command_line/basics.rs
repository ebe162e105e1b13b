//! Help, usage errors, doctor.

use crate::support::{names, trainer, trainer_in};

#[test]
fn help_and_version_go_to_standard_output_and_succeed() {
    for arguments in [&["--help"][..], &["--version"], &["plan", "--help"], &["inspect", "--help"]] {
        let run = trainer(arguments);
        assert_eq!(run.code, 0);
        assert!(!run.stdout.is_empty() && run.stderr.is_empty(), "{}", run.stderr);
    }
    assert!(trainer(&["--help"]).stdout.contains("130  interrupted; the state was saved"));
}

#[test]
fn a_wrong_flag_exits_with_2_and_json_has_the_error() {
    trainer(&["inspect", "--modell", "x", "--json"]).fails(2, "usage", &["--modell"]);
    trainer(&["--json"]).fails(2, "usage", &[]);
    let run = trainer(&["inspect"]);
    assert_eq!(run.code, 2);
    assert!(run.stdout.is_empty() && run.stderr.contains("--model"));
}

#[test]
fn doctor_finds_the_cpu_and_leaves_nothing_behind() {
    let run = trainer(&["doctor", "--device", "cpu", "--json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let document = run.json();
    assert_eq!(document["ok"], true);
    let cpu = document["checks"].as_array().unwrap().iter().find(|check| check["name"] == "device cpu").unwrap();
    assert_eq!(cpu["status"], "ok");
    assert!(!run.stdout.contains("device wgpu"), "only what is asked for is checked: {}", run.stdout);
    assert!(trainer(&["doctor", "--device", "cpu"]).stdout.contains("device cpu"));
}

#[test]
fn doctor_fails_where_run_folders_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("runs"), "a file").unwrap();
    let run = trainer_in(folder.path(), &["doctor", "--device", "cpu", "--json"], &[]);
    run.fails(1, "failure", &["run folders", "runs cannot be written"]);
    let run = trainer_in(folder.path(), &["doctor", "--device", "cpu"], &[]);
    assert_eq!(run.code, 1);
    assert!(run.stdout.contains("ERROR") && run.stderr.contains("not usable: run folders"), "{}", run.stderr);
    assert_eq!(names(folder.path()), ["runs"]);
}

#[test]
fn a_report_is_rendered_from_its_data_and_a_broken_one_leaves_no_page() {
    let folder = tempfile::tempdir().unwrap();
    let data = include_str!("../../trainer/src/report/example.json");
    std::fs::write(folder.path().join("report.json"), data).unwrap();
    let run = trainer_in(folder.path(), &["report", ".", "--json"], &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(std::fs::read_to_string(folder.path().join("report.html")).unwrap().ends_with("</html>"));

    let broken = tempfile::tempdir().unwrap();
    std::fs::write(broken.path().join("report.json"), &data[..data.len() / 2]).unwrap();
    let run = trainer_in(broken.path(), &["report", ".", "--json"], &[]);
    run.fails(3, "data", &["report.json: this is not the data of a report"]);
    assert_eq!(names(broken.path()), ["report.json"]);
    trainer(&["report", "nowhere", "--json"]).fails(3, "data", &["nowhere: there is no such file"]);
}

#[test]
fn a_log_filter_that_is_none_is_a_usage_error() {
    trainer(&["doctor", "--log", "!!", "--json"]).fails(2, "usage", &["--log !!"]);
}
