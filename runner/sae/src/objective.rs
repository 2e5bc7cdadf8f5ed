//! What training minimises at one hookpoint: the squared error, and terms beside it.
//!
//! All terms are sums over tokens; divided by the total variance of an update they are
//! `fvu + auxk_alpha * auxk + multi_topk / 8`.

use crate::gradient::{Part, Pass};
use crate::kernels::sparse_times_rows;
use crate::{Encoded, Gradients, Sae, SaeError};
use tch::{Kind, Tensor};

/// The weight of Multi-TopK's term.
const MULTI_TOPK_WEIGHT: f64 = 0.125;
/// Multi-TopK's active latents, by `k`.
const MULTI_TOPK_FACTOR: usize = 4;

/// What is minimised.
#[derive(Clone, Copy, Debug)]
pub struct Objective<'a> {
    /// Active latents of a token.
    pub k: usize,
    /// Let dead latents predict what the others leave over.
    pub auxk: Option<AuxK<'a>>,
    /// Add the error of the reconstruction from the `4 * k` largest latents, or all where there are
    /// fewer.
    pub multi_topk: bool,
}

/// The loss of dead latents (Gao et al. 2024, arXiv:2406.04093, appendix A.2, with the scale that
/// sparsify puts before it): the `d_out / 2` largest pre-activations among them reconstruct the
/// residual. Without ReLU, so that a latent whose pre-activation is negative can come back.
#[derive(Clone, Copy, Debug)]
pub struct AuxK<'a> {
    /// Weight of the term.
    pub alpha: f64,
    /// Indices of the dead latents: `[n_dead]`, Int64.
    pub dead: &'a Tensor,
}

/// The terms of the loss: scalars, Double; without their weights.
#[derive(Debug)]
pub struct Losses {
    /// `sum |sae_out - target|^2`.
    pub squared_error: Tensor,
    /// `min(n_dead / (d_out / 2), 1)` times the squared error of the dead latents' prediction;
    /// `None` where it is not part of the loss, or no latent is dead.
    pub auxk: Option<Tensor>,
    /// The squared error of `4 * k` latents.
    pub multi_topk: Option<Tensor>,
}

/// What [`Sae::backward`] gives; all on the input's device, nothing is waited for.
#[derive(Debug)]
pub struct Backward {
    /// Gradients of the weighted sum of the terms.
    pub gradients: Gradients,
    /// The terms.
    pub losses: Losses,
    /// How many tokens each latent fired on: `[num_latents]`, Float. "Fired" is activation > 0.
    pub fire_counts: Tensor,
}

impl Losses {
    /// Adds another part of the same batch.
    ///
    /// # Errors
    /// Want of memory.
    pub fn add(&mut self, part: &Self) -> Result<(), SaeError> {
        let _ = self.squared_error.f_add_(&part.squared_error)?;
        for (sum, part) in [
            (&mut self.auxk, &part.auxk),
            (&mut self.multi_topk, &part.multi_topk),
        ] {
            if let (Some(sum), Some(part)) = (sum, part) {
                let _ = sum.f_add_(part)?;
            }
        }
        Ok(())
    }
}

impl Objective<'_> {
    /// The squared error alone, with `k` active latents.
    pub fn squared_error(k: usize) -> Self {
        Self {
            k,
            auxk: None,
            multi_topk: false,
        }
    }
}

impl Sae {
    /// Forward and backward pass on `x`: `[n_tokens, d_in]`, with `target`: `[n_tokens, d_out]`,
    /// which an autoencoder's input is itself; Float.
    ///
    /// # Errors
    /// [`SaeError::Input`] for other shapes, or want of memory.
    pub fn backward(
        &self,
        x: &Tensor,
        target: &Tensor,
        objective: &Objective<'_>,
    ) -> Result<Backward, SaeError> {
        self.check_target(target)?;
        let (pass, pre_acts) = self.pass_with_pre_acts(x, objective.k)?;
        let error = pass.sae_out.f_sub(target)?;
        let part = Part {
            encoded: &pass.encoded,
            grad_out: &error.f_mul_scalar(2.0)?,
            has_relu: true,
            is_whole: true,
        };
        let mut gradients = self.part_gradients(&pass, &part)?.gradients;
        let mut auxk = None;
        if let Some(term) = objective.auxk {
            let term = self.auxk(&pass, &pre_acts, &error, term)?;
            auxk = term.map(|term| term.add_to(&mut gradients)).transpose()?;
        }
        let mut multi_topk = None;
        if objective.multi_topk {
            let term = self.multi_topk(&pass, &pre_acts, target, objective.k)?;
            multi_topk = Some(term.add_to(&mut gradients)?);
        }
        Ok(Backward {
            gradients,
            losses: Losses {
                squared_error: sum_of_squares(&error)?,
                auxk,
                multi_topk,
            },
            fire_counts: self.fire_counts(&pass.encoded)?,
        })
    }

