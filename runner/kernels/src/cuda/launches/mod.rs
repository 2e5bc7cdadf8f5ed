//! A launch for each kernel. `None`: there is nothing to do (no rows), or a size is out of the kernel's limits.
//!
//! All arrays are row-major and contiguous; they are Float unless they are said to be Int64, Double or bfloat16. Rows that begin at
//! multiples of 16 bytes are read faster: arrays that do, and a width that is a multiple of 4 (8 for bfloat16).

mod arrays;

use super::{Address, Argument, Launch};
use crate::{Adam, Signum};

pub use arrays::{
    Decoding, DenseGradient, Dots, EntryTokens, ErrorGradients, Moments, NestedDecoding,
    NestedGradients, OfToken, Products, Rescore, RowSums, Selected, SortedEntries, SparseProduct,
    Starts, TokenLatents, TopK, Update,
};

/// The most shared memory that a block of any device can have.
pub const MOST_SHARED_BYTES: u32 = 227 << 10;
/// The most numbers that [`topk`] and [`rescore_topk`] select of a row.
pub const MOST_SELECTED: usize = 4096;
/// The most candidates of a token.
pub const MOST_CANDIDATES: usize = 16384;
/// The most latents.
pub const MOST_LATENTS: usize = 1 << 31;

/// For an array that is not there.
pub const NOTHING: Address = Address(0);

/// The most columns and entries of a row: the kernels count them in 32 bits.
const MOST_IN_ROW: usize = 1 << 30;
/// The most blocks.
const MOST_BLOCKS: usize = i32::MAX as usize;

/// Of topk.cu.
const TOPK_THREADS: usize = 512;
/// Of dots.cu.
const DOTS_THREADS: u32 = 256;
/// Of tokens.cu, where a thread stages an entry; its value and its row.
const SUM_THREADS: u32 = 256;
const STAGED_BYTES: usize = SUM_THREADS as usize * 12;
/// Of tokens.cu.
const ERROR_THREADS: u32 = 128;
const ERROR_WARPS: usize = ERROR_THREADS as usize / WARP;
const LANES_OF_ROW: usize = 8;
const TILE_COLUMNS: usize = 32;
const MOST_KEPT: usize = 192;
/// Of nested.cu.
const HEAD_BYTES: usize = 144;
/// The least of `most_kept` there, and the shared memory that its launches keep to: small cards have as much.
const LEAST_KEPT: usize = 32;
const NESTED_BYTES: usize = 99 << 10;
/// Of latents.cu.
const COUNT_THREADS: u32 = 256;
const WARP: usize = 32;

/// The `k` largest of `products + bias` by row, the largest first. Of equal numbers the first ones are taken; a NaN is
/// larger than all numbers. `k`: up to [`MOST_SELECTED`].
pub fn topk(from: &TopK, out: &Selected) -> Option<Launch> {
    let (n, k) = (from.n_latents, out.k);
    if !(1..=n.min(MOST_SELECTED)).contains(&k) || n > MOST_LATENTS {
        return None;
    }
    let (kernel, products, in_chunk) = match from.products {
        Products::Float32(products) => ("topk_float32", products, 4),
        Products::BFloat16(products) => ("topk_bfloat16", products, 8),
    };
    let n_groups = n_groups(n.div_ceil(in_chunk), k);
    let (n_candidates, n_hits, n_others) =
        ((2 * k).next_power_of_two().max(256), k + k / 2 + 64, 8);
    let sizes = Sizes {
        n_rows: from.n_rows,
        block: TOPK_THREADS as u32,
        shared_bytes: 8 * n_candidates + 4 * (n_groups + n_hits + n_others),
    };
    let mut arguments = vec![products.into(), from.bias.into(), Argument::I64(n as i64)];
    arguments.extend(selected(out, k));
    launch(kernel, sizes, arguments)
}

/// As `Groups` of topk.cu.
fn n_groups(n_chunks: usize, k: usize) -> usize {
    let most = (32 * k).next_power_of_two().clamp(2048, 8192);
    let most = most.max((4 * k).next_power_of_two()) / TOPK_THREADS;
    let mut n_of_thread = n_chunks.div_ceil(TOPK_THREADS);
    while n_of_thread > most {
        n_of_thread = n_of_thread.div_ceil(2);
    }
    n_of_thread * TOPK_THREADS
}

