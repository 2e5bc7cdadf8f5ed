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
mod product;

pub(crate) use outliers::OutlierCounts;
use outliers::{HasMany, OutlierCols};
use product::Product;
use tch::{Device, Kind, TchError, Tensor};

/// Columns with a value of this size or greater, in float16, are outliers.
const THRESHOLD: f64 = 6.0;

/// The greatest quantised value.
const MAX_INT8: f64 = 127.0;

/// The least positive float16. As the absmax of rows of zeros it keeps them zero.
const LEAST_HALF: f64 = 1.0 / (1 << 24) as f64;

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
    product: Product,
    /// `[n_tokens, d_in]`, integers up to 127, as the product takes them; 0 in the outlier columns.
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
        let product = Product::of(x.device());
        let split = SplitInput::new(x, product, &self.has_many_outliers, counts)?;
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
        split
            .product
            .scaled(&split.quantised, &self.values, &split.absmax)?
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

    /// `values` `[d_out, _]`, columns of the weight, as numbers: products in float32, rounded to `kind`.
    fn dequantise(&self, values: &Tensor, kind: Kind) -> Result<Tensor, TchError> {
        let scale = self.absmax.f_mul_scalar(1.0 / MAX_INT8)?.f_unsqueeze(1)?;
        let is_one_pass = values.device().is_cuda() && matches!(kind, Kind::Half | Kind::BFloat16);
        let wide = if is_one_pass { kind } else { Kind::Float };
        rescale(values, wide, &scale)?.f_to_kind(kind)
    }
}

impl SplitInput {
    /// `x`: `[n_tokens, d_in]`; `has_many`: that of the weight.
    fn new(
        x: &Tensor,
        product: Product,
        has_many: &HasMany,
        counts: &mut OutlierCounts,
    ) -> Result<Self, TchError> {
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
            product,
            quantised: product.operand(&quantised)?,
            absmax,
            outlier_cols,
        })
    }
}

/// Int8 `values` times `scale`, in `wide`, which may be a 16-bit kind: those hold int8 exactly, and the product with
/// a Float is one in float32, rounded. CUDA's kernel does that in one pass; the CPU's makes two copies in float32.
fn rescale(values: &Tensor, wide: Kind, scale: &Tensor) -> Result<Tensor, TchError> {
    values.f_to_kind(wide)?.f_mul_(scale)
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

    #[test]
    fn weights_are_the_same_with_and_without_a_copy_in_float32() {
        let weight = Int8Weight::quantise(&random(&[200, 300])).unwrap();
        let scale = (&weight.absmax / MAX_INT8).unsqueeze(1);
        for kind in [Kind::Half, Kind::BFloat16] {
            let one_pass = rescale(&weight.values, kind, &scale).unwrap();
            assert_eq!(one_pass.kind(), kind);
            let rounded = rescale(&weight.values, Kind::Float, &scale).unwrap();
            assert_eq!(one_pass, rounded.to_kind(kind));
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
