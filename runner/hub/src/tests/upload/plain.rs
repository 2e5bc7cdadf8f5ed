//! Uploads in which nothing goes wrong except what the user asks for.

use super::*;
use crate::UploadStep;
use hub_server::Access;
use std::collections::BTreeSet;

#[test]
fn a_model_is_made_and_downloads_as_it_was_sent() {
    let fixture = Fixture::new();
    let upload = fixture.sae();
    let uploaded = fixture.upload(&upload).unwrap();
    assert!(uploaded.is_new_repo && uploaded.is_new_commit);
    assert_eq!(uploaded.page, format!("{}/{REPO}", fixture.server.url()));
    assert_eq!(uploaded.commit, fixture.server.history(REPO, "main")[0]);
    fixture.assert_there(&upload, 1);
    let file = &uploaded.files[1];
    assert_eq!((file.n_bytes, file.is_new), (9, true));
    // By `printf '{"k": 32}' | sha256sum`.
    let expected = "4aa9116e6e844f1cccd580bbd9bbbf2da77e836966a084166d3cb1443edacba8";
    assert_eq!(file.sha256, expected);
    // The large file never was in the text of a commit.
    let commits = fixture.requests("POST /api/models/org/saes/commit/main");
    assert!(commits[0].body_bytes < 2000, "{commits:?}");
    // What all may see is read without a token.
    let anybody = fixture.hub_with(|settings| settings.token = None);
    let listing = anybody.plan_upload(&upload, &mut |_| {}).unwrap();
    assert!(listing.files.iter().all(|file| !file.is_new));
}

#[test]
fn a_private_model_is_hidden() {
    let fixture = Fixture::new();
    let upload = Upload {
        private: true,
        ..fixture.sae()
    };
    fixture.upload(&upload).unwrap();
    let anybody = fixture.hub_with(|settings| settings.token = None);
    let plan = anybody.plan_upload(&upload, &mut |_| {}).unwrap();
    assert!(plan.makes_repo && plan.parent.is_none());
    let plan = fixture.hub().plan_upload(&upload, &mut |_| {}).unwrap();
    assert!(!plan.makes_repo && plan.files.iter().all(|file| !file.is_new));
}

#[test]
fn what_is_there_is_not_sent_again() {
    let fixture = Fixture::new();
    let upload = fixture.sae();
    let first = fixture.upload(&upload).unwrap();
    fixture.server.forget_requests();
    let second = fixture.upload(&upload).unwrap();
    assert!(!second.is_new_commit && !second.is_new_repo);
    assert_eq!(second.commit, first.commit);
    assert_eq!(new_paths(&second), Vec::<&str>::new());
    assert!(
        fixture
            .server
            .requests()
            .iter()
            .all(|request| request.method == "GET")
    );
    fixture.assert_there(&upload, 1);
}

#[test]
fn of_a_hundred_folders_only_the_changed_ones_are_sent() {
    let fixture = Fixture::new();
    let sae = |layer: u32, seed: u32| {
        let content = &large(seed)[..20_000];
        [
            fixture.file(
                &format!("layers.{layer}/cfg.json"),
                format!("{seed}").as_bytes(),
            ),
            fixture.file(&format!("layers.{layer}/sae.safetensors"), content),
        ]
    };
    let first = upload((0..100).flat_map(|layer| sae(layer, layer)));
    fixture.upload(&first).unwrap();
    fixture.server.forget_requests();
    let changed: BTreeSet<u32> = [3, 7, 20, 50, 99].into();
    let seed = |layer| layer + if changed.contains(&layer) { 1000 } else { 0 };
    let second = upload((0..100).flat_map(|layer| sae(layer, seed(layer))));
    let uploaded = fixture.upload(&second).unwrap();
    assert_eq!(uploaded.files.len(), 200);
    assert_eq!(new_paths(&uploaded).len(), 10);
    assert_eq!(fixture.n_requests("PUT /upload/"), 5);
    let sent_bytes: u64 = fixture.body_bytes("PUT").iter().sum();
    assert_eq!(sent_bytes, 100_000);
    assert!(
        fixture
            .requests("POST")
            .iter()
            .all(|post| post.body_bytes < 10_000)
    );
    fixture.assert_there(&second, 2);
}

#[test]
fn files_of_the_branch_stay() {
    let fixture = Fixture::new();
    fixture.upload(&fixture.sae()).unwrap();
    let more = upload([bytes("layers.1/cfg.json", b"{}")]);
    let uploaded = fixture.upload(&more).unwrap();
    assert_eq!(new_paths(&uploaded), ["layers.1/cfg.json"]);
    fixture.assert_there(&fixture.sae(), 2);
    fixture.assert_there(&more, 2);
}

