//! The same command started once for each rank, by torchrun, srun or mpirun, or once on each node, by Kubeflow, JobSet or
//! SkyPilot: then it starts the other ranks of its node (node.rs).
//!
//! Rank 0 leads: it alone expands the sweep, holds the database and talks to the Hub, and it tells the
//! others through c10d's store which order is next, sealed (see seal.rs). Each rank, the leader too, then starts
//! its own executable on it as a child process. The workers find each other through the same store.

use super::company_store::CompanyStore;
use super::node::{LocalRanks, Placed, has_lost_first};
use super::seal::{Key, SealedOrder};
use super::{Launcher, worker_args};
use crate::error::CliError;
use crate::run::signals::StopSignals;
use crate::run::worker_process::WorkerLog;
use crate::run::worker_program::WorkerProgram;
use crate::show::table;
use plan::runs_layout;
use plan::{Environment, Launch, Told};
use serde::{Deserialize, Serialize};
use std::cell::{Cell, OnceCell};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::process::Command;

/// How long ranks look for the store.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long nodes do, which may be given their machines one after the other.
const PATIENCE_WITH_NODES: Duration = Duration::from_secs(600);
/// Between two looks for the leader's next message.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a rank that was asked to stop waits for the leader's last message.
const LAST_PATIENCE: Duration = Duration::from_secs(60);
/// How long a folder of the network may show another rank what it was before.
const PATIENCE_WITH_FOLDERS: Duration = Duration::from_secs(10);
/// How long the leader's store stays for the others to read its last message.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Tells a worker that another process serves the store.
const STORE_IS_SERVED: (&str, &str) = ("TORCHELASTIC_USE_AGENT_STORE", "True");

/// Set by a rank that was asked to stop.
const STOP: &str = "stop";

/// How a rank ends that was stopped.
const STOPPED: Message = Message::End { code: 130 };

/// What the leader tells the others, one message after the other.
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// Train this order.
    Train(SealedOrder),
    /// Go, with this exit code.
    End { code: u8 },
}

impl Message {
    fn read(text: &str) -> Result<Self, CliError> {
        serde_json::from_str(text).map_err(|error| {
            CliError::environment(format!(
                "rank 0 sent a message that cannot be read: {error}"
            ))
        })
    }
}

/// Rank 0.
pub(crate) struct Leader {
    environment: Environment,
    store: CompanyStore,
    n_messages: Cell<u64>,
    /// The runs folder, and what seals orders in it; once it is known.
    sealing: OnceCell<(PathBuf, Key)>,
}

/// Another rank.
struct Follower<'a> {
    environment: Environment,
    store: &'a CompanyStore,
    /// The settings that this process was given.
    own: ReadOwn<'a>,
    /// When it was stopped.
    stopped: Option<Instant>,
}

/// What every rank takes from the command that it was started with.
pub(crate) struct OwnSettings {
    /// Where it takes orders.
    pub(crate) runs_dir: PathBuf,
    /// How many ranks a node has, if its launcher does not say.
    pub(crate) launch: Launch,
}

/// Reads them, when they are needed.
type ReadOwn<'a> = &'a dyn Fn() -> Result<OwnSettings, CliError>;

/// Does `work`, in which rank 0 may lead; other ranks follow until it is done and end with its exit code. They take
/// orders in their runs folder only.
///
/// # Errors
/// Those of `work`; on other ranks, those of their launch.
pub(crate) async fn with_ranks(
    own: ReadOwn<'_>,
    work: impl AsyncFnOnce(Option<&Leader>) -> Result<u8, CliError>,
) -> Result<u8, CliError> {
    let Some(placed) = Placed::of_process(|| Ok(own()?.launch))? else {
        return work(None).await;
    };
    let environment = placed.environment.clone();
    let prefix = format!("sae-run/{}/company", environment.restart_count);
    let patience = if placed.is_of_node {
        PATIENCE_WITH_NODES
    } else {
        PATIENCE
    };
    let store = CompanyStore::open(&environment, prefix, patience)?;
    // Only now: they need not look for the store long.
    let mut others = placed.start_others()?;
    let outcome = if environment.rank > 0 {
        store.set(&here_key(environment.rank), "here")?;
        let follower = Follower {
            environment,
            store: &store,
            own,
            stopped: None,
        };
        with_others(&mut others, &store, follower.follow()).await
    } else {
        let leader = Leader {
            environment,
            store,
            n_messages: Cell::new(0),
            sealing: OnceCell::new(),
        };
        let outcome = with_others(&mut others, &leader.store, work(Some(&leader))).await;
        let code = outcome
            .as_ref()
            .map_or_else(CliError::exit_code, |code| *code);
        if placed.is_of_node && code == 0 {
            leader.wait_for_nodes().await?;
        }
        leader.dismiss(code)?;
        outcome
    };
    others.finish().await;
    outcome
}

