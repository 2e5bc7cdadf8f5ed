//! The autoencoder itself: `encode`, `decode`, `forward`.

use crate::encoded::Encoded;
use crate::error::without_decoder;
use crate::kernels;
use crate::{Activation, SaeConfig, SaeError, with_seed};
use fault::Fault;
use tch::{Device, Kind, Tensor};

/// Bytes of pre-activations that are in memory at the same time: enough for a product at full speed.
const PRE_ACTS_BYTES: i64 = 1 << 30;

/// A k-sparse autoencoder, or a transcoder, which predicts a module's output from its input.
///
/// `latents = topk(relu(W_enc (x - b_dec) + b_enc))`, `sae_out = latents W_dec + b_dec`; a transcoder
/// does not subtract `b_dec`, and a skip connection adds `W_skip x`.
#[derive(Debug)]
pub struct Sae {
    /// The settings in `cfg.json`.
    pub cfg: SaeConfig,
    /// `encoder.weight`: `[num_latents, d_in]`.
    pub encoder_weight: Tensor,
    /// `encoder.bias`: `[num_latents]`.
    pub encoder_bias: Tensor,
    /// `[num_latents, d_out]`; `[0, d_out]` if it was not loaded.
    pub w_dec: Tensor,
    /// `[d_out]`.
    pub b_dec: Tensor,
    /// `[d_out, d_in]`; only with a skip connection.
    pub w_skip: Option<Tensor>,
    /// Below or at which a latent is not active: `[num_latents]`; only with [`Activation::JumpRelu`]. Where the
    /// hookpoints of a crosscoder choose their latents apart, what activations times norms are compared with at each:
    /// `[n_hookpoints]`.
    pub threshold: Option<Tensor>,
    /// What magnitudes are made with; only with [`Activation::Gated`], where `encoder_bias` is that of the gate.
    pub gate: Option<Gate>,
}

/// What makes the magnitude of a gated SAE's latent from the gate's weights: `e^r_mag (W_enc c) + b_mag`.
#[derive(Debug)]
pub struct Gate {
    /// `[num_latents]`.
    pub b_mag: Tensor,
    /// `[num_latents]`.
    pub r_mag: Tensor,
}

impl Gate {
    pub(crate) fn weights(&self) -> [&Tensor; 2] {
        [&self.b_mag, &self.r_mag]
    }

    pub(crate) fn weights_mut(&mut self) -> [&mut Tensor; 2] {
        [&mut self.b_mag, &mut self.r_mag]
    }
}

/// What [`Sae::forward`] gives.
#[derive(Debug)]
pub struct Reconstruction {
    /// `[n_tokens, d_in]`.
    pub sae_out: Tensor,
    /// The latents it was made of.
    pub encoded: Encoded,
}

impl Sae {
    /// A fresh autoencoder, its weights drawn as sparsify draws them from `seed`: `encoder.weight`
    /// as `torch.nn.Linear` does (uniform within `1 / sqrt(d_in)`), biases zero, the decoder a
    /// copy of the encoder, row-normalised if so configured. A transcoder's decoder is zero, and so is
    /// a skip connection.
    ///
    /// Sets libtorch's global generator. Weights are drawn on the CPU, so every device starts from
    /// the same numbers.
    ///
    /// # Errors
    /// Impossible sizes, or too little memory.
    pub fn new(cfg: SaeConfig, seed: i64, device: Device) -> Result<Self, SaeError> {
        cfg.check_sizes()?;
        let [num_latents, d_in, d_out] =
            [cfg.resolved_num_latents(), cfg.d_in, cfg.d_out()].map(|n| n as i64);
        let encoder_weight = kaiming_uniform([num_latents, d_in], seed)?.f_to_device(device)?;
        let zeros = |shape: &[i64]| Tensor::f_zeros(shape, (Kind::Float, device));
        let w_skip = cfg.skip_connection.then(|| zeros(&[d_out, d_in]));
        let mut sae = Self {
            w_dec: if cfg.transcode {
                zeros(&[num_latents, d_out])?
            } else {
                encoder_weight.f_detach_copy()?
            },
            encoder_weight,
            encoder_bias: zeros(&[num_latents])?,
            b_dec: zeros(&[d_out])?,
            w_skip: w_skip.transpose()?,
            threshold: match cfg.activation {
                Activation::JumpRelu if cfg.is_decoupled() => {
                    Some(zeros(&[cfg.n_outputs() as i64])?)
                }
                Activation::JumpRelu => Some(zeros(&[num_latents])?),
                _ => None,
            },
            gate: match cfg.activation {
                Activation::Gated => Some(Gate {
                    b_mag: zeros(&[num_latents])?,
                    r_mag: zeros(&[num_latents])?,
                }),
                _ => None,
            },
            cfg,
        };
        if sae.has_unit_decoder() {
            sae.normalize_decoder()?;
        }
        Ok(sae)
    }

