//! Tensors from the files of a model.

use crate::LmError;
use facts::{TensorSpec, Weights};
use plan::Dtype;
use tch::{Device, Kind, Tensor};

/// Copies a tensor to `device`, as `kind`. What is kept is allocated before what is freed, see
/// `Loader::int8_weight`.
pub(crate) fn load_tensor(
    weights: &mut Weights,
    spec: &TensorSpec,
    device: Device,
    kind: Kind,
) -> Result<Tensor, LmError> {
    let in_file = weights.stored(spec)?;
    let stored_kind = kind_of(in_file.dtype);
    let shape: Vec<i64> = spec.shape.iter().map(|&n| n as i64).collect();
    let stored =
        || Tensor::f_from_data_size(in_file.bytes, &shape, stored_kind)?.f_to_device(device);
    let converted = || {
        let mut tensor = Tensor::f_empty(&shape, (kind, device))?;
        tensor.f_copy_(&stored()?)?;
        Ok(tensor)
    };
    let loaded = if stored_kind == kind {
        stored()
    } else {
        converted()
    };
    loaded.map_err(|source| LmError::torch(format!("loading tensor `{}`", spec.name), source))
}

/// The kind of a dtype; `auto`, which no file has, is float32.
pub(crate) fn kind_of(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Float32 | Dtype::Auto => Kind::Float,
        Dtype::BFloat16 => Kind::BFloat16,
        Dtype::Float16 => Kind::Half,
    }
}
