//! Generation over a set of questions, in threads.

use anyhow::Result;
use hydra_shared::vlm::MobileVlm;
use hydra_shared::vlm::batch::Encoded;
use hydra_shared::vlm::generate::generate;
use hydra_shared::vlm::tokenizer::Tokenizer;

use rayon::prelude::*;

use crate::train_loop::{Examples, select_pictures};

/// Questions that are generated at a time.
const BATCH: usize = 128;

/// Answers of `model` (which must be frozen) to every question of `examples`, in their order.
///
/// # Errors
/// A device that fails, and tokens outside the vocabulary.
pub fn answer_all(
    model: &MobileVlm,
    tokenizer: &Tokenizer,
    examples: &Examples<'_>,
    max_tokens: usize,
    threads: usize,
) -> Result<Vec<String>> {
    let tokens = model.tokens_per_picture();
    // A batch holds prompts of one length: nothing is padded, and the cache stays rectangular.
    let length = |index: &usize| examples.encoded[*index].length(tokens);
    let mut order: Vec<usize> = (0..examples.encoded.len()).collect();
    order.sort_by_key(length);
    let batches: Vec<&[usize]> =
        order.chunk_by(|a, b| length(a) == length(b)).flat_map(|group| group.chunks(BATCH)).collect();
    let threads = threads.clamp(1, batches.len().max(1));
    let work = &|thread: usize| -> Result<Vec<(usize, String)>> {
        let mut answers = Vec::new();
        for batch in batches.iter().skip(thread).step_by(threads) {
            let rows: Vec<&Encoded> = batch.iter().map(|index| &examples.encoded[*index]).collect();
            let pictures: Vec<usize> = rows.iter().flat_map(|row| row.pictures()).collect();
            let features = select_pictures(examples.features, &pictures);
            let generated = pollster::block_on(generate(model, &rows, features, tokenizer.eos(), max_tokens))?;
            for (index, ids) in batch.iter().zip(generated) {
                answers.push((*index, tokenizer.decode(&ids)?));
            }
        }
        Ok(answers)
    };
    let parts: Vec<Result<Vec<(usize, String)>>> = (0..threads).into_par_iter().map(work).collect();
    let mut answers = vec![String::new(); examples.encoded.len()];
    for part in parts {
        for (index, answer) in part? {
            answers[index] = answer;
        }
    }
    Ok(answers)
}
