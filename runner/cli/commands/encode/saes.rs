//! Which SAEs are meant: a folder's, a repository's or a job's.

use crate::commands::matching::matching;
use crate::error::CliError;
use crate::run::past_job;
use crate::show::table;
use crate::sweep::config;
use crate::sweep::download;
use crate::sweep::hub_access::hub;
use crate::sweep::models::ModelName;
use args::EncodeArgs;
use plan::runs_layout::DATABASE;
use plan::{FoundSae, TrainConfig};
use sae_files::{HubSaes, TrainedOn, find_saes, trained_on};
use std::collections::BTreeSet;
use std::path::Path;
use store::Store;

/// A model, and a second one.
type ModelNames = (ModelName, Option<ModelName>);

/// SAEs that are on this machine, and what is known of their training.
pub(super) struct SaesToUse {
    pub(super) found: Vec<FoundSae>,
    /// The settings of their job, or the defaults.
    pub(super) config: TrainConfig,
    /// Where the job's worker found its models.
    models: Option<ModelNames>,
    /// What was named.
    target: String,
}

impl SaesToUse {
    /// The SAEs that the command line names; a repository's are downloaded.
    ///
    /// # Errors
    /// No such folder, repository or job, or none that matches the patterns.
    pub(super) async fn find(args: &EncodeArgs) -> Result<Self, CliError> {
        let target = &args.target;
        let in_database = config::runs_dir(&args.store)?.join(DATABASE);
        let is_repo = hub::is_repo_id(target) && (target.contains('/') || !in_database.is_file());
        let saes = match () {
            () if Path::new(target).is_dir() => Self::of_folder(target)?,
            () if is_repo => Self::of_repo(args)?,
            () => Self::of_job(target, &in_database).await?,
        };
        saes.chosen(&args::patterns(&args.hookpoints))
    }

    fn of_folder(target: &str) -> Result<Self, CliError> {
        let found = find_saes(Path::new(target))?;
        Ok(Self::without_job(target, found))
    }

    fn without_job(target: &str, found: Vec<FoundSae>) -> Self {
        Self {
            found,
            config: TrainConfig::default(),
            models: None,
            target: target.into(),
        }
    }

    fn of_repo(args: &EncodeArgs) -> Result<Self, CliError> {
        let (repo, revision) = (&args.target, args.sae_revision.as_deref());
        let hub = hub()?;
        let saes = HubSaes::list(&hub, repo, revision)?;
        if let Some(notice) = saes.notice() {
            table::note(&notice.to_string());
        }
        // If there is only one, the option says which module it is for.
        let names = match saes.names()[..] {
            [_] => saes.select(&[]),
            _ => saes.select(&args::patterns(&args.hookpoints)),
        }?;
        let found = download::shown(repo, args.quiet, |show| saes.download(&hub, &names, show))?;
        Ok(Self::without_job(repo, found))
    }

    async fn of_job(target: &str, database: &Path) -> Result<Self, CliError> {
        let store = Store::open_read_only(database).await.map_err(|error| {
            let hint = format!("`{target}` is not a folder either, nor the id of a repository");
            CliError::from(error).with_hint(hint)
        })?;
        let details = store.job(target).await;
        let details = details.map_err(|error| past_job::or_folder(error, target))?;
        let runs_dir = database.parent().unwrap_or(Path::new("."));
        let checkpoint = past_job::newest_checkpoint(&details)?;
        // Without an order, the model is looked for by its name.
        let order = past_job::last_order(runs_dir, &details).ok();
        Ok(Self {
            found: past_job::saes_at(&details, checkpoint, runs_dir),
            config: past_job::config(&details)?,
            models: order.map(|order| ModelName::of_order(&order)),
            target: target.into(),
        })
    }

    /// Those that match one of the patterns; of an only one, `patterns` names the hookpoint.
    fn chosen(mut self, patterns: &[String]) -> Result<Self, CliError> {
        if let ([only], [hookpoint]) = (&mut self.found[..], patterns) {
            only.hookpoint.clone_from(hookpoint);
            return Ok(self);
        }
        self.found = matching(self.found, &self.target, patterns)?;
        Ok(self)
    }

    /// The model that they were trained on, and the second one of crosscoders on two.
    ///
    /// # Errors
    /// It is not known, or not the same for all.
    pub(super) fn models(&self) -> Result<ModelNames, CliError> {
        if let Some(models) = &self.models {
            return Ok(models.clone());
        }
        if !self.config.model.is_empty() {
            return Ok((
                ModelName::of(&self.config),
                ModelName::of_second(&self.config),
            ));
        }
        let models: BTreeSet<_> = self.found.iter().map(trained_on).collect();
        let mut models = models.into_iter();
        match (models.next(), models.next()) {
            (Some(Some(only)), None) => Ok(names_of(&only)),
            (None | Some(None), None) => {
                let message = format!(
                    "`{}` does not say which model it was trained on",
                    self.target
                );
                Err(CliError::input(message).with_hint("name it with `--model`".to_owned()))
            }
            _ => {
                let message = format!(
                    "the SAEs of `{}` were trained on several models",
                    self.target
                );
                let hint = "choose some with `--hookpoints`, or name a model with `--model`";
                Err(CliError::input(message).with_hint(hint.to_owned()))
            }
        }
    }
}

fn names_of(trained_on: &TrainedOn) -> ModelNames {
    let TrainedOn {
        model,
        revision,
        crosscoder_model,
        crosscoder_revision,
    } = trained_on;
    (
        ModelName::typed(model, revision.as_deref()),
        ModelName::if_typed(crosscoder_model.as_deref(), crosscoder_revision.as_deref()),
    )
}
