//! How often latents fire: the file that an evaluation writes for each SAE.

use fault::Fault;
use files::TensorHeader;
use safetensors::Dtype;
use std::path::Path;

/// The tensor of such a file: `[num_latents]`, float32, the fraction of the evaluated tokens on which each
/// latent's activation is above 0.
pub const FIRING_DENSITY: &str = "firing_density";

/// More bytes than the densities of any SAE take.
const MAX_BYTES: u64 = 1 << 30;

/// The firing density of each latent.
///
/// # Errors
/// A missing or damaged file.
pub fn read_density(path: &Path) -> Result<Vec<f32>, Fault> {
    let bytes = files::read(path, MAX_BYTES).map_err(Fault::io("read", path))?;
    let damaged = |why: &str| Fault::input(format!("`{}` is damaged: {why}", path.display()));
    let header = TensorHeader::read(bytes.as_slice(), bytes.len() as u64)
        .map_err(|error| damaged(&error.to_string()))?;
    let density = header
        .info(FIRING_DENSITY)
        .ok_or_else(|| damaged(&format!("it has no tensor `{FIRING_DENSITY}`")))?;
    if density.dtype != Dtype::F32 {
        return Err(damaged("its numbers are not float32"));
    }
    let range = header.bytes_of(density);
    let (numbers, _) = bytes[range.start as usize..range.end as usize].as_chunks();
    Ok(numbers.iter().copied().map(f32::from_le_bytes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    #[test]
    fn densities_are_read_and_damage_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let write = |name: &str, dtype| {
            let bytes: Vec<u8> = [0.5f32, 0.0]
                .into_iter()
                .flat_map(f32::to_le_bytes)
                .collect();
            let view = TensorView::new(dtype, vec![bytes.len() * 8 / dtype.bitsize()], &bytes);
            safetensors::serialize_to_file([(name, view.unwrap())], None, &path).unwrap();
        };
        write(FIRING_DENSITY, Dtype::F32);
        assert_eq!(read_density(&path).unwrap(), [0.5, 0.0]);
        for (name, dtype) in [("other", Dtype::F32), (FIRING_DENSITY, Dtype::F16)] {
            write(name, dtype);
            let error = read_density(&path).unwrap_err().to_string();
            assert!(error.contains("a.safetensors` is damaged"), "{error}");
        }
        std::fs::write(&path, b"rubbish").unwrap();
        let error = read_density(&path).unwrap_err().to_string();
        assert!(error.contains("a.safetensors` is damaged"), "{error}");
    }
}
