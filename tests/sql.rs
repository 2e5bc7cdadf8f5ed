//! `sae-run sql`: any question, and nothing but questions.

use crate::common::{Outcome, Workspace, signal, until};
use serde_json::json;
use std::fs;
use std::time::Instant;

fn trained() -> Workspace {
    let workspace = Workspace::with_small_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    workspace
}

const QUESTION: &str =
    "SELECT hookpoint, k, NULL AS none, 'a, \"b\"' AS text, 0.5 AS half FROM result ORDER BY 1";

#[test]
fn answers_come_as_table_json_and_csv() {
    let workspace = trained();
    let outcome = workspace.run(&["sql", QUESTION]).succeeds();
    insta::assert_snapshot!("answer_as_table", outcome.stdout);
    let outcome = workspace.run(&["sql", "--csv", QUESTION]).succeeds();
    insta::assert_snapshot!("answer_as_csv", outcome.stdout);
    let row = |hookpoint| json!({"hookpoint": hookpoint, "k": 4, "none": null, "text": "a, \"b\"", "half": 0.5});
    let expected = json!([row("layers.0"), row("layers.1.mlp"), row("layers.2")]);
    assert_eq!(
        workspace
            .run(&["sql", "--json", QUESTION])
            .succeeds()
            .json()["rows"],
        expected
    );

    let none = "SELECT job FROM result WHERE k = 5";
    assert_eq!(
        workspace.run(&["sql", "--json", none]).succeeds().json(),
        json!({"schema": 1, "columns": ["job"], "rows": []})
    );
    assert_eq!(
        workspace.run(&["sql", "--csv", none]).succeeds().stdout,
        "job\n"
    );
}

#[test]
fn the_views_of_the_readme_answer() {
    let workspace = trained();
    for question in [
        "SELECT job, hookpoint, k, num_latents, fvu, l0, dead_pct, tokens_per_s FROM result ORDER BY fvu",
        "SELECT step, fvu FROM curve WHERE hookpoint = 'layers.0' ORDER BY step",
        "WITH best AS (SELECT min(fvu) AS fvu FROM result) SELECT job FROM result JOIN best USING (fvu)",
        "SELECT sql FROM sqlite_schema WHERE name = 'result'",
        "EXPLAIN QUERY PLAN SELECT * FROM result",
    ] {
        assert!(!workspace.sql(question).is_empty(), "{question}");
    }
}

#[test]
fn what_would_write_is_refused() {
    let workspace = trained();
    let before = fs::read(workspace.path("runs/runs.db")).unwrap();
    let elsewhere = format!("ATTACH '{}' AS other", workspace.path("other.db").display());
    for statement in [
        "INSERT INTO sweep_job SELECT * FROM sweep_job",
        "DELETE FROM metric",
        "UPDATE job SET status = 'queued'",
        "DROP TABLE metric",
        "CREATE TABLE mine (a)",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode = DELETE",
        "VACUUM INTO 'copy.db'",
        &elsewhere,
        "/* SELECT */ DELETE FROM metric",
        "BEGIN",
        "PRAGMA wal_checkpoint",
        "DROP TABLE IF EXISTS missing",
    ] {
        workspace
            .run(&["sql", statement])
            .refuses(&["the statement is refused: queries only read"])
            .hints("SELECT");
    }
    // Statements that begin like a query but are not one.
    workspace
        .run(&["sql", "WITH x AS (SELECT 1) DELETE FROM metric"])
        .refuses(&["refused"])
        .hints("SELECT");
    workspace
        .run(&["sql", "SELECT 1; DELETE FROM metric"])
        .refuses(&["refused"])
        .hints("SELECT");
    workspace
        .run(&["sql", "SELECT 1; SELECT 2"])
        .refuses(&["2 statements"])
        .hints("one by one");
    assert!(
        fs::read(workspace.path("runs/runs.db")).unwrap() == before,
        "it was changed"
    );
    assert!(!workspace.path("other.db").exists() && !workspace.path("copy.db").exists());
}

