//! How fast earlier streams were trained, to predict the time of others.

use crate::error::StoreError;
use crate::k::StoredK;
use crate::open::Store;
use plan::{K, SaeSpec, TrainConfig};
use sqlx::FromRow;

/// Streams that are looked at, the newest.
const MOST_STREAMS: u32 = 20;

/// A stream that was trained, or a part of it.
#[derive(Clone, Debug)]
pub struct TrainedStream {
    /// Device of its worker, such as `cpu` or `cuda:0`.
    pub device: String,
    /// Host of its worker.
    pub host: String,
    /// Blocks of the model that were run.
    pub n_layers_run: usize,
    /// Tokens that went through the model.
    pub n_tokens: u64,
    /// Wall time, in ms.
    pub elapsed_ms: u64,
    /// What was trained on them: settings and sizes. Of the names only the sizes count.
    pub saes: Vec<(TrainConfig, SaeSpec)>,
}

#[derive(FromRow)]
struct AttemptSpeed {
    attempt_id: i64,
    device: String,
    host: String,
    n_layers_run: u32,
    n_tokens: i64,
    elapsed_ms: i64,
}

#[derive(FromRow)]
struct TrainedSae {
    config: String,
    d_in: u32,
    num_latents: i64,
    #[sqlx(try_from = "StoredK")]
    k: K,
}

impl Store {
    /// The newest streams that were trained on `model`, as sweeps name it, with the time that they took.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn trained_streams(&self, model: &str) -> Result<Vec<TrainedStream>, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async {
            let attempts: Vec<AttemptSpeed> = sqlx::query_as(SPEEDS)
                .bind(model)
                .bind(MOST_STREAMS)
                .fetch_all(&mut *conn)
                .await?;
            let mut streams = Vec::with_capacity(attempts.len());
            for attempt in attempts {
                let saes: Vec<TrainedSae> = sqlx::query_as(SAES)
                    .bind(attempt.attempt_id)
                    .fetch_all(&mut *conn)
                    .await?;
                streams.push(attempt.with(&saes));
            }
            Ok(streams)
        })
        .await
    }
}

const SPEEDS: &str = "
SELECT
    attempt.attempt_id,
    coalesce(attempt.device, '') AS device,
    coalesce(attempt.host, '') AS host,
    stream.n_layers_run,
    sum(progress.n_tokens) AS n_tokens,
    sum(progress.elapsed_ms) AS elapsed_ms
FROM progress
JOIN attempt USING (attempt_id)
JOIN stream USING (stream_id)
WHERE EXISTS (
    SELECT 1 FROM attempt_job JOIN job USING (job_id)
    WHERE attempt_job.attempt_id = attempt.attempt_id AND job.model = ?1
)
GROUP BY attempt.attempt_id
HAVING sum(progress.elapsed_ms) > 0
ORDER BY attempt.attempt_id DESC
LIMIT ?2";

const SAES: &str = "
SELECT job.config, sae.d_in, sae.num_latents, sae.k
FROM attempt_job JOIN job USING (job_id) JOIN sae USING (job_id)
WHERE attempt_job.attempt_id = ?";

impl AttemptSpeed {
    fn with(self, saes: &[TrainedSae]) -> TrainedStream {
        TrainedStream {
            device: self.device,
            host: self.host,
            n_layers_run: self.n_layers_run as usize,
            n_tokens: self.n_tokens.cast_unsigned(),
            elapsed_ms: self.elapsed_ms.cast_unsigned(),
            saes: saes.iter().filter_map(TrainedSae::sizes).collect(),
        }
    }
}

impl TrainedSae {
    /// `None`: settings of another version, which say nothing here.
    fn sizes(&self) -> Option<(TrainConfig, SaeSpec)> {
        let config: TrainConfig = serde_json::from_str(&self.config).ok()?;
        let spec = SaeSpec {
            name: String::new(),
            hookpoint: String::new(),
            hookpoints: Vec::new(),
            seed: 0,
            d_in: self.d_in as usize,
            d_out: None,
            num_latents: usize::try_from(self.num_latents).ok()?,
            k: self.k,
            lr: 0.0,
        };
        Some((config, spec))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Script, TestStore, plan};
    use plan::EventKind;
    use serde_json::json;

    #[tokio::test]
    async fn the_time_of_a_stream_is_known_when_a_part_of_it_was_trained() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4}), json!({"k": 2})]);
        test.record(&plan).await;
        let stream = &plan.streams[0].stream_id;
        let model = &plan.jobs[0].config.model;
        assert!(test.store.trained_streams(model).await.unwrap().is_empty());
        test.store.begin_attempt(stream, "log").await.unwrap();
        let mut script = Script::new();
        script.start(1, 0);
        for (step, n_tokens, elapsed_ms) in [(1, 300, 100), (2, 100, 50)] {
            script.push(EventKind::Progress {
                step,
                n_tokens,
                elapsed_ms,
            });
        }
        test.store.fold(stream, &script.events).await.unwrap();
        let streams = test.store.trained_streams(model).await.unwrap();
        let [trained] = &streams[..] else {
            panic!("{streams:?}")
        };
        assert_eq!((trained.n_tokens, trained.elapsed_ms), (400, 150));
        let mut k: Vec<_> = trained.saes.iter().map(|(_, sae)| sae.k.count()).collect();
        k.sort_unstable();
        assert_eq!(k, [2, 4]);
        assert!(
            test.store
                .trained_streams("another")
                .await
                .unwrap()
                .is_empty()
        );
    }
}
