//! The loss of each kind of SAE in dense operations, by libtorch's autograd.

use super::super::*;
use super::{F, N};

pub(super) fn double(x: &Tensor) -> Tensor {
    x.to_kind(Kind::Double)
}

/// A value with the gradient of another expression.
fn with_gradient_of(value: &Tensor, expression: &Tensor) -> Tensor {
    value.detach() + expression - expression.detach()
}

pub(super) fn sum_of(x: &Tensor) -> Tensor {
    x.square().sum(Kind::Double)
}

/// An SAE's loss in dense operations, which autograd differentiates.
pub(super) struct Twin<'a> {
    pub(super) sae: &'a Sae,
    pub(super) weights: Vec<(&'static str, Tensor)>,
    x: Tensor,
    pub(super) target: Tensor,
    pub(super) objective: &'a Objective<'a>,
    /// 1 at the latents that were selected.
    chosen: Option<&'a Tensor>,
}

/// What the twin makes of its input.
pub(super) struct TwinLatents {
    pub(super) pre_acts: Tensor,
    acts: Tensor,
    are_active: Tensor,
    /// Thresholds as they are applied.
    theta: Option<Tensor>,
    norms: Tensor,
}

impl<'a> Twin<'a> {
    pub(super) fn new(
        sae: &'a Sae,
        (x, target): (&Tensor, &Tensor),
        objective: &'a Objective<'a>,
        chosen: Option<&'a Tensor>,
    ) -> Self {
        let leaf = |(name, weight): (&'static str, &Tensor)| {
            (name, double(weight).set_requires_grad(true))
        };
        Self {
            weights: sae.named_weights().into_iter().map(leaf).collect(),
            x: double(x),
            target: double(target),
            sae,
            objective,
            chosen,
        }
    }

    fn get(&self, name: &str) -> Option<&Tensor> {
        let found = self.weights.iter().find(|(own, _)| *own == name);
        found.map(|(_, weight)| weight)
    }

    fn weight(&self, name: &str) -> &Tensor {
        self.get(name).unwrap()
    }

    pub(super) fn decode(&self, acts: &Tensor, end: i64) -> Tensor {
        let w_dec = self.weight("W_dec").narrow(0, 0, end);
        let out = acts.narrow(1, 0, end).matmul(&w_dec) + self.weight("b_dec");
        let skip = self.get("W_skip").into_iter();
        skip.fold(out, |out, w_skip| out + self.x.matmul(&w_skip.tr()))
    }

    pub(super) fn latents(&self) -> TwinLatents {
        let centred = if self.sae.cfg.subtracts_b_dec() {
            &self.x - self.weight("b_dec")
        } else {
            self.x.shallow_clone()
        };
        let bias = self.weight("encoder.bias");
        let pre_acts = centred.linear(self.weight("encoder.weight"), Some(bias));
        let theta = self.get("threshold");
        let theta = theta.map(|theta| with_gradient_of(&theta.clamp_min(0.0), theta));
        let positive = double(&pre_acts.gt(0.0));
        let (acts, are_active) = match (&theta, self.chosen, self.get("b_mag")) {
            (Some(theta), _, _) => self.jumped(&pre_acts, theta),
            (None, Some(chosen), _) => (pre_acts.relu() * chosen, chosen * positive),
            (None, None, None) => (pre_acts.relu(), positive),
            (None, None, Some(b_mag)) => {
                let magnitudes = (&pre_acts - bias) * self.weight("r_mag").exp() + b_mag;
                (magnitudes.relu() * &positive, positive)
            }
        };
        TwinLatents {
            norms: self.weight("W_dec").norm_scalaropt_dim(2.0, [1i64], false),
            pre_acts,
            acts,
            are_active,
            theta,
        }
    }

    fn near(&self, pre_acts: &Tensor, theta: &Tensor) -> Tensor {
        let bandwidth = self.objective.jump.bandwidth;
        double(&(pre_acts - theta).abs().lt(bandwidth / 2.0)).detach() / bandwidth
    }

    fn jumped(&self, pre_acts: &Tensor, theta: &Tensor) -> (Tensor, Tensor) {
        let is_active = double(&pre_acts.gt_tensor(theta));
        let slope = self.near(pre_acts, theta) * theta.detach();
        let mut linear = &is_active * pre_acts - &slope * theta;
        if self.objective.jump.ste_to_input {
            linear += &slope * pre_acts;
        }
        (
            with_gradient_of(&(&is_active * pre_acts), &linear),
            is_active,
        )
    }

    /// L0 of each token.
    fn counts(&self, of: &TwinLatents) -> Tensor {
        let by_token = |x: &Tensor| x.sum_dim_intlist(1, false, Kind::Double);
        let theta = of.theta.as_ref().unwrap();
        let slope = self.near(&of.pre_acts, theta);
        let mut linear = -(&slope * theta);
        if self.objective.jump.ste_to_input {
            linear += &slope * &of.pre_acts;
        }
        with_gradient_of(&by_token(&of.are_active), &by_token(&linear))
    }

