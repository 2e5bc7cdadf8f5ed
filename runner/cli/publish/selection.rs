//! Which SAEs are published, where in the repository, and which should not be.

use super::public::PublicJob;
use crate::error::CliError;
use args::PublishArgs;
use plan::folder_name;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use store::{JobStatus, PublishableSae, ResultRow};

/// Problems that one message lists.
const N_LISTED: usize = 10;

/// An SAE and the folder of the repository it comes into.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) sae: PublishableSae,
    pub(super) folder: String,
    /// Its job, as strangers may see it.
    pub(super) public: PublicJob,
}

impl Chosen {
    /// The folder of its last checkpoint.
    pub(super) fn checkpoint(&self, runs_dir: &Path) -> PathBuf {
        let checkpoint = self.sae.result.checkpoint.as_deref();
        runs_dir.join(checkpoint.unwrap_or_default())
    }
}

/// Gives every SAE its folder of the repository.
///
/// # Errors
/// Two SAEs for one folder; a prefix that is not a folder.
pub(super) fn with_folders(
    saes: Vec<(PublishableSae, PublicJob)>,
    prefix: Option<&str>,
) -> Result<Vec<Chosen>, CliError> {
    if let Some(prefix) = prefix {
        check_prefix(prefix)?;
    }
    let jobs: HashSet<_> = saes.iter().map(|(sae, _)| &sae.result.job_id).collect();
    let has_several_jobs = jobs.len() > 1;
    let names = has_several_jobs.then(|| job_folders(&saes));
    let folder = |result: &ResultRow| {
        let job = names.as_ref().map(|names| names[&result.job_id].as_str());
        joined([prefix, job, Some(result.sae.as_str())])
    };
    let chosen = saes.into_iter().map(|(sae, public)| Chosen {
        folder: folder(&sae.result),
        sae,
        public,
    });
    Ok(chosen.collect())
}

/// A folder of the repository, from those of its parts that there are.
pub(super) fn joined<const N: usize>(parts: [Option<&str>; N]) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join("/")
}

/// A folder for each job: its name, followed by its id if another job has the same name.
fn job_folders(saes: &[(PublishableSae, PublicJob)]) -> HashMap<String, String> {
    let mut by_name: BTreeMap<String, HashSet<&str>> = BTreeMap::new();
    for (sae, job) in saes {
        let ids = by_name.entry(folder_name(&job.name)).or_default();
        ids.insert(&sae.result.job_id);
    }
    let folder = |job_id: &str, job: &PublicJob| {
        let name = folder_name(&job.name);
        match by_name[&name].len() {
            1 if !name.is_empty() => name,
            _ => format!("{name}-{job_id}"),
        }
    };
    saes.iter()
        .map(|(sae, job)| {
            let job_id = &sae.result.job_id;
            (job_id.clone(), folder(job_id, job))
        })
        .collect()
}

fn check_prefix(prefix: &str) -> Result<(), CliError> {
    let is_name = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .chars()
                .all(|c| c.is_alphanumeric() || "._-=+".contains(c))
    };
    if prefix.split('/').all(is_name) {
        return Ok(());
    }
    Err(
        CliError::input(format!("`--prefix {prefix}` is not a folder")).with_hint(
            "such as `v2/k64`: letters, digits and `._-=+` between the slashes".to_owned(),
        ),
    )
}

/// Refuses what should not be published, unless it is forced; and what cannot be, always.
///
/// # Errors
/// Jobs that are not done, SAEs that diverged or were not evaluated, checkpoints that are gone.
pub(super) fn check(
    chosen: &[Chosen],
    args: &PublishArgs,
    runs_dir: &Path,
) -> Result<(), CliError> {
    let is_gone = |chosen: &&Chosen| {
        let dir = chosen.sae.result.checkpoint.as_ref();
        let dir = dir.map(|dir| runs_dir.join(dir));
        !dir.is_some_and(|dir| dir.is_dir())
    };
    if let Some(Chosen { sae, .. }) = chosen.iter().find(is_gone) {
        let (job, sae) = (&sae.result.job, &sae.result.sae);
        let message = format!("job `{job}` has no checkpoint of `{sae}`");
        return Err(CliError::input(message)
            .with_hint("run its sweep, or leave it out with `--where`".to_owned()));
    }
    let problems = chosen.iter().filter_map(|chosen| {
        let (job, sae) = (&chosen.sae.result.job, &chosen.sae.result.sae);
        problem(&chosen.sae).map(|problem| format!("`{job}`, `{sae}`: {problem}"))
    });
    let problems: Vec<_> = problems.collect();
    if problems.is_empty() || args.force {
        return Ok(());
    }
    let more = match problems.len().saturating_sub(N_LISTED) {
        0 => String::new(),
        n => format!("\n  and {n} more"),
    };
    let listed = problems[..problems.len().min(N_LISTED)].join("\n  ");
    Err(
        CliError::input(format!("not published:\n  {listed}{more}")).with_hint(
            "`sae-run eval JOB` evaluates, `--where` leaves SAEs out, `--force` publishes anyway"
                .to_owned(),
        ),
    )
}

/// Why an SAE should not be published.
fn problem(sae: &PublishableSae) -> Option<String> {
    if let Some(verdict) = &sae.verdict {
        return Some(format!("went wrong: {verdict}"));
    }
    let result = &sae.result;
    if result.status != JobStatus::Done {
        return Some(format!("the job is {}", result.status));
    }
    if result.fvu.is_none() {
        return Some("its FVU is not finite".to_owned());
    }
    if result.fvu_eval.is_none() {
        return Some("was never evaluated on held-out sequences".to_owned());
    }
    None
}