/// Does `work`; if a rank that this process started is lost meanwhile, all are asked to stop.
async fn with_others<T>(
    others: &mut LocalRanks,
    store: &CompanyStore,
    work: impl Future<Output = T>,
) -> T {
    let watch = async {
        let lost = others.lost().await;
        table::note(&format!("{lost}; all ranks are asked to stop"));
        let _ = store.set(STOP, "1");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        outcome = work => outcome,
        () = watch => unreachable!("it never ends"),
    }
}

impl Leader {
    /// Makes the key for orders in `runs_dir`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn lead_in(&self, runs_dir: &Path) -> Result<(), CliError> {
        let key = Key::make(runs_dir, &self.environment.store)?;
        let _ = self.sealing.set((runs_dir.into(), key));
        Ok(())
    }

    fn say(&self, message: &Message) -> Result<(), CliError> {
        let text = serde_json::to_string(message).expect("plain fields serialise to JSON");
        self.store.set(&message_key(self.n_messages.get()), &text)?;
        self.n_messages.set(self.n_messages.get() + 1);
        Ok(())
    }

    /// Waits for nodes that begin later than all is done: without this process they would look for it in vain.
    async fn wait_for_nodes(&self) -> Result<(), CliError> {
        let mut signals = StopSignals::new()?;
        let (since, mut told) = (Instant::now(), Told::default());
        while let Some(missing) = (&self)
            .missing()
            .filter(|_| since.elapsed() < PATIENCE_WITH_NODES)
        {
            if told.is_due(since) {
                table::note(&format!(
                    "all is done; waiting for {missing}, to say so there"
                ));
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = signals.recv() => break,
            }
        }
        Ok(())
    }

    /// Sends the others away, and waits until they have heard it.
    fn dismiss(self, code: u8) -> Result<(), CliError> {
        self.say(&Message::End { code })?;
        if self.environment.store.is_served_by_launcher {
            return Ok(());
        }
        let until = Instant::now() + SHUTDOWN_GRACE;
        for rank in 1..self.environment.world_size {
            let left = until.saturating_duration_since(Instant::now());
            // A rank that is gone says nothing.
            let _ = self
                .store
                .get(&bye_key(rank), left.max(Duration::from_millis(1)))?;
        }
        if let Some((runs_dir, _)) = self.sealing.get() {
            Key::remove(runs_dir, &self.environment.store);
        }
        Ok(())
    }
}

impl Launcher for &Leader {
    fn command(&self, program: &WorkerProgram, order: &Path) -> Result<Command, CliError> {
        let (runs_dir, key) = self.sealing.get().expect("it leads in a folder");
        let sealed = key.seal(order, runs_dir, self.n_messages.get())?;
        self.say(&Message::Train(sealed))?;
        Ok(part_of(program, order, &self.environment))
    }

    fn is_stopped(&self) -> bool {
        self.store.has(STOP).unwrap_or(false)
    }

    fn missing(&self) -> Option<String> {
        let Environment {
            world_size, store, ..
        } = &self.environment;
        let is_missing = |rank: &usize| !self.store.has(&here_key(*rank)).unwrap_or(true);
        let ranks: Vec<String> = (1..*world_size)
            .filter(is_missing)
            .map(|rank| rank.to_string())
            .collect();
        let whom = format!("rank {} of {world_size}, at {store}", ranks.join(", "));
        (!ranks.is_empty()).then_some(whom)
    }
}

