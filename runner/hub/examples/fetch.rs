//! Brings a model or a whole data set into the shared cache and prints its folder:
//! `fetch [datasets/]ID [REVISION]`.

use sae_run_hub::{Hub, HubError, Notice, Progress};
use std::error::Error;
use std::path::PathBuf;

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example talks"
)]
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let repo = arguments.next().ok_or("which model or data set?")?;
    let revision = arguments.next();
    let hub = Hub::from_env()?;
    let mut percent = 0;
    let mut show = |progress: Progress| {
        let now = progress.done_bytes * 100 / progress.total_bytes.max(1);
        if now > std::mem::replace(&mut percent, now) {
            eprintln!("{now} %");
        }
    };
    let (dir, notice) = match repo.strip_prefix("datasets/") {
        Some(id) => dataset(&hub, id, revision.as_deref(), &mut show)?,
        None => model(&hub, &repo, revision.as_deref(), &mut show)?,
    };
    if let Some(notice) = notice {
        eprintln!("{notice}");
    }
    println!("{}", dir.display());
    Ok(())
}

type Fetched = Result<(PathBuf, Option<Notice>), HubError>;

fn model(hub: &Hub, id: &str, revision: Option<&str>, show: &mut dyn FnMut(Progress)) -> Fetched {
    let snapshot = hub.model_files(id, revision)?;
    hub.download_weights(&snapshot, show)?;
    Ok((snapshot.dir, snapshot.notice))
}

fn dataset(hub: &Hub, id: &str, revision: Option<&str>, show: &mut dyn FnMut(Progress)) -> Fetched {
    let listing = hub.dataset_listing(id, revision)?;
    let names = listing.files.iter().map(|file| file.name.clone());
    hub.download_dataset_files(&listing, &names.collect::<Vec<_>>(), show)?;
    Ok((listing.dir, listing.notice))
}