    /// Number of latents.
    pub fn num_latents(&self) -> usize {
        self.cfg.resolved_num_latents()
    }

    /// Whether the decoder was loaded.
    pub fn has_decoder(&self) -> bool {
        self.w_dec.size()[0] > 0
    }

    /// Whether the decoder's rows are kept at unit norm; a transcoder's never are.
    pub fn has_unit_decoder(&self) -> bool {
        self.cfg.normalize_decoder && !self.cfg.transcode
    }

    /// The active latents of `x`: `[n_tokens, d_in]`, of the weights' kind.
    ///
    /// # Errors
    /// Another shape, another kind, or too little memory.
    pub fn encode(&self, x: &Tensor) -> Result<Encoded, SaeError> {
        self.check_input(x)?;
        self.encode_centred(&self.centred(x)?, self.cfg.k, None)
    }

    /// The active latents of what the encoder's weights are applied to, found by `rounded` if that is given.
    pub(crate) fn encode_centred(
        &self,
        centred: &Tensor,
        k: usize,
        rounded: Option<&Tensor>,
    ) -> Result<Encoded, SaeError> {
        if rounded.is_none() && self.cfg.activation == Activation::TopK {
            let encoder = (&self.encoder_weight, &self.encoder_bias);
            if let Some(encoded) = kernels::topk_of_product(centred, encoder, k)? {
                return Ok(encoded);
            }
        }
        if self.cfg.activation == Activation::TopK {
            self.encode_in_blocks(centred, k, rounded, self.tokens_in_block(rounded))
        } else {
            self.pre_acts(centred, rounded)?.select(k)
        }
    }

    /// The same, with the pre-activations of `block` tokens in memory at the same time.
    fn encode_in_blocks(
        &self,
        centred: &Tensor,
        k: usize,
        rounded: Option<&Tensor>,
        block: i64,
    ) -> Result<Encoded, SaeError> {
        let n_tokens = centred.size()[0];
        if n_tokens <= block {
            return self.pre_acts(centred, rounded)?.select(k);
        }
        let starts = (0..n_tokens).step_by(block as usize);
        let parts = starts.map(|start| {
            let tokens = centred.f_narrow(0, start, block.min(n_tokens - start))?;
            self.pre_acts(&tokens, rounded)?.select(k)
        });
        Encoded::joined(&parts.collect::<Result<Vec<_>, SaeError>>()?)
    }

    /// For how many tokens the pre-activations are in memory at the same time.
    fn tokens_in_block(&self, rounded: Option<&Tensor>) -> i64 {
        let kind = rounded.unwrap_or(&self.encoder_weight).kind();
        let row_bytes = self.num_latents() * kind.elt_size_in_bytes();
        (PRE_ACTS_BYTES / row_bytes as i64).max(1)
    }

    /// What the encoder's weights are applied to.
    pub(crate) fn centred(&self, x: &Tensor) -> Result<Tensor, SaeError> {
        Ok(if self.cfg.subtracts_b_dec() {
            x.f_sub(&self.b_dec)?
        } else {
            x.shallow_clone()
        })
    }

    /// The reconstruction from latents, without the skip connection: `[n_tokens, d_out]`.
    ///
    /// # Errors
    /// An SAE that was loaded without its decoder, or too little memory.
    pub fn decode(&self, encoded: &Encoded) -> Result<Tensor, SaeError> {
        if !self.has_decoder() {
            return Err(without_decoder().into());
        }
        let Encoded {
            latent_acts,
            latent_indices,
        } = encoded;
        let sum = match self.decoupled_sum(encoded)? {
            Some(sum) => sum,
            None => kernels::sparse_times_rows(latent_acts, latent_indices, &self.w_dec)?,
        };
        Ok(sum.f_add(&self.b_dec)?)
    }

    /// Encodes and decodes `x`: `[n_tokens, d_in]`, Float. `sae_out` includes the skip connection.
    ///
    /// # Errors
    /// As [`Sae::encode`].
    pub fn forward(&self, x: &Tensor) -> Result<Reconstruction, SaeError> {
        let encoded = self.encode(x)?;
        let sae_out = self.decode(&encoded)?;
        Ok(Reconstruction {
            sae_out: self.with_skip(sae_out, x)?,
            encoded,
        })
    }

