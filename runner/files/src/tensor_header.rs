//! The header of a safetensors file: which tensors it has, and where their data is.
//!
//! It is read here and not by the crate `safetensors`, which does not always say which tensor is at fault
//! and adds to offsets before it compares them with the length of the file, which can overflow.

use safetensors::tensor::TensorInfo;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;

/// Bytes of the header's length, at the start of the file.
const LENGTH_BYTES: u64 = size_of::<u64>() as u64;

/// The longest header that the crate `safetensors` reads, in bytes.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The entry of a header that is not a tensor.
const METADATA: &str = "__metadata__";

/// A header whose tensors fill the data of the file, each with the bytes that its shape and dtype take.
#[derive(Debug)]
pub struct TensorHeader {
    tensors: BTreeMap<String, TensorInfo>,
    data_start: u64,
}

impl TensorHeader {
    /// Reads the header of a file of `n_bytes`, and nothing after it.
    ///
    /// # Errors
    /// Bytes that cannot be read. As `InvalidData`, with what is wrong with which tensor: a file that is not
    /// a whole safetensors file.
    pub fn read(mut file: impl Read, n_bytes: u64) -> io::Result<Self> {
        let n_rest = n_bytes.checked_sub(LENGTH_BYTES);
        let n_rest = n_rest.ok_or_else(|| invalid("it is shorter than the length of a header"))?;
        let mut length = [0; LENGTH_BYTES as usize];
        file.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER_BYTES.min(n_rest) {
            return Err(invalid(format!("its header claims {length} bytes")));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header)?;
        let tensors = read_tensors(&header)?;
        check_offsets(&tensors, n_rest - length)?;
        Ok(Self {
            tensors,
            data_start: LENGTH_BYTES + length,
        })
    }

    /// What the header says of the tensor called `name`.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The names of all tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Where the tensors' data begins, in bytes from the start of the file.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// The bytes of a tensor, from the start of the file.
    pub fn bytes_of(&self, info: &TensorInfo) -> Range<u64> {
        let (start, end) = info.data_offsets;
        self.data_start + start as u64..self.data_start + end as u64
    }
}

fn read_tensors(header: &[u8]) -> io::Result<BTreeMap<String, TensorInfo>> {
    let mut entries: Map<String, Value> = serde_json::from_slice(header)
        .map_err(|error| invalid(format!("its header cannot be read: {error}")))?;
    entries.remove(METADATA);
    let read = |(name, entry): (String, Value)| match serde_json::from_value(entry) {
        Ok(info) => Ok((name, info)),
        Err(error) => Err(bad_tensor(&name, &format!("is described wrongly: {error}"))),
    };
    entries.into_iter().map(read).collect()
}

fn check_offsets(tensors: &BTreeMap<String, TensorInfo>, n_data_bytes: u64) -> io::Result<()> {
    let mut in_order: Vec<_> = tensors.iter().collect();
    in_order.sort_by_key(|(_, info)| info.data_offsets);
    let mut next = 0;
    for (name, info) in in_order {
        if let Some(problem) = problem_of(info, next, n_data_bytes) {
            return Err(bad_tensor(name, &problem));
        }
        next = info.data_offsets.1;
    }
    if next as u64 == n_data_bytes {
        Ok(())
    } else {
        let problem = format!("its tensors have {next} bytes, and its data has {n_data_bytes}");
        Err(invalid(problem))
    }
}

/// `next`: where the data of the tensor before it ends.
fn problem_of(info: &TensorInfo, next: usize, n_data_bytes: u64) -> Option<String> {
    let (start, end) = info.data_offsets;
    if start > end {
        return Some(format!("begins at byte {start} and ends at byte {end}"));
    }
    if end as u64 > n_data_bytes {
        return Some(format!(
            "ends at byte {end} of the data, which has {n_data_bytes}"
        ));
    }
    if start != next {
        return Some(format!(
            "begins at byte {start} of the data, but byte {next} is the next"
        ));
    }
    let n_bytes = end - start;
    match shape_bytes(info) {
        Some(expected) if expected == n_bytes => None,
        Some(expected) => Some(format!(
            "has {n_bytes} bytes, but {expected} by its shape and dtype"
        )),
        None => Some("has a shape that gives no number of bytes".into()),
    }
}

fn shape_bytes(info: &TensorInfo) -> Option<usize> {
    let dims = info.shape.iter().copied();
    let n_elements = dims.clone().try_fold(1, usize::checked_mul)?;
    let n_bits = n_elements.checked_mul(info.dtype.bitsize())?;
    n_bits.is_multiple_of(8).then_some(n_bits / 8)
}

fn bad_tensor(name: &str, problem: &str) -> io::Error {
    invalid(format!("tensor `{name}` {problem}"))
}

