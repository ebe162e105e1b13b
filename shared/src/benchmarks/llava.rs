//! LLaVA's form of any benchmark's questions: JSON lines `{"question_id": …, "image": …, "text": …}`.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::error::BenchmarkError;
use super::question::{BenchmarkPicture, BenchmarkQuestion};
use super::records::{Id, json_lines};

#[derive(Deserialize)]
struct Line {
    question_id: Id,
    text: String,
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    category: Option<String>,
    /// POPE's own lines have this.
    #[serde(default)]
    label: Option<IgnoredAny>,
    /// RefCOCO's own lines have this.
    #[serde(default)]
    bbox: Option<IgnoredAny>,
}

/// Whether the first line is in LLaVA's form, not the benchmark's own.
pub(super) fn is_llavas(text: &str) -> bool {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    serde_json::from_str::<Line>(first).is_ok_and(|line| line.label.is_none() && line.bbox.is_none())
}

/// The questions; their text is the prompt as it is.
pub(super) fn questions(text: &str) -> Result<Vec<BenchmarkQuestion>, BenchmarkError> {
    let questions = json_lines::<Line>("questions", text)?.into_iter().map(|(_, line)| BenchmarkQuestion {
        id: line.question_id.0,
        picture: line.image.map_or(BenchmarkPicture::None, BenchmarkPicture::File),
        prompt: line.text,
        category: line.category,
    });
    Ok(questions.collect())
}
