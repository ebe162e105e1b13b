//! Whether this implementation computes what another one computed: a model and a dump of inputs and outputs are compared,
//! quantity by quantity.
//!
//! A case is a folder with
//! - `config.json`, `model.safetensors` (or any other form that [`Checkpoint`] reads) and, where the configuration only
//!   names the tower, `vision_config.json`;
//! - `case.safetensors`: `images` `[n, 3, side, side]` (normalized; none for text alone), `input_ids`, `attention_mask`
//!   and `labels` `[rows, length]`, and of the outputs `vision_features`, `projected`, `logits`, `loss`, `lora_logits` and
//!   `lora_loss` those that are to be compared;
//! - optionally `adapter/` as PEFT writes it, `lora_grad_norms.json` (parameter → L2 norm of the gradient of `lora_loss`)
//!   and `trajectory.json` (AdamW's settings and the loss before each step that trains A and B alone).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use burn::tensor::{Device, Tensor};
use hydra_shared::adapter::saved_name;
use hydra_shared::vlm::batch::{Batch, Encoded, IMAGE_TOKEN};
use hydra_shared::vlm::training::{GradientSquares, OptimizerConfig, answer_loss, gradients};
use hydra_shared::vlm::{ForwardOptions, MobileVlm, Trainable, Weight, patchify_normalized};
use safetensors::tensor::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::adapter::peft;
use crate::device::host;
use crate::error::{Kind, ResultExt, failure};
use crate::input;
use crate::model::checkpoint::Checkpoint;

/// Largest relative difference in single precision that rounding explains.
pub const TOLERANCE: f64 = 1e-4;

/// Inputs and outputs of the other implementation.
const CASE_FILE: &str = "case.safetensors";

/// How one quantity compares.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// What was compared.
    pub name: String,
    /// Largest difference, divided by the largest magnitude of the reference (for a list of separate numbers: each by its
    /// own); null if something is not finite.
    pub difference: Option<f64>,
    /// Up to which it passes.
    pub tolerance: f64,
    /// Whether it does.
    pub passed: bool,
    /// Where the largest difference is, in a list of named numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst: Option<String>,
}

impl Comparison {
    fn new(name: &str, difference: f64, worst: Option<String>) -> Self {
        let finite = difference.is_finite();
        Self {
            name: name.to_owned(),
            difference: finite.then_some(difference),
            tolerance: TOLERANCE,
            passed: finite && difference <= TOLERANCE,
            worst,
        }
    }

    /// Two tensors, element by element.
    fn tensors(name: &str, found: &[f32], expected: &[f32]) -> Result<Self> {
        if found.len() != expected.len() {
            let message =
                format!("{CASE_FILE}: {name} has {} elements, the model gives {}", expected.len(), found.len());
            return Err(failure(Kind::Data, message));
        }
        let largest = expected.iter().fold(0.0_f64, |largest, value| largest.max(f64::from(value.abs())));
        // `max` would drop a NaN.
        let difference = found
            .iter()
            .zip(expected)
            .map(|(a, b)| f64::from(a - b).abs())
            .fold(0.0, |worst: f64, d| if d.is_nan() || worst.is_nan() { f64::NAN } else { worst.max(d) });
        Ok(Self::new(name, difference / largest.max(f64::MIN_POSITIVE), None))
    }

    /// Named numbers, each against its own magnitude.
    fn numbers(name: &str, pairs: impl Iterator<Item = (String, f64, f64)>) -> Self {
        let mut worst = (0.0, None);
        for (label, found, expected) in pairs {
            let difference = (found - expected).abs() / expected.abs().max(1e-12);
            if difference.is_nan() || difference > worst.0 {
                worst = (difference, Some(label));
            }
        }
        Self::new(name, worst.0, worst.1)
    }
}

/// The settings of a dumped training run.
#[derive(Debug, Deserialize)]
struct Trajectory {
    lr: f64,
    betas: [f32; 2],
    eps: f32,
    weight_decay: f32,
    losses: Vec<f64>,
}

/// The tensors of a case.
struct Case<'a> {
    file: SafeTensors<'a>,
    place: String,
}

