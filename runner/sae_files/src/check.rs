//! Whether an SAE that was trained here is on disk, and whole.

use crate::cfg_file::{CONFIG_FILE, WEIGHTS_FILE, read_config};
use crate::crosscoder;
use crate::saelens::{SAELENS_WEIGHTS_FILE, is_saelens_folder};
use crate::{Header, SaeConfig};
use fault::Fault;
use serde::Deserialize;
use std::path::Path;

/// Checks that an SAE that was trained here is in `dir` and whole: its `cfg.json`, and the header of its weights with
/// their shapes. No weight is read.
///
/// # Errors
/// What is missing or wrong.
pub fn check_sae(dir: &Path) -> Result<(), Fault> {
    if is_saelens_folder(dir) {
        return check_saelens(dir);
    }
    if crosscoder::is_crosscoder_folder(dir) {
        return crosscoder::check(dir);
    }
    let cfg = SaeConfig::of_folder(dir)?;
    let header = Header::open(&dir.join(WEIGHTS_FILE))?;
    let tensors = cfg.tensors();
    header.refuse_others(&tensors)?;
    tensors
        .into_iter()
        .try_for_each(|tensor| header.weights(tensor, &cfg.shape(tensor)).map(drop))
}

/// The name of the weights' file of the SAE in `dir`, whichever layout it is in.
pub fn weights_file(dir: &Path) -> &'static str {
    if is_saelens_folder(dir) {
        SAELENS_WEIGHTS_FILE
    } else if crosscoder::is_crosscoder_folder(dir) {
        crosscoder::CROSSCODER_WEIGHTS_FILE
    } else {
        WEIGHTS_FILE
    }
}

/// What is checked of an SAE's folder.
#[derive(Debug, Deserialize)]
struct Sizes {
    architecture: String,
    d_in: i64,
    d_sae: i64,
    d_out: Option<i64>,
}

/// In SAELens's layout.
fn check_saelens(dir: &Path) -> Result<(), Fault> {
    let Sizes {
        architecture,
        d_in,
        d_sae,
        d_out,
    } = read_config(&dir.join(CONFIG_FILE))?;
    let header = Header::open(&dir.join(SAELENS_WEIGHTS_FILE))?;
    let d_out = d_out.unwrap_or(d_in);
    let mut tensors = vec![
        ("W_enc", vec![d_in, d_sae]),
        ("W_dec", vec![d_sae, d_out]),
        ("b_dec", vec![d_out]),
    ];
    let of_latents: &[&str] = match &*architecture {
        name if name.contains("gated") => &["b_gate", "b_mag", "r_mag"],
        name if name.contains("jumprelu") => &["b_enc", "threshold"],
        _ => &["b_enc"],
    };
    tensors.extend(of_latents.iter().map(|name| (*name, vec![d_sae])));
    if architecture.contains("skip") {
        tensors.push(("W_skip", vec![d_out, d_in]));
    }
    let shapes = tensors.into_iter();
    shapes
        .map(|(name, shape)| header.weights(name, &shape))
        .try_for_each(|found| found.map(drop))
}
