//! What the programs that serve LoRA make of an adapter.

use serde::Serialize;

use super::LoraConfig;
use super::names::{adapter_of, is_beside, is_part};
use crate::names::first_names;

/// The values that vLLM takes for `--max-lora-rank` and that are worth having; it refuses every other one.
const VLLM_RANKS: [u32; 8] = [8, 16, 32, 64, 128, 256, 320, 512];

/// Whole modules that vLLM reads beside an adapter.
const CLASSIFIERS: [&str; 2] = ["classifier", "score"];

/// What a program makes of an adapter: the factors by which its updates come out, relative to PEFT's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Consumer {
    /// The program, with the versions that this holds for.
    pub name: &'static str,
    /// Whether it computes what PEFT computes.
    pub right: bool,
    /// Smallest factor over the modules; none where there is no finite one.
    pub least: Option<f64>,
    /// Largest factor.
    pub most: Option<f64>,
    /// What else is wrong, or why the program does not read it at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Consumer {
    fn wrong(self, reason: String) -> Self {
        Self { right: false, reason: Some(reason), ..self }
    }
}

/// The `--max-lora-rank` that vLLM needs for an adapter; none where its ranks are above what vLLM can.
pub fn vllm_rank(config: &LoraConfig) -> Option<u32> {
    let largest = config.rank_pattern.values().copied().fold(config.r, u32::max);
    VLLM_RANKS.into_iter().find(|rank| *rank >= largest)
}

/// What each program makes of an adapter whose modules have these ranks and, in PEFT, these scales, and whose tensors have
/// these names: as PEFT saves them, and as in memory where the file has them so.
///
/// vLLM reads PEFT's patterns from 0.32 on; before, and in llama.cpp's converter and Ollama, which have one alpha for all
/// modules and no rank-stabilised scale, they are not read. mlx-lm has a folder of its own.
pub fn judge<'a>(
    config: &LoraConfig,
    modules: &[(u32, f64)],
    names: impl IntoIterator<Item = &'a str>,
) -> Vec<Consumer> {
    let of = |name: &'static str, scale: &dyn Fn(u32) -> f64| {
        let adapted = modules.iter().filter(|(rank, _)| *rank > 0);
        let ratios: Vec<f64> = adapted.map(|(rank, own)| ratio(scale(*rank), *own)).collect();
        let finite = || ratios.iter().copied().filter(|ratio| ratio.is_finite());
        // Alphas are written as decimal numbers: the last digits are rounding.
        let right = ratios.iter().all(|ratio| (ratio - 1.0).abs() < 1e-6);
        let (least, most) = (finite().reduce(f64::min), finite().reduce(f64::max));
        let reason = (!ratios.iter().all(|ratio| ratio.is_finite()))
            .then(|| "it takes an alpha of 0 for no alpha, and applies with scale 1 what PEFT leaves out".to_owned());
        Consumer { name, right, least, most, reason }
    };
    let alpha = config.alpha();
    // A rank of its own, and never the root of it.
    let one_alpha = |rank: u32| if alpha == 0.0 { 1.0 } else { alpha / f64::from(rank) };
    let same = |name| Consumer { name, right: true, least: Some(1.0), most: Some(1.0), reason: None };
    let mut new = same("vLLM 0.32");
    let mut old = of("vLLM 0.26 to 0.31", &|_| config.scale(alpha, config.r));
    let [mut converter, mut ollama] = ["llama.cpp", "Ollama"].map(|name| of(name, &one_alpha));
    if vllm_rank(config).is_none() {
        [new, old] = [new, old].map(|vllm| vllm.wrong("it refuses ranks above 512".to_owned()));
    }
    let meanings = config.meanings();
    if let Some(what) = config.beyond_plain_lora() {
        let is_refused = meanings.iter().any(|meaning| meaning.vllm_refuses);
        let start = if is_refused { "it refuses the adapter" } else { "it takes the adapter for plain LoRA" };
        new = new.wrong(format!("{start}: {what}"));
        [old, converter, ollama] =
            [old, converter, ollama].map(|other| other.wrong(format!("it takes the adapter for plain LoRA: {what}")));
    }
    let names = Names::of(names);
    let saved: Vec<&str> = config.modules_to_save.iter().flatten().map(String::as_str).collect();
    // vLLM's PEFTHelper knows two names; the converter looks at the tensors alone.
    if saved.iter().any(|name| !CLASSIFIERS.contains(name)) {
        let reason = || format!("it reads no whole modules beside the adapter ({})", first_names(&saved));
        [new, old] = [new, old].map(|vllm| vllm.wrong(reason()));
    }
    // Both stop at the first of them; llama.cpp goes on at norms, and leaves them out.
    let is_classifiers = |name: &&str| CLASSIFIERS.iter().any(|classifier| name.contains(&format!("{classifier}.")));
    let strange: Vec<&str> = names.strange.iter().copied().filter(|name| !is_classifiers(name)).collect();
    let reason = |strange: &[&str]| format!("it reads lora_A and lora_B alone, and not {}", first_names(strange));
    if !strange.is_empty() && new.right {
        [new, old] = [new, old].map(|vllm| vllm.wrong(reason(&strange)));
    }
    if !names.strange.is_empty() {
        [converter, ollama] = [converter, ollama].map(|llama| llama.wrong(reason(&names.strange)));
    }
    if !names.beside.is_empty() {
        let reason = || format!("it leaves out what lies beside the decoder ({})", first_names(&names.beside));
        [converter, ollama] = [converter, ollama].map(|llama| llama.wrong(reason()));
    }
    if !names.live.is_empty() {
        let reason = || {
            format!(
                "it refuses names that hold the adapter's, as in memory, such as {}; `trainer export --format peft` writes those \
                 that it knows",
                first_names(names.live.iter().take(1))
            )
        };
        [new, old, converter, ollama] = [new, old, converter, ollama].map(|other| other.wrong(reason()));
    }
    let folder = "it reads no folder of PEFT's: write its own with `trainer export --format mlx`".to_owned();
    let mlx = Consumer { name: "mlx-lm", right: false, least: None, most: None, reason: Some(folder) };
    vec![same("PEFT"), new, old, converter, ollama, mlx]
}

