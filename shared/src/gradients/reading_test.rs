//! What readers accept, note and refuse, on small logs.

use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::layout::{ModuleId, Projection};

pub(super) const Q: &str = "model.layers.0.self_attn.q_proj";

pub(super) fn read_text(text: &str) -> Result<GradientLog, LogError> {
    read("log", text.as_bytes())
}

pub(super) fn refused(text: &str) -> String {
    read_text(text).unwrap_err().to_string()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::best());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

pub(super) fn norms(log: &GradientLog) -> Vec<(u64, [Option<f64>; 3])> {
    log.steps.iter().map(|s| (s.step, s.gradients[0].values())).collect()
}

fn skipped(log: &GradientLog) -> Vec<(&str, usize)> {
    log.report.files[0].skipped.iter().map(|g| (g.what.as_str(), g.count)).collect()
}

#[test]
fn the_projects_own_log_is_read_with_its_header() {
    let log = read_text(concat!(
        r#"{"hydra_grads":1,"model":"m","norm":"l2","clip":"post","unit":"micro_batch","lora":{"r":8,"alpha":16}}"#,
        "\n",
        r#"{"step":10,"loss":1.2,"grads":{"model.layers.0.self_attn.q_proj":{"A":0.01,"B":0.03},"model.layers.1.mlp.up_proj":{"W":0.5}}}"#,
        "\n",
        r#"{"step":11,"loss":NaN,"grads":{"model.layers.0.self_attn.q_proj":{"A":Infinity,"B":null}}}"#,
    ))
    .unwrap();
    assert_eq!(log.report.files[0].format, Some(Format::HydraLog));
    assert_eq!(log.meta.model.as_deref(), Some("m"));
    assert_eq!(log.meta.lora, Some(LoraMeta { r: 8, alpha: Some(16.0) }));
    assert_eq!((log.meta.clip, log.meta.unit), (Some(Clip::Post), Some(LogUnit::MicroBatch)));
    assert_eq!(log.steps[0].loss, Some(1.2));
    assert!(log.steps[1].loss.unwrap().is_nan());
    assert_eq!(norms(&log), [(10, [Some(0.01), Some(0.03), None]), (11, [Some(f64::INFINITY), None, None])]);
    assert_eq!(log.steps[0].gradients[1], ModuleGradient::full(0.5));
    assert_eq!(log.modules[1].id, ModuleId { layer: 1, projection: Projection::Up });
    assert_eq!(log.report.non_finite, 1);
    let notes: Vec<String> = log.report.all_notes().collect();
    assert!(notes.iter().any(|n| n.contains("after clipping")) && notes.iter().any(|n| n.contains("micro-batches")));
}

#[test]
fn headers_that_cannot_be_honoured_are_refused() {
    assert!(refused("{\"hydra_grads\":2}\n").contains("format version 2, this program knows version 1; use a newer"));
    assert!(refused("{\"hydra_grads\":1,\"norm\":\"inf\"}\n").contains("norms are \"inf\"; log L2 norms"));
    assert!(
        refused("{\"hydra_grads\":1,\"clip\":\"maybe\"}\n")
            .contains("log, line 1: the header is not one: unknown variant")
    );
    assert!(refused("{\"hydra_grads\":1,\"lora\":{\"r\":0}}\n").contains("lora.r is 0"));
    assert!(
        refused("{\"hydra_grads\":1}\n{\"grads\":{\"model.layers.0.mlp.up_proj\":{\"W\":1}}}\n")
            .contains("line 2: no step; give every line")
    );
    let two = "{\"hydra_grads\":1,\"lora\":{\"r\":8}}\n{\"hydra_grads\":1,\"lora\":{\"r\":4}}\n";
    assert!(refused(two).contains("line 2: a second header that differs"));
    assert!(refused("{\"hydra_grads\":1,\"lora\":{\"r\":8}}\n").contains("the log holds no gradients"));
}

#[test]
fn metric_keys_of_other_loggers_are_read_from_json_lines() {
    let key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight";
    for prefix in ["grad_2.0_norm/", "l2_norm/grad/", "train/grad_norm/", "grads/"] {
        let log = read_text(&format!(
            "{{\"_step\":7,\"trainer/global_step\":3,\"{prefix}{key}\":0.5,\"lr\":{{\"x\":[1]}}}}\n"
        ))
        .unwrap();
        assert_eq!(norms(&log), [(3, [Some(0.5), None, None])], "{prefix}");
        assert_eq!(log.modules[0].path, Q);
        assert_eq!(log.report.files[0].other_keys, 1);
    }
}

