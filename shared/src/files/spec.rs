//! The shapes of a model that is named by a preset, a `config.json` or a checkpoint: what `--model` takes.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::CheckpointWeights;
use super::error::{Kind, ResultExt, failure, nearest};
use super::input;
use crate::adapter::{ADAPTER_FILE, CONFIG_FILE};
use crate::file_kind::FileKind;
use crate::layout::{Catalog, Layout, Module, short_name};
use crate::vlm::spec::{ModelConfig, ModelSpec, PRESETS, TensorsError, experts_note};
use crate::weights::{Shard, shard_of};

/// What ends the names of files that hold weights, or say which files do.
const WEIGHTS: [&str; 5] = [".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pth"];

/// Files of a checkpoint's folder that hold all weights, or say which do.
const WHOLE: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Bytes at the start of a GGUF file that hold what kind of file it is; writers put it among the first entries.
const GGUF_START: u64 = 1 << 20;

/// The matrices of a model, and what has to be known of where they come from.
pub struct Described {
    /// The matrices.
    pub catalog: Catalog,
    /// Its configuration, where one was read.
    pub config: Option<ModelConfig>,
    /// What was read otherwise than one might think.
    pub notes: Vec<String>,
}

/// The matrices of the model of that preset, that `config.json`, that checkpoint, or of the folder that either stands in. Of
/// a checkpoint only the headers are read. Where a folder holds both, the tensors' shapes count, and the configuration says
/// what the modules are called in memory.
///
/// # Errors
/// As [`load`]; weights that are damaged, quantized, or hold no language layers.
pub fn load_catalog(model: &str) -> anyhow::Result<Described> {
    load_catalog_for("--model", model)
}

/// [`load_catalog`] for another flag, which messages name.
///
/// # Errors
/// As [`load_catalog`].
pub fn load_catalog_for(flag: &str, model: &str) -> anyhow::Result<Described> {
    let read = |file: &Path| read_for(flag, file);
    let path = Path::new(model);
    let is_preset = ModelSpec::preset(model).is_ok();
    if !is_preset {
        refuse_others(flag, path)?;
    }
    if !is_preset && is_weights(path) {
        let config = Some(path.with_file_name("config.json")).filter(|config| config.is_file());
        return of_tensors(flag, &whole(flag, path)?, config.as_deref().map(read));
    }
    let folder = Some(path).filter(|path| !is_preset && path.is_dir());
    let has_weights = |folder: &&Path| WHOLE.iter().any(|name| folder.join(name).is_file());
    match folder.filter(has_weights) {
        Some(folder) => {
            let config = Some(folder.join("config.json")).filter(|config| config.is_file());
            of_tensors(flag, folder, config.as_deref().map(read))
        }
        None => of_config(load_for(flag, model)?),
    }
}

/// Refuses what is taken for a model by mistake: an adapter, as PEFT's folder, one of its files, or llama.cpp's; and GGUF files
/// of models, which only commands that compute read.
fn refuse_others(flag: &str, path: &Path) -> anyhow::Result<()> {
    let is_part = path.file_name().is_some_and(|name| name == CONFIG_FILE || name == ADAPTER_FILE);
    let is_models = || WHOLE.iter().chain(&["config.json"]).any(|name| path.join(name).is_file());
    let of_peft = (is_part && path.is_file()) || (path.join(CONFIG_FILE).is_file() && !is_models());
    let is_gguf = input::kind(path) == Some(FileKind::Gguf);
    let message = if of_peft || (is_gguf && is_gguf_adapter(path)) {
        "this is a LoRA adapter, not a model; give the model that it was made for"
    } else if is_gguf {
        "this is a GGUF file, which is not read here; give the config.json or the checkpoint of the model that it was made of"
    } else {
        return Ok(());
    };
    Err(failure(Kind::Data, format!("{flag} {}: {message}", path.display())))
}

/// Whether a GGUF file says at its start that it is an adapter: the entry `general.type`, a text, is `adapter`.
fn is_gguf_adapter(path: &Path) -> bool {
    const ENTRY: &[u8] = b"\x0c\0\0\0\0\0\0\0general.type\x08\0\0\0\x07\0\0\0\0\0\0\0adapter";
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(GGUF_START).read_to_end(&mut start));
    read.is_ok() && start.windows(ENTRY.len()).any(|window| window == ENTRY)
}

