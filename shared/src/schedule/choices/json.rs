//! Choices in configuration files: their values, and the forms of earlier versions.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::text::{layers_text, signs_text};
use super::{ALL, Choice, Choices, Kind, Part, TextError, of_key};
use crate::layout::Projection;
use crate::schedule::{PlanConfig, Sign, Signs};

impl Choice {
    /// Its value as files have it; none where nothing is chosen.
    pub fn value(&self, choices: &Choices) -> Option<Json> {
        match &self.kind {
            Kind::Switch { get, .. } => Some(get(choices).into()),
            // TOML knows no whole numbers above these.
            Kind::Whole { get, .. } => get(choices).map(|number| match i64::try_from(number) {
                Ok(number) => number.into(),
                Err(_) => number.to_string().into(),
            }),
            Kind::Number { get, .. } => get(choices).map(Json::from),
            Kind::Ranks { get, .. } => get(choices).map(Json::from),
            Kind::Words { .. } | Kind::Scale { .. } | Kind::Layers { .. } | Kind::Signs { .. } => {
                self.text(choices).map(Json::from)
            }
        }
    }

    /// Puts a value, in the form of this version or of an earlier one.
    ///
    /// # Errors
    /// A value that is none of this choice.
    pub fn put(&self, choices: &mut Choices, value: &Json) -> Result<(), TextError> {
        let text = self.text_of(value).ok_or_else(|| TextError::Form(value.to_string()))?;
        self.read(choices, &text)
    }

    /// The text of a value, whose form may be an earlier one.
    fn text_of(&self, value: &Json) -> Option<String> {
        match (&self.kind, value) {
            (_, Json::String(text)) => Some(text.clone()),
            (Kind::Words { words, .. }, Json::Bool(on)) => {
                let (_, word) = self.short?;
                Some(if *on { word } else { words.first()?.name }.to_owned())
            }
            (_, Json::Bool(_) | Json::Number(_)) => Some(value.to_string()),
            (Kind::Ranks { .. }, Json::Array(ranks)) => {
                Some(ranks.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
            }
            (Kind::Layers { .. }, Json::Array(_)) => {
                Some(layers_text(&serde_json::from_value::<Vec<Vec<usize>>>(value.clone()).ok()?))
            }
            (Kind::Signs { .. }, Json::Array(_)) => Some(signs_text(&listed_signs(value)?)),
            (Kind::Scale { .. }, Json::Object(scale)) => {
                // A table that names no policy changed the number of the default one.
                let policy = scale.get("policy").map_or(Some("constant"), Json::as_str)?;
                let number = scale.get("factor").or_else(|| scale.get("alpha"))?;
                Some(format!("{policy}:{number}"))
            }
            _ => None,
        }
    }
}

/// Signs as a list of words, one per projection.
fn listed_signs(value: &Json) -> Option<Signs> {
    let signs: Vec<Sign> = serde_json::from_value(value.clone()).ok()?;
    <[Sign; Projection::ALL.len()]>::try_from(signs).ok()
}

/// What an entry of an earlier version's table says today: choices and their values. None for an entry in today's form.
pub fn modern(key: &str, value: &Json) -> Option<Vec<(&'static Choice, Json)>> {
    let now = |choice: &'static Choice, value: &Json| {
        let mut choices = Choices::default();
        // What cannot be read is refused where all values are put.
        let read = choice.put(&mut choices, value).ok().and_then(|()| choice.value(&choices));
        (choice, read.unwrap_or_else(|| value.clone()))
    };
    if let Some(choice) = of_key(key) {
        let older = match (&choice.kind, value) {
            (Kind::Scale { .. }, Json::Object(_)) => true,
            (Kind::Signs { .. }, Json::Array(_)) => true,
            (_, Json::Object(_)) => false,
            _ => return None,
        };
        if older {
            return Some(vec![now(choice, value)]);
        }
    }
    let mut found = Vec::new();
    for choice in ALL {
        for path in choice.older {
            let mut parts = path.split('.');
            let at = (parts.next() == Some(key)).then(|| parts.try_fold(value, |at, part| at.get(part))).flatten();
            found.extend(at.map(|value| now(choice, value)));
        }
    }
    // With something in it that was no choice then either, it is not of an earlier version.
    (!found.is_empty() && found.len() == values_in(value)).then_some(found)
}

/// How many values stand in a table and the tables in it.
fn values_in(value: &Json) -> usize {
    value.as_object().map_or(1, |table| table.values().map(values_in).sum())
}

