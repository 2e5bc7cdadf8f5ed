//! Folders as sparsify writes and reads them: `cfg.json` and `sae.safetensors`. Those of SAELens are read
//! too, see saelens.rs.

use crate::atomic_file::{sync_dir, write_file, write_safetensors};
use crate::error::{inexpressible, without_decoder};
use crate::folding::bias_after_b_dec;
use crate::mapped::MappedFile;
use crate::placing::{no_decoder, placed};
use crate::{LoadOptions, Sae, SaeError, crosscoder, saelens};
use plan::SaeLensMetadata;
use sae_files::{CONFIG_FILE, SaeConfig, WEIGHTS_FILE, is_crosscoder_folder, is_saelens_folder};
use std::fs;
use std::path::Path;

impl Sae {
    /// Writes `cfg.json` and `sae.safetensors` into `dir`, each next to its path and then renamed.
    ///
    /// # Errors
    /// A folder that cannot be written, or an SAE that sparsify has no kind for.
    pub fn save_to_disk(&self, dir: &Path) -> Result<(), SaeError> {
        if self.cfg.is_crosscoder() {
            return Err(inexpressible("sparsify", "a crosscoder").into());
        }
        if !self.cfg.activation.has_k() {
            let activation = format!("the activation {}", self.cfg.activation);
            return Err(inexpressible("sparsify", &activation).into());
        }
        if !self.has_decoder() {
            return Err(without_decoder().into());
        }
        fs::create_dir_all(dir).map_err(SaeError::io("create", dir))?;
        let mut weights = self.named_weights();
        let bias;
        if !self.cfg.apply_b_dec_to_input && !self.cfg.transcode {
            // Where it is read, `b_dec` is always subtracted.
            bias = bias_after_b_dec(&self.encoder_weight, &self.encoder_bias, &self.b_dec)?;
            let own = weights.iter_mut().find(|(name, _)| *name == "encoder.bias");
            own.expect("every SAE has it").1 = &bias;
        }
        write_safetensors(&weights, &dir.join(WEIGHTS_FILE))?;
        let cfg = serde_json::to_vec(&self.cfg).expect("plain fields serialise to JSON");
        write_file(&dir.join(CONFIG_FILE), &cfg)?;
        sync_dir(dir)
    }

    /// As [`Sae::save_to_disk`] if sparsify has the activation, else as [`Sae::save_saelens`]; a crosscoder as
    /// crosscoder_learning has it. What neither has is
    /// written in SAELens's layout with an architecture of our own, which only [`Sae::load_from_disk`] and the package
    /// for Python read.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn save(&self, dir: &Path, metadata: &SaeLensMetadata) -> Result<(), SaeError> {
        if self.cfg.is_crosscoder() {
            self.save_crosscoder(dir, metadata)
        } else if self.cfg.activation.has_k() {
            self.save_to_disk(dir)
        } else {
            self.save_own(dir, metadata)
        }
    }

    /// Reads a folder that [`Sae::save_to_disk`], sparsify, its predecessor `sae` or SAELens wrote; of
    /// SAELens's kinds, those that [`Sae`] computes: `topk`, `standard`, `jumprelu`, `gated`, `batchtopk` with
    /// its threshold, and transcoders. What SAELens does to the pre-activations beyond that is folded
    /// into the weights.
    ///
    /// On the CPU, weights stay in the file, which is mapped, and a page is read when something computes
    /// with it; the file must not be cut off meanwhile. Copied are weights that do not begin at a multiple
    /// of 64 bytes in the file, which those written here do, and SAELens's encoders, which are transposed:
    /// so what an SAE computes does not depend on where its weights come from, to the bit.
    ///
    /// # Errors
    /// A missing or damaged file, missing tensors, shapes other than `cfg.json` says, sizes that no
    /// SAE has, or a setting of another kind of SAE.
    pub fn load_from_disk(dir: &Path, options: impl Into<LoadOptions>) -> Result<Self, SaeError> {
        let options = options.into();
        if is_saelens_folder(dir) {
            saelens::load(dir, &options)
        } else if is_crosscoder_folder(dir) {
            crosscoder::load(dir, &options)
        } else {
            load(dir, &options)
        }
    }
}

