//! Trackers while a sweep runs: a thread for each reads what is folded, and writes it. Training waits for nothing of
//! it, and what fails ends in a remark.

use crate::run::signals::StopSignals;
use crate::show::progress::Progress;
use crate::show::table::count;
use crate::track::exporter::{Exported, Exporter};
use crate::track::places::Places;
use fault::{Fault, Remedy, message_chain};
use plan::TrackerKind;
use plan::runs_layout::DATABASE;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};
use store::Store;
use trackers::TrackerLock;

/// How often what is new is written.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a run that has ended waits for its trackers.
const PATIENCE: Duration = Duration::from_secs(60);
/// Until the user hears of that.
const SILENCE: Duration = Duration::from_secs(3);
/// How often it is looked whether they are done.
const LOOK: Duration = Duration::from_millis(20);

/// The trackers of a sweep that runs.
#[derive(Debug)]
pub(crate) struct Tracking {
    sweep: String,
    /// One for each tracker.
    threads: Vec<TrackerThread>,
}

#[derive(Debug)]
struct TrackerThread {
    kind: TrackerKind,
    /// Closed to have it end.
    stop: RefCell<Option<Sender<()>>>,
    /// Closed when it has ended.
    remarks: Receiver<String>,
}

impl Tracking {
    /// Begins to write the runs of `sweep` to `kinds`.
    pub(crate) fn start(runs_dir: &Path, sweep: &str, kinds: &[TrackerKind]) -> Self {
        let thread = |kind| {
            let (stop, stopped) = mpsc::channel();
            let (say, remarks) = mpsc::channel();
            let work = Work {
                runs_dir: runs_dir.to_path_buf(),
                sweep: sweep.to_owned(),
                kind,
                stopped,
                say,
            };
            // It ends with the process, if not before.
            let _detached = thread::spawn(move || work.run());
            TrackerThread {
                kind,
                stop: RefCell::new(Some(stop)),
                remarks,
            }
        };
        // The user may name one twice.
        let kinds: BTreeSet<_> = kinds.iter().copied().collect();
        Self {
            sweep: sweep.to_owned(),
            threads: kinds.into_iter().map(thread).collect(),
        }
    }

    /// Passes on their remarks, as long as there may be any.
    pub(crate) async fn pass_on_remarks(&self, progress: &Progress) -> Infallible {
        loop {
            tokio::time::sleep(INTERVAL / 4).await;
            let threads = self.threads.iter();
            let remarks = threads.flat_map(|thread| thread.remarks.try_iter());
            remarks.for_each(|remark| progress.say(&remark));
        }
    }

    /// Has what is left written, and waits for that, but neither for long nor after a signal.
    pub(crate) async fn finish(mut self, say: &dyn Fn(&str)) {
        for thread in &self.threads {
            thread.stop.replace(None);
        }
        let began = Instant::now();
        let signals = StopSignals::new().ok();
        let stopped = async {
            match signals {
                Some(mut signals) => signals.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(stopped);
        let mut is_told = false;
        loop {
            self.threads.retain(|thread| !thread.has_ended(say));
            let names: Vec<_> = self.threads.iter().map(|one| one.kind.name()).collect();
            let (names, sweep) = (names.join(","), &self.sweep);
            if names.is_empty() {
                return;
            }
            if began.elapsed() > SILENCE && !std::mem::replace(&mut is_told, true) {
                say(&format!("waiting for {names} to take the rest"));
            }
            let is_late = began.elapsed() > PATIENCE;
            let is_stopped = tokio::select! {
                () = &mut stopped => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            if is_late || is_stopped {
                say(&format!(
                    "{names} may lack the rest; `sae-run export-log {sweep} --to {names}` adds it"
                ));
                return;
            }
        }
    }
}

impl TrackerThread {
    /// Passes on its remarks, and says whether it has ended.
    fn has_ended(&self, say: &dyn Fn(&str)) -> bool {
        loop {
            match self.remarks.try_recv() {
                Ok(remark) => say(&remark),
                Err(TryRecvError::Disconnected) => return true,
                Err(TryRecvError::Empty) => return false,
            }
        }
    }
}

/// What a thread does.
struct Work {
    runs_dir: PathBuf,
    sweep: String,
    kind: TrackerKind,
    stopped: Receiver<()>,
    say: Sender<String>,
}

impl Work {
    fn run(self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let ended = runtime
            .map_err(|error| Fault::internal(format!("cannot start a thread: {error}")))
            .and_then(|runtime| runtime.block_on(self.write()));
        let (kind, sweep) = (self.kind, &self.sweep);
        let remark = match ended {
            Ok(None) => return,
            Ok(Some((exported, look))) => {
                format!(
                    "{kind}: {} added; {look}",
                    count(exported.n_points, "point")
                )
            }
            Err(fault) => {
                let why = message_chain(&fault);
                let hint = Remedy::hint(&fault);
                let hint = hint.map_or_else(String::new, |hint| format!(" ({hint})"));
                format!(
                    "{kind} gets nothing more, and training continues: {why}{hint}; later \
                     `sae-run export-log {sweep} --to {kind}` adds what is missing"
                )
            }
        };
        // No one listens if the run did not wait.
        let _ = self.say.send(remark);
    }

    /// Writes until it is stopped; gives what was written, and how to look at it.
    async fn write(&self) -> Result<Option<(Exported, String)>, Fault> {
        let places = Places::new(&self.runs_dir, None, &self.sweep)?;
        let path = self.runs_dir.join(DATABASE);
        let store = Store::open_read_only(&path).await;
        let store = store.map_err(|error| Fault::of(&error))?;
        let mut writing: Option<(TrackerLock, Exporter)> = None;
        loop {
            let stopped = self.stopped.recv_timeout(INTERVAL);
            let is_last = stopped != Err(RecvTimeoutError::Timeout);
            if writing.is_none()
                && let Some(lock) = places.folder.lock(&self.sweep, self.kind)?
            {
                writing = Some((lock, Exporter::open(&places, self.kind)?));
            }
            // Else another process at the same sweep writes.
            if let Some((_, exporter)) = &mut writing {
                exporter.pass(&store).await?;
            }
            if is_last {
                break;
            }
        }
        store.close().await;
        let Some((_lock, exporter)) = writing else {
            return Ok(None);
        };
        let exported = exporter.finish()?;
        Ok((exported.n_points > 0).then(|| (exported, places.look(self.kind))))
    }
}
