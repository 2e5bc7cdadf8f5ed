//! What a run says at its end: which jobs failed and why, how many are done, the best, and what to type next.

use crate::run::schedule::Summary;
use crate::show::doubts::Measured;
use crate::show::duration::exact_duration;
use crate::show::table::{self, count, number};
use plan::{LEAST_ABLATION_COST, Plan, escaped};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use store::{JobStatus, RecordedJob, RecordedPlan, SaeOutcome};

/// Reasons of failed jobs that are shown.
const MOST_REASONS: usize = 10;
/// Jobs that are named with a reason.
const MOST_NAMES: usize = 3;

/// How a run ended.
pub(crate) struct Closing<'a> {
    pub(crate) plan: &'a Plan,
    /// The jobs before the run, and after it.
    pub(crate) before: &'a RecordedPlan,
    pub(crate) after: &'a RecordedPlan,
    /// What came of each SAE.
    pub(crate) outcomes: &'a [SaeOutcome],
    pub(crate) took: Duration,
    /// The runs folder, as the user has it.
    pub(crate) runs_dir: &'a Path,
    /// Whether commands find that folder without an option.
    pub(crate) is_usual_folder: bool,
    pub(crate) retry_failed: bool,
    /// Whether only the counts are shown.
    pub(crate) quiet: bool,
}

