//! `sae-run publish`, to a Hub on this machine.

use crate::common::{Outcome, Workspace, replace_line, small_sweep};
use hub_server::{Fault, HubServer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;

pub(crate) const REPO: &str = "org/saes";
pub(crate) const TOKEN: &str = "hf_secretsecretsecret";

/// A Hub without models, and the small sweep, trained and evaluated.
pub(crate) fn published_from() -> (HubServer, Workspace) {
    let server = HubServer::start();
    server.set_token(TOKEN);
    let workspace = Workspace::new();
    workspace.write("tiny.toml", evaluated_sweep());
    workspace.run(&["tiny.toml"]).succeeds();
    (server, workspace)
}

fn evaluated_sweep() -> String {
    let sweep = small_sweep();
    replace_line(&sweep, "save_every", "save_every = 5\neval_fraction = 0.2")
}

pub(crate) fn run(server: &HubServer, workspace: &Workspace, args: &[&str]) -> Outcome {
    let variables = [
        ("HF_ENDPOINT", server.url()),
        ("HF_TOKEN", TOKEN.to_owned()),
    ];
    let variables = variables
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let outcome = workspace.run_with(&variables, args);
    assert!(!outcome.stderr.contains(TOKEN), "the token is told");
    outcome
}

fn publish(server: &HubServer, workspace: &Workspace, args: &[&str]) -> Outcome {
    run(
        server,
        workspace,
        &[&["publish", "--repo", REPO], args].concat(),
    )
}

pub(crate) fn card(server: &HubServer) -> String {
    String::from_utf8(server.files(REPO, "main")["README.md"].clone()).unwrap()
}

/// Id of the job with two SAEs.
fn job(workspace: &Workspace) -> String {
    let sql = "SELECT DISTINCT job_id FROM sae WHERE hookpoint = 'layers.2'";
    workspace.sql_value(sql).as_str().unwrap().to_owned()
}

#[test]
fn a_job_comes_into_the_root_with_card_and_record() {
    let (server, workspace) = published_from();
    let outcome = publish(&server, &workspace, &[&job(&workspace)]).succeeds();
    outcome.remarks(&["sent 5 files"]);
    let mut files = server.files(REPO, "main");
    files.remove(".gitattributes").expect("the Hub's own");
    let expected = [
        "README.md",
        "layers.1.mlp/cfg.json",
        "layers.1.mlp/sae.safetensors",
        "layers.2/cfg.json",
        "layers.2/sae.safetensors",
    ];
    assert_eq!(files.keys().collect::<Vec<_>>(), expected);
    // What is on the Hub is what was trained, to the byte.
    let sql = "SELECT DISTINCT dir FROM job JOIN sae USING (job_id) WHERE hookpoint = 'layers.2'";
    let dir = workspace.sql_value(sql);
    let dir = workspace.path("runs").join(dir.as_str().unwrap());
    for path in &expected[1..] {
        assert!(files[*path] == fs::read(dir.join(path)).unwrap(), "{path}");
    }
    let card = card(&server);
    for part in [
        "library_name: sparsify",
        "| `layers.1.mlp` | `layers.1.mlp` |",
        "Sae.load_many(\"org/saes\")",
        "sae-run encode org/saes --hookpoint layers.1.mlp",
        "\"expansion_factor\": 2",
        "sweep tiny, version 1",
    ] {
        assert!(card.contains(part), "no `{part}` in\n{card}");
    }
    assert!(
        !card.contains("/tests/fixtures/tiny-llama\""),
        "a folder is told in\n{card}"
    );

    let commit = server.history(REPO, "main")[0].clone();
    let record = workspace.sql(
        "SELECT repo, branch, commit_id, count(*) AS n_files, sum(is_new) AS n_new
         FROM publication JOIN publication_file USING (publication_id)",
    );
    let expected =
        json!([{"repo": REPO, "branch": "main", "commit_id": commit, "n_files": 5, "n_new": 5}]);
    assert_eq!(Value::from(record), expected);
    let repos = workspace.sql("SELECT hookpoint, repo FROM result ORDER BY hookpoint");
    let expected = json!([
        {"hookpoint": "layers.0", "repo": null},
        {"hookpoint": "layers.1.mlp", "repo": REPO},
        {"hookpoint": "layers.2", "repo": REPO},
    ]);
    assert_eq!(Value::from(repos), expected);
    let shown = workspace.run(&["show", &job(&workspace)]).succeeds();
    assert!(shown.stdout.contains(&commit), "{shown}");
    workspace
        .run(&["rm", "--yes", "tiny"])
        .succeeds()
        .remarks(&["published in `org/saes`"]);
    assert!(dir.is_dir(), "what was published was deleted");
}

#[test]
fn a_dry_run_shows_all_and_sends_nothing() {
    let (server, workspace) = published_from();
    let outcome = publish(&server, &workspace, &["tiny", "--dry-run"]).succeeds();
    for part in [
        "layers.0/cfg.json",
        "which would be created",
        "--include-sweep",
        "library_name",
        "new",
    ] {
        assert!(outcome.stdout.contains(part), "no `{part}`\n{outcome}");
    }
    let requests = server.requests();
    let writes = requests
        .iter()
        .filter(|r| !["GET", "HEAD"].contains(&r.method.as_str()));
    assert_eq!(writes.count(), 0, "{requests:?}");
    assert_eq!(workspace.sql_value("SELECT count(*) FROM publication"), 0);
}

#[test]
fn a_dry_run_needs_no_network() {
    let (server, workspace) = published_from();
    let args = ["publish", "tiny", "--dry-run", "--repo", REPO];
    // The workspace's Hub does not answer.
    for offline in ["0", "1"] {
        let outcome = workspace
            .run_with(&[("HF_HUB_OFFLINE", offline)], &args)
            .succeeds();
        for part in ["layers.0/cfg.json", "the Hub was not asked", "library_name"] {
            assert!(outcome.stdout.contains(part), "no `{part}`\n{outcome}");
        }
    }
    assert!(server.requests().is_empty());
    let args = ["publish", "tiny", "--repo", REPO];
    workspace
        .run_with(&[("HF_HUB_OFFLINE", "1")], &args)
        .refuses(&["offline"]);
}

#[test]
fn only_what_is_new_is_sent() {
    let (server, workspace) = published_from();
    publish(&server, &workspace, &["tiny"]).succeeds();
    let first = server.history(REPO, "main");
    publish(&server, &workspace, &["tiny"])
        .succeeds()
        .remarks(&["everything was there already"]);
    assert_eq!(server.history(REPO, "main"), first, "an empty commit");
    // A second sweep adds a job; of the first, nothing is sent again.
    let more = replace_line(&evaluated_sweep(), "k = ", "k = [4, 8]");
    workspace.write("tiny.toml", more);
    workspace.run(&["tiny.toml"]).succeeds();
    server.forget_requests();
    let outcome = publish(&server, &workspace, &["tiny"]).succeeds();
    // Three SAEs with k = 8, and the card.
    outcome.remarks(&["sent 7 files", "6 files there already"]);
    let sent: BTreeMap<String, Vec<u8>> = server.files(REPO, "main");
    assert_eq!(
        sent.len(),
        14,
        "six SAEs, the card, and a file of the Hub's"
    );
    assert_eq!(server.history(REPO, "main").len(), first.len() + 1);
    assert!(card(&server).contains("6 sparse autoencoders"));
}

#[test]
fn the_card_lists_what_was_published_before() {
    let (server, workspace) = published_from();
    let other = "SELECT DISTINCT job_id FROM sae WHERE hookpoint = 'layers.0'";
    let other = workspace.sql_value(other);
    publish(&server, &workspace, &[&job(&workspace)]).succeeds();
    publish(&server, &workspace, &[other.as_str().unwrap()]).succeeds();
    let card = card(&server);
    for folder in ["`layers.0`", "`layers.1.mlp`", "`layers.2`"] {
        assert!(card.contains(folder), "no {folder} in\n{card}");
    }
}

#[test]
fn both_layouts_are_next_to_each_other() {
    let (server, workspace) = published_from();
    let layouts = [
        "--layout",
        "sparsify,saelens",
        "--license",
        "mit",
        "--prefix",
        "v1",
    ];
    let job = job(&workspace);
    publish(
        &server,
        &workspace,
        &[&[job.as_str()], &layouts[..]].concat(),
    )
    .succeeds();
    let files = server.files(REPO, "main");
    for path in [
        "v1/layers.2/sae.safetensors",
        "v1/layers.2/saelens/sae_weights.safetensors",
        "v1/layers.2/saelens/cfg.json",
    ] {
        assert!(files.contains_key(path), "{:?}", files.keys());
    }
    let cfg: Value = serde_json::from_slice(&files["v1/layers.2/saelens/cfg.json"]).unwrap();
    assert_eq!(cfg["metadata"]["hook_name"], "blocks.2.hook_resid_post");
    let card = card(&server);
    assert!(card.contains("license: \"mit\""), "{card}");
    assert!(
        card.contains("SAE.from_pretrained(\"org/saes\", \"v1/layers.1.mlp/saelens\")"),
        "{card}"
    );
    let layouts = workspace.sql("SELECT DISTINCT layout FROM publication_file ORDER BY 1");
    let expected = json!([{"layout": null}, {"layout": "saelens"}, {"layout": "sparsify"}]);
    assert_eq!(Value::from(layouts), expected);
}

/// A job for each kind, at a hookpoint that has a transcoder too.
fn sweep_of_kinds() -> String {
    let sweep = replace_line(
        &evaluated_sweep(),
        "k = ",
        "activation = ['batchtopk', 'jumprelu', 'gated']",
    );
    let sweep = replace_line(
        &sweep,
        "hookpoints",
        "hookpoints = [['layers.1.mlp']]\ntranscode = [false, true]",
    );
    replace_line(&sweep, "name", "name = 'kinds'")
}

fn job_of(workspace: &Workspace, kind: &str) -> String {
    let sql = format!("SELECT job_id FROM result WHERE kind = '{kind}'");
    workspace.sql_value(&sql).as_str().unwrap().to_owned()
}

#[test]
fn kinds_that_sparsify_lacks_are_published_for_saelens() {
    let server = HubServer::start();
    server.set_token(TOKEN);
    let workspace = Workspace::new();
    workspace.write("kinds.toml", sweep_of_kinds());
    workspace.run(&["kinds.toml"]).succeeds();
    let batchtopk = job_of(&workspace, "batchtopk");
    publish(&server, &workspace, &[&batchtopk, "--layout", "sparsify"])
        .refuses(&[
            "sparsify's layout does not support `layers.1.mlp`",
            "an SAE of the kind batchtopk",
        ])
        .hints("`--layout saelens` does");
    let gated = job_of(&workspace, "transcoder gated");
    publish(&server, &workspace, &[&gated])
        .refuses(&[
            "no layout supports `layers.1.mlp` of job",
            "a transcoder of the kind gated",
        ])
        .hints("--where");
    publish(&server, &workspace, &[&gated, "--layout", "saelens"])
        .refuses(&[
            "saelens's layout does not support",
            "a transcoder of the kind gated",
        ])
        .hints("--where");
    assert!(server.requests().is_empty(), "asked before it was checked");

    publish(&server, &workspace, &[&batchtopk]).succeeds();
    let files = server.files(REPO, "main");
    assert!(
        files.contains_key("layers.1.mlp/sae_weights.safetensors"),
        "{:?}",
        files.keys()
    );
    let cfg: Value = serde_json::from_slice(&files["layers.1.mlp/cfg.json"]).unwrap();
    assert_eq!(cfg["architecture"], "jumprelu");
    assert_eq!(cfg["metadata"]["training_architecture"], "batchtopk");
    let threshold = format!("SELECT threshold FROM result WHERE job_id = '{batchtopk}'");
    let threshold = workspace.sql_value(&threshold).as_f64().unwrap();
    let card_of_kind = card(&server);
    for part in [
        "library_name: saelens",
        "| batchtopk |",
        &format!("| {threshold:.4} |"),
        "SAE.from_pretrained(\"org/saes\", \"layers.1.mlp\")",
    ] {
        assert!(
            card_of_kind.contains(part),
            "no `{part}` in\n{card_of_kind}"
        );
    }
    assert!(!card_of_kind.contains("from sparsify"), "{card_of_kind}");

    let sql = format!("job_id != '{gated}'");
    let all = ["--prefix", "all", "--where", &sql];
    publish(&server, &workspace, &all).succeeds();
    let files = server.files(REPO, "main");
    let of_all = files
        .keys()
        .filter(|path| path.starts_with("all/") && path.ends_with("cfg.json"));
    assert_eq!(of_all.count(), 5, "{:?}", files.keys());
}

/// Without `--layout`, each job is in the first layout that holds it.
#[test]
fn jobs_of_several_kinds_have_their_layouts() {
    let server = HubServer::start();
    server.set_token(TOKEN);
    let workspace = Workspace::new();
    let sweep = replace_line(&evaluated_sweep(), "k = ", "activation = ['topk', 'relu']");
    let sweep = replace_line(&sweep, "hookpoints", "hookpoints = [['layers.2']]");
    workspace.write("tiny.toml", sweep);
    workspace.run(&["tiny.toml"]).succeeds();
    publish(&server, &workspace, &["tiny"]).succeeds();
    let sql = "SELECT kind, layout, count(*) AS n FROM publication_file JOIN result USING (sae_id)
        GROUP BY 1, 2 ORDER BY 1";
    let expected = json!([
        {"kind": "relu", "layout": "saelens", "n": 2},
        {"kind": "topk", "layout": "sparsify", "n": 2},
    ]);
    assert_eq!(Value::from(workspace.sql(sql)), expected);
    let card = card(&server);
    let folder = |start: &str| {
        let files = server.files(REPO, "main").into_keys();
        let mut folders = files.filter_map(|path| Some(path.strip_suffix("/cfg.json")?.to_owned()));
        folders.find(|folder| folder.contains(start)).unwrap()
    };
    for part in [
        "library_name: sparsify".to_owned(),
        "| sparsify | topk | 32 | 64 | ".to_owned(),
        "| saelens | relu | 32 | 64 | - |".to_owned(),
        format!(
            "load_from_hub(\"org/saes\", hookpoint=\"{}\")",
            folder("=topk")
        ),
        format!("SAE.from_pretrained(\"org/saes\", \"{}\")", folder("=relu")),
    ] {
        assert!(card.contains(&part), "no `{part}` in\n{card}");
    }
    assert!(!card.contains("load_many"), "it loads no SAE of SAELens's");
}

#[test]
fn what_had_better_not_be_published_is_refused_unless_forced() {
    let server = HubServer::start();
    server.set_token(TOKEN);
    let workspace = Workspace::with_small_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    publish(&server, &workspace, &["tiny"])
        .refuses(&["not published"])
        .hints("--force")
        .remarks(&["was never evaluated"]);
    crate::bad_folder::execute(&workspace, "UPDATE metric SET squared_error = NULL");
    publish(&server, &workspace, &["tiny"])
        .refuses(&["not published"])
        .remarks(&["its FVU is not finite"]);
    assert!(server.requests().is_empty(), "asked before it was checked");
    publish(&server, &workspace, &["tiny", "--force"]).succeeds();
    assert!(
        card(&server).contains("\\*"),
        "no mark of what was not held out"
    );
    publish(&server, &workspace, &["none"])
        .refuses(&["none"])
        .hints("sae-run ls");
    publish(&server, &workspace, &["--where", "k > 1000"]).refuses(&["no SAE fits"]);
    publish(&server, &workspace, &["--where", "k >> "]).exits(2);
    publish(
        &server,
        &workspace,
        &["tiny", "--force", "--prefix", "../up"],
    )
    .refuses(&["is not a folder"]);
}

/// What a checkpoint holds counts, not what the database says about it.
#[test]
fn weights_that_are_damaged_are_never_published() {
    let (server, workspace) = published_from();
    let dir = workspace.sql_value("SELECT checkpoint FROM result WHERE hookpoint = 'layers.2'");
    let path = workspace
        .path("runs")
        .join(dir.as_str().unwrap())
        .join("sae.safetensors");
    let whole = fs::read(&path).unwrap();
    let mut with_nan = whole.clone();
    let end = with_nan.len();
    with_nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    for (bytes, message) in [
        (&with_nan[..], "not finite"),
        (&whole[..end / 2], "sae.safetensors"),
    ] {
        fs::write(&path, bytes).unwrap();
        publish(&server, &workspace, &["tiny", "--force"]).refuses(&[message]);
    }
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    publish(&server, &workspace, &["tiny", "--force"])
        .refuses(&["has no checkpoint of `layers.2`"]);
    assert!(server.requests().is_empty());
}

#[test]
fn other_saes_are_not_replaced() {
    let (server, workspace) = published_from();
    publish(&server, &workspace, &[&job(&workspace)]).succeeds();
    let more = replace_line(&evaluated_sweep(), "k = ", "k = [8]");
    workspace.write("more.toml", replace_line(&more, "name", "name = 'more'"));
    workspace.run(&["more.toml"]).succeeds();
    let other = "SELECT DISTINCT job_id FROM sae WHERE hookpoint = 'layers.2' AND k = 8";
    let other = workspace.sql_value(other);
    let other = other.as_str().unwrap();
    publish(&server, &workspace, &[other])
        .refuses(&["has another SAE"])
        .hints("--prefix");
    publish(&server, &workspace, &[other, "--prefix", "k8"]).succeeds();
    assert!(
        server
            .files(REPO, "main")
            .contains_key("k8/layers.2/cfg.json")
    );
}

#[test]
fn what_the_hub_refuses_is_told_and_an_upload_that_was_cut_goes_on() {
    let (server, workspace) = published_from();
    let job = job(&workspace);
    let without = [("HF_ENDPOINT", server.url())];
    let without = without
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    workspace
        .run_with(&without, &["publish", "--repo", REPO, &job])
        .refuses(&["token"])
        .hints("HF_TOKEN");
    publish(&server, &workspace, &[&job, "--revision", "../main"]).exits(2);
    run(&server, &workspace, &["publish", "--repo", "../saes", &job]).exits(2);
    server.fail(Fault::status(403).on("POST /api/repos/create"));
    publish(&server, &workspace, &[&job]).exits(2);
    server.heal();
    server.fail(Fault::lose_answer().on("/commit/").times(1));
    publish(&server, &workspace, &[&job]).succeeds();
    let n_commits = server.history(REPO, "main").len();
    publish(&server, &workspace, &[&job]).succeeds();
    assert_eq!(
        server.history(REPO, "main").len(),
        n_commits,
        "committed twice"
    );
    assert_eq!(
        workspace.sql_value("SELECT count(DISTINCT commit_id) FROM publication"),
        1
    );
}
