//! Whatever bytes come from elsewhere, they are taken or refused.

use crate::digest::Etag;
use crate::listing::{self, Listing};
use crate::name::{self, RepoId, Revision};
use crate::refusal::retry_after;
use crate::tree::RevisionInfo;
use crate::{RepoKind, endpoint, files, tree};
use ::files::testing::any_bytes;
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

/// Bytes of any kind, and sound answers with some damage.
fn answers() -> impl Strategy<Value = Vec<u8>> {
    any_bytes(
        sound_answers()
            .map(|answer| answer.to_string().into())
            .into(),
    )
}

/// A path that was taken leads to nowhere else.
fn assert_below(path: &str) {
    let components = Path::new(path).components();
    let is_plain = |component| matches!(component, Component::Normal(_));
    assert!(components.into_iter().all(is_plain), "{path:?}");
}

proptest! {
    #[test]
    fn any_bytes_of_answers_are_taken_or_refused(bytes in answers()) {
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
    fn any_bytes_of_headers_are_taken_or_refused(bytes in vec(any::<u8>(), 0..60), link in "[<>;,?/:#a-z0-9\" =]{0,40}") {
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
    fn any_bytes_of_names_are_taken_or_refused(text in prop_oneof![any::<String>(), "[-a-zA-Z0-9_./\\\\:~%@? ]{0,30}"]) {
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
    fn any_bytes_of_endpoints_keep_no_secret(text in "(https?://)?[-a-z0-9.:/@?#%\\[\\]]{0,20}hunter2[-a-z0-9.:/@?#%]{0,20}") {
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
