//! Linear layers with int8 weights: LLM.int8() (Dettmers et al. 2022, sections 2 and 3), with the
//! threshold 6.0 of its section 3.2.
//!
//! The rows of the weight and of `x`, one per token, are rounded to float16 and then quantised by
//! their greatest absolute value (absmax): `q = round(v 127 / absmax)`, half to even. Columns of
//! `x` in which some token reaches the threshold are left out of that, and multiplied with the
//! dequantised weight in `x`'s own kind. The absmax of a token is over all its values below the
//! threshold, those in such columns included.
//!
//! The numbers are those of bitsandbytes 0.50.2 on the CPU, in evaluation mode, with two exceptions:
//! - It multiplies the int8 product by 6.200124e-5 instead of `1 / 127^2` = 6.2000124e-5: 1.8e-5
//!   relative. Its CUDA kernel and this module have the right constant.
//! - Without AVX-512 it sums the int8 products in float32, which rounds sums past 2^24. Here they
//!   are exact.
//!
//! Its CUDA kernels differ in three respects, in which this module does on any device what it does on
//! the CPU: there `127 / absmax` is one approximate division (on the CPU the product of 127 and a
//! reciprocal), so a value half-way between two integers may go to the other; the dequantised int8
//! product is rounded to float16 whatever the kind of `x` is; and so is the sum with a bias of
//! another kind than float16. On the CPU both are float32 until they are cast to the kind of `x`.
//!
//! Nothing here has run on a GPU yet.

mod outliers;

pub(crate) use outliers::OutlierCounts;
use outliers::{HasMany, OutlierCols};
use tch::{Device, Kind, TchError, Tensor};

/// Columns with a value of this size or greater, in float16, are outliers.
const THRESHOLD: f64 = 6.0;

/// The greatest quantised value.
const MAX_INT8: f64 = 127.0;

/// The least positive float16. As the absmax of rows of zeros it keeps them zero.
const LEAST_HALF: f64 = 1.0 / (1 << 24) as f64;

/// Columns whose int8 products float32 sums exactly in any order: `1024 * 127^2 < 2^24`.
const BLOCK_COLS: i64 = 1024;

/// What libtorch's int8 product wants on CUDA: more than 16 rows on the left, and multiples of 8 in
/// the other dimensions.
const CUDA_MIN_ROWS: i64 = 24;
const CUDA_MULTIPLE: i64 = 8;

/// The quantised weight of a linear layer.
#[derive(Debug)]
pub(crate) struct Int8Weight {
    /// `[d_out, d_in]`, Int8
    values: Tensor,
    /// `[d_out]`, Float: the value that 127 means in each row.
    absmax: Tensor,
    has_many_outliers: HasMany,
}

/// The input of a layer, taken apart.
struct SplitInput {
    /// `[n_tokens, d_in]`, Float, integers up to 127; 0 in the outlier columns.
    quantised: Tensor,
    /// `[n_tokens, 1]`, Float
    absmax: Tensor,
    outlier_cols: OutlierCols,
}

impl Int8Weight {
    /// Room for a weight `[d_out, d_in]`, to be taken before the weight itself is loaded; what it
    /// holds until [`Self::fill`] is any numbers.
    ///
    /// # Errors
    /// Too little memory.
    pub(crate) fn room(d_out: i64, d_in: i64, device: Device) -> Result<Self, TchError> {
        Ok(Self {
            values: Tensor::f_empty([d_out, d_in], (Kind::Int8, device))?,
            absmax: Tensor::f_empty([d_out], (Kind::Float, device))?,
            has_many_outliers: HasMany::default(),
        })
    }

