//! Predicted memory of a stream: an estimate from shapes alone, to pack streams onto devices and to
//! warn before a run, not a promise.

use crate::cross::name_in_model;
use crate::{
    Activation, AuxkNorm, Dtype, Job, ModelFacts, Models, Optimizer, SaeSpec, SparsityLoss,
    TrainConfig, k_at, owners,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) const FLOAT_BYTES: u128 = 4;
/// A block's own working set, in residual streams.
const BLOCK_ROWS: usize = 8;
/// What autograd keeps of a block, in residual streams.
const GRAPH_ROWS: usize = 16;
/// What the total variance of a target takes: deviations, their squares, and these in Double.
const MOMENTS_ROWS: usize = 4;
/// Logits, their log-probabilities and a gradient.
const LOGITS_COPIES: usize = 3;
/// Memory of a machine that a process takes besides what it computes on.
const OF_PROCESS_BYTES: u64 = 2_000_000_000;
/// The same next to a GPU, with CUDA.
const OF_GPU_PROCESS_BYTES: u64 = 4_000_000_000;
/// Where evaluation cuts its batches.
const MOST_LOGITS_BYTES: u128 = 1 << 30;

/// Most bytes of one tensor of numbers at all latents of some tokens: what has more is computed in blocks.
const BLOCK_BYTES: u128 = 256 << 20;
/// Bytes of a latent of a token from which those near thresholds are listed: its number, and whether it is near.
const NUMBER_BYTES: u128 = 7;
/// Latents that batchtopk lists for each that it takes.
const LISTED: f64 = 2.8;
/// An entry of that list: number, latent, and its place.
const ENTRY_BYTES: u128 = 12;
/// What is computed from an entry, in floats.
const ENTRY_FLOATS: f64 = 7.5;

/// Predicted memory of a worker, in bytes. If several processes (ranks) train together it is that of
/// the one that needs the most; with `distribute_modules` they need different amounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryEstimate {
    /// The language models' weights, up to the last hookpoint; all with a loss on the output.
    pub model_bytes: u64,
    /// Weights of the SAEs that it has, their gradients and what the optimizer keeps of them.
    pub sae_bytes: u64,
    /// Activations, pre-activations and gradients that are in memory at the same time.
    pub workspace_bytes: u64,
    /// All that evaluation takes, when the former are gone: the whole model, the SAEs' weights and
    /// logits. 0 if no job is evaluated. Every rank has all SAEs then, and a part of the sequences.
    #[serde(default)]
    pub evaluation_bytes: u64,
}

impl MemoryEstimate {
    /// The most that is in memory at the same time.
    pub fn total_bytes(&self) -> u64 {
        let training = self.model_bytes.saturating_add(self.sae_bytes);
        let training = training.saturating_add(self.workspace_bytes);
        training.max(self.evaluation_bytes)
    }

    /// What a process takes of its machine's memory: next to a GPU the weights and states, which pass through it on their
    /// way to the GPU and to the disk; without one a quarter more than is predicted. And libraries and tokens.
    pub fn machine_bytes(&self, has_gpu: bool) -> u64 {
        let (bytes, of_program) = if has_gpu {
            let bytes = self.model_bytes.saturating_add(self.sae_bytes);
            (bytes, OF_GPU_PROCESS_BYTES)
        } else {
            let bytes = self.total_bytes();
            (bytes.saturating_add(bytes / 4), OF_PROCESS_BYTES)
        };
        bytes.saturating_add(of_program)
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

/// Predicts the memory of the worker of `jobs`, at least one, on `models` in `n_ranks` processes.
pub fn memory_of(jobs: &[&Job], models: Models<'_>, n_ranks: usize) -> MemoryEstimate {
    MemoryDemand::of(jobs, models, n_ranks).estimate()
}

/// Predicts the memory of `sae`, which a job with the settings `config` trains in `n_ranks` processes, in
/// one that has it.
pub fn sae_memory(config: &TrainConfig, sae: &SaeSpec, n_ranks: usize) -> SaeMemory {
    let weights = FLOAT_BYTES * sae_params(config, sae);
    let row = FLOAT_BYTES * sae_row(config, sae) as u128;
    // A rank that has an SAE alone gets the activations of all.
    let n_batches = if config.distribute_modules {
        n_ranks
    } else {
        1
    };
    let n_tokens = tokens_per_batch(config) * n_batches as u128;
    SaeMemory {
        weights_bytes: in_64_bits(weights),
        gradients_bytes: in_64_bits(weights),
        optimizer_bytes: in_64_bits(weights * kept_copies(config.optimizer)),
        activations_bytes: in_64_bits(row * n_tokens + block_bytes(config, sae, n_tokens)),
    }
}

/// What the jobs of a stream need together, side by side.
#[derive(Clone, Debug)]
pub(crate) struct MemoryDemand<'a> {
    model: RunModel<'a>,
    /// That of `crosscoder_model`.
    second: Option<RunModel<'a>>,
    /// Settings that all jobs of a stream share are read off the first.
    first: &'a TrainConfig,
    /// Weights of the SAEs that are evaluated.
    evaluated_bytes: u128,
    /// What is tapped in the model.
    taps: Widths<'a>,
    /// SAEs that all ranks have.
    of_all: Share<'a>,
    /// SAEs that one rank has, by rank.
    of_rank: Vec<Share<'a>>,
}

/// A model, and how many of its blocks are run.
#[derive(Clone, Copy, Debug)]
struct RunModel<'a> {
    facts: &'a ModelFacts,
    n_layers: usize,
}

