//! A Hub that means harm to those who upload, and to those who download from the Xet store.

use super::faults::{WAYS, Way, fixture, steps};
use super::*;
use hub_server::Fault;
use std::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// What becomes of an upload with limits that are soon reached.
fn upload_soon(fixture: &Fixture) -> Result<Uploaded, HubError> {
    let impatient = fixture.hub_with(|settings| {
        settings.timeout = SECOND / 4;
        settings.n_retries = 1;
        settings.limits = HubLimits {
            max_answer_bytes: 100_000,
            ..HubLimits::with_patience(SECOND / 2)
        };
    });
    let start = Instant::now();
    let outcome = impatient.upload(&fixture.sae(), &mut |_| {});
    assert!(start.elapsed() < 20 * SECOND, "{outcome:?}");
    outcome
}

/// Each step once, in the first way that has it.
fn steps_of_all_ways() -> Vec<(Way, &'static str)> {
    let mut all = vec![(Way::Basic, "POST /api/models/org/saes/commit/")];
    for way in WAYS {
        for step in steps(way) {
            if !all.iter().any(|(_, known)| *known == step) {
                all.push((way, step));
            }
        }
    }
    all
}

fn assert_an_end(fault: &Fault) {
    for (way, step) in steps_of_all_ways() {
        let fixture = fixture(way);
        fixture.server.fail(fault.clone().on(step));
        // An answer that is not read, or comes soon enough after all, does no harm.
        if upload_soon(&fixture).is_err() {
            fixture.server.heal();
            fixture.upload(&fixture.sae()).unwrap();
        }
        fixture.assert_there(&fixture.sae(), 1);
    }
}

#[test]
fn answers_without_an_end() {
    assert_an_end(&Fault::endless());
}

#[test]
fn headers_without_an_end() {
    assert_an_end(&Fault::endless_headers());
}

#[test]
fn a_trickle_ends() {
    assert_an_end(&Fault::trickle(SECOND / 20));
}

#[test]
fn a_refusal_of_an_upload_has_an_end() {
    for step in ["/preupload/", "/objects/batch", "PUT", "/commit/"] {
        let fixture = fixture(Way::Basic);
        fixture.server.fail(Fault::endless_refusal(413).on(step));
        let error = upload_soon(&fixture).unwrap_err();
        assert!(says(&error, "with status 413"), "{step}: {error:?}");
    }
}

#[test]
fn a_xet_store_that_says_nothing_more_is_given_up() {
    let fixture = fixture(Way::Xet);
    fixture.server.fail(Fault::delay(25 * SECOND).on(" /v"));
    let impatient = fixture.hub_with(|settings| {
        settings.limits = HubLimits::with_patience(SECOND / 10);
    });
    let start = Instant::now();
    let error = impatient.upload(&fixture.sae(), &mut |_| {}).unwrap_err();
    assert!(start.elapsed() < 15 * SECOND);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("no progress"), "{error:?}");
}

/// A token whose end is further away than time can be.
#[test]
fn a_token_for_ever_is_a_token() {
    let fixture = fixture(Way::Xet);
    let token =
        serde_json::json!({"accessToken": "x", "exp": u64::MAX, "casUrl": "http://127.0.0.1:9"});
    fixture
        .server
        .fail(Fault::replace(token.to_string().as_bytes()).on("/xet-write-token/"));
    let impatient = fixture.hub_with(|settings| {
        settings.n_retries = 0;
        settings.limits = HubLimits::with_patience(SECOND / 10);
    });
    let error = impatient.upload(&fixture.sae(), &mut |_| {}).unwrap_err();
    assert!(says(&error, "cannot store the large files of"), "{error:?}");
}

/// A model whose weights are in the Xet store, and the Hub says so when it sends them.
fn in_xet() -> Fixture {
    let fixture = fixture(Way::Xet);
    let model = upload([
        bytes("config.json", b"{\"model_type\": \"llama\"}"),
        fixture.file("model.safetensors", &large(5)),
    ]);
    fixture.upload(&model).unwrap();
    let hash = fixture.server.xet_hash(REPO, "main", "model.safetensors");
    let says = Fault::header("X-Xet-Hash", &hash.unwrap());
    fixture.server.fail(says.on("HEAD").on("signature"));
    fixture
}

#[test]
fn the_xet_store_is_asked_where_the_hub_says_so() {
    let fixture = in_xet();
    let snapshot = fixture.hub().model_files(REPO, None).unwrap();
    let hub = fixture.hub();
    hub.download_weights(&snapshot, &mut |_| {}).unwrap();
    assert!(fs::read(snapshot.dir.join("model.safetensors")).unwrap() == large(5));
    assert!(fixture.n_requests("/reconstructions/") > 0);
}

#[test]
fn tokens_of_the_xet_store_have_an_end() {
    for fault in [
        Fault::endless(),
        Fault::endless_headers(),
        Fault::trickle(SECOND / 20),
    ] {
        let fixture = in_xet();
        let snapshot = fixture.hub().model_files(REPO, None).unwrap();
        fixture.server.fail(fault.on("/xet-read-token/"));
        let impatient = fixture.hub_with(|settings| {
            settings.timeout = SECOND / 2;
            settings.limits = HubLimits {
                max_answer_bytes: 100_000,
                ..HubLimits::with_patience(SECOND / 10)
            };
        });
        let start = Instant::now();
        impatient
            .download_weights(&snapshot, &mut |_| {})
            .unwrap_err();
        assert!(start.elapsed() < 15 * SECOND);
    }
}
