//! Ranks that are given: PEFT's `adapter_config.json`, and the page's own table of ranks.

use std::sync::Arc;

use hydra_shared::adapter::{LoraConfig, PatternError, PeftOptions};
use hydra_shared::gradients::{GradientProfile, ModuleNorm};
use hydra_shared::layout::{Layout, Module, Ranks, WrongCount, in_arc};
use hydra_shared::schedule::ScalePolicy;
use hydra_shared::vlm::spec::{PRESETS, preset_layout};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{is_outside, layers_of};
use crate::messages::Packed;

/// The columns that a table of ranks begins with.
pub(super) const TABLE_START: &str = "module,layer,projection,norm,standard error,stage,rank";
/// Place of the rank in such a row, of the norm and of its standard error.
const RANK: usize = 6;
const NORM: usize = 3;
const ERROR: usize = 4;

/// Ranks that a file gives modules, and what else it says of them. Modules that it does not adapt are not among them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "Text", try_from = "Text")]
pub struct GivenRanks {
    /// The ranks of the modules that are adapted.
    pub ranks: Ranks,
    /// How their updates are scaled; none where the file does not say it, or by no rule that is known.
    pub scale: Option<ScalePolicy>,
    /// What a PEFT configuration says besides.
    pub peft: PeftOptions,
    /// The whole configuration, for an adapter that is still to be trained.
    pub config: Option<String>,
    /// Gradient norms, where the file holds them.
    pub profile: Option<GradientProfile>,
    /// What else is to be told.
    pub notices: Vec<String>,
}

/// What goes from worker to page.
#[derive(Serialize, Deserialize)]
struct Text {
    #[serde(with = "in_arc")]
    layout: Arc<Layout>,
    ranks: Vec<u32>,
    scale: Option<ScalePolicy>,
    base_model: Option<String>,
    dropout: f64,
    config: Option<String>,
    profile: Option<Packed>,
    notices: Vec<String>,
}

impl From<GivenRanks> for Text {
    fn from(GivenRanks { ranks, scale, peft, config, profile, notices }: GivenRanks) -> Self {
        let PeftOptions { base_model, dropout } = peft;
        let layout = Arc::clone(ranks.layout());
        let profile = profile.as_ref().map(Packed::from);
        Self { layout, ranks: ranks.as_slice().to_vec(), scale, base_model, dropout, config, profile, notices }
    }
}

impl TryFrom<Text> for GivenRanks {
    type Error = WrongCount;

    fn try_from(text: Text) -> Result<Self, WrongCount> {
        let Text { layout, ranks, scale, base_model, dropout, config, profile, notices } = text;
        let peft = PeftOptions { base_model, dropout };
        let profile = profile.map(GradientProfile::from);
        Ok(Self { ranks: Ranks::new(&layout, ranks)?, scale, peft, config, profile, notices })
    }
}

/// What ranks may be of.
#[derive(Debug, Clone)]
pub struct Known {
    /// The layout that is shown, and the whole decoder of its model.
    pub shown: [Arc<Layout>; 2],
    /// Whether it is only a sample: a file that names another model is then none of this one.
    pub is_sample: bool,
}

impl GivenRanks {
    /// Whether a text is the page's own table, which no weights belong to.
    pub fn is_table(text: &str) -> bool {
        text.strip_prefix('\u{feff}').unwrap_or(text).starts_with(TABLE_START)
    }

    /// Reads a configuration or a table, for what is shown or for a preset that it is of. Regular expressions may take long:
    /// this is for a worker.
    ///
    /// # Errors
    /// Text that is none, a configuration of another kind than LoRA, patterns that cannot be read, ranks of modules that no
    /// known model has.
    pub fn read(text: &str, known: &Known) -> Result<Self, String> {
        let plain = text.strip_prefix('\u{feff}').unwrap_or(text);
        if Self::is_table(text) { of_table(plain, known) } else { of_config(plain, known) }
    }
}

/// The layouts that ranks may be of, the likelier first.
pub(super) fn candidates<'a>(known: &'a Known, named: Option<&str>) -> impl Iterator<Item = Arc<Layout>> + use<'a> {
    let named = named.map(str::to_lowercase).and_then(|name| PRESETS.into_iter().find(|preset| name.ends_with(preset)));
    let first = named.filter(|name| known.shown[0].model() != *name);
    let rest = PRESETS.into_iter().filter(move |name| first != Some(*name));
    let presets = |names: Vec<&'static str>| names.into_iter().filter_map(preset_layout);
    presets(first.into_iter().collect()).chain(known.shown.iter().cloned()).chain(presets(rest.collect()))
}

