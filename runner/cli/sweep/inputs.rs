//! Models and data of a sweep: found, looked at, digested and fetched.

use crate::error::CliError;
use crate::show::table;
use crate::sweep::datasets::{FoundDataset, find_dataset};
use crate::sweep::models::{FoundModel, fetch_weights, find_model};
use crate::sweep::paths::{self, Folders};
use facts::FactsError;
use files::DigestCache;
use plan::RowSpec;
use plan::{DataName, Job, JobInputs, ModelFacts, Plan, Stream, StreamKey};
use plan::{TokenizerClass, TrainConfig};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokens::{BatchSpec, Shard, TokenSpec, TokenizerDifference, check_batch};

/// Models and data sets by the names that the sweep has for them, each looked at once.
#[derive(Debug)]
pub(crate) struct Inputs {
    models: BTreeMap<ModelName, Model>,
    datasets: HashMap<DataName, FoundDataset>,
    /// By model, data and how rows are read, as JSON: sweeps have many jobs on few data.
    token_digests: HashMap<(ModelName, DataName, String), String>,
    /// By the digest of tokens: how many sequences were looked for, and how many there are in all if
    /// that is known.
    n_sequences: HashMap<String, (u64, Option<u64>)>,
    /// Models and data whose tokenizers were compared.
    compared: BTreeSet<(ModelName, String)>,
    cache: PathBuf,
    digests: DigestCache,
    sweep_dir: PathBuf,
    model_shelf: PathBuf,
}

/// How a job names its model: `model` and `revision`.
type ModelName = (String, Option<String>);

/// A model: its folder, and what planning knows about it.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) found: FoundModel,
    pub(super) facts: Arc<ModelFacts>,
    /// The Hub's commit, or the digest of its files; `None` until it is asked for.
    digest: Option<String>,
}

impl Inputs {
    /// Names are looked for next to a sweep in `sweep_dir`.
    pub(crate) fn new(sweep_dir: &Path, folders: &Folders) -> Self {
        Self {
            models: BTreeMap::new(),
            datasets: HashMap::new(),
            token_digests: HashMap::new(),
            n_sequences: HashMap::new(),
            compared: BTreeSet::new(),
            cache: folders.cache.clone(),
            digests: DigestCache::new(&folders.cache),
            sweep_dir: sweep_dir.into(),
            model_shelf: folders.models(),
        }
    }

    /// The folder of a job's model, and its commit if it is one of the Hub.
    pub(crate) fn model_dir(&self, job: &Job) -> (&PathBuf, Option<&str>) {
        let found = &self.model_of(job).found;
        (&found.dir, found.commit())
    }

    /// What the tokens of `data` are made from for a job with the settings `config`.
    pub(crate) fn tokens(&self, config: &TrainConfig, data: &DataName) -> TokenSpec {
        let model = &self.models[&name_of(config)];
        let vocab_size = model.facts.vocab_size;
        TokenSpec {
            files: self.datasets[data].files.clone(),
            rows: RowSpec::of(config, vocab_size),
            tokenizer_dir: model.found.dir.clone(),
            vocab_size,
        }
    }

    /// Brings what those streams of `plan` need of the Hub which `is_wanted` picks: the weights of
    /// models, which are checked, and the files of data sets.
    ///
    /// # Errors
    /// Files that cannot be had, or weights that do not fit their config.json.
    pub(crate) fn fetch(
        &self,
        plan: &Plan,
        quiet: bool,
        is_wanted: impl Fn(&Stream) -> bool,
    ) -> Result<(), CliError> {
        let mut noted = BTreeSet::new();
        for stream in plan.streams.iter().filter(|stream| is_wanted(stream)) {
            let job = first_job(plan, stream);
            let was_here = self.is_here(&job.config.train_data());
            self.fetch_data(&job.config, quiet)?;
            if !was_here {
                self.say_where_tokens_differ(&job.config);
            }
            let model = self.model_of(job);
            if model.found.commit().is_none() {
                continue;
            }
            fetch_weights(&model.found, quiet)?;
            let left_over = self.check_model(plan, stream)?;
            if noted.insert(name_of(&job.config)) {
                note_left_over(job, self, &left_over);
            }
        }
        Ok(())
    }

