//! What to generate, and what is refused.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::questions::{ExistenceWords, Setting, Topic};
use super::scene::{SceneConfig, SceneError};
use super::split::Split;

/// How many samples of each kind every picture gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplesPerPicture {
    /// Even: half yes, half no.
    pub existence: usize,
    /// Even: pairs.
    pub perception: usize,
    /// Open questions.
    pub open: usize,
    /// Phrases with location words allowed.
    pub referring: usize,
    /// Phrases without location words.
    pub referring_plus: usize,
    /// 0 or 1: a picture has one caption.
    pub caption: usize,
    /// 0 or 1.
    pub boxed_caption: usize,
}

impl Default for SamplesPerPicture {
    fn default() -> Self {
        SamplesPerPicture {
            existence: 2,
            perception: 2,
            open: 2,
            referring: 2,
            referring_plus: 2,
            caption: 0,
            boxed_caption: 0,
        }
    }
}

/// What to generate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskConfig {
    /// How scenes are drawn.
    pub scene: SceneConfig,
    /// How many samples of each kind.
    pub samples_per_picture: SamplesPerPicture,
    /// Settings of existence questions, taken in turn.
    pub existence_settings: Vec<Setting>,
    /// What existence questions name.
    pub existence_words: ExistenceWords,
    /// Topics of perception pairs, taken in turn where the scene allows.
    pub perception_topics: Vec<Topic>,
    /// Topics of open questions, drawn at random.
    pub open_topics: Vec<Topic>,
}

impl Default for TaskConfig {
    fn default() -> Self {
        TaskConfig {
            scene: SceneConfig::default(),
            samples_per_picture: SamplesPerPicture::default(),
            existence_settings: Setting::ALL.to_vec(),
            existence_words: ExistenceWords::ColorAndShape,
            perception_topics: Topic::PERCEPTION.to_vec(),
            open_topics: Topic::OPEN.to_vec(),
        }
    }
}

impl TaskConfig {
    /// What the base model is pretrained on: captions with and without boxes, existence questions with random negatives,
    /// and open questions on colour and shape. Perception and referring questions, and the other settings and topics,
    /// are left for fine-tuning.
    pub fn pretraining() -> TaskConfig {
        TaskConfig {
            scene: SceneConfig::default(),
            samples_per_picture: SamplesPerPicture {
                existence: 2,
                perception: 0,
                open: 2,
                referring: 0,
                referring_plus: 0,
                caption: 1,
                boxed_caption: 1,
            },
            existence_settings: vec![Setting::Random],
            existence_words: ExistenceWords::ColorAndShape,
            perception_topics: Topic::PERCEPTION.to_vec(),
            open_topics: vec![Topic::Color, Topic::Shape],
        }
    }

    /// What is left to learn after pretraining and can be learned in a minute: existence questions that name the size,
    /// pairs of perception questions on colour and number, and open questions on what pretraining left out. On the other
    /// questions the base model is as good as any fine-tune, or (pairs on position and size) no fine-tune of a minute
    /// rises above chance, and no schedule could show anything.
    pub fn fine_tuning() -> TaskConfig {
        TaskConfig {
            scene: SceneConfig::tiny(),
            existence_words: ExistenceWords::SizeColorAndShape,
            perception_topics: vec![Topic::Color, Topic::Count],
            open_topics: vec![Topic::Count, Topic::Position, Topic::Size],
            ..TaskConfig::default()
        }
    }

