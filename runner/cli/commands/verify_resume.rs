//! `sae-run verify-resume`: checks on a user's own job, shortened, that killed and resumed training is bit-identical to
//! training without interruption.

use crate::error::CliError;
use crate::run::event_tail::EventTail;
use crate::run::launch::Local;
use crate::run::past_job;
use crate::run::signals::StopSignals;
use crate::run::worker_process::WorkerProcess;
use crate::show::{job, json, table};
use crate::sweep::config;
use crate::sweep::paths::Folders;
use args::VerifyResumeArgs;
use fastrand::Rng;
use files::DigestCache;
use plan::runs_layout::{self, EVENTS};
use plan::{
    Event, EventKind, JobDraft, JobInputs, PlanError, SecondModel, StreamKey, TrainConfig,
    resolve_jobs,
};
use plan::{Order, OrderJob};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use store::JobDetails;

/// How often a worker's events are looked for: well below the time of an update.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// A kill comes at most so long after the report of an update: into the next one, or into a checkpoint.
const MOST_DELAY_MS: u64 = 200;
/// Checkpoints of a shortened job.
const N_CHECKPOINTS: u64 = 4;

/// The folder of the job, in that of a trial.
const JOB: &str = "job";

/// Trains a shortened job twice, once with kills, and compares.
///
/// # Errors
/// No such job, inputs that changed, or a worker that fails by itself.
pub(crate) async fn verify_resume(args: &VerifyResumeArgs) -> Result<u8, CliError> {
    let runs_dir = config::runs_dir(&args.store)?;
    let job = job::open(&args.store).await?.job(&args.job).await?;
    let order = shortened(args, &runs_dir, &job)?;
    let name = &order.jobs[0].job.name;
    let scratch = tempfile::Builder::new()
        .prefix(".verify-resume-")
        .tempdir_in(&runs_dir);
    let scratch = scratch.map_err(|error| CliError::io("write to", &runs_dir, &error))?;
    let mut signals = StopSignals::new()?;
    let trial = |folder: &str| Trial::new(&order, &scratch.path().join(folder));

    let say = |text: &str| {
        if !args.quiet {
            table::note(text);
        }
    };
    say(&format!("training `{name}` without interruption"));
    let mut undisturbed = trial("undisturbed")?;
    undisturbed.attempt(None, &mut signals).await?;
    let n_steps = undisturbed.n_steps;
    say(&format!(
        "{}; again, with {}",
        table::count(n_steps as usize, "step"),
        table::count(args.kills as usize, "kill")
    ));
    let mut killed = trial("killed")?;
    let mut rng = Rng::with_seed(args.seed);
    let mut kills = (0..args.kills).map(|_| Kill {
        step: rng.u64(0..=n_steps),
        delay: Duration::from_millis(rng.u64(0..=MOST_DELAY_MS)),
    });
    let mut n_kills = 0;
    while let Ended::Killed { step } = killed.attempt(kills.next(), &mut signals).await? {
        say(&format!("killed after step {step}"));
        n_kills += 1;
    }
    let compared = compared(&undisturbed, &killed)?;
    if args.json {
        let is_exact = compared.iter().all(|sae| sae.is_equal);
        json::print(&json!({
            "job": name,
            "job_id": job.job_id,
            "n_steps": n_steps,
            "n_kills": n_kills,
            "is_exact": is_exact,
            "saes": compared,
        }))?;
        return Ok(u8::from(!is_exact));
    }
    report(&compared, n_kills)
}