    /// What a stream needs of its model: the whole model if a job is evaluated.
    pub(super) fn check_model(
        &self,
        plan: &Plan,
        stream: &Stream,
    ) -> Result<Vec<String>, CliError> {
        let model = self.model_of(first_job(plan, stream));
        let dir = &model.found.dir;
        let left_over = facts::check_model(dir, stream.n_layers_run)?;
        let jobs = plan.jobs_of(stream);
        if let Some(job) = jobs.iter().find(|job| job.config.loss_fn.is_end_to_end()) {
            facts::check_head(dir).map_err(|error| without_head(error, job))?;
        }
        if !jobs.iter().any(|job| job.config.wants_evaluation()) {
            return Ok(left_over);
        }
        facts::check_whole_model(dir, model.facts.n_layers).map_err(|error| {
            let hint = "evaluation takes the whole model with its head; `evaluate = false` does \
                        without";
            CliError::from(error).with_hint(hint.to_owned())
        })
    }

    /// What planning knows about the model of `config`.
    ///
    /// # Errors
    /// A model that is not there.
    pub(crate) fn facts(&mut self, config: &TrainConfig) -> Result<&ModelFacts, CliError> {
        Ok(&*self.model(config)?.facts)
    }

    pub(super) fn model_of(&self, job: &Job) -> &Model {
        &self.models[&name_of(&job.config)]
    }

    /// What planning needs to know about a job's model and data; `n_ranks` processes train together.
    ///
    /// # Errors
    /// A model or a data set that is not there or cannot be used.
    pub(crate) fn of(
        &mut self,
        config: &TrainConfig,
        n_ranks: usize,
    ) -> Result<JobInputs, CliError> {
        let model_digest = self.model_digest(config)?;
        let token_digest = self.of_data(config)?;
        let eval_data = config.eval_data();
        let eval_token_digest = eval_data.map(|data| {
            let digest = self.token_digest(config, &data);
            digest.map_err(|error| error.about("eval_dataset".to_owned()))
        });
        let finetune_digest = self.finetune_dir(config)?;
        let finetune_digest =
            finetune_digest.map(|dir| sae_files::digest_saes(&dir, &self.digests));
        let model = &self.models[&name_of(config)];
        Ok(JobInputs {
            facts: model.facts.clone(),
            model_digest,
            token_digest,
            eval_token_digest: eval_token_digest.transpose()?,
            finetune_digest: finetune_digest.transpose()?,
            n_ranks,
        })
    }

    /// The digest of a job's tokens, which depend on no weights.
    ///
    /// # Errors
    /// As [`Inputs::of`].
    pub(crate) fn of_data(&mut self, config: &TrainConfig) -> Result<String, CliError> {
        self.model(config)?;
        self.token_digest(config, &config.train_data())
    }

    /// The folder of SAEs that a job begins with.
    ///
    /// # Errors
    /// No such folder.
    pub(crate) fn finetune_dir(&self, config: &TrainConfig) -> Result<Option<PathBuf>, CliError> {
        let name = config.finetune.as_ref();
        let dir = name.map(|name| paths::find("finetune", name, &self.sweep_dir, None));
        let dir = dir.transpose();
        dir.map_err(|missing| missing.about("finetune".to_owned()))
    }

