//! Gradients of every kind of SAE against autograd, where all latents are computed with, where they are listed, and in
//! libtorch's operations alone.

use super::general::Latents;
use super::*;
use crate::support::Support;
use crate::testing::noise;
use crate::{Activation, SaeConfig};
use tch::Device;

const D: i64 = 6;
const F: i64 = 24;
const N: i64 = 11;
const DEAD: [i64; 4] = [1, 7, 8, 20];

/// An SAE whose weights, and thresholds, differ from latent to latent.
fn sae(cfg: SaeConfig) -> Sae {
    let mut sae = Sae::new(cfg, 5, Device::Cpu).unwrap();
    let d_out = sae.cfg.d_out() as i64;
    sae.encoder_bias = noise(&[F], 1.0) * 0.3;
    sae.b_dec = noise(&[d_out], 2.0);
    sae.w_dec = noise(&[F, d_out], 6.0);
    sae.w_skip = sae.w_skip.map(|_| noise(&[d_out, D], 7.0));
    // Some are below 0 and act as 0.
    sae.threshold = sae.threshold.map(|_| noise(&[F], 8.0) * 0.2 + 0.15);
    sae.gate = sae.gate.map(|_| Gate {
        b_mag: noise(&[F], 9.0) * 0.3,
        r_mag: noise(&[F], 10.0) * 0.4,
    });
    sae
}

fn config(activation: Activation) -> SaeConfig {
    SaeConfig {
        activation,
        normalize_decoder: false,
        ..SaeConfig::topk(D as usize, F as usize, 4)
    }
}

fn double(x: &Tensor) -> Tensor {
    x.to_kind(Kind::Double)
}

/// A value with the gradient of another expression.
fn with_gradient_of(value: &Tensor, expression: &Tensor) -> Tensor {
    value.detach() + expression - expression.detach()
}

fn sum_of(x: &Tensor) -> Tensor {
    x.square().sum(Kind::Double)
}

/// An SAE's loss in dense operations, which autograd differentiates.
struct Twin<'a> {
    sae: &'a Sae,
    weights: Vec<(&'static str, Tensor)>,
    x: Tensor,
    target: Tensor,
    objective: &'a Objective<'a>,
    /// 1 at the latents that were selected.
    chosen: Option<&'a Tensor>,
}

/// What the twin makes of its input.
struct TwinLatents {
    pre_acts: Tensor,
    acts: Tensor,
    are_active: Tensor,
    /// Thresholds as they are applied.
    theta: Option<Tensor>,
    norms: Tensor,
}

