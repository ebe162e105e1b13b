//! Which engine, and what a trial needs of it, as the flags and the configuration say it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::error::{Kind, failure};

/// An engine: `local`, `local:N`, `ray`, `ray:URL`, `slurm`, `slurm:OPTIONS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum EngineChoice {
    /// Processes of this machine.
    Local {
        /// How many at a time; as many as trials where it is not given.
        slots: Option<usize>,
    },
    /// A Ray cluster, through its Jobs interface.
    Ray {
        /// Address of its dashboard.
        address: Option<String>,
    },
    /// A Slurm cluster, whose commands are here.
    Slurm {
        /// Further arguments of `sbatch`.
        options: Vec<String>,
    },
}

impl Default for EngineChoice {
    fn default() -> Self {
        Self::Local { slots: None }
    }
}

impl FromStr for EngineChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = match text.split_once(':') {
            Some((name, rest)) => (name, Some(rest).filter(|rest| !rest.is_empty())),
            None => (text, None),
        };
        match name {
            "local" => match rest.map(str::parse).transpose() {
                Ok(slots) if slots != Some(0) => Ok(Self::Local { slots }),
                _ => Err(format!("{text}: a number of at least 1 follows `local:`, the commands at a time")),
            },
            "ray" => Ok(Self::Ray { address: rest.map(str::to_owned) }),
            "slurm" => match shlex::split(rest.unwrap_or_default()) {
                Some(options) => match options.iter().find(|option| is_of_arrays(option)) {
                    None => Ok(Self::Slurm { options }),
                    Some(own) => Err(format!("{text}: leave out {own}: trials are found by the names of their arrays")),
                },
                None => Err(format!("{text}: a quote is not closed, or a backslash ends it")),
            },
            _ => Err(format!(
                "there is no executor {name}; known are local[:N], ray[:URL] (http://127.0.0.1:8265) and slurm[:OPTIONS] \
                 (slurm:'--partition=gpu --time=2:00:00')"
            )),
        }
    }
}

/// Whether an option of `sbatch` names the job or makes an array of it.
fn is_of_arrays(option: &str) -> bool {
    let name = option.split('=').next().unwrap_or(option);
    matches!(name, "--job-name" | "--array")
        || ((option.starts_with("-J") || option.starts_with("-a")) && !option.starts_with("--"))
}

impl TryFrom<String> for EngineChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<EngineChoice> for String {
    fn from(choice: EngineChoice) -> Self {
        choice.to_string()
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |name: &str, rest: Option<String>| rest.map_or(name.to_owned(), |rest| format!("{name}:{rest}"));
        formatter.write_str(&match self {
            Self::Local { slots } => named("local", slots.map(|slots| slots.to_string())),
            Self::Ray { address } => named("ray", address.clone()),
            Self::Slurm { options } => {
                let words: Vec<_> = options.iter().map(|option| hydra_shared::shell::word(option)).collect();
                named("slurm", Some(words.join(" ")).filter(|words| !words.is_empty()))
            }
        })
    }
}

/// What one trial needs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// CPU cores; on Ray a fraction is possible.
    pub cpus: Option<f64>,
    /// GPUs; on Ray a fraction is possible.
    pub gpus: Option<f64>,
    /// Memory in GiB.
    pub memory: Option<f64>,
    /// Ray's custom resources by name.
    pub custom: BTreeMap<String, f64>,
}

impl Resources {
    /// Refuses amounts that cannot be.
    ///
    /// # Errors
    /// [`Kind::Usage`], with the name.
    pub fn validate(&self) -> Result<()> {
        let named = [("cpus", self.cpus), ("gpus", self.gpus), ("memory", self.memory)];
        let named = named.into_iter().filter_map(|(name, amount)| Some((name, amount?)));
        let all = named.chain(self.custom.iter().map(|(name, amount)| (name.as_str(), *amount)));
        for (name, amount) in all {
            if !(amount.is_finite() && amount >= 0.0) {
                let message = format!("trial.resources: {name} is {amount}; it must be a number of at least 0");
                return Err(failure(Kind::Usage, message));
            }
        }
        Ok(())
    }

    /// GPUs where only whole ones can be given.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a fraction.
    pub fn whole_gpus(&self) -> Result<Option<usize>> {
        whole("gpus", self.gpus)
    }

    /// CPU cores where only whole ones can be given.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a fraction.
    pub fn whole_cpus(&self) -> Result<Option<usize>> {
        whole("cpus", self.cpus)
    }
}

fn whole(name: &str, amount: Option<f64>) -> Result<Option<usize>> {
    match amount {
        Some(amount) if amount.fract() != 0.0 => {
            let message = format!("trial.resources: {name} is {amount}; only Ray shares one among several trials");
            Err(failure(Kind::Usage, message))
        }
        // A number of this size, without a fraction, is exact.
        amount => Ok(amount.map(|amount| amount as usize)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executor_is_written_as_it_is_read() {
        for text in
            ["local", "local:4", "ray", "ray:https://head:8265", "slurm", "slurm:--partition=gpu '--comment=a b'"]
        {
            assert_eq!(text.parse::<EngineChoice>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_executor_is_refused_with_those_that_there_are() {
        for (text, part) in [
            ("kubernetes", "known are local[:N], ray[:URL]"),
            ("local:0", "a number of at least 1"),
            ("local:all", "a number of at least 1"),
            ("slurm:'--a", "a quote is not closed"),
            ("slurm:--partition=gpu --job-name=mine", "leave out --job-name=mine"),
            ("slurm:-J mine", "leave out -J"),
        ] {
            let error = text.parse::<EngineChoice>().unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_part_of_a_gpu_is_for_ray_alone() {
        let half = Resources { gpus: Some(0.5), ..Resources::default() };
        half.validate().unwrap();
        assert!(half.whole_gpus().unwrap_err().to_string().contains("gpus is 0.5"));
        let less = Resources { custom: [("tpu".to_owned(), -1.0)].into(), ..Resources::default() };
        assert!(less.validate().unwrap_err().to_string().contains("tpu is -1"));
    }
}
