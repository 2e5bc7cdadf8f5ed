//! Commits whose answer is lost, and commits of others.

use super::*;
use hub_server::Fault;

const COMMIT: &str = "POST /api/models/org/saes/commit/main";

/// A Hub with the model, and an upload of another SAE to it.
fn with_model() -> (Fixture, Upload) {
    let fixture = Fixture::new();
    fixture.upload(&fixture.sae()).unwrap();
    fixture.server.forget_requests();
    let more = upload([
        fixture.file("layers.1/cfg.json", b"{}"),
        fixture.file("layers.1/sae.safetensors", &large(1)),
    ]);
    (fixture, more)
}

#[test]
fn a_lost_answer_does_not_commit_twice() {
    for fault in [
        Fault::lose_answer(),
        Fault::late_status(500),
        Fault::late_status(504),
        Fault::truncate(),
        Fault::replace(b"<html>a proxy</html>"),
        Fault::replace(br#"{"commitOid": "../.."}"#),
    ] {
        let (fixture, more) = with_model();
        fixture.server.fail(fault.on(COMMIT).times(1));
        let uploaded = fixture.upload(&more).unwrap();
        assert!(uploaded.is_new_commit && new_paths(&uploaded).len() == 2);
        assert_eq!(uploaded.commit, fixture.server.history(REPO, "main")[0]);
        assert_eq!(fixture.n_requests(COMMIT), 1);
        fixture.assert_there(&more, 2);
    }
}

#[test]
fn a_commit_that_was_not_made_is_made() {
    for fault in [
        Fault::status(500),
        Fault::status(503),
        Fault::cut_upload(10),
        Fault::rate_limit(0),
    ] {
        let (fixture, more) = with_model();
        fixture.server.fail(fault.on(COMMIT).times(2));
        fixture.upload(&more).unwrap();
        assert_eq!(fixture.n_requests(COMMIT), 3);
        assert_eq!(fixture.n_requests("PUT"), 1);
        fixture.assert_there(&more, 2);
    }
}

#[test]
fn a_commit_that_is_never_made_is_an_error() {
    let (fixture, more) = with_model();
    fixture.server.fail(Fault::status(503).on(COMMIT));
    let error = fixture.upload(&more).unwrap_err();
    assert!(says(&error, "with status 503"), "{error:?}");
    assert_eq!(fixture.n_requests(COMMIT), 3);
    // Nothing is lost: the large file is there.
    fixture.server.heal();
    fixture.server.forget_requests();
    fixture.upload(&more).unwrap();
    assert_eq!(fixture.n_requests("PUT"), 0);
    fixture.assert_there(&more, 2);
}

#[test]
fn a_commit_that_nobody_knows_of_is_said_to_be_so() {
    let (fixture, more) = with_model();
    fixture.server.fail(Fault::lose_answer().on(COMMIT));
    fixture
        .server
        .fail(Fault::status(500).on("GET").on("/commits/"));
    let error = fixture.upload(&more).unwrap_err();
    assert!(
        says(&error, "it is not known whether the commit"),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("run it again"));
    fixture.server.heal();
    let uploaded = fixture.upload(&more).unwrap();
    assert!(!uploaded.is_new_commit);
    fixture.assert_there(&more, 2);
}

#[test]
fn a_commit_of_somebody_else_stays() {
    let (fixture, more) = with_model();
    let other = upload([bytes("README.md", b"")]);
    // Another user's commit comes in between: the one before it is no longer the last.
    let parent = fixture.server.history(REPO, "main")[0].clone();
    let tip = format!(r#"{{"sha": "{parent}"}}"#);
    fixture.upload(&other).unwrap();
    fixture.server.forget_requests();
    fixture.server.fail(
        Fault::replace(tip.as_bytes())
            .on("GET")
            .on("/revision/main")
            .times(1),
    );
    let uploaded = fixture.upload(&more).unwrap();
    assert!(uploaded.is_new_commit);
    assert_eq!(fixture.n_requests(COMMIT), 2);
    assert_eq!(fixture.n_requests("PUT"), 1);
    fixture.assert_there(&more, 3);
    fixture.assert_there(&other, 3);
}

#[test]
fn two_uploads_at_once_are_two_commits() {
    let (fixture, more) = with_model();
    let other = upload([bytes("README.md", b"of another")]);
    // The other one is done before the large file of this one has arrived.
    let slow = Fault::delay(Duration::from_millis(500)).on("PUT");
    fixture.server.fail(slow);
    let hub = fixture.hub();
    let mut is_sending = false;
    let mut commit_other = |now: UploadProgress| {
        let begins = now.step == crate::UploadStep::Sending;
        if begins && !std::mem::replace(&mut is_sending, begins) {
            hub.upload(&other, &mut |_| {}).unwrap();
        }
    };
    let uploaded = fixture.hub().upload(&more, &mut commit_other).unwrap();
    assert!(uploaded.is_new_commit);
    // The other one's, ours on an old one, and ours on the other one's.
    assert_eq!(fixture.n_requests(COMMIT), 3);
    assert_eq!(fixture.n_requests("PUT"), 1);
    fixture.assert_there(&more, 3);
    fixture.assert_there(&other, 3);
}

#[test]
fn who_is_always_overtaken_is_told() {
    let (fixture, more) = with_model();
    let parent = fixture.server.history(REPO, "main")[0].clone();
    fixture.upload(&upload([bytes("x", b"x")])).unwrap();
    let tip = format!(r#"{{"sha": "{parent}"}}"#);
    fixture.server.fail(
        Fault::replace(tip.as_bytes())
            .on("GET")
            .on("/revision/main"),
    );
    let error = fixture.upload(&more).unwrap_err();
    assert!(
        says(&error, "was changed by others, 4 times in a row"),
        "{error:?}"
    );
    assert_eq!(fixture.n_requests("PUT"), 1);
    assert_eq!(fixture.server.history(REPO, "main").len(), 3);
}

/// The answer is lost, and another user commits on top before it is looked for.
#[test]
fn a_lost_commit_is_found_below_that_of_somebody_else() {
    let (fixture, more) = with_model();
    fixture
        .server
        .fail(Fault::lose_answer().on(COMMIT).times(1));
    fixture
        .server
        .fail(Fault::delay(Duration::from_millis(500)).on("/commits/main"));
    let uploaded = std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            while fixture.server.history(REPO, "main").len() < 3 {
                std::thread::sleep(Duration::from_millis(5));
            }
            fixture.upload(&upload([bytes("x", b"x")])).unwrap()
        });
        let uploaded = fixture.upload(&more).unwrap();
        other.join().unwrap();
        uploaded
    });
    let history = fixture.server.history(REPO, "main");
    assert_eq!(history.len(), 4);
    assert!(uploaded.is_new_commit);
    assert_eq!(uploaded.commit, history[1]);
}
