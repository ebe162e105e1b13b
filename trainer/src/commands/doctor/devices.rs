//! The devices that this build can use.

use super::{Check, Status};
#[cfg(feature = "wgpu")]
use crate::{cli::DeviceChoice, device::Comparison};

/// One check per backend that is compiled in.
pub fn checks() -> Vec<Check> {
    let cpu = Check { name: "device cpu", status: Status::Ok, detail: "Burn flex".to_owned(), hint: None };
    vec![cpu, wgpu(), vulkan()]
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

/// Takes one LoRA step on the device and compares it with the CPU's. In a process of its own, since a broken driver can
/// end the process that opens it.
#[cfg(feature = "wgpu")]
fn gpu(name: &'static str, choice: DeviceChoice) -> Check {
    let warn = |detail: String| Check {
        name,
        status: Status::Warn,
        detail,
        hint: Some("commands with --device auto use the CPU; a GPU needs its driver and a Vulkan loader".to_owned()),
    };
    match ask_child(choice) {
        Err(error) => warn(format!("{error:#}")),
        Ok(None) => warn("no adapter found".to_owned()),
        Ok(Some(Comparison { name: adapter, difference, accepted })) => {
            let difference =
                difference.map_or("is not finite".to_owned(), |d| format!("differs from the CPU by {d:.1e}"));
            let detail = format!("{adapter}; a LoRA step {difference}");
            if accepted {
                Check { name, status: Status::Ok, detail, hint: None }
            } else {
                warn(format!("{detail}: too much, commands refuse it"))
            }
        }
    }
}

#[cfg(feature = "wgpu")]
fn ask_child(choice: DeviceChoice) -> anyhow::Result<Option<Comparison>> {
    use anyhow::{Context as _, bail};
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let device = match choice {
        DeviceChoice::Vulkan => "vulkan",
        _ => "wgpu",
    };
    let answer = std::process::Command::new(program)
        .args(["doctor", "--compare-device", "--json", "--quiet", "--device", device])
        .output()
        .context("cannot start the comparison")?;
    if !answer.status.success() {
        let said = String::from_utf8_lossy(&answer.stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message").to_owned();
        bail!("the comparison with the CPU ended with {}: {last}", answer.status);
    }
    serde_json::from_slice(&answer.stdout).context("the comparison gave no answer")
}
