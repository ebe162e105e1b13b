//! Greedy generation with a key/value cache.

use burn::tensor::{ElementConversion, Int, Tensor};

use super::batch::{Batch, Encoded};
#[cfg(not(target_family = "wasm"))]
use super::{ForwardOptions, fused};
use super::{KvCache, MobileVlm, ModelError, WeightError, indices};

/// Continues each prompt greedily until the end token or `max_tokens` tokens.
///
/// `features` are the vision features of the prompts' pictures, `[pictures, patches, width]`. Returns the generated
/// tokens of each prompt, without the end token. Prompts of different lengths are padded at their front.
///
/// # Errors
/// A device that fails.
pub async fn generate(
    model: &MobileVlm,
    prompts: &[&Encoded],
    features: Option<Tensor<3>>,
    eos: i32,
    max_tokens: usize,
) -> Result<Vec<Vec<i32>>, ModelError> {
    let mut answers = vec![Vec::new(); prompts.len()];
    let mut open = vec![true; prompts.len()];
    let batch = Batch::for_generation(prompts, model.tokens_per_picture());
    if batch.rows == 0 || batch.length == 0 {
        return Ok(answers);
    }
    let device = model.device();
    #[cfg(not(target_family = "wasm"))]
    if fused::applies(model, ForwardOptions::default()) && fused::continues(&model.decoder) {
        return continued(model, &batch, features, eos, max_tokens).await;
    }
    let mut cache = KvCache::default();
    let sequence = model.splice(&batch, features);
    let states = model.decoder.extend(sequence, &batch.padding, batch.length, &mut cache);
    let mut last = states.select(0, indices(&batch.answer_positions, &device));
    for step in 0..max_tokens {
        let next = read_ids(model.decoder.logits(last).argmax(1)).await?;
        for ((answer, open), token) in answers.iter_mut().zip(&mut open).zip(&next) {
            *open &= *token != eos;
            if *open {
                answer.push(*token);
            }
        }
        if step + 1 == max_tokens || !open.contains(&true) {
            break;
        }
        // Ended rows go on unread: a single position costs less than taking them out of the cache.
        let embedded = model.decoder.embed(indices(&next, &device));
        last = model.decoder.extend(embedded, &batch.padding, 1, &mut cache);
    }
    Ok(answers)
}

/// The same with the decoder's passes on the CPU computed by hand; sequences that have ended go on no more.
#[cfg(not(target_family = "wasm"))]
async fn continued(
    model: &MobileVlm,
    batch: &Batch,
    features: Option<Tensor<3>>,
    eos: i32,
    max_tokens: usize,
) -> Result<Vec<Vec<i32>>, ModelError> {
    let mut answers = vec![Vec::new(); batch.rows];
    let mut open: Vec<usize> = (0..batch.rows).collect();
    let (mut sequences, mut last) =
        fused::Continuation::new(&model.decoder, batch, model.splice(batch, features).inner());
    for step in 0..max_tokens {
        let next = read_ids(model.decoder.logits(last).argmax(1)).await?;
        let (mut still, mut tokens) = (Vec::with_capacity(open.len()), Vec::with_capacity(open.len()));
        for (sequence, token) in open.into_iter().zip(next).filter(|(_, token)| *token != eos) {
            answers[sequence].push(token);
            still.push(sequence);
            tokens.push(token);
        }
        open = still;
        if step + 1 == max_tokens || open.is_empty() {
            break;
        }
        last = sequences.extend(&open, model.decoder.embed(indices(&tokens, &model.device())));
    }
    Ok(answers)
}

async fn read_ids(ids: Tensor<2, Int>) -> Result<Vec<i32>, ModelError> {
    let data =
        ids.into_data_async().await.map_err(|error| ModelError::Weights(WeightError::Device(format!("{error:?}"))))?;
    Ok(data.iter::<i64>().map(|id| id.elem()).collect())
}
