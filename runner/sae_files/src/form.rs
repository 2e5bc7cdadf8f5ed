//! The files of an SAE in each layout.

use crate::cfg_file::{CONFIG_FILE, WEIGHTS_FILE};
use crate::crosscoder::CROSSCODER_WEIGHTS_FILE;
use crate::saelens::SAELENS_WEIGHTS_FILE;
use plan::SaeForm;

/// What says in a folder which transcoders circuit-tracer finds there, and where they are put in.
pub const CIRCUIT_TRACER_CONFIG: &str = "config.yaml";

/// The files of an SAE that is written in a form. The one by which it is found is the first.
pub fn files_of(form: &SaeForm) -> Vec<String> {
    match form {
        SaeForm::Sparsify => vec![CONFIG_FILE.into(), WEIGHTS_FILE.into()],
        SaeForm::SaeLens(_) => vec![CONFIG_FILE.into(), SAELENS_WEIGHTS_FILE.into()],
        SaeForm::Crosscoder => vec![CONFIG_FILE.into(), CROSSCODER_WEIGHTS_FILE.into()],
        SaeForm::CircuitTracer { layer } => vec![circuit_tracer_file(*layer)],
        SaeForm::CrossLayer { layer } => cross_layer_files(*layer).into(),
    }
}

/// The file of the transcoder of layer `layer`, in circuit-tracer's layout.
pub fn circuit_tracer_file(layer: usize) -> String {
    format!("layer_{layer}.safetensors")
}

/// The files of layer `layer` of a cross-layer transcoder, in circuit-tracer's layout: of its encoder and biases, and of
/// its decoder.
pub fn cross_layer_files(layer: usize) -> [String; 2] {
    ["W_enc", "W_dec"].map(|name| format!("{name}_{layer}.safetensors"))
}