/// Whether a path is a file of a checkpoint's weights, or says which files are.
pub fn is_weights(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.is_file() && WEIGHTS.iter().any(|end| name.ends_with(end))
}

/// The index that a shard belongs to; any other file as it is.
fn whole(flag: &str, path: &Path) -> anyhow::Result<PathBuf> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let Some(Shard { start, end, .. }) = shard_of(&name) else { return Ok(path.to_owned()) };
    let index = path.with_file_name(format!("{start}.{end}.index.json"));
    if index.is_file() {
        return Ok(index);
    }
    let message = format!(
        "{flag} {}: this is one shard of several, and holds a part of the layers; put {} beside it, which names them all",
        path.display(),
        index.display()
    );
    Err(failure(Kind::Data, message))
}

/// The matrices of the model that a configuration describes.
///
/// # Errors
/// Shapes that make no layout.
pub fn of_config(config: ModelConfig) -> anyhow::Result<Described> {
    let (catalog, notes) = (config.catalog()?, config.notes().to_vec());
    Ok(Described { catalog, config: Some(config), notes })
}

/// The matrices of a model in memory, by its parameters' names and shapes. Its configuration, where it is of a kind that is
/// known, says which of them are a vision tower's.
///
/// # Errors
/// Parameters that are packed, or of which none is a matrix of a language layer.
pub fn of_parameters(
    name: &str,
    parameters: &[(String, Vec<usize>)],
    config: Option<ModelConfig>,
) -> anyhow::Result<Described> {
    let name = config.as_ref().map_or(name, |config| &config.shapes().name);
    let mut catalog = Catalog::of_parameters(name, parameters).or_fail(Kind::Data, || name.to_owned())?;
    let mut notes = Vec::new();
    if let Some(note) = experts_note(parameters) {
        let known = config.as_ref().and_then(ModelConfig::mixture_note);
        notes.push(known.unwrap_or_else(|| note.to_owned()));
    }
    if let Some(config) = &config {
        let known = config.catalog()?;
        catalog = catalog.with_towers(known.towers().to_vec()).with_projector(known.projector().to_vec());
    }
    Ok(Described { catalog, config, notes })
}

/// What the headers of a checkpoint say, with the configuration beside it, where that is of a kind that is known.
fn of_tensors(flag: &str, path: &Path, config: Option<anyhow::Result<ModelConfig>>) -> anyhow::Result<Described> {
    let place = || format!("{flag} {}", path.display());
    let named = config.as_ref().and_then(|config| config.as_ref().ok()).map(|config| config.shapes().name.clone());
    let stem = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = named.or(stem).unwrap_or_else(|| "checkpoint".to_owned());
    let tensors = CheckpointWeights::open_path(path)?.shapes();
    let made = Catalog::of_tensors(&name, &tensors);
    let known = config.as_ref().and_then(|config| config.as_ref().ok()).and_then(ModelConfig::mixture_note);
    let mut notes = Vec::new();
    if let Some(note) = experts_note(&tensors) {
        notes.push(known.unwrap_or_else(|| note.to_owned()));
    }
    let Some(Ok(config)) = config else {
        let catalog = made.or_fail(Kind::Data, place)?;
        return Ok(Described { catalog, config: None, notes });
    };
    let catalog = match made {
        // Its configuration has the shapes all the same.
        Err(TensorsError::Quantized { .. }) => return of_config(config),
        made => made.or_fail(Kind::Data, place)?,
    };
    let from_config = config.catalog()?;
    let own = Arc::clone(from_config.decoder());
    if let Some(difference) = difference(&own, catalog.decoder(), config.is_mixture()) {
        notes.push(format!("the shapes are those of the tensors: {difference}"));
        return Ok(Described { catalog, config: None, notes });
    }
    // The configuration knows what modules are called in memory.
    let others = tensors.iter().filter_map(|(name, _)| name.strip_suffix(".weight"));
    let others: Vec<_> = others.filter_map(|name| Some((name.to_owned(), catalog.other(name)?))).collect();
    let head = catalog.other("lm_head").map(|shape| ("lm_head".to_owned(), shape));
    let towers = [from_config.towers(), catalog.towers()].concat();
    let projector = from_config.projector().to_vec();
    let catalog = Catalog::new(own, others.into_iter().chain(head)).with_towers(towers).with_projector(projector);
    Ok(Described { catalog, config: Some(config), notes })
}

