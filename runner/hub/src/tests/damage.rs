//! What arrives damaged gets no name in the cache.

use super::*;
use hub_server::Fault;

/// Every content in the cache is whole, and no link leads nowhere.
fn assert_clean(fixture: &Fixture, n_blobs: usize) {
    let blobs = names(&fixture.cached("blobs"));
    let whole = blobs.iter().filter(|name| !name.ends_with(".incomplete"));
    assert_eq!(whole.count(), n_blobs, "{blobs:?}");
    for link in names(&fixture.cached("snapshots").join(&fixture.commit)) {
        assert!(
            fixture
                .cached("snapshots")
                .join(&fixture.commit)
                .join(&link)
                .exists(),
            "{link}"
        );
    }
}

/// hf-hub 1.0.0 by itself takes the body of the refusal for the file.
#[test]
fn a_refusal_after_the_headers_is_no_file() {
    for (status, part) in [
        (403, "GET /org/name/resolve"),
        (404, "GET /org/name/resolve"),
    ] {
        let fixture = Fixture::new();
        fixture.server.fail(Fault::status(status).on(part));
        let error = fixture.model().unwrap_err();
        assert!(
            matches!(error, HubError::NoSuchRevision(_)) || says(&error, "no access to"),
            "{error:?}"
        );
        assert_clean(&fixture, 0);
        fixture.server.heal();
        fixture.whole_model().unwrap();
        assert_clean(&fixture, 4);
    }
}

#[test]
fn a_refusal_of_the_store_is_no_file() {
    let fixture = Fixture::new();
    let snapshot = fixture.model().unwrap();
    fixture.server.fail(Fault::status(403).on("signature"));
    let error = fixture.weights(&snapshot).unwrap_err();
    assert!(
        says(&error, "no access to `org/name`: there is no token"),
        "{error:?}"
    );
    assert!(!error.to_string().contains("signature"), "{error}");
    assert_clean(&fixture, 3);
}

#[test]
fn wrong_bytes_are_thrown_away() {
    let fixture = Fixture::new();
    fixture
        .server
        .fail(Fault::garble().on("GET /org/name/resolve"));
    let error = fixture.model().unwrap_err();
    let files = ["config.json", "tokenizer.json", "tokenizer_config.json"];
    let begin = |file| format!("`{file}` of `{REPO}` arrived damaged: its hash is not");
    assert!(
        files.iter().any(|file| says(&error, &begin(file))),
        "{error:?}"
    );
    assert_clean(&fixture, 0);

    fixture.server.heal();
    let snapshot = fixture.model().unwrap();
    fixture.server.fail(Fault::garble().on("signature"));
    let error = fixture.weights(&snapshot).unwrap_err();
    assert!(
        says(&error, "`model.safetensors` of `org/name` arrived damaged"),
        "{error:?}"
    );
    let blobs = names(&fixture.cached("blobs"));
    assert!(
        !blobs.iter().any(|name| name.ends_with(".incomplete")),
        "{blobs:?}"
    );
    assert_clean(&fixture, 3);
}

#[test]
fn bytes_that_are_wrong_once_are_asked_for_again() {
    let fixture = Fixture::new();
    let snapshot = fixture.model().unwrap();
    let garble = Fault::garble().on("GET").on("signature");
    fixture.server.fail(garble.times(1));
    fixture.weights(&snapshot).unwrap();
    assert!(fs::read(snapshot.dir.join("model.safetensors")).unwrap() == weights(1));
    assert_clean(&fixture, 4);
}

#[test]
fn another_length_is_thrown_away() {
    let fixture = Fixture::new();
    let page = b"<html>please log in to the network</html>";
    fixture
        .server
        .fail(Fault::replace(page).on("GET /org/name/resolve"));
    let error = fixture.model().unwrap_err();
    assert!(
        says(&error, "arrived damaged") && says(&error, " bytes instead of "),
        "{error:?}"
    );
    assert_clean(&fixture, 0);
}

#[test]
fn a_download_that_stays_broken_keeps_no_name() {
    let fixture = Fixture::new();
    let snapshot = fixture.model().unwrap();
    // Breaks off without a byte of progress.
    fixture.server.fail(Fault::replace(b"").on("signature"));
    let error = fixture.weights(&snapshot).unwrap_err();
    assert!(
        says(&error, "arrived damaged: 0 bytes instead of "),
        "{error:?}"
    );
    assert_clean(&fixture, 3);
}

/// As after `kill -9`: what is there has no final name, and the next download resumes it.
#[test]
fn a_broken_download_is_kept_for_the_next() {
    let fixture = Fixture::new();
    let snapshot = fixture.model().unwrap();
    fixture
        .server
        .fail(Fault::truncate().on("GET").on("signature").times(1));
    fixture
        .server
        .fail(Fault::status(500).on("GET").on("signature"));
    let error = fixture.weights(&snapshot).unwrap_err();
    assert!(says(&error, "with status 500"), "{error:?}");
    assert_clean(&fixture, 3);
    let blobs = names(&fixture.cached("blobs"));
    assert!(
        blobs
            .iter()
            .any(|name| name.ends_with(".sae-run.incomplete")),
        "{blobs:?}"
    );
    fixture.server.heal();
    fixture.server.forget_requests();
    fixture.weights(&snapshot).unwrap();
    let requests = fixture.server.requests();
    let stored = requests
        .iter()
        .filter(|r| r.is_to_store && r.method == "GET");
    assert!(stored.clone().count() == 1 && stored.clone().all(|r| r.range.is_some()));
    assert_clean(&fixture, 4);
    assert_eq!(names(&fixture.cached("blobs")).len(), 4);
}

#[test]
fn damaged_files_in_the_cache_are_found() {
    let fixture = Fixture::new();
    let snapshot = fixture.whole_model().unwrap();
    let config = snapshot.dir.join("config.json").canonicalize().unwrap();
    fs::write(&config, r#"{"error": "forbidden"}"#).unwrap();
    for hub in [fixture.hub(), fixture.offline()] {
        let error = hub.model_files(REPO, None).unwrap_err();
        assert!(says(&error, &config.display().to_string()), "{error:?}");
        assert!(error.hint().unwrap().contains("delete"));
    }
    fs::remove_file(&config).unwrap();
    fixture.model().unwrap();
}

/// A content of the wrong length from another program, such as a page in place of a file.
#[test]
fn a_wrong_length_in_the_cache_is_found() {
    let fixture = Fixture::new();
    let snapshot = fixture.whole_model().unwrap();
    let blob = snapshot
        .dir
        .join("model.safetensors")
        .canonicalize()
        .unwrap();
    fs::write(&blob, "forbidden").unwrap();
    fs::remove_file(snapshot.dir.join("model.safetensors")).unwrap();
    let error = fixture.weights(&snapshot).unwrap_err();
    let blob = blob.display();
    let part = format!("`{blob}`: 9 bytes instead of {WEIGHT_BYTES}");
    assert!(says(&error, &part), "{error:?}");
}
