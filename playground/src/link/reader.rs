//! A link's values, brought into bounds.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hydra_shared::gradients::{LayerNorm, ProfileConfig, Signal};
use hydra_shared::layout::{Layout, Ranks};
use hydra_shared::schedule::{Baseline, Counting, StageChoice, StageRanks};
use hydra_shared::stages::StageConfig;
use hydra_shared::vlm::spec::{ModelSpec, PRESETS, preset_layout};

use super::bounds;
use super::texts::{runs_from_text, scale_from_text, signal_name, signs_from_text, stages_from_text};
use crate::profile_text::profile_from_text;
use crate::samples::{Sample, made_up};
use crate::session::{Pinned, Session, Source, unknown_profile};

/// Values of a link, taken one by one.
pub(super) struct Reader {
    pub(super) values: BTreeMap<String, Vec<String>>,
    pub(super) notices: Vec<String>,
}

impl Reader {
    pub(super) fn take(&mut self, key: &str) -> Option<String> {
        self.values.remove(key).and_then(|values| values.into_iter().next_back())
    }

    fn bad(&mut self, key: &str, value: &str, used: &str) {
        self.notices.push(format!("{key}={} in the link cannot be used; {used}.", shown(value)));
    }

    /// A number within bounds; outside them, the nearest bound.
    fn number<T: std::str::FromStr + PartialOrd + Copy + std::fmt::Display>(
        &mut self,
        key: &str,
        (low, high): (T, T),
    ) -> Option<T> {
        let text = self.take(key)?;
        match text.parse::<T>() {
            // NaN is neither below nor above: it fails both comparisons.
            Ok(value) if value >= low && value <= high => Some(value),
            Ok(value) if value < low || value > high => {
                let nearest = if value < low { low } else { high };
                self.bad(key, &text, &format!("{nearest} is used"));
                Some(nearest)
            }
            _ => {
                self.bad(key, &text, "the default is used");
                None
            }
        }
    }

    fn flag(&mut self, key: &str) -> bool {
        match self.take(key).as_deref() {
            Some("1") => true,
            None | Some("0") => false,
            Some(other) => {
                self.bad(key, other, "it is taken as off");
                false
            }
        }
    }

    /// Model, profile and where they come from.
    pub(super) fn source(&mut self) -> Session {
        let signal = self.take("signal").and_then(|text| {
            let signal = [Signal::L2, Signal::Rms, Signal::Fisher].into_iter().find(|s| signal_name(*s) == text);
            if signal.is_none() {
                self.bad("signal", &text, "l2 is used");
            }
            signal
        });
        let default = ProfileConfig::default();
        let profiling = ProfileConfig {
            signal: signal.unwrap_or(default.signal),
            warm_up_share: self.number("warmup", bounds::WARM_UP).unwrap_or(default.warm_up_share),
            ..default
        };
        let sample = self.take("sample");
        let files = self.values.remove("log").unwrap_or_default();
        let profile = self.take("p").and_then(|text| {
            let profile = profile_from_text(&text);
            if profile.is_none() {
                self.notices.push("The gradient profile in the link is damaged and was left out.".to_owned());
            }
            profile
        });
        let layout = self.layout();
        match (self.take("profile").as_deref(), &layout) {
            (Some("none"), Some(layout)) => {
                let (layout, source) = (Arc::clone(layout), Source::Unknown);
                return Session { profile: unknown_profile(&layout), layout, source, profiling, ..Session::default() };
            }
            (None, _) => {}
            (Some(other), _) => self.bad("profile", other, "a sample is shown"),
        }
        let chosen = sample.as_deref().and_then(Sample::from_name);
        if let (Some(name), None) = (&sample, chosen) {
            self.bad("sample", name, "the first sample is used");
        }
        if chosen.is_none()
            && sample.is_none()
            && let Some(profile) = profile.clone()
        {
            if let Some(layout) = layout.filter(|layout| profile.fits(layout)) {
                return Session { layout, profile, source: Source::Log(files), profiling, ..Session::default() };
            }
            self.notices.push("The profile in the link does not fit its model; a sample is shown instead.".to_owned());
        } else if chosen.is_none() && !files.is_empty() {
            let names: Vec<String> = files.iter().map(|name| shown(name)).collect();
            self.notices.push(format!(
                "The link does not hold the gradient profile, which was too large for it; drop the log again: {}.",
                names.join(", ")
            ));
        }
        let mut session = Session::of_sample(chosen.unwrap_or(Sample::MobileVlm));
        session.profiling = profiling;
        if profiling != default {
            match (session.source == Source::Sample(Sample::MobileVlm), profile) {
                (true, _) => session.profile = made_up(&session.layout, profiling.signal),
                (false, Some(profile)) if profile.fits(&session.layout) => session.profile = profile,
                (false, _) => session.profiling = default,
            }
        }
        session
    }

    fn layout(&mut self) -> Option<Arc<Layout>> {
        let config = self.take("config");
        if let Some(name) = self.take("model") {
            let preset = preset_layout(&name);
            if preset.is_none() {
                self.bad("model", &name, &format!("the models known by name are {}", PRESETS.join(", ")));
            }
            return preset;
        }
        let text = config?;
        let layout = URL_SAFE_NO_PAD.decode(&text).ok().and_then(|json| layout_from_json(&json));
        if layout.is_none() {
            self.notices.push("The model in the link is damaged and was left out.".to_owned());
        }
        layout
    }

