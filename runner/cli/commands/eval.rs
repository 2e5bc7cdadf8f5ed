//! `sae-run eval`: SAEs on held-out sequences.

use crate::commands::data::tokenise;
use crate::commands::matching::matching;
use crate::error::CliError;
use crate::run::past_job;
use crate::run::runs_folder::RunsFolder;
use crate::run::worker_program;
use crate::show::doubts::{Measured, note_doubts};
use crate::show::{json, progress, table};
use crate::sweep::config;
use crate::sweep::models::{ModelDirs, ModelName};
use crate::sweep::named_data::{Named, NamedInputs, cached, model_use};
use crate::sweep::paths::Folders;
use args::{EvalArgs, Most};
use files::{Claim, DigestCache};
use plan::runs_layout::{self, DATABASE};
use plan::{
    EvalSae, EvaluateTask, Evaluated, FoundSae, Order, Task, TrainConfig, apply_overrides,
    eval_batch_size, most_eval_sequences,
};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use store::{CheckpointRow, EvaluationRow, JobDetails, Store, StoreError};
use tokens::{BatchSpec, Shard, TokenSpec, Tokens, n_selected};

/// Most sequences in a forward pass, if no number is given.
const BATCH_SIZE: usize = 32;
/// The fraction of a separate data set that is evaluated on.
const ALL: f64 = 1.0;
/// Sequences of it at most, if no number is given.
const MOST_SEQUENCES: u64 = 1000;

/// Evaluates the SAEs of a job or a folder.
///
/// # Errors
/// No such job or SAE, no data to evaluate on, or a model that the SAEs do not fit.
pub(crate) async fn eval(args: &EvalArgs) -> Result<u8, CliError> {
    if Path::new(&args.target).is_dir() {
        return print(args, &of_folder(args)?);
    }
    let job = Job::open(args).await?;
    let evaluated = if args.dataset.is_some() {
        on_named_data(args, &job.with(args)?, job.saes(args)?)?
    } else {
        job.on_its_own_data(args)?
    };
    if args.dataset.is_some() {
        table::note("not recorded: these are not the job's own held-out sequences");
    } else {
        job.record(&evaluated).await?;
    }
    print(args, &evaluated)
}

/// Evaluates the SAEs of a folder.
fn of_folder(args: &EvalArgs) -> Result<Vec<Evaluated>, CliError> {
    let saes = sae_files::find_saes(Path::new(&args.target))?;
    let saes = matching(saes, &args.target, &args::patterns(&args.hookpoints))?;
    let missing = |option: &str| {
        let message = format!("`{}` is a folder, and `{option}` is missing", args.target);
        CliError::input(message).with_hint(
            "name the model that its SAEs were trained on, and data to evaluate them on".to_owned(),
        )
    };
    if args.dataset.is_none() {
        return Err(missing("--dataset"));
    }
    let model = args.model.as_deref().ok_or_else(|| missing("--model"))?;
    let model = ModelName::typed(model, args.revision.as_deref());
    let settings = settings(args, model, None);
    let config = apply_overrides(&TrainConfig::default(), &settings)?;
    on_named_data(args, &config, saes)
}

/// A job of the database. No other process trains it meanwhile.
struct Job {
    folder: RunsFolder,
    store: Store,
    details: JobDetails,
    config: TrainConfig,
    checkpoint: CheckpointRow,
    _lock: Claim,
}

impl Job {
    async fn open(args: &EvalArgs) -> Result<Self, CliError> {
        let runs_dir = config::runs_dir(&args.store)?;
        let path = runs_dir.join(DATABASE);
        if !path.is_file() {
            let error = CliError::from(StoreError::NoDatabase { path });
            let target = &args.target;
            let hint = format!("`{target}` is not a folder either; run a sweep first");
            return Err(error.with_hint(hint));
        }
        let folder = RunsFolder::open(&runs_dir.to_string_lossy())?;
        let store = folder.open_store().await?;
        let details = store.job(&args.target).await;
        let details = details.map_err(|error| past_job::or_folder(error, &args.target))?;
        let job_id = &details.job_id;
        let lock = folder.claim(job_id)?.ok_or_else(|| {
            let message = format!("{} trains job `{job_id}` now", folder.holder(job_id));
            CliError::environment(message).with_hint("wait for it to end".to_owned())
        })?;
        let config = past_job::config(&details)?;
        let checkpoint = past_job::newest_checkpoint(&details)?.clone();
        Ok(Self {
            folder,
            store,
            details,
            config,
            checkpoint,
            _lock: lock,
        })
    }

    /// Its settings, overridden by what was named. Its own model is where its worker found it.
    fn with(&self, args: &EvalArgs) -> Result<TrainConfig, CliError> {
        let (model, second) = match &args.model {
            Some(model) => (ModelName::typed(model, args.revision.as_deref()), None),
            None => ModelName::of_order(&self.order()?),
        };
        Ok(apply_overrides(
            &self.config,
            &settings(args, model, second),
        )?)
    }

