//! Trials that a command runs: somebody else's training, in any language, on any [engine](super::engines).
//!
//! A trial is a folder with what the command is given ([`folder`]), the command with the folder's paths in it ([`template`]), and
//! attempts until one ends well or there were enough. The same folder is the same trial: a valid result in it is taken and the
//! command not run again, and a command that is still running from an earlier search is waited for.
//!
//! One thread looks after all trials: it looks how they are, and does for each what follows from that ([`Submitter`]).

mod attempt;
mod submitter;
pub mod template;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use hydra_shared::files::trial_folder::{self as folder, TrialFolder};
use hydra_shared::search::{Outcome, Study, Trial};
use serde::{Deserialize, Serialize};

pub use self::attempt::Over;
pub use self::submitter::{Scores, Submitter};
use super::drive::Evaluator;
use super::engines::{Engine, EngineChoice, EngineConfig, Resources};
use crate::error::{Kind, failure};
use crate::output::Output;

/// How trials are run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrialConfig {
    /// The command, with placeholders.
    pub command: String,
    /// Trials at a time.
    pub parallel: usize,
    /// Seconds after which an attempt is ended.
    pub timeout: Option<u64>,
    /// New attempts of a trial that failed.
    pub retries: u32,
    /// Where they run.
    pub executor: EngineChoice,
    /// Whether plain HTTP to other machines is taken.
    pub insecure: bool,
    /// What each needs.
    pub resources: Resources,
}

impl Default for TrialConfig {
    fn default() -> Self {
        Self {
            command: String::new(),
            parallel: 1,
            timeout: None,
            retries: 2,
            executor: EngineChoice::default(),
            insecure: false,
            resources: Resources::default(),
        }
    }
}

impl TrialConfig {
    /// Time after which an attempt is ended.
    pub fn limit(&self) -> Option<Duration> {
        self.timeout.map(Duration::from_secs)
    }

    /// Refuses numbers that cannot be.
    ///
    /// # Errors
    /// [`Kind::Usage`], with the name.
    pub fn validate(&self) -> Result<()> {
        if self.parallel == 0 || self.timeout == Some(0) {
            return Err(failure(Kind::Usage, "trial.parallel and trial.timeout must each be at least 1"));
        }
        self.resources.validate()?;
        if !matches!(self.executor, EngineChoice::Ray { .. }) {
            self.resources.whole_cpus()?;
            self.resources.whole_gpus()?;
        }
        Ok(())
    }

    /// What is said of resources that the engine does not hand out; none where it hands out all that are asked for.
    pub fn unheeded(&self) -> Option<String> {
        let Resources { cpus, memory, custom, .. } = &self.resources;
        let asked = [
            ("--trial-cpus", cpus.is_some()),
            ("--trial-memory", memory.is_some()),
            ("--trial-resource", !custom.is_empty()),
        ];
        let asked: Vec<_> = asked.iter().filter(|(_, is_asked)| *is_asked).map(|(name, _)| *name).collect();
        (matches!(self.executor, EngineChoice::Local { .. }) && !asked.is_empty()).then(|| {
            format!(
                "nothing is handed out here by {}, which clusters heed; --parallel says how many trials share this machine",
                asked.join(" and ")
            )
        })
    }

    /// The engine. `folder` is what it may keep something in.
    ///
    /// # Errors
    /// An engine that is not there, or refuses.
    pub fn engine(&self, folder: &Path) -> Result<Box<dyn Engine>> {
        let config = EngineConfig {
            choice: self.executor.clone(),
            resources: self.resources.clone(),
            parallel: self.parallel,
            limit: self.limit(),
            folder: folder.to_owned(),
            insecure: self.insecure,
        };
        config.engine()
    }
}

/// Makes the folder of a trial.
type FolderOf<'a> = Box<dyn Fn(&Trial) -> Result<TrialFolder> + 'a>;

/// The trials of a study, each in a folder of its own.
pub struct CommandTrials<'a> {
    submitter: Submitter<'a>,
    folder_of: FolderOf<'a>,
    output: &'a Output,
}

impl<'a> CommandTrials<'a> {
    /// Trials that `submitter` hands over, each in the folder that `folder_of` makes for it.
    pub fn new(
        submitter: Submitter<'a>,
        output: &'a Output,
        folder_of: impl Fn(&Trial) -> Result<TrialFolder> + 'a,
    ) -> Self {
        Self { submitter, folder_of: Box::new(folder_of), output }
    }

    /// Says whether a trial counts as done only with a gradient log.
    pub fn need_gradients(&mut self, needed: bool) {
        self.submitter.need_gradients(needed);
    }
}