/// The `k` largest of `x . weight[candidate] + bias[candidate]` by token, in the order of [`topk`]. `k`: up to
/// [`MOST_SELECTED`], candidates: up to [`MOST_CANDIDATES`].
pub fn rescore_topk(from: &Rescore, out: &Selected) -> Option<Launch> {
    let (n, k) = (from.n_candidates, out.k);
    if !(1..=n.min(MOST_SELECTED)).contains(&k) || n > MOST_CANDIDATES {
        return None;
    }
    let sizes = Sizes {
        n_rows: from.n_tokens,
        block: DOTS_THREADS,
        shared_bytes: 8 * n.next_power_of_two(),
    };
    let mut arguments = addresses([from.x, from.weight, from.bias, from.candidates]);
    arguments.extend([count(from.width)?, count(n)?]);
    arguments.extend(selected(out, k));
    launch("rescore_topk", sizes, arguments)
}

/// `dense . rows[index] (+ bias[index])` at each entry; `out`: as the entries.
pub fn dots_at_entries(from: &Dots, out: Address) -> Option<Launch> {
    let TokenLatents {
        indices, n_tokens, ..
    } = from.latents;
    let sizes = Sizes {
        n_rows: n_tokens,
        block: DOTS_THREADS,
        shared_bytes: 0,
    };
    let (starts, k) = of_token(from.latents.of_token)?;
    let mut arguments = addresses([from.dense, from.rows, from.bias, indices, starts]);
    arguments.extend([count(from.width)?, k, out.into()]);
    launch("dots_at_entries", sizes, arguments)
}

/// `sum values * rows[index] (+ bias)` over the entries of each token: `out`: `[n_tokens, width]`.
pub fn sparse_times_rows(from: &SparseProduct, out: Address) -> Option<Launch> {
    let TokenLatents {
        indices, n_tokens, ..
    } = from.latents;
    let sizes = Sizes {
        n_rows: n_tokens,
        block: SUM_THREADS,
        shared_bytes: STAGED_BYTES,
    };
    let (starts, k) = of_token(from.latents.of_token)?;
    let mut arguments = addresses([from.values, indices, starts, from.rows, from.bias]);
    arguments.extend([k, count(from.width)?, out.into()]);
    launch("sparse_times_rows", sizes, arguments)
}

/// Reconstructs the target, and gives the squared error and its gradients, as [`crate::Decoding::squared_error`]. `k`:
/// up to 14528; above 192 rows are read twice.
pub fn squared_error(from: &Decoding, out: &ErrorGradients) -> Option<Launch> {
    let k = from.k;
    let kept = if k <= MOST_KEPT { TILE_COLUMNS } else { 0 };
    let sizes = Sizes {
        n_rows: from.n_tokens,
        block: ERROR_THREADS,
        // A double for each warp in the end.
        shared_bytes: ERROR_WARPS * 4 * (k.checked_mul(1 + kept)?).max(2),
    };
    let mut arguments = addresses([from.acts, from.indices, from.w_dec, from.b_dec, from.target]);
    arguments.extend([count(k)?, count(from.width)?]);
    arguments.extend(addresses([out.grad_out, out.grad_pre, out.sums]));
    launch("squared_error", sizes, arguments)
}

/// Reconstructs the target from the latents of each level and those before it, and gives the squared errors and the
/// gradients of their weighted sum, as [`crate::NestedDecoding::squared_errors`]. Rows of a token that has more than twice
/// as many entries as there are on average, or more than about 190, are read twice.
pub fn nested_errors(from: &NestedDecoding, out: &NestedGradients) -> Option<Launch> {
    let (starts, _) = of_token(OfToken::Listed(from.starts))?;
    let of_levels = ERROR_WARPS * (8 * LANES_OF_ROW + 4 * TILE_COLUMNS) * from.levels.n as usize;
    let of_entry = ERROR_WARPS * 4 * (1 + TILE_COLUMNS);
    let room = (NESTED_BYTES - HEAD_BYTES - of_levels) / of_entry;
    let on_mean = from.starts.n_entries.div_ceil(from.n_tokens.max(1));
    let most_kept = (2 * on_mean).next_multiple_of(LEAST_KEPT);
    let most_kept = most_kept.clamp(LEAST_KEPT, room);
    let sizes = Sizes {
        n_rows: from.n_tokens,
        block: ERROR_THREADS,
        shared_bytes: HEAD_BYTES + of_levels + of_entry * most_kept,
    };
    let mut arguments = addresses([
        from.acts,
        from.indices,
        starts,
        from.w_dec,
        from.b_dec,
        from.target,
    ]);
    arguments.extend([
        Argument::Levels(from.levels),
        count(most_kept)?,
        flag(from.reaches_idle),
        Argument::I64(from.n_tokens as i64),
        count(from.width)?,
    ]);
    arguments.extend(addresses([out.grad_out, out.grad_acts, out.sums]));
    launch("nested_errors", sizes, arguments)
}

