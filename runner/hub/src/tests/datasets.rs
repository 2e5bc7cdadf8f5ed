//! Data sets: what is listed, what is downloaded, and what is left alone.

use super::*;
use crate::{DatasetListing, ListedFile};
use hub_server::{Access, Fault};
use serde_json::json;

pub(super) const CARD: &str = "---\nconfigs:\n- config_name: default\n---\n# Some text\n";
pub(super) const LARGE: &str = "data/train-00000-of-00001.parquet";
pub(super) const ALL: [&str; 5] = [
    ".gitattributes",
    "README.md",
    LARGE,
    "data/validation/part 1#50%.txt",
    "notes.txt",
];

fn data_files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (ALL[0], b"*.parquet filter=lfs\n".to_vec()),
        (ALL[1], CARD.into()),
        (LARGE, weights(5)),
        (ALL[3], b"hello\n".to_vec()),
        (ALL[4], b"a note\n".to_vec()),
    ]
}

/// A Hub with a data set, and a model of the same name.
pub(super) fn with_dataset() -> Fixture {
    let mut fixture = Fixture::new();
    let folder = fixture.written(&data_files());
    fixture.commit = fixture.server.add_dataset(REPO, &folder);
    fixture
}

pub(super) fn list(fixture: &Fixture) -> Result<DatasetListing, HubError> {
    fixture.hub().dataset_listing(REPO, None)
}

pub(super) fn download(
    hub: &Hub,
    listing: &DatasetListing,
    names: &[&str],
) -> Result<Vec<PathBuf>, HubError> {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    hub.download_dataset_files(listing, &names, &mut |_| {})
}

fn listed_names(listing: &DatasetListing) -> Vec<&str> {
    let files = listing.files.iter();
    files.map(|file| file.name.as_str()).collect()
}

/// The data set's part of the cache.
pub(super) fn cached(fixture: &Fixture, path: &str) -> PathBuf {
    let dir = fixture.settings.cache_dir.join("datasets--org--name");
    dir.join(path)
}

#[test]
fn a_listing_brings_the_card_and_no_other_file() {
    let fixture = with_dataset();
    let listing = list(&fixture).unwrap();
    assert_eq!(
        (listing.repo.as_str(), &listing.commit),
        (REPO, &fixture.commit)
    );
    assert_eq!(
        listing.dir,
        cached(&fixture, "snapshots").join(&fixture.commit)
    );
    assert_eq!(listing.card.as_deref(), Some(CARD));
    assert!(listing.notice.is_none());
    assert_eq!(listed_names(&listing), ALL);
    assert_eq!(names(&listing.dir), ["README.md"]);
    let main = fs::read_to_string(cached(&fixture, "refs/main")).unwrap();
    assert_eq!(main, fixture.commit);
    let asked = fixture.asked();
    let resolved = asked.iter().filter(|line| line.contains("/resolve/"));
    assert!(resolved.clone().all(|line| line.ends_with("/README.md")));
    assert!(resolved.count() > 0);
    assert!(!asked.iter().any(|line| line.contains("signature")));
    assert!(!fixture.cached("").exists());
}

#[test]
fn files_are_listed_with_their_hashes() {
    let fixture = with_dataset();
    let listing = list(&fixture).unwrap();
    let file = |name: &str| listing.files.iter().find(|file| file.name == name).unwrap();
    let small = ListedFile {
        name: ALL[3].into(),
        n_bytes: 6,
        // By `printf 'hello\n' | git hash-object --stdin`.
        content_hash: "git:ce013625030ba8dba906f756967f9e9ca394464a".into(),
    };
    assert_eq!(*file(ALL[3]), small);
    let large = file(LARGE);
    assert_eq!(large.n_bytes, WEIGHT_BYTES as u64);
    let blob = download(&fixture.hub(), &listing, &[LARGE]).unwrap();
    let blob = blob[0].canonicalize().unwrap();
    let sha256 = blob.file_name().unwrap().to_str().unwrap();
    assert_eq!(large.content_hash, format!("sha256:{sha256}"));
    assert_eq!(sha256.len(), 64);
}

#[test]
fn files_come_in_the_order_they_are_asked_for() {
    let fixture = with_dataset();
    let listing = list(&fixture).unwrap();
    let wanted = [ALL[4], LARGE, ALL[3]];
    let paths = download(&fixture.hub(), &listing, &wanted).unwrap();
    let expected = wanted.map(|name| listing.dir.join(name));
    assert_eq!(paths, expected);
    let files = data_files();
    for (path, name) in paths.iter().zip(wanted) {
        let (_, content) = files.iter().find(|(other, _)| *other == name).unwrap();
        assert!(fs::read(path).unwrap() == *content, "{name}");
    }
    assert!(!listing.dir.join(".gitattributes").exists());
    fixture.asked();
    let again = download(&fixture.hub(), &listing, &wanted).unwrap();
    assert_eq!(again, expected);
    assert_eq!(fixture.asked(), [""; 0]);
}

