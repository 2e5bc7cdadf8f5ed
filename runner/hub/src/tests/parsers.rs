//! Whatever bytes come from elsewhere, they are taken or refused.

use crate::asked::retry_after;
use crate::digest::Etag;
use crate::listing::{self, Listing};
use crate::name::{self, RepoId, Revision};
use crate::remote::RevisionInfo;
use crate::{RepoKind, endpoint, files, tree};
use proptest::collection::vec;
use proptest::prelude::*;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, LINK, RETRY_AFTER};
use serde_json::{Value, json};
use std::path::{Component, Path};

/// Sound answers, to be damaged.
fn sound_answers() -> [Value; 5] {
    let (git, sha256) = ("a".repeat(40), "b".repeat(64));
    [
        json!({"sha": git, "siblings": [{"rfilename": "a"}]}),
        json!([{"type": "file", "path": "a/b", "size": 7, "oid": git,
                "lfs": {"oid": sha256, "size": 7, "pointerSize": 130}, "xetHash": sha256},
               {"type": "directory", "path": "a", "size": 0, "oid": git}]),
        json!({"format_version": 1, "files": [{"name": "a/b", "n_bytes": 7,
                                               "content_hash": format!("git:{git}")}]}),
        json!({"format_version": 1, "files": {"a/b": {"size": 7, "blob_id": git,
                                                      "lfs_sha256": sha256}}}),
        json!({"metadata": {"total_size": 7}, "weight_map": {"a": "a.safetensors"}}),
    ]
}

/// Bytes of any kind, and sound answers with some of their bytes replaced, taken out or put in.
fn answers() -> impl Strategy<Value = Vec<u8>> {
    let damage = vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 0..6);
    let damaged = (0..sound_answers().len(), damage).prop_map(|(which, damage)| {
        let mut bytes = sound_answers()[which].to_string().into_bytes();
        for (place, byte, how) in damage {
            let at = place.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, byte),
                // Numbers that are too long, and brackets that are too deep.
                _ => drop(bytes.splice(
                    at..at,
                    std::iter::repeat_n(b"[9{\""[byte as usize % 4], 300),
                )),
            }
            bytes.push(b' ');
        }
        bytes
    });
    prop_oneof![vec(any::<u8>(), 0..300), damaged]
}

/// A path that was taken leads to nowhere else.
fn assert_below(path: &str) {
    let components = Path::new(path).components();
    let is_plain = |component| matches!(component, Component::Normal(_));
    assert!(components.into_iter().all(is_plain), "{path:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn answers_are_taken_or_refused(bytes in answers()) {
        if let Some(commit) = RevisionInfo::parse(&bytes).ok().and_then(RevisionInfo::commit) {
            prop_assert!(name::is_commit(&commit));
        }
        let _ = tree::parse_page(&bytes);
        for file in listing::parse_files(&bytes).into_iter().flatten() {
            assert_below(&file.name);
        }
        if let Some(listing) = Listing::parse(&bytes) {
            for file in listing.files().into_iter().flatten() {
                assert_below(&file.name);
            }
        }
        let _ = files::shards_in(&bytes);
    }

    #[test]
    fn headers_are_taken_or_refused(bytes in vec(any::<u8>(), 0..60), link in "[<>;,?/:#a-z0-9\" =]{0,40}") {
        let url = Url::parse("https://host/api/x?cursor=1").unwrap();
        let link = format!("{link}<{link}>; rel=\"next\"").into_bytes();
        for value in [bytes, link] {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let headers = HeaderMap::from_iter([(LINK, value.clone()), (RETRY_AFTER, value)]);
                let _ = (tree::next_page(&url, &headers), retry_after(&headers));
            }
        }
    }

    #[test]
    fn names_are_taken_or_refused(text in prop_oneof![any::<String>(), "[-a-zA-Z0-9_./\\\\:~%@? ]{0,30}"]) {
        for kind in [RepoKind::Model, RepoKind::Dataset] {
            if let Ok(repo) = RepoId::parse(kind, &text) {
                prop_assert_eq!(Path::new(&repo.folder()).components().count(), 1);
                assert_below(&repo.folder());
                if let Ok(revision) = Revision::parse(&repo, Some(&text)) {
                    assert_below(revision.as_str());
                }
            }
        }
        if name::is_path_of_file(&text) || name::is_file_name(&text) {
            assert_below(&text);
        }
        if let Some(etag) = Etag::parse(&text) {
            assert_below(etag.as_str());
            let hash = etag.content_hash();
            prop_assert!(hash.is_none_or(|hash| Etag::of_content_hash(&hash).is_some()));
        }
        let _ = Etag::of_content_hash(&text);
    }

    #[test]
    fn endpoints_keep_no_secret(text in "(https?://)?[-a-z0-9.:/@?#%\\[\\]]{0,20}hunter2[-a-z0-9.:/@?#%]{0,20}") {
        match endpoint::checked(&text) {
            Ok(endpoint) => {
                let url = Url::parse(&endpoint).unwrap();
                prop_assert!(url.username().is_empty() && url.password().is_none());
                prop_assert!(url.query().is_none() && url.fragment().is_none());
                prop_assert!(!endpoint.ends_with('/'));
            }
            Err(error) => {
                let told = format!("{error} {error:?}");
                prop_assert!(!told.contains("hunter2"));
            }
        }
    }
}
