//! Crosscoders on disk, as crosscoder_learning's `CrossCoder` and `BatchTopKCrossCoder` have them:
//! `from_pretrained(folder, from_hub=True)` reads a folder that is written here.

use crate::atomic_file::{sync_dir, write_file, write_safetensors};
use crate::error::{inexpressible, without_decoder};
use crate::mapped::MappedFile;
use crate::placing::{no_decoder, placed};
use crate::{Activation, LoadOptions, Sae, SaeError};
use plan::{CrosscoderNorm, SaeLensMetadata};
use sae_files::{CONFIG_FILE, CROSSCODER_MODEL_FILE, CROSSCODER_WEIGHTS_FILE, CrosscoderConfig};
use serde_json::json;
use std::fs;
use std::path::Path;
use tch::{Kind, Tensor};

/// What is in the file for crosscoder_learning alone.
const OF_OTHERS: [&str; 2] = ["code_normalization_id", "k"];

impl Sae {
    /// Writes a crosscoder: `cfg.json`, `model.safetensors` and `config.json`, each next to its path and then renamed.
    ///
    /// # Errors
    /// Anything but a crosscoder with topk, relu or thresholds; a folder that cannot be written.
    pub fn save_crosscoder(&self, dir: &Path, metadata: &SaeLensMetadata) -> Result<(), SaeError> {
        let config = CrosscoderConfig::new(&self.cfg, metadata).ok_or_else(|| {
            let what = if self.cfg.is_crosscoder() {
                format!("a crosscoder with the activation {}", self.cfg.activation)
            } else {
                "an SAE that is not a crosscoder".to_owned()
            };
            inexpressible("crosscoder_learning", &what)
        })?;
        if !self.has_decoder() {
            return Err(without_decoder().into());
        }
        fs::create_dir_all(dir).map_err(SaeError::io("create", dir))?;
        let [(_, of_encoder), _, (_, of_decoder), (_, of_bias)] = config.shapes();
        let (n, d, latents) = (of_encoder[0], of_encoder[1], of_encoder[2]);
        let w_enc = self.encoder_weight.f_view([latents, n, d])?;
        let w_dec = self.w_dec.f_view([latents, n, d])?;
        let mut weights = vec![
            (
                "encoder.weight",
                w_enc.f_permute([1, 2, 0])?.f_contiguous()?,
            ),
            ("encoder.bias", self.bias_of_whole_input()?),
            (
                "decoder.weight",
                w_dec.f_permute([1, 0, 2])?.f_contiguous()?,
            ),
            ("decoder.bias", self.b_dec.f_view(&*of_bias)?),
        ];
        debug_assert_eq!(weights[2].1.size(), of_decoder);
        let threshold = match &self.threshold {
            Some(threshold) if self.cfg.is_decoupled() => Some(threshold.f_to_kind(Kind::Float)?),
            threshold => threshold.as_ref().map(one_or_all).transpose()?,
        };
        let norm = self.saved_norm();
        weights.push(("code_normalization_id", Tensor::from(norm_id(norm))));
        if let Some(threshold) = &threshold {
            // Without a meaning for thresholds; the class wants one.
            weights.push(("k", Tensor::from(1i64)));
            weights.push(("threshold", threshold.shallow_clone()));
        }
        let named: Vec<(&str, &Tensor)> = weights.iter().map(|(name, own)| (*name, own)).collect();
        write_safetensors(&named, &dir.join(CROSSCODER_WEIGHTS_FILE))?;
        if let Some(model) = self.model_config([n, d, latents], threshold.as_ref()) {
            write_file(
                &dir.join(CROSSCODER_MODEL_FILE),
                model.to_string().as_bytes(),
            )?;
        }
        let cfg = serde_json::to_vec(&config).expect("plain fields serialise to JSON");
        write_file(&dir.join(CONFIG_FILE), &cfg)?;
        sync_dir(dir)
    }

