//! How a search chooses its next schedule, by name: what `search.acquisition` says.

use std::sync::LazyLock;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::acquisition::Acquisition;
use super::proposers::{NamedProposer, random};

/// How a search chooses its next schedule. Written as its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The best of a performance model's candidates, by this rule.
    Model(Acquisition),
    /// A proposer that asks no performance model.
    Proposer(NamedProposer),
}

impl Rule {
    /// Any feasible schedule, without a model.
    pub const RANDOM: Self = Self::Proposer(random::NAMED);

    /// Every rule: those of a performance model, then the other proposers.
    pub fn all() -> impl Iterator<Item = Self> {
        Acquisition::ALL.into_iter().map(Self::Model).chain(NamedProposer::all().map(Self::Proposer))
    }

    /// Name for reports and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model(acquisition) => acquisition.name(),
            Self::Proposer(proposer) => proposer.name,
        }
    }

    /// Name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Model(acquisition) => acquisition.title(),
            Self::Proposer(proposer) => proposer.about,
        }
    }

    /// The rule of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::all().find(|rule| rule.name() == name)
    }
}

impl Default for Rule {
    fn default() -> Self {
        Acquisition::default().into()
    }
}

impl From<Acquisition> for Rule {
    fn from(acquisition: Acquisition) -> Self {
        Self::Model(acquisition)
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        static NAMES: LazyLock<Vec<&str>> = LazyLock::new(|| Rule::all().map(Rule::name).collect());
        let name = String::deserialize(deserializer)?;
        Self::from_name(&name).ok_or_else(|| D::Error::unknown_variant(&name, &NAMES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_written_as_its_name_and_found_by_it() {
        let names: Vec<&str> = Rule::all().map(Rule::name).collect();
        assert_eq!(names[..3], ["predicted-mean", "expected-improvement", "random"]);
        for rule in Rule::all() {
            let text = serde_json::to_string(&rule).unwrap();
            assert_eq!(text, format!("{:?}", rule.name()));
            assert_eq!(serde_json::from_str::<Rule>(&text).unwrap(), rule);
        }
        let error = serde_json::from_str::<Rule>("\"greedy\"").unwrap_err().to_string();
        assert!(error.contains("unknown variant `greedy`") && error.contains("`predicted-mean`"), "{error}");
    }
}
