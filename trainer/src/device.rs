//! Which device tensors live on, and whether it can be believed.

use anyhow::{Context as _, Result};
use burn::tensor::{DType, Device, Tensor};
use clap::ValueEnum;
use hydra_shared::vlm::batch::{Batch, Encoded, Segment};
use hydra_shared::vlm::init::random_weights;
use hydra_shared::vlm::spec::ModelSpec;
use hydra_shared::vlm::training::{Backward, Recompute, loss_and_gradients, read_gradients};
use hydra_shared::vlm::{
    AdapterShape, Compute, ForwardOptions, LoraDropout, MobileVlm, Trainable, bfloat16_units, initial_adapters,
    patchify,
};
use serde::{Deserialize, Serialize};

use crate::error::{Kind, failure};
use crate::model::base::TINY;
use crate::output::Output;

/// Largest relative difference between a device's and the CPU's loss and gradients in single precision. Rounding stays ten
/// times below it; the wrong results that Burn's GPU backends are known for lie far above.
const TOLERANCE: f64 = 1e-3;

/// The same for a device that multiplies in half precision and a CPU that does not: the CPU's own half precision stays three
/// times below it.
const HALF_TOLERANCE: f64 = 2e-2;

/// `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum DeviceChoice {
    /// A GPU where one is found and agrees with the CPU, otherwise the CPU
    #[default]
    Auto,
    /// The CPU, through Burn's flex
    Cpu,
    /// A Vulkan GPU with SPIR-V kernels; needs a build with the feature `vulkan`
    Vulkan,
    /// Any GPU with WGSL kernels; needs a build with the feature `wgpu`
    Wgpu,
}

/// The device of a command.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// Where tensors live.
    pub device: Device,
    /// The choice that names it; never [`DeviceChoice::Auto`].
    pub choice: DeviceChoice,
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
            let difference = trusted_difference(choice, &device, Compute::F32)?;
            if difference.size > TOLERANCE {
                return Err(failure(
                    Kind::Numerical,
                    format!(
                        "{name} computes something else than the CPU: in a small LoRA step {difference}, allowed is \
                         {TOLERANCE:.0e}; use --device cpu, or --device wgpu instead of vulkan"
                    ),
                ));
            }
            let reason = format!("as asked; a LoRA step agrees with the CPU to {:.1e}", difference.size);
            Ok(Chosen { device, choice, name, reason, threads: 1 })
        }
        DeviceChoice::Auto => auto(),
    }
}

/// Refuses a device for products in a precision that it does not have, or in which its LoRA step is far from the CPU's in single
/// precision; warns where a precision gains nothing.
///
/// # Errors
/// Such a device, with what it computes.
pub fn check_precision(chosen: &Chosen, compute: Compute, output: &Output) -> Result<()> {
    match compute {
        Compute::F32 => Ok(()),
        Compute::F16 => check_half_precision(chosen),
        Compute::Bf16 if chosen.device != Device::flex() => Err(failure(
            Kind::Usage,
            format!("compute=bf16 is for the CPU, and not for {}; give f16 or f32", chosen.name),
        )),
        Compute::Bf16 => {
            match bfloat16_units() {
                Some(units) => output.note(format_args!("products in bfloat16 by {units}")),
                None => output.warn("this processor has no units for bfloat16: compute=bf16 is slower here than f32"),
            }
            Ok(())
        }
    }
}