#[test]
fn what_sqlite_does_not_understand_is_reported_in_its_message() {
    let workspace = trained();
    workspace
        .run(&["sql", "SELECT fvuu FROM result"])
        .refuses(&["no such column: fvuu"])
        .hints("`result`");
    workspace
        .run(&["sql", "SELECT * FROM reslt"])
        .refuses(&["no such table: reslt"])
        .hints("`result`");
    workspace
        .run(&["sql", "  "])
        .refuses(&["the query is empty"])
        .hints("SELECT");
}

#[test]
fn a_missing_database_is_told_and_not_made() {
    let workspace = Workspace::new();
    let commands: [&[&str]; 3] = [&["sql", "SELECT 1"], &["ls"], &["show", "x"]];
    for args in commands {
        workspace
            .run(args)
            .refuses(&["there is no database at", "runs/runs.db"])
            .hints("run a sweep first");
    }
    assert!(!workspace.path("runs").exists());
}

#[test]
fn a_statement_comes_from_a_file_and_never_from_nowhere() {
    let workspace = trained();
    workspace.write("q.sql", "-- how many?\nSELECT count(*) AS n FROM job;\n");
    let outcome = workspace.run(&["sql", "--csv", "-f", "q.sql"]).succeeds();
    assert_eq!(outcome.stdout, "n\n2\n");
    workspace
        .run(&["sql"])
        .refuses(&["no statement"])
        .hints("-f FILE.sql");
    workspace
        .run(&["sql", "-f", "none.sql"])
        .refuses(&["none.sql"]);
}

const ENDLESS: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";

#[test]
fn an_endless_query_is_cut_timed_out_and_stopped() {
    let workspace = trained();
    let rows = format!("{ENDLESS} SELECT i FROM n");
    let outcome = workspace
        .run(&["sql", "--csv", "--max-rows", "2", &rows])
        .succeeds()
        .remarks(&["cut after 2 rows"]);
    assert_eq!(outcome.stdout, "i\n1\n2\n");
    let count = format!("{ENDLESS} SELECT count(*) FROM n");
    workspace
        .run(&["sql", "--timeout", "1", &count])
        .refuses(&["longer than 1 s"])
        .hints("--timeout");
    let mut running = workspace.start(&["sql", &count]);
    // It listens before it opens a second connection; until then the signal would just end it.
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(running.status().is_none());
    signal(running.pid(), "INT");
    running.wait().exits(130);
}

/// Runs a statement, and gives also the most memory that the process had, in MiB. It is killed if that is
/// far too much.
fn asked(workspace: &Workspace, args: &[&str]) -> (Outcome, u64) {
    let mut running = workspace.start(&[&["sql"], args].concat());
    let status = format!("/proc/{}/status", running.pid());
    let (mut peak_mib, mut is_killed) = (0, false);
    until("its end", || {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak_mib = peak_mib.max(peak.unwrap_or(0) / 1024);
        if peak_mib > 4096 && !is_killed {
            signal(running.pid(), "KILL");
            is_killed = true;
        }
        running.status()
    });
    (running.wait(), peak_mib)
}

/// Refuses a statement within a minute and a gibibyte, most of which is libtorch.
#[track_caller]
fn is_refused(workspace: &Workspace, args: &[&str], message: &str) {
    let begun = Instant::now();
    let (outcome, peak_mib) = asked(workspace, args);
    assert!(peak_mib < 1024, "{peak_mib} MiB: {args:?}");
    assert!(begun.elapsed().as_secs() < 90, "{args:?}");
    outcome.refuses(&[message]).hints("");
}