/// The order of a job's last worker, for that job alone, with the number of updates that was asked for.
fn shortened(
    args: &VerifyResumeArgs,
    runs_dir: &Path,
    details: &JobDetails,
) -> Result<Order, CliError> {
    let config = past_job::config(details)?;
    let order = past_job::last_order(runs_dir, details)?;
    let n_examples =
        args.steps * (config.batches_per_pass() * config.batch_size * config.grad_acc_steps) as u64;
    let most = config.max_examples.unwrap_or(u64::MAX);
    let config = TrainConfig {
        max_examples: Some(most.min(n_examples)),
        // Further ones only if the steps take more than one.
        epochs: config.epochs.min(n_examples.div_ceil(most.max(1))).max(1),
        save_every: args.steps.div_ceil(N_CHECKPOINTS),
        log_every: 1,
        evaluate: false,
        ..config
    };
    let digests = DigestCache::new(&Folders::of_this_machine()?.cache);
    let model = facts::read_model(&order.model_dir, order.model_commit.as_deref(), &digests)?;
    let second = second_model(&order, &digests)?;
    let mut known = order.jobs.iter().chain(&order.evaluate);
    let known = known.find(|known| known.job.job_id == details.job_id);
    let of_finetune = |known: &OrderJob| known.finetune_dir.clone();
    let finetune_dir =
        known.map_or_else(|| config.finetune.clone().map(PathBuf::from), of_finetune);
    // The same stream, so the same data: a worker refuses what has changed.
    let inputs = JobInputs {
        facts: model.facts,
        model_digest: order.key.model_digest.clone(),
        second,
        token_digest: order.key.token_digest.clone(),
        eval_token_digest: order.key.eval_token_digest.clone(),
        finetune_digest: known.and_then(|known| known.job.finetune_digest.clone()),
        n_ranks: 1,
    };
    let draft = JobDraft {
        name: Some(
            details
                .names
                .first()
                .map_or("job", |name| &name.job)
                .to_owned(),
        ),
        note: None,
        overrides: Default::default(),
    };
    let job = resolve_jobs(&config, &[draft], |_| Ok::<_, PlanError>(inputs.clone()))?.remove(0);
    Ok(Order {
        key: StreamKey::of(&job),
        device: args.device.clone().unwrap_or(order.device),
        last_event_seq: 0,
        attempt: 0,
        evaluate: Vec::new(),
        jobs: vec![OrderJob {
            job,
            dir: JOB.into(),
            state_dir: runs_layout::state_dir(JOB),
            best_dir: runs_layout::best_dir(JOB),
            finetune_dir,
            bases: Vec::new(),
        }],
        ..order
    })
}

fn second_model(order: &Order, digests: &DigestCache) -> Result<Option<SecondModel>, CliError> {
    let (Some(folder), Some(digest)) = (&order.second_model, &order.key.second_model_digest) else {
        return Ok(None);
    };
    let model = facts::read_model(&folder.dir, folder.commit.as_deref(), digests)?;
    Ok(Some(SecondModel {
        facts: model.facts,
        digest: digest.clone(),
    }))
}

/// When to kill a worker: so long after it was at `step`.
#[derive(Clone, Copy, Debug)]
struct Kill {
    step: u64,
    delay: Duration,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    ByItself,
    Killed { step: u64 },
}

/// One training of the job, in a separate folder.
struct Trial {
    order: Order,
    tail: EventTail,
    /// Updates done, as far as the worker of this attempt has said it.
    step: Option<u64>,
    /// Updates in all; 0 before a worker has said it.
    n_steps: u64,
}

impl Trial {
    fn new(order: &Order, dir: &Path) -> Result<Self, CliError> {
        fs::create_dir_all(dir).map_err(|error| CliError::io("create", dir, &error))?;
        let events = dir.join(EVENTS);
        Ok(Self {
            tail: EventTail::new(events.clone()),
            order: Order {
                runs_dir: dir.into(),
                events,
                ..order.clone()
            },
            step: None,
            n_steps: 0,
        })
    }

