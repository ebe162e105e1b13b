//! Adapter folders on the disk, PEFT's and those of `trainer train`: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;

use super::atomic::{MANIFEST, Manifest};
use super::digest::sha256_hex;
use super::error::{Kind, ResultExt, failure};
use crate::adapter::{ADAPTER_FILE, Adapter, AdapterFolder, CONFIG_FILE, Foreign, PROJECTOR_FILE};
use crate::layout::Layout;

/// What a person reads first.
pub const CARD_FILE: &str = "README.md";
/// The ranks, with where they came from.
pub const SCHEDULE_FILE: &str = "schedule.json";
/// SHA-256 of the base's weights.
pub const BASE_FILE: &str = "base.sha256";
/// What may lie beside an adapter and goes with it.
const BESIDE: [&str; 4] = [CARD_FILE, SCHEDULE_FILE, BASE_FILE, PROJECTOR_FILE];
/// Where PEFT saved tensors before it wrote safetensors.
const PICKLED: &str = "adapter_model.bin";
/// Index of an adapter that was saved in shards.
const SHARDED: &str = "adapter_model.safetensors.index.json";
/// Where mlx-lm keeps its own.
const MLX_FILE: &str = "adapters.safetensors";

/// Reads an adapter folder: configuration, tensors, and what this program may have put beside them. Where a manifest lies
/// there, its tensors have to be those that were written; everything else may have been changed.
///
/// # Errors
/// Files that are missing or damaged.
pub fn read(folder: &Path) -> Result<AdapterFolder> {
    let manifest: Option<Manifest> =
        std::fs::read(folder.join(MANIFEST)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let mut files = BTreeMap::new();
    for name in [CONFIG_FILE, ADAPTER_FILE] {
        let bytes = std::fs::read(folder.join(name)).or_fail(Kind::Data, || missing(folder, name))?;
        files.insert(name.to_owned(), bytes);
    }
    for name in BESIDE {
        if let Ok(bytes) = std::fs::read(folder.join(name)) {
            files.insert(name.to_owned(), bytes);
        }
    }
    for (name, entry) in manifest.iter().flat_map(|manifest| &manifest.files) {
        let Some(bytes) = files.get(name).filter(|_| name.ends_with(".safetensors")) else { continue };
        if sha256_hex(bytes) != entry.sha256 {
            let place = folder.join(name);
            return Err(failure(
                Kind::Data,
                format!(
                    "{} is damaged: it differs from the hash in {MANIFEST}; if it was saved anew, remove {MANIFEST}",
                    place.display()
                ),
            ));
        }
    }
    AdapterFolder::from_files(files).or_fail(Kind::Data, || folder.display().to_string())
}

/// Reads an adapter folder for a layout.
///
/// # Errors
/// Files that are missing, damaged or contradict each other; kinds of adapters other than plain LoRA; modules that the
/// layout does not have.
pub fn open(folder: &Path, layout: &Arc<Layout>) -> Result<Adapter> {
    read(folder)?.fit(&Arc::clone(layout).into()).or_fail(Kind::Data, || folder.display().to_string())
}

/// What is said of a file that cannot be read.
fn missing(folder: &Path, name: &str) -> String {
    let place = folder.join(name);
    let hint = if name == ADAPTER_FILE && folder.join(PICKLED).is_file() {
        format!(
            "; {PICKLED} is there instead: load it with PEFT and save it with save_pretrained(…, safe_serialization=True)"
        )
    } else if name == ADAPTER_FILE && folder.join(SHARDED).is_file() {
        format!(
            "; {SHARDED} is there instead, and PEFT reads no adapter in shards: load it and save it whole, with \
             save_pretrained(…, max_shard_size=\"100GB\")"
        )
    } else if name == CONFIG_FILE && folder.join("config.json").is_file() {
        "; this is a whole model, with which an adapter may have been merged: there is none left to be looked at"
            .to_owned()
    } else if folder.join(MLX_FILE).is_file() {
        format!("; {MLX_FILE} is there instead: {}", Foreign::Mlx)
    } else if let Some(inner) = inner_folder(folder) {
        format!(
            "; the one in {} is: PEFT keeps an adapter with a name of its own in a folder of that name",
            inner.display()
        )
    } else if folder.join(PROJECTOR_FILE).is_file() {
        "; a projector of stage I is no adapter: name its file with --set projector_weights=".to_owned()
    } else {
        String::new()
    };
    format!("{}: cannot be read; an adapter folder holds {CONFIG_FILE} and {ADAPTER_FILE}{hint}", place.display())
}

/// A folder in this one that holds an adapter.
fn inner_folder(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    entries.filter(|path| path.join(CONFIG_FILE).is_file()).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::error::message_of;
    use crate::vlm::spec::preset_layout;

    #[test]
    fn files_that_are_missing_or_damaged_are_named() {
        let layout = preset_layout("tiny-mobilevlm").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let refusal = || message_of(&open(folder.path(), &layout).unwrap_err());
        assert!(refusal().contains("adapter_config.json: cannot be read; an adapter folder holds"));
        let named = folder.path().join("my-task");
        std::fs::create_dir(&named).unwrap();
        std::fs::write(named.join(CONFIG_FILE), "{}").unwrap();
        assert!(refusal().contains(&format!("the one in {} is", named.display())));
        std::fs::remove_dir_all(named).unwrap();
        std::fs::write(folder.path().join(CONFIG_FILE), "{").unwrap();
        assert!(refusal().contains("adapter_model.safetensors: cannot be read"));
        std::fs::write(folder.path().join(MLX_FILE), "").unwrap();
        assert!(refusal().contains("this is an adapter of mlx-lm's"));
        std::fs::write(folder.path().join(PICKLED), "").unwrap();
        assert!(refusal().contains("safe_serialization=True"));
        std::fs::write(folder.path().join(ADAPTER_FILE), "no tensors").unwrap();
        assert!(refusal().contains("adapter_config.json: this is no adapter_config.json"));
        std::fs::write(folder.path().join(CONFIG_FILE), r#"{"peft_type": "LORA", "r": 3}"#).unwrap();
        assert!(refusal().contains("adapter_model.safetensors: this is not a whole safetensors file"));
    }
}
