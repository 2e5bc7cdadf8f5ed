//! The memory of tensors on the CPU as slices.

#![expect(
    unsafe_code,
    reason = "tch gives no view of a tensor's memory; this module is all of it"
)]

use tch::{Device, Kind, Tensor};

/// The numbers of a contiguous tensor on the CPU, Float; `None`: it is another one.
pub(crate) fn floats(tensor: &Tensor) -> Option<&[f32]> {
    let n = len_of(tensor, Kind::Float)?;
    if n == 0 {
        return Some(&[]);
    }
    // SAFETY: a contiguous tensor has `n` numbers of its kind from its pointer on, which lives as long as the
    // tensor; nothing writes to it while we have it: every operation of libtorch that does takes `&mut`
    // or ends in an underscore, and none of ours is called on a tensor that is borrowed here.
    Some(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), n) })
}

/// The same, to write to. Other tensors that share its memory must not be looked at meanwhile.
pub(crate) fn floats_mut(tensor: &mut Tensor) -> Option<&mut [f32]> {
    let n = len_of(tensor, Kind::Float)?;
    if n == 0 {
        return Some(&mut []);
    }
    // SAFETY: as for `floats`; callers give tensors whose memory is theirs alone.
    Some(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), n) })
}

/// The numbers of a contiguous tensor on the CPU, Int64; `None`: it is another one.
pub(crate) fn longs(tensor: &Tensor) -> Option<&[i64]> {
    let n = len_of(tensor, Kind::Int64)?;
    if n == 0 {
        return Some(&[]);
    }
    // SAFETY: as for `floats`.
    Some(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<i64>(), n) })
}

/// The same, to write to.
pub(crate) fn longs_mut(tensor: &mut Tensor) -> Option<&mut [i64]> {
    let n = len_of(tensor, Kind::Int64)?;
    if n == 0 {
        return Some(&mut []);
    }
    // SAFETY: as for `floats_mut`.
    Some(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<i64>(), n) })
}

/// How many numbers; `None`: they do not lie here as `kind`, one after the other.
fn len_of(tensor: &Tensor, kind: Kind) -> Option<usize> {
    let is_here = tensor.device() == Device::Cpu && tensor.kind() == kind;
    (is_here && tensor.is_contiguous()).then(|| tensor.numel())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_the_tensor_and_other_tensors_have_none() {
        let mut x = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]);
        floats_mut(&mut x).unwrap()[4] = 9.0;
        assert_eq!(floats(&x).unwrap(), [0.0, 1.0, 2.0, 3.0, 9.0, 5.0]);
        assert_eq!(floats(&x.narrow(0, 1, 1)).unwrap(), [3.0, 9.0, 5.0]);
        assert!(floats(&x.tr()).is_none(), "not contiguous");
        assert!(floats(&x.to_kind(Kind::Double)).is_none());
        assert!(longs(&x).is_none());
        assert!(floats(&x.narrow(0, 0, 0)).unwrap().is_empty());
        let mut places = x.to_kind(Kind::Int64);
        longs_mut(&mut places).unwrap()[0] = 7;
        assert_eq!(longs(&places).unwrap()[..2], [7, 1]);
    }
}
