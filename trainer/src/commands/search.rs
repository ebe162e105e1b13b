//! `trainer search`: profile, plan, and trials that a performance model chooses, run by this program or by a command.

use std::path::Path;

use anyhow::Result;
use hydra_playground::text::significant;
use hydra_shared::adapter::{LoraConfig, PeftOptions};
use hydra_shared::files::outside::{EXPIRES, OutsideStudy, Subject, trials_beside};
use hydra_shared::search::most_replicates;
use hydra_shared::tasks::Split;
use serde_json::Value;

use super::common::{Context, RunArgs, SubjectArgs, finish, load_outside, text_setting, training_workbench, usage};
use super::executor::ExecutorArgs;
use crate::config::{RESOLVED_FILE, Sources};
use crate::error::{Kind, failure, kind_of, message_of};
use crate::model::spec;
use crate::output::{Output, thousands};
use crate::runs::RunFolder;
use crate::runs::atomic::write_file;
use crate::search::outside::{self, OutsideConfig, check_model};
use crate::search::run::{BEST, STUDY_FILE, TRIALS, search_in_run, trial_job};
use crate::search::trial::save_adapter;
use crate::train::experiment::budget_of;

/// PEFT's configuration of the recommended schedule, in a run whose trials a command ran.
const BEST_LORA: &str = "search/lora.json";
/// Heading of the flags of a search over a command.
const BY_COMMAND: &str = "Trials that a command runs";

const AFTER_HELP: &str = "\
Examples:
  trainer search
  trainer search --set search.trials=24 --set search.model=ridge
  trainer search --resume runs/search-001
  trainer search --model path/to/config.json --base-rank 16 --gradients grads.jsonl \\
    --trial 'python train.py --lora {lora} --seed {seed} --out {result}'
  optuna-dashboard runs/search-001/search/study.journal

Schedules that Optuna's enqueue_trial puts into the study (rank_q, …, or the attribute ranks) are run with --resume.

Trials are scored on the validation part; the test part is never read. The best of many noisy scores is mostly luck: so in
the end the most promising schedules, uniform LoRA and the planned ones are fine-tuned again with fresh seeds, fewer of them
with more seeds each (search.replicates is the number of the last two, 0 for none), and the found one is recommended only if
it is better with a probability of 90 %. The recommended schedule stands in search/best.json, an adapter trained with it in
adapter/.

With --trial your own training runs the trials (docs/search.md). Each has a folder search/trials/<hash>/ with lora.json and
schedule.json. The command is split into words as a shell does, and run without one; {lora}, {schedule}, {seed}, {result},
{gradients}, {folder} and {trial} are filled in, and stand in its environment as HYDRA_TRIAL_LORA and so on
(HYDRA_TRIAL_NUMBER for {trial}). It runs here, or with --executor on a Ray or Slurm cluster that shares the run folder. It writes {\"scores\": {\"task\": number}} to {result}, higher being better, and without
--gradients the first trial a gradient log to {gradients}. The recommended schedule is in search/best.json and
search/lora.json.";

/// Fresh seeds of the last two schedules of a search, where nothing else is said.
pub const FRESH_SEEDS: &str = "search.replicates=8";

/// Search for the best ranks within the budget
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Configuration and run folder
    #[command(flatten)]
    run: RunArgs,
    /// The command that runs trials
    #[command(flatten, next_help_heading = BY_COMMAND)]
    trial: TrialArgs,
    /// What it trains
    #[command(flatten, next_help_heading = BY_COMMAND)]
    subject: SubjectArgs,
}

/// How a command runs trials.
#[derive(Debug, clap::Args)]
struct TrialArgs {
    /// Command that trains and scores one schedule; short for --set trial.command=
    #[arg(long, value_name = "COMMAND")]
    trial: Option<String>,
    /// Where it runs
    #[command(flatten)]
    executor: ExecutorArgs,
}

impl TrialArgs {
    /// The flags as `--set` has them.
    fn settings(&self) -> Vec<String> {
        let command = self.trial.iter().map(|command| text_setting("trial.command", command));
        command.chain(self.executor.settings()).collect()
    }
}