    /// Checks the configuration.
    ///
    /// # Errors
    /// The first entry that cannot be met, with what it must be.
    pub fn validate(&self) -> Result<(), TaskError> {
        self.scene.validate()?;
        let per_picture = &self.samples_per_picture;
        let error = |key, problem| Err(TaskError::Config { key, problem });
        for (key, count) in [
            ("samples_per_picture.existence", per_picture.existence),
            ("samples_per_picture.perception", per_picture.perception),
        ] {
            if count % 2 == 1 {
                return error(key, format!("{count} is odd: these come in pairs of a yes and a no, use {}", count + 1));
            }
        }
        for (key, count) in [
            ("samples_per_picture.caption", per_picture.caption),
            ("samples_per_picture.boxed_caption", per_picture.boxed_caption),
        ] {
            if count > 1 {
                return error(key, format!("{count} is too many: a picture has one caption, use 0 or 1"));
            }
        }
        for (key, count, empty) in [
            ("existence_settings", per_picture.existence, self.existence_settings.is_empty()),
            ("perception_topics", per_picture.perception, self.perception_topics.is_empty()),
            ("open_topics", per_picture.open, self.open_topics.is_empty()),
        ] {
            if count > 0 && empty {
                return error(key, "is empty: name at least one, or set the number of such samples to 0".to_owned());
            }
        }
        if self.perception_topics.contains(&Topic::Shape) {
            return error("perception_topics", "shape is a topic of open questions alone: remove it".to_owned());
        }
        let combinations = self.scene.shapes * self.scene.colors;
        if per_picture.existence > 0 && combinations <= self.scene.max_objects as usize {
            return error(
                "scene.max_objects",
                format!(
                    "{} objects could show all {combinations} combinations of shape and colour, and then nothing is \
                     absent to ask for: lower it, or raise scene.shapes or scene.colors",
                    self.scene.max_objects
                ),
            );
        }
        Ok(())
    }
}

/// Why a set cannot be generated.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskError {
    /// The scene's knobs.
    #[error(transparent)]
    Scene(#[from] SceneError),
    /// Another entry of the configuration.
    #[error("{key}: {problem}")]
    Config {
        /// The key in the configuration.
        key: &'static str,
        /// What is wrong, and the remedy.
        problem: String,
    },
    /// No scene of the split allows all questions.
    #[error(
        "no {} picture found in {attempts} draws that allows all questions: ask fewer questions a picture \
         (samples_per_picture), or allow more different scenes (scene.shapes, scene.colors, scene.max_objects)",
        split.name()
    )]
    NoPicture {
        /// The split that was asked for.
        split: Split,
        /// How many scenes were drawn for one picture.
        attempts: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::super::set::generate;
    use super::*;

    #[test]
    fn a_configuration_that_cannot_be_met_is_refused_with_key_and_remedy() {
        let with = |change: fn(&mut TaskConfig)| {
            let mut config = TaskConfig::default();
            change(&mut config);
            generate(&config, Split::Train, 0, 3).unwrap_err().to_string()
        };
        assert_eq!(
            with(|c| c.samples_per_picture.perception = 3),
            "samples_per_picture.perception: 3 is odd: these come in pairs of a yes and a no, use 4"
        );
        assert!(with(|c| c.samples_per_picture.caption = 2).contains("use 0 or 1"));
        assert!(with(|c| c.open_topics.clear()).starts_with("open_topics: is empty"));
        assert!(with(|c| c.perception_topics.push(Topic::Shape)).starts_with("perception_topics: shape"));
        assert_eq!(with(|c| c.scene.max_objects = 10), "scene.max_objects is 10: it must be 1 to 9");
        assert!(with(|c| c.scene.small_side = [11, 9]).starts_with("scene.small_side is [11, 9]"));
        assert!(with(|c| c.scene.big_side = [10, 21]).contains("larger than scene.small_side"));
        assert!(with(|c| c.scene.small_side = [7, 9]).contains("keeps an IoU over 0.5"));
        assert!(with(|c| c.scene.cell_margin = 11).starts_with("scene.cell_margin is 11"));
        assert!(
            with(|c| {
                c.scene.colors = 1;
                c.scene.shapes = 2;
            })
            .starts_with("scene.max_objects: 4 objects could show all 2 combinations")
        );
        assert!(
            with(|c| {
                c.scene.small_side = [30, 30];
                c.scene.big_side = [40, 40];
                c.scene.cell_margin = 0;
                c.scene.min_objects = 9;
                c.scene.max_objects = 9;
            })
            .starts_with("no room for 9 objects with sides up to 40 px in 64 × 64 px")
        );
        assert!(with(|c| c.samples_per_picture.open = 500).starts_with("no train picture found in 2000 draws"));
    }

    #[test]
    fn a_configuration_reads_back_from_its_own_json_and_an_unknown_key_is_an_error() {
        let config = TaskConfig::pretraining();
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<TaskConfig>(&json).unwrap(), config);
        assert!(json.contains("\"open_topics\":[\"color\",\"shape\"]"), "{json}");
        assert!(serde_json::from_str::<TaskConfig>(r#"{"scene":{"objects":3}}"#).is_err());
    }
}
