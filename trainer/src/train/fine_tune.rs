//! A whole fine-tune: step after step, and back to an earlier state where a loss is not finite.

use anyhow::Result;
use hydra_shared::vlm::batch::Batch;
use hydra_shared::vlm::training::StepReport;
use hydra_shared::vlm::{MobileVlm, Trainable};

use super::config::{NonFinite, TrainingConfig};
use super::step::{TrainingState, train_step};
use crate::data::feed::{Examples, StepInput, with_steps};
use crate::device::guarded;
use crate::error::{Kind, kind_of};

/// Returns to an earlier state before a run whose loss stays non-finite is given up.
const ROLL_BACKS: usize = 3;

/// Takes the remaining steps of a fine-tune whose vision tower is frozen.
///
/// `on_step` sees each step's report and the state after it, and may end the run early.
///
/// # Errors
/// A device that fails, a loss that is not finite, a picture that cannot be read, and whatever `on_step` returns.
pub fn fine_tune(
    mut state: TrainingState,
    trainable: Trainable,
    examples: Examples<'_>,
    config: &TrainingConfig,
    seed: u64,
    decoding_threads: usize,
    mut on_step: impl FnMut(Option<&StepReport>, &TrainingState) -> Result<Flow>,
) -> Result<(TrainingState, Flow)> {
    let due = |every: usize, step: usize| every > 0 && step.is_multiple_of(every);
    let tokens = state.model.tokens_per_picture();
    let step_config = config.step(trainable, seed);
    loop {
        // The newest state that is known to have a finite loss. Tensors are shared: it takes memory of its own only where a
        // later step has changed them.
        let mut good = (config.non_finite == NonFinite::RollBack).then(|| state.clone());
        let steps = state.step..config.steps;
        let result = with_steps(examples, tokens, steps, config.batching(seed), decoding_threads, |next_input| {
            while state.step < config.steps {
                let StepInput { micro_batches, gathered } = next_input()?;
                let step = state.step + 1;
                let log = due(config.log_every, step);
                // Nothing is saved, and no run ends well, whose gradients were not looked at.
                let read = log || due(config.checkpoint_every, step) || step == config.steps;
                let features = |model: &MobileVlm, batch: &Batch| examples.features(model, batch, &gathered);
                let before = good.as_ref().filter(|_| read).map(|_| state.clone());
                let take = || train_step(state, &step_config, &micro_batches, &features, read);
                let (next, report) = guarded("a training step", take)??;
                state = next;
                // The loss is that of the weights before the step.
                if before.is_some() {
                    good = before;
                }
                if on_step(report.as_ref().filter(|_| log), &state)? == Flow::Stop {
                    return Ok((state, Flow::Stop));
                }
            }
            Ok((state, Flow::Continue))
        });
        match (result, good) {
            (Err(error), Some(last)) if kind_of(&error) == Kind::Numerical && last.roll_backs < ROLL_BACKS => {
                let (step, roll_backs) = (last.step, last.roll_backs + 1);
                tracing::warn!("{error}; going on from step {step} with 1/{} of the learning rate", 1 << roll_backs);
                state = TrainingState { roll_backs, ..last };
            }
            (result, _) => return result,
        }
    }
}

