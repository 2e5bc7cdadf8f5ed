//! `sae-run publish`: SAEs to the Hub, with proof and with a model card.

mod card;
mod layouts;
mod public;
mod saelens;
mod selection;
mod staging;
mod upload;

use crate::error::CliError;
use crate::run::past_job;
use crate::run::worker_program;
use crate::show::progress;
use crate::show::table::{self, count};
use crate::sweep::config;
use crate::sweep::hub_access;
use args::{LayoutArg, PublishArgs};
use card::Card;
use hub::{Hub, Upload, UploadFile, UploadSource, Uploaded};
use indicatif::ProgressBar;
use plan::runs_layout::DATABASE;
use plan::{Order, ProveTask, SaeLayout, SaeLensMetadata, Task};
use public::PublicJob;
use sae_files::files_of;
use selection::Chosen;
use staging::Staging;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use store::{Publication, PublishableSae, PublishedFile, Store, StoreError};

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
    let hub = hub_access::hub()?;
    // Not under the lock of the runs folder: a sweep may continue meanwhile. All that is written is one row for each
    // file, at the end.
    let store = Store::open(&path).await?;
    let publisher = Publisher {
        args,
        layouts: layouts(args),
        staging: Staging::make(&runs_dir)?,
        runs_dir,
        store,
    };
    publisher.publish(&hub).await
}

fn layouts(args: &PublishArgs) -> Vec<SaeLayout> {
    let layout = |arg: &LayoutArg| match arg {
        LayoutArg::Sparsify => SaeLayout::Sparsify,
        LayoutArg::SaeLens => SaeLayout::SaeLens,
    };
    let mut layouts: Vec<_> = args.layout.iter().map(layout).collect();
    layouts.sort_unstable();
    layouts.dedup();
    layouts
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
    /// Each once.
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
        layouts::check(&chosen, &self.layouts)?;
        let branch = args.revision.as_deref().unwrap_or("main");
        let published = self.store.published_in(&args.repo, branch).await?;
        selection::check_folders(&chosen, &published, args)?;

        let mut outgoing = self.proven_files(&chosen, &orders)?;
        let listed = self.with_earlier(&chosen, &published).await?;
        let card = self.card(&listed)?;
        outgoing.push(Outgoing {
            file: UploadFile {
                path: CARD.to_owned(),
                source: UploadSource::Bytes(card.clone().into_bytes()),
            },
            sae: None,
        });
        let upload = self.upload(&chosen, &outgoing);
        if args.dry_run {
            let planned = upload::plan(hub, &upload, args.quiet)?;
            return table::print(&upload::shown(&planned, &card, args.include_sweep));
        }
        let uploaded = upload::run(hub, &upload, args.quiet)?;
        self.record(&uploaded, &outgoing).await?;
        upload::conclude(&uploaded)
    }

    /// The folder of the repository that an SAE goes into in a layout.
    fn folder_of(&self, chosen: &Chosen, layout: SaeLayout) -> String {
        let is_second = self.layouts.len() > 1 && layout == SaeLayout::SaeLens;
        let subfolder = is_second.then_some("saelens");
        selection::joined([Some(chosen.folder.as_str()), subfolder])
    }

    /// Has every SAE written in every layout and read back; the files that hold them.
    fn proven_files(&self, chosen: &[Chosen], orders: &Orders) -> Result<Vec<Outgoing>, CliError> {
        let tasks = chosen.iter().flat_map(|chosen| {
            let layouts = self.layouts.iter();
            layouts.map(|&layout| self.proof(chosen, layout, orders))
        });
        let tasks: Vec<_> = tasks.collect();
        let bar = self.bar(tasks.len() as u64);
        let report = &mut |n_done: u64, _| {
            bar.set_position(n_done);
            if let Some(chosen) = chosen.get(n_done as usize / self.layouts.len()) {
                progress::label(&bar, &chosen.folder);
            }
        };
        report(0, None);
        worker_program::run::<()>(&Task::Prove(tasks.clone()), report)?;
        bar.finish_and_clear();
        let mut outgoing = Vec::new();
        for (index, task) in tasks.into_iter().enumerate() {
            let (chosen, layout) = (&chosen[index / self.layouts.len()], task.layout);
            let dir = if task.is_kept {
                task.out
            } else {
                // The checkpoint itself has this layout.
                task.dir
            };
            let folder = self.folder_of(chosen, layout);
            outgoing.extend(files_of(layout).map(|name| Outgoing {
                file: UploadFile {
                    path: format!("{folder}/{name}"),
                    source: UploadSource::File(dir.join(name)),
                },
                sae: Some((chosen.sae.sae_id, layout)),
            }));
        }
        Ok(outgoing)
    }

    /// An SAE that is to be written in a layout.
    fn proof(&self, chosen: &Chosen, layout: SaeLayout, orders: &Orders) -> ProveTask {
        let result = &chosen.sae.result;
        let checkpoint = result.checkpoint.as_deref().unwrap_or_default();
        let staged = self.staging.path().join(layout.name());
        ProveTask {
            dir: self.runs_dir.join(checkpoint),
            layout,
            metadata: match layout {
                SaeLayout::Sparsify => SaeLensMetadata::default(),
                SaeLayout::SaeLens => saelens::metadata(chosen, orders.get(&result.job_id)),
            },
            out: staged.join(chosen.sae.sae_id.to_string()),
            is_kept: layout != SaeLayout::Sparsify,
        }
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
        published: &BTreeMap<i64, String>,
    ) -> Result<Vec<Chosen>, CliError> {
        let new: HashSet<_> = chosen.iter().map(|chosen| chosen.sae.sae_id).collect();
        let folders: HashSet<_> = chosen.iter().map(|chosen| &chosen.folder).collect();
        let stays =
            |(sae_id, folder): &(&i64, &String)| !new.contains(sae_id) && !folders.contains(folder);
        let earlier = published
            .iter()
            .filter(stays)
            .map(|(sae_id, _)| *sae_id)
            .collect();
        let earlier = self.store.publishable_by_id(&earlier).await?;
        let orders = self.orders(&earlier).await?;
        let earlier = described(earlier, &orders).into_iter();
        let earlier = earlier.map(|(sae, public)| Chosen {
            folder: published[&sae.sae_id].clone(),
            sae,
            public,
        });
        let mut all: Vec<_> = chosen.iter().cloned().chain(earlier).collect();
        all.sort_by(|a, b| natord::compare(&a.folder, &b.folder));
        Ok(all)
    }

    fn card(&self, listed: &[Chosen]) -> Result<String, CliError> {
        let first = listed.first();
        let has = |layout| self.layouts.contains(&layout);
        let first = first.filter(|_| has(SaeLayout::SaeLens));
        let saelens = first.map(|first| self.folder_of(first, SaeLayout::SaeLens));
        let card = Card {
            repo: &self.args.repo,
            license: self.args.license.as_deref(),
            saes: listed,
            saelens: saelens.as_deref(),
            is_for_sparsify: has(SaeLayout::Sparsify),
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
