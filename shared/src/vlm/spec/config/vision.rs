//! What surrounds the decoder in a vision-language model, as far as its construction is known.

use super::super::presets::clip_vit_l_14_336;
use super::super::{DecoderSpec, ModelSpec, ProjectorKind, ProjectorSpec, VisionSpec};
use super::{Fields, TowerWidths};
use crate::layout::{MOST_LAYERS, MOST_WIDTH};

/// The vision tower of MobileVLM and LLaVA 1.5.
const CLIP_VIT_L_14_336: &str = "openai/clip-vit-large-patch14-336";

/// Where transformers keeps the decoder of a vision-language model since 4.52.
const NESTED_PATH: &str = "model.language_model.layers";

/// MobileVLM's and LLaVA's own layout: the decoder's fields on top, the rest under `mm_`; or no vision at all.
pub(super) fn flat(top: &Fields, decoder: DecoderSpec) -> ModelSpec {
    let width = top.integer("mm_hidden_size").filter(|&width| width > 0 && width <= MOST_WIDTH as u64);
    let width = width.map(|width| width as usize);
    let known =
        top.text("mm_vision_tower").is_some_and(|tower| tower.trim_end_matches('/').ends_with(CLIP_VIT_L_14_336));
    // A tower of another width than the projector reads is not the tower of that name.
    let vision = known.then(clip_vit_l_14_336).filter(|vision| width.is_none_or(|width| width == vision.hidden));
    let vision_hidden = width.or(vision.as_ref().map(|vision| vision.hidden));
    let kind = top.text("mm_projector_type").and_then(ProjectorKind::from_name);
    let projector = kind.zip(vision_hidden).map(|(kind, vision_hidden)| ProjectorSpec {
        kind,
        vision_hidden,
        hidden: decoder.hidden,
    });
    // Qwen2-VL and 2.5-VL keep the decoder's fields on top, yet nest the decoder.
    let layers_path = if top.object("vision_config").is_some() { NESTED_PATH } else { "model.layers" };
    ModelSpec { name: name(top), layers_path: layers_path.to_owned(), decoder, vision, projector }
}

/// A decoder under `text_config` or `llm_config`.
pub(super) fn nested(top: &Fields, decoder: DecoderSpec) -> ModelSpec {
    let model_type = top.text("model_type").unwrap_or("");
    let layers_path = match model_type {
        "idefics2" | "idefics3" | "smolvlm" => "model.text_model.layers",
        "internvl_chat" => "language_model.model.layers",
        _ => NESTED_PATH,
    };
    let vision = top.object("vision_config").and_then(|fields| clip(&fields));
    // LLaVA in transformers: two linear layers with GELU between them, fed from one of the tower's layers
    // (from several, the first is wider).
    let is_llava = model_type == "llava"
        && top.boolean("multimodal_projector_bias") != Some(false)
        && !top.is_list("vision_feature_layer");
    let projector = vision.as_ref().filter(|_| is_llava).map(|vision| ProjectorSpec {
        kind: ProjectorKind::Mlp { depth: 2 },
        vision_hidden: vision.hidden,
        hidden: decoder.hidden,
    });
    ModelSpec { name: name(top), layers_path: layers_path.to_owned(), decoder, vision, projector }
}

fn name(top: &Fields) -> String {
    let given = ["_name_or_path", "model_type"].into_iter().filter_map(|key| top.text(key));
    given.map(str::trim).find(|name| !name.is_empty()).unwrap_or("llama").to_owned()
}

/// Widths of a tower whose layers hold CLIP's six matrices.
pub(super) fn tower(fields: &Fields) -> Option<TowerWidths> {
    let known = [
        "clip_vision_model",
        "siglip_vision_model",
        "siglip2_vision_model",
        "idefics2",
        "idefics3_vision",
        "idefics2_vision",
        "smolvlm_vision",
        "smolvlm",
    ];
    fields.text("model_type").filter(|name| known.contains(name))?;
    let width = |key: &str, most: usize| {
        let count = fields.integer(key).filter(|count| (1..=most as u64).contains(count))?;
        usize::try_from(count).ok()
    };
    Some(TowerWidths {
        hidden: width("hidden_size", MOST_WIDTH)?,
        intermediate: width("intermediate_size", MOST_WIDTH)?,
        layers: width("num_hidden_layers", MOST_LAYERS)?,
    })
}

/// A CLIP vision tower with all its shapes; other towers (SigLIP, …) have other parameters.
pub(super) fn clip(fields: &Fields) -> Option<VisionSpec> {
    if fields.text("model_type") != Some("clip_vision_model") {
        return None;
    }
    if fields.text("hidden_act").is_some_and(|name| name != "quick_gelu") {
        return None;
    }
    let count = |key: &str, most: u64| {
        fields.integer(key).filter(|count| (1..=most).contains(count)).map(|count| count as usize)
    };
    let width = MOST_WIDTH as u64;
    let spec = VisionSpec {
        hidden: count("hidden_size", width)?,
        intermediate: count("intermediate_size", width)?,
        layers: count("num_hidden_layers", MOST_LAYERS as u64)?,
        heads: count("num_attention_heads", width)?,
        image_size: count("image_size", 1 << 14)?,
        patch_size: count("patch_size", 1 << 14)?,
        layer_norm_eps: fields.float("layer_norm_eps").unwrap_or(1e-5),
    };
    (spec.hidden.is_multiple_of(spec.heads) && spec.patch_size <= spec.image_size).then_some(spec)
}
