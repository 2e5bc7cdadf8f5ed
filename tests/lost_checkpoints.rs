//! What a run does about SAEs that were trained and are no longer there.

use crate::common::{Workspace, job_dir};
use std::fs;

#[test]
fn lost_and_damaged_saes_are_trained_again() {
    let workspace = Workspace::with_tiny_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    let trained = workspace.trained();
    let metrics = "SELECT job_id, name, step, squared_error FROM metric JOIN sae USING (sae_id) ORDER BY 1, 2, 3";
    let rows = workspace.sql(metrics);
    let jobs = workspace.sql("SELECT DISTINCT job FROM result ORDER BY job");
    let names: Vec<_> = jobs
        .iter()
        .map(|job| job["job"].as_str().unwrap())
        .collect();
    let dirs: Vec<_> = names.iter().map(|name| job_dir(&workspace, name)).collect();
    let sae_of = |dir: &std::path::Path| {
        let entries = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries.into_iter().find(|path| path.is_dir()).unwrap()
    };

    fs::remove_dir_all(&dirs[0]).unwrap();
    fs::remove_dir_all(sae_of(&dirs[1])).unwrap();
    fs::remove_file(sae_of(&dirs[2]).join("cfg.json")).unwrap();
    fs::write(sae_of(&dirs[3]).join("cfg.json"), "{}").unwrap();
    let weights = sae_of(&dirs[4]).join("sae.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() - 4]).unwrap();
    fs::write(sae_of(&dirs[5]).join("sae.safetensors"), "").unwrap();

    let outcome = workspace.run(&["tiny.toml"]).succeeds();
    for (idx, name) in names.iter().enumerate() {
        let told = format!("`{name}` was done, and is trained again: ");
        assert_eq!(outcome.stderr.contains(&told), idx < 6, "{name}: {outcome}");
    }
    let outcome = outcome.remarks(&["all 8 jobs are done, 2 of them earlier"]);
    drop(outcome);
    assert!(workspace.trained() == trained, "to the bit");
    assert_eq!(workspace.sql(metrics), rows);
    workspace
        .run(&["tiny.toml"])
        .succeeds()
        .remarks(&["all 8 jobs are done already"]);
}
