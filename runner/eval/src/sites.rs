//! Where in a language model an SAE belongs: whose activations it takes, and whose it gives.

use crate::EvalError;
use crate::models::{AllTaps, Facts};
use fault::Fault;
use lm::{Activations, rows, side_by_side};
use plan::HookpointFacts;
use sae::{LoadOptions, Sae};
use std::path::Path;
use tch::Tensor;

/// Where an SAE belongs. Of several hookpoints, activations are side by side: the columns of one after the other's.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// What it takes activations of.
    reads: Vec<String>,
    /// Whether these are inputs, as transcoders take them, and not outputs.
    of_inputs: bool,
    /// Whose outputs it gives: a cross-layer transcoder's own hookpoint, then later ones.
    pub(crate) writes: Vec<String>,
}

impl Site {
    /// The hookpoint, or hookpoints, by their names in the model.
    pub(crate) fn name(&self) -> String {
        self.reads.join("+")
    }

    fn reads(&self) -> impl Iterator<Item = &str> {
        self.reads.iter().map(String::as_str)
    }

    /// What the SAE takes: `[n_rows, d_in]`, in what the model computes in.
    pub(crate) fn input(&self, activations: &Activations) -> Result<Tensor, EvalError> {
        if self.of_inputs {
            gathered(&self.reads, |name| activations.input(name))
        } else {
            gathered(&self.reads, |name| activations.get(name))
        }
    }

    /// The outputs of the same hookpoints, which it reconstructs, in what the model computes in.
    pub(crate) fn target(&self, activations: &Activations) -> Result<Tensor, EvalError> {
        gathered(&self.reads, |name| activations.get(name))
    }
}

fn gathered<'a>(
    names: &[String],
    get: impl Fn(&str) -> Option<&'a Tensor>,
) -> Result<Tensor, EvalError> {
    let of_hookpoint = |name: &String| rows(get(name).expect("every hookpoint is tapped"));
    let all = names.iter().map(of_hookpoint);
    Ok(side_by_side(names, &all.collect::<Result<Vec<_>, _>>()?)?)
}

/// Taps on what the SAEs at `sites` take.
///
/// # Errors
/// A hookpoint that the model does not have.
pub(crate) fn taps_of_inputs(facts: &Facts, sites: &[&Site]) -> Result<AllTaps, EvalError> {
    facts.taps(&read_by(sites, false), &read_by(sites, true))
}

/// The same, and taps on what they reconstruct.
///
/// # Errors
/// A hookpoint that the model does not have.
pub(crate) fn taps_of(facts: &Facts, sites: &[&Site]) -> Result<AllTaps, EvalError> {
    let outputs: Vec<&str> = sites.iter().flat_map(|site| site.reads()).collect();
    facts.taps(&outputs, &read_by(sites, true))
}

/// The hookpoints whose inputs, or outputs, the SAEs at `sites` take.
fn read_by<'a>(sites: &[&'a Site], inputs: bool) -> Vec<&'a str> {
    let sites = sites.iter().filter(|site| site.of_inputs == inputs);
    sites.flat_map(|site| site.reads()).collect()
}

/// The SAE in `dir`, and where it belongs. `name`: its hookpoint, Hugging Face's name or TransformerLens's; those of
/// several are in its files.
///
/// # Errors
/// An SAE that cannot be read or does not fit; no such hookpoint: the error names the nearest.
pub(crate) fn load(
    facts: &Facts,
    name: &str,
    dir: &Path,
    options: &LoadOptions,
) -> Result<(Sae, Site), EvalError> {
    let sae = Sae::load_from_disk(dir, options.clone())?;
    let named = |names: &[String]| {
        let all = names.iter().map(|name| facts.find(name));
        all.collect::<Result<Vec<HookpointFacts>, _>>()
    };
    let of_several = &sae.cfg.hookpoints;
    let own = [name.to_owned()];
    let reads = named(if sae.cfg.is_crosscoder() {
        of_several
    } else {
        &own
    })?;
    let writes = if of_several.is_empty() {
        reads.clone()
    } else {
        named(of_several)?
    };
    check_widths(dir, &sae, (&reads, &writes))?;
    let names = |all: &[HookpointFacts]| all.iter().map(|own| own.name.clone()).collect();
    let site = Site {
        reads: names(&reads),
        of_inputs: sae.cfg.transcode,
        writes: names(&writes),
    };
    Ok((sae, site))
}

/// Checks that the SAE in `dir` fits its hookpoints: an SAE takes their outputs, a transcoder an input; both give
/// outputs.
fn check_widths(
    dir: &Path,
    sae: &Sae,
    (reads, writes): (&[HookpointFacts], &[HookpointFacts]),
) -> Result<(), EvalError> {
    let width = |all: &[HookpointFacts]| all.iter().map(|own| own.d_out).sum::<usize>();
    let d_in = if sae.cfg.transcode {
        reads.iter().map(|own| own.d_in.unwrap_or(0)).sum()
    } else {
        width(reads)
    };
    let got = (sae.cfg.d_in, sae.b_dec.size()[0] as usize);
    let expected = (d_in, width(writes));
    if got == expected {
        return Ok(());
    }
    let names: Vec<&str> = writes.iter().map(|own| &*own.name).collect();
    let message = format!(
        "the SAE in `{}` has widths {got:?}, in and out, `{}` of the model needs {expected:?}",
        dir.display(),
        names.join("+")
    );
    let hint = "it was trained on another model, or at another hookpoint";
    Err(Fault::input(message).with_hint(hint).into())
}
