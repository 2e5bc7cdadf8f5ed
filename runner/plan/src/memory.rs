//! Predicted memory of a stream: an estimate from shapes alone, to pack streams onto devices and to
//! warn before a run, not a promise.

use crate::{Dtype, Job, ModelFacts, Optimizer, SaeSpec, TrainConfig};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const FLOAT_BYTES: u128 = 4;
/// A block's own working set, in residual streams.
const BLOCK_ROWS: usize = 8;
/// What autograd keeps of a block, in residual streams.
const GRAPH_ROWS: usize = 16;
/// Logits, their log-probabilities and a gradient.
const LOGITS_COPIES: usize = 3;
/// Where evaluation cuts its batches.
const MOST_LOGITS_BYTES: u128 = 1 << 30;

/// Predicted memory of one worker, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryEstimate {
    /// The language model's weights, up to the last hookpoint; all with a loss on its output.
    pub model_bytes: u64,
    /// Weights of all SAEs, their gradients and what the optimizer keeps of them.
    pub sae_bytes: u64,
    /// Activations, pre-activations and gradients that stand at the same time.
    pub workspace_bytes: u64,
    /// All that evaluation takes, when the former are gone: the whole model, the SAEs' weights and
    /// logits. 0 where no job is evaluated.
    #[serde(default)]
    pub evaluation_bytes: u64,
}

impl MemoryEstimate {
    /// The most that stands at the same time.
    pub fn total_bytes(&self) -> u64 {
        let training = self.model_bytes.saturating_add(self.sae_bytes);
        let training = training.saturating_add(self.workspace_bytes);
        training.max(self.evaluation_bytes)
    }
}

/// Predicted memory of one SAE in training, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaeMemory {
    /// Its weights.
    pub weights_bytes: u64,
    /// Their gradients.
    pub gradients_bytes: u64,
    /// What the optimizer keeps of them.
    pub optimizer_bytes: u64,
    /// Pre-activations, residual and reconstruction of a part of a batch; SAEs share the space, for
    /// they take turns.
    pub activations_bytes: u64,
}

/// Predicts the memory of `sae`, which a job with the settings `config` trains.
pub fn sae_memory(config: &TrainConfig, sae: &SaeSpec) -> SaeMemory {
    let weights = FLOAT_BYTES * sae_params(config, sae);
    let row = FLOAT_BYTES * sae_row(config, sae) as u128;
    SaeMemory {
        weights_bytes: in_64_bits(weights),
        gradients_bytes: in_64_bits(weights),
        optimizer_bytes: in_64_bits(weights * kept_copies(config.optimizer)),
        activations_bytes: in_64_bits(row * tokens_per_batch(config)),
    }
}

/// What the jobs of a stream, added one by one, come to.
#[derive(Clone, Debug)]
pub(crate) struct MemoryDemand<'a> {
    facts: &'a ModelFacts,
    /// Settings that all jobs of a stream share are read off the first.
    first: &'a TrainConfig,
    /// Blocks of the model that are run.
    n_layers: usize,
    /// Weights, gradients and what the optimizers keep.
    sae_bytes: u128,
    /// Weights of the SAEs that are evaluated.
    evaluated_bytes: u128,
    /// Parameters of the largest SAE.
    most_params: u128,
    /// Widths of what is tapped, by hookpoint.
    widths: BTreeMap<&'a str, usize>,
    /// Floats for a token of the SAE that takes the most.
    sae_row: usize,
}

impl<'a> MemoryDemand<'a> {
    /// That of a job alone, on the model of `facts`.
    pub(crate) fn of(job: &'a Job, facts: &'a ModelFacts) -> Self {
        let mut demand = Self {
            facts,
            first: &job.config,
            n_layers: 0,
            sae_bytes: 0,
            evaluated_bytes: 0,
            most_params: 0,
            widths: BTreeMap::new(),
            sae_row: 0,
        };
        demand.add(job);
        demand
    }

