//! What files of weights say by their headers: the modules of a model, or those that an adapter adapts.

use std::collections::HashMap;
use std::sync::Arc;

use hydra_shared::adapter::{AdaptedModule, AdaptedModules, PeftOptions, adapted_modules, is_lora};
use hydra_shared::layout::{Catalog, Layout, Module, short_name};
use hydra_shared::names::first_names;
use hydra_shared::vlm::spec::experts_note;
use hydra_shared::weights::shard_of;

use super::given::{candidates, held};
use super::{GivenRanks, Known, layers_of};

/// The header of a file of weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// The file's name.
    pub file: String,
    /// Names and shapes of its tensors.
    pub tensors: Vec<(String, Vec<usize>)>,
}

impl Header {
    /// Whether the weights are an adapter's, and not a model's.
    pub fn is_adapter(&self) -> bool {
        self.tensors.iter().any(|(name, _)| is_lora(name))
    }

    /// What the file is called without its ending.
    fn stem(&self) -> &str {
        self.file.rsplit('/').next().unwrap_or_default().trim_end_matches(".safetensors")
    }
}

/// The matrices of the model whose checkpoint these files are, and what has to be known of it.
///
/// # Errors
/// Shards without the others, tensors that are none of a decoder's.
pub fn model_of_headers(files: &[Header]) -> Result<(Catalog, Vec<String>), String> {
    let first = files.first().ok_or("there are no weights")?;
    let mut model = first.stem();
    if let Some(shard) = shard_of(&first.file) {
        let found = files.iter().filter(|file| shard_of(&file.file).is_some_and(|other| other.count == shard.count));
        let (found, count) = (found.count(), shard.count);
        if found < count as usize {
            return Err(format!(
                "this is one of {count} files that hold the model's layers together, and {found} of them came: drop all {count} at \
                 once (their first bytes alone are read), or the model's config.json"
            ));
        }
        model = shard.start;
    }
    let tensors: Vec<_> = files.iter().flat_map(|file| file.tensors.iter().cloned()).collect();
    let model = Catalog::of_tensors(model, &tensors).map_err(|error| error.to_string())?;
    Ok((model, experts_note(&tensors).map(str::to_owned).into_iter().collect()))
}

/// An adapter that is known by the shapes of its tensors.
pub struct AdapterShapes {
    /// The layout that has all of its modules that are a decoder's: one that is known, or what they make.
    layout: Arc<Layout>,
    /// Ranks of those by their names in that layout.
    ranks: HashMap<String, u32>,
    /// Linear modules outside the decoder.
    outside: usize,
    /// Tensors that are of no linear module.
    others: Vec<String>,
}

impl AdapterShapes {
    /// Reads a header for what is shown, or for a preset that it is of, or as a model of its own.
    ///
    /// # Errors
    /// Tensors that are no adapter of PEFT's, or of no decoder.
    pub fn of(header: &Header, known: &Known) -> Result<Self, String> {
        let AdaptedModules { linear, others } = adapted_modules(&header.tensors).map_err(|error| error.to_string())?;
        let own = decoder_of(header, &linear)?;
        // Models of other sizes have modules of the same names: another one than what is shown has to have as many layers.
        let is_shown = |layout: &Layout| known.shown.iter().any(|shown| shown.same_modules(layout));
        let may_be = |layout: &Arc<Layout>| is_shown(layout) || layers_of(layout) == layers_of(&own);
        let ranks: HashMap<&str, u32> = linear.iter().map(|module| (module.name.as_str(), module.rank)).collect();
        // Its names in a layout, where that has all of them.
        let ranks_in = |layout: &Layout| {
            let modules = layout.modules().iter();
            let named: HashMap<String, &Module> = modules.map(|module| (short_name(&module.name), module)).collect();
            let rank = |module: &Module| {
                let found = named.get(&short_name(&module.name)).filter(|found| found.shape() == module.shape())?;
                Some((found.name.clone(), ranks.get(module.name.as_str()).copied()?))
            };
            own.modules().iter().map(rank).collect::<Option<HashMap<String, u32>>>()
        };
        let found = candidates(known, None).filter(may_be).find_map(|layout| Some((ranks_in(&layout)?, layout)));
        let (ranks, layout) = match found {
            Some(found) => found,
            None => (ranks_in(&own).unwrap_or_default(), Arc::clone(&own)),
        };
        Ok(Self { layout, ranks, outside: linear.len() - own.len(), others })
    }

