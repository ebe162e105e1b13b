//! The devices that this build can use.

#[cfg(feature = "wgpu")]
use hydra_shared::vlm::Compute;

use super::check::{Check, Status};
use crate::device::DeviceChoice;
#[cfg(feature = "wgpu")]
use crate::device::{Comparison, compare_in_child};

/// The CPU, and each backend for GPUs that is asked for.
pub fn checks(choice: DeviceChoice) -> Vec<Check> {
    let cpu = Check { name: "device cpu", status: Status::Ok, detail: "Burn flex".to_owned(), hint: None };
    let gpus = match choice {
        DeviceChoice::Auto => vec![wgpu(), vulkan()],
        DeviceChoice::Cpu => Vec::new(),
        DeviceChoice::Vulkan => vec![vulkan()],
        DeviceChoice::Wgpu => vec![wgpu()],
    };
    std::iter::once(cpu).chain(gpus).collect()
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Check {
    gpu("device wgpu", DeviceChoice::Wgpu)
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Check {
    absent("device wgpu", "wgpu")
}

#[cfg(feature = "vulkan")]
fn vulkan() -> Check {
    gpu("device vulkan", DeviceChoice::Vulkan)
}

#[cfg(not(feature = "vulkan"))]
fn vulkan() -> Check {
    absent("device vulkan", "vulkan")
}

#[cfg(not(feature = "vulkan"))]
fn absent(name: &'static str, feature: &str) -> Check {
    Check {
        name,
        status: Status::Ok,
        detail: "not in this build".to_owned(),
        hint: Some(format!("cargo build --release --features {feature}")),
    }
}

/// Takes small LoRA steps on the device and compares them with the CPU's.
#[cfg(feature = "wgpu")]
fn gpu(name: &'static str, choice: DeviceChoice) -> Check {
    let warn = |detail: String| Check {
        name,
        status: Status::Warn,
        detail,
        hint: Some("commands with --device auto use the CPU; a GPU needs its driver and a Vulkan loader".to_owned()),
    };
    match compare_in_child(choice, Compute::F32) {
        Err(error) => warn(format!("{error:#}")),
        Ok(None) => warn("no adapter found".to_owned()),
        Ok(Some(Comparison { name: adapter, difference, worst, accepted })) => {
            let difference =
                difference.map_or("is not finite".to_owned(), |d| format!("differs from the CPU by {d:.1e}"));
            // A driver that fails at it alone is still good for single precision.
            let half = compare_in_child(choice, Compute::F16).ok().flatten().and_then(|half| half.difference);
            let half = half.map_or(String::new(), |d| format!(", and with products in f16 by {d:.1e}"));
            let detail = format!("{adapter}; of a LoRA step, at most {worst} {difference}{half}");
            if accepted {
                Check { name, status: Status::Ok, detail, hint: None }
            } else {
                warn(format!("{detail}: too much, commands refuse it"))
            }
        }
    }
}
