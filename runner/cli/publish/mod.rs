//! `sae-run publish`: SAEs to the Hub, with proof and with a model card.

mod card;
mod circuit_tracer;
mod crosscoders;
mod layouts;
mod listed;
mod parts;
mod public;
mod saelens;
mod selection;
mod staging;
mod upload;

use crate::error::CliError;
use crate::run::past_job;
use crate::run::worker_program;
use crate::show::table::{self, count};
use crate::show::{json, progress};
use crate::sweep::config;
use crate::sweep::hub_access::{self, Asked};
use args::PublishArgs;
use card::Card;
use circuit_tracer::Set;
use hub::{Hub, Upload, UploadFile, UploadSource, Uploaded};
use indicatif::ProgressBar;
use listed::Listed;
use parts::Part;
use plan::runs_layout::DATABASE;
use plan::{Order, ProveTask, SaeForm, SaeLayout, Task};
use public::PublicJob;
use sae_files::{CIRCUIT_TRACER_CONFIG, CROSSCODER_MODEL_FILE, crosscoder_class, files_of};
use selection::Chosen;
use staging::Staging;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use store::{Publication, PublishableSae, PublishedFile, PublishedSae, Store, StoreError};

/// The model card's name in a repository.
const CARD: &str = "README.md";

/// `sae-run publish`.
///
/// # Errors
/// No such SAEs, or only ones that should not be given to others; a layout that does not hold them; what the Hub
/// refuses.
pub(crate) async fn publish(args: &PublishArgs) -> Result<u8, CliError> {
    let runs_dir = config::runs_dir(&args.store)?;
    let path = runs_dir.join(DATABASE);
    if !path.is_file() {
        return Err(StoreError::NoDatabase { path }.into());
    }
    let asked = if args.dry_run {
        Asked::Briefly
    } else {
        Asked::Patiently
    };
    let hub = hub_access::hub_asked(asked)?;
    // Not under the lock of the runs folder: a sweep may continue meanwhile. All that is written is one row for each
    // file, at the end.
    let store = Store::open(&path).await?;
    let publisher = Publisher {
        args,
        layouts: layouts::asked_for(&args.layout),
        staging: Staging::make(&runs_dir)?,
        runs_dir,
        store,
    };
    publisher.publish(&hub).await
}

/// Orders by the ids of jobs.
type Orders = HashMap<String, Order>;

/// SAEs with their jobs, as strangers may see them.
fn described(saes: Vec<PublishableSae>, orders: &Orders) -> Vec<(PublishableSae, PublicJob)> {
    let described = saes.into_iter().map(|sae| {
        let public = PublicJob::new(&sae, orders.get(&sae.result.job_id));
        (sae, public)
    });
    described.collect()
}

struct Publisher<'a> {
    args: &'a PublishArgs,
    /// Those that were asked for, each once.
    layouts: Vec<SaeLayout>,
    runs_dir: PathBuf,
    store: Store,
    staging: Staging,
}

/// A file on its way, and the SAE that it is one of.
struct Outgoing {
    file: UploadFile,
    sae: Option<(i64, SaeLayout)>,
}

impl Outgoing {
    /// A text that is of all SAEs.
    fn of_all(path: String, text: String) -> Self {
        Self {
            file: UploadFile {
                path,
                source: UploadSource::Bytes(text.into_bytes()),
            },
            sae: None,
        }
    }
}

