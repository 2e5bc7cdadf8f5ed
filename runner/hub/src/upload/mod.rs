//! Files on their way to the Hub: one commit with those that are not there yet.

mod commit;
mod lfs;
mod local;
mod progress;
mod publish;
mod publisher;
mod put;
mod target;
mod xet;

pub use progress::{UploadProgress, UploadStep};

use crate::context::Context;
use crate::name::{RepoId, Revision};
use crate::{Hub, HubError, RepoKind, task};
use fault::Fault;
use progress::Tally;
use publisher::Publisher;
use std::path::PathBuf;
use std::sync::mpsc::Sender;

/// What is to be at the Hub, and where.
#[derive(Clone, Debug, Default)]
pub struct Upload {
    /// Id of the model, `owner/name`. It is made if it is missing.
    pub repo: String,
    /// Branch; `None`: `main`. It is made from `main` if it is missing.
    pub branch: Option<String>,
    /// Whether a model that is made here is private. One that is there stays as it is.
    pub private: bool,
    /// The files. Others that the branch has stay.
    pub files: Vec<UploadFile>,
    /// Title of the commit. The Hub takes no commit without a title.
    pub title: String,
    /// Further text of the commit.
    pub description: String,
}

/// A file to upload.
#[derive(Clone, Debug)]
pub struct UploadFile {
    /// Its path in the repository, with `/` between the parts.
    pub path: String,
    /// What it holds.
    pub source: UploadSource,
}

/// What a file to upload holds.
#[derive(Clone, Debug)]
pub enum UploadSource {
    /// What a file of this machine holds. It is read in pieces.
    File(PathBuf),
    /// This.
    Bytes(Vec<u8>),
}

/// What an upload would do.
#[derive(Clone, Debug)]
pub struct UploadPlan {
    /// Id of the model.
    pub repo: String,
    /// Branch.
    pub branch: String,
    /// Address of the model's page.
    pub page: String,
    /// The last commit of the branch, or the one of `main` on which it would begin; `None`: there
    /// is no such model yet.
    pub parent: Option<String>,
    /// Whether the model would be made.
    pub makes_repo: bool,
    /// Whether the branch would be made.
    pub makes_branch: bool,
    /// Whether the Hub was asked; if not, nothing is known of what it has, and all files count as new.
    pub is_compared: bool,
    /// The files, in the order of the [`Upload`].
    pub files: Vec<FileUpload>,
}

/// What an upload did.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// Id of the model.
    pub repo: String,
    /// Branch.
    pub branch: String,
    /// Address of the model's page.
    pub page: String,
    /// The commit of the branch that has all the files: 40 hexadecimal digits.
    pub commit: String,
    /// Whether that commit was made for it; if not, all was there.
    pub is_new_commit: bool,
    /// Whether the model was made for it.
    pub is_new_repo: bool,
    /// The files, in the order of the [`Upload`].
    pub files: Vec<FileUpload>,
}

/// What becomes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileUpload {
    /// Its path in the repository.
    pub path: String,
    /// Its length, in bytes.
    pub n_bytes: u64,
    /// Its SHA-256, in small hexadecimal digits.
    pub sha256: String,
    /// Whether it is in the new commit; if not, the branch had the same.
    pub is_new: bool,
}

impl Hub {
    /// What [`Hub::upload`] would do. Only asks: nothing is made or sent.
    ///
    /// # Errors
    /// As [`Hub::upload`], as far as they show without writing. A token is not needed for what all
    /// may see.
    pub fn plan_upload(
        &self,
        upload: &Upload,
        progress: &mut dyn FnMut(UploadProgress),
    ) -> Result<UploadPlan, HubError> {
        self.refuse_offline(upload)?;
        self.with_publisher(upload, progress, async |publisher| {
            publish::plan(&publisher).await
        })
    }

    /// The same as if the Hub had none of the files. Asks nothing, and needs no network.
    ///
    /// # Errors
    /// An id or paths that no repository can have, or a file that cannot be read.
    pub fn plan_upload_alone(
        &self,
        upload: &Upload,
        progress: &mut dyn FnMut(UploadProgress),
    ) -> Result<UploadPlan, HubError> {
        self.with_publisher(upload, progress, async |publisher| {
            publish::plan_alone(&publisher)
        })
    }

    /// Makes one commit of what the branch does not have yet: files that are there with the same
    /// hash are not sent. Nothing to send, no commit. `progress` is called on this thread.
    ///
    /// What was interrupted is resumed when it is run again: large files that have arrived are not
    /// sent twice. A commit whose answer was lost is looked for, not repeated. When others commit at
    /// the same time, what they did stays, and it is compared again.
    ///
    /// # Errors
    /// No token, or one that may not write; a name that is taken by something else; paths that no
    /// repository can have; a file that cannot be read, or changes meanwhile; what the Hub refuses;
    /// no network.
    pub fn upload(
        &self,
        upload: &Upload,
        progress: &mut dyn FnMut(UploadProgress),
    ) -> Result<Uploaded, HubError> {
        if self.settings().token.is_none() && !self.settings().offline {
            let text = format!(
                "uploading to `{}` needs a token, and no token is set",
                upload.repo
            );
            let hint = "log in with `hf auth login`, or set `HF_TOKEN`";
            return Err(HubError::Fault(Fault::input(text).with_hint(hint)));
        }
        self.refuse_offline(upload)?;
        self.with_publisher(upload, progress, async |publisher| {
            publish::publish(&publisher).await
        })
    }

    fn refuse_offline(&self, upload: &Upload) -> Result<(), HubError> {
        if !self.settings().offline {
            return Ok(());
        }
        let text = format!("offline, so nothing can be uploaded to `{}`", upload.repo);
        let fault = Fault::input(text).with_hint("unset `HF_HUB_OFFLINE`");
        Err(HubError::Fault(fault))
    }

    fn with_publisher<T: Send>(
        &self,
        upload: &Upload,
        progress: &mut dyn FnMut(UploadProgress),
        work: impl AsyncFnOnce(Publisher<'_>) -> Result<T, HubError> + Send,
    ) -> Result<T, HubError> {
        let repo = RepoId::parse(RepoKind::Model, &upload.repo)?;
        if !repo.as_str().contains('/') {
            let fault = Fault::input(format!("`{}` does not say who owns it", upload.repo));
            let hint = "ids of your own repositories look like `owner/name`";
            return Err(HubError::Fault(fault.with_hint(hint)));
        }
        let branch = branch(&repo, upload.branch.as_deref())?;
        local::check_paths(&upload.files)?;
        let (settings, waits) = (self.settings(), self.waits());
        let mut tally = Tally::default();
        task::block_on(
            async |events: Sender<_>| {
                let context = Context::new(settings, waits, &repo)?;
                work(Publisher::new(context, &branch, upload, events)?).await
            },
            |event| progress(tally.add(event)),
        )
    }
}

fn branch(repo: &RepoId, name: Option<&str>) -> Result<String, HubError> {
    match Revision::parse(repo, name)? {
        Revision::Name(name) => Ok(name),
        Revision::Commit(commit) => {
            let repo = repo.as_str();
            let text = format!("`{commit}` of `{repo}` is a commit, to which nothing can be added");
            let hint = "name a branch; it is created if it is missing";
            Err(HubError::Fault(Fault::input(text).with_hint(hint)))
        }
    }
}
