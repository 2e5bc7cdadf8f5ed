//! What a submodule returns within a forward pass.

use crate::LmError;
use tch::TchError;

/// Why a forward pass ends before the last module.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Every tap was served.
    Served,
    /// An operation failed.
    Torch(TchError),
    /// An 8-bit product took too few columns apart: the pass must be run again.
    TooFewCols,
    /// A replacement failed.
    Replacement(Box<LmError>),
}

impl From<TchError> for Stop {
    fn from(error: TchError) -> Self {
        Self::Torch(error)
    }
}

/// What a submodule returns within a forward pass.
pub(crate) type Run<T> = Result<T, Stop>;
