//! The short forms of settings: signs, stages, scales, signals.

use hydra_shared::gradients::{LayerNorm, Signal};
use hydra_shared::layout::Projection;
use hydra_shared::schedule::{ScalePolicy, Sign, Signs};

use crate::error::{Kind, failure};

/// `l2`, `rms`, `fisher`.
///
/// # Errors
/// Any other word.
pub fn signal(text: &str) -> Result<Signal, String> {
    match text {
        "l2" => Ok(Signal::L2),
        "rms" => Ok(Signal::Rms),
        "fisher" => Ok(Signal::Fisher),
        _ => Err("the signals are l2, rms and fisher".to_owned()),
    }
}

/// `mean`, `root-sum-squares`.
///
/// # Errors
/// Any other word.
pub fn layer_norm(text: &str) -> Result<LayerNorm, String> {
    match text {
        "mean" => Ok(LayerNorm::Mean),
        "root-sum-squares" => Ok(LayerNorm::RootSumSquares),
        _ => Err("the rules are mean and root-sum-squares".to_owned()),
    }
}

/// `q=-,k=-,up=+`; a projection that is not named keeps its rank.
///
/// # Errors
/// [`Kind::Usage`]: a word that is no projection, a sign that is none, a projection given twice.
pub fn signs(text: &str) -> anyhow::Result<Signs> {
    let mut signs = [None; Projection::ALL.len()];
    for part in text.split(',').map(str::trim) {
        let wrong = |why: &str| failure(Kind::Usage, format!("signs \"{text}\": {why}; write them as q=-,k=-,up=+"));
        let (name, sign) = part.split_once('=').ok_or_else(|| wrong(&format!("\"{part}\" has no =")))?;
        let projection = Projection::ALL.into_iter().find(|p| p.name() == name.trim()).ok_or_else(|| {
            let names = Projection::ALL.map(Projection::name).join(", ");
            wrong(&format!("\"{name}\" is no projection (they are {names})"))
        })?;
        let sign = match sign.trim() {
            "-" => Sign::Lower,
            "0" => Sign::Keep,
            "+" => Sign::Raise,
            other => return Err(wrong(&format!("\"{other}\" is none of -, 0, +"))),
        };
        if let Some(slot) = signs.get_mut(projection.index())
            && slot.replace(sign).is_some()
        {
            return Err(wrong(&format!("{projection} is given twice")));
        }
    }
    Ok(signs.map(|sign| sign.unwrap_or(Sign::Keep)))
}

/// `0-11/12-17,20/18-19,21-23`: stages by slashes, layers and ranges of layers by commas.
///
/// # Errors
/// [`Kind::Usage`] for anything else.
pub fn stage_layers(text: &str) -> anyhow::Result<Vec<Vec<usize>>> {
    text.split('/')
        .map(|stage| {
            let mut layers = Vec::new();
            for part in stage.split(',').map(str::trim) {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
                    // A model has far fewer layers; the plan itself says which ones do not exist.
                    (Ok(first), Ok(last)) if first <= last && last < 100_000 => layers.extend(first..=last),
                    _ => {
                        let why = format!("stage layers \"{text}\": \"{part}\" is no layer; write 0-11/12-17/18-23");
                        return Err(failure(Kind::Usage, why));
                    }
                }
            }
            Ok(layers)
        })
        .collect()
}

/// `constant:2`, `fixed-alpha:256`, `rslora:256`; a number alone is a constant scale.
///
/// # Errors
/// [`Kind::Usage`] for anything else, and for a number that is not finite and above 0.
pub fn scale(text: &str) -> anyhow::Result<ScalePolicy> {
    let wrong = || {
        let forms = "write constant:2, fixed-alpha:256 or rslora:256, with a number above 0";
        failure(Kind::Usage, format!("scale \"{text}\" is none; {forms}"))
    };
    let (policy, number) = text.split_once(':').unwrap_or(("constant", text));
    let number = number.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0).ok_or_else(wrong)?;
    match policy.trim() {
        "constant" => Ok(ScalePolicy::Constant { factor: number }),
        "fixed-alpha" => Ok(ScalePolicy::FixedAlpha { alpha: number }),
        "rslora" => Ok(ScalePolicy::RsLora { alpha: number }),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_name_projections_and_the_others_keep_their_rank() {
        let signs = signs("q=-, k=-,up=+").unwrap();
        let expected = [Sign::Lower, Sign::Lower, Sign::Keep, Sign::Keep, Sign::Keep, Sign::Raise, Sign::Keep];
        assert_eq!(signs, expected);
    }

    #[test]
    fn signs_that_cannot_be_read_say_why() {
        for (text, why) in [
            ("q", "has no ="),
            ("x=+", "is no projection"),
            ("q=*", "none of -, 0, +"),
            ("q=+,q=-", "q is given twice"),
        ] {
            let error = signs(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn stages_are_given_as_ranges_and_single_layers() {
        assert_eq!(stage_layers("0-2/3,5/4").unwrap(), [vec![0, 1, 2], vec![3, 5], vec![4]]);
        for text in ["", "0-", "3-1", "a", "0//1", "0-99999999999"] {
            assert!(stage_layers(text).is_err(), "{text}");
        }
    }

    #[test]
    fn scales_have_a_policy_and_a_number_above_zero() {
        assert_eq!(scale("2").unwrap(), ScalePolicy::Constant { factor: 2.0 });
        assert_eq!(scale("rslora:256").unwrap(), ScalePolicy::RsLora { alpha: 256.0 });
        for text in ["", "constant", "constant:0", "fixed-alpha:-1", "rslora:nan", "other:2"] {
            assert!(scale(text).is_err(), "{text}");
        }
    }
}
