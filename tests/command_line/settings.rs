//! Settings that do nothing, data that cannot be used, files of another kind, and a standard error that nobody reads.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Run, case, read, sample, trainer_in};

fn dry_run(folder: &Path, extra: &[&str]) -> Run {
    let arguments = [&["train", "--dry-run", "--json", "--device=cpu"], extra].concat();
    trainer_in(folder, &arguments, &[])
}

#[test]
fn a_file_of_conversations_that_would_not_be_read_is_refused() {
    let folder = case("settings-without-effect");
    let needs = "it needs data.source = \"llava\", and data.source is \"generated\"";
    dry_run(&folder, &["--config=my.toml"]).fails(2, "usage", &["`data.", "has no effect:", "my.toml:"]);
    let set = dry_run(&folder, &["--set=data.questions=conversations.json"]);
    set.fails(2, "usage", &["--set: `data.questions` has no effect:", needs]);
    let read = ["--config=my.toml", "--set=data.source=llava", "--set=data.validation_pictures=0"];
    assert_eq!(dry_run(&folder, &read).json()["conversations"], 4);
}

#[test]
fn keys_of_another_source_and_steps_beside_epochs_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |set: &[&str], part: &str| dry_run(folder.path(), set).fails(2, "usage", &[part, "has no effect"]);
    refused(&["--set=data.max_tokens=100"], "`data.max_tokens`");
    refused(&["--set=data.folder=x"], "`data.folder`");
    refused(&["--set=data.source=easy-vqa", "--set=data.tasks.scene.max_objects=2"], "`data.tasks.scene.max_objects`");
    refused(&["--set=data.source=llava", "--set=data.questions=x", "--set=data.turns=2"], "`data.turns`");
    refused(&["--set=training.epochs=1", "--set=training.steps=9"], "`training.steps`");
    refused(&["--set=search.acquisition=random", "--set=search.model=ridge"], "`search.model`");
    refused(&["--set=plan.stage_layers=0-2/3-5", "--set=plan.stages=5"], "`plan.stages`");
    refused(&["--full", "--set=gradients=x"], "`gradients`");
    refused(&["--projector", "--set=plan.schedule_kind=linear"], "`plan.schedule_kind`");
    refused(&["--set=data.damaged=skip"], "`data.damaged`");
    refused(&["--set=data.fit=crop"], "`data.fit`");
    refused(&["--set=gradients_run=a"], "`gradients_run`");
    refused(&["--set=plan.delta=3"], "`plan.delta`");
    refused(&["--set=profile.warm_up_share=0.5"], "`profile.warm_up_share`");
    refused(&["--full", "--set=plan.base_rank=8"], "`plan.base_rank`");
    refused(&["--full", "--set=training.optimizer.learning_rate=1e-3"], "`training.optimizer.learning_rate`");
    refused(&["--set=full_learning_rate=1e-3"], "`full_learning_rate`");
    refused(&["--set=search.trials=3"], "`search.trials`");
    refused(&["--gradients=x", "--schedule-kind=linear", "--set=plan.delta=3"], "`plan.delta`");
    let benchmark = ["eval", "--set=data.damaged=skip", "--device=cpu", "--json"];
    trainer_in(folder.path(), &benchmark, &[]).fails(2, "usage", &["`data.damaged` has no effect"]);
}

#[test]
fn a_file_for_several_commands_may_hold_what_one_of_them_does_not_heed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("my.toml"), "[plan]\nbase_rank = 4\ndelta = 3\n\n[search]\ntrials = 9\n").unwrap();
    let run = dry_run(folder.path(), &["--config=my.toml"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
}

#[test]
fn settings_in_utf_16_are_named_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let wide: Vec<u8> = "\u{feff}[training]\nsteps = 5\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(folder.path().join("my.toml"), wide).unwrap();
    let parts = ["my.toml: this is text in UTF-16; save it as UTF-8"];
    dry_run(folder.path(), &["--config=my.toml"]).fails(3, "data", &parts);
    let experiment = ["experiment", "my.toml", "--json"];
    trainer_in(folder.path(), &experiment, &[]).fails(3, "data", &parts);
    let marked = "\u{feff}[training]\nsteps = 5\n";
    fs::write(folder.path().join("my.toml"), marked).unwrap();
    assert_eq!(dry_run(folder.path(), &["--config=my.toml"]).json()["steps"], 5);
}

