//! The session as the part of an address after `#`, and back.
//!
//! `#v=1&sample=mobilevlm&r=128&stages=3…`: keys that a reader understands, only what differs from the defaults, and the
//! gradient profile in base64url where it is not a sample's. Unknown keys are passed over and bad values brought to the
//! nearest good one, each with a notice: a link from a newer or an older page still opens.

mod profile_text;

use std::collections::BTreeMap;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hydra_shared::gradients::{LayerNorm, ProfileConfig, Signal};
use hydra_shared::model_spec::{ModelSpec, PRESETS, Projection};
use hydra_shared::schedule::{Baseline, Counting, PlanConfig, ScalePolicy, Sign, Signs, StageChoice, StageRanks};
use hydra_shared::stages::StageConfig;

use crate::samples::{Sample, made_up};
use crate::session::{Pinned, Session, Source, unknown_profile};

pub use profile_text::{profile_from_text, profile_to_text, rounded};

/// The version of the format that is written.
pub const VERSION: &str = "1";
/// Longest link that still holds the profile, in characters. Chat programs and issue trackers cut longer ones.
pub const LONGEST: usize = 16_000;
/// What text files carry so that they lead back to the session: the link after this mark.
pub const MARK: &str = "hydra-playground: ";

/// Bounds of the controls; the page's inputs have the same.
pub mod bounds {
    /// Base rank.
    pub const BASE_RANK: (u32, u32) = (1, 1024);
    /// Stages.
    pub const STAGES: (usize, usize) = (1, 12);
    /// Ratio of stage ranks.
    pub const RATIO: (f64, f64) = (1.0, 8.0);
    /// Increment of the fine step.
    pub const DELTA: (u32, u32) = (0, 64);
    /// Share of the run that is left out.
    pub const WARM_UP: (f64, f64) = (0.0, 0.9);
    /// Number of the scale policy: factor or α.
    pub const SCALE: (f64, f64) = (0.001, 65_536.0);
}

/// What a link says; by default, what is seen without one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Opened {
    /// The session.
    pub session: Session,
    /// Keys that are the page's own: the open view, the theme.
    pub page: BTreeMap<String, String>,
    /// What was passed over or changed.
    pub notices: Vec<String>,
}

/// Keys that the page adds to a session's: passed through as they are.
pub const PAGE_KEYS: [&str; 2] = ["view", "theme"];

/// The link to a session, without `#`. `page` adds keys of the page's own. The second value tells whether the profile is
/// in it: one that is too long is left out.
pub fn to_link(session: &Session, page: &BTreeMap<String, String>) -> (String, bool) {
    let whole = write(session, page, true);
    if whole.len() <= LONGEST { (whole, true) } else { (write(session, page, false), false) }
}

fn write(session: &Session, page: &BTreeMap<String, String>, with_profile: bool) -> String {
    let mut out = form_urlencoded::Serializer::new(String::new());
    let plan = &session.plan;
    out.append_pair("v", VERSION);
    match &session.source {
        Source::Sample(sample) => {
            out.append_pair("sample", sample.name());
        }
        Source::Log(files) => {
            for file in files {
                out.append_pair("log", file);
            }
        }
        Source::Unknown => {
            out.append_pair("profile", "none");
        }
    }
    if !matches!(session.source, Source::Sample(_)) {
        if ModelSpec::preset(&session.model.name).is_ok_and(|preset| preset == session.model) {
            out.append_pair("model", &session.model.name);
        } else if let Ok(json) = serde_json::to_string(&session.model) {
            out.append_pair("config", &URL_SAFE_NO_PAD.encode(json));
        }
    }
    let from_log = session.profiling != ProfileConfig::default() || matches!(session.source, Source::Log(_));
    let made_up = session.source == Source::Sample(Sample::MobileVlm);
    if from_log && !made_up && with_profile {
        out.append_pair("p", &profile_to_text(&session.profile));
    }
    let default = PlanConfig::default();
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            out.append_pair(key, &value);
        }
    };
    put("r", Some(plan.base_rank.to_string()));
    match &plan.stages {
        StageChoice::Clustered(stages) => {
            put("stages", Some(stages.count.to_string()));
            put("contiguous", stages.contiguous.then(|| "1".to_owned()));
            put("seed", (stages.seed != 0).then(|| stages.seed.to_string()));
        }
        StageChoice::ByHand(layers) => put("layers", Some(stages_text(layers))),
    }
    put(
        "ratio",
        match &plan.stage_ranks {
            StageRanks::Ratio(ratio) => Some(ratio.to_string()),
            StageRanks::ByHand(_) => None,
        },
    );
    put(
        "ranks",
        match &plan.stage_ranks {
            StageRanks::ByHand(ranks) => Some(joined(ranks)),
            StageRanks::Ratio(_) => None,
        },
    );
    put("delta", Some(plan.delta.to_string()));
    put("signs", plan.signs.as_ref().map(signs_text));
    put("norm", (plan.layer_norm != LayerNorm::default()).then(|| "root-sum-squares".to_owned()));
    put("signal", (session.profiling.signal != Signal::L2).then(|| signal_name(session.profiling.signal).to_owned()));
    let warm_up = session.profiling.warm_up_share;
    put("warmup", (warm_up != ProfileConfig::default().warm_up_share).then(|| warm_up.to_string()));
    put("budget", plan.budget.map(|budget| budget.to_string()));
    put("count", (plan.counting != Counting::default()).then(|| "rank-units".to_owned()));
    put("scale", (plan.scale != default.scale).then(|| scale_text(plan.scale)));
    put("cap", plan.cap.map(|cap| cap.to_string()));
    put("preset", session.preset.map(|preset| preset.name().to_owned()));
    let by_hand: Vec<String> = session.by_hand.iter().map(|(module, rank)| format!("{module}:{rank}")).collect();
    put("hand", (!by_hand.is_empty()).then(|| by_hand.join(",")));
    put("rebalance", session.rebalance.then(|| "1".to_owned()));
    put("pin", session.pinned.as_ref().map(|pinned| pinned.name.clone()));
    put("pinned", session.pinned.as_ref().map(|pinned| runs_text(&pinned.ranks)));
    for (key, value) in page {
        put(key, Some(value.clone()));
    }
    out.finish()
}

