//! Progress bars on standard error: one for the sweep, one for the running stream. If standard
//! error is not a terminal, a line now and then instead; for programs, JSON on standard output (`--progress json`).

use crate::show::duration::{finishing_time, short_duration};
use crate::show::fitted;
use crate::show::progress_line::{ProgressLine, compact, left};
use crate::show::table;
use crate::show::time_left::TimeLeft;
use args::{ProgressArg, RunOptions};
use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use plan::{Event, EventKind, Plan};
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::rc::Rc;
use std::time::{Duration, Instant};
use store::{JobProgress, RecordedPlan};
use terminal_size::{Width, terminal_size_of};

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
    sweep: String,
    n_jobs: Cell<usize>,
    n_done: Cell<usize>,
    /// Ids of all streams, in the order of the plan.
    stream_ids: Vec<String>,
    time_left: Rc<RefCell<TimeLeft>>,
    begun: Instant,
}

/// The progress of one attempt at a stream.
#[derive(Debug)]
pub(crate) struct StreamProgress {
    detail: Detail,
    stream_id: String,
    bar: ProgressBar,
    line: ProgressLine,
    /// Latest FVU by job and SAE.
    fvu: BTreeMap<(String, String), f64>,
    n_steps: u64,
    n_tokens: u64,
    elapsed_ms: u64,
    /// Tenths of the tokenising, then of the training that were announced.
    tenths: Cell<u64>,
    time_left: Rc<RefCell<TimeLeft>>,
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
            () if io::stderr().is_terminal() => Detail::Bars,
            () => Detail::Lines,
        };
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
        let streams = plan.streams.iter();
        let stream_ids = streams.map(|stream| stream.stream_id.clone());
        let progress = Self::of(&plan.sweep, detail, stream_ids.collect());
        progress.set_jobs(n_done, n_jobs);
        progress
    }

    /// That of a sweep which another process runs. Without bars it is read by [`Self::text`].
    pub(crate) fn watched(sweep: &str, stream_ids: Vec<String>, has_bars: bool) -> Self {
        let detail = if has_bars {
            Detail::Bars
        } else {
            Detail::Nothing
        };
        Self::of(sweep, detail, stream_ids)
    }

    fn of(sweep: &str, detail: Detail, stream_ids: Vec<String>) -> Self {
        let target = match detail {
            Detail::Bars => ProgressDrawTarget::stderr(),
            _ => ProgressDrawTarget::hidden(),
        };
        let bars = MultiProgress::with_draw_target(target);
        let jobs = bars.add(ProgressBar::no_length().with_style(style("{msg}")));
        Self {
            detail,
            bars,
            jobs,
            sweep: sweep.to_owned(),
            n_jobs: Cell::new(0),
            n_done: Cell::new(0),
            stream_ids,
            time_left: Rc::default(),
            begun: Instant::now(),
        }
    }

    /// The same, begun that time ago.
    pub(crate) fn begun(self, ago: Duration) -> Self {
        let now = Instant::now();
        let begun = now.checked_sub(ago).unwrap_or(now);
        Self { begun, ..self }
    }

    /// Sets how many jobs are done, and how many there are.
    pub(crate) fn set_jobs(&self, n_done: usize, n_jobs: usize) {
        self.n_done.set(n_done);
        self.n_jobs.set(n_jobs);
    }

    /// The same, with what is predicted.
    pub(crate) fn with_time_left(self, time_left: TimeLeft) -> Self {
        *self.time_left.borrow_mut() = time_left;
        self.draw();
        self
    }

    /// A bar for an attempt at a stream.
    pub(crate) fn stream(&self, stream_id: &str, n_jobs: usize) -> StreamProgress {
        let bar = ProgressBar::no_length().with_style(style("{msg}"));
        let bar = self.bars.add(bar);
        if self.detail == Detail::Lines && n_jobs > 0 {
            let jobs = table::count(n_jobs, "job");
            table::note(&format!("stream {stream_id}: {jobs} on one forward pass"));
        }
        let index = self.stream_ids.iter().position(|id| id == stream_id);
        let lead = match index {
            Some(index) if self.stream_ids.len() > 1 => {
                format!("stream {}/{}", index + 1, self.stream_ids.len())
            }
            _ => "stream".to_owned(),
        };
        let mut progress = StreamProgress {
            detail: self.detail,
            stream_id: stream_id.to_owned(),
            bar,
            line: ProgressLine {
                lead,
                ..ProgressLine::default()
            },
            fvu: BTreeMap::new(),
            n_steps: 0,
            n_tokens: 0,
            elapsed_ms: 0,
            tenths: Cell::new(0),
            time_left: Rc::clone(&self.time_left),
        };
        progress.say_phase(None, "starting");
        progress
    }

    pub(crate) fn job_done(&self, job_id: &str) {
        self.n_done.set(self.n_done.get() + 1);
        self.draw();
        if self.detail == Detail::Json {
            Line::JobDone { job_id }.print();
        }
    }

    /// Draws what changes as time passes.
    pub(crate) fn draw(&self) {
        if self.detail == Detail::Bars {
            label(&self.jobs, &self.line().fit(width()));
            self.jobs.tick();
        }
    }

    /// What is drawn, as a line of standard output.
    pub(crate) fn text(&self) -> String {
        self.line().fit(fitted::width())
    }

    fn line(&self) -> ProgressLine {
        let time_left = self.time_left.borrow().in_all();
        let (n_done, n_jobs) = (self.n_done.get(), self.n_jobs.get());
        let jobs = Some(format!("{n_done}/{n_jobs} jobs"));
        let since = format!("{} so far", short_duration(self.begun.elapsed()));
        let ends = time_left.and_then(finishing_time);
        let ends = ends.map(|time| format!("done at {time}"));
        ProgressLine {
            lead: self.sweep.clone(),
            share: Some(n_done as f64 / n_jobs.max(1) as f64),
            parts: [jobs, left(time_left), ends, Some(since)]
                .into_iter()
                .flatten()
                .collect(),
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

    /// Leaves nothing on the screen.
    pub(crate) fn clear(&self) {
        self.jobs.finish_and_clear();
    }
}

impl StreamProgress {
    /// Shows an event of the worker.
    pub(crate) fn show(&mut self, event: &Event) {
        self.time_left.borrow_mut().see(&self.stream_id, event);
        if self.detail == Detail::Json {
            let stream_id = &self.stream_id;
            return print_json(&StreamEvent { stream_id, event });
        }
        match &event.kind {
            EventKind::Started { device, .. } => {
                self.say_phase(None, &format!("loading on {device}"));
            }
            EventKind::Tokenising {
                n_tokens,
                n_bytes_read,
                n_bytes_total,
            } => self.show_tokenising(*n_tokens, *n_bytes_read, *n_bytes_total),
            EventKind::Evaluating {
                n_done,
                n_sequences,
            } => {
                let share = *n_done as f64 / (*n_sequences).max(1) as f64;
                let message = format!("evaluating {n_done}/{n_sequences} sequences");
                self.say_phase(Some(share), &message);
            }
            EventKind::Note { message } => self.note(message),
            EventKind::Ready {
                first_step,
                n_steps,
                ..
            } => {
                self.n_steps = *n_steps;
                self.tenths.set(0);
                let share = *first_step as f64 / (*n_steps).max(1) as f64;
                self.say_phase(Some(share), &format!("{first_step}/{n_steps} steps"));
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

    fn show_tokenising(&mut self, n_tokens: u64, n_bytes_read: u64, n_bytes_total: u64) {
        let percent = 100 * n_bytes_read / n_bytes_total.max(1);
        let message = format!("tokenising: {percent} %, {} tokens", HumanCount(n_tokens));
        if self.detail == Detail::Lines && percent / 10 > self.tenths.replace(percent / 10) {
            table::note(&format!("  {message}{}", self.comma_left()));
        }
        self.say_phase(Some(percent as f64 / 100.0), &message);
    }

    /// A remark that does not tear the bars.
    pub(crate) fn note(&self, message: &str) {
        match self.detail {
            Detail::Bars => self.bar.println(table::remark(message)),
            Detail::Lines => table::note(message),
            Detail::Json | Detail::Nothing => {}
        }
    }

    fn advance(&mut self, step: u64) {
        let tokens_per_s = self.n_tokens as f64 * 1000.0 / self.elapsed_ms.max(1) as f64;
        let tenths = (step * 10).checked_div(self.n_steps).unwrap_or(0);
        if self.detail == Detail::Lines && tenths > self.tenths.replace(tenths) {
            let range = self.fvu_range(" to ");
            table::note(&format!(
                "  step {step}/{}: {tokens_per_s:.0} tokens/s, {range}{}",
                self.n_steps,
                self.comma_left()
            ));
        }
        let n_steps = self.n_steps;
        self.line.share = Some(step as f64 / n_steps.max(1) as f64);
        let parts = [
            Some(format!("{step}/{n_steps} steps")),
            self.left(),
            Some(format!("{} tokens/s", compact(tokens_per_s))),
            Some(self.fvu_range("-")),
        ];
        self.line.parts = parts.into_iter().flatten().collect();
        self.draw();
    }

    /// What the worker does, with the share of it that is done.
    fn say_phase(&mut self, share: Option<f64>, message: &str) {
        self.line.share = share;
        let parts = [Some(message.to_owned()), self.left()];
        self.line.parts = parts.into_iter().flatten().collect();
        self.draw();
    }

    fn draw(&self) {
        if self.detail == Detail::Bars {
            label(&self.bar, &self.line.fit(width()));
            self.bar.tick();
        }
    }

    /// What is drawn, as a line of standard output.
    pub(crate) fn text(&self) -> String {
        self.line.fit(fitted::width())
    }

    fn left(&self) -> Option<String> {
        left(self.time_left.borrow().of(&self.stream_id))
    }

    fn comma_left(&self) -> String {
        self.left()
            .map(|left| format!(", {left}"))
            .unwrap_or_default()
    }

    /// From the best SAE to the worst.
    fn fvu_range(&self, to: &str) -> String {
        let best = self.fvu.values().copied().fold(f64::INFINITY, f64::min);
        let worst = self.fvu.values().copied().fold(f64::NEG_INFINITY, f64::max);
        format!("FVU {best:.3}{to}{worst:.3}")
    }

    /// The stream has ended, well or not: `is_done` says that nothing of it is left.
    pub(crate) fn finish(&self, is_done: bool) {
        if is_done {
            self.time_left.borrow_mut().end(&self.stream_id);
        }
        self.bar.finish_and_clear();
    }
}

/// Characters in a line of the terminal.
fn width() -> usize {
    terminal_size_of(io::stderr()).map_or(80, |(Width(width), _)| usize::from(width.max(20)))
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
