//! Predicted memory of a stream: an estimate from shapes alone, to pack streams onto devices and to
//! warn before a run, not a promise.

use crate::{Dtype, Job, ModelFacts, Optimizer, SaeSpec, TrainConfig};
use serde::{Deserialize, Serialize};

const FLOAT_BYTES: u128 = 4;

/// Predicted memory of one worker, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryEstimate {
    /// The language model's weights, up to the last hookpoint.
    pub model_bytes: u64,
    /// Weights of all SAEs and what the optimizer keeps of them.
    pub sae_bytes: u64,
    /// Activations, pre-activations and gradients that stand at the same time.
    pub workspace_bytes: u64,
}

impl MemoryEstimate {
    /// The sum.
    pub fn total_bytes(&self) -> u64 {
        self.model_bytes
            .saturating_add(self.sae_bytes)
            .saturating_add(self.workspace_bytes)
    }
}

/// Predicts the memory of a worker that trains `jobs` side by side on the model of `facts`.
pub fn estimate_memory(jobs: &[&Job], facts: &ModelFacts) -> MemoryEstimate {
    let layers = jobs
        .iter()
        .map(|job| layers_needed(job, facts))
        .max()
        .unwrap_or(0) as u64;
    let config = jobs.first().map(|job| &job.config);
    let model_bytes = config.map_or(0, |config| model_bytes(config, facts, layers));
    let of_job = |job: &&Job| {
        let n_params: u128 = job.saes.iter().map(sae_params).sum();
        copies(&job.config) * FLOAT_BYTES * n_params
    };
    let sae_bytes = jobs.iter().map(of_job).sum();
    MemoryEstimate {
        model_bytes: in_64_bits(model_bytes),
        sae_bytes: in_64_bits(sae_bytes),
        workspace_bytes: in_64_bits(workspace(jobs, facts)),
    }
}

/// Sums and products are taken in 128 bits: a nonsensical setting is to be told, not to overflow.
fn in_64_bits(n_bytes: u128) -> u64 {
    u64::try_from(n_bytes).unwrap_or(u64::MAX)
}

/// The weights of the embeddings and of `layers` blocks. What `auto` means is known to the worker
/// alone, by its device; here it counts as float32, the widest.
fn model_bytes(config: &TrainConfig, facts: &ModelFacts, layers: u64) -> u128 {
    let bytes = match config.dtype {
        Dtype::Auto | Dtype::Float32 => FLOAT_BYTES,
        Dtype::BFloat16 | Dtype::Float16 => FLOAT_BYTES / 2,
    };
    let in_8bit = match config.load_in_8bit {
        true => u128::from(facts.layer_8bit_params),
        false => 0,
    };
    let in_full = u128::from(facts.layer_params).saturating_sub(in_8bit);
    bytes * u128::from(facts.embedding_params) + u128::from(layers) * (in_8bit + bytes * in_full)
}

/// How many blocks the forward pass runs for `job`.
pub(crate) fn layers_needed(job: &Job, facts: &ModelFacts) -> usize {
    if job.config.loss_fn.is_end_to_end() {
        return facts.n_layers;
    }
    let needed = |name: &str| {
        facts
            .hookpoint(name)
            .map_or(facts.n_layers, |h| h.n_layers_needed)
    };
    job.saes
        .iter()
        .map(|sae| needed(&sae.hookpoint))
        .max()
        .unwrap_or(0)
}

/// Tensors of the weights' size that stand beside each other: the weights, their gradients and what
/// the optimizer remembers.
fn copies(config: &TrainConfig) -> u128 {
    match config.optimizer {
        Optimizer::Signum => 3,
        Optimizer::Adam => 5,
        Optimizer::Muon => 4,
    }
}

fn sae_params(sae: &SaeSpec) -> u128 {
    let [d_in, d_out, num_latents] =
        [sae.d_in, sae.d_out(), sae.num_latents].map(|width| width as u128);
    num_latents * (d_in + d_out) + num_latents + d_out
}

fn workspace(jobs: &[&Job], facts: &ModelFacts) -> u128 {
    let Some(job) = jobs.first() else { return 0 };
    let n_tokens = job.config.batch_size as u128 * job.config.ctx_len as u128;
    let mut widths: Vec<(&str, usize)> = jobs
        .iter()
        .flat_map(|job| &job.saes)
        .map(|sae| (sae.hookpoint.as_str(), sae.d_in))
        .collect();
    widths.sort_unstable();
    widths.dedup();
    let activations: usize = widths.iter().map(|(_, width)| width).sum();
    // SAEs run one after the other, so only the widest pre-activations stand at once; beside them
    // the residual, its gradient and the reconstruction.
    let of_sae = |job: &&&Job| {
        let widest = job
            .saes
            .iter()
            .map(|sae| sae.num_latents + 4 * sae.d_in)
            .max()
            .unwrap_or(0);
        widest.div_ceil(job.config.micro_acc_steps)
    };
    let sae_row = jobs.iter().map(|job| of_sae(&job)).max().unwrap_or(0);
    // A block's own working set: about eight times the residual stream.
    let block = 8 * facts.hidden_size;
    FLOAT_BYTES * n_tokens * (activations + sae_row.max(block)) as u128
}
