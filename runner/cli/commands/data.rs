//! `sae-run data`: the tokens of a data set, made, described and written out.

mod stop_wish;

use crate::error::CliError;
use crate::show::{json, progress, table};
use crate::sweep::inputs::Inputs;
use crate::sweep::paths::{Folders, Near};
use args::DataArgs;
use files::OutputFile;
use indicatif::{HumanCount, ProgressBar};
use plan::{TrainConfig, apply_overrides};
use serde_json::{Map, Value, json};
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;
use stop_wish::{STOPPED, StopWish};
use tokens::{BatchSpec, BuildProgress, Shard, TokenSpec, Tokenizer, Tokens, TokensError};

/// Characters of the first sequence that are shown.
const SHOWN_CHARS: usize = 300;

/// Prepares the tokens of a data set and describes them. If a signal stops it, the same command resumes the work.
///
/// # Errors
/// A data set or model that cannot be used, or a file that cannot be written.
pub(crate) fn data(args: &DataArgs) -> Result<u8, CliError> {
    let config = config(args)?;
    let folders = Folders::of_this_machine()?;
    let mut inputs = Inputs::new(&Near::folder(Path::new(".")), &folders);
    inputs.of_data(&config)?;
    inputs.fetch_data(&config, args.quiet)?;
    let spec = inputs.tokens(&config, &config.train_data());
    let Some(tokens) = tokenise_or_stop(&spec, &folders.cache, args.quiet)? else {
        table::note("stopped; run the same command again to continue");
        return Ok(STOPPED);
    };
    let described = Description::new(&config, &spec, &tokens);
    if let Some(out) = &args.out {
        write_out(out, &tokens, &described.order)?;
    }
    if let Some(out) = &args.out_eval {
        write_out(out, &tokens, &described.held_out)?;
    }
    let text = if args.json {
        json::text(&described.json())
    } else {
        described.text()
    };
    let outs = [&args.out, &args.out_eval].into_iter().flatten();
    // In the same stream as tokens, it would be read as tokens.
    if outs.into_iter().any(|out| out.as_os_str() == "-") {
        table::note(text.trim_end());
        return Ok(0);
    }
    table::print(&text)
}

/// The settings of a job on this data.
fn config(args: &DataArgs) -> Result<TrainConfig, CliError> {
    let settings = json!({
        "model": args.model,
        "revision": args.revision,
        "dataset": args.dataset,
        "split": args.split,
        "data_args": args.data_args,
        "text_column": args.text_column,
        "tokenizer_class": args.tokenizer_class,
        "ctx_len": args.ctx_len,
        "on_bad_row": args.on_bad_row,
        "bin_dtype": args.bin_dtype,
        "shuffle_seed": args.shuffle_seed,
        "max_examples": args.max_examples,
        "eval_fraction": args.eval_fraction.unwrap_or_default(),
    });
    let settings: Map<String, Value> = settings.as_object().cloned().unwrap_or_default();
    let config = apply_overrides(&TrainConfig::default(), &settings)?;
    config.validate()?;
    Ok(config)
}

/// The tokens of a data set, with a bar while they are made unless `quiet`; `None` if a signal came.
fn tokenise_or_stop(
    spec: &TokenSpec,
    cache_dir: &Path,
    quiet: bool,
) -> Result<Option<Tokens>, CliError> {
    let stop = StopWish::listen()?;
    let tokens = Tokens::open_or_build(spec, cache_dir, &mut shown(quiet, || stop.is_set()));
    match tokens {
        Err(TokensError::Stopped) => Ok(None),
        tokens => Ok(Some(tokens?)),
    }
}

/// The tokens of a data set, with a bar while they are made unless `quiet`.
///
/// # Errors
/// A data set that cannot be used.
pub(crate) fn tokenise(
    spec: &TokenSpec,
    cache_dir: &Path,
    quiet: bool,
) -> Result<Tokens, CliError> {
    let tokens = Tokens::open_or_build(spec, cache_dir, &mut shown(quiet, || false));
    Ok(tokens?)
}

