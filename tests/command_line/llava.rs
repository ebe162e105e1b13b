//! Conversations and pictures against transformers and the rules of MobileVLM's training script.

use std::path::Path;

use hydra_shared::vlm::batch::{Encoded, IGNORED, IMAGE_TOKEN, Segment};
use hydra_shared::vlm::conversation::{Template, Turn};
use hydra_shared::vlm::{CLIP_MEAN, CLIP_STD, Weights};
use hydra_trainer::data::{Fit, read_picture};
use hydra_trainer::model::tokenizer;
use serde_json::Value;

use crate::support::{pythons, run_python};

/// Ids and labels as PyTorch programs hold them.
fn ids_and_labels(encoded: &Encoded) -> (Vec<i64>, Vec<i64>) {
    let mut ids = Vec::new();
    let mut labels = Vec::new();
    for part in &encoded.parts {
        match part {
            Segment::Text(tokens) => {
                ids.extend(tokens.iter().map(|token| i64::from(*token)));
                labels.extend(tokens.iter().map(|_| IGNORED));
            }
            Segment::Answer(tokens) => {
                ids.extend(tokens.iter().map(|token| i64::from(*token)));
                labels.extend(tokens.iter().map(|token| i64::from(*token)));
            }
            Segment::Picture(_) => {
                ids.push(IMAGE_TOKEN);
                labels.push(IGNORED);
            }
        }
    }
    (ids, labels)
}

fn numbers(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|number| number.as_i64().unwrap()).collect()
}

fn conversations_agree(folder: &Path) {
    let tokenizer = tokenizer::open(folder).unwrap();
    let cases: Value = serde_json::from_slice(&std::fs::read(folder.join("conversations.json")).unwrap()).unwrap();
    assert!(cases.as_array().unwrap().len() >= 10);
    for case in cases.as_array().unwrap() {
        let sentences: Vec<&str> = case["sentences"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
        let turns: Vec<Turn> = sentences
            .chunks(2)
            .map(|pair| Turn { question: pair[0].to_owned(), answer: Some(pair[1].to_owned()) })
            .collect();
        let template = if case["template"] == "v1" { Template::V1 } else { Template::Plain };
        let pictures: Vec<usize> = sentences.iter().filter(|text| text.contains("<image>")).map(|_| 0).collect();
        let encoded = template.encode(&tokenizer, &turns, &pictures).unwrap();
        let (ids, labels) = ids_and_labels(&encoded);
        assert_eq!(ids, numbers(&case["ids"]), "{template:?} {sentences:?}");
        assert_eq!(labels, numbers(&case["labels"]), "{template:?} {sentences:?}");
    }
}

/// Pillow and this program round to bytes after each of two passes: fewer than one value in a hundred may differ, none by
/// more than two of 255 levels.
fn pictures_agree(folder: &Path) {
    let expected = Weights::from_safetensors(&std::fs::read(folder.join("pictures.safetensors")).unwrap()).unwrap();
    let mut compared = 0;
    let mut different = 0;
    for (name, values) in &expected.tensors {
        let (fit, number) = name.split_once('.').unwrap();
        let fit = if fit == "pad" { Fit::Pad } else { Fit::Crop };
        let rgb = read_picture(&folder.join(format!("{number}.png")), 336, fit).unwrap();
        assert_eq!(values.shape, [3, 336, 336]);
        for (index, expected) in values.values.iter().enumerate() {
            let (colour, pixel) = (index / (336 * 336), index % (336 * 336));
            let level = f32::round((expected * CLIP_STD[colour] + CLIP_MEAN[colour]) * 255.0);
            let difference = (f32::from(rgb[pixel * 3 + colour]) - level).abs();
            assert!(difference <= 2.0, "{name}, colour {colour}, pixel {pixel}: differs by {difference} levels");
            compared += 1;
            different += usize::from(difference > 0.0);
        }
    }
    assert!(compared > 4_000_000);
    assert!(different * 100 < compared, "{different} of {compared} values differ");
}

#[test]
fn conversations_and_pictures_are_prepared_as_mobilevlm_and_clips_processor_prepare_them() {
    for python in pythons() {
        let folder = tempfile::tempdir().unwrap();
        run_python(&python, "llava_case.py", &[folder.path().to_str().unwrap()]);
        conversations_agree(folder.path());
        pictures_agree(folder.path());
    }
}
