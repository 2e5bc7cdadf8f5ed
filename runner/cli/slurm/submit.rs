//! Submitting a job, once: if Slurm's answer is late or cannot be read, the job is looked for by its name.

use super::board::{Known, look};
use super::programs::{Silence, output_of};
use crate::error::CliError;
use std::path::Path;
use std::time::Duration;

/// What came of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Submission {
    /// Slurm gave it this number.
    Job(u64),
    /// Slurm did not answer, or not in a way that can be read, and has no such job.
    Lost(String),
    /// Whether Slurm has it is not known, for this reason.
    Unknown(String),
}

/// Looks for a job whose submission was not answered, and the time between two.
const LOOKS: u32 = 6;
const PAUSE: Duration = Duration::from_secs(5);

/// Submits a script whose job is called `name`.
///
/// # Errors
/// There is no Slurm here, or it refuses the job.
pub(crate) async fn submit(
    script: &Path,
    name: &str,
    after: Option<u64>,
) -> Result<Submission, CliError> {
    let script = script.to_string_lossy();
    let after = after.map(|id| format!("--dependency=afterany:{id}"));
    let mut args = vec!["--parsable"];
    args.extend(after.as_deref());
    args.push(&script);
    let why = match output_of("sbatch", &args).await {
        Ok(answer) => match number(&answer) {
            Some(id) => return Ok(Submission::Job(id)),
            None => {
                let answer = plan::escaped(answer.trim());
                format!(
                    "`sbatch` answered `{}`, which is no number of a job",
                    plan::brief(&answer)
                )
            }
        },
        Err(Silence::Refused(why)) if is_of_the_moment(&why) => why,
        Err(Silence::Refused(why)) => return Err(refused(&why)),
        Err(error @ Silence::Missing(_)) => return Err(error.into_error("sbatch")),
        Err(error @ Silence::Late) => error.into_error("sbatch").to_string(),
    };
    for _ in 0..LOOKS {
        match look(None, name).await {
            Known::Job(job) => return Ok(Submission::Job(job.id)),
            Known::Gone => return Ok(Submission::Lost(why)),
            Known::Unanswered(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    Ok(Submission::Unknown(why))
}

/// The number in what `sbatch --parsable` prints: `12`, or `12;cluster`.
fn number(answer: &str) -> Option<u64> {
    let last = answer.trim().lines().last()?;
    last.split(';').next()?.trim().parse().ok()
}

/// Whether Slurm could not do it now, and may have done it.
fn is_of_the_moment(why: &str) -> bool {
    [
        "Socket timed out",
        "Unable to contact",
        "Connection refused",
        "Connection timed out",
        "Resource temporarily unavailable",
        "Zero Bytes were transmitted",
        "Slurm temporarily unable to accept job",
        "Transport endpoint",
        "Slurmctld",
    ]
    .iter()
    .any(|moment| why.contains(moment))
}

/// The error for a job that Slurm does not take, with the setting that it is about.
fn refused(why: &str) -> CliError {
    let lower = why.to_lowercase();
    let settings = [
        ("account", "account"),
        ("partition", "partition"),
        ("qos", "qos"),
        ("time limit", "time"),
        ("memory", "mem"),
        ("generic resource", "gres"),
        ("gres", "gres"),
        ("feature", "constraint"),
        ("node count", "nnodes"),
        ("cpu count", "cpus_per_task"),
    ];
    let setting = settings.iter().find(|(word, _)| lower.contains(word));
    let error = CliError::input(format!("Slurm refuses the job: {}", plan::escaped(why)));
    match setting {
        Some((_, setting)) => error
            .with_hint(format!(
                "set `launch.slurm.{setting}`; `sinfo` shows what the cluster has"
            ))
            .about(format!("launch.slurm.{setting}")),
        None => error.with_hint(
            "`[launch.slurm]` says what a job asks for; `sinfo` shows what the cluster has"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_job_is_read() {
        assert_eq!(number("12\n"), Some(12));
        assert_eq!(number("12;lab\n"), Some(12));
        assert_eq!(number("a note of the site\n12\n"), Some(12));
        for bad in ["", "Submitted batch job 12", "12a"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_refusal_names_the_setting() {
        let setting = |why: &str| refused(why).setting().map(str::to_owned);
        assert_eq!(
            setting("invalid partition specified: nope").as_deref(),
            Some("launch.slurm.partition")
        );
        let account = "Invalid account or account/partition combination specified";
        assert_eq!(setting(account).as_deref(), Some("launch.slurm.account"));
        assert_eq!(
            setting("Memory specification can not be satisfied").as_deref(),
            Some("launch.slurm.mem")
        );
        assert_eq!(setting("something new"), None);
        assert!(is_of_the_moment(
            "Batch job submission failed: Socket timed out on send/recv operation"
        ));
        assert!(!is_of_the_moment("Invalid partition name specified"));
    }
}
