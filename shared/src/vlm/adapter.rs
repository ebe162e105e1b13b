//! A model's adapter as PEFT's folder, and back.

use std::collections::BTreeMap;

use super::lora::{Adapted, adapted_modules};
use super::{AdapterShape, MobileVlm, ModelError, PROJECTOR_PREFIX};
use crate::adapter::{Adapter, AdapterFolder, LoraConfig, PROJECTOR_FILE, PeftOptions, StrangeNames, is_lora};
use crate::schedule::RankSchedule;
use crate::weights::Precision;

impl MobileVlm {
    /// What training under a schedule made, as PEFT loads it: configuration and adapters, with the projector beside them.
    ///
    /// # Errors
    /// A device that fails.
    pub async fn adapter_folder(&self, schedule: &RankSchedule) -> Result<AdapterFolder, ModelError> {
        let weights = self.names.read(self, is_lora).await?;
        let projector = self.names.read(self, |name| name.starts_with(PROJECTOR_PREFIX)).await?;
        let options = PeftOptions { base_model: Some(self.spec.name.clone()), ..PeftOptions::default() };
        let projector = projector.to_safetensors(Precision::F32)?;
        let beside = BTreeMap::from([(PROJECTOR_FILE.to_owned(), projector)]);
        Ok(AdapterFolder {
            config: LoraConfig::new(schedule, &options),
            weights,
            beside,
            names: StrangeNames::default(),
        })
    }

    /// Puts an adapter of PEFT onto the decoder: the layers' modules, and the ends where it has them.
    ///
    /// # Errors
    /// An adapter that does not fit, one that changes anything else.
    pub fn with_adapter(self, adapter: Adapter) -> Result<Self, ModelError> {
        let shape = |module: Adapted| {
            let name = module.name(&self.spec);
            let (rank, scale) = adapter.module(&name).or_else(|| adapter.outside_module(&name)).unwrap_or_default();
            AdapterShape { rank, scale }
        };
        let shapes: Vec<AdapterShape> = adapted_modules(&self.spec).map(shape).collect();
        let mut weights = adapter.weights;
        weights.tensors.extend(adapter.outside.tensors);
        self.with_adapters(&shapes, weights)
    }
}
