//! The widths of nested reconstructions.

use crate::{PlanError, TrainConfig};

/// The most reconstructions of one SAE: each takes the memory of a batch's activations.
pub(crate) const MOST_WIDTHS: usize = 1024;

impl TrainConfig {
    /// `matryoshka_widths` of an SAE with `num_latents` latents as numbers of latents, the last of which is
    /// `num_latents`; empty if there is no such setting. Fractions are rounded down.
    ///
    /// # Errors
    /// Widths that do not increase or are more than the latents, or another number of `matryoshka_weights`.
    pub fn matryoshka_widths_for(&self, num_latents: usize) -> Result<Vec<usize>, PlanError> {
        let width = |&width: &f64| match width {
            fraction if fraction < 1.0 => (fraction * num_latents as f64) as usize,
            count => count as usize,
        };
        let mut widths: Vec<usize> = self.matryoshka_widths.iter().map(width).collect();
        if widths.last().is_some_and(|&last| last < num_latents) {
            widths.push(num_latents);
        }
        let is_increasing = widths.is_sorted_by(|one, next| one < next);
        let most = widths.last().copied().unwrap_or_default();
        if widths.first() == Some(&0) || !is_increasing {
            let problem = format!(
                "must increase and be at least 1; with `num_latents` = {num_latents} they are {widths:?}"
            );
            return Err(PlanError::setting("matryoshka_widths", &problem));
        }
        if most > num_latents {
            let problem = format!("has {most}, but `num_latents` is {num_latents}");
            return Err(PlanError::setting("matryoshka_widths", &problem));
        }
        let n_weights = self.matryoshka_weights.len();
        if n_weights > 0 && n_weights != widths.len() {
            let problem = format!(
                "has {n_weights} weights, but `matryoshka_widths` and all latents give {widths:?}"
            );
            return Err(PlanError::setting("matryoshka_weights", &problem));
        }
        Ok(widths)
    }

    /// What can be checked of widths without the number of latents.
    pub(crate) fn validate_widths(&self) -> Result<(), PlanError> {
        let widths = &self.matryoshka_widths;
        for (key, n_widths) in [
            ("matryoshka_widths", widths.len()),
            ("matryoshka_prefixes", self.matryoshka_prefixes),
        ] {
            if n_widths > MOST_WIDTHS {
                let problem = format!("asks for {n_widths}, and the most is {MOST_WIDTHS}");
                return Err(PlanError::setting(key, &problem));
            }
        }
        let is_width = |width: f64| width > 0.0 && (width < 1.0 || width.fract() == 0.0);
        if let Some(width) = widths.iter().find(|width| !is_width(**width)) {
            let problem =
                format!("must be whole numbers, or fractions between 0 and 1, got {width}");
            return Err(PlanError::setting("matryoshka_widths", &problem));
        }
        // A fraction and a number are compared when the number of latents is known.
        let falls = |pair: &&[f64]| pair[0] >= pair[1] && (pair[0] < 1.0) == (pair[1] < 1.0);
        if let Some(pair) = widths.windows(2).find(falls) {
            let problem = format!("must increase, but {} follows {}", pair[1], pair[0]);
            return Err(PlanError::setting("matryoshka_widths", &problem));
        }
        let weights = &self.matryoshka_weights;
        let is_weight = |weight: &f64| weight.is_finite() && *weight >= 0.0;
        if !weights.iter().all(is_weight)
            || weights.iter().all(|&it| it == 0.0) && !weights.is_empty()
        {
            let problem = format!("must be finite, not negative and not all 0, got {weights:?}");
            return Err(PlanError::setting("matryoshka_weights", &problem));
        }
        if weights.last() == Some(&0.0) {
            let problem = "has 0 for all latents: the last weight must be above 0";
            return Err(PlanError::setting("matryoshka_weights", problem));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(widths: &[f64], weights: &[f64]) -> TrainConfig {
        TrainConfig {
            matryoshka_widths: widths.to_vec(),
            matryoshka_weights: weights.to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn widths_are_fractions_or_numbers_and_end_with_all_latents() {
        for (widths, resolved) in [
            (&[][..], &[][..]),
            (&[16.0, 64.0], &[16, 64, 256]),
            (&[16.0, 256.0], &[16, 256]),
            (&[0.25, 0.5], &[64, 128, 256]),
            (&[1.0, 0.999], &[1, 255, 256]),
        ] {
            let config = config(widths, &[]);
            config.validate_widths().unwrap();
            assert_eq!(config.matryoshka_widths_for(256).unwrap(), resolved);
        }
    }

    #[test]
    fn widths_that_do_not_fit_are_named() {
        let problem = |widths: &[f64], weights: &[f64]| {
            let config = config(widths, weights);
            let checked = config.validate_widths();
            let checked = checked.and_then(|()| config.matryoshka_widths_for(256));
            checked.unwrap_err().to_string()
        };
        for (widths, weights, names) in [
            (&[64.0, 64.0][..], &[][..], "64 follows 64"),
            (&[0.5, 0.25], &[], "0.25 follows 0.5"),
            (&[0.5, 64.0], &[], "[128, 64, 256]"),
            (&[64.0, 0.25], &[], "[64, 64, 256]"),
            (&[0.001], &[], "[0, 256]"),
            (&[16.0, 512.0], &[], "has 512, but `num_latents` is 256"),
            (&[1.5], &[], "got 1.5"),
            (&[0.0], &[], "got 0"),
            (&[f64::NAN], &[], "got NaN"),
            (&[f64::INFINITY], &[], "got inf"),
            (&[64.0], &[1.0], "`matryoshka_widths`"),
            (&[64.0, 256.0], &[1.0; 3], "`matryoshka_widths`"),
            (&[64.0], &[1.0, -1.0], "not negative"),
            (&[64.0], &[0.0, 0.0], "not all 0"),
            (&[64.0], &[1.0, 0.0], "above 0"),
        ] {
            let problem = problem(widths, weights);
            assert!(
                problem.contains("setting `matryoshka_w") && problem.contains(names),
                "{problem}"
            );
        }
        let too_many = TrainConfig {
            matryoshka_prefixes: 1025,
            ..Default::default()
        };
        let error = too_many.validate_widths().unwrap_err();
        assert_eq!(error.setting_key(), Some("matryoshka_prefixes"));
    }
}
