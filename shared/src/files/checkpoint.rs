//! The weight files of a checkpoint, mapped into memory and read one tensor at a time.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use half::{bf16, f16};
use memmap2::{Mmap, MmapOptions};
use pytorch_reader::{DType, PytorchReader};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorView};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::error::{Kind, ResultExt, failure};
use super::input;
use crate::file_kind::FileKind;
use crate::names::first_names;
use crate::weights::{Storage, Weight, WeightError, WeightSource};

/// One file of weights.
enum WeightFile {
    Safetensors {
        file: File,
        /// Where the data starts.
        start: usize,
        metadata: Metadata,
    },
    Pytorch(Box<PytorchReader>),
}

/// Where a weight lies.
struct Place {
    file: usize,
    /// Its name in the file.
    name: String,
}

/// The weights of a checkpoint; nothing is in memory before it is taken.
pub struct CheckpointWeights {
    files: Vec<(PathBuf, WeightFile)>,
    places: BTreeMap<String, Place>,
}

impl CheckpointWeights {
    /// Opens `model.safetensors`, `pytorch_model.bin`, or the shards that the index of either names.
    ///
    /// # Errors
    /// No such file, damaged ones, shards that are missing or hold other tensors than their index says.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut weights = Self { files: Vec::new(), places: BTreeMap::new() };
        for whole in ["model.safetensors", "pytorch_model.bin"] {
            let (file, index) = (folder.join(whole), folder.join(format!("{whole}.index.json")));
            if file.is_file() {
                weights.add(&file)?;
                return Ok(weights);
            }
            if index.is_file() {
                weights.add_shards(folder, &index)?;
                return Ok(weights);
            }
        }
        Err(failure(
            Kind::Data,
            format!(
                "{}: no weights here; expected model.safetensors, model.safetensors.index.json with its shards, \
                 pytorch_model.bin, or pytorch_model.bin.index.json with its shards",
                folder.display()
            ),
        ))
    }

    /// Opens what a path names: a folder as [`Self::open`] does, an index with its shards, or one file of weights.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn open_path(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Self::open(path);
        }
        if path.extension().is_none_or(|extension| extension != "json") {
            return Self::open_file(path);
        }
        let mut weights = Self { files: Vec::new(), places: BTreeMap::new() };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        weights.add_shards(folder, path)?;
        Ok(weights)
    }

    /// Names and shapes of all weights; only the files' headers are read.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let shape = |place: &Place| match &self.files.get(place.file)?.1 {
            WeightFile::Safetensors { metadata, .. } => Some(metadata.info(&place.name)?.shape.clone()),
            WeightFile::Pytorch(reader) => Some(reader.get(&place.name)?.shape().to_vec()),
        };
        self.places.iter().filter_map(|(name, place)| Some((name.clone(), shape(place)?))).collect()
    }

    /// Opens one file of weights, safetensors or PyTorch.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn open_file(path: &Path) -> Result<Self> {
        open(path)?;
        let mut weights = Self { files: Vec::new(), places: BTreeMap::new() };
        weights.add(path)?;
        Ok(weights)
    }

    /// The files, in the order in which they were opened.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// The precision of the first matrix.
    pub fn precision(&self) -> Storage {
        let of = |place: &Place| match &self.files[place.file].1 {
            WeightFile::Safetensors { metadata, .. } => {
                let info = metadata.info(&place.name).filter(|info| info.shape.len() == 2)?;
                Some(match info.dtype {
                    Dtype::F16 => Storage::F16,
                    Dtype::BF16 => Storage::Bf16,
                    _ => Storage::F32,
                })
            }
            WeightFile::Pytorch(reader) => {
                let tensor = reader.get(&place.name).filter(|tensor| tensor.shape().len() == 2)?;
                Some(match tensor.dtype() {
                    DType::F16 => Storage::F16,
                    DType::BF16 => Storage::Bf16,
                    _ => Storage::F32,
                })
            }
        };
        self.places.values().find_map(of).unwrap_or_default()
    }

    fn add_shards(&mut self, folder: &Path, index: &Path) -> Result<()> {
        let place = || index.display().to_string();
        let parsed: ShardIndex = input::document(index)?;
        let mut shards: Vec<&String> = parsed.weight_map.0.values().collect();
        shards.sort();
        shards.dedup();
        // A name with a path in it could point out of the folder.
        if let Some(shard) = shards.iter().find(|shard| Path::new(shard).components().count() != 1) {
            return Err(failure(Kind::Data, format!("{}: {shard:?} is no file name", place())));
        }
        let missing: Vec<&str> =
            shards.iter().filter(|shard| !folder.join(shard).is_file()).map(|shard| shard.as_str()).collect();
        if !missing.is_empty() {
            let message = format!("{}: shards are missing: {}; download them again", place(), first_names(missing));
            return Err(failure(Kind::Data, message));
        }
        for shard in shards {
            self.add(&folder.join(shard))?;
        }
        let wrong: Vec<String> = parsed
            .weight_map
            .0
            .iter()
            .filter(|(name, shard)| {
                let found = self.places.get(*name).map(|place| &self.files[place.file].0);
                found.is_none_or(|path| !path.ends_with(shard))
            })
            .map(|(name, shard)| format!("{name} is not in {shard}"))
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(failure(Kind::Data, format!("{}: {}", place(), first_names(wrong)))) }
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let place = || path.display().to_string();
        let safetensors = path.extension().is_some_and(|extension| extension == "safetensors");
        let wanted: &[FileKind] = match safetensors {
            true => &[FileKind::Safetensors],
            // The first bytes of torch.save's archive need not tell it from another one.
            false => &[FileKind::TorchArchive, FileKind::Pickle, FileKind::Archive],
        };
        input::refuse_other_kinds(path, wanted)?;
        let (file, names) = if safetensors {
            let map = map(path)?;
            SafeTensors::deserialize(&map)
                .or_fail(Kind::Data, || format!("{}: not a whole safetensors file; download it again", place()))?;
            let (header, metadata) = SafeTensors::read_metadata(&map).or_fail(Kind::Data, place)?;
            let names: Vec<String> = metadata.tensors().into_keys().collect();
            (WeightFile::Safetensors { file: open(path)?, start: header + 8, metadata }, names)
        } else {
            let reader = PytorchReader::new(path)
                .or_fail(Kind::Data, || format!("{}: not a whole PyTorch file; download it again", place()))?;
            let names = reader.keys();
            (WeightFile::Pytorch(Box::new(reader)), names)
        };
        let number = self.files.len();
        self.files.push((path.to_owned(), file));
        let wrapper = wrapper(&names);
        if let Some(wrapper) = wrapper {
            tracing::warn!("{}: every name begins with {wrapper:?}; the tensors are read without it", place());
        }
        for stored in names {
            let name = stored.strip_prefix(wrapper.unwrap_or_default()).unwrap_or(&stored).to_owned();
            let here = Place { file: number, name: stored };
            if let Some(other) = self.places.insert(name.clone(), here) {
                let other = self.files[other.file].0.display();
                return Err(failure(Kind::Data, format!("{}: {name} is also in {other}", place())));
            }
        }
        Ok(())
    }

    /// Forgets weights.
    pub fn discard(&mut self, unwanted: impl Fn(&str) -> bool) {
        self.places.retain(|name, _| !unwanted(name));
    }

    /// Gives weights other names.
    pub fn rename(&mut self, name: impl Fn(&str) -> String) {
        self.places = std::mem::take(&mut self.places).into_iter().map(|(old, place)| (name(&old), place)).collect();
    }

    /// Whether any weight has such a name.
    pub fn contains(&self, wanted: impl Fn(&str) -> bool) -> bool {
        self.places.keys().any(|name| wanted(name))
    }

    /// Adds the weights of another checkpoint, which lies at `origin`.
    ///
    /// # Errors
    /// A name that both have.
    pub fn join(&mut self, other: Self, origin: &Path) -> Result<()> {
        let first = self.files.len();
        self.files.extend(other.files);
        for (name, place) in other.places {
            if self.places.insert(name.clone(), Place { file: first + place.file, ..place }).is_some() {
                return Err(failure(
                    Kind::Data,
                    format!("{}: {name} is in the model's own files too", origin.display()),
                ));
            }
        }
        Ok(())
    }

    fn read(&self, place: &Place, name: &str) -> Result<Weight, WeightError> {
        let (path, file) = &self.files[place.file];
        let lost = || WeightError::File(format!("{}: {} cannot be read", path.display(), place.name));
        match file {
            WeightFile::Safetensors { file, start, metadata } => {
                let info = metadata.info(&place.name).ok_or_else(lost)?;
                let (from, to) = info.data_offsets;
                // One tensor's pages at a time, so that the file never lies in memory beside the model.
                let map = map_range(file, start + from, to - from).map_err(|_| lost())?;
                Weight::from_view(name, &TensorView::new(info.dtype, info.shape.clone(), &map)?)
            }
            WeightFile::Pytorch(reader) => {
                let tensor = reader.get(&place.name).ok_or_else(lost)?;
                let failed = |error: &dyn fmt::Display| {
                    WeightError::File(format!("{}: {}: {error}", path.display(), place.name))
                };
                let bytes = tensor.read().map_err(|error| failed(&error))?;
                let two = |convert: fn([u8; 2]) -> f32| bytes.as_chunks::<2>().0.iter().map(|b| convert(*b)).collect();
                let values: Vec<f32> = match tensor.dtype() {
                    DType::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                    DType::F16 => two(|b| f16::from_le_bytes(b).to_f32()),
                    DType::BF16 => two(|b| bf16::from_le_bytes(b).to_f32()),
                    other => return Err(failed(&format!("holds {other:?}; weights must be F32, F16 or BF16"))),
                };
                Weight { shape: tensor.shape().to_vec(), values }.checked(name)
            }
        }
    }
}

