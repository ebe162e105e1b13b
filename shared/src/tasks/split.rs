//! Parts of the data: what is learned from, what a search sees, and what is reported.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::scene::Scene;

/// A part of the data, none of which is in another part.
///
/// A generated picture's *arrangement* (shape, colour, size class and cell of every object) decides its split, so two
/// splits share not even an arrangement, let alone a picture, whatever the seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// What the tiny base model is made from: 40 % of all arrangements. Data sets have none.
    Pretraining,
    /// For fine-tuning: 40 %.
    Train,
    /// What a search scores trials on: 10 %.
    Validation,
    /// What is reported, and no search sees: 10 %.
    Test,
}

impl Split {
    /// All splits.
    pub const ALL: [Split; 4] = [Split::Pretraining, Split::Train, Split::Validation, Split::Test];

    /// The name in configurations, files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Split::Pretraining => "pretraining",
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        }
    }

    /// The split of that name.
    pub fn by_name(name: &str) -> Option<Split> {
        Split::ALL.into_iter().find(|split| split.name() == name)
    }

    /// The only split in which a scene may appear.
    pub fn of(scene: &Scene) -> Split {
        let mut arrangement: Vec<[u8; 5]> = scene
            .objects
            .iter()
            .map(|o| [o.shape as u8, o.color as u8, o.size as u8, o.cell.row, o.cell.column])
            .collect();
        arrangement.sort_unstable();
        let digest = Sha256::digest(arrangement.concat());
        let tenth = digest.iter().take(8).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)) % 10;
        match tenth {
            0..4 => Split::Pretraining,
            4..8 => Split::Train,
            8 => Split::Validation,
            _ => Split::Test,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of folders, hashes of jobs and configurations hold these words.
    #[test]
    fn a_split_is_written_by_its_name_and_read_back() {
        assert_eq!(Split::ALL.map(Split::name), ["pretraining", "train", "validation", "test"]);
        for split in Split::ALL {
            let text = serde_json::to_string(&split).unwrap();
            assert_eq!(text, format!("\"{}\"", split.name()));
            assert_eq!(serde_json::from_str::<Split>(&text).unwrap(), split);
            assert_eq!(Split::by_name(split.name()), Some(split));
        }
        assert_eq!(Split::by_name("Train"), None);
    }
}
