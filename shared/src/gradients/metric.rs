//! What a metric's key says: a gradient of which parameter, the step, the loss, a global norm, or nothing of use.

use super::parameter::ParameterName;
use super::report::SkipReason;

/// Names of the step, best first. Lightning's W&B logger keeps the optimizer step beside W&B's own `_step`.
const STEP_KEYS: [&str; 19] = [
    // Where a tracker counts the calls of `log` as "step", Hugging Face's Trainer gives its own beside it.
    "train/global_step",
    "step",
    "trainer/global_step",
    "global_step",
    "optimizer_step",
    "train/step",
    "train_step",
    "training_step",
    "num_updates",
    "Step",
    "_step",
    "iteration",
    "Iteration",
    "iter",
    "current_steps",
    "steps",
    "index",
    "it",
    "update",
];

/// The rank from which a name may be that of something else: such a value counts only where it can be a step.
const DOUBTFUL_STEP: u8 = 14;

/// Whether the name of a step may be that of something else.
pub(super) fn is_doubtful_step(rank: u8) -> bool {
    (DOUBTFUL_STEP..=STEP_KEYS.len() as u8).contains(&rank)
}

/// Columns of a long table, which has one row a value: what the value is of, best first.
const NAME_KEYS: [&str; 17] = [
    "metricName",
    "metric_name",
    "metric",
    "parameter",
    "parameter_name",
    "param",
    "param_name",
    "variable",
    "module",
    "layer_name",
    "tag",
    "key",
    "name",
    "layer",
    "Metric",
    "Tag",
    "Name",
];

/// Columns of a long table: the value, best first.
const VALUE_KEYS: [&str; 10] =
    ["metricValue", "metric_value", "value", "norm", "l2_norm", "gradient_l2_norm", "number", "data", "Value", "val"];

/// Columns that name the run of a row.
const RUN_NAME_KEYS: [&str; 9] =
    ["run_name", "runName", "experiment_name", "run", "Run", "exp_name", "experiment", "wandb_run", "trial_name"];
/// Columns that number the run of a row.
const RUN_ID_KEYS: [&str; 14] = [
    "run_id",
    "run_uuid",
    "runId",
    "experimentKey",
    "run_number",
    "run_index",
    "exp_id",
    "trial",
    "trial_id",
    "trial_number",
    "job_id",
    "seed",
    "random_seed",
    "fold",
];

/// Objects whose members are those of the row: W&B's records, trackio's rows, Comet's messages.
const MERGED_KEYS: [&str; 5] = ["history", "item", "metrics", "payload", "log"];
/// Objects of a tracker's file that hold last or constant values and no rows.
const PASSED_OVER: [&str; 4] = ["summary", "config", "_wandb", "best_metric"];

/// Names of the training loss, best first.
const LOSS_KEYS: [&str; 9] = [
    "loss",
    "train/loss",
    "train_loss",
    "training_loss",
    "train/train_loss",
    "loss/train",
    "Loss/train",
    "train/loss_step",
    "train_loss_step",
];

/// A global gradient norm's names.
const GLOBAL_KEYS: [&str; 6] =
    ["grad_norm", "total_grad_norm", "global_grad_norm", "gradient_norm", "grad_norm_total", "gradient_norm_total"];

/// What a key of a metrics log names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetricKey<'a> {
    /// The gradient of this parameter.
    Gradient(&'a str),
    /// One gradient norm over all parameters.
    GlobalNorm,
    /// The step; the smaller the rank, the better.
    Step(u8),
    /// The training loss; the smaller the rank, the better.
    Loss(u8),
    /// An object of parameter (or module) → norm.
    Nested,
    /// An object whose members belong to the row itself.
    Merged,
    /// In a table of one row a value, what the value is of; the smaller the rank, the better.
    Name(u8),
    /// In such a table, the second part of the name.
    Variant,
    /// In such a table, the value; the smaller the rank, the better.
    Value(u8),
    /// In such a table, what the value measures, such as `weight_norm`.
    Measure,
    /// The name of the row's run.
    RunName,
    /// The number of the row's run.
    RunId,
    /// A bare name that looks like a parameter's: its gradient, where nothing else of the log names one.
    Bare(&'a str),
    /// What never holds rows.
    PassedOver,
    /// The version field of the project's own log.
    Header,
    /// A gradient, or a relative of one, that is left out.
    Skipped(SkipReason),
    /// Any other metric.
    Other,
}

/// Tells what a key names.
pub(super) fn parse_metric(key: &str) -> MetricKey<'_> {
    match named(key) {
        MetricKey::Other if is_parameter(key.strip_prefix("train/").unwrap_or(key)) => {
            MetricKey::Bare(key.strip_prefix("train/").unwrap_or(key))
        }
        named => named,
    }
}

