//! The weights of a model: how they are stored, what they are called, and building modules from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, FloatDType, Tensor, TensorData, Transaction};
use sha2::{Digest, Sha256};

use crate::weights::{Storage, Weight, WeightError, WeightSource, Weights};

/// Checkpoint names of a model's parameters.
///
/// A parameter's id is a hash of its name: the same in every process, so that optimizer states saved by one run are
/// found by the next.
#[derive(Debug, Clone, Default)]
pub struct ParamNames(Arc<BTreeMap<u64, Named>>);

/// How one parameter is stored in a checkpoint.
#[derive(Debug, Clone)]
struct Named {
    name: String,
    /// Linear weights are `[d_out, d_in]` in a checkpoint and `[d_in, d_out]` in the module.
    transposed: bool,
    /// Shape in the checkpoint.
    shape: Vec<usize>,
}

impl ParamNames {
    /// Checkpoint name of a parameter.
    pub fn name(&self, id: ParamId) -> Option<&str> {
        self.0.get(&id.val()).map(|named| named.name.as_str())
    }

    /// A checkpoint's weight as the value of the parameter of that id, or why it does not fit.
    pub(super) fn value<const D: usize>(
        &self,
        id: ParamId,
        weight: Weight,
        device: &Device,
    ) -> Result<Tensor<D>, String> {
        let Some(named) = self.0.get(&id.val()) else { return Err("a parameter without a name".to_owned()) };
        if weight.shape != named.shape {
            return Err(format!("{} has shape {:?}, the model wants {:?}", named.name, weight.shape, named.shape));
        }
        let value = Tensor::from_data(TensorData::new(weight.values, weight.shape), device);
        Ok(if named.transposed { value.swap_dims(0, 1) } else { value })
    }

    /// These names and those of `other`.
    pub(super) fn merged(&self, other: &Self) -> Self {
        let mut all = (*self.0).clone();
        all.extend(other.0.iter().map(|(id, named)| (*id, named.clone())));
        Self(Arc::new(all))
    }

    /// Reads the parameters of `module` that `keep` accepts back to the host, in one transfer.
    ///
    /// # Errors
    /// A device that fails.
    pub async fn read<M: Module>(&self, module: &M, keep: impl Fn(&str) -> bool) -> Result<Weights, WeightError> {
        let mut visitor =
            Reader { names: self, keep: &keep, found: Vec::new(), transaction: Some(Transaction::default()) };
        module.visit(&mut visitor);
        let data = match visitor.transaction {
            Some(transaction) if !visitor.found.is_empty() => {
                transaction.execute_async().await.map_err(|error| WeightError::Device(format!("{error:?}")))?
            }
            _ => Vec::new(),
        };
        let mut tensors = BTreeMap::new();
        for (named, data) in visitor.found.into_iter().zip(data) {
            let values: Vec<f32> =
                data.convert::<f32>().try_to_vec().map_err(|error| WeightError::Device(format!("{error:?}")))?;
            tensors.insert(named.name, Weight { shape: named.shape, values });
        }
        Ok(Weights { tensors })
    }
}

struct Reader<'a, F> {
    names: &'a ParamNames,
    keep: &'a F,
    found: Vec<Named>,
    transaction: Option<Transaction>,
}

impl<F: Fn(&str) -> bool> ModuleVisitor for Reader<'_, F> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(named) = self.names.0.get(&param.id.val()).filter(|named| (self.keep)(&named.name)) else { return };
        let value = param.val().inner();
        let value = if named.transposed { value.swap_dims(0, 1) } else { value };
        self.transaction = self.transaction.take().map(|transaction| transaction.register(value));
        self.found.push(named.clone());
    }
}

