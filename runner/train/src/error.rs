//! What can go wrong while training.

use crate::layout::Layout;
use fault::{FailureKind, Fault, Remedy};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What can go wrong while training.
#[derive(Debug, Error)]
pub enum TrainError {
    /// Anything else.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The language model.
    #[error(transparent)]
    Lm(#[from] lm::LmError),
    /// The data.
    #[error(transparent)]
    Data(#[from] tokens::TokensError),
    /// An SAE.
    #[error(transparent)]
    Sae(#[from] sae::SaeError),
    /// Other ranks.
    #[error(transparent)]
    Dist(#[from] dist::DistError),
    /// Jobs of a stream that were begun with different numbers of ranks.
    #[error("`{job}` was begun with {n_ranks} ranks, other jobs of its stream with {n_others}")]
    MixedRanks {
        /// Name of the job.
        job: String,
        /// Those of the job.
        n_ranks: usize,
        /// Those of the others.
        n_others: usize,
    },
    /// Ranks without an SAE, where each SAE is on one rank.
    #[error(
        "{n_ranks} ranks are more than the SAEs of the stream ({n_saes}), each of which \
         `distribute_modules` gives to one"
    )]
    MoreRanksThanSaes {
        /// Ranks.
        n_ranks: usize,
        /// SAEs of all jobs of the stream.
        n_saes: usize,
    },
    /// Ranks that do not have the same of what they should.
    #[error("rank {rank} has another {what} than rank 0")]
    RanksDiffer {
        /// Which rank.
        rank: usize,
        /// What differs.
        what: String,
    },
    /// libtorch, mostly for want of memory.
    #[error("libtorch failed")]
    Torch(#[from] tch::TchError),
    /// Settings.
    #[error(transparent)]
    Plan(#[from] plan::PlanError),
    /// Training that went wrong.
    #[error("training ended early: {reason}")]
    Diverged {
        /// What is wrong.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// A file or folder.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A JSON file of our own.
    #[error("`{path}` is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Something that a saved state of a job lacks.
    #[error("`{path}` has no {missing}")]
    MissingState {
        /// The file.
        path: PathBuf,
        /// An SAE, or a tensor with its shape by the job's settings.
        missing: String,
    },
    /// A saved state that cannot be taken up.
    #[error("the state in `{dir}` is damaged")]
    DamagedState {
        /// Its folder.
        dir: PathBuf,
        /// Why.
        source: Box<TrainError>,
    },
    /// SAEs to begin with that cannot be read.
    #[error("cannot begin with the SAE in `{dir}`")]
    UnreadableFinetune {
        /// Its folder.
        dir: PathBuf,
        /// Why.
        source: Box<sae::SaeError>,
    },
    /// SAEs to begin with that do not fit.
    #[error("the SAE in `{path}` has {got}; the job needs {expected}")]
    Finetune {
        /// Its folder.
        path: PathBuf,
        /// Weights and shapes of the job.
        expected: String,
        /// Weights and shapes in the folder.
        got: String,
    },
    /// Too little data for one update.
    #[error(
        "one optimizer update takes {grad_acc_steps} batches of {batch_size} sequences, \
         the data has {n_batches}"
    )]
    TooLittleData {
        /// Batches of an update.
        grad_acc_steps: usize,
        /// Sequences of a batch.
        batch_size: usize,
        /// Batches there are, after `max_examples`.
        n_batches: usize,
    },
    /// An input that is no longer what the plan was made of.
    #[error("{what} `{path}` changed since the plan was made")]
    Changed {
        /// Which input.
        what: &'static str,
        /// Its file or folder.
        path: PathBuf,
    },
    /// An SAE that is not for the hookpoint it shall stand at.
    #[error(
        "the SAE in `{dir}` has widths {got:?}, in and out, `{hookpoint}` of the model needs {expected:?}"
    )]
    SaeWidths {
        /// Its folder.
        dir: PathBuf,
        /// The hookpoint.
        hookpoint: String,
        /// Widths of input and output, by the model.
        expected: (usize, usize),
        /// Those of the SAE.
        got: (usize, usize),
    },
    /// An SAE that nobody should be given.
    #[error("`{tensor}` of the SAE in `{dir}` has values that are not finite")]
    NotFinite {
        /// Its folder.
        dir: PathBuf,
        /// The weights.
        tensor: String,
    },
    /// What the language model computes.
    #[error("{what} are NaN or infinite in {dtype}{}", of_weight(weight.as_deref()))]
    ModelNotFinite {
        /// The activations of a hookpoint, or the logits.
        what: String,
        /// What the model computes in.
        dtype: &'static str,
        /// The weight that is at fault, where one is.
        weight: Option<String>,
    },
    /// What an SAE with finite weights computes of finite activations.
    #[error("{what} of the SAE in `{dir}` are NaN or infinite")]
    SaeNotFinite {
        /// Its folder.
        dir: PathBuf,
        /// What of it.
        what: &'static str,
    },
    /// Data without a token that counts.
    #[error("no token of the sequences counts: all are in `exclude_tokens`")]
    NothingCounts,
    /// An SAE that computes something else when it is read back.
    #[error("the SAE in `{dir}` computes other {what} when it is read back from {layout}'s layout")]
    UnlikeLayout {
        /// Its folder.
        dir: PathBuf,
        /// The layout.
        layout: Layout,
        /// What is different.
        what: &'static str,
    },
    /// A hookpoint whose vectors belong to no single token.
    #[error("`{hookpoint}` gives {n_vectors} vectors for {n_tokens} tokens")]
    NotOneAToken {
        /// The hookpoint.
        hookpoint: String,
        /// What came.
        n_vectors: usize,
        /// Tokens that went into the model.
        n_tokens: usize,
    },
    /// A text that is longer than a sequence may be.
    #[error("text {index} has {n_tokens} tokens, and a sequence at most {ctx_len}")]
    LongText {
        /// Which, from 0.
        index: usize,
        /// Its tokens.
        n_tokens: usize,
        /// Tokens of a sequence.
        ctx_len: usize,
    },
    /// Another worker trains this stream.
    #[error("another worker trains stream `{stream_id}` in `{dir}`")]
    Locked {
        /// The stream.
        stream_id: String,
        /// Its folder.
        dir: PathBuf,
    },
}

impl From<facts::FactsError> for TrainError {
    fn from(error: facts::FactsError) -> Self {
        Self::Lm(error.into())
    }
}

impl From<sae_files::FilesError> for TrainError {
    fn from(error: sae_files::FilesError) -> Self {
        Self::Sae(error.into())
    }
}

impl TrainError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.into(),
            source,
        }
    }

    pub(crate) fn damaged(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        move |source| Self::Damaged {
            path: path.into(),
            source,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Fault(fault) => fault.hint(),
            Self::Lm(error) => error.hint(),
            Self::Data(error) => error.hint(),
            Self::Sae(error) => error.hint(),
            Self::Plan(error) => error.hint(),
            Self::Dist(error) => error.hint(),
            Self::MixedRanks { .. } => Some(
                "a job keeps the batches it was begun with: train them in sweeps of their own, or \
                 anew with `--fresh`"
                    .into(),
            ),
            Self::MoreRanksThanSaes { .. } => Some(
                "start fewer processes, or leave `distribute_modules` out: then all have all SAEs".into(),
            ),
            Self::RanksDiffer { .. } => {
                Some("do all nodes see the same runs folder, and have the same packages?".into())
            }
            Self::Diverged { hint, .. } => Some(hint.clone()),
            Self::ModelNotFinite { dtype, weight, .. } => {
                Some(not_finite_hint(dtype, weight.is_some()).into())
            }
            Self::SaeNotFinite { .. } => {
                Some("its weights are finite, but far too large for these activations".into())
            }
            Self::NothingCounts => Some("take some of them off `exclude_tokens`".into()),
            Self::Torch(_) => {
                Some("if memory ran out, lower `batch_size` or raise `micro_acc_steps`".into())
            }
            Self::Finetune { .. } => Some(
                "set `num_latents`, `transcode` and `skip_connection` as they were for the SAEs in \
                 `finetune`"
                    .into(),
            ),
            Self::TooLittleData { .. } => Some(
                "lower `batch_size`, `grad_acc_steps` or `ctx_len`, raise `max_examples`, or add text"
                    .into(),
            ),
            Self::DamagedState { dir, .. } => Some(format!(
                "is the disk in order? Without `{}` the job goes on from an older state, or anew",
                dir.display()
            )),
            Self::UnreadableFinetune { .. } => Some(
                "`finetune` is a folder with one for each SAE of the job, each with `cfg.json` and \
                 `sae.safetensors`"
                    .into(),
            ),
            Self::Changed { .. } => {
                Some("run the sweep again: changed inputs make new jobs".into())
            }
            Self::SaeWidths { .. } => {
                Some("it was trained on another model, or at another hookpoint".into())
            }
            Self::LongText { .. } => Some(
                "cut it, or give it as a data set, which is cut into sequences; `ctx_len` can be raised as \
                 far as the model's positions go"
                    .into(),
            ),
            Self::NotOneAToken { .. } => {
                Some("latents of one token each come from blocks, MLPs and attention".into())
            }
            Self::Locked { .. } => {
                Some("it ends by itself after a checkpoint when its `sae-run` is gone".into())
            }
            Self::Io { .. } => {
                Some("can the folder be written, and is there space on the disk?".into())
            }
            Self::NotFinite { .. } => {
                Some("training diverged: leave it out, or train it anew with a lower `lr`".into())
            }
            Self::UnlikeLayout { .. } => Some("nothing was published; leave this layout out".into()),
            Self::Damaged { .. } | Self::MissingState { .. } => None,
        }
    }

    /// Whose fault it is: a retry helps only against the machine's.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Fault(fault) => fault.kind(),
            Self::Lm(lm::LmError::Torch { .. }) => FailureKind::Internal,
            Self::Lm(_)
            | Self::Data(_)
            | Self::Plan(_)
            | Self::Finetune { .. }
            | Self::UnreadableFinetune { .. }
            | Self::DamagedState { .. }
            | Self::TooLittleData { .. }
            | Self::Changed { .. }
            | Self::NotFinite { .. }
            | Self::ModelNotFinite { .. }
            | Self::SaeNotFinite { .. }
            | Self::NothingCounts
            | Self::SaeWidths { .. }
            | Self::NotOneAToken { .. }
            | Self::LongText { .. }
            | Self::MixedRanks { .. }
            | Self::MoreRanksThanSaes { .. } => FailureKind::Input,
            Self::Dist(error) if error.is_of_the_input() => FailureKind::Input,
            Self::Sae(error) if error.is_of_the_folder() => FailureKind::Input,
            _ => FailureKind::Internal,
        }
    }
}

/// Where a model's activations are not finite. `in_weight`: so is one of its weights.
fn not_finite_hint(dtype: &str, in_weight: bool) -> &'static str {
    match (in_weight, dtype) {
        (true, "float16") => {
            "the model's file is damaged, or the weight is too large for float16: download the model again, or set \
             `dtype` to `bfloat16` or `float32`"
        }
        (true, _) => "the model's file is damaged, or was saved so: download it again",
        (false, "float16") => "float16 ends at 65504: set `dtype` to `bfloat16` or `float32`",
        (false, _) => {
            "the model computes such numbers on this text: an earlier hookpoint may have none"
        }
    }
}

fn of_weight(weight: Option<&str>) -> String {
    weight.map_or(String::new(), |weight| {
        format!(": `{weight}` of the model has such numbers")
    })
}
