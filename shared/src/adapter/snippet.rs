//! A schedule as Python to paste.

use std::fmt::Write;

use super::config::{PeftOptions, number};
use crate::schedule::{RankSchedule, ScalePolicy};

/// A `LoraConfig(…)` of the schedule, with what it needs before it. The same configuration as
/// [`LoraConfig`](super::LoraConfig), computed from one table of ranks so that it can be read and edited.
pub fn python_snippet(schedule: &RankSchedule, options: &PeftOptions) -> String {
    let r = schedule.ranks.largest();
    let (alpha_rule, alpha) = match schedule.scale {
        ScalePolicy::Constant { factor } => {
            let factor = number(factor);
            (format!("{factor} * rank"), format!("{factor} * r"))
        }
        ScalePolicy::FixedAlpha { alpha } | ScalePolicy::RsLora { alpha } => {
            let alpha = number(alpha).to_string();
            (alpha.clone(), alpha)
        }
    };
    let mut text = format!(
        "# HyDRA schedule for {}: {} trainable parameters.\nfrom peft import LoraConfig\n\nranks = {{\n",
        one_line(schedule.layout().model()),
        schedule.ranks.parameters()
    );
    for (module, rank) in schedule.ranks.iter().filter(|&(_, rank)| rank > 0) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "    \"{}\": {rank},", module.name);
    }
    let rslora = if schedule.scale.is_rslora() { "    use_rslora=True,\n" } else { "" };
    let _ = write!(
        text,
        "}}
r = {r}
others = {{name: rank for name, rank in ranks.items() if rank != r}}
config = LoraConfig(
    r=r,
    lora_alpha={alpha},
    target_modules=list(ranks),
    rank_pattern=others,
    alpha_pattern={{name: {alpha_rule} for name, rank in others.items()}},
{rslora}    lora_dropout={},
    bias=\"none\",
    task_type=\"CAUSAL_LM\",
)
",
        options.dropout
    );
    text
}

/// A comment ends with its line.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Ranks;
    use crate::schedule::{Budget, Counting, Provenance};
    use crate::vlm::spec::ModelSpec;

    fn snippet(scale: ScalePolicy) -> String {
        let model = ModelSpec { name: "tiny\nimport os".to_owned(), ..ModelSpec::preset("tiny-mobilevlm").unwrap() };
        let ranks = Ranks::new(&model.layout().unwrap(), (0..42).map(|i| 1 + i % 8).collect()).unwrap();
        let budget = Budget { counting: Counting::Parameters, allowed: u64::MAX };
        let schedule = RankSchedule::new(ranks, 8, scale, budget, Provenance::default()).unwrap();
        python_snippet(&schedule, &PeftOptions { base_model: None, dropout: 0.05 })
    }

    #[test]
    fn the_snippet_holds_every_rank_once_and_the_rule_for_alpha() {
        let text = snippet(ScalePolicy::default());
        assert_eq!(text.matches("\"model.layers.").count(), 42);
        assert!(text.contains("    \"model.layers.0.self_attn.k_proj\": 2,\n"));
        assert!(text.contains("r = 8\n"));
        assert!(text.contains("    lora_alpha=2 * r,\n"));
        assert!(
            text.contains("alpha_pattern={name: 2 * rank for name, rank in others.items()},\n    lora_dropout=0.05,")
        );
        assert!(!text.contains("use_rslora"));
    }

    #[test]
    fn other_scales_are_written_as_such() {
        let fixed = snippet(ScalePolicy::FixedAlpha { alpha: 16.0 });
        assert!(fixed.contains("lora_alpha=16,") && fixed.contains("{name: 16 for name, rank"));
        let rslora = snippet(ScalePolicy::RsLora { alpha: 0.5 });
        assert!(rslora.contains("lora_alpha=0.5,") && rslora.contains("    use_rslora=True,\n    lora_dropout"));
    }

    #[test]
    fn a_name_cannot_leave_its_comment() {
        assert!(snippet(ScalePolicy::default()).starts_with("# HyDRA schedule for tiny import os: "));
    }
}
