//! What every command that trains shares: the configuration, the base model and data on the device, and the job (one
//! fine-tune and its scores), which is the same thing whether it is a profile run, a trial of a search or an arm of the
//! final comparison.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use burn::tensor::Device;
use hydra_shared::gradients::ProfileConfig;
use hydra_shared::model_spec::{ModelSpec, ModuleId};
use hydra_shared::schedule::{Budget, PlanConfig, ScalePolicy};
use hydra_shared::search::SearchConfig;
use hydra_shared::vlm::training::OptimizerConfig;
use hydra_shared::vlm::{AdapterShape, MobileVlm, Trainable, Weights, initial_adapters};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::base::Base;
use crate::data::{DataConfig, Part, Prepared, QuestionSet, Scores};
use crate::device::Chosen;
use crate::error::{Kind, ResultExt, failure};
use crate::evaluate::answer_all;
use crate::interrupt;
use crate::output::Output;
use crate::runs::atomic::{sha256_hex, write_json};
use crate::train_loop::{Flow, StepReport, TrainingConfig, TrainingState, fine_tune};

/// Longest answer, in tokens: a box takes four location tokens, the longest word of easy-VQA a few pieces.
const ANSWER_TOKENS: usize = 12;

/// The configuration of `profile`, `search`, `train`, `eval` and `demo`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExperimentConfig {
    /// Folder of a base model that `trainer pretrain` wrote; without it the embedded tiny-mobilevlm.
    pub base: Option<PathBuf>,
    /// Seed of the first fine-tune: initial adapters and order of the data. The next fine-tunes take the next numbers.
    pub seed: u64,
    /// Fine-tunes of every arm of a final comparison.
    pub seeds: usize,
    /// The data.
    pub data: DataConfig,
    /// A fine-tune.
    pub training: TrainingConfig,
    /// Peak learning rate of full fine-tuning, which bears less than LoRA.
    pub full_learning_rate: f64,
    /// From gradient log to profile.
    pub profile: ProfileConfig,
    /// From profile to schedule.
    pub plan: PlanConfig,
    /// The search.
    pub search: SearchConfig,
}

impl Default for ExperimentConfig {
    fn default() -> Self {
        Self {
            base: None,
            seed: 1,
            seeds: 3,
            data: DataConfig::default(),
            training: TrainingConfig::default(),
            full_learning_rate: 2e-3,
            profile: ProfileConfig::default(),
            plan: PlanConfig { base_rank: 4, delta: 1, ..PlanConfig::default() },
            search: SearchConfig::default(),
        }
    }
}

/// What a job trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Recipe {
    /// Nothing: the base model as it is.
    Base,
    /// Projector and adapters of these ranks, in module order.
    Lora {
        /// A rank per module.
        ranks: Vec<u32>,
        /// How a module's update is scaled.
        scale: ScalePolicy,
    },
    /// Projector and the whole decoder.
    Full,
}

impl Recipe {
    /// The parameters that it trains; none for the untouched base.
    pub fn trainable(&self) -> Option<Trainable> {
        match self {
            Self::Base => None,
            Self::Lora { .. } => Some(Trainable::ProjectorAndLora),
            Self::Full => Some(Trainable::ProjectorAndDecoder),
        }
    }

    /// Shape of every module's adapter; empty without LoRA.
    pub fn adapters(&self) -> Vec<AdapterShape> {
        match self {
            Self::Lora { ranks, scale } => {
                ranks.iter().map(|&rank| AdapterShape { rank, scale: scale.scale(rank) }).collect()
            }
            Self::Base | Self::Full => Vec::new(),
        }
    }

    /// Number of parameters that it trains outside the projector, which every recipe trains alike: what the budget
    /// counts.
    pub fn trainable_parameters(&self, spec: &ModelSpec) -> u64 {
        match self {
            Self::Base => 0,
            Self::Lora { ranks, .. } => spec
                .modules()
                .zip(ranks)
                .map(|(ModuleId { projection, .. }, &rank)| spec.rank_unit_cost(projection) * u64::from(rank))
                .sum(),
            Self::Full => spec.decoder_parameters(),
        }
    }
}

/// One fine-tune and its scores, complete in itself: the same job gives the same result wherever and whenever it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Job {
    /// SHA-256 of the base model's weights.
    pub base: String,
    /// What is trained.
    pub recipe: Recipe,
    /// Seed of initial adapters and data order.
    pub seed: u64,
    /// How it is trained.
    pub training: TrainingConfig,
    /// On what.
    pub data: DataConfig,
    /// What is scored afterwards.
    pub score: Part,
}

