//! One task: read from a file, done, answered.

use crate::answers::{answer, failed};
use crate::store;
use eval::EvalRequest;
use fault::{Fault, Remedy};
use files::bound;
use plan::{Answer, Task};
use std::ops::ControlFlow;
use std::path::Path;

/// Does the task in the file `path`; gives the process's exit code.
pub(crate) fn run(path: &Path) -> u8 {
    end_with_parent();
    let code = match read(path).and_then(run_task) {
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
        Task::Encode(task) => {
            let n_total = None;
            Answer::done(&eval::encode(&task, &mut |n_done| {
                progress(n_done, n_total)
            })?)
        }
        Task::Evaluate(task) => {
            let request = EvalRequest::of(task)?;
            let evaluated = eval::evaluate(&request, &mut |n_done, n_total| {
                progress(n_done, Some(n_total))
            });
            Answer::done(&evaluated?)
        }
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

fn progress(n_done: u64, n_total: Option<u64>) -> ControlFlow<()> {
    answer(&Answer::Progress { n_done, n_total });
    ControlFlow::Continue(())
}
