//! Entries of which each token has any number: what is found above a bound, and what is computed from them.

use super::aten::{self, Bags};
use super::cuda::{self, TokenLatents};
use super::kernel::Kernel;
use super::latents::{in_blocks, is_screened, screened_blocks};
use super::slices::{slice, slice_mut};
use super::{Acts, NestedErrors, n_threads};
use kernels::{Found, in_threads};
use std::ops::ControlFlow;
use tch::{Device, Kind, TchError, Tensor};

/// Where the entries of a sparse matrix `[n_tokens, num_latents]` are, token by token, those of a token in the order of
/// their latents.
#[derive(Debug)]
pub(crate) struct Listed {
    /// The latent of each entry: `[n_entries]`, Int64.
    pub(crate) indices: Tensor,
    /// Where the entries of each token begin, and where the last ones end: `[n_tokens + 1]`, Int64.
    pub(crate) starts: Tensor,
    bags: Bags,
    /// Which entries are no latents of any token: `[n_entries]`, Bool. They come last, and the numbers at them are 0.
    is_free: Option<Tensor>,
}

/// Entries with the numbers at them: `[n_entries]`.
#[derive(Debug)]
pub(crate) struct ListedNumbers {
    pub(crate) at: Listed,
    pub(crate) numbers: Tensor,
}

impl Listed {
    pub(crate) fn new(indices: Tensor, starts: Tensor) -> Result<Self, TchError> {
        Ok(Self {
            bags: Bags::of_starts(&starts, indices.size()[0], false)?,
            indices,
            starts,
            is_free: None,
        })
    }

    /// With entries that are free: see [`super::room`].
    pub(super) fn with_free(
        indices: Tensor,
        starts: Tensor,
        is_free: Tensor,
    ) -> Result<Self, TchError> {
        Ok(Self {
            bags: Bags::of_starts(&starts, indices.size()[0], true)?,
            indices,
            starts,
            is_free: Some(is_free),
        })
    }

    /// What entries are sorted by: the latent, and `num_latents` where they are free.
    pub(super) fn latents_or(&self, num_latents: i64) -> Result<Tensor, TchError> {
        match &self.is_free {
            None => Ok(self.indices.shallow_clone()),
            Some(is_free) => self.indices.f_masked_fill(is_free, num_latents),
        }
    }

    /// As many entries for each token: `indices`: `[n_tokens, k]`, rising within a token.
    pub(crate) fn of_rows(indices: &Tensor) -> Result<Self, TchError> {
        let (n_tokens, k) = indices.size2()?;
        let options = (Kind::Int64, indices.device());
        let starts = Tensor::f_arange(n_tokens + 1, options)?.f_mul_scalar(k)?;
        Self::new(indices.f_reshape([-1])?, starts)
    }

