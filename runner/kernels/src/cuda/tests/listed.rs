//! What is computed by token, where tokens have any number of latents.

use super::*;
use crate::cuda::Levels;
use crate::cuda::launches::{
    Dots, NestedDecoding, NestedGradients, OfToken, SparseProduct, Starts, TokenLatents,
    dots_at_entries, nested_errors, sparse_times_rows,
};
use crate::numbers;

/// Tokens, latents, width: no entries, one, odd, rows that are not kept, more entries than are staged, more columns than
/// are summed at a time.
const SIZES: [(usize, usize, usize); 7] = [
    (3, 1, 4),
    (1, 1, 1),
    (9, 40, 31),
    (7, 70, 128),
    (5, 300, 36),
    (3, 12, 2100),
    (3, 260, 2052),
];

/// Latents of tokens, with what is computed from them.
struct Case {
    n_tokens: usize,
    width: usize,
    indices: Vec<i64>,
    starts: Vec<i64>,
    /// Some are 0.
    acts: Vec<f32>,
    w_dec: Vec<f32>,
    b_dec: Vec<f32>,
    target: Vec<f32>,
}

impl Case {
    /// The first token has none, the second one all, and the others some.
    fn of((n_tokens, num_latents, width): (usize, usize, usize)) -> Self {
        let (mut indices, mut starts) = (Vec::new(), vec![0]);
        for token in 0..n_tokens {
            let has = |latent: &usize| token == 1 || (latent * 7 + token) % 5 < token % 4;
            let of_token = (0..num_latents).filter(has);
            indices.extend(of_token.map(|latent| latent as i64));
            starts.push(indices.len() as i64);
        }
        Self {
            n_tokens,
            width,
            acts: numbers(indices.len(), 0.1)
                .iter()
                .map(|act| act.max(0.0))
                .collect(),
            w_dec: numbers(num_latents * width, 0.2),
            b_dec: numbers(width, 0.3),
            target: numbers(n_tokens * width, 0.4),
            indices,
            starts,
        }
    }

    fn starts(&self, starts: &mut Array<i64>) -> Starts {
        Starts {
            starts: starts.address(),
            n_entries: self.indices.len(),
        }
    }

    fn latents(&self, indices: &mut Array<i64>, starts: &mut Array<i64>) -> TokenLatents {
        TokenLatents {
            indices: indices.address(),
            of_token: OfToken::Listed(self.starts(starts)),
            n_tokens: self.n_tokens,
        }
    }

    fn row(&self, latent: i64) -> &[f32] {
        &self.w_dec[latent as usize * self.width..][..self.width]
    }

    /// For each token, its entries.
    fn tokens(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
        let ends = self.starts.windows(2);
        ends.map(|ends| ends[0] as usize..ends[1] as usize)
            .enumerate()
    }
}

#[test]
fn sums_of_rows_and_dots() {
    for (size, skew) in SIZES
        .into_iter()
        .flat_map(|size| SKEWS.map(|skew| (size, skew)))
    {
        let case = Case::of(size);
        let (mut sums, mut dots) = (vec![0.0; case.target.len()], Vec::new());
        for (token, entries) in case.tokens() {
            let of_token = token * case.width..(token + 1) * case.width;
            for idx in entries {
                let row = case.row(case.indices[idx]);
                crate::add_scaled(&mut sums[of_token.clone()], case.acts[idx], row);
                let pairs = case.target[of_token.clone()].iter().zip(row);
                dots.push(pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum());
            }
        }
        let [mut values, mut rows, mut dense] =
            [&case.acts, &case.w_dec, &case.target].map(|x| Array::new(x, skew));
        let [mut indices, mut starts] = [&case.indices, &case.starts].map(|x| Array::new(x, 0));
        let mut ours = |run: fn(&Launch)| {
            let mut out = Array::filled(sums.len(), f32::NAN, skew);
            let mut out_dots = Array::filled(dots.len(), f32::NAN, 0);
            let from = SparseProduct {
                values: values.address(),
                latents: case.latents(&mut indices, &mut starts),
                rows: rows.address(),
                bias: NONE,
                width: case.width,
            };
            run(&sparse_times_rows(&from, out.address()).unwrap());
            let from = Dots {
                dense: dense.address(),
                rows: from.rows,
                bias: NONE,
                latents: from.latents,
                width: case.width,
            };
            run(&dots_at_entries(&from, out_dots.address()).unwrap());
            assert_eq!(out.values(), sums, "added in the same order");
            out_dots.values().to_vec()
        };
        let forward = ours(run);
        assert_close("dots", &forward, &dots);
        assert_eq!(ours(run_backward), forward);
    }
}

/// Ends of one reconstruction, of three, and of the most that there may be.
fn levels(num_latents: usize) -> [Vec<(usize, f32)>; 3] {
    let most = crate::cuda::MOST_LEVELS;
    let each = (0..most).map(|idx| (num_latents * (idx + 1) / most, 0.1 + idx as f32));
    [
        vec![(num_latents, 1.0)],
        vec![
            (num_latents / 3, 0.5),
            (num_latents / 2, 2.0),
            (num_latents, 1.0),
        ],
        each.collect(),
    ]
}

/// By level the squared errors, the gradients at the reconstructions, and those at the activations.
type Errors = (Vec<f64>, Vec<f32>, Vec<f32>);

