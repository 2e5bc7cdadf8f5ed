//! What kernels read and write.

use crate::cuda::{Address, Levels};

/// Products of tokens with latents: `[n_rows, n_latents]`.
#[derive(Clone, Copy, Debug)]
pub enum Products {
    /// Float.
    Float32(Address),
    /// bfloat16.
    BFloat16(Address),
}

/// The latents that are selected, the one with the largest activation first.
#[derive(Clone, Copy, Debug)]
pub struct Selected {
    /// `[n_rows, k]`.
    pub acts: Address,
    /// `[n_rows, k]`, Int64.
    pub indices: Address,
    /// Latents of a row.
    pub k: usize,
    /// Whether activations below 0 are written as 0.
    pub with_relu: bool,
}

/// What [`topk`](super::topk) selects from.
#[derive(Clone, Copy, Debug)]
pub struct TopK {
    /// `[n_rows, n_latents]`.
    pub products: Products,
    /// `[n_latents]`, or nothing.
    pub bias: Address,
    /// Rows.
    pub n_rows: usize,
    /// Latents.
    pub n_latents: usize,
}

/// What [`rescore_topk`](super::rescore_topk) selects from.
#[derive(Clone, Copy, Debug)]
pub struct Rescore {
    /// What the encoder is applied to: `[n_tokens, width]`.
    pub x: Address,
    /// `[num_latents, width]`.
    pub weight: Address,
    /// `[num_latents]`, or nothing.
    pub bias: Address,
    /// Latents, different ones in each row: `[n_tokens, n_candidates]`, Int64.
    pub candidates: Address,
    /// Rows.
    pub n_tokens: usize,
    /// Columns.
    pub width: usize,
    /// Candidates of a token.
    pub n_candidates: usize,
}

/// Latents of tokens.
#[derive(Clone, Copy, Debug)]
pub struct TokenLatents {
    /// Int64.
    pub indices: Address,
    /// Which of them are a token's.
    pub of_token: OfToken,
    /// Tokens.
    pub n_tokens: usize,
}

/// Which entries are a token's.
#[derive(Clone, Copy, Debug)]
pub enum OfToken {
    /// As many for each: arrays of entries are `[n_tokens, k]`.
    Every(usize),
    /// Any number: arrays of entries are `[n_entries]`.
    Listed(Starts),
}

/// Where entries of tokens are in a list.
#[derive(Clone, Copy, Debug)]
pub struct Starts {
    /// Where those of each token begin, and where the last ones end: `[n_tokens + 1]`, Int64.
    pub starts: Address,
    /// All of them.
    pub n_entries: usize,
}

/// What [`dots_at_entries`](super::dots_at_entries) multiplies.
#[derive(Clone, Copy, Debug)]
pub struct Dots {
    /// `[n_tokens, width]`.
    pub dense: Address,
    /// `[num_latents, width]`.
    pub rows: Address,
    /// `[num_latents]`, or nothing.
    pub bias: Address,
    /// The entries.
    pub latents: TokenLatents,
    /// Columns.
    pub width: usize,
}

/// What [`sparse_times_rows`](super::sparse_times_rows) multiplies.
#[derive(Clone, Copy, Debug)]
pub struct SparseProduct {
    /// At the entries.
    pub values: Address,
    /// The entries.
    pub latents: TokenLatents,
    /// `[num_latents, width]`.
    pub rows: Address,
    /// What is added: `[width]`, or nothing.
    pub bias: Address,
    /// Columns.
    pub width: usize,
}

/// What [`squared_error`](super::squared_error) decodes and compares.
#[derive(Clone, Copy, Debug)]
pub struct Decoding {
    /// `[n_tokens, k]`.
    pub acts: Address,
    /// Latents: `[n_tokens, k]`, Int64.
    pub indices: Address,
    /// `[num_latents, width]`.
    pub w_dec: Address,
    /// `[width]`.
    pub b_dec: Address,
    /// `[n_tokens, width]`.
    pub target: Address,
    /// Rows of tokens.
    pub n_tokens: usize,
    /// Columns.
    pub width: usize,
    /// Entries of a token.
    pub k: usize,
}

