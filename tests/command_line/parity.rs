//! `trainer parity`, on what MobileVLM's reference implementation computed (`tests/reference`).

use crate::support::{reference, trainer};

#[test]
fn both_generations_of_mobilevlm_agree_with_the_reference_implementation() {
    for case in ["mobilevlm_v1", "mobilevlm_v2"] {
        let folder = reference(case);
        let run = trainer(&["parity", folder.to_str().unwrap(), "--device", "cpu", "--json", "--quiet"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let document = run.json();
        assert_eq!(document["passed"], true);
        let names: Vec<&str> =
            document["comparisons"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(
            names,
            [
                "vision_features",
                "projected",
                "logits",
                "loss",
                "lora_logits",
                "lora_loss",
                "lora_grad_norms",
                "trajectory"
            ]
        );
    }
}

#[test]
fn a_model_that_computes_something_else_fails_and_says_what_differs() {
    let source = reference("mobilevlm_v2");
    let folder = tempfile::tempdir().unwrap();
    for file in ["vision_config.json", "model.safetensors", "case.safetensors"] {
        std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    let config = std::fs::read_to_string(source.join("config.json")).unwrap();
    let other = config.replace("\"rope_theta\": 10000.0", "\"rope_theta\": 500.0");
    assert_ne!(other, config);
    std::fs::write(folder.path().join("config.json"), other).unwrap();
    let run = trainer(&["parity", folder.path().to_str().unwrap(), "--device", "cpu", "--json"]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("differs from the reference: logits, loss"), "{}", run.stderr);
    let document = run.json();
    assert_eq!(document["passed"], false);
    assert_eq!(document["comparisons"][0]["passed"], true);
}

#[test]
fn a_folder_that_is_no_case_is_named_with_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let run = trainer(&["parity", folder.path().to_str().unwrap(), "--device", "cpu", "--json"]);
    run.fails(3, "data", &["no config.json here"]);
}