/// The gradient row of each latent: `gradient`: `[n_latents, width]`; of one without entries it is 0.
pub fn rows_gradient(entries: &SortedEntries, sums: &RowSums, gradient: Address) -> Option<Launch> {
    let sizes = Sizes {
        n_rows: entries.n_latents,
        block: SUM_THREADS,
        shared_bytes: STAGED_BYTES,
    };
    let mut arguments = row_sums(entries, sums)?;
    arguments.push(gradient.into());
    launch("rows_gradient", sizes, arguments)
}

/// The sum of the values of each latent's entries: `sums`: `[n_latents]`.
pub fn latent_sums(entries: &SortedEntries, values: Address, sums: Address) -> Option<Launch> {
    by_latent("latent_sums", entries, [values, sums])
}

/// How many activations of each latent's entries are above 0: `counts`: `[n_latents]`.
pub fn fire_counts(entries: &SortedEntries, acts: Address, counts: Address) -> Option<Launch> {
    by_latent("fire_counts", entries, [acts, counts])
}

/// One update by schedule-free signum of weights `y`, from entries: see [`crate::Entries::update`]. `z`: what the
/// optimizer remembers, as the weights. Width: up to 57336, less where shared memory is less than 227 KB.
pub fn rows_signum(
    entries: &SortedEntries,
    sums: &RowSums,
    update: &Update,
    (constants, z): (Signum, Address),
) -> Option<Launch> {
    let mut arguments = row_sums(entries, sums)?;
    arguments.extend(signum(update, constants, z));
    launch("rows_signum", sizes_of_update(entries, sums)?, arguments)
}

/// One update by Adam, from entries; width as in [`rows_signum`].
pub fn rows_adam(
    entries: &SortedEntries,
    sums: &RowSums,
    update: &Update,
    rule: (Adam, Moments),
) -> Option<Launch> {
    let mut arguments = row_sums(entries, sums)?;
    arguments.extend(adam(update, rule));
    launch("rows_adam", sizes_of_update(entries, sums)?, arguments)
}

/// As [`rows_signum`], from gradients in memory.
pub fn dense_signum(
    from: &DenseGradient,
    update: &Update,
    (constants, z): (Signum, Address),
) -> Option<Launch> {
    dense("dense_signum", from, signum(update, constants, z))
}

/// As [`rows_adam`], from gradients in memory.
pub fn dense_adam(from: &DenseGradient, update: &Update, rule: (Adam, Moments)) -> Option<Launch> {
    dense("dense_adam", from, adam(update, rule))
}

/// A block for each row.
struct Sizes {
    n_rows: usize,
    block: u32,
    shared_bytes: usize,
}

fn launch(kernel: &'static str, sizes: Sizes, arguments: Vec<Argument>) -> Option<Launch> {
    let shared_bytes = u32::try_from(sizes.shared_bytes).ok()?;
    let fits = (1..=MOST_BLOCKS).contains(&sizes.n_rows) && shared_bytes <= MOST_SHARED_BYTES;
    fits.then_some(Launch {
        kernel,
        grid: sizes.n_rows as u32,
        block: sizes.block,
        shared_bytes,
        arguments,
    })
}

/// A number of columns or entries.
fn count(n: usize) -> Option<Argument> {
    (1..=MOST_IN_ROW)
        .contains(&n)
        .then_some(Argument::I32(n as i32))
}

