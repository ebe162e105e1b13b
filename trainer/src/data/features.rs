//! Vision features, and their cache on disk: a frozen tower sees each picture once, in whatever run it comes up.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use burn::tensor::{Device, Tensor, TensorData};
use hydra_shared::vlm::{MobileVlm, Precision, Trainable, Weight, Weights, patchify};
use rayon::prelude::*;

use super::pictures::PictureFiles;
use crate::device::host;
use crate::digest::sha256_hex;
use crate::error::{Kind, failure};

/// Name of the only tensor of a file.
const TENSOR: &str = "features";
/// Letters of a tower's digest in its folder's name.
const DIGEST_LETTERS: usize = 16;

/// Pictures whose features are computed at a time.
const FEATURE_BATCH: usize = 128;

/// The features that one vision tower gives, a safetensors file a picture:
/// `FOLDER/<digest of the tower>/<two letters>/<digest of the picture>.safetensors`.
struct FeatureCache {
    folder: PathBuf,
    /// Patches and width.
    shape: [usize; 2],
    /// Bytes of a whole file.
    bytes: u64,
}

impl FeatureCache {
    /// The part of a cache folder that belongs to the model's tower.
    ///
    /// # Errors
    /// A model without a tower, a device that fails, a folder that cannot be made.
    fn open(folder: &Path, model: &MobileVlm) -> Result<Self> {
        let vision = model.spec().vision.as_ref().context("a model without a vision tower has no vision features")?;
        let shape = [vision.patches(), vision.hidden];
        // What is neither projector nor decoder.
        let tower = |name: &str| !Trainable::ProjectorAndDecoder.includes(name);
        let weights = pollster::block_on(model.names().read(model, tower))?;
        let described = [serde_json::to_vec(vision)?, weights.to_safetensors(Precision::F32)?].concat();
        let folder = folder.join(&sha256_hex(&described)[..DIGEST_LETTERS]);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make the feature cache {}", folder.display()))?;
        let bytes = file_of(vec![0.0; shape[0] * shape[1]], shape)?.len() as u64;
        Ok(Self { folder, shape, bytes })
    }

    /// Whether the features of that picture are there as a whole.
    fn holds(&self, picture: &str) -> bool {
        fs::metadata(self.path(picture)).is_ok_and(|file| file.len() == self.bytes)
    }

    /// The features of a picture, `[patches, width]`, row-major.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    fn read(&self, picture: &str) -> Result<Vec<f32>> {
        let path = self.path(picture);
        let place =
            || format!("{}: these vision features cannot be read; delete the file and start again", path.display());
        let bytes = fs::read(&path).with_context(place)?;
        let found = Weights::from_safetensors(&bytes).with_context(place)?.tensors.remove(TENSOR);
        match found {
            Some(weight) if weight.shape == self.shape => Ok(weight.values),
            _ => Err(failure(Kind::Data, place())),
        }
    }

    /// Keeps the features of a picture.
    ///
    /// # Errors
    /// A folder that cannot be written, a full disk.
    fn write(&self, picture: &str, features: Vec<f32>) -> Result<()> {
        let path = self.path(picture);
        let place = || format!("cannot write {}", path.display());
        let parent = path.parent().context("a cache file stands in a folder")?;
        fs::create_dir_all(parent).with_context(place)?;
        // Renamed when it is whole, but not forced to the disk: after a power cut it is of another length, and is
        // computed again.
        let mut scratch = tempfile::NamedTempFile::new_in(parent).with_context(place)?;
        scratch.write_all(&file_of(features, self.shape)?).with_context(place)?;
        scratch.persist(&path).with_context(place)?;
        Ok(())
    }

    /// Numbers in the features of a picture.
    fn values(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    fn path(&self, picture: &str) -> PathBuf {
        self.folder.join(picture.get(..2).unwrap_or_default()).join(format!("{picture}.safetensors"))
    }
}

fn file_of(values: Vec<f32>, shape: [usize; 2]) -> Result<Vec<u8>> {
    let tensors = [(TENSOR.to_owned(), Weight { shape: shape.to_vec(), values })].into();
    Ok(Weights { tensors }.to_safetensors(Precision::F32)?)
}

/// The features of a set's pictures, all of them on the disk but those of damaged pictures.
pub struct StoredFeatures {
    cache: FeatureCache,
    /// Digest of each picture; none of a damaged one.
    digests: Vec<Option<String>>,
}

