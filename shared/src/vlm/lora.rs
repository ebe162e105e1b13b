//! LoRA with a rank of its own in every module.
//!
//! Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, arXiv 2106.09685; initialization and names as in
//! PEFT. The adapter is applied to activations, `x·W + s·(x·A)·B`: composing `W + s·A·B` first would compute a full
//! gradient of W in the backward pass and make every rank cost the same.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::compute::{Compute, widened};
use super::spec::{End, ModelSpec};
use super::weights::{Loader, ParamNames};
use crate::adapter::{embedding_names, lora_names};
use crate::layout::{ModuleId, ModuleShape, Ranks};
use crate::schedule::ScalePolicy;
use crate::weights::{Weight, WeightError, Weights};

/// A frozen linear layer and, where the schedule says so, its adapter.
#[derive(Module, Debug)]
pub struct LoraLinear {
    /// Frozen weight, `[d_in, d_out]`.
    pub weight: Param<Tensor<2>>,
    /// Bias, `[d_out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Low-rank update.
    pub lora: Option<LoraAdapter>,
}

/// The low-rank update `s·A·B` of one module.
#[derive(Module, Debug)]
pub struct LoraAdapter {
    /// `[d_in, rank]` (PEFT stores its transpose as `lora_A.weight`).
    pub a: Param<Tensor<2>>,
    /// `[rank, d_out]` (PEFT stores its transpose as `lora_B.weight`).
    pub b: Param<Tensor<2>>,
    /// Scale s: α/r, or α/√r with rsLoRA.
    #[module(skip)]
    pub scale: f64,
}

impl LoraAdapter {
    /// Whether it is trained.
    pub(super) fn is_trained(&self) -> bool {
        self.a.val().is_tracked() || self.b.val().is_tracked()
    }

    /// What it adds to its weight, `[d_in, d_out]`, not tracked.
    pub(super) fn update(&self) -> Tensor<2> {
        self.a.val().inner().matmul(self.b.val().inner()).mul_scalar(self.scale)
    }

    /// Cut to the first `shape.rank` of its directions, under the scale of `shape`.
    ///
    /// The others stand there as zeros, under the same parameters: what A and B have of them changes no result, and neither
    /// has a gradient there.
    #[must_use]
    pub(super) fn truncated(self, shape: AdapterShape) -> Self {
        let Self { a, b, .. } = self;
        let [whole, _] = b.dims();
        let kept: Vec<f32> = (0..whole).map(|row| if row < shape.rank as usize { 1.0 } else { 0.0 }).collect();
        let cut = |param: Param<Tensor<2>>, along: [usize; 2]| {
            let (id, values) = (param.id, param.into_value().inner());
            let kept = Tensor::<2>::from_data(TensorData::new(kept.clone(), along), &values.device());
            Param::initialized(id, values * kept)
        };
        Self { a: cut(a, [1, whole]), b: cut(b, [whole, 1]), scale: shape.scale }
    }
}

impl LoraLinear {
    pub(super) fn load(loader: &mut Loader<'_>, name: &str, d_in: usize, d_out: usize, bias: bool) -> Self {
        Self {
            weight: loader.linear(&format!("{name}.weight"), d_in, d_out),
            bias: bias.then(|| loader.tensor(&format!("{name}.bias"), [d_out])),
            lora: None,
        }
    }

    /// Its adapter, if that is trained.
    #[cfg(not(target_family = "wasm"))]
    pub(super) fn trained_adapter(&self) -> Option<&LoraAdapter> {
        self.lora.as_ref().filter(|lora| lora.is_trained())
    }

    /// The layer with its adapter [cut](LoraAdapter::truncated).
    #[must_use]
    pub(super) fn truncated(mut self, shape: AdapterShape) -> Self {
        self.lora = self.lora.map(|lora| lora.truncated(shape));
        self
    }

    /// `[rows, d_in]` → `[rows, d_out]`, both in single precision. `module` is this module's position in layer-major order.
    pub fn forward(&self, x: Tensor<2>, options: ForwardOptions<'_>, module: usize) -> Tensor<2> {
        let ForwardOptions { compute, dropout } = options;
        let factor = compute.factor(x.clone());
        let low = self.lora.as_ref().map(|LoraAdapter { a, .. }| {
            let x = match dropout {
                Some(dropout) => {
                    let [rows, width] = x.dims();
                    let mask = dropout.mask(module, rows, width, &x.device().inner());
                    compute.factor(x * mask)
                }
                None => factor.clone(),
            };
            x.matmul(compute.factor(a.val()))
        });
        self.finish(factor, low, compute)
    }

