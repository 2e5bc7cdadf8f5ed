//! Weights as they lie in a safetensors file, mapped into memory: a page is read when something computes
//! with it. What changes them changes memory, never the file. Those that do not begin at a multiple of 64
//! bytes are copied; in files written here they do.

use crate::SaeError;
use crate::safetensors_file::ALIGNMENT;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// Bytes of the header's length, at the start of the file.
const LENGTH_BYTES: u64 = size_of::<u64>() as u64;

/// The longest header that Python's library reads.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The entry of a header that is no tensor.
const METADATA: &str = "__metadata__";

/// A safetensors file whose header fits its length.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    /// All bytes of the file; `None`: it has no data.
    bytes: Option<Tensor>,
    /// Where the tensors' data begins.
    data_start: u64,
    entries: BTreeMap<String, Entry>,
}

/// What the header says of a tensor.
#[derive(Debug, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    /// Within the data.
    data_offsets: (u64, u64),
}

impl MappedFile {
    /// Maps a file and checks its header: no tensor lies outside the data or over another.
    pub(crate) fn open(path: &Path) -> Result<Self, SaeError> {
        let file = files::open(path).map_err(SaeError::io("read", path))?;
        let n_bytes = file.metadata().map_err(SaeError::io("read", path))?.len();
        let (entries, data_start) = read_header(path, &file, n_bytes)?;
        check_offsets(path, &entries, n_bytes - data_start)?;
        let bytes = (n_bytes > data_start).then(|| map(path, n_bytes));
        Ok(Self {
            path: path.into(),
            bytes: bytes.transpose()?,
            data_start,
            entries,
        })
    }

    pub(crate) fn has(&self, tensor: &str) -> bool {
        self.entries.contains_key(tensor)
    }

    /// Refuses a file with other tensors than those called `used`: without them the SAE would compute
    /// something else than it was trained to.
    pub(crate) fn refuse_others(&self, used: &[&str]) -> Result<(), SaeError> {
        let is_unused = |name: &&String| !used.contains(&name.as_str());
        let unused: Vec<String> = self.entries.keys().filter(is_unused).cloned().collect();
        match unused.is_empty() {
            true => Ok(()),
            false => Err(SaeError::UnusedTensors {
                path: self.path.clone(),
                tensors: unused,
            }),
        }
    }

    /// The weights called `tensor`, of the shape `expected`, on the CPU and as the file has them.
    pub(crate) fn weights(
        &self,
        tensor: &'static str,
        expected: &[i64],
    ) -> Result<Tensor, SaeError> {
        let path = || self.path.clone();
        let entry = self.entries.get(tensor);
        let entry = entry.ok_or_else(|| SaeError::MissingTensor {
            path: path(),
            tensor,
        })?;
        let (kind, _) = entry.kind().ok_or_else(|| SaeError::Dtype {
            path: path(),
            tensor,
            got: entry.dtype.clone(),
        })?;
        let got: Vec<i64> = entry.shape.iter().map(|&n| n as i64).collect();
        if got != expected {
            let expected = expected.to_vec();
            return Err(SaeError::Shape {
                path: path(),
                tensor,
                expected,
                got,
            });
        }
        let (start, end) = entry.data_offsets;
        Ok(match &self.bytes {
            Some(bytes) if end > start => {
                let start = (self.data_start + start) as i64;
                let bytes = bytes.f_narrow(0, start, (end - entry.data_offsets.0) as i64)?;
                viewed(&bytes, start, kind)?.f_view(expected)?
            }
            _ => Tensor::f_zeros(expected, (kind, Device::Cpu))?,
        })
    }
}

impl Entry {
    /// The kind of weights, and the bytes of a number.
    fn kind(&self) -> Option<(Kind, u64)> {
        match self.dtype.as_str() {
            "F64" => Some((Kind::Double, 8)),
            "F32" => Some((Kind::Float, 4)),
            "F16" => Some((Kind::Half, 2)),
            "BF16" => Some((Kind::BFloat16, 2)),
            _ => None,
        }
    }

    /// What is wrong with the place of a tensor; `next`: where the one before it ends.
    fn problem(&self, next: u64, n_data_bytes: u64) -> Option<String> {
        let (start, end) = self.data_offsets;
        if start > end || end > n_data_bytes {
            return Some(format!(
                "lies at bytes {start} to {end} of the data, of which there are {n_data_bytes}"
            ));
        }
        if start != next {
            return Some(format!(
                "begins at byte {start} of the data, where byte {next} is the next"
            ));
        }
        // Of other kinds, no tensor is asked for.
        let (_, n_bytes_each) = self.kind()?;
        let n_numbers = self
            .shape
            .iter()
            .try_fold(1, |n: u64, &of| n.checked_mul(of));
        match n_numbers.and_then(|n| n.checked_mul(n_bytes_each)) {
            Some(expected) if expected == end - start => None,
            _ => Some(format!(
                "has {} bytes, which its shape {:?} and dtype {} do not give",
                end - start,
                self.shape,
                self.dtype
            )),
        }
    }
}

