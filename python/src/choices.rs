//! The choices of a plan, as keyword arguments have them.

use anyhow::Result;
use hydra_shared::files::error::{Kind, failure, nearest};
use hydra_shared::files::outside::NO_BASE_RANK;
use hydra_shared::schedule::choices::{ALL, Choice, Choices, Values, of_key};
use serde_json::{Map, Value};

/// The choices of a JSON object, and the seed.
///
/// `by_kind` says whether those count as given in vain that say nothing of the one schedule that `schedule_kind` names; a search
/// heeds them.
///
/// # Errors
/// A key that is none, a value that is none of it, a choice that has no effect beside the others, no base rank.
pub fn read(json: &str, by_kind: bool) -> Result<(Choices, u64)> {
    let given: Map<String, Value> = serde_json::from_str(json)?;
    let given = given.iter().filter(|(_, value)| !value.is_null());
    let given: Vec<(&'static Choice, Value)> =
        given.map(|(key, value)| Ok((choice(key)?, value.clone()))).collect::<Result<_>>()?;
    let mut values = Values::of(&Choices::default(), None);
    values.remove("base_rank");
    values.choose(&given);
    if values.get("base_rank").is_none() {
        return Err(failure(Kind::Usage, NO_BASE_RANK));
    }
    let mut choices = Choices::default();
    values.put_into(&mut choices).map_err(|error| failure(Kind::Usage, error))?;
    let mut idle = choices.idle();
    if by_kind {
        idle.extend(choices.idle_by_kind());
    }
    for (choice, _) in &given {
        if let Some((key, why)) = idle.iter().find(|(key, _)| *key == choice.key) {
            return Err(failure(Kind::Usage, format!("{key} has no effect: {why}")));
        }
    }
    Ok((choices, values.seed()))
}

fn choice(key: &str) -> Result<&'static Choice> {
    of_key(key).ok_or_else(|| {
        let keys: Vec<String> = ALL.iter().map(|choice| choice.key.to_owned()).collect();
        let hint = nearest(key, &keys)
            .map_or_else(|| format!("known are {}", keys.join(", ")), |near| format!("did you mean {near}?"));
        failure(Kind::Usage, format!("there is no choice {key}; {hint}"))
    })
}
