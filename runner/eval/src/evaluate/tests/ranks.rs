//! Several ranks find what one process finds, to the bit.

use super::*;
use crate::thread_ranks::on_ranks;

/// More ranks than batches, too: seven sequences in four batches.
const NUMBERS_OF_RANKS: [usize; 3] = [2, 3, 6];

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.add("a", &random(1), &[]);
    bench.add("some", &random(2), &[5, 9]);
    bench.add_at("layers.1", "b", &random(3), &[]);
    bench
}

#[test]
fn sums_are_those_of_one_process() {
    let bench = bench();
    let go_on = |_: u64, _: u64| ControlFlow::Continue(());
    let density = |name: &str| {
        let path = bench.dir.path().join(format!("eval/{name}.safetensors"));
        fs::read(path).unwrap()
    };
    let expected = bench.run(2);
    let densities = ["a", "some", "b"].map(density);
    for n_ranks in NUMBERS_OF_RANKS {
        fs::remove_dir_all(bench.dir.path().join("eval")).unwrap();
        let of_ranks = on_ranks(n_ranks, |ranks| {
            let evaluated = evaluate(&bench.request(2), ranks, &mut { go_on }).unwrap();
            let evaluated = evaluated.unwrap().into_iter();
            evaluated
                .map(|evaluated| evaluated.stats)
                .collect::<Vec<_>>()
        });
        for stats in of_ranks {
            assert_eq!(
                format!("{stats:?}"),
                format!("{expected:?}"),
                "{n_ranks} ranks"
            );
        }
        assert!(["a", "some", "b"].map(density) == densities);
    }
}

#[test]
fn thresholds_are_those_of_one_process() {
    let mut bench = Bench::new();
    for (seed, exclude_tokens) in [(3, vec![]), (4, vec![5])] {
        let cfg = SaeConfig {
            activation: sae::Activation::JumpRelu,
            ..SaeConfig::topk(32, 96, 96)
        };
        let sae = Sae::new(cfg, seed, Device::Cpu).unwrap();
        let dir = bench.dir.path().join(format!("sae{seed}"));
        sae.save(&dir, &sae::SaeLensMetadata::default()).unwrap();
        bench.saes.push(EvalSae {
            name: format!("sae{seed}"),
            hookpoint: HOOKPOINT.into(),
            dir,
            exclude_tokens,
            density: None,
        });
    }
    // The last has fewer positive pre-activations than are wanted.
    for k in [5.0, 7.25, 90.0] {
        let wanted = [k; 2].map(|k| Wanted {
            k,
            estimate: vec![0.4],
        });
        let find = |ranks: &dyn Ranks| {
            let go_on = &mut |_, _| ControlFlow::Continue(());
            let found = calibrate(&bench.request(2), &wanted, ranks, go_on);
            format!("{:?}", found.unwrap().unwrap())
        };
        let expected = find(&Alone);
        for n_ranks in NUMBERS_OF_RANKS {
            for found in on_ranks(n_ranks, find) {
                assert_eq!(found, expected, "{n_ranks} ranks");
            }
        }
    }
}

#[test]
fn one_that_is_asked_to_stop_stops_all() {
    let bench = bench();
    let stopped = on_ranks(3, |ranks| {
        let mut n_calls = 0;
        let report = &mut |_, _| {
            n_calls += 1;
            match (n_calls, ranks.shard().rank) {
                (2, 1) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        };
        evaluate(&bench.request(2), ranks, report)
            .unwrap()
            .is_none()
    });
    assert_eq!(stopped, [true; 3]);
    assert!(!bench.dir.path().join("eval").exists());
}
