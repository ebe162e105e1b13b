//! `trainer eval`: answers and scores of an adapter, or of the base model.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use hydra_shared::benchmarks::{
    self, Benchmark, BenchmarkPicture, BenchmarkQuestion, BenchmarkScores, Form, Predictions, mme,
};
use hydra_shared::names::first_names;
use hydra_shared::tasks::Split;
use hydra_shared::vlm::MobileVlm;
use serde::Serialize;

use super::common::{Context, ModelArgs, split_parser, workbench};
use crate::adapter;
use crate::data::{Fit, Scores};
use crate::error::{Kind, ResultExt, failure};
use crate::evaluation::answers::{self, Answering};
use crate::evaluation::benchmark::{MmeSet, ask, json_lines};
use crate::input;
use crate::model::recipe::Recipe;
use crate::output::table;
use crate::runs::atomic::{Existing, write_file, write_folder, write_json};
use crate::train::workbench::Workbench;

const AFTER_HELP: &str = "\
Examples:
  trainer eval --adapter runs/train-001/adapter --part test
  trainer eval --part validation                       the untouched base model
  trainer eval --predictions answers.json --part test  score a file of answers that another model wrote
  trainer eval --base MobileVLM-1.7B --benchmark pope --questions coco_pope_random.json --images val2014 \\
      --answers pope.jsonl
  trainer eval --benchmark pope --questions coco_pope_random.json --predictions pope.jsonl
  trainer eval --benchmark mme --predictions results/   MME's own result files, one per task

A benchmark's answers are JSON lines as LLaVA's scripts write them: {\"question_id\": …, \"text\": …}. They may come from
any model, also as a table with the columns index and prediction. With \"prompt\" in them, they must have been given to the
questions. Questions are in the benchmark's own format, or LLaVA's {\"question_id\": …, \"image\": …, \"text\": …}.";

/// Score an adapter, the base model, or a file of answers
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Adapter folder, of `trainer train` or of PEFT; without it the base model is scored
    #[arg(long, value_name = "FOLDER")]
    adapter: Option<PathBuf>,
    /// Score these answers instead of generating any: a JSON list of strings, one per question in their order; for a
    /// benchmark its own format
    #[arg(long, value_name = "FILE", conflicts_with = "adapter")]
    predictions: Option<PathBuf>,
    /// A published benchmark: the model answers its questions, or --predictions holds answers to be scored
    #[arg(long, value_parser = benchmark_parser(), conflicts_with = "part")]
    benchmark: Option<&'static Benchmark>,
    /// The benchmark's questions, in its own format
    #[arg(long, value_name = "FILE", requires = "benchmark", required_if_eq_any(with_question_file()))]
    questions: Option<PathBuf>,
    /// The benchmark's pictures; for mme the folder of its tasks
    #[arg(long, value_name = "FOLDER", requires = "benchmark", conflicts_with = "predictions")]
    images: Option<PathBuf>,
    /// Longest answer to a benchmark, in tokens; 128, and 1024 for sqa and mmbench, as MobileVLM has it
    #[arg(long, value_name = "N", requires = "benchmark", conflicts_with = "predictions")]
    max_tokens: Option<usize>,
    /// Part of the data
    #[arg(long, value_parser = split_parser(), default_value = "validation")]
    part: Split,
    /// Write the answers here; for mme the folder of its result files
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// Which model and data
    #[command(flatten)]
    model: ModelArgs,
}

/// `--benchmark`: every benchmark by its names.
fn benchmark_parser() -> impl TypedValueParser<Value = &'static Benchmark> {
    let values = benchmarks::ALL.into_iter().flat_map(|benchmark| {
        let same = |name: &'static str| PossibleValue::new(name).help(format!("As {}", benchmark.name));
        let own = PossibleValue::new(benchmark.name).help(benchmark.about);
        std::iter::once(own).chain(benchmark.same.iter().copied().map(same))
    });
    PossibleValuesParser::new(values).try_map(|name| benchmarks::by_name(&name).ok_or("no such benchmark"))
}

/// The values of `--benchmark` that need `--questions`.
fn with_question_file() -> Vec<(&'static str, &'static str)> {
    let with = benchmarks::ALL.into_iter().filter(|benchmark| matches!(benchmark.form, Form::QuestionFile(_)));
    with.flat_map(|benchmark| std::iter::once(benchmark.name).chain(benchmark.same.iter().copied()))
        .map(|name| ("benchmark", name))
        .collect()
}