impl Evaluator for CommandTrials<'_> {
    fn start(&mut self, trial: &Trial) -> Result<()> {
        self.submitter.begin((self.folder_of)(trial)?)
    }

    fn finish(&mut self, trial: &Trial, study: &Study) -> Result<Outcome> {
        let number = trial.number;
        let (folder, over) = self.submitter.wait(number)?;
        match over {
            Over::Scored { scores, wall_seconds } => {
                check_tasks(number, &folder, &scores, &study.metadata.benchmarks)?;
                Ok(Outcome::Complete { scores, wall_seconds })
            }
            // Where no trial has been scored yet, the command is more likely to blame than the schedule.
            Over::Failed { kind, message } if study.complete().next().is_none() => Err(failure(
                kind,
                format!(
                    "{message}\nno trial has been scored yet, so the search stops here; \
                                           the trial is run again when it goes on"
                ),
            )),
            Over::Failed { message, .. } => {
                self.output.warn(format_args!("{message}\nit counts as failed, and the search goes on"));
                Ok(Outcome::Failed { error: message, wall_seconds: None })
            }
        }
    }
}

/// Refuses scores of other tasks than the study's, and puts the result aside.
fn check_tasks(number: usize, folder: &TrialFolder, scores: &Scores, expected: &[String]) -> Result<()> {
    let same = scores.len() == expected.len() && expected.iter().all(|task| scores.contains_key(task));
    if expected.is_empty() || same {
        return Ok(());
    }
    let found: Vec<&str> = scores.keys().map(String::as_str).collect();
    let refused = folder.refuse_result()?;
    let message = format!(
        "trial {number}: {} holds the scores {}, those of the first trial are {}; the file now is {}. Let the command write the \
         same scores in every trial; the trial is run again when the search goes on",
        folder.result().display(),
        found.join(", "),
        expected.join(", "),
        refused.display()
    );
    Err(failure(Kind::Data, message))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use hydra_shared::files::digest::sha256_hex;
    use hydra_shared::files::outside::{EXPIRES, OutsideStudy, Subject};
    use hydra_shared::performance::ModelKind;
    use hydra_shared::search::{PlainTrial, Rule, SearchConfig};

    use super::*;
    use crate::error::kind_of;
    use crate::model::spec;
    use crate::search::engines::simulated::{Course, SimulatedClock, SimulatedCluster};
    use crate::search::engines::{End, Job, Unshared};
    use crate::search::outside::{OutsideConfig, search_with};

    const MINUTE: Duration = Duration::from_secs(60);
    const MACHINES: usize = 7;

    fn study(folder: &Path, trials: usize, output: &Output) -> OutsideStudy {
        let log = Path::new(env!("CARGO_MANIFEST_DIR")).join("../static/samples/grad-norms.jsonl.gz");
        let mut config =
            OutsideConfig { model: "smollm2-135m".to_owned(), gradients: vec![log], ..OutsideConfig::default() };
        config.plan.base_rank = 16;
        config.search = SearchConfig {
            trials,
            patience: trials,
            acquisition: Rule::RANDOM,
            model: ModelKind::Ridge,
            ..SearchConfig::default()
        };
        let subject = Subject::read(&config.subject(), spec::load_catalog(&config.model).unwrap(), output).unwrap();
        OutsideStudy::begin(&folder.join("study.journal"), config.settings(EXPIRES), subject, output).unwrap()
    }

    /// A search whose jobs take these courses: its trials, and how many jobs there were.
    fn searched(
        study: &mut OutsideStudy,
        config: &TrialConfig,
        mut course_of: impl FnMut(&Job) -> Course,
    ) -> (Result<Vec<PlainTrial>>, usize) {
        let output = Output::new(false, true);
        let clock = SimulatedClock::default();
        let jobs = RefCell::new(0);
        let cluster = SimulatedCluster::new(clock.clone(), MACHINES, |job| {
            *jobs.borrow_mut() += 1;
            course_of(job)
        });
        let (settings, folders) = (study.settings().clone(), study.trials());
        let folder_of = |trial: &Trial| settings.folder(&folders, trial);
        let submitter = Submitter::new(config, Box::new(cluster), Box::new(clock), "test".to_owned(), &output).unwrap();
        let mut commands = CommandTrials::new(submitter, &output, folder_of);
        let done = search_with(study, &mut commands, config.parallel, &output).map(drop);
        drop(commands);
        let plain = |trial: Trial| PlainTrial { wall_seconds: None, ..trial.into() };
        let trials = done.map(|()| study.study().trials.iter().cloned().map(plain).collect());
        let jobs = *jobs.borrow();
        (trials, jobs)
    }

    fn config() -> TrialConfig {
        TrialConfig { command: "train {lora}".to_owned(), parallel: MACHINES, ..TrialConfig::default() }
    }

    /// A number between 0 and 99 that follows from a text.
    fn chance(text: &str) -> u64 {
        u64::from_str_radix(&sha256_hex(text.as_bytes())[..8], 16).unwrap() % 100
    }

    /// A job that ends well, with a score that follows from its trial.
    fn good(job: &Job) -> Course {
        let folder = job.folder.path().file_name().unwrap().to_string_lossy().into_owned();
        let minutes = u32::try_from(1 + chance(&job.id) % 10).unwrap();
        let result = format!("{{\"scores\": {{\"task\": {}}}}}", chance(&folder));
        Course { time: MINUTE * minutes, result: Some(result), end: End::Exited(0) }
    }

    #[test]
    fn machines_that_die_and_results_that_are_cut_off_change_nothing_and_every_trial_counts_once() {
        let output = Output::new(false, true);
        let folder = tempfile::tempdir().unwrap();
        let (whole, jobs) = searched(&mut study(folder.path(), 60, &output), &config(), good);
        assert_eq!(jobs, 60);
        let folder = tempfile::tempdir().unwrap();
        let mut failed = 0;
        let (disturbed, jobs) = searched(&mut study(folder.path(), 60, &output), &config(), |job| {
            let course = match chance(&format!("{} is disturbed", job.id)) {
                // Having written its result, which must not be taken, nor be there twice.
                0..10 => Course { end: End::Lost("its machine died".to_owned()), ..good(job) },
                10..15 => Course { result: None, end: End::NeverBegan("it waited too long".to_owned()), ..good(job) },
                15..20 => Course { result: Some("{\"scores\": {\"ta".to_owned()), ..good(job) },
                20..25 => Course { result: None, end: End::Killed("signal 9".to_owned()), ..good(job) },
                _ => return good(job),
            };
            failed += 1;
            course
        });
        assert!(failed > 10, "{failed}");
        assert_eq!(jobs, 60 + failed, "what went well is not run again");
        assert_eq!(disturbed.unwrap(), whole.unwrap());
    }

    #[test]
    fn a_trial_that_never_ends_is_ended_at_the_limit_as_often_as_there_are_attempts_and_counts_as_failed() {
        let output = Output::new(false, true);
        let folder = tempfile::tempdir().unwrap();
        let config = TrialConfig { timeout: Some(3600), retries: 1, ..config() };
        let never = Duration::from_secs(u64::from(u32::MAX));
        let (trials, jobs) = searched(&mut study(folder.path(), 12, &output), &config, |job| {
            if job.folder.trial() == 5 { Course { time: never, ..good(job) } } else { good(job) }
        });
        let trials = trials.unwrap();
        assert_eq!(jobs, 13);
        let error = trials[5].error.clone().unwrap();
        assert!(error.contains("after 3600 s, the limit of --trial-timeout (2 attempts)"), "{error}");
        assert_eq!(trials.iter().filter(|trial| trial.error.is_some()).count(), 1);
    }

    #[test]
    fn a_trial_that_no_cluster_has_a_place_for_counts_as_failed_after_a_day() {
        let output = Output::new(false, true);
        let folder = tempfile::tempdir().unwrap();
        let waited = MINUTE * 15;
        let (trials, jobs) = searched(&mut study(folder.path(), 12, &output), &config(), |job| {
            if job.folder.trial() != 5 {
                return good(job);
            }
            Course { time: waited, result: None, end: End::NeverBegan("it waited too long".to_owned()) }
        });
        assert!((11 + 90..=11 + 97).contains(&jobs), "{jobs}");
        let error = trials.unwrap()[5].error.clone().unwrap();
        assert!(error.contains("had no place for it for 24 hours, the last time so: it waited too long"), "{error}");
    }

    #[test]
    fn resources_that_only_a_cluster_hands_out_are_told_where_there_is_none() {
        let asked = |executor: &str, resources: Resources| {
            TrialConfig { executor: executor.parse().unwrap(), resources, ..config() }.unheeded()
        };
        let memory = Resources { cpus: Some(2.0), memory: Some(8.0), ..Resources::default() };
        assert!(asked("local:2", memory.clone()).unwrap().contains("by --trial-cpus and --trial-memory, which"));
        assert_eq!(asked("ray", memory.clone()), None);
        assert_eq!(asked("slurm", memory), None);
        // GPUs are given by CUDA_VISIBLE_DEVICES here, too.
        assert_eq!(asked("local", Resources { gpus: Some(1.0), ..Resources::default() }), None);
    }

    #[test]
    fn a_command_that_ends_as_a_folder_that_is_not_there_would_has_failed_by_itself() {
        let output = Output::new(false, true);
        let folder = tempfile::tempdir().unwrap();
        let (trials, _) = searched(&mut study(folder.path(), 12, &output), &config(), |job| {
            if job.folder.trial() == 5 {
                std::fs::write(job.folder.path().join("began"), format!("{}\n", job.attempt)).unwrap();
                return Course { result: None, end: End::NotShared(Unshared::Here), ..good(job) };
            }
            good(job)
        });
        let error = trials.unwrap()[5].error.clone().unwrap();
        assert!(error.contains("the command failed with exit code 96"), "{error}");
    }

    #[test]
    fn a_folder_that_a_machine_does_not_see_stops_the_search_with_what_to_do() {
        let output = Output::new(false, true);
        let here = std::env::current_dir().unwrap().display().to_string();
        for (what, parts) in [
            (Unshared::Trials, ["trial ", "/trials/", "with --runs FOLDER"]),
            (Unshared::Here, ["trial ", here.as_str(), "call it in a folder that all of them share"]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (trials, _) = searched(&mut study(folder.path(), 12, &output), &config(), |job| Course {
                result: None,
                end: End::NotShared(what),
                ..good(job)
            });
            let error = trials.unwrap_err();
            assert_eq!(kind_of(&error), Kind::Usage);
            for part in parts {
                assert!(error.to_string().contains(part), "{part}: {error}");
            }
        }
    }
}
