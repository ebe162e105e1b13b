//! The session as the part of an address after `#`, and back.
//!
//! `#v=1&sample=mobilevlm&r=128&stages=3…`: keys that a reader understands, only what differs from the defaults, and the
//! gradient profile in base64url where it is not a sample's. Unknown keys are passed over and bad values brought to the
//! nearest good one, each with a notice: a link from a newer or an older page still opens.

mod reader;
mod runs;

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hydra_shared::gradients::ProfileConfig;
use hydra_shared::layout::Layout;
use hydra_shared::schedule::choices::{ALL, Choice, InLink, Kind};
use hydra_shared::vlm::spec::preset_layout;

use self::reader::{Reader, shown};
use self::runs::runs_text;
use crate::profile_text::profile_to_text;
use crate::samples::Sample;
use crate::session::{LogChoice, Session, Source};

/// The version of the format that is written.
pub const VERSION: &str = "1";
/// Longest link that still holds the profile, in characters. Chat programs and issue trackers cut longer ones.
pub const LONGEST: usize = 16_000;
/// What text files carry so that they lead back to the session: the link after this mark.
pub const MARK: &str = "hydra-playground: ";

/// Keys of choices in the order in which links have always had them; others come after.
const ORDER: [&str; 17] = [
    "r",
    "stages",
    "contiguous",
    "seed",
    "layers",
    "ratio",
    "ranks",
    "delta",
    "signs",
    "norm",
    "signal",
    "warmup",
    "budget",
    "count",
    "scale",
    "cap",
    "preset",
];

/// The choices that a link holds, in its order.
fn choices_in_order() -> Vec<(&'static Choice, InLink)> {
    let mut rows: Vec<_> = ALL.iter().filter_map(|choice| Some((choice, choice.link?))).collect();
    rows.sort_by_key(|(_, link)| ORDER.iter().position(|key| *key == link.key).unwrap_or(ORDER.len()));
    rows
}

/// What a link says; by default, what is seen without one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Opened {
    /// The session.
    pub session: Session,
    /// Keys that are the page's own: the open view, the theme, the step of the tour, what is hidden.
    pub page: BTreeMap<String, String>,
    /// What was passed over or changed.
    pub notices: Vec<String>,
    /// Names of the log whose profile was too large for the link, so that a sample is shown in its place; empty for any other link.
    pub log_to_drop: Vec<String>,
}

/// Keys that the page adds to a session's: passed through as they are.
pub const PAGE_KEYS: [&str; 4] = ["view", "theme", "tour", "hide"];

/// The link to a session, without `#`. `page` adds keys of the page's own. The second value tells whether the profile is
/// in it: one that is too long is left out.
pub fn to_link(session: &Session, page: &BTreeMap<String, String>) -> (String, bool) {
    let whole = write(session, page, true);
    if whole.len() <= LONGEST { (whole, true) } else { (write(session, page, false), false) }
}

/// The link to a session with its profile, however long that makes it: for the browser's own store, not for an address.
pub fn to_whole_link(session: &Session, page: &BTreeMap<String, String>) -> String {
    write(session, page, true)
}

/// What [`to_link`] writes where the profile is too long, of what [`to_whole_link`] wrote.
pub fn without_profile(link: &str) -> String {
    let short = |key: &str| match key.strip_prefix("p=") {
        Some(profile) => format!("digest={}", digest(profile)),
        None => key.to_owned(),
    };
    link.split('&').map(short).collect::<Vec<String>>().join("&")
}

/// What tells a profile from others of the same model, which may be of logs of the same name: its text by FNV-1a.
fn digest(profile: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", profile.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

fn write(session: &Session, page: &BTreeMap<String, String>, with_profile: bool) -> String {
    let mut out = form_urlencoded::Serializer::new(String::new());
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
        if preset_layout(session.layout.model()).is_some_and(|preset| preset == session.layout) {
            out.append_pair("model", session.layout.model());
        } else if let Ok(json) = serde_json::to_string(session.layout.as_ref()) {
            out.append_pair("config", &URL_SAFE_NO_PAD.encode(json));
        }
    }
    let LogChoice { run, include, exclude } = &session.of_log;
    for (key, value) in [("run", run.as_ref()), ("include", Some(include)), ("exclude", Some(exclude))] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            out.append_pair(key, value);
        }
    }
    let from_log = session.profiling != ProfileConfig::default() || matches!(session.source, Source::Log(_));
    let made_up = session.source == Source::Sample(Sample::MobileVlm);
    if from_log && !made_up {
        let profile = profile_to_text(&session.profile);
        match with_profile {
            true => out.append_pair("p", &profile),
            false => out.append_pair("digest", &digest(&profile)),
        };
    }
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            out.append_pair(key, &value);
        }
    };
    let choices = session.choices();
    for (choice, link) in choices_in_order() {
        if link.always || !choice.is_default(&choices) {
            let text = choice.text(&choices);
            put(link.key, if let Kind::Switch { .. } = choice.kind { text.map(|_| "1".to_owned()) } else { text });
        }
    }
    let by_hand: Vec<String> = session.by_hand.iter().map(|(module, rank)| format!("{module}:{rank}")).collect();
    put("hand", (!by_hand.is_empty()).then(|| by_hand.join(",")));
    put("rebalance", session.rebalance.then(|| "1".to_owned()));
    put("pin", session.pinned.as_ref().map(|pinned| pinned.name.clone()));
    put("pinned", session.pinned.as_ref().map(|pinned| runs_text(pinned.ranks.as_slice())));
    put("base", session.peft.base_model.clone());
    put("dropout", (session.peft.dropout != 0.0).then(|| session.peft.dropout.to_string()));
    for (key, value) in page {
        put(key, Some(value.clone()));
    }
    out.finish()
}

/// Reads a link, with or without its `#`.
pub fn from_link(link: &str) -> Opened {
    let mut reader = Reader::new(link);
    let version = reader.take("v");
    if version.as_deref().is_some_and(|version| version != VERSION) {
        reader.notices.push("The link was written by another version of this page; what it knows is used.".to_owned());
    }
    let mut session = reader.source();
    reader.plan(&mut session);
    reader.ranks(&mut session);
    reader.peft(&mut session);
    let page = PAGE_KEYS.into_iter().filter_map(|key| reader.take(key).map(|value| (key.to_owned(), value))).collect();
    let unknown: Vec<String> = std::mem::take(&mut reader.values).into_keys().collect();
    if !unknown.is_empty() {
        let list: Vec<String> = unknown.iter().take(5).map(|key| shown(key)).collect();
        reader.notices.push(format!("The link holds keys that this page does not know: {}.", list.join(", ")));
    }
    Opened { session, page, notices: reader.notices, log_to_drop: reader.log_to_drop }
}

/// The layout of the session that [`from_link`] gives, without the session.
pub fn layout_of_link(link: &str) -> Arc<Layout> {
    Reader::new(link).layout_shown()
}

/// The link that a text file carries after [`MARK`], if it does.
pub fn find_in(text: &str) -> Option<String> {
    let (_, after) = text.split_once(MARK)?;
    let end = after.find(|c: char| c.is_whitespace() || c == '"' || c == '<').unwrap_or(after.len());
    let (_, link) = after.get(..end)?.split_once('#')?;
    // In a picture it is escaped as XML; links hold no other character that would be.
    Some(link.replace("&amp;", "&"))
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests;
