//! The optimizer's update.

use super::latents::{Case, SIZES};
use super::*;
use crate::cuda::launches::{
    DenseGradient, EntryTokens, Moments, RowSums, SortedEntries, Update, dense_adam, dense_signum,
    rows_adam, rows_signum,
};
use crate::{Adam, MatrixUpdate, RowSteps, Signum, Weights, numbers, project, scale, signum};

const DIVISOR: f32 = 3.0;

/// What the optimizer does to weights, and their copy in bfloat16.
#[derive(Clone, Debug, PartialEq)]
struct Updated {
    weights: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    rounded: Vec<u16>,
}

#[derive(Clone, Copy)]
enum Rule {
    Signum(Signum),
    Adam(Adam),
}

/// Where a gradient comes from.
enum From<'a> {
    Entries(&'a SortedEntries, &'a RowSums),
    Dense(&'a DenseGradient),
}

/// How weights are laid out in memory, and whether their gradient is projected.
#[derive(Clone, Copy)]
struct Settings {
    skew: usize,
    is_projected: bool,
    is_rounded: bool,
}

fn constants(average: f64) -> Signum {
    Signum {
        lr: 0.1,
        to_x: 1.0 - 1.0 / 0.95,
        average,
        to_y: 0.05,
    }
}

fn adam() -> Adam {
    Adam {
        lr: 0.02,
        to_gradient: 1.0 - 0.9,
        to_square: 1.0 - 0.999,
        correction: (1.0f64 - 0.999f64.powi(3)).sqrt(),
        eps: 1e-8,
    }
}

fn before(n: usize) -> Updated {
    Updated {
        weights: numbers(n, 0.5).iter().map(|x| x * 0.3).collect(),
        first: numbers(n, 0.6),
        second: numbers(n, 0.7).iter().map(|x| x * x).collect(),
        rounded: vec![0; n],
    }
}

/// To the nearest, of two the even one.
fn rounded(x: f32) -> u16 {
    let (below, off) = (x.to_bits() >> 16, x.to_bits() & 0xffff);
    let is_up = off > 0x8000 || (off == 0x8000 && below % 2 == 1);
    (below + u32::from(is_up)) as u16
}

fn lerp(from: f32, to: f32, weight: f32) -> f32 {
    if weight < 0.5 {
        from + weight * (to - from)
    } else {
        to - (to - from) * (1.0 - weight)
    }
}

/// As `torch.optim.Adam`, in steps of Float.
fn plain_adam(at: &mut Updated, gradient: &[f32], rule: &Adam) {
    let moments = at.first.iter_mut().zip(&mut at.second);
    for ((weight, (first, second)), g) in at.weights.iter_mut().zip(moments).zip(gradient) {
        *first = lerp(*first, *g, rule.to_gradient as f32);
        *second = lerp(*second, g * g, rule.to_square as f32);
        let denominator = second.sqrt() / rule.correction as f32 + rule.eps as f32;
        *weight -= *first / denominator * rule.lr as f32;
    }
}

/// By the twins, with a gradient that is neither divided nor projected yet.
fn expected(gradient: &[f32], width: usize, rule: Rule, settings: Settings) -> (Updated, Vec<f32>) {
    let mut updated = before(gradient.len());
    let mut gradient = gradient.to_vec();
    scale(&mut gradient, DIVISOR);
    if settings.is_projected {
        project(&mut gradient, &updated.weights, width);
    }
    match rule {
        Rule::Signum(constants) => {
            signum(
                &mut updated.weights,
                &mut updated.first,
                &gradient,
                constants,
            );
        }
        Rule::Adam(rule) => plain_adam(&mut updated, &gradient, &rule),
    }
    if settings.is_rounded {
        updated.rounded = updated.weights.iter().map(|x| rounded(*x)).collect();
    }
    (updated, gradient)
}

