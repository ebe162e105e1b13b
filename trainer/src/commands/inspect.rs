//! `trainer inspect`: what a model looks like to HyDRA, and what LoRA costs on it.

use hydra_shared::layout::{Kind, Layout, ModuleShape, Projection};
use hydra_shared::names::first_names;
use hydra_shared::vlm::spec::{DecoderSpec, ModelConfig, ProjectorKind, VisionSpec};
use indexmap::IndexMap;
use serde::Serialize;

use super::common::Context;
use crate::model::spec;
use crate::output::{table, thousands};

const AFTER_HELP: &str = "\
Examples:
  trainer inspect --model mobilevlm-1.7b --base-rank 128
  trainer inspect --model path/to/config.json --base-rank 16 --json
  trainer inspect --model path/to/model.safetensors.index.json --base-rank 16

Of a checkpoint only the headers are read: any model whose layers hold two-dimensional weights can be shown and planned. What
is missing in a config.json is transformers' default for its model_type, and said.";

/// Show a model's layers, module shapes, and what LoRA costs on it
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// A preset, a Hugging Face config.json, a checkpoint (model.safetensors or its index), or the folder of either
    #[arg(long, value_name = "PRESET|FILE")]
    pub model: String,
    /// Rank of uniform LoRA, which sets the budget
    #[arg(long, value_name = "R", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub base_rank: u32,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// Preset name, or the model's name in its configuration.
    pub model: String,
    /// Rank of uniform LoRA.
    pub base_rank: u32,
    /// Parameters of the decoder.
    pub decoder_parameters: u64,
    /// Trainable parameters of uniform LoRA at the base rank: the budget.
    pub lora_parameters: u64,
    /// `lora_parameters` over `decoder_parameters`, in percent.
    pub lora_percent_of_decoder: f64,
    /// Size of the LoRA parameters in bfloat16, in MiB.
    pub lora_mib_bf16: f64,
    /// Parameters of the projector, where the model has one and its construction is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projector_parameters: Option<u64>,
    /// Parameters of the vision tower, where the model has one and its shapes are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vision_parameters: Option<u64>,
    /// Everything that is known together.
    pub total_parameters: u64,
    /// Path of the decoder layers in the module tree.
    pub layers_path: String,
    /// The decoder's configuration.
    pub decoder: DecoderDocument,
    /// The vision tower's configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vision: Option<VisionSpec>,
    /// The projector's construction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projector: Option<ProjectorKind>,
    /// Trainable parameters of one rank unit in every module of one layer.
    pub layer_rank_unit_cost: u64,
    /// The projections of a layer; the same in every layer.
    pub projections: Vec<ProjectionCost>,
}

/// The decoder's configuration, and what of it is not LLaMA's.
#[derive(Debug, Serialize)]
pub struct DecoderDocument {
    #[serde(flatten)]
    spec: DecoderSpec,
    /// Parameters of each layer's norms beyond LLaMA's two.
    extra_norms: usize,
    /// What its layers compute other than LLaMA's, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    differs: Option<String>,
}

/// One projection of a layer.
#[derive(Debug, Serialize)]
pub struct ProjectionCost {
    /// `q`, `k`, …
    pub name: &'static str,
    /// Module of layer 0 as PEFT names it.
    pub module: String,
    /// Input width.
    pub d_in: usize,
    /// Output width.
    pub d_out: usize,
    /// Trainable parameters of one rank unit: d_in + d_out.
    pub rank_unit_cost: u64,
    /// Trainable parameters at the base rank.
    pub parameters: u64,
}

/// What `--json` prints of a model whose layers differ, or of which only the tensors are known.
#[derive(Debug, Serialize)]
struct CheckpointInspection {
    model: String,
    base_rank: u32,
    /// Parameters of all tensors of the language model.
    #[serde(skip_serializing_if = "Option::is_none")]
    decoder_parameters: Option<u64>,
    /// Trainable parameters of uniform LoRA at the base rank on every module: the budget.
    lora_parameters: u64,
    lora_mib_bf16: f64,
    /// Path of the layers in the module tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    layers_path: Option<String>,
    layers: usize,
    /// Modules that can get ranks.
    modules: usize,
    /// The modules by kind and shape.
    kinds: Vec<KindCost>,
}

/// Modules of one kind and shape.
#[derive(Debug, Serialize)]
struct KindCost {
    name: String,
    /// The first of them.
    module: String,
    /// How many there are.
    count: u64,
    d_in: usize,
    d_out: usize,
    rank_unit_cost: u64,
    /// Trainable parameters of all of them at the base rank.
    parameters: u64,
}