fn of_config(text: &str, known: &Known) -> Result<GivenRanks, String> {
    let config = LoraConfig::from_json(text).map_err(|error| error.to_string())?;
    if !config.is_lora() {
        return Err(format!("peft_type is {:?}; only LORA has ranks that can be shown", config.peft_type));
    }
    if config.r == 0 || config.rank_pattern.values().any(|rank| *rank == 0) {
        return Err("it gives a rank of 0, which PEFT refuses; take the module out of target_modules".to_owned());
    }
    let base =
        config.other.get("base_model_name_or_path").and_then(|name| name.as_str()).filter(|name| !name.is_empty());
    let is_preset = |name: &str| PRESETS.iter().any(|preset| name.to_lowercase().ends_with(preset));
    if let Some(base) = base.filter(|base| known.is_sample && !is_preset(base)) {
        return Err(format!("it is for {base}, and a sample is shown; drop the config.json of its model with it"));
    }
    let shown = &known.shown;
    let mut best: Option<(Loose, Arc<Layout>, Vec<Option<u32>>)> = None;
    for (place, layout) in candidates(known, base).enumerate() {
        let of_shown = shown.iter().any(|shown| shown.same_modules(&layout));
        let loose = loose(&config, &layout)?;
        // Another model than what is shown has to be meant beyond doubt: by its name, or by every key.
        let is_named = place == 0 && base.is_some_and(is_preset);
        if !of_shown && !is_named && (loose.is_some() || last_layer(&config) != layers_of(&layout).checked_sub(1)) {
            continue;
        }
        let asked = ranks_in_peft(&config, &layout).map_err(|error| error.to_string())?;
        let count = |asked: &[Option<u32>]| asked.iter().flatten().count();
        // Fewer loose keys, then more adapted modules, then fewer modules that are not: the first of equals.
        let better = best.as_ref().is_none_or(|(best, at, ranks)| {
            let worth = |loose: &Loose, layout: &Layout, asked: &[Option<u32>]| {
                (std::cmp::Reverse(loose.count), count(asked), std::cmp::Reverse(layout.len()))
            };
            let found = loose.clone().unwrap_or_default();
            worth(&found, &layout, &asked) > worth(best, at, ranks)
        });
        if better {
            best = Some((loose.unwrap_or_default(), layout, asked));
        }
    }
    let shown = shown[0].model();
    let (loose, layout, asked) =
        best.ok_or_else(|| format!("it is for no model that is known here, and not for {shown}"))?;
    let needs = "drop the config.json of its model first";
    if loose.count > 0 {
        let count = loose.count;
        let first = loose.first;
        return Err(format!(
            "{count} of the modules that it names (such as {first}) are not in {}; {needs}",
            layout.model()
        ));
    }
    let adapted = Arc::new(
        layout
            .only(|position, _| asked.get(position).is_some_and(Option::is_some))
            .map_err(|_| format!("it adapts no module of {}; {needs}", layout.model()))?,
    );
    let mut notices = Vec::new();
    if loose.outside > 0 {
        notices.push(format!(
            "{} of its keys are of modules outside the decoder, which are not shown: an export with other ranks lacks them",
            loose.outside
        ));
    }
    notices.extend(
        config.beyond_plain_lora().map(|keys| format!("an export with other ranks is plain LoRA, without {keys}")),
    );
    let others = keys_that_ranks_lack(&config);
    if !others.is_empty() {
        notices.push(format!("an export with other ranks lacks its {}", others.join(", ")));
    }
    let scale = scale_of(&config, &adapted, &asked).map_err(|error| error.to_string())?;
    if scale.is_none() {
        notices
            .push("its alphas follow no rule of one number: those of an export with other ranks are others".to_owned());
    }
    let peft = PeftOptions { base_model: base.map(str::to_owned), dropout: config.lora_dropout };
    Ok(GivenRanks {
        ranks: held(&adapted, asked.into_iter().flatten(), &mut notices),
        scale,
        peft,
        config: config.for_training().to_json().ok(),
        profile: None,
        notices,
    })
}

/// The keys of plain LoRA that a configuration of a schedule has other values for.
fn keys_that_ranks_lack(config: &LoraConfig) -> Vec<&'static str> {
    let differs =
        |key: &str, usual: Value| config.other.get(key).is_some_and(|value| !value.is_null() && *value != usual);
    let mut keys = Vec::new();
    if config.modules_to_save.as_ref().is_some_and(|modules| !modules.is_empty()) {
        keys.push("modules_to_save");
    }
    if differs("init_lora_weights", Value::Bool(true)) {
        keys.push("init_lora_weights");
    }
    if differs("task_type", "CAUSAL_LM".into()) {
        keys.push("task_type");
    }
    keys
}

