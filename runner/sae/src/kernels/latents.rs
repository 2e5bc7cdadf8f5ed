//! The active latents of tokens: the encoder's product for one block of tokens after the other, so that
//! pre-activations are never all in memory, and the `k` largest of each block's.

use super::cuda;
use super::kernel::Kernel;
use super::slices::{Choice, choice, slice, slice_mut};
use super::{dots_at_entries, n_threads};
use crate::Encoded;
use kernels::{RoundedTokens, Screen, in_threads};
use std::fs;
use std::ops::ControlFlow;
use std::sync::LazyLock;
use tch::{Device, Kind, TchError, Tensor};

/// Bytes of the pre-activations that are in memory at the same time, if that is not all of them.
pub(super) const BLOCK_BYTES: i64 = 256 << 20;
/// The same in 16 bit: read once, and best from a cache.
const ROUGH_BLOCK_BYTES: i64 = 32 << 20;
/// But no fewer tokens: the product lays out the weights again for each block.
const LEAST_IN_BLOCK: i64 = 1024;
/// With fewer tokens than this, rounding the weights costs more than it saves.
const LEAST_TO_SCREEN: i64 = 256;
/// So it does with fewer latents than this for each active one: about twice the number of active ones are
/// computed by themselves.
const LEAST_FOR_EACH: usize = 100;
/// How much less a pre-activation costs as one of a product than by itself.
const PRODUCT_IS_CHEAPER: usize = 32;

/// The encoder's product with tokens, and where its largest numbers go.
struct Search<'a> {
    /// `[n_tokens, d_in]`, Float.
    x: &'a Tensor,
    /// `[num_latents, d_in]`, Float.
    weight: &'a Tensor,
    bias: &'a [f32],
    k: usize,
    latent_acts: Tensor,
    latent_indices: Tensor,
}

/// The `k` largest of `numbers`: `[n_rows, n]`, by row, in no certain order.
pub(crate) fn topk(numbers: &Tensor, k: i64) -> Result<Encoded, TchError> {
    if let Some(opened) = cuda::opened(Kernel::TopK, &[numbers])
        && let Some(largest) = opened.topk(numbers, k)?
    {
        return Ok(largest);
    }
    let (latent_acts, latent_indices) = numbers.f_topk(k, -1, true, false)?;
    Ok(Encoded {
        latent_acts,
        latent_indices,
    })
}

/// The `k` latents with the largest pre-activations among `candidates`: `[n_tokens, n]`, in no certain order. `x`:
/// `[n_tokens, d_in]`, `weight`: `[num_latents, d_in]`.
pub(crate) fn topk_of_candidates(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    candidates: &Tensor,
    k: i64,
) -> Result<Encoded, TchError> {
    let tensors = [x, weight, bias, candidates];
    if let Some(opened) = cuda::opened(Kernel::Rescore, &tensors)
        && let Some(largest) = opened.rescore(x, (weight, bias), candidates, k)?
    {
        return Ok(largest);
    }
    let exact = dots_at_entries(x, (weight, Some(bias)), candidates)?;
    let Encoded {
        latent_acts,
        latent_indices: kept,
    } = topk(&exact, k)?;
    Ok(Encoded {
        latent_acts,
        latent_indices: candidates.f_gather(1, &kept, false)?,
    })
}

/// The `k` largest of `x @ weight^T + bias` by row, with ReLU. `x`: `[n_tokens, d_in]`, `weight`:
/// `[num_latents, d_in]`. `None`: not on this device or of this kind.
pub(crate) fn topk_of_product(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    k: usize,
) -> Result<Option<Encoded>, TchError> {
    let (Some(_), Some(_), Some(bias)) = (slice::<f32>(x), slice::<f32>(weight), slice(bias))
    else {
        return Ok(None);
    };
    let search = Search::new(x, (weight, bias), k)?;
    let n_screened = if is_screened(x.size()[0], bias.len(), k) {
        search.screened()?
    } else {
        0
    };
    search.in_float32(n_screened)?;
    search.finish().map(Some)
}

