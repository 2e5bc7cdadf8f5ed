//! What goes wrong on the way, one by one: what is said, that nothing is doubled, and that nothing
//! is lost.

use super::*;
use hub_server::Fault;
use std::time::Instant;

const PART_BYTES: u64 = 250_000;

/// How the Hub takes large files.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Way {
    Basic,
    Parts,
    Xet,
}

pub(super) const WAYS: [Way; 3] = [Way::Basic, Way::Parts, Way::Xet];

pub(super) fn fixture(way: Way) -> Fixture {
    let fixture = Fixture::new();
    match way {
        Way::Basic => {}
        Way::Parts => fixture.server.split_uploads(PART_BYTES),
        Way::Xet => fixture.server.offer_xet(),
    }
    fixture
}

/// Requests of an upload to a Hub without the model, but the commit.
pub(super) fn steps(way: Way) -> Vec<&'static str> {
    let mut steps = vec![
        "GET /api/models/org/saes/revision/main",
        "POST /api/repos/create",
        "GET /api/models/org/saes/tree/",
        "POST /api/models/org/saes/preupload/main",
        "POST /org/saes.git/info/lfs/objects/batch",
    ];
    steps.extend_from_slice(match way {
        Way::Basic => &["PUT /upload/", "/objects/verify"],
        Way::Parts => &["PUT /part/2/", "/complete_multipart", "/objects/verify"],
        Way::Xet => &["GET /api/models/org/saes/xet-write-token/main"],
    });
    steps
}

#[test]
fn what_passes_is_tried_again() {
    for way in WAYS {
        for step in steps(way) {
            for fault in [
                Fault::status(500),
                Fault::status(503),
                Fault::status(429),
                Fault::cut_upload(0),
                Fault::lose_answer(),
            ] {
                let fixture = fixture(way);
                fixture.server.fail(fault.clone().on(step).times(1));
                let upload = fixture.sae();
                let uploaded = fixture.upload(&upload);
                let uploaded = uploaded.unwrap_or_else(|error| {
                    panic!("{way:?} {step} {fault:?}: {error:?}");
                });
                assert!(uploaded.is_new_commit);
                assert!(fixture.n_requests(step) >= 2, "{way:?} {step} {fault:?}");
                fixture.assert_there(&upload, 1);
            }
        }
    }
}

#[test]
fn what_does_not_pass_is_an_error() {
    for way in WAYS {
        for step in steps(way) {
            let fixture = fixture(way);
            fixture.server.fail(Fault::status(500).on(step));
            let error = fixture.upload(&fixture.sae()).unwrap_err();
            assert!(says(&error, "with status 500"), "{way:?} {step}: {error:?}");
            assert_eq!(fixture.n_requests(step), 3, "{way:?} {step}");
            assert!(fixture.server.history(REPO, "main").len() <= 1);
            // What arrived is not sent again.
            fixture.server.heal();
            fixture.upload(&fixture.sae()).unwrap();
            fixture.assert_there(&fixture.sae(), 1);
        }
    }
}

#[test]
fn refusals_are_told_apart() {
    type IsRight = fn(&HubError) -> bool;
    let cases: [(u16, IsRight); 3] = [
        (401, |error| says(error, "does not accept the token")),
        (403, |error| says(error, "this token may not write to")),
        (422, |error| says(error, "with status 422: this is a test")),
    ];
    for step in [
        "POST /api/repos/create",
        "/preupload/",
        "/objects/batch",
        "/commit/main",
    ] {
        for (status, is_right) in cases {
            let fixture = fixture(Way::Basic);
            fixture.server.fail(Fault::status(status).on(step));
            let error = fixture.upload(&fixture.sae()).unwrap_err();
            assert!(is_right(&error), "{step} {status}: {error:?}");
            assert_eq!(fixture.n_requests(step), 1, "{step} {status}");
            assert!(!format!("{error} {error:?}").contains(TOKEN));
        }
    }
}

#[test]
fn a_hub_that_asks_to_wait_is_given_time() {
    let fixture = fixture(Way::Basic);
    fixture.server.fail(Fault::rate_limit(1).on("PUT").times(1));
    fixture
        .server
        .fail(Fault::rate_limit(1).on("/preupload/").times(1));
    let start = Instant::now();
    fixture.upload(&fixture.sae()).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(2));
    fixture.assert_there(&fixture.sae(), 1);
}

