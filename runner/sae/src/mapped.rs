//! Weights as they are in a safetensors file, mapped into memory: a page is read when something computes
//! with it. What changes them changes memory, never the file. Those that do not begin at a multiple of 64
//! bytes are copied; in files written here they do.

use crate::SaeError;
use crate::safetensors_file::ALIGNMENT;
use sae_files::{Header, Width};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// A safetensors file whose header fits its length.
#[derive(Debug)]
pub(crate) struct MappedFile {
    header: Header,
    /// All bytes of the file; `None`: it has no data.
    bytes: Option<Tensor>,
}

impl MappedFile {
    /// Maps a file and checks its header: no tensor is outside the data or overlaps another.
    pub(crate) fn open(path: &Path) -> Result<Self, SaeError> {
        let header = Header::open(path)?;
        let n_bytes = header.n_bytes();
        let bytes = (n_bytes > header.data_start()).then(|| map(path, n_bytes));
        Ok(Self {
            header,
            bytes: bytes.transpose()?,
        })
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    pub(crate) fn has(&self, tensor: &str) -> bool {
        self.header.has(tensor)
    }

    /// The length of the vector called `tensor`; 0: there is no such vector.
    pub(crate) fn length(&self, tensor: &str) -> i64 {
        match self.header.shape(tensor).as_deref() {
            Some([n]) => *n,
            _ => 0,
        }
    }

    /// Refuses a file with other tensors than those called `used`: without them the SAE would compute
    /// something else than it was trained to.
    pub(crate) fn refuse_others(&self, used: &[&str]) -> Result<(), SaeError> {
        Ok(self.header.refuse_others(used)?)
    }

    /// The weights called `tensor`, of the shape `expected`, on the CPU and as the file has them.
    pub(crate) fn weights(&self, tensor: &str, expected: &[i64]) -> Result<Tensor, SaeError> {
        let entry = self.header.weights(tensor, expected)?;
        let kind = match entry.width {
            Width::F64 => Kind::Double,
            Width::F32 => Kind::Float,
            Width::F16 => Kind::Half,
            Width::BF16 => Kind::BFloat16,
        };
        Ok(match &self.bytes {
            Some(bytes) if entry.n_bytes > 0 => {
                let bytes = bytes.f_narrow(0, entry.start as i64, entry.n_bytes as i64)?;
                viewed(&bytes, entry.start as i64, kind)?.f_view(expected)?
            }
            _ => Tensor::f_zeros(expected, (kind, Device::Cpu))?,
        })
    }
}

/// The bytes of a file: `[n_bytes]`, Uint8. A private mapping, so that the file stays as it is.
fn map(path: &Path, n_bytes: u64) -> Result<Tensor, SaeError> {
    // libtorch takes a name in UTF-8 only; another is not found.
    let name = path.to_string_lossy();
    let options = (Kind::Uint8, Device::Cpu);
    Tensor::f_from_file(&name, false, n_bytes as i64, options)
        .map_err(SaeError::unreadable_tensors(path))
}

/// `bytes`, which begin at byte `start` of the mapping, as numbers. Copied if libtorch's own memory would not
/// begin, so that it makes no difference to a product whether its weights were loaded or computed.
fn viewed(bytes: &Tensor, start: i64, kind: Kind) -> Result<Tensor, SaeError> {
    let bytes = match start % ALIGNMENT as i64 {
        0 => bytes.shallow_clone(),
        _ => bytes.f_detach_copy()?.f_contiguous()?,
    };
    Ok(bytes.f_view_dtype(kind)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::path::PathBuf;

    /// A file of `header` and `n_data_bytes` ones.
    fn file(header: &Value, n_data_bytes: usize) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let header = header.to_string();
        let length = (header.len() as u64).to_le_bytes();
        let bytes = [length.as_slice(), header.as_bytes(), &vec![1; n_data_bytes]].concat();
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn entry(dtype: &str, shape: &[u64], start: u64, end: u64) -> Value {
        json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]})
    }

    #[test]
    fn numbers_are_read_wherever_they_lie() {
        // Three bytes in front, so that nothing is aligned.
        let header = json!({
            "a": entry("U8", &[3], 0, 3),
            "b_dec": entry("F32", &[2], 3, 11),
            "W_dec": entry("BF16", &[1, 2], 11, 15),
        });
        for padding in 0..4 {
            let mut header = header.clone();
            header["__metadata__"] = json!({"x": " ".repeat(padding)});
            let (_folder, path) = file(&header, 15);
            let mapped = MappedFile::open(&path).unwrap();
            let b_dec = mapped.weights("b_dec", &[2]).unwrap();
            assert_eq!(b_dec.double_value(&[1]) as f32, f32::from_bits(0x0101_0101));
            let w_dec = mapped.weights("W_dec", &[1, 2]).unwrap();
            assert_eq!(w_dec.kind(), Kind::BFloat16);
            let _ = b_dec.shallow_clone().fill_(5.0);
            let again = MappedFile::open(&path).unwrap();
            let again = again.weights("b_dec", &[2]).unwrap();
            assert!(again.double_value(&[1]) < 1.0, "the file stays as it is");
        }
    }

    /// Where MKL's products give the same bits for the same numbers.
    #[test]
    fn numbers_begin_where_libtorch_s_own_do() {
        for padding in 0..70 {
            let header = json!({
                "__metadata__": {"x": " ".repeat(padding)},
                "W_dec": entry("F32", &[3], 0, 12),
                "b_dec": entry("F32", &[2], 12, 20),
            });
            let (_folder, path) = file(&header, 20);
            let mapped = MappedFile::open(&path).unwrap();
            for (tensor, shape) in [("W_dec", [3]), ("b_dec", [2])] {
                let weights = mapped.weights(tensor, &shape).unwrap();
                assert_eq!(weights.data_ptr() as usize % ALIGNMENT, 0);
                assert_eq!(
                    weights.double_value(&[1]) as f32,
                    f32::from_bits(0x0101_0101)
                );
            }
        }
    }

    #[test]
    fn nan_is_a_number_like_others() {
        let (_folder, path) = file(&json!({"b_dec": entry("F16", &[1], 0, 2)}), 0);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend([0x00, 0x7e]);
        std::fs::write(&path, bytes).unwrap();
        let mapped = MappedFile::open(&path).unwrap();
        assert!(
            mapped
                .weights("b_dec", &[1])
                .unwrap()
                .double_value(&[0])
                .is_nan()
        );
    }

    #[test]
    fn hostile_headers_name_the_tensor() {
        let huge = 1u64 << 62;
        for (header, problem) in [
            (
                json!({"a": entry("F32", &[2], 0, 8), "b": entry("F32", &[1], 4, 8)}),
                "byte 4",
            ),
            (
                json!({"a": entry("F32", &[2], 0, u64::MAX)}),
                "ends at byte",
            ),
            (json!({"a": entry("F32", &[2], 8, 0)}), "ends at byte 0"),
            (json!({"a": entry("F32", &[huge, huge], 0, 8)}), "a shape"),
            (json!({"a": entry("F32", &[3], 0, 8)}), "its shape"),
        ] {
            let (_folder, path) = file(&header, 8);
            let error = MappedFile::open(&path).unwrap_err();
            assert!(error.to_string().contains("tensor `"), "{error:?}");
            assert!(error.to_string().contains(problem), "{error}");
        }
    }

    #[test]
    fn what_is_no_safetensors_file_is_told() {
        let (_folder, path) = file(&json!({"a": entry("F32", &[2], 0, 8)}), 12);
        let unused = MappedFile::open(&path).unwrap_err().to_string();
        assert!(
            unused.contains("have 8 bytes, and its data has 12"),
            "{unused}"
        );
        for bytes in [&b""[..], b"abc", &[0xff; 64], b"\x04\0\0\0\0\0\0\0oops"] {
            std::fs::write(&path, bytes).unwrap();
            let error = MappedFile::open(&path).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("is not a valid safetensors file"),
                "{error:?}"
            );
        }
        let (_folder, path) = file(&json!({"b_dec": entry("I64", &[1], 0, 8)}), 8);
        let error = MappedFile::open(&path)
            .unwrap()
            .weights("b_dec", &[1])
            .unwrap_err();
        assert!(error.to_string().contains("has dtype I64"), "{error:?}");
    }
}
