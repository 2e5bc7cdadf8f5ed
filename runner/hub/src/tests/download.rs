//! What is asked for, and where it ends up.

use super::*;
use crate::Notice;
use hub_server::Fault;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::thread;
use std::time::Instant;

const PLANNED: [&str; 3] = ["config.json", "tokenizer.json", "tokenizer_config.json"];

#[test]
fn planning_brings_no_weights() {
    let fixture = Fixture::new();
    let snapshot = fixture.model().unwrap();
    assert_eq!(
        (snapshot.repo.as_str(), &snapshot.commit),
        (REPO, &fixture.commit)
    );
    assert_eq!(
        snapshot.dir,
        fixture.cached("snapshots").join(&fixture.commit)
    );
    assert!(snapshot.notice.is_none());
    assert_eq!(names(&snapshot.dir), PLANNED);
    let config = fs::read_to_string(snapshot.dir.join("config.json")).unwrap();
    assert_eq!(config, r#"{"model_type": "llama"}"#);
    let main = fs::read_to_string(fixture.cached("refs/main")).unwrap();
    assert_eq!(main, fixture.commit);
}

#[test]
fn weights_come_with_progress() {
    let fixture = Fixture::new();
    let snapshot = fixture.model().unwrap();
    let seen = fixture.weights(&snapshot).unwrap();
    let content = fs::read(snapshot.dir.join("model.safetensors")).unwrap();
    assert!(content == weights(1));
    assert!(!snapshot.dir.join("pytorch_model.bin").exists());
    let total_bytes = WEIGHT_BYTES as u64;
    let last = seen.last().unwrap();
    let done = Progress {
        n_files_done: 1,
        n_files: 1,
        done_bytes: total_bytes,
        total_bytes,
        is_waiting: false,
    };
    assert_eq!(*last, done);
    assert!(
        seen.iter()
            .all(|progress| progress.total_bytes == total_bytes)
    );
    assert!(seen.is_sorted_by_key(|progress| progress.done_bytes));
    assert!(
        seen.iter()
            .any(|progress| (1..total_bytes).contains(&progress.done_bytes))
    );
    assert!(fixture.weights(&snapshot).unwrap().is_empty());
}

#[test]
fn shards_are_those_of_the_index() {
    let fixture = Fixture::with_files(&sharded_model());
    let snapshot = fixture.model().unwrap();
    let index = "model.safetensors.index.json";
    assert_eq!(
        names(&snapshot.dir),
        [PLANNED[0], index, PLANNED[1], PLANNED[2]]
    );
    let seen = fixture.weights(&snapshot).unwrap();
    assert_eq!(seen.last().unwrap().n_files_done, 2);
    assert_eq!(seen.last().unwrap().total_bytes, 2 * WEIGHT_BYTES as u64);
    for (number, seed) in [(1, 3), (2, 4)] {
        let shard = snapshot
            .dir
            .join(format!("model-0000{number}-of-00002.safetensors"));
        assert!(fs::read(shard).unwrap() == weights(seed));
    }
}

#[test]
fn only_what_is_missing_is_asked_for() {
    let fixture = Fixture::with_files(&sharded_model());
    let snapshot = fixture.whole_model().unwrap();
    fs::remove_file(snapshot.dir.join("model-00002-of-00002.safetensors")).unwrap();
    fs::remove_file(fixture.cached("blobs").join(large_blob(&fixture, 4))).unwrap();
    fixture.asked();
    assert_eq!(
        fixture.weights(&snapshot).unwrap().last().unwrap().n_files,
        1
    );
    let asked = fixture.asked();
    assert!(
        !asked.iter().any(|line| line.contains("00001")),
        "{asked:?}"
    );
    assert!(asked.iter().any(|line| line.contains("00002")), "{asked:?}");
}

/// The name of the content `weights(seed)`.
fn large_blob(fixture: &Fixture, seed: u32) -> String {
    let blobs = fixture.cached("blobs");
    let is_it = |name: &String| fs::read(blobs.join(name)).unwrap() == weights(seed);
    names(&blobs).into_iter().find(is_it).unwrap()
}

#[test]
fn a_branch_costs_one_request_and_a_commit_none() {
    let fixture = Fixture::new();
    let snapshot = fixture.whole_model().unwrap();
    fixture.asked();
    fixture.whole_model().unwrap();
    assert_eq!(
        fixture.asked(),
        ["GET /api/models/org/name/revision/main?expand=sha"]
    );
    for commit in [
        snapshot.commit.clone(),
        snapshot.commit.to_ascii_uppercase(),
    ] {
        let again = fixture.hub().model_files(REPO, Some(&commit)).unwrap();
        assert_eq!(again.dir, snapshot.dir);
        fixture.weights(&again).unwrap();
    }
    assert_eq!(fixture.asked(), [""; 0]);
}

/// Neither the tokenizer's configuration nor an index of shards is there: that is remembered.
#[test]
fn what_a_commit_lacks_is_not_asked_for_again() {
    let mut files = single_file_model();
    files.retain(|(name, _)| *name != "tokenizer_config.json");
    let fixture = Fixture::with_files(&files);
    fixture.model().unwrap();
    fixture.asked();
    let commit = &fixture.commit;
    fixture.hub().model_files(REPO, Some(commit)).unwrap();
    assert_eq!(fixture.asked(), [""; 0]);
    let absent = names(&fixture.cached(".no_exist").join(commit));
    assert!(
        absent.contains(&"tokenizer_config.json".to_owned()),
        "{absent:?}"
    );
}

#[test]
fn a_commit_by_its_hash() {
    let fixture = Fixture::new();
    let commit = fixture.commit.clone();
    let snapshot = fixture.hub().model_files(REPO, Some(&commit)).unwrap();
    assert_eq!(names(&snapshot.dir), PLANNED);
    assert!(!fixture.cached("refs").exists());
    let asked = fixture.asked();
    assert!(
        !asked.iter().any(|line| line.contains("/revision/")),
        "{asked:?}"
    );
}

#[test]
fn branches_and_tags() {
    let fixture = Fixture::new();
    let mut other = single_file_model();
    other[0].1 = br#"{"model_type": "other"}"#.to_vec();
    for revision in ["step3000", "refs/pr/1", "feature/x"] {
        let commit = fixture.publish(revision, &other);
        let snapshot = fixture.hub().model_files(REPO, Some(revision)).unwrap();
        assert_eq!(snapshot.commit, commit);
        assert_eq!(
            fs::read(snapshot.dir.join("config.json")).unwrap(),
            other[0].1
        );
    }
    assert_eq!(names(&fixture.cached("refs/refs/pr")), ["1"]);
}

#[test]
fn a_branch_that_moves_is_followed() {
    let fixture = Fixture::new();
    let old = fixture.whole_model().unwrap();
    let mut files = single_file_model();
    files[0].1 = br#"{"model_type": "other"}"#.to_vec();
    let commit = fixture.publish("main", &files);
    fixture.asked();
    let new = fixture.whole_model().unwrap();
    assert_eq!(new.commit, commit);
    assert_ne!(new.commit, old.commit);
    // The weights are the same, and not downloaded again.
    let asked = fixture.asked();
    assert!(
        !asked
            .iter()
            .any(|line| line.starts_with("GET") && line.contains("safetensors"))
    );
    assert!(new.dir.join("model.safetensors").exists());
}

#[test]
fn a_tree_in_several_pages() {
    let fixture = Fixture::new();
    fixture.server.set_page_size(2);
    assert_eq!(names(&fixture.model().unwrap().dir), PLANNED);
    let pages = fixture.asked();
    assert_eq!(
        pages.iter().filter(|line| line.contains("/tree/")).count(),
        3
    );
}

#[test]
fn a_repository_that_moved() {
    let fixture = Fixture::new();
    fixture.server.rename("old-name", REPO);
    let hub = fixture.hub();
    let snapshot = hub.model_files("old-name", None).unwrap();
    hub.download_weights(&snapshot, &mut |_| {}).unwrap();
    assert_eq!(snapshot.commit, fixture.commit);
    // As Python: in the folder of the name that was asked for.
    let folder = fixture.settings.cache_dir.join("models--old-name");
    assert!(snapshot.dir.starts_with(folder));
    assert!(fs::read(snapshot.dir.join("model.safetensors")).unwrap() == weights(1));
}

#[test]
fn what_an_earlier_process_left_is_taken_up() {
    let fixture = Fixture::new();
    let snapshot = fixture.model().unwrap();
    leave_partial(&fixture, &weights(1)[..1_000_000]);
    let seen = fixture.weights(&snapshot).unwrap();
    assert!(fs::read(snapshot.dir.join("model.safetensors")).unwrap() == weights(1));
    let ranges: Vec<_> = fixture
        .server
        .requests()
        .into_iter()
        .filter_map(|r| r.range)
        .collect();
    let last = WEIGHT_BYTES - 1;
    assert!(
        ranges
            .iter()
            .all(|range| *range == format!("bytes=1000000-{last}")),
        "{ranges:?}"
    );
    assert!(!ranges.is_empty());
    let first = seen
        .iter()
        .find(|progress| progress.done_bytes > 0)
        .unwrap();
    assert!(first.done_bytes > 1_000_000);
    assert_eq!(names(&fixture.cached("blobs")).len(), 4);
}

fn etag_of_weights() -> String {
    crate::digest::hex(&Sha256::digest(weights(1)))
}

/// Begins the download of the weights for another process, which then ended.
fn leave_partial(fixture: &Fixture, content: &[u8]) {
    let etag = etag_of_weights();
    let blobs = fixture.cached("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{etag}.sae-run.incomplete")), content).unwrap();
}