fn ours(n: usize, from: &From<'_>, rule: Rule, settings: Settings, run: fn(&Launch)) -> Updated {
    let updated = before(n);
    let skew = settings.skew;
    let [mut weights, mut first, mut second] =
        [&updated.weights, &updated.first, &updated.second].map(|x| Array::new(x, skew));
    let mut rounded = Array::new(&updated.rounded, skew);
    let mut divisor = Array::filled(1, DIVISOR, 0);
    let update = Update {
        divisor: divisor.address(),
        is_projected: settings.is_projected,
        weights: weights.address(),
        rounded: if settings.is_rounded {
            rounded.address()
        } else {
            NONE
        },
    };
    let launch = match rule {
        Rule::Signum(constants) => {
            let rule = (constants, first.address());
            match from {
                From::Entries(entries, sums) => rows_signum(entries, sums, &update, rule),
                From::Dense(dense) => dense_signum(dense, &update, rule),
            }
        }
        Rule::Adam(rule) => {
            let moments = Moments {
                exp_avg: first.address(),
                exp_avg_sq: second.address(),
            };
            let rule = (rule, moments);
            match from {
                From::Entries(entries, sums) => rows_adam(entries, sums, &update, rule),
                From::Dense(dense) => dense_adam(dense, &update, rule),
            }
        }
    };
    run(&launch.unwrap());
    Updated {
        weights: weights.values().to_vec(),
        first: first.values().to_vec(),
        second: second.values().to_vec(),
        rounded: rounded.values().to_vec(),
    }
}

/// Without projection to the bit; the sum of a projection has another order, so a sign may differ where the gradient
/// is nearly 0.
#[track_caller]
fn check(from: &From<'_>, gradient: &[f32], width: usize, rule: Rule) {
    for (skew, is_projected, is_rounded) in [
        (0, false, true),
        (1, false, true),
        (0, true, false),
        (1, true, true),
    ] {
        let settings = Settings {
            skew,
            is_projected,
            is_rounded,
        };
        let (expected, projected) = expected(gradient, width, rule, settings);
        let forward = ours(gradient.len(), from, rule, settings, run);
        let backward = ours(gradient.len(), from, rule, settings, run_backward);
        assert_eq!(forward, backward);
        if !is_projected {
            assert_eq!(forward, expected);
            continue;
        }
        for (idx, g) in projected.iter().enumerate() {
            let off = |a: &[f32], b: &[f32]| (a[idx] - b[idx]).abs();
            let weights = off(&forward.weights, &expected.weights);
            let first = off(&forward.first, &expected.first);
            let second = off(&forward.second, &expected.second);
            let is_same = weights.max(first).max(second) < 1e-5;
            assert!(
                is_same || g.abs() < 1e-5,
                "{idx} of {width}: {weights} {first} {second} {g}"
            );
        }
    }
}

fn rules() -> [Rule; 3] {
    [
        Rule::Signum(constants(0.3)),
        Rule::Signum(constants(1.0)),
        Rule::Adam(adam()),
    ]
}

#[test]
fn updates_from_entries() {
    for case in SIZES.into_iter().flat_map(Case::both) {
        let mut sorted = case.sorted();
        let entries = case.launched(&mut sorted);
        let parts = case.parts();
        for ((idx, gradient), (values, dense)) in case.gradients().iter().enumerate().zip(parts) {
            let width = case.widths[idx];
            let (mut values, mut dense) = (Array::new(values, 0), Array::new(dense, 0));
            let sums = RowSums {
                values: values.address(),
                dense: dense.address(),
                width,
            };
            for rule in rules() {
                check(&From::Entries(&entries, &sums), gradient, width, rule);
            }
        }
    }
}

#[test]
fn updates_from_gradients_in_memory() {
    for (n_rows, width) in [(1, 1), (2, 3), (5, 4), (3, 132), (2, 1027), (4, 2100)] {
        let mut values = numbers(n_rows * width, 0.9);
        values[n_rows * width / 2] = 0.0;
        let mut gradient = Array::new(&values, 0);
        let from = DenseGradient {
            gradient: gradient.address(),
            n_rows,
            width,
        };
        for rule in rules() {
            check(&From::Dense(&from), &values, width, rule);
        }
        assert_eq!(gradient.values(), values, "it is only read");
    }
}