    /// `sae_out` with what the skip connection makes of `x`.
    pub(crate) fn with_skip(&self, sae_out: Tensor, x: &Tensor) -> Result<Tensor, SaeError> {
        Ok(match &self.w_skip {
            None => sae_out,
            Some(w_skip) => sae_out.f_addmm(x, &w_skip.f_tr()?)?,
        })
    }

    /// Scales the decoder's rows to unit norm: `w / (|w| + eps)`, as sparsify does.
    ///
    /// # Errors
    /// Too little memory.
    pub fn normalize_decoder(&mut self) -> Result<(), SaeError> {
        // By libtorch: the first weights are sparsify's to the bit, and another order of sums is not.
        let norm = self.w_dec.f_norm_scalaropt_dim(2.0, [1i64], true)?;
        let _ = self
            .w_dec
            .f_div_(&norm.f_add_scalar(f64::from(f32::EPSILON))?)?;
        Ok(())
    }

    /// The weights under their names on disk, always in this order.
    pub fn named_weights(&self) -> Vec<(&'static str, &Tensor)> {
        let mut weights = vec![
            ("encoder.weight", &self.encoder_weight),
            ("encoder.bias", &self.encoder_bias),
            ("W_dec", &self.w_dec),
            ("b_dec", &self.b_dec),
        ];
        weights.extend(self.w_skip.iter().map(|w_skip| ("W_skip", w_skip)));
        let threshold = self.threshold.iter();
        weights.extend(threshold.map(|threshold| ("threshold", threshold)));
        let gate = self.gate.iter().flat_map(Gate::weights);
        weights.extend(["b_mag", "r_mag"].into_iter().zip(gate));
        weights
    }

    /// The weights, in the order of [`Sae::named_weights`].
    pub fn weights_mut(&mut self) -> Vec<&mut Tensor> {
        let mut weights = vec![
            &mut self.encoder_weight,
            &mut self.encoder_bias,
            &mut self.w_dec,
            &mut self.b_dec,
        ];
        weights.extend(&mut self.w_skip);
        weights.extend(&mut self.threshold);
        weights.extend(self.gate.iter_mut().flat_map(Gate::weights_mut));
        weights
    }

    /// An SAE of the same settings with other weights, in the order of [`Sae::named_weights`].
    ///
    /// # Panics
    /// Another number of weights.
    pub fn with_weights(&self, weights: Vec<Tensor>) -> Self {
        assert_eq!(weights.len(), self.named_weights().len());
        let mut weights = weights.into_iter();
        let mut next = || weights.next().expect("their number was checked");
        Self {
            cfg: self.cfg.clone(),
            encoder_weight: next(),
            encoder_bias: next(),
            w_dec: next(),
            b_dec: next(),
            w_skip: self.w_skip.as_ref().map(|_| next()),
            threshold: self.threshold.as_ref().map(|_| next()),
            gate: self.gate.as_ref().map(|_| Gate {
                b_mag: next(),
                r_mag: next(),
            }),
        }
    }

    pub(crate) fn check_input(&self, x: &Tensor) -> Result<(), SaeError> {
        check_width(x, self.cfg.d_in)?;
        let (expected, got) = (self.encoder_weight.kind(), x.kind());
        if expected == got {
            Ok(())
        } else {
            Err(Fault::internal(format!(
                "activations are {got:?}, the SAE's weights {expected:?}"
            ))
            .with_hint("convert them, or load the SAE with `kind` set to theirs")
            .into())
        }
    }

    pub(crate) fn check_target(&self, target: &Tensor) -> Result<(), SaeError> {
        check_width(target, self.cfg.d_out())
    }
}

fn check_width(x: &Tensor, width: usize) -> Result<(), SaeError> {
    match x.size()[..] {
        [_, got] if got == width as i64 => Ok(()),
        ref got => Err(Fault::internal(format!(
            "activations have shape {got:?}, expected [n_tokens, {width}]"
        ))
        .into()),
    }
}

