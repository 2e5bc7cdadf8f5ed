//! What the tests of this crate share: a small plan, a database in a separate folder, events.

use crate::{RecordedPlan, Store, StoreError};
use plan::{
    Event, EventKind, HookpointFacts, JobDraft, JobInputs, ModelFacts, Plan, PlanError,
    RecipeIdentity, SaeStats, TrainConfig, Vectors, digest_json, group_streams, resolve_jobs,
};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use std::path::PathBuf;
use tempfile::TempDir;

/// A database in a folder that is deleted in the end.
pub(crate) struct TestStore {
    pub(crate) store: Store,
    pub(crate) folder: TempDir,
}

impl TestStore {
    pub(crate) async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let store = Store::open(&folder.path().join("runs.db")).await.unwrap();
        Self { store, folder }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("runs.db")
    }

    pub(crate) async fn record(&self, plan: &Plan) -> RecordedPlan {
        self.record_text("text", plan).await.unwrap()
    }

    pub(crate) async fn record_text(
        &self,
        text: &str,
        plan: &Plan,
    ) -> Result<RecordedPlan, StoreError> {
        let job_dir = |job: &plan::Job| format!("{}/{}", plan.sweep, job.folder());
        let stream_dir =
            |stream: &plan::Stream| format!("{}/.streams/{}", plan.sweep, stream.stream_id);
        self.store
            .record_plan(text, plan, job_dir, stream_dir)
            .await
    }

    /// Runs SQL on the writing connection, besides the crate's own functions.
    pub(crate) async fn execute(&self, sql: &str) -> Result<u64, StoreError> {
        let mut conn = self.store.acquire().await?;
        let done = sqlx::query(AssertSqlSafe(sql.to_owned()))
            .execute(&mut *conn)
            .await;
        let done = done.map_err(|error| StoreError::from_sqlx(self.store.path(), error))?;
        Ok(done.rows_affected())
    }

    /// The rows of a query.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<Vec<Value>> {
        self.store.query(sql).await.unwrap().rows
    }

    /// All rows of all tables that folding writes.
    pub(crate) async fn dump(&self) -> Vec<Vec<Vec<Value>>> {
        let mut dump = Vec::new();
        for table in [
            "sweep",
            "job",
            "sweep_job",
            "sae",
            "stream",
            "stream_job",
            "attempt",
            "attempt_job",
            "metric",
            "progress",
            "checkpoint",
            "calibration",
            "evaluation",
        ] {
            dump.push(
                self.rows(&format!("SELECT * FROM {table} ORDER BY 1, 2"))
                    .await,
            );
        }
        dump
    }

    pub(crate) async fn status(&self, job_id: &str) -> String {
        self.store.job(job_id).await.unwrap().status.to_string()
    }
}

/// A model of two blocks of width 8.
pub(crate) fn facts() -> ModelFacts {
    let block = |layer: usize| HookpointFacts {
        name: format!("layers.{layer}"),
        d_in: Some(8),
        d_out: 8,
        n_layers_needed: layer + 1,
        vectors: Vectors::Token,
    };
    ModelFacts {
        model_type: "llama".into(),
        n_layers: 2,
        hidden_size: 8,
        vocab_size: 100,
        max_ctx_len: 64,
        embedding_params: 800,
        layer_params: 1000,
        layer_8bit_params: 0,
        layers_name: "layers".into(),
        hookpoints: (0..2).map(block).collect(),
    }
}

/// A plan with one job per object of overrides, each job named by its overrides.
pub(crate) fn plan(sweep: &str, overrides: &[Value]) -> Plan {
    let base = TrainConfig {
        model: "m".into(),
        dataset: "d".into(),
        ctx_len: 8,
        num_latents: 32,
        hookpoints: vec!["layers.0".into()],
        ..Default::default()
    };
    let draft = |value: &Value| JobDraft {
        name: Some(value.to_string()),
        note: None,
        overrides: value.as_object().unwrap().clone(),
    };
    let drafts: Vec<_> = overrides.iter().map(draft).collect();
    let inputs = JobInputs {
        facts: facts().into(),
        model_digest: "m0".into(),
        second: None,
        token_digest: "t0".into(),
        eval_token_digest: None,
        finetune_digest: None,
        n_ranks: 1,
    };
    let jobs = resolve_jobs(&base, &drafts, |_| Ok::<_, PlanError>(inputs.clone())).unwrap();
    let facts = facts();
    Plan {
        sweep: sweep.into(),
        recipe: RecipeIdentity {
            recipe: "grid".into(),
            recipe_digest: "r0".into(),
            request_digest: digest_json(&overrides),
            fuel: 7,
        },
        streams: group_streams(&jobs, |_| &facts, 1, None).unwrap(),
        jobs,
        rounds: Vec::new(),
    }
}

/// Writes events as a worker does.
pub(crate) struct Script {
    pub(crate) attempt: u32,
    pub(crate) events: Vec<Event>,
}

impl Script {
    pub(crate) fn new() -> Self {
        Self {
            attempt: 1,
            events: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, kind: EventKind) -> &mut Self {
        let seq = self.events.len() as u64 + 1;
        self.events.push(Event {
            seq,
            time_ms: 1000 + seq as i64,
            attempt: self.attempt,
            kind,
        });
        self
    }

    pub(crate) fn start(&mut self, attempt: u32, first_step: u64) -> &mut Self {
        self.attempt = attempt;
        self.push(EventKind::Started {
            device: "cpu".into(),
            libtorch: "2.13.0".into(),
            pid: 40 + attempt,
            host: "here".into(),
        });
        self.push(EventKind::Ready {
            first_step,
            n_steps: 20,
            tokens_per_step: 10,
        })
    }

    /// Metrics of the job's SAE at `layers.0`.
    pub(crate) fn metric(&mut self, job_id: &str, step: u64, stats: SaeStats) -> &mut Self {
        self.push(EventKind::Metric {
            job_id: job_id.into(),
            sae: "layers.0".into(),
            step,
            stats,
        })
    }

    pub(crate) fn checkpoint(&mut self, job_id: &str, step: u64, is_final: bool) -> &mut Self {
        self.push(EventKind::Checkpoint {
            job_id: job_id.into(),
            step,
            path: format!("s/{job_id}"),
            is_final,
        })
    }
}

/// Sums of 10 tokens with this squared error, a total variance of 8 and 40 active latents.
pub(crate) fn stats(squared_error: f64) -> SaeStats {
    SaeStats {
        n_tokens: 10,
        squared_error,
        total_variance: 8.0,
        l0: 40.0,
        n_dead: 8,
        ..SaeStats::default()
    }
}