#[test]
fn a_wrong_beginning_is_thrown_away() {
    for n_bytes in [1_000_000, WEIGHT_BYTES, WEIGHT_BYTES + 1] {
        let fixture = Fixture::new();
        let snapshot = fixture.model().unwrap();
        leave_partial(&fixture, &vec![7; n_bytes]);
        fixture.weights(&snapshot).unwrap();
        assert!(fs::read(snapshot.dir.join("model.safetensors")).unwrap() == weights(1));
        assert_eq!(names(&fixture.cached("blobs")).len(), 4);
    }
}

#[test]
fn a_broken_connection_is_taken_up() {
    let fixture = Fixture::new();
    let snapshot = fixture.model().unwrap();
    let truncate = Fault::truncate().on("GET").on("signature");
    fixture.server.fail(truncate.times(3));
    fixture.weights(&snapshot).unwrap();
    assert!(fs::read(snapshot.dir.join("model.safetensors")).unwrap() == weights(1));
    let requests = fixture.server.requests();
    let ranges = requests
        .iter()
        .filter(|r| r.is_to_store && r.method == "GET" && r.range.is_some());
    assert_eq!(ranges.count(), 3);
}

#[test]
fn a_server_without_ranges() {
    let fixture = Fixture::new();
    let snapshot = fixture.model().unwrap();
    fixture.server.fail(Fault::no_ranges());
    leave_partial(&fixture, &weights(1)[..1_000_000]);
    fixture.weights(&snapshot).unwrap();
    assert!(fs::read(snapshot.dir.join("model.safetensors")).unwrap() == weights(1));
}

