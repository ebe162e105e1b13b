//! `trainer profile`: gradient norms per layer and projection, from a fine-tune with uniform LoRA.

use anyhow::Result;
use hydra_shared::gradients::GradientProfile;
use hydra_shared::layout::Projection;
use hydra_shared::tasks::Split;
use serde::Serialize;

use super::common::{Context, RunArgs, finish, training_workbench};
use crate::output::table;
use crate::search::run::measure_profile;

const AFTER_HELP: &str = "\
Examples:
  trainer profile
  trainer profile --set plan.base_rank=8 --set training.steps=100
  trainer plan --gradients runs/profile-001/profile/grads.jsonl --model tiny-mobilevlm --base-rank 4";

/// Measure gradient norms with uniform LoRA
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Configuration and run folder
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Serialize)]
struct Document {
    run: String,
    gradients: String,
    layer_norms: Vec<f64>,
    profile: GradientProfile,
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
        let config = bench.resolved()?;
        return context.output.result(&config, || {
            format!(
                "would train uniform LoRA at rank {} for {} steps and log its gradients",
                config.plan.base_rank, config.training.steps
            )
        });
    }
    // Data that cannot be used is refused before there is a run folder.
    bench.part(Split::Train)?;
    let run = args.run.open("profile", context, &resolved)?;
    let layer_rule = bench.config.plan.layer_norm;
    let result = measure_profile(&run, &bench, &context.output).map(|profile| Document {
        run: run.path().display().to_string(),
        gradients: run.path().join("profile/grads.jsonl").display().to_string(),
        layer_norms: profile.layer_norms(&bench.base.layout, layer_rule),
        profile,
    });
    let document = finish(run, result)?;
    context.output.result(&document, || text(&document))
}

fn text(document: &Document) -> String {
    let profile = &document.profile;
    let mut header = vec!["layer"];
    header.extend(Projection::ALL.iter().map(|projection| projection.name()));
    header.push("mean");
    let rows = profile.modules.chunks(Projection::ALL.len()).zip(&document.layer_norms).enumerate();
    let rows = rows.map(|(layer, (modules, norm))| {
        let mut row = vec![layer.to_string()];
        row.extend(modules.iter().map(|module| format!("{:.4}", module.mean)));
        row.push(format!("{norm:.4}"));
        row
    });
    let numbers: Vec<usize> = (0..header.len()).collect();
    format!("{}\ngradient log: {}\n", table(&header, &numbers, rows), document.gradients)
}