    fn penalty(&self, of: &TwinLatents) -> Tensor {
        let scaled = match self.sae.gate {
            Some(_) => of.pre_acts.relu() * &of.norms,
            None => &of.acts * &of.norms,
        };
        match self.objective.penalty {
            Penalty::None => Tensor::from(0.0),
            Penalty::Power {
                coefficient,
                p,
                is_norm,
                is_scaled,
                ..
            } => {
                let scaled = if is_scaled {
                    scaled
                } else {
                    scaled / &of.norms
                };
                let safe = scaled.where_self(&scaled.gt(0.0), &scaled.ones_like());
                let powers = safe.pow_tensor_scalar(p) * scaled.gt(0.0);
                let by_token = powers.sum_dim_intlist(1, false, Kind::Double);
                let power = if is_norm { 1.0 / p } else { 1.0 };
                by_token.pow_tensor_scalar(power).sum(Kind::Double) * coefficient
            }
            Penalty::Tanh { coefficient, scale } => {
                (scaled * scale).tanh().sum(Kind::Double) * coefficient
            }
            Penalty::Count { coefficient } => self.counts(of).sum(Kind::Double) * coefficient,
            Penalty::Quadratic {
                coefficient,
                target,
            } => sum_of(&(self.counts(of) - target)) * (2.0 * coefficient / target),
            Penalty::MeanQuadratic {
                coefficient,
                target,
                ..
            } => {
                let over: Tensor = self.counts(of).mean(Kind::Double) / target - 1.0;
                over.square() * (coefficient * N as f64)
            }
        }
    }

    fn pre_act_loss(&self, term: PreActLoss<'_>, of: &TwinLatents) -> Tensor {
        let theta = of.theta.as_ref().unwrap();
        let below = (theta - &of.pre_acts).relu() * &of.norms * term.coefficient;
        match term.latents {
            None => below.sum(Kind::Double),
            Some(latents) => below.index_select(1, latents).sum(Kind::Double),
        }
    }

    fn auxk(&self, term: AuxK<'_>, of: &TwinLatents) -> Tensor {
        let error = (self.decode(&of.acts, F) - &self.target).detach();
        let scores = if self.objective.rescales {
            &of.pre_acts * &of.norms
        } else {
            of.pre_acts.shallow_clone()
        };
        let n_dead = term.candidates.size()[0];
        let n_wanted = self.sae.cfg.d_out() as i64 / 2;
        let fired = double(
            &of.are_active
                .sum_dim_intlist(0, false, Kind::Double)
                .gt(0.0),
        );
        let alive = scores.ones_like().index_fill(1, term.candidates, 0.0);
        // One that fires is not dead.
        let fires = fired * f64::from(u8::from(term.is_of_residual));
        let alive = (alive + &fires).clamp_max(1.0);
        let of_dead = scores.detach() + alive * -1e9;
        let (_, indices) = of_dead.topk(n_wanted.min(n_dead), -1, true, false);
        let kept = scores.zeros_like().scatter_value(1, &indices, 1.0).detach() * (1.0 - fires);
        let (acts, scale) = if term.is_of_residual {
            let mean = error.mean_dim(0, true, Kind::Double);
            (
                of.pre_acts.relu(),
                sum_of(&(&error - mean)).reciprocal() * N as f64,
            )
        } else {
            let scale = (n_dead as f64 / n_wanted as f64).min(1.0);
            (of.pre_acts.shallow_clone(), Tensor::from(scale))
        };
        let of_dead: Tensor = acts * kept;
        sum_of(&(of_dead.matmul(self.weight("W_dec")) + error)) * scale * term.alpha
    }

    fn second_reconstruction(&self, of: &TwinLatents) -> Tensor {
        let [w_dec, b_dec] = ["W_dec", "b_dec"].map(|name| {
            let weight = self.weight(name);
            if self.objective.gate_is_detached {
                weight.detach()
            } else {
                weight.shallow_clone()
            }
        });
        let mut target = self.target.shallow_clone();
        if let Some(w_skip) = self.get("W_skip") {
            target -= self.x.matmul(&w_skip.detach().tr());
        }
        sum_of(&(of.pre_acts.relu().matmul(&w_dec) + b_dec - target))
    }

    /// The loss and its gradients.
    pub(super) fn differentiated(&self) -> (f64, Vec<(&'static str, Tensor)>) {
        let of = self.latents();
        let all = [Level::all(F as usize)];
        let levels = match self.objective.nesting {
            [] => &all[..],
            nesting => nesting,
        };
        let mut loss = self.penalty(&of);
        for level in levels {
            let error = self.decode(&of.acts, level.end as i64) - &self.target;
            loss += sum_of(&error) * level.weight;
        }
        if let Some(term) = self.objective.pre_act_loss {
            loss += self.pre_act_loss(term, &of);
        }
        if let Some(term) = self.objective.auxk {
            loss += self.auxk(term, &of);
        }
        if self.sae.gate.is_some() {
            loss += self.second_reconstruction(&of);
        }
        loss.backward();
        let gradient = |(name, leaf): &(&'static str, Tensor)| {
            let gradient = leaf.grad();
            let gradient = if gradient.defined() {
                gradient
            } else {
                leaf.detach().zeros_like()
            };
            (*name, gradient)
        };
        (
            loss.double_value(&[]),
            self.weights.iter().map(gradient).collect(),
        )
    }
}
