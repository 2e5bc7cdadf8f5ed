//! What can be wrong with a sweep, as the user can mend it.

use thiserror::Error;

/// A sweep that cannot become a plan.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// A setting is out of range or contradicts another.
    #[error("setting `{key}` {problem}")]
    Setting {
        /// The key.
        key: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// A setting that does not exist.
    #[error("unknown setting `{key}`")]
    UnknownSetting {
        /// The key as written.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A setting of the wrong type.
    #[error("setting `{key}`: {problem}")]
    WrongType {
        /// The key.
        key: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A hookpoint pattern without a match.
    #[error("hookpoint pattern `{pattern}` matches no module of `{model}`")]
    NoHookpoint {
        /// The pattern.
        pattern: String,
        /// The model.
        model: String,
        /// The modules that look most like it.
        nearest: Vec<String>,
    },
    /// A block index past the last block.
    #[error("layer {layer} does not exist: `{model}` has {n_layers} layers, numbered from 0")]
    NoLayer {
        /// The index.
        layer: usize,
        /// The model.
        model: String,
        /// Number of blocks.
        n_layers: usize,
    },
    /// More active latents than latents.
    #[error("k = {k} is larger than num_latents = {num_latents} at hookpoint `{hookpoint}`")]
    TooLargeK {
        /// Active latents a token.
        k: usize,
        /// Latents of the SAE.
        num_latents: usize,
        /// The hookpoint.
        hookpoint: String,
    },
    /// A context longer than the model's position table.
    #[error("ctx_len = {ctx_len} is longer than the {max_ctx_len} positions of `{model}`")]
    TooLongContext {
        /// Asked for, in tokens.
        ctx_len: usize,
        /// The model's limit, in tokens.
        max_ctx_len: usize,
        /// The model.
        model: String,
    },
    /// Processes without an SAE, where each SAE is on one of them.
    #[error(
        "{n_ranks} processes are more than the SAEs ({n_saes}) of the stream of job `{job}`, each of which \
         `distribute_modules` gives to one"
    )]
    MoreRanksThanSaes {
        /// The first job of the stream.
        job: String,
        /// Processes that train together.
        n_ranks: usize,
        /// SAEs of all jobs of the stream.
        n_saes: usize,
    },
    /// Two jobs of one name.
    #[error("two jobs are called `{name}`")]
    DuplicateJob {
        /// The name.
        name: String,
    },
    /// A recipe that proposes nothing.
    #[error("recipe `{recipe}` proposed no jobs")]
    NoJobs {
        /// The recipe.
        recipe: String,
    },
    /// Any of the above, in one job.
    #[error("job `{job}`: {source}")]
    InJob {
        /// The job's name.
        job: String,
        /// What is wrong with it.
        source: Box<PlanError>,
    },
}

impl PlanError {
    pub(crate) fn setting(key: &str, problem: &str) -> Self {
        Self::Setting {
            key: key.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn in_job(self, job: &str) -> Self {
        Self::InJob {
            job: job.into(),
            source: Box::new(self),
        }
    }

    /// The setting that is at fault, where it is one.
    pub fn setting_key(&self) -> Option<&str> {
        match self {
            Self::Setting { key, .. }
            | Self::UnknownSetting { key, .. }
            | Self::WrongType { key, .. } => Some(key),
            Self::NoHookpoint { .. } => Some("hookpoints"),
            Self::NoLayer { .. } => Some("layers"),
            Self::TooLargeK { .. } => Some("k"),
            Self::TooLongContext { .. } => Some("ctx_len"),
            Self::MoreRanksThanSaes { .. } => Some("distribute_modules"),
            Self::InJob { source, .. } => source.setting_key(),
            Self::DuplicateJob { .. } | Self::NoJobs { .. } => None,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownSetting {
                nearest: Some(nearest),
                ..
            } => Some(format!("did you mean `{nearest}`?")),
            Self::UnknownSetting { .. } => Some("`sae-run train --help` lists the settings".into()),
            Self::NoHookpoint { nearest, .. } if !nearest.is_empty() => {
                Some(format!("the nearest are {}", code_list(nearest)))
            }
            Self::NoHookpoint { .. } => {
                Some("names are those of Hugging Face's `base_model.named_modules()`".into())
            }
            Self::NoLayer { n_layers, .. } => {
                Some(format!("the last layer is {}", n_layers.saturating_sub(1)))
            }
            Self::TooLargeK { .. } => {
                Some("lower `k`, or raise `num_latents` or `expansion_factor`".into())
            }
            Self::TooLongContext { max_ctx_len, .. } => {
                Some(format!("set `ctx_len` to at most {max_ctx_len}"))
            }
            Self::MoreRanksThanSaes { n_saes, .. } => Some(format!(
                "start at most {n_saes}, or leave `distribute_modules` out: then all have all SAEs"
            )),
            Self::DuplicateJob { .. } => Some(
                "let the recipe give each job a name of its own, or drop the repetition".into(),
            ),
            Self::NoJobs { .. } => Some("look at `[vary]`: is a list empty?".into()),
            Self::InJob { source, .. } => source.hint(),
            _ => None,
        }
    }
}

fn code_list(names: &[String]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The up to `n` candidates that look most like `word`, best first; unlike ones are left out.
pub fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    n: usize,
) -> Vec<String> {
    let mut scored: Vec<(f64, &str)> = candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(score, _)| *score > 0.6)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored
        .into_iter()
        .take(n)
        .map(|(_, candidate)| candidate.to_owned())
        .collect()
}
