//! The shapes of a model that is named by a preset or a `config.json`: what `--model` takes.

use std::path::Path;

use hydra_shared::vlm::spec::{ModelConfig, ModelSpec, PRESETS};

use crate::error::{Kind, ResultExt, failure, nearest};
use crate::input;

/// The model of that preset, or of that `config.json` (the file itself or the folder that it stands in).
///
/// # Errors
/// [`Kind::Usage`] for a word that is neither a preset nor a file; [`Kind::Data`] for a file that is no configuration
/// of a LLaMA-like decoder.
pub fn load(model: &str) -> anyhow::Result<ModelConfig> {
    if let Ok(spec) = ModelSpec::preset(model) {
        return Ok(spec.into());
    }
    let path = Path::new(model);
    let file = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    if !file.is_file() {
        return Err(unknown(model, path, &file));
    }
    ModelConfig::from_json(&input::text(&file)?).or_fail(Kind::Data, || format!("--model {}", file.display()))
}

fn unknown(model: &str, path: &Path, file: &Path) -> anyhow::Error {
    if path.is_dir() {
        return failure(Kind::Data, format!("--model {model}: the folder has no {}", file.display()));
    }
    let presets = PRESETS.map(str::to_owned);
    let hint = nearest(model, &presets).map_or_else(|| ".".to_owned(), |near| format!("; did you mean {near}?"));
    let what = format!(
        "--model {model}: this is neither a preset nor a file{hint} Presets: {}. Or give the path of a Hugging Face \
         config.json",
        presets.join(", ")
    );
    // A path that does not exist is bad data; a word is a wrong name.
    let kind = if model.ends_with(".json") || model.contains(['/', '\\']) { Kind::Data } else { Kind::Usage };
    failure(kind, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::kind_of;

    #[test]
    fn a_preset_is_known_by_name() {
        assert_eq!(load("mobilevlm-1.7b").unwrap().shapes().decoder.layers, 24);
    }

    #[test]
    fn a_misspelt_preset_is_a_usage_error_with_the_nearest_name() {
        let error = load("mobilevlm-1.7").unwrap_err();
        assert_eq!(kind_of(&error), Kind::Usage);
        assert!(error.to_string().contains("did you mean mobilevlm-1.7b?"), "{error}");
        let error = load("gpt").unwrap_err();
        assert!(error.to_string().contains("neither a preset nor a file. Presets: mobilevlm-1.7b"), "{error}");
    }

    #[test]
    fn a_missing_file_and_a_folder_without_configuration_are_data_errors() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("config.json")] {
            let error = load(path.to_str().unwrap()).unwrap_err();
            assert_eq!(kind_of(&error), Kind::Data, "{error}");
        }
    }

    #[test]
    fn a_file_that_is_no_configuration_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, "not json").unwrap();
        let error = load(file.to_str().unwrap()).unwrap_err();
        assert_eq!(kind_of(&error), Kind::Data);
        assert!(error.to_string().contains("config.json"), "{error}");
    }
}
