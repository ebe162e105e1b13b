//! Which rows of logs are one run.

use super::reading_test::{Q, norms, read_text, refused};
use super::*;

/// A log as one file of that name, with the run that is asked for.
fn read_run_of(files: &[(&str, &str)], run: Option<&str>) -> Result<GradientLog, LogError> {
    let files = files.iter().map(|(name, text)| LogFile {
        name: (*name).to_owned(),
        folder: String::new(),
        reader: text.as_bytes(),
    });
    read_files(files, &Limits::default(), run)
}

/// Rows of two parameters, from a step on.
fn rows_from(first: u64, norms: &[f64]) -> String {
    let row = |(step, norm): (u64, &f64)| {
        format!("{{\"step\":{step},\"grad_norm/{Q}.lora_A.weight\":{norm},\"grad_norm/{Q}.lora_B.weight\":{norm}}}\n")
    };
    (first..).zip(norms).map(row).collect()
}

#[test]
fn rows_of_several_runs_are_several_runs_whatever_the_columns_name() {
    for column in ["run", "Run", "exp_name", "experiment", "wandb_run", "trial_name"] {
        let error = refused(&format!("step,{column},grad_norm/{Q}.lora_A.weight\n1,a,0.5\n1,b,0.25\n"));
        assert!(error.contains("it holds 2 runs: a, b"), "{column}: {error}");
    }
}

#[test]
fn several_runs_in_one_file_are_never_chosen_in_silence() {
    let read_run = |text: &str, run: Option<&str>| {
        let file = LogFile { name: "log".to_owned(), folder: String::new(), reader: text.as_bytes() };
        read_files([file], &Limits::default(), run)
    };
    let chart =
        format!("Step,run-a - grad_norm/{Q}.lora_A.weight,run-b - grad_norm/{Q}.lora_A.weight\n1,0.5,50\n2,0.25,25\n");
    let rows: String = [("run-a", "7f", 0.5), ("run-b", "8e", 50.0), ("run-a", "7f", 0.25), ("run-b", "8e", 25.0)]
        .iter()
        .zip([1, 1, 2, 2])
        .map(|((name, id, norm), step)| {
            format!("{{\"run_name\":\"{name}\",\"run_id\":\"{id}\",\"step\":{step},\"grad_norm/{Q}.lora_A.weight\":{norm}}}\n")
        })
        .collect();
    for text in [&chart, &rows] {
        let error = read_run(text, None).unwrap_err().to_string();
        assert!(error.contains("log: it holds 2 runs: run-a, run-b; ask for one of them with --run NAME"), "{error}");
        for (run, first) in [("run-a", 0.5), ("run-b", 50.0)] {
            assert_eq!(norms(&read_run(text, Some(run)).unwrap())[0], (1, [Some(first), None, None]));
        }
        let error = read_run(text, Some("run-c")).unwrap_err().to_string();
        assert!(error.contains("it holds no run \"run-c\", but run-a, run-b"), "{error}");
    }
    assert_eq!(norms(&read_run(&rows, Some("8e")).unwrap())[0].1[0], Some(50.0));
    let same_name = rows.replace("run-b", "run-a");
    let error = read_run(&same_name, None).unwrap_err().to_string();
    assert!(error.contains("it holds 2 runs: run-a (7f), run-a (8e)"), "{error}");
    assert_eq!(norms(&read_run(&same_name, Some("run-a (8e)")).unwrap())[0].1[0], Some(50.0));
    // A folder of folders: each is a run.
    let line = format!("{{\"step\":1,\"grads\":{{\"{Q}.lora_A.weight\":1}}}}\n");
    let files = ["version_0", "version_1"].map(|folder| LogFile {
        name: format!("{folder}/log"),
        folder: folder.to_owned(),
        reader: line.as_bytes(),
    });
    let error = read_files(files, &Limits::default(), None).unwrap_err().to_string();
    assert!(error.contains("it holds 2 runs: version_0, version_1"), "{error}");
}

#[test]
fn runs_under_keys_of_one_document_are_several_runs() {
    let rows = |norm: f64| {
        let row = |step: u64| format!("{{\"step\":{step},\"grad_norm/{Q}.lora_A.weight\":{norm}}}");
        format!("[{},{}]", row(1), row(2))
    };
    let columns = |norm: f64| format!("{{\"step\":[1,2],\"grad_norm/{Q}.lora_A.weight\":[{norm},{norm}]}}");
    let nested = |norm: f64| format!("{{\"state\":{{}},\"log_history\":{}}}", rows(norm));
    let as_rows: &dyn Fn(f64) -> String = &rows;
    for of in [as_rows, &columns, &nested] {
        for text in [
            format!("{{\"run-a\":{},\"about\":[1,{{}}],\"run-b\":{}}}", of(0.5), of(50.0)),
            format!("{{\n \"run-a\": {},\n \"run-b\": {}\n}}\n", of(0.5), of(50.0)),
        ] {
            let error = read_run_of(&[("log", &text)], None).unwrap_err().to_string();
            assert!(error.contains("log: it holds 2 runs: run-a, run-b;"), "{text}: {error}");
            let log = read_run_of(&[("log", &text)], Some("run-b")).unwrap();
            assert_eq!(norms(&log), [(1, [Some(50.0), None, None]), (2, [Some(50.0), None, None])], "{text}");
        }
    }
    let one = format!("{{\"train\":{},\"eval\":[{{\"step\":1,\"eval_loss\":2}}]}}", rows(0.5));
    assert_eq!(read_text(&one).unwrap().steps.len(), 2);
}

