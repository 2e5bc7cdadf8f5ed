//! The memory of tensors that Rust's kernels work on, as slices.

#![expect(
    unsafe_code,
    reason = "tch gives no view of a tensor's memory; this module is all of it"
)]

use std::sync::LazyLock;
use tch::{Device, Kind, Tensor};

/// What computes besides libtorch: `SAE_RUN_KERNELS` in the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// `aten`: libtorch's operations alone.
    Aten,
    /// `float32`: Rust's kernels, and no product in 16 bit.
    Float32,
    /// `own`: on a GPU, all kernels that compute what libtorch does, whether they are faster or not.
    Own,
    /// Anything else: what is fastest.
    Fast,
}

/// A number as a tensor of its kind stores it.
pub(crate) trait Number {
    const KIND: Kind;
}

impl Number for f32 {
    const KIND: Kind = Kind::Float;
}

impl Number for i64 {
    const KIND: Kind = Kind::Int64;
}

/// The bits of a bfloat16.
impl Number for u16 {
    const KIND: Kind = Kind::BFloat16;
}

/// The choice, as it was when the program began to compute.
pub(crate) fn choice() -> Choice {
    static CHOICE: LazyLock<Choice> =
        LazyLock::new(|| match std::env::var("SAE_RUN_KERNELS").as_deref() {
            Ok("aten") => Choice::Aten,
            Ok("float32") => Choice::Float32,
            Ok("own") => Choice::Own,
            _ => Choice::Fast,
        });
    *CHOICE
}

/// The numbers of a contiguous tensor of their kind on the CPU; `None`: it is another one, or libtorch's
/// operations were asked for.
pub(crate) fn slice<T: Number>(tensor: &Tensor) -> Option<&[T]> {
    let n = len_of::<T>(tensor)?;
    if n == 0 {
        return Some(&[]);
    }
    // SAFETY: a contiguous tensor has `n` numbers of its kind from its pointer on, which lives as long as the
    // tensor; nothing writes to it while we have it: every operation of libtorch that does takes `&mut`
    // or ends in an underscore, and we call no such operation on a tensor that is borrowed here.
    Some(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), n) })
}

/// The same, to write to. Other tensors that share its memory must not be looked at meanwhile.
pub(crate) fn slice_mut<T: Number>(tensor: &mut Tensor) -> Option<&mut [T]> {
    let n = len_of::<T>(tensor)?;
    if n == 0 {
        return Some(&mut []);
    }
    // SAFETY: as for `slice`; callers give tensors whose memory is theirs alone.
    Some(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), n) })
}

/// How many numbers; `None`: they are not in the memory of the CPU as `T`, one after the other.
fn len_of<T: Number>(tensor: &Tensor) -> Option<usize> {
    let is_here = tensor.device() == Device::Cpu && tensor.kind() == T::KIND;
    (choice() != Choice::Aten && is_here && tensor.is_contiguous()).then(|| tensor.numel())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_the_tensor_and_other_tensors_have_none() {
        let mut x = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]);
        slice_mut::<f32>(&mut x).unwrap()[4] = 9.0;
        let floats = |x: &Tensor| slice::<f32>(x).map(<[f32]>::to_vec);
        assert_eq!(floats(&x).unwrap(), [0.0, 1.0, 2.0, 3.0, 9.0, 5.0]);
        assert_eq!(floats(&x.narrow(0, 1, 1)).unwrap(), [3.0, 9.0, 5.0]);
        assert!(floats(&x.tr()).is_none(), "not contiguous");
        assert!(floats(&x.to_kind(Kind::Double)).is_none());
        assert!(slice::<i64>(&x).is_none());
        assert!(floats(&x.narrow(0, 0, 0)).unwrap().is_empty());
        let mut integers = x.to_kind(Kind::Int64);
        slice_mut::<i64>(&mut integers).unwrap()[0] = 7;
        assert_eq!(slice::<i64>(&integers).unwrap()[..2], [7, 1]);
        assert_eq!(slice::<u16>(&x.to_kind(Kind::BFloat16)).unwrap()[1], 0x3F80);
    }
}
