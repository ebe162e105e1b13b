//! Two adapters side by side: the schedule at hand and uniform LoRA, on the same batches.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Device;
use hydra_playground::charts::answers::judge;
use hydra_playground::messages::training::{Arm, TrainingSetup};
use hydra_shared::gradients::{LogMeta, LogWriter, ModuleGradient};
use hydra_shared::layout::{Layout, Ranks};
use hydra_shared::schedule::{Budget, Counting, Provenance, RankSchedule};
use hydra_shared::vlm::batch::Encoded;
use hydra_shared::vlm::generate::generate;
use hydra_shared::vlm::order::DataOrder;
use hydra_shared::vlm::spec::ModelSpec;
use hydra_shared::vlm::training::{FlatSnapshot, OptimizerConfig, module_gradients};
use hydra_shared::vlm::{MobileVlm, adapter_shapes};

use serde::{Deserialize, Serialize};

use super::TrainingError;
use super::arm::ArmState;
use super::base::Base;
use super::data::{Asked, Data};

/// Longest answer, in tokens, as in the trainer: a box takes four location tokens.
const ANSWER_TOKENS: usize = 12;
/// Most steps of a run.
const MOST_STEPS: usize = 10_000;
/// Most conversations of a step.
const MOST_CONVERSATIONS: usize = 64;

/// A run between two steps.
pub struct Trainer {
    setup: TrainingSetup,
    /// Of both arms.
    ranks: [Ranks; 2],
    device: Device,
    order: DataOrder,
    arms: [ArmState; 2],
    step: usize,
}

/// A [`Trainer`] on the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Steps that were taken.
    pub step: usize,
    arms: [FlatSnapshot; 2],
}

impl Snapshot {
    /// Whether it is of as many parameters as another one.
    pub fn fits(&self, other: &Self) -> bool {
        self.arms.iter().zip(&other.arms).all(|(own, other)| own.fits(other))
    }
}

/// What a step measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Steps that were taken, this one included.
    pub step: usize,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Losses of both arms before the update.
    pub losses: [f64; 2],
    /// Gradient norms of every module, before clipping, of both arms.
    pub gradients: [Vec<(String, ModuleGradient)>; 2],
    /// How long it took for both arms together, where somebody has a clock.
    pub milliseconds: f64,
    /// Tokens, of text and of pictures, that both arms together learned from in it.
    pub tokens: usize,
}

impl Trainer {
    /// A run before its first step.
    ///
    /// # Errors
    /// A setup that does not fit the model.
    pub fn new(base: &Base, data: &Data, setup: &TrainingSetup, device: &Device) -> Result<Self, TrainingError> {
        let ranks = check(&base.layout, setup)?;
        let optimizer = OptimizerConfig { learning_rate: setup.learning_rate, ..OptimizerConfig::default() };
        let model = base.on(device)?;
        let arm = |arm: Arm| {
            let shapes = adapter_shapes(&base.spec, &ranks[arm.index()], setup.scale);
            ArmState::new(&model, &shapes, setup.steps, setup.seed, optimizer)
        };
        Ok(Self {
            arms: [arm(Arm::Schedule)?, arm(Arm::Uniform)?],
            ranks,
            order: data.order(setup.batch_size, setup.seed),
            setup: setup.clone(),
            device: device.clone(),
            step: 0,
        })
    }

    /// What it was made from.
    pub fn setup(&self) -> &TrainingSetup {
        &self.setup
    }

    /// Steps that were taken.
    pub fn taken(&self) -> usize {
        self.step
    }

    /// Whether there is no further step.
    pub fn is_done(&self) -> bool {
        self.step >= self.setup.steps
    }

