//! A model answers a published benchmark: prompts go in, a file of answers as LLaVA's scripts write it comes out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hydra_shared::benchmarks::{BenchmarkPicture, BenchmarkQuestion, mme};
use hydra_shared::names::first_names;
use hydra_shared::vlm::MobileVlm;
use serde::Serialize;

use super::answers::{Answering, answer_all};
use crate::data::feed::Examples;
use crate::data::{DataConfig, PictureFile, picture_source, prompt};
use crate::error::{Kind, ResultExt, failure};
use crate::input;
use crate::output::Output;

/// One answer, as LLaVA's scripts write it.
#[derive(Serialize)]
struct Line<'a> {
    question_id: &'a str,
    prompt: &'a str,
    text: &'a str,
}

/// Answers of a model to all questions, in their order. A question whose picture is damaged, where that is to be skipped,
/// gets an empty one.
///
/// # Errors
/// Pictures that cannot be read, a device that fails.
pub fn ask(
    model: &MobileVlm,
    questions: &[BenchmarkQuestion],
    images: &Path,
    config: &DataConfig,
    answering: Answering<'_>,
    output: &Output,
) -> Result<Vec<String>> {
    let mut numbers: BTreeMap<&BenchmarkPicture, usize> = BTreeMap::new();
    let mut files = Vec::new();
    let mut encoded = Vec::with_capacity(questions.len());
    for question in questions {
        let mut pictures = Vec::new();
        if let Some(file) = file(&question.picture, &question.id, images)? {
            let next = files.len();
            let number = *numbers.entry(&question.picture).or_insert(next);
            if number == next {
                files.push(file);
            }
            pictures.push(number);
        }
        let asked = prompt(answering.tokenizer, config.template, &question.prompt, &pictures);
        encoded.push(asked.or_fail(Kind::Data, || format!("question {}", question.id))?);
    }
    if !files.is_empty() && model.vision.is_none() {
        let message = format!("{} has no vision tower; name one with --vision-tower", model.spec().name);
        return Err(failure(Kind::Usage, message));
    }
    let pictures = picture_source(files, model, config)?;
    let examples = Examples { encoded: &encoded, pictures: &pictures };
    let progress = Mutex::new((0, output.progress("answers", questions.len() as u64)));
    let answers = answer_all(model, answering, &examples, &|count| {
        let mut progress = progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        progress.0 += count as u64;
        let done = progress.0;
        progress.1.set(done, "");
    })?;
    if let Ok((_, progress)) = progress.into_inner() {
        progress.finish("");
    }
    Ok(answers.into_iter().map(Option::unwrap_or_default).collect())
}

/// The question's picture as a file; none where it has none.
fn file(picture: &BenchmarkPicture, id: &str, images: &Path) -> Result<Option<PictureFile>> {
    Ok(match picture {
        BenchmarkPicture::Base64(text) => {
            let bytes = STANDARD
                .decode(text.trim())
                .or_fail(Kind::Data, || format!("question {id}: its picture is not in Base64"))?;
            Some(PictureFile::Bytes { name: format!("the picture of question {id}"), bytes })
        }
        BenchmarkPicture::File(name) => Some(PictureFile::Path(images.join(name))),
        BenchmarkPicture::None => None,
    })
}

/// Answers as JSON lines.
///
/// # Errors
/// Never in practice.
pub fn json_lines(questions: &[BenchmarkQuestion], answers: &[String]) -> Result<String> {
    let mut text = String::new();
    for (question, answer) in questions.iter().zip(answers) {
        let line = Line { question_id: &question.id, prompt: &question.prompt, text: answer };
        text.push_str(&serde_json::to_string(&line)?);
        text.push('\n');
    }
    Ok(text)
}

/// MME's questions, each with the picture's name and the right answer.
pub struct MmeSet {
    /// The questions.
    pub questions: Vec<BenchmarkQuestion>,
    /// Folders of no task of MME's, which are left out.
    pub unknown: Vec<String>,
    /// Task, picture and right answer of each.
    expected: Vec<(String, String, String)>,
}

impl MmeSet {
    /// Reads MME's folder: one folder per task, in it a text file beside each picture, or pictures in `images` and texts in
    /// `questions_answers_YN`.
    ///
    /// # Errors
    /// A folder without tasks, texts without their picture, lines in another format.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut set = Self { questions: Vec::new(), unknown: Vec::new(), expected: Vec::new() };
        for task in sorted(folder)?.into_iter().filter(|path| path.is_dir()) {
            let name = task.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match mme::task_name(&name) {
                Some(name) => set.add_task(&task, name)?,
                None => set.unknown.push(name),
            }
        }
        if set.questions.is_empty() {
            let place = folder.display();
            let found = match set.unknown.as_slice() {
                [] => String::new(),
                names => format!(" (there are {})", first_names(names)),
            };
            let problem = format!("{place}: no tasks of MME here{found}; expected one folder per task, by MME's names");
            return Err(failure(Kind::Data, problem));
        }
        Ok(set)
    }

    fn add_task(&mut self, folder: &Path, name: &str) -> Result<()> {
        let split = folder.join("questions_answers_YN");
        let (texts, pictures, prefix) = if split.is_dir() {
            (split, folder.join("images"), "images/")
        } else {
            (folder.to_owned(), folder.to_owned(), "")
        };
        let pictures: BTreeMap<PathBuf, String> = sorted(&pictures)?
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension != "txt"))
            .filter_map(|path| Some((path.with_extension(""), path.file_name()?.to_string_lossy().into_owned())))
            .map(|(path, name)| (PathBuf::from(path.file_name().unwrap_or_default()), name))
            .collect();
        for path in sorted(&texts)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "txt")) {
            let stem = PathBuf::from(path.file_stem().unwrap_or_default());
            let Some(picture) = pictures.get(&stem) else {
                return Err(failure(Kind::Data, format!("{}: its picture is missing", path.display())));
            };
            let text = input::text(&path)?;
            let asked = mme::questions(name, &format!("{prefix}{picture}"), &text)
                .or_fail(Kind::Data, || path.display().to_string())?;
            for (question, right) in asked {
                self.questions.push(question);
                self.expected.push((name.to_owned(), picture.clone(), right));
            }
        }
        Ok(())
    }

    /// Result files as MME's own script reads them: task and text.
    pub fn results(&self, answers: &[String]) -> BTreeMap<String, String> {
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for ((question, (task, picture, right)), answer) in self.questions.iter().zip(&self.expected).zip(answers) {
            let line = mme::result_line(picture, &question.prompt, right, answer);
            let text = files.entry(task.clone()).or_default();
            text.push_str(&line);
            text.push('\n');
        }
        files
    }
}

/// What is in a folder, sorted.
fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let place = || folder.display().to_string();
    let entries = std::fs::read_dir(folder).or_fail(Kind::Data, place)?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>().or_fail(Kind::Data, place)?;
    paths.sort();
    Ok(paths)
}
