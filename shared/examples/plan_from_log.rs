//! From a gradient log to PEFT's configuration: ranks for one of the known models.
//!
//! ```text
//! cargo run -p hydra-shared --no-default-features --example plan_from_log -- <log> <model> > adapter_config.json
//! ```

use std::error::Error;
use std::fs::File;
use std::io::{self, BufReader, Write as _};

use hydra_shared::adapter::{LoraConfig, PeftOptions};
use hydra_shared::gradients::{self, ProfileConfig, profile};
use hydra_shared::schedule::{Plan, PlanConfig, Provenance, RankSchedule, ScalePolicy, plan};
use hydra_shared::vlm::spec::preset_layout;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(file), Some(model)) = (arguments.next(), arguments.next()) else {
        return Err("give a gradient log and a model, such as mobilevlm-1.7b".into());
    };
    let layout = preset_layout(&model).ok_or("no such model")?;
    let log = gradients::read(&file, BufReader::new(File::open(&file)?))?;
    let profile = profile(&log, &layout, &ProfileConfig::default())?;
    let config = PlanConfig::default();
    let Plan { ranks, budget, .. } = plan(&layout, &profile, &config)?;
    let schedule = RankSchedule::new(ranks, config.base_rank, ScalePolicy::default(), budget, Provenance::default())?;
    let adapter = LoraConfig::new(&schedule, &PeftOptions::default()).to_json()?;
    Ok(io::stdout().write_all(adapter.as_bytes())?)
}