#[test]
fn a_query_takes_no_more_memory_than_it_may() {
    let workspace = trained();
    let too_long = "a value of the query is longer than 17 MB";
    let too_large = "the query needs more than 269 MB of memory";
    let row = "the row of the answer is larger than 34 MB";
    // As much as a row may have, half of what SQLite may (its copy is too much), and all.
    let [wide, wider, widest] = [5, 12, 30].map(|n_columns| {
        format!(
            "SELECT {}",
            vec!["randomblob(16000000)"; n_columns].join(", ")
        )
    });
    let attacks = [
        ("SELECT randomblob(1000000000)", too_long),
        ("SELECT hex(zeroblob(10000000))", too_long),
        (
            "SELECT replace(hex(zeroblob(1000000)), '0', hex(zeroblob(1000)))",
            too_long,
        ),
        // That a result is too long may show only at its end, which never comes: then the time limit ends it.
        ("SELECT json_group_array(i) FROM n", ""),
        ("SELECT group_concat(randomblob(1000000)) FROM n", ""),
        ("SELECT DISTINCT randomblob(10000) FROM n", ""),
        ("SELECT randomblob(10000) AS b FROM n ORDER BY b", too_large),
        (
            "SELECT count(*) FROM n GROUP BY randomblob(10000)",
            too_large,
        ),
        (
            "SELECT 1 UNION SELECT randomblob(10000) FROM n ORDER BY 1",
            too_large,
        ),
        (&wide, row),
        (&wider, too_large),
        (&widest, too_large),
        (
            "SELECT randomblob(1000000) FROM n",
            "the answer is larger than 68 MB",
        ),
    ];
    for (attack, message) in attacks {
        let statement = format!("{ENDLESS} {attack}");
        let args = ["--timeout", "20", "--max-rows", "1000000000", &statement];
        is_refused(&workspace, &args, message);
    }
    // It answers as before.
    assert_eq!(workspace.sql_value("SELECT count(*) FROM job"), 2);
}

#[test]
fn a_query_ends_after_its_time_whatever_it_does() {
    let workspace = trained();
    let haystack = "replace(hex(zeroblob(4000000)), '00', 'a')";
    let within = format!("SELECT instr({haystack}, substr({haystack}, 2000000) || 'b')");
    let join = "SELECT count(*) FROM metric a, metric b, metric c, metric d, metric e, metric f";
    for statement in [&within, join] {
        is_refused(
            &workspace,
            &["--timeout", "1", statement],
            "longer than 1 s",
        );
    }
    let like = format!("SELECT {haystack} LIKE '{}b'", "%a".repeat(1000));
    is_refused(&workspace, &[&like], "pattern too complex");
    let rows = format!("{ENDLESS} SELECT i, zeroblob(1000) FROM n");
    for format in ["--csv", "--json"] {
        let args = ["--timeout", "1", "--max-rows", "1000000000", format, &rows];
        is_refused(&workspace, &args, "longer than 1 s");
    }
    let help = workspace.run(&["sql", "--help"]).succeeds();
    assert!(help.stdout.contains("[default: 60]"), "{help}");
    workspace
        .run(&["sql", "--timeout", "0", "SELECT 1"])
        .succeeds();
}

#[test]
fn any_number_of_rows_is_printed_as_they_come() {
    let workspace = trained();
    // 160 MB: more than a table may have.
    let rows = format!("{ENDLESS} SELECT i, hex(zeroblob(100)) AS text FROM n LIMIT 700000");
    let (outcome, peak_mib) = asked(&workspace, &["--max-rows", "1000000", "--csv", &rows]);
    let outcome = outcome.succeeds();
    assert_eq!(outcome.stdout.lines().count(), 700_001);
    assert!(peak_mib < 1024, "{peak_mib} MiB");
    let rows = format!("{ENDLESS} SELECT i AS a, '\"x' || char(10) AS b FROM n LIMIT 2");
    let outcome = workspace.run(&["sql", "--json", &rows]).succeeds();
    let rows = json!([{"a": 1, "b": "\"x\n"}, {"a": 2, "b": "\"x\n"}]);
    let expected = json!({"schema": 1, "columns": ["a", "b"], "rows": rows});
    assert_eq!(outcome.stdout, format!("{expected:#}\n"));
}

#[test]
fn names_cannot_steer_the_terminal() {
    let workspace = trained();
    crate::bad_folder::execute(
        &workspace,
        "UPDATE sweep_job SET name = char(27) || '[2J' || char(10) || '../''\"x' WHERE ordinal = 0",
    );
    let commands: [&[&str]; 3] = [
        &["ls", "--sweep", "tiny"],
        &["show", "\u{1b}[2J"],
        &["sql", "SELECT name FROM sweep_job"],
    ];
    for args in commands {
        let outcome = workspace.run(args).succeeds();
        assert!(outcome.stdout.contains(r"\u001b[2J\n../'"), "{outcome}");
        assert!(!outcome.stdout.contains('\u{1b}'), "{outcome}");
    }
}
