//! Projections that read the same input, their adapters folded in.

use burn::module::ParamId;
use burn::tensor::{Tensor, TensorData};
use hydra_kernels::Level;
use hydra_kernels::decoder::add;

use super::product::{Onto, Rounded, View, ViewMut, multiplied, product};
use crate::vlm::compute::widened;
use crate::vlm::lora::{LoraAdapter, LoraLinear};

/// Projections side by side: one product for all of them, and the adapters among theirs that are trained.
pub struct Projections<'a> {
    d_in: usize,
    d_out: usize,
    weight: Weights<'a>,
    /// Biases; none where no projection has one.
    bias: Option<Vec<f32>>,
    /// Those that are trained, and those that are not folded in.
    adapters: Vec<Adapter>,
    /// Ranks of these adapters together.
    ranks: usize,
    /// Their A, side by side, `[d_in, ranks]`.
    a: Vec<f32>,
}

/// Weights side by side, `[d_in, d_out]`.
enum Weights<'a> {
    /// W + s·A·B of each.
    Folded(Matrix),
    /// W of each. Adapters are computed beside it: a small update would vanish in the rounding.
    Rounded(&'a Rounded),
}

/// The adapter of one of them.
struct Adapter {
    /// Of A and B; none where they are not trained.
    ids: Option<[ParamId; 2]>,
    /// Where the module's results begin.
    first: usize,
    d_out: usize,
    /// Where its columns of all A begin.
    first_rank: usize,
    rank: usize,
    scale: f32,
    /// `[rank, d_out]`.
    b: Vec<f32>,
}

/// The gradient of a parameter.
pub struct Gradient {
    /// Which.
    pub id: ParamId,
    /// Its shape.
    pub shape: [usize; 2],
    /// Its values, row-major.
    pub values: Vec<f32>,
}

/// A matrix on the host. As it comes from a tensor it is a copy already, and a vector of its numbers would be another.
pub struct Matrix(TensorData);

impl Matrix {
    /// Reads it, in single precision.
    pub fn load(tensor: Tensor<2>) -> Self {
        let shape = tensor.dims();
        let data = widened(tensor.clone().inner()).into_data();
        // Bytes can lie where no number may begin.
        if data.as_slice::<f32>().is_ok() { Self(data) } else { Self(TensorData::new(values(tensor), shape)) }
    }

    /// Its numbers, row-major.
    pub fn values(&self) -> &[f32] {
        // In single precision and in its place it is: no product fits what is missing otherwise.
        self.0.as_slice().unwrap_or_default()
    }

    fn values_mut(&mut self) -> &mut [f32] {
        self.0.as_mut_slice().unwrap_or_default()
    }
}

/// Numbers of a tensor in single precision.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    // In single precision it is; were it not, NaN would say so, as everything that follows from it.
    let count = tensor.shape().num_elements();
    widened(tensor.inner()).into_data().try_into_vec().unwrap_or_else(|_| vec![f32::NAN; count])
}

/// Weights of projections that read the same input, `[d_in, d_out]`.
fn side_by_side(linears: &[&LoraLinear]) -> Matrix {
    let [only] = linears else {
        let dims = |linear: &&LoraLinear| linear.weight.val().dims();
        let d_in = linears.first().map_or(0, |linear| dims(linear)[0]);
        let d_out = linears.iter().map(|linear| dims(linear)[1]).sum();
        let mut all = Matrix(TensorData::zeros::<f32, _>([d_in, d_out]));
        let mut first = 0;
        for linear in linears {
            let [_, width] = dims(linear);
            let weight = Matrix::load(linear.weight.val());
            let rows = all.values_mut().chunks_exact_mut(d_out);
            for (row, from) in rows.zip(weight.values().chunks_exact(width)) {
                row[first..first + width].copy_from_slice(from);
            }
            first += width;
        }
        return all;
    };
    Matrix::load(only.weight.val())
}

