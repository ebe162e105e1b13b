//! The choices of a plan: from a file, the environment, `--set` and flags.

use hydra_shared::gradients::{LayerNorm, ProfileConfig, Signal};
use hydra_shared::schedule::{Counting, PlanConfig, StageChoice, StageRanks};
use hydra_shared::stages::StageConfig;
use serde::{Deserialize, Serialize};

use super::{Args, parse};
use crate::config::{Sources, load};
use crate::error::{Kind, failure};

/// Every choice, as a configuration file has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Rank of uniform LoRA, which sets the budget; 0 until it is given.
    pub base_rank: u32,
    /// Stages wanted.
    pub stages: usize,
    /// Layers of each stage, by hand; empty for K-means.
    pub stage_layers: String,
    /// Whether a stage must be a run of neighbouring layers.
    pub contiguous: bool,
    /// Rank of each stage, by hand; empty for the ratio.
    pub stage_ranks: Vec<u32>,
    /// Factor from one stage's rank to the next.
    pub ratio: f64,
    /// Increment of the fine step.
    pub delta: u32,
    /// Signs of the fine step, by hand; empty for each layer's norms.
    pub signs: String,
    /// Trainable parameters allowed; those of uniform LoRA if absent.
    pub budget: Option<u64>,
    /// Whether the budget counts rank units.
    pub count_rank_units: bool,
    /// Largest rank.
    pub rank_cap: Option<u32>,
    /// How updates are scaled.
    pub scale: String,
    /// Dropout in the PEFT configuration.
    pub dropout: f64,
    /// What is measured of a module's gradient.
    pub signal: Signal,
    /// How a layer's norm follows from its projections'.
    pub layer_norm: LayerNorm,
    /// Share of the run that is left out at its start.
    pub warm_up_share: f64,
    /// Whether steps with NaN or infinity are left out.
    pub skip_non_finite: bool,
    /// Seed of K-means++.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        let profile = ProfileConfig::default();
        let stages = StageConfig::default();
        Self {
            base_rank: 0,
            stages: stages.count,
            stage_layers: String::new(),
            contiguous: stages.contiguous,
            stage_ranks: Vec::new(),
            ratio: 2.0,
            delta: PlanConfig::default().delta,
            signs: String::new(),
            budget: None,
            count_rank_units: false,
            rank_cap: None,
            scale: "constant:2".to_owned(),
            dropout: 0.0,
            signal: profile.signal,
            layer_norm: LayerNorm::default(),
            warm_up_share: profile.warm_up_share,
            skip_non_finite: profile.skip_non_finite,
            seed: stages.seed,
        }
    }
}

/// The same choices as flags; what is given here is stronger than anything else.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Settings")]
pub struct Flags {
    /// Rank of the uniform LoRA that would be used otherwise; its parameters are the budget
    #[arg(long, value_name = "R")]
    pub base_rank: Option<u32>,
    /// Stages that layers are clustered into [default: 3, or as many as stage ranks]
    #[arg(long, value_name = "N")]
    pub stages: Option<usize>,
    /// Layers of each stage by hand, lowest rank first, e.g. 0-11/12-17/18-23
    #[arg(long, value_name = "LAYERS")]
    pub stage_layers: Option<String>,
    /// Make every stage a run of neighbouring layers
    #[arg(long)]
    pub contiguous: bool,
    /// Rank of each stage by hand, lowest first, e.g. 64,128,256
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', conflicts_with = "ratio")]
    pub stage_ranks: Option<Vec<u32>>,
    /// Factor from one stage's rank to the next [default: 2]
    #[arg(long, value_name = "FACTOR")]
    pub ratio: Option<f64>,
    /// Rank that the fine step moves a projection by; 0 turns it off [default: 2]
    #[arg(long, value_name = "D")]
    pub delta: Option<u32>,
    /// Signs of the fine step by hand, e.g. q=-,k=-,up=+ [default: by each layer's norms]
    #[arg(long, value_name = "SIGNS", allow_hyphen_values = true)]
    pub signs: Option<String>,
    /// Trainable parameters allowed [default: those of uniform LoRA at the base rank]
    #[arg(long, value_name = "PARAMETERS")]
    pub budget: Option<u64>,
    /// Let the budget count rank units, as AdaLoRA and EVA do
    #[arg(long)]
    pub count_rank_units: bool,
    /// Largest rank of any module [default: what its matrix can use]
    #[arg(long, value_name = "R")]
    pub rank_cap: Option<u32>,
    /// Scale of updates: constant:FACTOR (alpha = FACTOR × rank), fixed-alpha:ALPHA, rslora:ALPHA [default: constant:2]
    #[arg(long, value_name = "POLICY")]
    pub scale: Option<String>,
    /// Dropout in the PEFT configuration [default: 0]
    #[arg(long, value_name = "SHARE")]
    pub dropout: Option<f64>,
    /// What is measured of a module's gradient: l2, rms, fisher [default: l2]
    #[arg(long, value_name = "SIGNAL", value_parser = parse::signal)]
    pub signal: Option<Signal>,
    /// A layer's norm: mean or root-sum-squares of its projections' [default: mean]
    #[arg(long, value_name = "RULE", value_parser = parse::layer_norm)]
    pub layer_norm: Option<LayerNorm>,
    /// Share of the run that is left out at its start [default: 0.1]
    #[arg(long, value_name = "SHARE")]
    pub warm_up_share: Option<f64>,
    /// Leave out steps in which a norm is NaN or infinite
    #[arg(long)]
    pub skip_non_finite: bool,
    /// Seed of K-means++ [default: 0]
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
}