/// What a job measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// Parameters that were trained outside the projector.
    pub trainable_parameters: u64,
    /// Scores by task, and their mean.
    pub scores: Scores,
    /// Mean loss over the last tenth of the steps; none without training.
    pub final_loss: Option<f64>,
    /// Wall time in seconds, training and scoring together.
    pub wall_seconds: f64,
}

impl Job {
    /// Name of the job's folder: the hash of its content.
    ///
    /// # Errors
    /// Never in practice; the job is plain data.
    pub fn hash(&self) -> Result<String> {
        let mut hash = sha256_hex(serde_json::to_string(self)?.as_bytes());
        hash.truncate(16);
        Ok(hash)
    }
}

/// Base model and data on the device.
pub struct Workbench {
    /// The base model on the host.
    pub base: Base,
    /// Where it runs.
    pub chosen: Chosen,
    /// The configuration.
    pub config: ExperimentConfig,
    output: Output,
    model: MobileVlm,
    parts: IndexMap<Part, Prepared>,
}

/// A fine-tuned model.
pub struct Tuned {
    /// The model, nothing in it tracked.
    pub model: MobileVlm,
    /// What every logged step reported.
    pub reports: Vec<StepReport>,
}

impl Workbench {
    /// Loads the base model; data is loaded when it is first needed.
    ///
    /// # Errors
    /// A base that cannot be read.
    pub fn new(config: ExperimentConfig, chosen: Chosen, output: Output) -> Result<Self> {
        let base = match &config.base {
            Some(folder) => Base::open(folder)?,
            None => Base::embedded()?,
        };
        if config.training.steps == 0 || config.training.batch_size == 0 || config.seeds == 0 {
            return Err(failure(Kind::Usage, "training.steps, training.batch_size and seeds must each be at least 1"));
        }
        let model = base.load(&chosen.device)?;
        Ok(Self { base, chosen, config, output, model, parts: IndexMap::new() })
    }

    /// Shapes of the model.
    pub fn spec(&self) -> &ModelSpec {
        &self.base.spec
    }

    /// What a schedule may use.
    pub fn budget(&self) -> Budget {
        let plan = &self.config.plan;
        match plan.budget {
            Some(allowed) => Budget { counting: plan.counting, allowed },
            None => Budget::uniform(self.spec(), plan.base_rank, plan.counting),
        }
    }

    /// Where tensors live.
    pub fn device(&self) -> &Device {
        &self.chosen.device
    }

    /// Loads a part of the data, and computes its pictures' features, unless that was done before.
    ///
    /// # Errors
    /// Data that cannot be read.
    pub fn prepare(&mut self, part: Part) -> Result<()> {
        if self.parts.contains_key(&part) {
            return Ok(());
        }
        let Some(vision) = &self.base.spec.vision else {
            return Err(failure(Kind::Data, format!("{} has no vision tower", self.base.spec.name)));
        };
        let set = QuestionSet::load(&self.config.data, part, vision)?;
        if set.questions.is_empty() {
            return Err(failure(Kind::Usage, format!("the {} part of the data holds no question", part.name())));
        }
        let turns = self.config.data.turns;
        let prepared = Prepared::new(set, &self.model, &self.base.tokenizer, turns)?;
        self.parts.insert(part, prepared);
        Ok(())
    }

    /// A part that was prepared.
    ///
    /// # Errors
    /// One that was not.
    pub fn part(&self, part: Part) -> Result<&Prepared> {
        self.parts
            .get(&part)
            .ok_or_else(|| anyhow::anyhow!("the {} part of the data was not loaded before its use", part.name()))
    }

    /// The job of a recipe under this configuration.
    pub fn job(&self, recipe: Recipe, seed: u64, score: Part) -> Job {
        let mut training = self.config.training.clone();
        if recipe == Recipe::Full {
            training.optimizer =
                OptimizerConfig { learning_rate: self.config.full_learning_rate, ..training.optimizer };
        }
        let data = DataConfig { folder: None, ..self.config.data.clone() };
        Job { base: self.base.sha256.clone(), recipe, seed, training, data, score }
    }

    /// The model of a recipe before its first step, with the trained weights of a checkpoint where there is one.
    ///
    /// # Errors
    /// Weights that do not fit.
    pub fn model_of(&self, recipe: &Recipe, seed: u64, trained: Option<Weights>) -> Result<MobileVlm> {
        let shapes = recipe.adapters();
        let mut base = self.base.weights.clone();
        let mut adapters = initial_adapters(&self.base.spec, &shapes, seed);
        for (name, weight) in trained.unwrap_or_default().tensors {
            let target = if name.contains(".lora_") { &mut adapters } else { &mut base };
            target.tensors.insert(name, weight);
        }
        let model = MobileVlm::load(&self.base.spec, base, &self.chosen.device)?;
        let model = if shapes.is_empty() { model } else { model.with_adapters(&shapes, adapters)? };
        Ok(model)
    }

