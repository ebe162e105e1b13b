//! PEFT's `layer_replication`: a decoder whose layers are repeated before they are adapted.

use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

use super::LoraConfig;
use super::meaning::is_set;
use crate::layout::{Catalog, Layout, MOST_LAYERS, Module};

/// The key.
const KEY: &str = "layer_replication";

/// The model as PEFT makes it before it adapts it; none where the configuration repeats no layers.
///
/// # Errors
/// Why PEFT cannot repeat them.
pub(super) fn replicated(config: &LoraConfig, model: &Catalog) -> Result<Option<Catalog>, String> {
    let Some(value) = config.other.get(KEY).filter(|value| is_set(value)) else { return Ok(None) };
    let ranges = ranges(value)?;
    let layout = model.decoder();
    let name = layout.model();
    // PEFT follows attributes named `model`, and takes the list named `layers` that it comes to.
    let is_found = |path: &&str| {
        path.strip_suffix("layers").is_some_and(|rest| rest.split_terminator('.').all(|part| part == "model"))
    };
    let Some(path) = layout.layers_path().filter(is_found) else {
        return Err(format!(
            "{KEY}: PEFT finds the layers of a model alone under model.layers, and those of {name} lie elsewhere"
        ));
    };
    let layers = layout.blocks().iter().filter_map(|block| block.layer).max().map_or(0, |last| last + 1);
    let mut modules: Vec<Module> = Vec::new();
    for (at, from) in ranges.into_iter().flatten().enumerate() {
        if from >= layers {
            return Err(format!("{KEY} repeats layer {from}, and {name} has {layers} layers"));
        }
        if at >= MOST_LAYERS {
            return Err(format!("{KEY} makes more than {MOST_LAYERS} layers"));
        }
        let before = format!("{path}.{from}.");
        modules.extend(layout.modules().iter().filter(|module| module.layer == Some(from)).map(|module| {
            let inside = module.name.strip_prefix(&before).unwrap_or(&module.name);
            Module { name: format!("{path}.{at}.{inside}"), layer: Some(at), ..module.clone() }
        }));
    }
    let repeated = Layout::new(name, modules).map_err(|error| format!("{KEY}: {error}"))?;
    Ok(Some(model.clone().with_decoder(Arc::new(repeated))))
}

/// The layers that follow each other, from the first of each pair up to the second, which is left out.
fn ranges(value: &Value) -> Result<Vec<Range<usize>>, String> {
    let pairs: Vec<(usize, usize)> = serde_json::from_value(value.clone())
        .map_err(|_| format!("{KEY} is {value}, and a list of pairs such as [[0, 4], [2, 5]] belongs there"))?;
    Ok(pairs.into_iter().map(|(start, end)| start..end).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlm::spec::preset_layout;

    fn of(map: &str, path: &str) -> Result<Option<Catalog>, String> {
        let config = format!(r#"{{"peft_type": "LORA", "layer_replication": {map}}}"#);
        let layout = preset_layout("tiny-mobilevlm").unwrap().moved_to(path).unwrap();
        replicated(&LoraConfig::from_json(&config).unwrap(), &Arc::new(layout).into())
    }

    #[test]
    fn layers_are_repeated_in_the_order_of_the_map_and_counted_anew() {
        let repeated = of("[[0, 2], [1, 4]]", "model.layers").unwrap().unwrap();
        let layout = repeated.decoder();
        assert_eq!((layout.blocks().len(), layout.len()), (5, 35));
        assert!(
            layout.find("model.layers.4.mlp.up_proj").is_some() && layout.find("model.layers.5.mlp.up_proj").is_none()
        );
        for none in ["null", "[]"] {
            assert_eq!(of(none, "model.layers"), Ok(None));
        }
    }

    #[test]
    fn a_map_that_peft_cannot_follow_is_named() {
        for (map, path, said) in [
            ("[[0, 9]]", "model.layers", "repeats layer 6, and tiny-mobilevlm has 6 layers"),
            ("[[0, 2, 3]]", "model.layers", "a list of pairs"),
            ("\"all\"", "model.layers", "a list of pairs"),
            ("[[2, 2]]", "model.layers", "1 to 65536 modules"),
            ("[[0, 2]]", "model.language_model.layers", "lie elsewhere"),
        ] {
            let error = of(map, path).unwrap_err();
            assert!(error.contains(said), "{map}: {error}");
        }
    }
}
