//! An order whose job a cluster begins again: what an earlier run of the job did is not done twice.

use crate::TrainError;
use crate::events::EventLog;
use fault::{Fault, Remedy};
use plan::{Event, EventKind, Order};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Runs of a job without a step, one after the other, that are allowed.
const MOST_IDLE: u32 = 3;

/// Writes what is left of the order in the file `path` after `n_restarts` runs of it, and gives the file to train.
///
/// # Errors
/// Files that cannot be used, or several runs without a step: the next would be another. The stream's events say so then.
pub fn requeued(path: &Path, n_restarts: u32) -> Result<PathBuf, TrainError> {
    if n_restarts == 0 {
        return Ok(path.into());
    }
    let order = super::read_order(path)?;
    let events = read_events(&order.events)?;
    let left = what_is_left(&order, n_restarts, &events);
    if let Err(fault) = check_progress(&order, n_restarts, &events) {
        let mut log = EventLog::open(&left.events, left.attempt, left.last_event_seq)?;
        log.write(EventKind::Failed {
            kind: fault.kind(),
            message: fault.to_string(),
            hint: fault.hint(),
        })?;
        return Err(fault.into());
    }
    let own = path.with_extension(format!("{n_restarts}.json"));
    let text = serde_json::to_vec_pretty(&left).expect("an order serialises to JSON");
    let write = || {
        let mut file = files::OutputFile::create(&own)?;
        file.write_all(&text)?;
        file.finish()
    };
    write().map_err(TrainError::io("write", &own))?;
    Ok(own)
}

/// The events that can be read; the coordinator tells of the others.
fn read_events(path: &Path) -> Result<Vec<Event>, TrainError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.map_err(TrainError::io("open", path))?,
    };
    let lines = BufReader::new(file).split(b'\n');
    lines
        .filter_map(|line| match line {
            Ok(line) => Event::from_line(&line).ok().map(Ok),
            Err(error) => Some(Err(error)),
        })
        .collect::<Result<_, _>>()
        .map_err(TrainError::io("read", path))
}

/// The order of the run after `n_restarts` others, which is a further attempt.
fn what_is_left(order: &Order, n_restarts: u32, events: &[Event]) -> Order {
    let own = || events.iter().filter(|event| event.attempt >= order.attempt);
    let trained = own().filter_map(|event| match &event.kind {
        EventKind::Checkpoint {
            job_id,
            is_final: true,
            ..
        } => Some(job_id),
        _ => None,
    });
    let failed = own().filter_map(|event| match &event.kind {
        EventKind::Unhealthy {
            job_id,
            is_fatal: true,
            ..
        } => Some(job_id),
        _ => None,
    });
    let (trained, failed): (BTreeSet<_>, BTreeSet<_>) = (trained.collect(), failed.collect());
    let mut left = order.clone();
    left.attempt += n_restarts;
    left.jobs.retain(|job| {
        let id = &job.job.job_id;
        !trained.contains(id) && !failed.contains(id)
    });
    let wants_evaluation = order
        .jobs
        .iter()
        .filter(|job| trained.contains(&job.job.job_id) && job.job.config.wants_evaluation());
    left.evaluate.extend(wants_evaluation.cloned());
    left
}

