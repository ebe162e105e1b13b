//! A gradient profile as text, for links and for the samples that come with the page.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hydra_shared::gradients::{GradientProfile, ModuleNorm, ProfiledSteps, Signal};
use hydra_shared::layout::MOST_MODULES;

/// First byte: version of this form.
const VERSION: u8 = 1;
/// Version, signal, estimated; then first and last step in 8 bytes each, kept, warm-up and non-finite steps in 4.
const HEADER: usize = 3 + 2 * 8 + 3 * 4;
/// A norm in 8 bytes, so that a link leads to the same ranks to the unit, and its standard error in 4.
const MODULE: usize = 8 + 4;

/// The profile with standard errors in single precision and one number of steps for all modules, as a link holds it.
pub fn rounded(mut profile: GradientProfile) -> GradientProfile {
    for module in &mut profile.modules {
        module.standard_error = f64::from(module.standard_error as f32);
        module.steps = profile.steps.kept;
    }
    profile
}

/// Base64url of the profile. [`profile_from_text`] gives back a [`rounded`] profile exactly.
pub fn profile_to_text(profile: &GradientProfile) -> String {
    let signal = match profile.signal {
        Signal::L2 => 0,
        Signal::Rms => 1,
        Signal::Fisher => 2,
    };
    let mut bytes = Vec::with_capacity(HEADER + MODULE * profile.modules.len());
    bytes.extend([VERSION, signal, u8::from(profile.estimated)]);
    let ProfiledSteps { first, last, kept, warm_up, non_finite } = profile.steps;
    bytes.extend([first, last].into_iter().flat_map(u64::to_le_bytes));
    let counts = [kept, warm_up, non_finite].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    bytes.extend(counts.into_iter().flat_map(u32::to_le_bytes));
    for norm in &profile.modules {
        bytes.extend(norm.mean.to_le_bytes());
        bytes.extend((norm.standard_error as f32).to_le_bytes());
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The profile of a text that [`profile_to_text`] wrote; `None` for any other text, and for norms that are none.
pub fn profile_from_text(text: &str) -> Option<GradientProfile> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (header, modules) = bytes.split_at_checked(HEADER)?;
    let (modules, rest) = modules.as_chunks::<MODULE>();
    if !rest.is_empty() || modules.is_empty() || modules.len() > MOST_MODULES {
        return None;
    }
    let &[version, signal, estimated] = header.first_chunk::<3>()?;
    let signal = match (version, signal) {
        (VERSION, 0) => Signal::L2,
        (VERSION, 1) => Signal::Rms,
        (VERSION, 2) => Signal::Fisher,
        _ => return None,
    };
    let long = |at: usize| header.get(at..)?.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    let short = |at: usize| header.get(at..)?.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes) as usize);
    let steps = ProfiledSteps {
        first: long(3)?,
        last: long(11)?,
        kept: short(19)?,
        warm_up: short(23)?,
        non_finite: short(27)?,
    };
    let modules = modules
        .iter()
        .map(|bytes| {
            let mean = f64::from_le_bytes(*bytes.first_chunk::<8>()?);
            let standard_error = f64::from(f32::from_le_bytes(*bytes.last_chunk::<4>()?));
            let sound = [mean, standard_error].into_iter().all(|value| value.is_finite() && value >= 0.0);
            sound.then_some(ModuleNorm { mean, standard_error, steps: steps.kept })
        })
        .collect::<Option<Vec<_>>>()?;
    Some(GradientProfile { signal, estimated: estimated != 0, steps, modules })
}
