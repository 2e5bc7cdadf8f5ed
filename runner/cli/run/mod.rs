//! `sae-run SWEEP.toml`: expand, record, train the jobs that are not done, show the results.
//!
//! - `recording.rs`: a plan in the database, and what earlier workers did; `past_job.rs`: what a job left
//! - `extend.rs`: the same for more tokens
//! - `claims.rs`: which jobs this process may train, next to others; `gpu_room.rs`: and on which GPUs; `fresh.rs`:
//!   starting again
//! - `schedule.rs`: a worker process for each stream, and another if it dies; `queue.rs`: which stream is next
//!   on which device; `worker_process.rs`: starting one; `orphan.rs`: a worker that was left; `left_over.rs`:
//!   and what the database has of it
//! - `orders.rs`: what a worker is asked to do; `worker.rs`: what does it: a process, or a job of Slurm
//! - `slurm_attempt.rs`: an attempt in Slurm; `slurm_worker.rs`: its job, submitted or found again; `slurm_limits.rs`:
//!   whether it has the time. `pool_attempt.rs`, `pool_worker.rs`: the same for machines of the pool
//! - `watch.rs`: folds a worker's events, ends its attempt; `event_tail.rs`: reads events.jsonl; `unreadable.rs`:
//!   puts aside what cannot be read
//! - `launch/`: what starts a worker. `torchrun.rs`; `company.rs`: rank 0 leads, others follow; `node.rs`: the ranks of
//!   a node; `seal.rs`: whose orders they take; `processes.rs`: how many
//! - `runs_folder.rs`: the folder and its locks; `signals.rs`: Ctrl-C

pub(crate) mod claims;
pub(crate) mod event_tail;
pub(crate) mod extend;
pub(crate) mod fresh;
pub(crate) mod gpu_room;
pub(crate) mod launch;
pub(crate) mod left_over;
pub(crate) mod orders;
pub(crate) mod orphan;
pub(crate) mod past_job;
pub(crate) mod pool_attempt;
pub(crate) mod pool_worker;
pub(crate) mod queue;
pub(crate) mod recording;
pub(crate) mod runs_folder;
pub(crate) mod schedule;
pub(crate) mod signals;
pub(crate) mod slurm_attempt;
pub(crate) mod slurm_limits;
pub(crate) mod slurm_worker;
pub(crate) mod unreadable;
pub(crate) mod watch;
pub(crate) mod worker;
pub(crate) mod worker_process;
pub(crate) mod worker_program;

use crate::commands::plan::{self as plan_command, Shown};
use crate::error::CliError;
use crate::pool::PoolBoard;
use crate::run::claims::Claims;
use crate::run::launch::{Launcher, Leader, OwnSettings, with_ranks};
use crate::run::recording::{record, recover};
use crate::run::runs_folder::RunsFolder;
use crate::run::schedule::{Scheduler, Summary};
use crate::show::closing::{Closing, all_are_done};
use crate::show::forecast::{time, total_s};
use crate::show::progress::{Line, Progress};
use crate::show::time_left::{Predicted, TimeLeft};
use crate::show::{json, sweep as shown, table};
use crate::slurm::{Board, Looks, Partition};
use crate::sweep::config::{self, LoadedSweep};
use crate::sweep::expand::{self, Expanded};
use crate::sweep::forecast::forecast;
use crate::sweep::hub_access;
use crate::sweep::next_round;
use crate::sweep::paths::Folders;
use crate::track::Tracking;
use args::{ProgressArg, RunArgs, RunOptions, StoreArgs, TrainArgs};
use serde_json::json;
use std::cell::RefCell;
use std::path::Path;
use std::time::Instant;
use store::{JobStatus, RecordedJob, RecordedPlan, Store};

/// The settings of a job in its folder, which are written with each checkpoint, after its SAEs.
const JOB_CONFIG: &str = "config.json";

/// How often Slurm is asked about jobs of earlier processes before that is given up.
const N_TRIES: u32 = 20;

/// From this number of seconds on it is said before how long a sweep takes.
const LONG_S: f64 = 60.0;

/// Runs or resumes a sweep.
///
/// # Errors
/// Bad input or a bad environment; a failing job is not an error but an exit code.
pub(crate) async fn run(args: &RunArgs) -> Result<u8, CliError> {
    let own = || own_settings(config::load(&args.sweep(), &Folders::of_this_machine()?));
    with_ranks(&own, async |leader| {
        let folders = Folders::of_this_machine()?;
        let sweep = config::load(&args.sweep(), &folders)?;
        run_loaded(sweep, folders, &args.options, leader).await
    })
    .await
}