/// Reads a folder in sparsify's layout.
fn load(dir: &Path, options: &LoadOptions) -> Result<Sae, SaeError> {
    let cfg = SaeConfig::of_folder(dir)?;
    let file = MappedFile::open(&dir.join(WEIGHTS_FILE))?;
    file.refuse_others(&cfg.tensors())?;
    let mapped = |tensor| file.weights(tensor, &cfg.shape(tensor));
    let encoder_weight = mapped("encoder.weight")?;
    let kind = options.kind.unwrap_or(encoder_weight.kind());
    let take = |tensor| placed(&mapped(tensor)?, kind, options.device);
    Ok(Sae {
        encoder_bias: take("encoder.bias")?,
        w_dec: if options.decoder {
            take("W_dec")?
        } else {
            no_decoder(cfg.d_out() as i64, kind, options.device)?
        },
        b_dec: take("b_dec")?,
        w_skip: if cfg.skip_connection {
            Some(take("W_skip")?)
        } else {
            None
        },
        threshold: None,
        gate: None,
        encoder_weight: placed(&encoder_weight, kind, options.device)?,
        cfg,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;
    use fault::Remedy;
    use tch::{Device, Kind, Tensor};
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
    fn what_is_loaded_computes_the_same_bits() {
        let dir = tempdir().unwrap();
        for (d_in, num_latents) in [(4, 12), (7, 33), (64, 512)] {
            let saved = Sae::new(SaeConfig::topk(d_in, num_latents, 3), 1, Device::Cpu).unwrap();
            saved.save_to_disk(dir.path()).unwrap();
            let loaded = Sae::load_from_disk(dir.path(), Device::Cpu).unwrap();
            for n_tokens in [1, 10, 300] {
                let x = noise(&[n_tokens, d_in as i64], 9.0);
                let [a, b] = [&saved, &loaded].map(|sae| sae.forward(&x).unwrap());
                assert!(a.sae_out.equal(&b.sae_out), "{d_in}, {n_tokens}");
            }
        }
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
        assert!(load().to_string().contains("cannot "), "nothing there");
        sae().save_to_disk(dir.path()).unwrap();
        let weights = dir.path().join(WEIGHTS_FILE);
        let whole = fs::read(&weights).unwrap();
        fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
        assert!(load().to_string().contains("tensor `"), "truncated");
        let b_dec = Tensor::zeros([4], (Kind::Float, Device::Cpu));
        write_safetensors(&[("b_dec", &b_dec)], &weights).unwrap();
        let message = load().to_string();
        assert!(
            message.ends_with("has no tensor `encoder.weight`"),
            "{message}"
        );
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
        let message = load().to_string();
        assert!(
            message.starts_with("tensor `encoder.weight` of"),
            "{message}"
        );
        assert!(message.contains("has shape"), "{message}");
        fs::write(dir.path().join(CONFIG_FILE), b"{}").unwrap();
        assert!(
            load().to_string().contains("is not an SAE configuration"),
            "no d_in"
        );
    }

    #[test]
    fn a_pointer_of_git_lfs_is_called_that() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12345\n";
        for file in [CONFIG_FILE, WEIGHTS_FILE] {
            let dir = tempdir().unwrap();
            sae().save_to_disk(dir.path()).unwrap();
            fs::write(dir.path().join(file), pointer).unwrap();
            let error = Sae::load_from_disk(dir.path(), Device::Cpu).unwrap_err();
            assert!(error.to_string().contains("cannot "), "{error:?}");
            assert_eq!(error.hint().unwrap(), files::LFS_HINT);
        }
    }

    #[test]
    fn tensors_that_the_settings_do_not_use_are_refused_by_name() {
        let dir = tempdir().unwrap();
        let saved = sae();
        for (tensor, shape) in [("W_skip", &[4, 4][..]), ("threshold", &[12]), ("x", &[])] {
            saved.save_to_disk(dir.path()).unwrap();
            let more = noise(shape, 1.0);
            let mut all = saved.named_weights();
            all.push((tensor, &more));
            write_safetensors(&all, &dir.path().join(WEIGHTS_FILE)).unwrap();
            let error = Sae::load_from_disk(dir.path(), Device::Cpu).unwrap_err();
            let end = format!("has no use for: `{tensor}`");
            assert!(error.to_string().ends_with(&end), "{error}");
        }
    }
}
