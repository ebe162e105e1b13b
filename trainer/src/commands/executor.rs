//! The flags that say where trials run, shared by `search` and `experiment`.

use anyhow::Result;

use super::common::text_setting;
use crate::error::{Kind, ResultExt};
use crate::search::command::TrialConfig;
use crate::search::engines::EngineChoice;

/// Where and how trials run.
#[derive(Debug, clap::Args)]
pub struct ExecutorArgs {
    /// Trials at a time [default: 1]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..=1024))]
    parallel: Option<u64>,
    /// End an attempt after so many seconds, with everything that it started
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    trial_timeout: Option<u64>,
    /// New attempts of a trial that failed, 1, 2, 4, … seconds after it did [default: 2]
    #[arg(long, value_name = "N")]
    trial_retries: Option<u32>,
    /// Where trials run: here, on a Ray cluster (the address of its dashboard) or on a Slurm cluster (options of sbatch)
    /// [default: local]
    #[arg(long, value_name = "local[:N]|ray[:URL]|slurm[:OPTIONS]")]
    executor: Option<EngineChoice>,
    /// CPU cores of a trial
    #[arg(long, value_name = "N")]
    trial_cpus: Option<f64>,
    /// GPUs of a trial; here they are given by CUDA_VISIBLE_DEVICES, on Ray a part of one can be
    #[arg(long, value_name = "N")]
    trial_gpus: Option<f64>,
    /// Memory of a trial, on a cluster
    #[arg(long, value_name = "GIB")]
    trial_memory: Option<f64>,
    /// A resource of Ray's by its name, and how much of it a trial needs; may be given several times
    #[arg(long, value_name = "NAME=AMOUNT", value_parser = named_amount)]
    trial_resource: Vec<(String, f64)>,
    /// Speak plain HTTP with a Ray cluster on another machine: token and commands can be read and changed on the way
    #[arg(long)]
    insecure: bool,
}

impl ExecutorArgs {
    /// The flags as `--set` has them.
    pub fn settings(&self) -> Vec<String> {
        let numbers = [
            ("parallel", self.parallel),
            ("timeout", self.trial_timeout),
            ("retries", self.trial_retries.map(u64::from)),
        ];
        let numbers = numbers.into_iter().filter_map(|(key, number)| Some(format!("trial.{key}={}", number?)));
        let executor = self.executor.iter().map(|choice| text_setting("trial.executor", &choice.to_string()));
        // So many places are there to be used.
        let places = match self.executor {
            Some(EngineChoice::Local { slots: Some(slots) }) if self.parallel.is_none() => Some(slots),
            _ => None,
        };
        let places = places.map(|slots| format!("trial.parallel={slots}"));
        let needs = [("cpus", self.trial_cpus), ("gpus", self.trial_gpus), ("memory", self.trial_memory)];
        let needs = needs.into_iter().filter_map(|(key, need)| Some(format!("trial.resources.{key}={:?}", need?)));
        let custom = self.trial_resource.iter().map(|(name, need)| format!("trial.resources.custom.{name}={need:?}"));
        let insecure = self.insecure.then(|| "trial.insecure=true".to_owned());
        numbers.chain(executor).chain(places).chain(needs).chain(custom).chain(insecure).collect()
    }

    /// What the flags say of the trials of a command.
    ///
    /// # Errors
    /// [`Kind::Usage`] for an amount that cannot be.
    pub fn config(&self, command: String) -> Result<TrialConfig> {
        let table = self.settings().join("\n");
        let mut table: toml::Table = toml::from_str(&table).or_fail(Kind::Usage, || table.clone())?;
        let trial = table.remove("trial").unwrap_or_else(|| toml::Table::new().into());
        let config: TrialConfig = trial.try_into().or_fail(Kind::Usage, || "the flags of the executor".to_owned())?;
        config.validate()?;
        Ok(TrialConfig { command, ..config })
    }
}

fn named_amount(text: &str) -> Result<(String, f64), String> {
    let form = || format!("{text} is not NAME=AMOUNT");
    let (name, amount) = text.split_once('=').ok_or_else(form)?;
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    if name.is_empty() || !name.chars().all(plain) {
        return Err(format!("{name:?} cannot be given here; put it under [trial.resources.custom] of --config"));
    }
    Ok((name.to_owned(), amount.parse().map_err(|_| form())?))
}