#[derive(Debug, Serialize)]
struct Document {
    part: Split,
    questions: usize,
    scores: Scores,
}

/// Runs the command.
///
/// # Errors
/// An adapter, data or answers that cannot be used.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    if let Some(benchmark) = args.benchmark {
        refuse_idle(benchmark, args)?;
        let scores = match &args.predictions {
            Some(predictions) => score(benchmark, args.questions.as_deref(), predictions, context)?,
            None => answered(benchmark, args, context)?,
        };
        return context.output.result(&scores, || serde_json::to_string_pretty(&scores).unwrap_or_default());
    }
    let resolved = args.model.load_untrained(context, &[])?;
    resolved.refuse(&resolved.value.data.idle_without_files())?;
    let bench = workbench(resolved.value, context)?;
    bench.part(args.part)?;
    let (answers, scores) = match &args.predictions {
        Some(path) => {
            let place = || path.display().to_string();
            let answers: Vec<String> = hydra_shared::json::from_str(&input::text(path)?)
                .or_fail(Kind::Data, || format!("{}: not a JSON list of strings", path.display()))?;
            let scores = bench.part(args.part)?.set.score(&answers).or_fail(Kind::Data, place)?;
            (answers, scores)
        }
        None => {
            let model = model(args, &bench)?;
            answers::score(&model, &bench.base.tokenizer, bench.chosen.threads, bench.part(args.part)?)?
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

/// Lets the model answer a benchmark, and scores its answers.
fn answered(benchmark: &Benchmark, args: &Args, context: &Context) -> Result<BenchmarkScores> {
    let questions =
        args.questions.as_deref().map(|path| Ok::<_, anyhow::Error>((path, input::text(path)?))).transpose()?;
    let (asked, mme_set) = match (&benchmark.form, &questions) {
        (Form::QuestionFile(file), Some((path, text))) => {
            let asked = file.questions(text).or_fail(Kind::Data, || path.display().to_string())?;
            warn_of_left_out(file.left_out(text, None), path, context);
            (asked, None)
        }
        (Form::QuestionFile(_), None) => return Err(failure(Kind::Usage, "--benchmark needs --questions")),
        (Form::TaskFolders, _) => {
            let folder = args.images.as_deref();
            let folder = folder.ok_or_else(|| failure(Kind::Usage, "mme needs --images: the folder of its tasks"))?;
            let mut set = MmeSet::open(folder)?;
            warn_of_unknown(&set.unknown, context);
            (std::mem::take(&mut set.questions), Some(set))
        }
    };
    let file = |question: &BenchmarkQuestion| matches!(question.picture, BenchmarkPicture::File(_));
    if args.images.is_none() && asked.iter().any(file) {
        return Err(failure(Kind::Usage, "the questions are about pictures: name their folder with --images"));
    }
    let bench = workbench(args.model.load_untrained(context, &["data.template=v1"])?.value, context)?;
    let model = model(args, &bench)?;
    let mut data = bench.config.data.clone();
    if !benchmark.pads_pictures {
        data.fit = Fit::Crop;
    }
    let images = args.images.as_deref().unwrap_or(Path::new(""));
    let max_tokens = args.max_tokens.unwrap_or(benchmark.max_tokens);
    let answering = Answering { tokenizer: &bench.base.tokenizer, max_tokens, threads: bench.chosen.threads };
    let answers = ask(&model, &asked, images, &data, answering, &context.output)?;
    if let Some(mut set) = mme_set {
        set.questions = asked;
        let files = set.results(&answers);
        if let Some(folder) = &args.answers {
            let files: Vec<(String, &str)> =
                files.iter().map(|(task, text)| (format!("{task}.txt"), text.as_str())).collect();
            let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
            write_folder(folder, &files, Existing::Replace)?;
        }
        let files = files.iter().map(|(task, text)| (task.as_str(), text.as_str()));
        return Ok(Box::new(mme::score(files).or_fail(Kind::Failure, || "mme".to_owned())?));
    }
    let lines = json_lines(&asked, &answers)?;
    // Kept before they are scored: they took long.
    if let Some(path) = &args.answers {
        write_file(path, lines.as_bytes())?;
    }
    let (Form::QuestionFile(file), Some((path, text))) = (&benchmark.form, questions) else {
        return Err(failure(Kind::Usage, "--benchmark needs --questions"));
    };
    let given = Predictions::from_text(&lines)?;
    file.score(&text, &given).or_fail(Kind::Data, || path.display().to_string())
}

/// The model that is evaluated.
fn model(args: &Args, bench: &Workbench) -> Result<MobileVlm> {
    match &args.adapter {
        Some(folder) => adapter::folder::open(folder, &bench.base),
        None => bench.base.model_of(&Recipe::Base, 0, None),
    }
}

/// Scores a file of answers to a file of questions.
fn score(
    benchmark: &Benchmark,
    questions: Option<&Path>,
    predictions: &Path,
    context: &Context,
) -> Result<BenchmarkScores> {
    let Form::QuestionFile(file) = &benchmark.form else { return mme_results(predictions, context) };
    let Some(questions) = questions else { return Err(failure(Kind::Usage, "--benchmark needs --questions")) };
    let asked = input::text(questions)?;
    let given =
        Predictions::from_text(&input::text(predictions)?).or_fail(Kind::Data, || predictions.display().to_string())?;
    let scores = file.score(&asked, &given);
    let scores = scores.or_fail(Kind::Data, || format!("{} and {}", questions.display(), predictions.display()))?;
    warn_of_left_out(file.left_out(&asked, Some(&given)), questions, context);
    Ok(scores)
}

/// Scores a folder of MME's result files.
fn mme_results(folder: &Path, context: &Context) -> Result<BenchmarkScores> {
    let place = || format!("{}: MME's results are a folder of files <task>.txt", folder.display());
    let mut tasks = Vec::new();
    for entry in std::fs::read_dir(folder).or_fail(Kind::Data, place)? {
        let path = entry.or_fail(Kind::Data, place)?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            let task = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            // What is no task is not read: it may be anything.
            let text = if mme::task_name(&task).is_some() { input::text(&path)? } else { String::new() };
            tasks.push((task, text));
        }
    }
    tasks.sort();
    let scores = mme::score(tasks.iter().map(|(task, text)| (task.as_str(), text.as_str())));
    let scores = scores.or_fail(Kind::Data, place)?;
    warn_of_unknown(&scores.unknown, context);
    if !scores.missing.is_empty() {
        let missing = first_names(&scores.missing);
        context.output.warn(format_args!("tasks of MME's are missing, the sums are without them: {missing}"));
    }
    Ok(Box::new(scores))
}

/// What of a file of questions does not count.
fn warn_of_left_out(left_out: Option<String>, questions: &Path, context: &Context) {
    if let Some(left_out) = left_out {
        context.output.warn(format_args!("{}: {left_out}", questions.display()));
    }
}

/// Names of no task of MME's.
fn warn_of_unknown(names: &[String], context: &Context) {
    if !names.is_empty() {
        context.output.warn(format_args!("no task of MME's, not counted: {}", first_names(names)));
    }
}

/// Flags that do nothing beside others.
fn refuse_idle(benchmark: &Benchmark, args: &Args) -> Result<()> {
    let idle = |flag: &str, why: &str| Err(failure(Kind::Usage, format!("{flag} has no effect here: {why}")));
    if matches!(benchmark.form, Form::TaskFolders) && args.questions.is_some() {
        return idle("--questions", "the questions of mme stand in its folders, which --images or --predictions names");
    }
    if args.predictions.is_none() {
        return Ok(());
    }
    let model = &args.model;
    let given = [
        ("--answers", args.answers.is_some()),
        ("--base", model.base.is_some()),
        ("--vision-tower", model.vision_tower.is_some()),
        ("--config", model.config.is_some()),
        ("--set", !model.set.is_empty()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => idle(flag, "no model is asked, the answers stand in the file of --predictions"),
        None => Ok(()),
    }
}

/// Percentage of right answers in `{"questions", "right"}`.
fn share(tally: &serde_json::Value) -> Option<f64> {
    let count = |key: &str| tally.get(key)?.as_f64();
    Some(100.0 * count("right")? / count("questions")?.max(1.0))
}
