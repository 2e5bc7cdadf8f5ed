//! A loaded model without its head.

use crate::run::Run;
use crate::tap::Tape;
use std::fmt::Debug;
use tch::Tensor;

/// A loaded model without its head, or its first blocks.
pub(crate) trait Body: Debug + Send {
    /// The output of the final norm, or of the last loaded block: `[batch, ctx_len, hidden_size]`.
    /// `input_ids`: `[batch, ctx_len]`.
    fn forward(&self, tape: &mut Tape, input_ids: &Tensor) -> Run<Tensor>;
}
