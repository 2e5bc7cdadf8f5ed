//! The largest of rows.

use super::*;
use crate::candidates::order;
use crate::cuda::launches::{
    Dots, MOST_SELECTED, OfToken, Products, Rescore, Selected, TokenLatents, TopK, dots_at_entries,
    rescore_topk, topk,
};
use crate::numbers;

/// Rows of products as a kernel takes them.
#[derive(Clone)]
enum Rows {
    Float32(Array<f32>),
    BFloat16(Array<u16>),
}

struct Case {
    rows: Vec<f32>,
    bias: Option<Vec<f32>>,
    n: usize,
    k: usize,
    with_relu: bool,
    is_bfloat16: bool,
    skew: usize,
}

type Latents = Vec<(i64, f32)>;

/// The `k` largest, the first of equal ones first.
fn largest(mut all: Latents, k: usize, with_relu: bool) -> Latents {
    all.sort_by(|a, b| order(b.1, a.1).then(a.0.cmp(&b.0)));
    all.truncate(k);
    for (_, act) in &mut all {
        // A NaN stays one.
        if with_relu && *act < 0.0 {
            *act = 0.0;
        }
    }
    all
}

fn pairs(indices: &Array<i64>, acts: &Array<f32>) -> Latents {
    let pairs = indices.values().iter().zip(acts.values());
    pairs.map(|(&idx, &act)| (idx, act)).collect()
}

/// -0 is 0.
fn same(a: &[(i64, f32)], b: &[(i64, f32)]) -> bool {
    let is_same = |(a, b): (&(i64, f32), &(i64, f32))| a.0 == b.0 && order(a.1, b.1).is_eq();
    a.len() == b.len() && a.iter().zip(b).all(is_same)
}

impl Case {
    fn expected(&self) -> Latents {
        let of_row = |row: &[f32]| {
            let sum = |(idx, x): (usize, &f32)| {
                let bias = self.bias.as_ref().map(|bias| bias[idx]);
                (idx as i64, bias.map_or(*x, |bias| x + bias))
            };
            let sums = row.iter().enumerate().map(sum).collect();
            largest(sums, self.k, self.with_relu)
        };
        self.rows.chunks(self.n).flat_map(of_row).collect()
    }

    fn ours(&self, run: fn(&Launch)) -> Latents {
        let n_rows = self.rows.len() / self.n;
        let mut rows = if self.is_bfloat16 {
            let rows: Vec<u16> = self
                .rows
                .iter()
                .map(|x| (x.to_bits() >> 16) as u16)
                .collect();
            Rows::BFloat16(Array::new(&rows, self.skew))
        } else {
            Rows::Float32(Array::new(&self.rows, self.skew))
        };
        let mut bias = self.bias.as_ref().map(|bias| Array::new(bias, 0));
        let mut acts = Array::filled(n_rows * self.k, f32::INFINITY, 0);
        let mut indices = Array::filled(n_rows * self.k, -1, 0);
        let from = TopK {
            products: match &mut rows {
                Rows::Float32(rows) => Products::Float32(rows.address()),
                Rows::BFloat16(rows) => Products::BFloat16(rows.address()),
            },
            bias: bias.as_mut().map_or(NONE, Array::address),
            n_rows,
            n_latents: self.n,
        };
        let out = Selected {
            acts: acts.address(),
            indices: indices.address(),
            k: self.k,
            with_relu: self.with_relu,
        };
        run(&topk(&from, &out).unwrap());
        pairs(&indices, &acts)
    }

    #[track_caller]
    fn check(&self, what: &str) {
        let (expected, ours) = (self.expected(), self.ours(run));
        let Self { n, k, skew, .. } = *self;
        let differs = ours
            .iter()
            .zip(&expected)
            .position(|(a, b)| !same(&[*a], &[*b]));
        let at = differs.map(|at| (at, ours[at], expected[at]));
        assert!(at.is_none(), "{what}, {k} of {n}, skew {skew}: {at:?}");
        assert!(same(&self.ours(run_backward), &ours), "{what}, backward");
    }
}

/// Numbers without an order, cut to what bfloat16 has.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut next = crate::random(seed);
    // About normal.
    let mut number = || next() + next() + next() - 1.5;
    (0..n).map(|_| cut(number())).collect()
}

fn cut(x: f32) -> f32 {
    f32::from_bits(x.to_bits() & 0xffff_0000)
}

