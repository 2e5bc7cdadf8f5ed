//! SAEs that SAELens saved, loaded here: `encode` and `forward` agree with SAELens's. And SAEs written
//! in its layout.

use crate::testing::noise;
use crate::{
    Activation, CONFIG_FILE, Encoded, LoadOptions, SAELENS_WEIGHTS_FILE, Sae, SaeConfig,
    SaeLensMetadata, find_saes, tensors_by_name, write_safetensors,
};
use fault::Remedy;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/saelens")
        .join(name)
}

fn dense(sae: &Sae, encoded: &Encoded) -> Tensor {
    let Encoded {
        latent_acts,
        latent_indices,
    } = encoded;
    let shape = [latent_acts.size()[0], sae.num_latents() as i64];
    let zeros = Tensor::zeros(shape, (latent_acts.kind(), Device::Cpu));
    zeros.scatter(1, latent_indices, latent_acts)
}

#[track_caller]
fn close(a: &Tensor, b: &Tensor, what: &str) {
    assert_eq!(a.size(), b.size(), "{what}");
    let difference = a.to_kind(Kind::Float) - b;
    match a.kind() {
        // Rounded to 8 bits on the way, in another order.
        Kind::BFloat16 => {
            let relative = (difference.norm() / b.norm()).double_value(&[]);
            assert!(relative < 0.01, "{what} differs by {relative}");
        }
        _ => {
            let difference = difference.abs().max().double_value(&[]);
            assert!(difference < 1e-5, "{what} differs by {difference}");
        }
    }
}

#[test]
fn saes_of_saelens_encode_and_decode_as_there() {
    let expected = tensors_by_name(&golden("expected.safetensors")).unwrap();
    let saes = find_saes(&golden("")).unwrap();
    assert_eq!(saes.len(), 16);
    for found in saes {
        let name = found.name.as_str();
        let sae = Sae::load_from_disk(&found.dir, Device::Cpu).unwrap();
        let kind = sae.encoder_weight.kind();
        assert_eq!(kind == Kind::BFloat16, name == "standard_bfloat16");
        let x = expected["x"].to_kind(kind);
        let out = sae.forward(&x).unwrap();
        let of_saelens = |what: &str| &expected[&format!("{name}/{what}")];
        assert!(
            of_saelens("acts").abs().max().double_value(&[]) > 0.1,
            "{name}"
        );
        close(&dense(&sae, &out.encoded), of_saelens("acts"), name);
        close(&out.sae_out, of_saelens("out"), name);

        let options = LoadOptions {
            decoder: false,
            ..LoadOptions::default()
        };
        let encoder = Sae::load_from_disk(&found.dir, options).unwrap();
        let encoded = encoder.encode(&x).unwrap();
        assert!(
            encoded.latent_acts.equal(&out.encoded.latent_acts),
            "{name}"
        );
        let message = encoder.decode(&encoded).unwrap_err().to_string();
        assert_eq!(message, "the SAE was loaded without its decoder");
    }
}

#[test]
fn the_folder_tells_hookpoint_and_model() {
    let [found] = &find_saes(&golden("topk_before_6")).unwrap()[..] else {
        panic!("one SAE");
    };
    assert_eq!(found.name, "topk_before_6");
    assert_eq!(found.hookpoint, "blocks.1.hook_resid_post");
    assert_eq!(
        crate::trained_on(found).map(|of| of.model).as_deref(),
        Some("tiny")
    );
}

/// An SAE of each kind that SAELens has, by the name of its architecture.
fn of_each_kind() -> Vec<(&'static str, Sae)> {
    let kinds = [
        ("topk", Activation::TopK, false, false),
        ("standard", Activation::Relu, false, false),
        ("jumprelu", Activation::JumpRelu, false, false),
        ("gated", Activation::Gated, false, false),
        ("transcoder", Activation::Relu, true, false),
        ("skip_transcoder", Activation::Relu, true, true),
        ("jumprelu_transcoder", Activation::JumpRelu, true, false),
        ("jumprelu_skip_transcoder", Activation::JumpRelu, true, true),
    ];
    let sae = |(name, activation, transcode, skip_connection)| {
        let cfg = SaeConfig {
            activation,
            transcode,
            skip_connection,
            normalize_decoder: false,
            d_out: if transcode { Some(6) } else { None },
            ..SaeConfig::topk(8, 20, if activation.has_k() { 4 } else { 20 })
        };
        let mut sae = Sae::new(cfg, 0, Device::Cpu).unwrap();
        for (seed, weight) in sae.weights_mut().into_iter().enumerate() {
            *weight = noise(&weight.size(), seed as f64);
        }
        (name, sae)
    };
    kinds.map(sae).into()
}

