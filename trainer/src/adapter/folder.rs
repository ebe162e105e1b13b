//! Trained adapters as folders that PEFT loads, with the projector beside them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use hydra_shared::adapter::{
    ADAPTER_FILE, AdapterFolder, LoraConfig, PROJECTOR_FILE, PeftOptions, in_one_rank, is_lora, plain_name,
};
use hydra_shared::schedule::{Budget, Provenance, RankSchedule};
use hydra_shared::vlm::{MobileVlm, PROJECTOR_PREFIX, Precision, Weights};

use crate::error::{Kind, ResultExt, failure};
use crate::model::base::{Base, WEIGHTS_FILE};
use crate::model::recipe::Recipe;
use crate::runs::atomic::{Existing, read_folder, write_folder};

/// What a person reads first.
const CARD_FILE: &str = "README.md";
/// The ranks, with where they came from.
const SCHEDULE_FILE: &str = "schedule.json";
/// SHA-256 of the base's weights.
const BASE_FILE: &str = "base.sha256";

/// Writes what a recipe trained: an adapter folder for LoRA, a base folder for full fine-tuning. `seed` is that of the
/// fine-tune, `base_rank` and `budget` are those that its ranks were planned with.
///
/// # Errors
/// A disk that cannot be written.
pub fn save(
    folder: &Path,
    base: &Base,
    recipe: &Recipe,
    seed: u64,
    base_rank: u32,
    budget: Budget,
    model: &MobileVlm,
) -> Result<()> {
    match recipe {
        Recipe::Base => Ok(()),
        Recipe::Full => save_base(folder, base, model),
        Recipe::Projector => {
            let projector = pollster::block_on(model.names().read(model, |name| name.starts_with(PROJECTOR_PREFIX)))?;
            write_folder(folder, &[(PROJECTOR_FILE, &projector.to_safetensors(Precision::F32)?)], Existing::Replace)
        }
        Recipe::Lora { ranks, scale } => {
            // A schedule from elsewhere may use more than this configuration allows: it is its own budget then.
            let budget = budget.raised_to(ranks);
            let provenance = Provenance { command: "trainer train".to_owned(), inputs: Vec::new(), seed: Some(seed) };
            let schedule = RankSchedule::new(ranks.clone(), base_rank, *scale, budget, provenance)?;
            let mut adapter = pollster::block_on(model.adapter_folder(&schedule))?;
            adapter.beside.extend([
                (SCHEDULE_FILE.to_owned(), schedule.to_json()?.into_bytes()),
                (BASE_FILE.to_owned(), format!("{}\n", base.sha256).into_bytes()),
                (CARD_FILE.to_owned(), card(base, &schedule, "in mixed ranks (`rank_pattern`)").into_bytes()),
            ]);
            write(folder, &adapter, Existing::Replace)
        }
    }
}

/// Writes an adapter folder.
///
/// # Errors
/// A disk that cannot be written; a folder that exists, where `existing` says to refuse.
pub fn write(folder: &Path, adapter: &AdapterFolder, existing: Existing) -> Result<()> {
    let files = adapter.to_files()?;
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    write_folder(folder, &files, existing)
}

/// Writes a whole model as a base folder, adapters merged into its weights.
///
/// # Errors
/// A disk that cannot be written.
pub fn save_base(folder: &Path, base: &Base, model: &MobileVlm) -> Result<()> {
    let model = model.clone().merged();
    let weights = pollster::block_on(model.names().read(&model, |name| !is_lora(name)))?;
    let weights = weights.to_safetensors(Precision::F32)?;
    let companions = base.files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
    let files: Vec<(&str, &[u8])> = companions.chain([(WEIGHTS_FILE, weights.as_slice())]).collect();
    write_folder(folder, &files, Existing::Replace)
}