    /// Quantises `weight` `[d_out, d_in]` of any float kind, on the same device. A row with a value
    /// past the range of float16 becomes NaN.
    ///
    /// # Errors
    /// A weight of another shape, and what libtorch reports.
    pub(crate) fn fill(&mut self, weight: &Tensor) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        let (values, absmax) = quantise_rows(round_to_half(weight)?)?;
        self.values.f_copy_(&values)?;
        self.absmax.f_copy_(&absmax.f_squeeze_dim(1)?)
    }

    /// `x W^T + bias` in the kind of `x`.
    ///
    /// Under autograd, if `x` requires a gradient, that gradient is `grad_output W` with the
    /// dequantised `W` in the kind of `x`, which the graph keeps until its backward pass; rounding
    /// counts as the identity. The output is the same. `bias` gets no gradient.
    ///
    /// - `x`: `[.., d_in]`, any float kind
    /// - `bias`: `[d_out]`, any float kind; rounded to the kind of `x`
    /// - `counts`: those of the forward pass
    ///
    /// # Errors
    /// An `x` of another width, and what libtorch reports.
    pub(crate) fn linear(
        &self,
        x: &Tensor,
        bias: Option<&Tensor>,
        counts: &mut OutlierCounts,
    ) -> Result<Tensor, TchError> {
        let (d_out, d_in) = self.values.size2()?;
        let mut shape = x.size();
        let Some(width) = shape.last_mut().filter(|width| **width == d_in) else {
            let message = format!("expected x of width {d_in}, got {:?}", x.size());
            return Err(TchError::Shape(message));
        };
        *width = d_out;
        let x = x.f_reshape([-1, d_in])?;
        let output = self.product(&x, bias, counts)?;
        // Without grad mode the reshaped tensor does not require a gradient, whatever `x` says.
        let output = if x.requires_grad() {
            self.with_gradient(&output, &x)?
        } else {
            output
        };
        output.f_reshape(shape)
    }

    /// Bytes of the quantised weight and its scales.
    pub(crate) fn n_bytes(&self) -> u64 {
        let n_bytes = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
        (n_bytes(&self.values) + n_bytes(&self.absmax)) as u64
    }

    /// The output for `x` `[n_tokens, d_in]`, without a gradient.
    fn product(
        &self,
        x: &Tensor,
        bias: Option<&Tensor>,
        counts: &mut OutlierCounts,
    ) -> Result<Tensor, TchError> {
        let _no_grad = tch::no_grad_guard();
        let split = SplitInput::new(x, &self.has_many_outliers, counts)?;
        let mut output = self.int8_product(&split)?;
        if let Some(bias) = bias {
            output = output.f_add_(&bias.f_to_kind(x.kind())?)?;
        }
        let output = output.f_to_kind(x.kind())?;
        if split.outlier_cols.are_none() {
            return Ok(output);
        }
        let x = split.outlier_cols.of(x)?;
        let values = self.values.f_index_select(1, &split.outlier_cols.indices)?;
        let weight = self.dequantise(&values, x.kind())?;
        output.f_addmm(&x, &weight.f_transpose(0, 1)?)
    }

    /// The part of the output that comes from int8: `[n_tokens, d_out]`, Float.
    fn int8_product(&self, split: &SplitInput) -> Result<Tensor, TchError> {
        let scale = self.absmax.f_mul_scalar(1.0 / (MAX_INT8 * MAX_INT8))?;
        integer_product(&split.quantised, &self.values)?
            .f_mul_(&split.absmax)?
            .f_mul_(&scale)
    }

    /// `output`, with the gradient of the product of `x` and the dequantised weight.
    ///
    /// tch has no autograd functions of one's own. Instead of the product itself, whose value would
    /// have to be subtracted again, that of zeros is added which have the gradient of `x`.
    fn with_gradient(&self, output: &Tensor, x: &Tensor) -> Result<Tensor, TchError> {
        let zeros = x.f_sub(&x.f_detach()?)?;
        let weight = self.dequantise(&self.values, x.kind())?;
        output.f_addmm(&zeros, &weight.f_transpose(0, 1)?)
    }

    /// `values` `[d_out, _]`, columns of the weight, as numbers.
    fn dequantise(&self, values: &Tensor, kind: Kind) -> Result<Tensor, TchError> {
        let scale = self.absmax.f_mul_scalar(1.0 / MAX_INT8)?.f_unsqueeze(1)?;
        values
            .f_to_kind(Kind::Float)?
            .f_mul_(&scale)?
            .f_to_kind(kind)
    }
}

impl SplitInput {
    /// `x`: `[n_tokens, d_in]`; `has_many`: that of the weight.
    fn new(x: &Tensor, has_many: &HasMany, counts: &mut OutlierCounts) -> Result<Self, TchError> {
        let mut rounded = round_to_half(x)?;
        let outliers = rounded.f_abs()?.f_ge(THRESHOLD)?;
        let outlier_cols = OutlierCols::find(&outliers, has_many, counts)?;
        if !outlier_cols.are_none() {
            rounded = rounded.f_masked_fill_(&outliers, 0.0)?;
        }
        let (mut quantised, absmax) = quantise_rows(rounded)?;
        if !outlier_cols.are_none() {
            quantised = outlier_cols.clear(quantised)?;
        }
        Ok(Self {
            quantised,
            absmax,
            outlier_cols,
        })
    }
}

