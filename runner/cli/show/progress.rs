//! Progress bars on standard error: one for the sweep, one for the running stream. If standard
//! error is not a terminal, a line now and then instead; for programs, JSON on standard output (`--progress json`).

use crate::show::table;
use args::{ProgressArg, RunOptions};
use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use plan::{Event, EventKind, Plan};
use serde::Serialize;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use store::{JobProgress, RecordedPlan};

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Detail {
    Bars,
    Lines,
    Json,
    Nothing,
}

/// What `--progress json` prints besides the events of workers, one object a line.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Line<'a> {
    /// What there is to do; once for each round of a recipe.
    Plan {
        /// Name of the sweep.
        sweep: &'a str,
        /// The folder of the database and the checkpoints.
        runs_dir: &'a str,
        /// Jobs in all.
        n_jobs: usize,
        /// Jobs that were done before.
        n_done: usize,
    },
    /// A job is trained to its end.
    JobDone {
        /// The job.
        job_id: &'a str,
    },
    /// What people would be shown.
    Remark {
        /// One line.
        message: &'a str,
    },
    /// Nothing follows.
    End {
        /// That of the program.
        exit_code: u8,
    },
}

impl Line<'_> {
    pub(crate) fn print(&self) {
        print_json(self);
    }
}

/// An event of a worker, as in events.jsonl.
#[derive(Serialize)]
struct StreamEvent<'a> {
    stream_id: &'a str,
    #[serde(flatten)]
    event: &'a Event,
}

fn print_json(line: &impl Serialize) {
    let text = serde_json::to_string(line).expect("plain fields serialise to JSON");
    // A reader that is gone is not a reason to stop.
    let _ = table::print(&(text + "\n"));
}

/// The progress of a sweep.
#[derive(Debug)]
pub(crate) struct Progress {
    detail: Detail,
    bars: MultiProgress,
    jobs: ProgressBar,
}

/// The progress of one attempt at a stream.
#[derive(Debug)]
pub(crate) struct StreamProgress {
    detail: Detail,
    stream_id: String,
    bar: ProgressBar,
    /// Latest FVU by job and SAE.
    fvu: BTreeMap<(String, String), f64>,
    n_steps: u64,
    n_tokens: u64,
    elapsed_ms: u64,
    /// Tenths of the tokenising, then of the training that were announced.
    tenths: Cell<u64>,
}

impl Progress {
    /// `runs_dir`: for programs that read on there.
    pub(crate) fn new(
        plan: &Plan,
        recorded: &RecordedPlan,
        runs_dir: &str,
        args: &RunOptions,
    ) -> Self {
        let detail = match () {
            () if args.progress == ProgressArg::Json => Detail::Json,
            () if args.quiet || recorded.is_done() => Detail::Nothing,
            () if std::io::stderr().is_terminal() => Detail::Bars,
            () => Detail::Lines,
        };
        let target = match detail {
            Detail::Bars => ProgressDrawTarget::stderr(),
            _ => ProgressDrawTarget::hidden(),
        };
        let bars = MultiProgress::with_draw_target(target);
        let JobProgress { n_done, n_jobs } = recorded.progress();
        if detail == Detail::Json {
            let sweep = &plan.sweep;
            Line::Plan {
                sweep,
                runs_dir,
                n_jobs,
                n_done,
            }
            .print();
        }
        let jobs = ProgressBar::new(n_jobs as u64).with_position(n_done as u64);
        let jobs = bars.add(jobs.with_style(style("{msg:20!} {bar:30} {pos}/{len} jobs")));
        label(&jobs, &plan.sweep);
        jobs.tick();
        Self { detail, bars, jobs }
    }

    /// A bar for an attempt at a stream.
    pub(crate) fn stream(&self, stream_id: &str, n_jobs: usize) -> StreamProgress {
        let template = "{prefix:20!} {bar:30} {pos}/{len} steps, {eta} left, {wide_msg}";
        let bar = self
            .bars
            .add(ProgressBar::new(0).with_style(style(template)));
        bar.set_prefix(format!("stream {stream_id}"));
        label(&bar, "starting");
        if self.detail == Detail::Lines && n_jobs > 0 {
            let jobs = table::count(n_jobs, "job");
            table::note(&format!("stream {stream_id}: {jobs} on one forward pass"));
        }
        StreamProgress {
            detail: self.detail,
            stream_id: stream_id.to_owned(),
            bar,
            fvu: BTreeMap::new(),
            n_steps: 0,
            n_tokens: 0,
            elapsed_ms: 0,
            tenths: Cell::new(0),
        }
    }

