//! A sweep whose jobs are named one by one.

use super::{Workspace, fixture, text};
use std::path::PathBuf;

/// A folder with `tiny.toml`: the jobs `jobs`, a name and settings (Python's keyword arguments) each, on
/// the CPU and on one thread. `settings`: lines of TOML for all jobs.
pub(crate) fn with_jobs(settings: &str, jobs: &[(&str, &str)]) -> Workspace {
    let jobs = jobs
        .iter()
        .map(|(name, settings)| format!("    yield job(dict({settings}), name='{name}')\n"));
    let recipe = format!("def plan(request):\n{}", jobs.collect::<String>());
    let (model, dataset) = (fixture("tiny-llama"), fixture("tiny.jsonl"));
    let sweep = format!(
        "name = 'tiny'\n\
         recipe = 'jobs.py'\n\
         [train]\n\
         model = '{}'\n\
         dataset = '{}'\n\
         ctx_len = 64\n\
         k = 4\n\
         {settings}\n\
         [launch]\n\
         device = 'cpu'\n\
         threads = 1\n\
         retries = 0\n",
        text(&model),
        text(&dataset),
    );
    let workspace = Workspace::new();
    workspace.write("jobs.py", recipe);
    workspace.write("tiny.toml", sweep);
    workspace
}

/// The folder of a job of sweep `tiny`, by its name.
#[track_caller]
pub(crate) fn job_dir(workspace: &Workspace, name: &str) -> PathBuf {
    let statement =
        format!("SELECT DISTINCT dir FROM job JOIN sweep_job USING (job_id) WHERE name = '{name}'");
    let dir = workspace.sql_value(&statement);
    workspace.path("runs").join(dir.as_str().unwrap())
}
