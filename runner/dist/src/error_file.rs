//! The file through which torchrun learns why a process failed.

use crate::DistError;
use fault::Fault;
use serde_json::json;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, fs, process};

/// Writes `message` for torchrun, if it asks for that by `TORCHELASTIC_ERROR_FILE`. The file is there
/// whole or not at all: torchrun fails on half a file.
///
/// # Errors
/// A folder that cannot be written.
pub fn write_error_file(message: &str) -> Result<(), DistError> {
    match env::var_os("TORCHELASTIC_ERROR_FILE") {
        Some(path) => write_to(PathBuf::from(path), message),
        None => Ok(()),
    }
}

fn write_to(path: PathBuf, message: &str) -> Result<(), DistError> {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let text = json!({
        "message": {
            "message": message,
            "extraInfo": {
                "py_callstack": null,
                "timestamp": since_epoch.as_secs().to_string(),
            },
        },
    });
    let temporary = path.with_extension(format!("{}.tmp", process::id()));
    let written =
        fs::write(&temporary, text.to_string()).and_then(|()| fs::rename(&temporary, &path));
    written.map_err(|source| {
        let message = format!("cannot write `{}`", path.display());
        Fault::internal(message).because(source).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_json_whatever_the_message() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("error.json");
        write_to(path.clone(), "a \"quoted\"\nline").unwrap();
        let text: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(text["message"]["message"], "a \"quoted\"\nline");
        assert!(text["message"]["extraInfo"]["timestamp"].is_string());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let nowhere = dir.path().join("absent/error.json");
        let error = write_to(nowhere, "").unwrap_err();
        assert!(error.to_string().starts_with("cannot write `"), "{error}");
    }
}