    /// Fine-tunes from `state` to the end, or until an interrupt.
    ///
    /// # Errors
    /// A loss that is not finite, a device that fails, whatever `on_step` returns.
    pub fn train(
        &self,
        job: &Job,
        state: TrainingState,
        title: &str,
        mut on_step: impl FnMut(Option<&StepReport>, &TrainingState) -> Result<()>,
    ) -> Result<(TrainingState, Flow)> {
        let Some(trainable) = job.recipe.trainable() else { return Ok((state, Flow::Continue)) };
        let examples = self.part(Part::Train)?.conversations();
        let mut progress = self.output.progress(title, job.training.steps as u64);
        let result = fine_tune(state, trainable, &examples, &job.training, job.seed, |report, state| {
            if let Some(report) = report {
                progress.set(state.step as u64, format_args!("loss {:.4}", report.loss));
            }
            on_step(report, state)?;
            Ok(if interrupt::requested() { Flow::Stop } else { Flow::Continue })
        })?;
        progress.finish("");
        Ok(result)
    }

    /// Runs a whole job in memory.
    ///
    /// # Errors
    /// As [`Workbench::train`]; an interrupt ends it with [`Kind::Interrupted`].
    pub fn tune(&self, job: &Job, title: &str) -> Result<Tuned> {
        let model = self.model_of(&job.recipe, job.seed, None)?;
        let Some(trainable) = job.recipe.trainable() else { return Ok(Tuned { model, reports: Vec::new() }) };
        let mut reports = Vec::new();
        let state = TrainingState::new(model, trainable, &job.training.optimizer);
        let (state, flow) = self.train(job, state, title, |report, _| {
            reports.extend(report.cloned());
            Ok(())
        })?;
        if flow == Flow::Stop {
            return Err(failure(Kind::Interrupted, "interrupted in the middle of a fine-tune"));
        }
        Ok(Tuned { model: state.model.frozen(), reports })
    }

    /// Scores a model on a part of the data.
    ///
    /// # Errors
    /// A device that fails.
    pub fn score(&self, model: &MobileVlm, part: Part) -> Result<(Vec<String>, Scores)> {
        let prepared = self.part(part)?;
        let threads = self.chosen.threads;
        let answers = answer_all(model, &self.base.tokenizer, &prepared.prompts(), ANSWER_TOKENS, threads)?;
        let scores = prepared.set.score(&answers)?;
        Ok((answers, scores))
    }

    /// Runs a job, or reads its result where it ran before: `jobs` is the folder that holds one folder per job, named by
    /// its hash, with `config.json` and `result.json`.
    ///
    /// # Errors
    /// As [`Workbench::tune`], and a disk that cannot be written.
    pub fn run_job(&mut self, job: &Job, title: &str, jobs: &Path) -> Result<JobResult> {
        let folder = jobs.join(job.hash()?);
        let result_file = folder.join("result.json");
        if let Ok(text) = std::fs::read_to_string(&result_file) {
            return serde_json::from_str(&text).or_fail(Kind::Data, || {
                format!("{}: damaged; delete this file to run the job again", result_file.display())
            });
        }
        if job.recipe.trainable().is_some() {
            self.prepare(Part::Train)?;
        }
        self.prepare(job.score)?;
        let started = Instant::now();
        let tuned = self.tune(job, title)?;
        let (_, scores) = self.score(&tuned.model, job.score)?;
        let result = JobResult {
            trainable_parameters: job.recipe.trainable_parameters(self.spec()),
            scores,
            final_loss: final_loss(&tuned.reports),
            wall_seconds: started.elapsed().as_secs_f64(),
        };
        std::fs::create_dir_all(&folder).or_fail(Kind::Failure, || folder.display().to_string())?;
        write_json(&folder.join("config.json"), job)?;
        write_json(&result_file, &result)?;
        Ok(result)
    }
}

/// Mean loss over the last tenth of the logged steps.
pub fn final_loss(reports: &[StepReport]) -> Option<f64> {
    let last = reports.len().div_ceil(10);
    let tail = &reports[reports.len() - last..];
    (!tail.is_empty()).then(|| tail.iter().map(|report| report.loss).sum::<f64>() / tail.len() as f64)
}
