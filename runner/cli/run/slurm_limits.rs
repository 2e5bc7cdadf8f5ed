//! Time limits of jobs of Slurm that are short for what is planned.

use crate::show::duration::duration;
use crate::show::table;
use crate::slurm::Partition;
use crate::sweep::expand::Expanded;
use crate::sweep::forecast::{Forecast, StreamLength};
use plan::Stream;
use std::time::Duration;

/// Says of streams that they take longer than their time limit, or that checkpoints are further apart than that.
pub(crate) fn note(expanded: &Expanded, forecast: &Forecast, partition: &Partition) {
    let slurm = &expanded.sweep.sweep.launch.slurm;
    let Some(limit_s) = slurm.time_s().or(partition.limit_s) else {
        return;
    };
    let streams = expanded.plan.streams.iter().zip(&forecast.streams);
    let lengths = streams.filter_map(|(stream, own)| Some((stream, own.length?)));
    let (mut longest_s, mut apart_s) = (0.0_f64, 0.0_f64);
    for (stream, length) in lengths {
        longest_s = longest_s.max(length.training_s + length.evaluation_s);
        apart_s = apart_s.max(between_checkpoints(expanded, stream, &length));
    }
    let source = &forecast.speed.source;
    let time = |seconds: f64| duration(Duration::from_secs_f64(seconds));
    let limit = time(limit_s as f64);
    if apart_s > limit_s as f64 {
        table::note_with_hint(
            &format!(
                "checkpoints are about {} apart ({source}), and the time limit is {limit}: a job that loses its machine \
                 loses all that it did",
                time(apart_s)
            ),
            "set a smaller `save_every`, or a larger `launch.slurm.time`",
        );
    } else if longest_s > limit_s as f64 {
        let n_runs = (longest_s / limit_s as f64).ceil();
        table::note(&format!(
            "the longest stream takes about {} ({source}), and the time limit is {limit}: its job is put back into the queue \
             about {} times",
            time(longest_s),
            n_runs - 1.0
        ));
    }
}

/// Seconds between two checkpoints of a stream's jobs, at most.
fn between_checkpoints(expanded: &Expanded, stream: &Stream, length: &StreamLength) -> f64 {
    let jobs = stream.job_ids.iter().filter_map(|id| expanded.plan.job(id));
    let updates = jobs
        .map(|job| job.config.save_every.min(length.n_updates))
        .max();
    let of_update_s = length.training_s / length.n_updates.max(1) as f64;
    of_update_s * updates.unwrap_or(0) as f64
}
