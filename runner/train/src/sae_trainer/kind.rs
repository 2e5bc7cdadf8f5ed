//! What an SAE's kind adds to an update: nested reconstructions, penalties, and what decides between latents.

use super::Progress;
use super::anneal::Anneal;
use plan::{Activation, PreActLossOn, SaeSpec, SparsityLoss, TrainConfig, updates_of};
use sae::{Jump, Level, Penalty};
use tch::Tensor;

/// The settings of a kind.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) activation: Activation,
    nesting: Nesting,
    pub(super) is_hierarchical: bool,
    /// Whether pre-activations times the norms of the decoder's rows decide.
    pub(super) rescales: bool,
    pub(super) jump: Jump,
    pub(super) gate_is_detached: bool,
    /// Weight of the loss below thresholds, and whether it is on all latents.
    pub(super) pre_act: Option<(f64, bool)>,
    sparsity: Sparsity,
    coefficient: f64,
    /// Updates over which it rises, or a part of all.
    warm_up: f64,
    /// How the exponent of the penalty falls.
    pub(super) anneal: Option<Anneal>,
}

/// Reconstructions from the first latents.
#[derive(Debug)]
enum Nesting {
    /// The same in each update; empty: none.
    Fixed(Vec<Level>),
    /// As many, drawn in each update.
    Drawn {
        n: usize,
        num_latents: usize,
        seed: i64,
    },
}

/// The penalty, without its coefficient.
#[derive(Clone, Copy, Debug)]
enum Sparsity {
    None,
    Power {
        p: f64,
        is_norm: bool,
        is_scaled: bool,
    },
    Tanh {
        scale: f64,
    },
    Count,
    Quadratic {
        target: f64,
    },
    MeanQuadratic {
        target: f64,
    },
}

impl Kind {
    pub(super) fn new(config: &TrainConfig, spec: &SaeSpec) -> Self {
        let is_jump = config.activation == Activation::JumpRelu;
        let has_l1 = matches!(config.activation, Activation::Relu | Activation::Gated);
        let (coefficient, warm_up) = if has_l1 {
            (config.l1_coefficient, config.l1_warm_up_steps)
        } else {
            (config.l0_coefficient, config.l0_warm_up_steps)
        };
        let pre_act = (
            config.pre_act_loss_coefficient,
            config.pre_act_loss_on == PreActLossOn::All,
        );
        Self {
            activation: config.activation,
            nesting: Nesting::new(config, spec),
            is_hierarchical: config.hierarchical_topk,
            rescales: config.rescale_acts_by_decoder_norm,
            jump: Jump {
                bandwidth: config.jumprelu_bandwidth,
                ste_to_input: config.jumprelu_ste_to_input,
            },
            gate_is_detached: config.gated_aux_is_detached,
            pre_act: Some(pre_act).filter(|(coefficient, _)| is_jump && *coefficient > 0.0),
            sparsity: sparsity(config),
            coefficient,
            warm_up,
            anneal: config.p_anneal_end.map(|end| Anneal::new(config, end)),
        }
    }

    /// Whether the latents of an update are chosen among those of all its tokens.
    pub(super) fn is_of_batch(&self) -> bool {
        self.activation == Activation::BatchTopK
    }

    /// Whether the penalty needs the mean L0 of an update before its gradient.
    pub(super) fn needs_mean_l0(&self) -> bool {
        matches!(self.sparsity, Sparsity::MeanQuadratic { .. })
    }

    /// The reconstructions of update number `step`.
    pub(super) fn levels(&self, step: u64) -> Vec<Level> {
        match &self.nesting {
            Nesting::Fixed(levels) => levels.clone(),
            Nesting::Drawn {
                n,
                num_latents,
                seed,
            } => drawn(*n, *num_latents, (*seed, step)),
        }
    }

    /// The penalty in the next update. `mean_l0`: of the update, if it is needed.
    pub(super) fn penalty<'a>(
        &self,
        Progress { step, n_steps }: Progress,
        mean_l0: Option<&'a Tensor>,
    ) -> Penalty<'a> {
        let n_rising = updates_of(self.warm_up, n_steps);
        let risen = if step < n_rising {
            step as f64 / n_rising as f64
        } else {
            1.0
        };
        let coefficient = self.coefficient * risen;
        match self.sparsity {
            Sparsity::None => Penalty::None,
            Sparsity::Power {
                p,
                is_norm,
                is_scaled,
            } => {
                let (p, factor, next_p) = match &self.anneal {
                    Some(anneal) => (anneal.p(), anneal.factor(), anneal.next_p()),
                    None => (p, 1.0, None),
                };
                Penalty::Power {
                    coefficient: coefficient * factor,
                    p,
                    is_norm,
                    is_scaled,
                    next_p,
                }
            }
            Sparsity::Tanh { scale } => Penalty::Tanh { coefficient, scale },
            Sparsity::Count => Penalty::Count { coefficient },
            Sparsity::Quadratic { target } => Penalty::Quadratic {
                coefficient,
                target,
            },
            Sparsity::MeanQuadratic { target } => match mean_l0 {
                None => Penalty::None,
                Some(mean_l0) => Penalty::MeanQuadratic {
                    coefficient,
                    target,
                    mean_l0,
                },
            },
        }
    }
}

