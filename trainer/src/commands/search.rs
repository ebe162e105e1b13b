//! `trainer search`: profile, plan, and trials that a performance model chooses.

use anyhow::Result;
use hydra_shared::tasks::Split;

use super::common::{Context, RunArgs, finish, training_workbench};
use crate::output::thousands;
use crate::search::run::{TRIALS, search_in_run, summary, trial_job};
use crate::search::trial::save_adapter;

const AFTER_HELP: &str = "\
Examples:
  trainer search
  trainer search --set search.trials=24 --set search.model=ridge
  trainer search --resume runs/search-001
  optuna-dashboard runs/search-001/search/study.journal

Schedules that Optuna's enqueue_trial puts into the study (rank_q, …, or the attribute ranks) are run with --resume.

Trials are scored on the validation part; the test part is never read. The best schedule stands in search/best.json, an
adapter trained with it in adapter/.";

/// Search for the best ranks within the budget
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Configuration and run folder
    #[command(flatten)]
    run: RunArgs,
}

/// Runs the command.
///
/// # Errors
/// As `trainer train`.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let resolved = args.run.load(context, &[])?;
    let bench = training_workbench(resolved.value.clone(), context)?;
    if args.run.dry_run {
        bench.part(Split::Train)?;
        bench.part(Split::Validation)?;
        let config = bench.resolved()?;
        return context.output.result(&config, || {
            format!(
                "would run a profile and at most {} trials of {} steps within {} trainable parameters",
                config.search.trials,
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
        let job = trial_job(&bench, &found.best()?.ranks)?;
        save_adapter(&bench, &job, &context.output, "best schedule", &run.file(TRIALS)?, &run.file("adapter")?)?;
        let mut document = summary(&found)?;
        document["run"] = run.path().display().to_string().into();
        document["schedule"] = run.path().join("search/best.json").display().to_string().into();
        Ok(document)
    });
    let document = finish(run, result)?;
    context.output.result(&document, || {
        format!(
            "{} trials; the best is trial {} with {:.2}\nschedule: {}\n",
            document["trials"],
            document["best"]["trial"],
            document["best"]["mean"].as_f64().unwrap_or(f64::NAN),
            document["schedule"].as_str().unwrap_or_default()
        )
    })
}
