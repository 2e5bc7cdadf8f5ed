//! `sae-run export-log`: the curves of a past sweep to trackers. What they have already is not written again.

use crate::error::CliError;
use crate::show::job;
use crate::show::table::{self, count};
use crate::sweep::config;
use crate::track::{Exported, Exporter, Places};
use args::ExportLogArgs;
use fault::{Fault, Remedy, message_chain};
use plan::TrackerKind;
use store::Store;

/// `sae-run export-log SWEEP --to ...`.
///
/// # Errors
/// No database, no such sweep, a sweep that another process writes now, or the last tracker that failed.
pub(crate) async fn export_log(args: &ExportLogArgs) -> Result<u8, CliError> {
    let store = job::open(&args.store).await?;
    if store.tracked_jobs(&args.sweep).await?.is_empty() {
        let message = format!("no job of `{}` was begun", args.sweep);
        return Err(CliError::input(message).with_hint("run the sweep first".to_owned()));
    }
    let runs_dir = config::runs_dir(&args.store)?;
    let places = Places::new(&runs_dir, args.dir.as_deref(), &args.sweep);
    let places = places.map_err(|fault| error_of(&fault, None))?;
    let mut errors = Vec::new();
    for &kind in &args.to {
        match export(&store, &places, kind).await {
            Ok(exported) => say(&places, kind, exported),
            Err(fault) => errors.push(error_of(&fault, Some(kind))),
        }
    }
    store.close().await;
    let Some(last) = errors.pop() else {
        return Ok(0);
    };
    errors.iter().for_each(CliError::print);
    Err(last)
}

async fn export(store: &Store, places: &Places, kind: TrackerKind) -> Result<Exported, Fault> {
    let sweep = &places.sweep;
    let _lock = places.folder.lock(sweep, kind)?.ok_or_else(|| {
        let holder = places.folder.holder(sweep, kind);
        Fault::internal(format!("{holder} writes the runs of `{sweep}` now"))
            .with_hint("wait for it to end, or write to another folder with `--dir`")
    })?;
    let mut exporter = Exporter::open(places, kind)?;
    exporter.pass(store).await?;
    exporter.finish()
}

fn say(places: &Places, kind: TrackerKind, exported: Exported) {
    let runs = count(exported.n_runs, "run");
    let points = match exported.n_points {
        0 => "nothing was missing".to_owned(),
        n => format!("{} added", count(n, "point")),
    };
    table::note(&format!("{kind}: {runs}, {points}; {}", places.look(kind)));
}

fn error_of(fault: &Fault, kind: Option<TrackerKind>) -> CliError {
    let why = message_chain(fault);
    let message = kind.map_or_else(|| why.clone(), |kind| format!("{kind}: {why}"));
    CliError::environment(message).with_hint(Remedy::hint(fault))
}
