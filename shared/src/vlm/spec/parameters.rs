//! Exact parameter counts.

use super::{DecoderSpec, ModelSpec, ProjectorKind, ProjectorSpec, VisionSpec};
use crate::layout::Projection;

impl ModelSpec {
    /// Parameters of the decoder: embedding, layers, final norm, and the head unless it is tied.
    pub fn decoder_parameters(&self) -> u64 {
        let DecoderSpec { hidden, layers, vocab, tied_embeddings, .. } = self.decoder;
        // In 64 bits before multiplying: in the browser usize has 32.
        let [hidden, layers, vocab] = [hidden, layers, vocab].map(|count| count as u64);
        let matrices: u64 = Projection::ALL
            .into_iter()
            .map(|projection| {
                let shape = self.shape(projection);
                let (d_in, d_out) = (shape.d_in as u64, shape.d_out as u64);
                d_in * d_out + if self.decoder.has_bias(projection) { d_out } else { 0 }
            })
            .sum();
        let norms = 2 * hidden;
        let embeddings = vocab * hidden * if tied_embeddings { 1 } else { 2 };
        layers * (matrices + norms) + embeddings + hidden
    }

    /// Parameters of the vision tower, where its shapes are known.
    pub fn vision_parameters(&self) -> Option<u64> {
        self.vision.as_ref().map(VisionSpec::parameters)
    }

    /// Parameters of the projector, where its construction is known.
    pub fn projector_parameters(&self) -> Option<u64> {
        self.projector.as_ref().map(ProjectorSpec::parameters)
    }

    /// Parameters of everything that is known: decoder, vision tower and projector.
    pub fn total_parameters(&self) -> u64 {
        self.decoder_parameters() + self.vision_parameters().unwrap_or(0) + self.projector_parameters().unwrap_or(0)
    }
}

impl VisionSpec {
    /// Parameters of a CLIP vision model: class, patch and position embeddings, pre- and post-norm, encoder layers.
    /// The text-side projection is not part of it.
    pub fn parameters(&self) -> u64 {
        let (h, f, patch) = (self.hidden as u64, self.intermediate as u64, self.patch_size as u64);
        let embeddings = h + 3 * patch * patch * h + (self.patches() as u64 + 1) * h;
        let attention = 4 * (h * h + h);
        let mlp = h * f + f + f * h + h;
        let layer = attention + mlp + 4 * h;
        embeddings + self.layers as u64 * layer + 4 * h
    }
}

impl ProjectorSpec {
    /// Tokens that the decoder sees of a picture with so many patches: LDPNet and LDPNetV2 leave a quarter.
    pub fn tokens(&self, patches: usize) -> usize {
        match self.kind {
            ProjectorKind::Ldpnet | ProjectorKind::Ldpnetv2 => patches / 4,
            ProjectorKind::Linear | ProjectorKind::Mlp { .. } => patches,
        }
    }

    /// Squeeze width of LDPNet's squeeze-and-excite, as in MobileNetV3: a quarter, rounded to a multiple of 8 and never
    /// more than 10 % below the quarter.
    pub fn squeeze(&self) -> usize {
        let wanted = self.hidden / 4;
        let rounded = ((wanted + 4) / 8 * 8).max(8);
        if rounded * 10 < wanted * 9 { rounded + 8 } else { rounded }
    }

