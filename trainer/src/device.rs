//! Which device tensors live on, and whether it can be believed.

use anyhow::{Context as _, Result};
use burn::tensor::Device;
use hydra_shared::model_spec::ModelSpec;
use hydra_shared::vlm::batch::{Batch, Encoded, Segment};
use hydra_shared::vlm::init::random_weights;
use hydra_shared::vlm::training::{GradientSquares, StepReadout, answer_loss, gradients};
use hydra_shared::vlm::{AdapterShape, MobileVlm, Trainable, initial_adapters, patchify};

use serde::{Deserialize, Serialize};

use crate::base::TINY;
use crate::cli::DeviceChoice;
use crate::error::{Kind, failure};

/// Largest relative difference between a device's and the CPU's loss and gradient norms in single precision. Rounding
/// stays ten times below it; the wrong results that Burn's GPU backends are known for lie far above.
const TOLERANCE: f64 = 1e-3;

/// The device of a command.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// Where tensors live.
    pub device: Device,
    /// What it is, for people.
    pub name: String,
    /// Why it was taken, and why not another.
    pub reason: String,
    /// Threads that micro-batches and evaluation may use: the CPU's cores, or 1 for a GPU, which has one queue.
    pub threads: usize,
}

/// Follows `--device`.
///
/// # Errors
/// A device that this build or this machine does not have, or that computes something else than the CPU.
pub fn choose(choice: DeviceChoice) -> Result<Chosen> {
    match choice {
        DeviceChoice::Cpu => Ok(cpu("as asked".to_owned())),
        DeviceChoice::Wgpu | DeviceChoice::Vulkan => {
            let Some((device, name)) = find(choice, true)? else {
                return Err(failure(
                    Kind::Usage,
                    format!("--device {choice:?}: no adapter was found; `trainer doctor` lists what is there"),
                ));
            };
            let difference = compare_with_cpu(&device)?;
            if difference > TOLERANCE {
                return Err(failure(
                    Kind::Numerical,
                    format!(
                        "{name} computes something else than the CPU (a LoRA step differs by {difference:.1e}, allowed \
                         is {TOLERANCE:.0e}); use --device cpu, or --device wgpu instead of vulkan"
                    ),
                ));
            }
            let reason = format!("as asked; a LoRA step agrees with the CPU to {difference:.1e}");
            Ok(Chosen { device, name, reason, threads: 1 })
        }
        DeviceChoice::Auto => auto(),
    }
}

/// The first GPU that agrees with the CPU, else the CPU.
fn auto() -> Result<Chosen> {
    let mut refused = Vec::new();
    for choice in [DeviceChoice::Vulkan, DeviceChoice::Wgpu] {
        let (device, name) = match find(choice, false) {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            Err(error) => {
                refused.push(format!("{error:#}"));
                continue;
            }
        };
        match compare_with_cpu(&device) {
            Ok(difference) if difference <= TOLERANCE => {
                let reason = format!("a LoRA step agrees with the CPU to {difference:.1e}");
                return Ok(Chosen { device, name, reason, threads: 1 });
            }
            Ok(difference) => refused.push(format!("{name} differs from the CPU by {difference:.1e} in a LoRA step")),
            Err(error) => refused.push(format!("{name}: {error:#}")),
        }
    }
    let reason = if refused.is_empty() { "no GPU was found".to_owned() } else { refused.join("; ") };
    Ok(cpu(reason))
}

fn cpu(reason: String) -> Chosen {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Chosen { device: Device::flex(), name: "CPU (Burn flex)".to_owned(), reason, threads }
}

/// The first adapter of a backend; software adapters only where they were asked for.
#[cfg(feature = "wgpu")]
fn find(choice: DeviceChoice, software: bool) -> Result<Option<(Device, String)>> {
    use burn::tensor::DeviceType;
    #[cfg(not(feature = "vulkan"))]
    if choice == DeviceChoice::Vulkan {
        return if software {
            Err(failure(Kind::Usage, "--device vulkan needs a build with --features vulkan"))
        } else {
            Ok(None)
        };
    }
    let backend = match choice {
        #[cfg(feature = "vulkan")]
        DeviceChoice::Vulkan => DeviceType::Vulkan,
        _ => DeviceType::Wgpu,
    };
    let devices = guarded("listing adapters", || Device::enumerate(backend))?;
    for device in devices.into_iter() {
        let kind = format!("{device:?}");
        let is_gpu = ["DiscreteGpu", "IntegratedGpu", "VirtualGpu"].iter().any(|gpu| kind.contains(gpu));
        if is_gpu || software {
            let identity = guarded("opening the adapter", || device.identity())?;
            return Ok(Some((device.clone(), identity.map_or(kind, |identity| identity.name))));
        }
    }
    Ok(None)
}