    /// Takes one step with both arms.
    ///
    /// # Errors
    /// A device that fails, a loss that is not finite. The state is of no use afterwards; a snapshot is.
    pub async fn step(&mut self, base: &Base, data: &mut Data) -> Result<Measured, TrainingError> {
        let batch = data.batch(&self.order.step(self.step));
        let mut learning_rate = 0.0;
        let mut losses = [0.0; 2];
        let mut gradients = [Vec::new(), Vec::new()];
        for (index, arm) in self.arms.iter_mut().enumerate() {
            let features = data.features(base, &batch.pictures, &self.device).await?;
            let report = arm.step(self.step, &batch, features).await?;
            let loss = [("the loss".to_owned(), report.loss)];
            let mut all = loss.iter().chain(&report.norms);
            if let Some((what, value)) = all.find(|(_, value)| !value.is_finite()) {
                return Err(TrainingError::NotFinite { step: report.step, what: what.clone(), value: *value });
            }
            learning_rate = report.learning_rate;
            losses[index] = report.loss;
            gradients[index] = module_gradients(&base.spec, &report.norms);
        }
        self.step += 1;
        let tokens = self.arms.len() * batch.lengths.iter().sum::<usize>();
        Ok(Measured { step: self.step, learning_rate, losses, gradients, milliseconds: 0.0, tokens })
    }

    /// Copies the state to the host.
    ///
    /// # Errors
    /// A device that fails.
    pub async fn snapshot(&self) -> Result<Snapshot, TrainingError> {
        let [schedule, uniform] = &self.arms;
        Ok(Snapshot { step: self.step, arms: [schedule.snapshot().await?, uniform.snapshot().await?] })
    }

    /// Goes on from a snapshot of the same setup, which may be of another device.
    pub fn restore(&mut self, snapshot: &Snapshot) {
        self.step = snapshot.step;
        for (arm, snapshot) in self.arms.iter_mut().zip(&snapshot.arms) {
            arm.restore(snapshot);
        }
    }

    /// What both arms answer to the sample questions.
    ///
    /// # Errors
    /// A device that fails.
    pub async fn answers(&self, base: &Base, data: &mut Data) -> Result<[Vec<String>; 2], TrainingError> {
        let [schedule, uniform] = &self.arms;
        let first = answers(&schedule.model(), base, data, &self.device).await?;
        Ok([first, answers(&uniform.model(), base, data, &self.device).await?])
    }

    /// How many of each picture's questions both arms answer right, of some of the pictures that are scored.
    ///
    /// # Errors
    /// A device that fails.
    pub async fn right(
        &self,
        base: &Base,
        data: &mut Data,
        pictures: Range<usize>,
    ) -> Result<[Vec<usize>; 2], TrainingError> {
        let [schedule, uniform] = &self.arms;
        let first = right(&schedule.model(), base, data, &self.device, pictures.clone()).await?;
        Ok([first, right(&uniform.model(), base, data, &self.device, pictures).await?])
    }

    /// An arm's adapter as PEFT loads it, and the projector that was trained beside it.
    ///
    /// # Errors
    /// A device that fails.
    pub async fn adapter(&self, base: &Base, arm: Arm) -> Result<Vec<(String, Vec<u8>)>, TrainingError> {
        let ranks = self.ranks[arm.index()].clone();
        let budget = Budget::uniform(&base.layout, self.setup.base_rank, Counting::Parameters).raised_to(&ranks);
        let provenance = Provenance {
            command: "playground: fine-tune the tiny model".to_owned(),
            inputs: Vec::new(),
            seed: Some(u64::from(self.setup.seed)),
        };
        let (rank, scale) = (self.setup.base_rank, self.setup.scale);
        let unusable = |error: String| TrainingError::Unusable(error);
        let schedule =
            RankSchedule::new(ranks, rank, scale, budget, provenance).map_err(|error| unusable(error.to_string()))?;
        let folder = self.arms[arm.index()].model().adapter_folder(&schedule).await?;
        folder.to_files().map_err(|error| unusable(error.to_string()))
    }

    /// Trainable parameters of both arms, the projector left out.
    pub fn parameters(&self) -> [u64; 2] {
        Arm::BOTH.map(|arm| self.ranks[arm.index()].parameters())
    }

    /// The ranks of an arm.
    pub fn ranks(&self, arm: Arm) -> &Ranks {
        &self.ranks[arm.index()]
    }
}

