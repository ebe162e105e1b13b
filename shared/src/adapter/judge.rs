//! What the programs that serve LoRA make of an adapter.

use serde::Serialize;

use super::LoraConfig;

/// What a program makes of an adapter: the factors by which its updates come out, relative to PEFT's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Consumer {
    /// The program.
    pub name: &'static str,
    /// Whether every module's factor is 1.
    pub right: bool,
    /// Smallest factor over the modules.
    pub least: f64,
    /// Largest factor.
    pub most: f64,
}

/// What each program makes of an adapter whose modules have these ranks and, in PEFT, these scales. vLLM and llama.cpp's
/// converter read no patterns.
pub fn judge(config: &LoraConfig, modules: &[(u32, f64)]) -> Vec<Consumer> {
    let of = |name: &'static str, scale: &dyn Fn(u32) -> f64| {
        let adapted = modules.iter().filter(|(rank, own)| *rank > 0 && *own != 0.0);
        let ratios: Vec<f64> = adapted.map(|(rank, own)| scale(*rank) / own).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // Alphas are written as decimal numbers: the last digits are rounding.
        let right = ratios.iter().all(|ratio| (ratio - 1.0).abs() < 1e-6);
        Consumer { name, right, least, most }
    };
    let alpha = config.alpha();
    vec![
        Consumer { name: "PEFT", right: true, least: 1.0, most: 1.0 },
        of("vLLM", &|_| config.scale(alpha, config.r)),
        // A rank of its own, and never the root of it.
        of("llama.cpp", &|rank| if alpha == 0.0 { 1.0 } else { alpha / f64::from(rank) }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(config: &str, modules: &[(u32, f64)]) -> Vec<(bool, f64, f64)> {
        let config = LoraConfig::from_json(config).unwrap();
        judge(&config, modules).into_iter().map(|found| (found.right, found.least, found.most)).collect()
    }

    #[test]
    fn programs_without_patterns_are_right_only_where_their_own_rule_gives_the_scale() {
        let config = r#"{"peft_type": "LORA", "r": 6, "lora_alpha": 12}"#;
        let [same, half] = [(true, 1.0, 1.0), (false, 0.5, 1.0)];
        // One scale for all ranks: lora_alpha / r is right, lora_alpha / rank is not.
        assert_eq!(factors(config, &[(6, 2.0), (3, 2.0)]), [same, same, (false, 1.0, 2.0)]);
        // One alpha for all ranks: the other way round.
        assert_eq!(factors(config, &[(6, 2.0), (3, 4.0)]), [same, half, same]);
        // Modules without an adapter do not count.
        assert_eq!(factors(config, &[(6, 2.0), (0, 0.0)]), [same, same, same]);
    }

    #[test]
    fn vllm_knows_rank_stabilised_scales_and_llama_cpp_does_not() {
        let config = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": true}"#;
        assert_eq!(factors(config, &[(4, 4.0)]), [(true, 1.0, 1.0), (true, 1.0, 1.0), (false, 0.5, 0.5)]);
    }
}
