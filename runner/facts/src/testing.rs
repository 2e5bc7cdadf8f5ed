//! Helpers of unit tests: the tiny model and damaged copies of it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use crate::FactsError;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize_to_file};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `tests/fixtures` of the project.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// The tiny random Llama.
pub fn tiny_llama() -> PathBuf {
    fixtures().join("tiny-llama")
}

/// Whether an error is about the value of this key.
pub fn is_about(error: &FactsError, key: &str) -> bool {
    error.to_string().starts_with(&format!("key `{key}` of `"))
}

/// Whether an error says that there is no such key.
pub fn lacks(error: &FactsError, key: &str) -> bool {
    error
        .to_string()
        .ends_with(&format!("lacks the key `{key}`"))
}

/// A tensor as stored in a file.
#[derive(Clone)]
pub struct RawTensor {
    /// What its numbers are.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its numbers, little-endian.
    pub bytes: Vec<u8>,
}

/// Tensors by name.
pub type RawTensors = BTreeMap<String, RawTensor>;

/// A copy of the tiny Llama in a separate folder, to be changed.
pub struct TinyModel {
    folder: tempfile::TempDir,
}

impl TinyModel {
    /// Unchanged.
    pub fn copy() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(tiny_llama().join(file), folder.path().join(file)).unwrap();
        }
        Self { folder }
    }

    /// With some keys of config.json changed.
    pub fn with_config(changes: Value) -> Self {
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
    pub fn with_tensors(change: impl FnOnce(&mut RawTensors)) -> Self {
        let model = Self::copy();
        let mut tensors = model.tensors();
        change(&mut tensors);
        write_tensors(&model.weights(), &tensors);
        model
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// Its safetensors file.
    pub fn weights(&self) -> PathBuf {
        self.dir().join("model.safetensors")
    }

    /// Its tensors.
    pub fn tensors(&self) -> RawTensors {
        read_tensors(&self.weights())
    }
}

/// The tensors of a safetensors file.
pub fn read_tensors(path: &Path) -> RawTensors {
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

/// Writes a safetensors file.
pub fn write_tensors(path: &Path, tensors: &RawTensors) {
    let views = tensors.iter().map(|(name, tensor)| {
        (
            name,
            TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).unwrap(),
        )
    });
    serialize_to_file(views, None, path).unwrap();
}
