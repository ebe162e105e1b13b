//! Generation over a set of questions, and the likelihood of expected answers.

use anyhow::Result;
use burn::tensor::ElementConversion;
use burn::tensor::activation::log_softmax;
use hydra_shared::vlm::MobileVlm;
use hydra_shared::vlm::batch::{Batch, Encoded};
use hydra_shared::vlm::generate::generate;
use hydra_shared::vlm::tokenizer::Tokenizer;
use indexmap::IndexMap;
use rayon::prelude::*;

use crate::data::feed::Examples;
use crate::data::{LIKELIHOOD, Prepared, Scores};
use crate::error::{Kind, failure};

/// Longest answer, in tokens: a box takes four location tokens, the longest word of easy-VQA a few pieces.
const ANSWER_TOKENS: usize = 12;

/// Most sequences that are computed at a time.
const ROWS: usize = 128;
/// Most positions that are computed at a time.
const POSITIONS: usize = 16_384;
/// Memory in bytes that a batch may take.
const BATCH_BYTES: usize = 1 << 30;

/// How answers are written.
#[derive(Clone, Copy)]
pub struct Answering<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Longest answer, in tokens.
    pub max_tokens: usize,
    /// Batches that are computed side by side.
    pub threads: usize,
}

/// Answers of `model` (which must be frozen) to every question of `examples`, in their order; none for a question whose
/// picture is damaged and to be skipped. `on_batch` hears of every batch, how many questions it had.
///
/// # Errors
/// A device that fails, tokens outside the vocabulary, pictures that cannot be read.
pub fn answer_all(
    model: &MobileVlm,
    answering: Answering<'_>,
    examples: &Examples<'_>,
    on_batch: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Option<String>>> {
    let Answering { tokenizer, max_tokens, threads } = answering;
    let d = &model.spec().decoder;
    // The cache of keys and values, and what one layer computes.
    let position = 4 * (2 * d.layers * d.kv_heads * d.head_dim + 4 * d.hidden + 3 * d.intermediate);
    let batches = batches(model, examples, position * threads.max(1));
    let threads = threads.clamp(1, batches.len().max(1));
    let work = |thread: usize| -> Result<Vec<(usize, String)>> {
        let mut answers = Vec::new();
        for batch in batches.iter().skip(thread).step_by(threads) {
            let (whole, gathered) = examples.gather(batch)?;
            let rows: Vec<&Encoded> = whole.iter().map(|index| &examples.encoded[*index]).collect();
            let pictures = Batch { pictures: rows.iter().flat_map(|row| row.pictures()).collect(), ..Batch::default() };
            let features = examples.features(model, &pictures, &gathered);
            let generated = pollster::block_on(generate(model, &rows, features, tokenizer.eos(), max_tokens))?;
            for (index, ids) in whole.iter().zip(generated) {
                answers.push((*index, tokenizer.decode(&ids)?));
            }
            on_batch(batch.len());
        }
        Ok(answers)
    };
    let parts: Vec<Result<Vec<(usize, String)>>> = (0..threads).into_par_iter().map(work).collect();
    let mut answers = vec![None; examples.encoded.len()];
    for part in parts {
        for (index, answer) in part? {
            answers[index] = Some(answer);
        }
    }
    Ok(answers)
}

/// Scores a model (which must be frozen) on a part of the data: its answers, none where the likelihood of the expected ones is
/// the score, and what they are worth.
///
/// # Errors
/// A device that fails, data without an answer that can be scored.
pub fn score(
    model: &MobileVlm,
    tokenizer: &Tokenizer,
    threads: usize,
    part: &Prepared,
) -> Result<(Vec<String>, Scores)> {
    if part.set.is_scored_by_likelihood() {
        return Ok((Vec::new(), likelihood_scores(model, part)?));
    }
    let answering = Answering { tokenizer, max_tokens: ANSWER_TOKENS, threads };
    let answers = answer_all(model, answering, &part.prompts(), &|_| {})?;
    // An answer that could not be given is a wrong one.
    let answers: Vec<String> = answers.into_iter().map(Option::unwrap_or_default).collect();
    let scores = part.set.score(&answers)?;
    Ok((answers, scores))
}

fn likelihood_scores(model: &MobileVlm, part: &Prepared) -> Result<Scores> {
    let found = likelihood(model, &part.conversations())?;
    if found.tokens == 0 {
        let message = format!("the {} part of the data has no answer that can be scored", part.part.name());
        return Err(failure(Kind::Data, message));
    }
    let mean = 100.0 * (-found.loss).exp();
    let details = serde_json::json!({
        "loss": found.loss, "token-accuracy": found.accuracy, "answer-tokens": found.tokens,
    });
    Ok(Scores { tasks: IndexMap::from([(LIKELIHOOD.to_owned(), mean)]), mean, details })
}

/// How well a model predicts the expected answers, each token given those before it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Likelihood {
    /// Mean cross-entropy of an answer token, in nats.
    pub loss: f64,
    /// Share of answer tokens that the model holds most likely, in percent.
    pub accuracy: f64,
    /// Number of answer tokens.
    pub tokens: usize,
}

/// The likelihood of every answer in `examples` under `model`, which must be frozen.
///
/// # Errors
/// A device that fails, pictures that cannot be read.
pub fn likelihood(model: &MobileVlm, examples: &Examples<'_>) -> Result<Likelihood> {
    let (mut loss, mut right, mut tokens) = (0.0, 0, 0);
    // At worst every position is scored: scores, their logarithms, and the best of them.
    for chosen in batches(model, examples, 12 * model.spec().decoder.vocab) {
        let (whole, gathered) = examples.gather(&chosen)?;
        let rows: Vec<&Encoded> = whole.iter().map(|index| &examples.encoded[*index]).collect();
        let batch = Batch::for_training(&rows, model.tokens_per_picture());
        if batch.answer_ids.is_empty() {
            continue;
        }
        let logits = model.forward(&batch, examples.features(model, &batch, &gathered));
        let best = logits.clone().argmax(1).into_data();
        let expected = batch.answer_ids.iter();
        right += best.iter::<i64>().zip(expected).filter(|(best, expected)| *best == i64::from(**expected)).count();
        let targets: burn::tensor::Tensor<1, burn::tensor::Int> =
            burn::tensor::Tensor::from_data(batch.answer_ids.as_slice(), &model.device());
        let picked = log_softmax(logits, 1).gather(1, targets.reshape([batch.answer_ids.len(), 1]));
        let sum: f32 = picked.sum().into_scalar::<f32>().elem();
        loss -= f64::from(sum);
        tokens += batch.answer_ids.len();
    }
    let count = tokens.max(1) as f64;
    Ok(Likelihood { loss: loss / count, accuracy: 100.0 * right as f64 / count, tokens })
}

/// Batches of similar lengths, in the order of their lengths, that take memory of `position_bytes` a position.
fn batches(model: &MobileVlm, examples: &Examples<'_>, position_bytes: usize) -> Vec<Vec<usize>> {
    let most = (BATCH_BYTES / position_bytes.max(1)).min(POSITIONS);
    let tokens = model.tokens_per_picture();
    let length = |index: &usize| examples.encoded[*index].length(tokens).max(1);
    let mut order: Vec<usize> = (0..examples.encoded.len()).collect();
    order.sort_by_key(length);
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for index in order {
        match batches.last_mut() {
            // The newest is the longest: all are padded to its length.
            Some(batch) if batch.len() < ROWS && (batch.len() + 1) * length(&index) <= most => batch.push(index),
            _ => batches.push(vec![index]),
        }
    }
    batches
}
