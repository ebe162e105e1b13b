//! An experiment's file.

use std::path::{Path, PathBuf};

use anyhow::Result;
use hydra_shared::schedule::PlanConfig;
use hydra_shared::vlm::training::OptimizerConfig;
use serde::{Deserialize, Serialize};

use super::arm::{Arm, Train};
use super::nested::NestedConfig;
use super::replay::ReplayConfig;
use crate::config::{Sources, load};
use crate::digest::sha256_hex;
use crate::error::{Kind, ResultExt, failure};
use crate::input;
use crate::train::config::TrainingConfig;
use crate::train::experiment::ExperimentConfig;

/// What an experiment's file holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Experiment {
    /// The question, as a heading.
    pub question: String,
    /// What is done and why, in a paragraph.
    pub about: String,
    /// Where it stands on the page: from the lowest number to the highest.
    pub order: u32,
    /// Keys of the configuration that differ from the defaults.
    #[serde(default)]
    pub settings: toml::Table,
    /// Lengths of the fine-tunes, in steps.
    pub steps: Vec<usize>,
    /// Whether every replicate has training, validation and test pictures of its own, not only a seed.
    #[serde(default)]
    pub fresh_pictures: bool,
    /// Name of the arm that every other is compared with.
    pub baseline: String,
    /// How learning rates are chosen; without it all arms take the configuration's.
    pub tuning: Option<Tuning>,
    /// What is reported.
    pub report: Reporting,
    /// What is compared.
    pub arms: Vec<Arm>,
    /// What was decided before the first run.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// A search for the learning rate, on the validation part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Tuning {
    /// Replicates of every arm at every rate.
    pub replicates: Replicates,
    /// Learning rates that are tried; an arm may have its own, as many.
    pub rates: Vec<f64>,
    /// Whose rates are tuned; the others take the baseline's.
    pub whose: Tuned,
}

/// Whose learning rates are tuned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tuned {
    /// The baseline's, and those of arms that name rates of their own.
    Baseline,
    /// Every arm's, with as many tries.
    All,
}

/// What is reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Reporting {
    /// Replicates of every arm: none of them may be one of the tuning's.
    pub replicates: Replicates,
    /// Name of the arm whose distance from the baseline says which tasks can tell arms apart: full fine-tuning.
    pub full: Option<String>,
    /// Whether signals of the base model and of the baseline's training are compared with the arms' gains.
    #[serde(default)]
    pub signals: bool,
    /// Nested runs, whose truncations are compared with the arms within the budget, where there are any.
    pub nested: Option<NestedConfig>,
    /// How searches are replayed on the table that the arms within the budget make, where they are.
    pub replay: Option<ReplayConfig>,
}

/// Numbers of consecutive replicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replicates {
    /// The first.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Replicates {
    /// Their numbers.
    pub fn numbers(self) -> std::ops::Range<u64> {
        self.first..self.first + self.count
    }

    /// Whether a number is among both.
    pub fn shares(self, other: Self) -> bool {
        let (a, b) = (self.numbers(), other.numbers());
        a.start < b.end && b.start < a.end
    }
}

/// A claim or stop rule, written down before the runs: it holds where the relative gain of an arm over another is below (or
/// above) a threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// What it means where it fires.
    pub meaning: String,
    /// Whose gain; without it the largest of all arms within the baseline's budget.
    pub arm: Option<String>,
    /// Over which arm; without it the baseline.
    pub over: Option<String>,
    /// Steps of the fine-tunes that it looks at; without it each length on its own.
    pub steps: Option<usize>,
    /// It fires where the end of the interval is below this share.
    pub below: f64,
    /// Which number is compared.
    pub by: RuleBy,
}

/// Which number of an interval a rule compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleBy {
    /// The estimate.
    Estimate,
    /// The lower end of the 95 % interval.
    Low,
    /// The upper end.
    High,
}

/// One fine-tune of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Index of its arm.
    pub arm: usize,
    /// Its steps.
    pub steps: usize,
    /// Its peak learning rate.
    pub rate: f64,
    /// Its replicate.
    pub replicate: u64,
    /// What it is for.
    pub stage: Stage,
}

/// What a trial is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// To choose a learning rate, on the validation part.
    Tuning,
    /// To be reported, on the test part.
    Report,
}