/// The products of `x`: `[n_tokens, d_in]` with `weight`: `[num_latents, d_in]`, both Float on the CPU, for one block of
/// tokens after the other, until `take` breaks off.
pub(super) fn in_blocks(
    x: &Tensor,
    weight: &Tensor,
    mut take: impl FnMut(&[f32]) -> Result<ControlFlow<()>, TchError>,
) -> Result<(), TchError> {
    let (n_tokens, num_latents) = (x.size()[0], weight.size()[0]);
    let block = tokens_in_block(n_tokens, num_latents, BLOCK_BYTES, Kind::Float);
    let products = Tensor::f_empty([block, num_latents], (Kind::Float, Device::Cpu))?;
    let weight = weight.f_tr()?;
    for start in (0..n_tokens).step_by(block.max(1) as usize) {
        let n = block.min(n_tokens - start);
        let rows = products.f_narrow(0, 0, n)?;
        let rows = x.f_narrow(0, start, n)?.f_mm_out(&rows, &weight)?;
        if take(slice(&rows).expect("as it was made"))?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Tokens of a block, all of about the same size.
fn tokens_in_block(n_tokens: i64, num_latents: i64, bytes: i64, kind: Kind) -> i64 {
    let row_bytes = num_latents * kind.elt_size_in_bytes() as i64;
    let most = (bytes / row_bytes).max(LEAST_IN_BLOCK);
    let n_blocks = (n_tokens as u64).div_ceil(most as u64).max(1);
    (n_tokens as u64).div_ceil(n_blocks) as i64
}

/// Whether it pays to look at rough products first: a matter of the processor and of sizes.
pub(super) fn is_screened(n_tokens: i64, num_latents: usize, k: usize) -> bool {
    choice() != Choice::Float32
        && multiplies_in_bfloat16()
        && n_tokens >= LEAST_TO_SCREEN
        && k * LEAST_FOR_EACH <= num_latents
}

/// Whether the processor has tiles for it (AMX): eight times as fast as float32, while AVX512 with bfloat16 but
/// without tiles was no faster here. As Linux reports, which has to allow the tiles, too.
fn multiplies_in_bfloat16() -> bool {
    static HAS_TILES: LazyLock<bool> = LazyLock::new(|| {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
        flags.is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "amx_bf16"))
    });
    *HAS_TILES
}

impl<'a> Search<'a> {
    fn new(
        x: &'a Tensor,
        (weight, bias): (&'a Tensor, &'a [f32]),
        k: usize,
    ) -> Result<Self, TchError> {
        let shape = [x.size()[0], k as i64];
        Ok(Self {
            x,
            weight,
            bias,
            k,
            latent_acts: Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?,
            latent_indices: Tensor::f_empty(shape, (Kind::Int64, Device::Cpu))?,
        })
    }

    fn finish(mut self) -> Result<Encoded, TchError> {
        let _ = self.latent_acts.f_relu_()?;
        Ok(Encoded {
            latent_acts: self.latent_acts,
            latent_indices: self.latent_indices,
        })
    }

    /// Where the latents of `n` tokens from `start` on go.
    fn out(&self, start: i64, n: i64) -> Result<(Tensor, Tensor), TchError> {
        let acts = self.latent_acts.f_narrow(0, start, n)?;
        Ok((acts, self.latent_indices.f_narrow(0, start, n)?))
    }

    /// By products in float32, from the token `start` on.
    fn in_float32(&self, mut start: i64) -> Result<(), TchError> {
        let (bias, k) = (self.bias, self.k);
        let x = self.x.f_narrow(0, start, self.x.size()[0] - start)?;
        in_blocks(&x, self.weight, |rows| {
            let n = (rows.len() / bias.len()) as i64;
            let (mut acts, mut indices) = self.out(start, n)?;
            let acts = slice_mut(&mut acts).expect("as it was made");
            let indices = slice_mut(&mut indices).expect("as it was made");
            in_threads(n_threads(), || kernels::topk(rows, bias, k, acts, indices));
            start += n;
            Ok(ControlFlow::Continue(()))
        })
    }

    /// By products in bfloat16 first. Gives for how many tokens it did so: all, or those before it
    /// turned out that too little is ruled out.
    fn screened(&self) -> Result<i64, TchError> {
        let mut start = 0;
        screened_blocks(
            self.x,
            (self.weight, self.bias),
            self.k,
            |screen, rough, tokens| {
                let n = tokens.n_tokens() as i64;
                let (mut acts, mut indices) = self.out(start, n)?;
                let acts = slice_mut(&mut acts).expect("as it was made");
                let indices = slice_mut(&mut indices).expect("as it was made");
                start += n;
                Ok(in_threads(n_threads(), || {
                    screen.topk(rough, tokens, acts, indices)
                }))
            },
        )
    }
}