    /// What crosscoder_learning makes the model of; `None`: it has no such class.
    fn model_config(
        &self,
        [n, d, latents]: [i64; 3],
        threshold: Option<&Tensor>,
    ) -> Option<serde_json::Value> {
        let class = match (self.cfg.activation, threshold) {
            (Activation::Relu, _) => "CrossCoder",
            (Activation::JumpRelu, Some(threshold))
                if threshold.dim() == 0 || self.cfg.is_decoupled() =>
            {
                "BatchTopKCrossCoder"
            }
            _ => return None,
        };
        let mut model = json!({
            "dict_class": class,
            "activation_dim": d,
            "dict_size": latents,
            "num_layers": n,
            "code_normalization": norm_name(self.saved_norm()),
            "target_rms": null,
        });
        if class == "BatchTopKCrossCoder" {
            model["k"] = 1.into();
        }
        Some(model)
    }

    /// The norm that the file names: thresholds are compared with activations as they are, unless each hookpoint has its
    /// own.
    fn saved_norm(&self) -> CrosscoderNorm {
        match self.threshold {
            Some(_) if !self.cfg.is_decoupled() => CrosscoderNorm::None,
            _ => self.cfg.code_normalization,
        }
    }

    /// The encoder's bias, of an encoder that is applied to the input as it is.
    fn bias_of_whole_input(&self) -> Result<Tensor, SaeError> {
        if !self.cfg.subtracts_b_dec() {
            return Ok(self.encoder_bias.shallow_clone());
        }
        let of_b_dec = self.encoder_weight.f_mv(&self.b_dec)?;
        Ok(self.encoder_bias.f_sub(&of_b_dec)?)
    }
}

/// Reads a crosscoder's folder.
pub(crate) fn load(dir: &Path, options: &LoadOptions) -> Result<Sae, SaeError> {
    let config = CrosscoderConfig::of_folder(dir)?;
    let cfg = config.to_sae()?;
    let file = MappedFile::open(&dir.join(CROSSCODER_WEIGHTS_FILE))?;
    let [
        (w_enc, of_encoder),
        (b_enc, of_latents),
        (w_dec, of_decoder),
        (b_dec, of_bias),
    ] = config.shapes();
    let threshold_shape = config.threshold_shape(file.header());
    let mut used = vec![w_enc, b_enc, w_dec, b_dec];
    used.extend(OF_OTHERS);
    used.extend(threshold_shape.as_ref().map(|_| "threshold"));
    file.refuse_others(&used)?;
    let encoder = file.weights(w_enc, &of_encoder)?;
    let kind = options.kind.unwrap_or(encoder.kind());
    let place = |weights: &Tensor| placed(weights, kind, options.device);
    let (latents, width) = (of_latents[0], cfg.d_in as i64);
    let rows =
        |x: Tensor| -> Result<Tensor, SaeError> { Ok(x.f_contiguous()?.f_view([latents, width])?) };
    let threshold = match threshold_shape {
        None => None,
        Some(shape) => {
            let threshold = place(&file.weights("threshold", &shape)?)?;
            if cfg.is_decoupled() {
                Some(threshold)
            } else {
                Some(threshold.f_expand([latents], false)?.f_contiguous()?)
            }
        }
    };
    Ok(Sae {
        encoder_weight: place(&rows(encoder.f_permute([2, 0, 1])?)?)?,
        encoder_bias: place(&file.weights(b_enc, &of_latents)?)?,
        // With a threshold for each hookpoint, its norms say what is active.
        w_dec: if options.decoder || cfg.is_decoupled() {
            let decoder = file.weights(w_dec, &of_decoder)?;
            place(&rows(decoder.f_permute([1, 0, 2])?)?)?
        } else {
            no_decoder(width, kind, options.device)?
        },
        b_dec: place(&file.weights(b_dec, &of_bias)?.f_flatten(0, 1)?)?,
        w_skip: None,
        threshold,
        gate: None,
        cfg,
    })
}

