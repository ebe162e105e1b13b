//! A link's values, brought into bounds.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hydra_shared::gradients::ProfileConfig;
use hydra_shared::layout::{Layout, Ranks};
use hydra_shared::schedule::choices::{Choice, Choices, Kind, Part};
use hydra_shared::schedule::{PlanConfig, ScalePolicy, StageChoice};
use hydra_shared::stages::Stages;
use hydra_shared::vlm::spec::{ModelSpec, PRESETS, preset_layout};

use super::choices_in_order;
use super::runs::runs_from_text;
use crate::profile_text::profile_from_text;
use crate::samples::{Sample, made_up};
use crate::session::{LogChoice, Pinned, Session, Source, unknown_profile};

/// Values of a link, taken one by one.
pub(super) struct Reader {
    pub(super) values: BTreeMap<String, Vec<String>>,
    pub(super) notices: Vec<String>,
    pub(super) log_to_drop: Vec<String>,
}

impl Reader {
    /// The values of a link, with or without its `#`.
    pub(super) fn new(link: &str) -> Self {
        let link = link.strip_prefix('#').unwrap_or(link);
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, value) in form_urlencoded::parse(link.as_bytes()) {
            values.entry(key.into_owned()).or_default().push(value.into_owned());
        }
        Self { values, notices: Vec::new(), log_to_drop: Vec::new() }
    }

    /// The layout of what [`Self::source`] gives.
    pub(super) fn layout_shown(&mut self) -> Arc<Layout> {
        let sample = self.take("sample");
        let chosen = sample.as_deref().and_then(Sample::from_name);
        let unknown = self.take("profile").as_deref() == Some("none");
        let profile = self.take("p");
        let of_log = |layout: &Arc<Layout>| {
            sample.is_none() && profile.as_deref().and_then(profile_from_text).is_some_and(|p| p.fits(layout))
        };
        match self.layout().filter(|layout| unknown || of_log(layout)) {
            Some(layout) => layout,
            None => chosen.unwrap_or(Sample::MobileVlm).layout(),
        }
    }

    pub(super) fn take(&mut self, key: &str) -> Option<String> {
        self.values.remove(key).and_then(|values| values.into_iter().next_back())
    }

    fn bad(&mut self, key: &str, value: &str, used: &str) {
        self.notices.push(format!("{key}={} in the link cannot be used; {used}.", shown(value)));
    }

    /// The choices of one part. What cannot be used, also with what was read before, is left as it was.
    fn choices(&mut self, part: Part, choices: &mut Choices, layers: usize) {
        for (choice, link) in choices_in_order().into_iter().filter(|(choice, _)| choice.part == part) {
            let Some(text) = self.take(link.key) else { continue };
            let mut changed = choices.clone();
            let read = read(choice, &mut changed, &text).filter(|_| can_be_planned(&changed.plan, layers));
            match read {
                None => self.bad(link.key, &text, link.otherwise),
                Some(read) => {
                    if let Read::Nearest(nearest) = read {
                        self.bad(link.key, &text, &format!("{nearest} is used"));
                    }
                    *choices = changed;
                }
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
        let mut choices = Choices::default();
        self.choices(Part::Profile, &mut choices, 0);
        let (default, profiling) = (ProfileConfig::default(), choices.profile);
        let sample = self.take("sample");
        let files = self.values.remove("log").unwrap_or_default();
        let profile = self.take("p").and_then(|text| {
            let profile = profile_from_text(&text);
            if profile.is_none() {
                self.notices.push("The gradient profile in the link is damaged and was left out.".to_owned());
            }
            profile
        });
        let of_log = self.of_log(sample.as_deref());
        let layout = self.layout();
        match (self.take("profile").as_deref(), &layout) {
            (Some("none"), Some(layout)) => {
                let (layout, source) = (Arc::clone(layout), Source::Unknown);
                let profile = unknown_profile(&layout);
                return Session { profile, layout, source, of_log, profiling, ..Session::default() };
            }
            (None, _) => {}
            (Some(other), _) => self.bad("profile", other, "a sample is shown"),
        }
        // For whoever keeps the profile.
        self.take("digest");
        let chosen = sample.as_deref().and_then(Sample::from_name);
        if let (Some(name), None) = (&sample, chosen) {
            self.bad("sample", name, "the first sample is used");
        }
        if chosen.is_none()
            && sample.is_none()
            && let Some(profile) = profile.clone()
        {
            if let Some(layout) = layout.filter(|layout| profile.fits(layout)) {
                let source = Source::Log(files);
                return Session { layout, profile, source, of_log, profiling, ..Session::default() };
            }
            self.notices.push("The profile in the link does not fit its model; a sample is shown instead.".to_owned());
        } else if chosen.is_none() && !files.is_empty() {
            let names: Vec<String> = files.iter().map(|name| shown(name)).collect();
            self.notices.push(format!(
                "The link does not hold the gradient profile, which was too large for it; drop the log again: {}.",
                names.join(", ")
            ));
            self.log_to_drop = files;
        }
        let mut session = Session::of_sample(chosen.unwrap_or(Sample::MobileVlm));
        (session.profiling, session.of_log) = (profiling, of_log);
        if profiling != default {
            match (session.source == Source::Sample(Sample::MobileVlm), profile) {
                (true, _) => session.profile = made_up(&session.layout, profiling.signal),
                (false, Some(profile)) if profile.fits(&session.layout) => session.profile = profile,
                (false, _) => session.profiling = default,
            }
        }
        session
    }

    /// What was chosen of a log. A sample shows all of its own.
    fn of_log(&mut self, sample: Option<&str>) -> LogChoice {
        let [run, include, exclude] = ["run", "include", "exclude"].map(|key| {
            let value = self.take(key);
            if let (Some(value), Some(sample)) = (&value, sample) {
                self.bad(key, value, &format!("the sample {sample} is shown as it is"));
            }
            value.filter(|value| sample.is_none() && !value.is_empty())
        });
        LogChoice { run, include: include.unwrap_or_default(), exclude: exclude.unwrap_or_default() }
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

    /// The choices of the plan.
    pub(super) fn plan(&mut self, session: &mut Session) {
        let mut choices = session.choices();
        self.choices(Part::Plan, &mut choices, session.layout.blocks().len());
        session.plan = choices.plan;
    }

    /// What PEFT configurations say besides.
    pub(super) fn peft(&mut self, session: &mut Session) {
        session.peft.base_model = self.take("base");
        if let Some(text) = self.take("dropout") {
            match text.parse::<f64>().ok().filter(|dropout| (0.0..1.0).contains(dropout)) {
                Some(dropout) => session.peft.dropout = dropout,
                None => self.bad("dropout", &text, "0 is used"),
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
                    let clamped = rank.min(full(module));
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

/// How a value was read.
enum Read {
    AsGiven,
    /// It was outside the bounds, and this one is the nearest.
    Nearest(String),
}

/// Puts a value of a link, brought within bounds; none for one that cannot be used.
fn read(choice: &Choice, choices: &mut Choices, text: &str) -> Option<Read> {
    match &choice.kind {
        Kind::Switch { set, .. } => match text {
            "1" => set(choices, true),
            "0" => set(choices, false),
            _ => return None,
        },
        Kind::Whole { bounds, most, set, .. } => {
            let number = text.parse::<u64>().ok().filter(|number| number <= most)?;
            let nearest = number.clamp(bounds.0, bounds.1);
            set(choices, Some(nearest));
            return Some(if nearest == number { Read::AsGiven } else { Read::Nearest(nearest.to_string()) });
        }
        Kind::Number { bounds, set, .. } => {
            let number = text.parse::<f64>().ok().filter(|number| !number.is_nan())?;
            let nearest = number.clamp(bounds.0, bounds.1);
            set(choices, nearest);
            return Some(if nearest == number { Read::AsGiven } else { Read::Nearest(nearest.to_string()) });
        }
        Kind::Words { words, set, .. } => {
            let word = words.iter().find(|word| word.name == text && word.label.is_some())?;
            set(choices, Some(word.name).filter(|name| *name != choice.unset));
        }
        Kind::Scale { bounds, set, .. } => {
            let scale = text.parse::<ScalePolicy>().ok()?;
            set(choices, Some(scale).filter(|scale| (bounds.0..=bounds.1).contains(&scale.number()))?);
        }
        Kind::Ranks { .. } | Kind::Layers { .. } | Kind::Signs { .. } if text.is_empty() => return None,
        Kind::Ranks { .. } | Kind::Layers { .. } | Kind::Signs { .. } => choice.read(choices, text).ok()?,
    }
    Some(Read::AsGiven)
}

/// Whether stages by hand hold every layer once, and ranks by hand are one per stage.
fn can_be_planned(plan: &PlanConfig, layers: usize) -> bool {
    let stages = match &plan.stages {
        StageChoice::Clustered(stages) => Some(stages.count),
        StageChoice::ByHand(stages) => Stages::by_hand(stages, &vec![0.0; layers]).ok().map(|stages| stages.len()),
    };
    stages.is_some_and(|stages| plan.stage_ranks.weights(stages, plan.min_rank == 0).is_ok())
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