fn invalid(problem: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, problem.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::Dtype;
    use serde_json::json;

    /// `n_data_bytes` zeros after `header`.
    fn file(header: &str, n_data_bytes: usize) -> Vec<u8> {
        let length = (header.len() as u64).to_le_bytes();
        [length.as_slice(), header.as_bytes(), &vec![0; n_data_bytes]].concat()
    }

    fn read(file: &[u8]) -> io::Result<TensorHeader> {
        TensorHeader::read(file, file.len() as u64)
    }

    fn problem(file: &[u8]) -> String {
        let error = read(file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        error.to_string()
    }

    fn f32s(shape: &[u64], start: u64, end: u64) -> Value {
        json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]})
    }

    #[test]
    fn a_header_that_fits() {
        let header = json!({
            METADATA: {"format": "pt"},
            "b": f32s(&[1], 8, 12),
            "a": f32s(&[2], 0, 8),
            "empty": f32s(&[0, 3], 8, 8),
        });
        let file = file(&header.to_string(), 12);
        let header = read(&file).unwrap();
        assert_eq!(header.names().collect::<Vec<_>>(), ["a", "b", "empty"]);
        let b = header.info("b").unwrap();
        assert_eq!((b.dtype, b.shape.as_slice()), (Dtype::F32, &[1][..]));
        let end = file.len() as u64;
        assert_eq!(header.bytes_of(b), end - 4..end);
        assert_eq!(header.data_start(), end - 12);
    }

    #[test]
    fn each_fault_names_its_tensor() {
        let huge = 1 << 32;
        for (header, expected) in [
            (
                json!({"a": f32s(&[2], 0, 8), "b": f32s(&[1], 8, 12)}),
                "tensor `b` ends at byte 12 of the data, which has 8",
            ),
            (
                json!({"a": f32s(&[1], 8, 4)}),
                "tensor `a` begins at byte 8 and ends at byte 4",
            ),
            (
                json!({"a": f32s(&[3], 0, 8)}),
                "tensor `a` has 8 bytes, but 12 by its shape and dtype",
            ),
            (
                json!({"a": f32s(&[huge, huge], 0, 8)}),
                "tensor `a` has a shape that gives no number of bytes",
            ),
            // Overlapping, and with a gap.
            (
                json!({"b": f32s(&[1], 4, 8), "a": f32s(&[2], 0, 8)}),
                "tensor `b` begins at byte 4 of the data, but byte 8 is the next",
            ),
            (
                json!({"a": f32s(&[1], 4, 8)}),
                "tensor `a` begins at byte 4 of the data, but byte 0 is the next",
            ),
            (
                json!({"a": f32s(&[1], 0, 4)}),
                "its tensors have 4 bytes, and its data has 8",
            ),
        ] {
            assert_eq!(problem(&file(&header.to_string(), 8)), expected);
        }
    }

    /// Sixteen tensors that end where 64 bits do.
    #[test]
    fn offsets_up_to_the_last_number() {
        let step = 1_u64 << 60;
        let entries = (0..16).map(|i| {
            let n_bytes = if i < 15 { step } else { step - 4 };
            let start = i * step;
            (
                format!("t{i:02}"),
                f32s(&[n_bytes / 4], start, start + n_bytes),
            )
        });
        let header = Value::Object(entries.collect());
        let problem = problem(&file(&header.to_string(), 8));
        assert!(
            problem.starts_with("tensor `t00` ends at byte"),
            "{problem}"
        );
    }

    #[test]
    fn an_entry_of_another_form() {
        for entry in [
            json!({"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}),
            json!({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}),
            json!({"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 16]}),
            json!({"dtype": "F32", "shape": [2]}),
            json!(5),
        ] {
            let header = json!({"a": f32s(&[0], 0, 0), "b": entry}).to_string();
            let problem = problem(&file(&header, 8));
            let begins = "tensor `b` is described wrongly: ";
            assert!(problem.starts_with(begins), "{problem}");
        }
    }

    #[test]
    fn what_has_no_header() {
        for (file, expected) in [
            (&b"1234567"[..], "it is shorter than the length of a header"),
            (&[], "it is shorter than the length of a header"),
            (
                &file("not JSON", 8),
                "its header cannot be read: expected ident at line 1 column 2",
            ),
            (
                &[1000_u64.to_le_bytes(), [b'{'; 8]].concat(),
                "its header claims 1000 bytes",
            ),
            (
                &[u64::MAX.to_le_bytes(), [b'{'; 8]].concat(),
                "its header claims 18446744073709551615 bytes",
            ),
        ] {
            assert_eq!(problem(file), expected);
        }
    }

    #[test]
    fn a_file_that_shrinks_is_an_error_of_reading() {
        let whole = file("{}", 8);
        let error = TensorHeader::read(&whole[..9], 18).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
}