    /// The term of the dead latents; `error`: `sae_out - target`.
    fn auxk(
        &self,
        pass: &Pass,
        pre_acts: &Tensor,
        error: &Tensor,
        term: AuxK<'_>,
    ) -> Result<Option<Term>, SaeError> {
        let n_dead = term.dead.size()[0];
        let n_wanted = self.cfg.d_out() as i64 / 2;
        let k = n_wanted.min(n_dead);
        if k == 0 {
            return Ok(None);
        }
        let scale = (n_dead as f64 / n_wanted as f64).min(1.0);
        let of_dead = pre_acts.f_index_select(1, term.dead)?;
        let (latent_acts, places) = of_dead.f_topk(k, -1, true, false)?;
        let encoded = Encoded {
            latent_indices: term.dead.f_take(&places)?,
            latent_acts,
        };
        // The residual is `-error`, so the prediction's own error is the sum.
        let predicted =
            sparse_times_rows(&encoded.latent_acts, &encoded.latent_indices, &self.w_dec)?;
        let missed = predicted.f_add(error)?;
        let part = Part {
            encoded: &encoded,
            grad_out: &missed.f_mul_scalar(2.0 * term.alpha * scale)?,
            has_relu: false,
            is_whole: false,
        };
        Ok(Some(Term {
            gradients: self.part_gradients(pass, &part)?.gradients,
            loss: sum_of_squares(&missed)?.f_mul_scalar(scale)?,
        }))
    }

    /// The term of `4 * k` latents.
    fn multi_topk(
        &self,
        pass: &Pass,
        pre_acts: &Tensor,
        target: &Tensor,
        k: usize,
    ) -> Result<Term, SaeError> {
        let k = self.num_latents().min(MULTI_TOPK_FACTOR * k) as i64;
        let (mut latent_acts, latent_indices) = pre_acts.f_topk(k, -1, true, false)?;
        let encoded = Encoded {
            latent_acts: latent_acts.f_relu_()?,
            latent_indices,
        };
        let sae_out = self.with_skip(self.decode(&encoded)?, &pass.x)?;
        let error = sae_out.f_sub(target)?;
        let part = Part {
            encoded: &encoded,
            grad_out: &error.f_mul_scalar(2.0 * MULTI_TOPK_WEIGHT)?,
            has_relu: true,
            is_whole: true,
        };
        Ok(Term {
            gradients: self.part_gradients(pass, &part)?.gradients,
            loss: sum_of_squares(&error)?,
        })
    }
}

/// A term of the loss beside the squared error.
struct Term {
    /// With its weight.
    gradients: Gradients,
    /// Without its weight.
    loss: Tensor,
}

impl Term {
    fn add_to(self, gradients: &mut Gradients) -> Result<Tensor, SaeError> {
        gradients.add(&self.gradients)?;
        Ok(self.loss)
    }
}