#[cfg(not(feature = "wgpu"))]
fn find(_: DeviceChoice, asked: bool) -> Result<Option<(Device, String)>> {
    if asked {
        Err(failure(Kind::Usage, "this build has no GPU backend; build with --features wgpu"))
    } else {
        Ok(None)
    }
}

/// A device and how far its LoRA step is from the CPU's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The adapter.
    pub name: String,
    /// Largest relative difference of loss and gradient norms; none if something is not finite.
    pub difference: Option<f64>,
    /// Whether commands accept the device.
    pub accepted: bool,
}

/// Compares the adapter that a command with this `--device` would take, software ones included; none without adapter.
///
/// # Errors
/// A build without that backend, a driver that fails.
pub fn compare(choice: DeviceChoice) -> Result<Option<Comparison>> {
    let Some((device, name)) = find(choice, true)? else { return Ok(None) };
    let difference = compare_with_cpu(&device)?;
    let accepted = difference <= TOLERANCE;
    Ok(Some(Comparison { name, difference: difference.is_finite().then_some(difference), accepted }))
}

/// Largest relative difference of the loss and of every gradient norm of one small LoRA step between `device` and the
/// CPU.
///
/// # Errors
/// A device that fails.
pub fn compare_with_cpu(device: &Device) -> Result<f64> {
    let expected = probe_step(&Device::flex())?;
    let found = guarded("a LoRA step", || probe_step(device))??;
    let difference = |a: f64, b: f64| {
        let difference = (a - b).abs() / b.abs().max(1e-3);
        if difference.is_finite() { difference } else { f64::INFINITY }
    };
    let norms = found.norms.iter().zip(&expected.norms).map(|((_, a), (_, b))| difference(*a, *b));
    Ok(norms.fold(difference(found.loss, expected.loss), f64::max))
}

/// Loss and gradient norms of a fixed step of the tiny model with random weights.
fn probe_step(device: &Device) -> Result<StepReadout> {
    let spec = ModelSpec::preset(TINY)?;
    let shapes = vec![AdapterShape { rank: 3, scale: 2.0 }; spec.module_count()];
    let mut adapters = initial_adapters(&spec, &shapes, 1);
    for (name, weight) in &mut adapters.tensors {
        if name.ends_with("lora_B.weight") {
            for (index, value) in weight.values.iter_mut().enumerate() {
                *value = (index % 7) as f32 / 50.0 - 0.06;
            }
        }
    }
    let model = MobileVlm::load(&spec, random_weights(&spec, 1), device)?.with_adapters(&shapes, adapters)?;
    let examples: Vec<Encoded> = (0..2)
        .map(|picture| {
            let parts = vec![
                Segment::Text(vec![1, 40]),
                Segment::Picture(picture as usize),
                Segment::Text(vec![40, 41, 42 + picture]),
                Segment::Answer(vec![60, 61 + picture, 2]),
            ];
            Encoded { parts }
        })
        .collect();
    let batch = Batch::for_training(&examples.iter().collect::<Vec<_>>(), model.tokens_per_picture());
    let vision = spec.vision.as_ref().context("the tiny model has a vision tower")?;
    let side = vision.image_size;
    let pictures: Vec<Vec<u8>> =
        (0..2).map(|p| (0..side * side * 3).map(|i| ((i * 31 + p * 77) % 256) as u8).collect()).collect();
    let rgb: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
    let features = model.vision_features(patchify(vision, &rgb, device));
    let model = model.trained(Trainable::ProjectorAndLora);
    let loss = answer_loss(&model, &batch, features, batch.answer_ids.len());
    let grads = gradients(&loss, &model);
    Ok(pollster::block_on(GradientSquares::new(&model, &grads).read(loss, true))?)
}

/// Graphics drivers fail by panicking deep inside Burn: such a panic becomes an error here.
fn guarded<T>(what: &str, work: impl FnOnce() -> T) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|cause| {
        let text =
            cause.downcast_ref::<String>().cloned().or_else(|| cause.downcast_ref::<&str>().map(|t| (*t).to_owned()));
        failure(
            Kind::Failure,
            format!("{what} failed: {}", text.unwrap_or_else(|| "the driver gave no reason".to_owned())),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_agrees_with_itself_exactly() {
        assert_eq!(compare_with_cpu(&Device::flex()).unwrap(), 0.0);
    }

    #[test]
    fn the_probe_has_a_gradient_in_every_adapter() {
        let readout = probe_step(&Device::flex()).unwrap();
        let adapters = readout.norms.iter().filter(|(name, _)| name.contains(".lora_"));
        assert_eq!(adapters.clone().count(), 2 * 42);
        assert!(adapters.clone().all(|(_, norm)| *norm > 0.0));
    }
}
