//! What the page gives away: the schedule in every form that other programs read, and the command that computes the same.
//!
//! Every text that may hold a comment carries the session's link, so that a file that is dropped back in gives the same
//! state.

use std::fmt::Write;

use hydra_shared::adapter::{PeftConfig, PeftOptions, python_snippet};
use hydra_shared::gradients::{LayerNorm, ProfileConfig};
use hydra_shared::layout::{Kind, Layout, Module, Ranks};
use hydra_shared::schedule::{Counting, Provenance, RankSchedule, ScheduleFileError, StageChoice, StageRanks};
use hydra_shared::shell;
use hydra_shared::vlm::spec::preset_layout;

use crate::analysis::{Analysis, seed};
use crate::link::{MARK, scale_text, signal_name, signs_text, stages_text};
use crate::samples::Sample;
use crate::session::{Session, Source};
use crate::table::Table;

/// A file to take away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Its name.
    pub file: &'static str,
    /// What it is for, in a few words.
    pub label: &'static str,
    /// MIME type.
    pub kind: &'static str,
    /// Its text.
    pub text: String,
}

/// Everything that leaves the page as text. `address` is the page's address with the session's link.
///
/// # Errors
/// Ranks that no schedule's file takes.
pub fn exports(session: &Session, analysis: &Analysis, address: &str) -> Result<Vec<Export>, ScheduleFileError> {
    let schedule = schedule(session, analysis, address)?;
    let options = PeftOptions::default();
    // PEFT freezes an adapter whose configuration says that it is for inference, and this one is to be trained.
    let peft = PeftConfig { inference_mode: false, ..PeftConfig::new(&schedule, &options) };
    let note = format!("# {MARK}{address}\n");
    let json = |file, label, text| Export { file, label, kind: "application/json", text };
    let text = |file, label, text: String| Export { file, label, kind: "text/plain", text: format!("{note}{text}") };
    Ok(vec![
        json("adapter_config.json", "PEFT configuration", peft.to_json()?),
        text("lora_config.py", "PEFT, as Python", python_snippet(&schedule, &options)),
        json("schedule.json", "schedule, for trainer train", schedule.to_json()?),
        text("plan.toml", "settings, for trainer plan --config", plan_toml(session)),
        text("axolotl.yml", "axolotl, to paste into its YAML", axolotl(&peft)),
        Export {
            file: "ranks.csv",
            label: "ranks, as a table",
            kind: "text/csv",
            text: rank_table(session, analysis).to_csv(),
        },
    ])
}

/// The session's schedule; its file says that the page made it and from what.
///
/// # Errors
/// Ranks that no schedule's file takes.
pub fn schedule(session: &Session, analysis: &Analysis, address: &str) -> Result<RankSchedule, ScheduleFileError> {
    let command = format!("{MARK}{address}");
    analysis.schedule(session, Provenance { command, inputs: Vec::new(), seed: Some(seed(session)) })
}

/// The `trainer` command that computes the same; and what it cannot say, where there is such.
pub fn command(session: &Session) -> (String, Option<&'static str>) {
    let mut line = "trainer plan".to_owned();
    let files = match &session.source {
        Source::Sample(sample) => sample.log_file().map(|file| format!("static/{file}")).into_iter().collect(),
        Source::Log(files) => files.clone(),
        Source::Unknown => Vec::new(),
    };
    let files: Vec<String> = if files.is_empty() { vec!["grads.jsonl".to_owned()] } else { files };
    // Writing to a String cannot fail.
    let _ = write!(line, " --gradients {}", files.iter().map(|file| quoted(file)).collect::<Vec<_>>().join(" "));
    let is_preset = preset_layout(session.layout.model()).is_some_and(|preset| has_shapes_of(&session.layout, &preset));
    let model = if is_preset { session.layout.model() } else { "config.json" };
    let _ = write!(line, " --model {}", quoted(model));
    for (key, value) in settings(session) {
        let flag = key.replace('_', "-");
        match value {
            Setting::Flag => {
                let _ = write!(line, " --{flag}");
            }
            Setting::Number(text) => {
                let _ = write!(line, " --{flag} {text}");
            }
            Setting::Text(text) => {
                let _ = write!(line, " --{flag} {}", quoted(&text));
            }
            Setting::List(ranks) => {
                let _ = write!(line, " --{flag} {}", ranks.join(","));
            }
        }
    }
    line.push_str(" --out schedule.json --peft adapter_config.json");
    let apart = if session.source == Source::Sample(Sample::MobileVlm) {
        Some("The profile shown is made up: put the gradient log of your own run in its place.")
    } else if session.source == Source::Unknown {
        Some("No gradient log is shown: put that of your own run in its place.")
    } else if session.preset.is_some() || !session.by_hand.is_empty() {
        Some(
            "The command gives HyDRA's plan; ranks set by hand and comparison schedules are in the schedule's file alone.",
        )
    } else {
        None
    };
    (line, apart)
}

/// How a setting is written.
enum Setting {
    Flag,
    Number(String),
    Text(String),
    List(Vec<String>),
}

