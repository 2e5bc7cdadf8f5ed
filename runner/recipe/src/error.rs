//! What can go wrong with a recipe, as the user can mend it.

use fault::Fault;
use miette::Diagnostic;

/// A recipe that cannot be run, broke a limit, or gave a wrong answer.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum RecipeError {
    /// The recipe's own error: an exception with file and line for Python.
    #[error("recipe `{recipe}` failed: {message}")]
    Failed {
        /// The recipe.
        recipe: String,
        /// What it says.
        message: String,
    },
    /// Anything else.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Fault(#[from] Fault),
}

/// What to do about a limit that was reached.
pub(crate) fn raise(limit: &str) -> String {
    format!("correct the recipe, or raise `recipe_limits.{limit}`")
}

/// Names in backticks, with commas between them.
pub(crate) fn quoted(names: impl IntoIterator<Item = String>) -> String {
    let names = names.into_iter().map(|name| format!("`{name}`"));
    names.collect::<Vec<_>>().join(", ")
}
