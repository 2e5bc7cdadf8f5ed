//! A Hub that means harm: answers without an end, lengths that cannot be, waits without a message.

use super::*;
use crate::Notice;
use hub_server::Fault;
use std::sync::{Arc, Mutex};
use std::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// Where a model's weights come from.
const WEIGHTS: &str = "GET /org/name/resolve";

/// A model, and limits that are soon reached.
fn fixture() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.settings.limits = HubLimits {
        max_answer_bytes: 100_000,
        max_listing_bytes: 3_000,
        max_pages: 20,
        max_entries: 100,
        // Half a second, which is enough for what is sound here.
        ..HubLimits::with_patience(SECOND / 2)
    };
    fixture
}

/// The error, which comes soon.
#[track_caller]
fn soon<T>(outcome: impl FnOnce() -> Result<T, HubError>) -> HubError {
    let start = Instant::now();
    let error = outcome().err().unwrap();
    assert!(start.elapsed() < 20 * SECOND, "{error:?}");
    error
}

/// The error has a hint, and names the repository and the Hub.
#[track_caller]
fn assert_named(fixture: &Fixture, error: &HubError) {
    let message = error.to_string();
    assert!(message.contains(REPO), "{message}");
    assert!(message.contains(&fixture.server.url()), "{message}");
    assert!(error.hint().is_some(), "{message}");
}

#[test]
fn bodies_without_an_end() {
    for part in ["/revision/", "/tree/"] {
        let fixture = fixture();
        fixture.server.fail(Fault::endless().on(part));
        let error = soon(|| fixture.model());
        assert!(says(&error, "is longer than"), "{error:?}");
        assert_named(&fixture, &error);
    }
}

/// The status says what there is to say.
#[test]
fn refusals_without_an_end() {
    for part in ["/revision/", "/tree/", "HEAD", WEIGHTS] {
        let fixture = fixture();
        fixture.server.fail(Fault::endless_refusal(404).on(part));
        let error = soon(|| fixture.model());
        let is_plain = matches!(error, HubError::NoSuchRevision(_));
        assert!(is_plain, "{part}: {error:?}");
        let passing = fixture;
        passing.server.heal();
        passing.server.fail(Fault::endless_refusal(503).on(part));
        let error = soon(|| passing.model());
        let is_plain = says(&error, "with status 503");
        assert!(is_plain, "{part}: {error:?}");
    }
}

#[test]
fn headers_without_an_end() {
    for part in ["/revision/", "/tree/", "HEAD", WEIGHTS] {
        let fixture = fixture();
        fixture.server.fail(Fault::endless_headers().on(part));
        let error = soon(|| fixture.model());
        assert!(matches!(error, HubError::Network(_)), "{part}: {error:?}");
    }
}

/// No more bytes are kept than the file has.
#[test]
fn a_file_without_an_end() {
    let fixture = fixture();
    let snapshot = fixture.model().unwrap();
    fixture
        .server
        .fail(Fault::endless().on("GET").on("signature"));
    let error = soon(|| fixture.weights(&snapshot));
    assert!(says(&error, "arrived damaged"), "{error:?}");
    assert!(names(&fixture.cached("blobs")).len() == 3);
}

