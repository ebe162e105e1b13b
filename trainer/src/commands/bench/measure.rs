//! What a measurement found: memory, and the middle of several times.

use burn::tensor::Device;
use serde::Serialize;

use crate::runs::process::peak_memory;

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

/// The middle of some measurements; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
