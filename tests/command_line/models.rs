//! Every verb on a model from a folder and on conversations in LLaVA's format: the way of someone who brings both along.

use std::fs;
use std::path::Path;

use hydra_tests::named_by;
use image::{Rgb, RgbImage};

use crate::support::{Run, names, read, reference, trainer, trainer_in};

/// The tiny base as a Hugging Face folder.
const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../static/tiny-mobilevlm");

/// Pictures of several shapes, conversations about one, two or none of them, and captions.
fn llava(folder: &Path) {
    fs::create_dir_all(folder.join("pictures")).unwrap();
    let mut conversations = Vec::new();
    let mut captions = Vec::new();
    for index in 0..16_u32 {
        let (width, height) = (40 + 7 * index, 120 - 5 * index);
        let colours = [("red", [220, 30, 30]), ("green", [30, 200, 40]), ("blue", [20, 40, 230])];
        let (name, colour) = colours[index as usize % 3];
        let file = format!("{index}.png");
        RgbImage::from_pixel(width, height, Rgb(colour)).save(folder.join("pictures").join(&file)).unwrap();
        conversations.push(match index % 4 {
            0 => serde_json::json!({"id": index, "image": [file, "0.png"], "conversations": [
                {"from": "human", "value": "<image> and <image>: which colors?"}, {"from": "gpt", "value": name}]}),
            1 => serde_json::json!({"id": index, "conversations": [
                {"from": "human", "value": "What color is grass?"}, {"from": "gpt", "value": "green"}]}),
            _ => serde_json::json!({"id": index, "image": file, "conversations": [
                {"from": "human", "value": "What color is it?\n<image>"}, {"from": "gpt", "value": name},
                {"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "yes"}]}),
        });
        captions.push(serde_json::json!({"id": index, "image": file, "conversations": [
            {"from": "human", "value": "Describe it.\n<image>"}, {"from": "gpt", "value": format!("all {name}")}]}));
    }
    let write = |name: &str, list: Vec<serde_json::Value>| {
        fs::write(folder.join(name), serde_json::Value::Array(list).to_string()).unwrap();
    };
    write("conversations.json", conversations);
    write("captions.json", captions);
}

const DATA: [&str; 6] = [
    "--device=cpu",
    "--json",
    "--set=data.source=llava",
    "--set=data.folder=pictures",
    "--set=data.train_pictures=0",
    "--set=data.validation_pictures=4",
];
const TRAINING: [&str; 5] = [
    "--set=training.batch_size=4",
    "--set=training.recompute=blocks",
    "--set=training.lora_dropout=0.05",
    "--set=training.group_by_length=true",
    "--set=training.steps=3",
];

fn run(folder: &Path, command: &[&str]) -> Run {
    let base = format!("--base={BASE}");
    let questions = if command.contains(&"--projector") { "captions.json" } else { "conversations.json" };
    let questions = format!("--set=data.questions={questions}");
    let trains = ["train", "profile", "search"].contains(&command[0]);
    let training: &[&str] = if trains { &TRAINING } else { &[] };
    let fixed = [base.as_str(), questions.as_str()];
    let given = command.iter().chain(&fixed).chain(&DATA).chain(training);
    trainer_in(folder, &given.copied().collect::<Vec<_>>(), &[])
}

fn ok(run: &Run) -> serde_json::Value {
    assert_eq!(run.code, 0, "{}", run.stderr);
    run.json()
}

/// An experiment of one arm and three steps on data of one's own: what follows its settings.
const EXPERIMENT: &str = r#"
plan.base_rank = 4
data.train_pictures = 8
data.validation_pictures = 4
data.test_pictures = 4
training.batch_size = 2

[report]
replicates = { first = 1, count = 1 }

[[arms]]
name = "uniform"
ranks = { uniform = 4 }
"#;

#[test]
fn an_experiment_on_ones_own_data_has_a_held_out_loss_for_each_of_its_tasks_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    llava(folder);
    // easy-VQA's form, in which no test question is answered with yes or no.
    for (subset, answers) in [("train", ["yes", "no", "circle"]), ("test", ["red", "circle", "blue"])] {
        fs::create_dir_all(folder.join("vqa").join(subset).join("images")).unwrap();
        let of = |image: u32| serde_json::json!(["what is in the picture?", answers[image as usize % 3], image]);
        let questions: Vec<serde_json::Value> = (0..16).map(of).collect();
        fs::write(folder.join("vqa").join(subset).join("questions.json"), serde_json::json!(questions).to_string())
            .unwrap();
        for image in 0..16 {
            let file = format!("vqa/{subset}/images/{image}.png");
            RgbImage::from_pixel(64, 64, Rgb([220, 30, 10 * image])).save(folder.join(file)).unwrap();
        }
    }
    let llava = "data.source = \"llava\"\ndata.questions = \"conversations.json\"\ndata.test_questions = \"captions.json\"\n\
                 data.folder = \"pictures\"";
    let vqa = "data.source = \"easy-vqa\"\ndata.folder = \"vqa\"";
    for (name, settings, scored, with_loss) in [("l", llava, 1, "answer-likelihood"), ("v", vqa, 2, "open")] {
        let head = "question = \"?\"\nabout = \"\"\norder = 1\nsteps = [3]\nbaseline = \"uniform\"\n\n[settings]\n";
        fs::write(folder.join(format!("{name}.toml")), format!("{head}{settings}{EXPERIMENT}")).unwrap();
        ok(&trainer_in(folder, &["experiment", &format!("{name}.toml"), "--json"], &[]));
        let record: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(folder.join(format!("{name}.jsonl"))).unwrap()).unwrap();
        let measured = &record["measured"];
        assert_eq!(measured["scores"].as_object().unwrap().len(), scored, "{record}");
        let losses: Vec<_> = measured["held_out_loss"].as_object().unwrap().iter().collect();
        assert!(losses.len() == 1 && losses[0].0 == with_loss && losses[0].1.as_f64().unwrap() > 0.0, "{record}");
        assert_eq!(trainer_in(folder, &["experiment", "report", ".", "--out", "docs"], &[]).code, 0);
    }
    let page = fs::read_to_string(folder.join("docs/evidence.md")).unwrap();
    assert!(page.contains("answer-likelihood") && page.contains("yes-no"), "{page}");
}

#[test]
fn both_stages_and_every_verb_run_on_a_checkpoint_and_conversations() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    llava(folder);
    let stage1 = ["train", "--projector", "--name=one", "--set=data.template=plain", "--set=projector=ldpnet"];
    let stage1 = ok(&run(folder, &stage1));
    assert_eq!(stage1["trainable_parameters"], 0);
    let projector = "--set=projector_weights=runs/one/adapter/non_lora_trainables.safetensors";
    let with = |command: &[&'static str]| [command, &[projector, "--set=projector=ldpnet"]].concat();

    let estimate = ok(&run(folder, &with(&["train", "--dry-run"])));
    assert!(estimate["memory_total"].as_u64().unwrap() > 1 << 20);
    let profile = ok(&run(folder, &with(&["profile", "--name=profile"])));
    assert_eq!(profile["layer_norms"].as_array().unwrap().len(), 6);
    let search = ok(&run(
        folder,
        &with(&[
            "search",
            "--name=search",
            "--set=search.starts=2",
            "--set=search.trials=3",
            "--set=search.replicates=0",
        ]),
    ));
    assert_eq!(search["trials"], 3);
    let schedule = "--schedule=runs/search/search/best.json";
    let stage2 = ok(&run(folder, &with(&["train", "--name=two", schedule, "--set=data.template=v1"])));
    assert!(stage2["scores"]["tasks"]["answer-likelihood"].as_f64().unwrap() > 0.0);

    let eval = with(&["eval", "--adapter=runs/two/adapter", "--set=data.template=v1"]);
    assert_eq!(ok(&run(folder, &eval))["scores"], stage2["scores"]);
    let question = with(&["generate", "What color?", "--image=pictures/3.png", "--adapter=runs/two/adapter"]);
    assert!(ok(&run(folder, &question))["text"].is_string());
    for (format, out) in [("peft", "p"), ("uniform", "u"), ("gguf", "a.gguf"), ("mlx", "x"), ("merged", "m")] {
        let arguments = ["export", "--adapter=runs/two/adapter", "--format", format, "--out", out, projector];
        ok(&run(folder, &[&arguments[..], &["--set=projector=ldpnet"]].concat()));
    }
    for verified in ["p", "u"] {
        ok(&trainer_in(folder, &["verify", verified, "--model", BASE, "--json"], &[]));
    }
    let merged = ["eval", "--base=m", "--set=data.template=v1", "--set=data.questions=conversations.json"];
    let merged = ok(&trainer_in(folder, &[&merged[..], &DATA].concat(), &[]));
    let score = |document: &serde_json::Value| document["scores"]["mean"].as_f64().unwrap();
    assert!((score(&merged) - score(&stage2)).abs() < 1e-3, "{} and {}", score(&merged), score(&stage2));
}

#[test]
fn pictures_that_are_decoded_for_every_step_give_what_kept_features_give() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    llava(folder);
    let loss = |name: &str, memory: &str| {
        let run = ok(&run(folder, &["train", name, memory]));
        (run["final_loss"].as_f64().unwrap(), run["scores"]["mean"].as_f64().unwrap())
    };
    let kept = loss("--name=kept", "--set=data.feature_memory=1024");
    let decoded = loss("--name=decoded", "--set=data.feature_memory=0");
    assert!((kept.0 - decoded.0).abs() < 1e-4 * kept.0, "{kept:?} and {decoded:?}");
    assert!((kept.1 - decoded.1).abs() < 1e-2, "{kept:?} and {decoded:?}");
}

#[test]
fn features_kept_on_the_disk_are_computed_once_and_train_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    llava(folder);
    let train = |name: &str, memory: &str, cache: &[&str]| {
        let name = format!("--name={name}");
        let memory = format!("--set=data.feature_memory={memory}");
        let run = ok(&run(folder, &[&["train", &name, &memory], cache].concat()));
        (run["final_loss"].as_f64().unwrap(), run["scores"]["mean"].as_f64().unwrap())
    };
    let cache = ["--set=data.feature_cache=features"];
    let without = train("without", "1024", &[]);
    let first = train("first", "0", &cache);
    assert!((first.0 - without.0).abs() < 1e-4 * without.0, "{first:?} and {without:?}");
    let files = || {
        let mut found: Vec<(std::path::PathBuf, u64, std::time::SystemTime)> = Vec::new();
        let mut folders = vec![folder.join("features")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let about = entry.metadata().unwrap();
                if about.is_dir() {
                    folders.push(entry.path());
                } else {
                    found.push((entry.path(), about.len(), about.modified().unwrap()));
                }
            }
        }
        found.sort();
        found
    };
    let written = files();
    assert!(!written.is_empty());
    assert_eq!(train("second", "0", &cache), first);
    assert_eq!(train("third", "1024", &cache), first, "the same numbers, read into memory");
    assert_eq!(files(), written, "nothing is computed again");
    fs::write(&written[0].0, b"cut off").unwrap();
    assert_eq!(train("fourth", "0", &cache), first);
    assert_eq!(files()[0].1, written[0].1, "what was damaged is computed again");
}

