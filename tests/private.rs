//! What `sae-run publish` says about this machine, and what it leaves on it.

use crate::common::{Running, Workspace, fixture, replace_line, small_sweep, text, until};
use crate::publish::{REPO, TOKEN, card, published_from, run};
use hub_server::{Fault, HubServer};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

/// A folder that no one may learn about.
const SECRET: &str = "merger-with-hal";
const REMARK: &str = "do not tell the board";
const PUBLISH: [&str; 5] = ["publish", "tiny", "--repo", REPO, "--quiet"];

/// A sweep over data in a folder that is named in settings and in the names of jobs, trained; the model
/// is in that folder, too.
fn trained_on_secret_data() -> (HubServer, Workspace) {
    let server = HubServer::start();
    server.set_token(TOKEN);
    let workspace = Workspace::new();
    let model = fixture("tiny-llama");
    for entry in fs::read_dir(&model).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = fs::read(&path).unwrap();
        workspace.write(&format!("{SECRET}/tiny-llama/{name}"), bytes);
    }
    let data = fs::read(fixture("tiny.jsonl")).unwrap();
    for file in ["text.jsonl", "corpus/held/out.jsonl"] {
        workspace.write(&format!("{SECRET}/{file}"), &data);
    }
    let path_of = |name: &str| text(&workspace.path(&format!("{SECRET}/{name}"))).to_owned();
    let sweep = replace_line(
        &small_sweep(),
        "model",
        &format!("model = '{}'", path_of("tiny-llama")),
    );
    let eval = format!(
        "eval_dataset = '{}'\neval_data_args = {{ data_dir = 'held' }}",
        path_of("corpus")
    );
    let sweep = replace_line(&sweep, "dataset", &eval);
    let axis = format!("k = [4]\ndataset = ['{}']", path_of("text.jsonl"));
    let sweep = replace_line(&sweep, "k = ", &axis);
    workspace.write("tiny.toml", format!("# {REMARK}\n{sweep}"));
    workspace.run(&["tiny.toml"]).succeeds();
    (server, workspace)
}

/// Names and bytes of all that is public, as text.
fn public(server: &HubServer) -> Vec<(String, String)> {
    let files = server.files(REPO, "main").into_iter();
    let text = |(path, bytes): (String, Vec<u8>)| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        (path, text)
    };
    files.map(text).collect()
}

#[test]
fn folders_and_remarks_stay_on_this_machine() {
    let (server, workspace) = trained_on_secret_data();
    let args = [&PUBLISH[..], &["--layout", "sparsify,saelens"]].concat();
    let dry = run(&server, &workspace, &[&args[..], &["--dry-run"]].concat()).succeeds();
    assert!(
        dry.stdout.contains("without the text of the sweep"),
        "{dry}"
    );
    run(&server, &workspace, &args).succeeds();
    // What was shown is what is public.
    assert!(
        dry.stdout.trim_end().ends_with(card(&server).trim_end()),
        "{dry}"
    );
    let workspace_path = text(&workspace.path("")).trim_end_matches('/').to_owned();
    let home = text(&workspace.path("home")).to_owned();
    let files = public(&server);
    assert!(files.len() > 12, "{} files", files.len());
    for (path, content) in &files {
        for private in [SECRET, &workspace_path, &home, REMARK, "/tests/fixtures"] {
            let is_told = path.contains(private) || content.contains(private);
            assert!(!is_told, "`{private}` is told in {path}\n{content}");
        }
    }
    let card = card(&server);
    for told in [
        "\"dataset\": \"text.jsonl\"",
        "\"eval_dataset\": \"corpus\"",
        "\"data_dir\": \"held\"",
        "\"model\": \"tiny-llama\"",
        "dataset=text.jsonl",
        "\"ctx_len\": 64",
    ] {
        assert!(card.contains(told), "no `{told}` in\n{card}");
    }
    let next_to_weights = files
        .iter()
        .filter(|(path, _)| path.ends_with("saelens/cfg.json"));
    for (path, content) in next_to_weights {
        assert!(content.contains("\"text.jsonl\""), "{path}: {content}");
    }
}