/// Runs the command.
///
/// # Errors
/// As `trainer train`; with a command, what it fails with.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let model = &args.run.model;
    let file = args.run.resume.as_ref().map(|run| run.join(RESOLVED_FILE)).or_else(|| model.config.clone());
    let by_command = args.trial.trial.is_some()
        || model.set.iter().any(|setting| setting.starts_with("trial."))
        || file.is_some_and(|file| has_trials(&file));
    if by_command {
        return by_a_command(args, context);
    }
    if !args.trial.settings().is_empty() || !args.subject.settings().is_empty() {
        let message = "--model, --base-rank, --gradients, --include, --exclude, --parallel, --executor, --insecure \
                       and what begins with --trial- are for trials that a command runs; give it with --trial COMMAND";
        return Err(usage(message));
    }
    by_itself(args, context)
}

/// Whether a configuration has the table of a command's trials.
fn has_trials(file: &Path) -> bool {
    // What cannot be read is named where it is loaded.
    let text = std::fs::read_to_string(file).unwrap_or_default();
    toml::from_str::<toml::Table>(&text).is_ok_and(|table| table.contains_key("trial"))
}

/// A search whose trials this program runs.
fn by_itself(args: &Args, context: &Context) -> Result<()> {
    let resolved = args.run.load(context, &[FRESH_SEEDS])?;
    let bench = training_workbench(resolved.value.clone(), context)?;
    if args.run.dry_run {
        bench.part(Split::Train)?;
        bench.part(Split::Validation)?;
        let config = bench.resolved()?;
        return context.output.result(&config, || {
            format!(
                "would run a profile and at most {} trials and {} replicates of {} steps within {} trainable parameters",
                config.search.trials,
                most_replicates(config.search.replicates),
                config.training.steps,
                thousands(bench.config.budget(&bench.base.layout).allowed)
            )
        });
    }
    // Data that cannot be used is refused before there is a run folder.
    bench.part(Split::Train)?;
    bench.part(Split::Validation)?;
    let run = args.run.open("search", context, &resolved)?;
    let result = search_in_run(&run, &bench, &context.output).and_then(|found| {
        let job = trial_job(&bench, found.searched.picked()?)?;
        save_adapter(&bench, &job, &context.output, "recommended schedule", &run.file(TRIALS)?, &run.file("adapter")?)?;
        let mut document = found.searched.summary()?;
        document["run"] = run.path().display().to_string().into();
        document["schedule"] = run.path().join(BEST).display().to_string().into();
        Ok(document)
    });
    let document = finish(run, result)?;
    context.output.result(&document, || text(&document))
}

fn text(document: &Value) -> String {
    let mut text = format!(
        "{} trials; the best score is {}, of trial {}\nrecommended: trial {}, {}\nschedule: {}\n",
        document["trials"],
        significant(document["best"]["mean"].as_f64().unwrap_or(f64::NAN)),
        document["best"]["trial"],
        document["pick"]["trial"],
        document["pick"]["reason"].as_str().unwrap_or_default(),
        document["schedule"].as_str().unwrap_or_default()
    );
    if let Some(lora) = document["lora"].as_str() {
        text += &format!("PEFT configuration: {lora}\n");
    }
    text
}