/// Shows progress as long as `is_stopped` says no.
fn shown(
    quiet: bool,
    is_stopped: impl Fn() -> bool,
) -> impl FnMut(BuildProgress) -> ControlFlow<()> {
    let mut shown = Shown::new(quiet);
    move |progress| {
        shown.show(progress);
        if is_stopped() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// How far the tokens are: a bar on standard error, and remarks.
struct Shown {
    bar: ProgressBar,
    is_quiet: bool,
    has_said_to_wait: bool,
}

impl Shown {
    fn new(is_quiet: bool) -> Self {
        let template =
            "tokenising {bar:30} {decimal_bytes}/{decimal_total_bytes}, {eta} left, {msg}";
        Self {
            bar: progress::bar(template, is_quiet),
            is_quiet,
            has_said_to_wait: false,
        }
    }

    fn show(&mut self, progress: BuildProgress) {
        if let BuildProgress::Tokenised {
            n_tokens,
            n_bytes_read,
            n_bytes_total,
            ..
        } = progress
        {
            self.bar.set_length(n_bytes_total);
            self.bar.set_position(n_bytes_read);
            let n_tokens = HumanCount(n_tokens);
            return progress::label(&self.bar, &format!("{n_tokens} tokens"));
        }
        let is_said = progress == BuildProgress::Waiting
            && std::mem::replace(&mut self.has_said_to_wait, true);
        if !self.is_quiet && !is_said {
            self.bar.suspend(|| table::note(&progress.to_string()));
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// What is known about the tokens of a data set.
struct Description<'a> {
    spec: &'a TokenSpec,
    tokens: &'a Tokens,
    /// Indices of the sequences in training order.
    order: Vec<u64>,
    /// Indices of the sequences that are held out.
    held_out: Vec<u64>,
    /// The text of the first sequence; a data set of token ids may come without a tokenizer.
    first: Option<String>,
}

impl<'a> Description<'a> {
    fn new(config: &TrainConfig, spec: &'a TokenSpec, tokens: &'a Tokens) -> Self {
        let batches = BatchSpec {
            shuffle_seed: config.shuffle_seed,
            max_examples: config.max_examples,
            eval_fraction: config.eval_fraction,
            epochs: 1,
            batch_size: 1,
            shard: Shard::WHOLE,
            pass_size: 1,
        };
        Self {
            spec,
            tokens,
            order: tokens::training_order(tokens, &batches),
            held_out: tokens::held_out(tokens.n_sequences() as u64, config.eval_fraction),
            first: first_sequence(spec, tokens).ok(),
        }
    }

    fn json(&self) -> Value {
        let counts = self.tokens.counts();
        let files = self.spec.files.files.iter();
        json!({
            "dataset": self.spec.files.name,
            "files": files.map(|file| file.path.clone()).collect::<Vec<_>>(),
            "digest": self.tokens.digest(),
            "ctx_len": self.tokens.ctx_len(),
            "id_bytes": self.tokens.id_bytes(),
            "n_documents": counts.n_documents,
            "n_skipped": counts.n_skipped,
            "n_tokens": counts.n_tokens,
            "n_dropped_tokens": counts.n_dropped_tokens,
            "n_sequences": self.tokens.n_sequences(),
            "n_held_out": self.held_out.len(),
            "n_training": self.order.len(),
            "first_sequence": self.first,
        })
    }

    fn text(&self) -> String {
        let counts = self.tokens.counts();
        let n_files = self.spec.files.files.len();
        let count = |n: u64| HumanCount(n).to_string();
        let training = match self.held_out.len() {
            0 => String::new(),
            n => format!(", {} held out", count(n as u64)),
        };
        let lines = [
            (
                "data set",
                format!(
                    "{} ({})",
                    self.spec.files.name,
                    table::count(n_files, "file")
                ),
            ),
            ("documents", count(counts.n_documents)),
            ("bad rows", count(counts.n_skipped)),
            ("tokens", count(counts.n_tokens)),
            (
                "dropped",
                format!(
                    "{} tokens at the ends of batches",
                    count(counts.n_dropped_tokens)
                ),
            ),
            (
                "sequences",
                format!(
                    "{} of {} tokens",
                    count(self.tokens.n_sequences() as u64),
                    self.tokens.ctx_len()
                ),
            ),
            (
                "training",
                format!("{} sequences{training}", count(self.order.len() as u64)),
            ),
            ("digest", self.tokens.digest()),
            ("begins", format!("{:?}", self.shown())),
        ];
        let is_worth_it = |key: &str| key != "bad rows" || counts.n_skipped > 0;
        let lines = lines.into_iter().filter(|(key, _)| is_worth_it(key));
        lines
            .map(|(key, value)| format!("{key:<10} {value}\n"))
            .collect()
    }

    fn shown(&self) -> String {
        let first = self.first.as_deref().unwrap_or_default();
        first.chars().take(SHOWN_CHARS).collect()
    }
}

fn first_sequence(spec: &TokenSpec, tokens: &Tokens) -> Result<String, TokensError> {
    let ids = tokens.sequence(0);
    let ids: Vec<u32> = ids
        .into_iter()
        .filter_map(|id| id.try_into().ok())
        .collect();
    Tokenizer::of_class(&spec.tokenizer_dir, spec.rows.tokenizer_class)?.decode(&ids)
}

/// Writes the sequences in training order.
fn write_out(out: &Path, tokens: &Tokens, order: &[u64]) -> Result<(), CliError> {
    let write = || {
        let mut file = BufWriter::with_capacity(1 << 20, OutputFile::create(out)?);
        for sequence_idx in order {
            file.write_all(tokens.sequence_bytes(*sequence_idx as usize))?;
        }
        file.into_inner()?.finish()
    };
    let written: io::Result<()> = write();
    written.map_err(|error| CliError::io("write", out, &error))?;
    if tokens.id_bytes() == 4 {
        table::note(&format!(
            "the vocabulary needs uint32: give sparsify's MemmapDataset `dtype=np.uint32` for `{}`",
            out.display()
        ));
    }
    Ok(())
}
