//! The keys of a log that look most like parameters, for the message that nothing was recognised.

/// Keys that are quoted.
const SHOWN: usize = 3;

/// The best keys so far.
#[derive(Debug, Default)]
pub(super) struct Lookalikes(Vec<(u8, String)>);

impl Lookalikes {
    /// Looks at a key.
    pub(super) fn see(&mut self, key: &str) {
        let score = score(key);
        // Of equal keys the earlier stays.
        let at = self.0.iter().position(|(other, _)| *other < score).unwrap_or(self.0.len());
        if score > 0 && at < SHOWN && !self.0.iter().any(|(_, other)| other == key) {
            self.0.insert(at, (score, key.chars().take(200).collect()));
            self.0.truncate(SHOWN);
        }
    }

    /// Whether a word looks at all like a parameter or a gradient.
    pub(super) fn looks_like_one(word: &str) -> bool {
        score(word) >= 3
    }

    /// The keys, best first.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(_, key)| key.as_str())
    }

    /// Takes over what another file held.
    pub(super) fn merge(&mut self, other: &Self) {
        other.keys().for_each(|key| self.see(key));
    }
}

/// How much a key looks like a parameter of a layer.
fn score(key: &str) -> u8 {
    let lower = key.to_ascii_lowercase();
    let has = |word: &str| u8::from(lower.contains(word));
    let numbered = key.split(['.', '/', '_']).any(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    4 * has("lora")
        + 3 * has("layers")
        + 3 * has("grad")
        + 2 * has("weight")
        + has("proj")
        + has("norm")
        + 2 * u8::from(numbered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_keys_most_like_parameters_are_kept_in_order() {
        let mut keys = Lookalikes::default();
        for key in ["lr", "epoch", "x.layers.0.q_proj.lora_A", "loss", "my_gradient", "layers/3"] {
            keys.see(key);
        }
        assert_eq!(keys.keys().collect::<Vec<_>>(), ["x.layers.0.q_proj.lora_A", "layers/3", "my_gradient"]);
    }
}