#[test]
fn a_hub_that_asks_to_wait_too_long_is_an_error() {
    for step in ["/preupload/", "PUT /upload", "/commit/main"] {
        let fixture = fixture(Way::Basic);
        fixture.server.fail(Fault::rate_limit(3600).on(step));
        let error = fixture.upload(&fixture.sae()).unwrap_err();
        assert!(
            matches!(error, HubError::RateLimited(_)),
            "{step}: {error:?}"
        );
        assert!(says(&error, "for 3600 seconds"), "{error:?}");
        assert_eq!(fixture.n_requests(step), 1, "{step}");
    }
}

#[test]
fn a_cut_in_the_middle_of_an_upload_is_got_over() {
    for (way, step) in [(Way::Basic, "PUT /upload/"), (Way::Parts, "PUT /part/2/")] {
        let fixture = fixture(way);
        fixture
            .server
            .fail(Fault::cut_upload(200_000).on(step).times(2));
        let (_, seen) = fixture.watched(&fixture.sae());
        fixture.assert_there(&fixture.sae(), 1);
        let lengths = fixture.body_bytes(step);
        assert_eq!(lengths[..2], [200_000, 200_000]);
        assert_eq!(lengths.len(), 3);
        // Parts that arrived are not sent again.
        assert!(fixture.n_requests("PUT /part/1/") <= 1);
        assert_eq!(seen.last().unwrap().n_files_done, 2);
    }
}

#[test]
fn a_cut_on_the_way_to_the_xet_store_is_got_over() {
    let fixture = fixture(Way::Xet);
    fixture
        .server
        .fail(Fault::cut_upload(50_000).on("/xorb").times(2));
    fixture.upload(&fixture.sae()).unwrap();
    fixture.assert_there(&fixture.sae(), 1);
}

#[test]
fn addresses_that_end_are_asked_for_again() {
    for (way, step) in [
        (Way::Basic, "PUT /upload/"),
        (Way::Parts, "PUT /part/2/"),
        (Way::Parts, "/complete_multipart"),
    ] {
        let fixture = fixture(way);
        fixture.server.fail(Fault::expire().on(step).times(1));
        fixture.upload(&fixture.sae()).unwrap();
        assert_eq!(fixture.n_requests("/objects/batch"), 2, "{way:?} {step}");
        fixture.assert_there(&fixture.sae(), 1);
    }
}

#[test]
fn addresses_that_always_end_are_an_error() {
    let fixture = fixture(Way::Basic);
    fixture.server.fail(Fault::expire().on("PUT"));
    let error = fixture.upload(&fixture.sae()).unwrap_err();
    assert!(says(&error, "with status 403"), "{error:?}");
    assert_eq!(fixture.n_requests("PUT"), 3);
    assert_eq!(fixture.n_requests("/commit/"), 0);
}

#[test]
fn a_token_of_the_xet_store_that_ends_is_asked_for_again() {
    let fixture = fixture(Way::Xet);
    fixture.server.fail(Fault::expire().on("POST /v").times(1));
    fixture.upload(&fixture.sae()).unwrap();
    assert!(fixture.n_requests("/xet-write-token/") >= 2);
    fixture.assert_there(&fixture.sae(), 1);
}

#[test]
fn a_xet_store_that_refuses_is_an_error() {
    let fixture = fixture(Way::Xet);
    fixture.server.fail(Fault::status(403).on(" /v"));
    let error = fixture.upload(&fixture.sae()).unwrap_err();
    assert!(says(&error, "cannot store the large files of"), "{error:?}");
    assert!(!format!("{error} {error:?}").contains(TOKEN));
    assert_eq!(fixture.server.history(REPO, "main").len(), 1);
    fixture.server.heal();
    fixture.upload(&fixture.sae()).unwrap();
    fixture.assert_there(&fixture.sae(), 1);
}

