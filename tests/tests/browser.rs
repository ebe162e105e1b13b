//! The built page in headless Chromium, driven as a person would.
//!
//! `scripts/test` builds the page and names its folder in `HYDRA_PAGE`. Without that variable there is nothing to look
//! at, and the tests are skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails loudly, its helpers too")]

mod support;

use std::path::Path;

use hydra_tests::named_by;
use serde_json::json;
use support::page::{Page, on_the_page, on_the_page_at, on_the_page_without};

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../static/samples");

fn sample(file: &str) -> Vec<u8> {
    std::fs::read(Path::new(SAMPLES).join(file)).unwrap()
}

#[test]
fn the_first_view_stands_before_any_program_has_arrived() {
    on_the_page_without([".wasm"], async |page| {
        assert!(page.text("#app").await.contains("Gradient norm by layer"));
        let circles = page.js("return document.querySelectorAll('#app svg.light circle').length", vec![]).await;
        assert_eq!(circles, 24, "one for each layer of the sample");
    });
}

#[test]
fn a_part_that_cannot_be_loaded_is_told_of_and_the_rest_of_the_page_goes_on() {
    on_the_page_without(["-split_search.wasm", "-split_files.wasm"], async |page| {
        page.until_count("html[data-ready]", 1).await;
        page.click("#tab-search").await;
        page.until_text("main [role=alert]", "could not be loaded").await;
        page.click_text("main button", "Try again").await;
        page.until_text("main [role=alert]", "could not be loaded").await;
        page.click("#tab-analyse").await;
        page.until_count("#schedule rect[data-module]", 168).await;
        page.drop_files(&[("grad-norms.jsonl.gz", &sample("grad-norms.jsonl.gz"))]).await;
        page.until_text(".notices", "could not be loaded").await;
        assert_eq!(page.count(".progress").await, 0, "nothing is being read");
    });
}

#[test]
fn the_page_loads_without_errors_and_shows_the_sample_its_schedule_and_its_budget() {
    on_the_page(async |page| {
        assert_eq!(page.text("h1").await, "HyDRA");
        assert!(page.text("#source-name").await.contains("MobileVLM-like"));
        page.until_text("#budget-text", "of 121,110,528 parameters").await;
        assert_eq!(page.count("#schedule rect[data-module]").await, 168);
        assert_eq!(page.count("#gradient-norms circle[data-layer]").await, 24);
        page.until_text("#stage-quality svg", "stages").await;
        page.until_text("#command", "trainer plan --gradients grads.jsonl --model mobilevlm-1.7b").await;
    });
}

#[test]
fn once_it_is_loaded_the_page_asks_the_network_for_nothing() {
    on_the_page(async |page| {
        // The service worker fills its cache after the page has loaded.
        page.settle().await;
        let before = page.requests_so_far();
        page.set("#delta", "5").await;
        page.set("#stages", "4").await;
        page.choose("#preset", "exponential").await;
        page.choose("#preset", "hydra").await;
        page.click("#schedule rect[data-module='80']").await;
        page.choose("#theme", "dark").await;
        page.wait(600).await;
        // Parts of the program that are loaded on use were kept with the page.
        assert!(page.exported("adapter_config.json").await.contains("rank_pattern"));
        assert!(page.link().await.contains("delta=5"));
        assert_eq!(page.requests_so_far(), before);
    });
}

#[test]
fn every_sample_is_one_click_away() {
    on_the_page(async |page| {
        for (name, layers) in [("SmolLM2-135M log", 30), ("Tiny MobileVLM log", 6), ("MobileVLM-like profile", 24)] {
            page.click_text("button", name).await;
            page.until_text("#source-name", name).await;
            page.until_count("#schedule rect[data-module]", 7 * layers).await;
        }
    });
}

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

/// A file of `tests/data`.
fn data(file: &str) -> Vec<u8> {
    std::fs::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/data")).join(file)).unwrap()
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
    assert_eq!(logs.len(), 11);
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

/// A file of weights that are all 0.
fn safetensors(tensors: &[(String, [usize; 2])]) -> Vec<u8> {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 4 * shape[0] * shape[1];
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = serde_json::Value::from(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), &vec![0; end]].concat()
}

