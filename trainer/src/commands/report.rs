//! `trainer report`: renders a run's `report.json` again.

use std::path::PathBuf;

use hydra_shared::json;
use serde::Serialize;

use super::common::Context;
use crate::error::{Kind, ResultExt, failure};
use crate::input;
use crate::report::{REPORT_DATA, REPORT_PAGE, ReportData, render};
use crate::runs::atomic::write_file;

const AFTER_HELP: &str = "\
Examples:
  trainer report runs/demo-001
  trainer report runs/demo-001 --out report.html";

/// Render the report of a run as one self-contained page
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Run folder with a report.json, or that file itself
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Where the page goes; beside report.json if not given
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Written {
    report: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// A run without a report, a report of another version, a page that cannot be written.
pub fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let file = if args.run.is_dir() { args.run.join(REPORT_DATA) } else { args.run.clone() };
    if !file.is_file() {
        let message = format!(
            "{}: there is no such file; `trainer demo` and `trainer search` write one at their end",
            file.display()
        );
        return Err(failure(Kind::Data, message));
    }
    let data: ReportData = json::from_str(&input::text(&file)?)
        .or_fail(Kind::Data, || format!("{}: this is not the data of a report", file.display()))?;
    let out = args.out.clone().unwrap_or_else(|| file.with_file_name(REPORT_PAGE));
    write_file(&out, render(&data).as_bytes())?;
    let written = Written { report: out };
    context.output.result(&written, || format!("{}", written.report.display()))
}
