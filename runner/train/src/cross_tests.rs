//! Crosscoders and cross-layer transcoders on the tiny model.

use crate::testing::{Run, assert_same_saes, config, interrupt_after};
use plan::{
    Activation, AuxkNorm, CrosscoderNorm, EventKind, LossFn, LrScheduler, NormalizeActivations,
    Optimizer, SparsityLoss, TrainConfig,
};
use std::fs;

const BLOCKS: [&str; 3] = ["layers.0", "layers.1", "layers.2"];
const MLPS: [&str; 3] = ["layers.0.mlp", "layers.1.mlp", "layers.2.mlp"];

fn crosscoder() -> TrainConfig {
    TrainConfig {
        crosscoder: true,
        hookpoints: BLOCKS.map(String::from).to_vec(),
        ..config()
    }
}

fn cross_layer() -> TrainConfig {
    TrainConfig {
        transcode: true,
        cross_layer: true,
        hookpoints: MLPS.map(String::from).to_vec(),
        ..config()
    }
}

/// Kinds of both, and of crosscoders those whose hookpoints choose apart.
fn kinds(of: &TrainConfig) -> Vec<(&'static str, TrainConfig)> {
    let adam = TrainConfig {
        optimizer: Optimizer::Adam,
        lr: Some(3e-3),
        lr_warmup_steps: 0,
        lr_scheduler: LrScheduler::Constant,
        normalize_decoder: false,
        decoder_init_norm: Some(0.1),
        normalize_activations: NormalizeActivations::ExpectedAverageOnlyIn,
        norm_estimate_tokens: 1024,
        ..of.clone()
    };
    let mut kinds = vec![
        ("topk", of.clone()),
        (
            "batchtopk",
            TrainConfig {
                activation: Activation::BatchTopK,
                rescale_acts_by_decoder_norm: true,
                auxk_alpha: 0.03,
                dead_feature_threshold: 2000,
                ..adam.clone()
            },
        ),
        (
            "relu",
            TrainConfig {
                activation: Activation::Relu,
                l1_coefficient: 0.05,
                ..adam.clone()
            },
        ),
        (
            "jumprelu",
            TrainConfig {
                activation: Activation::JumpRelu,
                jumprelu_sparsity_loss_mode: SparsityLoss::Tanh,
                l0_coefficient: 0.01,
                ..adam.clone()
            },
        ),
    ];
    if of.crosscoder {
        kinds.push(("decoupled", decoupled(adam)));
    }
    kinds
}

fn decoupled(of: TrainConfig) -> TrainConfig {
    TrainConfig {
        activation: Activation::BatchTopK,
        rescale_acts_by_decoder_norm: true,
        crosscoder_norm: CrosscoderNorm::Decoupled,
        loss_fn: LossFn::Mse,
        auxk_alpha: 0.03,
        auxk_norm: AuxkNorm::Residual,
        dead_feature_threshold: 2000,
        topk_threshold_lr: 0.05,
        ..of
    }
}

fn last_fvu(run: &Run, job: usize) -> Vec<(f64, f64)> {
    let curves = run.curve(job).into_values();
    curves
        .map(|curve| (curve[0], *curve.last().unwrap()))
        .collect()
}

#[test]
fn crosscoders_of_every_kind_learn_and_are_saved() {
    let jobs = kinds(&crosscoder());
    let run = Run::new(&jobs);
    assert_eq!(run.run(), 0);
    for (job, (name, _)) in jobs.iter().enumerate() {
        let [(first, last)] = last_fvu(&run, job)[..] else {
            panic!("one crosscoder")
        };
        assert!(last < 0.75 * first, "{name}: from {first} to {last}");
        let sae = run.sae(name, "crosscoder");
        assert_eq!(sae.cfg.hookpoints, BLOCKS, "{name}");
        assert_eq!(sae.cfg.d_in, 3 * sae.w_dec.size()[1] as usize / 3);
    }
}

#[test]
fn cross_layer_transcoders_of_every_kind_learn_and_are_saved() {
    let jobs = kinds(&cross_layer());
    let run = Run::new(&jobs);
    assert_eq!(run.run(), 0);
    for (job, (name, _)) in jobs.iter().enumerate() {
        let of_layers = last_fvu(&run, job);
        assert_eq!(of_layers.len(), 3);
        for (layer, (first, last)) in of_layers.into_iter().enumerate() {
            assert!(
                last < 0.85 * first,
                "{name} {layer}: from {first} to {last}"
            );
            let sae = run.sae(name, MLPS[layer]);
            assert_eq!(sae.cfg.hookpoints, MLPS[layer..], "{name}");
            let width = sae.cfg.d_in as i64;
            assert_eq!(sae.w_dec.size()[1], width * (3 - layer as i64));
            let others = sae.b_dec.narrow(0, width, sae.b_dec.size()[0] - width);
            assert!(others.equal(&others.zeros_like()), "{name} {layer}");
        }
    }
}

#[test]
fn a_resume_ends_in_the_same_bits() {
    let mut jobs = kinds(&crosscoder());
    jobs.extend(kinds(&cross_layer()).into_iter().map(|(name, config)| {
        let name: &str = match name {
            "topk" => "clt-topk",
            "batchtopk" => "clt-batchtopk",
            "relu" => "clt-relu",
            _ => "clt-jumprelu",
        };
        (name, config)
    }));
    let undisturbed = Run::new(&jobs);
    assert_eq!(undisturbed.run(), 0);
    let run = Run::new(&jobs);
    interrupt_after(&run, 9);
    assert_eq!(run.run(), 0);
    assert_same_saes(&run, &undisturbed);
}