    /// Its SAEs at the newest checkpoint, or those that were asked for.
    fn saes(&self, args: &EvalArgs) -> Result<Vec<FoundSae>, CliError> {
        let saes = past_job::saes_at(&self.details, &self.checkpoint, self.folder.path());
        matching(saes, &args.target, &args::patterns(&args.hookpoints))
    }

    /// The same, with files for the densities.
    fn saes_with_density(&self, args: &EvalArgs) -> Result<Vec<EvalSae>, CliError> {
        let with_density = |sae: FoundSae| EvalSae {
            density: Some(self.folder.path().join(self.density(&sae.name))),
            ..eval_sae(sae, &self.config)
        };
        let saes = self.saes(args)?.into_iter();
        Ok(saes.map(with_density).collect())
    }

    fn density(&self, sae: &str) -> PathBuf {
        runs_layout::density_path(&self.details.dir, sae)
    }

    /// Evaluates it as its worker would, on what is in its order.
    fn on_its_own_data(&self, args: &EvalArgs) -> Result<Vec<Evaluated>, CliError> {
        if !self.config.has_eval_data() {
            let message = format!("job `{}` has no held-out data", self.details.job_id);
            return Err(CliError::input(message).with_hint(
                "set `eval_fraction`, `eval_dataset` or `eval_split` in its sweep, or name data \
                 with `--dataset`"
                    .to_owned(),
            ));
        }
        let folders = Folders::of_this_machine()?;
        let order = self.order()?;
        let digests = DigestCache::new(&folders.cache);
        let (dir, commit) = (&order.model_dir, order.model_commit.as_deref());
        let model = facts::read_model(dir, commit, &digests)?;
        let mut vocab_size = model.facts.vocab_size;
        check("model", dir, &model.digest, &order.key.model_digest)?;
        let second = order.second_model.as_ref();
        if let Some((own, expected)) = second.zip(order.key.second_model_digest.as_ref()) {
            let model = facts::read_model(&own.dir, own.commit.as_deref(), &digests)?;
            vocab_size = vocab_size.min(model.facts.vocab_size);
            check("model", &own.dir, &model.digest, expected)?;
        }
        let models = ModelDirs {
            first: dir.clone(),
            second: second.map(|own| own.dir.clone()),
        };
        let tokens = held_out_tokens(&order, vocab_size, &folders.cache)?;
        let task = EvaluateTask {
            model: model_use(models, &args.device, &self.config),
            eval_fraction: match order.eval_dataset {
                Some(_) => ALL,
                None => order.key.eval_fraction,
            },
            most: Some(most_sequences(&order, &tokens, &folders.cache)),
            batch_size: batch_size(args, self.config.batch_size, &tokens, vocab_size),
            tokens: cached(&tokens)?,
            saes: self.saes_with_density(args)?,
        };
        run(task, args.quiet)
    }

    /// The last order of its worker.
    fn order(&self) -> Result<Order, CliError> {
        past_job::last_order(self.folder.path(), &self.details).map_err(|error| {
            let hint = "run its sweep again, or name model and data with `--model` and `--dataset`";
            error.with_hint(hint.to_owned())
        })
    }

    async fn record(&self, evaluated: &[Evaluated]) -> Result<(), CliError> {
        let rows = evaluated.iter().map(|evaluated| EvaluationRow {
            sae: evaluated.name.clone(),
            stats: evaluated.stats,
            density: self.density(&evaluated.name).to_string_lossy().into_owned(),
        });
        let (job_id, step) = (&self.details.job_id, self.checkpoint.step);
        let rows: Vec<_> = rows.collect();
        Ok(self.store.record_evaluations(job_id, step, &rows).await?)
    }
}

/// The token data that the job's held-out sequences are of.
fn held_out_tokens(order: &Order, vocab_size: usize, cache_dir: &Path) -> Result<Tokens, CliError> {
    let key = &order.key;
    let (files, digest) = match (&order.eval_dataset, &key.eval_token_digest) {
        (Some(files), Some(digest)) => (files, digest),
        _ => (&order.dataset, &key.token_digest),
    };
    let spec = TokenSpec {
        files: files.clone(),
        rows: order.rows.clone(),
        tokenizer_dir: order.model_dir.clone(),
        vocab_size,
    };
    let tokens = tokenise(&spec, cache_dir, true)?;
    let name = PathBuf::from(&files.name);
    check("data set", &name, &tokens.digest(), digest)?;
    Ok(tokens)
}

/// The number of these sequences that its worker took at most. `tokens`: those that the held-out sequences are of.
fn most_sequences(order: &Order, tokens: &Tokens, cache_dir: &Path) -> u64 {
    let key = &order.key;
    let training = match order.eval_dataset {
        None => Some(tokens.clone()),
        Some(_) => Tokens::find(cache_dir, &key.token_digest).ok(),
    };
    let batches = BatchSpec::of_stream(key, Shard::WHOLE);
    let n_training = match training {
        Some(training) => n_selected(training.n_sequences() as u64, &batches),
        // No longer in the cache.
        None => key.max_examples.unwrap_or(u64::MAX),
    };
    most_eval_sequences(key.eval_max_examples, n_training)
}