/// The model card.
fn card(base: &Base, schedule: &RankSchedule, ranks: &str) -> String {
    format!(
        "---\nbase_model: {}\nlibrary_name: peft\ntags:\n- lora\n- hydra\n---\n\nLoRA with {} trainable parameters \
         {ranks}, made by HyDRA's trainer. Base weights: sha256 {}. The projector that was trained with it is in \
         `{PROJECTOR_FILE}`.\n",
        base.spec.name,
        schedule.ranks.parameters(),
        base.sha256
    )
}

/// The adapter of a folder that [`save`] wrote, in one rank: see [`in_one_rank`]. Schedule, configuration and card say so.
///
/// # Errors
/// A folder that is none of [`save`]'s, damaged files.
pub fn uniform(folder: &Path, base: &Base) -> Result<AdapterFolder> {
    let place = folder.display().to_string();
    let files = read_folder(folder).or_fail(Kind::Data, || place.clone())?;
    let mut adapter = AdapterFolder::from_files(files).or_fail(Kind::Data, || place.clone())?;
    let schedule = schedule_of(&adapter, &place)?;
    let uniform =
        in_one_rank(&mut adapter.weights, &schedule).or_fail(Kind::Data, || format!("{place}/{ADAPTER_FILE}"))?;
    let options = PeftOptions { base_model: Some(base.spec.name.clone()), ..PeftOptions::default() };
    let rank = uniform.ranks.largest();
    let card = card(base, &schedule, &format!("padded with zeros to rank {rank} in every module"));
    adapter.config = LoraConfig::new(&uniform, &options);
    adapter.beside.insert(CARD_FILE.to_owned(), card.into_bytes());
    adapter.beside.insert(SCHEDULE_FILE.to_owned(), uniform.to_json()?.into_bytes());
    Ok(adapter)
}

/// The base model with the adapter (and projector) of a folder that [`save`] wrote.
///
/// # Errors
/// A folder that is none, damaged files, an adapter for another base.
pub fn open(folder: &Path, base: &Base) -> Result<(Recipe, MobileVlm)> {
    let place = folder.display().to_string();
    let files = read_folder(folder).or_fail(Kind::Data, || {
        format!("{place}: this is no adapter folder that `trainer train` wrote, or it is damaged")
    })?;
    let trained_on = file(&files, BASE_FILE, &place).map_err(|error| {
        error.context("a projector of stage I is no adapter: name its file with --set projector_weights=")
    })?;
    if String::from_utf8_lossy(trained_on).trim() != base.sha256 {
        return Err(failure(
            Kind::Data,
            format!("{place}: this adapter was trained on another base model; name that base with --set base=FOLDER"),
        ));
    }
    let adapter = AdapterFolder::from_files(files).or_fail(Kind::Data, || place.clone())?;
    let RankSchedule { ranks, scale, .. } = schedule_of(&adapter, &place)?;
    let projector = Weights::from_safetensors(file(&adapter.beside, PROJECTOR_FILE, &place)?)
        .or_fail(Kind::Data, || format!("{place}/{PROJECTOR_FILE}"))?;
    let mut trained = adapter.weights;
    let plain = |(name, weight): (String, _)| (plain_name(&name).to_owned(), weight);
    trained.tensors.extend(projector.tensors.into_iter().map(plain));
    let recipe = Recipe::Lora { ranks, scale };
    let model = base.model_of(&recipe, 0, Some(trained)).or_fail(Kind::Data, || place.clone())?;
    Ok((recipe, model))
}

/// The schedule that an adapter was trained under.
fn schedule_of(adapter: &AdapterFolder, place: &str) -> Result<RankSchedule> {
    let text = String::from_utf8_lossy(file(&adapter.beside, SCHEDULE_FILE, place)?);
    RankSchedule::from_json(&text).or_fail(Kind::Data, || format!("{place}/{SCHEDULE_FILE}"))
}

fn file<'a>(files: &'a BTreeMap<String, Vec<u8>>, name: &str, place: &str) -> Result<&'a [u8]> {
    let bytes =
        files.get(name).ok_or_else(|| failure(Kind::Data, format!("{place}: {name} is missing; train again")))?;
    Ok(bytes)
}
