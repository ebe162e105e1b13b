//! What the page gives away: the schedule in every form that other programs read, and the command that computes the same.
//!
//! Every text that may hold a comment carries the session's link, so that a file that is dropped back in gives the same
//! state.

use std::fmt::Write;
use std::sync::Arc;

use hydra_shared::adapter::{LoraConfig, python_snippet};
use hydra_shared::layout::{Kind as ModuleKind, Layout, Module, Ranks};
use hydra_shared::schedule::choices::{ALL, Choice, Choices, Kind};
use hydra_shared::schedule::{Provenance, RankSchedule, ScheduleFileError};
use hydra_shared::shell;
use hydra_shared::vlm::spec::preset_layout;

use crate::analysis::Analysis;
use crate::link::MARK;
use crate::samples::Sample;
use crate::session::{GivenConfig, Session, Source};
use crate::table::Table;

/// What is known of the worth of ranks by gradient norm, for whoever takes some away: the paper's claim at rank 4 and 140 steps as
/// docs/evidence.md has it, and the rates of the demo.
pub const WORTH: &str = "What these ranks are worth, only fine-tunes can tell. In this project's own, of a tiny model, ranks by \
                         gradient norm were −0.5 % [−5.1, +4.5] ahead of uniform LoRA at its best learning rate, and in the \
                         demo a third of that rate cost more than any ranks gain. So tune the rate for uniform LoRA first, and then \
                         compare both with the same seeds: Search plans that, and tells a gain from luck.";

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
    let options = &session.peft;
    let peft = LoraConfig::new(&schedule, options).for_training();
    let is_given = |given: &&Arc<GivenConfig>| given.ranks == schedule.ranks && given.scale == schedule.scale;
    let config = match session.given.as_ref().filter(is_given) {
        Some(given) => given.text.clone(),
        None => peft.to_json()?,
    };
    let note = format!("# {MARK}{address}\n");
    let json = |file, label, text| Export { file, label, kind: "application/json", text };
    let text = |file, label, text: String| Export { file, label, kind: "text/plain", text: format!("{note}{text}") };
    Ok(vec![
        json("adapter_config.json", "PEFT configuration", config),
        text("lora_config.py", "PEFT, as Python", python_snippet(&schedule, options)),
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
    analysis.schedule(session, Provenance { command, inputs: Vec::new(), seed: Some(session.plan.seed()) })
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
    let _ = write!(line, " --model {}{}", quoted(model), of_log(session));
    let choices = session.choices();
    for choice in settings(&choices) {
        let Some(text) = choice.text(&choices) else { continue };
        let flag = choice.key.replace('_', "-");
        let _ = match (&choice.kind, choice.short) {
            (Kind::Switch { .. }, _) => write!(line, " --{flag}"),
            (_, Some((short, word))) if word == text => write!(line, " --{}", short.replace('_', "-")),
            (Kind::Number { .. }, _) => write!(line, " --{flag} {}", float(text)),
            _ => write!(line, " --{flag} {}", quoted(&text)),
        };
    }
    line.push_str(" --out schedule.json --peft adapter_config.json");
    let apart = if session.source == Source::Sample(Sample::MobileVlm) {
        Some("The profile shown is made up: put the gradient log of your own run in its place.")
    } else if session.source == Source::Unknown {
        Some("No gradient log is shown: put that of your own run in its place.")
    } else if !session.by_hand.is_empty() {
        Some("The command gives the plan; ranks set by hand are in the schedule's file alone.")
    } else {
        None
    };
    (line, apart)
}

/// The flags that say what was chosen of the log, each with a space before it.
fn of_log(session: &Session) -> String {
    let flag = |(flag, value): (&str, &str)| {
        let value: String = value.chars().filter(|c| !c.is_control()).collect();
        // A value that begins like a flag would be taken for one.
        let between = if value.starts_with('-') { '=' } else { ' ' };
        format!(" {flag}{between}{}", shell::word(&value))
    };
    session.of_log.flags().map(flag).collect()
}

/// Keys of choices in the order in which commands have always had them; others come after.
const ORDER: [&str; 17] = [
    "base_rank",
    "stages",
    "contiguous",
    "stage_layers",
    "ratio",
    "stage_ranks",
    "delta",
    "signs",
    "budget",
    "counting",
    "rank_cap",
    "scale",
    "signal",
    "layer_norm",
    "warm_up_share",
    "skip_non_finite",
    "seed",
];

/// The choices that a command or a configuration file has to name.
fn settings(choices: &Choices) -> Vec<&'static Choice> {
    let idle = [choices.idle(), choices.idle_by_kind()].concat();
    let speaks = |choice: &Choice| idle.iter().all(|(key, _)| *key != choice.key);
    let named = |choice: &&Choice| speaks(choice) && (choice.always || !choice.is_default(choices));
    let mut rows: Vec<_> = ALL.iter().filter(named).collect();
    rows.sort_by_key(|choice| ORDER.iter().position(|key| *key == choice.key).unwrap_or(ORDER.len()));
    rows
}

