//! One task: read from a file, done, answered.

use crate::answers::{answer, failed};
use crate::ranks::with_ranks;
use crate::store;
use eval::{Alone, EvalError, EvalRequest, Ranks};
use fault::{Fault, Remedy};
use files::bound;
use plan::{Answer, EncodeTask, EvaluateTask, Task};
use std::ops::ControlFlow;
use std::path::Path;

/// Who does a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskFor {
    /// This process, whatever the variables of launchers say.
    One,
    /// All ranks.
    Ranks,
}

/// Does the task in the file `path`; gives the process's exit code.
pub(crate) fn run(path: &Path, task_for: TaskFor) -> u8 {
    end_with_parent();
    let done = read(path).and_then(|task| match task_for {
        TaskFor::One => run_task(task),
        TaskFor::Ranks => run_with_ranks(path, &task),
    });
    let code = match done {
        Ok(()) => return 0,
        Err(error) => {
            answer(&failed(&error));
            error.kind()
        }
    };
    code.exit_code()
}

/// Has the system end this process when the one that asked is gone: no one would read the answer, and half an answer
/// must not be taken for the whole.
fn end_with_parent() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, set_parent_process_death_signal};
        // If the system does not support it, the task is done for nothing.
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
    }
}

fn read(path: &Path) -> Result<Task, Fault> {
    let text = files::read(path, bound::OWN).map_err(Fault::io("read", path))?;
    serde_json::from_slice(&text).map_err(|error| {
        let message = format!("`{}` is not a task for this version", path.display());
        Fault::internal(message).because(error)
    })
}

fn run_task(task: Task) -> Result<(), Fault> {
    let done = match task {
        Task::Machine => Answer::done(&train::machine()),
        Task::Gpu(task) => {
            let report = train::gpu_report(&task).map_err(|error| Fault::of(&error))?;
            Answer::done(&report)
        }
        Task::Encode(task) => encode(&task, &Alone)?,
        Task::Evaluate(task) => evaluate(task, &Alone)?,
        Task::Prove(tasks) => {
            for (n_done, task) in (1..).zip(&tasks) {
                eval::write_proven(task)?;
                let _ = progress(n_done, Some(tasks.len() as u64));
            }
            Answer::done(&())
        }
        Task::Store(task) => store::serve(&task)?,
    };
    answer(&done);
    Ok(())
}

/// The same, of those tasks that ranks share.
fn run_with_ranks(path: &Path, task: &Task) -> Result<(), Fault> {
    let done = match task {
        Task::Encode(own) => with_ranks((path, task), &own.model.device, |ranks, device| {
            let mut own = own.clone();
            own.model.device = device;
            encode(&own, ranks)
        })?,
        Task::Evaluate(own) => with_ranks((path, task), &own.model.device, |ranks, device| {
            let mut own = own.clone();
            own.model.device = device;
            evaluate(own, ranks)
        })?,
        _ => return Err(Fault::internal("ranks do not share this task")),
    };
    answer(&done);
    Ok(())
}

fn encode(task: &EncodeTask, ranks: &dyn Ranks) -> Result<Answer, EvalError> {
    let report = &mut |n_done| progress(n_done, None);
    Ok(Answer::done(&eval::encode(task, ranks, report)?))
}

fn evaluate(task: EvaluateTask, ranks: &dyn Ranks) -> Result<Answer, EvalError> {
    let request = EvalRequest::of(task)?;
    let report = &mut |n_done, n_total| progress(n_done, Some(n_total));
    Ok(Answer::done(&eval::evaluate(&request, ranks, report)?))
}

fn progress(n_done: u64, n_total: Option<u64>) -> ControlFlow<()> {
    answer(&Answer::Progress { n_done, n_total });
    ControlFlow::Continue(())
}
