//! The token data of a stream: tokenised if the cache does not have it, with reports of how far
//! it is.

use crate::TrainError;
use crate::events::EventLog;
use crate::process::log;
use crate::stop::StopFlag;
use plan::{DataFiles, EventKind, Order, most_eval_sequences};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};
use tokens::{BatchSpec, Batches, BuildProgress, EvalSequences, Shard, TokenSpec, Tokens};

/// Time between two reports of how far the tokens are.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The token data of a stream.
#[derive(Debug)]
pub(crate) struct StreamTokens {
    /// What is trained on.
    pub(crate) batches: Batches,
    /// What is evaluated on, if there is something.
    pub(crate) held_out: Option<EvalSequences>,
}

/// The token data of the stream that `order` describes, with ids below `vocab_size`, in batches of which this process
/// has `shard`. The data to evaluate on is tokenised too, so that what is wrong with it shows before anything is
/// trained.
///
/// # Errors
/// A data set that cannot be used or has changed since the order was written, or a stop.
pub(crate) fn open_tokens(
    order: &Order,
    vocab_size: usize,
    shard: Shard,
    stop: &StopFlag,
    events: &mut EventLog,
) -> Result<StreamTokens, TrainError> {
    let mut reports = Reports {
        stop,
        events,
        last: None,
        has_said_to_wait: false,
        unwritten: None,
    };
    let key = &order.key;
    let tokens = reports.open_tokens(order, &order.dataset, vocab_size, &key.token_digest)?;
    let spec = BatchSpec::of_stream(key, shard);
    let batches = Batches::new(tokens.clone(), spec)?;
    let held_out = match (&order.eval_dataset, &key.eval_token_digest) {
        (Some(files), Some(digest)) => {
            let tokens = reports.open_tokens(order, files, vocab_size, digest)?;
            Some(EvalSequences::all(tokens))
        }
        _ => EvalSequences::held_out(&tokens, key.eval_fraction),
    };
    let n_training = batches.n_selected() as u64;
    let most = most_eval_sequences(key.eval_max_examples, n_training);
    let held_out = held_out.map(|sequences| sequences.at_most(most));
    Ok(StreamTokens { batches, held_out })
}

/// Turns progress into events, and a wish to stop into a stop.
struct Reports<'a> {
    stop: &'a StopFlag,
    events: &'a mut EventLog,
    last: Option<Instant>,
    has_said_to_wait: bool,
    /// Why events can no longer be written.
    unwritten: Option<TrainError>,
}

impl Reports<'_> {
    /// The token data of `files`, which must have the digest `expected`.
    fn open_tokens(
        &mut self,
        order: &Order,
        files: &DataFiles,
        vocab_size: usize,
        expected: &str,
    ) -> Result<Tokens, TrainError> {
        let spec = TokenSpec {
            files: files.clone(),
            rows: order.rows.clone(),
            tokenizer_dir: order.model_dir.clone(),
            vocab_size,
        };
        let take = &mut |progress| self.take(progress);
        let tokens = Tokens::open_or_build(&spec, &order.cache_dir, take);
        if let Some(error) = self.unwritten.take() {
            return Err(error);
        }
        let tokens = tokens?;
        if tokens.digest() != expected {
            return Err(plan::changed("data set", Path::new(&files.name)).into());
        }
        Ok(tokens)
    }

    fn take(&mut self, progress: BuildProgress) -> ControlFlow<()> {
        let written = self.event(&progress).map(|event| self.events.write(event));
        if let Some(Err(error)) = written {
            self.unwritten = Some(error);
            return ControlFlow::Break(());
        }
        if self.stop.is_set() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn event(&mut self, progress: &BuildProgress) -> Option<EventKind> {
        let message = match *progress {
            BuildProgress::Tokenised {
                n_tokens,
                n_bytes_read,
                n_bytes_total,
                ..
            } => {
                let is_due = self
                    .last
                    .is_none_or(|last| last.elapsed() >= REPORT_INTERVAL);
                return is_due.then(|| {
                    self.last = Some(Instant::now());
                    EventKind::Tokenising {
                        n_tokens,
                        n_bytes_read,
                        n_bytes_total,
                    }
                });
            }
            BuildProgress::Waiting if self.has_said_to_wait => return None,
            _ => progress.to_string(),
        };
        self.has_said_to_wait |= *progress == BuildProgress::Waiting;
        log(&message);
        Some(EventKind::Note { message })
    }
}