/// A search whose trials are run by a command.
fn by_a_command(args: &Args, context: &Context) -> Result<()> {
    let output = &context.output;
    let sources = match &args.run.resume {
        None => {
            let set = [args.run.model.settings(), args.subject.settings(), args.trial.settings()].concat();
            let presets = vec![FRESH_SEEDS.to_owned()];
            Sources { presets, ..Sources::new(args.run.model.config.clone(), set) }
        }
        Some(_) if !args.subject.settings().is_empty() => {
            let message = "--resume goes on with the model, base rank, modules and gradients that the run began with; leave \
                           --model, --base-rank, --gradients, --include and --exclude out";
            return Err(usage(message));
        }
        Some(run) => Sources { file: Some(run.join(RESOLVED_FILE)), set: args.trial.settings(), ..Sources::default() },
    };
    let resolved = load_outside(&sources, output)?;
    let config = &resolved.value;
    let trials = args.run.resume.as_deref().unwrap_or(&args.run.runs).join(TRIALS);
    let example = outside::example(&config.trial, &trials)?;
    if args.run.dry_run {
        return dry_run(config, &example, output);
    }
    let (run, subject) = match &args.run.resume {
        None => {
            // What cannot be used is refused before there is a run folder.
            let subject = subject_of(config, output)?;
            (args.run.open("search", context, &resolved)?, Some(subject))
        }
        Some(path) => {
            let run = RunFolder::resume(path, "search")?;
            // What was given now holds from now on.
            write_file(&run.file(RESOLVED_FILE)?, resolved.text.as_bytes())?;
            (run, None)
        }
    };
    let path = run.path().display().to_string();
    let result = search_by_command(&run, config, subject, output).map_err(|error| match kind_of(&error) {
        Kind::Interrupted => error,
        kind => failure(
            kind,
            format!("{}\nnothing is lost; go on with: trainer search --resume {path}", message_of(&error)),
        ),
    });
    let document = finish(run, result)?;
    output.result(&document, || text(&document))
}

/// What a search over a command is about.
fn subject_of(config: &OutsideConfig, output: &Output) -> Result<Subject> {
    Subject::read(&config.subject(), spec::load_catalog(&config.model)?, output)
}

/// Says what would be run.
fn dry_run(config: &OutsideConfig, example: &str, output: &Output) -> Result<()> {
    let subject = subject_of(config, output)?;
    let budget = budget_of(&config.plan, subject.layout());
    let document = serde_json::json!({
        "config": config,
        "modules": subject.layout().len(),
        "budget": budget,
        "profile": subject.is_profiled(),
        "command": example,
    });
    output.result(&document, || {
        format!(
            "would run at most {} trials and {} replicates of {} modules within {} ({} at a time, on {}), each with a \
             command such as\n{example}{}",
            config.search.trials,
            most_replicates(config.search.replicates),
            subject.layout().len(),
            thousands(budget.allowed),
            config.trial.parallel,
            config.trial.executor,
            if subject.is_profiled() { "" } else { "\nthe first alone, whose gradient log becomes the profile" }
        )
    })
}

/// Searches in a run folder; `subject` is what was read of a search that begins.
fn search_by_command(
    run: &RunFolder,
    config: &OutsideConfig,
    subject: Option<Subject>,
    output: &Output,
) -> Result<Value> {
    let path = run.file(STUDY_FILE)?;
    let mut study = match OutsideStudy::open(&path, output)? {
        Some(study) => {
            // The study has all that is needed; a model that is gone is no hindrance.
            if let Ok(model) = spec::load_catalog(&config.model) {
                check_model(&config.model, &study.study().metadata.layout, &model.catalog)?;
            }
            study
        }
        None => {
            let subject = subject.map_or_else(|| subject_of(config, output), Ok)?;
            OutsideStudy::begin(&path, config.settings(EXPIRES), subject, output)?
        }
    };
    let folder = path.parent().unwrap_or(run.path()).to_owned();
    let searched = outside::search(&mut study, &config.trial, &folder, output)?;
    let best = searched.picked()?;
    let schedule = study.settings().schedule(best)?;
    let options = PeftOptions { base_model: None, dropout: study.settings().dropout };
    let lora = LoraConfig::new(&schedule, &options).for_training();
    write_file(&run.file(BEST)?, schedule.to_json()?.as_bytes())?;
    write_file(&run.file(BEST_LORA)?, lora.to_json()?.as_bytes())?;
    let mut document = searched.summary()?;
    for (key, place) in [("run", run.path().to_owned()), ("schedule", run.file(BEST)?), ("lora", run.file(BEST_LORA)?)]
    {
        document[key] = place.display().to_string().into();
    }
    document["trial_folders"] = trials_beside(&path).display().to_string().into();
    Ok(document)
}