#[test]
fn weights_say_what_a_model_or_an_adapter_is_that_no_configuration_is_known_of() {
    let modules = [("self_attn.qkv_proj", 4, 64, 192), ("mlp.gate_up_proj", 8, 64, 512)];
    let each = || (0..3).flat_map(|layer| modules.map(|(path, ..)| format!("model.layers.{layer}.{path}")));
    let shapes = || (0..3).flat_map(|_| modules);
    let adapter: Vec<_> = each()
        .zip(shapes())
        .flat_map(|(name, (_, rank, d_in, d_out))| {
            let tensor = |part: &str, shape| (format!("base_model.model.{name}.{part}.weight"), shape);
            [tensor("lora_A", [rank, d_in]), tensor("lora_B", [d_out, rank])]
        })
        .collect();
    let model: Vec<_> =
        each().zip(shapes()).map(|(name, (_, _, d_in, d_out))| (format!("{name}.weight"), [d_out, d_in])).collect();
    on_the_page(async |page| {
        let weights = safetensors(&adapter);
        page.drop_files(&[("adapter_model.safetensors", &weights)]).await;
        page.until_text("#report", "ranks of 6 modules").await;
        page.until_text(".notices", "drop adapter_config.json with them").await;
        page.until_count("#schedule rect[data-module]", 6).await;
        page.until_text("#budget-text", "16,896").await;

        // With the configuration beside them, its scale and dropout, too.
        let config = r#"{"peft_type":"LORA","base_model_name_or_path":"acme/foreign","r":4,"lora_alpha":12,
            "rank_pattern":{"gate_up_proj":8},"alpha_pattern":{"gate_up_proj":24},"lora_dropout":0.1,
            "target_modules":["qkv_proj","gate_up_proj"]}"#;
        page.drop_files(&[("adapter_config.json", config.as_bytes()), ("adapter_model.safetensors", &weights)]).await;
        page.until_text("#report", "weights: their shapes were read").await;
        let peft: serde_json::Value = serde_json::from_str(&page.exported("adapter_config.json").await).unwrap();
        assert_eq!(peft["target_modules"].as_array().unwrap().len(), 6);
        assert_eq!((&peft["lora_dropout"], &peft["base_model_name_or_path"]), (&json!(0.1), &json!("acme/foreign")));
        let scale = |module: &str| {
            let own = |pattern: &str, all: &str| peft[pattern].get(module).unwrap_or(&peft[all]).as_f64().unwrap();
            own("alpha_pattern", "lora_alpha") / own("rank_pattern", "r")
        };
        assert!(each().all(|module| scale(&module) == 3.0), "{peft}");

        // A checkpoint of which nothing else is known, and a log of its training.
        let log: String = (1..=4)
            .map(|step| {
                let norm = |(at, name): (usize, String)| {
                    ["A", "B"].map(|part| format!("\"{name}.lora_{part}.default.weight\":{}", 1 + at)).join(",")
                };
                let norms: Vec<String> = each().enumerate().map(norm).collect();
                format!("{{\"step\":{step},{}}}\n", norms.join(","))
            })
            .collect();
        let whole = safetensors(&model);
        page.drop_files(&[("mine.jsonl", log.as_bytes()), ("model.safetensors", &whole)]).await;
        page.until_text("#source-name", "mine.jsonl").await;
        page.until_text("#report", "model configuration: 3 layers").await;
        page.until_count("#schedule rect[data-module]", 6).await;
        // An adapter with the log of its run, of a model of which nothing else was dropped.
        page.click_text("button", "MobileVLM-like profile").await;
        page.drop_files(&[
            ("run.jsonl", log.as_bytes()),
            ("adapter_config.json", config.as_bytes()),
            ("adapter_model.safetensors", &weights),
        ])
        .await;
        page.until_text("#source-name", "run.jsonl").await;
        page.until_text("#report", "ranks of 6 modules").await;
        page.until_text("#budget-text", "16,896").await;
        // One file of several, and one that ends early, change nothing.
        page.drop_files(&[("model-00001-of-00002.safetensors", &whole)]).await;
        page.until_text("#report .problem", "one of 2 files").await;
        page.drop_files(&[("model.safetensors", &whole[..40])]).await;
        page.until_text("#report .problem", "it ends within its header").await;
        assert_eq!(page.count("#schedule rect[data-module]").await, 6);
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
fn every_control_changes_the_schedule_and_the_link_leads_back_to_it() {
    on_the_page(async |page| {
        page.click_text("summary", "Signal, budget, scale, seed").await;
        type Act = (&'static str, &'static str, &'static str);
        let acts: [Act; 14] = [
            ("#base-rank", "64", "r=64"),
            ("#stages", "4", "stages=4"),
            ("#ratio", "1.5", "ratio=1.5"),
            ("#delta", "6", "delta=6"),
            ("#contiguous", "on", "contiguous=1"),
            ("#seed", "9", "seed=9"),
            ("#signal", "rms", "signal=rms"),
            ("#layer-norm", "root-sum-squares", "norm=root-sum-squares"),
            ("#budget", "50000000", "budget=50000000"),
            ("#counting", "rank-units", "count=rank-units"),
            ("#cap", "300", "cap=300"),
            ("#scale", "rslora", "scale=rslora"),
            ("#scale-number", "77", "rslora%3A77"),
            ("#signs-by", "hand", "signs="),
        ];
        for (control, value, key) in acts {
            if value == "on" {
                page.click(control).await;
            } else {
                page.set(control, value).await;
            }
            page.until_link(key).await;
        }
        // Rank units are far fewer: the budget in parameters would leave everything at its cap.
        page.set("#budget", "20000").await;
        page.choose("#stage-ranks-by", "hand").await;
        page.set("#stage-ranks", "16, 32, 64, 128").await;
        page.until_link("ranks=16%2C32%2C64%2C128").await;
        page.click("#schedule rect[data-module='33']").await;
        page.set("#cell-rank", "99").await;
        page.until_link("hand=33%3A99").await;
        page.click_text("button", "Rebalance").await;
        page.until_link("rebalance=1").await;
        page.click_text("button", "Pin this schedule as A").await;
        page.until_link("pinned=").await;
        let (link, seen) = (page.link().await, page.seen().await);
        page.reload().await;
        assert_eq!(page.seen().await, seen);
        page.wait(400).await;
        assert_eq!(page.link().await, link);
    });
}

#[test]
fn a_link_with_bad_values_opens_with_a_notice_for_each() {
    on_the_page_at("#v=1&sample=smollm2&r=99999&delta=x&colour=red", &[], async |page| {
        page.until_text("#source-name", "SmolLM2").await;
        let notices = page.text(".notices").await;
        for part in ["r=99999", "1024 is used", "delta=x", "colour"] {
            assert!(notices.contains(part), "{part}: {notices}");
        }
    });
}

#[test]
fn a_cell_shows_its_arithmetic_by_mouse_and_by_keyboard() {
    on_the_page(async |page| {
        page.click("#schedule rect[data-module='161']").await;
        page.until_text("#arithmetic", "model.layers.23.self_attn.q_proj").await;
        let steps = page.text("#arithmetic").await;
        for part in
            ["Norm", "Layer norm", "Stage", "3 of 3", "Coarse rank", "is below the mean", "2,048", "of the budget"]
        {
            assert!(steps.contains(part), "{part}: {steps}");
        }
        page.focus(".cells").await;
        page.press("ArrowLeft").await;
        page.until_text("#arithmetic", "model.layers.22.self_attn.q_proj").await;
        page.press("ArrowDown").await;
        page.until_text("#arithmetic", "model.layers.22.self_attn.k_proj").await;
        page.press("Escape").await;
        page.until_text("#arithmetic", "No cell is selected").await;
    });
}

#[test]
fn ranks_set_by_hand_break_the_budget_and_one_click_mends_it() {
    on_the_page(async |page| {
        page.click("#schedule rect[data-module='0']").await;
        page.set("#cell-rank", "2000").await;
        page.until_text("#budget-text", "over the budget").await;
        page.click_text("button", "Rebalance").await;
        page.until_text("#budget-text", "left").await;
        assert!(page.text("#arithmetic").await.contains("2000 by hand"));
        page.click_text("button", "Forget ranks set by hand").await;
        page.until_text("#budget-text", "121,110,016 of").await;
    });
}

#[test]
fn k_means_can_be_played_stepped_and_scrubbed() {
    on_the_page(async |page| {
        page.set("#moment", "0").await;
        page.until_text("#k-means .caption", "drawn by K-means++").await;
        page.click("#k-means button[aria-label='One step on']").await;
        page.until_text("#k-means .caption", "goes to the mean of its layers").await;
        page.click_text("#k-means button", "Play").await;
        page.until_text("#k-means .caption", "nothing moves any more").await;
    });
}

#[test]
fn a_layer_under_the_pointer_is_marked_in_every_view() {
    on_the_page(async |page| {
        page.hover("#gradient-norms circle[data-layer='7']").await;
        page.until_count("#schedule rect.hovered", 7).await;
        assert_eq!(page.count("#k-means circle.hovered").await, 1);
        page.until_text(".tip", "Layer 7, stage").await;
        page.hover("#schedule rect[data-module='80']").await;
        page.until_text(".tip", "Layer 11, o: rank").await;
    });
}

#[test]
fn what_is_exported_can_be_dropped_back_in_and_gives_the_same_state() {
    on_the_page(async |page| {
        page.click_text("button", "SmolLM2-135M log").await;
        page.set("#delta", "4").await;
        page.click("#schedule rect[data-module='12']").await;
        page.set("#cell-rank", "40").await;
        page.click_text("button", "Rebalance").await;
        page.wait(500).await;
        let (link, seen) = (page.link().await, page.seen().await);
        let files = ["schedule.json", "plan.toml", "axolotl.yml", "lora_config.py", "adapter_config.json", "ranks.csv"];
        for file in files {
            let text = page.exported(file).await;
            page.click_text("button", "MobileVLM-like profile").await;
            page.until_count("#schedule rect[data-module]", 168).await;
            page.drop_files(&[(file, text.as_bytes())]).await;
            page.until_count("#schedule rect[data-module]", 210).await;
            if ["adapter_config.json", "ranks.csv"].contains(&file) {
                // They hold ranks alone, from which model and budget follow.
                page.until_text("#report", "set by hand").await;
                assert_eq!(page.seen().await["ranks"], seen["ranks"], "{file}");
                assert_eq!(page.value("#base-rank").await, "16", "{file}");
            } else {
                page.until_text("#report", "its session was restored").await;
                page.wait(500).await;
                assert_eq!(page.link().await, link, "{file}");
                assert_eq!(page.seen().await, seen, "{file}");
            }
        }
    });
}

#[test]
fn two_schedules_can_be_compared() {
    on_the_page(async |page| {
        page.choose("#pin-preset", "uniform").await;
        page.until_text("#compare-budgets", "A, uniform: 121,110,528 parameters").await;
        page.until_count("#difference rect[data-module]", 168).await;
        page.choose("#preset", "uniform").await;
        page.until_text("#compare-budgets", "B − A: +0").await;
        page.click_text("button", "Unpin").await;
        page.until_count("#difference", 0).await;
    });
}

#[test]
fn every_chart_has_its_table() {
    on_the_page(async |page| {
        for (figure, rows) in
            [("#gradient-norms", 24), ("#schedule", 24), ("#parameters-by-projection", 7), ("#k-means", 24)]
        {
            page.click(&format!("{figure} summary")).await;
            page.until_count(&format!("{figure} tbody tr"), rows).await;
        }
    });
}

/// The configuration of a model of three layers.
fn other_config() -> String {
    json!({
        "model_type": "llama", "hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 3,
        "num_attention_heads": 4, "vocab_size": 100, "rms_norm_eps": 1e-6,
    })
    .to_string()
}

#[test]
fn a_file_that_does_not_fit_changes_nothing_and_what_was_done_can_be_taken_back() {
    on_the_page(async |page| {
        // The rank of an own run is asked for, and not carried over from the sample.
        let log = sample("grad-norms.jsonl.gz");
        page.drop_files(&[("mine.jsonl.gz", &log)]).await;
        page.until_text("#asked-rank", "r = 16 stands for it").await;
        page.set("#run-rank", "12").await;
        page.until_link("r=12").await;
        page.until_count("#asked-rank", 0).await;
        page.set("#delta", "4").await;
        page.until_link("delta=4").await;
        let (link, seen) = (page.link().await, page.seen().await);

        // Values that cannot be are refused at the field.
        for value in ["-3", "1000000000", "1.5", ""] {
            page.set("#base-rank", value).await;
            page.until_count("#base-rank[aria-invalid=true]", 1).await;
            assert!(page.text("#base-rank-problem").await.contains("a whole number from 1 to 1024"), "{value}");
        }
        page.set("#base-rank", "12").await;
        page.until_count("#base-rank[aria-invalid=true]", 0).await;

        // Files of other models.
        let config = other_config();
        page.drop_files(&[("config.json", config.as_bytes())]).await;
        page.until_text(".notices", "nothing was changed").await;
        page.wait(400).await;
        assert_eq!(
            (page.link().await, page.seen().await),
            (link.clone(), seen.clone()),
            "config.json of another model"
        );
        let adapter =
            r#"{"peft_type":"LORA","r":4,"target_modules":["q_proj"],"rank_pattern":{"layers.77.self_attn.q_proj":8}}"#;
        page.drop_files(&[("adapter_config.json", adapter.as_bytes())]).await;
        page.until_text("#report .problem", "layers.77.self_attn.q_proj").await;
        assert_eq!(page.count(".notices li").await, 0, "what was told of a file goes with it");
        page.wait(400).await;
        assert_eq!((page.link().await, page.seen().await), (link.clone(), seen.clone()), "adapter of another model");
        let right = sample("smollm2-config.json");
        page.drop_files(&[("config.json", &right)]).await;
        page.until_text("#report", "model configuration: 30 layers").await;
        page.wait(600).await;
        let right = page.seen().await;
        assert_eq!(
            (&right["ranks"], &right["budget"]),
            (&seen["ranks"], &seen["budget"]),
            "a right file after wrong ones"
        );
        let seen = right;

        // A configuration of this model is what it says.
        let adapter =
            r#"{"peft_type":"LORA","r":8,"lora_alpha":16,"lora_dropout":0.05,"target_modules":["q_proj","v_proj"]}"#;
        page.drop_files(&[("adapter_config.json", adapter.as_bytes())]).await;
        page.until_count("#schedule rect[data-module]", 60).await;
        page.until_text("#budget-text", " 0 left").await;
        assert_eq!(page.value("#base-rank").await, "8");
        assert_eq!(page.count(".budget button.primary").await, 0, "there is nothing to rebalance");
        let peft: serde_json::Value = serde_json::from_str(&page.exported("adapter_config.json").await).unwrap();
        assert_eq!((peft["target_modules"].as_array().unwrap().len(), &peft["r"]), (60, &json!(8)));
        assert_eq!((&peft["lora_alpha"], &peft["lora_dropout"]), (&json!(16), &json!(0.05)));
        page.wait(600).await;
        page.click_text("button", "Plan these modules instead").await;
        page.until_count(".budget button", 0).await;

        // Back to before the adapter, and again.
        page.wait(600).await;
        page.focus("#main").await;
        page.press_control('z', false).await;
        page.until_text("#budget-text", " 0 left").await;
        page.press_control('z', false).await;
        page.until_count("#schedule rect[data-module]", 210).await;
        page.wait(400).await;
        assert_eq!(page.seen().await, seen);
        page.press_control('z', true).await;
        page.until_count("#schedule rect[data-module]", 60).await;
        page.click("#undo").await;
        page.until_count("#schedule rect[data-module]", 210).await;
        // From another view, it is seen where it was changed.
        page.press_control('z', true).await;
        page.until_count("#schedule rect[data-module]", 60).await;
        page.click("#tab-train").await;
        page.until_count("#train-steps", 1).await;
        page.press_control('z', false).await;
        page.until_count("#tab-analyse[aria-current=page]", 1).await;
        page.until_count("#schedule rect[data-module]", 210).await;

        // With its adapter's configuration beside it a log asks nothing, and shows the LoRA of today beside the plan.
        page.drop_files(&[("other.jsonl.gz", &log), ("adapter_config.json", adapter.as_bytes())]).await;
        page.until_text("#report", "the LoRA of today").await;
        page.until_text("#compare-budgets", "A, adapter_config.json").await;
        assert_eq!((page.count("#asked-rank").await, page.value("#base-rank").await), (0, "8".to_owned()));
    });
}

/// Scrolls a control to the lower edge: the picture that it changes has to be in sight above it.
async fn assert_seen_together(page: &Page<'_>, control: &str, picture: &str) {
    page.js("document.querySelector(arguments[0]).scrollIntoView({block: 'end'})", vec![json!(control)]).await;
    page.wait(100).await;
    let edges = "const of = css => document.querySelector(css).getBoundingClientRect(); \
                 const picture = of(arguments[1]); return [picture.top, picture.bottom, of(arguments[0]).top]";
    let edges = page.js(edges, vec![json!(control), json!(picture)]).await;
    let edges: Vec<f64> = edges.as_array().unwrap().iter().filter_map(serde_json::Value::as_f64).collect();
    assert!(edges[0] >= 0.0 && edges[1] <= edges[2], "{control}: {edges:?}");
}

#[test]
fn the_first_screen_says_what_to_do_and_shows_a_picture_wide_and_narrow() {
    on_the_page(async |page| {
        let bottom = "return document.querySelector(arguments[0]).getBoundingClientRect().bottom";
        for (width, height) in [(1440, 900), (390, 844)] {
            page.resize(width, height).await;
            let inner = page.js("return innerHeight", vec![]).await.as_f64().unwrap();
            assert!(page.text("#start").await.contains("Drop the gradient log of your LoRA run"));
            for seen in ["#start", "#open-files", "#budget-text"] {
                assert!(page.js(bottom, vec![json!(seen)]).await.as_f64().unwrap() < inner, "{seen} at {width}");
            }
            let middle = "const r = document.querySelector('#gradient-norms svg').getBoundingClientRect(); return (r.top + r.bottom) / 2";
            assert!(page.js(middle, vec![]).await.as_f64().unwrap() < inner, "the picture at {width}");
        }
        for control in ["#ratio", "#preset"] {
            assert_seen_together(page, control, "#schedule svg").await;
        }
        page.resize(1280, 1000).await;
        // The logger is there to be read, copied and taken.
        page.click_text("summary", "No log yet? These lines in your training script write one").await;
        page.click("[data-act=show-logger]").await;
        page.until_text("#logger-text", "class HydraCallback").await;
        let got =
            "const done = arguments[0]; fetch(document.querySelector('#start a').href).then(r => r.text()).then(done)";
        let logger =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/hydra_grad_logger.py")).unwrap();
        assert_eq!(page.js_async(got).await, json!(logger));

        // Every choice explains itself to who points at it and to who focuses it.
        page.focus("#base-rank").await;
        page.until_text(".tip.shown", "The r of your LoRA today").await;
        page.hover("#ratio").await;
        page.until_text(".tip.shown", "Every stage has this many times the rank").await;
        page.focus("#delta").await;
        page.until_text(".tip.shown", "One step more changes ").await;
        let silent = "return [...document.querySelectorAll('.controls input, .controls select')].filter(e => !e.closest('[data-tip]') && \
                      !e.closest('.signs')).map(e => e.id)";
        assert_eq!(page.js(silent, vec![]).await, json!([]));

        // An own log needs no invitation, and is kept in this browser.
        page.drop_files(&[("mine.jsonl.gz", &sample("grad-norms.jsonl.gz"))]).await;
        page.until_text("#source-name", "mine.jsonl.gz").await;
        assert!(!page.is_seen("#start").await);
        page.set("#delta", "7").await;
        page.until_link("delta=7").await;
        // Another run's log may have the same name.
        page.drop_files(&[("mine.jsonl.gz", &sample("tiny-mobilevlm.jsonl.gz"))]).await;
        page.until_count("#schedule rect[data-module]", 42).await;
        assert_eq!(page.value("#base-rank").await, "4");
        page.set("#delta", "3").await;
        page.until_link("delta=3").await;
        page.click_text("button", "MobileVLM-like profile").await;
        page.until_link("sample=mobilevlm").await;
        page.reload().await;
        page.until_count("#recent button", 3).await;
        assert!(page.text("#recent").await.contains("mine.jsonl.gz, "), "twins have their time beside them");
        page.click("#recent button:nth-of-type(2)").await;
        page.until_text("#source-name", "mine.jsonl.gz").await;
        page.until_count("#schedule rect[data-module]", 210).await;
        assert_eq!(page.value("#delta").await, "7");
        page.click_text("#recent button", "Forget them").await;
        page.until_count("#recent", 0).await;
    });
}

#[test]
fn keys_are_told_and_a_tour_of_five_steps_can_be_linked_and_left() {
    on_the_page_at("#v=1&sample=mobilevlm&r=128&stages=3&ratio=2&delta=2&tour=2&hide=controls", &[], async |page| {
        page.until_text("#tour-step", "2 of 5").await;
        page.until_text(".tour", "K-means groups layers").await;
        page.until_count("#k-means.toured", 1).await;
        assert!(!page.is_seen(".controls").await, "hidden for a lecture");
        for step in 3..=5 {
            page.click_text(".tour button", "Next").await;
            page.until_text("#tour-step", &format!("{step} of 5")).await;
            page.until_link(&format!("tour={step}")).await;
        }
        assert!(page.link().await.contains("hide=controls"));
        page.click_text(".tour button", "Finish").await;
        page.until_count(".tour", 0).await;
        assert_eq!(page.count(".toured").await, 0);
        page.press("?").await;
        page.until_count("dialog[open]", 1).await;
        let help = page.text("dialog[open]").await;
        for part in ["Ctrl Z", "Space", "arrows", "Base rank", "Fine step"] {
            assert!(help.contains(part), "{part}: {help}");
        }
        page.press("Escape").await;
        page.until_count("dialog[open]", 0).await;
        // Every choice leads to what is said of it at more length.
        page.click("[data-act='help ratio']").await;
        page.until_count("dialog[open]", 1).await;
        let said = page.js("return document.activeElement.textContent", vec![]).await;
        assert!(said.as_str().unwrap().starts_with("From one stage to the next"), "{said}");
        page.press("Escape").await;
        for (view, choice) in [("train", "#train-steps"), ("search", "#search-rule"), ("analyse", "#ratio")] {
            page.click(&format!("#tab-{view}")).await;
            page.until_count(choice, 1).await;
            let missing = page
                .js(
                    "return [...document.querySelectorAll('.more')].map(b => b.dataset.act.split(' ')[1]) \
                     .filter(id => !document.querySelector(`#help [data-for~='${id}']`))",
                    vec![],
                )
                .await;
            assert_eq!(missing, json!([]), "{view}");
            assert!(page.count(".controls .more").await > 5, "{view}");
        }
        page.press("2").await;
        page.until_count("#tab-search[aria-current=page]", 1).await;
    });
}

#[test]
fn a_worker_that_cannot_be_loaded_is_told_of_and_tried_again() {
    let missing = ["ingest-worker_bg.wasm", "performance-worker.js", "training-worker_loader.js"];
    on_the_page_without(missing, async |page| {
        page.until_count("html[data-ready]", 1).await;
        page.drop_files(&[("grad-norms.jsonl.gz", &sample("grad-norms.jsonl.gz"))]).await;
        page.until_text(".notices", "The files could not be read").await;
        assert_eq!(page.count(".progress").await, 0);
        page.click_text(".notices button", "Try again").await;
        page.until_text(".notices", "The files could not be read").await;
        page.click("#tab-search").await;
        page.until_count("#search-again", 1).await;
        assert_eq!(page.count("main [aria-busy=true]").await, 0);
        page.click("#search-again").await;
        page.until_count("#search-again", 1).await;
        page.click("#tab-train").await;
        page.until_text("#train-failed", "could not be loaded").await;
        assert_eq!(page.count("#train-busy").await, 0);
        page.click("#train-again").await;
        page.until_text("#train-failed", "could not be loaded").await;
    });
}

#[test]
fn names_from_files_stay_text() {
    on_the_page(async |page| {
        let hostile = "<img src=x onerror=alert(1)>";
        let log = format!(
            "{{\"hydra_grads\":1,\"model\":\"{hostile}\"}}\n{{\"step\":1,\"grads\":{{\"{hostile}\":{{\"A\":1,\"B\":1}}}}}}\n"
        );
        page.drop_files(&[(hostile, log.as_bytes())]).await;
        page.until_text("#report", hostile).await;
        assert_eq!(page.count("img").await, 0);
    });
}

#[test]
fn hostile_files_are_refused_with_a_reason_and_the_page_goes_on() {
    on_the_page(async |page| {
        let zeros = vec![0_u8; 4 << 20];
        let long_line = format!("{{\"step\":1,\"x\":\"{}\"}}", "a".repeat(9 << 20));
        let deep = format!("{{\"model_type\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
        let cases: [(&str, &[u8]); 6] = [
            ("zeros.bin", &zeros),
            ("long.jsonl", long_line.as_bytes()),
            ("deep.json", deep.as_bytes()),
            ("empty.jsonl", b""),
            ("cut.gz", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3]),
            ("archive.zip", b"PK\x03\x04rest"),
        ];
        for (name, bytes) in cases {
            page.drop_files(&[(name, bytes)]).await;
            page.until_text("#report .problem", name).await;
        }
        page.until_count("#schedule rect[data-module]", 168).await;
        page.set("#delta", "3").await;
        page.until_link("delta=3").await;
    });
}

#[test]
fn the_theme_can_be_chosen_and_is_in_the_link() {
    on_the_page(async |page| {
        let background = "return getComputedStyle(document.body).backgroundColor";
        page.choose("#theme", "dark").await;
        page.until_link("theme=dark").await;
        assert_eq!(page.js(background, vec![]).await, "rgb(20, 23, 27)");
        page.reload().await;
        assert_eq!(page.js(background, vec![]).await, "rgb(20, 23, 27)");
        page.choose("#theme", "light").await;
        page.until_link("theme=light").await;
        assert_eq!(page.js(background, vec![]).await, "rgb(255, 255, 255)");
    });
}

#[test]
fn no_view_is_wider_than_a_narrow_telephone_nor_hides_the_picture_that_a_control_changes() {
    on_the_page(async |page| {
        page.resize(360, 800).await;
        page.choose("#pin-preset", "uniform").await;
        let views = [
            ("analyse", "Difference", "#preset", "#schedule svg"),
            ("search", "the last answer took", "#search-trials", "#search-history svg"),
            ("train", "Answers about pictures", "#train-steps", "#training-loss svg"),
        ];
        for (view, shown, control, picture) in views {
            page.click(&format!("#tab-{view}")).await;
            page.until_text_for("main", shown, 120).await;
            let widths = "return [document.documentElement.scrollWidth, window.innerWidth]";
            let widths = page.js(widths, vec![]).await;
            assert!(widths[0].as_f64() <= widths[1].as_f64(), "{view}: content and window are {widths} pixels wide");
            assert_seen_together(page, control, picture).await;
        }
    });
}

#[test]
fn the_keyboard_reaches_every_control_in_the_order_in_which_they_stand() {
    on_the_page(async |page| {
        let mut reached = Vec::new();
        for _ in 0..60 {
            page.press("Tab").await;
            let name = "const e = document.activeElement; return e.id || (e.tagName === 'BUTTON' && e.textContent.slice(0, 20)) || e.className";
            reached.push(page.js(name, vec![]).await.as_str().unwrap_or_default().to_owned());
        }
        let at =
            |name: &str| reached.iter().position(|r| r.contains(name)).unwrap_or_else(|| panic!("{name}: {reached:?}"));
        let order =
            ["skip", "tab-analyse", "theme", "open-files", "base-rank", "stages", "ratio", "delta", "preset", "cells"];
        let places: Vec<usize> = order.iter().map(|name| at(name)).collect();
        assert!(places.is_sorted(), "{reached:?}");
    });
}

#[test]
fn the_page_is_accessible_by_the_rules_of_axe_in_every_view_and_theme() {
    let Some(axe) = named_by("HYDRA_AXE", "axe.min.js of axe-core") else { return };
    let axe = std::fs::read_to_string(axe).unwrap();
    on_the_page(async |page| {
        page.js(&axe, vec![]).await;
        for theme in ["light", "dark"] {
            page.choose("#theme", theme).await;
            for view in ["analyse", "search", "train"] {
                page.click(&format!("#tab-{view}")).await;
                page.wait(700).await;
                let found = page.js_async(
                    "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(r => done(r.violations.map(\
                     v => v.id + ': ' + v.help + ' ' + v.nodes.slice(0, 3).map(n => n.html.slice(0, 160) + ' // ' + \
                     n.failureSummary).join(' | '))))",
                ).await;
                assert_eq!(found, json!([]), "{theme}, {view}");
            }
        }
    });
}

#[test]
fn a_model_of_200_layers_is_shown_and_its_repaint_is_measured() {
    on_the_page(async |page| {
        let config = json!({
            "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 200,
            "num_attention_heads": 32, "vocab_size": 32000, "rms_norm_eps": 1e-6,
        });
        let mut log = "{\"hydra_grads\":1,\"lora\":{\"r\":16}}\n".to_owned();
        let projections =
            ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"];
        for step in 1..=5 {
            let grads: Vec<String> = (0..200)
                .flat_map(|layer| {
                    projections.iter().enumerate().map(move |(p, name)| {
                        let b = 0.01 * (1.0 + layer as f64 * 0.02 + p as f64 * 0.3 + f64::from(step) * 0.01);
                        format!("\"model.layers.{layer}.{name}_proj\":{{\"A\":0.001,\"B\":{b}}}")
                    })
                })
                .collect();
            log += &format!("{{\"step\":{step},\"grads\":{{{}}}}}\n", grads.join(","));
        }
        page.drop_files(&[("config.json", config.to_string().as_bytes()), ("big.jsonl", log.as_bytes())]).await;
        page.until_count("#schedule rect[data-module]", 1400).await;
        let times = page.js_async(REPAINT).await;
        let paint =
            "return performance.getEntriesByName('first-contentful-paint').map(e => Math.round(e.startTime))[0]";
        println!("milliseconds to the first contentful paint: {}", page.js(paint, vec![]).await);
        println!("200 layers × 7 projections: milliseconds from an input to the next frame: {times}");
    });
}

/// Moves the slider of Δd and measures, for each move, the script's part and the time until the frame after it.
const REPAINT: &str = "
const done = arguments[0];
const slider = document.querySelector('#delta');
const script = [], frame = [];
const frames = () => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)));
(async () => {
  for (let i = 0; i < 15; i++) {
    await frames();
    slider.value = String(i % 2 === 0 ? 6 : 3);
    const start = performance.now();
    slider.dispatchEvent(new Event('input', { bubbles: true }));
    await new Promise(r => setTimeout(r, 0));
    script.push(performance.now() - start);
    await new Promise(r => requestAnimationFrame(r));
    frame.push(performance.now() - start);
  }
  const median = list => list.slice().sort((a, b) => a - b)[list.length >> 1];
  done({ script: median(script), frame: median(frame) });
})();
";

