//! Whether the files of a model have its tensors, by their headers alone.

use crate::FactsError;
use crate::architecture::ModelConfig;
use crate::config::ConfigFile;
use crate::layout::{LM_HEAD, Layout, TensorSpec};
use crate::weights::{Weights, safetensors_files};
use plan::Dtype;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Buffers that older versions of transformers saved with the weights: ends of tensor names.
const OLD_BUFFERS: &[&str] = &[
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
    ".rotary_emb.inv_freq",
];

/// Checks by the headers of the safetensors files that the tensors of the first `n_layers` blocks
/// are there, with the shapes that `config` wants and in a dtype that is read. No tensor is loaded.
/// Gives the names of tensors that do not belong to such a model, in order.
///
/// # Errors
/// The first file that cannot be read, or tensor that is missing or wrong.
pub(crate) fn check_weights(
    model_dir: &Path,
    config: &ModelConfig,
    n_layers: usize,
) -> Result<Vec<String>, FactsError> {
    let layout = config.layout();
    let mut weights = Weights::open(model_dir)?;
    let prefix = base_prefix(&weights, &layout);
    for spec in layout.tensors(n_layers) {
        weights.check(&prefixed(prefix, spec))?;
    }
    Ok(unexpected(&weights, &layout, prefix))
}

/// Checks by the headers of the safetensors files that the model in `model_dir` has a head, for
/// logits.
///
/// # Errors
/// A head that is missing or has another shape than `config` says.
pub(crate) fn check_head(model_dir: &Path, config: &ModelConfig) -> Result<(), FactsError> {
    let layout = config.layout();
    let mut weights = Weights::open(model_dir)?;
    match head_names(&layout).find(|name| weights.has(name)) {
        None if layout.tied_head => Ok(()),
        in_file => weights
            .check(&head_spec(&layout, in_file))
            .map_err(FactsError::of_head),
    }
}

/// The head's tensor, which is called `in_file` if the files have one.
pub fn head_spec(layout: &Layout, in_file: Option<&str>) -> TensorSpec {
    TensorSpec {
        name: in_file.unwrap_or(layout.head_name).into(),
        shape: vec![layout.vocab_size, layout.hidden_size],
    }
}

fn unexpected(weights: &Weights, layout: &Layout, prefix: &str) -> Vec<String> {
    let all = layout.tensors(layout.n_layers).into_iter();
    let mut known: BTreeSet<String> = all.map(|spec| prefixed(prefix, spec).name).collect();
    known.extend(head_names(layout).map(str::to_owned));
    let is_old_buffer = |name: &str| OLD_BUFFERS.iter().any(|end| name.ends_with(end));
    let names = weights.names().into_iter();
    let other_parts = layout.within.map_or(&[][..], |within| within.other_parts);
    let is_of_another = |name: &str| other_parts.iter().any(|part| name.starts_with(part));
    names
        .filter(|name| !known.contains(name) && !is_old_buffer(name) && !is_of_another(name))
        .collect()
}

/// What the head's weight may be called.
pub fn head_names(layout: &Layout) -> impl Iterator<Item = &'static str> {
    let within = layout.within.map_or(&[][..], |within| within.head_names);
    let names = [layout.head_name, LM_HEAD].into_iter();
    names.chain(within.iter().copied())
}

/// The files that make a model what it is: config.json and the safetensors files, with the index
/// if there are shards. For content digests.
///
/// # Errors
/// A missing folder or config.json, a folder without safetensors files, a broken index, or a shard
/// that is not there.
pub fn weight_files(model_dir: &Path) -> Result<Vec<PathBuf>, FactsError> {
    ConfigFile::read(model_dir)?;
    let mut files = vec![model_dir.join("config.json")];
    files.extend(safetensors_files(model_dir)?);
    Ok(files)
}

/// The dtype in which the table of the token embedding is stored.
///
/// # Errors
/// A file that cannot be read, or a table that is missing or wrong.
pub fn embedding_dtype(model_dir: &Path, config: &ModelConfig) -> Result<Dtype, FactsError> {
    let layout = config.layout();
    let mut weights = Weights::open(model_dir)?;
    let table = layout.tensors(0).swap_remove(0);
    weights.stored_dtype(&prefixed(base_prefix(&weights, &layout), table))
}

/// The prefix of the names of the base model's tensors: empty if the base model was saved without its
/// head, longer if it is the text part of a larger one.
pub fn base_prefix(weights: &Weights, layout: &Layout) -> &'static str {
    let within = layout.within.map_or(&[][..], |within| within.text_prefixes);
    let has_embedding =
        |prefix: &&str| weights.has(&format!("{prefix}{}.weight", layout.embedding_name));
    let prefixes = ["", layout.base_prefix].into_iter();
    let mut prefixes = prefixes.chain(within.iter().copied());
    prefixes.find(has_embedding).unwrap_or(layout.base_prefix)
}

/// The same tensor with `prefix` before its name.
pub fn prefixed(prefix: &str, spec: TensorSpec) -> TensorSpec {
    TensorSpec {
        name: format!("{prefix}{}", spec.name),
        ..spec
    }
}
