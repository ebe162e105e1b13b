//! Trained adapters as folders that PEFT loads, with the projector beside them.

use std::path::Path;

use anyhow::Result;
use hydra_shared::adapter::{PeftConfig, PeftOptions};
use hydra_shared::schedule::{Budget, Provenance, RankSchedule};
use hydra_shared::vlm::{MobileVlm, PROJECTOR_PREFIX, Precision, Weights};

use crate::base::{TOKENIZER_FILE, WEIGHTS_FILE};
use crate::error::{Kind, ResultExt, failure};
use crate::experiment::{Job, Recipe, Workbench};
use crate::peft_folder::{ADAPTER_FILE, CONFIG_FILE, PEFT_PREFIX};
use crate::runs::atomic::{Existing, read_folder, write_folder};

/// The projector, which MobileVLM trains beside the adapters and saves apart.
const PROJECTOR_FILE: &str = "non_lora_trainables.safetensors";
/// The ranks, with where they came from.
const SCHEDULE_FILE: &str = "schedule.json";

/// Writes what a job trained: an adapter folder for LoRA, a base folder for full fine-tuning.
///
/// # Errors
/// A disk that cannot be written.
pub fn save(folder: &Path, bench: &Workbench, job: &Job, model: &MobileVlm) -> Result<()> {
    match &job.recipe {
        Recipe::Base => Ok(()),
        Recipe::Full => save_base(folder, bench, model),
        Recipe::Lora { ranks, scale } => {
            let budget = match bench.budget() {
                // A schedule from elsewhere may use more than this configuration allows: it is its own budget then.
                budget if budget.used(bench.spec(), ranks) <= budget.allowed => budget,
                budget => Budget { allowed: budget.used(bench.spec(), ranks), ..budget },
            };
            let base_rank = bench.config.plan.base_rank;
            let provenance =
                Provenance { command: "trainer train".to_owned(), inputs: Vec::new(), seed: Some(job.seed) };
            let schedule = RankSchedule::new(bench.spec(), ranks, base_rank, *scale, budget, provenance)?;
            let options = PeftOptions { base_model: Some(bench.spec().name.clone()), ..PeftOptions::default() };
            let read = |keep: fn(&str) -> bool| pollster::block_on(model.names().read(model, keep));
            let lora = read(|name| name.contains(".lora_"))?;
            let projector = read(|name| name.starts_with(PROJECTOR_PREFIX))?;
            let prefixed = Weights {
                tensors: lora.tensors.into_iter().map(|(name, w)| (format!("{PEFT_PREFIX}{name}"), w)).collect(),
            };
            let card = format!(
                "---\nbase_model: {}\nlibrary_name: peft\ntags:\n- lora\n- hydra\n---\n\nLoRA with {} trainable \
                 parameters in mixed ranks (`rank_pattern`), made by HyDRA's trainer. Base weights: sha256 {}. The \
                 projector that was trained with it is in `{PROJECTOR_FILE}`.\n",
                bench.spec().name,
                schedule.trainable_parameters(),
                job.base
            );
            write_folder(
                folder,
                &[
                    (CONFIG_FILE, PeftConfig::new(&schedule, &options).to_json()?.as_bytes()),
                    (ADAPTER_FILE, &prefixed.to_safetensors(Precision::F32)?),
                    (PROJECTOR_FILE, &projector.to_safetensors(Precision::F32)?),
                    (SCHEDULE_FILE, schedule.to_json()?.as_bytes()),
                    ("base.sha256", format!("{}\n", job.base).as_bytes()),
                    ("README.md", card.as_bytes()),
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
pub fn save_base(folder: &Path, bench: &Workbench, model: &MobileVlm) -> Result<()> {
    let model = model.clone().merged();
    let weights = pollster::block_on(model.names().read(&model, |name| !name.contains(".lora_")))?;
    write_folder(
        folder,
        &[
            (WEIGHTS_FILE, &weights.to_safetensors(Precision::F32)?),
            (TOKENIZER_FILE, bench.base.tokenizer.to_json()?.as_bytes()),
        ],
        Existing::Replace,
    )
}

/// The base model with the adapter (and projector) of a folder that [`save`] wrote.
///
/// # Errors
/// A folder that is none, damaged files, an adapter for another base.
pub fn open(folder: &Path, bench: &Workbench) -> Result<(Recipe, MobileVlm)> {
    let place = folder.display().to_string();
    let mut files = read_folder(folder).or_fail(Kind::Data, || {
        format!("{place}: this is no adapter folder that `trainer train` wrote, or it is damaged")
    })?;
    let mut take = |name: &str| {
        files.remove(name).ok_or_else(|| failure(Kind::Data, format!("{place}: {name} is missing; train again")))
    };
    let base = String::from_utf8(take("base.sha256")?)?;
    if base.trim() != bench.base.sha256 {
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
    let recipe = Recipe::Lora { ranks: schedule.rank_list(), scale: schedule.scale };
    let model = bench.model_of(&recipe, 0, Some(trained)).or_fail(Kind::Data, || place.clone())?;
    Ok((recipe, model))
}