#[test]
fn columns_that_number_runs_and_names_of_wide_rows_tell_runs_apart() {
    for column in ["seed", "trial_id", "fold", "name", "RUN"] {
        let error = refused(&format!("step,{column},grad_norm/{Q}.lora_A.weight\n1,7,0.5\n1,8,0.25\n"));
        assert!(error.contains("it holds 2 runs: 7, 8"), "{column}: {error}");
    }
    let two = format!("step,seed,run_id,grad_norm/{Q}.lora_A.weight\n1,7,a,0.5\n1,8,b,0.25\n");
    assert!(refused(&two).contains("it holds 2 runs: 7, a, 8, b"));
    assert_eq!(norms(&read_run_of(&[("log", &two)], Some("b")).unwrap())[0].1[0], Some(0.25));
    let list = format!(
        "[{{\"name\":\"a\",\"rows\":[{{\"step\":1,\"grad_norm/{Q}.lora_A.weight\":1}}]}},\
          {{\"name\":\"b\",\"rows\":[{{\"step\":1,\"grad_norm/{Q}.lora_A.weight\":2}}]}}]"
    );
    assert!(refused(&list).contains("it holds 2 runs: a, b"));
}

#[test]
fn a_second_run_behind_the_first_or_in_a_file_beside_it_is_another_run() {
    let (first, second) = (rows_from(1, &[0.5, 0.4, 0.3]), rows_from(1, &[5.0, 4.0]));
    let appended = [first.as_str(), &second].concat();
    let error = read_run_of(&[("a/log", &appended)], None).unwrap_err().to_string();
    assert!(error.contains("it holds 2 runs: log, log from line 4"), "{error}");
    let log = read_run_of(&[("a/log", &appended)], Some("log from line 4")).unwrap();
    assert_eq!(log.steps.iter().map(|step| step.gradients[0].a).collect::<Vec<_>>(), [Some(5.0), Some(4.0)]);
    assert_eq!(read_run_of(&[("a/log", &appended)], Some("log")).unwrap().steps.len(), 3);

    let beside = [("a/x.jsonl", first.as_str()), ("a/y.jsonl", &second)];
    let error = read_run_of(&beside, None).unwrap_err().to_string();
    assert!(error.contains("it holds 2 runs: x.jsonl, y.jsonl"), "{error}");
    assert_eq!(read_run_of(&beside, Some("y.jsonl")).unwrap().steps.len(), 2);
}

#[test]
fn a_second_run_that_was_appended_to_a_long_table_is_another_run_whichever_way_it_is_sorted() {
    let row = |step: u64, matrix: char, norm: f64| format!("{step},grad_norm/{Q}.lora_{matrix}.weight,{norm}\n");
    let by_step = |scale: f64| -> String {
        (1..=3).flat_map(|step| ['A', 'B'].map(|matrix| row(step, matrix, scale / step as f64))).collect()
    };
    let by_name = |scale: f64| -> String {
        ['A', 'B'].iter().flat_map(|matrix| (1..=3).map(|step| row(step, *matrix, scale / step as f64))).collect()
    };
    for sorted in [&by_step as &dyn Fn(f64) -> String, &by_name] {
        let table =
            |runs: &[f64]| format!("step,name,value\n{}", runs.iter().map(|run| sorted(*run)).collect::<String>());
        assert_eq!(norms(&read_text(&table(&[0.5])).unwrap())[0], (1, [Some(0.5), Some(0.5), None]));
        let two = table(&[0.5, 8.0]);
        let error = read_run_of(&[("a/log.csv", &two)], None).unwrap_err().to_string();
        assert!(error.contains("it holds 2 runs: log.csv, log.csv from line 8"), "{error}");
        let second = read_run_of(&[("a/log.csv", &two)], Some("log.csv from line 8")).unwrap();
        assert_eq!(norms(&second)[0], (1, [Some(8.0), Some(8.0), None]));
    }
}

#[test]
fn a_run_that_goes_on_or_that_two_files_tell_of_alike_is_one_run() {
    let first = rows_from(1, &[0.5, 0.4, 0.3]);
    // Resumed at step 3, in the same file and in another one; and a copy.
    for more in [rows_from(3, &[0.35, 0.2]), rows_from(4, &[0.2]), first.clone()] {
        for files in [vec![("log", [first.as_str(), &more].concat())], vec![("x", first.clone()), ("y", more.clone())]]
        {
            let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
            let log = read_run_of(&files, None).unwrap();
            assert!(log.steps.len() >= 3 && log.steps[0].gradients[0].a == Some(0.5), "{more}");
        }
    }
}
