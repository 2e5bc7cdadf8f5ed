//! Transcoders in the layout of circuit-tracer, which draws attribution graphs: `layer_{i}.safetensors` for each layer's
//! MLP, next to a `config.yaml` for all of them. `cross_layer.rs`: those that write to later layers too.

mod cross_layer;

use crate::atomic_file::{sync_dir, write_safetensors};
use crate::error::{inexpressible, without_decoder};
use crate::mapped::MappedFile;
use crate::placing::placed;
use crate::{Activation, LoadOptions, Sae, SaeConfig, SaeError};
use fault::Fault;
use sae_files::circuit_tracer_file;
use std::fs;
use std::path::Path;
use tch::Tensor;

const LAYOUT: &str = "circuit-tracer";
const THRESHOLD: &str = "activation_function.threshold";
/// The tensors that a file may have.
const TENSORS: [&str; 6] = ["W_enc", "W_dec", "b_enc", "b_dec", "W_skip", THRESHOLD];

impl Sae {
    /// Writes `layer_{layer}.safetensors` into `dir`, as circuit-tracer's `SingleLayerTranscoder` has it: `W_enc`
    /// `[num_latents, d]`, `W_dec` `[num_latents, d]`, `b_enc`, `b_dec`, and, if there are any, `W_skip` `[d, d]` and
    /// `activation_function.threshold` `[num_latents]`.
    ///
    /// # Errors
    /// Anything but a transcoder with ReLU or JumpReLU between activations of one width; a folder that cannot be
    /// written.
    pub fn save_circuit_tracer(&self, dir: &Path, layer: usize) -> Result<(), SaeError> {
        self.check_for_circuit_tracer()?;
        if !self.has_decoder() {
            return Err(without_decoder().into());
        }
        fs::create_dir_all(dir).map_err(SaeError::io("create", dir))?;
        let mut weights = vec![
            ("W_enc", &self.encoder_weight),
            ("W_dec", &self.w_dec),
            ("b_enc", &self.encoder_bias),
            ("b_dec", &self.b_dec),
        ];
        weights.extend(self.w_skip.iter().map(|w_skip| ("W_skip", w_skip)));
        let threshold = at_least_zero(self.threshold.as_ref())?;
        weights.extend(threshold.iter().map(|own| (THRESHOLD, own)));
        write_safetensors(&weights, &dir.join(circuit_tracer_file(layer)))?;
        sync_dir(dir)
    }

    fn check_for_circuit_tracer(&self) -> Result<(), Fault> {
        let SaeConfig {
            activation,
            transcode,
            d_in,
            ..
        } = self.cfg;
        let refused = |what: &str| Err(inexpressible(LAYOUT, what));
        if !transcode {
            return refused("an SAE that is not a transcoder");
        }
        if self.cfg.is_layer() {
            return refused("a layer of a cross-layer transcoder as a transcoder of one");
        }
        if !matches!(activation, Activation::Relu | Activation::JumpRelu) {
            return refused(&format!("a transcoder with the activation {activation}"));
        }
        match self.cfg.d_out() {
            d_out if d_out == d_in => Ok(()),
            d_out => refused(&format!("a transcoder from width {d_in} to {d_out}")),
        }
    }

    /// Reads what [`Sae::save_circuit_tracer`] wrote.
    ///
    /// # Errors
    /// A missing or damaged file, or shapes that do not fit together.
    pub fn load_circuit_tracer(
        dir: &Path,
        layer: usize,
        options: &LoadOptions,
    ) -> Result<Self, SaeError> {
        let file = MappedFile::open(&dir.join(circuit_tracer_file(layer)))?;
        file.refuse_others(&TENSORS)?;
        // One that is missing is named when it is read.
        let [num_latents, d] = ["b_enc", "b_dec"].map(|name| file.length(name).max(1));
        let has = |name| file.has(name);
        let cfg = SaeConfig {
            activation: if has(THRESHOLD) {
                Activation::JumpRelu
            } else {
                Activation::Relu
            },
            normalize_decoder: false,
            skip_connection: has("W_skip"),
            transcode: true,
            ..SaeConfig::topk(d as usize, num_latents as usize, num_latents as usize)
        };
        cfg.check_sizes()?;
        let encoder_weight = file.weights("W_enc", &[num_latents, d])?;
        let kind = options.kind.unwrap_or(encoder_weight.kind());
        let take = |name: &'static str, shape: &[i64]| {
            placed(&file.weights(name, shape)?, kind, options.device)
        };
        let maybe =
            |name: &'static str, shape: &[i64]| has(name).then(|| take(name, shape)).transpose();
        Ok(Self {
            encoder_bias: take("b_enc", &[num_latents])?,
            w_dec: take("W_dec", &[num_latents, d])?,
            b_dec: take("b_dec", &[d])?,
            w_skip: maybe("W_skip", &[d, d])?,
            threshold: maybe(THRESHOLD, &[num_latents])?,
            gate: None,
            encoder_weight: placed(&encoder_weight, kind, options.device)?,
            cfg,
        })
    }
}