impl Case<'_> {
    fn floats(&self, name: &str) -> Result<Option<Weight>> {
        let Ok(view) = self.file.tensor(name) else { return Ok(None) };
        Weight::from_view(name, &view).map(Some).or_fail(Kind::Data, || self.place.clone())
    }

    /// Rows of whole numbers.
    fn rows(&self, name: &str) -> Result<Vec<Vec<i64>>> {
        let view = self.file.tensor(name).or_fail(Kind::Data, || format!("{}: {name}", self.place))?;
        let (&[rows, length], Dtype::I64) = (view.shape(), view.dtype()) else {
            return Err(failure(Kind::Data, format!("{}: {name} must be an I64 matrix", self.place)));
        };
        let values: Vec<i64> = view.data().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        Ok((0..rows).map(|row| values[row * length..(row + 1) * length].to_vec()).collect())
    }
}

/// Compares everything that the folder holds.
///
/// # Errors
/// Files that are missing, damaged or contradict each other; a device that fails. Differences are no errors.
pub fn compare(folder: &Path, device: &Device) -> Result<Vec<Comparison>> {
    let Checkpoint { spec, weights } = Checkpoint::open(folder, None)?;
    let place = folder.join(CASE_FILE).display().to_string();
    let bytes = std::fs::read(folder.join(CASE_FILE)).or_fail(Kind::Data, || format!("{place}: cannot be read"))?;
    let case = Case { file: SafeTensors::deserialize(&bytes).or_fail(Kind::Data, || place.clone())?, place };
    let model = MobileVlm::load(&spec, weights, device).or_fail(Kind::Data, || folder.display().to_string())?;
    let mut found = Vec::new();

    let patches = match (case.floats("images")?, &spec.vision) {
        (Some(images), Some(vision)) => {
            let side = vision.image_size;
            if images.shape.get(1..) != Some(&[3, side, side]) {
                let message =
                    format!("{}: images has shape {:?}, expected [n, 3, {side}, {side}]", case.place, images.shape);
                return Err(failure(Kind::Data, message));
            }
            Some(patchify_normalized(vision, &images.values, device))
        }
        _ => None,
    };
    let features = patches.and_then(|patches| model.vision_features(patches));
    if let (Some(features), Some(expected)) = (&features, case.floats("vision_features")?) {
        found.push(Comparison::tensors("vision_features", &host(features.clone())?, &expected.values)?);
    }
    if let (Some(features), Some(vision), Some(expected)) = (&features, &model.vision, case.floats("projected")?) {
        let projected = host(vision.projector.forward(features.clone()))?;
        found.push(Comparison::tensors("projected", &projected, &expected.values)?);
    }

    let batch = batch(&case, &model, features.as_ref().map_or(0, |features| features.dims()[0]))?;
    found.extend(outputs(&case, &model, &batch, features.clone(), "")?);
    if folder.join("adapter").is_dir() {
        let adapter = peft::open(&folder.join("adapter"), &spec.layout()?)?;
        let model = model.with_adapter(adapter)?;
        found.extend(outputs(&case, &model, &batch, features.clone(), "lora_")?);
        found.extend(gradient_norms(folder, &model, &batch, features.clone())?);
        found.extend(trajectory(folder, model, &batch, features.as_ref())?);
    }
    if found.is_empty() {
        return Err(failure(Kind::Data, format!("{}: holds no output that could be compared", case.place)));
    }
    Ok(found)
}

/// The case's rows, without their padding on the right.
fn batch(case: &Case<'_>, model: &MobileVlm, pictures: usize) -> Result<Batch> {
    let (ids, mask, labels) = (case.rows("input_ids")?, case.rows("attention_mask")?, case.rows("labels")?);
    let shape = |rows: &[Vec<i64>]| [rows.len(), rows.first().map_or(0, Vec::len)];
    if shape(&mask) != shape(&ids) || shape(&labels) != shape(&ids) {
        let message = format!("{}: input_ids, attention_mask and labels must be of one shape", case.place);
        return Err(failure(Kind::Data, message));
    }
    let mut encoded = Vec::with_capacity(ids.len());
    let mut used = 0;
    for (row, ((ids, mask), labels)) in ids.iter().zip(&mask).zip(&labels).enumerate() {
        let length = mask.iter().take_while(|value| **value != 0).count();
        if length == 0 || mask[length..].iter().any(|value| *value != 0) {
            let message = format!("{}: row {row} must be padded on the right alone, and not be empty", case.place);
            return Err(failure(Kind::Data, message));
        }
        let vocab = model.spec().decoder.vocab as i64;
        if let Some(id) = ids[..length].iter().find(|id| **id != IMAGE_TOKEN && !(0..vocab).contains(*id)) {
            let message = format!("{}: row {row} holds token {id}, the vocabulary has {vocab}", case.place);
            return Err(failure(Kind::Data, message));
        }
        let sequence = Encoded::from_ids(&ids[..length], &labels[..length], used);
        used += sequence.pictures().count();
        encoded.push(sequence);
    }
    if used != pictures {
        let message = format!("{}: {used} image tokens ({IMAGE_TOKEN}) for {pictures} images", case.place);
        return Err(failure(Kind::Data, message));
    }
    Ok(Batch::for_training(&encoded.iter().collect::<Vec<_>>(), model.tokens_per_picture()))
}

