//! The layers of a cross-layer transcoder: `W_enc_{i}.safetensors` and `W_dec_{i}.safetensors` for each.

use super::{LAYOUT, at_least_zero};
use crate::atomic_file::{sync_dir, write_safetensors};
use crate::error::{inexpressible, without_decoder};
use crate::mapped::MappedFile;
use crate::placing::placed;
use crate::{Activation, LoadOptions, Sae, SaeConfig, SaeError};
use fault::Fault;
use sae_files::cross_layer_files;
use std::fs;
use std::path::Path;

/// What its tensors are called.
struct Names {
    w_enc: String,
    b_enc: String,
    b_dec: String,
    threshold: String,
    w_dec: String,
}

impl Names {
    fn new(layer: usize) -> Self {
        let [w_enc, b_enc, b_dec, threshold, w_dec] =
            ["W_enc", "b_enc", "b_dec", "threshold", "W_dec"].map(|name| format!("{name}_{layer}"));
        Self {
            w_enc,
            b_enc,
            b_dec,
            threshold,
            w_dec,
        }
    }

    fn of_encoder(&self) -> [&str; 4] {
        [&self.w_enc, &self.b_enc, &self.b_dec, &self.threshold]
    }
}

impl Sae {
    /// Writes layer `layer` of a cross-layer transcoder into `dir`, as `load_clt` of circuit-tracer 0.5.0 reads it: in
    /// `W_enc_{layer}.safetensors` `W_enc_{layer}` `[num_latents, d]`, `b_enc_{layer}`, `b_dec_{layer}` `[d]`, which is
    /// of the layer's own output, and, if there are any, `threshold_{layer}`; in `W_dec_{layer}.safetensors`
    /// `W_dec_{layer}` `[num_latents, n_outputs, d]`.
    ///
    /// # Errors
    /// Anything but a layer with ReLU or JumpReLU and without a skip connection, between activations of one width; a
    /// folder that cannot be written.
    pub fn save_cross_layer(&self, dir: &Path, layer: usize) -> Result<(), SaeError> {
        let d = check(&self.cfg)? as i64;
        if !self.has_decoder() {
            return Err(without_decoder().into());
        }
        fs::create_dir_all(dir).map_err(SaeError::io("create", dir))?;
        let names = Names::new(layer);
        let b_dec = self.b_dec.f_narrow(0, 0, d)?;
        let threshold = at_least_zero(self.threshold.as_ref())?;
        let mut encoder = vec![
            (&*names.w_enc, &self.encoder_weight),
            (&names.b_enc, &self.encoder_bias),
            (&names.b_dec, &b_dec),
        ];
        encoder.extend(threshold.iter().map(|own| (&*names.threshold, own)));
        let w_dec = self.w_dec.f_view([self.num_latents() as i64, -1, d])?;
        let [of_encoder, of_decoder] = cross_layer_files(layer).map(|name| dir.join(name));
        write_safetensors(&encoder, &of_encoder)?;
        write_safetensors(&[(&names.w_dec, &w_dec)], &of_decoder)?;
        sync_dir(dir)
    }