/// Where the tensors disagree with a configuration. Checkpoints of mixtures hold layers beyond those of the model in memory, for
/// tokens further ahead.
fn difference(config: &Layout, tensors: &Layout, is_mixture: bool) -> Option<String> {
    let found: HashMap<String, &Module> =
        tensors.modules().iter().map(|module| (short_name(&module.name), module)).collect();
    let differs = |module: &Module| match found.get(&short_name(&module.name)) {
        None => Some(format!("config.json says that there is {}, and no tensor has its name", module.name)),
        Some(tensor) if tensor.shape() != module.shape() => Some(format!(
            "{} is {} → {}, and config.json says {} → {}",
            tensor.name, tensor.d_in, tensor.d_out, module.d_in, module.d_out
        )),
        Some(_) => None,
    };
    let more = || {
        let known: HashSet<String> = config.modules().iter().map(|module| short_name(&module.name)).collect();
        let other = tensors.modules().iter().find(|module| !known.contains(&short_name(&module.name)))?;
        Some(format!("{} is a matrix that config.json does not tell of", other.name))
    };
    config.modules().iter().find_map(differs).or_else(|| if is_mixture { None } else { more() })
}

/// The model of that preset, or of that `config.json` (the file itself or the folder that it stands in).
///
/// # Errors
/// [`Kind::Usage`] for a word that is neither a preset nor a file; [`Kind::Data`] for a file that is no configuration
/// of a LLaMA-like decoder.
pub fn load(model: &str) -> anyhow::Result<ModelConfig> {
    load_for("--model", model)
}

/// [`load`] for another flag, which messages name.
///
/// # Errors
/// As [`load`].
pub fn load_for(flag: &str, model: &str) -> anyhow::Result<ModelConfig> {
    if let Ok(spec) = ModelSpec::preset(model) {
        return Ok(spec.into());
    }
    let path = Path::new(model);
    let file = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    if !file.is_file() {
        return Err(unknown(flag, model, path, &file));
    }
    read_for(flag, &file)
}

fn read_for(flag: &str, file: &Path) -> anyhow::Result<ModelConfig> {
    ModelConfig::from_json(&input::text(file)?).or_fail(Kind::Data, || format!("{flag} {}", file.display()))
}

fn unknown(flag: &str, model: &str, path: &Path, file: &Path) -> anyhow::Error {
    if path.is_dir() {
        return failure(Kind::Data, format!("{flag} {model}: the folder has no {}", file.display()));
    }
    let presets = PRESETS.map(str::to_owned);
    let hint = nearest(model, &presets).map_or_else(|| ".".to_owned(), |near| format!("; did you mean {near}?"));
    let what = format!(
        "{flag} {model}: this is neither a preset nor a file{hint} Presets: {}. Or give the path of a Hugging Face \
         config.json or checkpoint",
        presets.join(", ")
    );
    // A path that does not exist is bad data; a word is a wrong name.
    let kind = if model.ends_with(".json") || model.contains(['/', '\\']) { Kind::Data } else { Kind::Usage };
    failure(kind, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::error::kind_of;

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
    fn an_adapter_is_named_and_a_model_with_one_beside_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(CONFIG_FILE);
        std::fs::write(&file, r#"{"peft_type": "LORA", "r": 8}"#).unwrap();
        for path in [folder.path(), &file] {
            let error = load_catalog(path.to_str().unwrap()).err().unwrap();
            assert_eq!(kind_of(&error), Kind::Data);
            assert!(error.to_string().contains("this is a LoRA adapter, not a model"), "{error}");
        }
        std::fs::write(folder.path().join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
        assert!(load_catalog(folder.path().to_str().unwrap()).is_ok());
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