/// Thresholds, for circuit-tracer: there, a latent above a negative threshold may be negative.
fn at_least_zero(threshold: Option<&Tensor>) -> Result<Option<Tensor>, SaeError> {
    let threshold = threshold.map(|own| own.f_clamp_min(0.0));
    Ok(threshold.transpose()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors_by_name;
    use crate::testing::noise;
    use tch::Device;

    fn transcoder(activation: Activation, skip_connection: bool) -> Sae {
        let cfg = SaeConfig {
            activation,
            skip_connection,
            transcode: true,
            normalize_decoder: false,
            ..SaeConfig::topk(6, 20, 20)
        };
        let mut sae = Sae::new(cfg, 0, Device::Cpu).unwrap();
        for (seed, weight) in sae.weights_mut().into_iter().enumerate() {
            *weight = noise(&weight.size(), seed as f64);
        }
        sae
    }

    /// `SingleLayerTranscoder.forward` of circuit-tracer, of a file's tensors.
    fn forward_there(dir: &Path, layer: usize, x: &Tensor) -> Tensor {
        let tensors = tensors_by_name(&dir.join(circuit_tracer_file(layer))).unwrap();
        let pre_acts = x.linear(&tensors["W_enc"], Some(&tensors["b_enc"]));
        let acts = match tensors.get(THRESHOLD) {
            Some(threshold) => &pre_acts * pre_acts.gt_tensor(threshold),
            None => pre_acts.relu(),
        };
        let out = acts.matmul(&tensors["W_dec"]) + &tensors["b_dec"];
        match tensors.get("W_skip") {
            Some(w_skip) => out + x.matmul(&w_skip.tr()),
            None => out,
        }
    }

    #[test]
    fn transcoders_compute_the_same_there_and_when_they_are_read_back() {
        let x = noise(&[30, 6], 9.0) * 2.0;
        for activation in [Activation::Relu, Activation::JumpRelu] {
            for skip_connection in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                // With thresholds of both signs.
                let sae = transcoder(activation, skip_connection);
                sae.save_circuit_tracer(dir.path(), 3).unwrap();
                let expected = sae.forward(&x).unwrap().sae_out;
                let there = forward_there(dir.path(), 3, &x);
                assert!(there.allclose(&expected, 1e-5, 1e-5, false));
                let options = LoadOptions::default();
                let read = Sae::load_circuit_tracer(dir.path(), 3, &options).unwrap();
                assert_eq!(read.cfg, sae.cfg);
                assert!(read.forward(&x).unwrap().sae_out.equal(&expected));
                let missing = Sae::load_circuit_tracer(dir.path(), 2, &options).unwrap_err();
                assert!(
                    missing.to_string().contains("layer_2.safetensors"),
                    "{missing}"
                );
            }
        }
    }

    #[test]
    fn what_it_cannot_hold_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let of = |change: fn(&mut SaeConfig)| {
            let mut cfg = transcoder(Activation::Relu, false).cfg;
            change(&mut cfg);
            let sae = Sae::new(cfg, 0, Device::Cpu).unwrap();
            let error = sae
                .save_circuit_tracer(dir.path(), 0)
                .unwrap_err()
                .to_string();
            let what = error.strip_prefix("circuit-tracer's layout does not support ");
            what.unwrap_or_else(|| panic!("{error}")).to_owned()
        };
        let topk = of(|cfg| cfg.activation = Activation::TopK);
        assert_eq!(topk, "a transcoder with the activation topk");
        let gated = of(|cfg| cfg.activation = Activation::Gated);
        assert_eq!(gated, "a transcoder with the activation gated");
        assert_eq!(
            of(|cfg| cfg.transcode = false),
            "an SAE that is not a transcoder"
        );
        assert_eq!(
            of(|cfg| cfg.d_out = Some(5)),
            "a transcoder from width 6 to 5"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let sae = transcoder(Activation::JumpRelu, true);
        sae.save_circuit_tracer(dir.path(), 0).unwrap();
        let path = dir.path().join(circuit_tracer_file(0));
        let whole = tensors_by_name(&path).unwrap();
        let more = noise(&[3], 1.0);
        for (name, tensor) in [
            ("b_enc", None),
            ("W_dec", None),
            ("b_dec", Some(&more)),
            ("k", Some(&more)),
        ] {
            let mut weights: Vec<_> = whole
                .iter()
                .filter(|(own, _)| *own != name)
                .map(|(own, weight)| (own.as_str(), weight))
                .collect();
            weights.extend(tensor.map(|tensor| (name, tensor)));
            write_safetensors(&weights, &path).unwrap();
            Sae::load_circuit_tracer(dir.path(), 0, &LoadOptions::default()).unwrap_err();
        }
    }
}