#[test]
fn what_is_written_for_saelens_is_read_back_to_the_bit() {
    let x = noise(&[10, 8], 9.0);
    for (architecture, sae) in of_each_kind() {
        let dir = tempfile::tempdir().unwrap();
        let metadata = SaeLensMetadata {
            model_name: Some("tiny".into()),
            hf_hook_name: Some("layers.1".into()),
            ..SaeLensMetadata::default()
        };
        sae.save_saelens(dir.path(), &metadata).unwrap();
        let text = fs::read(dir.path().join(CONFIG_FILE)).unwrap();
        let cfg: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(cfg["architecture"], architecture);
        assert_eq!(cfg["metadata"]["hf_hook_name"], "layers.1");
        let read = Sae::load_from_disk(dir.path(), Device::Cpu).unwrap();
        assert_eq!(read.cfg, sae.cfg);
        for ((name, a), (_, b)) in read.named_weights().into_iter().zip(sae.named_weights()) {
            assert!(a.equal(b), "{architecture}: {name}");
            assert!(a.is_contiguous(), "{architecture}: {name}");
        }
        let (a, b) = (read.forward(&x).unwrap(), sae.forward(&x).unwrap());
        assert!(a.sae_out.equal(&b.sae_out), "{architecture}");
        let to_sparsify = read.save_to_disk(&dir.path().join("sparsify"));
        assert_eq!(to_sparsify.is_ok(), architecture == "topk");
    }
}

#[test]
fn what_saelens_has_no_kind_for_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let topk = SaeConfig::topk(4, 8, 2);
    for (cfg, what) in [
        (
            SaeConfig {
                activation: Activation::GroupMax,
                ..topk.clone()
            },
            "an SAE with the activation groupmax",
        ),
        (
            SaeConfig {
                transcode: true,
                ..topk.clone()
            },
            "a transcoder with the activation topk",
        ),
        (
            SaeConfig {
                skip_connection: true,
                ..topk.clone()
            },
            "topk and a skip connection",
        ),
        (
            SaeConfig {
                activation: Activation::Gated,
                transcode: true,
                ..topk.clone()
            },
            "a transcoder with the activation gated",
        ),
        (
            SaeConfig {
                activation: Activation::JumpRelu,
                skip_connection: true,
                ..topk
            },
            "an SAE with the activation jumprelu and a skip connection",
        ),
    ] {
        let sae = Sae::new(cfg, 0, Device::Cpu).unwrap();
        let error = sae.save_saelens(dir.path(), &SaeLensMetadata::default());
        let error = error.unwrap_err();
        let message = error.to_string();
        assert!(
            message.starts_with("SAELens's layout does not support"),
            "{message}"
        );
        assert!(error.to_string().contains(what), "{error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// A name that SAELens knows would be read there as something else.
#[test]
fn what_neither_layout_has_is_saved_under_a_name_of_our_own() {
    let kinds = [
        ("gated_transcoder", Activation::Gated, false),
        ("gated_skip_transcoder", Activation::Gated, true),
    ];
    for (name, activation, skip_connection) in kinds {
        let dir = tempfile::tempdir().unwrap();
        let cfg = SaeConfig {
            activation,
            transcode: true,
            skip_connection,
            ..SaeConfig::topk(4, 8, 8)
        };
        let sae = Sae::new(cfg, 0, Device::Cpu).unwrap();
        sae.save(dir.path(), &SaeLensMetadata::default()).unwrap();
        let text = fs::read(dir.path().join(CONFIG_FILE)).unwrap();
        let cfg: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(cfg["architecture"], name);
        Sae::load_from_disk(dir.path(), Device::Cpu).unwrap();
    }
}

#[test]
fn other_mathematics_names_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let weights = golden("topk").join(SAELENS_WEIGHTS_FILE);
    fs::copy(weights, dir.path().join(SAELENS_WEIGHTS_FILE)).unwrap();
    let text = fs::read(golden("topk").join(CONFIG_FILE)).unwrap();
    let cfg: Value = serde_json::from_slice(&text).unwrap();
    for (key, value) in [
        ("architecture", json!("matching_pursuit")),
        ("architecture", json!("\u{1b}[2J")),
        ("normalize_activations", json!("layer_norm")),
        ("normalize_activations", json!("expected_average_only_in")),
        ("activation_fn", json!("tanh-relu")),
        ("dtype", json!("int8")),
        ("k", json!(2.5)),
        ("k", json!(-1)),
    ] {
        let mut cfg = cfg.clone();
        cfg[key] = value.clone();
        fs::write(dir.path().join(CONFIG_FILE), cfg.to_string()).unwrap();
        let error = Sae::load_from_disk(dir.path(), Device::Cpu).unwrap_err();
        let named = error.to_string().contains(&format!("has `{key}` = "));
        assert!(named, "{key}: {error}");
        assert_eq!(error.kind(), fault::FailureKind::Input);
    }
}

#[test]
fn hostile_sizes_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let weights = golden("topk").join(SAELENS_WEIGHTS_FILE);
    fs::copy(weights, dir.path().join(SAELENS_WEIGHTS_FILE)).unwrap();
    let text = fs::read(golden("topk").join(CONFIG_FILE)).unwrap();
    let cfg: Value = serde_json::from_slice(&text).unwrap();
    let load = |key: &str, value: Value| {
        let mut cfg = cfg.clone();
        cfg[key] = value;
        fs::write(dir.path().join(CONFIG_FILE), cfg.to_string()).unwrap();
        Sae::load_from_disk(dir.path(), Device::Cpu).unwrap_err()
    };
    assert!(
        load("d_sae", json!(u64::MAX))
            .to_string()
            .contains("has shape")
    );
    assert!(
        load("d_in", json!(1u64 << 40))
            .to_string()
            .contains("has shape")
    );
    assert!(
        load("d_in", json!(-1))
            .to_string()
            .contains("is not an SAE configuration")
    );
    assert!(load("d_in", json!(0)).to_string().contains("is impossible"));
    assert!(
        load("k", json!(1e300))
            .to_string()
            .contains("is impossible")
    );
    let long = " ".repeat(2 << 20);
    assert!(load("dtype", json!(long)).to_string().contains("cannot "));
}

