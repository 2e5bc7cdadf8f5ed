//! Models and data of a sweep: found, looked at, digested and fetched.

use crate::error::CliError;
use crate::show::table;
use crate::sweep::data_length::Length;
use crate::sweep::datasets::{FoundDataset, find_dataset};
use crate::sweep::hub_access::{Asked, for_shapes};
use crate::sweep::lacking::Lacking;
use crate::sweep::models::{
    FoundModel, MODEL_KEYS, ModelDirs, ModelKeys, ModelName, SECOND_MODEL_KEYS, Search,
    fetch_weights, find_model,
};
use crate::sweep::paths::{self, Folders, Near};
use crate::sweep::used_model::UsedModel;
use facts::ModelConfig;
use files::DigestCache;
use plan::RowSpec;
use plan::{DataName, Job, JobInputs, ModelFacts, ModelFolder, Models, Plan, SecondModel, Stream};
use plan::{StreamKey, TokenizerClass, TrainConfig};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use tokens::{BatchSpec, Sample, Shard, TokenSpec, TokenizerDifference, Tokens, check_batch};

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
    /// Models with the same tokenizer, made by this class.
    same_tokenizers: HashSet<([ModelName; 2], String)>,
    cache: PathBuf,
    digests: DigestCache,
    near: Near,
    model_shelf: PathBuf,
    /// `None`: everything has to be available.
    lacking: Option<Lacking>,
}

/// A model: its folder, and what planning knows about it.
#[derive(Debug)]
struct Model {
    found: FoundModel,
    facts: Arc<ModelFacts>,
    /// The Hub's commit, or the digest of its files; `None` until it is asked for.
    digest: Option<String>,
}

impl Inputs {
    /// Names are looked for in the folders `near`.
    pub(crate) fn new(near: &Near, folders: &Folders) -> Self {
        Self {
            models: BTreeMap::new(),
            datasets: HashMap::new(),
            token_digests: HashMap::new(),
            n_sequences: HashMap::new(),
            compared: BTreeSet::new(),
            same_tokenizers: HashSet::new(),
            cache: folders.cache.clone(),
            digests: DigestCache::new(&folders.cache),
            near: near.clone(),
            model_shelf: folders.models(),
            lacking: None,
        }
    }

    /// The same for a plan, which does without missing files if it knows a model's shapes.
    pub(crate) fn for_plan(near: &Near, folders: &Folders) -> Self {
        Self {
            lacking: Some(Lacking::default()),
            ..Self::new(near, folders)
        }
    }

    /// What was not available, a line for each thing. Job ids hash placeholders if there is one.
    pub(crate) fn lacking(&self) -> &[String] {
        self.lacking.as_ref().map_or(&[], Lacking::lines)
    }

    fn asked(&self) -> Asked {
        match self.lacking {
            Some(_) => Asked::Briefly,
            None => Asked::Patiently,
        }
    }

    /// The folder of a job's model, and its commit if it is one of the Hub.
    pub(crate) fn model_dir(&self, job: &Job) -> (&PathBuf, Option<&str>) {
        let found = &self.model_of(job).found;
        (&found.dir, found.commit())
    }

    /// Where its second model is.
    pub(crate) fn second_model(&self, job: &Job) -> Option<ModelFolder> {
        let name = ModelName::of_second(&job.config)?;
        let found = &self.model_called(&name).found;
        Some(ModelFolder {
            dir: found.dir.clone(),
            commit: found.commit().map(str::to_owned),
        })
    }

    /// What the tokens of `data` are made from for a job with the settings `config`.
    pub(crate) fn tokens(&self, config: &TrainConfig, data: &DataName) -> TokenSpec {
        let model = self.model_called(&ModelName::of(config));
        let second = ModelName::of_second(config).map(|name| self.model_called(&name));
        let vocab_size = model.facts.vocab_size;
        let of_second = second.map(|second| second.facts.vocab_size);
        TokenSpec {
            files: self.datasets[data].files.clone(),
            rows: RowSpec::of(config, vocab_size),
            tokenizer_dir: model.found.dir.clone(),
            vocab_size: of_second.map_or(vocab_size, |of_second| vocab_size.min(of_second)),
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
            for used in self.used_models(plan, stream) {
                if used.found.commit().is_none() {
                    continue;
                }
                fetch_weights(used.found, quiet)?;
                let left_over = used.check(&plan.jobs_of(stream))?;
                if noted.insert(used.name.clone()) {
                    used.note_left_over(&left_over);
                }
            }
        }
        Ok(())
    }