fn check_half_precision(chosen: &Chosen) -> Result<()> {
    if !chosen.device.supports_dtype(DType::F16) {
        return Err(failure(
            Kind::Usage,
            format!("{} does not compute in half precision; leave out compute=f16", chosen.name),
        ));
    }
    if chosen.device == Device::flex() {
        return Ok(());
    }
    let difference = trusted_difference(chosen.choice, &chosen.device, Compute::F16)?;
    if difference.size > HALF_TOLERANCE {
        return Err(failure(
            Kind::Numerical,
            format!(
                "{} computes something else in half precision than the CPU in single precision: in a small LoRA step \
                 {difference}, allowed is {HALF_TOLERANCE:.0e}; leave out compute=f16",
                chosen.name
            ),
        ));
    }
    Ok(())
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
        match trusted_difference(choice, &device, Compute::F32) {
            Ok(difference) if difference.size <= TOLERANCE => {
                let reason = format!("a LoRA step agrees with the CPU to {:.1e}", difference.size);
                return Ok(Chosen { device, choice, name, reason, threads: 1 });
            }
            Ok(difference) => refused.push(format!("{name} computes something else than the CPU: {difference}")),
            Err(error) => refused.push(format!("{name}: {error:#}")),
        }
    }
    let reason = if refused.is_empty() { "no GPU was found".to_owned() } else { refused.join("; ") };
    Ok(cpu(reason))
}

fn cpu(reason: String) -> Chosen {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Chosen { device: Device::flex(), choice: DeviceChoice::Cpu, name: "CPU (Burn flex)".to_owned(), reason, threads }
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
    /// Largest relative difference of loss and gradients; none if something is not finite.
    pub difference: Option<f64>,
    /// What differs most: the loss, or the parameter whose gradient it is.
    pub worst: String,
    /// Whether commands accept the device.
    pub accepted: bool,
}

/// Compares the adapter that a command with this `--device` would take, software ones included; none without adapter, or where
/// it does not compute in that precision.
///
/// # Errors
/// A build without that backend, a driver that fails.
pub fn compare(choice: DeviceChoice, compute: Compute) -> Result<Option<Comparison>> {
    let Some((device, name)) = find(choice, true)? else { return Ok(None) };
    if compute == Compute::F16 && !device.supports_dtype(DType::F16) {
        return Ok(None);
    }
    let Difference { size, at } = compare_with_cpu(&device, compute)?;
    let accepted = size <= tolerance(compute);
    Ok(Some(Comparison { name, difference: size.is_finite().then_some(size), worst: at, accepted }))
}

/// [`compare`] in a process of its own, since a broken driver can end the process that opens it.
///
/// # Errors
/// As [`compare`], and a driver that ends its process.
pub fn compare_in_child(choice: DeviceChoice, compute: Compute) -> Result<Option<Comparison>> {
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let device = match choice {
        DeviceChoice::Vulkan => "vulkan",
        _ => "wgpu",
    };
    let precision = match compute {
        Compute::F32 => "f32",
        Compute::Bf16 => "bf16",
        Compute::F16 => "f16",
    };
    let answer = std::process::Command::new(program)
        .args(["doctor", "--compare-device", precision, "--json", "--quiet", "--device", device])
        .output()
        .context("cannot start the comparison")?;
    if !answer.status.success() {
        let said = String::from_utf8_lossy(&answer.stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message").to_owned();
        anyhow::bail!("the comparison with the CPU ended with {}: {last}", answer.status);
    }
    serde_json::from_slice(&answer.stdout).context("the comparison gave no answer")
}

/// The comparison before a device is used. SPIR-V drivers are opened in another process first: what kills that one must not
/// kill this one without a word.
fn trusted_difference(choice: DeviceChoice, device: &Device, compute: Compute) -> Result<Difference> {
    if choice == DeviceChoice::Vulkan {
        compare_in_child(choice, compute)?;
    }
    compare_with_cpu(device, compute)
}

/// How far a device is from the CPU, and where most.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Relative: of the loss, or of the L2 norm of a gradient's difference. Infinite where something is not finite.
    pub size: f64,
    /// The loss, or a parameter's name.
    pub at: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.size.is_finite() {
            write!(f, "{} differs by {:.1e}", self.at, self.size)
        } else {
            write!(f, "{} is not finite", self.at)
        }
    }
}

