//! Keys of one pattern that match the same module.

use super::{Key, PatternError, Patterns};

impl<'a> Patterns<'a> {
    /// The keys of `rank_pattern` that match a module, with their ranks, in the file's order: the first counts.
    pub(in crate::adapter) fn rank_keys(&self, module: &str) -> Result<Vec<(&'a str, u32)>, PatternError> {
        matching(self.config.rank_pattern.keys(), &self.ranks, module)
    }

    /// Where several keys of one pattern give a module different values, so that their order counts.
    pub(in crate::adapter) fn overlaps(&self, module: &str) -> Result<Vec<Overlap>, PatternError> {
        let ranks = self.rank_keys(module)?;
        let alphas = matching(self.config.alpha_pattern.keys(), &self.alphas, module)?;
        let rank = overlap(&ranks);
        let mut found: Vec<Overlap> = rank.iter().filter(|overlap| overlap.reordered).cloned().collect();
        // Tensors whose ranks are right show in which order the keys stood.
        let is_known = |alpha: &Overlap| rank.as_ref().is_some_and(|rank| rank == alpha);
        found.extend(overlap(&alphas).filter(|alpha| !is_known(alpha)));
        Ok(found)
    }
}

/// Two keys of one pattern that give a module different values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::adapter) struct Overlap {
    /// The one that counts.
    pub first: String,
    /// The other one: where there are several, the one that would count in another order.
    pub other: String,
    /// Whether the other one counts once PEFT has saved the configuration, which sorts the keys.
    pub reordered: bool,
}

fn overlap<T: PartialEq>(matching: &[(&str, T)]) -> Option<Overlap> {
    let (first, value) = matching.first()?;
    let sorted = matching.iter().min_by_key(|(key, _)| *key).filter(|(_, other)| other != value);
    let other = sorted.or_else(|| matching.iter().find(|(_, other)| other != value));
    other.map(|(other, _)| Overlap {
        first: (*first).to_owned(),
        other: (*other).to_owned(),
        reordered: sorted.is_some(),
    })
}

/// The keys that match a module, with their values, in the file's order.
fn matching<'a, T: Copy>(
    texts: impl Iterator<Item = &'a String>,
    keys: &[(Key, T)],
    module: &str,
) -> Result<Vec<(&'a str, T)>, PatternError> {
    let mut found = Vec::new();
    for (text, (key, value)) in texts.zip(keys) {
        if key.matches(module)? {
            found.push((text.as_str(), *value));
        }
    }
    Ok(found)
}
