//! Large files by git's LFS protocol: the Hub says where to put them, in one piece or in parts (see put.rs), and is
//! informed when they are there. If it would rather have them in its Xet store, see xet.rs.

use super::local::Local;
use super::progress::{Event, UploadStep};
use super::publisher::Publisher;
use super::put::{self, Action, Failure};
use super::xet;
use crate::HubError;
use crate::retry::{Tried, retry};
use fault::Fault;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::json;

/// Files in one question about where to put them.
const OBJECTS_AT_ONCE: usize = 100;

/// Files under way at the same time.
const MAX_PARALLEL: usize = 4;

#[derive(Deserialize)]
struct Batch {
    transfer: Option<String>,
    #[serde(default)]
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
    /// `None`: it is there.
    actions: Option<Actions>,
    error: Option<ObjectError>,
}

#[derive(Deserialize)]
struct ObjectError {
    code: u16,
    message: String,
}

#[derive(Deserialize)]
struct Actions {
    upload: Option<Action>,
    verify: Option<Action>,
}

/// Sends files, no two with the same content, in the way that the Hub wants.
pub(super) async fn send(publisher: &Publisher<'_>, files: &[&Local<'_>]) -> Result<(), HubError> {
    publisher.begin(UploadStep::Sending, files.iter().map(|file| file.n_bytes));
    let mut of_xet = Vec::new();
    for (nth, chunk) in files.chunks(OBJECTS_AT_ONCE).enumerate() {
        let first = nth * OBJECTS_AT_ONCE;
        let mut batch = ask(publisher, chunk).await?;
        match batch.transfer.as_deref() {
            Some("xet") => of_xet.extend_from_slice(chunk),
            None | Some("basic" | "multipart") => {
                let mut sent = Vec::new();
                for (nth, &file) in chunk.iter().enumerate() {
                    let object = batch.take(file);
                    sent.push(send_object(publisher, (first + nth, file), object));
                }
                let sent = stream::iter(sent).buffer_unordered(MAX_PARALLEL);
                sent.try_collect::<()>().await?;
            }
            Some(transfer) => return Err(unknown_transfer(publisher, transfer)),
        }
    }
    if of_xet.is_empty() {
        Ok(())
    } else {
        xet::send(publisher, &of_xet).await
    }
}

fn unknown_transfer(publisher: &Publisher<'_>, transfer: &str) -> HubError {
    let transfer: String = transfer.escape_default().take(40).collect();
    let fault = Fault::input(format!(
        "`{}` takes large files only by `{transfer}`, which is not known here",
        publisher.repo()
    ));
    HubError::Fault(fault.with_hint("is there a newer version of this program?"))
}

impl Batch {
    fn take(&mut self, file: &Local<'_>) -> Option<Object> {
        let mut objects = self.objects.iter();
        let index = objects.position(|object| object.oid.eq_ignore_ascii_case(&file.sha256))?;
        Some(self.objects.swap_remove(index))
    }
}

/// Asks where to put files.
async fn ask(publisher: &Publisher<'_>, files: &[&Local<'_>]) -> Result<Batch, HubError> {
    let (owner, name) = publisher.owner_and_name();
    let git = format!("{name}.git");
    let parts = [owner, &git, "info", "lfs", "objects", "batch"];
    let url = publisher.context.url(&parts);
    let object = |file: &&Local<'_>| json!({"oid": file.sha256, "size": file.n_bytes});
    let objects: Vec<_> = files.iter().map(object).collect();
    let body = json!({
        "operation": "upload", "transfers": ["basic", "multipart", "xet"],
        "objects": objects, "hash_algo": "sha256", "ref": {"name": publisher.branch},
    });
    let answer = publisher.post_as(&url, &body, put::LFS_JSON).await?;
    publisher.accepted(&answer, "large files")?;
    publisher.read(&answer)
}

/// Sends a file by its index, and asks for new addresses when they end before it is there.
async fn send_object(
    publisher: &Publisher<'_>,
    (index, file): (usize, &Local<'_>),
    object: Option<Object>,
) -> Result<(), HubError> {
    let mut told = Some(object);
    let attempt = async || match try_object(publisher, (index, file), told.take()).await {
        Err(Failure::Expired(error)) => Tried::Again {
            outcome: Err(error),
            wait: None,
        },
        Err(Failure::Other(error)) => Tried::Done(Err(error)),
        Ok(()) => Tried::Done(Ok(())),
    };
    let sent = retry(&publisher.context, attempt).await;
    sent.map_err(|error| blamed(file, error))?;
    publisher.tell(Event::Done(index));
    Ok(())
}

/// A refusal may be because the bytes are not those that were promised.
fn blamed(file: &Local<'_>, error: HubError) -> HubError {
    match error {
        HubError::Refused(_) | HubError::HubFails(_) if !file.is_unchanged() => file.changed(),
        error => error,
    }
}

/// `told`: where to put the file; `None`: the Hub is to be asked again.
async fn try_object(
    publisher: &Publisher<'_>,
    (index, file): (usize, &Local<'_>),
    told: Option<Option<Object>>,
) -> Result<(), Failure> {
    let object = match told {
        Some(object) => object,
        None => ask(publisher, &[file]).await?.take(file),
    };
    let object = object.ok_or_else(|| publisher.odd("it leaves out a large file"))?;
    let what = format!("`{}`", file.path);
    if let Some(ObjectError { code, message }) = object.error {
        return Err(publisher.refused_with(code, &what, &message).into());
    }
    let Some(actions) = object.actions else {
        return Ok(());
    };
    if let Some(upload) = &actions.upload {
        put::put(publisher, (index, file), upload).await?;
    }
    let Some(verify) = &actions.verify else {
        return Ok(());
    };
    let url = put::address(publisher, &verify.href)?;
    let body = json!({"oid": file.sha256, "size": file.n_bytes});
    let answer = publisher.post_as(&url, &body, put::LFS_JSON).await?;
    Ok(publisher.accepted(&answer, &what)?)
}
