//! Repositories that are not models, and names that lead elsewhere.

use super::*;
use serde_json::json;

fn without(parts: &[&str]) -> Vec<(&'static str, Vec<u8>)> {
    let mut files = single_file_model();
    files.retain(|(name, _)| !parts.iter().any(|part| name.contains(part)));
    files
}

#[test]
fn no_config() {
    let fixture = Fixture::with_files(&without(&["config.json"]));
    let error = fixture.model().unwrap_err();
    assert!(
        says(
            &error,
            &format!("no config.json at commit {}", fixture.commit)
        ),
        "{error:?}"
    );
}

#[test]
fn an_adapter_is_called_that() {
    let mut files = without(&["config.json"]);
    files.push(("adapter_config.json", b"{}".to_vec()));
    let error = Fixture::with_files(&files).model().unwrap_err();
    assert!(says(&error, "is a PEFT adapter"), "{error:?}");
    assert!(error.hint().unwrap().contains("merge_and_unload"));
}

#[test]
fn no_safetensors() {
    let fixture = Fixture::with_files(&without(&["safetensors"]));
    let error = fixture.model().unwrap_err();
    assert!(says(&error, "has no weights as safetensors"), "{error:?}");
    let hint = error.hint().unwrap();
    assert!(hint.starts_with("it has pytorch_model.bin; "), "{hint}");
    assert!(hint.contains("save_pretrained"), "{hint}");
    // Nothing is downloaded, and nothing remembered that would hide it the next time.
    assert!(!fixture.cached("snapshots").exists());
    let again = fixture.model().unwrap_err();
    assert_eq!(error.to_string(), again.to_string());
}

/// As transformers leaves it when it looked for safetensors and found none.
#[test]
fn no_safetensors_as_the_cache_knows() {
    let fixture = Fixture::with_files(&without(&["safetensors"]));
    let commit = &fixture.commit;
    for (name, content) in without(&["safetensors"]) {
        let path = fixture.cached("snapshots").join(commit).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    for name in ["model.safetensors", "model.safetensors.index.json"] {
        let path = fixture.cached(".no_exist").join(commit).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let error = fixture.hub().model_files(REPO, Some(commit)).unwrap_err();
    assert!(says(&error, "has no weights as safetensors"), "{error:?}");
}

/// Both are there: as transformers, the single file.
#[test]
fn a_single_file_before_shards() {
    let mut files = sharded_model();
    files.push(("model.safetensors", weights(1)));
    let fixture = Fixture::with_files(&files);
    let snapshot = fixture.whole_model().unwrap();
    assert!(snapshot.dir.join("model.safetensors").exists());
    assert!(
        !snapshot
            .dir
            .join("model-00001-of-00002.safetensors")
            .exists()
    );
    fixture.asked();
    fixture.weights(&snapshot).unwrap();
    assert_eq!(fixture.asked(), [""; 0]);
}

fn with_index(index: &str) -> Fixture {
    let mut files = sharded_model();
    for (name, content) in &mut files {
        if name.ends_with("index.json") {
            *content = index.as_bytes().to_vec();
        }
    }
    Fixture::with_files(&files)
}

#[test]
fn shards_that_lead_elsewhere() {
    for shard in [
        "../secret.safetensors",
        "/etc/secret.safetensors",
        "folder/x.safetensors",
        "..\\x.safetensors",
        ".safetensors",
        "",
        "pytorch_model.bin",
        "missing.safetensors",
    ] {
        let fixture = with_index(&json!({"weight_map": {"a": shard}}).to_string());
        let snapshot = fixture.model().unwrap();
        // Even if there is such a file.
        fs::write(snapshot.dir.join("../secret.safetensors"), "").unwrap();
        fixture.asked();
        let error = fixture.weights(&snapshot).unwrap_err();
        assert!(
            says(&error, &format!("names the file `{shard}`, which")),
            "{error:?}"
        );
        let asked = fixture.asked();
        assert!(
            !asked.iter().any(|line| line.contains("resolve")),
            "{asked:?}"
        );
    }
}

#[test]
fn an_index_that_is_none() {
    for index in ["", "[]", "{}", r#"{"weight_map": {"a": 1}}"#] {
        let fixture = with_index(index);
        let snapshot = fixture.model().unwrap();
        let error = fixture.weights(&snapshot).unwrap_err();
        assert!(
            says(&error, "is not an index of safetensors files"),
            "{error:?}"
        );
    }
}

#[test]
fn names_that_lead_elsewhere() {
    let fixture = Fixture::new();
    let hub = fixture.hub();
    for repo in ["../x", "/etc", "a/b/c", "..", ""] {
        let error = hub.model_files(repo, None).unwrap_err();
        assert!(says(&error, "is not the id of a"), "{error:?}");
    }
    for revision in ["../x", "/etc", "a..b", ""] {
        let error = hub.model_files(REPO, Some(revision)).unwrap_err();
        assert!(matches!(error, HubError::BadRevision(_)), "{error:?}");
    }
    let snapshot = Snapshot {
        repo: "../x".into(),
        commit: fixture.commit.clone(),
        dir: PathBuf::new(),
        notice: None,
    };
    let error = hub.download_weights(&snapshot, &mut |_| {}).unwrap_err();
    assert!(says(&error, "is not the id of a"), "{error:?}");
    assert_eq!(fixture.asked(), [""; 0]);
}

#[test]
fn addresses_that_are_none() {
    for endpoint in ["nowhere", "file:///etc", "http://", "mailto:a@b"] {
        let settings = HubSettings::new(endpoint, Path::new("cache"));
        let error = Hub::new(settings).unwrap_err();
        assert!(says(&error, "HF_ENDPOINT"), "{endpoint}: {error:?}");
    }
}

#[test]
fn folders_of_a_repository_are_left_alone() {
    let mut files = single_file_model();
    files.push(("onnx/config.json", b"{}".to_vec()));
    files.push(("checkpoints/model.safetensors", weights(9)));
    let fixture = Fixture::with_files(&files);
    let snapshot = fixture.whole_model().unwrap();
    assert!(!names(&snapshot.dir).iter().any(|name| name == "onnx"));
    assert!(fs::read(snapshot.dir.join("model.safetensors")).unwrap() == weights(1));
}