impl Experiment {
    /// Reads an experiment's file.
    ///
    /// # Errors
    /// A file that cannot be read, keys that there are not, arms and replicates that do not fit together.
    pub fn read(path: &Path) -> Result<Self> {
        let place = || path.display().to_string();
        let text = input::text(path)?;
        let table = toml::Deserializer::parse(&text).or_fail(Kind::Usage, place)?;
        let mut experiment: Self = serde_path_to_error::deserialize(table).map_err(|error| {
            failure(Kind::Usage, format!("{}: {}: {}", path.display(), error.path(), error.inner().message()))
        })?;
        experiment.arms = experiment.arms.into_iter().flat_map(Arm::expanded).collect();
        experiment.check().or_fail(Kind::Usage, place)?;
        Ok(experiment)
    }

    fn check(&self) -> Result<()> {
        let wrong = |message: String| Err(failure(Kind::Usage, message));
        if self.steps.is_empty() || self.steps.contains(&0) || self.arms.is_empty() {
            return wrong("`steps` and `arms` need at least one entry each, and no steps of 0".to_owned());
        }
        for (index, arm) in self.arms.iter().enumerate() {
            if self.arms[..index].iter().any(|other| other.name == arm.name) {
                return wrong(format!("two arms are called \"{}\"", arm.name));
            }
            let Arm { name, .. } = arm;
            if (arm.scale_of.is_some() || arm.profile_steps.is_some()) && arm.train != Train::Lora {
                return wrong(format!("arm \"{name}\": `scale-of` and `profile-steps` are for adapters"));
            }
            if arm.profile_steps.is_some() && !arm.needs_profile() {
                return wrong(format!(
                    "arm \"{name}\": its ranks need no profile, of which `profile-steps` could take a part"
                ));
            }
            // The first step has no gradients of A to speak of: B is still 0.
            if arm.profile_steps.is_some_and(|first| first < 2 || self.steps.iter().any(|steps| first > *steps)) {
                return wrong(format!("arm \"{name}\": `profile-steps` must be from 2 to the steps of the fine-tunes"));
            }
        }
        let mut named: Vec<&String> = vec![&self.baseline];
        named.extend(self.report.full.iter());
        named.extend(self.rules.iter().flat_map(|rule| rule.arm.iter().chain(&rule.over)));
        for name in named {
            if !self.arms.iter().any(|arm| arm.name == *name) {
                return wrong(format!("no arm is called \"{name}\""));
            }
        }
        if let Some(NestedConfig { steps, replicates }) = &self.report.nested {
            let others = self.tuning.iter().map(|tuning| tuning.replicates).chain([self.report.replicates]);
            if steps.contains(&0) || others.into_iter().any(|other| other.shares(*replicates)) {
                let message = "nested runs need at least one step, and replicates that neither tuning nor report has";
                return wrong(message.to_owned());
            }
        }
        if let Some(tuning) = &self.tuning {
            if tuning.replicates.shares(self.report.replicates) {
                return wrong("tuning and report share replicates: what was tuned on must not be reported".to_owned());
            }
            for arm in &self.arms {
                let rates = arm.rates.as_deref().unwrap_or(&tuning.rates);
                if rates.len() != tuning.rates.len() || rates.iter().any(|rate| !(*rate > 0.0 && rate.is_finite())) {
                    let count = tuning.rates.len();
                    return wrong(format!("arm \"{}\" needs {count} rates above 0, as many as every other", arm.name));
                }
            }
        }
        Ok(())
    }

    /// The configuration of all its trials.
    ///
    /// # Errors
    /// A key that there is not, a value that does not fit.
    pub fn config(&self) -> Result<ExperimentConfig> {
        self.config_with(&toml::Table::new())
    }

    /// The plan's choices of an arm.
    ///
    /// # Errors
    /// As [`Self::config`].
    pub fn plan(&self, arm: usize) -> Result<PlanConfig> {
        let arm = &self.arms[arm];
        Ok(self.config_with(&arm.plan).or_fail(Kind::Usage, || format!("arm \"{}\"", arm.name))?.plan)
    }

    fn config_with(&self, plan: &toml::Table) -> Result<ExperimentConfig> {
        let mut set = Vec::new();
        flatten(&self.settings, "", &mut set);
        flatten(plan, "plan", &mut set);
        let resolved = load::<ExperimentConfig>(&Sources { set, ..Sources::default() })?;
        resolved.value.validate()?;
        Ok(resolved.value)
    }