    /// Reads what [`Sae::save_cross_layer`] wrote. `hookpoints`: what the layer writes to, which no file says.
    ///
    /// # Errors
    /// A missing or damaged file, or shapes that do not fit together.
    pub fn load_cross_layer(
        dir: &Path,
        layer: usize,
        hookpoints: &[String],
        options: &LoadOptions,
    ) -> Result<Self, SaeError> {
        let names = Names::new(layer);
        let [encoder, decoder] = cross_layer_files(layer).map(|name| dir.join(name));
        let (encoder, decoder) = (MappedFile::open(&encoder)?, MappedFile::open(&decoder)?);
        encoder.refuse_others(&names.of_encoder())?;
        decoder.refuse_others(&[&names.w_dec])?;
        // One that is missing is named when it is read.
        let [num_latents, d] = [&names.b_enc, &names.b_dec].map(|name| encoder.length(name).max(1));
        let has_threshold = encoder.has(&names.threshold);
        let n_outputs = hookpoints.len();
        let d_out = n_outputs.saturating_mul(d as usize);
        let cfg = SaeConfig {
            activation: if has_threshold {
                Activation::JumpRelu
            } else {
                Activation::Relu
            },
            normalize_decoder: false,
            transcode: true,
            d_out: (d_out != d as usize).then_some(d_out),
            hookpoints: hookpoints.to_vec(),
            ..SaeConfig::topk(d as usize, num_latents as usize, num_latents as usize)
        };
        cfg.check_sizes()?;
        let w_enc = encoder.weights(&names.w_enc, &[num_latents, d])?;
        let w_dec = decoder.weights(&names.w_dec, &[num_latents, n_outputs as i64, d])?;
        let own_b_dec = encoder.weights(&names.b_dec, &[d])?;
        let of_others =
            own_b_dec.f_new_zeros([d_out as i64 - d], (own_b_dec.kind(), own_b_dec.device()))?;
        let kind = options.kind.unwrap_or(w_enc.kind());
        let place = |weights: &_| placed(weights, kind, options.device);
        let threshold = has_threshold.then(|| encoder.weights(&names.threshold, &[num_latents]));
        Ok(Self {
            encoder_bias: place(&encoder.weights(&names.b_enc, &[num_latents])?)?,
            w_dec: place(&w_dec.f_view([num_latents, d_out as i64])?)?,
            b_dec: place(&tch::Tensor::f_cat(&[own_b_dec, of_others], 0)?)?,
            w_skip: None,
            threshold: threshold.transpose()?.map(|own| place(&own)).transpose()?,
            gate: None,
            encoder_weight: place(&w_enc)?,
            cfg,
        })
    }
}

