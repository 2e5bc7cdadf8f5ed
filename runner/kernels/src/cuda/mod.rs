//! The same on an NVIDIA GPU: CUDA C++ sources, and how each kernel of theirs is launched.
//!
//! `runner/kernels/cuda/` holds the sources. They are compiled on the user's machine, by NVRTC, as one program
//! ([`source`]), and need no header of CUDA. `launches/` knows the sizes that each kernel can take, and how many
//! blocks, threads and bytes of shared memory it needs.
//!
//! Every sum is added up in an order that depends on nothing but the sizes: results are the same to the bit on every
//! run, and on every card. Sums over the entries of a latent are added up as the CPU's kernels do, so gradients of
//! weights and updates without projection are those of the CPU to the bit.
//!
//! - `launches/`: a kernel with its sizes and arguments
//! - `compiler.rs`: NVRTC, and what it made before; `driver.rs`: a GPU, and starting kernels on it; `card.rs`: what is
//!   known of it
//!
//! Tests need no GPU. `cuda/emulated/` makes a library of the same sources that runs them on the CPU, and NVRTC, which
//! needs no GPU either, compiles them for each generation of cards.

mod card;
mod compiler;
mod driver;
pub mod launches;

#[cfg(test)]
mod tests;

pub use card::{Capability, Card, Unusable};
pub use compiler::{FOLDER, Folders};
pub use driver::{Device, Mark};

use std::ffi::c_void;

/// An address on a device. 0: nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub u64);

/// One argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// A pointer.
    Address(Address),
    /// `int`.
    I32(i32),
    /// `long long`.
    I64(i64),
    /// `float`.
    F32(f32),
    /// `Levels`.
    Levels(Levels),
}

/// The most of [`Levels`].
pub const MOST_LEVELS: usize = 16;

/// Reconstructions, as `Levels` of nested.cu.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Levels {
    n: i32,
    ends: [u32; MOST_LEVELS],
    weights: [f32; MOST_LEVELS],
}

impl Levels {
    /// Below which latent those of each are, rising, and the weight of its squared error. `None`: more than
    /// [`MOST_LEVELS`], or none.
    pub fn new(levels: &[(usize, f32)]) -> Option<Self> {
        if !(1..=MOST_LEVELS).contains(&levels.len()) {
            return None;
        }
        let mut made = Self {
            n: levels.len() as i32,
            ends: [0; MOST_LEVELS],
            weights: [0.0; MOST_LEVELS],
        };
        for (idx, &(end, weight)) in levels.iter().enumerate() {
            made.ends[idx] = u32::try_from(end).ok()?;
            made.weights[idx] = weight;
        }
        Some(made)
    }
}

impl Argument {
    /// Where it is in memory, as its parameter's type.
    fn pointer(&self) -> *mut c_void {
        let pointer: *const c_void = match self {
            Self::Address(address) => (&raw const address.0).cast(),
            Self::I32(number) => (&raw const *number).cast(),
            Self::I64(number) => (&raw const *number).cast(),
            Self::F32(number) => (&raw const *number).cast(),
            Self::Levels(levels) => (&raw const *levels).cast(),
        };
        pointer.cast_mut()
    }
}

/// A kernel with its sizes and arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Its name in the program: names are not mangled.
    pub kernel: &'static str,
    /// Blocks, at least one.
    pub grid: u32,
    /// Threads of a block.
    pub block: u32,
    /// Dynamic shared memory of a block. Above 48 KB a device must be asked for it, and not every one has as much.
    pub shared_bytes: u32,
    /// In the order of the kernel's parameters.
    pub arguments: Vec<Argument>,
}

/// The sources, as one program.
pub fn source() -> &'static str {
    concat!(
        include_str!("../../cuda/common.cuh"),
        include_str!("../../cuda/sort.cu"),
        include_str!("../../cuda/topk.cu"),
        include_str!("../../cuda/dots.cu"),
        include_str!("../../cuda/tokens.cu"),
        include_str!("../../cuda/nested.cu"),
        include_str!("../../cuda/latents.cu"),
        include_str!("../../cuda/update.cu"),
    )
}