/// What a model answers to the sample questions.
///
/// # Errors
/// A device that fails.
pub async fn answers(
    model: &MobileVlm,
    base: &Base,
    data: &mut Data,
    device: &Device,
) -> Result<Vec<String>, TrainingError> {
    let prompts = data.prompts().to_vec();
    texts(model, base, data, device, &prompts).await
}

/// How many of each picture's questions a model answers right, of some of the pictures that are scored.
///
/// # Errors
/// A device that fails.
pub async fn right(
    model: &MobileVlm,
    base: &Base,
    data: &mut Data,
    device: &Device,
    pictures: Range<usize>,
) -> Result<Vec<usize>, TrainingError> {
    let asked: Vec<Vec<Asked>> = data.scored().get(pictures).unwrap_or_default().to_vec();
    let prompts: Vec<Encoded> = asked.iter().flatten().map(|(_, prompt)| prompt.clone()).collect();
    let mut texts = texts(model, base, data, device, &prompts).await?.into_iter();
    let side = data.side();
    let count = |asked: &Vec<Asked>| {
        let given = asked.iter().zip(texts.by_ref());
        given.filter(|((question, _), text)| judge(question, text, side).right).count()
    };
    Ok(asked.iter().map(count).collect())
}

/// What a model answers to prompts.
async fn texts(
    model: &MobileVlm,
    base: &Base,
    data: &mut Data,
    device: &Device,
    prompts: &[Encoded],
) -> Result<Vec<String>, TrainingError> {
    let pictures: Vec<usize> = prompts.iter().flat_map(|prompt| prompt.pictures()).collect();
    let features = data.features(base, &pictures, device).await?;
    let prompts: Vec<&Encoded> = prompts.iter().collect();
    let generated = generate(model, &prompts, features, base.tokenizer.eos(), ANSWER_TOKENS).await?;
    Ok(generated.iter().map(|ids| base.tokenizer.decode(ids)).collect::<Result<_, _>>()?)
}

/// A gradient log of what an arm's steps measured.
pub fn gradient_log(trainer: &Trainer, spec: &ModelSpec, measured: &[Measured], arm: Arm) -> String {
    let scale = trainer.setup.scale;
    let meta = LogMeta::of_lora(&spec.name, trainer.ranks(arm), |rank| scale.alpha(rank));
    // Writing to memory cannot fail.
    let Ok(mut writer) = LogWriter::new(Vec::new(), &meta) else { return String::new() };
    for step in measured {
        let gradients = step.gradients[arm.index()].iter().map(|(name, gradient)| (name.as_str(), *gradient));
        if writer.step(step.step as u64, Some(step.losses[arm.index()]), gradients).is_err() {
            break;
        }
    }
    String::from_utf8(writer.into_inner()).unwrap_or_default()
}

/// The ranks of both arms. Refuses a setup that the page would not send, so that no other one can make the worker run out of
/// memory.
fn check(layout: &Arc<Layout>, setup: &TrainingSetup) -> Result<[Ranks; 2], TrainingError> {
    let refused = |what: String| Err(TrainingError::Unusable(what));
    let schedule = match Ranks::new(layout, setup.ranks.clone()) {
        Ok(ranks) => ranks,
        Err(error) => return refused(error.to_string()),
    };
    let uniform = Ranks::uniform(layout, setup.base_rank);
    for (module, rank) in schedule.iter().chain(uniform.iter()) {
        let highest = module.highest_rank(None);
        if !(1..=highest).contains(&rank) {
            return refused(format!("{}: ranks go from 1 to {highest}", module.name));
        }
    }
    if !(1..=MOST_STEPS).contains(&setup.steps) || !(1..=MOST_CONVERSATIONS).contains(&setup.batch_size) {
        return refused(format!("a run has 1 to {MOST_STEPS} steps of 1 to {MOST_CONVERSATIONS} conversations"));
    }
    if !(setup.learning_rate > 0.0 && setup.learning_rate.is_finite()) {
        return refused("the learning rate must be above 0".to_owned());
    }
    Ok([schedule, uniform])
}
