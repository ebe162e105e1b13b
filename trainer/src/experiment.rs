//! What every command that trains shares: the configuration, and the base model and data on the device, on which jobs run.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use burn::tensor::Device;
use hydra_shared::gradients::ProfileConfig;
use hydra_shared::model_spec::ModelSpec;
use hydra_shared::schedule::{Budget, PlanConfig};
use hydra_shared::search::SearchConfig;
use hydra_shared::vlm::memory::{MemoryEstimate, MemoryPlan, estimate};
use hydra_shared::vlm::training::OptimizerConfig;
use hydra_shared::vlm::{MobileVlm, Storage, Weights, initial_adapters};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::base::{Base, BaseParts, hash_files, projector_kind};
use crate::data::{DataConfig, LIKELIHOOD, Part, Prepared, QuestionSet, Scores, feature_batch};
use crate::device::Chosen;
use crate::error::{Kind, ResultExt, failure};
use crate::evaluate::{answer_all, likelihood};
use crate::feed::{self, PictureSource};
use crate::interrupt;
use crate::job::{Job, JobResult, Recipe};
use crate::output::Output;
use crate::runs::atomic::write_json;
use crate::train_loop::{Flow, StepReport, TrainingConfig, TrainingState, fine_tune};

/// Longest answer, in tokens: a box takes four location tokens, the longest word of easy-VQA a few pieces.
const ANSWER_TOKENS: usize = 12;

/// Steps whose batches are looked at to find the largest.
const STEPS_LOOKED_AT: usize = 1000;

/// The configuration of `profile`, `search`, `train`, `eval` and `demo`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExperimentConfig {
    /// The base model: folder of a Hugging Face checkpoint (or of one that `trainer pretrain` wrote), a GGUF file, or a
    /// model of llama2.c; without it the embedded tiny-mobilevlm.
    pub base: Option<PathBuf>,
    /// Folder of a CLIP checkpoint whose vision tower is used, or `tiny-mobilevlm` for the embedded model's.
    pub vision_tower: Option<PathBuf>,
    /// A new projector in place of the base's: ldpnet, ldpnetv2, linear or mlp2x_gelu (any number of layers). Without it, a
    /// base that has none gets ldpnetv2.
    pub projector: Option<String>,
    /// File of the projector's weights, as stage I or MobileVLM's own scripts write it.
    pub projector_weights: Option<PathBuf>,
    /// How frozen weights are stored: f32, or f16 or bf16 for half the memory. Without it, large models are stored as their
    /// checkpoint is. In which precision they are multiplied is `training.compute`.
    pub storage: Option<Storage>,
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
            vision_tower: None,
            projector: None,
            projector_weights: None,
            storage: None,
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

/// Base model and data on the device.
pub struct Workbench {
    /// The base model on the host.
    pub base: Base,
    /// Where it runs.
    pub chosen: Chosen,
    /// The configuration.
    pub config: ExperimentConfig,
    output: Output,
    parts: IndexMap<Part, Prepared>,
    question_files: Vec<String>,
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
        let projector = config.projector.as_deref().map(projector_kind).transpose()?;
        let base = Base::open(
            &BaseParts {
                model: config.base.as_deref(),
                vision_tower: config.vision_tower.as_deref(),
                projector,
                projector_weights: config.projector_weights.as_deref(),
                storage: config.storage,
            },
            &chosen.device,
        )?;
        let training = &config.training;
        if (training.steps == 0 && training.epochs.is_none()) || training.batch_size == 0 || config.seeds == 0 {
            return Err(failure(Kind::Usage, "training.steps, training.batch_size and seeds must each be at least 1"));
        }
        if training.epochs.is_some_and(|epochs| !(epochs > 0.0 && epochs.is_finite())) {
            return Err(failure(Kind::Usage, "training.epochs must be above 0"));
        }
        if !(0.0..1.0).contains(&training.lora_dropout) {
            return Err(failure(Kind::Usage, "training.lora_dropout must be at least 0 and below 1"));
        }
        let data = &config.data;
        let files = [&data.questions, &data.validation_questions, &data.test_questions];
        let question_files = hash_files(files.into_iter().flatten().map(PathBuf::as_path))?;
        Ok(Self { base, chosen, config, output, parts: IndexMap::new(), question_files })
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
        let set = QuestionSet::load(&self.config.data, part, self.base.spec.vision.as_ref())?;
        if set.is_empty() {
            return Err(failure(Kind::Usage, format!("the {} part of the data holds no question", part.name())));
        }
        let prepared = Prepared::new(set, &self.base.model, &self.base.tokenizer, &self.config.data)?;
        let conversations = prepared.conversations().encoded.len();
        if let (Part::Train, Some(epochs)) = (part, self.config.training.epochs) {
            let steps = epochs * conversations as f64 / self.config.training.batch_size as f64;
            self.config.training.steps = (steps.ceil() as usize).max(1);
        }
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