/// Whether a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Continue,
    /// It was asked to stop; its state is complete.
    Stop,
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use hydra_shared::vlm::batch::{Encoded, Segment};
    use hydra_shared::vlm::init::random_weights;
    use hydra_shared::vlm::spec::ModelSpec;
    use hydra_shared::vlm::training::OptimizerConfig;
    use hydra_shared::vlm::{AdapterShape, Compute, LossScale, Weights, initial_adapters};

    use super::super::step::SavedState;
    use super::*;
    use crate::data::feed::PictureSource;

    /// A model with adapters and no tower, and what it is trained on.
    fn small() -> Result<(MobileVlm, Vec<Encoded>)> {
        let mut spec = ModelSpec::preset("tiny-mobilevlm")?;
        (spec.vision, spec.projector, spec.decoder.layers) = (None, None, 1);
        let shapes = vec![AdapterShape { rank: 2, scale: 2.0 }; spec.modules().count()];
        let model = MobileVlm::load(&spec, random_weights(&spec, 1), &Device::flex())?
            .with_adapters(&shapes, initial_adapters(&spec, &shapes, 1))?;
        let encoded = (0..2)
            .map(|row| Encoded { parts: vec![Segment::Text(vec![1, 5 + row]), Segment::Answer(vec![7, 8 + row])] })
            .collect();
        Ok((model, encoded))
    }

    /// Steps at a learning rate, and their losses.
    fn steps(
        config: &TrainingConfig,
        learning_rate: f64,
        loss_scale: LossScale,
    ) -> Result<((TrainingState, Flow), Vec<f64>)> {
        let (model, encoded) = small()?;
        let optimizer = OptimizerConfig { learning_rate, warmup_ratio: 0.0, ..OptimizerConfig::default() };
        let config =
            TrainingConfig { batch_size: 2, micro_batches: 1, checkpoint_every: 0, optimizer, ..config.clone() };
        let examples = Examples { encoded: &encoded, pictures: &PictureSource::None };
        let state = TrainingState { loss_scale, ..TrainingState::new(model, Trainable::Lora, &config.optimizer) };
        let mut losses = Vec::new();
        let end = fine_tune(state, Trainable::Lora, examples, &config, 1, 1, |report, _| {
            losses.extend(report.map(|report| report.loss));
            Ok(Flow::Continue)
        })?;
        Ok((end, losses))
    }

    /// Two steps at a learning rate; the second one's loss shows what the first did.
    fn two_steps(learning_rate: f64, non_finite: NonFinite) -> Result<(TrainingState, Flow)> {
        let config = TrainingConfig { steps: 2, non_finite, ..TrainingConfig::default() };
        Ok(steps(&config, learning_rate, LossScale::default())?.0)
    }

    /// The smallest power of two at which the loss is no longer finite.
    fn too_large() -> f64 {
        (0..120).map(|power| 2.0_f64.powi(power)).find(|rate| two_steps(*rate, NonFinite::Stop).is_err()).unwrap()
    }

    #[test]
    fn a_loss_that_is_not_finite_stops_the_run_with_a_remedy() {
        let error = two_steps(too_large(), NonFinite::Stop).map(|_| ()).unwrap_err();
        assert_eq!(kind_of(&error), Kind::Numerical);
        assert!(error.to_string().contains("at step 2: lower training.optimizer.learning_rate"), "{error}");
    }

    #[test]
    fn rolling_back_goes_on_from_the_last_good_state_with_half_the_learning_rate() {
        let rate = too_large();
        let (rolled, flow) = two_steps(rate, NonFinite::RollBack).unwrap();
        assert_eq!((rolled.step, rolled.roll_backs, flow), (2, 1, Flow::Continue));
        let (halved, _) = two_steps(rate / 2.0, NonFinite::Stop).unwrap();
        assert_eq!(trained(&rolled), trained(&halved));
    }

    fn trained(state: &TrainingState) -> Weights {
        SavedState::of(state, Trainable::Lora).unwrap().trained
    }

    #[test]
    fn a_gradient_that_overflows_in_half_precision_halves_the_loss_scale_and_loses_no_step() {
        let mut largest = LossScale::default();
        for _ in 0..20_000 {
            largest.succeeded();
        }
        let config = TrainingConfig { steps: 3, compute: Compute::F16, ..TrainingConfig::default() };
        let ((overflown, _), losses) = steps(&config, 1e-3, largest).unwrap();
        assert_eq!((overflown.step, overflown.roll_backs, losses.len()), (3, 0, 3));
        let found = overflown.loss_scale.value();
        assert!(found < largest.value(), "{found}");
        // As if it had begun with the scale that it found.
        let mut begin = LossScale::default();
        while begin.value() > found {
            begin.halve();
        }
        let ((direct, _), _) = steps(&config, 1e-3, begin).unwrap();
        assert_eq!(trained(&overflown), trained(&direct));
    }

    #[test]
    fn losses_in_half_precision_and_in_bfloat16_follow_those_of_single_precision() {
        let curve = |compute| {
            let config = TrainingConfig { steps: 40, compute, ..TrainingConfig::default() };
            steps(&config, 5e-3, LossScale::default()).unwrap().1
        };
        let single = curve(Compute::F32);
        assert!(single[39] < 0.5 * single[0], "{single:?}");
        // bfloat16 has three bits less.
        for (compute, most) in [(Compute::F16, 2e-2), (Compute::Bf16, 1.6e-1)] {
            for (step, (single, half)) in single.iter().zip(curve(compute)).enumerate() {
                assert!(
                    (single - half).abs() < most * single.max(0.1),
                    "{compute:?}, step {step}: {single} and {half}"
                );
            }
        }
    }

    #[test]
    fn a_run_that_stays_non_finite_is_given_up() {
        let error = two_steps(f64::from(f32::MAX), NonFinite::RollBack).map(|_| ()).unwrap_err();
        assert_eq!(kind_of(&error), Kind::Numerical);
    }
}
