//! A command that runs alongside the test.

use super::Outcome;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Far more than anything here takes: a slow machine must not fail a test.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running `sae-run`; killed if the test ends before it.
pub(crate) struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    /// Starts `command`; what it prints goes into two files, which can be read meanwhile.
    pub(crate) fn start(mut command: Command, stdout: PathBuf, stderr: PathBuf) -> Self {
        let file = |path| fs::File::create(path).unwrap();
        command.stdout(file(&stdout)).stderr(file(&stderr));
        let child = command.spawn().unwrap();
        Self {
            child,
            stdout,
            stderr,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it; what it has started is not touched.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it says `part` on standard error.
    #[track_caller]
    pub(crate) fn says(&mut self, part: &str) {
        until(&format!("`{part}` on standard error"), || {
            let has_ended = self.status().is_some();
            let stderr = fs::read_to_string(&self.stderr).unwrap();
            let said = stderr.contains(part);
            assert!(said || !has_ended, "it ended without `{part}`\n{stderr}");
            said.then_some(())
        });
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Outcome {
        let status = until("its end", || self.status());
        Outcome {
            status,
            stdout: fs::read_to_string(&self.stdout).unwrap(),
            stderr: fs::read_to_string(&self.stderr).unwrap(),
        }
    }

    /// How it ended; `None` while it runs.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, mostly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal such as `INT`.
pub(crate) fn signal(pid: u32, name: &str) {
    let command = format!("kill -s {name} {pid}");
    let status = Command::new("sh").arg("-c").arg(command).status().unwrap();
    assert!(status.success(), "no process {pid} to signal");
}

/// Asks again and again until there is an answer.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process has ended; one that has not been waited for yet counts.
pub(crate) fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| {
        let state = stat.rsplit(") ").next().unwrap_or_default();
        state.starts_with(['Z', 'X'])
    })
}

/// Waits until a process has ended.
#[track_caller]
pub(crate) fn wait_for_end(pid: u32) {
    until(&format!("the end of process {pid}"), || {
        has_ended(pid).then_some(())
    });
}