    pub(crate) fn job_done(&self, job_id: &str) {
        self.jobs.inc(1);
        if self.detail == Detail::Json {
            Line::JobDone { job_id }.print();
        }
    }

    /// A remark that does not tear the bars.
    pub(crate) fn say(&self, text: &str) {
        if self.detail == Detail::Json {
            return Line::Remark { message: text }.print();
        }
        // A terminal that is gone is not a reason to stop.
        let printed = self.detail == Detail::Bars && self.bars.println(table::remark(text)).is_ok();
        if !printed {
            table::note(text);
        }
    }

    pub(crate) fn finish(&self) {
        // Not `finish`: that would show all jobs as done.
        self.jobs.abandon();
    }
}

impl StreamProgress {
    /// Shows an event of the worker.
    pub(crate) fn show(&mut self, event: &Event) {
        if self.detail == Detail::Json {
            let stream_id = &self.stream_id;
            return print_json(&StreamEvent { stream_id, event });
        }
        match &event.kind {
            EventKind::Started { device, .. } => {
                label(&self.bar, &format!("loading on {device}"));
            }
            EventKind::Tokenising {
                n_tokens,
                n_bytes_read,
                n_bytes_total,
            } => {
                let percent = 100 * n_bytes_read / (*n_bytes_total).max(1);
                let message = format!("tokenising: {percent} %, {} tokens", HumanCount(*n_tokens));
                if self.detail == Detail::Lines && percent / 10 > self.tenths.replace(percent / 10)
                {
                    table::note(&format!("  {message}"));
                }
                label(&self.bar, &message);
            }
            EventKind::Evaluating {
                n_done,
                n_sequences,
            } => {
                let message = format!("evaluating: {n_done}/{n_sequences} sequences");
                label(&self.bar, &message);
            }
            EventKind::Note { message } => self.note(message),
            EventKind::Ready {
                first_step,
                n_steps,
                ..
            } => {
                self.n_steps = *n_steps;
                self.tenths.set(0);
                self.bar.set_length(*n_steps);
                self.bar.set_position(*first_step);
                self.bar.reset_eta();
            }
            EventKind::Metric {
                job_id, sae, stats, ..
            } => {
                self.fvu.insert((job_id.clone(), sae.clone()), stats.fvu());
            }
            EventKind::Progress {
                step,
                n_tokens,
                elapsed_ms,
            } => {
                self.n_tokens += n_tokens;
                self.elapsed_ms += elapsed_ms;
                self.advance(*step);
            }
            _ => {}
        }
    }

    /// A remark that does not tear the bars.
    pub(crate) fn note(&self, message: &str) {
        match self.detail {
            Detail::Bars => self.bar.println(table::remark(message)),
            Detail::Lines => table::note(message),
            Detail::Json | Detail::Nothing => {}
        }
    }

    fn advance(&self, step: u64) {
        let tokens_per_s = self.n_tokens as f64 * 1000.0 / self.elapsed_ms.max(1) as f64;
        let message = format!("{tokens_per_s:.0} tokens/s, {}", self.fvu_range());
        self.bar.set_position(step);
        label(&self.bar, &message);
        let tenths = (step * 10).checked_div(self.n_steps).unwrap_or(0);
        if self.detail == Detail::Lines && tenths > self.tenths.replace(tenths) {
            table::note(&format!("  step {step}/{}: {message}", self.n_steps));
        }
    }

    /// From the best SAE to the worst.
    fn fvu_range(&self) -> String {
        let best = self.fvu.values().copied().fold(f64::INFINITY, f64::min);
        let worst = self.fvu.values().copied().fold(f64::NEG_INFINITY, f64::max);
        format!("FVU {best:.3} to {worst:.3}")
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// The message next to a bar: one line without anything that steers a terminal.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that writes next to a bar"
)]
pub(crate) fn label(bar: &ProgressBar, message: &str) {
    bar.set_message(table::remark(message));
}

/// The bar of one command: hidden if `quiet`, or if standard error is not a terminal.
pub(crate) fn bar(template: &str, quiet: bool) -> ProgressBar {
    let bar = if quiet {
        ProgressBar::hidden()
    } else {
        ProgressBar::no_length()
    };
    bar.with_style(style(template))
}

pub(crate) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates are constants")
        .progress_chars("━━─")
}