impl CheckpointInspection {
    fn new(layout: &Layout, base_rank: u32) -> Self {
        let mut kinds: IndexMap<(&Kind, ModuleShape), KindCost> = IndexMap::new();
        for module in layout.modules() {
            let cost = module.rank_unit_cost();
            let entry = kinds.entry((&module.kind, module.shape())).or_insert_with(|| KindCost {
                name: module.kind.to_string(),
                module: module.name.clone(),
                count: 0,
                d_in: module.d_in,
                d_out: module.d_out,
                rank_unit_cost: cost,
                parameters: 0,
            });
            entry.count += 1;
            entry.parameters = entry.parameters.saturating_add(cost.saturating_mul(u64::from(base_rank)));
        }
        kinds.sort_by(|(a, _), _, (b, _), _| a.cmp(b));
        let lora_parameters = layout.lora_parameters(base_rank);
        Self {
            model: layout.model().to_owned(),
            base_rank,
            decoder_parameters: layout.decoder_parameters(),
            lora_parameters,
            lora_mib_bf16: mib_bf16(lora_parameters),
            layers_path: layout.layers_path().map(str::to_owned),
            layers: layout.blocks().len(),
            modules: layout.len(),
            kinds: kinds.into_values().collect(),
        }
    }

    fn text(&self, source: &str) -> String {
        let rows = self.kinds.iter().map(|kind| {
            vec![
                kind.name.clone(),
                kind.count.to_string(),
                kind.d_in.to_string(),
                kind.d_out.to_string(),
                thousands(kind.rank_unit_cost),
                thousands(kind.parameters),
                kind.module.clone(),
            ]
        });
        let decoder =
            self.decoder_parameters.map(|count| format!(", {} parameters", thousands(count))).unwrap_or_default();
        format!(
            "{}: {} layers, {} modules{decoder}; shapes from {source}\n\n\
             LoRA at rank {}: {} trainable parameters, {:.1} MiB in bf16\n\n{}",
            self.model,
            self.layers,
            self.modules,
            self.base_rank,
            thousands(self.lora_parameters),
            self.lora_mib_bf16,
            table(
                &["module", "count", "d_in", "d_out", "per rank unit", "at base rank", "the first"],
                &[1, 2, 3, 4, 5],
                rows
            ),
        )
    }
}

/// Describes a model.
pub fn inspect(config: &ModelConfig, base_rank: u32) -> Inspection {
    let model = config.shapes();
    let projections: Vec<ProjectionCost> = Projection::ALL
        .into_iter()
        .map(|projection| {
            let shape = model.shape(projection);
            ProjectionCost {
                name: projection.name(),
                module: model.module_name(hydra_shared::layout::ModuleId { layer: 0, projection }),
                d_in: shape.d_in,
                d_out: shape.d_out,
                rank_unit_cost: shape.rank_unit_cost(),
                parameters: shape.rank_unit_cost() * u64::from(base_rank),
            }
        })
        .collect();
    let layer_rank_unit_cost: u64 = projections.iter().map(|projection| projection.rank_unit_cost).sum();
    let decoder_parameters = config.decoder_parameters();
    let lora_parameters = (layer_rank_unit_cost * model.decoder.layers as u64).saturating_mul(u64::from(base_rank));
    Inspection {
        model: model.name.clone(),
        base_rank,
        decoder_parameters,
        lora_parameters,
        lora_percent_of_decoder: 100.0 * lora_parameters as f64 / decoder_parameters as f64,
        lora_mib_bf16: mib_bf16(lora_parameters),
        projector_parameters: model.projector_parameters(),
        vision_parameters: model.vision_parameters(),
        total_parameters: config.total_parameters(),
        layers_path: model.layers_path.clone(),
        decoder: DecoderDocument {
            spec: model.decoder.clone(),
            extra_norms: config.extra_norms(),
            differs: config.differs(),
        },
        vision: model.vision.clone(),
        projector: model.projector.as_ref().map(|projector| projector.kind),
        layer_rank_unit_cost,
        projections,
    }
}

/// The projections that cannot use the base rank, because their smaller side is narrower; `None` where all can.
fn too_narrow(config: &ModelConfig, base_rank: u32) -> Option<String> {
    let model = config.shapes();
    let narrow: Vec<String> = Projection::ALL
        .into_iter()
        .map(|projection| (projection, model.shape(projection).full_rank()))
        .filter(|(_, full)| *full < base_rank)
        .map(|(projection, full)| format!("{projection} over {full}"))
        .collect();
    (!narrow.is_empty()).then(|| {
        format!("rank {base_rank} is more than some matrices of {} can use: {}", model.name, first_names(narrow))
    })
}