/// Logits at every position that is no padding, and the loss over the labels that are not ignored.
fn outputs(
    case: &Case<'_>,
    model: &MobileVlm,
    batch: &Batch,
    features: Option<Tensor<3>>,
    prefix: &str,
) -> Result<Vec<Comparison>> {
    let mut found = Vec::new();
    let name = format!("{prefix}logits");
    if let Some(expected) = case.floats(&name)? {
        let states = model.decoder.forward(
            model.splice(batch, features.clone()),
            batch.rows,
            batch.length,
            ForwardOptions::default(),
        );
        let logits = host(model.decoder.logits(states))?;
        let vocab = model.spec().decoder.vocab;
        let &[rows, length, width] = expected.shape.as_slice() else {
            return Err(failure(Kind::Data, format!("{}: {name} must have three dimensions", case.place)));
        };
        if rows != batch.rows || width != vocab || length < batch.length {
            let message = format!("{}: {name} has shape {:?}", case.place, expected.shape);
            return Err(failure(Kind::Data, message));
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for (row, used) in batch.lengths.iter().enumerate() {
            let start = row * batch.length * vocab;
            ours.extend_from_slice(&logits[start..start + used * vocab]);
            let start = row * length * vocab;
            theirs.extend_from_slice(&expected.values[start..start + used * vocab]);
        }
        found.push(Comparison::tensors(&name, &ours, &theirs)?);
    }
    let name = format!("{prefix}loss");
    if let Some(expected) = case.floats(&name)? {
        let loss = host(answer_loss(model, batch, features, batch.answer_ids.len()))?;
        found.push(Comparison::tensors(&name, &loss, &expected.values)?);
    }
    Ok(found)
}

fn gradient_norms(
    folder: &Path,
    model: &MobileVlm,
    batch: &Batch,
    features: Option<Tensor<3>>,
) -> Result<Option<Comparison>> {
    let Some(expected) = json::<BTreeMap<String, f64>>(&folder.join("lora_grad_norms.json"))? else { return Ok(None) };
    let model = model.clone().trained(Trainable::Lora);
    let loss = answer_loss(&model, batch, features, batch.answer_ids.len());
    let grads = gradients(&loss, &model);
    let readout = pollster::block_on(GradientSquares::new(&model, &grads).read(loss))?;
    let norms: BTreeMap<String, f64> = readout.norms.into_iter().collect();
    let pairs = expected
        .into_iter()
        .map(|(name, expected)| {
            // PEFT puts the adapter's name in: `….lora_A.default.weight`, `….lora_embedding_A.default`.
            let plain = saved_name(&name);
            let found =
                norms.get(&plain).copied().with_context(|| format!("lora_grad_norms.json: no parameter {name}"))?;
            Ok((plain, found, expected))
        })
        .collect::<Result<Vec<_>>>()
        .or_fail(Kind::Data, || folder.display().to_string())?;
    if pairs.len() != norms.len() {
        let message = format!("lora_grad_norms.json has {} norms, the adapter {} tensors", pairs.len(), norms.len());
        return Err(failure(Kind::Data, format!("{}: {message}", folder.display())));
    }
    Ok(Some(Comparison::numbers("lora_grad_norms", pairs.into_iter())))
}

fn trajectory(
    folder: &Path,
    model: MobileVlm,
    batch: &Batch,
    features: Option<&Tensor<3>>,
) -> Result<Option<Comparison>> {
    let Some(expected) = json::<Trajectory>(&folder.join("trajectory.json"))? else { return Ok(None) };
    let config = OptimizerConfig {
        learning_rate: expected.lr,
        beta1: expected.betas[0],
        beta2: expected.betas[1],
        epsilon: expected.eps,
        weight_decay: expected.weight_decay,
        ..OptimizerConfig::default()
    };
    let mut optimizer = config.init();
    let mut model = model.trained(Trainable::Lora);
    let mut pairs = Vec::new();
    for (step, expected) in expected.losses.iter().enumerate() {
        let loss = answer_loss(&model, batch, features.cloned(), batch.answer_ids.len());
        let grads = gradients(&loss, &model);
        let found = host(loss)?.first().copied().unwrap_or(f32::NAN);
        pairs.push((format!("step {}", step + 1), f64::from(found), *expected));
        model = optimizer.step(config.learning_rate, model, grads);
    }
    Ok(Some(Comparison::numbers("trajectory", pairs.into_iter())))
}

/// A file of the case; none if there is no such file.
fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if !path.is_file() {
        return Ok(None);
    }
    input::document(path).map(Some)
}