/// The configuration file of `trainer plan`.
fn plan_toml(session: &Session) -> String {
    let choices = session.choices();
    let rows = settings(&choices).into_iter();
    let values = rows.filter_map(|choice| Some((choice.key.to_owned(), toml_value(&choice.value(&choices)?)?)));
    let table = values.collect::<toml::Table>().to_string();
    match of_log(session) {
        flags if flags.is_empty() => table,
        flags => format!("# The file has no keys for what is chosen of the log; give it as well:{flags}\n{table}"),
    }
}

fn toml_value(value: &serde_json::Value) -> Option<toml::Value> {
    match value {
        serde_json::Value::Bool(on) => Some((*on).into()),
        serde_json::Value::Number(number) => {
            number.as_i64().map(toml::Value::from).or_else(|| number.as_f64().map(toml::Value::from))
        }
        serde_json::Value::String(text) => Some(text.as_str().into()),
        serde_json::Value::Array(values) => values.iter().map(toml_value).collect::<Option<Vec<_>>>().map(Into::into),
        serde_json::Value::Null | serde_json::Value::Object(_) => None,
    }
}

/// Whether a number is one that axolotl's `PositiveInt` takes.
fn is_whole(alpha: &serde_json::Number) -> bool {
    alpha.as_f64().is_some_and(|alpha| alpha >= 1.0 && alpha.fract() == 0.0)
}

/// A whole number without a fraction.
fn whole(alpha: &serde_json::Number) -> String {
    alpha.as_f64().filter(|_| is_whole(alpha)).map_or_else(|| alpha.to_string(), |alpha| format!("{alpha:.0}"))
}

/// Keys of axolotl's configuration, whose alphas are whole numbers: others are refused with the reason in the file's place.
/// Module names are letters, digits, dots and underscores: plain YAML.
fn axolotl(peft: &LoraConfig) -> String {
    let mut text = format!(
        "adapter: lora\nlora_r: {}\nlora_alpha: {}\nlora_dropout: {}\n",
        peft.r,
        whole(&peft.lora_alpha),
        peft.lora_dropout
    );
    if peft.use_rslora {
        text.push_str("peft_use_rslora: true\n");
    }
    let alphas = [&peft.lora_alpha].into_iter().chain(peft.alpha_pattern.values());
    if let Some(alpha) = alphas.into_iter().find(|alpha| !is_whole(alpha)) {
        return format!(
            "# This is no configuration: axolotl takes whole alphas alone, and this schedule has {alpha}. Choose a scale whose\n\
             # alpha is whole at every rank, such as constant:2 or fixed-alpha:16, and take the file again; or train with PEFT\n\
             # itself, which takes adapter_config.json as it is.\n"
        );
    }
    text.push_str("lora_target_modules:\n");
    for module in peft.target_names() {
        let _ = writeln!(text, "  - {module}");
    }
    let patterns = [
        ("lora_rank_pattern", peft.rank_pattern.iter().map(|(key, rank)| (key, rank.to_string())).collect::<Vec<_>>()),
        ("lora_alpha_pattern", peft.alpha_pattern.iter().map(|(key, alpha)| (key, whole(alpha))).collect()),
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
    let of_kind = |kind: &ModuleKind| {
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
fn float(text: String) -> String {
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
