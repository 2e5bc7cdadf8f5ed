//! Crosscoders on two models.

use super::ActivationStream;
use super::activation_stream::PassIdx;
use super::open::{second_taps, taps};
use crate::activations::views::{Side, View};
use crate::events::EventLog;
use crate::ranks_tests::run_ranks;
use crate::stop::StopFlag;
use crate::testing::relative;
use crate::testing::{Run, assert_same_saes, config, fixtures, interrupt_after, make_other_model};
use crate::worker::prepare::open_tokens;
use lm::{LanguageModel, LoadOptions};
use plan::{EventKind, Job, TrainConfig};
use std::path::Path;
use tch::Tensor;
use tempfile::TempDir;
use tokens::Shard;

const BLOCKS: [&str; 2] = ["layers.1", "layers.2"];

fn other_model() -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    make_other_model(dir.path());
    let path = dir.path().to_str().unwrap().to_owned();
    (dir, path)
}

fn on_two(second: &str) -> TrainConfig {
    TrainConfig {
        crosscoder: true,
        crosscoder_model: Some(second.to_owned()),
        hookpoints: BLOCKS.map(String::from).to_vec(),
        ..config()
    }
}

fn stream_of(run: &Run) -> ActivationStream {
    let order = &run.order;
    let job: &Job = &order.jobs[0].job;
    let load = |dir: &Path| LanguageModel::load(dir, &LoadOptions::default()).unwrap();
    let model = load(&order.model_dir);
    let second = order.second_model.as_ref().map(|second| load(&second.dir));
    let mut events = EventLog::open(&order.events, 1, 0).unwrap();
    let vocab_size = model.facts().vocab_size;
    let stop = StopFlag::default();
    let tokens = open_tokens(order, vocab_size, Shard::WHOLE, &stop, &mut events).unwrap();
    ActivationStream {
        key: order.key.clone(),
        taps: taps([job], model.facts()).unwrap(),
        model,
        second: second.map(|second| {
            let taps = second_taps([job], second.facts()).unwrap();
            (second, taps)
        }),
        batches: tokens.batches,
    }
}

/// The activations of the first pass at `hookpoints`, side by side.
fn rows(run: &Run, hookpoints: &[&str]) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    let stream = stream_of(run);
    let forward = stream.forward(PassIdx::FIRST).unwrap().unwrap();
    let view = View {
        hookpoints: hookpoints.iter().map(|name| (*name).to_owned()).collect(),
        side: Side::Output,
        exclude_tokens: Vec::new(),
    };
    forward.views().get(&view).unwrap()
}

#[test]
fn rows_of_two_models_are_those_of_each_alone() {
    let (_dir, second) = other_model();
    let both = Run::new(&[("a", on_two(&second))]);
    let saes = &both.order.jobs[0].job.saes;
    let names = ["layers.1", "layers.2", "2:layers.1", "2:layers.2"];
    assert_eq!(saes[0].hookpoints, names);
    let x = rows(&both, &names);
    let alone = |model: String| {
        let config = TrainConfig {
            model,
            crosscoder_model: None,
            ..on_two(&second)
        };
        rows(&Run::new(&[("a", config)]), &BLOCKS)
    };
    let tiny = alone(fixtures().join("tiny-llama").to_str().unwrap().into());
    let other = alone(second.clone());
    assert!(!tiny.equal(&other));
    assert!(x.equal(&Tensor::cat(&[tiny, other], 1)));
}

#[test]
fn a_crosscoder_of_two_models_learns_and_resumes_to_the_bit() {
    let (_dir, second) = other_model();
    let jobs = [
        ("a", on_two(&second)),
        (
            "b",
            TrainConfig {
                activation: plan::Activation::BatchTopK,
                normalize_decoder: false,
                rescale_acts_by_decoder_norm: true,
                ..on_two(&second)
            },
        ),
    ];
    let undisturbed = Run::new(&jobs);
    assert_eq!(undisturbed.run(), 0, "{:?}", undisturbed.events().last());
    let curve = &undisturbed.curve(0)["crosscoder"];
    let (first, last) = (curve[0], *curve.last().unwrap());
    assert!(last < 0.75 * first, "from {first} to {last}");
    let run = Run::new(&jobs);
    interrupt_after(&run, 9);
    assert_eq!(run.run(), 0);
    assert_same_saes(&run, &undisturbed);
}

#[test]
fn ranks_train_on_two_models_as_one_process_does() {
    let (_dir, second) = other_model();
    for distribute_modules in [false, true] {
        let config = TrainConfig {
            batch_size: 4,
            distribute_modules,
            optimizer: plan::Optimizer::Adam,
            ..on_two(&second)
        };
        let jobs = [
            ("a", config.clone()),
            (
                "b",
                TrainConfig {
                    k: 4.into(),
                    ..config
                },
            ),
        ];
        let [alone, ranks] = [1, 2].map(|_| Run::of_ranks(2, &jobs));
        assert_eq!(alone.run(), 0);
        run_ranks(&ranks, 2);
        for job in ["a", "b"] {
            let [alone, ranks] = [&alone, &ranks].map(|run| run.sae(job, "crosscoder"));
            let weights = ranks.named_weights().into_iter().zip(alone.named_weights());
            for ((name, ours), (_, theirs)) in weights {
                let off = relative(ours, theirs);
                assert!(off < 1e-4, "{job}, {name}, {distribute_modules}: {off}");
            }
        }
    }
}

#[test]
fn a_second_model_that_changed_is_not_trained_on() {
    let (dir, second) = other_model();
    let run = Run::new(&[("a", on_two(&second))]);
    let path = dir.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, text + "\n").unwrap();
    assert_eq!(run.run(), 2);
    let Some(EventKind::Failed { message, .. }) = run.events().pop().map(|event| event.kind) else {
        panic!("{:?}", run.events().last())
    };
    let expected = format!("model `{second}` changed since the plan was made");
    assert_eq!(message, expected);
}
