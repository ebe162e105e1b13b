//! `trainer generate`: what a model says.

use std::path::PathBuf;

use anyhow::Result;
use hydra_shared::vlm::batch::{Encoded, Segment};
use hydra_shared::vlm::conversation::Template;
use serde::Serialize;

use super::common::{Context, ModelArgs, workbench};
use crate::adapter;
use crate::data::feed::{Examples, PictureSource};
use crate::data::{Damaged, PictureFile, PictureFiles, prompt};
use crate::evaluation::answers::{Answering, answer_all};
use crate::model::recipe::Recipe;

const AFTER_HELP: &str = "\
Examples:
  trainer generate --base SmolLM2-135M-Instruct.Q4_1.gguf --plain \"The capital of France is\"
  trainer generate --base MobileVLM-1.7B --vision-tower clip-vit-large-patch14-336 --image cat.jpg \"What is this?\"
  trainer generate --adapter runs/train-001/adapter --image scene.png \"What color is the circle?\"

The question is put into MobileVLM's template v1 (data.template), and the answer is the most likely one, token by token.";

/// Ask a model, with or without pictures
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The question; with --plain, the text to continue
    text: String,
    /// A picture to ask about; may be given several times
    #[arg(long, value_name = "FILE", conflicts_with = "plain")]
    image: Vec<PathBuf>,
    /// Continue the text as it is, without a template
    #[arg(long)]
    plain: bool,
    /// Adapter folder, of `trainer train` or of PEFT; without it the base model answers
    #[arg(long, value_name = "FOLDER")]
    adapter: Option<PathBuf>,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,
    /// Which model
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Debug, Serialize)]
struct Document {
    text: String,
}

/// Runs the command.
///
/// # Errors
/// A model, an adapter or a picture that cannot be read.
pub fn run(args: &Args, context: &Context) -> Result<()> {
    let config = args.model.load_untrained(context, &["data.template=v1"])?.value;
    let bench = workbench(config, context)?;
    let model = match &args.adapter {
        Some(folder) => adapter::folder::open(folder, &bench.base)?,
        None => bench.base.model_of(&Recipe::Base, 0, None)?,
    };
    let tokenizer = &bench.base.tokenizer;
    let encoded = if args.plain {
        let mut tokens: Vec<i32> = tokenizer.bos().into_iter().collect();
        tokens.extend(tokenizer.encode(&args.text)?);
        Encoded { parts: vec![Segment::Text(tokens)] }
    } else {
        let pictures: Vec<usize> = (0..args.image.len()).collect();
        let template = match bench.config.data.template {
            Template::Plain => Template::V1,
            template => template,
        };
        prompt(tokenizer, template, &args.text, &pictures)?
    };
    let pictures = match (&bench.base.spec.vision, args.image.is_empty()) {
        (_, true) => PictureSource::None,
        (Some(vision), false) => PictureSource::Files(PictureFiles::new(
            args.image.iter().cloned().map(PictureFile::Path).collect(),
            vision.image_size,
            bench.config.data.fit,
            Damaged::Error,
        )),
        (None, false) => {
            let message = format!("{} has no vision tower; name one with --vision-tower", bench.base.spec.name);
            return Err(super::common::usage(&message));
        }
    };
    let examples = Examples { encoded: &[encoded], pictures: &pictures };
    let answering = Answering { tokenizer, max_tokens: args.max_tokens, threads: 1 };
    let answers = answer_all(&model, answering, &examples, &|_| {})?;
    let document = Document { text: answers.into_iter().flatten().next().unwrap_or_default() };
    context.output.result(&document, || format!("{}\n", document.text))
}
