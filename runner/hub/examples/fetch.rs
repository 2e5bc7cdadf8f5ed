//! Brings a model into the shared cache and prints its folder: `fetch ID [REVISION]`.

use sae_run_hub::{Hub, Progress};
use std::error::Error;

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example talks"
)]
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let repo = arguments.next().ok_or("which model?")?;
    let hub = Hub::from_env()?;
    let snapshot = hub.model_files(&repo, arguments.next().as_deref())?;
    if let Some(notice) = &snapshot.notice {
        eprintln!("{notice}");
    }
    let mut percent = 0;
    let mut show = |progress: Progress| {
        let now = progress.done_bytes * 100 / progress.total_bytes.max(1);
        if now > std::mem::replace(&mut percent, now) {
            eprintln!("{now} %");
        }
    };
    hub.download_weights(&snapshot, &mut show)?;
    println!("{}", snapshot.dir.display());
    Ok(())
}
