//! Training with several real processes where each SAE is on one of them.

use crate::ranks_tests::{
    TOLERANCE, adam, assert_is_one_process, codes, difference, in_many_parts, long, notes,
    run_ranks, sent, signal, start, trained, wait_for_reports, with_dead_latents,
};
use crate::testing::{Run, assert_close, assert_same, interrupt_after, other};
use fault::FailureKind;
use plan::{Dtype, EventKind, Optimizer, TrainConfig};
use std::fs;

/// Three hookpoints of two widths: no number of ranks in these tests divides their SAEs.
fn uneven() -> TrainConfig {
    TrainConfig {
        hookpoints: ["layers.1.mlp.gate_proj", "layers.2", "layers.2.mlp"]
            .map(str::to_owned)
            .to_vec(),
        distribute_modules: true,
        ..adam()
    }
}

fn five_saes() -> TrainConfig {
    let mut config = uneven();
    let more = ["layers.0", "layers.3.self_attn"].map(str::to_owned);
    config.hookpoints.extend(more);
    config
}

#[test]
fn the_weights_are_those_of_one_process() {
    assert_is_one_process("five SAEs", &five_saes());
    let even = TrainConfig {
        init_seeds: vec![0, 3],
        distribute_modules: true,
        save_best: true,
        ..adam()
    };
    assert_is_one_process("two seeds", &even);
}

#[test]
fn so_are_those_of_every_kind_of_job() {
    let transcoder = TrainConfig {
        transcode: true,
        skip_connection: true,
        hookpoints: [0, 1, 2, 3]
            .map(|layer| format!("layers.{layer}.mlp"))
            .to_vec(),
        ..uneven()
    };
    assert_is_one_process("auxk, multi_topk", &with_dead_latents(five_saes()));
    assert_is_one_process(
        "excluded tokens, gradient accumulation",
        &in_many_parts(five_saes()),
    );
    assert_is_one_process("transcoder", &transcoder);
}

/// Side by side: a job whose SAEs are spread, one that every rank has, and another that is spread.
fn three_jobs(batch_size: usize) -> Vec<(&'static str, TrainConfig)> {
    let spread = |config| TrainConfig {
        distribute_modules: true,
        ..config
    };
    let jobs = [
        ("a", uneven()),
        ("b", adam()),
        (
            "c",
            spread(TrainConfig {
                optimizer: Optimizer::Adam,
                ..other()
            }),
        ),
    ];
    let with_batch = |config| TrainConfig {
        batch_size,
        ..config
    };
    jobs.map(|(name, config)| (name, with_batch(config))).into()
}

#[test]
fn jobs_of_both_kinds_share_a_stream() {
    let alone = Run::new(&three_jobs(8));
    assert_eq!(alone.run(), 0);
    let ranks = Run::of_ranks(2, &three_jobs(4));
    run_ranks(&ranks, 2);
    let difference = difference(&ranks, &alone);
    assert!(difference < TOLERANCE, "{difference}");
    for job_idx in 0..3 {
        assert_close(&ranks.curve(job_idx), &alone.curve(job_idx), 1e-5);
        assert_eq!(ranks.n_tokens(job_idx), alone.n_tokens(job_idx));
    }
    let said = notes(&ranks);
    let note = "each SAE is on one of 2 ranks, 1 to 4 on each";
    assert!(said.iter().any(|said| said == note), "{said:?}");
}

#[test]
fn activations_are_sent_in_what_the_model_computes_in() {
    let in_bf16 = |distribute_modules| TrainConfig {
        dtype: Dtype::BFloat16,
        distribute_modules,
        ..uneven()
    };
    let spread = trained(&in_bf16(true), 2, 8);
    let replicated = trained(&in_bf16(false), 2, 8);
    let difference = difference(&spread, &replicated);
    assert!(difference < TOLERANCE, "{difference}");
    assert!(n_sent(&spread).1 * 2 == n_sent(&trained(&uneven(), 2, 8)).1);
}

/// To the bit.
#[track_caller]
fn assert_same_saes(a: &Run, b: &Run) {
    let (a, b) = (a.saes(), b.saes());
    assert!(a.keys().eq(b.keys()) && !a.is_empty());
    a.values()
        .zip(b.values())
        .for_each(|(a, b)| assert_same(a, b));
}

