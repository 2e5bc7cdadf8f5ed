//! Who may see what, and who receives the token.

use super::*;
use hub_server::{Access, Fault};
use std::env;
use std::process::Command;

const TOKEN: &str = "hf_secret";

#[test]
fn a_model_that_is_not_there() {
    let fixture = Fixture::new();
    let error = fixture.hub().model_files("org/other", None).unwrap_err();
    assert!(matches!(error, HubError::NoSuchRepo(_)), "{error:?}");
    assert_eq!(error.to_string(), "the Hub has no model `org/other`");
    assert!(error.hint().unwrap().contains("HF_TOKEN"));

    fixture.server.set_token(TOKEN);
    let error = fixture
        .with_token(TOKEN)
        .model_files("org/other", None)
        .unwrap_err();
    assert!(matches!(error, HubError::NoSuchRepo(_)), "{error:?}");
    assert!(says(&error, " that this token may see"), "{error}");
    // By a commit too, for which the tree is asked for first.
    let error = fixture
        .hub()
        .model_files("org/other", Some(&fixture.commit))
        .unwrap_err();
    assert!(matches!(error, HubError::NoSuchRepo(_)), "{error:?}");
}

#[test]
fn a_revision_that_is_not_there() {
    let fixture = Fixture::new();
    for wrong in ["step4000", &"0".repeat(40)] {
        let error = fixture.hub().model_files(REPO, Some(wrong)).unwrap_err();
        assert!(matches!(error, HubError::NoSuchRevision(_)), "{error:?}");
        assert!(
            says(&error, &format!("has no revision `{wrong}`")),
            "{error}"
        );
    }
    assert_eq!(names(&fixture.cached("refs")), [""; 0]);
}

#[test]
fn private_models_need_the_token() {
    let fixture = Fixture::new();
    fixture.server.set_token(TOKEN);
    fixture.server.restrict(REPO, Access::Private);
    let error = fixture.model().unwrap_err();
    assert!(matches!(error, HubError::NoSuchRepo(_)), "{error:?}");

    let hub = fixture.with_token(TOKEN);
    let snapshot = hub.model_files(REPO, None).unwrap();
    hub.download_weights(&snapshot, &mut |_| {}).unwrap();
    assert!(snapshot.dir.join("model.safetensors").exists());
    // What is there may be used without the token too, but not in silence.
    let again = fixture.whole_model().unwrap();
    assert_eq!(again.commit, snapshot.commit);
    let text = again.notice.unwrap().to_string();
    assert!(
        text.starts_with("the Hub has no model `org/name`; taking commit"),
        "{text}"
    );
}

#[test]
fn gated_models_need_a_licence_and_the_token() {
    let fixture = Fixture::new();
    fixture.server.set_token(TOKEN);
    fixture.server.restrict(REPO, Access::Gated);
    let error = fixture.model().unwrap_err();
    assert!(
        says(&error, "it is gated, and there is no token"),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("accept the licence"));
    fixture.with_token(TOKEN).model_files(REPO, None).unwrap();
    // The files of planning are there now, the weights are not.
    let snapshot = fixture.model().unwrap();
    let error = fixture.weights(&snapshot).unwrap_err();
    assert!(says(&error, "it is gated"), "{error:?}");
    assert!(!snapshot.dir.join("model.safetensors").exists());

    let fixture = Fixture::new();
    fixture.server.set_token(TOKEN);
    fixture.server.restrict(REPO, Access::GatedToAll);
    let error = fixture
        .with_token(TOKEN)
        .model_files(REPO, None)
        .unwrap_err();
    assert!(
        says(&error, "it is gated, and this token's owner has no access"),
        "{error:?}"
    );
    assert!(!error.hint().unwrap().contains("HF_TOKEN"));
}

#[test]
fn a_token_that_is_not_known() {
    let fixture = Fixture::new();
    let error = fixture
        .with_token("hf_wrong")
        .model_files(REPO, None)
        .unwrap_err();
    assert!(says(&error, "does not accept the token"), "{error:?}");
    for text in [
        format!("{error:?}"),
        error.to_string(),
        error.hint().unwrap(),
    ] {
        assert!(!text.contains("hf_wrong"), "{text}");
    }
}

