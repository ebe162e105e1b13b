//! `trainer train`: one fine-tune, from a schedule to an adapter.

use std::path::PathBuf;

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use hydra_shared::schedule::choices::{ALL, Choices};
use hydra_shared::schedule::{Baseline, RankSchedule, ScheduleKind};
use hydra_shared::tasks::Split;
use hydra_shared::vlm::memory::MemoryEstimate;
use hydra_shared::vlm::spec::Targets;
use serde::Serialize;

use super::common::{Context, RunArgs, finish, path_setting, split_parser, training_workbench};
use crate::adapter;
use crate::data::Scores;
use crate::data::gradient_logs::{ReadLogs, configured_log_failure, names, plan_of};
use crate::error::{Kind, ResultExt, failure};
use crate::evaluation::answers::score;
use crate::input;
use crate::model::recipe::Recipe;
use crate::output::{Output, table, thousands};
use crate::runs::RunFolder;
use crate::runs::atomic::write_json;
use crate::runs::process::peak_memory;
use crate::train::experiment::ExperimentConfig;
use crate::train::job::Job;
use crate::train::memory::memory;
use crate::train::run::{TrainingRun, train_in_run};
use crate::train::workbench::Workbench;

const AFTER_HELP: &str = "\
Examples:
  trainer train                                        uniform LoRA at plan.base_rank
  trainer train --schedule runs/search-001/plan/schedule.json
  trainer train --gradients runs/profile-001/profile/grads.jsonl --schedule-kind norm-proportional
  trainer train --full --set training.steps=300
  trainer train --config recipes/mobilevlm-stage1.toml --base MobileLLaMA-1.4B-Chat --projector
  trainer train --resume runs/train-001

The run folder holds logs/ (metrics.jsonl and TensorBoard events), profile/grads.jsonl (gradient norms of every logged
step),
checkpoints/, and at the end adapter/ and eval/results.json.";

/// Fine-tune under one schedule and write the adapter
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Ranks to train with: a schedule that `plan` or `search` wrote
    #[arg(long, value_name = "FILE", conflicts_with_all = ["full", "projector", "resume"])]
    schedule: Option<PathBuf>,
    /// Which schedule is planned from the gradient log; short for --set plan.schedule_kind= [default: hydra, and uniform
    /// without a log]
    #[arg(
        long,
        value_name = "NAME",
        value_parser = PossibleValuesParser::new(ScheduleKind::ALL.map(ScheduleKind::name)),
        conflicts_with_all = ["schedule", "full", "projector", "resume"]
    )]
    schedule_kind: Option<String>,
    /// Gradient log, or a folder of them, to plan from; short for --set gradients=
    #[arg(long, value_name = "PATH", conflicts_with_all = ["schedule", "full", "projector", "resume"])]
    gradients: Option<PathBuf>,
    /// Train the projector and the whole decoder instead of adapters
    #[arg(long, conflicts_with_all = ["projector", "resume"])]
    full: bool,
    /// Train the projector alone: MobileVLM's stage I
    #[arg(long, conflicts_with = "resume")]
    projector: bool,
    /// Part of the data that is scored at the end
    #[arg(long, value_parser = split_parser(), default_value = "validation")]
    score: Split,
    /// Configuration and run folder
    #[command(flatten)]
    run: RunArgs,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document {
    run: String,
    recipe: Recipe,
    trainable_parameters: u64,
    final_loss: Option<f64>,
    /// Most memory that the process held so far, in bytes, where the system tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory: Option<u64>,
    part: Split,
    scores: Scores,
}

/// What `--dry-run` prints.
#[derive(Debug, Serialize)]
struct DryRun {
    recipe: Recipe,
    trainable_parameters: u64,
    projector_parameters: u64,
    conversations: usize,
    steps: usize,
    epochs: f64,
    memory: MemoryEstimate,
    memory_total: u64,
    config: ExperimentConfig,
}

