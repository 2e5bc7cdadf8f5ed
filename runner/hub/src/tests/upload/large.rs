//! The ways of large files.

use super::*;
use hub_server::Fault;
use std::env;
use std::process::{Command, Stdio};

const PART_BYTES: u64 = 250_000;

#[test]
fn parts_make_up_a_file() {
    let fixture = Fixture::new();
    fixture.server.split_uploads(PART_BYTES);
    let files = upload([
        fixture.file("a.safetensors", &large(1)),
        fixture.file("b.safetensors", &large(2)[..PART_BYTES as usize]),
        fixture.file("c.safetensors", &large(3)[..2 * PART_BYTES as usize]),
    ]);
    fixture.upload(&files).unwrap();
    fixture.assert_there(&files, 1);
    let lengths = |part: &str| {
        let mut lengths = fixture.body_bytes(part);
        lengths.sort_unstable();
        lengths
    };
    assert_eq!(lengths("PUT /part/3/"), [100_000]);
    assert_eq!(
        lengths("PUT /part/"),
        [100_000, PART_BYTES, PART_BYTES, PART_BYTES, PART_BYTES]
    );
    assert_eq!(lengths("PUT /upload/"), [PART_BYTES]);
    assert_eq!(fixture.n_requests("complete_multipart"), 2);
    assert_eq!(fixture.n_requests("objects/verify"), 3);
}

#[test]
fn the_xet_store_is_used_where_it_is_offered() {
    let fixture = Fixture::new();
    fixture.server.offer_xet();
    let mut files = fixture.sae();
    files.files.push(bytes("of memory.bin", &large(9)));
    let (uploaded, seen) = fixture.watched(&files);
    fixture.assert_there(&files, 1);
    assert_eq!(fixture.n_requests("PUT /upload/"), 0);
    assert!(fixture.n_requests("/shards") > 0);
    assert_eq!(
        seen.iter().map(|now| now.total_bytes).max().unwrap(),
        2 * LARGE_BYTES as u64 + 15
    );
    // The store takes what it has only once.
    fixture.server.forget_requests();
    let mut more = upload([fixture.file("again.safetensors", &large(0))]);
    more.branch = Some("again".into());
    fixture.upload(&more).unwrap();
    let sent_bytes: u64 = fixture.body_bytes("/xorb").iter().sum();
    assert!(sent_bytes < 1000, "{sent_bytes}");
    // Files of the Xet store are known again, and downloaded.
    assert!(!fixture.upload(&files).unwrap().is_new_commit);
    assert_eq!(fixture.server.files(REPO, &uploaded.commit).len(), 5);
}

#[test]
fn a_model_of_the_xet_store_downloads() {
    let fixture = Fixture::new();
    fixture.server.offer_xet();
    let model = upload([
        bytes("config.json", b"{\"model_type\": \"llama\"}"),
        fixture.file("model.safetensors", &large(5)),
    ]);
    let uploaded = fixture.upload(&model).unwrap();
    let snapshot = fixture.hub().model_files(REPO, None).unwrap();
    assert_eq!(snapshot.commit, uploaded.commit);
    fixture
        .hub()
        .download_weights(&snapshot, &mut |_| {})
        .unwrap();
    assert!(fs::read(snapshot.dir.join("model.safetensors")).unwrap() == large(5));
}

#[test]
fn a_way_that_nobody_knows_is_refused() {
    let fixture = Fixture::new();
    fixture.server.take_no_large_files();
    let error = fixture.upload(&fixture.sae()).unwrap_err();
    assert!(
        says(&error, "takes large files only by `pigeon`"),
        "{error:?}"
    );
    assert_eq!(fixture.n_requests("/commit/"), 0);
}

#[test]
fn a_large_file_never_goes_into_the_text_of_a_commit() {
    let fixture = Fixture::new();
    let modes =
        br#"{"files": [{"path": "x.txt", "uploadMode": "regular", "shouldIgnore": false}]}"#;
    fixture.server.fail(Fault::replace(modes).on("preupload"));
    let files = upload([fixture.file("x.txt", &vec![b'x'; (10 << 20) + 1])]);
    let error = fixture.upload(&files).unwrap_err();
    assert!(
        says(&error, "takes `x.txt` only as a small file"),
        "{error:?}"
    );
    assert_eq!(fixture.n_requests("/objects/batch"), 0);
    assert_eq!(fixture.n_requests("/commit/"), 0);
}