    fn token_digest(&mut self, config: &TrainConfig, data: &DataName) -> Result<String, CliError> {
        if !self.datasets.contains_key(data) {
            let found = find_dataset(data, &self.sweep_dir)?;
            self.datasets.insert(data.clone(), found);
        }
        let spec = self.tokens(config, data);
        let rows = serde_json::to_string(&spec.rows).expect("plain fields serialise");
        let key = (name_of(config), data.clone(), rows);
        if let Some(digest) = self.token_digests.get(&key) {
            return Ok(digest.clone());
        }
        let digest = spec.digest(&self.digests).map_err(|error| {
            let key = error.is_about_tokenizer_class();
            let key = key.then(|| "tokenizer_class".to_owned());
            CliError::from(error).about(key)
        })?;
        self.token_digests.insert(key, digest.clone());
        Ok(digest)
    }

    /// Checks that the first document of a job's data has text, and that a batch is filled, as far as that
    /// is known without downloading or tokenising anything.
    pub(super) fn look_at_data(&mut self, job: &Job, shard: Shard) -> Result<(), CliError> {
        let config = &job.config;
        let batches = BatchSpec::of_stream(&StreamKey::of(job), shard);
        let n_training = 1.0 - config.eval_fraction.clamp(0.0, 0.99);
        let n_wanted = (batches.batch_size as f64 / n_training) as u64 + 2;
        let n_sequences = self.n_sequences(config, n_wanted)?;
        self.compare_tokenizers(config);
        match n_sequences {
            Some(n_sequences) => check_batch(n_sequences, &batches)
                .map_err(|error| CliError::from(error).about("batch_size".to_owned())),
            None => Ok(config.validate_batch()?),
        }
    }

    /// Compares tokenizers once for a model and its data. What is on the Hub is looked at when it is here.
    fn compare_tokenizers(&mut self, config: &TrainConfig) {
        let names = (name_of(config), config.dataset.clone());
        if self.compared.insert(names) && self.is_here(&config.train_data()) {
            self.say_where_tokens_differ(config);
        }
    }

    fn is_here(&self, data: &DataName) -> bool {
        let files = &self.datasets[data].files.files;
        files.iter().all(|file| file.path.exists())
    }

    /// Says that transformers would make other tokens of a job's data.
    fn say_where_tokens_differ(&self, config: &TrainConfig) {
        let spec = self.tokens(config, &config.train_data());
        if let Some(difference) = spec.tokenizer_difference(&self.digests) {
            note_tokenizers(config, &difference);
        }
    }

    /// The number of sequences of a job's data, if it is known or there are fewer than `n_wanted`.
    fn n_sequences(
        &mut self,
        config: &TrainConfig,
        n_wanted: u64,
    ) -> Result<Option<u64>, CliError> {
        let data = config.train_data();
        let digest = self.token_digest(config, &data)?;
        if let Some((n_looked_for, found)) = self.n_sequences.get(&digest)
            && (found.is_some() || *n_looked_for >= n_wanted)
        {
            return Ok(*found);
        }
        let found = self
            .tokens(config, &data)
            .first_look(&self.cache, &digest, n_wanted);
        let found = found.map_err(|error| {
            let key = if error.is_about_column() {
                "text_column"
            } else {
                "dataset"
            };
            CliError::from(error).about(key.to_owned())
        })?;
        self.n_sequences.insert(digest, (n_wanted, found));
        Ok(found)
    }

    /// Downloads the files of a job's data, as far as they are not in the cache.
    ///
    /// # Errors
    /// A download that fails.
    pub(crate) fn fetch_data(&self, config: &TrainConfig, quiet: bool) -> Result<(), CliError> {
        let data = [Some(config.train_data()), config.eval_data()];
        let mut data = data.into_iter().flatten();
        data.try_for_each(|data| self.datasets[&data].fetch(quiet))
    }

    /// The folder of a job's model, whose weights are downloaded as far as they are not in the cache.
    ///
    /// # Errors
    /// A download that fails.
    pub(crate) fn fetch_model(
        &self,
        config: &TrainConfig,
        quiet: bool,
    ) -> Result<PathBuf, CliError> {
        let found = &self.models[&name_of(config)].found;
        fetch_weights(found, quiet)?;
        Ok(found.dir.clone())
    }