/// Three rows of `n` numbers, each of a different kind.
fn rows(n: usize, seed: u64) -> [(&'static str, Vec<f32>); 3] {
    let mut with_bad = noise(n, seed);
    for (idx, bad) in [
        (n / 3, f32::INFINITY),
        (n / 2, f32::NEG_INFINITY),
        (n * 2 / 3, -0.0),
        (n - 1, f32::NAN),
    ] {
        with_bad[idx] = bad;
    }
    let few = noise(n, seed + 1).iter().map(|x| x.round()).collect();
    [
        ("noise", noise(n, seed)),
        ("few values", few),
        ("bad values", with_bad),
    ]
}

#[test]
fn the_largest_of_rows() {
    let sizes = [
        1, 2, 5, 31, 255, 256, 257, 513, 1000, 2048, 4099, 8192, 20_000, 33_000,
    ];
    for (seed, n) in (0..).zip(sizes) {
        let [noise_row, few, bad] = rows(n, seed);
        let rows = [noise_row.1, few.1, bad.1].concat();
        for k in [1, 7, n / 5, n] {
            if !(1..=n.min(MOST_SELECTED)).contains(&k) {
                continue;
            }
            for (idx, is_bfloat16) in [false, true].into_iter().enumerate() {
                let case = Case {
                    rows: rows.clone(),
                    bias: ((n + k + idx) % 2 == 0).then(|| noise(n, 99)),
                    n,
                    k,
                    with_relu: k == 7 || k == n,
                    is_bfloat16,
                    skew: k % 2,
                };
                case.check("rows");
            }
        }
    }
}

#[test]
fn rows_that_are_hard_to_divide() {
    let n = 9000;
    let rising: Vec<f32> = (0..n).map(|idx| idx as f32).collect();
    let falling: Vec<f32> = rising.iter().map(|x| -x).collect();
    let nearly_equal = (0..n)
        .map(|idx| if idx == 8999 { 2.0 } else { 1.0 })
        .collect();
    // The largest are in one group of chunks, and in all numbers of it.
    let in_one_group = (0..n)
        .map(|idx| {
            if idx % 2048 < 4 {
                5.0 + idx as f32
            } else {
                0.0
            }
        })
        .collect();
    for (what, row) in [
        ("rising", rising),
        ("falling", falling),
        ("equal", vec![1.5; n]),
        ("nearly equal", nearly_equal),
        ("in one group", in_one_group),
        (
            "zeros of both signs",
            (0..n).map(|idx| [0.0, -0.0][idx % 2]).collect(),
        ),
        ("NaN", vec![f32::NAN; n]),
        ("the least", vec![f32::NEG_INFINITY; n]),
        ("the most", vec![f32::INFINITY; n]),
    ] {
        for (k, skew) in [(1, 0), (32, 1), (500, 0)] {
            let case = Case {
                rows: [row.clone(), row.clone()].concat(),
                bias: None,
                n,
                k,
                with_relu: false,
                is_bfloat16: false,
                skew,
            };
            case.check(what);
        }
    }
}

#[test]
fn long_rows_and_large_k() {
    for (n, k, is_bfloat16) in [
        (300_000, 64, false),
        (262_144, 1, true),
        (70_000, 4096, false),
    ] {
        let case = Case {
            rows: noise(n, 5),
            bias: None,
            n,
            k,
            with_relu: true,
            is_bfloat16,
            skew: 0,
        };
        case.check("long");
    }
}

#[test]
fn limits_of_the_largest() {
    let from = TopK {
        products: Products::Float32(NONE),
        bias: NONE,
        n_rows: 1,
        n_latents: 5000,
    };
    let out = |k| Selected {
        acts: NONE,
        indices: NONE,
        k,
        with_relu: false,
    };
    assert!(topk(&from, &out(4096)).is_some());
    assert!(topk(&from, &out(0)).is_none());
    assert!(topk(&from, &out(4097)).is_none());
    let few = TopK {
        n_latents: 7,
        ..from
    };
    assert!(topk(&few, &out(7)).is_some());
    assert!(topk(&few, &out(8)).is_none());
    assert!(topk(&TopK { n_rows: 0, ..from }, &out(1)).is_none());
    let most = TopK {
        n_latents: 1 << 31,
        ..from
    };
    let shared_bytes = topk(&most, &out(4096)).unwrap().shared_bytes;
    assert_eq!(shared_bytes, 155_936);
    let of_small_cards = topk(&most, &out(2048)).unwrap().shared_bytes;
    assert!(of_small_cards <= 99 << 10, "{of_small_cards}");
}

/// Tokens, latents, width, candidates or entries of a token.
const SIZES: [(usize, usize, usize, usize); 7] = [
    (1, 1, 1, 1),
    (2, 3, 4, 3),
    (3, 40, 31, 33),
    (2, 70, 128, 64),
    (5, 9, 130, 5),
    (2, 300, 516, 257),
    (1, 50, 1000, 1),
];

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}

