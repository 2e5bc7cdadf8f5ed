//! The first updates of an SAE, saved on one device and compared with those of another.
//!
//! Both start from the same weights and activations. Which latent is the k-th largest may hang on the
//! last bit, and then either is right: tokens with such a near tie take no part in the comparison of
//! latents and gradients. All take part in the updates.

use crate::Result;
use crate::gate::{
    MOST_OF_FVU, MOST_OF_GRADIENT, fresh, largest_difference, objective, rounded_encoder,
};
use crate::measure::{Case, activations, config};
use sae::{tensors_by_name, write_safetensors};
use sae_run_train::Stepper;
use serde::Serialize;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

const N_UPDATES: usize = 3;
/// A lead of the k-th latent over the next, as a part of the token's largest, that rounding may turn.
const NEAR_TIE: f64 = 1e-5;
/// More near ties than that leave too little to compare.
const MOST_NEAR_TIES: f64 = 0.2;
const GRADIENTS: [&str; 4] = ["gradient.0", "gradient.1", "gradient.2", "gradient.3"];

/// How far off it was.
#[derive(Debug, Serialize)]
pub(crate) struct Agreement {
    pub(crate) gradient: f64,
    pub(crate) fvu: f64,
    pub(crate) n_near_ties: i64,
}

/// Writes the first updates of a case into `folder`.
pub(crate) fn write_reference(case: Case, device: Device, folder: &Path) -> Result<()> {
    let x = activations(case, device)?;
    let tokens = tokens_without_tie(case, &x)?;
    if (tokens.size()[0] as f64) < (1.0 - MOST_NEAR_TIES) * case.n_tokens as f64 {
        return Err(format!("{case:?}: only {} tokens are clear", tokens.size()[0]).into());
    }
    FirstUpdates::make(case, &x, tokens)?.write(&path(case, folder))
}

/// Makes the same updates on `device`, and compares.
pub(crate) fn check(case: Case, device: Device, folder: &Path) -> Result<Agreement> {
    let reference = FirstUpdates::read(&path(case, folder))?;
    let x = activations(case, device)?;
    let here = FirstUpdates::make(case, &x, reference.tokens.copy())?;
    let n_other = here.n_tokens_with_other_latents(&reference)?;
    if n_other > 0 {
        return Err(
            format!("{case:?}: {n_other} tokens without a near tie have other latents").into(),
        );
    }
    let gradients: Vec<&Tensor> = here.gradients.iter().collect();
    let agreement = Agreement {
        gradient: largest_difference(&gradients, &reference.gradients),
        fvu: (&here.fvu / &reference.fvu - 1.0)
            .abs()
            .max()
            .f_double_value(&[])?,
        n_near_ties: case.n_tokens - reference.tokens.size()[0],
    };
    if agreement.gradient <= MOST_OF_GRADIENT && agreement.fvu <= MOST_OF_FVU {
        Ok(agreement)
    } else {
        Err(format!("{case:?} is not what the reference has: {agreement:?}").into())
    }
}

fn path(case: Case, folder: &Path) -> PathBuf {
    let Case {
        d_in,
        n_tokens,
        num_latents,
        k,
        ..
    } = case;
    folder.join(format!("{d_in}-{n_tokens}-{num_latents}-{k}.safetensors"))
}

/// Those whose k-th latent leads the next clearly: `[n]`, Int64.
fn tokens_without_tie(case: Case, x: &Tensor) -> Result<Tensor> {
    let one_more = Case {
        k: case.k + 1,
        ..case
    };
    let acts = fresh(one_more, x)?.encode(x)?.latent_acts;
    let (lowest, _) = acts.f_topk(2, 1, false, true)?;
    let lead = lowest.f_select(1, 1)?.f_sub(&lowest.f_select(1, 0)?)?;
    let is_clear = lead.f_gt_tensor(&acts.f_amax([1i64], false)?.f_mul_scalar(NEAR_TIE)?)?;
    Ok(is_clear.f_nonzero()?.f_squeeze_dim(1)?)
}

/// On the CPU, wherever they were made.
struct FirstUpdates {
    /// Of whom latents and gradients are: `[n]`, Int64.
    tokens: Tensor,
    /// In ascending order: `[n, k]`, Int64.
    latent_indices: Tensor,
    /// Of the squared error, at the first weights, in the order of `Sae::named_weights`.
    gradients: Vec<Tensor>,
    /// By update, over all tokens: `[N_UPDATES]`, Double.
    fvu: Tensor,
}