#[test]
fn a_default_that_does_nothing_is_refused_where_somebody_wrote_it() {
    let folder = tempfile::tempdir().unwrap();
    let set = ["--set=data.source=llava", "--set=data.questions=x", "--set=data.turns=5"];
    dry_run(folder.path(), &set).fails(2, "usage", &["--set: `data.turns` has no effect"]);
    let text = "[data]\nsource = \"llava\"\nquestions = \"x\"\ntest_pictures = 200\n";
    fs::write(folder.path().join("my.toml"), text).unwrap();
    let file = dry_run(folder.path(), &["--config=my.toml"]);
    file.fails(2, "usage", &["my.toml:4: `data.test_pictures` has no effect", "data.test_questions names no file"]);
}

#[test]
fn flags_of_the_plan_that_do_nothing_beside_others_are_refused() {
    let log = sample("grad-norms.jsonl.gz");
    let folder = tempfile::tempdir().unwrap();
    let refused = |extra: &[&str], parts: &[&str]| {
        let arguments =
            [&["plan", "--gradients", &log, "--model=smollm2-135m", "--base-rank=8", "--json"], extra].concat();
        trainer_in(folder.path(), &arguments, &[]).fails(2, "usage", parts);
    };
    refused(&["--stages=2", "--stage-layers=0-14/15-29"], &["--stages <N>", "cannot be used with"]);
    refused(&["--contiguous", "--stage-layers=0-14/15-29"], &["--contiguous", "cannot be used with"]);
    refused(&["--delta=0", "--signs=q=-"], &["--signs has no effect: delta is 0"]);
    refused(&["--schedule-kind=uniform", "--delta=3"], &["--delta has no effect: schedule_kind is uniform"]);
    refused(&["--schedule-kind=linear", "--set=stages=5"], &["--set: `stages` has no effect: schedule_kind is linear"]);
    refused(&["--dropout=0.1", "--out=x.json"], &["--dropout has no effect without --peft or --python"]);
}

#[test]
fn settings_of_training_are_refused_by_commands_that_train_nothing_and_a_file_for_several_commands_may_hold_them() {
    let folder = tempfile::tempdir().unwrap();
    for command in [&["eval"][..], &["generate", "What?"], &["export", "--adapter=a", "--out=b"]] {
        for (set, key) in
            [("training.steps=3", "training.steps"), ("search.trials=4", "search.trials"), ("seeds=2", "seeds")]
        {
            let arguments = [command, &["--device=cpu", "--json", "--set", set]].concat();
            let why = format!("--set: `{key}` has no effect: this command trains nothing");
            trainer_in(folder.path(), &arguments, &[]).fails(2, "usage", &[&why]);
        }
    }
    fs::write(folder.path().join("my.toml"), "seeds = 2\n[training]\nsteps = 3\n[data]\nvalidation_pictures = 2\n")
        .unwrap();
    let scored = trainer_in(folder.path(), &["eval", "--config=my.toml", "--device=cpu", "--json"], &[]);
    assert_eq!(scored.code, 0, "{}", scored.stderr);
}

#[test]
fn a_conversation_about_a_video_is_damaged_data() {
    let set =
        ["--set=data.source=llava", "--set=data.questions=conversations.json", "--set=data.validation_pictures=1"];
    let folder = case("llava-video-entry");
    dry_run(&folder, &set).fails(3, "data", &["conversations.json:", "it is about a video", "data.damaged=skip"]);
    let skipping = dry_run(&folder, &[&set, ["--set=data.damaged=skip"].as_slice()].concat());
    assert_eq!(skipping.code, 0, "{}", skipping.stderr);
    assert!(skipping.stderr.contains("it is about a video"), "{}", skipping.stderr);
    assert!(skipping.stderr.contains("conversations are damaged and left out"), "{}", skipping.stderr);
}

