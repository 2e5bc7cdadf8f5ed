//! Encodes and decodes activations with a trained SAE, from files to a file.
//!
//! ```text
//! cargo run -p sae --example encode_decode -- SAE_FOLDER INPUT.safetensors OUTPUT.safetensors
//! ```
//!
//! INPUT holds `x` `[n_tokens, d_in]`; OUTPUT gets `latent_acts` and `latent_indices`
//! `[n_tokens, k]`, and `sae_out` `[n_tokens, d_in]`.

use sae::{Encoded, Reconstruction, Sae, tensors_by_name, write_safetensors};
use std::error::Error;
use std::path::Path;
use tch::Device;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, input, output] = &args[..] else {
        return Err("usage: encode_decode SAE_FOLDER INPUT.safetensors OUTPUT.safetensors".into());
    };
    let sae = Sae::load_from_disk(Path::new(folder), Device::Cpu)?;
    let x = tensors_by_name(Path::new(input))?;
    let x = x.get("x").ok_or("the input has no tensor `x`")?;
    let Reconstruction {
        sae_out,
        encoded: Encoded {
            latent_acts,
            latent_indices,
        },
    } = sae.forward(x)?;
    let tensors = [
        ("latent_acts", &latent_acts),
        ("latent_indices", &latent_indices),
        ("sae_out", &sae_out),
    ];
    Ok(write_safetensors(&tensors, Path::new(output))?)
}
