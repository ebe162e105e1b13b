//! Projections that read the same input, their adapters folded in.

use burn::module::ParamId;
use burn::tensor::{Tensor, TensorData};
use hydra_kernels::Level;
use hydra_kernels::decoder::add;

use super::product::{Onto, Products, View, ViewMut, multiplied, product};
use crate::vlm::compute::widened;
use crate::vlm::lora::{LoraAdapter, LoraLinear};

/// Projections side by side: one product for all of them, and the adapters among theirs that are trained.
pub struct Projections {
    d_in: usize,
    d_out: usize,
    /// W + s·A·B of each, side by side, `[d_in, d_out]`.
    weight: Matrix,
    /// Biases; none where no projection has one.
    bias: Option<Vec<f32>>,
    adapters: Vec<Adapter>,
    /// Adapters that are not folded in: what is rounded is their frozen weight alone, beside which a small update would vanish.
    apart: Vec<Apart>,
    /// Ranks of these adapters together.
    ranks: usize,
    /// Their A, side by side, `[d_in, ranks]`.
    a: Vec<f32>,
}

/// The adapter of one of them.
struct Adapter {
    ids: [ParamId; 2],
    /// Where the module's results begin.
    first: usize,
    d_out: usize,
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

/// An adapter beside its weight.
struct Apart {
    /// First column of its module, and how many there are.
    first: usize,
    d_out: usize,
    rank: usize,
    scale: f32,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Projections {
    /// Reads them, and folds their adapters in, where nothing is rounded.
    pub fn load(linears: &[&LoraLinear], products: Products) -> Self {
        let dims = |linear: &&LoraLinear| linear.weight.val().dims();
        let d_in = linears.first().map_or(0, |linear| dims(linear)[0]);
        let d_out = linears.iter().map(|linear| dims(linear)[1]).sum();
        let ranks = linears.iter().filter_map(|linear| linear.trained_adapter()).map(|lora| lora.b.dims()[0]).sum();
        let mut all = Self {
            d_in,
            d_out,
            weight: Matrix(TensorData::zeros::<f32, _>([0, 0])),
            bias: linears.iter().any(|linear| linear.bias.is_some()).then(|| vec![0.0; d_out]),
            adapters: Vec::new(),
            apart: Vec::new(),
            ranks,
            a: vec![0.0; d_in * ranks],
        };
        let (mut first, mut first_rank) = (0, 0);
        for linear in linears {
            let weight = Matrix::load(linear.weight.val());
            let [_, width] = linear.weight.val().dims();
            if width == d_out {
                all.weight = weight;
            } else {
                if first == 0 {
                    all.weight = Matrix(TensorData::zeros::<f32, _>([d_in, d_out]));
                }
                let rows = all.weight.values_mut().chunks_exact_mut(d_out);
                for (row, from) in rows.zip(weight.values().chunks_exact(width)) {
                    row[first..first + width].copy_from_slice(from);
                }
            }
            if let (Some(all), Some(bias)) = (&mut all.bias, &linear.bias) {
                all[first..first + width].copy_from_slice(&values(bias.val()));
            }
            if let Some(LoraAdapter { a, b, scale }) = &linear.lora {
                let (ids, a, b) = ([a.id, b.id], values(a.val()), values(b.val()));
                let rank = b.len().checked_div(width).unwrap_or(0);
                let scale = *scale as f32;
                match products {
                    Products::Single => {
                        let into = ViewMut { data: all.weight.values_mut(), row: d_out, first, columns: width };
                        product(into, View::new(&a, rank), View::new(&b, width), scale, Onto::Sum);
                    }
                    Products::Rounded(_) => {
                        all.apart.push(Apart { first, d_out: width, rank, scale, a: a.clone(), b: b.clone() });
                    }
                }
                if linear.trained_adapter().is_none() {
                    first += width;
                    continue;
                }
                for (row, from) in all.a.chunks_exact_mut(ranks).zip(a.chunks_exact(rank)) {
                    row[first_rank..first_rank + rank].copy_from_slice(from);
                }
                first_rank += rank;
                all.adapters.push(Adapter { ids, first, d_out: width, rank, scale, b });
            }
            first += width;
        }
        all
    }

    /// `[rows, d_in]` → `[rows, d_out]`.
    pub fn forward(&self, level: Level, products: Products, x: &[f32]) -> Vec<f32> {
        let mut y = products.multiplied(x, View::new(self.weight.values(), self.d_out));
        if let Some(bias) = &self.bias {
            y.chunks_exact_mut(self.d_out).for_each(|row| add(level, row, bias));
        }
        for Apart { first, d_out, rank, scale, a, b } in &self.apart {
            let u = multiplied(View::new(x, self.d_in), View::new(a, *rank), 1.0);
            let into = ViewMut { data: &mut y, row: self.d_out, first: *first, columns: *d_out };
            product(into, View::new(&u, *rank), View::new(b, *d_out), *scale, Onto::Sum);
        }
        y
    }

    /// The gradient by the input of [`Self::forward`]. `dy` is the gradient by its result.
    pub fn by_input(&self, products: Products, dy: &[f32]) -> Vec<f32> {
        let mut dx = products.multiplied(dy, View::new(self.weight.values(), self.d_out).transposed());
        self.add_apart(dy, &mut dx);
        dx
    }

    /// The same, added to `into`.
    pub fn add_by_input(&self, products: Products, dy: &[f32], into: &mut [f32]) {
        products.multiply(dy, View::new(self.weight.values(), self.d_out).transposed(), into, Onto::Sum);
        self.add_apart(dy, into);
    }

    fn add_apart(&self, dy: &[f32], into: &mut [f32]) {
        let rows = dy.len().checked_div(self.d_out).unwrap_or(0);
        for Apart { first, d_out, rank, scale, a, b } in &self.apart {
            let dy = View::new(dy, self.d_out).part(0..rows, *first..first + d_out);
            let v = multiplied(dy, View::new(b, *d_out).transposed(), *scale);
            let into = ViewMut::new(&mut *into, self.d_in);
            product(into, View::new(&v, *rank), View::new(a, *rank).transposed(), 1.0, Onto::Sum);
        }
    }

    /// The gradients of the adapters that are trained.
    ///
    /// With u = x·A and v = s·dy·Bᵀ of a module: dA = xᵀ·v, dB = s·uᵀ·dy.
    pub fn by_adapters(&self, x: &[f32], dy: &[f32], gradients: &mut Vec<Gradient>) {
        let (d_in, d_out, ranks) = (self.d_in, self.d_out, self.ranks);
        let rows = x.len().checked_div(d_in).unwrap_or(0);
        let (x, dy) = (View::new(x, d_in), View::new(dy, d_out));
        if ranks == 0 {
            return;
        }
        let u = multiplied(x, View::new(&self.a, ranks), 1.0);
        let mut v = vec![0.0; rows * ranks];
        let mut first_rank = 0;
        let mut by_b = Vec::with_capacity(self.adapters.len());
        for Adapter { first, d_out, rank, scale, b, .. } in &self.adapters {
            let dy = dy.part(0..rows, *first..first + d_out);
            let into = ViewMut { data: &mut v, row: ranks, first: first_rank, columns: *rank };
            product(into, dy, View::new(b, *d_out).transposed(), *scale, Onto::Nothing);
            let u = View::new(&u, ranks).part(0..rows, first_rank..first_rank + rank);
            by_b.push(multiplied(u.transposed(), dy, *scale));
            first_rank += rank;
        }
        let da = multiplied(x.transposed(), View::new(&v, ranks), 1.0);
        let mut first_rank = 0;
        for (Adapter { ids, d_out, rank, .. }, db) in self.adapters.iter().zip(by_b) {
            let own = da.chunks_exact(ranks).flat_map(|row| &row[first_rank..first_rank + rank]).copied().collect();
            gradients.push(Gradient { id: ids[0], shape: [d_in, *rank], values: own });
            gradients.push(Gradient { id: ids[1], shape: [*rank, *d_out], values: db });
            first_rank += rank;
        }
    }
}