    /// Memory that fine-tuning under a recipe takes; the training part must be prepared.
    ///
    /// # Errors
    /// Data that was not prepared.
    pub fn memory(&self, recipe: &Recipe) -> Result<MemoryEstimate> {
        let spec = self.spec();
        let training = &self.config.training;
        let pictures = |source: &PictureSource| match source {
            PictureSource::Features { all, .. } => all.dims()[0],
            PictureSource::None | PictureSource::Files(_) | PictureSource::Stored(_) => 0,
        };
        let examples = self.part(Part::Train)?.conversations();
        let ranks: u64 = recipe.adapters().iter().map(|shape| u64::from(shape.rank)).sum();
        let mut plan = MemoryPlan {
            storage: self.base.storage,
            compute: training.compute,
            recompute: training.recompute,
            trained: recipe.trainable_parameters(spec) + spec.projector_parameters().unwrap_or(0),
            ranks,
            head: *recipe == Recipe::Full,
            dropout: training.lora_dropout > 0.0,
            // On a CPU the micro-batches of a step are computed side by side.
            parallel: if self.chosen.device == Device::flex() {
                training.micro_batches.clamp(1, self.chosen.threads)
            } else {
                1
            },
            rows: 0,
            length: 0,
            answers: 0,
            kept_pictures: self.parts.values().map(|part| pictures(part.conversations().pictures)).sum(),
            tower_batch: spec.vision.as_ref().map_or(0, |vision| feature_batch(vision.patches())),
        };
        let tokens = self.base.model.tokens_per_picture();
        let shapes = feed::shapes(examples, tokens, training, self.config.seed, STEPS_LOOKED_AT);
        let all = shapes.map(|(rows, length, answers)| {
            (plan.rows, plan.length, plan.answers) = (rows, length, answers);
            estimate(spec, &plan)
        });
        all.max_by_key(MemoryEstimate::total)
            .ok_or_else(|| failure(Kind::Usage, "there is nothing to train on, so there is no memory to estimate"))
    }

    /// The job of a recipe under this configuration.
    pub fn job(&self, recipe: Recipe, seed: u64, score: Part) -> Job {
        let mut training = self.config.training.clone();
        if recipe == Recipe::Full {
            training.optimizer =
                OptimizerConfig { learning_rate: self.config.full_learning_rate, ..training.optimizer };
        }
        // Where the data lies does not change what is computed; what is in it does.
        let data = DataConfig {
            folder: None,
            questions: None,
            validation_questions: None,
            test_questions: None,
            feature_memory: DataConfig::default().feature_memory,
            feature_cache: None,
            decoding_threads: DataConfig::default().decoding_threads,
            ..self.config.data.clone()
        };
        let questions = self.question_files.clone();
        Job {
            base: self.base.sha256.clone(),
            storage: self.base.storage,
            recipe,
            seed,
            training,
            data,
            questions,
            score,
        }
    }

    /// The model of a recipe before its first step, with the trained weights of a checkpoint where there is one.
    ///
    /// # Errors
    /// Weights that do not fit.
    pub fn model_of(&self, recipe: &Recipe, seed: u64, trained: Option<Weights>) -> Result<MobileVlm> {
        let shapes = recipe.adapters();
        let mut base = Weights::default();
        let mut adapters = initial_adapters(&self.base.spec, &shapes, seed);
        for (name, weight) in trained.unwrap_or_default().tensors {
            let target = if name.contains(".lora_") { &mut adapters } else { &mut base };
            target.tensors.insert(name, weight);
        }
        if *recipe == Recipe::Full && self.base.storage != Storage::F32 {
            return Err(failure(
                Kind::Usage,
                "full fine-tuning trains every weight in single precision: set storage=f32",
            ));
        }
        // Tensors are shared: a copy of the model costs no memory until it is changed.
        let model = self.base.model.clone().with_weights(base)?;
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
        let threads = self.config.data.decoding_threads;
        let result = fine_tune(state, trainable, examples, &job.training, job.seed, threads, |report, state| {
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
        if prepared.set.is_scored_by_likelihood() {
            let found = likelihood(model, &prepared.conversations())?;
            if found.tokens == 0 {
                let message = format!("the {} part of the data has no answer that can be scored", part.name());
                return Err(failure(Kind::Data, message));
            }
            let score = 100.0 * (-found.loss).exp();
            let details = serde_json::json!({
                "loss": found.loss, "token-accuracy": found.accuracy, "answer-tokens": found.tokens,
            });
            let tasks = IndexMap::from([(LIKELIHOOD.to_owned(), score)]);
            return Ok((Vec::new(), Scores { tasks, mean: score, details }));
        }
        let prompts = prepared.prompts();
        let answers = answer_all(model, &self.base.tokenizer, &prompts, ANSWER_TOKENS, self.chosen.threads, &|_| {})?;
        // An answer that could not be given is a wrong one.
        let answers: Vec<String> = answers.into_iter().map(Option::unwrap_or_default).collect();
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