#[test]
fn listings_without_an_end() {
    for (fault, reason) in [
        (Fault::same_page(), "returns to an earlier page"),
        (Fault::endless_pages(), "is longer than 3000 bytes"),
    ] {
        let fixture = fixture();
        fixture.server.fail(fault.on("/tree/"));
        let error = soon(|| fixture.model());
        assert!(says(&error, "the list of files of"), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
        assert_named(&fixture, &error);
    }
}

#[test]
fn pages_with_nothing_on_them() {
    let mut fixture = Fixture::with_files(&[]);
    fixture.settings.limits.max_pages = 20;
    fixture.server.fail(Fault::endless_pages().on("/tree/"));
    let error = soon(|| fixture.model());
    assert!(error.to_string().contains("more than 20 pages"), "{error}");
    let asked = fixture.asked();
    assert_eq!(
        asked.iter().filter(|line| line.contains("/tree/")).count(),
        20
    );
}

/// Each page is in time, but not all pages together.
#[test]
fn pages_that_take_too_long() {
    let mut fixture = fixture();
    fixture.settings.limits = HubLimits {
        max_listing_time: SECOND / 2,
        ..HubLimits::default()
    };
    fixture
        .server
        .fail(Fault::endless_pages().on("/tree/").times(1));
    fixture.server.fail(Fault::delay(SECOND).on("page="));
    let error = soon(|| fixture.model());
    assert!(
        error.to_string().contains("takes longer than 0.5 s"),
        "{error}"
    );
    assert_named(&fixture, &error);
}

#[test]
fn a_page_with_too_much_on_it() {
    let mut fixture = fixture();
    fixture.settings.limits.max_listing_bytes = 100_000;
    let folder = serde_json::json!({"type": "directory"}).to_string();
    let page = format!("[{}]", vec![folder; 101].join(","));
    fixture
        .server
        .fail(Fault::replace(page.as_bytes()).on("/tree/"));
    let error = soon(|| fixture.model());
    assert!(
        error
            .to_string()
            .contains("more than 100 files and folders"),
        "{error}"
    );
}

#[test]
fn lengths_that_cannot_be() {
    for n_bytes in [u64::MAX, u64::MAX - 1, u64::MAX / 2, (1 << 44) + 1] {
        let fixture = fixture();
        fixture
            .server
            .claim_size(REPO, "model.safetensors", n_bytes);
        let hub = fixture.hub();
        let model = || hub.model_files(REPO, None).map(|_| ());
        let listing = || hub.model_listing(REPO, None).map(|_| ());
        for ask in [&model as &dyn Fn() -> Result<(), HubError>, &listing] {
            let error = soon(ask);
            let part = format!("lists `model.safetensors` of `{REPO}` with {n_bytes} bytes");
            assert!(says(&error, &part), "{error:?}");
            assert_named(&fixture, &error);
        }
    }
}

/// Each could be true, but not all together.
#[test]
fn lengths_that_do_not_add_up() {
    let mut fixture = fixture();
    fixture.settings.limits.max_file_bytes = u64::MAX;
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        fixture.server.claim_size(REPO, file, u64::MAX / 2);
    }
    let error = soon(|| fixture.model());
    assert!(error.to_string().contains("does not add up"), "{error}");
    assert_named(&fixture, &error);
}

#[test]
fn numbers_that_are_no_lengths() {
    for size in [
        "-1",
        "1e300",
        "18446744073709551616",
        "1.5",
        "\"7\"",
        "null",
    ] {
        let fixture = fixture();
        let entry = r#"{"type": "file", "path": "config.json", "oid": "0a", "size": "#;
        let page = format!("[{entry}{size}}}]");
        fixture
            .server
            .fail(Fault::replace(page.as_bytes()).on("/tree/"));
        let error = soon(|| fixture.model());
        assert!(says(&error, "cannot understand what"), "{size}: {error:?}");
    }
}

#[test]
fn a_tokenizer_that_is_too_long() {
    let fixture = fixture();
    fixture
        .server
        .claim_size(REPO, "tokenizer.json", 1_000_000_000_000);
    let error = soon(|| fixture.model());
    let part = "`tokenizer.json` of `org/name` has 1000.0 GB; no more than";
    assert!(says(&error, part), "{error:?}");
    assert!(
        !fixture
            .asked()
            .iter()
            .any(|line| line.contains("/resolve/"))
    );
}

/// 16 TiB, for which no machine of these tests has room.
#[cfg(unix)]
#[test]
fn a_disk_without_room() {
    let fixture = fixture();
    let snapshot = fixture.model().unwrap();
    fixture
        .server
        .claim_size(REPO, "model.safetensors", 1 << 44);
    let error = soon(|| fixture.weights(&snapshot));
    let folder = fixture.settings.cache_dir.display();
    let part = format!("needs 17592.2 GB more in the cache `{folder}`");
    assert!(says(&error, &part), "{error:?}");
    assert!(error.hint().unwrap().contains("HF_HUB_CACHE"));
}