/// The width of its input, and of each of its outputs.
fn check(cfg: &SaeConfig) -> Result<usize, Fault> {
    let refused = |what: &str| Err(inexpressible(LAYOUT, what));
    if !cfg.is_layer() {
        return refused("an SAE that is not a layer of a cross-layer transcoder");
    }
    let what = "a cross-layer transcoder";
    if !matches!(cfg.activation, Activation::Relu | Activation::JumpRelu) {
        return refused(&format!("{what} with the activation {}", cfg.activation));
    }
    if cfg.skip_connection {
        return refused(&format!("{what} with a skip connection, its `W_skip`"));
    }
    let (d, d_out) = (cfg.d_in, cfg.d_out() / cfg.n_outputs());
    if d == d_out {
        Ok(d)
    } else {
        refused(&format!("{what} from width {d} to {d_out}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors_by_name;
    use crate::testing::noise;
    use tch::{Device, Tensor};

    const N_LAYERS: usize = 3;
    const D: i64 = 6;

    fn hookpoints(layer: usize) -> Vec<String> {
        (layer..N_LAYERS)
            .map(|layer| format!("layers.{layer}.mlp"))
            .collect()
    }

    fn layer(activation: Activation, layer: usize) -> Sae {
        let hookpoints = hookpoints(layer);
        let d_out = D as usize * hookpoints.len();
        let cfg = SaeConfig {
            activation,
            transcode: true,
            normalize_decoder: false,
            d_out: (d_out != D as usize).then_some(d_out),
            hookpoints,
            ..SaeConfig::topk(D as usize, 20, 20)
        };
        let mut sae = Sae::new(cfg, 0, Device::Cpu).unwrap();
        for (index, weight) in sae.weights_mut().into_iter().enumerate() {
            // With thresholds of both signs.
            *weight = noise(&weight.size(), (10 * layer + index) as f64);
        }
        sae.limit_bias_to_own_output().unwrap();
        sae
    }

    /// `CrossLayerTranscoder.encode_layer` and `decode` of circuit-tracer, of the tensors of all layers' files.
    fn outputs_there(dir: &Path, inputs: &[Tensor]) -> Vec<Tensor> {
        let mut outputs: Vec<Tensor> = inputs.iter().map(Tensor::zeros_like).collect();
        for (i, x) in inputs.iter().enumerate() {
            let [encoder, decoder] =
                cross_layer_files(i).map(|name| tensors_by_name(&dir.join(name)).unwrap());
            let of = |name: &str| &encoder[&format!("{name}_{i}")];
            let pre_acts = x.linear(of("W_enc"), Some(of("b_enc")));
            let acts = match encoder.get(&format!("threshold_{i}")) {
                Some(threshold) => &pre_acts * pre_acts.gt_tensor(threshold),
                None => pre_acts.relu(),
            };
            outputs[i] += of("b_dec");
            for (offset, w_dec) in decoder[&format!("W_dec_{i}")].unbind(1).iter().enumerate() {
                outputs[i + offset] += acts.matmul(w_dec);
            }
        }
        outputs
    }

    #[test]
    fn all_layers_together_give_the_same_there_and_when_they_are_read_back() {
        let inputs: Vec<_> = (0..N_LAYERS)
            .map(|layer| noise(&[30, D], 90.0 + layer as f64) * 2.0)
            .collect();
        for activation in [Activation::Relu, Activation::JumpRelu] {
            let dir = tempfile::tempdir().unwrap();
            let mut expected: Vec<Tensor> = inputs.iter().map(Tensor::zeros_like).collect();
            for (i, x) in inputs.iter().enumerate() {
                let sae = layer(activation, i);
                sae.save_cross_layer(dir.path(), i).unwrap();
                let written = sae.forward(x).unwrap().sae_out;
                for (offset, part) in written.split(D, 1).iter().enumerate() {
                    expected[i + offset] += part;
                }
                let options = LoadOptions::default();
                let read = Sae::load_cross_layer(dir.path(), i, &hookpoints(i), &options).unwrap();
                assert_eq!(read.cfg, sae.cfg);
                assert!(read.forward(x).unwrap().sae_out.equal(&written));
                Sae::load_cross_layer(dir.path(), i, &hookpoints(i)[1..], &options).unwrap_err();
            }
            let there = outputs_there(dir.path(), &inputs);
            for (there, expected) in there.iter().zip(&expected) {
                assert!(there.allclose(expected, 1e-5, 1e-5, false), "{activation}");
            }
        }
    }

    #[test]
    fn what_it_cannot_hold_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let of = |change: fn(&mut SaeConfig)| {
            let mut cfg = layer(Activation::Relu, 1).cfg;
            change(&mut cfg);
            let sae = Sae::new(cfg, 0, Device::Cpu).unwrap();
            let error = sae.save_cross_layer(dir.path(), 1).unwrap_err().to_string();
            let what = error.strip_prefix("circuit-tracer's layout does not support ");
            what.unwrap_or_else(|| panic!("{error}")).to_owned()
        };
        let topk = of(|cfg| cfg.activation = Activation::TopK);
        assert_eq!(topk, "a cross-layer transcoder with the activation topk");
        let skip = of(|cfg| cfg.skip_connection = true);
        let expected = "a cross-layer transcoder with a skip connection, its `W_skip`";
        assert_eq!(skip, expected);
        let one = of(|cfg| cfg.hookpoints.clear());
        assert_eq!(
            one,
            "an SAE that is not a layer of a cross-layer transcoder"
        );
        let widths = of(|cfg| cfg.d_in = 5);
        assert_eq!(widths, "a cross-layer transcoder from width 5 to 6");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let single = layer(Activation::Relu, 2).save_circuit_tracer(dir.path(), 2);
        let expected = "circuit-tracer's layout does not support a layer of a cross-layer transcoder as a transcoder of one";
        assert_eq!(single.unwrap_err().to_string(), expected);
    }
}