#[test]
fn keys_of_videos_and_sounds_are_unusable_and_one_of_images_needs_its_places() {
    let folder = tempfile::tempdir().unwrap();
    let set = ["--set=data.source=llava", "--set=data.questions=c.json", "--set=data.validation_pictures=0"];
    let talk = r#""conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]"#;
    for (key, problem) in [
        (r#""videos": ["a.mp4"]"#, "about a video (its \"videos\")"),
        (r#""audio": "a.wav""#, "about a sound (its \"audio\")"),
        (r#""audios": ["a.wav"]"#, "about a sound (its \"audios\")"),
        (r#""images": ["a.png"]"#, "its \"images\" names 1, and its text has 0 <image>"),
    ] {
        fs::write(folder.path().join("c.json"), format!("[{{{talk}}},\n{{\"id\": 7, {key}, {talk}}}]")).unwrap();
        dry_run(folder.path(), &set).fails(3, "data", &["c.json:2: record 2 (id 7)", problem, "data.damaged=skip"]);
    }
}

#[test]
fn what_is_left_out_is_named_up_to_five_in_the_order_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let talk = |start: &str| {
        format!(r#""conversations": [{{"from": "human", "value": "{start}Hi"}}, {{"from": "gpt", "value": "Hello"}}]"#)
    };
    let text = (0..12).map(|_| format!("{{{}}}", talk("")));
    let lost = (0..9).map(|id| format!(r#"{{"image": "lost-{id}.png", {}}}"#, talk("<image>")));
    let seen = (0..8).map(|id| format!(r#"{{"id": {id}, "video": "a.mp4", {}}}"#, talk("")));
    let records: Vec<String> = text.chain(lost).chain(seen).collect();
    fs::write(folder.path().join("c.json"), format!("[{}]", records.join(",\n"))).unwrap();
    let set = [
        "--set=data.source=llava",
        "--set=data.questions=c.json",
        "--set=data.validation_pictures=1",
        "--set=data.damaged=skip",
    ];
    let run = dry_run(folder.path(), &set);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let at = |part: &str| run.stderr.find(part).unwrap_or_else(|| panic!("{part:?} is missing in {}", run.stderr));
    for (named, summary) in [
        ("it is about a video", "conversations are damaged and left out"),
        ("cannot be read: ", "pictures cannot be read; "),
    ] {
        let lines: Vec<&str> = run.stderr.lines().filter(|line| line.contains(named)).collect();
        assert_eq!(lines.len(), 5, "{}", run.stderr);
        assert!(at(lines[4]) < at(summary), "{}", run.stderr);
    }
    let lost: Vec<usize> = (0..9).filter_map(|id| run.stderr.find(&format!("lost-{id}.png"))).collect();
    assert!(lost.len() == 5 && lost.is_sorted(), "{}", run.stderr);
}

#[test]
fn conversations_that_a_limit_leaves_out_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let record = r#"{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}"#;
    fs::write(folder.path().join("c.json"), format!("[{}]", [record; 9].join(",\n"))).unwrap();
    let set = ["--set=data.source=llava", "--set=data.questions=c.json", "--set=data.validation_pictures=2"];
    let run = dry_run(folder.path(), &[&set, ["--set=data.train_pictures=3"].as_slice()].concat());
    assert_eq!(run.json()["conversations"], 3);
    let said = "3 of 7 conversations are used for train, 4 are left out; data.train_pictures = 0 takes all";
    assert!(run.stderr.contains(said), "{}", run.stderr);
    let damaged = "[\n{\"conversations\": []},\n{\"conversations\": [{\"from\": \"human\"}]}\n]";
    fs::write(folder.path().join("c.json"), damaged).unwrap();
    dry_run(folder.path(), &set).fails(3, "data", &["c.json", "line 3: missing field `value`"]);
}

#[test]
fn a_git_lfs_pointer_is_named_with_the_remedy() {
    let arguments = ["verify", "lfs-pointer", "--model=config.json", "--json"];
    let run = trainer_in(&case("files-of-another-kind"), &arguments, &[]);
    run.fails(3, "data", &["adapter_model.safetensors: this is a Git LFS pointer", "run `git lfs pull`"]);
}

/// The tiny model's folder with a change to one file.
fn changed(folder: &Path, name: &str, file: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) {
    let base = folder.join(name);
    fs::create_dir(&base).unwrap();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../static/tiny-mobilevlm");
    for entry in ["config.json", "model.safetensors", "tokenizer.json", "vision_config.json"] {
        let bytes = read(tiny.join(entry));
        fs::write(base.join(entry), if entry == file { change(bytes) } else { bytes }).unwrap();
    }
}

/// The tensors' names with a prefix.
fn renamed(bytes: &[u8], prefix: &str) -> Vec<u8> {
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let prefixed = |(key, value)| if key == "__metadata__" { (key, value) } else { (format!("{prefix}{key}"), value) };
    let mut text = serde_json::Value::Object(header.into_iter().map(prefixed).collect()).to_string();
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &bytes[8 + length..]].concat()
}

fn says(folder: &Path, base: &str, text: &str) -> Run {
    let base = format!("--base={base}");
    trainer_in(folder, &["generate", &base, "--plain", text, "--max-tokens=4", "--device=cpu", "--json"], &[])
}

#[test]
fn names_that_torch_wrapped_are_read_without_the_wrapper() {
    let folder = tempfile::tempdir().unwrap();
    changed(folder.path(), "plain", "", |bytes| bytes);
    let plain = says(folder.path(), "plain", "the");
    assert_eq!(plain.code, 0, "{}", plain.stderr);
    for (name, prefix) in [("compiled", "_orig_mod."), ("ddp", "module."), ("both", "module._orig_mod.")] {
        changed(folder.path(), name, "model.safetensors", |bytes| renamed(&bytes, prefix));
        let run = says(folder.path(), name, "the");
        assert_eq!((run.code, &run.stdout), (0, &plain.stdout), "{name}: {}", run.stderr);
        assert!(run.stderr.contains(&format!("every name begins with \"{prefix}\"")), "{}", run.stderr);
    }
}

#[test]
fn a_tokenizer_with_a_few_tokens_more_is_a_warning_until_one_of_them_occurs() {
    let folder = tempfile::tempdir().unwrap();
    changed(folder.path(), "longer", "tokenizer.json", |bytes| {
        let mut tokenizer: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap();
        let ids =
            vocabulary.values().chain(tokenizer["added_tokens"].as_array().unwrap().iter().map(|token| &token["id"]));
        let first = 1 + ids.filter_map(serde_json::Value::as_u64).max().unwrap();
        for id in first..first + 10 {
            tokenizer["added_tokens"].as_array_mut().unwrap().push(serde_json::json!({
                "id": id, "content": format!("<extra{id}>"), "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            }));
        }
        tokenizer.to_string().into_bytes()
    });
    let run = says(folder.path(), "longer", "the");
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("the tokenizer has 515 tokens, the model 512"), "{}", run.stderr);
    let beyond = says(folder.path(), "longer", "the <extra514>");
    assert_ne!(beyond.code, 0);
    assert!(beyond.stderr.contains("the token 514 at \"<extra514>\" is beyond the 512 rows"), "{}", beyond.stderr);
}

#[test]
fn files_of_another_kind_in_the_place_of_weights_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    changed(folder.path(), "pointer", "model.safetensors", |_| pointer.to_vec());
    says(folder.path(), "pointer", "the").fails(3, "data", &["model.safetensors: this is a Git LFS pointer"]);
    changed(folder.path(), "page", "config.json", |_| b"<!doctype html><title>Sign in</title>".to_vec());
    says(folder.path(), "page", "the").fails(3, "data", &["config.json: this is an HTML page"]);
    fs::write(folder.path().join("a.gguf"), b"GGUF\x03\0\0\0").unwrap();
    let inspect = ["inspect", "--model=a.gguf", "--json"];
    trainer_in(folder.path(), &inspect, &[]).fails(3, "data", &["a.gguf: this is a GGUF file"]);
    // The header alone: version, no tensors, one value.
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let counts = [3_u32.to_le_bytes().as_slice(), &0_u64.to_le_bytes(), &1_u64.to_le_bytes()].concat();
    let adapter = [b"GGUF", &counts[..], &text("general.type"), &8_u32.to_le_bytes(), &text("adapter")].concat();
    fs::write(folder.path().join("adapter.gguf"), adapter).unwrap();
    says(folder.path(), "adapter.gguf", "the").fails(3, "data", &["this is a LoRA adapter, not a model"]);
    let inspect = ["inspect", "--model=adapter.gguf", "--json"];
    trainer_in(folder.path(), &inspect, &[]).fails(3, "data", &["adapter.gguf: this is a LoRA adapter, not a model"]);
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    says(folder.path(), "config.json", "the").fails(3, "data", &["config.json: this is no file of weights"]);
}

#[cfg(unix)]
#[test]
fn a_command_whose_standard_error_nobody_reads_ends_with_its_own_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let code = |arguments: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
        let command = command.args(arguments).current_dir(folder.path()).stdout(Stdio::null()).stderr(writer);
        command.status().unwrap().code()
    };
    assert_eq!(code(&["inspect", "--model=nowhere.json"]), Some(3));
    assert_eq!(code(&["inspect", "--model=nothing"]), Some(2));
    assert_eq!(code(&["no-such-command"]), Some(2));
    let log = sample("grad-norms.jsonl.gz");
    let plan = ["plan", "--gradients", &log, "--model=smollm2-135m", "--base-rank=8", "--stages=8"];
    assert_eq!(code(&plan), Some(0));
    assert_eq!(code(&["eval", "--device=cpu", "--log=debug", "--base=nowhere"]), Some(3));
}