/// Runs or resumes the one job that options describe.
///
/// # Errors
/// As [`run`].
pub(crate) async fn train(args: TrainArgs) -> Result<u8, CliError> {
    let given = args.given();
    let own = || own_settings(config::load_given(&given, &Folders::of_this_machine()?));
    with_ranks(&own, async |leader| train_job(args, leader).await).await
}

fn own_settings(loaded: Result<LoadedSweep, CliError>) -> Result<OwnSettings, CliError> {
    let sweep = loaded?.sweep;
    Ok(OwnSettings {
        runs_dir: sweep.runs_dir.into(),
        launch: sweep.launch,
    })
}

async fn train_job(mut args: TrainArgs, leader: Option<&Leader>) -> Result<u8, CliError> {
    if args.refuses_to_resume() {
        return Err(
            CliError::input("a job always continues from its last checkpoint")
                .with_hint("`--fresh` trains it again".to_owned()),
        );
    }
    if let Some(token) = args.hf_token.take() {
        hub_access::use_token(token);
    }
    let folders = Folders::of_this_machine()?;
    let sweep = config::load_given(&args.given(), &folders)?;
    run_loaded(sweep, folders, &args.options, leader).await
}

/// Runs or resumes a sweep that was read, or shows its plan.
async fn run_loaded(
    sweep: LoadedSweep,
    folders: Folders,
    options: &RunOptions,
    leader: Option<&Leader>,
) -> Result<u8, CliError> {
    if options.dry_run {
        let mut expanded = expand::expand_sweep_plan(sweep, folders)?;
        return plan_command::print(&mut expanded, Shown::of(options.json), options.quiet).await;
    }
    let mut expanded = expand::expand_sweep(sweep, folders)?;
    let ended = run_expanded(&mut expanded, options, leader).await?;
    note_only_folder(&expanded, &ended);
    Ok(ended.exit_code)
}

/// Says where the SAEs of a run's only job are.
fn note_only_folder(expanded: &Expanded, ended: &Ended) {
    let jobs = ended.recorded.as_ref().map_or(&[][..], |plan| &plan.jobs);
    if let [only] = jobs {
        note_folder(Path::new(&expanded.sweep.sweep.runs_dir), only);
    }
}

/// Says where the SAEs of a job are, if there are any: in its first folder, whatever the job is called
/// now.
fn note_folder(runs_dir: &Path, job: &RecordedJob) {
    let dir = runs_dir.join(&job.dir);
    let has_checkpoint = dir.join(JOB_CONFIG).is_file();
    let what = match (job.status, has_checkpoint) {
        (_, false) => return,
        (JobStatus::Done, true) => "its SAEs",
        (_, true) => "its SAEs up to the last checkpoint",
    };
    table::note(&format!("{what} are in `{}`", dir.display()));
}

/// How a run ended.
struct Ended {
    exit_code: u8,
    /// The state of the jobs; `None`: nothing was begun.
    recorded: Option<RecordedPlan>,
}

async fn run_expanded(
    expanded: &mut Expanded,
    args: &RunOptions,
    leader: Option<&Leader>,
) -> Result<Ended, CliError> {
    let launcher = launch::launcher(&expanded.sweep.sweep.launch, leader)?;
    let launcher_kind = expanded.sweep.sweep.launch.launcher;
    if args.detach && !matches!(launcher_kind, plan::Launcher::Slurm | plan::Launcher::Pool) {
        return Err(
            CliError::input("`--detach` is for jobs of Slurm and of the pool, and this sweep is trained by processes of this machine")
                .with_hint("set `launcher = \"slurm\"` or `\"pool\"` in `[launch]`, or leave `--detach` out".to_owned()),
        );
    }
    let folder = open_folder(expanded)?;
    if let Some(leader) = leader {
        leader.lead_in(folder.path())?;
    }
    let store = folder.open_store().await?;
    let later = store.later_rounds(&expanded.sweep.text, &expanded.plan);
    for round in later.await? {
        expanded.replay(round)?;
    }
    let looks = Looks::new(N_TRIES);
    let claims = Claims {
        store: &store,
        folder: &folder,
        take_over: args.take_over,
        slurm: &looks,
    };
    let began = Instant::now();
    let Some(before) = recover(&claims, expanded, args).await? else {
        if args.json {
            json::print(&json!({"sweep": expanded.plan.sweep, "is_begun": false}))?;
        }
        return Ok(Ended {
            exit_code: 0,
            recorded: None,
        });
    };
    let log_to = &expanded.sweep.sweep.launch.log_to;
    let tracking = Tracking::start(folder.path(), &expanded.plan.sweep, log_to);
    let launch = &expanded.sweep.sweep.launch;
    let partition = match launch.launcher {
        plan::Launcher::Slurm => Some(Partition::of(&launch.slurm).await?),
        _ => None,
    };
    let site = Site {
        claims,
        launcher: launcher.as_ref(),
        tracking: &tracking,
        board: Board::new(launch.slurm.poll_s),
        pool: PoolBoard::new(folder.path()),
        partition,
    };
    let (mut summary, recorded) = run_rounds(&site, expanded, &before, args).await?;
    tracking.finish(&|remark| say(args, remark)).await;
    let runs_dir = Path::new(&expanded.sweep.sweep.runs_dir);
    let closing = Closing {
        plan: &expanded.plan,
        before: &before,
        after: &recorded,
        outcomes: &store.outcomes(&expanded.plan.sweep).await?,
        took: began.elapsed(),
        runs_dir,
        is_usual_folder: config::runs_dir(&StoreArgs { runs_dir: None })? == runs_dir,
        retry_failed: args.retry_failed,
        quiet: args.quiet || args.progress == ProgressArg::Json,
    };
    summary.n_failed += closing.n_left_out();
    let exit_code = conclude(args, (&closing, launcher_kind), &summary)?;
    store.close().await;
    Ok(Ended {
        exit_code,
        recorded: Some(recorded),
    })
}

