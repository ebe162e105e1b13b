//! The base model that is adapted: a Hugging Face checkpoint, a GGUF or llama2.c decoder, or the embedded tiny MobileVLM;
//! with a vision tower and a projector from elsewhere where it has none.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use burn::tensor::{DType, Device};
use hydra_shared::adapter::plain_name;
use hydra_shared::layout::Layout;
use hydra_shared::vlm::init::random_projector;
use hydra_shared::vlm::spec::{ModelSpec, ProjectorKind, ProjectorSpec};
use hydra_shared::vlm::tokenizer::{SpecialTokens, Tokenizer};
use hydra_shared::vlm::{
    MobileVlm, PROJECTOR_PREFIX, Storage, VISION_PREFIX, Weight, WeightError, WeightSource, Weights,
};

use super::checkpoint::{Checkpoint, CheckpointWeights, Gguf, Llama2c, clip_tower, config_files, llama2c_tokenizer};
use super::tokenizer::{self, TOKENIZER_FILE};
use crate::digest::{hash_files, sha256_hex};
use crate::error::{Kind, ResultExt, failure};

/// Preset that the embedded base has, and the word that names it or its vision tower.
pub const TINY: &str = "tiny-mobilevlm";
/// Decoder parameters up to which single precision is affordable anywhere: 1 GiB.
pub const WIDE_PARAMETERS: u64 = 1 << 28;
/// File of the weights in a base folder.
pub const WEIGHTS_FILE: &str = "model.safetensors";

static EMBEDDED_WEIGHTS: &[u8] = include_bytes!("../../../static/tiny-mobilevlm/model.safetensors");
static EMBEDDED_TOKENIZER: &str = include_str!("../../../static/tiny-mobilevlm/tokenizer.json");

/// What a base model is made of.
#[derive(Debug, Clone, Default)]
pub struct BaseParts<'a> {
    /// Folder of a checkpoint, or file of a GGUF or llama2.c decoder; without it the embedded tiny MobileVLM.
    pub model: Option<&'a Path>,
    /// Folder of a CLIP checkpoint whose vision tower is used, or [`TINY`].
    pub vision_tower: Option<&'a Path>,
    /// A new projector of this kind, in place of the model's own.
    pub projector: Option<ProjectorKind>,
    /// A file with the projector's weights, such as MobileVLM's `mm_projector.bin` or this program's
    /// `non_lora_trainables.safetensors`.
    pub projector_weights: Option<&'a Path>,
    /// How frozen weights are stored; none leaves it to the model's size: single precision up to [`WIDE_PARAMETERS`]
    /// parameters, and what the checkpoint has beyond.
    pub storage: Option<Storage>,
}

/// A pretrained base model on the device.
pub struct Base {
    /// Shapes.
    pub spec: ModelSpec,
    /// The modules that can get ranks.
    pub layout: Arc<Layout>,
    /// The model, nothing in it tracked.
    pub model: MobileVlm,
    /// How its frozen matrices are stored.
    pub storage: Storage,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// SHA-256 of the weights: which base an adapter belongs to. Of several files, that of their hashes.
    pub sha256: String,
    /// Configuration and tokenizer files, which go with the weights wherever they are written.
    pub files: Vec<(String, Vec<u8>)>,
}

/// A model that is being put together.
struct Assembly {
    spec: ModelSpec,
    tokenizer: Tokenizer,
    sources: Sources,
    /// The precision that the decoder has on the disk.
    precision: Storage,
    hashes: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
}

impl Base {
    /// The tiny MobileVLM that this project pretrained (`trainer pretrain`).
    ///
    /// # Errors
    /// Never, unless the program was built from damaged files.
    pub fn embedded(device: &Device) -> Result<Self> {
        Self::open(&BaseParts::default(), device)
    }

    /// Puts the parts together on a device.
    ///
    /// # Errors
    /// Files that are missing, damaged, of another model, or do not belong together.
    pub fn open(parts: &BaseParts<'_>, device: &Device) -> Result<Self> {
        let origin = parts.model.map_or_else(|| format!("the embedded {TINY}"), |path| path.display().to_string());
        let mut assembly = match parts.model {
            None => embedded()?,
            Some(path) if path.as_os_str() == TINY => embedded()?,
            Some(path) if path.is_dir() => folder(path, parts)?,
            Some(path) => file(path)?,
        };
        let tower_is_in = parts.model.is_some_and(Path::is_dir);
        if let Some(tower) = parts.vision_tower.filter(|tower| !tower_is_in || tower.as_os_str() == TINY) {
            assembly.take_tower(tower)?;
        }
        assembly.take_projector(parts)?;
        let Assembly { spec, tokenizer, sources, precision, hashes, files } = assembly;
        let storage = storage(parts.storage, precision, &spec, device)?;
        check_vocabulary(&spec, &tokenizer, &origin).or_fail(Kind::Data, || origin.clone())?;
        let tokenizer = tokenizer.with_rows(spec.decoder.vocab);
        let model = MobileVlm::load_as(&spec, sources, device, storage).or_fail(Kind::Data, || origin.clone())?;
        let sha256 = match hashes.as_slice() {
            [only] => only.clone(),
            several => sha256_hex(several.concat().as_bytes()),
        };
        let layout = spec.layout()?;
        Ok(Self { spec, layout, model, storage, tokenizer, sha256, files })
    }
}

