//! Beginning with SAEs that were trained before.

use crate::TrainError;
use fault::Fault;
use sae::Sae;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// The SAE in the folder `dir`, to be trained with the settings of `fresh`, and the mean of its thresholds if `fresh` has
/// none: BatchTopK's.
///
/// # Errors
/// No SAE there, or weights of other shapes.
pub(crate) fn load(
    fresh: Sae,
    dir: &Path,
    device: Device,
) -> Result<(Sae, Option<f64>), TrainError> {
    let unreadable = |source| {
        let message = format!("cannot start from the SAE in `{}`", dir.display());
        Fault::input(message).because(source).with_hint(
            "`finetune` is a folder with one for each SAE of the job, each with `cfg.json` and `sae.safetensors`",
        )
    };
    let mut loaded = Sae::load_from_disk(dir, device).map_err(unreadable)?;
    let threshold = fit_thresholds(&fresh, &mut loaded)?;
    let fresh_weights = fresh.named_weights();
    let weights = loaded.named_weights();
    let shapes = |weights: &[(&'static str, &Tensor)]| -> Vec<_> {
        let shape = |(name, weight): &(&'static str, &Tensor)| (*name, weight.size());
        weights.iter().map(shape).collect()
    };
    let (expected, got) = (shapes(&fresh_weights), shapes(&weights));
    if expected != got {
        return Err(unfit(dir, &listed(&expected), &listed(&got)).into());
    }
    loaded.check_finite(dir)?;
    loaded.cfg = fresh.cfg;
    for weight in loaded.weights_mut() {
        // Of SAELens's layout, the encoder comes as a view.
        *weight = weight.f_to_kind(Kind::Float)?.f_contiguous()?;
    }
    Ok((loaded, threshold))
}

/// Thresholds that the job has no use for are left out, with their mean as the result, and those that the SAE lacks
/// begin as they do in a fresh one: a TopK SAE may become a JumpReLU SAE, and one that BatchTopK trained may be trained
/// further by it.
fn fit_thresholds(fresh: &Sae, loaded: &mut Sae) -> Result<Option<f64>, TrainError> {
    Ok(match (&fresh.threshold, &loaded.threshold) {
        (None, Some(threshold)) => {
            let mean = threshold.f_mean(Kind::Double)?.f_double_value(&[])?;
            loaded.threshold = None;
            Some(mean)
        }
        (Some(threshold), None) => {
            loaded.threshold = Some(threshold.shallow_clone());
            None
        }
        _ => None,
    })
}

/// An SAE that a job cannot begin with.
fn unfit(dir: &Path, expected: &str, got: &str) -> Fault {
    let message = format!(
        "the SAE in `{}` has {got}; the job needs {expected}",
        dir.display()
    );
    Fault::input(message).with_hint(
        "set `activation`, `num_latents`, `transcode` and `skip_connection` as they were for the SAEs in `finetune`",
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
        let (loaded, _) = load(fresh, dir.path(), Device::Cpu).unwrap();
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
    fn an_sae_of_another_kind_is_taken_if_its_weights_fit() {
        use sae::Activation::{Gated, JumpRelu, Relu, TopK};
        let of = |activation, seed| {
            let cfg = SaeConfig {
                activation,
                ..SaeConfig::topk(4, 12, 12)
            };
            let mut sae = Sae::new(cfg, seed, Device::Cpu).unwrap();
            sae.threshold = sae.threshold.map(|threshold| threshold + seed as f64);
            sae
        };
        for (from, to) in [
            (TopK, TopK),
            (TopK, JumpRelu),
            (JumpRelu, Relu),
            (Relu, TopK),
            (JumpRelu, JumpRelu),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let saved = of(from, 1);
            saved
                .save_saelens(dir.path(), &sae::SaeLensMetadata::default())
                .unwrap();
            let (loaded, left_out) = load(of(to, 2), dir.path(), Device::Cpu).unwrap();
            assert_eq!(left_out, (from == JumpRelu && to == Relu).then_some(1.0));
            assert!(loaded.encoder_weight.is_contiguous());
            assert!(loaded.encoder_weight.equal(&saved.encoder_weight));
            assert_eq!(loaded.cfg.activation, to);
            let expected = match (from, to) {
                (JumpRelu, JumpRelu) => Some(1.0),
                (_, JumpRelu) => Some(2.0),
                _ => None,
            };
            let threshold = loaded
                .threshold
                .map(|threshold| threshold.double_value(&[3]));
            assert_eq!(threshold, expected);
        }
        let dir = tempfile::tempdir().unwrap();
        of(Relu, 1)
            .save_saelens(dir.path(), &sae::SaeLensMetadata::default())
            .unwrap();
        let message = load(of(Gated, 2), dir.path(), Device::Cpu)
            .unwrap_err()
            .to_string();
        assert!(message.contains("b_mag [12]"), "{message}");
    }
}