/// The page's own table.
fn of_table(text: &str, known: &Known) -> Result<GivenRanks, String> {
    let mut names = Vec::new();
    let mut ranks = Vec::new();
    let mut norms = Vec::new();
    for (index, line) in text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty()) {
        let broken = |what: &str| format!("line {}: {what}", index + 1);
        let cells: Vec<&str> = line.split(',').map(|cell| cell.trim().trim_matches('"')).collect();
        let cell = |at: usize| cells.get(at).copied().ok_or_else(|| broken("it has too few columns"));
        let number = |at: usize| {
            let number = cell(at)?.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
            number.ok_or_else(|| broken("a norm is no number"))
        };
        names.push(cell(0)?.to_owned());
        ranks.push(cell(RANK)?.parse::<u32>().map_err(|_| broken("the rank is no whole number"))?);
        norms.push(ModuleNorm { mean: number(NORM)?, standard_error: number(ERROR)?, steps: 0 });
    }
    let of = |layout: Arc<Layout>| {
        let part = layout.only(|_, module| names.contains(&module.name)).ok()?;
        (part.len() == names.len() && part.modules().iter().zip(&names).all(|(module, name)| module.name == *name))
            .then_some((layout.len(), part))
    };
    let shown = known.shown[0].model();
    // What is shown, or the smallest model that has all of them.
    let of_shown = known.shown.iter().cloned().find_map(of);
    let found = of_shown.or_else(|| candidates(known, None).filter_map(of).min_by_key(|(modules, _)| *modules));
    let (_, part) = found.ok_or_else(|| {
        let first = names.first().map_or("", String::as_str);
        format!("its modules (such as {first}) are not those of {shown}; drop the config.json of their model first")
    })?;
    let part = Arc::new(part);
    let profile = GradientProfile { modules: norms, ..GradientProfile::default() };
    let profile = profile.modules.iter().any(|norm| norm.mean > 0.0).then_some(profile);
    let mut notices = Vec::new();
    let ranks = held(&part, ranks.into_iter(), &mut notices);
    Ok(GivenRanks { ranks, scale: None, peft: PeftOptions::default(), config: None, profile, notices })
}

/// Ranks as their matrices can hold them.
pub(super) fn held(layout: &Arc<Layout>, mut ranks: impl Iterator<Item = u32>, notices: &mut Vec<String>) -> Ranks {
    let mut capped = 0;
    let ranks = Ranks::from_fn(layout, |module| {
        let (rank, highest) = (ranks.next().unwrap_or(0), module.highest_rank(None));
        capped += usize::from(rank > highest);
        rank.min(highest)
    });
    if capped > 0 {
        notices.push(format!("{capped} ranks are above what their matrices can use and were lowered to that"));
    }
    ranks
}

/// What a configuration names and a layout lacks.
#[derive(Debug, Clone, Default)]
struct Loose {
    /// Modules of a decoder.
    count: usize,
    /// The first of them.
    first: String,
    /// Modules of towers, heads and projectors.
    outside: usize,
}

/// Keys of the patterns and targets that match no module; none where all do.
fn loose(config: &LoraConfig, layout: &Layout) -> Result<Option<Loose>, String> {
    let modules: Vec<&str> = layout.modules().iter().map(|module| module.name.as_str()).collect();
    let matched =
        config.patterns().and_then(|patterns| patterns.matched(&modules)).map_err(|error| error.to_string())?;
    let unmatched = matched.into_iter().filter(|(_, count)| *count == 0).map(|(key, _)| key);
    // Whole names alone: a list such as q_proj, c_attn is meant for several kinds of models.
    let is_module = |target: &str| {
        modules
            .iter()
            .any(|name| name.strip_suffix(target).is_some_and(|before| before.is_empty() || before.ends_with('.')))
    };
    let targets = config.target_names().iter().filter(|name| layer_in(name).is_some() && !is_module(name)).cloned();
    let mut found = Loose::default();
    for key in unmatched.chain(targets) {
        if is_outside(&key) {
            found.outside += 1;
        } else {
            if found.count == 0 {
                found.first = key;
            }
            found.count += 1;
        }
    }
    Ok((found.count + found.outside > 0).then_some(found))
}

/// The layer that a name says.
fn layer_in(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

/// The last layer that a configuration names.
fn last_layer(config: &LoraConfig) -> Option<usize> {
    config.target_names().iter().chain(config.rank_pattern.keys()).filter_map(|name| layer_in(name)).max()
}

/// A rank for every module that PEFT would adapt.
fn ranks_in_peft(config: &LoraConfig, layout: &Layout) -> Result<Vec<Option<u32>>, PatternError> {
    let (patterns, targets) = (config.patterns()?, config.targets()?);
    let rank =
        |module: &Module| if targets.adapts(&module.name)? { patterns.rank(&module.name).map(Some) } else { Ok(None) };
    layout.modules().iter().map(rank).collect()
}

/// The rule that gives every module its alpha.
fn scale_of(config: &LoraConfig, adapted: &Layout, asked: &[Option<u32>]) -> Result<Option<ScalePolicy>, PatternError> {
    let patterns = config.patterns()?;
    let mut scales = Vec::new();
    for (module, rank) in adapted.modules().iter().zip(asked.iter().flatten()) {
        scales.push((patterns.scale(&module.name)?, f64::from(*rank)));
    }
    let all = |value: &dyn Fn((f64, f64)) -> f64| {
        let first = scales.first().map(|scale| value(*scale))?;
        scales.iter().all(|scale| (value(*scale) - first).abs() <= 1e-9 * first.abs()).then_some(first)
    };
    Ok(if config.use_rslora {
        all(&|(scale, rank)| scale * rank.sqrt()).map(|alpha| ScalePolicy::RsLora { alpha })
    } else {
        let constant = all(&|(scale, _)| scale).map(|factor| ScalePolicy::Constant { factor });
        constant.or_else(|| all(&|(scale, rank)| scale * rank).map(|alpha| ScalePolicy::FixedAlpha { alpha }))
    })
}