/// The weights of projections that read the same input, rounded.
pub fn rounded(linears: &[&LoraLinear]) -> Rounded {
    let matrix = side_by_side(linears);
    Rounded::new(View::new(matrix.values(), linears.iter().map(|linear| linear.weight.val().dims()[1]).sum()))
}

impl<'a> Projections<'a> {
    /// Reads them. Adapters are folded in where nothing is rounded.
    pub fn load(linears: &[&LoraLinear], rounded: Option<&'a Rounded>) -> Self {
        let dims = |linear: &&LoraLinear| linear.weight.val().dims();
        let d_in = linears.first().map_or(0, |linear| dims(linear)[0]);
        let d_out = linears.iter().map(|linear| dims(linear)[1]).sum();
        let beside = |linear: &&&LoraLinear| rounded.is_some() || linear.trained_adapter().is_some();
        let rank_of = |linear: &&LoraLinear| linear.lora.as_ref().map_or(0, |lora| lora.b.dims()[0]);
        let ranks = linears.iter().filter(beside).map(rank_of).sum();
        let mut all = Self {
            d_in,
            d_out,
            weight: rounded.map_or_else(|| Weights::Folded(side_by_side(linears)), Weights::Rounded),
            bias: linears.iter().any(|linear| linear.bias.is_some()).then(|| vec![0.0; d_out]),
            adapters: Vec::new(),
            ranks,
            a: vec![0.0; d_in * ranks],
        };
        let (mut first, mut first_rank) = (0, 0);
        for linear in linears {
            let [_, width] = dims(linear);
            if let (Some(all), Some(bias)) = (&mut all.bias, &linear.bias) {
                all[first..first + width].copy_from_slice(&values(bias.val()));
            }
            if let Some(LoraAdapter { a, b, scale }) = &linear.lora {
                let (ids, a, b) = (linear.trained_adapter().map(|_| [a.id, b.id]), values(a.val()), values(b.val()));
                let rank = b.len().checked_div(width).unwrap_or(0);
                let scale = *scale as f32;
                if let Weights::Folded(weight) = &mut all.weight {
                    let into = ViewMut { data: weight.values_mut(), row: d_out, first, columns: width };
                    product(into, View::new(&a, rank), View::new(&b, width), scale, Onto::Sum);
                }
                if beside(&linear) {
                    for (row, from) in all.a.chunks_exact_mut(ranks).zip(a.chunks_exact(rank)) {
                        row[first_rank..first_rank + rank].copy_from_slice(from);
                    }
                    all.adapters.push(Adapter { ids, first, d_out: width, first_rank, rank, scale, b });
                    first_rank += rank;
                }
            }
            first += width;
        }
        all
    }

    /// `[rows, d_in]` → `[rows, d_out]`, and u = x·A `[rows, ranks]` where that was computed.
    pub fn forward(&self, level: Level, x: &[f32]) -> (Vec<f32>, Option<Vec<f32>>) {
        let (mut y, u) = match &self.weight {
            Weights::Folded(weight) => {
                (multiplied(View::new(x, self.d_in), View::new(weight.values(), self.d_out), 1.0), None)
            }
            Weights::Rounded(weight) => (weight.multiplied(x), Some(self.reduced(x))),
        };
        if let Some(bias) = &self.bias {
            y.chunks_exact_mut(self.d_out).for_each(|row| add(level, row, bias));
        }
        for Adapter { first, d_out, first_rank, rank, scale, b, .. } in u.iter().flat_map(|_| &self.adapters) {
            let u = self.own_columns(u.as_deref().unwrap_or_default(), *first_rank, *rank);
            let into = ViewMut { data: &mut y, row: self.d_out, first: *first, columns: *d_out };
            product(into, u, View::new(b, *d_out), *scale, Onto::Sum);
        }
        (y, u)
    }