/// Builds modules from named weights, and accounts for every one of them.
pub(super) struct Loader<'a> {
    weights: Box<dyn WeightSource + 'a>,
    device: &'a Device,
    /// How matrices are stored from here on.
    pub(super) storage: Storage,
    names: BTreeMap<u64, Named>,
    problems: Vec<String>,
    failed: Option<WeightError>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(weights: impl WeightSource + 'a, device: &'a Device) -> Self {
        let weights = Box::new(weights);
        Self { weights, device, storage: Storage::F32, names: BTreeMap::new(), problems: Vec::new(), failed: None }
    }

    /// A parameter as the checkpoint holds it.
    pub(super) fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Param<Tensor<D>> {
        let value = match self.take(name, &shape) {
            Some(values) => Tensor::from_data(TensorData::new(values, shape), self.device),
            None => self.placeholder(),
        };
        self.param(name, false, &shape, value)
    }

    /// The weight of a linear layer: `[d_out, d_in]` in the checkpoint, `[d_in, d_out]` in the module.
    pub(super) fn linear(&mut self, name: &str, d_in: usize, d_out: usize) -> Param<Tensor<2>> {
        let Some(rows) = self.take(name, &[d_out, d_in]) else {
            return self.param(name, true, &[d_out, d_in], self.placeholder());
        };
        let mut columns = vec![0.0; rows.len()];
        for (o, row) in rows.chunks(d_in).enumerate() {
            for (i, value) in row.iter().enumerate() {
                columns[i * d_out + o] = *value;
            }
        }
        let value = self.stored(Tensor::from_data(TensorData::new(columns, [d_in, d_out]), self.device));
        self.param(name, true, &[d_out, d_in], value)
    }

    /// A matrix as the checkpoint holds it.
    pub(super) fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Param<Tensor<2>> {
        let value = match self.take(name, &[rows, columns]) {
            Some(values) => self.stored(Tensor::from_data(TensorData::new(values, [rows, columns]), self.device)),
            None => self.placeholder(),
        };
        self.param(name, false, &[rows, columns], value)
    }

    fn stored(&self, value: Tensor<2>) -> Tensor<2> {
        match self.storage {
            Storage::F32 => value,
            Storage::F16 => value.cast(FloatDType::F16),
            Storage::Bf16 => value.cast(FloatDType::BF16),
        }
    }

    fn param<const D: usize>(
        &mut self,
        name: &str,
        transposed: bool,
        shape: &[usize],
        value: Tensor<D>,
    ) -> Param<Tensor<D>> {
        let id = param_id(name);
        self.names.insert(id.val(), Named { name: name.to_owned(), transposed, shape: shape.to_vec() });
        Param::initialized(id, value)
    }

    /// Stands for a weight that does not fit: the model will not be built, so it need not have the shape, which a wrong
    /// configuration can make larger than memory.
    fn placeholder<const D: usize>(&self) -> Tensor<D> {
        Tensor::zeros([1; D], self.device)
    }

    fn take(&mut self, name: &str, shape: &[usize]) -> Option<Vec<f32>> {
        let elements: usize = shape.iter().product();
        let found = self.weights.take(name).unwrap_or_else(|error| {
            self.failed.get_or_insert(error);
            None
        });
        match found {
            Some(weight) if weight.shape == shape && weight.values.len() == elements => Some(weight.values),
            Some(weight) => {
                self.problems.push(format!("{name} has shape {:?}, the model wants {shape:?}", weight.shape));
                None
            }
            None => {
                self.problems.push(format!("{name} is missing"));
                None
            }
        }
    }

    /// Names of all parameters, if every wanted weight was there and every weight was wanted.
    pub(super) fn finish(mut self) -> Result<ParamNames, WeightError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.problems.extend(self.weights.names().into_iter().map(|name| format!("{name} is not part of the model")));
        if self.problems.is_empty() {
            Ok(ParamNames(Arc::new(self.names)))
        } else {
            Err(WeightError::Mismatch(self.problems))
        }
    }
}

/// The id of the parameter of that name.
fn param_id(name: &str) -> ParamId {
    let digest = Sha256::digest(name.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    ParamId::from(u64::from_le_bytes(first))
}
