//! The files of an adapter's folder, in memory.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::names::{adapter_of, is_found};
use super::{ADAPTER_FILE, Adapter, CONFIG_FILE, ConfigError, FitError, Foreign, LoraConfig, PEFT_PREFIX, saved_name};
use crate::file_kind::FileKind;
use crate::layout::Catalog;
use crate::names::first_names;
use crate::weights::{Precision, WeightError, Weights};

/// A folder that PEFT loads: configuration and tensors, and whatever lies beside them.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterFolder {
    /// The configuration.
    pub config: LoraConfig,
    /// The adapter's tensors under the model's names, without PEFT's prefix.
    pub weights: Weights,
    /// Every other file by its name, as it is: the projector, the schedule, a card.
    pub beside: BTreeMap<String, Vec<u8>>,
    /// Names in the file that are not those which PEFT saves. [`Self::to_files`] writes PEFT's.
    pub names: StrangeNames,
}

/// Names of tensors in a file that are not those which PEFT saves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StrangeNames {
    /// Those that PEFT does not find: they do not begin as its own do, hold another adapter's name than `default`, or name what is
    /// saved whole as in memory.
    pub lost: Vec<String>,
    /// Those as in memory, with the adapter's name. PEFT finds them, and no other program does.
    pub live: Vec<String>,
    /// Those, without PEFT's prefix, that PEFT finds two tensors of different values for.
    pub twice: Vec<String>,
}