/// Refuses a run after some without a step.
fn check_progress(order: &Order, n_restarts: u32, events: &[Event]) -> Result<(), Fault> {
    let came_to_something = |attempt: u32| {
        let mut own = events.iter().filter(|event| event.attempt == attempt);
        own.any(|event| {
            matches!(
                event.kind,
                EventKind::Metric { .. }
                    | EventKind::Progress { .. }
                    | EventKind::Checkpoint { .. }
                    | EventKind::Calibration { .. }
                    | EventKind::Evaluation { .. }
            )
        })
    };
    let next = order.attempt + n_restarts;
    if n_restarts < MOST_IDLE || (next - MOST_IDLE..next).any(came_to_something) {
        return Ok(());
    }
    Err(Fault::input(format!(
        "{MOST_IDLE} runs of this job in a row ended before their first step"
    ))
    .with_hint(
        "is the time limit of its machine shorter than loading and tokenising take? in Slurm, `launch.slurm.time` sets it",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Run, config};
    use plan::{OrderJob, TrainConfig};
    use std::fs;

    fn two_jobs() -> Run {
        let evaluated = TrainConfig {
            evaluate: true,
            eval_fraction: 0.2,
            ..config()
        };
        let mut run = Run::new(&[("evaluated", evaluated), ("plain", config())]);
        run.order.attempt = 4;
        run
    }

    /// Appends events of an attempt.
    fn report(run: &Run, attempt: u32, kinds: Vec<EventKind>) {
        let mut log = EventLog::open(&run.order.events, attempt, 0).unwrap();
        for kind in kinds {
            log.write(kind).unwrap();
        }
    }

    fn last_checkpoint(run: &Run, job: usize) -> EventKind {
        EventKind::Checkpoint {
            job_id: run.order.jobs[job].job.job_id.clone(),
            step: 20,
            path: "job".into(),
            is_final: true,
        }
    }

    fn written(run: &Run) -> PathBuf {
        let path = run.dir.path().join("order.json");
        fs::write(&path, serde_json::to_vec(&run.order).unwrap()).unwrap();
        path
    }

    fn names(jobs: &[OrderJob]) -> Vec<&str> {
        jobs.iter().map(|job| job.job.name.as_str()).collect()
    }

    #[test]
    fn what_is_trained_is_only_evaluated() {
        let run = two_jobs();
        let path = written(&run);
        assert_eq!(requeued(&path, 0).unwrap(), path);
        // An attempt before this order trained it, and it was asked for again.
        report(&run, 3, vec![last_checkpoint(&run, 1)]);
        report(&run, 4, vec![last_checkpoint(&run, 0)]);
        let left = super::super::read_order(&requeued(&path, 1).unwrap()).unwrap();
        assert_eq!(left.attempt, 5);
        assert_eq!(names(&left.jobs), ["plain"]);
        assert_eq!(names(&left.evaluate), ["evaluated"]);
        report(&run, 5, vec![last_checkpoint(&run, 1)]);
        let left = super::super::read_order(&requeued(&path, 2).unwrap()).unwrap();
        assert_eq!(names(&left.jobs), [""; 0]);
        assert_eq!(names(&left.evaluate), ["evaluated"]);
    }

    #[test]
    fn what_diverged_is_left_out() {
        let run = two_jobs();
        let path = written(&run);
        let diverged = EventKind::Unhealthy {
            job_id: run.order.jobs[0].job.job_id.clone(),
            sae: "layers.2".into(),
            step: 3,
            reason: "the loss is not finite".into(),
            is_fatal: true,
            hint: None,
        };
        report(&run, 4, vec![diverged]);
        let left = super::super::read_order(&requeued(&path, 1).unwrap()).unwrap();
        assert_eq!(names(&left.jobs), ["plain"]);
        assert_eq!(names(&left.evaluate), [""; 0]);
    }

    #[test]
    fn runs_without_a_step_end() {
        let run = two_jobs();
        let path = written(&run);
        let progress = EventKind::Progress {
            step: 1,
            n_tokens: 512,
            elapsed_ms: 9,
        };
        report(&run, 4, vec![progress]);
        for attempt in 5..=7 {
            report(&run, attempt, vec![EventKind::Interrupted { step: 1 }]);
        }
        assert!(
            requeued(&path, 3).is_ok(),
            "the first of the last three did something"
        );
        let error = requeued(&path, 4).unwrap_err();
        assert!(error.to_string().contains("3 runs of this job"), "{error}");
        let last = run.events().pop().unwrap();
        assert_eq!(last.attempt, 8);
        assert!(matches!(last.kind, EventKind::Failed { .. }));
    }
}
