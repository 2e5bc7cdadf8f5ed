//! What is saved computes, when it is loaded again, what the SAE computed in training: for every kind of SAE.

use crate::testing::noise;
use crate::{Activation, Affine, Reconstruction, Sae, SaeConfig, SaeLensMetadata};
use plan::CrosscoderNorm;
use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

const D_IN: i64 = 8;
const NUM_LATENTS: i64 = 24;
const N_TOKENS: i64 = 40;
const ACTIVATIONS: [Activation; 5] = [
    Activation::TopK,
    Activation::GroupMax,
    Activation::Relu,
    Activation::JumpRelu,
    Activation::Gated,
];

/// How an SAE was trained.
#[derive(Clone, Debug)]
struct Case {
    activation: Activation,
    transcode: bool,
    skip_connection: bool,
    apply_b_dec_to_input: bool,
    d_out: i64,
    /// Whether the decoder's norms decided which latents are active.
    rescales: bool,
    /// What activations were multiplied by before.
    scale: Option<f64>,
    seed: u32,
}

fn cases() -> impl Strategy<Value = Case> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let activation = prop::sample::select(&ACTIVATIONS[..]);
    let scale = prop::sample::select(&[None, Some(0.3), Some(4.0)][..]);
    let d_out = prop::sample::select(&[3, D_IN, 11][..]);
    (activation, flags, d_out, scale, 0u32..1000).prop_map(
        |(
            activation,
            (transcode, skip_connection, apply_b_dec_to_input, rescales),
            d_out,
            scale,
            seed,
        )| Case {
            activation,
            transcode,
            // Of the others, only transcoders have one.
            skip_connection: skip_connection && (transcode || activation.has_k()),
            apply_b_dec_to_input: apply_b_dec_to_input || transcode,
            d_out: if transcode { d_out } else { D_IN },
            // Another latent of a group may be the largest then.
            rescales: rescales && activation != Activation::GroupMax,
            scale,
            seed,
        },
    )
}

/// An SAE as training has it, with thresholds of all signs.
fn trained(case: &Case) -> Sae {
    let cfg = SaeConfig {
        activation: case.activation,
        transcode: case.transcode,
        skip_connection: case.skip_connection,
        apply_b_dec_to_input: case.apply_b_dec_to_input,
        d_out: (case.d_out != D_IN).then_some(case.d_out as usize),
        normalize_decoder: false,
        ..SaeConfig::topk(
            D_IN as usize,
            NUM_LATENTS as usize,
            if case.activation.has_k() {
                4
            } else {
                NUM_LATENTS as usize
            },
        )
    };
    let mut sae = Sae::new(cfg, 0, Device::Cpu).unwrap();
    for (idx, weight) in sae.weights_mut().into_iter().enumerate() {
        *weight = noise(&weight.size(), f64::from(case.seed) + idx as f64 * 0.37);
    }
    sae
}

fn scaling(factor: f64, width: i64, seed: f64) -> Affine {
    Affine {
        mean: noise(&[width], seed),
        matrix: Tensor::from(factor as f32),
        inverse: Tensor::from((1.0 / factor) as f32),
    }
}

/// What training makes of activations, and the SAE that it saves.
fn as_trained_and_as_saved(case: &Case, x: &Tensor) -> (Reconstruction, Sae) {
    let mut sae = trained(case);
    let Some(factor) = case.scale else {
        let trained = of_training(case, &sae, x);
        if case.rescales {
            sae.fold_decoder_norms().unwrap();
        }
        return (trained, sae);
    };
    let input = scaling(factor, D_IN, 0.5);
    let output = if case.transcode {
        scaling(factor * 1.7, case.d_out, 0.6)
    } else {
        scaling(factor, D_IN, 0.5)
    };
    let mut trained = of_training(case, &sae, &input.of(x).unwrap());
    trained.sae_out = trained.sae_out * &output.inverse + &output.mean;
    if case.rescales {
        sae.fold_decoder_norms().unwrap();
    }
    sae.fold_affine(&input, &output).unwrap();
    (trained, sae)
}

/// With `rescales`, TopK chooses by pre-activations times the decoder's norms: as if those were in the encoder.
fn of_training(case: &Case, sae: &Sae, x: &Tensor) -> Reconstruction {
    if !(case.rescales && case.activation == Activation::TopK) {
        return sae.forward(x).unwrap();
    }
    let norms = sae.decoder_norms().unwrap();
    let mut weights: Vec<_> = sae
        .named_weights()
        .into_iter()
        .map(|(_, weight)| weight.copy())
        .collect();
    weights[0] = &weights[0] * norms.unsqueeze(1);
    weights[1] = &weights[1] * &norms;
    let scaled = sae.with_weights(weights);
    let mut encoded = scaled.encode(x).unwrap();
    encoded.latent_acts = &encoded.latent_acts / norms.take(&encoded.latent_indices);
    let sae_out = sae.with_skip(sae.decode(&encoded).unwrap(), x).unwrap();
    Reconstruction { sae_out, encoded }
}

/// Tokens none of whose latents is so close to where it becomes active that rounding decides it: `[n_tokens]`, Bool.
fn is_clear(sae: &Sae, x: &Tensor) -> Tensor {
    let pre_acts = sae
        .centred(x)
        .unwrap()
        .linear(&sae.encoder_weight, Some(&sae.encoder_bias));
    let largest = pre_acts.abs().max().double_value(&[]);
    let margin = match (&sae.threshold, sae.cfg.activation.has_k()) {
        (Some(threshold), _) => (&pre_acts - threshold.clamp_min(0.0))
            .abs()
            .amin([1i64], false),
        (None, false) => pre_acts.abs().amin([1i64], false),
        (None, true) => {
            // Between neighbours by size.
            let sorted = pre_acts.sort(1, false).0;
            sorted
                .diff(1, 1, None::<&Tensor>, None::<&Tensor>)
                .amin([1i64], false)
        }
    };
    margin.gt(largest * 1e-5)
}