    /// Parameters of the projector (biases and norms included).
    pub fn parameters(&self) -> u64 {
        let (v, h) = (self.vision_hidden as u64, self.hidden as u64);
        let mlp = |depth: u64| v * h + h + (depth.saturating_sub(1)) * (h * h + h);
        match self.kind {
            ProjectorKind::Linear => mlp(1),
            ProjectorKind::Mlp { depth } => mlp(depth as u64),
            // Depth-wise 3×3 convolution with bias.
            ProjectorKind::Ldpnetv2 => mlp(2) + 9 * h + h,
            ProjectorKind::Ldpnet => {
                let squeeze = self.squeeze() as u64;
                // Depth-wise 3×3 without bias, its norm, squeeze-and-excite, 1×1 without bias, its norm.
                let block = 9 * h + 2 * h + (h * squeeze + squeeze + squeeze * h + h) + h * h + 2 * h;
                mlp(2) + 2 * block
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preset(name: &str) -> ModelSpec {
        ModelSpec::preset(name).unwrap()
    }

    #[test]
    fn lora_at_rank_128_has_the_published_parameter_counts() {
        assert_eq!(preset("mobilevlm-1.7b").layout().unwrap().lora_parameters(128), 121_110_528);
        assert_eq!(preset("mobilevlm-3b").layout().unwrap().lora_parameters(128), 200_278_016);
        assert_eq!(preset("mobilevlm-v2-1.7b").layout().unwrap().lora_parameters(128), 121_110_528);
        assert_eq!(preset("mobilevlm-v2-3b").layout().unwrap().lora_parameters(128), 200_278_016);
    }

    #[test]
    fn lora_at_other_uniform_ranks_scales_exactly() {
        for (rank, small, large) in
            [(1, 946_176, 1_564_672), (64, 60_555_264, 100_139_008), (256, 242_221_056, 400_556_032)]
        {
            assert_eq!(preset("mobilevlm-1.7b").layout().unwrap().lora_parameters(rank), small);
            assert_eq!(preset("mobilevlm-3b").layout().unwrap().lora_parameters(rank), large);
        }
    }

    #[test]
    fn decoders_have_the_published_parameter_counts() {
        assert_eq!(preset("mobilevlm-1.7b").decoder_parameters(), 1_364_297_728);
        assert_eq!(preset("mobilevlm-3b").decoder_parameters(), 2_701_560_320);
        assert_eq!(preset("smollm2-135m").decoder_parameters(), 134_515_008);
    }

    #[test]
    fn lora_share_of_the_decoder_is_the_one_that_mobilevlm_reports() {
        let share = |name: &str| {
            let model = preset(name);
            100.0 * model.layout().unwrap().lora_parameters(128) as f64 / model.decoder_parameters() as f64
        };
        assert_eq!(format!("{:.3}", share("mobilevlm-1.7b")), "8.877");
        assert_eq!(format!("{:.3}", share("mobilevlm-3b")), "7.413");
    }

    #[test]
    fn projectors_have_the_published_parameter_counts() {
        assert_eq!(preset("mobilevlm-1.7b").projector_parameters(), Some(18_936_832));
        assert_eq!(preset("mobilevlm-v2-1.7b").projector_parameters(), Some(6_316_032));
        assert_eq!(preset("mobilevlm-3b").projector_parameters(), Some(28_913_920));
        assert_eq!(preset("mobilevlm-v2-3b").projector_parameters(), Some(9_205_760));
    }

    #[test]
    fn clip_and_the_whole_models_have_the_published_parameter_counts() {
        assert_eq!(preset("mobilevlm-1.7b").vision_parameters(), Some(303_507_456));
        assert_eq!(preset("mobilevlm-1.7b").total_parameters(), 1_686_742_016);
        assert_eq!(preset("mobilevlm-3b").total_parameters(), 3_033_981_696);
    }

    #[test]
    fn trainable_parameters_with_the_projector_are_those_of_mobilevlm_with_lora() {
        for (name, expected) in [("mobilevlm-1.7b", 140_047_360), ("mobilevlm-3b", 229_191_936)] {
            let model = preset(name);
            assert_eq!(model.layout().unwrap().lora_parameters(128) + model.projector_parameters().unwrap(), expected);
        }
    }

    #[test]
    fn rank_units_cost_what_the_shapes_say() {
        for (name, attention, mlp, layer) in
            [("mobilevlm-1.7b", 4_096, 7_680, 39_424), ("mobilevlm-3b", 5_120, 9_472, 48_896)]
        {
            let model = preset(name);
            for p in [Projection::Q, Projection::K, Projection::V, Projection::O] {
                assert_eq!(model.shape(p).rank_unit_cost(), attention);
            }
            for p in [Projection::Gate, Projection::Up, Projection::Down] {
                assert_eq!(model.shape(p).rank_unit_cost(), mlp);
            }
            assert_eq!(model.layout().unwrap().lora_parameters(1) / model.decoder.layers as u64, layer);
        }
    }

    #[test]
    fn both_downsample_projectors_leave_144_of_576_tokens() {
        let vision = preset("mobilevlm-1.7b").vision.unwrap();
        assert_eq!(vision.patches(), 576);
        assert_eq!(vision.patches() / 4, 144);
    }
}