#[test]
fn a_search_on_a_known_surface_runs_step_by_step_and_through() {
    on_the_page(async |page| {
        page.click_text("button", "Tiny MobileVLM log").await;
        page.click("#tab-search").await;
        page.until_count("#search-rule", 1).await;
        // Choices of a search are taken back like any other.
        page.choose("#search-rule", "expected-improvement").await;
        page.click("#undo").await;
        page.until_value("#search-rule", "predicted-mean").await;
        page.until_text("main", "trials; the last answer took").await;
        page.click_text("button", "Step").await;
        page.until_text("main", "9 trials; the last answer took").await;
        page.until_count("main [aria-busy='false']", 2).await;
        // The button that was clicked leaves its keys to the view.
        page.press(".").await;
        page.until_text("main", "10 trials; the last answer took").await;
        page.set("#search-speed", "0").await;
        page.click_text("button", "Play").await;
        page.until_text("main", "16 trials").await;
        page.until_count("#predicted-measured svg circle", page.count("#predicted-measured svg circle").await.max(1))
            .await;
        page.until_text("#leave-one-out svg", "Ridge").await;
    });
}

#[test]
fn a_search_ends_with_a_verdict_that_goes_into_analyse_and_every_export() {
    on_the_page(async |page| {
        page.click_text("button", "Tiny MobileVLM log").await;
        page.click("#tab-search").await;
        page.until_text("main", "The scores on this page are made up").await;
        page.until_text("#verdict-title", "Recommended so far").await;
        // A model that is quick to fit.
        page.choose("#search-model", "ridge").await;
        page.set("#search-trials", "10").await;
        page.until_text("#search-status", "8 trials; the last answer took").await;
        page.set("#search-speed", "0").await;
        page.click_text("button", "Play").await;
        page.until_text("#verdict-title", "Recommended: ").await;
        let verdict = page.text("#verdict").await;
        for part in [
            "uniform LoRA",
            "HyDRA's plan",
            "recommended",
            "with a probability of",
            "Luck: trial",
            "none within the budget",
        ] {
            assert!(verdict.contains(part), "{part}: {verdict}");
        }
        assert_eq!(page.count("#verdict tr.recommended").await, 1);
        page.click("#take-best").await;
        page.until_count("#schedule rect[data-module]", 42).await;
        assert!(!page.text("#budget-text").await.contains("over"));
        assert_eq!(page.value("#base-rank").await, "4");
        assert!(page.exported("adapter_config.json").await.contains("target_modules"));
    });
}

