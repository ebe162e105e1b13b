//! Signs that a run diverged which its norms do not show: histograms leave NaN out, and a loss of NaN may be written as 0.

/// What a step says of the run's health.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    pub(super) step: u64,
    pub(super) loss: Option<f64>,
    /// The norm over all parameters, where it is NaN or infinite.
    pub(super) global: Option<f64>,
    /// Matrices that have a norm.
    pub(super) matrices: usize,
    /// Elements that the histograms counted; none for exact norms.
    pub(super) elements: Option<f64>,
}

/// The signs, in words.
pub(super) fn signs(steps: &[Seen]) -> Vec<String> {
    let mut signs = Vec::new();
    if let Some(bad) = steps.iter().find(|step| step.loss.is_some_and(|loss| !loss.is_finite())) {
        let loss = bad.loss.unwrap_or(f64::NAN);
        signs.push(format!("the loss is {loss} at step {}: the run may have diverged there", bad.step));
    }
    if let Some(bad) = steps.iter().find(|step| step.global.is_some()) {
        let zero = if bad.loss == Some(0.0) { ", where transformers writes the loss as 0.0" } else { "" };
        let norm = bad.global.unwrap_or(f64::NAN);
        let step = bad.step;
        signs.push(format!("the global gradient norm is {norm} at step {step}{zero}: the run may have diverged there"));
    }
    let watched: Vec<&Seen> = steps.iter().filter(|step| step.matrices > 0 && step.elements.is_some()).collect();
    signs.extend(fewer(&watched));
    signs.extend(missing(steps, &watched));
    signs.extend(lacking(steps));
    signs
}

/// Exact norms that some matrices lack from a step to the end, as NaN looks that was written as an empty cell or as null.
fn lacking(steps: &[Seen]) -> Option<String> {
    let exact: Vec<&Seen> = steps.iter().filter(|step| step.matrices > 0 && step.elements.is_none()).collect();
    let most = exact.iter().map(|step| step.matrices).max()?;
    let full = exact.iter().rposition(|step| step.matrices == most)?;
    let rest = exact.get(full + 1..)?;
    // A last step that is cut off is no sign.
    let first = rest.first().filter(|_| rest.len() > 1)?;
    Some(format!(
        "from step {} on norms are missing (of {} of {most} matrices there): where they were NaN and written as empty or null, the \
         run diverged there; these matrices are averaged over fewer steps",
        first.step,
        most - first.matrices
    ))
}

/// Histograms whose elements, or which themselves, become fewer.
fn fewer(watched: &[&Seen]) -> Option<String> {
    let mut most: (usize, f64) = (0, 0.0);
    for step in watched {
        let elements = step.elements.unwrap_or(0.0);
        if step.matrices < most.0 || elements < most.1 {
            return Some(format!(
                "from step {} on the histograms hold fewer elements ({elements} of {}): what is missing was NaN or infinite, \
                 the run may have diverged there",
                step.step, most.1
            ));
        }
        most = (most.0.max(step.matrices), most.1.max(elements));
    }
    None
}

/// Steps with a loss at which histograms should stand and do not.
fn missing(steps: &[Seen], watched: &[&Seen]) -> Option<String> {
    let gaps = || watched.iter().zip(watched.iter().skip(1)).map(|(a, b)| (a.step, b.step - a.step));
    let usual = gaps().map(|(_, gap)| gap).min()?;
    let (last, end) =
        (watched.last()?.step, steps.iter().filter(|step| step.loss.is_some()).map(|step| step.step).max()?);
    let after = gaps()
        .find(|(at, gap)| *gap > usual && steps.iter().any(|step| step.loss.is_some() && step.step == at + usual))
        .map(|(at, _)| at)
        .or_else(|| (end >= last.saturating_add(usual)).then_some(last))?;
    Some(format!(
        "after step {after} there are losses and no histograms: wandb leaves out gradients that are NaN throughout, the run \
         may have diverged there"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(step: u64, loss: f64, matrices: usize, elements: f64) -> Seen {
        Seen { step, loss: Some(loss), global: None, matrices, elements: Some(elements) }
    }

    #[test]
    fn a_healthy_run_has_no_signs_however_seldom_it_is_watched() {
        let steps: Vec<Seen> =
            (1..=100).map(|s| if s % 20 == 0 { watched(s, 2.0, 4, 64.0) } else { watched(s, 2.0, 0, 0.0) }).collect();
        assert_eq!(signs(&steps[..99]), [""; 0]);
    }

    #[test]
    fn histograms_that_become_fewer_or_stop_are_said() {
        let steps = [watched(1, 2.0, 4, 64.0), watched(2, 2.0, 4, 48.0)];
        assert!(signs(&steps)[0].contains("from step 2 on the histograms hold fewer elements (48 of 64)"));
        let steps: Vec<Seen> = (1..=12).map(|s| watched(s, 2.0, if s < 7 { 4 } else { 0 }, 0.0)).collect();
        assert!(signs(&steps)[0].contains("after step 6 there are losses and no histograms"));
    }

    #[test]
    fn exact_norms_that_some_matrices_lack_to_the_end_are_said() {
        let exact = |step, matrices| Seen { step, loss: Some(2.0), global: None, matrices, elements: None };
        let steps: Vec<Seen> = (1..=8).map(|step| exact(step, if step < 5 { 4 } else { 2 })).collect();
        let said = signs(&steps);
        assert!(said[0].starts_with("from step 5 on norms are missing (of 2 of 4 matrices there)"), "{said:?}");
        // A gap in the middle, or a last step that was cut off.
        for few in [3, 8] {
            let steps: Vec<Seen> = (1..=8).map(|step| exact(step, if step == few { 2 } else { 4 })).collect();
            assert_eq!(signs(&steps), [""; 0]);
        }
    }

    #[test]
    fn a_loss_or_a_global_norm_that_is_nan_is_said() {
        let exact = |loss: f64, global| Seen { step: 3, loss: Some(loss), global, matrices: 4, elements: None };
        assert!(signs(&[exact(f64::NAN, None)])[0].contains("the loss is NaN at step 3"));
        let said = signs(&[exact(0.0, Some(f64::NAN))]);
        assert!(said[0].contains("norm is NaN at step 3, where transformers writes the loss as 0.0"), "{said:?}");
    }
}