    /// What the configuration beside the weights is read for.
    pub fn known(&self) -> Known {
        Known { shown: [Arc::clone(&self.layout), Arc::clone(&self.layout)], is_sample: false }
    }

    /// The ranks, where no configuration says more.
    ///
    /// # Errors
    /// No module of a decoder.
    pub fn into_ranks(self) -> Result<GivenRanks, String> {
        let adapted = self.layout.only(|_, module| self.ranks.contains_key(&module.name));
        let adapted = Arc::new(adapted.map_err(|error| error.to_string())?);
        let mut notices = vec![
            "weights do not say their alpha: the scale is that of Choices; drop adapter_config.json with them to have its own"
                .to_owned(),
        ];
        if self.outside > 0 {
            notices.push(format!(
                "{} of its modules are outside the decoder, which are not shown: an export from here lacks them",
                self.outside
            ));
        }
        if !self.others.is_empty() {
            notices.push(format!(
                "an export from here is plain LoRA of linear modules, without what else it holds: {}",
                first_names(&self.others)
            ));
        }
        let ranks = adapted.modules().iter().map(|module| self.ranks.get(&module.name).copied().unwrap_or_default());
        let ranks = held(&adapted, ranks, &mut notices);
        Ok(GivenRanks { ranks, scale: None, peft: PeftOptions::default(), config: None, profile: None, notices })
    }
}

/// The model of which an adapter's modules are all that is known.
///
/// # Errors
/// As [`AdapterShapes::of`].
pub fn model_of_adapter(header: &Header) -> Result<Catalog, String> {
    let adapted = adapted_modules(&header.tensors).map_err(|error| error.to_string())?;
    catalog_of(header, &adapted.linear)
}

fn catalog_of(header: &Header, linear: &[AdaptedModule]) -> Result<Catalog, String> {
    let shapes = linear.iter().map(|module| (module.name.clone(), module.shape));
    Catalog::of_modules(header.stem(), shapes).map_err(|error| error.to_string())
}

fn decoder_of(header: &Header, linear: &[AdaptedModule]) -> Result<Arc<Layout>, String> {
    catalog_of(header, linear).map(|catalog| Arc::clone(catalog.decoder()))
}

#[cfg(test)]
#[cfg(not(target_family = "wasm"))]
mod tests {
    use hydra_shared::layout::ModuleShape;

    use super::*;

    /// What PEFT saves of modules, each of a rank and two widths.
    fn adapter(modules: &[(String, [usize; 3])]) -> Header {
        let pair = |(name, [rank, d_in, d_out]): &(String, [usize; 3])| {
            let tensor =
                |part: &str, shape: [usize; 2]| (format!("base_model.model.{name}.{part}.weight"), shape.to_vec());
            [tensor("lora_A", [*rank, *d_in]), tensor("lora_B", [*d_out, *rank])]
        };
        Header { file: "adapter_model.safetensors".to_owned(), tensors: modules.iter().flat_map(pair).collect() }
    }

    /// An adapter of the fused projections of a model of three layers that is no preset.
    fn fused() -> Header {
        let module = |layer: usize| {
            let path = |rest: &str| format!("model.layers.{layer}.{rest}");
            [(path("self_attn.qkv_proj"), [4, 64, 192]), (path("mlp.gate_up_proj"), [8, 64, 512])]
        };
        adapter(&(0..3).flat_map(module).collect::<Vec<_>>())
    }

    fn sample() -> Known {
        let layout = hydra_shared::vlm::spec::preset_layout("tiny-mobilevlm").unwrap();
        Known { shown: [Arc::clone(&layout), layout], is_sample: true }
    }

    #[test]
    fn weights_alone_say_modules_and_ranks_of_an_adapter_for_any_model() {
        let given = AdapterShapes::of(&fused(), &sample()).unwrap().into_ranks().unwrap();
        let layout = given.ranks.layout();
        assert_eq!((layout.len(), layout.model(), layout.blocks().len()), (6, "adapter_model", 3));
        assert_eq!(given.ranks.parameters(), 3 * (4 * (64 + 192) + 8 * (64 + 512)));
        assert_eq!(given.scale, None);
        assert!(given.notices.len() == 1 && given.notices[0].contains("alpha"), "{:?}", given.notices);
    }

