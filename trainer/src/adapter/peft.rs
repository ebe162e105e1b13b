//! Adapters that PEFT wrote: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use hydra_shared::adapter::{ADAPTER_FILE, Adapter, AdapterFolder, CONFIG_FILE};
use hydra_shared::layout::Layout;

use crate::error::{Kind, ResultExt};

/// Reads an adapter folder for a layout.
///
/// # Errors
/// Files that are missing, damaged or contradict each other; kinds of adapters other than plain LoRA; modules that the
/// layout does not have.
pub fn open(folder: &Path, layout: &Arc<Layout>) -> Result<Adapter> {
    let read = |name: &str| {
        let path = folder.join(name);
        let bytes = std::fs::read(&path).or_fail(Kind::Data, || {
            format!("{}: cannot be read; an adapter folder holds {CONFIG_FILE} and {ADAPTER_FILE}", path.display())
        })?;
        Ok((name.to_owned(), bytes))
    };
    let files: BTreeMap<String, Vec<u8>> = [CONFIG_FILE, ADAPTER_FILE].into_iter().map(read).collect::<Result<_>>()?;
    let place = || folder.display().to_string();
    AdapterFolder::from_files(files).or_fail(Kind::Data, place)?.fit(layout).or_fail(Kind::Data, place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::message_of;
    use hydra_shared::vlm::spec::preset_layout;

    #[test]
    fn files_that_are_missing_or_damaged_are_named() {
        let layout = preset_layout("tiny-mobilevlm").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let refusal = || message_of(&open(folder.path(), &layout).unwrap_err());
        assert!(refusal().contains("adapter_config.json: cannot be read; an adapter folder holds"));
        std::fs::write(folder.path().join(CONFIG_FILE), "{").unwrap();
        assert!(refusal().contains("adapter_model.safetensors: cannot be read"));
        std::fs::write(folder.path().join(ADAPTER_FILE), "no tensors").unwrap();
        assert!(refusal().contains("adapter_config.json: this is no adapter_config.json"));
        std::fs::write(folder.path().join(CONFIG_FILE), r#"{"peft_type": "LORA", "r": 3}"#).unwrap();
        assert!(refusal().contains("adapter_model.safetensors: this is not a whole safetensors file"));
    }
}