/// Whether a name without any mark is that of a parameter or module of a layer.
fn is_parameter(name: &str) -> bool {
    name.contains('.') && !name.contains(['/', ' ']) && looks_like_layer(name) && {
        let parsed = ParameterName::parse(name);
        parsed.layer.is_some() && parsed.skip != Some(SkipReason::Unknown)
    }
}

/// Tells what a key names by the names that loggers use.
fn named(key: &str) -> MetricKey<'_> {
    let rank = |names: &[&str]| {
        let exactly = names.iter().position(|name| *name == key);
        let found = exactly.or_else(|| names.iter().rposition(|name| name.eq_ignore_ascii_case(key)));
        found.and_then(|rank| u8::try_from(rank).ok())
    };
    if let Some(rank) = rank(&STEP_KEYS) {
        return MetricKey::Step(rank);
    }
    if let Some(rank) = rank(&LOSS_KEYS) {
        return MetricKey::Loss(rank);
    }
    match key {
        "hydra_grads" => return MetricKey::Header,
        "grads" | "grad_norms" | "gradients" | "gradient_norms" | "Gradients" => return MetricKey::Nested,
        "variant" | "series" | "matrix" | "lora_matrix" => return MetricKey::Variant,
        "statistic" | "stat" | "agg" | "aggregation" | "kind" | "type" | "measure" | "norm_type" | "quantity" => {
            return MetricKey::Measure;
        }
        _ => {}
    }
    for (names, found) in [
        (&MERGED_KEYS[..], MetricKey::Merged),
        (&PASSED_OVER[..], MetricKey::PassedOver),
        (&RUN_NAME_KEYS[..], MetricKey::RunName),
        (&RUN_ID_KEYS[..], MetricKey::RunId),
    ] {
        if rank(names).is_some() {
            return found;
        }
    }
    if let Some(rank) = rank(&NAME_KEYS) {
        return MetricKey::Name(rank);
    }
    if let Some(rank) = rank(&VALUE_KEYS) {
        return MetricKey::Value(rank);
    }
    // W&B's CSV export adds the smallest and largest value of each bucket of steps.
    if key.ends_with("__MIN") || key.ends_with("__MAX") {
        return if key.contains("grad") { MetricKey::Skipped(SkipReason::Aggregates) } else { MetricKey::Other };
    }
    // `train/grad_norm/…`; `run name - grad_norm/…` in W&B's CSV export.
    let starts = std::iter::once(0).chain(key.match_indices(['/', ' ']).map(|(at, _)| at + 1));
    for start in starts {
        let (head, tail) = key.split_at(start);
        if let Some(found) = marker(tail) {
            return found;
        }
        if GLOBAL_KEYS.contains(&tail) {
            // `<parameter>/grad_norm` is that parameter's.
            return if looks_like_layer(head) {
                MetricKey::Gradient(head.trim_end_matches(['/', ' ']))
            } else {
                MetricKey::GlobalNorm
            };
        }
    }
    let suffixes = [".grad", "/grad", "_grad", ".grad_norm", "_grad_norm", "/gradient", ".gradient"];
    match suffixes.iter().find_map(|suffix| key.strip_suffix(suffix)) {
        Some(parameter) if looks_like_layer(parameter) => MetricKey::Gradient(parameter),
        _ => MetricKey::Other,
    }
}