/// Runs the command.
///
/// # Errors
/// Configuration, data or schedule that cannot be used; a loss that is not finite; an interrupt.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let mut flags = args.run.clone();
    flags.model.set.extend(args.schedule_kind.iter().map(|kind| format!("plan.schedule_kind={kind}")));
    flags.model.set.extend(args.gradients.iter().map(|log| path_setting("gradients", log)));
    let resolved = flags.load(context, &[])?;
    if args.run.resume.is_none() {
        refuse_idle(args, &resolved.value)?;
        resolved.refuse_here(&idle(args, &resolved.value))?;
    }
    let bench = training_workbench(resolved.value.clone(), context)?;
    bench.part(Split::Train)?;
    if args.run.dry_run {
        let recipe = recipe(args, &bench)?;
        let conversations = bench.part(Split::Train)?.conversations().encoded.len();
        let config = bench.resolved()?;
        let training = &config.training;
        let memory = memory(&bench, &recipe)?;
        let document = DryRun {
            memory,
            memory_total: memory.total(),
            trainable_parameters: recipe.trainable_parameters(&bench.base.spec),
            projector_parameters: bench.base.spec.projector_parameters().unwrap_or(0),
            recipe,
            conversations,
            steps: training.steps,
            epochs: (training.steps * training.batch_size) as f64 / conversations as f64,
            config,
        };
        return context.output.result(&document, || {
            format!(
                "would train {} parameters (and the projector's {}) for {} steps, {:.2} epochs of {} conversations, in \
                 about {:.2} GiB of memory (weights {:.2}, trained parameters {:.2}, vision features {:.2}, intermediate \
                 results {:.2})",
                thousands(document.trainable_parameters),
                thousands(document.projector_parameters),
                document.steps,
                document.epochs,
                document.conversations,
                gibibytes(memory.total()),
                gibibytes(memory.weights),
                gibibytes(memory.optimizer),
                gibibytes(memory.features),
                gibibytes(memory.activations + memory.logits),
            )
        });
    }
    // Everything that can be refused is refused before there is a run folder.
    bench.part(args.score)?;
    let fresh = if args.run.resume.is_some() { None } else { Some(recipe(args, &bench)?) };
    let run = args.run.open("train", context, &resolved)?;
    let result = train(args, fresh, &run, &bench, &context.output);
    let document = finish(run, result)?;
    context.output.result(&document, || text(&document))
}

/// `fresh` is the recipe of a new run; a resumed one has it on the disk.
fn train(args: &Args, fresh: Option<Recipe>, run: &RunFolder, bench: &Workbench, output: &Output) -> Result<Document> {
    let recipe_file = run.file("plan/recipe.json")?;
    let recipe = match fresh {
        Some(recipe) => {
            write_json(&recipe_file, &recipe)?;
            recipe
        }
        None => {
            let place = || recipe_file.display().to_string();
            let text = std::fs::read_to_string(&recipe_file).or_fail(Kind::Data, place)?;
            let recipe: Recipe<Vec<u32>> = serde_json::from_str(&text).or_fail(Kind::Data, place)?;
            recipe.bound(&bench.base.layout).or_fail(Kind::Data, place)?
        }
    };
    let job = Job::new(bench, recipe, bench.config.seed, args.score)?;
    let TrainingRun { model, final_loss, .. } = train_in_run(run, bench, &job, output)?;
    let peak_memory = peak_memory();
    // First what was trained: scores may fail, on a picture that is damaged, say.
    let (base_rank, budget) = (bench.config.plan.base_rank, bench.config.budget(&bench.base.layout));
    adapter::folder::save(&run.file("adapter")?, &bench.base, &job.recipe, job.seed, base_rank, budget, &model)?;
    let (answers, scores) = score(&model, &bench.base.tokenizer, bench.chosen.threads, bench.part(args.score)?)?;
    let document = Document {
        run: run.path().display().to_string(),
        trainable_parameters: job.recipe.trainable_parameters(&bench.base.spec),
        recipe: job.recipe,
        final_loss,
        peak_memory,
        part: args.score,
        scores,
    };
    write_json(&run.file("eval/results.json")?, &document)?;
    write_json(&run.file("eval/answers.json")?, &answers)?;
    Ok(document)
}

/// Settings that the flags leave without effect.
fn refuse_idle(args: &Args, config: &ExperimentConfig) -> Result<()> {
    let flag = match (&args.schedule, args.full, args.projector) {
        (Some(_), ..) => "--schedule",
        (None, true, _) => "--full",
        (None, false, true) => "--projector",
        (None, false, false) => return Ok(()),
    };
    let idle = |key: &str, why: &str| failure(Kind::Usage, format!("{key} has no effect beside {flag}: {why}"));
    if config.gradients.is_some() {
        return Err(idle("`gradients`", "no schedule is planned; leave out one of the two"));
    }
    if config.plan.schedule_kind.is_some() {
        return Err(idle("`plan.schedule_kind`", "no schedule is planned; leave out one of the two"));
    }
    Ok(())
}

/// Choices of the plan that uniform LoRA has, too, or the schedule beside its adapter.
const OF_UNIFORM: [&str; 5] = ["base_rank", "scale", "budget", "counting", "schedule_kind"];