/// The cut of an update into passes and parts changes nothing but the rounding of sums.
#[test]
fn the_cut_of_an_update_does_not_matter() {
    for base in [crosscoder(), cross_layer()] {
        for (name, config) in kinds(&base) {
            let end = |batch_size, grad_acc_steps, micro_acc_steps| {
                let config = TrainConfig {
                    batch_size,
                    grad_acc_steps,
                    micro_acc_steps,
                    max_examples: Some(80),
                    b_dec_init_method: plan::BDecInit::Zeros,
                    normalize_activations: NormalizeActivations::None,
                    norm_estimate_tokens: TrainConfig::default().norm_estimate_tokens,
                    ..config.clone()
                };
                let run = Run::new(&[("a", config)]);
                assert_eq!(run.run(), 0);
                let end = run.curve(0).into_values();
                end.map(|curve| *curve.last().unwrap())
                    .collect::<Vec<f64>>()
            };
            let whole = end(8, 1, 1);
            let parts = end(2, 4, 3);
            for (whole, parts) in whole.iter().zip(&parts) {
                assert!(
                    (whole / parts - 1.0).abs() < 2e-3,
                    "{name}: {whole} {parts}"
                );
            }
        }
    }
}

/// The last calibration of the run: `k`, both L0 of the whole, and the hookpoints.
fn calibration(run: &Run) -> ([f64; 3], [f64; 2], Vec<plan::HookpointThreshold>) {
    let of_event = |event: plan::Event| match event.kind {
        EventKind::Calibration {
            k,
            ema_l0,
            l0,
            ema_threshold,
            threshold,
            hookpoints,
            ..
        } => Some(([k, ema_l0, l0], [ema_threshold, threshold], hookpoints)),
        _ => None,
    };
    let mut found = run.events().into_iter().filter_map(of_event);
    found.next_back().unwrap()
}

#[test]
fn each_hookpoint_gets_the_threshold_at_which_it_has_k_latents() {
    let config = TrainConfig {
        eval_fraction: 0.05,
        k: 7.25.into(),
        ..kinds(&crosscoder()).pop().unwrap().1
    };
    let mut run = Run::new(&[("decoupled", config)]);
    assert_eq!(run.run(), 0, "{:?}", run.events().last());
    let ([k, ema_l0, l0], [ema, threshold], hookpoints) = calibration(&run);
    assert_eq!(k, 7.25);
    assert!(l0 > k + 0.1 && l0 < 3.0 * k - 0.1, "{l0} of any hookpoint");
    assert!(ema_l0 > 0.0 && (ema_l0 - l0).abs() > 1e-3, "{ema_l0} {l0}");
    let sae = run.sae("decoupled", "crosscoder");
    let in_file = Vec::<f32>::try_from(sae.threshold.unwrap()).unwrap();
    let dir = run.dir.path().join("decoupled/crosscoder");
    let estimated = sae_files::threshold_ema(&dir);
    assert_eq!(
        (hookpoints.len(), in_file.len(), estimated.len()),
        (3, 3, 3)
    );
    for (idx, own) in hookpoints.iter().enumerate() {
        assert_eq!(own.hookpoint, BLOCKS[idx]);
        assert!((own.l0 - k).abs() < 0.01, "{own:?}");
        assert!((own.l0_ema - k).abs() > 0.01, "{own:?}");
        assert!((f64::from(in_file[idx]) / own.threshold - 1.0).abs() < 1e-6);
        assert!((estimated[idx] / own.threshold_ema - 1.0).abs() < 1e-6);
        assert!(
            (own.threshold_ema / own.threshold - 1.0).abs() > 1e-3,
            "{own:?}"
        );
    }
    assert!(in_file[0] != in_file[1] && in_file[1] != in_file[2]);
    let mean =
        |of: fn(&plan::HookpointThreshold) -> f64| hookpoints.iter().map(of).sum::<f64>() / 3.0;
    assert!((mean(|own| own.threshold) / threshold - 1.0).abs() < 1e-6);
    assert!((mean(|own| own.threshold_ema) / ema - 1.0).abs() < 1e-6);
    // What is saved has as many latents where it is evaluated.
    let mut evaluated = run
        .events()
        .into_iter()
        .filter_map(|event| match event.kind {
            EventKind::Evaluation { stats, .. } => Some(stats.l0 / stats.n_tokens as f64),
            _ => None,
        });
    let evaluated = evaluated.next_back().unwrap();
    assert!((evaluated / l0 - 1.0).abs() < 2e-3, "{evaluated}, not {l0}");
    // A worker that was killed after the file and before the event finds the same again.
    let undisturbed = calibration(&run);
    let files = |run: &Run| {
        fs::read(
            run.dir
                .path()
                .join("decoupled/crosscoder/model.safetensors"),
        )
    };
    let before = files(&run).unwrap();
    let text = fs::read_to_string(&run.order.events).unwrap();
    let is_kept = |line: &&str| !line.contains("calibrat") && !line.contains("\"evaluation\"");
    let kept: String = text.split_inclusive('\n').take_while(is_kept).collect();
    fs::write(&run.order.events, kept).unwrap();
    run.order.attempt += 1;
    run.order.evaluate = std::mem::take(&mut run.order.jobs);
    assert_eq!(run.run(), 0, "{:?}", run.events().last());
    assert_eq!(calibration(&run), undisturbed);
    assert_eq!(files(&run).unwrap(), before);
}