/// Widths of activations, by hookpoint: of both ends if one is predicted from the other.
#[derive(Clone, Debug, Default)]
struct Widths<'a>(BTreeMap<&'a str, usize>);

/// SAEs that train in the same process, one after the other.
#[derive(Clone, Debug, Default)]
struct Share<'a> {
    /// Weights, gradients and what the optimizers keep.
    sae_bytes: u128,
    /// Parameters of the largest SAE.
    most_params: u128,
    /// Floats for a token of the SAE that takes the most.
    sae_row: usize,
    /// Floats for a token of all layers of a cross-layer transcoder.
    row_of_layers: usize,
    /// What is computed with all latents of a block of tokens, of the SAE that takes the most.
    block_bytes: u128,
    /// Latents that are listed for a token until the whole update is known, of all SAEs.
    n_listed: u128,
    /// What is kept of each token until then.
    held: Widths<'a>,
    /// Width of the widest SAE's input and output together.
    ends: usize,
    /// What they are trained on.
    widths: Widths<'a>,
}

impl<'a> MemoryDemand<'a> {
    /// That of `jobs`, at least one, on `models` in `n_ranks` processes.
    pub(crate) fn of(jobs: &[&'a Job], models: Models<'a>, n_ranks: usize) -> Self {
        let run = |facts, is_second| RunModel {
            facts,
            n_layers: layers_needed(jobs, facts, is_second),
        };
        let mut demand = Self {
            model: run(models.first, false),
            second: models.second.map(|facts| run(facts, true)),
            first: &jobs[0].config,
            evaluated_bytes: 0,
            taps: Widths::default(),
            of_all: Share::default(),
            of_rank: vec![Share::default(); n_ranks],
        };
        for (job, owners) in jobs.iter().zip(owners(jobs, n_ranks)) {
            demand.add(job, owners.as_deref());
        }
        demand
    }

    /// `owners`: the rank that has each SAE; `None`: all have all.
    fn add(&mut self, job: &'a Job, owners: Option<&[usize]>) {
        let config = &job.config;
        for (sae_idx, sae) in job.saes.iter().enumerate() {
            if config.wants_evaluation() {
                self.evaluated_bytes += FLOAT_BYTES * sae_params(config, sae);
            }
            self.taps.add(config, sae);
            let n_tokens = tokens_per_batch(config);
            let n_ranks = self.of_rank.len() as u128;
            let (share, n_tokens) = match owners {
                Some(ranks) => (&mut self.of_rank[ranks[sae_idx]], n_ranks * n_tokens),
                None => (&mut self.of_all, n_tokens),
            };
            share.add(config, sae, n_tokens);
            if config.cross_layer {
                // What all layers computed waits for the errors of the last.
                share.row_of_layers += sae_row(config, sae) / config.init_seeds.len();
            }
        }
        for share in self.of_rank.iter_mut().chain([&mut self.of_all]) {
            share.sae_row = share.sae_row.max(std::mem::take(&mut share.row_of_layers));
        }
    }

    /// Blocks of the model that are run.
    pub(crate) fn n_layers(&self) -> usize {
        self.model.n_layers
    }

    /// The same of the second model.
    pub(crate) fn second_n_layers(&self) -> Option<usize> {
        self.second.map(|second| second.n_layers)
    }

    fn models(&self) -> impl Iterator<Item = RunModel<'a>> {
        [Some(self.model), self.second].into_iter().flatten()
    }

