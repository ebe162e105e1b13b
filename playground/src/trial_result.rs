//! What a trial scored: the file that a command writes for `trainer search --trial`, told to a study in the page.

use indexmap::IndexMap;
use serde::Deserialize;

/// Scores by task.
pub type Scores = Vec<(String, f64)>;

/// The file; what else is in it is left alone.
#[derive(Deserialize)]
struct TrialResult {
    scores: IndexMap<String, f64>,
}

/// Reads the file: at least one score.
///
/// # Errors
/// Another form, or a number that is not finite; with the right form.
pub fn read(text: &str) -> Result<Scores, String> {
    match serde_json::from_str(text) {
        Ok(TrialResult { scores }) if !scores.is_empty() => Ok(scores.into_iter().collect()),
        _ => Err("it is no result of a trial, which is {\"scores\": {\"task\": 61.5}} with finite numbers".to_owned()),
    }
}

/// Scores of a file in the order of a study's tasks; a study without a trial takes them as they are.
///
/// # Errors
/// Scores of other tasks.
pub fn scores_for(tasks: &[String], scores: Scores) -> Result<Scores, String> {
    if tasks.is_empty() {
        return Ok(scores);
    }
    let of = |task: &String| scores.iter().find(|(name, _)| name == task).cloned();
    let placed: Option<Scores> = tasks.iter().map(of).collect();
    placed.filter(|placed| placed.len() == scores.len()).ok_or_else(|| {
        let found: Vec<&str> = scores.iter().map(|(name, _)| name.as_str()).collect();
        format!("The file has scores of {}; those of this study are of {}.", found.join(", "), tasks.join(", "))
    })
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests {
    use super::*;
    use crate::documents::{Document, Kind, recognise};

    #[test]
    fn what_a_trial_scored_is_read_from_its_result_for_the_tasks_of_the_study() {
        let result = r#"{"seconds": 12, "scores": {"colour": 61.5, "shape": 40}}"#;
        assert_eq!(recognise(result.as_bytes()), Kind::Scores);
        let Some(Ok(Document::Scores(scores))) = crate::documents::read(Kind::Scores, result) else {
            panic!("no scores")
        };
        // What else is in it may be of gradients.
        let more = r#"{"scores": {"grade_school": 1}, "gradient_accumulation_steps": 8}"#;
        assert_eq!(recognise(more.as_bytes()), Kind::Scores);
        let tasks = ["shape", "colour"].map(str::to_owned);
        let of = |task: &str, score| (task.to_owned(), score);
        assert_eq!(scores_for(&[], scores.clone()).unwrap(), [of("colour", 61.5), of("shape", 40.0)]);
        assert_eq!(scores_for(&tasks, scores.clone()).unwrap(), [of("shape", 40.0), of("colour", 61.5)]);
        let other = scores_for(&tasks[..1], scores).unwrap_err();
        assert!(other.contains("of colour, shape; those of this study are of shape"), "{other}");
    }

    #[test]
    fn what_is_no_result_is_refused_with_the_right_form_and_a_log_that_has_scores_is_a_log() {
        for bad in
            ["{\"scores\": {}}", "{\"scores\": [1]}", "{\"scores\": {\"a\": NaN}}", "{\"scores\": {\"a\": \"1\"}}"]
        {
            assert_eq!(recognise(bad.as_bytes()), Kind::Scores);
            assert!(read(bad).unwrap_err().contains("no result of a trial"), "{bad}");
        }
        for log in ["{\"epoch\": 1, \"scores\": 2, \"grad_norm/q\": 3}", "{\"step\": 1, \"scores\": {\"a\": 1}}"] {
            assert_eq!(recognise(log.as_bytes()), Kind::Log);
        }
    }
}
