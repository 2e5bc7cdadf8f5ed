//! Finding the files of a data set on this machine.

use super::ChosenFile;
use super::choose::{choose_among, parts_of};
use super::endings::format_of_name;
use super::listing::Listing;
use super::patterns::{has_magic, split_at_magic};
use crate::DatasetError;
use crate::error::{KNOWN_ENDINGS, no_split};
use fault::Fault;
use files::bound;
use plan::{DataFile, DataFiles, Format};
use plan::{DatasetRequest, RowRange};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// What `Dataset.save_to_disk` writes next to the Arrow files, as far as it is needed.
#[derive(Deserialize)]
struct SavedState {
    #[serde(rename = "_data_files")]
    data_files: Vec<SavedFile>,
    #[serde(rename = "_split")]
    split: Option<String>,
}

#[derive(Deserialize)]
struct SavedFile {
    filename: String,
}

/// What `DatasetDict.save_to_disk` writes next to the folders of the splits.
#[derive(Deserialize)]
struct SavedSplits {
    splits: Vec<String>,
}

const SAVE_AGAIN: &str = "save the data set again by `save_to_disk`";

/// The files of the data set at `path`: a file, a folder, a pattern of files, or what
/// `save_to_disk` of Python's `datasets` has written. What has no splits is `train`.
///
/// # Errors
/// Nothing is there, the request names a split, configuration or file that is not there, or the
/// files have no format that is read, or several.
pub fn find_files(path: &Path, request: &DatasetRequest) -> Result<DataFiles, DatasetError> {
    let mut files = Vec::new();
    for (part, (request, _)) in parts_of(request)?.iter().enumerate() {
        let found = files_of_split(path, request)?;
        files.extend(found.into_iter().map(|file| DataFile { part, ..file }));
    }
    Ok(DataFiles {
        name: name_of(path),
        files,
        parts: sliced_parts(request)?,
    })
}

/// The files of the data set `name` that were chosen for `request` from its listing on the Hub: each
/// with its current path and the hash that the Hub has for it.
///
/// # Errors
/// The split cannot be read.
pub fn files_of_hub(
    name: &str,
    request: &DatasetRequest,
    files: Vec<(ChosenFile, PathBuf, String)>,
) -> Result<DataFiles, DatasetError> {
    let to_file = |(chosen, path, content_hash): (ChosenFile, PathBuf, String)| DataFile {
        path,
        format: chosen.format,
        part: chosen.part,
        content_hash: Some(content_hash),
    };
    Ok(DataFiles {
        name: name.into(),
        files: files.into_iter().map(to_file).collect(),
        parts: sliced_parts(request)?,
    })
}

fn file_here(root: &Path, chosen: ChosenFile) -> DataFile {
    DataFile {
        path: root.join(chosen.name),
        format: chosen.format,
        part: 0,
        content_hash: None,
    }
}

/// The rows of the parts; empty if all rows of all parts are wanted.
fn sliced_parts(request: &DatasetRequest) -> Result<Vec<RowRange>, DatasetError> {
    let parts = parts_of(request)?.into_iter();
    let parts: Vec<_> = parts.map(|(_, rows)| rows).collect();
    let are_whole = parts.iter().all(RowRange::is_whole);
    Ok(if are_whole { Vec::new() } else { parts })
}

/// The files of a request that names one split.
fn files_of_split(path: &Path, request: &DatasetRequest) -> Result<Vec<DataFile>, DatasetError> {
    if path.is_file() {
        single_file(path, request)
    } else if path.join("state.json").is_file() {
        saved(path, request)
    } else if let Some(splits) = saved_splits(path)? {
        check_has_split(path, &request.split, &splits)?;
        saved(
            &inside(path, "dataset_dict.json", &request.split)?,
            &as_train(request),
        )
    } else if path.is_dir() {
        files_of_folder(path, request)
    } else {
        files_of_pattern(path, request)
    }
}

