//! `trainer eval`: answers and scores of an adapter, or of the base model.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use super::common::workbench;
use crate::adapters;
use crate::cli::Context;
use crate::config::{Sources, load};
use crate::data::{Part, Scores};
use crate::error::{Kind, ResultExt};
use crate::experiment::ExperimentConfig;
use crate::output::table;
use crate::runs::atomic::write_json;

const AFTER_HELP: &str = "\
Examples:
  trainer eval --adapter runs/train-001/adapter --part test
  trainer eval --part validation                       the untouched base model
  trainer eval --predictions answers.json --part test  score a file of answers that another model wrote";

/// Score an adapter, the base model, or a file of answers
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Adapter folder; without it the base model is scored
    #[arg(long, value_name = "FOLDER")]
    adapter: Option<PathBuf>,
    /// Score these answers (a JSON list of strings, one per question in their order) instead of generating any
    #[arg(long, value_name = "FILE", conflicts_with = "adapter")]
    predictions: Option<PathBuf>,
    /// Part of the data
    #[arg(long, value_enum, default_value = "validation")]
    part: Part,
    /// Write the answers here
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// TOML file with the configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One key of the configuration, e.g. data.source=easy-vqa
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Document {
    part: Part,
    questions: usize,
    scores: Scores,
}

/// Runs the command.
///
/// # Errors
/// An adapter, data or answers that cannot be used.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let resolved = load::<ExperimentConfig>(&Sources::new(args.config.clone(), args.set.clone()))?;
    let mut bench = workbench(resolved.value, context)?;
    bench.prepare(args.part)?;
    let (answers, scores) = match &args.predictions {
        Some(path) => {
            let place = || path.display().to_string();
            let text = std::fs::read_to_string(path).or_fail(Kind::Data, place)?;
            let answers: Vec<String> = serde_json::from_str(&text)
                .or_fail(Kind::Data, || format!("{}: not a JSON list of strings", path.display()))?;
            let scores = bench.part(args.part)?.set.score(&answers).or_fail(Kind::Data, place)?;
            (answers, scores)
        }
        None => {
            let model = match &args.adapter {
                Some(folder) => adapters::open(folder, &bench)?.1,
                None => bench.model_of(&crate::experiment::Recipe::Base, 0, None)?,
            };
            bench.score(&model, args.part)?
        }
    };
    if let Some(path) = &args.answers {
        write_json(path, &answers)?;
    }
    let document = Document { part: args.part, questions: answers.len(), scores };
    context.output.result(&document, || {
        let scores = &document.scores;
        let floor = scores.details.get("question_only_floor");
        // What the same questions give without their pictures, where the data set has such a floor.
        let row = |name: &str, key: &str, score: f64| {
            let blind = floor.and_then(|floor| share(floor.get(key)?)).map(|share| format!("{share:.2}"));
            [name.to_owned(), format!("{score:.2}")].into_iter().chain(blind).collect()
        };
        let mut rows: Vec<Vec<String>> = scores.tasks.iter().map(|(task, score)| row(task, task, *score)).collect();
        rows.push(row(if floor.is_some() { "all" } else { "mean" }, "all", scores.mean));
        let header = [document.part.name(), "score", "without the picture"];
        table(&header[..if floor.is_some() { 3 } else { 2 }], &[1, 2], rows)
    })
}

/// Percentage of right answers in `{"questions", "right"}`.
fn share(tally: &serde_json::Value) -> Option<f64> {
    let count = |key: &str| tally.get(key)?.as_f64();
    Some(100.0 * count("right")? / count("questions")?.max(1.0))
}
