//! What Slurm says of a job, and what that means for the stream that it trains.

use store::{AttemptEnd, Outcome};

/// A job as squeue lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlurmJob {
    /// Its number.
    pub(crate) id: u64,
    /// Its name.
    pub(crate) name: String,
    /// Where it is in its life.
    pub(crate) state: State,
    /// How often Slurm began it again.
    pub(crate) n_restarts: u32,
    /// Exit code of the script.
    pub(crate) exit_code: Option<i32>,
    /// The machines that it has, as Slurm writes them; empty: none yet.
    pub(crate) nodes: String,
    /// Why it waits, or why it ended, in Slurm's word.
    pub(crate) reason: String,
}

/// Where a job is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It waits in the queue.
    Pending,
    /// It has machines.
    Running,
    /// Slurm or the operators stopped it for a while.
    Held,
    /// Its script ended with 0.
    Completed,
    /// Its script ended with another code.
    Failed,
    /// The user or an operator cancelled it.
    Cancelled,
    /// A job with precedence took its machines.
    Preempted,
    /// Its time was over before it was put back into the queue.
    TimedOut,
    /// It took more memory than it had asked for.
    OutOfMemory,
    /// A machine failed, or did not begin it.
    NodeFailed,
}

impl State {
    /// Of Slurm's word for it; a word of a later Slurm is taken for a job that lives.
    fn of(word: &str) -> Self {
        match word {
            "PENDING" | "REQUEUED" | "REQUEUE_FED" => Self::Pending,
            "REQUEUE_HOLD" | "RESV_DEL_HOLD" | "SPECIAL_EXIT" | "SUSPENDED" | "STOPPED" => {
                Self::Held
            }
            "COMPLETED" => Self::Completed,
            "FAILED" => Self::Failed,
            "CANCELLED" | "REVOKED" => Self::Cancelled,
            "PREEMPTED" => Self::Preempted,
            "TIMEOUT" | "DEADLINE" => Self::TimedOut,
            "OUT_OF_MEMORY" => Self::OutOfMemory,
            "NODE_FAIL" | "BOOT_FAIL" | "LAUNCH_FAILED" | "RECONFIG_FAIL" => Self::NodeFailed,
            _ => Self::Running,
        }
    }

    /// Whether the job has ended for good.
    pub(crate) fn has_ended(&self) -> bool {
        !matches!(self, Self::Pending | Self::Running | Self::Held)
    }

    /// For people.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Pending => "waits",
            Self::Running => "runs",
            Self::Held => "is held",
            Self::Completed => "has completed",
            Self::Failed => "has failed",
            Self::Cancelled => "was cancelled",
            Self::Preempted => "was preempted",
            Self::TimedOut => "reached its time limit",
            Self::OutOfMemory => "ran out of memory",
            Self::NodeFailed => "lost its node",
        }
    }
}

/// Columns of squeue, with a sign behind each that no name has.
pub(super) const COLUMNS: &str =
    "JobID:|,Name:|,State:|,RestartCnt:|,exit_code:|,NodeList:|,Reason:|";

impl SlurmJob {
    /// Of a line of squeue; `None`: it is none.
    pub(super) fn read(line: &str) -> Option<Self> {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [id, name, state, n_restarts, exit_code, nodes, reason, ..] = columns[..] else {
            return None;
        };
        let mut job = Self {
            id: id.parse().ok()?,
            name: name.to_owned(),
            state: State::of(state),
            n_restarts: n_restarts.parse().ok()?,
            exit_code: code_of(exit_code),
            nodes: nodes.to_owned(),
            reason: match reason {
                "None" | "(null)" => String::new(),
                reason => reason.to_owned(),
            },
        };
        let is_held = ["JobHeldUser", "JobHeldAdmin", "launch_failed_requeued_held"]
            .iter()
            .any(|held| job.reason.replace(' ', "_").contains(held));
        if job.state == State::Pending && is_held {
            job.state = State::Held;
        }
        Some(job)
    }

    /// Where it is, for people: `waits (Resources)`, `runs on n1`.
    pub(crate) fn describe(&self) -> String {
        let state = self.state.word();
        match (&self.state, self.reason.as_str(), self.nodes.as_str()) {
            (State::Running, _, nodes) if !nodes.is_empty() => format!("{state} on {nodes}"),
            (State::Running | State::Completed, ..) | (_, "", _) => state.to_owned(),
            (_, reason, _) => format!("{state} ({reason})"),
        }
    }