impl Closing<'_> {
    /// Jobs that failed in an earlier run and were left out.
    pub(crate) fn n_left_out(&self) -> usize {
        let jobs = self.distinct(self.after);
        jobs.filter(|job| self.was_left_out(job)).count()
    }

    /// Says why jobs failed, each reason once; those whose worker failed as a whole have said so already.
    pub(crate) fn say_failures(&self) {
        let mut groups: Vec<(String, Vec<&RecordedJob>)> = Vec::new();
        let mut hints = BTreeSet::new();
        for job in self.distinct(self.after) {
            let Some(failure) = &job.failure else {
                continue;
            };
            let is_early = self.was_left_out(job);
            if failure.sae.is_none() && !is_early {
                continue;
            }
            hints.extend(failure.hint.as_deref());
            let when = if is_early { " in an earlier run" } else { "" };
            let text = format!("failed{when}: {}", failure.text);
            match groups.iter_mut().find(|group| group.0 == text) {
                Some(group) => group.1.push(job),
                None => groups.push((text, vec![job])),
            }
        }
        for (text, jobs) in groups.iter().take(MOST_REASONS) {
            table::note(&format!("error: {} {text}", self.names(jobs)));
        }
        if groups.len() > MOST_REASONS {
            let n = groups[MOST_REASONS..]
                .iter()
                .map(|group| group.1.len())
                .sum();
            let sweep = &self.plan.sweep;
            table::note(&format!(
                "error: {} more failed: `sae-run ls {sweep} --where \"status = 'failed'\"`",
                count(n, "job")
            ));
        }
        for hint in hints {
            table::note(&format!("hint: {hint}"));
        }
        if self.n_left_out() > 0 {
            table::note("hint: `--retry-failed` trains again what failed in an earlier run");
        }
    }

    /// ``job `k=16` (0123456789ab)``, or the first few of several.
    fn names(&self, jobs: &[&RecordedJob]) -> String {
        let named = jobs.iter().take(MOST_NAMES).map(|job| {
            let name = self.plan.job(&job.job_id).map_or("", |job| &job.name);
            format!("`{name}` ({})", job.job_id)
        });
        let named = named.collect::<Vec<_>>().join(", ");
        match jobs.len() {
            1 => format!("job {named}"),
            n if n > MOST_NAMES => format!("{n} jobs {named}, ..."),
            n => format!("{n} jobs {named}"),
        }
    }

    fn was_left_out(&self, job: &RecordedJob) -> bool {
        let before = self.before.job(&job.job_id);
        !self.retry_failed && before.is_some_and(|before| self.before.is_given_up(before))
    }

    fn distinct<'a>(&self, recorded: &'a RecordedPlan) -> impl Iterator<Item = &'a RecordedJob> {
        let mut seen = BTreeSet::new();
        recorded
            .jobs
            .iter()
            .filter(move |job| seen.insert(job.job_id.as_str()))
    }

    /// Says how many jobs are done and how long it took, which SAE is the best, where they are, and what to type next.
    pub(crate) fn say_counts(&self) {
        table::note(&self.counts());
        if self.quiet {
            return;
        }
        if let Some(best) = self.best() {
            table::note(&best);
        }
        let dir = self.runs_dir.join(&self.plan.sweep);
        let n_done = self.after.progress().n_done;
        // One job's folder is named by who ran it.
        if self.after.jobs.len() > 1 && n_done > 0 && dir.is_dir() {
            table::note(&format!("the SAEs are in `{}`", dir.display()));
        }
        self.say_doubts();
        if n_done > 0 {
            table::note(&self.next());
        }
    }

    /// Says which numbers mean little.
    fn say_doubts(&self) {
        let measured: Vec<_> = self.outcomes.iter().map(Measured::of_outcome).collect();
        let n_bad = measured.iter().filter(|own| own.is_poor()).count();
        if n_bad > 0 {
            table::note_with_hint(
                &format!(
                    "{} worse than predicting the mean (FVU above 1)",
                    count(n_bad, "SAE")
                ),
                "lower `lr`",
            );
        }
        if measured.iter().any(|own| own.is_without_share) {
            table::note(&format!(
                "CE recovered is `-` where ablation costs less than {LEAST_ABLATION_COST} nats per token: too little for a meaningful share"
            ));
        }
    }

    /// All of it, for programs.
    pub(crate) fn as_json(&self, summary: &Summary) -> Value {
        let progress = self.after.progress();
        let jobs = self.after.jobs.iter().map(|job| {
            json!({
                "job": self.plan.job(&job.job_id).map(|job| &job.name),
                "job_id": job.job_id,
                "status": job.status.to_string(),
                "dir": job.dir,
                "reason": job.failure.as_ref().map(|failure| &failure.text),
            })
        });
        json!({
            "sweep": self.plan.sweep,
            "is_begun": true,
            "is_interrupted": summary.interrupted,
            "exit_code": summary.exit_code(),
            "runs_dir": self.runs_dir,
            "took_s": self.took.as_secs_f64(),
            "n_jobs": progress.n_jobs,
            "n_done": progress.n_done,
            "jobs": jobs.collect::<Vec<_>>(),
            "saes": self.outcomes.iter().map(sae_as_json).collect::<Vec<_>>(),
        })
    }

    fn counts(&self) -> String {
        let (n_before, after) = (self.before.progress().n_done, self.after.progress());
        let (n_done, n_jobs) = (after.n_done, after.n_jobs);
        let earlier = match n_before {
            0 => String::new(),
            n => format!(", {n} of them earlier"),
        };
        let took = format!(", in {}{}", exact_duration(self.took), self.speed());
        if n_done == n_jobs {
            return format!("{}{earlier}{took}", all_are_done(n_jobs));
        }
        let others = [
            (JobStatus::Failed, "failed"),
            (JobStatus::Stopped, "stopped"),
            (JobStatus::Interrupted, "interrupted"),
            (JobStatus::Queued, "not begun"),
            (JobStatus::Running, "still running"),
        ];
        let others = others.iter().filter_map(|(status, text)| {
            let jobs = self.distinct(self.after);
            let n = jobs.filter(|job| job.status == *status).count();
            (n > 0).then(|| format!(", {n} {text}"))
        });
        let others: String = others.collect();
        let noun = if n_jobs == 1 { "job" } else { "jobs" };
        format!("{n_done} of {n_jobs} {noun} done{earlier}{others}{took}")
    }

    /// The speed, if it is one for all.
    fn speed(&self) -> String {
        let speeds = self.outcomes.iter().filter_map(|row| row.tokens_per_s);
        let speeds: BTreeSet<String> = speeds.map(|speed| format!("{speed:.0}")).collect();
        match speeds.iter().collect::<Vec<_>>()[..] {
            [only] => format!(", {only} tokens/s"),
            _ => String::new(),
        }
    }

    fn best(&self) -> Option<String> {
        let done = self
            .outcomes
            .iter()
            .filter(|row| row.status == JobStatus::Done);
        let known = done.filter_map(|row| Some((row.best_known_fvu()?, row)));
        let (fvu, best) = known.min_by(|left, right| left.0.total_cmp(&right.0))?;
        (self.outcomes.len() > 1).then(|| {
            let held_out = if best.fvu_eval.is_some() {
                " held out"
            } else {
                ""
            };
            let SaeOutcome {
                job, job_id, sae, ..
            } = best;
            let fvu = number(Some(fvu), 4);
            format!("best: `{job}` ({job_id}) at {sae}, FVU {fvu}{held_out}")
        })
    }

    fn next(&self) -> String {
        let (sweep, folder) = (
            &self.plan.sweep,
            escaped(&self.runs_dir.display().to_string()),
        );
        let option = if self.is_usual_folder {
            String::new()
        } else {
            format!(" --runs-dir {folder}")
        };
        let commands =
            ["ls", "report", "show"].map(|command| format!("`sae-run {command} {sweep}{option}`"));
        format!("next: {}", commands.join(", "))
    }
}

/// An SAE, under the names of the view `result`.
fn sae_as_json(row: &SaeOutcome) -> Value {
    json!({
        "job": row.job,
        "job_id": row.job_id,
        "status": row.status.to_string(),
        "hookpoint": row.hookpoint,
        "sae": row.sae,
        "kind": row.kind,
        "k": row.k,
        "num_latents": row.num_latents,
        "fvu": row.fvu,
        "l0": row.l0,
        "dead_pct": row.dead_pct,
        "fvu_eval": row.fvu_eval,
        "ce_spliced": row.ce_spliced,
        "ce_recovered": row.ce_recovered,
        "tokens_per_s": row.tokens_per_s,
        "checkpoint": row.checkpoint,
    })
}

/// `the job is done`, `all 8 jobs are done`.
pub(crate) fn all_are_done(n_jobs: usize) -> String {
    match n_jobs {
        1 => "the job is done".to_owned(),
        n => format!("all {n} jobs are done"),
    }
}