    /// One worker, from the last checkpoint on to the end of the job, or to its own.
    async fn attempt(
        &mut self,
        kill: Option<Kill>,
        signals: &mut StopSignals,
    ) -> Result<Ended, CliError> {
        self.order.attempt += 1;
        self.step = None;
        let mut worker = WorkerProcess::start(&self.order, &self.order.runs_dir, &Local)?;
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        let status = loop {
            tokio::select! {
                status = worker.child.wait() => break status,
                () = signals.recv() => return Err(CliError::input("stopped by a signal")),
                _ = ticks.tick() => self.take_in()?,
            }
            let is_due = |kill: &Kill| self.step.is_some_and(|step| step >= kill.step);
            if let Some(kill) = kill.filter(is_due) {
                tokio::time::sleep(kill.delay).await;
                // It may have ended by itself meanwhile.
                let _ = worker.child.start_kill();
                break worker.child.wait().await;
            }
        };
        let status = status.map_err(|error| {
            CliError::environment(format!("cannot wait for the worker: {error}"))
        })?;
        self.take_in()?;
        let step = self.step.unwrap_or(0);
        match status.code() {
            Some(0) => Ok(Ended::ByItself),
            None if kill.is_some() => Ok(Ended::Killed { step }),
            _ => {
                let last = worker.last_message().unwrap_or_default();
                let message = format!("the worker ended with {status}: {last}");
                Err(CliError::environment(message))
            }
        }
    }

    fn take_in(&mut self) -> Result<(), CliError> {
        while let Some(events) = self.tail.read_next()? {
            self.take(events)?;
        }
        Ok(())
    }

    fn take(&mut self, events: Vec<Event>) -> Result<(), CliError> {
        for event in events {
            match event.kind {
                EventKind::Ready {
                    first_step,
                    n_steps,
                    ..
                } => {
                    self.step = Some(first_step);
                    self.n_steps = n_steps;
                }
                EventKind::Progress { step, .. } => self.step = Some(step),
                EventKind::Failed { message, hint, .. } => {
                    return Err(CliError::environment(message).with_hint(hint));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The weights it ended in, by SAE.
    fn weights(&self) -> Result<BTreeMap<String, Vec<u8>>, CliError> {
        let saes = self.order.jobs[0].job.saes.iter();
        let weights = saes.map(|sae| {
            let dir = self.order.runs_dir.join(JOB).join(&sae.name);
            let path = dir.join(sae_files::weights_file(&dir));
            let bytes = files::read(&path, u64::MAX)
                .map_err(|error| CliError::io("read", &path, &error))?;
            Ok((sae.name.clone(), bytes))
        });
        weights.collect()
    }
}

/// An SAE after both trainings.
#[derive(Serialize)]
struct Compared {
    sae: String,
    /// Of its weights.
    n_bytes: u64,
    is_equal: bool,
}

fn compared(undisturbed: &Trial, killed: &Trial) -> Result<Vec<Compared>, CliError> {
    let (expected, got) = (undisturbed.weights()?, killed.weights()?);
    let compared = expected.into_iter().map(|(sae, bytes)| Compared {
        n_bytes: bytes.len() as u64,
        is_equal: got[&sae] == bytes,
        sae,
    });
    Ok(compared.collect())
}

/// Says which SAEs are the same.
fn report(compared: &[Compared], n_kills: u64) -> Result<u8, CliError> {
    let row = |sae: &Compared| {
        let verdict = if sae.is_equal {
            "bit-identical"
        } else {
            "different"
        };
        vec![
            sae.sae.clone(),
            table::bytes(sae.n_bytes),
            verdict.to_owned(),
        ]
    };
    let rows = compared.iter().map(row).collect();
    table::print(&table::render(
        &["SAE", "weights", "after the kills"],
        rows,
        usize::MAX,
    ))?;
    let n_kills = table::count(n_kills as usize, "kill");
    if compared.iter().all(|sae| sae.is_equal) {
        table::note(&format!(
            "resume is exact: {n_kills}, and the weights are bit-identical"
        ));
        return Ok(0);
    }
    table::note(&format!(
        "resume is not exact: {n_kills}, and the weights differ"
    ));
    table::note(
        "hint: on a GPU, sums in no fixed order differ without any kill; try `--device cpu`",
    );
    Ok(1)
}
