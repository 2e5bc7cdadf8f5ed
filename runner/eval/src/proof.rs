//! Before SAEs are given to others: what is written is read back, and must compute the same.

use crate::EvalError;
use fault::Fault;
use plan::{ProveTask, SaeForm, SaeLensMetadata};
use sae::{LoadOptions, Sae, with_seed};
use std::fs;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Tokens that the proof encodes.
const N_TOKENS: i64 = 64;

/// Sizes of activations that are tried, until a latent is active.
const SCALES: [f64; 5] = [1.0, 10.0, 100.0, 1e3, 1e4];

/// How far activations and reconstructions may differ, of the greatest.
const TOLERANCE: f64 = 1e-5;

/// Writes an SAE to another folder in a layout, reads it back from there, and compares what
/// both make of the same input: the same latents, and activations and reconstructions within 1e-5 of the
/// greatest.
///
/// # Errors
/// An SAE that cannot be read, or that has weights that are not finite; one that the layout cannot
/// express; one that computes something else when it is read back.
pub fn write_proven(task: &ProveTask) -> Result<(), EvalError> {
    let ProveTask {
        dir,
        form,
        out,
        is_kept,
    } = task;
    tch::no_grad(|| {
        let own = load(dir)?;
        own.check_finite(dir)?;
        let read_back = written(&own, form, out)?;
        let unlike = first_difference(&own, &read_back)?;
        match unlike {
            None if *is_kept => Ok(()),
            None => fs::remove_dir_all(out).map_err(EvalError::io("remove", out)),
            Some(what) => {
                let (dir, layout) = (dir.display(), form.layout());
                let message = format!(
                    "the SAE in `{dir}` gives other {what} when it is read back from {layout}'s layout"
                );
                let fault = Fault::internal(message);
                Err(fault
                    .with_hint("nothing was published; leave this layout out")
                    .into())
            }
        }
    })
}

/// Writes an SAE, and reads it from there.
fn written(own: &Sae, form: &SaeForm, out: &Path) -> Result<Sae, EvalError> {
    match form {
        SaeForm::Sparsify => own.save_to_disk(out)?,
        SaeForm::SaeLens(metadata) => own.save_saelens(out, metadata)?,
        SaeForm::Crosscoder => own.save_crosscoder(out, &SaeLensMetadata::default())?,
        SaeForm::CircuitTracer { layer } => {
            own.save_circuit_tracer(out, *layer)?;
            let options = LoadOptions::from(Device::Cpu);
            return Ok(Sae::load_circuit_tracer(out, *layer, &options)?);
        }
        SaeForm::CrossLayer { layer } => {
            own.save_cross_layer(out, *layer)?;
            let options = LoadOptions::from(Device::Cpu);
            let hookpoints = &own.cfg.hookpoints;
            return Ok(Sae::load_cross_layer(out, *layer, hookpoints, &options)?);
        }
    }
    load(out)
}

fn load(dir: &Path) -> Result<Sae, EvalError> {
    Ok(Sae::load_from_disk(dir, LoadOptions::from(Device::Cpu))?)
}

/// What both SAEs make differently of the same input; `None`: nothing.
fn first_difference(a: &Sae, b: &Sae) -> Result<Option<&'static str>, EvalError> {
    let x = active_probe(a)?;
    let (a, b) = (a.forward(&x)?, b.forward(&x)?);
    let latents = |sae: &sae::Reconstruction| sae.encoded.latent_indices.f_sort(-1, false);
    if latents(&a)?.0 != latents(&b)?.0 {
        return Ok(Some("latents"));
    }
    let acts = |sae: &sae::Reconstruction| sae.encoded.latent_acts.f_sort(-1, false);
    if !is_close(&acts(&a)?.0, &acts(&b)?.0)? {
        return Ok(Some("activations"));
    }
    Ok((!is_close(&a.sae_out, &b.sae_out)?).then_some("reconstructions"))
}

/// Activations of a size at which latents are active: thresholds may be far above what small ones pass.
fn active_probe(sae: &Sae) -> Result<Tensor, EvalError> {
    for scale in SCALES {
        let x = probe(sae, scale)?;
        let acts = sae.encode(&x)?.latent_acts;
        if acts.f_gt(0.0)?.f_any()?.f_int64_value(&[])? != 0 {
            return Ok(x);
        }
    }
    let message = "no latent of the SAE is active on random activations of any size";
    let fault = Fault::input(message);
    Err(fault
        .with_hint("its layouts cannot be compared; choose others with `--where`")
        .into())
}