/// Runs the command.
///
/// # Errors
/// A model that cannot be read.
pub fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let described = spec::load_catalog(&args.model)?;
    for note in &described.notes {
        context.output.note(format_args!("note: {note}"));
    }
    let Some(model) = described.config.as_ref().filter(|config| !config.is_mixture()) else {
        let inspection = CheckpointInspection::new(described.catalog.decoder(), args.base_rank);
        let source = if described.config.is_some() { "the configuration" } else { "the tensors" };
        return context.output.result(&inspection, || inspection.text(source));
    };
    if let Some(warning) = too_narrow(model, args.base_rank) {
        context.output.warn(warning);
    }
    let inspection = inspect(model, args.base_rank);
    context.output.result(&inspection, || text(&inspection))
}

fn text(inspection: &Inspection) -> String {
    let decoder = &inspection.decoder.spec;
    let mut parts = vec![vec!["decoder".to_owned(), thousands(inspection.decoder_parameters)]];
    if let Some(parameters) = inspection.vision_parameters {
        parts.push(vec!["vision tower".to_owned(), thousands(parameters)]);
    }
    if let Some(parameters) = inspection.projector_parameters {
        parts.push(vec!["projector".to_owned(), thousands(parameters)]);
    }
    if parts.len() > 1 {
        parts.push(vec!["together".to_owned(), thousands(inspection.total_parameters)]);
    }
    let modules = inspection.projections.iter().map(|p| {
        vec![
            p.name.to_owned(),
            p.d_in.to_string(),
            p.d_out.to_string(),
            thousands(p.rank_unit_cost),
            thousands(p.parameters),
            p.module.clone(),
        ]
    });
    format!(
        "{}: {} layers, hidden {}, feed-forward {}, {} heads ({} for keys and values), vocabulary {}{}\n\n{}\n\
         LoRA at rank {}: {} trainable parameters, {:.3} % of the decoder, {:.1} MiB in bf16\n\
         One rank unit in every module of a layer: {}\n\n{}",
        inspection.model,
        decoder.layers,
        decoder.hidden,
        decoder.intermediate,
        decoder.heads,
        decoder.kv_heads,
        thousands(decoder.vocab as u64),
        if decoder.tied_embeddings { ", tied embeddings" } else { "" },
        table(&["part", "parameters"], &[1], parts),
        inspection.base_rank,
        thousands(inspection.lora_parameters),
        inspection.lora_percent_of_decoder,
        inspection.lora_mib_bf16,
        thousands(inspection.layer_rank_unit_cost),
        table(
            &["projection", "d_in", "d_out", "per rank unit", "at base rank", "module in layer 0"],
            &[1, 2, 3, 4],
            modules
        ),
    )
}

/// Size of that many parameters in bfloat16 (2 bytes), in MiB.
pub fn mib_bf16(parameters: u64) -> f64 {
    parameters as f64 * 2.0 / (1024.0 * 1024.0)
}

#[cfg(test)]
mod tests {
    use hydra_shared::vlm::spec::ModelSpec;

    use super::*;

    #[test]
    fn mobilevlm_at_rank_128_takes_231_and_382_mib_in_bf16() {
        for (name, mib) in [("mobilevlm-1.7b", "231.0"), ("mobilevlm-3b", "382.0")] {
            let inspection = inspect(&ModelSpec::preset(name).unwrap().into(), 128);
            assert_eq!(format!("{:.1}", inspection.lora_mib_bf16), mib);
        }
    }

    #[test]
    fn module_parameters_add_up_to_the_lora_parameters() {
        let inspection = inspect(&ModelSpec::preset("smollm2-135m").unwrap().into(), 16);
        let layer: u64 = inspection.projections.iter().map(|p| p.parameters).sum();
        assert_eq!(layer * 30, inspection.lora_parameters);
    }

    #[test]
    fn a_rank_that_no_matrix_can_use_is_pointed_out() {
        let model = ModelConfig::from(ModelSpec::preset("smollm2-135m").unwrap());
        let warning = too_narrow(&model, 193).unwrap();
        assert!(warning.ends_with("k over 192, v over 192"), "{warning}");
        assert_eq!(too_narrow(&model, 192), None);
    }
}