    /// In bytes.
    pub(crate) fn estimate(&self) -> MemoryEstimate {
        let of_rank = self.of_rank.iter().map(|own| {
            let sae_bytes = self.of_all.sae_bytes + own.sae_bytes;
            (sae_bytes, self.workspace(own))
        });
        let most = of_rank.max_by_key(|(sae_bytes, workspace)| sae_bytes + workspace);
        let (sae_bytes, workspace) = most.expect("there is at least one rank");
        MemoryEstimate {
            model_bytes: in_64_bits(self.model()),
            sae_bytes: in_64_bits(sae_bytes),
            workspace_bytes: in_64_bits(workspace),
            evaluation_bytes: in_64_bits(self.evaluation()),
        }
    }

    fn model(&self) -> u128 {
        let of_model = |own: RunModel<'_>| model_bytes(self.first, own.facts, own.n_layers as u64);
        let blocks = self.models().map(of_model).sum();
        if self.first.loss_fn.is_end_to_end() {
            blocks + head_bytes(self.model.facts)
        } else {
            blocks
        }
    }

    /// That of a rank which has the SAEs `own` alone.
    fn workspace(&self, own: &Share<'_>) -> u128 {
        let row_bytes = FLOAT_BYTES * tokens_per_batch(self.first);
        let hidden_sizes = self.models().map(|own| own.facts.hidden_size);
        let pass = row_bytes * (BLOCK_ROWS * hidden_sizes.max().unwrap_or(0)) as u128;
        let sae = row_bytes * self.of_all.sae_row as u128 + self.of_all.block_bytes;
        let n_ranks = self.of_rank.len() as u128;
        let received = n_ranks * self.sent_bytes(own);
        let own_sae = n_ranks * row_bytes * self.own_row(own) as u128 + own.block_bytes;
        let n_passes = passes_per_update(self.first, n_ranks);
        let n_tokens = tokens_per_batch(self.first);
        let held = self.of_all.held_bytes(n_passes, n_tokens)
            + own.held_bytes(n_passes, n_ranks * n_tokens);
        // What arrives in one piece is sorted by hookpoint. What is sent is gone by then.
        let most = pass.max(received + received.max(sae).max(own_sae));
        // A part's gradients are in memory together with their sum, and what is published with what is trained.
        let most_params = self.of_all.most_params.max(own.most_params);
        row_bytes * (self.taps.sum() + self.graph()) as u128
            + most
            + FLOAT_BYTES * most_params
            + held
    }

    /// Floats for a token that autograd keeps.
    fn graph(&self) -> usize {
        if self.first.loss_fn.is_end_to_end() {
            let RunModel { facts, n_layers } = self.model;
            n_layers * GRAPH_ROWS * facts.hidden_size + LOGITS_COPIES * facts.vocab_size
        } else {
            0
        }
    }

    /// What each rank sends to the one which has the SAEs `own` alone, in what the model computes in.
    fn sent_bytes(&self, own: &Share<'_>) -> u128 {
        dtype_bytes(self.first) * tokens_per_batch(self.first) * own.widths.sum() as u128
    }

    /// Floats for a token of an SAE that takes what was sent, with input and target turned into Float.
    fn own_row(&self, own: &Share<'_>) -> usize {
        match dtype_bytes(self.first) {
            FLOAT_BYTES => own.sae_row,
            _ => own.sae_row + own.ends,
        }
    }

    fn evaluation(&self) -> u128 {
        if self.evaluated_bytes == 0 {
            return 0;
        }
        let n_tokens = tokens_per_batch(self.first);
        let vocab_sizes = self.models().map(|own| own.facts.vocab_size);
        let of_token = FLOAT_BYTES * vocab_sizes.max().unwrap_or(0) as u128;
        let n_evaluated = n_tokens.min(MOST_LOGITS_BYTES / of_token.max(1)).max(1);
        let logits = LOGITS_COPIES as u128 * (of_token * n_tokens).min(MOST_LOGITS_BYTES);
        // What blocks get in the clean pass, from which all others continue.
        let begun = dtype_bytes(self.first) * n_evaluated * self.taps.sum() as u128;
        let whole = |RunModel { facts, .. }: RunModel<'_>| {
            model_bytes(self.first, facts, facts.n_layers as u64) + head_bytes(facts)
        };
        self.models().map(whole).sum::<u128>() + self.evaluated_bytes + logits + begun
    }
}