    /// How the worker of a job that has ended ended.
    pub(crate) fn end(&self) -> AttemptEnd {
        let outcome = match self.state {
            State::Completed => Outcome::Done,
            State::Cancelled => Outcome::Stopped,
            State::Preempted | State::TimedOut => Outcome::Interrupted,
            State::Failed if self.exit_code == Some(130) => Outcome::Interrupted,
            State::Failed if self.exit_code.is_some() => Outcome::Failed,
            _ => Outcome::Crashed,
        };
        let (id, what) = (self.id, self.state.word());
        let on = match self.nodes.as_str() {
            "" => String::new(),
            nodes => format!(" on {nodes}"),
        };
        AttemptEnd {
            outcome,
            exit_code: self.exit_code,
            reason: (outcome != Outcome::Done).then(|| format!("job {id} of Slurm {what}{on}")),
        }
    }
}

/// The exit code in squeue's column, which is a status of wait(2), or `code:signal` in later versions. `None`: a signal
/// ended the script, or it never began.
fn code_of(column: &str) -> Option<i32> {
    if let Some((code, signal)) = column.split_once(':') {
        let code = code.parse().ok()?;
        return (signal == "0").then_some(code);
    }
    let status: i32 = column.parse().ok()?;
    (status & 0x7f == 0).then_some(status >> 8 & 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(line: &str) -> SlurmJob {
        SlurmJob::read(line).unwrap()
    }

    /// Lines of squeue 22.05.
    #[test]
    fn what_squeue_prints_is_read() {
        let done = job("13|sae-run.a|FAILED|2|33280|n[1-2]|NonZeroExitCode|");
        assert_eq!(
            (done.id, done.name.as_str(), done.n_restarts),
            (13, "sae-run.a", 2)
        );
        assert_eq!((&done.state, done.exit_code), (&State::Failed, Some(130)));
        assert_eq!(done.end().outcome, Outcome::Interrupted);
        assert_eq!(
            done.end().reason.unwrap(),
            "job 13 of Slurm has failed on n[1-2]"
        );
        let killed = job("8|k|FAILED|0|9|n2|JobLaunchFailure|");
        assert_eq!(
            (killed.exit_code, killed.end().outcome),
            (None, Outcome::Crashed)
        );
        let waits = job("9|s.sh|PENDING|1|0||BeginTime|");
        assert_eq!(
            (waits.state.has_ended(), waits.describe()),
            (false, "waits (BeginTime)".into())
        );
        assert_eq!(job("1|a|RUNNING|0|0|n1|None|").describe(), "runs on n1");
        let completed = job("1|a|COMPLETED|0|0|n1|None|");
        assert_eq!(completed.end().outcome, Outcome::Done);
        assert_eq!(completed.end().reason, None);
    }

    #[test]
    fn each_end_is_told_apart() {
        for (word, outcome) in [
            ("CANCELLED", Outcome::Stopped),
            ("PREEMPTED", Outcome::Interrupted),
            ("TIMEOUT", Outcome::Interrupted),
            ("OUT_OF_MEMORY", Outcome::Crashed),
            ("NODE_FAIL", Outcome::Crashed),
            ("BOOT_FAIL", Outcome::Crashed),
        ] {
            let job = job(&format!("1|a|{word}|0|0|n1|None|"));
            assert!(job.state.has_ended(), "{word}");
            assert_eq!(job.end().outcome, outcome, "{word}");
        }
        for word in [
            "COMPLETING",
            "CONFIGURING",
            "A_WORD_OF_TOMORROW",
            "REQUEUED",
        ] {
            assert!(
                !job(&format!("1|a|{word}|0|0|n1|None|")).state.has_ended(),
                "{word}"
            );
        }
        let held = job("1|a|PENDING|1|0||launch failed requeued held|");
        assert_eq!(held.state, State::Held);
    }

    #[test]
    fn exit_codes_of_several_versions() {
        for (column, expected) in [
            ("0", Some(0)),
            ("256", Some(1)),
            ("33280", Some(130)),
            ("9", None),
            ("4021", None),
            ("130:0", Some(130)),
            ("0:9", None),
            ("", None),
        ] {
            assert_eq!(code_of(column), expected, "{column}");
        }
    }

    #[test]
    fn lines_of_something_else_are_none() {
        for line in [
            "",
            "slurm_load_jobs error",
            "a|b|c",
            "x|n|RUNNING|0|0|n1|None|",
        ] {
            assert_eq!(SlurmJob::read(line), None, "{line}");
        }
    }
}
