//! `trainer doctor`: what this machine offers, and what stands in the way.

mod check;
mod devices;

use std::path::Path;

use hydra_shared::vlm::Compute;
use serde::Serialize;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use check::{Check, Status};

use crate::commands::common::Context;
use crate::error::{Kind, failure};
use crate::output::table;
use crate::runs::folder::{DEFAULT_ROOT, Environment};

const AFTER_HELP: &str = "\
Examples:
  trainer doctor
  trainer doctor --device cpu
  trainer doctor --json > doctor.json";

/// Check what this machine offers: devices, folders, versions
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Folder for run folders, which has to be writable
    #[arg(long, value_name = "FOLDER", default_value = DEFAULT_ROOT)]
    pub runs: std::path::PathBuf,
    /// Compare the device of `--device` with the CPU in this precision, and do nothing else
    #[arg(long, hide = true, value_name = "PRECISION", value_parser = ["f32", "f16"])]
    pub compare_device: Option<String>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    environment: Environment,
    checks: Vec<Check>,
}

/// Runs the command.
///
/// # Errors
/// Any check that found an error, after all of them were printed.
pub fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    if let Some(precision) = &args.compare_device {
        let compute = if precision == "f16" { Compute::F16 } else { Compute::F32 };
        let comparison = crate::device::compare(context.device, compute)?;
        return context.output.result(&comparison, || format!("{comparison:?}"));
    }
    let refresh =
        RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()).with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(refresh);
    let mut checks = vec![processor(&system), memory(&system)];
    checks.extend(devices::checks(context.device));
    checks.push(writable("run folders", &args.runs));
    checks.push(writable("temporary files", &std::env::temp_dir()));
    let failed: Vec<&str> = checks.iter().filter(|c| c.status == Status::Error).map(|c| c.name).collect();
    if !failed.is_empty() && context.output.json() {
        // Standard output holds one document, and that is the error's; the details go into its message.
        let details: Vec<String> =
            checks.iter().filter(|c| c.status == Status::Error).map(|c| format!("{}: {}", c.name, c.detail)).collect();
        return Err(failure(Kind::Failure, details.join("; ")));
    }
    let error = (!failed.is_empty()).then(|| failure(Kind::Failure, format!("not usable: {}", failed.join(", "))));
    let report = Report { ok: error.is_none(), environment: Environment::current(), checks };
    context.output.result(&report, || text(&report))?;
    error.map_or(Ok(()), Err)
}

fn text(report: &Report) -> String {
    let environment = &report.environment;
    let features = if environment.features.is_empty() { "none".to_owned() } else { environment.features.join(", ") };
    let rows = report.checks.iter().map(|check| {
        let status = match check.status {
            Status::Ok => "ok",
            Status::Warn => "WARN",
            Status::Error => "ERROR",
        };
        let hint = check.hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"));
        vec![status.to_owned(), check.name.to_owned(), format!("{}{hint}", check.detail)]
    });
    format!(
        "trainer {} on {}-{}, features: {features}\n\n{}",
        environment.trainer,
        environment.os,
        environment.arch,
        table(&["", "check", "found"], &[], rows)
    )
}

fn processor(system: &System) -> Check {
    let brand = system.cpus().first().map(|cpu| cpu.brand().trim()).filter(|brand| !brand.is_empty());
    let name = brand.unwrap_or(std::env::consts::ARCH);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let simd = simd();
    let simd = if simd.is_empty() { String::new() } else { format!(", {}", simd.join(" ")) };
    Check { name: "processor", status: Status::Ok, detail: format!("{name}, {cpus} logical{simd}"), hint: None }
}

/// Vector instructions that Burn's CPU backend can use here.
#[cfg(target_arch = "x86_64")]
fn simd() -> Vec<&'static str> {
    [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ]
    .into_iter()
    .filter_map(|(name, found)| found.then_some(name))
    .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn simd() -> Vec<&'static str> {
    Vec::new()
}

fn memory(system: &System) -> Check {
    let detail = match (system.total_memory(), system.available_memory()) {
        (0, _) => "unknown on this system".to_owned(),
        (total, available) => format!("{:.1} GiB, {:.1} GiB available", gib(total), gib(available)),
    };
    Check { name: "memory", status: Status::Ok, detail, hint: None }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// Tries to write into a folder, or into the nearest one over it that exists. Nothing is left there.
fn writable(name: &'static str, folder: &Path) -> Check {
    let shown = folder.display();
    let existing = folder.ancestors().find(|f| f.exists()).filter(|f| !f.as_os_str().is_empty());
    let existing = existing.unwrap_or_else(|| Path::new("."));
    match tempfile::tempfile_in(existing) {
        Ok(_) => Check { name, status: Status::Ok, detail: format!("{shown} is writable"), hint: None },
        Err(error) => Check {
            name,
            status: Status::Error,
            detail: format!("{shown} cannot be written: {error}"),
            hint: Some("change its permissions or choose another folder".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_tried_without_leaving_anything_there() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(writable("x", folder.path()).status, Status::Ok);
        assert_eq!(writable("x", &folder.path().join("not/yet/there")).status, Status::Ok);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_in_the_place_of_a_folder_is_an_error_with_a_hint() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("runs");
        std::fs::write(&file, "").unwrap();
        let check = writable("run folders", &file);
        assert_eq!(check.status, Status::Error);
        assert!(check.hint.is_some() && check.detail.contains("runs"));
    }
}