    /// The frozen product of `x`, the up-projection of `low`, and the bias. `x` and `low` are factors of a product.
    fn finish(&self, x: Tensor<2>, low: Option<Tensor<2>>, compute: Compute) -> Tensor<2> {
        let y = widened(x.matmul(compute.factor(self.weight.val())));
        let y = match self.lora.as_ref().zip(low) {
            // The scale goes onto the narrow side: rows × rank numbers instead of rows × d_out.
            Some((LoraAdapter { b, scale, .. }, low)) => {
                y + widened(low.mul_scalar(*scale).matmul(compute.factor(b.val())))
            }
            None => y,
        };
        match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        }
    }

    /// [`Self::forward`] of several modules that read the same input. Their down-projections are one product: the adapters'
    /// A side by side, whatever their ranks.
    pub fn forward_together<const N: usize>(
        linears: [&Self; N],
        x: &Tensor<2>,
        options: ForwardOptions<'_>,
        modules: [usize; N],
    ) -> [Tensor<2>; N] {
        let adapters: Vec<&LoraAdapter> = linears.iter().filter_map(|linear| linear.lora.as_ref()).collect();
        // Dropout gives every adapter an input of its own.
        if options.dropout.is_some() || adapters.len() < N {
            let mut modules = modules.into_iter();
            return linears.map(|linear| linear.forward(x.clone(), options, modules.next().unwrap_or_default()));
        }
        let compute = options.compute;
        let x = compute.factor(x.clone());
        let all = Tensor::cat(adapters.into_iter().map(|adapter| adapter.a.val()).collect(), 1);
        let low = x.clone().matmul(compute.factor(all));
        let mut first = 0;
        linears.map(|linear| {
            let own = linear.lora.as_ref().map(|adapter| {
                let [rank, _] = adapter.b.dims();
                let own = low.clone().narrow(1, first, rank);
                first += rank;
                own
            });
            linear.finish(x.clone(), own, compute)
        })
    }

    /// Folds the adapter into the weight and removes it.
    #[must_use]
    pub fn merged(self) -> Self {
        let Some(update) = self.lora.as_ref().map(LoraAdapter::update) else { return self };
        Self { weight: self.weight.map(|weight| widened(weight.inner()) + update), bias: self.bias, lora: None }
    }
}

/// How the layers of a pass compute.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ForwardOptions<'a> {
    /// Precision of the products.
    pub compute: Compute,
    /// In training, what thins out what the adapters read.
    pub dropout: Option<&'a LoraDropout>,
}

/// Dropout of what the adapters read, as PEFT's `lora_dropout`: an element is 0 with probability `rate`, and otherwise
/// divided by 1 − `rate`.
///
/// The mask is a function of key and module alone: it is the same on every device, in every number of threads, and when a
/// block is computed again for its backward pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraDropout {
    /// Probability, below 1.
    pub rate: f64,
    /// What makes the masks of one micro-batch of one step differ from all others.
    pub key: u64,
}

impl LoraDropout {
    fn mask(&self, module: usize, rows: usize, width: usize, device: &Device) -> Tensor<2> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.key);
        rng.set_stream(module as u64);
        let mut bytes = vec![0_u8; 2 * rows * width];
        rng.fill(&mut bytes[..]);
        let kept = (1.0 / (1.0 - self.rate)) as f32;
        // 16 random bits decide an element: the rate is met to 1/65,536.
        let threshold = (self.rate * 65_536.0).round() as u32;
        let decide = |pair: &[u8; 2]| if u32::from(u16::from_le_bytes(*pair)) < threshold { 0.0 } else { kept };
        let values: Vec<f32> = bytes.as_chunks::<2>().0.iter().map(decide).collect();
        Tensor::from_data(TensorData::new(values, [rows, width]), device)
    }
}

/// Rank and scale of one module's adapter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdapterShape {
    /// Rank; 0 leaves the module without an adapter.
    pub rank: u32,
    /// Scale s.
    pub scale: f64,
}

/// The adapter of every module of a model: in the order of [`ModelSpec::modules`], and then those of the ends
/// ([`End::ALL`]). Modules that the ranks' layout does not have get none.
pub fn adapter_shapes(spec: &ModelSpec, ranks: &Ranks, scale: ScalePolicy) -> Vec<AdapterShape> {
    let shape = |name: String| {
        let rank = ranks.get(&name).unwrap_or(0);
        AdapterShape { rank, scale: if rank == 0 { 0.0 } else { scale.scale(rank) } }
    };
    adapted_modules(spec).map(|module| shape(module.name(spec))).collect()
}