    pub(super) fn plan(&mut self, session: &mut Session) {
        let plan = &mut session.plan;
        if let Some(rank) = self.number("r", bounds::BASE_RANK) {
            plan.base_rank = rank;
        }
        let default = StageConfig::default();
        let stages = StageConfig {
            count: self.number("stages", bounds::STAGES).unwrap_or(default.count),
            contiguous: self.flag("contiguous"),
            seed: self.number("seed", (0, u64::MAX)).unwrap_or(default.seed),
            ..default
        };
        plan.stages = StageChoice::Clustered(stages);
        if let Some(text) = self.take("layers") {
            match stages_from_text(&text, session.layout.blocks().len()) {
                Some(layers) => plan.stages = StageChoice::ByHand(layers),
                None => self.bad("layers", &text, "K-means decides"),
            }
        }
        if let Some(ratio) = self.number("ratio", bounds::RATIO) {
            plan.stage_ranks = StageRanks::Ratio(ratio);
        }
        if let Some(text) = self.take("ranks") {
            let ranks: Option<Vec<u32>> = text.split(',').map(|rank| rank.parse().ok().filter(|r| *r > 0)).collect();
            let count = match &plan.stages {
                StageChoice::Clustered(stages) => stages.count,
                StageChoice::ByHand(layers) => layers.len(),
            };
            match ranks.filter(|ranks| ranks.is_sorted() && ranks.len() == count) {
                Some(ranks) => plan.stage_ranks = StageRanks::ByHand(ranks),
                None => self.bad("ranks", &text, "the ratio decides"),
            }
        }
        if let Some(delta) = self.number("delta", bounds::DELTA) {
            plan.delta = delta;
        }
        if let Some(text) = self.take("signs") {
            plan.signs = signs_from_text(&text);
            if plan.signs.is_none() {
                self.bad("signs", &text, "each layer's norms decide");
            }
        }
        match self.take("norm").as_deref() {
            None | Some("mean") => {}
            Some("root-sum-squares") => plan.layer_norm = LayerNorm::RootSumSquares,
            Some(other) => self.bad("norm", other, "the mean is used"),
        }
        match self.take("count").as_deref() {
            None | Some("parameters") => {}
            Some("rank-units") => plan.counting = Counting::RankUnits,
            Some(other) => self.bad("count", other, "parameters are counted"),
        }
        plan.budget = self.number("budget", (1, u64::MAX));
        if let Some(text) = self.take("scale") {
            match scale_from_text(&text) {
                Some(scale) => plan.scale = scale,
                None => self.bad("scale", &text, "constant:2 is used"),
            }
        }
        plan.cap = self.number("cap", (1, u32::MAX));
        if let Some(name) = self.take("preset") {
            session.preset = name.parse::<Baseline>().ok();
            if session.preset.is_none() {
                self.bad("preset", &name, "HyDRA's own schedule is used");
            }
        }
    }

    /// Ranks set by hand and the pinned schedule.
    pub(super) fn ranks(&mut self, session: &mut Session) {
        let layout = Arc::clone(&session.layout);
        let modules = layout.len();
        let full = |module: usize| layout.modules().get(module).map_or(1, |module| module.highest_rank(None));
        for entry in self.take("hand").iter().flat_map(|text| text.split(',')) {
            let pair =
                entry.split_once(':').and_then(|(m, r)| Some((m.parse::<usize>().ok()?, r.parse::<u32>().ok()?)));
            match pair.filter(|(module, _)| *module < modules) {
                Some((module, rank)) => {
                    let clamped = rank.clamp(1, full(module));
                    if clamped != rank {
                        self.bad("hand", entry, &format!("rank {clamped} is used"));
                    }
                    session.by_hand.insert(module, clamped);
                }
                None => self.bad("hand", entry, "it is passed over"),
            }
        }
        session.rebalance = self.flag("rebalance");
        let name = self.take("pin");
        if let Some(text) = self.take("pinned") {
            let ranks = runs_from_text(&text, modules);
            let ranks = ranks.and_then(|ranks| Ranks::new(&layout, ranks).ok());
            match ranks.filter(|ranks| !ranks.as_slice().contains(&0) && ranks.fit_their_modules(None)) {
                Some(ranks) => {
                    let name = name.unwrap_or_else(|| "pinned".to_owned());
                    session.pinned = Some(Pinned { name, ranks });
                }
                None => self.notices.push("The pinned schedule in the link does not fit and was left out.".to_owned()),
            }
        }
    }
}

/// The layout in a link: as it is written now, or the model that older pages wrote.
fn layout_from_json(json: &[u8]) -> Option<Arc<Layout>> {
    match serde_json::from_slice::<Layout>(json) {
        Ok(layout) => Some(Arc::new(layout)),
        Err(_) => serde_json::from_slice::<ModelSpec>(json).ok()?.layout().ok(),
    }
}

/// The first characters of a text from outside.
pub(super) fn shown(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    if short.len() < text.len() { short + "…" } else { short }
}
