//! How fast the database is: a million metric rows through `fold`, and the view `result` over a
//! thousand jobs, and what folding costs while 50 SAEs report each second. `cargo run --release -p sae-run-store --example bulk`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement for developers"
)]

use plan::{
    Event, EventKind, HookpointFacts, JobDraft, JobInputs, ModelFacts, Plan, PlanError,
    RecipeIdentity, SaeStats, TrainConfig, Vectors, group_streams, resolve_jobs,
};
use sae_run_store::Store;
use serde_json::json;
use std::path::Path;
use std::time::Instant;

const N_JOBS: usize = 1_000;
const N_REPORTS: u64 = 1_000;
/// Events in a fold.
const BATCH: usize = 5_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    many_rows().await;
    each_second().await;
}

/// A million rows at once, and how fast they are asked for.
async fn many_rows() {
    let folder = tempfile::tempdir().unwrap();
    let (store, plan) = store(folder.path(), N_JOBS).await;
    let mut n_rows = 0;
    let start = Instant::now();
    for stream in &plan.streams {
        store.begin_attempt(&stream.stream_id, "log").await.unwrap();
        let events = events(&stream.job_ids);
        for batch in events.chunks(BATCH) {
            n_rows += store.fold(&stream.stream_id, batch).await.unwrap();
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{n_rows} events in {seconds:.1} s: {:.0} rows/s",
        n_rows as f64 / seconds
    );
    for sql in [
        "SELECT * FROM result",
        "SELECT * FROM result",
        "SELECT * FROM curve WHERE job = 'k=7'",
    ] {
        let start = Instant::now();
        let n_rows = store.query(sql).await.unwrap().rows.len();
        println!(
            "{sql}: {n_rows} rows in {:.1} ms",
            1e3 * start.elapsed().as_secs_f64()
        );
    }
}

/// A fold a second, each with what 50 SAEs report.
async fn each_second() {
    let folder = tempfile::tempdir().unwrap();
    let (store, plan) = store(folder.path(), 50).await;
    let stream = &plan.streams[0];
    store.begin_attempt(&stream.stream_id, "log").await.unwrap();
    let before = cpu_seconds();
    for second in events(&stream.job_ids).chunks(51) {
        store.fold(&stream.stream_id, second).await.unwrap();
    }
    let percent = 100.0 * (cpu_seconds() - before) / N_REPORTS as f64;
    println!("50 SAEs that report each second: {percent:.2} % of a core");
}

/// A database that knows `n_jobs` jobs.
async fn store(folder: &Path, n_jobs: usize) -> (Store, Plan) {
    let store = Store::open(&folder.join("runs.db")).await.unwrap();
    let plan = plan(n_jobs);
    let (job_dir, stream_dir) = (
        |job: &plan::Job| format!("s/{}", job.folder()),
        |stream: &plan::Stream| format!("s/.streams/{}", stream.stream_id),
    );
    let recorded = store.record_plan("text", &plan, job_dir, stream_dir);
    recorded.await.unwrap();
    (store, plan)
}

/// What this process has computed so far, in seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    // User and system time, in ticks of 10 ms.
    (11..=12)
        .map(|i| fields[i].parse::<f64>().unwrap())
        .sum::<f64>()
        / 100.0
}

fn events(job_ids: &[String]) -> Vec<Event> {
    let kinds = (1..=N_REPORTS).flat_map(|step| {
        let progress = EventKind::Progress {
            step,
            n_tokens: 10,
            elapsed_ms: 1,
        };
        let metrics = job_ids.iter().map(move |job_id| metric(step, job_id));
        metrics.chain([progress])
    });
    let event = |(index, kind)| Event {
        seq: index as u64 + 1,
        time_ms: 1,
        attempt: 1,
        kind,
    };
    kinds.enumerate().map(event).collect()
}

fn metric(step: u64, job_id: &str) -> EventKind {
    EventKind::Metric {
        job_id: job_id.to_owned(),
        sae: "layers.0".into(),
        step,
        stats: SaeStats {
            n_tokens: 10,
            squared_error: 1.0,
            total_variance: 8.0,
            l0: 40.0,
            n_dead: 8,
            ..SaeStats::default()
        },
    }
}

fn plan(n_jobs: usize) -> Plan {
    let base = TrainConfig {
        model: "m".into(),
        dataset: "d".into(),
        ctx_len: 8,
        num_latents: 2_048,
        hookpoints: vec!["layers.0".into()],
        ..Default::default()
    };
    let drafts: Vec<_> = (1..=n_jobs)
        .map(|k| JobDraft {
            name: Some(format!("k={k}")),
            note: None,
            overrides: json!({"k": k}).as_object().unwrap().clone(),
        })
        .collect();
    let facts = facts();
    let inputs = JobInputs {
        facts: facts.clone().into(),
        model_digest: "m0".into(),
        second: None,
        token_digest: "t0".into(),
        eval_token_digest: None,
        finetune_digest: None,
        n_ranks: 1,
    };
    let jobs = resolve_jobs(&base, &drafts, |_| Ok::<_, PlanError>(inputs.clone())).unwrap();
    Plan {
        sweep: "s".into(),
        recipe: RecipeIdentity {
            recipe: "grid".into(),
            recipe_digest: "r0".into(),
            request_digest: "q0".into(),
            fuel: 7,
        },
        streams: group_streams(&jobs, |_| &facts, 1, None).unwrap(),
        jobs,
        rounds: Vec::new(),
    }
}

fn facts() -> ModelFacts {
    ModelFacts {
        model_type: "llama".into(),
        n_layers: 1,
        hidden_size: 8,
        vocab_size: 100,
        max_ctx_len: 64,
        embedding_params: 800,
        layer_params: 1_000,
        layer_8bit_params: 0,
        layers_name: "layers".into(),
        hookpoints: vec![HookpointFacts {
            name: "layers.0".into(),
            d_in: Some(8),
            d_out: 8,
            n_layers_needed: 1,
            vectors: Vectors::Token,
        }],
    }
}