/// A matrix that can have an adapter.
#[derive(Debug, Clone, Copy)]
pub(super) enum Adapted {
    /// Of a layer.
    Layer(ModuleId),
    /// At one of the decoder's ends.
    End(End),
}

/// Every matrix of a decoder that can have an adapter, in the order of a model's [`AdapterShape`]s.
pub(super) fn adapted_modules(spec: &ModelSpec) -> impl Iterator<Item = Adapted> + use<> {
    spec.modules().map(Adapted::Layer).chain(End::ALL.map(Adapted::End))
}

impl Adapted {
    /// Full name of the module.
    pub(super) fn name(self, spec: &ModelSpec) -> String {
        match self {
            Self::Layer(module) => spec.module_name(module),
            Self::End(end) => spec.end_name(end),
        }
    }

    /// Checkpoint names of its A and B, as they stand in a PEFT adapter without the prefix `base_model.model.`.
    pub(super) fn names(self, spec: &ModelSpec) -> [String; 2] {
        match self {
            Self::End(End::Embedding) => embedding_names(&self.name(spec)),
            Self::Layer(_) | Self::End(End::Head) => lora_names(&self.name(spec)),
        }
    }

    fn shape(self, spec: &ModelSpec) -> ModuleShape {
        match self {
            Self::Layer(module) => spec.shape(module.projection),
            Self::End(end) => spec.end_shape(end),
        }
    }
}

/// New adapters: A uniform in ±1/√d_in (PEFT's Kaiming-uniform with a = √5), B zero; of an embedding, as in PEFT, A zero and B
/// normal. Every module draws from its own generator, so that a module's A does not depend on the other modules' ranks.
pub fn initial_adapters(spec: &ModelSpec, shapes: &[AdapterShape], seed: u64) -> Weights {
    let mut weights = Weights::default();
    let modules = adapted_modules(spec).zip(shapes).enumerate();
    for (stream, (module, shape)) in modules.filter(|(_, (_, shape))| shape.rank > 0) {
        let [name_a, name_b] = module.names(spec);
        let size = module.shape(spec);
        let rank = shape.rank as usize;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream as u64);
        let (a, b) = match module {
            Adapted::End(End::Embedding) => {
                let b = (0..size.d_out * rank).map(|_| normal(&mut rng)).collect();
                (vec![0.0; rank * size.d_in], b)
            }
            Adapted::Layer(_) | Adapted::End(End::Head) => {
                let bound = 1.0 / (size.d_in as f32).sqrt();
                let a = (0..rank * size.d_in).map(|_| rng.random_range(-bound..bound)).collect();
                (a, vec![0.0; size.d_out * rank])
            }
        };
        weights.tensors.insert(name_a, Weight { shape: vec![rank, size.d_in], values: a });
        weights.tensors.insert(name_b, Weight { shape: vec![size.d_out, rank], values: b });
    }
    weights
}

/// A number of the standard normal distribution by Marsaglia's polar method, the same on every platform.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    loop {
        let [x, y] = [0; 2].map(|_| 2.0 * rng.random::<f64>() - 1.0);
        let square = x * x + y * y;
        if square > 0.0 && square < 1.0 {
            return (x * (-2.0 * libm::log(square) / square).sqrt()) as f32;
        }
    }
}

/// Adapters on the device, in the order of a model's [`AdapterShape`]s, from the weights that [`initial_adapters`] made or a
/// file held.
pub(super) fn load_adapters(
    spec: &ModelSpec,
    shapes: &[AdapterShape],
    weights: Weights,
    device: &Device,
) -> Result<(Vec<Option<LoraAdapter>>, ParamNames), WeightError> {
    let mut loader = Loader::new(weights, device);
    let adapters = adapted_modules(spec)
        .zip(shapes)
        .map(|(module, AdapterShape { rank, scale })| {
            let [name_a, name_b] = module.names(spec);
            let size = module.shape(spec);
            (*rank > 0).then(|| LoraAdapter {
                a: loader.linear(&name_a, size.d_in, *rank as usize),
                b: loader.linear(&name_b, *rank as usize, size.d_out),
                scale: *scale,
            })
        })
        .collect();
    Ok((adapters, loader.finish()?))
}