/// What is in the cache needs no room.
#[test]
fn room_is_needed_for_what_is_missing() {
    let fixture = fixture();
    let snapshot = fixture.whole_model().unwrap();
    fixture
        .server
        .claim_size(REPO, "tokenizer.json", 1_000_000_000_000);
    fixture.weights(&snapshot).unwrap();
}

/// A byte at a time, each in time for the timeout between two pieces.
#[test]
fn a_trickle_ends() {
    for part in ["/revision/", "/tree/", WEIGHTS, "signature"] {
        let fixture = fixture();
        let trickle = Fault::trickle(SECOND / 20).on("GET").on(part);
        fixture.server.fail(trickle);
        let error = soon(|| fixture.whole_model());
        assert!(says(&error, "bytes a second"), "{part}: {error:?}");
        assert_named(&fixture, &error);
    }
}

/// Fast enough, except that it takes too long in all.
#[test]
fn an_answer_has_a_longest_time() {
    let mut fixture = fixture();
    fixture.settings.limits = HubLimits {
        min_bytes_per_second: 1,
        max_answer_time: SECOND / 2,
        ..HubLimits::default()
    };
    for part in ["/revision/", "/tree/"] {
        fixture.server.heal();
        fixture.server.fail(Fault::trickle(SECOND / 20).on(part));
        let error = soon(|| fixture.model());
        assert!(says(&error, "takes longer than"), "{part}: {error:?}");
        assert_named(&fixture, &error);
    }
}

/// A byte of the file with each answer is not progress.
#[test]
fn a_byte_an_answer_is_too_little() {
    let fixture = fixture();
    let snapshot = fixture.model().unwrap();
    fixture
        .server
        .fail(Fault::cut_answer(1).on("GET").on("signature"));
    let error = soon(|| fixture.weights(&snapshot));
    assert!(matches!(error, HubError::Network(_)), "{error:?}");
    let requests = fixture.server.requests();
    let of_store = |request: &&Request| request.is_to_store && request.method == "GET";
    assert_eq!(requests.iter().filter(of_store).count(), 3);
}

#[test]
fn waits_in_a_row_have_an_end_and_are_told() {
    let mut fixture = fixture();
    fixture.settings.limits = HubLimits {
        max_wait: 2 * SECOND,
        max_total_wait: 3 * SECOND,
        ..HubLimits::default()
    };
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let hub = fixture
        .hub()
        .telling(move |notice| heard.lock().unwrap().push(notice.clone()));
    fixture.server.fail(Fault::rate_limit(2));
    let error = soon(|| hub.model_files(REPO, None));
    assert!(matches!(error, HubError::RateLimited(_)), "{error:?}");
    assert!(says(&error, ", after 2 seconds of waiting"), "{error}");
    assert_named(&fixture, &error);
    // Another question of the same Hub is not waited for either.
    let start = Instant::now();
    hub.model_files(REPO, None).unwrap_err();
    assert!(start.elapsed() < 2 * SECOND);
    let told = told.lock().unwrap();
    let [Notice::Waiting { wait, .. }] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(*wait, 2 * SECOND);
    assert!(told[0].to_string().contains("2 seconds"), "{}", told[0]);
}

/// What is long in an answer is shorter in the message about it.
#[test]
fn errors_are_not_as_long_as_answers() {
    let long = "x".repeat(90_000);
    let listed =
        serde_json::json!([{"type": "file", "path": long, "size": 1, "oid": "a".repeat(40)}]);
    for (part, body) in [
        ("/revision/", format!("{{\"sha\": {{\"{long}\": 1}}}}")),
        (
            "/tree/",
            format!("[{{\"type\": \"file\", \"size\": \"{long}\"}}]"),
        ),
        ("/tree/", listed.to_string()),
    ] {
        let mut fixture = fixture();
        fixture.settings.limits.max_listing_bytes = 100_000;
        fixture
            .server
            .fail(Fault::replace(body.as_bytes()).on(part));
        let error = soon(|| fixture.hub().model_listing(REPO, None));
        let source = std::error::Error::source(&error);
        let text = format!(
            "{error}: {}",
            source.map(ToString::to_string).unwrap_or_default()
        );
        assert!(text.len() < 1000, "{} bytes", text.len());
    }
}
