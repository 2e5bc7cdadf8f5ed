//! How often latents fire, as counts of latents in bins of log10 of the firing density.

use crate::show::table;
use std::path::Path;

/// Density of the lower edge of the first bin, as log10. Below it are only latents that fired on less than
/// one of 100 million tokens.
pub(super) const FIRST_LOG10: f64 = -8.0;
/// Bins per factor of ten.
pub(super) const BINS_PER_DECADE: u32 = 4;
/// Up to a density of 1.
const N_BINS: usize = 8 * BINS_PER_DECADE as usize;

/// The counts of the bins of a density file. `None`, with a remark, if it cannot be read.
pub(super) fn read(path: &Path) -> Option<Vec<u32>> {
    match sae_files::read_density(path) {
        Ok(density) => Some(bins(&density)),
        Err(error) => {
            table::note(&format!("left out: {}", fault::message_chain(&error)));
            None
        }
    }
}

/// Latents that fired, by density; those that never did are in no bin.
fn bins(density: &[f32]) -> Vec<u32> {
    let mut bins = vec![0; N_BINS];
    for &density in density.iter().filter(|&&density| density > 0.0) {
        let index = (f64::from(density).log10() - FIRST_LOG10) * f64::from(BINS_PER_DECADE);
        // Saturating: what is below or above goes into the outermost bins.
        bins[(index as usize).min(N_BINS - 1)] += 1;
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latent_is_in_the_bin_of_its_density() {
        let bins = bins(&[0.0, f32::NAN, 1e-20, 0.0011, 0.0012, 0.5, 1.0]);
        let filled: Vec<_> = bins.iter().enumerate().filter(|(_, n)| **n > 0).collect();
        assert_eq!(filled, [(0, &1), (20, &2), (30, &1), (31, &1)]);
    }
}