/// All-to-alls of rank 0 and their bytes, as it says itself.
fn n_sent(run: &Run) -> (u64, u64) {
    let note = notes(run)
        .into_iter()
        .find(|note| note.contains("all-to-alls"));
    let note = note.expect("rank 0 says what it sent");
    sent(&note, "all-to-alls")
}

#[test]
fn what_is_sent_is_once_a_pass_and_to_owners_alone() {
    let (n_steps, n_ranks, ctx_len) = (20, 2, 64);
    for grad_acc_steps in [1, 4] {
        let config = TrainConfig {
            grad_acc_steps,
            micro_acc_steps: 3,
            max_examples: Some(n_steps * 8 * grad_acc_steps as u64),
            ..uneven()
        };
        let run = trained(&config, n_ranks, 8);
        let n_passes = n_steps * grad_acc_steps as u64;
        // Rank 0 has the wide one, which is most of the work, and sends what the others take: two rows of
        // 32 numbers for each of its tokens.
        let n_tokens = n_passes * 8 / n_ranks as u64 * ctx_len;
        assert_eq!(n_sent(&run), (n_passes, n_tokens * 2 * 32 * 4));
        let reduced = notes(&run)
            .into_iter()
            .any(|note| note.contains(" sent 0 B in 0 all-reduces"));
        assert!(reduced, "{:?}", notes(&run));
    }
}

/// Killed ranks resume in any number. With three, the parts of a batch of eight differ, so that one rank has
/// fewer passes.
#[test]
fn killed_ranks_go_on_in_any_number() {
    let config = TrainConfig {
        batch_size: 2,
        distribute_modules: true,
        hookpoints: five_saes().hookpoints,
        save_best: true,
        ..long()
    };
    let undisturbed = Run::of_ranks(4, &[("a", config.clone())]);
    run_ranks(&undisturbed, 4);
    for n_ranks in [4, 3, 1] {
        let mut run = Run::of_ranks(4, &[("a", config.clone())]);
        let mut ranks = start(&run, 4);
        wait_for_reports(&run, 25);
        ranks[1].kill().unwrap();
        let ended = codes(ranks);
        assert!(ended.iter().all(|code| *code != Some(0)), "{ended:?}");
        run.order.attempt += 1;
        match n_ranks {
            1 => assert_eq!(run.run(), 0),
            _ => run_ranks(&run, n_ranks),
        }
        let difference = difference(&run, &undisturbed);
        println!("resumed on {n_ranks}: {difference:.1e}");
        if n_ranks == 4 {
            assert_eq!(run.saes().len(), 10, "the last ones and the best ones");
            assert_same_saes(&run, &undisturbed);
        }
        assert!(difference < TOLERANCE, "on {n_ranks}: {difference}");
    }
}

/// Of four batches: as four ranks, three whose passes are not alike, or one.
#[test]
fn any_number_of_ranks_shares_the_same_updates_from_the_start() {
    let shared = |config| TrainConfig {
        batch_size: 2,
        ..config
    };
    let of_all = shared(TrainConfig {
        transcode: true,
        distribute_modules: false,
        ..uneven()
    });
    for config in [shared(five_saes()), of_all] {
        let run_of = |n_ranks| {
            let run = Run::of_ranks(4, &[("a", config.clone())]);
            match n_ranks {
                1 => assert_eq!(run.run(), 0),
                _ => run_ranks(&run, n_ranks),
            }
            run
        };
        let four = run_of(4);
        for n_ranks in [1, 3] {
            let difference = difference(&run_of(n_ranks), &four);
            assert!(difference < TOLERANCE, "on {n_ranks}: {difference}");
        }
    }
}

#[test]
fn what_one_process_saved_is_taken_up_by_several() {
    let config = TrainConfig {
        batch_size: 8,
        ..uneven()
    };
    let undisturbed = Run::new(&[("a", config.clone())]);
    assert_eq!(undisturbed.run(), 0);
    let mut run = Run::new(&[("a", config)]);
    interrupt_after(&run, 8);
    run.order.attempt += 1;
    run_ranks(&run, 2);
    let difference = difference(&run, &undisturbed);
    assert!(difference < TOLERANCE, "{difference}");
}