impl<'a> Share<'a> {
    /// `n_tokens`: of a forward pass.
    fn add(&mut self, config: &TrainConfig, sae: &'a SaeSpec, n_tokens: u128) {
        let n_params = sae_params(config, sae);
        let n_copies = 2 + kept_copies(config.optimizer);
        self.sae_bytes += FLOAT_BYTES * n_params * n_copies;
        // A part of a decoupled crosscoder's gradients is that of a hookpoint, with a copy of its rows of the decoder.
        let of_hookpoint = u128::from(config.is_decoupled()) * n_params;
        self.most_params = self.most_params.max(n_params + of_hookpoint);
        let row = sae_row(config, sae).max(MOMENTS_ROWS * sae.d_out());
        self.sae_row = self.sae_row.max(row);
        self.ends = self.ends.max(sae.d_in + sae.d_out());
        self.widths.add(config, sae);
        let block_bytes = block_bytes(config, sae, n_tokens);
        self.block_bytes = self.block_bytes.max(block_bytes);
        if waits_for_update(config) {
            self.held.add(config, sae);
            self.n_listed += listed(config, sae) as u128;
        }
    }

    /// What waits for the whole update of `n_passes`, of `n_tokens` each. The last pass is in memory anyway.
    fn held_bytes(&self, n_passes: u128, n_tokens: u128) -> u128 {
        let tokens = FLOAT_BYTES * self.held.sum() as u128 * (n_passes - 1) * n_tokens;
        tokens + ENTRY_BYTES * self.n_listed * n_passes * n_tokens
    }
}

impl<'a> Widths<'a> {
    fn add(&mut self, config: &TrainConfig, sae: &'a SaeSpec) {
        let outputs = sae.outputs();
        let width_of_output = sae.d_out() / outputs.len();
        let of_input = if config.transcode { sae.d_in } else { 0 };
        self.at_least(&sae.hookpoint, of_input);
        for hookpoint in outputs {
            let own = if *hookpoint == sae.hookpoint {
                of_input
            } else {
                0
            };
            self.at_least(hookpoint, own + width_of_output);
        }
        // Those of several hookpoints are joined.
        if config.crosscoder {
            self.at_least(&sae.hookpoint, sae.d_in);
        } else if let [_, _, ..] = outputs {
            self.at_least(&sae.name, sae.d_out());
        }
    }

    fn at_least(&mut self, name: &'a str, width: usize) {
        let known = self.0.entry(name).or_default();
        *known = width.max(*known);
    }

    fn sum(&self) -> usize {
        self.0.values().sum()
    }
}

/// Sums and products are taken in 128 bits: a nonsensical setting must be reported, and not overflow.
fn in_64_bits(n_bytes: u128) -> u64 {
    u64::try_from(n_bytes).unwrap_or(u64::MAX)
}

/// Of a number that the model computes with. What `auto` means is known to the worker alone, by its
/// device; here it counts as float32, the widest.
fn dtype_bytes(config: &TrainConfig) -> u128 {
    match config.dtype {
        Dtype::Auto | Dtype::Float32 => FLOAT_BYTES,
        Dtype::BFloat16 | Dtype::Float16 => FLOAT_BYTES / 2,
    }
}

/// The weights of the embeddings and of `layers` blocks.
fn model_bytes(config: &TrainConfig, facts: &ModelFacts, layers: u64) -> u128 {
    let bytes = dtype_bytes(config);
    let in_8bit = if config.load_in_8bit {
        u128::from(facts.layer_8bit_params)
    } else {
        0
    };
    let in_full = u128::from(facts.layer_params).saturating_sub(in_8bit);
    bytes * u128::from(facts.embedding_params) + u128::from(layers) * (in_8bit + bytes * in_full)
}

/// How many blocks of the model of `facts`, the first or the second, the forward pass runs for `jobs`.
fn layers_needed(jobs: &[&Job], facts: &ModelFacts, is_second: bool) -> usize {
    if jobs.iter().any(|job| job.config.loss_fn.is_end_to_end()) {
        return facts.n_layers;
    }
    let needed = |name: &str| {
        facts
            .hookpoint(name)
            .map_or(facts.n_layers, |h| h.n_layers_needed)
    };
    let saes = jobs.iter().flat_map(|job| &job.saes);
    saes.flat_map(SaeSpec::outputs)
        .filter_map(|name| name_in_model(name, is_second).map(needed))
        .max()
        .unwrap_or(0)
}

/// Tensors of the weights' size that an optimizer keeps.
pub(crate) fn kept_copies(optimizer: Optimizer) -> u128 {
    match optimizer {
        Optimizer::Signum | Optimizer::Muon => 1,
        Optimizer::Adam => 2,
    }
}