/// A copy of `x` as Float, rounded to float16.
fn round_to_half(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_to_kind(Kind::Half)?.f_to_kind(Kind::Float)
}

/// The quantised values `[n, d]` of `rows` `[n, d]`, still as Float, and the absmax `[n, 1]` of the
/// rows. Overwrites `rows`.
fn quantise_rows(mut rows: Tensor) -> Result<(Tensor, Tensor), TchError> {
    let absmax = rows.f_abs()?.f_amax([1_i64].as_slice(), true)?;
    // The product with a reciprocal, not a quotient: the two can round to different integers.
    let scale = absmax
        .f_clamp_min(LEAST_HALF)?
        .f_reciprocal_()?
        .f_mul_scalar_(MAX_INT8)?;
    let quantised = rows.f_mul_(&scale)?.f_round_()?;
    Ok((quantised, absmax))
}

/// `a w^T` as Float `[n, d_out]`, the exact integers rounded once.
///
/// - `a`: `[n, d_in]`, Float, integers from -127 to 127
/// - `w`: `[d_out, d_in]`, Int8, from -127 to 127
fn integer_product(a: &Tensor, w: &Tensor) -> Result<Tensor, TchError> {
    if a.device().is_cuda() {
        padded_int_mm(&a.f_to_kind(Kind::Int8)?, w)?.f_to_kind(Kind::Float)
    } else {
        blockwise_product(a, w)
    }
}

/// [`integer_product`] by float32 products over blocks of columns. libtorch's int8 product is a
/// plain loop on CPUs without AVX-512, 20 times slower than these.
fn blockwise_product(a: &Tensor, w: &Tensor) -> Result<Tensor, TchError> {
    let (_, d_in) = w.size2()?;
    let block = |start: i64| {
        let n_cols = BLOCK_COLS.min(d_in - start);
        let w = w.f_narrow(1, start, n_cols)?.f_to_kind(Kind::Float)?;
        a.f_narrow(1, start, n_cols)?
            .f_matmul(&w.f_transpose(0, 1)?)
    };
    let first = block(0)?;
    if d_in <= BLOCK_COLS {
        return Ok(first);
    }
    let mut sum = first.f_to_kind(Kind::Int)?;
    for start in (BLOCK_COLS..d_in).step_by(BLOCK_COLS as usize) {
        sum = sum.f_add_(&block(start)?.f_to_kind(Kind::Int)?)?;
    }
    sum.f_to_kind(Kind::Float)
}

/// [`integer_product`] of Int8 matrices by the device's own int8 product, as Int.
fn padded_int_mm(a: &Tensor, w: &Tensor) -> Result<Tensor, TchError> {
    let ((n, _), (d_out, _)) = (a.size2()?, w.size2()?);
    let (a, w) = pad_for_cuda(a, w)?;
    a.f_internal_int_mm(&w.f_transpose(0, 1)?)?
        .f_narrow(0, 0, n)?
        .f_narrow(1, 0, d_out)
}

/// `a` and `w` with zeros after their rows and columns, up to the shapes that CUDA takes.
fn pad_for_cuda(a: &Tensor, w: &Tensor) -> Result<(Tensor, Tensor), TchError> {
    let ((n, d_in), (d_out, _)) = (a.size2()?, w.size2()?);
    let to_multiple = |n: i64| (CUDA_MULTIPLE - n % CUDA_MULTIPLE) % CUDA_MULTIPLE;
    let n_cols = to_multiple(d_in);
    let a = pad(a, (CUDA_MIN_ROWS - n).max(0), n_cols)?;
    Ok((a, pad(w, to_multiple(d_out), n_cols)?))
}