#[test]
fn scores_of_ones_own_training_are_told_and_the_study_goes_on_from_its_file() {
    use hydra_shared::search::{Journal, TrialState};

    on_the_page(async |page| {
        page.click_text("button", "Tiny MobileVLM log").await;
        page.click("#tab-search").await;
        page.choose("#search-model", "ridge").await;
        page.click("#begin-own").await;
        page.until_text("#asked-trial", "Trial 0, seed").await;
        let peft = page.saved(async || page.click("#asked-peft").await).await;
        assert!(peft.contains("\"r\": 4"), "{peft}");
        // No number is refused where it stands.
        page.click("#tell").await;
        page.until_text("#score-problem", "Write the score as a number").await;
        for (trial, score) in ["61.5", "62.25", "60"].into_iter().enumerate() {
            page.until_text("#asked-trial", &format!("Trial {trial}, seed")).await;
            page.set("#score-0", score).await;
            page.click("#tell").await;
        }
        page.until_text("#asked-trial", "Trial 3, seed").await;
        // A file of scores fills the boxes, if it is of the same tasks.
        page.drop_files(&[("result.json", br#"{"scores": {"vqa": 61.5}, "seconds": 9}"#)]).await;
        page.until_text("#score-problem", "scores of vqa; those of this study are of score").await;
        page.until_text("#verdict-title", "Recommended so far").await;
        page.until_text("#measured", "There is something in it that was not saved").await;
        let text = page.saved(async || page.click("#save-study").await).await;
        let study = Journal::parse(text.as_bytes()).unwrap().study("hydra").unwrap().to_study().unwrap();
        let told: Vec<Option<f64>> = study.trials.iter().map(|trial| trial.objective).collect();
        assert_eq!(told, [Some(61.5), Some(62.25), Some(60.0), None]);
        assert_eq!(study.trials[3].state, TrialState::Running, "it was handed out");

        // Next week, from the file or from what the browser kept.
        page.reload().await;
        page.click("#tab-analyse").await;
        page.click("#recent-hydra-study").await;
        page.until_text("#asked-trial", "Trial 3, seed").await;
        page.until_text("#measured", "There is something in it that was not saved").await;
        assert_eq!(page.saved(async || page.click("#save-study").await).await, text);
        page.reload().await;
        page.drop_files(&[("study.journal", text.as_bytes())]).await;
        page.until_text("#asked-trial", "Trial 3, seed").await;
        page.drop_files(&[("result.json", br#"{"scores": {"score": 63.0}}"#)]).await;
        page.until_value("#score-0", "63").await;
        page.click("#tell").await;
        page.until_text("#asked-trial", "Trial 4, seed").await;
        page.until_text("#verdict", "63").await;
    });
}

#[test]
fn a_dropped_journal_opens_the_search_and_shows_what_would_be_tried_next() {
    let journal = dropped_journal();
    on_the_page(async |page| {
        page.drop_files(&[("study.journal", journal.as_bytes())]).await;
        page.until_text("main", "6 trials").await;
        page.until_text("main", "Next schedule").await;
        page.until_count("#next-against-best rect[data-module]", 42).await;
    });
}

#[test]
fn a_measured_study_is_one_click_away_and_what_is_marked_of_it_is_told_beside_the_rest() {
    on_the_page(async |page| {
        page.click("#tab-search").await;
        page.choose("#search-model", "ridge").await;
        page.click("#measured-sample").await;
        page.until_text("main", "41 trials").await;
        page.until_text("#verdict", "with 3 fresh seeds it is").await;
        page.until_text("#verdict", "(3)").await;
        page.until_text("#marked-told", "41 trials. Mark a part").await;
        let faint = "#search-history svg circle[opacity='0.15']";
        assert_eq!(page.count(faint).await, 0);
        page.click("#mark-by-sliders summary").await;
        page.set("#mark-3-to", "40").await;
        page.until_text("#marked-told", "of 41 trials are marked").await;
        let marked: u64 = page.text("#marked-told").await.split(' ').next().unwrap().parse().unwrap();
        assert!(marked > 0 && marked < 41);
        assert_eq!(page.count(faint).await, 41 - marked);
        page.click("#mark-all").await;
        page.until_text("#marked-told", "41 trials. Mark a part").await;
        // With the pointer, along the axis of the ratio.
        page.drag("#coordinates svg.picture", (0.247, 0.5), (0.247, 0.95)).await;
        page.until_text("#marked-told", "of 41 trials are marked").await;
        page.drag("#coordinates svg.picture", (0.247, 0.7), (0.247, 0.7)).await;
        page.until_text("#marked-told", "41 trials. Mark a part").await;
    });
}

/// A study of six complete trials on the tiny model, as Optuna's journal has it.
fn dropped_journal() -> String {
    use std::sync::Arc;

    use hydra_shared::schedule::{Baseline, Budget, Counting};
    use hydra_shared::search::{Journal, Origin, StudyMetadata, Timestamp, Trial, TrialState};
    use hydra_shared::vlm::spec::preset_layout;

    let layout = preset_layout("tiny-mobilevlm").unwrap();
    let metadata = StudyMetadata {
        name: "dropped".to_owned(),
        budget: Budget::uniform(&layout, 4, Counting::Parameters),
        rank_cap: None,
        base_rank: 4,
        benchmarks: vec!["score".to_owned()],
        profile: None,
        layout: Arc::clone(&layout),
    };
    let mut journal = Journal::default();
    let mut text = journal.begin_study(&metadata).unwrap();
    let flat = hydra_playground::session::unknown_profile(&layout);
    for number in 0..6 {
        let seed = number as u64;
        let baseline = if number == 0 { Baseline::Uniform } else { Baseline::RandomFeasible };
        let ranks = baseline.ranks(&layout, &flat, 4, None.into(), seed).unwrap();
        let score = 50.0 + ranks.iter().take(7).map(|(_, rank)| f64::from(rank)).sum::<f64>();
        let mut trial = Trial {
            number,
            ranks,
            state: TrialState::Running,
            scores: Default::default(),
            objective: None,
            origin: Origin::Start { name: format!("start-{number}") },
            seed,
            wall_seconds: None,
            error: None,
        };
        let at = Timestamp::from_unix_micros(1_700_000_000_000_000);
        text += &journal.begin_trial(&metadata, &trial, at).unwrap();
        trial.state = TrialState::Complete;
        trial.scores = [("score".to_owned(), score)].into_iter().collect();
        trial.objective = Some(score);
        text += &journal.end_trial(&metadata, &trial, at).unwrap();
    }
    text
}

/// The longest test of all: SwiftShader takes seconds a step.
#[test]
fn the_tiny_model_learns_on_webgpu_agrees_with_the_cpu_and_survives_the_loss_of_its_device() {
    on_the_page_at("#v=1&sample=tiny-mobilevlm&view=train", &["--enable-unsafe-webgpu"], async |page| {
        // By itself the page does not take an adapter that computes in software, which is slower than the CPU.
        page.until_text_for("#train-device-name", "No GPU", 120).await;
        assert!(page.text("#train-device-name").await.contains("software"));
        page.choose("#train-device", "gpu").await;
        page.set("#train-steps", "8").await;
        page.set("#train-batch", "2").await;
        page.click("#train-start").await;
        page.until_text_for("#train-device-name", "WebGPU on a software adapter", 120).await;
        page.until_text_for("#train-progress", "Step 0 of 8", 300).await;
        page.until_text_for("#train-pace", "ms on the CPU", 120).await;
        page.click("#train-play").await;
        // The state is kept every five steps.
        page.until_text_for("#train-progress", "Step 5 of", 600).await;
        page.until_text_for("#parity", "agrees with the CPU", 300).await;
        page.click("#lose-device").await;
        page.until_text_for("#train-events", "lost", 120).await;
        page.until_text_for("#train-progress", "Step 8 of", 600).await;
        page.click("#training-loss summary").await;
        let losses = page
            .js(
                "return [...document.querySelectorAll('#training-loss tbody tr')].map(r => Number(r.children[1].textContent))",
                vec![],
            )
            .await;
        let losses: Vec<f64> = losses.as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        assert!(losses.len() == 8 && mean(&losses[5..]) < mean(&losses[..3]), "{losses:?}");
    });
}

#[test]
fn without_webgpu_the_tiny_model_says_why_learns_on_the_cpu_and_hands_its_log_to_the_analysis() {
    on_the_page_at("#v=1&sample=tiny-mobilevlm&view=train", &[], async |page| {
        page.until_text("#train-device-name", "No GPU").await;
        page.until_text("#train-device-name", "Why:").await;
        page.until_text_for("#train-progress", "Step 0 of 60", 300).await;
        // How long it will take is said before it begins.
        page.until_text_for("#train-progress", "from the first to the last", 120).await;
        page.until_text("#train-pace", "ms on the CPU. It computes what WebGPU would").await;
        // Before the first step other choices hold at once, and can be taken back.
        page.set("#train-steps", "30").await;
        page.until_text("#train-progress", "Step 0 of 30").await;
        page.click("#undo").await;
        page.until_value("#train-steps", "60").await;
        page.set("#train-steps", "20").await;
        page.until_text("#train-progress", "Step 0 of 20; about").await;
        let asks = "const leaving = new Event('beforeunload', {cancelable: true}); dispatchEvent(leaving); return leaving.defaultPrevented";
        assert_eq!(page.js(asks, vec![]).await, json!(false), "nothing was trained yet");
        page.click("#train-play").await;
        page.until_text_for("#train-progress", "left", 120).await;
        assert_eq!(page.js(asks, vec![]).await, json!(true));
        page.until_text_for("#train-progress", "Step 20 of 20", 300).await;
        page.until_text_for("#train-verdict", "Whether a schedule is better takes many seeds", 120).await;
        page.set("#train-steps", "30").await;
        page.until_text(".controls", "they hold from the next start on").await;
        page.click("#log-to-analysis").await;
        page.click("#tab-analyse").await;
        page.until_text("#report, .session", "steps from").await;
        page.until_count("#schedule rect[data-module]", 42).await;
    });
}

/// Pictures of the main views, wide and narrow, light and dark, and the two of the README, into the folder
/// `HYDRA_SCREENSHOTS`.
#[test]
#[ignore = "scripts/screenshots runs it"]
fn screenshots() {
    let Some(folder) = std::env::var_os("HYDRA_SCREENSHOTS") else { return };
    let flags = ["--hide-scrollbars", "--force-device-scale-factor=1.5"];
    on_the_page_at("", &flags, async |page| {
        for (width, size) in [(1360, "wide"), (390, "narrow")] {
            for theme in ["light", "dark"] {
                for view in ["analyse", "search", "train"] {
                    page.click(&format!("#tab-{view}")).await;
                    page.choose("#theme", theme).await;
                    if view == "analyse" {
                        page.click("#schedule rect[data-module='145']").await;
                        page.choose("#pin-preset", "uniform").await;
                    }
                    if view == "search" {
                        page.until_text("main", "trials; the last answer took").await;
                        page.click_text("button", "Play").await;
                        page.until_text("main", "16 trials").await;
                    }
                    if view == "train" && theme == "light" && size == "wide" {
                        page.until_text_for("#train-progress", "from the first to the last", 300).await;
                        page.click("#train-play").await;
                        page.until_text_for("#train-progress", "Step 40 of", 600).await;
                        page.click("#train-play").await;
                    }
                    let file = Path::new(&folder).join(format!("{view}-{size}-{theme}.png"));
                    page.screenshot(width, &file).await;
                    if matches!((view, size, theme), ("analyse", "wide", "light") | ("search", "wide", "dark")) {
                        page.resize(1200, 1000).await;
                        page.save_window(&Path::new(&folder).join(format!("{view}.png"))).await;
                    }
                }
            }
        }
    });
}