impl WeightSource for CheckpointWeights {
    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn take(&mut self, name: &str) -> Result<Option<Weight>, WeightError> {
        self.places.remove(name).map(|place| self.read(&place, name)).transpose()
    }

    fn discard(&mut self, prefix: &str) {
        self.discard(|name| name.starts_with(prefix));
    }
}

/// What `torch.compile` and DistributedDataParallel put in front of every name.
const WRAPPERS: [&str; 4] = ["_orig_mod.module.", "module._orig_mod.", "_orig_mod.", "module."];

/// The wrapper that all of the names begin with.
fn wrapper(names: &[String]) -> Option<&'static str> {
    let all = |wrapper: &&str| !names.is_empty() && names.iter().all(|name| name.starts_with(wrapper));
    WRAPPERS.into_iter().find(all)
}

fn open(path: &Path) -> Result<File> {
    File::open(path).or_fail(Kind::Data, || format!("{}: cannot be read", path.display()))
}

/// Maps a file into memory.
///
/// # Errors
/// A file that cannot be read.
pub fn map(path: &Path) -> Result<Mmap> {
    let file = open(path)?;
    // SAFETY: the map is only read. If another program shortens the file meanwhile, the process ends with a bus error,
    // as in every program that maps its weights.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file) };
    map.with_context(|| format!("{}: cannot be mapped into memory", path.display()))
}

/// Maps a part of a file into memory.
fn map_range(file: &File, start: usize, length: usize) -> std::io::Result<Mmap> {
    // SAFETY: as in [`map`].
    #[allow(unsafe_code)]
    unsafe {
        MmapOptions::new().offset(start as u64).len(length).map(file)
    }
}

#[derive(serde::Deserialize)]
struct ShardIndex {
    weight_map: UniqueMap,
}

/// A JSON object whose keys are all different, which JSON itself does not promise.
struct UniqueMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for UniqueMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Unique;
        impl<'de> Visitor<'de> for Unique {
            type Value = UniqueMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensor names and their files")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<UniqueMap, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((name, file)) = entries.next_entry::<String, String>()? {
                    if map.contains_key(&name) {
                        return Err(serde::de::Error::custom(format!("weight_map names {name} twice")));
                    }
                    map.insert(name, file);
                }
                Ok(UniqueMap(map))
            }
        }
        deserializer.deserialize_map(Unique)
    }
}