#[test]
fn the_same_content_is_sent_once() {
    let fixture = Fixture::new();
    let twice =
        upload(["a.safetensors", "b.safetensors"].map(|path| fixture.file(path, &large(1))));
    fixture.upload(&twice).unwrap();
    assert_eq!(fixture.n_requests("PUT"), 1);
    fixture.assert_there(&twice, 1);
}

#[test]
fn a_branch_is_made_of_main() {
    let fixture = Fixture::new();
    let on_branch = |name: &str| Upload {
        branch: Some(name.into()),
        ..upload([bytes("x.json", name.as_bytes())])
    };
    // Of a model that is not there, too.
    fixture.upload(&on_branch("tries/1")).unwrap();
    fixture.assert_there(&on_branch("tries/1"), 1);
    fixture.upload(&fixture.sae()).unwrap();
    let plan = fixture
        .hub()
        .plan_upload(&on_branch("v2"), &mut |_| {})
        .unwrap();
    assert!(plan.makes_branch && !plan.makes_repo);
    assert_eq!(
        plan.parent.as_ref(),
        fixture.server.history(REPO, "main").first()
    );
    fixture.upload(&on_branch("v2")).unwrap();
    fixture.assert_there(&on_branch("v2"), 2);
    assert!(fixture.server.files(REPO, "v2").contains_key("README.md"));
    assert!(!fixture.server.files(REPO, "main").contains_key("x.json"));
}

#[test]
fn a_plan_changes_nothing() {
    let fixture = Fixture::new();
    let upload = fixture.sae();
    let plan = fixture.hub().plan_upload(&upload, &mut |_| {}).unwrap();
    assert!(plan.makes_repo && !plan.makes_branch);
    assert!(plan.parent.is_none() && plan.files.iter().all(|file| file.is_new));
    let uploaded = fixture.upload(&upload).unwrap();
    assert_eq!(uploaded.files, plan.files);
    fixture.server.forget_requests();
    let mut changed = upload.clone();
    changed.files[0] = bytes("README.md", b"# More SAEs");
    let plan = fixture.hub().plan_upload(&changed, &mut |_| {}).unwrap();
    assert_eq!(plan.parent, Some(uploaded.commit));
    let is_new: Vec<_> = plan.files.iter().map(|file| file.is_new).collect();
    assert_eq!(is_new, [true, false, false]);
    assert!(
        fixture
            .server
            .requests()
            .iter()
            .all(|request| request.method == "GET")
    );
    fixture.assert_there(&upload, 1);
}

#[test]
fn files_without_bytes_and_odd_names_arrive() {
    let fixture = Fixture::new();
    let odd = upload([
        bytes("empty.safetensors", b""),
        bytes("a b/ä #1%2F?.json", b"{}"),
        bytes(".gitattributes", b"* text\n"),
    ]);
    fixture.upload(&odd).unwrap();
    fixture.assert_there(&odd, 1);
    assert!(!fixture.upload(&odd).unwrap().is_new_commit);
}

#[test]
fn progress_counts_bytes() {
    let fixture = Fixture::new();
    let (uploaded, seen) = fixture.watched(&fixture.sae());
    let last_of = |step| *seen.iter().rfind(|now| now.step == step).unwrap();
    let total_bytes: u64 = uploaded.files.iter().map(|file| file.n_bytes).sum();
    let hashed = last_of(UploadStep::Hashing);
    assert_eq!(
        (hashed.done_bytes, hashed.total_bytes),
        (total_bytes, total_bytes)
    );
    let sent = last_of(UploadStep::Sending);
    assert_eq!((sent.n_files_done, sent.n_files), (1, 1));
    assert_eq!(sent.done_bytes, LARGE_BYTES as u64);
    let n_steps = seen
        .iter()
        .filter(|now| now.step == UploadStep::Sending)
        .count();
    assert!(n_steps > 4, "{seen:?}");
    let committed = last_of(UploadStep::Committing);
    assert_eq!((committed.n_files_done, committed.n_files), (2, 2));
    assert!(seen.iter().all(|now| now.done_bytes <= now.total_bytes));
}