/// Files that make no adapter folder, or cannot be written as one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// One of the two files that every adapter has.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A file of another kind in the place of one of the two.
    #[error("{0}: {1}")]
    Kind(&'static str, FileKind),
    /// The configuration.
    #[error("{CONFIG_FILE}: {0}")]
    Config(#[from] ConfigError),
    /// Tensors in another program's names.
    #[error("{ADAPTER_FILE}: {0}")]
    Foreign(Foreign),
    /// Tensors of more than one adapter.
    #[error("{ADAPTER_FILE} holds the tensors of several adapters: {0}; save each into a folder of its own")]
    Several(String),
    /// The tensors.
    #[error("{ADAPTER_FILE}: {0}")]
    Weights(#[from] WeightError),
}

impl AdapterFolder {
    /// Reads a folder's files, given by name.
    ///
    /// # Errors
    /// Configuration or tensors that are missing or damaged.
    pub fn from_files(mut files: BTreeMap<String, Vec<u8>>) -> Result<Self, FolderError> {
        let mut take = |name| files.remove(name).ok_or(FolderError::Missing(name));
        let text = take(CONFIG_FILE)?;
        if let Some(kind) = FileKind::of(&text) {
            return Err(FolderError::Kind(CONFIG_FILE, kind));
        }
        let config = LoraConfig::from_json(&String::from_utf8_lossy(&text))?;
        let stored = Weights::from_safetensors(&take(ADAPTER_FILE)?)?;
        let adapters: BTreeSet<&str> = stored.tensors.keys().filter_map(|name| adapter_of(name)).collect();
        if adapters.len() > 1 {
            return Err(FolderError::Several(first_names(adapters)));
        }
        if let Some(foreign) = Foreign::of_tensors(|| stored.tensors.keys().map(String::as_str)) {
            return Err(FolderError::Foreign(foreign));
        }
        let (weights, names) = in_saved_names(stored);
        Ok(Self { config, weights, beside: files, names })
    }

    /// The folder's files: configuration and tensors first, then the others by name.
    ///
    /// # Errors
    /// A weight whose shape disagrees with its number of values.
    pub fn to_files(&self) -> Result<Vec<(String, Vec<u8>)>, FolderError> {
        let prefixed = |name: &str| format!("{PEFT_PREFIX}{name}");
        let mut files = vec![
            (CONFIG_FILE.to_owned(), self.config.to_json().map_err(ConfigError::from)?.into_bytes()),
            (ADAPTER_FILE.to_owned(), self.weights.to_safetensors_as(Precision::F32, prefixed)?),
        ];
        files.extend(self.beside.iter().map(|(name, bytes)| (name.clone(), bytes.clone())));
        Ok(files)
    }

    /// The adapter for a model.
    ///
    /// # Errors
    /// As [`Adapter::new`].
    pub fn fit(self, model: &Catalog) -> Result<Adapter, FitError> {
        Adapter::of_model(self.config, self.weights, model)
    }
}

/// Tensors under the names that PEFT saves. Of two for one name that counts which PEFT finds, and of two such the one that is
/// not named as in memory.
fn in_saved_names(stored: Weights) -> (Weights, StrangeNames) {
    let mut names = StrangeNames::default();
    let mut weights = Weights::default();
    let mut stored: Vec<_> = stored.tensors.into_iter().collect();
    stored.sort_by_key(|(name, _)| (!is_found(name), adapter_of(name).is_some()));
    for (name, weight) in stored {
        let is_found = is_found(&name);
        match weights.tensors.entry(saved_name(&name)) {
            Entry::Vacant(place) => {
                place.insert(weight);
            }
            Entry::Occupied(place) if is_found && *place.get() != weight => names.twice.push(place.key().clone()),
            Entry::Occupied(_) => {}
        }
        if !is_found {
            names.lost.push(name);
        } else if adapter_of(&name).is_some() {
            names.live.push(name);
        }
    }
    (weights, names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Weight;

    fn folder() -> AdapterFolder {
        let weight = Weight { shape: vec![1, 2], values: vec![0.5, -1.0] };
        AdapterFolder {
            config: LoraConfig::from_json(r#"{"peft_type": "LORA", "r": 1}"#).unwrap(),
            weights: Weights { tensors: BTreeMap::from([("model.up_proj.lora_A.weight".to_owned(), weight)]) },
            beside: BTreeMap::from([("README.md".to_owned(), b"a card".to_vec())]),
            names: StrangeNames::default(),
        }
    }

    #[test]
    fn a_folder_is_read_as_it_was_written_with_what_lies_beside() {
        let files = folder().to_files().unwrap();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [CONFIG_FILE, ADAPTER_FILE, "README.md"]);
        let stored = Weights::from_safetensors(&files[1].1).unwrap();
        assert_eq!(stored.tensors.keys().collect::<Vec<_>>(), ["base_model.model.model.up_proj.lora_A.weight"]);
        let read = AdapterFolder::from_files(files.into_iter().collect()).unwrap();
        assert_eq!(read.to_files().unwrap(), folder().to_files().unwrap());
        assert_eq!((read.weights, read.beside), (folder().weights, folder().beside));
    }

    #[test]
    fn names_that_peft_does_not_find_are_kept_apart_and_tensors_of_two_adapters_are_refused() {
        let with_names = |names: &[&str]| {
            let mut files: BTreeMap<String, Vec<u8>> = folder().to_files().unwrap().into_iter().collect();
            let weight = Weight { shape: vec![1, 1], values: vec![1.0] };
            let tensors = names.iter().map(|name| ((*name).to_owned(), weight.clone())).collect();
            files.insert(ADAPTER_FILE.to_owned(), Weights { tensors }.to_safetensors(Precision::F32).unwrap());
            AdapterFolder::from_files(files)
        };
        for name in
            ["q.lora_A.weight", "module.base_model.model.q.lora_A.weight", "_orig_mod.base_model.model.q.lora_A.weight"]
        {
            let read = with_names(&[name]).unwrap();
            assert_eq!((read.names.lost.as_slice(), read.weights.tensors.len()), ([name.to_owned()].as_slice(), 1));
            assert!(read.weights.tensors.contains_key("q.lora_A.weight"));
        }
        let live = "base_model.model.q.lora_A.default.weight";
        let expected = StrangeNames { live: vec![live.to_owned()], ..StrangeNames::default() };
        assert_eq!(with_names(&[live]).unwrap().names, expected);
        assert_eq!(with_names(&[live, "base_model.model.q.lora_A.weight"]).unwrap().names, expected, "the same values");
        let other = "base_model.model.q.lora_A.mine.weight";
        assert_eq!(with_names(&[other]).unwrap().names.lost, [other], "PEFT looks for its own name, default");
        let two = ["base_model.model.q.lora_A.a.weight", "base_model.model.q.lora_A.b.weight"];
        assert!(with_names(&two).unwrap_err().to_string().contains("several adapters: a, b"));
    }

    #[test]
    fn of_two_tensors_for_one_name_that_counts_which_peft_finds() {
        let of = |named: &[(&str, f32)]| {
            let mut files: BTreeMap<String, Vec<u8>> = folder().to_files().unwrap().into_iter().collect();
            let tensors = named
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Weight { shape: vec![1, 1], values: vec![*value] }));
            let weights = Weights { tensors: tensors.collect() };
            files.insert(ADAPTER_FILE.to_owned(), weights.to_safetensors(Precision::F32).unwrap());
            let read = AdapterFolder::from_files(files).unwrap();
            (read.weights.tensors["q.lora_A.weight"].values[0], read.names)
        };
        let saved = "base_model.model.q.lora_A.weight";
        let (value, names) = of(&[("q.lora_A.weight", 1.0), (saved, 2.0)]);
        assert_eq!(
            (value, names.lost.as_slice(), names.twice.len()),
            (2.0, ["q.lora_A.weight".to_owned()].as_slice(), 0)
        );
        let (value, names) = of(&[("base_model.model.q.lora_A.default.weight", 1.0), (saved, 2.0)]);
        assert_eq!((value, names.twice), (2.0, vec!["q.lora_A.weight".to_owned()]));
    }

    #[test]
    fn tensors_in_another_programs_names_are_told_by_the_program() {
        for (ends, who) in [
            (["lora_down.weight", "lora_up.weight"], "kohya"),
            (["lora_a", "lora_b"], "mlx-lm"),
            (["lora_a.weight", "lora_b.weight"], "torchtune"),
        ] {
            for start in ["base_model.model.model.layers.0.q_proj.", "lora_unet_down_blocks_0."] {
                let mut files: BTreeMap<String, Vec<u8>> = folder().to_files().unwrap().into_iter().collect();
                let weight = Weight { shape: vec![1, 1], values: vec![1.0] };
                let tensors = ends.iter().map(|end| (format!("{start}{end}"), weight.clone())).collect();
                files.insert(ADAPTER_FILE.to_owned(), Weights { tensors }.to_safetensors(Precision::F32).unwrap());
                let said = AdapterFolder::from_files(files).unwrap_err().to_string();
                assert!(said.starts_with("adapter_model.safetensors: ") && said.contains(who), "{said}");
            }
        }
    }

    #[test]
    fn a_file_that_is_missing_or_damaged_is_named() {
        let refused = |name: &str, bytes: Option<&[u8]>| {
            let mut files: BTreeMap<String, Vec<u8>> = folder().to_files().unwrap().into_iter().collect();
            files.remove(name).unwrap();
            files.extend(bytes.map(|bytes| (name.to_owned(), bytes.to_vec())));
            AdapterFolder::from_files(files).unwrap_err().to_string()
        };
        assert_eq!(refused(CONFIG_FILE, None), "adapter_config.json is missing");
        assert_eq!(refused(ADAPTER_FILE, None), "adapter_model.safetensors is missing");
        assert!(refused(CONFIG_FILE, Some(b"{")).starts_with("adapter_config.json: this is no adapter_config.json"));
        assert!(refused(ADAPTER_FILE, Some(b"{")).starts_with("adapter_model.safetensors: this is not a whole"));
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
        for name in [CONFIG_FILE, ADAPTER_FILE] {
            let said = refused(name, Some(pointer));
            assert_eq!(said, format!("{name}: {}", FileKind::LfsPointer));
            assert!(said.contains("git lfs pull"), "{said}");
        }
        let marked = refused(CONFIG_FILE, Some(b"\xef\xbb\xbf{\"peft_type\": \"LORA\", \"r\": 1}"));
        assert!(marked.contains("begins with a byte order mark, which PEFT refuses"), "{marked}");
    }
}