impl FirstUpdates {
    fn make(case: Case, x: &Tensor, tokens: Tensor) -> Result<Self> {
        let sae = fresh(case, x)?;
        let clear = x.f_index_select(0, &tokens.f_to_device(x.device())?)?;
        let rounded = rounded_encoder(case, &sae)?;
        let backward = sae.backward(&clear, &clear, &objective(case, rounded.as_ref()))?;
        let here = |tensor: &Tensor| tensor.f_to_device(Device::Cpu);
        let gradients = backward.gradients.tensors().into_iter().map(here);
        let pass = sae.pass(&clear, case.k as usize, rounded.as_ref())?;
        let (latent_indices, _) = pass.encoded.latent_indices.f_sort(1, false)?;
        Ok(Self {
            tokens: here(&tokens)?,
            latent_indices: here(&latent_indices)?,
            gradients: gradients.collect::<std::result::Result<_, _>>()?,
            fvu: Tensor::from_slice(&fvu_of_updates(case, x)?),
        })
    }

    fn write(&self, path: &Path) -> Result<()> {
        let mut tensors = vec![
            ("tokens", &self.tokens),
            ("latent_indices", &self.latent_indices),
            ("fvu", &self.fvu),
        ];
        tensors.extend(GRADIENTS.into_iter().zip(&self.gradients));
        Ok(write_safetensors(&tensors, path)?)
    }

    fn read(path: &Path) -> Result<Self> {
        let mut tensors = tensors_by_name(path)?;
        let mut take = |name: &str| {
            let missing = || format!("`{}` has no `{name}`", path.display());
            tensors.remove(name).ok_or_else(missing)
        };
        Ok(Self {
            tokens: take("tokens")?,
            latent_indices: take("latent_indices")?,
            gradients: GRADIENTS
                .into_iter()
                .map(&mut take)
                .collect::<std::result::Result<_, _>>()?,
            fvu: take("fvu")?,
        })
    }

    fn n_tokens_with_other_latents(&self, other: &Self) -> Result<i64> {
        let is_other = self.latent_indices.f_ne_tensor(&other.latent_indices)?;
        let of_token = is_other.f_any_dim(1, false)?;
        Ok(of_token.f_sum(Kind::Int64)?.f_int64_value(&[])?)
    }
}

fn fvu_of_updates(case: Case, x: &Tensor) -> Result<Vec<f64>> {
    let mut stepper = Stepper::new(&config(case), case.d_in as usize, x.device())?;
    let mut fvu = Vec::new();
    for _ in 0..N_UPDATES {
        stepper.step(x)?;
        fvu.push(stepper.take_stats()?.ok_or("there was an update")?.fvu());
    }
    Ok(fvu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plan::EncoderDtype;

    const CASE: Case = Case {
        d_in: 96,
        n_tokens: 64,
        num_latents: 128,
        k: 4,
        encoder_dtype: EncoderDtype::Float32,
    };

    /// What `check` says once `change` was at what the reference has.
    fn check_changed(change: impl FnOnce(&mut FirstUpdates)) -> Result<Agreement> {
        let folder = tempfile::tempdir()?;
        write_reference(CASE, Device::Cpu, folder.path())?;
        let path = path(CASE, folder.path());
        let mut reference = FirstUpdates::read(&path)?;
        change(&mut reference);
        reference.write(&path)?;
        check(CASE, Device::Cpu, folder.path())
    }

    #[test]
    fn a_device_agrees_with_itself() {
        let agreement = check_changed(|_| {}).unwrap();
        assert!(agreement.gradient < 1e-6 && agreement.fvu < 1e-6);
        assert!(agreement.n_near_ties < CASE.n_tokens / 5);
    }

    #[test]
    fn small_differences_are_errors() {
        let error = |change: fn(&mut FirstUpdates)| check_changed(change).unwrap_err().to_string();
        let latents = error(|first| {
            let _ = first.latent_indices.select(1, 3).select(0, 5).fill_(127);
        });
        assert!(latents.contains("1 tokens without a near tie"), "{latents}");
        let gradient = error(|first| first.gradients[3] *= 1.0002);
        assert!(gradient.contains("gradient: 0.00019"), "{gradient}");
        let fvu = error(|first| {
            let _ = first.fvu.get(2).multiply_scalar_(1.02);
        });
        assert!(fvu.contains("fvu: 0.019"), "{fvu}");
    }

    #[test]
    fn a_missing_reference_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = check(CASE, Device::Cpu, folder.path()).unwrap_err();
        assert!(error.to_string().contains("96-64-128-4"), "{error}");
    }

    #[test]
    fn near_ties_take_no_part() {
        let x = activations(CASE, Device::Cpu).unwrap();
        let clear = tokens_without_tie(CASE, &x).unwrap();
        // Without the mean of the batch nothing is left of equal tokens: all latents are 0.
        let equal = Tensor::ones([8, CASE.d_in], (Kind::Float, Device::Cpu));
        assert_eq!(tokens_without_tie(CASE, &equal).unwrap().size(), [0]);
        assert!(clear.size()[0] > CASE.n_tokens / 2);
    }
}
