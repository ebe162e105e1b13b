//! Trained adapters as folders that PEFT loads, with the projector beside them.

use std::path::Path;

use anyhow::Result;
use hydra_shared::adapter::{ADAPTER_FILE, CONFIG_FILE, PEFT_PREFIX, PROJECTOR_FILE, PeftConfig, PeftOptions};
use hydra_shared::layout::Ranks;
use hydra_shared::schedule::{Budget, Provenance, RankSchedule, ScalePolicy};
use hydra_shared::vlm::{MobileVlm, PROJECTOR_PREFIX, Precision, Weight, Weights, adapter_names};

use crate::error::{Kind, ResultExt, failure};
use crate::model::base::{Base, WEIGHTS_FILE};
use crate::model::recipe::Recipe;
use crate::runs::atomic::{Existing, read_folder, write_folder};

/// What a person reads first.
const CARD_FILE: &str = "README.md";
/// The ranks, with where they came from.
const SCHEDULE_FILE: &str = "schedule.json";

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
            let options = PeftOptions { base_model: Some(base.spec.name.clone()), ..PeftOptions::default() };
            let read = |keep: fn(&str) -> bool| pollster::block_on(model.names().read(model, keep));
            let lora = read(|name| name.contains(".lora_"))?;
            let projector = read(|name| name.starts_with(PROJECTOR_PREFIX))?;
            let prefixed = Weights {
                tensors: lora.tensors.into_iter().map(|(name, w)| (format!("{PEFT_PREFIX}{name}"), w)).collect(),
            };
            write_folder(
                folder,
                &[
                    (CONFIG_FILE, PeftConfig::new(&schedule, &options).to_json()?.as_bytes()),
                    (ADAPTER_FILE, &prefixed.to_safetensors(Precision::F32)?),
                    (PROJECTOR_FILE, &projector.to_safetensors(Precision::F32)?),
                    (SCHEDULE_FILE, schedule.to_json()?.as_bytes()),
                    ("base.sha256", format!("{}\n", base.sha256).as_bytes()),
                    (CARD_FILE, card(base, &schedule, "in mixed ranks (`rank_pattern`)").as_bytes()),
                ],
                Existing::Replace,
            )
        }
    }
}