#[test]
fn passing_trouble_is_waited_out() {
    let fixture = Fixture::new();
    fixture
        .server
        .fail(Fault::status(503).on("/revision/").times(1));
    fixture
        .server
        .fail(Fault::status(500).on("/tree/").times(2));
    fixture.server.fail(Fault::status(502).on("HEAD").times(2));
    fixture
        .server
        .fail(Fault::rate_limit(1).on("GET /org/name/resolve").times(2));
    let snapshot = fixture.whole_model().unwrap();
    assert!(snapshot.dir.join("model.safetensors").exists());
}

#[test]
fn another_process_is_waited_for() {
    let fixture = Fixture::new();
    let snapshot = fixture.model().unwrap();
    let etag = etag_of_weights();
    let locks = fixture.settings.cache_dir.join(".locks/models--org--name");
    let path = locks.join(format!("{etag}.lock"));
    let lock: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    lock.lock().unwrap();
    let blob = fixture.cached("blobs").join(&etag);
    let other = thread::spawn(move || {
        thread::sleep(Duration::from_millis(500));
        fs::write(blob, weights(1)).unwrap();
        drop(lock);
    });
    let start = Instant::now();
    let seen = fixture.weights(&snapshot).unwrap();
    other.join().unwrap();
    assert!(start.elapsed() >= Duration::from_millis(500));
    assert!(seen.iter().any(|progress| progress.is_waiting));
    assert!(!seen.last().unwrap().is_waiting);
    let requests = fixture.server.requests();
    assert!(
        !requests.iter().any(|request| request.is_to_store),
        "{requests:?}"
    );
    assert!(snapshot.dir.join("model.safetensors").exists());
}

