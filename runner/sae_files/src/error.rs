//! What can be wrong with the files of SAEs.

use fault::{Fault, Remedy};
use hub::HubError;
use miette::Diagnostic;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// How many names a message lists.
const N_LISTED: usize = 12;

/// What can be wrong with the files of SAEs.
#[derive(Debug, Error)]
pub enum FilesError {
    /// Anything else.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// A file or folder cannot be read or written.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// `cfg.json` is not what it should be.
    #[error("`{path}` is no SAE configuration")]
    Config {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// A key of `cfg.json` asks for something else than an SAE computes here.
    #[error("`{path}` has `{key}` = {value}: {why}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What it is set to, as JSON.
        value: String,
        /// Why that cannot be.
        why: &'static str,
    },
    /// More active latents than latents, a width of zero, groups of unequal size, or another width of
    /// the output than of the input where it is no transcoder.
    #[error(
        "an SAE of d_in = {d_in}, d_out = {d_out}, num_latents = {num_latents}, k = {k} is impossible"
    )]
    Impossible {
        /// Width of the input.
        d_in: usize,
        /// Width of the output.
        d_out: usize,
        /// Number of latents.
        num_latents: usize,
        /// Latents a token may use.
        k: usize,
    },
    /// A weight is absent.
    #[error("`{path}` has no tensor `{tensor}`")]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: &'static str,
    },
    /// Weights that an SAE of the kind that `cfg.json` describes does not have.
    #[error(
        "`{path}` has tensors that its `cfg.json` has no use for{}",
        listed(":", tensors)
    )]
    UnusedTensors {
        /// The file.
        path: PathBuf,
        /// The tensors.
        tensors: Vec<String>,
    },
    /// A weight has another shape than `cfg.json` says.
    #[error("tensor `{tensor}` of `{path}` has shape {got:?}, expected {expected:?}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: &'static str,
        /// By `cfg.json`.
        expected: Vec<i64>,
        /// In the file.
        got: Vec<i64>,
    },
    /// A weight is not a number of a known width.
    #[error("tensor `{tensor}` of `{path}` has dtype {got}, expected F16, BF16, F32 or F64")]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: &'static str,
        /// In the file.
        got: String,
    },
    /// A file is no safetensors file, or not all of one.
    #[error("`{path}` is no whole safetensors file: {problem}")]
    NoSafetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The header of a safetensors file describes a tensor that cannot be.
    #[error("tensor `{tensor}` of `{path}` {problem}")]
    BadTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it, to follow the name.
        problem: String,
    },
    /// A folder or repository without SAEs.
    #[error("there is no SAE in `{place}`{}", listed(", which has", there))]
    NoSaes {
        /// The folder or repository.
        place: String,
        /// Names of what is there.
        there: Vec<String>,
    },
    /// A name or pattern that no SAE has.
    #[error("no SAE of `{place}` is called `{wanted}`")]
    NoSuchSae {
        /// The folder or repository.
        place: String,
        /// The name or pattern.
        wanted: String,
        /// The most similar names.
        nearest: Vec<String>,
        /// How many SAEs there are.
        n_saes: usize,
    },
    /// One SAE is wanted, and there are several.
    #[error("`{place}` has {} SAEs", names.len())]
    SeveralSaes {
        /// The folder or repository.
        place: String,
        /// Their names.
        names: Vec<String>,
    },
    /// The Hub.
    #[error(transparent)]
    Hub(Box<HubError>),
}

impl From<HubError> for FilesError {
    fn from(error: HubError) -> Self {
        // It is large, and most errors are others.
        Self::Hub(error.into())
    }
}

impl FilesError {
    /// An error of the file system at `path`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.into(),
            source,
        }
    }

    /// Whether an SAE's folder is not what it should be: no other machine would take it either.
    pub fn is_of_the_folder(&self) -> bool {
        matches!(
            self,
            Self::Config { .. }
                | Self::Unsupported { .. }
                | Self::MissingTensor { .. }
                | Self::UnusedTensors { .. }
                | Self::Shape { .. }
                | Self::Dtype { .. }
                | Self::NoSafetensors { .. }
                | Self::BadTensor { .. }
                | Self::NoSaes { .. }
                | Self::NoSuchSae { .. }
                | Self::SeveralSaes { .. }
        )
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Fault(fault) => fault.hint(),
            Self::Config { .. } | Self::MissingTensor { .. } => Some(
                "an SAE folder holds `cfg.json`, and `sae.safetensors` as sparsify writes it or \
                 `sae_weights.safetensors` as SAELens does"
                    .into(),
            ),
            Self::Impossible { .. } => Some(
                "k must lie between 1 and num_latents, and divide it with the activation groupmax; \
                 only a transcoder has two widths"
                    .into(),
            ),
            Self::UnusedTensors { .. } => Some(
                "without them it would compute something else: is `cfg.json` of another SAE, or does it \
                 name another kind?"
                    .into(),
            ),
            Self::Shape { .. } => {
                Some("`cfg.json` and the weights do not belong together".into())
            }
            Self::Io { source, .. } if files::is_lfs_pointer(source) => {
                Some(files::LFS_HINT.into())
            }
            Self::Io { action, .. } => Some(match *action {
                "read" => "is the file there, and whole?".into(),
                _ => "can the folder be written, and is there space on the disk?".into(),
            }),
            Self::NoSafetensors { .. } | Self::BadTensor { .. } | Self::Dtype { .. } => {
                Some("was it downloaded or copied whole?".into())
            }
            Self::NoSaes { .. } => Some(
                "name a folder or repository with `cfg.json` and the weights (`sae.safetensors` or \
                 `sae_weights.safetensors`), or with such a folder for each SAE"
                    .into(),
            ),
            Self::NoSuchSae {
                nearest, n_saes, ..
            } => Some(match nearest.is_empty() {
                true => format!("it has {n_saes}; none is called like that"),
                false => format!("the nearest are {}", code_list(nearest)),
            }),
            Self::SeveralSaes { names, .. } => Some(format!("choose one of {}", code_list(names))),
            Self::Hub(error) => error.hint(),
            Self::Unsupported { .. } => None,
        }
    }
}

impl Diagnostic for FilesError {
    fn code<'a>(&'a self) -> Option<Box<dyn Display + 'a>> {
        (!self.is_of_the_folder()).then(|| Box::new(fault::INTERNAL) as _)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn Display + 'a>> {
        self.hint().map(|hint| Box::new(hint) as _)
    }
}

/// The first of `names`, after `intro`; nothing where there are none.
fn listed(intro: &str, names: &[String]) -> String {
    match names.is_empty() {
        true => String::new(),
        false => format!("{intro} {}", code_list(names)),
    }
}

fn code_list(names: &[String]) -> String {
    let first = names.iter().take(N_LISTED).map(|name| format!("`{name}`"));
    let mut list = first.collect::<Vec<_>>().join(", ");
    if names.len() > N_LISTED {
        list += &format!(" and {} more", names.len() - N_LISTED);
    }
    list
}
