//! The files of an SAE in each layout.

use crate::cfg_file::{CONFIG_FILE, WEIGHTS_FILE};
use crate::saelens::SAELENS_WEIGHTS_FILE;
use plan::SaeForm;

/// What says in a folder which transcoders circuit-tracer finds there, and where they are put in.
pub const CIRCUIT_TRACER_CONFIG: &str = "config.yaml";

/// The files of an SAE that is written in a form.
pub fn files_of(form: &SaeForm) -> Vec<String> {
    match form {
        SaeForm::Sparsify => vec![CONFIG_FILE.into(), WEIGHTS_FILE.into()],
        SaeForm::SaeLens(_) => vec![CONFIG_FILE.into(), SAELENS_WEIGHTS_FILE.into()],
        SaeForm::CircuitTracer { layer } => vec![circuit_tracer_file(*layer)],
    }
}

/// The file of the transcoder of layer `layer`, in circuit-tracer's layout.
pub fn circuit_tracer_file(layer: usize) -> String {
    format!("layer_{layer}.safetensors")
}