/// Paths of the values of earlier versions.
pub fn older_keys() -> impl Iterator<Item = &'static str> {
    ALL.iter().flat_map(|choice| choice.older).copied().chain(["scale.factor"])
}

/// Values of choices by their keys, as a configuration file has them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Values(BTreeMap<&'static str, Json>);

impl Values {
    /// What is chosen, of one part or of both.
    pub fn of(choices: &Choices, part: Option<Part>) -> Self {
        let rows = ALL.iter().filter(|choice| part.is_none_or(|part| choice.part == part));
        Self(rows.filter_map(|choice| Some((choice.key, choice.value(choices)?))).collect())
    }

    /// The value of a choice.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.0.get(key)
    }

    /// Makes a choice.
    pub fn insert(&mut self, choice: &'static Choice, value: Json) {
        self.0.insert(choice.key, value);
    }

    /// Takes a choice back.
    pub fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// Makes choices that are stronger than those that stand here: what would take their place goes.
    pub fn choose(&mut self, given: &[(&'static Choice, Json)]) {
        for (choice, value) in given {
            for other in ALL.iter().filter(|other| other.idles.contains(&choice.key)) {
                self.remove(other.key);
            }
            self.insert(choice, value.clone());
        }
        let given = |key: &str| given.iter().find(|(choice, _)| choice.key == key).map(|(_, value)| value);
        // Three ranks by hand mean three stages, unless their number is given as well.
        if let (Some(Json::Array(ranks)), None, Some(stages)) =
            (given("stage_ranks"), given("stages"), of_key("stages"))
        {
            self.insert(stages, ranks.len().into());
        }
    }

    /// The seed, which is known even where no stage is clustered.
    pub fn seed(&self) -> u64 {
        let seed = self.get("seed");
        // A large one stands as text.
        seed.and_then(|seed| seed.as_u64().or_else(|| seed.as_str()?.parse().ok())).unwrap_or_default()
    }

    /// Takes the value of an entry from a file, in the form of this version or of an earlier one.
    ///
    /// # Errors
    /// A key that is none of the part's choices, a value that is none of it.
    pub fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, part: Option<Part>, map: &mut A) -> Result<(), A::Error> {
        self.0.extend(map.next_value_seed(Entry { key, part })?);
        Ok(())
    }

    /// Puts all values, in the table's order.
    ///
    /// # Errors
    /// A value that is none of its choice.
    pub fn put_into(&self, choices: &mut Choices) -> Result<(), TextError> {
        let given = ALL.iter().filter_map(|choice| Some((choice, self.0.get(choice.key)?)));
        given.into_iter().try_for_each(|(choice, value)| choice.put(choices, value))
    }
}

/// The value behind a key of a part's table, or of both parts' together.
struct Entry<'a> {
    key: &'a str,
    part: Option<Part>,
}

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = Vec<(&'static str, Json)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        // A choice that was not made. TOML's NaN, which a value cannot hold either, is refused below.
        let Some(value) = Option::<Json>::deserialize(deserializer)? else { return Ok(Vec::new()) };
        let entries = match (modern(self.key, &value), of_key(self.key)) {
            (Some(entries), _) => entries,
            (None, Some(choice)) if self.part.is_none_or(|part| choice.part == part) => vec![(choice, value)],
            (None, _) => return Err(D::Error::custom("there is no such choice")),
        };
        for (choice, value) in &entries {
            choice.put(&mut Choices::default(), value).map_err(D::Error::custom)?;
        }
        Ok(entries.into_iter().map(|(choice, value)| (choice.key, value)).collect())
    }
}

impl Serialize for PlanConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let choices = Choices { plan: self.clone(), ..Choices::default() };
        let rows = || ALL.iter().filter(|choice| choice.part == Part::Plan);
        let mut table = serializer.serialize_struct("PlanConfig", rows().count())?;
        for choice in rows() {
            table.serialize_field(choice.key, &choice.value(&choices))?;
        }
        table.end()
    }
}

impl<'de> Deserialize<'de> for PlanConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = PlanConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of choices")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PlanConfig, A::Error> {
                let mut values = Values::default();
                while let Some(key) = map.next_key::<String>()? {
                    values.take(&key, Some(Part::Plan), &mut map)?;
                }
                let mut choices = Choices::default();
                values.put_into(&mut choices).map_err(A::Error::custom)?;
                Ok(choices.plan)
            }
        }
        deserializer.deserialize_map(Table)
    }
}