/// [`Entries::update`](crate::Entries::update) itself, of a transcoder.
#[test]
fn an_update_is_the_twins() {
    let case = Case::of((130, 70, 37, 16, 9));
    let [mut encoder, mut decoder] = case.widths.map(|width| before(case.num_latents * width));
    let update = MatrixUpdate {
        encoder_weight: Weights {
            y: &mut encoder.weights,
            z: &mut encoder.first,
        },
        w_dec: Weights {
            y: &mut decoder.weights,
            z: &mut decoder.first,
        },
        steps: RowSteps {
            divisor: DIVISOR,
            is_projected: false,
            constants: constants(0.3),
        },
    };
    let entries = case.entries();
    entries.update(
        &case.by_latent,
        case.grad_out.as_slice().into(),
        &case.centred,
        update,
    );
    let mut sorted = case.sorted();
    let entries = case.launched(&mut sorted);
    let parts = case.parts().into_iter().zip([encoder, decoder]);
    for (((values, dense), twin), width) in parts.zip(case.widths) {
        let (mut values, mut dense) = (Array::new(values, 0), Array::new(dense, 0));
        let sums = RowSums {
            values: values.address(),
            dense: dense.address(),
            width,
        };
        let settings = Settings {
            skew: 0,
            is_projected: false,
            is_rounded: false,
        };
        let from = From::Entries(&entries, &sums);
        let rule = Rule::Signum(constants(0.3));
        assert_eq!(ours(twin.weights.len(), &from, rule, settings, run), twin);
    }
}

#[test]
fn a_nan_in_a_gradient_shows() {
    let mut gradient = Array::new(&[1.0, f32::NAN, -1.0, 0.0], 0);
    let from = DenseGradient {
        gradient: gradient.address(),
        n_rows: 1,
        width: 4,
    };
    let settings = Settings {
        skew: 0,
        is_projected: false,
        is_rounded: true,
    };
    for rule in rules() {
        let updated = ours(4, &From::Dense(&from), rule, settings, run);
        let is_nan: Vec<bool> = updated.weights.iter().map(|x| x.is_nan()).collect();
        assert_eq!(is_nan, [false, true, false, false]);
        assert_eq!(updated.rounded[1], 0x7fc0);
    }
}

#[test]
fn limits_of_updates() {
    let entries = |n_latents| SortedEntries {
        order: NONE,
        starts: NONE,
        n_latents,
        tokens: EntryTokens::Every(2),
    };
    let sums = |width| RowSums {
        values: NONE,
        dense: NONE,
        width,
    };
    let update = Update {
        divisor: NONE,
        is_projected: true,
        weights: NONE,
        rounded: NONE,
    };
    let moments = Moments {
        exp_avg: NONE,
        exp_avg_sq: NONE,
    };
    let adam_rule = (adam(), moments);
    let of = |n_latents, width| {
        let rule = (constants(1.0), NONE);
        let signum = rows_signum(&entries(n_latents), &sums(width), &update, rule).is_some();
        let adam = rows_adam(&entries(n_latents), &sums(width), &update, adam_rule).is_some();
        assert_eq!(signum, adam);
        signum
    };
    assert!(of(1, 57_336));
    assert!(!of(1, 57_337) && !of(0, 4) && !of(1, 0));
    let dense = |n_rows, width| DenseGradient {
        gradient: NONE,
        n_rows,
        width,
    };
    assert!(dense_adam(&dense(1, 1 << 30), &update, adam_rule).is_some());
    assert!(dense_adam(&dense(0, 4), &update, adam_rule).is_none());
    assert!(dense_adam(&dense(1, 0), &update, adam_rule).is_none());
}
