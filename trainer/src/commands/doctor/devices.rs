//! The devices that this build can use.

#[cfg(feature = "wgpu")]
use burn::tensor::{Device, DeviceType, Devices};

use super::{Check, Status};

/// One check per backend that is compiled in. Devices are listed, not opened: opening a broken driver can end the
/// process.
pub fn checks() -> Vec<Check> {
    let cpu = Check { name: "device cpu", status: Status::Ok, detail: "Burn flex".to_owned(), hint: None };
    vec![cpu, wgpu(), vulkan()]
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Check {
    gpu("device wgpu", &Device::enumerate(DeviceType::Wgpu))
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Check {
    absent("device wgpu", "wgpu")
}

#[cfg(feature = "vulkan")]
fn vulkan() -> Check {
    gpu("device vulkan", &Device::enumerate(DeviceType::Vulkan))
}

#[cfg(not(feature = "vulkan"))]
fn vulkan() -> Check {
    absent("device vulkan", "vulkan")
}

#[cfg(feature = "wgpu")]
fn gpu(name: &'static str, devices: &Devices) -> Check {
    if devices.is_empty() {
        return Check {
            name,
            status: Status::Warn,
            detail: "no adapter found".to_owned(),
            hint: Some(
                "commands with --device auto use the CPU; a GPU needs its driver and a Vulkan loader".to_owned(),
            ),
        };
    }
    Check { name, status: Status::Ok, detail: names(devices), hint: None }
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

#[cfg(feature = "wgpu")]
fn names(devices: &Devices) -> String {
    devices.iter().map(|device| format!("{device:?}")).collect::<Vec<_>>().join(", ")
}
