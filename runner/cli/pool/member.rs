//! `sae-run worker-pool`: takes streams of a pool, one after the other, and has a worker train each.

use crate::error::CliError;
use crate::pool::folder::{KILLED, PoolFolder, WITHDRAWN};
use crate::pool::lapses::Lapses;
use crate::run::signals::StopSignals;
use crate::run::worker_process::WorkerLog;
use crate::run::worker_program::WorkerProgram;
use crate::show::table;
use crate::sweep::config;
use args::WorkerPoolArgs;
use files::host_name;
use plan::runs_layout::{LOG, ORDER};
use plan::{PoolName, PoolOffer, pool_member};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use tokio::process::{Child, ChildStdin, Command};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the pool must be empty for a member that ends then: a coordinator may be about to offer more.
const IDLE: Duration = Duration::from_secs(3);
/// Looks after which an entry that is not found is lost: one that is renamed meanwhile may be missed.
const N_LOOKS: u32 = 4;
/// Exit code of what was stopped.
const STOPPED: u8 = 130;

/// `sae-run worker-pool`.
///
/// # Errors
/// A runs folder that cannot be written, or no worker program.
pub(crate) async fn worker_pool(args: &WorkerPoolArgs) -> Result<u8, CliError> {
    let runs_dir = config::runs_dir(&args.store)?;
    PoolFolder::of(&runs_dir).make()?;
    let runs_dir = runs_dir
        .canonicalize()
        .map_err(|error| CliError::io("open", &runs_dir, &error))?;
    let mut member = Member {
        folder: PoolFolder::of(&runs_dir),
        name: pool_member(&host_name(), std::process::id(), fastrand::u32(..)),
        device: args.device.clone().unwrap_or_else(|| "-".to_owned()),
        program: WorkerProgram::find()?,
        runs_dir,
        lapses: Lapses::default(),
        told: BTreeSet::new(),
    };
    let dir = member.runs_dir.display();
    table::note(&format!(
        "streams of `{dir}` are trained here; Ctrl-C ends that"
    ));
    member.work(args.exit_when_idle).await
}

/// A process that takes streams.
struct Member {
    runs_dir: PathBuf,
    folder: PoolFolder,
    /// As it calls itself.
    name: String,
    /// `-`: that of the order.
    device: String,
    program: WorkerProgram,
    lapses: Lapses,
    /// What was said to the user.
    told: BTreeSet<String>,
}

/// What a look at the pool gave.
enum Look {
    Taken(Taken),
    /// Other members have streams, which may come back.
    OthersWork,
    Nothing,
}

/// A stream that was taken.
struct Taken {
    name: PoolName,
    offer: PoolOffer,
    /// Its file.
    path: PathBuf,
}

impl Member {
    async fn work(&mut self, ends_when_idle: bool) -> Result<u8, CliError> {
        let mut signals = StopSignals::new()?;
        let mut idle_since = Instant::now();
        loop {
            // The folder may be back in a moment.
            let found = self.look().unwrap_or_else(|error| {
                self.tell(&format!("{error}; looking again"), None);
                Look::OthersWork
            });
            match found {
                Look::Taken(taken) => {
                    if self.train(&taken, &mut signals).await? {
                        return Ok(STOPPED);
                    }
                    idle_since = Instant::now();
                    continue;
                }
                Look::OthersWork => idle_since = Instant::now(),
                Look::Nothing => {}
            }
            if ends_when_idle && idle_since.elapsed() > IDLE {
                table::note("no stream is left");
                return Ok(0);
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = signals.recv() => return Ok(STOPPED),
            }
        }
    }

    /// Takes a stream, if there is one.
    fn look(&mut self) -> Result<Look, CliError> {
        self.lapses.put_back_and_tell(&self.folder)?;
        Ok(match self.take()? {
            Some(taken) => Look::Taken(taken),
            None if self.folder.list("claimed")?.is_empty() => Look::Nothing,
            None => Look::OthersWork,
        })
    }

    /// Says something once.
    fn tell(&mut self, message: &str, hint: Option<&str>) {
        if self.told.insert(message.to_owned()) {
            match hint {
                Some(hint) => table::note_with_hint(message, hint),
                None => table::note(message),
            }
        }
    }

    /// Takes a stream that waits, if there is one.
    fn take(&mut self) -> Result<Option<Taken>, CliError> {
        for name in self.folder.list("waiting")? {
            let Some(offer) = self.folder.read("waiting", &name) else {
                continue;
            };
            if offer.runs_dir != self.runs_dir {
                self.tell_of_other_place(&offer.runs_dir);
                continue;
            }
            let Some(path) = self.folder.take(&name, &self.name)? else {
                continue;
            };
            if self.folder.is_withdrawn(&name.entry) {
                self.let_go(&name.entry, Some(WITHDRAWN))?;
                continue;
            }
            return Ok(Some(Taken { name, offer, path }));
        }
        Ok(None)
    }

