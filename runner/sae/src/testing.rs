//! Test data without libtorch's global generator, which tests in other threads would disturb.

use tch::{Device, Kind, Tensor};

/// Uniform-looking numbers in [-1, 1), the same for the same shape and seed.
pub(crate) fn noise(shape: &[i64], seed: f64) -> Tensor {
    let n: i64 = shape.iter().product();
    let phase = Tensor::arange(n, (Kind::Double, Device::Cpu)) * 12.9898 + seed * 78.233;
    let noise = (phase.sin() * 43_758.545_3).frac() * 2.0;
    let noise = noise.remainder(2.0) - 1.0;
    noise.to_kind(Kind::Float).view(shape)
}