/// `torch.nn.Linear`'s default weights: `kaiming_uniform_(a = sqrt(5))`, uniform within
/// `1 / sqrt(fan_in)`.
fn kaiming_uniform(shape: [i64; 2], seed: i64) -> Result<Tensor, SaeError> {
    // The bound in PyTorch's order of operations, so that the numbers are the same to the bit.
    let gain = (2.0f64 / (1.0 + 5.0f64.sqrt().powi(2))).sqrt();
    let std = gain / (shape[1] as f64).sqrt();
    let bound = 3.0f64.sqrt() * std;
    let mut weight = Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?;
    Ok(with_seed(seed, || weight.f_uniform_(-bound, bound))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two inputs, three latents, one active: answers can be had in the head.
    fn by_hand() -> Sae {
        let mut sae = Sae::new(SaeConfig::topk(2, 3, 1), 0, Device::Cpu).unwrap();
        sae.encoder_weight = Tensor::from_slice2(&[[1f32, 0.0], [0.0, 1.0], [-1.0, -1.0]]);
        sae.w_dec = Tensor::from_slice2(&[[1f32, 0.0], [0.0, 1.0], [-0.6, -0.8]]);
        sae.encoder_bias = Tensor::from_slice(&[0f32, 0.5, 0.0]);
        sae.b_dec = Tensor::from_slice(&[1f32, 1.0]);
        sae
    }

    #[test]
    fn encodes_and_decodes_by_hand() {
        let x = Tensor::from_slice2(&[[4f32, 2.0], [0.0, 0.0]]);
        let out = by_hand().forward(&x).unwrap();
        assert_eq!(
            Vec::<i64>::try_from(out.encoded.latent_indices.flatten(0, 1)).unwrap(),
            [0, 2]
        );
        assert_eq!(
            Vec::<f32>::try_from(out.encoded.latent_acts.flatten(0, 1)).unwrap(),
            [3.0, 2.0]
        );
        let sae_out = Vec::<f32>::try_from(out.sae_out.flatten(0, 1)).unwrap();
        assert_eq!(sae_out[..2], [4.0, 1.0]);
        assert!((sae_out[2] - -0.2).abs() < 1e-6 && (sae_out[3] - -0.6).abs() < 1e-6);
    }

    #[test]
    fn blocks_of_tokens_have_the_same_latents() {
        let sae = Sae::new(SaeConfig::topk(8, 200, 3), 7, Device::Cpu).unwrap();
        let x = crate::testing::noise(&[23, 8], 1.0);
        let rounded = sae.rounded_encoder(3).unwrap();
        for rounded in [None, rounded.as_ref()] {
            let of = |block| sae.encode_in_blocks(&x, 3, rounded, block).unwrap();
            let (whole, parts) = (of(23), of(7));
            let dense = |encoded: &Encoded| {
                let zeros = Tensor::zeros([23, 200], (Kind::Float, Device::Cpu));
                zeros.scatter(1, &encoded.latent_indices, &encoded.latent_acts)
            };
            assert!(dense(&whole).allclose(&dense(&parts), 1e-6, 1e-6, false));
        }
    }

    #[test]
    fn forward_is_decode_of_encode() {
        let sae = Sae::new(SaeConfig::topk(8, 40, 5), 7, Device::Cpu).unwrap();
        let x = crate::testing::noise(&[6, 8], 1.0);
        let out = sae.forward(&x).unwrap();
        let decoded = sae.decode(&sae.encode(&x).unwrap()).unwrap();
        assert!(out.sae_out.equal(&decoded));
        assert_eq!(out.encoded.latent_acts.size(), [6, 5]);
    }

    #[test]
    fn a_fresh_decoder_has_unit_rows_and_the_seed_decides() {
        let new = |seed| Sae::new(SaeConfig::topk(8, 40, 5), seed, Device::Cpu).unwrap();
        let norms = new(0).w_dec.norm_scalaropt_dim(2.0, [1i64], false);
        assert!(norms.allclose(&norms.ones_like(), 0.0, 1e-5, false));
        assert!(new(1).encoder_weight.equal(&new(1).encoder_weight));
        assert!(!new(1).encoder_weight.equal(&new(2).encoder_weight));
    }

    #[test]
    fn impossible_sizes_and_inputs_are_errors() {
        let k_too_large = Sae::new(SaeConfig::topk(2, 3, 4), 0, Device::Cpu);
        let message = k_too_large.unwrap_err().to_string();
        assert!(message.ends_with("k = 4 is impossible"), "{message}");
        let x = Tensor::zeros([1, 3], (Kind::Float, Device::Cpu));
        let message = by_hand().encode(&x).unwrap_err().to_string();
        let expected = "activations have shape [1, 3], expected [n_tokens, 2]";
        assert_eq!(message, expected);
    }
}