fn close(a: &Tensor, b: &Tensor) -> Result<(), TestCaseError> {
    let difference = (a - b).abs().max().double_value(&[]);
    let largest = b.abs().max().double_value(&[]);
    prop_assert!(
        difference <= 1e-5 * largest,
        "{} of {}",
        difference,
        largest
    );
    Ok(())
}

proptest! {
    #[test]
    fn what_is_loaded_computes_what_was_trained(case in cases()) {
        let x = noise(&[N_TOKENS, D_IN], f64::from(case.seed) + 0.77) * 3.0;
        let (trained, saved) = as_trained_and_as_saved(&case, &x);
        let dir = tempfile::tempdir().unwrap();
        saved.save(dir.path(), &SaeLensMetadata::default()).unwrap();
        sae_files::check_sae(dir.path()).unwrap();
        let loaded = Sae::load_from_disk(dir.path(), Device::Cpu).unwrap();
        let again = loaded.forward(&x).unwrap();
        let decoded = loaded.decode(&loaded.encode(&x).unwrap()).unwrap();
        prop_assert!(again.sae_out.equal(&loaded.with_skip(decoded, &x).unwrap()));
        if !case.activation.has_k() || case.transcode || case.apply_b_dec_to_input {
            prop_assert!(again.sae_out.equal(&saved.forward(&x).unwrap().sae_out));
            prop_assert_eq!(&loaded.cfg, &saved.cfg);
        }
        let clear = is_clear(&saved, &x).nonzero().squeeze_dim(1);
        prop_assert!(clear.size()[0] > N_TOKENS / 2);
        close(&again.sae_out.index_select(0, &clear), &trained.sae_out.index_select(0, &clear))?;
        let n_active = again.encoded.latent_acts.gt(0.0).sum(Kind::Int64).int64_value(&[]);
        prop_assert!((1..N_TOKENS * NUM_LATENTS).contains(&n_active));
    }
}

/// A crosscoder of two hookpoints, each with its own threshold, as training has it.
fn decoupled(apply_b_dec_to_input: bool, thresholds: [f64; 2], seed: u32) -> Sae {
    let cfg = SaeConfig {
        activation: Activation::JumpRelu,
        apply_b_dec_to_input,
        normalize_decoder: false,
        hookpoints: ["a", "b"].map(String::from).to_vec(),
        code_normalization: CrosscoderNorm::Decoupled,
        ..SaeConfig::topk(D_IN as usize, NUM_LATENTS as usize, NUM_LATENTS as usize)
    };
    let mut sae = Sae::new(cfg, 0, Device::Cpu).unwrap();
    for (idx, weight) in sae.weights_mut().into_iter().enumerate() {
        *weight = noise(&weight.size(), f64::from(seed) + idx as f64 * 0.37);
    }
    sae.threshold = Some(Tensor::from_slice(&thresholds).to_kind(Kind::Float));
    sae
}

proptest! {
    #[test]
    fn what_is_loaded_of_hookpoints_that_choose_apart_computes_what_was_trained(
        apply_b_dec_to_input: bool,
        thresholds in [-0.5f64..4.0, -0.5f64..4.0],
        scales in prop::option::of([0.2f32..5.0, 0.2f32..5.0]),
        seed in 0u32..1000,
    ) {
        let x = noise(&[N_TOKENS, D_IN], f64::from(seed) + 0.77) * 3.0;
        let mut sae = decoupled(apply_b_dec_to_input, thresholds, seed);
        let scaling = scales.map(|scales| {
            let matrix = Tensor::from_slice(&scales).repeat_interleave_self_int(D_IN / 2, 0, D_IN);
            Affine { mean: noise(&[D_IN], 0.5), inverse: matrix.reciprocal(), matrix }
        });
        let scaled = scaling.as_ref().map_or(x.shallow_clone(), |scaling| scaling.of(&x).unwrap());
        // Where rounding decides whether a latent is active at a hookpoint, nothing is compared.
        let acts = sae.centred(&scaled).unwrap().linear(&sae.encoder_weight, Some(&sae.encoder_bias));
        let scores = acts.unsqueeze(1) * sae.hookpoint_norms().unwrap();
        let least = sae.threshold.as_ref().unwrap().clamp_min(0.0).view([2, 1]);
        let margin = (&scores - least).abs().amin([1i64, 2], false);
        let clear = margin.gt(scores.abs().max().double_value(&[]) * 1e-5).nonzero().squeeze_dim(1);
        prop_assert!(clear.size()[0] > N_TOKENS / 2);
        let mut trained = sae.forward(&scaled).unwrap().sae_out;
        if let Some(scaling) = &scaling {
            trained = trained * &scaling.inverse + &scaling.mean;
            sae.fold_affine(scaling, scaling).unwrap();
        }
        sae.fold_decoder_norms().unwrap();
        let dir = tempfile::tempdir().unwrap();
        sae.save(dir.path(), &SaeLensMetadata::default()).unwrap();
        sae_files::check_sae(dir.path()).unwrap();
        let loaded = Sae::load_from_disk(dir.path(), Device::Cpu).unwrap();
        let again = loaded.forward(&x).unwrap();
        prop_assert!(again.sae_out.equal(&loaded.decode(&loaded.encode(&x).unwrap()).unwrap()));
        close(&again.sae_out.index_select(0, &clear), &trained.index_select(0, &clear))?;
    }
}