/// Activations as the SAE may see them: around the bias of its decoder, and of its input's size.
fn probe(sae: &Sae, scale: f64) -> Result<Tensor, EvalError> {
    let shape = [N_TOKENS, sae.cfg.d_in as i64];
    let noise = with_seed(0, || Tensor::f_randn(shape, (Kind::Float, Device::Cpu)))?;
    let noise = noise.f_mul_scalar(scale)?;
    let x = if sae.cfg.transcode {
        noise
    } else {
        noise.f_add(&sae.b_dec.f_to_kind(Kind::Float)?)?
    };
    Ok(x.f_to_kind(sae.b_dec.kind())?)
}

fn is_close(a: &Tensor, b: &Tensor) -> Result<bool, EvalError> {
    let difference = f64::try_from(a.f_sub(b)?.f_abs()?.f_max()?)?;
    let greatest = f64::try_from(a.f_abs()?.f_max()?)?;
    Ok(difference <= TOLERANCE * greatest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sae::SaeConfig;
    use sae_files::files_of;

    fn saved(change: impl Fn(&mut Sae)) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut sae = Sae::new(SaeConfig::topk(8, 32, 4), 1, Device::Cpu).unwrap();
        tch::no_grad(|| change(&mut sae));
        sae.save_to_disk(&dir.path().join("own")).unwrap();
        dir
    }

    fn task(dir: &Path, form: SaeForm) -> ProveTask {
        ProveTask {
            dir: dir.join("own"),
            out: dir.join(form.layout().name()),
            form,
            is_kept: true,
        }
    }

    fn saelens() -> SaeForm {
        SaeForm::SaeLens(SaeLensMetadata::default())
    }

    fn proves(mut task: ProveTask) {
        write_proven(&task).unwrap();
        for file in files_of(&task.form) {
            assert!(task.out.join(&file).is_file(), "{file}");
        }
        task.is_kept = false;
        write_proven(&task).unwrap();
        assert!(!task.out.exists(), "only what it holds was asked for");
    }

    #[test]
    fn both_layouts_compute_the_same() {
        let dir = saved(|sae| {
            let _ = sae.b_dec.fill_(0.25);
        });
        for form in [SaeForm::Sparsify, saelens()] {
            proves(task(dir.path(), form));
        }
        let form = SaeForm::CircuitTracer { layer: 2 };
        let error = write_proven(&task(dir.path(), form)).unwrap_err();
        assert!(error.to_string().contains("does not support"), "{error}");
    }

    #[test]
    fn transcoders_compute_the_same_in_the_layout_of_circuit_tracer() {
        for activation in [sae::Activation::Relu, sae::Activation::JumpRelu] {
            let dir = tempfile::tempdir().unwrap();
            let cfg = SaeConfig {
                activation,
                transcode: true,
                skip_connection: true,
                ..SaeConfig::topk(8, 32, 32)
            };
            let mut sae = Sae::new(cfg, 1, Device::Cpu).unwrap();
            sae.w_dec = random(&[32, 8]);
            let metadata = SaeLensMetadata::default();
            sae.save(&dir.path().join("own"), &metadata).unwrap();
            proves(task(dir.path(), SaeForm::CircuitTracer { layer: 2 }));
        }
    }

    #[test]
    fn layers_of_cross_layer_transcoders_compute_the_same_in_the_layout_of_circuit_tracer() {
        for activation in [sae::Activation::Relu, sae::Activation::JumpRelu] {
            let dir = tempfile::tempdir().unwrap();
            let cfg = SaeConfig {
                activation,
                transcode: true,
                d_out: Some(24),
                hookpoints: ["a", "b", "c"].map(str::to_owned).into(),
                ..SaeConfig::topk(8, 32, 32)
            };
            let mut sae = Sae::new(cfg, 1, Device::Cpu).unwrap();
            sae.w_dec = random(&[32, 24]);
            sae.b_dec = random(&[24]);
            let own = dir.path().join("own");
            let metadata = SaeLensMetadata::default();
            let form = || SaeForm::CrossLayer { layer: 1 };
            sae.save(&own, &metadata).unwrap();
            let error = write_proven(&task(dir.path(), form())).unwrap_err();
            assert!(
                error.to_string().contains("other reconstructions"),
                "a bias of later layers: {error}"
            );
            sae.limit_bias_to_own_output().unwrap();
            sae.save(&own, &metadata).unwrap();
            proves(task(dir.path(), form()));
            for form in [
                SaeForm::Sparsify,
                saelens(),
                SaeForm::CircuitTracer { layer: 1 },
            ] {
                let error = write_proven(&task(dir.path(), form)).unwrap_err();
                assert!(error.to_string().contains("does not support"), "{error}");
            }
        }
    }

    #[test]
    fn crosscoders_compute_the_same_in_the_layout_of_crosscoder_learning() {
        use plan::CrosscoderNorm;
        use sae::Activation::{JumpRelu, Relu, TopK};
        let (sum, apart) = (CrosscoderNorm::Crosscoder, CrosscoderNorm::Decoupled);
        for (activation, k, code_normalization) in [
            (TopK, 4, sum),
            (Relu, 32, sum),
            (JumpRelu, 32, sum),
            (JumpRelu, 32, apart),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let cfg = SaeConfig {
                activation,
                normalize_decoder: false,
                hookpoints: ["a", "b", "c"].map(str::to_owned).into(),
                code_normalization,
                ..SaeConfig::topk(24, 32, k)
            };
            let mut sae = Sae::new(cfg, 1, Device::Cpu).unwrap();
            sae.b_dec = random(&[24]);
            let metadata = SaeLensMetadata::default();
            sae.save(&dir.path().join("own"), &metadata).unwrap();
            proves(task(dir.path(), SaeForm::Crosscoder));
            for form in [
                SaeForm::Sparsify,
                saelens(),
                SaeForm::CircuitTracer { layer: 0 },
            ] {
                let error = write_proven(&task(dir.path(), form)).unwrap_err();
                assert!(error.to_string().contains("does not support"), "{error}");
            }
        }
    }

    fn random(shape: &[i64]) -> Tensor {
        with_seed(0, || Tensor::randn(shape, (Kind::Float, Device::Cpu)))
    }

    /// A threshold that noise of size 1 does not pass would prove nothing.
    #[test]
    fn what_is_compared_has_active_latents() {
        let with_threshold = |threshold: f64| {
            let cfg = SaeConfig {
                activation: sae::Activation::JumpRelu,
                ..SaeConfig::topk(8, 32, 32)
            };
            let mut sae = Sae::new(cfg, 1, Device::Cpu).unwrap();
            sae.threshold = Some(Tensor::full([32], threshold, (Kind::Float, Device::Cpu)));
            sae
        };
        for threshold in [0.0, 0.1, 50.0, 2000.0] {
            let sae = with_threshold(threshold);
            let x = active_probe(&sae).unwrap();
            let acts = sae.encode(&x).unwrap().latent_acts;
            assert!(acts.max().double_value(&[]) > threshold);
            let dir = tempfile::tempdir().unwrap();
            sae.save(&dir.path().join("own"), &SaeLensMetadata::default())
                .unwrap();
            write_proven(&task(dir.path(), saelens())).unwrap();
            let error = write_proven(&task(dir.path(), SaeForm::Sparsify)).unwrap_err();
            assert!(error.to_string().contains("does not support"), "{error}");
        }
        let (dead, other) = (with_threshold(1e30), with_threshold(1e30));
        let error = first_difference(&dead, &other).unwrap_err().to_string();
        assert!(
            error.starts_with("no latent of the SAE is active"),
            "{error}"
        );
        let higher = with_threshold(0.5);
        assert!(
            first_difference(&with_threshold(0.1), &higher)
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn weights_that_are_not_finite_are_refused() {
        let dir = saved(|sae| {
            let _ = sae.w_dec.get(3).fill_(f64::NAN);
        });
        let task = task(dir.path(), SaeForm::Sparsify);
        let error = write_proven(&task).unwrap_err();
        assert!(
            error.to_string().starts_with("`W_dec` of the SAE"),
            "{error}"
        );
        assert!(!task.out.exists(), "nothing was written");
    }

    #[test]
    fn what_computes_something_else_is_noticed() {
        let own = Sae::new(SaeConfig::topk(8, 32, 4), 1, Device::Cpu).unwrap();
        let with = |index: usize, factor: f64| {
            let weights = own.named_weights();
            let weights = weights.iter().enumerate().map(|(i, (_, weight))| {
                if i == index {
                    *weight * factor
                } else {
                    weight.copy()
                }
            });
            own.with_weights(weights.collect())
        };
        let names: Vec<_> = own.named_weights().iter().map(|(name, _)| *name).collect();
        let index_of = |name| names.iter().position(|own| *own == name).unwrap();
        let w_dec = with(index_of("W_dec"), 1.001);
        assert_eq!(
            first_difference(&own, &w_dec).unwrap(),
            Some("reconstructions")
        );
        let encoder = with(index_of("encoder.weight"), 1.001);
        assert_eq!(
            first_difference(&own, &encoder).unwrap(),
            Some("activations")
        );
        let encoder = with(index_of("encoder.weight"), -1.0);
        assert_eq!(first_difference(&own, &encoder).unwrap(), Some("latents"));
        let same = with(usize::MAX, 1.0);
        assert_eq!(first_difference(&own, &same).unwrap(), None);
    }
}
