//! A checkpoint that sparsify wrote, loaded here: `encode` and `decode` agree with sparsify's.

use crate::{Encoded, Sae, tensors_by_name};
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
