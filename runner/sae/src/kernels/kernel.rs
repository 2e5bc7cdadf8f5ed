//! The kernels for NVIDIA GPUs by name: what can be left out.

use plan::UpdateShape;

/// What one or a few kernels do together, in place of libtorch's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kernel {
    /// The largest pre-activations of each token.
    TopK,
    /// Candidates that were found in bfloat16, ranked in float32.
    Rescore,
    /// Products of tokens with the rows of their latents.
    DotsAtEntries,
    /// Reconstructions.
    SparseTimesRows,
    /// A reconstruction, its error and the gradient at the latents at once.
    SquaredError,
    /// The same of any number of latents for each token, and of reconstructions from the first of them.
    NestedErrors,
    /// Gradients of the weights, by latent.
    RowsGradient,
    /// Gradients of the weights straight into schedule-free signum.
    RowsSignum,
    /// The same into Adam.
    RowsAdam,
    /// Schedule-free signum with gradients in memory.
    DenseSignum,
    /// Adam with gradients in memory.
    DenseAdam,
}

impl Kernel {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::TopK,
        Self::Rescore,
        Self::DotsAtEntries,
        Self::SparseTimesRows,
        Self::SquaredError,
        Self::NestedErrors,
        Self::RowsGradient,
        Self::RowsSignum,
        Self::RowsAdam,
        Self::DenseSignum,
        Self::DenseAdam,
    ];

    /// Its name in reports and in states.
    pub fn name(self) -> &'static str {
        match self {
            Self::TopK => "topk",
            Self::Rescore => "rescore",
            Self::DotsAtEntries => "dots_at_entries",
            Self::SparseTimesRows => "sparse_times_rows",
            Self::SquaredError => "squared_error",
            Self::NestedErrors => "nested_errors",
            Self::RowsGradient => "rows_gradient",
            Self::RowsSignum => "rows_signum",
            Self::RowsAdam => "rows_adam",
            Self::DenseSignum => "dense_signum",
            Self::DenseAdam => "dense_adam",
        }
    }

    /// Bytes that it reads and writes at the least, at these sizes: what is read twice in a row counts once.
    pub fn least_bytes(self, shape: UpdateShape) -> f64 {
        let [n, f, d, k] =
            [shape.n_tokens, shape.num_latents, shape.d_in, shape.k].map(|n| n as f64);
        let (rows_of_entries, tokens, weights) = (4.0 * n * k * d, 4.0 * n * d, 4.0 * f * d);
        match self {
            Self::TopK => 2.0 * n * f,
            Self::Rescore | Self::DotsAtEntries | Self::SparseTimesRows => rows_of_entries + tokens,
            Self::SquaredError | Self::NestedErrors => rows_of_entries + 2.0 * tokens,
            Self::RowsGradient => rows_of_entries + weights,
            Self::RowsSignum => rows_of_entries + 4.0 * weights,
            Self::RowsAdam => rows_of_entries + 6.0 * weights,
            Self::DenseSignum => 5.0 * weights,
            Self::DenseAdam => 7.0 * weights,
        }
    }

    /// Those with these names; other names are of another version.
    pub fn with_names(names: &[String]) -> Vec<Self> {
        let is_named = |kernel: &Self| names.iter().any(|name| name == kernel.name());
        Self::ALL.into_iter().filter(is_named).collect()
    }

    pub(super) fn bit(self) -> u32 {
        1 << (self as u32)
    }
}
