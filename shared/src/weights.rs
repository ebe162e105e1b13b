//! Named weights on the host, apart from any model: reading and writing safetensors.

use std::collections::{BTreeMap, HashMap};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::file_kind::FileKind;
use crate::names::first_names;

/// How the frozen matrices of a model lie in memory. It does not say in which precision they are multiplied
/// (`vlm::Compute`): a matrix of another one is converted when it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// Single precision.
    #[default]
    F32,
    /// Half precision, IEEE's: half the memory. Right for checkpoints in F16, and in BF16 where no weight is larger than
    /// 65,504.
    F16,
    /// Half precision with the range of single precision, as most checkpoints have it.
    Bf16,
}

/// Why weights could not be read, written or fitted to a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// The bytes are not a safetensors file, or a truncated one.
    #[error("this is not a whole safetensors file: {0}")]
    Safetensors(#[from] safetensors::SafeTensorError),
    /// The bytes are another kind of file.
    #[error("{0}")]
    Kind(FileKind),
    /// A tensor of a type that is no weight.
    #[error("tensor {name} holds {dtype:?}; weights must be F64, F32, F16 or BF16")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: Dtype,
    },
    /// A weight that is NaN or infinite.
    #[error("tensor {name} holds a value that is not finite, at element {index}")]
    NotFinite {
        /// The tensor.
        name: String,
        /// First such element.
        index: usize,
    },
    /// Names or shapes that disagree with the model.
    #[error("the weights do not fit the model: {}", first_names(.0))]
    Mismatch(Vec<String>),
    /// A file of weights that could not be read.
    #[error("{0}")]
    File(String),
    /// The device could not be read.
    #[error("the device could not be read: {0}")]
    Device(String),
}

/// Element type of a written safetensors file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Single precision: exact.
    F32,
    /// Half precision: half the size.
    F16,
}

/// One weight on the host, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Weight {
    /// Shape, as in the checkpoint.
    pub shape: Vec<usize>,
    /// Elements.
    pub values: Vec<f32>,
}

impl Weight {
    /// A tensor of a safetensors file.
    ///
    /// # Errors
    /// An element type that is no weight's, values that are not finite.
    pub fn from_view(name: &str, view: &TensorView<'_>) -> Result<Self, WeightError> {
        Self { shape: view.shape().to_vec(), values: floats(name, view)? }.checked(name)
    }

    /// The weight, if all of it is finite.
    ///
    /// # Errors
    /// The first element that is not.
    pub fn checked(self, name: &str) -> Result<Self, WeightError> {
        match self.values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(WeightError::NotFinite { name: name.to_owned(), index }),
            None => Ok(self),
        }
    }
}

/// Where a model's weights come from, one at a time, so that a large checkpoint never lies in memory twice.
pub trait WeightSource {
    /// Names of the weights that were not taken yet, sorted.
    fn names(&self) -> Vec<String>;

    /// Removes a weight; none if there is none of that name.
    ///
    /// # Errors
    /// Bytes that cannot be read, or are no weight.
    fn take(&mut self, name: &str) -> Result<Option<Weight>, WeightError>;

    /// Forgets the weights whose names begin so.
    fn discard(&mut self, prefix: &str);
}

impl WeightSource for Weights {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn take(&mut self, name: &str) -> Result<Option<Weight>, WeightError> {
        Ok(self.tensors.remove(name))
    }

    fn discard(&mut self, prefix: &str) {
        self.tensors.retain(|name, _| !name.starts_with(prefix));
    }
}

/// Bytes at the start of a safetensors file that say how long its header is.
pub const HEADER_LENGTH_BYTES: usize = 8;

/// Bytes of the header of a safetensors file that begins so, which follows on its length; none where the start is shorter than
/// that.
pub fn header_length(start: &[u8]) -> Option<u64> {
    start.first_chunk::<HEADER_LENGTH_BYTES>().map(|length| u64::from_le_bytes(*length))
}

/// Names and shapes of the tensors of a safetensors file by its header, sorted by name. Files may be larger than what this
/// machine can address: offsets are not looked at, as nothing is read by them.
///
/// # Errors
/// Bytes that are no whole header.
pub fn shapes_of_header(header: &[u8]) -> Result<Vec<(String, Vec<usize>)>, WeightError> {
    let broken = |what: String| WeightError::File(format!("this is not a whole safetensors file: its header {what}"));
    let entries: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(header).map_err(|error| broken(format!("cannot be read: {error}")))?;
    let shape = |(name, entry): (String, serde_json::Value)| {
        let widths = entry.get("shape").and_then(serde_json::Value::as_array);
        let width =
            |width: &serde_json::Value| width.as_u64().map(|width| usize::try_from(width).unwrap_or(usize::MAX));
        match widths.and_then(|widths| widths.iter().map(width).collect()) {
            Some(shape) => Ok((name, shape)),
            None => Err(broken(format!("gives {name} no shape"))),
        }
    };
    entries.into_iter().filter(|(name, _)| name != "__metadata__").map(shape).collect()
}

/// One of several files that hold a checkpoint together, by its name: `model-00001-of-00002.safetensors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard<'a> {
    /// What the name begins with.
    pub start: &'a str,
    /// How many files there are: two or more.
    pub count: u32,
    /// The ending, without its dot.
    pub end: &'a str,
}