/// Trains round after round, as long as the recipe wants another; gives the state of the jobs then.
async fn run_rounds(
    site: &Site<'_>,
    expanded: &mut Expanded,
    before: &RecordedPlan,
    args: &RunOptions,
) -> Result<(Summary, RecordedPlan), CliError> {
    let store = site.claims.store;
    let mut recorded = before.clone();
    let mut summary = Summary::default();
    loop {
        summary.add(run_round(site, expanded, &recorded, args).await?);
        recorded = record(store, expanded).await?;
        if !expanded.wants_another_round() || summary.interrupted || !recorded.has_ended() {
            break;
        }
        if summary.is_cut_off {
            withheld(expanded);
            break;
        }
        if replay_next(store, expanded).await? {
            recorded = record(store, expanded).await?;
            continue;
        }
        let rows = store.results(&expanded.plan.sweep).await?;
        if !expanded.next_round(next_round::results(&expanded.plan, &rows))? {
            break;
        }
        recorded = record(store, expanded).await?;
    }
    Ok((summary, recorded))
}

/// A remark outside of a round.
fn say(args: &RunOptions, remark: &str) {
    if args.progress == ProgressArg::Json {
        Line::Remark { message: remark }.print();
    } else {
        table::note(remark);
    }
}

/// Adds the next round, if another process at the same sweep has asked the recipe for it meanwhile.
async fn replay_next(store: &Store, expanded: &mut Expanded) -> Result<bool, CliError> {
    let n_known = expanded.plan.rounds.len();
    let later = store.later_rounds(&expanded.sweep.text, &expanded.plan);
    match later.await?.into_iter().nth(n_known.saturating_sub(1)) {
        Some(round) => expanded.replay(round).map(|()| true),
        None => Ok(false),
    }
}

/// Opens the runs folder. The hint says how to name another.
fn open_folder(expanded: &Expanded) -> Result<RunsFolder, CliError> {
    RunsFolder::open(&expanded.sweep.sweep.runs_dir).map_err(|error| {
        let hint = error.hint().unwrap_or_default();
        let hint = format!("{hint}; `--runs-dir DIR` names another folder");
        error.with_hint(hint)
    })
}

/// Says why a recipe is not asked for the next round: what it answers is stored for good.
fn withheld(expanded: &Expanded) {
    let round = expanded.plan.rounds.len();
    table::note_with_hint(
        &format!(
            "round {round} is not planned yet: some jobs are unfinished because their worker died or could not continue"
        ),
        "run the same command again, without `--fresh`, to finish them first",
    );
}

/// Where a sweep is run.
struct Site<'a> {
    claims: Claims<'a>,
    launcher: &'a dyn Launcher,
    tracking: &'a Tracking,
    /// What is known of jobs of Slurm.
    board: Board,
    /// What is known of streams in the pool.
    pool: PoolBoard,
    /// Where jobs of Slurm go, if streams are such.
    partition: Option<Partition>,
}