/// Without such a tensor, the latents would be others than those that were trained.
#[test]
fn tensors_that_the_kind_does_not_use_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let with = |kind: &str, tensor: &str, shape: &[i64]| {
        let cfg = golden(kind).join(CONFIG_FILE);
        fs::copy(cfg, dir.path().join(CONFIG_FILE)).unwrap();
        let weights = tensors_by_name(&golden(kind).join(SAELENS_WEIGHTS_FILE)).unwrap();
        let more = noise(shape, 1.0);
        let weights = weights.iter().map(|(name, weight)| (name.as_str(), weight));
        let all: Vec<_> = weights.chain([(tensor, &more)]).collect();
        write_safetensors(&all, &dir.path().join(SAELENS_WEIGHTS_FILE)).unwrap();
        let options = |decoder| LoadOptions {
            decoder,
            ..LoadOptions::default()
        };
        let [a, b] = [true, false].map(|decoder| Sae::load_from_disk(dir.path(), options(decoder)));
        let (a, b) = (a.unwrap_err(), b.unwrap_err());
        assert_eq!(a.to_string(), b.to_string());
        a
    };
    for (kind, tensor, shape) in [
        ("standard", "threshold", &[40][..]),
        ("standard", "W_skip", &[12, 12]),
        ("standard", "scaling_factors", &[40]),
        ("topk", "threshold", &[40]),
        ("topk", "topk_threshold", &[]),
        ("jumprelu", "topk_threshold", &[]),
        ("gated", "b_enc", &[40]),
        ("standard", "r_mag", &[40]),
        ("batchtopk", "threshold", &[40]),
        ("transcoder", "W_skip", &[10, 12]),
    ] {
        let error = with(kind, tensor, shape);
        assert!(
            error.to_string().contains(&format!("`{tensor}`")),
            "{error}"
        );
        assert!(error.to_string().contains("has no use for"), "{error:?}");
        assert_eq!(error.kind(), fault::FailureKind::Input);
        assert!(error.hint().is_some());
    }
}