/// `matrix` with rows and columns of zeros after its own.
fn pad(matrix: &Tensor, n_rows: i64, n_cols: i64) -> Result<Tensor, TchError> {
    if n_rows == 0 && n_cols == 0 {
        return Ok(matrix.shallow_clone());
    }
    matrix.f_constant_pad_nd([0, n_cols, 0, n_rows])
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod passes;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::assert_close;

    impl Int8Weight {
        pub(super) fn quantise(weight: &Tensor) -> Result<Self, TchError> {
            let (d_out, d_in) = weight.size2()?;
            let mut quantised = Self::room(d_out, d_in, weight.device())?;
            quantised.fill(weight)?;
            Ok(quantised)
        }

        pub(super) fn counted(
            &self,
            x: &Tensor,
            bias: Option<&Tensor>,
        ) -> Result<Tensor, TchError> {
            self.linear(x, bias, &mut OutlierCounts::default())
        }
    }

    fn matrix<const N: usize>(rows: &[[f32; N]]) -> Tensor {
        Tensor::from_slice(rows.as_flattened()).view([rows.len() as i64, N as i64])
    }

    fn random(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    pub(super) fn dequantised(weight: &Int8Weight, kind: Kind) -> Tensor {
        weight.dequantise(&weight.values, kind).unwrap()
    }

    #[test]
    fn rows_are_quantised_by_their_absmax() {
        let weight = matrix(&[
            // 127 / absmax = 1: halves go to the even neighbour.
            [127.0, -62.5, 63.5],
            [0.0, 0.0, 0.0],
            // 42.33 and 63.5
            [-3.0, 1.0, 1.5],
            // The least of float16.
            [0.0, LEAST_HALF as f32, 0.0],
        ]);
        let weight = Int8Weight::quantise(&weight).unwrap();
        let expected = matrix(&[
            [127.0, -62.0, 64.0],
            [0.0, 0.0, 0.0],
            [-127.0, 42.0, 64.0],
            [0.0, 127.0, 0.0],
        ]);
        assert_eq!(weight.values, expected.to_kind(Kind::Int8));
        assert_eq!(
            weight.absmax,
            Tensor::from_slice(&[127.0, 0.0, 3.0, LEAST_HALF as f32])
        );
        assert_eq!(weight.n_bytes(), 12 + 4 * 4);
    }

    #[test]
    fn layer_without_outliers_by_hand() {
        // [127, 64] and [-127, 32] of 127
        let weight = Int8Weight::quantise(&matrix(&[[1.0, 0.5], [-2.0, 0.5]])).unwrap();
        let bias = Tensor::from_slice(&[10.0_f32, 20.0]);
        // [127, 127] of 127 times 1, [0, 0], and [127, 64] of 127 times 4
        let x = matrix(&[[1.0, 1.0], [0.0, 0.0], [4.0, 2.0]]);
        let squared = 127.0_f32 * 127.0;
        let expected = matrix(&[
            [
                10.0 + (127.0 + 64.0) / 127.0,
                20.0 + 2.0 * (-127.0 + 32.0) / 127.0,
            ],
            [10.0, 20.0],
            [
                10.0 + 4.0 * (127.0 * 127.0 + 64.0 * 64.0) / squared,
                20.0 + 8.0 * (-127.0 * 127.0 + 64.0 * 32.0) / squared,
            ],
        ]);
        let got = weight.counted(&x, Some(&bias)).unwrap();
        assert_close("linear", &got, &expected);
    }

    #[test]
    fn a_column_that_reaches_the_threshold_is_not_quantised() {
        let weight = Int8Weight::quantise(&matrix(&[[1.0, 1.0], [1.0, -1.0]])).unwrap();
        // Next to 1.0, 0.001 would be quantised to 0.
        let got = weight.counted(&matrix(&[[6.0, 2.0], [0.001, 1.0]]), None);
        let expected = matrix(&[[8.0, 4.0], [1.001, -0.999]]);
        assert_close("column 0 apart", &got.unwrap(), &expected);
        // The greatest float16 below 6: [127, 42.36] of 127.
        let below = 5.996_093_8_f32;
        let got = weight.counted(&matrix(&[[below, 2.0], [0.001, 1.0]]), None);
        let (sum, difference) = (below * 169.0 / 127.0, below * 85.0 / 127.0);
        let expected = matrix(&[[sum, difference], [1.0, -1.0]]);
        assert_close("all quantised", &got.unwrap(), &expected);
    }

    #[test]
    fn leading_dimensions_and_kinds_are_those_of_x() {
        let weight = Int8Weight::quantise(&random(&[3, 4])).unwrap();
        for kind in [Kind::Float, Kind::Half, Kind::BFloat16, Kind::Double] {
            let x = (random(&[2, 5, 4]) * 4).to_kind(kind);
            let all = weight.counted(&x.view([10, 4]), None).unwrap();
            let got = weight.counted(&x, None).unwrap();
            assert_eq!((got.size(), got.kind()), (vec![2, 5, 3], kind));
            assert_eq!(got.view([10, 3]), all);
        }
        let one = weight.counted(&Tensor::from_slice(&[1.0_f32; 4]), None);
        assert_eq!(one.unwrap().size(), [3]);
        let none = weight.counted(&random(&[2, 0, 4]), None);
        assert_eq!(none.unwrap().size(), [2, 0, 3]);
    }

    #[test]
    fn another_width_is_an_error() {
        let weight = Int8Weight::quantise(&random(&[3, 4])).unwrap();
        // 24 values would make 6 tokens.
        let error = weight.counted(&random(&[4, 6]), None).unwrap_err();
        assert!(error.to_string().contains("width 4, got [4, 6]"), "{error}");
        assert!(weight.counted(&Tensor::from(1.0_f32), None).is_err());
    }

    /// `a w^T` in 64-bit integers.
    fn exact_product(a: &Tensor, w: &Tensor) -> Tensor {
        let wide = |x: &Tensor| x.to_kind(Kind::Int64);
        (wide(a).unsqueeze(1) * wide(w).unsqueeze(0)).sum_dim_intlist(
            [2_i64].as_slice(),
            false,
            Kind::Int64,
        )
    }

    fn random_int8(shape: &[i64]) -> Tensor {
        Tensor::randint_low(-127, 128, shape, (Kind::Int8, Device::Cpu))
    }

    #[test]
    fn both_products_are_exact() {
        for (n, d_in, d_out) in [
            (1, 1, 1),
            (5, 21, 7),
            (30, 1024, 16),
            (3, 1025, 9),
            (4, 2500, 3),
        ] {
            let (a, w) = (random_int8(&[n, d_in]), random_int8(&[d_out, d_in]));
            // The greatest sums, of either sign.
            let _ = w.get(0).fill_(127);
            let _ = a.get(0).fill_(if d_in % 2 == 0 { 127 } else { -127 });
            let exact = exact_product(&a, &w);
            assert_eq!(exact.abs().max().int64_value(&[]), d_in * 127 * 127);
            let padded = padded_int_mm(&a, &w).unwrap();
            assert_eq!(padded.kind(), Kind::Int);
            assert_eq!(padded.to_kind(Kind::Int64), exact, "{n}, {d_in}, {d_out}");
            let blockwise = blockwise_product(&a.to_kind(Kind::Float), &w).unwrap();
            assert_eq!(
                blockwise,
                exact.to_kind(Kind::Float),
                "{n}, {d_in}, {d_out}"
            );
        }
    }

    #[test]
    fn padding_is_up_to_what_cuda_takes() {
        for (n, d_in, d_out, expected) in [
            (1, 1, 1, [24, 8, 8]),
            (16, 8, 8, [24, 8, 8]),
            (24, 9, 15, [24, 16, 16]),
            (41, 16, 24, [41, 16, 24]),
        ] {
            let (a, w) = (random_int8(&[n, d_in]), random_int8(&[d_out, d_in]));
            let (a, w) = pad_for_cuda(&a, &w).unwrap();
            let [n, d_in, d_out] = expected;
            assert_eq!((a.size(), w.size()), (vec![n, d_in], vec![d_out, d_in]));
        }
    }

    #[test]
    fn gradient_is_that_of_the_dequantised_layer() {
        let weight = Int8Weight::quantise(&random(&[7, 5])).unwrap();
        let bias = random(&[7]);
        // With an outlier column, for it is computed apart.
        let x = random(&[2, 3, 5]);
        let _ = x.get(1).get(2).narrow(0, 4, 1).fill_(7.0);
        let x = x.set_requires_grad(true);
        let output = weight.counted(&x, Some(&bias)).unwrap();
        let without_graph = weight.counted(&x.detach(), Some(&bias)).unwrap();
        assert_eq!(output, without_graph);

        let y_grad = random(&[2, 3, 7]);
        let grad_of = |output: &Tensor| {
            let loss = (output * &y_grad).sum(Kind::Float);
            Tensor::run_backward(&[loss], &[&x], false, false).remove(0)
        };
        let float_output = x.linear(&dequantised(&weight, Kind::Float), Some(&bias));
        assert_ne!(output, float_output);
        assert_close("gradient", &grad_of(&output), &grad_of(&float_output));
    }

    #[test]
    fn no_graph_where_none_is_wanted() {
        let weight = Int8Weight::quantise(&random(&[7, 5]).set_requires_grad(true)).unwrap();
        let x = random(&[4, 5]);
        assert!(!weight.counted(&x, None).unwrap().requires_grad());
        let x = x.set_requires_grad(true);
        assert!(weight.counted(&x, None).unwrap().requires_grad());
        let output = tch::no_grad(|| weight.counted(&x, None).unwrap());
        assert!(!output.requires_grad());
    }
}
