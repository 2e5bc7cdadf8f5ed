//! BatchTopK: the largest pre-activations of all tokens of an update, not of each token (Bussmann et al. 2024,
//! arXiv:2412.06410). How many a token has is left open; on average it is `k`.

use crate::kernels::{Listed, ListedNumbers, largest_of_all};
use crate::{Sae, SaeError};
use tch::{Kind, Tensor};

/// Latents of some tokens, with what decides between them.
#[derive(Debug)]
pub struct BatchLatents {
    pub(super) scores: ListedNumbers,
}

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub struct BatchSearch {
    /// Latents of all tokens of the update together.
    pub n_wanted: usize,
    /// About the least score among them, if that is known; it changes no result.
    pub least: f32,
    /// Whether pre-activations are multiplied by the norms of the decoder's rows.
    pub rescales: bool,
}

impl Sae {
    /// The latents of `x`: `[n_tokens, d_in]`, that may be among the largest of an update that these tokens are part of.
    ///
    /// # Errors
    /// Another shape, another kind, or too little memory.
    pub fn batch_latents(&self, x: &Tensor, search: BatchSearch) -> Result<BatchLatents, SaeError> {
        self.check_input(x)?;
        let (weight, bias) = self.scoring_encoder(search.rescales)?;
        let encoder = (&weight, &bias);
        let scores = largest_of_all(&self.centred(x)?, encoder, search.n_wanted, search.least)?;
        Ok(BatchLatents { scores })
    }
}

impl BatchLatents {
    /// Positive scores: `[n]`, Float, in no certain order, 0 among them.
    pub fn scores(&self) -> &Tensor {
        &self.scores.numbers
    }

    /// On how many tokens each latent has a positive score: `[num_latents]`, Float.
    ///
    /// # Errors
    /// Too little memory.
    pub fn fire_counts(&self, num_latents: usize) -> Result<Tensor, SaeError> {
        let ListedNumbers { at, numbers } = &self.scores;
        let is_positive = numbers.f_gt(0.0)?.f_to_kind(Kind::Float)?;
        Ok(at.sums_by_latent(&is_positive, num_latents as i64)?)
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

    /// Those whose score is at least `least`: scalar, Float.
    ///
    /// # Errors
    /// Too little memory.
    pub fn at_least(self, least: &Tensor) -> Result<Self, SaeError> {
        let ListedNumbers { at, numbers } = self.scores;
        // Where a score is less, the latent stays in the list with an activation of 0: nothing waits for a number.
        let is_less = numbers.f_lt_tensor(least)?;
        Ok(Self {
            scores: ListedNumbers {
                numbers: numbers.f_masked_fill(&is_less, 0.0)?,
                at,
            },
        })
    }

    /// The tokens from `start` on, `n` of them.
    ///
    /// # Errors
    /// Too little memory.
    pub fn narrow(&self, start: i64, n: i64) -> Result<Self, SaeError> {
        let ListedNumbers { at, numbers } = &self.scores;
        let starts = at.starts.f_narrow(0, start, n + 1)?;
        let first = starts.f_int64_value(&[0])?;
        let n_entries = starts.f_int64_value(&[n])? - first;
        Ok(Self {
            scores: ListedNumbers {
                at: Listed::new(
                    at.indices.f_narrow(0, first, n_entries)?,
                    starts.f_sub_scalar(first)?,
                )?,
                numbers: numbers.f_narrow(0, first, n_entries)?,
            },
        })
    }
}