impl Assembly {
    /// Takes the vision tower of another model.
    fn take_tower(&mut self, tower: &Path) -> Result<()> {
        self.sources.discard(VISION_PREFIX);
        if tower.as_os_str() == TINY {
            self.spec.vision = ModelSpec::preset(TINY)?.vision;
            let mut weights = Weights::from_safetensors(EMBEDDED_WEIGHTS)?;
            weights.tensors.retain(|name, _| name.starts_with(VISION_PREFIX));
            self.hashes.push(sha256_hex(EMBEDDED_WEIGHTS));
            self.sources.0.push(Box::new(weights));
        } else {
            let (config, weights) = clip_tower(tower)?;
            self.spec =
                self.spec.clone().with_vision_config(&config).or_fail(Kind::Data, || tower.display().to_string())?;
            self.hashes.extend(hash_files(weights.paths())?);
            self.sources.0.push(Box::new(weights));
        }
        self.files = config_files(&self.spec, std::mem::take(&mut self.files));
        Ok(())
    }

    /// Decides where the projector comes from.
    fn take_projector(&mut self, parts: &BaseParts<'_>) -> Result<()> {
        let replaced = parts.projector.is_some() || parts.projector_weights.is_some();
        let Some(vision) = &self.spec.vision else {
            if replaced {
                let message = "a projector needs a vision tower to read from: name one with --vision-tower";
                return Err(failure(Kind::Usage, message));
            }
            return Ok(());
        };
        let own = self.sources.names().iter().any(|name| name.starts_with(PROJECTOR_PREFIX));
        if own && !replaced {
            let width = self.spec.projector.as_ref().map(|projector| projector.vision_hidden);
            if width != Some(vision.hidden) {
                let message = format!(
                    "the model's projector reads features of width {}, the vision tower has {}; make a new projector with \
                     --set projector=ldpnetv2, or take another tower",
                    width.unwrap_or(0),
                    vision.hidden
                );
                return Err(failure(Kind::Data, message));
            }
            return Ok(());
        }
        let declared = self.spec.projector.as_ref().map(|projector| projector.kind);
        let kind = parts.projector.or(declared).unwrap_or(ProjectorKind::Ldpnetv2);
        let spec = ProjectorSpec { kind, vision_hidden: vision.hidden, hidden: self.spec.decoder.hidden };
        self.sources.discard(PROJECTOR_PREFIX);
        match parts.projector_weights {
            Some(path) => {
                let mut weights = CheckpointWeights::open_file(path)?;
                weights.rename(|name| plain_name(name).to_owned());
                self.hashes.extend(hash_files([path])?);
                self.sources.0.push(Box::new(weights));
            }
            None => {
                let weights = random_projector(&spec, 1);
                self.hashes.push(sha256_hex(&weights.to_safetensors(hydra_shared::vlm::Precision::F32)?));
                self.sources.0.push(Box::new(weights));
            }
        }
        self.spec.projector = Some(spec);
        self.files = config_files(&self.spec, std::mem::take(&mut self.files));
        Ok(())
    }
}

fn embedded() -> Result<Assembly> {
    let spec = ModelSpec::preset(TINY)?;
    let tokenizer = Tokenizer::from_json(EMBEDDED_TOKENIZER, SpecialTokens::default())?;
    let files = vec![(TOKENIZER_FILE.to_owned(), EMBEDDED_TOKENIZER.as_bytes().to_vec())];
    Ok(Assembly {
        files: config_files(&spec, files),
        sources: Sources(vec![Box::new(Weights::from_safetensors(EMBEDDED_WEIGHTS)?)]),
        precision: Storage::F32,
        hashes: vec![sha256_hex(EMBEDDED_WEIGHTS)],
        tokenizer,
        spec,
    })
}

fn folder(path: &Path, parts: &BaseParts<'_>) -> Result<Assembly> {
    let tower = parts.vision_tower.filter(|tower| tower.as_os_str() != TINY);
    let Checkpoint { spec, weights } = Checkpoint::open_with(path, tower, parts.projector.is_none())?;
    let tokenizer = tokenizer::open(path)?;
    let hashes = hash_files(weights.paths())?;
    let precision = weights.precision();
    let files = tokenizer::beside(path)?;
    let files = if tower.is_some() { config_files(&spec, files) } else { files };
    Ok(Assembly { spec, tokenizer, sources: Sources(vec![Box::new(weights)]), precision, hashes, files })
}