#[test]
fn packed_and_plain_wandb_histograms_estimate_the_same_norm_and_a_single_value_exactly() {
    let row = |value: &str| format!("{{\"_step\":1,\"gradients/{Q}.lora_A.default.weight\":{value}}}\n");
    let plain = read_text(&row(r#"{"_type":"histogram","values":[1,2,1],"bins":[-3,-1,1,3]}"#)).unwrap();
    let packed =
        read_text(&row(r#"{"_type":"histogram","packedBins":{"min":-3,"size":2,"count":3},"values":[1,2,1]}"#))
            .unwrap();
    // Middles −2, 0, 2 and width 2: 1·4 + 1·4 + 4·(4/12).
    let expected = (8.0_f64 + 4.0 / 3.0).sqrt();
    for log in [plain, packed] {
        assert!((norms(&log)[0].1[0].unwrap() - expected).abs() < 1e-12);
        assert!(log.estimated);
        assert_eq!(log.report.files[0].format, Some(Format::WandbHistory));
    }
    let constant = read_text(&row(r#"{"_type":"histogram","values":[4],"bins":[0.5,0.5]}"#)).unwrap();
    assert_eq!(norms(&constant)[0].1[0], Some(1.0));
    for bad in [
        r#"{"values":[1,2],"bins":[0,1]}"#,
        r#"{"values":[],"bins":[0,1]}"#,
        r#"{"values":[-1],"bins":[0,1]}"#,
        r#"{"values":[1]}"#,
    ] {
        let error = refused(&row(bad));
        assert!(error.contains("not a histogram") && error.contains("scan_history"), "{error}");
    }
}

#[test]
fn towers_heads_fused_matrices_and_second_adapters_are_reported_and_left_out() {
    let keys = [
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.other.weight",
        "base_model.model.model.vision_tower.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.lora_A.default.weight",
        "base_model.model.model.vision_tower.vision_tower.vision_model.encoder.layers.1.mlp.fc1.lora_A.default.weight",
        "base_model.model.model.mm_projector.mlp.mlp.0.lora_A.default.weight",
        "base_model.model.lm_head.lora_A.default.weight",
        "base_model.model.model.layers.1.self_attn.qkv_proj.lora_A.default.weight",
        "mystery",
    ];
    let body: Vec<String> = keys.iter().map(|k| format!("\"{k}\":1")).collect();
    let log = read_text(&format!("{{\"step\":1,\"grad_norms\":{{{}}}}}\n", body.join(","))).unwrap();
    assert_eq!(log.modules.len(), 1);
    assert_eq!(
        skipped(&log),
        [("other-adapter", 1), ("vision-tower", 2), ("projector", 1), ("output-head", 1), ("fused", 1), ("unknown", 1)]
    );
    assert_eq!(log.report.files[0].skipped[5].examples, ["mystery"]);
    let note = &log.report.files[0].notes[0];
    assert!(
        note.starts_with("1 keys left out") && note.ends_with("the adapter default came before and was taken"),
        "{note}"
    );
    assert!(log.report.files[0].skipped.iter().all(|g| !g.why.is_empty()));
}

#[test]
fn of_two_models_in_one_log_it_is_said_which_was_taken_and_the_same_key_again_is_no_second_model() {
    let key = |model: &str| format!("grad_norm/{model}.base_model.model.{Q}.lora_A.default.weight");
    let [actor, critic] = ["actor", "critic"].map(key);
    for (first, second) in [(&actor, &critic), (&critic, &actor)] {
        let log = read_text(&format!("{{\"step\":1,\"{first}\":1,\"{second}\":3}}\n")).unwrap();
        assert_eq!(norms(&log), [(1, [Some(1.0), None, None])]);
        let note = format!("1 keys left out, first {second}: {first} came before and was taken");
        assert_eq!(log.report.files[0].notes, [note]);
    }
    let log = read_text(&format!("{{\"step\":1,\"{actor}\":1,\"{actor}_step\":1}}\n")).unwrap();
    assert_eq!((log.report.files[0].notes.len(), log.report.files[0].skipped.len()), (0, 1), "{:?}", log.report);
}

#[test]
fn a_log_of_a_vision_tower_alone_is_refused_with_the_reason() {
    let error = refused("{\"step\":1,\"grad_norms\":{\"vision_model.encoder.layers.0.self_attn.q_proj.weight\":1}}\n");
    assert!(error.contains("none of its 1 gradient keys names a projection of a language layer"), "{error}");
    assert!(error.contains("vision tower"), "{error}");
}

#[test]
fn of_an_encoder_decoder_the_larger_stack_is_used_and_the_other_noted() {
    let log = read_text(concat!(
        r#"{"step":1,"grad_norms":{"model.encoder.layers.0.self_attn.q_proj.weight":9,"model.decoder.layers.0.self_attn.q_proj.weight":1,"model.decoder.layers.0.encoder_attn.q_proj.weight":5}}"#,
        "\n"
    ))
    .unwrap();
    assert_eq!(norms(&log), [(1, [None, None, Some(1.0)])]);
    assert_eq!(log.layers_path().as_deref(), Some("model.decoder.layers"));
    assert_eq!(skipped(&log), [("cross-attention", 1)]);
    assert!(log.report.notes[0].contains("1 modules under model.encoder.layers were left out"));
}

#[test]
fn the_layers_path_is_that_of_the_users_own_model() {
    for path in ["model.layers", "model.language_model.layers", "language_model.model.layers", "transformer.h"] {
        let log = read_text(&format!(
            "{{\"step\":1,\"grad_norms\":{{\"module.base_model.model.{path}.3.mlp.up_proj.lora_B.weight\":1}}}}\n"
        ))
        .unwrap();
        assert_eq!(log.layers_path().as_deref(), Some(path));
        assert_eq!(log.modules[0].path, format!("{path}.3.mlp.up_proj"));
    }
}

#[test]
fn a_step_that_comes_twice_keeps_its_last_values_with_a_note() {
    let line = |step, norm| format!("{{\"step\":{step},\"grad_norms\":{{\"{Q}.lora_A.weight\":{norm}}}}}\n");
    let log = read_text(&[line(2, 1.0), line(1, 5.0), line(2, 3.0)].concat()).unwrap();
    assert_eq!(norms(&log), [(1, [Some(5.0), None, None]), (2, [Some(3.0), None, None])]);
    assert_eq!(log.report.duplicate_steps, [2]);
    assert!(log.report.notes[0].contains("first: step 2"));
}

#[test]
fn csv_rows_of_one_step_are_put_together_and_blank_cells_are_missing() {
    let text = format!(
        "\u{feff}step,train_loss,grad_2.0_norm/{Q}.lora_A.weight,grad_2.0_norm/{Q}.lora_B.weight,epoch\r\n1,,0.5,,0\r\n1,2.5,,0.25,0\r\n2,nan,nan,1e-3,0\r\n"
    );
    let log = read_text(&text).unwrap();
    assert_eq!(log.steps[0].loss, Some(2.5));
    assert_eq!(log.steps[0].gradients, [ModuleGradient::lora(0.5, 0.25)]);
    assert!(log.steps[1].gradients[0].a.unwrap().is_nan());
    assert!(log.report.duplicate_steps.is_empty());
    let semicolons = text.replace(',', ";");
    assert_eq!(read_text(&semicolons).unwrap().steps[0], log.steps[0]);
}

#[test]
fn of_a_table_of_one_row_a_value_both_matrices_of_a_module_count_and_headings_may_be_capitalized() {
    let rows = |matrix: [&str; 2]| {
        matrix.into_iter().zip([0.3, 0.4]).map(|(matrix, norm)| format!("1,{Q},{matrix},{norm}\n")).collect::<String>()
    };
    for matrix in [["A", "B"], ["lora_A", "lora_B"]] {
        let log = read_text(&format!("step,module,matrix,value\n{}", rows(matrix))).unwrap();
        assert_eq!(norms(&log), vec![(1, [Some(0.3), Some(0.4), None])], "{matrix:?}");
    }
    for heading in ["Step,Name,Value", "Step,Tag,Value", "step,Metric,val"] {
        let log = read_text(&format!("{heading}\n1,grad_norm/{Q}.lora_A.weight,0.5\n")).unwrap();
        assert_eq!(norms(&log), vec![(1, [Some(0.5), None, None])], "{heading}");
    }
}

#[test]
fn bad_values_are_refused_with_line_and_key() {
    let json = |value: &str| {
        format!("{{\"step\":1,\"grad_norms\":{{}}}}\n{{\"step\":2,\"grad_norms\":{{\"{Q}.lora_A.weight\":{value}}}}}\n")
    };
    assert_eq!(
        refused(&json("-1.5")),
        format!(
            "log, line 2, \"{Q}.lora_A.weight\": -1.5 is not a norm: norms are never negative; log the L2 norm of the gradient as a number"
        )
    );
    assert!(refused(&json("\"high\"")).contains("\"high\" is not a number"));
    assert!(refused(&json("[1,2]")).contains("a list stands where one number is expected"));
    assert!(
        refused(&json("1").replace("\"step\":2", "\"step\":2.5")).contains("line 2, \"step\": \"2.5\" is not a step")
    );
    assert!(refused(&json("1").replace("\"step\":2", "\"step\":-2")).contains("\"-2\" is not a step"));
    assert!(refused("{\"step\":1,\"grads\":}\n{}\n").contains("log, line 1: not valid JSON"));
    let csv = format!("step,grad_norm/{Q}.lora_A.weight\n1,0.5\n2,x\n");
    assert!(refused(&csv).contains(&format!("log, line 3, \"grad_norm/{Q}.lora_A.weight\": \"x\" is not a number")));
    assert!(
        refused(&csv.replace("1,0.5", "1,0.5,7")).contains("line 2: not valid CSV: 3 columns where the header has 2")
    );
}

#[test]
fn nan_is_read_bare_and_as_wandbs_strings() {
    for text in ["NaN", "\"NaN\"", "Infinity", "\"Infinity\"", "\"-Infinity\""] {
        let log = read_text(&format!("{{\"step\":1,\"grad_norms\":{{\"{Q}.lora_A.weight\":{text}}}}}\n")).unwrap();
        assert_eq!(log.report.non_finite, 1, "{text}");
    }
}

#[test]
fn logs_without_gradients_say_what_to_log_instead() {
    for text in ["{\"step\":1,\"loss\":2.5,\"grad_norm\":1.5}\n", "step,loss,grad_norm\n1,2.5,1.5\n"] {
        assert!(matches!(read_text(text).unwrap_err().problem, LogProblem::GlobalNormOnly), "{text}");
    }
    assert!(matches!(read_text("{\"step\":1,\"loss\":2.5}\n").unwrap_err().problem, LogProblem::NoGradients { .. }));
}

#[test]
fn per_parameter_norms_that_a_user_logged_through_the_trainer_are_read_from_trainer_state() {
    let log = read_text(&format!(
        "{{\n \"epoch\": 1.0,\n \"log_history\": [{{\"step\": 3, \"loss\": NaN, \"grad_norm\": 2.0, \"grad_norm/{Q}.lora_A.weight\": 0.5}}, 7]\n}}\n"
    ))
    .unwrap();
    assert_eq!(norms(&log), [(3, [Some(0.5), None, None])]);
    assert_eq!(log.report.files[0].format, Some(Format::TrainerState));
}

#[test]
fn files_that_are_no_logs_are_refused_by_what_they_are() {
    let problem = |bytes: &[u8]| read("x", bytes).unwrap_err().problem;
    assert!(matches!(problem(b""), LogProblem::Empty));
    assert!(matches!(problem(b" \n\n"), LogProblem::Empty));
    assert!(matches!(problem(b"\xff\xfes\0t\0"), LogProblem::Utf16));
    assert!(matches!(problem(b"PK\x03\x04rest"), LogProblem::Archive));
    assert!(matches!(problem(&gzip(&gzip(b"{}"))), LogProblem::Archive));
    assert!(matches!(problem(b"[[1, 0.5, 0.2], [2, 0.4, 0.1]]"), LogProblem::Nameless));
    assert!(matches!(problem(format!("[[1, \"grad_norm/{Q}.lora_A.weight\", 0.2]]").as_bytes()), LogProblem::Nameless));
    assert!(matches!(problem(b"hello world"), LogProblem::Unrecognised { .. }));
    assert!(matches!(problem(b"a,b,c\n1,2,3\n"), LogProblem::Unrecognised { .. }));
    assert!(matches!(problem(b"{\n \"hidden_size\": 3\n}\n"), LogProblem::Unrecognised { .. }));
    assert!(matches!(problem(&gzip(b"{\"step\":1}\n")[..15]), LogProblem::Gzip(_)));
}

#[test]
fn limits_are_errors_that_name_themselves() {
    let line = format!("{{\"step\":1,\"grad_norms\":{{\"{Q}.lora_A.weight\":1,\"{Q}.lora_B.weight\":1}}}}\n");
    let with = |limits: Limits, bytes: &[u8]| read_with("log", bytes, &limits).unwrap_err().problem;
    let default = Limits::default();
    assert!(matches!(
        with(Limits { line_bytes: 40, ..default }, line.as_bytes()),
        LogProblem::LineTooLong { limit: 40 }
    ));
    assert!(matches!(with(Limits { keys: 3, ..default }, line.as_bytes()), LogProblem::TooManyKeys { limit: 3 }));
    assert!(matches!(
        with(Limits { name_chars: 20, ..default }, line.as_bytes()),
        LogProblem::NameTooLong { limit: 20 }
    ));
    assert!(matches!(with(Limits { values: 1, ..default }, line.as_bytes()), LogProblem::TooManyValues { limit: 1 }));
    assert!(matches!(
        with(Limits { file_bytes: 20, ..default }, line.as_bytes()),
        LogProblem::FileTooLarge { limit: 20 }
    ));
    let exact = Limits { line_bytes: line.len() - 1, keys: 4, values: 2, file_bytes: line.len() as u64, ..default };
    assert!(read_with("log", line.as_bytes(), &exact).is_ok());

    let bomb = gzip(format!("{line}{}", " ".repeat(4 << 20)).as_bytes());
    assert!(matches!(with(default, &bomb), LogProblem::Ratio { limit: 200 }));
    let many = gzip(line.repeat(2000).as_bytes());
    assert!(matches!(
        with(Limits { inflated_bytes: 100_000, ..default }, &many),
        LogProblem::Inflated { limit: 100_000 }
    ));
    // A quote that never closes must not swallow the file.
    let csv = format!("step,grad_norm/{Q}.lora_A.weight\n1,\"{}", "1\n".repeat(200_000));
    assert!(matches!(
        with(Limits { line_bytes: 1000, ..default }, csv.as_bytes()),
        LogProblem::LineTooLong { limit: 1000 }
    ));
}

#[test]
fn a_row_of_json_lines_that_is_cut_off_names_its_line() {
    let row = |step: u64| format!("{{\"step\":{step},\"grads\":{{\"{Q}.lora_A.weight\":0.5}}}}\n");
    let first = row(1);
    let error = refused(&format!("{}\n{}", &first[..first.len() / 2], row(2)));
    assert!(error.contains("log, line 1: not valid JSON"), "{error}");
}

#[test]
fn a_document_of_columns_is_read_by_row_and_a_table_of_parameters_by_row_is_named() {
    let key = format!("grad_norm/{Q}.lora_A.weight");
    let expected = vec![(1, [Some(0.5), None, None]), (2, [Some(0.25), None, None])];
    for text in [
        format!(r#"{{"step":{{"0":1,"1":2}},"{key}":{{"0":0.5,"1":0.25}}}}"#),
        // Without a column of steps the index is the step; a gap is a missing value.
        format!(r#"{{"{key}":{{"1":0.5,"2":0.25}},"loss":{{"1":null,"2":1.5}}}}"#),
        format!(r#"{{"step":[1,2],"{key}":[0.5,0.25]}}"#),
        format!(r#"{{"steps":[1,2],"grad_norms":{{"{Q}.lora_A.weight":[0.5,0.25]}}}}"#),
        format!(r#"{{"columns":["{key}"],"index":[1,2],"data":[[0.5],[0.25]]}}"#),
        format!(r#"{{"1":{{"{Q}.lora_A.weight":0.5}},"2":{{"{Q}.lora_A.weight":0.25}}}}"#),
    ] {
        assert_eq!(norms(&read_text(&text).unwrap()), expected, "{text}");
    }
    let lists = refused(&format!(r#"{{"lr":1,"grad_norms":{{"{Q}.lora_A.weight":[0.5,0.25]}}}}"#));
    assert!(lists.contains("written column by column; write it row by row"), "{lists}");
    let transposed = refused(&format!(",1,2\n{key},0.5,0.25\nloss,1.5,1.25\n"));
    assert!(transposed.contains("each row holds one parameter") && transposed.contains("transpose it"), "{transposed}");
    let wide: Vec<u8> = format!("step,{key}\n1,0.5\n").encode_utf16().flat_map(u16::to_le_bytes).collect();
    for start in [&b"\xff\xfe"[..], b""] {
        let error = read("log", [start, wide.as_slice()].concat().as_slice()).unwrap_err();
        assert!(matches!(error.problem, LogProblem::Utf16), "{error}");
    }
}

#[test]
fn deep_nesting_is_an_error_not_a_crash() {
    let text = format!("{{\"step\":1,\"x\":{}{}}}\n{{}}\n", "[".repeat(100_000), "]".repeat(100_000));
    assert!(refused(&text).contains("recursion limit"));
}

#[test]
fn several_files_are_one_log_and_the_later_one_wins() {
    let line = |step, norm| format!("{{\"step\":{step},\"grad_norms\":{{\"{Q}.lora_A.weight\":{norm}}}}}\n");
    let files = |list: &[(&str, String)]| -> Vec<(String, Cursor<Vec<u8>>)> {
        list.iter().map(|(n, t)| ((*n).to_owned(), Cursor::new(t.clone().into_bytes()))).collect()
    };
    let limits = Limits::default();
    let all = files(&[
        ("README.md", "# about".into()),
        ("a", line(1, 1.0) + &line(2, 1.0)),
        ("b", line(2, 9.0) + &line(3, 9.0)),
    ]);
    let log = read_many(all, &limits).unwrap();
    assert_eq!(
        norms(&log).iter().map(|(s, n)| (*s, n[0].unwrap())).collect::<Vec<_>>(),
        [(1, 1.0), (2, 9.0), (3, 9.0)]
    );
    assert_eq!(log.report.files.len(), 3);
    assert_eq!(log.report.files[0].format, None);
    assert_eq!(log.steps[1].place, Place { file: 2, line: 1 });

    let error = read_many(files(&[("README.md", "# about".into())]), &limits).unwrap_err().to_string();
    assert!(error.starts_with("README.md: this is no gradient log that is known"), "{error}");
    assert!(read_many(files(&[]), &limits).unwrap_err().to_string().contains("the log holds no gradients"));
}

#[test]
fn rows_without_a_step_are_counted_with_a_note() {
    let line = format!("{{\"grad_norms\":{{\"{Q}.lora_A.weight\":1}}}}\n");
    let log = read_text(&line.repeat(3)).unwrap();
    assert_eq!(log.steps.iter().map(|s| s.step).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(log.report.files[0].notes, ["3 rows name no step; they were counted from 1"]);
}

#[test]
fn exact_norms_are_taken_before_histograms_for_all_parameters_whichever_comes_first() {
    let key = |prefix: &str, matrix: &str| format!("\"{prefix}{Q}.lora_{matrix}.weight\"");
    let histogram = r#"{"_type":"histogram","values":[4],"bins":[3,3]}"#;
    let (a, b) = (key("grad_2.0_norm/", "A"), key("grad_2.0_norm/", "B"));
    let (watched_a, watched_b) = (key("gradients/model.", "A"), key("gradients/model.", "B"));
    let log = read_text(&format!(
        "{{\"step\":1,{a}:0.5,{watched_a}:{histogram},{watched_b}:{histogram},{b}:0.25}}\n{{\"step\":2,{watched_b}:{histogram},{b}:1,{a}:2,{watched_a}:{histogram}}}\n"
    ))
    .unwrap();
    assert_eq!(norms(&log), [(1, [Some(0.5), Some(0.25), None]), (2, [Some(2.0), Some(1.0), None])]);
    assert!(!log.estimated);
    assert_eq!(
        log.report.notes[0],
        "the log measures the same parameters in several ways: norms under grad_2.0_norm/ were taken for all of them, \
         histograms under gradients/ were not"
    );
}

#[test]
fn a_histogram_of_equal_elements_gives_their_norm() {
    let row = |value: &str| format!("{{\"_step\":1,\"gradients/{Q}.lora_A.default.weight\":{value}}}\n");
    let zeros = read_text(&row(r#"{"_type":"histogram","values":[0,0,256,0],"bins":[-0.5,-0.25,0.0,0.25,0.5]}"#));
    assert_eq!(norms(&zeros.unwrap())[0].1[0], Some(0.0));
    let packed = r#"{"_type":"histogram","values":[0,0,4,0],"packedBins":{"min":1.5,"size":0.25,"count":4}}"#;
    assert_eq!(norms(&read_text(&row(packed)).unwrap())[0].1[0], Some(4.0));
}

#[test]
fn a_history_that_pandas_wrote_has_its_histograms_in_cells() {
    let text = format!(
        "_step,loss,gradients/{Q}.lora_A.weight\n1,2.5,\"{{'_type': 'histogram', 'values': [4], 'bins': [0.5, 0.5]}}\"\n2,2.25,\n"
    );
    let log = read_text(&text).unwrap();
    assert_eq!((norms(&log), log.estimated), (vec![(1, [Some(1.0), None, None])], true));
    let shortened = text.replace("[4]", "[1, ..., 4]");
    let error = refused(&shortened);
    assert!(error.contains("log, line 2") && error.contains("left out the middle of a list"), "{error}");
}

#[test]
fn a_run_that_diverged_is_told_by_what_its_histograms_leave_out() {
    let key = format!("gradients/{Q}.lora_A.weight");
    let row = |step: u64, count: u64| {
        let histogram = format!(r#"{{"_type":"histogram","values":[{count}],"bins":[0.5,0.5]}}"#);
        let gradient = if count > 0 { format!(",\"{key}\":{histogram}") } else { String::new() };
        format!("{{\"_step\":{step},\"loss\":2.5{gradient}}}\n")
    };
    let notes = |rows: &[(u64, u64)]| {
        let text: String = rows.iter().map(|(step, count)| row(*step, *count)).collect();
        read_text(&text).unwrap().report.notes
    };
    assert_eq!(notes(&[(1, 16), (2, 16), (3, 16)]).len(), 1, "that norms were estimated");
    assert!(
        notes(&[(1, 16), (2, 16), (3, 5)])[0].contains("from step 3 on the histograms hold fewer elements (5 of 16)")
    );
    assert!(notes(&[(1, 16), (2, 16), (3, 0), (4, 0)])[0].contains("after step 2 there are losses and no histograms"));
    let state = format!(
        "{{\"log_history\": [{{\"step\": 1, \"loss\": 2.5, \"grad_norm\": 1.0, \"grad_norm/{Q}.lora_A.weight\": 0.5}}, {{\"step\": 2, \"loss\": 0.0, \"grad_norm\": NaN}}]}}"
    );
    let log = read_text(&state).unwrap();
    assert!(
        log.report.notes[0].contains("the global gradient norm is NaN at step 2, where transformers writes"),
        "{log:?}"
    );
}

#[test]
fn what_is_not_recognised_is_quoted_and_named() {
    let error = refused("{\"step\":1,\"loss\":2.5,\"my.layers.3.magnitude\":1,\"lr\":1,\"gradnorm_all\":2,\"x\":3}\n");
    assert!(
        error.contains(
            "the log holds no gradients; the keys that look most like parameters are \"my.layers.3.magnitude\""
        ),
        "{error}"
    );
    let error = refused("time;my_gradient\n1;2\n");
    assert!(error.contains("this is no gradient log that is known") && error.contains("\"my_gradient\""), "{error}");
    for (start, what) in [
        (&b"ARROW1\0\0"[..], "this is an Arrow (Feather) file; write its rows as JSON lines"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "this is a pointer of Git LFS, not the file itself; fetch",
        ),
        (b"\x80\x04\x95", "this is a pickle of Python"),
        (b"<!DOCTYPE html>", "this is a web page"),
        (b"PK\x03\x04", "of ClearML metrics.jsonl, of Comet messages.json"),
    ] {
        let error = read("log", start).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn ranks_and_file_lists_by_module_are_no_norms() {
    let config = format!("{{\"r\": 8, \"rank_pattern\": {{\"{Q}\": 4}}, \"step\": null}}");
    assert!(matches!(read_text(&config).unwrap_err().problem, LogProblem::NoGradients { .. }));
    let index = format!("{{\n \"weight_map\": {{\n  \"{Q}.weight\": \"model-1.safetensors\"\n }}\n}}\n");
    assert!(matches!(
        read_text(&index).unwrap_err().problem,
        LogProblem::NoGradients { .. } | LogProblem::Unrecognised { .. }
    ));
}

#[test]
fn a_document_that_is_cut_gives_its_whole_rows_and_a_broken_one_names_its_line() {
    let row = |step: u64| format!("  {{\n    \"step\": {step},\n    \"grad_norm/{Q}.lora_A.weight\": 0.5\n  }}");
    let whole = format!("[\n{},\n{}\n]\n", row(1), row(2));
    assert_eq!(read_text(&whole).unwrap().steps.len(), 2);
    let log = read_text(&whole[..whole.len() - 12]).unwrap();
    assert_eq!((log.steps.len(), log.report.files[0].notes.len()), (1, 1));
    let broken = whole.replace("\"step\": 2", "\"step\" 2");
    assert!(refused(&broken).contains("log, line 7: not valid JSON"), "{}", refused(&broken));
    let negative = whole.replacen("0.5", "-0.5", 1);
    assert!(refused(&negative).contains("log, line 2, \"grad_norm/"), "{}", refused(&negative));
}

#[test]
fn names_that_are_taken_apart_are_put_together() {
    for text in [
        format!("{{\"step\":1,\"grad_norm\":{{\"{Q}\":{{\"lora_A\":0.5,\"lora_B\":0.25}}}}}}"),
        format!("{{\"step\":1,\"grads\":{{\"{Q}\":{{\"lora_A\":{{\"default\":{{\"weight\":0.5}}}},\"lora_B\":0.25}}}}}}"),
        "{\"step\":1,\"grad_norm\":{\"model\":{\"layers\":{\"0\":{\"self_attn\":{\"q_proj\":{\"lora_A\":0.5,\"lora_B\":0.25}}}}}}}"
            .to_owned(),
        "{\"step\":1,\"grads\":{\"model\":{\"layers\":{\"0\":{\"self_attn\":{\"q_proj\":{\"A\":0.5,\"B\":0.25}}}}}}}".to_owned(),
        format!("{{\"step\":1,\"grads\":[{{\"name\":\"{Q}.lora_A\",\"norm\":0.5}},{{\"name\":\"{Q}.lora_B\",\"norm\":0.25}}]}}"),
        format!("{{\"step\":1,\"grad_norm/{Q}.lora_A\":{{\"norm\":0.5}},\"grad_norm/{Q}.lora_B\":{{\"l2\":0.25,\"max\":9}}}}"),
    ] {
        let log = read_text(&format!("{text}\n")).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(norms(&log), [(1, [Some(0.5), Some(0.25), None])], "{text}");
    }
}

#[test]
fn bare_names_without_a_step_are_norms_only_where_they_cannot_be_ranks() {
    let row = |a: f64| format!("{{\"epoch\":0.1,\"{Q}.lora_A.weight\":{a},\"{Q}.lora_B.weight\":2}}\n");
    let log = read_text(&[row(0.5), row(0.25)].concat()).unwrap();
    assert_eq!(norms(&log), [(1, [Some(0.5), Some(2.0), None]), (2, [Some(0.25), Some(2.0), None])]);
    for ranks in [row(0.5), [row(8.0), row(4.0)].concat()] {
        let error = refused(&ranks);
        assert!(error.contains(&format!("(\"{Q}.lora_A.weight\"")) && error.contains("as \"step\""), "{error}");
    }
}

#[test]
fn decimal_commas_in_quotes_and_headings_of_any_kind_are_read() {
    let log = read_text(&format!("step,grad_norm/{Q}.lora_A.weight\n1,\"0,5\"\n2,\"1,25e-2\"\n")).unwrap();
    assert_eq!(norms(&log), [(1, [Some(0.5), None, None]), (2, [Some(0.0125), None, None])]);
    for heading in ["STEP,NAME,VALUE", "train_step,tag,val", "iter,Tag,val", "num_updates,param,NORM"] {
        let log = read_text(&format!("{heading}\n3,grad_norm/{Q}.lora_A.weight,0.5\n")).unwrap();
        assert_eq!(norms(&log), [(3, [Some(0.5), None, None])], "{heading}");
    }
    let error = refused(&format!("epoch,name,value\n1,grad_norm/{Q}.lora_A.weight,0.5\n"));
    assert!(error.contains("line 2: no step; give every line its optimizer step"), "{error}");
}

#[test]
fn a_comma_that_may_stand_between_thousands_is_refused_unless_another_number_tells() {
    let table = |first: &str, second: &str| {
        format!(
            "step,grad_norm/{Q}.lora_A.weight,grad_norm/{Q}.lora_B.weight\n1,\"{first}\",{second}\n2,\"{first}\",3\n"
        )
    };
    let error = refused(&table("1,291", "215"));
    assert!(error.contains("line 2") && error.contains("\"1,291\" may have a decimal comma"), "{error}");
    assert!(error.contains("1291 or 1.291"), "{error}");
    for (first, second, norm) in [("1,291", "\"0,5\"", 1.291), ("0,291", "2", 0.291), ("1,2915", "2", 1.2915)] {
        assert_eq!(norms(&read_text(&table(first, second)).unwrap())[0].1[0], Some(norm), "{first}");
    }
}

#[test]
fn a_scalar_as_tensorboard_downloads_it_is_named() {
    let error = refused("Wall time,Step,Value\n1795493630.1,1,0.5\n1795493631.2,2,0.4\n");
    assert!(error.contains("one scalar as TensorBoard downloads it") && error.contains("event file"), "{error}");
}
