//! A search on a cluster of a thousand machines, computed: what whoever submits costs. `bench/scale` runs it.
//!
//! Everything but the machines, the clock and the recommendation at the end is what `trainer search --trial` runs: study and journal on the disk, folders of
//! trials, new attempts. Prints JSON.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement fails loudly, and prints what it measured")]

use std::path::Path;
use std::time::{Duration, Instant};

use hydra_shared::files::digest::sha256_hex;
use hydra_shared::files::outside::{EXPIRES, OutsideStudy, Subject};
use hydra_shared::search::{Rule, SearchConfig, Trial};
use hydra_trainer::model::spec;
use hydra_trainer::output::Output;
use hydra_trainer::search::command::{CommandTrials, Submitter, TrialConfig};
use hydra_trainer::search::drive::drive;
use hydra_trainer::search::engines::simulated::{Course, SimulatedClock, SimulatedCluster};
use hydra_trainer::search::engines::{Clock as _, End, Job};
use hydra_trainer::search::outside::OutsideConfig;

/// Of a thousand jobs so many are lost with their machine.
const LOST: u64 = 10;
/// A trial takes so long at least, and ten times as long at most.
const SHORTEST: Duration = Duration::from_secs(60);
/// A job that is lost is reported as such so long after.
const NOTICED: Duration = Duration::from_secs(20);

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let [machines, trials] = numbers.try_into().unwrap_or([1000, 10_000]);
    let folder = tempfile::tempdir().unwrap();
    let log = Path::new(env!("CARGO_MANIFEST_DIR")).join("../static/samples/grad-norms.jsonl.gz");
    let output = Output::new(false, true);
    let mut config =
        OutsideConfig { model: "smollm2-135m".to_owned(), gradients: vec![log], ..OutsideConfig::default() };
    config.plan.base_rank = 16;
    config.search = SearchConfig { trials, patience: trials, acquisition: Rule::RANDOM, ..SearchConfig::default() };
    let subject = Subject::read(&config.subject(), spec::load_catalog(&config.model).unwrap(), &output).unwrap();
    let path = folder.path().join("study.journal");
    let mut study = OutsideStudy::begin(&path, config.settings(EXPIRES), subject, &output).unwrap();

    let clock = SimulatedClock::default();
    let mut lost = 0_u64;
    let mut jobs = 0_u64;
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
    let submitter =
        Submitter::new(&trial, Box::new(cluster), Box::new(clock.clone()), "scale".to_owned(), &output).unwrap();
    let mut commands = CommandTrials::new(submitter, &output, folder_of);
    drive(study.conversation(), &mut commands, machines, &output).unwrap();
    drop(commands);
    let own = begun.elapsed();
    let complete = study.study().complete().count();
    assert_eq!((complete, study.study().trials.len()), (trials, trials), "every trial is scored once");
    assert_eq!(jobs, trials as u64 + lost, "nothing is run twice but what was lost");
    let document = serde_json::json!({
        "machines": machines,
        "trials": trials,
        "jobs": jobs,
        "lost": lost,
        "cluster_seconds": clock.now().as_secs_f64(),
        "trial_seconds": busy.get().as_secs_f64(),
        "own_seconds": own.as_secs_f64(),
        "peak_memory_bytes": peak_memory(),
        "journal_bytes": std::fs::metadata(&path).unwrap().len(),
    });
    println!("{document}");
}

/// What becomes of a job, by its name.
fn course(job: &Job) -> Course {
    let hash = u64::from_str_radix(&sha256_hex(job.id.as_bytes())[..12], 16).unwrap();
    let time = SHORTEST + SHORTEST * u32::try_from(hash % 1000).unwrap() * 9 / 1000;
    if hash / 1000 % 1000 < LOST {
        return Course { time: time / 2 + NOTICED, result: None, end: End::Lost("its machine died".to_owned()) };
    }
    // By the trial alone, whichever attempt it is.
    let name = job.folder.path().file_name().unwrap().to_string_lossy().into_owned();
    let score = u64::from_str_radix(&name[..8], 16).unwrap() % 10_000;
    let result = format!("{{\"scores\": {{\"task\": {}}}}}", score as f64 / 100.0);
    Course { time, result: Some(result), end: End::Exited(0) }
}

/// The most memory that this process had, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
