//! `trainer inspect`.

use crate::support::{sample, trainer};

#[test]
fn presets_have_the_published_parameter_counts() {
    for (model, decoder, lora, projector) in [
        ("mobilevlm-1.7b", 1_364_297_728_u64, 121_110_528_u64, 18_936_832_u64),
        ("mobilevlm-3b", 2_701_560_320, 200_278_016, 28_913_920),
        ("mobilevlm-v2-1.7b", 1_364_297_728, 121_110_528, 6_316_032),
        ("mobilevlm-v2-3b", 2_701_560_320, 200_278_016, 9_205_760),
    ] {
        let document = trainer(&["inspect", "--model", model, "--base-rank", "128", "--json"]).json();
        assert_eq!(document["decoder_parameters"], decoder);
        assert_eq!(document["lora_parameters"], lora);
        assert_eq!(document["projector_parameters"], projector);
        assert_eq!(document["vision_parameters"], 303_507_456_u64);
    }
}

#[test]
fn a_config_file_gives_the_same_as_the_preset_and_a_decoder_alone_has_no_other_parts() {
    let inspect = |model: &str| trainer(&["inspect", "--model", model, "--base-rank", "16", "--json"]).json();
    let (file, preset) = (inspect(&sample("smollm2-config.json")), inspect("smollm2-135m"));
    for key in ["decoder_parameters", "lora_parameters", "layer_rank_unit_cost", "projections"] {
        assert_eq!(file[key], preset[key], "{key}");
    }
    assert!(file.get("projector_parameters").is_none() && file.get("vision_parameters").is_none());
}

#[test]
fn people_get_tables() {
    let run = trainer(&["inspect", "--model", "mobilevlm-1.7b", "--base-rank", "128"]);
    assert!(
        run.stdout.contains("121,110,528 trainable parameters, 8.877 % of the decoder, 231.0 MiB"),
        "{}",
        run.stdout
    );
}

#[test]
fn an_unknown_preset_is_a_usage_error_with_the_nearest_name() {
    let run = trainer(&["inspect", "--model", "mobilevlm-1.7", "--json"]);
    run.fails(2, "usage", &["neither a preset nor a file", "did you mean mobilevlm-1.7b?"]);
}

#[test]
fn a_missing_or_foreign_config_file_is_a_data_error_that_names_it() {
    trainer(&["inspect", "--model", "nowhere/config.json", "--json"]).fails(3, "data", &["nowhere/config.json"]);
    let readme = sample("README.md");
    trainer(&["inspect", "--model", &readme, "--json"]).fails(3, "data", &["README.md", "not JSON"]);
}

#[test]
fn base_rank_zero_is_refused() {
    trainer(&["inspect", "--model", "tiny-mobilevlm", "--base-rank", "0", "--json"]).fails(
        2,
        "usage",
        &["--base-rank"],
    );
}