pub(crate) fn sae_params(config: &TrainConfig, sae: &SaeSpec) -> u128 {
    let [d_in, d_out, num_latents] =
        [sae.d_in, sae.d_out(), sae.num_latents].map(|width| width as u128);
    let skip = if config.skip_connection {
        d_in * d_out
    } else {
        0
    };
    let n_vectors = match config.activation {
        Activation::JumpRelu => 2,
        Activation::Gated => 3,
        _ => 1,
    };
    num_latents * (d_in + d_out) + n_vectors * num_latents + d_out + skip
}

/// Floats for a token: pre-activations, those of dead latents again, residual, its gradient and the
/// reconstruction, a gradient for each nested one, and what is computed from listed latents.
fn sae_row(config: &TrainConfig, sae: &SaeSpec) -> usize {
    let of_all = usize::from(n_dense(config) == 0);
    let n_pre_acts = of_all + usize::from(config.auxk_alpha > 0.0);
    let listed = (ENTRY_FLOATS * listed(config, sae) as f64) as usize;
    let nested = n_widths(config, sae) * sae.d_out();
    let row = n_pre_acts * sae.num_latents + 4 * sae.d_in.max(sae.d_out()) + nested + listed;
    row.div_ceil(config.micro_acc_steps)
}

/// Tensors of numbers at all latents that are computed in blocks of tokens. With jumprelu that is at the start, when
/// many latents fire.
pub(crate) fn n_dense(config: &TrainConfig) -> u128 {
    match config.activation {
        Activation::TopK | Activation::GroupMax => 0,
        Activation::BatchTopK => 1,
        Activation::Relu | Activation::JumpRelu => 6,
        Activation::Gated => 8,
    }
}

/// The tensors of a block, of a batch of `n_tokens`; or what a GPU lists latents from, once few of them fire.
fn block_bytes(config: &TrainConfig, sae: &SaeSpec, n_tokens: u128) -> u128 {
    let part = n_tokens.div_ceil(config.micro_acc_steps as u128);
    let n_numbers = sae.num_latents as u128 * part;
    let of_lists = match config.activation {
        Activation::Relu | Activation::JumpRelu => NUMBER_BYTES * n_numbers,
        _ => 0,
    };
    of_lists.max(n_dense(config) * BLOCK_BYTES.min(FLOAT_BYTES * n_numbers))
}

/// Latents of a token that batchtopk lists; most where `k` falls.
fn listed(config: &TrainConfig, sae: &SaeSpec) -> usize {
    if config.activation != Activation::BatchTopK {
        return 0;
    }
    let widths = (sae.d_in, sae.num_latents);
    let k = k_at(
        0,
        (sae.k, config.k_decay_steps),
        config.k_decay_from,
        widths,
    );
    let of_set = ((LISTED * k.mean()).ceil() as usize).min(sae.num_latents);
    of_set * n_active_sets(config, sae)
}

/// Sets of active latents that a token has: with a decoupled crosscoder, one for each hookpoint.
pub(crate) fn n_active_sets(config: &TrainConfig, sae: &SaeSpec) -> usize {
    if config.is_decoupled() {
        sae.hookpoints.len()
    } else {
        1
    }
}

/// Nested reconstructions.
fn n_widths(config: &TrainConfig, sae: &SaeSpec) -> usize {
    let widths = config.matryoshka_widths_for(sae.num_latents);
    widths.map_or(0, |widths| widths.len().max(config.matryoshka_prefixes))
}

/// Whether something is decided on all tokens of an update before any has a gradient.
fn waits_for_update(config: &TrainConfig) -> bool {
    let is_jump = config.activation == Activation::JumpRelu;
    let needs_l0 = config.jumprelu_sparsity_loss_mode == SparsityLoss::MeanQuadratic;
    let needs_dead = config.auxk_alpha > 0.0 && config.auxk_norm == AuxkNorm::Residual;
    config.activation == Activation::BatchTopK || is_jump && needs_l0 || needs_dead
}

/// Forward passes of each of `n_ranks` processes in an update.
fn passes_per_update(config: &TrainConfig, n_ranks: u128) -> u128 {
    let of_ranks = n_ranks * u128::from(config.tokens_of_one_process());
    let n_tokens = config.tokens_per_update.map_or(of_ranks, u128::from);
    n_tokens.div_ceil(n_ranks * tokens_per_batch(config)).max(1)
}

fn tokens_per_batch(config: &TrainConfig) -> u128 {
    config.batch_size as u128 * config.ctx_len as u128
}

/// As if it were not the embedding's.
fn head_bytes(facts: &ModelFacts) -> u128 {
    FLOAT_BYTES * facts.vocab_size as u128 * facts.hidden_size as u128
}