impl StoredFeatures {
    /// Runs those pictures through the tower whose features are not in the cache folder yet.
    ///
    /// # Errors
    /// A damaged picture that is not to be skipped, a folder that cannot be written, a device that fails.
    pub fn fill(files: &PictureFiles, model: &MobileVlm, folder: &Path) -> Result<Self> {
        let cache = FeatureCache::open(folder, model)?;
        let pictures: Vec<usize> = (0..files.len()).collect();
        let mut digests = Vec::with_capacity(files.len());
        for chunk in pictures.chunks(feature_batch(cache.shape[0])) {
            let mut found = files.digests(chunk);
            let held = |digest: &Option<String>| digest.as_ref().is_some_and(|digest| cache.holds(digest));
            let missing: Vec<usize> = (0..chunk.len()).filter(|at| !held(&found[*at])).collect();
            let numbers: Vec<usize> = missing.iter().map(|at| chunk[*at]).collect();
            if let (Some(features), damaged) = tower_features(files, &numbers, model)? {
                let values = host(features)?;
                for (at, values) in missing.iter().zip(values.chunks(cache.values())) {
                    if damaged.contains(&chunk[*at]) {
                        found[*at] = None;
                    } else if let Some(digest) = &found[*at] {
                        cache.write(digest, values.to_vec())?;
                    }
                }
            }
            digests.extend(found);
        }
        Ok(Self { cache, digests })
    }

    /// Whether a picture could not be read and is to be skipped.
    pub fn is_damaged(&self, picture: usize) -> bool {
        self.digests.get(picture).is_none_or(Option::is_none)
    }

    /// The features of a picture, `[patches, width]`, row-major; zeros of a damaged one.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn values(&self, picture: usize) -> Result<Vec<f32>> {
        match self.digests.get(picture) {
            Some(Some(digest)) => self.cache.read(digest),
            _ => Ok(vec![0.0; self.cache.values()]),
        }
    }

    /// The features of some pictures, `[pictures, patches, width]`, and which of them are damaged.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn read(&self, pictures: &[usize], device: &Device) -> Result<(Option<Tensor<3>>, Vec<usize>)> {
        let values = pictures.par_iter().map(|picture| self.values(*picture)).collect::<Result<Vec<_>>>()?;
        let [patches, width] = self.cache.shape;
        let features = TensorData::new(values.concat(), [pictures.len(), patches, width]);
        let damaged = pictures.iter().copied().filter(|picture| self.is_damaged(*picture)).collect();
        Ok((Some(Tensor::from_data(features, device)), damaged))
    }
}

/// Pictures that are run through a tower of so many patches at a time: a large tower's intermediate results are large, too.
pub fn feature_batch(patches: usize) -> usize {
    (FEATURE_BATCH * 64 / patches.max(1)).clamp(1, FEATURE_BATCH)
}

/// Runs pictures through the vision tower. A damaged one, where that is to be skipped, counts as black and is named in the
/// second result.
///
/// # Errors
/// A damaged picture that is not to be skipped.
pub fn tower_features(
    files: &PictureFiles,
    pictures: &[usize],
    model: &MobileVlm,
) -> Result<(Option<Tensor<3>>, Vec<usize>)> {
    let Some(vision) = &model.spec().vision else { return Ok((None, Vec::new())) };
    let read = files.read(pictures)?;
    let blank = vec![0; 3 * files.side() * files.side()];
    let rgb: Vec<&[u8]> = read.iter().map(|rgb| rgb.as_deref().unwrap_or(&blank)).collect();
    let damaged = pictures.iter().zip(&read).filter(|(_, rgb)| rgb.is_none()).map(|(picture, _)| *picture).collect();
    Ok((model.vision_features(patchify(vision, &rgb, &model.device())), damaged))
}

#[cfg(test)]
mod tests {
    use hydra_shared::vlm::init::random_weights;
    use hydra_shared::vlm::spec::ModelSpec;

    use super::*;

    fn model(seed: u64) -> MobileVlm {
        let spec = ModelSpec::preset("tiny-mobilevlm").unwrap();
        MobileVlm::load(&spec, random_weights(&spec, seed), &Device::flex()).unwrap()
    }

    #[test]
    fn features_come_back_as_they_were_and_belong_to_their_tower() {
        let folder = tempfile::tempdir().unwrap();
        let cache = FeatureCache::open(folder.path(), &model(1)).unwrap();
        let features: Vec<f32> = (0..cache.values()).map(|index| index as f32 / 7.0).collect();
        assert!(!cache.holds("0a1b"));
        cache.write("0a1b", features.clone()).unwrap();
        assert!(cache.holds("0a1b"));
        assert_eq!(cache.read("0a1b").unwrap(), features);
        let same = FeatureCache::open(folder.path(), &model(1)).unwrap();
        assert!(same.holds("0a1b"));
        let other = FeatureCache::open(folder.path(), &model(2)).unwrap();
        assert!(!other.holds("0a1b"), "another tower sees something else in the same picture");
    }

    #[test]
    fn a_file_that_was_cut_off_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let cache = FeatureCache::open(folder.path(), &model(1)).unwrap();
        cache.write("0a1b", vec![1.0; cache.values()]).unwrap();
        let path = cache.path("0a1b");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(!cache.holds("0a1b"));
        let error = format!("{:#}", cache.read("0a1b").unwrap_err());
        assert!(error.contains("0a1b.safetensors") && error.contains("delete the file"), "{error}");
    }
}
