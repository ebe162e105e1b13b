//! Gradient logs, as people drop them.

use std::path::Path;

use serde_json::json;

use crate::support::page::on_the_page;
use crate::{SAMPLES, data, sample};

#[test]
fn every_format_can_be_dropped_and_says_what_was_found() {
    on_the_page(async |page| {
        let logs = [
            ("grad-norms.jsonl.gz", "JSON lines, gzipped, 30 rows"),
            ("lightning-metrics.csv.gz", "CSV, gzipped"),
            ("wandb-history.jsonl.gz", "W&B history, gzipped"),
        ];
        for (file, found) in logs {
            page.click_text("button", "MobileVLM-like profile").await;
            page.drop_files(&[(file, &sample(file))]).await;
            page.until_text("#source-name", file).await;
            page.until_text("#report", found).await;
            page.until_count("#schedule rect[data-module]", 210).await;
        }
        // What was left out of a log is named without unfolding anything.
        page.drop_files(&[("lightning-metrics.csv.gz", &sample("lightning-metrics.csv.gz"))]).await;
        page.until_text("#report", "CSV, gzipped").await;
        let seen = page.text("#report").await;
        assert!(seen.contains("Keys left out (1): grad_2.0_norm_total"), "{seen}");
        // A folder's event files, dropped together.
        let mut events: Vec<(String, Vec<u8>)> = std::fs::read_dir(Path::new(SAMPLES).join("tensorboard"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
            .collect();
        events.sort();
        let files: Vec<(&str, &[u8])> = events.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        page.drop_files(&files).await;
        page.until_text("#report", "TensorBoard event file").await;
        // What holds no gradients per parameter says so.
        page.drop_files(&[("trainer_state.json", &sample("trainer_state.json"))]).await;
        page.until_text("#report .problem", "trainer_state.json").await;
    });
}

#[test]
fn a_log_of_unknown_shapes_asks_for_its_configuration_and_takes_it() {
    on_the_page(async |page| {
        let log: String = (1..=4)
            .map(|step| {
                let norms: Vec<String> = (0..5)
                    .flat_map(|layer| {
                        ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"]
                            .map(|p| format!("\"grad_norm/model.layers.{layer}.{p}_proj.weight\": {}", 1 + layer))
                    })
                    .collect();
                format!("{{\"step\": {step}, {}}}\n", norms.join(", "))
            })
            .collect();
        page.drop_files(&[("mine.jsonl", log.as_bytes())]).await;
        page.until_text(".notices", "5 layers").await;
        let config = json!({
            "model_type": "llama", "hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 5,
            "num_attention_heads": 4, "vocab_size": 100, "rms_norm_eps": 1e-6,
        });
        page.drop_files(&[("mine.jsonl", log.as_bytes()), ("config.json", config.to_string().as_bytes())]).await;
        page.until_text("#source-name", "mine.jsonl").await;
        page.until_count("#schedule rect[data-module]", 35).await;
    });
}

#[test]
fn of_a_log_its_run_and_modules_are_chosen_and_a_folder_is_read_by_its_paths() {
    on_the_page(async |page| {
        // Two runs, of which none is taken in silence.
        let (config, two) = (data("gradient-logs/config.json"), data("gradient-logs/two-runs.csv.gz"));
        page.drop_files(&[("config.json", &config), ("two-runs.csv.gz", &two)]).await;
        page.until_text(".runs", "The log holds 2 runs").await;
        assert!(!page.text("#source-name").await.contains("two-runs"));
        for run in ["run-a", "run-b"] {
            page.choose("#run", run).await;
            page.until_text("#source-name", &format!("two-runs.csv.gz, run {run}")).await;
        }
        page.until_link("run=run-b").await;
        assert!(page.text("#command").await.contains("--run run-b"));

        // A vision tower that is left out until somebody wants it.
        let layers = |path: &str, layers: usize| {
            let path = path.to_owned();
            (0..layers).map(move |layer| format!("\"{path}.{layer}.self_attn.q_proj\":{{\"A\":1,\"B\":{}}}", 1 + layer))
        };
        let norms: Vec<String> =
            layers("model.layers", 6).chain(layers("model.vision_tower.encoder.layers", 4)).collect();
        let log = format!(
            "{{\"hydra_grads\":1,\"model\":\"tiny-mobilevlm\"}}\n{{\"step\":1,\"grads\":{{{}}}}}\n",
            norms.join(",")
        );
        page.drop_files(&[("tower.jsonl", log.as_bytes())]).await;
        page.until_text(".notices", "4 modules of the log are outside the planned decoder").await;
        page.until_count("#schedule rect[data-module]", 6).await;
        assert_eq!(page.count("#run").await, 0);
        page.click_text("summary", "Modules of the log").await;
        for (field, text, modules) in
            [("#include", "vision_tower", 10), ("#exclude", r"layers\.[45]\.", 8), ("#include", "", 4)]
        {
            page.set(field, text).await;
            page.until_count("#schedule rect[data-module]", modules).await;
        }
        page.until_link("exclude=layers").await;
        page.set("#include", "audio").await;
        page.until_text("#include-problem", "no module of the log or the model has that in its name").await;
        assert_eq!(page.count("#include[aria-invalid=true]").await, 1);
        assert_eq!(page.count("#exclude[aria-invalid=true]").await, 0);

        // The output head, and modules that are dropped.
        let norms: Vec<String> = layers("model.layers", 6).chain([r#""lm_head":{"A":1,"B":9}"#.to_owned()]).collect();
        let head = log.split_once("{\"step\"").unwrap().0.to_owned();
        let log = format!("{head}{{\"step\":1,\"grads\":{{{}}}}}\n", norms.join(","));
        page.drop_files(&[("head.jsonl", log.as_bytes())]).await;
        page.until_text("#source-name", "head.jsonl").await;
        page.set("#exclude", "").await;
        page.until_count("#schedule rect[data-module]", 6).await;
        page.set("#include", "lm_head").await;
        page.until_count("#schedule rect[data-module]", 7).await;
        page.click("#schedule rect[data-module='6']").await;
        page.until_text("#arithmetic", "lm_head").await;
        let patterns =
            |config: String| serde_json::from_str::<serde_json::Value>(&config).unwrap()["target_modules"].to_string();
        assert!(patterns(page.exported("adapter_config.json").await).contains("lm_head"));
        assert!(patterns(page.exported("adapter_config.json").await).contains("layers.0."));
        page.click("#schedule rect[data-module='0']").await;
        page.set("#cell-rank", "0").await;
        page.until_text("#arithmetic", "0 by hand").await;
        let dropped = patterns(page.exported("adapter_config.json").await);
        assert!(!dropped.contains("layers.0.") && dropped.contains("lm_head"), "{dropped}");
        page.set("#include", "").await;
        page.set("#exclude", r"layers\.[45]\.").await;
        page.until_count("#schedule rect[data-module]", 4).await;

        // mlflow's store, where the names stand in the paths.
        let folder = tempfile::tempdir().unwrap();
        let metrics = folder.path().join("mlruns/0/ab/metrics/grad_norm");
        std::fs::create_dir_all(&metrics).unwrap();
        for (layer, projection) in (0..6).flat_map(|layer| ["q_proj", "v_proj"].map(|name| (layer, name))) {
            let name = format!("model.layers.{layer}.self_attn.{projection}.weight");
            let lines: String = (1..=3).map(|step| format!("1700000000000 {} {step}\n", 1 + layer)).collect();
            std::fs::write(metrics.join(name), lines).unwrap();
        }
        page.drop_folder(&folder.path().join("mlruns")).await;
        page.until_text("#source-name", "mlruns").await;
        page.until_count("#schedule rect[data-module]", 8).await;
        page.until_text("#report", "mlflow metric file").await;
    });
}

#[test]
fn a_log_of_every_tracker_goes_from_drop_to_pefts_configuration_in_three_actions() {
    let mut logs: Vec<String> = std::fs::read_dir(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/data/tracker-logs")))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        // Zstandard, which polars packs with, is read natively alone.
        .filter(|name| name.ends_with(".gz") && !name.starts_with("reference") && !name.starts_with("polars"))
        .collect();
    logs.sort();
    assert_eq!(logs.len(), 12);
    on_the_page(async |page| {
        let config = data("tracker-logs/config.json");
        let mut exported: Option<String> = None;
        for log in &logs {
            let bytes = data(&format!("tracker-logs/{log}"));
            page.drop_files(&[("config.json", &config), (log, &bytes)]).await;
            page.until_text("#source-name", log).await;
            page.until_text("#asked-rank", "No file says the rank").await;
            page.set("#run-rank", "8").await;
            page.until_count("#asked-rank", 0).await;
            let peft = page.exported("adapter_config.json").await;
            assert_eq!(page.count("#schedule rect[data-module]").await, 21, "{log}");
            assert_eq!(exported.get_or_insert_with(|| peft.clone()), &peft, "{log}: all hold the same norms");
        }
        page.drop_files(&[("polars.parquet.gz", &data("tracker-logs/polars.parquet.gz"))]).await;
        page.until_text("#report .problem", "compression=\"snappy\"").await;
    });
}

#[test]
fn what_is_strange_about_a_log_is_said_where_it_is_shown() {
    on_the_page(async |page| {
        let config = data("gradient-logs/config.json");
        for (file, said) in [
            ("bare-parameter-names.jsonl.gz", "5 steps from 1 to 5"),
            ("list-of-rows.json.gz", "5 steps from 1 to 5"),
            ("numbers-as-text.jsonl.gz", "5 steps from 1 to 5"),
            ("histogram-of-zeros.jsonl.gz", "norms were estimated from histograms"),
        ] {
            page.drop_files(&[("config.json", &config), (file, &data(&format!("gradient-logs/{file}")))]).await;
            page.until_text("#source-name", file).await;
            page.until_text("main", said).await;
        }
        // Of a run that was begun again, what came before is not counted.
        let parts = ["events.out.tfevents.1700000100.h.1.0.gz", "events.out.tfevents.1700000200.h.2.0.gz"];
        let [first, second] = parts.map(|part| data(&format!("gradient-logs/tensorboard-restart/{part}")));
        page.drop_files(&[("config.json", &config), (parts[0], &first), (parts[1], &second)]).await;
        page.until_text("#report", "the run was started again at step 10: 6 steps").await;
        page.wait(400).await;
        // Norms that are all 0 are no profile: what is shown stays.
        let (link, seen) = (page.link().await, page.seen().await);
        let file = "all-zero.jsonl.gz";
        page.drop_files(&[("config.json", &config), (file, &data(&format!("gradient-logs/{file}")))]).await;
        page.until_text(".notices", "every norm after warm-up is 0: the adapters got no gradient").await;
        page.wait(400).await;
        assert_eq!((page.link().await, page.seen().await), (link, seen));
    });
}

#[test]
fn files_can_be_picked_and_text_can_be_pasted() {
    on_the_page(async |page| {
        page.pick(&Path::new(SAMPLES).join("lightning-metrics.csv.gz")).await;
        page.until_text("#source-name", "lightning-metrics.csv.gz").await;
        page.click_text("button", "Paste…").await;
        page.type_into("#paste", "{\"peft_type\": \"LORA\", \"r\": 8}").await;
        page.click_text("button", "Read it").await;
        page.until_text("#report", "r = 8 in 210 modules").await;
        page.until_text("#budget-text", "2,442,240 of 2,442,240").await;
    });
}

#[test]
fn of_files_that_are_dropped_together_those_that_were_not_read_are_named() {
    on_the_page(async |page| {
        let log = sample("grad-norms.jsonl.gz");
        let others: Vec<String> = (1..=9).map(|number| format!("notes-{number}.txt")).collect();
        let beside: Vec<(&str, &[u8])> = others.iter().map(|name| (name.as_str(), &b"nothing of use"[..])).collect();
        let mut files = vec![("mine.jsonl.gz", log.as_slice())];
        files.extend(&beside);
        page.drop_files(&files).await;
        page.until_text("#report", "more files").await;
        // As it is seen: what is folded away is no part of it.
        let seen = page.text("#report").await;
        for name in &others {
            assert!(seen.contains(name.as_str()), "{name}: {seen}");
        }
        assert!(seen.contains("notes-1.txt: not read"), "{seen}");
        assert!(
            seen.contains("mine.jsonl.gz: ") && seen.contains("keys used"),
            "what was read is not folded away: {seen}"
        );
        page.drop_files(&beside[..3]).await;
        page.until_text("#report .problem", "notes-3.txt").await;
        let seen = page.text("#report").await;
        for name in &others[..3] {
            assert!(seen.contains(name.as_str()), "{name}: {seen}");
        }
    });
}