/// A known prefix at the start of a key.
fn marker(key: &str) -> Option<MetricKey<'_>> {
    // Composer's OptimizerMonitor.
    if let Some(rest) = key.strip_prefix("l2_norm/") {
        return Some(match rest.strip_prefix("grad/") {
            Some(parameter) => gradient(parameter),
            None => MetricKey::Skipped(SkipReason::NotAGradient),
        });
    }
    if let Some(rest) = key.strip_prefix("gradients/").or_else(|| key.strip_prefix("Gradients/")) {
        // wandb.watch numbers every model after the first, with nothing between number and name.
        let second = rest.strip_prefix("graph_").is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()));
        return Some(if second { MetricKey::Skipped(SkipReason::SecondModel) } else { gradient(rest) });
    }
    if let Some((norm, rest)) = key.strip_prefix("grad_").and_then(|rest| rest.split_once("_norm")) {
        // Lightning's `grad_norm(module, p)`; before 2.0 an underscore stood before the name.
        let p: Option<f64> = norm.parse().ok();
        if p.is_some() {
            return Some(match rest {
                "_total" => MetricKey::GlobalNorm,
                _ if p != Some(2.0) => MetricKey::Skipped(SkipReason::NotL2),
                _ => rest.strip_prefix(['/', '_', '.']).map_or(MetricKey::Other, gradient),
            });
        }
    }
    let at = key.find(['/', '.', ':'])?;
    let (word, rest) = key.split_at(at);
    let rest = rest.get(1..)?;
    is_gradient_word(word).then(|| gradient(rest.strip_prefix([' ', '/']).unwrap_or(rest))).or_else(|| {
        // `grad_norm_<parameter>`.
        let rest = GRADIENT_PREFIXES.iter().find_map(|prefix| key.strip_prefix(prefix))?;
        is_parameter(rest).then(|| gradient(rest))
    })
}

/// Marks that some write before a parameter with an underscore after them.
const GRADIENT_PREFIXES: [&str; 4] = ["grad_norm_", "gradient_norm_", "grads_", "grad_"];

/// Whether a word stands for gradients, however it is written: `grad_norm`, `Gradients`, `GradNorm`, `grad-l2-norm`.
fn is_gradient_word(word: &str) -> bool {
    let plain: String = word.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let Some(rest) = plain.strip_prefix("grad") else { return plain == "normgrad" };
    let rest = rest.strip_prefix("ient").unwrap_or(rest);
    let rest = rest.strip_prefix('s').unwrap_or(rest);
    matches!(rest, "" | "norm" | "norms" | "l2" | "l2norm" | "l2norms" | "norml2" | "2norm")
}

/// Statistics of a gradient that are not its L2 norm, as a part of a path before or behind the parameter.
const OTHER_STATISTICS: [&str; 24] = [
    "max",
    "min",
    "mean",
    "median",
    "std",
    "var",
    "variance",
    "abs_mean",
    "mean_abs",
    "abs_max",
    "max_abs",
    "l1",
    "l1_norm",
    "norm_l1",
    "linf",
    "inf",
    "inf_norm",
    "linf_norm",
    "norm_inf",
    "sparsity",
    "cosine",
    "snr",
    "sum",
    "rms",
];
/// Words for the L2 norm behind a parameter.
const NORM_ENDS: [&str; 6] = ["/norm", "/l2", "/l2_norm", "/norm_l2", "/grad_norm", "/gradient_norm"];

/// What follows a gradient's prefix.
fn gradient(rest: &str) -> MetricKey<'_> {
    match rest {
        "global" | "total" | "all" | "global_norm" => return MetricKey::GlobalNorm,
        "" => return MetricKey::Other,
        _ => {}
    }
    let ends = [rest.split_once('/').map(|(first, _)| first), rest.rsplit_once('/').map(|(_, last)| last)];
    if ends.into_iter().flatten().any(|part| OTHER_STATISTICS.iter().any(|other| other.eq_ignore_ascii_case(part))) {
        return MetricKey::Skipped(SkipReason::NotL2);
    }
    let rest = NORM_ENDS.iter().find_map(|end| rest.strip_suffix(end)).unwrap_or(rest);
    if rest.ends_with("_epoch") {
        return MetricKey::Skipped(SkipReason::Aggregates);
    }
    MetricKey::Gradient(rest.strip_suffix("_step").unwrap_or(rest))
}

/// Whether a text of a table says what is measured: `grad_norm`, `weight_norm`, `grad max`.
pub(super) fn is_measure(text: &str) -> bool {
    let plain: String = text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let of = ["grad", "weight", "param", "update", "moment", "activation"].iter().any(|word| plain.contains(word));
    let what =
        ["norm", "max", "min", "mean", "std", "var", "l1", "l2", "abs", "rms"].iter().any(|word| plain.contains(word));
    let alone = matches!(plain.as_str(), "grad" | "grads" | "gradient" | "gradients" | "weight" | "weights");
    alone || (of && what && text.len() <= 32 && !text.contains(['.', '/']))
}