impl<'a> Twin<'a> {
    fn new(
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

    fn decode(&self, acts: &Tensor, end: i64) -> Tensor {
        let w_dec = self.weight("W_dec").narrow(0, 0, end);
        let out = acts.narrow(1, 0, end).matmul(&w_dec) + self.weight("b_dec");
        let skip = self.get("W_skip").into_iter();
        skip.fold(out, |out, w_skip| out + self.x.matmul(&w_skip.tr()))
    }

    fn latents(&self) -> TwinLatents {
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
    fn differentiated(&self) -> (f64, Vec<(&'static str, Tensor)>) {
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

/// The loss that gradients are of.
fn loss_of(losses: &Losses, objective: &Objective<'_>, is_gated: bool) -> f64 {
    let value = |term: &Option<Tensor>| term.as_ref().map_or(0.0, |term| term.double_value(&[]));
    let error = match &losses.nested {
        Some(nested) => nested.double_value(&[]),
        None => losses.squared_error.double_value(&[]),
    };
    let alpha = match objective.auxk {
        Some(term) => term.alpha,
        None => f64::from(u8::from(is_gated)),
    };
    error + value(&losses.sparsity) + alpha * value(&losses.auxk)
}

fn assert_near(what: &str, got: &Tensor, expected: &Tensor) {
    let scale = expected.abs().max().double_value(&[]).max(1.0);
    let off = (double(got) - expected).abs().max().double_value(&[]) / scale;
    assert!(off < 1e-5, "{what}: {off}");
}

fn assert_is(what: &str, ours: &Backward, twin: &Twin<'_>) {
    let (loss, gradients) = twin.differentiated();
    let got = loss_of(&ours.losses, twin.objective, twin.sae.gate.is_some());
    assert!(
        (got / loss - 1.0).abs() < 1e-5,
        "{what}: loss {got}, by autograd {loss}"
    );
    let tensors = ours.gradients.tensors();
    assert_eq!(tensors.len(), gradients.len());
    for (ours, (name, theirs)) in tensors.into_iter().zip(&gradients) {
        assert_near(&format!("{what}, {name}"), ours, theirs);
    }
}

fn in_double(sae: &Sae) -> Sae {
    let weights = sae.named_weights().into_iter();
    sae.with_weights(weights.map(|(_, weight)| double(weight)).collect())
}

/// SAEs of a kind that reconstruct, that do not subtract `b_dec`, and that predict and skip.
fn variants(activation: Activation) -> [SaeConfig; 3] {
    let plain = config(activation);
    let not_centred = SaeConfig {
        apply_b_dec_to_input: false,
        ..plain.clone()
    };
    let skipping = SaeConfig {
        transcode: true,
        skip_connection: true,
        d_out: Some(5),
        ..plain.clone()
    };
    [plain, not_centred, skipping]
}

fn inputs(sae: &Sae) -> (Tensor, Tensor) {
    let x = noise(&[N, D], 3.0);
    if sae.cfg.transcode {
        (x, noise(&[N, sae.cfg.d_out() as i64], 4.0))
    } else {
        (x.shallow_clone(), x)
    }
}

fn listed(sae: &Sae, (x, target): (&Tensor, &Tensor), objective: &Objective<'_>) -> Backward {
    let batch = sae.batch(x, target).unwrap();
    let latents = sae.near_thresholds(&batch.centred, objective, usize::MAX);
    let latents: Latents = latents.unwrap().unwrap();
    assert!(matches!(latents.support, Support::Some(_)));
    sae.backward_at(&batch, latents, objective).unwrap()
}

/// With all latents, with those listed that are near a threshold, and listed in libtorch's operations.
fn check_thresholded(sae: &Sae, objective: &Objective<'_>, what: &str) {
    let (x, target) = inputs(sae);
    let twin = || Twin::new(sae, (&x, &target), objective, None);
    let batch = sae.batch(&x, &target).unwrap();
    let dense = sae.dense_backward(&batch, objective).unwrap();
    assert_is(&format!("{what}, all"), &dense, &twin());
    if sae.gate.is_some() {
        return;
    }
    let by_kernels = listed(sae, (&x, &target), objective);
    assert_is(&format!("{what}, listed"), &by_kernels, &twin());
    let by_libtorch = listed(&in_double(sae), (&double(&x), &double(&target)), objective);
    assert_is(&format!("{what}, by libtorch"), &by_libtorch, &twin());
    for fire_counts in [&by_libtorch.fire_counts, &dense.fire_counts] {
        assert!(
            fire_counts
                .to_kind(Kind::Float)
                .equal(&by_kernels.fire_counts)
        );
    }
}

const NESTING: [Level; 3] = [
    Level {
        end: 5,
        weight: 1.0,
    },
    Level {
        end: 14,
        weight: 0.5,
    },
    Level {
        end: F as usize,
        weight: 2.0,
    },
];

#[test]
fn relu_with_every_power() {
    let powers = [
        (1.0, false),
        (1.0, true),
        (0.5, false),
        (0.7, true),
        (2.0, true),
    ];
    for sae in variants(Activation::Relu).map(sae) {
        for (p, is_norm) in powers {
            for nesting in [&[][..], &NESTING] {
                let objective = Objective {
                    penalty: Penalty::Power {
                        coefficient: 0.7,
                        p,
                        is_norm,
                        is_scaled: p > 0.6,
                        next_p: None,
                    },
                    nesting,
                    ..Objective::squared_error(4)
                };
                check_thresholded(&sae, &objective, &format!("p = {p}, {is_norm}"));
            }
        }
    }
}

#[test]
fn jumprelu_with_every_penalty() {
    let dead = Tensor::from_slice(&DEAD);
    let (coefficient, scale, target) = (0.3, 4.0, 3.0);
    for sae in variants(Activation::JumpRelu).map(sae) {
        let fired = sae.encode(&inputs(&sae).0).unwrap().latent_acts.gt(0.0);
        let mean_l0 = &(fired.sum(Kind::Float) / N as f64);
        for penalty in [
            Penalty::None,
            Penalty::Count { coefficient },
            Penalty::Tanh { coefficient, scale },
            Penalty::Quadratic {
                coefficient,
                target,
            },
            Penalty::MeanQuadratic {
                coefficient,
                target,
                mean_l0,
            },
        ] {
            for (ste_to_input, nesting, latents) in
                [(false, &NESTING[..], None), (true, &[], Some(&dead))]
            {
                let objective = Objective {
                    penalty,
                    nesting,
                    jump: Jump {
                        bandwidth: 0.4,
                        ste_to_input,
                    },
                    pre_act_loss: Some(PreActLoss {
                        coefficient: 0.2,
                        latents,
                        counts: None,
                    }),
                    ..Objective::squared_error(4)
                };
                check_thresholded(&sae, &objective, &format!("{penalty:?}, {ste_to_input}"));
            }
        }
    }
}

#[test]
fn gated_with_the_decoder_detached_and_not() {
    for sae in variants(Activation::Gated).map(sae) {
        for gate_is_detached in [true, false] {
            let objective = Objective {
                penalty: Penalty::Power {
                    coefficient: 0.7,
                    p: 1.0,
                    is_norm: false,
                    is_scaled: gate_is_detached,
                    next_p: Some(0.5),
                },
                gate_is_detached,
                ..Objective::squared_error(4)
            };
            check_thresholded(&sae, &objective, &format!("gated {gate_is_detached}"));
        }
    }
}

/// Those of 4 for each token, or of as many of all tokens, as 1 and 0.
fn chosen_by_sorting(sae: &Sae, x: &Tensor, rescales: bool, of_batch: Option<i64>) -> Tensor {
    let (weight, bias) = sae.scoring_encoder(rescales).unwrap();
    let scores = sae.centred(x).unwrap().linear(&weight, Some(&bias)).relu();
    let zeros = double(&scores.zeros_like());
    match of_batch {
        Some(n) => {
            let (_, places) = scores.flatten(0, 1).topk(n, 0, true, false);
            let chosen = zeros.flatten(0, 1).scatter_value(0, &places, 1.0);
            chosen.view_as(&scores)
        }
        None => {
            let (_, indices) = scores.topk(4, -1, true, false);
            zeros.scatter_value(1, &indices, 1.0)
        }
    }
}

fn auxk(candidates: &Tensor, is_of_residual: bool) -> Option<AuxK<'_>> {
    Some(AuxK {
        alpha: 0.3,
        candidates,
        are_dead: None,
        is_of_residual,
        fire_counts: None,
    })
}

#[test]
fn chosen_by_token() {
    let dead = Tensor::from_slice(&DEAD);
    let cases = [
        (false, &NESTING[..], false),
        (true, &NESTING, true),
        (true, &[], false),
    ];
    for sae in variants(Activation::TopK).map(sae) {
        for (rescales, nesting, is_of_residual) in cases {
            let objective = Objective {
                nesting,
                rescales,
                auxk: auxk(&dead, is_of_residual),
                ..Objective::squared_error(4)
            };
            let (x, target) = inputs(&sae);
            let chosen = chosen_by_sorting(&sae, &x, rescales, None);
            let ours = sae.backward(&x, &target, &objective).unwrap();
            let twin = Twin::new(&sae, (&x, &target), &objective, Some(&chosen));
            assert_is("by token", &ours, &twin);
        }
    }
}

#[test]
fn chosen_of_the_whole_batch() {
    let dead = Tensor::from_slice(&DEAD);
    let cases = [
        (false, &NESTING[..], 30),
        (true, &[], 44),
        (true, &NESTING, 7),
    ];
    for sae in variants(Activation::Relu).map(sae) {
        for (rescales, nesting, n) in cases {
            let (x, target) = inputs(&sae);
            let chosen = chosen_by_sorting(&sae, &x, rescales, Some(n));
            let search = BatchSearch {
                n_wanted: n as usize,
                least: 0.3,
                rescales,
            };
            let in_double = in_double(&sae);
            for (own, kind) in [(&sae, Kind::Float), (&in_double, Kind::Double)] {
                let (x_of, target_of) = (x.to_kind(kind), target.to_kind(kind));
                let latents = own.batch_latents(&x_of, search).unwrap();
                let objective = Objective {
                    nesting,
                    rescales,
                    chosen: Some(&latents),
                    auxk: auxk(&dead, false),
                    ..Objective::squared_error(4)
                };
                let ours = own.backward(&x_of, &target_of, &objective).unwrap();
                let twin = Twin::new(&sae, (&x, &target), &objective, Some(&chosen));
                assert_is(&format!("of the batch, {kind:?}"), &ours, &twin);
            }
        }
    }
}

#[test]
fn parts_of_a_batch_choose_what_the_whole_does() {
    let sae = sae(config(Activation::Relu));
    let x = noise(&[N, D], 3.0);
    let search = BatchSearch {
        n_wanted: 25,
        least: 0.0,
        rescales: true,
    };
    let backward = |x: &Tensor, chosen: &BatchLatents| {
        let objective = Objective {
            rescales: true,
            chosen: Some(chosen),
            nesting: &NESTING,
            ..Objective::squared_error(4)
        };
        sae.backward(x, x, &objective).unwrap()
    };
    let whole = sae.batch_latents(&x, search).unwrap();
    let expected = backward(&x, &whole);
    let cuts = [(0, 3), (3, 1), (4, 0), (4, 7)];
    let parts = cuts.map(|(start, n)| sae.batch_latents(&x.narrow(0, start, n), search).unwrap());
    let scores: Vec<_> = parts.iter().map(BatchLatents::scores).collect();
    let least = BatchLatents::least_of(&scores, 25).unwrap();
    let least_of_whole = BatchLatents::least_of(&[whole.scores()], 25).unwrap();
    assert!(least.equal(&least_of_whole));
    let mut sum = Backward::zeros(&sae).unwrap();
    let mut of_narrowed = Backward::zeros(&sae).unwrap();
    for ((start, n), part) in cuts.into_iter().zip(parts) {
        let x = x.narrow(0, start, n);
        sum.add(&backward(&x, &part.at_least(&least).unwrap()))
            .unwrap();
        of_narrowed
            .add(&backward(&x, &whole.narrow(start, n).unwrap()))
            .unwrap();
    }
    for sum in [sum, of_narrowed] {
        let pairs = sum
            .gradients
            .tensors()
            .into_iter()
            .zip(expected.gradients.tensors());
        for (sum, whole) in pairs {
            assert_near("a sum of parts", sum, &double(whole));
        }
        assert!(sum.fire_counts.equal(&expected.fire_counts));
    }
}

#[test]
fn if_no_score_is_positive_nothing_is_chosen() {
    let mut sae = sae(config(Activation::Relu));
    sae.encoder_bias = Tensor::full([F], -1e3, (Kind::Float, Device::Cpu));
    let x = noise(&[N, D], 3.0);
    let search = BatchSearch {
        n_wanted: 25,
        least: 0.0,
        rescales: false,
    };
    let none = sae.batch_latents(&x, search).unwrap();
    let least = BatchLatents::least_of(&[none.scores()], 25).unwrap();
    assert_eq!(least.double_value(&[]), f64::INFINITY);
    let objective = Objective {
        chosen: Some(&none),
        ..Objective::squared_error(4)
    };
    let backward = sae.backward(&x, &x, &objective).unwrap();
    assert_eq!(backward.fire_counts.sum(Kind::Float).double_value(&[]), 0.0);
    assert!(backward.gradients.b_dec.abs().max().double_value(&[]) > 0.0);
}

/// A loop over every number of latents.
#[test]
fn hierarchical_reconstructions_are_those_of_a_loop() {
    for sae in variants(Activation::TopK).map(sae) {
        let (x, target) = inputs(&sae);
        let objective = Objective {
            is_hierarchical: true,
            ..Objective::squared_error(4)
        };
        let ours = sae.backward(&x, &target, &objective).unwrap();
        let plain = Objective::squared_error(4);
        let twin = Twin::new(&sae, (&x, &target), &plain, None);
        let pre_acts = twin.latents().pre_acts;
        let (_, indices) = pre_acts.detach().topk(4, -1, true, true);
        let mut loss = Tensor::from(0.0);
        for j in 1..=4 {
            let first = indices.narrow(1, 0, j);
            let chosen = pre_acts.zeros_like().scatter_value(1, &first, 1.0).detach();
            let error = twin.decode(&(pre_acts.relu() * chosen), F) - &twin.target;
            loss += sum_of(&error) / 4.0;
        }
        loss.backward();
        let got = loss_of(&ours.losses, &objective, false);
        assert!((got / loss.double_value(&[]) - 1.0).abs() < 1e-5);
        for (ours, (name, weight)) in ours.gradients.tensors().into_iter().zip(&twin.weights) {
            assert_near(name, ours, &weight.grad());
        }
    }
}
