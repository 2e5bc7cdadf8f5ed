//! What is computed by latent.

use super::*;
use crate::cuda::launches::{
    EntryTokens, RowSums, SortedEntries, fire_counts, latent_sums, rows_gradient,
};
use crate::{ByLatent, Entries, TokenOf, WeightGradients, numbers};

/// Tokens, latents, d_in, d_out, k: of no tokens, one, odd, more entries of a latent than are staged, more columns
/// than are summed at a time.
pub(super) const SIZES: [(usize, usize, usize, usize, usize); 7] = [
    (0, 3, 5, 4, 2),
    (1, 1, 1, 1, 1),
    (9, 40, 31, 12, 3),
    (130, 70, 37, 16, 9),
    (600, 9, 8, 20, 9),
    (40, 300, 132, 64, 7),
    (3, 4, 2100, 2, 2),
];

/// Entries and what belongs to them.
pub(super) struct Case {
    pub(super) num_latents: usize,
    k: usize,
    /// Of a list, the token of each entry.
    tokens: Option<Vec<i64>>,
    pub(super) widths: [usize; 2],
    pub(super) indices: Vec<i64>,
    pub(super) acts: Vec<f32>,
    pub(super) grad_pre: Vec<f32>,
    pub(super) centred: Vec<f32>,
    pub(super) grad_out: Vec<f32>,
    pub(super) by_latent: ByLatent,
}

impl Case {
    /// Latents without entries, and one that all tokens have, if there are more than k.
    pub(super) fn of(
        (n_tokens, num_latents, d_in, d_out, k): (usize, usize, usize, usize, usize),
    ) -> Self {
        let mut indices = latents(n_tokens, num_latents, k);
        if k < num_latents {
            for of_token in indices.chunks_mut(k) {
                let at = of_token.iter().position(|&latent| latent == 1);
                of_token[at.unwrap_or(k - 1)] = 1;
                let free = (2..).find(|latent| !of_token.contains(latent)).unwrap();
                let without = of_token.iter().position(|&latent| latent == 0);
                without.into_iter().for_each(|at| of_token[at] = free);
            }
        }
        let n = n_tokens * k;
        Self {
            num_latents,
            k,
            tokens: None,
            widths: [d_in, d_out],
            acts: numbers(n, 0.1).iter().map(|act| act.max(0.0)).collect(),
            grad_pre: numbers(n, 0.2),
            centred: numbers(n_tokens * d_in, 0.3),
            grad_out: numbers(n_tokens * d_out, 0.4),
            by_latent: ByLatent::sort(&indices, num_latents),
            indices,
        }
    }

    /// The same entries, of other tokens: some have none, and the last one has many.
    pub(super) fn listed(size: (usize, usize, usize, usize, usize)) -> Self {
        let case = Self::of(size);
        let n = case.indices.len();
        let token_of = |entry: usize| (entry * entry / n.max(1) / case.k) as i64;
        Self {
            tokens: Some((0..n).map(token_of).collect()),
            ..case
        }
    }

    /// Both.
    pub(super) fn both(size: (usize, usize, usize, usize, usize)) -> [Self; 2] {
        [Self::of(size), Self::listed(size)]
    }