/// The products of `x` with an encoder in bfloat16, for one block of tokens after the other. `take` gives how many
/// pre-activations it computed in float32. Gives of how many tokens it was given the products: all, or those before it
/// turned out that too little is ruled out; none, if no bound is.
pub(super) fn screened_blocks(
    x: &Tensor,
    (weight, bias): (&Tensor, &[f32]),
    k: usize,
    mut take: impl FnMut(&Screen<'_>, &[u16], &RoundedTokens<'_>) -> Result<usize, TchError>,
) -> Result<i64, TchError> {
    let weights = slice(weight).expect("it was looked at");
    let n_tokens = x.size()[0];
    let (num_latents, d_in) = weight.size2()?;
    let block = tokens_in_block(n_tokens, num_latents, ROUGH_BLOCK_BYTES, Kind::BFloat16);
    let empty = |shape: [i64; 2]| Tensor::f_empty(shape, (Kind::BFloat16, Device::Cpu));
    let mut weight16 = empty([num_latents, d_in])?;
    let weight16_bits = slice_mut(&mut weight16).expect("as it was made");
    let screen = in_threads(n_threads(), || Screen::new(weights, bias, k, weight16_bits));
    let Some(screen) = screen else { return Ok(0) };
    let (weight16, x16) = (weight16.f_tr()?, empty([block, d_in])?);
    let rough = empty([block, num_latents])?;
    let mut start = 0;
    while start < n_tokens {
        let n = block.min(n_tokens - start);
        let rows = x.f_narrow(0, start, n)?;
        let mut x16 = x16.f_narrow(0, 0, n)?;
        let rows = slice(&rows).expect("as it was made");
        let x16_bits = slice_mut(&mut x16).expect("as it was made");
        let tokens = in_threads(n_threads(), || screen.round(rows, x16_bits));
        let rough = x16.f_mm_out(&rough.f_narrow(0, 0, n)?, &weight16)?;
        let rough = slice(&rough).expect("as it was made");
        let n_computed = take(&screen, rough, &tokens)?;
        start += n;
        if n_computed * PRODUCT_IS_CHEAPER > n as usize * bias.len() {
            break;
        }
    }
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Activation;
    use crate::activation::select;
    use crate::testing::noise;

    /// Any processor multiplies in 16 bit, if slowly.
    #[test]
    fn what_was_screened_is_what_libtorch_selects() {
        for (n, num_latents, d, k) in [(0, 5, 3, 2), (1, 700, 33, 3), (1500, 2000, 64, 8)] {
            let (x, weight) = (noise(&[n, d], 1.0) + 0.5, noise(&[num_latents, d], 2.0));
            let bias = noise(&[num_latents], 3.0) * 0.1;
            let bias_slice = slice(&bias).unwrap();
            let search = Search::new(&x, (&weight, bias_slice), k as usize).unwrap();
            assert_eq!(search.screened().unwrap(), n);
            let ours = search.finish().unwrap();
            let pre_acts = x.linear(&weight, Some(&bias));
            let twin = select(Activation::TopK, &pre_acts, k as usize, None).unwrap();
            let zeros = || Tensor::zeros([n, num_latents], (Kind::Float, Device::Cpu));
            let dense = |encoded: &Encoded| {
                zeros().scatter(1, &encoded.latent_indices, &encoded.latent_acts)
            };
            let off = (dense(&ours) - dense(&twin)).abs();
            assert!(n == 0 || off.max().double_value(&[]) < 1e-5, "{n}");
        }
    }

    #[test]
    fn where_nothing_is_ruled_out_it_ends_after_a_block() {
        let (n, num_latents, d, k) = (3000, 8192, 8, 4);
        let (x, weight) = (
            noise(&[n, d], 1.0),
            Tensor::ones([num_latents, d], (Kind::Float, Device::Cpu)),
        );
        let bias = Tensor::zeros([num_latents], (Kind::Float, Device::Cpu));
        let bias = slice(&bias).unwrap();
        let search = Search::new(&x, (&weight, bias), k).unwrap();
        let n_screened = search.screened().unwrap();
        assert!((1..n).contains(&n_screened), "{n_screened}");
        search.in_float32(n_screened).unwrap();
        let encoded = search.finish().unwrap();
        let expected = x.sum_dim_intlist(1, true, Kind::Float).relu() - &encoded.latent_acts;
        assert!(expected.abs().max().double_value(&[]) < 1e-5);
    }
}