#[test]
fn dots_with_rows() {
    for (idx, (n_tokens, num_latents, width, k)) in SIZES.into_iter().enumerate() {
        for skew in SKEWS {
            let (x, weight) = (
                numbers(n_tokens * width, 0.1),
                numbers(num_latents * width, 0.2),
            );
            let bias = numbers(num_latents, 0.3);
            let has_bias = idx % 2 == 0;
            let indices = latents(n_tokens, num_latents, k);
            let expected: Vec<f64> = (0..n_tokens * k)
                .map(|entry| {
                    let latent = indices[entry] as usize;
                    let bias = if has_bias {
                        f64::from(bias[latent])
                    } else {
                        0.0
                    };
                    dot(
                        &x[entry / k * width..][..width],
                        &weight[latent * width..][..width],
                    ) + bias
                })
                .collect();
            let [mut x, mut weight, mut bias] = [x, weight, bias].map(|x| Array::new(&x, skew));
            let mut indices = Array::new(&indices, 0);
            let mut ours = |run: fn(&Launch)| {
                let mut out = Array::filled(n_tokens * k, f32::NAN, 0);
                let from = Dots {
                    dense: x.address(),
                    rows: weight.address(),
                    bias: if has_bias { bias.address() } else { NONE },
                    latents: TokenLatents {
                        indices: indices.address(),
                        of_token: OfToken::Every(k),
                        n_tokens,
                    },
                    width,
                };
                run(&dots_at_entries(&from, out.address()).unwrap());
                out.values().to_vec()
            };
            let forward = ours(run);
            assert_close("dots", &forward, &expected);
            assert_eq!(ours(run_backward), forward);
        }
    }
}

#[test]
fn the_largest_of_candidates() {
    for (n_tokens, num_latents, width, n_candidates) in SIZES {
        for (k, skew) in [(1, 0), (n_candidates.div_ceil(2), 1), (n_candidates, 0)] {
            let mut x = Array::new(&numbers(n_tokens * width, 0.1), skew);
            let mut weight = numbers(num_latents * width, 0.2);
            let mut bias = numbers(num_latents, 0.3);
            if num_latents == 40 {
                // Two equal ones, and a NaN.
                weight.copy_within(3 * width..4 * width, 30 * width);
                (bias[30], bias[5]) = (bias[3], f32::NAN);
            }
            let mut candidates = latents(n_tokens, num_latents, n_candidates);
            candidates
                .chunks_mut(n_candidates)
                .for_each(<[i64]>::reverse);
            let mut weight = Array::new(&weight, skew);
            let (mut bias, mut candidates) = (Array::new(&bias, 0), Array::new(&candidates, 0));
            let mut scores = Array::filled(n_tokens * n_candidates, 0.0f32, 0);
            let from = Rescore {
                x: x.address(),
                weight: weight.address(),
                bias: bias.address(),
                candidates: candidates.address(),
                n_tokens,
                width,
                n_candidates,
            };
            // The same sums.
            let dots = Dots {
                dense: from.x,
                rows: from.weight,
                bias: from.bias,
                latents: TokenLatents {
                    indices: from.candidates,
                    of_token: OfToken::Every(n_candidates),
                    n_tokens,
                },
                width,
            };
            run(&dots_at_entries(&dots, scores.address()).unwrap());
            let all = pairs(&candidates, &scores);
            let expected: Latents = all
                .chunks(n_candidates)
                .flat_map(|of_token| largest(of_token.to_vec(), k, true))
                .collect();
            for run in [run, run_backward] {
                let mut acts = Array::filled(n_tokens * k, f32::INFINITY, 0);
                let mut indices = Array::filled(n_tokens * k, -1i64, 0);
                let out = Selected {
                    acts: acts.address(),
                    indices: indices.address(),
                    k,
                    with_relu: true,
                };
                run(&rescore_topk(&from, &out).unwrap());
                let ours = pairs(&indices, &acts);
                assert!(
                    same(&ours, &expected),
                    "{k} of {n_candidates}: {ours:?} {expected:?}"
                );
            }
        }
    }
}
