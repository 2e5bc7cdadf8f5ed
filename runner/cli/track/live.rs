//! Trackers while a sweep runs: a thread reads what is folded, and writes it to them. Training waits for nothing of it,
//! and what fails ends in a remark.

use crate::run::signals::StopSignals;
use crate::show::progress::Progress;
use crate::track::exporter::{Exporter, Failed};
use crate::track::places::{Places, shown_with};
use fault::{Fault, Remedy, message_chain};
use plan::TrackerKind;
use plan::runs_layout::DATABASE;
use std::cell::RefCell;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
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
#[derive(Debug, Default)]
pub(crate) struct Tracking {
    thread: Option<TrackerThread>,
}

#[derive(Debug)]
struct TrackerThread {
    sweep: String,
    kinds: Vec<TrackerKind>,
    /// Closed to have it end.
    stop: RefCell<Option<Sender<()>>>,
    /// Closed when it has ended.
    remarks: Receiver<String>,
}

impl Tracking {
    /// Begins to write the runs of `sweep` to `kinds`.
    pub(crate) fn start(runs_dir: &Path, sweep: &str, kinds: &[TrackerKind]) -> Self {
        if kinds.is_empty() {
            return Self::default();
        }
        let (stop, stopped) = mpsc::channel();
        let (say, remarks) = mpsc::channel();
        let work = Work {
            runs_dir: runs_dir.to_path_buf(),
            sweep: sweep.to_owned(),
            kinds: kinds.to_vec(),
            stopped,
            say,
        };
        // It ends with the process, if not before.
        let _detached = thread::spawn(move || work.run());
        let thread = TrackerThread {
            sweep: sweep.to_owned(),
            kinds: kinds.to_vec(),
            stop: RefCell::new(Some(stop)),
            remarks,
        };
        Self {
            thread: Some(thread),
        }
    }

    /// Passes on its remarks, as long as there may be any.
    pub(crate) async fn pass_on_remarks(&self, progress: &Progress) -> Infallible {
        loop {
            tokio::time::sleep(INTERVAL / 4).await;
            let remarks = self
                .thread
                .iter()
                .flat_map(|thread| thread.remarks.try_iter());
            remarks.for_each(|remark| progress.say(&remark));
        }
    }

    /// Has what is left written, and waits for that, but neither for long nor after a signal.
    pub(crate) async fn finish(self, say: &dyn Fn(&str)) {
        let Some(thread) = self.thread else { return };
        thread.stop.replace(None);
        let began = Instant::now();
        let signals = StopSignals::new().ok();
        let stopped = async {
            match signals {
                Some(mut signals) => signals.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(stopped);
        let kinds = shown_with(&thread.kinds);
        let mut is_told = false;
        loop {
            match thread.remarks.try_recv() {
                Ok(remark) => {
                    say(&remark);
                    continue;
                }
                Err(mpsc::TryRecvError::Disconnected) => return,
                Err(mpsc::TryRecvError::Empty) => {}
            }
            if began.elapsed() > SILENCE && !std::mem::replace(&mut is_told, true) {
                say(&format!("waiting for {kinds} to take the rest"));
            }
            let is_late = began.elapsed() > PATIENCE;
            let is_stopped = tokio::select! {
                () = &mut stopped => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            if is_late || is_stopped {
                let sweep = &thread.sweep;
                say(&format!(
                    "{kinds} may lack the rest; `sae-run export-log {sweep} --to {kinds}` adds it"
                ));
                return;
            }
        }
    }
}

/// What the thread does.
struct Work {
    runs_dir: PathBuf,
    sweep: String,
    kinds: Vec<TrackerKind>,
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
        if let Err(fault) = ended {
            self.remark(&shown_with(&self.kinds), &fault);
        }
    }

    async fn write(&self) -> Result<(), Fault> {
        let places = Places::new(&self.runs_dir, None, &self.sweep)?;
        let path = self.runs_dir.join(DATABASE);
        let store = Store::open_read_only(&path).await;
        let store = store.map_err(|error| Fault::of(&error))?;
        let mut writing: Option<(TrackerLock, Exporter)> = None;
        loop {
            let is_last = !matches!(
                self.stopped.recv_timeout(INTERVAL),
                Err(RecvTimeoutError::Timeout)
            );
            if writing.is_none()
                && let Some(lock) = places.folder.lock(&self.sweep)?
            {
                let (exporter, failed) = Exporter::open(&places, &self.kinds);
                self.remark_all(failed);
                writing = Some((lock, exporter));
            }
            // Else another process at the same sweep writes them.
            if let Some((_, exporter)) = &mut writing {
                let failed = exporter.pass(&store).await;
                self.remark_all(failed.map_err(|error| Fault::of(&error))?);
            }
            if is_last {
                break;
            }
        }
        if let Some((_lock, exporter)) = writing {
            let ended = exporter.finish().into_iter();
            let failed = ended.filter_map(|(kind, ended)| Some((kind, ended.err()?)));
            self.remark_all(failed.collect());
        }
        store.close().await;
        Ok(())
    }

    fn remark_all(&self, failed: Vec<Failed>) {
        for (kind, fault) in failed {
            self.remark(kind.name(), &fault);
        }
    }

    fn remark(&self, kinds: &str, fault: &Fault) {
        let why = message_chain(fault);
        let hint = Remedy::hint(fault);
        let hint = hint.map_or_else(String::new, |hint| format!(" ({hint})"));
        let sweep = &self.sweep;
        // No one listens if the run did not wait.
        let _ = self.say.send(format!(
            "{kinds} gets nothing more, and training continues: {why}{hint}; later \
             `sae-run export-log {sweep} --to {kinds}` adds what is missing"
        ));
    }
}