#[test]
fn a_model_answers_a_benchmark_and_its_file_of_answers_scores_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    llava(folder);
    let lines: Vec<String> = (0..6)
        .map(|id| {
            let label = if id % 2 == 0 { "yes" } else { "no" };
            format!(r#"{{"question_id": {id}, "image": "{id}.png", "text": "Is there a dog?", "label": "{label}"}}"#)
        })
        .collect();
    fs::write(folder.join("pope.json"), lines.join("\n")).unwrap();
    let asked = ["eval", "--benchmark=pope", "--questions=pope.json", "--max-tokens=4", "--json"];
    let base = format!("--base={BASE}");
    let generated = trainer_in(folder, &[&asked[..], &["--images=pictures", "--answers=a.jsonl", &base]].concat(), &[]);
    let scores = ok(&generated);
    assert_eq!(scores["all"]["samples"], 6);
    assert_eq!(fs::read_to_string(folder.join("a.jsonl")).unwrap().lines().count(), 6);
    let again = ["eval", "--benchmark=pope", "--questions=pope.json", "--predictions=a.jsonl", "--json"];
    assert_eq!(ok(&trainer_in(folder, &again, &[])), scores);

    fs::create_dir_all(folder.join("mme/color")).unwrap();
    fs::copy(folder.join("pictures/1.png"), folder.join("mme/color/a.png")).unwrap();
    let text = "Is it green? Please answer yes or no.\tYes\nIs it red? Please answer yes or no.\tNo\n";
    fs::write(folder.join("mme/color/a.txt"), text).unwrap();
    let asked = ["eval", "--benchmark=mme", "--images=mme", "--max-tokens=4", "--answers=results", "--json", &base];
    let scores = ok(&trainer_in(folder, &asked, &[]));
    assert_eq!(names(&folder.join("results")), ["MANIFEST.json", "color.txt"]);
    let again = ["eval", "--benchmark=mme", "--predictions=results", "--json"];
    assert_eq!(ok(&trainer_in(folder, &again, &[])), scores);
}

