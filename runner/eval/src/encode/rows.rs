//! Rows of the file, and the latents they come from.

use crate::EvalError;
use sae::{Encoded, Sae};
use tch::{Device, Kind, Tensor};

/// Most bytes of pre-activations that are computed at once; a single token may have more.
const MOST_PRE_ACTS_BYTES: usize = 1 << 28;

/// Columns of active latents, one row for each: in the order of the sequences, of the SAEs, of the
/// positions, and the strongest first.
#[derive(Debug, Default, PartialEq)]
pub struct EncodedRows {
    /// Index of the text or sequence.
    pub sequence: Vec<i64>,
    /// Position of the token in it, from 0.
    pub position: Vec<i32>,
    /// The token there.
    pub token_id: Vec<i32>,
    /// Index of the SAE.
    pub sae: Vec<i32>,
    /// Index of the latent.
    pub latent: Vec<i32>,
    /// Its activation, above 0.
    pub activation: Vec<f32>,
}

impl EncodedRows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.activation.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.activation.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Adds them to `bytes`, for [`EncodedRows::all_of`].
    pub(super) fn append_to(&self, bytes: &mut Vec<u8>) {
        bytes.extend((self.len() as u64).to_le_bytes());
        bytes.extend(self.sequence.iter().flat_map(|n| n.to_le_bytes()));
        for column in [&self.position, &self.token_id, &self.sae, &self.latent] {
            bytes.extend(column.iter().flat_map(|n| n.to_le_bytes()));
        }
        bytes.extend(self.activation.iter().flat_map(|n| n.to_le_bytes()));
    }

    /// What was added to `bytes`, one after the other.
    pub(super) fn all_of(mut bytes: &[u8]) -> Vec<Self> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let n_rows = taken(&mut bytes, 1, u64::from_le_bytes)[0] as usize;
            all.push(Self {
                sequence: taken(&mut bytes, n_rows, i64::from_le_bytes),
                position: taken(&mut bytes, n_rows, i32::from_le_bytes),
                token_id: taken(&mut bytes, n_rows, i32::from_le_bytes),
                sae: taken(&mut bytes, n_rows, i32::from_le_bytes),
                latent: taken(&mut bytes, n_rows, i32::from_le_bytes),
                activation: taken(&mut bytes, n_rows, f32::from_le_bytes),
            });
        }
        all
    }
}

/// The first `n` numbers of `bytes`, which begins after them then.
fn taken<const N: usize, T>(bytes: &mut &[u8], n: usize, read: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (own, rest) = bytes.split_at(n * N);
    *bytes = rest;
    let (numbers, _) = own.as_chunks();
    numbers.iter().map(|number| read(*number)).collect()
}

/// The strongest latents of each of many tokens, strongest first.
#[derive(Debug)]
pub(super) struct TopLatents {
    /// Of one token after the other.
    entries: Vec<Vec<(i32, f32)>>,
    /// Whether all activations were finite: those of the model, and those of the latents.
    pub(super) are_finite: [bool; 2],
}

impl TopLatents {
    /// Of the activations `x`: `[n_tokens, d_in]`, of any kind.
    pub(super) fn of(sae: &Sae, x: &Tensor, top: Option<usize>) -> Result<Self, EvalError> {
        let n_rows = (MOST_PRE_ACTS_BYTES / (4 * sae.num_latents())).max(1) as i64;
        let mut latents = Self {
            entries: Vec::with_capacity(x.size()[0] as usize),
            are_finite: [true; 2],
        };
        for x in x.f_split(n_rows, 0)? {
            let encoded = sae.encode(&x.f_to_kind(Kind::Float)?)?;
            // In Double no sum of finite numbers overflows.
            let is_finite = x.f_sum(Kind::Double)?.f_isfinite()?;
            latents.add(&encoded, top, &is_finite)?;
        }
        Ok(latents)
    }

    /// Those of a token.
    pub(super) fn of_token(&self, token_idx: usize) -> &[(i32, f32)] {
        &self.entries[token_idx]
    }

    /// `is_finite`: whether what was encoded is: scalar, Bool.
    fn add(
        &mut self,
        encoded: &Encoded,
        top: Option<usize>,
        is_finite: &Tensor,
    ) -> Result<(), EvalError> {
        let most = encoded.latent_acts.size()[1];
        let n_kept = top.map_or(most, |top| most.min(top as i64));
        let (acts, order) = encoded.latent_acts.f_topk(n_kept, -1, true, true)?;
        let latents = encoded.latent_indices.f_gather(1, &order, false)?;
        // Sync: latents and activations go to the host at once, as numbers of 32 bits.
        let latents = latents.f_to_kind(Kind::Int)?.f_view_dtype(Kind::Float)?;
        let is_finite = is_finite.f_to_kind(Kind::Float)?;
        let all = [&acts, &latents, &is_finite].map(|part| part.f_reshape([-1]));
        let [acts, latents, is_finite] = all;
        let all = Tensor::f_cat(&[acts?, latents?, is_finite?], 0)?.f_to_device(Device::Cpu)?;
        let all = Vec::<f32>::try_from(&all)?;
        let (entries, is_finite) = all.split_at(all.len() - 1);
        let (acts, latents) = entries.split_at(entries.len() / 2);
        let latents: Vec<i32> = latents.iter().map(|bits| bits.to_bits() as i32).collect();
        self.are_finite[0] &= is_finite[0] == 1.0;
        self.are_finite[1] &= acts.iter().all(|act| act.is_finite());
        let n_kept = n_kept as usize;
        let of_token = |(latents, acts): (&[i32], &[f32])| {
            let pairs = latents.iter().copied().zip(acts.iter().copied());
            pairs.filter(|(_, act)| *act > 0.0).collect()
        };
        let tokens = latents.chunks(n_kept).zip(acts.chunks(n_kept));
        self.entries.extend(tokens.map(of_token));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_from_their_bytes() {
        let rows = |n: i32| EncodedRows {
            sequence: (0..n.into()).map(|idx| idx << 40).collect(),
            position: (0..n).collect(),
            token_id: (0..n).map(|idx| idx + 1).collect(),
            sae: vec![-1; n as usize],
            latent: (0..n).map(|idx| idx * 7).collect(),
            activation: (0..n).map(|idx| idx as f32 / 3.0).collect(),
        };
        let all = [rows(3), rows(0), rows(1)];
        let mut bytes = Vec::new();
        for rows in &all {
            rows.append_to(&mut bytes);
        }
        assert_eq!(EncodedRows::all_of(&bytes), all);
        assert!(EncodedRows::all_of(&[]).is_empty());
    }
}