#[cfg(test)]
mod tests {
    use hydra_shared::vlm::Precision;
    use hydra_shared::vlm::init::random_weights;
    use hydra_shared::vlm::spec::ModelConfig;
    use safetensors::tensor::TensorView;
    use tempfile::TempDir;

    use super::*;
    use crate::error::message_of;

    const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 20, "rms_norm_eps": 1e-6}"#;

    /// A case of text alone, whose inputs are the given rows.
    fn refusal(ids: &[&[i64]], mask: &[&[i64]], labels: &[&[i64]]) -> String {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("config.json"), CONFIG).unwrap();
        let weights = random_weights(&ModelConfig::from_json(CONFIG).unwrap().runnable().unwrap(), 1);
        let model = weights.to_safetensors(Precision::F32).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), model).unwrap();
        let bytes = |rows: &[&[i64]]| rows.concat().iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>();
        let tensors = [("input_ids", ids), ("attention_mask", mask), ("labels", labels)];
        let data = tensors.map(|(name, rows)| (name, vec![rows.len(), rows[0].len()], bytes(rows)));
        let views =
            data.iter().map(|(name, shape, data)| (*name, TensorView::new(Dtype::I64, shape.clone(), data).unwrap()));
        std::fs::write(folder.path().join(CASE_FILE), safetensors::serialize(views, None).unwrap()).unwrap();
        message_of(&compare(folder.path(), &Device::flex()).unwrap_err())
    }

    #[test]
    fn inputs_that_contradict_each_other_are_refused_and_named() {
        let message = refusal(&[&[1, 2]], &[&[1, 1, 1]], &[&[1, 2]]);
        assert!(message.contains("input_ids, attention_mask and labels must be of one shape"), "{message}");
        let message = refusal(&[&[1, 2], &[1, 2]], &[&[1, 1]], &[&[1, 2], &[1, 2]]);
        assert!(message.contains("must be of one shape"), "{message}");
        assert!(refusal(&[&[1, 2]], &[&[0, 1]], &[&[1, 2]]).contains("row 0 must be padded on the right alone"));
        assert!(refusal(&[&[1, 20]], &[&[1, 1]], &[&[1, 2]]).contains("row 0 holds token 20, the vocabulary has 20"));
        assert!(refusal(&[&[1, -200]], &[&[1, 1]], &[&[1, 2]]).contains("1 image tokens (-200) for 0 images"));
        assert!(refusal(&[&[1, 2]], &[&[1, 1]], &[&[1, 2]]).contains("holds no output that could be compared"));
    }

    #[test]
    fn a_difference_that_is_not_finite_never_passes() {
        for value in [f32::NAN, f32::INFINITY] {
            let comparison = Comparison::tensors("logits", &[1.0, value, 2.0], &[1.0, 2.0, 2.0]).unwrap();
            assert!(!comparison.passed && comparison.difference.is_none());
        }
        assert!(!Comparison::numbers("norms", [("a".to_owned(), f64::NAN, 1.0)].into_iter()).passed);
        assert!(Comparison::tensors("logits", &[1.0, 2.0], &[1.0, 2.000_1]).unwrap().passed);
        assert!(!Comparison::tensors("logits", &[1.0, 2.0], &[1.0, 2.001]).unwrap().passed);
    }
}