/// One number if all are the same, as crosscoder_learning has it; else each.
fn one_or_all(threshold: &Tensor) -> Result<Tensor, SaeError> {
    let first = threshold.f_get(0)?;
    let are_equal = threshold.f_eq_tensor(&first)?.f_all()?;
    Ok(if are_equal.f_int64_value(&[])? != 0 {
        first.f_to_kind(Kind::Float)?
    } else {
        threshold.shallow_clone()
    })
}

/// Its number in crosscoder_learning.
fn norm_id(norm: CrosscoderNorm) -> i64 {
    match norm {
        CrosscoderNorm::Crosscoder => 1,
        CrosscoderNorm::Sae => 2,
        CrosscoderNorm::Mixed => 3,
        CrosscoderNorm::None => 4,
        CrosscoderNorm::Decoupled => 5,
    }
}

fn norm_name(norm: CrosscoderNorm) -> &'static str {
    match norm {
        CrosscoderNorm::Crosscoder => "CROSSCODER",
        CrosscoderNorm::Sae => "SAE",
        CrosscoderNorm::Mixed => "MIXED",
        CrosscoderNorm::None => "NONE",
        CrosscoderNorm::Decoupled => "DECOUPLED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SaeConfig;
    use crate::testing::noise;
    use tch::Device;
    use tempfile::tempdir;

    fn crosscoder(activation: Activation, apply_b_dec_to_input: bool) -> Sae {
        let cfg = SaeConfig {
            activation,
            hookpoints: ["layers.0", "layers.2", "layers.3"]
                .map(String::from)
                .to_vec(),
            normalize_decoder: false,
            apply_b_dec_to_input,
            ..SaeConfig::topk(12, 20, if activation.has_k() { 4 } else { 20 })
        };
        let mut sae = Sae::new(cfg, 0, Device::Cpu).unwrap();
        sae.w_dec = noise(&[20, 12], 2.0);
        sae.encoder_bias = noise(&[20], 3.0) * 0.1;
        sae.b_dec = noise(&[12], 4.0) * 0.3;
        sae.threshold = sae.threshold.map(|own| own.ones_like() * 0.2);
        sae
    }

    #[test]
    fn what_is_saved_computes_the_same_when_it_is_loaded() {
        let dir = tempdir().unwrap();
        let x = noise(&[30, 12], 1.0);
        for activation in [Activation::TopK, Activation::Relu, Activation::JumpRelu] {
            for apply_b_dec_to_input in [true, false] {
                let mut saved = crosscoder(activation, apply_b_dec_to_input);
                for are_equal in [true, false] {
                    if !are_equal {
                        saved.threshold = saved.threshold.map(|own| own * noise(&[20], 6.0).abs());
                    }
                    let metadata = SaeLensMetadata::default();
                    saved.save(dir.path(), &metadata).unwrap();
                    let loaded = Sae::load_from_disk(dir.path(), Device::Cpu).unwrap();
                    let [a, b] = [&saved, &loaded].map(|sae| sae.forward(&x).unwrap().sae_out);
                    assert!(a.allclose(&b, 1e-5, 1e-5, false), "{activation}");
                    assert_eq!(loaded.cfg.hookpoints, saved.cfg.hookpoints);
                    sae_files::check_sae(dir.path()).unwrap();
                    let found = sae_files::find_saes(dir.path()).unwrap();
                    assert_eq!(found[0].hookpoint, "layers.0+layers.2+layers.3");
                    let cfg = fs::read_to_string(dir.path().join(CONFIG_FILE)).unwrap();
                    assert!(cfg.contains(r#""d_in":12,"#), "of all hookpoints: {cfg}");
                }
            }
        }
    }

    #[test]
    fn thresholds_of_hookpoints_are_saved_as_crosscoder_learning_has_them() {
        let dir = tempdir().unwrap();
        let x = noise(&[30, 12], 1.0) * 2.0;
        for apply_b_dec_to_input in [true, false] {
            let mut saved = crosscoder(Activation::JumpRelu, apply_b_dec_to_input);
            saved.cfg.code_normalization = CrosscoderNorm::Decoupled;
            saved.threshold = Some(Tensor::from_slice(&[0.3f32, 1.2, 2.5]));
            let metadata = SaeLensMetadata {
                threshold_ema: Some(1.0),
                threshold_ema_by_hookpoint: vec![0.5, 1.0, 1.5],
                ..SaeLensMetadata::default()
            };
            saved.save(dir.path(), &metadata).unwrap();
            sae_files::check_sae(dir.path()).unwrap();
            assert_eq!(sae_files::threshold_ema(dir.path()), [0.5, 1.0, 1.5]);
            let loaded = Sae::load_from_disk(dir.path(), Device::Cpu).unwrap();
            assert!(
                loaded
                    .threshold
                    .as_ref()
                    .unwrap()
                    .equal(saved.threshold.as_ref().unwrap())
            );
            let [a, b] = [&saved, &loaded].map(|sae| sae.forward(&x).unwrap().sae_out);
            assert!(a.allclose(&b, 1e-5, 1e-5, false));
            // Without the decoder, nothing would say where a latent is active.
            let options = LoadOptions {
                decoder: false,
                ..LoadOptions::default()
            };
            let encoding = Sae::load_from_disk(dir.path(), options).unwrap();
            let [a, b] = [&encoding, &loaded].map(|sae| sae.encode(&x).unwrap());
            assert!(a.latent_acts.equal(&b.latent_acts));
            let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
            let model: serde_json::Value =
                serde_json::from_str(&read(CROSSCODER_MODEL_FILE)).unwrap();
            assert_eq!(model["dict_class"], "BatchTopKCrossCoder");
            assert_eq!(model["code_normalization"], "DECOUPLED");
            let weights = dir.path().join(CROSSCODER_WEIGHTS_FILE);
            let all = Tensor::read_safetensors(&weights).unwrap();
            let of = |name: &str| &all.iter().find(|(own, _)| own == name).unwrap().1;
            assert_eq!(of("code_normalization_id").int64_value(&[]), 5);
            assert_eq!(of("threshold").size(), [3]);
            let damaged = read(CONFIG_FILE).replace("jumprelu", "topk");
            fs::write(dir.path().join(CONFIG_FILE), damaged).unwrap();
            let error = Sae::load_from_disk(dir.path(), Device::Cpu).unwrap_err();
            assert!(
                error.to_string().contains("`code_normalization`"),
                "{error}"
            );
        }
    }

    #[test]
    fn other_layouts_and_activations_are_refused() {
        let dir = tempdir().unwrap();
        let sae = crosscoder(Activation::TopK, true);
        let message = |error: SaeError| error.to_string();
        let sparsify = message(sae.save_to_disk(dir.path()).unwrap_err());
        assert_eq!(sparsify, "sparsify's layout does not support a crosscoder");
        let saelens = sae.save_saelens(dir.path(), &SaeLensMetadata::default());
        let saelens = message(saelens.unwrap_err());
        assert_eq!(saelens, "SAELens's layout does not support a crosscoder");
        let gated = crosscoder(Activation::Gated, true);
        let gated = message(
            gated
                .save(dir.path(), &SaeLensMetadata::default())
                .unwrap_err(),
        );
        let cannot = "crosscoder_learning's layout does not support";
        assert_eq!(
            gated,
            format!("{cannot} a crosscoder with the activation gated")
        );
        let one = Sae::new(SaeConfig::topk(4, 8, 2), 0, Device::Cpu).unwrap();
        let one = message(
            one.save_crosscoder(dir.path(), &SaeLensMetadata::default())
                .unwrap_err(),
        );
        assert_eq!(one, format!("{cannot} an SAE that is not a crosscoder"));
    }
}