fn sparsity(config: &TrainConfig) -> Sparsity {
    let target = config.target_l0.unwrap_or(1.0);
    match config.activation {
        Activation::TopK | Activation::GroupMax | Activation::BatchTopK => Sparsity::None,
        Activation::Relu | Activation::Gated => Sparsity::Power {
            p: config.lp_norm,
            is_scaled: config.l1_scaled_by_decoder_norm,
            is_norm: match config.p_anneal_end {
                None => config.lp_norm != 1.0,
                Some(_) => config.p_anneal_form == plan::PAnnealForm::Norm,
            },
        },
        Activation::JumpRelu => match config.jumprelu_sparsity_loss_mode {
            SparsityLoss::Step => Sparsity::Count,
            SparsityLoss::Tanh => Sparsity::Tanh {
                scale: config.jumprelu_tanh_scale,
            },
            SparsityLoss::Quadratic => Sparsity::Quadratic { target },
            SparsityLoss::MeanQuadratic => Sparsity::MeanQuadratic { target },
        },
    }
}

impl Nesting {
    fn new(config: &TrainConfig, spec: &SaeSpec) -> Self {
        let num_latents = spec.num_latents;
        if config.matryoshka_prefixes > 0 {
            return Self::Drawn {
                n: config.matryoshka_prefixes,
                num_latents,
                seed: spec.seed,
            };
        }
        let widths = config.matryoshka_widths_for(num_latents);
        let widths = widths.expect("they were checked when the job was planned");
        let weight = |idx: usize| config.matryoshka_weights.get(idx).copied().unwrap_or(1.0);
        let level = |(idx, end)| Level {
            end,
            weight: weight(idx),
        };
        Self::Fixed(widths.into_iter().enumerate().map(level).collect())
    }
}

/// The power of a Pareto distribution, after which ends are drawn: saev's.
const POWER: f64 = 0.5;

/// `n` ends, the last of which is `num_latents`, the others drawn without replacement with weights that are the
/// increments of `1 - end^-POWER`. Their errors' mean is the loss.
fn drawn(n: usize, num_latents: usize, seed: (i64, u64)) -> Vec<Level> {
    let n_drawn = (n - 1).min(num_latents - 1);
    let weight = |end: usize| (end as f64).powf(-POWER) - ((end + 1) as f64).powf(-POWER);
    let mut random = Random::new(seed);
    // The largest of u^(1 / weight), with u uniform, are a draw without replacement (Efraimidis and Spirakis 2006).
    let key = |end: usize, random: &mut Random| random.next().ln() / weight(end);
    let mut keys: Vec<(f64, usize)> = (1..num_latents)
        .map(|end| (key(end, &mut random), end))
        .collect();
    if n_drawn > 0 && n_drawn < keys.len() {
        keys.select_nth_unstable_by(n_drawn - 1, |a, b| b.0.total_cmp(&a.0));
    }
    let mut ends: Vec<usize> = keys[..n_drawn].iter().map(|(_, end)| *end).collect();
    ends.push(num_latents);
    ends.sort_unstable();
    let weight = 1.0 / ends.len() as f64;
    let level = |end| Level { end, weight };
    ends.into_iter().map(level).collect()
}

/// Numbers between 0 and 1 that depend on a seed and the update alone: a resume draws the same (SplitMix64).
struct Random(u64);

impl Random {
    fn new((seed, step): (i64, u64)) -> Self {
        let mut random = Self(seed.cast_unsigned() ^ 0x6D61_7472_796F_7368);
        random.0 = random.bits() ^ step;
        random.bits();
        random
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    fn next(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_drawn_anew_in_each_update_and_again_the_same() {
        let ends = |step| -> Vec<usize> {
            let levels = drawn(10, 1000, (3, step));
            assert!(levels.iter().all(|level| level.weight == 0.1));
            levels.iter().map(|level| level.end).collect()
        };
        assert_eq!(ends(5), ends(5));
        assert_ne!(ends(5), ends(6));
        let mut below_a_tenth = 0;
        for step in 0..200 {
            let ends = ends(step);
            assert_eq!((ends.len(), ends[9]), (10, 1000));
            assert!(ends.windows(2).all(|pair| pair[0] < pair[1]));
            below_a_tenth += ends.iter().filter(|end| **end < 100).count();
        }
        // Small ones are drawn far more often: nearly all of the first few, and few of the last.
        assert!(
            (1300..1800).contains(&below_a_tenth),
            "{below_a_tenth} of 2000"
        );
        assert_eq!(drawn(10, 3, (0, 0)).len(), 3);
        assert_eq!(
            drawn(1, 5, (0, 0)),
            [Level {
                end: 5,
                weight: 1.0
            }]
        );
    }
}
