//! Uploads a folder as a model, and prints the commit: `publish [--dry-run] OWNER/NAME[@BRANCH]
//! FOLDER`.

use sae_run_hub::{FileUpload, Hub, Upload, UploadFile, UploadProgress, UploadSource};
use std::error::Error;
use std::path::Path;

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example talks"
)]
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<_> = std::env::args().skip(1).collect();
    let is_dry = arguments.first().is_some_and(|first| first == "--dry-run");
    let [repo, folder] = &arguments.split_off(usize::from(is_dry))[..] else {
        return Err("which model, and which folder?".into());
    };
    let (repo, branch) = match repo.split_once('@') {
        Some((repo, branch)) => (repo, Some(branch.to_owned())),
        None => (repo.as_str(), None),
    };
    let upload = Upload {
        repo: repo.into(),
        branch,
        files: files(Path::new(folder), "")?,
        title: "Upload a folder".into(),
        ..Upload::default()
    };
    let mut last = UploadProgress::default();
    let mut show = |now: UploadProgress| {
        let percent = |at: UploadProgress| at.done_bytes * 100 / at.total_bytes.max(1);
        if (now.step, percent(now)) != (last.step, percent(last)) {
            eprintln!("{:?} {} %", now.step, percent(now));
        }
        last = now;
    };
    let hub = Hub::from_env()?;
    let (files, commit) = if is_dry {
        (hub.plan_upload(&upload, &mut show)?.files, None)
    } else {
        let uploaded = hub.upload(&upload, &mut show)?;
        (uploaded.files, Some(uploaded.commit))
    };
    let is_new = |file: &&FileUpload| file.is_new;
    for file in files.iter().filter(is_new) {
        println!("{} {} {}", file.sha256, file.n_bytes, file.path);
    }
    println!("{}", commit.as_deref().unwrap_or("nothing was sent"));
    Ok(())
}

/// The files of a folder and those below it.
fn files(folder: &Path, prefix: &str) -> Result<Vec<UploadFile>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        let name = entry.file_name().into_string();
        let path = format!("{prefix}{}", name.map_err(|_| "a name is not UTF-8")?);
        if entry.file_type()?.is_dir() {
            files.append(&mut self::files(&entry.path(), &format!("{path}/"))?);
        } else {
            files.push(UploadFile {
                path,
                source: UploadSource::File(entry.path()),
            });
        }
    }
    Ok(files)
}
