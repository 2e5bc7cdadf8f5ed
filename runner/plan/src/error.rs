//! What can be wrong with a sweep, as the user can mend it.

use miette::Diagnostic;
use thiserror::Error;

/// A sweep that cannot become a plan.
#[derive(Clone, Debug, Error, Diagnostic, PartialEq, Eq)]
#[error("{message}")]
pub struct PlanError {
    setting_key: Option<String>,
    message: String,
    #[help]
    hint: Option<String>,
}

impl PlanError {
    /// Of the sweep as a whole.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            setting_key: None,
            message: message.into(),
            hint: None,
        }
    }

    /// The setting `key` is out of range or contradicts another.
    pub(crate) fn setting(key: &str, problem: &str) -> Self {
        Self::about(key, format!("setting `{key}` {problem}"))
    }

    /// The setting `key` is at fault.
    pub(crate) fn about(key: &str, message: impl Into<String>) -> Self {
        Self {
            setting_key: Some(key.into()),
            ..Self::new(message)
        }
    }

    /// The same, with what to do about it.
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// The same, of one job.
    pub(crate) fn in_job(self, job: &str) -> Self {
        Self {
            message: format!("job `{job}`: {}", self.message),
            ..self
        }
    }

    /// The setting that is at fault, if it is one.
    pub fn setting_key(&self) -> Option<&str> {
        self.setting_key.as_deref()
    }
}

/// 1 for words with one mistake in typing at most.
fn likeness(word: &str, candidate: &str) -> f64 {
    if strsim::osa_distance(word, candidate) <= 1 {
        return 1.0;
    }
    strsim::jaro_winkler(word, candidate)
}

/// The up to `n` candidates that look most like `word`, best first; unlike ones are left out.
pub fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    n: usize,
) -> Vec<String> {
    let mut scored: Vec<(f64, &str)> = candidates
        .into_iter()
        .map(|candidate| (likeness(word, candidate), candidate))
        .filter(|(score, _)| *score > 0.6)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored
        .into_iter()
        .take(n)
        .map(|(_, candidate)| candidate.to_owned())
        .collect()
}
