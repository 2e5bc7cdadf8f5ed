//! An SAE of a job before it is trained.

use crate::K;
use serde::{Deserialize, Serialize};

/// One SAE of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SaeSpec {
    /// The hookpoint, followed by `/seed{n}` if the job has several seeds; also its folder.
    pub name: String,
    /// The hookpoint; of a crosscoder, all of them with `+` between.
    pub hookpoint: String,
    /// Those of a crosscoder, of which [`SECOND`](crate::SECOND) marks those of the second model, or those that a
    /// cross-layer transcoder writes to, from its own on. Empty: there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hookpoints: Vec<String>,
    /// Seed of the initial weights.
    pub seed: i64,
    /// Width of the input.
    pub d_in: usize,
    /// Width of the output, if a transcoder's is another than that of its input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub d_out: Option<usize>,
    /// Number of latents.
    pub num_latents: usize,
    /// Latents a token may use.
    pub k: K,
    /// Learning rate.
    pub lr: f64,
}

impl SaeSpec {
    /// Width of its output.
    pub fn d_out(&self) -> usize {
        self.d_out.unwrap_or(self.d_in)
    }

    /// The hookpoints whose activations it gives.
    pub fn outputs(&self) -> &[String] {
        if self.hookpoints.is_empty() {
            std::slice::from_ref(&self.hookpoint)
        } else {
            &self.hookpoints
        }
    }
}
