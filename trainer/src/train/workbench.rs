//! What every command that trains shares: the base model and data on the device, on which jobs run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use burn::tensor::Device;
use hydra_shared::layout::{Layout, Ranks};
use hydra_shared::schedule::Budget;
use hydra_shared::tasks::Split;
use hydra_shared::vlm::MobileVlm;
use hydra_shared::vlm::memory::{MemoryEstimate, MemoryPlan, estimate};
use hydra_shared::vlm::spec::ModelSpec;
use hydra_shared::vlm::training::{OptimizerConfig, StepReport};
use indexmap::IndexMap;

use super::experiment::ExperimentConfig;
use super::fine_tune::{Flow, fine_tune};
use super::job::Job;
use super::step::TrainingState;
use crate::adapter::folder;
use crate::data::features::feature_batch;
use crate::data::feed::{self, PictureSource};
use crate::data::{self, DataConfig, LIKELIHOOD, Prepared, Scores};
use crate::device::Chosen;
use crate::digest::hash_files;
use crate::error::{Kind, failure};
use crate::evaluation::answers::{Answering, answer_all, likelihood};
use crate::interrupt;
use crate::model::base::{Base, BaseParts, projector_kind};
use crate::model::recipe::Recipe;
use crate::output::Output;

/// Longest answer, in tokens: a box takes four location tokens, the longest word of easy-VQA a few pieces.
const ANSWER_TOKENS: usize = 12;

/// Steps whose batches are looked at to find the largest.
const STEPS_LOOKED_AT: usize = 1000;

/// Base model and data on the device.
pub struct Workbench {
    /// The base model on the host.
    pub base: Base,
    /// Where it runs.
    pub chosen: Chosen,
    /// The configuration.
    pub config: ExperimentConfig,
    output: Output,
    parts: IndexMap<Split, Prepared>,
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

    /// The modules that can get ranks.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.base.layout
    }

    /// What a schedule may use.
    pub fn budget(&self) -> Budget {
        let plan = &self.config.plan;
        match plan.budget {
            Some(allowed) => Budget { counting: plan.counting, allowed },
            None => Budget::uniform(self.layout(), plan.base_rank, plan.counting),
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
    pub fn prepare(&mut self, part: Split) -> Result<()> {
        if self.parts.contains_key(&part) {
            return Ok(());
        }
        let set = data::load(&self.config.data, part, self.base.spec.vision.as_ref())?;
        if set.is_empty() {
            return Err(failure(Kind::Usage, format!("the {} part of the data holds no question", part.name())));
        }
        let prepared = Prepared::new(set, &self.base.model, &self.base.tokenizer, &self.config.data)?;
        let conversations = prepared.conversations().encoded.len();
        if let (Split::Train, Some(epochs)) = (part, self.config.training.epochs) {
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
    pub fn part(&self, part: Split) -> Result<&Prepared> {
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
        let examples = self.part(Split::Train)?.conversations();
        let ranks: u64 = recipe.adapters(spec).iter().map(|shape| u64::from(shape.rank)).sum();
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
        let batching = training.batching(self.config.seed);
        let shapes = feed::shapes(examples, tokens, batching, training.steps.min(STEPS_LOOKED_AT));
        let all = shapes.map(|(rows, length, answers)| {
            (plan.rows, plan.length, plan.answers) = (rows, length, answers);
            estimate(spec, &plan)
        });
        all.max_by_key(MemoryEstimate::total)
            .ok_or_else(|| failure(Kind::Usage, "there is nothing to train on, so there is no memory to estimate"))
    }

    /// Uniform LoRA at the base rank.
    ///
    /// # Errors
    /// A base rank of 0.
    pub fn uniform(&self) -> Result<Recipe> {
        let plan = &self.config.plan;
        if plan.base_rank == 0 {
            return Err(failure(Kind::Usage, "plan.base_rank is 0; it must be at least 1"));
        }
        Ok(Recipe::Lora { ranks: Ranks::uniform(self.layout(), plan.base_rank), scale: plan.scale })
    }

    /// The job of a recipe under this configuration.
    pub fn job(&self, recipe: Recipe, seed: u64, score: Split) -> Job {
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
        let examples = self.part(Split::Train)?.conversations();
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
        let model = self.base.model_of(&job.recipe, job.seed, None)?;
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

    /// Writes what a job trained.
    ///
    /// # Errors
    /// A disk that cannot be written.
    pub fn save(&self, folder: &Path, job: &Job, model: &MobileVlm) -> Result<()> {
        let base_rank = self.config.plan.base_rank;
        folder::save(folder, &self.base, &job.recipe, job.seed, base_rank, self.budget(), model)
    }

    /// How the base's models answer, in at most so many tokens.
    pub fn answering(&self, max_tokens: usize) -> Answering<'_> {
        Answering { tokenizer: &self.base.tokenizer, max_tokens, threads: self.chosen.threads }
    }

    /// Scores a model on a part of the data.
    ///
    /// # Errors
    /// A device that fails.
    pub fn score(&self, model: &MobileVlm, part: Split) -> Result<(Vec<String>, Scores)> {
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
        let answers = answer_all(model, self.answering(ANSWER_TOKENS), &prompts, &|_| {})?;
        // An answer that could not be given is a wrong one.
        let answers: Vec<String> = answers.into_iter().map(Option::unwrap_or_default).collect();
        let scores = prepared.set.score(&answers)?;
        Ok((answers, scores))
    }
}
