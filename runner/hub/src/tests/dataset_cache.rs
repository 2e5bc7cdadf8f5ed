//! Data sets in the cache: without a network, after trouble, and shared with other processes.

use super::datasets::{ALL, CARD, LARGE, cached, download, list, with_dataset};
use super::*;
use crate::{ListedFile, Notice};
use hub_server::Fault;
use serde_json::json;
use std::env;
use std::process::{Command, Stdio};

/// The address of a Hub, for a test that runs itself in other processes.
const CHILD: &str = "SAE_RUN_HUB_TEST_ENDPOINT";
const CHILD_CACHE: &str = "SAE_RUN_HUB_TEST_CACHE";

fn n_stored(fixture: &Fixture) -> usize {
    let requests = fixture.server.requests().into_iter();
    requests
        .filter(|r| r.is_to_store && r.method == "GET")
        .count()
}

#[test]
fn offline_the_cache_is_enough() {
    let fixture = with_dataset();
    let online = list(&fixture).unwrap();
    download(&fixture.hub(), &online, &ALL).unwrap();
    fixture.asked();
    let hub = fixture.offline();
    for revision in [None, Some("main"), Some(online.commit.as_str())] {
        let listing = hub.dataset_listing(REPO, revision).unwrap();
        assert_eq!(
            (&listing.files, &listing.card),
            (&online.files, &online.card)
        );
        assert!(listing.notice.is_none());
        let paths = download(&hub, &listing, &ALL).unwrap();
        assert!(fs::read(&paths[2]).unwrap() == weights(5));
    }
    assert_eq!(fixture.asked(), [""; 0]);
}

#[test]
fn offline_names_what_is_missing() {
    let fixture = with_dataset();
    let hub = fixture.offline();
    let error = hub.dataset_listing(REPO, None).unwrap_err();
    assert!(
        says(&error, "offline, and `org/name` at revision `main`"),
        "{error:?}"
    );
    let commit = Some(fixture.commit.as_str());
    let error = hub.dataset_listing(REPO, commit).unwrap_err();
    assert!(
        says(&error, "offline, and the list of the files of"),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("HF_HUB_OFFLINE"));

    list(&fixture).unwrap();
    let listing = hub.dataset_listing(REPO, None).unwrap();
    let error = download(&hub, &listing, &["README.md", LARGE]).unwrap_err();
    assert!(
        says(&error, &format!("offline, and `{LARGE}` of")),
        "{error:?}"
    );
    fs::remove_file(listing.dir.join("README.md")).unwrap();
    let error = hub.dataset_listing(REPO, None).unwrap_err();
    assert!(says(&error, "offline, and `README.md` of"), "{error:?}");
}

#[test]
fn out_of_reach_the_cache_is_a_notice() {
    let fixture = with_dataset();
    let online = list(&fixture).unwrap();
    fixture.server.fail(Fault::status(503));
    let listing = list(&fixture).unwrap();
    assert_eq!(listing.files, online.files);
    assert!(matches!(listing.notice, Some(Notice::FromCache { .. })));
    let error = download(&fixture.hub(), &listing, &[LARGE]).unwrap_err();
    assert!(says(&error, "with status 503"), "{error:?}");
    let empty = with_dataset();
    empty.server.fail(Fault::status(503));
    let error = list(&empty).unwrap_err();
    assert!(says(&error, "with status 503"), "{error:?}");
}

/// As after `snapshot_download`.
#[test]
fn a_listing_of_python_is_as_good() {
    let fixture = with_dataset();
    let online = list(&fixture).unwrap();
    let entry = |file: &ListedFile| match file.content_hash.split_once(':') {
        Some(("sha256", hash)) => json!({"size": file.n_bytes, "blob_id": "0".repeat(40),
                                         "lfs_sha256": hash, "lfs_size": file.n_bytes}),
        Some((_, hash)) => json!({"size": file.n_bytes, "blob_id": hash}),
        None => panic!("{file:?}"),
    };
    let files = online
        .files
        .iter()
        .map(|file| (file.name.clone(), entry(file)));
    let tree = json!({"format_version": 1, "files": files.collect::<serde_json::Map<_, _>>()});
    fs::remove_dir_all(cached(&fixture, ".sae-run")).unwrap();
    fs::create_dir(cached(&fixture, "trees")).unwrap();
    let path = cached(&fixture, "trees").join(format!("{}.json", online.commit));
    fs::write(path, tree.to_string()).unwrap();
    let listing = fixture.offline().dataset_listing(REPO, None).unwrap();
    assert_eq!(listing.files, online.files);
}

