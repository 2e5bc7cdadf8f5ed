//! Which vector instructions a kernel uses. Results are the same to the bit with all of them.

use std::sync::LazyLock;

/// The most that kernels may use of what the processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InstructionSet {
    /// What every processor of this architecture has.
    Default,
    /// AVX2.
    Avx2,
    /// AVX-512 with BW, DQ and VL.
    Avx512,
}

impl InstructionSet {
    /// `SAE_RUN_CPU_CAPABILITY` in the environment, with the values of libtorch's `ATEN_CPU_CAPABILITY`.
    /// Without it there is no limit. Read when the first kernel runs.
    pub(crate) fn allowed() -> Self {
        static ALLOWED: LazyLock<InstructionSet> =
            LazyLock::new(
                || match std::env::var("SAE_RUN_CPU_CAPABILITY").as_deref() {
                    Ok("default") => InstructionSet::Default,
                    Ok("avx2") => InstructionSet::Avx2,
                    _ => InstructionSet::Avx512,
                },
            );
        *ALLOWED
    }
}

/// Makes a function that runs `$body`, compiled for each instruction set: a call takes the best one that
/// the processor has and [`InstructionSet::allowed`] permits. `$body` must be `#[inline(always)]`.
macro_rules! multiversioned {
    (fn $name:ident($($arg:ident: $kind:ty),*) $(-> $out:ty)? = $body:path) => {
        fn $name($($arg: $kind),*) $(-> $out)? {
            #[multiversion::multiversion(targets("x86_64+avx2"))]
            fn up_to_avx2($($arg: $kind),*) $(-> $out)? {
                $body($($arg),*)
            }

            #[multiversion::multiversion(
                targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2")
            )]
            fn up_to_avx512($($arg: $kind),*) $(-> $out)? {
                $body($($arg),*)
            }

            use $crate::instruction_sets::InstructionSet;
            match InstructionSet::allowed() {
                InstructionSet::Default => $body($($arg),*),
                InstructionSet::Avx2 => up_to_avx2($($arg),*),
                InstructionSet::Avx512 => up_to_avx512($($arg),*),
            }
        }
    };
}
pub(crate) use multiversioned;