/// In Double: single squares of large activations fit no 16 bit, and their sum no 32.
fn sum_of_squares(x: &Tensor) -> Result<Tensor, SaeError> {
    Ok(x.f_square()?.f_sum(Kind::Double)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;
    use crate::{Activation, SaeConfig};
    use tch::Device;

    const DEAD: [i64; 4] = [1, 7, 8, 20];

    fn configs() -> Vec<SaeConfig> {
        let topk = SaeConfig::topk(6, 24, 4);
        let transcode = SaeConfig {
            transcode: true,
            ..topk.clone()
        };
        vec![
            SaeConfig {
                activation: Activation::GroupMax,
                ..topk.clone()
            },
            SaeConfig {
                skip_connection: true,
                ..topk.clone()
            },
            SaeConfig {
                skip_connection: true,
                ..transcode.clone()
            },
            SaeConfig {
                d_out: Some(5),
                skip_connection: true,
                ..transcode.clone()
            },
            transcode,
            topk,
        ]
    }

    /// An SAE whose tokens sometimes have fewer than `k` positive pre-activations, its input and its
    /// target.
    fn case(cfg: SaeConfig) -> (Sae, Tensor, Tensor) {
        let (d_out, is_transcoder) = (cfg.d_out() as i64, cfg.transcode);
        let mut sae = Sae::new(cfg, 5, Device::Cpu).unwrap();
        sae.encoder_bias = noise(&[24], 1.0) * 0.1 - 0.6;
        sae.b_dec = noise(&[d_out], 2.0);
        sae.w_dec = noise(&[24, d_out], 6.0);
        sae.w_skip = sae.w_skip.map(|_| noise(&[d_out, 6], 7.0));
        let x = noise(&[9, 6], 3.0);
        let target = match is_transcoder {
            true => noise(&[9, d_out], 4.0),
            false => x.shallow_clone(),
        };
        (sae, x, target)
    }

    /// The same loss in dense operations, by autograd: its gradients and its terms.
    fn by_autograd(
        sae: &Sae,
        x: &Tensor,
        target: &Tensor,
        objective: &Objective<'_>,
    ) -> (Vec<Tensor>, [f64; 3]) {
        let leaf = |(_, w): (_, &Tensor)| w.copy().set_requires_grad(true);
        let leaves: Vec<_> = sae.named_weights().into_iter().map(leaf).collect();
        let [w_enc, b_enc, w_dec, b_dec, w_skip @ ..] = &leaves[..] else {
            panic!("four weights or five");
        };
        let centred = if sae.cfg.transcode {
            x.shallow_clone()
        } else {
            x - b_dec
        };
        let pre_acts = centred.linear(w_enc, Some(b_enc));
        let keep = |indices: &Tensor| pre_acts.zeros_like().scatter_value(1, indices, 1.0);
        let whole = |latents: &Tensor| {
            let out = latents.matmul(w_dec) + b_dec;
            w_skip
                .iter()
                .fold(out, |out, w_skip| out + x.matmul(&w_skip.tr()))
        };
        let selected = sae
            .cfg
            .activation
            .select(&pre_acts.detach(), objective.k)
            .unwrap();
        let latents = pre_acts.relu() * keep(&selected.latent_indices);
        let error = whole(&latents) - target;
        let mut loss = error.square().sum(Kind::Float);
        let mut terms = [loss.double_value(&[]), 0.0, 0.0];
        if let Some(AuxK { alpha, dead }) = objective.auxk {
            let n_wanted = sae.cfg.d_out() as i64 / 2;
            let alive = pre_acts.ones_like().index_fill(1, dead, 0.0);
            let of_dead = pre_acts.detach() + alive * -1e9;
            let (_, indices) = of_dead.topk(n_wanted.min(dead.size()[0]), -1, true, false);
            let missed = (&pre_acts * keep(&indices)).matmul(w_dec) + error.detach();
            let scale = (dead.size()[0] as f64 / n_wanted as f64).min(1.0);
            let auxk = missed.square().sum(Kind::Float) * scale;
            terms[1] = auxk.double_value(&[]);
            loss += auxk * alpha;
        }
        if objective.multi_topk {
            let k = (4 * objective.k).min(24) as i64;
            let (_, indices) = pre_acts.detach().topk(k, -1, true, false);
            let error = whole(&(pre_acts.relu() * keep(&indices))) - target;
            let multi_topk = error.square().sum(Kind::Float);
            terms[2] = multi_topk.double_value(&[]);
            loss += multi_topk / 8.0;
        }
        loss.backward();
        let gradient = |leaf: &Tensor| {
            let gradient = leaf.grad();
            if gradient.defined() {
                gradient
            } else {
                leaf.detach().zeros_like()
            }
        };
        (leaves.iter().map(gradient).collect(), terms)
    }

    fn assert_equals_autograd(cfg: SaeConfig, objective: &Objective<'_>) {
        let (sae, x, target) = case(cfg);
        let ours = sae.backward(&x, &target, objective).unwrap();
        let (gradients, terms) = by_autograd(&sae, &x, &target, objective);
        let Losses {
            squared_error,
            auxk,
            multi_topk,
        } = &ours.losses;
        let value = |term: &Option<Tensor>| term.as_ref().map_or(0.0, |t| t.double_value(&[]));
        let our_terms = [
            squared_error.double_value(&[]),
            value(auxk),
            value(multi_topk),
        ];
        for (ours, theirs) in our_terms.into_iter().zip(terms) {
            assert!(
                (ours - theirs).abs() <= 1e-4 * theirs,
                "{:?}: {ours} {theirs}",
                sae.cfg
            );
        }
        assert_eq!(ours.gradients.tensors().len(), gradients.len());
        let names = sae.named_weights().into_iter().map(|(name, _)| name);
        for ((ours, theirs), name) in ours.gradients.tensors().iter().zip(&gradients).zip(names) {
            assert!(
                ours.allclose(theirs, 1e-4, 1e-4, false),
                "{name} of {:?}: {ours} {theirs}",
                sae.cfg
            );
        }
    }

    #[test]
    fn the_squared_errors_gradients_are_those_of_autograd() {
        for cfg in configs() {
            assert_equals_autograd(cfg, &Objective::squared_error(4));
        }
        let (sae, x, _) = case(SaeConfig::topk(6, 24, 4));
        let idle = sae.encode(&x).unwrap().latent_acts.eq(0.0).any();
        assert!(
            bool::try_from(idle).unwrap(),
            "some latents must be selected at 0"
        );
    }

    #[test]
    fn dead_latents_and_their_encoder_get_gradients() {
        for n_dead in [1, 2, 4] {
            let dead = Tensor::from_slice(&DEAD[..n_dead]);
            let auxk = Some(AuxK {
                alpha: 0.7,
                dead: &dead,
            });
            for cfg in configs() {
                let k = cfg.k;
                let objective = Objective {
                    auxk,
                    ..Objective::squared_error(k)
                };
                assert_equals_autograd(cfg, &objective);
            }
        }
    }

    #[test]
    fn a_dead_latent_with_a_negative_pre_activation_can_come_back() {
        let (mut sae, x, target) = case(SaeConfig::topk(6, 24, 4));
        let mut bias = sae.encoder_bias.get(7);
        let _ = bias.fill_(-100.0);
        let dead = Tensor::from_slice(&[7i64]);
        let objective = Objective {
            auxk: Some(AuxK {
                alpha: 1.0,
                dead: &dead,
            }),
            ..Objective::squared_error(4)
        };
        let gradients = sae.backward(&x, &target, &objective).unwrap().gradients;
        assert!(
            gradients.encoder_bias.double_value(&[7]) < 0.0,
            "its bias is to grow"
        );
        sae.cfg.k = 4;
        let without = Objective::squared_error(4);
        let gradients = sae.backward(&x, &target, &without).unwrap().gradients;
        assert_eq!(gradients.encoder_bias.double_value(&[7]), 0.0);
    }

    #[test]
    fn multi_topk_reaches_the_encoder_and_leaves_the_output_alone() {
        for cfg in configs() {
            let objective = Objective {
                multi_topk: true,
                ..Objective::squared_error(4)
            };
            assert_equals_autograd(cfg.clone(), &objective);
            let (sae, x, target) = case(cfg);
            let with = sae.backward(&x, &target, &objective).unwrap();
            let without = sae
                .backward(&x, &target, &Objective::squared_error(4))
                .unwrap();
            assert!(with.fire_counts.equal(&without.fire_counts));
            assert!(
                with.losses
                    .squared_error
                    .equal(&without.losses.squared_error)
            );
        }
    }

    #[test]
    fn multi_topk_takes_all_latents_where_there_are_fewer() {
        let objective = Objective {
            multi_topk: true,
            ..Objective::squared_error(10)
        };
        let cfg = SaeConfig::topk(6, 24, 10);
        assert_equals_autograd(cfg, &objective);
    }

    #[test]
    fn all_terms_together() {
        let dead = Tensor::from_slice(&DEAD);
        let objective = Objective {
            k: 3,
            auxk: Some(AuxK {
                alpha: 0.03,
                dead: &dead,
            }),
            multi_topk: true,
        };
        let skip = SaeConfig {
            skip_connection: true,
            ..SaeConfig::topk(6, 24, 4)
        };
        assert_equals_autograd(skip, &objective);
    }

    #[test]
    fn parts_of_a_batch_add_up() {
        let (sae, x, target) = case(SaeConfig::topk(6, 24, 4));
        let backward = |first, n| {
            let (x, target) = (x.narrow(0, first, n), target.narrow(0, first, n));
            sae.backward(&x, &target, &Objective::squared_error(4))
                .unwrap()
        };
        let (whole, mut sum, rest) = (backward(0, 9), backward(0, 4), backward(4, 5));
        sum.gradients.add(&rest.gradients).unwrap();
        let sums = sum.gradients.tensors();
        for (a, b) in sums.into_iter().zip(whole.gradients.tensors()) {
            assert!(a.allclose(b, 1e-5, 1e-5, false));
        }
        assert!((sum.fire_counts + rest.fire_counts).equal(&whole.fire_counts));
    }

    #[test]
    fn the_parallel_part_is_gone() {
        let (mut sae, x, target) = case(SaeConfig::topk(6, 24, 4));
        sae.normalize_decoder().unwrap();
        let backward = sae.backward(&x, &target, &Objective::squared_error(4));
        let mut gradients = backward.unwrap().gradients;
        gradients.remove_parallel_to_decoder(&sae).unwrap();
        let along = (&gradients.w_dec * &sae.w_dec).sum_dim_intlist(1, false, None);
        assert!(along.abs().max().double_value(&[]) < 1e-4);
    }

    #[test]
    fn fire_counts_are_of_positive_activations() {
        let (sae, x, target) = case(SaeConfig::topk(6, 24, 4));
        let fired = sae.encode(&x).unwrap().latent_acts.gt(0.0).sum(Kind::Float);
        let backward = sae.backward(&x, &target, &Objective::squared_error(4));
        let counts = backward.unwrap().fire_counts.sum(Kind::Float);
        assert_eq!(counts.double_value(&[]), fired.double_value(&[]));
    }

    /// Any loss behind the output: here the sum of its products with some weights. In Double, by
    /// finite differences.
    #[test]
    fn gradients_of_a_loss_behind_the_output_reach_weights_and_input() {
        for cfg in configs() {
            let (sae, x, _) = case(cfg);
            let double = |(_, w): (_, &Tensor)| w.to_kind(Kind::Double);
            let sae = sae.with_weights(sae.named_weights().into_iter().map(double).collect());
            let x = x.to_kind(Kind::Double);
            let pass = sae.pass(&x, 4).unwrap();
            let grad_out = noise(&pass.sae_out.size(), 9.0).to_kind(Kind::Double);
            let (gradients, grad_x) = sae.backward_of_output(&pass, &grad_out).unwrap();
            let value = |sae: &Sae, x: &Tensor| {
                let out = sae.pass(x, 4).unwrap().sae_out;
                (out * &grad_out).sum(Kind::Double).double_value(&[])
            };
            let assert_slope = |gradient: &Tensor, moved: &dyn Fn(&Tensor) -> f64| {
                let towards = noise(&gradient.size(), 12.0) * 1e-6;
                let slope = (moved(&towards) - moved(&-&towards)) / 2.0;
                let expected = (gradient * &towards).sum(Kind::Double).double_value(&[]);
                let difference = (slope - expected).abs();
                let what = format!("{:?}: {slope:e} {expected:e}", gradient.size());
                assert!(difference < 1e-4 * expected.abs() + 1e-11, "{what}");
            };
            assert_slope(&grad_x, &|by| value(&sae, &(&x + by)));
            for (idx, gradient) in gradients.tensors().into_iter().enumerate() {
                assert_slope(gradient, &|by| {
                    let weights = sae.named_weights().into_iter();
                    let mut moved = sae.with_weights(weights.map(|(_, w)| w.copy()).collect());
                    let _ = moved.weights_mut().swap_remove(idx).g_add_(by);
                    value(&moved, &x)
                });
            }
        }
    }
}