/// As if locks do not work: another process has the same file open, and is faster.
#[test]
fn two_writers_of_one_file_do_no_harm() {
    let fixture = Fixture::new();
    let snapshot = fixture.model().unwrap();
    leave_partial(&fixture, &weights(1)[..1_000_000]);
    let blobs = fixture.cached("blobs");
    let etag = etag_of_weights();
    let partial = blobs.join(format!("{etag}.sae-run.incomplete"));
    let mut is_first = true;
    let mut overtake = |progress: Progress| {
        if progress.done_bytes > 1_000_000 && std::mem::take(&mut is_first) {
            let written = OpenOptions::new().write(true).open(&partial);
            std::io::Write::write_all(&mut written.unwrap(), &weights(1)).unwrap();
            fs::rename(&partial, blobs.join(&etag)).unwrap();
        }
    };
    let delay = Fault::delay(Duration::from_millis(300))
        .on("GET")
        .on("signature");
    fixture
        .server
        .fail(Fault::truncate().on("GET").on("signature").times(1));
    fixture.server.fail(delay);
    let hub = fixture.hub();
    hub.download_weights(&snapshot, &mut overtake).unwrap();
    assert!(!is_first);
    assert!(fs::read(snapshot.dir.join("model.safetensors")).unwrap() == weights(1));
    assert_eq!(names(&blobs).len(), 4);
}

#[test]
fn two_at_once_give_one_file() {
    let fixture = Fixture::new();
    let snapshot = fixture.model().unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| fixture.weights(&snapshot).unwrap());
        }
    });
    let store: Vec<_> = fixture.server.requests();
    let n_gets = store
        .iter()
        .filter(|r| r.is_to_store && r.method == "GET")
        .count();
    assert_eq!(n_gets, 1);
    assert_eq!(names(&fixture.cached("blobs")).len(), 4);
}

#[test]
fn works_within_an_async_runtime() {
    let fixture = Fixture::new();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let snapshot = runtime.block_on(async { fixture.whole_model().unwrap() });
    assert!(snapshot.dir.join("model.safetensors").exists());
}

#[test]
fn a_moved_branch_that_cannot_be_asked_for_is_a_notice() {
    let fixture = Fixture::new();
    let snapshot = fixture.whole_model().unwrap();
    fixture.server.fail(Fault::status(503));
    let again = fixture.model().unwrap();
    assert_eq!(again.commit, snapshot.commit);
    let Some(Notice::FromCache {
        revision, commit, ..
    }) = &again.notice
    else {
        panic!("{again:?}");
    };
    assert_eq!((revision.as_str(), commit), ("main", &snapshot.commit));
    // Once before and once now: the cached commit can be used.
    let asked = fixture.asked();
    assert_eq!(
        asked
            .iter()
            .filter(|line| line.contains("/revision/"))
            .count(),
        2
    );
    let text = again.notice.unwrap().to_string();
    assert!(
        text.contains("503") && text.contains(&snapshot.commit),
        "{text}"
    );
}