/// The entries of the header, and where the data begins.
fn read_header(
    path: &Path,
    mut file: &File,
    n_bytes: u64,
) -> Result<(BTreeMap<String, Entry>, u64), SaeError> {
    let no_file = |problem: String| SaeError::NoSafetensors {
        path: path.into(),
        problem,
    };
    let mut length = [0; LENGTH_BYTES as usize];
    if n_bytes < LENGTH_BYTES {
        return Err(no_file("it is shorter than the length of a header".into()));
    }
    let read = file.read_exact(&mut length);
    read.map_err(SaeError::io("read", path))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES.min(n_bytes - LENGTH_BYTES) {
        return Err(no_file(format!("its header shall have {length} bytes")));
    }
    let mut header = vec![0; length as usize];
    let read = file.read_exact(&mut header);
    read.map_err(SaeError::io("read", path))?;
    let mut header: Map<String, Value> =
        serde_json::from_slice(&header).map_err(|error| no_file(error.to_string()))?;
    header.remove(METADATA);
    let entry = |(tensor, entry)| match serde_json::from_value(entry) {
        Ok(entry) => Ok((tensor, entry)),
        Err(error) => Err(no_file(format!("`{tensor}` is described wrongly: {error}"))),
    };
    let entries = header.into_iter().map(entry).collect::<Result<_, _>>()?;
    Ok((entries, LENGTH_BYTES + length))
}

fn check_offsets(
    path: &Path,
    entries: &BTreeMap<String, Entry>,
    n_data_bytes: u64,
) -> Result<(), SaeError> {
    let bad = |tensor: &str, problem| SaeError::BadTensor {
        path: path.into(),
        tensor: tensor.into(),
        problem,
    };
    let mut in_order: Vec<_> = entries.iter().collect();
    in_order.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut next = 0;
    for (tensor, entry) in in_order {
        if let Some(problem) = entry.problem(next, n_data_bytes) {
            return Err(bad(tensor, problem));
        }
        next = entry.data_offsets.1;
    }
    match next == n_data_bytes {
        true => Ok(()),
        false => Err(SaeError::NoSafetensors {
            path: path.into(),
            problem: format!("its tensors have {next} bytes, and it has {n_data_bytes}"),
        }),
    }
}

/// The bytes of a file: `[n_bytes]`, Uint8. A private mapping, so that the file stays as it is.
fn map(path: &Path, n_bytes: u64) -> Result<Tensor, SaeError> {
    let tensors = |source| SaeError::Tensors {
        action: "read",
        path: path.into(),
        source,
    };
    // libtorch takes a name in UTF-8 only; another is not found.
    let name = path.to_string_lossy();
    let options = (Kind::Uint8, Device::Cpu);
    Tensor::f_from_file(&name, false, n_bytes as i64, options).map_err(tensors)
}

/// `bytes`, which begin at byte `start` of the mapping, as numbers. Copied where libtorch's own memory would not
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
    use serde_json::json;

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
            header[METADATA] = json!({"x": " ".repeat(padding)});
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
                METADATA: {"x": " ".repeat(padding)},
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
            (json!({"a": entry("F32", &[2], 0, u64::MAX)}), "bytes 0 to"),
            (json!({"a": entry("F32", &[2], 8, 0)}), "bytes 8 to 0"),
            (json!({"a": entry("F32", &[huge, huge], 0, 8)}), "its shape"),
            (json!({"a": entry("F32", &[3], 0, 8)}), "its shape"),
        ] {
            let (_folder, path) = file(&header, 8);
            let error = MappedFile::open(&path).unwrap_err();
            assert!(matches!(error, SaeError::BadTensor { .. }), "{error:?}");
            assert!(error.to_string().contains(problem), "{error}");
        }
    }

    #[test]
    fn what_is_no_safetensors_file_is_told() {
        let (_folder, path) = file(&json!({"a": entry("F32", &[2], 0, 8)}), 12);
        let unused = MappedFile::open(&path).unwrap_err().to_string();
        assert!(unused.contains("have 8 bytes, and it has 12"), "{unused}");
        for bytes in [&b""[..], b"abc", &[0xff; 64], b"\x04\0\0\0\0\0\0\0oops"] {
            std::fs::write(&path, bytes).unwrap();
            let error = MappedFile::open(&path).unwrap_err();
            assert!(matches!(error, SaeError::NoSafetensors { .. }), "{error:?}");
        }
        let (_folder, path) = file(&json!({"b_dec": entry("I64", &[1], 0, 8)}), 8);
        let error = MappedFile::open(&path)
            .unwrap()
            .weights("b_dec", &[1])
            .unwrap_err();
        assert!(
            matches!(&error, SaeError::Dtype { got, .. } if got == "I64"),
            "{error:?}"
        );
    }
}