    fn model_digest(&mut self, config: &TrainConfig) -> Result<String, CliError> {
        self.model(config)?;
        let model = self.models.get_mut(&name_of(config));
        let Model { found, digest, .. } = model.expect("it was just read");
        if let Some(digest) = digest {
            return Ok(digest.clone());
        }
        let read = facts::digest_model(&found.dir, found.commit(), &self.digests)?;
        Ok(digest.insert(read).clone())
    }

    fn model(&mut self, config: &TrainConfig) -> Result<&Model, CliError> {
        if config.model.is_empty() {
            return Err(CliError::input("`train.model` is missing")
                .with_hint("name the folder or the Hub id of a Hugging Face model".to_owned()));
        }
        let name = name_of(config);
        if !self.models.contains_key(&name) {
            let found = find_model(
                &name.0,
                name.1.as_deref(),
                &self.sweep_dir,
                &self.model_shelf,
            )?;
            let config = facts::read_config(&found.dir)?;
            let facts = Arc::new(config.facts());
            note_unknown_keys(&name.0, &facts, config.unknown_keys());
            let model = Model {
                found,
                facts,
                digest: None,
            };
            self.models.insert(name.clone(), model);
        }
        Ok(&self.models[&name])
    }
}

pub(super) fn name_of(config: &TrainConfig) -> ModelName {
    (config.model.clone(), config.revision.clone())
}

pub(super) fn first_job<'a>(plan: &'a Plan, stream: &Stream) -> &'a Job {
    plan.job(&stream.job_ids[0])
        .expect("a stream is made of the plan's jobs")
}

/// Says which tensors of a model are not read.
pub(super) fn note_left_over(job: &Job, inputs: &Inputs, tensors: &[String]) {
    if tensors.is_empty() {
        return;
    }
    let count = table::count(tensors.len(), "tensor");
    let (model, facts) = (&job.config.model, &inputs.model_of(job).facts);
    table::note(&format!(
        "`{model}` has {count} that a {} model does not use: {}",
        facts.model_type,
        first_of(tensors)
    ));
}

/// The first few of `names`.
fn first_of(names: &[String]) -> String {
    let first = names.iter().take(5).map(|name| format!("`{name}`"));
    let more = if names.len() > 5 { ", ..." } else { "" };
    first.collect::<Vec<_>>().join(", ") + more
}

/// Says which keys of a model's config.json are not known.
fn note_unknown_keys(model: &str, facts: &ModelFacts, keys: &[String]) {
    if keys.is_empty() {
        return;
    }
    let count = table::count(keys.len(), "key");
    table::note(&format!(
        "config.json of `{model}` has {count} that {} not known for a {} model: {}",
        if keys.len() == 1 { "is" } else { "are" },
        facts.model_type,
        first_of(keys)
    ));
}

/// The error of a loss on the model's output, for a model without a head.
fn without_head(error: FactsError, job: &Job) -> CliError {
    let hint = format!(
        "the loss of job `{}` is taken on the model's output, which needs its head: save the model again \
         with `AutoModelForCausalLM`, or set `loss_fn = \"fvu\"`",
        job.name
    );
    CliError::from(error).with_hint(hint)
}

/// Says that transformers would make other tokens, and what to set.
fn note_tokenizers(config: &TrainConfig, difference: &TokenizerDifference) {
    let TokenizerDifference {
        class,
        n_documents,
        n_different,
    } = difference;
    let n_documents = table::count(*n_documents, "document");
    let hint = match config.tokenizer_class {
        TokenizerClass::File => {
            "`tokenizer_class = \"transformers\"` takes the tokens of the latter"
        }
        TokenizerClass::Transformers => {
            "those of the latter are taken; `tokenizer_class = \"file\"` takes tokenizer.json as it is"
        }
    };
    table::note_with_hint(
        &format!(
            "tokenizer.json of `{}` and transformers' `{class}` give different tokens in {n_different} of the \
             first {n_documents} of `{}`",
            config.model, config.dataset
        ),
        hint,
    );
}