impl Settings {
    /// Puts all sources together; also returns warnings about the environment.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a setting that is unknown, of the wrong type, or missing.
    pub fn resolve(args: &Args) -> anyhow::Result<(Self, Vec<String>)> {
        let resolved = load::<Self>(&Sources::new(args.config.clone(), args.set.clone()))?;
        let mut settings = resolved.value;
        settings.apply(args.flags.clone());
        if settings.base_rank == 0 {
            return Err(failure(
                Kind::Usage,
                "the base rank is missing: give --base-rank, the rank of the uniform LoRA that you would use otherwise",
            ));
        }
        if !(0.0..1.0).contains(&settings.dropout) {
            return Err(failure(Kind::Usage, format!("dropout {} is not from 0 to below 1", settings.dropout)));
        }
        Ok((settings, resolved.warnings))
    }

    fn apply(&mut self, flags: Flags) {
        fn put<T>(into: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *into = value;
            }
        }
        put(&mut self.base_rank, flags.base_rank);
        // Three ranks by hand mean three stages, unless their number is given as well.
        let by_ranks = flags.stage_ranks.as_ref().map(Vec::len);
        put(&mut self.stages, flags.stages.or(by_ranks));
        put(&mut self.stage_layers, flags.stage_layers);
        put(&mut self.stage_ranks, flags.stage_ranks);
        if let Some(ratio) = flags.ratio {
            self.ratio = ratio;
            self.stage_ranks.clear();
        }
        put(&mut self.delta, flags.delta);
        put(&mut self.signs, flags.signs);
        put(&mut self.scale, flags.scale);
        put(&mut self.dropout, flags.dropout);
        put(&mut self.signal, flags.signal);
        put(&mut self.layer_norm, flags.layer_norm);
        put(&mut self.warm_up_share, flags.warm_up_share);
        put(&mut self.seed, flags.seed);
        self.budget = flags.budget.or(self.budget);
        self.rank_cap = flags.rank_cap.or(self.rank_cap);
        self.contiguous |= flags.contiguous;
        self.count_rank_units |= flags.count_rank_units;
        self.skip_non_finite |= flags.skip_non_finite;
    }

    /// How the log becomes a profile.
    ///
    /// # Errors
    /// A warm-up share outside 0 ≤ share < 1.
    pub fn profile(&self) -> anyhow::Result<ProfileConfig> {
        if !(0.0..1.0).contains(&self.warm_up_share) {
            let share = self.warm_up_share;
            return Err(failure(Kind::Usage, format!("warm-up share {share} is not from 0 to below 1; 0.1 is usual")));
        }
        Ok(ProfileConfig {
            signal: self.signal,
            warm_up_share: self.warm_up_share,
            skip_non_finite: self.skip_non_finite,
        })
    }

    /// How the profile becomes a plan.
    ///
    /// # Errors
    /// [`Kind::Usage`] for signs, stages or a scale that cannot be read.
    pub fn plan(&self) -> anyhow::Result<PlanConfig> {
        let stages = if self.stage_layers.is_empty() {
            let config = StageConfig {
                count: self.stages,
                contiguous: self.contiguous,
                seed: self.seed,
                ..StageConfig::default()
            };
            StageChoice::Clustered(config)
        } else {
            StageChoice::ByHand(parse::stage_layers(&self.stage_layers)?)
        };
        let stage_ranks = if self.stage_ranks.is_empty() {
            StageRanks::Ratio(self.ratio)
        } else {
            StageRanks::ByHand(self.stage_ranks.clone())
        };
        Ok(PlanConfig {
            base_rank: self.base_rank,
            stages,
            stage_ranks,
            delta: self.delta,
            signs: if self.signs.is_empty() { None } else { Some(parse::signs(&self.signs)?) },
            layer_norm: self.layer_norm,
            budget: self.budget,
            counting: if self.count_rank_units { Counting::RankUnits } else { Counting::Parameters },
            scale: parse::scale(&self.scale)?,
            cap: self.rank_cap,
        })
    }
}