    /// What planning knows about the model of `config`.
    ///
    /// # Errors
    /// A model that is not there.
    pub(crate) fn facts(&mut self, config: &TrainConfig) -> Result<&ModelFacts, CliError> {
        Ok(&*self.model(config)?.facts)
    }

    fn model_of(&self, job: &Job) -> &Model {
        self.model_called(&ModelName::of(&job.config))
    }

    /// A model that was looked at.
    fn model_called(&self, name: &ModelName) -> &Model {
        &self.models[name]
    }

    /// Whether the headers of a model's weights can be looked at.
    pub(super) fn has_weights_here(&self, used: &UsedModel<'_>) -> bool {
        let is_lacking = |lacking: &Lacking| lacking.has_no_weights(&used.name);
        used.found.commit().is_none() && !self.lacking.as_ref().is_some_and(is_lacking)
    }

    /// The models of a stream: one, or two for crosscoders on two.
    pub(super) fn used_models(&self, plan: &Plan, stream: &Stream) -> Vec<UsedModel<'_>> {
        let config = &first_job(plan, stream).config;
        let second = ModelName::of_second(config).zip(stream.second_n_layers_run);
        let names = [Some((ModelName::of(config), stream.n_layers_run)), second];
        let of_name = |(name, n_layers)| {
            let Model { found, facts, .. } = self.model_called(&name);
            UsedModel {
                name,
                found,
                facts,
                n_layers,
            }
        };
        names.into_iter().flatten().map(of_name).collect()
    }

    /// What planning knows about a job's models.
    pub(super) fn models_of(&self, job: &Job) -> Models<'_> {
        let second = ModelName::of_second(&job.config);
        Models {
            first: &self.model_of(job).facts,
            second: second.map(|name| &*self.model_called(&name).facts),
        }
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
        self.model(config)?;
        let model_digest = self.model_digest(&ModelName::of(config))?;
        let second = self.look_at_second(config)?;
        let token_digest = self.of_data(config)?;
        let eval_data = config.eval_data();
        let eval_token_digest = eval_data.map(|data| {
            let digest = self.token_digest(config, &data);
            digest.map_err(|error| error.about("eval_dataset".to_owned()))
        });
        let finetune_digest = self.finetune_dir(config)?;
        let finetune_digest =
            finetune_digest.map(|dir| sae_files::digest_saes(&dir, &self.digests));
        Ok(JobInputs {
            facts: self.model_called(&ModelName::of(config)).facts.clone(),
            model_digest,
            second,
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
        let dir = name.map(|name| paths::find("finetune", name, &self.near, None));
        let dir = dir.transpose();
        dir.map_err(|missing| missing.about("finetune".to_owned()))
    }

    fn token_digest(&mut self, config: &TrainConfig, data: &DataName) -> Result<String, CliError> {
        if !self.datasets.contains_key(data) {
            let found = find_dataset(data, &self.near, self.asked());
            match (found, &mut self.lacking) {
                (Err(error), Some(lacking)) => return Ok(lacking.data_set(data, &error)),
                (found, _) => self.datasets.insert(data.clone(), found?),
            };
        }
        let spec = self.tokens(config, data);
        let rows = serde_json::to_string(&spec.rows).expect("plain fields serialise");
        let rows = format!("{rows} {}", spec.vocab_size);
        let key = (ModelName::of(config), data.clone(), rows);
        if let Some(digest) = self.token_digests.get(&key) {
            return Ok(digest.clone());
        }
        let digest = spec.digest(&self.digests).map_err(|error| {
            let key = error.is_about_tokenizer_class();
            let key = key.then(|| "tokenizer_class".to_owned());
            CliError::from(error).about(key)
        });
        let digest = match (digest, &mut self.lacking) {
            (Err(_), Some(lacking)) if !tokens::has_tokenizer(&spec.tokenizer_dir) => {
                lacking.tokenizer_of(&key.0, data)
            }
            (digest, _) => digest?,
        };
        self.token_digests.insert(key, digest.clone());
        Ok(digest)
    }

    /// Checks that the first document of a job's data has text, and that a batch is filled, as far as that
    /// is known without downloading or tokenising anything.
    pub(super) fn look_at_data(&mut self, job: &Job, shard: Shard) -> Result<(), CliError> {
        let config = &job.config;
        if !self.datasets.contains_key(&config.train_data()) {
            // A plan does without.
            return Ok(config.validate_batch()?);
        }
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
        let names = (ModelName::of(config), config.dataset.clone());
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

    /// What is known of the length of a job's data without downloading or tokenising all of it.
    pub(super) fn length(&mut self, config: &TrainConfig, data: &DataName) -> Option<Length> {
        let digest = self.token_digest(config, data).ok()?;
        let found = self.datasets.get(data)?;
        let ctx_len = config.ctx_len as u64;
        if let Ok(tokens) = Tokens::find(&self.cache, &digest) {
            return Some(Length::made(tokens.n_sequences() as u64));
        }
        if let Some((_, Some(n_sequences))) = self.n_sequences.get(&digest) {
            return Some(Length::made(*n_sequences));
        }
        let sample = if self.lacking.is_some() {
            self.tokens(config, data).sample(&self.digests, &digest)
        } else {
            // A run leaves text and tokenizer to its worker: whatever they do, it does not end with them.
            Sample::recall(&self.digests, &digest)
        };
        Some(match sample {
            Some(sample) => Length::sampled(sample.n_tokens / ctx_len, sample.tokens_per_s),
            None => Length::sampled(found.n_tokens_by_size()? / ctx_len, None),
        })
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

    /// The folders of a job's models, whose weights are downloaded as far as they are not in the cache.
    ///
    /// # Errors
    /// A download that fails.
    pub(crate) fn fetch_models(
        &self,
        config: &TrainConfig,
        quiet: bool,
    ) -> Result<ModelDirs, CliError> {
        let fetch = |name: ModelName| {
            let found = &self.model_called(&name).found;
            fetch_weights(found, quiet)?;
            Ok::<_, CliError>(found.dir.clone())
        };
        Ok(ModelDirs {
            first: fetch(ModelName::of(config))?,
            second: ModelName::of_second(config).map(fetch).transpose()?,
        })
    }

    /// Of a model that was looked at.
    fn model_digest(&mut self, name: &ModelName) -> Result<String, CliError> {
        let model = self.models.get_mut(name);
        let Model { found, digest, .. } = model.expect("it was just read");
        if let Some(digest) = digest {
            return Ok(digest.clone());
        }
        let read = facts::digest_model(&found.dir, found.commit(), &self.digests);
        let read = match (read, &mut self.lacking) {
            // That no file is available was said.
            (Err(_), Some(lacking)) if !found.dir.exists() => lacking.weights_of(name, None),
            (Err(error), Some(lacking)) => lacking.weights_of(name, Some(&error.into())),
            (read, _) => read?,
        };
        Ok(digest.insert(read).clone())
    }

    fn model(&mut self, config: &TrainConfig) -> Result<&Model, CliError> {
        if config.model.is_empty() {
            return Err(CliError::input("`train.model` is missing")
                .with_hint("name the folder or the Hub id of a Hugging Face model".to_owned()));
        }
        self.look_at(&ModelName::of(config), MODEL_KEYS)
    }

    /// The second model of a job with the settings `config`.
    fn look_at_second(&mut self, config: &TrainConfig) -> Result<Option<SecondModel>, CliError> {
        let Some(name) = ModelName::of_second(config) else {
            return Ok(None);
        };
        let facts = self.look_at(&name, SECOND_MODEL_KEYS)?.facts.clone();
        self.compare_models_tokenizers(config, &name)?;
        let digest = self.model_digest(&name)?;
        Ok(Some(SecondModel { facts, digest }))
    }

    /// Checks that a token means the same to both models of a job.
    fn compare_models_tokenizers(
        &mut self,
        config: &TrainConfig,
        second: &ModelName,
    ) -> Result<(), CliError> {
        let (class, names) = (
            config.tokenizer_class,
            [ModelName::of(config), second.clone()],
        );
        let compared = (names, format!("{class:?}"));
        if self.same_tokenizers.contains(&compared) {
            return Ok(());
        }
        let dirs = compared.0.each_ref();
        let dirs = dirs.map(|name| self.models[name].found.dir.as_path());
        let without = dirs.iter().position(|dir| !tokens::has_tokenizer(dir));
        if let (Some(index), Some(lacking)) = (without, &mut self.lacking) {
            lacking.tokenizer_to_compare(&compared.0[index]);
            return Ok(());
        }
        let about = |error: CliError| error.about("crosscoder_model".to_owned());
        let conflict = tokens::tokenizer_conflict(dirs, class, &self.digests);
        match conflict.map_err(|error| about(CliError::from(error)))? {
            None => {
                self.same_tokenizers.insert(compared);
                Ok(())
            }
            Some(conflict) => {
                let message = format!(
                    "the tokenizers of `model` and `crosscoder_model` differ: {conflict} (`{}` and `{}`)",
                    config.model, second.name
                );
                let hint = "both models see the same tokens: name two with one tokenizer, such as a model and \
                            what was finetuned from it";
                Err(about(CliError::input(message).with_hint(hint.to_owned())))
            }
        }
    }

    /// Finds a model and reads its config.json. A plan takes published shapes if there is no such file.
    fn find_model(
        &mut self,
        name: &ModelName,
        keys: ModelKeys,
    ) -> Result<(FoundModel, ModelConfig), CliError> {
        let hub = match self.lacking {
            Some(_) => for_shapes(&name.name),
            None => Asked::Patiently,
        };
        let search = Search {
            near: &self.near,
            shelf: &self.model_shelf,
            hub,
        };
        let found = find_model(name, keys, search);
        match (found, &mut self.lacking) {
            (Err(error), Some(lacking)) => match facts::published_config(&name.name) {
                Some(config) => {
                    lacking.files_of(name, &error);
                    let dir = self.model_shelf.join(&name.name);
                    Ok((FoundModel::without_files(dir), config))
                }
                None => {
                    let hint = error.hint().unwrap_or_default();
                    let hint = format!(
                        "{hint}; for a plan, a folder with config.json alone is enough, or the name of a model of \
                         Llama 3, Gemma 2 or 3, Qwen 3, Pythia, GPT-2 or SmolLM2"
                    );
                    Err(error.with_hint(hint))
                }
            },
            (found, _) => {
                let found = found?;
                let config = facts::read_config(&found.dir)?;
                Ok((found, config))
            }
        }
    }

    fn look_at(&mut self, name: &ModelName, keys: ModelKeys) -> Result<&Model, CliError> {
        if !self.models.contains_key(name) {
            let (found, config) = self.find_model(name, keys)?;
            let facts = Arc::new(config.facts());
            note_unknown_keys(&name.name, &facts, config.unknown_keys());
            let model = Model {
                found,
                facts,
                digest: None,
            };
            self.models.insert(name.clone(), model);
        }
        Ok(&self.models[name])
    }
}

pub(super) fn first_job<'a>(plan: &'a Plan, stream: &Stream) -> &'a Job {
    plan.job(&stream.job_ids[0])
        .expect("a stream is made of the plan's jobs")
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
        table::first_of(keys)
    ));
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
            "set `tokenizer_class = \"transformers\"` to use those of transformers"
        }
        TokenizerClass::Transformers => {
            "using those of transformers; `tokenizer_class = \"file\"` uses tokenizer.json unchanged"
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