/// Whether a name holds a numbered segment, as every parameter of a layer does.
fn looks_like_layer(name: &str) -> bool {
    name.split(['.', '/']).any(|s| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight";

    #[test]
    fn every_loggers_prefix_is_recognised_with_and_without_a_users_own() {
        for prefix in [
            "grad_2.0_norm/",
            "grad_2.0_norm_",
            "grad_2_norm/",
            "l2_norm/grad/",
            "grad_norm/",
            "grad_norms/",
            "grads/",
            "grads_norm/",
            "gradient/",
            "gradients/",
            "gradient_norm/",
            "grad/",
            "grad_norm.",
            "grad_norm_",
            "grad_norm:",
            "Gradients/",
            "GradNorm/",
            "gradient_norms/",
            "grads_norms/",
            "grad_l2_norm/",
            "train/Gradients/",
            "train/grad_norm/",
            "train/grads/",
            "debug/train/l2_norm/grad/",
            "run 7 - grad_norm/",
        ] {
            assert_eq!(parse_metric(&format!("{prefix}{NAME}")), MetricKey::Gradient(NAME), "{prefix}");
        }
        for suffix in [".grad", "/grad", "/grad_norm", "_grad_norm", "/gradient"] {
            assert_eq!(parse_metric(&format!("{NAME}{suffix}")), MetricKey::Gradient(NAME), "{suffix}");
        }
        assert_eq!(parse_metric(&format!("grad_2.0_norm/{NAME}_step")), MetricKey::Gradient(NAME));
        for (prefix, suffix) in [("grad/", "/norm"), ("gradients/", "/l2"), ("train/grads/", "/l2_norm")] {
            assert_eq!(parse_metric(&format!("{prefix}{NAME}{suffix}")), MetricKey::Gradient(NAME), "{suffix}");
        }
    }

    #[test]
    fn global_norms_are_not_taken_for_a_parameters() {
        for key in [
            "grad_norm",
            "train/grad_norm",
            "grad_2.0_norm_total",
            "l2_norm/grad/global",
            "total_grad_norm",
            "grad_norm/global",
            "grad_norm/total",
            "run 7 - train/grad_norm",
        ] {
            assert_eq!(parse_metric(key), MetricKey::GlobalNorm, "{key}");
        }
    }

    #[test]
    fn relatives_of_gradients_are_skipped_with_their_reason() {
        for (key, reason) in [
            (format!("grad_inf_norm/{NAME}"), SkipReason::NotL2),
            (format!("grad_1.0_norm/{NAME}"), SkipReason::NotL2),
            (format!("grad/max/{NAME}"), SkipReason::NotL2),
            (format!("gradients/norm_l1/{NAME}"), SkipReason::NotL2),
            (format!("grad/{NAME}/mean"), SkipReason::NotL2),
            (format!("gradients/graph_1{NAME}"), SkipReason::SecondModel),
            (format!("l2_norm/moment/{NAME}"), SkipReason::NotAGradient),
            (format!("grad_2.0_norm/{NAME}_epoch"), SkipReason::Aggregates),
            (format!("run - grad_norm/{NAME}__MIN"), SkipReason::Aggregates),
        ] {
            assert_eq!(parse_metric(&key), MetricKey::Skipped(reason), "{key}");
        }
    }

    #[test]
    fn weights_and_other_metrics_are_no_gradients() {
        let weight = format!("parameters/{NAME}");
        for key in ["lr", "epoch", "train/loss__MIN", &weight, "graduation", "grad", "grad_norm_foo", "eval.0.loss", ""]
        {
            assert_eq!(parse_metric(key), MetricKey::Other, "{key}");
        }
    }

    #[test]
    fn a_parameters_bare_name_may_be_its_gradient() {
        for key in [NAME, "train/model.layers.3.mlp.up_proj.weight"] {
            assert_eq!(parse_metric(key), MetricKey::Bare(key.trim_start_matches("train/")), "{key}");
        }
    }

    #[test]
    fn long_tables_have_names_values_and_runs() {
        assert!(
            matches!(parse_metric("name"), MetricKey::Name(_))
                && matches!(parse_metric("variable"), MetricKey::Name(_))
        );
        assert!(matches!(parse_metric("value"), MetricKey::Value(_)));
        assert_eq!((parse_metric("run_uuid"), parse_metric("run_name")), (MetricKey::RunId, MetricKey::RunName));
    }

    #[test]
    fn the_optimizer_step_is_preferred_to_wandbs_own_counter() {
        let rank = |key| match parse_metric(key) {
            MetricKey::Step(rank) => rank,
            other => panic!("{key}: {other:?}"),
        };
        assert!(rank("step") < rank("trainer/global_step"));
        assert!(rank("trainer/global_step") < rank("_step"));
    }
}
