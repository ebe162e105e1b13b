//! `trainer eval`: answers and scores of an adapter, or of the base model.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use hydra_shared::benchmarks::{Benchmark, BenchmarkScores, MmeScores, Predictions, score};
use serde::Serialize;

use super::common::{ModelArgs, workbench};
use crate::adapters;
use crate::cli::Context;
use crate::data::{Part, Scores};
use crate::error::{Kind, ResultExt, failure};
use crate::output::table;
use crate::runs::atomic::write_json;

const AFTER_HELP: &str = "\
Examples:
  trainer eval --adapter runs/train-001/adapter --part test
  trainer eval --part validation                       the untouched base model
  trainer eval --predictions answers.json --part test  score a file of answers that another model wrote
  trainer eval --benchmark pope --questions coco_pope_random.json --predictions answers.jsonl
  trainer eval --benchmark mme --predictions results/   MME's own result files, one per task

A benchmark's answers are JSON lines as LLaVA's scripts write them: {\"question_id\": …, \"text\": …}. They may come from
any model; this program cannot generate them yet.";

/// Score an adapter, the base model, or a file of answers
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Adapter folder; without it the base model is scored
    #[arg(long, value_name = "FOLDER")]
    adapter: Option<PathBuf>,
    /// Score these answers instead of generating any: a JSON list of strings, one per question in their order; for a
    /// benchmark its own format
    #[arg(long, value_name = "FILE", conflicts_with = "adapter")]
    predictions: Option<PathBuf>,
    /// Score answers to a published benchmark
    #[arg(long, value_enum, requires = "predictions", conflicts_with_all = ["part", "answers", "config", "set"])]
    benchmark: Option<BenchmarkName>,
    /// The benchmark's questions, in its own format
    #[arg(long, value_name = "FILE", requires = "benchmark", required_if_eq_any([
        ("benchmark", "gqa"), ("benchmark", "sqa"), ("benchmark", "textvqa"), ("benchmark", "pope"),
        ("benchmark", "refcoco"), ("benchmark", "refcoco+"), ("benchmark", "refcocog"),
    ]))]
    questions: Option<PathBuf>,
    /// Part of the data
    #[arg(long, value_enum, default_value = "validation")]
    part: Part,
    /// Write the answers here
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// Which model and data
    #[command(flatten)]
    model: ModelArgs,
}

/// `--benchmark`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BenchmarkName {
    /// Exact match; questions as in testdev_balanced_questions.json
    Gqa,
    /// ScienceQA, the letter of the choice; questions as in problems.json
    Sqa,
    /// Soft accuracy; questions as in TextVQA_0.5.1_val.json
    #[value(name = "textvqa")]
    TextVqa,
    /// Accuracy, precision, recall, F1, yes-ratio; questions as in coco_pope_random.json
    Pope,
    /// Accuracy and accuracy+; --predictions is a folder of result files, one per task
    Mme,
    /// IoU of at least 0.5; JSON lines with question_id, bbox [x, y, w, h], width, height
    Refcoco,
    /// As refcoco
    #[value(name = "refcoco+")]
    RefcocoPlus,
    /// As refcoco
    Refcocog,
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
    if let (Some(name), Some(predictions)) = (args.benchmark, &args.predictions) {
        let scores = benchmark(name, args.questions.as_deref(), predictions)?;
        return context.output.result(&scores, || serde_json::to_string_pretty(&scores).unwrap_or_default());
    }
    let resolved = args.model.load(context, &[])?;
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

/// Scores a file of answers to a file of questions.
fn benchmark(name: BenchmarkName, questions: Option<&Path>, predictions: &Path) -> Result<BenchmarkScores> {
    let benchmark = match name {
        BenchmarkName::Gqa => Benchmark::Gqa,
        BenchmarkName::Sqa => Benchmark::Sqa,
        BenchmarkName::TextVqa => Benchmark::TextVqa,
        BenchmarkName::Pope => Benchmark::Pope,
        BenchmarkName::Refcoco | BenchmarkName::RefcocoPlus | BenchmarkName::Refcocog => Benchmark::Refcoco,
        BenchmarkName::Mme => return mme(predictions),
    };
    let Some(questions) = questions else { return Err(failure(Kind::Usage, "--benchmark needs --questions")) };
    let asked = read(questions)?;
    let given =
        Predictions::from_text(&read(predictions)?).or_fail(Kind::Data, || predictions.display().to_string())?;
    score(benchmark, &asked, &given)
        .or_fail(Kind::Data, || format!("{} and {}", questions.display(), predictions.display()))
}

/// Scores a folder of MME's result files.
fn mme(folder: &Path) -> Result<BenchmarkScores> {
    let place = || format!("{}: MME's results are a folder of files <task>.txt", folder.display());
    let mut tasks = Vec::new();
    for entry in std::fs::read_dir(folder).or_fail(Kind::Data, place)? {
        let path = entry.or_fail(Kind::Data, place)?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            let task = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            tasks.push((task, read(&path)?));
        }
    }
    let scores = MmeScores::from_results(tasks.iter().map(|(task, text)| (task.as_str(), text.as_str())));
    Ok(BenchmarkScores::Mme(scores.or_fail(Kind::Data, place)?))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).or_fail(Kind::Data, || format!("{}: cannot be read", path.display()))
}

/// Percentage of right answers in `{"questions", "right"}`.
fn share(tally: &serde_json::Value) -> Option<f64> {
    let count = |key: &str| tally.get(key)?.as_f64();
    Some(100.0 * count("right")? / count("questions")?.max(1.0))
}