    pub(super) fn latents(&self) -> TokenLatents<'_> {
        TokenLatents {
            indices: &self.indices,
            starts: Some(&self.starts),
        }
    }

    /// Token of each entry: `[n_entries]`, Int64.
    pub(crate) fn tokens(&self) -> &Tensor {
        self.bags.tokens()
    }

    /// `S @ rows`: `[n_tokens, d]`, for `rows`: `[num_latents, d]`.
    pub(crate) fn times_rows(&self, values: &Tensor, rows: &Tensor) -> Result<Tensor, TchError> {
        let tensors = [values, &self.indices, &self.starts, rows];
        if let Some(opened) = cuda::opened(Kernel::SparseTimesRows, &tensors)
            && let Some(sums) = opened.sparse_times_rows(values, self.latents(), rows)?
        {
            return Ok(sums);
        }
        aten::listed_times_rows(values, &self.indices, &self.bags, rows)
    }

    /// `dense @ rows^T` at the entries: `[n_entries]`.
    pub(crate) fn dots(&self, dense: &Tensor, rows: &Tensor) -> Result<Tensor, TchError> {
        let tensors = [dense, rows, &self.indices, &self.starts];
        if let Some(opened) = cuda::opened(Kernel::DotsAtEntries, &tensors)
            && let Some(dots) = opened.dots_at_entries(dense, (rows, None), self.latents())?
        {
            return Ok(dots);
        }
        aten::dots_at_entries(dense, rows, &self.indices, &self.bags)
    }

    /// `S^T @ dense`: `[num_latents, d]`, for `dense`: `[n_tokens, d]`.
    pub(crate) fn transposed_times(
        &self,
        values: &Tensor,
        dense: &Tensor,
        num_latents: i64,
    ) -> Result<Tensor, TchError> {
        aten::sparse_transposed_times(values, &self.indices, &self.bags, dense, num_latents)
    }

    /// Sum of the entries of each latent: `[num_latents]`.
    pub(crate) fn sums_by_latent(
        &self,
        values: &Tensor,
        num_latents: i64,
    ) -> Result<Tensor, TchError> {
        aten::sums_by_latent(values, &self.indices, &self.bags, num_latents)
    }

    /// Sum of the entries of each token: `[n_tokens]`.
    pub(crate) fn sums_by_token(
        &self,
        values: &Tensor,
        num_latents: i64,
    ) -> Result<Tensor, TchError> {
        if values.device() != Device::Cpu {
            // A GPU adds up what comes before in no fixed order.
            let ones = Tensor::f_ones([num_latents, 1], (values.kind(), values.device()))?;
            return self.times_rows(values, &ones)?.f_squeeze_dim(1);
        }
        let sums = values.f_cumsum(0, Kind::Double)?;
        let sums = Tensor::f_cat(
            &[sums.f_new_zeros([1], (Kind::Double, sums.device()))?, sums],
            0,
        )?;
        let sums = sums.f_take(&self.starts)?;
        sums.f_diff::<Tensor>(1, 0, None, None)?
            .f_to_kind(values.kind())
    }
}

impl ListedNumbers {
    fn of_found(found: &Found) -> Result<Self, TchError> {
        let starts: Vec<i64> = [0].into_iter().chain(found.ends.iter().copied()).collect();
        Ok(Self {
            at: Listed::new(
                Tensor::f_from_slice(&found.indices)?,
                Tensor::f_from_slice(&starts)?,
            )?,
            numbers: Tensor::f_from_slice(&found.values)?,
        })
    }
}

/// The pre-activations above `bounds`: `[num_latents]`; those of `x`: `[n_tokens, d_in]` by an encoder's weights and
/// bias. `None`: there are more than `most` of them.
pub(crate) fn above(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    bounds: &Tensor,
    most: usize,
) -> Result<Option<ListedNumbers>, TchError> {
    if let (Some(_), Some(_), Some(bias), Some(bounds)) = (
        slice::<f32>(x),
        slice::<f32>(weight),
        slice(bias),
        slice(bounds),
    ) {
        // If many turn out to be above, that ends by itself.
        let screens = is_screened(x.size()[0], bias.len(), 1);
        let found = above_on_host(x, (weight, bias), (bounds, most), screens)?;
        return found.as_ref().map(ListedNumbers::of_found).transpose();
    }
    let pre_acts = x.f_linear(weight, Some(bias))?;
    let is_above = are_above(&pre_acts, bounds)?;
    // Sync: their number is a shape.
    let places = is_above.f_nonzero()?;
    if places.size()[0] as usize > most {
        return Ok(None);
    }
    let n_of_tokens = is_above.f_sum_dim_intlist(1, false, Kind::Int64)?;
    Ok(Some(ListedNumbers {
        at: Listed::new(
            places.f_select(1, 1)?.f_contiguous()?,
            starts(&n_of_tokens)?,
        )?,
        numbers: pre_acts.f_masked_select(&is_above)?,
    }))
}