/// The shard that a file's name says; none where it says that the file is whole.
pub fn shard_of(name: &str) -> Option<Shard<'_>> {
    let (before, after) = name.split_once("-of-")?;
    let ((start, number), (count, end)) = (before.rsplit_once('-')?, after.split_once('.')?);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let count: u32 = count.parse().ok().filter(|_| is_number(number) && is_number(count))?;
    (count > 1).then_some(Shard { start, count, end })
}

/// Weights by name, as a checkpoint holds them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Weights {
    /// Every tensor; sorted by name, so that files come out the same each time.
    pub tensors: BTreeMap<String, Weight>,
}

impl Weights {
    /// Reads a safetensors file (F32, F16 or BF16).
    ///
    /// # Errors
    /// Bytes that are not a whole safetensors file, other element types, values that are not finite.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, WeightError> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| match FileKind::of(bytes) {
            Some(kind) if kind != FileKind::Safetensors => WeightError::Kind(kind),
            _ => error.into(),
        })?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            tensors.insert(name.to_owned(), Weight::from_view(name, &view)?);
        }
        Ok(Self { tensors })
    }

    /// Writes a safetensors file, with PEFT's and Transformers' `{"format": "pt"}`.
    ///
    /// # Errors
    /// Only if a shape disagrees with its number of values.
    pub fn to_safetensors(&self, precision: Precision) -> Result<Vec<u8>, WeightError> {
        self.to_safetensors_as(precision, str::to_owned)
    }

    /// [`Self::to_safetensors`] under other names.
    ///
    /// # Errors
    /// As [`Self::to_safetensors`].
    pub fn to_safetensors_as(
        &self,
        precision: Precision,
        rename: impl Fn(&str) -> String,
    ) -> Result<Vec<u8>, WeightError> {
        let bytes: Vec<(String, &Weight, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, weight)| {
                let bytes = match precision {
                    Precision::F32 => weight.values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                    Precision::F16 => weight.values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
                };
                (rename(name), weight, bytes)
            })
            .collect();
        let dtype = match precision {
            Precision::F32 => Dtype::F32,
            Precision::F16 => Dtype::F16,
        };
        let views = bytes
            .iter()
            .map(|(name, weight, bytes)| Ok((name.as_str(), TensorView::new(dtype, weight.shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        Ok(safetensors::serialize(views, Some(metadata))?)
    }

    /// Number of elements over all tensors.
    pub fn parameters(&self) -> u64 {
        self.tensors.values().map(|weight| weight.values.len() as u64).sum()
    }
}

fn floats(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, WeightError> {
    let data = view.data();
    let two = |convert: fn([u8; 2]) -> f32| data.as_chunks::<2>().0.iter().map(|b| convert(*b)).collect();
    Ok(match view.dtype() {
        Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F64 => data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        Dtype::F16 => two(|b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => two(|b| bf16::from_le_bytes(b).to_f32()),
        dtype => return Err(WeightError::Dtype { name: name.to_owned(), dtype }),
    })
}

#[cfg(test)]
mod tests {
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn a_header_tells_the_shapes_of_files_that_no_memory_holds() {
        let header = r#"{"__metadata__":{"format":"pt","shape":"none"},
            "lm_head.weight":{"dtype":"BF16","shape":[128256,4096],"data_offsets":[5000000000,6050673152]},
            "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
        let shapes = shapes_of_header(header.as_bytes()).unwrap();
        assert_eq!(shapes, [("a".to_owned(), vec![]), ("lm_head.weight".to_owned(), vec![128_256, 4096])]);
        let refused = |header: &str| shapes_of_header(header.as_bytes()).unwrap_err().to_string();
        assert!(refused(r#"{"a":{"shape":[1"#).contains("cannot be read"));
        assert!(refused(r#"{"a":{"shape":[-1]}}"#).ends_with("its header gives a no shape"));
        assert!(refused(r#"{"a":3}"#).ends_with("its header gives a no shape"));
    }

    #[test]
    fn the_length_of_a_header_stands_in_its_first_eight_bytes() {
        let written = Weights::default().to_safetensors(Precision::F32).unwrap();
        let length = header_length(&written).unwrap() as usize;
        assert_eq!(shapes_of_header(&written[HEADER_LENGTH_BYTES..][..length]).unwrap(), []);
        assert_eq!(header_length(b"\x08\0\0"), None);
        // Lengths whose bytes look like UTF-16, gzip and a pickle.
        for length in [65_544_u64, 0x8b1f, 640] {
            let start = [&length.to_le_bytes()[..], b"{\"a\""].concat();
            assert_eq!(FileKind::of(&start), Some(FileKind::Safetensors), "{length}");
        }
    }

    #[test]
    fn the_name_of_a_shard_says_how_many_there_are() {
        let shard = shard_of("model-00001-of-00002.safetensors").unwrap();
        assert_eq!((shard.start, shard.count, shard.end), ("model", 2, "safetensors"));
        for whole in ["model.safetensors", "a-1-of-1.safetensors", "best-of-5.safetensors", "a-x-of-2.safetensors"] {
            assert_eq!(shard_of(whole), None, "{whole}");
        }
    }
}