    #[test]
    fn an_adapter_of_the_model_that_is_shown_is_shown_as_part_of_it() {
        let known = sample();
        let (shown, model) = (&known.shown[0], known.shown[0].model().to_owned());
        let is_query = |name: &str| name.ends_with("q_proj") || name.ends_with("v_proj");
        let adapted = shown.modules().iter().filter(|module| is_query(&module.name));
        let head = ("lm_head".to_owned(), [4, 64, 1000]);
        let modules: Vec<_> =
            adapted.map(|module| (module.name.clone(), [4, module.d_in, module.d_out])).chain([head]).collect();
        let given = AdapterShapes::of(&adapter(&modules), &known).unwrap().into_ranks().unwrap();
        assert_eq!(given.ranks.layout().model(), model);
        assert_eq!((given.ranks.all_equal(), given.ranks.layout().len()), (Some(4), modules.len() - 1));
        assert!(given.notices[1].starts_with("1 of its modules are outside the decoder"), "{:?}", given.notices);
    }

    #[test]
    fn names_of_before_transformers_moved_the_decoder_are_those_of_today() {
        let module = |start: &str, layer: usize| format!("{start}.layers.{layer}.self_attn.q_proj");
        let today = (0..2).map(|layer| (module("model.language_model", layer), ModuleShape { d_in: 64, d_out: 64 }));
        let shown = Arc::clone(Catalog::of_modules("llava", today).unwrap().decoder());
        let before: Vec<_> = (0..2).map(|layer| (module("language_model.model", layer), [4, 64, 64])).collect();
        let mut header = adapter(&before);
        header.tensors.push(("base_model.model.x.lora_magnitude_vector".to_owned(), vec![64]));
        let known = Known { shown: [Arc::clone(&shown), Arc::clone(&shown)], is_sample: false };
        let given = AdapterShapes::of(&header, &known).unwrap().into_ranks().unwrap();
        assert!(given.ranks.layout().same_modules(&shown), "{:?}", given.ranks.layout().modules());
        assert!(given.notices[1].contains("lora_magnitude_vector"), "{:?}", given.notices);
    }

    #[test]
    fn a_configuration_is_read_for_the_model_that_the_weights_beside_it_are_of() {
        let text = r#"{"peft_type": "LORA", "base_model_name_or_path": "acme/foreign", "r": 4, "lora_alpha": 8,
            "rank_pattern": {"gate_up_proj": 8}, "alpha_pattern": {"gate_up_proj": 16},
            "target_modules": ["qkv_proj", "gate_up_proj"]}"#;
        assert!(GivenRanks::read(text, &sample()).unwrap_err().contains("config.json"));
        let known = AdapterShapes::of(&fused(), &sample()).unwrap().known();
        let given = GivenRanks::read(text, &known).unwrap();
        assert_eq!(given.ranks.parameters(), 3 * (4 * (64 + 192) + 8 * (64 + 512)));
        assert_eq!(given.scale, Some(hydra_shared::schedule::ScalePolicy::Constant { factor: 2.0 }));
        assert!(given.notices.is_empty(), "{:?}", given.notices);
    }

    #[test]
    fn a_checkpoint_is_known_by_its_shapes_and_a_part_of_one_is_asked_for_the_rest() {
        let shard = |number: usize| Header {
            file: format!("foreign-0000{number}-of-00002.safetensors"),
            tensors: vec![(format!("transformer.h.{}.attn.c_attn.weight", number - 1), vec![64, 192])],
        };
        let (model, notes) = model_of_headers(&[shard(1), shard(2)]).unwrap();
        assert_eq!((model.decoder().model(), model.decoder().len(), notes.len()), ("foreign", 2, 0));
        assert_eq!(model.decoder().modules()[0].shape().d_in, 64, "GPT-2 keeps its matrices turned");
        // A log that names none of the seven projections is of it, and of no preset.
        let norms = (0..2).map(|layer| format!("\"transformer.h.{layer}.attn.c_attn.weight\":{}", 1 + layer));
        let text = format!("{{\"step\":1,{}}}\n", norms.collect::<Vec<_>>().join(","));
        let log = hydra_shared::gradients::read("mine.jsonl", std::io::Cursor::new(text)).unwrap();
        assert_eq!(log.layers(), 2);
        let of_log =
            |shown: &[&Catalog]| crate::documents::model_of_log(&log, shown.iter().copied(), &Default::default());
        assert_eq!(of_log(&[&model]).map(|found| found.decoder().len()), Some(2));
        assert!(of_log(&[]).is_none());
        let problem = model_of_headers(&[shard(1)]).unwrap_err();
        assert!(problem.contains("one of 2 files") && problem.contains("1 of them came"), "{problem}");
        assert!(!shard(1).is_adapter() && fused().is_adapter());
    }
}
