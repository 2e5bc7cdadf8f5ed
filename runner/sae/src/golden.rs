//! A checkpoint that sparsify wrote, loaded here: `encode` and `decode` agree with sparsify's.

use crate::{Activation, AuxK, Encoded, Objective, Sae, SaeConfig, tensors_by_name};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

const TOLERANCE: f64 = 1e-5;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/golden")
        .join(name)
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

#[test]
fn a_checkpoint_of_sparsify_encodes_and_decodes_as_there() {
    let sae = Sae::load_from_disk(&golden("checkpoint/layers.2"), Device::Cpu).unwrap();
    assert_eq!((sae.cfg.d_in, sae.num_latents(), sae.cfg.k), (32, 256, 8));
    let expected = tensors_by_name(&golden("encoded.safetensors")).unwrap();
    let x = &tensors_by_name(&golden("step1.safetensors")).unwrap()["layers.2/x"];
    let n_tokens = expected["top_acts"].size()[0];

    let encoded = sae.encode(&x.narrow(0, 0, n_tokens)).unwrap();
    let (latent_indices, order) = encoded.latent_indices.sort(1, false);
    assert!(latent_indices.equal(&expected["top_indices"]));
    let latent_acts = encoded.latent_acts.gather(1, &order, false);
    let difference = largest_difference(&latent_acts, &expected["top_acts"]);
    assert!(difference < TOLERANCE, "latent_acts differ by {difference}");

    let theirs = Encoded {
        latent_acts: expected["top_acts"].to_kind(Kind::Float),
        latent_indices,
    };
    for (whose, encoded) in [("our", &encoded), ("their", &theirs)] {
        let sae_out = sae.decode(encoded).unwrap();
        let difference = largest_difference(&sae_out, &expected["sae_out"]);
        assert!(
            difference < TOLERANCE,
            "decoding {whose} latents differs by {difference}"
        );
    }
}

/// Losses and their gradients by dense autograd in Python, because sparsify's own are wrong.
#[test]
fn auxk_and_multi_topk_are_those_of_autograd() {
    let text = std::fs::read_to_string(golden("training.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&text).unwrap();
    let tensors = tensors_by_name(&golden("losses.safetensors")).unwrap();
    for (name, case) in cases["losses"].as_object().unwrap() {
        let tensor = |key: &str| tensors.get(&format!("{name}/{key}"));
        let x = tensor("x").unwrap();
        let target = tensor("y").unwrap_or(x);
        let mut cfg: SaeConfig = serde_json::from_value(serde_json::json!({"d_in": 12})).unwrap();
        cfg.num_latents = case["num_latents"].as_u64().unwrap() as usize;
        cfg.k = case["k"].as_u64().unwrap() as usize;
        cfg.transcode = case["transcode"] == true;
        cfg.d_out = Some(target.size()[1] as usize).filter(|d_out| *d_out != cfg.d_in);
        cfg.skip_connection = case["skip_connection"] == true;
        if case["activation"] == "groupmax" {
            cfg.activation = Activation::GroupMax;
        }
        let fresh = Sae::new(cfg, 0, Device::Cpu).unwrap();
        let names: Vec<_> = fresh
            .named_weights()
            .iter()
            .map(|(name, _)| *name)
            .collect();
        let sae = fresh.with_weights(names.iter().map(|n| tensor(n).unwrap().copy()).collect());
        let dead = tensor("dead_mask").map(|mask| mask.nonzero().squeeze_dim(1));
        let alpha = case["auxk_alpha"].as_f64().unwrap();
        let objective = Objective {
            auxk: dead.as_ref().map(|candidates| AuxK {
                alpha,
                candidates,
                are_dead: None,
                is_of_residual: false,
                fire_counts: None,
                residual_scale: None,
            }),
            multi_topk: case["multi_topk"] == true,
            ..Objective::squared_error(sae.cfg.k)
        };
        let mut ours = sae.backward(x, target, &objective).unwrap();
        let mean = target.mean_dim(0, true, Kind::Float);
        let total_variance = (target - mean).square().sum(Kind::Double);
        ours.gradients.scale(&total_variance).unwrap();
        let value = |loss: &Tensor| (loss / &total_variance).double_value(&[]);
        let terms = [
            ("fvu", Some(&ours.losses.squared_error)),
            ("auxk", ours.losses.auxk.as_ref()),
            ("multi_topk", ours.losses.multi_topk.as_ref()),
        ];
        for (term, loss) in terms {
            let theirs = tensor(&format!("loss.{term}")).map_or(0.0, |t| t.double_value(&[]));
            let ours = loss.map_or(0.0, value);
            assert!(
                (ours - theirs).abs() < 1e-4 * theirs.max(1e-3),
                "{name} {term}: {ours}"
            );
        }
        for (weight, ours) in names.iter().zip(ours.gradients.tensors()) {
            let theirs = tensor(&format!("grad.total.{weight}")).unwrap();
            let difference = largest_difference(ours, theirs);
            let scale = theirs.abs().max().double_value(&[]);
            assert!(
                difference < 1e-4 * scale,
                "{name} {weight}: {difference} of {scale}"
            );
        }
    }
}
