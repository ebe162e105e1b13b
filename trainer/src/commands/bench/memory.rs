//! Memory that a measurement took.

use burn::tensor::Device;
use serde::Serialize;

/// Memory in bytes, where the system tells.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Memory {
    /// Most that the process has held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_peak: Option<u64>,
    /// What the device's memory pools hold after the last step, pages kept for reuse included: they do not shrink between
    /// steps, so this is the most that a step took. Only of a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_reserved: Option<u64>,
    /// What of it is in use between two steps: weights, adapters and optimizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_in_use: Option<u64>,
}

impl Memory {
    /// Of this process so far.
    pub fn of_process() -> Self {
        Self { process_peak: peak_memory(), ..Self::default() }
    }

    /// Of this process and its device so far.
    pub fn with_device(device: &Device) -> Self {
        let pools = device.memory_pool_usage();
        Self {
            process_peak: peak_memory(),
            device_reserved: pools.as_ref().map(|pools| pools.bytes_reserved),
            device_in_use: pools.as_ref().map(|pools| pools.bytes_in_use),
        }
    }
}

/// Most memory that this process has held, in bytes, as Linux counts it.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// Seconds of processor time that this process has used so far, in all its threads, as Linux counts them.
pub fn cpu_seconds() -> Option<f64> {
    /// Clock ticks in a second, which Linux has for programs on every processor.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which may hold anything: the state, ten more fields, user time, system time.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS)
}