    pub(super) fn entries(&self) -> Entries<'_> {
        Entries {
            indices: &self.indices,
            acts: &self.acts,
            grad_pre: &self.grad_pre,
            tokens: match &self.tokens {
                None => TokenOf::Every(self.k),
                Some(tokens) => TokenOf::Listed(tokens),
            },
        }
    }

    /// The order of the entries, where latents begin, and the tokens of a list.
    pub(super) fn sorted(&self) -> [Array<i64>; 3] {
        let order = self.by_latent.entry_indices().iter().map(|&idx| idx.into());
        let n_until = |latent| self.by_latent.n_of(0..latent) as i64;
        let starts: Vec<i64> = (0..=self.num_latents).map(n_until).collect();
        let tokens = self.tokens.as_deref().unwrap_or_default();
        [&order.collect::<Vec<_>>(), &*starts, tokens].map(|x| Array::new(x, 0))
    }

    /// Of the encoder and of the decoder.
    /// Of the encoder's and the decoder's gradient: values at entries, and the rows of tokens.
    pub(super) fn parts(&self) -> [(&[f32], &[f32]); 2] {
        [
            (&self.grad_pre, &self.centred),
            (&self.acts, &self.grad_out),
        ]
    }

    pub(super) fn gradients(&self) -> [Vec<f32>; 2] {
        let mut gradients = self
            .widths
            .map(|width| vec![f32::NAN; self.num_latents * width]);
        let [encoder_weight, w_dec] = &mut gradients;
        let out = WeightGradients {
            encoder_weight,
            w_dec,
        };
        let entries = self.entries();
        entries.weight_gradients(
            &self.by_latent,
            self.grad_out.as_slice().into(),
            &self.centred,
            out,
        );
        gradients
    }

    pub(super) fn launched(&self, [order, starts, tokens]: &mut [Array<i64>; 3]) -> SortedEntries {
        SortedEntries {
            order: order.address(),
            starts: starts.address(),
            n_latents: self.num_latents,
            tokens: match &self.tokens {
                None => EntryTokens::Every(self.k),
                Some(_) => EntryTokens::Listed(tokens.address()),
            },
        }
    }
}

#[test]
fn gradients_are_those_of_the_twin_to_the_bit() {
    for case in SIZES.into_iter().flat_map(Case::both) {
        for skew in SKEWS {
            let mut sorted = case.sorted();
            let entries = case.launched(&mut sorted);
            let parts = case.parts();
            for ((idx, expected), (values, dense)) in case.gradients().iter().enumerate().zip(parts)
            {
                let width = case.widths[idx];
                let [mut values, mut dense] = [values, dense].map(|x| Array::new(x, skew));
                for run in [run, run_backward] {
                    let mut gradient = Array::filled(expected.len(), f32::NAN, skew);
                    let sums = RowSums {
                        values: values.address(),
                        dense: dense.address(),
                        width,
                    };
                    run(&rows_gradient(&entries, &sums, gradient.address()).unwrap());
                    assert_eq!(gradient.values(), expected);
                }
            }
        }
    }
}

#[test]
fn sums_and_counts() {
    for size in SIZES {
        let case = Case::of(size);
        let mut sorted = case.sorted();
        let entries = case.launched(&mut sorted);
        let (mut expected, mut n_fired) =
            (vec![0.0; case.num_latents], vec![0.0; case.num_latents]);
        for (entry, &latent) in case.indices.iter().enumerate() {
            expected[latent as usize] += f64::from(case.grad_pre[entry]);
            n_fired[latent as usize] += f32::from(u8::from(case.acts[entry] > 0.0));
        }
        let (mut values, mut acts) = (Array::new(&case.grad_pre, 0), Array::new(&case.acts, 0));
        let mut results = [run, run_backward].map(|run| {
            let mut sums = Array::filled(case.num_latents, f32::NAN, 0);
            let mut counts = Array::filled(case.num_latents, f32::NAN, 0);
            run(&latent_sums(&entries, values.address(), sums.address()).unwrap());
            run(&fire_counts(&entries, acts.address(), counts.address()).unwrap());
            assert_eq!(counts.values(), n_fired);
            sums.values().to_vec()
        });
        assert_close("sums", &results[0], &expected);
        let [forward, backward] = &mut results;
        assert_eq!(forward, backward);
    }
}

#[test]
fn without_latents_there_is_nothing_to_do() {
    let entries = SortedEntries {
        order: NONE,
        starts: NONE,
        n_latents: 0,
        tokens: EntryTokens::Every(1),
    };
    assert!(latent_sums(&entries, NONE, NONE).is_none());
    assert!(fire_counts(&entries, NONE, NONE).is_none());
    let sums = RowSums {
        values: NONE,
        dense: NONE,
        width: 4,
    };
    assert!(rows_gradient(&entries, &sums, NONE).is_none());
}
