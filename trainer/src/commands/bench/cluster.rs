//! `trainer bench cluster`: what whoever submits a search's trials costs, on a cluster that is computed.
//!
//! Everything but the machines, the clock and the recommendation at the end is what `trainer search --trial` runs: study and
//! journal on the disk, folders of trials, new attempts.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hydra_shared::files::digest::sha256_hex;
use hydra_shared::files::outside::{EXPIRES, OutsideStudy, Subject};
use hydra_shared::search::{Rule, SearchConfig, Trial};
use serde::Serialize;

use super::measure::Memory;
use crate::commands::common::Context;
use crate::error::{Kind, failure};
use crate::model::spec;
use crate::search::command::{CommandTrials, Submitter, TrialConfig};
use crate::search::drive::drive;
use crate::search::engines::simulated::{Course, SimulatedClock, SimulatedCluster};
use crate::search::engines::{Clock as _, End, Job};
use crate::search::outside::OutsideConfig;

/// Of a thousand jobs so many are lost with their machine.
const LOST: u64 = 10;
/// A trial takes so long at least, and ten times as long at most.
const SHORTEST: Duration = Duration::from_secs(60);
/// A job that is lost is reported as such so long after.
const NOTICED: Duration = Duration::from_secs(20);

/// Submit the trials of a random search to a simulated cluster, of whose jobs 1 % are lost
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  trainer bench cluster --gradients grads.jsonl --json")]
pub struct Args {
    /// Machines, a trial each
    #[arg(long, default_value_t = 1000)]
    machines: usize,
    /// Trials of the search
    #[arg(long, default_value_t = 10_000)]
    trials: usize,
    /// Gradient log of a run of `--model`
    #[arg(long, value_name = "LOG")]
    gradients: PathBuf,
    /// What is fine-tuned
    #[arg(long, default_value = "smollm2-135m")]
    model: String,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document {
    machines: usize,
    trials: usize,
    jobs: u64,
    /// Jobs that ended with their machine, and were run again.
    lost: u64,
    /// From the first job to the last, by the cluster's clock.
    cluster_seconds: f64,
    /// What all machines computed, together.
    trial_seconds: f64,
    /// What submitting, looking after and recording them took here.
    own_seconds: f64,
    journal_bytes: u64,
    memory: Memory,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let &Args { machines, trials, .. } = args;
    if machines == 0 || trials == 0 {
        return Err(failure(Kind::Usage, "--machines and --trials must each be at least 1"));
    }
    let output = &context.output;
    let folder = tempfile::tempdir()?;
    let gradients = vec![args.gradients.clone()];
    let mut config = OutsideConfig { model: args.model.clone(), gradients, ..OutsideConfig::default() };
    config.plan.base_rank = 16;
    config.search = SearchConfig { trials, patience: trials, acquisition: Rule::RANDOM, ..SearchConfig::default() };
    let subject = Subject::read(&config.subject(), spec::load_catalog(&config.model)?, output)?;
    let path = folder.path().join("study.journal");
    let mut study = OutsideStudy::begin(&path, config.settings(EXPIRES), subject, output)?;

    let clock = SimulatedClock::default();
    let (mut jobs, mut lost) = (0, 0);
    let cluster = SimulatedCluster::new(clock.clone(), machines, |job| {
        jobs += 1;
        let course = course(job);
        lost += u64::from(matches!(course.end, End::Lost(_)));
        course
    });
    let busy = cluster.busy.clone();
    let (settings, folders) = (study.settings().clone(), study.trials());
    let trial = TrialConfig { command: "train {lora}".to_owned(), parallel: machines, ..TrialConfig::default() };
    let folder_of = |trial: &Trial| settings.folder(&folders, trial);
    let begun = Instant::now();
    let submitter = Submitter::new(&trial, Box::new(cluster), Box::new(clock.clone()), "cluster".to_owned(), output)?;
    let mut commands = CommandTrials::new(submitter, output, folder_of);
    drive(study.conversation(), &mut commands, machines, output)?;
    drop(commands);
    let own_seconds = begun.elapsed().as_secs_f64();
    let scored = (study.study().complete().count(), study.study().trials.len());
    ensure!(scored == (trials, trials), "of {trials} trials {} are scored, among {}", scored.0, scored.1);
    ensure!(jobs == trials as u64 + lost, "{jobs} jobs were run for {trials} trials, of which {lost} were lost");
    let document = Document {
        machines,
        trials,
        jobs,
        lost,
        cluster_seconds: clock.now().as_secs_f64(),
        trial_seconds: busy.get().as_secs_f64(),
        own_seconds,
        journal_bytes: std::fs::metadata(&path)?.len(),
        memory: Memory::of_process(),
    };
    output.result(&document, || {
        format!(
            "{trials} trials on {machines} machines, {lost} jobs lost and run again: {own_seconds:.1} s here for {:.0} s of trials",
            document.trial_seconds
        )
    })
}

/// What becomes of a job, by its name.
fn course(job: &Job) -> Course {
    let hash = number_of(&sha256_hex(job.id.as_bytes()));
    let time = SHORTEST + SHORTEST * u32::try_from(hash % 1000).unwrap_or_default() * 9 / 1000;
    if hash / 1000 % 1000 < LOST {
        return Course { time: time / 2 + NOTICED, result: None, end: End::Lost("its machine died".to_owned()) };
    }
    // By the trial alone, whichever attempt it is: its folder's name is a hash.
    let score = job.folder.path().file_name().map_or(0, |name| number_of(&name.to_string_lossy())) % 10_000;
    let result = format!("{{\"scores\": {{\"task\": {}}}}}", score as f64 / 100.0);
    Course { time, result: Some(result), end: End::Exited(0) }
}

/// The first digits of a hash.
fn number_of(hash: &str) -> u64 {
    hash.get(..8).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default()
}