/// Writes a whole model as a base folder, adapters merged into its weights.
///
/// # Errors
/// A disk that cannot be written.
pub fn save_base(folder: &Path, base: &Base, model: &MobileVlm) -> Result<()> {
    let model = model.clone().merged();
    let weights = pollster::block_on(model.names().read(&model, |name| !name.contains(".lora_")))?;
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

/// An adapter folder's files in one rank: A's rows and B's columns are padded with zeros to the largest rank, and what
/// scales differ by is folded into B. It computes the same in every program that reads LoRA, patterns or not, for the price
/// of a larger file.
///
/// # Errors
/// A folder that is none of [`save`]'s, damaged files.
pub fn in_one_rank(folder: &Path, base: &Base) -> Result<Vec<(String, Vec<u8>)>> {
    let place = folder.display().to_string();
    let mut files = read_folder(folder).or_fail(Kind::Data, || place.clone())?;
    let file = |name: &str| files.get(name).map(Vec::as_slice).unwrap_or_default();
    let text = String::from_utf8_lossy(file(SCHEDULE_FILE));
    let schedule = RankSchedule::from_json(&text).or_fail(Kind::Data, || format!("{place}/{SCHEDULE_FILE}"))?;
    let mut weights =
        Weights::from_safetensors(file(ADAPTER_FILE)).or_fail(Kind::Data, || format!("{place}/{ADAPTER_FILE}"))?;
    let rank = schedule.ranks.largest();
    let scale = schedule.scale.scale(rank);
    for (module, own) in base.spec.modules().zip(schedule.ranks.as_slice().iter().copied()) {
        let factor = (schedule.scale.scale(own) / scale) as f32;
        let [name_a, name_b] = adapter_names(&base.spec, module);
        for (name, pad) in [(name_a, pad_rows as fn(&mut Weight, usize)), (name_b.clone(), pad_columns)] {
            let Some(weight) = weights.tensors.get_mut(&format!("{PEFT_PREFIX}{name}")) else {
                return Err(failure(Kind::Data, format!("{place}/{ADAPTER_FILE}: {name} is missing")));
            };
            if name == name_b {
                weight.values.iter_mut().for_each(|value| *value *= factor);
            }
            pad(weight, rank as usize);
        }
    }
    let ranks = Ranks::uniform(schedule.layout(), rank);
    let budget = Budget { counting: schedule.budget.counting, allowed: 0 }.raised_to(&ranks);
    let scale = ScalePolicy::Constant { factor: scale };
    let uniform = RankSchedule::new(ranks, schedule.base_rank, scale, budget, schedule.provenance.clone())?;
    let options = PeftOptions { base_model: Some(base.spec.name.clone()), ..PeftOptions::default() };
    let card = card(base, &schedule, &format!("padded with zeros to rank {rank} in every module"));
    files.insert(CARD_FILE.to_owned(), card.into_bytes());
    files.insert(CONFIG_FILE.to_owned(), PeftConfig::new(&uniform, &options).to_json()?.into_bytes());
    files.insert(ADAPTER_FILE.to_owned(), weights.to_safetensors(Precision::F32)?);
    files.insert(SCHEDULE_FILE.to_owned(), uniform.to_json()?.into_bytes());
    Ok(files.into_iter().collect())
}

/// Rows of zeros below, up to `rows`.
fn pad_rows(weight: &mut Weight, rows: usize) {
    if let [height, width] = weight.shape[..] {
        weight.values.resize(rows.max(height) * width, 0.0);
        weight.shape[0] = rows.max(height);
    }
}

/// Columns of zeros to the right, up to `columns`.
fn pad_columns(weight: &mut Weight, columns: usize) {
    if let [height, width] = weight.shape[..] {
        let wide = columns.max(width);
        let mut values = vec![0.0; height * wide];
        for (row, old) in values.chunks_mut(wide).zip(weight.values.chunks(width)) {
            row[..width].copy_from_slice(old);
        }
        *weight = Weight { shape: vec![height, wide], values };
    }
}

/// The base model with the adapter (and projector) of a folder that [`save`] wrote.
///
/// # Errors
/// A folder that is none, damaged files, an adapter for another base.
pub fn open(folder: &Path, base: &Base) -> Result<(Recipe, MobileVlm)> {
    let place = folder.display().to_string();
    let mut files = read_folder(folder).or_fail(Kind::Data, || {
        format!("{place}: this is no adapter folder that `trainer train` wrote, or it is damaged")
    })?;
    let mut take = |name: &str| {
        files.remove(name).ok_or_else(|| failure(Kind::Data, format!("{place}: {name} is missing; train again")))
    };
    let trained_on = String::from_utf8(take("base.sha256").map_err(|error| {
        error.context("a projector of stage I is no adapter: name its file with --set projector_weights=")
    })?)?;
    if trained_on.trim() != base.sha256 {
        return Err(failure(
            Kind::Data,
            format!("{place}: this adapter was trained on another base model; name that base with --set base=FOLDER"),
        ));
    }
    let text = String::from_utf8(take(SCHEDULE_FILE)?)?;
    let schedule = RankSchedule::from_json(&text).or_fail(Kind::Data, || format!("{place}/{SCHEDULE_FILE}"))?;
    let mut trained = Weights::default();
    for name in [ADAPTER_FILE, PROJECTOR_FILE] {
        let weights = Weights::from_safetensors(&take(name)?).or_fail(Kind::Data, || format!("{place}/{name}"))?;
        let plain = |(name, weight): (String, _)| (name.strip_prefix(PEFT_PREFIX).unwrap_or(&name).to_owned(), weight);
        trained.tensors.extend(weights.tensors.into_iter().map(plain));
    }
    let recipe = Recipe::Lora { ranks: schedule.ranks, scale: schedule.scale };
    let model = base.model_of(&recipe, 0, Some(trained)).or_fail(Kind::Data, || place.clone())?;
    Ok((recipe, model))
}
