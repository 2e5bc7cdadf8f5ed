//! What is wrong with the header of a safetensors file, tensor by tensor.

use safetensors::tensor::TensorInfo;
use serde_json::{Map, Value};

/// Bytes of the header's length, at the start of a safetensors file.
pub(crate) const LENGTH_BYTES: usize = size_of::<u64>();

/// The longest header that the library `safetensors` reads, in bytes.
const MAX_HEADER_BYTES: usize = 100_000_000;

/// The entry of a header that is no tensor.
const METADATA: &str = "__metadata__";

/// A tensor whose entry in the header cannot be right.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadTensor {
    pub(crate) name: String,
    /// What is wrong with it, to follow the name.
    pub(crate) problem: String,
}

/// The first tensor, by its place in `file`, that the header describes wrongly. `None` too if there
/// is no header to be read: that is left to the library `safetensors`.
///
/// To be asked before that library: it does not always say which tensor is at fault, and adds to the
/// offsets before it compares them with the length of the file, which can overflow.
pub(crate) fn first_bad_tensor(file: &[u8]) -> Option<BadTensor> {
    let (header, n_data_bytes) = split(file)?;
    let entries: Map<String, Value> = serde_json::from_slice(header).ok()?;
    let mut tensors = match read_tensors(entries) {
        Ok(tensors) => tensors,
        Err(bad) => return Some(bad),
    };
    tensors.sort_by(|(a_name, a), (b_name, b)| {
        (a.data_offsets, a_name).cmp(&(b.data_offsets, b_name))
    });
    let mut next = 0;
    for (name, info) in tensors {
        if let Some(problem) = problem_of(&info, next, n_data_bytes) {
            return Some(BadTensor { name, problem });
        }
        next = info.data_offsets.1;
    }
    None
}

/// The header, and how many bytes follow it.
fn split(file: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = file.split_first_chunk::<LENGTH_BYTES>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let header = rest.get(..length.min(MAX_HEADER_BYTES + 1))?;
    (header.len() == length).then(|| (header, rest.len() - length))
}

fn read_tensors(entries: Map<String, Value>) -> Result<Vec<(String, TensorInfo)>, BadTensor> {
    let tensors = entries.into_iter().filter(|(name, _)| name != METADATA);
    let read = |(name, entry): (String, Value)| match serde_json::from_value(entry) {
        Ok(info) => Ok((name, info)),
        Err(error) => Err(BadTensor {
            name,
            problem: format!("is described wrongly: {error}"),
        }),
    };
    tensors.map(read).collect()
}

/// `next`: where the data of the tensor before it ends.
fn problem_of(info: &TensorInfo, next: usize, n_data_bytes: usize) -> Option<String> {
    let (start, end) = info.data_offsets;
    if start > end {
        return Some(format!("begins at byte {start} and ends at byte {end}"));
    }
    if end > n_data_bytes {
        return Some(format!(
            "ends at byte {end} of the data, of which there are {n_data_bytes}"
        ));
    }
    if start != next {
        return Some(format!(
            "begins at byte {start} of the data, where byte {next} is the next"
        ));
    }
    let n_bytes = end - start;
    match shape_bytes(info) {
        Some(expected) if expected == n_bytes => None,
        Some(expected) => Some(format!(
            "has {n_bytes} bytes, but {expected} by its shape and dtype"
        )),
        None => Some("has a shape that is no number of bytes".into()),
    }
}

fn shape_bytes(info: &TensorInfo) -> Option<usize> {
    let dims = info.shape.iter().copied();
    let n_elements = dims.clone().try_fold(1, usize::checked_mul)?;
    let n_bits = n_elements.checked_mul(info.dtype.bitsize())?;
    n_bits.is_multiple_of(8).then_some(n_bits / 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use files::testing::any_bytes;
    use proptest::prelude::*;
    use safetensors::SafeTensors;
    use serde_json::json;

    /// `n_data_bytes` zeros after `header`.
    fn file(header: &str, n_data_bytes: usize) -> Vec<u8> {
        let length = (header.len() as u64).to_le_bytes();
        [length.as_slice(), header.as_bytes(), &vec![0; n_data_bytes]].concat()
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
        assert_eq!(first_bad_tensor(&file(&header.to_string(), 12)), None);
        assert_eq!(first_bad_tensor(&file("{}", 0)), None);
    }

    #[test]
    fn each_fault_names_its_tensor() {
        let huge = 1 << 32;
        for (header, name, problem) in [
            (
                json!({"a": f32s(&[2], 0, 8), "b": f32s(&[1], 8, 12)}),
                "b",
                "ends at byte 12 of the data, of which there are 8",
            ),
            (
                json!({"a": f32s(&[1], 8, 4)}),
                "a",
                "begins at byte 8 and ends at byte 4",
            ),
            (
                json!({"a": f32s(&[3], 0, 8)}),
                "a",
                "has 8 bytes, but 12 by its shape and dtype",
            ),
            (
                json!({"a": f32s(&[huge, huge], 0, 8)}),
                "a",
                "has a shape that is no number of bytes",
            ),
            // Overlapping, and with a gap.
            (
                json!({"b": f32s(&[1], 4, 8), "a": f32s(&[2], 0, 8)}),
                "b",
                "begins at byte 4 of the data, where byte 8 is the next",
            ),
            (
                json!({"a": f32s(&[1], 4, 8)}),
                "a",
                "begins at byte 4 of the data, where byte 0 is the next",
            ),
        ] {
            let bad = first_bad_tensor(&file(&header.to_string(), 8)).unwrap();
            assert_eq!((bad.name.as_str(), bad.problem.as_str()), (name, problem));
        }
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
            let bad = first_bad_tensor(&file(&header, 8)).unwrap();
            assert_eq!(bad.name, "b", "{header}");
            assert!(bad.problem.starts_with("is described wrongly: "), "{bad:?}");
        }
    }

    #[test]
    fn without_a_header_there_is_no_tensor() {
        for file in [
            &b"1234567"[..],
            &file("not JSON", 8),
            &file("[]", 8),
            &[1000_u64.to_le_bytes(), [b'{'; 8]].concat(),
            &[u64::MAX.to_le_bytes(), [b'{'; 8]].concat(),
        ] {
            assert_eq!(first_bad_tensor(file), None, "{file:?}");
        }
    }

    fn sound_file() -> Vec<u8> {
        let header = json!({
            METADATA: {"format": "pt"},
            "a": f32s(&[2], 0, 8),
            "b": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [8, 12]},
        });
        file(&header.to_string(), 12)
    }

    proptest! {
        #[test]
        fn any_bytes_without_a_bad_tensor_are_the_library_s_to_read(bytes in any_bytes(vec![sound_file()])) {
            if first_bad_tensor(&bytes).is_none()
                && let Ok(file) = SafeTensors::deserialize(&bytes)
            {
                for (_, tensor) in file.tensors() {
                    let n_elements: usize = tensor.shape().iter().product();
                    prop_assert_eq!(tensor.data().len() * 8, n_elements * tensor.dtype().bitsize());
                }
            }
        }
    }
}
