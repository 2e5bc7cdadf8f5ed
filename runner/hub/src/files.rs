//! Which files of a model are needed, and which files are in the cache.

use crate::HubError;
use crate::cache::RepoCache;
use crate::download::Download;
use crate::name::is_file_name;
use crate::refusal::short;
use crate::tree::{self, RemoteFile};
use crate::words::{cut, size};
use fault::Fault;
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

const CONFIG: &str = "config.json";
const ADAPTER: &str = "adapter_config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// What is read before the weights. A commit may lack any but the first.
pub(crate) const PLANNING_FILES: [&str; 7] = [
    CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    INDEX,
];

/// Ends of the names of weights in formats that are not read.
const OTHER_WEIGHTS: [&str; 6] = [".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack"];

/// How many files are named.
const MAX_OTHERS: usize = 10;

/// A file without which planning cannot begin: it is not in the cache, and it is not known that the
/// commit lacks it. Markers say that if this program or transformers looked for it before,
/// Python's listing if the whole commit was downloaded.
pub(crate) fn unknown_planning_file(cache: &RepoCache, commit: &str) -> Option<&'static str> {
    let is_known = |file| cache.has(commit, file) || cache.is_known_absent(commit, file);
    let is_single = || cache.is_known_absent(commit, INDEX);
    let is_layout_known = cache.has(commit, INDEX)
        || cache.has(commit, WEIGHTS)
        || is_single() && !cache.is_known_absent(commit, WEIGHTS);
    match () {
        () if !cache.has(commit, CONFIG) => Some(CONFIG),
        () if !is_known(TOKENIZER) => Some(TOKENIZER),
        () if !is_known(TOKENIZER_CONFIG) => Some(TOKENIZER_CONFIG),
        () if !is_layout_known => Some(WEIGHTS),
        () => None,
    }
}

/// Checks what is there of the planning files. They are small enough to be read every time.
pub(crate) fn check_planning_files(cache: &RepoCache, commit: &str) -> Result<(), HubError> {
    let present = PLANNING_FILES.into_iter();
    let mut present = present.filter(|file| cache.has(commit, file));
    present.try_for_each(|file| cache.check(commit, file))
}

/// Downloads the planning files of a commit.
pub(crate) async fn fetch_planning_files(download: Download<'_>) -> Result<(), HubError> {
    let Download { cache, commit, .. } = download;
    let tree = tree::top_files(download.context, commit).await?;
    check_model(cache, commit, &tree)?;
    let is_wanted = |file: &RemoteFile| {
        PLANNING_FILES.contains(&file.name.as_str()) && !cache.has(commit, &file.name)
    };
    let wanted: Vec<_> = tree
        .iter()
        .filter(|file| is_wanted(file))
        .cloned()
        .collect();
    check_lengths(&download, &wanted)?;
    download.all(&wanted).await?;
    for file in PLANNING_FILES {
        if find(&tree, file).is_none() {
            cache.remember_absence(commit, file);
        }
    }
    Ok(())
}

/// Files that are read as a whole are not too long for that.
fn check_lengths(download: &Download<'_>, files: &[RemoteFile]) -> Result<(), HubError> {
    let max_bytes = download.context.settings.limits.max_planning_file_bytes;
    let Some(file) = files.iter().find(|file| file.n_bytes > max_bytes) else {
        return Ok(());
    };
    let (name, repo) = (&file.name, download.context.repo.as_str());
    let (n_bytes, most) = (size(file.n_bytes), size(max_bytes));
    let text = format!("`{name}` of `{repo}` has {n_bytes}; no more than {most} are read");
    let fault = Fault::input(text).with_hint("is it the model that you mean?");
    Err(HubError::Fault(fault))
}

/// Whether the files are those of a model that can be read.
fn check_model(cache: &RepoCache, commit: &str, tree: &[RemoteFile]) -> Result<(), HubError> {
    let repo = cache.repo().as_str();
    let has = |name: &str| find(tree, name).is_some();
    let fault = match () {
        () if !has(CONFIG) && has(ADAPTER) => {
            let text = "is a PEFT adapter (`adapter_config.json`)";
            let text = format!("`{repo}` {text} at commit {commit}, and no model");
            Fault::input(text).with_hint(format!(
                "merge it with its base model, in Python \
                 `AutoPeftModelForCausalLM.from_pretrained(\"{repo}\").merge_and_unload()\
                 .save_pretrained(FOLDER)`, and copy the tokenizer there"
            ))
        }
        () if !has(CONFIG) => {
            Fault::input(format!("`{repo}` has no config.json at commit {commit}"))
                .with_hint("a model that transformers loads has one")
        }
        () if !has(WEIGHTS) && !has(INDEX) => {
            let text = format!("`{repo}` has no weights as safetensors at commit {commit}");
            Fault::input(text).with_hint(convert_hint(tree))
        }
        () => return Ok(()),
    };
    Err(HubError::Fault(fault))
}

