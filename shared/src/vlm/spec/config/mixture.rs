//! Mixtures of experts: which layers hold experts, and what of them is dense.
//!
//! PEFT adapts the experts of a layer as one tensor of all of them, and doubles rank and alpha of the fused ones, so that
//! experts get no ranks here. Attention is dense in all of them. The feed-forward of layers without experts, and shared experts,
//! are linear modules as any other, and have ranks here, although some releases of PEFT take their names for those of the experts
//! in some families: the log says whether they were trained.

use super::super::ModelSpec;
use super::family::{Dense, Experts, Family, Shared};
use super::fields::Fields;
use crate::layout::{Kind, Layout, LayoutError, MOST_WIDTH, Module, ModuleShape, Projection};

/// The matrices of a feed-forward.
const FEED_FORWARD: [Projection; 3] = [Projection::Gate, Projection::Up, Projection::Down];

/// Which layers of a decoder hold experts, and how many.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mixture {
    /// For every layer, whether its feed-forward is a dense one.
    dense: Vec<bool>,
    experts: u64,
    /// Inner width of an expert.
    width: u64,
    /// Path inside a layer and inner width of what every token goes through beside its experts.
    shared: Option<(&'static str, u64)>,
    /// Whether PEFT 0.21 takes the names of the feed-forward's matrices for those of the experts.
    claims_names: bool,
    /// Parameters of a layer with experts beyond those of the matrices of experts, router and shared ones.
    more: u64,
}

impl Mixture {
    /// Reads what a family of mixtures says of its experts; none for other families, and where there are no experts.
    pub(super) fn of(family: &Family, fields: &mut Fields, layers: u64, intermediate: u64) -> Option<Self> {
        let Experts { count: (count, default_count), count_alias, width, shared, dense, biased, claims_names } =
            family.experts?;
        let count = count_alias.filter(|alias| !fields.has(count) && fields.has(alias)).unwrap_or(count);
        if fields.integer(count) == Some(0) {
            return None;
        }
        let experts = fields.count_or(count, default_count, 1 << 20);
        let width = width.map_or(intermediate, |(key, default)| fields.count_or(key, default, MOST_WIDTH));
        let (mut shared_width, mut more) = (None, 0);
        match shared {
            Shared::None => {}
            Shared::Width { key, default, path } => {
                let width = fields.count_or(key, default, MOST_WIDTH);
                // One number for each input decides how much of it counts.
                more = fields.integer("hidden_size").or(family.sizes.map(|sizes| sizes.hidden)).unwrap_or(0);
                shared_width = Some((path, width));
            }
            Shared::Times { key, default, path } => {
                if fields.integer(key) != Some(0) {
                    let times = fields.count_or(key, default, 1 << 10);
                    shared_width = Some((path, times.saturating_mul(width)));
                }
            }
        }
        if let Some((_, width)) = shared_width.filter(|(_, width)| *width > MOST_WIDTH as u64) {
            fields.invalid("moe_intermediate_size", &format!("shared experts of width {width} are too wide"));
        }
        if biased {
            let hidden = fields.integer("hidden_size").or(family.sizes.map(|sizes| sizes.hidden)).unwrap_or(0);
            let heads = fields.integer("num_attention_heads").or(family.sizes.map(|sizes| sizes.heads)).unwrap_or(0);
            // Biases of experts and router, and attention's sinks.
            more = experts.saturating_mul(2 * width + hidden + 1).saturating_add(heads);
        }
        let is_dense: Vec<bool> = match dense {
            Dense::None => vec![false; layers as usize],
            Dense::First(default) => {
                let first = fields.integer("first_k_dense_replace").unwrap_or(default);
                (0..layers).map(|layer| layer < first).collect()
            }
            Dense::Step => {
                let step = fields.count_or("decoder_sparse_step", 1, 1 << 10);
                let only = fields.integers("mlp_only_layers");
                (0..layers).map(|layer| only.contains(&layer) || !(layer + 1).is_multiple_of(step)).collect()
            }
        };
        let shared = shared_width;
        is_dense.contains(&false).then_some(Self { dense: is_dense, experts, width, shared, claims_names, more })
    }

    /// Its dense modules.
    pub(super) fn layout(&self, shapes: &ModelSpec) -> Result<Layout, LayoutError> {
        let hidden = shapes.decoder.hidden;
        let mut modules = Vec::new();
        for (layer, dense) in self.dense.iter().enumerate() {
            let mut add = |kind: Kind, inside: &str, ModuleShape { d_in, d_out }: ModuleShape| {
                let name = format!("{}.{layer}.{inside}", shapes.layers_path);
                modules.push(Module { name, layer: Some(layer), kind, d_in, d_out });
            };
            for projection in Projection::ALL {
                let inner = FEED_FORWARD.contains(&projection);
                if !inner || *dense {
                    add(projection.into(), projection.path(), shapes.shape(projection));
                }
            }
            if let Some((path, width)) = self.shared.filter(|_| !dense) {
                let width = width as usize;
                for (leaf, d_in, d_out) in
                    [("gate_proj", hidden, width), ("up_proj", hidden, width), ("down_proj", width, hidden)]
                {
                    let kind = Kind::Other(leaf.to_owned());
                    add(kind, &format!("{path}.{leaf}"), ModuleShape { d_in, d_out });
                }
            }
        }
        Layout::new(shapes.name.clone(), modules)
    }

    /// Parameters of the layers with experts beyond those that they would have with a dense feed-forward.
    pub(super) fn more_parameters(&self, hidden: u64, intermediate: u64, biased: bool) -> i64 {
        let wide = |width: u64| i128::from(hidden) * 3 * i128::from(width);
        let counted = wide(intermediate) + if biased { i128::from(2 * intermediate + hidden) } else { 0 };
        let shared = self.shared.map_or(0, |(_, width)| wide(width));
        let router = i128::from(self.experts) * i128::from(hidden);
        let layer = i128::from(self.experts) * wide(self.width) + router + shared + i128::from(self.more) - counted;
        let sparse = self.dense.iter().filter(|dense| !**dense).count();
        i64::try_from(layer * sparse as i128).unwrap_or(i64::MAX)
    }

    /// What is said of it.
    pub(super) fn note(&self) -> String {
        let (has_dense, has_shared) = (self.dense.contains(&true), self.shared.is_some());
        let dense = if has_dense { ", the feed-forward of layers without experts" } else { "" };
        let shared = if has_shared { ", shared experts" } else { "" };
        let claimed = if self.claims_names && (has_dense || has_shared) {
            ". With transformers 5, PEFT 0.21 takes gate_proj, up_proj and down_proj for the experts' wherever they stand: there \
             plan attention alone, with --exclude mlp"
        } else {
            ""
        };
        format!(
            "this is a mixture of experts, of which only the dense part can get ranks: attention{dense}{shared}; PEFT adapts the \
             experts of a layer as one tensor, and doubles rank and alpha of fused ones{claimed}"
        )
    }
}