#[test]
fn the_token_goes_to_the_hub_and_not_to_the_store() {
    let fixture = Fixture::new();
    fixture.server.set_token(TOKEN);
    let hub = fixture.with_token(TOKEN);
    let snapshot = hub.model_files(REPO, None).unwrap();
    hub.download_weights(&snapshot, &mut |_| {}).unwrap();
    let requests = fixture.server.requests();
    assert!(requests.iter().any(|request| request.is_to_store));
    for request in requests {
        assert_eq!(request.is_authorized, !request.is_to_store, "{request:?}");
    }
}

/// A mirror that does not have the file.
#[test]
fn the_token_goes_to_no_other_hub() {
    let fixture = Fixture::new();
    fixture.server.set_token(TOKEN);
    let other = Fixture::new();
    let hub = fixture.with_token(TOKEN);
    let snapshot = hub.model_files(REPO, None).unwrap();
    let path = format!("/{REPO}/resolve/{}/model.safetensors", other.commit);
    let elsewhere = format!("{}{path}", other.server.url());
    let redirect = Fault::redirect(&elsewhere).on("HEAD").on("/resolve/");
    fixture.server.fail(redirect.times(1));
    hub.download_weights(&snapshot, &mut |_| {}).unwrap();
    assert!(snapshot.dir.join("model.safetensors").exists());
    let asked = other.server.requests();
    assert!(!asked.is_empty());
    for request in asked {
        assert!(!request.is_authorized, "{request:?}");
    }
}

/// hf-hub itself looks for a token if it is not given one. In a separate process: the environment is the whole process's.
#[test]
fn a_token_of_the_environment_goes_nowhere_unasked() {
    const CHILD: &str = "SAE_RUN_HUB_TEST_CHILD";
    if env::var_os(CHILD).is_none() {
        let name = "tests::access::a_token_of_the_environment_goes_nowhere_unasked";
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", name])
            .env(CHILD, "1")
            .env("HF_TOKEN", TOKEN)
            .env_remove("HF_HUB_DISABLE_IMPLICIT_TOKEN")
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && stdout.contains("1 passed"),
            "{stdout}"
        );
        return;
    }
    assert_eq!(env::var("HF_TOKEN").unwrap(), TOKEN);
    let fixture = Fixture::new();
    fixture.whole_model().unwrap();
    let requests = fixture.server.requests();
    assert!(
        requests.iter().all(|request| !request.is_authorized),
        "{requests:?}"
    );
}

#[test]
fn a_rate_limit_that_lasts() {
    let mut fixture = Fixture::new();
    // The wait is longer than any that is waited.
    fixture.settings.limits = HubLimits::with_patience(Duration::from_secs(20));
    fixture.server.fail(Fault::rate_limit(42).on("/revision/"));
    let error = fixture.model().unwrap_err();
    assert!(matches!(error, HubError::RateLimited(_)), "{error:?}");
    let url = fixture.server.url();
    assert_eq!(
        error.to_string(),
        format!("the Hub at {url} asks to slow down for 42 seconds when asked for `{REPO}`")
    );
    assert!(error.hint().unwrap().contains("HF_TOKEN"));
    assert_eq!(fixture.asked().len(), 1);

    fixture.server.heal();
    let snapshot = fixture.model().unwrap();
    for part in ["HEAD /org/name/resolve", "GET /org/name/resolve"] {
        fixture.asked();
        fixture.server.fail(Fault::rate_limit(42).on(part));
        let error = fixture.weights(&snapshot).unwrap_err();
        assert!(
            says(&error, "asks to slow down for 42 seconds"),
            "{error:?}"
        );
        let refused = fixture.asked().into_iter();
        assert_eq!(refused.filter(|line| line.starts_with(part)).count(), 1);
        fixture.server.heal();
    }
}

#[test]
fn trouble_of_the_hub_that_lasts() {
    let fixture = Fixture::new();
    fixture.server.fail(Fault::status(500).on("/tree/"));
    let error = fixture.model().unwrap_err();
    assert!(says(&error, "with status 500"), "{error:?}");
    assert!(error.to_string().contains(&fixture.server.url()));
}