#[test]
fn what_arrived_before_a_cut_is_not_sent_again() {
    let fixture = Fixture::new();
    let files = upload(
        (0..6).map(|seed| fixture.file(&format!("layers.{seed}/sae.safetensors"), &large(seed))),
    );
    // The network ends in the middle of the last file.
    let last = crate::digest::hex(&<sha2::Sha256 as sha2::Digest>::digest(large(5)));
    fixture
        .server
        .fail(Fault::cut_upload(300_000).on("PUT").on(&last));
    let error = fixture.upload(&files).unwrap_err();
    assert!(matches!(error, HubError::Network(_)), "{error:?}");
    assert_eq!(fixture.server.history(REPO, "main").len(), 1);
    fixture.server.heal();
    fixture.server.forget_requests();
    fixture.upload(&files).unwrap();
    let puts = fixture.requests("PUT");
    assert_eq!(puts.len(), 1, "{puts:?}");
    assert!(puts[0].target.contains(&last));
    fixture.assert_there(&files, 1);
}

#[test]
fn what_reached_the_xet_store_before_a_cut_is_not_sent_again() {
    let fixture = Fixture::new();
    fixture.server.offer_xet();
    let files = fixture.sae();
    fixture.server.fail(Fault::status(403).on("/shards"));
    let error = fixture.upload(&files).unwrap_err();
    assert!(says(&error, "cannot store the large files of"), "{error:?}");
    let sent_bytes: u64 = fixture.body_bytes("PUT /simulation/xorb").iter().sum();
    assert!(sent_bytes > 10_000, "{sent_bytes}");
    fixture.server.heal();
    fixture.server.forget_requests();
    fixture.upload(&files).unwrap();
    fixture.assert_there(&files, 1);
    let sent_bytes: u64 = fixture.body_bytes("xorb").iter().sum();
    assert!(
        sent_bytes < 1000,
        "{sent_bytes} {:#?}",
        fixture.server.requests()
    );
}

#[test]
fn a_file_that_changes_meanwhile_is_not_published() {
    for ways in 0..3 {
        let fixture = Fixture::new();
        match ways {
            0 => {}
            1 => fixture.server.split_uploads(PART_BYTES),
            _ => fixture.server.offer_xet(),
        }
        let files = upload([fixture.file("sae.safetensors", &large(0))]);
        let path = fixture.path("sae.safetensors");
        // Of the same length, after it was hashed.
        let mut change = |now: UploadProgress| {
            if now.step == crate::UploadStep::Hashing && now.n_files_done == 1 {
                fs::write(&path, large(1)).unwrap();
            }
        };
        // So that the change is there before the file is sent.
        fixture
            .server
            .fail(Fault::delay(Duration::from_millis(200)).on("preupload"));
        let error = fixture.hub().upload(&files, &mut change).unwrap_err();
        assert!(
            says(&error, "was changed while it was uploaded"),
            "{ways}: {error:?}"
        );
        assert_eq!(fixture.server.history(REPO, "main").len(), 1);
    }
}

const CHILD: &str = "SAE_RUN_TEST_UPLOAD_HUB";

/// A large file is read in pieces: what a process needs for it does not grow with it.
#[test]
fn a_large_file_needs_little_memory() {
    const N_BYTES: u64 = 300 << 20;
    let name = "tests::upload::large::a_large_file_needs_little_memory";
    if let Ok(value) = env::var(CHILD) {
        let (endpoint, path) = value.split_once(' ').unwrap();
        let settings = HubSettings {
            token: Token::new(TOKEN),
            ..HubSettings::new(endpoint, &env::temp_dir())
        };
        let before = peak_bytes();
        let files = upload([UploadFile {
            path: "sae.safetensors".into(),
            source: UploadSource::File(path.into()),
        }]);
        Hub::new(settings)
            .unwrap()
            .upload(&files, &mut |_| {})
            .unwrap();
        let grown = peak_bytes() - before;
        assert!(grown < 32 << 20, "grew by {} MiB", grown >> 20);
        return;
    }
    for part_bytes in [None, Some(64 << 20)] {
        let fixture = Fixture::new();
        if let Some(part_bytes) = part_bytes {
            fixture.server.split_uploads(part_bytes);
        }
        let path = fixture.dir.path().join("large");
        fs::File::create(&path).unwrap().set_len(N_BYTES).unwrap();
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", name])
            .env(
                CHILD,
                format!("{} {}", fixture.server.url(), path.display()),
            )
            .stdout(Stdio::null())
            .status();
        assert!(child.unwrap().success());
        let puts = fixture.requests("PUT");
        assert_eq!(puts.iter().map(|put| put.body_bytes).sum::<u64>(), N_BYTES);
    }
}

/// The most memory that this process has needed.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

#[test]
fn uploads_work_within_a_runtime() {
    let fixture = Fixture::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime
        .unwrap()
        .block_on(async { fixture.upload(&fixture.sae()).unwrap() });
    fixture.assert_there(&fixture.sae(), 1);
}