fn file(path: &Path) -> Result<Assembly> {
    if !path.is_file() {
        return Err(failure(
            Kind::Data,
            format!(
                "{}: no such file or folder; a base is the folder of a Hugging Face checkpoint, a .gguf, a .bin of \
                 llama2.c, or {TINY}",
                path.display()
            ),
        ));
    }
    if path.extension().is_some_and(|extension| extension == "json") {
        let problem = "this is no file of weights, which are needed here; give the folder of the checkpoint";
        return Err(failure(Kind::Data, format!("{}: {problem}", path.display())));
    }
    let hashes = hash_files([path])?;
    let folder = path.parent().unwrap_or(Path::new(""));
    // What lies beside is another model's as soon as a folder holds two.
    let beside = |error: anyhow::Error| {
        if folder.join(TOKENIZER_FILE).is_file() { tokenizer::open(folder) } else { Err(error) }
    };
    let (spec, tokenizer, precision, source): (ModelSpec, Tokenizer, Storage, Box<dyn WeightSource>) =
        if path.extension().is_some_and(|extension| extension == "gguf") {
            let gguf = Gguf::open(path)?;
            (gguf.spec().clone(), gguf.tokenizer().or_else(beside)?, gguf.precision(), Box::new(gguf))
        } else {
            let model = Llama2c::open(path)?;
            let tokenizer = llama2c_tokenizer(path, model.spec().decoder.vocab).or_else(beside)?;
            (model.spec().clone(), tokenizer, Storage::F32, Box::new(model))
        };
    let files = vec![(TOKENIZER_FILE.to_owned(), tokenizer.to_json()?.into_bytes())];
    let files = tokenizer::with_special_tokens(files, &tokenizer);
    Ok(Assembly {
        files: config_files(&spec, files),
        tokenizer,
        sources: Sources(vec![source]),
        precision,
        hashes,
        spec,
    })
}

/// How the matrices are stored.
fn storage(asked: Option<Storage>, precision: Storage, spec: &ModelSpec, device: &Device) -> Result<Storage> {
    let possible = |storage: Storage| match storage {
        Storage::F32 => true,
        Storage::F16 => device.supports_dtype(DType::F16),
        Storage::Bf16 => device.supports_dtype(DType::BF16),
    };
    match asked {
        Some(storage) if possible(storage) => Ok(storage),
        Some(storage) => Err(failure(
            Kind::Usage,
            format!("this device cannot hold weights in {storage:?}; set storage=f32, or choose another --device"),
        )),
        None if spec.decoder_parameters() > WIDE_PARAMETERS && possible(precision) => Ok(precision),
        None => Ok(Storage::F32),
    }
}

/// A vocabulary that is far larger or smaller than the model's embedding is another model's. A few tokens more are a warning:
/// there are models that never see their last ones, and text that holds one is refused.
fn check_vocabulary(spec: &ModelSpec, tokenizer: &Tokenizer, origin: &str) -> Result<()> {
    let (tokens, rows) = (tokenizer.vocab(), spec.decoder.vocab);
    let special = [Some(tokenizer.eos()), tokenizer.bos()].into_iter().flatten();
    let beyond = special.filter_map(|id| usize::try_from(id).ok()).find(|id| *id >= rows);
    if let Some(id) = beyond {
        let problem =
            format!("the token {id}, which begins or ends texts, is beyond the {rows} rows of the model's embedding");
        return Err(failure(Kind::Data, problem));
    }
    if tokens > rows && 4 * tokens <= 5 * rows {
        tracing::warn!(
            "{origin}: the tokenizer has {tokens} tokens, the model {rows}: text with one of the last is refused"
        );
        return Ok(());
    }
    // Some models round their embedding up, none by a tenth.
    if tokens > rows || 10 * tokens < 9 * rows {
        return Err(failure(
            Kind::Data,
            format!("the tokenizer has {tokens} tokens, the model {rows}: they do not belong together"),
        ));
    }
    Ok(())
}

/// Weights from several places; a name is taken from the first that has it.
struct Sources(Vec<Box<dyn WeightSource>>);

impl Sources {
    /// Forgets the weights whose names begin so.
    fn discard(&mut self, prefix: &str) {
        for source in &mut self.0 {
            source.discard(prefix);
        }
    }
}

impl WeightSource for Sources {
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.0.iter().flat_map(|source| source.names()).collect();
        names.sort();
        names
    }

    fn take(&mut self, name: &str) -> Result<Option<Weight>, WeightError> {
        for source in &mut self.0 {
            if let Some(weight) = source.take(name)? {
                return Ok(Some(weight));
            }
        }
        Ok(None)
    }

    fn discard(&mut self, prefix: &str) {
        Self::discard(self, prefix);
    }
}

/// The kind of projector that a configuration names.
///
/// # Errors
/// A word that is none.
pub fn projector_kind(name: &str) -> Result<ProjectorKind> {
    ProjectorKind::from_name(name).ok_or_else(|| {
        failure(
            Kind::Usage,
            format!(
                "projector: {name:?} is none; known are ldpnet, ldpnetv2, linear and mlp2x_gelu (any number of layers)"
            ),
        )
    })
}