/// Where entries begin, and how many a token has; one of both is said.
fn of_token(of_token: OfToken) -> Option<(Address, Argument)> {
    match of_token {
        OfToken::Every(k) => Some((NOTHING, count(k)?)),
        OfToken::Listed(Starts { starts, n_entries }) => {
            let fits = n_entries <= MOST_IN_ROW;
            fits.then_some((starts, Argument::I32(0)))
        }
    }
}

fn addresses<const N: usize>(addresses: [Address; N]) -> Vec<Argument> {
    addresses.map(Argument::Address).to_vec()
}

fn flag(is_set: bool) -> Argument {
    Argument::I32(is_set.into())
}

fn selected(out: &Selected, k: usize) -> [Argument; 4] {
    [
        Argument::I32(k as i32),
        flag(out.with_relu),
        out.acts.into(),
        out.indices.into(),
    ]
}

fn row_sums(entries: &SortedEntries, sums: &RowSums) -> Option<Vec<Argument>> {
    let SortedEntries { order, starts, .. } = *entries;
    let (tokens, k) = match entries.tokens {
        EntryTokens::Every(k) => (NOTHING, count(k)?),
        EntryTokens::Listed(tokens) => (tokens, Argument::I32(1)),
    };
    let mut arguments = addresses([order, starts, sums.values, sums.dense, tokens]);
    arguments.extend([k, count(sums.width)?]);
    Some(arguments)
}

fn by_latent(
    kernel: &'static str,
    entries: &SortedEntries,
    [values, out]: [Address; 2],
) -> Option<Launch> {
    let n_latents = entries.n_latents;
    let sizes = Sizes {
        n_rows: n_latents.div_ceil(COUNT_THREADS as usize / WARP),
        block: COUNT_THREADS,
        shared_bytes: 0,
    };
    let mut arguments = addresses([entries.order, entries.starts, values]);
    arguments.extend([Argument::I64(n_latents as i64), out.into()]);
    launch(kernel, sizes, arguments)
}

fn sizes_of_update(entries: &SortedEntries, sums: &RowSums) -> Option<Sizes> {
    Some(Sizes {
        n_rows: entries.n_latents,
        block: SUM_THREADS,
        shared_bytes: update_bytes(sums.width)?,
    })
}

/// The shared memory that [`rows_signum`] and [`rows_adam`] need: besides what is staged, a row of this width and a sum
/// for each warp. `None`: more than can be said.
pub fn update_bytes(width: usize) -> Option<usize> {
    let row_bytes = width.checked_next_multiple_of(4)?.checked_mul(4)?;
    row_bytes.checked_add(STAGED_BYTES + SUM_BYTES)
}

/// A sum for each warp.
const SUM_BYTES: usize = SUM_THREADS as usize / WARP * 4;

fn dense(
    kernel: &'static str,
    from: &DenseGradient,
    update: impl IntoIterator<Item = Argument>,
) -> Option<Launch> {
    let sizes = Sizes {
        n_rows: from.n_rows,
        block: SUM_THREADS,
        shared_bytes: SUM_BYTES,
    };
    let mut arguments = vec![from.gradient.into(), count(from.width)?];
    arguments.extend(update);
    launch(kernel, sizes, arguments)
}

fn signum(update: &Update, constants: Signum, z: Address) -> Vec<Argument> {
    let Signum {
        lr,
        to_x,
        average,
        to_y,
    } = constants;
    let mut arguments = vec![update.divisor.into(), flag(update.is_projected)];
    arguments.extend([lr, to_x, average, to_y].map(float));
    arguments.extend(addresses([update.weights, z, update.rounded]));
    arguments
}

fn adam(update: &Update, (constants, moments): (Adam, Moments)) -> Vec<Argument> {
    let Adam {
        lr,
        to_gradient,
        to_square,
        correction,
        eps,
    } = constants;
    let Moments {
        exp_avg,
        exp_avg_sq,
    } = moments;
    let mut arguments = vec![update.divisor.into(), flag(update.is_projected)];
    arguments.extend([lr, to_gradient, to_square, correction, eps].map(float));
    arguments.extend(addresses([
        update.weights,
        exp_avg,
        exp_avg_sq,
        update.rounded,
    ]));
    arguments
}

fn float(x: f64) -> Argument {
    Argument::F32(x as f32)
}

impl From<Address> for Argument {
    fn from(address: Address) -> Self {
        Self::Address(address)
    }
}