fn single_file(path: &Path, request: &DatasetRequest) -> Result<Vec<DataFile>, DatasetError> {
    check_is_whole(path, "a file", request)?;
    check_has_split(path, &request.split, &["train".into()])?;
    let name = name_of(path);
    let format = format_of_name(&name).ok_or_else(|| {
        Fault::input(format!("data set `{name}` is a file of no known format"))
            .with_hint(KNOWN_ENDINGS)
    })?;
    Ok(vec![DataFile {
        path: path.into(),
        format,
        part: 0,
        content_hash: None,
    }])
}

fn files_of_folder(path: &Path, request: &DatasetRequest) -> Result<Vec<DataFile>, DatasetError> {
    let card_path = path.join("README.md");
    let card = if card_path.is_file() {
        Some(read_text(&card_path)?)
    } else {
        None
    };
    let listing = Listing::of_folder(path);
    let chosen = choose_among(&name_of(path), &listing, card.as_deref(), request)?;
    let to_file = |chosen| file_here(path, chosen);
    Ok(chosen.into_iter().map(to_file).collect())
}

fn files_of_pattern(path: &Path, request: &DatasetRequest) -> Result<Vec<DataFile>, DatasetError> {
    let no_dataset = || {
        Fault::input(format!("data set `{}` does not exist", name_of(path)))
            .with_hint("`dataset` takes a file, a folder of files or a pattern")
    };
    let text = path
        .to_str()
        .filter(|text| has_magic(text))
        .ok_or_else(no_dataset)?;
    check_is_whole(path, "a pattern", request)?;
    let (folder, pattern) = split_at_magic(text);
    let folder = Path::new(if folder.is_empty() { "." } else { folder });
    if !folder.is_dir() {
        return Err(no_dataset().into());
    }
    let request = DatasetRequest {
        data_files: vec![pattern.into()],
        ..request.clone()
    };
    let listing = Listing::of_folder(folder);
    let chosen = choose_among(&folder.display().to_string(), &listing, None, &request)?;
    let to_file = |chosen| file_here(folder, chosen);
    Ok(chosen.into_iter().map(to_file).collect())
}

/// The Arrow files that `Dataset.save_to_disk` wrote to `folder`, in its order.
fn saved(folder: &Path, request: &DatasetRequest) -> Result<Vec<DataFile>, DatasetError> {
    check_is_whole(folder, "written by `save_to_disk`", request)?;
    let state: SavedState = read_json(&folder.join("state.json"))?;
    let mut splits = vec!["train".to_string()];
    splits.extend(state.split.filter(|split| split != "train"));
    check_has_split(folder, &request.split, &splits)?;
    let mut files = Vec::new();
    for file in state.data_files {
        let path = inside(folder, "state.json", &file.filename)?;
        fs::metadata(&path).map_err(DatasetError::io("find", &path))?;
        files.push(DataFile {
            path,
            format: Format::Arrow,
            part: 0,
            content_hash: None,
        });
    }
    if files.is_empty() {
        return Err(DatasetError::no_files(&name_of(folder), &[], None));
    }
    Ok(files)
}

/// The splits of what `DatasetDict.save_to_disk` wrote to `folder`.
fn saved_splits(folder: &Path) -> Result<Option<Vec<String>>, DatasetError> {
    let path = folder.join("dataset_dict.json");
    if !path.is_file() {
        return Ok(None);
    }
    let saved: SavedSplits = read_json(&path)?;
    Ok(Some(saved.splits))
}

/// The request within the folder of its split.
fn as_train(request: &DatasetRequest) -> DatasetRequest {
    DatasetRequest {
        split: "train".into(),
        ..request.clone()
    }
}

/// The path of what the file `named_by` of `folder` calls `name`.
fn inside(folder: &Path, named_by: &str, name: &str) -> Result<PathBuf, DatasetError> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(part)), None) if part == name => Ok(folder.join(part)),
        _ => {
            let path = folder.join(named_by);
            let message = format!(
                "`{}` names `{name}`, which is not a file next to it",
                path.display()
            );
            Err(Fault::input(message).with_hint(SAVE_AGAIN).into())
        }
    }
}