#[test]
fn damaged_records_and_pictures_are_named_or_skipped_as_configured() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    llava(folder);
    let fails = |parts: &[&str]| {
        for memory in ["--set=data.feature_memory=1024", "--set=data.feature_memory=0"] {
            run(folder, &["train", "--name=x", memory]).fails(3, "data", parts);
            fs::remove_dir_all(folder.join("runs")).unwrap_or_default();
        }
    };
    fs::write(folder.join("pictures/6.png"), b"not a picture").unwrap();
    fails(&["pictures/6.png", "cannot be read", "data.damaged=skip"]);
    let skipping = run(folder, &["train", "--name=skipping", "--set=data.damaged=skip"]);
    assert_eq!(skipping.code, 0, "{}", skipping.stderr);
    assert!(skipping.stderr.contains("pictures/6.png"), "{}", skipping.stderr);
    fs::remove_file(folder.join("pictures/6.png")).unwrap();
    fails(&["pictures/6.png", "cannot be read"]);

    llava(folder);
    let text = fs::read_to_string(folder.join("conversations.json")).unwrap();
    let damage = |from: &str, to: &str, parts: &[&str]| {
        assert!(text.contains(from), "{from}");
        fs::write(folder.join("conversations.json"), text.replacen(from, to, 1)).unwrap();
        run(folder, &["train", "--name=x", "--set=data.validation_pictures=0"]).fails(3, "data", parts);
    };
    damage("<image> and <image>", "<image>", &["record 1 (id 0)", "1 places for pictures", "2 pictures"]);
    damage(r#""value":"green""#, r#""value":"""#, &["record 2 (id 1)", "sentence 2 is an empty answer"]);
    damage(r#""from":"gpt""#, r#""from":"robot""#, &["record 1 (id 0)", "from \"robot\""]);
    damage(r#""conversations":"#, r#""talks":"#, &["conversations.json", "[0]", "missing field `conversations`"]);
    fs::write(folder.join("conversations.json"), "[]").unwrap();
    run(folder, &["train", "--name=x"]).fails(3, "data", &["conversations.json", "no records"]);
    assert!(!folder.join("runs/x").exists(), "data is refused before there is a run");
}

#[test]
fn steps_and_parts_of_which_nothing_is_usable_are_skipped_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    llava(folder);
    // Steps of one example: some are text alone, which gives a projector no gradient, and one picture is damaged.
    fs::write(folder.join("pictures/6.png"), b"not a picture").unwrap();
    let single = ["--set=training.batch_size=1", "--set=training.steps=16", "--set=data.damaged=skip"];
    for memory in ["--set=data.feature_memory=1024", "--set=data.feature_memory=0"] {
        let base = format!("--base={BASE}");
        let questions = ["train", "--projector", "--set=data.questions=conversations.json", memory, &base];
        let keep = ["--set=training.recompute=none", "--set=training.group_by_length=false"];
        ok(&trainer_in(folder, &[&questions[..], &DATA, &TRAINING, &single, &keep].concat(), &[]));
    }
    fs::remove_dir_all(folder.join("pictures")).unwrap();
    let nothing = run(folder, &["train", "--name=x", "--set=data.damaged=skip", "--set=data.template=v1"]);
    // Text alone is left to train on and, with luck, to validate on: no score may come from nothing.
    assert!(nothing.code == 0 || nothing.stderr.contains("no answer that can be scored"), "{}", nothing.stderr);
}

#[test]
fn a_base_that_contradicts_itself_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let damage = |file: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>, parts: &[&str]| {
        let base = folder.join("base");
        fs::remove_dir_all(&base).unwrap_or_default();
        fs::create_dir(&base).unwrap();
        for name in ["config.json", "vision_config.json", "tokenizer.json", "model.safetensors"] {
            let bytes = read(Path::new(BASE).join(name));
            let bytes = if name == file { change(bytes) } else { bytes };
            fs::write(base.join(name), bytes).unwrap();
        }
        trainer_in(folder, &["generate", "--base=base", "What?", "--json"], &[]).fails(3, "data", parts);
    };
    let text = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(from, to).into_bytes()
    };
    damage("config.json", &text("\"intermediate_size\": 128", "\"intermediate_size\": 96"), &["base", "has shape"]);
    damage("config.json", &text("\"num_hidden_layers\": 6", "\"num_hidden_layers\": 7"), &["layers.6", "is missing"]);
    damage("config.json", &text("\"num_hidden_layers\": 6", "\"num_hidden_layers\": 5"), &["is not part of the model"]);
    damage(
        "config.json",
        &text("\"vocab_size\": 512", "\"vocab_size\": 400"),
        &["505 tokens", "do not belong together"],
    );
    damage("tokenizer.json", &text("</s>", "<end>"), &["tokenizer.json", "no token </s>"]);
    damage("tokenizer.json", &|bytes| bytes[..bytes.len() / 2].to_vec(), &["tokenizer.json"]);
    damage("config.json", &text("\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\""), &["\"gelu\", not silu"]);
    let vast = text("\"vocab_size\": 512", "\"vocab_size\": 16777216");
    damage("config.json", &vast, &["do not belong together"]);
    let wide = text("\"hidden_size\": 64", "\"hidden_size\": 262144");
    damage("config.json", &wide, &["has shape"]);
    for file in ["b.gguf", "b.bin"] {
        fs::write(folder.join(file), b"GGUF\x03\0\0\0").unwrap();
        let base = format!("--base={file}");
        trainer_in(folder, &["generate", &base, "What?", "--json"], &[]).fails(3, "data", &[file]);
    }
    let nothing = trainer_in(folder, &["generate", "--base=nowhere", "What?", "--json"], &[]);
    nothing.fails(3, "data", &["nowhere", "no such file or folder"]);
}

#[test]
fn stories260k_tells_its_story() {
    let model = reference("stories260k/stories260K.bin");
    let base = format!("--base={}", model.display());
    let run = trainer(&["generate", &base, "--plain", "", "--max-tokens=80", "--device=cpu", "--json"]);
    let text = ok(&run)["text"].as_str().unwrap().to_owned();
    let story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she \
                 saw a big, red ball.";
    assert!(text.starts_with(story), "{text}");
}

/// `scripts/test` fetches the model and names it in `HYDRA_SMOLLM2`.
#[test]
fn smollm2_from_its_gguf_knows_the_capital_of_france() {
    let Some(model) = named_by("HYDRA_SMOLLM2", "SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let base = format!("--base={}", model.display());
    let generate =
        ["generate", &base, "--plain", "The capital of France is", "--max-tokens=4", "--device=cpu", "--json"];
    let text = ok(&trainer(&generate))["text"].as_str().unwrap().to_owned();
    assert!(text.starts_with("Paris"), "{text}");
}
