//! Numbers in memory that a kernel may write to, with numbers around them that it may not.

use crate::cuda::Address;

/// Numbers before and after.
const MARGIN: usize = 64;
const ALIGNMENT: usize = 16;
/// What the emulation takes off an address: a device that is not there marks its addresses so.
const MARK: u64 = 1 << 54;

/// A number of any kind.
pub(crate) trait Number: Copy + PartialEq {
    /// No result of a kernel.
    const MARGIN: Self;
}

impl Number for f32 {
    const MARGIN: Self = 12_345.678;
}

impl Number for f64 {
    const MARGIN: Self = 12_345.678;
}

impl Number for i64 {
    const MARGIN: Self = -(1 << 40);
}

impl Number for u16 {
    const MARGIN: Self = 0x4321;
}

/// An array as a kernel gets it.
#[derive(Clone)]
pub(crate) struct Array<T> {
    memory: Vec<T>,
    first: usize,
    len: usize,
}

impl<T: Number> Array<T> {
    /// `skew`: by how many numbers it begins after a multiple of 16 bytes.
    pub(crate) fn new(values: &[T], skew: usize) -> Self {
        let in_alignment = ALIGNMENT / size_of::<T>();
        let mut memory = vec![T::MARGIN; values.len() + 2 * MARGIN + in_alignment];
        let off = memory.as_ptr() as usize % ALIGNMENT / size_of::<T>();
        let first = MARGIN + (in_alignment - off) % in_alignment + skew % in_alignment;
        memory[first..first + values.len()].copy_from_slice(values);
        Self {
            memory,
            first,
            len: values.len(),
        }
    }

    pub(crate) fn filled(len: usize, value: T, skew: usize) -> Self {
        Self::new(&vec![value; len], skew)
    }

    pub(crate) fn address(&mut self) -> Address {
        Address(self.memory[self.first..].as_mut_ptr() as u64 | MARK)
    }

    /// What a kernel has left.
    #[track_caller]
    pub(crate) fn values(&self) -> &[T] {
        let (before, rest) = self.memory.split_at(self.first);
        let (values, after) = rest.split_at(self.len);
        let is_untouched = |margin: &[T]| margin.iter().all(|x| *x == T::MARGIN);
        assert!(is_untouched(before), "written to before the array");
        assert!(is_untouched(after), "written to after the array");
        values
    }
}
