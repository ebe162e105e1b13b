//! Other files: the page's own, PEFT's, weights, those that do not fit, hostile ones.

use serde_json::json;

use crate::sample;
use crate::support::page::on_the_page;

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
        let given: serde_json::Value = serde_json::from_str(adapter).unwrap();
        assert_eq!(peft, given, "exported again it is the same");
        // With another rank it is a schedule's, of the same modules, scale and dropout. Changes that follow at once are one.
        page.wait(600).await;
        page.click("#schedule rect[data-module='0']").await;
        page.set("#cell-rank", "7").await;
        page.until_link("hand=0%3A7").await;
        let peft: serde_json::Value = serde_json::from_str(&page.exported("adapter_config.json").await).unwrap();
        assert_eq!((peft["target_modules"].as_array().unwrap().len(), &peft["r"]), (60, &json!(8)));
        assert_eq!((&peft["lora_alpha"], &peft["lora_dropout"]), (&json!(16), &json!(0.05)));
        page.click("#undo").await;
        page.until_text("#budget-text", " 0 left").await;
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

        // Keys open and save.
        page.focus("#main").await;
        let count = "window.asked = 0; document.querySelector('#picker').addEventListener('click', event => { \
                     event.preventDefault(); window.asked += 1; }, { once: true })";
        page.js(count, vec![]).await;
        page.press_control('o', false).await;
        assert_eq!(page.js("return window.asked", vec![]).await, json!(1));
        let saved = page.saved(async || page.press_control('s', false).await).await;
        assert!(saved.contains("rank_pattern"), "{saved}");

        // With its adapter's configuration beside it a log asks nothing, and shows the LoRA of today beside the plan.
        page.drop_files(&[("other.jsonl.gz", &log), ("adapter_config.json", adapter.as_bytes())]).await;
        page.until_text("#report", "the LoRA of today").await;
        page.until_text("#compare-budgets", "A, adapter_config.json").await;
        assert_eq!((page.count("#asked-rank").await, page.value("#base-rank").await), (0, "8".to_owned()));
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
        let given: serde_json::Value = serde_json::from_str(config).unwrap();
        assert_eq!(peft, given, "exported again it is the same");
        page.click("#schedule rect[data-module='0']").await;
        page.set("#cell-rank", "5").await;
        page.until_link("hand=0%3A5").await;
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
        page.wait(400).await;
        page.reload().await;
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
        page.drop_files(&[("model-00001-of-00002.safetensors", &safetensors(&model[..2]))]).await;
        page.until_text("#report .problem", "one of 2 files").await;
        page.drop_files(&[("model.safetensors", &whole[..40])]).await;
        page.until_text("#report .problem", "it ends within its header").await;
        page.wait(400).await;
        assert_eq!(page.count("#schedule rect[data-module]").await, 6);

        // PEFT's folder as it stands, with the projector that lies beside.
        let folder = tempfile::tempdir().unwrap();
        let adapter_folder = folder.path().join("adapter");
        std::fs::create_dir(&adapter_folder).unwrap();
        let projector = safetensors(&[("model.mm_projector.0.weight".to_owned(), [64, 32])]);
        for (name, bytes) in [
            ("adapter_config.json", config.as_bytes()),
            ("adapter_model.safetensors", &weights),
            ("non_lora_trainables.safetensors", &projector),
        ] {
            std::fs::write(adapter_folder.join(name), bytes).unwrap();
        }
        page.click_text("button", "MobileVLM-like profile").await;
        page.until_count("#schedule rect[data-module]", 168).await;
        page.drop_folder(&adapter_folder).await;
        page.until_count("#schedule rect[data-module]", 6).await;
        page.until_text("#budget-text", "16,896").await;
        assert_eq!(page.count("#report .problem").await, 0);
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
