//! Helpers of the unit tests: comparison of tensors.

pub(crate) use facts::testing::{
    RawTensor, RawTensors, TinyModel, fixtures, read_tensors, tiny_llama, write_tensors,
};
use tch::{Device, Kind, Tensor};

/// Where the golden tests run: on the CPU, or on the device that `SAE_RUN_TEST_DEVICE` names.
pub(crate) fn test_device() -> Device {
    let name = std::env::var("SAE_RUN_TEST_DEVICE");
    crate::parse_device(name.as_deref().unwrap_or("cpu")).unwrap()
}

/// `x` on the CPU, as Double.
pub(crate) fn wide(x: &Tensor) -> Tensor {
    x.to_device(Device::Cpu).to_kind(Kind::Double)
}

/// Norm of the difference over norm.
pub(crate) fn relative(got: &Tensor, expected: &Tensor) -> f64 {
    let (got, expected) = (wide(got), wide(expected));
    (got - &expected).norm().double_value(&[]) / expected.norm().double_value(&[])
}

/// Asserts that `|got - expected|` is everywhere at most 1e-5 of `|expected|` plus 1e-5 of the greatest
/// number, or of 1; and that the norms differ by 1e-5. Another processor has other exponentials, too.
pub(crate) fn assert_close(what: &str, got: &Tensor, expected: &Tensor) {
    assert_eq!(got.size(), expected.size(), "{what}");
    let error = relative(got, expected);
    assert!(error <= 1e-5, "{what}: off by {error:e} in norm");
    let (got, expected) = (wide(got), wide(expected));
    let excess: Tensor = (&got - &expected).abs() - expected.abs() * 1e-5;
    let worst = excess.max().double_value(&[]);
    let greatest = expected.abs().max().double_value(&[]).max(1.0);
    assert!(
        worst <= 1e-5 * greatest,
        "{what}: off by {worst:e} beyond 1e-5 relative, where {greatest} is the greatest"
    );
}
