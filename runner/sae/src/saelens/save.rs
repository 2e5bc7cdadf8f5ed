//! Writing SAELens's layout, as its version 6 has it.

use super::{ARCHITECTURES, Architecture, HOOKPOINTS};
use crate::atomic_file::{sync_dir, write_file, write_safetensors};
use crate::error::{inexpressible, without_decoder};
use crate::{Sae, SaeError};
use fault::Fault;
use plan::SaeLensMetadata;
use sae_files::{Activation, CONFIG_FILE, SAELENS_WEIGHTS_FILE};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tch::Kind;

/// The version whose form `cfg.json` has; SAELens takes one without it for an older one.
const FORMAT_VERSION: &str = "6.0.0";

impl Sae {
    /// Writes `cfg.json` and `sae_weights.safetensors` into `dir`, each next to its path and then
    /// renamed. `SAE.load_from_disk` of SAELens (from 6.0.0 on) reads them.
    ///
    /// | here | SAELens's architecture |
    /// |---|---|
    /// | TopK | `topk`; whether it was trained with Multi-TopK makes no difference |
    /// | ReLU, JumpReLU, Gated | `standard`, `jumprelu`, `gated` |
    /// | transcoders with ReLU or JumpReLU | `transcoder`, `jumprelu_transcoder` |
    /// | the same with a skip connection | `skip_transcoder`, `jumprelu_skip_transcoder` |
    ///
    /// # Errors
    /// Any other SAE: SAELens has no GroupMax, no transcoder with
    /// TopK or gates, and skip connections only in transcoders. And a folder that cannot be written.
    pub fn save_saelens(&self, dir: &Path, metadata: &SaeLensMetadata) -> Result<(), SaeError> {
        match self.architecture() {
            Some(known) if known.is_of_saelens && self.cfg.hookpoints.is_empty() => {
                self.write(dir, known.name, metadata)
            }
            _ => Err(self.unknown_to_saelens().into()),
        }
    }

    /// As [`Sae::save_saelens`]. Gated transcoders are written under names that SAELens does not have, and refuses:
    /// `gated_transcoder`, `gated_skip_transcoder`.
    ///
    /// # Errors
    /// An SAE that has no name, and a folder that cannot be written.
    pub(crate) fn save_own(&self, dir: &Path, metadata: &SaeLensMetadata) -> Result<(), SaeError> {
        match self.architecture() {
            Some(known) => self.write(dir, known.name, metadata),
            None => Err(self.unknown_to_saelens().into()),
        }
    }

    fn write(
        &self,
        dir: &Path,
        architecture: &str,
        metadata: &SaeLensMetadata,
    ) -> Result<(), SaeError> {
        if !self.has_decoder() {
            return Err(without_decoder().into());
        }
        fs::create_dir_all(dir).map_err(SaeError::io("create", dir))?;
        let w_enc = self.encoder_weight.f_tr()?;
        let bias = if self.gate.is_some() {
            "b_gate"
        } else {
            "b_enc"
        };
        let mut weights = vec![
            ("W_enc", &w_enc),
            (bias, &self.encoder_bias),
            ("W_dec", &self.w_dec),
            ("b_dec", &self.b_dec),
        ];
        weights.extend(self.w_skip.iter().map(|w_skip| ("W_skip", w_skip)));
        weights.extend(self.threshold.iter().map(|own| ("threshold", own)));
        if let Some(gate) = &self.gate {
            weights.extend([("b_mag", &gate.b_mag), ("r_mag", &gate.r_mag)]);
        }
        write_safetensors(&weights, &dir.join(SAELENS_WEIGHTS_FILE))?;
        let cfg = self.saelens_config(architecture, metadata).to_string();
        write_file(&dir.join(CONFIG_FILE), cfg.as_bytes())?;
        sync_dir(dir)
    }

    fn architecture(&self) -> Option<&'static Architecture> {
        let cfg = &self.cfg;
        if cfg.is_crosscoder() {
            return None;
        }
        let own = (cfg.activation, cfg.transcode, cfg.skip_connection);
        ARCHITECTURES
            .iter()
            .find(|known| (known.activation, known.is_transcoder, known.has_skip) == own)
    }

    fn unknown_to_saelens(&self) -> Fault {
        if self.cfg.is_crosscoder() {
            return inexpressible("SAELens", "a crosscoder");
        }
        if self.cfg.is_layer() {
            return inexpressible("SAELens", "a cross-layer transcoder");
        }
        let kind = if self.cfg.transcode {
            "a transcoder"
        } else {
            "an SAE"
        };
        let skip = if self.cfg.skip_connection {
            " and a skip connection"
        } else {
            ""
        };
        let what = format!("{kind} with the activation {}{skip}", self.cfg.activation);
        inexpressible("SAELens", &what)
    }

    fn saelens_config(&self, architecture: &str, metadata: &SaeLensMetadata) -> Value {
        let dtype = match self.encoder_weight.kind() {
            Kind::Double => "float64",
            Kind::Half => "float16",
            Kind::BFloat16 => "bfloat16",
            _ => "float32",
        };
        let mut cfg = json!({
            "architecture": architecture,
            "d_in": self.cfg.d_in,
            "d_sae": self.num_latents(),
            "dtype": dtype,
            "device": "cpu",
            "apply_b_dec_to_input": self.cfg.subtracts_b_dec(),
            "normalize_activations": "none",
            "reshape_activations": "none",
            "metadata": metadata_json(metadata),
        });
        if self.cfg.activation == Activation::TopK {
            cfg["k"] = self.cfg.k.into();
            cfg["rescale_acts_by_decoder_norm"] = false.into();
        }
        if self.cfg.transcode {
            cfg["d_out"] = self.cfg.d_out().into();
        }
        if !self.cfg.hookpoints.is_empty() {
            cfg["metadata"][HOOKPOINTS] = json!(self.cfg.hookpoints);
        }
        cfg
    }
}

fn metadata_json(metadata: &SaeLensMetadata) -> Value {
    let mut known = json!({
        "sae_lens_version": FORMAT_VERSION,
        "model_name": metadata.model_name,
        "hook_name": metadata.hook_name,
        "hf_hook_name": metadata.hf_hook_name,
        "context_size": metadata.context_size,
        "dataset_path": metadata.dataset_path,
        "prepend_bos": metadata.prepend_bos,
        "training_architecture": metadata.training_architecture,
        "threshold_ema": metadata.threshold_ema,
    });
    let entries = known.as_object_mut().expect("it was made as an object");
    entries.retain(|_, value| !value.is_null());
    // It was not SAELens that trained it; left out, it would take its own version.
    entries.insert("sae_lens_training_version".into(), Value::Null);
    known
}