/// What differs from the defaults of `trainer plan`, by the keys of its configuration file.
fn settings(session: &Session) -> Vec<(&'static str, Setting)> {
    let plan = &session.plan;
    let mut list = vec![("base_rank", Setting::Number(plan.base_rank.to_string()))];
    match &plan.stages {
        StageChoice::Clustered(stages) => {
            list.push(("stages", Setting::Number(stages.count.to_string())));
            if stages.contiguous {
                list.push(("contiguous", Setting::Flag));
            }
        }
        StageChoice::ByHand(layers) => list.push(("stage_layers", Setting::Text(stages_text(layers)))),
    }
    match &plan.stage_ranks {
        StageRanks::Ratio(ratio) => list.push(("ratio", Setting::Number(float(*ratio)))),
        StageRanks::ByHand(ranks) => {
            list.push(("stage_ranks", Setting::List(ranks.iter().map(ToString::to_string).collect())));
        }
    }
    list.push(("delta", Setting::Number(plan.delta.to_string())));
    if let Some(signs) = &plan.signs {
        list.push(("signs", Setting::Text(signs_text(signs))));
    }
    if let Some(budget) = plan.budget {
        list.push(("budget", Setting::Number(budget.to_string())));
    }
    if plan.counting == Counting::RankUnits {
        list.push(("count_rank_units", Setting::Flag));
    }
    if let Some(cap) = plan.cap {
        list.push(("rank_cap", Setting::Number(cap.to_string())));
    }
    list.push(("scale", Setting::Text(scale_text(plan.scale))));
    let default = ProfileConfig::default();
    if session.profiling.signal != default.signal {
        list.push(("signal", Setting::Text(signal_name(session.profiling.signal).to_owned())));
    }
    if plan.layer_norm == LayerNorm::RootSumSquares {
        list.push(("layer_norm", Setting::Text("root-sum-squares".to_owned())));
    }
    if session.profiling.warm_up_share != default.warm_up_share {
        list.push(("warm_up_share", Setting::Number(float(session.profiling.warm_up_share))));
    }
    if session.profiling.skip_non_finite {
        list.push(("skip_non_finite", Setting::Flag));
    }
    if seed(session) != 0 {
        list.push(("seed", Setting::Number(seed(session).to_string())));
    }
    list
}

/// The configuration file of `trainer plan`.
fn plan_toml(session: &Session) -> String {
    let mut table = toml::Table::new();
    for (key, value) in settings(session) {
        let value = match value {
            Setting::Flag => toml::Value::Boolean(true),
            Setting::Number(text) => match (text.parse::<i64>(), text.parse::<f64>()) {
                (Ok(whole), _) => toml::Value::Integer(whole),
                (_, Ok(number)) => toml::Value::Float(number),
                _ => continue,
            },
            Setting::Text(text) => toml::Value::String(text),
            Setting::List(ranks) => {
                toml::Value::Array(ranks.iter().filter_map(|r| r.parse().ok()).map(toml::Value::Integer).collect())
            }
        };
        table.insert(key.to_owned(), value);
    }
    table.to_string()
}

/// Keys of axolotl's configuration. Module names are letters, digits, dots and underscores: plain YAML.
fn axolotl(peft: &PeftConfig) -> String {
    let mut text = format!(
        "adapter: lora\nlora_r: {}\nlora_alpha: {}\nlora_dropout: {}\n",
        peft.r, peft.lora_alpha, peft.lora_dropout
    );
    if peft.use_rslora {
        text.push_str("peft_use_rslora: true\n");
    }
    text.push_str("lora_target_modules:\n");
    for module in &peft.target_modules {
        let _ = writeln!(text, "  - {module}");
    }
    let patterns = [
        ("lora_rank_pattern", peft.rank_pattern.iter().map(|(key, rank)| (key, rank.to_string())).collect::<Vec<_>>()),
        ("lora_alpha_pattern", peft.alpha_pattern.iter().map(|(key, alpha)| (key, alpha.to_string())).collect()),
    ];
    for (name, entries) in patterns {
        if entries.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{name}:");
        for (key, value) in entries {
            let _ = writeln!(text, "  {key}: {value}");
        }
    }
    text
}

/// Everything that is known of every module.
pub fn rank_table(session: &Session, analysis: &Analysis) -> Table {
    let mut table =
        Table::new(["module", "layer", "projection", "norm", "standard error", "stage", "rank", "parameters"]);
    let stages = analysis.stage_of_layers();
    for (index, (module, rank)) in analysis.ranks.iter().enumerate() {
        let norm = session.profile.modules.get(index);
        let stage = stages.get(session.layout.block_of(index)).copied().unwrap_or(0);
        table.push([
            module.name.clone(),
            module.layer.map(|layer| layer.to_string()).unwrap_or_default(),
            module.kind.name().to_owned(),
            norm.map_or(0.0, |norm| norm.mean).to_string(),
            norm.map_or(0.0, |norm| norm.standard_error).to_string(),
            (stage + 1).to_string(),
            rank.to_string(),
            (module.rank_unit_cost() * u64::from(rank)).to_string(),
        ]);
    }
    table
}

/// Trainable parameters of each of the layout's kinds, over all layers.
pub fn parameters_by_kind(ranks: &Ranks) -> Vec<u64> {
    let kinds = ranks.layout().kinds();
    let of_kind = |kind: &Kind| {
        let modules = ranks.iter().filter(|(module, _)| module.kind == *kind);
        modules.map(|(module, rank)| module.rank_unit_cost() * u64::from(rank)).sum()
    };
    kinds.iter().map(of_kind).collect()
}

/// Whether two layouts have the same matrices in the same places, whatever the path of their layers.
fn has_shapes_of(layout: &Layout, other: &Layout) -> bool {
    let same = |(a, b): (&Module, &Module)| (a.layer, &a.kind, a.shape()) == (b.layer, &b.kind, b.shape());
    layout.len() == other.len() && layout.modules().iter().zip(other.modules()).all(same)
}

/// A float that reads back as one.
fn float(value: f64) -> String {
    let text = value.to_string();
    if text.contains('.') || text.contains('e') { text } else { text + ".0" }
}

/// A value for a POSIX shell, without control characters, and not to be taken for a flag.
fn quoted(value: &str) -> String {
    let clean: String = value.chars().filter(|c| !c.is_control()).collect();
    if clean.starts_with('-') { shell::quoted(&format!("./{clean}")) } else { shell::word(&clean).into_owned() }
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests;
