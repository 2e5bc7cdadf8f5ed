//! The header of a safetensors file with an SAE's weights.

use crate::error::{FOLDER_HINT, io_fault, listed};
use fault::Fault;
use files::TensorHeader;
use safetensors::Dtype;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// For a file that is damaged.
const WHOLE_HINT: &str = "was it downloaded or copied completely?";

/// A header that fits its file: no tensor is outside the data or overlaps another.
#[derive(Debug)]
pub struct Header {
    path: PathBuf,
    n_bytes: u64,
    tensors: TensorHeader,
}

/// What a weight's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// float64
    F64,
    /// float32
    F32,
    /// float16
    F16,
    /// bfloat16
    BF16,
}

/// How the numbers of a weight are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredWeight {
    /// What they are.
    pub width: Width,
    /// The first byte in the file.
    pub start: u64,
    /// How many bytes they have.
    pub n_bytes: u64,
}

impl Header {
    /// Reads the header of a file and checks it.
    ///
    /// # Errors
    /// A file that cannot be read, is not a safetensors file, or has a tensor that cannot be.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let file = files::open(path).map_err(io_fault("read", path))?;
        let n_bytes = file.metadata().map_err(io_fault("read", path))?.len();
        let tensors = TensorHeader::read(&file, n_bytes).map_err(|error| match error.kind() {
            ErrorKind::InvalidData => {
                let path = path.display();
                Fault::input(format!("`{path}` is not a valid safetensors file: {error}"))
                    .with_hint(WHOLE_HINT)
            }
            _ => io_fault("read", path)(error),
        })?;
        Ok(Self {
            path: path.into(),
            n_bytes,
            tensors,
        })
    }

    /// Length of the file, in bytes.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Where the tensors' data begins, in bytes.
    pub fn data_start(&self) -> u64 {
        self.tensors.data_start()
    }

    /// Whether there is a tensor called `tensor`.
    pub fn has(&self, tensor: &str) -> bool {
        self.tensors.info(tensor).is_some()
    }

    /// The shape of the tensor called `tensor`, if there is one.
    pub fn shape(&self, tensor: &str) -> Option<Vec<i64>> {
        let info = self.tensors.info(tensor)?;
        Some(info.shape.iter().map(|&n| n as i64).collect())
    }

    /// Refuses a file with other tensors than those called `used`: without them the SAE would compute
    /// something else than it was trained to.
    ///
    /// # Errors
    /// Such a file.
    pub fn refuse_others(&self, used: &[&str]) -> Result<(), Fault> {
        let unused = self.tensors.names().filter(|name| !used.contains(name));
        let unused: Vec<String> = unused.map(str::to_owned).collect();
        if unused.is_empty() {
            return Ok(());
        }
        let (path, tensors) = (self.path.display(), listed(":", &unused));
        let message = format!("`{path}` has tensors that its `cfg.json` has no use for{tensors}");
        Err(Fault::input(message).with_hint(
            "without them it would compute something else: is `cfg.json` of another SAE, or does it name \
             another kind?",
        ))
    }

    /// How the weights called `tensor` are stored, of the shape `expected`.
    ///
    /// # Errors
    /// No such tensor, another shape, or numbers that cannot be weights.
    pub fn weights(&self, tensor: &str, expected: &[i64]) -> Result<StoredWeight, Fault> {
        let path = self.path.display();
        let info = self.tensors.info(tensor).ok_or_else(|| {
            Fault::input(format!("`{path}` has no tensor `{tensor}`")).with_hint(FOLDER_HINT)
        })?;
        let width = width_of(info.dtype).ok_or_else(|| {
            let got = info.dtype;
            let message = format!(
                "tensor `{tensor}` of `{path}` has dtype {got}, expected F16, BF16, F32 or F64"
            );
            Fault::input(message).with_hint(WHOLE_HINT)
        })?;
        let got: Vec<i64> = info.shape.iter().map(|&n| n as i64).collect();
        if got != expected {
            let message =
                format!("tensor `{tensor}` of `{path}` has shape {got:?}, expected {expected:?}");
            return Err(Fault::input(message)
                .with_hint("`cfg.json` and the weights do not belong together"));
        }
        let bytes = self.tensors.bytes_of(info);
        Ok(StoredWeight {
            width,
            start: bytes.start,
            n_bytes: bytes.end - bytes.start,
        })
    }
}

fn width_of(dtype: Dtype) -> Option<Width> {
    match dtype {
        Dtype::F64 => Some(Width::F64),
        Dtype::F32 => Some(Width::F32),
        Dtype::F16 => Some(Width::F16),
        Dtype::BF16 => Some(Width::BF16),
        _ => None,
    }
}