/// Checks that an input is still what the job was planned with.
fn check(what: &'static str, path: &Path, got: &str, expected: &str) -> Result<(), CliError> {
    if got == expected {
        Ok(())
    } else {
        Err(plan::changed(what, path).into())
    }
}

/// An SAE that is evaluated without the tokens that `config` excludes.
fn eval_sae(sae: FoundSae, config: &TrainConfig) -> EvalSae {
    EvalSae {
        name: sae.name,
        hookpoint: sae.hookpoint,
        dir: sae.dir,
        exclude_tokens: config.exclude_tokens.clone(),
        density: None,
    }
}

/// What was named, under the names of settings. `second` is the second model if none was named.
fn settings(args: &EvalArgs, model: ModelName, second: Option<ModelName>) -> Map<String, Value> {
    let (name, revision) = (&args.crosscoder_model, &args.crosscoder_revision);
    let typed = ModelName::if_typed(name.as_deref(), revision.as_deref());
    let named = Named {
        model,
        second: typed.or(second),
        dtype: args.dtype.as_deref(),
        load_in_8bit: args.load_in_8bit,
        dataset: args.dataset.as_deref(),
        data: &args.data,
        tokenizer_class: args.tokenizer_class.as_deref(),
        ctx_len: args.ctx_len,
    };
    let mut settings = named.settings();
    if let Some(exclude_tokens) = &args.exclude_tokens {
        settings.insert("exclude_tokens".into(), json!(exclude_tokens));
    }
    settings
}

/// Evaluates SAEs on the model and the data that `config` names, with its excluded tokens.
fn on_named_data(
    args: &EvalArgs,
    config: &TrainConfig,
    saes: Vec<FoundSae>,
) -> Result<Vec<Evaluated>, CliError> {
    let inputs = NamedInputs::fetch(config, args.json || args.quiet)?;
    let saes = saes.into_iter().map(|sae| eval_sae(sae, config));
    let task = EvaluateTask {
        model: model_use(inputs.models, &args.device, config),
        eval_fraction: ALL,
        most: most_of_named(args, config, &inputs.tokens),
        batch_size: batch_size(args, BATCH_SIZE, &inputs.tokens, inputs.vocab_size),
        tokens: cached(&inputs.tokens)?,
        saes: saes.collect(),
    };
    run(task, args.quiet)
}

/// How many sequences of named data are evaluated on at most. Says so, if the user has not and there are more.
fn most_of_named(args: &EvalArgs, config: &TrainConfig, tokens: &Tokens) -> Option<u64> {
    match args.max_examples {
        Some(Most::All) => None,
        Some(Most::Of(most)) => Some(most),
        None => {
            let most = config.eval_max_examples.unwrap_or(MOST_SEQUENCES);
            let n_sequences = tokens.n_sequences() as u64;
            if n_sequences > most {
                table::note(&format!(
                    "the evaluation takes {most} of {n_sequences} sequences; `--max-examples all` takes all"
                ));
            }
            Some(most)
        }
    }
}

fn batch_size(args: &EvalArgs, most: usize, tokens: &Tokens, vocab_size: usize) -> usize {
    let by_memory = || eval_batch_size(most, tokens.ctx_len(), vocab_size);
    args.batch_size.map_or_else(by_memory, |n| n as usize)
}

fn run(task: EvaluateTask, quiet: bool) -> Result<Vec<Evaluated>, CliError> {
    let template = "evaluating {bar:30} {pos}/{len} sequences, {eta} left";
    let bar = progress::bar(template, quiet);
    let evaluated = worker_program::run(&Task::Evaluate(task), &mut |n_done, n_sequences| {
        bar.set_length(n_sequences.unwrap_or(n_done));
        bar.set_position(n_done);
    })?;
    bar.finish_and_clear();
    Ok(evaluated)
}

fn print(args: &EvalArgs, evaluated: &[Evaluated]) -> Result<u8, CliError> {
    let code = if args.json {
        let rows: Vec<_> = evaluated.iter().map(object).collect();
        json::print(&json!({"saes": rows}))?
    } else {
        table::print(&table::evaluations(evaluated))?
    };
    let measured: Vec<_> = evaluated.iter().map(Measured::of_evaluated).collect();
    note_doubts(&measured);
    Ok(code)
}

fn object(evaluated: &Evaluated) -> Value {
    let stats = &evaluated.stats;
    json!({
        "sae": evaluated.name,
        "hookpoint": evaluated.hookpoint,
        "num_latents": evaluated.num_latents,
        "n_tokens": stats.n_tokens,
        "n_predicted": stats.n_predicted,
        "fvu": stats.fvu(),
        "l0": stats.mean_l0(),
        "dead_pct": stats.dead_pct(evaluated.num_latents),
        "ce_clean": stats.mean_ce_clean(),
        "ce_spliced": stats.mean_ce_spliced(),
        "ce_ablated": stats.mean_ce_ablated(),
        "ce_recovered": stats.ce_recovered(),
        "kl": stats.mean_kl(),
    })
}
