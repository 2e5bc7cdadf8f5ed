//! `sae-run report`: one page that needs nothing else.

use crate::common::{Workspace, replace_line, small_sweep, text, with_jobs};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The small sweep with data to evaluate on, trained.
fn trained() -> Workspace {
    let workspace = Workspace::new();
    let lines = "ctx_len = 64\neval_fraction = 0.05";
    workspace.write("tiny.toml", replace_line(&small_sweep(), "ctx_len", lines));
    workspace.run(&["tiny.toml"]).succeeds();
    workspace
}

fn report(workspace: &Workspace, args: &[&str]) -> String {
    workspace.run(&[&["report"], args].concat()).succeeds();
    fs::read_to_string(workspace.path("report.html")).unwrap()
}

/// What the page's script reads.
fn plots(page: &str) -> serde_json::Value {
    let (_, json) = page.split_once(r#"id="plots">"#).unwrap();
    let (json, _) = json.split_once("</script>").unwrap();
    serde_json::from_str(json).unwrap()
}

#[test]
fn a_report_has_all_jobs_their_numbers_and_where_they_come_from() {
    let workspace = trained();
    let outcome = workspace.run(&["report", "tiny"]).succeeds();
    outcome.remarks(&["report.html: 3 SAEs of 1 sweep"]);
    let page = report(&workspace, &[]);
    for row in workspace.sql("SELECT job, sae, fvu, fvu_eval, ce_recovered, l0 FROM result") {
        for key in ["job", "sae"] {
            let name = row[key].as_str().unwrap();
            assert!(page.contains(&format!("<td>{name}</td>")), "{name}");
        }
        for key in ["fvu", "fvu_eval", "ce_recovered"] {
            // By random weights the model may lose nothing without an output.
            let Some(number) = row[key].as_f64() else {
                assert_eq!(key, "ce_recovered");
                continue;
            };
            let number = format!(">{number:.4}</td>");
            assert!(page.contains(&number), "{key}: {number}");
        }
    }
    let facts = "SELECT recipe_digest, request_digest, jobs_digest, model_digest, token_digest, host, libtorch
        FROM sweep, job, attempt LIMIT 1";
    for (key, value) in workspace.sql(facts)[0].as_object().unwrap() {
        assert!(page.contains(value.as_str().unwrap()), "{key}");
    }
    assert!(page.contains("hookpoints = [["), "the sweep's text");

    let plots = plots(&page);
    for sae in plots["saes"].as_array().unwrap() {
        let density = sae["density"].as_array().unwrap();
        let n_fired: u64 = density.iter().map(|n| n.as_u64().unwrap()).sum();
        let n_latents = sae["num_latents"].as_u64().unwrap();
        assert!(n_fired > 0 && n_fired <= n_latents, "{sae}");
        assert_eq!(
            sae["tokens"].as_array().unwrap().len(),
            sae["fvu_curve"].as_array().unwrap().len()
        );
        assert_eq!(sae["on_frontier"], true, "alone at its hookpoint");
    }
    assert_eq!(plots["groups"].as_array().unwrap().len(), 3);
}

#[test]
fn a_job_of_two_sweeps_counts_once() {
    let workspace = trained();
    let sweep = fs::read_to_string(workspace.path("tiny.toml")).unwrap();
    let head = |page: &str| {
        let (_, head) = page.split_once(r#"<dl class="summary">"#).unwrap();
        head.split_once("</dl>").unwrap().0.to_owned()
    };
    let before = head(&report(&workspace, &[]));
    workspace.write("again.toml", replace_line(&sweep, "name", "name = 'again'"));
    workspace.run(&["again.toml"]).succeeds();
    let outcome = workspace.run(&["report"]).succeeds();
    outcome.remarks(&["report.html: 3 SAEs of 2 sweeps"]);
    assert_eq!(head(&report(&workspace, &[])), before);
}

#[test]
fn a_page_loads_nothing() {
    let workspace = trained();
    let page = report(&workspace, &[]).to_lowercase();
    for loading in [
        " src=",
        " href=",
        " url(",
        ":url(",
        "@import",
        "<link",
        "<img",
        "<iframe",
        "fetch(",
        "xmlhttprequest",
    ] {
        assert!(!page.contains(loading), "{loading}");
    }
    assert!(page.contains("default-src 'none'"));
    assert!(page.contains("the mit license"), "that of the plots");
    let files = workspace.files("");
    assert!(!files.keys().any(|path| path.ends_with(".html.tmp")));
}

#[test]
fn names_are_text_wherever_they_stand() {
    let hostile = "</script><script>document.title=1</script><!--\"&";
    let jobs = [(hostile, "hookpoints=[\"layers.0\"]")];
    let settings = "max_examples = 16\nbatch_size = 8 # <b id=bold>";
    let workspace = with_jobs(settings, &jobs);
    // A sweep is a folder, and has no such name.
    workspace
        .run(&["tiny.toml", "--set", "name=<i>q\"</i>"])
        .refuses(&["`name`"]);
    workspace.run(&["tiny.toml"]).succeeds();
    let page = report(&workspace, &[]);
    assert!(!page.contains("<script>document"), "as it was given");
    assert!(!page.contains("<b id=bold>") && page.contains("&lt;b id=bold&gt;"));
    let n_scripts = page.matches("<script").count();
    assert_eq!((n_scripts, page.matches("</script").count()), (4, 4));
    assert!(page.contains("&lt;&#x2f;script&gt;&lt;script&gt;document.title=1"));
    assert_eq!(plots(&page)["saes"][0]["label"], hostile);
}

#[test]
fn what_cannot_be_reported_is_told() {
    let workspace = Workspace::new();
    workspace.run(&["report"]).refuses(&["no database"]);
    let bad = replace_line(
        &small_sweep(),
        "max_examples",
        "max_examples = 64\nlr = 1e30",
    );
    workspace.write("tiny.toml", bad);
    workspace.run(&["tiny.toml"]);
    workspace
        .run(&["report", "tinny"])
        .refuses(&["tinny"])
        .hints("did you mean `tiny`?");
    workspace
        .run(&["report", "-o", "runs"])
        .refuses(&["`runs` is a folder"])
        .hints("name a file");
    workspace
        .run(&["report", "-o", "none/report.html"])
        .exits(2)
        .remarks(&["none/"]);
    assert!(!workspace.path("report.html").exists());
}

#[test]
fn what_was_not_begun_has_no_report() {
    let workspace = Workspace::with_small_sweep();
    workspace.run(&["tiny.toml", "--set", "launch.device=cuda:9"]);
    workspace
        .run(&["report"])
        .refuses(&["no sweep has results yet"])
        .hints("`sae-run ls`");
    workspace
        .run(&["report", "tiny"])
        .refuses(&["sweep `tiny` has no results yet"]);
}

#[test]
fn densities_that_are_damaged_are_left_out() {
    let workspace = trained();
    for path in workspace.files("runs/tiny/.eval").into_keys() {
        workspace.write(&format!("runs/tiny/.eval/{path}"), "garbage");
    }
    let outcome = workspace.run(&["report"]).succeeds();
    outcome.remarks(&["left out: ", "report.html: 3 SAEs"]);
    let page = fs::read_to_string(workspace.path("report.html")).unwrap();
    assert_eq!(plots(&page)["saes"][0]["density"], serde_json::json!([]));
}

fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut folders = std::env::split_paths(&path);
    folders.find_map(|folder| Some(folder.join("chromium")).filter(|path| path.is_file()))
}

/// The page as a browser has it after its scripts have run.
fn dump(chromium: &Path, workspace: &Workspace, page: &str) -> String {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(chromium)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ])
        .args([
            "--disable-default-apps",
            "--virtual-time-budget=5000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", text(profile.path())))
        .arg(format!("file://{}", text(&workspace.path(page))))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_browser_draws_the_page() {
    let Some(chromium) = chromium() else {
        eprintln!("skipped: no `chromium` in PATH");
        return;
    };
    let workspace = trained();
    let page = report(&workspace, &[]);
    let dom = dump(&chromium, &workspace, "report.html");
    assert!(dom.contains("data-drawn-ms"), "the script came to its end");
    assert_eq!(dom.matches("<tr data-sae=").count(), 3);
    // Three hookpoints with a plot of each of the five kinds, as far as there is something to draw.
    let n_unknown = |condition: &str| {
        let query =
            format!("SELECT count(*) AS n FROM result WHERE ce_recovered IS NULL {condition}");
        workspace.sql(&query)[0]["n"].as_u64().unwrap() as usize
    };
    assert_eq!(dom.matches("<canvas").count(), 3 * 5 - n_unknown(""));

    // As a user who sorts by hookpoint, twice, and filters.
    let user = r#"<script>
        const button = [...document.querySelectorAll("th button")].find((b) => b.textContent === "SAE");
        button.click();
        button.click();
        const box = document.getElementById("filter");
        box.value = "layers.1.mlp+layers.2 DONE";
        box.dispatchEvent(new Event("input"));
        </script></body>"#;
    workspace.write("used.html", page.replace("</body>", user));
    let dom = dump(&chromium, &workspace, "used.html");
    let offset_of = |name: &str| dom.find(&format!("<td>{name}</td><td>done")).unwrap();
    assert!(
        offset_of("layers.2") < offset_of("layers.1.mlp")
            && offset_of("layers.1.mlp") < offset_of("layers.0")
    );
    assert!(dom.contains(r#"aria-sort="descending""#));
    assert!(dom.contains(">2 of 3</output>"));
    let n_drawn = 2 * 5 - n_unknown("AND sae <> 'layers.0'");
    assert_eq!(dom.matches("<canvas").count(), n_drawn);
}

#[test]
fn columns_have_their_names_in_sql() {
    let workspace = trained();
    let page = report(&workspace, &[]);
    let names = page.split("data-name=\"").skip(1);
    let names: Vec<_> = names.map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(names.contains(&"fvu_eval"), "{names:?}");
    let names = names.join(", ").replace("&#x2f;", "/");
    workspace.sql(&format!("SELECT {names} FROM result"));
}

/// As a user who saves all there is, and prints: what would be saved or be on paper is put into the page.
const SAVES_AND_PRINTS: &str = r##"<script>
    const saved = document.createElement("main");
    const show = ({ type, text }) => {
        const isBroken = type === "image/svg+xml"
            && new DOMParser().parseFromString(text, type).querySelector("parsererror") !== null;
        const pre = document.createElement("pre");
        pre.dataset.type = isBroken ? "broken" : type;
        pre.textContent = text;
        saved.append(pre);
    };
    // What is saved is shown at once: a browser reads blobs at its own pace.
    window.Blob = function (parts, { type }) { Object.assign(this, { type, text: parts.join("") }); };
    URL.createObjectURL = (blob) => { show(blob); return "#"; };
    document.querySelector("[data-plot=fvu] input[name=log-x]").click();
    setTimeout(() => {
        document.querySelectorAll("button.save").forEach((button) => button.click());
        dispatchEvent(new Event("beforeprint"));
        document.body.append(saved);
    }, 100);
    </script></body>"##;

#[test]
fn plots_are_saved_as_svg_and_numbers_as_csv() {
    let Some(chromium) = chromium() else {
        eprintln!("skipped: no `chromium` in PATH");
        return;
    };
    let workspace = trained();
    let page = report(&workspace, &[]);
    workspace.write("saved.html", page.replace("</body>", SAVES_AND_PRINTS));
    let dom = dump(&chromium, &workspace, "saved.html");
    let n_plots = dom.matches("<canvas").count();
    assert!(n_plots >= 12, "{n_plots}");
    assert_eq!(dom.matches(r#"data-type="image/svg+xml""#).count(), n_plots);
    assert_eq!(dom.matches(r#"data-type="text/csv""#).count(), n_plots + 1);
    assert_eq!(dom.matches(r#"<div class="paper"><svg"#).count(), n_plots);
    assert!(!dom.contains("NaN"), "a coordinate");
    // The whole of the results, with all digits.
    assert!(
        dom.contains("\njob,sae,status,k,num_latents,")
            || dom.contains(">job,sae,status,kind,k,num_latents,")
    );
    for row in workspace.sql("SELECT fvu, fvu_eval FROM result") {
        for key in ["fvu", "fvu_eval"] {
            assert!(dom.contains(&format!(",{},", row[key])), "{key}: {row}");
        }
    }
}

#[test]
fn kinds_are_named_and_compared_at_equal_l0() {
    let jobs = [4, 8].into_iter().flat_map(|k| {
        ["topk", "groupmax"]
            .map(|kind| (format!("{kind}{k}"), format!("activation='{kind}', k={k}")))
    });
    let jobs: Vec<_> = jobs.collect();
    let jobs: Vec<_> = jobs
        .iter()
        .map(|(name, settings)| (name.as_str(), settings.as_str()))
        .collect();
    let settings =
        "max_examples = 64\nbatch_size = 8\nexpansion_factor = 4\nhookpoints = ['layers.0']";
    let workspace = with_jobs(settings, &jobs);
    let prints = |args: &[&str], part: &str| {
        let stdout = workspace.run(args).succeeds().stdout;
        assert!(stdout.contains(part), "no `{part}`: {stdout}");
    };
    prints(&["tiny.toml"], "groupmax");
    let page = report(&workspace, &[]);
    let compared = workspace.sql("SELECT fvu, other_fvu FROM kind_comparison");
    assert_eq!(compared.len(), 4, "each of four SAEs with the other kind");
    for row in &compared {
        let fvu = |key| format!(">{:.4}</td>", row[key].as_f64().unwrap());
        assert!(
            page.contains(&fvu("fvu")) && page.contains(&fvu("other_fvu")),
            "{row}"
        );
    }
    assert_eq!(
        page.matches("class=\"best\"").count(),
        2,
        "at two values of L0"
    );
    prints(&["ls", "--sweep", "tiny"], "groupmax   4");
    prints(&["show", "groupmax8"], "kind       groupmax");
    let only = ["ls", "--where", "kind = 'topk'"];
    let listed = workspace.run(&only).succeeds().stdout;
    assert!(
        !listed.contains("kind"),
        "all are of the default one: {listed}"
    );
    if let Some(chromium) = chromium() {
        let dom = dump(&chromium, &workspace, "report.html");
        // Frontier, FVU and dead latents; nothing was evaluated.
        assert_eq!(dom.matches("class=\"legend\"").count(), 3);
        assert!(dom.contains("data-drawn-ms"), "the script came to its end");
    }
}
