//! The folder of a trial: what whoever trains is given, and what comes back.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;

use super::atomic::write_file;
use super::digest::sha256_hex;
use super::error::Kind;
use crate::adapter::{LoraConfig, PeftOptions};
use crate::json;
use crate::schedule::RankSchedule;

/// `trials/<hash>/`, named by what is trained in it: the modules and their ranks, how they are scaled, the seed. So a trial that
/// was scored is known again, whoever asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialFolder {
    path: PathBuf,
    trial: usize,
    seed: u64,
}

impl TrialFolder {
    /// Makes the folder in `trials`, with the schedule's file and PEFT's configuration.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn make(trials: &Path, trial: usize, seed: u64, schedule: &RankSchedule, dropout: f64) -> Result<Self> {
        let (layout, ranks) = (schedule.layout().as_ref(), schedule.ranks.as_slice());
        let content = serde_json::to_string(&(layout, ranks, schedule.scale, dropout, seed))?;
        let mut hash = sha256_hex(content.as_bytes());
        hash.truncate(16);
        // Whoever trains may do so in another folder.
        let trials = std::path::absolute(trials).with_context(|| trials.display().to_string())?;
        let folder = Self::named(&trials, &hash, trial, seed);
        fs::create_dir_all(&folder.path).with_context(|| format!("cannot create {}", folder.path.display()))?;
        let options = PeftOptions { base_model: None, dropout };
        let lora = LoraConfig::new(schedule, &options).for_training();
        write_file(&folder.schedule(), schedule.to_json()?.as_bytes())?;
        write_file(&folder.lora(), lora.to_json()?.as_bytes())?;
        Ok(folder)
    }

    /// The folder of that name, which need not exist.
    pub fn named(trials: &Path, hash: &str, trial: usize, seed: u64) -> Self {
        Self { path: trials.join(hash), trial, seed }
    }

    /// Number of the trial.
    pub fn trial(&self) -> usize {
        self.trial
    }

    /// Seed of the training.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The folder, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// PEFT's configuration.
    pub fn lora(&self) -> PathBuf {
        self.path.join("lora.json")
    }

    /// The schedule's file.
    pub fn schedule(&self) -> PathBuf {
        self.path.join("schedule.json")
    }

    /// Where the scores are to be written.
    pub fn result(&self) -> PathBuf {
        self.path.join("result.json")
    }

    /// Where a gradient log may be written.
    pub fn gradients(&self) -> PathBuf {
        self.path.join("gradients.jsonl")
    }

    /// What the command printed.
    pub fn log(&self) -> PathBuf {
        self.path.join("log.txt")
    }

    /// Puts a result aside that cannot be used, so that nobody takes it again.
    ///
    /// # Errors
    /// A folder that cannot be changed.
    pub fn refuse_result(&self) -> Result<PathBuf> {
        let refused = self.path.join("result.refused.json");
        fs::rename(self.result(), &refused).with_context(|| self.result().display().to_string())?;
        Ok(refused)
    }
}

/// Why a result cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub struct BadResult {
    /// For the exit code.
    pub kind: Kind,
    /// What is wrong with the file, without its name.
    pub problem: String,
    /// Whether the same command may do better: the file is missing, or was cut off.
    pub again: bool,
}

#[derive(Deserialize)]
struct ResultFile {
    /// None for NaN and infinities, which Python writes as bare words.
    scores: IndexMap<String, Option<f64>>,
}

/// Reads the scores `{"scores": {"task": number, …}}`; other keys are left alone.
///
/// # Errors
/// A file that is missing or damaged, no scores, one that is not a finite number.
pub fn read_scores(path: &Path) -> Result<IndexMap<String, f64>, BadResult> {
    let bad = |kind, again, problem: String| BadResult { kind, problem, again };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(bad(Kind::Data, true, "was not written".to_owned()));
        }
        Err(error) => return Err(bad(Kind::Data, true, format!("cannot be read: {error}"))),
    };
    let text = json::text(&bytes).map_err(|error| bad(Kind::Data, true, format!("is no text: {error}")))?;
    let whole: Result<Value, _> = json::from_str(text);
    whole.map_err(|error| bad(Kind::Data, true, format!("is damaged or only half written: {error}")))?;
    let form = "is not {\"scores\": {\"task\": number, …}}";
    let file: ResultFile = json::from_str(text).map_err(|error| bad(Kind::Data, false, format!("{form}: {error}")))?;
    finite(file.scores)
}

/// Scores by task, of which none may be missing.
///
/// # Errors
/// No scores, one that is not a finite number.
pub fn finite(scores: IndexMap<String, Option<f64>>) -> Result<IndexMap<String, f64>, BadResult> {
    let bad = |kind, problem| BadResult { kind, problem, again: false };
    if scores.is_empty() {
        return Err(bad(Kind::Data, "holds no score".to_owned()));
    }
    let finite = |(task, score): (String, Option<f64>)| match score.filter(|score| score.is_finite()) {
        Some(score) => Ok((task, score)),
        None => Err(bad(Kind::Numerical, format!("says that the score of {task} is NaN or infinite"))),
    };
    scores.into_iter().map(finite).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_read_and_what_is_wrong_with_a_result_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result.json");
        assert_eq!(read_scores(&path).unwrap_err().problem, "was not written");
        fs::write(&path, "\u{feff}{\"scores\": {\"b\": 1, \"a\": 0.5}, \"note\": NaN}").unwrap();
        assert_eq!(read_scores(&path).unwrap(), [("b".to_owned(), 1.0), ("a".to_owned(), 0.5)].into());
        for (text, kind, again, part) in [
            ("", Kind::Data, true, "half written"),
            ("{\"scores\": {\"a\": 0.", Kind::Data, true, "half written"),
            ("{\"score\": 1}", Kind::Data, false, "missing field `scores`"),
            ("{\"scores\": {\"a\": \"good\"}}", Kind::Data, false, "is not {\"scores\""),
            ("{\"scores\": {}}", Kind::Data, false, "holds no score"),
            ("{\"scores\": {\"a\": NaN}}", Kind::Numerical, false, "the score of a is NaN or infinite"),
            ("{\"scores\": {\"a\": 1, \"b\": -Infinity}}", Kind::Numerical, false, "the score of b"),
            ("{\"scores\": {\"a\": null}}", Kind::Numerical, false, "the score of a"),
        ] {
            fs::write(&path, text).unwrap();
            let bad = read_scores(&path).unwrap_err();
            assert_eq!((bad.kind, bad.again), (kind, again), "{text}");
            assert!(bad.problem.contains(part), "{}", bad.problem);
        }
    }
}