    /// Index of the baseline among the arms.
    pub fn baseline_index(&self) -> usize {
        self.arms.iter().position(|arm| arm.name == self.baseline).unwrap_or(0)
    }

    /// Whether an arm's learning rate is tuned.
    pub fn is_tuned(&self, arm: usize) -> bool {
        self.tuning.as_ref().is_some_and(|tuning| {
            tuning.whose == Tuned::All || self.arms[arm].rates.is_some() || arm == self.baseline_index()
        })
    }

    /// Learning rates that are tried for an arm; none where it is not tuned.
    pub fn rates(&self, arm: usize) -> &[f64] {
        match &self.tuning {
            Some(tuning) if self.is_tuned(arm) => self.arms[arm].rates.as_deref().unwrap_or(&tuning.rates),
            _ => &[],
        }
    }

    /// The trials that choose learning rates.
    pub fn tuning_cells(&self) -> Vec<Cell> {
        let Some(tuning) = &self.tuning else { return Vec::new() };
        let mut cells = Vec::new();
        for replicate in tuning.replicates.numbers() {
            for &steps in &self.steps {
                for arm in 0..self.arms.len() {
                    let cell = |rate: &f64| Cell { arm, steps, rate: *rate, replicate, stage: Stage::Tuning };
                    cells.extend(self.rates(arm).iter().map(cell));
                }
            }
        }
        cells
    }

    /// The trials that are reported; `rate` gives the learning rate of an arm at a length.
    pub fn report_cells(&self, rate: impl Fn(usize, usize) -> f64) -> Vec<Cell> {
        let mut cells = Vec::new();
        for replicate in self.report.replicates.numbers() {
            for &steps in &self.steps {
                let cell = |arm| Cell { arm, steps, rate: rate(arm, steps), replicate, stage: Stage::Report };
                cells.extend((0..self.arms.len()).map(cell));
            }
        }
        cells
    }

    /// What makes a trial what it is, as a short hash: with another one its result is another trial's.
    ///
    /// # Errors
    /// A configuration that does not fit.
    pub fn identity(&self, config: &ExperimentConfig, cell: &Cell) -> Result<String> {
        let arm = &self.arms[cell.arm];
        let base = (&config.base, &config.vision_tower, &config.projector, &config.projector_weights, config.storage);
        let mut text = serde_json::to_string(&(
            (base, config.seed, &config.profile, self.plan(cell.arm)?),
            (&config.data, self.fresh_pictures, cell.training(&config.training)),
            (arm.train, &arm.ranks),
            (cell.replicate, cell.stage),
        ))?;
        // Only where there are such: older results keep their hashes.
        if arm.scale_of.is_some() || arm.profile_steps.is_some() {
            text += &serde_json::to_string(&(&arm.scale_of, arm.profile_steps))?;
        }
        let mut hash = sha256_hex(text.as_bytes());
        hash.truncate(16);
        Ok(hash)
    }
}

impl Cell {
    /// How its fine-tune is done, where the configuration says all but length and learning rate.
    pub fn training(&self, config: &TrainingConfig) -> TrainingConfig {
        TrainingConfig {
            steps: self.steps,
            epochs: None,
            log_every: 1,
            checkpoint_every: 0,
            optimizer: OptimizerConfig { learning_rate: self.rate, ..config.optimizer },
            ..config.clone()
        }
    }
}

/// The values of a table as `key=value`.
fn flatten(table: &toml::Table, prefix: &str, into: &mut Vec<String>) {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(inner) => flatten(inner, &path, into),
            value => into.push(format!("{path}={value}")),
        }
    }
}

/// The files of experiments in a folder, in the order of the page.
///
/// # Errors
/// A folder or file that cannot be read.
pub fn experiments(folder: &Path) -> Result<Vec<(PathBuf, Experiment)>> {
    let place = || folder.display().to_string();
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).or_fail(Kind::Data, place)? {
        paths.push(entry.or_fail(Kind::Data, place)?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        let experiment = Experiment::read(&path)?;
        found.push((path, experiment));
    }
    found.sort_by_key(|(_, experiment)| experiment.order);
    Ok(found)
}