/// What [`squared_error`](super::squared_error) writes.
#[derive(Clone, Copy, Debug)]
pub struct ErrorGradients {
    /// At the reconstruction: `[n_tokens, width]`.
    pub grad_out: Address,
    /// At the pre-activations; 0 where the activation is not above 0: `[n_tokens, k]`.
    pub grad_pre: Address,
    /// Of squared errors, by token: `[n_tokens]`, Double.
    pub sums: Address,
}

/// What [`nested_errors`](super::nested_errors) decodes and compares.
#[derive(Clone, Copy, Debug)]
pub struct NestedDecoding {
    /// `[n_entries]`.
    pub acts: Address,
    /// Latents, rising within a token: `[n_entries]`, Int64.
    pub indices: Address,
    /// Which entries are a token's.
    pub starts: Starts,
    /// `[num_latents, width]`.
    pub w_dec: Address,
    /// `[width]`.
    pub b_dec: Address,
    /// `[n_tokens, width]`.
    pub target: Address,
    /// The reconstructions.
    pub levels: Levels,
    /// Whether entries whose activation is not above 0 have a gradient, too.
    pub reaches_idle: bool,
    /// Rows of tokens.
    pub n_tokens: usize,
    /// Columns.
    pub width: usize,
}

/// What [`nested_errors`](super::nested_errors) writes.
#[derive(Clone, Copy, Debug)]
pub struct NestedGradients {
    /// What latents of each level get: `[n_levels, n_tokens, width]`.
    pub grad_out: Address,
    /// At the activations: `[n_entries]`.
    pub grad_acts: Address,
    /// Of squared errors, by level and token: `[n_levels, n_tokens]`, Double.
    pub sums: Address,
}

/// Entries, sorted by latent.
#[derive(Clone, Copy, Debug)]
pub struct SortedEntries {
    /// Indices of entries, those of a latent in the order of tokens: `[n_entries]`, Int64.
    pub order: Address,
    /// Where those of each latent begin in `order`, and where the last ones end: `[n_latents + 1]`, Int64.
    pub starts: Address,
    /// Latents.
    pub n_latents: usize,
    /// Which token an entry belongs to.
    pub tokens: EntryTokens,
}

/// Which token an entry belongs to.
#[derive(Clone, Copy, Debug)]
pub enum EntryTokens {
    /// Each token has as many: arrays of entries are `[n_tokens, k]`.
    Every(usize),
    /// Each says so: `[n_entries]`, Int64.
    Listed(Address),
}

/// A latent's gradient row: the sum of its entries' values times the rows of their tokens.
#[derive(Clone, Copy, Debug)]
pub struct RowSums {
    /// At the entries.
    pub values: Address,
    /// `[n_tokens, width]`.
    pub dense: Address,
    /// Columns.
    pub width: usize,
}

/// Gradients in memory.
#[derive(Clone, Copy, Debug)]
pub struct DenseGradient {
    /// `[n_rows, width]`.
    pub gradient: Address,
    /// Rows.
    pub n_rows: usize,
    /// Columns.
    pub width: usize,
}

/// What a gradient's row goes through before the optimizer, and the weights that it changes.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// What it is divided by: one number on the device.
    pub divisor: Address,
    /// Whether it loses its part parallel to the row of weights.
    pub is_projected: bool,
    /// `[n_rows, width]`.
    pub weights: Address,
    /// A copy of them in bfloat16, or nothing: `[n_rows, width]`.
    pub rounded: Address,
}

/// What Adam remembers of weights, each as they are.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    /// Mean of the gradients.
    pub exp_avg: Address,
    /// Mean of their squares.
    pub exp_avg_sq: Address,
}