/// What to do with a model that has no weights as safetensors.
fn convert_hint(tree: &[RemoteFile]) -> String {
    let is_other = |name: &&str| OTHER_WEIGHTS.iter().any(|end| name.ends_with(end));
    let names = tree.iter().map(|file| file.name.as_str());
    let others: Vec<_> = names.filter(is_other).take(MAX_OTHERS).collect();
    match &others[..] {
        [] => "there are no weights in other formats either".into(),
        others => format!(
            "it has {}; load it with transformers and save it with `save_pretrained`, which writes \
             safetensors, then name that folder",
            others.join(", ")
        ),
    }
}

fn find<'a>(tree: &'a [RemoteFile], name: &str) -> Option<&'a RemoteFile> {
    tree.iter().find(|file| file.name == name)
}

/// A file of the weights that is not in the cache.
pub(crate) fn missing_weights(cache: &RepoCache, commit: &str) -> Result<Option<String>, HubError> {
    let files = match () {
        () if cache.has(commit, WEIGHTS) => BTreeSet::from([WEIGHTS.to_owned()]),
        () if cache.has(commit, INDEX) => shards(cache, commit)?,
        () => return Ok(Some(WEIGHTS.into())),
    };
    let listing = cache.listing(commit);
    for file in files {
        if !cache.has(commit, &file) {
            return Ok(Some(file));
        }
        if let Some(n_bytes) = listing.as_ref().and_then(|listing| listing.n_bytes(&file)) {
            cache.check_file_length(commit, &file, n_bytes)?;
        }
    }
    Ok(None)
}

/// Downloads the weights of a commit. As transformers, prefers the single file to shards.
pub(crate) async fn fetch_weights(download: Download<'_>) -> Result<(), HubError> {
    let Download { cache, commit, .. } = download;
    let tree = tree::top_files(download.context, commit).await?;
    check_model(cache, commit, &tree)?;
    let wanted = match (find(&tree, WEIGHTS), find(&tree, INDEX)) {
        (None, Some(index)) => {
            if !cache.has(commit, INDEX) {
                let index = std::slice::from_ref(index);
                check_lengths(&download, index)?;
                download.all(index).await?;
            }
            shards_of(cache, commit, &tree)?
        }
        (single, _) => single.into_iter().cloned().collect(),
    };
    let (present, missing): (Vec<_>, Vec<_>) = wanted
        .into_iter()
        .partition(|file| cache.has(commit, &file.name));
    for file in present {
        cache.check_file_length(commit, &file.name, file.n_bytes)?;
    }
    download.all(&missing).await
}

fn shards_of(
    cache: &RepoCache,
    commit: &str,
    tree: &[RemoteFile],
) -> Result<Vec<RemoteFile>, HubError> {
    let shards = shards(cache, commit)?.into_iter();
    let file = |shard: String| match find(tree, &shard) {
        Some(file) => Ok(file.clone()),
        None => Err(bad_shard(cache, commit, &shard)),
    };
    shards.map(file).collect()
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

/// The names in the index of the shards.
fn shards(cache: &RepoCache, commit: &str) -> Result<BTreeSet<String>, HubError> {
    let path = cache.snapshot(commit).join(INDEX);
    let text = fs::read(&path).map_err(HubError::io("read", &path))?;
    let names = shards_in(&text).map_err(|error| {
        let text = format!("`{}` is not an index of safetensors files", path.display());
        HubError::Fault(Fault::input(text).because(short(error.into())))
    })?;
    let checked = |shard: String| {
        if is_shard(&shard) {
            Ok(shard)
        } else {
            Err(bad_shard(cache, commit, &shard))
        }
    };
    names.into_iter().map(checked).collect()
}

/// The names in the text of an index, whatever they are.
pub(crate) fn shards_in(text: &[u8]) -> serde_json::Result<BTreeSet<String>> {
    let index: Index = files::from_json(text)?;
    Ok(index.weight_map.into_values().collect())
}

/// A name from elsewhere could lead anywhere on the machine.
fn is_shard(name: &str) -> bool {
    let extension = Path::new(name).extension();
    is_file_name(name) && extension.is_some_and(|extension| extension == "safetensors")
}

/// An index that names a file elsewhere, or one that is not there.
fn bad_shard(cache: &RepoCache, commit: &str, shard: &str) -> HubError {
    let (repo, path) = (cache.repo().as_str(), cache.snapshot(commit).join(INDEX));
    let (path, shard) = (path.display(), cut(shard));
    HubError::Fault(Fault::input(format!(
        "`{path}` names the file `{shard}`, which `{repo}` does not have"
    )))
}
