//! Folders as sparsify writes and reads them: `cfg.json` and `sae.safetensors`.

use crate::files::{sync_dir, tensors_by_name, write_file, write_safetensors};
use crate::model::check_sizes;
use crate::{Sae, SaeConfig, SaeError};
use std::fs;
use std::path::Path;
use tch::Device;

/// Name of the settings' file.
pub const CONFIG_FILE: &str = "cfg.json";
/// Name of the weights' file.
pub const WEIGHTS_FILE: &str = "sae.safetensors";

impl Sae {
    /// Writes `cfg.json` and `sae.safetensors` into `dir`, each beside its place and then renamed.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn save_to_disk(&self, dir: &Path) -> Result<(), SaeError> {
        fs::create_dir_all(dir).map_err(SaeError::io("create", dir))?;
        write_safetensors(&self.named_weights(), &dir.join(WEIGHTS_FILE))?;
        let cfg = serde_json::to_vec(&self.cfg).expect("plain fields serialise to JSON");
        write_file(&dir.join(CONFIG_FILE), &cfg)?;
        sync_dir(dir)
    }

    /// Reads a folder that [`Sae::save_to_disk`] or sparsify wrote.
    ///
    /// # Errors
    /// A missing or damaged file, missing tensors, shapes other than `cfg.json` says, or sizes that no
    /// SAE has.
    pub fn load_from_disk(dir: &Path, device: Device) -> Result<Self, SaeError> {
        let cfg = read_config(&dir.join(CONFIG_FILE))?;
        let path = dir.join(WEIGHTS_FILE);
        let mut tensors = tensors_by_name(&path)?;
        check_sizes(&cfg)?;
        let [num_latents, d_in, d_out] =
            [cfg.resolved_num_latents(), cfg.d_in, cfg.d_out()].map(|n| n as i64);
        let mut take = |tensor: &'static str, expected: &[i64]| {
            let missing = || SaeError::MissingTensor {
                path: path.clone(),
                tensor,
            };
            let found = tensors.remove(tensor).ok_or_else(missing)?;
            if found.size() != expected {
                let (expected, got) = (expected.to_vec(), found.size());
                return Err(SaeError::Shape {
                    path: path.clone(),
                    tensor,
                    expected,
                    got,
                });
            }
            Ok(found.f_to_device(device)?)
        };
        Ok(Self {
            encoder_weight: take("encoder.weight", &[num_latents, d_in])?,
            encoder_bias: take("encoder.bias", &[num_latents])?,
            w_dec: take("W_dec", &[num_latents, d_out])?,
            b_dec: take("b_dec", &[d_out])?,
            w_skip: match cfg.skip_connection {
                true => Some(take("W_skip", &[d_out, d_in])?),
                false => None,
            },
            cfg,
        })
    }

    /// Loads every SAE folder below `dir`, in natural order of their names (`layers.2` before
    /// `layers.10`); folders without `cfg.json` are passed over.
    ///
    /// # Errors
    /// As [`Sae::load_from_disk`].
    pub fn load_many(dir: &Path, device: Device) -> Result<Vec<(String, Self)>, SaeError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(SaeError::io("read", dir))? {
            let entry = entry.map_err(SaeError::io("read", dir))?;
            if entry.path().join(CONFIG_FILE).is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort_by(|a, b| natord::compare(a, b));
        names
            .into_iter()
            .map(|name| Ok((name.clone(), Self::load_from_disk(&dir.join(name), device)?)))
            .collect()
    }
}

fn read_config(path: &Path) -> Result<SaeConfig, SaeError> {
    let text = fs::read(path).map_err(SaeError::io("read", path))?;
    serde_json::from_slice(&text).map_err(|source| SaeError::Config {
        path: path.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Tensor;
    use tempfile::tempdir;

    fn sae() -> Sae {
        Sae::new(SaeConfig::topk(4, 12, 2), 1, Device::Cpu).unwrap()
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempdir().unwrap();
        let saved = sae();
        saved.save_to_disk(dir.path()).unwrap();
        let loaded = Sae::load_from_disk(dir.path(), Device::Cpu).unwrap();
        assert_eq!(loaded.cfg, saved.cfg);
        for ((_, a), (_, b)) in loaded
            .named_weights()
            .into_iter()
            .zip(saved.named_weights())
        {
            assert!(a.equal(b));
        }
        let mut files: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        files.sort();
        assert_eq!(
            files,
            [CONFIG_FILE, WEIGHTS_FILE],
            "no temporary file stays behind"
        );
    }

    #[test]
    fn many_are_loaded_in_natural_order() {
        let dir = tempdir().unwrap();
        for name in ["layers.10", "layers.2", "layers.1"] {
            sae().save_to_disk(&dir.path().join(name)).unwrap();
        }
        fs::create_dir(dir.path().join("plots")).unwrap();
        let many = Sae::load_many(dir.path(), Device::Cpu).unwrap();
        let names: Vec<_> = many.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["layers.1", "layers.2", "layers.10"]);
    }

    #[test]
    fn damage_is_told_apart() {
        let dir = tempdir().unwrap();
        let load = || Sae::load_from_disk(dir.path(), Device::Cpu).unwrap_err();
        assert!(matches!(load(), SaeError::Io { .. }), "nothing there");
        sae().save_to_disk(dir.path()).unwrap();
        let weights = dir.path().join(WEIGHTS_FILE);
        let whole = fs::read(&weights).unwrap();
        fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
        assert!(matches!(load(), SaeError::Tensors { .. }), "truncated");
        let b_dec = Tensor::zeros([4], (tch::Kind::Float, Device::Cpu));
        write_safetensors(&[("b_dec", &b_dec)], &weights).unwrap();
        assert!(matches!(
            load(),
            SaeError::MissingTensor {
                tensor: "encoder.weight",
                ..
            }
        ));
        fs::write(&weights, &whole).unwrap();
        let cfg = SaeConfig {
            num_latents: 13,
            ..sae().cfg
        };
        fs::write(
            dir.path().join(CONFIG_FILE),
            serde_json::to_vec(&cfg).unwrap(),
        )
        .unwrap();
        assert!(matches!(
            load(),
            SaeError::Shape {
                tensor: "encoder.weight",
                ..
            }
        ));
        fs::write(dir.path().join(CONFIG_FILE), b"{}").unwrap();
        assert!(matches!(load(), SaeError::Config { .. }), "no d_in");
    }
}