impl Publisher<'_> {
    async fn publish(&self, hub: &Hub) -> Result<u8, CliError> {
        let args = self.args;
        let condition = args.condition.as_deref();
        let saes = self.store.publishable(&args.targets, condition).await?;
        if saes.is_empty() {
            return Err(CliError::input("no SAE fits")
                .with_hint("`sae-run ls --where SQL` shows which would".to_owned()));
        }
        let orders = self.orders(&saes).await?;
        let chosen = selection::with_folders(described(saes, &orders), args.prefix.as_deref())?;
        selection::check(&chosen, args, &self.runs_dir)?;
        let parts = self.parts(&chosen, &orders)?;
        let branch = args.revision.as_deref().unwrap_or("main");
        let published = self.store.published_in(&args.repo, branch).await?;
        parts::check_paths(&parts, &published, args)?;

        let mut outgoing = self.proven_files(&parts)?;
        outgoing.extend(self.circuit_tracer_config(&parts));
        let listed = self.with_earlier(&chosen, &parts, published).await?;
        let card = self.card(&listed)?;
        outgoing.push(Outgoing::of_all(CARD.to_owned(), card.clone()));
        let upload = self.upload(&chosen, &outgoing);
        if args.dry_run {
            let planned = upload::plan(hub, &upload, args.quiet)?;
            return if args.json {
                json::print(&upload::planned_as_json(&planned, &card))
            } else {
                table::print(&upload::shown(&planned, &card, args.include_sweep))
            };
        }
        let uploaded = upload::run(hub, &upload, args.quiet)?;
        self.record(&uploaded, &outgoing).await?;
        if args.json {
            return json::print(&upload::as_json(&uploaded));
        }
        upload::conclude(&uploaded)
    }

    /// Every SAE in each of its layouts.
    ///
    /// # Errors
    /// A layout that does not hold one of them.
    fn parts<'a>(&self, chosen: &'a [Chosen], orders: &Orders) -> Result<Vec<Part<'a>>, CliError> {
        let layouts = chosen.iter().map(|one| layouts::of(one, &self.layouts));
        let layouts: Vec<_> = layouts.collect::<Result<_, _>>()?;
        let of_set = chosen.iter().zip(&layouts);
        let of_set = of_set.filter(|(_, layouts)| layouts.contains(&SaeLayout::CircuitTracer));
        let of_set: Vec<_> = of_set.map(|(chosen, _)| chosen).collect();
        let order = of_set.first();
        let order = order.and_then(|one| orders.get(&one.sae.result.job_id));
        let facts = order.and_then(|order| facts::read_facts(&order.model_dir).ok());
        let mut forms = circuit_tracer::forms(&of_set, facts.as_ref(), &self.runs_dir)?;
        let mut parts = Vec::new();
        for (chosen, layouts) in chosen.iter().zip(&layouts) {
            parts.extend(layouts.iter().map(|layout| {
                match layout {
                    SaeLayout::Sparsify => Part::new(chosen, SaeForm::Sparsify),
                    SaeLayout::CrosscoderLearning => Part::new(chosen, SaeForm::Crosscoder),
                    SaeLayout::SaeLens => {
                        let order = orders.get(&chosen.sae.result.job_id);
                        let form = SaeForm::SaeLens(saelens::metadata(chosen, order));
                        let is_second = layouts.contains(&SaeLayout::Sparsify);
                        Part::new(chosen, form).within(is_second.then_some("saelens"))
                    }
                    SaeLayout::CircuitTracer => Part {
                        chosen,
                        form: forms
                            .remove(&chosen.sae.sae_id)
                            .expect("each of the set has one"),
                        folder: self.args.prefix.clone().unwrap_or_default(),
                    },
                }
            }));
        }
        Ok(parts)
    }

    /// Has every SAE written in every layout and read back; the files that hold them.
    fn proven_files(&self, parts: &[Part<'_>]) -> Result<Vec<Outgoing>, CliError> {
        let tasks: Vec<_> = parts.iter().map(|part| self.proof(part)).collect();
        let bar = self.bar(tasks.len() as u64);
        let report = &mut |n_done: u64, _| {
            bar.set_position(n_done);
            if let Some(part) = parts.get(n_done as usize) {
                progress::label(&bar, &part.chosen.folder);
            }
        };
        report(0, None);
        worker_program::run::<()>(&Task::Prove(tasks.clone()), report)?;
        bar.finish_and_clear();
        let mut outgoing = Vec::new();
        for (part, task) in parts.iter().zip(tasks) {
            let dir = if task.is_kept {
                task.out
            } else {
                // The checkpoint itself has this layout.
                task.dir
            };
            let mut names = files_of(&part.form);
            if part.form == SaeForm::Crosscoder && crosscoder_class(&dir).is_some() {
                names.push(CROSSCODER_MODEL_FILE.to_owned());
            }
            outgoing.extend(names.into_iter().map(|name| Outgoing {
                file: UploadFile {
                    path: part.path_of(&name),
                    source: UploadSource::File(dir.join(name)),
                },
                sae: Some((part.chosen.sae.sae_id, part.form.layout())),
            }));
        }
        Ok(outgoing)
    }

    /// An SAE that is to be written in a layout.
    fn proof(&self, part: &Part<'_>) -> ProveTask {
        let sae = &part.chosen.sae;
        let staged = self.staging.path().join(part.form.layout().name());
        ProveTask {
            dir: part.chosen.checkpoint(&self.runs_dir),
            form: part.form.clone(),
            out: staged.join(sae.sae_id.to_string()),
            // Training wrote these forms itself.
            is_kept: !matches!(part.form, SaeForm::Sparsify | SaeForm::Crosscoder),
        }
    }

    /// What circuit-tracer loads a set by, if there is one.
    fn circuit_tracer_config(&self, parts: &[Part<'_>]) -> Option<Outgoing> {
        let mut parts = parts.iter();
        let first = parts.find(|part| part.form.layout() == SaeLayout::CircuitTracer)?;
        let prefix = self.args.prefix.as_deref();
        let set = Set {
            repo: &self.args.repo,
            prefix,
            model: &first.chosen.public.model,
            form: &first.form,
        };
        let path = selection::joined([prefix, Some(CIRCUIT_TRACER_CONFIG)]);
        Some(Outgoing::of_all(path, set.config()))
    }

    /// The last orders of the workers of the SAEs' jobs, if they are still there.
    async fn orders(&self, saes: &[PublishableSae]) -> Result<Orders, CliError> {
        let job_ids: BTreeSet<_> = saes.iter().map(|sae| &sae.result.job_id).collect();
        let mut orders = Orders::new();
        for job_id in job_ids {
            let job = self.store.job(job_id).await?;
            if let Ok(order) = past_job::last_order(&self.runs_dir, &job) {
                orders.insert(job_id.clone(), order);
            }
        }
        Ok(orders)
    }

    fn bar(&self, length: u64) -> ProgressBar {
        let template = "{prefix:20!} {bar:30} {pos}/{len}, {msg}";
        let bar = progress::bar(template, self.args.quiet).with_prefix("writing and reading");
        bar.set_length(length);
        bar
    }

    /// The SAEs with those that the branch has from earlier, in the order of their folders.
    async fn with_earlier(
        &self,
        chosen: &[Chosen],
        parts: &[Part<'_>],
        published: Vec<PublishedSae>,
    ) -> Result<Vec<Listed>, CliError> {
        let now = parts.iter().map(Part::published);
        let mut places = listed::places(published.into_iter().chain(now).collect());
        let new: HashSet<_> = chosen.iter().map(|one| one.sae.sae_id).collect();
        let earlier = places.keys().copied().filter(|id| !new.contains(id));
        let earlier = self.store.publishable_by_id(&earlier.collect()).await?;
        let orders = self.orders(&earlier).await?;
        let chosen = chosen
            .iter()
            .map(|one| (one.sae.clone(), one.public.clone()));
        let all = chosen.chain(described(earlier, &orders));
        let mut all: Vec<_> = all
            .map(|(sae, public)| Listed {
                places: places.remove(&sae.sae_id).unwrap_or_default(),
                sae,
                public,
            })
            .collect();
        all.sort_by(|a, b| natord::compare(a.folder(), b.folder()));
        Ok(all)
    }

    fn card(&self, listed: &[Listed]) -> Result<String, CliError> {
        let card = Card {
            repo: &self.args.repo,
            branch: self.args.revision.as_deref(),
            license: self.args.license.as_deref(),
            saes: listed,
            runs_dir: &self.runs_dir,
            include_sweep: self.args.include_sweep,
        };
        card.render()
    }

    fn upload(&self, chosen: &[Chosen], outgoing: &[Outgoing]) -> Upload {
        let jobs: HashSet<_> = chosen
            .iter()
            .map(|chosen| &chosen.sae.result.job_id)
            .collect();
        Upload {
            repo: self.args.repo.clone(),
            branch: self.args.revision.clone(),
            private: self.args.private,
            files: outgoing
                .iter()
                .map(|outgoing| outgoing.file.clone())
                .collect(),
            title: format!(
                "Add {} of {}",
                count(chosen.len(), "SAE"),
                count(jobs.len(), "job")
            ),
            description: format!("Trained with sae-run {}.", env!("CARGO_PKG_VERSION")),
        }
    }

    async fn record(&self, uploaded: &Uploaded, outgoing: &[Outgoing]) -> Result<(), CliError> {
        let files = uploaded.files.iter().zip(outgoing);
        let files = files.map(|(file, outgoing)| PublishedFile {
            path: file.path.clone(),
            sae: outgoing.sae.map(|(sae_id, layout)| (sae_id, layout.name())),
            n_bytes: file.n_bytes,
            sha256: file.sha256.clone(),
            is_new: file.is_new,
        });
        let publication = Publication {
            repo: uploaded.repo.clone(),
            branch: uploaded.branch.clone(),
            commit: uploaded.commit.clone(),
            page: uploaded.page.clone(),
            sae_run: env!("CARGO_PKG_VERSION").to_owned(),
            files: files.collect(),
        };
        let recorded = self.store.record_publication(&publication).await;
        recorded.map_err(|error| {
            CliError::from(error).at(&format!(
                "published as {}, but not recorded",
                uploaded.commit
            ))
        })
    }
}
