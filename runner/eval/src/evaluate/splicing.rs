//! Passes with what SAEs compute in place of the outputs of their hookpoints.
//!
//! - One hookpoint: what the SAE makes of the activations there, which nothing before it has changed.
//! - A crosscoder: what it makes of the clean activations, at all its hookpoints.
//! - The layers of a cross-layer transcoder: at each hookpoint the sum of what the layers up to there write, from inputs
//!   that earlier replacements have changed. FVU and latents are those of the clean inputs.

use super::Subject;
use super::batch::Kept;
use super::clean::CleanPass;
use super::replacement::{select, spliced};
use super::sums::{SaeSums, output};
use crate::EvalError;
use crate::models::{AllTaps, Facts};
use crate::sites::{Site, taps_of};
use lm::{Activations, ModulePass};
use std::collections::VecDeque;
use tch::{Kind, Tensor};

/// Models and SAEs to put into them.
#[derive(Debug)]
pub(super) struct Splicing<'a> {
    subjects: &'a [Subject],
}

/// The clean pass, and which tokens of it count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clean<'a> {
    pub(super) pass: &'a CleanPass<'a>,
    pub(super) kept: &'a Kept,
}

impl<'a> Splicing<'a> {
    pub(super) fn new(subjects: &'a [Subject]) -> Self {
        Self { subjects }
    }

    /// Taps on what SAEs of several hookpoints take and reconstruct; `None`: there is no such SAE.
    pub(super) fn taps(&self, facts: &Facts) -> Result<Option<AllTaps>, EvalError> {
        let sites = self.subjects.iter();
        let sites = sites.filter(|subject| subject.is_of_several());
        let sites: Vec<&Site> = sites.map(|subject| &subject.site).collect();
        let taps = (!sites.is_empty()).then(|| taps_of(facts, &sites));
        taps.transpose()
    }

    /// The logits of each model with the outputs of `saes`, by their index, in it: one of them, or the layers of a
    /// cross-layer transcoder. Adds to `sums`, which has all SAEs.
    pub(super) fn logits(
        &self,
        clean: &Clean<'_>,
        saes: &[usize],
        sums: &mut [SaeSums],
    ) -> Result<Vec<(usize, Tensor)>, EvalError> {
        match saes {
            [one] if self.subjects[*one].site.writes.len() == 1 => {
                self.at_one(clean, &self.subjects[*one], &mut sums[*one])
            }
            [one] => self.at_several(clean, &self.subjects[*one], &mut sums[*one]),
            layers => {
                self.add_layers(clean, layers, sums)?;
                self.of_layers(clean, layers)
            }
        }
    }

    fn at_one(
        &self,
        clean: &Clean<'_>,
        Subject { sae, site, .. }: &Subject,
        sums: &mut SaeSums,
    ) -> Result<Vec<(usize, Tensor)>, EvalError> {
        let splice = |_, pass: ModulePass| {
            spliced(pass, clean.kept, sae.cfg.transcode, |x, y| {
                sums.reconstruct(sae, x, y)
            })
        };
        self.with(clean, site, splice)
    }

    fn at_several(
        &self,
        clean: &Clean<'_>,
        Subject { sae, site, .. }: &Subject,
        sums: &mut SaeSums,
    ) -> Result<Vec<(usize, Tensor)>, EvalError> {
        let x = counting(&site.input(clean.activations())?, clean.kept)?;
        let parts = match x.size()[0] {
            0 => Vec::new(),
            _ => sums
                .reconstruct(sae, &x, &x)?
                .f_chunk(site.writes.len() as i64, 1)?,
        };
        let splice = |index: usize, pass: ModulePass| {
            spliced(pass, clean.kept, false, |_, _| {
                Ok(parts[index].shallow_clone())
            })
        };
        self.with(clean, site, splice)
    }

    /// Adds what the layers write for the clean inputs.
    fn add_layers(
        &self,
        clean: &Clean<'_>,
        layers: &[usize],
        sums: &mut [SaeSums],
    ) -> Result<(), EvalError> {
        let mut written = Written::default();
        for sae_idx in layers {
            let Subject { sae, site, .. } = &self.subjects[*sae_idx];
            let x = counting(&site.input(clean.activations())?, clean.kept)?;
            let y = counting(&site.target(clean.activations())?, clean.kept)?;
            if x.size()[0] == 0 {
                return Ok(());
            }
            let of_layer = sums[*sae_idx].output(sae, &x)?;
            let own = written.add(&of_layer, site)?;
            sums[*sae_idx].add_error(&own, &y)?;
        }
        Ok(())
    }

    fn of_layers(
        &self,
        clean: &Clean<'_>,
        layers: &[usize],
    ) -> Result<Vec<(usize, Tensor)>, EvalError> {
        let mut written = Written::default();
        let splice = |index: usize, pass: ModulePass| {
            let Subject { sae, site, .. } = &self.subjects[layers[index]];
            spliced(pass, clean.kept, true, |x, _| {
                written.add(&output(sae, x, |_| Ok(()))?, site)
            })
        };
        self.with(clean, &self.subjects[layers[0]].site, splice)
    }

    /// The logits of each model that has an output which the SAE writes to, with these replaced.
    fn with(
        &self,
        clean: &Clean<'_>,
        site: &Site,
        splice: impl FnMut(usize, ModulePass) -> Result<Tensor, EvalError>,
    ) -> Result<Vec<(usize, Tensor)>, EvalError> {
        let names: Vec<&str> = site.writes.iter().map(String::as_str).collect();
        clean.pass.logits_with(&names, splice)
    }
}

impl Clean<'_> {
    fn activations(&self) -> &Activations {
        &self.pass.activations
    }
}

/// The rows of `x` that count, Float.
fn counting(x: &Tensor, kept: &Kept) -> Result<Tensor, EvalError> {
    Ok(select(x, kept.rows(x.size()[0]))?.f_to_kind(Kind::Float)?)
}

/// What the layers of a cross-layer transcoder have written so far, at hookpoints whose turn has not come.
#[derive(Default)]
struct Written(VecDeque<Tensor>);

impl Written {
    /// Adds the output of the next layer, and returns what all layers have written at its hookpoint.
    fn add(&mut self, of_layer: &Tensor, site: &Site) -> Result<Tensor, EvalError> {
        let parts = of_layer.f_chunk(site.writes.len() as i64, 1)?;
        for (index, part) in parts.into_iter().enumerate() {
            match self.0.get_mut(index) {
                Some(sum) => *sum = sum.f_add(&part)?,
                None => self.0.push_back(part),
            }
        }
        Ok(self
            .0
            .pop_front()
            .expect("a layer writes to its own hookpoint"))
    }
}
