//! easy-VQA 1.0 (Victor Zhou, MIT): simple pictures of 64 pixels with questions of thirteen answers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hydra_shared::tasks::Split;
use hydra_shared::tasks::easy_vqa::{EasyVqaQuestion, QuestionType, parse_questions, question_only_floor, score};
use indexmap::IndexMap;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::config::{DataConfig, no_pretraining};
use super::pictures::PictureFile;
use super::questions::{Question, QuestionSet, Rule, Scores};
use crate::error::{Kind, ResultExt, failure};
use crate::input;

/// Its tasks: yes/no questions, and those with an open answer (shape or colour).
const TASKS: [&str; 2] = ["yes-no", "open"];

/// How to get the data set.
const REMEDY: &str = "run scripts/easy-vqa, which fetches and checks it, or name its folder with data.folder";

/// What easy-VQA's answers are scored against.
struct EasyVqaRule {
    asked: Vec<EasyVqaQuestion>,
    /// The published training questions, for the floor that needs no picture.
    training: Vec<EasyVqaQuestion>,
}

/// Where `scripts/easy-vqa` puts the data set.
pub fn default_folder() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))?;
    Some(cache.join("hydra").join("easy-vqa"))
}

pub(super) fn load(config: &DataConfig, split: Split) -> Result<QuestionSet> {
    let folder =
        config.folder.clone().or_else(default_folder).context("there is no home folder to look for data in")?;
    let training = read_questions(&folder, "train")?;
    let (subset, questions, wanted) = match split {
        Split::Pretraining => return Err(no_pretraining()),
        Split::Test => {
            let questions = read_questions(&folder, "test")?;
            let pictures = pictures_of(&questions);
            let wanted = limit(&pictures, "data.test_pictures", config.test_pictures);
            ("test", questions, wanted)
        }
        Split::Train | Split::Validation => {
            // The published training pictures in a seeded order: first the validation part, then the training part.
            let mut pictures = pictures_of(&training);
            pictures.shuffle(&mut ChaCha8Rng::seed_from_u64(config.seed));
            let held_out = config.validation_pictures.min(pictures.len());
            let (validation, train) = pictures.split_at(held_out);
            let wanted = match split {
                Split::Validation => validation.to_vec(),
                _ => limit(train, "data.train_pictures", config.train_pictures),
            };
            ("train", training.clone(), wanted)
        }
    };
    let index: BTreeMap<u32, usize> = wanted.iter().enumerate().map(|(index, image)| (*image, index)).collect();
    let asked: Vec<EasyVqaQuestion> = questions.into_iter().filter(|q| index.contains_key(&q.image)).collect();
    let picture = |image| PictureFile::Path(folder.join(subset).join("images").join(format!("{image}.png")));
    let pictures = wanted.iter().map(picture).collect();
    let questions = asked
        .iter()
        .filter_map(|q| {
            let picture = *index.get(&q.image)?;
            Some(Question { picture, text: q.question.clone(), answer: q.answer.clone() })
        })
        .collect();
    let rule = EasyVqaRule { asked, training };
    Ok(QuestionSet { pictures, questions, dialogues: Vec::new(), rule: Some(Box::new(rule)) })
}

impl Rule for EasyVqaRule {
    fn tasks(&self) -> Vec<String> {
        TASKS.map(str::to_owned).to_vec()
    }

    fn task_of(&self, question: usize) -> Option<String> {
        let [yes_no, open] = TASKS;
        let task = if self.asked.get(question)?.question_type() == QuestionType::YesNo { yes_no } else { open };
        Some(task.to_owned())
    }

    fn score(&self, answers: &[String]) -> Result<Scores> {
        let scores = score(&self.asked, answers)?;
        let floor = question_only_floor(&self.training, &self.asked);
        let tasks = IndexMap::from([
            (TASKS[0].to_owned(), scores.yes_no.percent()),
            (TASKS[1].to_owned(), scores.open.percent()),
        ]);
        let details = serde_json::json!({
            "scores": scores,
            "question_only_floor": floor,
            "above_floor": scores.is_above(&floor),
        });
        Ok(Scores { tasks, mean: scores.all.percent(), details })
    }
}

fn read_questions(folder: &Path, subset: &str) -> Result<Vec<EasyVqaQuestion>> {
    let path = folder.join(subset).join("questions.json");
    if !path.is_file() {
        return Err(failure(Kind::Data, format!("{}: easy-VQA is not there; {REMEDY}", path.display())));
    }
    parse_questions(&input::text(&path)?).or_fail(Kind::Data, || path.display().to_string())
}

fn pictures_of(questions: &[EasyVqaQuestion]) -> Vec<u32> {
    questions.iter().map(|q| q.image).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The first pictures, as many as `key` says; 0 takes all.
fn limit(pictures: &[u32], key: &str, count: usize) -> Vec<u32> {
    let count = if count == 0 { pictures.len() } else { count.min(pictures.len()) };
    if count < pictures.len() {
        let left_out = pictures.len() - count;
        tracing::warn!("{count} of {} pictures are used, {left_out} are left out; {key} = 0 takes all", pictures.len());
    }
    pictures[..count].to_vec()
}
