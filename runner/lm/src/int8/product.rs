//! Products of matrices of integers, whose sums are exact: whichever is taken, the numbers are the same.

use std::sync::LazyLock;
use tch::{Device, Kind, TchError, Tensor};

/// Columns whose int8 products float32 sums exactly in any order: `1024 * 127^2 < 2^24`.
const BLOCK_COLS: i64 = 1024;

/// What libtorch's int8 product wants on CUDA: more than 16 rows on the left, and multiples of 8 in
/// the other dimensions (`_int_mm_out_cuda` in ATen/native/cuda/Blas.cpp; 2.11 and 2.13 ask for the same).
const CUDA_MIN_ROWS: i64 = 24;
const CUDA_MULTIPLE: i64 = 8;

/// Whether the CPU multiplies int8 by itself, and exactly.
static IS_DIRECT_ON_CPU: LazyLock<bool> =
    LazyLock::new(|| has_vnni() && is_direct_exact().unwrap_or(false));

/// How integers are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Product {
    /// By libtorch's int8 product, of matrices with zeros up to the shapes that CUDA takes.
    Padded,
    /// By libtorch's int8 product.
    Direct,
    /// By float32 products over blocks of columns.
    Blocks,
}

impl Product {
    /// The fastest one that is exact.
    pub(super) fn of(device: Device) -> Self {
        match device {
            Device::Cpu if *IS_DIRECT_ON_CPU => Self::Direct,
            Device::Cpu => Self::Blocks,
            _ => Self::Padded,
        }
    }

    /// Integers from -127 to 127, as what [`Self::scaled`] takes. NaN may become any of them.
    pub(super) fn operand(self, integers: &Tensor) -> Result<Tensor, TchError> {
        integers.f_to_kind(match self {
            Self::Padded | Self::Direct => Kind::Int8,
            Self::Blocks => Kind::Float,
        })
    }

    /// `a w^T`, rounded to float32, times `row_scale`: `[n, d_out]`, Float.
    ///
    /// - `a`: `[n, d_in]`, of [`Self::operand`]
    /// - `w`: `[d_out, d_in]`, Int8, from -127 to 127
    /// - `row_scale`: `[n, 1]`, Float
    pub(super) fn scaled(
        self,
        a: &Tensor,
        w: &Tensor,
        row_scale: &Tensor,
    ) -> Result<Tensor, TchError> {
        match self {
            Self::Padded => padded(a, w)?.f_mul(row_scale),
            Self::Direct => direct(a, w)?.f_mul(row_scale),
            Self::Blocks => blockwise(a, w)?.f_mul_(row_scale),
        }
    }
}

/// Whether libtorch has more than a plain loop for int8, which is 20 times slower than blocks of float32.
fn has_vnni() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512vnni");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Whether the greatest sums are right. Where `ONEDNN_MAX_CPU_ISA` hides those instructions from oneDNN, it adds
/// pairs of products in 16 bits, and libtorch gives it the product nevertheless.
fn is_direct_exact() -> Result<bool, TchError> {
    let (n, d_in, d_out) = (17, 64, 16);
    let ones = |n: i64| Tensor::f_ones([n, d_in], (Kind::Int8, Device::Cpu));
    let a = ones(n)?.f_mul_scalar_(127)?;
    let w = ones(d_out)?.f_mul_scalar_(127)?;
    let sums = direct(&a, &w)?;
    sums.f_equal(&sums.f_full_like(d_in * 127 * 127)?)
}

/// `a w^T` of Int8 matrices, as Int.
fn direct(a: &Tensor, w: &Tensor) -> Result<Tensor, TchError> {
    a.f_internal_int_mm(&w.f_transpose(0, 1)?)
}

/// [`direct`] of matrices with zeros after their rows and columns, without what comes of them.
fn padded(a: &Tensor, w: &Tensor) -> Result<Tensor, TchError> {
    let ((n, _), (d_out, _)) = (a.size2()?, w.size2()?);
    let (a, w) = pad_for_cuda(a, w)?;
    direct(&a, &w)?.f_narrow(0, 0, n)?.f_narrow(1, 0, d_out)
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

/// `a w^T` of a Float and an Int8 matrix, as Float: the exact sums, rounded once.
fn blockwise(a: &Tensor, w: &Tensor) -> Result<Tensor, TchError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::{HasMany, Int8Weight, OutlierCounts, SplitInput};
    use crate::testing::test_device;

    fn random_int8(shape: &[i64]) -> Tensor {
        Tensor::randint_low(-127, 128, shape, (Kind::Int8, test_device()))
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

    /// Those that are exact on the device of the tests.
    fn products() -> Vec<Product> {
        let mut products = vec![Product::Blocks];
        if test_device() != Device::Cpu {
            products.push(Product::Padded);
        } else if is_direct_exact().unwrap() {
            products.extend([Product::Padded, Product::Direct]);
        }
        products
    }

    #[test]
    fn the_one_of_a_device_is_exact_there() {
        assert!(products().contains(&Product::of(test_device())));
        assert_eq!(Product::of(Device::Cuda(0)), Product::Padded);
    }

    #[test]
    fn sums_are_exact() {
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
            let ones = Tensor::ones([n, 1], (Kind::Float, test_device()));
            for product in products() {
                let got = product.scaled(&product.operand(&a).unwrap(), &w, &ones);
                let what = format!("{product:?}: {n}, {d_in}, {d_out}");
                assert_eq!(got.unwrap(), exact.to_kind(Kind::Float), "{what}");
                if product == Product::Padded {
                    let sums = padded(&a, &w).unwrap();
                    assert_eq!(sums.to_kind(Kind::Int64), exact, "{what}");
                }
            }
        }
    }

    /// With the widths on either side of what CUDA takes, and of a block.
    #[test]
    fn every_product_makes_the_same_of_an_input() {
        for n in [1, 16, 17, 33] {
            for (d_in, d_out) in [(8, 8), (64, 24), (21, 16), (24, 7), (1032, 9), (2500, 8)] {
                let float = (Kind::Float, test_device());
                let weight = Tensor::randn([d_out, d_in], float);
                // Past the range of float16.
                let _ = weight.get(0).narrow(0, 1, 1).fill_(1e6);
                let weight = Int8Weight::quantise(&weight).unwrap();
                let quiet = Tensor::randn([n, d_in], float).clamp(-5.0, 5.0);
                for strange in [0.0, 8.0, f64::INFINITY, f64::NAN] {
                    let x = quiet.copy();
                    let _ = x.get(n - 1).narrow(0, d_in - 3, 2).fill_(strange);
                    let what = format!("{n}, {d_in}, {d_out}, {strange}");
                    check_same(&weight, &x, &what);
                }
            }
        }
    }

    #[track_caller]
    fn check_same(weight: &Int8Weight, x: &Tensor, what: &str) {
        let part = |product: Product| {
            let (has_many, mut counts) = (HasMany::default(), OutlierCounts::default());
            let split = SplitInput::new(x, product, &has_many, &mut counts).unwrap();
            weight.int8_product(&split).unwrap()
        };
        let expected = part(Product::Blocks);
        for product in products() {
            let got = part(product);
            assert_eq!(got.kind(), Kind::Float);
            assert_eq!(got.isnan(), expected.isnan(), "{product:?}: {what}");
            let numbers = |x: &Tensor| x.nan_to_num(0.0, f64::INFINITY, f64::NEG_INFINITY);
            assert_eq!(numbers(&got), numbers(&expected), "{product:?}: {what}");
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
}
