//! Beginning with SAEs that were trained before.

use crate::TrainError;
use fault::Fault;
use sae::Sae;
use std::path::Path;
use tch::Device;

/// The SAE in the folder `dir`, to be trained with the settings of `fresh`.
///
/// # Errors
/// No SAE there, or weights of other shapes.
pub(crate) fn load(fresh: Sae, dir: &Path, device: Device) -> Result<Sae, TrainError> {
    let unreadable = |source| {
        let message = format!("cannot begin with the SAE in `{}`", dir.display());
        Fault::input(message).because(source).with_hint(
            "`finetune` is a folder with one for each SAE of the job, each with `cfg.json` and `sae.safetensors`",
        )
    };
    let mut loaded = Sae::load_from_disk(dir, device).map_err(unreadable)?;
    let fresh_weights = fresh.named_weights();
    let weights = loaded.named_weights();
    let shapes = |weights: &[(&'static str, &tch::Tensor)]| -> Vec<_> {
        let shape = |(name, weight): &(&'static str, &tch::Tensor)| (*name, weight.size());
        weights.iter().map(shape).collect()
    };
    let (expected, got) = (shapes(&fresh_weights), shapes(&weights));
    if expected != got {
        return Err(unfit(dir, &listed(&expected), &listed(&got)).into());
    }
    if !loaded.cfg.activation.has_k() {
        let [expected, got] =
            [&fresh, &loaded].map(|sae| format!("the activation {}", sae.cfg.activation));
        return Err(unfit(dir, &expected, &got).into());
    }
    loaded.check_finite(dir)?;
    loaded.cfg = fresh.cfg;
    for weight in loaded.weights_mut() {
        // Of SAELens's layout, the encoder comes as a view.
        *weight = weight.f_to_kind(tch::Kind::Float)?.f_contiguous()?;
    }
    Ok(loaded)
}

/// An SAE that a job cannot begin with.
fn unfit(dir: &Path, expected: &str, got: &str) -> Fault {
    let message = format!(
        "the SAE in `{}` has {got}; the job needs {expected}",
        dir.display()
    );
    Fault::input(message).with_hint(
        "set `num_latents`, `transcode` and `skip_connection` as they were for the SAEs in `finetune`",
    )
}

/// `W_dec [64, 32], b_dec [32]`.
fn listed(shapes: &[(&'static str, Vec<i64>)]) -> String {
    let shapes = shapes
        .iter()
        .map(|(name, shape)| format!("{name} {shape:?}"));
    shapes.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use fault::Remedy;
    use sae::SaeConfig;

    #[test]
    fn the_weights_are_the_saved_ones_and_the_settings_are_new() {
        let dir = tempfile::tempdir().unwrap();
        let saved = Sae::new(SaeConfig::topk(4, 12, 2), 1, Device::Cpu).unwrap();
        saved.save_to_disk(dir.path()).unwrap();
        let fresh = Sae::new(SaeConfig::topk(4, 12, 3), 2, Device::Cpu).unwrap();
        let loaded = load(fresh, dir.path(), Device::Cpu).unwrap();
        assert_eq!(loaded.cfg.k, 3);
        assert!(loaded.encoder_weight.equal(&saved.encoder_weight));
    }

    #[test]
    fn other_shapes_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let saved = Sae::new(SaeConfig::topk(4, 12, 2), 1, Device::Cpu).unwrap();
        saved.save_to_disk(dir.path()).unwrap();
        let fresh = Sae::new(SaeConfig::topk(4, 16, 2), 2, Device::Cpu).unwrap();
        let error = load(fresh, dir.path(), Device::Cpu).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("encoder.weight [12, 4]"), "{message}");
        assert!(message.contains("encoder.weight [16, 4]"), "{message}");
        let missing = load(saved, &dir.path().join("none"), Device::Cpu).unwrap_err();
        assert!(missing.to_string().contains("none"), "{missing}");
        assert_eq!(missing.kind(), fault::FailureKind::Input);
    }

    #[test]
    fn kinds_that_are_not_trained_are_told_and_saelens_topk_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let fresh = || Sae::new(SaeConfig::topk(4, 12, 3), 2, Device::Cpu).unwrap();
        let relu = SaeConfig {
            activation: sae::Activation::Relu,
            ..SaeConfig::topk(4, 12, 12)
        };
        let metadata = sae::SaeLensMetadata::default();
        let relu = Sae::new(relu, 1, Device::Cpu).unwrap();
        relu.save_saelens(dir.path(), &metadata).unwrap();
        let message = load(fresh(), dir.path(), Device::Cpu)
            .unwrap_err()
            .to_string();
        assert!(message.contains("has the activation relu"), "{message}");
        fresh().save_saelens(dir.path(), &metadata).unwrap();
        let loaded = load(fresh(), dir.path(), Device::Cpu).unwrap();
        assert!(loaded.encoder_weight.is_contiguous());
        assert!(loaded.encoder_weight.equal(&fresh().encoder_weight));
    }
}