#[test]
fn names_of_the_hub_are_told() {
    let server = HubServer::start();
    server.set_token(TOKEN);
    server.add_model("org/tiny", &fixture("tiny-llama"));
    let workspace = Workspace::new();
    workspace.write("data/train.jsonl", fs::read(fixture("tiny.jsonl")).unwrap());
    server.add_dataset("org/text", &workspace.path("data"));
    let sweep = replace_line(&small_sweep(), "model", "model = 'org/tiny'");
    let data = "dataset = 'org/text'\neval_fraction = 0.2\ndata_args = { data_files = '*.jsonl' }";
    workspace.write("tiny.toml", replace_line(&sweep, "dataset", data));
    run(&server, &workspace, &["tiny.toml"]).succeeds();
    run(&server, &workspace, &PUBLISH).succeeds();
    let card = card(&server);
    for told in [
        "base_model:\n- \"org/tiny\"",
        "datasets:\n- \"org/text\"",
        "\"dataset\": \"org/text\"",
        "\"data_files\": \"*.jsonl\"",
        "trained on org/text",
    ] {
        assert!(card.contains(told), "no `{told}` in\n{card}");
    }
}

#[test]
fn the_text_of_the_sweep_is_published_on_request() {
    let (server, workspace) = trained_on_secret_data();
    let args = [&PUBLISH[..], &["--include-sweep"]].concat();
    let dry = run(&server, &workspace, &[&args[..], &["--dry-run"]].concat()).succeeds();
    for part in ["with the text of the sweep, its comments", REMARK, SECRET] {
        assert!(dry.stdout.contains(part), "no `{part}`\n{dry}");
    }
    run(&server, &workspace, &args).succeeds();
    assert!(
        dry.stdout.trim_end().ends_with(card(&server).trim_end()),
        "{dry}"
    );
    let sweep = fs::read_to_string(workspace.path("tiny.toml")).unwrap();
    assert!(card(&server).contains(sweep.trim_end()));
    let others = public(&server)
        .into_iter()
        .filter(|(path, _)| path != "README.md");
    for (path, content) in others {
        assert!(
            !content.contains(SECRET) && !content.contains(REMARK),
            "{path}"
        );
    }
}

/// By its form it could be one of the Hub, and when it is published nothing is there any more.
#[test]
fn a_folder_that_is_gone_is_not_taken_for_one_of_the_hub() {
    let server = HubServer::start();
    server.set_token(TOKEN);
    let workspace = Workspace::new();
    workspace.write(
        &format!("{SECRET}/text.jsonl"),
        fs::read(fixture("tiny.jsonl")).unwrap(),
    );
    let line = format!("dataset = '{SECRET}/text.jsonl'\neval_fraction = 0.2");
    workspace.write("tiny.toml", replace_line(&small_sweep(), "dataset", &line));
    workspace.run(&["tiny.toml"]).succeeds();
    fs::remove_dir_all(workspace.path(SECRET)).unwrap();
    run(&server, &workspace, &PUBLISH).succeeds();
    assert!(!card(&server).contains(SECRET), "{}", card(&server));
}

/// A sweep of before there was a look at secrets may have one in its text.
#[test]
fn a_card_with_a_secret_is_not_published() {
    let (server, workspace) = published_from();
    let token = "hf_ssssssssssssssssssssssssssssssssss";
    crate::bad_folder::execute(
        &workspace,
        "UPDATE sweep SET text = text || '# hf_ssssssssssssssssssssssssssssssssss'",
    );
    let outcome = run(
        &server,
        &workspace,
        &[&PUBLISH[..], &["--include-sweep"]].concat(),
    );
    let outcome = outcome.refuses(&["the model card would reveal a secret"]);
    assert!(!outcome.stderr.contains(token), "{outcome}");
    assert!(server.requests().is_empty());
    run(&server, &workspace, &PUBLISH).succeeds();
}

