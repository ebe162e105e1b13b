//! Ranks of all modules as a short text, and back.

use std::fmt::Write;

/// Ranks with repetitions: `64x84,128x42`.
pub(super) fn runs_text(ranks: &[u32]) -> String {
    let mut text = String::new();
    for run in ranks.chunk_by(|a, b| a == b) {
        if let Some(rank) = run.first() {
            let comma = if text.is_empty() { "" } else { "," };
            // Writing to a String cannot fail.
            let _ = match run.len() {
                1 => write!(text, "{comma}{rank}"),
                length => write!(text, "{comma}{rank}x{length}"),
            };
        }
    }
    text
}

pub(super) fn runs_from_text(text: &str, modules: usize) -> Option<Vec<u32>> {
    let mut ranks = Vec::with_capacity(modules);
    for part in text.split(',') {
        let (rank, length) = part.split_once('x').unwrap_or((part, "1"));
        let (rank, length) = (rank.parse::<u32>().ok()?, length.parse::<usize>().ok()?);
        if length > modules - ranks.len() {
            return None;
        }
        ranks.extend(std::iter::repeat_n(rank, length));
    }
    (ranks.len() == modules).then_some(ranks)
}
