//! The pure data and rules of a sweep: what a user writes, what a recipe is asked and answers, the
//! resolved jobs, the streams that share a forward pass, and what a worker gets and reports.
//!
//! No IO, no torch, no async: everything here is a value or a function of values.
//!
//! - `config.rs`: all settings of training; `defaults.rs`: their defaults; `options.rs`, `sae_options.rs`: those that
//!   are one of a few names; `sweep.rs`: a sweep as written
//! - `validate.rs`, `validate_kinds.rs`, `validate_cross.rs`: what contradicts; `effects.rs`: what has no effect; `matryoshka.rs`: widths
//! - `preset.rs`: settings of other trainers under one name; `overrides.rs`: settings that override others
//! - `schema.rs`: the same for editors
//! - `byte_count.rs`: reads "46 GB"; `quantity.rs`: writes it
//! - `k.rs`: latents a token may use
//! - `job.rs`: ids; `sae_spec.rs`: one SAE of a job; `cross.rs`: SAEs on several hookpoints; `hookpoint.rs`: patterns; `stream.rs`: grouping; `memory.rs`: what a stream needs
//! - `work.rs`: how much there is to compute; `disk.rs`: what is written
//! - `owners.rs`: which SAE is on which rank; `update_size.rs`: tokens of an update; `schedule.rs`: what is due when;
//!   `extension.rs`: trainings of different length that begin alike
//! - `recipe.rs`: questions and answers; `order.rs`: what a worker has to do; `event.rs`: what it reports
//! - `task.rs`: what else a worker does; `environment.rs`: what launchers say, by `launcher_variables.rs`; `told.rs`: when a wait is reported
//! - `torch_version.rs`: versions of PyTorch; `tracking.rs`: what trackers such as TensorBoard are given
//! - `data_files.rs`: the files of a data set; `runs_layout.rs`: the names of everything in a runs folder

mod byte_count;
mod config;
mod cross;
#[cfg(test)]
mod cross_tests;
mod data_files;
mod dataset;
mod defaults;
mod disk;
mod effects;
mod environment;
#[cfg(test)]
mod environment_tests;
mod error;
mod evaluation;
mod event;
mod extension;
mod fewer_ranks;
mod gpu_report;
mod hookpoint;
mod identity;
mod job;
mod k;
mod launcher_variables;
mod matryoshka;
mod memory;
#[cfg(test)]
mod memory_tests;
mod model;
mod not_finite;
mod nproc;
mod options;
mod order;
mod overrides;
mod owners;
mod pool;
mod preset;
mod quantity;
mod recipe;
pub mod runs_layout;
mod sae_options;
mod sae_spec;
mod schedule;
mod schema;
mod slurm;
mod split;
mod stream;
mod sweep;
mod task;
mod text;
mod told;
mod torch_version;
mod tracking;
mod update_size;
mod validate;
mod validate_cross;
mod validate_kinds;
mod work;

pub use config::TrainConfig;
pub use cross::{CROSSCODER, SECOND, by_layers, name_in_model, of_second};
pub use data_files::{DataFile, DataFiles, Format, RowSpec};
pub use dataset::{BinDtype, DataArgs, DataName, DatasetRequest, OnBadRow, TokenizerClass};
pub use disk::{DiskEstimate, disk, tokens_bytes};
pub use environment::{Environment, Launched, NodeLaunch, PerNode, StoreAddress};
pub use error::{PlanError, nearest};
pub use evaluation::{EvalStats, LEAST_ABLATION_COST, most_eval_sequences};
pub use event::{BadEvent, Event, EventKind, HookpointThreshold, MAX_EVENT_BYTES, SaeStats};
pub use extension::n_shared_updates;
pub use fewer_ranks::{Fit, fewer_ranks};
pub use gpu_report::{GpuFound, GpuReport, GpuTask, KernelFound, KernelsFound, UpdateShape};
pub use hookpoint::{fnmatch, match_hookpoints, select_hookpoints};
pub use identity::{TRAINER_VERSION, digest_json, short};
pub use job::{Job, JobInputs, SecondModel, WITHOUT_EFFECT, folder_name, resolve_jobs};
pub use k::K;
pub use memory::{MemoryEstimate, SaeMemory, memory_of, sae_memory};
pub use model::{HookpointFacts, ModelFacts, Models, Vectors};
pub use nproc::Nproc;
pub use options::{Dtype, EncoderDtype, LossFn, LrScheduler, Optimizer};
pub use order::{BaseJob, ModelFolder, Order, OrderJob, changed};
pub use overrides::apply_overrides;
pub use owners::{owners, too_few_saes};
pub use pool::{POOL_FOLDERS, Pool, PoolName, PoolOffer, described_member, pool_member};
pub use preset::{Base, presets};
pub use quantity::{bytes, count};
pub use recipe::{Description, JobDraft, JobResult, PlanRequest, PlanResponse, RecipeIdentity};
pub use recipe::{Round, Setting};
pub use sae_options::{
    Activation, AuxkNorm, BDecInit, CrosscoderNorm, NormalizeActivations, PAnnealForm,
    PreActLossOn, SparsityLoss, ThresholdEma, kind_has_k,
};
pub use sae_spec::SaeSpec;
pub use schedule::{LrSchedule, k_at, updates_of};
pub use schema::sweep_schema;
pub use slurm::{RUN_CODE, Slurm, slurm_seconds};
pub use split::{RowRange, SplitPart};
pub use stream::{OF_OPTIONS, Plan, Stream, StreamKey, group_streams};
pub use sweep::{Launch, Launcher, RecipeLimits, Sweep, default_of, takes_text, takes_texts};
pub use task::{
    Answer, CachedTokens, CudaStatus, EncodeFormat, EncodeInput, EncodeSummary, EncodeTask,
    EvalSae, EvaluateTask, Evaluated, FoundSae, Machine, ModelUse, ProveTask, SaeForm, SaeLayout,
    SaeLensMetadata, StoreRequest, StoreTask, Task, Texts, eval_batch_size,
};
pub use text::{brief, escaped, escaped_lines, has_secret, names_secret, redacted, shell_word};
pub use told::Told;
pub use torch_version::TorchVersion;
pub use tracking::{
    N_TOKENS, OF_EVALUATION, RunEnd, TrackedPoint, TrackedRun, TrackedSoFar, TrackerKind,
    is_of_evaluation,
};
pub use work::{Work, blocks, sae_work, work};