/// `sae-run publish` in both layouts, which the Hub keeps waiting at `request`.
fn waiting(server: &HubServer, workspace: &Workspace, request: &str) -> Running {
    server.fail(Fault::delay(Duration::from_secs(600)).on(request).times(1));
    let mut command =
        workspace.command(&[&PUBLISH[..], &["--layout", "sparsify,saelens"]].concat());
    command
        .env("HF_ENDPOINT", server.url())
        .env("HF_TOKEN", TOKEN);
    let (stdout, stderr) = (workspace.path("stdout.txt"), workspace.path("stderr.txt"));
    let running = Running::start(command, stdout, stderr);
    until(&format!("a request `{request}`"), || {
        let requests = server.requests();
        let mut lines = requests
            .iter()
            .map(|r| format!("{} {}", r.method, r.target));
        lines.any(|line| line.contains(request)).then_some(())
    });
    running
}

/// The folders of what is written to be uploaded.
fn staged(workspace: &Workspace) -> Vec<PathBuf> {
    let shelf = fs::read_dir(workspace.path("runs/.publish")).unwrap();
    let entries = shelf.map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir()).collect()
}

#[test]
fn what_a_killed_upload_leaves_is_private_and_goes_with_the_next() {
    let (server, workspace) = published_from();
    let running = waiting(&server, &workspace, "POST /api/repos/create");
    let left = staged(&workspace);
    let [dir] = left.as_slice() else {
        panic!("{left:?}");
    };
    assert!(dir.join("saelens").is_dir(), "nothing is staged");
    for dir in [dir, &workspace.path("runs/.publish")] {
        let mode = fs::metadata(dir).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", dir.display());
    }
    // Another upload leaves it to the process that lives.
    run(
        &server,
        &workspace,
        &[&PUBLISH[..], &["--dry-run"]].concat(),
    )
    .succeeds();
    assert_eq!(staged(&workspace), left);
    running.kill();
    assert_eq!(staged(&workspace), left);
    run(&server, &workspace, &PUBLISH).succeeds();
    assert_eq!(staged(&workspace), Vec::<PathBuf>::new());
}

/// Commits of table `publication`, and its rows.
fn recorded(workspace: &Workspace) -> (Vec<String>, usize) {
    let rows = workspace.sql("SELECT commit_id FROM publication ORDER BY publication_id");
    let commits: Vec<_> = rows
        .iter()
        .map(|row| row["commit_id"].as_str().unwrap().to_owned())
        .collect();
    let n_files = workspace.sql("SELECT 1 FROM publication_file").len();
    (commits, n_files)
}

#[test]
fn a_commit_is_recorded_once_however_often_it_is_published() {
    let (server, workspace) = published_from();
    for _ in 0..3 {
        run(&server, &workspace, &PUBLISH).succeeds();
    }
    let first = server.history(REPO, "main")[0].clone();
    // Three SAEs of two files, and the card.
    assert_eq!(recorded(&workspace), (vec![first.clone()], 7));
    let n_new = "SELECT sum(is_new) FROM publication_file";
    assert_eq!(
        workspace.sql_value(n_new),
        7,
        "that it was sent is forgotten"
    );
    run(
        &server,
        &workspace,
        &[&PUBLISH[..], &["--license", "mit"]].concat(),
    )
    .succeeds();
    let second = server.history(REPO, "main")[0].clone();
    assert_eq!(recorded(&workspace), (vec![first, second], 14));
}

#[test]
fn an_upload_that_is_killed_before_its_record_is_recorded_by_the_next() {
    let (server, workspace) = published_from();
    let running = waiting(&server, &workspace, "/commit/");
    let history = until("the commit", || {
        let history = server.history(REPO, "main");
        (history.len() > 1).then_some(history)
    });
    running.kill();
    assert_eq!(recorded(&workspace), (Vec::new(), 0));
    let again = [&PUBLISH[..], &["--layout", "sparsify,saelens"]].concat();
    for _ in 0..2 {
        run(&server, &workspace, &again).succeeds();
    }
    assert_eq!(server.history(REPO, "main"), history, "committed twice");
    // Three SAEs of two files in two layouts, and the card.
    assert_eq!(recorded(&workspace), (vec![history[0].clone()], 13));
}
