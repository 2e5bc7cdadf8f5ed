//! A batch of held-out sequences, and which of its tokens count for whom.

use crate::EvalError;
use lm::send;
use tch::{Device, Tensor};

/// A batch of sequences.
#[derive(Debug)]
pub(super) struct Batch {
    /// `[n_sequences, ctx_len]`, Int64, on the CPU.
    pub(super) input_ids: Tensor,
    /// The same on the device.
    sent_ids: Tensor,
    /// What counts, for each list of excluded tokens.
    pub(super) kept: Vec<Kept>,
}

/// The tokens of a batch that count.
#[derive(Debug)]
pub(super) struct Kept {
    /// How many tokens the batch has, counted or not.
    n_positions: i64,
    /// Indices of the tokens that count, Int64; `None`: all.
    rows: Option<Tensor>,
    /// Of each sequence, the positions with a next token that count, Int64; `None`: all.
    pub(super) predicting: Vec<Option<Tensor>>,
    /// How many these are in all sequences.
    pub(super) n_predicted: u64,
}

impl Batch {
    /// The sequences in `token_ids`, each of `ctx_len` tokens. What counts is known on the host, so
    /// that no device is waited for.
    pub(super) fn new(
        token_ids: &[i64],
        ctx_len: usize,
        filters: &[Vec<u32>],
        device: Device,
    ) -> Result<Self, EvalError> {
        let input_ids = Tensor::f_from_slice(token_ids)?.f_view([-1, ctx_len as i64])?;
        let kept = filters
            .iter()
            .map(|exclude_tokens| Kept::new(token_ids, ctx_len, exclude_tokens, device));
        Ok(Self {
            kept: kept.collect::<Result<_, _>>()?,
            sent_ids: send(&input_ids, device)?,
            input_ids,
        })
    }

    /// The tokens that follow those of sequence `sequence_idx`: `[ctx_len - 1]`.
    pub(super) fn following(&self, sequence_idx: usize) -> Result<Tensor, EvalError> {
        let sequence = self.sent_ids.f_select(0, sequence_idx as i64)?;
        Ok(sequence.f_narrow(0, 1, sequence.size()[0] - 1)?)
    }
}

impl Kept {
    fn new(
        token_ids: &[i64],
        ctx_len: usize,
        exclude_tokens: &[u32],
        device: Device,
    ) -> Result<Self, EvalError> {
        let (n_positions, n_sequences) = (token_ids.len(), token_ids.len() / ctx_len);
        if exclude_tokens.is_empty() {
            return Ok(Self {
                n_positions: n_positions as i64,
                rows: None,
                predicting: (0..n_sequences).map(|_| None).collect(),
                n_predicted: (n_sequences * (ctx_len - 1)) as u64,
            });
        }
        let is_kept = tokens::included(token_ids, exclude_tokens);
        let of_sequence = |sequence: &[bool]| indices(&sequence[..ctx_len - 1]);
        let predicting: Vec<Vec<i64>> = is_kept.chunks(ctx_len).map(of_sequence).collect();
        let sent = |indices: &[i64]| send(&Tensor::f_from_slice(indices)?, device);
        let lengths: Vec<i64> = predicting.iter().map(|of| of.len() as i64).collect();
        let predicting = sent(&predicting.concat())?.f_split_with_sizes(&lengths, 0)?;
        Ok(Self {
            n_positions: n_positions as i64,
            rows: Some(sent(&indices(&is_kept))?),
            predicting: predicting.into_iter().map(Some).collect(),
            n_predicted: lengths.iter().sum::<i64>() as u64,
        })
    }

    /// The indices of the rows that count, of `n_rows` that a module gave; `None`: all. The rows of a
    /// module with several vectors a token, or with one for a position of all sequences, cannot be
    /// matched to tokens.
    pub(super) fn rows(&self, n_rows: i64) -> Option<&Tensor> {
        self.rows.as_ref().filter(|_| n_rows == self.n_positions)
    }
}

fn indices(is_kept: &[bool]) -> Vec<i64> {
    let kept = is_kept.iter().enumerate().filter(|(_, kept)| **kept);
    kept.map(|(index, _)| index as i64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints(tensor: &Tensor) -> Vec<i64> {
        tensor.try_into().unwrap()
    }

    #[test]
    fn excluded_tokens_are_left_out_of_rows_and_predictions() {
        let filters = [vec![], vec![7]];
        let batch = Batch::new(&[1, 7, 2, 7, 3, 7], 3, &filters, Device::Cpu).unwrap();
        assert_eq!(ints(&batch.following(1).unwrap()), [3, 7]);
        let [all, some] = &batch.kept[..] else {
            panic!("two filters")
        };
        assert!(all.rows(6).is_none() && all.predicting[0].is_none());
        assert_eq!((all.n_predicted, some.n_predicted), (4, 2));
        assert_eq!(ints(some.rows(6).unwrap()), [0, 2, 4]);
        assert!(some.rows(12).is_none(), "several vectors a token");
        let predicting = some.predicting.iter().flatten().map(ints);
        assert_eq!(predicting.collect::<Vec<_>>(), [[0], [1]]);
    }
}