/// Trains what is left of the jobs that are planned by now.
async fn run_round(
    site: &Site<'_>,
    expanded: &mut Expanded,
    recorded: &RecordedPlan,
    args: &RunOptions,
) -> Result<Summary, CliError> {
    let is_done = |job_id: &String| {
        let known = recorded.job(job_id);
        known.is_some_and(|job| {
            job.is_finished() || (!args.retry_failed && recorded.is_given_up(job))
        })
    };
    let is_wanted = |stream: &plan::Stream| !stream.job_ids.iter().all(is_done);
    let quiet = args.quiet || args.progress == ProgressArg::Json;
    expanded.inputs.fetch(&expanded.plan, quiet, is_wanted)?;
    let progress = Progress::new(
        &expanded.plan,
        recorded,
        &expanded.sweep.sweep.runs_dir,
        args,
    );
    let time_left = if expanded.plan.streams.iter().any(is_wanted) {
        time_left(site, expanded, (is_wanted, quiet)).await?
    } else {
        TimeLeft::default()
    };
    let scheduler = Scheduler {
        claims: site.claims,
        expanded,
        recorded,
        settled: RefCell::default(),
        told: RefCell::default(),
        progress: progress.with_time_left(time_left),
        launcher: site.launcher,
        tracking: site.tracking,
        retry_failed: args.retry_failed,
        board: &site.board,
        pool: &site.pool,
        partition: site.partition.as_ref(),
        detach: args.detach,
    };
    scheduler.run().await
}

/// What is known of the time of the streams that are wanted before they begin. The first has all text tokenised.
async fn time_left(
    site: &Site<'_>,
    expanded: &mut Expanded,
    (is_wanted, quiet): (impl Fn(&plan::Stream) -> bool, bool),
) -> Result<TimeLeft, CliError> {
    let forecast = forecast(expanded).await?;
    let total_s = forecast.in_all().map(|known| total_s(&forecast, known));
    if !quiet && total_s.is_some_and(|total_s| total_s >= LONG_S) {
        let source = &forecast.speed.source;
        table::note(&format!("expected time: {} ({source})", time(&forecast)));
    }
    if let Some(partition) = site.partition.as_ref().filter(|_| !quiet) {
        slurm_limits::note(expanded, &forecast, partition);
    }
    let streams = expanded.plan.streams.iter().zip(&forecast.streams);
    let wanted = streams.filter(|(stream, _)| is_wanted(stream));
    let predicted: Vec<_> = wanted
        .enumerate()
        .map(|(index, (stream, own))| {
            let predicted = Predicted {
                of_token_s: own.of_token_s,
                training_s: own.length.map(|length| length.training_s),
                evaluation_s: own.length.map_or(0.0, |length| length.evaluation_s),
                tokenising_s: if index == 0 {
                    forecast.tokenising_s
                } else {
                    0.0
                },
            };
            (stream.stream_id.clone(), predicted)
        })
        .collect();
    let rows = predicted.iter().map(|(stream_id, predicted)| {
        let predicted = serde_json::to_string(predicted).expect("numbers serialise");
        (stream_id.clone(), predicted)
    });
    let store = site.claims.store;
    store.note_predictions(&rows.collect::<Vec<_>>()).await?;
    Ok(TimeLeft::new(predicted, forecast.n_lanes))
}

/// Says that jobs of Slurm, or streams in the pool, continue without this process.
fn note_left(plan: &plan::Plan, launcher: plan::Launcher, n_left: usize) {
    let sweep = &plan.sweep;
    let verb = if n_left == 1 { "continues" } else { "continue" };
    let what = match launcher {
        plan::Launcher::Pool => format!("{} {verb} in the pool", table::count(n_left, "stream")),
        _ => format!("{} of Slurm {verb}", table::count(n_left, "job")),
    };
    table::note_with_hint(
        &what,
        &format!(
            "`sae-run status {sweep}` shows them, `sae-run cancel {sweep}` ends them, and the same command again takes up \
             their results"
        ),
    );
}

fn conclude(
    args: &RunOptions,
    (closing, launcher): (&Closing<'_>, plan::Launcher),
    summary: &Summary,
) -> Result<u8, CliError> {
    if args.progress == ProgressArg::Json {
        Line::End {
            exit_code: summary.exit_code(),
        }
        .print();
    } else if args.json {
        json::print(&closing.as_json(summary))?;
    } else if closing.outcomes.iter().any(|row| row.dead_pct.is_some()) {
        let shown = shown::results(closing.outcomes);
        table::print(&shown.text)?;
        shown.note(&format!("`sae-run ls {} --json`", closing.plan.sweep));
    }
    closing.say_failures();
    for failure in &summary.failures {
        failure.print();
    }
    if closing.before == closing.after && closing.before.is_done() {
        let all_are_done = all_are_done(closing.after.progress().n_jobs);
        table::note(&format!(
            "{all_are_done} already; `--fresh` trains them again"
        ));
    } else {
        closing.say_counts();
    }
    if summary.n_left > 0 {
        note_left(closing.plan, launcher, summary.n_left);
    } else if summary.interrupted {
        let without = if args.fresh { " without `--fresh`" } else { "" };
        table::note(&format!(
            "stopped; run the same command again{without} to continue from the last checkpoints"
        ));
    }
    Ok(summary.exit_code())
}
