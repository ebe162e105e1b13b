//! Ranks of PEFT's `adapter_config.json`.

use std::sync::Arc;

use hydra_shared::adapter::{LoraConfig, PatternError};
use hydra_shared::layout::{Layout, Ranks, WrongCount, in_arc};
use serde::{Deserialize, Serialize};

/// Ranks that an `adapter_config.json` gives the modules of a layout, as PEFT would. Modules that PEFT would leave without an
/// adapter have rank 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "Text", try_from = "Text")]
pub struct AdapterRanks {
    /// The ranks.
    pub ranks: Ranks,
    /// What else is to be told.
    pub notices: Vec<String>,
}

/// What goes from worker to page.
#[derive(Serialize, Deserialize)]
struct Text {
    #[serde(with = "in_arc")]
    layout: Arc<Layout>,
    ranks: Vec<u32>,
    notices: Vec<String>,
}

impl From<AdapterRanks> for Text {
    fn from(AdapterRanks { ranks, notices }: AdapterRanks) -> Self {
        Self { layout: Arc::clone(ranks.layout()), ranks: ranks.as_slice().to_vec(), notices }
    }
}

impl TryFrom<Text> for AdapterRanks {
    type Error = WrongCount;

    fn try_from(Text { layout, ranks, notices }: Text) -> Result<Self, WrongCount> {
        Ok(Self { ranks: Ranks::new(&layout, ranks)?, notices })
    }
}

impl AdapterRanks {
    /// Reads a configuration for a layout. Its regular expressions may take long: this is for a worker.
    ///
    /// # Errors
    /// Text that is none, one of another kind than LoRA or for another model, patterns that cannot be read.
    pub fn from_json(text: &str, layout: &Arc<Layout>) -> Result<Self, String> {
        let config = LoraConfig::from_json(text).map_err(|error| error.to_string())?;
        if !config.is_lora() {
            return Err(format!("peft_type is {:?}; only LORA has ranks that can be shown", config.peft_type));
        }
        if config.r == 0 || config.rank_pattern.values().any(|rank| *rank == 0) {
            return Err("it gives a rank of 0, which PEFT refuses; take the module out of target_modules".to_owned());
        }
        let loose = loose_keys(&config, layout).map_err(|error| error.to_string())?;
        let mut notices = Vec::new();
        if let Some(first) = loose.first() {
            if loose.len() == config.rank_pattern.len() {
                return Err(format!(
                    "none of its rank_pattern keys (such as {first}) is a module of {}; drop the config.json of its model \
                     first",
                    layout.model()
                ));
            }
            notices.push(format!("{} of its rank_pattern keys match no module, the first is {first}", loose.len()));
        }
        let asked = ranks_in_peft(&config, layout).map_err(|error| error.to_string())?;
        let left_out = asked.iter().filter(|rank| rank.is_none()).count();
        if left_out > 0 {
            notices.push(format!("it adapts not all modules: {left_out} without an adapter are shown with rank 1"));
        }
        let (mut asked, mut capped) = (asked.into_iter(), 0);
        let ranks = Ranks::from_fn(layout, |module| {
            let Some(rank) = asked.next().flatten() else { return 1 };
            let highest = module.highest_rank(None);
            capped += usize::from(rank > highest);
            rank.min(highest)
        });
        if capped > 0 {
            notices.push(format!("{capped} ranks are above what their matrices can use and were lowered to that"));
        }
        Ok(Self { ranks, notices })
    }
}

/// Keys of `rank_pattern` that match no module.
fn loose_keys(config: &LoraConfig, layout: &Layout) -> Result<Vec<String>, PatternError> {
    let modules: Vec<&str> = layout.modules().iter().map(|module| module.name.as_str()).collect();
    let matched = config.patterns()?.matched(&modules)?.into_iter();
    Ok(matched.filter(|(key, n)| *n == 0 && config.rank_pattern.contains_key(key)).map(|(key, _)| key).collect())
}

/// A rank for every module that PEFT would adapt.
fn ranks_in_peft(config: &LoraConfig, layout: &Layout) -> Result<Vec<Option<u32>>, PatternError> {
    let (patterns, targets) = (config.patterns()?, config.targets()?);
    let rank = |name: &str| if targets.adapts(name)? { patterns.rank(name).map(Some) } else { Ok(None) };
    layout.modules().iter().map(|module| rank(&module.name)).collect()
}