#[test]
fn what_can_not_be_uploaded_is_refused_before_anything_is_asked() {
    let fixture = Fixture::new();
    let error = |upload: &Upload| fixture.upload(upload).unwrap_err();
    for path in [
        "../x",
        "/x",
        "a//b",
        "",
        "a\\b",
        ".git/config",
        "a/.GIT/x",
        "a\n",
    ] {
        let found = error(&upload([bytes(path, b"x")]));
        assert!(
            says(&found, &format!("{path:?} is not a path in a repository")),
            "{found:?}"
        );
    }
    let found = error(&upload([bytes("a", b"x"), bytes("a", b"y")]));
    assert!(says(&found, "there are two files for"), "{found:?}");
    let missing = UploadFile {
        path: "a".into(),
        source: UploadSource::File(fixture.path("nowhere")),
    };
    let found = error(&upload([missing]));
    assert!(says(&found, "nowhere`"), "{found:?}");
    let named = |repo: &str, branch: Option<&str>| Upload {
        repo: repo.into(),
        branch: branch.map(str::to_owned),
        ..upload([bytes("a", b"x")])
    };
    let found = error(&named("a/../b", None));
    assert!(says(&found, "is not the id of a"), "{found:?}");
    let found = error(&named("saes", None));
    assert!(says(&found, "does not say who owns it"), "{found:?}");
    let found = error(&named(REPO, Some("../main")));
    assert!(matches!(found, HubError::BadRevision(_)), "{found:?}");
    let found = error(&named(REPO, Some(&"a".repeat(40))));
    assert!(
        says(&found, "is a commit, to which nothing can be added"),
        "{found:?}"
    );
    assert!(fixture.server.requests().is_empty());
}

#[test]
fn offline_and_without_a_token_nothing_is_asked() {
    let fixture = Fixture::new();
    let upload = fixture.sae();
    let offline = fixture.hub_with(|settings| settings.offline = true);
    let error = offline.upload(&upload, &mut |_| {}).unwrap_err();
    assert!(
        says(&error, "offline, so nothing can be uploaded"),
        "{error:?}"
    );
    let error = offline.plan_upload(&upload, &mut |_| {}).unwrap_err();
    assert!(
        says(&error, "offline, so nothing can be uploaded"),
        "{error:?}"
    );
    let nobody = fixture.hub_with(|settings| settings.token = None);
    let error = nobody.upload(&upload, &mut |_| {}).unwrap_err();
    assert!(
        says(&error, "needs a token, and no token is set"),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("HF_TOKEN"));
    assert!(fixture.server.requests().is_empty());
}

#[test]
fn a_token_has_to_be_the_right_one() {
    let fixture = Fixture::new();
    fixture.server.set_read_token("hf_reader");
    let with = |token: &str| fixture.hub_with(|settings| settings.token = Token::new(token));
    let upload = fixture.sae();
    for _ in 0..2 {
        let error = with("hf_reader").upload(&upload, &mut |_| {}).unwrap_err();
        assert!(says(&error, "this token may not write to"), "{error:?}");
        let error = with("hf_stranger")
            .upload(&upload, &mut |_| {})
            .unwrap_err();
        assert!(says(&error, "does not accept the token"), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("hf_stranger"));
        // The same of a model that is there.
        fixture
            .upload(&crate::tests::upload::upload([bytes("x", b"x")]))
            .unwrap();
    }
    assert_eq!(fixture.server.history(REPO, "main").len(), 2);
}

#[test]
fn a_name_of_something_else_is_taken() {
    let fixture = Fixture::new();
    let folder = fixture.path("data");
    fs::create_dir_all(&folder).unwrap();
    fixture.server.add_dataset(REPO, &folder);
    let error = fixture.upload(&fixture.sae()).unwrap_err();
    assert!(says(&error, "something that is not a model: "), "{error:?}");
    assert!(says(&error, "/datasets/org/saes"), "{error:?}");
}

#[test]
fn a_gated_model_takes_files_of_its_owner() {
    let fixture = Fixture::new();
    fixture.upload(&fixture.sae()).unwrap();
    fixture.server.restrict(REPO, Access::Gated);
    let more = upload([bytes("x.json", b"{}")]);
    fixture.upload(&more).unwrap();
    fixture.assert_there(&more, 2);
}

#[test]
fn a_token_does_not_go_to_the_stores() {
    let fixture = Fixture::new();
    fixture.upload(&fixture.sae()).unwrap();
    let requests = fixture.server.requests();
    let (to_store, to_hub): (Vec<_>, Vec<_>) = requests
        .into_iter()
        .partition(|request| request.is_to_store);
    assert!(!to_store.is_empty() && to_store.iter().all(|request| !request.is_authorized));
    assert!(to_hub.iter().all(|request| request.is_authorized));
}