    /// Adds a job that trains beside the others.
    pub(crate) fn add(&mut self, job: &'a Job) {
        let config = &job.config;
        self.n_layers = self.n_layers.max(layers_needed(job, self.facts));
        for sae in &job.saes {
            let n_params = sae_params(config, sae);
            let n_copies = 2 + kept_copies(config.optimizer);
            self.sae_bytes += FLOAT_BYTES * n_params * n_copies;
            if config.wants_evaluation() {
                self.evaluated_bytes += FLOAT_BYTES * n_params;
            }
            self.most_params = self.most_params.max(n_params);
            let tapped = match config.transcode {
                true => sae.d_in + sae.d_out(),
                false => sae.d_in,
            };
            let width = self.widths.entry(&sae.hookpoint).or_default();
            *width = tapped.max(*width);
            // SAEs run one after the other.
            self.sae_row = self.sae_row.max(sae_row(config, sae));
        }
    }

    /// Blocks of the model that are run.
    pub(crate) fn n_layers(&self) -> usize {
        self.n_layers
    }

    /// In bytes.
    pub(crate) fn estimate(&self) -> MemoryEstimate {
        MemoryEstimate {
            model_bytes: in_64_bits(self.model()),
            sae_bytes: in_64_bits(self.sae_bytes),
            workspace_bytes: in_64_bits(self.workspace()),
            evaluation_bytes: in_64_bits(self.evaluation()),
        }
    }

    fn model(&self) -> u128 {
        let blocks = model_bytes(self.first, self.facts, self.n_layers as u64);
        match self.first.loss_fn.is_end_to_end() {
            true => blocks + head_bytes(self.facts),
            false => blocks,
        }
    }

    fn workspace(&self) -> u128 {
        let n_tokens = tokens_per_batch(self.first);
        let activations: usize = self.widths.values().sum();
        let row = activations + self.sae_row.max(BLOCK_ROWS * self.facts.hidden_size);
        let graph = match self.first.loss_fn.is_end_to_end() {
            true => {
                let blocks = self.n_layers * GRAPH_ROWS * self.facts.hidden_size;
                blocks + LOGITS_COPIES * self.facts.vocab_size
            }
            false => 0,
        };
        // A part's gradients stand beside their sum, and what is published beside what is trained.
        FLOAT_BYTES * (n_tokens * (row + graph) as u128 + self.most_params)
    }

    fn evaluation(&self) -> u128 {
        if self.evaluated_bytes == 0 {
            return 0;
        }
        let (facts, n_tokens) = (self.facts, tokens_per_batch(self.first));
        let logits = FLOAT_BYTES * n_tokens * facts.vocab_size as u128;
        let logits = LOGITS_COPIES as u128 * logits.min(MOST_LOGITS_BYTES);
        let model = model_bytes(self.first, facts, facts.n_layers as u64) + head_bytes(facts);
        model + self.evaluated_bytes + logits
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
fn layers_needed(job: &Job, facts: &ModelFacts) -> usize {
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

/// Tensors of the weights' size that an optimizer keeps.
fn kept_copies(optimizer: Optimizer) -> u128 {
    match optimizer {
        Optimizer::Signum | Optimizer::Muon => 1,
        Optimizer::Adam => 2,
    }
}

fn sae_params(config: &TrainConfig, sae: &SaeSpec) -> u128 {
    let [d_in, d_out, num_latents] =
        [sae.d_in, sae.d_out(), sae.num_latents].map(|width| width as u128);
    let skip = if config.skip_connection {
        d_in * d_out
    } else {
        0
    };
    num_latents * (d_in + d_out) + num_latents + d_out + skip
}

/// Floats for a token: pre-activations, those of dead latents once more, residual, its gradient and
/// the reconstruction.
fn sae_row(config: &TrainConfig, sae: &SaeSpec) -> usize {
    let n_pre_acts = if config.auxk_alpha > 0.0 { 2 } else { 1 };
    let row = n_pre_acts * sae.num_latents + 4 * sae.d_in.max(sae.d_out());
    row.div_ceil(config.micro_acc_steps)
}

fn tokens_per_batch(config: &TrainConfig) -> u128 {
    config.batch_size as u128 * config.ctx_len as u128
}

/// As if it were not the embedding's.
fn head_bytes(facts: &ModelFacts) -> u128 {
    FLOAT_BYTES * facts.vocab_size as u128 * facts.hidden_size as u128
}
