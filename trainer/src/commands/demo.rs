//! `trainer demo`: the whole method on the embedded model, ending in a table and a report.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use hydra_shared::layout::Ranks;
use hydra_shared::tasks::Split;
use indexmap::IndexMap;
use serde::Serialize;

use super::common::{Context, RunArgs, finish, training_workbench};
use crate::model::recipe::Recipe;
use crate::output::{table, thousands};
use crate::report::from_run::{Arm, report_data};
use crate::report::{ArmKind, Difference, Spread, compare, finding, render};
use crate::report::{REPORT_DATA, REPORT_PAGE};
use crate::runs::RunFolder;
use crate::runs::atomic::{write_file, write_json};
use crate::search::run::search_in_run;
use crate::search::trial::{run_trial, save_adapter};
use crate::train::job::Job;
use crate::train::workbench::Workbench;

const AFTER_HELP: &str = "\
Examples:
  trainer demo
  trainer demo --quick                 under a minute instead of four: too little for conclusions
  trainer demo --resume runs/demo-001
  trainer demo --set data.source=easy-vqa --set data.test_pictures=0

Uniform LoRA measures gradient norms; they give stages and ranks within the budget; a performance model learns from
trials on the validation part which ranks to try next; in the end every arm is fine-tuned with several seeds and scored
once on the test part. The run folder holds report.html.";

/// `--quick`: everything once, small.
const QUICK: [&str; 9] = [
    "seeds=1",
    "data.train_pictures=120",
    "data.validation_pictures=24",
    "data.test_pictures=40",
    "training.steps=16",
    "search.starts=4",
    "search.trials=6",
    "search.patience=2",
    "training.optimizer.warmup_ratio=0.1",
];

/// Run the whole method on the embedded tiny model
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Everything once and small, to see that it works
    #[arg(long, conflicts_with = "resume")]
    quick: bool,
    /// Configuration and run folder
    #[command(flatten)]
    run: RunArgs,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document {
    run: String,
    report: String,
    budget: u64,
    /// What the comparison shows, in a sentence.
    finding: Option<String>,
    arms: Vec<ArmDocument>,
    study: serde_json::Value,
    wall_seconds: f64,
}

#[derive(Debug, Serialize)]
struct ArmDocument {
    name: String,
    trainable_parameters: u64,
    scores: IndexMap<String, SpreadDocument>,
    mean: SpreadDocument,
    /// Difference of the mean to uniform LoRA's, paired by seed.
    difference: Option<DifferenceDocument>,
    seeds: Vec<u64>,
}

/// A difference and its 95 % interval.
#[derive(Debug, Serialize)]
struct DifferenceDocument {
    estimate: f64,
    low: f64,
    high: f64,
}

/// Mean and standard deviation over seeds, and the values themselves.
#[derive(Debug, Serialize)]
struct SpreadDocument {
    mean: f64,
    deviation: Option<f64>,
    values: Vec<f64>,
}

/// Runs the command.
///
/// # Errors
/// Configuration or data that cannot be used, a disk that cannot be written, an interrupt.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let started = Instant::now();
    let resolved = args.run.load(context, if args.quick { &QUICK } else { &[] })?;
    let bench = training_workbench(resolved.value.clone(), context)?;
    if args.run.dry_run {
        bench.part(Split::Train)?;
        let config = bench.resolved()?;
        return context.output.result(&config, || {
            format!(
                "would run a profile, at most {} trials and {} final fine-tunes of {} steps each",
                config.search.trials,
                5 * config.seeds,
                config.training.steps
            )
        });
    }
    // Data that cannot be used is refused before there is a run folder.
    bench.part(Split::Train)?;
    bench.part(Split::Validation)?;
    let run = args.run.open("demo", context, &resolved)?;
    let result = demo(&run, &bench, context, started);
    let document = finish(run, result)?;
    context.output.result(&document, || text(&document))
}

