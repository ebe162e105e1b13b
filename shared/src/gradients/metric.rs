//! What a metric's key says: a gradient of which parameter, the step, the loss, a global norm, or nothing of use.

use super::report::SkipReason;

/// Names of the step, best first. Lightning's W&B logger keeps the optimizer step beside W&B's own `_step`.
const STEP_KEYS: [&str; 6] = ["step", "trainer/global_step", "train/global_step", "global_step", "Step", "_step"];

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
    /// The version field of the project's own log.
    Header,
    /// A gradient, or a relative of one, that is left out.
    Skipped(SkipReason),
    /// Any other metric.
    Other,
}

/// Tells what a key names.
pub(super) fn parse_metric(key: &str) -> MetricKey<'_> {
    let rank = |names: &[&str]| names.iter().position(|n| *n == key).and_then(|rank| u8::try_from(rank).ok());
    if let Some(rank) = rank(&STEP_KEYS) {
        return MetricKey::Step(rank);
    }
    if let Some(rank) = rank(&LOSS_KEYS) {
        return MetricKey::Loss(rank);
    }
    match key {
        "hydra_grads" => return MetricKey::Header,
        "grads" | "grad_norms" | "gradients" | "gradient_norms" => return MetricKey::Nested,
        _ => {}
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
    if let Some(rest) = key.strip_prefix("gradients/") {
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
    [
        "grads_norms",
        "grad_norms",
        "grads_norm",
        "grad_norm",
        "gradient_norms",
        "gradient_norm",
        "gradient",
        "grads",
        "grad",
    ]
    .iter()
    .find_map(|word| key.strip_prefix(word)?.strip_prefix(['/', '.']))
    .map(gradient)
}

/// What follows a gradient's prefix.
fn gradient(rest: &str) -> MetricKey<'_> {
    match rest {
        "global" | "total" | "all" | "global_norm" => return MetricKey::GlobalNorm,
        "" => return MetricKey::Other,
        _ => {}
    }
    if rest.ends_with("_epoch") {
        return MetricKey::Skipped(SkipReason::Aggregates);
    }
    MetricKey::Gradient(rest.strip_suffix("_step").unwrap_or(rest))
}

/// Whether a name holds a numbered segment, as every parameter of a layer does.
fn looks_like_layer(name: &str) -> bool {
    name.split(['.', '/']).any(|s| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()))
}