#[test]
fn wrong_clocks_do_not_matter() {
    let day = Duration::from_secs(24 * 3600);
    for is_back in [true, false] {
        let fixture = fixture(Way::Xet);
        if is_back {
            fixture.server.set_clock_back(day);
        } else {
            fixture.server.set_clock_forward(day);
        }
        fixture.upload(&fixture.sae()).unwrap();
        // The token that was given is used: it is not taken for one that has ended.
        assert_eq!(fixture.n_requests("/xet-write-token/"), 1);
        fixture.assert_there(&fixture.sae(), 1);
    }
}

#[test]
fn a_store_that_falls_silent_is_given_up() {
    let fixture = fixture(Way::Basic);
    fixture
        .server
        .fail(Fault::delay(Duration::from_secs(30)).on("PUT"));
    let impatient = fixture.hub_with(|settings| {
        settings.timeout = Duration::from_millis(50);
        settings.n_retries = 1;
    });
    let start = Instant::now();
    let error = impatient.upload(&fixture.sae(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, HubError::Network(_)), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(fixture.server.history(REPO, "main").len(), 1);
}

#[test]
fn a_slow_hub_is_waited_for() {
    let fixture = fixture(Way::Basic);
    let slow = Duration::from_millis(150);
    fixture.server.fail(Fault::delay(slow).on("POST"));
    fixture.server.fail(Fault::delay(slow).on("PUT"));
    // Less than that for questions, more for what takes the Hub a while.
    let hub = fixture.hub_with(|settings| settings.timeout = Duration::from_millis(100));
    hub.upload(&fixture.sae(), &mut |_| {}).unwrap();
    assert_eq!(fixture.n_requests("/commit/"), 1);
    fixture.assert_there(&fixture.sae(), 1);
}

#[test]
fn a_file_that_the_repository_ignores_is_named() {
    let fixture = fixture(Way::Basic);
    let error = fixture
        .upload(&upload([bytes("x.ignored", b"x")]))
        .unwrap_err();
    assert!(
        says(&error, "`x.ignored` is left out by .gitignore"),
        "{error:?}"
    );
    assert_eq!(fixture.n_requests("/commit/"), 0);
}

#[test]
fn answers_that_make_no_sense_are_errors() {
    let object = |more: &str| {
        let oid = crate::digest::hex(&<sha2::Sha256 as sha2::Digest>::digest(large(0)));
        format!(r#"{{"transfer": "basic", "objects": [{{"oid": "{oid}", "size": 1{more}}}]}}"#)
    };
    let refused = object(r#", "error": {"code": 507, "message": "no \u001b[2J hf_writer space"}"#);
    let parts = object(
        r#", "actions": {"upload": {"href": "/x", "header": {"chunk_size": "0", "1": "/y"}}}"#,
    );
    for (step, body) in [
        ("/revision/main", "[]"),
        ("/revision/main", r#"{"sha": "main"}"#),
        ("/preupload/", r#"{"files": []}"#),
        ("/objects/batch", "no json"),
        ("/objects/batch", r#"{"transfer": "basic", "objects": []}"#),
        ("/objects/batch", &refused),
        ("/objects/batch", &parts),
    ] {
        let fixture = fixture(Way::Basic);
        fixture.upload(&upload([bytes("x", b"x")])).unwrap();
        fixture.server.forget_requests();
        fixture
            .server
            .fail(Fault::replace(body.as_bytes()).on(step));
        let error = fixture.upload(&fixture.sae()).unwrap_err();
        let text = format!("{error} {error:?}");
        if body == refused {
            assert!(text.contains("no  [2J ... space"), "{text}");
        } else {
            assert!(
                says(&error, "cannot understand what"),
                "{step} {body}: {error:?}"
            );
        }
        assert!(!text.contains(TOKEN) && !text.contains('\u{1b}'), "{text}");
        assert_eq!(fixture.n_requests("/commit/"), 0);
    }
}

#[test]
fn a_hub_that_is_busy_with_the_same_name_is_waited_for() {
    let fixture = fixture(Way::Basic);
    let busy = "Cannot create repo: another conflicting operation is in progress";
    let busy = Fault::says(409, busy);
    fixture.server.fail(busy.on("/repos/create").times(2));
    fixture.upload(&fixture.sae()).unwrap();
    fixture.assert_there(&fixture.sae(), 1);
}