/// The largest relative difference between `device` and the CPU in small LoRA steps: of the loss and of every gradient.
///
/// # Errors
/// A device that fails.
pub fn compare_with_cpu(device: &Device, compute: Compute) -> Result<Difference> {
    let probes: &[Probe] = match compute {
        Compute::F32 | Compute::Bf16 => &Probe::ALL,
        Compute::F16 => &[Probe::HALF],
    };
    largest(differences(device, probes)?)
}

fn tolerance(compute: Compute) -> f64 {
    match compute {
        Compute::F32 | Compute::Bf16 => TOLERANCE,
        Compute::F16 => HALF_TOLERANCE,
    }
}

fn largest(all: Vec<Difference>) -> Result<Difference> {
    let largest = all.into_iter().reduce(|a, b| if b.size > a.size { b } else { a });
    largest.context("nothing was compared")
}

/// How far each loss and each gradient of the probes is from the CPU's in single precision.
fn differences(device: &Device, probes: &[Probe]) -> Result<Vec<Difference>> {
    let mut all = Vec::new();
    for probe in probes {
        let expected = Probe { compute: Compute::F32, ..*probe }.step(&Device::flex())?;
        let found = guarded("a LoRA step", || probe.step(device))??;
        all.extend(found.into_iter().zip(expected).map(|((at, found), (_, expected))| {
            let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
            let apart = square(&mut found.iter().zip(&expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
            let size = apart / square(&mut expected.iter().map(|b| f64::from(*b))).max(1e-6);
            let size = if size.is_finite() && found.len() == expected.len() { size } else { f64::INFINITY };
            Difference { size, at }
        }));
    }
    Ok(all)
}

/// A fixed step of the tiny model with random weights, and how it is taken.
#[derive(Debug, Clone, Copy)]
struct Probe {
    trainable: Trainable,
    recompute: Recompute,
    dropout: Option<LoraDropout>,
    compute: Compute,
}

impl Probe {
    /// Adapters whose first inputs need a gradient; adapters alone, on which Burn's Vulkan backend has computed NaN (its
    /// issue 5162); and everything again block by block.
    const ALL: [Self; 3] = [
        Self::PLAIN,
        Self { trainable: Trainable::Lora, ..Self::PLAIN },
        Self { recompute: Recompute::Blocks, dropout: Some(LoraDropout { rate: 0.1, key: 5 }), ..Self::PLAIN },
    ];

    const PLAIN: Self = Self {
        trainable: Trainable::ProjectorAndLora,
        recompute: Recompute::None,
        dropout: None,
        compute: Compute::F32,
    };

    /// Products in half precision.
    const HALF: Self = Self { compute: Compute::F16, ..Self::PLAIN };

    /// The loss and the gradient of every trained parameter.
    fn step(self, device: &Device) -> Result<Vec<(String, Vec<f32>)>> {
        let spec = ModelSpec::preset(TINY)?;
        // Ranks as a schedule has them: different, and rarely what a matrix unit would like.
        let shapes: Vec<AdapterShape> = (0..spec.modules().count())
            .map(|module| AdapterShape { rank: 1 + module as u32 % 5, scale: 2.0 })
            .collect();
        let mut adapters = initial_adapters(&spec, &shapes, 1);
        for (name, weight) in &mut adapters.tensors {
            if name.ends_with("lora_B.weight") {
                for (index, value) in weight.values.iter_mut().enumerate() {
                    *value = (index % 7) as f32 / 50.0 - 0.06;
                }
            }
        }
        let model = MobileVlm::load(&spec, random_weights(&spec, 1), device)?.with_adapters(&shapes, adapters)?;
        // Of different lengths, so that one of them is padded.
        let examples: Vec<Encoded> = (0..2)
            .map(|picture| {
                let parts = vec![
                    Segment::Text(vec![1, 40]),
                    Segment::Picture(picture as usize),
                    Segment::Text(vec![40, 41, 42 + picture]),
                    Segment::Answer([60, 61 + picture, 2][picture as usize..].to_vec()),
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
        let model = model.trained(self.trainable);
        let loss_scale = match self.compute {
            Compute::F32 | Compute::Bf16 => 1.0,
            Compute::F16 => 1024.0,
        };
        let forward = ForwardOptions { compute: self.compute, dropout: self.dropout.as_ref() };
        let backward = Backward { forward, recompute: self.recompute, loss_scale, ..Backward::default() };
        let (loss, grads) = loss_and_gradients(&model, &batch, features, batch.answer_ids.len(), &backward);
        let loss = loss.try_into_scalar::<f32>().map_err(|error| failure(Kind::Failure, format!("{error:?}")))?;
        let mut all = vec![("the loss".to_owned(), vec![loss])];
        for (name, gradient) in pollster::block_on(read_gradients(&model, &grads))? {
            all.push((name, gradient.into_iter().map(|value| value / loss_scale).collect()));
        }
        Ok(all)
    }
}

/// A tensor's elements on the host.
///
/// # Errors
/// A device that fails.
pub fn host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let data = pollster::block_on(tensor.inner().into_data_async()).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    data.convert::<f32>().try_to_vec().map_err(|error| anyhow::anyhow!("{error:?}"))
}

/// Graphics drivers fail by panicking deep inside Burn: such a panic becomes an error here.
///
/// # Errors
/// A panic, with its message.
pub fn guarded<T>(what: &str, work: impl FnOnce() -> T) -> Result<T> {
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
    use hydra_shared::adapter::is_lora;

    use super::*;

    #[test]
    fn the_cpu_agrees_with_itself_exactly() {
        assert_eq!(compare_with_cpu(&Device::flex(), Compute::F32).unwrap().size, 0.0);
    }

    #[test]
    fn the_probes_have_a_gradient_in_every_adapter() {
        for probe in Probe::ALL {
            let step = probe.step(&Device::flex()).unwrap();
            let adapters = step.iter().filter(|(name, _)| is_lora(name));
            assert_eq!(adapters.clone().count(), 2 * 42);
            assert!(adapters.clone().all(|(_, gradient)| gradient.iter().any(|value| *value != 0.0)));
        }
    }

    #[test]
    fn a_difference_names_where_it_is_and_a_value_that_is_not_finite_is_said_to_be_so() {
        let at = "model.norm.weight".to_owned();
        assert_eq!(Difference { size: 0.25, at: at.clone() }.to_string(), "model.norm.weight differs by 2.5e-1");
        assert_eq!(Difference { size: f64::INFINITY, at }.to_string(), "model.norm.weight is not finite");
    }

    #[test]
    fn a_panic_of_a_driver_becomes_an_error_with_its_message() {
        let error = guarded("a step", || panic!("the kernel failed")).map(|(): ()| ()).unwrap_err();
        assert_eq!(error.to_string(), "a step failed: the kernel failed");
    }

    /// On whatever adapter the machine has: Mesa's lavapipe will do.
    #[cfg(feature = "wgpu")]
    #[test]
    fn every_adapters_gradient_on_the_gpu_is_the_cpus() {
        let Some((device, name)) = find(DeviceChoice::Wgpu, true).unwrap() else {
            return hydra_tests::skip("no adapter was found; install a Vulkan driver (Debian: mesa-vulkan-drivers)");
        };
        for Difference { size, at } in differences(&device, &Probe::ALL).unwrap() {
            assert!(size < 1e-4, "{name}: {at} differs by {size:.1e}");
        }
        if device.supports_dtype(DType::F16) {
            let difference = compare_with_cpu(&device, Compute::F16).unwrap();
            assert!(difference.size < HALF_TOLERANCE, "{name}: {difference}");
        }
    }

    #[test]
    fn the_cpus_half_precision_is_near_its_single_precision_and_not_the_same() {
        let difference = compare_with_cpu(&Device::flex(), Compute::F16).unwrap();
        assert!(difference.size > 1e-5 && difference.size < HALF_TOLERANCE / 3.0, "{difference}");
    }
}
