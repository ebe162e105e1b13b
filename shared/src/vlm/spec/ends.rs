//! The matrices at a decoder's ends, the embedding and the head, and whether they get adapters beside the layers.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ModelSpec;
use crate::layout::{Kind, Layout, LayoutError, Module, ModuleShape};

/// A matrix at one of the decoder's ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Rows of tokens: what the first layer reads.
    Embedding,
    /// What makes scores of the last layer's states.
    Head,
}

impl End {
    /// Both, in the order in which they follow the layers' modules everywhere.
    pub const ALL: [Self; 2] = [Self::Embedding, Self::Head];
}

/// Which matrices of a decoder get adapters.
///
/// Written as `all-linear`, PEFT's word for the layers' matrices without the head, and what is added: `all-linear+head`,
/// `all-linear+embeddings`, `all-linear+embeddings+head`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Targets {
    /// The embedding as well.
    pub embeddings: bool,
    /// The head as well.
    pub head: bool,
}

/// Why ends cannot get adapters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndsError {
    /// One matrix serves as both.
    #[error(
        "{model} reads tokens and scores them with one matrix, so that an adapter of either could not be merged: leave its targets \
         at all-linear"
    )]
    Tied {
        /// The model.
        model: String,
    },
    /// No layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

impl Targets {
    const LAYERS: &'static str = "all-linear";

    /// Every choice.
    pub fn all() -> [Self; 4] {
        [(false, false), (false, true), (true, false), (true, true)].map(|(embeddings, head)| Self { embeddings, head })
    }

    /// Whether an end is among them.
    pub fn include(self, end: End) -> bool {
        match end {
            End::Embedding => self.embeddings,
            End::Head => self.head,
        }
    }

    /// Whether any end is among them.
    pub fn any_end(self) -> bool {
        self.embeddings || self.head
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::LAYERS)?;
        f.write_str(if self.embeddings { "+embeddings" } else { "" })?;
        f.write_str(if self.head { "+head" } else { "" })
    }
}

impl FromStr for Targets {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("\"{text}\" names no targets; all-linear does, with +embeddings or +head behind it, or both");
        let ends = text.strip_prefix(Self::LAYERS).ok_or_else(wrong)?;
        let mut targets = Self::default();
        for end in ends.split('+').skip(1) {
            match end {
                "embeddings" if !targets.embeddings => targets.embeddings = true,
                "head" if !targets.head => targets.head = true,
                _ => return Err(wrong()),
            }
        }
        if ends.is_empty() || ends.starts_with('+') { Ok(targets) } else { Err(wrong()) }
    }
}

impl TryFrom<String> for Targets {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Targets> for String {
    fn from(targets: Targets) -> Self {
        targets.to_string()
    }
}

impl ModelSpec {
    /// Full name of an end's module, as PEFT sees it.
    pub fn end_name(&self, end: End) -> String {
        let root = self.layers_path.strip_suffix(".layers").unwrap_or(&self.layers_path);
        match end {
            End::Embedding => format!("{root}.embed_tokens"),
            End::Head => "lm_head".to_owned(),
        }
    }

    /// Input and output width of an end: of the embedding tokens and width, of the head the other way round.
    pub fn end_shape(&self, end: End) -> ModuleShape {
        let (hidden, vocab) = (self.decoder.hidden, self.decoder.vocab);
        match end {
            End::Embedding => ModuleShape { d_in: vocab, d_out: hidden },
            End::Head => ModuleShape { d_in: hidden, d_out: vocab },
        }
    }

    /// [`Self::layout`] with the ends that get ranks, too, behind the layers.
    ///
    /// # Errors
    /// An end where both are one matrix; as [`Self::layout`].
    pub fn layout_of(&self, targets: Targets) -> Result<Arc<Layout>, EndsError> {
        let layers = self.layout()?;
        if !targets.any_end() {
            return Ok(layers);
        }
        if self.decoder.tied_embeddings {
            return Err(EndsError::Tied { model: self.name.clone() });
        }
        let end = |end: End| {
            let (name, shape) = (self.end_name(end), self.end_shape(end));
            let kind = Kind::from(name.rsplit('.').next().unwrap_or_default().to_owned());
            Module { name, layer: None, kind, d_in: shape.d_in, d_out: shape.d_out }
        };
        let ends = End::ALL.into_iter().filter(|end| targets.include(*end)).map(end);
        let layout = Layout::new(self.name.clone(), layers.modules().iter().cloned().chain(ends).collect())?;
        Ok(Arc::new(layout.with_decoder_parameters(self.decoder_parameters())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_written_as_they_are_read() {
        let texts = Targets::all().map(|targets| targets.to_string());
        assert_eq!(texts, ["all-linear", "all-linear+head", "all-linear+embeddings", "all-linear+embeddings+head"]);
        assert_eq!(texts.map(|text| text.parse::<Targets>().unwrap()), Targets::all());
        assert_eq!("all-linear+head+embeddings".parse(), Ok(Targets { embeddings: true, head: true }));
        for text in ["", "all", "all-linear+", "all-linears", "all-linear+head+head", "head"] {
            let error = text.parse::<Targets>().unwrap_err();
            assert!(error.contains("all-linear does"), "{error}");
        }
    }

    #[test]
    fn ends_stand_behind_the_layers_with_the_widths_of_their_matrices() {
        let spec = ModelSpec::preset("tiny-mobilevlm").unwrap();
        let layout = spec.layout_of(Targets { embeddings: true, head: true }).unwrap();
        let ends: Vec<_> = layout.modules()[42..].iter().map(|m| (m.name.as_str(), m.d_in, m.d_out, m.layer)).collect();
        assert_eq!(ends, [("model.embed_tokens", 512, 64, None), ("lm_head", 64, 512, None)]);
        assert_eq!(layout.blocks().len(), 8);
        assert!(spec.layout_of(Targets::default()).unwrap().same_modules(&spec.layout().unwrap()));
        let tied = ModelSpec::preset("smollm2-135m").unwrap();
        let error = tied.layout_of(Targets { embeddings: false, head: true }).unwrap_err().to_string();
        assert!(error.starts_with("smollm2-135m reads tokens and scores them with one matrix"), "{error}");
    }
}