fn demo(run: &RunFolder, bench: &Workbench, context: &Context, started: Instant) -> Result<Document> {
    let found = search_in_run(run, bench, &context.output)?;
    let scale = bench.config.plan.scale;
    let lora = |ranks: &Ranks| Recipe::lora(ranks.clone(), scale);
    let arms = [
        (ArmKind::Base, "base model, untouched", Recipe::Base),
        (ArmKind::Uniform, "uniform LoRA", bench.config.uniform(&bench.base.layout)?),
        (ArmKind::Coarse, "HyDRA coarse", lora(&found.coarse)),
        (ArmKind::Fine, "HyDRA coarse + fine", lora(&found.plan.ranks)),
        (ArmKind::Searched, "HyDRA searched", lora(&found.searched.picked()?.ranks)),
        (ArmKind::Full, "full fine-tuning", Recipe::Full),
    ];
    // Seeds that no trial has used: a trial's luck must not be counted again.
    let first = bench.config.seed + bench.config.search.seed + 1;
    let seeds: Vec<u64> = (first..).take(bench.config.seeds).collect();
    let winner = Job::new(bench, lora(&found.searched.picked()?.ranks), first, Split::Test)?;
    let jobs = run.file("eval/jobs")?;
    let mut results = Vec::with_capacity(arms.len());
    for (kind, name, recipe) in arms {
        let mut arm = Arm {
            kind,
            name: name.to_owned(),
            trainable_parameters: recipe.trainable_parameters(&bench.base.spec),
            seeds: Vec::new(),
            scores: Vec::new(),
        };
        // The base model is the same whatever the seed.
        for &seed in seeds.iter().take(if recipe == Recipe::Base { 1 } else { seeds.len() }) {
            let job = Job::new(bench, recipe.clone(), seed, Split::Test)?;
            let title = format!("{name}, seed {seed}");
            // Another arm may have the same ranks: its fine-tune is then the winner's.
            let result = run_trial(bench, &job, &context.output, &title, &jobs, |_| job == winner)?;
            arm.seeds.push(seed);
            arm.scores.push(result.scores);
        }
        results.push(arm);
    }
    let title = "adapter of the best schedule";
    save_adapter(bench, &winner, &context.output, title, &jobs, &run.file("adapter")?)?;

    let wall_seconds = started.elapsed().as_secs_f64();
    let data = report_data(bench, &found, &results, wall_seconds, &context.arguments)?;
    let page = run.file(REPORT_PAGE)?;
    write_json(&run.file(REPORT_DATA)?, &data)?;
    write_file(&page, render(&data).as_bytes())?;
    let document = Document {
        run: run.path().display().to_string(),
        report: page.display().to_string(),
        budget: bench.config.budget(&bench.base.layout).allowed,
        finding: finding(&data),
        arms: results.iter().map(|arm| arm_document(arm, &results)).collect(),
        study: found.searched.summary()?,
        wall_seconds,
    };
    write_json(&run.file("eval/results.json")?, &document)?;
    Ok(document)
}

fn arm_document(arm: &Arm, all: &[Arm]) -> ArmDocument {
    let means = |arm: &Arm| arm.scores.iter().map(|scores| scores.mean).collect::<Vec<f64>>();
    let uniform = all.iter().find(|other| other.kind == ArmKind::Uniform).filter(|_| arm.kind != ArmKind::Uniform);
    let difference = uniform.and_then(|uniform| {
        let Difference { value, interval, .. } = compare(&means(arm), &means(uniform));
        interval.map(|interval| DifferenceDocument { estimate: value, low: interval.low, high: interval.high })
    });
    let mut by_task: IndexMap<String, Vec<f64>> = IndexMap::new();
    for scores in &arm.scores {
        for (task, score) in &scores.tasks {
            by_task.entry(task.clone()).or_default().push(*score);
        }
    }
    ArmDocument {
        name: arm.name.clone(),
        trainable_parameters: arm.trainable_parameters,
        scores: by_task.into_iter().map(|(task, values)| (task, spread(values))).collect(),
        mean: spread(means(arm)),
        difference,
        seeds: arm.seeds.clone(),
    }
}

fn spread(values: Vec<f64>) -> SpreadDocument {
    let spread = Spread::of(&values);
    SpreadDocument {
        mean: spread.map_or(f64::NAN, |spread| spread.mean),
        deviation: spread.filter(|spread| spread.seeds > 1).map(|spread| spread.deviation),
        values,
    }
}

fn text(document: &Document) -> String {
    let tasks: Vec<&str> =
        document.arms.first().map(|arm| arm.scores.keys().map(String::as_str).collect()).unwrap_or_default();
    let mut header = vec!["arm", "trainable"];
    header.extend(&tasks);
    header.extend(["mean", "to uniform LoRA"]);
    let cell = |spread: &SpreadDocument| match spread.deviation {
        Some(deviation) => format!("{:.1} ± {deviation:.1}", spread.mean),
        None => format!("{:.1}", spread.mean),
    };
    let rows = document.arms.iter().map(|arm| {
        let scores: BTreeMap<&str, &SpreadDocument> = arm.scores.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let mut row = vec![arm.name.clone(), thousands(arm.trainable_parameters)];
        row.extend(tasks.iter().map(|task| scores.get(task).map_or_else(String::new, |spread| cell(spread))));
        row.push(cell(&arm.mean));
        row.push(arm.difference.as_ref().map_or_else(String::new, |difference| {
            format!("{:+.1} [{:+.1}, {:+.1}]", difference.estimate, difference.low, difference.high)
        }));
        row
    });
    let numbers: Vec<usize> = (1..header.len()).collect();
    format!(
        "{}\n{}\nscores in % on the test part, mean ± standard deviation over seeds; differences with 95 % intervals, paired by \
         seed; the budget is {} trainable parameters\n{} trials, {:.0} s\nreport: {}\n",
        table(&header, &numbers, rows),
        document.finding.as_deref().unwrap_or_default(),
        thousands(document.budget),
        document.study["trials"],
        document.wall_seconds,
        document.report
    )
}