    /// x·A
    fn reduced(&self, x: &[f32]) -> Vec<f32> {
        multiplied(View::new(x, self.d_in), View::new(&self.a, self.ranks), 1.0)
    }

    /// An adapter's columns of what has one for every rank.
    fn own_columns<'b>(&self, all: &'b [f32], first_rank: usize, rank: usize) -> View<'b> {
        let all = View::new(all, self.ranks);
        all.part(0..all.rows(), first_rank..first_rank + rank)
    }

    /// v = s·dy·Bᵀ `[rows, ranks]`, of the gradient by the result of [`Self::forward`].
    pub fn reduced_back(&self, dy: &[f32]) -> Vec<f32> {
        let rows = dy.len().checked_div(self.d_out).unwrap_or(0);
        let mut v = vec![0.0; rows * self.ranks];
        for Adapter { first, d_out, first_rank, rank, scale, b, .. } in &self.adapters {
            let dy = View::new(dy, self.d_out).part(0..rows, *first..first + d_out);
            let into = ViewMut { data: &mut v, row: self.ranks, first: *first_rank, columns: *rank };
            product(into, dy, View::new(b, *d_out).transposed(), *scale, Onto::Nothing);
        }
        v
    }

    /// The gradient by the input of [`Self::forward`], of the one by its result and what [`Self::reduced_back`] makes of that.
    pub fn by_input(&self, dy: &[f32], v: &[f32]) -> Vec<f32> {
        match &self.weight {
            Weights::Folded(weight) => {
                multiplied(View::new(dy, self.d_out), View::new(weight.values(), self.d_out).transposed(), 1.0)
            }
            Weights::Rounded(weight) => {
                let mut dx = weight.multiplied_back(dy);
                self.add_beside(v, &mut dx);
                dx
            }
        }
    }

    /// The same, added to `into`.
    pub fn add_by_input(&self, dy: &[f32], v: &[f32], into: &mut [f32]) {
        match &self.weight {
            Weights::Folded(weight) => {
                let weight = View::new(weight.values(), self.d_out).transposed();
                product(ViewMut::new(into, self.d_in), View::new(dy, self.d_out), weight, 1.0, Onto::Sum);
            }
            Weights::Rounded(weight) => {
                weight.add_multiplied_back(dy, into);
                self.add_beside(v, into);
            }
        }
    }

    fn add_beside(&self, v: &[f32], into: &mut [f32]) {
        if self.ranks > 0 {
            let a = View::new(&self.a, self.ranks).transposed();
            product(ViewMut::new(into, self.d_in), View::new(v, self.ranks), a, 1.0, Onto::Sum);
        }
    }

    /// The gradients of the adapters that are trained: dA = xᵀ·v, dB = s·uᵀ·dy.
    pub fn by_adapters(&self, x: &[f32], u: Option<&[f32]>, dy: &[f32], v: &[f32], gradients: &mut Vec<Gradient>) {
        if self.adapters.iter().all(|adapter| adapter.ids.is_none()) {
            return;
        }
        let own = if u.is_none() { self.reduced(x) } else { Vec::new() };
        let u = u.unwrap_or(&own);
        let dy = View::new(dy, self.d_out);
        let da = multiplied(View::new(x, self.d_in).transposed(), View::new(v, self.ranks), 1.0);
        for Adapter { ids, first, d_out, first_rank, rank, scale, .. } in &self.adapters {
            let Some([of_a, of_b]) = *ids else { continue };
            let own = da.chunks_exact(self.ranks).flat_map(|row| &row[*first_rank..first_rank + rank]).copied();
            gradients.push(Gradient { id: of_a, shape: [self.d_in, *rank], values: own.collect() });
            let u = self.own_columns(u, *first_rank, *rank).transposed();
            let db = multiplied(u, dy.part(0..dy.rows(), *first..first + d_out), *scale);
            gradients.push(Gradient { id: of_b, shape: [*rank, *d_out], values: db });
        }
    }
}