/// The same of an adapter that is broken: whatever a program makes of it is not what was trained.
pub fn none_right(consumers: Vec<Consumer>) -> Vec<Consumer> {
    let broken = |consumer: Consumer| {
        // What was wrong already says more.
        if !consumer.right {
            return consumer;
        }
        Consumer { least: None, most: None, ..consumer.wrong("the adapter is broken, as the error says".to_owned()) }
    };
    consumers.into_iter().map(broken).collect()
}

/// The tensors that not every program reads, by name.
#[derive(Default)]
struct Names<'a> {
    /// As in memory, with the adapter's name.
    live: Vec<&'a str>,
    /// Neither A nor B.
    strange: Vec<&'a str>,
    /// A or B of a module beside the decoder.
    beside: Vec<&'a str>,
}

impl<'a> Names<'a> {
    fn of(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut found = Self::default();
        for name in names {
            // The base's own weight, which PEFT saves with an embedding or a head that it adapts, is passed over everywhere.
            if adapter_of(name).is_some() {
                found.live.push(name);
            } else if !is_part(name) && !name.contains(".base_layer.") {
                found.strange.push(name);
            } else if is_beside(name) {
                found.beside.push(name);
            }
        }
        found
    }
}

/// A scale relative to PEFT's. Nothing is right beside nothing.
fn ratio(scale: f64, own: f64) -> f64 {
    if own == 0.0 && scale == 0.0 { 1.0 } else { scale / own }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(config: &str, modules: &[(u32, f64)]) -> Vec<Consumer> {
        judge(&LoraConfig::from_json(config).unwrap(), modules, [])
    }

    /// PEFT, vLLM from 0.32, vLLM before, llama.cpp.
    fn factors(config: &str, modules: &[(u32, f64)]) -> Vec<(bool, f64, f64)> {
        let found = judged(config, modules);
        assert_eq!(
            found.iter().map(|consumer| consumer.name).collect::<Vec<_>>(),
            ["PEFT", "vLLM 0.32", "vLLM 0.26 to 0.31", "llama.cpp", "Ollama", "mlx-lm"]
        );
        assert_eq!((found[3].least, found[3].most), (found[4].least, found[4].most));
        found.into_iter().take(4).map(|found| (found.right, found.least.unwrap(), found.most.unwrap())).collect()
    }

    const SAME: (bool, f64, f64) = (true, 1.0, 1.0);

    #[test]
    fn programs_without_patterns_are_right_only_where_their_own_rule_gives_the_scale() {
        let config = r#"{"peft_type": "LORA", "r": 6, "lora_alpha": 12}"#;
        // One scale for all ranks: lora_alpha / r is right, lora_alpha / rank is not.
        assert_eq!(factors(config, &[(6, 2.0), (3, 2.0)]), [SAME, SAME, SAME, (false, 1.0, 2.0)]);
        // One alpha for all ranks: the other way round.
        assert_eq!(factors(config, &[(6, 2.0), (3, 4.0)]), [SAME, SAME, (false, 0.5, 1.0), SAME]);
        // Modules without an adapter do not count.
        assert_eq!(factors(config, &[(6, 2.0), (0, 0.0)]), [SAME; 4]);
    }

    #[test]
    fn vllm_knows_rank_stabilised_scales_and_llama_cpp_does_not() {
        let config = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": true}"#;
        assert_eq!(factors(config, &[(4, 4.0)]), [SAME, SAME, SAME, (false, 0.5, 0.5)]);
    }

    #[test]
    fn alpha_0_is_nothing_in_peft_and_vllm_and_scale_1_in_llama_cpp() {
        let found = judged(r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 0}"#, &[(2, 0.0)]);
        assert!(found[..3].iter().all(|consumer| consumer.right));
        for llama in &found[3..5] {
            assert_eq!((llama.right, llama.least, llama.most), (false, None, None));
            assert!(llama.reason.as_ref().unwrap().contains("scale 1"));
        }
    }

    #[test]
    fn what_is_no_plain_lora_is_refused_by_vllm_or_read_wrongly_by_name() {
        let found = judged(r#"{"peft_type": "LORA", "r": 8, "init_lora_weights": "pissa"}"#, &[(8, 1.0)]);
        let reasons: Vec<&str> = found.iter().map(|consumer| consumer.reason.as_deref().unwrap_or_default()).collect();
        assert!(found[0].right && found[1..].iter().all(|consumer| !consumer.right));
        assert!(reasons[1].starts_with("it refuses the adapter: init_lora_weights \"pissa\""), "{reasons:?}");
        assert!(reasons[3].starts_with("it takes the adapter for plain LoRA: init_lora_weights"), "{reasons:?}");
    }

    #[test]
    fn tensors_that_are_no_lora_a_or_lora_b_are_read_by_peft_alone() {
        let right = |saved: &str, names: &[&str]| {
            let config = format!(r#"{{"peft_type": "LORA", "r": 8, "modules_to_save": {saved}}}"#);
            let found = judge(&LoraConfig::from_json(&config).unwrap(), &[(8, 1.0)], names.iter().copied());
            found.into_iter().map(|consumer| consumer.right).collect::<Vec<_>>()
        };
        let [all, none] = [[true, true, true, true, true, false], [true, false, false, false, false, false]];
        let plain = ["model.layers.0.q_proj.lora_A.weight", "lm_head.lora_B.weight", "lm_head.base_layer.weight"];
        assert_eq!(right("null", &plain), all);
        assert_eq!(right("null", &["model.embed_tokens.lora_embedding_A"]), all);
        assert_eq!(right(r#"["lm_head"]"#, &["lm_head.weight"]), none);
        assert_eq!(right("null", &["model.embed_tokens.token_adapter.trainable_tokens_delta"]), none);
        assert_eq!(right("null", &["model.norm.weight"]), none);
        assert_eq!(right(r#"["score"]"#, &["score.weight"]), [true, true, true, false, false, false]);
        // PEFT lists both for a classifier; a model without them has no tensors of theirs.
        assert_eq!(right(r#"["classifier", "score"]"#, &plain), all);
        let tower = "model.vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight";
        assert_eq!(right("null", &[tower]), [true, true, true, false, false, false]);
        let live = "base_model.model.model.layers.0.q_proj.lora_A.default.weight";
        assert_eq!(right("null", &[plain[0], live]), none);
    }

    #[test]
    fn no_program_is_right_about_a_broken_adapter() {
        let found = none_right(judged(r#"{"peft_type": "LORA", "r": 600, "lora_alpha": 8}"#, &[(600, 8.0 / 600.0)]));
        assert!(found.iter().all(|consumer| !consumer.right));
        assert!(found[0].reason.as_ref().unwrap().contains("broken") && found[0].least.is_none());
        assert!(found[1].reason.as_ref().unwrap().contains("512"), "a reason of its own stays");
    }

    #[test]
    fn vllm_takes_a_few_ranks_up_to_512() {
        let rank = |r: u32, other: u32| {
            let text = format!(r#"{{"peft_type": "LORA", "r": {r}, "rank_pattern": {{"q_proj": {other}}}}}"#);
            vllm_rank(&LoraConfig::from_json(&text).unwrap())
        };
        assert_eq!((rank(1, 2), rank(12, 4), rank(8, 20), rank(257, 1)), (Some(8), Some(16), Some(32), Some(320)));
        assert_eq!((rank(512, 8), rank(513, 8)), (Some(512), None));
        let found = judged(r#"{"peft_type": "LORA", "r": 600, "lora_alpha": 8}"#, &[(600, 8.0 / 600.0)]);
        assert!(!found[1].right && found[1].reason.as_ref().unwrap().contains("512"));
    }
}