/// The same on the CPU. `screens`: by products in 16 bit first.
fn above_on_host(
    x: &Tensor,
    (weight, bias): (&Tensor, &[f32]),
    (bounds, most): (&[f32], usize),
    screens: bool,
) -> Result<Option<Found>, TchError> {
    let mut all = Found::default();
    let mut n_screened = 0;
    if screens {
        n_screened = screened_blocks(x, (weight, bias), 1, |screen, rough, tokens| {
            let (found, n) = in_threads(n_threads(), || screen.above(rough, tokens, bounds));
            all.append(&found);
            Ok(n)
        })?;
    }
    let rest = x.f_narrow(0, n_screened, x.size()[0] - n_screened)?;
    in_blocks(&rest, weight, |rows| {
        let found = in_threads(n_threads(), || kernels::above(rows, bias, bounds));
        all.append(&found);
        Ok(if all.values.len() <= most {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    })?;
    Ok(Some(all).filter(|all| all.values.len() <= most))
}

/// Which pre-activations, `[n_tokens, num_latents]`, are above `bounds`: `[num_latents]`; NaN counts as above.
pub(crate) fn are_above(pre_acts: &Tensor, bounds: &Tensor) -> Result<Tensor, TchError> {
    pre_acts.f_le_tensor(bounds)?.f_logical_not()
}

/// Where tokens' entries begin, and where the last ones end, from how many each has.
pub(super) fn starts(n_of_tokens: &Tensor) -> Result<Tensor, TchError> {
    let ends = n_of_tokens.f_cumsum(0, Kind::Int64)?;
    Tensor::f_cat(
        &[
            n_of_tokens.f_new_zeros([1], (Kind::Int64, ends.device()))?,
            ends,
        ],
        0,
    )
}

/// Those of the pre-activations that may be among the `n` largest of some tokens, and are positive: all of these, and
/// others. `least`: where it may be that the `n`-th largest is; whether it is makes no difference but in time.
pub(crate) fn largest_of_all(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    n: usize,
    least: f32,
) -> Result<ListedNumbers, TchError> {
    let (Some(_), Some(_), Some(bias_on_host)) =
        (slice::<f32>(x), slice::<f32>(weight), slice(bias))
    else {
        let mut largest = largest_of_each_aten(x, (weight, bias), &[None], n)?;
        return Ok(largest.remove(0));
    };
    let of_token = n.div_ceil((x.size()[0] as usize).max(1));
    let screens = is_screened(x.size()[0], bias_on_host.len(), of_token);
    let found = largest_on_host(x, (weight, bias_on_host), (n, least), screens)?;
    ListedNumbers::of_found(&found)
}

/// As [`largest_of_all`], of the pre-activations times each of the positive `scales`, `[n_scales, num_latents]`, apart.
/// `least`: for each of them, if it is known.
pub(crate) fn largest_of_each(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    scales: &Tensor,
    (n, least): (usize, &[f32]),
) -> Result<Vec<ListedNumbers>, TchError> {
    let scales = (0..scales.size()[0]).map(|idx| scales.f_get(idx));
    if x.device() != Device::Cpu {
        // One product for all.
        let scales = scales.map(|scale| scale.map(Some));
        let scales = scales.collect::<Result<Vec<_>, _>>()?;
        return largest_of_each_aten(x, (weight, bias), &scales, n);
    }
    let of_scale = |(idx, scale): (usize, Result<Tensor, TchError>)| {
        let scale = scale?;
        let encoder = (&weight.f_mul(&scale.f_unsqueeze(1)?)?, &bias.f_mul(&scale)?);
        largest_of_all(x, encoder, n, least.get(idx).copied().unwrap_or(0.0))
    };
    scales.enumerate().map(of_scale).collect()
}

/// The same on the CPU. `screens`: by products in 16 bit first.
fn largest_on_host(
    x: &Tensor,
    (weight, bias): (&Tensor, &[f32]),
    (n, least): (usize, f32),
    screens: bool,
) -> Result<Found, TchError> {
    for least in [least, least / 2.0, 0.0] {
        let mut largest = Largest::new(n, bias, least);
        let mut n_screened = 0;
        if screens && least > 0.0 {
            n_screened = screened_blocks(x, (weight, bias), 1, |screen, rough, tokens| {
                let bounds = &largest.bounds;
                let (found, n) = in_threads(n_threads(), || screen.above(rough, tokens, bounds));
                largest.note(&found);
                Ok(n)
            })?;
        }
        let rest = x.f_narrow(0, n_screened, x.size()[0] - n_screened)?;
        in_blocks(&rest, weight, |rows| {
            largest.add(rows);
            Ok(ControlFlow::Continue(()))
        })?;
        if least <= 0.0 || largest.values.len() >= n {
            let cut = kernels::nth_largest(&mut largest.values, n).unwrap_or(0.0);
            return Ok(largest.found.at_least(cut));
        }
    }
    unreachable!("the last bound is 0")
}

/// The largest of what was looked at.
struct Largest<'a> {
    n: usize,
    bias: &'a [f32],
    /// No number that is less is among the largest.
    bounds: Vec<f32>,
    found: Found,
    /// Those of `found` that may be among them.
    values: Vec<f32>,
}

/// Rows that are looked at before the bound is raised.
const N_ROWS: usize = 64;

impl<'a> Largest<'a> {
    fn new(n: usize, bias: &'a [f32], least: f32) -> Self {
        Self {
            n,
            bias,
            bounds: vec![least.max(0.0); bias.len()],
            found: Found::default(),
            values: Vec::new(),
        }
    }

    fn add(&mut self, rows: &[f32]) {
        for rows in rows.chunks(N_ROWS * self.bias.len()) {
            let (bias, bounds) = (self.bias, &self.bounds);
            let found = in_threads(n_threads(), || kernels::above(rows, bias, bounds));
            self.note(&found);
        }
    }

    /// Takes what was found above the bounds.
    fn note(&mut self, found: &Found) {
        self.values.extend_from_slice(&found.values);
        self.found.append(found);
        if self.values.len() / 2 > self.n {
            let nth = kernels::nth_largest(&mut self.values, self.n).unwrap_or(0.0);
            self.values.truncate(self.n);
            // Those as large as it are wanted, too.
            self.bounds.fill(below(nth));
        }
    }
}

/// The next number below a positive one.
fn below(x: f32) -> f32 {
    if x.is_finite() {
        x.next_down()
    } else {
        f32::MAX
    }
}

/// The same in libtorch's operations, for each of `scales`, which pre-activations are multiplied by. There are `n`
/// entries, if the tokens have as many; where a number is not positive, it is 0. Nothing waits for the device.
fn largest_of_each_aten(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    scales: &[Option<Tensor>],
    n: usize,
) -> Result<Vec<ListedNumbers>, TchError> {
    let (n_tokens, num_latents) = (x.size()[0], bias.size()[0]);
    let empty = || -> Result<LargestPlaces, TchError> {
        Ok(LargestPlaces {
            // Any number is asked for where the tokens of an update are not known.
            n: i64::try_from(n).unwrap_or(i64::MAX),
            numbers: Tensor::f_zeros([0], (x.kind(), x.device()))?,
            places: Tensor::f_zeros([0], (Kind::Int64, x.device()))?,
        })
    };
    let largest = scales.iter().map(|_| empty());
    let mut largest = largest.collect::<Result<Vec<_>, _>>()?;
    let block = (super::latents::BLOCK_BYTES / (4 * num_latents)).max(1);
    for start in (0..n_tokens).step_by(block as usize) {
        let rows = x.f_narrow(0, start, block.min(n_tokens - start))?;
        let rows = rows.f_linear(weight, Some(bias))?.f_relu()?;
        for (largest, scale) in largest.iter_mut().zip(scales) {
            let scaled = match scale {
                None => rows.f_reshape([-1])?,
                Some(scale) => rows.f_mul(scale)?.f_reshape([-1])?,
            };
            largest.add(&scaled, start * num_latents)?;
        }
    }
    let listed = largest.into_iter();
    let listed = listed.map(|largest| largest.listed([n_tokens, num_latents]));
    listed.collect()
}

/// The largest of what was looked at, by libtorch's operations.
struct LargestPlaces {
    n: i64,
    numbers: Tensor,
    /// Where they are in all rows one after the other.
    places: Tensor,
}

impl LargestPlaces {
    /// Adds the numbers from the place `first` on.
    fn add(&mut self, numbers: &Tensor, first: i64) -> Result<(), TchError> {
        let (of_block, at) = numbers.f_topk(self.n.min(numbers.size()[0]), 0, true, false)?;
        let numbers = Tensor::f_cat(&[&self.numbers, &of_block], 0)?;
        let places = Tensor::f_cat(&[&self.places, &at.f_add_scalar(first)?], 0)?;
        let (largest, kept) = numbers.f_topk(self.n.min(numbers.size()[0]), 0, true, false)?;
        self.numbers = largest;
        self.places = places.f_take(&kept)?;
        Ok(())
    }

    fn listed(self, [n_tokens, num_latents]: [i64; 2]) -> Result<ListedNumbers, TchError> {
        let (places, order) = self.places.f_sort(0, false)?;
        let options = (Kind::Int64, places.device());
        let token_starts = Tensor::f_arange(n_tokens + 1, options)?.f_mul_scalar(num_latents)?;
        let starts = token_starts.f_searchsorted(&places, false, false, "left", None::<Tensor>)?;
        Ok(ListedNumbers {
            at: Listed::new(places.f_remainder(num_latents)?, starts)?,
            numbers: self.numbers.f_take(&order)?,
        })
    }
}

/// Reconstructions from the latents below each end, with the weight of its squared error; their errors, and the
/// gradients of the weighted sum.
pub(crate) fn nested_errors(
    at: &Listed,
    acts: Acts<'_>,
    decoder: (&Tensor, &Tensor),
    (target, levels): (&Tensor, &[(usize, f32)]),
) -> Result<NestedErrors, TchError> {
    let numbers = acts.numbers;
    let tensors = [
        &at.indices,
        &at.starts,
        numbers,
        decoder.0,
        decoder.1,
        target,
    ];
    if let Some(opened) = cuda::opened(Kernel::NestedErrors, &tensors)
        && let Some(errors) = opened.nested_errors(at.latents(), acts, decoder, (target, levels))?
    {
        return Ok(errors);
    }
    if let Some(errors) = nested_errors_on_host(at, numbers, decoder, (target, levels))? {
        return Ok(errors);
    }
    aten::nested_errors((numbers, &at.indices, &at.bags), decoder, target, levels)
}

/// The same on the CPU.
fn nested_errors_on_host(
    at: &Listed,
    acts: &Tensor,
    (w_dec, b_dec): (&Tensor, &Tensor),
    (target, levels): (&Tensor, &[(usize, f32)]),
) -> Result<Option<NestedErrors>, TchError> {
    if at.is_free.is_some() {
        return Ok(None);
    }
    let (Some(indices), Some(starts)) = (slice(&at.indices), slice(&at.starts)) else {
        return Ok(None);
    };
    let (Some(acts_on_host), Some(w_dec), Some(b_dec), Some(rows)) =
        (slice(acts), slice(w_dec), slice(b_dec), slice(target))
    else {
        return Ok(None);
    };
    let (n_tokens, d_out) = target.size2()?;
    let shape = [levels.len() as i64, n_tokens, d_out];
    let mut grad_out = Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?;
    let mut grad_acts = acts.f_empty_like()?;
    let out = kernels::NestedGradients {
        grad_out: slice_mut(&mut grad_out).expect("as it was made"),
        grad_acts: slice_mut(&mut grad_acts).expect("as it was made"),
    };
    let decoding = kernels::NestedDecoding {
        indices,
        acts: acts_on_host,
        starts,
        w_dec,
        b_dec,
        levels,
    };
    let errors = in_threads(n_threads(), || decoding.squared_errors(rows, out));
    Ok(Some(NestedErrors {
        errors: Tensor::f_from_slice(&errors)?,
        grad_out,
        grad_acts,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    fn dense(found: &ListedNumbers, shape: [i64; 2]) -> Tensor {
        let places = found.at.tokens() * shape[1] + &found.at.indices;
        let zeros = Tensor::zeros([shape[0] * shape[1]], (Kind::Float, Device::Cpu));
        zeros.scatter(0, &places, &found.numbers).view(shape)
    }

    /// Any processor multiplies in 16 bit, if slowly.
    #[test]
    fn screened_or_not_the_same_is_found_as_by_libtorch() {
        for (n, num_latents, d) in [(0, 5, 3), (1, 700, 33), (1500, 900, 64)] {
            let (x, weight) = (noise(&[n, d], 1.0) + 0.5, noise(&[num_latents, d], 2.0));
            let bias = noise(&[num_latents], 3.0) * 0.1;
            let of_bias = slice(&bias).unwrap();
            let bounds = noise(&[num_latents], 4.0) * 0.5 + 3.0;
            let most = usize::MAX;
            let [plain, screened] = [false, true].map(|screens| {
                let encoder = (&weight, of_bias);
                let found = above_on_host(&x, encoder, (slice(&bounds).unwrap(), most), screens);
                ListedNumbers::of_found(&found.unwrap().unwrap()).unwrap()
            });
            let pre_acts = x.linear(&weight, Some(&bias));
            let expected = &pre_acts * pre_acts.gt_tensor(&bounds);
            for found in [plain, screened] {
                let off = (dense(&found, [n, num_latents]) - &expected).abs();
                assert!(
                    n == 0 || off.max().double_value(&[]) < 1e-4,
                    "above, of {n}"
                );
            }
            let n_wanted = (4 * n + 1) as usize;
            let twins = largest_of_each_aten(&x, (&weight, &bias), &[None], n_wanted);
            let twin = dense(&twins.unwrap()[0], [n, num_latents]);
            for (screens, least) in [(false, 0.0), (true, 2.0), (true, 1e9), (false, 1e9)] {
                let found = largest_on_host(&x, (&weight, of_bias), (n_wanted, least), screens);
                let found = ListedNumbers::of_found(&found.unwrap()).unwrap();
                let off = (dense(&found, [n, num_latents]) - &twin).abs();
                // In another order of sums, one of two that are nearly equal may be chosen.
                let n_off = off.gt(1e-3).sum(Kind::Int64).int64_value(&[]);
                assert!(
                    n_off <= 2,
                    "the largest, of {n}, {screens}, {least}: {n_off}"
                );
            }
        }
    }

    #[test]
    fn of_each_scale_the_same_is_found_as_by_libtorch() {
        let (x, weight) = (noise(&[300, 16], 1.0), noise(&[120, 16], 2.0));
        let bias = noise(&[120], 3.0) * 0.1;
        let scales = noise(&[3, 120], 4.0).abs() + 0.1;
        let found = largest_of_each(&x, (&weight, &bias), &scales, (500, &[0.0, 1.0])).unwrap();
        let of_each: Vec<_> = (0..3).map(|idx| Some(scales.get(idx))).collect();
        let twins = largest_of_each_aten(&x, (&weight, &bias), &of_each, 500).unwrap();
        assert_eq!((found.len(), twins.len()), (3, 3));
        for (found, twin) in found.iter().zip(&twins) {
            let off = (dense(found, [300, 120]) - dense(twin, [300, 120])).abs();
            let n_off = off.gt(1e-3).sum(Kind::Int64).int64_value(&[]);
            assert!(n_off <= 2, "{n_off}");
        }
    }
}