#[test]
fn a_stop_of_one_rank_saves_the_saes_of_all() {
    let config = TrainConfig {
        save_every: 1000,
        batch_size: 4,
        distribute_modules: true,
        ..long()
    };
    let undisturbed = Run::of_ranks(2, &[("a", config.clone())]);
    run_ranks(&undisturbed, 2);
    let mut run = Run::of_ranks(2, &[("a", config)]);
    let ranks = start(&run, 2);
    wait_for_reports(&run, 3);
    signal(&ranks[1], "-TERM");
    assert_eq!(codes(ranks), [Some(130), Some(130)]);
    run.order.attempt = 2;
    run_ranks(&run, 2);
    assert_same_saes(&run, &undisturbed);
}

#[test]
fn a_state_that_is_damaged_for_one_rank_is_put_aside_by_all() {
    let config = TrainConfig {
        save_total_limit: 2,
        save_every: 5,
        batch_size: 4,
        ..uneven()
    };
    let undisturbed = Run::of_ranks(2, &[("a", config.clone())]);
    run_ranks(&undisturbed, 2);
    for sae in ["layers.1.mlp.gate_proj", "layers.2"] {
        let mut run = Run::of_ranks(2, &[("a", config.clone())]);
        let mut ranks = start(&run, 2);
        wait_for_reports(&run, 12);
        ranks[1].kill().unwrap();
        codes(ranks);
        let states = run.dir.path().join(".state/a");
        let mut states: Vec<_> = states
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                path.file_name()
                    .unwrap()
                    .to_string_lossy()
                    .starts_with("step-")
            })
            .collect();
        states.sort();
        let file = states.pop().unwrap().join(format!("{sae}.safetensors"));
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        run.order.attempt = 2;
        run_ranks(&run, 2);
        let said = notes(&run);
        assert!(
            said.iter().any(|note| note.contains("is damaged")),
            "{said:?}"
        );
        assert_same_saes(&run, &undisturbed);
    }
}

#[test]
fn nan_and_infinity_are_reported_by_any_rank() {
    let config = TrainConfig {
        lr: Some(1e30),
        ..uneven()
    };
    let verdicts = |run: &Run| -> Vec<EventKind> {
        let unhealthy = run.events().into_iter().map(|event| event.kind);
        unhealthy
            .filter(|kind| matches!(kind, EventKind::Unhealthy { is_fatal: true, .. }))
            .collect()
    };
    let run_of = |n_ranks: usize| {
        let config = TrainConfig {
            batch_size: 8 / n_ranks,
            ..config.clone()
        };
        let run = Run::of_ranks(n_ranks, &[("a", config)]);
        match n_ranks {
            1 => assert_eq!(run.run(), 0),
            _ => assert_eq!(codes(start(&run, n_ranks)), vec![Some(0); n_ranks]),
        }
        run
    };
    let (alone, ranks) = (verdicts(&run_of(1)), verdicts(&run_of(3)));
    let sae = |verdicts: &[EventKind]| match &verdicts[0] {
        EventKind::Unhealthy {
            sae, step, reason, ..
        } => (sae.clone(), *step, reason.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(sae(&ranks), sae(&alone));
}

#[test]
fn more_ranks_than_saes_are_an_error_on_all() {
    let config = TrainConfig {
        hookpoints: vec!["layers.2".into()],
        batch_size: 4,
        ..uneven()
    };
    let run = Run::of_ranks(2, &[("a", config)]);
    assert_eq!(codes(start(&run, 2)), [Some(2), Some(2)]);
    let last = run.events().pop().unwrap().kind;
    let EventKind::Failed {
        kind,
        message,
        hint,
    } = last
    else {
        panic!("{last:?}");
    };
    assert_eq!(kind, FailureKind::Input);
    assert_eq!(
        message,
        "2 ranks are more than the SAEs of the stream (1), each of which `distribute_modules` gives to one"
    );
    assert!(hint.unwrap().starts_with("start fewer processes"));
}