fn check_is_whole(
    path: &Path,
    kind: &'static str,
    request: &DatasetRequest,
) -> Result<(), DatasetError> {
    let options = [
        ("data_files", !request.data_files.is_empty()),
        ("data_dir", request.data_dir.is_some()),
        ("config", request.config.is_some()),
    ];
    match options.into_iter().find(|(_, is_set)| *is_set) {
        None => Ok(()),
        Some((option, _)) => {
            let path = path.display();
            let message = format!("data set `{path}` is {kind}, which has no `{option}`");
            let hint = format!("leave `{option}` out");
            Err(Fault::input(message).with_hint(hint).into())
        }
    }
}

fn check_has_split(path: &Path, split: &str, found: &[String]) -> Result<(), DatasetError> {
    if found.iter().any(|found| found == split) {
        return Ok(());
    }
    Err(no_split(&name_of(path), split, found).into())
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, DatasetError> {
    let bytes = files::read(path, bound::SETTINGS).map_err(DatasetError::io("read", path))?;
    files::from_json(&bytes).map_err(|source| {
        let message = format!("`{}` is not as `save_to_disk` writes it", path.display());
        let fault = Fault::input(message).with_hint(SAVE_AGAIN);
        fault.because(source).into()
    })
}

fn read_text(path: &Path) -> Result<String, DatasetError> {
    files::read_text(path, bound::SETTINGS).map_err(DatasetError::io("read", path))
}

fn name_of(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fault::Remedy;
    use files::testing::folder_with;
    use tempfile::TempDir;

    const STATE: &[u8] = br#"{"_data_files": [{"filename": "b.arrow"}, {"filename": "a.arrow"}],
        "_fingerprint": "68c5e0bd492f2de1", "_format_type": null, "_split": null}"#;

    fn find(path: &Path) -> Result<Vec<String>, DatasetError> {
        find_with(path, &DatasetRequest::default())
    }

    fn find_with(path: &Path, request: &DatasetRequest) -> Result<Vec<String>, DatasetError> {
        let found = find_files(path, request)?;
        assert_eq!(found.name, path.display().to_string());
        let name = |file: &DataFile| file.path.file_name().unwrap().display().to_string();
        Ok(found.files.iter().map(name).collect())
    }

    fn of_split(split: &str) -> DatasetRequest {
        DatasetRequest {
            split: split.into(),
            ..DatasetRequest::default()
        }
    }

    fn saved_with(state: &[u8]) -> TempDir {
        folder_with(&[("state.json", state), ("a.arrow", b""), ("b.arrow", b"")])
    }

    #[test]
    fn a_file_is_its_own_train_split() {
        let folder = folder_with(&[
            ("a.txt.gz", b""),
            ("a.bin", b""),
            ("a.py", b""),
            ("b.BIN", b""),
        ]);
        let path = folder.path().join("a.txt.gz");
        let found = find_files(&path, &DatasetRequest::default()).unwrap();
        assert_eq!(found.files[0].format, Format::Text);
        assert_eq!(find(&folder.path().join("a.bin")).unwrap(), ["a.bin"]);
        let error = find(&folder.path().join("a.py")).unwrap_err();
        assert!(
            error.to_string().contains("is a file of no known format"),
            "{error:?}"
        );
        let error = find_with(&path, &of_split("test")).unwrap_err();
        assert_eq!(error.hint().unwrap(), "choose one of `train`");
    }

    #[test]
    fn a_file_has_no_parts() {
        let folder = folder_with(&[("a.csv", b"")]);
        let request = DatasetRequest {
            data_dir: Some("x".into()),
            ..DatasetRequest::default()
        };
        let error = find_with(&folder.path().join("a.csv"), &request).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("is a file, which has no `data_dir`"),
            "{error}"
        );
    }

    #[test]
    fn a_pattern_takes_files_of_a_folder() {
        let folder = folder_with(&[("b.csv", b""), ("a.csv", b""), ("c.txt", b"")]);
        assert_eq!(
            find(&folder.path().join("*.csv")).unwrap(),
            ["a.csv", "b.csv"]
        );
        assert_eq!(
            find(&folder.path().join("**/[b-c].csv")).unwrap(),
            ["b.csv"]
        );
        let error = find(&folder.path().join("*.json")).unwrap_err();
        assert!(error.to_string().contains("has no data file"), "{error:?}");
        for name in ["none", "none/*.csv"] {
            let error = find(&folder.path().join(name)).unwrap_err();
            assert!(error.to_string().contains("does not exist"), "{error:?}");
        }
    }

    #[test]
    fn a_name_with_brackets_is_first_a_name() {
        let folder = folder_with(&[("a[1].csv", b""), ("a1.csv", b"")]);
        assert_eq!(find(&folder.path().join("a[1].csv")).unwrap(), ["a[1].csv"]);
    }

    #[test]
    fn saved_data_sets_keep_their_order() {
        let folder = saved_with(STATE);
        assert_eq!(find(folder.path()).unwrap(), ["b.arrow", "a.arrow"]);
        let error = find_with(folder.path(), &of_split("test")).unwrap_err();
        assert_eq!(error.hint().unwrap(), "choose one of `train`");
        let named =
            String::from_utf8_lossy(STATE).replace("\"_split\": null", "\"_split\": \"test\"");
        let folder = saved_with(named.as_bytes());
        assert_eq!(
            find_with(folder.path(), &of_split("test")).unwrap().len(),
            2
        );
        assert_eq!(find(folder.path()).unwrap().len(), 2);
    }

    #[test]
    fn saved_data_sets_have_splits() {
        let folder = folder_with(&[("dataset_dict.json", br#"{"splits": ["train", "dev"]}"#)]);
        let dev = folder.path().join("dev");
        fs::create_dir(&dev).unwrap();
        fs::write(
            dev.join("state.json"),
            br#"{"_data_files": [{"filename": "d.arrow"}]}"#,
        )
        .unwrap();
        fs::write(dev.join("d.arrow"), b"").unwrap();
        assert_eq!(
            find_with(folder.path(), &of_split("dev")).unwrap(),
            ["d.arrow"]
        );
        let error = find_with(folder.path(), &of_split("test")).unwrap_err();
        assert_eq!(error.hint().unwrap(), "choose one of `train`, `dev`");
        let error = find(folder.path()).unwrap_err();
        assert!(error.to_string().contains("cannot "), "{error:?}");
    }

    #[test]
    fn saved_names_stay_in_their_folder() {
        for name in [
            "../a.arrow",
            "/etc/passwd",
            "s/a.arrow",
            "..",
            "",
            "./a.arrow",
            "a.arrow/",
        ] {
            let state = format!("{{\"_data_files\": [{{\"filename\": {name:?}}}]}}");
            let error = find(saved_with(state.as_bytes()).path()).unwrap_err();
            assert!(
                error.to_string().contains("which is not a file next to it"),
                "{name}: {error:?}"
            );
        }
        let folder = folder_with(&[("dataset_dict.json", br#"{"splits": [".."]}"#)]);
        let error = find_with(folder.path(), &of_split("..")).unwrap_err();
        assert!(
            error.to_string().contains("which is not a file next to it"),
            "{error:?}"
        );
    }

    #[test]
    fn damaged_saved_data_sets() {
        for state in [&b"{"[..], b"{}", b"{\"_data_files\": 1}"] {
            let error = find(saved_with(state).path()).unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("is not as `save_to_disk` writes it"),
                "{error:?}"
            );
        }
        let error = find(saved_with(b"{\"_data_files\": []}").path()).unwrap_err();
        assert!(
            error.to_string().contains("has no file of a known format"),
            "{error:?}"
        );
        let gone = br#"{"_data_files": [{"filename": "gone.arrow"}]}"#;
        let error = find(saved_with(gone).path()).unwrap_err();
        assert!(error.to_string().contains("cannot find "), "{error:?}");
    }

    #[test]
    fn files_of_the_hub_bring_their_hash() {
        let chosen = ChosenFile {
            name: "data/a.csv".into(),
            format: Format::Csv,
            part: 0,
        };
        let files = vec![(chosen, PathBuf::from("/cache/a.csv"), "ab12".to_string())];
        let found = files_of_hub("org/set", &of_split("train[3:]"), files).unwrap();
        assert_eq!(found.parts.len(), 1);
        assert_eq!(found.name, "org/set");
        assert_eq!(found.files[0].path, Path::new("/cache/a.csv"));
        assert_eq!(found.files[0].content_hash.as_deref(), Some("ab12"));
    }
}
