//! Helpers of the unit tests: the tiny model and damaged copies of it, and comparison of tensors.

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize_to_file};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// `tests/fixtures` of the project.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// The tiny random Llama.
pub(crate) fn tiny_llama() -> PathBuf {
    fixtures().join("tiny-llama")
}

/// A tensor as it stands in a file.
#[derive(Clone)]
pub(crate) struct RawTensor {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) type RawTensors = BTreeMap<String, RawTensor>;

/// A copy of the tiny Llama in a folder of its own, to be changed.
pub(crate) struct TinyModel {
    folder: tempfile::TempDir,
}

impl TinyModel {
    pub(crate) fn copy() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(tiny_llama().join(file), folder.path().join(file)).unwrap();
        }
        Self { folder }
    }

    /// With some keys of config.json changed.
    pub(crate) fn with_config(changes: Value) -> Self {
        let model = Self::copy();
        let path = model.dir().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        std::fs::write(path, config.to_string()).unwrap();
        model
    }

    /// With its tensors changed.
    pub(crate) fn with_tensors(change: impl FnOnce(&mut RawTensors)) -> Self {
        let model = Self::copy();
        let mut tensors = model.tensors();
        change(&mut tensors);
        write_tensors(&model.weights(), &tensors);
        model
    }

    pub(crate) fn dir(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn weights(&self) -> PathBuf {
        self.dir().join("model.safetensors")
    }

    pub(crate) fn tensors(&self) -> RawTensors {
        read_tensors(&self.weights())
    }
}

pub(crate) fn read_tensors(path: &Path) -> RawTensors {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let raw = |(name, view): (&str, TensorView)| {
        let tensor = RawTensor {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        (name.to_owned(), tensor)
    };
    file.iter().map(raw).collect()
}

pub(crate) fn write_tensors(path: &Path, tensors: &RawTensors) {
    let views = tensors.iter().map(|(name, tensor)| {
        (
            name,
            TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).unwrap(),
        )
    });
    serialize_to_file(views, None, path).unwrap();
}

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