fn ours(
    case: &Case,
    (levels, reaches_idle): (&[(usize, f32)], bool),
    skew: usize,
    run: fn(&Launch),
) -> Errors {
    let n_numbers = levels.len() * case.target.len();
    let [mut acts, mut w_dec, mut b_dec, mut target] =
        [&case.acts, &case.w_dec, &case.b_dec, &case.target].map(|x| Array::new(x, skew));
    let [mut indices, mut starts] = [&case.indices, &case.starts].map(|x| Array::new(x, 0));
    let mut grad_out = Array::filled(n_numbers, f32::NAN, skew);
    let mut grad_acts = Array::filled(case.acts.len(), f32::NAN, 0);
    let mut sums = Array::filled(levels.len() * case.n_tokens, f64::NAN, 0);
    let from = NestedDecoding {
        acts: acts.address(),
        indices: indices.address(),
        starts: case.starts(&mut starts),
        w_dec: w_dec.address(),
        b_dec: b_dec.address(),
        target: target.address(),
        levels: Levels::new(levels).unwrap(),
        reaches_idle,
        n_tokens: case.n_tokens,
        width: case.width,
    };
    let out = NestedGradients {
        grad_out: grad_out.address(),
        grad_acts: grad_acts.address(),
        sums: sums.address(),
    };
    run(&nested_errors(&from, &out).unwrap());
    let of_level = sums.values().chunks(case.n_tokens);
    (
        of_level.map(|sums| sums.iter().sum()).collect(),
        grad_out.values().to_vec(),
        grad_acts.values().to_vec(),
    )
}

fn twin(case: &Case, levels: &[(usize, f32)]) -> Errors {
    let mut grad_out = vec![0.0; levels.len() * case.target.len()];
    let mut grad_acts = vec![0.0; case.acts.len()];
    let decoding = crate::NestedDecoding {
        indices: &case.indices,
        acts: &case.acts,
        starts: &case.starts,
        w_dec: &case.w_dec,
        b_dec: &case.b_dec,
        levels,
    };
    let out = crate::NestedGradients {
        grad_out: &mut grad_out,
        grad_acts: &mut grad_acts,
    };
    let errors = decoding.squared_errors(&case.target, out);
    (errors, grad_out, grad_acts)
}

#[test]
fn nested_errors_and_their_gradients() {
    for (size, skew) in SIZES
        .into_iter()
        .flat_map(|size| SKEWS.map(|skew| (size, skew)))
    {
        let case = Case::of(size);
        for (levels, reaches_idle) in levels(size.1).iter().zip([true, false, true]) {
            let mut twin = twin(&case, levels);
            if !reaches_idle {
                let grads = twin.2.iter_mut().zip(&case.acts);
                grads.for_each(|(grad, act)| *grad *= f32::from(u8::from(*act > 0.0)));
            }
            let forward = ours(&case, (levels, reaches_idle), skew, run);
            assert_close("at reconstructions", &forward.1, &wide(&twin.1));
            assert_close("at activations", &forward.2, &wide(&twin.2));
            for (ours, twin) in forward.0.iter().zip(&twin.0) {
                assert!((ours - twin).abs() <= 1e-5 * twin, "{ours} {twin}");
            }
            let backward = ours(&case, (levels, reaches_idle), skew, run_backward);
            assert_eq!(backward, forward);
        }
    }
}

#[test]
fn a_nan_shows_in_its_token_alone() {
    let mut case = Case::of((4, 40, 31));
    case.acts[3] = f32::NAN;
    let levels = [(20, 1.0), (40, 1.0)];
    let (errors, _, grad_acts) = ours(&case, (&levels, true), 0, run);
    assert!(errors.iter().all(|error| error.is_nan()));
    let is_of_second = |idx: usize| (case.starts[1]..case.starts[2]).contains(&(idx as i64));
    for (idx, grad) in grad_acts.iter().enumerate() {
        assert_eq!(grad.is_nan(), is_of_second(idx), "{idx}");
    }
}

#[test]
fn limits_of_nested_errors() {
    let from = |n_levels: usize, n_entries, n_tokens| NestedDecoding {
        acts: NONE,
        indices: NONE,
        starts: Starts {
            starts: NONE,
            n_entries,
        },
        w_dec: NONE,
        b_dec: NONE,
        target: NONE,
        levels: Levels::new(&vec![(8, 1.0); n_levels]).unwrap(),
        reaches_idle: true,
        n_tokens,
        width: 4,
    };
    let out = NestedGradients {
        grad_out: NONE,
        grad_acts: NONE,
        sums: NONE,
    };
    let bytes = |n_levels, n_entries| {
        let launch = nested_errors(&from(n_levels, n_entries, 10), &out);
        launch.map(|launch| launch.shared_bytes)
    };
    assert_eq!(bytes(1, 0), Some(144 + 768 + 32 * 528));
    assert_eq!(bytes(3, 321), Some(144 + 3 * 768 + 96 * 528));
    for n_levels in [1, 16] {
        let most = bytes(n_levels, 100_000).unwrap();
        assert!(
            (98 << 10..=99 << 10).contains(&most),
            "what small cards have: {most}"
        );
    }
    assert_eq!(bytes(1, 1 << 31), None);
    assert!(nested_errors(&from(1, 0, 0), &out).is_none());
    assert!(Levels::new(&[]).is_none());
    assert!(Levels::new(&[(1, 1.0); 17]).is_none());
}
