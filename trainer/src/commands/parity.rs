//! `trainer parity`: does this implementation compute what another one did?

use std::path::PathBuf;

use anyhow::Result;
use hydra_shared::names::first_names;
use serde::Serialize;

use super::common::Context;
use crate::device::choose;
use crate::error::Reported;
use crate::evaluation::parity::{Comparison, compare};
use crate::output::table;

const AFTER_HELP: &str = "\
Examples:
  trainer parity my-case
  trainer parity my-case --device wgpu --json

The folder holds a model (config.json, vision_config.json, model.safetensors) and a dump of what PyTorch computed with it:
case.safetensors with images, input_ids (-200 marks an image), attention_mask, labels (-100 is ignored) and the outputs
vision_features, projected, logits, loss, lora_logits, lora_loss; adapter/ as PEFT writes it; lora_grad_norms.json;
trajectory.json. What is there is compared; the exit code is 1 if anything differs by more than 1e-4.";

/// Compare a model's results with a dump from PyTorch
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Folder of the case
    folder: PathBuf,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document {
    device: String,
    passed: bool,
    comparisons: Vec<Comparison>,
}

/// Runs the command.
///
/// # Errors
/// A case that cannot be read; after the table is printed, any difference beyond the tolerance.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let chosen = choose(context.device)?;
    context.output.note(format_args!("device: {} ({})", chosen.name, chosen.reason));
    let comparisons = compare(&args.folder, &chosen.device)?;
    let differing: Vec<String> = comparisons.iter().filter(|c| !c.passed).map(|c| c.name.clone()).collect();
    let document = Document { device: chosen.name, passed: differing.is_empty(), comparisons };
    context.output.result(&document, || text(&document))?;
    if differing.is_empty() {
        return Ok(());
    }
    Err(Reported { message: format!("differs from the reference: {}", first_names(&differing)) }.into())
}

fn text(document: &Document) -> String {
    let rows = document.comparisons.iter().map(|comparison| {
        vec![
            comparison.name.clone(),
            comparison.difference.map_or("not finite".to_owned(), |difference| format!("{difference:.1e}")),
            format!("{:.0e}", comparison.tolerance),
            if comparison.passed { "ok" } else { "differs" }.to_owned(),
            comparison.worst.clone().unwrap_or_default(),
        ]
    });
    table(&["quantity", "difference", "tolerance", "", "largest at"], &[1, 2], rows)
}
