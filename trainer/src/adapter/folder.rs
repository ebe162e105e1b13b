//! Trained adapters as folders that PEFT loads, with the projector beside them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use hydra_shared::adapter::{
    Adapter, AdapterFolder, CONFIG_FILE, FitError, PROJECTOR_FILE, StrangeNames, in_one_rank, is_lora, plain_name,
    schedule_in_one_rank,
};
use hydra_shared::layout::Catalog;
use hydra_shared::schedule::{Budget, Provenance, RankSchedule};
use hydra_shared::vlm::spec::End;
use hydra_shared::vlm::{MobileVlm, PROJECTOR_PREFIX, Precision, Weights};

use super::peft::{self, BASE_FILE, CARD_FILE, SCHEDULE_FILE};
use crate::error::{Kind, ResultExt, failure};
use crate::model::base::{Base, TINY, WEIGHTS_FILE};
use crate::model::recipe::Recipe;
use crate::runs::atomic::{Existing, write_folder};

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
        Recipe::Lora { scale_of: Some(_), .. } => Err(failure(
            Kind::Usage,
            "the scales of this adapter are those of other ranks, which a schedule cannot say; only experiments compare it",
        )),
        Recipe::Lora { ranks, scale, scale_of: None } => {
            // A schedule from elsewhere may use more than this configuration allows: it is its own budget then.
            let budget = budget.raised_to(ranks);
            let provenance = Provenance { command: "trainer train".to_owned(), inputs: Vec::new(), seed: Some(seed) };
            let schedule = RankSchedule::new(ranks.clone(), base_rank, *scale, budget, provenance)?;
            let mut adapter = pollster::block_on(model.adapter_folder(&schedule))?;
            adapter.beside.extend([
                (SCHEDULE_FILE.to_owned(), schedule.to_json()?.into_bytes()),
                (BASE_FILE.to_owned(), format!("{}\n", base.sha256).into_bytes()),
                (CARD_FILE.to_owned(), card(base, &schedule).into_bytes()),
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
fn card(base: &Base, schedule: &RankSchedule) -> String {
    format!(
        "---\nbase_model: {}\nlibrary_name: peft\ntags:\n- lora\n- hydra\n---\n\nLoRA with {} trainable parameters \
         in mixed ranks (`rank_pattern`), made by HyDRA's trainer. Base weights: sha256 {}. The projector that was trained with it is in \
         `{PROJECTOR_FILE}`.\n",
        base.spec.name,
        schedule.ranks.parameters(),
        base.sha256
    )
}

/// An adapter with what lies beside it, as PEFT has it: names of the file, full names where the configuration had old ones.
pub fn as_it_is(adapter: &Adapter, beside: BTreeMap<String, Vec<u8>>) -> AdapterFolder {
    let mut weights = adapter.weights.clone();
    weights.tensors.extend(adapter.outside.tensors.clone());
    AdapterFolder { config: adapter.config.clone(), weights, beside, names: StrangeNames::default() }
}

/// An adapter in one rank: see [`in_one_rank`]. Schedule and card beside it say so.
///
/// # Errors
/// A schedule that is damaged.
pub fn uniform(adapter: &Adapter, mut beside: BTreeMap<String, Vec<u8>>, place: &str) -> Result<AdapterFolder> {
    let one = in_one_rank(adapter).or_fail(Kind::Data, || place.to_owned())?;
    if let Some(schedule) = schedule_of(&beside, place)? {
        let uniform = schedule_in_one_rank(&schedule, &one).or_fail(Kind::Data, || place.to_owned())?;
        beside.insert(SCHEDULE_FILE.to_owned(), uniform.to_json()?.into_bytes());
    }
    if let Some(card) = beside.get_mut(CARD_FILE) {
        let rank = one.rank;
        card.extend(format!("\nThis copy is padded with zeros to rank {rank} in every module.\n").into_bytes());
    }
    Ok(AdapterFolder { config: one.config, weights: one.weights, beside, names: StrangeNames::default() })
}

/// Binds an adapter to a model's matrices. Where these are the embedded model's, which is taken where none is named, a failure says
/// how to name another.
///
/// # Errors
/// Configuration and tensors that contradict each other, kinds of adapters other than plain LoRA, modules that the model does
/// not have.
pub fn fit(files: AdapterFolder, model: &Catalog, place: &str) -> Result<Adapter> {
    let embedded = model.decoder().model() == TINY;
    files.fit(model).map_err(|error| match error {
        error @ FitError::Problems(_) if embedded => {
            let remedy = format!("without --base the model is the embedded {TINY}; name the adapter's own with --base");
            failure(Kind::Data, format!("{place}: {error}; {remedy}"))
        }
        error => failure(Kind::Data, format!("{place}: {error}")),
    })
}

/// The base model with the adapter of a folder, and with the projector that may lie beside it.
///
/// # Errors
/// A folder that is none, damaged files, an adapter for another base, one that changes more than the decoder.
pub fn open(folder: &Path, base: &Base) -> Result<MobileVlm> {
    let place = folder.display().to_string();
    let files = peft::read(folder)?;
    let trained_on = files.beside.get(BASE_FILE).map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned());
    if trained_on.is_some_and(|sha256| sha256 != base.sha256) {
        return Err(failure(
            Kind::Data,
            format!("{place}: this adapter was trained on another base model; name that base with --set base=FOLDER"),
        ));
    }
    let beside = files.beside.clone();
    let adapter = fit(files, &base.spec.layout()?.into(), &place)?;
    agree(&adapter, &beside, &place)?;
    let is_end = |name: &str| {
        let is_named = End::ALL.iter().any(|end| base.spec.end_name(*end) == name);
        is_named && !base.spec.decoder.tied_embeddings && adapter.outside_module(name).is_some()
    };
    if let Some(names) = adapter.beside(|name| !is_end(name)) {
        let message = format!(
            "{place}: this adapter changes more than the decoder's projections, embedding and head, which cannot be run \
             here: {names}"
        );
        return Err(failure(Kind::Data, message));
    }
    let mut model = base.model_of(&Recipe::Base, 0, None)?;
    if let Some(bytes) = beside.get(PROJECTOR_FILE) {
        let projector = Weights::from_safetensors(bytes).or_fail(Kind::Data, || format!("{place}/{PROJECTOR_FILE}"))?;
        let plain = |(name, weight): (String, _)| (plain_name(&name).to_owned(), weight);
        let projector = Weights { tensors: projector.tensors.into_iter().map(plain).collect() };
        model = model.with_weights(projector).or_fail(Kind::Data, || format!("{place}/{PROJECTOR_FILE}"))?;
    }
    model.with_adapter(adapter).or_fail(Kind::Data, || place)
}

/// Checks that the ranks and scales of an adapter are those of the schedule that may lie beside it.
///
/// # Errors
/// Another rank or scale: one of the two was changed.
pub fn agree(adapter: &Adapter, beside: &BTreeMap<String, Vec<u8>>, place: &str) -> Result<()> {
    let Some(schedule) = schedule_of(beside, place)? else { return Ok(()) };
    for (module, rank) in schedule.ranks.iter() {
        let scale = schedule.scale.scale(rank);
        let own = adapter.module(&module.name).or_else(|| adapter.outside_module(&module.name));
        let same = match own {
            Some((own, own_scale)) => own == rank && (own_scale - scale).abs() <= 1e-6 * scale.abs(),
            None => rank == 0,
        };
        if !same {
            let name = &module.name;
            return Err(failure(
                Kind::Data,
                format!(
                    "{place}: {CONFIG_FILE} and {SCHEDULE_FILE} disagree on {name}: one of them was changed since the \
                     training; if {CONFIG_FILE} is meant, remove {SCHEDULE_FILE}"
                ),
            ));
        }
    }
    Ok(())
}

/// The schedule that an adapter was trained under, where it lies beside it.
fn schedule_of(beside: &BTreeMap<String, Vec<u8>>, place: &str) -> Result<Option<RankSchedule>> {
    let Some(bytes) = beside.get(SCHEDULE_FILE) else { return Ok(None) };
    let schedule = RankSchedule::from_json(&String::from_utf8_lossy(bytes));
    schedule.map(Some).or_fail(Kind::Data, || format!("{place}/{SCHEDULE_FILE}"))
}