impl Follower<'_> {
    /// Does what the leader says, to the end.
    async fn follow(mut self) -> Result<u8, CliError> {
        let mut signals = StopSignals::new()?;
        for n_messages in 0.. {
            match self.next_message(n_messages, &mut signals).await? {
                Message::Train(sealed) => {
                    let order = self.open(&sealed, n_messages).await?;
                    self.train(&order, &mut signals).await?;
                }
                Message::End { code } => {
                    // The leader may have gone meanwhile.
                    let _ = self.store.set(&bye_key(self.environment.rank), "bye");
                    return Ok(code);
                }
            }
        }
        Ok(0)
    }

    async fn next_message(
        &mut self,
        n_messages: u64,
        signals: &mut StopSignals,
    ) -> Result<Message, CliError> {
        let key = message_key(n_messages);
        let (since, mut told) = (Instant::now(), Told::default());
        while !self.store.has(&key)? {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = signals.recv() => if self.is_stopped_again() {
                    return Ok(STOPPED);
                }
            }
            if self.stopped.is_none() && has_lost_first() {
                self.is_stopped_again();
            }
            if self
                .stopped
                .is_some_and(|since| since.elapsed() > LAST_PATIENCE)
            {
                return Ok(STOPPED);
            }
            if told.is_due(since) {
                let address = &self.environment.store;
                table::note(&format!("waiting for rank 0, at {address}, to continue"));
            }
        }
        Message::read(&self.store.get(&key, PATIENCE)?.unwrap_or_default())
    }

    /// The file of an order, in the runs folder that this process was given and sealed by rank 0.
    async fn open(&self, sealed: &SealedOrder, number: u64) -> Result<PathBuf, CliError> {
        let runs_dir = (self.own)()?.runs_dir;
        let runs_dir = runs_dir
            .canonicalize()
            .map_err(|error| CliError::io("find", &runs_dir, &error))?;
        let until = Instant::now() + PATIENCE_WITH_FOLDERS;
        loop {
            let opened = Key::read(&runs_dir, &self.environment.store)
                .and_then(|key| sealed.open(&key, &runs_dir, number));
            match opened {
                Err(_) if Instant::now() < until => tokio::time::sleep(PAUSE).await,
                opened => return opened,
            }
        }
    }

    /// Runs this rank's part of a worker to its end; how it ended, rank 0 knows by its own.
    async fn train(&mut self, order: &Path, signals: &mut StopSignals) -> Result<(), CliError> {
        let program = WorkerProgram::find()?;
        let rank = self.environment.rank;
        let log = order.with_file_name(runs_layout::log_of_rank(rank));
        let mut child =
            WorkerLog::open(log)?.spawn(&mut part_of(&program, order, &self.environment))?;
        let mut stdin = child.stdin.take();
        loop {
            tokio::select! {
                status = child.wait() => {
                    status.map_err(|error| {
                        CliError::environment(format!("cannot wait for the worker: {error}"))
                    })?;
                    return Ok(());
                }
                () = tokio::time::sleep(PAUSE), if self.stopped.is_none() => {
                    if has_lost_first() {
                        drop(stdin.take());
                        self.is_stopped_again();
                    }
                }
                () = signals.recv() => {
                    drop(stdin.take());
                    if self.is_stopped_again() {
                        // It may have ended by itself meanwhile.
                        let _ = child.start_kill();
                    }
                }
            }
        }
    }

    /// Asks the leader to stop, and says whether that was asked for before.
    fn is_stopped_again(&mut self) -> bool {
        let before = self.stopped.replace(Instant::now());
        // Without the leader there is nothing to stop.
        let _ = self.store.set(STOP, "1");
        before.is_some()
    }
}

/// The command of a rank's part of a worker.
fn part_of(program: &WorkerProgram, order: &Path, environment: &Environment) -> Command {
    let mut command = Command::from(program.command());
    command
        .args(worker_args(order))
        .envs(environment.variables())
        .env(STORE_IS_SERVED.0, STORE_IS_SERVED.1);
    command
}

fn message_key(n_messages: u64) -> String {
    format!("word/{n_messages}")
}

/// Set by a rank that has come.
fn here_key(rank: usize) -> String {
    format!("here/{rank}")
}

fn bye_key(rank: usize) -> String {
    format!("bye/{rank}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use files::testing::any_bytes_of_text;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_of_rank_0_are_a_message_or_an_error(text in any_bytes_of_text(&[
            r#"{"Train":{"path":"sweep/order.json","digest":"00","seal":"ff"}}"#,
            r#"{"End":{"code":130}}"#,
        ])) {
            match Message::read(&text) {
                Ok(message) => {
                    let again = Message::read(&serde_json::to_string(&message).unwrap()).unwrap();
                    prop_assert_eq!(format!("{again:?}"), format!("{message:?}"));
                }
                Err(error) => prop_assert!(error.to_string().starts_with("rank 0 sent")),
            }
        }
    }
}