#[test]
fn progress_counts_what_is_missing() {
    let fixture = with_dataset();
    let listing = list(&fixture).unwrap();
    let mut seen = Vec::new();
    let mut see = |progress: Progress| seen.push(progress);
    let wanted = [LARGE.to_owned(), "README.md".to_owned()];
    let hub = fixture.hub();
    hub.download_dataset_files(&listing, &wanted, &mut see)
        .unwrap();
    let total_bytes = WEIGHT_BYTES as u64;
    let done = Progress {
        n_files_done: 1,
        n_files: 1,
        done_bytes: total_bytes,
        total_bytes,
        is_waiting: false,
    };
    assert_eq!(seen.last(), Some(&done));
}

#[test]
fn a_listing_in_several_pages() {
    let fixture = with_dataset();
    fixture.server.set_page_size(2);
    assert_eq!(listed_names(&list(&fixture).unwrap()), ALL);
    let asked = fixture.asked();
    let pages = asked.iter().filter(|line| line.contains("/tree/"));
    // Two folders are listed too.
    assert_eq!(pages.count(), 4, "{asked:?}");
}

#[test]
fn a_branch_costs_one_request_and_a_commit_none() {
    let fixture = with_dataset();
    let first = list(&fixture).unwrap();
    fixture.asked();
    let again = list(&fixture).unwrap();
    assert_eq!((&again.files, &again.card), (&first.files, &first.card));
    let expected = "GET /api/datasets/org/name/revision/main?expand=sha";
    assert_eq!(fixture.asked(), [expected]);
    let commit = Some(first.commit.as_str());
    let again = fixture.hub().dataset_listing(REPO, commit).unwrap();
    assert_eq!(again.files, first.files);
    assert_eq!(fixture.asked(), [""; 0]);
}

#[test]
fn revisions_have_files_of_their_own() {
    let fixture = with_dataset();
    let parquet = "default/train/0000.parquet";
    for (revision, in_address) in [
        ("refs/convert/parquet", "/revision/refs%2Fconvert%2Fparquet"),
        ("v2.0", "/revision/v2.0"),
    ] {
        let folder = fixture.written(&[(parquet, revision.into())]);
        let commit = fixture.server.add_dataset_revision(REPO, revision, &folder);
        fixture.asked();
        let listing = fixture.hub().dataset_listing(REPO, Some(revision)).unwrap();
        assert_eq!(listing.commit, commit);
        assert_eq!(listed_names(&listing), [parquet]);
        assert_eq!(listing.card, None);
        let asked = fixture.asked();
        assert!(
            asked.iter().any(|line| line.contains(in_address)),
            "{asked:?}"
        );
        let paths = download(&fixture.hub(), &listing, &[parquet]).unwrap();
        assert_eq!(fs::read(&paths[0]).unwrap(), revision.as_bytes());
        let offline = fixture.offline().dataset_listing(REPO, Some(revision));
        assert_eq!(offline.unwrap().files, listing.files);
    }
    assert_eq!(names(&cached(&fixture, "refs/refs/convert")), ["parquet"]);
    assert_eq!(list(&fixture).unwrap().commit, fixture.commit);
}

/// As `squad`, which has an owner by now.
#[test]
fn an_old_id_leads_to_the_new_one() {
    let fixture = with_dataset();
    fixture.server.rename("squad", REPO);
    let listing = fixture.hub().dataset_listing("squad", None).unwrap();
    assert_eq!(listing.commit, fixture.commit);
    assert_eq!(listed_names(&listing), ALL);
    let folder = fixture.settings.cache_dir.join("datasets--squad");
    assert!(listing.dir.starts_with(folder));
    let paths = download(&fixture.hub(), &listing, &[LARGE]).unwrap();
    assert!(fs::read(&paths[0]).unwrap() == weights(5));
}

#[test]
fn a_data_set_that_is_not_there() {
    let fixture = Fixture::new();
    // There is a model of this name.
    let error = list(&fixture).unwrap_err();
    assert_eq!(error.to_string(), "the Hub has no data set `org/name`");
    assert!(
        error
            .hint()
            .unwrap()
            .contains("private data sets need a token")
    );
    let error = fixture.hub().dataset_listing("a/b/c", None).unwrap_err();
    assert!(
        says(&error, "is not the id of a data set on the Hub"),
        "{error:?}"
    );
    let fixture = with_dataset();
    for revision in ["v3", &"0".repeat(40)] {
        let error = fixture
            .hub()
            .dataset_listing(REPO, Some(revision))
            .unwrap_err();
        assert!(matches!(error, HubError::NoSuchRevision(_)), "{error:?}");
    }
    assert_eq!(names(&cached(&fixture, "refs")), [""; 0]);
}

