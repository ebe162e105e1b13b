//! A rank for every module of a layout.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::{Layout, Module};

/// A rank for every module of one layout: the paper's Z.
///
/// Rank 0 leaves a module without an adapter. Written as the list of ranks alone, in the layout's order; it is read back
/// together with its layout, by [`Ranks::new`].
#[derive(Debug, Clone)]
pub struct Ranks {
    layout: Arc<Layout>,
    values: Vec<u32>,
}

/// Not one rank per module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found} ranks were given for the {expected} modules of {model}; give one rank per module")]
pub struct WrongCount {
    /// Name of the model.
    pub model: String,
    /// Its modules.
    pub expected: usize,
    /// Ranks given.
    pub found: usize,
}

impl Ranks {
    /// These ranks, in the layout's order.
    ///
    /// # Errors
    /// Not one rank per module.
    pub fn new(layout: &Arc<Layout>, values: Vec<u32>) -> Result<Self, WrongCount> {
        if values.len() == layout.len() {
            Ok(Self { layout: Arc::clone(layout), values })
        } else {
            let model = layout.model().to_owned();
            Err(WrongCount { model, expected: layout.len(), found: values.len() })
        }
    }

    /// The rank that `rank` gives each module.
    pub fn from_fn(layout: &Arc<Layout>, mut rank: impl FnMut(&Module) -> u32) -> Self {
        let values = layout.modules().iter().map(&mut rank).collect();
        Self { layout: Arc::clone(layout), values }
    }

    /// The same rank in every module: LoRA.
    pub fn uniform(layout: &Arc<Layout>, rank: u32) -> Self {
        Self::from_fn(layout, |_| rank)
    }

    /// What gets the ranks.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The ranks in the layout's order.
    pub fn as_slice(&self) -> &[u32] {
        &self.values
    }

    /// Every module with its rank, in the layout's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Module, u32)> + Clone {
        self.layout.modules().iter().zip(self.values.iter().copied())
    }

    /// Rank of the module of a full name; none for one that the layout does not have.
    pub fn get(&self, name: &str) -> Option<u32> {
        let (position, _) = self.layout.find(name)?;
        self.at(position)
    }

    /// Rank of the module at a position of the layout.
    pub fn at(&self, position: usize) -> Option<u32> {
        self.values.get(position).copied()
    }

    /// The same ranks with another one at a position; unchanged where the layout has no such position.
    #[must_use]
    pub fn with(mut self, position: usize, rank: u32) -> Self {
        if let Some(slot) = self.values.get_mut(position) {
            *slot = rank;
        }
        self
    }

    /// Trainable parameters: Σ r·(d_in + d_out).
    pub fn parameters(&self) -> u64 {
        self.iter()
            .fold(0, |sum, (module, rank)| sum.saturating_add(module.rank_unit_cost().saturating_mul(u64::from(rank))))
    }

    /// Rank units: Σ r.
    pub fn units(&self) -> u64 {
        self.values.iter().copied().map(u64::from).sum()
    }

    /// Highest rank of any module.
    pub fn largest(&self) -> u32 {
        self.values.iter().copied().max().unwrap_or(0)
    }

    /// The rank that all modules have, where they have the same.
    pub fn all_equal(&self) -> Option<u32> {
        let first = *self.values.first()?;
        self.values.iter().all(|rank| *rank == first).then_some(first)
    }

    /// Whether every rank is one that its module can use: at most `min(d_in, d_out)`, and `cap` where one is given.
    pub fn fit_their_modules(&self, cap: Option<u32>) -> bool {
        self.iter().all(|(module, rank)| rank <= module.highest_rank(cap))
    }
}

impl PartialEq for Ranks {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values && self.layout.same_modules(&other.layout)
    }
}

impl Eq for Ranks {}

impl Serialize for Ranks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.values.serialize(serializer)
    }
}