    fn tell_of_other_place(&mut self, elsewhere: &Path) {
        let (there, here) = (elsewhere.display().to_string(), self.runs_dir.display());
        let message = format!(
            "a stream is left to others: its files are in `{}`, and this machine has them in `{here}`",
            table::escaped(&there)
        );
        let hint = "mount the runs folder at the same path on all machines";
        self.tell(&message, Some(hint));
    }

    /// The entry's file as it is called now, if it is still this member's.
    fn own(&self, entry: &str) -> Result<Option<PoolName>, CliError> {
        let claimed = self.folder.list("claimed")?.into_iter();
        let mut own = claimed.filter(|name| name.member() == Some(self.name.as_str()));
        Ok(own.find(|name| name.entry == entry))
    }

    /// Says how the worker of an entry ended; `None`: leaves it to others. Gives whether it was still this member's.
    fn let_go(&self, entry: &str, how: Option<&str>) -> Result<bool, CliError> {
        match (self.own(entry)?, how) {
            (Some(claimed), Some(how)) => self.folder.end(&claimed, how),
            (Some(claimed), None) => self.folder.give_up(&claimed),
            (None, _) => Ok(false),
        }
    }

    /// Has a worker train a stream, and says how it ended. Gives whether this process was asked to stop.
    async fn train(&mut self, taken: &Taken, signals: &mut StopSignals) -> Result<bool, CliError> {
        let stream_id = table::escaped(&taken.offer.stream_id);
        table::note(&format!("stream {stream_id}: begun"));
        let mut child = match self.start(taken) {
            Ok(child) => child,
            Err(error) => {
                self.let_go(&taken.name.entry, None)?;
                return Err(error);
            }
        };
        let stdin = child.stdin.take();
        let (status, is_stopped) = self.follow(taken, (&mut child, stdin), signals).await?;
        let entry = &taken.name.entry;
        let code = status.code();
        let code = code.map_or_else(|| KILLED.to_owned(), |code| code.to_string());
        let (how, said) = match code.as_str() {
            "0" => (Some("0"), "done".to_owned()),
            _ if self.folder.is_withdrawn(entry) => (Some(WITHDRAWN), "cancelled".to_owned()),
            _ if is_stopped => (None, "left to others".to_owned()),
            code => (Some(code), format!("its worker ended with {status}")),
        };
        let is_own = self.let_go(entry, how).unwrap_or_else(|error| {
            table::note(&error.to_string());
            false
        });
        let said = if is_own {
            said.as_str()
        } else {
            "another machine may have it by now"
        };
        table::note(&format!("stream {stream_id}: {said}"));
        Ok(is_stopped)
    }

    fn start(&self, taken: &Taken) -> Result<Child, CliError> {
        let dir = self.runs_dir.join(&taken.offer.dir);
        let log = WorkerLog::open(dir.join(LOG))?;
        let mut command = Command::from(self.program.command());
        command.arg("order").arg(dir.join(ORDER));
        command.arg("--pool").arg(&taken.path);
        command.args([&taken.offer.lease_s.to_string(), &self.device]);
        log.spawn(&mut command)
    }

    /// Waits for the end of a worker, and passes on that it is to end. Gives whether this process was asked to stop.
    async fn follow(
        &mut self,
        taken: &Taken,
        (child, mut stdin): (&mut Child, Option<ChildStdin>),
        signals: &mut StopSignals,
    ) -> Result<(ExitStatus, bool), CliError> {
        let (mut is_stopped, mut n_missed) = (false, 0);
        loop {
            tokio::select! {
                status = child.wait() => {
                    let unknown = |error| CliError::environment(format!("cannot wait for the worker: {error}"));
                    return Ok((status.map_err(unknown)?, is_stopped));
                }
                () = tokio::time::sleep(PAUSE) => {}
                () = signals.recv() => {
                    if std::mem::replace(&mut is_stopped, true) {
                        let _ = child.start_kill();
                    }
                    drop(stdin.take());
                    table::note("stopping after a checkpoint; press Ctrl-C again to stop at once");
                }
            }
            // While the folder gives errors, the worker decides for itself.
            let _ = self.lapses.put_back_and_tell(&self.folder);
            if self.folder.is_withdrawn(&taken.name.entry) {
                drop(stdin.take());
            }
            n_missed = match self.own(&taken.name.entry) {
                Ok(Some(_)) => 0,
                Ok(None) => n_missed + 1,
                Err(_) => n_missed,
            };
            if n_missed >= N_LOOKS {
                // It writes nothing any more, also if it was stopped and is not aware of it yet.
                let _ = child.start_kill();
            }
        }
    }
}
