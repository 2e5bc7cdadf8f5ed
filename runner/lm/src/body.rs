//! A loaded model without its head.

use crate::run::Run;
use crate::tap::Tape;
use std::fmt::Debug;
use tch::Tensor;

/// A loaded model without its head, or its first blocks.
pub(crate) trait Body: Debug + Send {
    /// What the first block gets: `[batch, ctx_len, hidden_size]`. `input_ids`: `[batch, ctx_len]`.
    fn embed(&self, tape: &mut Tape, input_ids: &Tensor) -> Run<Tensor>;

    /// The output of the final norm, or of the last loaded block, for what block `first` gets: both
    /// `[batch, ctx_len, hidden_size]`.
    fn blocks_from(&self, tape: &mut Tape, first: usize, x: Tensor) -> Run<Tensor>;

    /// The same for `input_ids`: `[batch, ctx_len]`.
    fn forward(&self, tape: &mut Tape, input_ids: &Tensor) -> Run<Tensor> {
        let x = self.embed(tape, input_ids)?;
        self.blocks_from(tape, 0, x)
    }
}
