//! Without a network.

use super::*;
use crate::Notice;
use hub_server::Fault;
use std::net::TcpListener;
use std::time::Instant;

/// An address where no server answers.
fn nowhere() -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", port.local_addr().unwrap())
}

#[test]
fn offline_serves_what_is_there() {
    let fixture = Fixture::new();
    let snapshot = fixture.whole_model().unwrap();
    fixture.asked();
    let hub = fixture.offline();
    for revision in [None, Some("main"), Some(snapshot.commit.as_str())] {
        let again = hub.model_files(REPO, revision).unwrap();
        assert_eq!(
            (&again.commit, &again.dir),
            (&snapshot.commit, &snapshot.dir)
        );
        assert!(again.notice.is_none());
        hub.download_weights(&again, &mut |_| {}).unwrap();
    }
    assert_eq!(fixture.asked(), [""; 0]);
}

#[test]
fn offline_names_what_is_missing() {
    let fixture = Fixture::new();
    let hub = fixture.offline();
    let error = hub.model_files(REPO, Some("step3000")).unwrap_err();
    assert!(matches!(error, HubError::NotCached(_)), "{error:?}");
    let folder = fixture.settings.cache_dir.display();
    let rest = format!("is not in the cache `{folder}`");
    assert_eq!(
        error.to_string(),
        format!("offline, and `{REPO}` at revision `step3000` {rest}")
    );
    assert!(error.hint().unwrap().contains("HF_HUB_OFFLINE"));
    let error = hub.model_files(REPO, Some(&fixture.commit)).unwrap_err();
    assert!(
        says(
            &error,
            "offline, and `config.json` of `org/name` at revision"
        ),
        "{error:?}"
    );

    let snapshot = fixture.model().unwrap();
    hub.model_files(REPO, None).unwrap();
    let error = hub.download_weights(&snapshot, &mut |_| {}).unwrap_err();
    assert!(
        says(&error, "offline, and `model.safetensors` of"),
        "{error:?}"
    );
    assert!(
        fixture
            .server
            .requests()
            .iter()
            .all(|r| !r.target.contains("step3000"))
    );
}

#[test]
fn no_connection_and_an_empty_cache() {
    let mut fixture = Fixture::new();
    fixture.settings.endpoint = nowhere();
    let error = fixture.model().unwrap_err();
    assert!(matches!(error, HubError::Network(_)), "{error:?}");
    assert!(says(&error, &fixture.settings.endpoint), "{error}");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn no_connection_and_a_full_cache() {
    let mut fixture = Fixture::new();
    let snapshot = fixture.whole_model().unwrap();
    fixture.settings.endpoint = nowhere();
    let again = fixture.whole_model().unwrap();
    assert_eq!(again.commit, snapshot.commit);
    let text = again.notice.unwrap().to_string();
    assert!(text.contains("cannot reach the Hub"), "{text}");
    // A commit needs no server, so there is nothing to say.
    let again = fixture
        .hub()
        .model_files(REPO, Some(&snapshot.commit))
        .unwrap();
    assert!(again.notice.is_none());
}

/// A network that swallows everything must not hold up what is in the cache for long.
#[test]
fn a_silent_network_and_a_full_cache() {
    let mut fixture = Fixture::new();
    fixture.whole_model().unwrap();
    fixture.settings.timeout = Duration::from_millis(200);
    fixture.server.fail(Fault::delay(Duration::from_secs(3)));
    let start = Instant::now();
    let again = fixture.whole_model().unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    assert!(
        matches!(again.notice, Some(Notice::FromCache { .. })),
        "{again:?}"
    );
}

#[test]
fn a_silent_network_ends() {
    let mut fixture = Fixture::new();
    fixture.settings.timeout = Duration::from_millis(200);
    fixture.server.fail(Fault::delay(Duration::from_secs(3)));
    let error = fixture.model().unwrap_err();
    assert!(matches!(error, HubError::Network(_)), "{error:?}");
    fixture.server.heal();
    let snapshot = fixture.model().unwrap();
    fixture
        .server
        .fail(Fault::delay(Duration::from_secs(3)).on("signature"));
    let error = fixture.weights(&snapshot).unwrap_err();
    assert!(matches!(error, HubError::Network(_)), "{error:?}");
}

/// A page of a proxy in place of an answer.
#[test]
fn an_answer_that_is_none() {
    let fixture = Fixture::new();
    fixture
        .server
        .fail(Fault::replace(b"<html>log in</html>").on("/revision/"));
    let error = fixture.model().unwrap_err();
    assert!(says(&error, "cannot understand what"), "{error:?}");
    assert!(error.hint().unwrap().contains("HF_ENDPOINT"));
}

/// As Python leaves it after `snapshot_download`: a listing, and nothing about missing files.
#[test]
fn a_listing_of_python_tells_what_is_missing() {
    let mut files = single_file_model();
    files.retain(|(name, _)| *name != "tokenizer_config.json");
    let fixture = Fixture::with_files(&files);
    let snapshot = fixture.whole_model().unwrap();
    fs::remove_dir_all(fixture.cached(".no_exist")).unwrap();
    let hub = fixture.offline();
    let error = hub.model_files(REPO, None).unwrap_err();
    assert!(
        says(&error, "offline, and `tokenizer_config.json` of"),
        "{error:?}"
    );

    let write = |version: u32, n_bytes: usize| {
        let entry = |size| serde_json::json!({"size": size, "blob_id": "0"});
        let listing = serde_json::json!({"format_version": version, "files": {
            "config.json": entry(23), "tokenizer.json": entry(2),
            "model.safetensors": entry(n_bytes),
        }});
        let path = fixture
            .cached("trees")
            .join(format!("{}.json", snapshot.commit));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, listing.to_string()).unwrap();
    };
    write(2, WEIGHT_BYTES);
    assert!(hub.model_files(REPO, None).is_err());
    write(1, WEIGHT_BYTES);
    let snapshot = hub.model_files(REPO, None).unwrap();
    hub.download_weights(&snapshot, &mut |_| {}).unwrap();
    write(1, WEIGHT_BYTES + 1);
    let error = hub.download_weights(&snapshot, &mut |_| {}).unwrap_err();
    assert!(says(&error, "is damaged in the cache"), "{error:?}");
}