#[test]
fn a_damaged_listing_is_made_anew() {
    let fixture = with_dataset();
    let first = list(&fixture).unwrap();
    let path = cached(&fixture, ".sae-run").join(format!("{}.json", first.commit));
    let whole = fs::read_to_string(&path).unwrap();
    for damaged in [
        &whole[..whole.len() / 2],
        "{}",
        &whole.replace("notes.txt", "../x"),
    ] {
        fs::write(&path, damaged).unwrap();
        assert_eq!(list(&fixture).unwrap().files, first.files);
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
    }
}

#[test]
fn passing_trouble_is_waited_out() {
    let fixture = with_dataset();
    fixture
        .server
        .fail(Fault::status(503).on("/tree/").times(1));
    fixture.server.fail(Fault::truncate().on("/tree/").times(1));
    let resolve = "GET /datasets/org/name/resolve";
    fixture.server.fail(Fault::status(502).on(resolve).times(2));
    let listing = list(&fixture).unwrap();
    fixture
        .server
        .fail(Fault::truncate().on("GET").on("signature").times(3));
    let paths = download(&fixture.hub(), &listing, &[LARGE]).unwrap();
    assert!(fs::read(&paths[0]).unwrap() == weights(5));
}

/// What came before the connection broke for good is resumed.
#[test]
fn an_interrupted_download_is_taken_up() {
    let fixture = with_dataset();
    let listing = list(&fixture).unwrap();
    let stored = || Fault::truncate().on("GET").on("signature");
    fixture.server.fail(stored().times(1));
    fixture
        .server
        .fail(Fault::status(500).on("GET").on("signature"));
    let error = download(&fixture.hub(), &listing, &[LARGE]).unwrap_err();
    assert!(says(&error, "with status 500"), "{error:?}");
    assert!(!listing.dir.join(LARGE).exists());
    fixture.server.heal();
    fixture.server.forget_requests();
    let paths = download(&fixture.hub(), &listing, &[LARGE]).unwrap();
    assert!(fs::read(&paths[0]).unwrap() == weights(5));
    let requests = fixture.server.requests();
    let mut stored = requests
        .iter()
        .filter(|r| r.is_to_store && r.method == "GET");
    assert!(stored.all(|request| request.range.is_some()));
    assert_eq!(n_stored(&fixture), 1);
}

#[test]
fn what_arrives_damaged_gets_no_name() {
    let fixture = with_dataset();
    let listing = list(&fixture).unwrap();
    fixture.server.fail(Fault::garble().on("GET"));
    for name in [LARGE, "notes.txt"] {
        let error = download(&fixture.hub(), &listing, &[name]).unwrap_err();
        let part = format!("`{name}` of `{REPO}` arrived damaged: its hash is not");
        assert!(says(&error, &part), "{error:?}");
        assert!(!listing.dir.join(name).exists());
    }
    assert_eq!(names(&cached(&fixture, "blobs")).len(), 1);
}

#[test]
fn damaged_files_in_the_cache_are_found() {
    let fixture = with_dataset();
    let listing = list(&fixture).unwrap();
    let paths = download(&fixture.hub(), &listing, &[LARGE]).unwrap();
    fs::write(paths[0].canonicalize().unwrap(), "short").unwrap();
    let error = download(&fixture.hub(), &listing, &[LARGE]).unwrap_err();
    assert!(says(&error, "is damaged in the cache"), "{error:?}");
    let card = listing.dir.join("README.md").canonicalize().unwrap();
    fs::write(&card, CARD.replace("Some", "Same")).unwrap();
    let error = fixture.offline().dataset_listing(REPO, None).unwrap_err();
    assert!(says(&error, &card.display().to_string()), "{error:?}");
}

/// Each brings everything; what one downloads, the others wait for.
#[test]
fn several_processes_share_a_download() {
    if let (Ok(endpoint), Some(cache)) = (env::var(CHILD), env::var_os(CHILD_CACHE)) {
        let hub = Hub::new(HubSettings::new(&endpoint, Path::new(&cache))).unwrap();
        let listing = hub.dataset_listing(REPO, None).unwrap();
        let paths = download(&hub, &listing, &ALL).unwrap();
        assert!(fs::read(&paths[2]).unwrap() == weights(5));
        return;
    }
    let fixture = with_dataset();
    let slow = Fault::delay(Duration::from_millis(500))
        .on("GET")
        .on("signature");
    fixture.server.fail(slow);
    let name = "tests::dataset_cache::several_processes_share_a_download";
    let spawn = |_| {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", name])
            .env(CHILD, fixture.server.url())
            .env(CHILD_CACHE, &fixture.settings.cache_dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..3).map(spawn).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(n_stored(&fixture), 1);
    let listing = fixture.offline().dataset_listing(REPO, None).unwrap();
    let paths = download(&fixture.offline(), &listing, &ALL).unwrap();
    assert!(fs::read(&paths[2]).unwrap() == weights(5));
    let blobs = names(&cached(&fixture, "blobs"));
    assert_eq!(blobs.len(), ALL.len(), "{blobs:?}");
}
