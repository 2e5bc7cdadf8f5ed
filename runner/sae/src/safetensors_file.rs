//! Safetensors files as they are written: the header is filled up with spaces, so that the tensors begin
//! where libtorch's own memory may begin and are mapped when they are loaded, not copied.

use serde_json::{Map, Value, json};
use std::io::Write;
use tch::{Device, Kind, TchError, Tensor};

/// Bytes at multiples of which libtorch's own memory begins. What a product rounds to depends on it: MKL
/// promises the same bits for the same numbers only if they begin at such multiples.
pub(crate) const ALIGNMENT: usize = 64;

/// Bytes that are written at a time.
const PIECE_BYTES: i64 = 16 << 20;

/// The header of a safetensors file.
#[derive(Debug, Default)]
pub struct SafetensorsHeader {
    entries: Map<String, Value>,
    n_data_bytes: u64,
}

impl SafetensorsHeader {
    /// One with `__metadata__`: an object of strings.
    pub fn with_metadata(metadata: Value) -> Self {
        let mut header = Self::default();
        header.entries.insert("__metadata__".into(), metadata);
        header
    }

    /// Adds a tensor after the earlier ones. `dtype`: as safetensors calls it.
    pub fn push(&mut self, name: &str, dtype: &str, shape: &[i64], n_bytes: u64) {
        let start = self.n_data_bytes;
        self.n_data_bytes += n_bytes;
        let offsets = [start, self.n_data_bytes];
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        self.entries.insert(name.into(), entry);
    }

    /// The file up to its data: a multiple of 64 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = serde_json::to_vec(&self.entries).expect("names and numbers are JSON");
        let length = size_of::<u64>();
        let end = (length + header.len()).next_multiple_of(ALIGNMENT);
        let mut bytes = ((end - length) as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.resize(end, b' ');
        bytes
    }
}

/// Writes all of a file. Widest numbers first, as every reader expects.
pub(crate) fn write(tensors: &[(&str, &Tensor)], file: &mut impl Write) -> Result<(), TchError> {
    let mut tensors = tensors.to_vec();
    tensors.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.kind().elt_size_in_bytes()));
    let mut header = SafetensorsHeader::default();
    for (name, tensor) in &tensors {
        let n_bytes = tensor.numel() * tensor.kind().elt_size_in_bytes();
        header.push(name, dtype(tensor.kind())?, &tensor.size(), n_bytes as u64);
    }
    file.write_all(&header.to_bytes())?;
    for (_, tensor) in tensors {
        write_numbers(tensor, file)?;
    }
    Ok(file.flush()?)
}

fn write_numbers(tensor: &Tensor, file: &mut impl Write) -> Result<(), TchError> {
    let flat = tensor.f_contiguous()?.f_view([tensor.numel() as i64])?;
    for piece in flat.f_view_dtype(Kind::Uint8)?.f_split(PIECE_BYTES, 0)? {
        let mut bytes = vec![0; piece.numel()];
        let here = piece.f_to_device(Device::Cpu)?;
        here.f_copy_data_u8(&mut bytes, piece.numel())?;
        file.write_all(&bytes)?;
    }
    Ok(())
}

/// What safetensors calls a kind.
fn dtype(kind: Kind) -> Result<&'static str, TchError> {
    Ok(match kind {
        Kind::Double => "F64",
        Kind::Float => "F32",
        Kind::Half => "F16",
        Kind::BFloat16 => "BF16",
        Kind::Int64 => "I64",
        Kind::Int => "I32",
        Kind::Int16 => "I16",
        Kind::Int8 => "I8",
        Kind::Uint8 => "U8",
        Kind::Bool => "BOOL",
        _ => {
            let problem = format!("safetensors has no dtype for {kind:?}");
            return Err(TchError::Convert(problem));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapped::MappedFile;
    use crate::{tensors_by_name, write_safetensors};

    #[test]
    fn what_is_written_is_read_by_the_library_and_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let floats = Tensor::arange(33, (Kind::Float, Device::Cpu));
        let all = [
            ("is_dead", floats.gt(4.0)),
            ("W_dec", floats.view([3, 11]).tr()),
            ("b_dec", floats.to_kind(Kind::BFloat16)),
            ("tokens_since_fired", floats.to_kind(Kind::Int64)),
            ("one", Tensor::from(2.5f64)),
            ("nothing", Tensor::zeros([0, 4], (Kind::Float, Device::Cpu))),
        ];
        let tensors: Vec<_> = all.iter().map(|(name, tensor)| (*name, tensor)).collect();
        write_safetensors(&tensors, &path).unwrap();
        let read = tensors_by_name(&path).unwrap();
        assert_eq!(read.len(), all.len());
        for (name, tensor) in &all {
            assert_eq!(read[*name].kind(), tensor.kind(), "{name}");
            assert!(read[*name].equal(tensor), "{name}");
        }
        let mapped = MappedFile::open(&path).unwrap();
        assert!(mapped.weights("W_dec", &[11, 3]).unwrap().equal(&all[1].1));
    }

    #[test]
    fn data_begin_aligned_whatever_the_names() {
        for n in 0..70 {
            let mut header = SafetensorsHeader::default();
            header.push(&"é".repeat(n), "F32", &[1], 4);
            let bytes = header.to_bytes();
            assert_eq!(bytes.len() % ALIGNMENT, 0);
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert_eq!(length as usize, bytes.len() - 8);
            let read: Value = serde_json::from_slice(&bytes[8..]).unwrap();
            assert_eq!(read["é".repeat(n)]["data_offsets"], json!([0, 4]));
        }
    }

    #[test]
    fn numbers_that_safetensors_has_no_name_for_are_refused() {
        let complex = Tensor::zeros([2], (Kind::ComplexFloat, Device::Cpu));
        let error = write(&[("x", &complex)], &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("ComplexFloat"), "{error}");
    }
}
