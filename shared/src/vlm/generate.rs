//! Greedy generation.

use burn::tensor::{ElementConversion, Tensor};

use super::batch::{Batch, Encoded};
use super::{MobileVlm, ModelError, WeightError};

/// Continues the last turn of each prompt greedily until the end token or `max_tokens` tokens.
///
/// `features` maps the pictures of a batch to their vision features, `[pictures, patches, width]`. Returns the generated
/// tokens of each example, without the end token. Sequences that have ended are taken out of the batch.
///
/// # Errors
/// A device that fails.
pub async fn generate(
    model: &MobileVlm,
    examples: &[&Encoded],
    features: impl Fn(&[usize]) -> Tensor<3>,
    eos: i32,
    max_tokens: usize,
) -> Result<Vec<Vec<i32>>, ModelError> {
    let mut sequences: Vec<Encoded> = examples.iter().map(|example| (*example).clone()).collect();
    let mut generated = vec![Vec::new(); sequences.len()];
    let mut running: Vec<usize> = (0..sequences.len()).collect();
    for _ in 0..max_tokens {
        if running.is_empty() {
            break;
        }
        let rows: Vec<&Encoded> = running.iter().map(|index| &sequences[*index]).collect();
        let batch = Batch::for_generation(&rows, model.tokens_per_picture());
        let best = model.forward(&batch, features(&batch.pictures)).argmax(1);
        let data = best
            .into_data_async()
            .await
            .map_err(|error| ModelError::Weights(WeightError::Device(format!("{error:?}"))))?;
        let next: Vec<i32> = data.iter::<i64>().map(|id| id.elem()).collect();
        let mut still = Vec::with_capacity(running.len());
        for (index, token) in running.into_iter().zip(next) {
            if token != eos {
                if let Some(turn) = sequences[index].turns.last_mut() {
                    turn.answer.push(token);
                }
                generated[index].push(token);
                still.push(index);
            }
        }
        running = still;
    }
    Ok(generated)
}
