//! BatchTopK: the largest pre-activations of all tokens of an update, not of each token (Bussmann et al. 2024,
//! arXiv:2412.06410). How many a token has is left open; on average it is `k`.

use crate::kernels::{Listed, ListedNumbers, largest_of_all, largest_of_each};
use crate::{Sae, SaeError};
use tch::{Kind, TchError, Tensor};

/// Latents of some tokens, with what decides between them.
#[derive(Debug)]
pub struct BatchLatents {
    /// One set, or one for each hookpoint, if hookpoints choose their latents apart.
    pub(super) sets: Vec<ListedNumbers>,
}

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub struct BatchSearch<'a> {
    /// Latents of all tokens of the update together, in each set.
    pub n_wanted: usize,
    /// About the least score among them, in each set, if that is known; it changes no result.
    pub least: &'a [f32],
    /// Whether pre-activations are multiplied by the norms of the decoder's rows; where hookpoints choose apart, they
    /// are.
    pub rescales: bool,
}

impl Sae {
    /// The latents of `x`: `[n_tokens, d_in]`, that may be among the largest of an update that these tokens are part of.
    ///
    /// # Errors
    /// Another shape, another kind, or too little memory.
    pub fn batch_latents(
        &self,
        x: &Tensor,
        search: BatchSearch<'_>,
    ) -> Result<BatchLatents, SaeError> {
        self.check_input(x)?;
        let (centred, n) = (self.centred(x)?, search.n_wanted);
        if self.cfg.is_decoupled() {
            let encoder = (&self.encoder_weight, &self.encoder_bias);
            let norms = self.hookpoint_norms()?;
            return Ok(BatchLatents {
                sets: largest_of_each(&centred, encoder, &norms, (n, search.least))?,
            });
        }
        let (weight, bias) = self.scoring_encoder(search.rescales)?;
        let least = search.least.first().copied().unwrap_or(0.0);
        Ok(BatchLatents {
            sets: vec![largest_of_all(&centred, (&weight, &bias), n, least)?],
        })
    }
}

impl BatchLatents {
    /// Positive scores of a set: `[n]`, Float, in no certain order, 0 among them.
    pub fn scores(&self, set: usize) -> &Tensor {
        &self.sets[set].numbers
    }

    /// Where the scores of a set are: `token * num_latents + latent`: `[n]`, Int64, rising.
    ///
    /// # Errors
    /// Too little memory.
    pub fn places(&self, set: usize, num_latents: usize) -> Result<Tensor, SaeError> {
        let at = &self.sets[set].at;
        let of_tokens = at.tokens().f_mul_scalar(num_latents as i64)?;
        Ok(of_tokens.f_add(&at.indices)?)
    }

    /// On how many tokens each latent has a positive score in any set: `[num_latents]`, Float.
    ///
    /// # Errors
    /// Too little memory.
    pub fn fire_counts(&self, num_latents: usize) -> Result<Tensor, SaeError> {
        let mut before: Vec<(Tensor, Tensor)> = Vec::new();
        let mut sum: Option<Tensor> = None;
        for (idx, ListedNumbers { at, numbers }) in self.sets.iter().enumerate() {
            let is_positive = numbers.f_gt(0.0)?;
            let mut is_new = is_positive.shallow_clone();
            if self.sets.len() > 1 {
                let places = self.places(idx, num_latents)?;
                for known in &before {
                    is_new = is_new.f_logical_and(&are_among(&places, known)?.f_logical_not()?)?;
                }
                before.push((places, is_positive));
            }
            let counts = at.sums_by_latent(&is_new.f_to_kind(Kind::Float)?, num_latents as i64)?;
            sum = Some(match sum {
                None => counts,
                Some(sum) => sum.f_add(&counts)?,
            });
        }
        Ok(sum.expect("there is a set"))
    }

    /// The least positive of the scores, or of the `n` largest if they are more: scalar, Float; infinity if none is
    /// positive.
    ///
    /// # Errors
    /// Too little memory.
    pub fn least_of(scores: &[&Tensor], n: usize) -> Result<Tensor, SaeError> {
        let scores = Tensor::f_cat(scores, 0)?;
        let n = i64::try_from(n).unwrap_or(i64::MAX).min(scores.size()[0]);
        let (largest, _) = scores.f_topk(n, 0, true, false)?;
        let positive = largest.f_masked_fill(&largest.f_le(0.0)?, f64::INFINITY)?;
        let infinity = Tensor::f_full([1], f64::INFINITY, (Kind::Float, positive.device()))?;
        Ok(Tensor::f_cat(&[positive, infinity], 0)?.f_min()?)
    }

    /// Those whose score is at least `least`: Float, a scalar, or one for each set.
    ///
    /// # Errors
    /// Too little memory.
    pub fn at_least(self, least: &Tensor) -> Result<Self, SaeError> {
        let of_sets = least.f_reshape([-1])?;
        let of_set = |(set, ListedNumbers { at, numbers }): (i64, ListedNumbers)| {
            // Where a score is less, the latent stays in the list with an activation of 0: nothing waits for a number.
            let is_less = numbers.f_lt_tensor(&of_sets.f_get(set)?)?;
            Ok(ListedNumbers {
                numbers: numbers.f_masked_fill(&is_less, 0.0)?,
                at,
            })
        };
        let sets = (0..).zip(self.sets).map(of_set);
        Ok(Self {
            sets: sets.collect::<Result<_, SaeError>>()?,
        })
    }

    /// The tokens from `start` on, `n` of them.
    ///
    /// # Errors
    /// Too little memory.
    pub fn narrow(&self, start: i64, n: i64) -> Result<Self, SaeError> {
        let of_set = |ListedNumbers { at, numbers }: &ListedNumbers| {
            let starts = at.starts.f_narrow(0, start, n + 1)?;
            let first = starts.f_int64_value(&[0])?;
            let n_entries = starts.f_int64_value(&[n])? - first;
            Ok(ListedNumbers {
                at: Listed::new(
                    at.indices.f_narrow(0, first, n_entries)?,
                    starts.f_sub_scalar(first)?,
                )?,
                numbers: numbers.f_narrow(0, first, n_entries)?,
            })
        };
        Ok(Self {
            sets: self
                .sets
                .iter()
                .map(of_set)
                .collect::<Result<_, SaeError>>()?,
        })
    }
}

/// Which of `places` are among the known ones, of which some count; both rise.
fn are_among(places: &Tensor, (known, counts): &(Tensor, Tensor)) -> Result<Tensor, TchError> {
    let n_known = known.size()[0];
    if n_known == 0 {
        return places.f_zeros_like()?.f_to_kind(Kind::Bool);
    }
    let at = places.f_searchsorted(known, false, false, "left", None::<Tensor>)?;
    let at = at.f_clamp_max(n_known - 1)?;
    let is_known = known.f_take(&at)?.f_eq_tensor(places)?;
    is_known.f_logical_and(&counts.f_take(&at)?)
}