/// Reads a link, with or without its `#`.
pub fn from_link(link: &str) -> Opened {
    let link = link.strip_prefix('#').unwrap_or(link);
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in form_urlencoded::parse(link.as_bytes()) {
        values.entry(key.into_owned()).or_default().push(value.into_owned());
    }
    let mut reader = Reader { values, notices: Vec::new() };
    let version = reader.take("v");
    if version.as_deref().is_some_and(|version| version != VERSION) {
        reader.notices.push("The link was written by another version of this page; what it knows is used.".to_owned());
    }
    let mut session = reader.source();
    reader.plan(&mut session);
    reader.ranks(&mut session);
    let page = PAGE_KEYS.into_iter().filter_map(|key| reader.take(key).map(|value| (key.to_owned(), value))).collect();
    let unknown: Vec<String> = std::mem::take(&mut reader.values).into_keys().collect();
    if !unknown.is_empty() {
        let list: Vec<String> = unknown.iter().take(5).map(|key| shown(key)).collect();
        reader.notices.push(format!("The link holds keys that this page does not know: {}.", list.join(", ")));
    }
    Opened { session, page, notices: reader.notices }
}

/// The link that a text file carries after [`MARK`], if it does.
pub fn find_in(text: &str) -> Option<String> {
    let (_, after) = text.split_once(MARK)?;
    let end = after.find(|c: char| c.is_whitespace() || c == '"' || c == '<').unwrap_or(after.len());
    let (_, link) = after.get(..end)?.split_once('#')?;
    // In a picture it is escaped as XML; links hold no other character that would be.
    Some(link.replace("&amp;", "&"))
}

/// Values of a link, taken one by one.
struct Reader {
    values: BTreeMap<String, Vec<String>>,
    notices: Vec<String>,
}

impl Reader {
    fn take(&mut self, key: &str) -> Option<String> {
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
    fn source(&mut self) -> Session {
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
        let model = self.model();
        match (self.take("profile").as_deref(), &model) {
            (Some("none"), Some(model)) => {
                let (model, source) = (model.clone(), Source::Unknown);
                return Session { profile: unknown_profile(&model), model, source, profiling, ..Session::default() };
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
            if let Some(model) = model.filter(|model| profile.fits(model)) {
                return Session { model, profile, source: Source::Log(files), profiling, ..Session::default() };
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
                (true, _) => session.profile = made_up(&session.model, profiling.signal),
                (false, Some(profile)) if profile.fits(&session.model) => session.profile = profile,
                (false, _) => session.profiling = default,
            }
        }
        session
    }

    fn model(&mut self) -> Option<ModelSpec> {
        let config = self.take("config");
        if let Some(name) = self.take("model") {
            let preset = ModelSpec::preset(&name).ok();
            if preset.is_none() {
                self.bad("model", &name, &format!("the models known by name are {}", PRESETS.join(", ")));
            }
            return preset;
        }
        let text = config?;
        let model = URL_SAFE_NO_PAD.decode(&text).ok().and_then(|json| serde_json::from_slice::<ModelSpec>(&json).ok());
        let model = model.filter(is_plausible);
        if model.is_none() {
            self.notices.push("The model in the link is damaged and was left out.".to_owned());
        }
        model
    }

    fn plan(&mut self, session: &mut Session) {
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
            match stages_from_text(&text, session.model.decoder.layers) {
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
    fn ranks(&mut self, session: &mut Session) {
        let modules = session.model.module_count();
        let full = |module: usize| {
            let projection = Projection::ALL.get(module % Projection::ALL.len()).copied().unwrap_or(Projection::Q);
            session.model.shape(projection).full_rank()
        };
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
            match ranks.filter(|ranks| ranks.iter().enumerate().all(|(m, r)| (1..=full(m)).contains(r))) {
                Some(ranks) => {
                    let name = name.unwrap_or_else(|| "pinned".to_owned());
                    session.pinned = Some(Pinned { name, ranks });
                }
                None => self.notices.push("The pinned schedule in the link does not fit and was left out.".to_owned()),
            }
        }
    }
}

/// A model whose numbers lead to no absurd amount of work.
pub fn is_plausible(model: &ModelSpec) -> bool {
    let widths = Projection::ALL.into_iter().flat_map(|p| [model.shape(p).d_in, model.shape(p).d_out]);
    (1..=ModelSpec::MOST_LAYERS).contains(&model.decoder.layers)
        && widths.into_iter().all(|width| (1..=ModelSpec::MOST_WIDTH).contains(&width))
        && model
            .layers_path
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

/// The first characters of a text from outside.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    if short.len() < text.len() { short + "…" } else { short }
}

fn joined(ranks: &[u32]) -> String {
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

fn scale_from_text(text: &str) -> Option<ScalePolicy> {
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

fn signs_from_text(text: &str) -> Option<Signs> {
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
fn stages_from_text(text: &str, layers: usize) -> Option<Vec<Vec<usize>>> {
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
fn runs_text(ranks: &[u32]) -> String {
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

fn runs_from_text(text: &str, modules: usize) -> Option<Vec<u32>> {
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

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests;
