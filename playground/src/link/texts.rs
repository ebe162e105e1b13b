//! Choices as short texts, and back: for links, settings and commands.

use std::fmt::Write;

use hydra_shared::gradients::Signal;
use hydra_shared::layout::Projection;
use hydra_shared::schedule::{ScalePolicy, Sign, Signs};

use super::bounds;

pub(super) fn joined(ranks: &[u32]) -> String {
    ranks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Name of a signal in links and settings.
pub fn signal_name(signal: Signal) -> &'static str {
    match signal {
        Signal::L2 => "l2",
        Signal::Rms => "rms",
        Signal::Fisher => "fisher",
    }
}

/// `constant:2`, as `trainer plan --scale` takes it.
pub fn scale_text(scale: ScalePolicy) -> String {
    match scale {
        ScalePolicy::Constant { factor } => format!("constant:{factor}"),
        ScalePolicy::FixedAlpha { alpha } => format!("fixed-alpha:{alpha}"),
        ScalePolicy::RsLora { alpha } => format!("rslora:{alpha}"),
    }
}

pub(super) fn scale_from_text(text: &str) -> Option<ScalePolicy> {
    let (policy, number) = text.split_once(':')?;
    let (low, high) = bounds::SCALE;
    let number = number.parse::<f64>().ok().filter(|n| (low..=high).contains(n))?;
    Some(match policy {
        "constant" => ScalePolicy::Constant { factor: number },
        "fixed-alpha" => ScalePolicy::FixedAlpha { alpha: number },
        "rslora" => ScalePolicy::RsLora { alpha: number },
        _ => return None,
    })
}

/// `q=-,k=-,up=+`, as `trainer plan --signs` takes it.
pub fn signs_text(signs: &Signs) -> String {
    let sign = |sign: &Sign| match sign {
        Sign::Lower => "-",
        Sign::Keep => "0",
        Sign::Raise => "+",
    };
    let parts: Vec<String> =
        Projection::ALL.iter().zip(signs).map(|(p, s)| format!("{}={}", p.name(), sign(s))).collect();
    parts.join(",")
}

pub(super) fn signs_from_text(text: &str) -> Option<Signs> {
    let mut signs = [Sign::Keep; Projection::ALL.len()];
    for part in text.split(',') {
        let (name, sign) = part.split_once('=')?;
        let projection = Projection::ALL.into_iter().find(|p| p.name() == name)?;
        *signs.get_mut(projection.index())? = match sign {
            "-" => Sign::Lower,
            "0" => Sign::Keep,
            "+" => Sign::Raise,
            _ => return None,
        };
    }
    Some(signs)
}

/// `0-11/12-17,20`, as `trainer plan --stage-layers` takes it.
pub fn stages_text(stages: &[Vec<usize>]) -> String {
    let mut text = String::new();
    for (index, layers) in stages.iter().enumerate() {
        if index > 0 {
            text.push('/');
        }
        text.push_str(&ranges(layers, "-", ","));
    }
    text
}

/// Ascending numbers as ranges: `0-4,7`.
pub fn ranges(numbers: &[usize], dash: &str, comma: &str) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let run = |&(a, b): &(usize, usize)| if a == b { a.to_string() } else { format!("{a}{dash}{b}") };
    runs.iter().map(run).collect::<Vec<_>>().join(comma)
}

/// Stages that hold every layer once.
pub(super) fn stages_from_text(text: &str, layers: usize) -> Option<Vec<Vec<usize>>> {
    let mut seen = vec![false; layers];
    let mut stages = Vec::new();
    for stage in text.split('/') {
        let mut members = Vec::new();
        for part in stage.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
            for layer in first..=last.min(layers) {
                if std::mem::replace(seen.get_mut(layer)?, true) {
                    return None;
                }
                members.push(layer);
            }
        }
        if members.is_empty() {
            return None;
        }
        stages.push(members);
    }
    seen.into_iter().all(|layer| layer).then_some(stages)
}

/// Ranks with repetitions: `64x84,128x42`.
pub(super) fn runs_text(ranks: &[u32]) -> String {
    let mut text = String::new();
    for run in ranks.chunk_by(|a, b| a == b) {
        if let Some(rank) = run.first() {
            let comma = if text.is_empty() { "" } else { "," };
            // Writing to a String cannot fail.
            let _ = match run.len() {
                1 => write!(text, "{comma}{rank}"),
                length => write!(text, "{comma}{rank}x{length}"),
            };
        }
    }
    text
}

pub(super) fn runs_from_text(text: &str, modules: usize) -> Option<Vec<u32>> {
    let mut ranks = Vec::with_capacity(modules);
    for part in text.split(',') {
        let (rank, length) = part.split_once('x').unwrap_or((part, "1"));
        let (rank, length) = (rank.parse::<u32>().ok()?, length.parse::<usize>().ok()?);
        if length > modules - ranks.len() {
            return None;
        }
        ranks.extend(std::iter::repeat_n(rank, length));
    }
    (ranks.len() == modules).then_some(ranks)
}
