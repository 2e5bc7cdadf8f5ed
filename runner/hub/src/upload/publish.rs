//! An upload from its first question to its commit.

use super::commit::{self, Outcome};
use super::local::{self, Local};
use super::progress::UploadStep;
use super::publisher::Publisher;
use super::target::{self, Target};
use super::{UploadPlan, UploadSource, Uploaded, lfs};
use crate::HubError;
use fault::Fault;
use std::collections::BTreeSet;

/// How often to start again because others have committed meanwhile.
const MAX_ATTEMPTS: u32 = 4;

/// Longest file in the text of a commit, as on the Hub.
const MAX_SMALL_BYTES: u64 = 10 << 20;

/// What would be done.
pub(super) async fn plan(publisher: &Publisher<'_>) -> Result<UploadPlan, HubError> {
    let locals = hash(publisher)?;
    let target = target::find(publisher).await?;
    let changed = target::changed_files(publisher, &locals, target.parent()).await?;
    let files = locals.iter().zip(changed);
    Ok(UploadPlan {
        repo: publisher.repo().into(),
        branch: publisher.branch.into(),
        page: page(publisher),
        parent: target.parent().map(str::to_owned),
        makes_repo: matches!(target, Target::NoRepo),
        makes_branch: match &target {
            Target::NoRepo => publisher.branch != "main",
            Target::NoBranch { .. } => true,
            Target::Branch { .. } => false,
        },
        is_compared: true,
        files: files.map(|(file, is_new)| file.report(is_new)).collect(),
    })
}

/// The same without asking.
pub(super) fn plan_alone(publisher: &Publisher<'_>) -> Result<UploadPlan, HubError> {
    let files = hash(publisher)?;
    Ok(UploadPlan {
        repo: publisher.repo().into(),
        branch: publisher.branch.into(),
        page: page(publisher),
        parent: None,
        makes_repo: false,
        makes_branch: false,
        is_compared: false,
        files: files.iter().map(|file| file.report(true)).collect(),
    })
}

/// Does it.
pub(super) async fn publish(publisher: &Publisher<'_>) -> Result<Uploaded, HubError> {
    let locals = hash(publisher)?;
    let mut arrived = BTreeSet::new();
    let mut is_new_repo = false;
    for _ in 0..MAX_ATTEMPTS {
        let (parent, was_made) = target::make(publisher).await?;
        is_new_repo |= was_made;
        let changed = target::changed_files(publisher, &locals, Some(&parent)).await?;
        let files = locals.iter().zip(&changed);
        let new = files.filter_map(|(file, is_new)| is_new.then_some(file));
        let new: Vec<_> = new.collect();
        let outcome = if new.is_empty() {
            Outcome::Made(parent)
        } else {
            send(publisher, &new, &parent, &mut arrived).await?
        };
        if let Outcome::Made(commit) = outcome {
            let is_new_commit = !new.is_empty();
            let files = locals.iter().zip(changed);
            let files = files.map(|(file, is_new)| file.report(is_new));
            return Ok(Uploaded {
                repo: publisher.repo().into(),
                branch: publisher.branch.into(),
                page: page(publisher),
                commit,
                is_new_commit,
                is_new_repo,
                files: files.collect(),
            });
        }
    }
    Err(overtaken(publisher))
}

/// Others committed all the time.
fn overtaken(publisher: &Publisher<'_>) -> HubError {
    let (branch, repo) = (publisher.branch, publisher.repo());
    let text =
        format!("`{branch}` of `{repo}` was changed by others, {MAX_ATTEMPTS} times in a row");
    let hint = "run it again, or upload to another branch";
    HubError::Fault(Fault::input(text).with_hint(hint))
}

/// Sends files and makes the commit. `arrived`: the hashes of large files that are at the Hub.
async fn send(
    publisher: &Publisher<'_>,
    files: &[&Local<'_>],
    parent: &str,
    arrived: &mut BTreeSet<String>,
) -> Result<Outcome, HubError> {
    let (mut large, mut small) = (Vec::new(), Vec::new());
    for (&file, is_large) in files.iter().zip(target::modes(publisher, files).await?) {
        if is_large {
            large.push(file);
        } else if file.n_bytes > MAX_SMALL_BYTES {
            return Err(too_large(publisher, file));
        } else {
            small.push(file);
        }
    }
    let mut missing = Vec::new();
    for file in &large {
        if arrived.insert(file.sha256.clone()) {
            missing.push(*file);
        }
    }
    if !missing.is_empty() {
        lfs::send(publisher, &missing).await?;
    }
    commit::commit(publisher, &small, &large, parent).await
}

/// A large file that the Hub wants in the text of a commit.
fn too_large(publisher: &Publisher<'_>, file: &Local<'_>) -> HubError {
    let Local { path, n_bytes, .. } = file;
    let repo = publisher.repo();
    HubError::Refused(Fault::input(format!(
        "`{repo}` takes `{path}` only as a small file, and it has {n_bytes} bytes"
    )))
}

fn page(publisher: &Publisher<'_>) -> String {
    let context = &publisher.context;
    context.repo.page(&context.settings.endpoint)
}

fn hash<'a>(publisher: &Publisher<'a>) -> Result<Vec<Local<'a>>, HubError> {
    let files = &publisher.upload.files;
    let length = |source: &UploadSource| match source {
        UploadSource::Bytes(bytes) => bytes.len() as u64,
        UploadSource::File(path) => path.metadata().map_or(0, |file| file.len()),
    };
    let lengths = files.iter().map(|file| length(&file.source));
    publisher.begin(UploadStep::Hashing, lengths);
    local::hash_all(files, &|event| publisher.tell(event))
}