#[test]
fn private_data_sets_need_the_token() {
    let fixture = with_dataset();
    fixture.server.set_token("hf_secret");
    fixture.server.restrict(REPO, Access::Private);
    let error = list(&fixture).unwrap_err();
    assert!(matches!(error, HubError::NoSuchRepo(_)), "{error:?}");
    let hub = fixture.with_token("hf_secret");
    let listing = hub.dataset_listing(REPO, None).unwrap();
    download(&hub, &listing, &ALL).unwrap();
    for request in fixture.server.requests().iter().skip(1) {
        assert_eq!(request.is_authorized, !request.is_to_store, "{request:?}");
    }
}

#[test]
fn gated_data_sets_name_their_page() {
    let fixture = with_dataset();
    fixture.server.set_token("hf_secret");
    fixture.server.restrict(REPO, Access::GatedToAll);
    for (hub, why) in [
        (fixture.hub(), "there is no token"),
        (fixture.with_token("hf_secret"), "this token's owner has no"),
    ] {
        let error = hub.dataset_listing(REPO, None).unwrap_err();
        let part = format!("it is gated, and {why}");
        assert!(says(&error, &part), "{error:?}");
        let page = format!("{}/datasets/{REPO}", fixture.server.url());
        assert!(error.hint().unwrap().contains(&page), "{:?}", error.hint());
    }
    fixture.server.restrict(REPO, Access::Gated);
    let hub = fixture.with_token("hf_secret");
    let listing = hub.dataset_listing(REPO, None).unwrap();
    // The card is there now, the other files are not.
    assert_eq!(list(&fixture).unwrap().files, listing.files);
    let error = download(&fixture.hub(), &listing, &[LARGE]).unwrap_err();
    assert!(says(&error, "it is gated"), "{error:?}");
    download(&hub, &listing, &[LARGE]).unwrap();
}

/// The listing comes from another Hub then, as from a mirror.
#[test]
fn the_token_goes_to_no_other_hub() {
    let fixture = with_dataset();
    fixture.server.set_token("hf_secret");
    let other = with_dataset();
    let path = format!("/api/datasets/{REPO}/tree/{}?recursive=true", other.commit);
    let elsewhere = format!("{}{path}", other.server.url());
    fixture
        .server
        .fail(Fault::redirect(&elsewhere).on("/tree/"));
    let hub = fixture.with_token("hf_secret");
    assert_eq!(listed_names(&hub.dataset_listing(REPO, None).unwrap()), ALL);
    let asked = other.server.requests();
    assert!(asked.len() == 1 && !asked[0].is_authorized, "{asked:?}");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in [
        "../x",
        "a/../../x",
        "/etc/x",
        "..",
        "a\\b",
        "..\\x",
        "a//b",
        "a/",
        "./a",
        "a/./b",
        "a\0b",
        "",
    ] {
        let fixture = with_dataset();
        fixture.server.rename_file(REPO, "notes.txt", name);
        let error = list(&fixture).unwrap_err();
        assert!(
            says(&error, &format!("lists a file called {name:?}")),
            "{error:?}"
        );
        assert!(!cached(&fixture, "").exists(), "{name:?}");
    }
}

/// A listing that was made by hand.
#[test]
fn names_that_are_not_listed_are_refused() {
    let fixture = with_dataset();
    let mut listing = list(&fixture).unwrap();
    listing.files[4].name = "../x".into();
    fixture.asked();
    for name in ["../x", "notes.txt", "data"] {
        let error = download(&fixture.hub(), &listing, &[name]).unwrap_err();
        assert!(says(&error, &format!("has no file `{name}`")), "{error:?}");
    }
    assert_eq!(fixture.asked(), [""; 0]);
}

#[test]
fn a_file_without_a_hash_is_refused() {
    let fixture = with_dataset();
    let entry = json!([{"type": "file", "path": "a", "size": 1, "oid": "0".repeat(40),
                        "xetHash": "1".repeat(64)}]);
    let answer = entry.to_string().into_bytes();
    fixture.server.fail(Fault::replace(&answer).on("/tree/"));
    let error = list(&fixture).unwrap_err();
    assert!(says(&error, "cannot understand what"), "{error:?}");
}

#[test]
fn a_card_that_is_no_text() {
    let fixture = with_dataset();
    let folder = fixture.written(&[("README.md", vec![b'#', 0xff])]);
    fixture.server.add_dataset(REPO, &folder);
    let error = list(&fixture).unwrap_err();
    assert!(
        says(&error, "cannot be read as the data set's card"),
        "{error:?}"
    );
    let entry = json!([{"type": "file", "path": "README.md", "size": 1u64 << 40,
                        "oid": "0".repeat(40)}]);
    let fixture = with_dataset();
    let answer = entry.to_string().into_bytes();
    fixture.server.fail(Fault::replace(&answer).on("/tree/"));
    let error = list(&fixture).unwrap_err();
    assert!(
        says(&error, "cannot be read as the data set's card"),
        "{error:?}"
    );
    assert!(
        !fixture
            .asked()
            .iter()
            .any(|line| line.contains("/resolve/"))
    );
}