/// Keys that do nothing in this training, whatever they do in a search, each with the reason.
fn idle(args: &Args, config: &ExperimentConfig) -> Vec<(String, String)> {
    let of = |keys: &[&str], why: &str| keys.iter().map(|key| ((*key).to_owned(), why.to_owned())).collect::<Vec<_>>();
    let mut idle = of(&["search"], "`train` searches nothing");
    idle.extend(of(&["seeds"], "`train` makes one fine-tune"));
    if args.full {
        idle.extend(of(&["training.optimizer.learning_rate"], "with --full the rate is full_learning_rate"));
    } else {
        idle.extend(of(&["full_learning_rate"], "it needs --full"));
    }
    if args.full || args.projector {
        idle.extend(of(&["plan", "profile"], "no adapter is trained"));
    } else if args.schedule.is_some() || config.gradients.is_none() {
        let (why, scale) = match args.schedule {
            Some(_) => ("the schedule is given with --schedule", ["plan.scale"].as_slice()),
            None => ("no schedule is planned: name a log with --gradients", [].as_slice()),
        };
        let planning = ALL.iter().filter(|choice| !OF_UNIFORM.contains(&choice.key));
        idle.extend(planning.map(|choice| (format!("plan.{}", choice.key), why.to_owned())));
        idle.extend([of(scale, why), of(&["profile"], why)].concat());
    } else {
        let choices = Choices { plan: config.plan.clone(), profile: config.profile };
        idle.extend(choices.idle_by_kind().into_iter().map(|(key, why)| (format!("plan.{key}"), why)));
    }
    idle
}

fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// The recipe that the flags ask for, or the configuration without any.
fn recipe(args: &Args, bench: &Workbench) -> Result<Recipe> {
    if args.full {
        return Ok(Recipe::Full);
    }
    if args.projector {
        return Ok(Recipe::Projector);
    }
    match &args.schedule {
        Some(path) => {
            let text = input::text(path)?;
            let schedule = RankSchedule::from_json(&text).or_fail(Kind::Data, || path.display().to_string())?;
            if !schedule.layout().same_modules(&bench.base.layout) {
                let fits = |targets: &Targets| {
                    bench.base.spec.layout_of(*targets).is_ok_and(|layout| schedule.layout().same_modules(&layout))
                };
                if let Some(targets) = Targets::all().into_iter().find(fits) {
                    let (path, own) = (path.display(), bench.config.targets);
                    let message = format!(
                        "{path}: this schedule is for targets={targets}, and the configuration says {own}; add --set targets={targets}"
                    );
                    return Err(failure(Kind::Data, message));
                }
                return Err(failure(
                    Kind::Data,
                    format!(
                        "{}: this schedule is for {} ({} layers), the base model is {} ({} layers); plan again with \
                         --model {}",
                        path.display(),
                        schedule.layout().model(),
                        schedule.layout().blocks().len(),
                        bench.base.spec.name,
                        bench.base.spec.decoder.layers,
                        bench.base.spec.name
                    ),
                ));
            }
            Ok(Recipe::lora(schedule.ranks, schedule.scale))
        }
        None => planned(bench),
    }
}

/// The schedule that is planned from the configured gradient log; without one uniform LoRA at the base rank.
fn planned(bench: &Workbench) -> Result<Recipe> {
    let plan = &bench.config.plan;
    let Some(log) = &bench.config.gradients else {
        return match plan.schedule_kind {
            None | Some(ScheduleKind::Baseline(Baseline::Uniform)) => bench.config.uniform(&bench.base.layout),
            Some(kind) => Err(failure(
                Kind::Usage,
                format!(
                    "the schedule {kind} follows from gradient norms: name a log with --gradients; `trainer profile` makes \
                     one"
                ),
            )),
        };
    };
    let paths = std::slice::from_ref(log);
    let (run, config) = (bench.config.gradients_run.as_deref(), &bench.config.profile);
    let mut logs = ReadLogs::read(paths, run, config, configured_log_failure)?;
    let profile = logs.profile(&bench.base.layout, config)?;
    let ranks = plan_of(&names(paths), &profile, &bench.base.layout, plan, plan.seed())?.ranks;
    Ok(Recipe::lora(ranks, plan.scale))
}

fn text(document: &Document) -> String {
    let mut rows: Vec<Vec<String>> =
        document.scores.tasks.iter().map(|(task, score)| vec![task.clone(), format!("{score:.1}")]).collect();
    rows.push(vec!["mean".to_owned(), format!("{:.1}", document.scores.mean)]);
    let loss = document.final_loss.map_or_else(String::new, |loss| format!(", final loss {loss:.4}"));
    format!(
        "{} trainable parameters{loss}\n\n{}\nadapter and logs: {}\n",
        thousands(document.trainable_parameters),
        table(&[document.part.name(), "score"], &[1], rows),
        document.run
    )
}
