//! The GPU backend, on whatever adapter the machine has: Mesa's lavapipe will do.

use std::sync::LazyLock;

use hydra_tests::skip;

use crate::support::{reference, trainer};

/// What `doctor` found out about the backend; a skip without an adapter. A minute on a software adapter.
static ADAPTER: LazyLock<Option<String>> = LazyLock::new(|| {
    let document = trainer(&["doctor", "--json"]).json();
    let checks = document["checks"].as_array().unwrap().clone();
    let check = checks.into_iter().find(|check| check["name"] == "device wgpu").unwrap();
    let detail = check["detail"].as_str().unwrap().to_owned();
    if detail.contains("no adapter") {
        skip(&format!("{detail}; install a Vulkan driver (Debian: mesa-vulkan-drivers)"));
        return None;
    }
    Some(detail)
});

#[test]
fn doctor_says_how_far_a_lora_step_on_the_gpu_is_from_the_cpus() {
    let Some(detail) = &*ADAPTER else { return };
    let (_, figures) = detail.split_once("differs from the CPU by ").expect(detail);
    // A device without half precision has one figure.
    let (single, half) = figures.split_once(", and with products in f16 by ").unwrap_or((figures, "0"));
    let [single, half] = [single, half].map(|figure| figure.parse::<f64>().expect(detail));
    assert!(single < 1e-4 && half < 2e-2, "{detail}");
}

#[test]
fn both_generations_of_mobilevlm_agree_with_the_reference_implementation_on_the_gpu() {
    if ADAPTER.is_none() {
        return;
    }
    for case in ["mobilevlm_v1", "mobilevlm_v2"] {
        let run = trainer(&["parity", reference(case).to_str().unwrap(), "--device", "wgpu", "--json", "--quiet"]);
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    }
}
